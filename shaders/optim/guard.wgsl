// guard — norm = sqrt(Σ g²),  factor = min(1, max_norm / (norm + 1e-6)),  and: are the loss and every g finite?
//   grads [len]   partials [count]   totals [pieces]   loss [1]
//   guard [4]: halt, factor, norm, cause (see src/optim/guard.rs)
// `partial`: one workgroup adds up CHUNK elements in a fixed tree. A chunk with an element that is not finite gets -1,
// which no sum of squares is. `total`: one workgroup adds up the partials of a piece; of the last piece `finish` does,
// and adds the other totals.
// Finite is tested on the bits: compilers may take it that floats are never NaN.
//!include lib/index

const LOSS: u32 = 1u;
const GRADIENT: u32 = 2u;

var<workgroup> sums: array<f32, WG>;

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// a + b, or -1 if either is negative.
fn join(a: f32, b: f32) -> f32 {
    return select(a + b, -1.0, a < 0.0 || b < 0.0);
}

// All lanes' values joined, in lane 0.
fn join_all(mine: f32, lane: u32) -> f32 {
    sums[lane] = mine;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            sums[lane] = join(sums[lane], sums[lane + half]);
        }
        workgroupBarrier();
    }
    return sums[0];
}

@compute @workgroup_size(WG)
fn partial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunk = group_index(id, n);
    if (chunk >= p.units) {
        return;
    }
    let left = p.len - (p.first + chunk) * CHUNK;
    var sum = 0.0;
    for (var k = lane; k < min(left, CHUNK); k += WG) {
        let g = grads[chunk * CHUNK + k];
        sum = join(sum, select(-1.0, g * g, finite(g)));
    }
    sum = join_all(sum, lane);
    if (lane == 0u) {
        partials[chunk] = sum;
    }
}

// The partials of this piece, one in WG of them.
fn some_partials(lane: u32) -> f32 {
    var sum = 0.0;
    for (var k = lane; k < p.count; k += WG) {
        sum = join(sum, partials[k]);
    }
    return sum;
}

@compute @workgroup_size(WG)
fn total(@builtin(local_invocation_index) lane: u32) {
    let sum = join_all(some_partials(lane), lane);
    if (lane == 0u) {
        totals[p.piece] = sum;
    }
}

@compute @workgroup_size(WG)
fn finish(@builtin(local_invocation_index) lane: u32) {
    var sum = some_partials(lane);
    for (var k = lane; k < p.piece; k += WG) {
        sum = join(sum, totals[k]);
    }
    sum = join_all(sum, lane);
    // The first bad step stays on record.
    if (lane != 0u || guard[0] != 0u) {
        return;
    }
    let cause = select(select(0u, GRADIENT, sum < 0.0), LOSS, !finite(loss[0]));
    guard[3] = cause;
    if (cause != 0u) {
        guard[0] = max(step.step.x + 1u, 1u);
        return;
    }
    let norm = sqrt(sum);
    let factor = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), p.max_norm > 0.0);
    guard[1] = bitcast<u32>(factor);
    guard[2] = bitcast<u32>(norm);
}
