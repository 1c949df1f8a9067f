//! A training that was broken off and started again ends with the same bits as one that nobody broke off.

use crate::{
    classifier,
    common::{BOTH, Check, On, Suite, weights},
    digits, numbers,
};
use downhill::{
    Checkpoints, Device, Error, Fit, Result, StepReport, Trainer,
    callbacks::{CsvLogger, EarlyStopping, ModelCheckpoint, Monitor, ReduceLROnPlateau, TerminateOnNaN, ThresholdMode},
    data::Augment,
    optim::{Adam, Schedule, Sgd},
    train::{Callback, Run},
};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, SystemTime},
};

pub fn trials(suite: &mut Suite) {
    suite.test("a process that is killed while it trains", killed);
    suite.each(&BOTH, "a training that is broken off at any step", broken);
    suite.each(&BOTH, "the files that are kept", kept);
    suite.on(On::Gpu, "checkpoints wait for the steps before them alone", waits);
    suite.on(On::Cpu, "checkpoints that do not fit", mistakes);
}

/// The folder in which a child of these tests trains.
const JOB: &str = "DOWNHILL_CONTROL_JOB";

/// Trains, where this process is a child of one of the tests.
pub fn child() -> Option<ExitCode> {
    let folder = env::var(JOB).ok()?;
    let folder = Path::new(&folder);
    let done = || -> Check {
        println!("ready");
        std::io::stdout().flush()?;
        let text = train(&Device::cpu(), folder, 3, None)?;
        Ok(fs::write(folder.join("result"), text)?)
    };
    Some(done().map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    ))
}

/// Ends the training with an error after a step.
struct Break(u64);

impl Callback for Break {
    fn every(&self) -> Option<u64> {
        Some(self.0)
    }
    fn on_step_end(&mut self, _: &mut Run, _: &StepReport) -> Result<()> {
        Err(Error::Argument { what: "break".into(), why: "here".into() })
    }
}

/// Trains from the latest checkpoint in a folder to the end, or to the step `to`. Returns all that must be the same, as text.
fn train(device: &Device, folder: &Path, every: u64, to: Option<u64>) -> Result<String> {
    let (data, test) = (digits(90), digits(120));
    let mut trainer = classifier(device, Adam::new(0.01).schedule(Schedule::warmup(20)).clip_norm(1.0))?.seed(3)?;
    let mut early = EarlyStopping::new(Monitor::ValLoss).patience(9).restore_best_weights(true);
    let mut guard = TerminateOnNaN::new().recover(2, 0.5).every(7);
    let fit = Fit::new()
        .epochs(10)
        .batch_size(12)
        .micro_batch(5)
        .augment(Augment { horizontal_flip: 0.5, crop_padding: 1, ..Augment::default() })
        .validation(&test)
        .checkpoints(Checkpoints::new(folder.join("checkpoints")).every_steps(every).keep(2))
        .resume(folder.join("checkpoints"))
        .with(&mut early)
        .with(ReduceLROnPlateau::new(Monitor::Loss).patience(0).threshold(0.05, ThresholdMode::Abs).factor(0.7).cooldown(1))
        .with(&mut guard)
        .with(ModelCheckpoint::new(folder.join("best")).save_best_only(Monitor::ValLoss))
        .with(CsvLogger::new(folder.join("log.csv")));
    let history = match to {
        Some(step) => trainer.fit(&data, fit.with(Break(step)))?,
        None => trainer.fit(&data, fit)?,
    };
    let mut best = classifier(device, Adam::new(0.01))?;
    best.load(folder.join("best"))?;
    let log = fs::read_to_string(folder.join("log.csv")).unwrap_or_default();
    // The last column is the time.
    let rows: Vec<&str> = log.lines().filter_map(|line| line.rsplit_once(',')).map(|(row, _)| row).collect();
    Ok(format!(
        "{:?} {} {} {:?} {:?} {} {:?} {:?} {rows:?}",
        numbers(&history),
        history.stopped,
        trainer.steps(),
        trainer.lr(),
        early.best(),
        guard.recoveries(),
        weights(&trainer)?,
        weights(&best)?,
    ))
}

fn killed() -> Check {
    let (whole, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let want = train(&Device::cpu(), whole.path(), 1000, None)?;
    let kills: u32 = env::var("DOWNHILL_KILLS").map_or(Ok(30), |text| text.parse())?;
    let (mut within, mut ends) = (0, 0);
    for k in 0..=kills {
        let mut child = Command::new(env::current_exe()?).env(JOB, folder.path()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
        assert_eq!(line, "ready\n");
        // At moments that nobody chose; the last one is left alone.
        if k < kills {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            thread::sleep(Duration::from_micros(u64::from(now.subsec_nanos() / 7) % 120_000));
            child.kill()?;
        }
        child.wait()?;
        let result = folder.path().join("result");
        if result.exists() {
            // The file is not written at once, so that it may be a part.
            let got = fs::read_to_string(&result)?;
            assert!(got == want || k < kills && want.starts_with(&got), "kill {k}: {got}\ninstead of\n{want}");
            ends += u32::from(got == want);
            fs::remove_dir_all(folder.path())?;
            fs::create_dir(folder.path())?;
        } else if folder.path().join("checkpoints").read_dir().is_ok_and(|mut files| files.next().is_some()) {
            within += 1;
        }
    }
    assert!(within > 0 && ends > 0, "{within} kills left a checkpoint, {ends} trainings came to their end");
    Ok(())
}

fn broken(device: &Device) -> Check {
    let whole = tempfile::tempdir()?;
    let want = train(device, whole.path(), 1000, None)?;
    let folder = tempfile::tempdir()?;
    // 8 steps an epoch. Each time it is broken off at the next multiple of a step, between two checkpoints or at one.
    for step in [2, 7, 8, 9, 23, 24, 41] {
        let error = train(device, folder.path(), 3, Some(step)).expect_err("it is broken off");
        assert!(matches!(&error, Error::Argument { what, .. } if what == "break"), "{error}");
    }
    assert_eq!(train(device, folder.path(), 3, None)?, want);
    // Once more at the end, nothing is left to do.
    assert_eq!(train(device, folder.path(), 3, None)?, want);
    Ok(())
}

fn small(device: &Device) -> Result<Trainer> {
    classifier(device, Sgd::new(0.1).momentum(0.9))
}

fn kept(device: &Device) -> Check {
    let (folder, data) = (tempfile::tempdir()?, digits(60));
    let at = |k: u64| folder.path().join(format!("checkpoint-{k:08}.safetensors"));
    let mut trainer = small(device)?;
    let fit = |wants: Checkpoints| Fit::new().epochs(2).batch_size(10).steps_per_submit(4).checkpoints(wants);
    trainer.fit(&data, fit(Checkpoints::new(folder.path()).every_steps(5).keep(2)))?;
    // After steps 5 and 10, and at the end.
    assert_eq!([1, 2, 3, 4].map(|k| at(k).exists()), [false, true, true, false]);
    // Each is a checkpoint of the trainer as well, with the bits of that step.
    let mut loaded = small(device)?;
    loaded.load(at(3))?;
    assert_eq!((loaded.steps(), weights(&loaded)?), (12, weights(&trainer)?));
    loaded.load(at(2))?;
    let mut ten = small(device)?;
    let stop = |event: &downhill::Event| match event {
        downhill::Event::Step { epoch: 2, step: 4, .. } => std::ops::ControlFlow::Break(()),
        _ => std::ops::ControlFlow::Continue(()),
    };
    ten.fit(&data, Fit::new().epochs(2).batch_size(10).callback(stop))?;
    assert_eq!((loaded.steps(), weights(&loaded)?), (10, weights(&ten)?));
    // By time: after each step.
    let other = tempfile::tempdir()?;
    small(device)?.fit(&data, fit(Checkpoints::new(other.path()).every(Duration::ZERO).keep(100)))?;
    assert_eq!(other.path().read_dir()?.count(), 13);
    Ok(())
}

fn waits(device: &Device) -> Check {
    let (folder, data) = (tempfile::tempdir()?, digits(160));
    let mut trainer = small(device)?;
    let fit = || Fit::new().batch_size(4).steps_per_submit(8);
    trainer.fit(&data, fit())?;
    let before = trainer.counters().expect("a GPU");
    trainer.fit(&data, fit().checkpoints(Checkpoints::new(folder.path()).every_steps(20)))?;
    let after = trainer.counters().expect("a GPU");
    // 40 steps with a checkpoint in the middle and one at the end of the epoch: one read for each, and none for the rest.
    assert!(after.reads - before.reads <= 3 && after.waits - before.waits <= 3, "{before:?} {after:?}");
    Ok(())
}

fn mistakes(device: &Device) -> Check {
    let (folder, data) = (tempfile::tempdir()?, digits(60));
    let path = folder.path();
    let fit = || Fit::new().batch_size(10);
    small(device)?.fit(&data, fit().checkpoints(Checkpoints::new(path)))?;
    let error = |trainer: Result<Trainer>, fit: Fit, data| trainer.and_then(|mut t| t.fit(data, fit)).expect_err("a mistake").to_string();
    let text = error(small(device), fit().checkpoints(Checkpoints::new(path)), &data);
    assert!(text.contains("has checkpoints; go on from them with Fit::resume, or use another folder"), "{text}");
    let text = error(small(device), Fit::new().batch_size(20).resume(path), &data);
    assert!(text.contains("its training had 6 steps of 10 over 60 samples shuffled, but this one has 3 steps of 20 over"), "{text}");
    let text = error(classifier(device, Adam::new(0.1)), fit().resume(path), &data);
    assert!(text.contains("a checkpoint of Sgd, but this trainer uses Adam"), "{text}");
    let text = error(small(device), fit().checkpoints(Checkpoints::new(path.join("a")).every_steps(0)), &data);
    assert!(text.contains("every_steps must be at least 1"), "{text}");
    let mut plain = small(device)?;
    plain.save(path.join("plain"))?;
    let text = error(small(device), fit().resume(path.join("plain")), &data);
    assert!(text.contains("it has no place in a training; Trainer::load takes it"), "{text}");
    // A file that is damaged is an error, not a panic.
    let good = fs::read(path.join("checkpoint-00000001.safetensors"))?;
    fs::write(path.join("plain"), &good[..good.len() / 2])?;
    let text = error(small(device), fit().resume(path.join("plain")), &data);
    assert!(text.contains("not a safetensors file"), "{text}");
    // A folder that is not there begins at the beginning.
    assert_eq!(plain.fit(&data, fit().resume(path.join("none")))?.epochs.len(), 1);
    Ok(())
}
