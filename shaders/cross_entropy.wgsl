// cross_entropy — y[r] = ln Σ_j e^x[r,j] − x[r, label[r]]
//   x [rows, k]   labels u32 [rows]   y [rows]
// grad_x — dx[r,j] = dy[r] · (softmax(x)[r,j] − (j = label[r]))
//   dy [rows]     dx [rows, k]
// The maximum m of a row is subtracted first, so that no power leaves the range of f32. Each row belongs to LANES
// invocations: one where k is small, a workgroup where it is large. The gradient computes the softmax again instead of
// having it stored. A label ≥ k (a caller's mistake, caught on the host) is taken as k − 1, so that no read is out of bounds.
//!include lib/index
//!include lib/lines
//!include lib/map

fn maximum_of(t: Line, local: u32) -> f32 {
    var m = x[t.first];
    for (var i = t.lane; i < t.len; i += LANES) {
        m = larger(m, x[t.first + i]);
    }
    return lanes_max(local, m);
}

fn powers_of(t: Line, local: u32, m: f32) -> f32 {
    var s = 0.0;
    for (var i = t.lane; i < t.len; i += LANES) {
        s += f_exp(x[t.first + i] - m);
    }
    return lanes_sum(local, s);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = line_of(group_index(id, n), local, 0u);
    let m = maximum_of(t, local);
    let s = powers_of(t, local, m);
    if t.real && t.lane == 0u {
        // m − x is exact where both are large and near each other; ln s is small.
        y[t.out] = (m - x[t.first + min(labels[t.out], p.n - 1u)]) + f_ln(s);
    }
}

@compute @workgroup_size(WG)
fn grad_x(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let t = line_of(group_index(id, n), local, 0u);
    let m = maximum_of(t, local);
    let s = powers_of(t, local, m);
    if t.real {
        let label = min(labels[t.out], p.n - 1u);
        let d = dy[t.out];
        for (var i = t.lane; i < t.len; i += LANES) {
            dx[t.first + i] = d * (f_exp(x[t.first + i] - m) / s - f32(i == label));
        }
    }
}
