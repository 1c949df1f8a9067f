//! Adam and AdamW. Both are one rule. Adam adds the weight decay to the gradient; AdamW shrinks the weight directly.

use super::{Hyper, MAX_STATES, Rule, State, lerp, require_eps, require_rate};
use crate::{error::Result, host::Real, kernel::Source};

/// Adam, with weight decay as an L2 penalty on the loss. See [`AdamOf`].
pub type Adam = AdamOf<false>;

/// Adam with decoupled weight decay, which is 0.01 by default. See [`AdamOf`].
pub type AdamW = AdamOf<true>;

/// Divides a running mean of the gradient by the root of a running mean of its square. Both means are corrected for their start
/// at 0.
///
/// ```text
/// Adam:  g ← g + λ·w                   AdamW:  w ← w·(1 − lr·λ)
/// m ← β₁·m + (1 − β₁)·g
/// v ← β₂·v + (1 − β₂)·g²               (AMSGrad: the largest v so far, below)
/// w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
/// ```
/// Options and defaults are those of `torch.optim.Adam` and `torch.optim.AdamW`. Kingma and Ba 2014,
/// arXiv:1412.6980; Loshchilov and Hutter 2017, arXiv:1711.05101; AMSGrad: Reddi, Kale and Kumar 2018,
/// arXiv:1904.09237.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamOf<const DECOUPLED: bool> {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    amsgrad: bool,
}

impl<const DECOUPLED: bool> AdamOf<DECOUPLED> {
    /// Creates the rule with β = (0.9, 0.999) and ε = 1e-8. The weight decay is 0 for Adam and 0.01 for AdamW.
    pub fn new(lr: f64) -> Self {
        AdamOf { lr, betas: (0.9, 0.999), eps: 1e-8, weight_decay: if DECOUPLED { 0.01 } else { 0.0 }, amsgrad: false }
    }
    /// Sets the decay rates of the running means of the gradient and of its square, in 0..1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> Self {
        AdamOf { betas: (beta1, beta2), ..self }
    }
    /// Sets ε, which is added to the root; 1e-8 by default.
    pub fn eps(self, eps: f64) -> Self {
        AdamOf { eps, ..self }
    }
    /// Sets λ, the weight decay; by default 0 for Adam and 0.01 for AdamW.
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        AdamOf { weight_decay, ..self }
    }
    /// Divides by the largest mean square so far instead of the current mean square; off by default.
    pub fn amsgrad(self, amsgrad: bool) -> Self {
        AdamOf { amsgrad, ..self }
    }
}

impl<const DECOUPLED: bool> Rule for AdamOf<DECOUPLED> {
    const NAME: &'static str = if DECOUPLED { "AdamW" } else { "Adam" };
    fn source() -> Source {
        crate::source!("optim/adam")
    }
    fn states(&self) -> Vec<State> {
        vec![State::zero("mean"), State::zero("square"), State::zero("largest").when(self.amsgrad)]
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
        let (decay, shrink) = if DECOUPLED { (0.0, 1.0 - lr * decay) } else { (decay, 1.0) };
        let step = lr / (1.0 - beta1.powf(t as f64));
        let root = (1.0 - beta2.powf(t as f64)).sqrt();
        [decay, shrink, 1.0 - beta1, beta2, 1.0 - beta2, step, root, self.eps]
    }
    fn grow(g: f64, w: f64, [mean, square, largest]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [decay, shrink, _, beta2, fresh2, step, root, eps] = *h;
        let g = g + decay * w;
        // Both ends of the interval that `lerp` interpolates.
        let (mean, far) = (mean.max(g), mean + g);
        let square = beta2 * square + fresh2 * g * g;
        let largest = largest.max(square);
        let w = shrink.abs() * w + step * mean * (1.0 + 1.0 / eps);
        (w.max(far).max(largest.sqrt() / root), [mean, square, largest])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [mean, square, largest] = s;
        let [decay, _, fresh1, beta2, fresh2, step, root, eps] = *h;
        let g = g + decay * w;
        *mean = lerp(*mean, g, fresh1);
        *square = beta2 * *square + fresh2 * g * g;
        // Without AMSGrad, `largest` equals `square`: a state that is not stored reads as 0.
        *largest = largest.max(*square);
        step * *mean / (largest.sqrt() / root + eps)
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        h[1] * w - u
    }
    fn cases() -> Vec<Self> {
        let new = Self::new(0.01);
        vec![new, new.amsgrad(true).weight_decay(0.1), new.betas(0.3, 0.9)]
    }
}
