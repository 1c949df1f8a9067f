//! Adagrad.

use super::{Hyper, MAX_STATES, Rule, State, require, require_eps};
use crate::{error::Result, host::Real, kernel::Source};

/// Adagrad. It divides each gradient by the root of the sum of its squares so far.
///
/// ```text
/// g ← g + λ·w
/// v ← v + g²
/// w ← w − lr / (1 + (t − 1)·lr_decay) · g / (√v + ε)
/// ```
/// Options and defaults are those of `torch.optim.Adagrad`. Duchi, Hazan and Singer 2011, "Adaptive subgradient
/// methods for online learning and stochastic optimization".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    lr: f64,
    lr_decay: f64,
    weight_decay: f64,
    initial_accumulator_value: f64,
    eps: f64,
}

impl Adagrad {
    /// Creates the rule with ε = 1e-10, without decays, and with sums that start at 0.
    pub fn new(lr: f64) -> Adagrad {
        Adagrad { lr, lr_decay: 0.0, weight_decay: 0.0, initial_accumulator_value: 0.0, eps: 1e-10 }
    }
    /// Sets how fast the learning rate falls with the step; 0 by default.
    pub fn lr_decay(self, lr_decay: f64) -> Adagrad {
        Adagrad { lr_decay, ..self }
    }
    /// Sets λ, the factor of the L2 penalty's gradient; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Adagrad {
        Adagrad { weight_decay, ..self }
    }
    /// Sets the initial value of the sum of squares; 0 by default.
    pub fn initial_accumulator_value(self, initial_accumulator_value: f64) -> Adagrad {
        Adagrad { initial_accumulator_value, ..self }
    }
    /// Sets ε, which is added to the root; 1e-10 by default.
    pub fn eps(self, eps: f64) -> Adagrad {
        Adagrad { eps, ..self }
    }
}

impl Rule for Adagrad {
    const NAME: &'static str = "Adagrad";
    fn source() -> Source {
        crate::source!("optim/adagrad")
    }
    fn states(&self) -> Vec<State> {
        vec![State { start: self.initial_accumulator_value as f32, ..State::zero("sum") }]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        let nonnegative = |option, x: f64| require((x as f32).is_finite() && x >= 0.0, Self::NAME, option, x, "finite and not negative");
        nonnegative("lr_decay", self.lr_decay)?;
        nonnegative("initial_accumulator_value", self.initial_accumulator_value)?;
        require_eps(Self::NAME, self.eps)
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let lr = lr / (1.0 + (t - 1) as f64 * self.lr_decay);
        [lr, decay, self.eps, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn grow(g: f64, w: f64, [sum, ..]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [lr, decay, eps, ..] = *h;
        let g = g + decay * w;
        (w + lr * g * (1.0 + 1.0 / eps), [sum + g * g, 0.0, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [sum, ..] = s;
        let [lr, decay, eps, ..] = *h;
        let g = g + decay * w;
        *sum += g * g;
        lr * g / (sum.sqrt() + eps)
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        w - u
    }
    fn cases() -> Vec<Adagrad> {
        let new = Adagrad::new(0.1);
        vec![new, new.lr_decay(0.1).weight_decay(0.1).initial_accumulator_value(0.5)]
    }
}
