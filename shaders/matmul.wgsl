// matmul — y[…,i,j] = map(Σ_q a[…,i,q] · b[…,q,j])
//   a [batch, m, k], or [batch, k, m] where TA     b [batch, k, n], or [batch, n, k] where TB     y [batch, m, n]
// `map` is the elementwise code that follows the product, generated. Without such code it is the identity. lib/product says
// which outputs and which terms a unit is for, in every kernel of matmul.
//
// An invocation computes one column of ROWS rows, and neighbours neighbouring columns: no workgroup memory, no subgroups.
// With one row (`naive`) it is the kernel that runs on any device, whatever the shape. With a few (`thin`) it is for a short a
// and a b that is not transposed, on any device: each element of b is read once for all rows, by lanes that read neighbours,
// and there is little else to read. Long sums are cut into parts there, or too few invocations would have work.
// Not yet timed on hardware.
//!include lib/index
//!include lib/product

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n) * LANES + lane;
    if unit >= p.units {
        return;
    }
    let w = work(unit, ROWS, 1u);
    // Rows beyond the last one are computed from it and not stored.
    var from_a: array<u32, ROWS>;
    var sums: array<f32, ROWS>;
    for (var i = 0u; i < ROWS; i++) {
        from_a[i] = w.a + at_a(min(w.row + i, p.m - 1u), w.first);
        sums[i] = 0.0;
    }
    var from_b = w.b + at_b(w.column, w.first);
    for (var q = w.first; q < w.end; q++) {
        let vb = b[from_b];
        for (var i = 0u; i < ROWS; i++) {
            sums[i] += a[from_a[i]] * vb;
            from_a[i] += step_a();
        }
        from_b += step_b();
    }
    for (var i = 0u; i < ROWS; i++) {
        if w.row + i < p.m {
            let e = w.y + (w.row + i) * p.n + w.column;
            y[e] = map(e, sums[i]);
        }
    }
}
