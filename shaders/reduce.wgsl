// reduce — y[o,c] = Σ_i x[o,i,c], that / divisor, max_i, or min_i
//   x [outer, n, inner]     y [outer, inner], or [outer, chunks, inner] in the first pass of a long reduction
// Each line is folded by LANES invocations, four running values each, then by a tree: an order fixed by the shapes
// alone, and short chains of additions, so rounding errors stay small. Long lines with few outputs are cut into chunks,
// one workgroup each, whose results another pass reduces. MAX and MIN start from the line's first element (WGSL has no
// infinity) and keep NaN.
//!include lib/index
//!include lib/lines

const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;

// The minimum is the maximum of −x, negated.
fn load(i: u32) -> f32 {
    if KIND == MIN {
        return -x[i];
    }
    return x[i];
}

fn fold(a: f32, b: f32) -> f32 {
    if ADDS {
        return a + b;
    }
    return larger(a, b);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        var a = 0.0;
        if !ADDS {
            a = load(t.first);
        }
        var b = a;
        var c = a;
        var d = a;
        // Four loads are under way at once.
        let step = LANES * p.inner;
        var i = t.lane;
        var at = t.first + i * p.inner;
        for (; i + 3u * LANES < t.len; i += 4u * LANES) {
            a = fold(a, load(at));
            b = fold(b, load(at + step));
            c = fold(c, load(at + 2u * step));
            d = fold(d, load(at + 3u * step));
            at += 4u * step;
        }
        for (; i < t.len; i += LANES) {
            a = fold(a, load(at));
            at += step;
        }
        var v = fold(fold(a, b), fold(c, d));
        if ADDS {
            v = lanes_sum(local, v);
        } else {
            v = lanes_max(local, v);
        }
        if KIND == MEAN {
            v /= p.divisor;
        }
        if t.real && t.lane == 0u {
            y[t.out] = select(v, -v, KIND == MIN);
        }
    }
}
