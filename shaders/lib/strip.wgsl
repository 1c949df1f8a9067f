// strip — KEEP columns of V for each of the WG invocations of a workgroup, WG apart: the workgroup goes down a strip of
// columns and reads memory in its order, which is what a software adapter needs; its lanes are those of one processor.
//   consts WG, COLUMNS (of a strip: WG · KEEP)
@compute @workgroup_size(WG)
fn lines(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var round = 0u; round < p.rounds; round++) {
        line(line_of(group_index(id, n), local, round, 0u, 1u));
    }
}
