//! The loss of connectionist temporal classification (CTC), for sequences without an alignment (Graves et al. 2006).
//!
//! A path has a class for each time step. It spells a sequence of targets if the targets remain after repeated classes are merged
//! and blanks are removed. The loss is −ln of the sum of the probabilities of all paths that spell the targets. Its gradient for
//! the log-probability of class k in step i is minus the share of these paths that is at class k in step i.

use super::*;
use crate::{
    graph::Below,
    kernel::{Bind, Pass, source},
    scratch,
    threads::{chunk, lines},
};
use std::panic::Location;

/// The op: log-probabilities `[n, t, classes]`, info u32 `[n, 2 + s]` → `[n]`. A row of the info has the number of absent steps,
/// the number of absent targets, and the targets. Absent ones are at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctc {
    /// The class that stands for no target.
    pub blank: u32,
}

/// The share of the paths that is at each class in each step: log-probabilities `[n, t, classes]`, info u32 `[n, 2 + s]` → `[n,
/// t, classes]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtcShare {
    /// The class that stands for no target.
    pub blank: u32,
}

/// The logarithm of 0, and a limit below which a number counts as such.
const NONE: f64 = -1e30;
const LOW: f64 = -5e29;

/// Checks the inputs, and returns `[n, t, classes, s]`.
fn sizes(x: &[Shape], blank: u32) -> Result<[usize; 4], String> {
    let &[lp, info] = x else { return Err(format!("takes log-probabilities and targets, not {} inputs", x.len())) };
    let (&[n, t, c], &[rows, width]) = (lp.dims(), info.dims()) else {
        return Err("the log-probabilities must be [n, t, classes], and the targets [n, s]".into());
    };
    if lp.dtype() != DType::F32 || info.dtype() != DType::U32 {
        return Err("takes log-probabilities as floats, and targets and lengths as integers (Graph::labels)".into());
    }
    if rows != n || width < 3 {
        return Err(format!("the targets must be [{n}, s]"));
    }
    if blank as usize >= c {
        return Err(format!("the blank is class {blank}, but there are {c} classes"));
    }
    Ok([n, t, c, width - 2])
}

/// One sample.
struct Sample<'a, T> {
    lp: &'a [T],
    targets: &'a [u32],
    blank: u32,
    classes: usize,
    steps: usize,
    states: usize,
    /// Whether the lengths are those of a part of the sequence.
    fits: bool,
}

impl<'a, T: Real> Sample<'a, T> {
    fn new(lp: &'a [T], info: &'a [u32], classes: usize, blank: u32) -> Self {
        let (t, targets, absent, missing) = (lp.len() / classes, &info[2..], info[0] as usize, info[1] as usize);
        let states = 2 * targets.len().saturating_sub(missing) + 1;
        Sample { lp, targets, blank, classes, steps: t.saturating_sub(absent), states, fits: absent <= t && missing <= targets.len() }
    }
    /// Returns the class of a state. The states are blank, target, blank, …, blank.
    fn class(&self, s: usize) -> usize {
        (if s % 2 == 1 { self.targets[s / 2] } else { self.blank }) as usize
    }
    /// Returns true if a path may come from state s − 2 to state s. Two different targets need no blank between them.
    fn skips(&self, s: usize) -> bool {
        s >= 2 && s % 2 == 1 && self.class(s) != self.class(s - 2)
    }
    fn log_p(&self, i: usize, s: usize) -> T {
        self.lp[i * self.classes..][..self.classes].get(self.class(s)).copied().unwrap_or(T::nan())
    }
    /// Writes the logarithms of the sums over all paths that end at each state in step i. They are scaled, and the logarithm of
    /// the scale is returned. `column` has these numbers of the step before.
    fn alpha(&self, i: usize, column: &mut [T]) -> T {
        for s in (0..self.states).rev() {
            let sum = match i {
                0 => T::of(if s < 2 { 0.0 } else { NONE }),
                _ => {
                    let one = if s >= 1 { column[s - 1] } else { T::of(NONE) };
                    let two = if self.skips(s) { column[s - 2] } else { T::of(NONE) };
                    add3(column[s], one, two)
                }
            };
            column[s] = larger(sum + self.log_p(i, s), T::of(NONE));
        }
        scale(&mut column[..self.states])
    }
    /// Moves the logarithms of the sums over all paths that start at each state, from step i + 1 to step i.
    fn beta(&self, i: usize, column: &mut [T]) {
        for s in 0..self.states {
            let behind = |s: usize, column: &[T]| column[s] + self.log_p(i + 1, s);
            let one = if s + 1 < self.states { behind(s + 1, column) } else { T::of(NONE) };
            let two = if s + 2 < self.states && self.skips(s + 2) { behind(s + 2, column) } else { T::of(NONE) };
            column[s] = larger(add3(behind(s, column), one, two), T::of(NONE));
        }
        scale(&mut column[..self.states]);
    }
    fn loss(&self, column: &mut [T]) -> T {
        let total = (0..self.steps).fold(T::zero(), |total, i| total + self.alpha(i, column));
        let none = T::of(NONE);
        let (last, before) = match self.steps {
            // Without a step there is one path, which spells nothing.
            0 => (if self.states == 1 { T::zero() } else { none }, none),
            _ => (column[self.states - 1], if self.states > 1 { column[self.states - 2] } else { none }),
        };
        match larger(last, before) {
            _ if !self.fits => T::nan(),
            m if m <= T::of(LOW) => T::infinity(),
            _ => -(total + add3(last, before, none)),
        }
    }
    /// Writes the shares. `columns` has a place for each state in each step, and one column more.
    fn share(&self, columns: &mut [T], y: &mut [T]) {
        let size = 2 * self.targets.len() + 1;
        y.fill(T::zero());
        for i in 0..self.steps {
            if i > 0 {
                columns.copy_within((i - 1) * size..i * size, i * size);
            }
            self.alpha(i, &mut columns[i * size..][..size]);
        }
        let (alphas, beta) = columns.split_at_mut(columns.len() - size);
        for i in (0..self.steps).rev() {
            match i + 1 == self.steps {
                true => (0..self.states).for_each(|s| beta[s] = T::of(if s + 2 >= self.states { 0.0 } else { NONE })),
                false => self.beta(i, beta),
            }
            let alpha = &alphas[i * size..][..self.states];
            let m = alpha.iter().zip(&*beta).fold(T::of(NONE), |m, (&a, &b)| larger(m, a + b));
            if m <= T::of(LOW) {
                continue;
            }
            let sum = alpha.iter().zip(&*beta).fold(T::zero(), |sum, (&a, &b)| sum + (a + b - m).exp());
            let row = &mut y[i * self.classes..][..self.classes];
            for s in 0..self.states {
                if let Some(y) = row.get_mut(self.class(s)) {
                    *y += (alpha[s] + beta[s] - m).exp() / sum;
                }
            }
        }
    }
}

/// Returns the larger number, or NaN if one of them is NaN.
fn larger<T: Real>(a: T, b: T) -> T {
    if a >= b || a.is_nan() { a } else { b }
}

/// Returns ln(eᵃ + eᵇ + eᶜ).
fn add3<T: Real>(a: T, b: T, c: T) -> T {
    let m = larger(larger(a, b), c);
    if m <= T::of(LOW) { T::of(NONE) } else { m + ((a - m).exp() + (b - m).exp() + (c - m).exp()).ln() }
}

/// Takes the largest number of a column from all of it, and returns it. Returns 0 if there is no path.
fn scale<T: Real>(column: &mut [T]) -> T {
    let m = column.iter().fold(T::of(NONE), |m, &x| larger(m, x));
    if m <= T::of(LOW) {
        return T::zero();
    }
    column.iter_mut().for_each(|x| *x = larger(*x - m, T::of(NONE)));
    m
}

/// Returns a kernel. A unit is a sample, which has `columns` numbers of scratch memory.
fn kernel(entry: &'static str, x: &[Shape], y: (&'static str, Shape), blank: u32, columns: usize, caps: &Caps) -> Kernel {
    let wg = caps.workgroup(64);
    let ([n, t, c], width) = ([0, 1, 2].map(|k| x[0].dims()[k]), x[1].last());
    let pass = Pass {
        source: source!("ctc"),
        entry,
        consts: vec![("WG", wg.into()), ("BLANK", blank.into())],
        params: [("t", t), ("c", c), ("s", width - 2)].map(|(name, x)| (name.to_string(), x.into())).into(),
        binds: vec![
            Bind::input("lp", 0, DType::F32).per_unit(t * c),
            Bind::input("info", 1, DType::U32).per_unit(width),
            Bind::scratch("column", 0).written().per_unit(columns),
            Bind::output(y.0, DType::F32).per_unit(y.1.elements() / n),
        ],
        code: String::new(),
        units: n,
        per_group: wg,
        step: false,
    };
    Kernel { name: "samples", passes: vec![pass], scratch: vec![n * columns] }
}

/// Returns the shapes of a case whose targets fit into the sequence even if `classes − 1` steps and no target are absent.
fn shapes(n: usize, s: usize, classes: usize, more: usize) -> [Shape; 2] {
    [[n, 2 * s + classes + more, classes].into(), [n, s + 2].into()]
}

/// Sizes to test: samples, targets, classes, and the steps beyond those that are needed.
const SIZES: [[usize; 4]; 7] = [[1, 1, 2, 0], [2, 1, 3, 0], [3, 2, 2, 1], [2, 3, 4, 2], [65, 2, 3, 0], [5, 7, 3, 4], [2, 20, 5, 11]];

impl OpDef for Ctc {
    const NAME: &'static str = "ctc";

    fn called(&self) -> &'static str {
        "ctc_loss"
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [n, ..] = sizes(x, self.blank)?;
        Ok(Shape::from([n]))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let (classes, width) = (x[0].shape.last(), x[1].shape.last());
        let mut column = vec![T::zero(); 2 * (width - 2) + 1];
        for ((y, lp), info) in y.f.iter_mut().zip(x[0].f.chunks(x[0].f.len() / x[0].shape.dims()[0])).zip(x[1].u.chunks(width)) {
            *y = Sample::new(lp, info, classes, self.blank).loss(&mut column);
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let (classes, width) = (x[0].shape.last(), x[1].shape.last());
        let each = x[0].f.len() / x[0].shape.dims()[0];
        lines(y.f, 1, 1, |r, y| {
            let sample = Sample::new(chunk(x[0].f, each, r), chunk(x[1].u, width, r), classes, self.blank);
            scratch::with(2 * (width - 2) + 1, |column| y[0] = sample.loss(column));
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let share = dy.graph.apply(CtcShare { blank: self.blank }, x);
        vec![Some(-(share * dy.unsqueeze(-1).unsqueeze(-1))), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        vec![kernel("forward", x, ("y", y), self.blank, 2 * (x[1].last() - 2) + 1, caps)]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        (x[0].dims()[0] * x[0].dims()[1] * x[1].last() * 16) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[1] * x[1].last()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        let mut fills = Fill::labelled(x, x[0].last());
        fills[0] = Fill::Range(-3.0, -0.1);
        fills
    }
    fn cases() -> Vec<Case> {
        let case = |[n, s, classes, more]: [usize; 4]| {
            let x = shapes(n, s, classes, more);
            let blank = classes as u32 / 2;
            Case::new(format!("{} with {s} targets, blank {blank}", x[0]), Ctc { blank }, &x)
        };
        SIZES.map(case).into()
    }
}

impl OpDef for CtcShare {
    const NAME: &'static str = "ctc_share";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        sizes(x, self.blank)?;
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let ([n, t, classes], width) = ([0, 1, 2].map(|k| x[0].shape.dims()[k]), x[1].shape.last());
        let mut columns = vec![T::zero(); (t + 1) * (2 * (width - 2) + 1)];
        let each = y.f.len() / n;
        for ((y, lp), info) in y.f.chunks_mut(each).zip(x[0].f.chunks(each)).zip(x[1].u.chunks(width)) {
            Sample::new(lp, info, classes, self.blank).share(&mut columns, y);
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let ([n, t, classes], width) = ([0, 1, 2].map(|k| x[0].shape.dims()[k]), x[1].shape.last());
        let each = y.f.len() / n;
        lines(y.f, each, 1, |r, y| {
            let sample = Sample::new(chunk(x[0].f, each, r), chunk(x[1].u, width, r), classes, self.blank);
            scratch::with((t + 1) * (2 * (width - 2) + 1), |columns| sample.share(columns, y));
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, _dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let why = "the gradient of this loss has no gradient of its own".to_string();
        vec![Some(y.graph.mistake("ctc_loss", x, why, y.place())), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let columns = (x[0].dims()[1] + 1) * (2 * (x[1].last() - 2) + 1);
        vec![kernel("share", x, ("dx", y), self.blank, columns, caps)]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        (x[0].dims()[0] * x[0].dims()[1] * x[1].last() * 48) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].dims()[1] * x[1].last()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        OpDef::fills(&Ctc { blank: self.blank }, x)
    }
    fn cases() -> Vec<Case> {
        let case = |[n, s, classes, more]: [usize; 4]| {
            let x = shapes(n, s, classes, more);
            let blank = classes as u32 / 2;
            Case::new(format!("{} with {s} targets, blank {blank}", x[0]), CtcShare { blank }, &x).flat()
        };
        SIZES.map(case).into()
    }
}

impl<'g> Tensor<'g> {
    /// Returns the loss of connectionist temporal classification of every sample, `[n]` (Graves et al. 2006). This tensor has
    /// log-probabilities `[n, t, classes]`, for example from [`log_softmax`](Tensor::log_softmax). The targets are labels `[n,
    /// s]`, and the lengths are integers `[n]`: the first `input_lengths[r]` steps and the first `target_lengths[r]` targets of
    /// sample r count. It is PyTorch's `F.ctc_loss` with `reduction="none"`, but samples come first. PyTorch's mean divides each
    /// loss by the number of its targets first.
    ///
    /// If no path spells the targets, because there are too few steps, the loss is infinite and its gradient is 0. `blank` must
    /// not be a target. The gradient cannot be differentiated again.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let logits = g.input([1, 2, 3]);
    /// let loss = logits.log_softmax(-1).ctc_loss(g.labels([1, 1]), g.labels([1]), g.labels([1]), 0);
    /// let mut f = Device::cpu().compile(&[loss])?;
    /// let [target, steps, targets] = [Host::labels([1, 1], vec![2]), Host::labels([1], vec![2]), Host::labels([1], vec![1])];
    /// // The paths are 2 2, 0 2 and 2 0. Each has the probability 1/9.
    /// let y = f.run(&[Host::new([1, 2, 3], vec![0.0; 6]), target, steps, targets])?;
    /// assert!((y[0].f()[0] - 3f32.ln()).abs() < 1e-6);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if the shapes do not fit, or if `blank` is not a class. A wrong label or length from the host is an error
    /// before anything runs.
    #[track_caller]
    pub fn ctc_loss(self, targets: Tensor<'g>, input_lengths: Tensor<'g>, target_lengths: Tensor<'g>, blank: u32) -> Tensor<'g> {
        let (x, place, _line) = (self.shape(), Location::caller(), self.graph.line());
        let all = [self, targets, input_lengths, target_lengths];
        if all.iter().any(|t| t.is_dead()) {
            return self.graph.dead();
        }
        let n = x.dims().first().copied().unwrap_or(1);
        let rows = [input_lengths, target_lengths].iter().all(|l| l.shape() == Shape::from([n]).u32());
        if x.rank() != 3 || targets.shape().rank() != 2 || targets.shape().dtype() != DType::U32 || !rows {
            let why = format!("takes log-probabilities [n, t, classes], labels [n, s] and two tensors of lengths [{n}], all integers");
            return self.graph.mistake("ctc_loss", &all, why, place);
        }
        let (t, s) = (x.dims()[1], targets.shape().last());
        // An op takes few tensors, so the lengths lie beside the targets.
        let absent = |of: usize, lengths: Tensor<'g>| (of as f32 - lengths.to_f32()).to_index().unsqueeze(1);
        let info = absent(t, input_lengths).concat(&[absent(s, target_lengths), targets], 1);
        let y = self.graph.apply(Ctc { blank }, &[self, info]);
        if !y.is_dead() {
            self.graph.require_classes(targets, x.last());
            for (lengths, most) in [(input_lengths, t), (target_lengths, s)] {
                self.graph.require(lengths, Below::lengths("ctc_loss", 0, most));
            }
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<Ctc>();
        checks::cpu::<CtcShare>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Ctc>();
        checks::wgsl::<CtcShare>();
    }
    #[test]
    fn mistakes() {
        let g = Graph::training();
        let lengths = g.labels([2]);
        assert!(g.input([2, 5, 3]).ctc_loss(g.labels([2, 2]), lengths, lengths, 3).is_dead());
        let e = g.error().map_or(String::new(), |e| e.to_string());
        assert!(e.starts_with("ctc_loss: [2, 5, 3] × u32 [2, 4]: the blank is class 3, but there are 3 classes (src/ops/ctc.rs:"), "{e}");
        let g = Graph::training();
        let lengths = g.labels([2]);
        assert!(g.input([2, 5, 3]).ctc_loss(g.input([2, 2]), lengths, lengths, 0).is_dead());
        let e = g.error().map_or(String::new(), |e| e.to_string());
        assert!(e.starts_with("ctc_loss: [2, 5, 3] × [2, 2] × u32 [2] × u32 [2]: takes log-probabilities [n, t, classes], labels"), "{e}");
        // A second derivative.
        let g = Graph::training();
        let (x, lengths) = (g.input([2, 5, 3]), g.labels([2]));
        let dx = x.ctc_loss(g.labels([2, 2]), lengths, lengths, 0).sum_all().grad(&[x])[0];
        assert!(dx.square().sum_all().grad(&[x])[0].is_dead());
        let e = g.error().map_or(String::new(), |e| e.to_string());
        assert!(e.contains("the gradient of this loss has no gradient of its own (src/ops/ctc.rs:"), "{e}");
    }
    #[test]
    fn without_a_path() {
        let g = Graph::training();
        let (x, steps, targets) = (g.input([4, 3, 2]), g.labels([4]), g.labels([4]));
        let y = x.ctc_loss(g.labels([4, 2]), steps, targets, 0);
        let mut f = Device::cpu().compile(&[y, y.vjp(g.full([4], 1.0), &[x])[0]]).unwrap();
        let lp = Host::new([4, 3, 2], vec![0.5f32.ln(); 24]);
        let labels = Host::labels([4, 2], vec![1; 8]);
        // Three steps spell 1 1 in one way. Two steps do not. No step spells nothing, and no target.
        let feed = |steps: [u32; 4], targets: [u32; 4]| {
            [lp.clone(), Host::labels([4], steps.to_vec()), Host::labels([4], targets.to_vec()), labels.clone()]
        };
        let y = f.run(&feed([3, 2, 0, 0], [2, 2, 0, 1])).unwrap();
        let (inf, dx) = (f32::INFINITY, y[1].f());
        assert!((y[0].f()[0] - 3.0 * 2f32.ln()).abs() < 1e-6, "{:?}", y[0]);
        assert_eq!(y[0].f()[1..], [inf, 0.0, inf]);
        assert_eq!(dx[..6], [0.0, -1.0, -1.0, 0.0, 0.0, -1.0]);
        assert!(dx[6..].iter().all(|&d| d == 0.0), "{dx:?}");
        // Lengths that do not fit.
        let mut error = |steps, targets| f.run(&feed(steps, targets)).unwrap_err().to_string();
        let e = error([3, 4, 0, 0], [2, 2, 0, 1]);
        assert_eq!(e, "ctc_loss: sample 1 has the length 4, but lengths must be from 0 to 3");
        let e = error([3, 2, 0, 0], [2, 2, 3, 1]);
        assert_eq!(e, "ctc_loss: sample 2 has the length 3, but lengths must be from 0 to 2");
    }
}
