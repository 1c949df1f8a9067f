//! Stochastic gradient descent.

use super::{Hyper, MAX_STATES, Rule, State, require};
use crate::{
    error::{Error, Result},
    host::Real,
    kernel::Source,
};

/// Stochastic gradient descent with momentum.
///
/// ```text
/// g ← g + λ·w
/// b ← μ·b + (1 − dampening)·g          (b ← g in the first step)
/// w ← w − lr·b                         (Nesterov: w − lr·(g + μ·b))
/// ```
/// λ is the weight decay, μ the momentum. Options and defaults are those of `torch.optim.SGD`. Sutskever et al. 2013, "On the
/// importance of initialization and momentum in deep learning".
///
/// The learning rate is outside of the momentum b, so a change of the rate acts at once and in full. Rules that keep the rate
/// inside, v ← μ·v + lr·g, need the momentum correction v ← μ·(lr/lr_before)·v + lr·g. This rule needs none: with v = lr·b it is
/// the corrected rule (Goyal et al. 2017, arXiv:1706.02677, section 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    lr: f64,
    momentum: f64,
    dampening: f64,
    weight_decay: f64,
    nesterov: bool,
}

impl Sgd {
    /// Creates the rule without momentum and without weight decay.
    pub fn new(lr: f64) -> Sgd {
        Sgd { lr, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false }
    }
    /// Sets μ, the factor by which the last update continues in the next one; 0 by default, often 0.9.
    pub fn momentum(self, momentum: f64) -> Sgd {
        Sgd { momentum, ..self }
    }
    /// Sets the share of the gradient that is not added to the momentum; 0 by default.
    pub fn dampening(self, dampening: f64) -> Sgd {
        Sgd { dampening, ..self }
    }
    /// Sets λ, the factor of the L2 penalty's gradient; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Sgd {
        Sgd { weight_decay, ..self }
    }
    /// Uses Nesterov's momentum; off by default. It needs a momentum above 0 and a dampening of 0.
    pub fn nesterov(self, nesterov: bool) -> Sgd {
        Sgd { nesterov, ..self }
    }
}

impl Rule for Sgd {
    const NAME: &'static str = "Sgd";
    fn source() -> Source {
        crate::source!("optim/sgd")
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
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument(Self::NAME, "nesterov needs a momentum above 0 and a dampening of 0"));
        }
        Ok(())
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let damped = if t == 1 || self.momentum == 0.0 { 1.0 } else { 1.0 - self.dampening };
        let (gradient, buffer) = if self.nesterov { (1.0, self.momentum) } else { (0.0, 1.0) };
        [lr, decay, self.momentum, damped, gradient, buffer, 0.0, 0.0]
    }
    fn grow(g: f64, w: f64, [b, ..]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [lr, decay, mu, damped, gradient, buffer, ..] = h.map(f64::abs);
        let g = g + decay * w;
        let b = mu * b + damped * g;
        let direction = gradient * g + buffer * b;
        ((w + lr * direction).max(direction).max(g), [b, 0.0, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [momentum, ..] = s;
        let [_, decay, mu, damped, gradient, buffer, ..] = *h;
        let g = g + decay * w;
        *momentum = mu * *momentum + damped * g;
        gradient * g + buffer * *momentum
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * u
    }
    fn cases() -> Vec<Sgd> {
        let new = Sgd::new(0.1);
        vec![new, new.weight_decay(0.1), new.momentum(0.9).dampening(0.5), new.momentum(0.9).nesterov(true)]
    }
}
