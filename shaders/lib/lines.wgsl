// Lines — a tensor [outer, n, inner] as lines of n elements, inner apart from each other. src/ops/lines.rs chooses how they
// are divided among invocations and says why; the pass gives a function `line`, and `lines` of one of these calls it:
//   lib/lanes       LANES invocations of a workgroup to a line, put together by a tree in workgroup memory
//   lib/subgroup    a subgroup to a line, put together by its own functions: no barrier
//   lib/workgroup   a workgroup to a line, put together by subgroups first
//   lib/strip       many neighbouring lines to an invocation, which are not put together
// Elements are V, one number or four of them (lib/scalar, lib/along4, lib/across4), and so are all sizes and places here.
//   params n, inner, chunk, chunks, groups, rounds
// A unit is one chunk of a line number: o · chunks + chunk for all inner lines of o, or, where groups > 1, one tile of
// COLUMNS of them; with groups = 1 it goes over all tiles, one a round. Only then can a dispatch be a window of the whole
// (p.first > 0); it sees each tensor from the last multiple of 64 numbers at or before its first unit (Span::Lines).
//!include lib/index

struct Line {
    // Its first element in x; the others are p.inner apart.
    first: u32,
    // How many elements; 0 where this invocation has no line.
    len: u32,
    // Which of its lanes this is, of how many: it does the elements lane, lane + lanes, …
    lane: u32,
    lanes: u32,
    // Where its one result goes, in a tensor [outer, chunks, inner], and which of the inner ones it is.
    out: u32,
    column: u32,
    real: bool,
}

// The first element of chunk `at`.
fn start_of(at: u32) -> u32 {
    return (at / p.chunks * p.n + at % p.chunks * p.chunk) * p.inner;
}

// Where a window begins of a tensor whose elements are `wide` numbers each, if its first one is `start`.
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

// Whether this invocation writes the result of its line.
fn writes(t: Line) -> bool {
    return t.real && t.lane == 0u;
}

// This lane's elements: how many, where the k-th one is, and whether there is one. A KEEP above 0 is at least their number.
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

// The k-th element of x: from registers where KEEP says that they hold a lane's share. Loops of a constant length are unrolled.
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
