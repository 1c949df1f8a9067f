//! Adamax.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require_eps, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// Adamax: Adam that divides by the largest magnitude of a gradient, which decays over the steps.
///
/// ```text
/// g ← g + λ·w
/// m ← β₁·m + (1 − β₁)·g
/// v ← max(β₂·v, |g| + ε)
/// w ← w − lr/(1 − β₁ᵗ) · m / v
/// ```
/// Options and defaults are those of `torch.optim.Adamax`. Kingma and Ba 2014, arXiv:1412.6980, section 7.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adamax {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
}

impl Adamax {
    /// Creates the rule with β = (0.9, 0.999) and ε = 1e-8, without weight decay.
    pub fn new(lr: f64) -> Adamax {
        Adamax { lr, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
    /// Sets the decay rates of the running mean of the gradient and of its largest magnitude, in 0..1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> Adamax {
        Adamax { betas: (beta1, beta2), ..self }
    }
    /// Sets ε, which is added to the magnitude; 1e-8 by default.
    pub fn eps(self, eps: f64) -> Adamax {
        Adamax { eps, ..self }
    }
    /// Sets λ, the factor of the L2 penalty's gradient; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Adamax {
        Adamax { weight_decay, ..self }
    }
}

impl Rule for Adamax {
    const NAME: &'static str = "Adamax";
    fn source() -> Source {
        crate::source!("optim/adamax")
    }
    fn states(&self) -> Vec<State> {
        vec![State::zero("mean"), State::zero("largest")]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        require_rate(Self::NAME, "beta1", self.betas.0)?;
        require_rate(Self::NAME, "beta2", self.betas.1)?;
        require_eps(Self::NAME, self.eps)
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let (beta1, beta2) = self.betas;
        [decay, 1.0 - beta1, beta2, lr / (1.0 - beta1.powf(t as f64)), self.eps, 0.0, 0.0, 0.0]
    }
    fn grow(g: f64, w: f64, [mean, largest, _]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [decay, _, beta2, step, eps, ..] = *h;
        let g = g + decay * w;
        // The difference that `lerp` takes.
        let far = mean + g;
        let mean = mean.max(g);
        ((w + step * mean * (1.0 + 1.0 / eps)).max(far), [mean, (beta2 * largest).max(g + eps), 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [mean, largest, _] = s;
        let [decay, fresh1, beta2, step, eps, ..] = *h;
        let g = g + decay * w;
        *mean = lerp(*mean, g, fresh1);
        *largest = (beta2 * *largest).max(g.abs() + eps);
        step * *mean / *largest
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        w - u
    }
    fn cases() -> Vec<Adamax> {
        let new = Adamax::new(0.01);
        vec![new, new.weight_decay(0.1).betas(0.3, 0.6)]
    }
}
