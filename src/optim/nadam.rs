//! NAdam.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require, require_eps, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// NAdam: Adam with Nesterov's momentum. The momentum grows over the steps.
///
/// ```text
/// g ← g + λ·w                          (decoupled: w ← w·(1 − lr·λ))
/// m ← β₁·m + (1 − β₁)·g
/// v ← β₂·v + (1 − β₂)·g²
/// w ← w − lr·((1 − μₜ)/(1 − Πₜ)·g + μₜ₊₁/(1 − Πₜ₊₁)·m) / (√v/√(1 − β₂ᵗ) + ε)
/// μₜ = β₁·(1 − 0.96^(t·ψ)/2)           Πₜ = μ₁·μ₂·…·μₜ
/// ```
/// ψ is `momentum_decay`. Options and defaults are those of `torch.optim.NAdam`. Dozat 2016, "Incorporating Nesterov momentum
/// into Adam".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NAdam {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    momentum_decay: f64,
    decoupled_weight_decay: bool,
}

impl NAdam {
    /// Creates the rule with β = (0.9, 0.999), ε = 1e-8 and ψ = 0.004, without weight decay.
    pub fn new(lr: f64) -> NAdam {
        NAdam { lr, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, momentum_decay: 4e-3, decoupled_weight_decay: false }
    }
    /// Sets the decay rates of the running means of the gradient and of its square, in 0..1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> NAdam {
        NAdam { betas: (beta1, beta2), ..self }
    }
    /// Sets ε, which is added to the root; 1e-8 by default.
    pub fn eps(self, eps: f64) -> NAdam {
        NAdam { eps, ..self }
    }
    /// Sets λ, the weight decay; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> NAdam {
        NAdam { weight_decay, ..self }
    }
    /// Sets ψ, the speed at which the momentum grows from β₁/2 to β₁; 0.004 by default.
    pub fn momentum_decay(self, momentum_decay: f64) -> NAdam {
        NAdam { momentum_decay, ..self }
    }
    /// Shrinks the weight directly, as [`AdamW`](super::AdamW) does; off by default.
    pub fn decoupled_weight_decay(self, decoupled_weight_decay: bool) -> NAdam {
        NAdam { decoupled_weight_decay, ..self }
    }

    /// Returns μₜ.
    fn momentum(&self, t: f64) -> f64 {
        self.betas.0 * (1.0 - 0.5 * 0.96f64.powf(t * self.momentum_decay))
    }
    /// Returns Πₜ in closed form, so that a step needs no number of the step before. With q = 0.96^ψ, the logarithm of
    /// 1 − qⁱ/2 is −Σₖ qⁱᵏ/(k·2ᵏ), and Σᵢ qⁱᵏ is a geometric sum.
    fn product(&self, t: f64) -> f64 {
        let rate = self.momentum_decay * 0.96f64.ln();
        let sum = |k: f64| match k * rate {
            0.0 => t,
            rate => rate.exp() * (t * rate).exp_m1() / rate.exp_m1(),
        };
        let logarithm: f64 = (1..=60).rev().map(|k| sum(f64::from(k)) / (f64::from(k) * 2f64.powi(k))).sum();
        self.betas.0.powf(t) * (-logarithm).exp()
    }
}

impl Rule for NAdam {
    const NAME: &'static str = "NAdam";
    fn source() -> Source {
        crate::source!("optim/nadam")
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
        let psi = self.momentum_decay;
        require(psi.is_finite() && psi >= 0.0, Self::NAME, "momentum_decay", psi, "finite and not negative")?;
        require_eps(Self::NAME, self.eps)
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let t = t as f64;
        let (decay, shrink) = if self.decoupled_weight_decay { (0.0, 1.0 - lr * decay) } else { (decay, 1.0) };
        let now = lr * (1.0 - self.momentum(t)) / (1.0 - self.product(t));
        let next = lr * self.momentum(t + 1.0) / (1.0 - self.product(t + 1.0));
        let root = (1.0 - self.betas.1.powf(t)).sqrt();
        [decay, shrink, 1.0 - self.betas.0, 1.0 - self.betas.1, now, next, root, self.eps]
    }
    fn grow(g: f64, w: f64, [mean, square, _]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [decay, shrink, _, fresh2, now, next, root, eps] = *h;
        let g = g + decay * w;
        // The differences that `lerp` takes.
        let far = (mean + g).max(square + g * g);
        let (mean, square) = (mean.max(g), (1.0 - fresh2) * square + fresh2 * g * g);
        let w = shrink.abs() * w + (now * g + next * mean) * (1.0 + 1.0 / eps);
        (w.max(far).max(square.sqrt() / root), [mean, square, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [mean, square, _] = s;
        let [decay, _, fresh1, fresh2, now, next, root, eps] = *h;
        let g = g + decay * w;
        *mean = lerp(*mean, g, fresh1);
        *square = lerp(*square, g * g, fresh2);
        (now * g + next * *mean) / (square.sqrt() / root + eps)
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        h[1] * w - u
    }
    fn cases() -> Vec<NAdam> {
        let new = NAdam::new(0.01);
        vec![new, new.weight_decay(0.1).betas(0.3, 0.9).momentum_decay(0.5), new.weight_decay(0.1).decoupled_weight_decay(true)]
    }
}
