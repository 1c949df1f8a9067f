// norms — ‖w‖, ‖g‖ and ‖direction(w, g)‖ of each parameter of a piece, and the ratio that the rule takes from them
//   params [n]   grads [n]   the rule's states, [n] each   guard, its tables and rows (`Control` in src/optim/guard.rs)
//   partials [cells + parameters, 6]: of w, g and direction, a sum of squares and its class (join.wgsl)
// `add_up` has one workgroup for each CELL elements of the piece. It makes one partial for each parameter in the cell, so that no sum crosses
// from one parameter to the next. The place of a partial is the number of the cell plus the number of the parameter. This sum grows from
// cell to cell and from parameter to parameter, so no two partials share a place.
// `ratios` has one workgroup for each parameter. It joins the partials in a fixed tree and writes the row. Directions are not stored: the
// trial and the update compute them again.
// Put before this file: join.wgsl, piece.wgsl, the rule's functions and its `State`.                  You, Gitman and Ginsburg 2017
//!include lib/index

const MOST: f32 = 3.4028234663852886e38;
// The smallest normal float times 2^84, and MOST times 2^-84.
const LEAST_UP: f32 = 2.2737367544323206e-13;
const MOST_DOWN: f32 = 17592184995840.0;

struct Norms {
    weight: f32,
    gradient: f32,
    direction: f32,
}

// The sum of four squares.
fn sum_of(x: vec4<f32>) -> vec3<f32> {
    let tops = magnitude(x);
    let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
    if (top >= 0x7f800000u) {
        return vec3(0.0, BAD, 0.0);
    }
    let small = top < 0x29800000u;
    let large = top >= 0x55800000u;
    let y = select(select(1.0, DOWN, large), UP, small) * x;
    return vec3(dot(y, y), select(select(PLAIN, LARGE, large), SMALL, small), 0.0);
}

fn put(at: u32, mine: vec3<f32>, lane: u32) {
    let total = join_lanes(mine, lane);
    if (lane == 0u) {
        partials[at] = total.x;
        partials[at + 1u] = total.y;
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn add_up(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
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
        let at = 6u * (p.first + cell + row);
        put(at, weight, lane);
        put(at + 2u, gradient, lane);
        put(at + 4u, along, lane);
        first = end;
        row += 1u;
    }
}

// A class is 2^84 times the class below. A number below the smallest normal float counts as 0.
fn norm_of(total: vec3<f32>) -> f32 {
    let root = sqrt(total.x);
    if (total.y == SMALL) {
        return select(0.0, root * DOWN, root >= LEAST_UP);
    }
    if (total.y == PLAIN) {
        return root;
    }
    return select(MOST, min(root, MOST_DOWN) * UP, total.y == LARGE);
}

// Joins all partials of one kind, for `count` cells from `at` on.
fn total_of(at: u32, count: u32, lane: u32) -> f32 {
    var mine = vec3(0.0, SMALL, 0.0);
    for (var k = lane; k < count; k += WG) {
        mine = join(mine, vec3(partials[at + 6u * k], partials[at + 6u * k + 1u], 0.0));
    }
    let total = join_lanes(mine, lane);
    workgroupBarrier();
    return norm_of(total);
}

@compute @workgroup_size(WG)
fn ratios(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let unit = group_index(id, n);
    if (unit >= p.units) {
        return;
    }
    let row = p.first + unit;
    let end = guard[p.segments + 2u * row];
    var start = 0u;
    if (row > 0u) {
        start = guard[p.segments + 2u * row - 2u];
    }
    let cell = start / (CELL / 4u);
    let count = (end - 1u) / (CELL / 4u) - cell + 1u;
    let at = 6u * (cell + row);
    let all = Norms(total_of(at, count, lane), total_of(at + 2u, count, lane), total_of(at + 4u, count, lane));
    // After a bad step the rows of the last good step remain.
    if (lane != 0u || guard[0] != 0u) {
        return;
    }
    let found = ratio(all, same(start).h);
    let to = p.rows + 4u * guard[p.segments + 2u * row + 1u];
    guard[to] = bitcast<u32>(all.weight);
    guard[to + 1u] = bitcast<u32>(all.gradient);
    guard[to + 2u] = bitcast<u32>(all.direction);
    // A ratio below the smallest normal float becomes 0. A ratio that is not finite becomes the largest float.
    let bits = bitcast<u32>(found);
    guard[to + 3u] = select(bitcast<u32>(MOST), select(0u, bits, (bits & 0x7fffffffu) >= 0x00800000u), finite(found));
}
