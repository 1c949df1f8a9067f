// moments — over the elements b, i of each channel and column, with their mean m (0 without CENTRE) and mean square deviation v:
//   GIVE 0  y[c,j] = v · n / (n − correction);   1  the root of that
//        2  y[.., c,j] = m/4, the rounding error of m/4, 4/√(v + eps), v: four tensors, one behind the other
//   grad_scale: y[c,j] = Σ_{b,i} a[b,c,i,j] · (x[b,c,i,j] − mean[c,j]);  OWN = 1: `mean` holds the four tensors of GIVE 2, and
//   the second factor is (x − m) / √(v + eps)
//   x, a [b, c, n, inner]     mean, y [c, inner], or four of these
// Lines [b·c, n, inner] are reduced. If long lines are cut, or a channel is more than one line (b > 1), the results are parts, which
// another pass reduces. A part has three numbers: a number near the mean of its elements, the rest of the mean, and the root of the mean
// square deviation (Chan, Golub & LeVeque 1979, eq. 2.1). So the result is accurate even if the mean is far from 0, and no number leaves
// the range of f32. A line is read twice, the second time from registers or cache. All numbers are divided by 4, so that differences do
// not overflow.
//!include lib/spread

const VARIANCE = 0u;
const STATISTICS = 2u;

// Returns the part of a line.
fn moments(t: Line) -> vec3<f32> {
    keep_x(t);
    let len = f32(max(t.len * WIDE, 1u));
    var m = 0.0;
    if CENTRE == 1u {
        // The mean of equal numbers is exact.
        let pivot = first_v(x[t.first]);
        var s = zero_v();
        for (var k = 0u; k < share(t); k++) {
            if has(t, k) {
                s += x_of(t, k) - pivot;
            }
        }
        m = pivot + lanes_sum(sum_v(s)) / len;
    }
    var q = zero_v();
    var d = zero_v();
    var size = zero_v();
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k) - m;
            q += v * v;
            d += v;
            if SMALL == 1u {
                size += abs(v);
            }
        }
    }
    let means = lanes_sums(vec4(sum_v(q), sum_v(d), sum_v(size), 0.0)) / len;
    // Sums that overflow, and squares that underflow where that matters.
    if (!is_finite(means.x) || (SMALL == 1u && means.x < 1e-29 && means.z > 0.0)) && writes(t) {
        let z = spread_of(t);
        return vec3(z.near, z.rest, z.root) * inverse_power(z.scale) * 0.25;
    }
    let rest = select(0.0, means.y, CENTRE == 1u);
    return vec3(m, rest, sqrt(larger(means.x - rest * rest, 0.0))) * 0.25;
}

// The place and the weight of part i in a line of parts. The parts are the chunks of the lines of a channel. The last chunk of a line may
// have fewer elements, and its weight is p.tail.
struct Part {
    at: u32,
    weight: f32,
}

fn part_of(first: u32, i: u32) -> Part {
    let line = i / p.parts;
    let chunk = i - line * p.parts;
    return Part(first + (line * p.c * p.parts + chunk) * p.within, select(1.0, p.tail, chunk + 1u == p.parts));
}

fn deviation(at: u32, near: vec2<f32>) -> f32 {
    return (x[at] - near.x) + (x_rest[at] - near.y);
}

// Computes from a line of parts the results that `moments` computes from a line.
fn of_parts(t: Line) -> vec3<f32> {
    // Means are added as deviations from the first mean, so that their sum rounds less.
    let line = t.column / p.within;
    let first = select(0u, line * (p.parts - 1u) * p.within + t.column, t.real);
    let near = vec2(x[first], x_rest[first]);
    var most = 0.0;
    for (var i = t.lane; i < t.len; i += t.lanes) {
        let at = part_of(first, i).at;
        most = larger(most, larger(abs(deviation(at, near)), x_root[at]));
    }
    let scale = power_for(lanes_max(most));
    var s = 0.0;
    for (var i = t.lane; i < t.len; i += t.lanes) {
        let one = part_of(first, i);
        s += one.weight * (deviation(one.at, near) * scale);
    }
    let shift = lanes_sum(s) / p.count;
    var q = 0.0;
    for (var i = t.lane; i < t.len; i += t.lanes) {
        let one = part_of(first, i);
        let d = deviation(one.at, near) * scale - shift;
        let root = x_root[one.at] * scale;
        q += one.weight * (root * root + d * d);
    }
    let root = sqrt(lanes_sum(q) / p.count) * inverse_power(scale);
    if CENTRE == 0u {
        return vec3(0.0, 0.0, root);
    }
    return vec3(near.x, near.y + shift * inverse_power(scale), root);
}

fn write_all(t: Line, z: vec3<f32>) {
    if !writes(t) {
        return;
    }
    if GIVE != STATISTICS {
        let root = z.z * p.scale;
        y[t.out] = select(root, root * root, GIVE == VARIANCE);
        return;
    }
    // p.none is 0, but compilers do not know this. So they cannot replace the rest by 0.
    let near = bitcast<f32>(bitcast<u32>(z.x + z.y) ^ p.none);
    let first = abs(z.x) >= abs(z.y);
    let at = t.out;
    y[at] = near;
    y[p.row + at] = (select(z.y, z.x, first) - near) + select(z.x, z.y, first);
    y[2u * p.row + at] = inverse_root(z.z, p.scale);
    y[3u * p.row + at] = (z.z * 4.0) * (z.z * 4.0);
}

fn write_part(t: Line, z: vec3<f32>) {
    if writes(t) {
        y[t.out] = z.x;
        y_rest[t.out] = z.y;
        y_root[t.out] = z.z;
    }
}

fn forward(t: Line) { write_all(t, moments(t)); }
fn forward_part(t: Line) { write_part(t, moments(t)); }
fn forward_of_parts(t: Line) { write_all(t, of_parts(t)); }

// The mean's place for a line: channel and column. A window of the whole begins at a multiple of 64 elements.
fn mean_place(t: Line) -> u32 {
    let at = t.out + window_of(p.first * p.inner, 1u);
    return select(0u, at / p.inner / p.chunks % p.c * p.inner + at % p.inner, t.real);
}

// The factor of a.
fn factor(v: V, m: vec3<f32>) -> V {
    if OWN == 1u {
        return ((v * 0.25 - m.x) - m.y) * m.z;
    }
    return v - m.x;
}

// Σ a·factor over a line, written.
fn products(t: Line, m: vec3<f32>) {
    // Two running values: short chains of additions, and loads that need not wait for each other.
    var s = zero_v();
    var u = zero_v();
    let step = t.lanes * p.inner;
    var i = t.lane;
    var at = t.first + i * p.inner;
    for (; i + t.lanes < t.len; i += 2u * t.lanes) {
        s += a[at] * factor(x[at], m);
        u += a[at + step] * factor(x[at + step], m);
        at += 2u * step;
    }
    if i < t.len {
        s += a[at] * factor(x[at], m);
    }
    let sum = lanes_sum(sum_v(s + u));
    if writes(t) {
        y[t.out] = sum;
    }
}

fn grad_scale(t: Line) { products(t, vec3(mean[mean_place(t)], 0.0, 1.0)); }
fn grad_scale_own(t: Line) {
    let at = mean_place(t);
    products(t, vec3(mean[at], mean[p.row + at], mean[2u * p.row + at]));
}
// The same without a mean.
fn grad_scale_plain(t: Line) { products(t, vec3(0.0, 0.0, 1.0)); }
