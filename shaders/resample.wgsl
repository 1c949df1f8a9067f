// resample — y[g,o,q] = Σ_i Σ_j H[o,i] · W[q,j] · x[g,i,j]
//   x [planes, h_n, w_n]   y [planes, h_out, w_out]   H [h_out, h_n], W [w_out, w_n]: sparse, and never stored
// transposed — the gradient: dx[g,i,j] = Σ_o Σ_q H[o,i] · W[q,j] · dy[g,o,q]
// A row of H (or W) has its non-zeros side by side, the first of one weight, the others of another: `taps` gives them, by whole
// numbers, as `Along::taps` does in Rust. So both directions use the same weights, and agree with the CPU about every index.
// One invocation for each element that is written; the gradient sums over the outputs that read its element, in order.
//!include lib/index

// An axis: x has n elements, y has out; what a, b and d mean is up to the rule.
struct Axis { n: u32, out: u32, a: u32, b: i32, d: u32 }

struct Taps { first: u32, end: u32, weight: f32, other: f32 }

// The elements of x that output o reads.
fn taps(rule: u32, t: Axis, o: u32) -> Taps {
    switch rule {
        // Windows: a stride, b padding, d kernel. The mean of what lies inside, or of the padding too (COUNTED).
        case WINDOW, COUNTED: {
            let pad = u32(t.b);
            let start = o * t.a;
            let first = max(start, pad) - pad;
            let end = min(start + t.d - min(start + t.d, pad), t.n);
            let count = select(end - first, min(start + t.d, t.n + 2u * pad) - start, rule == COUNTED);
            let w = 1.0 / f32(count);
            return Taps(first, end, w, w);
        }
        // Windows that cut x into `out` parts, which share an element where they do not fit.
        case BINS: {
            let first = o * t.n / t.out;
            let end = ((o + 1u) * t.n + t.out - 1u) / t.out;
            let w = 1.0 / f32(end - first);
            return Taps(first, end, w, w);
        }
        // The point (a·o + b) / d, not below 0: the element before it, or both neighbours in proportion (LINEAR).
        case NEAREST, LINEAR: {
            let at = u32(max(i32(t.a * o) + t.b, 0));
            let i = at / t.d;
            let part = f32(at % t.d) / f32(t.d);
            let two = rule == LINEAR && i + 1u < t.n;
            return Taps(i, select(i + 1u, i + 2u, two), select(1.0, 1.0 - part, two), part);
        }
        // FLIP: from the back.
        default: {
            return Taps(t.n - 1u - o, t.n - o, 1.0, 1.0);
        }
    }
}

// Outputs that may read element i, and all that do: from .x on, before .y.
fn readers(rule: u32, t: Axis, i: u32) -> vec2<u32> {
    switch rule {
        case WINDOW, COUNTED: {
            let last = i + u32(t.b);
            return vec2((last + t.a - min(last + t.a, t.d)) / t.a, min(last / t.a + 1u, t.out));
        }
        case BINS: {
            return vec2(i * t.out / t.n, ((i + 1u) * t.out + t.n - 1u) / t.n);
        }
        case NEAREST, LINEAR: {
            if t.a == 0u {
                return vec2(0u, t.out);
            }
            // Those whose point is above i - 1 (for NEAREST from i on) and below i + 1.
            let d = i32(t.d);
            let a = i32(t.a);
            let low = (i32(i) - select(0, 1, rule == LINEAR)) * d - t.b;
            let high = (i32(i) + 1) * d - t.b;
            return vec2(u32(max(low, 0) / a), u32(min((high + a - 1) / a, i32(t.out))));
        }
        default: {}
    }
    return vec2(t.n - 1u - i, t.n - i);
}

// The weight that taps give element i, 0 if it is none of them.
fn weight(t: Taps, i: u32) -> f32 {
    return select(select(0.0, t.other, i > t.first && i < t.end), t.weight, i == t.first);
}

fn rows() -> Axis { return Axis(p.h_n, p.h_out, p.h_a, i32(p.h_b), p.h_d); }
fn columns() -> Axis { return Axis(p.w_n, p.w_out, p.w_a, i32(p.w_b), p.w_d); }

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i >= p.units {
        return;
    }
    let r = (p.first + i) / p.w_out;
    let h = taps(RULE_H, rows(), r % p.h_out);
    let w = taps(RULE_W, columns(), (p.first + i) % p.w_out);
    var sum = 0.0;
    for (var k = h.first; k < h.end; k++) {
        let line = (r / p.h_out * p.h_n + k) * p.w_n;
        var s = 0.0;
        for (var j = w.first; j < w.end; j++) {
            s += select(w.other, w.weight, j == w.first) * x[line + j];
        }
        sum += select(h.other, h.weight, k == h.first) * s;
    }
    y[i] = sum;
}

@compute @workgroup_size(WG)
fn grad_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i >= p.units {
        return;
    }
    let column = (p.first + i) % p.w_n;
    let r = (p.first + i) / p.w_n;
    let h = readers(RULE_H, rows(), r % p.h_n);
    let w = readers(RULE_W, columns(), column);
    var sum = 0.0;
    for (var o = h.x; o < h.y; o++) {
        let line = (r / p.h_n * p.h_out + o) * p.w_out;
        var s = 0.0;
        for (var q = w.x; q < w.y; q++) {
            s += weight(taps(RULE_W, columns(), q), column) * dy[line + q];
        }
        sum += weight(taps(RULE_H, rows(), o), r % p.h_n) * s;
    }
    dx[i] = sum;
}
