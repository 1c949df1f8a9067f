//! Adafactor, which stores a row and a column in place of a matrix of mean squares.

use super::{
    Hyper, Optimizer, require,
    whole::{Numbers, TensorRule},
};
use crate::{error::Result, graph::Tensor, shape::Shape};

/// Adafactor: the mean squares of a matrix are estimated from those of its rows and of its columns. So its states take nearly no
/// memory: m + n numbers for a matrix `[m, n]`, where Adam has 2·m·n.
///
/// ```text
/// β = t^beta2_decay,  ρ = min(lr, 1/√t),  α = max(ε₂, rms(w))·ρ        in step t
/// r ← (1 − β)·r + β·mean(g² over each row)
/// c ← (1 − β)·c + β·mean(g² over each column)
/// v = r·c / max(mean(r), ε₁)                                           (a vector: v ← (1 − β)·v + β·g²)
/// u = g / √max(v, ε₁²)
/// w ← (1 − lr·λ)·w − α / max(1, rms(u)/d) · u
/// ```
/// λ is the weight decay, and rms is the root of the mean square. With more than two axes, the last two are those of the matrices.
/// Options and defaults are those of `torch.optim.Adafactor`. Shazeer and Stern 2018, arXiv:1804.04235.
///
/// ```
/// use downhill::{Device, Graph, Host, Trainer, optim::Adafactor};
/// let g = Graph::training();
/// let loss = g.input([4, 3]).linear("fc", 2).square().mean_all();
/// let mut trainer = Trainer::new(&Device::cpu(), loss, Adafactor::new(0.05))?;
/// let batch = [Host::new([4, 3], vec![0.5; 12])];
/// trainer.step(&batch)?;
/// let before = trainer.loss()?;
/// trainer.step(&batch)?;
/// assert!(trainer.loss()? < before);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adafactor {
    lr: f64,
    beta2_decay: f64,
    eps: (f64, f64),
    d: f64,
    weight_decay: f64,
}

impl Adafactor {
    /// Creates the rule with `beta2_decay` −0.8, ε₁ 2⁻²³, ε₂ 0.001, d 1, and without weight decay. PyTorch's learning rate is 0.01 by
    /// default.
    pub fn new(lr: f64) -> Adafactor {
        Adafactor { lr, beta2_decay: -0.8, eps: (f64::from(f32::EPSILON), 1e-3), d: 1.0, weight_decay: 0.0 }
    }
    /// Sets the exponent of β = t^beta2_decay, the share of the new mean square in step t; −0.8 by default.
    pub fn beta2_decay(self, beta2_decay: f64) -> Self {
        Adafactor { beta2_decay, ..self }
    }
    /// Sets ε₁, which bounds the mean squares from below, and ε₂, which bounds the size of the weights from below; 2⁻²³ and 0.001 by
    /// default.
    pub fn eps(self, eps1: f64, eps2: f64) -> Self {
        Adafactor { eps: (eps1, eps2), ..self }
    }
    /// Sets d, the largest root of the mean square of an update; 1 by default.
    pub fn d(self, d: f64) -> Self {
        Adafactor { d, ..self }
    }
    /// Sets λ, the decoupled weight decay; 0 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Adafactor { weight_decay, ..self }
    }
}

impl From<Adafactor> for Optimizer {
    fn from(adafactor: Adafactor) -> Optimizer {
        Optimizer::of_tensors(adafactor, None::<super::Sgd>)
    }
}

/// Returns the root of the mean square of all elements.
fn rms(x: Tensor<'_>) -> Tensor<'_> {
    x.square().mean_all().sqrt()
}

impl TensorRule for Adafactor {
    fn name(&self) -> &'static str {
        "Adafactor"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        let (name, (eps1, eps2)) = (self.name(), self.eps);
        require(self.beta2_decay.is_finite() && self.beta2_decay <= 0.0, name, "beta2_decay", self.beta2_decay, "finite and at most 0")?;
        let square = (eps1 * eps1) as f32;
        require(eps1 > 0.0 && square.is_normal(), name, "eps1", eps1, "positive, and its square a normal f32")?;
        require(eps2 >= 0.0 && (eps2 as f32).is_finite(), name, "eps2", eps2, "finite and not negative")?;
        require(self.d >= 1.0 && (self.d as f32).is_finite(), name, "d", self.d, "finite and at least 1")
    }
    fn takes(&self, _shape: Shape) -> bool {
        true
    }
    fn states(&self) -> &'static [&'static str] {
        &["row", "column", "square"]
    }
    fn state_shapes(&self, shape: Shape) -> Vec<Option<Shape>> {
        let rank = shape.rank();
        if rank < 2 {
            return vec![None, None, Some(shape)];
        }
        vec![Some(shape.with(rank - 1, 1)), Some(shape.with(rank - 2, 1)), None]
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        let fresh = (t as f64).powf(self.beta2_decay);
        [1.0 - lr * decay, lr.min(1.0 / (t as f64).sqrt()), fresh, 1.0 - fresh, 0.0, 0.0, 0.0, 0.0]
    }
    fn update<'g>(&self, w: Tensor<'g>, g: Tensor<'g>, s: &[Tensor<'g>], h: &Numbers<'g>) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        let ((eps1, eps2), fresh, kept) = (self.eps, h.at(2), h.at(3));
        let squares = g.square();
        let (v, states) = match s {
            [row, column] => {
                let row = *row * kept + squares.mean(&[-1], true) * fresh;
                let column = *column * kept + squares.mean(&[-2], true) * fresh;
                (row / row.mean(&[-2], true).maximum(eps1 as f32) * column, vec![row, column])
            }
            _ => {
                let square = s[0] * kept + squares * fresh;
                (square, vec![square])
            }
        };
        let u = g * v.maximum((eps1 * eps1) as f32).rsqrt();
        let rate = rms(w).maximum(eps2 as f32) * h.at(1) / (rms(u) * (1.0 / self.d) as f32).maximum(1.0);
        (w * h.at(0) - u * rate, states)
    }
}
