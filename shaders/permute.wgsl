// permute — y[c_0, c_1, …] = x[coordinates reordered]
//   x, y   the same elements; RANK axes once neighbouring axes that stay neighbours are counted as one
//   p.d0 …   sizes of the axes of y, the last one first     p.s0 …   how far apart their elements are in x
// One invocation per element of y: neighbours write neighbours, and read elements s0 apart.
//!include lib/index

fn source_index(g: u32) -> u32 {
    var rest = g;
    var at = 0u;
    if RANK > 1u {
        at += rest % p.d0 * p.s0;
        rest /= p.d0;
    }
    if RANK > 2u {
        at += rest % p.d1 * p.s1;
        rest /= p.d1;
    }
    if RANK > 3u {
        at += rest % p.d2 * p.s2;
        rest /= p.d2;
    }
    if RANK > 4u {
        at += rest % p.d3 * p.s3;
        rest /= p.d3;
    }
    if RANK > 5u {
        at += rest % p.d4 * p.s4;
        rest /= p.d4;
    }
    return at + rest * p.outer;
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * WG + lane;
    if i < p.units {
        y[i] = x[source_index(p.first + i)];
    }
}
