//! Muon, which orthogonalises the update of each matrix.

use super::{
    Hyper, Optimizer, Rule, require, require_eps,
    whole::{Numbers, TensorRule},
};
use crate::{
    error::{Error, Result},
    graph::Tensor,
    shape::Shape,
};

/// The factor by which Muon adjusts the learning rate to the shape of a matrix `[rows, columns]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdjustLr {
    /// √max(1, rows / columns), as in Jordan's implementation.
    #[default]
    Original,
    /// 0.2·√max(rows, columns). The updates are then as large as those of AdamW, so that AdamW's learning rate and weight decay fit
    /// (Liu et al. 2025, arXiv:2502.16982).
    MatchRmsAdamw,
    /// √(rows / columns) (Bernstein 2025, "Deriving Muon").
    SpectralUnclamped,
}

impl AdjustLr {
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            AdjustLr::Original => (rows / columns).max(1.0).sqrt(),
            AdjustLr::MatchRmsAdamw => 0.2 * rows.max(columns).sqrt(),
            AdjustLr::SpectralUnclamped => (rows / columns).sqrt(),
        }
    }
}

/// Muon: momentum whose singular values are moved close to 1. It updates matrices.
///
/// ```text
/// m ← μ·m + (1 − μ)·g
/// u = μ·m + (1 − μ)·g                   (u = m without Nesterov's momentum)
/// X = u / max(‖u‖, ε)
/// X ← a·X + (b·X·Xᵀ + c·(X·Xᵀ)²)·X      ns_steps times
/// w ← (1 − lr·λ)·w − lr·f(rows, columns)·X
/// ```
/// λ is the weight decay, μ the momentum, ‖u‖ the root of the sum of all squares, and f the [adjustment](AdjustLr) of the learning
/// rate. The products are computed in `f32` (PyTorch computes them in `bf16`). Options and defaults are those of `torch.optim.Muon`.
/// Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
///
/// Muon does not update biases, the parameters of norms, and other vectors. [`rest`](Muon::rest) gives them another rule. Its author
/// also leaves embeddings and the last layer to that rule, by [`Optimizer::except`]:
///
/// ```
/// use downhill::{Device, Fit, Trainer, data, optim::{AdamW, Muon}};
/// let train = data::iris();
/// let mut trainer = Trainer::for_data(
///     &Device::cpu(),
///     &train,
///     |x| x.linear("fc1", 16).relu().linear("fc2", 16).relu().linear("head", 3),
///     |logits, labels| logits.cross_entropy(labels),
///     Muon::new(0.02).rest(AdamW::new(3e-3)).except(["head"]),
/// )?;
/// trainer.fit(&train, Fit::new().epochs(20).batch_size(15))?;
/// assert!(trainer.evaluate(&train)?.accuracy.unwrap() > 0.9);
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    lr: f64,
    weight_decay: f64,
    momentum: f64,
    nesterov: bool,
    ns_coefficients: (f64, f64, f64),
    eps: f64,
    ns_steps: usize,
    adjust_lr_fn: AdjustLr,
    flatten: bool,
}

impl Muon {
    /// Creates the rule with weight decay 0.1, momentum 0.95, Nesterov's momentum, and 5 steps with the coefficients 3.4445, −4.7750
    /// and 2.0315.
    pub fn new(lr: f64) -> Muon {
        let ns_coefficients = (3.4445, -4.7750, 2.0315);
        let adjust_lr_fn = AdjustLr::Original;
        Muon {
            lr,
            weight_decay: 0.1,
            momentum: 0.95,
            nesterov: true,
            ns_coefficients,
            eps: 1e-7,
            ns_steps: 5,
            adjust_lr_fn,
            flatten: false,
        }
    }
    /// Sets λ, the decoupled weight decay; 0.1 by default.
    pub fn weight_decay(self, weight_decay: f64) -> Self {
        Muon { weight_decay, ..self }
    }
    /// Sets μ, the decay rate of the running mean of the gradients; 0.95 by default.
    pub fn momentum(self, momentum: f64) -> Self {
        Muon { momentum, ..self }
    }
    /// Uses Nesterov's momentum; on by default.
    pub fn nesterov(self, nesterov: bool) -> Self {
        Muon { nesterov, ..self }
    }
    /// Sets a, b and c, the coefficients of the Newton–Schulz iteration; 3.4445, −4.7750 and 2.0315 by default.
    pub fn ns_coefficients(self, a: f64, b: f64, c: f64) -> Self {
        Muon { ns_coefficients: (a, b, c), ..self }
    }
    /// Sets ε, the smallest norm that the update is divided by; 1e-7 by default.
    pub fn eps(self, eps: f64) -> Self {
        Muon { eps, ..self }
    }
    /// Sets the number of steps of the Newton–Schulz iteration; 5 by default. It must be below 100.
    pub fn ns_steps(self, ns_steps: usize) -> Self {
        Muon { ns_steps, ..self }
    }
    /// Sets f, the factor of the learning rate; [`AdjustLr::Original`] by default.
    pub fn adjust_lr_fn(self, adjust_lr_fn: AdjustLr) -> Self {
        Muon { adjust_lr_fn, ..self }
    }
    /// Also updates parameters of more than two axes, such as the kernels of convolutions. A kernel `[out, in, h, w]` counts as a
    /// matrix `[out, in·h·w]`, as in Jordan's implementation. Off by default: PyTorch's Muon refuses such parameters.
    pub fn flatten(self, flatten: bool) -> Self {
        Muon { flatten, ..self }
    }
    /// Gives another rule to the parameters that Muon does not update. That rule has its own learning rate. A schedule,
    /// [`Trainer::set_lr`](crate::Trainer::set_lr) and groups change both rates by the same factor. Gradient clipping, accumulation
    /// and the check for finite numbers work on all parameters together.
    pub fn rest(self, rule: impl Rule) -> Optimizer {
        Optimizer::of_tensors(self, Some(rule))
    }
    /// Returns the sizes of the matrix that a parameter of this shape counts as.
    fn matrix(shape: Shape) -> [usize; 2] {
        let rows = shape.dims()[0];
        [rows, shape.elements() / rows]
    }
    /// Moves the singular values of a matrix close to 1.
    fn orthogonal<'g>(&self, u: Tensor<'g>) -> Tensor<'g> {
        let [rows, columns] = Muon::matrix(u.shape());
        let (a, b, c) = self.ns_coefficients;
        let (a, b, c) = (a as f32, b as f32, c as f32);
        // The squares of very large numbers would overflow, so such numbers are scaled first.
        let size = u.abs().max_all().maximum(1.0);
        let u = u / size;
        let norm = u.square().sum_all().sqrt();
        let mut x = u / norm.maximum(size.reciprocal() * self.eps as f32);
        for _ in 0..self.ns_steps {
            // The smaller of X·Xᵀ and Xᵀ·X is taken.
            let tall = rows > columns;
            let gram = x.matmul_t(x, tall, !tall);
            let part = gram.matmul(gram) * c + gram * b;
            let product = if tall { x.matmul(part) } else { part.matmul(x) };
            x = product + x * a;
        }
        x
    }
}

impl From<Muon> for Optimizer {
    fn from(muon: Muon) -> Optimizer {
        Optimizer::of_tensors(muon, None::<super::Sgd>)
    }
}

/// Returns `a + t·(b − a)`, computed as PyTorch's `lerp` is.
fn lerp<'g>(a: Tensor<'g>, b: Tensor<'g>, t: f64) -> Tensor<'g> {
    if t < 0.5 { a + (b - a) * t as f32 } else { b - (b - a) * (1.0 - t) as f32 }
}

impl TensorRule for Muon {
    fn name(&self) -> &'static str {
        "Muon"
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        self.weight_decay
    }
    fn check(&self) -> Result<()> {
        let name = self.name();
        require((0.0..=1.0).contains(&self.momentum), name, "momentum", self.momentum, "at least 0 and at most 1")?;
        require_eps(name, self.eps)?;
        let (a, b, c) = self.ns_coefficients;
        for x in [a, b, c] {
            require((x as f32).is_finite(), name, "a coefficient in ns_coefficients", x, "finite (as f32)")?;
        }
        if self.ns_steps >= 100 {
            return Err(Error::argument(name, format!("ns_steps is {}, but must be below 100", self.ns_steps)));
        }
        Ok(())
    }
    fn takes(&self, shape: Shape) -> bool {
        shape.rank() == 2 || shape.rank() > 2 && self.flatten
    }
    fn why_not(&self) -> &'static str {
        "it updates matrices alone; give the other parameters a rule with Muon::rest, or freeze them (Muon::flatten makes matrices of the \
         kernels of convolutions)"
    }
    fn states(&self) -> &'static [&'static str] {
        &["momentum"]
    }
    fn state_shapes(&self, shape: Shape) -> Vec<Option<Shape>> {
        vec![Some(shape)]
    }
    fn hyper(&self, _t: u64, lr: f64, decay: f64) -> Hyper {
        [1.0 - lr * decay, lr, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn update<'g>(&self, w: Tensor<'g>, g: Tensor<'g>, s: &[Tensor<'g>], h: &Numbers<'g>) -> (Tensor<'g>, Vec<Tensor<'g>>) {
        let matrix = Muon::matrix(w.shape());
        let momentum = lerp(s[0], g, 1.0 - self.momentum);
        let u = if self.nesterov { lerp(g, momentum, self.momentum) } else { momentum };
        let x = self.orthogonal(u.reshape(matrix)).reshape(w.shape());
        let rate = h.at(1) * self.adjust_lr_fn.factor(matrix[0], matrix[1]) as f32;
        (w * h.at(0) - x * rate, vec![momentum])
    }
}
