//! Recurrent layers: LSTM and GRU over a whole sequence. There is one op forward and one op backward.
//!
//! A step is one dispatch. It multiplies the last state by the matrix of the state, and applies the cell's arithmetic to the sums.
//! `x·Wᵀ` does not depend on the state, so it is computed before, for all steps in one large product. The op stores the gates for
//! its gradient, so nothing is computed twice. The gradient is a sequence of steps, too. The gradient of the matrix is one product
//! over all steps. (With one op for each step, the graph and the number of contributions to each gradient would grow with the
//! sequence.)
//!
//! Sources: Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000 (LSTM); Cho et al. 2014 (GRU).

mod cell;
mod kernels;

use super::{
    product::{By, Matrix, product},
    *,
};
use crate::{
    scratch,
    threads::{chunk, chunks},
};
pub use cell::Cell;

/// The op. h is the hidden size, and G is the number of gates. S = h for the GRU. S = 2h for the LSTM, which also has a cell state.
///
/// `x [n, t, G·h]` is the part of the gates' arguments that comes from the input. `w [G·h, h]` and `b [G·h]` give the part that
/// comes from the state. `s [n, S]` is the state before the first step. The result is `y [n, t + 1, P·h]`.
///
/// Place 0 of `y` holds `s` (place t if `reverse` is true). The other places hold the results of the steps: the state, and then the
/// numbers that the gradient needs. LSTM: h, c, i, f, g, o, so P = 6. GRU: h, r, z, n and `u = W_hn·h + b_hn`, so P = 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecurrentOp {
    /// The arithmetic of a step.
    pub cell: Cell,
    /// Whether the steps run from the last place to the first.
    pub reverse: bool,
}

/// The op of the gradient of the gates' arguments. `y [n, t + 1, P·h]` is the op's output, `w` is `[G·h, h]`, and `dy` has the
/// shape of `y`. The result is `d [n, t, 5h]`.
///
/// LSTM: di, df, dg, do. GRU: dn, dr, dz, du. The fifth part of both is the gradient of the state before the step, without the part
/// that comes through `w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecurrentGrad {
    /// The arithmetic of a step.
    pub cell: Cell,
    /// Whether the steps run from the last place to the first.
    pub reverse: bool,
}

/// The number of parts of a gradient. Each part has h numbers.
const D_PARTS: usize = 5;

/// The sizes of a sequence and the order of its steps.
#[derive(Clone, Copy, Debug)]
struct SequenceSizes {
    cell: Cell,
    reverse: bool,
    n: usize,
    t: usize,
    h: usize,
}

/// The places of one step: its input in `x`, the state before it in `y`, and its result in `y`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SequenceStep {
    time: usize,
    before: usize,
    after: usize,
}

impl SequenceSizes {
    /// Returns the places of step k of `0..t`.
    fn step(&self, k: usize) -> SequenceStep {
        match self.reverse {
            false => SequenceStep { time: k, before: k, after: k + 1 },
            true => SequenceStep { time: self.t - 1 - k, before: self.t - k, after: self.t - 1 - k },
        }
    }
    /// Returns the place of the first state.
    fn start(&self) -> usize {
        if self.reverse { self.t } else { 0 }
    }
    /// Returns the count of numbers in one place of `y`.
    fn place(&self) -> usize {
        self.cell.parts() * self.h
    }
    /// Returns the count of numbers of all gates in one step.
    fn gates(&self) -> usize {
        self.cell.gates() * self.h
    }
    /// Returns the count of numbers of one sample in `y`.
    fn row(&self) -> usize {
        (self.t + 1) * self.place()
    }
    /// Writes the first state of one sample.
    fn begin<T: Real>(&self, s: &[T], y: &mut [T]) {
        let to = &mut y[self.start() * self.place()..][..self.place()];
        to.fill(T::zero());
        to[..s.len()].copy_from_slice(s);
    }
    /// Returns the place before a step and the place after it, in `y` of one sample.
    fn places<'a, T>(&self, y: &'a mut [T], step: SequenceStep) -> (&'a [T], &'a mut [T]) {
        let size = self.place();
        let (low, high) = y.split_at_mut(step.before.max(step.after) * size);
        match step.before < step.after {
            true => (&low[step.before * size..][..size], &mut high[..size]),
            false => (&high[..size], &mut low[step.after * size..][..size]),
        }
    }
    /// Returns the gradient of step k in `d` of one sample, and the gradient of step k + 1, which read the result of step k.
    fn gradients<'a, T>(&self, d: &'a mut [T], k: usize) -> (&'a mut [T], Option<&'a [T]>) {
        let (size, at) = (D_PARTS * self.h, self.step(k).time);
        if k + 1 == self.t {
            return (&mut d[at * size..][..size], None);
        }
        let next = self.step(k + 1).time;
        let (low, high) = d.split_at_mut(at.max(next) * size);
        match at < next {
            true => (&mut low[at * size..][..size], Some(&high[..size])),
            false => (&mut high[..size], Some(&low[next * size..][..size])),
        }
    }
}

impl RecurrentOp {
    fn dims(&self, y: Shape) -> SequenceSizes {
        let (n, t, h) = (y.dims()[0], y.dims()[1] - 1, y.dims()[2] / self.cell.parts());
        SequenceSizes { cell: self.cell, reverse: self.reverse, n, t, h }
    }
}

impl RecurrentGrad {
    fn dims(&self, d: Shape) -> SequenceSizes {
        let (n, t, h) = (d.dims()[0], d.dims()[1], d.dims()[2] / D_PARTS);
        SequenceSizes { cell: self.cell, reverse: self.reverse, n, t, h }
    }
}

/// Returns the number of samples in one parallel task on the CPU device. A thread takes its samples through the whole sequence and
/// does not wait for other threads.
fn task(n: usize) -> usize {
    n.div_ceil(rayon::current_num_threads()).min(64)
}

impl OpDef for RecurrentOp {
    const NAME: &'static str = "recurrent";

    fn called(&self) -> &'static str {
        self.cell.name()
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, w, b, s] = x else { return Err(format!("takes gates, weights, a bias and a state, not {} inputs", x.len())) };
        let (gates, states) = (self.cell.gates(), self.cell.states());
        let &[n, t, width] = x.dims() else { return Err("the gates must be [n, t, gates·hidden]".into()) };
        let h = width / gates;
        let wants = [(w, vec![gates * h, h]), (b, vec![gates * h]), (s, vec![n, states * h])];
        if h * gates != width || wants.iter().any(|(given, want)| given.dims() != want) {
            let [w, b, s] = wants.map(|(_, want)| format!("{want:?}"));
            return Err(format!("with gates {x}, weights must be {w}, the bias {b} and the state {s}"));
        }
        if [x, w, b, s].iter().any(|s| s.dtype() != DType::F32) {
            return Err("takes floats, not labels (see to_f32)".into());
        }
        Ok(Shape::from([n, t + 1, self.cell.parts() * h]))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let d = self.dims(y.shape);
        let [x, w, b, s] = [x[0].f, x[1].f, x[2].f, x[3].f];
        for ((y, x), s) in y.f.chunks_mut(d.row()).zip(x.chunks(d.t * d.gates())).zip(s.chunks(s.len() / d.n)) {
            d.begin(s, y);
            for step in (0..d.t).map(|k| d.step(k)) {
                let (before, after) = d.places(y, step);
                let mut u = b.to_vec();
                for (u, w) in u.iter_mut().zip(w.chunks(d.h)) {
                    w.iter().zip(before).for_each(|(&w, &h)| *u += w * h);
                }
                self.cell.forward(&x[step.time * d.gates()..][..d.gates()], &u, before, after);
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let d = self.dims(y.shape);
        let [x, w, b, s] = [x[0].f, x[1].f, x[2].f, x[3].f];
        let (rows, per_x, per_s) = (task(d.n), d.t * d.gates(), s.len() / d.n);
        chunks(y.f, rows * d.row(), |k, y| {
            let (x, s) = (chunk(x, rows * per_x, k), chunk(s, rows * per_s, k));
            let n = y.len() / d.row();
            y.chunks_mut(d.row()).zip(s.chunks(per_s)).for_each(|(y, s)| d.begin(s, y));
            scratch::with(n * d.gates(), |u: &mut [f32]| {
                for step in (0..d.t).map(|k| d.step(k)) {
                    u.chunks_mut(d.gates()).for_each(|u| u.copy_from_slice(b));
                    let state = Matrix::rows(&y[step.before * d.place()..], d.row());
                    let w = Matrix::rows(w, d.h).transposed();
                    product([n, d.h, d.gates()], 1.0, [state, w], u, d.gates(), true, By::This);
                    for ((y, u), x) in y.chunks_mut(d.row()).zip(u.chunks(d.gates())).zip(x.chunks(per_x)) {
                        let (before, after) = d.places(y, step);
                        self.cell.forward(&x[step.time * d.gates()..][..d.gates()], u, before, after);
                    }
                }
            });
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let RecurrentOp { cell, reverse } = *self;
        let dims = self.dims(y.shape());
        let (n, t, h) = (dims.n, dims.t, dims.h);
        let d = y.graph.apply(RecurrentGrad { cell, reverse }, &[y, x[1], dy]);
        let part = |from: usize, to: usize| d.slice(2, from * h, to * h);
        // dx is the gradient of the gates' arguments, in the order of `x`. du is the gradient of the part that the state adds to
        // them.
        let (dx, du) = match cell {
            Cell::Lstm => (part(0, 4), part(0, 4)),
            Cell::Gru => (part(1, 3).concat(&[part(0, 1)], 2), part(1, 4)),
        };
        // The states before each step, in the order of the places of the steps.
        let before = usize::from(reverse);
        let states = y.slice(2, 0, h).slice(1, before, before + t).reshape([n * t, h]);
        let rows = du.reshape([n * t, dims.gates()]);
        let dw = rows.matmul_t(states, true, false);
        let (first, start) = (dims.step(0).time, dims.start());
        let at = |x: Tensor<'g>, place: usize| x.slice(1, place, place + 1).reshape([n, x.dim(2)]);
        let through_w = at(du, first).matmul(x[1]);
        let past_w = at(part(4, 5), first);
        let direct = at(dy.slice(2, 0, cell.states() * h), start);
        let ds = direct
            + match cell {
                Cell::Lstm => through_w.concat(&[past_w], 1),
                Cell::Gru => through_w + past_w,
            };
        // This sum has the same form as the sum that undoes broadcasting. So if a layer has both biases, their equal gradients
        // become one node.
        let db = rows.sum(&[0], true).reshape([dims.gates()]);
        vec![Some(dx), Some(dw), Some(db), Some(ds)]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::forward(self.dims(y), x[3], caps)
    }
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        let d = self.dims(y);
        (d.n * d.t * (d.gates() * 2 * d.h + 4 * d.gates())) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        // For the gradient: each step adds this number of terms.
        x[0].dims()[1] * x[1].dims()[0]
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // Values as in the first step of training, so that a state neither grows nor vanishes.
        let w = 1.0 / (x[1].last() as f64).sqrt();
        Fill::floats(x, &[(1, -w, w)])
    }
    fn cases() -> Vec<Case> {
        kernels::cases(|cell, reverse, n, t, h| {
            let (g, name) = (cell.gates() * h, format!("{} {n}×{t}, hidden {h}{}", cell.name(), if reverse { ", reverse" } else { "" }));
            let shapes = [[n, t, g].into(), [g, h].into(), [g].into(), [n, cell.states() * h].into()];
            Case::new(name, RecurrentOp { cell, reverse }, &shapes)
        })
    }
}

impl OpDef for RecurrentGrad {
    const NAME: &'static str = "recurrent_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [y, w, dy] = x else { return Err(format!("takes states, weights and a gradient, not {} inputs", x.len())) };
        let h = w.last();
        let fits = matches!(y.dims(), &[_, t, width] if t > 1 && width == self.cell.parts() * h) && w.dims() == [self.cell.gates() * h, h];
        if !fits || x.iter().any(|s| s.dtype() != DType::F32) {
            return Err(format!("states and weights should be [n, t + 1, {}·h] and [{}·h, h]", self.cell.parts(), self.cell.gates()));
        }
        match dy == y {
            true => Ok(Shape::from([y.dims()[0], y.dims()[1] - 1, D_PARTS * h])),
            false => Err(format!("the gradient has the shape {dy} instead of {y}")),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let d = self.dims(y.shape);
        let [states, w, dy] = [x[0].f, x[1].f, x[2].f];
        let of = |x: &[T], sample: usize, place: usize| x[sample * d.row() + place * d.place()..][..d.place()].to_vec();
        for (r, out) in y.f.chunks_mut(d.t * D_PARTS * d.h).enumerate() {
            for k in (0..d.t).rev() {
                let step = d.step(k);
                let (out, next) = d.gradients(out, k);
                let mut dh = vec![T::zero(); d.h];
                let next = next.map(|next| {
                    for (&d, w) in next[self.cell.first() * d.h..].iter().zip(w.chunks(d.h)) {
                        w.iter().zip(&mut dh).for_each(|(&w, dh)| *dh += d * w);
                    }
                    &next[4 * d.h..]
                });
                self.cell.backward(&of(states, r, step.before), &of(states, r, step.after), &of(dy, r, step.after), &dh, next, out);
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let d = self.dims(y.shape);
        let [states, w, dy] = [x[0].f, x[1].f, x[2].f];
        let (rows, per_d, size) = (task(d.n), d.t * D_PARTS * d.h, D_PARTS * d.h);
        chunks(y.f, rows * per_d, |k, out| {
            let [states, dy] = [states, dy].map(|x| chunk(x, rows * d.row(), k));
            let n = out.len() / per_d;
            scratch::with(n * d.h, |dh: &mut [f32]| {
                for k in (0..d.t).rev() {
                    let step = d.step(k);
                    if k + 1 == d.t {
                        dh.fill(0.0);
                    } else {
                        let next = &out[d.step(k + 1).time * size + self.cell.first() * d.h..];
                        let next = Matrix::rows(next, per_d);
                        product([n, d.gates(), d.h], 1.0, [next, Matrix::rows(w, d.h)], dh, d.h, false, By::This);
                    }
                    let place = |r: usize, place: usize| r * d.row() + place * d.place()..r * d.row() + (place + 1) * d.place();
                    for (r, (out, dh)) in out.chunks_mut(per_d).zip(dh.chunks(d.h)).enumerate() {
                        let (out, next) = d.gradients(out, k);
                        let [before, after] = [step.before, step.after].map(|p| &states[place(r, p)]);
                        self.cell.backward(before, after, &dy[place(r, step.after)], dh, next.map(|next| &next[4 * d.h..]), out);
                    }
                }
            });
        });
    }
    /// Returns the gradient of the definition, step by step. Its graph may be long, but second derivatives of recurrent layers are
    /// rare.
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, d: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // Rename the inputs, so that autodiff does not treat one input as a function of another.
        let x: Vec<Tensor> = x.iter().map(|x| x.identity()).collect();
        self.written_out(&x).vjp(d, &x).into_iter().map(Some).collect()
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::backward(self.dims(y), caps)
    }
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        let d = self.dims(y);
        (d.n * d.t * (d.gates() * 2 * d.h + 6 * d.gates())) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[1] * x[1].dims()[0]
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // Gates and states are below 1. With larger values or a larger `w`, the gradient would grow from step to step.
        let w = 1.0 / (x[1].last() as f64).sqrt();
        Fill::floats(x, &[(0, -0.9, 0.9), (1, -w, w), (2, -2.0, 2.0)])
    }
    fn cases() -> Vec<Case> {
        kernels::cases(|cell, reverse, n, t, h| {
            let name = format!("{} {n}×{t}, hidden {h}{}", cell.name(), if reverse { ", reverse" } else { "" });
            let y = Shape::from([n, t + 1, cell.parts() * h]);
            Case::new(name, RecurrentGrad { cell, reverse }, &[y, [cell.gates() * h, h].into(), y])
        })
    }
}

impl RecurrentGrad {
    /// Returns the op in tensor arithmetic, one step after the other.
    fn written_out<'g>(&self, x: &[Tensor<'g>]) -> Tensor<'g> {
        let &[y, w, dy] = x else { unreachable!("shape() takes three inputs") };
        let (n, h) = (y.shape().dims()[0], w.shape().last());
        let d = SequenceSizes { cell: self.cell, reverse: self.reverse, n, t: y.shape().dims()[1] - 1, h };
        let place = |x: Tensor<'g>, at: usize| x.slice(1, at, at + 1).reshape([n, x.dim(2)]);
        let mut steps: Vec<Option<Tensor>> = vec![None; d.t];
        let mut next: Option<Tensor> = None;
        for k in (0..d.t).rev() {
            let step = d.step(k);
            let zero = y.graph.full([n, h], 0.0);
            let (dh, past_w) = next.map_or((zero, zero), |next| {
                let first = self.cell.first() * h;
                (next.slice(1, first, first + d.gates()).matmul(w), next.slice(1, 4 * h, 5 * h))
            });
            let out = self.cell.backward_of(place(y, step.before), place(y, step.after), place(dy, step.after), dh, past_w);
            steps[step.time] = Some(out.unsqueeze(1));
            next = Some(out);
        }
        let steps: Vec<Tensor> = steps.into_iter().flatten().collect();
        steps[0].concat(&steps[1..], 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<RecurrentOp>();
        checks::cpu::<RecurrentGrad>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<RecurrentOp>();
        checks::wgsl::<RecurrentGrad>();
    }
    #[test]
    fn mistakes() {
        let message = |op: RecurrentOp, shapes: &[Shape]| {
            let g = Graph::training();
            let x: Vec<Tensor> = shapes.iter().map(|&s| g.input_of(s)).collect();
            g.apply(op, &x).error().unwrap().to_string()
        };
        let start = |text: String, want: &str| assert!(text.starts_with(want), "{text}");
        let [lstm, gru] = [Cell::Lstm, Cell::Gru].map(|cell| RecurrentOp { cell, reverse: false });
        let s = |d: &[usize]| Shape::new(d).unwrap();
        let good = [s(&[2, 5, 12]), s(&[12, 3]), s(&[12]), s(&[2, 6])];
        let with = |i: usize, shape: Shape| {
            let mut all = good;
            all[i] = shape;
            all
        };
        start(message(lstm, &good[..3]), "lstm: [2, 5, 12] × [12, 3] × [12]: takes gates, weights, a bias and a state, not 3 inputs (");
        start(message(lstm, &with(0, s(&[2, 12]))), "lstm: [2, 12] × [12, 3] × [12] × [2, 6]: the gates must be [n, t, gates·hidden] (");
        let want = "with gates [2, 5, 12], weights must be [12, 3], the bias [12] and the state [2, 6] (";
        start(message(lstm, &with(1, s(&[12, 4]))), &format!("lstm: [2, 5, 12] × [12, 4] × [12] × [2, 6]: {want}"));
        start(message(lstm, &with(2, s(&[3]))), &format!("lstm: [2, 5, 12] × [12, 3] × [3] × [2, 6]: {want}"));
        start(message(lstm, &with(3, s(&[2, 3]))), &format!("lstm: [2, 5, 12] × [12, 3] × [12] × [2, 3]: {want}"));
        start(
            message(gru, &with(0, s(&[2, 5, 11]))),
            "gru: [2, 5, 11] × [12, 3] × [12] × [2, 6]: with gates [2, 5, 11], weights must be [9, 3]",
        );
        start(message(lstm, &with(0, good[0].u32())), "lstm: u32 [2, 5, 12] × [12, 3] × [12] × [2, 6]: takes floats, not labels");

        let grad = |shapes: &[Shape]| {
            let g = Graph::training();
            let x: Vec<Tensor> = shapes.iter().map(|&s| g.input_of(s)).collect();
            g.apply(RecurrentGrad { cell: Cell::Lstm, reverse: false }, &x).error().unwrap().to_string()
        };
        let y = s(&[2, 6, 18]);
        start(grad(&[y, good[1]]), "recurrent_grad: [2, 6, 18] × [12, 3]: takes states, weights and a gradient, not 2 inputs (");
        start(
            grad(&[y, good[2], y]),
            "recurrent_grad: [2, 6, 18] × [12] × [2, 6, 18]: states and weights should be [n, t + 1, 6·h] and [4·h, h] (",
        );
        start(
            grad(&[y, good[1], good[0]]),
            "recurrent_grad: [2, 6, 18] × [12, 3] × [2, 5, 12]: the gradient has the shape [2, 5, 12] instead of [2, 6, 18] (",
        );
    }
    #[test]
    fn steps_go_the_other_way() {
        let d = |reverse| SequenceSizes { cell: Cell::Gru, reverse, n: 1, t: 3, h: 1 };
        let order = |reverse| (0..3).map(|k| d(reverse).step(k)).map(|s| (s.time, s.before, s.after)).collect::<Vec<_>>();
        assert_eq!(order(false), [(0, 0, 1), (1, 1, 2), (2, 2, 3)]);
        assert_eq!(order(true), [(2, 3, 2), (1, 2, 1), (0, 1, 0)]);
    }
}
