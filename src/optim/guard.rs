//! The check between the backward pass and the update. No number that is not finite reaches the weights.

use super::{MAX_STATES, Optimizer};
use crate::{error::Error, kernel::ALIGN, params::Layout, plan::ROWS, simd::wide, threads::TASK};
use std::ops::Range;

/// 2⁶⁰. If all numbers are at most this large, an update is finite for certain. See [`Optimizer::is_bounded`].
pub(super) const FAR: f32 = (1u64 << 60) as f32;

/// The result of the check of a step, and the sums over its micro-batches. On a GPU the guard is a buffer of these words; on
/// the CPU it is this struct.
///
/// A guard that has halted stays halted, and later updates do nothing. So the weights stay as they were before the first bad
/// step.
///
/// A step is bad if its loss or a gradient is not finite, or if the update would make a weight or a state not finite. A *trial*
/// finds the last case: it computes the update of all elements without writing them. Numbers far below the largest float cannot
/// overflow in one step, so nearly all steps need no trial. The guard says which steps need one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Guard {
    /// 0, or the number of the first bad step plus 1. Steps count from 0.
    pub halt: u32,
    /// The factor that clips the gradients. It is applied after [`scale`](Guard::scale).
    pub factor: f32,
    /// The norm of all gradients together, before clipping. It is infinite if it is too large for an `f32`.
    pub norm: f32,
    /// The largest magnitude of a gradient, before clipping.
    pub largest: f32,
    /// The first factor of the gradients: 1, or a power of two if `factor` alone would be too small for an `f32`.
    pub scale: f32,
    /// Whether a weight or a state may be above 2⁶⁰, because the last update wrote such a number or because they were set from
    /// outside.
    pub near: u32,
    /// Whether the rule may overflow with the hyperparameters of these steps, even if all numbers are at most 2⁶⁰.
    pub strict: u32,
    /// 0 after a bad step, 1 in a good step, 2 in a step that needs a trial, 3 in the first bad step if its gradients are to be
    /// searched.
    pub trial: u32,
    /// Flags of the buffers that would have overflowed: the weights, each of the optimizer's states, the model's state.
    pub over: [u32; MAX_STATES + 2],
    /// The cause of a bad step: 0 for none, 1 for the loss, 2 for a gradient, 3 for a number that the update would have
    /// written.
    pub cause: u32,
    /// The sum of the weights of the micro-batches of the current step so far.
    pub weight: f32,
    /// The factor of the sum of the gradients so far, when the gradients of a micro-batch are added.
    pub keep: f32,
    /// The factor of the gradients of the micro-batch that is added.
    pub add: f32,
    /// The mean loss of the micro-batches of the current step so far.
    pub loss: f32,
    /// The mean of |g|² over the micro-batches of the current step so far, if the steps measure it.
    pub spread: f32,
}

impl Default for Guard {
    /// Returns the guard before the first step, on weights that come from outside.
    fn default() -> Guard {
        Guard { factor: 1.0, scale: 1.0, near: 1, ..bytemuck::Zeroable::zeroed() }
    }
}

/// The number of words reserved for the guard on the device. Some are unused.
pub(crate) const GUARD: usize = 64;
/// The index of the word [`near`](Guard::near).
pub(crate) const NEAR: usize = 5;
/// The word of the guard that says whether every step needs a trial.
pub(crate) const STRICT: usize = 6;
/// The indices of the words [`norm`](Guard::norm) and [`largest`](Guard::largest).
pub(crate) const NORMS: Range<usize> = 2..4;
/// The index of the word [`spread`](Guard::spread).
pub(crate) const SPREAD: usize = 18;
/// The index of the word [`weight`](Guard::weight).
pub(crate) const WEIGHT: usize = 14;
/// The number of words for each piece of the gradients: a sum of squares, its class and the largest magnitude.
pub(super) const TOTAL: usize = 3;
/// The number of words for each parameter: the three [`Norms`](super::Norms) and the ratio.
pub(crate) const ROW: usize = 4;

/// The layout of the control buffer, which all steps of an update share. A device may allow few bindings for a kernel, so all
/// data lies in one buffer. In words, the buffer has:
///
/// 1. the [`Guard`];
/// 2. [`TOTAL`] words for each piece of the gradients;
/// 3. a flag for each parameter, which is set if its gradient was not finite;
/// 4. a row of norms and ratio for each parameter (see [`Trust`](super::Trust));
/// 5. for each piece, a table of the ends of parameters, with the number of each parameter, and the same for each part if the update is
///    [cut](Layout::cut);
/// 6. for each part, a table of the ends of runs, with the number of each group. A run is a series of neighbouring parameters
///    of one group;
/// 7. the hyperparameters of each step of a submit, a row for each group.
///
/// The tables count in fours of elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The start of the flags.
    pub flags: usize,
    /// The start of the rows of norms and ratios.
    pub rows: usize,
    /// For each trained piece, the start and the number of rows of the table of parameters.
    pub segments: Vec<(usize, usize)>,
    /// For each part, the start and the number of rows of the table of parameters.
    pub own: Vec<(usize, usize)>,
    /// For each part, the start and the number of rows of the table of runs.
    pub runs: Vec<(usize, usize)>,
    /// The start of the hyperparameters.
    pub hyper: usize,
    /// The content of all tables.
    pub tables: Vec<u32>,
    /// The largest number of steps in a submit. It is smaller if a kernel cannot bind the hyperparameters of more steps.
    pub steps: usize,
    /// The total number of words.
    pub words: usize,
}

impl Control {
    /// Makes the layout for a model with `groups` parameter groups, on a device that can bind `max_binding_bytes` bytes.
    pub fn new(layout: &Layout, groups: usize, max_binding_bytes: u64) -> Control {
        let flags = GUARD + TOTAL * layout.trained.max(1);
        let rows = flags + layout.ranges.len();
        let (first, mut tables) = (rows + ROW * layout.ranges.len(), Vec::new());
        let mut add = |rows: Vec<(usize, usize)>| {
            let at = first + tables.len();
            tables.extend(rows.iter().flat_map(|&(end, number)| [(end / 4) as u32, number as u32]));
            (at, rows.len())
        };
        let ends = |piece: usize| layout.segments(piece).map(|(i, range)| (range.start + range.len.next_multiple_of(ALIGN), i)).collect();
        let segments: Vec<_> = (0..layout.trained).map(|piece| add(ends(piece))).collect();
        let mut own = segments.clone();
        if layout.is_cut() {
            own = (0..layout.parts.len()).map(|part| add(layout.own(part).map(|(i, end)| (end, i)).collect())).collect();
        }
        let runs = (0..layout.parts.len()).map(|part| add(layout.runs(part))).collect();
        let hyper = first + tables.len();
        let room = usize::try_from(max_binding_bytes / 4).unwrap_or(usize::MAX).saturating_sub(hyper);
        let steps = (room / (8 * groups).max(1)).clamp(1, ROWS);
        Control { flags, rows, segments, own, runs, hyper, tables, steps, words: hyper + steps * groups * 8 }
    }
}

/// The number added to the norm, so that dividing by a norm of 0 is possible. PyTorch's `clip_grad_norm_` adds the same number.
const CLIP_EPS: f32 = 1e-6;

/// Gradients are multiplied by this number first if the factor is less than this number. Gradients that this makes too small
/// for a float would be below the smallest float after clipping anyway.
const SCALE: f32 = 1.0 / (1u128 << 120) as f32;

/// The limits of gradient clipping. The norm is limited first, then each element.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Clip {
    /// The maximum norm of all gradients together.
    pub norm: Option<f32>,
    /// The maximum magnitude of each gradient.
    pub value: Option<f32>,
}

/// Σ g² and the largest magnitude of gradients on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Squares {
    pub sum: f64,
    pub largest: f32,
}

impl std::iter::Sum for Squares {
    fn sum<I: Iterator<Item = Squares>>(all: I) -> Squares {
        all.fold(Squares::default(), |a, b| Squares { sum: a.sum + b.sum, largest: a.largest.max(b.largest) })
    }
}

impl Guard {
    /// Checks step `step` (from 0) on the CPU, over all pieces of the gradients.
    #[cfg(test)]
    pub fn check(&mut self, step: u64, loss: f32, grads: &[&[f32]], clip: Clip) {
        self.judge(step, loss, grads.iter().map(|piece| squares(piece)).sum(), clip);
    }
    /// Checks a step on the CPU, given Σ g² over all gradients g and their largest magnitude.
    pub(crate) fn judge(&mut self, step: u64, loss: f32, squares: Squares, clip: Clip) {
        (self.trial, self.weight) = (0, 0.0);
        if self.halt != 0 {
            return;
        }
        match (loss.is_finite(), squares.sum.is_finite()) {
            (false, _) => return self.stop(step, 1, 3),
            (true, false) => return self.stop(step, 2, 3),
            // State overflowed in an earlier micro-batch of the step.
            (true, true) if self.over[MAX_STATES + 1] != 0 => return self.stop(step, 3, 0),
            (true, true) => self.cause = 0,
        }
        let norm = squares.sum.sqrt();
        (self.norm, self.largest) = (norm as f32, squares.largest);
        (self.factor, self.scale) = match clip.norm {
            None => (1.0, 1.0),
            Some(max) => match f64::from(max) / (norm + f64::from(CLIP_EPS)) {
                tiny if tiny < f64::from(SCALE) => ((tiny / f64::from(SCALE)) as f32, SCALE),
                factor if self.norm.is_infinite() => (factor.min(1.0) as f32, 1.0),
                _ => ((max / (self.norm + CLIP_EPS)).min(1.0), 1.0),
            },
        };
        let far = self.reach(clip) > f64::from(FAR);
        self.trial = 1 + (u32::from(far) | self.near | self.strict);
        // The update sets `near` again if it has to.
        self.near = 0;
    }
    /// Returns an upper bound of the magnitudes of the clipped gradients.
    pub(crate) fn reach(&self, clip: Clip) -> f64 {
        let most = |max: Option<f32>| max.unwrap_or(f32::INFINITY);
        f64::from(self.norm.min(most(clip.norm)).min(most(clip.value)))
    }
    fn stop(&mut self, step: u64, cause: u32, trial: u32) {
        (self.cause, self.halt, self.trial) = (cause, (step as u32).wrapping_add(1).max(1), trial);
    }
    /// Halts if the trial found that something would overflow.
    pub(crate) fn refuse(&mut self, step: u64, over: [u32; MAX_STATES + 2]) {
        if over.contains(&1) {
            self.over = over;
            self.stop(step, 3, self.trial);
        }
    }
    /// Adds the weight and the loss of a micro-batch to the sums. Sets the factors by which gradients are accumulated.
    pub(crate) fn weigh(&mut self, weight: f32, loss: f32) {
        let all = self.weight + weight;
        // If all weights so far are 0, only the latest micro-batch counts. Its gradient need not be 0, for example because of a
        // penalty on parameters.
        (self.keep, self.add) = if all == 0.0 { (0.0, 1.0) } else { (self.weight / all, weight / all) };
        // Before the first micro-batch, `self.loss` is the loss of the previous step.
        self.loss = if self.weight == 0.0 { 0.0 } else { self.keep * self.loss } + self.add * loss;
        self.weight = all;
    }
    /// Adds gradients of a micro-batch, or of a rank, to the sum, after [`weigh`](Guard::weigh).
    pub(crate) fn add_micro(&self, sums: &mut [f32], micro: &[f32]) {
        let &Guard { keep, add, .. } = self;
        let both = sums.iter_mut().zip(micro);
        // For the first micro-batch, the old content of the sum is ignored.
        match keep == 0.0 {
            true => both.for_each(|(sum, &g)| *sum = add * g),
            false => both.for_each(|(sum, &g)| *sum = keep * *sum + add * g),
        }
    }
    /// Adds |g|² of a micro-batch to the mean, after [`weigh`](Guard::weigh).
    pub(crate) fn add_spread(&mut self, squares: f64) {
        let mine = self.add * squares.min(f64::from(f32::MAX)) as f32;
        // Before the first micro-batch, `self.spread` is the mean of an earlier step.
        self.spread = if self.keep == 0.0 { mine } else { self.keep * self.spread + mine };
    }
    /// Returns the error of the first bad step, if there was one. `loss` is the loss of this step, and `parameter` the first
    /// parameter whose gradient was not finite.
    pub fn error(&self, loss: f32, parameter: Option<String>, optimizer: &Optimizer) -> Option<Error> {
        let mut names: Vec<String> = optimizer.rule_states().into_iter().map(|s| format!("`{}`", s.name)).collect();
        if names.len() > MAX_STATES {
            // The last states share a flag.
            let last = names.split_off(MAX_STATES - 1).join(" or ");
            names.push(last);
        }
        let names = names.into_iter().map(|name| format!("the optimizer's state {name}"));
        let names = std::iter::once("a weight".to_string()).chain(names).zip(self.over);
        let assigned = ("state of the model".to_string(), self.over[MAX_STATES + 1]);
        let over: Vec<String> = names.chain([assigned]).filter(|(_, over)| *over != 0).map(|(name, _)| name).collect();
        let what = match self.cause {
            1 => "loss".to_string(),
            2 => "gradient".to_string(),
            _ => format!("update ({} would overflow)", over.join(" and ")),
        };
        (self.halt != 0).then(|| Error::Diverged { step: u64::from(self.halt) - 1, loss, what, parameter })
    }
}

/// Computes Σ x² and the largest magnitude with all threads. The order of additions depends only on the number of elements. The
/// sum is finite if and only if every x is finite, because squares of `f32` are far below the largest `f64`.
pub(crate) fn squares(x: &[f32]) -> Squares {
    if x.len() > TASK {
        let (a, b) = x.split_at((x.len() / 2).next_multiple_of(TASK));
        let (a, b) = rayon::join(|| squares(a), || squares(b));
        return [a, b].into_iter().sum();
    }
    const LANES: usize = 32;
    let (mut sums, mut tops) = ([0.0f64; LANES], [0u32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    // The bits of magnitudes, as integers, have the order of the magnitudes.
    let top = |x: f32| x.to_bits() & 0x7fff_ffff;
    wide(
        #[inline(always)]
        || {
            for x in chunks {
                for ((sum, most), &x) in sums.iter_mut().zip(&mut tops).zip(x) {
                    *sum += f64::from(x) * f64::from(x);
                    *most = top(x).max(*most);
                }
            }
        },
    );
    for ((sum, most), &x) in sums.iter_mut().zip(&mut tops).zip(rest) {
        *sum += f64::from(x) * f64::from(x);
        *most = top(x).max(*most);
    }
    Squares { sum: sums.iter().sum(), largest: f32::from_bits(tops.into_iter().fold(0, u32::max)) }
}
