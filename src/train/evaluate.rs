//! Evaluation and prediction: the model in inference mode, over many samples.

use super::{Kind, Trainer, metrics};
use crate::{
    compiled::Compiled,
    data::Dataset,
    error::{Error, Result},
    gpu::{Collected, Resident},
    graph::{Graph, Tensor},
    host::{Data, Host},
    plan::Draft,
    shape::Shape,
};
use std::{ops::Range, sync::Arc, time::Instant};

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

/// Numbers of outputs that are collected on a GPU before they are read.
const COLLECTED: usize = 4 << 20;

/// Hands on what was collected.
async fn give(from: &Collected, shapes: &mut Vec<Vec<Shape>>, each: &mut (dyn FnMut(Vec<Host<f32>>) + Send)) -> Result<()> {
    let mut all = from.read(shapes.iter().flatten().copied()).await?.into_iter();
    for batch in shapes.drain(..) {
        each(all.by_ref().take(batch.len()).collect());
    }
    Ok(())
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
        // Of one sample.
        let labels = data.labels().len() / data.len();
        let (mut loss, mut right, mut classified) = (0.0, 0.0, false);
        let mut outputs = Outputs::default();
        let resident = self.resident(data);
        let both = self.model("evaluate")?.target != Kind::Input;
        let batch = |rows: Range<usize>| {
            let (x, y) = data.batch(&order[rows])?;
            Ok(std::iter::once(x).chain(both.then_some(y)).collect())
        };
        let mut each = |out: Vec<Host<f32>>| {
            let mut out = out.into_iter();
            let mut next = || out.next().unwrap_or_else(|| Host::new([0], Vec::new()));
            let rows = outputs.push(next());
            loss += f64::from(next().f()[0]) * rows as f64;
            if let Some(&accuracy) = next().f().first() {
                // A count, so that the share of all labels is exact.
                (right, classified) = (right + (f64::from(accuracy) * (rows * labels) as f64).round(), true);
            }
        };
        self.infer(data.len(), resident.as_ref(), batch, &mut each).await?;
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
                Kind::Input => None,
                Kind::Labels(s) | Kind::Values(s) => s.batched(n).map(Host::zeros),
            };
            Ok(std::iter::once(Host { shape, data: part }).chain(y).collect())
        };
        self.infer(n, None, batch, &mut |mut out| {
            outputs.push(out.swap_remove(0));
        })
        .await?;
        Ok(outputs.join())
    }

    /// Runs the inference graph on `n` samples, a batch at a time: `batch` gives the inputs of those rows, unless they lie on the
    /// device; `each` gets the outputs, in order. A GPU is not waited for before many of them are there.
    async fn infer(
        &mut self,
        n: usize,
        resident: Option<&Arc<Resident>>,
        mut batch: impl FnMut(Range<usize>) -> Result<Vec<Host<f32>>> + Send,
        each: &mut (dyn FnMut(Vec<Host<f32>>) + Send),
    ) -> Result<()> {
        let size = EVALUATION_BATCH.min(n);
        let into = self.collected(size, n.div_ceil(size)).await?;
        // The shapes of what has been collected, by batch.
        let mut shapes: Vec<Vec<Shape>> = Vec::new();
        for first in (0..n).step_by(size) {
            let rows = first..n.min(first + size);
            let f = self.inference(rows.len()).await?;
            let (Some(into), Some(exec)) = (&into, f.gpu()) else {
                each(f.run_async(&batch(rows)?).await?);
                continue;
            };
            let these: Vec<Shape> = exec.output_shapes().collect();
            if into.left() < these.iter().map(|shape| shape.elements()).sum() {
                give(into, &mut shapes, each).await?;
            }
            exec.collect(Some(into));
            if let Some(resident) = resident {
                exec.feed(resident, None).await?;
                resident.order(f.next_step(), size, &rows.collect::<Vec<_>>())?;
                f.go(true)?;
            } else {
                f.load(&batch(rows)?)?;
                f.launch()?;
            }
            if let Some(exec) = f.gpu() {
                exec.collect(None);
            }
            shapes.push(these);
        }
        match into {
            Some(into) => give(&into, &mut shapes, each).await,
            None => Ok(()),
        }
    }
    /// On a GPU, room for the outputs of so many batches of that size, or of as many as is sensible; what there was, where it is
    /// large enough.
    async fn collected(&mut self, batch: usize, batches: usize) -> Result<Option<Arc<Collected>>> {
        let Some(gpu) = self.device.as_gpu().cloned() else { return Ok(None) };
        let Some(exec) = self.inference(batch).await?.gpu() else { return Ok(None) };
        let words: usize = exec.output_shapes().map(|shape| shape.elements()).sum();
        let words = (words * batches).min(COLLECTED.max(words));
        let new = match self.collected.take() {
            // What an evaluation that failed left there is nobody's.
            Some(old) if old.words() >= words => old.emptied(),
            old => {
                self.gone = old.iter().map(|old| old.counters()).chain([self.gone]).sum();
                Arc::new(Collected::new(&gpu, words).await?)
            }
        };
        Ok(Some(self.collected.insert(new).clone()))
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
}

/// Outputs of several batches, put together.
#[derive(Default)]
struct Outputs {
    shape: Shape,
    rows: usize,
    values: Vec<f32>,
}

impl Outputs {
    /// How many rows these were.
    fn push(&mut self, part: Host<f32>) -> usize {
        let rows = part.shape.dims().first().copied().unwrap_or(1);
        self.rows += rows;
        self.shape = part.shape;
        self.values.extend_from_slice(part.f());
        rows
    }
    fn join(self) -> Host<f32> {
        Host::new(self.shape.with(0, self.rows), self.values)
    }
}
