//! Callbacks are called in their order and at the places they name, and what they do with the handle counts from the next step on.

use crate::{
    classifier,
    common::{BOTH, Check, On, Suite, weights},
    digits, numbers,
};
use downhill::{
    Device, Epoch, Error, Evaluation, Event, Fit, Host, Result, StepReport, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, Schedule, Sgd},
    train::{Callback, Run, Saved},
};
use std::{cell::RefCell, ops::ControlFlow, rc::Rc};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "the order of calls", order);
    suite.each(&BOTH, "a rate that is set between steps", rates);
    suite.each(&BOTH, "an evaluation between steps", evaluations);
    suite.each(&BOTH, "a snapshot between steps is gone back to", back);
    suite.each(&BOTH, "training that goes on after a step that is not finite", goes_on);
    suite.each(&BOTH, "a callback ends the training", ends);
    suite.each(&BOTH, "histories go on", append);
    suite.on(On::Gpu, "callbacks cost the waits that they ask for", waits);
    suite.on(On::Cpu, "the error of a callback ends the training", fails);
}

type Log = Rc<RefCell<Vec<String>>>;

/// Writes down its calls.
struct Hear(Log, Option<u64>);

impl Hear {
    fn add(&self, what: &str, run: &Run) -> Result<()> {
        let text = format!("{what} {}/{} {}/{} {}", run.epoch(), run.epochs(), run.step(), run.steps(), run.history().epochs.len());
        self.0.borrow_mut().push(text);
        Ok(())
    }
}

impl Callback for Hear {
    fn on_train_begin(&mut self, run: &mut Run) -> Result<()> {
        self.add("train", run)
    }
    fn on_train_end(&mut self, run: &mut Run) -> Result<()> {
        self.add("end", run)
    }
    fn on_epoch_begin(&mut self, run: &mut Run) -> Result<()> {
        self.add("epoch", run)
    }
    fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> Result<()> {
        assert_eq!(run.history().epochs.last(), Some(epoch));
        self.add("epoch end", run)
    }
    fn every(&self) -> Option<u64> {
        self.1
    }
    fn on_step_begin(&mut self, run: &mut Run) -> Result<()> {
        self.add("step", run)
    }
    fn on_step_end(&mut self, run: &mut Run, report: &StepReport) -> Result<()> {
        assert_eq!(report.step + 1, run.total_steps());
        self.add("step end", run)
    }
    fn on_evaluate_begin(&mut self, run: &mut Run) -> Result<()> {
        self.add("evaluate", run)
    }
    fn on_evaluate_end(&mut self, run: &mut Run, evaluation: &Evaluation) -> Result<()> {
        assert!(evaluation.loss.is_finite());
        self.add("evaluate end", run)
    }
}

fn order(device: &Device) -> Check {
    let (data, log) = (digits(40), Log::default());
    let mut trainer = classifier(device, Sgd::new(0.1))?;
    let fit = Fit::new().epochs(2).batch_size(16).accumulate(1).micro_batch(10).validation(&data);
    let history = trainer.fit(
        &data,
        fit.with(Hear(log.clone(), Some(2))).callback(|event| {
            if let Event::Epoch(e) = event {
                log.borrow_mut().push(format!("closure {}", e.epoch));
            }
            ControlFlow::Continue(())
        }),
    )?;
    assert_eq!(
        *log.borrow(),
        [
            "train 0/2 0/3 0",
            "epoch 1/2 0/3 0",
            "step 1/2 1/3 0",
            "step end 1/2 2/3 0",
            "evaluate 1/2 0/3 0",
            "evaluate end 1/2 0/3 0",
            "epoch end 1/2 0/3 1",
            "closure 1",
            "epoch 2/2 0/3 1",
            "step 2/2 0/3 1",
            "step end 2/2 1/3 1",
            "step 2/2 2/3 1",
            "step end 2/2 3/3 1",
            "evaluate 2/2 0/3 1",
            "evaluate end 2/2 0/3 1",
            "epoch end 2/2 0/3 2",
            "closure 2",
            "end 2/2 0/3 2",
        ]
    );
    // Callbacks that only listen change no bit.
    let mut quiet = classifier(device, Sgd::new(0.1))?;
    let same = quiet.fit(&data, Fit::new().epochs(2).batch_size(16).accumulate(1).micro_batch(10).validation(&data))?;
    assert_eq!((numbers(&history), weights(&trainer)?), (numbers(&same), weights(&quiet)?));
    Ok(())
}

/// A closure that is called after each `.0`-th step.
struct Each<F>(u64, F);

impl<F: FnMut(&mut Run) -> Result<()>> Callback for Each<F> {
    fn every(&self) -> Option<u64> {
        Some(self.0)
    }
    fn on_step_end(&mut self, run: &mut Run, _: &StepReport) -> Result<()> {
        (self.1)(run)
    }
}

fn rates(device: &Device) -> Check {
    let data = digits(60);
    let rate = |step: u64| 0.2 / (step / 2 + 1) as f64;
    let mut trainer = classifier(device, Sgd::new(0.2))?;
    let set = Each(2, |run: &mut Run| run.set_lr(rate(run.total_steps())));
    let history = trainer.fit(&data, Fit::new().batch_size(10).shuffle(false).steps_per_submit(4).with(set))?;
    let mut by_hand = classifier(device, Sgd::new(0.2))?;
    for step in 0..6 {
        by_hand.set_lr(rate(step))?;
        let (x, y) = data.batch(&(step as usize * 10..step as usize * 10 + 10).collect::<Vec<_>>())?;
        by_hand.step(&[x, y])?;
    }
    assert_eq!(weights(&trainer)?, weights(&by_hand)?);
    assert_eq!(history.epochs[0].losses, by_hand.take_reports()?.iter().map(|r| r.loss).collect::<Vec<_>>());
    // A checkpoint has the rate.
    let folder = tempfile::tempdir()?;
    by_hand.save(folder.path().join("a"))?;
    let mut other = classifier(device, Sgd::new(0.3))?;
    other.load(folder.path().join("a"))?;
    assert_eq!(other.lr().to_bits(), rate(5).to_bits());
    Ok(())
}

fn evaluations(device: &Device) -> Check {
    let (data, other) = (digits(70), digits(30));
    let fit = || Fit::new().epochs(2).batch_size(8).micro_batch(5).steps_per_submit(16);
    let mut plain = classifier(device, Adam::new(0.01))?;
    let want = plain.fit(&data, fit())?;
    for resident in [1 << 30, 0] {
        let mut trainer = classifier(device, Adam::new(0.01))?;
        let mut losses = Vec::new();
        let folder = tempfile::tempdir()?;
        let look = Each(3, |run: &mut Run| {
            losses.push(run.evaluate(&data)?.loss);
            losses.push(run.evaluate(&other)?.loss);
            assert!(!run.params().get("fc1.weight")?.f().is_empty());
            run.save(folder.path().join("saved"))
        });
        let got = trainer.fit(&data, fit().resident(resident).with(look))?;
        assert_eq!((numbers(&got), weights(&trainer)?), (numbers(&want), weights(&plain)?), "{resident}");
        assert_eq!(losses.len(), 12);
        // The file of step 18 is a checkpoint of the trainer as well.
        let mut loaded = classifier(device, Adam::new(0.01))?;
        loaded.load(folder.path().join("saved"))?;
        assert_eq!((loaded.steps(), weights(&loaded)?), (18, weights(&trainer)?));
    }
    Ok(())
}

fn back(device: &Device) -> Check {
    let data = digits(70);
    let fit = || Fit::new().epochs(3).batch_size(8).micro_batch(5).steps_per_submit(16).validation(&data);
    let mut plain = classifier(device, Adam::new(0.01).clip_norm(1.0))?;
    let want = plain.fit(&data, fit())?;
    // From step 13, in the second epoch, back to step 5, in the first; from step 26 back to step 20.
    let (mut kept, mut done) = (None::<Saved>, 0);
    let go = Each(1, |run: &mut Run| {
        match (run.total_steps(), done) {
            (5, 0) | (20, 1) => kept = Some(run.snapshot()?),
            (13, 0) | (26, 1) => {
                done += 1;
                run.restore(kept.as_ref().expect("it was kept"))?;
            }
            _ => {}
        }
        Ok(())
    });
    let mut trainer = classifier(device, Adam::new(0.01).clip_norm(1.0))?;
    let got = trainer.fit(&data, fit().with(go))?;
    assert_eq!((done, trainer.steps()), (2, 27));
    assert_eq!((numbers(&got), weights(&trainer)?), (numbers(&want), weights(&plain)?));
    // The snapshot of another model does not fit, and is a typed error.
    let wrong = Each(1, |run: &mut Run| run.restore(&Saved::default()));
    assert!(matches!(trainer.fit(&data, Fit::new().with(wrong)), Err(Error::Format { .. })));
    Ok(())
}

/// Goes on after a step that is not finite, with another weight and a small rate.
struct Lower(Vec<u64>);

impl Callback for Lower {
    fn on_diverged(&mut self, run: &mut Run, error: &Error) -> Result<bool> {
        let Error::Diverged { step, .. } = error else { return Ok(false) };
        self.0.push(*step);
        run.params().set("w", &Host::new([1], vec![0.5]))?;
        run.set_lr(0.01)?;
        Ok(true)
    }
}

/// Gradient descent on w⁴ with a step that is too large: |w| grows until the loss overflows.
fn goes_on(device: &Device) -> Check {
    let data = Dataset::new(vec![1.0; 64], [1], Target::values([1], vec![0.0; 64]))?;
    let mut trainer = Trainer::for_data(
        device,
        &data,
        |x| x * x.graph().param("w", [1], Init::Constant(2.5)),
        |x, _| x.square().square().mean_all(),
        Sgd::new(0.5),
    )?;
    let mut lower = Lower(Vec::new());
    let history = trainer.fit(&data, Fit::new().epochs(2).batch_size(4).micro_batch(3).steps_per_submit(8).with(&mut lower))?;
    assert_eq!(history.epochs.iter().map(|e| e.losses.len()).collect::<Vec<_>>(), [16, 16]);
    assert_eq!(trainer.steps(), 32);
    // The step was made again, from there.
    let [bad] = lower.0[..] else { return Err(format!("{:?}", lower.0).into()) };
    let losses = &history.epochs[0].losses;
    assert!(bad > 1 && bad < 16 && losses.iter().all(|loss| loss.is_finite()), "{bad}: {losses:?}");
    let mut w = 0.5f64;
    for loss in &losses[bad as usize..] {
        assert!((f64::from(*loss) - w.powi(4)).abs() < 1e-6, "{losses:?}");
        w -= 0.01 * 4.0 * w.powi(3);
    }
    Ok(())
}

fn ends(device: &Device) -> Check {
    let data = digits(60);
    let mut trainer = classifier(device, Sgd::new(0.1).schedule(Schedule::exponential(0.9)))?;
    let stop = Each(1, |run: &mut Run| {
        if run.total_steps() == 8 {
            run.stop();
        }
        Ok(())
    });
    let history = trainer.fit(&data, Fit::new().epochs(5).batch_size(10).steps_per_submit(8).with(stop))?;
    assert!(history.stopped && trainer.steps() == 8);
    assert_eq!(history.epochs.iter().map(|e| e.losses.len()).collect::<Vec<_>>(), [6, 2]);
    Ok(())
}

fn append(device: &Device) -> Check {
    let data = digits(40);
    let fit = |n: usize| Fit::new().epochs(n).batch_size(16);
    let (mut once, mut twice) = (classifier(device, Adam::new(0.01))?, classifier(device, Adam::new(0.01))?);
    let want = once.fit(&data, fit(3))?;
    twice.fit(&data, fit(1))?;
    let log = Log::default();
    let got = twice.fit(&data, fit(2).append(true).progress(true).with(Hear(log.clone(), None)))?;
    assert_eq!((numbers(&got), weights(&twice)?), (numbers(&want), weights(&once)?));
    assert_eq!(log.borrow()[..2], ["train 1/3 0/3 1", "epoch 2/3 0/3 1"]);
    assert_eq!(twice.fit(&data, fit(1))?.epochs[0].epoch, 1);
    Ok(())
}

fn waits(device: &Device) -> Check {
    let data = digits(160);
    let count = |every: Option<u64>| -> Result<_> {
        let mut trainer = classifier(device, Sgd::new(0.1))?;
        let fit = || Fit::new().batch_size(4).steps_per_submit(8);
        trainer.fit(&data, fit())?;
        let before = trainer.counters().expect("a GPU");
        trainer.fit(&data, fit().with(Hear(Log::default(), every)))?;
        let after = trainer.counters().expect("a GPU");
        Ok((after.submits - before.submits, after.waits - before.waits, after.reads - before.reads))
    };
    // 40 steps: five submits of eight steps, and one read. A callback at each tenth step ends a submit there and waits.
    let (none, some) = (count(None)?, count(Some(10))?);
    assert_eq!((none.0, none.2), (5, 1), "{none:?}");
    assert!(none.1 <= 1, "{none:?}");
    assert!(some.2 == 4 && some.1 <= 4 && some.0 <= 12, "{some:?}");
    Ok(())
}

fn fails(device: &Device) -> Check {
    let data = digits(40);
    let mut trainer = classifier(device, Sgd::new(0.1))?;
    let bad = Each(2, |run: &mut Run| run.set_lr(-1.0));
    let error = trainer.fit(&data, Fit::new().epochs(2).batch_size(16).with(bad)).expect_err("the rate is negative");
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    assert_eq!(trainer.steps(), 2);
    // Training goes on afterwards.
    assert!(trainer.fit(&data, Fit::new().batch_size(16)).is_ok());
    Ok(())
}
