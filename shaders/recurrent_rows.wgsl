// recurrent_rows — the steps of recurrent.wgsl, for adapters that are a CPU in disguise; as matmul_rows.wgsl is to matmul_tiles.wgsl
//
// One subgroup of LANES invocations computes ROWS rows in registers. A lane owns four columns of all rows. Forward, the columns
// are the gates of one element (three for a GRU). Backward, they are four elements, LANES apart. For each q a lane loads its elements
// of w, and one element of the left side for every LANES rows. The subgroup broadcasts the elements of the left side.
// Rows and columns beyond the edges are computed from the last one and not stored.
//!include lib/index
//!include lib/cell

const SHARES = ROWS / LANES;

fn product(row: u32, columns: vec4<u32>, lane: u32) -> array<vec4<f32>, ROWS> {
    var at_a: array<u32, SHARES>;
    for (var i = 0u; i < SHARES; i++) {
        at_a[i] = p.a_first + min(row + i * LANES + lane, p.n - 1u) * p.a_row;
    }
    var at_w = select(columns, columns * p.h, FORWARD == 1u);
    let step_w = select(p.h, 1u, FORWARD == 1u);
    var sums: array<vec4<f32>, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        sums[i] = vec4<f32>();
    }
    for (var q = 0u; q < p.k; q++) {
        var vw = vec4<f32>(w[at_w.x], w[at_w.y], w[at_w.z], 0.0);
        if FORWARD == 0u || GATES == 4u {
            vw.w = w[at_w.w];
        }
        for (var i = 0u; i < SHARES; i++) {
            let va = y[at_a[i]];
            for (var k = 0u; k < LANES; k++) {
                sums[i * LANES + k] += subgroupShuffle(va, k) * vw;
            }
            at_a[i] += 1u;
        }
        at_w += step_w;
    }
    return sums;
}

@compute @workgroup_size(LANES)
fn forward_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let row = unit / p.tiles_n * ROWS;
    let j = unit % p.tiles_n * LANES + lane;
    let column = min(j, p.h - 1u);
    var sums = product(row, column + vec4<u32>(0u, p.h, 2u * p.h, 3u * p.h), lane);
    // This loop is not unrolled, because the code of the cell would be repeated ROWS times.
    let rows = select(0u, min(ROWS, p.n - row), j < p.h);
    for (var i = 0u; i < rows; i++) {
        cell_forward(row + i, j, sums[i]);
    }
}

@compute @workgroup_size(LANES)
fn backward_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let row = unit / p.tiles_n * ROWS;
    let j = unit % p.tiles_n * (4u * LANES) + lane;
    let columns = vec4<u32>(j, j + LANES, j + 2u * LANES, j + 3u * LANES);
    var sums = product(row, min(columns, vec4<u32>(p.h - 1u)), lane);
    let rows = min(ROWS, p.n - row);
    for (var i = 0u; i < rows; i++) {
        for (var k = 0u; k < min(4u, (p.h + LANES - 1u - min(j, p.h)) / LANES); k++) {
            cell_backward(row + i, j + k * LANES, sums[i][k]);
        }
    }
}
