// gather_rows — y[i,j] = table[index[i], j]
//   table [rows, cols]   index u32 [m]   y [m, cols]
// One invocation per element of y; neighbours read neighbours of one row.
// scatter_rows — dtable[r,j] = Σ_i dy[i,j] · (index[i] = r), the gradient
//   dy [m, cols]   dtable [rows, cols]
// One invocation per element of dtable goes over all m indices and adds what is its own, in their order: no atomics, the same
// sum every time. That costs rows · cols · m comparisons (an index is read once by all the neighbours of a row): fine for
// class weights and small vocabularies; a large one wants the indices sorted first.
// An index ≥ rows (a caller's mistake, caught on the host) is taken as the last row, so that no read is out of bounds.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i < p.units {
        let at = p.first + i;
        y[i] = table[min(index[at / p.cols], p.rows - 1u) * p.cols + at % p.cols];
    }
}

@compute @workgroup_size(WG)
fn grad_table(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * WG + local;
    if i < p.units {
        let row = (p.first + i) / p.cols;
        let column = (p.first + i) % p.cols;
        var sum = 0.0;
        for (var k = 0u; k < p.m; k++) {
            if min(index[k], p.rows - 1u) == row {
                sum += dy[k * p.cols + column];
            }
        }
        dtable[i] = sum;
    }
}
