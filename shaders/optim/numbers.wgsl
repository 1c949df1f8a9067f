// copy — the two factors that clip gradients, then eight hyperparameters of each group from the group `own` on
//   guard (src/optim/guard.rs)   numbers [2 + 8·groups]
// A rule that is written with tensors reads them as a tensor. One invocation per number.
//!include lib/index

@compute @workgroup_size(WG)
fn copy(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if (i >= p.units) {
        return;
    }
    var at = select(4u, 1u, i == 0u);
    if (i >= 2u) {
        at = p.hyper + 8u * (step.row * p.groups + p.own) + i - 2u;
    }
    numbers[i] = bitcast<f32>(guard[at]);
}
