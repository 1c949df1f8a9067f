// assign — state = value, after a good step. trial — stops the step if a state that is finite would become not finite.
//   state [n]   value [n], which the step computed   guard (src/optim/guard.rs)
// One invocation per element. refuse.wgsl is put before this file. WHAT is the flag of the guard for a number that would overflow.
// Between micro-batches there is no trial. Then `assign` does not write such a number and sets a flag, so that the check stops the step.
//!include lib/index

// Returns whether the new number is not finite, although the old number is.
fn breaks(i: u32) -> bool {
    return !finite_bits(bitcast<u32>(value[i])) && finite_bits(bitcast<u32>(state[i]));
}

@compute @workgroup_size(WG)
fn assign(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // If a loss or gradient was not finite, in this step or earlier, the state does not change.
    if i >= p.units || guard[0] != 0u {
        return;
    }
    if breaks(i) {
        guard[8u + WHAT] = 1u;
    } else {
        state[i] = value[i];
    }
}

@compute @workgroup_size(WG)
fn trial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // After a bad step the guard does not change.
    if i < p.units && guard[7] != 0u && guard[7] != LOOK && breaks(i) {
        refuse(WHAT);
    }
}
