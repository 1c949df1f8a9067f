// lanes — LANES invocations (a power of two) compute a line. COLUMNS neighbouring lines lie side by side, so that neighbouring
// invocations read neighbouring elements. A fixed tree joins the values of the lanes, with one barrier for each level.
//   consts WG, COLUMNS, LANES
@compute @workgroup_size(WG)
fn lines(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    local = index;
    let unit = group_index(id, n) * (WG / (COLUMNS * LANES)) + local / (COLUMNS * LANES);
    for (var round = 0u; round < p.rounds; round++) {
        line(line_of(unit, local % COLUMNS, round, local / COLUMNS % LANES, LANES));
    }
}

var<private> local: u32;
var<workgroup> part: array<R, WG>;
var<workgroup> part_index: array<u32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;

// The sum of v over the lanes of each line. Every lane gets it. All invocations must call this function and the functions below.
fn lanes_sum(v: R) -> R {
    if LANES == 1u {
        return v;
    }
    let lane = local / COLUMNS % LANES;
    workgroupBarrier();
    part[local] = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if lane < step {
            part[local] += part[local + step * COLUMNS];
        }
    }
    workgroupBarrier();
    return part[local - lane * COLUMNS];
}

// Four sums at once.
fn lanes_sums(v: vec4<f32>) -> vec4<f32> {
    if LANES == 1u {
        return v;
    }
    let lane = local / COLUMNS % LANES;
    workgroupBarrier();
    parts[local] = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if lane < step {
            parts[local] += parts[local + step * COLUMNS];
        }
    }
    workgroupBarrier();
    return parts[local - lane * COLUMNS];
}

// The maximum of v over the lanes of each line, or NaN if a value is NaN.
fn lanes_max(v: R) -> R {
    if LANES == 1u {
        return v;
    }
    let lane = local / COLUMNS % LANES;
    workgroupBarrier();
    part[local] = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if lane < step {
            part[local] = larger_r(part[local], part[local + step * COLUMNS]);
        }
    }
    workgroupBarrier();
    return part[local - lane * COLUMNS];
}

// The smallest of several indices of elements over the lanes of each line.
fn lanes_first(v: u32) -> u32 {
    if LANES == 1u {
        return v;
    }
    let lane = local / COLUMNS % LANES;
    workgroupBarrier();
    part_index[local] = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if lane < step {
            part_index[local] = min(part_index[local], part_index[local + step * COLUMNS]);
        }
    }
    workgroupBarrier();
    return part_index[local - lane * COLUMNS];
}
