// Tiles of products in workgroup memory. Kernels that multiply slab by slab share this code.
//   TILE_M, TILE_N      rows and columns of outputs that a workgroup computes       SLAB   terms between two barriers
//   PER_M, PER_N        those that an invocation owns, multiples of four
//
// A slab holds SLAB terms of all rows of a and of all columns of b, four rows (columns) in one vector, so that a load of
// workgroup memory serves four of them: (PER_M + PER_N)/4 loads serve PER_M · PER_N multiplications. The vectors of an
// invocation are a whole row of lanes apart: lanes that are neighbours read neighbouring vectors, and later write
// neighbouring outputs. There are two slabs: while one is multiplied the other is filled, so there is one barrier a slab.
// Source: the blocking by shared memory and registers of Volkov & Demmel 2008, "Benchmarking GPUs to tune dense linear algebra".

const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;

// Slab, term, vector.
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;

// Sums of an invocation: by row, then by vector of columns.
alias Sums = array<vec4<f32>, PER_M * VECS_N>;

// Row number r of the invocation's PER_M in its tile, and the first column of its vector number v.
fn own_row(lane: u32, r: u32) -> u32 {
    return (r / 4u * LANES_M + lane / LANES_N) * 4u + r % 4u;
}

fn own_column(lane: u32, v: u32) -> u32 {
    return (v * LANES_N + lane % LANES_N) * 4u;
}

// Adds the products of slab number `slab` (0 or 1).
fn multiply(slab: u32, lane: u32, sums: ptr<function, Sums>) {
    for (var q = slab * SLAB; q < (slab + 1u) * SLAB; q++) {
        var vb: array<vec4<f32>, VECS_N>;
        for (var j = 0u; j < VECS_N; j++) {
            vb[j] = slab_b[q * (TILE_N / 4u) + j * LANES_N + lane % LANES_N];
        }
        for (var i = 0u; i < VECS_M; i++) {
            let va = slab_a[q * (TILE_M / 4u) + i * LANES_M + lane / LANES_N];
            for (var j = 0u; j < VECS_N; j++) {
                let at = i * 4u * VECS_N + j;
                (*sums)[at] = fma(vec4<f32>(va.x), vb[j], (*sums)[at]);
                (*sums)[at + VECS_N] = fma(vec4<f32>(va.y), vb[j], (*sums)[at + VECS_N]);
                (*sums)[at + 2u * VECS_N] = fma(vec4<f32>(va.z), vb[j], (*sums)[at + 2u * VECS_N]);
                (*sums)[at + 3u * VECS_N] = fma(vec4<f32>(va.w), vb[j], (*sums)[at + 3u * VECS_N]);
            }
        }
    }
}
