// guard — norm = sqrt(Σ g²),  factor = min(1, max_norm / (norm + 1e-6)),  and: are the loss and every g finite?
//   partials [count]   totals [pieces]   loss [1]   guard [4]: halt, factor, norm, cause (see src/optim/guard.rs)
// One workgroup adds up the partials of a piece of the gradients into totals[piece]; after the last piece it adds up
// the totals and decides (join.wgsl is put before this file).                 Pascanu, Mikolov and Bengio 2013

const LOSS: u32 = 1u;
const GRADIENT: u32 = 2u;

@compute @workgroup_size(WG)
fn check(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var k = lane; k < p.count; k += WG) {
        sum = join(sum, partials[k]);
    }
    sum = join_lanes(sum, lane);
    if (lane != 0u) {
        return;
    }
    totals[p.piece] = sum;
    // The first bad step stays on record.
    if (p.piece + 1u < p.pieces || guard[0] != 0u) {
        return;
    }
    for (var k = 0u; k < p.piece; k++) {
        sum = join(sum, totals[k]);
    }
    let cause = select(select(0u, GRADIENT, sum < 0.0), LOSS, !finite(loss[0]));
    guard[3] = cause;
    if (cause != 0u) {
        guard[0] = max(step.step.x + 1u, 1u);
        return;
    }
    // Above 1.8e19 the sum overflows, and a step that is clipped does nothing.
    let norm = sqrt(sum);
    let factor = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), p.max_norm > 0.0);
    guard[1] = bitcast<u32>(factor);
    guard[2] = bitcast<u32>(norm);
}
