// assign — state = value, after a step that counts; trial — stops the step where that would not be finite, but is
//   state [n]   value [n], which the step computed   guard (src/optim/guard.rs)
// One invocation per element. refuse.wgsl is put before this file.
// Between micro-batches there is no trial: then `assign` leaves such a number out and says so to the check, which stops the step.
//!include lib/index

const ASSIGNED: u32 = 4u;

// Whether the number would become one that is not finite.
fn breaks(i: u32) -> bool {
    return !finite_bits(bitcast<u32>(value[i])) && finite_bits(bitcast<u32>(state[i]));
}

@compute @workgroup_size(WG)
fn assign(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // A loss or gradient that was not finite, now or earlier: the state stays as it is.
    if i >= p.units || guard[0] != 0u {
        return;
    }
    if breaks(i) {
        guard[8u + ASSIGNED] = 1u;
    } else {
        state[i] = value[i];
    }
}

@compute @workgroup_size(WG)
fn trial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // Nothing is added to what is known of a bad step.
    if i < p.units && guard[7] != 0u && guard[7] != LOOK && breaks(i) {
        refuse(ASSIGNED);
    }
}
