// norms — ‖w‖, ‖g‖ and ‖direction(w, g)‖ of each parameter of a piece, and the ratio that the rule takes from them
//   params [n]   grads [n]   the rule's states, [n] each   guard, its tables and rows (`Control` in src/optim/guard.rs)
// With shards, n is the part of the piece that this rank updates, which may begin within a cell (SHIFT in cells.wgsl).
//   partials [cells + parameters, 6]: of w, g and direction, a sum of squares and its class (cells.wgsl)
// `ratios` has one workgroup for each parameter. It joins the partials in a fixed tree and writes the row. Directions are not stored: the
// trial and the update compute them again.
// Put before this file: join.wgsl, cells.wgsl, piece.wgsl, the rule's functions and its `State`.                  You, Gitman and Ginsburg 2017
//!include lib/index

struct Norms {
    weight: f32,
    gradient: f32,
    direction: f32,
}

@compute @workgroup_size(WG)
fn add_up(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let cell = group_index(id, n);
    if (cell >= p.units || guard[0] != 0u) {
        return;
    }
    let at = (p.first + cell) * (CELL / 4u);
    let start = max(at, SHIFT) - SHIFT;
    let last = min(at + CELL / 4u - SHIFT, p.fours);
    var row = row_of(start, p.segments, p.segment_count);
    var first = start;
    while (first < last) {
        let end = min(guard[p.segments + 2u * row], last);
        let all = same(first);
        let h = all.h;
        var weight = vec3(0.0, SMALL, 0.0);
        var gradient = weight;
        var along = weight;
        for (var four = first + lane; four < end; four += WG) {
            let i = four - p.first * (CELL / 4u);
            let w = params[i];
            let g = clipped(grads[i], all);
            let s = load(i);
            var x = s.x;
            var y = s.y;
            var z = s.z;
            var rest = s.w;
            let u = vec4(direction(w.x, g.x, &x, h), direction(w.y, g.y, &y, h), direction(w.z, g.z, &z, h), direction(w.w, g.w, &rest, h));
            weight = join(weight, sum_of(w));
            gradient = join(gradient, sum_of(g));
            along = join(along, sum_of(u));
        }
        let to = 6u * (p.first + cell + row);
        put(to, weight, lane);
        put(to + 2u, gradient, lane);
        put(to + 4u, along, lane);
        first = end;
        row += 1u;
    }
}

@compute @workgroup_size(WG)
fn ratios(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n);
    if (unit >= p.units) {
        return;
    }
    let row = p.first + unit;
    let found = norms_of(row, lane);
    let all = Norms(found.x, found.y, found.z);
    // After a bad step the rows of the last good step remain.
    if (lane != 0u || guard[0] != 0u) {
        return;
    }
    let quotient = ratio(all, same(start_of(row)).h);
    let to = p.rows + 4u * guard[p.segments + 2u * row + 1u];
    guard[to] = bitcast<u32>(all.weight);
    guard[to + 1u] = bitcast<u32>(all.gradient);
    guard[to + 2u] = bitcast<u32>(all.direction);
    // A ratio below the smallest normal float becomes 0. A ratio that is not finite becomes the largest float.
    let bits = bitcast<u32>(quotient);
    guard[to + 3u] = select(bitcast<u32>(MOST), select(0u, bits, (bits & 0x7fffffffu) >= 0x00800000u), finite(quotient));
}
