// join — sums of squares of numbers from the smallest float to the largest, or of some that are not finite
// A sum is (s, class, largest magnitude): s · 4^(84·(class − 1)), so that nothing overflows and nothing is lost. PLAIN is what it says; numbers below 2^-44
// are taken times 2^84 (SMALL, and what has no number but 0), those from 2^44 on times 2^-84 (LARGE). Powers of two round nothing.
// After Blue 1978, "A portable Fortran program to find the Euclidean norm of a vector".
// Finite is tested on the bits: compilers may take it that floats are never NaN.

const SMALL: f32 = 0.0;
const PLAIN: f32 = 1.0;
const LARGE: f32 = 2.0;
const BAD: f32 = 3.0;
// 2^84 and 2^-84.
const UP: f32 = 19342813113834066795298816.0;
const DOWN: f32 = 5.169878828456423e-26;

var<workgroup> sums: array<vec3<f32>, WG>;

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

fn magnitude(x: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(x) & vec4(0x7fffffffu);
}

// a + b. A class is 2^168 times the one below: of two classes below, nothing is left.
fn join(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    let below = select(0.0, DOWN, abs(a.y - b.y) < 1.5);
    let same = a.y == b.y;
    let x = select(a.x * below * DOWN, a.x, same || a.y > b.y);
    let y = select(b.x * below * DOWN, b.x, same || b.y > a.y);
    return vec3(x + y, max(a.y, b.y), max(a.z, b.z));
}

// All lanes' values joined in a fixed tree; in lane 0.
fn join_lanes(mine: vec3<f32>, lane: u32) -> vec3<f32> {
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
