//! The arithmetic of one step, for one element. `shaders/lib/cell.wgsl` has the same arithmetic in WGSL.

use crate::{graph::Tensor, host::Real, ops::map::sigmoid};

/// The kind of recurrent layer. The gates have PyTorch's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Gates i, f, g, o: `c' = σ(f)·c + σ(i)·tanh(g)`, `h' = σ(o)·tanh(c')`.
    Lstm,
    /// Gates r, z, n: `n = tanh(x_n + σ(r)·(W_hn·h + b_hn))`, `h' = (1 − σ(z))·n + σ(z)·h`.
    Gru,
}

impl Cell {
    /// Returns the name of the layer.
    pub fn name(self) -> &'static str {
        match self {
            Cell::Lstm => "lstm",
            Cell::Gru => "gru",
        }
    }
    /// Returns the number of gates.
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }
    /// Returns the number of parts of the state. Each part has the hidden size.
    pub fn states(self) -> usize {
        match self {
            Cell::Lstm => 2,
            Cell::Gru => 1,
        }
    }
    /// Returns the number of parts of a step's result. Each part has the hidden size. The state comes first, then the numbers that
    /// the gradient needs.
    pub(super) fn parts(self) -> usize {
        match self {
            Cell::Lstm => 6,
            Cell::Gru => 5,
        }
    }
    /// Returns the first part of a gradient that goes through the matrix of the state. For the GRU's gate n, the input and the
    /// state have separate arguments. The gradient of its input argument comes before the other parts.
    pub(super) fn first(self) -> usize {
        match self {
            Cell::Lstm => 0,
            Cell::Gru => 1,
        }
    }

    /// Computes one step of one sample. `x` comes from the input, and `u` comes from the state in `before`.
    pub(super) fn forward<T: Real>(self, x: &[T], u: &[T], before: &[T], after: &mut [T]) {
        let h = after.len() / self.parts();
        let sum = |gate: usize, j: usize| x[gate * h + j] + u[gate * h + j];
        for j in 0..h {
            match self {
                Cell::Lstm => {
                    let (i, f) = (sigmoid(sum(0, j)), sigmoid(sum(1, j)));
                    let (g, o) = (sum(2, j).vtanh(), sigmoid(sum(3, j)));
                    let c = f * before[h + j] + i * g;
                    [o * c.vtanh(), c, i, f, g, o].into_iter().enumerate().for_each(|(part, v)| after[part * h + j] = v);
                }
                Cell::Gru => {
                    let (r, z, u) = (sigmoid(sum(0, j)), sigmoid(sum(1, j)), u[2 * h + j]);
                    let n = (x[2 * h + j] + r * u).vtanh();
                    let state = (T::one() - z) * n + z * before[j];
                    [state, r, z, n, u].into_iter().enumerate().for_each(|(part, v)| after[part * h + j] = v);
                }
            }
        }
    }

    /// Computes the gradient of one step of one sample. `dy` is the gradient of all parts of `after`. `dh` and `past_w` come from
    /// the next step: `dh` through the matrix of the state, `past_w` not through it.
    pub(super) fn backward<T: Real>(self, before: &[T], after: &[T], dy: &[T], dh: &[T], past_w: Option<&[T]>, out: &mut [T]) {
        let h = dh.len();
        let one = T::one();
        for j in 0..h {
            let [y, dy] = [after, dy].map(|x| move |part: usize| x[part * h + j]);
            let past_w = past_w.map_or(T::zero(), |p| p[j]);
            let dh = dy(0) + dh[j];
            let d = match self {
                Cell::Lstm => {
                    let (c, i, f, g, o) = (y(1).vtanh(), y(2), y(3), y(4), y(5));
                    let dc = dy(1) + past_w + dh * o * (one - c * c);
                    let di = (dc * g + dy(2)) * i * (one - i);
                    let df = (dc * before[h + j] + dy(3)) * f * (one - f);
                    let dg = (dc * i + dy(4)) * (one - g * g);
                    let d_o = (dh * c + dy(5)) * o * (one - o);
                    [di, df, dg, d_o, dc * f]
                }
                Cell::Gru => {
                    let (r, z, n, u) = (y(1), y(2), y(3), y(4));
                    let dh = dh + past_w;
                    let dn = (dh * (one - z) + dy(3)) * (one - n * n);
                    let dr = (dn * u + dy(1)) * r * (one - r);
                    let dz = (dh * (before[j] - n) + dy(2)) * z * (one - z);
                    [dn, dr, dz, dn * r + dy(4), dh * z]
                }
            };
            d.into_iter().enumerate().for_each(|(part, v)| out[part * h + j] = v);
        }
    }

    /// Computes [`backward`](Cell::backward) of a whole batch, in tensor arithmetic.
    pub(super) fn backward_of<'g>(
        self,
        before: Tensor<'g>,
        after: Tensor<'g>,
        dy: Tensor<'g>,
        dh: Tensor<'g>,
        past_w: Tensor<'g>,
    ) -> Tensor<'g> {
        let h = dh.shape().last();
        let part = |x: Tensor<'g>, part: usize| x.slice(1, part * h, (part + 1) * h);
        let (y, dy) = (|k: usize| part(after, k), |k: usize| part(dy, k));
        let dh = dy(0) + dh;
        let [first, rest @ ..] = match self {
            Cell::Lstm => {
                let (c, i, f, g, o) = (y(1).tanh(), y(2), y(3), y(4), y(5));
                let dc = dy(1) + past_w + dh * o * (1.0 - c.square());
                let di = (dc * g + dy(2)) * i * (1.0 - i);
                let df = (dc * part(before, 1) + dy(3)) * f * (1.0 - f);
                let dg = (dc * i + dy(4)) * (1.0 - g.square());
                let d_o = (dh * c + dy(5)) * o * (1.0 - o);
                [di, df, dg, d_o, dc * f]
            }
            Cell::Gru => {
                let (r, z, n, u) = (y(1), y(2), y(3), y(4));
                let dh = dh + past_w;
                let dn = (dh * (1.0 - z) + dy(3)) * (1.0 - n.square());
                let dr = (dn * u + dy(1)) * r * (1.0 - r);
                let dz = (dh * (part(before, 0) - n) + dy(2)) * z * (1.0 - z);
                [dn, dr, dz, dn * r + dy(4), dh * z]
            }
        };
        first.concat(&rest, 1)
    }
}
