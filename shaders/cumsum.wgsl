// cumsum — y[o,i,c] = Σ_{k ≤ i} x[o,k,c], or Σ_{k ≥ i} x[o,k,c] where REVERSE is 1
//   x, y [outer, n, inner]     total [outer, chunks, inner]
// A line is cut into chunks where there are few lines. Then a first pass writes the total of each chunk, and the second pass starts a
// chunk from the sum of the totals before it.
// forward, totals, forward_chunks — portable: an invocation walks along a chunk of one line. Good for many lines.
// The same with _scan — for hardware and long lines: a workgroup has LANES × COLUMNS invocations, COLUMNS neighbouring lines side by side.
// Each invocation adds up EACH elements, and the workgroup then scans the sums of its lanes in shared memory (Hillis and Steele 1986).
// See src/ops/cumsum.rs.
//!include lib/index

// A chunk of a line: its elements in the order of addition are `start..end`.
struct Chunk { o: u32, k: u32, c: u32, start: u32, end: u32 }

// The chunk of unit u, in column c of those that the unit has.
fn chunk_of(u: u32, columns: u32, c: u32) -> Chunk {
    let k = u / p.across % p.chunks;
    let start = k * p.chunk;
    return Chunk(u / p.across / p.chunks, k, u % p.across * columns + c, start, min(start + p.chunk, p.n));
}

// The place of element i in the order of addition.
fn place(t: Chunk, i: u32) -> u32 {
    return (t.o * p.n + select(i, p.n - 1u - i, REVERSE == 1u)) * p.inner + t.c;
}

fn place_of_total(t: Chunk, k: u32) -> u32 {
    return (t.o * p.chunks + k) * p.inner + t.c;
}

fn walk(t: Chunk, before: f32) {
    var sum = before;
    for (var i = t.start; i < t.end; i++) {
        let at = place(t, i);
        sum += x[at];
        y[at] = sum;
    }
}

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let u = group_index(id, n) * WG + lane;
    if u < p.units {
        walk(chunk_of(u, 1u, 0u), 0.0);
    }
}

@compute @workgroup_size(WG)
fn totals(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let u = group_index(id, n) * WG + lane;
    if u < p.units {
        let t = chunk_of(u, 1u, 0u);
        var sum = 0.0;
        for (var i = t.start; i < t.end; i++) {
            sum += x[place(t, i)];
        }
        total[place_of_total(t, t.k)] = sum;
    }
}

@compute @workgroup_size(WG)
fn forward_chunks(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let u = group_index(id, n) * WG + lane;
    if u < p.units {
        let t = chunk_of(u, 1u, 0u);
        var before = 0.0;
        for (var k = 0u; k < t.k; k++) {
            before += total[place_of_total(t, k)];
        }
        walk(t, before);
    }
}

var<workgroup> sums: array<f32, WG>;

// Adds the numbers of the lanes of each column. Returns the sum over the lanes before this lane, and the sum over all lanes.
// All invocations must call it.
fn scanned(v: f32, lane: u32) -> vec2<f32> {
    var sum = v;
    for (var d = COLUMNS; d < WG; d *= 2u) {
        sums[lane] = sum;
        workgroupBarrier();
        if lane >= d {
            sum = sums[lane - d] + sum;
        }
        workgroupBarrier();
    }
    sums[lane] = sum;
    workgroupBarrier();
    var before = 0.0;
    if lane >= COLUMNS {
        before = sums[lane - COLUMNS];
    }
    let all = sums[WG - COLUMNS + lane % COLUMNS];
    workgroupBarrier();
    return vec2(before, all);
}

// A group to spare does the last unit again, without writing: all of a workgroup must reach the barriers.
fn chunk_of_group(u: u32, lane: u32) -> Chunk {
    return chunk_of(min(u, p.units - 1u), COLUMNS, lane % COLUMNS);
}

// Returns whether unit u exists, and whether the column is a line of the tensor.
fn is_there(t: Chunk, u: u32) -> bool {
    return u < p.units && t.c < p.inner;
}

fn scan(t: Chunk, lane: u32, there: bool, start: f32) {
    let first = lane / COLUMNS * EACH;
    var carry = start;
    for (var tile = t.start; tile < t.end; tile += WG / COLUMNS * EACH) {
        var mine: array<f32, EACH>;
        var sum = 0.0;
        for (var e = 0u; e < EACH; e++) {
            let i = tile + first + e;
            if there && i < t.end {
                sum += x[place(t, i)];
            }
            mine[e] = sum;
        }
        let both = scanned(sum, lane);
        for (var e = 0u; e < EACH; e++) {
            let i = tile + first + e;
            if there && i < t.end {
                y[place(t, i)] = carry + (both.x + mine[e]);
            }
        }
        carry += both.y;
    }
}

@compute @workgroup_size(WG)
fn forward_scan(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let u = group_index(id, n);
    let t = chunk_of_group(u, lane);
    scan(t, lane, is_there(t, u), 0.0);
}

@compute @workgroup_size(WG)
fn totals_scan(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let u = group_index(id, n);
    let t = chunk_of_group(u, lane);
    let there = is_there(t, u);
    var sum = 0.0;
    for (var i = t.start + lane / COLUMNS; i < t.end; i += WG / COLUMNS) {
        if there {
            sum += x[place(t, i)];
        }
    }
    let all = scanned(sum, lane).y;
    if there && lane < COLUMNS {
        total[place_of_total(t, t.k)] = all;
    }
}

@compute @workgroup_size(WG)
fn forward_chunks_scan(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let u = group_index(id, n);
    let t = chunk_of_group(u, lane);
    let there = is_there(t, u);
    var sum = 0.0;
    for (var k = lane / COLUMNS; k < t.k; k += WG / COLUMNS) {
        if there {
            sum += total[place_of_total(t, k)];
        }
    }
    scan(t, lane, there, scanned(sum, lane).y);
}
