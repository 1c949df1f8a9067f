// recurrent — LSTM and GRU over a sequence, one dispatch a step; formulas and layout in lib/cell.wgsl
//   forward   u[r,c] = Σ_q h[r,q] · w[c,q], h the last state, for the gates c of each element; then the cell
//   backward  dh[r,j] = Σ_q d[r,q] · w[q,j], d the next step's gradient; then the cell's gradient
//   w [GATES·h, h]   the left side lies in y, which the steps write: row r from p.a_first + r · p.a_row on, p.k numbers
//
// Sums are blocked for workgroup memory and registers (Volkov & Demmel 2008). A workgroup computes TILE rows × TILE columns from slabs
// of SLAB terms. An invocation computes 4 × 4 of these sums, SIDE = TILE / 4 apart. Forward, a tile's columns are the gates of SIDE
// elements. So an invocation's four columns are the gates of one element (a GRU has three gates), and it applies the cell to its sums.
//!include lib/index
//!include lib/cell

const ROW = TILE + 1u;
const SIDE = TILE / 4u;
const WG = SIDE * SIDE;

var<workgroup> slab_a: array<f32, SLAB * ROW>;
var<workgroup> slab_b: array<f32, SLAB * ROW>;

fn load_a(r: u32, q: u32) -> f32 {
    if r >= p.n || q >= p.k {
        return 0.0;
    }
    return y[p.a_first + r * p.a_row + q];
}

// Column e of the tile.
fn load_w(q: u32, tile: u32, e: u32) -> f32 {
    if FORWARD == 1u {
        let j = tile * SIDE + e % SIDE;
        let gate = e / SIDE;
        if q >= p.k || j >= p.h || gate >= GATES {
            return 0.0;
        }
        return w[(gate * p.h + j) * p.h + q];
    }
    let j = tile * TILE + e;
    if q >= p.k || j >= p.h {
        return 0.0;
    }
    return w[q * p.h + j];
}

// The sums of this invocation's four rows.
fn product(row: u32, tile: u32, lane: u32) -> array<vec4<f32>, 4> {
    let r = lane / SIDE;
    let c = lane % SIDE;
    var y0 = vec4<f32>();
    var y1 = vec4<f32>();
    var y2 = vec4<f32>();
    var y3 = vec4<f32>();
    for (var first = 0u; first < p.k; first += SLAB) {
        for (var e = lane; e < TILE * SLAB; e += WG) {
            slab_a[e % SLAB * ROW + e / SLAB] = load_a(row + e / SLAB, first + e % SLAB);
            // Along the axis whose elements are neighbours in memory.
            if FORWARD == 1u {
                slab_b[e % SLAB * ROW + e / SLAB] = load_w(first + e % SLAB, tile, e / SLAB);
            } else {
                slab_b[e / TILE * ROW + e % TILE] = load_w(first + e / TILE, tile, e % TILE);
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
    return array<vec4<f32>, 4>(y0, y1, y2, y3);
}

@compute @workgroup_size(WG)
fn forward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let row = unit / p.tiles_n * TILE;
    let tile = unit % p.tiles_n;
    var sums = product(row, tile, lane);
    let j = tile * SIDE + lane % SIDE;
    for (var i = 0u; i < 4u; i++) {
        let r = row + lane / SIDE + i * SIDE;
        if r < p.n && j < p.h {
            cell_forward(r, j, sums[i]);
        }
    }
}

@compute @workgroup_size(WG)
fn backward_tiled(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let row = unit / p.tiles_n * TILE;
    let tile = unit % p.tiles_n;
    var sums = product(row, tile, lane);
    for (var i = 0u; i < 16u; i++) {
        let r = row + lane / SIDE + i / 4u * SIDE;
        let j = tile * TILE + lane % SIDE + i % 4u * SIDE;
        if r < p.n && j < p.h {
            cell_backward(r, j, sums[i / 4u][i % 4u]);
        }
    }
}

// Writes the state before the first step to its place in y, and zeros to the rest of the place.
@compute @workgroup_size(SIZE)
fn start(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * SIZE + lane;
    if i >= p.units {
        return;
    }
    let r = i / p.place_size;
    let e = i % p.place_size;
    var value = 0.0;
    if e < p.states_size {
        value = s[r * p.states_size + e];
    }
    y[r * p.row_size + p.first_size + e] = value;
}
