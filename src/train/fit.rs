//! The upper level: epochs over a data set, evaluation and prediction.

use super::{SOME, Trainer, metrics, progress::Progress};
use crate::{
    compiled::Compiled,
    data::{self, Dataset, Features, Target},
    error::{Error, Result},
    graph::{Graph, Tensor},
    host::{Data, Host},
    plan::Draft,
    shape::Shape,
};
use std::{ops::ControlFlow, time::Instant};

/// What a callback is told.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was queued.
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
    /// Mean over the samples of the losses of the steps, each taken before its update.
    pub loss: f64,
    /// The share of labels predicted in those steps, for a classifier.
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
    shuffle: bool,
    progress: bool,
    validation: Option<&'a Dataset>,
    callbacks: Vec<Callback<'a>>,
}

impl Default for Fit<'_> {
    fn default() -> Self {
        Fit { epochs: 1, batch: 32, shuffle: true, progress: false, validation: None, callbacks: Vec::new() }
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
    /// Samples of a step. The last step of an epoch takes what is left.
    pub fn batch_size(self, batch: usize) -> Self {
        Fit { batch, ..self }
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
    /// Calls `f` after each step and each epoch; `Break` ends the training.
    pub fn callback(mut self, f: impl FnMut(&Event) -> ControlFlow<()> + 'a) -> Self {
        self.callbacks.push(Box::new(f));
        self
    }
    fn call(&mut self, event: &Event) -> bool {
        // Every callback hears every event, also after one that wants to stop.
        let mut stop = false;
        for f in &mut self.callbacks {
            stop |= f(event).is_break();
        }
        stop
    }
}

/// How good the model is on a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The mean over batches, weighted by their samples.
    pub loss: f64,
    /// The share of labels predicted, for a classifier.
    pub accuracy: Option<f64>,
    /// The model's outputs for all samples, `[n, …]`.
    pub outputs: Host<f32>,
    /// How long it took.
    pub seconds: f64,
}

impl Evaluation {
    /// The predicted class of each sample: the largest output.
    pub fn predictions(&self) -> Result<Vec<u32>> {
        metrics::argmax(self.outputs.f(), self.outputs.shape.last())
    }
}

/// Samples of a batch in evaluation and prediction.
const EVALUATION_BATCH: usize = 1024;

impl Trainer {
    /// Trains for some epochs.
    ///
    /// # Errors
    /// Data that does not fit the model; a batch size of 0 or beyond the data; [`Error::Diverged`] at the first step
    /// whose loss or gradient is not finite: the weights are then those of the last finite step.
    pub fn fit(&mut self, data: &Dataset, fit: Fit) -> Result<History> {
        pollster::block_on(self.fit_async(data, fit))
    }
    /// [`fit`](Trainer::fit), without blocking.
    pub async fn fit_async(&mut self, data: &Dataset, mut fit: Fit<'_>) -> Result<History> {
        self.check_data("fit", data)?;
        if let Some(validation) = fit.validation {
            self.check_data("validation", validation)?;
        }
        let mut order: Vec<usize> = (0..data.len()).collect();
        // Before anything changes, and also where there is no epoch to make.
        let steps = data::batches(&order, fit.batch)?.len();
        let mut progress = Progress::new(fit.progress, fit.epochs, steps);
        let mut history = History::default();
        let (mut x, mut y) = (Host::labels([0], Vec::new()), Host::labels([0], Vec::new()));
        self.take_reports_async().await?;
        for epoch in 1..=fit.epochs {
            let (started, lr) = (Instant::now(), self.lr());
            if fit.shuffle {
                order = data::shuffled(data.len(), self.seed, self.epoch);
            }
            self.epoch += 1;
            let mut reports = Vec::new();
            let mut stop = false;
            for (k, rows) in data::batches(&order, fit.batch)?.enumerate() {
                data.gather_into(rows, &mut x, &mut y)?;
                self.step_on(rows.len(), &x, &y).await?;
                stop = fit.call(&Event::Step { epoch, step: k + 1, steps });
                if progress.wants_loss() {
                    reports.extend(self.take_reports_async().await?);
                }
                progress.step(epoch, k + 1, rows.len(), reports.last());
                if stop {
                    break;
                }
            }
            reports.extend(self.take_reports_async().await?);
            let seconds = started.elapsed().as_secs_f64();
            let samples: usize = reports.iter().map(|r| r.samples).sum();
            let mean =
                |f: &dyn Fn(&super::StepReport) -> f64| reports.iter().map(|r| f(r) * r.samples as f64).sum::<f64>() / samples as f64;
            let accuracy = reports.iter().all(|r| r.accuracy.is_some()).then(|| mean(&|r| f64::from(r.accuracy.unwrap_or(0.0))));
            let validation = match fit.validation {
                Some(data) => Some(self.evaluate_async(data).await?).map(|e| (e.loss, e.accuracy)),
                None => None,
            };
            let report = Epoch {
                epoch,
                loss: mean(&|r| f64::from(r.loss)),
                accuracy,
                validation,
                losses: reports.iter().map(|r| r.loss).collect(),
                lr,
                seconds,
                samples_per_s: samples as f64 / seconds,
            };
            progress.epoch(&report);
            stop = fit.call(&Event::Epoch(&report)) || stop;
            history.epochs.push(report);
            if stop {
                history.stopped = true;
                break;
            }
        }
        progress.finish();
        Ok(history)
    }

    /// One step on a batch of a data set that has been checked.
    async fn step_on(&mut self, batch: usize, x: &Host<f32>, y: &Host<f32>) -> Result<()> {
        self.plan(batch).await?;
        let loaded = self.plans.get_mut(&batch).expect("the plan was just made");
        let inputs = [x, y];
        for (i, data) in inputs.iter().enumerate().take(loaded.inputs.len()) {
            loaded.engine.write(i, data)?;
        }
        self.advance(batch).await
    }

    /// Loss, accuracy and outputs on a data set, in inference mode.
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        pollster::block_on(self.evaluate_async(data))
    }
    /// [`evaluate`](Trainer::evaluate), without blocking.
    pub async fn evaluate_async(&mut self, data: &Dataset) -> Result<Evaluation> {
        let started = Instant::now();
        self.check_data("evaluate", data)?;
        let order: Vec<usize> = (0..data.len()).collect();
        // Of one sample.
        let labels = data.labels().len() / data.len();
        let (mut loss, mut right, mut classified) = (0.0, 0.0, false);
        let mut outputs = Outputs::default();
        for rows in data::batches(&order, EVALUATION_BATCH.min(data.len()))? {
            let (x, y) = data.batch(rows)?;
            let f = self.inference(rows.len()).await?;
            let inputs = [x, y];
            let mut out = f.run_async(&inputs[..f.inputs()]).await?.into_iter();
            let mut next = || out.next().unwrap_or_else(|| Host::new([0], Vec::new()));
            outputs.push(next());
            loss += f64::from(next().f()[0]) * rows.len() as f64;
            if let Some(&accuracy) = next().f().first() {
                // A count, so that the share of all labels is exact.
                (right, classified) = (right + (f64::from(accuracy) * (rows.len() * labels) as f64).round(), true);
            }
        }
        let n = data.len() as f64;
        let accuracy = classified.then_some(right / (n * labels as f64));
        Ok(Evaluation { loss: loss / n, accuracy, outputs: outputs.join(), seconds: started.elapsed().as_secs_f64() })
    }

    /// The model's outputs `[n, …]` for samples `[n, …]`, in inference mode.
    pub fn predict(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        pollster::block_on(self.predict_async(x))
    }
    /// [`predict`](Trainer::predict), without blocking.
    pub async fn predict_async(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        let (sample, target) = {
            let model = self.model("predict")?;
            (model.x, model.target)
        };
        let n = x.shape.dims().first().copied().unwrap_or(0);
        if n == 0 || x.shape.sample() != sample || !x.fits(x.shape) {
            let got = format!("{} with {}", x.shape, x.content());
            return Err(Error::Input {
                what: "predict".into(),
                got,
                want: format!("samples of shape {sample}, and a first axis that counts them"),
            });
        }
        super::check_finite(0, x)?;
        let mut outputs = Outputs::default();
        let order: Vec<usize> = (0..n).collect();
        for rows in order.chunks(EVALUATION_BATCH) {
            let (first, rows, width) = (rows[0], rows.len(), sample.elements());
            let shape = sample.batched(rows).expect("the samples came with this first axis");
            let range = first * width..(first + rows) * width;
            let part = match &x.data {
                Data::Float(v) => Data::Float(v[range].to_vec()),
                Data::Index(v) => Data::Index(v[range].to_vec()),
            };
            // The graph also wants targets; what they are changes the loss only.
            let y = match target {
                super::Kind::Input => None,
                super::Kind::Labels(s) | super::Kind::Values(s) => s.batched(rows).map(Host::zeros),
            };
            let inputs: Vec<Host<f32>> = std::iter::once(Host { shape, data: part }).chain(y).collect();
            outputs.push(self.inference(rows).await?.run_async(&inputs).await?.swap_remove(0));
        }
        Ok(outputs.join())
    }

    /// The inference graph for `batch` samples: output, loss and, for a classifier, accuracy.
    async fn inference(&mut self, batch: usize) -> Result<&mut Compiled> {
        if !self.inference.contains_key(&batch) {
            let options = self.device.plan_options();
            let draft = {
                let g = Graph::inference();
                let written = self.model("evaluate")?.write(&g, batch)?;
                let outputs: Vec<Tensor> = [written.output, written.loss].into_iter().chain(written.accuracy).collect();
                Draft::new(&outputs, &[], &options)?
            };
            let mut plan = self.device.lower(draft, &options).await?;
            plan.bind_params(&self.params)?;
            let compiled = Compiled::on(&self.device, plan, &self.store, self.seed).await?;
            self.inference.insert(batch, compiled);
        }
        Ok(self.inference.get_mut(&batch).expect("it was just put there"))
    }

    /// An error unless `data` is what the model was made for.
    fn check_data(&self, what: &str, data: &Dataset) -> Result<()> {
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

/// Outputs of several batches, put together.
#[derive(Default)]
struct Outputs {
    shape: Shape,
    rows: usize,
    values: Vec<f32>,
}

impl Outputs {
    fn push(&mut self, part: Host<f32>) {
        self.rows += part.shape.dims().first().copied().unwrap_or(1);
        self.shape = part.shape;
        self.values.extend_from_slice(part.f());
    }
    fn join(self) -> Host<f32> {
        Host::new(self.shape.with(0, self.rows), self.values)
    }
}
