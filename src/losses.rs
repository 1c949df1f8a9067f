//! Losses, as functions of tensors.
//!
//! Each function returns a [`Loss`], which has the loss of every sample or element. Options such as
//! [`sample_weights`](Loss::sample_weights) change it. Then [`mean`](Loss::mean), [`sum`](Loss::sum) or [`none`](Loss::none)
//! reduces it. The methods with the same names on [`Tensor`] return the means. Values and gradients are PyTorch's.
//!
//! **A sample with weight 0 counts as absent.** Its loss and its gradient are exactly 0, even if the model's output for it is
//! infinite or NaN. A sample with an [ignored](Loss::ignore_index) label is absent too. If all samples are absent, the mean and
//! its gradient are 0. PyTorch returns NaN in these cases.
//!
//! ```
//! use downhill::{Device, Graph, Host, losses};
//! let g = Graph::training();
//! let (logits, labels) = (g.input([2, 3]), g.labels([2]));
//! let loss = losses::cross_entropy(logits, labels).label_smoothing(0.1).sum();
//! let mut f = Device::cpu().compile(&[loss])?;
//! let x = Host::new([2, 3], vec![5.0, 1.0, -2.0, 0.5, 0.0, 3.0]);
//! let y = f.run(&[x, Host::labels([2], vec![0, 2])])?;
//! assert!((y[0].f()[0] - 0.6929).abs() < 1e-4);
//! # Ok::<(), downhill::Error>(())
//! ```

use crate::{
    graph::{Below, Tensor},
    ops::{gather_rows::GatherRows, pick::Pick},
    shape::{DType, Shape},
};
use std::panic::Location;

/// A loss before reduction.
#[must_use = "a loss is reduced by mean(), sum() or none()"]
#[derive(Clone, Copy, Debug)]
pub struct Loss<'g> {
    rule: PerSample<'g>,
    smoothing: f32,
    ignored: Option<u32>,
    classes: Option<Tensor<'g>>,
    samples: Option<Tensor<'g>>,
}

mod margins;

pub use margins::{cosine_embedding, gaussian_nll, hinge, hinge_embedding, margin_ranking, poisson_nll, triplet_margin};

/// A formula for the loss of each element or sample from up to three tensors. The second argument is a setting of the loss.
type Formula = for<'a> fn([Tensor<'a>; 3], f32) -> Tensor<'a>;

/// The computation of the loss of each sample.
#[derive(Clone, Copy, Debug)]
enum PerSample<'g> {
    Each {
        /// A loss of two tensors has its second tensor twice.
        x: [Tensor<'g>; 3],
        number: f32,
        formula: Formula,
        /// The shape of the unreduced loss.
        shape: Shape,
        /// Whether the loss takes [`Loss::pos_weight`].
        takes_pos_weight: bool,
    },
    CrossEntropy {
        logits: Tensor<'g>,
        labels: Tensor<'g>,
    },
    SoftCrossEntropy {
        logits: Tensor<'g>,
        target: Tensor<'g>,
    },
    Nll {
        log_p: Tensor<'g>,
        labels: Tensor<'g>,
    },
    /// The dead tensor after a mistake.
    Dead(Tensor<'g>),
}

/// Makes a loss of each element of two tensors, which must have the same shape.
#[track_caller]
fn each<'g>(name: &str, x: Tensor<'g>, y: Tensor<'g>, number: f32, formula: Formula) -> Loss<'g> {
    let shapes = [x.shape(), y.shape()];
    if shapes[0].same_dims(shapes[1]) {
        let takes_pos_weight = name == "bce_with_logits";
        return Loss::new(PerSample::Each { x: [x, y, y], number, formula, shape: shapes[0], takes_pos_weight });
    }
    let why = "prediction and target must have the same shape; reshape one of them".to_string();
    Loss::new(PerSample::Dead(x.graph().mistake(name, &[x, y], why, Location::caller())))
}

/// Returns the squared error: (x − y)².
#[track_caller]
pub fn mse<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Loss<'g> {
    each("mse", x, y, 0.0, |[x, y, _], _| (x - y).square())
}

/// Returns the absolute error of each element: |x − y|. Its mean is the mean absolute error.
#[track_caller]
pub fn mae<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Loss<'g> {
    each("mae", x, y, 0.0, |[x, y, _], _| (x - y).abs())
}

/// Returns the Huber loss with d = x − y: ½d² if |d| ≤ δ, otherwise δ(|d| − ½δ) (Huber 1964).
#[track_caller]
pub fn huber<'g>(x: Tensor<'g>, y: Tensor<'g>, delta: f32) -> Loss<'g> {
    if !(delta.is_finite() && delta > 0.0) {
        let why = format!("delta is {delta}, but must be finite and positive");
        return Loss::new(PerSample::Dead(x.graph().mistake("huber", &[x, y], why, Location::caller())));
    }
    each("huber", x, y, delta, |[x, y, _], delta| {
        let d = (x - y).abs();
        // Large differences are replaced by 0 before squaring. Otherwise the gradient at an infinite d would be 0·∞.
        let near = d.le(delta);
        near.where_(near.where_(d, 0.0).square() * 0.5, (d - 0.5 * delta) * delta)
    })
}

/// Returns the binary cross-entropy of probabilities `p` in 0..1: −(y ln p + (1 − y) ln(1 − p)). Each logarithm is at least
/// −100. The gradient is (p − y) / max(p(1 − p), 10⁻¹²), which is finite at 0 and 1. For logits, [`bce_with_logits`] is more
/// accurate.
#[track_caller]
pub fn bce<'g>(p: Tensor<'g>, y: Tensor<'g>) -> Loss<'g> {
    each("bce", p, y, 0.0, |[p, y, _], _| p.bce_each(y))
}

/// Returns the binary cross-entropy of logits: ln(1 + eˣ) − xy. It equals [`bce`] of σ(x) and is stable for any x. The loss and
/// its gradient σ(x) − y are accurate even if they are small, for example 2.06·10⁻⁹ for x = 20, y = 1.
#[track_caller]
pub fn bce_with_logits<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Loss<'g> {
    each("bce_with_logits", x, y, 0.0, |[x, y, _], _| x.bce_with_logits_each(y))
}

/// Returns the Kullback–Leibler divergence from log-probabilities `log_p` to probabilities `q`: q(ln q − log_p). It is 0 where
/// q = 0, even if `log_p` is −∞. It is NaN where q < 0.
#[track_caller]
pub fn kl_div<'g>(log_p: Tensor<'g>, q: Tensor<'g>) -> Loss<'g> {
    each("kl_div", log_p, q, 0.0, |[log_p, q, _], _| {
        let none = q.eq(0.0);
        none.where_(0.0, q * (none.where_(1.0, q).ln() - none.where_(0.0, log_p)))
    })
}

/// Returns the categorical cross-entropy of logits `[…, classes]` and integer labels `[…]`: ln Σₖ e^xₖ − x_y. One kernel
/// computes it. It is stable for logits of any size.
#[track_caller]
pub fn cross_entropy<'g>(logits: Tensor<'g>, labels: Tensor<'g>) -> Loss<'g> {
    Loss::new(PerSample::CrossEntropy { logits, labels })
}

/// Returns the categorical cross-entropy of logits and target probabilities, both `[…, classes]`: −Σₖ tₖ ln softmax(x)ₖ. 0 · ln
/// 0 is 0, so a class with the logit −∞ and the target 0 adds nothing to the loss.
#[track_caller]
pub fn cross_entropy_soft<'g>(logits: Tensor<'g>, target: Tensor<'g>) -> Loss<'g> {
    let shapes = [logits.shape(), target.shape()];
    if shapes[0].rank() == 0 || !shapes[0].same_dims(shapes[1]) {
        let why = "logits and target probabilities must have the same shape, with the classes last".to_string();
        return Loss::new(PerSample::Dead(logits.graph().mistake("cross_entropy_soft", &[logits, target], why, Location::caller())));
    }
    Loss::new(PerSample::SoftCrossEntropy { logits, target })
}

/// Returns the negative log-likelihood of log-probabilities `[…, classes]` and integer labels `[…]`: −x_y.
#[track_caller]
pub fn nll<'g>(log_p: Tensor<'g>, labels: Tensor<'g>) -> Loss<'g> {
    Loss::new(PerSample::Nll { log_p, labels })
}

/// Returns the weighted mean `sum` / `weight`. Both tensors have one element. `weight` is the sum of the weights. If `weight`
/// is 0, the mean and its gradient are 0.
///
/// The graph remembers `weight` ([`Graph::weight_of`](crate::Graph::weight_of)). So a trainer can compute the mean over the
/// samples of several batches. [`Loss`] uses this function for its means. Use it for your own weighted losses.
///
/// ```
/// use downhill::{Device, Graph, Host, losses::weighted_mean};
/// let g = Graph::training();
/// let (x, w) = (g.input([3]), g.input([3]));
/// let mut f = Device::cpu().compile(&[weighted_mean((x * w).sum_all(), w.sum_all())])?;
/// let x = Host::new([3], vec![1.0, 2.0, 5.0]);
/// assert_eq!(f.run(&[x.clone(), Host::new([3], vec![1.0, 1.0, 0.0])])?[0].f(), &[1.5]);
/// assert_eq!(f.run(&[x, Host::new([3], vec![0.0, 0.0, 0.0])])?[0].f(), &[0.0]);
/// # Ok::<(), downhill::Error>(())
/// ```
#[track_caller]
pub fn weighted_mean<'g>(sum: Tensor<'g>, weight: Tensor<'g>) -> Tensor<'g> {
    let some = weight.ne(0.0);
    let mean = some.where_(sum / some.where_(weight, 1.0), 0.0);
    sum.graph().note_weight(mean, weight);
    mean
}

impl<'g> Loss<'g> {
    fn new(rule: PerSample<'g>) -> Loss<'g> {
        Loss { rule, smoothing: 0.0, ignored: None, classes: None, samples: None }
    }
    /// Smooths the targets of a cross-entropy: (1 − ε)·target + ε / classes (Szegedy et al. 2016, section 7).
    #[track_caller]
    pub fn label_smoothing(mut self, epsilon: f32) -> Loss<'g> {
        let fits = matches!(self.rule, PerSample::CrossEntropy { .. } | PerSample::SoftCrossEntropy { .. });
        if !fits || !(0.0..=1.0).contains(&epsilon) {
            let why =
                if fits { format!("epsilon is {epsilon}, but must be in 0..=1") } else { "only cross-entropy has this option".into() };
            self.rule = self.mistake("label_smoothing", why);
        }
        Loss { smoothing: epsilon, ..self }
    }
    /// Ignores samples with this label, in a loss with labels. The mean is the mean over the other samples.
    ///
    /// `label` may be a number that is no class, for example `u32::MAX`. The check of labels then accepts this number. `label`
    /// may also be a class that should not be learned, for example padding. PyTorch's default of −100 is not possible, because
    /// labels are `u32`.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, losses};
    /// let g = Graph::training();
    /// let (logits, labels) = (g.input([3, 2]), g.labels([3]));
    /// let loss = losses::cross_entropy(logits, labels).ignore_index(u32::MAX).mean();
    /// let mut f = Device::cpu().compile(&[loss])?;
    /// let x = Host::new([3, 2], vec![0.0, 0.0, 7.0, f32::NAN, 0.0, 0.0]);
    /// let y = f.run(&[x, Host::labels([3], vec![0, u32::MAX, 1])])?;
    /// assert!((y[0].f()[0] - 2f32.ln()).abs() < 1e-6);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn ignore_index(mut self, label: u32) -> Loss<'g> {
        let classes = match self.rule {
            PerSample::CrossEntropy { logits: x, .. } | PerSample::Nll { log_p: x, .. } => Some(x.shape().last()),
            _ => None,
        };
        // Up to this number of classes, an `f32` represents each label exactly. The weights of samples need this.
        if classes.is_none_or(|k| k > 1 << 24) {
            let why = if classes.is_none() { "only losses on labels have this option" } else { "there are more than 16,777,216 classes" };
            self.rule = self.mistake("ignore_index", why.into());
        }
        Loss { ignored: Some(label), ..self }
    }
    /// Sets a weight for each class, `[classes]`, in a loss over classes. With labels, the mean divides by the sum of the
    /// labels' weights. With target probabilities, the mean divides by the number of samples.
    #[track_caller]
    pub fn class_weights(mut self, weights: Tensor<'g>) -> Loss<'g> {
        let classes = match self.rule {
            PerSample::Each { .. } | PerSample::Dead(_) => None,
            PerSample::CrossEntropy { logits: x, .. } | PerSample::SoftCrossEntropy { logits: x, .. } | PerSample::Nll { log_p: x, .. } => {
                Some(x.shape().last())
            }
        };
        if classes.is_none_or(|k| weights.shape().dims() != [k]) {
            let want = classes.map_or("only losses over classes have class weights".to_string(), |k| format!("their shape must be [{k}]"));
            self.rule = self.mistake("class_weights", format!("got {}: {want}", weights.shape()));
        }
        Loss { classes: Some(weights), ..self }
    }
    /// Multiplies the loss of positive targets of [`bce_with_logits`] by `weight`: w·y·ln(1 + e⁻ˣ) + (1 − y)·ln(1 + eˣ). A weight above 1
    /// helps if positive targets are rare. `weight` broadcasts to the shape of the logits: `[classes]`, or a single number. The mean still
    /// divides by the number of elements, as PyTorch's does.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, losses};
    /// let g = Graph::training();
    /// let loss = losses::bce_with_logits(g.input([2, 1]), g.input([2, 1])).pos_weight(g.scalar(3.0)).mean();
    /// let y = Device::cpu().compile(&[loss])?.run(&[Host::new([2, 1], vec![0.0, 0.0]), Host::new([2, 1], vec![1.0, 0.0])])?;
    /// assert!((y[0].f()[0] - 2.0 * 2f32.ln()).abs() < 1e-6);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn pos_weight(mut self, weight: Tensor<'g>) -> Loss<'g> {
        self.rule = match self.rule {
            PerSample::Dead(_) => self.rule,
            PerSample::Each { x: [x, y, _], number, shape, takes_pos_weight: true, .. } => {
                let formula: Formula = |[x, y, w], _| w * y * (-x).softplus() + (1.0 - y) * x.softplus();
                match shape.broadcast(weight.shape()).is_some_and(|s| s.same_dims(shape)) {
                    true => PerSample::Each { x: [x, y, weight], number, shape, takes_pos_weight: true, formula },
                    false => self.mistake("pos_weight", format!("{weight} does not broadcast to the logits")),
                }
            }
            _ => self.mistake("pos_weight", "only bce_with_logits has it".into()),
        };
        self
    }
    /// Sets a weight for each sample. `weights` has the shape of the unreduced loss or of its first axes. The mean divides by
    /// the sum of the weights.
    #[track_caller]
    pub fn sample_weights(self, weights: Tensor<'g>) -> Loss<'g> {
        Loss { samples: Some(weights), ..self }
    }

    /// Returns the loss of each sample, without reduction.
    #[track_caller]
    pub fn none(self) -> Tensor<'g> {
        let (each, _) = self.weighted();
        each
    }
    /// Returns the sum over all samples.
    #[track_caller]
    pub fn sum(self) -> Tensor<'g> {
        self.none().sum_all()
    }
    /// Returns the mean over all samples. With weights, the mean divides by their sum. If all weights are 0, the mean is 0.
    #[track_caller]
    pub fn mean(self) -> Tensor<'g> {
        match self.weighted() {
            (each, None) => each.mean_all(),
            (each, Some(weights)) => weighted_mean(each.sum_all(), weights.broadcast_to(each.shape()).sum_all()),
        }
    }
    /// Returns the sum divided by the size of the first axis. For [`kl_div`], this is the mean of the mathematical divergence.
    #[track_caller]
    pub fn batch_mean(self) -> Tensor<'g> {
        let each = self.none();
        let n = each.shape().dims().first().copied().unwrap_or(1);
        each.sum_all() * (1.0 / n as f32)
    }

    /// Returns the shape of the unreduced loss.
    fn shape(&self) -> Shape {
        match self.rule {
            PerSample::Each { shape, .. } => shape,
            PerSample::CrossEntropy { labels, .. } | PerSample::Nll { labels, .. } => labels.shape().of(DType::F32),
            PerSample::SoftCrossEntropy { logits, .. } => logits.shape().without(logits.shape().rank() - 1),
            PerSample::Dead(dead) => dead.shape(),
        }
    }
    /// Returns the weighted loss of each sample, and the weights. The mean divides by the sum of these weights.
    #[track_caller]
    fn weighted(self) -> (Tensor<'g>, Option<Tensor<'g>>) {
        let _line = self.tensor().graph().line();
        let Some(samples) = self.samples.filter(|_| !matches!(self.rule, PerSample::Dead(_))) else { return self.each(None) };
        let (shape, given) = (self.shape(), samples.shape());
        if !shape.dims().starts_with(given.dims()) {
            let why = format!("weights of shape {given} fit neither a loss of shape {shape} nor its first axes");
            return (samples.graph().mistake("sample_weights", &[samples.to_string(), shape.to_string()], why, Location::caller()), None);
        }
        let w = (given.rank()..shape.rank()).fold(samples, |w, _| w.unsqueeze(-1));
        let (each, weights) = self.each(Some(w.ne(0.0)));
        (weigh(each, w), Some(weights.map_or(w, |c| c * w)))
    }

    /// Returns the loss of each sample, weighted by its class, and these weights. `there` is 0 for absent samples. Their inputs
    /// are replaced by zeros, unless the gradient of the loss handles absent samples itself.
    #[track_caller]
    fn each(self, there: Option<Tensor<'g>>) -> (Tensor<'g>, Option<Tensor<'g>>) {
        let eps = self.smoothing;
        match self.rule {
            PerSample::Dead(dead) => (dead, None),
            PerSample::Each { x, number, formula, .. } => {
                // An input may have more axes than the loss.
                let kept = |t: Tensor<'g>, there: Tensor<'g>| {
                    (there.shape().rank()..t.shape().rank()).fold(there, |there, _| there.unsqueeze(-1)).where_(t, 0.0)
                };
                (formula(x.map(|t| there.map_or(t, |there| kept(t, there))), number), None)
            }
            PerSample::CrossEntropy { logits, labels } => {
                let plain = logits.cross_entropy_rows(labels, self.ignored);
                if plain.is_dead() {
                    return (plain, None);
                }
                let (kept, weight) = self.of_labels(labels);
                let plain = weight.map_or(plain, |w| weigh(plain, w));
                if eps == 0.0 {
                    return (plain, weight);
                }
                let log_p = logits.log_softmax(-1);
                let uniform = -self.classes.map_or(log_p, |w| weigh(log_p, w)).sum(&[-1], false) * (eps / logits.shape().last() as f32);
                let uniform = kept.map_or(uniform, |kept| kept.where_(uniform, 0.0));
                // 0 · ∞ would be NaN.
                (if eps == 1.0 { uniform } else { plain * (1.0 - eps) + uniform }, weight)
            }
            PerSample::SoftCrossEntropy { logits, target } => {
                let k = logits.shape().last() as f32;
                let target = there.map_or(target, |there| there.unsqueeze(-1).where_(target, 0.0));
                let target = if eps == 0.0 { target } else { target * (1.0 - eps) + eps / k };
                let target = self.classes.map_or(target, |w| target * w);
                let log_p = logits.log_softmax(-1);
                // 0 · ln 0 is 0, and so is its gradient.
                let known = target.where_(log_p, log_p.lt(f32::MIN).where_(0.0, log_p));
                (-(target * known).sum(&[-1], false), None)
            }
            PerSample::Nll { log_p, labels } => {
                let each = -log_p.graph().apply(Pick, &[log_p, labels]);
                if each.is_dead() {
                    return (each, None);
                }
                log_p.graph().require(labels, Below { count: log_p.shape().last(), table: None, least: None, ignored: self.ignored });
                let (_, weight) = self.of_labels(labels);
                (weight.map_or(each, |w| weigh(each, w)), weight)
            }
        }
    }
    /// Returns one of the tensors that the loss is computed from.
    fn tensor(&self) -> Tensor<'g> {
        match self.rule {
            PerSample::Dead(t)
            | PerSample::Each { x: [t, ..], .. }
            | PerSample::CrossEntropy { logits: t, .. }
            | PerSample::SoftCrossEntropy { logits: t, .. }
            | PerSample::Nll { log_p: t, .. } => t,
        }
    }
    /// Returns a mask of the labels that are not ignored, and the weight of each sample by its label.
    #[track_caller]
    fn of_labels(&self, labels: Tensor<'g>) -> (Option<Tensor<'g>>, Option<Tensor<'g>>) {
        let kept = self.ignored.map(|label| labels.is_not(label));
        // All labels have been checked, except ignored labels.
        let weight = self.classes.map(|w| labels.graph().apply(GatherRows, &[w, labels]));
        (kept, weight.map_or(kept, |w| Some(kept.map_or(w, |kept| kept.where_(w, 0.0)))))
    }
    #[track_caller]
    fn mistake(&self, option: &str, why: String) -> PerSample<'g> {
        let t = self.tensor();
        PerSample::Dead(t.graph().mistake(option, &[t], why, Location::caller()))
    }
}

/// Returns `each · weight`. It is 0 where the weight is 0, even if the loss is infinite or NaN.
#[track_caller]
fn weigh<'g>(each: Tensor<'g>, weight: Tensor<'g>) -> Tensor<'g> {
    weight.ne(0.0).where_(each * weight, 0.0)
}

macro_rules! means {
    ($($(#[$doc:meta])* $name:ident ($($arg:ident: $type:ty),*);)*) => {
        impl<'g> Tensor<'g> {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(self, $($arg: $type),*) -> Tensor<'g> { $name(self, $($arg),*).mean() }
        )*}
    };
}

means! {
    /// Returns the mean squared error. See [`mse`].
    mse(y: Tensor<'g>);
    /// Returns the mean absolute error. See [`mae`].
    mae(y: Tensor<'g>);
    /// Returns the mean Huber loss. See [`huber`].
    huber(y: Tensor<'g>, delta: f32);
    /// Returns the mean binary cross-entropy of probabilities. See [`bce`].
    bce(y: Tensor<'g>);
    /// Returns the mean binary cross-entropy of logits. See [`bce_with_logits`].
    bce_with_logits(y: Tensor<'g>);
    /// Returns the mean cross-entropy of logits and labels. See [`cross_entropy`].
    cross_entropy(labels: Tensor<'g>);
    /// Returns the mean cross-entropy of logits and target probabilities. See [`cross_entropy_soft`].
    cross_entropy_soft(target: Tensor<'g>);
    /// Returns the mean negative log-likelihood. See [`nll`].
    nll(labels: Tensor<'g>);
    /// Returns the Kullback–Leibler divergence, averaged over all elements. See [`kl_div`].
    kl_div(q: Tensor<'g>);
    /// Returns the mean hinge loss. See [`hinge`].
    hinge(y: Tensor<'g>);
}
