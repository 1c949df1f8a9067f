// reduce — y[o,c] = Σ_i x[o,i,c] / divisor, mean_i, max_i, or min_i
//   x [outer, n, inner]     y [outer, inner], or [outer, chunks, inner] in the first pass of a long reduction
// The lanes of a line fold it with four running values each. Then the values are joined. Only the shapes fix the order of additions.
// The chains of additions are short, so rounding errors stay small. Long lines with few outputs are cut into chunks, and another pass
// reduces the results of the chunks. These are means, or sums, each divided by a power of two so that no sum overflows. If a sum
// overflows, the invocation that writes the result reads the line again in smaller units, because the result may be finite. MAX and
// MIN start from the line's first element, because WGSL has no infinity. They return NaN if an element is NaN.
//!include lib/lines

const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;

// 2^-32. No sum of elements times 2^-32 overflows. The scaling is exact for all elements that matter to a sum that overflows.
const UNIT = 2.3283064365386963e-10;

// The element at i. The minimum is the maximum of −x, negated. For a mean, it is the deviation from the pivot.
fn load(i: u32, pivot: R) -> V {
    if KIND == MIN {
        return -x[i];
    }
    if KIND == MEAN {
        return x[i] - pivot;
    }
    return x[i];
}

fn fold(a: V, b: V) -> V {
    if ADDS {
        return a + b;
    }
    return larger_v(a, b);
}

// The number that a mean subtracts from the elements first. It is the first element, so that the mean of equal numbers is exact.
// It is 0 if two other elements are so different that most deviations would be larger than the elements, and round more.
fn pivot_of(first: u32, len: u32) -> R {
    if KIND != MEAN {
        return zero_r();
    }
    let last = max(len, 1u) - 1u;
    let a = first_v(x[first]);
    let b = first_v(x[first + last / 2u * p.inner]);
    let c = first_v(x[first + last * p.inner]);
    return select(zero_r(), a, finite_r(a) & alike(a, b) & alike(a, c));
}

fn forward(t: Line) {
    let pivot = pivot_of(t.first, t.len);
    var a = zero_v();
    if !ADDS {
        a = load(t.first, pivot);
    }
    var b = a;
    var c = a;
    var d = a;
    // Four loads run at the same time.
    let step = t.lanes * p.inner;
    var i = t.lane;
    var at = t.first + i * p.inner;
    for (; i + 3u * t.lanes < t.len; i += 4u * t.lanes) {
        a = fold(a, load(at, pivot));
        b = fold(b, load(at + step, pivot));
        c = fold(c, load(at + 2u * step, pivot));
        d = fold(d, load(at + 3u * step, pivot));
        at += 4u * step;
    }
    for (; i < t.len; i += t.lanes) {
        a = fold(a, load(at, pivot));
        at += step;
    }
    let all = fold(fold(a, b), fold(c, d));
    var v = zero_r();
    if ADDS {
        v = lanes_sum(sum_v(all));
    } else {
        v = lanes_max(max_v(all));
    }
    if writes(t) {
        y[t.out] = finished(v, t.first, t.len, pivot);
    }
}

// Returns the result for a line from its fold v.
fn finished(v: R, first: u32, len: u32, pivot: R) -> R {
    if ADDS && !all(finite_r(v)) {
        return in_units(first, len, pivot);
    }
    return result(v, len, pivot);
}

// Returns the result for a line if nothing overflowed.
fn result(v: R, len: u32, pivot: R) -> R {
    if KIND == MIN {
        return -v;
    }
    if KIND == MAX {
        return v;
    }
    if KIND == MEAN {
        return pivot + v / count(len);
    }
    return v / p.divisor;
}

fn count(len: u32) -> f32 { return f32(len * WIDE / WIDE_OUT); }

// Returns the sum or the mean of a line, computed in smaller units.
fn in_units(first: u32, len: u32, pivot: R) -> R {
    var s = zero_v();
    for (var block = 0u; block < len; block += 64u) {
        // Sums of blocks first: short chains of additions.
        var block_s = zero_v();
        for (var i = block; i < min(len, block + 64u); i++) {
            block_s += x[first + i * p.inner] * UNIT - pivot * UNIT;
        }
        s += block_s;
    }
    if KIND == MEAN {
        return (pivot * UNIT + sum_v(s) / count(len)) / UNIT;
    }
    return sum_v(s) / (p.divisor * UNIT);
}

// Returns the mean of a line of means of chunks. The last chunk may have fewer elements, so its means, from p.full on, have the weight
// p.tail, which is less than 1. p.count is the sum of all weights.
fn forward_of_parts(t: Line) {
    let pivot = pivot_of(t.first, t.len);
    var s = zero_r();
    for (var i = t.lane; i < t.len; i += t.lanes) {
        s += weight(i) * (x[t.first + i * p.inner] - pivot);
    }
    let v = lanes_sum(s);
    if !writes(t) {
        return;
    }
    if is_finite(v) {
        y[t.out] = pivot + v / p.count;
        return;
    }
    s = 0.0;
    for (var i = 0u; i < t.len; i++) {
        s += weight(i) * (x[t.first + i * p.inner] * UNIT - pivot * UNIT);
    }
    y[t.out] = (pivot * UNIT + s / p.count) / UNIT;
}

fn weight(k: u32) -> f32 { return select(p.tail, 1.0, k < p.full); }

var<private> pivots: array<V, KEPT>;

// KEEP lines, WG apart, each in one running value (lib/strip).
fn forward_strip(t: Line) {
    if !t.real {
        return;
    }
    // A lane beyond the last column reads the last column again and writes nothing.
    let most = p.inner - 1u - t.column;
    for (var k = 0u; k < KEEP; k++) {
        kept_x[k] = zero_v();
        if KIND == MEAN {
            pivots[k] = pivot_of(t.first + min(k * WG, most), t.len);
        }
        if !ADDS {
            kept_x[k] = load(t.first + min(k * WG, most), zero_r());
        }
    }
    var at = t.first;
    for (var i = 0u; i < t.len; i++) {
        for (var k = 0u; k < KEEP; k++) {
            kept_x[k] = fold(kept_x[k], load(at + min(k * WG, most), pivots[k]));
        }
        at += p.inner;
    }
    var again = false;
    for (var k = 0u; k < KEEP; k++) {
        if k * WG <= most {
            y[t.out + k * WG] = result(kept_x[k], t.len, pivots[k]);
            again |= ADDS && !all(finite_r(kept_x[k]));
        }
    }
    if !again {
        return;
    }
    // This is a separate loop. No compiler unrolls a loop that contains a loop, and then kept_x would not be in registers.
    for (var k = 0u; k * WG <= most && k < KEEP; k++) {
        if !all(finite_r(y[t.out + k * WG])) {
            let first = t.first + k * WG;
            y[t.out + k * WG] = in_units(first, t.len, pivot_of(first, t.len));
        }
    }
}
