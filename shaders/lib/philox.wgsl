// philox — Philox 4x32-10: ten rounds over a counter of four words under a key of two
//   (m0, m1) = (0xD2511F53, 0xCD9E8D57), (w0, w1) = (0x9E3779B9, 0xBB67AE85)
//   round: c ← (hi(m1·c2) ^ c1 ^ k0, lo(m1·c2), hi(m0·c0) ^ c3 ^ k1, lo(m0·c0)), then k ← k + w
// Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". The twin of src/rng.rs: same
// names, same bits.

// The upper word of a·b. WGSL has no 64-bit product, so it is added up from 16-bit halves; no sum below overflows.
fn mulhi(a: u32, b: u32) -> u32 {
    let al = a & 0xffffu;
    let ah = a >> 16u;
    let bl = b & 0xffffu;
    let bh = b >> 16u;
    let mid = ah * bl + ((al * bl) >> 16u);
    return ah * bh + (mid >> 16u) + ((al * bh + (mid & 0xffffu)) >> 16u);
}

fn philox4(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round += 1u) {
        let h0 = mulhi(0xD2511F53u, c.x);
        let h1 = mulhi(0xCD9E8D57u, c.z);
        c = vec4<u32>(h1 ^ c.y ^ k.x, 0xCD9E8D57u * c.z, h0 ^ c.w ^ k.y, 0xD2511F53u * c.x);
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// Four neighbours of the element stream, 4·block .. 4·block + 3, each in [0, 1) with 24 bits.
// `seed` and `step` are 64-bit numbers as (low, high) words.
fn uniform01x4(seed: vec2<u32>, step: vec2<u32>, stream: u32, block: u32) -> vec4<f32> {
    return vec4<f32>(philox4(vec4<u32>(block, stream, step.x, step.y), seed) >> vec4<u32>(8u)) * 0x1p-24f;
}

// One element of the stream. (Not `uniform`: a function of that name would hide the address space.)
fn uniform01(seed: vec2<u32>, step: vec2<u32>, stream: u32, element: u32) -> f32 {
    return uniform01x4(seed, step, stream, element / 4u)[element % 4u];
}
