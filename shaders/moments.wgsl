// moments — y[c,j] = Σ_{b,i} (x[b,c,i,j] − mean)² / divisor, the mean being that of the same elements (forward);
//   Σ_{b,i} a[b,c,i,j] · (x[b,c,i,j] − mean[c,j]) (grad_scale)
//   x, a [b, c, n, inner]     mean, y [c, inner]
// Lines [b·c, n, inner] are reduced. Where long lines are cut or a channel is more than one line (b > 1), the results are
// parts, which further passes reduce: chunks to lines, then lines to channels. A part of a variance is the mean of its elements
// and Σ (x − mean)² (Chan, Golub & LeVeque 1979, eq. 2.1), so that nothing is lost where the mean is far from 0. A line is
// gone through twice for that, the second time from registers or cache.
//!include lib/lines

// The mean of a line, and Σ (x − mean)².
fn moments(t: Line) -> vec2<f32> {
    keep_x(t);
    var s = V();
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            s += x_of(t, k);
        }
    }
    let len = f32(max(t.len * WIDE, 1u));
    let m = lanes_sum(sum_v(s)) / len;
    var q = V();
    var d = V();
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k) - m;
            q += v * v;
            d += v;
        }
    }
    // The second one is what rounding left in the mean.
    let sums = lanes_sums(vec4(sum_v(q), sum_v(d), 0.0, 0.0));
    return vec2(m + sums.y / len, larger(sums.x - sums.y * sums.y / len, 0.0));
}

// How many elements part k stands for: chunks of lines of p.whole elements, the last one of which may have fewer.
fn part_len(k: u32) -> f32 {
    let chunks = (p.whole + p.piece - 1u) / p.piece;
    return f32(min(p.piece, p.whole - k % chunks * p.piece));
}

// The mean of a line of parts, and Σ (x − mean)².
fn of_parts(t: Line) -> vec2<f32> {
    // Means as deviations from the first one, lest their sum round.
    let near = x_mean[t.first];
    var len = 0.0;
    var s = 0.0;
    for (var i = t.lane; i < t.len; i += t.lanes) {
        let l = part_len(i);
        len += l;
        s += l * (x_mean[t.first + i * p.inner] - near);
    }
    len = max(lanes_sum(len), 1.0);
    let m = lanes_sum(s) / len;
    var q = 0.0;
    for (var i = t.lane; i < t.len; i += t.lanes) {
        let at = t.first + i * p.inner;
        let d = x_mean[at] - near - m;
        q += x[at] + part_len(i) * d * d;
    }
    return vec2(near + m, lanes_sum(q));
}

fn write_all(t: Line, both: vec2<f32>) {
    if writes(t) {
        y[t.out] = both.y / p.divisor;
    }
}

fn write_part(t: Line, both: vec2<f32>) {
    if writes(t) {
        y_mean[t.out] = both.x;
        y[t.out] = both.y;
    }
}

fn forward(t: Line) { write_all(t, moments(t)); }
fn forward_part(t: Line) { write_part(t, moments(t)); }
fn forward_of_parts(t: Line) { write_all(t, of_parts(t)); }
fn forward_part_of_parts(t: Line) { write_part(t, of_parts(t)); }

// The mean's place for a line: channel and column. A window of the whole begins at a multiple of 64 elements.
fn mean_place(t: Line) -> u32 {
    let at = t.out + window_of(p.first * p.inner, 1u);
    return select(0u, at / p.inner / p.chunks % p.c * p.inner + at % p.inner, t.real);
}

// Σ a·(x − m) over a line, written.
fn products(t: Line, m: f32) {
    // Two running values: short chains of additions, and loads that need not wait for each other.
    var s = V();
    var u = V();
    let step = t.lanes * p.inner;
    var i = t.lane;
    var at = t.first + i * p.inner;
    for (; i + t.lanes < t.len; i += 2u * t.lanes) {
        s += a[at] * (x[at] - m);
        u += a[at + step] * (x[at + step] - m);
        at += 2u * step;
    }
    if i < t.len {
        s += a[at] * (x[at] - m);
    }
    let sum = lanes_sum(sum_v(s + u));
    if writes(t) {
        y[t.out] = sum;
    }
}

fn grad_scale(t: Line) { products(t, mean[mean_place(t)]); }
// The same without a mean.
fn grad_scale_plain(t: Line) { products(t, 0.0); }
