// matmul — y[…,i,j] = map(Σ_p a[…,i,p] · b[…,p,j])
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
// `map` is the elementwise code that follows the product, generated; the identity where there is none.
//
// One workgroup computes one tile of TILE × TILE outputs. It walks along p in slabs of SLAB: all invocations load the
// slab of a and of b into workgroup memory, neighbours reading neighbours, so that each element is read from memory
// once per tile instead of TILE times. An invocation owns 4 × 4 outputs, in rows and columns SIDE = TILE / 4 apart, so
// that neighbours read neighbouring words of a slab and write neighbouring outputs: 8 reads of a slab serve 16
// multiplications. Beyond the edges the slabs hold zeros.
// Source: the blocking by shared memory and registers of Volkov & Demmel 2008, "Benchmarking GPUs to tune dense
// linear algebra".
//!include lib/index
//!include lib/batch

// A slab is stored with p outermost, and a row is one longer than the tile: lanes that load along p then hit different banks.
const ROW = TILE + 1u;
const SIDE = TILE / 4u;
const WG = SIDE * SIDE;

var<workgroup> slab_a: array<f32, SLAB * ROW>;
var<workgroup> slab_b: array<f32, SLAB * ROW>;

// Row i, column q of the product of this batch, which starts at `start` in a.
fn load_a(start: u32, i: u32, q: u32) -> f32 {
    if i >= p.m || q >= p.k {
        return 0.0;
    }
    if TA == 1u {
        return a[start + q * p.m + i];
    }
    return a[start + i * p.k + q];
}

fn load_b(start: u32, q: u32, j: u32) -> f32 {
    if j >= p.n || q >= p.k {
        return 0.0;
    }
    if TB == 1u {
        return b[start + j * p.k + q];
    }
    return b[start + q * p.n + j];
}

fn store(start: u32, i: u32, j: u32, sum: f32) {
    if i < p.m && j < p.n {
        let e = start + i * p.n + j;
        y[e] = map(e, sum);
    }
}

@compute @workgroup_size(WG)
fn forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let batch = unit / p.tiles;
    let tile = unit % p.tiles;
    let row = tile / p.tiles_n * TILE;
    let column = tile % p.tiles_n * TILE;
    let start = batch_starts(batch);
    let r = lane / SIDE;
    let c = lane % SIDE;

    var y0 = vec4<f32>();
    var y1 = vec4<f32>();
    var y2 = vec4<f32>();
    var y3 = vec4<f32>();
    for (var first = 0u; first < p.k; first += SLAB) {
        for (var e = lane; e < TILE * SLAB; e += WG) {
            // Along the axis whose elements are neighbours in memory.
            if TA == 1u {
                slab_a[e / TILE * ROW + e % TILE] = load_a(start.x, row + e % TILE, first + e / TILE);
            } else {
                slab_a[e % SLAB * ROW + e / SLAB] = load_a(start.x, row + e / SLAB, first + e % SLAB);
            }
            if TB == 1u {
                slab_b[e % SLAB * ROW + e / SLAB] = load_b(start.y, first + e % SLAB, column + e / SLAB);
            } else {
                slab_b[e / TILE * ROW + e % TILE] = load_b(start.y, first + e / TILE, column + e % TILE);
            }
        }
        workgroupBarrier();
        for (var q = 0u; q < SLAB; q++) {
            let ia = q * ROW + r;
            let ib = q * ROW + c;
            let vb = vec4<f32>(slab_b[ib], slab_b[ib + SIDE], slab_b[ib + 2u * SIDE], slab_b[ib + 3u * SIDE]);
            y0 += slab_a[ia] * vb;
            y1 += slab_a[ia + SIDE] * vb;
            y2 += slab_a[ia + 2u * SIDE] * vb;
            y3 += slab_a[ia + 3u * SIDE] * vb;
        }
        workgroupBarrier();
    }
    let out = batch * p.m * p.n;
    for (var t = 0u; t < 4u; t++) {
        let j = column + c + t * SIDE;
        store(out, row + r, j, y0[t]);
        store(out, row + r + SIDE, j, y1[t]);
        store(out, row + r + 2u * SIDE, j, y2[t]);
        store(out, row + r + 3u * SIDE, j, y3[t]);
    }
}
