//! Second moments over axes, in one reading of the tensor: the variance, the standard deviation, and all statistics that
//! normalisation over a batch needs (see [`normalised`]).
//!
//! An op reduces one block of adjacent axes. With `lead` it also reduces the first axes: `[b, c, n, inner]` is reduced over b and
//! n. So the statistics of the channels of `[n, c, h, w]` need no permuted copy.

use super::{
    lines::{Can, Lines},
    reduce::{distinct, larger},
    *,
};
use crate::{
    error::Place,
    kernel::{Bind, source},
    scratch,
    threads::{LIGHT_TASK, chunks},
};
use std::panic::Location;

/// The axes that are reduced: `..lead` and `start..end`. They stay, with size 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// The number of first axes that are reduced. It may be 0.
    pub lead: usize,
    /// The first axis of the block.
    pub start: usize,
    /// The first axis behind the block.
    pub end: usize,
}

impl Over {
    /// Returns the axes as an `Over`. Returns `None` if they are not one block of adjacent axes, or one block and another block
    /// that starts at axis 0.
    pub fn new(mut axes: Vec<usize>) -> Option<Over> {
        axes.sort_unstable();
        let cut = (1..axes.len()).find(|&i| axes[i] != axes[i - 1] + 1).unwrap_or(0);
        let (lead, block) = axes.split_at(cut);
        let start = block.first().copied().unwrap_or(0);
        let adjacent = block.iter().enumerate().all(|(i, &a)| a == start + i);
        let front = lead.first().is_none_or(|&a| a == 0);
        (adjacent && front).then_some(Over { lead: lead.len(), start, end: start + block.len() })
    }
    /// Returns the axes along which a tensor of the shape `kept` is repeated to get the shape `x`.
    pub fn repeated(x: Shape, kept: Shape) -> Option<Over> {
        let front = x.rank().checked_sub(kept.rank())?;
        Over::new((0..x.rank()).filter(|&a| a < front || kept.dims()[a - front] != x.dims()[a]).collect())
    }
    /// Returns the shape of the result.
    pub fn kept(&self, x: Shape) -> Shape {
        (0..self.lead).chain(self.start..self.end).fold(x, |s, a| s.with(a, 1))
    }
    /// Returns `[b, c, n, inner]`.
    pub(super) fn sizes(&self, x: Shape) -> [usize; 4] {
        let product = |d: &[usize]| d.iter().product::<usize>();
        let d = x.dims();
        let (b, c) = (product(&d[..self.lead]), product(&d[self.lead..self.start]));
        match [b, c, product(&d[self.start..self.end]), product(&d[self.end..])] {
            // A reduction over b alone is a reduction over rows. Channels and the inner axes are the columns.
            [b, c, 1, inner] => [1, 1, b, c * inner],
            sizes => sizes,
        }
    }
    /// Returns the number of elements that are reduced to one element.
    pub fn count(&self, x: Shape) -> usize {
        x.elements() / self.kept(x).elements()
    }
    pub(super) fn check(&self, x: Shape) -> Result<(), String> {
        let fits = self.lead <= self.start && self.start <= self.end && self.end <= x.rank();
        if fits { Ok(()) } else { Err(format!("there are no axes ..{} and {}..{}", self.lead, self.start, self.end)) }
    }
    /// Returns a sum for each element of the result, by the definition. `f` gets the number of an element of x and the number of
    /// the result, and returns the term.
    pub(super) fn plain(&self, x: Shape, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let [b, c, n, inner] = self.sizes(x);
        let at = |k: usize, o: usize, i: usize| ((o * c + k / inner) * n + i) * inner + k % inner;
        (0..c * inner).map(|k| (0..b).flat_map(|o| (0..n).map(move |i| (o, i))).map(|(o, i)| f(at(k, o, i), k)).sum()).collect()
    }
    /// Computes K sums for each element of the result, for the CPU device. `f` gets an element of x, the same element of a, and the
    /// number of the result, and returns the K terms. `put` gets the number of the result and its K sums.
    pub(super) fn fast<const K: usize>(
        &self,
        shape: Shape,
        x: &[f32],
        a: &[f32],
        f: impl Fn(f32, f32, usize) -> [f64; K] + Sync,
        mut put: impl FnMut(usize, [f64; K]),
    ) {
        let [b, c, n, inner] = self.sizes(shape);
        // A block is a number of rows of one line. A task is a number of blocks. A block has enough rows to make the partial sums
        // few.
        let rows = (LIGHT_TASK / inner).clamp(16, n.max(16)).min(n);
        let blocks = n.div_ceil(rows);
        let task = (LIGHT_TASK / (rows * inner)).max(1);
        let (all, parts) = (c * inner, b * c * blocks * inner);
        scratch::with((all + parts) * K, |sums_of: &mut [f64]| {
            sums_of.fill(0.0);
            let (all, parts) = sums_of.split_at_mut(all * K);
            chunks(parts, task * inner * K, |t, parts| {
                for (j, part) in parts.as_chunks_mut::<K>().0.chunks_mut(inner).enumerate() {
                    let (o, block) = ((t * task + j) / blocks, (t * task + j) % blocks);
                    let from = (o * n + block * rows) * inner;
                    let to = (o * n + n.min((block + 1) * rows)) * inner;
                    let (x, a, first) = (&x[from..to], &a[from..to], o % c * inner);
                    if inner == 1 {
                        part[0] = sums(x, a, |x, a| f(x, a, first));
                    } else {
                        for (x, a) in x.chunks(inner).zip(a.chunks(inner)) {
                            for (k, ((part, &x), &a)) in part.iter_mut().zip(x).zip(a).enumerate() {
                                part.iter_mut().zip(f(x, a, first + k)).for_each(|(s, v)| *s += v);
                            }
                        }
                    }
                }
            });
            let (all, parts) = (all.as_chunks_mut::<K>().0, parts.as_chunks::<K>().0);
            for (i, part) in parts.chunks(inner).enumerate() {
                let first = i / blocks % c * inner;
                for (to, part) in all[first..][..inner].iter_mut().zip(part) {
                    to.iter_mut().zip(part).for_each(|(s, v)| *s += v);
                }
            }
            all.iter().enumerate().for_each(|(k, &sums)| put(k, sums));
        });
    }
    /// Returns the lines `[b·c, n, inner]` of the first pass, and the reductions that remain after it. They reduce the chunks of a
    /// line, and the b lines of a channel. The number beside each reduction is the largest number of elements that one of its parts
    /// stands for.
    pub(super) fn stages(&self, x: Shape, fast: bool, caps: &Caps) -> (Lines, Vec<([usize; 3], usize)>) {
        let [b, c, n, inner] = self.sizes(x);
        let lines = Lines::of(fast, [b * c, n, inner], Can::Cut, caps);
        let left = [([b * c, lines.chunks(), inner], lines.chunk()), ([1, b, c * inner], n)];
        (lines, left.into_iter().filter(|([_, parts, _], _)| *parts > 1).collect())
    }
}

/// Returns K sums over pairs of elements. `f` returns the terms of a pair. Each sum has eight running values that do not depend on
/// each other, so the CPU adds them in parallel.
pub(super) fn sums<const K: usize>(x: &[f32], a: &[f32], f: impl Fn(f32, f32) -> [f64; K]) -> [f64; K] {
    let mut run = [[0.0; 8]; K];
    let blocks = (x.chunks_exact(8), a.chunks_exact(8));
    let rest = blocks.0.remainder().iter().zip(blocks.1.remainder());
    for (x, a) in blocks.0.zip(blocks.1) {
        for j in 0..8 {
            let v = f(x[j], a[j]);
            run.iter_mut().zip(v).for_each(|(run, v)| run[j] += v);
        }
    }
    let mut sum = run.map(|run| run.iter().sum());
    for (&x, &a) in rest {
        sum.iter_mut().zip(f(x, a)).for_each(|(s, v)| *s += v);
    }
    sum
}

/// The result of a kernel of this file. See shaders/moments.wgsl.
#[derive(Clone, Copy)]
enum Give {
    Variance,
    Std,
    Statistics,
}

/// Returns the kernel with the portable or the fast division into lines. The last pass uses `scale` for the roots.
fn kernel(give: Give, over: &Over, centre: bool, scale: f32, x: Shape, fast: bool, caps: &Caps) -> Kernel {
    let [b, c, n, inner] = over.sizes(x);
    let lines = Lines::of(fast, [b * c, n, inner], Can::Cut, caps);
    let (parts, tail) = (lines.chunks(), lines.tail(n));
    let count = b as f32 * ((parts - 1) as f32 + tail);
    // Whether squares that underflow matter for the result. They do not matter for a variance, nor beside an eps.
    let small = match give {
        Give::Variance => false,
        Give::Std => true,
        Give::Statistics => scale < 1e-15,
    };
    let pass = |lines: &Lines, entry, binds| {
        let mut pass = lines.pass(source!("moments"), entry, binds);
        pass.consts.extend([("CENTRE", u32::from(centre).into()), ("GIVE", (give as u32).into()), ("SMALL", u32::from(small).into())]);
        let sizes = [("parts", parts), ("c", c), ("within", inner), ("row", c * inner), ("none", 0)];
        pass.params.extend(sizes.map(|(name, x)| (name.to_string(), x.into())));
        pass.params.extend([("tail", tail), ("count", count), ("scale", scale)].map(|(name, x)| (name.to_string(), x.into())));
        pass
    };
    let full = lines.full(Bind::input("x", 0, DType::F32));
    let result = |lines: &Lines| match give {
        Give::Statistics => Bind::output("y", DType::F32),
        _ => lines.ones(Bind::output("y", DType::F32)),
    };
    // The output is four tensors in one. A pass that is split into windows cannot write it.
    let windows = matches!(give, Give::Statistics) && x.bytes() > caps.max_binding_bytes;
    if b * parts == 1 && !windows {
        return Kernel::one(lines.name(), pass(&lines, "forward", vec![full, result(&lines)]));
    }
    let names = [("x", "y"), ("x_rest", "y_rest"), ("x_root", "y_root")];
    let written = names.iter().enumerate().map(|(i, (_, y))| lines.ones(Bind::scratch(*y, i).written()));
    let first = pass(&lines, "forward_part", [full].into_iter().chain(written).collect());
    let all = Lines::of(fast, [1, b * parts, c * inner], Can::Single, caps);
    let read = names.iter().enumerate().map(|(i, (x, _))| Bind::scratch(*x, i));
    let second = pass(&all, "forward_of_parts", read.chain([result(&all)]).collect());
    Kernel { name: lines.name(), passes: vec![first, second], scratch: vec![b * c * parts * inner; 3] }
}

/// Computes the mean and the mean square deviation of each result in `f64`, and passes them to `put`. The mean is 0 if `centre` is
/// false.
fn exactly(over: &Over, centre: bool, shape: Shape, v: &[f32], mut put: impl FnMut(usize, (f64, f64))) {
    let ([_, _, n, inner], count) = (over.sizes(shape), over.count(shape) as f64);
    // Subtract the first element from each element. The difference is exact in f64, and one reading gives both sums.
    let first = |k: usize| if centre { f64::from(v[k / inner * n * inner + k % inner]) } else { 0.0 };
    scratch::with(over.kept(shape).elements(), |from: &mut [f64]| {
        from.iter_mut().enumerate().for_each(|(k, from)| *from = first(k));
        let from = &*from;
        let both = |x: f32, _, k: usize| {
            let d = f64::from(x) - from[k];
            [d, d * d]
        };
        over.fast(shape, v, v, both, |k, [s, q]| {
            let shift = if centre { s / count } else { 0.0 };
            put(k, (from[k] + shift, larger(q / count - shift * shift, 0.0)));
        });
    });
}

/// Returns the mean and the mean square deviation of each result, by the definition.
fn plainly<T: Real>(over: &Over, centre: bool, shape: Shape, v: &[T]) -> Vec<(f64, f64)> {
    let n = over.count(shape) as f64;
    let mut mean = over.plain(shape, |at, _| v[at].f64());
    mean.iter_mut().for_each(|m| *m = if centre { *m / n } else { 0.0 });
    let square = over.plain(shape, |at, k| (v[at].f64() - mean[k]).powi(2));
    mean.into_iter().zip(square).map(|(m, s)| (m, s / n)).collect()
}

/// The op: Σ (x − mean)² / (n − `correction`), or its square root. The mean is the mean of the same n elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variance {
    /// The reduced axes.
    pub over: Over,
    /// The number that is subtracted from n. 1 gives the unbiased estimate.
    pub correction: usize,
    /// Whether the result is the standard deviation. It is finite even if the variance overflows, and not 0 even if the variance
    /// underflows.
    pub root: bool,
}

impl Variance {
    /// Returns n / (n − correction).
    fn corrected(&self, x: Shape) -> f64 {
        let n = self.over.count(x);
        n as f64 / (n - self.correction) as f64
    }
    fn finish(&self, square: f64, x: Shape) -> f64 {
        let v = square * self.corrected(x);
        if self.root { v.sqrt() } else { v }
    }
}

impl OpDef for Variance {
    const NAME: &'static str = "variance";

    fn called(&self) -> &'static str {
        if self.root { "std" } else { Self::NAME }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        self.over.check(*x)?;
        let n = self.over.count(*x);
        if n <= self.correction {
            let what = if self.root { "standard deviation" } else { "variance" };
            return Err(format!("{n} elements with a correction of {} have no {what}", self.correction));
        }
        Ok(self.over.kept(*x))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let all = plainly(&self.over, true, x[0].shape, x[0].f);
        y.f.iter_mut().zip(all).for_each(|(y, (_, square))| *y = T::of(self.finish(square, x[0].shape)));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        exactly(&self.over, true, x[0].shape, x[0].f, |k, (_, square)| y.f[k] = self.finish(square, x[0].shape) as f32);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // Σ (x − mean) = 0, so the gradient through the mean vanishes for every x.
        let scale = 4.0 / (self.over.count(x[0].shape()) - self.correction) as f32;
        let factor = if self.root {
            // If all elements are equal, the gradient is 0, as in PyTorch.
            let none = y.eq(0.0);
            none.where_(0.0, dy / none.where_(1.0, y)) * scale
        } else {
            dy * (2.0 * scale)
        };
        vec![Some(x[0].quarter_deviation(self.over) * factor)]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (give, scale) = (if self.root { Give::Std } else { Give::Variance }, 4.0 * self.corrected(x[0]).sqrt());
        distinct(|fast| kernel(give, &self.over, true, scale as f32, x[0], fast, caps))
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.over.count(x[0])
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        4 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (i, (dims, lead, start, end)) in shapes().into_iter().enumerate() {
            let x = Shape::new(dims).expect("at most six axes");
            let over = Over { lead, start, end };
            let op = Variance { over, correction: i % 2, root: false };
            let name = format!("{x} over ..{lead} and {start}..{end}");
            cases.push(Case::new(name.clone(), op, &[x]));
            if i % 3 == 1 {
                cases.push(Case::new(format!("root of {name}"), Variance { root: true, ..op }, &[x]));
            }
        }
        let far = |dims: [usize; 3], lead| {
            let op = Variance { over: Over { lead, start: 2, end: 3 }, correction: 0, root: false };
            Case::new("mean far from 0", op, &[Shape::from(dims)]).range(0, 4096.0, 4097.0)
        };
        cases.extend([far([3, 5, 257], 0), far([3, 2, 10_007], 1)]);
        cases
    }
}

/// The op: all statistics that normalisation needs. The result is `[4, results]`. Its rows are mean / 4, the error of rounding mean
/// / 4 to `f32`, 4 / √(v + eps), and v. v is the mean square deviation.
///
/// The mean is divided by 4 because a difference of two numbers may overflow, but a quarter of the difference does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// The reduced axes.
    pub over: Over,
    /// Whether deviations are measured from the mean. Otherwise they are measured from 0.
    pub centre: bool,
    /// The number that is added to v. It keeps the third row finite.
    pub eps: f32,
}

/// The rows of [`Statistics`] as tensors that broadcast to x.
pub(super) struct Rows<'g> {
    pub mean: Tensor<'g>,
    pub rest: Tensor<'g>,
    pub r: Tensor<'g>,
    pub variance: Tensor<'g>,
}

impl<'g> Rows<'g> {
    /// Splits the output of [`Statistics`].
    pub fn of(all: Tensor<'g>, kept: Shape) -> Rows<'g> {
        let row = |i: usize| all.slice(0, i, i + 1).reshape(kept);
        Rows { mean: row(0), rest: row(1), r: row(2), variance: row(3) }
    }
    /// Returns (x − mean) / 4.
    pub fn deviation(&self, x: Tensor<'g>) -> Tensor<'g> {
        x * 0.25 - self.mean - self.rest
    }
}

impl Statistics {
    /// Writes the four numbers of result k.
    fn write<T: Real>(&self, k: usize, (mean, square): (f64, f64), y: &mut [T]) {
        let n = y.len() / 4;
        let all = [mean / 4.0, 0.0, 4.0 / (square + f64::from(self.eps)).sqrt(), square];
        all.iter().enumerate().for_each(|(row, &v)| y[row * n + k] = T::of(v));
        y[n + k] = T::of(all[0] - y[k].f64());
    }
}

impl OpDef for Statistics {
    const NAME: &'static str = "statistics";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        self.over.check(*x)?;
        Ok(Shape::from([4, self.over.kept(*x).elements()]))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let all = plainly(&self.over, self.centre, x[0].shape, x[0].f);
        all.into_iter().enumerate().for_each(|(k, both)| self.write(k, both, y.f));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        exactly(&self.over, self.centre, x[0].shape, x[0].f, |k, both| self.write(k, both, y.f));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (kept, n) = (self.over.kept(x[0].shape()), self.over.count(x[0].shape()) as f32);
        let (rows, d) = (Rows::of(y, kept), Rows::of(dy, kept));
        let deviation = rows.deviation(x[0]);
        // r' = −r³·(x − mean)/n, in quarters.
        let through_r = deviation * rows.r * (rows.r * (rows.r * d.r) * (-0.25 / n));
        let through_v = deviation * (d.variance * (8.0 / n));
        let dx = through_r + through_v;
        vec![Some(if self.centre { dx + d.mean * (0.25 / n) } else { dx })]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        distinct(|fast| kernel(Give::Statistics, &self.over, self.centre, self.eps.sqrt() / 4.0, x[0], fast, caps))
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.over.count(x[0])
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        4 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |(i, (dims, lead, start, end)): (usize, (&[usize], usize, usize, usize))| {
            let x = Shape::new(dims).expect("at most six axes");
            let op = Statistics { over: Over { lead, start, end }, centre: i % 4 != 2, eps: 0.1 };
            let what = if op.centre { "" } else { " about 0" };
            Case::new(format!("{x} over ..{lead} and {start}..{end}{what}"), op, &[x]).range(0, -1.0, 2.0)
        };
        shapes().into_iter().enumerate().map(case).collect()
    }
}

/// Shapes and the axes that are reduced.
pub(super) fn shapes() -> Vec<(&'static [usize], usize, usize, usize)> {
    vec![
        (&[1], 0, 0, 1),
        // Along the axis: short lines, lines at and around the lanes of a workgroup, lines cut into chunks.
        (&[7, 31], 0, 1, 2),
        (&[5, 33], 0, 1, 2),
        (&[3, 257], 0, 1, 2),
        (&[2, 17_011], 0, 1, 2),
        // Across.
        (&[67, 37], 0, 0, 1),
        (&[1_031, 70], 0, 0, 1),
        (&[3, 33, 5], 0, 1, 2),
        // Channels: over the batch and over the axes behind the channels.
        (&[5, 3, 7], 1, 2, 3),
        (&[2, 7, 5, 13], 1, 2, 4),
        (&[67, 1, 3], 1, 2, 3),
        (&[1, 3, 5_003], 1, 2, 3),
        (&[3, 2, 10_007], 1, 2, 3),
        (&[131, 11, 1], 1, 2, 3),
        (&[3, 5, 260], 1, 2, 3),
        (&[2, 20_000], 0, 1, 2),
        (&[2_053, 2, 3], 1, 2, 3),
        (&[3, 2, 5, 7], 1, 2, 3),
    ]
}

impl<'g> Tensor<'g> {
    /// Returns the variance Σ (x − mean)² / (n − `correction`) over the n elements along `axes`. A correction of 1 gives the
    /// unbiased estimate. The result is accurate even if the mean is far from 0. See [`Tensor::sum`] for the axes and `keepdim`. It
    /// is a mistake if n is not larger than `correction`.
    #[track_caller]
    pub fn variance(self, axes: &[isize], correction: usize, keepdim: bool) -> Tensor<'g> {
        self.spread("variance", axes, correction, keepdim, Location::caller())
    }
    /// Returns the standard deviation: the square root of the [variance](Tensor::variance). It is correct even if the variance
    /// exceeds the range of `f32`. If the standard deviation is 0, its gradient is 0, as in PyTorch.
    #[track_caller]
    pub fn std(self, axes: &[isize], correction: usize, keepdim: bool) -> Tensor<'g> {
        self.spread("std", axes, correction, keepdim, Location::caller())
    }
    fn spread(self, name: &str, axes: &[isize], correction: usize, keepdim: bool, place: Place) -> Tensor<'g> {
        let x = self.shape();
        let Some(mut reduced) = self.named_axes(name, axes, place) else { return self.graph.dead() };
        let op = |over| Variance { over, correction, root: name == "std" };
        let y = match Over::new(reduced.clone()) {
            Some(over) => self.graph.apply_at(Arc::new(op(over)), &[self], place),
            None => {
                // Permute the reduced axes to the end, where they are one block.
                reduced.sort_unstable();
                let kept: Vec<usize> = (0..x.rank()).filter(|a| !reduced.contains(a)).collect();
                let t = self.graph.at(place, || self.permute(&[&kept[..], &reduced].concat()));
                let over = Over { lead: 0, start: kept.len(), end: x.rank() };
                let y = self.graph.apply_at(Arc::new(op(over)), &[t], place);
                y.reshape(reduced.iter().fold(x, |s, &a| s.with(a, 1)))
            }
        };
        y.drop_axes(axes, keepdim)
    }
    /// Returns (self − mean) / 4 over these axes. It also subtracts the rounding error of the mean.
    pub(super) fn quarter_deviation(self, over: Over) -> Tensor<'g> {
        // The eps has no influence on this result. With eps = 0 the third row could be infinite, and gradients would multiply it by
        // 0.
        let all = self.graph.apply(Statistics { over, centre: true, eps: 1.0 }, &[self]);
        Rows::of(all, over.kept(self.shape())).deviation(self)
    }
    /// Returns the axes, counted from the front. If `axes` are wrong, records a mistake of the op `name` and returns `None`.
    fn named_axes(self, name: &str, axes: &[isize], place: Place) -> Option<Vec<usize>> {
        Some(self.blocks(name, axes, place)?.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn golden() {
        let correction = |args: &serde_json::Value| args["correction"].as_u64().unwrap() as usize;
        checks::golden("variance", |args, x| x[0].variance(&checks::axes(args), correction(args), args["keepdim"] == true));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Variance>();
        checks::cpu::<Statistics>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Variance>();
        checks::wgsl::<Statistics>();
    }
    #[test]
    fn axes_of_a_repeated_shape() {
        let over = |x: &[usize], kept: &[usize]| Over::repeated(Shape::new(x).unwrap(), Shape::new(kept).unwrap());
        assert_eq!(over(&[5, 3], &[3]), Some(Over { lead: 0, start: 0, end: 1 }));
        assert_eq!(over(&[5, 3, 2, 2], &[3, 1, 1]), Some(Over { lead: 1, start: 2, end: 4 }));
        assert_eq!(over(&[5, 3, 2, 2], &[5, 3, 1, 1]), Some(Over { lead: 0, start: 2, end: 4 }));
        assert_eq!(over(&[5, 3, 2, 2], &[5, 1, 2, 1]), None);
        assert_eq!(over(&[5, 3, 2, 4, 2], &[3, 1, 4, 1]), None);
        assert_eq!(over(&[3], &[5, 3]), None);
    }
    #[test]
    fn mistakes() {
        checks::mistake(
            &|g| g.input([2, 1]).variance(&[1], 1, false),
            "variance: [2, 1]: 1 elements with a correction of 1 have no variance (",
        );
        checks::mistake(&|g| g.input([2, 1]).std(&[7], 1, true), "std: [2, 1]: there is no axis 7 (src/ops/moments.rs:");
        checks::mistake(&|g| g.labels([2]).variance(&[0], 0, true), "variance: u32 [2]: takes floats, not labels (see to_f32) (");
        let over = Over { lead: 0, start: 0, end: 3 };
        checks::mistake(
            &|g| g.input([2]).apply(Variance { over, correction: 0, root: false }),
            "variance: [2]: there are no axes ..0 and 0..3 (",
        );
    }
}
