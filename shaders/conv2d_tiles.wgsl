// conv2d_tiles — the sums of conv2d.wgsl, by tiles in workgroup memory: for hardware, and groups of more than a few channels
//
// All three are products of matrices that are made while they are read: see lib/conv. Tiles as in matmul_tiles: one workgroup computes
// TILE_M × TILE_N results of one group (and one phase or part), see lib/tile. Tiles are large, with 8 × 8 results for each invocation,
// if there are enough tiles to keep all processors busy. An invocation fetches vectors of four columns. The columns are the same in all
// slabs, so it computes their digits once. A few lanes compute the digits of the terms while a slab is multiplied, and share them in
// workgroup memory. So the loop that all lanes run has no division. The next slab is fetched before this slab is multiplied, which
// hides the latency of memory.
//
// dw has few elements, and each is a sum over all pixels of all images. The sum is cut into `parts` shares. Each share has its own
// results in scratch, and sum_parts adds them in order. The number of shares depends only on the sizes.
// Source: Chetlur et al. 2014, "cuDNN: Efficient primitives for deep learning", compute a convolution as a product of matrices made on
// the fly. Not yet timed on hardware.
//!include lib/index
//!include lib/conv
//!include lib/tile

const VECS_A = TILE_M / 4u;
const VECS_B = TILE_N / 4u;

// The number of vectors that an invocation fetches for a slab. All vectors of b are of the same four columns.
const FETCHES_A = (SLAB * VECS_A + WG - 1u) / WG;
const FETCHES_B = (SLAB * VECS_B + WG - 1u) / WG;

// The places of the terms of the slab that is fetched, and of the slab after it.
var<workgroup> terms: array<vec4<u32>, 2u * SLAB>;

// The vectors that an invocation fetches: four rows of one term of a, and four columns of one term of b. `inside` says which of the columns
// are inside of the image.
struct Fetched {
    a: array<vec4<f32>, FETCHES_A>,
    b: array<vec4<f32>, FETCHES_B>,
    inside: array<vec4<bool>, FETCHES_B>,
}

// Fetches the slab whose terms are in half number `half` of `terms`, without a branch: see matmul_tiles. `rows` has the places of the first
// rows of the vectors. `last` is the place of the last row. The fetch repeats the last row for rows beyond it, because their results are
// not stored.
fn fetch(half: u32, lane: u32, last: u32, rows: ptr<function, array<u32, FETCHES_A>>, columns: ptr<function, array<vec4<u32>, 4>>) -> Fetched {
    var got: Fetched;
    for (var f = 0u; f < FETCHES_A; f++) {
        let at = min(vec4<u32>((*rows)[f]) + vec4<u32>(0u, 1u, 2u, 3u) * p.row_a, vec4<u32>(last)) + terms[half * SLAB + (lane + f * WG) % SLAB].w;
        got.a[f] = vec4<f32>(a[at.x], a[at.y], a[at.z], a[at.w]);
    }
    for (var f = 0u; f < FETCHES_B; f++) {
        let term = terms[half * SLAB + min(lane / VECS_B + f * (WG / VECS_B), SLAB - 1u)];
        var at = vec4<u32>((*columns)[0].x, (*columns)[1].x, (*columns)[2].x, (*columns)[3].x) + term.x;
        got.inside[f] = vec4<bool>(meet((*columns)[0], term), meet((*columns)[1], term), meet((*columns)[2], term), meet((*columns)[3], term));
        at = select(vec4<u32>(), at, got.inside[f]);
        got.b[f] = vec4<f32>(b[at.x], b[at.y], b[at.z], b[at.w]);
    }
    return got;
}

@compute @workgroup_size(WG)
fn tiles(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n);
    if unit >= p.units {
        return;
    }
    let block = unit / p.block_units;
    var rest = unit % p.block_units;
    let row = rest % p.tiles_m * TILE_M;
    rest /= p.tiles_m;
    let column = rest % p.tiles_n * TILE_N;
    rest /= p.tiles_n;
    let group = rest % p.groups;
    let part = rest / p.groups;
    let all = work(part, images_of(block));
    // The phases of a stride may have different sizes.
    if column >= all.columns.count {
        return;
    }
    let start_a = block * p.block_a + group * p.group_a;
    let start_b = block * p.block_b + group * p.group_b;
    let start_y = block * p.block_y + part * p.part_y + group * p.group_y;

    var mine: array<vec4<u32>, 4>;
    for (var t = 0u; t < 4u; t++) {
        mine[t] = place(all.columns, column + lane % VECS_B * 4u + t);
        mine[t].x += start_b;
    }
    let last = start_a + (p.m - 1u) * p.row_a;
    var rows: array<u32, FETCHES_A>;
    for (var f = 0u; f < FETCHES_A; f++) {
        rows[f] = start_a + (row + (lane + f * WG) / SLAB * 4u) * p.row_a;
    }
    for (var q = lane; q < 2u * SLAB; q += WG) {
        terms[q] = place(all.terms, all.first + q);
    }
    workgroupBarrier();

    var sums = Sums();
    var next = fetch(0u, lane, last, &rows, &mine);
    var slab = 0u;
    for (var first = all.first; first < all.end; first += SLAB) {
        for (var f = 0u; f < FETCHES_A; f++) {
            let e = lane + f * WG;
            if SLAB * VECS_A % WG == 0u || e < SLAB * VECS_A {
                slab_a[(slab * SLAB + e % SLAB) * VECS_A + e / SLAB] = select(vec4<f32>(0.0), next.a[f], first + e % SLAB < all.end);
            }
        }
        for (var f = 0u; f < FETCHES_B; f++) {
            let q = lane / VECS_B + f * (WG / VECS_B);
            if SLAB * VECS_B % WG == 0u || q < SLAB {
                slab_b[(slab * SLAB + q) * VECS_B + lane % VECS_B] = select(vec4<f32>(0.0), next.b[f], next.inside[f]);
            }
        }
        workgroupBarrier();
        // The places of the slab after the slab that is fetched below.
        for (var q = lane; q < SLAB; q += WG) {
            terms[slab * SLAB + q] = place(all.terms, first + 2u * SLAB + q);
        }
        // After the last slab this fetch has no use.
        next = fetch(1u - slab, lane, last, &rows, &mine);
        multiply(slab, lane, &sums);
        slab = 1u - slab;
    }
    for (var v = 0u; v < VECS_N; v++) {
        for (var t = 0u; t < 4u; t++) {
            let j = column + own_column(lane, v) + t;
            if j < all.columns.count {
                let out = start_y + place(all.columns, j).w;
                for (var i = 0u; i < VECS_M; i++) {
                    store_rows(out, row + own_row(lane, i * 4u), vec4<f32>(sums[i * 4u * VECS_N + v][t], sums[(i * 4u + 1u) * VECS_N + v][t],
                        sums[(i * 4u + 2u) * VECS_N + v][t], sums[(i * 4u + 3u) * VECS_N + v][t]));
                }
            }
        }
    }
}

// Stores four rows of the results from row m on. All four are computed before the first is stored, so that the loads of an epilogue run at
// the same time.
fn store_rows(start: u32, m: u32, v: vec4<f32>) {
    if m >= p.m {
        return;
    }
    let at = start + min(vec4<u32>(m, m + 1u, m + 2u, m + 3u), vec4<u32>(p.m - 1u)) * p.row_y;
    let all = vec4<f32>(map(at.x, v.x), map(at.y, v.y), map(at.z, v.z), map(at.w, v.w));
    for (var t = 0u; t < 4u; t++) {
        if m + t < p.m {
            y[at[t]] = all[t];
        }
    }
}
