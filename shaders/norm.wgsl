// norm — y[o,i] = (x[o,i] − m) · r,  m = mean_i x[o,i] (0 without CENTRE),  r = 1 / √(mean_i (x[o,i] − m)² + eps)
//   grad_x: dx = r · (dy − mean dy − y · mean(dy · y)), the second term only with CENTRE
//   x, dy, y [outer, n]     (Ba, Kiros & Hinton 2016, eq. 3; without the mean Zhang & Sennrich 2019, eq. 4)
// The lanes of a line read it three times: for the mean, for the deviations from the mean, and to write. Deviations are accurate even if
// the mean is far from 0. The second and third reading are from registers or from cache. The gradient computes the statistics again,
// with its own two sums. lib/spread computes a line again if its sums overflow, or if its squares underflow and eps does not hide it.
//!include lib/spread

// A larger r means that squares may have been lost. With an eps of 10^-29 or more, no r is larger.
const MOST_R = 3e14;

// The mean, apart from its rounding error. It is exact if all elements are equal.
fn mean_of(t: Line, len: f32) -> f32 {
    if CENTRE == 0u {
        return 0.0;
    }
    let pivot = first_v(x[t.first]);
    var s = zero_v();
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            s += x_of(t, k) - pivot;
        }
    }
    return pivot + lanes_sum(sum_v(s)) / len;
}

// The rounding error of the mean, and r, from the mean of x − m and the mean of its square.
fn rest_and_r(rest: f32, square: f32) -> vec2<f32> {
    let c = select(0.0, rest, CENTRE == 1u);
    return vec2(c, 1.0 / sqrt(larger(square - c * c, 0.0) + p.eps));
}

fn forward(t: Line) {
    keep_x(t);
    let len = f32(p.n * WIDE);
    let m = mean_of(t, len);
    var d = V();
    var q = V();
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k) - m;
            d += v;
            q += v * v;
        }
    }
    let s = lanes_sums(vec4(sum_v(d), sum_v(q), 0.0, 0.0)) / len;
    let c = rest_and_r(s.x, s.y);
    if is_finite(s.y) && c.y < MOST_R {
        for (var k = 0u; k < share(t); k++) {
            if has(t, k) {
                y[place(t, k)] = ((x_of(t, k) - m) - c.x) * c.y;
            }
        }
    } else if t.real {
        let z = spread_of(t);
        let r = inverse_root(z.root, p.root_eps * z.scale);
        for (var i = t.lane; i < t.len; i += t.lanes) {
            let at = t.first + i * p.inner;
            y[at] = ((x[at] * z.scale - z.near) - z.rest) * r;
        }
    }
}

var<private> kept_dy: array<V, KEPT>;

fn keep_dy(t: Line) {
    for (var k = 0u; k < KEEP; k++) {
        if has(t, k) {
            kept_dy[k] = dy[place(t, k)];
        }
    }
}

fn dy_of(t: Line, k: u32) -> V {
    if KEEP > 0u {
        return kept_dy[k];
    }
    return dy[place(t, k)];
}

// y here is dx.
fn grad_x(t: Line) {
    keep_x(t);
    keep_dy(t);
    let len = f32(p.n * WIDE);
    let m = mean_of(t, len);
    var d = V();
    var q = V();
    var a = V();
    var b = V();
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let v = x_of(t, k) - m;
            let g = dy_of(t, k);
            d += v;
            q += v * v;
            a += g;
            b += g * v;
        }
    }
    let s = lanes_sums(vec4(sum_v(d), sum_v(q), sum_v(a), sum_v(b))) / len;
    let c = rest_and_r(s.x, s.y);
    if !(is_finite(s.y) && is_finite(s.z) && is_finite(s.w) && c.y < MOST_R) {
        if t.real {
            grad_of_spread(t, len);
        }
        return;
    }
    let slope = (s.w - s.z * c.x) * c.y;
    let shift = select(0.0, s.z, CENTRE == 1u);
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            y[place(t, k)] = c.y * ((dy_of(t, k) - shift) - ((x_of(t, k) - m) - c.x) * c.y * slope);
        }
    }
}

// The gradient of a line that needs lib/spread. dy is scaled too.
fn grad_of_spread(t: Line, len: f32) {
    let z = spread_of(t);
    let r = inverse_root(z.root, p.root_eps * z.scale);
    var most = abs(dy[t.first]);
    for (var i = 1u; i < t.len; i++) {
        most = larger_v(most, abs(dy[t.first + i * p.inner]));
    }
    let scale = power_for(max_v(most));
    var a = zero_v();
    var b = zero_v();
    for (var block = 0u; block < t.len; block += BLOCK) {
        var block_a = zero_v();
        var block_b = zero_v();
        for (var i = block; i < min(t.len, block + BLOCK); i++) {
            let at = t.first + i * p.inner;
            let g = dy[at] * scale;
            block_a += g;
            block_b += g * (((x[at] * z.scale - z.near) - z.rest) * r);
        }
        a += block_a;
        b += block_b;
    }
    let shift = select(0.0, sum_v(a) / len, CENTRE == 1u);
    let slope = sum_v(b) / len;
    let back = z.scale * inverse_power(scale);
    for (var i = t.lane; i < t.len; i += t.lanes) {
        let at = t.first + i * p.inner;
        let v = ((x[at] * z.scale - z.near) - z.rest) * r;
        y[at] = (((dy[at] * scale - shift) - v * slope) * r) * back;
    }
}
