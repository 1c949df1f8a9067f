// sum_parts — y[i] = map(Σ_s part[s,i]), in order: the second pass of kernels that cut long sums into parts
//   part [parts, size]   y [at most size]
// `map` is the elementwise code that follows, generated. Without such code it is the identity.
// One invocation computes one element. Neighbouring invocations read neighbouring elements.
//!include lib/index

@compute @workgroup_size(LANES)
fn sum_parts(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, n) * LANES + local;
    if i < p.units {
        var sum = 0.0;
        for (var s = 0u; s < p.parts; s++) {
            sum += part[s * p.size + p.first + i];
        }
        y[i] = map(i, sum);
    }
}
