//! RMSProp.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require, require_eps, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// Divides each gradient by the running root mean square of the past gradients.
///
/// ```text
/// g ← g + λ·w
/// v ← α·v + (1 − α)·g²
/// a ← α·a + (1 − α)·g                  (centred; otherwise a = 0)
/// b ← μ·b + g / (√(v − a²) + ε)
/// w ← w − lr·b
/// ```
/// Options and defaults are those of `torch.optim.RMSprop`. Hinton 2012, lecture 6e; centred: Graves 2013,
/// arXiv:1308.0850, eq. 38–45. Where rounding makes v − a² negative, it counts as 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    lr: f64,
    alpha: f64,
    eps: f64,
    weight_decay: f64,
    momentum: f64,
    centered: bool,
}

impl RmsProp {
    /// Creates the rule with α = 0.99 and ε = 1e-8. It is not centred, and has neither momentum nor weight decay.
    pub fn new(lr: f64) -> RmsProp {
        RmsProp { lr, alpha: 0.99, eps: 1e-8, weight_decay: 0.0, momentum: 0.0, centered: false }
    }
    /// Sets the decay rate of the running averages, in 0..1; 0.99 by default.
    pub fn alpha(self, alpha: f64) -> RmsProp {
        RmsProp { alpha, ..self }
    }
    /// Sets ε, which is added to the root; 1e-8 by default.
    pub fn eps(self, eps: f64) -> RmsProp {
        RmsProp { eps, ..self }
    }
    /// Sets λ, the factor of the L2 penalty's gradient; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> RmsProp {
        RmsProp { weight_decay, ..self }
    }
    /// Sets μ, the factor by which the last update continues in the next one; 0 by default.
    pub fn momentum(self, momentum: f64) -> RmsProp {
        RmsProp { momentum, ..self }
    }
    /// Divides by the running standard deviation instead of the root mean square; off by default.
    pub fn centered(self, centered: bool) -> RmsProp {
        RmsProp { centered, ..self }
    }
}

impl Rule for RmsProp {
    const NAME: &'static str = "RmsProp";
    fn source() -> Source {
        crate::source!("optim/rms_prop")
    }
    fn states(&self) -> Vec<State> {
        let (mean, momentum) = (State::zero("mean"), State::zero("momentum"));
        vec![State::zero("square"), mean.when(self.centered), momentum.when(self.momentum > 0.0)]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        require_rate(Self::NAME, "alpha", self.alpha)?;
        require_eps(Self::NAME, self.eps)?;
        require(self.momentum.is_finite() && self.momentum >= 0.0, Self::NAME, "momentum", self.momentum, "finite and not negative")
    }
    fn hyper(&self, _t: u64, lr: f64, decay: f64) -> Hyper {
        [lr, decay, self.alpha, 1.0 - self.alpha, f64::from(self.centered), self.eps, self.momentum, 0.0]
    }
    fn grow(g: f64, w: f64, [square, mean, momentum]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [lr, decay, alpha, fresh, centered, eps, mu, _] = *h;
        let g = g + decay * w;
        // Both ends of the interval that `lerp` interpolates.
        let (mean, far) = (mean.max(g), mean + g);
        let momentum = mu * momentum + g / eps;
        let square = (alpha * square + fresh * g * g).max(centered * far * far);
        ((w + lr * momentum).max(far), [square, centered * mean, momentum])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [square, mean, momentum] = s;
        let [_, decay, alpha, fresh, centered, eps, mu, _] = *h;
        let g = g + decay * w;
        *square = alpha * *square + fresh * g * g;
        *mean = lerp(*mean, g, fresh);
        let variance = *square - centered * (*mean * *mean);
        *momentum = mu * *momentum + g / (variance.max(T::zero()).sqrt() + eps);
        *momentum
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * u
    }
    fn cases() -> Vec<RmsProp> {
        let new = RmsProp::new(0.01);
        vec![new, new.centered(true).alpha(0.4), new.momentum(0.9), new.centered(true).momentum(0.9).weight_decay(0.1)]
    }
}
