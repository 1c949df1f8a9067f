//! Lion.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// Lion: every element takes a step of one length, in the direction of a running mean. It has one state.
///
/// ```text
/// w ← w·(1 − lr·λ)
/// w ← w − lr·sign(β₁·m + (1 − β₁)·g)   (sign 0 = 0)
/// m ← β₂·m + (1 − β₂)·g
/// ```
/// The learning rate is 3 to 10 times smaller than with [`AdamW`](super::AdamW), and the weight decay as many times larger.
/// A magnitude below the smallest normal `f32` has the sign 0, because GPUs may round it to 0.
///
/// Options and defaults are those of `timm.optim.Lion`. Chen et al. 2023, arXiv:2302.06675.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    lr: f64,
    betas: (f64, f64),
    weight_decay: f64,
}

impl Lion {
    /// Creates the rule with β = (0.9, 0.99) and without weight decay.
    pub fn new(lr: f64) -> Lion {
        Lion { lr, betas: (0.9, 0.99), weight_decay: 0.0 }
    }
    /// Sets the decay rates of the running mean for the step and for the state, in 0..1; 0.9 and 0.99 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> Lion {
        Lion { betas: (beta1, beta2), ..self }
    }
    /// Sets λ, the decoupled weight decay; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Lion {
        Lion { weight_decay, ..self }
    }
}

impl Rule for Lion {
    const NAME: &'static str = "Lion";
    fn source() -> Source {
        crate::source!("optim/lion")
    }
    fn states(&self) -> Vec<State> {
        vec![State::zero("mean")]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        require_rate(Self::NAME, "beta1", self.betas.0)?;
        require_rate(Self::NAME, "beta2", self.betas.1)
    }
    fn hyper(&self, _t: u64, lr: f64, decay: f64) -> Hyper {
        [lr, 1.0 - lr * decay, 1.0 - self.betas.0, 1.0 - self.betas.1, 0.0, 0.0, 0.0, 0.0]
    }
    fn grow(g: f64, w: f64, [mean, ..]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [lr, shrink, ..] = *h;
        // The difference that `lerp` takes.
        let far = mean + g;
        ((shrink.abs() * w + lr).max(far), [mean.max(g), 0.0, 0.0])
    }
    fn direction<T: Real>(_w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [mean, ..] = s;
        let [_, _, fresh1, fresh2, ..] = *h;
        let along = lerp(*mean, g, fresh1);
        *mean = lerp(*mean, g, fresh2);
        if along.abs() < T::of(f64::from(f32::MIN_POSITIVE)) { T::zero() } else { along.signum() }
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        h[1] * w - h[0] * u
    }
    fn cases() -> Vec<Lion> {
        let new = Lion::new(0.01);
        vec![new, new.weight_decay(0.5).betas(0.3, 0.8)]
    }
}
