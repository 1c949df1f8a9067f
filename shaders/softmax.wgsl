// softmax — y[o,i,c] = e^(x[o,i,c] − m) / s,  s = Σ_i e^(x[o,i,c] − m),  m = max_i x[o,i,c];  or its logarithm, x − m − ln s
//   x, y [outer, n, inner]
// Subtracting the maximum keeps e^ in range whatever x is. Each line is read three times by its LANES invocations: for m, for
// s (both put together by trees), and to write. The second and third time it comes from cache.
//!include lib/index
//!include lib/lines
//!include lib/map

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let group = group_index(id, n);
    for (var round = 0u; round < p.rounds; round++) {
        let t = line_of(group, local, round);
        var m = x[t.first];
        for (var i = t.lane; i < t.len; i += LANES) {
            m = larger(m, x[t.first + i * p.inner]);
        }
        m = lanes_max(local, m);
        var s = 0.0;
        for (var i = t.lane; i < t.len; i += LANES) {
            s += f_exp(x[t.first + i * p.inner] - m);
        }
        s = lanes_sum(local, s);
        let log_s = f_ln(s);
        for (var i = t.lane; i < t.len; i += LANES) {
            let at = t.first + i * p.inner;
            let z = x[at] - m;
            if LOG == 1u {
                y[at] = z - log_s;
            } else {
                y[at] = f_exp(z) / s;
            }
        }
    }
}
