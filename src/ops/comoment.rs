//! Σ a·(x − mean) over axes, in one reading of a and x. It is the gradient of a factor of x − mean (see [`standardise`]). With x
//! divided by its spread, it is the gradient of a factor of a normalisation (see [`normalised`]).

use super::{
    moments::{Over, Statistics, shapes},
    reduce::{Fold, distinct, fold_passes},
    *,
};
use crate::{
    kernel::{Bind, Which, source},
    scratch,
};

/// The op: Σ a·(x − mean). a and x are `[b, c, n, inner]`. A third input has the mean, in the shape of the result, or the
/// statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comoment {
    /// The reduced axes.
    pub over: Over,
    /// The number that is subtracted from x.
    pub about: About,
}

/// The number that is subtracted from x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum About {
    /// 0: nothing is subtracted.
    Zero,
    /// A mean, which is the third input.
    Mean,
    /// The mean of x itself. The difference is divided by the spread of x. The third input is [`Statistics`] of x with these
    /// settings.
    Own {
        /// See [`Statistics::centre`].
        centre: bool,
        /// See [`Statistics::eps`].
        eps: f32,
    },
}

impl About {
    /// Returns the number of inputs.
    fn inputs(self) -> usize {
        if self == About::Zero { 2 } else { 3 }
    }
}

impl Comoment {
    /// Returns the kernel with the portable or the fast division into lines.
    fn kernel(&self, x: Shape, fast: bool, caps: &Caps) -> Kernel {
        let (lines, left) = self.over.stages(x, fast, caps);
        let [_, c, _, inner] = self.over.sizes(x);
        let name = lines.name();
        let (mut passes, mut scratch) = (Vec::new(), Vec::new());
        let mut binds = vec![lines.full(Bind::input("a", 0, DType::F32)), lines.full(Bind::input("x", 1, DType::F32))];
        if self.about != About::Zero {
            // All lines read the mean, so it is bound whole.
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
        let entry = match self.about {
            About::Zero => "grad_scale_plain",
            About::Mean => "grad_scale",
            About::Own { .. } => "grad_scale_own",
        };
        let mut pass = lines.pass(source!("moments"), entry, binds);
        pass.consts.push(("OWN", u32::from(entry == "grad_scale_own").into()));
        pass.params.extend([("c", c), ("row", c * inner)].map(|(name, x)| (name.to_string(), x.into())));
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
        let ([a, x, ..], true) = (x, x.len() == self.about.inputs()) else {
            return Err(format!("takes {} inputs, not {}", self.about.inputs(), x.len()));
        };
        if x.dtype() != DType::F32 || a != x {
            return Err("takes two tensors of floats of one shape".into());
        }
        self.over.check(*x)?;
        Ok(self.over.kept(*x))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let (a, v) = (x[0].f, x[1].f);
        let n = y.f.len();
        let factor = |x_at: f64, k: usize| match self.about {
            About::Zero => x_at,
            About::Mean => x_at - x[2].f[k].f64(),
            About::Own { .. } => (x_at / 4.0 - x[2].f[k].f64() - x[2].f[n + k].f64()) * x[2].f[2 * n + k].f64(),
        };
        let sum = self.over.plain(x[0].shape, |at, k| a[at].f64() * factor(v[at].f64(), k));
        y.f.iter_mut().zip(sum).for_each(|(y, s)| *y = T::of(s));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let (shape, a, v) = (x[0].shape, x[0].f, x[1].f);
        let (n, third) = (y.f.len(), x.get(2).map_or(&[][..], |t| t.f));
        let wide = |k: usize| f64::from(third[k]);
        let put = |k: usize, [s]: [f64; 1]| y.f[k] = s as f32;
        match self.about {
            About::Zero => self.over.fast(shape, v, a, |x, a, _| [f64::from(a) * f64::from(x)], put),
            About::Mean => self.over.fast(shape, v, a, |x, a, k| [f64::from(a) * (f64::from(x) - wide(k))], put),
            About::Own { .. } => scratch::with(2 * n, |all: &mut [f64]| {
                let all = all.as_chunks_mut::<2>().0;
                all.iter_mut().enumerate().for_each(|(k, all)| *all = [wide(k) + wide(n + k), wide(2 * n + k)]);
                let all = &*all;
                self.over.fast(shape, v, a, |x, a, k| [f64::from(a) * ((f64::from(x) / 4.0 - all[k][0]) * all[k][1])], put);
            }),
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (a, v) = (x[0], x[1]);
        match self.about {
            About::Zero => vec![Some(v * dy), Some(a * dy)],
            About::Mean => vec![Some((v - x[2]) * dy), Some(a * dy), Some(-(a.sum_to(dy.shape()) * dy))],
            About::Own { centre, eps } => {
                let own = Statistics { over: self.over, centre, eps };
                vec![Some(own.normalised(v) * dy), Some(own.gradient(v, a * dy, None)), None]
            }
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
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // In a sum near 0, large terms cancel and only their rounding errors remain. These ranges avoid such sums.
        let mut fills = vec![Fill::Range(0.1, 2.0), Fill::Range(0.1, 2.0), Fill::Range(-1.0, 0.0)];
        fills.truncate(x.len());
        fills
    }
    fn cases() -> Vec<Case> {
        let case = |(dims, lead, start, end): (&[usize], usize, usize, usize), about: About| {
            let x = Shape::new(dims).expect("at most six axes");
            let over = Over { lead, start, end };
            let kept = over.kept(x);
            let (third, what) = match about {
                About::Zero => (None, ""),
                About::Mean => (Some(kept), " with a mean"),
                About::Own { .. } => (Some(Shape::from([4, kept.elements()])), " with statistics"),
            };
            let inputs: Vec<Shape> = [x, x].into_iter().chain(third).collect();
            let name = format!("{x} over ..{lead} and {start}..{end}{what}");
            let case = Case::new(name, Comoment { over, about }, &inputs);
            match about {
                About::Zero | About::Mean => case,
                // The third input is not the statistics of x, so the op's gradient does not hold here. Tests of layers check it.
                About::Own { .. } => case.flat(),
            }
        };
        let own = About::Own { centre: true, eps: 0.1 };
        let mut cases = Vec::new();
        for (i, shape) in shapes().into_iter().enumerate() {
            let lead = shape.1 > 0;
            let all = [(About::Zero, true), (About::Mean, lead || i == 5), (own, lead || i == 5)];
            cases.extend(all.into_iter().filter(|a| a.1).map(|(about, _)| case(shape, about)));
        }
        cases
    }
}

impl<'g> Tensor<'g> {
    /// Returns Σ self·(x − mean) over the axes along which `kept` is repeated to get this shape. The result has the shape `kept`.
    #[track_caller]
    pub(crate) fn comoment(self, x: Tensor<'g>, mean: Option<Tensor<'g>>, kept: Shape) -> Tensor<'g> {
        let whole = |over: &Over, t: Tensor<'g>| t.reshape(over.kept(x.shape()));
        match Over::repeated(x.shape(), kept).filter(|over| over.end > over.start) {
            Some(over) if mean.is_none_or(|m| m.shape().same_dims(kept)) => {
                let inputs: Vec<Tensor> = [self, x].into_iter().chain(mean.map(|m| whole(&over, m))).collect();
                let about = if mean.is_some() { About::Mean } else { About::Zero };
                self.graph.apply(Comoment { over, about }, &inputs).reshape(kept)
            }
            _ => (self * mean.map_or(x, |m| x - m)).sum_to(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn cpu() {
        checks::cpu::<Comoment>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Comoment>();
    }
    #[test]
    fn mistakes() {
        let op = Comoment { over: Over { lead: 0, start: 0, end: 3 }, about: About::Zero };
        checks::mistake(&|g| g.input([2]).apply(op), "comoment: [2]: takes 2 inputs, not 1 (");
        checks::mistake(&|g| g.apply(op, &[g.input([2]), g.input([3])]), "comoment: [2] × [3]: takes two tensors of floats of one shape (");
    }
}
