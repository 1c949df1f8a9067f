// squares — partials[chunk] = Σ g² over the CHUNK gradients of each chunk, or -1 where one of them is not finite
//   grads [len]   partials [chunks]
// Four gradients a load: a piece of the flat buffers is a multiple of that. One workgroup per chunk; its lanes stride over it, then a tree (join.wgsl, put before this file).
//!include lib/index

@compute @workgroup_size(WG)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunk = group_index(id, n);
    if (chunk >= p.units) {
        return;
    }
    let left = p.len - (p.first + chunk) * CHUNK;
    var sum = 0.0;
    for (var k = lane; k < min(left, CHUNK) / 4u; k += WG) {
        let g = grads[chunk * (CHUNK / 4u) + k];
        sum = join(sum, select(-1.0, dot(g, g), finite4(g)));
    }
    sum = join_lanes(sum, lane);
    if (lane == 0u) {
        partials[chunk] = sum;
    }
}
