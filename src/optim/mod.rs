//! Optimizers. An optimizer updates the whole model with one rule, in one dispatch for each piece of the flat buffers.
//!
//! A [`Rule`] is two formulas for one element. A rule with a ratio has a third formula, for one parameter. The Rust file of a
//! rule and its WGSL file of the same name hold only these formulas. An [`Optimizer`] is a rule with a learning rate schedule,
//! parameter groups and gradient clipping.
//!
//! The rules differ in the states that they store for each element of the parameters. A state takes 4 bytes for each element.
//! The parameters and the gradients take 4 bytes each as well.
//!
//! | Rule | States | Bytes | After |
//! |---|---|---|---|
//! | [`Sgd`] | `momentum`, if it is above 0 | 0 or 4 | `torch.optim.SGD` |
//! | [`RmsProp`] | `square`; `mean` if centred; `momentum` if it is above 0 | 4 to 12 | `torch.optim.RMSprop` |
//! | [`Adagrad`] | `sum` | 4 | `torch.optim.Adagrad` |
//! | [`Adadelta`] | `square`, `change` | 8 | `torch.optim.Adadelta` |
//! | [`Adam`], [`AdamW`] | `mean`, `square`; `largest` with AMSGrad | 8 or 12 | `torch.optim.Adam`, `AdamW` |
//! | [`Adamax`] | `mean`, `largest` | 8 | `torch.optim.Adamax` |
//! | [`NAdam`] | `mean`, `square` | 8 | `torch.optim.NAdam` |
//! | [`RAdam`] | `mean`, `square` | 8 | `torch.optim.RAdam` |
//! | [`Lion`] | `mean` | 4 | `timm.optim.Lion` |
//! | [`Lars`] | `momentum`, if it is above 0; a ratio for each parameter | 0 or 4 | `timm.optim.Lars` |
//! | [`Lamb`] | `mean`, `square`; a ratio for each parameter | 8 | `timm.optim.Lamb` |
//!
//! [`Lars`] and [`Lamb`] are for large batches. They measure the norms of each parameter before the update, so a step reads
//! weights, gradients and states once more.
//!
//! [`Muon`] and [`Adafactor`] need a whole parameter at once. Each of them is a function that writes the update with tensors (see
//! `whole.rs`), so ordinary ops compute it.
//!
//! Options that are branches in other libraries are numbers here: a rule without momentum is the rule with momentum 0. A state
//! that the options do not need is not stored and reads as 0. So every rule has one kernel.

mod adafactor;
mod average;
mod curve;
mod guard;
mod muon;
mod optimizer;
mod readouts;
mod schedule;
mod steps;
mod trust;
mod update;
mod whole;

pub use adafactor::Adafactor;
pub use adam::AdamOf;
pub(crate) use average::blend;
pub use curve::Curve;
pub(crate) use guard::{Clip, Control, GUARD, Guard, NEAR, NORMS, ROW, SPREAD, STRICT, Squares, WEIGHT, squares};
pub use muon::{AdjustLr, Muon};
pub use optimizer::{Group, GroupOptions, Groups, Optimizer};
pub(crate) use readouts::MEASURED;
pub use readouts::Readouts;
pub use schedule::{Scaling, Schedule};
pub(crate) use trust::norm;
pub use trust::{Norms, Trust};
pub(crate) use update::Bounds;
pub use update::Settings;
pub(crate) use whole::{Parts, Whole};

use crate::{
    error::{Error, Result},
    host::Real,
    kernel::{Checks, Source},
};
use std::{any::TypeId, fmt};

/// The hyperparameters of one group for one step. The host computes them in `f64`. The rule defines the meaning of each entry.
pub type Hyper = [f64; 8];

/// The maximum number of states of a rule.
pub const MAX_STATES: usize = 3;

/// A value that a rule remembers for every element of the parameters. A state is one flat buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// The name of the state, in the shader's `State` and in checkpoints.
    pub name: &'static str,
    /// The value of every element before the first step.
    pub start: f32,
    /// Whether the state is stored. A state that is not stored reads as 0 in every step.
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

/// An update rule: it computes a direction for each element, and applies the direction to the weight.
///
/// ```text
/// u ← r · direction(w, g, s, h)          direction and apply may both change the states s
/// w ← apply(w, u, s, h)
/// r = ratio(‖w‖, ‖g‖, ‖direction‖, h)     one number for each parameter; 1 unless the rule HAS_RATIO
/// ```
///
/// The rule's WGSL file defines the same functions: `fn direction(w: f32, g: f32, s: ptr<function, State>, h: array<f32, 8>) ->
/// f32` and `fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32`. A rule with a ratio also defines `fn
/// ratio(norms: Norms, h: array<f32, 8>) -> f32`. `State` has one `f32` field for each of the [`states`](Rule::states), with
/// the name of the state. `Norms` has the fields of [`Norms`].
///
/// A rule without a ratio takes one dispatch for each piece of the flat buffers. A ratio needs one more read of weights,
/// gradients and states. That read computes the directions for their norms, and the update computes the directions again.
/// Nothing is written before all ratios are known. In LAMB, `direction` is Adam's direction and `apply` is a step of length
/// `lr`. In LARS, `direction` is the gradient with weight decay, and `apply` is the momentum and the step. So in LARS the ratio
/// comes before the momentum.
///
/// Checkpoints store the options of a rule as its `Debug` text. So the `Debug` text must show all options; a derived `Debug`
/// does.
pub trait Rule: fmt::Debug + Clone + Send + Sync + 'static {
    /// The name of the optimizer.
    const NAME: &'static str;
    /// Whether the WGSL is compiled with checks. See [`Checks`].
    const CHECKS: Checks<Self> = Checks::ON;
    /// Returns the WGSL file.
    fn source() -> Source;
    /// Returns all states of the rule, at most [`MAX_STATES`].
    fn states(&self) -> Vec<State>;
    /// Returns the learning rate. Schedules and groups scale it.
    fn lr(&self) -> f64;
    /// Returns the weight decay. It applies to the parameters that decay.
    fn weight_decay(&self) -> f64;
    /// Returns the norm to which the gradients are clipped, if no other norm is set with [`Optimizer::clip_norm`]. Most rules do
    /// not clip.
    fn max_grad_norm(&self) -> Option<f64> {
        None
    }
    /// Returns an error if an option of the rule is out of range. The [`Optimizer`] checks [`lr`](Rule::lr) and
    /// [`weight_decay`](Rule::weight_decay).
    fn check(&self) -> Result<()>;
    /// Returns the hyperparameters of step `t` (from 1) for the learning rate `lr` and the weight decay `decay`.
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    /// Returns an upper bound of the weight and of the states after one step. The arguments bound the gradient, the weight and
    /// the states before the step. The bound of the weight also covers every intermediate result. Write the formula of the rule
    /// with magnitudes in place of numbers, so that nothing cancels.
    ///
    /// This bound tells which numbers are about to overflow without looking at them. Without a bound, the trainer first tries
    /// each step without writing anything. A trial takes about as long as the update. A rule with a ratio bounds the ratio as
    /// well: where r is 1 or ‖w‖/‖u‖, no element of r·u is above the largest of u and 65,536·w, because no parameter has 2³²
    /// elements.
    fn grow(_g: f64, _w: f64, _s: [f64; MAX_STATES], _h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        (f64::INFINITY, [f64::INFINITY; MAX_STATES])
    }
    /// Defines the direction, from a weight, its gradient, its states and the hyperparameters. The function may change the
    /// states. The gaps between parameters hold weights and gradients of 0. Their direction must be 0.
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T;
    /// Defines the new weight, from the old weight and the direction times the ratio. The function may change the states, too.
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T;
    /// Whether the rule multiplies the directions of a parameter by a [`ratio`](Rule::ratio).
    const HAS_RATIO: bool = false;
    /// Defines the ratio of a parameter, from its norms before the step and the hyperparameters of its group. A ratio that is
    /// not a finite `f32` counts as the largest `f32`. A ratio below the smallest normal `f32` counts as 0.
    fn ratio(_norms: Norms, _h: &Hyper) -> f64 {
        1.0
    }
    /// Returns the rule with the options to test. Together they cover each choice of states and each term of the formulas.
    fn cases() -> Vec<Self>;
}

/// Returns `a + t·(b − a)`. The result is exact at both ends, as in PyTorch's `lerp`.
fn lerp<T: Real>(a: T, b: T, t: T) -> T {
    if t < T::of(0.5) { a + t * (b - a) } else { b - (b - a) * (T::one() - t) }
}

/// Returns an error unless `ok`: `AdamW: beta2 is 1.5, but must be in 0..1`.
fn require(ok: bool, rule: &str, option: &str, value: f64, range: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::argument(rule, format!("{option} is {value}, but must be {range}"))) }
}

/// Returns an error unless `value` is the decay rate of a running average.
fn require_rate(rule: &str, option: &str, value: f64) -> Result<()> {
    require((0.0..1.0).contains(&value), rule, option, value, "at least 0 and below 1")
}

/// Returns an error unless `value` can keep a denominator from 0. The shaders use it as an `f32`, and the `f32` must not be 0.
/// Otherwise an element whose gradients were all 0 would become 0/0.
fn require_eps(rule: &str, value: f64) -> Result<()> {
    require(value.is_finite() && value as f32 > 0.0, rule, "eps", value, "finite and positive (as f32)")
}

/// Gives a rule the methods of [`Optimizer`], which turn it into an optimizer.
macro_rules! options {
    ($rule:ident) => {
        impl $rule {
            /// Sets a learning rate that changes over time. See [`Optimizer::schedule`].
            pub fn schedule(self, schedule: impl Into<Schedule>) -> Optimizer {
                Optimizer::from(self).schedule(schedule)
            }
            /// Sets different options for some parameters. See [`Optimizer::group`].
            pub fn group(self, matches: impl Fn(&str) -> bool + Send + Sync + 'static, options: GroupOptions) -> Optimizer {
                Optimizer::from(self).group(matches, options)
            }
            /// Applies weight decay to all parameters. See [`Optimizer::decay_all`].
            pub fn decay_all(self) -> Optimizer {
                Optimizer::from(self).decay_all()
            }
            /// Limits the norm of the gradients. See [`Optimizer::clip_norm`].
            pub fn clip_norm(self, max: f64) -> Optimizer {
                Optimizer::from(self).clip_norm(max)
            }
            /// Limits each element of the gradients. See [`Optimizer::clip_value`].
            pub fn clip_value(self, max: f64) -> Optimizer {
                Optimizer::from(self).clip_value(max)
            }
            /// Keeps an exponential moving average of the weights. See [`Optimizer::ema`].
            pub fn ema(self, decay: f64) -> Optimizer {
                Optimizer::from(self).ema(decay)
            }
            /// Keeps an equal average of the weights of some steps. See [`Optimizer::swa`].
            pub fn swa(self, from: u64, every: u64) -> Optimizer {
                Optimizer::from(self).swa(from, every)
            }
            /// Moves slow weights towards the weights in each k-th step. See [`Optimizer::lookahead`].
            pub fn lookahead(self, k: u64, alpha: f64) -> Optimizer {
                Optimizer::from(self).lookahead(k, alpha)
            }
            /// Freezes some parameters. See [`Optimizer::freeze`].
            pub fn freeze<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Optimizer {
                Optimizer::from(self).freeze(names)
            }
        }
    };
}

options!(Muon);
options!(Adafactor);

macro_rules! rules {
    ($($file:ident :: { $($rule:ident),* }),* $(,)?) => {
        $(mod $file; $(pub use $file::$rule;)*)*
        $($(options!($rule);)*)*
        /// Returns every rule with each set of options to test, and optimizers with averages. Tests and shader validation use this list.
        pub fn all() -> Vec<Optimizer> {
            let mut all = Vec::new();
            $($(all.extend(<$rule as Rule>::cases().into_iter().map(Optimizer::from));)*)*
            all.extend(Optimizer::averaged_cases());
            all
        }
        /// Whether `rule` is the type of a rule of this crate.
        fn is_own(rule: TypeId) -> bool {
            [$($(TypeId::of::<$rule>(),)*)*].contains(&rule)
        }
    };
}

// The only list of rules. A new rule needs a line here, a Rust file and a WGSL file.
rules! {
    sgd::{Sgd},
    rms_prop::{RmsProp},
    adagrad::{Adagrad},
    adam::{Adam, AdamW},
    adamax::{Adamax},
    nadam::{NAdam},
    radam::{RAdam},
    adadelta::{Adadelta},
    lion::{Lion},
    lars::{Lars},
    lamb::{Lamb},
}

#[cfg(test)]
mod tests;
