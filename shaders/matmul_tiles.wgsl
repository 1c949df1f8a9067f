// matmul_tiles — the product of matmul.wgsl, by tiles in workgroup memory: for hardware, and rows and columns in tens at least
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
//
// One workgroup computes one tile of TILE_M × TILE_N outputs, see lib/tile. Tiles are small, with 4 × 4 outputs for each invocation, if
// there are few tiles. They are large, with 8 × 8 outputs, if there are enough tiles to keep all processors busy. A tile reads each
// element from memory once.
// An invocation fetches vectors of four neighbours in memory. It uses `four_a` and `four_b`, which are generated. They are one load if the
// rows of the matrix are multiples of four. The vectors of the next slab are fetched before this slab is multiplied, which hides the
// latency of memory. A compiler waits for a load at the end of a branch, so the fetch has no branch. Instead, it moves an index beyond an
// edge to the edge. Terms beyond the last term become 0 before they are stored in the slab. Rows and columns beyond the last one only
// change outputs that are not stored.
// Not yet timed on hardware.
//!include lib/index
//!include lib/product
//!include lib/tile

// The number of vectors in a slab, and the number that an invocation fetches.
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;

// Fetches vector number e of the slab whose terms start at q. It has four terms of a row, or four rows of a term. Vectors that are
// neighbours in memory have neighbouring numbers.
fn fetch_a(w: Work, q: u32, e: u32) -> vec4<f32> {
    if TA == 1u {
        return four_a(w.a + min(q + e / (TILE_M / 4u), w.end - 1u) * p.m, w.row + e % (TILE_M / 4u) * 4u, p.m - 1u);
    }
    return four_a(w.a + min(w.row + e / (SLAB / 4u), p.m - 1u) * p.k, q + e % (SLAB / 4u) * 4u, w.end - 1u);
}

fn fetch_b(w: Work, q: u32, e: u32) -> vec4<f32> {
    if TB == 1u {
        return four_b(w.b + min(w.column + e / (SLAB / 4u), p.n - 1u) * p.k, q + e % (SLAB / 4u) * 4u, w.end - 1u);
    }
    return four_b(w.b + min(q + e / (TILE_N / 4u), w.end - 1u) * p.n, w.column + e % (TILE_N / 4u) * 4u, p.n - 1u);
}

// Sets terms to 0 if the slab has only `left` terms.
fn cut_a(left: u32, e: u32, v: vec4<f32>) -> vec4<f32> {
    if TA == 1u {
        return select(vec4<f32>(0.0), v, e / (TILE_M / 4u) < left);
    }
    return select(vec4<f32>(0.0), v, vec4<u32>(0u, 1u, 2u, 3u) + e % (SLAB / 4u) * 4u < vec4<u32>(left));
}

fn cut_b(left: u32, e: u32, v: vec4<f32>) -> vec4<f32> {
    if TB == 0u {
        return select(vec4<f32>(0.0), v, e / (TILE_N / 4u) < left);
    }
    return select(vec4<f32>(0.0), v, vec4<u32>(0u, 1u, 2u, 3u) + e % (SLAB / 4u) * 4u < vec4<u32>(left));
}

// Stores vector number e in the place that `multiply` reads.
fn put_a(slab: u32, e: u32, v: vec4<f32>) {
    if TA == 1u {
        slab_a[slab * VECS_A + e] = v;
        return;
    }
    let row = e / (SLAB / 4u);
    let at = slab * VECS_A + e % (SLAB / 4u) * TILE_M + row / 4u;
    for (var t = 0u; t < 4u; t++) {
        slab_a[at + t * (TILE_M / 4u)][row % 4u] = v[t];
    }
}

fn put_b(slab: u32, e: u32, v: vec4<f32>) {
    if TB == 0u {
        slab_b[slab * VECS_B + e] = v;
        return;
    }
    let column = e / (SLAB / 4u);
    let at = slab * VECS_B + e % (SLAB / 4u) * TILE_N + column / 4u;
    for (var t = 0u; t < 4u; t++) {
        slab_b[at + t * (TILE_N / 4u)][column % 4u] = v[t];
    }
}

@compute @workgroup_size(WG)
fn forward_tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let w = work(unit, TILE_M, TILE_N);
    var sums = Sums();
    var next_a: array<vec4<f32>, FETCHES_A>;
    var next_b: array<vec4<f32>, FETCHES_B>;
    for (var f = 0u; f < FETCHES_A; f++) {
        next_a[f] = fetch_a(w, w.first, lane + f * WG);
    }
    for (var f = 0u; f < FETCHES_B; f++) {
        next_b[f] = fetch_b(w, w.first, lane + f * WG);
    }
    var slab = 0u;
    for (var q = w.first; q < w.end; q += SLAB) {
        let left = w.end - q;
        if left < SLAB {
            for (var f = 0u; f < FETCHES_A; f++) {
                next_a[f] = cut_a(left, lane + f * WG, next_a[f]);
            }
            for (var f = 0u; f < FETCHES_B; f++) {
                next_b[f] = cut_b(left, lane + f * WG, next_b[f]);
            }
        }
        for (var f = 0u; f < FETCHES_A; f++) {
            if VECS_A % WG == 0u || lane + f * WG < VECS_A {
                put_a(slab, lane + f * WG, next_a[f]);
            }
        }
        for (var f = 0u; f < FETCHES_B; f++) {
            if VECS_B % WG == 0u || lane + f * WG < VECS_B {
                put_b(slab, lane + f * WG, next_b[f]);
            }
        }
        workgroupBarrier();
        // After the last slab this fetch has no use.
        for (var f = 0u; f < FETCHES_A; f++) {
            next_a[f] = fetch_a(w, q + SLAB, lane + f * WG);
        }
        for (var f = 0u; f < FETCHES_B; f++) {
            next_b[f] = fetch_b(w, q + SLAB, lane + f * WG);
        }
        multiply(slab, lane, &sums);
        slab = 1u - slab;
    }
    for (var r = 0u; r < PER_M; r++) {
        let i = w.row + own_row(lane, r);
        if i < p.m {
            for (var v = 0u; v < VECS_N; v++) {
                let j = w.column + own_column(lane, v);
                store(w.y + i * p.n + j, p.n - min(j, p.n), sums[r * VECS_N + v]);
            }
        }
    }
}

// Stores four neighbouring outputs. `left` of them are in the matrix. All four are computed before the first is stored, so that the loads of
// an epilogue run at the same time.
fn store(e: u32, left: u32, v: vec4<f32>) {
    if left == 0u {
        return;
    }
    let at = e + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(left - 1u));
    let all = vec4<f32>(map(at.x, v.x), map(at.y, v.y), map(at.z, v.z), map(at.w, v.w));
    for (var t = 0u; t < 4u; t++) {
        if t < left {
            y[at[t]] = all[t];
        }
    }
}
