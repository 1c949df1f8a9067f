// matmul_dot — the product of matmul.wgsl, for few rows or few columns whose terms are neighbours in memory: a head of ten
// classes, a batch of one; any device
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
//
// One workgroup computes ROWS × COLUMNS outputs. Its LANES invocations share the terms, so that neighbours read
// neighbours, and add up what they have: in a subgroup, which then is the whole workgroup, or by halves in workgroup memory.
// Rows and columns beyond the edges are computed from the last one and not stored.
// Not yet timed on hardware.
//!include lib/index
//!include lib/product

const OUTPUTS = ROWS * COLUMNS;
alias Sums = array<f32, OUTPUTS>;

// The sums over every LANES-th term.
fn lane_sums(w: Work, lane: u32) -> Sums {
    var sums = Sums();
    var from_a: array<u32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        from_a[i] = w.a + at_a(min(w.row + i, p.m - 1u), 0u);
    }
    var from_b: array<u32, COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        from_b[j] = w.b + at_b(min(w.column + j, p.n - 1u), 0u);
    }
    for (var q = w.first + lane; q < w.end; q += LANES) {
        var vb: array<f32, COLUMNS>;
        for (var j = 0u; j < COLUMNS; j++) {
            vb[j] = b[from_b[j] + q * step_b()];
        }
        for (var i = 0u; i < ROWS; i++) {
            let va = a[from_a[i] + q * step_a()];
            for (var j = 0u; j < COLUMNS; j++) {
                sums[i * COLUMNS + j] += va * vb[j];
            }
        }
    }
    return sums;
}

fn store(w: Work, output: u32, sum: f32) {
    let i = w.row + output / COLUMNS;
    let j = w.column + output % COLUMNS;
    if i < p.m && j < p.n {
        let e = w.y + i * p.n + j;
        y[e] = map(e, sum);
    }
}

@compute @workgroup_size(LANES)
fn forward_dot_subgroup(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(id, n);
    if unit >= p.units {
        return;
    }
    let w = work(unit, ROWS, COLUMNS);
    let sums = lane_sums(w, lane);
    for (var o = 0u; o < OUTPUTS; o++) {
        let sum = subgroupAdd(sums[o]);
        if lane == o % LANES {
            store(w, o, sum);
        }
    }
}

var<workgroup> shares: array<f32, OUTPUTS * LANES>;

@compute @workgroup_size(LANES)
fn forward_dot(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n);
    if unit >= p.units {
        return;
    }
    let w = work(unit, ROWS, COLUMNS);
    let sums = lane_sums(w, lane);
    for (var o = 0u; o < OUTPUTS; o++) {
        shares[o * LANES + lane] = sums[o];
    }
    for (var rest = LANES / 2u; rest > 0u; rest /= 2u) {
        workgroupBarrier();
        if lane < rest {
            for (var o = 0u; o < OUTPUTS; o++) {
                shares[o * LANES + lane] += shares[o * LANES + rest + lane];
            }
        }
    }
    workgroupBarrier();
    for (var o = lane; o < OUTPUTS; o += LANES) {
        store(w, o, shares[o * LANES]);
    }
}
