//! Resamples images: means of windows, resizing, flipping.
//!
//! `y[g,o,q] = Σ_i Σ_j H[o,i]·W[q,j]·x[g,i,j]`. The matrices `H` and `W` are sparse: an output is made of a few neighbouring
//! elements of each axis. `Along` gives these elements. The gradient is the same sum with both matrices transposed. So the gradient
//! of the gradient is the op itself.

mod along;
mod cubic;
mod tensor;

pub(crate) use along::Along;
pub use tensor::{AvgPool, Upsample};

use super::*;
use crate::{
    kernel::{Bind, Pass, Word, source},
    scratch,
    threads::{HEAVY_TASK, lines},
};

/// The op: x `[.., h, w]` → `[.., oh, ow]`. Transposed: dy `[.., oh, ow]` → `[.., h, w]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Resample {
    /// The rule for the axis before the last.
    pub rows: Along,
    /// The rule for the last axis.
    pub columns: Along,
    /// Whether this is the gradient.
    pub transposed: bool,
}

/// An element that an output is made of, and its weight.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Tap {
    from: u32,
    weight: f32,
}

/// The elements that each output of an axis is made of.
#[derive(Clone, Copy)]
struct TapTable<'a> {
    /// The position of the first tap of each output, and then the number of all taps.
    starts: &'a [u32],
    taps: &'a [Tap],
}

impl TapTable<'_> {
    fn with(along: Along, transposed: bool, f: impl FnOnce(TapTable)) {
        let rows = if transposed { along.n } else { along.out };
        let pairs = move |o: usize| along.taps(o).iter().map(move |(i, w)| if transposed { (i, o, w) } else { (o, i, w) });
        let count: usize = (0..along.out).map(|o| along.taps(o).iter().count()).sum();
        scratch::with(rows + 2 + 2 * count, |words: &mut [u32]| {
            // While the taps are filled in, each start is stored one place further back.
            let (starts, taps) = words.split_at_mut(rows + 2);
            let taps: &mut [Tap] = bytemuck::cast_slice_mut(taps);
            starts.fill(0);
            (0..along.out).flat_map(pairs).for_each(|(to, ..)| starts[to + 2] += 1);
            (0..=rows).for_each(|i| starts[i + 1] += starts[i]);
            for (to, from, w) in (0..along.out).flat_map(pairs) {
                let at = &mut starts[to + 1];
                taps[*at as usize] = Tap { from: from as u32, weight: w as f32 };
                *at += 1;
            }
            f(TapTable { starts: &starts[..=rows], taps });
        });
    }
    fn rows(&self) -> usize {
        self.starts.len() - 1
    }
    fn row(&self, row: usize) -> &[Tap] {
        &self.taps[self.starts[row] as usize..self.starts[row + 1] as usize]
    }
}

impl Resample {
    /// Returns an upper bound, approximately, for the number of elements that an output is made of.
    fn most(&self) -> usize {
        let most = |a: Along| if self.transposed { a.most() * a.out.div_ceil(a.n) } else { a.most() };
        most(self.rows) * most(self.columns)
    }
}

impl OpDef for Resample {
    const NAME: &'static str = "resample";

    fn called(&self) -> &'static str {
        // One of the two axes may be unchanged.
        let [rows, columns] = [self.rows, self.columns].map(|a| a.called());
        if rows == "avg_pool2d" { columns } else { rows }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        let (n, out) = ([self.rows.n, self.columns.n], [self.rows.out, self.columns.out]);
        let (from, to) = if self.transposed { (out, n) } else { (n, out) };
        if x.rank() < 2 || x.dims()[x.rank() - 2..] != from {
            return Err(format!("the last two axes should be {from:?}"));
        }
        Ok(x.with(x.rank() - 2, to[0]).with(x.rank() - 1, to[1]))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let (h, w) = (self.rows, self.columns);
        y.f.fill(T::zero());
        for g in 0..x[0].f.len() / (x[0].shape.last() * x[0].shape.dims()[x[0].shape.rank() - 2]) {
            for (o, q) in (0..h.out).flat_map(|o| (0..w.out).map(move |q| (o, q))) {
                for (i, a) in h.taps(o).iter() {
                    for (j, b) in w.taps(q).iter() {
                        let (small, large) = ((g * h.out + o) * w.out + q, (g * h.n + i) * w.n + j);
                        let (to, from) = if self.transposed { (large, small) } else { (small, large) };
                        y.f[to] += T::of(a * b) * x[0].f[from];
                    }
                }
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let (width, to_width) = (x[0].shape.last(), y.shape.last());
        let plane = if self.transposed { self.rows.out } else { self.rows.n } * width;
        // First add up whole rows of x, then combine columns.
        let line = |rows: TapTable, columns: TapTable, k: usize, y: &mut [f32], sum: &mut [f32]| {
            let x = &x[0].f[k / rows.rows() * plane..][..plane];
            sum.fill(0.0);
            for &Tap { from, weight } in rows.row(k % rows.rows()) {
                sum.iter_mut().zip(&x[from as usize * width..]).for_each(|(s, x)| *s += weight * x);
            }
            for (q, y) in y.iter_mut().enumerate() {
                *y = columns.row(q).iter().map(|tap| tap.weight * sum[tap.from as usize]).sum();
            }
        };
        let least = (HEAVY_TASK / width.max(to_width)).max(1);
        TapTable::with(self.rows, self.transposed, |rows| {
            TapTable::with(self.columns, self.transposed, |columns| {
                lines(y.f, to_width, least, |k, y| scratch::with(width, |sum| line(rows, columns, k, y, sum)));
            });
        });
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.apply(Resample { transposed: !self.transposed, ..*self }))]
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let wg = caps.workgroup(256);
        let [(rule_h, h), (rule_w, w)] = [self.rows, self.columns].map(|a| a.words());
        let mut consts: Vec<(&'static str, Word)> = vec![("WG", wg.into()), ("RULE_H", rule_h.into()), ("RULE_W", rule_w.into())];
        let rules = ["WINDOW", "COUNTED", "BINS", "NEAREST", "LINEAR", "FLIP"];
        consts.extend(rules.iter().zip(0u32..).map(|(&rule, number)| (rule, Word::from(number))));
        let axis = |name: &str, a: Along, words: [Word; 3]| {
            let all = [("n", a.n.into()), ("out", a.out.into()), ("a", words[0]), ("b", words[1]), ("d", words[2])];
            all.map(|(field, word)| (format!("{name}_{field}"), word))
        };
        let (entry, [from, to]) = if self.transposed { ("grad_x", ["dy", "dx"]) } else { ("forward", ["x", "y"]) };
        let pass = Pass {
            source: source!("resample"),
            entry,
            consts,
            params: [axis("h", self.rows, h), axis("w", self.columns, w)].concat(),
            binds: vec![Bind::input(from, 0, DType::F32), Bind::output(to, DType::F32).per_unit(1)],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        vec![Kernel::one("elements", pass)]
    }
    fn flops(&self, x: &[Shape], y: Shape) -> u64 {
        (2 * self.most() * y.elements().min(x[0].elements())) as u64
    }
    fn terms(&self, _x: &[Shape]) -> usize {
        self.most()
    }
    fn cases() -> Vec<Case> {
        tensor::cases()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn cpu() {
        checks::cpu::<Resample>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Resample>();
    }
    #[test]
    fn a_row_of_weights_sums_to_one() {
        for case in tensor::sizes() {
            for along in case {
                for o in 0..along.out {
                    let taps = along.taps(o);
                    let sum: f64 = taps.iter().map(|(_, w)| w).sum();
                    // With counted padding the sum may be smaller, down to 0.
                    let whole = !format!("{along:?}").contains("counted: true");
                    assert!((taps.first < taps.end || !whole) && taps.end <= along.n, "{along:?}: {taps:?}");
                    assert!(sum <= 1.0 + 1e-12 && (!whole || sum >= 1.0 - 1e-12), "{along:?}: {sum}");
                }
            }
        }
    }
}
