// assign — state = value, after a step that counts
//   state [n]   value [n], which the step left in the flat gradients   guard [4]
// One invocation per element.
//!include lib/index

@compute @workgroup_size(WG)
fn assign(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // A loss or gradient that was not finite, now or earlier: the state stays as it is.
    if i < p.units && guard[0] == 0u {
        state[i] = value[i];
    }
}
