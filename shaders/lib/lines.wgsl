// Lines — a tensor [outer, n, inner] as lines of n elements, inner apart from each other. src/ops/lines.rs chooses how they
// are divided among invocations and says why. The pass defines a function `line`. The function `lines` of one of these files calls it:
//   lib/lanes       LANES invocations of a workgroup for a line; a tree in workgroup memory joins their results
//   lib/subgroup    a subgroup for a line; subgroup functions join the results without a barrier
//   lib/workgroup   a workgroup for a line; each subgroup joins its results first
//   lib/strip       many neighbouring lines for an invocation; nothing is joined
// Elements are V, one number or four of them (lib/scalar, lib/along4, lib/across4), and so are all sizes and places here.
//   params n, inner, chunk, chunks, groups, rounds
// A unit is one chunk of a line number: o · chunks + chunk for all inner lines of o, or, where groups > 1, one tile of
// COLUMNS of them. With groups = 1 it goes over all tiles, one a round. Only then can a dispatch be a window of the whole
// (p.first > 0). The window sees each tensor from the last multiple of 64 numbers at or before its first unit (Span::Lines).
//!include lib/index

struct Line {
    // The place of its first element in x. Its elements are p.inner apart.
    first: u32,
    // The number of elements. It is 0 if this invocation has no line.
    len: u32,
    // The number of this lane, and the number of lanes. This lane reads the elements lane, lane + lanes, …
    lane: u32,
    lanes: u32,
    // The place of the line's one result in a tensor [outer, chunks, inner], and its index along the inner axis.
    out: u32,
    column: u32,
    real: bool,
}

// The first element of chunk `at`.
fn start_of(at: u32) -> u32 {
    return (at / p.chunks * p.n + at % p.chunks * p.chunk) * p.inner;
}

// The start of the window of a tensor with elements of `wide` numbers each, if its first element is `start`.
fn window_of(start: u32, wide: u32) -> u32 {
    return start & ~(64u / wide - 1u);
}

fn line_of(unit: u32, in_tile: u32, round: u32, lane: u32, lanes: u32) -> Line {
    let column = (unit % p.groups + round) * COLUMNS + in_tile;
    let at = p.first + unit / p.groups;
    let len = min(p.chunk, p.n - at % p.chunks * p.chunk);
    let first = start_of(at) + column - window_of(start_of(p.first), WIDE);
    let out = at * p.inner + column - window_of(p.first * p.inner, WIDE_OUT);
    let real = unit < p.units && column < p.inner;
    return Line(select(0u, first, real), select(0u, len, real), lane, lanes, out, column, real);
}

// Returns whether this invocation writes the result of its line.
fn writes(t: Line) -> bool {
    return t.real && t.lane == 0u;
}

// The number of this lane's elements, the place of its k-th element, and whether it exists. A KEEP above 0 is at least the number.
fn share(t: Line) -> u32 {
    if KEEP > 0u {
        return KEEP;
    }
    return (t.len + t.lanes - 1u - t.lane) / t.lanes;
}

fn number(t: Line, k: u32) -> u32 {
    return t.lane + k * t.lanes;
}

fn place(t: Line, k: u32) -> u32 {
    return t.first + number(t, k) * p.inner;
}

fn has(t: Line, k: u32) -> bool {
    return KEEP == 0u || number(t, k) < t.len;
}

// The k-th element of x. It comes from registers if KEEP is above 0. Loops of a constant length are unrolled.
var<private> kept_x: array<V, KEPT>;

fn keep_x(t: Line) {
    for (var k = 0u; k < KEEP; k++) {
        if has(t, k) {
            kept_x[k] = x[place(t, k)];
        }
    }
}

fn x_of(t: Line, k: u32) -> V {
    if KEEP > 0u {
        return kept_x[k];
    }
    return x[place(t, k)];
}
