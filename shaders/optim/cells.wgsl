// cells — sums of squares by parameter: one workgroup for each CELL elements of a piece makes a partial for each parameter in the cell, so
// that no sum crosses from one parameter to the next
// The place of a partial is the number of the cell plus the number of the parameter. This sum grows from cell to cell and from parameter to
// parameter, so no two partials share a place. A partial has three sums, each with its class (join.wgsl).
//   partials [cells + parameters, 6]
// The first element lies SHIFT fours behind the start of the first cell. So a part of a piece has the sums that the whole piece would have.

const MOST: f32 = 3.4028234663852886e38;
// The smallest normal float times 2^84, and MOST times 2^-84.
const LEAST_UP: f32 = 2.2737367544323206e-13;
const MOST_DOWN: f32 = 17592184995840.0;

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

// Where parameter `row` of the piece starts.
fn start_of(row: u32) -> u32 {
    if (row == 0u) {
        return 0u;
    }
    return guard[p.segments + 2u * row - 2u];
}

// The three norms of parameter `row` of the piece.
fn norms_of(row: u32, lane: u32) -> vec3<f32> {
    let cell = (start_of(row) + SHIFT) / (CELL / 4u);
    let count = (guard[p.segments + 2u * row] - 1u + SHIFT) / (CELL / 4u) - cell + 1u;
    let at = 6u * (cell + row);
    return vec3(total_of(at, count, lane), total_of(at + 2u, count, lane), total_of(at + 4u, count, lane));
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
