//! One axis of a resampling: which elements an output is made of, and in what proportion.

use crate::{kernel::Word, ops::max_pool2d::Windows};

/// How `out` elements are made from `n` along an axis. The twin of `taps` in `shaders/resample.wgsl`, in whole numbers, so
/// that both always agree about an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Along {
    rule: Interpolation,
    pub(super) n: usize,
    pub(super) out: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Interpolation {
    /// The mean of a window; `counted`: of its padding too.
    Window { kernel: usize, stride: usize, padding: usize, counted: bool },
    /// The mean of a part, when the axis is cut into `out` of them.
    Bins,
    /// The point `(a·o + b) / d`, not below 0: the element before it, or its two neighbours in proportion.
    Point { a: usize, b: isize, d: usize, linear: bool },
    /// From the back.
    Flip,
}

/// The elements `first..end`, the first of them with `weight`, each other one with `other`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taps {
    pub first: usize,
    pub end: usize,
    pub weight: f64,
    pub other: f64,
}

impl Taps {
    /// Elements and their weights.
    pub fn iter(self) -> impl Iterator<Item = (usize, f64)> {
        (self.first..self.end).map(move |i| (i, if i == self.first { self.weight } else { self.other }))
    }
}

impl Along {
    /// The mean of each window; with `counted` its padding takes part, as zeros.
    pub fn mean(windows: Windows, counted: bool) -> Along {
        let Windows { n, out, kernel, stride, padding, .. } = windows;
        Along { rule: Interpolation::Window { kernel, stride, padding, counted }, n, out }
    }
    /// The means of `out` parts, from `⌊o·n / out⌋` to before `⌈(o + 1)·n / out⌉`.
    ///
    /// # Errors
    /// A sentence, where `out` is 0 or the sizes are too large to multiply.
    pub(crate) fn bins(n: usize, out: usize) -> Result<Along, String> {
        Along { rule: Interpolation::Bins, n, out }.checked()
    }
    /// The element at `⌊o·n / out⌋`.
    ///
    /// # Errors
    /// As [`Along::bins`].
    pub fn nearest(n: usize, out: usize) -> Result<Along, String> {
        Along { rule: Interpolation::Point { a: n, b: 0, d: out, linear: false }, n, out }.checked()
    }
    /// The two elements nearest to `(o + ½)·n / out − ½`, or, with `corners`, to `o·(n − 1) / (out − 1)`, in proportion.
    ///
    /// # Errors
    /// As [`Along::bins`].
    pub fn linear(n: usize, out: usize, corners: bool) -> Result<Along, String> {
        let (a, b, d) = match corners {
            true if out < 2 => (0, 0, 1),
            true => (n - 1, 0, out - 1),
            false => (n.saturating_mul(2), n.wrapping_sub(out) as isize, out.saturating_mul(2)),
        };
        Along { rule: Interpolation::Point { a, b, d, linear: true }, n, out }.checked()
    }
    /// The same elements, from the back.
    pub fn flip(n: usize) -> Along {
        Along { rule: Interpolation::Flip, n, out: n }
    }
    /// The same elements.
    pub fn same(n: usize) -> Along {
        Along { rule: Interpolation::Window { kernel: 1, stride: 1, padding: 0, counted: false }, n, out: n }
    }
    /// Indices are computed in 32 bits.
    fn checked(self) -> Result<Along, String> {
        match self.n.saturating_mul(self.out) {
            0 => Err("an output of size 0 holds nothing".into()),
            p if p > 1 << 29 => Err(format!("an axis of {} becomes one of {}: their product may be at most {}", self.n, self.out, 1 << 29)),
            _ => Ok(self),
        }
    }
    /// What output `o` is made of.
    pub(super) fn taps(&self, o: usize) -> Taps {
        let (n, out) = (self.n, self.out);
        let even = |first, end, count: usize| Taps { first, end, weight: 1.0 / count as f64, other: 1.0 / count as f64 };
        match self.rule {
            Interpolation::Window { kernel, stride, padding, counted } => {
                let (start, end) = (o * stride, (o * stride + kernel).min(n + 2 * padding));
                let (first, last) = (start.saturating_sub(padding).min(n), end.saturating_sub(padding).min(n));
                even(first, last, if counted { end - start } else { last - first })
            }
            Interpolation::Bins => {
                let (first, end) = (o * n / out, ((o + 1) * n).div_ceil(out));
                even(first, end, end - first)
            }
            Interpolation::Point { a, b, d, linear } => {
                let at = (a * o).saturating_add_signed(b);
                let (i, part) = (at / d, (at % d) as f64 / d as f64);
                match linear && i + 1 < n {
                    true => Taps { first: i, end: i + 2, weight: 1.0 - part, other: part },
                    false => even(i, i + 1, 1),
                }
            }
            Interpolation::Flip => even(n - 1 - o, n - o, 1),
        }
    }
    /// The number of elements that an output is made of, at most.
    pub(super) fn most(&self) -> usize {
        (0..self.out).map(|o| self.taps(o)).map(|t| t.end - t.first).max().unwrap_or(1)
    }
    /// What it is, for errors.
    pub(super) fn called(&self) -> &'static str {
        match self.rule {
            Interpolation::Window { .. } => "avg_pool2d",
            Interpolation::Bins => "adaptive_avg_pool2d",
            Interpolation::Point { .. } => "upsample",
            Interpolation::Flip => "flip",
        }
    }
    /// The number of the rule in the shader, and `a`, `b` and `d` there.
    pub(super) fn words(&self) -> (u32, [Word; 3]) {
        let (rule, [a, d], b) = match self.rule {
            Interpolation::Window { kernel, stride, padding, counted } => (u32::from(counted), [stride, kernel], padding as isize),
            Interpolation::Bins => (2, [0, 0], 0),
            Interpolation::Point { a, b, d, linear } => (3 + u32::from(linear), [a, d], b),
            Interpolation::Flip => (5, [0, 0], 0),
        };
        (rule, [a.into(), Word::U(b as i32 as u32), d.into()])
    }
}
