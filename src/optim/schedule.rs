//! Learning rate schedules.

use super::Curve;
use crate::error::{Error, Result};
use std::{fmt, sync::Arc};

/// The unit in which a schedule counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Steps,
    Epochs,
    Samples,
}

impl Unit {
    /// Returns the number of steps that `n` of this unit take.
    pub fn steps(self, n: u64, steps_per_epoch: u64, samples_per_step: u64) -> u64 {
        match self {
            Unit::Steps => n,
            Unit::Epochs => n.saturating_mul(steps_per_epoch),
            Unit::Samples => n.div_ceil(samples_per_step),
        }
    }
}

/// The rule by which the learning rate grows with the batch. See [`Schedule::scaled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// The rate grows like the batch: batch / base. The usual rule for SGD. Goyal et al. 2017, arXiv:1706.02677.
    Linear,
    /// The rate grows like the square root of the batch: √(batch / base). The usual rule for Adam, AdamW and LAMB. Krizhevsky
    /// 2014, arXiv:1404.5997; You et al. 2019, arXiv:1904.00962.
    Sqrt,
}

/// A learning rate schedule: one [`Curve`] after another. A schedule is a pure function of the step.
///
/// A schedule counts steps, or epochs ([`in_epochs`](Schedule::in_epochs)), or samples ([`in_samples`](Schedule::in_samples)).
///
/// ```
/// use downhill::optim::Schedule;
/// let schedule = Schedule::warmup(100).then(Schedule::cosine(900));
/// assert!(schedule.at(0) < 0.01 && schedule.at(100) == 1.0 && schedule.at(550) < 0.51);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    parts: Vec<Piece>,
}

/// A curve of a schedule.
#[derive(Clone, PartialEq)]
struct Piece {
    part: Part,
    /// The number after which the next curve begins, counted in `unit`. `None` if the curve has no end.
    length: Option<u64>,
    unit: Unit,
    /// The number by which the factor is multiplied.
    scale: f64,
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

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Piece { part, length, unit, scale } = self;
        // Checkpoints have this text, so it is short where a curve counts steps.
        match (unit, *scale == 1.0) {
            (Unit::Steps, true) => (part, length).fmt(f),
            _ => (part, length, unit, scale).fmt(f),
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
        Piece { part: Part::Curve(curve), length: curve.steps(), unit: Unit::Steps, scale: 1.0 }.into()
    }
}

impl From<Piece> for Schedule {
    fn from(piece: Piece) -> Schedule {
        Schedule { parts: vec![piece] }
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
    /// Lowers the factor from 1 to 0 along half a cosine, again and again: first in `t_0` steps, then each time in `t_mult` times as
    /// many. See [`Curve::CosineWarmRestarts`].
    pub fn cosine_warm_restarts(t_0: u64, t_mult: u64) -> Schedule {
        Curve::CosineWarmRestarts { t_0, t_mult, floor: 0.0 }.into()
    }
    /// Raises the factor to 1 in `warm` steps. Then the factor falls like the inverse square root of the number of steps. See
    /// [`Curve::InverseSqrt`].
    pub fn inverse_sqrt(warm: u64) -> Schedule {
        Curve::InverseSqrt { warm }.into()
    }
    /// Changes the factor from `from` to `to` in `total` steps, along a straight line. See [`Curve::Linear`].
    pub fn linear(from: f64, to: f64, total: u64) -> Schedule {
        Curve::Linear { from, to, total }.into()
    }
    /// Raises the factor to 1 in `n` steps. The factor is (k + 1) / (n + 1) at step k, so the first step already has a rate
    /// above 0. With `n` = 0 there is no warm-up.
    pub fn warmup(n: u64) -> Schedule {
        Curve::Warmup { total: n }.into()
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
        Piece { part: Part::Lambda(Arc::new(f)), length: None, unit: Unit::Steps, scale: 1.0 }.into()
    }
    /// Ends the last curve of the schedule after `steps` steps, so that another curve can follow.
    pub fn lasting(mut self, steps: u64) -> Schedule {
        if let Some(last) = self.parts.last_mut() {
            last.length = Some(steps);
        }
        self
    }
    /// Appends `next`, whose steps count from 0 again. PyTorch's `SequentialLR`.
    pub fn then(mut self, next: impl Into<Schedule>) -> Schedule {
        self.parts.extend(next.into().parts);
        self
    }
    /// Counts epochs instead of steps: every number of steps in the schedule so far becomes a number of epochs.
    /// [`Trainer::fit`](crate::Trainer::fit) turns epochs into steps. The factor still changes from step to step. So a warm-up of
    /// 5 epochs rises within the epochs, and an exponential curve multiplies the factor by `gamma` over a whole epoch. A
    /// [function](Schedule::lambda) gets the number of complete epochs. Curves that count samples stay as they are.
    ///
    /// Steps outside of `fit` have no epochs. A trainer whose first step is outside of `fit` needs a schedule in steps: see
    /// [`to_steps`](Schedule::to_steps).
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::{Adam, Schedule}};
    /// let iris = data::iris(); // 150 samples.
    /// let schedule = Schedule::warmup(2).then(Schedule::cosine(8)).in_epochs();
    /// let optimizer = Adam::new(0.1).schedule(schedule);
    /// let mut trainer = Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), optimizer)?;
    /// let history = trainer.fit(&iris, Fit::new().epochs(10).batch_size(15))?;
    /// // An epoch has 10 steps, and step k of the 20 steps of the warm-up has the factor (k + 1) / 21.
    /// assert!((history.epochs[1].lr - 0.1 * 11.0 / 21.0).abs() < 1e-12);
    /// assert_eq!(history.epochs[2].lr, 0.1);
    /// assert!(history.epochs[9].lr < 0.004);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn in_epochs(self) -> Schedule {
        self.counted(Unit::Epochs)
    }
    /// Counts samples instead of steps: every number of steps in the schedule so far becomes a number of samples. Numbers of
    /// samples are rounded up to whole steps. An exponential curve multiplies the factor by `gamma` for each sample. A
    /// [function](Schedule::lambda) gets the number of samples before the step. Curves that count epochs stay as they are. In all
    /// else see [`in_epochs`](Schedule::in_epochs).
    ///
    /// ```
    /// use downhill::optim::Schedule;
    /// let schedule = Schedule::warmup(10_000).in_samples().then(Schedule::cosine(90).in_epochs());
    /// // 40 steps of 256 samples are a warm-up of 10,000 samples.
    /// let steps = schedule.to_steps(200, 256)?;
    /// assert_eq!((steps.at(19), steps.at(40)), (20.0 / 41.0, 1.0));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn in_samples(self) -> Schedule {
        self.counted(Unit::Samples)
    }
    fn counted(mut self, unit: Unit) -> Schedule {
        self.parts.iter_mut().filter(|piece| piece.unit == Unit::Steps).for_each(|piece| piece.unit = unit);
        self
    }
    /// Multiplies the factor of the schedule so far by batch / base_batch, or by the square root of it. So the optimizer's
    /// learning rate can be the one that is known to be good at a batch of `base_batch`.
    ///
    /// Large batches also need a warm-up. Goyal et al. 2017 begin at the rate of the base batch:
    ///
    /// ```
    /// use downhill::optim::{Scaling, Schedule};
    /// let schedule = Schedule::linear(256.0 / 8192.0, 1.0, 5).then(Schedule::step(30, 0.1)).in_epochs();
    /// let steps = schedule.scaled(8192, 256, Scaling::Linear).to_steps(156, 8192)?;
    /// assert_eq!((steps.at(0), steps.at(5 * 156)), (1.0, 32.0));
    /// assert_eq!(Schedule::constant().scaled(1024, 256, Scaling::Sqrt).at(0), 2.0);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// The optimizer's check returns an error if one of the batches is 0.
    pub fn scaled(mut self, batch: usize, base_batch: usize, scaling: Scaling) -> Schedule {
        let ratio = batch as f64 / base_batch as f64;
        let by = match scaling {
            Scaling::Linear => ratio,
            Scaling::Sqrt => ratio.sqrt(),
        };
        self.parts.iter_mut().for_each(|piece| piece.scale *= by);
        self
    }
    /// Returns the schedule in steps, for epochs of `steps_per_epoch` steps and steps of `samples_per_step` samples.
    /// [`Trainer::fit`](crate::Trainer::fit) does the same.
    ///
    /// # Errors
    /// One of the numbers is 0.
    pub fn to_steps(&self, steps_per_epoch: u64, samples_per_step: u64) -> Result<Schedule> {
        if steps_per_epoch == 0 || samples_per_step == 0 {
            return Err(Error::argument("to_steps", "an epoch has at least 1 step, and a step at least 1 sample"));
        }
        let piece = |piece: &Piece| Piece {
            part: match &piece.part {
                Part::Curve(curve) => Part::Curve(curve.in_steps(piece.unit, steps_per_epoch, samples_per_step)),
                Part::Lambda(f) => {
                    let (f, unit) = (f.clone(), piece.unit);
                    Part::Lambda(match unit {
                        Unit::Steps => f,
                        Unit::Epochs => Arc::new(move |k| f(k / steps_per_epoch)),
                        Unit::Samples => Arc::new(move |k: u64| f(k.saturating_mul(samples_per_step))),
                    })
                }
            },
            length: piece.length.map(|n| piece.unit.steps(n, steps_per_epoch, samples_per_step)),
            unit: Unit::Steps,
            scale: piece.scale,
        };
        Ok(Schedule { parts: self.parts.iter().map(piece).collect() })
    }
    /// Returns whether the schedule counts steps alone.
    pub(crate) fn is_in_steps(&self) -> bool {
        self.parts.iter().all(|piece| piece.unit == Unit::Steps)
    }
    /// Returns the factor at `step`, counted from 0. The factor is NaN if the schedule counts epochs or samples: see
    /// [`to_steps`](Schedule::to_steps).
    pub fn at(&self, step: u64) -> f64 {
        if !self.is_in_steps() {
            return f64::NAN;
        }
        let mut k = step;
        for (i, piece) in self.parts.iter().enumerate() {
            match piece.length {
                Some(n) if k >= n && i + 1 < self.parts.len() => k -= n,
                _ => return piece.scale * piece.part.at(k),
            }
        }
        1.0
    }
    /// Returns an error if a number is out of range, or if something follows a curve that has no end.
    pub fn check(&self) -> Result<()> {
        for (i, Piece { part, length, scale, .. }) in self.parts.iter().enumerate() {
            let endless = (length.is_none() && i + 1 < self.parts.len()).then_some("nothing can follow it: end it with `lasting`");
            let scaled = scale.is_finite() && *scale > 0.0;
            let scaled = (!scaled).then_some("`scaled` needs a batch and a base batch of at least 1");
            let mistake = match part {
                Part::Curve(curve) => curve.mistake(),
                Part::Lambda(_) => None,
            };
            if let Some(why) = mistake.or(scaled).or(endless) {
                return Err(Error::argument(format!("schedule {part:?}"), why));
            }
        }
        Ok(())
    }
}
