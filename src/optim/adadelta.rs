//! Adadelta.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require_eps, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// Adadelta: it scales each gradient by the root mean square of past changes over that of past gradients.
///
/// ```text
/// g ← g + λ·w
/// v ← ρ·v + (1 − ρ)·g²
/// d = √(a + ε) / √(v + ε) · g
/// a ← ρ·a + (1 − ρ)·d²
/// w ← w − lr·d
/// ```
/// Options and defaults are those of `torch.optim.Adadelta`, whose learning rate is 1. Zeiler 2012, arXiv:1212.5701.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adadelta {
    lr: f64,
    rho: f64,
    eps: f64,
    weight_decay: f64,
}

impl Adadelta {
    /// Creates the rule with ρ = 0.9 and ε = 1e-6, without weight decay.
    pub fn new(lr: f64) -> Adadelta {
        Adadelta { lr, rho: 0.9, eps: 1e-6, weight_decay: 0.0 }
    }
    /// Sets ρ, the decay rate of both running means, in 0..1; 0.9 by default.
    pub fn rho(self, rho: f64) -> Adadelta {
        Adadelta { rho, ..self }
    }
    /// Sets ε, which is added under both roots; 1e-6 by default.
    pub fn eps(self, eps: f64) -> Adadelta {
        Adadelta { eps, ..self }
    }
    /// Sets λ, the factor of the L2 penalty's gradient; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Adadelta {
        Adadelta { weight_decay, ..self }
    }
}

impl Rule for Adadelta {
    const NAME: &'static str = "Adadelta";
    fn source() -> Source {
        crate::source!("optim/adadelta")
    }
    fn states(&self) -> Vec<State> {
        vec![State::zero("square"), State::zero("change")]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        require_rate(Self::NAME, "rho", self.rho)?;
        require_eps(Self::NAME, self.eps)
    }
    fn hyper(&self, _t: u64, lr: f64, decay: f64) -> Hyper {
        [lr, decay, 1.0 - self.rho, self.eps, 0.0, 0.0, 0.0, 0.0]
    }
    fn grow(g: f64, w: f64, [square, change, _]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [lr, decay, fresh, eps, ..] = *h;
        let g = g + decay * w;
        // √(v + ε) is at least √ε and √(1 − ρ)·g. The second holds for gradients above 1e-18, whose squares are normal numbers.
        let units = (g / eps.sqrt()).min(1.0 / fresh.sqrt() + 1e-18 / eps.sqrt());
        let root = (change + eps).sqrt();
        let d = root * units;
        // The differences that `lerp` takes, and the quotient of the roots.
        let far = (square + g * g).max(change + d * d).max(root / eps.sqrt());
        ((w + lr * d).max(far).max(d), [(1.0 - fresh) * square + fresh * g * g, (1.0 - fresh) * change + fresh * d * d, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [square, change, _] = s;
        let [_, decay, fresh, eps, ..] = *h;
        let g = g + decay * w;
        *square = lerp(*square, g * g, fresh);
        let d = (*change + eps).sqrt() / (*square + eps).sqrt() * g;
        *change = lerp(*change, d * d, fresh);
        d
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * u
    }
    fn cases() -> Vec<Adadelta> {
        let new = Adadelta::new(1.0);
        vec![new, new.rho(0.4).weight_decay(0.1)]
    }
}
