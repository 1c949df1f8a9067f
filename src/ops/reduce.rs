//! Sums, means, maxima and minima over axes. The method `logsumexp` is here, too; its op reduces one axis.
//!
//! `y[o,c] = fold_i x[o,i,c]`. `i` runs over one block of adjacent axes, `o` over the axes before the block, and `c` over the axes
//! behind it. Axes that are not adjacent form several blocks. They are reduced one after the other, the last block first.

use super::{
    lines::{Can, Lines},
    logsumexp::LogSumExp,
    *,
};
use crate::{
    error::Place,
    kernel::{Bind, Pass, Which, source},
    scratch,
    simd::wide,
    threads::{LIGHT_TASK, chunk, chunks},
};
use std::{ops::Range, panic::Location};

/// The operation that combines elements. An extremum is NaN if one of the elements is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Σ x.
    Sum,
    /// Σ x / n.
    Mean,
    /// The largest element.
    Max,
    /// The smallest element.
    Min,
}

/// Reduces the adjacent axes `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduce {
    /// The operation that combines the elements.
    pub fold: Fold,
    /// The first axis that is reduced.
    pub start: usize,
    /// The first axis behind the reduced axes.
    pub end: usize,
    /// Whether the reduced axes stay, with size 1.
    pub keepdim: bool,
}

/// Returns the larger number. Returns NaN if one of the numbers is NaN.
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
}
fn smaller(a: f64, b: f64) -> f64 {
    if a <= b || a.is_nan() { a } else { b }
}

impl Fold {
    /// Returns the name of the method.
    fn name(self) -> &'static str {
        ["sum", "mean", "max", "min"][self as usize]
    }
    fn adds(self) -> bool {
        matches!(self, Fold::Sum | Fold::Mean)
    }
    /// Returns the value that folding starts from.
    fn neutral(self) -> f64 {
        match self {
            Fold::Sum | Fold::Mean => 0.0,
            Fold::Max => f64::NEG_INFINITY,
            Fold::Min => f64::INFINITY,
        }
    }
    fn fold(self, a: f64, x: f64) -> f64 {
        match self {
            Fold::Sum | Fold::Mean => a + x,
            Fold::Max => larger(a, x),
            Fold::Min => smaller(a, x),
        }
    }
    fn finish(self, a: f64, n: usize) -> f64 {
        if self == Fold::Mean { a / n as f64 } else { a }
    }
    /// Folds the rows of `x [m, a.len()]` into `a`. Each row starts `pitch` elements behind the start of the row before it.
    fn rows(self, x: &[f32], pitch: usize, a: &mut [f64]) {
        // The choice is made outside of the loops, so that they vectorise.
        match self {
            Fold::Sum | Fold::Mean => rows(x, pitch, a, 0.0, |a, x| a + x),
            Fold::Max => rows(x, pitch, a, f64::NEG_INFINITY, larger),
            Fold::Min => rows(x, pitch, a, f64::INFINITY, smaller),
        }
    }
}

fn rows(x: &[f32], pitch: usize, a: &mut [f64], neutral: f64, fold: impl Fn(f64, f64) -> f64) {
    wide(
        #[inline(always)]
        || match (&mut *a, pitch) {
            ([a], 1) => {
                // 32 running values do not depend on each other, so the CPU computes them in parallel.
                let mut run = [neutral; 32];
                let (blocks, rest) = x.as_chunks::<32>();
                for block in blocks {
                    for (r, &x) in run.iter_mut().zip(block) {
                        *r = fold(*r, x as f64);
                    }
                }
                *a = rest.iter().fold(run.into_iter().fold(*a, &fold), |a, &x| fold(a, x as f64));
            }
            (a, _) => {
                for row in x.chunks(pitch) {
                    a.iter_mut().zip(row).for_each(|(a, &x)| *a = fold(*a, x as f64));
                }
            }
        },
    )
}

impl Reduce {
    /// Returns `[outer, n, inner]`.
    fn sizes(&self, x: Shape) -> [usize; 3] {
        let d = x.dims();
        [&d[..self.start], &d[self.start..self.end], &d[self.end..]].map(|d| d.iter().product())
    }
    /// Returns the shape of the output if the reduced axes stay.
    fn kept(&self, x: Shape) -> Shape {
        (self.start..self.end).fold(x, |s, axis| s.with(axis, 1))
    }
}

const COLUMNS: usize = 1 << 10;

impl OpDef for Reduce {
    const NAME: &'static str = "reduce";

    fn called(&self) -> &'static str {
        self.fold.name()
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err("takes one input".into()) };
        if x.dtype() != DType::F32 {
            return Err("takes floats, not labels (see to_f32)".into());
        }
        if self.start > self.end || self.end > x.rank() {
            return Err(format!("there are no axes {}..{}", self.start, self.end));
        }
        let kept = self.kept(*x);
        Ok(if self.keepdim { kept } else { (self.start..self.end).rev().fold(kept, |s, axis| s.without(axis)) })
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _key: Key) {
        let [_, n, inner] = self.sizes(x[0].shape);
        for (k, y) in y.f.iter_mut().enumerate() {
            let first = k / inner * n * inner + k % inner;
            let all = (0..n).fold(self.fold.neutral(), |a, i| self.fold.fold(a, x[0].f[first + i * inner].f64()));
            *y = T::of(self.fold.finish(all, n));
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _key: Key) {
        let ([_, n, inner], fold) = (self.sizes(x[0].shape), self.fold);
        let write = |y: &mut [f32], a: &[f64]| y.iter_mut().zip(a).for_each(|(y, &a)| *y = fold.finish(a, n) as f32);
        let size = n * inner;
        if inner >= COLUMNS {
            // A line has many columns: a task is a block of columns.
            for (x, y) in x[0].f.chunks(size).zip(y.f.chunks_mut(inner)) {
                chunks(y, COLUMNS, |k, y| {
                    let mut a = [fold.neutral(); COLUMNS];
                    fold.rows(&x[k * COLUMNS..], inner, &mut a[..y.len()]);
                    write(y, &a);
                });
            }
        } else if size >= 2 * LIGHT_TASK {
            // The reduced axes are long: a task is a block of rows. The results of the tasks are folded in order.
            let (task, parts) = (LIGHT_TASK / inner * inner, size.div_ceil(LIGHT_TASK / inner * inner));
            scratch::with(parts * inner, |parts: &mut [f64]| {
                for (x, y) in x[0].f.chunks(size).zip(y.f.chunks_mut(inner)) {
                    parts.fill(fold.neutral());
                    chunks(parts, inner, |k, a| fold.rows(chunk(x, task, k), inner, a));
                    let (a, rest) = parts.split_at_mut(inner);
                    rest.chunks(inner).for_each(|part| a.iter_mut().zip(part).for_each(|(a, &p)| *a = fold.fold(*a, p)));
                    write(y, a);
                }
            });
        } else {
            // There are many outer indices: a task is a block of outer indices.
            let outer = (LIGHT_TASK / size).max(1);
            chunks(y.f, outer * inner, |k, y| {
                let x = chunk(x[0].f, outer * size, k);
                scratch::with(inner, |a: &mut [f64]| {
                    for (x, y) in x.chunks(size).zip(y.chunks_mut(inner)) {
                        a.fill(fold.neutral());
                        fold.rows(x, inner, a);
                        write(y, a);
                    }
                });
            });
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (x, kept) = (x[0], self.kept(x[0].shape()));
        let dy = dy.reshape(kept);
        let dx = match self.fold {
            Fold::Sum => dy.broadcast_to(x.shape()),
            Fold::Mean => (dy * (1.0 / self.sizes(x.shape())[1] as f32)).broadcast_to(x.shape()),
            Fold::Max | Fold::Min => {
                // Equal extrema share the gradient, as in torch.amax.
                let hit = x.eq(y.reshape(kept));
                let count = hit.apply(Reduce { fold: Fold::Sum, keepdim: true, ..*self });
                hit * (dy / count)
            }
        };
        vec![Some(dx)]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let kernel = |fast: bool| {
            let (mut passes, mut scratch, sizes) = (Vec::new(), Vec::new(), self.sizes(x[0]));
            fold_passes(self.fold, sizes, [Which::In(0), Which::Out], fast, caps, &mut passes, &mut scratch);
            Kernel { name: Lines::of(fast, sizes, Can::CutAcross, caps).name(), passes, scratch }
        };
        distinct(kernel)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        if self.fold.adds() { self.sizes(x[0])[1] } else { 1 }
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        match self.fold.adds() {
            true => Fill::plain(x),
            // `Fill` makes equal numbers near the kinks of other ops. This range avoids equal numbers.
            false => Fill::floats(x, &[(0, -0.9, 0.9)]),
        }
    }
    fn cases() -> Vec<Case> {
        let case = |fold, dims: &[usize], axes: Range<usize>, keepdim| {
            let x = Shape::new(dims).expect("at most six axes");
            let op = Reduce { fold, start: axes.start, end: axes.end, keepdim };
            Case::new(format!("{} {x} over {axes:?}", fold.name()), op, &[x])
        };
        let mut cases = Vec::new();
        for fold in [Fold::Sum, Fold::Mean, Fold::Max, Fold::Min] {
            cases.push(case(fold, &[], 0..0, false));
            cases.push(case(fold, &[1], 0..1, false));
            // Short lines, one lane for each line. Along the lines, and across with column counts at and around a block.
            cases.push(case(fold, &[7, 31], 1..2, true));
            cases.push(case(fold, &[2, 3, 257], 1..2, false));
            cases.push(case(fold, &[3, 5, 2, 11], 1..3, false));
            // Long lines in lanes, several lines in a workgroup.
            cases.push(case(fold, &[5, 33], 1..2, false));
            cases.push(case(fold, &[67, 37], 0..1, true));
            cases.push(case(fold, &[2, 101, 33], 1..2, false));
            // Lines cut into chunks, the last one ragged. Along, across, and with an outer axis.
            cases.push(case(fold, &[20_011], 0..1, false));
            cases.push(case(fold, &[1_031, 70], 0..1, false));
            cases.push(case(fold, &[2, 17_011], 1..2, false));
            // Four elements at a time. Along, across with a ragged last strip, and rows that are combined.
            cases.push(case(fold, &[5, 260], 1..2, false));
            cases.push(case(fold, &[2, 37, 12], 1..2, true));
            cases.push(case(fold, &[67, 4], 0..1, true));
            cases.push(case(fold, &[131, 588], 0..1, false));
            cases.push(case(fold, &[4_100, 10], 0..1, false));
        }
        for n in [255, 256, 257, 16_384, 16_385] {
            cases.push(case(Fold::Sum, &[n], 0..1, false));
        }
        for columns in [1, 31, 32, 33, 255, 256, 257] {
            cases.push(case(Fold::Sum, &[65, columns], 0..1, false));
        }
        // Many workgroups, and a long line that is cut.
        cases.push(case(Fold::Max, &[2_053, 1, 129], 1..2, false));
        cases.push(case(Fold::Sum, &[1 << 18], 0..1, false));
        cases
    }
}

/// Returns the portable kernel and the fast kernel. Returns one kernel if both are equal.
pub(super) fn distinct(kernel: impl Fn(bool) -> Kernel) -> Vec<Kernel> {
    let [portable, mut fast] = [false, true].map(kernel);
    if portable == fast {
        return vec![portable];
    }
    // The first passes may be equal, so that only the passes differ that combine chunks. A choice is found again by its name.
    if fast.name == portable.name {
        fast.name = "lines, combined fast";
    }
    vec![portable, fast]
}

/// Appends the passes that fold `x [outer, n, inner]` to `y`. Long lines are cut into chunks, and the results of the chunks go
/// through new scratch buffers at the end of `scratch`.
pub(super) fn fold_passes(
    fold: Fold,
    [outer, all, inner]: [usize; 3],
    [mut x, y]: [Which; 2],
    fast: bool,
    caps: &Caps,
    passes: &mut Vec<Pass>,
    scratch: &mut Vec<usize>,
) {
    let mut n = all;
    // The sum of a chunk may overflow although the total does not. So sums of chunks are divided by a power of two.
    let mut divided = 1.0;
    loop {
        // If the number of columns is no multiple of four, two or four rows together can be one row whose length is a multiple of
        // four.
        let rows = if fast && caps.software && inner > 1 && n > 4096 {
            [1, 2, 4].into_iter().find(|k| inner * k % 4 == 0 && n % k == 0)
        } else {
            None
        };
        let rows = rows.unwrap_or(1);
        let lines = Lines::of(fast, [outer, n / rows, inner * rows], Can::CutAcross, caps);
        let last = lines.chunks() * rows == 1;
        let to = if last { y } else { Which::Scratch(scratch.len()) };
        let bind = |from: Which, to: Which, lines: &Lines| {
            let from = Bind { which: from, ..Bind::input("x", 0, DType::F32) };
            vec![lines.full(from), lines.ones(Bind { which: to, ..Bind::output("y", DType::F32) })]
        };
        let mut pass = lines.pass(source!("reduce"), "forward", bind(x, to, &lines));
        pass.consts.push(("KIND", (fold as u32).into()));
        let divisor = if last { 1.0 / divided } else { lines.chunk().next_power_of_two() as f32 };
        divided *= divisor;
        pass.params.push(("divisor".into(), divisor.into()));
        passes.push(pass);
        if last {
            return;
        }
        x = Which::Scratch(scratch.len());
        let whole = n / rows;
        n = lines.chunks() * rows;
        scratch.push(outer * n * inner);
        if fold == Fold::Mean {
            let means = Lines::of(fast, [outer, n, inner], Can::Single, caps);
            let mut pass = means.pass(source!("reduce"), "forward_of_parts", bind(x, y, &means));
            pass.consts.push(("KIND", (fold as u32).into()));
            let (full, tail) = ((lines.chunks() - 1) * rows, lines.tail(whole));
            let counts = [("tail", tail), ("count", full as f32 + rows as f32 * tail)];
            pass.params.push(("full".into(), full.into()));
            pass.params.extend(counts.map(|(name, x)| (name.to_string(), x.into())));
            passes.push(pass);
            return;
        }
    }
}

/// Returns the blocks of adjacent axes, in ascending order, or the reason why `axes` are wrong.
fn blocks(x: Shape, axes: &[isize]) -> Result<Vec<Range<usize>>, String> {
    if let &[axis] = axes
        && x.is_scalar_along(axis)
    {
        return Ok(Vec::new());
    }
    let mut hit = vec![false; x.rank()];
    for &axis in axes {
        let a = x.axis(axis).ok_or_else(|| format!("there is no axis {axis}"))?;
        if std::mem::replace(&mut hit[a], true) {
            return Err(format!("axis {axis} is named twice"));
        }
    }
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for a in (0..x.rank()).filter(|&a| hit[a]) {
        match blocks.last_mut() {
            Some(b) if b.end == a => b.end += 1,
            _ => blocks.push(a..a + 1),
        }
    }
    Ok(blocks)
}

impl<'g> Tensor<'g> {
    #[track_caller]
    fn reduce(self, fold: Fold, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        self.reduce_at(fold, axes, keepdim, Location::caller())
    }
    fn reduce_at(self, fold: Fold, axes: &[isize], keepdim: bool, place: Place) -> Tensor<'g> {
        let Some(blocks) = self.blocks(fold.name(), axes, place) else { return self.graph.dead() };
        let x = self.shape();
        if blocks.len() > 1 && !fold.adds() {
            // Equal extrema must share the gradient over all axes at once. So permute the reduced axes to the end, where they are
            // one block.
            let (gone, kept): (Vec<usize>, Vec<usize>) = (0..x.rank()).partition(|a| blocks.iter().any(|b| b.contains(a)));
            let t = self.graph.at(place, || self.permute(&[&kept[..], &gone].concat()));
            let y = t.graph.apply_at(Arc::new(Reduce { fold, start: kept.len(), end: x.rank(), keepdim: false }), &[t], place);
            return if keepdim { y.graph.at(place, || y.reshape(gone.iter().fold(x, |s, &a| s.with(a, 1)))) } else { y };
        }
        let reduce = |t: Tensor<'g>, axes: Range<usize>| {
            let op = Reduce { fold, start: axes.start, end: axes.end, keepdim };
            t.graph.apply_at(Arc::new(op), &[t], place)
        };
        blocks.into_iter().rev().fold(self, reduce)
    }
    /// Returns the blocks of adjacent axes, in ascending order. If `axes` are wrong, records a mistake of the op `name` and returns
    /// `None`.
    pub(super) fn blocks(self, name: &str, axes: &[isize], place: Place) -> Option<Vec<Range<usize>>> {
        let x = self.shape();
        let found = match x.dtype() {
            _ if self.is_dead() => return None,
            DType::F32 => blocks(x, axes),
            DType::U32 => Err("takes floats, not labels (see to_f32)".to_string()),
        };
        found.map_err(|why| self.graph.mistake(name, &[self], why, place)).ok()
    }
    fn all_axes(self) -> Vec<isize> {
        (0..self.shape().rank() as isize).collect()
    }
    /// Returns the sum over `axes`. A negative axis counts from the last axis. The reduced axes stay with size 1 if `keepdim` is
    /// true.
    ///
    /// Sums are accurate: a GPU adds in a tree, and the CPU adds in `f64`. It is a mistake if an axis does not exist or is named
    /// twice.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let x = g.input([2, 3]);
    /// let mut f = Device::cpu().compile(&[x.sum(&[0], false), x.mean(&[-1], true)])?;
    /// let y = f.run(&[Host::new([2, 3], vec![1.0, 2.0, 3.0, 5.0, 6.0, 7.0])])?;
    /// assert_eq!(y[0], Host::new([3], vec![6.0, 8.0, 10.0]));
    /// assert_eq!(y[1], Host::new([2, 1], vec![2.0, 6.0]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn sum(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        self.reduce(Fold::Sum, axes, keepdim)
    }
    /// Returns the mean over `axes`. See [`Tensor::sum`] for the arguments.
    #[track_caller]
    pub fn mean(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        self.reduce(Fold::Mean, axes, keepdim)
    }
    /// Returns the maximum over `axes`. The maximum is NaN if an element is NaN. Equal maxima share the gradient, as in PyTorch's
    /// `amax`. See [`Tensor::sum`] for the arguments.
    #[track_caller]
    pub fn max(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        self.reduce(Fold::Max, axes, keepdim)
    }
    /// Returns the minimum over `axes`. See [`Tensor::max`].
    #[track_caller]
    pub fn min(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        self.reduce(Fold::Min, axes, keepdim)
    }
    /// Returns the sum of all elements. The shape is `[]`.
    #[track_caller]
    pub fn sum_all(self) -> Tensor<'g> {
        self.sum(&self.all_axes(), false)
    }
    /// Returns the mean of all elements. The shape is `[]`.
    #[track_caller]
    pub fn mean_all(self) -> Tensor<'g> {
        self.mean(&self.all_axes(), false)
    }
    /// Returns the largest element. The shape is `[]`. See [`Tensor::max`].
    #[track_caller]
    pub fn max_all(self) -> Tensor<'g> {
        self.max(&self.all_axes(), false)
    }
    /// Returns the smallest element. The shape is `[]`. See [`Tensor::max`].
    #[track_caller]
    pub fn min_all(self) -> Tensor<'g> {
        self.min(&self.all_axes(), false)
    }
    /// Returns ln Σ eˣ over `axes`, without overflow. The result is −∞ if all elements are −∞. See [`Tensor::sum`] for the
    /// arguments.
    #[track_caller]
    pub fn logsumexp(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        let _line = self.graph.line();
        let Some(blocks) = self.blocks("logsumexp", axes, Location::caller()) else { return self.graph.dead() };
        let y = blocks.into_iter().fold(self, |x, block| {
            let s = x.shape();
            let [outer, n, inner] = [0..block.start, block.clone(), block.end..s.rank()].map(|r| s.dims()[r].iter().product());
            let y = x.reshape([outer, n, inner]).apply(LogSumExp { axis: 1 });
            y.reshape(block.fold(s, |s, axis| s.with(axis, 1)))
        });
        y.drop_axes(axes, keepdim)
    }
    /// Removes `axes` unless `keepdim` is true. The axes must have size 1. The caller has checked that they exist.
    #[track_caller]
    pub(super) fn drop_axes(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        let s = self.shape();
        let mut axes: Vec<usize> = axes.iter().filter_map(|&a| s.axis(a)).collect();
        axes.sort_unstable();
        if keepdim || self.is_dead() { self } else { self.reshape(axes.iter().rev().fold(s, |s, &a| s.without(a))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks, oracle::interpret, plan::ir::Ir};

    #[test]
    fn golden() {
        let methods = [("sum", Fold::Sum), ("mean", Fold::Mean), ("max", Fold::Max), ("min", Fold::Min)];
        for (name, fold) in methods {
            checks::golden(name, |args, x| x[0].reduce(fold, &checks::axes(args), args["keepdim"] == true));
        }
        checks::golden("logsumexp", |args, x| x[0].logsumexp(&checks::axes(args), args["keepdim"] == true));
    }

    #[test]
    fn cpu() {
        checks::cpu::<Reduce>();
    }

    #[test]
    fn wgsl() {
        checks::wgsl::<Reduce>();
    }

    /// Returns the value and the gradient of `f(x)`.
    fn run(x: Host<f64>, f: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g>) -> [Vec<f64>; 2] {
        let g = Graph::training();
        let input = g.input_of(x.shape);
        let y = f(input);
        let dx = y.vjp(g.full(y.shape(), 1.0), &[input]);
        assert!(g.error().is_none(), "{:?}", g.error());
        let out = interpret(&Ir::new(&g, &[y, dx[0]]), &[x], &[], Key::default());
        [out[0].to_f64(), out[1].to_f64()]
    }

    #[test]
    fn logsumexp_at_infinity() {
        let inf = f64::INFINITY;
        let x = Host::new([3, 2], vec![-inf, -inf, -inf, 1.0, 1e4, 1e4]);
        let [y, dx] = run(x, |x| x.logsumexp(&[-1], false));
        assert_eq!(y, [-inf, 1.0, 1e4 + 2f64.ln()]);
        assert_eq!(dx, [0.0, 0.0, 0.0, 1.0, 0.5, 0.5]);
    }

    #[test]
    fn equal_extrema_share() {
        // Three equal elements: two in one row of the last axis, one in the other row.
        let x = Host::new([2, 1, 3], vec![5.0, 1.0, 5.0, 0.0, 5.0, 2.0]);
        let third = 1.0 / 3.0;
        let shared = [third, 0.0, third, 0.0, third, 0.0];
        assert_eq!(run(x.clone(), |x| x.max_all()), [vec![5.0], shared.to_vec()]);
        assert_eq!(run(x.clone(), |x| x.max(&[0, 2], false)), [vec![5.0], shared.to_vec()]);
        assert_eq!(run(x, |x| (-x).min(&[-1, 0], true)), [vec![-5.0], shared.map(|d| -d).to_vec()]);
    }

    #[test]
    fn extrema_of_nan_and_infinity() {
        let nan = |y: &[f64]| y.iter().map(|y| y.is_nan()).collect::<Vec<_>>();
        let x = Host::new([3, 2], vec![f64::NAN, 1.0, 1.0, f64::NAN, f64::NEG_INFINITY, f64::NEG_INFINITY]);
        let [y, _] = run(x.clone(), |x| x.max(&[1], false));
        assert_eq!((nan(&y), y[2]), (vec![true, true, false], f64::NEG_INFINITY));
        let [y, _] = run(x, |x| x.min(&[1], false));
        assert_eq!(nan(&y), vec![true, true, false]);
    }

    #[test]
    fn mistakes() {
        let message = |f: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>| {
            let g = Graph::training();
            assert!(f(&g).is_dead());
            g.error().map_or(String::new(), |e| e.to_string())
        };
        let start = |f: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| assert!(message(f).starts_with(text), "{}", message(f));
        start(&|g| g.input([2, 3]).sum(&[2], false), "sum: [2, 3]: there is no axis 2 (src/ops/reduce.rs:");
        start(&|g| g.input([2, 3]).mean(&[1, -1], false), "mean: [2, 3]: axis -1 is named twice (");
        start(&|g| g.labels([2]).max_all(), "max: u32 [2]: takes floats, not labels (see to_f32) (");
        start(
            &|g| g.input([2, 1]).logsumexp(&[-3], false).std(&[7], 1, true),
            "logsumexp: [2, 1]: there is no axis -3 (src/ops/reduce.rs:",
        );
    }
}
