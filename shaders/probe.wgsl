// probe — measures the best speed of the device. The speed of the library's kernels is compared with it. It is no op of the library.
//   x [2], the numbers a and b; or [n]   y [n]
// multiply_add  y[i] = Σ_k c_k, where each of twelve c_k becomes a·c_k + b, four times a round. Each depends only on itself,
//               so that the device always has work. They fit into the vector registers of a CPU. The values come from a buffer and
//               go to a buffer, so no compiler can remove the work.
// copy          y[i] = x[i], four elements for each invocation. Neighbouring invocations copy neighbouring elements.
//!include lib/index

@compute @workgroup_size(WG)
fn multiply_add(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i >= p.units {
        return;
    }
    let a = vec4(x[0]);
    let b = vec4(x[1]);
    let start = f32(i % 64u);
    var c0 = vec4(start, start + 1.0, start + 2.0, start + 3.0);
    var c1 = c0 + 4.0;
    var c2 = c0 + 8.0;
    for (var round = 0u; round < p.rounds; round++) {
        c0 = fma(c0, a, b);
        c1 = fma(c1, a, b);
        c2 = fma(c2, a, b);
        c0 = fma(c0, a, b);
        c1 = fma(c1, a, b);
        c2 = fma(c2, a, b);
        c0 = fma(c0, a, b);
        c1 = fma(c1, a, b);
        c2 = fma(c2, a, b);
        c0 = fma(c0, a, b);
        c1 = fma(c1, a, b);
        c2 = fma(c2, a, b);
    }
    let c = c0 + c1 + c2;
    y[i] = (c.x + c.y) + (c.z + c.w);
}

@compute @workgroup_size(WG)
fn copy(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = group_index(group, groups) * WG * 4u + lane;
    for (var k = 0u; k < 4u; k++) {
        let i = first + k * WG;
        if i < p.units {
            y[i] = x[i];
        }
    }
}
