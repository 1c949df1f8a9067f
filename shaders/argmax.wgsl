// argmax — y[o,c] = the smallest i with x[o,i,c] = max_i x[o,i,c]; of x with NaN, the first NaN
//   x [outer, n, inner]     y u32 [outer, inner]
// Each lane finds the first largest of its elements; the largest of those is put together, then the smallest place of it.
// argmin is argmax of −x.
//!include lib/lines

fn same(a: f32, b: f32) -> bool {
    return a == b || (is_nan(a) && is_nan(b));
}

fn forward(t: Line) {
    // The first element of the line is lane 0's, but any lane may start from it.
    var best = x[t.first] * SIGN;
    var at = 0u;
    for (var k = 0u; k < share(t); k++) {
        let v = x_of(t, k) * SIGN;
        // What is not larger does not change it; neither does a second NaN.
        if !same(larger(best, v), best) {
            best = v;
            at = number(t, k);
        }
    }
    let first = lanes_first(select(0xffffffffu, at, same(lanes_max(best), best)));
    if writes(t) {
        y[t.out] = first;
    }
}
