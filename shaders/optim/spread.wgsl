// spread — mean ← keep·mean + add·|micro|²: the weighted mean of the squared norms of the gradients of a step's micro-batches
//   partials [count, 3]   guard (src/optim/guard.rs)
// It runs behind accumulate.wgsl, which sets `keep` and `add`, and behind squares.wgsl on the gradients of the micro-batch. The totals of
// the pieces lie where the check puts its own. Put before this file: join.wgsl.

const MOST: f32 = 3.4028234663852886e38;
// MOST times 2^-168.
const MOST_DOWN: f32 = 9.0949465e-13;
const TOTALS: u32 = 64u;
const KEEP: u32 = 15u;
const ADD: u32 = 16u;
const SPREAD: u32 = 18u;

// The value of a sum of squares, at most the largest float.
fn value_of(total: vec3<f32>) -> f32 {
    if (total.y == SMALL) {
        return total.x * DOWN * DOWN;
    }
    if (total.y == PLAIN) {
        return min(total.x, MOST);
    }
    return select(MOST, min(total.x, MOST_DOWN) * UP * UP, total.y == LARGE);
}

@compute @workgroup_size(WG)
fn spread(@builtin(local_invocation_index) lane: u32) {
    var mine = vec3(0.0, SMALL, 0.0);
    for (var k = lane; k < p.count; k += WG) {
        mine = join(mine, vec3(partials[3u * k], partials[3u * k + 1u], 0.0));
    }
    var total = join_lanes(mine, lane);
    if (lane != 0u) {
        return;
    }
    let at = TOTALS + 3u * p.piece;
    guard[at] = bitcast<u32>(total.x);
    guard[at + 1u] = bitcast<u32>(total.y);
    if (p.piece + 1u < p.pieces) {
        return;
    }
    for (var k = 0u; k < p.piece; k++) {
        let other = TOTALS + 3u * k;
        total = join(total, vec3(bitcast<f32>(guard[other]), bitcast<f32>(guard[other + 1u]), 0.0));
    }
    let keep = bitcast<f32>(guard[KEEP]);
    var mean = bitcast<f32>(guard[ADD]) * value_of(total);
    // Before the first micro-batch, the guard holds the mean of an earlier step.
    if (keep != 0.0) {
        mean += keep * bitcast<f32>(guard[SPREAD]);
    }
    guard[SPREAD] = bitcast<u32>(mean);
}
