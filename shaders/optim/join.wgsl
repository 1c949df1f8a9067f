// join — sums of squares of which some elements may not be finite: the sum, or -1, which no sum of squares is
// Finite is tested on the bits: compilers may take it that floats are never NaN.

var<workgroup> sums: array<f32, WG>;

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

fn finite4(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4(0x7f800000u)) != vec4(0x7f800000u));
}

// a + b, or -1 if either is negative.
fn join(a: f32, b: f32) -> f32 {
    return select(a + b, -1.0, a < 0.0 || b < 0.0);
}

// All lanes' values joined in a fixed tree; in lane 0.
fn join_lanes(mine: f32, lane: u32) -> f32 {
    sums[lane] = mine;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            sums[lane] = join(sums[lane], sums[lane + half]);
        }
        workgroupBarrier();
    }
    return sums[0];
}
