// group_index — the number of a workgroup, whatever shape its dispatch had.
//   id  @builtin(workgroup_id)     n  @builtin(num_workgroups)
// A dimension holds at most 65,535 groups, so a longer dispatch is folded over x, y and z, with a few groups to
// spare: work whose number is not below p.units must be left alone.
fn group_index(id: vec3<u32>, n: vec3<u32>) -> u32 {
    return id.x + n.x * (id.y + n.y * id.z);
}
