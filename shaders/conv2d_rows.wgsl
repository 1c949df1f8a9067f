// conv2d_rows — the sums of conv2d.wgsl, for adapters that are a CPU in disguise
//
// As matmul_rows: one subgroup of LANES invocations is the whole workgroup and computes ROWS × COLUMNS results in registers. A lane
// owns every LANES-th column of all rows. For each term it loads its elements of b, and one element of a for every LANES rows, which
// the subgroup hands round: (ROWS + COLUMNS)/LANES loads serve ROWS · COLUMNS/LANES multiplications. The digits of the term are
// counted up, the same for all lanes.
//!include lib/index
//!include lib/conv

const PARTS_A = ROWS / LANES;
const PARTS_B = COLUMNS / LANES;

@compute @workgroup_size(LANES)
fn rows(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(id, n);
    if unit >= p.units {
        return;
    }
    let block = unit / p.block_units;
    var rest = unit % p.block_units;
    let row = rest % p.tiles_m * ROWS;
    rest /= p.tiles_m;
    let column = rest % p.tiles_n * COLUMNS + lane;
    rest /= p.tiles_n;
    let group = rest % p.groups;
    let part = rest / p.groups;
    let all = work(part, images_of(block));
    if column - lane >= all.columns.count {
        return;
    }
    let start_b = block * p.block_b + group * p.group_b;
    let start_y = block * p.block_y + part * p.part_y + group * p.group_y;

    var at: array<vec4<u32>, PARTS_B>;
    for (var j = 0u; j < PARTS_B; j++) {
        at[j] = place(all.columns, column + j * LANES);
    }
    // Rows beyond the last one are computed from it and not stored.
    var at_a: array<u32, PARTS_A>;
    for (var i = 0u; i < PARTS_A; i++) {
        at_a[i] = block * p.block_a + group * p.group_a + min(row + i * LANES + lane, p.m - 1u) * p.row_a;
    }
    var sums: array<array<f32, PARTS_B>, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < PARTS_B; j++) {
            sums[i][j] = 0.0;
        }
    }
    var t = vec3<u32>();
    if all.first < all.end {
        t = digits(all.terms, all.first);
    }
    for (var k = all.first; k < all.end; k++) {
        let term = place_of(all.terms, t);
        var vb: array<f32, PARTS_B>;
        for (var j = 0u; j < PARTS_B; j++) {
            vb[j] = factor(start_b, at[j], term);
        }
        for (var i = 0u; i < PARTS_A; i++) {
            let va = a[at_a[i] + term.w];
            for (var h = 0u; h < LANES; h++) {
                let v = subgroupShuffle(va, h);
                for (var j = 0u; j < PARTS_B; j++) {
                    sums[i * LANES + h][j] = fma(v, vb[j], sums[i * LANES + h][j]);
                }
            }
        }
        t.z += 1u;
        if t.z == all.terms.columns {
            t.z = 0u;
            t.y += 1u;
            if t.y == all.terms.rows {
                t.y = 0u;
                t.x += 1u;
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < PARTS_B; j++) {
            if row + i < p.m && column + j * LANES < all.columns.count {
                y[start_y + (row + i) * p.row_y + at[j].w] = sums[i][j];
            }
        }
    }
    // Each lane reads back what it has written: unrolled, the loop above would hold the epilogue 4·ROWS times.
    if EPILOGUE == 1u {
        let last = min(row + ROWS, p.m);
        for (var i = row; i < last; i++) {
            for (var j = 0u; j < PARTS_B; j++) {
                if column + j * LANES < all.columns.count {
                    let e = start_y + i * p.row_y + at[j].w;
                    y[e] = map(e, y[e]);
                }
            }
        }
    }
}
