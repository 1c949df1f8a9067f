// reduce — y[o,c] = Σ_i x[o,i,c], that / divisor, max_i, or min_i
//   x [outer, n, inner]     y [outer, inner], or [outer, chunks, inner] in the first pass of a long reduction
// Each line is folded by its lanes, four running values each, whose results are then put together: an order fixed by the
// shapes alone, and short chains of additions, so rounding errors stay small. Long lines with few outputs are cut into chunks,
// whose results another pass reduces. MAX and MIN start from the line's first element (WGSL has no infinity) and keep NaN.
//!include lib/lines

const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;

// The minimum is the maximum of −x, negated.
fn load(i: u32) -> V {
    if KIND == MIN {
        return -x[i];
    }
    return x[i];
}

fn fold(a: V, b: V) -> V {
    if ADDS {
        return a + b;
    }
    return larger_v(a, b);
}

fn forward(t: Line) {
    var a = V();
    if !ADDS {
        a = load(t.first);
    }
    var b = a;
    var c = a;
    var d = a;
    // Four loads are under way at once.
    let step = t.lanes * p.inner;
    var i = t.lane;
    var at = t.first + i * p.inner;
    for (; i + 3u * t.lanes < t.len; i += 4u * t.lanes) {
        a = fold(a, load(at));
        b = fold(b, load(at + step));
        c = fold(c, load(at + 2u * step));
        d = fold(d, load(at + 3u * step));
        at += 4u * step;
    }
    for (; i < t.len; i += t.lanes) {
        a = fold(a, load(at));
        at += step;
    }
    let all = fold(fold(a, b), fold(c, d));
    var v = R();
    if ADDS {
        v = lanes_sum(sum_v(all));
    } else {
        v = lanes_max(max_v(all));
    }
    if writes(t) {
        y[t.out] = finished(v);
    }
}

fn finished(v: R) -> R {
    if KIND == MEAN {
        return v / p.divisor;
    }
    if KIND == MIN {
        return -v;
    }
    return v;
}

// KEEP lines, WG apart, each in one running value (lib/strip).
fn forward_strip(t: Line) {
    if !t.real {
        return;
    }
    // Beyond the last column it is read again, and not written.
    let most = p.inner - 1u - t.column;
    for (var k = 0u; k < KEEP; k++) {
        kept_x[k] = V();
        if !ADDS {
            kept_x[k] = load(t.first + min(k * WG, most));
        }
    }
    var at = t.first;
    for (var i = 0u; i < t.len; i++) {
        for (var k = 0u; k < KEEP; k++) {
            kept_x[k] = fold(kept_x[k], load(at + min(k * WG, most)));
        }
        at += p.inner;
    }
    for (var k = 0u; k < KEEP; k++) {
        if k * WG <= most {
            y[t.out + k * WG] = finished(kept_x[k]);
        }
    }
}
