// assign — state = value, after a step that counts; trial — stops the step where that would not be finite, but is
//   state [n]   value [n], which the step left in the flat gradients   guard (src/optim/guard.rs)
// One invocation per element. refuse.wgsl is put before this file.
//!include lib/index

const ASSIGNED: u32 = 4u;

@compute @workgroup_size(WG)
fn assign(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // A loss or gradient that was not finite, now or earlier: the state stays as it is.
    if i < p.units && guard[0] == 0u {
        state[i] = value[i];
    }
}

@compute @workgroup_size(WG)
fn trial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // Nothing is added to what is known of a bad step.
    if i < p.units && guard[7] != 0u && !finite_bits(bitcast<u32>(value[i])) && finite_bits(bitcast<u32>(state[i])) {
        refuse(ASSIGNED);
    }
}
