//! Where the batches of [`fit`](Trainer::fit) come from: data that lies on the device, or the host.

use super::{Fit, Trainer, cut::Part, options::Event, plans::Batch, progress::Progress};
use crate::{
    data::{Augment, Dataset, Features, Id, Target},
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

/// Bytes of a data set that goes to a device by itself. Few devices say how much memory they have; this much they all
/// have that people train on.
pub(super) const RESIDENT: u64 = 2 << 30;
/// Batches that are ready while one is trained on.
const READY: usize = 2;

/// `augment` as the device takes it.
fn flip_shift(augment: &Augment) -> FlipShift {
    let [horizontal, vertical] = augment.thresholds();
    FlipShift { horizontal, vertical, shift: augment.crop_padding as u32 }
}

/// A data set on the device.
pub(super) struct Held {
    id: Id,
    data: Arc<Resident>,
    /// Where steps are made on it: how its images are changed when they are fetched.
    trains: Option<Option<FlipShift>>,
}

impl Held {
    /// What steps fetch their batches from, if they are made on it.
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

/// An epoch that is under way.
pub(super) struct EpochRun<'a, 'f> {
    pub data: &'a Dataset,
    pub fit: &'a mut Fit<'f>,
    pub progress: &'a mut Progress,
    /// From 1.
    pub epoch: usize,
    /// The samples of each step.
    pub steps: usize,
    pub parts: Vec<Part<'a>>,
}

impl Trainer {
    /// Puts these data sets on the device, the first ones first, as far as they fit in `most` bytes together. Those that are there
    /// stay, all others make room.
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
        self.gone = gone.iter().map(Held::counters).chain([self.gone]).sum();
        let plans = self.plans.values_mut().filter_map(|loaded| loaded.engine.gpu_mut());
        plans.chain(self.inference.values_mut().filter_map(|(f, _)| f.gpu())).for_each(|exec| exec.starve());
    }
    /// Says that the next steps are made on this data set, if it is on the device.
    pub(super) fn feed_from(&mut self, data: &Dataset, augment: Option<Augment>) {
        self.held.iter_mut().for_each(|held| held.trains = held.id.is(data.id()).then_some(augment.as_ref().map(flip_shift)));
    }
    /// The data set on the device, if it is there.
    pub(super) fn resident(&self, data: &Dataset) -> Option<Arc<Resident>> {
        self.held.iter().find(|held| held.id.is(data.id())).map(|held| held.data.clone())
    }
    async fn put(&self, data: &Dataset, most: u64) -> Option<Held> {
        let gpu = self.device.as_gpu()?;
        let means = data.means();
        let width = data.sample_shape().elements();
        let mut columns = vec![match data.features() {
            Features::Float(v) => (FeedColumn::Float(v), width),
            Features::Tokens { data, .. } => (FeedColumn::Index(data), width),
            Features::Bytes { data, .. } => (FeedColumn::Bytes { data, means: &means }, width),
        }];
        if self.model.as_ref().is_some_and(|model| model.target != super::TargetKind::Input) {
            match data.target() {
                Target::None => {}
                Target::Labels { sample, values, .. } => columns.push((FeedColumn::Index(values), sample.elements())),
                Target::Values { sample, data } => columns.push((FeedColumn::Float(data), sample.elements())),
            }
        }
        // Where it does not work out (too little memory, say) batches come from the host; a device that is lost will say so there.
        let resident = Resident::new(gpu, &columns, data.len(), most).await.ok()??;
        Some(Held { id: data.id(), data: Arc::new(resident), trains: None })
    }

    /// The steps of an epoch; whether a callback ends the training.
    pub(super) async fn run_epoch(&mut self, course: EpochRun<'_, '_>, resident: Option<&Arc<Resident>>) -> Result<bool> {
        // Whatever takes long comes before the first step.
        let augment = course.fit.augment;
        self.feed_from(course.data, augment);
        let mut keys: Vec<Batch> = Vec::new();
        for part in &course.parts {
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
            resident.set_order(&course.parts.iter().flat_map(|part| part.rows).copied().collect::<Vec<_>>())?;
            return self.walk(course, None).await;
        }
        let (data, seed) = (course.data, self.seed);
        // Each part with the number that its random changes are drawn by.
        let mut step = self.step;
        let mut draws = Vec::with_capacity(course.parts.len());
        for part in &course.parts {
            draws.push((StepRow { step, micro: part.number, ..StepRow::default() }.draw(), part.rows));
            step += u64::from(!part.more);
        }
        let gather = move |(draw, rows): (u64, &[usize]), x: &mut Host<f32>, y: &mut Host<f32>| {
            data.gather_augmented(rows, augment.as_ref().map(|augment| (augment, seed, draw)), x, y)
        };
        let new = || (Host::labels([0], Vec::new()), Host::labels([0], Vec::new()));
        if self.device.as_gpu().is_none() {
            // Every core is at work already. The batch goes where the plan reads it, and is nowhere else.
            let (mut no_x, mut no_y) = new();
            let mut write = |engine: &mut Engine, _: usize, k: usize| {
                let mut inputs = engine.inputs().iter_mut();
                let x = inputs.next().unwrap_or(&mut no_x);
                gather(draws[k], x, inputs.next().unwrap_or(&mut no_y))
            };
            return self.walk(course, Some(&mut write)).await;
        }
        let (full, filled) = mpsc::sync_channel::<Result<(Host<f32>, Host<f32>)>>(READY);
        let (back, empty) = mpsc::channel();
        // Moved in there, the channel ends with the steps, however they end, and with it the thread.
        thread::scope(move |scope| {
            scope.spawn(move || {
                for drawn in draws {
                    let (mut x, mut y) = empty.try_recv().unwrap_or_else(|_| new());
                    let gathered = gather(drawn, &mut x, &mut y).map(|()| (x, y));
                    if full.send(gathered).is_err() {
                        break;
                    }
                }
            });
            let mut write = move |engine: &mut Engine, inputs: usize, _: usize| {
                let gathered = filled.recv().map_err(|_| Error::argument("fit", "the thread that gathers batches ended"))?;
                let (x, y) = gathered?;
                put(engine, inputs, &x, &y)?;
                // Where nobody takes it back the last batches are on their way.
                let _ = back.send((x, y));
                Ok(())
            };
            pollster::block_on(self.walk(course, Some(&mut write)))
        })
    }

    /// The steps of an epoch, each on the batch that `write` puts in the inputs, or else on one that it fetches itself.
    async fn walk(&mut self, course: EpochRun<'_, '_>, mut write: Option<Write<'_>>) -> Result<bool> {
        let EpochRun { fit, progress, epoch, steps, parts, .. } = course;
        let fed = write.is_none();
        // What goes in the next submit; the steps that are complete, and the samples of the one that is not.
        let (mut queued, mut made, mut samples) = (Vec::new(), 0, 0);
        for (k, part) in parts.iter().enumerate() {
            let loaded = self.plans.get_mut(part.key).expect("run_epoch has made the plans of all batches");
            let together = match &mut write {
                Some(write) => {
                    write(&mut loaded.engine, loaded.inputs.len(), k)?;
                    1
                }
                None => loaded.engine.steps_per_submit(fit.steps_per_submit),
            };
            queued.push((part.more, part.start));
            samples += part.rows.len();
            if queued.len() >= together || parts.get(k + 1).is_none_or(|next| next.key != part.key) {
                self.make_room(queued.len()).await?;
                self.run(part.key, fed, queued.drain(..))?;
            }
            if part.more {
                continue;
            }
            made += 1;
            let stop = fit.call(&Event::Step { epoch, step: made, steps });
            if stop && !queued.is_empty() {
                self.make_room(queued.len()).await?;
                self.run(part.key, fed, queued.drain(..))?;
            }
            if progress.wants_loss() {
                self.glance().await?;
            }
            progress.step(epoch, made, mem::take(&mut samples), self.reports.back());
            if stop {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Puts the batch of a step of that number in the inputs, of which there are so many.
type Write<'a> = &'a mut dyn FnMut(&mut Engine, usize, usize) -> Result<()>;

fn put(engine: &mut Engine, inputs: usize, x: &Host<f32>, y: &Host<f32>) -> Result<()> {
    [x, y].into_iter().take(inputs).enumerate().try_for_each(|(i, data)| engine.write(i, data))
}
