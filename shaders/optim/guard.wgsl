// guard — norm = sqrt(Σ g²),  factor = min(1, max_norm / (norm + 1e-6)),  and: are the loss and every g finite?
//   partials [count, 3]   guard: halt, factor, norm, largest, scale, near, strict, trial, … (src/optim/guard.rs), then a total of each piece
// One workgroup adds up the partials of a piece of the gradients into the piece's total. After the last piece it adds up
// the totals and decides. join.wgsl and `step_loss` are put before this file.        Pascanu, Mikolov and Bengio 2013

const LOSS: u32 = 1u;
const GRADIENT: u32 = 2u;
const UPDATE: u32 = 3u;
// 2^60. With numbers of this size or more, an update may overflow.
const FAR: f32 = 1152921504606846976.0;
// 2^-36 and 2^36, 2^-120 and 2^120.
const FEW: f32 = 1.4551915228366852e-11;
const MANY: f32 = 68719476736.0;
const SCALE: f32 = 7.52316384526264e-37;
const BACK: f32 = 1329227995784915872903807060280344576.0;
// The index of the first total, of the sum of the weights of the step's micro-batches, and of their mean loss.
const TOTALS: u32 = 64u;
const WEIGHT_SUM: u32 = 14u;
const LOSS_SUM: u32 = 17u;
// The index of the flag that a micro-batch sets if it would make state of the model overflow.
const ASSIGNED: u32 = 12u;
const LOOK: u32 = 3u;

fn total_of(piece: u32) -> vec3<f32> {
    let at = TOTALS + 3u * piece;
    return vec3(bitcast<f32>(guard[at]), bitcast<f32>(guard[at + 1u]), bitcast<f32>(guard[at + 2u]));
}

@compute @workgroup_size(WG)
fn check(@builtin(local_invocation_index) lane: u32) {
    var mine = vec3(0.0, SMALL, 0.0);
    for (var k = lane; k < p.count; k += WG) {
        mine = join(mine, vec3(partials[3u * k], partials[3u * k + 1u], partials[3u * k + 2u]));
    }
    var total = join_lanes(mine, lane);
    if (lane != 0u) {
        return;
    }
    let at = TOTALS + 3u * p.piece;
    guard[at] = bitcast<u32>(total.x);
    guard[at + 1u] = bitcast<u32>(total.y);
    guard[at + 2u] = bitcast<u32>(total.z);
    if (p.piece + 1u < p.pieces) {
        return;
    }
    guard[7] = 0u;
    guard[WEIGHT_SUM] = 0u;
    // The guard keeps the number of the first bad step.
    if (guard[0] != 0u) {
        return;
    }
    for (var k = 0u; k < p.piece; k++) {
        total = join(total, total_of(k));
    }
    let cause = select(select(select(0u, UPDATE, guard[ASSIGNED] != 0u), GRADIENT, total.y == BAD), LOSS, !finite(step_loss()));
    guard[13] = cause;
    if (cause != 0u) {
        guard[0] = max(step.step.x + 1u, 1u);
        guard[7] = select(LOOK, 0u, cause == UPDATE);
        return;
    }
    // norm = root · 2^(84·(class − 1)), which may exceed the largest float.
    let root = sqrt(total.x);
    // This compares the bits, because a device may treat a limit below the smallest normal float as 0.
    let clips = bitcast<u32>(p.max_norm) != 0u;
    var norm = root;
    var factor = 1.0;
    var scale = 1.0;
    if (total.y == LARGE) {
        norm = root * UP;
        if (clips && p.max_norm * DOWN < root) {
            let ratio = p.max_norm / root;
            // The factor is ratio · 2^-84. A factor below 2^-120 is split into two factors.
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
        if (factor < SCALE) {
            scale = SCALE;
            factor = p.max_norm * BACK / (norm + 1e-6);
        }
    }
    guard[1] = bitcast<u32>(factor);
    guard[2] = bitcast<u32>(norm);
    guard[3] = bitcast<u32>(total.z);
    guard[4] = bitcast<u32>(scale);
    // Gradients that are clipped to FAR or less are not far.
    let far = root >= select(FAR, FAR * DOWN, total.y == LARGE) && total.y != SMALL && !(clips && p.max_norm <= FAR)
        && !(p.max_value > 0.0 && p.max_value <= FAR);
    guard[7] = 1u + (u32(far) | guard[5] | guard[6]);
    // The update sets this flag again if a number is near overflow.
    guard[5] = 0u;
}
