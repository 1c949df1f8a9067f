// argmax — y[o,c] = the smallest i with x[o,i,c] = max_i x[o,i,c]; of x with NaN, the first NaN
//   x [outer, n, inner]     y u32 [outer, inner]
// Each line is walked by LANES invocations; a tree then puts their (value, index) pairs together. argmin is argmax of −x.
//!include lib/index
//!include lib/lines

var<workgroup> value: array<f32, WG>;
var<workgroup> index: array<u32, WG>;

// Whether the pair (b, j) comes before (a, i).
fn before(b: f32, j: u32, a: f32, i: u32) -> bool {
    let nan_a = is_nan(a);
    let nan_b = is_nan(b);
    let equal = (a == b) || (nan_a && nan_b);
    return select((b > a && !nan_a) || (nan_b && !nan_a), j < i, equal);
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        // The first element of the line belongs to lane 0, but any lane may start from it.
        var best = x[t.first] * SIGN;
        var at = 0u;
        for (var i = t.lane; i < t.len; i += LANES) {
            let v = x[t.first + i * p.inner] * SIGN;
            if before(v, i, best, at) {
                best = v;
                at = i;
            }
        }
        if LANES > 1u {
            workgroupBarrier();
            value[local] = best;
            index[local] = at;
            for (var step = LANES / 2u; step > 0u; step >>= 1u) {
                workgroupBarrier();
                if t.lane < step {
                    let other = local + step * COLUMNS;
                    if before(value[other], index[other], value[local], index[local]) {
                        value[local] = value[other];
                        index[local] = index[other];
                    }
                }
            }
            at = index[local];
        }
        if t.real && t.lane == 0u {
            y[t.out] = at;
        }
    }
}
