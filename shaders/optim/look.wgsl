// look — after a bad step, flags the parameters whose gradients are not finite
//   grads [n]   guard (src/optim/guard.rs)
// In nearly all steps it does nothing. Put before this file: refuse.wgsl and piece.wgsl.
//!include lib/index

@compute @workgroup_size(WG)
fn look(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    if (guard[7] != LOOK) {
        return;
    }
    let first = group_index(id, n) * (WG * EACH) + lane;
    for (var i = first; i < min(first + WG * EACH, p.units); i += WG) {
        if (any((bitcast<vec4<u32>>(grads[i]) & vec4(0x7fffffffu)) >= vec4(0x7f800000u))) {
            guard[p.flags + owner(p.first + i, p.segments, p.segment_count)] = 1u;
        }
    }
}
