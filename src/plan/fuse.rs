//! Fusion. It composes elementwise nodes into one expression. An expression that is the only reader of a matrix product becomes
//! the epilogue of the product. The rest of the plan does not depend on fusion: the unfused graph computes the same values.

use super::ir::Ir;
use crate::{
    graph::{Node, NodeKind},
    host::Host,
    ops::{
        OpDef,
        map::{Expr, Fun, Inst, Map, Sub},
    },
    rng::Key,
    shape::Shape,
    threads::sorted,
};
use std::sync::Arc;

/// The maximum number of values in one expression. With more values, compilers slow down and registers spill.
const MAX_VALUES: usize = 128;

/// Fuses `ir` for a device that binds at most `max_inputs` tensors beside the output.
pub fn fuse(ir: &Ir, max_inputs: usize) -> Ir {
    let mut out = epilogues(&maps(&fills(ir), max_inputs), max_inputs).prune();
    constants(&mut out);
    out
}

/// The maximum number of elements of a fill that is stored as a constant. Larger fills are computed in each run, so that other
/// tensors can use their memory during the rest of the run.
const MOST_CONSTANT: usize = 1 << 16;

/// Turns the remaining fills into constants. Ops such as the gradient of a mean read them from memory. A fill has the same
/// value in every run, so it is made once.
fn constants(ir: &mut Ir) {
    for id in (0..ir.nodes.len()).filter(|id| !ir.outputs.contains(id)).collect::<Vec<_>>() {
        let shape = ir.nodes[id].shape;
        let Some(map) = ir.map(id).filter(|map| map.expr.arity() == 0 && !map.expr.is_random() && shape.elements() <= MOST_CONSTANT) else {
            continue;
        };
        let mut value = Host::zeros(shape);
        OpDef::cpu(map, &[], &mut value.view_mut(), Key::default());
        ir.nodes[id] = Node { kind: NodeKind::Constant(Arc::new(value)), inputs: Vec::new(), ..ir.nodes[id].clone() };
    }
}

/// Replaces a reshaped fill by a fill of the other shape. Expressions can take in a fill, but not an alias.
fn fills(ir: &Ir) -> Ir {
    let mut out = ir.clone();
    for id in 0..out.nodes.len() {
        let alias = out.op(id).is_some_and(|op| op.is_alias());
        let fill = out.nodes[id].inputs.first().filter(|_| alias).and_then(|&input| out.map(input)).map(|map| map.expr.clone());
        if let Some(expr) = fill.filter(|expr| expr.arity() == 0 && !expr.is_random()) {
            let map = Map { expr, fixed: Some(out.nodes[id].shape) };
            out.nodes[id] = Node { kind: NodeKind::Op(Arc::new(map)), inputs: Vec::new(), ..out.nodes[id].clone() };
        }
    }
    out
}

/// An elementwise node that is not in the new graph yet. Its consumers may compute it themselves.
struct Pending {
    expr: Expr,
    inputs: Vec<usize>,
}

fn maps(ir: &Ir, max_inputs: usize) -> Ir {
    let inline = inlinable(ir);
    let mut out = Ir { params: ir.params.clone(), inputs: ir.inputs.clone(), ..Ir::default() };
    let mut at: Vec<Option<usize>> = vec![None; ir.nodes.len()];
    let mut pending: Vec<Option<Pending>> = (0..ir.nodes.len()).map(|_| None).collect();
    for (id, node) in ir.nodes.iter().enumerate() {
        let Some(map) = ir.map(id) else {
            let inputs = node.inputs.iter().map(|&i| place(i, ir, &mut out, &mut at, &pending)).collect();
            at[id] = Some(out.push(Node { inputs, ..node.clone() }));
            continue;
        };
        // The expression takes in all pending inputs. If it would become too large, the inputs that read the most tensors are
        // computed separately. Random numbers are numbered by their element, so a random expression cannot move into a larger
        // shape. An expression that reads many tensors stays outside of a larger shape too. There, it would be computed many
        // times and would use bindings that larger expressions need.
        let fits = |i: &usize| {
            let stays = pending[*i].as_ref().is_some_and(|p| p.expr.is_random() || p.inputs.len() > 2);
            at[*i].is_none() && (!stays || ir.nodes[*i].shape.same_dims(node.shape))
        };
        let fitting: Vec<usize> = node.inputs.iter().copied().filter(fits).collect();
        let order = sorted(fitting.len(), |k| pending[fitting[k]].as_ref().map_or(0, |p| p.inputs.len()));
        let mut taken: Vec<usize> = order.into_iter().map(|k| fitting[k]).collect();
        taken.dedup();
        let fused = loop {
            let fused = compose(map, &node.inputs, &taken, &mut |i| place(i, ir, &mut out, &mut at, &pending), &pending);
            if (fused.inputs.len() <= max_inputs && fused.expr.insts().len() <= MAX_VALUES) || taken.is_empty() {
                break fused;
            }
            taken.pop();
        };
        pending[id] = Some(fused);
        if !inline[id] {
            place(id, ir, &mut out, &mut at, &pending);
        }
    }
    out.outputs = ir.outputs.iter().map(|&i| place(i, ir, &mut out, &mut at, &pending)).collect();
    out
}

/// Returns the node's number in the new graph. A pending node is added to the new graph first.
fn place(id: usize, ir: &Ir, out: &mut Ir, at: &mut [Option<usize>], pending: &[Option<Pending>]) -> usize {
    if let Some(new) = at[id] {
        return new;
    }
    let p = pending[id].as_ref().expect("a node is in the new graph, or pending: nodes come after their inputs");
    let shape = ir.nodes[id].shape;
    let natural = p.inputs.iter().try_fold(Shape::SCALAR, |s, &i| s.broadcast(out.nodes[i].shape));
    let fixed = (natural.is_none_or(|s| !s.same_dims(shape))).then_some(shape);
    let map = Map { expr: p.expr.clone(), fixed };
    let new = out.push(Node { kind: NodeKind::Op(Arc::new(map)), inputs: p.inputs.clone(), shape, ..ir.nodes[id].clone() });
    at[id] = Some(new);
    new
}

fn compose(map: &Map, inputs: &[usize], taken: &[usize], place: &mut dyn FnMut(usize) -> usize, pending: &[Option<Pending>]) -> Pending {
    let mut all: Vec<usize> = Vec::new();
    let mut number = |new: usize| {
        all.iter().position(|&i| i == new).unwrap_or_else(|| {
            all.push(new);
            all.len() - 1
        })
    };
    let numbers: Vec<Vec<usize>> = inputs
        .iter()
        .map(|&i| match (&pending[i], taken.contains(&i)) {
            (Some(p), true) => p.inputs.iter().map(|&new| number(new)).collect(),
            _ => vec![number(place(i))],
        })
        .collect();
    let subs: Vec<Sub> = inputs
        .iter()
        .zip(&numbers)
        .map(|(&i, n)| match (&pending[i], taken.contains(&i)) {
            (Some(p), true) => Sub::Expr(&p.expr, n),
            _ => Sub::Input(n[0]),
        })
        .collect();
    let expr = map.expr.compose(&subs);
    // Simplification may have dropped inputs; keep the numbering dense.
    let used: Vec<usize> = (0..all.len()).filter(|&k| expr.insts().contains(&Inst::Input(k))).collect();
    let dense: Vec<Sub> = (0..all.len()).map(|k| Sub::Input(used.iter().position(|&u| u == k).unwrap_or(0))).collect();
    Pending { expr: if used.len() == all.len() { expr } else { expr.compose(&dense) }, inputs: used.iter().map(|&k| all[k]).collect() }
}

/// Returns, for each node, whether its consumers compute it themselves.
fn inlinable(ir: &Ir) -> Vec<bool> {
    let mut consumers: Vec<Vec<usize>> = vec![Vec::new(); ir.nodes.len()];
    for (id, node) in ir.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&i| consumers[i].push(id));
    }
    let decide = |id: usize| -> bool {
        let Some(map) = ir.map(id) else { return false };
        let same = |c: usize| ir.nodes[c].shape.same_dims(ir.nodes[id].shape);
        if ir.outputs.contains(&id) || !consumers[id].iter().all(|&c| ir.map(c).is_some()) {
            // An output, or a consumer that is not elementwise, needs the values in memory. Computing them in the expressions
            // as well would save nothing.
            return false;
        }
        let all_same = consumers[id].iter().all(|&c| same(c));
        let mut distinct = consumers[id].clone();
        distinct.dedup();
        match (map.expr.arity(), map.expr.is_random()) {
            (0, false) => true,
            (0, true) => all_same,
            _ if distinct.len() == 1 => all_same || (!map.expr.is_random() && cheap(&map.expr)),
            // Each consumer computes the node itself only if the node reads one tensor. Reading its result would cost the same.
            (arity, _) => all_same && arity == 1 && cheap(&map.expr),
        }
    };
    (0..ir.nodes.len()).map(decide).collect()
}

/// Returns whether an expression has few operations and no slow operation.
fn cheap(expr: &Expr) -> bool {
    let long = |f: &Fun| {
        !matches!(
            f,
            Fun::Identity
                | Fun::Neg
                | Fun::Abs
                | Fun::Sign
                | Fun::Square
                | Fun::Relu
                | Fun::Add
                | Fun::Sub
                | Fun::Mul
                | Fun::Div
                | Fun::Sqrt
                | Fun::Rsqrt
                | Fun::Reciprocal
                | Fun::Maximum
                | Fun::Minimum
                | Fun::Eq
                | Fun::Ne
                | Fun::Lt
                | Fun::Le
                | Fun::Gt
                | Fun::Ge
                | Fun::LeakyRelu
                | Fun::Clamp
                | Fun::Where
        )
    };
    expr.calls() <= 4 && !expr.insts().iter().any(|i| matches!(i, Inst::Call(f, _) if long(f)))
}

/// Folds an expression into the op before it, if the op takes epilogues and nothing else reads its plain result.
fn epilogues(ir: &Ir, max_inputs: usize) -> Ir {
    let mut out = ir.clone();
    let uses = ir.uses();
    for id in 0..ir.nodes.len() {
        let Some(map) = ir.map(id) else { continue };
        let node = &ir.nodes[id];
        for (k, &input) in node.inputs.iter().enumerate().rev() {
            let (Some(op), before) = (out.op(input).cloned(), &out.nodes[input]) else { continue };
            let fits = uses[input] == 1 && before.shape.same_dims(node.shape) && before.inputs.len() + node.inputs.len() - 1 <= max_inputs;
            if !fits {
                continue;
            }
            // Number the op's result 0 and the other inputs from 1.
            let order: Vec<Sub> = (0..node.inputs.len()).map(|i| Sub::Input(if i == k { 0 } else { i + usize::from(i < k) })).collect();
            let expr = map.expr.compose(&order);
            if let Some(fused) = op.with_epilogue(&Map { expr, fixed: None }) {
                let others = node.inputs.iter().enumerate().filter(|&(i, _)| i != k).map(|(_, &n)| n);
                let inputs: Vec<usize> = before.inputs.iter().copied().chain(others).collect();
                // An op from outside of this crate may return any op, also an op of this crate, whose kernels run without checks.
                // An op that does not take these inputs is not used.
                let shapes: Vec<Shape> = inputs.iter().map(|&i| out.nodes[i].shape).collect();
                if fused.shape(&shapes) != Ok(node.shape) {
                    continue;
                }
                out.nodes[id] = Node { kind: NodeKind::Op(fused), inputs, ..node.clone() };
                break;
            }
        }
    }
    out
}
