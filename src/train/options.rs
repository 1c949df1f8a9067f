//! The options of [`Trainer::fit`](crate::Trainer::fit).

use super::{
    callback::Callback,
    checkpoints::{Checkpoints, Saver},
    feed::RESIDENT,
    history::Epoch,
    progress::Progress,
    share::BUCKET,
};
use crate::{
    data::{Augment, Dataset},
    optim::Readouts,
};
use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// An event that `fit` reports to its callbacks.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was queued. `fit` may queue further steps before it submits all of them to a GPU at once. If a callback returns
    /// `Break`, no further step is queued.
    Step {
        /// The number of the epoch, as in [`Epoch::epoch`].
        epoch: usize,
        /// The number of the step within this epoch. The first step is 1.
        step: usize,
        /// The number of steps in each epoch.
        steps: usize,
    },
    /// An epoch ended.
    Epoch(&'a Epoch),
}

type Closure<'a> = Box<dyn FnMut(&Event) -> ControlFlow<()> + 'a>;

/// The options of [`Trainer::fit`](crate::Trainer::fit).
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
    pub(super) sharded_data: bool,
    pub(super) shuffle: bool,
    pub(super) progress: Progress,
    pub(super) readouts: Readouts,
    pub(super) validation: Option<&'a Dataset>,
    pub(super) averaged: bool,
    pub(super) append: bool,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) resume: Option<PathBuf>,
    pub(super) check_weights: Option<u64>,
    pub(super) bucket: usize,
    pub(super) saver: Option<Saver>,
    /// Whether all ranks give their states to the checkpoints of rank 0.
    pub(super) gathers: bool,
    pub(super) closures: Vec<Closure<'a>>,
    pub(super) hooks: Vec<Box<dyn Callback + 'a>>,
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
            sharded_data: false,
            shuffle: true,
            progress: Progress::Off,
            readouts: Readouts::default(),
            validation: None,
            averaged: false,
            append: false,
            checkpoints: None,
            resume: None,
            check_weights: None,
            bucket: BUCKET,
            saver: None,
            gathers: false,
            closures: Vec::new(),
            hooks: Vec::new(),
        }
    }
}

impl<'a> Fit<'a> {
    /// Returns the defaults of Keras: one epoch in shuffled batches of 32. Unlike Keras, it shows no progress.
    pub fn new() -> Fit<'a> {
        Fit::default()
    }
    /// Sets the number of epochs. Each epoch goes through the data once.
    pub fn epochs(self, epochs: usize) -> Self {
        Fit { epochs, ..self }
    }
    /// Sets the number of samples in a step. 32 by default.
    ///
    /// The last batch of an epoch has the remaining samples. A data set smaller than `batch` is one batch. Some models accept
    /// no batch of one sample, batch norm for example. If a single sample remains for such a model, the batch before takes the
    /// sample too.
    pub fn batch_size(self, batch: usize) -> Self {
        Fit { batch, ..self }
    }
    /// Accumulates the gradients of `k` batches for each step. 1 by default.
    ///
    /// A step then has `k` times [`batch_size`](Fit::batch_size) samples. The device computes `batch_size` of them at a time.
    /// [`Trainer::accumulate`](crate::Trainer::accumulate) has the formula of the mean.
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
    /// Divides each step into micro-batches of `n` samples. The last micro-batch has the remaining samples. The activations of
    /// a step then take the memory of `n` samples.
    ///
    /// The step equals the step on the whole batch up to rounding, with two exceptions. Dropout draws different masks. Batch
    /// norm normalises over a micro-batch.
    pub fn micro_batch(self, n: usize) -> Self {
        Fit { micro: Some(n), ..self }
    }
    /// Limits training to `bytes` of the device's memory. `fit` chooses the largest micro-batch that fits.
    ///
    /// The limit covers the parameters, the gradients, the optimizer's states, the plans, the data on the device and the
    /// evaluation of the [`validation`](Fit::validation) data, and the copy of a [checkpoint](Fit::checkpoints). The sizes tried are
    /// the largest size that fits, and ⌊batch / k⌋ for k = 1, 2, …. Sizes ⌊batch / k⌋ leave few samples over, and remaining samples need a plan of their own. The size
    /// never exceeds [`micro_batch`](Fit::micro_batch), nor the batch size where [`accumulate`](Fit::accumulate) is set.
    ///
    /// The data goes to the device if it takes at most half of `bytes` and a micro-batch still fits beside it.
    /// [`Trainer::micro_memory`](crate::Trainer::micro_memory) returns the memory that a micro-batch size takes.
    pub fn memory(self, bytes: u64) -> Self {
        Fit { memory: Some(bytes), ..self }
    }
    /// Sets whether an epoch leaves out the samples after its last full batch. A data set smaller than a batch is still one
    /// batch. `false` by default.
    pub fn drop_last(self, drop_last: bool) -> Self {
        Fit { drop_last, ..self }
    }
    /// Sets whether each epoch takes the samples in a new random order. The trainer's seed decides the order. `true` by
    /// default.
    pub fn shuffle(self, shuffle: bool) -> Self {
        Fit { shuffle, ..self }
    }
    /// Sets whether the data set of each [rank](crate::Trainer::distributed) is a shard, which that rank alone has. `false` by default: all ranks
    /// have the same data set and divide the samples of each step. Shards may have different numbers of samples. The
    /// [validation](Fit::validation) data is the same on all ranks.
    ///
    /// A step then has a batch of each shard. Rank r takes its samples in the order of
    /// [`data::shuffled(n, seed + r, epoch)`](crate::data::shuffled), where the trainer's first epoch is 0. An epoch has as many steps as the
    /// largest shard needs. A rank whose shard has ended takes part without samples, so an epoch has each sample of each shard once. With
    /// [`drop_last`](Fit::drop_last) an epoch has as many steps as the smallest shard has full batches. Means are over samples, so the
    /// weights are those of one rank that accumulates the same batches.
    ///
    /// Without ranks the option does nothing.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, World, data, optim::Sgd};
    /// let iris = data::iris();
    /// let train = |world: World| -> downhill::Result<_> {
    ///     // In a program of your own, each rank reads its own files.
    ///     let shard = iris.subset(if world.rank() == 0 { 0..100 } else { 100..150 })?;
    ///     let trainer =
    ///         Trainer::for_data(&Device::cpu(), &shard, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    ///     let mut trainer = trainer.distributed(&world)?;
    ///     trainer.fit(&shard, Fit::new().batch_size(30).sharded_data(true))?;
    ///     Ok(trainer.take_reports()?.iter().map(|report| report.samples).collect::<Vec<_>>())
    /// };
    /// let samples: Vec<_> = std::thread::scope(|scope| {
    ///     let ranks: Vec<_> = World::threads(2).into_iter().map(|world| scope.spawn(|| train(world))).collect();
    ///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<downhill::Result<_>>()
    /// })?;
    /// // The first shard has batches of 30, 30, 30 and 10 samples, and the second has batches of 30 and 20.
    /// assert_eq!(samples, [[60, 50, 30, 10]; 2]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// `fit` returns an error if it [resumes](Fit::resume) from a checkpoint of other shards, or of another number of ranks.
    pub fn sharded_data(self, sharded: bool) -> Self {
        Fit { sharded_data: sharded, ..self }
    }
    /// Sets whether to show progress on the standard error. `false` by default. A terminal shows one line with a bar, the epoch, the
    /// loss, the accuracy, the samples per second, the remaining time and the memory on the device. During a validation, the line has the
    /// samples evaluated so far. Any other output gets a plain line after each epoch.
    ///
    /// [`Progress::Log`] gives the same numbers to the crate [`log`] instead.
    pub fn progress(self, progress: impl Into<Progress>) -> Self {
        Fit { progress: progress.into(), ..self }
    }
    /// Measures the gradient noise scale B = tr Σ / |G|², in samples. G is the gradient of all data, and Σ the covariance of the gradient of
    /// one sample. Steps of far fewer samples than B would profit from more samples nearly in full. Steps of far more samples than B
    /// waste them. McCandlish et al. 2018, arXiv:1812.06162. `false` by default.
    ///
    /// The estimate compares the gradients of a step's micro-batches with their mean (appendix A.1), so steps must have
    /// [micro-batches](Fit::micro_batch), of any sizes. The estimates of tr Σ and of |G|² are noisy, so each is averaged over steps,
    /// with a weight of 0.99 for the earlier steps: the average spans about 100 steps. It costs one sum of squares for each micro-batch, and
    /// training has the same bits with and without it. For a weighted mean, a sample is a weight of 1.
    ///
    /// The [report](Epoch::noise_scale) of an epoch, the reports of steps, the [progress](Fit::progress) and the log of
    /// [`CsvLogger`](super::callbacks::CsvLogger) have the noise scale. It is missing while the estimate of |G|² is not positive.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::Sgd};
    /// let iris = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.01))?;
    /// let history = trainer.fit(&iris, Fit::new().epochs(5).batch_size(50).micro_batch(5).noise_scale(true))?;
    /// assert!(history.epochs[4].noise_scale.is_some_and(|b| b > 0.0));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// `fit` returns an error if steps have no micro-batches.
    pub fn noise_scale(self, measure: bool) -> Self {
        Fit { readouts: Readouts { noise_scale: measure, ..self.readouts }, ..self }
    }
    /// Measures the [norms](super::ParamNorms) of each trained parameter in each n-th step of the trainer: of the weights, the gradient and the
    /// change of the weights, and the rule's trust ratio. By default nothing is measured.
    ///
    /// Measuring changes no bit of the training, and no step waits for it. It takes a copy of the weights, and time for a few more
    /// reads of weights and gradients in the steps that measure. [`Epoch::norms`], the reports of steps and
    /// [`CsvLogger::norms`](super::callbacks::CsvLogger::norms) have the norms.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::Adam};
    /// let iris = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Adam::new(0.01))?;
    /// // Five steps in each of two epochs.
    /// let history = trainer.fit(&iris, Fit::new().epochs(2).batch_size(30).norms(4))?;
    /// assert_eq!(history.epochs[1].norms.iter().map(|norms| norms.step).collect::<Vec<_>>(), [7]);
    /// assert!(history.epochs[1].norms[0].params.get("fc.weight")?.update > 0.0);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// `fit` returns an error if `every` is 0.
    pub fn norms(self, every: u64) -> Self {
        Fit { readouts: Readouts { norms: Some(every), ..self.readouts }, ..self }
    }
    /// Sets the data to evaluate after each epoch.
    pub fn validation(self, data: &'a Dataset) -> Self {
        Fit { validation: Some(data), ..self }
    }
    /// Sets whether the [`validation`](Fit::validation) evaluates the [averages](crate::optim::Optimizer::ema) of the weights instead of
    /// the weights. `false` by default.
    ///
    /// # Errors
    /// `fit` returns an error if the optimizer keeps no average.
    pub fn averaged(self, averaged: bool) -> Self {
        Fit { averaged, ..self }
    }
    /// Sets the random changes that `fit` makes to the images of each batch.
    pub fn augment(self, augment: Augment) -> Self {
        Fit { augment: Some(augment), ..self }
    }
    /// Sets the largest number of bytes that training and validation data may take on a GPU. 2 GiB by default.
    ///
    /// A data set that fits is uploaded once. It stays there for later calls with the same data, and steps then upload nothing.
    /// Bytes are stored as bytes. Data larger than the device can bind is divided into several buffers.
    ///
    /// If a data set does not fit, or the limit is 0, another thread prepares the next batches during a step. The results are
    /// the same to the bit.
    pub fn resident(self, most_bytes: u64) -> Self {
        Fit { resident: most_bytes, ..self }
    }
    /// Sets how many steps, or micro-batches of steps, one submit to a GPU has: 1 to 64. It has an effect only if the data lies
    /// on the GPU.
    ///
    /// By default, a submit has enough steps to take about ten milliseconds, by the measured time of earlier steps. A submit
    /// has fewer steps if a kernel cannot bind the settings of all of them. Thousands of groups have this effect, for example.
    /// The results are the same to the bit.
    pub fn steps_per_submit(self, steps: usize) -> Self {
        Fit { steps_per_submit: Some(steps), ..self }
    }
    /// Adds a closure, which `fit` calls after each step and each epoch. If the closure returns `Break`, training stops. A closure only
    /// listens. [`with`](Fit::with) adds a callback that can act.
    pub fn callback(mut self, f: impl FnMut(&Event) -> ControlFlow<()> + 'a) -> Self {
        self.closures.push(Box::new(f));
        self
    }
    /// Adds a [`Callback`], such as one of [`callbacks`](super::callbacks). Callbacks are called in the order in which they were added,
    /// before closures.
    ///
    /// ```
    /// use downhill::{Fit, callbacks::{EarlyStopping, Monitor}};
    /// let mut early = EarlyStopping::new(Monitor::ValLoss).patience(3);
    /// let fit = Fit::new().epochs(100).with(&mut early);
    /// ```
    pub fn with(mut self, callback: impl Callback + 'a) -> Self {
        self.hooks.push(Box::new(callback));
        self
    }
    /// Writes checkpoints while it trains, also within an epoch. [`resume`](Fit::resume) goes on from them.
    ///
    /// # Errors
    /// `fit` returns an error if the folder has checkpoints and `fit` does not resume, or if a file cannot be written.
    pub fn checkpoints(self, checkpoints: Checkpoints) -> Self {
        Fit { checkpoints: Some(checkpoints), ..self }
    }
    /// Goes on from the latest checkpoint in a folder of [`Checkpoints`], or from a file that [`Run::save`](super::Run::save) wrote. If the
    /// folder has no checkpoint, training begins at the beginning.
    ///
    /// A program that calls `fit` with the same data, options and callbacks may be killed at any moment and started again. It ends with the
    /// same parameters, the same [`History`](crate::History) but for times, and the same state of its callbacks, to the last bit. The steps after the latest
    /// checkpoint are made again. [`epochs`](Fit::epochs) counts the epochs before the break as well.
    ///
    /// ```
    /// use downhill::{Checkpoints, Device, Fit, Trainer, data, optim::Adam};
    /// let (folder, iris) = (tempfile::tempdir().unwrap(), data::iris());
    /// let train = |epochs: usize| -> downhill::Result<_> {
    ///     let mut trainer =
    ///         Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Adam::new(0.05))?;
    ///     let checkpoints = Checkpoints::new(folder.path()).every_steps(10).keep(2);
    ///     Ok(trainer.fit(&iris, Fit::new().epochs(epochs).checkpoints(checkpoints).resume(folder.path()))?.epochs.len())
    /// };
    /// assert_eq!(train(2)?, 2);
    /// assert_eq!(train(5)?, 5); // Three more epochs.
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// `fit` returns an error if the checkpoint is of another model, optimizer, size of steps or number of samples. It also returns an
    /// error if the callbacks that have a state are others, or have another order. See [`Callback::name`].
    pub fn resume(self, path: impl AsRef<Path>) -> Self {
        Fit { resume: Some(path.as_ref().into()), ..self }
    }
    /// Sets the size of a bucket of gradients in bytes. 25 MiB by default, as in PyTorch. [Ranks](crate::Trainer::distributed) exchange their
    /// gradients in buckets, the last layers first, because the backward pass finishes them first. The device computes the
    /// gradients of one bucket while another is exchanged. A GPU gets a submit for each bucket, and a buffer of the host's memory through which
    /// the bucket is read. The first bucket has at most 1 MiB. A parameter that is larger than a bucket has a bucket of its own. The results are the same to the bit.
    pub fn bucket_bytes(self, most: usize) -> Self {
        Fit { bucket: most, ..self }
    }
    /// Compares the weights of all [ranks](crate::Trainer::distributed) after each n-th step of the trainer. Each rank sends a hash of its weights and
    /// of the states of its optimizer. By default only the start is compared.
    ///
    /// Ranks on equal devices have equal weights, to the last bit. So a difference is a fault of a machine. Ranks on different kinds of
    /// devices differ by rounding, and this option is not for them. Without ranks the option does nothing.
    ///
    /// # Errors
    /// `fit` returns [`Error::Rank`](crate::Error::Rank) with the first rank whose weights differ from those of rank 0, and an error if `every` is 0.
    pub fn check_weights(self, every: u64) -> Self {
        Fit { check_weights: Some(every), ..self }
    }
    /// Sets whether the epochs are counted on from the last call of `fit`, and the [`History`](crate::History) keeps the earlier epochs. `false` by default.
    pub fn append(self, append: bool) -> Self {
        Fit { append, ..self }
    }
    pub(super) fn call(&mut self, event: &Event) -> bool {
        // Every callback gets every event, even if an earlier callback has asked to stop.
        let mut stop = false;
        for f in &mut self.closures {
            stop |= f(event).is_break();
        }
        stop
    }
}
