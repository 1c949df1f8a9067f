// matmul_tiles — the product of matmul.wgsl, by tiles in workgroup memory: for hardware, and rows and columns in tens at least
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
//
// One workgroup computes one tile of TILE_M × TILE_N outputs, see lib/tile. Tiles are small, with 4 × 4 outputs for each invocation, if
// there are few tiles. They are large, with 8 × 8 outputs, if there are enough tiles to keep all processors busy. A tile reads each
// element from memory once.
// An invocation fetches blocks of 4 × 4 elements, four neighbours in memory at once. It uses `four_a` and `four_b`, which are generated.
// They are one load if the rows of the matrix are multiples of four. It transposes a block if the terms are neighbours in memory. The
// blocks of the next slab are fetched before this slab is multiplied, which hides the latency of memory.
// Not yet timed on hardware.
//!include lib/index
//!include lib/product
//!include lib/tile

// The number of 4 × 4 blocks in both slabs, and the number that an invocation fetches.
const BLOCKS_A = TILE_M * SLAB / 16u;
const BLOCKS = BLOCKS_A + TILE_N * SLAB / 16u;
const FETCHES = (BLOCKS + WG - 1u) / WG;

struct Block {
    v: array<vec4<f32>, 4>,
}

// Block number e of the slab whose terms start at q: four vectors, each of one term.
fn fetch(w: Work, q: u32, e: u32) -> Block {
    if e < BLOCKS_A {
        // Blocks that are neighbours in memory are neighbours in number.
        if TA == 1u {
            let i = w.row + e % (TILE_M / 4u) * 4u;
            return by_term_a(w.a + i, q + e / (TILE_M / 4u) * 4u, w.end, p.m - min(i, p.m));
        }
        return turned(by_row_a(w.a, w.row + e / (SLAB / 4u) * 4u, q + e % (SLAB / 4u) * 4u, w.end));
    }
    let f = e - BLOCKS_A;
    if TB == 1u {
        return turned(by_row_b(w.b, w.column + f / (SLAB / 4u) * 4u, q + f % (SLAB / 4u) * 4u, w.end));
    }
    let j = w.column + f % (TILE_N / 4u) * 4u;
    return by_term_b(w.b + j, q + f / (TILE_N / 4u) * 4u, w.end, p.n - min(j, p.n));
}

// Four terms of the rows from `start` on. `left` of the rows are in the matrix. Elements beyond an edge are 0.
fn by_term_a(start: u32, q: u32, end: u32, left: u32) -> Block {
    var block = Block();
    for (var t = 0u; t < 4u; t++) {
        if q + t < end {
            block.v[t] = four_a(start + (q + t) * p.m, left);
        }
    }
    return block;
}

fn by_row_a(start: u32, i: u32, q: u32, end: u32) -> Block {
    var block = Block();
    for (var t = 0u; t < 4u; t++) {
        if i + t < p.m {
            block.v[t] = four_a(start + (i + t) * p.k + q, end - min(q, end));
        }
    }
    return block;
}

fn by_term_b(start: u32, q: u32, end: u32, left: u32) -> Block {
    var block = Block();
    for (var t = 0u; t < 4u; t++) {
        if q + t < end {
            block.v[t] = four_b(start + (q + t) * p.n, left);
        }
    }
    return block;
}

fn by_row_b(start: u32, j: u32, q: u32, end: u32) -> Block {
    var block = Block();
    for (var t = 0u; t < 4u; t++) {
        if j + t < p.n {
            block.v[t] = four_b(start + (j + t) * p.k + q, end - min(q, end));
        }
    }
    return block;
}

fn turned(b: Block) -> Block {
    let t = transpose(mat4x4<f32>(b.v[0], b.v[1], b.v[2], b.v[3]));
    return Block(array<vec4<f32>, 4>(t[0], t[1], t[2], t[3]));
}

// Stores block number e in the place that `multiply` reads.
fn put(slab: u32, e: u32, block: Block) {
    if e < BLOCKS_A {
        let vec = select(e / (SLAB / 4u), e % (TILE_M / 4u), TA == 1u);
        let q = slab * SLAB + 4u * select(e % (SLAB / 4u), e / (TILE_M / 4u), TA == 1u);
        for (var t = 0u; t < 4u; t++) {
            slab_a[(q + t) * (TILE_M / 4u) + vec] = block.v[t];
        }
    } else {
        let f = e - BLOCKS_A;
        let vec = select(f % (TILE_N / 4u), f / (SLAB / 4u), TB == 1u);
        let q = slab * SLAB + 4u * select(f / (TILE_N / 4u), f % (SLAB / 4u), TB == 1u);
        for (var t = 0u; t < 4u; t++) {
            slab_b[(q + t) * (TILE_N / 4u) + vec] = block.v[t];
        }
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
    var next: array<Block, FETCHES>;
    for (var f = 0u; f < FETCHES; f++) {
        next[f] = fetch(w, w.first, lane + f * WG);
    }
    var slab = 0u;
    for (var q = w.first; q < w.end; q += SLAB) {
        for (var f = 0u; f < FETCHES; f++) {
            if lane + f * WG < BLOCKS {
                put(slab, lane + f * WG, next[f]);
            }
        }
        workgroupBarrier();
        for (var f = 0u; f < FETCHES; f++) {
            // Beyond the last slab this fetches nothing.
            next[f] = fetch(w, q + SLAB, lane + f * WG);
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

// Four neighbouring outputs, of which `left` are in the matrix.
fn store(e: u32, left: u32, v: vec4<f32>) {
    for (var t = 0u; t < min(left, 4u); t++) {
        y[e + t] = map(e + t, v[t]);
    }
}
