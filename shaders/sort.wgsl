// sort — y[o,r,c] = i such that x[o,i,c] has the rank r in its line: the order of a stable sort
//   x [outer, n, inner]   y u32 [outer, n, inner]
// One invocation per element of x. It counts the elements that come before its own, n comparisons, and writes its number at that
// rank: ranks differ, so each element of y is written once. NaN is the largest number, as in PyTorch.
//!include lib/index
//!include lib/nan

// Numbers whose order is that of the floats, or the reverse order.
fn key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let ascending = select(select(bits | 0x80000000u, ~bits, bits > 0x80000000u), 0xffffffffu, is_nan(x));
    return select(ascending, ~ascending, DESCENDING == 1u);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, groups) * WG + local;
    if i < p.units {
        let own = i / p.inner % p.n;
        let first = i / (p.n * p.inner) * p.n * p.inner + i % p.inner;
        let mine = key(x[i]);
        var rank = 0u;
        for (var j = 0u; j < p.n; j++) {
            let other = key(x[first + j * p.inner]);
            rank += u32(other < mine || (other == mine && j < own));
        }
        y[first + rank * p.inner] = own;
    }
}
