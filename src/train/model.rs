//! A model as functions. `Model` writes the graph of the model for any batch size.

use super::{
    SOME,
    batch::{Batch, Outputs, Taken},
    plans::{gradients, training_draft},
    tally::{Accuracy, Tracked},
    tried::told_for_any,
};
use crate::{
    data::Role,
    device::Device,
    error::{Error, Result},
    graph::{Graph, NodeKind, Tensor},
    losses::weighted_mean,
    optim::Optimizer,
    params::Status,
    plan::Draft,
    shape::{DType, Shape},
};
use std::sync::Arc;

/// Writes the graph of a model for a number of samples.
type Write = Box<dyn for<'g> Fn(&'g Graph, usize) -> Result<Outputs<'g>> + Send + Sync>;

pub(super) struct Model {
    write: Write,
    /// The columns of the data that the model takes, in the order of the graph's inputs. Empty for a model that is not made for
    /// data.
    pub taken: Arc<[Taken]>,
    /// The shape of one sample of the first input.
    pub x: Shape,
    facts: Facts,
}

/// Properties of the model's outputs. `Model::new` finds them once by writing the model for two batch sizes and comparing the
/// shapes of the outputs. One batch size would not be enough, because two axes may have the same size by chance. For example,
/// `n` may equal `time` in `[time, n, classes]`.
#[derive(Clone, Debug, Default, PartialEq)]
struct Facts {
    /// Whether the first output has one score for each class of each label.
    classifies: bool,
    /// The names of the outputs.
    names: Arc<[String]>,
    joins: Vec<Join>,
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

/// The shapes of a model at one batch size.
struct Shapes {
    samples: usize,
    /// The shape of a sample of the first input, if its first axis is the number of samples.
    x: Option<Shape>,
    names: Arc<[String]>,
    outputs: Vec<Shape>,
}

impl Facts {
    /// Finds the facts from the shapes at one or two batch sizes. `labels` is the shape of the labels of a sample.
    fn of(first: &Shapes, other: Option<&Shapes>, labels: Option<Shape>) -> Facts {
        let classifies = labels.is_some_and(|labels| {
            [Some(first), other].into_iter().flatten().all(|shapes| {
                shapes.outputs.first().is_some_and(|scores| {
                    let rows = scores.without(scores.rank().saturating_sub(1));
                    scores.rank() > 1 && labels.batched(shapes.samples).is_some_and(|l| rows.same_dims(l)) && scores.last() > 1
                })
            })
        });
        let grown = |a: Shape, b: Shape| (0..a.rank()).filter(|&i| a.dims()[i] != b.dims()[i]).collect::<Vec<_>>();
        let join = |(i, &a): (usize, &Shape)| match other.and_then(|other| other.outputs.get(i)) {
            Some(&b) if a.rank() == b.rank() => match grown(a, b)[..] {
                [] => Join::Mean,
                [axis] => Join::Along(axis),
                _ => Join::Flat,
            },
            None if a.dims().first() == Some(&first.samples) => Join::Along(0),
            _ => Join::Flat,
        };
        Facts { classifies, names: first.names.clone(), joins: first.outputs.iter().enumerate().map(join).collect() }
    }
}

/// The tensors of the model in one graph.
pub(super) struct Written<'g> {
    pub outputs: Vec<Tensor<'g>>,
    pub loss: Tensor<'g>,
    /// The numbers that a batch reports: the loss first, then the others that `kept` describes.
    pub numbers: Vec<Tensor<'g>>,
    pub kept: Tracked,
}

impl Model {
    /// Makes a model that takes the columns `taken` of a data set.
    pub fn of_batches(taken: Arc<[Taken]>, f: impl for<'g> Fn(&Batch<'g>) -> Outputs<'g> + Send + Sync + 'static) -> Result<Model> {
        let columns = taken.clone();
        let write: Write = Box::new(move |g, samples| {
            let outputs = f(&Batch::new(g, &columns, samples)?);
            // `fit` and `evaluate` can feed the inputs of the data only.
            if g.inner.borrow().inputs.len() != columns.len() {
                let why = "a model for data has the inputs that the data gives; use constants, or Trainer::new with a graph of your own";
                return Err(Error::argument("model", why));
            }
            Ok(outputs)
        });
        Model::new(write, taken)
    }
    /// Makes a model that adds its inputs to the graph itself.
    pub fn of_graphs(f: impl for<'g> Fn(&'g Graph, usize) -> Outputs<'g> + Send + Sync + 'static) -> Result<Model> {
        Model::new(Box::new(move |g, samples| Ok(f(g, samples))), Arc::default())
    }
    fn new(write: Write, taken: Arc<[Taken]>) -> Result<Model> {
        let mut model = Model { write, taken, x: Shape::SCALAR, facts: Facts::default() };
        let shapes = |samples: usize| {
            let g = Graph::training();
            let outputs = (model.write)(&g, samples)?;
            g.check()?;
            let first = g.inner.borrow().inputs.first().map(|input| input.shape);
            let x = first.filter(|x| x.dims().first() == Some(&samples)).map(|x| x.sample());
            let (names, outputs): (Vec<String>, Vec<Shape>) = outputs.outputs.into_iter().map(|(name, t)| (name, t.shape())).unzip();
            Ok(Shapes { samples, x, names: names.into(), outputs })
        };
        let first = shapes(SOME).map_err(|error| told_for_any(error, |samples| shapes(samples).err()))?;
        // A model need not accept every batch size. If no other size works, the facts come from the first size alone.
        let other = [3, 4, 6, 8, 16].into_iter().find_map(|samples| shapes(samples).ok());
        let Some(x) = first.x.filter(|x| other.as_ref().is_none_or(|other| other.x == Some(*x))) else {
            let why = "the first axis of its first input must be the number of samples, which a batch tells by it";
            return Err(Error::argument("model", why));
        };
        (model.facts, model.x) = (Facts::of(&first, other.as_ref(), model.label_shape()), x);
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
    /// Returns the names of the outputs.
    pub fn names(&self) -> Arc<[String]> {
        self.facts.names.clone()
    }
    pub fn joins(&self) -> &[Join] {
        &self.facts.joins
    }
    /// Returns the number of the column of labels, if the labels are the only target.
    fn label_column(&self) -> Option<usize> {
        let mut targets = self.taken.iter().enumerate().filter(|(_, taken)| taken.role == Role::Target);
        let only = targets.next().filter(|_| targets.next().is_none());
        only.filter(|(_, taken)| taken.sample.dtype() == DType::U32).map(|(i, _)| i)
    }
    fn label_shape(&self) -> Option<Shape> {
        self.label_column().map(|i| self.taken[i].sample)
    }
    /// Returns the number of labels of a sample.
    pub fn labels(&self) -> usize {
        self.label_shape().map_or(0, |sample| sample.elements())
    }
    pub fn write<'g>(&self, g: &'g Graph, batch: usize) -> Result<Written<'g>> {
        let all = (self.write)(g, batch)?;
        let loss = all.total()?;
        let outputs: Vec<Tensor> = all.outputs.iter().map(|(_, output)| *output).collect();
        let accuracy = match (outputs.first(), self.label_column()) {
            (Some(scores), Some(i)) if self.facts.classifies && !scores.is_dead() => {
                // The loss has been written by now, so the graph knows which label the loss ignores.
                let (ignored, node) = {
                    let g = g.inner.borrow();
                    let node = g.nodes.iter().position(|node| matches!(node.kind, NodeKind::Input(k) if k == i));
                    (g.inputs.get(i).and_then(|y| y.classes?.ignored), node)
                };
                node.map(|id| g.at(scores.place(), || accuracy(*scores, g.tensor(id), ignored)))
            }
            _ => None,
        };
        g.check()?;
        let (kept, numbers) = Tracked::of(loss, accuracy, &all.watched);
        Ok(Written { outputs, loss, numbers, kept })
    }
    /// Returns the draft of a training step on `batch` samples, and the description of the numbers that the step reports.
    /// `ranks` has the number of this rank and of all ranks, if batch norm takes the statistics of all of them.
    pub fn draft(&self, device: &Device, batch: usize, statuses: &[Status], ranks: Option<(usize, usize)>) -> Result<(Draft, Tracked)> {
        let g = Graph::training_over(ranks);
        let written = self.write(&g, batch)?;
        Ok((training_draft(device, &written.numbers, written.loss, statuses)?, written.kept))
    }
    /// Returns the draft of an inference on `batch` samples, and the description of the numbers that it reports. The outputs
    /// come first.
    pub fn inference(&self, device: &Device, batch: usize) -> Result<(Draft, Tracked)> {
        let g = Graph::inference();
        let written = self.write(&g, batch)?;
        let outputs: Vec<Tensor> = written.outputs.into_iter().chain(written.numbers).collect();
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
