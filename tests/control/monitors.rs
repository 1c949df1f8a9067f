//! Watched numbers in the ready callbacks, in tables and in the progress; the callbacks of a training that resumes.

use crate::{
    common::{BOTH, Check, On, Suite, weights},
    digits,
};
use downhill::{
    Checkpoints, Device, Error, Fit, Outputs, Result, Trainer,
    callbacks::{CsvLogger, EarlyStopping, ModelCheckpoint, Monitor, ReduceLROnPlateau, TerminateOnNaN},
    data::{Dataset, Field},
    init::Init,
    optim::{Adam, Sgd},
    train::{Callback, Progress, Run},
};
use std::{cell::RefCell, ops::ControlFlow, path::Path};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "callbacks watch any number", watched);
    suite.on(On::Cpu, "names that are not there", names);
    suite.each(&BOTH, "progress as events", events);
    suite.on(On::Cpu, "the callbacks of a training that resumes", resumed);
    suite.each(&BOTH, "a memory limit counts the copy of a checkpoint", copies);
}

/// Sets the parameter `w` before each validation.
struct Play(Vec<f32>);

impl Callback for Play {
    fn on_evaluate_begin(&mut self, run: &mut Run) -> Result<()> {
        run.params().set("w", &downhill::Host::new([1], vec![self.0[run.epoch() - 1]]))
    }
}

/// A model whose loss is w², and that reports |w| as `size`, −|w| as `less, "quoted"`, and a number with the name of a number that
/// every training has.
fn played(device: &Device) -> Result<(Trainer, Dataset)> {
    let data = Dataset::of([Field::floats("x", [1], vec![1.0; 4])])?;
    let trainer = Trainer::for_batches(
        device,
        &data,
        |b| {
            let w = b["x"] * b.graph().param("w", [1], Init::Ones);
            let size = w.abs().mean_all();
            Outputs::from(w.square().mean_all()).watch("size", size).watch("less, \"quoted\"", -size).watch("accuracy", size * 10.0)
        },
        Sgd::new(1e-6),
    )?;
    Ok((trainer, data))
}

fn watched(device: &Device) -> Check {
    let sizes = vec![5.0, 3.0, 3.5, 4.0, 2.0, 6.0];
    let less = "val_less, \"quoted\"";
    // The number, the epoch after which two epochs in a row are no better, and the best number until then.
    for (monitor, epochs, best) in [
        (Monitor::min("val_size"), 4, 3.0f32),
        (Monitor::max(less), 4, -3.0),
        (Monitor::max("val_size"), 3, 5.0),
        (Monitor::ValLoss, 4, 9.0),
        (Monitor::min("val_loss"), 4, 9.0),
        // The model's own number comes first.
        (Monitor::min("val_accuracy"), 4, 30.0),
        // In the first epoch w is 1, and then it is near that of the epoch before.
        (Monitor::min("size"), 3, 1.0),
        (Monitor::max("size"), 4, 5.0),
    ] {
        let (mut trainer, data) = played(device)?;
        let mut early = EarlyStopping::new(monitor.clone()).patience(2);
        let fit = Fit::new().epochs(6).batch_size(4).validation(&data).with(Play(sizes.clone())).with(&mut early);
        let history = trainer.fit(&data, fit)?;
        assert_eq!((history.epochs.len(), history.stopped), (epochs, true), "{monitor:?}");
        let found = early.best().ok_or("no best")?;
        assert!((found - f64::from(best)).abs() < 1e-3, "{monitor:?} {found}");
    }
    let (mut trainer, data) = played(device)?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    trainer.set_lr(0.5)?;
    let fit = Fit::new()
        .epochs(6)
        .validation(&data)
        .with(Play(sizes.clone()))
        .with(ReduceLROnPlateau::new(Monitor::max(less)).factor(0.5).patience(1))
        .with(ModelCheckpoint::new(at("best")).save_best_only(Monitor::min("val_size")))
        .with(CsvLogger::new(at("log.csv")));
    let history = trainer.fit(&data, fit)?;
    assert_eq!(history.epochs.iter().map(|e| e.lr).collect::<Vec<_>>(), [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]);
    trainer.load(at("best"))?;
    assert_eq!(trainer.params().get("w")?.f(), [2.0]);
    // The table has all numbers, and other programs can read it.
    let table = downhill::data::Csv::new(at("log.csv")).header().skip("accuracy").skip("val_accuracy");
    let text = std::fs::read_to_string(at("log.csv"))?;
    let header = "epoch,loss,accuracy,val_loss,val_accuracy,size,val_size,\"less, \"\"quoted\"\"\",\"val_less, \"\"quoted\"\"\",accuracy,\
                  val_accuracy,lr,seconds";
    assert_eq!(text.lines().next(), Some(header));
    assert!(table.columns().is_err(), "two columns have one name");
    for (line, (e, size)) in text.lines().skip(1).zip(history.epochs.iter().zip(&sizes)) {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[6].parse::<f32>()?, *size);
        assert_eq!(fields[5].parse::<f64>()?, *e.watched.get("size")?);
        assert_eq!((fields[7].parse::<f64>()?, fields[8].parse::<f32>()?), (*e.watched.get("less, \"quoted\"")?, -size));
    }
    Ok(())
}

fn names(device: &Device) -> Check {
    let (mut trainer, data) = played(device)?;
    let mut error = |fit: Fit| {
        let mut steps = 0;
        let fit = fit.callback(|_| {
            steps += 1;
            ControlFlow::Continue(())
        });
        let text = trainer.fit(&data, fit).expect_err("a mistake").to_string();
        (text, steps)
    };
    // A name that is not there is an error before the first step.
    let known = "there are loss, accuracy, val_loss, val_accuracy, size, val_size, less, \"quoted\", val_less, \"quoted\", accuracy, \
                 val_accuracy";
    let want = |who: &str| (format!("{who}: it watches `sise`, which is no number of this training; {known}"), 0);
    assert_eq!(error(Fit::new().with(EarlyStopping::new(Monitor::min("sise")))), want("EarlyStopping"));
    assert_eq!(error(Fit::new().with(ModelCheckpoint::new("x").save_best_only(Monitor::max("sise")))), want("ModelCheckpoint"));
    assert_eq!(error(Fit::new().with(ReduceLROnPlateau::new(Monitor::max("sise")))), want("ReduceLROnPlateau"));
    let (text, _) = error(Fit::new().with(EarlyStopping::new(Monitor::min("val_size"))));
    assert_eq!(text, "EarlyStopping: it watches `val_size`, but there is no validation data; set Fit::validation");
    Ok(())
}

thread_local!(static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });

struct Told;

impl log::Log for Told {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }
    fn log(&self, record: &log::Record) {
        if record.target() == "downhill::fit" {
            TOLD.with_borrow_mut(|told| told.push(format!("{} {}", record.level(), record.args())));
        }
    }
    fn flush(&self) {}
}

fn events(device: &Device) -> Check {
    // The second trial finds the logger of the first.
    let _ = log::set_logger(&Told);
    log::set_max_level(log::LevelFilter::Info);
    let (mut trainer, data) = played(device)?;
    let fit = |progress: Progress| Fit::new().epochs(2).validation(&data).progress(progress);
    trainer.fit(&data, fit(Progress::Off))?;
    assert!(TOLD.take().is_empty());
    let history = trainer.fit(&data, fit(Progress::Log))?;
    let told = TOLD.take();
    assert_eq!(told.len(), 2, "{told:?}");
    for (k, (line, e)) in told.iter().zip(&history.epochs).enumerate() {
        let (size, val) = (e.watched.get("size")?, e.validation_watched.get("size")?);
        let want = format!("INFO epoch   {}/2  loss {:.4}  size {size:.4}", k + 1, e.loss);
        assert!(line.starts_with(&want), "{line} instead of {want}");
        let want = format!("validation: loss {:.4}  size {val:.4}", e.validation.ok_or("no validation")?.0);
        assert!(line.contains(&want), "{line} instead of {want}");
        assert!(line.contains(" samples/s  ") && line.contains(" s left  ") && line.ends_with("iB"), "{line}");
    }
    // The numbers are those of a training without progress.
    let make = || -> Result<_> {
        let (mut trainer, data) = played(device)?;
        trainer.set_lr(0.1)?;
        Ok((trainer, data))
    };
    let ((mut a, data), (mut b, _)) = (make()?, make()?);
    a.fit(&data, Fit::new().epochs(3).batch_size(2).progress(Progress::Log))?;
    b.fit(&data, Fit::new().epochs(3).batch_size(2))?;
    assert_eq!(weights(&a)?, weights(&b)?);
    TOLD.take();
    Ok(())
}

/// A callback with a state, and one without.
struct Counts(u64);
struct Nothing;

impl Callback for Counts {
    fn on_epoch_end(&mut self, _: &mut Run, _: &downhill::Epoch) -> Result<()> {
        self.0 += 1;
        Ok(())
    }
    fn save(&self) -> downhill::train::Saved {
        let mut saved = downhill::train::Saved::default();
        saved.set("count", self.0);
        saved
    }
    fn load(&mut self, saved: &downhill::train::Saved) -> Result<()> {
        self.0 = saved.get("count")?;
        Ok(())
    }
}

impl Callback for Nothing {}

fn resumed(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = folder.path().join("checkpoints");
    let early = || EarlyStopping::new(Monitor::Loss).patience(99);
    let run = |fit: Fit, path: &Path| -> Result<()> {
        let (mut trainer, data) = played(device)?;
        trainer.fit(&data, fit.epochs(3).resume(path)).map(|_| ())
    };
    let first = Fit::new().epochs(2).checkpoints(Checkpoints::new(&at)).with(early()).with(Nothing).with(Counts(0));
    let (mut trainer, data) = played(device)?;
    trainer.fit(&data, first)?;
    assert_eq!(Counts(0).name(), "Counts");
    assert_eq!(Callback::name(&&mut early()), "EarlyStopping of loss");
    // The same ones. Those without a state may come, go and move.
    let mut counts = Counts(0);
    run(Fit::new().with(early()).with(Nothing).with(&mut counts), &at)?;
    assert_eq!(counts.0, 3);
    let mut counts = Counts(0);
    run(Fit::new().with(Nothing).with(Nothing).with(early()).with(&mut counts).with(CsvLogger::new(folder.path().join("log"))), &at)?;
    assert_eq!(counts.0, 3);
    for (fit, is) in [
        (Fit::new().with(Counts(0)).with(early()), "Counts, EarlyStopping of loss"),
        (Fit::new().with(early()), "EarlyStopping of loss"),
        (Fit::new().with(early()).with(Counts(0)).with(Counts(0)), "EarlyStopping of loss, Counts, Counts"),
        (Fit::new().with(early()).with(TerminateOnNaN::new()).with(Counts(0)), "EarlyStopping of loss, TerminateOnNaN, Counts"),
        (Fit::new().with(EarlyStopping::new(Monitor::min("size"))).with(Counts(0)), "EarlyStopping of size, Counts"),
        (Fit::new(), "no callback with a state"),
    ] {
        let e = run(fit, &at).unwrap_err();
        let want = format!(
            "its training had the callbacks EarlyStopping of loss, Counts, but this one has {is}; add the same callbacks in the same order"
        );
        assert!(matches!(e, Error::Format { .. }) && e.to_string().ends_with(&want), "{e} instead of {want}");
    }
    // A file that a callback wrote has no states.
    let each = folder.path().join("each");
    let (mut trainer, data) = played(device)?;
    trainer.fit(&data, Fit::new().epochs(2).with(ModelCheckpoint::new(&each)).with(Counts(0)))?;
    let mut counts = Counts(7);
    run(Fit::new().with(&mut counts), &each)?;
    assert_eq!(counts.0, 8);
    Ok(())
}

/// A limit that training fits into exactly is too small with checkpoints: the copy of parameters and both states of Adam is 3/5 more
/// than them and their gradients.
fn copies(device: &Device) -> Check {
    let data = digits(40);
    let make = || {
        Trainer::for_data(
            device,
            &data,
            |x| x.flatten().linear("fc1", 64).relu().linear("fc2", 10),
            |x, y| x.cross_entropy(y),
            Adam::new(0.01),
        )
    };
    let fits = |bytes: u64, checkpoints: bool| -> Result<Option<usize>> {
        let folder = tempfile::tempdir().expect("there is a folder for temporary files");
        let fit = Fit::new().batch_size(40).resident(0).memory(bytes);
        let fit = if checkpoints { fit.checkpoints(Checkpoints::new(folder.path())) } else { fit };
        make()?.fit(&data, fit).map(|history| history.micro_batch)
    };
    let least = |checkpoints: bool| -> Result<u64> {
        let (mut low, mut high) = (1 << 10, 16 << 20);
        assert_eq!(fits(high, checkpoints)?, None);
        while high - low > 1 {
            let middle = (low + high) / 2;
            // Whole batches fit.
            if matches!(fits(middle, checkpoints), Ok(None)) { high = middle } else { low = middle }
        }
        Ok(high)
    };
    // Ranges are multiples of 64 numbers.
    let elements = 64 * 64 + 64 + 64 * 10 + 64;
    assert_eq!(least(true)? - least(false)?, 3 * 4 * elements);
    let e = fits(4 * 6 * elements, true).unwrap_err().to_string();
    assert!(e.contains("states of the optimizer and the copy of a checkpoint take"), "{e}");
    Ok(())
}
