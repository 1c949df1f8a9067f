// max_pool2d — y[g,o,q] = max over a, b of x[g, o·S_H + a·D_H − P_H, q·S_W + b·D_W − P_W], of what lies inside of x
//   x [planes, h, w]   y [planes, oh, ow]   a in 0..K_H, b in 0..K_W: the taps of a window
// index — t[g,o,q] = a·K_W + b of the first such maximum, in the order of a, then b; of x with NaN, the first NaN
// pick — y[g,o,q] = x at tap t[g,o,q] of the window, 0 outside of x
// grad_x — dx[g,i,j] = map(Σ dy[g,o,q] of the windows whose tap t[g,o,q] is at i,j, added in the order of o, then q); `map` is the
// elementwise code that follows, generated. Without such code it is the identity
// One invocation for each element that is written; windows that overlap read from cache. grad_x owns an element of dx and looks
// at the indices of the few windows that reach it, so no sum needs atomics and no maximum is looked for again.
//!include lib/index
//!include lib/nan

struct At { plane: u32, row: u32, column: u32 }

fn at(g: u32, h: u32, w: u32) -> At {
    let r = g / w;
    return At(r / h, r % h, g % w);
}

// The taps of window o that lie inside of 0..n: from .x on, before .y. There is at least one.
fn inside(o: u32, n: u32, k: u32, s: u32, pad: u32, d: u32) -> vec2<u32> {
    let start = o * s;
    let first = select(0u, (pad - min(pad, start) + d - 1u) / d, start < pad);
    return vec2(first, min(k, (n + pad - start + d - 1u) / d));
}

// The windows of 0..out that reach from before element i to behind it: from .x on, before .y.
fn reaching(i: u32, out: u32, k: u32, s: u32, pad: u32, d: u32) -> vec2<u32> {
    let reach = (k - 1u) * d;
    let last = i + pad;
    let first = select(0u, (last - min(last, reach) + s - 1u) / s, last > reach);
    return vec2(first, min(out, last / s + 1u));
}

struct Best { value: f32, tap: u32 }

fn largest(o: At) -> Best {
    let rows = inside(o.row, p.h, K_H, S_H, P_H, D_H);
    let columns = inside(o.column, p.w, K_W, S_W, P_W, D_W);
    var line = (o.plane * p.h + o.row * S_H + rows.x * D_H - P_H) * p.w + o.column * S_W + columns.x * D_W - P_W;
    var best = Best(x[line], rows.x * K_W + columns.x);
    for (var a = rows.x; a < rows.y; a++) {
        var element = line;
        for (var b = columns.x; b < columns.y; b++) {
            let v = x[element];
            // Larger, or a NaN, of which the first stays.
            if (v > best.value || is_nan(v)) && !is_nan(best.value) {
                best = Best(v, a * K_W + b);
            }
            element += D_W;
        }
        line += D_H * p.w;
    }
    return best;
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i < p.units {
        y[i] = largest(at(p.first + i, p.oh, p.ow)).value;
    }
}

@compute @workgroup_size(WG)
fn index(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i < p.units {
        t[i] = largest(at(p.first + i, p.oh, p.ow)).tap;
    }
}

@compute @workgroup_size(WG)
fn pick(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i >= p.units {
        return;
    }
    let o = at(p.first + i, p.oh, p.ow);
    // Beside x, below 0 too, is far beyond its size.
    let row = o.row * S_H + t[i] / K_W * D_H - P_H;
    let column = o.column * S_W + t[i] % K_W * D_W - P_W;
    y[i] = 0.0;
    if row < p.h && column < p.w {
        y[i] = x[(o.plane * p.h + row) * p.w + column];
    }
}

@compute @workgroup_size(WG)
fn grad_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i >= p.units {
        return;
    }
    let e = at(p.first + i, p.h, p.w);
    let rows = reaching(e.row, p.oh, K_H, S_H, P_H, D_H);
    let columns = reaching(e.column, p.ow, K_W, S_W, P_W, D_W);
    var sum = 0.0;
    for (var o = rows.x; o < rows.y; o++) {
        let a = e.row + P_H - o * S_H;
        for (var q = columns.x; q < columns.y; q++) {
            let b = e.column + P_W - q * S_W;
            let window = (e.plane * p.oh + o) * p.ow + q;
            if a % D_H == 0u && b % D_W == 0u && t[window] == a / D_H * K_W + b / D_W {
                sum += dy[window];
            }
        }
    }
    dx[i] = map(i, sum);
}
