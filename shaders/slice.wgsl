// slice — y[o,c,i] = x[o, start + c, i]
// pad   — y[o,c,i] = x[o, c − before, i], or 0 where x has no such element
//   x [outer, n, inner]   y [outer, n', inner]
// Along the axis and what lies inside it, a row of y (p.y_row elements) is a row of x (p.x_row) without its first p.skip
// elements and after p.zeros zeros. One invocation per element of y: neighbours read and write neighbours.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i >= p.units {
        return;
    }
    let g = p.first + i;
    let c = g % p.y_row + p.skip;
    if c >= p.zeros && c - p.zeros < p.x_row {
        y[i] = x[g / p.y_row * p.x_row + (c - p.zeros)];
    } else {
        y[i] = 0;
    }
}
