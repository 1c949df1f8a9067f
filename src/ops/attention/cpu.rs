//! Attention on the CPU device. Each block of rows takes a few matrix products. All blocks run in parallel.

use super::{AttentionGrad, AttentionSizes, Given, Of};
use crate::{
    host::Real,
    ops::product::{By, Matrix, product},
    rng::Key,
    scratch,
    threads::chunks,
};

/// The number of rows in a block. The block stores its scores for all columns at once.
const BLOCK: usize = 64;

/// See [`super::Attention`].
pub(super) fn forward(s: AttentionSizes, causal: bool, scale: f32, [q, k, v]: [&[f32]; 3], given: Given<f32>, key: Key, y: &mut [f32]) {
    let AttentionSizes { n, m, d, e, .. } = s;
    let width = e + 1;
    let block = |batch: usize, first: usize, y: &mut [f32]| {
        let last = first + y.len() / width - 1;
        let near = s.pairs.columns(true, first..last + 1, m);
        // The first key, aligned for the random numbers, and the number of keys from there on.
        let start = near.start / 4 * 4;
        let end = s.seen(causal, last).min(given.keys(batch)).min(near.end);
        if start >= end {
            return y.fill(0.0);
        }
        let (rows, seen, kv) = (y.len() / width, end - start, s.shared.kv(batch) * m + start);
        let (q, k, v) = (&q[(batch * n + first) * d..], &k[kv * d..], &v[kv * e..]);
        scratch::with(rows * seen + rows, |numbers: &mut [f32]| {
            let (p, sums) = numbers.split_at_mut(rows * seen);
            product([rows, d, seen], scale, [Matrix::rows(q, d), Matrix::rows(k, d).transposed()], p, seen, false, By::This);
            for (r, (p, sum)) in p.chunks_mut(seen).zip(&mut *sums).enumerate() {
                let (p, hidden) = p.split_at_mut(s.seen(causal, first + r).saturating_sub(start).min(seen));
                hidden.fill(0.0);
                if given.is_some() {
                    p.iter_mut().enumerate().for_each(|(j, p)| *p += given.bias(batch, first + r, start + j));
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
            s.drop_weights(key, batch, true, [first, start], seen, p);
            product([rows, seen, e], 1.0, [Matrix::rows(p, seen), Matrix::rows(v, e)], y, width, false, By::This);
            y.chunks_mut(width).zip(sums).for_each(|(y, scale)| y[..e].iter_mut().for_each(|y| *y *= *scale));
        });
    };
    chunks(y, n * width, |batch, y| {
        chunks(y, BLOCK * width, |b, y| block(batch, b * BLOCK, y));
    });
}

/// See [`AttentionGrad`]: `a` is `[q | dy | l | δ]`, `b` is `[k | v]`.
pub(super) fn grad(op: &AttentionGrad, s: AttentionSizes, [a, b]: [&[f32]; 2], given: Given<f32>, key: Key, y: &mut [f32]) {
    let AttentionSizes { n, m, d, e, .. } = s;
    let (causal, scale, of_queries) = (op.options.causal, op.scale(), op.of == Of::Q);
    let (wide_a, wide_b) = (d + e + 2, d + e);
    // The rows belong to the input whose gradient is computed.
    let ((rows_n, rows_w), (cols_n, cols_w)) = if of_queries { ((n, wide_a), (m, wide_b)) } else { ((m, wide_b), (n, wide_a)) };
    let (width, from) = if op.of == Of::V { (e, d) } else { (d, 0) };
    // Adds the weights of one batch of queries to a block. `y` has the sum of the batches before it, if `more` is true. Returns false if
    // no pair has a weight.
    let part = |batch: usize, first: usize, more: bool, y: &mut [f32]| {
        let rows = y.len() / width;
        let near = s.pairs.columns(of_queries, first..first + rows, cols_n);
        // The columns that have a weight for any row of the block. The first one is aligned for the random numbers.
        let (start, end) = match op.of {
            Of::Q => (0, s.seen(causal, first + rows - 1).min(given.keys(batch))),
            Of::K | Of::V if first >= given.keys(batch) => (0, 0),
            Of::K | Of::V => (if causal { first } else { 0 }, n),
        };
        let (start, end) = (start.max(near.start / 4 * 4), end.min(near.end));
        if start >= end {
            return false;
        }
        let seen = end - start;
        let kv = s.shared.kv(batch);
        let (row, col) = if of_queries { (batch * n + first, kv * m + start) } else { (kv * m + first, batch * n + start) };
        let (r, c) = if of_queries { (&a[row * rows_w..], &b[col * cols_w..]) } else { (&b[row * rows_w..], &a[col * cols_w..]) };
        // l and scale · δ of the queries that take part in this block.
        let queries = if of_queries { first..first + rows } else { start..end };
        let sizes = [rows * seen, rows * seen, queries.len(), queries.len()];
        scratch::with(sizes.iter().sum(), |numbers: &mut [f32]| {
            let mut numbers = numbers;
            let [t, dp, l, delta] = sizes.map(|n| numbers.split_off_mut(..n).expect("there are so many"));
            product([rows, d, seen], scale, [Matrix::rows(r, rows_w), Matrix::rows(c, cols_w).transposed()], t, seen, false, By::This);
            if op.of != Of::V {
                let sides = [Matrix::rows(&r[d..], rows_w), Matrix::rows(&c[d..], cols_w).transposed()];
                product([rows, e, seen], scale, sides, dp, seen, false, By::This);
                s.drop_weights(key, batch, of_queries, [first, start], seen, dp);
            }
            for (query, (l, delta)) in queries.zip(l.iter_mut().zip(&mut *delta)) {
                let stats = &a[(batch * n + query) * wide_a + d + e..];
                (*l, *delta) = (stats[0], scale * stats[1]);
            }
            for (i, t) in t.chunks_mut(seen).enumerate() {
                // The columns without a weight for this row.
                let hidden = match op.of {
                    _ if !causal => 0..0,
                    Of::Q => s.seen(true, first + i).saturating_sub(start).min(seen)..seen,
                    Of::K | Of::V => 0..(first + i).saturating_sub(start).min(seen),
                };
                if given.is_some() {
                    let pair = |j: usize| if of_queries { (first + i, start + j) } else { (start + j, first + i) };
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
            if op.of == Of::V {
                s.drop_weights(key, batch, of_queries, [first, start], seen, t);
            }
            product([rows, seen, width], 1.0, [Matrix::rows(t, seen), Matrix::rows(&c[from..], cols_w)], y, width, more, By::This);
        });
        true
    };
    let block = |batch: usize, first: usize, y: &mut [f32]| {
        let mut more = false;
        if of_queries {
            more = part(batch, first, more, y);
        } else {
            (0..s.shared.parts()).for_each(|k| more |= part(s.shared.queries(batch, k), first, more, y));
        }
        if !more {
            y.fill(0.0);
        }
    };
    chunks(y, rows_n * width, |batch, y| {
        chunks(y, BLOCK * width, |b, y| block(batch, b * BLOCK, y));
    });
}
