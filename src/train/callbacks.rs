//! Callbacks that are ready to use with [`Fit::with`](crate::Fit::with). Names and defaults are those of Keras.
//! [`ReduceLROnPlateau`] is PyTorch's.

pub use super::monitor::Monitor;
pub use super::plateau::{ReduceLROnPlateau, ThresholdMode};

use super::{Callback, Epoch, Named, Run, Saved, StepNorms, StepReport};
use crate::{
    error::{Error, Result},
    file,
    host::Host,
};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

/// The best value so far, and the number of epochs since then.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Watch {
    best: Option<f64>,
    wait: u64,
}

impl Watch {
    fn save(self) -> Saved {
        let mut saved = Saved::default();
        self.best.inspect(|best| saved.set("best", best));
        saved.set("wait", self.wait);
        saved
    }
    fn load(saved: &Saved) -> Result<Watch> {
        let best = if saved.info.contains_key("best") { Some(saved.get("best")?) } else { None };
        Ok(Watch { best, wait: saved.get("wait")? })
    }
}

/// Stops the training when a number has not improved for some epochs.
///
/// ```
/// use downhill::{Device, Fit, Trainer, callbacks::{EarlyStopping, Monitor}, data, optim::Adam};
/// let (train, test) = data::iris().stratified(0.8, 1)?;
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &train, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Adam::new(0.5))?;
/// let early = EarlyStopping::new(Monitor::ValLoss).patience(3).min_delta(1e-4).restore_best_weights(true);
/// let history = trainer.fit(&train, Fit::new().epochs(1000).validation(&test).with(early))?;
/// assert!(history.stopped && history.epochs.len() < 1000);
/// let best = history.epochs.iter().map(|e| e.validation.unwrap().0).fold(f64::MAX, f64::min);
/// assert!((trainer.evaluate(&test)?.loss - best).abs() < 1e-3);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    monitor: Monitor,
    patience: u64,
    min_delta: f64,
    restore: bool,
    watch: Watch,
    weights: Vec<(String, Host<f32>)>,
}

impl EarlyStopping {
    /// Stops at the first epoch without an improvement, unless there is some patience.
    pub fn new(monitor: Monitor) -> EarlyStopping {
        EarlyStopping { monitor, patience: 0, min_delta: 0.0, restore: false, watch: Watch::default(), weights: Vec::new() }
    }
    /// Sets the number of epochs without an improvement after which training stops. 0 by default, which stops as 1 does.
    pub fn patience(self, epochs: u64) -> Self {
        EarlyStopping { patience: epochs, ..self }
    }
    /// Sets the least change that counts as an improvement. 0 by default.
    pub fn min_delta(self, min_delta: f64) -> Self {
        EarlyStopping { min_delta, ..self }
    }
    /// Sets whether the model gets the parameters of its best epoch at the end, whether training was stopped or not. `false` by default.
    pub fn restore_best_weights(self, restore: bool) -> Self {
        EarlyStopping { restore, ..self }
    }
    /// Returns the best value so far.
    pub fn best(&self) -> Option<f64> {
        self.watch.best
    }
}

impl Callback for EarlyStopping {
    fn name(&self) -> String {
        format!("EarlyStopping of {}", self.monitor.name())
    }
    fn on_train_begin(&mut self, run: &mut Run) -> Result<()> {
        (self.watch, self.weights) = (Watch::default(), Vec::new());
        self.monitor.check("EarlyStopping", run)
    }
    fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> Result<()> {
        let value = self.monitor.get("EarlyStopping", epoch)?;
        if self.monitor.improves(value, self.watch.best, self.min_delta) {
            self.watch = Watch { best: Some(value), wait: 0 };
            if self.restore {
                self.weights = run.params().all()?;
            }
            return Ok(());
        }
        self.watch.wait += 1;
        if self.watch.wait >= self.patience.max(1) {
            run.stop();
        }
        Ok(())
    }
    fn on_train_end(&mut self, run: &mut Run) -> Result<()> {
        if self.weights.is_empty() { Ok(()) } else { run.params().set_all(&self.weights) }
    }
    fn save(&self) -> Saved {
        Saved { tensors: self.weights.clone(), ..self.watch.save() }
    }
    fn load(&mut self, saved: &Saved) -> Result<()> {
        (self.watch, self.weights) = (Watch::load(saved)?, saved.tensors.clone());
        Ok(())
    }
}

/// Saves the training after epochs, as [`Run::save`] does. [`Trainer::load`](crate::Trainer::load) and
/// [`Fit::resume`](crate::Fit::resume) read the file.
///
/// ```
/// use downhill::{Device, Fit, Trainer, callbacks::{ModelCheckpoint, Monitor}, data, optim::Sgd};
/// let folder = tempfile::tempdir().unwrap();
/// let iris = data::iris();
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
/// let each = ModelCheckpoint::new(folder.path().join("{epoch}.safetensors")).every(2);
/// let best = ModelCheckpoint::new(folder.path().join("best.safetensors")).save_best_only(Monitor::Loss);
/// trainer.fit(&iris, Fit::new().epochs(5).with(each).with(best))?;
/// let names = |name: &str| folder.path().join(name).exists();
/// assert_eq!(["1", "2", "4", "best"].map(|name| names(&format!("{name}.safetensors"))), [false, true, true, true]);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ModelCheckpoint {
    path: PathBuf,
    monitor: Option<Monitor>,
    every: usize,
    watch: Watch,
}

impl ModelCheckpoint {
    /// Saves to `path` after each epoch. `{epoch}` in the path stands for the number of the epoch.
    pub fn new(path: impl AsRef<Path>) -> ModelCheckpoint {
        ModelCheckpoint { path: path.as_ref().into(), monitor: None, every: 1, watch: Watch::default() }
    }
    /// Saves only after epochs whose number is better than the number of all saved epochs before.
    pub fn save_best_only(self, monitor: Monitor) -> Self {
        ModelCheckpoint { monitor: Some(monitor), ..self }
    }
    /// Sets the number of epochs from one save to the next. 1 by default.
    pub fn every(self, epochs: usize) -> Self {
        ModelCheckpoint { every: epochs, ..self }
    }
}

impl Callback for ModelCheckpoint {
    fn name(&self) -> String {
        let of = self.monitor.as_ref().map_or(String::new(), |monitor| format!(" of {}", monitor.name()));
        format!("ModelCheckpoint{of}")
    }
    fn on_train_begin(&mut self, run: &mut Run) -> Result<()> {
        self.watch = Watch::default();
        self.monitor.as_ref().map_or(Ok(()), |monitor| monitor.check("ModelCheckpoint", run))
    }
    fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> Result<()> {
        if !epoch.epoch.is_multiple_of(self.every.max(1)) {
            return Ok(());
        }
        if let Some(monitor) = &self.monitor {
            let value = monitor.get("ModelCheckpoint", epoch)?;
            if !monitor.improves(value, self.watch.best, 0.0) {
                return Ok(());
            }
            self.watch.best = Some(value);
        }
        let path = match self.path.to_str() {
            Some(text) => text.replace("{epoch}", &epoch.epoch.to_string()).into(),
            None => self.path.clone(),
        };
        run.save(path)
    }
    fn save(&self) -> Saved {
        self.watch.save()
    }
    fn load(&mut self, saved: &Saved) -> Result<()> {
        self.watch = Watch::load(saved)?;
        Ok(())
    }
}

/// Writes a table with a row for each epoch. The file is [replaced](crate::file::replace) after each epoch, so it is always whole.
///
/// The columns are epoch, loss, accuracy, val_loss, val_accuracy, lr and seconds. The losses and scalars that the model
/// [reports by name](crate::Outputs::watch) come before lr: `rmse` and `val_rmse`, for example. If the training measures the gradient
/// [noise scale](crate::Fit::noise_scale), the column noise_scale comes last. A number that the training does not have is empty.
///
/// ```
/// use downhill::{Device, Fit, Trainer, callbacks::CsvLogger, data, optim::Sgd};
/// let folder = tempfile::tempdir().unwrap();
/// let (path, iris) = (folder.path().join("log.csv"), data::iris());
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
/// let history = trainer.fit(&iris, Fit::new().epochs(2).with(CsvLogger::new(&path)))?;
/// let text = std::fs::read_to_string(path).unwrap();
/// assert!(text.lines().nth(2).unwrap().starts_with(&format!("2,{},", history.epochs[1].loss)));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CsvLogger {
    path: PathBuf,
    norms: Option<PathBuf>,
}

impl CsvLogger {
    /// Writes the table to this path.
    pub fn new(path: impl AsRef<Path>) -> CsvLogger {
        CsvLogger { path: path.as_ref().into(), norms: None }
    }
    /// Writes another table with the [norms](crate::Fit::norms) of parameters: a row for each parameter in each step that measured them.
    /// The columns are epoch, step, parameter, weight, gradient, update and trust_ratio. Steps count from 0. The ratio is empty for rules
    /// that have none.
    pub fn norms(self, path: impl AsRef<Path>) -> Self {
        CsvLogger { norms: Some(path.as_ref().into()), ..self }
    }
}

/// Returns a text as a field of a table.
fn field(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

impl Callback for CsvLogger {
    fn on_epoch_end(&mut self, run: &mut Run, _: &Epoch) -> Result<()> {
        if run.rank() > 0 {
            return Ok(());
        }
        let (names, epochs) = (run.watched(), &run.history().epochs);
        let has_noise = run.has_noise_scale() || epochs.iter().any(|e| e.noise_scale.is_some());
        let mut text = String::from("epoch,loss,accuracy,val_loss,val_accuracy,");
        for name in names.iter() {
            let _ = write!(text, "{},{},", field(name), field(&format!("val_{name}")));
        }
        text += if has_noise { "lr,seconds,noise_scale\n" } else { "lr,seconds\n" };
        let number = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        for e in epochs {
            let (loss, accuracy) = (e.validation.map(|v| v.0), e.validation.and_then(|v| v.1));
            let _ = write!(text, "{},{},{},{},{},", e.epoch, e.loss, number(e.accuracy), number(loss), number(accuracy));
            for name in names.iter() {
                let of = |all: &Named<f64>| number(all.get(name).ok().copied());
                let _ = write!(text, "{},{},", of(&e.watched), of(&e.validation_watched));
            }
            let noise = if has_noise { format!(",{}", number(e.noise_scale)) } else { String::new() };
            let _ = writeln!(text, "{},{}{noise}", e.lr, e.seconds);
        }
        file::replace(&self.path, text.as_bytes())?;
        let Some(path) = &self.norms else { return Ok(()) };
        let mut text = String::from("epoch,step,parameter,weight,gradient,update,trust_ratio\n");
        for (e, StepNorms { step, params }) in epochs.iter().flat_map(|e| e.norms.iter().map(move |norms| (e.epoch, norms))) {
            for (name, n) in params.iter() {
                let ratio = n.trust_ratio.map_or(String::new(), |ratio| ratio.to_string());
                let _ = writeln!(text, "{e},{step},{},{},{},{},{ratio}", field(name), n.weight, n.gradient, n.update);
            }
        }
        file::replace(path, text.as_bytes())
    }
}

/// Handles a step whose numbers are not finite. It stops the training, without an error. With [`recover`](TerminateOnNaN::recover) it goes
/// back and tries a smaller learning rate first.
///
/// A recovery restores parameters, optimizer, place and reports of the last good snapshot, and multiplies the base learning rate. A snapshot
/// is a copy in the memory of the host. It is made before each epoch and, if asked for, after each n-th step.
///
/// ```
/// use downhill::{Device, Fit, Trainer, callbacks::TerminateOnNaN, data, optim::Sgd};
/// let iris = data::iris();
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y).square().square(), Sgd::new(1e9))?;
/// let guard = TerminateOnNaN::new().recover(9, 1e-3);
/// let history = trainer.fit(&iris, Fit::new().epochs(2).batch_size(8).with(guard))?;
/// assert!(!history.stopped && trainer.lr() < 1e9);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TerminateOnNaN {
    most: u64,
    factor: f64,
    every: Option<u64>,
    made: u64,
    snapshot: Option<Saved>,
}

impl Default for TerminateOnNaN {
    fn default() -> Self {
        TerminateOnNaN::new()
    }
}

impl TerminateOnNaN {
    /// Stops the training at the first step that is not finite.
    pub fn new() -> TerminateOnNaN {
        TerminateOnNaN { most: 0, factor: 0.1, every: None, made: 0, snapshot: None }
    }
    /// Recovers up to `times` times, each time with the base learning rate multiplied by `factor`.
    pub fn recover(self, times: u64, factor: f64) -> Self {
        TerminateOnNaN { most: times, factor, ..self }
    }
    /// Makes a snapshot after each n-th step as well.
    pub fn every(self, steps: u64) -> Self {
        TerminateOnNaN { every: Some(steps), ..self }
    }
    /// Returns the number of recoveries so far.
    pub fn recoveries(&self) -> u64 {
        self.made
    }
    fn keep(&mut self, run: &Run) -> Result<()> {
        if self.made < self.most {
            self.snapshot = Some(run.snapshot()?);
        }
        Ok(())
    }
}

impl Callback for TerminateOnNaN {
    fn on_train_begin(&mut self, _: &mut Run) -> Result<()> {
        (self.made, self.snapshot) = (0, None);
        Ok(())
    }
    fn on_epoch_begin(&mut self, run: &mut Run) -> Result<()> {
        self.keep(run)
    }
    fn every(&self) -> Option<u64> {
        self.every
    }
    fn on_step_end(&mut self, run: &mut Run, _: &StepReport) -> Result<()> {
        self.keep(run)
    }
    fn on_diverged(&mut self, run: &mut Run, error: &Error) -> Result<bool> {
        match &self.snapshot {
            Some(snapshot) if self.made < self.most => {
                self.made += 1;
                let lr = run.base_lr() * self.factor;
                log::warn!("{error}; training goes back {} steps, to the learning rate {lr}", run.step());
                run.restore(snapshot)?;
                run.set_lr(lr)?;
            }
            _ => run.stop(),
        }
        Ok(true)
    }
    fn save(&self) -> Saved {
        let mut saved = Saved::default();
        saved.set("made", self.made);
        self.snapshot.iter().for_each(|snapshot| saved.join("snapshot.", snapshot.clone()));
        saved
    }
    fn load(&mut self, saved: &Saved) -> Result<()> {
        self.made = saved.get("made")?;
        let snapshot = saved.part("snapshot.");
        self.snapshot = (!snapshot.info.is_empty()).then_some(snapshot);
        Ok(())
    }
}
