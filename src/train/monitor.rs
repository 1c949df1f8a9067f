//! The number of an epoch that a callback watches.

use super::{Epoch, Run};
use crate::error::{Error, Result};

/// The number of an epoch that a callback watches.
///
/// ```
/// use downhill::{Device, Fit, Outputs, Trainer, callbacks::{EarlyStopping, Monitor}, data, optim::Adam};
/// let (train, test) = data::diabetes().split(0.8, 1)?;
/// let mut trainer = Trainer::for_batches(
///     &Device::cpu(),
///     &train,
///     |b| {
///         let error = b["x"].linear("fc", 1) - b["y"];
///         Outputs::from(error.square().mean_all()).watch("mae", error.abs().mean_all())
///     },
///     Adam::new(1.0),
/// )?;
/// let early = EarlyStopping::new(Monitor::min("val_mae")).patience(2);
/// let history = trainer.fit(&train, Fit::new().epochs(5).validation(&test).with(early))?;
/// assert_eq!(history.epochs[0].validation_watched.iter().next().unwrap().0, "mae");
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitor {
    /// [`Epoch::loss`]. Less is better.
    Loss,
    /// [`Epoch::accuracy`]. More is better.
    Accuracy,
    /// The loss on the [validation](crate::Fit::validation) data. Less is better.
    ValLoss,
    /// The accuracy on the [validation](crate::Fit::validation) data. More is better.
    ValAccuracy,
    /// A number by its name. Less is better. See [`min`](Monitor::min).
    Min(String),
    /// A number by its name. More is better. See [`max`](Monitor::max).
    Max(String),
}

/// The names that every training has.
const NAMES: [&str; 4] = ["loss", "accuracy", "val_loss", "val_accuracy"];

impl Monitor {
    /// Watches a loss or scalar that the model [reports by name](crate::Outputs::watch). Less is better. `rmse` is the number of the
    /// epoch, and `val_rmse` is that of the [validation](crate::Fit::validation) data.
    pub fn min(name: impl Into<String>) -> Monitor {
        Monitor::Min(name.into())
    }
    /// Watches a number by its name, as [`min`](Monitor::min) does. More is better.
    pub fn max(name: impl Into<String>) -> Monitor {
        Monitor::Max(name.into())
    }
    /// Returns the name of the number: `val_loss` for [`ValLoss`](Monitor::ValLoss).
    pub fn name(&self) -> &str {
        match self {
            Monitor::Loss => "loss",
            Monitor::Accuracy => "accuracy",
            Monitor::ValLoss => "val_loss",
            Monitor::ValAccuracy => "val_accuracy",
            Monitor::Min(name) | Monitor::Max(name) => name,
        }
    }
    /// Returns the number in the report of an epoch, or `None` where the report has no such number.
    pub fn value(&self, epoch: &Epoch) -> Option<f64> {
        let name = self.name();
        let of_model = || {
            let here = epoch.watched.get(name).ok();
            here.or_else(|| epoch.validation_watched.get(name.strip_prefix("val_")?).ok()).copied()
        };
        // A model may give one of its numbers such a name.
        if matches!(self, Monitor::Min(_) | Monitor::Max(_))
            && let Some(x) = of_model()
        {
            return Some(x);
        }
        match name {
            "loss" => Some(epoch.loss),
            "accuracy" => epoch.accuracy,
            "val_loss" => epoch.validation.map(|(loss, _)| loss),
            "val_accuracy" => epoch.validation.and_then(|(_, accuracy)| accuracy),
            _ => None,
        }
    }
    /// Returns an error if the model reports no number of this name.
    pub(super) fn check(&self, who: &str, run: &Run) -> Result<()> {
        let (name, of_model) = (self.name(), run.watched());
        let is = |known: &str| known == name || Some(known) == name.strip_prefix("val_");
        if NAMES.contains(&name) || of_model.iter().any(|known| is(known)) {
            return Ok(());
        }
        let known = NAMES.map(String::from).into_iter().chain(of_model.iter().flat_map(|name| [name.clone(), format!("val_{name}")]));
        let known: Vec<String> = known.collect();
        Err(Error::argument(who, format!("it watches `{name}`, which is no number of this training; there are {}", known.join(", "))))
    }
    pub(super) fn get(&self, who: &str, epoch: &Epoch) -> Result<f64> {
        let name = self.name();
        let why = match name.strip_prefix("val_") {
            Some("loss") => "it watches the validation loss, but there is no validation data; set Fit::validation".to_string(),
            None | Some("accuracy") => {
                "it watches an accuracy that the training does not report; the model must be a classifier, with validation data for ValAccuracy"
                    .to_string()
            }
            Some(_) => format!("it watches `{name}`, but there is no validation data; set Fit::validation"),
        };
        self.value(epoch).ok_or_else(|| Error::argument(who, why))
    }
    /// Returns whether more is better.
    pub(super) fn rises(&self) -> bool {
        matches!(self, Monitor::Accuracy | Monitor::ValAccuracy | Monitor::Max(_))
    }
    /// Returns whether `new` is better than `best` by more than `min_delta`. A NaN is never better.
    pub(super) fn improves(&self, new: f64, best: Option<f64>, min_delta: f64) -> bool {
        let gain = |best: f64| if self.rises() { new - best } else { best - new };
        best.map_or(!new.is_nan(), |best| gain(best) > min_delta.abs())
    }
}
