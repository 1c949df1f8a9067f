// matmul_rows — the product of matmul.wgsl, for adapters that are a CPU in disguise, and rows and columns in tens at least
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
//
// There a barrier ends a pass over all invocations, workgroup memory is memory like any other, and a load costs as much as
// many multiplications, since every lane loads alone. So one subgroup of LANES invocations is the whole workgroup and
// computes ROWS × COLUMNS outputs in registers: a lane owns every LANES-th column of all rows. For each term it loads its elements
// of b, and one element of a for every LANES rows, which the subgroup hands round: (ROWS + COLUMNS)/LANES loads serve
// ROWS · COLUMNS/LANES multiplications. The loops over rows and columns have constant bounds, so that drivers unroll them.
// If a walk along the terms goes from row to row of a matrix, long sums are cut into parts. Then all tiles walk the same few
// rows before the next rows, and caches hold these rows. Rows and columns beyond the edges are computed from the last one and not stored.
//!include lib/index
//!include lib/product

const PARTS_A = ROWS / LANES;
const PARTS_B = COLUMNS / LANES;

@compute @workgroup_size(LANES)
fn forward_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let w = work(unit, ROWS, COLUMNS);
    let column = w.column + lane;

    // The places of the next elements.
    var from_a: array<u32, PARTS_A>;
    for (var i = 0u; i < PARTS_A; i++) {
        from_a[i] = w.a + at_a(min(w.row + i * LANES + lane, p.m - 1u), w.first);
    }
    var from_b: array<u32, PARTS_B>;
    for (var j = 0u; j < PARTS_B; j++) {
        from_b[j] = w.b + at_b(min(column + j * LANES, p.n - 1u), w.first);
    }

    var sums: array<array<f32, PARTS_B>, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        for (var j = 0u; j < PARTS_B; j++) {
            sums[i][j] = 0.0;
        }
    }
    for (var q = w.first; q < w.end; q++) {
        var vb: array<f32, PARTS_B>;
        for (var j = 0u; j < PARTS_B; j++) {
            vb[j] = b[from_b[j]];
            from_b[j] += step_b();
        }
        for (var i = 0u; i < PARTS_A; i++) {
            let va = a[from_a[i]];
            from_a[i] += step_a();
            for (var h = 0u; h < LANES; h++) {
                let v = subgroupShuffle(va, h);
                for (var j = 0u; j < PARTS_B; j++) {
                    sums[i * LANES + h][j] = fma(v, vb[j], sums[i * LANES + h][j]);
                }
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        let first = w.y + (w.row + i) * p.n;
        for (var j = 0u; j < PARTS_B; j++) {
            if w.row + i < p.m && column + j * LANES < p.n {
                y[first + column + j * LANES] = sums[i][j];
            }
        }
    }
    // Each lane reads back what it has written: unrolled, the loop above would hold the epilogue many times.
    if EPILOGUE == 1u {
        let rows = min(w.row + ROWS, p.m);
        for (var i = w.row; i < rows; i++) {
            for (var j = column; j < min(w.column + COLUMNS, p.n); j += LANES) {
                let e = w.y + i * p.n + j;
                y[e] = map(e, y[e]);
            }
        }
    }
}
