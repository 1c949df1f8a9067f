//! The parts of a graph: nodes, parameters, and inputs with their limits.

use crate::{
    error::{Error, Place, Result},
    host::Host,
    init::Init,
    ops::{Op, map::Expr},
    shape::Shape,
};
use std::sync::Arc;

/// A named tensor that a trainer stores between steps. It is a trained parameter, or it is state.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamDef {
    /// The unique name, for example `fc1.weight`.
    pub name: String,
    /// The shape. A `weight` has the shape `[out, in, …]`. The elements are always floats.
    pub shape: Shape,
    /// The initial values.
    pub init: Init,
    /// Whether weight decay applies by default. It applies to weights of two or more axes, but neither to biases nor to the
    /// parameters of norms.
    pub decay: bool,
    /// Whether the optimizer trains the tensor. The other tensors are state, and [`Graph::assign`](super::Graph::assign) changes them.
    pub trained: bool,
}

/// The kind of a node.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// The i-th input of the graph.
    Input(usize),
    /// The i-th parameter.
    Param(usize),
    /// A constant: its values are known while the graph is built.
    Constant(Arc<Host<f32>>),
    /// An op over earlier nodes.
    Op(Arc<dyn Op>),
}

/// A node of a graph. It has one output.
#[derive(Clone, Debug)]
pub struct Node {
    /// The kind of the node.
    pub kind: NodeKind,
    /// The numbers of the nodes that this node reads. They are all smaller than the node's own number.
    pub inputs: Vec<usize>,
    /// The shape of the output.
    pub shape: Shape,
    /// The line of the user's program that made the node.
    pub place: Place,
    /// The layer that the node belongs to. The layer is given as the number of its first parameter. `None` before the first layer.
    pub layer: Option<usize>,
    /// The number of the recomputation that made the node, or 0 for other nodes. Equal nodes become one node only if their `copy`
    /// is equal, too.
    pub copy: u32,
}

impl Node {
    /// Returns true if the node is a fill with zeros. The gradient of a tensor that the loss does not depend on is such a fill.
    pub(crate) fn is_zeros(&self) -> bool {
        let map = if let NodeKind::Op(op) = &self.kind { op.as_map() } else { None };
        map.is_some_and(|map| map.expr == Expr::constant(0.0))
    }
}

impl ParamDef {
    /// Returns the layer that the parameter belongs to: its name up to the last dot.
    pub fn layer(&self) -> &str {
        self.name.rsplit_once('.').map_or(self.name.as_str(), |(layer, _)| layer)
    }
}

/// The requirements of a graph on one of its inputs. Each batch is checked against them.
#[derive(Clone, Debug, PartialEq)]
pub struct InputDef {
    /// The shape, with the batch axis.
    pub shape: Shape,
    /// The upper limit of the labels. `None` as long as no op has set a limit.
    pub classes: Option<Below>,
}

/// The upper limit of labels or indices, or the limits of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// The number of classes, or the number of rows of a table. Each label must be smaller.
    pub count: usize,
    /// The name of the op that looks up rows in a table, or that takes lengths. `None` if the values are labels of classes.
    pub table: Option<&'static str>,
    /// The smallest length, if the values are lengths of sequences.
    pub least: Option<u32>,
    /// The label whose rows a loss ignores. This label may exceed the limit.
    pub ignored: Option<u32>,
}

impl Below {
    /// Returns the limits of lengths that `op` takes: `least..=most`.
    pub(crate) fn lengths(op: &'static str, least: u32, most: usize) -> Below {
        Below { count: most + 1, table: Some(op), least: Some(least), ignored: None }
    }
    /// Checks that each of `values` is below the limit or is the ignored label. Lengths must not be too small either.
    ///
    /// The values belong to a tensor with the axes `dims`, but the first axis may be longer than `dims` says. A row has `width`
    /// neighbouring values.
    ///
    /// # Errors
    /// [`Error::Label`], [`Error::Index`] or [`Error::Length`] for the first value that is out of range.
    pub(crate) fn check(self, values: &[u32], dims: &[usize], width: usize) -> Result<()> {
        let wrong = |l: u32| l as usize >= self.count && self.ignored != Some(l) || self.least.is_some_and(|least| l < least);
        let Some((at, &label)) = values.iter().enumerate().find(|&(_, &l)| wrong(l)) else {
            return Ok(());
        };
        let Some(op) = self.table else { return Err(Error::Label { row: at / width, label, classes: self.count }) };
        let (mut rest, mut position) = (at, Vec::new());
        for (axis, &d) in dims.iter().enumerate().rev() {
            position.push(if axis == 0 { rest } else { rest % d });
            rest /= d;
        }
        position.reverse();
        if let Some(least) = self.least {
            let sample = position.first().copied().unwrap_or(0);
            return Err(Error::Length { op, length: label, sample, least, most: self.count - 1 });
        }
        Err(Error::Index { op, index: label, position, rows: self.count })
    }
}
