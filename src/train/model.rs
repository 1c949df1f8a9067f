//! A model as functions. `Model` writes the graph of the model for any batch size.

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

/// The target that the loss compares the model's output with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum TargetKind {
    /// The model's own input.
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

/// Properties of the model's output. `Model::new` finds them once by writing the model for two batch sizes and comparing the
/// shapes of the outputs. One batch size would not be enough, because two axes may have the same size by chance. For example,
/// `n` may equal `time` in `[time, n, classes]`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Facts {
    /// Whether the output has one score for each class of each label.
    classifies: bool,
    join: Join,
}

/// How the outputs of several batches are joined into one output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Join {
    /// Exactly one axis grows with the batch. Outputs are concatenated along this axis.
    Along(usize),
    /// The output does not grow with the batch. Outputs are averaged, weighted by samples.
    Mean,
    /// More than one axis grows with the batch. Outputs are flattened and concatenated.
    Flat,
}

impl Facts {
    /// Finds the facts from the shapes of output and target, at one or two batch sizes.
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

/// The tensors of the model in one graph.
pub(super) struct Written<'g> {
    pub output: Tensor<'g>,
    pub loss: Tensor<'g>,
    /// The numbers that a batch reports: the loss first, then the others that `kept` describes.
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
        // A model need not accept every batch size. If no other size works, the facts come from the first size alone.
        let other = [3, 4, 6, 8, 16].into_iter().find_map(|batch| shapes(batch).ok());
        let labels = matches!(target, TargetKind::Labels(_));
        let facts = Facts::of(&[Some(first), other].into_iter().flatten().collect::<Vec<_>>());
        model.facts = Facts { classifies: labels && facts.classifies, ..facts };
        Ok(model)
    }
    /// Checks that the model can be trained with the optimizer, as far as this can be checked without data.
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
    /// Returns the number of labels of a sample.
    pub fn labels(&self) -> usize {
        if let TargetKind::Labels(sample) = self.target { sample.elements() } else { 0 }
    }
    /// Returns the output and the target.
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
        // `fit` and `evaluate` can feed the inputs of the data only.
        if g.inner.borrow().inputs.len() != 1 + usize::from(self.target != TargetKind::Input) {
            let why = "a model for data has the inputs that the data gives; use constants, or Trainer::new with a graph of your own";
            return Err(Error::argument("model", why));
        }
        // The loss has been written by now, so the graph knows which label the loss ignores.
        let ignored = g.inner.borrow().inputs.get(1).and_then(|y| y.classes?.ignored);
        let accuracy = (self.facts.classifies && !output.is_dead()).then(|| g.at(output.place(), || accuracy(output, y, ignored)));
        g.check()?;
        let (kept, numbers) = Tracked::of(loss, accuracy);
        Ok(Written { output, loss, numbers, kept })
    }
    /// Returns the draft of a training step on `batch` samples, and the description of the numbers that the step reports.
    pub fn draft(&self, device: &Device, batch: usize, statuses: &[Status]) -> Result<(Draft, Tracked)> {
        let g = Graph::training();
        let written = self.write(&g, batch)?;
        Ok((training_draft(device, &written.numbers, written.loss, statuses)?, written.kept))
    }
    /// Returns the draft of an inference on `batch` samples, and the description of the numbers that it reports.
    pub fn inference(&self, device: &Device, batch: usize) -> Result<(Draft, Tracked)> {
        let g = Graph::inference();
        let written = self.write(&g, batch)?;
        let outputs: Vec<Tensor> = std::iter::once(written.output).chain(written.numbers).collect();
        Ok((Draft::new(&outputs, &[], &device.plan_options())?, written.kept))
    }
}

/// Returns the share of labels that are predicted. If the loss ignores a label, such labels do not count, and the second tensor
/// is the number of labels that count.
fn accuracy<'g>(scores: Tensor<'g>, labels: Tensor<'g>, ignored: Option<u32>) -> Accuracy<'g> {
    let right = scores.correct(labels);
    let Some(ignored) = ignored else { return (right.mean_all(), None) };
    // The comparison in floats is exact, because there are no more classes than an `f32` can count exactly.
    let there = labels.to_f32().ne(ignored as f32);
    let count = there.sum_all();
    (weighted_mean((right * there).sum_all(), count), Some(count))
}
