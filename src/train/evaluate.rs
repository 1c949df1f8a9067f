//! Evaluation and prediction: the model in inference mode, over many samples.

use super::{
    TargetKind, Trainer, metrics,
    outputs::Outputs,
    tally::{Tally, Tracked},
};
use crate::{
    compiled::Compiled,
    data::Dataset,
    engine,
    error::{Error, Result},
    gpu::{Collected, Resident},
    host::{Data, Host},
    shape::Shape,
};
use std::{ops::Range, sync::Arc, time::Instant};

/// How good the model is on a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The loss of all samples. A mean over samples is weighted by the samples of each batch, whatever the output's shape; a
    /// weighted mean divides by the weights of all batches. So it does not depend on how the samples are cut into batches, if the loss is a
    /// sum of such means, each times a number or not at all.
    pub loss: f64,
    /// The share of labels predicted, for a classifier: a model for labels `[n, …]` whose output is `[n, …, classes]` at whatever batch
    /// size. A row of scores with a NaN in it predicts nothing; labels that the loss ignores do not count.
    pub accuracy: Option<f64>,
    /// The model's outputs for all samples, `[n, …]`. Those of several batches are put together along the axis that grows with the
    /// number of samples: from `[4·n, 3]` come all rows of all batches, from `[time, n, classes]` all sequences. An output that does not
    /// grow is about a batch as a whole, as the loss is: of such ones it is the mean, weighted by samples. Where more than one axis
    /// grows, one batch gives what it is, and several give `[count]` numbers, one output behind the other.
    pub outputs: Host<f32>,
    /// How long it took.
    pub seconds: f64,
}

impl Evaluation {
    /// The predicted class of each row of the outputs: the largest of its numbers.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a row with a NaN in it.
    pub fn predictions(&self) -> Result<Vec<u32>> {
        metrics::argmax(self.outputs.f(), self.outputs.shape.last())
    }
}

/// The most samples of a batch in evaluation and prediction, unless somebody says otherwise.
pub(super) const MOST: usize = 1024;

/// Bytes that the plan of such a batch may take where it is larger than those that were trained on: little enough not to be noticed…
const SMALL: u64 = 4 << 20;
/// … and where nothing was trained.
const UNTRAINED: u64 = 256 << 20;

/// The first, where there is a budget of memory for training: a small part of it.
pub(super) fn small(budget: Option<u64>) -> u64 {
    budget.map_or(SMALL, |bytes| SMALL.min(bytes / 16))
}

/// Numbers of outputs that are collected on a GPU before they are read.
const COLLECTED: u64 = 4 << 20;

/// What is known of how many samples the plan of an inference may have that takes at most so many bytes.
#[derive(Clone, Copy)]
pub(super) struct Small {
    most: u64,
    fits: usize,
    fails: usize,
}

/// A batch whose outputs have been collected.
struct Run {
    shapes: Vec<Shape>,
    kept: Tracked,
    samples: usize,
}

/// Gets the outputs of each batch: that of the model, and what is kept; and its samples.
type Each<'a> = &'a mut (dyn FnMut(Vec<Host<f32>>, &Tracked, usize) -> Result<()> + Send);

/// Hands on what was collected.
async fn give(from: &Collected, runs: &mut Vec<Run>, each: Each<'_>) -> Result<()> {
    let mut all = from.read(runs.iter().flat_map(|run| &run.shapes).copied()).await?.into_iter();
    runs.drain(..).try_for_each(|run| each(all.by_ref().take(run.shapes.len()).collect(), &run.kept, run.samples))
}

impl Trainer {
    /// Loss, accuracy and outputs on a data set, in inference mode.
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        pollster::block_on(self.evaluate_async(data))
    }
    /// [`evaluate`](Trainer::evaluate), without blocking.
    pub async fn evaluate_async(&mut self, data: &Dataset) -> Result<Evaluation> {
        let started = Instant::now();
        self.check_data("evaluate", data)?;
        let order: Vec<usize> = (0..data.len()).collect();
        let resident = self.resident(data);
        let model = self.model("evaluate")?;
        let (both, labels) = (model.target != TargetKind::Input, model.labels());
        let (mut outputs, mut tally) = (Outputs::new(model.join()), Tally::default());
        let batch = |rows: Range<usize>| {
            let (x, y) = data.batch(&order[rows])?;
            Ok(std::iter::once(x).chain(both.then_some(y)).collect())
        };
        let mut each = |mut out: Vec<Host<f32>>, kept: &Tracked, samples: usize| {
            let row: Vec<f32> = out.drain(1..).map(|number| number.f()[0]).collect();
            tally.add(kept, &row, samples, labels);
            outputs.push(out.remove(0), samples)
        };
        self.infer(data.len(), resident.as_ref(), batch, &mut each).await?;
        let (loss, accuracy) = (tally.loss(), tally.accuracy());
        Ok(Evaluation { loss, accuracy, outputs: outputs.join(), seconds: started.elapsed().as_secs_f64() })
    }

    /// How many samples [`evaluate`](Trainer::evaluate), [`predict`](Trainer::predict) and a validation take at once. Results do not depend
    /// on it, but for rounding.
    ///
    /// Without this it is the largest batch size that was trained on, and up to 1,024 where that takes at most 4 MiB; where nothing
    /// was trained, up to 1,024 where that takes at most 256 MiB. With [`Fit::memory`](super::Fit::memory) the 4 MiB are a sixteenth of those bytes at most. Where the device refuses so many, it is fewer.
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

    /// The model's outputs `[n, …]` for samples `[n, …]`, in inference mode: as [`Evaluation::outputs`].
    pub fn predict(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        pollster::block_on(self.predict_async(x))
    }
    /// [`predict`](Trainer::predict), without blocking.
    pub async fn predict_async(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        let model = self.model("predict")?;
        let (sample, target, mut outputs) = (model.x, model.target, Outputs::new(model.join()));
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
        let batch = |rows: Range<usize>| {
            let (n, range) = (rows.len(), rows.start * width..rows.end * width);
            let shape = sample.batched(n).expect("the samples came with this first axis");
            let part = match &x.data {
                Data::Float(v) => Data::Float(v[range].to_vec()),
                Data::Index(v) => Data::Index(v[range].to_vec()),
            };
            // The graph also wants targets; what they are changes the loss only.
            let y = match target {
                TargetKind::Input => None,
                TargetKind::Labels(s) | TargetKind::Values(s) => s.batched(n).map(Host::zeros),
            };
            Ok(std::iter::once(Host { shape, data: part }).chain(y).collect())
        };
        self.infer(n, None, batch, &mut |mut out, _, samples| outputs.push(out.swap_remove(0), samples)).await?;
        Ok(outputs.join())
    }

    /// Runs the inference graph on `n` samples, a batch at a time: `batch` gives the inputs of those rows, unless they lie on the
    /// device; `each` gets the outputs, in order. A GPU is not waited for before many of them are there.
    async fn infer(
        &mut self,
        n: usize,
        resident: Option<&Arc<Resident>>,
        mut batch: impl FnMut(Range<usize>) -> Result<Vec<Host<f32>>> + Send,
        each: Each<'_>,
    ) -> Result<()> {
        let size = self.evaluation_size(n).await?;
        let into = self.collected(size, n.div_ceil(size)).await?;
        // What has been collected, by batch.
        let mut there: Vec<Run> = Vec::new();
        for first in (0..n).step_by(size) {
            let rows = first..n.min(first + size);
            let samples = rows.len();
            let (f, kept) = self.inference(samples).await?;
            let (Some(into), Some(exec)) = (&into, f.gpu()) else {
                each(f.run_async(&batch(rows)?).await?, kept, samples)?;
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
        }
        match into {
            Some(into) => give(&into, &mut there, each).await,
            None => Ok(()),
        }
    }
    /// How many samples of `n` a batch has.
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
    /// So many samples, or half of them, and so on, until the plan of such a batch is small; a batch as large as one that was trained on
    /// always is.
    fn small_enough(&mut self, mut size: usize) -> usize {
        let trained = self.plans.iter().filter_map(|(key, _)| key.samples()).max();
        let (least, most) = trained.map_or((1, UNTRAINED), |batch| (batch, small(self.budget)));
        // What is known already need not be planned for again.
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
    /// What the plan of an inference on so many samples takes of the device. Makes nothing there.
    pub(super) fn inference_bytes(&self, batch: usize) -> Result<u64> {
        if let Some((f, _)) = self.inference.get(batch) {
            return Ok(f.bytes());
        }
        let plan = self.model("evaluate")?.inference(&self.device, batch)?.0.lower(&self.device.plan_options());
        engine::plan_bytes(&self.device, &plan, None)
    }
    /// On a GPU, room for the outputs of so many batches of that size, or of as many as is sensible; what there was, where it is
    /// large enough.
    async fn collected(&mut self, batch: usize, batches: usize) -> Result<Option<Arc<Collected>>> {
        let Some(gpu) = self.device.as_gpu().cloned() else { return Ok(None) };
        let f = &mut self.inference(batch).await?.0;
        // No more than the plan takes itself.
        let most = (f.bytes().min(gpu.max_buffer_bytes()) / 4).min(COLLECTED) as usize;
        let Some(exec) = f.gpu() else { return Ok(None) };
        let words: usize = exec.output_shapes().map(|shape| shape.elements()).sum();
        let words = (words * batches).min(most.max(words));
        let new = match self.collected.take() {
            // What an evaluation that failed left there is nobody's.
            Some(old) if old.words() >= words => old.emptied(),
            old => {
                self.gone = old.iter().map(|old| old.counters()).chain([self.gone]).sum();
                drop(old);
                Arc::new(Collected::new(&gpu, words).await?)
            }
        };
        Ok(Some(self.collected.insert(new).clone()))
    }

    /// The inference graph for `batch` samples: output, and what is kept of it.
    async fn inference(&mut self, batch: usize) -> Result<&mut (Compiled, Tracked)> {
        if self.inference.get(batch).is_none() {
            let options = self.device.plan_options();
            let (draft, kept) = self.model("evaluate")?.inference(&self.device, batch)?;
            let mut plan = self.device.lower(draft, &options).await?;
            plan.bind_params(&self.params)?;
            if let Some((old, _)) = self.inference.room(None) {
                self.gone = old.counters().into_iter().chain([self.gone]).sum();
            }
            let compiled = Compiled::on(&self.device, plan, &self.store, self.seed).await?;
            self.inference.insert(batch, (compiled, kept));
        }
        Ok(self.inference.get_mut(batch).expect("it was just put there"))
    }
}
