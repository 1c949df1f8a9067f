//! Optimizers: one rule, one dispatch over the flat buffers of the whole model.
//!
//! A [`Rule`] is a formula for one element. Its file here and its WGSL file of the same name hold nothing else;
//! [`Optimizer`] is a rule with its learning rate over time, parameter groups and gradient clipping.
//!
//! Options that other libraries branch on are numbers here: a rule without momentum is the rule with momentum 0,
//! and a state that an option has no use for is not stored and reads as 0. So a rule has one kernel.

mod guard;
mod optimizer;
mod schedule;
mod update;

pub use adam::AdamOf;
pub(crate) use guard::square_sum;
pub use guard::{Guard, assign_kernel, assign_trial_kernel};
pub(crate) use guard::{NEAR, STRICT};
pub use optimizer::{Group, GroupOptions, Groups, Optimizer};
pub use schedule::{Curve, Schedule};
pub(crate) use update::Sizes;

use crate::{
    error::{Error, Result},
    host::Real,
    kernel::Source,
};
use std::fmt;

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

/// An update rule. Its WGSL file defines
/// `fn update(w: f32, g: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32`, which returns the new weight;
/// `State` has one `f32` for each of the [`states`](Rule::states), by name.
///
/// Checkpoints hold its options as its `Debug` text has them, so it must show them all; a derived one does.
pub trait Rule: fmt::Debug + Clone + Send + Sync + 'static {
    /// The optimizer's name.
    const NAME: &'static str;
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
    /// How large weight and states can be after [`update`](Rule::update), and whatever it computes on the way to them, where gradient,
    /// weight and states are at most so large: the formula with magnitudes in place of numbers, in which nothing cancels. It spares
    /// looking for numbers that are about to overflow. Without it, each step is tried first, without writing anything, which takes about
    /// as long as the update.
    fn grow(_g: f64, _w: f64, _s: [f64; MAX_STATES], _h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        (f64::INFINITY, [f64::INFINITY; MAX_STATES])
    }
    /// The definition: the new weight, from the old one, its gradient, its states and the hyperparameters.
    fn update<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T;
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
            }
        )*)*
        /// Every rule with the options to test: the list that tests and shader validation go by.
        pub fn all() -> Vec<Optimizer> {
            let mut all = Vec::new();
            $($(all.extend(<$rule as Rule>::cases().into_iter().map(Optimizer::from));)*)*
            all
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
