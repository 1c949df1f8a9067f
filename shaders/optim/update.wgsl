// update — one step of an optimizer over one piece of the flat buffers, all groups of parameters at once
//   params [n]   grads [n]   guard [4]   the rule's states, [n] each
// Generated before this file: the rule's `update`; `State`, `load`, `store` for the states that are kept; and
// `group_of`, the parameter group of an element.
// Bound by memory: a workgroup does EACH blocks of WG neighbouring elements, so that every load is coalesced and an
// invocation has several in flight.
//!include lib/index

// a + t·(b − a), exact at both ends, as PyTorch's has it.
fn lerp(a: f32, b: f32, t: f32) -> f32 {
    return select(a + t * (b - a), b - (b - a) * (1.0 - t), t >= 0.5);
}

@compute @workgroup_size(WG)
fn apply(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // A loss or gradient that was not finite, now or earlier: the weights stay as they are.
    if (guard[0] != 0u) {
        return;
    }
    let clip = bitcast<f32>(guard[1]);
    let first = group_index(id, n) * (WG * EACH) + lane;
    for (var k = 0u; k < EACH; k++) {
        let i = first + k * WG;
        if (i >= p.units) {
            return;
        }
        let group = group_of(p.first + i);
        let a = step.hyper[2u * group];
        let b = step.hyper[2u * group + 1u];
        var s = load(i);
        params[i] = update(params[i], clip * grads[i], &s, array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w));
        store(i, s);
    }
}
