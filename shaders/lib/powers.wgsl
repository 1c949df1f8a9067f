// powers — m = max x, and s = Σ e^(x − m), of a line: what softmax is made of. Subtracting the maximum keeps every power in
// range. A line that is not in registers is read once: s is kept for the maximum so far, and scaled when that grows (Milakov &
// Gimelshein 2018, arXiv:1805.02867). The maximum starts from the lowest number, so that −∞ − m is never −∞ + ∞.
//!include lib/lines
const LOWEST = -3.40282347e38;

fn powers(t: Line) -> vec2<f32> {
    var m = LOWEST;
    var s = V();
    if KEEP > 0u {
        for (var k = 0u; k < KEEP; k++) {
            if has(t, k) {
                m = larger(m, max_v(x_of(t, k)));
            }
        }
        m = lanes_max(m);
        for (var k = 0u; k < KEEP; k++) {
            if has(t, k) {
                s += exp_v(x_of(t, k) - m);
            }
        }
        return vec2(m, lanes_sum(sum_v(s)));
    }
    for (var k = 0u; k < share(t); k++) {
        let v = x_of(t, k);
        let top = larger(m, max_v(v));
        s = s * f_exp(m - top) + exp_v(v - top);
        m = top;
    }
    let top = lanes_max(m);
    return vec2(top, lanes_sum(sum_v(s) * f_exp(m - top)));
}
