// attention_rows — attention and attention_grad of attention.wgsl, for adapters that are a CPU in disguise
//
// As in matmul_rows.wgsl there are no barriers and no workgroup memory: one subgroup of LANES invocations is the whole
// workgroup and computes ROWS rows of the output. A lane owns four columns, LANES apart, of all rows of a tile of scores, and
// then four columns of the output. The subgroup broadcasts values of other lanes: an element of `rows`, or a weight. The loop
// over `cols` in tiles of 4·LANES, the scores, weights and sums, and the online softmax are those of attention.wgsl.
// Rows and columns beyond the edges are computed from the last one. Their weights are 0, and they are not stored.
//!include lib/index
//!include lib/map

const PARTS = ROWS / LANES;
const TILE = 4u * LANES;
// The score of a pair that does not see each other. No score is less.
const HIDDEN = -3.40282347e38;

// The columns of this lane.
fn columns(first: u32, lane: u32) -> vec4<u32> { return first + lane + LANES * vec4<u32>(0u, 1u, 2u, 3u); }

// Σ over the columns first .. first + count of rows[row + r] · cols[the lane's four from col on], for all r.
fn product(lane: u32, batch: u32, cols_of: u32, row: u32, col: u32, first: u32, count: u32, s: ptr<function, array<vec4<f32>, ROWS>>) {
    var at_r: array<u32, PARTS>;
    for (var i = 0u; i < PARTS; i++) {
        at_r[i] = (batch * p.rows_n + min(row + i * LANES + lane, p.rows_n - 1u)) * p.rows_w + first;
    }
    var at_c = (cols_of * p.cols_n + min(columns(col, lane), vec4<u32>(p.cols_n - 1u))) * p.cols_w + first;
    for (var r = 0u; r < ROWS; r++) {
        (*s)[r] = vec4<f32>();
    }
    for (var q = 0u; q < count; q++) {
        let z = vec4<f32>(cols[at_c.x], cols[at_c.y], cols[at_c.z], cols[at_c.w]);
        for (var i = 0u; i < PARTS; i++) {
            let x = rows[at_r[i] + q];
            for (var h = 0u; h < LANES; h++) {
                (*s)[i * LANES + h] += subgroupShuffle(x, h) * z;
            }
        }
        at_c += 1u;
    }
}

// sums += weights · values, for this tile of columns.
fn accumulate(lane: u32, batch: u32, col: u32, first: u32, weights: ptr<function, array<vec4<f32>, ROWS>>, sums: ptr<function, array<vec4<f32>, ROWS>>) {
    let at = p.values_from + min(columns(first, lane), vec4<u32>(p.width - 1u));
    for (var z = 0u; z < 4u; z++) {
        for (var h = 0u; h < LANES; h++) {
            let v = (batch * p.cols_n + min(col + z * LANES + h, p.cols_n - 1u)) * p.values_w + at;
            let value = vec4<f32>(values[v.x], values[v.y], values[v.z], values[v.w]);
            for (var r = 0u; r < ROWS; r++) {
                (*sums)[r] += subgroupShuffle((*weights)[r][z], h) * value;
            }
        }
    }
}

fn exp4(x: vec4<f32>) -> vec4<f32> { return vec4<f32>(f_exp(x.x), f_exp(x.y), f_exp(x.z), f_exp(x.w)); }

// The scores of query i and the keys j.
fn biased4(batch: u32, i: u32, j: vec4<u32>, s: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(biased(batch, i, j.x, s.x), biased(batch, i, j.y, s.y), biased(batch, i, j.z, s.z), biased(batch, i, j.w, s.w));
}

// The factors of the weights of four pairs for dropout: 0 or 1 / (1 − p).
fn factors(batch: u32, query: vec4<u32>, key: vec4<u32>) -> vec4<f32> {
    let block = (batch * p.queries + query) * p.quads + key / 4u;
    var u = vec4<f32>();
    for (var z = 0u; z < 4u; z++) {
        u[z] = uniform01x4(step.seed, step.step, p.stream, block[z])[key[z] % 4u];
    }
    return select(vec4<f32>(), vec4<f32>(p.scale_of_kept), u >= vec4<f32>(p.dropout));
}

@compute @workgroup_size(LANES)
fn forward_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let block = unit / p.chunks;
    let batch = block / p.blocks;
    let row = block % p.blocks * ROWS;
    let first = unit % p.chunks * TILE;
    var top: array<f32, ROWS>;
    var total: array<f32, ROWS>;
    var s: array<vec4<f32>, ROWS>;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        top[r] = HIDDEN;
        total[r] = 0.0;
        sums[r] = vec4<f32>();
    }
    let cols_of = cols_batch(batch);
    let cols_n = min(p.cols_n, keys(batch));
    let start = window_start(row) / TILE * TILE;
    let end = min(window_end(row + ROWS), select(cols_n, min(cols_n, row + ROWS), p.causal == 1u));
    for (var col = start; col < end; col += TILE) {
        product(lane, batch, cols_of, row, col, 0u, p.d, &s);
        let j = columns(col, lane);
        for (var r = 0u; r < ROWS; r++) {
            let visible = (j < vec4<u32>(select(cols_n, min(cols_n, row + r + 1u), p.causal == 1u))) & near4(row + r, j);
            let x = select(vec4<f32>(HIDDEN), biased4(batch, row + r, j, s[r] * p.scale), visible);
            let seen = visible & (x != vec4<f32>(HIDDEN));
            let before = top[r];
            top[r] = max(before, subgroupMax(max(max(x.x, x.y), max(x.z, x.w))));
            let shrink = f_exp(before - top[r]);
            s[r] = select(vec4<f32>(), exp4(x - top[r]), seen);
            // The sum over this lane's columns. The sums of the lanes are added at the end.
            total[r] = total[r] * shrink + s[r].x + s[r].y + s[r].z + s[r].w;
            sums[r] *= shrink;
            s[r] = kept4(batch, row + r, j, s[r]);
        }
        accumulate(lane, cols_of, col, first, &s, &sums);
    }
    let at = columns(first, lane);
    for (var r = 0u; r < ROWS; r++) {
        let whole = subgroupAdd(total[r]);
        let out = (batch * p.rows_n + row + r) * (p.width + 1u);
        if row + r < p.rows_n {
            for (var z = 0u; z < 4u; z++) {
                if at[z] < p.width {
                    y[out + at[z]] = sums[r][z] / whole_of(whole);
                }
            }
            if lane == 0u && first == 0u {
                y[out + p.width] = level_of(top[r], whole) + f_ln(whole_of(whole));
            }
        }
    }
}

// Adds the products of a batch `queries` of queries to the sums of the rows `row` .. of a batch.
fn walk_rows(lane: u32, queries: u32, batch: u32, row: u32, first: u32, sums: ptr<function, array<vec4<f32>, ROWS>>) {
    var s: array<vec4<f32>, ROWS>;
    var dp: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        dp[r] = vec4<f32>();
    }
    let cols_of = cols_batch(queries);
    var start = 0u;
    var end = p.cols_n;
    if p.causal == 1u {
        if p.of_queries == 1u {
            end = min(end, row + ROWS);
        } else {
            start = row / TILE * TILE;
        }
    }
    start = max(start, window_start(row) / TILE * TILE);
    end = min(end, window_end(row + ROWS));
    if p.of_queries == 1u {
        end = min(end, keys(queries));
    } else if row >= keys(queries) {
        end = 0u;
    }
    for (var col = start; col < end; col += TILE) {
        product(lane, batch, cols_of, row, col, 0u, p.d, &s);
        if p.of_values == 0u {
            product(lane, batch, cols_of, row, col, p.d, p.e, &dp);
        }
        let j = columns(col, lane);
        // l and δ are the last two columns of the queries' side: of this lane's columns, or of each row.
        var l = vec4<f32>();
        var delta = vec4<f32>();
        if p.of_queries == 0u {
            let at = (cols_of * p.cols_n + min(j, vec4<u32>(p.cols_n - 1u))) * p.cols_w + p.d + p.e;
            l = vec4<f32>(cols[at.x], cols[at.y], cols[at.z], cols[at.w]);
            delta = vec4<f32>(cols[at.x + 1u], cols[at.y + 1u], cols[at.z + 1u], cols[at.w + 1u]);
        }
        for (var r = 0u; r < ROWS; r++) {
            let i = row + r;
            var seen = j >= vec4<u32>(i);
            if p.of_queries == 1u {
                let at = (batch * p.rows_n + min(i, p.rows_n - 1u)) * p.rows_w + p.d + p.e;
                l = vec4<f32>(rows[at]);
                delta = vec4<f32>(rows[at + 1u]);
                seen = j <= vec4<u32>(i);
            }
            var x = s[r] * p.scale;
            if p.of_queries == 1u {
                x = biased4(queries, i, j, x);
            } else {
                x = vec4<f32>(biased(queries, j.x, i, x.x), biased(queries, j.y, i, x.y), biased(queries, j.z, i, x.z), biased(queries, j.w, i, x.w));
            }
            var w = exp4(x - l);
            if p.of_values == 0u {
                w *= (kept4(queries, i, j, dp[r]) - delta) * p.scale;
            } else {
                w = kept4(queries, i, j, w);
            }
            let key = select(vec4<u32>(i), j, p.of_queries == 1u);
            seen = (seen | vec4<bool>(p.causal == 0u)) & (j < vec4<u32>(p.cols_n)) & (key < vec4<u32>(keys(queries))) & near4(i, j);
            s[r] = select(vec4<f32>(), w, seen);
        }
        accumulate(lane, cols_of, col, first, &s, sums);
    }
}

@compute @workgroup_size(LANES)
fn grad_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let unit = group_index(group, groups);
    if unit >= p.units {
        return;
    }
    let block = unit / p.chunks;
    let batch = block / p.blocks;
    let row = block % p.blocks * ROWS;
    let first = unit % p.chunks * TILE;
    var sums: array<vec4<f32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        sums[r] = vec4<f32>();
    }
    walk_all_rows(lane, batch, row, first, &sums);
    let at = columns(first, lane);
    for (var r = 0u; r < ROWS; r++) {
        for (var z = 0u; z < 4u; z++) {
            if row + r < p.rows_n && at[z] < p.width {
                y[(batch * p.rows_n + row + r) * p.width + at[z]] = sums[r][z];
            }
        }
    }
}
