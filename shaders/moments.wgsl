// moments — y[c,j] = Σ_{b,i} (x[b,c,i,j] − mean)² / divisor, the mean being that of the same elements (forward);
//   Σ_{b,i} a[b,c,i,j] · (x[b,c,i,j] − mean[c,j]) (grad_scale)
//   x, a [b, c, n, inner]     mean, y [c, inner]
// Lines [b·c, n, inner] are reduced by LANES invocations each. Where a channel is more than one line (b > 1) or long lines
// are cut, the results go (with PARTS = 1) to a tensor [c, b, chunks, inner], which a second pass reduces: of a variance each
// part is the mean of its elements and Σ (x − mean)² (Chan, Golub & LeVeque 1979, eq. 2.1), so that nothing is lost where
// the mean is far from 0. A line is read twice for that, the second time from cache.
//!include lib/index
//!include lib/lines

// A result's number in the whole: the tensor that it is written to may be a window.
fn number(out: u32) -> u32 {
    return out + ((p.first * p.inner) & ~63u);
}

// The channel of a result, and its place among all of the channel: [c, inner].
fn kept(out: u32) -> u32 {
    let at = number(out);
    return at / p.inner / p.chunks % p.c * p.inner + at % p.inner;
}

// A result's place in a tensor [c, b, chunks, inner].
fn part_place(out: u32) -> u32 {
    let at = number(out);
    let row = at / p.inner / p.chunks;
    let chunk = at / p.inner % p.chunks;
    return ((row % p.c * p.b + row / p.c) * p.chunks + chunk) * p.inner + at % p.inner;
}

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
    return vec2(m + rest / len, max(q - rest * rest / len, 0.0));
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

// y, mean [c, b, chunks, inner]
@compute @workgroup_size(WG)
fn forward_chunks(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        let both = moments(local, t);
        if t.real && t.lane == 0u {
            let to = part_place(t.out);
            mean[to] = both.x;
            y[to] = both.y;
        }
    }
}

// Part k of a channel has as many elements as its chunk of a line.
fn part_len(k: u32) -> f32 {
    return f32(min(p.piece, p.whole - k % ((p.whole + p.piece - 1u) / p.piece) * p.piece));
}

// x, mean [c, parts, inner] are what the first pass wrote.
@compute @workgroup_size(WG)
fn forward_parts(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        // Means as deviations from the first one, lest their sum round.
        let near = mean[t.first];
        var len = 0.0;
        var s = 0.0;
        for (var i = t.lane; i < t.len; i += LANES) {
            let l = part_len(i);
            len += l;
            s += l * (mean[t.first + i * p.inner] - near);
        }
        len = max(lanes_sum(local, len), 1.0);
        let m = lanes_sum(local, s) / len;
        var q = 0.0;
        for (var i = t.lane; i < t.len; i += LANES) {
            let at = t.first + i * p.inner;
            let d = mean[at] - near - m;
            q += x[at] + part_len(i) * d * d;
        }
        q = lanes_sum(local, q);
        if t.real && t.lane == 0u {
            y[t.out] = q / p.divisor;
        }
    }
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
        if PARTS == 1u {
            y[part_place(t.out)] = s;
        } else {
            y[t.out] = s;
        }
    }
}

@compute @workgroup_size(WG)
fn grad_scale(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        products(local, t, mean[select(0u, kept(t.out), t.real)]);
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
