//! Reverse-mode differentiation: it extends the graph by the nodes of the gradient. Contributions are summed and
//! broadcasting is undone here, once for all ops.

use crate::{
    graph::{Kind, OTHER_GRAPH, Tensor},
    shape::{DType, Shape},
};
use std::panic::Location;

impl<'g> Tensor<'g> {
    /// ∂self/∂x for each `x`, as tensors of the same graph. `self` must be a single number, such as a loss.
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
            return vec![self.graph.mistake("grad", &[shape], why.into(), Location::caller()); x.len()];
        }
        let one = self.graph.full(self.shape(), 1.0);
        self.vjp(one, x)
    }

    /// Σ dy·∂self/∂x for each `x`: the gradient given the gradient `dy` of this tensor.
    #[track_caller]
    pub fn vjp(self, dy: Tensor<'g>, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let graph = self.graph;
        let all = || [self, dy].into_iter().chain(x.iter().copied());
        let shapes = || all().map(|t| t.shape()).collect::<Vec<Shape>>();
        if all().any(|t| !std::ptr::eq(t.graph, graph)) {
            return vec![graph.mistake("vjp", &shapes(), OTHER_GRAPH.into(), Location::caller()); x.len()];
        }
        if self.is_dead() || dy.is_dead() || x.iter().any(|t| t.is_dead()) || graph.error().is_some() {
            return vec![graph.dead(); x.len()];
        }
        if dy.shape() != self.shape().of(DType::F32) {
            let why = format!("the gradient of {} must have that shape, and be floats", self.shape());
            return vec![graph.mistake("vjp", &shapes()[..2], why, Location::caller()); x.len()];
        }
        let nodes = graph.inner.borrow().nodes[..=self.id].to_vec();
        // Only nodes between x and self get a gradient.
        let mut depends = vec![false; nodes.len()];
        for (id, node) in nodes.iter().enumerate() {
            depends[id] = x.iter().any(|t| t.id == id) || node.inputs.iter().any(|&i| depends[i]);
        }
        let mut grads: Vec<Option<Tensor>> = vec![None; nodes.len()];
        grads[self.id] = Some(dy);
        for (id, node) in nodes.iter().enumerate().rev().filter(|&(id, _)| depends[id]) {
            let (Some(dy), Kind::Op(op)) = (grads[id], &node.kind) else { continue };
            let inputs: Vec<Tensor> = node.inputs.iter().map(|&i| graph.tensor(i)).collect();
            let parts = graph.at(node.place, || op.vjp(&inputs, graph.tensor(id), dy));
            for (&input, part) in node.inputs.iter().zip(parts) {
                let (Some(part), true) = (part, depends[input] && nodes[input].shape.dtype() == DType::F32) else { continue };
                let part = graph.at(node.place, || part.sum_to(nodes[input].shape));
                grads[input] = Some(graph.at(node.place, || grads[input].map_or(part, |g| g + part)));
            }
        }
        // What was made later than this tensor has no part in it.
        x.iter().map(|t| grads.get(t.id).copied().flatten().unwrap_or_else(|| graph.full(t.shape(), 0.0))).collect()
    }

    /// Undoes broadcasting: sums the axes along which `shape` was repeated to give this tensor's shape.
    #[track_caller]
    pub(crate) fn sum_to(self, shape: Shape) -> Tensor<'g> {
        let full = self.shape();
        if full.same_dims(shape) || self.is_dead() {
            return self;
        }
        if shape.broadcast(full).is_none_or(|b| !b.same_dims(full)) {
            // The gradient is of a smaller shape (a constant one): repeat it.
            return self.broadcast_to(shape);
        }
        let lead = full.rank() - shape.rank();
        let repeated = |&a: &isize| (a as usize) < lead || shape.dims()[a as usize - lead] != full.dims()[a as usize];
        let axes: Vec<isize> = (0..full.rank() as isize).filter(repeated).collect();
        let sum = if axes.is_empty() { self } else { self.sum(&axes, true) };
        sum.reshape(shape)
    }
}
