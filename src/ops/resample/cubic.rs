//! Bicubic resizing, as two products with constant matrices.

use crate::{graph::Tensor, host::Host};

/// The largest number of elements of a matrix.
const MOST: usize = 1 << 24;

/// Returns the matrix `[out, n]` of cubic convolution along an axis (Keys 1981) with a = −0.75, as in PyTorch. An output is the
/// weighted sum of the four elements around its point. An element outside of the axis is the element at its end.
fn matrix(n: usize, out: usize, corners: bool) -> Result<Host<f32>, String> {
    match n.saturating_mul(out) {
        0 => return Err("an output of size 0 holds nothing".into()),
        p if p > MOST => return Err(format!("an axis of {n} becomes one of {out}: their product may be at most {MOST}")),
        _ => {}
    }
    let a = -0.75;
    let near = |t: f64| ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((a * t - 5.0 * a) * t + 8.0 * a) * t - 4.0 * a;
    let mut weights = vec![0.0; n * out];
    for (o, row) in weights.chunks_mut(n).enumerate() {
        let at = match corners {
            true if out == 1 => 0.0,
            true => (o * (n - 1)) as f64 / (out - 1) as f64,
            false => (o as f64 + 0.5) * n as f64 / out as f64 - 0.5,
        };
        let (i, t) = (at.floor(), at - at.floor());
        for (k, w) in [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)].into_iter().enumerate() {
            row[(i + k as f64 - 1.0).clamp(0.0, (n - 1) as f64) as usize] += w;
        }
    }
    Ok(Host::new([out, n], weights.into_iter().map(|w| w as f32).collect()))
}

/// Resizes images `[n, c, h, w]` to `size`.
///
/// # Errors
/// A sentence, if a size is 0 or too large.
#[track_caller]
pub(super) fn resize<'g>(x: Tensor<'g>, size: [usize; 2], corners: bool) -> Result<Tensor<'g>, String> {
    let (s, _line) = (x.shape(), x.graph.line());
    let [rows, columns] = [matrix(s.dims()[2], size[0], corners)?, matrix(s.dims()[3], size[1], corners)?];
    // An axis that keeps its size does not change.
    let x = if s.dims()[3] == size[1] { x } else { x.matmul_t(x.graph.constant(columns), false, true) };
    Ok(if s.dims()[2] == size[0] { x } else { x.graph.constant(rows).matmul(x) })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_row_of_weights_sums_to_one() {
        for (n, out) in [(1, 1), (1, 5), (4, 7), (7, 4), (2, 9)] {
            for corners in [false, true] {
                for row in super::matrix(n, out, corners).unwrap().f().chunks(n) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{n} to {out}: {row:?}");
                }
            }
        }
    }
}
