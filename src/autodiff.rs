//! Reverse-mode differentiation. It adds the nodes of the gradient to the graph. This module sums the contributions to a gradient
//! and reduces broadcast axes, so no op has to.

use crate::{
    error::Place,
    graph::{Graph, NodeKind, OTHER_GRAPH, Tensor},
    ops::pad::Pad,
    recompute::Copies,
    shape::{DType, Shape},
    threads::sorted,
};
use std::{collections::BTreeMap, panic::Location};

impl Graph {
    /// Returns the tensor that a step computes for each parameter. For a trained parameter it is the gradient of `loss`. For state
    /// it is the new value. For a frozen parameter it is `None`.
    #[track_caller]
    pub(crate) fn param_grads<'g>(&'g self, loss: Tensor<'g>, is_frozen: impl Fn(usize) -> bool) -> Vec<Option<Tensor<'g>>> {
        let params = self.param_tensors();
        let (trained, assigned): (Vec<bool>, BTreeMap<usize, usize>) = {
            let g = self.inner.borrow();
            (g.params.iter().map(|p| p.trained).collect(), g.assigned.clone())
        };
        let has_grad = |i: usize| trained[i] && !is_frozen(i);
        let sources: Vec<Tensor> = (0..params.len()).filter(|&i| has_grad(i)).map(|i| params[i]).collect();
        let mut grads = loss.grad(&sources).into_iter();
        let one = |(i, &p): (usize, &Tensor<'g>)| match trained[i] {
            true if has_grad(i) => grads.next(),
            true => None,
            false => Some(assigned.get(&i).map_or(p, |&id| self.tensor(id))),
        };
        params.iter().enumerate().map(one).collect()
    }
}

impl<'g> Tensor<'g> {
    /// Returns ∂self/∂x for each `x`, as tensors of the same graph. `self` must be a single number, such as a loss.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let x = g.input([2]);
    /// let y = x.square().sum_all();
    /// let mut f = Device::cpu().compile(&y.grad(&[x]))?;
    /// assert_eq!(f.run(&[Host::new([2], vec![3.0, -1.0])])?[0].f(), &[6.0, -2.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn grad(self, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let shape = self.shape();
        let why = match (shape.elements(), shape.dtype()) {
            (1, DType::F32) => None,
            (1, DType::U32) => Some("a gradient is taken of floats, not labels"),
            _ => Some("a gradient is taken of a single number; reduce it first, e.g. with mean_all()"),
        };
        if let Some(why) = why {
            return vec![self.graph.mistake("grad", &[self], why.into(), Location::caller()); x.len()];
        }
        let one = self.graph.full(self.shape(), 1.0);
        self.vjp(one, x)
    }

    /// Returns Σ dy·∂self/∂x for each `x`. `dy` is the gradient of this tensor. It must have the shape of this tensor.
    #[track_caller]
    pub fn vjp(self, dy: Tensor<'g>, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let (graph, place) = (self.graph, Location::caller());
        let all = || [self, dy].into_iter().chain(x.iter().copied());
        if all().any(|t| !std::ptr::eq(t.graph, graph)) {
            return vec![graph.mistake("vjp", &all().collect::<Vec<_>>(), OTHER_GRAPH.into(), Location::caller()); x.len()];
        }
        if self.is_dead() || dy.is_dead() || x.iter().any(|t| t.is_dead()) || graph.error().is_some() {
            return vec![graph.dead(); x.len()];
        }
        if dy.shape() != self.shape().of(DType::F32) {
            let why = format!("the gradient of {} must have that shape, and be floats", self.shape());
            return vec![graph.mistake("vjp", &[self, dy], why, Location::caller()); x.len()];
        }
        let nodes = graph.inner.borrow().nodes[..=self.id].to_vec();
        // Only nodes that `self` depends on and that depend on an `x` get a gradient.
        let mut depends = vec![false; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            depends[id] = x.iter().any(|t| t.id == id) || node.inputs.iter().any(|&i| depends[i]);
        }
        // The contributions of the uses of each node to its gradient, with the line of each use. They are summed when all of them
        // are known.
        let mut parts: Vec<Vec<(Tensor, Place)>> = vec![Vec::new(); nodes.len()];
        let mut grads: Vec<Option<Tensor>> = vec![None; nodes.len()];
        grads[self.id] = Some(dy);
        let mut copies = Copies::new(self);
        for (id, node) in nodes.iter().enumerate().rev().filter(|&(id, _)| depends[id]) {
            if id != self.id {
                grads[id] = sum(std::mem::take(&mut parts[id]));
            }
            let (Some(dy), NodeKind::Op(op)) = (grads[id], &node.kind) else { continue };
            let inputs: Vec<Tensor> = node.inputs.iter().map(|&i| graph.tensor(copies.read(&nodes, id, i))).collect();
            let output = graph.tensor(copies.read(&nodes, id, id));
            let new = copies.apart(id, || graph.part_of(node, || op.vjp(&inputs, output, dy)));
            if let Some(why) = mistake(&inputs, output, &new) {
                return vec![graph.mistake(op.called(), &inputs, why, node.place); x.len()];
            }
            for (&input, part) in node.inputs.iter().zip(new) {
                let (Some(part), true) = (part, depends[input] && nodes[input].shape.dtype() == DType::F32) else { continue };
                parts[input].push((copies.apart(id, || graph.part_of(node, || part.sum_to(nodes[input].shape))), node.place));
            }
        }
        // `self` cannot depend on nodes that were added after it. Their gradient is zero.
        let zeros = |t: &Tensor| graph.at(place, || graph.full(t.shape(), 0.0));
        x.iter().map(|t| grads.get(t.id).copied().flatten().unwrap_or_else(|| zeros(t))).collect()
    }

    /// Undoes broadcasting. Sums along the axes that were repeated to get from `shape` to this tensor's shape.
    #[track_caller]
    pub(crate) fn sum_to(self, shape: Shape) -> Tensor<'g> {
        let full = self.shape();
        if full.same_dims(shape) || self.is_dead() {
            return self;
        }
        if shape.broadcast(full).is_none_or(|b| !b.same_dims(full)) {
            // The gradient is smaller than `shape`, because it is constant along an axis. Repeat it.
            return self.broadcast_to(shape);
        }
        let lead = full.rank() - shape.rank();
        let repeated = |&a: &isize| (a as usize) < lead || shape.dims()[a as usize - lead] != full.dims()[a as usize];
        let axes: Vec<isize> = (0..full.rank() as isize).filter(repeated).collect();
        let sum = if axes.is_empty() { self } else { self.sum(&axes, true) };
        sum.reshape(shape)
    }
}

/// Returns the mistake in the gradients that an op's `vjp` returned, or `None`. `x` are the op's inputs and `y` is its output.
fn mistake(x: &[Tensor], y: Tensor, grads: &[Option<Tensor>]) -> Option<String> {
    if x.len() != grads.len() {
        let many = |n: usize, of: &str| format!("{n} {of}{}", if n == 1 { "" } else { "s" });
        let (returned, inputs) = (many(grads.len(), "gradient"), many(x.len(), "input"));
        return Some(format!(
            "its vjp returns {returned} for {inputs}: it must return one gradient for each input, or None for an input without a gradient"
        ));
    }
    let wrong = |(i, (x, grad)): (usize, (&Tensor, &Option<Tensor>))| {
        let (x, grad) = (*x, (*grad)?);
        if !std::ptr::eq(x.graph, grad.graph) {
            return Some(format!("its vjp returns a tensor of another graph for input {i}"));
        }
        let (want, got) = (x.shape(), grad.shape());
        // A dead gradient comes from a mistake within the vjp, which is recorded already.
        let fits = grad.is_dead()
            || want.dtype() == DType::U32
            || (got.dtype() == DType::F32 && (repeats(got, want) || sums(got, want, y.shape())));
        (!fits).then(|| format!("its vjp returns {got} for input {i}: the gradient must be floats of the shape of the input, {want}"))
    };
    x.iter().zip(grads).enumerate().find_map(wrong)
}

/// Returns true if `a` broadcasts to `b`.
fn repeats(a: Shape, b: Shape) -> bool {
    a.broadcast(b).is_some_and(|both| both.same_dims(b))
}

/// Returns true if `grad` can be the gradient of an input `x` that the op repeated. Each axis of `grad` must have the size of the
/// same axis of `x` or of the output `y`.
fn sums(grad: Shape, x: Shape, y: Shape) -> bool {
    let back = |s: Shape, k: usize| s.dims().iter().rev().nth(k).copied();
    repeats(x, grad) && (0..grad.rank()).all(|k| back(grad, k) == back(x, k) || back(grad, k) == back(y, k))
}

/// Returns the sum of the contributions to the gradient of a tensor. `None` if there are no contributions.
///
/// The uses of a tensor may be slices, for example the steps of a sequence. The contribution of a slice is zero outside of the
/// slice. Slices that do not overlap are concatenated instead of added. Concatenation costs time in proportion to the size of the
/// tensor. Addition would cost one whole tensor for each slice.
fn sum<'g>(mut parts: Vec<(Tensor<'g>, Place)>) -> Option<Tensor<'g>> {
    let pad = |t: Tensor| match &t.graph.inner.borrow().nodes.get(t.id)?.kind {
        NodeKind::Op(op) => op.as_pad().copied(),
        _ => None,
    };
    let padded = |parts: &[(Tensor<'g>, Place)], axis: Option<usize>| {
        let mut all: Vec<(usize, Pad)> = parts.iter().enumerate().filter_map(|(i, p)| Some((i, pad(p.0)?))).collect();
        all.retain(|p| axis.is_none_or(|axis| p.1.axis == axis));
        all
    };
    let mut axes: Vec<usize> = padded(&parts, None).iter().map(|p| p.1.axis).collect();
    axes.sort_unstable();
    axes.dedup();
    for axis in axes {
        loop {
            // Choose slices from the front. Each chosen slice begins behind the end of the slice before it.
            let row = padded(&parts, Some(axis));
            let mut row: Vec<(usize, Pad)> = sorted(row.len(), |k| row[k].1.before).into_iter().map(|k| row[k]).collect();
            let (mut end, size) = (0, row.first().map_or(1, |&(i, _)| parts[i].0.shape().dims()[axis]));
            row.retain(|(_, pad)| {
                let fits = pad.before >= end;
                end = if fits { size - pad.after } else { end };
                fits
            });
            if row.len() < 2 {
                break;
            }
            let (first, place) = parts[row[0].0];
            let graph = first.graph;
            let mut pieces = Vec::new();
            let mut at = 0;
            graph.at(place, || {
                let zeros = |n: usize| graph.full(first.shape().with(axis, n), 0.0);
                for &(i, pad) in &row {
                    if pad.before > at {
                        pieces.push(zeros(pad.before - at));
                    }
                    pieces.push(graph.tensor(graph.inner.borrow().nodes[parts[i].0.id].inputs[0]));
                    at = size - pad.after;
                }
                if at < size {
                    pieces.push(zeros(size - at));
                }
            });
            let whole = graph.at(place, || pieces[0].concat(&pieces[1..], axis as isize));
            let mut taken: Vec<usize> = row.iter().map(|p| p.0).collect();
            taken.sort_unstable();
            taken.iter().rev().for_each(|&i| {
                parts.remove(i);
            });
            parts.push((whole, place));
        }
    }
    let (first, rest) = parts.split_first()?;
    Some(rest.iter().fold(first.0, |sum, &(part, place)| part.graph.at(place, || sum + part)))
}

#[cfg(test)]
mod tests {
    use crate::{Device, Graph, Host, Tensor, plan::Plan, plan::PlanOptions};

    /// The slices follow each other, overlap, leave gaps or lie along another axis. Some cases also use the whole tensor.
    #[test]
    fn slices_of_one_tensor() {
        for (slices, whole) in [
            (&[(0, 0, 1), (0, 1, 3), (0, 3, 4)][..], false),
            (&[(0, 2, 3), (0, 0, 1)], false),
            (&[(0, 1, 2), (0, 3, 4)], true),
            (&[(0, 0, 3), (0, 1, 2), (0, 2, 4), (0, 3, 4)], true),
            (&[(0, 0, 2), (1, 0, 1), (0, 2, 4), (1, 1, 3), (1, 1, 2)], false),
            (&[(1, 1, 2)], false),
            (&[(0, 0, 4), (0, 0, 4)], false),
        ] {
            let g = Graph::training();
            let x = g.input([4, 3]);
            let mut want = [0.0; 12];
            let mut loss = if whole { x.square().sum_all() * 0.5 } else { x.sum_all() * 0.0 };
            for (k, &(axis, from, to)) in slices.iter().enumerate() {
                loss = loss + x.slice(axis, from, to).sum_all() * (k + 1) as f32;
                let inside = |i: usize| (from..to).contains(&if axis == 0 { i / 3 } else { i % 3 });
                (0..12).filter(|&i| inside(i)).for_each(|i| want[i] += (k + 1) as f32);
            }
            let start: Vec<f32> = (0..12).map(|i| i as f32).collect();
            if whole {
                want.iter_mut().zip(&start).for_each(|(w, x)| *w += x);
            }
            let got = Device::cpu().compile(&loss.grad(&[x])).unwrap().run(&[Host::new([4, 3], start)]).unwrap();
            assert_eq!(got[0].f(), want, "{slices:?}");
        }
    }

    /// The gradient of t steps writes a small multiple of the input's size, not t times the input's size.
    #[test]
    fn steps_of_a_sequence_are_put_side_by_side() {
        let t = 50;
        let g = Graph::training();
        let x = g.input([t, 7]);
        let step = |k: usize| x.slice(0, k, k + 1);
        let y = (1..t).fold(step(0), |h, k| (h + step(k)).tanh());
        let outputs: Vec<Tensor> = y.sum_all().grad(&[x]);
        let plan = Plan::new(&outputs, &[], &PlanOptions::new(None)).unwrap();
        let written: usize = plan.steps.iter().map(|s| s.output.1.elements()).sum();
        assert!(plan.steps.iter().all(|s| s.name() != "pad"), "{plan}");
        assert!(written < 8 * t * 7, "{written} numbers written for {} in\n{plan}", t * 7);
    }
}
