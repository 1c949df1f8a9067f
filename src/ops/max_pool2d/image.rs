//! The windows that cover an image.

use super::*;
use crate::{
    kernel::{Bind, Pass, Word, source},
    simd::wide,
};
use std::ops::Range;

/// The windows along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windows {
    pub(in crate::ops) n: usize,
    pub(in crate::ops) out: usize,
    pub(in crate::ops) kernel: usize,
    pub(in crate::ops) stride: usize,
    pub(in crate::ops) padding: usize,
    pub(super) dilation: usize,
}

impl Windows {
    /// Returns the windows over `n` elements with `padding` more elements on each side. A window has `kernel` elements with a
    /// distance of `dilation`. Each window starts `stride` elements behind the start of the window before it. With `ceil` the last
    /// window may reach past the padding, but it must not start behind the `n` elements.
    ///
    /// # Errors
    /// A sentence, if a number is 0, or if a window contains no element. The flag `empty` allows windows without elements.
    pub fn new(
        n: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        dilation: usize,
        ceil: bool,
        empty: bool,
    ) -> Result<Windows, String> {
        for (name, value) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
            if value == 0 {
                return Err(format!("{name} 0 should be at least 1"));
            }
        }
        let span = (kernel - 1).saturating_mul(dilation).saturating_add(1);
        let padded = n.saturating_add(padding.saturating_mul(2));
        if span > padded {
            let dilated = if dilation > 1 { format!(" with dilation {dilation}") } else { String::new() };
            return Err(format!("a kernel of {kernel}{dilated} is larger than {n} elements with padding {padding}"));
        }
        if padded > i32::MAX as usize {
            return Err(format!("{n} elements with padding {padding} are more than an axis can hold"));
        }
        // A stride or a dilation beyond the padded size has the same effect as the padded size.
        let (stride, dilation) = (stride.min(padded), dilation.min(padded));
        let mut out = (padded - span) / stride + 1;
        if ceil && !(padded - span).is_multiple_of(stride) && out * stride < n + padding {
            out += 1;
        }
        let windows = Windows { n, out, kernel, stride, padding, dilation };
        // A window that starts at one of the `n` elements contains that element. A window that starts before them may miss them.
        // The first window is the farthest away, but with gaps between the taps, any of the first windows may miss them. If any
        // window starts behind the `n` elements, the last window does.
        let before = if dilation > 1 { padding.div_ceil(stride) } else { 1 };
        let all = (0..out).take(before).chain([out - 1]);
        match all.take_while(|_| !empty).find(|&o| windows.inside(o).is_empty()) {
            Some(o) => Err(format!("window {o} contains none of the {n} elements; use a smaller padding or dilation")),
            None => Ok(windows),
        }
    }
    /// Returns the taps of window `o` that lie inside of the image.
    pub(super) fn inside(&self, o: usize) -> Range<usize> {
        let start = o * self.stride;
        let first = self.padding.saturating_sub(start).div_ceil(self.dilation);
        first..(self.n + self.padding).saturating_sub(start).div_ceil(self.dilation).min(self.kernel)
    }
    /// Returns the element at a tap of window `o`, or `None` if the tap lies outside.
    pub(super) fn at(&self, o: usize, tap: usize) -> Option<usize> {
        (o * self.stride + tap * self.dilation).checked_sub(self.padding).filter(|&i| i < self.n)
    }
}

/// The windows of an image. The image is the last two axes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Image {
    pub rows: Windows,
    pub columns: Windows,
}

impl Image {
    /// Returns the number of elements in a window.
    pub(crate) fn taps(&self) -> usize {
        self.rows.kernel * self.columns.kernel
    }
    /// Returns the number of elements in a plane of x.
    pub fn plane(&self) -> usize {
        self.rows.n * self.columns.n
    }
    /// Returns the shape of y for the shape of x. With `transposed`, returns the shape of x for the shape of y.
    pub fn shape(&self, x: Shape, transposed: bool) -> Result<Shape, String> {
        let (n, out) = ([self.rows.n, self.columns.n], [self.rows.out, self.columns.out]);
        let (from, to) = if transposed { (out, n) } else { (n, out) };
        if x.rank() < 2 || x.dims()[x.rank() - 2..] != from {
            return Err(format!("the last two axes should be {from:?}"));
        }
        Ok(x.with(x.rank() - 2, to[0]).with(x.rank() - 1, to[1]))
    }
    /// Returns the largest element of window `w` of a plane, and its tap.
    pub fn largest<T: Real>(&self, x: &[T], w: usize) -> (T, usize) {
        let (o, q) = (w / self.columns.out, w % self.columns.out);
        let mut best: Option<(T, usize)> = None;
        for a in self.rows.inside(o) {
            let row = (o * self.rows.stride + a * self.rows.dilation - self.rows.padding) * self.columns.n;
            for b in self.columns.inside(q) {
                let v = x[row + q * self.columns.stride + b * self.columns.dilation - self.columns.padding];
                let more = best.is_none_or(|(m, _)| (v > m || v.is_nan()) && !m.is_nan());
                best = if more { Some((v, a * self.columns.kernel + b)) } else { best };
            }
        }
        best.expect("every window has an element")
    }
    /// Finds the largest element of each window of row `o`, and its tap, tap by tap. If `taps` is empty, the taps are not stored.
    pub(crate) fn scan(&self, x: &[f32], o: usize, best: &mut [f32], taps: &mut [u32]) {
        let (rows, columns) = (self.rows, self.columns);
        best.fill(f32::NEG_INFINITY);
        let first = |q: usize| rows.inside(o).start * columns.kernel + columns.inside(q).start;
        taps.iter_mut().enumerate().for_each(|(q, t)| *t = first(q) as u32);
        for (a, b) in rows.inside(o).flat_map(|a| (0..columns.kernel).map(move |b| (a, b))) {
            // The windows that have this tap inside of the image.
            let before = |end: usize| end.saturating_sub(b * columns.dilation).div_ceil(columns.stride).min(columns.out);
            let having = before(columns.padding)..before(columns.n + columns.padding);
            if having.is_empty() {
                continue;
            }
            let row = &x[(o * rows.stride + a * rows.dilation - rows.padding) * columns.n..][..columns.n];
            let x = &row[having.start * columns.stride + b * columns.dilation - columns.padding..];
            let (best, tap) = (&mut best[having.clone()], (a * columns.kernel + b) as u32);
            let taps = if taps.is_empty() { &mut [] } else { &mut taps[having] };
            match columns.stride {
                1 => keep(best, taps, x.iter(), tap),
                stride => keep(best, taps, x.iter().step_by(stride), tap),
            }
        }
    }
    /// Returns true if the windows have 2 by 2 elements, lie side by side and have no padding.
    pub(crate) fn is_halved(&self) -> bool {
        [self.rows, self.columns].iter().all(|w| [w.kernel, w.stride, w.padding, w.dilation] == [2, 2, 0, 1] && w.out * 2 <= w.n)
    }
    /// Calls `put` for each window of row `o` with its largest element and the tap. The image must be [halved](Image::is_halved).
    pub(crate) fn halve<Y>(&self, x: &[f32], o: usize, y: &mut [Y], put: impl Fn(&mut Y, f32, u32)) {
        let n = self.columns.n;
        let (a, b) = (&x[2 * o * n..][..n], &x[(2 * o + 1) * n..][..n]);
        wide(
            #[inline(always)]
            || {
                for ((y, a), b) in y.iter_mut().zip(a.as_chunks::<2>().0).zip(b.as_chunks::<2>().0) {
                    let larger = |(best, tap): (f32, u32), (x, t): (f32, u32)| {
                        let stays = best >= x || best.is_nan();
                        (if stays { best } else { x }, if stays { tap } else { t })
                    };
                    let (best, tap) = larger(larger(larger((a[0], 0), (a[1], 1)), (b[0], 2)), (b[1], 3));
                    put(y, best, tap);
                }
            },
        );
    }
    /// Computes a plane of dx from a plane of dy and a plane of taps. The image must be [halved](Image::is_halved).
    pub fn double(&self, dy: &[f32], taps: &[u32], dx: &mut [f32]) {
        let (n, out) = (self.columns.n, self.columns.out);
        for ((dx, dy), taps) in dx.chunks_mut(2 * n).zip(dy.chunks(out).take(self.rows.out)).zip(taps.chunks(out)) {
            let (a, b) = dx.split_at_mut(n);
            wide(
                #[inline(always)]
                || {
                    let windows = a.as_chunks_mut::<2>().0.iter_mut().zip(b.as_chunks_mut::<2>().0);
                    for ((a, b), (&dy, &t)) in windows.zip(dy.iter().zip(taps)) {
                        *a = [if t == 0 { dy } else { 0.0 }, if t == 1 { dy } else { 0.0 }];
                        *b = [if t == 2 { dy } else { 0.0 }, if t == 3 { dy } else { 0.0 }];
                    }
                },
            );
            a[2 * out..].fill(0.0);
            b[2 * out..].fill(0.0);
        }
        dx[2 * self.rows.out * n..].fill(0.0);
    }
    /// Returns a pass whose units are the written elements.
    pub fn pass(&self, entry: &'static str, binds: Vec<Bind>, units: usize, caps: &Caps) -> Pass {
        let wg = caps.workgroup(256);
        let (r, c) = (self.rows, self.columns);
        let consts: [(&'static str, usize); 9] = [
            ("WG", wg),
            ("K_H", r.kernel),
            ("K_W", c.kernel),
            ("S_H", r.stride),
            ("S_W", c.stride),
            ("P_H", r.padding),
            ("P_W", c.padding),
            ("D_H", r.dilation),
            ("D_W", c.dilation),
        ];
        Pass {
            source: source!("max_pool2d"),
            entry,
            consts: consts.map(|(name, x)| (name, Word::from(x))).to_vec(),
            params: [("h", r.n), ("w", c.n), ("oh", r.out), ("ow", c.out)].map(|(name, x)| (name.to_string(), x.into())).to_vec(),
            binds,
            code: String::new(),
            units,
            per_group: wg,
            step: false,
        }
    }
}

/// Updates `best` with each larger element of `x`, or with the first NaN. Updates `taps` with the tap of that element.
fn keep<'a>(best: &mut [f32], taps: &mut [u32], x: impl Iterator<Item = &'a f32>, tap: u32) {
    let stays = |best: f32, x: f32| best >= x || best.is_nan();
    if taps.is_empty() {
        best.iter_mut().zip(x).for_each(|(best, &x)| *best = if stays(*best, x) { *best } else { x });
    } else {
        for ((best, t), &x) in best.iter_mut().zip(taps).zip(x) {
            (*best, *t) = if stays(*best, x) { (*best, *t) } else { (x, tap) };
        }
    }
}
