//! Memory planning: which buffer holds each tensor. Activations share slots by lifetime.
//!
//! A slot is never both read and written by one op (wgpu forbids it), so a tensor lives until the last op that reads it is
//! done, and what that op writes lives from then on.

use super::{Loc, Slot, ir::Ir};
use crate::{
    graph::NodeKind,
    shape::{DType, Shape},
};
use std::{cmp::Reverse, collections::BTreeMap};

/// Where everything lies.
pub struct Placement {
    /// By node.
    pub locs: Vec<Loc>,
    /// By node: the slots of its kernel's scratch buffers.
    pub scratch: Vec<Vec<usize>>,
    pub slots: Vec<Slot>,
}

/// Plans the memory of `ir`. `grads` gives nodes whose output goes to the flat buffers; `scratch` the elements of
/// each scratch buffer of each node. Without `reuse` every tensor gets a slot of its
/// own; where slots are `typed`, those of one slot have one element type.
pub fn plan(ir: &Ir, grads: &[(usize, Loc)], scratch: &[Vec<usize>], reuse: bool, typed: bool) -> Placement {
    let n = ir.nodes.len();
    // An alias lives where its input does.
    let mut root: Vec<usize> = (0..n).collect();
    for id in 0..n {
        if ir.op(id).is_some_and(|op| op.is_alias()) {
            root[id] = root[ir.nodes[id].inputs[0]];
        }
    }
    let mut last_use: Vec<usize> = (0..n).collect();
    for (id, node) in ir.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&i| last_use[root[i]] = id);
    }
    ir.outputs.iter().for_each(|&o| last_use[root[o]] = usize::MAX);

    let mut memory = Placement { locs: vec![Loc::Slot(usize::MAX); n], scratch: vec![Vec::new(); n], slots: Vec::new() };
    let mut constants = 0;
    let mut tensors: Vec<Lived> = Vec::new();
    for (id, node) in ir.nodes.iter().enumerate() {
        memory.locs[id] = match &node.kind {
            NodeKind::Input(i) => Loc::Input(*i),
            NodeKind::Param(i) => Loc::Param(*i),
            NodeKind::Constant(_) => {
                constants += 1;
                Loc::Constant(constants - 1)
            }
            NodeKind::Op(_) if root[id] != id => continue,
            NodeKind::Op(_) => match grads.iter().find(|g| g.0 == id) {
                Some(&(_, loc)) => loc,
                None => {
                    tensors.push(Lived { shape: node.shape, first: id, last: last_use[id], scratch: None });
                    continue;
                }
            },
        };
    }
    for (id, sizes) in scratch.iter().enumerate() {
        tensors.extend(sizes.iter().enumerate().map(|(k, &len)| Lived {
            shape: Shape::from([len]),
            first: id,
            last: id,
            scratch: Some(k),
        }));
    }
    // In the order of the plan, so that the numbers of slots are.
    tensors.sort_by_key(|t| (t.first, t.scratch));
    let (slots, of) = share(&tensors, reuse, typed);
    memory.slots = slots;
    for (tensor, slot) in tensors.iter().zip(of) {
        match tensor.scratch {
            Some(_) => memory.scratch[tensor.first].push(slot),
            None => memory.locs[tensor.first] = Loc::Slot(slot),
        }
    }
    memory.locs = root.iter().map(|&r| memory.locs[r]).collect();
    memory
}

/// A tensor, and the first and the last node that need it.
struct Lived {
    shape: Shape,
    first: usize,
    last: usize,
    /// Which scratch buffer of its node it is, if it is one.
    scratch: Option<usize>,
}

/// The slots, and the one of each tensor. The largest tensors come first, of equal ones those that live longest: each takes the
/// smallest slot there is whose tensors live at other times, or a new one. So no slot ever grows, and the large ones are used as
/// often as they can be.
fn share(tensors: &[Lived], reuse: bool, typed: bool) -> (Vec<Slot>, Vec<usize>) {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    if reuse {
        order.sort_by_key(|&i| Reverse((tensors[i].shape.elements(), tensors[i].last.saturating_sub(tensors[i].first))));
    }
    // Of each slot, its tensors' lives: first node, last node.
    let mut slots: Vec<(Slot, BTreeMap<usize, usize>)> = Vec::new();
    let mut of = vec![0; tensors.len()];
    for i in order {
        let Lived { shape, first, last, .. } = tensors[i];
        let free = |(slot, lives): &(Slot, BTreeMap<usize, usize>)| {
            (slot.dtype == shape.dtype() || !typed) && lives.range(..=last).next_back().is_none_or(|(_, &end)| end < first)
        };
        let shared = if reuse { slots.iter().rposition(free) } else { None };
        of[i] = shared.unwrap_or_else(|| {
            slots.push((Slot { elements: shape.elements(), dtype: shape.dtype() }, BTreeMap::new()));
            slots.len() - 1
        });
        slots[of[i]].1.insert(first, last);
    }
    // Numbered as they are first used.
    let mut number = vec![usize::MAX; slots.len()];
    let mut numbered = Vec::with_capacity(slots.len());
    for slot in &mut of {
        if number[*slot] == usize::MAX {
            number[*slot] = numbered.len();
            numbered.push(slots[*slot].0);
        }
        *slot = number[*slot];
    }
    (numbered, of)
}

/// Bytes of the slots, and what they would take without reuse.
pub fn bytes(slots: &[Slot]) -> u64 {
    slots.iter().map(|s| Shape::from([s.elements]).of(DType::F32).bytes()).sum()
}
