//! Attention on the CPU device. Each block of rows takes a few matrix products. All blocks run in parallel.

use super::{AttentionGrad, AttentionSizes, Of, mask::Given};
use crate::{
    host::Real,
    ops::product::{By, Matrix, product},
    scratch,
    threads::chunks,
};

/// The number of rows in a block. The block stores its scores for all columns at once.
const BLOCK: usize = 64;

/// See [`super::Attention`].
pub(super) fn forward(s: AttentionSizes, causal: bool, scale: f32, [q, k, v]: [&[f32]; 3], given: Given<f32>, y: &mut [f32]) {
    let AttentionSizes { n, m, d, e, .. } = s;
    let width = e + 1;
    let block = |batch: usize, first: usize, y: &mut [f32]| {
        let (rows, seen) = (y.len() / width, s.seen(causal, first + y.len() / width - 1).min(given.keys(batch)));
        if seen == 0 {
            return y.fill(0.0);
        }
        let (q, k, v) = (&q[(batch * n + first) * d..], &k[batch * m * d..], &v[batch * m * e..]);
        scratch::with(rows * seen + rows, |numbers: &mut [f32]| {
            let (p, sums) = numbers.split_at_mut(rows * seen);
            product([rows, d, seen], scale, [Matrix::rows(q, d), Matrix::rows(k, d).transposed()], p, seen, false, By::This);
            for (r, (p, sum)) in p.chunks_mut(seen).zip(&mut *sums).enumerate() {
                let (p, hidden) = p.split_at_mut(s.seen(causal, first + r).min(seen));
                hidden.fill(0.0);
                if given.is_some() {
                    p.iter_mut().enumerate().for_each(|(j, p)| *p += given.bias(batch, first + r, j));
                }
                let top = p.iter().fold(f32::NEG_INFINITY, |m, &x| if m >= x || m.is_nan() { m } else { x });
                if given.is_some() && top == f32::NEG_INFINITY {
                    p.fill(0.0);
                    (*sum, y[r * width + e]) = (0.0, 0.0);
                    continue;
                }
                // Lines can be long, so the sum is in f64.
                let mut total = 0.0f64;
                for p in p {
                    *p = (*p - top).vexp();
                    total += f64::from(*p);
                }
                y[r * width + e] = top + total.ln() as f32;
                *sum = (1.0 / total) as f32;
            }
            product([rows, seen, e], 1.0, [Matrix::rows(p, seen), Matrix::rows(v, e)], y, width, false, By::This);
            y.chunks_mut(width).zip(sums).for_each(|(y, scale)| y[..e].iter_mut().for_each(|y| *y *= *scale));
        });
    };
    chunks(y, n * width, |batch, y| {
        chunks(y, BLOCK * width, |b, y| block(batch, b * BLOCK, y));
    });
}

/// See [`AttentionGrad`]: `a` is `[q | dy | l | δ]`, `b` is `[k | v]`.
pub(super) fn grad(op: &AttentionGrad, s: AttentionSizes, [a, b]: [&[f32]; 2], given: Given<f32>, y: &mut [f32]) {
    let AttentionSizes { n, m, d, e, .. } = s;
    let (wide_a, wide_b) = (d + e + 2, d + e);
    // The rows belong to the input whose gradient is computed.
    let ((rows_n, rows_w), (cols_n, cols_w)) = match op.of {
        Of::Q => ((n, wide_a), (m, wide_b)),
        Of::K | Of::V => ((m, wide_b), (n, wide_a)),
    };
    let (width, from) = if op.of == Of::V { (e, d) } else { (d, 0) };
    let block = |batch: usize, first: usize, y: &mut [f32]| {
        let rows = y.len() / width;
        // The columns that have a weight for any row of the block.
        let (start, end) = match op.of {
            Of::Q => (0, s.seen(op.causal, first + rows - 1).min(given.keys(batch))),
            Of::K | Of::V if first >= given.keys(batch) => (0, 0),
            Of::K | Of::V => (if op.causal { first } else { 0 }, n),
        };
        if start >= end {
            return y.fill(0.0);
        }
        let seen = end - start;
        let (row, col) = (batch * rows_n + first, batch * cols_n + start);
        let (r, c) = if op.of == Of::Q { (&a[row * rows_w..], &b[col * cols_w..]) } else { (&b[row * rows_w..], &a[col * cols_w..]) };
        // l and scale · δ of the queries that take part in this block.
        let queries = if op.of == Of::Q { first..first + rows } else { start..end };
        let sizes = [rows * seen, rows * seen, queries.len(), queries.len()];
        scratch::with(sizes.iter().sum(), |numbers: &mut [f32]| {
            let mut numbers = numbers;
            let [t, dp, l, delta] = sizes.map(|n| numbers.split_off_mut(..n).expect("there are so many"));
            product([rows, d, seen], op.scale, [Matrix::rows(r, rows_w), Matrix::rows(c, cols_w).transposed()], t, seen, false, By::This);
            if op.of != Of::V {
                let sides = [Matrix::rows(&r[d..], rows_w), Matrix::rows(&c[d..], cols_w).transposed()];
                product([rows, e, seen], op.scale, sides, dp, seen, false, By::This);
            }
            for (query, (l, delta)) in queries.zip(l.iter_mut().zip(&mut *delta)) {
                let stats = &a[(batch * n + query) * wide_a + d + e..];
                (*l, *delta) = (stats[0], op.scale * stats[1]);
            }
            for (i, t) in t.chunks_mut(seen).enumerate() {
                // The columns without a weight for this row.
                let hidden = match op.of {
                    _ if !op.causal => 0..0,
                    Of::Q => s.seen(true, first + i).min(seen)..seen,
                    Of::K | Of::V => 0..i.min(seen),
                };
                if given.is_some() {
                    let pair = |j: usize| if op.of == Of::Q { (first + i, j) } else { (start + j, first + i) };
                    t.iter_mut().enumerate().for_each(|(j, t)| *t += given.bias(batch, pair(j).0, pair(j).1));
                }
                match op.of {
                    Of::Q => {
                        let (l, delta) = (l[i], delta[i]);
                        t.iter_mut().zip(&dp[i * seen..]).for_each(|(t, dp)| *t = (*t - l).vexp() * (dp - delta));
                    }
                    Of::K => {
                        let dp = &dp[i * seen..];
                        t.iter_mut()
                            .zip(dp)
                            .zip(l.iter().zip(&*delta))
                            .for_each(|((t, dp), (l, delta))| *t = (*t - l).vexp() * (dp - delta));
                    }
                    Of::V => t.iter_mut().zip(&*l).for_each(|(t, l)| *t = (*t - l).vexp()),
                }
                t[hidden].fill(0.0);
            }
            product([rows, seen, width], 1.0, [Matrix::rows(t, seen), Matrix::rows(&c[from..], cols_w)], y, width, false, By::This);
        });
    };
    chunks(y, rows_n * width, |batch, y| {
        chunks(y, BLOCK * width, |b, y| block(batch, b * BLOCK, y));
    });
}
