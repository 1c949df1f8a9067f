//! Normalisation over the last axes, and its gradient. Layer, group, instance and RMS normalisation use it.
//!
//! `y = (x − m)·r` with `r = 1 / √(mean (x − m)² + eps)`. Each mean is over all axes from `start` on. m is the mean of x, or 0
//! without `centre`. The gradient is `dx = r·(dy − mean dy − y·mean(dy·y))`. Without `centre` the term `mean dy` is missing.

use super::{
    lines::{Can, Lines},
    moments::{Over, Statistics, sums},
    reduce::larger,
    *,
};
use crate::{
    kernel::{Bind, source},
    threads::{TASK, chunk, chunks},
};

/// The settings of both ops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOptions {
    /// The first of the normalised axes. The normalised axes are the last ones.
    pub start: usize,
    /// Whether the mean is subtracted.
    pub centre: bool,
    /// The number that is added to the variance. It keeps r finite.
    pub eps: f32,
}

/// The op of the normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm(pub NormOptions);

/// The op of the gradient: dy, x → dx. It computes the statistics again from x, which costs less than storing them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormGrad(pub NormOptions);

/// Lines that are longer than this are reduced by several workgroups. See [`Tensor::normalise`].
const LONG: usize = 1 << 15;
/// The same limit for lines whose elements cannot be loaded four at a time. A software adapter ends an invocation's loops after
/// 65,535 rounds, and lib/spread goes through a line up to five times.
const LONG_ODD: usize = 1 << 13;

/// The statistics of one line: `y = (x − first − shift)·r`.
struct Line {
    first: f64,
    shift: f64,
    r: f64,
}

impl Line {
    fn y(&self, x: f64) -> f64 {
        (x - self.first - self.shift) * self.r
    }
}

impl NormOptions {
    /// Returns the number of elements in a line.
    fn line(&self, x: Shape) -> usize {
        x.dims()[self.start..].iter().product()
    }
    /// Returns the axes for methods of [`Tensor`].
    fn axes(&self, x: Shape) -> Vec<isize> {
        (self.start..x.rank()).map(|a| a as isize).collect()
    }
    fn kept(&self, x: Shape) -> Shape {
        (self.start..x.rank()).fold(x, |s, a| s.with(a, 1))
    }
    fn check(&self, x: Shape) -> Result<Shape, String> {
        match x.dtype() {
            DType::U32 => Err("takes floats, not labels (see to_f32)".into()),
            _ if self.start > x.rank() => Err(format!("there is no axis {}", self.start)),
            _ => Ok(x),
        }
    }
    /// Returns the statistics of a line from the sums of x − first and of its square.
    fn finish(&self, first: f64, [s, q]: [f64; 2], n: usize) -> Line {
        let shift = if self.centre { s / n as f64 } else { 0.0 };
        Line { first, shift, r: 1.0 / (larger(q / n as f64 - shift * shift, 0.0) + f64::from(self.eps)).sqrt() }
    }
    /// Returns the number that is subtracted from each element first. The difference from the first element is exact in f64, so one
    /// reading gives both sums.
    fn first(&self, x: &[f32]) -> f64 {
        if self.centre { f64::from(x[0]) } else { 0.0 }
    }
    /// Returns the mean and r, by the definition.
    fn statistics<T: Real>(&self, x: &[T]) -> (f64, f64) {
        let n = x.len() as f64;
        let m = if self.centre { x.iter().map(|x| x.f64()).sum::<f64>() / n } else { 0.0 };
        let variance = x.iter().map(|x| (x.f64() - m).powi(2)).sum::<f64>() / n;
        (m, 1.0 / (variance + f64::from(self.eps)).sqrt())
    }
    fn kernels(&self, entry: &'static str, inputs: &[&str], x: Shape, caps: &Caps) -> Vec<Kernel> {
        let n = self.line(x);
        let kernel = |lines: Lines| {
            let inputs = inputs.iter().enumerate().map(|(i, &name)| Bind::input(name, i, DType::F32));
            let binds = inputs.chain([Bind::output("y", DType::F32)]).map(|bind| lines.full(bind)).collect();
            let mut pass = lines.pass(source!("norm"), entry, binds);
            pass.consts.push(("CENTRE", u32::from(self.centre).into()));
            pass.params.extend([("eps".to_string(), self.eps.into()), ("root_eps".to_string(), self.eps.sqrt().into())]);
            Kernel::one(lines.name(), pass)
        };
        Lines::all([x.elements() / n, n, 1], Can::Whole, caps).into_iter().map(kernel).collect()
    }
    /// Returns the op that computes the same statistics as a tensor.
    fn own(&self, x: Shape) -> Statistics {
        Statistics { over: Over { lead: 0, start: self.start, end: x.rank() }, centre: self.centre, eps: self.eps }
    }
    /// Returns sizes at and around the division of lines. `n = 2` is left out, because its gradients are rounding errors only.
    fn shapes() -> Vec<(&'static [usize], usize)> {
        vec![
            (&[1], 0),
            (&[7, 1], 1),
            (&[5, 3], 1),
            (&[13, 31], 1),
            (&[13, 32], 1),
            (&[13, 33], 1),
            (&[2, 3, 5, 11], 2),
            (&[11, 3, 85], 1),
            (&[3, 256], 1),
            (&[3, 257], 1),
            (&[3, 340], 1),
            (&[2, 8_228], 1),
            (&[2, 5_003], 1),
            (&[1_031, 129], 1),
        ]
    }
}

impl OpDef for Norm {
    const NAME: &'static str = "norm";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        self.0.check(*x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let n = self.0.line(x[0].shape);
        for (x, y) in x[0].f.chunks(n).zip(y.f.chunks_mut(n)) {
            let (m, r) = self.0.statistics(x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of((x.f64() - m) * r));
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let n = self.0.line(x[0].shape);
        let task = (TASK / n).max(1) * n;
        chunks(y.f, task, |k, y| {
            for (x, y) in chunk(x[0].f, task, k).chunks(n).zip(y.chunks_mut(n)) {
                let first = self.0.first(x);
                let both = sums(x, x, |x, _| {
                    let d = f64::from(x) - first;
                    [d, d * d]
                });
                let line = self.0.finish(first, both, n);
                y.iter_mut().zip(x).for_each(|(y, &x)| *y = line.y(f64::from(x)) as f32);
            }
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(NormGrad(self.0), &[dy, x[0]]))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        self.0.kernels("forward", &["x"], x[0], caps)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.0.line(x[0])
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        6 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], start: usize, centre: bool, eps: f32| {
            let x = Shape::new(dims).expect("at most six axes");
            let what = if centre { "" } else { " without the mean" };
            Case::new(format!("{x} from {start}{what}"), Norm(NormOptions { start, centre, eps }), &[x])
        };
        let mut cases = Vec::new();
        for (dims, start) in NormOptions::shapes() {
            cases.push(case(dims, start, true, 1e-5));
            // In a line of one element y is ±1. With a small eps its gradient is a rounding error.
            cases.push(case(dims, start, false, if dims.ends_with(&[1]) { 0.5 } else { 1e-5 }));
        }
        cases.push(case(&[5, 67], 1, true, 0.3));
        // The mean is 4,000 standard deviations from 0. Its rounding error has the size of the tolerance.
        cases.push(case(&[3, 257], 1, true, 1e-5).range(0, 4096.0, 4100.0));
        // A line of two elements is always ±1. The second case has many lines.
        cases.push(case(&[5, 2], 1, true, 1e-5).flat());
        cases.push(case(&[20_011, 3], 1, true, 1e-2).flat());
        cases
    }
}

impl OpDef for NormGrad {
    const NAME: &'static str = "norm_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [dy, x] = x else { return Err(format!("takes a gradient and an input, not {} inputs", x.len())) };
        match dy == x {
            true => self.0.check(*x),
            false => Err(format!("the gradient {dy} must have the shape of the input {x}")),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let n = self.0.line(x[1].shape);
        for ((dy, x), dx) in x[0].f.chunks(n).zip(x[1].f.chunks(n)).zip(y.f.chunks_mut(n)) {
            let (m, r) = self.0.statistics(x);
            let y = |x: &T| (x.f64() - m) * r;
            let a = if self.0.centre { dy.iter().map(|dy| dy.f64()).sum::<f64>() / n as f64 } else { 0.0 };
            let b = dy.iter().zip(x).map(|(dy, x)| dy.f64() * y(x)).sum::<f64>() / n as f64;
            for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
                *dx = T::of(r * (dy.f64() - a - y(x) * b));
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let n = self.0.line(x[1].shape);
        let task = (TASK / n).max(1) * n;
        chunks(y.f, task, |k, dx| {
            let (dy, x) = (chunk(x[0].f, task, k), chunk(x[1].f, task, k));
            for ((dy, x), dx) in dy.chunks(n).zip(x.chunks(n)).zip(dx.chunks_mut(n)) {
                let first = self.0.first(x);
                let [s, q, a, b] = sums(x, dy, |x, dy| {
                    let (d, dy) = (f64::from(x) - first, f64::from(dy));
                    [d, d * d, dy, dy * d]
                });
                let line = self.0.finish(first, [s, q], n);
                let b = (b - a * line.shift) * line.r / n as f64;
                let a = if self.0.centre { a / n as f64 } else { 0.0 };
                for ((dx, &dy), &x) in dx.iter_mut().zip(dy).zip(x) {
                    *dx = (line.r * (f64::from(dy) - a - line.y(f64::from(x)) * b)) as f32;
                }
            }
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, g: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // For each line Σ g·dx = n·r·(c − a·b). Here a = mean(g·y), b = mean(dy·y), and c is the covariance of g and dy.
        let (rule, graph, (dy, x)) = (self.0, g.graph, (x[0], x[1]));
        let (axes, kept) = (rule.axes(x.shape()), rule.kept(x.shape()));
        let (y, r) = (graph.apply(Norm(rule), &[x]), rule.own(x.shape()).r(x) * 0.25);
        let mean = |s: Tensor<'g>, t: Tensor<'g>| s.comoment(t, None, kept) * (1.0 / rule.line(x.shape()) as f32);
        let (a, b, c) = (mean(g, y), mean(dy, y), mean(g, dy));
        let c = if rule.centre { c - g.mean(&axes, true) * dy.mean(&axes, true) } else { c };
        let through_y = graph.apply(NormGrad(rule), &[-(g * b + dy * a) * r, x]);
        let through_r = y * ((a * b - c) * r.square());
        vec![Some(graph.apply(NormGrad(rule), &[g, x])), Some(through_y + through_r)]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        self.0.kernels("grad_x", &["dy", "x"], x[1], caps)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.0.line(x[1])
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        12 * x[0].elements() as u64
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::floats(x, &[(0, -2.0, 2.0), (1, -2.0, 2.0)])
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], start: usize, centre: bool, eps: f32| {
            let x = Shape::new(dims).expect("at most six axes");
            let what = if centre { "" } else { " without the mean" };
            Case::new(format!("{x} from {start}{what}"), NormGrad(NormOptions { start, centre, eps }), &[x, x])
        };
        let mut cases: Vec<Case> =
            NormOptions::shapes().iter().flat_map(|&(dims, start)| [true, false].map(|centre| case(dims, start, centre, 1e-2))).collect();
        cases.push(case(&[3, 257], 1, true, 1e-5).range(1, 4096.0, 4100.0).flat());
        cases.push(case(&[20_011, 3], 1, true, 1e-2).flat());
        cases
    }
}

impl<'g> Tensor<'g> {
    /// Returns (x − m) / √(mean (x − m)² + eps) over the axes from `start` on. m is the mean, or 0 without `centre`.
    ///
    /// Long lines are seldom many. So they use statistics that occupy more than one workgroup for each line.
    #[track_caller]
    pub(crate) fn normalise(self, rule: NormOptions) -> Tensor<'g> {
        let shape = self.shape();
        let line = rule.line(shape);
        if self.is_dead() || line <= if line.is_multiple_of(4) { LONG } else { LONG_ODD } {
            return self.apply(Norm(rule));
        }
        let _line = self.graph.line();
        rule.own(shape).normalised(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<Norm>();
        checks::cpu::<NormGrad>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Norm>();
        checks::wgsl::<NormGrad>();
    }
    #[test]
    fn mistakes() {
        let rule = NormOptions { start: 2, centre: true, eps: 1e-5 };
        checks::mistake(&|g| g.input([3]).apply(Norm(rule)), "norm: [3]: there is no axis 2 (src/ops/norm.rs:");
        checks::mistake(&|g| g.labels([3, 2]).apply(Norm(rule)), "norm: u32 [3, 2]: takes floats, not labels (see to_f32) (");
        checks::mistake(&|g| g.input([3]).apply(NormGrad(rule)), "norm_grad: [3]: takes a gradient and an input, not 1 inputs (");
        let two = |g: &'static Graph| g.apply(NormGrad(rule), &[g.input([3, 2, 1]), g.input([3, 2])]);
        let g: &'static Graph = Box::leak(Box::new(Graph::training()));
        assert!(two(g).is_dead());
    }
}
