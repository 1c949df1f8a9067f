//! Evaluation and prediction. Both run the model in inference mode, batch by batch.

use super::{
    Trainer, metrics,
    named::Named,
    outputs::Joined,
    tally::{Tally, Tracked},
};
use crate::{
    compiled::Compiled,
    data::{Dataset, Role},
    engine,
    error::{Error, Result},
    gpu::{Collected, Resident},
    host::{Data, Host},
    shape::Shape,
};
use std::{ops::Range, sync::Arc, time::Instant};

/// The result of evaluating a model on a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The loss over all samples.
    ///
    /// A loss that is a mean over samples is averaged over batches, weighted by the number of samples in each batch. A weighted
    /// mean divides by the sum of the weights of all batches. The loss does not depend on the batch size if it is a sum of such
    /// means, each optionally times a number.
    pub loss: f64,
    /// The share of labels that the model predicts, for a classifier. A classifier is a model for labels `[n, …]` whose output
    /// is `[n, …, classes]` at any batch size. A row of scores that contains a NaN predicts nothing. Labels that the loss
    /// ignores do not count.
    pub accuracy: Option<f64>,
    /// The model's outputs for all samples, `[n, …]`. The outputs of several batches are joined.
    ///
    /// - One axis grows with the number of samples: the outputs are concatenated along this axis. For `[4·n, 3]` the result has
    ///   the rows of all batches, for `[time, n, classes]` all sequences.
    /// - No axis grows, so an output describes a whole batch: the result is the mean of the outputs, weighted by samples.
    /// - More than one axis grows: one batch gives its own output. Several batches give one vector `[count]`, which
    ///   concatenates the flattened outputs.
    ///
    /// If the model has several [outputs](super::Outputs), this is the first of them.
    pub outputs: Host<f32>,
    /// The other outputs of the model, by name.
    pub more: Named<Host<f32>>,
    /// The losses and scalars that the model reports by name, averaged over all samples. See
    /// [`Outputs::watch`](super::Outputs::watch).
    pub watched: Named<f64>,
    /// The seconds that the evaluation took.
    pub seconds: f64,
}

impl Evaluation {
    /// Returns the predicted class of each row of the outputs, which is the index of the row's largest number.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a row that contains a NaN.
    pub fn predictions(&self) -> Result<Vec<u32>> {
        metrics::argmax(self.outputs.f(), self.outputs.shape.last())
    }
}

/// The default limit of the batch size in evaluation and prediction.
pub(super) const MOST: usize = 1024;

/// The most bytes that an evaluation plan may take if its batch is larger than every training batch. The amount is negligible
/// beside the memory of training.
const SMALL: u64 = 4 << 20;
/// The most bytes that an evaluation plan may take if the trainer has made no step.
const UNTRAINED: u64 = 256 << 20;

/// Returns the limit [`SMALL`], or a sixteenth of the memory budget of training if that is less.
pub(super) fn small(budget: Option<u64>) -> u64 {
    budget.map_or(SMALL, |bytes| SMALL.min(bytes / 16))
}

/// The most output numbers that a GPU collects before they are read.
const COLLECTED: u64 = 4 << 20;

/// The known bounds on the size of an inference batch whose plan takes at most `most` bytes.
#[derive(Clone, Copy)]
pub(super) struct Small {
    most: u64,
    /// The largest batch size known to fit.
    fits: usize,
    /// The smallest batch size known not to fit.
    fails: usize,
}

/// A batch whose outputs have been collected.
struct Run {
    shapes: Vec<Shape>,
    kept: Tracked,
    samples: usize,
}

/// A function that receives the outputs of each batch: the model's output and the reported numbers, their description, and the
/// number of samples.
type Each<'a> = &'a mut (dyn FnMut(Vec<Host<f32>>, &Tracked, usize) -> Result<()> + Send);

/// A function that receives the number of samples evaluated so far.
pub(super) type Seen<'a> = &'a mut (dyn FnMut(usize) + Send);

/// Returns whether a prediction needs the columns of this role. Targets and weights affect only losses.
fn needed(role: Role) -> bool {
    !matches!(role, Role::Target | Role::Weight)
}

fn no_output(what: &str) -> Error {
    Error::argument(what, "the model has no output; add one with Outputs::output")
}

/// Reads the collected outputs and passes them to `each`, batch by batch.
async fn give(from: &Collected, runs: &mut Vec<Run>, each: Each<'_>) -> Result<()> {
    let mut all = from.read(runs.iter().flat_map(|run| &run.shapes).copied()).await?.into_iter();
    runs.drain(..).try_for_each(|run| each(all.by_ref().take(run.shapes.len()).collect(), &run.kept, run.samples))
}

impl Trainer {
    /// Computes loss, accuracy and outputs on a data set, in inference mode.
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        pollster::block_on(self.evaluate_async(data))
    }
    /// [`evaluate`](Trainer::evaluate), without blocking.
    pub async fn evaluate_async(&mut self, data: &Dataset) -> Result<Evaluation> {
        self.evaluate_with(data, &mut |_| {}).await
    }
    /// [`evaluate`](Trainer::evaluate). `seen` is called with the number of samples evaluated so far, after each batch.
    pub(super) async fn evaluate_with(&mut self, data: &Dataset, seen: Seen<'_>) -> Result<Evaluation> {
        let started = Instant::now();
        let picks = self.check_data("evaluate", data)?;
        let order: Vec<usize> = (0..data.len()).collect();
        let resident = self.resident(data);
        let model = self.model("evaluate")?;
        let (labels, names, mut outputs, mut tally) = (model.labels(), model.names(), Joined::all(model.joins()), Tally::default());
        let batch = |rows: Range<usize>| {
            let mut batch = vec![Host::new([0], Vec::new()); picks.len()];
            data.gather_into(&picks, &order[rows], None, &mut batch).map(|()| batch)
        };
        let mut each = |mut out: Vec<Host<f32>>, kept: &Tracked, samples: usize| {
            let row: Vec<f32> = out.drain(outputs.len()..).map(|number| number.f()[0]).collect();
            tally.add(kept, &row, samples, labels);
            outputs.iter_mut().zip(out).try_for_each(|(output, part)| output.push(part, samples))
        };
        self.infer(data.len(), resident.as_ref(), batch, &mut each, seen).await?;
        let (loss, accuracy, watched) = (tally.loss(), tally.accuracy(), tally.watched());
        let mut outputs = outputs.into_iter().map(Joined::join);
        let (outputs, more) = (outputs.next().unwrap_or_else(|| Host::new([0], Vec::new())), outputs.collect());
        let more = Named::new(names.get(1..).unwrap_or_default().into(), more);
        Ok(Evaluation { loss, accuracy, outputs, more, watched, seconds: started.elapsed().as_secs_f64() })
    }

    /// Sets the batch size of [`evaluate`](Trainer::evaluate), [`predict`](Trainer::predict) and validation. It changes results
    /// by rounding only.
    ///
    /// By default the trainer chooses a size of at most 1,024:
    /// - After training, it takes the largest training batch, or a larger batch whose plan takes at most 4 MiB. With
    ///   [`Fit::memory`](super::Fit::memory), a sixteenth of the memory limit replaces the 4 MiB if it is less.
    /// - Before training, it takes a batch whose plan takes at most 256 MiB.
    /// - If the device refuses a size, the trainer halves it.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0.
    pub fn set_evaluation_batch(&mut self, samples: usize) -> Result<()> {
        if samples == 0 {
            return Err(Error::argument("evaluation batch", "must be at least 1"));
        }
        self.evaluation = Some(samples);
        Ok(())
    }

    /// Computes the model's outputs `[n, …]` for samples `[n, …]`, in inference mode. [`Evaluation::outputs`] describes how the
    /// outputs of several batches are joined.
    pub fn predict(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        pollster::block_on(self.predict_async(x))
    }
    /// [`predict`](Trainer::predict), without blocking.
    pub async fn predict_async(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        let model = self.data_model("predict")?;
        if let [_, other, ..] = &model.taken.iter().filter(|taken| needed(taken.role)).collect::<Vec<_>>()[..] {
            let why = format!("the model takes `{}` as well; use Trainer::predict_on, which takes a data set", other.name);
            return Err(Error::argument("predict", why));
        }
        let sample = model.x;
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
        let width = sample.elements();
        let rest: Vec<Shape> = model.taken[1..].iter().map(|taken| taken.sample).collect();
        let mut outputs = Joined::all(model.joins());
        if outputs.is_empty() {
            return Err(no_output("predict"));
        }
        let batch = |rows: Range<usize>| {
            let (n, range) = (rows.len(), rows.start * width..rows.end * width);
            let shape = sample.batched(n).expect("the samples came with this first axis");
            let part = match &x.data {
                Data::Float(v) => Data::Float(v[range].to_vec()),
                Data::Index(v) => Data::Index(v[range].to_vec()),
            };
            // The graph also needs targets. Their values affect only the loss, which is not used here.
            let rest = rest.iter().filter_map(|sample| sample.batched(n).map(Host::zeros));
            Ok(std::iter::once(Host { shape, data: part }).chain(rest).collect())
        };
        self.infer(n, None, batch, &mut |mut out, _, samples| outputs[0].push(out.swap_remove(0), samples), &mut |_| {}).await?;
        Ok(outputs.swap_remove(0).join())
    }
    /// Computes all outputs of the model for the samples of a data set, in inference mode. The data needs no targets and no
    /// weights.
    pub fn predict_on(&mut self, data: &Dataset) -> Result<Named<Host<f32>>> {
        pollster::block_on(self.predict_on_async(data))
    }
    /// [`predict_on`](Trainer::predict_on), without blocking.
    pub async fn predict_on_async(&mut self, data: &Dataset) -> Result<Named<Host<f32>>> {
        let picks = self.check_columns("predict_on", data, needed)?;
        let model = self.data_model("predict_on")?;
        let (taken, names, mut outputs) = (model.taken.clone(), model.names(), Joined::all(model.joins()));
        if outputs.is_empty() {
            return Err(no_output("predict_on"));
        }
        let order: Vec<usize> = (0..data.len()).collect();
        let batch = |rows: Range<usize>| {
            let mut given = vec![Host::new([0], Vec::new()); picks.len()];
            data.gather_into(&picks, &order[rows.clone()], None, &mut given)?;
            let mut given = given.into_iter();
            let column = |taken: &super::batch::Taken| match needed(taken.role) {
                true => given.next(),
                false => taken.sample.batched(rows.len()).map(Host::zeros),
            };
            Ok(taken.iter().filter_map(column).collect())
        };
        let mut each = |out: Vec<Host<f32>>, _: &Tracked, samples: usize| {
            outputs.iter_mut().zip(out).try_for_each(|(output, part)| output.push(part, samples))
        };
        self.infer(data.len(), None, batch, &mut each, &mut |_| {}).await?;
        Ok(Named::new(names, outputs.into_iter().map(Joined::join).collect()))
    }

    /// Runs the inference graph on `n` samples, batch by batch. `batch` returns the inputs for a range of rows, unless the data
    /// lies on the device. `each` receives the outputs, in order. A GPU collects the outputs of many batches before they are
    /// read. `seen` receives the number of samples so far, after each batch.
    async fn infer(
        &mut self,
        n: usize,
        resident: Option<&Arc<Resident>>,
        mut batch: impl FnMut(Range<usize>) -> Result<Vec<Host<f32>>> + Send,
        each: Each<'_>,
        seen: Seen<'_>,
    ) -> Result<()> {
        let size = self.evaluation_size(n).await?;
        self.reordered |= resident.is_some();
        let into = self.collected(size, n.div_ceil(size)).await?;
        // The batches whose outputs have been collected but not read.
        let mut there: Vec<Run> = Vec::new();
        for first in (0..n).step_by(size) {
            let rows = first..n.min(first + size);
            let samples = rows.len();
            let (f, kept) = self.inference(samples).await?;
            let (Some(into), Some(exec)) = (&into, f.gpu()) else {
                each(f.run_async(&batch(rows)?).await?, kept, samples)?;
                seen(first + samples);
                continue;
            };
            let run = Run { shapes: exec.output_shapes().collect(), kept: kept.clone(), samples };
            if into.left() < run.shapes.iter().map(|shape| shape.elements()).sum() {
                give(into, &mut there, each).await?;
            }
            exec.collect(Some(into));
            if let Some(resident) = resident {
                exec.feed(resident, None).await?;
                resident.set_order(&rows.collect::<Vec<_>>())?;
                f.go(true)?;
            } else {
                f.load(&batch(rows)?)?;
                f.launch()?;
            }
            if let Some(exec) = f.gpu() {
                exec.collect(None);
            }
            there.push(run);
            seen(first + samples);
        }
        match into {
            Some(into) => give(&into, &mut there, each).await,
            None => Ok(()),
        }
    }
    /// Returns the batch size for an evaluation of `n` samples.
    async fn evaluation_size(&mut self, n: usize) -> Result<usize> {
        if let Some(size) = self.evaluation {
            return Ok(size.min(n));
        }
        let mut size = self.small_enough(n.min(MOST));
        loop {
            match self.inference(size).await {
                Err(Error::Limit { .. } | Error::Device { .. }) if size > 1 => size = size.div_ceil(2),
                other => return other.map(|_| size),
            }
        }
    }
    /// Halves `size` until the plan of a batch is small enough. A batch no larger than the largest training batch is always
    /// small enough.
    fn small_enough(&mut self, mut size: usize) -> usize {
        let trained = self.plans.iter().filter_map(|(key, _)| key.samples()).max();
        let (least, most) = trained.map_or((1, UNTRAINED), |batch| (batch, small(self.budget)));
        // Known bounds save planning the same batch sizes again.
        let mut known = self.small.filter(|known| known.most == most).unwrap_or(Small { most, fits: 0, fails: usize::MAX });
        while size > least.max(known.fits) {
            let fits = size < known.fails && self.inference_bytes(size).is_ok_and(|bytes| bytes <= most);
            if fits {
                known.fits = size;
                break;
            }
            known.fails = known.fails.min(size);
            size = size.div_ceil(2).max(least);
        }
        self.small = Some(known);
        size
    }
    /// Returns the bytes that an inference plan for `batch` samples takes on the device. Allocates nothing there.
    pub(super) fn inference_bytes(&self, batch: usize) -> Result<u64> {
        if let Some((f, _)) = self.inference.get((self.seen.is_some(), batch)) {
            return Ok(f.bytes());
        }
        let plan = self.model("evaluate")?.inference(&self.device, batch)?.0.lower(&self.device.plan_options());
        engine::plan_bytes(&self.device, &plan, None)
    }
    /// On a GPU, returns a buffer that collects the outputs of `batches` batches, or of fewer batches if the buffer would be
    /// too large. Reuses the existing buffer if it is large enough.
    async fn collected(&mut self, batch: usize, batches: usize) -> Result<Option<Arc<Collected>>> {
        let Some(gpu) = self.device.as_gpu().cloned() else { return Ok(None) };
        let f = &mut self.inference(batch).await?.0;
        // The buffer is at most as large as the plan itself.
        let most = (f.bytes().min(gpu.max_buffer_bytes()) / 4).min(COLLECTED) as usize;
        let Some(exec) = f.gpu() else { return Ok(None) };
        let words: usize = exec.output_shapes().map(|shape| shape.elements()).sum();
        let words = (words * batches).min(most.max(words));
        let new = match self.collected.take() {
            // An evaluation that failed may have left outputs in the buffer. They are discarded.
            Some(old) if old.words() >= words => old.emptied(),
            old => {
                old.iter().for_each(|old| self.gone += old.counters());
                drop(old);
                Arc::new(Collected::new(&gpu, words).await?)
            }
        };
        Ok(Some(self.collected.insert(new).clone()))
    }

    /// Returns the compiled inference graph for `batch` samples, and the description of the numbers that it reports.
    async fn inference(&mut self, batch: usize) -> Result<&mut (Compiled, Tracked)> {
        let key = (self.seen.is_some(), batch);
        if self.inference.get(key).is_none() {
            let options = self.device.plan_options();
            let (draft, kept) = self.model("evaluate")?.inference(&self.device, batch)?;
            let mut plan = self.device.lower(draft, &options).await?;
            plan.bind_params(&self.params)?;
            if let Some((old, _)) = self.inference.room(None) {
                old.counters().into_iter().for_each(|old| self.gone += old);
            }
            let compiled = Compiled::on(&self.device, plan, self.seen.as_ref().unwrap_or(&self.store), self.seed).await?;
            self.inference.insert(key, (compiled, kept));
        }
        Ok(self.inference.get_mut(key).expect("it was just put there"))
    }
}
