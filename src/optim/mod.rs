//! Optimizers: one rule, one dispatch over the flat buffers of the whole model.
//!
//! A [`Rule`] is two formulas for one element, and one for a parameter where it goes by norms. Its file here and its WGSL file of the same name hold nothing else;
//! [`Optimizer`] is a rule with its learning rate over time, parameter groups and gradient clipping.
//!
//! Options that other libraries branch on are numbers here: a rule without momentum is the rule with momentum 0,
//! and a state that an option has no use for is not stored and reads as 0. So a rule has one kernel.

mod guard;
mod optimizer;
mod schedule;
mod steps;
mod trust;
mod update;

pub use adam::AdamOf;
pub(crate) use guard::{Clip, Control, GUARD, Guard, NEAR, NORMS, ROW, STRICT, Squares, WEIGHT, squares};
pub use optimizer::{Group, GroupOptions, Groups, Optimizer};
pub use schedule::{Curve, Schedule};
pub use trust::{Norms, Trust};
pub(crate) use update::Bounds;
pub use update::Settings;

use crate::{
    error::{Error, Result},
    host::Real,
    kernel::{Checks, Source},
};
use std::{any::TypeId, fmt};

/// Hyperparameters of one group for one step, computed on the host in `f64`: the rule says what each entry means.
pub type Hyper = [f64; 8];

/// The most states a rule can have.
pub const MAX_STATES: usize = 3;

/// A value that a rule remembers of every element of the parameters: one flat buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Of its field in the shader's `State`, and in checkpoints.
    pub name: &'static str,
    /// What it holds before the first step.
    pub start: f32,
    /// Whether it is stored. One that is not reads as 0 in every step.
    pub kept: bool,
}

impl State {
    fn zero(name: &'static str) -> State {
        State { name, start: 0.0, kept: true }
    }
    fn when(self, kept: bool) -> State {
        State { kept, ..self }
    }
}

/// An update rule: a direction, and its application to the weight.
///
/// ```text
/// u ← r · direction(w, g, s, h)          each of them may renew the states s
/// w ← apply(w, u, s, h)
/// r = ratio(‖w‖, ‖g‖, ‖direction‖, h)     of each parameter; 1 unless the rule HAS_RATIO
/// ```
///
/// Its WGSL file defines the same functions: `fn direction(w: f32, g: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32`,
/// `fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32` and, where it has a ratio,
/// `fn ratio(norms: Norms, h: array<f32, 8>) -> f32`. `State` has one `f32` for each of the [`states`](Rule::states), by name, and `Norms` has
/// the fields of [`Norms`].
///
/// A rule without a ratio is one dispatch for each piece of the flat buffers. A ratio takes another reading of weights, gradients and states, in
/// which the direction is computed for its norm, and computed again in the update: nothing is written before all ratios are known.
/// In LAMB the direction is Adam's and the application a step of `lr`; in LARS the direction is the gradient with weight decay and
/// the application is momentum and a step, so that the ratio comes before the momentum.
///
/// Checkpoints hold its options as its `Debug` text has them, so it must show them all; a derived one does.
pub trait Rule: fmt::Debug + Clone + Send + Sync + 'static {
    /// The optimizer's name.
    const NAME: &'static str;
    /// Whether the WGSL is compiled with checks: see [`Checks`].
    const CHECKS: Checks<Self> = Checks::ON;
    /// The WGSL file.
    fn source() -> Source;
    /// All states of the rule, at most [`MAX_STATES`].
    fn states(&self) -> Vec<State>;
    /// The learning rate that schedules and groups scale.
    fn lr(&self) -> f64;
    /// The weight decay of the parameters that decay.
    fn weight_decay(&self) -> f64;
    /// Whether the options specific to this rule are in range; [`lr`](Rule::lr) and
    /// [`weight_decay`](Rule::weight_decay) are checked by the [`Optimizer`].
    fn check(&self) -> Result<()>;
    /// The hyperparameters of step `t` (from 1), at learning rate `lr` and weight decay `decay`.
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    /// How large weight and states can be after a step, and whatever it computes on the way to them, where gradient,
    /// weight and states are at most so large: the formula with magnitudes in place of numbers, in which nothing cancels. It spares
    /// looking for numbers that are about to overflow. Without it, each step is tried first, without writing anything, which takes about
    /// as long as the update. A rule with a ratio bounds that as well: where r is 1 or ‖w‖/‖u‖, no element of r·u is above the largest of
    /// u and 65,536·w, because no parameter has 2³² elements.
    fn grow(_g: f64, _w: f64, _s: [f64; MAX_STATES], _h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        (f64::INFINITY, [f64::INFINITY; MAX_STATES])
    }
    /// The definition of the direction: from a weight, its gradient, its states, which it may renew, and the hyperparameters.
    /// Between parameters there are weights and gradients of 0, whose direction must be 0.
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T;
    /// The definition of its application: the new weight, from the direction times the ratio. It may renew states, too.
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T;
    /// Whether the directions of a parameter are multiplied by a [`ratio`](Rule::ratio).
    const HAS_RATIO: bool = false;
    /// The definition of the ratio of a parameter, from its norms before the step and the hyperparameters of its group. One that is
    /// no finite `f32` counts as the largest `f32`, one that is below the smallest normal `f32` as 0.
    fn ratio(_norms: Norms, _h: &Hyper) -> f64 {
        1.0
    }
    /// Options to test: each choice of states, each term at work.
    fn cases() -> Vec<Self>;
}

/// `a + t·(b − a)`, exact at both ends, as PyTorch's `lerp` has it.
fn lerp<T: Real>(a: T, b: T, t: T) -> T {
    if t < T::of(0.5) { a + t * (b - a) } else { b - (b - a) * (T::one() - t) }
}

/// An error unless `ok`: `AdamW: beta2 is 1.5, but must be in 0..1`.
fn require(ok: bool, rule: &str, option: &str, value: f64, range: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::argument(rule, format!("{option} is {value}, but must be {range}"))) }
}

/// A decay rate of a running average.
fn require_rate(rule: &str, option: &str, value: f64) -> Result<()> {
    require((0.0..1.0).contains(&value), rule, option, value, "at least 0 and below 1")
}

/// The term that keeps a denominator from 0. In the shaders it is an `f32`, and must not be 0 there: an element
/// whose gradient was 0 all along would become 0/0.
fn require_eps(rule: &str, value: f64) -> Result<()> {
    require(value.is_finite() && value as f32 > 0.0, rule, "eps", value, "finite and positive (as f32)")
}

macro_rules! rules {
    ($($file:ident :: { $($rule:ident),* }),* $(,)?) => {
        $(mod $file; $(pub use $file::$rule;)*)*
        $($(
            impl $rule {
                /// With a learning rate that changes over time. See [`Optimizer::schedule`].
                pub fn schedule(self, schedule: impl Into<Schedule>) -> Optimizer {
                    Optimizer::from(self).schedule(schedule)
                }
                /// With options of their own for some parameters. See [`Optimizer::group`].
                pub fn group(self, matches: impl Fn(&str) -> bool + Send + Sync + 'static, options: GroupOptions) -> Optimizer {
                    Optimizer::from(self).group(matches, options)
                }
                /// With weight decay on all parameters. See [`Optimizer::decay_all`].
                pub fn decay_all(self) -> Optimizer {
                    Optimizer::from(self).decay_all()
                }
                /// With the gradient's norm bounded. See [`Optimizer::clip_norm`].
                pub fn clip_norm(self, max: f64) -> Optimizer {
                    Optimizer::from(self).clip_norm(max)
                }
                /// With each element of the gradient bounded. See [`Optimizer::clip_value`].
                pub fn clip_value(self, max: f64) -> Optimizer {
                    Optimizer::from(self).clip_value(max)
                }
                /// With some parameters that stay as they are. See [`Optimizer::freeze`].
                pub fn freeze<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Optimizer {
                    Optimizer::from(self).freeze(names)
                }
            }
        )*)*
        /// Every rule with the options to test: the list that tests and shader validation go by.
        pub fn all() -> Vec<Optimizer> {
            let mut all = Vec::new();
            $($(all.extend(<$rule as Rule>::cases().into_iter().map(Optimizer::from));)*)*
            all
        }
        /// Whether this is the type of a rule of this crate.
        fn is_own(rule: TypeId) -> bool {
            [$($(TypeId::of::<$rule>(),)*)*].contains(&rule)
        }
    };
}

// The one list. A line here, a file and a shader are all that a rule needs.
rules! {
    sgd::{Sgd},
    rms_prop::{RmsProp},
    adagrad::{Adagrad},
    adam::{Adam, AdamW},
}

#[cfg(test)]
mod tests;
