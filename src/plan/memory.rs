//! Memory planning. It gives each tensor a buffer. Activations share slots if they are not needed at the same time.
//!
//! One op never both reads and writes a slot, because wgpu forbids it. So a tensor lives until the last op that reads it is
//! done, and the output of that op needs another slot.

use super::{Loc, Slot, ir::Ir};
use crate::{
    graph::NodeKind,
    shape::{DType, Shape},
    threads::sorted,
};
use std::{cmp::Reverse, collections::BTreeMap};

/// The place of each tensor, and the slots.
pub struct Placement {
    /// The place of each node's output.
    pub locs: Vec<Loc>,
    /// The slots of the scratch buffers of each node's kernel.
    pub scratch: Vec<Vec<usize>>,
    pub slots: Vec<Slot>,
}

/// Plans the memory of `ir`. `grads` holds the nodes whose output goes to the flat buffers. `scratch` holds the number of
/// elements of each scratch buffer of each node. Without `reuse`, every tensor gets its own slot. If `typed`, all tensors in a
/// slot have one element type.
pub fn plan(ir: &Ir, grads: &[(usize, Loc)], scratch: &[Vec<usize>], reuse: bool, typed: bool) -> Placement {
    let n = ir.nodes.len();
    // An alias has the place of its input.
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
    // Sort by the order of the plan, so that the slots are numbered in that order.
    let order = sorted(tensors.len(), |i| (tensors[i].first, tensors[i].scratch));
    let tensors: Vec<Lived> = order.into_iter().map(|i| tensors[i]).collect();
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

/// A tensor, with the first and the last node that need it.
#[derive(Clone, Copy)]
struct Lived {
    shape: Shape,
    first: usize,
    last: usize,
    /// The number of the scratch buffer of its node. `None` for the output of the node.
    scratch: Option<usize>,
}

/// Returns the slots, and the slot of each tensor. The largest tensors come first; among equal sizes, the tensor that lives
/// longest comes first. Each tensor takes the smallest slot whose other tensors live at other times, or a new slot. So no slot
/// ever grows, and the large slots are reused as often as possible.
fn share(tensors: &[Lived], reuse: bool, typed: bool) -> (Vec<Slot>, Vec<usize>) {
    let key = |i: usize| Reverse((tensors[i].shape.elements(), tensors[i].last.saturating_sub(tensors[i].first)));
    let order = if reuse { sorted(tensors.len(), key) } else { (0..tensors.len()).collect() };
    // Each slot, with the lives of its tensors, as a map from the first node to the last node.
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
    // Number the slots in the order of their first use.
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

/// Returns the number of bytes of the slots.
pub fn bytes(slots: &[Slot]) -> u64 {
    slots.iter().map(|s| Shape::from([s.elements]).of(DType::F32).bytes()).sum()
}
