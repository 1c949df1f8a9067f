// cross_entropy — y[r] = ln Σ_j e^x[r,j] − x[r, label[r]]
//   x [rows, k]   labels u32 [rows]   y [rows]
// grad_x — dx[r,j] = dy[r] · (softmax(x)[r,j] − (j = label[r]))
//   dy [rows]     dx [rows, k]
// The maximum m of a row is subtracted first (lib/powers). The loss reads a row once. The gradient computes the softmax again
// instead of having it stored: its second reading of a row is from registers, or from cache. A label ≥ k (a caller's mistake, caught
// on the host) is taken as k − 1, so that no read is out of bounds.
//!include lib/powers

fn label_of(t: Line) -> u32 {
    return min(labels[t.out], p.n * WIDE - 1u);
}

fn forward(t: Line) {
    keep_x(t);
    let both = powers(t);
    if writes(t) {
        let label = label_of(t);
        // m − x is exact where both are large and near each other; ln s is small.
        y[t.out] = (both.x - pick_v(x[t.first + label / WIDE], label)) + f_ln(both.y);
    }
}

fn grad_x(t: Line) {
    keep_x(t);
    let both = powers(t);
    if t.real {
        let label = VU(label_of(t));
        let d = dy[t.out];
        for (var k = 0u; k < share(t); k++) {
            if has(t, k) {
                let hit = select(V(), V(1.0), numbers(number(t, k)) == label);
                dx[place(t, k)] = d * (exp_v(x_of(t, k) - both.x) / both.y - hit);
            }
        }
    }
}
