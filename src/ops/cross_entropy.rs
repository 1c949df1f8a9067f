//! Cross-entropy of logits and integer labels, one loss for each row, and its gradient. Each is one kernel.
//!
//! `y[r] = ln Σ_j e^x[r,j] − x[r, label[r]]`, `dx[r,j] = dy[r] · (softmax(x)[r,j] − [j = label[r]])`. Both subtract the row's
//! maximum first and are accurate for logits of ±10⁴. Both sum the powers of the other classes without the power of the label. So a
//! confident row has the accurate loss ln(1 + Σ of the others). The gradient of its label, p − 1, is −Σ of the others' p.
//!
//! If the label of a row is ignored, the loss and the gradient of the row are 0 for all logits. If dy of a row is 0, its gradient
//! is 0. If a label is neither a class nor ignored, its row is NaN. Users call this op through [`crate::losses`], which adds
//! weights, smoothing and means.

use super::{
    lines::{Can, Lines},
    pick::Pick,
    softmax::{defined, powers},
    *,
};
use crate::{
    graph::Below,
    kernel::{Bind, source},
    simd::wide,
    threads::{chunk, lines},
};

/// The op of the losses: logits `[.., k]`, labels `[..]` → `[..]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrossEntropy {
    /// The label that is ignored.
    pub ignored: Option<u32>,
}

/// The op of the gradient: logits `[.., k]`, labels `[..]`, dy `[..]` → dx `[.., k]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrossEntropyGrad {
    /// The label that is ignored.
    pub ignored: Option<u32>,
}

/// Checks that the shapes are those of logits and labels.
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

/// Returns the largest logit m of a row, x − m for the label, and the sum of e^(x − m) over the other classes, on the CPU device.
fn row(x: &[f32], label: u32) -> (f32, f32, f64) {
    let (m, others) = powers(x, |_| label as usize);
    (m, x.get(label as usize).map_or(f32::NAN, |&own| own - m), others)
}

fn loss(x: &[f32], label: u32, ignored: Option<u32>) -> f32 {
    if ignored == Some(label) {
        return 0.0;
    }
    let (_, z, others) = row(x, label);
    // z is exact if the two logits are large and close to each other. If the label's logit is the largest, e^z − 1 is 0. Otherwise
    // the sum of the others is at least 1.
    ((others + (f64::from(z.vexp()) - 1.0)) as f32).ln_1p() - z
}

fn gradient(x: &[f32], label: u32, dy: f32, ignored: Option<u32>, dx: &mut [f32]) {
    if ignored == Some(label) || dy == 0.0 {
        return dx.fill(0.0);
    }
    let (m, z, others) = row(x, label);
    let s = others + f64::from(z.vexp());
    let scale = (1.0 / s) as f32;
    wide(
        #[inline(always)]
        || dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = dy * ((x - m).vexp() * scale)),
    );
    if let Some(own) = dx.get_mut(label as usize) {
        *own = -dy * (others / s) as f32;
    }
}

/// Returns the number of rows in one parallel task on the CPU device.
fn task(k: usize) -> usize {
    (8192 / k).max(1)
}

/// Returns kernels of one pass over the rows of x. `binds` returns the bindings.
fn kernels(x: Shape, caps: &Caps, entry: &'static str, ignored: Option<u32>, binds: impl Fn(&Lines) -> Vec<Bind>) -> Vec<Kernel> {
    let kernel = |lines: Lines| {
        let mut pass = lines.pass(source!("cross_entropy"), entry, binds(&lines));
        pass.consts.extend([("IGNORES", u32::from(ignored.is_some()).into()), ("IGNORED", ignored.unwrap_or(0).into())]);
        Kernel::one(lines.name(), pass)
    };
    Lines::all([x.elements() / x.last(), x.last(), 1], Can::Whole, caps).into_iter().map(kernel).collect()
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
        for ((y, x), &label) in y.f.iter_mut().zip(rows).zip(x[1].u) {
            let (m, rest) = defined(x.iter().map(|x| x.f64()));
            let own = x.get(label as usize).map_or(f64::NAN, |x| x.f64());
            *y = T::of(if self.ignored == Some(label) { 0.0 } else { rest.ln_1p() - (own - m) });
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let k = x[0].shape.last();
        lines(y.f, 1, task(k), |row, y| y[0] = loss(chunk(x[0].f, k, row), x[1].u[row], self.ignored));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let grad = CrossEntropyGrad { ignored: self.ignored };
        vec![Some(dy.graph.apply(grad, &[x[0], x[1], dy])), None]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let binds = |lines: &Lines| {
            let [labels, y] = [Bind::input("labels", 1, DType::U32), Bind::output("y", DType::F32)];
            vec![lines.full(Bind::input("x", 0, DType::F32)), lines.ones(labels), lines.ones(y)]
        };
        kernels(x[0], caps, "forward", self.ignored, binds)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].last()
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        3 * x[0].elements() as u64
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, x[0].last())
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize]| {
            let x = Shape::new(dims).expect("at most six axes");
            let rows = x.without(x.rank() - 1);
            Case::new(format!("{rows} rows of {}", x.last()), CrossEntropy::default(), &[x, rows])
        };
        // One label is ignored. It is a class, or it is above the classes. The labels go up to it.
        let ignoring = |rows: usize, k: usize, ignored: u32| {
            let op = CrossEntropy { ignored: Some(ignored) };
            Case::new(format!("{rows} rows of {k}, {ignored} ignored"), op, &[[rows, k].into(), [rows].into()])
                .labels(1, k.max(ignored as usize + 1))
        };
        let mut cases: Vec<Case> =
            [&[1][..], &[1, 1], &[37, 10], &[5, 32], &[5, 33], &[3, 2, 257], &[2, 3001], &[20_011, 3], &[9, 70], &[3, 260], &[3, 8228]]
                .map(case)
                .into();
        cases.push(case(&[4_100, 60]).range(0, -3.0, 3.0));
        cases.extend([ignoring(37, 10, 10), ignoring(40, 5, 0), ignoring(90, 33, 33), ignoring(70, 64, 2), ignoring(13, 1, 1)]);
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
            let (label, dy) = (x[1].u[r], x[2].f[r].f64());
            let (m, rest) = defined(x0.iter().map(|x| x.f64()));
            let p = |j: usize| if label as usize >= k { f64::NAN } else { (x0[j].f64() - m).exp() / (1.0 + rest) };
            for (j, dx) in dx.iter_mut().enumerate() {
                let slope = if j == label as usize { -(0..k).filter(|&i| i != j).map(p).sum::<f64>() } else { p(j) };
                *dx = T::of(if self.ignored == Some(label) || dy == 0.0 { 0.0 } else { dy * slope });
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let k = x[0].shape.last();
        lines(y.f, k, task(k), |row, dx| gradient(chunk(x[0].f, k, row), x[1].u[row], x[2].f[row], self.ignored, dx));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, d: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let [x, labels, dy] = [x[0], x[1], x[2]];
        let (p, u) = (x.softmax(-1), d * dy.unsqueeze(-1));
        let dx = p * (u - (p * u).sum(&[-1], true));
        // The loss checks the labels, because it knows which label is ignored. So no check is needed here.
        let ddy = (d * p).sum(&[-1], false) - d.graph.apply(Pick, &[d, labels]);
        let kept = self.ignored.map(|label| labels.is_not(label));
        let [dx, ddy] = [kept.map_or(dx, |k| k.unsqueeze(-1).where_(dx, 0.0)), kept.map_or(ddy, |k| k.where_(ddy, 0.0))];
        vec![Some(dx), None, Some(ddy)]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let binds = |lines: &Lines| {
            let [x, dx] = [Bind::input("x", 0, DType::F32), Bind::output("dx", DType::F32)].map(|bind| lines.full(bind));
            let [labels, dy] = [Bind::input("labels", 1, DType::U32), Bind::input("dy", 2, DType::F32)].map(|bind| lines.ones(bind));
            vec![x, labels, dy, dx]
        };
        kernels(x[0], caps, "grad_x", self.ignored, binds)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].last()
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        4 * x[0].elements() as u64
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, x[0].last())
    }
    fn cases() -> Vec<Case> {
        let case = |rows: usize, k: usize| {
            Case::new(format!("{rows} rows of {k}"), CrossEntropyGrad::default(), &[[rows, k].into(), [rows].into(), [rows].into()])
        };
        let ignoring = |rows: usize, k: usize, ignored: u32| {
            let op = CrossEntropyGrad { ignored: Some(ignored) };
            Case::new(format!("{rows} rows of {k}, {ignored} ignored"), op, &[[rows, k].into(), [rows].into(), [rows].into()])
                .labels(1, k.max(ignored as usize + 1))
        };
        vec![
            ignoring(37, 10, 10),
            ignoring(40, 5, 0),
            ignoring(90, 33, 33),
            ignoring(13, 64, 2),
            case(1, 1),
            case(37, 10),
            case(5, 33),
            case(7, 28),
            case(3, 260),
            case(3, 4100),
            case(2, 1031),
            case(11, 7).range(0, -1e4, -9990.0),
            case(11, 7).range(0, -1e4, 1e4).flat(),
        ]
    }
}

impl<'g> Tensor<'g> {
    /// Returns the cross-entropy of logits `[.., k]` and labels `[..]` below k, one for each row. It is 0 for the ignored label.
    #[track_caller]
    pub(crate) fn cross_entropy_rows(self, labels: Tensor<'g>, ignored: Option<u32>) -> Tensor<'g> {
        let y = self.graph.apply(CrossEntropy { ignored }, &[self, labels]);
        if !y.is_dead() {
            self.graph.require(labels, Below { count: self.shape().last(), table: None, least: None, ignored });
        }
        y
    }
    /// Returns 1 for each label that differs from `label`, else 0.
    #[track_caller]
    pub(crate) fn is_not(self, label: u32) -> Tensor<'g> {
        // Floats represent all whole numbers up to this limit. There are no classes beyond it, but the ignored label may lie there.
        const EXACT: u32 = 1 << 24;
        if label < EXACT { self.ne(label as f32) } else { self.lt(EXACT as f32) }
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
        assert!(g.input([4, 10]).cross_entropy_rows(g.labels([4, 1]), None).is_dead());
        let text = g.error().map_or(String::new(), |e| e.to_string());
        let want =
            "cross_entropy: [4, 10] × u32 [4, 1]: the labels should have the shape u32 [4], one for each row of the first input (src/ops/";
        assert!(text.starts_with(want), "{text}");
    }
}
