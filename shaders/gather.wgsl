// gather — y[o,i,c] = x[o, index[o,i,c], c]
//   x [outer, n, inner]   index u32 [outer, m, inner]   y [outer, m, inner]
// scatter_add — dx[o,k,c] = Σ_i dy[o,i,c] · (index[o,i,c] = k), the gradient
//   dy [outer, m, inner]   index u32 [outer, m, inner]   dx [outer, n, inner]
// One invocation per element that is written. The gradient reads all m indices of its line, in order: no atomics, and the same
// sum every time. An index ≥ n (computed here: the host refuses its own) gives NaN, and its gradient goes to no element.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, groups) * WG + local;
    if i < p.units {
        let k = index[i];
        let value = x[(i / (p.m * p.inner) * p.n + min(k, p.n - 1u)) * p.inner + i % p.inner];
        // With the bits of a number that the compiler does not know, a NaN that it cannot take away.
        y[i] = select(bitcast<f32>(k | 0x7fc00000u), value, k < p.n);
    }
}

@compute @workgroup_size(WG)
fn grad_x(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, groups) * WG + local;
    if i < p.units {
        let k = i / p.inner % p.n;
        let first = i / (p.n * p.inner) * p.m * p.inner + i % p.inner;
        var sum = 0.0;
        for (var j = 0u; j < p.m; j++) {
            let at = first + j * p.inner;
            if index[at] == k {
                sum += dy[at];
            }
        }
        dx[i] = sum;
    }
}
