// update — one step of an optimizer over one piece of the flat buffers, all groups of parameters at once
//   params [n]   grads [n]   guard (src/optim/guard.rs)   the rule's states, [n] each
// `update` makes the step. `trial` runs before it and does nothing in nearly all steps. If a number may overflow, `trial` computes the
// update without writing it, and stops the step if a number overflows. After a bad step it flags the parameters whose gradients are not
// finite.
// Generated before this file: `State`; for four elements, `States` and the functions `load`, `store`, `squares` and `compare` of the
// stored states; `group_of`, the group of four elements; `limited`, which clips four gradients; `ratio_of`, the ratio of four elements;
// `scaled`, a direction times the ratio; `turn` and `averaged` (average.wgsl). Put before this file: the rule's `direction` and `apply`, piece.wgsl and refuse.wgsl.
// Memory limits the speed, so an invocation updates four neighbouring elements, with one load for each tensor.
//!include lib/index

// (2^60)². If a sum of squares is at most this, no number is above 2^60.
const FAR: u32 = 0x7b800000u;
const WEIGHT: u32 = 0u;

fn magnitude(x: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(x) & vec4(0x7fffffffu);
}

// Returns whether one of four numbers was finite before and is not finite now.
fn overflows(was: vec4<f32>, is: vec4<f32>) -> bool {
    return any((magnitude(is) >= vec4(0x7f800000u)) & (magnitude(was) < vec4(0x7f800000u)));
}

struct New {
    w: vec4<f32>,
    states: States,
}

// A weight after the step, and its states.
fn renew(w: f32, g: f32, s: ptr<function, State>, h: array<f32, 8>, r: f32) -> f32 {
    let u = scaled(direction(w, g, s, h), r);
    return apply(w, u, s, h);
}

// Four weights and their states after the step.
fn stepped(i: u32, w: vec4<f32>, s: States, all: Same, r: f32) -> New {
    let h = all.h;
    let g = clipped(grads[i], all);
    var x = s.x;
    var y = s.y;
    var z = s.z;
    var last = s.w;
    let weights = vec4(renew(w.x, g.x, &x, h, r), renew(w.y, g.y, &y, h, r), renew(w.z, g.z, &z, h, r), renew(w.w, g.w, &last, h, r));
    return New(weights, States(x, y, z, last));
}

@compute @workgroup_size(WG)
fn update(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    // This comes before any return. Software drivers read a value that all invocations share only once, as long as all of them run.
    let four = p.first + min(i, p.units - 1u);
    let all = same(four);
    let r = ratio_of(four);
    let at = turn();
    // If this step or an earlier step was not finite, the weights do not change.
    if (guard[0] != 0u || i >= p.units) {
        return;
    }
    let next = stepped(i, params[i], load(i), all, r);
    let w = averaged(i, next.w, at);
    params[i] = w;
    store(i, next.states);
    // This compares the bits, so that infinity and NaN count as well.
    if (bitcast<u32>(dot(w, w) + squares(next.states)) > FAR) {
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
        if (guard[7] == LOOK) {
            if (any(magnitude(grads[i]) >= vec4(0x7f800000u))) {
                guard[p.flags + owner(p.first + i, p.segments, p.segment_count)] = 1u;
            }
            continue;
        }
        let w = params[i];
        let s = load(i);
        let next = stepped(i, w, s, same(p.first + i), ratio_of(p.first + i));
        if (overflows(w, next.w)) {
            refuse(WEIGHT);
        }
        compare(s, next.states);
    }
}
