//! Cross-entropy of logits and integer labels, one loss a row, and its gradient: each one kernel.
//!
//! `y[r] = ln Σ_j e^x[r,j] − x[r, label[r]]`, `dx[r,j] = dy[r] · (softmax(x)[r,j] − [j = label[r]])`. Both subtract the
//! row's maximum first and are right for logits of ±10⁴. What users call, with weights, smoothing and means, is in
//! [`crate::losses`].

use super::{lines::Lines, softmax::powers, *};
use crate::kernel::{Bind, source};
use rayon::prelude::*;

/// The losses: logits `[.., k]`, labels `[..]` → `[..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropy;

/// The gradient: logits `[.., k]`, labels `[..]`, dy `[..]` → dx `[.., k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropyGrad;

/// Whether the shapes are those of logits and labels.
pub(super) fn check(x: Shape, labels: Shape) -> Result<(), String> {
    if x.rank() == 0 || x.dtype() != DType::F32 {
        return Err("the first input must be floats, one for each class along the last axis".into());
    }
    if labels.dtype() != DType::U32 {
        return Err("the labels must be integers (Graph::labels), one a row".into());
    }
    let rows = x.without(x.rank() - 1);
    match rows.same_dims(labels) {
        true => Ok(()),
        false => Err(format!("the labels should have the shape {}, one for each row of the first input", rows.u32())),
    }
}

/// The class of a row. One that does not exist (an error before any batch runs) is the last one.
fn class(label: u32, k: usize) -> usize {
    (label as usize).min(k - 1)
}

fn loss<T: Real>(x: &[T], label: u32) -> T {
    let (m, s) = powers(x);
    (m - x[class(label, x.len())]) + T::of(s.ln())
}

fn gradient<T: Real>(x: &[T], label: u32, dy: T, dx: &mut [T]) {
    let (m, s) = powers(x);
    let scale = T::of(1.0 / s);
    dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = dy * ((x - m).vexp() * scale));
    let at = &mut dx[class(label, x.len())];
    *at = *at - dy;
}

/// Rows of one parallel task on the CPU device.
fn task(k: usize) -> usize {
    (8192 / k).max(1)
}

fn lines(x: Shape, caps: &Caps) -> Lines {
    Lines::new([x.elements() / x.last(), x.last(), 1], false, caps)
}

impl OpDef for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, labels] = x else { return Err(format!("takes logits and labels, not {} inputs", x.len())) };
        check(*x, *labels)?;
        Ok(labels.of(DType::F32))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let rows = x[0].f.chunks(x[0].shape.last());
        y.f.iter_mut().zip(rows).zip(x[1].u).for_each(|((y, x), &label)| *y = loss(x, label));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let k = x[0].shape.last();
        let rows = x[0].f.par_chunks(k).zip(x[1].u).with_min_len(task(k));
        y.f.par_iter_mut().zip(rows).for_each(|(y, (x, &label))| *y = loss(x, label));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(CrossEntropyGrad, &[x[0], x[1], dy])), None]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let lines = lines(x[0], caps);
        let binds = vec![
            lines.full(Bind::input("x", 0, DType::F32)),
            lines.ones(Bind::input("labels", 1, DType::U32)),
            lines.ones(Bind::output("y", DType::F32)),
        ];
        vec![Kernel::one("lines", lines.pass(source!("cross_entropy"), "forward", binds))]
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].last()
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        3 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize]| {
            let x = Shape::new(dims).expect("at most six axes");
            let rows = x.without(x.rank() - 1);
            Case::new(format!("{rows} rows of {}", x.last()), CrossEntropy, &[x, rows]).labels(1, x.last())
        };
        let mut cases: Vec<Case> = [&[1][..], &[1, 1], &[37, 10], &[5, 32], &[5, 33], &[3, 2, 257], &[2, 3001], &[20_011, 3], &[9, 70]].map(case).into();
        cases.push(case(&[4_100, 60]).range(0, -3.0, 3.0));
        cases.push(case(&[11, 7]).range(0, -1e4, 1e4));
        cases
    }
}

impl OpDef for CrossEntropyGrad {
    const NAME: &'static str = "cross_entropy_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, labels, dy] = x else { return Err(format!("takes logits, labels and a gradient, not {} inputs", x.len())) };
        check(*x, *labels)?;
        match dy.same_dims(*labels) && dy.dtype() == DType::F32 {
            true => Ok(*x),
            false => Err(format!("the gradient has the shape {dy} instead of {}", labels.of(DType::F32))),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let k = x[0].shape.last();
        for (r, (x0, dx)) in x[0].f.chunks(k).zip(y.f.chunks_mut(k)).enumerate() {
            gradient(x0, x[1].u[r], x[2].f[r], dx);
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let k = x[0].shape.last();
        let rows = x[0].f.par_chunks(k).zip(x[1].u).zip(x[2].f).with_min_len(task(k));
        y.f.par_chunks_mut(k).zip(rows).for_each(|(dx, ((x, &label), &dy))| gradient(x, label, dy, dx));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, d: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let [x, labels, dy] = [x[0], x[1], x[2]];
        let (p, u) = (x.softmax(-1), d * dy.unsqueeze(-1));
        let dx = p * (u - (p * u).sum(&[-1], true));
        vec![Some(dx), None, Some((d * p).sum(&[-1], false) - d.pick(labels))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let lines = lines(x[0], caps);
        let binds = vec![
            lines.full(Bind::input("x", 0, DType::F32)),
            lines.ones(Bind::input("labels", 1, DType::U32)),
            lines.ones(Bind::input("dy", 2, DType::F32)),
            lines.full(Bind::output("dx", DType::F32)),
        ];
        vec![Kernel::one("lines", lines.pass(source!("cross_entropy"), "grad_x", binds))]
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].last()
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        4 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |rows: usize, k: usize| {
            let op = Case::new(format!("{rows} rows of {k}"), CrossEntropyGrad, &[[rows, k].into(), [rows].into(), [rows].into()]);
            op.labels(1, k)
        };
        vec![case(1, 1), case(37, 10), case(5, 33), case(2, 1031), case(11, 7).range(0, -1e4, -9990.0), case(11, 7).range(0, -1e4, 1e4).flat()]
    }
}

impl<'g> Tensor<'g> {
    /// The cross-entropy of logits `[.., k]` and labels `[..]` below k, one for each row.
    #[track_caller]
    pub(crate) fn cross_entropy_rows(self, labels: Tensor<'g>) -> Tensor<'g> {
        let y = self.graph.apply(CrossEntropy, &[self, labels]);
        if !y.is_dead() {
            self.graph.require_classes(labels, self.shape().last());
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<CrossEntropy>();
        checks::cpu::<CrossEntropyGrad>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<CrossEntropy>();
        checks::wgsl::<CrossEntropyGrad>();
    }
    #[test]
    fn mistakes() {
        let g = Graph::training();
        assert!(g.input([4, 10]).cross_entropy_rows(g.labels([4, 1])).is_dead());
        let text = g.error().map_or(String::new(), |e| e.to_string());
        let want = "cross_entropy: [4, 10] × u32 [4, 1]: the labels should have the shape u32 [4], one for each row of the first input (src/ops/";
        assert!(text.starts_with(want), "{text}");
    }
}
