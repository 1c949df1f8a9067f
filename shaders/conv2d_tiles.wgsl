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

// Four rows of one term. Elements beyond an edge are 0.
fn four_a(start: u32, row: u32, term: vec4<u32>, inside: bool) -> vec4<f32> {
    var v = vec4<f32>();
    for (var t = 0u; t < 4u; t++) {
        if inside && row + t < p.m {
            v[t] = a[start + (row + t) * p.row_a + term.w];
        }
    }
    return v;
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
    }
    for (var q = lane; q < 2u * SLAB; q += WG) {
        terms[q] = place(all.terms, all.first + q);
    }
    workgroupBarrier();

    var sums = Sums();
    var next_a: array<vec4<f32>, FETCHES_A>;
    var next_b: array<vec4<f32>, FETCHES_B>;
    var slab = 1u;
    // The first round multiplies nothing, and the last round fetches nothing.
    for (var first = all.first; first < all.end + SLAB; first += SLAB) {
        if first > all.first {
            for (var f = 0u; f < FETCHES_A; f++) {
                let e = lane + f * WG;
                if e < SLAB * VECS_A {
                    slab_a[(slab * SLAB + e % SLAB) * VECS_A + e / SLAB] = next_a[f];
                }
            }
            for (var f = 0u; f < FETCHES_B; f++) {
                let q = lane / VECS_B + f * (WG / VECS_B);
                if q < SLAB {
                    slab_b[(slab * SLAB + q) * VECS_B + lane % VECS_B] = next_b[f];
                }
            }
            workgroupBarrier();
            // The places of the slab after the slab that is fetched below.
            for (var q = lane; q < SLAB; q += WG) {
                terms[slab * SLAB + q] = place(all.terms, first + SLAB + q);
            }
        }
        let other = 1u - slab;
        for (var f = 0u; f < FETCHES_A; f++) {
            let e = lane + f * WG;
            let q = e % SLAB;
            next_a[f] = four_a(start_a, row + e / SLAB * 4u, terms[other * SLAB + q], first + q < all.end && e < SLAB * VECS_A);
        }
        for (var f = 0u; f < FETCHES_B; f++) {
            let q = lane / VECS_B + f * (WG / VECS_B);
            let term = terms[other * SLAB + min(q, SLAB - 1u)];
            next_b[f] = vec4<f32>(factor(start_b, mine[0], term), factor(start_b, mine[1], term), factor(start_b, mine[2], term), factor(start_b, mine[3], term));
        }
        if first > all.first {
            multiply(slab, lane, &sums);
        }
        slab = other;
    }
    for (var v = 0u; v < VECS_N; v++) {
        for (var t = 0u; t < 4u; t++) {
            let j = column + own_column(lane, v) + t;
            if j < all.columns.count {
                let out = start_y + place(all.columns, j).w;
                for (var r = 0u; r < PER_M; r++) {
                    let m = row + own_row(lane, r);
                    if m < p.m {
                        let e = out + m * p.row_y;
                        y[e] = map(e, sums[r * VECS_N + v][t]);
                    }
                }
            }
        }
    }
}
