// softmax — y[o,i,c] = e^(x[o,i,c] − m) / s,  s = Σ_i e^(x[o,i,c] − m),  m = max_i x[o,i,c];  or its logarithm, x − m − ln s
//   x, y [outer, n, inner]
// Each line is read by its lanes for m and s (lib/powers), and again to write: from registers, or from cache.
//!include lib/powers

fn forward(t: Line) {
    keep_x(t);
    let both = powers(t);
    let log_s = f_ln(both.y);
    for (var k = 0u; k < share(t); k++) {
        if has(t, k) {
            let z = x_of(t, k) - both.x;
            if LOG == 1u {
                y[place(t, k)] = z - log_s;
            } else {
                y[place(t, k)] = exp_v(z) / both.y;
            }
        }
    }
}
