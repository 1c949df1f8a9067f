// squares — partials[chunk] = Σ g² over the CHUNK gradients of each chunk: a sum, its class and the largest magnitude
//   grads [len]   partials [chunks, 3]                                                          (join.wgsl, put before this file)
// Each load reads four gradients, because the size of a piece is a multiple of four. One workgroup computes one chunk: its lanes stride
// over the chunk, and a tree adds their results. A lane adds plain squares and finds the largest bits. It adds again, with scaled
// squares, only if the largest bits show that squares overflowed or underflowed.
//!include lib/index

@compute @workgroup_size(WG)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let chunk = group_index(id, n);
    if (chunk >= p.units) {
        return;
    }
    let left = p.len - (p.first + chunk) * CHUNK;
    let end = min(left, CHUNK) / 4u;
    var sum = 0.0;
    var tops = vec4(0u);
    for (var k = lane; k < end; k += WG) {
        let g = grads[chunk * (CHUNK / 4u) + k];
        sum += dot(g, g);
        tops = max(tops, magnitude(g));
    }
    let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
    var size = PLAIN;
    if (top >= 0x7f800000u) {
        size = BAD;
    } else if (top < 0x29800000u || top >= 0x55800000u) {
        let small = top < 0x29800000u;
        let scale = select(DOWN, UP, small);
        size = select(LARGE, SMALL, small);
        sum = 0.0;
        if (top > 0u) {
            for (var k = lane; k < end; k += WG) {
                let g = scale * grads[chunk * (CHUNK / 4u) + k];
                sum += dot(g, g);
            }
        }
    }
    let total = join_lanes(vec3(sum, size, bitcast<f32>(top)), lane);
    if (lane == 0u) {
        partials[3u * chunk] = total.x;
        partials[3u * chunk + 1u] = total.y;
        partials[3u * chunk + 2u] = total.z;
    }
}
