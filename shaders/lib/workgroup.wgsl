// workgroup — each workgroup computes a line. Each subgroup joins the values of its lanes. Then every invocation joins the values of the
// subgroups. This takes two barriers for any size of the workgroup.
//   const WG
@compute @workgroup_size(WG)
fn lines(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) n: vec3<u32>,
    @builtin(subgroup_id) which: u32,
    @builtin(num_subgroups) count: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    leads = lane == 0u;
    subgroup = which;
    subgroups = count;
    line(line_of(group_index(id, n), 0u, 0u, which * lanes + lane, WG));
}

var<private> leads: bool;
var<private> subgroup: u32;
var<private> subgroups: u32;
// One place for each subgroup. There are at most WG subgroups, of one invocation each.
var<workgroup> part: array<R, WG>;
var<workgroup> part_index: array<u32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;

// The sum of v over the lanes of each line. Every lane gets it. All invocations must call this function and the functions below.
fn lanes_sum(v: R) -> R {
    let mine = subgroupAdd(v);
    workgroupBarrier();
    if leads {
        part[subgroup] = mine;
    }
    workgroupBarrier();
    var sum = part[0];
    for (var k = 1u; k < subgroups; k++) {
        sum += part[k];
    }
    return sum;
}

// Four sums at once.
fn lanes_sums(v: vec4<f32>) -> vec4<f32> {
    let mine = subgroupAdd(v);
    workgroupBarrier();
    if leads {
        parts[subgroup] = mine;
    }
    workgroupBarrier();
    var sum = parts[0];
    for (var k = 1u; k < subgroups; k++) {
        sum += parts[k];
    }
    return sum;
}

// The maximum, or NaN if a value is NaN. The built-in maximum may ignore NaN, but the sum does not.
fn lanes_max(v: R) -> R {
    let mine = select(subgroupMax(v), subgroupAdd(v), subgroupAny(is_nan(v)));
    workgroupBarrier();
    if leads {
        part[subgroup] = mine;
    }
    workgroupBarrier();
    var most = part[0];
    for (var k = 1u; k < subgroups; k++) {
        most = larger_r(most, part[k]);
    }
    return most;
}

// The smallest of several indices of elements.
fn lanes_first(v: u32) -> u32 {
    let mine = subgroupMin(v);
    workgroupBarrier();
    if leads {
        part_index[subgroup] = mine;
    }
    workgroupBarrier();
    var first = part_index[0];
    for (var k = 1u; k < subgroups; k++) {
        first = min(first, part_index[k]);
    }
    return first;
}
