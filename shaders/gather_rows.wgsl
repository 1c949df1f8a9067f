// gather_rows — y[i,j] = table[index[i], j]
//   table [rows, cols]   index u32 [m]   y [m, cols]
// One invocation per element of y; neighbours read neighbours of one row.
// scatter_rows — dtable[r,j] = Σ_i dy[i,j] · (index[i] = r), the gradient
//   dy [m, cols]   dtable [rows, cols]
// Two passes, no atomics, the same sum every time:
// `sort` — order [m] has the tokens i by index and, of equal indices, by number: one invocation per token counts how many come
// before it, m² comparisons in all (neighbours read the same index at the same time).
// `grad_table` — LANES invocations per row of dtable find the row's first token by bisection, then add up its tokens, in
// their order: each of them the columns lane, lane + LANES, ….
// An index ≥ rows (computed here: the host refuses its own) gives NaN, and its gradient goes to no row.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i < p.units {
        let at = p.first + i;
        let row = index[at / p.cols];
        let value = table[min(row, p.rows - 1u) * p.cols + at % p.cols];
        // With the bits of a number that the compiler does not know, a NaN that it cannot take away.
        y[i] = select(bitcast<f32>(row | 0x7fc00000u), value, row < p.rows);
    }
}

@compute @workgroup_size(WG)
fn sort(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i < p.units {
        let row = index[i];
        var before = 0u;
        for (var k = 0u; k < p.m; k++) {
            let other = index[k];
            before += u32(other < row || (other == row && k < i));
        }
        order[before] = i;
    }
}

@compute @workgroup_size(WG)
fn grad_table(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let unit = group_index(id, n) * (WG / LANES) + local / LANES;
    if unit < p.units {
        let row = p.first + unit;
        var first = 0u;
        var end = p.m;
        while first < end {
            let middle = (first + end) / 2u;
            if index[order[middle]] < row {
                first = middle + 1u;
            } else {
                end = middle;
            }
        }
        while end < p.m && index[order[end]] == row {
            end++;
        }
        for (var column = local % LANES; column < p.cols; column += LANES) {
            var sum = 0.0;
            for (var k = first; k < end; k++) {
                sum += dy[order[k] * p.cols + column];
            }
            dtable[unit * p.cols + column] = sum;
        }
    }
}
