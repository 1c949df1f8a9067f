//! The ratio by which a rule scales the direction of a parameter, and the norms from which the ratio is computed.

use super::{
    MAX_STATES, Rule,
    update::{BLOCK, CHUNK, Elements, Loops},
};
use crate::host::Real;
use std::array;

/// The largest `f32`. A rule takes it as the largest ratio if it has no other limit.
pub(super) const MOST: f64 = f32::MAX as f64;

/// The Euclidean norms of one parameter. A norm below the smallest normal `f32` counts as 0. No norm is above the largest
/// `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Norms {
    /// The norm of its weights, before the step.
    pub weight: f64,
    /// The norm of its gradients, after clipping.
    pub gradient: f64,
    /// The norm of its directions, before the ratio is applied.
    pub direction: f64,
}

/// The norms and the ratio of one parameter in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trust {
    /// The norms from which the ratio is computed.
    pub norms: Norms,
    /// The factor of the directions.
    pub ratio: f64,
}

impl Trust {
    /// Computes the norms and the ratio from the sums of squares of the weights, the gradients and the directions.
    pub(super) fn new(squares: [f64; 3], ratio: impl Fn(Norms) -> f64) -> Trust {
        let [weight, gradient, direction] = squares.map(norm);
        let norms = Norms { weight, gradient, direction };
        let ratio = match ratio(norms) {
            ratio if !(ratio as f32).is_finite() => MOST,
            // GPUs differ in their treatment of subnormal numbers.
            tiny if tiny.abs() < f64::from(f32::MIN_POSITIVE) => 0.0,
            ratio => ratio,
        };
        Trust { norms, ratio }
    }
    /// Reads the norms and the ratio from a row of [`Control`](super::Control).
    pub(crate) fn of_row(row: &[f32]) -> Trust {
        let [weight, gradient, direction, ratio] = array::from_fn(|k| f64::from(row[k]));
        Trust { norms: Norms { weight, gradient, direction }, ratio }
    }
}

/// Returns the norm from a sum of squares, in the range of [`Norms`].
pub(crate) fn norm(sum: f64) -> f64 {
    match sum.sqrt() {
        none if none < f64::from(f32::MIN_POSITIVE) => 0.0,
        // A norm that is NaN becomes the largest `f32`, too.
        norm => norm.min(MOST),
    }
}

/// Returns Σ w², Σ g² and Σ u², computed by all threads. The order of the additions depends only on the number of elements. The
/// square of an `f32` is far below the largest `f64`. It changes nothing.
pub(super) fn squares<T: Real>(job: Elements<T>, loops: Loops<T>) -> [f64; 3] {
    if job.len() > CHUNK {
        let (a, b) = job.halves();
        let (a, b) = rayon::join(|| squares(a, loops), || squares(b, loops));
        return array::from_fn(|k| a[k] + b[k]);
    }
    let h = job.hyper;
    let mut sums = [0.0; 3];
    let mut copies = [[T::zero(); BLOCK]; MAX_STATES + 1];
    job.blocks(|factor, w, g, states| {
        let n = w.len();
        let [u, s0, s1, s2] = copies.each_mut().map(|copy| &mut copy[..n]);
        u.iter_mut().zip(g).for_each(|(u, &g)| *u = factor * g);
        let gradient = square_sum(u);
        [&mut *s0, &mut *s1, &mut *s2].into_iter().zip(states).for_each(|(to, from)| to.copy_from_slice(from));
        (loops.directions)(&h, w, u, s0, s1, s2);
        let block = [square_sum(w), gradient, square_sum(u)];
        sums.iter_mut().zip(block).for_each(|(sum, more)| *sum += more);
    });
    sums
}

/// Replaces gradients by their directions. The slices are cut for the same reason as in `block` in [`super::update`].
#[inline(never)]
pub(super) fn directions<R: Rule, T: Real>(h: &[T; 8], w: &[T], u: &mut [T], s0: &mut [T], s1: &mut [T], s2: &mut [T]) {
    T::run(
        #[inline(always)]
        || {
            let (n, h) = (u.len(), *h);
            let (w, u, s0, s1, s2) = (&w[..n], &mut u[..n], &mut s0[..n], &mut s1[..n], &mut s2[..n]);
            for i in 0..n {
                u[i] = R::direction(w[i], u[i], &mut [s0[i], s1[i], s2[i]], &h);
            }
        },
    )
}

fn square_sum<T: Real>(x: &[T]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    T::run(
        #[inline(always)]
        || {
            for x in chunks {
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.f64() * x.f64());
            }
        },
    );
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x.f64() * x.f64());
    sums.iter().sum()
}
