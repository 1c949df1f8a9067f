// attention — y[i,:] = Σ_j p[i,j] · v[j,:],  y[i,e] = l[i],  p[i,j] = e^(s[i,j] − l[i]),  l[i] = ln Σ_j e^s[i,j],  s = scale · q·kᵀ
//   q [batch, n, d]   k [batch, m, d]   v [batch, m, e]   y [batch, n, e + 1]      j ≤ i where p.causal
// attention_grad — with t[i,j] = scale · p[i,j] · (dy[i,:]·v[j,:] − δ[i]):  dq = t·k,  dk = tᵀ·q,  dv = pᵀ·dy
//   a = [q | dy | l | δ] [batch, n, d + e + 2]   b = [k | v] [batch, m, d + e]   dq [batch, n, d]   dk [batch, m, d]   dv [batch, m, e]
//
// All kernels share one scheme. A tile of scores is `rows`·`cols`ᵀ. The kernel turns scores into weights and adds weights·`values`
// to the output. `rows` are q (forward), a (dq) or b (dk, dv). A workgroup has 4·TR rows and walks along `cols` (k, b or a) in
// tiles of 4·TC. So no tensor of the size n·m is stored. `values` are v, or columns of `cols`.
//
// Scores are blocked for workgroup memory and registers (Volkov & Demmel 2008). A tile is computed from slabs of SLAB terms of all
// its rows and columns. An invocation computes 4 × 4 scores, TR rows and TC columns apart. It holds COLS columns, TC apart, of its
// four rows of the output in registers. A wide output is several units.
// Forward, all invocations know the largest score so far of each row. If it grows, the sums so far are multiplied by e^(old − new), so
// that no power overflows. Each invocation adds the powers of its own scores. The sums are added at the end.
// Generated, and empty without the option: `keys`, how many keys a sequence has; `biased`, a score with its bias and slope, HIDDEN if the
// query does not see the key; `whole_of`, `level_of`, the sum of a row and its largest score, which are 1 and 0 where a row sees no key;
// `window_start`, `window_end`, `near`, the columns that a window of rows may see; `draw`, which draws the numbers of a tile for dropout
// into `weights`, and `kept`, which multiplies a weight by its factor there; `cols_batch`, the batch of `cols` for a batch of queries; and
// `walk_all`, which calls `walk` for each batch of queries that reads the keys of a unit.
// Sources: Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3; Dao et al. 2022,
// "FlashAttention", algorithms 1 and 4.
//!include lib/index
//!include lib/map

const WG = TR * TC;
const TILE_R = 4u * TR;
const TILE_C = 4u * TC;
// The length of a row of a slab. It is one more than a tile, so that neighbours that load along a row read different banks.
const ROW_R = TILE_R + 1u;
const ROW_C = TILE_C + 1u;
const WIDTH = COLS * TC;
// Rows of `values` that fit into a slab.
const DEPTH = min(SLAB / 2u, TILE_C);
// The score of a pair that does not see each other. No score is less.
const HIDDEN = -3.40282347e38;

var<workgroup> slab_r: array<f32, SLAB * ROW_R>;
// It also holds a number for each row and lane of a tile.
var<workgroup> slab_c: array<f32, max(SLAB * ROW_C, TILE_R * TC)>;
// The weights: column j, row i at j · ROW_R + i.
var<workgroup> weights: array<f32, TILE_C * ROW_R>;

// Which rows of the output a unit has.
struct Unit {
    batch: u32,
    row: u32,
    // Its first column.
    first: u32,
}

fn unit_of(unit: u32) -> Unit {
    let block = unit / p.chunks;
    return Unit(block / p.blocks, block % p.blocks * TILE_R, unit % p.chunks * WIDTH);
}

// The numbers that an invocation fetches for a slab, and for a slab of `values`.
const FILLS_R = (TILE_R * SLAB + WG - 1u) / WG;
const FILLS_C = (TILE_C * SLAB + WG - 1u) / WG;
const FILLS_V = (DEPTH * WIDTH + WG - 1u) / WG;

// A part of a slab of rows and of a slab of columns.
struct Fetched {
    r: array<f32, FILLS_R>,
    c: array<f32, FILLS_C>,
}

// Fetches the terms from `at` on. The fetch has no branch, because a compiler waits for a load at the end of a branch. Instead, it moves an
// index beyond an edge to the edge.
fn fetch(lane: u32, batch: u32, cols_of: u32, row: u32, col: u32, first: u32, at: u32, count: u32) -> Fetched {
    var got: Fetched;
    for (var f = 0u; f < FILLS_R; f++) {
        let e = lane + f * WG;
        let i = min(row + e / SLAB, p.rows_n - 1u);
        got.r[f] = rows[(batch * p.rows_n + i) * p.rows_w + first + min(at + e % SLAB, count - 1u)];
    }
    for (var f = 0u; f < FILLS_C; f++) {
        let e = lane + f * WG;
        let j = min(col + e / SLAB, p.cols_n - 1u);
        got.c[f] = cols[(cols_of * p.cols_n + j) * p.cols_w + first + min(at + e % SLAB, count - 1u)];
    }
    return got;
}

// Stores them in the slabs, and 0 in the place of elements beyond an edge.
fn put(lane: u32, row: u32, col: u32, at: u32, count: u32, got: ptr<function, Fetched>) {
    for (var f = 0u; f < FILLS_R; f++) {
        let e = lane + f * WG;
        if TILE_R * SLAB % WG == 0u || e < TILE_R * SLAB {
            slab_r[e % SLAB * ROW_R + e / SLAB] = select(0.0, (*got).r[f], row + e / SLAB < p.rows_n && at + e % SLAB < count);
        }
    }
    for (var f = 0u; f < FILLS_C; f++) {
        let e = lane + f * WG;
        if TILE_C * SLAB % WG == 0u || e < TILE_C * SLAB {
            slab_c[e % SLAB * ROW_C + e / SLAB] = select(0.0, (*got).c[f], col + e / SLAB < p.cols_n && at + e % SLAB < count);
        }
    }
}

// Σ over the columns first .. first + count of rows[row + r + x·TR] · cols[col + c + y·TC], as [x][y], in a batch of `rows` and a batch
// `cols_of` of `cols`. A slab is fetched while the slab
// before it is multiplied. The number of its terms is constant, so that compilers unroll the loop: beyond `count` they are 0.
fn product(lane: u32, batch: u32, cols_of: u32, row: u32, col: u32, first: u32, count: u32) -> mat4x4<f32> {
    let r = lane / TC;
    let c = lane % TC;
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    var next = fetch(lane, batch, cols_of, row, col, first, 0u, count);
    for (var at = 0u; at < count; at += SLAB) {
        put(lane, row, col, at, count, &next);
        workgroupBarrier();
        // After the last slab this fetch has no use.
        next = fetch(lane, batch, cols_of, row, col, first, at + SLAB, count);
        for (var q = 0u; q < SLAB; q++) {
            let ir = q * ROW_R + r;
            let ic = q * ROW_C + c;
            let z = vec4<f32>(slab_c[ic], slab_c[ic + TC], slab_c[ic + 2u * TC], slab_c[ic + 3u * TC]);
            s0 += slab_r[ir] * z;
            s1 += slab_r[ir + TR] * z;
            s2 += slab_r[ir + 2u * TR] * z;
            s3 += slab_r[ir + 3u * TR] * z;
        }
        workgroupBarrier();
    }
    return mat4x4<f32>(s0, s1, s2, s3);
}

// sums += weights · values, for this tile of columns. The weights must be written, but no barrier need have followed.
fn accumulate(lane: u32, batch: u32, col: u32, first: u32, sums: ptr<function, array<vec4<f32>, COLS>>) {
    let r = lane / TC;
    let c = lane % TC;
    var next = fetch_values(lane, batch, col, first);
    for (var k = 0u; k < TILE_C && col + k < p.cols_n; k += DEPTH) {
        workgroupBarrier();
        for (var f = 0u; f < FILLS_V; f++) {
            let e = lane + f * WG;
            if DEPTH * WIDTH % WG == 0u || e < DEPTH * WIDTH {
                slab_c[e] = select(0.0, next[f], col + k + e / WIDTH < p.cols_n);
            }
        }
        workgroupBarrier();
        // After the last slab this fetch has no use.
        next = fetch_values(lane, batch, col + k + DEPTH, first);
        // Beyond the last column, weights and values are 0.
        for (var h = 0u; h < DEPTH; h++) {
            let at = (k + h) * ROW_R + r;
            let w = vec4<f32>(weights[at], weights[at + TR], weights[at + 2u * TR], weights[at + 3u * TR]);
            for (var t = 0u; t < COLS; t++) {
                (*sums)[t] += w * slab_c[h * WIDTH + c + t * TC];
            }
        }
    }
    workgroupBarrier();
}

fn fetch_values(lane: u32, batch: u32, col: u32, first: u32) -> array<f32, FILLS_V> {
    var got: array<f32, FILLS_V>;
    for (var f = 0u; f < FILLS_V; f++) {
        let e = lane + f * WG;
        let j = min(col + e / WIDTH, p.cols_n - 1u);
        got[f] = values[(batch * p.cols_n + j) * p.values_w + p.values_from + min(first + e % WIDTH, p.width - 1u)];
    }
    return got;
}

// Draws the factors of the weights of a tile for dropout: 0 or 1 / (1 − p). Four neighbouring keys share a call of the generator, and
// each invocation makes four calls. The rows are queries.
fn draw_rows(lane: u32, batch: u32, row: u32, col: u32) {
    for (var f = 0u; f < 4u; f++) {
        let e = lane + f * WG;
        let factors = factors_of(batch, row + e / TC, col / 4u + e % TC);
        for (var z = 0u; z < 4u; z++) {
            weights[(e % TC * 4u + z) * ROW_R + e / TC] = factors[z];
        }
    }
}

// The same where the columns are queries.
fn draw_columns(lane: u32, batch: u32, row: u32, col: u32) {
    for (var f = 0u; f < 4u; f++) {
        let e = lane + f * WG;
        let factors = factors_of(batch, col + e / TR, row / 4u + e % TR);
        for (var z = 0u; z < 4u; z++) {
            weights[e / TR * ROW_R + e % TR * 4u + z] = factors[z];
        }
    }
}

fn factors_of(batch: u32, query: u32, quad: u32) -> vec4<f32> {
    let u = uniform01x4(step.seed, step.step, p.stream, (batch * p.queries + query) * p.quads + quad);
    return select(vec4<f32>(), vec4<f32>(p.scale_of_kept), u >= vec4<f32>(p.dropout));
}

// The values that a step of a reduction reads: for each of an invocation's four rows, over the TC invocations of the row.
fn across(r: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(slab_c[r * TC + k], slab_c[(r + TR) * TC + k], slab_c[(r + 2u * TR) * TC + k], slab_c[(r + 3u * TR) * TC + k]);
}

fn exp4(x: vec4<f32>) -> vec4<f32> { return vec4<f32>(f_exp(x.x), f_exp(x.y), f_exp(x.z), f_exp(x.w)); }

fn larger4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(larger(a.x, b.x), larger(a.y, b.y), larger(a.z, b.z), larger(a.w, b.w));
}

fn sees(count: u32, query: u32, key: u32) -> bool { return (p.causal == 0u || key <= query) && key < count; }

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let number = group_index(group, groups);
    if number >= p.units {
        return;
    }
    let unit = unit_of(number);
    let r = lane / TC;
    let c = lane % TC;
    var top = vec4<f32>(HIDDEN);
    var total = vec4<f32>();
    var sums: array<vec4<f32>, COLS>;
    for (var t = 0u; t < COLS; t++) {
        sums[t] = vec4<f32>();
    }
    let cols_of = cols_batch(unit.batch);
    // Without masks every row sees the first key, so that after the first tile no top is HIDDEN.
    let start = window_start(unit.row) / TILE_C * TILE_C;
    let count = keys(unit.batch);
    let last = min(count, window_end(unit.row + TILE_R));
    let end = min(last, select(p.cols_n, min(p.cols_n, unit.row + TILE_R), p.causal == 1u));
    for (var col = start; col < end; col += TILE_C) {
        draw(lane, unit.batch, unit.row, col);
        var s = product(lane, unit.batch, cols_of, unit.row, col, 0u, p.d);
        for (var x = 0u; x < 4u; x++) {
            var most = HIDDEN;
            for (var z = 0u; z < 4u; z++) {
                let j = col + c + z * TC;
                let i = unit.row + r + x * TR;
                let score = select(HIDDEN, biased(unit.batch, i, j, s[x][z] * p.scale), j < p.cols_n && near(i, j) && sees(count, i, j));
                s[x][z] = score;
                most = larger(most, score);
            }
            slab_c[(r + x * TR) * TC + c] = most;
        }
        workgroupBarrier();
        let before = top;
        for (var k = 0u; k < TC; k++) {
            top = larger4(top, across(r, k));
        }
        let shrink = exp4(before - top);
        total *= shrink;
        for (var t = 0u; t < COLS; t++) {
            sums[t] *= shrink;
        }
        for (var x = 0u; x < 4u; x++) {
            let w = select(exp4(s[x] - top[x]), vec4<f32>(), s[x] == vec4<f32>(HIDDEN));
            total[x] += w.x + w.y + w.z + w.w;
            for (var z = 0u; z < 4u; z++) {
                let at = (c + z * TC) * ROW_R + r + x * TR;
                weights[at] = kept(at, w[z]);
            }
        }
        accumulate(lane, cols_of, col, unit.first, &sums);
    }
    for (var x = 0u; x < 4u; x++) {
        slab_c[(r + x * TR) * TC + c] = total[x];
    }
    workgroupBarrier();
    total = vec4<f32>();
    for (var k = 0u; k < TC; k++) {
        total += across(r, k);
    }
    for (var x = 0u; x < 4u; x++) {
        let i = unit.row + r + x * TR;
        if i < p.rows_n {
            let out = (unit.batch * p.rows_n + i) * (p.width + 1u);
            for (var t = 0u; t < COLS; t++) {
                let at = unit.first + c + t * TC;
                if at < p.width {
                    y[out + at] = sums[t][x] / whole_of(total[x]);
                }
            }
            if c == 0u && unit.first == 0u {
                y[out + p.width] = level_of(top[x], total[x]) + f_ln(whole_of(total[x]));
            }
        }
    }
}

// l (which = 0) or δ (which = 1) of four queries. They are the last two columns of the queries' side.
fn of_queries(batch: u32, i: vec4<u32>, which: u32) -> vec4<f32> {
    let column = p.d + p.e + which;
    if p.of_queries == 1u {
        let at = (batch * p.rows_n + min(i, vec4<u32>(p.rows_n - 1u))) * p.rows_w + column;
        return vec4<f32>(rows[at.x], rows[at.y], rows[at.z], rows[at.w]);
    }
    let at = (batch * p.cols_n + min(i, vec4<u32>(p.cols_n - 1u))) * p.cols_w + column;
    return vec4<f32>(cols[at.x], cols[at.y], cols[at.z], cols[at.w]);
}

// Adds the products of a batch `queries` of queries to the sums of the rows `row` .. of a batch.
fn walk(lane: u32, queries: u32, batch: u32, row: u32, first: u32, sums: ptr<function, array<vec4<f32>, COLS>>) {
    // Queries see the keys up to their own number; keys are seen by the queries from their own number on.
    let r = lane / TC;
    let c = lane % TC;
    let cols_of = cols_batch(queries);
    var start = 0u;
    var end = p.cols_n;
    if p.causal == 1u {
        if p.of_queries == 1u {
            end = min(end, row + TILE_R);
        } else {
            start = row / TILE_C * TILE_C;
        }
    }
    start = max(start, window_start(row) / TILE_C * TILE_C);
    end = min(end, window_end(row + TILE_R));
    // Keys behind the end of a sequence have no weight.
    let count = keys(queries);
    if p.of_queries == 1u {
        end = min(end, count);
    } else if row >= count {
        end = 0u;
    }
    for (var col = start; col < end; col += TILE_C) {
        draw(lane, queries, row, col);
        let s = product(lane, batch, cols_of, row, col, 0u, p.d);
        var dp = mat4x4<f32>();
        if p.of_values == 0u {
            dp = product(lane, batch, cols_of, row, col, p.d, p.e);
        }
        // l and δ of the four queries of an invocation. They are loaded here, so that they take no registers while scores are computed.
        let four = vec4<u32>(0u, 1u, 2u, 3u);
        let query4 = select(col + c + four * TC, row + r + four * TR, p.of_queries == 1u);
        let l = of_queries(queries, query4, 0u);
        let delta = of_queries(queries, query4, 1u);
        for (var x = 0u; x < 4u; x++) {
            for (var z = 0u; z < 4u; z++) {
                let i = row + r + x * TR;
                let j = col + c + z * TC;
                let query = p.of_queries == 1u;
                // The query and the key of this pair.
                let q = select(j, i, query);
                let k = select(i, j, query);
                let seen = i < p.rows_n && j < p.cols_n && near(i, j) && sees(count, q, k);
                var w = f_exp(biased(queries, q, k, s[x][z] * p.scale) - select(l[z], l[x], query));
                let at = (c + z * TC) * ROW_R + r + x * TR;
                if p.of_values == 0u {
                    w *= (kept(at, dp[x][z]) - select(delta[z], delta[x], query)) * p.scale;
                } else {
                    w = kept(at, w);
                }
                weights[at] = select(0.0, w, seen);
            }
        }
        accumulate(lane, cols_of, col, first, sums);
    }
}

@compute @workgroup_size(WG)
fn grad(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let number = group_index(group, groups);
    if number >= p.units {
        return;
    }
    let unit = unit_of(number);
    let r = lane / TC;
    let c = lane % TC;
    var sums: array<vec4<f32>, COLS>;
    for (var t = 0u; t < COLS; t++) {
        sums[t] = vec4<f32>();
    }
    walk_all(lane, unit.batch, unit.row, unit.first, &sums);
    for (var x = 0u; x < 4u; x++) {
        let i = unit.row + r + x * TR;
        for (var t = 0u; t < COLS; t++) {
            let at = unit.first + c + t * TC;
            if i < p.rows_n && at < p.width {
                y[(unit.batch * p.rows_n + i) * p.width + at] = sums[t][x];
            }
        }
    }
}
