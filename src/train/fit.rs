//! The upper level: epochs over a data set, evaluation and prediction.

use super::{
    SOME, Trainer,
    feed::{Course, RESIDENT},
    plans::Batch,
    progress::Progress,
};
use crate::{
    data::{self, Augment, Dataset, Features, Target},
    error::{Error, Result},
    gpu::MOST_STEPS,
    graph::Graph,
    shape::Shape,
};
use std::{
    ops::{ControlFlow, Range},
    time::Instant,
};

/// What a callback is told.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was queued. Some steps may follow before a GPU is given all of them at once; none after one that a callback
    /// answers with `Break`.
    Step {
        /// From 1, within this call of `fit`.
        epoch: usize,
        /// From 1, within this epoch.
        step: usize,
        /// Of each epoch.
        steps: usize,
    },
    /// An epoch ended.
    Epoch(&'a Epoch),
}

/// One epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// From 1, within this call of `fit`.
    pub epoch: usize,
    /// Of the losses of the steps, each taken before its update: what one batch of all samples would have, as
    /// [`Evaluation::loss`](super::Evaluation::loss).
    pub loss: f64,
    /// The share of labels predicted in those steps, for a classifier; see [`Evaluation::accuracy`](super::Evaluation::accuracy).
    pub accuracy: Option<f64>,
    /// Loss and, for a classifier, accuracy on the validation data.
    pub validation: Option<(f64, Option<f64>)>,
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// The learning rate of its first step.
    pub lr: f64,
    /// Of the training part of the epoch.
    pub seconds: f64,
    /// Samples trained in a second, validation left out.
    pub samples_per_s: f64,
}

/// What `fit` did.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct History {
    /// One report for each epoch made.
    pub epochs: Vec<Epoch>,
    /// Whether a callback ended it early.
    pub stopped: bool,
    /// Samples of a micro-batch, where steps were made of such: see [`Fit::micro_batch`] and [`Fit::memory`].
    pub micro_batch: Option<usize>,
}

/// How an epoch is cut into batches, and those into micro-batches.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// Samples of a step; the last one takes what is left.
    pub each: usize,
    pub steps: usize,
    /// Of all steps together.
    pub samples: usize,
    /// Samples of a micro-batch, where steps are made of such; the last one of a step takes what is left.
    pub micro: Option<usize>,
    /// Whether one sample that is left joins the micro-batch before it.
    pub joins: bool,
}

/// The samples of a micro-batch, or of a step that has no such parts.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub rows: &'a [usize],
    /// The place of its first sample in the order of the epoch.
    pub start: u32,
    /// Its plan.
    pub key: Batch,
    /// Its number in the step, and whether others follow.
    pub number: u32,
    pub more: bool,
}

impl Cut {
    /// The samples of a step, from 0.
    fn step(&self, k: usize) -> Range<usize> {
        k * self.each..if k + 1 == self.steps { self.samples } else { (k + 1) * self.each }
    }
    /// What a step on so many samples is made of: the sizes of its parts, in order.
    fn sizes(&self, samples: usize) -> impl Iterator<Item = usize> + use<> {
        let size = self.micro.unwrap_or(samples).min(samples).max(1);
        let (whole, left) = (samples / size, samples % size);
        let joined = usize::from(self.joins && left == 1 && whole > 0);
        let rest = (left > joined).then_some(left);
        (0..whole).map(move |k| if k + 1 == whole { size + joined } else { size }).chain(rest)
    }
    /// The same where the model takes no batch of one sample: one that is left joins the micro-batch before it, or the step.
    pub fn joined(self) -> Cut {
        let last = self.step(self.steps - 1).len();
        Cut { joins: true, steps: self.steps - usize::from(last == 1 && self.steps > 1), ..self }
    }
    fn key(&self, samples: usize) -> Batch {
        if self.micro.is_some() { Batch::Micro(samples) } else { Batch::Whole(samples) }
    }
    /// The plans that an epoch takes, each once: that of the first batch comes first.
    pub fn keys(&self) -> Vec<Batch> {
        let mut keys = Vec::new();
        // All but the last step are alike.
        for k in [0, self.steps - 1] {
            for size in self.sizes(self.step(k).len()) {
                if !keys.contains(&self.key(size)) {
                    keys.push(self.key(size));
                }
            }
        }
        keys
    }
    /// The parts of all steps, in order.
    pub fn parts<'a>(&self, order: &'a [usize]) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        for k in 0..self.steps {
            let Range { mut start, end } = self.step(k);
            for (number, size) in (0..).zip(self.sizes(end - start)) {
                let rows = &order[start..start + size];
                parts.push(Part { rows, start: start as u32, key: self.key(size), number, more: start + size < end });
                start += size;
            }
        }
        parts
    }
}

type Callback<'a> = Box<dyn FnMut(&Event) -> ControlFlow<()> + 'a>;

/// How [`Trainer::fit`] goes about it.
///
/// ```
/// use downhill::{Event, Fit};
/// use std::ops::ControlFlow;
/// let fit = Fit::new().epochs(20).batch_size(256).callback(|event| match event {
///     Event::Epoch(e) if e.loss < 0.05 => ControlFlow::Break(()),
///     _ => ControlFlow::Continue(()),
/// });
/// ```
pub struct Fit<'a> {
    epochs: usize,
    batch: usize,
    accumulate: usize,
    micro: Option<usize>,
    memory: Option<u64>,
    pub(super) augment: Option<Augment>,
    resident: u64,
    pub(super) steps_per_submit: Option<usize>,
    drop_last: bool,
    shuffle: bool,
    progress: bool,
    validation: Option<&'a Dataset>,
    callbacks: Vec<Callback<'a>>,
}

impl Default for Fit<'_> {
    fn default() -> Self {
        Fit {
            epochs: 1,
            batch: 32,
            accumulate: 1,
            micro: None,
            memory: None,
            augment: None,
            resident: RESIDENT,
            steps_per_submit: None,
            drop_last: false,
            shuffle: true,
            progress: false,
            validation: None,
            callbacks: Vec::new(),
        }
    }
}

impl<'a> Fit<'a> {
    /// One epoch in shuffled batches of 32, Keras' defaults, and silent.
    pub fn new() -> Fit<'a> {
        Fit::default()
    }
    /// How often to go through the data.
    pub fn epochs(self, epochs: usize) -> Self {
        Fit { epochs, ..self }
    }
    /// Samples of a step. The last step of an epoch takes what is left; where that is one sample and the model takes no batch of
    /// one (batch norm), it goes into the batch before. Where there are fewer samples than that, all of them are one batch.
    pub fn batch_size(self, batch: usize) -> Self {
        Fit { batch, ..self }
    }
    /// Adds up the gradients of `k` batches for each step: a step then has `k` times [`batch_size`](Fit::batch_size) samples, which are
    /// computed `batch_size` at a time. See [`Trainer::accumulate`] for the mean that it takes. 1 without this.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::Adam};
    /// let iris = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Adam::new(0.05))?;
    /// trainer.fit(&iris, Fit::new().batch_size(16).accumulate(4))?;
    /// // Steps of 64, 64 and 22 samples.
    /// assert_eq!(trainer.take_reports()?.iter().map(|r| r.samples).collect::<Vec<_>>(), [64, 64, 22]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn accumulate(self, k: usize) -> Self {
        Fit { accumulate: k, ..self }
    }
    /// Computes each step in micro-batches of `n` samples, the last one of what is left, so that it takes the memory of `n` samples.
    /// The step is that of the whole batch to rounding, but for dropout, whose masks are others, and batch norm, which normalises
    /// over a micro-batch.
    pub fn micro_batch(self, n: usize) -> Self {
        Fit { micro: Some(n), ..self }
    }
    /// Trains in so many bytes of the device's memory: the largest micro-batch is taken for which weights, gradients, states, plans, data
    /// on the device and the evaluation of the [`validation`](Fit::validation) data fit. Samples that are left over take a plan of their
    /// own, so that sizes are ⌊batch / k⌋ for k = 1, 2, …, which leave little, and those that [`micro_batch`](Fit::micro_batch) and
    /// [`accumulate`](Fit::accumulate) ask for, which are not exceeded. Data goes to the device where it takes no more than half of the
    /// bytes, and does not keep a micro-batch from fitting. [`Trainer::micro_memory`] says what a size takes.
    pub fn memory(self, bytes: u64) -> Self {
        Fit { memory: Some(bytes), ..self }
    }
    /// Whether the samples that are left behind the last full batch of an epoch are left out of that epoch. Where there is no full
    /// batch, none are.
    pub fn drop_last(self, drop_last: bool) -> Self {
        Fit { drop_last, ..self }
    }
    /// Whether each epoch takes the samples in a new order, which the trainer's seed decides.
    pub fn shuffle(self, shuffle: bool) -> Self {
        Fit { shuffle, ..self }
    }
    /// Whether to show a bar with epoch, loss, accuracy, samples/s and time left; plain lines where the output is no
    /// terminal.
    pub fn progress(self, progress: bool) -> Self {
        Fit { progress, ..self }
    }
    /// Data to evaluate after each epoch.
    pub fn validation(self, data: &'a Dataset) -> Self {
        Fit { validation: Some(data), ..self }
    }
    /// Random changes to the images of each batch.
    pub fn augment(self, augment: Augment) -> Self {
        Fit { augment: Some(augment), ..self }
    }
    /// How many bytes the data, and that of the validation, may take on a GPU, 2 GiB without this. What fits goes there once (bytes as bytes, cut where
    /// a buffer would be larger than the device can bind) and stays for later calls with the same data; steps then upload nothing. Otherwise,
    /// and always with 0, another thread prepares the next batches while one is trained on. The results are the same to the bit.
    pub fn resident(self, most_bytes: u64) -> Self {
        Fit { resident: most_bytes, ..self }
    }
    /// How many steps, or micro-batches of steps, a GPU is given at once, 1 to 64, where the data is there; fewer where a kernel cannot
    /// bind the settings of so many, of thousands of groups for instance. Without this so many that they take some ten
    /// milliseconds, as was measured on the steps before. The results are the same to the bit.
    pub fn steps_per_submit(self, steps: usize) -> Self {
        Fit { steps_per_submit: Some(steps), ..self }
    }
    /// Calls `f` after each step and each epoch; `Break` ends the training.
    pub fn callback(mut self, f: impl FnMut(&Event) -> ControlFlow<()> + 'a) -> Self {
        self.callbacks.push(Box::new(f));
        self
    }
    /// How it cuts `n` samples.
    fn cut(&self, n: usize) -> Result<Cut> {
        let wrong = |what: &str, why: String| Err(Error::argument(what, why));
        let Some(size) = self.batch.checked_mul(self.accumulate) else {
            return wrong("accumulate", format!("{} batches of {} samples are more than can be counted", self.accumulate, self.batch));
        };
        match (self.batch, self.accumulate, self.micro) {
            (0, ..) => return wrong("batch size", "must be at least 1".into()),
            (_, 0, _) => return wrong("accumulate", "a step takes the gradients of at least 1 batch".into()),
            (.., Some(0)) => return wrong("micro_batch", "a micro-batch has at least 1 sample".into()),
            (.., Some(micro)) if micro > size => {
                return wrong("micro_batch", format!("{micro} samples, but a step has {size}; make it smaller, or the batch larger"));
            }
            _ => {}
        }
        let (each, left) = (size.min(n), n % size);
        let micro = self.micro.or((self.accumulate > 1).then_some(self.batch)).filter(|&micro| micro < each);
        let cut = Cut { each, steps: n.div_ceil(size), samples: n, micro, joins: false };
        Ok(if self.drop_last && left > 0 && n > size { Cut { steps: cut.steps - 1, samples: n - left, ..cut } } else { cut })
    }
    pub(super) fn call(&mut self, event: &Event) -> bool {
        // Every callback hears every event, also after one that wants to stop.
        let mut stop = false;
        for f in &mut self.callbacks {
            stop |= f(event).is_break();
        }
        stop
    }
}

impl Trainer {
    /// Trains for some epochs. What ends in an error leaves the epochs before it in [`history`](Trainer::history).
    ///
    /// ```
    /// use downhill::{Device, Error, Fit, Trainer, data, optim::Sgd};
    /// let data = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y).square(), Sgd::new(1e9))?;
    /// while let Err(error) = trainer.fit(&data, Fit::new().epochs(2)) {
    ///     let Error::Diverged { .. } = error else { return Err(error) };
    ///     // The weights are those of the last finite step. Here they are not worth much, so begin anew with a lower rate.
    ///     trainer = trainer.seed(0)?;
    ///     trainer.set_lr(trainer.lr() * 1e-3)?;
    /// }
    /// assert_eq!(trainer.history().epochs.len(), 2);
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// Data that does not fit the model; a batch size of 0, micro-batches larger than a step, a memory that is too small; a last batch that the model does not take (see [`Fit::drop_last`]);
    /// [`Error::Diverged`] at the first step whose loss or gradient is not finite: the weights are then those of the last finite step.
    pub fn fit(&mut self, data: &Dataset, fit: Fit) -> Result<History> {
        pollster::block_on(self.fit_async(data, fit))
    }
    /// [`fit`](Trainer::fit), without blocking.
    pub async fn fit_async(&mut self, data: &Dataset, fit: Fit<'_>) -> Result<History> {
        self.check_data("fit", data)?;
        if let Some(validation) = fit.validation {
            self.check_data("validation", validation)?;
        }
        if let Some(augment) = &fit.augment {
            augment.check(data)?;
        }
        if fit.steps_per_submit.is_some_and(|steps| !(1..=MOST_STEPS).contains(&steps)) {
            return Err(Error::argument("steps_per_submit", format!("must be 1 to {MOST_STEPS}")));
        }
        self.no_part("fit")?;
        let cut = fit.cut(data.len())?;
        let wanted: Vec<&Dataset> = [data].into_iter().chain(fit.validation).collect();
        self.budget = fit.memory;
        let cut = match fit.memory {
            // Before anything changes, and also where there is no epoch to make.
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
                    fitting = self.fitting(bytes, &cut, validation);
                    if fitting.is_ok() || self.held.is_empty() {
                        break;
                    }
                }
                self.settle(Cut { micro: fitting?, ..cut }, &fit).await?
            }
        };
        self.collect().await?;
        self.history = History { micro_batch: cut.micro, ..History::default() };
        let result = self.epochs(data, fit, cut).await;
        self.tally = None;
        // An error in the middle of a step: the next one starts from nothing.
        let forgotten = self.forget_micro();
        result.and(forgotten).map(|()| self.history.clone())
    }
    /// What the last call of [`fit`](Trainer::fit) did; if that ended in an error, the epochs that were complete by then.
    pub fn history(&self) -> &History {
        &self.history
    }
    /// Makes the plans of an epoch, and looks whether the model takes batches of what is left.
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
                Err(Error::Op { op, shapes, why, place }) if left < cut.each => {
                    let advice = match cut.micro {
                        Some(micro) if micro == left => format!("Micro-batches of {left} are not for this model: choose another size"),
                        Some(_) => format!(
                            "A micro-batch of what is left has {left} samples: a size that divides the batch size leaves none over, \
                             and Fit::drop_last leaves out those of the last step"
                        ),
                        None => format!(
                            "A batch of what is left has {left} of the {} samples: Fit::drop_last leaves those of the last step out",
                            cut.samples
                        ),
                    };
                    return Err(Error::Op { op, shapes, why: format!("{why}. {advice}"), place });
                }
                other => other?,
            }
        }
        Ok(cut)
    }
    async fn epochs(&mut self, data: &Dataset, mut fit: Fit<'_>, cut: Cut) -> Result<()> {
        let mut order: Vec<usize> = (0..data.len()).collect();
        let mut progress = Progress::new(fit.progress, fit.epochs, cut.steps);
        let resident = self.resident(data);
        for epoch in 1..=fit.epochs {
            let (started, lr) = (Instant::now(), self.lr());
            if fit.shuffle {
                order = data::shuffled(data.len(), self.seed, self.epoch);
            }
            self.epoch += 1;
            self.tally = Some(Default::default());
            let course = Course { data, fit: &mut fit, progress: &mut progress, epoch, steps: cut.steps, parts: cut.parts(&order) };
            let mut stop = self.run_epoch(course, resident.as_ref()).await?;
            self.collect().await?;
            let (tally, losses) = self.tally.take().unwrap_or_default();
            let seconds = started.elapsed().as_secs_f64();
            let (loss, accuracy) = (tally.loss(), tally.accuracy());
            let samples_per_s = tally.samples() / seconds;
            let mut report = Epoch { epoch, loss, accuracy, validation: None, losses, lr, seconds, samples_per_s };
            if let Some(data) = fit.validation {
                match self.evaluate_async(data).await {
                    Ok(e) => report.validation = Some((e.loss, e.accuracy)),
                    Err(error) => {
                        self.history.epochs.push(report);
                        return Err(error);
                    }
                }
            }
            progress.epoch(&report);
            stop = fit.call(&Event::Epoch(&report)) || stop;
            self.history.epochs.push(report);
            if stop {
                self.history.stopped = true;
                break;
            }
        }
        progress.finish();
        Ok(())
    }

    /// An error unless `data` is what the model was made for.
    pub(super) fn check_data(&self, what: &str, data: &Dataset) -> Result<()> {
        let model = self.model(what)?;
        let kind = |x: Shape, target: super::Kind| match target {
            super::Kind::Input => format!("samples of shape {x} without a target"),
            super::Kind::Labels(s) if s.rank() > 0 => format!("samples of shape {x} with labels of shape {s}"),
            super::Kind::Labels(_) => format!("samples of shape {x} with labels"),
            super::Kind::Values(s) => format!("samples of shape {x} with values of shape {s}"),
        };
        let got = (data.sample_shape(), super::Kind::of(data.target()));
        if data.is_empty() {
            return Err(Error::argument(what, "the data set is empty"));
        }
        // A model without a target takes data with one, and leaves it aside.
        if got.0 != model.x || (got.1 != model.target && model.target != super::Kind::Input) {
            return Err(Error::Input { what: what.to_string(), got: kind(got.0, got.1), want: kind(model.x, model.target) });
        }
        // Labels and tokens must be below what the graph looks them up in.
        let mut indices: Vec<(usize, &[u32], usize)> = Vec::new();
        if let Features::Tokens { data, .. } = data.features() {
            indices.push((0, data, model.x.elements()));
        }
        if let (Target::Labels { sample, values, .. }, super::Kind::Labels(_)) = (data.target(), model.target) {
            indices.push((1, values, sample.elements()));
        }
        if indices.is_empty() {
            return Ok(());
        }
        let g = Graph::training();
        model.write(&g, SOME)?;
        for (input, values, width) in indices {
            let def = g.inner.borrow().inputs[input].clone();
            if let Some(below) = def.classes {
                below.check(values, def.shape.dims(), width)?;
            }
        }
        Ok(())
    }
}
