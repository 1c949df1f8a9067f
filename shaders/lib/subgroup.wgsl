// subgroup — each subgroup, of any size, computes lines. A workgroup computes ROWS lines and has at least ROWS subgroups.
//   consts WG, ROWS
@compute @workgroup_size(WG)
fn lines(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(subgroup_id) which: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    let first = group_index(id, n) * ROWS;
    for (var row = which; row < ROWS; row += subgroups) {
        line(line_of(first + row, 0u, 0u, lane, lanes));
    }
}

// The sum of v over the lanes of each line. Every lane gets it.
fn lanes_sum(v: R) -> R {
    return subgroupAdd(v);
}

// Four sums at once.
fn lanes_sums(v: vec4<f32>) -> vec4<f32> {
    return subgroupAdd(v);
}

// The maximum, or NaN if a value is NaN. The built-in maximum may ignore NaN, but the sum does not.
fn lanes_max(v: R) -> R {
    return select(subgroupMax(v), subgroupAdd(v), subgroupAny(is_nan(v)));
}

// The smallest of several indices of elements.
fn lanes_first(v: u32) -> u32 {
    return subgroupMin(v);
}
