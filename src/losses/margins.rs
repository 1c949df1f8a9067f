//! Losses of distributions and of margins.

use super::{Formula, Loss, PerSample};
use crate::{graph::Tensor, shape::Shape};
use std::panic::Location;

/// Makes a loss from three tensors, or a mistake if `why` has a reason.
#[track_caller]
fn of<'g>(name: &str, x: [Tensor<'g>; 3], number: f32, shape: Shape, why: Option<&str>, formula: Formula) -> Loss<'g> {
    let place = Location::caller();
    let graph = x[0].graph();
    let wrong = why.map(String::from).or_else(|| (!number.is_finite()).then(|| format!("the margin is {number}, but must be finite")));
    Loss::new(match wrong {
        Some(why) => PerSample::Dead(graph.mistake(name, &x, why, place)),
        None => PerSample::Each { x, number, formula, shape, takes_pos_weight: false },
    })
}

/// Returns max(x, 0). Unlike the gradient of `relu`, the gradient at 0 is 1, as in PyTorch's losses of margins.
#[track_caller]
fn above_0<'g>(x: Tensor<'g>) -> Tensor<'g> {
    x.lt(0.0).where_(0.0, x)
}

/// Returns the negative log-likelihood of targets `y` in normal distributions with means `x` and variances `var`: ½(ln v + (x −
/// y)² / v), where v = max(`var`, 10⁻⁶). The constant ½ ln 2π is left out, as by default in PyTorch (Nix & Weigend 1994).
///
/// `var` has the shape of x, or its last axis has size 1. The gradient of a `var` below 10⁻⁶ is that of v, as in PyTorch.
///
/// ```
/// use downhill::{Device, Graph, Host, losses};
/// let g = Graph::training();
/// let loss = losses::gaussian_nll(g.input([2]), g.input([2]), g.input([2])).mean();
/// let [x, y, var] = [vec![1.0, 2.0], vec![3.0, 2.0], vec![2.0, 1.0]].map(|v| Host::new([2], v));
/// let loss = Device::cpu().compile(&[loss])?.run(&[x, y, var])?;
/// assert!((loss[0].f()[0] - (0.5 * 2f32.ln() + 1.0) / 2.0).abs() < 1e-6);
/// # Ok::<(), downhill::Error>(())
/// ```
#[track_caller]
pub fn gaussian_nll<'g>(x: Tensor<'g>, y: Tensor<'g>, var: Tensor<'g>) -> Loss<'g> {
    let (shape, v) = (x.shape(), var.shape());
    let one = shape.with(shape.rank().saturating_sub(1), 1);
    let fits = shape.same_dims(y.shape()) && (v.same_dims(shape) || v.same_dims(one));
    let why = (!fits).then_some("prediction, target and variance must have the same shape; the last axis of the variance may have size 1");
    of("gaussian_nll", [x, y, var], 0.0, shape, why, |[x, y, var], _| {
        let least = 1e-6;
        let v = var.lt(least).where_(var - var.detach() + least, var);
        (v.ln() + (x - y).square() / v) * 0.5
    })
}

/// Returns the negative log-likelihood of counts `y` in Poisson distributions whose rates have the logarithms `x`: eˣ − xy. The
/// constant ln y! is left out, as by default in PyTorch. For rates instead of logarithms, use their logarithm:
/// `poisson_nll(rate.ln(), y)`.
///
/// ```
/// use downhill::{Device, Graph, Host, losses};
/// let g = Graph::training();
/// let loss = losses::poisson_nll(g.input([2]), g.input([2])).none();
/// let y = Device::cpu().compile(&[loss])?.run(&[Host::new([2], vec![0.0, 0.0]), Host::new([2], vec![3.0, 1.0])])?;
/// assert_eq!(y[0].f(), &[1.0, 1.0]);
/// # Ok::<(), downhill::Error>(())
/// ```
#[track_caller]
pub fn poisson_nll<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Loss<'g> {
    super::each("poisson_nll", x, y, 0.0, |[x, y, _], _| x.exp() - x * y)
}

/// Returns the hinge loss of scores `x` and targets `y` that are −1 or 1: max(1 − xy, 0) (Cortes & Vapnik 1995). It is Keras's
/// `hinge`.
#[track_caller]
pub fn hinge<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Loss<'g> {
    super::each("hinge", x, y, 0.0, |[x, y, _], _| above_0(1.0 - x * y))
}

/// Returns the hinge loss of distances `x`: x if y = 1 (a similar pair), and max(`margin` − x, 0) if y = −1 (a different pair).
/// It is PyTorch's `F.hinge_embedding_loss`, whose default margin is 1.
#[track_caller]
pub fn hinge_embedding<'g>(x: Tensor<'g>, y: Tensor<'g>, margin: f32) -> Loss<'g> {
    let why = (!x.shape().same_dims(y.shape())).then_some("distances and targets must have the same shape; reshape one of them");
    of("hinge_embedding", [x, y, y], margin, x.shape(), why, |[x, y, _], margin| {
        y.ne(1.0).where_(above_0(margin - x), 0.0) + y.ne(-1.0).where_(x, 0.0)
    })
}

/// Returns the loss of a ranking: max(−y(a − b) + `margin`, 0). y = 1 asks for a score `a` above `b`, and y = −1 for a score
/// below. It is PyTorch's `F.margin_ranking_loss`, whose default margin is 0.
#[track_caller]
pub fn margin_ranking<'g>(a: Tensor<'g>, b: Tensor<'g>, y: Tensor<'g>, margin: f32) -> Loss<'g> {
    let fits = a.shape().same_dims(b.shape()) && a.shape().same_dims(y.shape());
    let why = (!fits).then_some("both scores and the target must have the same shape");
    of("margin_ranking", [a, b, y], margin, a.shape(), why, |[a, b, y], margin| above_0(y * (b - a) + margin))
}

/// Returns the loss of a triplet: max(d(a, p) − d(a, n) + `margin`, 0), where d(x, y) = ‖x − y + 10⁻⁶‖₂ along the last axis. The
/// anchor `a` should be nearer to the positive `p` than to the negative `n`. All three are `[.., features]`, and the loss is
/// `[..]`. It is PyTorch's `F.triplet_margin_loss`, whose default margin is 1 (Balntas et al. 2016).
///
/// ```
/// use downhill::{Device, Graph, Host, losses};
/// let g = Graph::training();
/// let loss = losses::triplet_margin(g.input([1, 2]), g.input([1, 2]), g.input([1, 2]), 1.0).mean();
/// let [a, p, n] = [vec![0.0, 0.0], vec![3.0, 4.0], vec![0.0, 2.0]].map(|v| Host::new([1, 2], v));
/// let loss = Device::cpu().compile(&[loss])?.run(&[a, p, n])?;
/// assert!((loss[0].f()[0] - 4.0).abs() < 1e-5);
/// # Ok::<(), downhill::Error>(())
/// ```
#[track_caller]
pub fn triplet_margin<'g>(a: Tensor<'g>, p: Tensor<'g>, n: Tensor<'g>, margin: f32) -> Loss<'g> {
    let shape = a.shape();
    let fits = shape.rank() > 0 && shape.same_dims(p.shape()) && shape.same_dims(n.shape());
    let why = (!fits).then_some("anchor, positive and negative must have the same shape, with the features last");
    let each = shape.without(shape.rank().saturating_sub(1));
    of("triplet_margin", [a, p, n], margin, each, why, |[a, p, n], margin| {
        let [p, n] = [p, n].map(|x| (a - x + 1e-6).square().sum(&[-1], false).sqrt());
        above_0(p - n + margin)
    })
}

/// Returns the loss of pairs of vectors along the last axis: 1 − cos if y = 1 (a similar pair), and max(cos − `margin`, 0) if y =
/// −1 (a different pair). cos is the cosine of the angle between `a` and `b`. Both are `[.., features]`, and `y` and the loss are
/// `[..]`. It is PyTorch's `F.cosine_embedding_loss`, whose default margin is 0.
#[track_caller]
pub fn cosine_embedding<'g>(a: Tensor<'g>, b: Tensor<'g>, y: Tensor<'g>, margin: f32) -> Loss<'g> {
    let shape = a.shape();
    let each = shape.without(shape.rank().saturating_sub(1));
    let fits = shape.rank() > 0 && shape.same_dims(b.shape()) && each.same_dims(y.shape());
    let why = (!fits).then_some("both vectors must have the same shape [.., features], and the target must have the shape [..]");
    of("cosine_embedding", [a, b, y], margin, each, why, |[a, b, y], margin| {
        let cos = a.cosine_similarity(b, -1);
        y.eq(1.0).where_(1.0 - cos, y.eq(-1.0).where_(above_0(cos - margin), 0.0))
    })
}
