//! Memory: which buffer holds each tensor. Activations share slots by lifetime.
//!
//! A slot is never both read and written by one op (wgpu forbids it), so an op's output is given its slot before the
//! slots of inputs that die there are free again.

use super::{Loc, Slot, ir::Ir};
use crate::{
    graph::Kind,
    shape::{DType, Shape},
};

/// Where everything lies.
pub struct Memory {
    /// By node.
    pub locs: Vec<Loc>,
    /// By node: the slots of its kernel's scratch buffers.
    pub scratch: Vec<Vec<usize>>,
    pub slots: Vec<Slot>,
}

/// Plans the memory of `ir`. `grads` gives nodes whose output is the gradient of a parameter; `scratch` the elements of
/// each scratch buffer of each node. Without `reuse` every tensor gets a slot of its own.
pub fn plan(ir: &Ir, grads: &[(usize, usize)], scratch: &[Vec<usize>], reuse: bool) -> Memory {
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

    let mut pool = Pool { slots: Vec::new(), free: Vec::new(), reuse };
    let mut memory = Memory { locs: vec![Loc::Slot(usize::MAX); n], scratch: vec![Vec::new(); n], slots: Vec::new() };
    let mut constants = 0;
    for (id, node) in ir.nodes.iter().enumerate() {
        memory.locs[id] = match &node.kind {
            Kind::Input(i) => Loc::Input(*i),
            Kind::Param(i) => Loc::Param(*i),
            Kind::Constant(_) => {
                constants += 1;
                Loc::Constant(constants - 1)
            }
            Kind::Op(_) if root[id] != id => memory.locs[root[id]],
            Kind::Op(_) => match grads.iter().find(|g| g.0 == id) {
                Some(&(_, param)) => Loc::Grad(param),
                None => Loc::Slot(pool.take(node.shape)),
            },
        };
        memory.scratch[id] = scratch[id].iter().map(|&len| pool.take(Shape::from([len]))).collect();
        for &slot in &memory.scratch[id] {
            pool.give(slot);
        }
        let mut dead: Vec<usize> = node.inputs.iter().map(|&i| root[i]).filter(|&r| last_use[r] == id).collect();
        dead.sort_unstable();
        dead.dedup();
        // A result that nothing reads (kept for its place only) is free at once.
        if root[id] == id && last_use[id] == id {
            dead.push(id);
        }
        for r in dead {
            if let Loc::Slot(slot) = memory.locs[r] {
                pool.give(slot);
            }
        }
    }
    memory.slots = pool.slots;
    memory
}

struct Pool {
    slots: Vec<Slot>,
    free: Vec<usize>,
    reuse: bool,
}

impl Pool {
    /// The free slot that wastes least; else the largest free one, grown; else a new one.
    fn take(&mut self, shape: Shape) -> usize {
        let (elements, dtype) = (shape.elements(), shape.dtype());
        let fit = |s: &Slot| (s.elements < elements, s.elements.abs_diff(elements));
        let best = self.free.iter().copied().filter(|&i| self.slots[i].dtype == dtype).min_by_key(|&i| fit(&self.slots[i]));
        match best {
            Some(i) if self.reuse => {
                self.free.retain(|&f| f != i);
                self.slots[i].elements = self.slots[i].elements.max(elements);
                i
            }
            _ => {
                self.slots.push(Slot { elements, dtype });
                self.slots.len() - 1
            }
        }
    }
    fn give(&mut self, slot: usize) {
        if self.reuse {
            self.free.push(slot);
        }
    }
}

/// Bytes of the slots, and what they would take without reuse.
pub fn bytes(slots: &[Slot]) -> u64 {
    slots.iter().map(|s| Shape::from([s.elements]).of(DType::F32).bytes()).sum()
}
