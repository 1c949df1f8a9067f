//! Single steps of a trainer, steps made of micro-batches, and the profile of a step.

use super::{
    Loaded, Made, Trainer, check_finite,
    plans::{Latest, PlanKey},
    ranks::Traced,
    synced::gather_values,
};
use crate::{
    engine::check_input,
    error::{Error, Result},
    gpu::StepRow,
    host::Host,
    plan::no_gather,
    profile::{Exchange, Peaks, Profile, StepTimes, median},
    world::What,
};
use std::{mem, time::Instant};

impl Trainer {
    /// Makes one step on a batch. `batch` has the graph's inputs, in the order in which the graph created them.
    ///
    /// On a GPU, `step` returns when the work is queued. [`loss`](Trainer::loss) waits for the work. After
    /// [`accumulate`](Trainer::accumulate), the batch is the last micro-batch of the step.
    ///
    /// # Errors
    /// An input does not fit the graph, a label is not less than the number of classes, the data contains NaN or infinity, or
    /// the device fails.
    pub fn step(&mut self, batch: &[Host<f32>]) -> Result<()> {
        pollster::block_on(self.step_async(batch))
    }
    /// [`step`](Trainer::step), without blocking.
    pub async fn step_async(&mut self, batch: &[Host<f32>]) -> Result<()> {
        if self.ranks.is_some() {
            let made = self.share_batch(batch, false).await;
            return self.told(made);
        }
        let key = match self.micro {
            0 => self.take(batch, PlanKey::Whole).await?,
            _ => self.take(batch, PlanKey::Micro).await?,
        };
        self.advance(key, false).await
    }
    /// Adds a micro-batch to the next step. [`step`](Trainer::step) adds the last micro-batch and makes the update. The update
    /// uses the gradient of the mean loss over the samples of all micro-batches. Micro-batches may have different sizes:
    ///
    /// g = Σ nⱼ·gⱼ / Σ nⱼ, or Σ wⱼ·gⱼ / Σ wⱼ for a [weighted mean](crate::losses::weighted_mean) that divides by wⱼ.
    ///
    /// A loss that is a sum over samples is treated as a mean. As in PyTorch, each micro-batch draws its own dropout masks and
    /// updates the running averages of batch norm. The step's [report](super::StepReport) covers all micro-batches.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Sgd};
    /// let g = Graph::training();
    /// let w = g.input([2, 1]).linear("line", 1).mse(g.input([2, 1]));
    /// let mut trainer = Trainer::new(&Device::cpu(), w, Sgd::new(0.1))?;
    /// let batch = |x: f32| [Host::new([2, 1], vec![x, x + 1.0]), Host::new([2, 1], vec![2.0 * x, 2.0 * x + 2.0])];
    /// trainer.accumulate(&batch(0.0))?;
    /// trainer.accumulate(&batch(2.0))?;
    /// trainer.step(&batch(4.0))?;
    /// let report = trainer.take_reports()?.remove(0);
    /// assert_eq!((trainer.steps(), report.samples), (1, 6));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`step`](Trainer::step). Also a loss with means of several kinds, because the gradients of its
    /// micro-batches do not add up to the gradient of the batch.
    pub fn accumulate(&mut self, batch: &[Host<f32>]) -> Result<()> {
        pollster::block_on(self.accumulate_async(batch))
    }
    /// [`accumulate`](Trainer::accumulate), without blocking.
    pub async fn accumulate_async(&mut self, batch: &[Host<f32>]) -> Result<()> {
        if self.ranks.is_some() {
            let made = self.share_batch(batch, true).await;
            return self.told(made);
        }
        let key = self.take(batch, PlanKey::Micro).await?;
        self.advance(key, true).await
    }
    /// Checks a batch and puts it into the inputs of its plan.
    pub(super) async fn take(&mut self, batch: &[Host<f32>], key: fn(usize) -> PlanKey) -> Result<PlanKey> {
        // The plan is made for the size that the shape states, so the shape must be true.
        let broken = batch.iter().enumerate().find(|(_, x)| self.model.is_some() && !x.fits(x.shape));
        if let Some((i, x)) = broken {
            let (what, got) = (format!("input {i}"), format!("{} with {}", x.shape, x.content()));
            return Err(Error::Input { what, got, want: "values of the number and type that the shape states".into() });
        }
        let key = key(match self.model {
            None => 0,
            Some(_) => batch.first().and_then(|x| x.shape.dims().first().copied()).unwrap_or(0),
        });
        if let (Some(model), Some(x)) = (&self.model, batch.first())
            && (x.shape.rank() == 0 || x.shape.sample() != model.x)
        {
            // This check comes first, because a wrong first axis would give a plan for a wrong number of samples.
            let want = format!("samples of shape {}, and a first axis that counts them", model.x);
            return Err(Error::Input { what: "input 0".into(), got: x.shape.to_string(), want });
        }
        self.plan(key).await?;
        let Some(loaded) = self.plans.get_mut(key) else {
            return Err(Error::argument("step", "the batch is empty"));
        };
        if batch.len() != loaded.inputs.len() {
            let (got, want) = (format!("{} tensors", batch.len()), loaded.inputs.len().to_string());
            return Err(Error::Input { what: "the batch".into(), got, want });
        }
        for (i, (data, def)) in batch.iter().zip(&loaded.inputs).enumerate() {
            check_input(def, i, data)?;
            check_finite(i, data)?;
        }
        for (i, data) in batch.iter().enumerate() {
            loaded.engine.write(i, data)?;
        }
        Ok(key)
    }
    /// Makes another step on the batch of the last step. The batch is still on the device, so nothing is checked or uploaded.
    ///
    /// # Errors
    /// There was no step before, the last step had several micro-batches, or the device fails.
    pub fn step_again(&mut self) -> Result<()> {
        self.no_part("step_again")?;
        match self.last {
            Some(PlanKey::Micro(_)) => {
                Err(Error::argument("step_again", "the last step had several micro-batches, but the device has only the last micro-batch"))
            }
            Some(PlanKey::Mean) => Err(Error::argument("step_again", "the last step was made over ranks; give the batch to Trainer::step")),
            Some(key) => pollster::block_on(self.advance(key, false)),
            None => Err(Error::argument("step_again", "there was no step before it, so there is no batch")),
        }
    }
    /// Discards the micro-batches that wait for their step.
    pub(super) fn forget_micro(&mut self) -> Result<()> {
        match mem::take(&mut self.micro) {
            0 => Ok(()),
            _ => self.store.forget_micro(),
        }
    }
    /// Returns an error if micro-batches wait for the step that completes them.
    pub(super) fn no_part(&self, what: &str) -> Result<()> {
        match self.micro {
            0 => Ok(()),
            n => {
                let why = format!(
                    "micro-batches are accumulated ({n} so far) and wait for their step; complete the step first, with Trainer::step"
                );
                Err(Error::argument(what, why))
            }
        }
    }
    /// Runs the batch that has been written into the inputs. The update follows, unless `more` micro-batches do.
    pub(super) async fn advance(&mut self, key: PlanKey, more: bool) -> Result<()> {
        self.update.optimizer.check_time()?;
        self.make_room(1).await?;
        self.run(key, false, [(more, 0)])
    }
    /// Runs batches in one submit. Each item of `batches` is a pair: whether `more` micro-batches of the same step follow, and
    /// the position of the first sample in the order of the epoch. If `fed`, each batch fetches its samples from this position
    /// on. Otherwise there is one batch, which has been written into the inputs. The ring must have room for all batches.
    pub(super) fn run(&mut self, key: PlanKey, fed: bool, batches: impl IntoIterator<Item = (bool, u32)>) -> Result<()> {
        let end = self.number(batches);
        let loaded = self.plans.get_mut(key).expect("the plan was loaded before its batch");
        let left = loaded.engine.exchanges();
        loaded.engine.run(&self.rows, fed, Some(&self.update), &mut gather_values(&mut self.ranks, self.step, left, false))?;
        self.ran(key, fed, end);
        Ok(())
    }
    /// Fills the rows of the next batches. Returns the numbers of the step and of the micro-batch behind them.
    pub(super) fn number(&mut self, batches: impl IntoIterator<Item = (bool, u32)>) -> (u64, u32) {
        self.rows.clear();
        let (mut step, mut micro) = (self.step, self.micro);
        for (k, (more, sample)) in (self.batches..).zip(batches) {
            let norms = (!more && self.update.readouts.measures(step)).then_some(self.measurements);
            self.measurements += u64::from(norms.is_some());
            let micro_of_step = self.ranks.as_ref().map_or(micro, |ranks| ranks.number(micro));
            self.rows.push(StepRow { seed: self.seed, step, micro: micro_of_step, more, batch: k, sample, norms, half: None });
            (step, micro) = if more { (step, micro + 1) } else { (step + 1, 0) };
        }
        (step, micro)
    }
    /// Notes that the batches of the rows have been queued. `end` is what [`number`](Trainer::number) returned.
    pub(super) fn ran(&mut self, key: PlanKey, fed: bool, end: (u64, u32)) {
        let samples = self.plans.get(key).map_or(0, |loaded| loaded.batch);
        self.unread.extend(self.rows.iter().map(|&row| Made { row, samples, given: key == PlanKey::Given }));
        self.batches += self.rows.len() as u64;
        ((self.step, self.micro), self.last, self.fed) = (end, Some(key), fed);
    }
    /// Does the work of [`profile`](Trainer::profile) over ranks.
    async fn profile_ranks(&mut self, steps: usize, peaks: Peaks) -> Result<Profile> {
        let none = || Error::argument("profile", "this rank had no sample in the last step, so there is no batch to measure");
        let key = self.ranks.as_ref().and_then(|ranks| ranks.last).filter(|&key| self.plans.get(key).is_some()).ok_or_else(none)?;
        let (mut plain, mut exchanges, mut traced, mut times) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let zero = Instant::now();
        for _ in 0..steps {
            let start = Instant::now();
            let begun = zero.elapsed().as_secs_f64();
            self.ranks.iter_mut().for_each(|ranks| ranks.times = Some(Traced { zero, begun, times: StepTimes::default() }));
            let sent = self.run_last(key, false, [(true, 0)]).await?;
            self.share(sent).await?;
            plain.push(start.elapsed().as_secs_f64());
            exchanges.extend(self.ranks.as_ref().map(|ranks| ranks.exchange));
            traced.extend(self.ranks.as_mut().and_then(|ranks| ranks.times.take()).map(|traced| traced.times));
        }
        for _ in 0..steps {
            let end = self.number([(true, 0)]);
            let loaded = self.plans.get_mut(key).expect("it was there before the steps");
            let mut gather = gather_values(&mut self.ranks, self.step, loaded.engine.exchanges(), true);
            let mut time = loaded.engine.profile(&self.rows[0], false, Some(&self.update), &mut gather, zero).await?;
            drop(gather);
            self.ran(key, false, end);
            self.share(Default::default()).await?;
            time.lap("exchange and update", zero, 0.0);
            times.push(time);
        }
        let kernels = self.plans.get(key).map_or(Vec::new(), |loaded| loaded.engine.kernels());
        let of = |f: fn(&Exchange) -> f64| median(exchanges.iter().map(f).collect());
        let exchange = exchanges.last().map(|last| Exchange { seconds: of(|e| e.seconds), waited: of(|e| e.waited), ..*last });
        let profile = Profile::new(self.device.to_string(), self.device.clock(), peaks, kernels, plain, &times);
        let mut profile = profile.with_exchange(exchange, &traced);
        if let Some(all) = self.gather(What::Times, || profile.shared(self.rank()))? {
            profile.join(&all).map_err(|rank| Error::Rank { rank, why: "its times cannot be read".into() })?;
        }
        Ok(profile)
    }
    /// Measures where the time of a step goes. The profile has the time of each kernel, the time of the host, and the fraction
    /// of the device's [peaks](crate::Device::peaks) that each kernel reaches. The device's own clock measures the kernels,
    /// where there is one.
    ///
    /// The method makes `steps` training steps without clocks and then `steps` training steps with clocks, for comparison. All
    /// of them use the batch of the last step. They are ordinary steps: they change the parameters, they are counted, and their
    /// losses are reported.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Adam};
    /// let g = Graph::training();
    /// let loss = g.input([32, 8]).linear("fc1", 64).relu().linear("fc2", 1).mse(g.input([32, 1]));
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(1e-3))?;
    /// trainer.step(&[Host::new([32, 8], vec![0.5; 256]), Host::new([32, 1], vec![1.0; 32])])?;
    /// let profile = trainer.profile(5)?;
    /// println!("{profile}");
    /// profile.write_trace(std::env::temp_dir().join("trace.json"))?; // For https://ui.perfetto.dev.
    /// assert_eq!(trainer.steps(), 11);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// There was no step before, so there is no batch. Also the errors of [`step_again`](Trainer::step_again).
    ///
    /// # Ranks
    /// All [ranks](Trainer::distributed) must call this method. The profile of a rank has the kernels of its micro-batch. The host's times
    /// have the rest of the step: the exchange of gradients and the update, without overlap. [`Profile::exchange`] has the exchange as in
    /// training, and how much of it is hidden behind the computation. The [trace](Profile::write_trace) has the steps of all ranks.
    pub fn profile(&mut self, steps: usize) -> Result<Profile> {
        pollster::block_on(self.profile_async(steps))
    }
    /// [`profile`](Trainer::profile), without blocking.
    pub async fn profile_async(&mut self, steps: usize) -> Result<Profile> {
        self.no_part("profile")?;
        let none = || Error::argument("profile", "there was no step before it, so there is no batch to measure");
        let key = self.last.ok_or_else(none)?;
        let peaks = self.device.peaks_async().await?;
        if self.ranks.is_some() {
            let profile = self.profile_ranks(steps.max(1), peaks).await;
            return self.told(profile);
        }
        let (mut plain, mut times) = (Vec::new(), Vec::new());
        // If the last batch was fetched from data on the device, it is fetched again, provided that the data is still there.
        let there = self.plans.get(key).and_then(|loaded| loaded.engine.gpu()).is_some_and(|exec| !exec.fetch().is_empty());
        let (fed, sample) = (self.fed && there, self.rows.last().map_or(0, |row| row.sample));
        let (wait, steps) =
            (|loaded: &mut Latest<PlanKey, Loaded>| loaded.get_mut(key).map_or(Ok(()), |l| l.engine.finish()), steps.max(1));
        for _ in 0..steps {
            wait(&mut self.plans)?;
            let start = Instant::now();
            self.make_room(1).await?;
            self.run(key, fed, [(false, sample)])?;
            wait(&mut self.plans)?;
            plain.push(start.elapsed().as_secs_f64());
        }
        let zero = Instant::now();
        for _ in 0..steps {
            self.make_room(1).await?;
            let row = StepRow { seed: self.seed, step: self.step, batch: self.batches, sample, ..StepRow::default() };
            let loaded = self.plans.get_mut(key).expect("the last step was made on it");
            times.push(loaded.engine.profile(&row, fed, Some(&self.update), &mut no_gather, zero).await?);
            self.unread.push(Made { row, samples: loaded.batch, given: key == PlanKey::Given });
            (self.step, self.batches) = (self.step + 1, self.batches + 1);
        }
        let kernels = self.plans.get(key).map_or(Vec::new(), |loaded| loaded.engine.kernels());
        Ok(Profile::new(self.device.to_string(), self.device.clock(), peaks, kernels, plain, &times))
    }
}
