// cross_entropy — y[r] = ln Σ_j e^x[r,j] − x[r, label[r]]
//   x [rows, k]   labels u32 [rows]   y [rows]
// grad_x — dx[r,j] = dy[r] · (softmax(x)[r,j] − (j = label[r]))
//   dy [rows]     dx [rows, k]
// The maximum m of a row is subtracted first, and the label's power is left out of their sum (lib/powers): the loss of a confident
// row is ln(1 + that sum), and p − 1 is −that sum / s. The loss reads a row once. The gradient computes the softmax again instead of
// having it stored: its second reading of a row is from registers, or from cache.
// A row of the label IGNORED, if there is one, has the loss 0, and that or dy = 0 the gradient 0, whatever its logits. A label that is
// no class either (a caller's mistake, caught on the host where labels come from there) makes NaN.
//!include lib/powers

fn ignores(label: u32) -> bool { return IGNORES == 1u && label == IGNORED; }

fn label_of(t: Line) -> u32 {
    if t.real {
        return labels[t.out];
    }
    return NONE;
}

// x − m of the label. No read is out of bounds.
fn own_of(t: Line, label: u32, m: f32) -> f32 {
    let n = p.n * WIDE;
    let at = min(label, n - 1u);
    let nan = bitcast<f32>(0x7fc00000u | (p.units & 0u));
    return select(nan, pick_v(x[t.first + at / WIDE], at) - m, label < n);
}

fn forward(t: Line) {
    keep_x(t);
    let label = label_of(t);
    let both = powers(t, label);
    if writes(t) {
        let z = own_of(t, label, both.x);
        // −z is exact where both are large and near each other. Where the label's is the largest, e^z − 1 is 0; where not, the others'
        // sum is at least 1.
        y[t.out] = select(f_log1p(both.y + (f_exp(z) - 1.0)) - z, 0.0, ignores(label));
    }
}

fn grad_x(t: Line) {
    keep_x(t);
    let label = label_of(t);
    let both = powers(t, label);
    if t.real {
        let s = both.y + f_exp(own_of(t, label, both.x));
        let d = dy[t.out];
        let own = V(-d * (both.y / s));
        let silent = d == 0.0 || ignores(label);
        for (var k = 0u; k < share(t); k++) {
            if has(t, k) {
                let all = select(d * (exp_v(x_of(t, k) - both.x) / s), own, numbers(number(t, k)) == VU(label));
                dx[place(t, k)] = select(all, V(0.0), silent);
            }
        }
    }
}
