// update — one step of an optimizer over one piece of the flat buffers, all groups of parameters at once
//   params [n]   grads [n]   guard [4]   the rule's states, [n] each
// Generated before this file: the rule's `update`; `State`, and of four elements `States`, `load`, `store` for the states that are
// kept; and `group_of`, the parameter group of four elements.
// Bound by memory: an invocation does four neighbours, each tensor by one load.
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
    let i = group_index(id, n) * WG + lane;
    if (i >= p.units) {
        return;
    }
    let group = group_of(p.first + i);
    let a = step.hyper[2u * group];
    let b = step.hyper[2u * group + 1u];
    let h = array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
    let w = params[i];
    let g = clip * grads[i];
    let s = load(i);
    var x = s.x;
    var y = s.y;
    var z = s.z;
    var last = s.w;
    params[i] = vec4(update(w.x, g.x, &x, h), update(w.y, g.y, &y, h), update(w.z, g.z, &z, h), update(w.w, g.w, &last, h));
    store(i, States(x, y, z, last));
}
