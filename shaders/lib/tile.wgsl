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

// The factors of one term that an invocation multiplies: its rows of a and its columns of b.
struct Factors {
    a: array<vec4<f32>, VECS_M>,
    b: array<vec4<f32>, VECS_N>,
}

// Vector i of term q in a slab of a, from place `at`.
fn factor_a(at: u32, q: u32, i: u32) -> vec4<f32> { return slab_a[at + q * (TILE_M / 4u) + i * LANES_M]; }

// All vectors of term q in a slab of b.
fn factors_b(at: u32, q: u32) -> array<vec4<f32>, VECS_N> {
    var f: array<vec4<f32>, VECS_N>;
    for (var j = 0u; j < VECS_N; j++) {
        f[j] = slab_b[at + q * (TILE_N / 4u) + j * LANES_N];
    }
    return f;
}

// Adds the products of slab number `slab` (0 or 1). The factors of a term are loaded while the factors of the term before it are
// multiplied, which hides the latency of workgroup memory. All counts are constant and loops are short, so that compilers unroll the loops.
// A loop that is left would end the block of code, and a compiler may move the fetch of the next slab behind it, to the wait for it.
fn multiply(slab: u32, lane: u32, sums: ptr<function, Sums>) {
    let at = vec2<u32>(slab * SLAB * (TILE_M / 4u) + lane / LANES_N, slab * SLAB * (TILE_N / 4u) + lane % LANES_N);
    var now: Factors;
    for (var i = 0u; i < VECS_M; i++) {
        now.a[i] = factor_a(at.x, 0u, i);
    }
    now.b = factors_b(at.y, 0u);
    multiply_four(at, 0u, &now, sums);
    multiply_four(at, 4u, &now, sums);
    if SLAB == 16u {
        multiply_four(at, 8u, &now, sums);
        multiply_four(at, 12u, &now, sums);
    }
}

fn multiply_four(at: vec2<u32>, first: u32, now: ptr<function, Factors>, sums: ptr<function, Sums>) {
    for (var q = 1u; q <= 4u; q++) {
        // After the last term these loads have no use.
        let next = (first + q) % SLAB;
        let next_b = factors_b(at.y, next);
        for (var i = 0u; i < VECS_M; i++) {
            let va = (*now).a[i];
            // A single vector is loaded before the multiplication. One of several replaces its predecessor after it, because
            // registers are few.
            if VECS_M == 1u {
                (*now).a[i] = factor_a(at.x, next, i);
            }
            for (var j = 0u; j < VECS_N; j++) {
                let vb = (*now).b[j];
                let to = i * 4u * VECS_N + j;
                (*sums)[to] = fma(vec4<f32>(va.x), vb, (*sums)[to]);
                (*sums)[to + VECS_N] = fma(vec4<f32>(va.y), vb, (*sums)[to + VECS_N]);
                (*sums)[to + 2u * VECS_N] = fma(vec4<f32>(va.z), vb, (*sums)[to + 2u * VECS_N]);
                (*sums)[to + 3u * VECS_N] = fma(vec4<f32>(va.w), vb, (*sums)[to + 3u * VECS_N]);
            }
            if VECS_M > 1u {
                (*now).a[i] = factor_a(at.x, next, i);
            }
        }
        (*now).b = next_b;
    }
}
