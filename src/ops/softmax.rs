//! Softmax and its logarithm along an axis.
//!
//! `y = e^(x − m) / Σ e^(x − m)` with `m = max x`, each along the axis; the logarithm is `x − m − ln Σ e^(x − m)`. The
//! maximum makes no difference but keeps every power in range.

use super::{lines::Lines, *};
use crate::{
    kernel::{Bind, source},
    simd::wide,
};
use rayon::prelude::*;
use std::panic::Location;

/// The op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// Along which the results sum to 1.
    pub axis: usize,
    /// The logarithm of it.
    pub log: bool,
}

impl Softmax {
    /// One block `[n, inner]`.
    fn block<T: Real>(&self, x: &[T], y: &mut [T], inner: usize) {
        if inner == 1 {
            let (m, s) = powers(x);
            let (log, log_s, scale) = (self.log, T::of(s.ln()), T::of(1.0 / s));
            return wide(
                #[inline(always)]
                || {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = if log { x - m - log_s } else { (x - m).vexp() * scale };
                    }
                },
            );
        }
        for c in 0..inner {
            let line = || x[c..].iter().step_by(inner);
            let m = line().fold(T::neg_infinity(), |m, &x| if m >= x || m.is_nan() { m } else { x });
            // In f64: lines can be long.
            let s = line().map(|&x| (x - m).vexp().f64()).sum::<f64>();
            let (log_s, scale) = (T::of(s.ln()), T::of(1.0 / s));
            for (y, &x) in y[c..].iter_mut().step_by(inner).zip(line()) {
                *y = if self.log { x - m - log_s } else { (x - m).vexp() * scale };
            }
        }
    }
}

/// The largest element m of a line, NaN where one is, and Σ e^(x − m), in `f64` because lines can be long.
pub(super) fn powers<T: Real>(x: &[T]) -> (T, f64) {
    /// Running values that do not wait for each other.
    const LANES: usize = 16;
    let larger = |m: T, x: T| if m >= x || m.is_nan() { m } else { x };
    let (blocks, rest) = x.as_chunks::<LANES>();
    let (mut most, mut sums) = ([T::neg_infinity(); LANES], [0.0f64; LANES]);
    wide(
        #[inline(always)]
        || {
            for block in blocks {
                most.iter_mut().zip(block).for_each(|(m, &x)| *m = larger(*m, x));
            }
            let m = most.iter().chain(rest).copied().fold(T::neg_infinity(), larger);
            for block in blocks {
                sums.iter_mut().zip(block).for_each(|(sum, &x)| *sum += (x - m).vexp().f64());
            }
            sums.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += (x - m).vexp().f64());
            (m, sums.iter().sum())
        },
    )
}

/// Elements of one parallel task on the CPU device.
const TASK: usize = 1 << 13;

impl OpDef for Softmax {
    const NAME: &'static str = "softmax";

    fn called(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        if x.dtype() != DType::F32 {
            return Err("takes floats, not labels (see to_f32)".into());
        }
        if self.axis >= x.rank() {
            return Err(format!("there is no axis {}", self.axis));
        }
        Ok(*x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        x[0].f.chunks(n * inner).zip(y.f.chunks_mut(n * inner)).for_each(|(x, y)| self.block(x, y, inner));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        let size = n * inner;
        let task = (TASK / size).max(1) * size;
        x[0].f.par_chunks(task).zip(y.f.par_chunks_mut(task)).for_each(|(x, y)| {
            x.chunks(size).zip(y.chunks_mut(size)).for_each(|(x, y)| self.block(x, y, inner));
        });
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let axis = [self.axis as isize];
        vec![Some(match self.log {
            false => y * (dy - (y * dy).sum(&axis, true)),
            true => dy - y.exp() * dy.sum(&axis, true),
        })]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let lines = Lines::new(x[0].around(self.axis), false, caps);
        let x = lines.full(Bind::input("x", 0, DType::F32));
        let y = lines.full(Bind::output("y", DType::F32));
        let mut pass = lines.pass(source!("softmax"), "forward", vec![x, y]);
        pass.consts.push(("LOG", u32::from(self.log).into()));
        vec![Kernel::one("lines", pass)]
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[self.axis]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        4 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], axis, log| {
            let x = Shape::new(dims).expect("at most six axes");
            Case::new(format!("{}softmax {x} over {axis}", if log { "log_" } else { "" }), Softmax { axis, log }, &[x])
        };
        let mut cases = vec![case(&[20_011, 3], 1, false), case(&[1_031, 1, 129], 1, true)];
        for log in [false, true] {
            cases.push(case(&[1], 0, log));
            cases.push(case(&[37, 10], 1, log));
            cases.push(case(&[3, 32, 7], 1, log));
            cases.push(case(&[3, 33, 37], 1, log));
            cases.push(case(&[5, 3, 257], 1, log));
            cases.push(case(&[67, 5], 0, log));
            cases.push(case(&[5, 257], 1, log));
            cases.push(case(&[2, 5003], 1, log));
            cases.push(case(&[7, 11], 1, log).range(0, 9990.0, 1e4));
            // So far apart that gradients are 0 in f32.
            cases.push(case(&[7, 11], 1, log).range(0, -1e4, 1e4).flat());
        }
        cases
    }
}

impl<'g> Tensor<'g> {
    /// eˣ / Σ eˣ along `axis` (negative: from the back), stable for any finite x (Bridle 1990).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 2]).softmax(-1)])?;
    /// let y = f.run(&[Host::new([2, 2], vec![1e4, 1e4, -1e4, 1e4])])?;
    /// assert_eq!(y[0].f(), &[0.5, 0.5, 0.0, 1.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn softmax(self, axis: isize) -> Tensor<'g> {
        self.softmax_of("softmax", axis, false)
    }
    /// ln softmax(x) = x − ln Σ eˣ along `axis`, stable for any finite x; see [`Tensor::softmax`].
    #[track_caller]
    pub fn log_softmax(self, axis: isize) -> Tensor<'g> {
        self.softmax_of("log_softmax", axis, true)
    }
    #[track_caller]
    fn softmax_of(self, name: &str, axis: isize, log: bool) -> Tensor<'g> {
        let x = self.shape();
        match x.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => self.apply(Softmax { axis, log }),
            None => self.graph.mistake(name, &[x], format!("there is no axis {axis}"), Location::caller()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn golden() {
        checks::golden("softmax", |args, x| x[0].softmax(args["axis"].as_i64().unwrap() as isize));
        checks::golden("log_softmax", |args, x| x[0].log_softmax(args["axis"].as_i64().unwrap() as isize));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Softmax>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Softmax>();
    }
}
