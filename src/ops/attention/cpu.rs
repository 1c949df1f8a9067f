//! Attention on the CPU device: blocks of rows, each by a few matrix products, all of them in parallel.

use super::{AttentionGrad, Of, Sizes};
use gemm::Parallelism;
use rayon::prelude::*;

/// Rows of a block: it holds so many times all columns at once.
const BLOCK: usize = 64;

/// A matrix inside a slice: how far apart rows and columns are.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    f: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Matrix<'a> {
    /// Rows that are `width` apart.
    fn rows(f: &'a [f32], width: usize) -> Matrix<'a> {
        Matrix { f, row: width, col: 1 }
    }
    fn transposed(self) -> Matrix<'a> {
        Matrix { row: self.col, col: self.row, ..self }
    }
}

/// `y = alpha · a·b` for an m × k and a k × n matrix; rows of y are `width` apart.
fn product(y: &mut [f32], width: usize, [m, n, k]: [usize; 3], alpha: f32, a: Matrix, b: Matrix) {
    let inside = |len: usize, rows: usize, row: usize, cols: usize, col: usize| (rows - 1) * row + (cols - 1) * col < len;
    assert!(inside(y.len(), m, width, n, 1) && inside(a.f.len(), m, a.row, k, a.col) && inside(b.f.len(), k, b.row, n, b.col));
    let (y, [y_row, a_row, a_col, b_row, b_col]) = (y.as_mut_ptr(), [width, a.row, a.col, b.row, b.col].map(|s| s as isize));
    let (a, b) = (a.f.as_ptr(), b.f.as_ptr());
    // SAFETY: the last element of each matrix is inside its slice, as asserted, and y is borrowed mutably, so it overlaps
    // neither a nor b.
    unsafe {
        gemm::gemm(m, n, k, y, 1, y_row, false, a, a_col, a_row, b, b_col, b_row, 0.0, alpha, false, false, false, Parallelism::None);
    }
}

/// See [`super::Attention`].
pub(super) fn forward(s: Sizes, causal: bool, scale: f32, [q, k, v]: [&[f32]; 3], y: &mut [f32]) {
    let Sizes { n, m, d, e, .. } = s;
    let width = e + 1;
    let block = |batch: usize, first: usize, y: &mut [f32]| {
        let (rows, seen) = (y.len() / width, s.seen(causal, first + y.len() / width - 1));
        let (q, k, v) = (&q[(batch * n + first) * d..], &k[batch * m * d..], &v[batch * m * e..]);
        let mut p = vec![0.0; rows * seen];
        product(&mut p, seen, [rows, seen, d], scale, Matrix::rows(q, d), Matrix::rows(k, d).transposed());
        let mut sums = vec![0.0; rows];
        for (r, (p, sum)) in p.chunks_mut(seen).zip(&mut sums).enumerate() {
            let (p, hidden) = p.split_at_mut(s.seen(causal, first + r));
            hidden.fill(0.0);
            let top = p.iter().fold(f32::NEG_INFINITY, |m, &x| if m >= x || m.is_nan() { m } else { x });
            // Lines can be long.
            let mut total = 0.0f64;
            for p in p {
                *p = (*p - top).exp();
                total += f64::from(*p);
            }
            y[r * width + e] = top + total.ln() as f32;
            *sum = (1.0 / total) as f32;
        }
        product(y, width, [rows, e, seen], 1.0, Matrix::rows(&p, seen), Matrix::rows(v, e));
        y.chunks_mut(width).zip(sums).for_each(|(y, scale)| y[..e].iter_mut().for_each(|y| *y *= scale));
    };
    y.par_chunks_mut(n * width).enumerate().for_each(|(batch, y)| {
        y.par_chunks_mut(BLOCK * width).enumerate().for_each(|(b, y)| block(batch, b * BLOCK, y));
    });
}

/// See [`AttentionGrad`]: `a` is `[q | dy | l | δ]`, `b` is `[k | v]`.
pub(super) fn grad(op: &AttentionGrad, s: Sizes, a: &[f32], b: &[f32], y: &mut [f32]) {
    let Sizes { n, m, d, e, .. } = s;
    let (wide_a, wide_b) = (d + e + 2, d + e);
    // Rows are what the gradient is of.
    let ((rows_n, rows_w), (cols_n, cols_w)) = match op.of {
        Of::Q => ((n, wide_a), (m, wide_b)),
        Of::K | Of::V => ((m, wide_b), (n, wide_a)),
    };
    let (width, from) = if op.of == Of::V { (e, d) } else { (d, 0) };
    let block = |batch: usize, first: usize, y: &mut [f32]| {
        let rows = y.len() / width;
        // The columns that any of these rows has a weight for.
        let (start, end) = match op.of {
            Of::Q => (0, s.seen(op.causal, first + rows - 1)),
            Of::K | Of::V => (if op.causal { first } else { 0 }, n),
        };
        if start >= end {
            return y.fill(0.0);
        }
        let seen = end - start;
        let (row, col) = (batch * rows_n + first, batch * cols_n + start);
        let (r, c) = if op.of == Of::Q { (&a[row * rows_w..], &b[col * cols_w..]) } else { (&b[row * rows_w..], &a[col * cols_w..]) };
        let mut t = vec![0.0; rows * seen];
        product(&mut t, seen, [rows, seen, d], op.scale, Matrix::rows(r, rows_w), Matrix::rows(c, cols_w).transposed());
        let mut dp = Vec::new();
        if op.of != Of::V {
            dp.resize(rows * seen, 0.0);
            product(&mut dp, seen, [rows, seen, e], op.scale, Matrix::rows(&r[d..], rows_w), Matrix::rows(&c[d..], cols_w).transposed());
        }
        // l and scale · δ of the queries that have a part in this block.
        let queries = if op.of == Of::Q { first..first + rows } else { start..end };
        let (l, delta): (Vec<f32>, Vec<f32>) = queries
            .map(|query| {
                let stats = &a[(batch * n + query) * wide_a + d + e..];
                (stats[0], op.scale * stats[1])
            })
            .unzip();
        for (i, t) in t.chunks_mut(seen).enumerate() {
            // Columns that do not see this row.
            let hidden = match op.of {
                _ if !op.causal => 0..0,
                Of::Q => s.seen(true, first + i)..seen,
                Of::K | Of::V => 0..i.min(seen),
            };
            match op.of {
                Of::Q => {
                    let (l, delta) = (l[i], delta[i]);
                    t.iter_mut().zip(&dp[i * seen..]).for_each(|(t, dp)| *t = (*t - l).exp() * (dp - delta));
                }
                Of::K => {
                    let dp = &dp[i * seen..];
                    t.iter_mut().zip(dp).zip(l.iter().zip(&delta)).for_each(|((t, dp), (l, delta))| *t = (*t - l).exp() * (dp - delta));
                }
                Of::V => t.iter_mut().zip(&l).for_each(|(t, l)| *t = (*t - l).exp()),
            }
            t[hidden].fill(0.0);
        }
        product(y, width, [rows, width, seen], 1.0, Matrix::rows(&t, seen), Matrix::rows(&c[from..], cols_w));
    };
    y.par_chunks_mut(rows_n * width).enumerate().for_each(|(batch, y)| {
        y.par_chunks_mut(BLOCK * width).enumerate().for_each(|(b, y)| block(batch, b * BLOCK, y));
    });
}
