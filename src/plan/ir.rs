//! The part of a graph that some outputs need, detached from the graph. It is the input of fusion, of memory planning and of
//! the interpreter.

use crate::{
    graph::{Graph, InputDef, Node, NodeKind, ParamDef, Tensor},
    ops::{Op, OpDef, map::Map},
    shape::Shape,
};
use std::{collections::HashMap, sync::Arc};

/// Nodes, ordered so that each node comes after its inputs.
#[derive(Clone, Debug, Default)]
pub struct Ir {
    pub nodes: Vec<Node>,
    pub outputs: Vec<usize>,
    pub params: Vec<ParamDef>,
    pub inputs: Vec<InputDef>,
}

impl Ir {
    /// Takes the nodes that `outputs` need, and every parameter and input of the graph. Equal nodes become one node, except
    /// copies that are made to be recomputed.
    pub fn new(graph: &Graph, outputs: &[Tensor]) -> Ir {
        let g = graph.inner.borrow();
        let mut needed = vec![false; g.nodes.len()];
        outputs.iter().for_each(|t| needed[t.id] = true);
        for id in (0..g.nodes.len()).rev() {
            if needed[id] {
                g.nodes[id].inputs.iter().for_each(|&i| needed[i] = true);
            }
        }
        let mut ir = Ir { params: g.params.clone(), inputs: g.inputs.clone(), ..Ir::default() };
        let mut at = vec![0; g.nodes.len()];
        // The nodes so far, by their text. The text works like a hash: `Op::same` decides.
        let mut known: HashMap<_, Vec<usize>> = HashMap::new();
        for (id, node) in g.nodes.iter().enumerate().filter(|&(id, _)| needed[id]) {
            let node = Node { inputs: node.inputs.iter().map(|&i| at[i]).collect(), ..node.clone() };
            at[id] = match &node.kind {
                NodeKind::Op(op) => {
                    // A fill needs no copy, because it costs nothing to compute or is a constant.
                    let fill = node.inputs.is_empty() && op.as_map().is_some_and(|map| !map.expr.is_random());
                    let copy = if fill { 0 } else { node.copy };
                    let alike = known.entry((op.name(), format!("{op:?}"), node.inputs.clone(), copy)).or_default();
                    let same = alike.iter().copied().find(|&other| ir.op(other).is_some_and(|other| other.same(&**op)));
                    same.unwrap_or_else(|| {
                        let new = ir.push(node);
                        alike.push(new);
                        new
                    })
                }
                _ => ir.push(node),
            };
        }
        ir.outputs = outputs.iter().map(|t| at[t.id]).collect();
        ir
    }
    pub fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
    pub fn op(&self, id: usize) -> Option<&Arc<dyn Op>> {
        match &self.nodes[id].kind {
            NodeKind::Op(op) => Some(op),
            _ => None,
        }
    }
    pub fn map(&self, id: usize) -> Option<&Map> {
        let map = self.op(id)?.as_map()?;
        // An op of another crate may return an expression with a different shape. Kernels of expressions run without checks, so
        // this must not happen.
        OpDef::shape(map, &self.shapes(id)).is_ok_and(|shape| shape == self.nodes[id].shape).then_some(map)
    }
    /// Returns the shapes of a node's inputs.
    pub fn shapes(&self, id: usize) -> Vec<Shape> {
        self.nodes[id].inputs.iter().map(|&i| self.nodes[i].shape).collect()
    }
    /// Returns how often each node is used. An output counts as one use.
    pub fn uses(&self) -> Vec<usize> {
        let mut uses = vec![0; self.nodes.len()];
        self.nodes.iter().flat_map(|n| &n.inputs).chain(&self.outputs).for_each(|&i| uses[i] += 1);
        uses
    }
    /// Returns the `Ir` without the nodes that no output needs.
    pub fn prune(&self) -> Ir {
        let mut needed = vec![false; self.nodes.len()];
        self.outputs.iter().for_each(|&i| needed[i] = true);
        for id in (0..self.nodes.len()).rev() {
            if needed[id] {
                self.nodes[id].inputs.iter().for_each(|&i| needed[i] = true);
            }
        }
        let mut out = Ir { params: self.params.clone(), inputs: self.inputs.clone(), ..Ir::default() };
        let mut at = vec![0; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate().filter(|&(id, _)| needed[id]) {
            at[id] = out.push(Node { inputs: node.inputs.iter().map(|&i| at[i]).collect(), ..node.clone() });
        }
        out.outputs = self.outputs.iter().map(|&i| at[i]).collect();
        out
    }
}
