// to_index — y = ⌊x⌋ for x > −1 below 2³² (−0.5 becomes 0), else 2³² − 1
//   x [units]   y u32 [units]
// One invocation per element.
//!include lib/index
//!include lib/nan

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let i = group_index(id, groups) * WG + local;
    if i < p.units {
        let v = x[i];
        let fits = !is_nan(v) && v > -1.0 && v < 4294967296.0;
        y[i] = select(0xffffffffu, u32(clamp(v, 0.0, 4294967040.0)), fits);
    }
}
