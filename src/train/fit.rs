//! [`Trainer::fit`]: epochs over a data set.

use super::{
    Trainer,
    callback::Flow,
    checkpoints::Saver,
    cut::Cut,
    feed::Course,
    history::{Epoch, History},
    options::{Event, Fit},
    place::Place,
    progress::{Progress, Shown},
    readouts::Noise,
    saved::Saved,
    shard::Shard,
    share::BUCKET,
};
use crate::{
    data::{self, Dataset},
    error::{Error, Result},
    gpu::{MOST_STEPS, Resident},
    world::What,
};
use std::{mem, sync::Arc, time::Instant};

impl Trainer {
    /// Trains the model on a data set for the given number of epochs. After an error, [`history`](Trainer::history) has the
    /// epochs that were complete.
    ///
    /// ```
    /// use downhill::{Device, Error, Fit, Trainer, data, optim::Sgd};
    /// let data = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y).square(), Sgd::new(1e9))?;
    /// while let Err(error) = trainer.fit(&data, Fit::new().epochs(2)) {
    ///     let Error::Diverged { .. } = error else { return Err(error) };
    ///     // The parameters have the values of the last finite step. Start again from initial values, with a smaller learning rate.
    ///     trainer = trainer.seed(0)?;
    ///     trainer.set_lr(trainer.lr() * 1e-3)?;
    /// }
    /// assert_eq!(trainer.history().epochs.len(), 2);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// - The data does not fit the model.
    /// - The batch size is 0, a micro-batch is larger than a step, or the memory limit is too small.
    /// - The model does not accept the last batch of an epoch. See [`Fit::drop_last`].
    /// - [`Fit::noise_scale`] without micro-batches, or [`Fit::norms`] of 0.
    /// - The [schedule](crate::optim::Schedule::in_epochs) counts epochs or samples, and an earlier call had another batch size or
    ///   another number of samples.
    /// - [`Error::Diverged`] at the first step whose loss or gradient is not finite. The parameters then have the values of the
    ///   last finite step.
    pub fn fit(&mut self, data: &Dataset, fit: Fit) -> Result<History> {
        pollster::block_on(self.fit_async(data, fit))
    }
    /// [`fit`](Trainer::fit), without blocking.
    pub async fn fit_async(&mut self, data: &Dataset, fit: Fit<'_>) -> Result<History> {
        let result = self.fit_here(data, fit).await;
        // The next step may be one of a loop of the user's own.
        self.ranks.iter_mut().for_each(|ranks| (ranks.each, ranks.check_weights, ranks.bucket) = (None, None, BUCKET));
        self.told(result)
    }
    /// Does the work of [`fit`](Trainer::fit) on this rank.
    async fn fit_here(&mut self, data: &Dataset, mut fit: Fit<'_>) -> Result<History> {
        self.agree_on(data, &fit)?;
        fit.gathers = self.shards() == Shard::State && fit.checkpoints.is_some();
        if self.rank() > 0 {
            fit.progress = Progress::Off;
            fit.checkpoints = None;
        }
        let picks = self.check_data("fit", data)?;
        if let Some(validation) = fit.validation {
            self.check_data("validation", validation)?;
        }
        if let Some(augment) = &fit.augment {
            augment.check(&data.fields()[picks[0]])?;
        }
        if fit.steps_per_submit.is_some_and(|steps| !(1..=MOST_STEPS).contains(&steps)) {
            return Err(Error::argument("steps_per_submit", format!("must be 1 to {MOST_STEPS}")));
        }
        if fit.averaged {
            self.averaged()?;
        }
        if fit.check_weights == Some(0) {
            return Err(Error::argument("check_weights", "weights are compared after each n-th step, and n must be at least 1"));
        }
        self.no_part("fit")?;
        self.read_out(fit.readouts).await?;
        let resumes = fit.resume.is_some();
        fit.saver = fit.checkpoints.take().map(|wants| Saver::new(wants, resumes)).transpose()?;
        let cut = self.note_shards(fit.cut(data.len(), self.ranks())?, data.len())?;
        let wanted: Vec<&Dataset> = [data].into_iter().chain(fit.validation).collect();
        self.budget = fit.memory;
        let cut = match fit.memory {
            // This runs before anything changes, and also if there are no epochs.
            None => {
                let cut = self.settle(cut, &fit).await?;
                self.hold(&wanted, fit.resident).await;
                cut
            }
            Some(bytes) => {
                self.release();
                let validation = fit.validation.map(Dataset::len);
                let mut fitting = Ok(None);
                for most in [fit.resident.min(bytes / 2), 0] {
                    self.hold(&wanted, most).await;
                    self.feed_from(data, fit.augment);
                    fitting = self.fitting(bytes, &cut, validation, fit.saver.is_some() && !fit.gathers);
                    if fitting.is_ok() || self.held.is_empty() {
                        break;
                    }
                }
                let micro = self.least(fitting?)?;
                self.settle(Cut { micro, ..cut }, &fit).await?
            }
        };
        if fit.readouts.noise_scale && fit.epochs > 0 && cut.micro.is_none() {
            let why = "it compares the gradients of the micro-batches of a step, but steps have one batch each; set Fit::micro_batch or \
                       Fit::accumulate";
            return Err(Error::argument("noise_scale", why));
        }
        let cut = self.join_shards(cut, fit.drop_last)?;
        self.update.optimizer.time(cut.steps, self.samples_of_step(cut), self.step)?;
        self.collect().await?;
        if !fit.append {
            self.noise = Noise::default();
        }
        let before = if fit.append { mem::take(&mut self.history.epochs) } else { Vec::new() };
        self.place = Place::after(before.last().map_or(0, |epoch| epoch.epoch));
        self.history = History { micro_batch: cut.micro, epochs: before, stopped: false };
        let states = match fit.resume.take() {
            Some(path) => self.resume(&path, &fit, cut, data.len())?,
            None => Vec::new(),
        };
        let each = cut.each_rank(self.ranks());
        self.ranks.iter_mut().for_each(|ranks| ranks.each = Some(each as u32));
        if self.ranks.is_some() {
            self.room_of_rank(each)?;
        }
        self.agree_on_place(cut, fit.shuffle)?;
        let result = self.epochs(data, &mut fit, cut, &states).await;
        // After an error, the latest checkpoint is still written.
        let result = result.and(fit.finish(self));
        // All ranks end together, so a rank whose last checkpoint could not be written is heard.
        let result = result.and_then(|()| self.gather(What::End, Vec::new).map(|_| ()));
        self.tally = None;
        // After an error in the middle of a step, the next step must not contain its micro-batches.
        let forgotten = self.forget_micro();
        result.and(forgotten).map(|()| self.history.clone())
    }
    /// Returns the reports of the last call of [`fit`](Trainer::fit), and of earlier calls after [`Fit::append`]. If the call failed, they cover the epochs that were complete.
    pub fn history(&self) -> &History {
        &self.history
    }
    /// Makes the plans of an epoch, and checks that the model accepts the batches of remaining samples.
    async fn settle(&mut self, cut: Cut, fit: &Fit<'_>) -> Result<Cut> {
        let keys = cut.keys();
        if fit.epochs == 0 {
            return Ok(cut);
        }
        for key in keys {
            let left = key.samples().unwrap_or(0);
            match self.plan(key).await {
                Err(Error::Op { .. }) if left == 1 && !cut.joins && cut.each > 1 && cut.micro != Some(1) => {
                    return Box::pin(self.settle(cut.joined(), fit)).await;
                }
                Err(Error::Op { op, operands, why, place }) if left < cut.each => {
                    let advice = match cut.micro {
                        Some(micro) if micro == left => format!("The model does not accept micro-batches of {left}: choose another size"),
                        Some(_) => format!(
                            "The last micro-batch has the {left} remaining samples: choose a size that divides the batch size, and \
                             leave out the remaining samples of the last step with Fit::drop_last"
                        ),
                        None => {
                            format!("The last batch has only {left} of the {} samples: leave them out with Fit::drop_last", cut.samples)
                        }
                    };
                    return Err(Error::Op { op, operands, why: format!("{why}. {advice}"), place });
                }
                other => other?,
            }
        }
        Ok(cut)
    }
    async fn epochs(&mut self, data: &Dataset, fit: &mut Fit<'_>, cut: Cut, states: &[Saved]) -> Result<()> {
        let last = self.place.start + fit.epochs;
        let memory = match (fit.progress, cut.keys().first()) {
            (Progress::Off, _) | (_, None) => None,
            (_, Some(&key)) => self.step_memory(key).ok().map(|memory| memory.total()),
        };
        let mut progress = Shown::new(fit.progress, self.place.start..last, cut.steps, memory);
        let resident = self.resident(data);
        let mut flow = fit.each(self, self.place.epoch, cut.steps, |callback, run| callback.on_train_begin(run))?;
        // A callback without state saves nothing.
        for (callback, saved) in fit.hooks.iter_mut().zip(states).filter(|(_, saved)| **saved != Saved::default()) {
            callback.load(saved)?;
        }
        if self.history.stopped {
            flow = Flow::Stop;
        }
        while flow != Flow::Stop && self.place.epoch < last {
            flow = match self.run_epoch(data, fit, cut, &mut progress, resident.as_ref()).await {
                Err(error @ Error::Diverged { .. }) => {
                    let mut goes_on = false;
                    let flow = fit.each(self, self.place.epoch + 1, cut.steps, |callback, run| {
                        goes_on |= callback.on_diverged(run, &error)?;
                        Ok(())
                    })?;
                    if goes_on { flow } else { return Err(error) }
                }
                other => other?,
            };
        }
        self.history.stopped = flow == Flow::Stop;
        progress.finish();
        // The last checkpoint comes before the end of the callbacks, so that a training that resumes from it ends in the same way.
        fit.save(self, cut).await?;
        fit.each(self, self.place.epoch, cut.steps, |callback, run| callback.on_train_end(run)).map(|_| ())
    }
    /// Runs an epoch from its place on: its steps, the validation and the report.
    async fn run_epoch(
        &mut self,
        data: &Dataset,
        fit: &mut Fit<'_>,
        cut: Cut,
        progress: &mut Shown,
        resident: Option<&Arc<Resident>>,
    ) -> Result<Flow> {
        let epoch = self.place.epoch + 1;
        if self.tally.is_none() {
            let flow = fit.each(self, epoch, cut.steps, |callback, run| callback.on_epoch_begin(run))?;
            if flow != Flow::Go {
                return Ok(flow);
            }
            self.place = Place { first: self.step, lr: self.lr(), began: Instant::now(), ..self.place };
            self.tally = Some(Default::default());
            self.measured.clear();
            self.epoch += 1;
        }
        // A shard has an order of its own.
        let seed = self.seed.wrapping_add(if cut.sharded { self.rank() as u64 } else { 0 });
        let order = if fit.shuffle { data::shuffled(data.len(), seed, self.epoch - 1) } else { (0..data.len()).collect() };
        let mut flow = self.run_steps(Course { data, fit, progress, epoch, cut, order: &order }, resident).await?;
        self.collect().await?;
        if flow == Flow::Moved {
            return Ok(flow);
        }
        let (tally, losses) = self.tally.take().unwrap_or_default();
        let seconds = self.place.began.elapsed().as_secs_f64();
        let (loss, accuracy) = (tally.loss(), tally.accuracy());
        let samples_per_s = tally.samples() / seconds;
        let mut report = Epoch {
            epoch,
            loss,
            accuracy,
            watched: tally.watched(),
            validation: None,
            validation_watched: Default::default(),
            losses,
            lr: self.place.lr,
            seconds,
            samples_per_s,
            noise_scale: self.noise.scale().filter(|_| fit.readouts.noise_scale),
            norms: mem::take(&mut self.measured),
        };
        self.place.epoch = epoch;
        if let Some(data) = fit.validation {
            flow = flow.max(fit.each(self, epoch, cut.steps, |callback, run| callback.on_evaluate_begin(run))?);
            let since = Instant::now();
            let seen = &mut |done| progress.validation(done, data.len(), since);
            let evaluated = match fit.averaged {
                true => self.averaged()?.evaluate_with(data, seen).await,
                false => self.evaluate_with(data, seen).await,
            };
            match evaluated {
                Ok(e) => {
                    let e = self.as_rank_0(e)?;
                    report.validation = Some((e.loss, e.accuracy));
                    report.validation_watched = e.watched.clone();
                    flow = flow.max(fit.each(self, epoch, cut.steps, |callback, run| callback.on_evaluate_end(run, &e))?);
                }
                Err(error) => {
                    self.history.epochs.push(report);
                    return Err(error);
                }
            }
        }
        progress.epoch(&report);
        // The losses of all steps may be long, so the report is copied only for callbacks.
        if fit.hooks.is_empty() {
            let stop = fit.call(&Event::Epoch(&report));
            self.history.epochs.push(report);
            return self.together(if stop { Flow::Stop } else { flow });
        }
        self.history.epochs.push(report.clone());
        flow = flow.max(fit.each(self, epoch, cut.steps, |callback, run| callback.on_epoch_end(run, &report))?);
        let stop = fit.call(&Event::Epoch(&report));
        self.together(if stop { Flow::Stop } else { flow })
    }
}
