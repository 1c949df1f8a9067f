//! LARS.

use super::{Hyper, MAX_STATES, Norms, Rule, State, require, require_eps, trust::MOST};
use crate::{
    error::{Error, Result},
    host::Real,
    kernel::Source,
};

/// LARS: stochastic gradient descent with momentum, and one learning rate for each parameter. It keeps large batches stable.
///
/// ```text
/// u ← r·(g + λ·w)                      r = η·‖w‖ / (‖g‖ + λ·‖w‖ + ε) of each parameter; 1 if ‖w‖ or ‖g‖ is 0,
///                                      or the parameter does not adapt
/// b ← μ·b + (1 − dampening)·u          (b ← u in the first step)
/// w ← w − lr·b                         (Nesterov: w − lr·(u + μ·b))
/// ```
/// η is `trust_coeff`, λ the weight decay and μ the momentum. The learning rate is larger than with [`Sgd`](super::Sgd), because
/// η is small.
///
/// A parameter adapts if its weight decay is not 0. So by default biases and the parameters of norms take the step of SGD. **If
/// the weight decay is 0, as it is by default, no parameter adapts, and the rule is SGD.** With
/// [`always_adapt`](Lars::always_adapt), all parameters adapt.
///
/// Options and defaults are those of `timm.optim.Lars`. You, Gitman and Ginsburg 2017, arXiv:1708.03888.
///
/// ```
/// use downhill::optim::Lars;
/// let optimizer = Lars::new(2.0).momentum(0.9).weight_decay(1e-4).decay_all();
/// assert_eq!(optimizer.lr(1), 2.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lars {
    lr: f64,
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
    trust_coeff: f64,
    eps: f64,
    trust_clip: bool,
    always_adapt: bool,
}

impl Lars {
    /// Creates the rule with η = 0.001 and ε = 1e-8, without momentum and without weight decay.
    pub fn new(lr: f64) -> Lars {
        Lars {
            lr,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
            trust_coeff: 0.001,
            eps: 1e-8,
            trust_clip: false,
            always_adapt: false,
        }
    }
    /// Sets μ, the factor by which the last update continues in the next one; 0 by default, often 0.9.
    pub fn momentum(self, momentum: f64) -> Lars {
        Lars { momentum, ..self }
    }
    /// Sets the share of the direction that is not added to the momentum; 0 by default.
    pub fn dampening(self, dampening: f64) -> Lars {
        Lars { dampening, ..self }
    }
    /// Sets λ, the factor of the L2 penalty's gradient; 0 by default. A parameter adapts if its λ is not 0.
    pub fn weight_decay(self, weight_decay: f64) -> Lars {
        Lars { weight_decay, ..self }
    }
    /// Uses Nesterov's momentum; off by default. It needs a momentum above 0 and a dampening of 0.
    pub fn nesterov(self, nesterov: bool) -> Lars {
        Lars { nesterov, ..self }
    }
    /// Sets η, the length of a step relative to the length of the weights; 0.001 by default.
    pub fn trust_coeff(self, trust_coeff: f64) -> Lars {
        Lars { trust_coeff, ..self }
    }
    /// Sets ε, which is added to the divisor of the ratio; 1e-8 by default.
    pub fn eps(self, eps: f64) -> Lars {
        Lars { eps, ..self }
    }
    /// Limits the learning rate of each parameter to `lr` (LARC): the ratio is min(r/lr, 1); off by default.
    pub fn trust_clip(self, trust_clip: bool) -> Lars {
        Lars { trust_clip, ..self }
    }
    /// Lets parameters without weight decay adapt, too; off by default.
    pub fn always_adapt(self, always_adapt: bool) -> Lars {
        Lars { always_adapt, ..self }
    }
}

impl Rule for Lars {
    const NAME: &'static str = "Lars";
    fn source() -> Source {
        crate::source!("optim/lars")
    }
    fn states(&self) -> Vec<State> {
        vec![State::zero("momentum").when(self.momentum > 0.0)]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        let nonnegative = |x: f64| x.is_finite() && x >= 0.0;
        require(nonnegative(self.momentum), Self::NAME, "momentum", self.momentum, "finite and not negative")?;
        require(self.dampening.is_finite(), Self::NAME, "dampening", self.dampening, "finite")?;
        let coeff = self.trust_coeff as f32;
        require(coeff.is_finite() && coeff > 0.0, Self::NAME, "trust_coeff", self.trust_coeff, "finite and positive (as f32)")?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument(Self::NAME, "nesterov needs a momentum above 0 and a dampening of 0"));
        }
        require_eps(Self::NAME, self.eps)
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let damped = if t == 1 || self.momentum == 0.0 { 1.0 } else { 1.0 - self.dampening };
        let (coeff, most) = match self.always_adapt || decay != 0.0 {
            // A schedule may end at 0. The ratio is 1 then.
            true if self.trust_clip => ((self.trust_coeff / lr).min(MOST), 1.0),
            true => (self.trust_coeff, MOST),
            false => (0.0, 0.0),
        };
        [lr, decay, self.momentum, damped, f64::from(self.nesterov), coeff, self.eps, most]
    }
    fn grow(g: f64, w: f64, [b, ..]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [lr, decay, mu, damped, _, coeff, _, most] = h.map(f64::abs);
        let u = g + decay * w;
        // No element of r·g is above η·‖w‖, and none of r·λ·w is above η·w. The ratio may also be 1. If ratios are limited to 1,
        // `coeff` is not η.
        let scaled = if most <= 1.0 { u } else { u.max(coeff * 65537.0 * w) };
        let b = mu * b + damped * scaled;
        let step = (scaled + mu * b).max(b);
        ((w + lr * step).max(step).max(u), [b, 0.0, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        g + h[1] * w
    }
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [momentum, ..] = s;
        let [lr, _, mu, damped, nesterov, ..] = *h;
        *momentum = mu * *momentum + damped * u;
        // Both factors are 0 or 1.
        w - lr * (nesterov * (u + mu * *momentum) + (T::one() - nesterov) * *momentum)
    }
    const HAS_RATIO: bool = true;
    fn ratio(norms: Norms, h: &Hyper) -> f64 {
        // `most` is the largest ratio, or 0 if the parameter does not adapt.
        let [_, decay, _, _, _, coeff, eps, most] = *h;
        if most == 0.0 || norms.weight == 0.0 || norms.gradient == 0.0 {
            return 1.0;
        }
        (coeff * norms.weight / (norms.gradient + decay * norms.weight + eps)).min(most)
    }
    fn cases() -> Vec<Lars> {
        let new = Lars::new(0.5).trust_coeff(0.02);
        vec![
            new.weight_decay(0.1).momentum(0.9).always_adapt(true),
            new.always_adapt(true),
            new.weight_decay(0.1).momentum(0.8).dampening(0.5),
            new.weight_decay(0.1).momentum(0.9).nesterov(true).trust_clip(true),
        ]
    }
}
