// moments — y[c,j] = Σ_{b,i} (x[b,c,i,j] − mean)² / divisor, the mean being that of the same elements (forward);
//   Σ_{b,i} a[b,c,i,j] · (x[b,c,i,j] − mean[c,j]) (grad_scale)
//   x, a [b, c, n, inner]     mean, y [c, inner]
// Lines [b·c, n, inner] are reduced by LANES invocations each. Where long lines are cut or a channel is more than one line
// (b > 1), the results are parts, which further passes reduce: chunks to lines, then lines to channels. A part of a
// variance is the mean of its elements and Σ (x − mean)² (Chan, Golub & LeVeque 1979, eq. 2.1), so that nothing is lost
// where the mean is far from 0. A line is read twice for that, the second time from cache.
//!include lib/index
//!include lib/lines

// The mean of a line, and Σ (x − mean)².
fn moments(local: u32, t: Line) -> vec2<f32> {
    var s = 0.0;
    for (var i = t.lane; i < t.len; i += LANES) {
        s += x[t.first + i * p.inner];
    }
    let len = f32(max(t.len, 1u));
    let m = lanes_sum(local, s) / len;
    var q = 0.0;
    var rest = 0.0;
    for (var i = t.lane; i < t.len; i += LANES) {
        let d = x[t.first + i * p.inner] - m;
        q += d * d;
        rest += d;
    }
    q = lanes_sum(local, q);
    // What rounding left in the mean.
    rest = lanes_sum(local, rest);
    return vec2(m + rest / len, larger(q - rest * rest / len, 0.0));
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let both = moments(local, t);
        if t.real && t.lane == 0u {
            y[t.out] = both.y / p.divisor;
        }
    }
}

@compute @workgroup_size(WG)
fn forward_part(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let both = moments(local, t);
        if t.real && t.lane == 0u {
            y_mean[t.out] = both.x;
            y[t.out] = both.y;
        }
    }
}

// How many elements part k stands for: chunks of lines of p.whole elements, the last one of which may have fewer.
fn part_len(k: u32) -> f32 {
    let chunks = (p.whole + p.piece - 1u) / p.piece;
    return f32(min(p.piece, p.whole - k % chunks * p.piece));
}

// The mean of a line of parts, and Σ (x − mean)².
fn of_parts(local: u32, t: Line) -> vec2<f32> {
    // Means as deviations from the first one, lest their sum round.
    let near = x_mean[t.first];
    var len = 0.0;
    var s = 0.0;
    for (var i = t.lane; i < t.len; i += LANES) {
        let l = part_len(i);
        len += l;
        s += l * (x_mean[t.first + i * p.inner] - near);
    }
    len = max(lanes_sum(local, len), 1.0);
    let m = lanes_sum(local, s) / len;
    var q = 0.0;
    for (var i = t.lane; i < t.len; i += LANES) {
        let at = t.first + i * p.inner;
        let d = x_mean[at] - near - m;
        q += x[at] + part_len(i) * d * d;
    }
    return vec2(near + m, lanes_sum(local, q));
}

@compute @workgroup_size(WG)
fn forward_of_parts(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let both = of_parts(local, t);
        if t.real && t.lane == 0u {
            y[t.out] = both.y / p.divisor;
        }
    }
}

@compute @workgroup_size(WG)
fn forward_part_of_parts(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let both = of_parts(local, t);
        if t.real && t.lane == 0u {
            y_mean[t.out] = both.x;
            y[t.out] = both.y;
        }
    }
}

// The mean's place for a line: channel and column. A window of the whole begins at a multiple of 64 elements.
fn mean_place(t: Line) -> u32 {
    let at = t.out + ((p.first * p.inner) & ~63u);
    return select(0u, at / p.inner / p.chunks % p.c * p.inner + at % p.inner, t.real);
}

// Σ a·(x − m) over a line, written.
fn products(local: u32, t: Line, m: f32) {
    // Two running values: short chains of additions, and loads that need not wait for each other.
    var s = 0.0;
    var u = 0.0;
    let step = LANES * p.inner;
    var i = t.lane;
    var at = t.first + i * p.inner;
    for (; i + LANES < t.len; i += 2u * LANES) {
        s += a[at] * (x[at] - m);
        u += a[at + step] * (x[at + step] - m);
        at += 2u * step;
    }
    if i < t.len {
        s += a[at] * (x[at] - m);
    }
    s = lanes_sum(local, s + u);
    if t.real && t.lane == 0u {
        y[t.out] = s;
    }
}

@compute @workgroup_size(WG)
fn grad_scale(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        products(local, t, mean[mean_place(t)]);
    }
}

// The same without a mean.
@compute @workgroup_size(WG)
fn grad_scale_plain(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        products(local, line_of(group, local, round), 0.0);
    }
}
