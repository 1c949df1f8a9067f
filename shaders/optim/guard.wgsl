// guard — norm = sqrt(Σ g²),  factor = min(1, max_norm / (norm + 1e-6)),  and: are the loss and every g finite?
//   partials [count, 2]   totals [pieces, 2]   loss [1]   guard: halt, factor, norm, cause, scale, near, strict, trial, … (src/optim/guard.rs)
// One workgroup adds up the partials of a piece of the gradients into totals[piece]; after the last piece it adds up
// the totals and decides (join.wgsl is put before this file).                 Pascanu, Mikolov and Bengio 2013

const LOSS: u32 = 1u;
const GRADIENT: u32 = 2u;
// 2^60: from here on an update may overflow.
const FAR: f32 = 1152921504606846976.0;
// 2^-36 and 2^36, 2^-120.
const FEW: f32 = 1.4551915228366852e-11;
const MANY: f32 = 68719476736.0;
const SCALE: f32 = 7.52316384526264e-37;

@compute @workgroup_size(WG)
fn check(@builtin(local_invocation_index) lane: u32) {
    var mine = vec2(0.0, SMALL);
    for (var k = lane; k < p.count; k += WG) {
        mine = join(mine, vec2(partials[2u * k], partials[2u * k + 1u]));
    }
    var total = join_lanes(mine, lane);
    if (lane != 0u) {
        return;
    }
    totals[2u * p.piece] = total.x;
    totals[2u * p.piece + 1u] = total.y;
    if (p.piece + 1u < p.pieces) {
        return;
    }
    guard[7] = 0u;
    // The first bad step stays on record.
    if (guard[0] != 0u) {
        return;
    }
    for (var k = 0u; k < p.piece; k++) {
        total = join(total, vec2(totals[2u * k], totals[2u * k + 1u]));
    }
    let cause = select(select(0u, GRADIENT, total.y == BAD), LOSS, !finite(loss[0]));
    guard[3] = cause;
    if (cause != 0u) {
        guard[0] = max(step.step.x + 1u, 1u);
        return;
    }
    // norm = root · 2^(84·(class − 1)), which a float may be too small for.
    let root = sqrt(total.x);
    let clips = p.max_norm > 0.0;
    var norm = root;
    var factor = 1.0;
    var scale = 1.0;
    if (total.y == LARGE) {
        norm = root * UP;
        if (clips && p.max_norm * DOWN < root) {
            let ratio = p.max_norm / root;
            // The factor is ratio · 2^-84; below 2^-120 it comes in two parts.
            if (ratio >= FEW) {
                factor = ratio * DOWN;
            } else {
                scale = SCALE;
                factor = p.max_norm * MANY / root;
            }
        }
    } else {
        norm = root * select(1.0, DOWN, total.y == SMALL);
        factor = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), clips);
    }
    guard[1] = bitcast<u32>(factor);
    guard[2] = bitcast<u32>(norm);
    guard[4] = bitcast<u32>(scale);
    // What is clipped to less is less.
    let far = root >= select(FAR, FAR * DOWN, total.y == LARGE) && total.y != SMALL && !(clips && p.max_norm <= FAR);
    guard[7] = 1u + (u32(far) | guard[5] | guard[6]);
    // The update says so again.
    guard[5] = 0u;
}
