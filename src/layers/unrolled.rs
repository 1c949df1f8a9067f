//! Recurrent layers step by step, for cells that no op has: a GRU whose reset comes before the product, and an LSTM with a
//! projection.

use crate::{
    graph::Tensor,
    ops::recurrent::{Cell, RecurrentOp},
};

/// Applies one layer in one direction. `x [n, t, gates]` is the part of the gates' arguments that comes from the input, `w` and
/// `b` give the part that comes from the state, and `projection [out, hidden]` makes the hidden state smaller. `state [n, ..]`
/// has the hidden state and then the cell state. `inside [n, t, 1]` is 1 at the steps of a sequence and 0 at its padding, where the state
/// stays and the output is 0. Returns the output and the last hidden and cell states.
#[track_caller]
pub(super) fn walk<'g>(
    x: Tensor<'g>,
    op: RecurrentOp,
    [w, b, state]: [Tensor<'g>; 3],
    projection: Option<Tensor<'g>>,
    hidden: usize,
    inside: Option<Tensor<'g>>,
) -> [Tensor<'g>; 3] {
    let _line = x.graph().line();
    if x.graph().error().is_some() {
        return [x.graph().dead(); 3];
    }
    let [n, t, gates] = [0, 1, 2].map(|k| x.shape().dims()[k]);
    let out = w.shape().last();
    let mut h = state.slice(1, 0, out);
    let mut c = if op.cell == Cell::Lstm { state.slice(1, out, out + hidden) } else { h };
    let part = |x: Tensor<'g>, axis: isize, from: usize, to: usize| x.slice(axis, from * hidden, to * hidden);
    let mut outputs = Vec::with_capacity(t);
    for k in 0..t {
        let time = if op.reverse { t - 1 - k } else { k };
        let x = x.slice(1, time, time + 1).reshape([n, gates]);
        let before = [h, c];
        match op.cell {
            Cell::Lstm => {
                let a = x + h.matmul_t(w, false, true) + b;
                let [i, f, o] = [0, 1, 3].map(|gate| part(a, 1, gate, gate + 1).sigmoid());
                c = f * c + i * part(a, 1, 2, 3).tanh();
                h = o * c.tanh();
                h = projection.map_or(h, |w| h.matmul_t(w, false, true));
            }
            Cell::Gru => {
                let gates = (part(x, 1, 0, 2) + h.matmul_t(part(w, 0, 0, 2), false, true) + part(b, 0, 0, 2)).sigmoid();
                let (r, z) = (part(gates, 1, 0, 1), part(gates, 1, 1, 2));
                let new = part(x, 1, 2, 3) + (r * h).matmul_t(part(w, 0, 2, 3), false, true) + part(b, 0, 2, 3);
                h = (1.0 - z) * new.tanh() + z * h;
                c = h;
            }
        }
        if let Some(inside) = inside.map(|inside| inside.slice(1, time, time + 1).reshape([n, 1])) {
            outputs.push(inside.where_(h, 0.0).unsqueeze(1));
            (h, c) = (inside.where_(h, before[0]), inside.where_(c, before[1]));
        } else {
            outputs.push(h.unsqueeze(1));
        }
    }
    if op.reverse {
        outputs.reverse();
    }
    let output = if t == 1 { outputs[0] } else { outputs[0].concat(&outputs[1..], 1) };
    [output, h, c]
}
