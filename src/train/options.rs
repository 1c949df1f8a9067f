//! The options of [`Trainer::fit`](crate::Trainer::fit)(crate::Trainer::fit), and its reports.

use super::{cut::Cut, feed::RESIDENT};
use crate::{
    data::{Augment, Dataset},
    error::{Error, Result},
};
use std::ops::ControlFlow;

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

type Callback<'a> = Box<dyn FnMut(&Event) -> ControlFlow<()> + 'a>;

/// How [`Trainer::fit`](crate::Trainer::fit) goes about it.
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
    pub(super) epochs: usize,
    pub(super) batch: usize,
    pub(super) accumulate: usize,
    pub(super) micro: Option<usize>,
    pub(super) memory: Option<u64>,
    pub(super) augment: Option<Augment>,
    pub(super) resident: u64,
    pub(super) steps_per_submit: Option<usize>,
    pub(super) drop_last: bool,
    pub(super) shuffle: bool,
    pub(super) progress: bool,
    pub(super) validation: Option<&'a Dataset>,
    pub(super) callbacks: Vec<Callback<'a>>,
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
    /// computed `batch_size` at a time. See [`Trainer::accumulate`](crate::Trainer::accumulate) for the mean that it takes. 1 without this.
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
    /// bytes, and does not keep a micro-batch from fitting. [`Trainer::micro_memory`](crate::Trainer::micro_memory) says what a size takes.
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
    pub(super) fn cut(&self, n: usize) -> Result<Cut> {
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
