// argmax — y[o,c] = the smallest i with x[o,i,c] = max_i x[o,i,c]; of x with NaN, the first NaN
//   x [outer, n, inner]     y u32 [outer, inner]
// Each lane finds the first largest of its elements. Then the lanes join their values: first the largest, then its smallest place.
// argmin is argmax of −x.
// forward_correct — y[r] = 1 if label[r] is the argmax of row r and that has no NaN, else 0
//   x [rows, k]     labels u32 [rows]     y [rows]
//!include lib/lines

fn same(a: f32, b: f32) -> bool {
    return a == b || (is_nan(a) && is_nan(b));
}

fn largest(t: Line) -> u32 {
    // The first element of the line is lane 0's, but any lane may start from it.
    var best = x[t.first] * SIGN;
    var at = 0u;
    for (var k = 0u; k < share(t); k++) {
        let v = x_of(t, k) * SIGN;
        // A number that is not larger does not change `best`. A second NaN does not either.
        if !same(larger(best, v), best) {
            best = v;
            at = number(t, k);
        }
    }
    return lanes_first(select(0xffffffffu, at, same(lanes_max(best), best)));
}

fn forward(t: Line) {
    let at = largest(t);
    if writes(t) {
        y[t.out] = at;
    }
}

fn forward_correct(t: Line) {
    let at = largest(t);
    if writes(t) {
        // In a row with NaN, the largest is a NaN.
        y[t.out] = f32(at == labels[t.out] && !is_nan(x[t.first + at]));
    }
}
