//! Means over several batches. They equal the means over one batch of all samples.
//!
//! A mean over samples is averaged over batches, weighted by the number of samples. A weighted mean Σ m·w / Σ w needs two
//! separate sums, Σ m·w and Σ w. So this module splits a loss into its terms. If the loss is a sum of terms, each times a
//! number, every weighted mean is a term of its own. The rest of the loss is treated as one mean over samples.

use super::named::Named;
use crate::{
    error::{Error, Result},
    graph::{Graph, NodeKind, Tensor},
    ops::map::{Fun, Inst},
    plan::Loc,
    shape::Shape,
};
use std::sync::Arc;

/// Describes the numbers that a batch reports. The first number is the loss. The others belong to metrics, weighted means and
/// watched scalars.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tracked {
    /// For a classifier: the index of the share of labels predicted. If the loss ignores a label, also the index of the number
    /// of labels that count.
    accuracy: Option<(usize, Option<usize>)>,
    loss: Scalar,
    names: Arc<[String]>,
    watched: Vec<Scalar>,
}

/// A scalar of each batch, and the way to average it over batches.
#[derive(Clone, Debug, Default, PartialEq)]
struct Scalar {
    /// The index of the scalar among the numbers.
    value: usize,
    /// Whether the scalar is the square root of the rest of this description. The square root is taken of the mean over all
    /// batches.
    root: bool,
    /// The index of the mean. It differs from `value` below a square root.
    mean: usize,
    /// The weighted means in it.
    terms: Vec<Term>,
    /// Whether it has other terms that depend on the batch.
    rest: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    factor: f64,
    /// The index of the mean among the numbers.
    value: usize,
    /// The index of the weight Σ w among the numbers.
    weight: usize,
}

/// The accuracy of a batch: the share of labels predicted and, if the loss ignores a label, the number of labels that count.
pub(super) type Accuracy<'g> = (Tensor<'g>, Option<Tensor<'g>>);

impl Tracked {
    /// Returns the description for a loss, an accuracy and watched scalars, and the tensors that a batch must report, in order.
    pub fn of<'g>(loss: Tensor<'g>, accuracy: Option<Accuracy<'g>>, watched: &[(String, Tensor<'g>)]) -> (Tracked, Vec<Tensor<'g>>) {
        let (mut kept, mut outputs) = (Tracked::default(), vec![loss]);
        let mut leave = |tensor: Tensor<'g>| {
            outputs.iter().position(|other| other.is(tensor)).unwrap_or_else(|| {
                outputs.push(tensor);
                outputs.len() - 1
            })
        };
        kept.accuracy = accuracy.map(|(share, counted)| (leave(share), counted.map(&mut leave)));
        kept.loss = Scalar::of(loss, false, &mut leave);
        kept.names = watched.iter().map(|(name, _)| name.clone()).collect();
        kept.watched = watched.iter().map(|(_, scalar)| Scalar::of(*scalar, true, &mut leave)).collect();
        (kept, outputs)
    }
    /// Returns the index of the output that is the weight of a micro-batch. `None` where the weight is the number of samples.
    /// `places` are the locations of the outputs. Equal outputs have the same location.
    ///
    /// # Errors
    /// The loss is not one single mean over the batch. The gradients of micro-batches then do not add up to the gradient of the
    /// batch.
    pub fn weight(&self, places: &[(Loc, Shape)]) -> Result<Option<usize>> {
        let Some(first) = self.loss.terms.first() else { return Ok(None) };
        if self.loss.rest || self.loss.terms.iter().any(|term| places[term.weight].0 != places[first.weight].0) {
            let why = "the loss has means of several kinds, by samples and by weights or by different weights, and the gradients of \
                micro-batches do not add up to its gradient; train on whole batches, or on one of its terms";
            return Err(Error::argument("accumulate", why));
        }
        Ok(Some(first.weight))
    }
    /// Returns the weight of a batch of `samples` samples in the mean over micro-batches, from the numbers of the batch.
    pub fn weight_in(&self, row: &[f32], samples: usize) -> f64 {
        self.loss.terms.first().map_or(samples as f64, |term| f64::from(row[term.weight]))
    }
    /// Returns the names of the watched scalars.
    pub fn names(&self) -> Arc<[String]> {
        self.names.clone()
    }
    /// Returns the accuracy from the numbers of a batch. `None` where no label counts.
    pub fn accuracy(&self, row: &[f32]) -> Option<f32> {
        let (share, counted) = self.accuracy?;
        counted.is_none_or(|i| row[i] > 0.0).then(|| row[share])
    }
    /// Returns the watched scalars from the numbers of a batch.
    pub fn watched(&self, row: &[f32]) -> Named<f32> {
        Named::new(self.names.clone(), self.watched.iter().map(|scalar| row[scalar.value]).collect())
    }
}

impl Scalar {
    /// Describes a scalar. `leave` makes the batch report a tensor, and returns its index.
    fn of<'g>(scalar: Tensor<'g>, may_be_root: bool, mut leave: impl FnMut(Tensor<'g>) -> usize) -> Scalar {
        let value = leave(scalar);
        let below = if may_be_root { below_root(scalar) } else { None };
        let mean = below.unwrap_or(scalar);
        let (means, rest) = weighted_means(mean);
        let term = |(tensor, factor, weight)| Term { factor, value: leave(tensor), weight: leave(weight) };
        let terms = means.into_iter().map(term).collect();
        Scalar { value, root: below.is_some(), mean: leave(mean), terms, rest }
    }
}

/// Returns the tensor whose square root `scalar` is.
fn below_root(scalar: Tensor) -> Option<Tensor> {
    let graph = scalar.graph();
    let inner = graph.inner.borrow();
    let node = inner.nodes.get(scalar.id)?;
    let NodeKind::Op(op) = &node.kind else { return None };
    let is_root = matches!(op.as_map()?.expr.insts(), [Inst::Input(0), Inst::Call(Fun::Sqrt, [0, ..])]);
    is_root.then(|| graph.tensor(node.inputs[0]))
}

/// Sums over several batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    samples: f64,
    loss: Sums,
    names: Arc<[String]>,
    watched: Vec<Sums>,
    /// For a classifier: the number of labels predicted, and the number of labels that count.
    labels: Option<[f64; 2]>,
}

/// The sums of a scalar.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// Σ n·(scalar without its weighted means).
    plain: f64,
    /// For each weighted mean: its factor, Σ m·w and Σ w.
    terms: Vec<[f64; 3]>,
    root: bool,
}

impl Sums {
    /// Adds the numbers `row` of a batch of `n` samples.
    fn add(&mut self, scalar: &Scalar, row: &[f32], n: f64) {
        let number = |i: usize| f64::from(row[i]);
        self.root = scalar.root;
        self.terms.resize(scalar.terms.len(), [0.0; 3]);
        let mut plain = number(scalar.mean);
        for (term, sum) in scalar.terms.iter().zip(&mut self.terms) {
            let (mean, weight) = (number(term.value), number(term.weight));
            plain -= term.factor * mean;
            sum[0] = term.factor;
            if weight != 0.0 {
                sum[1] += mean * weight;
                sum[2] += weight;
            }
        }
        // If a term is not finite, the term already carries this fact. The plain part must not count it again.
        let broken = scalar.terms.iter().any(|term| !number(term.value).is_finite());
        self.plain += if broken { 0.0 } else { plain * n };
    }
    fn join(&mut self, other: &Sums) {
        self.root = other.root;
        self.plain += other.plain;
        self.terms.resize(other.terms.len(), [0.0; 3]);
        for (sum, [factor, mean, weight]) in self.terms.iter_mut().zip(&other.terms) {
            *sum = [*factor, sum[1] + mean, sum[2] + weight];
        }
    }
    /// Returns the scalar over all batches. A weighted mean whose weights are all 0 is 0.
    fn mean(&self, samples: f64) -> f64 {
        let terms = self.terms.iter().map(|&[factor, sum, weight]| if weight == 0.0 { 0.0 } else { factor * sum / weight });
        let mean = self.plain / samples + terms.sum::<f64>();
        if self.root { mean.sqrt() } else { mean }
    }
}

impl Tally {
    /// Adds the numbers `row` of a batch. The batch has `samples` samples, each with `labels` labels.
    pub fn add(&mut self, kept: &Tracked, row: &[f32], samples: usize, labels: usize) {
        let (number, n) = (|i: usize| f64::from(row[i]), samples as f64);
        self.samples += n;
        self.loss.add(&kept.loss, row, n);
        self.watch(&kept.names);
        self.watched.iter_mut().zip(&kept.watched).for_each(|(sums, scalar)| sums.add(scalar, row, n));
        if let Some((share, counted)) = kept.accuracy {
            let count = counted.map_or((samples * labels) as f64, number);
            let sums = self.labels.get_or_insert([0.0; 2]);
            // Sums of whole counts are exact, and so is the share over all batches.
            sums[0] += (number(share) * count).round();
            sums[1] += count;
        }
    }
    /// Adds the sums of another tally.
    pub fn join(&mut self, other: &Tally) {
        self.samples += other.samples;
        self.loss.join(&other.loss);
        self.watch(&other.names);
        self.watched.iter_mut().zip(&other.watched).for_each(|(sums, other)| sums.join(other));
        if let Some([right, count]) = other.labels {
            let sums = self.labels.get_or_insert([0.0; 2]);
            *sums = [sums[0] + right, sums[1] + count];
        }
    }
    fn watch(&mut self, names: &Arc<[String]>) {
        if self.watched.len() != names.len() {
            self.names = names.clone();
            self.watched.resize(names.len(), Sums::default());
        }
    }
    /// Returns the loss over all batches. It is NaN without any batch.
    pub fn loss(&self) -> f64 {
        self.loss.mean(self.samples)
    }
    /// Returns the watched scalars over all batches.
    pub fn watched(&self) -> Named<f64> {
        Named::new(self.names.clone(), self.watched.iter().map(|sums| sums.mean(self.samples)).collect())
    }
    /// Returns the share of labels predicted. `None` where no label counts, or the model is no classifier.
    pub fn accuracy(&self) -> Option<f64> {
        self.labels.filter(|sums| sums[1] > 0.0).map(|sums| sums[0] / sums[1])
    }
    pub fn samples(&self) -> f64 {
        self.samples
    }
    /// Returns all sums as one list.
    pub fn numbers(&self) -> Vec<f64> {
        let labels = self.labels.unwrap_or([f64::NAN; 2]);
        let mut all = vec![self.samples, labels[0], labels[1]];
        for sums in [&self.loss].into_iter().chain(&self.watched) {
            all.extend([sums.plain, f64::from(u8::from(sums.root)), sums.terms.len() as f64]);
            all.extend(sums.terms.iter().flatten());
        }
        all
    }
    /// Returns the tally of numbers that `kept` describes, with the sums that [`numbers`](Tally::numbers) returned.
    pub fn of_numbers(numbers: &[f64], kept: &Tracked) -> Option<Tally> {
        let (&[samples, right, count], mut rest) = numbers.split_first_chunk()?;
        let mut all = Vec::new();
        while let Some((&[plain, root, n], terms)) = rest.split_first_chunk() {
            let (terms, others) = terms.split_at_checked((n as usize).checked_mul(3)?)?;
            all.push(Sums { plain, terms: terms.as_chunks().0.to_vec(), root: root != 0.0 });
            rest = others;
        }
        let fits = rest.is_empty() && (all.len() == kept.names.len() + 1 || all.len() == 1);
        let loss = fits.then(|| all.remove(0))?;
        let names = if all.is_empty() { Arc::default() } else { kept.names.clone() };
        Some(Tally { samples, loss, names, watched: all, labels: (!count.is_nan()).then_some([right, count]) })
    }
}

/// Returns the weight of the loss of a batch in the mean over several batches: the number of samples, or the sum of weights that the loss
/// divides by. [`Tracked::weight`] refuses a loss for which no single weight is right.
pub(super) fn weight_of_batch(loss: Tensor) -> Tensor {
    let g = loss.graph();
    let samples = || g.inner.borrow().inputs.first().and_then(|x| x.shape.dims().first().copied()).unwrap_or(1);
    weighted_means(loss).0.first().map_or_else(|| g.scalar(samples() as f32), |term| term.2)
}

/// Finds the weighted means in a loss. Each comes with its factor and the tensor of its weight. Also returns whether other
/// terms of the loss depend on the batch.
fn weighted_means(loss: Tensor) -> (Vec<(Tensor, f64, Tensor)>, bool) {
    let graph = loss.graph();
    let (mut found, mut rest) = (Vec::new(), false);
    if loss.is_dead() {
        return (found, rest);
    }
    let varies = varies(graph, loss.id);
    let forms = forms(graph, loss.id);
    // The factor of each node that is a term or contains terms. The walk starts at the loss. Each node has a larger number than
    // its inputs, so the largest number comes next.
    let mut factors = vec![(loss.id, 1.0)];
    while let Some(last) = (0..factors.len()).max_by_key(|&i| factors[i].0) {
        let (id, factor) = factors.swap_remove(last);
        let tensor = graph.tensor(id);
        if let Some(weight) = graph.weight_of(tensor) {
            found.push((tensor, factor, weight));
        } else if let Form::Sum(terms) = &forms[id] {
            terms.iter().for_each(|&(input, k)| add(&mut factors, input, factor * k));
            rest |= terms.is_empty() && varies[id];
        }
    }
    (found, rest)
}

/// Returns, for each node up to `last`, whether its value depends on the batch.
fn varies(graph: &Graph, last: usize) -> Vec<bool> {
    let nodes = &graph.inner.borrow().nodes[..=last];
    let mut varies: Vec<bool> = Vec::with_capacity(nodes.len());
    for node in nodes {
        varies.push(matches!(node.kind, NodeKind::Input(_)) || node.inputs.iter().any(|&i| varies[i]));
    }
    varies
}

/// A node as a linear function of its inputs.
#[derive(Clone)]
enum Form {
    Number(f64),
    /// Σ k·input, plus a rest that is not searched for terms.
    Sum(Vec<(usize, f64)>),
}

/// Adds a term to a sum, in which each input appears once.
fn add(terms: &mut Vec<(usize, f64)>, input: usize, k: f64) {
    match terms.iter_mut().find(|term| term.0 == input) {
        Some(term) => term.1 += k,
        None => terms.push((input, k)),
    }
}

impl Form {
    fn other() -> Form {
        Form::Sum(Vec::new())
    }
    fn times(self, by: f64) -> Form {
        match self {
            Form::Number(x) => Form::Number(x * by),
            Form::Sum(mut terms) => {
                terms.iter_mut().for_each(|term| term.1 *= by);
                Form::Sum(terms)
            }
        }
    }
    fn plus(self, other: Form) -> Form {
        match (self, other) {
            (Form::Number(a), Form::Number(b)) => Form::Number(a + b),
            (Form::Sum(a), Form::Number(_)) | (Form::Number(_), Form::Sum(a)) => Form::Sum(a),
            (Form::Sum(mut a), Form::Sum(b)) => {
                b.into_iter().for_each(|(input, k)| add(&mut a, input, k));
                Form::Sum(a)
            }
        }
    }
}

/// Returns the form of every node up to `last`.
fn forms(graph: &Graph, last: usize) -> Vec<Form> {
    let nodes = &graph.inner.borrow().nodes[..=last];
    let mut forms: Vec<Form> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let of = |i: usize| match forms[i] {
            Form::Number(x) => Form::Number(x),
            Form::Sum(_) => Form::Sum(vec![(i, 1.0)]),
        };
        let single = node.shape.elements() == 1 && node.inputs.iter().all(|&i| nodes[i].shape.elements() == 1);
        forms.push(match &node.kind {
            _ if !single => Form::other(),
            NodeKind::Constant(value) => value.f().first().map_or_else(Form::other, |&x| Form::Number(f64::from(x))),
            // The sum, the mean and the maximum of one number are the number itself.
            NodeKind::Op(op) if op.is_alias() || op.name() == "reduce" => of(node.inputs[0]),
            NodeKind::Op(op) => op.as_map().map_or_else(Form::other, |map| expression(map.expr.insts(), |i| of(node.inputs[i]))),
            NodeKind::Input(_) | NodeKind::Param(_) => Form::other(),
        });
    }
    forms
}

fn expression(insts: &[Inst], input: impl Fn(usize) -> Form) -> Form {
    let mut values: Vec<Form> = Vec::with_capacity(insts.len());
    for inst in insts {
        let of = |k: usize| values[k].clone();
        let value = match *inst {
            Inst::Const(bits) => Form::Number(f64::from(f32::from_bits(bits))),
            Inst::Input(i) => input(i),
            Inst::Call(Fun::Identity | Fun::Detach, [a, ..]) => of(a),
            Inst::Call(Fun::Neg, [a, ..]) => of(a).times(-1.0),
            Inst::Call(Fun::Add, [a, b, _]) => of(a).plus(of(b)),
            Inst::Call(Fun::Sub, [a, b, _]) => of(a).plus(of(b).times(-1.0)),
            Inst::Call(Fun::Mul, [a, b, _]) => match (of(a), of(b)) {
                (Form::Number(k), x) | (x, Form::Number(k)) => x.times(k),
                _ => Form::other(),
            },
            Inst::Call(Fun::Div, [a, b, _]) => match (of(a), of(b)) {
                (x, Form::Number(k)) => x.times(1.0 / k),
                _ => Form::other(),
            },
            Inst::Call(..) | Inst::Random(_) => Form::other(),
        };
        values.push(value);
    }
    values.pop().unwrap_or_else(Form::other)
}
