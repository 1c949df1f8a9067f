// powers — m = max x, and Σ e^(x − m) of a line without its element number `without`. Softmax needs both. Subtracting the
// maximum keeps every power in range. Adding a power of 1 to the sum of the others would lose the digits of a small loss, so the
// caller adds the power of `without`. A line that is not in registers is read once: the sum refers to the maximum so far, and is scaled
// when the maximum grows (Milakov & Gimelshein 2018, arXiv:1805.02867). The maximum starts from the lowest number, so that −∞ − m is
// never −∞ + ∞.
//!include lib/lines
const LOWEST = -3.40282347e38;
// No element has this number.
const NONE = 0xffffffffu;

// The maximum of a line that is in registers.
fn kept_max(t: Line) -> f32 {
    var m = LOWEST;
    for (var k = 0u; k < KEEP; k++) {
        if has(t, k) {
            m = larger(m, max_v(x_of(t, k)));
        }
    }
    return lanes_max(m);
}

fn powers(t: Line, without: u32) -> vec2<f32> {
    var s = V(0.0);
    if KEEP > 0u {
        let m = kept_max(t);
        for (var k = 0u; k < KEEP; k++) {
            if has(t, k) {
                s += select(exp_v(x_of(t, k) - m), V(0.0), numbers(number(t, k)) == VU(without));
            }
        }
        return vec2(m, lanes_sum(sum_v(s)));
    }
    var m = LOWEST;
    for (var k = 0u; k < share(t); k++) {
        let v = x_of(t, k);
        let top = larger(m, max_v(v));
        s = s * f_exp(m - top) + select(exp_v(v - top), V(0.0), numbers(number(t, k)) == VU(without));
        m = top;
    }
    let top = lanes_max(m);
    return vec2(top, lanes_sum(sum_v(s) * f_exp(m - top)));
}
