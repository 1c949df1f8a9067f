// measure — ‖w‖, ‖g‖ and ‖w' − w‖ of each parameter of a piece, where w' is the weight after the update
//   before, grads, params [n]   guard and its tables (`Control` in src/optim/guard.rs)   partials [cells + parameters, 6]
//   norms [parameters, 3]
// `keep` copies the weights before the update. After the update, `before_update` and `change` make the partials of each cell. `finish`, with
// one workgroup for each parameter, joins them in a fixed tree and writes the row. Nothing here depends on the rule.
// Put before this file: join.wgsl, cells.wgsl and piece.wgsl.
//!include lib/index

@compute @workgroup_size(WG)
fn keep(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if (i < p.units) {
        before[i] = params[i];
    }
}

@compute @workgroup_size(WG)
fn before_update(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let cell = group_index(id, n);
    if (cell >= p.units || guard[0] != 0u) {
        return;
    }
    let start = (p.first + cell) * (CELL / 4u);
    let last = min(start + CELL / 4u, p.fours);
    var row = row_of(start, p.segments, p.segment_count);
    var first = start;
    while (first < last) {
        let end = min(guard[p.segments + 2u * row], last);
        var weight = vec3(0.0, SMALL, 0.0);
        var gradient = weight;
        for (var four = first + lane; four < end; four += WG) {
            let i = four - p.first * (CELL / 4u);
            weight = join(weight, sum_of(before[i]));
            gradient = join(gradient, sum_of(grads[i]));
        }
        let at = 6u * (p.first + cell + row);
        put(at, weight, lane);
        put(at + 2u, gradient, lane);
        first = end;
        row += 1u;
    }
}

@compute @workgroup_size(WG)
fn change(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let cell = group_index(id, n);
    if (cell >= p.units || guard[0] != 0u) {
        return;
    }
    let start = (p.first + cell) * (CELL / 4u);
    let last = min(start + CELL / 4u, p.fours);
    var row = row_of(start, p.segments, p.segment_count);
    var first = start;
    while (first < last) {
        let end = min(guard[p.segments + 2u * row], last);
        var moved = vec3(0.0, SMALL, 0.0);
        for (var four = first + lane; four < end; four += WG) {
            let i = four - p.first * (CELL / 4u);
            moved = join(moved, sum_of(params[i] - before[i]));
        }
        let at = 6u * (p.first + cell + row);
        put(at + 4u, moved, lane);
        first = end;
        row += 1u;
    }
}

@compute @workgroup_size(WG)
fn finish(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n);
    if (unit >= p.units) {
        return;
    }
    let row = p.first + unit;
    let found = norms_of(row, lane);
    // After a bad step the rows of the last good step remain.
    if (lane != 0u || guard[0] != 0u) {
        return;
    }
    let to = 3u * guard[p.segments + 2u * row + 1u];
    norms[to] = found.x;
    norms[to + 1u] = found.y;
    norms[to + 2u] = found.z;
}
