// join — sums of squares of numbers from the smallest float to the largest, or of some that are not finite
// A sum is (s, class, largest magnitude). Its value is s · 4^(84·(class − 1)), so that nothing overflows or underflows. In the class PLAIN,
// numbers are not scaled. In the class SMALL, numbers below 2^-44 are multiplied by 2^84; a sum of zeros has this class too. In the class
// LARGE, numbers from 2^44 on are multiplied by 2^-84. Multiplying by a power of two rounds nothing.
// After Blue 1978, "A portable Fortran program to find the Euclidean norm of a vector".
// The bits show whether a number is finite, because compilers may assume that floats are never NaN.

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

// a + b. The squares of a class are 2^168 times those of the class below, so a sum of a lower class is too small to count.
fn join(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
    let below = select(0.0, DOWN, abs(a.y - b.y) < 1.5);
    let level = a.y == b.y;
    let x = select(a.x * below * DOWN, a.x, level || a.y > b.y);
    let y = select(b.x * below * DOWN, b.x, level || b.y > a.y);
    return vec3(x + y, max(a.y, b.y), max(a.z, b.z));
}

// Joins the values of all lanes in a fixed tree. Lane 0 has the result.
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
