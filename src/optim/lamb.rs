//! LAMB.

use super::{Hyper, MAX_STATES, Norms, Rule, State, lerp, require_eps, require_rate, trust::MOST};
use crate::{error::Result, host::Real, kernel::Source};

/// LAMB: Adam's direction for each element, and one length of the step for each parameter. It keeps large batches stable.
///
/// ```text
/// g ← g / max(‖g‖ / max_grad_norm, 1)  (‖g‖ of all gradients together)
/// m ← β₁·m + (1 − β₁)·g                (without grad_averaging: β₁·m + g)
/// v ← β₂·v + (1 − β₂)·g²
/// u ← m/(1 − β₁ᵗ) / (√v/√(1 − β₂ᵗ) + ε) + λ·w
/// w ← w − lr·r·u                       r = ‖w‖ / ‖u‖ of each parameter; 1 if a norm is 0 or the parameter does not adapt
/// ```
/// A parameter adapts if its weight decay λ is not 0. So by default biases and the parameters of norms take Adam's step. With
/// [`always_adapt`](Lamb::always_adapt), all parameters adapt.
///
/// The division by the norm is [`Optimizer::clip_norm`](super::Optimizer::clip_norm), which is 1 by default for this rule.
///
/// Options and defaults are those of `timm.optim.Lamb`, in the form of NVIDIA's NVLAMB. You et al. 2019, arXiv:1904.00962.
///
/// ```
/// use downhill::optim::{Lamb, Schedule};
/// let optimizer = Lamb::new(0.01).weight_decay(0.01).schedule(Schedule::warmup(100).then(Schedule::cosine(900)));
/// assert_eq!(optimizer.clip().norm, Some(1.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lamb {
    lr: f64,
    bias_correction: bool,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    grad_averaging: bool,
    max_grad_norm: Option<f64>,
    trust_clip: bool,
    always_adapt: bool,
}

impl Lamb {
    /// Creates the rule with β = (0.9, 0.999), ε = 1e-6, a weight decay of 0.01 and gradients of norm 1 at most.
    pub fn new(lr: f64) -> Lamb {
        Lamb {
            lr,
            bias_correction: true,
            betas: (0.9, 0.999),
            eps: 1e-6,
            weight_decay: 0.01,
            grad_averaging: true,
            max_grad_norm: Some(1.0),
            trust_clip: false,
            always_adapt: false,
        }
    }
    /// Corrects both running means for their start at 0; on by default. Without the correction, both divisors are 1.
    pub fn bias_correction(self, bias_correction: bool) -> Lamb {
        Lamb { bias_correction, ..self }
    }
    /// Sets the decay rates of the running means of the gradient and of its square, in 0..1; 0.9 and 0.999 by default.
    pub fn betas(self, beta1: f64, beta2: f64) -> Lamb {
        Lamb { betas: (beta1, beta2), ..self }
    }
    /// Sets ε, which is added to the root; 1e-6 by default.
    pub fn eps(self, eps: f64) -> Lamb {
        Lamb { eps, ..self }
    }
    /// Sets λ, the weight decay, which is a part of the direction; 0.01 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Lamb {
        Lamb { weight_decay, ..self }
    }
    /// Multiplies the gradient by 1 − β₁ when it is added to its running mean; on by default.
    pub fn grad_averaging(self, grad_averaging: bool) -> Lamb {
        Lamb { grad_averaging, ..self }
    }
    /// Sets the largest norm of all gradients together; 1 by default. `None` lets every norm pass.
    /// [`clip_norm`](super::Optimizer::clip_norm) replaces this norm.
    pub fn max_grad_norm(self, max_grad_norm: impl Into<Option<f64>>) -> Lamb {
        Lamb { max_grad_norm: max_grad_norm.into(), ..self }
    }
    /// Limits the ratios to 1 (LAMBC); off by default.
    pub fn trust_clip(self, trust_clip: bool) -> Lamb {
        Lamb { trust_clip, ..self }
    }
    /// Lets parameters without weight decay adapt, too; off by default.
    pub fn always_adapt(self, always_adapt: bool) -> Lamb {
        Lamb { always_adapt, ..self }
    }
}

impl Rule for Lamb {
    const NAME: &'static str = "Lamb";
    fn source() -> Source {
        crate::source!("optim/lamb")
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
    fn max_grad_norm(&self) -> Option<f64> {
        self.max_grad_norm
    }
    fn check(&self) -> Result<()> {
        require_rate(Self::NAME, "beta1", self.betas.0)?;
        require_rate(Self::NAME, "beta2", self.betas.1)?;
        require_eps(Self::NAME, self.eps)
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let (beta1, beta2) = self.betas;
        let correction = |beta: f64| if self.bias_correction { 1.0 - beta.powf(t as f64) } else { 1.0 };
        let root = correction(beta2).sqrt();
        // m̂ / (√v̂ + ε) is scale·m / (√v + ε·root). The product must not be 0 as an `f32`.
        let (scale, eps) = (root / correction(beta1), (self.eps * root).max(f64::from(f32::MIN_POSITIVE)));
        let fresh = if self.grad_averaging { 1.0 - beta1 } else { 1.0 };
        let most = match self.always_adapt || decay != 0.0 {
            true if self.trust_clip => 1.0,
            true => MOST,
            false => 0.0,
        };
        [decay, lr, beta1, fresh, 1.0 - beta2, scale, eps, most]
    }
    fn grow(g: f64, w: f64, [mean, square, _]: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        let [decay, lr, beta1, fresh1, fresh2, scale, eps, _] = *h;
        let mean = beta1 * mean + fresh1 * g;
        // The difference that `lerp` takes.
        let far = square + g * g;
        let u = scale * mean * (1.0 + 1.0 / eps) + decay * w;
        let scaled = u.max(65536.0 * w);
        ((w + lr * scaled).max(scaled).max(far), [mean, (1.0 - fresh2) * square + fresh2 * g * g, 0.0])
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        let [mean, square, _] = s;
        let [decay, _, beta1, fresh1, fresh2, scale, eps, _] = *h;
        *mean = beta1 * *mean + fresh1 * g;
        *square = lerp(*square, g * g, fresh2);
        scale * *mean / (square.sqrt() + eps) + decay * w
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[1] * u
    }
    const HAS_RATIO: bool = true;
    fn ratio(norms: Norms, h: &Hyper) -> f64 {
        // The largest ratio, or 0 if the parameter does not adapt.
        let most = h[7];
        if most == 0.0 || norms.weight == 0.0 || norms.direction == 0.0 {
            return 1.0;
        }
        (norms.weight / norms.direction).min(most)
    }
    fn cases() -> Vec<Lamb> {
        let new = Lamb::new(0.01);
        vec![
            new.weight_decay(0.3).betas(0.9, 0.99).max_grad_norm(None).always_adapt(true),
            new.weight_decay(0.1).bias_correction(false).grad_averaging(false),
            new.trust_clip(true).betas(0.3, 0.9),
        ]
    }
}
