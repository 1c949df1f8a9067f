//! The ready callbacks do as Keras's of the same names.

use crate::{
    classifier,
    common::{BOTH, Check, On, Suite, weights},
    digits,
};
use downhill::{
    Device, Epoch, Error, Fit, Result, Trainer,
    callbacks::{CsvLogger, EarlyStopping, ModelCheckpoint, Monitor, ReduceLROnPlateau, TerminateOnNaN, ThresholdMode},
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, Sgd},
    train::{Callback, Run},
};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "EarlyStopping", early);
    suite.on(On::Cpu, "ReduceLROnPlateau", plateau);
    suite.each(&BOTH, "ModelCheckpoint and CsvLogger", files);
    suite.each(&BOTH, "TerminateOnNaN", not_finite);
    suite.on(On::Cpu, "mistakes of the ready callbacks", mistakes);
}

/// Sets the parameter `w` at the end of each epoch, so that the validation loss is what a test wants.
struct Play(Vec<f32>);

impl Callback for Play {
    fn on_evaluate_begin(&mut self, run: &mut Run) -> Result<()> {
        run.params().set("w", &downhill::Host::new([1], vec![self.0[run.epoch() - 1]]))
    }
}

/// A model whose validation loss is |w|.
fn played(device: &Device) -> Result<(Trainer, Dataset)> {
    let data = Dataset::new(vec![1.0; 4], [1], Target::values([1], vec![0.0; 4]))?;
    let trainer =
        Trainer::for_data(device, &data, |x| x * x.graph().param("w", [1], Init::Ones), |x, _| x.abs().mean_all(), Sgd::new(1e-6))?;
    Ok((trainer, data))
}

fn early(device: &Device) -> Check {
    let losses = vec![5.0, 3.0, 3.5, 2.95, 3.0, 3.0, 1.0, 2.0];
    for (patience, delta, restore, epochs, w) in [
        // Better by 0.05 is no improvement with a delta of 0.1, so epoch 2 stays the best.
        (3, 0.1, true, 5, 3.0),
        (2, 0.0, true, 6, 2.95),
        (2, 0.0, false, 6, 3.0),
        (0, 0.0, true, 3, 3.0),
        // It never stops, and the best one comes back all the same.
        (4, 0.0, true, 8, 1.0),
    ] {
        let (mut trainer, data) = played(device)?;
        let mut early = EarlyStopping::new(Monitor::ValLoss).patience(patience).min_delta(delta).restore_best_weights(restore);
        let fit = Fit::new().epochs(8).validation(&data).with(Play(losses.clone())).with(&mut early);
        let history = trainer.fit(&data, fit)?;
        assert_eq!((history.epochs.len(), history.stopped), (epochs, epochs < 8), "patience {patience}");
        assert_eq!(trainer.params().get("w")?.f(), [w], "patience {patience}, restore {restore}");
        assert!(restore.then(|| early.best()).flatten().is_none_or(|best| (best - f64::from(w)).abs() < 1e-6));
    }
    Ok(())
}

fn plateau(device: &Device) -> Check {
    let (mut trainer, data) = played(device)?;
    trainer.set_lr(0.5)?;
    let losses = vec![5.0, 3.0, 3.5, 3.5, 3.5, 3.5, 3.5, 2.0, 3.0, 3.0];
    let plateau =
        ReduceLROnPlateau::new(Monitor::ValLoss).factor(0.5).patience(1).cooldown(1).min_lr(0.2).threshold(0.0, ThresholdMode::Abs);
    let history = trainer.fit(&data, Fit::new().epochs(10).validation(&data).with(Play(losses)).with(plateau))?;
    // Epochs 3 and 4 are no better: 0.25. Epoch 5 does not count, but epochs 6 and 7 do: 0.2, the lowest.
    let rates: Vec<f64> = history.epochs.iter().map(|e| e.lr).collect();
    assert_eq!(rates, [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2]);
    Ok(())
}

fn files(device: &Device) -> Check {
    let (mut trainer, data) = played(device)?;
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let losses = vec![5.0, 3.0, 4.0, 2.0, 6.0];
    let fit = Fit::new().epochs(5).validation(&data).with(Play(losses));
    let best = ModelCheckpoint::new(at("best")).save_best_only(Monitor::ValLoss);
    let each = ModelCheckpoint::new(at("at-{epoch}")).every(2);
    let history = trainer.fit(&data, fit.with(best).with(each).with(CsvLogger::new(at("log.csv"))))?;
    trainer.load(at("best"))?;
    assert_eq!((trainer.params().get("w")?.f(), trainer.steps()), (&[2.0f32][..], 4));
    for (k, there) in [(1, false), (2, true), (3, false), (4, true), (5, false)] {
        assert_eq!(at(&format!("at-{k}")).exists(), there);
    }
    let text = std::fs::read_to_string(at("log.csv"))?;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"]);
    assert_eq!(rows.len(), 6);
    for (row, e) in rows[1..].iter().zip(&history.epochs) {
        let val = e.validation.ok_or("no validation")?.0;
        assert_eq!(row[..6], [&e.epoch.to_string(), &e.loss.to_string(), "", &val.to_string(), "", &e.lr.to_string()]);
    }
    Ok(())
}

fn not_finite(device: &Device) -> Check {
    let data = digits(64);
    let new = |lr: f64| {
        Trainer::for_data(
            device,
            &data,
            |x| x.flatten().linear("fc1", 12).linear("fc2", 10),
            |x, y| x.cross_entropy(y).square().square(),
            Sgd::new(lr).momentum(0.5),
        )
    };
    let fit = || Fit::new().epochs(2).batch_size(8).steps_per_submit(8);
    // It stops without an error, at the last finite step.
    let mut trainer = new(1e7)?;
    let history = trainer.fit(&data, fit().with(TerminateOnNaN::new()))?;
    assert!(history.stopped && history.epochs.is_empty(), "{history:?}");
    assert!(trainer.params().all()?.iter().all(|(_, w)| w.f().iter().all(|x| x.is_finite())));
    // It goes back to the start with a smaller rate, as often as needed: as if it had begun with that rate.
    let (mut trainer, mut guard) = (new(1e7)?, TerminateOnNaN::new().recover(9, 1e-4));
    let history = trainer.fit(&data, fit().with(&mut guard))?;
    let mut times = guard.recoveries();
    assert!(times > 0 && times < 9 && !history.stopped && history.epochs.len() == 2, "{times} {history:?}");
    let mut lr = 1e7;
    while times > 0 {
        (lr, times) = (lr * 1e-4, times - 1);
    }
    let mut quiet = new(lr)?;
    let want = quiet.fit(&data, fit())?;
    assert_eq!(trainer.lr(), lr);
    assert_eq!((crate::numbers(&history), weights(&trainer)?), (crate::numbers(&want), weights(&quiet)?));
    // With none left it stops.
    let history = new(1e7)?.fit(&data, fit().with(TerminateOnNaN::new().recover(1, 0.999).every(1)))?;
    assert!(history.stopped);
    Ok(())
}

fn mistakes(device: &Device) -> Check {
    let data = digits(20);
    let mut trainer = classifier(device, Adam::new(0.01))?;
    let mut error = |fit: Fit| trainer.fit(&data, fit).expect_err("a mistake").to_string();
    let text = error(Fit::new().with(EarlyStopping::new(Monitor::ValLoss)));
    assert!(
        text.starts_with("EarlyStopping: it watches the validation loss, but there is no validation data; set Fit::validation"),
        "{text}"
    );
    let text = error(Fit::new().with(ModelCheckpoint::new("x").save_best_only(Monitor::ValAccuracy)));
    assert!(text.starts_with("ModelCheckpoint: it watches an accuracy"), "{text}");
    let text = error(Fit::new().with(ReduceLROnPlateau::new(Monitor::Loss).factor(1.5)));
    assert!(text.contains("the factor must be at least 0 and below 1, but it is 1.5"), "{text}");
    let plateau = || ReduceLROnPlateau::new(Monitor::Loss);
    for (bad, what) in [
        (plateau().factor(-0.1), "the factor"),
        (plateau().factor(f64::NAN), "the factor"),
        (plateau().threshold(-1.0, ThresholdMode::Rel), "the threshold"),
        (plateau().min_lr(f64::INFINITY), "min_lr"),
        (plateau().eps(-1e-9), "eps"),
    ] {
        let text = error(Fit::new().with(bad));
        assert!(text.starts_with(&format!("ReduceLROnPlateau: {what} must be ")), "{text}");
    }
    let text = error(Fit::new().with(CsvLogger::new("/nowhere/at/all.csv")));
    assert!(text.contains("/nowhere/at/all.csv"), "{text}");
    // A closure of one's own as a callback sees each report.
    struct Seen(usize);
    impl Callback for Seen {
        fn on_epoch_end(&mut self, _: &mut Run, epoch: &Epoch) -> Result<()> {
            self.0 += epoch.losses.len();
            Ok(())
        }
    }
    let mut seen = Seen(0);
    trainer.fit(&data, Fit::new().epochs(2).batch_size(10).with(&mut seen)).map_err(|e: Error| e)?;
    assert_eq!(seen.0, 4);
    Ok(())
}
