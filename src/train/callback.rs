//! Callbacks of `fit`, and their handle to the training.

use super::{
    Averaged, Evaluation, Params, StepReport, Trainer,
    history::{Epoch, History},
    options::Fit,
    place::FIT,
    saved::Saved,
    shard::Shard,
};
use crate::{
    data::Dataset,
    error::{Error, Result},
};
use std::path::Path;

/// A callback of [`Trainer::fit`]. [`Fit::with`] adds it. Every method has a default that does nothing. The names are those of Keras.
/// [`callbacks`](super::callbacks) has callbacks that are ready to use.
///
/// `fit` queues many steps before it reads anything from the device. A call at a step ends the queue at this step and waits for it, so
/// a callback says at which steps it wants to be called: [`every`](Callback::every). Calls at epochs cost no wait.
///
/// If a method returns an error, `fit` ends with this error.
///
/// ```
/// use downhill::{Device, Epoch, Fit, Result, StepReport, Trainer, data, optim::Sgd, train::{Callback, Run}};
/// /// Halves the learning rate after each epoch, and stops where the gradient is small.
/// struct Halve;
/// impl Callback for Halve {
///     fn on_epoch_end(&mut self, run: &mut Run, _: &Epoch) -> Result<()> {
///         run.set_lr(run.lr() / 2.0)
///     }
///     fn every(&self) -> Option<u64> {
///         Some(10)
///     }
///     fn on_step_end(&mut self, run: &mut Run, report: &StepReport) -> Result<()> {
///         if report.grad_norm < 1e-3 {
///             run.stop();
///         }
///         Ok(())
///     }
/// }
/// let iris = data::iris();
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.5))?;
/// let history = trainer.fit(&iris, Fit::new().epochs(3).with(Halve))?;
/// assert_eq!(history.epochs.iter().map(|e| e.lr).collect::<Vec<_>>(), [0.5, 0.25, 0.125]);
/// # Ok::<(), downhill::Error>(())
/// ```
pub trait Callback {
    /// Returns the name by which a checkpoint knows the callback. By default it is the name of the type. A training that
    /// [resumes](crate::Fit::resume) must have the callbacks of the checkpoint in the same order.
    fn name(&self) -> String {
        short(std::any::type_name::<Self>())
    }
    /// Called once, before the first epoch.
    fn on_train_begin(&mut self, run: &mut Run) -> Result<()> {
        let _ = run;
        Ok(())
    }
    /// Called once, after the last epoch. It is not called if `fit` ends with an error.
    fn on_train_end(&mut self, run: &mut Run) -> Result<()> {
        let _ = run;
        Ok(())
    }
    /// Called before the first step of an epoch.
    fn on_epoch_begin(&mut self, run: &mut Run) -> Result<()> {
        let _ = run;
        Ok(())
    }
    /// Called after an epoch and its validation. `epoch` is also the last report of [`Run::history`].
    fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> Result<()> {
        let _ = (run, epoch);
        Ok(())
    }
    /// Returns n if [`on_step_begin`](Callback::on_step_begin) and [`on_step_end`](Callback::on_step_end) are to be called at each n-th
    /// step of the trainer. `None`, the default, is for no calls, which lets `fit` queue steps without a wait.
    fn every(&self) -> Option<u64> {
        None
    }
    /// Called before a step, where [`every`](Callback::every) says so.
    fn on_step_begin(&mut self, run: &mut Run) -> Result<()> {
        let _ = run;
        Ok(())
    }
    /// Called after a step, where [`every`](Callback::every) says so.
    fn on_step_end(&mut self, run: &mut Run, report: &StepReport) -> Result<()> {
        let _ = (run, report);
        Ok(())
    }
    /// Called before `fit` evaluates the [validation](Fit::validation) data.
    fn on_evaluate_begin(&mut self, run: &mut Run) -> Result<()> {
        let _ = run;
        Ok(())
    }
    /// Called after `fit` has evaluated the [validation](Fit::validation) data.
    fn on_evaluate_end(&mut self, run: &mut Run, evaluation: &Evaluation) -> Result<()> {
        let _ = (run, evaluation);
        Ok(())
    }
    /// Called after a step that was not finite, with its [`Error::Diverged`]. If one callback returns `true`, `fit` goes on. If the
    /// callback has not [restored](Run::restore) a snapshot, training goes on at the step that failed, from the parameters before it.
    fn on_diverged(&mut self, run: &mut Run, error: &Error) -> Result<bool> {
        let _ = (run, error);
        Ok(false)
    }
    /// Returns the state of the callback, for a checkpoint.
    fn save(&self) -> Saved {
        Saved::default()
    }
    /// Sets the state that [`save`](Callback::save) returned. It is called after [`on_train_begin`](Callback::on_train_begin).
    fn load(&mut self, saved: &Saved) -> Result<()> {
        let _ = saved;
        Ok(())
    }
}

/// Returns the name of a type without its modules.
fn short(name: &str) -> String {
    let (mut out, mut word) = (String::new(), String::new());
    for c in name.chars() {
        match c {
            ':' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            c => out.extend(word.drain(..).chain([c]).collect::<Vec<_>>()),
        }
    }
    out + &word
}

/// A callback that is lent to `fit`, so that its fields can be read afterwards.
impl<C: Callback + ?Sized> Callback for &mut C {
    fn name(&self) -> String {
        (**self).name()
    }
    fn on_train_begin(&mut self, run: &mut Run) -> Result<()> {
        (**self).on_train_begin(run)
    }
    fn on_train_end(&mut self, run: &mut Run) -> Result<()> {
        (**self).on_train_end(run)
    }
    fn on_epoch_begin(&mut self, run: &mut Run) -> Result<()> {
        (**self).on_epoch_begin(run)
    }
    fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> Result<()> {
        (**self).on_epoch_end(run, epoch)
    }
    fn every(&self) -> Option<u64> {
        (**self).every()
    }
    fn on_step_begin(&mut self, run: &mut Run) -> Result<()> {
        (**self).on_step_begin(run)
    }
    fn on_step_end(&mut self, run: &mut Run, report: &StepReport) -> Result<()> {
        (**self).on_step_end(run, report)
    }
    fn on_evaluate_begin(&mut self, run: &mut Run) -> Result<()> {
        (**self).on_evaluate_begin(run)
    }
    fn on_evaluate_end(&mut self, run: &mut Run, evaluation: &Evaluation) -> Result<()> {
        (**self).on_evaluate_end(run, evaluation)
    }
    fn on_diverged(&mut self, run: &mut Run, error: &Error) -> Result<bool> {
        (**self).on_diverged(run, error)
    }
    fn save(&self) -> Saved {
        (**self).save()
    }
    fn load(&mut self, saved: &Saved) -> Result<()> {
        (**self).load(saved)
    }
}

/// A training in progress: the handle that callbacks get.
pub struct Run<'a> {
    trainer: &'a mut Trainer,
    epoch: usize,
    epochs: usize,
    steps: usize,
    flow: Flow,
}

/// How training goes on after callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flow {
    Go,
    /// A callback restored a snapshot, so the place in the epochs has changed.
    Moved,
    Stop,
}

impl Run<'_> {
    /// Returns the number of the current epoch. The first epoch is 1.
    pub fn epoch(&self) -> usize {
        self.epoch
    }
    /// Returns the number of the last epoch, unless training stops early.
    pub fn epochs(&self) -> usize {
        self.epochs
    }
    /// Returns the number of steps made in the current epoch.
    pub fn step(&self) -> usize {
        self.trainer.steps_of_epoch()
    }
    /// Returns the number of steps in an epoch.
    pub fn steps(&self) -> usize {
        self.steps
    }
    /// Returns the number of steps that the trainer has made in all calls. See [`Trainer::steps`].
    pub fn total_steps(&self) -> u64 {
        self.trainer.steps()
    }
    /// Returns the reports of the complete epochs.
    pub fn history(&self) -> &History {
        self.trainer.history()
    }
    /// Returns the names of the losses and scalars that the model reports by name.
    pub(super) fn watched(&self) -> std::sync::Arc<[String]> {
        self.trainer.kept.names()
    }
    /// Returns whether steps measure the gradient noise scale. See [`Fit::noise_scale`].
    pub(super) fn has_noise_scale(&self) -> bool {
        self.trainer.update.readouts.noise_scale
    }
    /// Returns the learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.trainer.lr()
    }
    /// Returns the learning rate that the [`Schedule`](crate::optim::Schedule) multiplies.
    pub fn base_lr(&self) -> f64 {
        self.trainer.update.optimizer.base_lr()
    }
    /// Sets the base learning rate, from the next step on. See [`Trainer::set_lr`].
    ///
    /// # Errors
    /// The errors of [`Trainer::set_lr`].
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.trainer.set_lr(lr)
    }
    /// Returns a handle to the parameters and the state.
    pub fn params(&self) -> Params<'_> {
        self.trainer.params()
    }
    /// Evaluates the model on a data set. See [`Trainer::evaluate`].
    ///
    /// # Errors
    /// The errors of [`Trainer::evaluate`].
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        self.trainer.evaluate(data)
    }
    /// Returns a view of the averages of the weights. See [`Trainer::averaged`].
    ///
    /// # Errors
    /// The errors of [`Trainer::averaged`].
    pub fn averaged(&mut self) -> Result<Averaged<'_>> {
        self.trainer.averaged()
    }
    /// Returns the number of this rank, which is 0 without [ranks](Trainer::distributed). A callback runs on all ranks, and writes files on
    /// rank 0 alone.
    pub fn rank(&self) -> usize {
        self.trainer.rank()
    }
    /// Saves the training to a file. [`Trainer::load`] loads the trainer from it. See [`snapshot`](Run::snapshot) for its content. Rank 0
    /// alone writes the file. With [`Shard::State`](crate::Shard::State), all ranks must call it.
    ///
    /// # Errors
    /// The file cannot be written, or the device fails.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        match (self.rank(), self.trainer.shards()) {
            (0, _) => self.taken(Some(0))?.write(path),
            (_, Shard::None) => Ok(()),
            // This rank gives its part of the states.
            (_, Shard::State) => self.taken(Some(0)).map(|_| ()),
        }
    }
    /// Returns the state of the training: everything that [`Trainer::save`] saves, the place in the epochs, and the reports so far. With
    /// [`Shard::State`](crate::Shard::State), all ranks must call it.
    ///
    /// # Errors
    /// The device fails.
    pub fn snapshot(&self) -> Result<Saved> {
        self.taken(None)
    }
    fn taken(&self, root: Option<usize>) -> Result<Saved> {
        let mut saved = self.trainer.snapshot(root)?;
        saved.join(FIT, self.trainer.save_place());
        Ok(saved)
    }
    /// Goes back to a snapshot of this training. Training goes on from there when the method of the callback has returned.
    ///
    /// # Errors
    /// The snapshot is of another model or optimizer. The training is then unchanged.
    pub fn restore(&mut self, snapshot: &Saved) -> Result<()> {
        self.trainer.restore(snapshot)?;
        self.flow = self.flow.max(Flow::Moved);
        Ok(())
    }
    /// Ends the training after the method of the callback has returned. In the middle of an epoch, the report of this epoch covers the
    /// steps made so far.
    pub fn stop(&mut self) {
        self.flow = Flow::Stop;
    }
}

impl Fit<'_> {
    /// Calls a method of the callbacks in an epoch of `steps` steps. Each of them is called, whether another one stops the training or
    /// not.
    pub(super) fn each(
        &mut self,
        trainer: &mut Trainer,
        epoch: usize,
        steps: usize,
        mut method: impl FnMut(&mut dyn Callback, &mut Run) -> Result<()>,
    ) -> Result<Flow> {
        if self.hooks.is_empty() {
            return Ok(Flow::Go);
        }
        let epochs = trainer.place.start + self.epochs;
        let mut run = Run { trainer: &mut *trainer, epoch, epochs, steps, flow: Flow::Go };
        for callback in &mut self.hooks {
            method(callback.as_mut(), &mut run)?;
        }
        let flow = run.flow;
        trainer.together(flow)
    }
    /// Returns whether a callback wants to be called at the step with this number. The trainer's first step is 1.
    pub(super) fn wants(&self, step: u64) -> bool {
        self.hooks.iter().any(|callback| wants(callback.as_ref(), step))
    }
}

pub(super) fn wants(callback: &dyn Callback, step: u64) -> bool {
    callback.every().is_some_and(|n| step.is_multiple_of(n.max(1)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_without_modules() {
        for (name, want) in [("a::b::C", "C"), ("C", "C"), ("a::B<c::D, e_1::F<g::H>>", "B<D, F<H>>"), ("&mut a::B", "&mut B")] {
            assert_eq!(super::short(name), want);
        }
    }
}
