//! A model as functions, from which a graph of any batch size is written.

use super::{
    SOME, gradients,
    tally::{Accuracy, Tracked},
    training_draft,
    tried::told_for_any,
};
use crate::{
    data::Target,
    device::Device,
    error::{Error, Result},
    graph::{Graph, Tensor},
    losses::weighted_mean,
    optim::Optimizer,
    params::Status,
    plan::Draft,
    shape::Shape,
};

pub(super) type ModelFn = Box<dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g> + Send + Sync>;
pub(super) type LossFn = Box<dyn for<'g> Fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g> + Send + Sync>;

pub(super) struct Model {
    model: ModelFn,
    loss: LossFn,
    pub x: Shape,
    pub target: TargetKind,
    facts: Facts,
}

/// What a model is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TargetKind {
    /// Its own input.
    Input,
    Labels(Shape),
    Values(Shape),
}

impl TargetKind {
    pub fn of(target: &Target) -> TargetKind {
        match target {
            Target::None => TargetKind::Input,
            Target::Labels { sample, .. } => TargetKind::Labels(*sample),
            Target::Values { sample, .. } => TargetKind::Values(*sample),
        }
    }
}

/// What a model's output has to do with the samples. It is found out once, from the outputs of two batch sizes: those of one may
/// look like something else by chance, such as `[time, n, classes]` where n is as large as the time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Facts {
    /// Whether it is one score for each class of each label.
    classifies: bool,
    join: Join,
}

/// How the outputs of several batches become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Join {
    /// One after the other along the one axis that grows with the batch.
    Along(usize),
    /// It does not grow: the mean, weighted by samples.
    Mean,
    /// More than one axis grows: number after number.
    Flat,
}

impl Facts {
    /// From the shape of the output, and of what it is compared with, at one or two batch sizes.
    fn of(shapes: &[(Shape, Shape)]) -> Facts {
        let classifies = shapes.iter().all(|(scores, labels)| {
            let rows = scores.without(scores.rank().saturating_sub(1));
            scores.rank() > 1 && rows.same_dims(*labels) && scores.last() > 1
        });
        let grown = |a: Shape, b: Shape| (0..a.rank()).filter(|&i| a.dims()[i] != b.dims()[i]).collect::<Vec<_>>();
        let join = match *shapes {
            [(a, _), (b, _)] if a.rank() == b.rank() => match grown(a, b)[..] {
                [] => Join::Mean,
                [axis] => Join::Along(axis),
                _ => Join::Flat,
            },
            [(only, labels)] if only.dims().first() == labels.dims().first() => Join::Along(0),
            _ => Join::Flat,
        };
        Facts { classifies, join }
    }
}

/// What a graph of the model has.
pub(super) struct Written<'g> {
    pub output: Tensor<'g>,
    pub loss: Tensor<'g>,
    /// The loss, and what else of a batch is to be kept.
    pub numbers: Vec<Tensor<'g>>,
    pub kept: Tracked,
}

impl Model {
    pub fn new(model: ModelFn, loss: LossFn, x: Shape, target: TargetKind) -> Result<Model> {
        let mut model = Model { model, loss, x, target, facts: Facts { classifies: false, join: Join::Mean } };
        let shapes = |batch: usize| {
            let g = Graph::training();
            let (output, y) = model.output(&g, batch)?;
            g.check().map(|()| (output.shape(), y.shape()))
        };
        let first = shapes(SOME).map_err(|error| told_for_any(error, |batch| shapes(batch).err()))?;
        // A model need not take every batch size. One that takes no other than that is what it is there.
        let other = [3, 4, 6, 8, 16].into_iter().find_map(|batch| shapes(batch).ok());
        let labels = matches!(target, TargetKind::Labels(_));
        let facts = Facts::of(&[Some(first), other].into_iter().flatten().collect::<Vec<_>>());
        model.facts = Facts { classifies: labels && facts.classifies, ..facts };
        Ok(model)
    }
    /// Whether it can be trained, as far as that shows without a batch.
    pub fn try_with(&self, optimizer: &Optimizer) -> Result<()> {
        let at = |batch| {
            let g = Graph::training();
            let loss = self.write(&g, batch)?.loss;
            let statuses = optimizer.groups(&g.inner.borrow().params)?.statuses;
            gradients(loss, &statuses).map(drop)
        };
        at(SOME).map_err(|error| told_for_any(error, |batch| at(batch).err()))
    }
    pub fn join(&self) -> Join {
        self.facts.join
    }
    /// How many labels a sample has.
    pub fn labels(&self) -> usize {
        if let TargetKind::Labels(sample) = self.target { sample.elements() } else { 0 }
    }
    /// The output, and what it is compared with.
    fn output<'g>(&self, g: &'g Graph, batch: usize) -> Result<(Tensor<'g>, Tensor<'g>)> {
        let batched =
            |s: Shape| s.batched(batch).ok_or_else(|| Error::argument("data", format!("samples of shape {s} have too many axes")));
        let x = g.input_of(batched(self.x)?);
        let output = (self.model)(x);
        let y = match self.target {
            TargetKind::Input => x,
            TargetKind::Labels(s) | TargetKind::Values(s) => g.input_of(batched(s)?),
        };
        Ok((output, y))
    }
    pub fn write<'g>(&self, g: &'g Graph, batch: usize) -> Result<Written<'g>> {
        let (output, y) = self.output(g, batch)?;
        let loss = (self.loss)(output, y);
        // What fit and evaluate could not feed.
        if g.inner.borrow().inputs.len() != 1 + usize::from(self.target != TargetKind::Input) {
            let why = "a model for data has the inputs that the data gives; use constants, or Trainer::new with a graph of your own";
            return Err(Error::argument("model", why));
        }
        // Which label the loss ignores is known once it is written.
        let ignored = g.inner.borrow().inputs.get(1).and_then(|y| y.classes?.ignored);
        let accuracy = (self.facts.classifies && !output.is_dead()).then(|| g.at(output.place(), || accuracy(output, y, ignored)));
        g.check()?;
        let (kept, numbers) = Tracked::of(loss, accuracy);
        Ok(Written { output, loss, numbers, kept })
    }
    /// A step on `batch` samples, before its kernels are chosen, and what it keeps.
    pub fn draft(&self, device: &Device, batch: usize, statuses: &[Status]) -> Result<(Draft, Tracked)> {
        let g = Graph::training();
        let written = self.write(&g, batch)?;
        Ok((training_draft(device, &written.numbers, written.loss, statuses)?, written.kept))
    }
    /// Output, and what is kept, of an inference on `batch` samples.
    pub fn inference(&self, device: &Device, batch: usize) -> Result<(Draft, Tracked)> {
        let g = Graph::inference();
        let written = self.write(&g, batch)?;
        let outputs: Vec<Tensor> = std::iter::once(written.output).chain(written.numbers).collect();
        Ok((Draft::new(&outputs, &[], &device.plan_options())?, written.kept))
    }
}

/// The share of labels predicted. Those that are ignored do not count: then it is also said how many do.
fn accuracy<'g>(scores: Tensor<'g>, labels: Tensor<'g>, ignored: Option<u32>) -> Accuracy<'g> {
    let right = scores.correct(labels);
    let Some(ignored) = ignored else { return (right.mean_all(), None) };
    // Floats tell it from every class: there are no more than they count exactly.
    let there = labels.to_f32().ne(ignored as f32);
    let count = there.sum_all();
    (weighted_mean((right * there).sum_all(), count), Some(count))
}
