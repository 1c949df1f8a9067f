//! The gradients of softmax and of its logarithm.
//!
//! They are `y·(dy − Σ y·dy)` and `dy − e^y·Σ dy`. Both contain 1 − p, which has no digits left if p is near 1. In each line, at
//! most one p can be above ½. It is called the heavy element. For it, 1 − p is the sum of the other p, or −(e^y − 1). So the sums
//! run over the other elements, written Σ'. `a.dy` is the dy of the heavy element, or 0 if no element is heavy:
//!
//! * softmax: `y·((dy − a.dy) + (a.dy·Σ' y − Σ' y·dy))`
//! * the logarithm: `dy − e^y·(Σ' dy + a.dy)`, and for the heavy element itself `−dy·(e^y − 1) − e^y·Σ' dy`
//!
//! If all dy of a line are 0, the gradient of the line is 0 for every y.

use super::{
    lines::{Can, Lines},
    *,
};
use crate::{
    kernel::{Bind, source},
    simd::wide,
    threads::{HEAVY_TASK, chunk, chunks},
};

/// The op: y from [`Softmax`](super::softmax::Softmax), dy → dx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftmaxGrad {
    /// See [`Softmax::axis`](super::softmax::Softmax::axis).
    pub axis: usize,
    /// See [`Softmax::log`](super::softmax::Softmax::log).
    pub log: bool,
}

/// The number of running values. They do not depend on each other, so the CPU computes them in parallel.
const LANES: usize = 16;

/// A bound for the heavy element, and a bound for its logarithm. Only one element of a line can exceed it.
const HEAVY: (f64, f64) = (0.5625, -0.5625);

/// Returns a·b. Returns 0 if a is 0, even if b is NaN or infinite.
fn times<T: Real>(a: T, b: T) -> T {
    if a == T::zero() { a } else { a * b }
}

/// Returns Σ f(y, dy) over every `inner`-th element. The sum is in `f64` because lines can be long.
fn sum(y: &[f32], dy: &[f32], inner: usize, f: impl Fn(f32, f32) -> f64) -> f64 {
    if inner > 1 {
        return y.iter().zip(dy).step_by(inner).map(|(&y, &d)| f(y, d)).sum();
    }
    let ((blocks, y), (others, dy)) = (y.as_chunks::<LANES>(), dy.as_chunks::<LANES>());
    let mut sums = [0.0f64; LANES];
    wide(
        #[inline(always)]
        || {
            for (y, dy) in blocks.iter().zip(others) {
                sums.iter_mut().zip(y.iter().zip(dy)).for_each(|(sum, (&y, &d))| *sum += f(y, d));
            }
            sums.iter_mut().zip(y.iter().zip(dy)).for_each(|(sum, (&y, &d))| *sum += f(y, d));
            sums.iter().sum()
        },
    )
}

/// Returns true if any of every `inner`-th element is above `at`.
fn some(y: &[f32], inner: usize, at: f32) -> bool {
    if inner > 1 {
        return y.iter().step_by(inner).any(|&y| y > at);
    }
    wide(
        #[inline(always)]
        || y.chunks(64).any(|block| block.iter().fold(false, |some, &y| some | (y > at))),
    )
}

/// Writes f(y, dy) to every `inner`-th element of dx.
fn write(y: &[f32], dy: &[f32], dx: &mut [f32], inner: usize, f: impl Fn(f32, f32) -> f32) {
    if inner > 1 {
        return dx.iter_mut().zip(y.iter().zip(dy)).step_by(inner).for_each(|(dx, (&y, &d))| *dx = f(y, d));
    }
    wide(
        #[inline(always)]
        || dx.iter_mut().zip(y.iter().zip(dy)).for_each(|(dx, (&y, &d))| *dx = f(y, d)),
    )
}

impl SoftmaxGrad {
    /// Returns the bound above which an element of y is heavy.
    fn at(&self) -> f64 {
        if self.log { HEAVY.1 } else { HEAVY.0 }
    }
    /// Computes one block `[n, inner]` of dx from y and dy, on the CPU device.
    fn block(&self, y: &[f32], dy: &[f32], dx: &mut [f32], inner: usize) {
        let at = self.at() as f32;
        for c in 0..inner {
            let (y, dy, dx) = (&y[c..], &dy[c..], &mut dx[c..]);
            // Most lines have no heavy element, or one.
            let heavy = some(y, inner, at).then(|| (0..y.len()).step_by(inner).filter(|&i| y[i] > at));
            let of_heavy: f64 = heavy.clone().into_iter().flatten().map(|i| f64::from(dy[i])).sum();
            if self.log {
                let rest = match heavy {
                    None => sum(dy, dy, inner, |_, d| f64::from(d)),
                    Some(_) => sum(y, dy, inner, |y, d| if y > at { 0.0 } else { f64::from(d) }),
                };
                let (rest, all) = (rest as f32, (rest + of_heavy) as f32);
                write(y, dy, dx, inner, |y, d| d - times(all, y.vexp()));
                for i in heavy.into_iter().flatten() {
                    dx[i] = -dy[i] * y[i].exp_m1() - times(rest, y[i].vexp());
                }
            } else {
                let products = sum(y, dy, inner, |y, d| if y > at { 0.0 } else { f64::from(times(d, y)) });
                let rest = sum(y, dy, inner, |y, _| if y > at { 0.0 } else { f64::from(y) });
                let (of_heavy, shift) = (of_heavy as f32, (times(of_heavy, rest) - products) as f32);
                write(y, dy, dx, inner, |y, d| times((d - of_heavy) + shift, y));
            }
        }
    }
    /// Returns the gradient in plain ops. Second derivatives use it.
    fn plain<'g>(&self, y: Tensor<'g>, dy: Tensor<'g>) -> Tensor<'g> {
        let axis = [self.axis as isize];
        let heavy = y.gt(self.at() as f32);
        let sum = |t: Tensor<'g>| t.sum(&axis, true);
        let of_heavy = sum(heavy.where_(dy, 0.0));
        if self.log {
            let rest = sum(heavy.where_(0.0, dy));
            return heavy.where_(-(dy * y.expm1()) - y.exp() * rest, dy - y.exp() * (rest + of_heavy));
        }
        let [products, rest] = [y * dy, y].map(|t| sum(heavy.where_(0.0, t)));
        y * ((dy - of_heavy) + (of_heavy * rest - products))
    }
}

impl OpDef for SoftmaxGrad {
    const NAME: &'static str = "softmax_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [y, dy] = x else { return Err(format!("takes a result and a gradient, not {} inputs", x.len())) };
        if !y.same_dims(*dy) || y.dtype() != DType::F32 || dy.dtype() != DType::F32 {
            return Err("the result and its gradient must be floats of one shape".into());
        }
        if self.axis >= y.rank() {
            return Err(format!("there is no axis {}", self.axis));
        }
        Ok(*y)
    }
    fn reference<T: Real>(&self, x: &[View<T>], dx: &mut ViewMut<T>, _: Key) {
        let [outer, n, inner] = x[0].shape.around(self.axis);
        let (y, dy) = (|i: usize| x[0].f[i].f64(), |i: usize| x[1].f[i].f64());
        let is_heavy = |i: usize| y(i) > self.at();
        for (o, c) in (0..outer).flat_map(|o| (0..inner).map(move |c| (o, c))) {
            let line = (0..n).map(|i| (o * n + i) * inner + c);
            let (heavy, others) = (line.clone().filter(|&i| is_heavy(i)), line.clone().filter(|&i| !is_heavy(i)));
            let (of_heavy, of_others): (f64, f64) = (heavy.map(dy).sum(), others.clone().map(dy).sum());
            let (rest, products): (f64, f64) = (others.clone().map(y).sum(), others.map(|i| times(dy(i), y(i))).sum());
            for i in line {
                dx.f[i] = T::of(match (self.log, is_heavy(i)) {
                    (false, _) => times((dy(i) - of_heavy) + (times(of_heavy, rest) - products), y(i)),
                    (true, false) => dy(i) - times(of_others + of_heavy, y(i).exp()),
                    (true, true) => -dy(i) * y(i).exp_m1() - times(of_others, y(i).exp()),
                });
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        let size = n * inner;
        let task = (HEAVY_TASK / size).max(1) * size;
        chunks(y.f, task, |k, dx| {
            let (y, dy) = (chunk(x[0].f, task, k), chunk(x[1].f, task, k));
            let blocks = y.chunks(size).zip(dy.chunks(size)).zip(dx.chunks_mut(size));
            blocks.for_each(|((y, dy), dx)| self.block(y, dy, dx, inner));
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, d: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // Copy the inputs. dy may depend on y, and this gradient must not include that dependence.
        let [y, dy] = [x[0] * 1.0, x[1] * 1.0];
        self.plain(y, dy).vjp(d, &[y, dy]).into_iter().map(Some).collect()
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let kernel = |lines: Lines| {
            // The lines library stores the tensor named x in registers. So y is bound as x.
            let binds = vec![Bind::input("x", 0, DType::F32), Bind::input("dy", 1, DType::F32), Bind::output("dx", DType::F32)];
            let mut pass = lines.pass(source!("softmax"), "grad", binds.into_iter().map(|bind| lines.full(bind)).collect());
            pass.consts.extend([("LOG", u32::from(self.log).into()), ("HEAVY", (self.at() as f32).into())]);
            Kernel::one(lines.name(), pass)
        };
        Lines::all(x[0].around(self.axis), Can::Whole, caps).into_iter().map(kernel).collect()
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[self.axis]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        6 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], axis, log| {
            let x = Shape::new(dims).expect("at most six axes");
            let name = format!("of {}softmax {x} over {axis}", if log { "log_" } else { "" });
            // Some of the results are heavy. A line can have one heavy element.
            let (lo, hi) = if log { (-4.0, -0.1) } else { (0.01, 0.6) };
            Case::new(name, SoftmaxGrad { axis, log }, &[x, x]).range(0, lo, hi)
        };
        // In a large case, some elements are so close to HEAVY that a central difference would step over it. So these ranges stay
        // below HEAVY.
        let mut cases = vec![case(&[20_011, 3], 1, false).range(0, 0.01, 0.5), case(&[1_031, 1, 129], 1, true).range(0, -4.0, -0.6)];
        for log in [false, true] {
            let sizes: [(&[usize], usize); 9] = [
                (&[1], 0),
                (&[7, 5], 1),
                (&[3, 33, 37], 1),
                (&[5, 3, 257], 1),
                (&[67, 5], 0),
                (&[2, 5003], 1),
                (&[3, 28], 1),
                (&[5, 260], 1),
                (&[3, 8228], 1),
            ];
            cases.extend(sizes.map(|(dims, axis)| case(dims, axis, log)));
        }
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn cpu() {
        checks::cpu::<SoftmaxGrad>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<SoftmaxGrad>();
    }
}
