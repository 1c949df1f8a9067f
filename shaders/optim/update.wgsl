// update — one step of an optimizer over one piece of the flat buffers, all groups of parameters at once
//   params [n]   grads [n]   guard (src/optim/guard.rs)   the rule's states, [n] each
// `apply` makes the step. `trial`, before it, does nothing in nearly all steps: where a number may overflow it computes the same, writes
// none of it, and stops the step if one would.
// Generated before this file: the rule's `update`; `State`, and of four elements `States`, `load`, `store`, `squares`, `compare` for the
// states that are kept; `group_of`, the parameter group of four elements; and refuse.wgsl.
// Bound by memory: an invocation does four neighbours, each tensor by one load.
//!include lib/index

// (2^60)²: no number is above 2^60 where the sum of squares is not above this.
const FAR: u32 = 0x7b800000u;
const WEIGHT: u32 = 0u;

// a + t·(b − a), exact at both ends, as PyTorch's has it.
fn lerp(a: f32, b: f32, t: f32) -> f32 {
    return select(a + t * (b - a), b - (b - a) * (1.0 - t), t >= 0.5);
}

fn magnitude(x: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(x) & vec4(0x7fffffffu);
}

// Whether one of four numbers was finite and is not any more.
fn overflows(was: vec4<f32>, is: vec4<f32>) -> bool {
    return any((magnitude(is) >= vec4(0x7f800000u)) & (magnitude(was) < vec4(0x7f800000u)));
}

struct New {
    w: vec4<f32>,
    states: States,
}

// Four weights and their states after the step.
fn stepped(i: u32, w: vec4<f32>, s: States) -> New {
    let group = group_of(p.first + i);
    let a = step.hyper[2u * group];
    let b = step.hyper[2u * group + 1u];
    let h = array<f32, 8>(a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w);
    // The second is 1, but where the first would be too small for a float.
    let g = bitcast<f32>(guard[1]) * (bitcast<f32>(guard[4]) * grads[i]);
    var x = s.x;
    var y = s.y;
    var z = s.z;
    var last = s.w;
    let weights = vec4(update(w.x, g.x, &x, h), update(w.y, g.y, &y, h), update(w.z, g.z, &z, h), update(w.w, g.w, &last, h));
    return New(weights, States(x, y, z, last));
}

@compute @workgroup_size(WG)
fn apply(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // A step that is not finite, now or earlier: the weights stay as they are.
    if (guard[0] != 0u) {
        return;
    }
    let i = group_index(id, n) * WG + lane;
    if (i >= p.units) {
        return;
    }
    let next = stepped(i, params[i], load(i));
    params[i] = next.w;
    store(i, next.states);
    // By the bits, which see infinity and NaN as well.
    if (bitcast<u32>(dot(next.w, next.w) + squares(next.states)) > FAR) {
        guard[5] = 1u;
    }
}

@compute @workgroup_size(WG)
fn trial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (guard[7] < 2u) {
        return;
    }
    let first = group_index(id, n) * (WG * EACH) + lane;
    for (var i = first; i < min(first + WG * EACH, p.units); i += WG) {
        let w = params[i];
        let s = load(i);
        let next = stepped(i, w, s);
        if (overflows(w, next.w)) {
            refuse(WEIGHT);
        }
        compare(s, next.states);
    }
}
