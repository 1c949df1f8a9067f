//! ln Σ eˣ along an axis: a smooth maximum.
//!
//! `y = m + ln Σ e^(x − m)` with `m = max x`. Subtracting m keeps every power in range. As in softmax, the term of the maximum
//! itself is exactly 1 and is left out of the sum. The gradient of this op is the softmax.

use super::{
    lines::{Can, Lines},
    softmax::{defined, ends},
    *,
};
use crate::{
    kernel::{Bind, Which, source},
    scratch,
    threads::{TASK, chunk, chunks, lines},
};

/// The op. The output has the shape of x, but `axis` has size 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSumExp {
    /// The axis of the sum.
    pub axis: usize,
}

fn line(x: &[f32], inner: usize) -> f32 {
    let (m, _, log_s) = ends(x, inner);
    if m.is_infinite() { m } else { m + log_s }
}

impl OpDef for LogSumExp {
    const NAME: &'static str = "logsumexp";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        match self.axis < x.rank() && x.dtype() == DType::F32 {
            true => Ok(x.with(self.axis, 1)),
            false => Err(format!("takes floats that have an axis {}", self.axis)),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        for (i, y) in y.f.iter_mut().enumerate() {
            let (o, c) = (i / inner, i % inner);
            let (m, rest) = defined((0..n).map(|i| x[0].f[(o * n + i) * inner + c].f64()));
            *y = T::of(if m.is_infinite() { m } else { m + rest.ln_1p() });
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        if inner == 1 && n > 2 * TASK {
            // Long lines: a task is a part of a line. The result of a part has the form of an element, so a second `line` combines
            // the parts.
            return scratch::with(n.div_ceil(TASK), |parts: &mut [f32]| {
                for (x, y) in x[0].f.chunks(n).zip(&mut *y.f) {
                    chunks(parts, 1, |k, part| part[0] = line(chunk(x, TASK, k), 1));
                    *y = line(parts, 1);
                }
            });
        }
        let least = (TASK / n).max(1);
        lines(y.f, 1, least, |i, y| {
            let (o, c) = (i / inner, i % inner);
            y[0] = line(&x[0].f[o * n * inner + c..(o + 1) * n * inner], inner);
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // If all elements are −∞, a small change of one of them changes nothing. The gradient is 0 there.
        let nothing = y.lt(f32::MIN);
        vec![Some(nothing.where_(0.0, x[0].softmax(self.axis as isize) * dy))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let [outer, all, inner] = x[0].around(self.axis);
        let kernel = |fast: bool| {
            let (mut passes, mut scratch) = (Vec::new(), Vec::new());
            let (mut n, mut from) = (all, Which::In(0));
            loop {
                // The result of a chunk has the form of an element. So the next pass combines the chunks like elements.
                let lines = Lines::of(fast, [outer, n, inner], Can::Cut, caps);
                let to = if lines.chunks() == 1 { Which::Out } else { Which::Scratch(scratch.len()) };
                let binds = [
                    lines.full(Bind { which: from, ..Bind::input("x", 0, DType::F32) }),
                    lines.ones(Bind { which: to, ..Bind::output("y", DType::F32) }),
                ];
                passes.push(lines.pass(source!("softmax"), "log_sum", binds.into()));
                if lines.chunks() == 1 {
                    let name = Lines::of(fast, [outer, all, inner], Can::Cut, caps).name();
                    return Kernel { name, passes, scratch };
                }
                (n, from) = (lines.chunks(), to);
                scratch.push(outer * n * inner);
            }
        };
        super::reduce::distinct(kernel)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[self.axis]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        3 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], axis| {
            let x = Shape::new(dims).expect("at most six axes");
            Case::new(format!("{x} over {axis}"), LogSumExp { axis }, &[x])
        };
        let mut cases = vec![case(&[2, 3001], 1).range(0, -9.0, 9.0), case(&[7, 11], 1).range(0, 9990.0, 1e4)];
        let sizes: [(&[usize], usize); 11] = [
            (&[1], 0),
            (&[37, 10], 1),
            (&[3, 33, 37], 1),
            (&[67, 5], 0),
            (&[3, 28], 1),
            (&[5, 260], 1),
            (&[3, 8228], 1),
            (&[20_011], 0),
            (&[1_031, 70], 0),
            (&[2, 17_011], 1),
            (&[1 << 17], 0),
        ];
        cases.extend(sizes.map(|(dims, axis)| case(dims, axis)));
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn cpu() {
        checks::cpu::<LogSumExp>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<LogSumExp>();
    }
}
