// matmul_rows — the product of matmul.wgsl, for adapters that are a CPU in disguise
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
//
// There a barrier ends a pass over all invocations, workgroup memory is memory like any other, and a load costs as much as
// many multiplications, since every lane loads alone. So one subgroup of LANES invocations is the whole workgroup and
// computes ROWS × 4·LANES outputs in registers: a lane owns four columns, LANES apart, of all rows. For each p it
// loads its four elements of b, and one element of a for every LANES rows, which the subgroup hands round: 4 + ROWS/LANES
// loads serve 4·ROWS multiplications. The loops over rows have constant bounds, so that drivers unroll them.
// Rows and columns beyond the edges are computed from the last one and not stored.
//!include lib/index
//!include lib/batch

const PARTS = ROWS / LANES;

@compute @workgroup_size(LANES)
fn forward_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let batch = unit / p.tiles;
    let tile = unit % p.tiles;
    let row = tile / p.tiles_n * ROWS;
    let column = tile % p.tiles_n * (4u * LANES) + lane;
    let start = batch_starts(batch);
    let columns = vec4<u32>(column, column + LANES, column + 2u * LANES, column + 3u * LANES);
    let inside = min(columns, vec4<u32>(p.n - 1u));

    // Where the next elements are, and how far apart along p.
    var at_a: array<u32, PARTS>;
    for (var i = 0u; i < PARTS; i++) {
        let r = min(row + i * LANES + lane, p.m - 1u);
        at_a[i] = start.x + select(r * p.k, r, TA == 1u);
    }
    var at_b = start.y + select(inside, inside * p.k, TB == 1u);
    let step_a = select(1u, p.m, TA == 1u);
    let step_b = select(p.n, 1u, TB == 1u);

    var sums: array<vec4<f32>, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        sums[i] = vec4<f32>();
    }
    for (var q = 0u; q < p.k; q++) {
        let vb = vec4<f32>(b[at_b.x], b[at_b.y], b[at_b.z], b[at_b.w]);
        for (var i = 0u; i < PARTS; i++) {
            let va = a[at_a[i]];
            for (var h = 0u; h < LANES; h++) {
                sums[i * LANES + h] += subgroupShuffle(va, h) * vb;
            }
            at_a[i] += step_a;
        }
        at_b += step_b;
    }

    let out = batch * p.m * p.n;
    for (var i = 0u; i < ROWS; i++) {
        let first = out + (row + i) * p.n;
        for (var j = 0u; j < 4u; j++) {
            if row + i < p.m && columns[j] < p.n {
                y[first + columns[j]] = sums[i][j];
            }
        }
    }
    // Each lane reads back what it has written: unrolled, the loop above would hold the epilogue 4·ROWS times.
    if EPILOGUE == 1u {
        let rows = min(ROWS, p.m - row);
        for (var i = 0u; i < rows; i++) {
            for (var j = column; j < min(column + 4u * LANES, p.n); j += LANES) {
                let e = out + (row + i) * p.n + j;
                y[e] = map(e, y[e]);
            }
        }
    }
}
