//! The curves that a learning rate follows.

use super::schedule::Unit;
use std::f64::consts::PI;

/// A factor of the learning rate as a function of the step k (from 0). The schedule multiplies the optimizer's learning rate by
/// this factor. The formulas are PyTorch's closed forms. Numbers of steps count steps, unless
/// [`Schedule::in_epochs`](super::Schedule::in_epochs) or [`Schedule::in_samples`](super::Schedule::in_samples) say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Curve {
    /// The factor is always 1.
    Constant,
    /// The factor is `gamma` to the power ⌊k / every⌋. PyTorch's `StepLR`.
    Step {
        /// The number of steps between two changes of the factor.
        every: u64,
        /// The factor of each change.
        gamma: f64,
    },
    /// The factor is `gamma` to the power k. PyTorch's `ExponentialLR`.
    Exponential {
        /// The factor of each step.
        gamma: f64,
    },
    /// The factor is (1 − k / total) to the power `power`. After `total` steps it is 0. PyTorch's `PolynomialLR`.
    Polynomial {
        /// The number of steps until the factor is 0.
        total: u64,
        /// The exponent; 1 gives a straight line.
        power: f64,
    },
    /// The factor falls from 1 to `floor` in `total` steps and then rises again, along a cosine: floor + (1 − floor)·(1 +
    /// cos(π·k / total)) / 2. PyTorch's `CosineAnnealingLR`, whose `eta_min` is `floor` times the learning rate.
    Cosine {
        /// The number of steps until the factor is `floor`.
        total: u64,
        /// The lowest factor.
        floor: f64,
    },
    /// The factor falls from 1 to `floor` along half a cosine, in `t_0` steps. Then it starts again from 1. Each fall takes
    /// `t_mult` times as many steps as the fall before: floor + (1 − floor)·(1 + cos(π·c / T)) / 2, where c counts the steps since the last
    /// start and T is the length of the fall. PyTorch's `CosineAnnealingWarmRestarts`, whose `eta_min` is `floor` times the
    /// learning rate. Loshchilov and Hutter 2016, arXiv:1608.03983.
    CosineWarmRestarts {
        /// The number of steps of the first fall.
        t_0: u64,
        /// The factor of the length from one fall to the next.
        t_mult: u64,
        /// The lowest factor.
        floor: f64,
    },
    /// The factor rises to 1 in `total` steps: (k + 1) / (total + 1). Then it stays at 1. With 0 steps it is 1 at once.
    Warmup {
        /// The number of steps below a factor of 1.
        total: u64,
    },
    /// The factor rises to 1 in `warm` steps and then falls like the inverse square root of the number of steps: min((k + 1) /
    /// warm, √(warm / (k + 1))). A `warm` of 0 counts as 1: the factor is 1/√(k + 1), without a rise. With the learning rate
    /// (d·warm)^(−1/2) it is the schedule of Vaswani et al. 2017, arXiv:1706.03762, section 5.3, for a model of d features. The
    /// schedule `get_inverse_sqrt_schedule` of `transformers` is the same, one step later: it begins with a rate of 0.
    InverseSqrt {
        /// The number of steps until the factor is 1.
        warm: u64,
    },
    /// The factor goes from `from` to `to` in a straight line of `total` steps, and then stays at `to`. With 0 steps it is `to`
    /// at once. PyTorch's `LinearLR`.
    Linear {
        /// The first factor.
        from: f64,
        /// The last factor.
        to: f64,
        /// The number of steps from the first to the last factor.
        total: u64,
    },
    /// The factor rises from 1 / `div` to 1 in the share `warm` of the steps. Then it falls to 1 / (div · final_div). Both
    /// phases follow cosines or straight lines. With a share of 1 there is only the rise. PyTorch's `OneCycleLR` with two
    /// phases, without its momentum. The optimizer's learning rate is the highest rate. Smith and Topin 2017, arXiv:1708.07120.
    OneCycle {
        /// The number of steps of both phases together.
        total: u64,
        /// The share of the steps in which the factor rises, in 0..=1.
        warm: f64,
        /// The highest factor divided by the first factor.
        div: f64,
        /// The first factor divided by the last factor.
        final_div: f64,
        /// Whether the phases are straight lines instead of cosines.
        straight: bool,
    },
}

impl Curve {
    /// Returns the factor at step `k`.
    pub(super) fn at(self, k: u64) -> f64 {
        let x = k as f64;
        let half_cosine = |from: f64, to: f64, t: f64| to + (from - to) / 2.0 * (1.0 + (PI * t).cos());
        match self {
            Curve::Constant => 1.0,
            Curve::Step { every, gamma } => gamma.powf((k / every.max(1)) as f64),
            Curve::Exponential { gamma } => gamma.powf(x),
            Curve::Polynomial { total, power } => (1.0 - k.min(total) as f64 / total as f64).powf(power),
            Curve::Cosine { total, floor } => half_cosine(1.0, floor, x / total as f64),
            Curve::CosineWarmRestarts { t_0, t_mult, floor } => {
                let (mut since, mut length) = (k, t_0.max(1));
                if t_mult > 1 {
                    while since >= length {
                        (since, length) = (since - length, length.saturating_mul(t_mult));
                    }
                }
                half_cosine(1.0, floor, (since % length) as f64 / length as f64)
            }
            Curve::Warmup { total } => {
                let from = 1.0 / (total as f64 + 1.0);
                if k >= total { 1.0 } else { from + (1.0 - from) * x / total as f64 }
            }
            Curve::InverseSqrt { warm } => {
                let share = (x + 1.0) / warm.max(1) as f64;
                share.min(1.0 / share.sqrt())
            }
            Curve::Linear { to, total, .. } if k >= total => to,
            Curve::Linear { from, to, total } => from + (to - from) * x / total as f64,
            Curve::OneCycle { total, warm, div, final_div, straight } => {
                let (top, last) = (warm * total as f64 - 1.0, total as f64 - 1.0);
                let (low, end) = (1.0 / div, 1.0 / (div * final_div));
                let (from, to, t) = match x {
                    // A rise of at most one step is at the top at once.
                    _ if x <= top => (low, 1.0, if top > 0.0 { x / top } else { 1.0 }),
                    _ if x < last => (1.0, end, (x - top) / (last - top)),
                    // The steps after the end of the schedule. If all steps rise, there is no second phase.
                    _ if top >= last => (1.0, 1.0, 1.0),
                    _ => (1.0, end, 1.0),
                };
                if straight { from + (to - from) * t } else { half_cosine(from, to, t) }
            }
        }
    }
    /// Returns the curve in steps, from a curve that counts in `unit`.
    pub(super) fn in_steps(mut self, unit: Unit, steps_per_epoch: u64, samples_per_step: u64) -> Curve {
        let steps = |n: &mut u64| *n = unit.steps(*n, steps_per_epoch, samples_per_step);
        match &mut self {
            Curve::Constant => {}
            Curve::Step { every, .. } => steps(every),
            Curve::Exponential { gamma } => match unit {
                Unit::Steps => {}
                Unit::Epochs => *gamma = gamma.powf(1.0 / steps_per_epoch as f64),
                Unit::Samples => *gamma = gamma.powf(samples_per_step as f64),
            },
            Curve::CosineWarmRestarts { t_0, .. } => steps(t_0),
            Curve::InverseSqrt { warm } => steps(warm),
            Curve::Polynomial { total, .. }
            | Curve::Cosine { total, .. }
            | Curve::Warmup { total }
            | Curve::Linear { total, .. }
            | Curve::OneCycle { total, .. } => steps(total),
        }
        self
    }
    /// Returns the number of steps until the end of the curve, if it has an end.
    pub(super) fn steps(self) -> Option<u64> {
        match self {
            Curve::Constant
            | Curve::Step { .. }
            | Curve::Exponential { .. }
            | Curve::CosineWarmRestarts { .. }
            | Curve::InverseSqrt { .. } => None,
            Curve::Polynomial { total, .. }
            | Curve::Cosine { total, .. }
            | Curve::Warmup { total }
            | Curve::Linear { total, .. }
            | Curve::OneCycle { total, .. } => Some(total),
        }
    }
    /// Returns a sentence that says which number is out of range, if there is a mistake.
    pub(super) fn mistake(self) -> Option<&'static str> {
        let ok = |x: f64| x.is_finite() && x >= 0.0;
        let bad = match self {
            Curve::Constant | Curve::Warmup { .. } | Curve::InverseSqrt { .. } => None,
            Curve::CosineWarmRestarts { t_0, t_mult, floor } => {
                (t_0 == 0 || t_mult == 0 || !ok(floor)).then_some("t_0 and t_mult must be at least 1, the floor finite and not negative")
            }
            Curve::Step { every, gamma } => (every == 0 || !ok(gamma)).then_some("every must be at least 1, gamma finite and not negative"),
            Curve::Exponential { gamma } => (!ok(gamma)).then_some("gamma must be finite and not negative"),
            Curve::Polynomial { power, .. } => (!ok(power)).then_some("the power must be finite and not negative"),
            Curve::Cosine { floor, .. } => (!ok(floor)).then_some("the floor must be finite and not negative"),
            Curve::Linear { from, to, .. } => (!ok(from) || !ok(to)).then_some("both ends must be finite and not negative"),
            Curve::OneCycle { warm, div, final_div, .. } => {
                let ends = [1.0 / div, 1.0 / (div * final_div)];
                let fits = (0.0..=1.0).contains(&warm)
                    && [div, final_div].iter().all(|x| x.is_finite() && *x > 0.0)
                    && ends.iter().all(|x| ok(*x));
                (!fits).then_some("warm must be in 0..=1, div and final_div finite and positive, 1/div and 1/(div·final_div) finite")
            }
        };
        // A straight line of 0 steps is at its end at once, so a warm-up of 0 steps has no effect. Any other curve of 0 steps
        // would be 0/0.
        let empty = self.steps() == Some(0) && !matches!(self, Curve::Linear { .. } | Curve::Warmup { .. });
        bad.or(empty.then_some("it must last at least one step"))
    }
}
