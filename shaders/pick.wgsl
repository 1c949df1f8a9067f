// pick — y[r] = x[r, label[r]]
//   x [rows, k]   labels u32 [rows]   y [rows]
// One invocation per row. A label ≥ k (a caller's mistake, caught on the host) is taken as k − 1, so that no read is out of
// bounds. The gradient is elementwise: dx[r,j] = dy[r] · (j = label[r]).
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let r = group_index(id, n) * WG + local;
    if r < p.units {
        y[r] = x[r * p.k + min(labels[r], p.k - 1u)];
    }
}
