//! A model's view of a batch, and the tensors that it computes from the batch.

use crate::{
    data::{Dataset, Role},
    error::{Error, Result},
    graph::{Graph, Tensor},
    shape::{DType, Shape},
};
use std::{fmt, ops::Index, panic::Location, sync::Arc};

/// A column that a model takes from a data set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    pub name: String,
    pub role: Role,
    /// The shape of one sample.
    pub sample: Shape,
}

impl Taken {
    /// Returns all columns of a data set.
    pub fn of(data: &Dataset) -> Arc<[Taken]> {
        let taken = data.fields().iter().map(|f| Taken { name: f.name().to_string(), role: f.role(), sample: f.sample() });
        taken.collect()
    }
}

/// The columns of a batch as tensors `[n, …]`, by name. [`Trainer::for_batches`](crate::Trainer::for_batches) gives it to a
/// model.
///
/// `b["age"]` is the column `age`. A name that the data does not have is a mistake in the graph. Its error lists the names of
/// the data.
pub struct Batch<'g> {
    graph: &'g Graph,
    taken: Arc<[Taken]>,
    columns: Vec<Tensor<'g>>,
    dead: Tensor<'g>,
    samples: usize,
}

impl<'g> Batch<'g> {
    /// Adds an input for each column to the graph.
    pub(super) fn new(graph: &'g Graph, taken: &Arc<[Taken]>, samples: usize) -> Result<Batch<'g>> {
        let input = |Taken { sample, .. }: &Taken| match sample.batched(samples) {
            Some(shape) => Ok(graph.input_of(shape)),
            None => Err(Error::argument("data", format!("samples of shape {sample} have too many axes"))),
        };
        let columns = taken.iter().map(input).collect::<Result<_>>()?;
        Ok(Batch { graph, taken: taken.clone(), columns, dead: graph.dead(), samples })
    }
    /// Returns the graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }
    /// Returns the number of samples in the batch. It differs from batch to batch.
    pub fn samples(&self) -> usize {
        self.samples
    }
    /// Returns the names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.taken.iter().map(|taken| taken.name.as_str())
    }
    pub(super) fn at(&self, column: usize) -> Option<Tensor<'g>> {
        self.columns.get(column).copied()
    }
}

impl<'g> Index<&str> for Batch<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn index(&self, name: &str) -> &Tensor<'g> {
        if let Some(i) = self.names().position(|other| other == name) {
            return &self.columns[i];
        }
        let names: Vec<&str> = self.names().collect();
        let why = format!("the data has no such column; it has {}", names.join(", "));
        self.graph.mistake("column", &[format!("`{name}`")], why, Location::caller());
        &self.dead
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_map().entries(self.names().zip(&self.columns)).finish()
    }
}

/// The tensors that a model computes from a batch: outputs, losses and watched scalars.
///
/// Training reduces the sum of the losses, each times its weight. Reports have this sum as `loss`. They have each loss, without
/// its weight, and each watched scalar under its name.
///
/// ```
/// use downhill::{Device, Fit, Trainer, data::{Dataset, Field}, optim::Adam, train::Outputs};
/// let n = 60;
/// let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
/// let data = Dataset::of([
///     Field::floats("x", [1], x.clone()),
///     Field::tokens("kind", [], (0..n).map(|i| i % 3).collect(), 3),
///     Field::values("y", [1], x.iter().map(|x| 2.0 * x).collect()),
///     Field::labels("parity", (0..n).map(|i| i % 2).collect(), 2),
/// ])?;
/// let mut trainer = Trainer::for_batches(
///     &Device::cpu(),
///     &data,
///     |b| {
///         let kind = b.graph().param("kind", [3, 4], downhill::init::Init::Zeros).gather_rows(b["kind"]);
///         let h = (b["x"].linear("fc", 4) + kind).tanh();
///         let (y, parity) = (h.linear("y", 1), h.linear("parity", 2));
///         Outputs::new()
///             .output("y", y)
///             .output("parity", parity)
///             .loss("mse", 1.0, y.mse(b["y"]))
///             .loss("parity", 0.1, parity.cross_entropy(b["parity"]))
///             .watch("rmse", y.mse(b["y"]).sqrt())
///     },
///     Adam::new(0.05),
/// )?;
/// let history = trainer.fit(&data, Fit::new().epochs(20))?;
/// assert!(history.epochs[19].watched.get("rmse")? < history.epochs[0].watched.get("rmse")?);
/// let result = trainer.evaluate(&data)?;
/// assert_eq!((result.outputs.shape.dims(), result.more.get("parity")?.shape.dims()), (&[60, 1][..], &[60, 2][..]));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a model returns it"]
pub struct Outputs<'g> {
    pub(super) outputs: Vec<(String, Tensor<'g>)>,
    losses: Vec<(String, f32, Tensor<'g>)>,
    pub(super) watched: Vec<(String, Tensor<'g>)>,
}

/// A loss alone.
impl<'g> From<Tensor<'g>> for Outputs<'g> {
    fn from(loss: Tensor<'g>) -> Outputs<'g> {
        Outputs { losses: vec![(String::new(), 1.0, loss)], ..Outputs::default() }
    }
}

impl<'g> Outputs<'g> {
    /// Makes a value without any tensor. A model needs at least one [loss](Outputs::loss).
    pub fn new() -> Outputs<'g> {
        Outputs::default()
    }
    /// Adds an output. [`evaluate`](crate::Trainer::evaluate) and [`predict`](crate::Trainer::predict) return the outputs for
    /// all samples.
    pub fn output(mut self, name: impl Into<String>, output: Tensor<'g>) -> Outputs<'g> {
        self.outputs.push((name.into(), output));
        self
    }
    /// Adds a loss, a single number. The sum of all losses, each times its weight, is the loss that training reduces.
    pub fn loss(mut self, name: impl Into<String>, weight: f32, loss: Tensor<'g>) -> Outputs<'g> {
        let name = name.into();
        self.losses.push((name.clone(), weight, loss));
        self.watched.push((name, loss));
        self
    }
    /// Adds a scalar that reports contain. It has no influence on training.
    ///
    /// Over several batches, a mean is averaged as [`Evaluation::loss`](crate::Evaluation::loss) is. The square root of a mean
    /// is the square root of the mean over all batches. Any other function of means is averaged over the batches, weighted by
    /// samples.
    pub fn watch(mut self, name: impl Into<String>, scalar: Tensor<'g>) -> Outputs<'g> {
        self.watched.push((name.into(), scalar));
        self
    }
    /// Returns the loss that training reduces.
    ///
    /// # Errors
    /// There is no loss. A watched scalar is not a single number, or two have one name.
    pub(super) fn total(&self) -> Result<Tensor<'g>> {
        let Some(&(_, weight, first)) = self.losses.first() else {
            return Err(Error::argument("Outputs", "there is no loss to train; add one with Outputs::loss"));
        };
        let g = first.graph();
        for names in [self.outputs.iter().map(|o| &o.0).collect::<Vec<_>>(), self.watched.iter().map(|w| &w.0).collect()] {
            if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
                return Err(Error::argument("Outputs", format!("two outputs, losses or watched scalars are named `{}`", twice.1)));
            }
        }
        for (name, scalar) in &self.watched {
            let shape = scalar.shape();
            if !scalar.is_dead() && (shape.elements() != 1 || shape.dtype() != DType::F32) {
                let why = format!("`{name}` must be one number, a float; reduce it first, e.g. with mean_all()");
                g.mistake(if self.losses.iter().any(|l| l.0 == *name) { "loss" } else { "watch" }, &[*scalar], why, scalar.place());
            }
        }
        if self.losses.len() == 1 && weight == 1.0 {
            return Ok(first);
        }
        let scaled = |weight: f32, loss: Tensor<'g>| if weight == 1.0 { loss } else { loss * weight };
        let rest = || self.losses[1..].iter().fold(scaled(weight, first), |sum, &(_, weight, loss)| sum + scaled(weight, loss));
        Ok(g.at(first.place(), rest))
    }
}
