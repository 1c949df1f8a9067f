// Lines — a tensor [outer, n, inner] as lines of n elements, inner apart from each other; each line belongs to LANES
// invocations of one workgroup, and COLUMNS lines that are neighbours in memory lie side by side, so that neighbouring
// invocations read neighbouring elements. src/ops/lines.rs chooses the numbers and says why.
//   consts WG, COLUMNS, LANES (powers of two)     params n, inner, chunk, chunks, groups, rounds
// A unit is one chunk of a line number: o · chunks + chunk for all inner lines of o, or, where groups > 1, one tile of
// COLUMNS of them; with groups = 1 it goes over all tiles, one a round. Only then can a dispatch be a window of the whole
// (p.first > 0); it sees each tensor from the last multiple of 64 elements at or before its first unit (Span::Lines).
//!include lib/nan

struct Line {
    // Its first element in x; the others are p.inner apart.
    first: u32,
    // How many elements; 0 where this invocation has no line.
    len: u32,
    // Which of its lanes this is: it does the elements lane, lane + LANES, …
    lane: u32,
    // Where its one result goes, in a tensor [outer, chunks, inner].
    out: u32,
    real: bool,
}

// The first element of chunk `at`.
fn start_of(at: u32) -> u32 {
    return (at / p.chunks * p.n + at % p.chunks * p.chunk) * p.inner;
}

fn line_of(group: u32, local: u32, round: u32) -> Line {
    let unit = group * (WG / (COLUMNS * LANES)) + local / (COLUMNS * LANES);
    let column = (unit % p.groups + round) * COLUMNS + local % COLUMNS;
    let row = unit / p.groups;
    let at = p.first + row;
    let base = start_of(p.first) & ~63u;
    let len = min(p.chunk, p.n - at % p.chunks * p.chunk);
    let first = start_of(at) + column - base;
    let out = at * p.inner + column - ((p.first * p.inner) & ~63u);
    let real = unit < p.units && column < p.inner;
    return Line(select(0u, first, real), select(0u, len, real), local / COLUMNS % LANES, out, real);
}

var<workgroup> part: array<f32, WG>;

// The sum of v over the lanes of each line, by a fixed tree; every lane gets it. All invocations must call it.
fn lanes_sum(local: u32, v: f32) -> f32 {
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

// The same for the maximum, NaN where there is one.
fn lanes_max(local: u32, v: f32) -> f32 {
    if LANES == 1u {
        return v;
    }
    let lane = local / COLUMNS % LANES;
    workgroupBarrier();
    part[local] = v;
    for (var step = LANES / 2u; step > 0u; step >>= 1u) {
        workgroupBarrier();
        if lane < step {
            part[local] = larger(part[local], part[local + step * COLUMNS]);
        }
    }
    workgroupBarrier();
    return part[local - lane * COLUMNS];
}
