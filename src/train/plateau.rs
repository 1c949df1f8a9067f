//! A learning rate that falls when training makes no more progress.

use super::{Callback, Epoch, Run, Saved, callbacks::Monitor};
use crate::error::{Error, Result};

/// How [`ReduceLROnPlateau`] compares a value with the best value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThresholdMode {
    /// The threshold is a share of the best value. A loss must be below best · (1 − threshold), an accuracy above best · (1 +
    /// threshold).
    Rel,
    /// The threshold is a difference. A loss must be below best − threshold, an accuracy above best + threshold.
    Abs,
}

/// Lowers the base learning rate when a number has not improved for more than `patience` epochs. PyTorch's `ReduceLROnPlateau`:
/// names, defaults and the rate of every epoch are PyTorch's. Keras's `patience` is larger by 1. The [`Monitor`] says whether less or more is better, which is
/// PyTorch's `mode`.
///
/// The new rate is max(rate · factor, min_lr). The rate is the one that [`Schedule`](crate::optim::Schedule) multiplies. A value
/// that is NaN is no improvement.
///
/// ```
/// use downhill::{Device, Fit, Trainer, callbacks::{Monitor, ReduceLROnPlateau, ThresholdMode}, data, optim::Sgd};
/// let iris = data::iris();
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(1.0))?;
/// // No epoch is better by 100, so every second epoch after the first one lowers the rate.
/// let plateau = ReduceLROnPlateau::new(Monitor::Loss).factor(0.5).patience(1).threshold(100.0, ThresholdMode::Abs);
/// let history = trainer.fit(&iris, Fit::new().epochs(6).with(plateau))?;
/// assert_eq!(history.epochs.iter().map(|e| e.lr).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReduceLROnPlateau {
    monitor: Monitor,
    factor: f64,
    patience: u64,
    threshold: f64,
    mode: ThresholdMode,
    cooldown: u64,
    min_lr: f64,
    eps: f64,
    state: State,
}

/// The best value so far, the number of epochs without an improvement, and the number of epochs that do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct State {
    best: Option<f64>,
    bad: u64,
    cooling: u64,
}

impl ReduceLROnPlateau {
    /// Multiplies the rate by 0.1 after more than 10 epochs without an improvement of a share of 1e-4.
    pub fn new(monitor: Monitor) -> ReduceLROnPlateau {
        ReduceLROnPlateau {
            monitor,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            mode: ThresholdMode::Rel,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
            state: State::default(),
        }
    }
    /// Sets the factor of the rate, at least 0 and below 1. 0.1 by default.
    pub fn factor(self, factor: f64) -> Self {
        ReduceLROnPlateau { factor, ..self }
    }
    /// Sets the number of epochs without an improvement that are allowed. The next one lowers the rate. 10 by default.
    pub fn patience(self, epochs: u64) -> Self {
        ReduceLROnPlateau { patience: epochs, ..self }
    }
    /// Sets how much better than the best value a value must be to count as an improvement. A share of 1e-4 by default.
    pub fn threshold(self, threshold: f64, mode: ThresholdMode) -> Self {
        ReduceLROnPlateau { threshold, mode, ..self }
    }
    /// Sets the number of epochs after a lower rate in which an epoch without an improvement does not count. 0 by default.
    pub fn cooldown(self, epochs: u64) -> Self {
        ReduceLROnPlateau { cooldown: epochs, ..self }
    }
    /// Sets the lowest rate. 0 by default.
    pub fn min_lr(self, min_lr: f64) -> Self {
        ReduceLROnPlateau { min_lr, ..self }
    }
    /// Sets the least change of the rate. A smaller change is not made. 1e-8 by default.
    pub fn eps(self, eps: f64) -> Self {
        ReduceLROnPlateau { eps, ..self }
    }
    fn improves(&self, value: f64) -> bool {
        let Some(best) = self.state.best else { return !value.is_nan() };
        let by = self.threshold;
        match (self.monitor.rises(), self.mode) {
            (false, ThresholdMode::Rel) => value < best * (1.0 - by),
            (false, ThresholdMode::Abs) => value < best - by,
            (true, ThresholdMode::Rel) => value > best * (by + 1.0),
            (true, ThresholdMode::Abs) => value > best + by,
        }
    }
    /// Takes the value of an epoch that had the rate `lr`. Returns the rate of the next epoch.
    fn next(&mut self, value: f64, lr: f64) -> f64 {
        if self.improves(value) {
            (self.state.best, self.state.bad) = (Some(value), 0);
        } else {
            self.state.bad += 1;
        }
        if self.state.cooling > 0 {
            (self.state.cooling, self.state.bad) = (self.state.cooling - 1, 0);
        }
        if self.state.bad <= self.patience {
            return lr;
        }
        (self.state.cooling, self.state.bad) = (self.cooldown, 0);
        let new = (lr * self.factor).max(self.min_lr);
        if lr - new > self.eps { new } else { lr }
    }
    fn check(&self) -> Result<()> {
        let fits = |x: f64| x.is_finite() && x >= 0.0;
        let ok = [
            ("the factor", self.factor, fits(self.factor) && self.factor < 1.0, "at least 0 and below 1"),
            ("the threshold", self.threshold, fits(self.threshold), "finite and not negative"),
            ("min_lr", self.min_lr, fits(self.min_lr), "finite and not negative"),
            ("eps", self.eps, fits(self.eps), "finite and not negative"),
        ];
        match ok.into_iter().find(|(.., ok, _)| !ok) {
            Some((what, value, _, range)) => {
                Err(Error::argument("ReduceLROnPlateau", format!("{what} must be {range}, but it is {value}")))
            }
            None => Ok(()),
        }
    }
}

impl Callback for ReduceLROnPlateau {
    fn name(&self) -> String {
        format!("ReduceLROnPlateau of {}", self.monitor.name())
    }
    fn on_train_begin(&mut self, run: &mut Run) -> Result<()> {
        self.state = State::default();
        self.monitor.check("ReduceLROnPlateau", run)?;
        self.check()
    }
    fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> Result<()> {
        let value = self.monitor.get("ReduceLROnPlateau", epoch)?;
        let (old, new) = (run.base_lr(), self.next(value, run.base_lr()));
        // A rate of 0 would train nothing.
        if new != old && new > 0.0 { run.set_lr(new) } else { Ok(()) }
    }
    fn save(&self) -> Saved {
        let (State { best, bad, cooling }, mut saved) = (self.state, Saved::default());
        best.inspect(|best| saved.set("best", best));
        saved.set("wait", bad);
        saved.set("cooling", cooling);
        saved
    }
    fn load(&mut self, saved: &Saved) -> Result<()> {
        let best = if saved.info.contains_key("best") { Some(saved.get("best")?) } else { None };
        self.state = State { best, bad: saved.get("wait")?, cooling: saved.get("cooling")? };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The rate of every epoch is PyTorch's, for both modes and every option, also if the training is saved and loaded after
    /// each epoch.
    #[test]
    fn rates_follow_pytorch() {
        let path = format!("{}/tests/golden/plateaus.json", env!("CARGO_MANIFEST_DIR"));
        let json: Value = serde_json::from_slice(&std::fs::read(&path).expect(&path)).expect(&path);
        let cases = json["cases"].as_array().expect("a list");
        assert!(cases.len() >= 100, "{} cases", cases.len());
        let (mut changes, mut epochs) = (0, 0);
        for case in cases {
            let args = &case["args"];
            let number = |name: &str| args[name].as_f64().expect(name);
            let numbers =
                |name: &str| case[name].as_array().expect(name).iter().map(|x| x.as_f64().unwrap_or(f64::NAN)).collect::<Vec<_>>();
            let monitor = if args["mode"] == "max" { Monitor::ValAccuracy } else { Monitor::ValLoss };
            let mode = if args["threshold_mode"] == "abs" { ThresholdMode::Abs } else { ThresholdMode::Rel };
            let new = || {
                ReduceLROnPlateau::new(monitor.clone())
                    .factor(number("factor"))
                    .patience(number("patience") as u64)
                    .threshold(number("threshold"), mode)
                    .cooldown(number("cooldown") as u64)
                    .min_lr(number("min_lr"))
                    .eps(number("eps"))
            };
            let (mut whole, mut broken) = (new(), new());
            whole.check().expect("PyTorch's arguments are in range");
            let mut lr = number("lr");
            for (k, (value, want)) in numbers("metrics").into_iter().zip(numbers("lr")).enumerate() {
                let before = lr;
                lr = whole.next(value, before);
                // Reading a number from JSON may round its last bit.
                assert!((lr - want).abs() <= f64::EPSILON * want, "{args}: epoch {k}: {lr} instead of {want}");
                let mut loaded = new();
                loaded.load(&broken.save()).expect("it was saved");
                assert_eq!(loaded.next(value, before).to_bits(), lr.to_bits(), "{args}: epoch {k}, loaded");
                broken = loaded;
                changes += u32::from(lr != before);
                epochs += 1;
            }
        }
        assert!(changes > 100 && changes < epochs / 2, "{changes} changes in {epochs} epochs");
    }
}
