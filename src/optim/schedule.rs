//! Learning rate schedules.

use crate::error::{Error, Result};
use std::{f64::consts::PI, fmt, sync::Arc};

/// A factor of the learning rate as a function of the step k (from 0). The schedule multiplies the optimizer's learning rate by
/// this factor. The formulas are PyTorch's closed forms.
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
    fn at(self, k: u64) -> f64 {
        let x = k as f64;
        let half_cosine = |from: f64, to: f64, t: f64| to + (from - to) / 2.0 * (1.0 + (PI * t).cos());
        match self {
            Curve::Constant => 1.0,
            Curve::Step { every, gamma } => gamma.powf((k / every.max(1)) as f64),
            Curve::Exponential { gamma } => gamma.powf(x),
            Curve::Polynomial { total, power } => (1.0 - k.min(total) as f64 / total as f64).powf(power),
            Curve::Cosine { total, floor } => half_cosine(1.0, floor, x / total as f64),
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
    /// Returns the number of steps until the end of the curve, if it has an end.
    fn steps(self) -> Option<u64> {
        match self {
            Curve::Constant | Curve::Step { .. } | Curve::Exponential { .. } => None,
            Curve::Polynomial { total, .. } | Curve::Cosine { total, .. } | Curve::Linear { total, .. } | Curve::OneCycle { total, .. } => {
                Some(total)
            }
        }
    }
    /// Returns a sentence that says which number is out of range, if there is a mistake.
    fn mistake(self) -> Option<&'static str> {
        let ok = |x: f64| x.is_finite() && x >= 0.0;
        let bad = match self {
            Curve::Constant => None,
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
        let empty = self.steps() == Some(0) && !matches!(self, Curve::Linear { .. });
        bad.or(empty.then_some("it must last at least one step"))
    }
}

/// A learning rate schedule: one [`Curve`] after another. A schedule is a pure function of the step.
///
/// ```
/// use downhill::optim::Schedule;
/// let schedule = Schedule::warmup(100).then(Schedule::cosine(900));
/// assert!(schedule.at(0) < 0.01 && schedule.at(100) == 1.0 && schedule.at(550) < 0.51);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Each curve, with the number of steps after which the next curve begins. `None` if the curve has no end.
    parts: Vec<(Part, Option<u64>)>,
}

#[derive(Clone)]
enum Part {
    Curve(Curve),
    Lambda(Arc<dyn Fn(u64) -> f64 + Send + Sync>),
}

impl Part {
    fn at(&self, k: u64) -> f64 {
        match self {
            Part::Curve(curve) => curve.at(k),
            // An infinite rate has a trial before its update, which a NaN would not have.
            Part::Lambda(f) => Some(f(k)).filter(|factor| !factor.is_nan()).unwrap_or(f64::INFINITY),
        }
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Part::Curve(curve) => curve.fmt(f),
            Part::Lambda(_) => f.write_str("Lambda"),
        }
    }
}

impl PartialEq for Part {
    fn eq(&self, other: &Part) -> bool {
        match (self, other) {
            (Part::Curve(a), Part::Curve(b)) => a == b,
            (Part::Lambda(a), Part::Lambda(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl From<Curve> for Schedule {
    fn from(curve: Curve) -> Schedule {
        Schedule { parts: vec![(Part::Curve(curve), curve.steps())] }
    }
}

impl Schedule {
    /// Creates a schedule with a constant factor of 1.
    pub fn constant() -> Schedule {
        Curve::Constant.into()
    }
    /// Multiplies the learning rate by `gamma` after each `every` steps. See [`Curve::Step`].
    pub fn step(every: u64, gamma: f64) -> Schedule {
        Curve::Step { every, gamma }.into()
    }
    /// Multiplies the learning rate by `gamma` after each step. See [`Curve::Exponential`].
    pub fn exponential(gamma: f64) -> Schedule {
        Curve::Exponential { gamma }.into()
    }
    /// Lowers the factor from 1 to 0 in `total` steps. See [`Curve::Polynomial`].
    pub fn polynomial(total: u64, power: f64) -> Schedule {
        Curve::Polynomial { total, power }.into()
    }
    /// Lowers the factor from 1 to 0 in `total` steps, along half a cosine. See [`Curve::Cosine`].
    pub fn cosine(total: u64) -> Schedule {
        Curve::Cosine { total, floor: 0.0 }.into()
    }
    /// Changes the factor from `from` to `to` in `total` steps, along a straight line. See [`Curve::Linear`].
    pub fn linear(from: f64, to: f64, total: u64) -> Schedule {
        Curve::Linear { from, to, total }.into()
    }
    /// Raises the factor to 1 in `n` steps. The factor is (k + 1) / (n + 1) at step k, so the first step already has a rate
    /// above 0. With `n` = 0 there is no warm-up.
    pub fn warmup(n: u64) -> Schedule {
        Schedule::linear(1.0 / (n as f64 + 1.0), 1.0, n)
    }
    /// Raises the factor and lowers it again, with PyTorch's defaults: it rises from 1/25 to 1 in 30 % of the steps, then it
    /// falls to 1/250,000. See [`Curve::OneCycle`].
    pub fn one_cycle(total: u64) -> Schedule {
        Curve::OneCycle { total, warm: 0.3, div: 25.0, final_div: 1e4, straight: false }.into()
    }
    /// Takes the factor of step k (from 0) from a function. PyTorch's `LambdaLR`. The function must return the same number for the same
    /// step, or a training that resumes ends differently. A factor that is not finite ends the training with
    /// [`Error::Diverged`](crate::Error::Diverged).
    ///
    /// ```
    /// use downhill::optim::{Schedule, Sgd};
    /// let optimizer = Sgd::new(0.1).schedule(Schedule::warmup(10).then(Schedule::lambda(|k| 1.0 / (k + 1) as f64)));
    /// assert_eq!((optimizer.lr(11), optimizer.lr(12)), (0.1, 0.05));
    /// ```
    pub fn lambda(f: impl Fn(u64) -> f64 + Send + Sync + 'static) -> Schedule {
        Schedule { parts: vec![(Part::Lambda(Arc::new(f)), None)] }
    }
    /// Ends the last curve of the schedule after `steps` steps, so that another curve can follow.
    pub fn lasting(mut self, steps: u64) -> Schedule {
        if let Some(last) = self.parts.last_mut() {
            last.1 = Some(steps);
        }
        self
    }
    /// Appends `next`, whose steps count from 0 again. PyTorch's `SequentialLR`.
    pub fn then(mut self, next: impl Into<Schedule>) -> Schedule {
        self.parts.extend(next.into().parts);
        self
    }
    /// Returns the factor at `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        let mut k = step;
        for (i, (curve, steps)) in self.parts.iter().enumerate() {
            match *steps {
                Some(n) if k >= n && i + 1 < self.parts.len() => k -= n,
                _ => return curve.at(k),
            }
        }
        1.0
    }
    /// Returns an error if a number is out of range, or if something follows a curve that has no end.
    pub fn check(&self) -> Result<()> {
        for (i, (curve, steps)) in self.parts.iter().enumerate() {
            let endless = (steps.is_none() && i + 1 < self.parts.len()).then_some("nothing can follow it: end it with `lasting`");
            let mistake = match curve {
                Part::Curve(curve) => curve.mistake(),
                Part::Lambda(_) => None,
            };
            if let Some(why) = mistake.or(endless) {
                return Err(Error::argument(format!("schedule {curve:?}"), why));
            }
        }
        Ok(())
    }
}
