//! RAdam.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require_eps, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// RAdam: Adam that divides by the root of the mean square only when enough gradients are in it. The first steps are those of
/// momentum.
///
/// ```text
/// g ← g + λ·w                          (decoupled: w ← w·(1 − lr·λ))
/// m ← β₁·m + (1 − β₁)·g
/// v ← β₂·v + (1 − β₂)·g²
/// w ← w − lr/(1 − β₁ᵗ)·m·R             R = r·√(1 − β₂ᵗ) / (√v + ε) if ρₜ > 5, otherwise 1
/// ρ = 2/(1 − β₂) − 1                   ρₜ = ρ − 2·t·β₂ᵗ/(1 − β₂ᵗ)
/// r = √((ρₜ − 4)·(ρₜ − 2)·ρ / ((ρ − 4)·(ρ − 2)·ρₜ))
/// ```
/// Options and defaults are those of `torch.optim.RAdam`. Liu et al. 2019, arXiv:1908.03265.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RAdam {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    decoupled_weight_decay: bool,
}

impl RAdam {
    /// Creates the rule with β = (0.9, 0.999) and ε = 1e-8, without weight decay.
    pub fn new(lr: f64) -> RAdam {
        RAdam { lr, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled_weight_decay: false }
    }
    /// Sets the decay rates of the running means of the gradient and of its square, in 0..1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> RAdam {
        RAdam { betas: (beta1, beta2), ..self }
    }
    /// Sets ε, which is added to the root; 1e-8 by default.
    pub fn eps(self, eps: f64) -> RAdam {
        RAdam { eps, ..self }
    }
    /// Sets λ, the weight decay; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> RAdam {
        RAdam { weight_decay, ..self }
    }
    /// Shrinks the weight directly, as [`AdamW`](super::AdamW) does; off by default.
    pub fn decoupled_weight_decay(self, decoupled_weight_decay: bool) -> RAdam {
        RAdam { decoupled_weight_decay, ..self }
    }
}

impl Rule for RAdam {
    const NAME: &'static str = "RAdam";
    fn source() -> Source {
        crate::source!("optim/radam")
    }
    fn states(&self) -> Vec<State> {
        vec![State::zero("mean"), State::zero("square")]
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
        let (t, (beta1, beta2)) = (t as f64, self.betas);
        let (decay, shrink) = if self.decoupled_weight_decay { (0.0, 1.0 - lr * decay) } else { (decay, 1.0) };
        let (old, all) = (beta2.powf(t), 2.0 / (1.0 - beta2) - 1.0);
        let seen = all - 2.0 * t * old / (1.0 - old);
        // The divisor is adaptive·√v + constant.
        let (rectified, adaptive, constant) = match seen > 5.0 {
            true => (((seen - 4.0) * (seen - 2.0) * all / ((all - 4.0) * (all - 2.0) * seen) * (1.0 - old)).sqrt(), 1.0, self.eps),
            false => (1.0, 0.0, 1.0),
        };
        [decay, shrink, 1.0 - beta1, 1.0 - beta2, lr / (1.0 - beta1.powf(t)) * rectified, adaptive, constant, 0.0]
    }
    fn grow(g: f64, w: f64, [mean, square, _]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [decay, shrink, _, fresh2, step, _, constant, _] = *h;
        let g = g + decay * w;
        // The differences that `lerp` takes.
        let far = (mean + g).max(square + g * g);
        let mean = mean.max(g);
        let w = shrink.abs() * w + step * mean * (1.0 + 1.0 / constant);
        (w.max(far), [mean, (1.0 - fresh2) * square + fresh2 * g * g, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [mean, square, _] = s;
        let [decay, _, fresh1, fresh2, step, adaptive, constant, _] = *h;
        let g = g + decay * w;
        *mean = lerp(*mean, g, fresh1);
        *square = lerp(*square, g * g, fresh2);
        step * *mean / (adaptive * square.sqrt() + constant)
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        h[1] * w - u
    }
    fn cases() -> Vec<RAdam> {
        let new = RAdam::new(0.01);
        // With β₂ = 0.8, ρ is 9, and ρₜ is above 5 from step 7 on. With β₂ = 0.999, it is from step 6 on.
        vec![new, new.weight_decay(0.1).betas(0.3, 0.8), new.weight_decay(0.1).decoupled_weight_decay(true)]
    }
}
