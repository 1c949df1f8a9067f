// pick — y[r] = x[r, label[r]]
//   x [rows, k]   labels u32 [rows]   y [rows]
// One invocation per row. A label ≥ k (computed here: the host refuses its own) gives NaN.
// The gradient is elementwise: dx[r,j] = dy[r] · (j = label[r]).
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r = group_index(id, n) * WG + local;
    if r < p.units {
        let label = labels[r];
        let value = x[r * p.k + min(label, p.k - 1u)];
        // With the bits of a number that the compiler does not know, a NaN that it cannot take away.
        y[r] = select(bitcast<f32>(label | 0x7fc00000u), value, label < p.k);
    }
}
