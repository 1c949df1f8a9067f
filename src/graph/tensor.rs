//! [`Tensor`], the handle of a node.

use super::{Graph, NodeKind};
use crate::{
    error::{Error, Place},
    ops::OpDef,
    shape::Shape,
};
use std::{fmt, panic::Location};

/// A handle of a node. It is `Copy`. Its methods are the ops.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) id: usize,
}

impl<'g> Tensor<'g> {
    /// Returns the graph that this tensor belongs to.
    pub fn graph(self) -> &'g Graph {
        self.graph
    }
    /// Returns the shape. After a mistake it is `[]`.
    pub fn shape(self) -> Shape {
        self.graph.inner.borrow().nodes.get(self.id).map_or(Shape::SCALAR, |n| n.shape)
    }
    /// Returns the line of the user's program that made this tensor.
    #[track_caller]
    pub(crate) fn place(self) -> Place {
        self.graph.inner.borrow().nodes.get(self.id).map_or(Location::caller(), |n| n.place)
    }
    /// Returns the size of an axis. A negative `axis` counts from the last axis. A missing axis is a mistake.
    #[track_caller]
    pub fn dim(self, axis: isize) -> usize {
        let (s, place) = (self.shape(), Location::caller());
        match s.axis(axis) {
            Some(a) => s.dims()[a],
            None => {
                self.graph.mistake("dim", &[s], format!("there is no axis {axis}"), place);
                1
            }
        }
    }
    /// Returns the first mistake made in this tensor's graph.
    pub fn error(self) -> Option<Error> {
        self.graph.error()
    }
    /// Returns true if both tensors are the same node of the same graph. The numbers of nodes alone do not tell, because every
    /// graph counts from 0.
    pub(crate) fn is(self, other: Tensor) -> bool {
        std::ptr::eq(self.graph, other.graph) && self.id == other.id
    }
    /// Returns true if this is the dead tensor, which ops return after a mistake.
    pub(crate) fn is_dead(self) -> bool {
        self.id == usize::MAX
    }
    #[track_caller]
    pub(crate) fn apply(self, op: impl OpDef) -> Tensor<'g> {
        self.graph.apply(op, &[self])
    }
}

/// Writes the shape. The name of a parameter comes first: `[64, 784]`, `fc2.weight [10, 512]`.
impl fmt::Display for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let g = self.graph.inner.borrow();
        let shape = g.nodes.get(self.id).map_or(Shape::SCALAR, |n| n.shape);
        match g.nodes.get(self.id).map(|n| &n.kind) {
            Some(NodeKind::Param(i)) => write!(f, "{} {shape}", g.params[*i].name),
            _ => write!(f, "{shape}"),
        }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tensor({}, {})", self.id, self.shape())
    }
}
