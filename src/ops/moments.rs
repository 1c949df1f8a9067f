//! Second moments over axes, in one reading of the tensor: the variance, and Σ a·(x − mean), which is the gradient of what
//! scales x − mean (see [`standardise`]). What normalisation over a batch is made of.
//!
//! Both reduce one block of adjacent axes or, with `lead`, the first axes as well: `[b, c, n, inner]` over b and n. So
//! the statistics of the channels of `[n, c, h, w]` need no permuted copy.

use super::{
    lines::{Can, Lines},
    reduce::{Fold, distinct, fold_passes, larger},
    *,
};
use crate::{
    error::Place,
    kernel::{Bind, Which, source},
};
use rayon::prelude::*;
use std::panic::Location;

/// The axes that are reduced: `..lead` and `start..end`. They stay, with size 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// How many of the first axes; 0 for none.
    pub lead: usize,
    /// The first axis of the block.
    pub start: usize,
    /// The first one behind it.
    pub end: usize,
}

impl Over {
    /// For these axes; `None` where they are more than one block and another at the front.
    pub fn new(mut axes: Vec<usize>) -> Option<Over> {
        axes.sort_unstable();
        let cut = (1..axes.len()).find(|&i| axes[i] != axes[i - 1] + 1).unwrap_or(0);
        let (lead, block) = axes.split_at(cut);
        let start = block.first().copied().unwrap_or(0);
        let adjacent = block.iter().enumerate().all(|(i, &a)| a == start + i);
        let front = lead.first().is_none_or(|&a| a == 0);
        (adjacent && front).then_some(Over { lead: lead.len(), start, end: start + block.len() })
    }
    /// For the axes along which a tensor of the shape `kept` is repeated to give `x`.
    pub fn repeated(x: Shape, kept: Shape) -> Option<Over> {
        let front = x.rank().checked_sub(kept.rank())?;
        Over::new((0..x.rank()).filter(|&a| a < front || kept.dims()[a - front] != x.dims()[a]).collect())
    }
    /// The axes, for methods of [`Tensor`].
    pub fn axes(&self) -> Vec<isize> {
        (0..self.lead).chain(self.start..self.end).map(|a| a as isize).collect()
    }
    /// The shape of the result.
    pub fn kept(&self, x: Shape) -> Shape {
        (0..self.lead).chain(self.start..self.end).fold(x, |s, a| s.with(a, 1))
    }
    /// `[b, c, n, inner]`.
    fn sizes(&self, x: Shape) -> [usize; 4] {
        let product = |d: &[usize]| d.iter().product::<usize>();
        let d = x.dims();
        let (b, c) = (product(&d[..self.lead]), product(&d[self.lead..self.start]));
        match [b, c, product(&d[self.start..self.end]), product(&d[self.end..])] {
            // Over b alone, channels are the columns.
            [b, c, 1, inner] => [1, 1, b, c * inner],
            sizes => sizes,
        }
    }
    /// Elements that are reduced to one.
    pub fn count(&self, x: Shape) -> usize {
        x.elements() / self.kept(x).elements()
    }
    fn check(&self, x: Shape) -> Result<(), String> {
        let fits = self.lead <= self.start && self.start <= self.end && self.end <= x.rank();
        if fits { Ok(()) } else { Err(format!("there are no axes ..{} and {}..{}", self.lead, self.start, self.end)) }
    }
    /// For each element of the result, by the definition, the sum of what `f` gives for an element and that number.
    fn plain(&self, x: Shape, f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
        let [b, c, n, inner] = self.sizes(x);
        let at = |k: usize, o: usize, i: usize| ((o * c + k / inner) * n + i) * inner + k % inner;
        (0..c * inner).map(|k| (0..b).flat_map(|o| (0..n).map(move |i| (o, i))).map(|(o, i)| f(at(k, o, i), k)).sum()).collect()
    }
    /// The same for the CPU device, with several sums; `f` gets the elements of x and a, and the number of the result.
    fn fast<const K: usize>(&self, shape: Shape, x: &[f32], a: &[f32], f: impl Fn(f32, f32, usize) -> [f64; K] + Sync) -> Vec<[f64; K]> {
        let [b, c, n, inner] = self.sizes(shape);
        // A block is some rows of a line number; a task is some blocks. Rows enough that partial sums are few.
        let rows = (TASK / inner).clamp(16, n.max(16)).min(n);
        let blocks = n.div_ceil(rows);
        let task = (TASK / (rows * inner)).max(1);
        let mut parts = vec![[0.0; K]; b * c * blocks * inner];
        parts.par_chunks_mut(task * inner).enumerate().for_each(|(t, parts)| {
            for (j, part) in parts.chunks_mut(inner).enumerate() {
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
        let mut all = vec![[0.0; K]; c * inner];
        for (i, part) in parts.chunks(inner).enumerate() {
            let first = i / blocks % c * inner;
            for (to, part) in all[first..][..inner].iter_mut().zip(part) {
                to.iter_mut().zip(part).for_each(|(s, v)| *s += v);
            }
        }
        all
    }
    /// The lines `[b·c, n, inner]` of the first pass, and what is left to reduce then: the chunks of a line, and the b lines
    /// of a channel, each with the most elements that one of its parts stands for.
    fn stages(&self, x: Shape, fast: bool, caps: &Caps) -> (Lines, Vec<([usize; 3], usize)>) {
        let [b, c, n, inner] = self.sizes(x);
        let lines = Lines::of(fast, [b * c, n, inner], Can::Cut, caps);
        let left = [([b * c, lines.chunks(), inner], lines.chunk()), ([1, b, c * inner], n)];
        (lines, left.into_iter().filter(|([_, parts, _], _)| *parts > 1).collect())
    }
}

/// Elements of one parallel task on the CPU device.
const TASK: usize = 1 << 15;

/// The sums that `f` says over pairs of elements, in eight running values that need not wait for each other.
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

/// Σ (x − mean)² / (n − `correction`), the mean being that of the same elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variance {
    /// Over which axes.
    pub over: Over,
    /// What n is corrected by: 1 for the unbiased estimate.
    pub correction: usize,
}

impl Variance {
    fn divisor(&self, x: Shape) -> usize {
        self.over.count(x) - self.correction
    }
    /// A kernel that divides its first pass so.
    fn kernel(&self, x: Shape, fast: bool, caps: &Caps) -> Kernel {
        let (lines, left) = self.over.stages(x, fast, caps);
        let [_, _, n, _] = self.over.sizes(x);
        let name = lines.name();
        let (mut passes, mut scratch) = (Vec::new(), Vec::new());
        for k in 0..=left.len() {
            let (lines, piece) = if k == 0 { (lines, n) } else { (Lines::of(fast, left[k - 1].0, Can::Single, caps), left[k - 1].1) };
            // Parts are a mean and Σ (x − mean)², each in a scratch buffer.
            let mut binds = match k {
                0 => vec![lines.full(Bind::input("x", 0, DType::F32))],
                _ => vec![lines.full(Bind::scratch("x", 2 * k - 2)), lines.full(Bind::scratch("x_mean", 2 * k - 1))],
            };
            match left.get(k) {
                None => binds.push(lines.ones(Bind::output("y", DType::F32))),
                Some((sizes, _)) => {
                    let parts = [Bind::scratch("y", 2 * k), Bind::scratch("y_mean", 2 * k + 1)];
                    binds.extend(parts.map(|part| lines.ones(part.written())));
                    scratch.extend([sizes.iter().product::<usize>(); 2]);
                }
            }
            let entry = match (k, k == left.len()) {
                (0, true) => "forward",
                (0, false) => "forward_part",
                (_, true) => "forward_of_parts",
                (_, false) => "forward_part_of_parts",
            };
            let mut pass = lines.pass(source!("moments"), entry, binds);
            pass.params.extend([("whole", n), ("piece", piece)].map(|(name, x)| (name.to_string(), x.into())));
            pass.params.push(("divisor".into(), (self.divisor(x) as f32).into()));
            passes.push(pass);
        }
        Kernel { name, passes, scratch }
    }
}

impl OpDef for Variance {
    const NAME: &'static str = "variance";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        if x.dtype() != DType::F32 {
            return Err("takes floats, not labels (see to_f32)".into());
        }
        self.over.check(*x)?;
        let n = self.over.count(*x);
        if n <= self.correction {
            return Err(format!("{n} elements with a correction of {} have no variance", self.correction));
        }
        Ok(self.over.kept(*x))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let (shape, v) = (x[0].shape, x[0].f);
        let (n, divisor) = (self.over.count(shape) as f64, self.divisor(shape) as f64);
        let sum = self.over.plain(shape, |at, _| v[at].f64());
        let square = self.over.plain(shape, |at, k| (v[at].f64() - sum[k] / n).powi(2));
        y.f.iter_mut().zip(square).for_each(|(y, s)| *y = T::of(s / divisor));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let (shape, v) = (x[0].shape, x[0].f);
        let [_, _, n, inner] = self.over.sizes(shape);
        // Deviations from the first element: exact in f64, and one reading gives both sums.
        let from: Vec<f64> = (0..y.f.len()).map(|k| f64::from(v[k / inner * n * inner + k % inner])).collect();
        let all = self.over.fast(shape, v, v, |x, _, k| {
            let d = f64::from(x) - from[k];
            [d, d * d]
        });
        let (n, divisor) = (self.over.count(shape) as f64, self.divisor(shape) as f64);
        y.f.iter_mut().zip(all).for_each(|(y, [s, q])| *y = (larger(q - s * s / n, 0.0) / divisor) as f32);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // Σ (x − mean) = 0: what flows through the mean vanishes, whatever x is.
        let scale = 2.0 / self.divisor(x[0].shape()) as f32;
        vec![Some((x[0] - x[0].mean(&self.over.axes(), true)) * (dy * scale))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        distinct(|fast| self.kernel(x[0], fast, caps))
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
            let op = Variance { over, correction: i % 2 };
            cases.push(Case::new(format!("{x} over ..{lead} and {start}..{end}"), op, &[x]).range(0, -1.0, 2.0));
        }
        let far = |dims: [usize; 3], lead| {
            let op = Variance { over: Over { lead, start: 2, end: 3 }, correction: 0 };
            Case::new("mean far from 0", op, &[Shape::from(dims)]).range(0, 4096.0, 4097.0)
        };
        // The gradient has x − mean, whose mean is rounded: only the value is checked.
        cases.extend([far([3, 5, 257], 0).flat(), far([3, 2, 10_007], 1).flat()]);
        cases
    }
}

/// Shapes, and the axes that are reduced.
fn shapes() -> Vec<(&'static [usize], usize, usize, usize)> {
    vec![
        (&[1], 0, 0, 1),
        // Along: short lines, at and around the lanes of a workgroup, cut into chunks.
        (&[7, 31], 0, 1, 2),
        (&[5, 33], 0, 1, 2),
        (&[3, 257], 0, 1, 2),
        (&[2, 17_011], 0, 1, 2),
        // Across.
        (&[67, 37], 0, 0, 1),
        (&[1_031, 70], 0, 0, 1),
        (&[3, 33, 5], 0, 1, 2),
        // Channels: over the batch and over what is behind the channels.
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

/// Σ a·(x − mean): a, x `[b, c, n, inner]`, and (with `mean`) a mean of the shape of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comoment {
    /// Over which axes.
    pub over: Over,
    /// Whether there is a mean; without one it is 0.
    pub mean: bool,
}

impl Comoment {
    /// A kernel that divides its passes so.
    fn kernel(&self, x: Shape, fast: bool, caps: &Caps) -> Kernel {
        let (lines, left) = self.over.stages(x, fast, caps);
        let [_, c, _, _] = self.over.sizes(x);
        let name = lines.name();
        let (mut passes, mut scratch) = (Vec::new(), Vec::new());
        let mut binds = vec![lines.full(Bind::input("a", 0, DType::F32)), lines.full(Bind::input("x", 1, DType::F32))];
        if self.mean {
            // It is read across lines.
            binds.push(Bind::input("mean", 2, DType::F32));
        }
        let to = |left: &[([usize; 3], usize)], scratch: &mut Vec<usize>| match left.first() {
            None => Which::Out,
            Some((sizes, _)) => {
                scratch.push(sizes.iter().product());
                Which::Scratch(scratch.len() - 1)
            }
        };
        let mut from = to(&left, &mut scratch);
        binds.push(lines.ones(Bind { which: from, ..Bind::output("y", DType::F32) }));
        let mut pass = lines.pass(source!("moments"), if self.mean { "grad_scale" } else { "grad_scale_plain" }, binds);
        pass.params.push(("c".into(), c.into()));
        passes.push(pass);
        for (k, (sizes, _)) in left.iter().enumerate() {
            let next = to(&left[k + 1..], &mut scratch);
            fold_passes(Fold::Sum, *sizes, [from, next], fast, caps, &mut passes, &mut scratch);
            from = next;
        }
        Kernel { name, passes, scratch }
    }
}

impl OpDef for Comoment {
    const NAME: &'static str = "comoment";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let ([a, x, ..], true) = (x, x.len() == 2 + usize::from(self.mean)) else {
            return Err(format!("takes {} inputs, not {}", 2 + usize::from(self.mean), x.len()));
        };
        if x.dtype() != DType::F32 || a != x {
            return Err("takes two tensors of floats of one shape".into());
        }
        self.over.check(*x)?;
        Ok(self.over.kept(*x))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let (a, v) = (x[0].f, x[1].f);
        let mean = |k: usize| if self.mean { x[2].f[k].f64() } else { 0.0 };
        let sum = self.over.plain(x[0].shape, |at, k| a[at].f64() * (v[at].f64() - mean(k)));
        y.f.iter_mut().zip(sum).for_each(|(y, s)| *y = T::of(s));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let (shape, a, v) = (x[0].shape, x[0].f, x[1].f);
        let all = match x.get(2) {
            Some(mean) => self.over.fast(shape, v, a, |x, a, k| [f64::from(a) * (f64::from(x) - f64::from(mean.f[k]))]),
            None => self.over.fast(shape, v, a, |x, a, _| [f64::from(a) * f64::from(x)]),
        };
        y.f.iter_mut().zip(all).for_each(|(y, [s])| *y = s as f32);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (a, v) = (x[0], x[1]);
        match x.get(2) {
            Some(&mean) => vec![Some((v - mean) * dy), Some(a * dy), Some(-(a.sum_to(dy.shape()) * dy))],
            None => vec![Some(v * dy), Some(a * dy)],
        }
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        distinct(|fast| self.kernel(x[0], fast, caps))
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.over.count(x[0])
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        3 * x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |&(dims, lead, start, end): &(&[usize], usize, usize, usize), mean: bool| {
            let x = Shape::new(dims).expect("at most six axes");
            let over = Over { lead, start, end };
            let inputs = [x, x, over.kept(x)];
            let name = format!("{x} over ..{lead} and {start}..{end}{}", if mean { " with a mean" } else { "" });
            // No sums near 0: rounding is all that is left of larger terms there.
            let case = Case::new(name, Comoment { over, mean }, &inputs[..2 + usize::from(mean)]).range(0, 0.1, 2.0).range(1, 0.1, 2.0);
            if mean { case.range(2, -1.0, 0.0) } else { case }
        };
        // Without a mean is what scales of channels need, with one what standardises them.
        let both = shapes().into_iter().flat_map(|s| [(s, false), (s, true)]);
        both.filter(|((_, lead, ..), mean)| *lead > 0 || !mean).chain([(shapes()[5], true)]).map(|(s, mean)| case(&s, mean)).collect()
    }
}

impl<'g> Tensor<'g> {
    /// Σ self·(x − mean) over the axes along which `kept` is repeated to give this shape; the result has the shape `kept`.
    #[track_caller]
    pub(crate) fn comoment(self, x: Tensor<'g>, mean: Option<Tensor<'g>>, kept: Shape) -> Tensor<'g> {
        let whole = |over: &Over, t: Tensor<'g>| t.reshape(over.kept(x.shape()));
        match Over::repeated(x.shape(), kept).filter(|over| over.end > over.start) {
            Some(over) if mean.is_none_or(|m| m.shape().same_dims(kept)) => {
                let inputs: Vec<Tensor> = [self, x].into_iter().chain(mean.map(|m| whole(&over, m))).collect();
                self.graph.apply(Comoment { over, mean: mean.is_some() }, &inputs).reshape(kept)
            }
            _ => (self * mean.map_or(x, |m| x - m)).sum_to(kept),
        }
    }
    /// Σ (x − mean)² / (n − `correction`) over the n elements along `axes`. A correction of 1 gives the unbiased
    /// estimate. A mean far from 0 does no harm. See [`Tensor::sum`].
    #[track_caller]
    pub fn variance(self, axes: &[isize], correction: usize, keepdim: bool) -> Tensor<'g> {
        let (x, place) = (self.shape(), Location::caller());
        let Some(mut reduced) = self.named_axes("variance", axes, place) else { return self.graph.dead() };
        let op = |over| Variance { over, correction };
        let y = match Over::new(reduced.clone()) {
            Some(over) => self.graph.apply_at(Arc::new(op(over)), &[self], place),
            None => {
                // Brought together, at the end.
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
    /// The square root of the [variance](Tensor::variance).
    #[track_caller]
    pub fn std(self, axes: &[isize], correction: usize, keepdim: bool) -> Tensor<'g> {
        self.variance(axes, correction, keepdim).sqrt()
    }
    /// Axes from the front; `None` after a mistake in them, which is noted as one of `name`.
    fn named_axes(self, name: &str, axes: &[isize], place: Place) -> Option<Vec<usize>> {
        Some(self.blocks(name, axes, place)?.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn golden() {
        let correction = |args: &serde_json::Value| args["correction"].as_u64().unwrap() as usize;
        checks::golden("variance", |args, x| x[0].variance(&checks::axes(args), correction(args), args["keepdim"] == true));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Variance>();
        checks::cpu::<Comoment>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Variance>();
        checks::wgsl::<Comoment>();
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
        let start = |f: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| {
            let g = Graph::training();
            assert!(f(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        start(&|g| g.input([2, 1]).variance(&[1], 1, false), "variance: [2, 1]: 1 elements with a correction of 1 have no variance (");
        start(&|g| g.input([2, 1]).std(&[7], 1, true), "variance: [2, 1]: there is no axis 7 (src/ops/moments.rs:");
        start(&|g| g.labels([2]).variance(&[0], 0, true), "variance: u32 [2]: takes floats, not labels (see to_f32) (");
        let [over, mean] = [Over { lead: 0, start: 0, end: 3 }; 2];
        start(&|g| g.input([2]).apply(Variance { over, correction: 0 }), "variance: [2]: there are no axes ..0 and 0..3 (");
        start(&|g| g.input([2]).apply(Comoment { over: mean, mean: false }), "comoment: [2]: takes 2 inputs, not 1 (");
        let op = Comoment { over, mean: false };
        start(&|g| g.apply(op, &[g.input([2]), g.input([3])]), "comoment: [2] × [3]: takes two tensors of floats of one shape (");
    }
}
