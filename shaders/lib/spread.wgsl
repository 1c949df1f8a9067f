// spread — mean and spread of a line whose squares, or whose sum, leave the range of f32: its elements are scaled by a power of
// two first. The invocation that calls it reads the whole line alone, without a barrier, because such lines are rare. Loops are short
// and few, because a software adapter may run their bodies once, with all lanes masked, even if no invocation calls it.
//   const CENTRE: 0 for the spread about 0
//!include lib/lines

// Statistics of x·scale: a number near the mean, the rest of the mean, and the root of the mean square deviation.
struct Spread {
    scale: f32,
    near: f32,
    rest: f32,
    root: f32,
}

// The power of two that brings x >= 0 to 1..4, between 2^-126 and 2^126.
fn power_for(x: f32) -> f32 {
    return bitcast<f32>((254u - clamp(bitcast<u32>(x) >> 23u, 1u, 253u)) << 23u);
}

// 1 / s for such a power, exactly.
fn inverse_power(s: f32) -> f32 {
    return bitcast<f32>(0x7f000000u - bitcast<u32>(s));
}

// 1 / √(a² + b²) for a, b >= 0, whose squares may leave the range.
fn inverse_root(a: f32, b: f32) -> f32 {
    let m = larger(a, b);
    let q = min(a, b) / m;
    return 1.0 / (m * sqrt(1.0 + q * q));
}

// Elements that are added up before they are added to the others: short chains of additions.
const BLOCK = 64u;

fn spread_of(t: Line) -> Spread {
    var most = zero_v();
    for (var i = 0u; i < t.len; i++) {
        most = larger_v(most, abs(x[t.first + i * p.inner]));
    }
    let scale = power_for(max_v(most));
    let len = f32(t.len * WIDE);
    var near = 0.0;
    if CENTRE == 1u {
        // Deviations from the first element. For equal numbers their mean is exact.
        let pivot = first_v(x[t.first]) * scale;
        var s = zero_v();
        for (var i = 0u; i < t.len; i++) {
            s += x[t.first + i * p.inner] * scale - pivot;
        }
        near = pivot + sum_v(s) / len;
    }
    var d = zero_v();
    var q = zero_v();
    for (var block = 0u; block < t.len; block += BLOCK) {
        var block_d = zero_v();
        var block_q = zero_v();
        for (var i = block; i < min(t.len, block + BLOCK); i++) {
            let v = x[t.first + i * p.inner] * scale - near;
            block_d += v;
            block_q += v * v;
        }
        d += block_d;
        q += block_q;
    }
    let rest = select(0.0, sum_v(d) / len, CENTRE == 1u);
    return Spread(scale, near, rest, sqrt(larger(sum_v(q) / len - rest * rest, 0.0)));
}
