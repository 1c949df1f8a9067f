//! Means over several batches, as one batch of all their samples would have them.
//!
//! A mean over samples is weighted by the samples of each batch. A weighted mean, Σ m·w / Σ w, is not: its sums are carried apart.
//! So a loss is taken to pieces: where it is a sum of terms, each times a number, every weighted mean among them is a term of its
//! own, and the rest is one mean over samples.

use crate::{
    error::{Error, Result},
    graph::{Graph, NodeKind, Tensor},
    ops::map::{Fun, Inst},
    plan::Loc,
    shape::Shape,
};
use std::collections::BTreeMap;

/// What a step leaves to be read of a loss and its metrics: first the loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tracked {
    /// Where the share of labels predicted is, for a classifier, and how many labels counted, where some may not.
    accuracy: Option<(usize, Option<usize>)>,
    /// The weighted means in the loss.
    terms: Vec<Term>,
    /// Whether there is more to the loss than those, that depends on the batch.
    rest: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    factor: f64,
    /// Where its value is: 0 is the loss itself.
    value: usize,
    weight: usize,
}

/// The accuracy of a batch: the share of labels predicted, and how many counted, unless all did.
pub(super) type Accuracy<'g> = (Tensor<'g>, Option<Tensor<'g>>);

impl Tracked {
    /// Of this loss and accuracy: also the tensors to leave, in their order.
    pub fn of<'g>(loss: Tensor<'g>, accuracy: Option<Accuracy<'g>>) -> (Tracked, Vec<Tensor<'g>>) {
        let (mut kept, mut outputs) = (Tracked::default(), vec![loss]);
        let mut leave = |tensor: Tensor<'g>| {
            outputs.push(tensor);
            outputs.len() - 1
        };
        kept.accuracy = accuracy.map(|(share, counted)| (leave(share), counted.map(&mut leave)));
        let (means, rest) = weighted_means(loss);
        kept.rest = rest;
        for (tensor, factor, weight) in means {
            let value = if tensor.is(loss) { 0 } else { leave(tensor) };
            kept.terms.push(Term { factor, value, weight: leave(weight) });
        }
        (kept, outputs)
    }
    /// Which output of a micro-batch is what it weighs among others; `None` where that is the number of its samples. `places` are
    /// those of the outputs, where equal ones are one.
    ///
    /// # Errors
    /// A loss that is no one mean over the batch, so that gradients of parts of it do not add up to the gradient of the whole.
    pub fn weight(&self, places: &[(Loc, Shape)]) -> Result<Option<usize>> {
        let Some(first) = self.terms.first() else { return Ok(None) };
        if self.rest || self.terms.iter().any(|term| places[term.weight].0 != places[first.weight].0) {
            let why = "the loss has means of several kinds, by samples and by weights or by different weights, and the gradients of \
                micro-batches do not add up to its gradient; train on whole batches, or on one of its terms";
            return Err(Error::argument("accumulate", why));
        }
        Ok(Some(first.weight))
    }
    /// The accuracy in what a step left, unless no label counted.
    pub fn accuracy(&self, row: &[f32]) -> Option<f32> {
        let (share, counted) = self.accuracy?;
        counted.is_none_or(|i| row[i] > 0.0).then(|| row[share])
    }
}

/// Sums over batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    samples: f64,
    /// Σ n·(loss without its weighted means).
    plain: f64,
    /// Of each weighted mean: its factor, Σ m·w and Σ w.
    terms: Vec<[f64; 3]>,
    /// Labels that were predicted, and that counted, for a classifier.
    labels: Option<[f64; 2]>,
}

impl Tally {
    /// Adds what the step on a batch of so many samples, with so many labels each, left.
    pub fn add(&mut self, kept: &Tracked, row: &[f32], samples: usize, labels: usize) {
        let (number, n) = (|i: usize| f64::from(row[i]), samples as f64);
        self.samples += n;
        self.terms.resize(kept.terms.len(), [0.0; 3]);
        let mut plain = number(0);
        for (term, sum) in kept.terms.iter().zip(&mut self.terms) {
            let (mean, weight) = (number(term.value), number(term.weight));
            plain -= term.factor * mean;
            sum[0] = term.factor;
            if weight != 0.0 {
                sum[1] += mean * weight;
                sum[2] += weight;
            }
        }
        // What is not finite in the loss is already in the term that it comes from.
        let broken = kept.terms.iter().any(|term| !number(term.value).is_finite());
        self.plain += if broken { 0.0 } else { plain * n };
        if let Some((share, counted)) = kept.accuracy {
            let count = counted.map_or((samples * labels) as f64, number);
            let sums = self.labels.get_or_insert([0.0; 2]);
            // A count, so that the share of all labels is exact.
            sums[0] += (number(share) * count).round();
            sums[1] += count;
        }
    }
    /// Adds those of another.
    pub fn join(&mut self, other: &Tally) {
        self.samples += other.samples;
        self.plain += other.plain;
        self.terms.resize(other.terms.len(), [0.0; 3]);
        for (sum, [factor, mean, weight]) in self.terms.iter_mut().zip(&other.terms) {
            *sum = [*factor, sum[1] + mean, sum[2] + weight];
        }
        if let Some([right, count]) = other.labels {
            let sums = self.labels.get_or_insert([0.0; 2]);
            *sums = [sums[0] + right, sums[1] + count];
        }
    }
    /// The loss of all of them; NaN of nothing. A weighted mean without any weight is 0.
    pub fn loss(&self) -> f64 {
        let terms = self.terms.iter().map(|&[factor, sum, weight]| if weight == 0.0 { 0.0 } else { factor * sum / weight });
        self.plain / self.samples + terms.sum::<f64>()
    }
    /// The share of labels predicted; `None` where there are none that count, and without a classifier.
    pub fn accuracy(&self) -> Option<f64> {
        self.labels.filter(|sums| sums[1] > 0.0).map(|sums| sums[0] / sums[1])
    }
    pub fn samples(&self) -> f64 {
        self.samples
    }
}

/// The weighted means that a loss is made of, each with its factor and the tensor that it divides by, and whether there is more to it
/// that depends on the batch.
fn weighted_means(loss: Tensor) -> (Vec<(Tensor, f64, Tensor)>, bool) {
    let graph = loss.graph();
    let (mut found, mut rest) = (Vec::new(), false);
    if loss.is_dead() {
        return (found, rest);
    }
    let varies = varies(graph, loss.id);
    let forms = forms(graph, loss.id);
    // The factor of each node that is a term, or that terms are to be found in: from the loss back, since a node comes after its inputs.
    let mut factors = BTreeMap::from([(loss.id, 1.0)]);
    while let Some((id, factor)) = factors.pop_last() {
        let tensor = graph.tensor(id);
        if let Some(weight) = graph.weight_of(tensor) {
            found.push((tensor, factor, weight));
        } else if let Form::Sum(terms) = &forms[id] {
            terms.iter().for_each(|(&input, k)| *factors.entry(input).or_insert(0.0) += factor * k);
            rest |= terms.is_empty() && varies[id];
        }
    }
    (found, rest)
}

/// Which nodes up to `last` are not the same for every batch.
fn varies(graph: &Graph, last: usize) -> Vec<bool> {
    let nodes = &graph.inner.borrow().nodes[..=last];
    let mut varies: Vec<bool> = Vec::with_capacity(nodes.len());
    for node in nodes {
        varies.push(matches!(node.kind, NodeKind::Input(_)) || node.inputs.iter().any(|&i| varies[i]));
    }
    varies
}

/// What a node is as a linear function of its inputs.
#[derive(Clone)]
enum Form {
    Number(f64),
    /// Σ k·input, and whatever else there is, in which no terms are to be found.
    Sum(BTreeMap<usize, f64>),
}

impl Form {
    fn other() -> Form {
        Form::Sum(BTreeMap::new())
    }
    fn times(self, by: f64) -> Form {
        match self {
            Form::Number(x) => Form::Number(x * by),
            Form::Sum(terms) => Form::Sum(terms.into_iter().map(|(input, k)| (input, k * by)).collect()),
        }
    }
    fn plus(self, other: Form) -> Form {
        match (self, other) {
            (Form::Number(a), Form::Number(b)) => Form::Number(a + b),
            (Form::Sum(a), Form::Number(_)) | (Form::Number(_), Form::Sum(a)) => Form::Sum(a),
            (Form::Sum(mut a), Form::Sum(b)) => {
                b.into_iter().for_each(|(input, k)| *a.entry(input).or_insert(0.0) += k);
                Form::Sum(a)
            }
        }
    }
}

/// Of every node up to `last`.
fn forms(graph: &Graph, last: usize) -> Vec<Form> {
    let nodes = &graph.inner.borrow().nodes[..=last];
    let mut forms: Vec<Form> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let of = |i: usize| match forms[i] {
            Form::Number(x) => Form::Number(x),
            Form::Sum(_) => Form::Sum(BTreeMap::from([(i, 1.0)])),
        };
        let single = node.shape.elements() == 1 && node.inputs.iter().all(|&i| nodes[i].shape.elements() == 1);
        forms.push(match &node.kind {
            _ if !single => Form::other(),
            NodeKind::Constant(value) => value.f().first().map_or_else(Form::other, |&x| Form::Number(f64::from(x))),
            // A sum, a mean and an extreme of one number are that number.
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
