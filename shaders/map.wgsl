// map — y[i] = map(i), a generated expression of the inputs, which are broadcast to the shape of y.
//   e0, e1, … inputs   y output
// One invocation per element. Neighbours read and write neighbours; broadcast inputs are found by coordinates.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i < p.units {
        y[i] = map(i);
    }
}

// The same for four elements an invocation: `map4`, generated too.
@compute @workgroup_size(WG)
fn forward_fours(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i < p.units {
        y[i] = map4(i);
    }
}
