//! Feeds the batches of [`fit`](Trainer::fit), from data on the device or from the host.

use super::{
    Fit, Trainer,
    callback::{Flow, wants},
    cut::{Cut, Part},
    options::Event,
    plans::PlanKey,
    progress::Shown,
};
use crate::{
    data::{Augment, Dataset, Features, Field, Id},
    engine::{Engine, Fed},
    error::{Error, Result},
    gpu::{Counters, FeedColumn, FlipShift, Resident, StepRow},
    host::Host,
};
use std::{
    mem,
    sync::{Arc, mpsc},
    thread,
};

/// The default of `Fit::resident`. Few devices report how much memory they have. Every device that people train on has this
/// much.
pub(super) const RESIDENT: u64 = 2 << 30;
/// The number of batches that are prepared ahead of the current step.
const READY: usize = 2;

/// Converts `augment` to the form that the device uses.
fn flip_shift(augment: &Augment) -> FlipShift {
    let [horizontal, vertical] = augment.thresholds();
    FlipShift { horizontal, vertical, shift: augment.crop_padding as u32 }
}

/// A data set on the device.
pub(super) struct Held {
    id: Id,
    data: Arc<Resident>,
    /// `Some` where steps fetch batches from this data set. The inner option is the augmentation that fetching applies.
    trains: Option<Option<FlipShift>>,
}

impl Held {
    /// Returns the data and the augmentation, if steps fetch batches from this data set.
    pub fn fed(&self) -> Option<Fed<'_>> {
        Some((&self.data, self.trains?))
    }
    pub fn bytes(&self) -> u64 {
        self.data.bytes()
    }
    pub fn counters(&self) -> Counters {
        let [bytes_uploaded, allocations] = self.data.counts();
        Counters { bytes_uploaded, allocations, ..Counters::default() }
    }
}

/// An epoch in progress. Its steps follow from its order. The trainer knows how many of them are made.
pub(super) struct Course<'a, 'f> {
    pub data: &'a Dataset,
    pub fit: &'a mut Fit<'f>,
    pub progress: &'a mut Shown,
    /// The number of the epoch. The first epoch is 1.
    pub epoch: usize,
    pub cut: Cut,
    /// The order of the samples.
    pub order: &'a [usize],
}

impl Trainer {
    /// Uploads the data sets `wanted` to the device, in order, while they fit into `most` bytes together. Data sets that are
    /// already there stay. All other data sets are dropped.
    pub(super) async fn hold(&mut self, wanted: &[&Dataset], mut most: u64) {
        let keep = |held: &Held| wanted.iter().any(|data| held.id.is(data.id()));
        let (kept, gone): (Vec<Held>, Vec<Held>) = self.held.drain(..).partition(keep);
        self.held = kept;
        if !gone.is_empty() {
            self.let_go(gone);
        }
        for data in wanted {
            if let Some(held) = self.resident(data) {
                if held.bytes() <= most {
                    most -= held.bytes();
                    continue;
                }
                let (small, large) = self.held.drain(..).partition(|held| !held.id.is(data.id()));
                self.held = small;
                self.let_go(large);
            }
            if let Some(held) = self.put(data, most).await {
                most = most.saturating_sub(held.bytes());
                self.held.push(held);
            }
        }
    }
    fn let_go(&mut self, gone: Vec<Held>) {
        gone.iter().for_each(|gone| self.gone += gone.counters());
        let plans = self.plans.values_mut().filter_map(|loaded| loaded.engine.gpu_mut());
        plans.chain(self.inference.values_mut().filter_map(|(f, _)| f.gpu())).for_each(|exec| exec.starve());
    }
    /// Makes the next steps fetch their batches from this data set, if it lies on the device.
    pub(super) fn feed_from(&mut self, data: &Dataset, augment: Option<Augment>) {
        self.held.iter_mut().for_each(|held| held.trains = held.id.is(data.id()).then_some(augment.as_ref().map(flip_shift)));
    }
    /// Returns the data set on the device, if it lies there.
    pub(super) fn resident(&self, data: &Dataset) -> Option<Arc<Resident>> {
        self.held.iter().find(|held| held.id.is(data.id())).map(|held| held.data.clone())
    }
    async fn put(&self, data: &Dataset, most: u64) -> Option<Held> {
        let gpu = self.device.as_gpu()?;
        let fields: Vec<_> = self.picks(data).ok()?.into_iter().map(|i| &data.fields()[i]).collect();
        let means: Vec<[f32; 256]> = fields.iter().map(|field| field.means()).collect();
        let column = |(field, means)| match Field::data(field) {
            Features::Float(v) => Some((FeedColumn::Float(v), field.width())),
            Features::Tokens { data, .. } => Some((FeedColumn::Index(data), field.width())),
            Features::Bytes { data, .. } => Some((FeedColumn::Bytes { data, means }, field.width())),
            Features::Source(_) => None,
        };
        let columns: Vec<_> = fields.iter().copied().zip(&means).map(column).collect::<Option<_>>()?;
        // If the upload fails, for example for lack of memory, batches come from the host. A lost device gives its error there.
        let resident = Resident::new(gpu, &columns, data.len(), most).await.ok()??;
        Some(Held { id: data.id(), data: Arc::new(resident), trains: None })
    }

    /// Runs the steps of an epoch that are not made yet. Returns how a callback wants training to go on.
    pub(super) async fn run_steps(&mut self, course: Course<'_, '_>, resident: Option<&Arc<Resident>>) -> Result<Flow> {
        let made = self.steps_of_epoch();
        let parts = match &self.ranks {
            None => course.cut.parts(course.order, made),
            Some(_) => course.cut.parts_of_rank(course.order, made, self.rank(), self.ranks()),
        };
        // Plans are made before the first step, because making them takes long.
        let augment = course.fit.augment;
        self.feed_from(course.data, augment);
        let mut keys: Vec<PlanKey> = Vec::new();
        for part in &parts {
            if !keys.contains(&part.key) {
                keys.push(part.key);
            }
        }
        for key in keys {
            self.plan(key).await?;
            let exec = self.plans.get_mut(key).and_then(|loaded| loaded.engine.gpu_mut());
            if let (Some(resident), Some(exec)) = (resident, exec) {
                exec.rested();
                exec.feed(resident, augment.as_ref().map(flip_shift)).await?;
            }
        }
        if let Some(resident) = resident {
            resident.set_order(&course.order[..course.cut.samples])?;
            return self.walk(course, &parts, Batches::There(resident)).await;
        }
        let (data, seed) = (course.data, self.seed);
        // Each part that has a batch, with the number that its augmentation is drawn with.
        let mut step = self.step;
        let mut draws = Vec::with_capacity(parts.len());
        for part in &parts {
            if part.key != PlanKey::Mean {
                draws.push((StepRow { step, micro: part.number, ..StepRow::default() }.draw(), part.rows));
            }
            step += u64::from(!part.more);
        }
        let picks = self.picks(data)?;
        let width = picks.len();
        let gather = move |(draw, rows): (u64, &[usize]), batch: &mut [Host<f32>]| {
            data.gather_into(&picks, rows, augment.as_ref().map(|augment| (augment, seed, draw)), batch)
        };
        if self.device.as_gpu().is_none() && !data.has_source() {
            // A step uses every core, so another thread would not help. Batches are gathered directly into the inputs of the
            // plan. A source may wait for a file, so it has another thread.
            let mut write = |engine: &mut Engine, k: usize| gather(draws[k], engine.inputs());
            return self.walk(course, &parts, Batches::Written(&mut write)).await;
        }
        let (full, filled) = mpsc::sync_channel::<Result<Vec<Host<f32>>>>(READY);
        let (back, empty) = mpsc::channel();
        // The closure owns its end of the channel. When the steps end, with or without an error, the channel closes and the
        // thread ends.
        thread::scope(move |scope| {
            scope.spawn(move || {
                for drawn in draws {
                    let mut batch = empty.try_recv().unwrap_or_else(|_| vec![Host::labels([0], Vec::new()); width]);
                    let gathered = gather(drawn, &mut batch).map(|()| batch);
                    if full.send(gathered).is_err() {
                        break;
                    }
                }
            });
            let mut write = move |engine: &mut Engine, _: usize| {
                let batch = filled.recv().map_err(|_| Error::argument("fit", "the thread that gathers batches ended"))??;
                batch.iter().enumerate().try_for_each(|(i, data)| engine.write(i, data))?;
                // Sending fails if the thread has already prepared its last batch and ended. The buffers are then not needed.
                let _ = back.send(batch);
                Ok(())
            };
            pollster::block_on(self.walk(course, &parts, Batches::Written(&mut write)))
        })
    }

    /// Runs steps of an epoch.
    async fn walk(&mut self, course: Course<'_, '_>, parts: &[Part<'_>], mut batches: Batches<'_>) -> Result<Flow> {
        let Course { fit, progress, epoch, cut, order, .. } = course;
        let fed = matches!(batches, Batches::There(_));
        // The batches of the next submit, the number of complete steps, and the number of samples of the current step.
        let (mut queued, mut made, mut samples) = (Vec::new(), self.steps_of_epoch(), 0);
        // The means of gradients that are on their way between ranks.
        let (mut written, mut sent) = (0, Default::default());
        for (k, part) in parts.iter().enumerate() {
            let number = self.place.first.wrapping_add(made as u64 + 1);
            let due = fit.wants(number);
            if due && part.first {
                let flow = fit.each(self, epoch, cut.steps, |callback, run| match wants(callback, number) {
                    true => callback.on_step_begin(run),
                    false => Ok(()),
                })?;
                if flow != Flow::Go {
                    return Ok(flow);
                }
                batches.back(self, order, cut)?;
            }
            let loaded = self.plans.get_mut(part.key).expect("run_steps has made the plans of all batches");
            let update = part.key == PlanKey::Mean;
            let together = match &mut batches {
                _ if update => 1,
                Batches::Written(write) => {
                    write(&mut loaded.engine, written)?;
                    written += 1;
                    1
                }
                Batches::There(_) => loaded.engine.steps_per_submit(fit.steps_per_submit),
            };
            if update {
                self.share(mem::take(&mut sent)).await?;
                // Only the report knows the samples of all ranks.
                samples = self.reports.back().map_or(0, |report| report.samples);
            } else {
                samples += part.rows.len();
                queued.push((part.more, part.start));
            }
            if !queued.is_empty() && (queued.len() >= together || parts.get(k + 1).is_none_or(|next| next.key != part.key)) {
                self.make_room(queued.len()).await?;
                match parts.get(k + 1) {
                    Some(next) if next.key == PlanKey::Mean => sent = self.run_last(part.key, fed, queued.drain(..)).await?,
                    _ => self.run(part.key, fed, queued.drain(..))?,
                }
            }
            if part.more {
                continue;
            }
            made += 1;
            let mut stop = fit.call(&Event::Step { epoch, step: made, steps: cut.steps });
            if !fit.closures.is_empty() {
                stop = self.together(if stop { Flow::Stop } else { Flow::Go })? == Flow::Stop;
            }
            // The queue also ends where the next step begins with a callback.
            let mut save = fit.saves(number);
            if fit.gathers {
                // Rank 0 has the clock of the checkpoints, and all ranks give their states.
                save = self.rank_0_says(save)?;
            }
            if (stop || due || save || fit.wants(number + 1)) && !queued.is_empty() {
                self.make_room(queued.len()).await?;
                self.run(part.key, fed, queued.drain(..))?;
            }
            if progress.wants_loss() {
                self.glance().await?;
            }
            progress.step(epoch, made, mem::take(&mut samples), self.reports.back());
            let mut flow = if stop { Flow::Stop } else { Flow::Go };
            if due {
                self.collect().await?;
                let report = self.reports.back().cloned();
                flow = flow.max(fit.each(self, epoch, cut.steps, |callback, run| match &report {
                    Some(report) if wants(callback, number) => callback.on_step_end(run, report),
                    _ => Ok(()),
                })?);
                batches.back(self, order, cut)?;
            }
            if flow != Flow::Go {
                return Ok(flow);
            }
            if save {
                self.collect().await?;
                fit.save(self, cut).await?;
            } else {
                fit.advance(self)?;
            }
        }
        Ok(Flow::Go)
    }
}

/// Where the batches of an epoch come from.
enum Batches<'a> {
    /// Each step fetches its batch on the device.
    There(&'a Resident),
    /// A function writes each batch into the inputs of the plan. Its arguments are the engine and the number of the batch.
    Written(&'a mut dyn FnMut(&mut Engine, usize) -> Result<()>),
}

impl Batches<'_> {
    /// Sets the order of the epoch again, if a callback has evaluated a data set on the device.
    fn back(&self, trainer: &mut Trainer, order: &[usize], cut: Cut) -> Result<()> {
        match (self, mem::take(&mut trainer.reordered)) {
            (Batches::There(resident), true) => resident.set_order(&order[..cut.samples]),
            _ => Ok(()),
        }
    }
}
