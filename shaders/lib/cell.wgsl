// cell — the arithmetic of one step of an LSTM or a GRU, for sample r and element j of the hidden size; the twin of
// src/ops/recurrent/cell.rs.
//   forward   x [n, t, GATES·h], b [GATES·h], y [n, t + 1, parts·h]
//   backward  states (y of forward), dy like it, y [n, t, 5·h] (di df dg do, or dn dr dz du; and what goes past the weights)
// p.time is the step's place in x and in the gradient, p.before and p.after those of its states. FORWARD, GATES: constants.
//!include lib/map

// u: the state's part of the gates, without b.
fn cell_forward(r: u32, j: u32, u: vec4<f32>) {
    let h = p.h;
    let x_at = (r * p.t + p.time) * GATES * h + j;
    let parts = GATES + 2u;
    let old = (r * (p.t + 1u) + p.before) * parts * h + j;
    let now = (r * (p.t + 1u) + p.after) * parts * h + j;
    if GATES == 4u {
        let i = f_sigmoid(x[x_at] + (u.x + b[j]));
        let f = f_sigmoid(x[x_at + h] + (u.y + b[j + h]));
        let g = f_tanh(x[x_at + 2u * h] + (u.z + b[j + 2u * h]));
        let o = f_sigmoid(x[x_at + 3u * h] + (u.w + b[j + 3u * h]));
        let c = f * y[old + h] + i * g;
        y[now] = o * f_tanh(c);
        y[now + h] = c;
        y[now + 2u * h] = i;
        y[now + 3u * h] = f;
        y[now + 4u * h] = g;
        y[now + 5u * h] = o;
    } else {
        let reset = f_sigmoid(x[x_at] + (u.x + b[j]));
        let z = f_sigmoid(x[x_at + h] + (u.y + b[j + h]));
        let un = u.z + b[j + 2u * h];
        let n = f_tanh(x[x_at + 2u * h] + reset * un);
        y[now] = (1.0 - z) * n + z * y[old];
        y[now + h] = reset;
        y[now + 2u * h] = z;
        y[now + 3u * h] = n;
        y[now + 4u * h] = un;
    }
}

// through_w: the part of the next step's gradient that comes through the weights.
fn cell_backward(r: u32, j: u32, through_w: f32) {
    let h = p.h;
    let parts = GATES + 2u;
    let old = (r * (p.t + 1u) + p.before) * parts * h + j;
    let now = (r * (p.t + 1u) + p.after) * parts * h + j;
    let out = (r * p.t + p.time) * 5u * h + j;
    var past_w = 0.0;
    if p.k > 0u {
        past_w = y[(r * p.t + p.next) * 5u * h + 4u * h + j];
    }
    let dh = dy[now] + through_w;
    if GATES == 4u {
        let c = f_tanh(states[now + h]);
        let i = states[now + 2u * h];
        let f = states[now + 3u * h];
        let g = states[now + 4u * h];
        let o = states[now + 5u * h];
        let dc = dy[now + h] + past_w + dh * o * (1.0 - c * c);
        y[out] = (dc * g + dy[now + 2u * h]) * i * (1.0 - i);
        y[out + h] = (dc * states[old + h] + dy[now + 3u * h]) * f * (1.0 - f);
        y[out + 2u * h] = (dc * i + dy[now + 4u * h]) * (1.0 - g * g);
        y[out + 3u * h] = (dh * c + dy[now + 5u * h]) * o * (1.0 - o);
        y[out + 4u * h] = dc * f;
    } else {
        let reset = states[now + h];
        let z = states[now + 2u * h];
        let n = states[now + 3u * h];
        let all = dh + past_w;
        let dn = (all * (1.0 - z) + dy[now + 3u * h]) * (1.0 - n * n);
        y[out] = dn;
        y[out + h] = (dn * states[now + 4u * h] + dy[now + h]) * reset * (1.0 - reset);
        y[out + 2u * h] = (all * (states[old] - n) + dy[now + 2u * h]) * z * (1.0 - z);
        y[out + 3u * h] = dn * reset + dy[now + 4u * h];
        y[out + 4u * h] = all * z;
    }
}
