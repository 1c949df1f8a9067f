//! One axis of a resampling: the elements that an output is made of, and their weights.

use crate::{kernel::Word, ops::max_pool2d::Windows};

/// The rule that makes `out` elements from `n` elements along an axis. `taps` in `shaders/resample.wgsl` is the same rule. Both use
/// whole numbers, so they always agree on an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Along {
    rule: Interpolation,
    pub(super) n: usize,
    pub(super) out: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Interpolation {
    /// The mean of a window. With `counted`, the padding counts, too.
    Window { kernel: usize, stride: usize, padding: usize, counted: bool },
    /// The axis is cut into `out` parts. An output is the mean of a part.
    Bins,
    /// The point `(a·o + b) / d`, or 0 if it is negative. The output is the element before the point or, with `linear`, the
    /// weighted mean of its two neighbours.
    Point { a: usize, b: isize, d: usize, linear: bool },
    /// The elements in reverse order.
    Flip,
}

/// The elements `first..end`. The first element has the weight `weight`. The others have the weight `other`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taps {
    pub first: usize,
    pub end: usize,
    pub weight: f64,
    pub other: f64,
}

impl Taps {
    /// Returns the elements and their weights.
    pub fn iter(self) -> impl Iterator<Item = (usize, f64)> {
        (self.first..self.end).map(move |i| (i, if i == self.first { self.weight } else { self.other }))
    }
}

impl Along {
    /// Returns the rule for the mean of each window. With `counted`, the padding counts as zeros.
    pub fn mean(windows: Windows, counted: bool) -> Along {
        let Windows { n, out, kernel, stride, padding, .. } = windows;
        Along { rule: Interpolation::Window { kernel, stride, padding, counted }, n, out }
    }
    /// Returns the rule for the means of `out` parts. Part o is `⌊o·n / out⌋ .. ⌈(o + 1)·n / out⌉`.
    ///
    /// # Errors
    /// A sentence, if `out` is 0 or the product of the sizes is too large.
    pub(crate) fn bins(n: usize, out: usize) -> Result<Along, String> {
        Along { rule: Interpolation::Bins, n, out }.checked()
    }
    /// Returns the rule for the element at `⌊o·n / out⌋`.
    ///
    /// # Errors
    /// See [`Along::bins`].
    pub fn nearest(n: usize, out: usize) -> Result<Along, String> {
        Along { rule: Interpolation::Point { a: n, b: 0, d: out, linear: false }, n, out }.checked()
    }
    /// Returns the rule for the element at `⌊(o + ½)·n / out⌋`.
    ///
    /// # Errors
    /// See [`Along::bins`].
    pub fn nearest_exact(n: usize, out: usize) -> Result<Along, String> {
        let (a, d) = (n.saturating_mul(2), out.saturating_mul(2));
        Along { rule: Interpolation::Point { a, b: n as isize, d, linear: false }, n, out }.checked()
    }
    /// Returns the rule for the weighted mean of the two elements nearest to `(o + ½)·n / out − ½`. With `corners`, the point is
    /// `o·(n − 1) / (out − 1)`.
    ///
    /// # Errors
    /// See [`Along::bins`].
    pub fn linear(n: usize, out: usize, corners: bool) -> Result<Along, String> {
        let (a, b, d) = match corners {
            true if out < 2 => (0, 0, 1),
            true => (n - 1, 0, out - 1),
            false => (n.saturating_mul(2), n.wrapping_sub(out) as isize, out.saturating_mul(2)),
        };
        Along { rule: Interpolation::Point { a, b, d, linear: true }, n, out }.checked()
    }
    /// Returns the rule for the same elements in reverse order.
    pub fn flip(n: usize) -> Along {
        Along { rule: Interpolation::Flip, n, out: n }
    }
    /// Returns the rule that changes nothing.
    pub fn same(n: usize) -> Along {
        Along { rule: Interpolation::Window { kernel: 1, stride: 1, padding: 0, counted: false }, n, out: n }
    }
    /// Checks the sizes. The shader computes indices in 32 bits.
    fn checked(self) -> Result<Along, String> {
        match self.n.saturating_mul(self.out) {
            0 => Err("an output of size 0 holds nothing".into()),
            p if p > 1 << 29 => Err(format!("an axis of {} becomes one of {}: their product may be at most {}", self.n, self.out, 1 << 29)),
            _ => Ok(self),
        }
    }
    /// Returns the elements that output `o` is made of, with their weights.
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
    /// Returns the number of outputs.
    pub(crate) fn out(&self) -> usize {
        self.out
    }
    /// Returns the first element that output `o` is made of, and the element behind the last one.
    pub(crate) fn range(&self, o: usize) -> (usize, usize) {
        let taps = self.taps(o);
        (taps.first, taps.end)
    }
    /// Returns the largest number of elements that an output is made of.
    pub(crate) fn most(&self) -> usize {
        (0..self.out).map(|o| self.taps(o)).map(|t| t.end - t.first).max().unwrap_or(1)
    }
    /// Returns the name of the rule, for errors.
    pub(super) fn called(&self) -> &'static str {
        match self.rule {
            Interpolation::Window { .. } => "avg_pool2d",
            Interpolation::Bins => "adaptive_avg_pool2d",
            Interpolation::Point { .. } => "upsample",
            Interpolation::Flip => "flip",
        }
    }
    /// Returns the number of the rule in the shader, and the values of `a`, `b` and `d` there.
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
