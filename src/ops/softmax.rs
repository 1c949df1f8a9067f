//! Softmax and its logarithm along an axis.
//!
//! `y = e^(x − m) / Σ e^(x − m)` with `m = max x`, along the axis. The logarithm is `x − m − ln Σ e^(x − m)`. Subtracting the
//! maximum does not change the result, but it keeps every power in range. The power of the maximum itself is left out of the sum:
//! `ln Σ = ln(1 + Σ of the others)`. Added to 1, the others would lose digits, and the logarithm of a probability near 1 needs
//! these digits.

use super::{
    lines::{Can, Lines},
    softmax_grad::SoftmaxGrad,
    *,
};
use crate::{
    kernel::{Bind, source},
    simd::wide,
    threads::{HEAVY_TASK, chunk, chunks},
};
use std::panic::Location;

/// The op: softmax along an axis, or its logarithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Softmax {
    /// The axis along which the results sum to 1.
    pub axis: usize,
    /// Whether the result is the logarithm.
    pub log: bool,
}

/// Returns the largest element m of a line and Σ e^(x − m) − 1, by the definition. The second number is the sum without e^(m − m).
pub(super) fn defined(x: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let m = x.clone().fold(f64::NEG_INFINITY, larger);
    let top = x.clone().position(|x| x == m);
    let powers = x.enumerate().map(|(i, x)| if Some(i) == top { (x - m).exp_m1() } else { (x - m).exp() });
    (m, powers.sum())
}

impl Softmax {
    /// Computes one block `[n, inner]` on the CPU device.
    fn block(&self, x: &[f32], y: &mut [f32], inner: usize) {
        for c in 0..inner {
            let (x, y) = (&x[c..], &mut y[c..]);
            let (m, s, log_s) = ends(x, inner);
            let (log, scale) = (self.log, (1.0 / s) as f32);
            let value = |x: f32| if log { x - m - log_s } else { (x - m).vexp() * scale };
            match inner {
                1 => wide(
                    #[inline(always)]
                    || y.iter_mut().zip(x).for_each(|(y, &x)| *y = value(x)),
                ),
                _ => y.iter_mut().zip(x).step_by(inner).for_each(|(y, &x)| *y = value(x)),
            }
        }
    }
}

/// Returns the larger number. Returns NaN if one of the numbers is NaN.
fn larger<T: Real>(m: T, x: T) -> T {
    if m >= x || m.is_nan() { m } else { x }
}

/// Returns m = max x over every `inner`-th element, Σ e^(x − m) and the logarithm of this sum, on the CPU device.
pub(super) fn ends(x: &[f32], inner: usize) -> (f32, f64, f32) {
    let top = |m: f32| x.iter().step_by(inner).position(|&x| x == m).unwrap_or(usize::MAX);
    let (m, rest) = match inner {
        1 => powers(x, top),
        _ => {
            let m = x.iter().step_by(inner).fold(f32::NEG_INFINITY, |m, &x| larger(m, x));
            let without = top(m);
            // The sum is in f64 because lines can be long.
            let others = x.iter().step_by(inner).enumerate().filter(|&(i, _)| i != without);
            (m, others.map(|(_, &x)| f64::from((x - m).vexp())).sum())
        }
    };
    // The power of the largest element. If that element is infinite, it is e^(∞ − ∞), which is NaN.
    let own = if m.is_finite() { 1.0 } else { f64::NAN };
    (m, rest + own, ((rest + (own - 1.0)) as f32).ln_1p())
}

/// Returns the largest element m of a line and Σ e^(x − m), on the CPU device. m is NaN if an element is NaN. The sum leaves out
/// the element at position `without(m)`. The sum is in `f64` because lines can be long.
pub(super) fn powers(x: &[f32], without: impl FnOnce(f32) -> usize) -> (f32, f64) {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let (mut most, mut sums) = ([f32::NEG_INFINITY; LANES], [0.0f64; LANES]);
    wide(
        #[inline(always)]
        || {
            for block in blocks {
                most.iter_mut().zip(block).for_each(|(m, &x)| *m = larger(*m, x));
            }
            let m = most.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
            let without = without(m);
            if blocks.is_empty() {
                let other = |(i, &x): (usize, &f32)| if i == without { 0.0 } else { f64::from((x - m).vexp()) };
                return (m, rest.iter().enumerate().map(other).sum());
            }
            let (before, after) = blocks.split_at((without / LANES).min(blocks.len()));
            before.iter().for_each(|block| add(&mut sums, block, m));
            after.iter().skip(1).for_each(|block| add(&mut sums, block, m));
            // Then the block with the element that is left out, and the elements that fill no block. Unused places hold −∞, because
            // e^−∞ is 0.
            let special = after.first().map_or(&[][..], |block| block);
            for (block, first) in [(special, before.len()), (rest, blocks.len())] {
                if !block.is_empty() {
                    let mut one = [f32::NEG_INFINITY; LANES];
                    one[..block.len()].copy_from_slice(block);
                    if without / LANES == first {
                        one[without % LANES] = f32::NEG_INFINITY;
                    }
                    add(&mut sums, &one, m);
                }
            }
            (m, sums.iter().sum())
        },
    )
}

/// The number of running values. They do not depend on each other, so the CPU computes them in parallel.
const LANES: usize = 16;

#[inline(always)]
fn add(sums: &mut [f64; LANES], block: &[f32; LANES], m: f32) {
    sums.iter_mut().zip(block).for_each(|(sum, &x)| *sum += f64::from((x - m).vexp()));
}

impl OpDef for Softmax {
    const NAME: &'static str = "softmax";

    fn called(&self) -> &'static str {
        if self.log { "log_softmax" } else { "softmax" }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        if self.axis >= x.rank() {
            return Err(format!("there is no axis {}", self.axis));
        }
        Ok(*x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        for (x, y) in x[0].f.chunks(n * inner).zip(y.f.chunks_mut(n * inner)) {
            for c in 0..inner {
                let line = x[c..].iter().step_by(inner).map(|x| x.f64());
                let (m, rest) = defined(line.clone());
                let value = |x: f64| if self.log { x - m - rest.ln_1p() } else { (x - m).exp() / (1.0 + rest) };
                y[c..].iter_mut().step_by(inner).zip(line).for_each(|(y, x)| *y = T::of(value(x)));
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        let size = n * inner;
        let task = (HEAVY_TASK / size).max(1) * size;
        chunks(y.f, task, |k, y| {
            chunk(x[0].f, task, k).chunks(size).zip(y.chunks_mut(size)).for_each(|(x, y)| self.block(x, y, inner));
        });
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let Softmax { axis, log } = *self;
        vec![Some(y.graph.apply(SoftmaxGrad { axis, log }, &[y, dy]))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let kernel = |lines: Lines| {
            let x = lines.full(Bind::input("x", 0, DType::F32));
            let y = lines.full(Bind::output("y", DType::F32));
            let mut pass = lines.pass(source!("softmax"), "forward", vec![x, y]);
            pass.consts.push(("LOG", u32::from(self.log).into()));
            Kernel::one(lines.name(), pass)
        };
        Lines::all(x[0].around(self.axis), Can::Whole, caps).into_iter().map(kernel).collect()
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
            cases.push(case(&[3, 28], 1, log));
            cases.push(case(&[5, 260], 1, log));
            cases.push(case(&[3, 8228], 1, log));
            cases.push(case(&[7, 11], 1, log).range(0, 9990.0, 1e4));
            // The elements are so far apart that the gradients are 0 in f32.
            cases.push(case(&[7, 11], 1, log).range(0, -1e4, 1e4).flat());
        }
        cases
    }
}

impl<'g> Tensor<'g> {
    /// Returns eˣ / Σ eˣ along `axis` (Bridle 1990). A negative `axis` counts from the last axis. The result is stable for any
    /// finite x.
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
    /// Returns ln softmax(x) = x − ln Σ eˣ along `axis`. It is stable for any finite x. See [`Tensor::softmax`].
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
            None if x.is_scalar_along(axis) => self.reshape([1]).apply(Softmax { axis: 0, log }).reshape([]),
            None => self.graph.mistake(name, &[self], format!("there is no axis {axis}"), Location::caller()),
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
