// concat — y[o, start + c, i] = x[o,c,i], one pass for each input
//   x [outer, n, inner]   y [outer, Σ n, inner]
// A pass copies its x to its own place in y: a row of x (p.x_row elements, the axis and what lies inside it) goes to
// p.start within a row of y (p.y_row). One invocation per element of x: neighbours read and write neighbours.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i < p.units {
        let g = p.first + i;
        y[g / p.x_row * p.y_row + p.start + g % p.x_row] = x[i];
    }
}
