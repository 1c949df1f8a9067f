==== matmul_tiles.forward_tiles 1
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 1u;
const TILE_M: u32 = 32u;
const TILE_N: u32 = 32u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
fn map(i: u32, x0: f32) -> f32 {
 return x0;
}
fn four_a(start: u32, i: u32, last: u32) -> vec4<f32> {
 return a[(start + min(i, last)) / 4u];
}
fn four_b(start: u32, i: u32, last: u32) -> vec4<f32> {
 return b[(start + min(i, last)) / 4u];
}
fn group_index(id: vec3<u32>, n: vec3<u32>) -> u32 {
 return id.x + n.x * (id.y + n.y * id.z);
}
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
fn work(unit: u32, rows: u32, columns: u32) -> Work {
 let all = p.first + unit;
 let outer = all / p.tiles;
 let tile = all % p.tiles;
 let start = batch_starts(outer);
 let before = p.first / p.block_units;
 let first = outer * p.share;
 let band = tile / (p.walk * p.tiles_n);
 let height = min(p.walk, p.tiles_m - band * p.walk);
 let place = tile % (p.walk * p.tiles_n);
 return Work(start.x - before * p.block_a, start.y - before * p.block_b, outer * p.size - before * p.block_y,
  (band * p.walk + place % height) * rows, place / height * columns, first, min(first + p.terms, p.k));
}
fn batch_starts(i: u32) -> vec2<u32> {
 let c3 = i % p.d3;
 let r3 = i / p.d3;
 let c2 = r3 % p.d2;
 let r2 = r3 / p.d2;
 let c1 = r2 % p.d1;
 let c0 = r2 / p.d1;
 return vec2<u32>(c0 * p.a0 + c1 * p.a1 + c2 * p.a2 + c3 * p.a3, c0 * p.b0 + c1 * p.b1 + c2 * p.b2 + c3 * p.b3);
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
fn own_row(lane: u32, r: u32) -> u32 {
 return (r / 4u * LANES_M + lane / LANES_N) * 4u + r % 4u;
}
fn own_column(lane: u32, v: u32) -> u32 {
 return (v * LANES_N + lane % LANES_N) * 4u;
}
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
fn factor_a(at: u32, q: u32, i: u32) -> vec4<f32> { return slab_a[at + q * (TILE_M / 4u) + i * LANES_M]; }
fn factors_b(at: u32, q: u32) -> array<vec4<f32>, VECS_N> {
 var f: array<vec4<f32>, VECS_N>;
 for (var j = 0u; j < VECS_N; j++) {
  f[j] = slab_b[at + q * (TILE_N / 4u) + j * LANES_N];
 }
 return f;
}
fn multiply(slab: u32, lane: u32, sums: ptr<function, array<vec4<f32>,PER_M*VECS_N>>) {
 let at = vec2<u32>(slab * SLAB * (TILE_M / 4u) + lane / LANES_N, slab * SLAB * (TILE_N / 4u) + lane % LANES_N);
 var now: Factors;
 for (var i = 0u; i < VECS_M; i++) {
  now.a[i] = factor_a(at.x, 0u, i);
 }
 now.b = factors_b(at.y, 0u);
 multiply_four(at, 0u, &now, sums);
 multiply_four(at, 4u, &now, sums);
 if SLAB == 16u {
  multiply_four(at, 8u, &now, sums);
  multiply_four(at, 12u, &now, sums);
 }
}
fn multiply_four(at: vec2<u32>, first: u32, now: ptr<function, Factors>, sums: ptr<function, array<vec4<f32>,PER_M*VECS_N>>) {
 for (var q = 1u; q <= 4u; q++) {
  let next = (first + q) % SLAB;
  let next_b = factors_b(at.y, next);
  for (var i = 0u; i < VECS_M; i++) {
   let va = (*now).a[i];
   if VECS_M == 1u {
    (*now).a[i] = factor_a(at.x, next, i);
   }
   for (var j = 0u; j < VECS_N; j++) {
    let vb = (*now).b[j];
    let to = i * 4u * VECS_N + j;
    (*sums)[to] = fma(vec4<f32>(va.x), vb, (*sums)[to]);
    (*sums)[to + VECS_N] = fma(vec4<f32>(va.y), vb, (*sums)[to + VECS_N]);
    (*sums)[to + 2u * VECS_N] = fma(vec4<f32>(va.z), vb, (*sums)[to + 2u * VECS_N]);
    (*sums)[to + 3u * VECS_N] = fma(vec4<f32>(va.w), vb, (*sums)[to + 3u * VECS_N]);
   }
   if VECS_M > 1u {
    (*now).a[i] = factor_a(at.x, next, i);
   }
  }
  (*now).b = next_b;
 }
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
fn fetch_a(w: Work, q: u32, e: u32) -> vec4<f32> {
 if TA == 1u {
  return four_a(w.a + min(q + e / (TILE_M / 4u), w.end - 1u) * p.m, w.row + e % (TILE_M / 4u) * 4u, p.m - 1u);
 }
 return four_a(w.a + min(w.row + e / (SLAB / 4u), p.m - 1u) * p.k, q + e % (SLAB / 4u) * 4u, w.end - 1u);
}
fn fetch_b(w: Work, q: u32, e: u32) -> vec4<f32> {
 if TB == 1u {
  return four_b(w.b + min(w.column + e / (SLAB / 4u), p.n - 1u) * p.k, q + e % (SLAB / 4u) * 4u, w.end - 1u);
 }
 return four_b(w.b + min(q + e / (TILE_N / 4u), w.end - 1u) * p.n, w.column + e % (TILE_N / 4u) * 4u, p.n - 1u);
}
fn cut_a(left: u32, e: u32, v: vec4<f32>) -> vec4<f32> {
 if TA == 1u {
  return select(vec4<f32>(0.0), v, e / (TILE_M / 4u) < left);
 }
 return select(vec4<f32>(0.0), v, vec4<u32>(0u, 1u, 2u, 3u) + e % (SLAB / 4u) * 4u < vec4<u32>(left));
}
fn cut_b(left: u32, e: u32, v: vec4<f32>) -> vec4<f32> {
 if TB == 0u {
  return select(vec4<f32>(0.0), v, e / (TILE_N / 4u) < left);
 }
 return select(vec4<f32>(0.0), v, vec4<u32>(0u, 1u, 2u, 3u) + e % (SLAB / 4u) * 4u < vec4<u32>(left));
}
fn put_a(slab: u32, e: u32, v: vec4<f32>) {
 if TA == 1u {
  slab_a[slab * VECS_A + e] = v;
  return;
 }
 let row = e / (SLAB / 4u);
 let at = slab * VECS_A + e % (SLAB / 4u) * TILE_M + row / 4u;
 for (var t = 0u; t < 4u; t++) {
  slab_a[at + t * (TILE_M / 4u)][row % 4u] = v[t];
 }
}
fn put_b(slab: u32, e: u32, v: vec4<f32>) {
 if TB == 0u {
  slab_b[slab * VECS_B + e] = v;
  return;
 }
 let column = e / (SLAB / 4u);
 let at = slab * VECS_B + e % (SLAB / 4u) * TILE_N + column / 4u;
 for (var t = 0u; t < 4u; t++) {
  slab_b[at + t * (TILE_N / 4u)][column % 4u] = v[t];
 }
}
@compute @workgroup_size(WG)
fn forward_tiles(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let unit = group_index(group, groups);
 if unit >= p.units {
  return;
 }
 let w = work(unit, TILE_M, TILE_N);
 var sums = array<vec4<f32>,PER_M*VECS_N>();
 var next_a: array<vec4<f32>, FETCHES_A>;
 var next_b: array<vec4<f32>, FETCHES_B>;
 for (var f = 0u; f < FETCHES_A; f++) {
  next_a[f] = fetch_a(w, w.first, lane + f * WG);
 }
 for (var f = 0u; f < FETCHES_B; f++) {
  next_b[f] = fetch_b(w, w.first, lane + f * WG);
 }
 var slab = 0u;
 for (var q = w.first; q < w.end; q += SLAB) {
  let left = w.end - q;
  if left < SLAB {
   for (var f = 0u; f < FETCHES_A; f++) {
    next_a[f] = cut_a(left, lane + f * WG, next_a[f]);
   }
   for (var f = 0u; f < FETCHES_B; f++) {
    next_b[f] = cut_b(left, lane + f * WG, next_b[f]);
   }
  }
  for (var f = 0u; f < FETCHES_A; f++) {
   if VECS_A % WG == 0u || lane + f * WG < VECS_A {
    put_a(slab, lane + f * WG, next_a[f]);
   }
  }
  for (var f = 0u; f < FETCHES_B; f++) {
   if VECS_B % WG == 0u || lane + f * WG < VECS_B {
    put_b(slab, lane + f * WG, next_b[f]);
   }
  }
  workgroupBarrier();
  for (var f = 0u; f < FETCHES_A; f++) {
   next_a[f] = fetch_a(w, q + SLAB, lane + f * WG);
  }
  for (var f = 0u; f < FETCHES_B; f++) {
   next_b[f] = fetch_b(w, q + SLAB, lane + f * WG);
  }
  multiply(slab, lane, &sums);
  slab = 1u - slab;
 }
 for (var r = 0u; r < PER_M; r++) {
  let i = w.row + own_row(lane, r);
  if i < p.m {
   for (var v = 0u; v < VECS_N; v++) {
    let j = w.column + own_column(lane, v);
    store(w.y + i * p.n + j, p.n - min(j, p.n), sums[r * VECS_N + v]);
   }
  }
 }
}
fn store(e: u32, left: u32, v: vec4<f32>) {
 if left == 0u {
  return;
 }
 let at = e + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(left - 1u));
 let all = vec4<f32>(map(at.x, v.x), map(at.y, v.y), map(at.z, v.z), map(at.w, v.w));
 for (var t = 0u; t < 4u; t++) {
  if t < left {
   y[at[t]] = all[t];
  }
 }
}==== sum_parts.sum_parts 1
(0) var<uniform> p: Params;
(1) <read> part: array<f32>;
(2) <read> e0: array<f32>;
(3) <read_write> y: array<f32>;
const LANES: u32 = 256u;
fn f_relu(x: f32) -> f32 { return select(x, 0.0, x <= 0.0); }
fn f_add(a: f32, b: f32) -> f32 { return a + b; }
fn map(i: u32, x0: f32) -> f32 {
 let g = p.first + i;
 let c1 = g % p.e_dim1;
 let r1 = g / p.e_dim1;
 let c0 = r1;
 let v0 = x0;
 let v1 = f32(e0[c1]);
 let v2 = f_add(v0, v1);
 let v3 = f_relu(v2);
 return v3;
}
@compute @workgroup_size(LANES)
fn sum_parts(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
 let i = group_index(id, n) * LANES + local;
 if i < p.units {
  var sum = 0.0;
  for (var s = 0u; s < p.parts; s++) {
   sum += part[s * p.size + p.first + i];
  }
  y[i] = map(i, sum);
 }
}==== matmul_tiles.forward_tiles 2
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read> e0: array<f32>;
(4) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 1u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
fn map(i: u32, x0: f32) -> f32 {
 let g = p.first / p.block_units * p.block_y + i;
 let c1 = g % p.e_dim1;
 let r1 = g / p.e_dim1;
 let c0 = r1;
 let v0 = x0;
 let v1 = f32(e0[c1]);
 let v2 = f_add(v0, v1);
 let v3 = f_relu(v2);
 return v3;
}
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== matmul_dot.forward_dot 1
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<f32>;
(3) <read> e0: array<f32>;
(4) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 1u;
const LANES: u32 = 64u;
const ROWS: u32 = 4u;
const COLUMNS: u32 = 4u;
fn map(i: u32, x0: f32) -> f32 {
 let g = p.first / p.block_units * p.block_y + i;
 let c1 = g % p.e_dim1;
 let r1 = g / p.e_dim1;
 let c0 = r1;
 let v0 = x0;
 let v1 = f32(e0[c1]);
 let v2 = f_add(v0, v1);
 return v2;
}
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
fn at_a(i: u32, q: u32) -> u32 {
 return select(i * p.k + q, q * p.m + i, TA == 1u);
}
fn at_b(j: u32, q: u32) -> u32 {
 return select(q * p.n + j, j * p.k + q, TB == 1u);
}
fn step_a() -> u32 {
 return select(1u, p.m, TA == 1u);
}
fn step_b() -> u32 {
 return select(p.n, 1u, TB == 1u);
}
const OUTPUTS = ROWS * COLUMNS;
fn lane_sums(w: Work, lane: u32) -> array<f32,OUTPUTS> {
 var sums = array<f32,OUTPUTS>();
 var from_a: array<u32, ROWS>;
 for (var i = 0u; i < ROWS; i++) {
  from_a[i] = w.a + at_a(min(w.row + i, p.m - 1u), 0u);
 }
 var from_b: array<u32, COLUMNS>;
 for (var j = 0u; j < COLUMNS; j++) {
  from_b[j] = w.b + at_b(min(w.column + j, p.n - 1u), 0u);
 }
 for (var q = w.first + lane; q < w.end; q += LANES) {
  var vb: array<f32, COLUMNS>;
  for (var j = 0u; j < COLUMNS; j++) {
   vb[j] = b[from_b[j] + q * step_b()];
  }
  for (var i = 0u; i < ROWS; i++) {
   let va = a[from_a[i] + q * step_a()];
   for (var j = 0u; j < COLUMNS; j++) {
    sums[i * COLUMNS + j] += va * vb[j];
   }
  }
 }
 return sums;
}
fn store(w: Work, output: u32, sum: f32) {
 let i = w.row + output / COLUMNS;
 let j = w.column + output % COLUMNS;
 if i < p.m && j < p.n {
  let e = w.y + i * p.n + j;
  y[e] = map(e, sum);
 }
}
var<workgroup> shares: array<f32, OUTPUTS * LANES>;
@compute @workgroup_size(LANES)
fn forward_dot(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let unit = group_index(id, n);
 if unit >= p.units {
  return;
 }
 let w = work(unit, ROWS, COLUMNS);
 let sums = lane_sums(w, lane);
 for (var o = 0u; o < OUTPUTS; o++) {
  shares[o * LANES + lane] = sums[o];
 }
 for (var rest = LANES / 2u; rest > 0u; rest /= 2u) {
  workgroupBarrier();
  if lane < rest {
   for (var o = 0u; o < OUTPUTS; o++) {
    shares[o * LANES + lane] += shares[o * LANES + rest + lane];
   }
  }
 }
 workgroupBarrier();
 for (var o = lane; o < OUTPUTS; o += LANES) {
  store(w, o, shares[o * LANES]);
 }
}==== cross_entropy.lines 1
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read> labels: array<u32>;
(3) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 256u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const IGNORES: u32 = 0u;
const IGNORED: u32 = 0u;
fn is_nan(x: f32) -> bool {
 return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}
fn larger(a: f32, b: f32) -> f32 { return select(b, a, a >= b || is_nan(a)); }
fn scale(x: f32, n: i32) -> f32 {
 let half = n / 2;
 return x * bitcast<f32>(u32(half + 127) << 23u) * bitcast<f32>(u32(n - half + 127) << 23u);
}
fn f_exp(x: f32) -> f32 { return exp_of(x, 0.0); }
fn exp_of(x: f32, y: f32) -> f32 {
 let c = clamp(x, -105.0, 89.0);
 let n = round(c * 1.44269504);
 let r = ((c - n * 0.693359375) + n * 2.12194440e-4) + y;
 let s = 1.0 + r * (1.0 + r * (0.5 + r * (0.166666667 + r * (0.0416666667 + r * (8.33333333e-3 + r * (1.38888889e-3 + r * 1.98412698e-4))))));
 return select(scale(s, i32(n)), x, is_nan(x));
}
fn twice_atanh(s: f32) -> f32 {
 let t = s * s;
 return 2.0 * s + 2.0 * s * t * (0.333333333 + t * (0.2 + t * (0.142857143 + t * 0.111111111)));
}
fn with_sign(y: f32, x: f32) -> f32 {
 return bitcast<f32>((bitcast<u32>(y) & 0x7fffffffu) ^ (bitcast<u32>(x) & 0x80000000u));
}
fn not_a_number() -> f32 { return bitcast<f32>(0x7fc00000u | (p.units & 0u)); }
fn infinity() -> f32 { return bitcast<f32>(0x7f800000u | (p.units & 0u)); }
fn power_of_two(x: f32) -> vec2<f32> {
 let raw = bitcast<u32>(x);
 let small = raw < 0x800000u;
 let bits = select(bitcast<i32>(x), bitcast<i32>(f32(bitcast<i32>(x))), small);
 let n = (bits - 0x3f3504f3) >> 23u;
 return vec2<f32>(bitcast<f32>(bits - (n << 23u)), f32(n) - select(0.0, 149.0, small));
}
fn f_ln(x: f32) -> f32 {
 let m = power_of_two(x);
 let y = (twice_atanh((m.x - 1.0) / (m.x + 1.0)) - m.y * 2.12194440e-4) + m.y * 0.693359375;
 let raw = bitcast<u32>(x);
 let special = select(select(not_a_number(), infinity(), raw == 0x7f800000u), -infinity(), (raw << 1u) == 0u);
 return select(special, y, raw > 0u && raw < 0x7f800000u);
}
fn f_log1p(x: f32) -> f32 {
 return with_sign(select(f_ln(1.0 + x), twice_atanh(x / (2.0 + x)), x > -0.29 && x < 0.41), x);
}
const WIDE = 1u;
fn larger_r(a: f32, b: f32) -> f32 { return larger(a, b); }
fn sum_v(v: f32) -> f32 { return v; }
fn max_v(v: f32) -> f32 { return v; }
fn exp_v(v: f32) -> f32 { return f_exp(v); }
fn numbers(i: u32) -> u32 { return i; }
fn pick_v(v: f32, i: u32) -> f32 { return v; }
@compute @workgroup_size(WG)
fn lines(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) index: u32) {
 local = index;
 let unit = group_index(id, n) * (WG / (COLUMNS * LANES)) + local / (COLUMNS * LANES);
 for (var round = 0u; round < p.rounds; round++) {
  line(line_of(unit, local % COLUMNS, round, local / COLUMNS % LANES, LANES));
 }
}
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
fn lanes_sum(v: f32) -> f32 {
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
fn lanes_max(v: f32) -> f32 {
 if LANES == 1u {
  return v;
 }
 let lane = local / COLUMNS % LANES;
 workgroupBarrier();
 part[local] = v;
 for (var step = LANES / 2u; step > 0u; step >>= 1u) {
  workgroupBarrier();
  if lane < step {
   part[local] = larger_r(part[local], part[local + step * COLUMNS]);
  }
 }
 workgroupBarrier();
 return part[local - lane * COLUMNS];
}
fn line(t: Line) {
 forward(t);
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
fn start_of(at: u32) -> u32 {
 return (at / p.chunks * p.n + at % p.chunks * p.chunk) * p.inner;
}
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
fn writes(t: Line) -> bool {
 return t.real && t.lane == 0u;
}
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
var<private> kept_x: array<f32, KEPT>;
fn keep_x(t: Line) {
 for (var k = 0u; k < KEEP; k++) {
  if has(t, k) {
   kept_x[k] = x[place(t, k)];
  }
 }
}
fn x_of(t: Line, k: u32) -> f32 {
 if KEEP > 0u {
  return kept_x[k];
 }
 return x[place(t, k)];
}
const LOWEST = -3.40282347e38;
const NONE = 0xffffffffu;
fn kept_max(t: Line) -> f32 {
 var m = LOWEST;
 for (var k = 0u; k < KEEP; k++) {
  if has(t, k) {
   m = larger(m, max_v(x_of(t, k)));
  }
 }
 return lanes_max(m);
}
fn powers(t: Line, without: u32) -> vec2<f32> {
 var s = f32(0.0);
 if KEEP > 0u {
  let m = kept_max(t);
  for (var k = 0u; k < KEEP; k++) {
   if has(t, k) {
    s += select(exp_v(x_of(t, k) - m), f32(0.0), numbers(number(t, k)) == u32(without));
   }
  }
  return vec2(m, lanes_sum(sum_v(s)));
 }
 var m = LOWEST;
 for (var k = 0u; k < share(t); k++) {
  let v = x_of(t, k);
  let top = larger(m, max_v(v));
  s = s * f_exp(m - top) + select(exp_v(v - top), f32(0.0), numbers(number(t, k)) == u32(without));
  m = top;
 }
 let top = lanes_max(m);
 return vec2(top, lanes_sum(sum_v(s) * f_exp(m - top)));
}
fn ignores(label: u32) -> bool { return IGNORES == 1u && label == IGNORED; }
fn label_of(t: Line) -> u32 {
 if t.real {
  return labels[t.out];
 }
 return NONE;
}
fn own_of(t: Line, label: u32, m: f32) -> f32 {
 let n = p.n * WIDE;
 let at = min(label, n - 1u);
 let nan = bitcast<f32>(0x7fc00000u | (p.units & 0u));
 return select(nan, pick_v(x[t.first + at / WIDE], at) - m, label < n);
}
fn forward(t: Line) {
 keep_x(t);
 let label = label_of(t);
 let both = powers(t, label);
 if writes(t) {
  let z = own_of(t, label, both.x);
  y[t.out] = select(f_log1p(both.y + (f_exp(z) - 1.0)) - z, 0.0, ignores(label));
 }
}==== reduce.lines 1
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 256u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 1u;
fn is_finite(x: f32) -> bool {
 return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
const WIDE = 4u;
fn zero_v() -> vec4<f32> { return vec4<f32>(0.0); }
fn larger_v(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
 let nan_a = (bitcast<vec4<u32>>(a) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
 return select(b, a, (a >= b) | nan_a);
}
fn zero_r() -> f32 { return 0.0; }
fn finite_r(a: f32) -> bool { return is_finite(a); }
fn alike(a: f32, b: f32) -> bool { return sign(a) == sign(b) && abs(a) * 0.5 <= abs(b) && abs(b) * 0.5 <= abs(a); }
fn first_v(v: vec4<f32>) -> f32 { return v.x; }
fn sum_v(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }
fn max_v(v: vec4<f32>) -> f32 { return larger(larger(v.x, v.y), larger(v.z, v.w)); }
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
fn load(i: u32, pivot: f32) -> vec4<f32> {
 if KIND == MIN {
  return -x[i];
 }
 if KIND == MEAN {
  return x[i] - pivot;
 }
 return x[i];
}
fn fold(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
 if ADDS {
  return a + b;
 }
 return larger_v(a, b);
}
fn pivot_of(first: u32, len: u32) -> f32 {
 if KIND != MEAN {
  return zero_r();
 }
 let last = max(len, 1u) - 1u;
 let a = first_v(x[first]);
 let b = first_v(x[first + last / 2u * p.inner]);
 let c = first_v(x[first + last * p.inner]);
 return select(zero_r(), a, finite_r(a) & alike(a, b) & alike(a, c));
}
fn forward(t: Line) {
 let pivot = pivot_of(t.first, t.len);
 var a = zero_v();
 if !ADDS {
  a = load(t.first, pivot);
 }
 var b = a;
 var c = a;
 var d = a;
 let step = t.lanes * p.inner;
 var i = t.lane;
 var at = t.first + i * p.inner;
 for (; i + 3u * t.lanes < t.len; i += 4u * t.lanes) {
  a = fold(a, load(at, pivot));
  b = fold(b, load(at + step, pivot));
  c = fold(c, load(at + 2u * step, pivot));
  d = fold(d, load(at + 3u * step, pivot));
  at += 4u * step;
 }
 for (; i < t.len; i += t.lanes) {
  a = fold(a, load(at, pivot));
  at += step;
 }
 let all = fold(fold(a, b), fold(c, d));
 var v = zero_r();
 if ADDS {
  v = lanes_sum(sum_v(all));
 } else {
  v = lanes_max(max_v(all));
 }
 if writes(t) {
  y[t.out] = finished(v, t.first, t.len, pivot);
 }
}
fn finished(v: f32, first: u32, len: u32, pivot: f32) -> f32 {
 if ADDS && !all(finite_r(v)) {
  return in_units(first, len, pivot);
 }
 return result(v, len, pivot);
}
fn result(v: f32, len: u32, pivot: f32) -> f32 {
 if KIND == MIN {
  return -v;
 }
 if KIND == MAX {
  return v;
 }
 if KIND == MEAN {
  return pivot + v / count(len);
 }
 return v / p.divisor;
}
fn count(len: u32) -> f32 { return f32(len * WIDE / WIDE_OUT); }
fn in_units(first: u32, len: u32, pivot: f32) -> f32 {
 var s = zero_v();
 for (var block = 0u; block < len; block += 64u) {
  var block_s = zero_v();
  for (var i = block; i < min(len, block + 64u); i++) {
   block_s += x[first + i * p.inner] * UNIT - pivot * UNIT;
  }
  s += block_s;
 }
 if KIND == MEAN {
  return (pivot * UNIT + sum_v(s) / count(len)) / UNIT;
 }
 return sum_v(s) / (p.divisor * UNIT);
}==== cross_entropy.lines 2
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read> labels: array<u32>;
(3) <read> dy: array<f32>;
(4) <read_write> dx: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 256u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const IGNORES: u32 = 0u;
const IGNORED: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
fn line(t: Line) {
 grad_x(t);
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<f32, KEPT>;
const LOWEST = -3.40282347e38;
const NONE = 0xffffffffu;
fn grad_x(t: Line) {
 keep_x(t);
 let label = label_of(t);
 let both = powers(t, label);
 if t.real {
  let s = both.y + f_exp(own_of(t, label, both.x));
  let d = dy[t.out];
  let own = f32(-d * (both.y / s));
  let silent = d == 0.0 || ignores(label);
  for (var k = 0u; k < share(t); k++) {
   if has(t, k) {
    let all = select(d * (exp_v(x_of(t, k) - both.x) / s), own, numbers(number(t, k)) == u32(label));
    dx[place(t, k)] = select(all, f32(0.0), silent);
   }
  }
 }
}==== reduce.lines 2
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 16u;
const LANES: u32 = 16u;
const ROWS: u32 = 1u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 0u;
const WIDE = 1u;
fn larger_v(a: f32, b: f32) -> f32 { return larger(a, b); }
fn zero_v() -> f32 { return 0.0; }
fn first_v(v: f32) -> f32 { return v; }
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
fn load(i: u32, pivot: f32) -> f32 {
 if KIND == MIN {
  return -x[i];
 }
 if KIND == MEAN {
  return x[i] - pivot;
 }
 return x[i];
}
fn fold(a: f32, b: f32) -> f32 {
 if ADDS {
  return a + b;
 }
 return larger_v(a, b);
}
==== matmul.forward 1
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<f32>;
(3) <read_write> y: array<f32>;
const TA: u32 = 1u;
const TB: u32 = 0u;
const LANES: u32 = 64u;
const ROWS: u32 = 5u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let unit = group_index(id, n) * LANES + lane;
 if unit >= p.units {
  return;
 }
 let w = work(unit, ROWS, 1u);
 var from_a: array<u32, ROWS>;
 var sums: array<f32, ROWS>;
 for (var i = 0u; i < ROWS; i++) {
  from_a[i] = w.a + at_a(min(w.row + i, p.m - 1u), w.first);
  sums[i] = 0.0;
 }
 var from_b = w.b + at_b(w.column, w.first);
 for (var q = w.first; q < w.end; q++) {
  let vb = b[from_b];
  for (var i = 0u; i < ROWS; i++) {
   sums[i] += a[from_a[i]] * vb;
   from_a[i] += step_a();
  }
  from_b += step_b();
 }
 for (var i = 0u; i < ROWS; i++) {
  if w.row + i < p.m {
   let e = w.y + (w.row + i) * p.n + w.column;
   y[e] = map(e, sums[i]);
  }
 }
}==== sum_parts.sum_parts 2
(0) var<uniform> p: Params;
(1) <read> part: array<f32>;
(2) <read_write> y: array<f32>;
const LANES: u32 = 256u;
==== matmul_tiles.forward_tiles 3
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<vec4<f32>>;
(3) <read> e0: array<f32>;
(4) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
fn f_le(a: f32, b: f32) -> f32 { return f32(a <= b); }
fn f_where(a: f32, b: f32, c: f32) -> f32 { return select(b, c, a == 0.0); }
fn map(i: u32, x0: f32) -> f32 {
 let v0 = f32(e0[i]);
 let v1 = x0;
 let v2 = 0.0f;
 let v3 = f_le(v0, v2);
 let v4 = f_where(v3, v2, v1);
 return v4;
}
fn four_a(start: u32, i: u32, last: u32) -> vec4<f32> {
 return vec4<f32>(a[start + min(i + 0u, last)], a[start + min(i + 1u, last)], a[start + min(i + 2u, last)], a[start + min(i + 3u, last)]);
}
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== reduce.lines 3
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 32u;
const LANES: u32 = 8u;
const ROWS: u32 = 1u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 4u;
const KIND: u32 = 0u;
const WIDE = 4u;
fn larger_r(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return larger_v(a, b); }
fn zero_r() -> vec4<f32> { return vec4<f32>(0.0); }
fn finite_r(a: vec4<f32>) -> vec4<bool> { return (bitcast<vec4<u32>>(a) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u); }
fn alike(a: vec4<f32>, b: vec4<f32>) -> vec4<bool> { return (sign(a) == sign(b)) & (abs(a) * 0.5 <= abs(b)) & (abs(b) * 0.5 <= abs(a)); }
fn first_v(v: vec4<f32>) -> vec4<f32> { return v; }
fn sum_v(v: vec4<f32>) -> vec4<f32> { return v; }
fn max_v(v: vec4<f32>) -> vec4<f32> { return v; }
var<private> local: u32;
var<workgroup> part: array<vec4<f32>, WG>;
fn lanes_sum(v: vec4<f32>) -> vec4<f32> {
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
fn lanes_max(v: vec4<f32>) -> vec4<f32> {
 if LANES == 1u {
  return v;
 }
 let lane = local / COLUMNS % LANES;
 workgroupBarrier();
 part[local] = v;
 for (var step = LANES / 2u; step > 0u; step >>= 1u) {
  workgroupBarrier();
  if lane < step {
   part[local] = larger_r(part[local], part[local + step * COLUMNS]);
  }
 }
 workgroupBarrier();
 return part[local - lane * COLUMNS];
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
fn load(i: u32, pivot: vec4<f32>) -> vec4<f32> {
 if KIND == MIN {
  return -x[i];
 }
 if KIND == MEAN {
  return x[i] - pivot;
 }
 return x[i];
}
fn pivot_of(first: u32, len: u32) -> vec4<f32> {
 if KIND != MEAN {
  return zero_r();
 }
 let last = max(len, 1u) - 1u;
 let a = first_v(x[first]);
 let b = first_v(x[first + last / 2u * p.inner]);
 let c = first_v(x[first + last * p.inner]);
 return select(zero_r(), a, finite_r(a) & alike(a, b) & alike(a, c));
}
fn finished(v: vec4<f32>, first: u32, len: u32, pivot: vec4<f32>) -> vec4<f32> {
 if ADDS && !all(finite_r(v)) {
  return in_units(first, len, pivot);
 }
 return result(v, len, pivot);
}
fn result(v: vec4<f32>, len: u32, pivot: vec4<f32>) -> vec4<f32> {
 if KIND == MIN {
  return -v;
 }
 if KIND == MAX {
  return v;
 }
 if KIND == MEAN {
  return pivot + v / count(len);
 }
 return v / p.divisor;
}
fn in_units(first: u32, len: u32, pivot: vec4<f32>) -> vec4<f32> {
 var s = zero_v();
 for (var block = 0u; block < len; block += 64u) {
  var block_s = zero_v();
  for (var i = block; i < min(len, block + 64u); i++) {
   block_s += x[first + i * p.inner] * UNIT - pivot * UNIT;
  }
  s += block_s;
 }
 if KIND == MEAN {
  return (pivot * UNIT + sum_v(s) / count(len)) / UNIT;
 }
 return sum_v(s) / (p.divisor * UNIT);
}==== matmul_tiles.forward_tiles 4
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
const TA: u32 = 1u;
const TB: u32 = 0u;
const TILE_M: u32 = 32u;
const TILE_N: u32 = 32u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== matmul_tiles.forward_tiles 5
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read> e0: array<f32>;
(4) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== optim/squares.squares 1
(0) var<uniform> p: Params;
(1) <read> grads: array<vec4<f32>>;
(2) <read_write> partials: array<f32>;
const WG: u32 = 256u;
const CHUNK: u32 = 4096u;
const SMALL: f32 = 0.0;
const PLAIN: f32 = 1.0;
const LARGE: f32 = 2.0;
const BAD: f32 = 3.0;
const UP: f32 = 19342813113834066795298816.0;
const DOWN: f32 = 5.169878828456423e-26;
var<workgroup> sums: array<vec3<f32>, WG>;
fn magnitude(x: vec4<f32>) -> vec4<u32> {
 return bitcast<vec4<u32>>(x) & vec4(0x7fffffffu);
}
fn join(a: vec3<f32>, b: vec3<f32>) -> vec3<f32> {
 let below = select(0.0, DOWN, abs(a.y - b.y) < 1.5);
 let level = a.y == b.y;
 let x = select(a.x * below * DOWN, a.x, level || a.y > b.y);
 let y = select(b.x * below * DOWN, b.x, level || b.y > a.y);
 return vec3(x + y, max(a.y, b.y), max(a.z, b.z));
}
fn join_lanes(mine: vec3<f32>, lane: u32) -> vec3<f32> {
 sums[lane] = mine;
 workgroupBarrier();
 for (var half = WG / 2u; half > 0u; half /= 2u) {
  if (lane < half) {
   sums[lane] = join(sums[lane], sums[lane + half]);
  }
  workgroupBarrier();
 }
 return sums[0];
}
@compute @workgroup_size(WG)
fn squares(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let chunk = group_index(id, n);
 if (chunk >= p.units) {
  return;
 }
 let left = p.len - (p.first + chunk) * CHUNK;
 let end = min(left, CHUNK) / 4u;
 var sum = 0.0;
 var tops = vec4(0u);
 for (var k = lane; k < end; k += WG) {
  let g = grads[chunk * (CHUNK / 4u) + k];
  sum += dot(g, g);
  tops = max(tops, magnitude(g));
 }
 let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
 var size = PLAIN;
 if (top >= 0x7f800000u) {
  size = BAD;
 } else if (top < 0x29800000u || top >= 0x55800000u) {
  let small = top < 0x29800000u;
  let scale = select(DOWN, UP, small);
  size = select(LARGE, SMALL, small);
  sum = 0.0;
  if (top > 0u) {
   for (var k = lane; k < end; k += WG) {
    let g = scale * grads[chunk * (CHUNK / 4u) + k];
    sum += dot(g, g);
   }
  }
 }
 let total = join_lanes(vec3(sum, size, bitcast<f32>(top)), lane);
 if (lane == 0u) {
  partials[3u * chunk] = total.x;
  partials[3u * chunk + 1u] = total.y;
  partials[3u * chunk + 2u] = total.z;
 }
}==== optim/guard.check 1
(0) var<uniform> p: Params;
(1) <read> partials: array<f32>;
(2) <read_write> guard: array<u32>;
(3) <read> loss: array<f32>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
const CHUNK: u32 = 4096u;
const SMALL: f32 = 0.0;
const LARGE: f32 = 2.0;
const BAD: f32 = 3.0;
const UP: f32 = 19342813113834066795298816.0;
const DOWN: f32 = 5.169878828456423e-26;
var<workgroup> sums: array<vec3<f32>, WG>;
fn finite(x: f32) -> bool {
 return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}
fn step_loss() -> f32 {
 return loss[0];
}
const LOSS: u32 = 1u;
const GRADIENT: u32 = 2u;
const UPDATE: u32 = 3u;
const FAR: f32 = 1152921504606846976.0;
const FEW: f32 = 1.4551915228366852e-11;
const MANY: f32 = 68719476736.0;
const SCALE: f32 = 7.52316384526264e-37;
const BACK: f32 = 1329227995784915872903807060280344576.0;
const TOTALS: u32 = 64u;
const WEIGHT_SUM: u32 = 14u;
const ASSIGNED: u32 = 12u;
const LOOK: u32 = 3u;
fn total_of(piece: u32) -> vec3<f32> {
 let at = TOTALS + 3u * piece;
 return vec3(bitcast<f32>(guard[at]), bitcast<f32>(guard[at + 1u]), bitcast<f32>(guard[at + 2u]));
}
@compute @workgroup_size(WG)
fn check(@builtin(local_invocation_index) lane: u32) {
 var mine = vec3(0.0, SMALL, 0.0);
 for (var k = lane; k < p.count; k += WG) {
  mine = join(mine, vec3(partials[3u * k], partials[3u * k + 1u], partials[3u * k + 2u]));
 }
 var total = join_lanes(mine, lane);
 if (lane != 0u) {
  return;
 }
 let at = TOTALS + 3u * p.piece;
 guard[at] = bitcast<u32>(total.x);
 guard[at + 1u] = bitcast<u32>(total.y);
 guard[at + 2u] = bitcast<u32>(total.z);
 if (p.piece + 1u < p.pieces) {
  return;
 }
 guard[7] = 0u;
 guard[WEIGHT_SUM] = 0u;
 if (guard[0] != 0u) {
  return;
 }
 for (var k = 0u; k < p.piece; k++) {
  total = join(total, total_of(k));
 }
 let cause = select(select(select(0u, UPDATE, guard[ASSIGNED] != 0u), GRADIENT, total.y == BAD), LOSS, !finite(step_loss()));
 guard[13] = cause;
 if (cause != 0u) {
  guard[0] = max(step.step.x + 1u, 1u);
  guard[7] = select(LOOK, 0u, cause == UPDATE);
  return;
 }
 let root = sqrt(total.x);
 let clips = bitcast<u32>(p.max_norm) != 0u;
 var norm = root;
 var factor = 1.0;
 var scale = 1.0;
 if (total.y == LARGE) {
  norm = root * UP;
  if (clips && p.max_norm * DOWN < root) {
   let ratio = p.max_norm / root;
   if (ratio >= FEW) {
    factor = ratio * DOWN;
   } else {
    scale = SCALE;
    factor = p.max_norm * MANY / root;
   }
  }
 } else {
  norm = root * select(1.0, DOWN, total.y == SMALL);
  factor = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), clips);
  if (factor < SCALE) {
   scale = SCALE;
   factor = p.max_norm * BACK / (norm + 1e-6);
  }
 }
 guard[1] = bitcast<u32>(factor);
 guard[2] = bitcast<u32>(norm);
 guard[3] = bitcast<u32>(total.z);
 guard[4] = bitcast<u32>(scale);
 let far = root >= select(FAR, FAR * DOWN, total.y == LARGE) && total.y != SMALL && !(clips && p.max_norm <= FAR)
  && !(p.max_value > 0.0 && p.max_value <= FAR);
 guard[7] = 1u + (u32(far) | guard[5] | guard[6]);
 guard[5] = 0u;
}==== optim/update.trial 1
(0) var<uniform> p: Params;
(1) <read> params: array<vec4<f32>>;
(2) <read> grads: array<vec4<f32>>;
(3) <read_write> guard: array<u32>;
(4) <read> mean: array<vec4<f32>>;
(5) <read> square: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
const EACH: u32 = 16u;
fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
 let decay = h[0];
 let fresh1 = h[2];
 let beta2 = h[3];
 let fresh2 = h[4];
 let step_size = h[5];
 let root = h[6];
 let eps = h[7];
 let g = grad + decay * w;
 let m = lerp((*s).mean, g, fresh1);
 let v = beta2 * (*s).square + fresh2 * g * g;
 let largest = max((*s).largest, v);
 (*s).mean = m;
 (*s).square = v;
 (*s).largest = largest;
 return step_size * m / (sqrt(largest) / root + eps);
}
fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
 return h[1] * w - u;
}
struct State { mean: f32, square: f32, largest: f32 }
struct States { x: State, y: State, z: State, w: State }
fn load(i: u32) -> States {
 let l_mean = mean[i];
 let l_square = square[i];
 return States(State(l_mean.x, l_square.x, 0.0), State(l_mean.y, l_square.y, 0.0), State(l_mean.z, l_square.z, 0.0), State(l_mean.w, l_square.w, 0.0));
}
fn compare(was: States, is: States) {
 if (overflows(vec4(was.x.mean, was.y.mean, was.z.mean, was.w.mean), vec4(is.x.mean, is.y.mean, is.z.mean, is.w.mean))) {
  refuse(1u);
 }
 if (overflows(vec4(was.x.square, was.y.square, was.z.square, was.w.square), vec4(is.x.square, is.y.square, is.z.square, is.w.square))) {
  refuse(2u);
 }
}
fn group_of(i: u32) -> u32 {
 return 0u;
}
fn limited(g: vec4<f32>) -> vec4<f32> {
 return g;
}
fn lerp(a: f32, b: f32, t: f32) -> f32 {
 return select(a + t * (b - a), b - (b - a) * (1.0 - t), t >= 0.5);
}
fn number(at: u32) -> f32 {
 return bitcast<f32>(guard[at]);
}
fn row_of(four: u32, table: u32, count: u32) -> u32 {
 var low = 0u;
 var high = count - 1u;
 while (low < high) {
  let middle = (low + high) / 2u;
  if (four < guard[table + 2u * middle]) {
   high = middle;
  } else {
   low = middle + 1u;
  }
 }
 return low;
}
fn owner(four: u32, table: u32, count: u32) -> u32 {
 return guard[table + 2u * row_of(four, table, count) + 1u];
}
struct Same {
 h: array<f32, 8>,
 factor: f32,
 scale: f32,
}
fn same(four: u32) -> Same {
 let at = p.hyper + 8u * (step.row * p.groups + group_of(four));
 let h = array<f32, 8>(
  number(at), number(at + 1u), number(at + 2u), number(at + 3u), number(at + 4u), number(at + 5u), number(at + 6u), number(at + 7u)
 );
 return Same(h, number(1u), number(4u));
}
fn clipped(g: vec4<f32>, all: Same) -> vec4<f32> {
 return limited(all.factor * (all.scale * g));
}
fn ratio_of(four: u32) -> f32 {
 return 1.0;
}
fn scaled(u: f32, r: f32) -> f32 {
 return u;
}
fn refuse(what: u32) {
 guard[0] = max(step.step.x + 1u, 1u);
 guard[13] = 3u;
 guard[8u + what] = 1u;
}
const LOOK: u32 = 3u;
const WEIGHT: u32 = 0u;
fn overflows(was: vec4<f32>, is: vec4<f32>) -> bool {
 return any((magnitude(is) >= vec4(0x7f800000u)) & (magnitude(was) < vec4(0x7f800000u)));
}
struct New {
 w: vec4<f32>,
 states: States,
}
fn renew(w: f32, g: f32, s: ptr<function, State>, h: array<f32, 8>, r: f32) -> f32 {
 let u = scaled(direction(w, g, s, h), r);
 return apply(w, u, s, h);
}
fn stepped(i: u32, w: vec4<f32>, s: States, all: Same, r: f32) -> New {
 let h = all.h;
 let g = clipped(grads[i], all);
 var x = s.x;
 var y = s.y;
 var z = s.z;
 var last = s.w;
 let weights = vec4(renew(w.x, g.x, &x, h, r), renew(w.y, g.y, &y, h, r), renew(w.z, g.z, &z, h, r), renew(w.w, g.w, &last, h, r));
 return New(weights, States(x, y, z, last));
}
@compute @workgroup_size(WG)
fn trial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 if (guard[7] < 2u) {
  return;
 }
 let first = group_index(id, n) * (WG * EACH) + lane;
 for (var i = first; i < min(first + WG * EACH, p.units); i += WG) {
  if (guard[7] == LOOK) {
   if (any(magnitude(grads[i]) >= vec4(0x7f800000u))) {
    guard[p.flags + owner(p.first + i, p.segments, p.segment_count)] = 1u;
   }
   continue;
  }
  let w = params[i];
  let s = load(i);
  let next = stepped(i, w, s, same(p.first + i), ratio_of(p.first + i));
  if (overflows(w, next.w)) {
   refuse(WEIGHT);
  }
  compare(s, next.states);
 }
}==== optim/update.update 1
(0) var<uniform> p: Params;
(1) <read_write> params: array<vec4<f32>>;
(2) <read> grads: array<vec4<f32>>;
(3) <read_write> guard: array<u32>;
(4) <read_write> mean: array<vec4<f32>>;
(5) <read_write> square: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
struct State { mean: f32, square: f32, largest: f32 }
struct States { x: State, y: State, z: State, w: State }
fn store(i: u32, s: States) {
 mean[i] = vec4(s.x.mean, s.y.mean, s.z.mean, s.w.mean);
 square[i] = vec4(s.x.square, s.y.square, s.z.square, s.w.square);
}
fn squares(s: States) -> f32 {
 var sum = 0.0;
 let q_mean = vec4(s.x.mean, s.y.mean, s.z.mean, s.w.mean);
 sum += dot(q_mean, q_mean);
 let q_square = vec4(s.x.square, s.y.square, s.z.square, s.w.square);
 sum += dot(q_square, q_square);
 return sum;
}
struct Same {
 h: array<f32, 8>,
 factor: f32,
 scale: f32,
}
fn turn() -> vec2<f32> {
 return vec2(0.0);
}
fn averaged(i: u32, w: vec4<f32>, turn: vec2<f32>) -> vec4<f32> {
 return w;
}
const FAR: u32 = 0x7b800000u;
struct New {
 w: vec4<f32>,
 states: States,
}
@compute @workgroup_size(WG)
fn update(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(id, n) * WG + lane;
 let four = p.first + min(i, p.units - 1u);
 let all = same(four);
 let r = ratio_of(four);
 let at = turn();
 if (guard[0] != 0u || i >= p.units) {
  return;
 }
 let next = stepped(i, params[i], load(i), all, r);
 let w = averaged(i, next.w, at);
 params[i] = w;
 store(i, next.states);
 if (bitcast<u32>(dot(w, w) + squares(next.states)) > FAR) {
  guard[5] = 1u;
 }
}==== conv2d_tiles.tiles 1
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<f32>;
(3) <read> e0: array<f32>;
(4) <read_write> y: array<f32>;
const MODE: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
fn map(i: u32, x0: f32) -> f32 {
 let g = p.first / p.block_units * p.block_y + i;
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let v0 = x0;
 let v1 = f32(e0[c1]);
 let v2 = f_add(v0, v1);
 return v2;
}
struct Walk {
 rows: u32,    // its digits: number = (t0 · rows + t1) · columns + t2
 columns: u32,
 count: u32,   // numbers from here on are none of it
 plane: u32,   // in b: elements from one t0 to the next
 steps: vec2<u32>,   // in b's image: rows from one t1 to the next, columns from one t2 to the next
 start: vec2<u32>,   // in b's image: row and column of the first one
 other: vec3<u32>,   // in the other tensor (columns: the result, terms: a): elements from one digit to the next
 first: u32,   // in the other tensor: the first element
}
struct Work {
 columns: Walk,
 terms: Walk,
 first: u32,
 end: u32,
}
fn place(w: Walk, number: u32) -> vec4<u32> {
 if number >= w.count {
  return vec4<u32>(0u, 0x40000000u, 0u, 0u);
 }
 return place_of(w, digits(w, number));
}
fn digits(w: Walk, number: u32) -> vec3<u32> {
 let row = number / w.columns;
 return vec3<u32>(row / w.rows, row % w.rows, number % w.columns);
}
fn place_of(w: Walk, t: vec3<u32>) -> vec4<u32> {
 let at = w.start + t.yz * w.steps;
 let other = t * w.other;
 return vec4<u32>(t.x * w.plane + at.x * p.b_width + at.y, at.x, at.y, w.first + other.x + other.y + other.z);
}
fn pixels(images: u32) -> Walk {
 return Walk(p.oh, p.ow, images * p.oh * p.ow, p.image_x, vec2<u32>(p.sh, p.sw), vec2<u32>(0u - p.top, 0u - p.left),
  vec3<u32>(p.image_y, p.ow, 1u), 0u);
}
fn taps() -> Walk {
 return Walk(p.kh, p.kw, p.taps, p.h * p.w, vec2<u32>(p.dh, p.dw), vec2<u32>(), vec3<u32>(p.kh * p.kw, p.kw, 1u), 0u);
}
struct Phase {
 pixels: u32,
 tap: u32,
 taps: u32,
 start: u32,
}
fn phase(first: u32, size: u32, stride: u32, dilation: u32, pad: u32, kernel: u32, tap_step: u32) -> Phase {
 let at = first + pad;
 var tap = 0u;
 while tap < tap_step && (tap * dilation) % stride != at % stride {
  tap++;
 }
 let none = tap >= min(tap_step, kernel);
 let last = select(kernel, tap, none);
 let start = (i32(at) - i32(tap * dilation)) / i32(stride);
 return Phase((size - first + stride - 1u) / stride, tap, (last - tap + tap_step - 1u) / tap_step, u32(start));
}
fn work(part: u32, images: u32) -> Work {
 if MODE == 0u {
  return Work(pixels(images), taps(), 0u, p.taps);
 }
 if MODE == 2u {
  let terms = pixels(images);
  return Work(taps(), terms, min(part * p.share, terms.count), min((part + 1u) * p.share, terms.count));
 }
 let i = part / p.phases_w;
 let j = part % p.phases_w;
 return work_x(phase(i, p.h, p.sh, p.dh, p.top, p.kh, p.tap_h), phase(j, p.w, p.sw, p.dw, p.left, p.kw, p.tap_w), i * p.w + j, images);
}
fn work_x(h: Phase, w: Phase, first: u32, images: u32) -> Work {
 let back = vec2<u32>(0u - h_step(), 0u - w_step());
 let columns = Walk(h.pixels, w.pixels, images * h.pixels * w.pixels, p.image_y, vec2<u32>(1u), vec2<u32>(h.start, w.start),
  vec3<u32>(p.image_x, p.sh * p.w, p.sw), first);
 let terms = Walk(h.taps, w.taps, p.o * h.taps * w.taps, p.oh * p.ow, back, vec2<u32>(),
  vec3<u32>(p.taps, p.tap_h * p.kw, p.tap_w), h.tap * p.kw + w.tap);
 return Work(columns, terms, 0u, terms.count);
}
fn h_step() -> u32 {
 return p.tap_h * p.dh / p.sh;
}
fn w_step() -> u32 {
 return p.tap_w * p.dw / p.sw;
}
fn meet(column: vec4<u32>, term: vec4<u32>) -> bool {
 return all(column.yz + term.yz < vec2<u32>(p.b_height, p.b_width));
}
fn images_of(block: u32) -> u32 {
 return min(p.images, p.batch - (p.first / p.block_units + block) * p.images);
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M / 4u;
const VECS_B = TILE_N / 4u;
const FETCHES_A = (SLAB * VECS_A + WG - 1u) / WG;
const FETCHES_B = (SLAB * VECS_B + WG - 1u) / WG;
var<workgroup> terms: array<vec4<u32>, 2u * SLAB>;
struct Fetched {
 a: array<vec4<f32>, FETCHES_A>,
 b: array<vec4<f32>, FETCHES_B>,
 inside: array<vec4<bool>, FETCHES_B>,
}
fn fetch(half: u32, lane: u32, last: u32, rows: ptr<function, array<u32, FETCHES_A>>, columns: ptr<function, array<vec4<u32>, 4>>) -> Fetched {
 var got: Fetched;
 for (var f = 0u; f < FETCHES_A; f++) {
  let at = min(vec4<u32>((*rows)[f]) + vec4<u32>(0u, 1u, 2u, 3u) * p.row_a, vec4<u32>(last)) + terms[half * SLAB + (lane + f * WG) % SLAB].w;
  got.a[f] = vec4<f32>(a[at.x], a[at.y], a[at.z], a[at.w]);
 }
 for (var f = 0u; f < FETCHES_B; f++) {
  let term = terms[half * SLAB + min(lane / VECS_B + f * (WG / VECS_B), SLAB - 1u)];
  var at = vec4<u32>((*columns)[0].x, (*columns)[1].x, (*columns)[2].x, (*columns)[3].x) + term.x;
  got.inside[f] = vec4<bool>(meet((*columns)[0], term), meet((*columns)[1], term), meet((*columns)[2], term), meet((*columns)[3], term));
  at = select(vec4<u32>(), at, got.inside[f]);
  got.b[f] = vec4<f32>(b[at.x], b[at.y], b[at.z], b[at.w]);
 }
 return got;
}
@compute @workgroup_size(WG)
fn tiles(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let unit = group_index(id, n);
 if unit >= p.units {
  return;
 }
 let block = unit / p.block_units;
 var rest = unit % p.block_units;
 let row = rest % p.tiles_m * TILE_M;
 rest /= p.tiles_m;
 let column = rest % p.tiles_n * TILE_N;
 rest /= p.tiles_n;
 let group = rest % p.groups;
 let part = rest / p.groups;
 let all = work(part, images_of(block));
 if column >= all.columns.count {
  return;
 }
 let start_a = block * p.block_a + group * p.group_a;
 let start_b = block * p.block_b + group * p.group_b;
 let start_y = block * p.block_y + part * p.part_y + group * p.group_y;
 var mine: array<vec4<u32>, 4>;
 for (var t = 0u; t < 4u; t++) {
  mine[t] = place(all.columns, column + lane % VECS_B * 4u + t);
  mine[t].x += start_b;
 }
 let last = start_a + (p.m - 1u) * p.row_a;
 var rows: array<u32, FETCHES_A>;
 for (var f = 0u; f < FETCHES_A; f++) {
  rows[f] = start_a + (row + (lane + f * WG) / SLAB * 4u) * p.row_a;
 }
 for (var q = lane; q < 2u * SLAB; q += WG) {
  terms[q] = place(all.terms, all.first + q);
 }
 workgroupBarrier();
 var sums = array<vec4<f32>,PER_M*VECS_N>();
 var next = fetch(0u, lane, last, &rows, &mine);
 var slab = 0u;
 for (var first = all.first; first < all.end; first += SLAB) {
  for (var f = 0u; f < FETCHES_A; f++) {
   let e = lane + f * WG;
   if SLAB * VECS_A % WG == 0u || e < SLAB * VECS_A {
    slab_a[(slab * SLAB + e % SLAB) * VECS_A + e / SLAB] = select(vec4<f32>(0.0), next.a[f], first + e % SLAB < all.end);
   }
  }
  for (var f = 0u; f < FETCHES_B; f++) {
   let q = lane / VECS_B + f * (WG / VECS_B);
   if SLAB * VECS_B % WG == 0u || q < SLAB {
    slab_b[(slab * SLAB + q) * VECS_B + lane % VECS_B] = select(vec4<f32>(0.0), next.b[f], next.inside[f]);
   }
  }
  workgroupBarrier();
  for (var q = lane; q < SLAB; q += WG) {
   terms[slab * SLAB + q] = place(all.terms, first + 2u * SLAB + q);
  }
  next = fetch(1u - slab, lane, last, &rows, &mine);
  multiply(slab, lane, &sums);
  slab = 1u - slab;
 }
 for (var v = 0u; v < VECS_N; v++) {
  for (var t = 0u; t < 4u; t++) {
   let j = column + own_column(lane, v) + t;
   if j < all.columns.count {
    let out = start_y + place(all.columns, j).w;
    for (var i = 0u; i < VECS_M; i++) {
     store_rows(out, row + own_row(lane, i * 4u), vec4<f32>(sums[i * 4u * VECS_N + v][t], sums[(i * 4u + 1u) * VECS_N + v][t],
      sums[(i * 4u + 2u) * VECS_N + v][t], sums[(i * 4u + 3u) * VECS_N + v][t]));
    }
   }
  }
 }
}
fn store_rows(start: u32, m: u32, v: vec4<f32>) {
 if m >= p.m {
  return;
 }
 let at = start + min(vec4<u32>(m, m + 1u, m + 2u, m + 3u), vec4<u32>(p.m - 1u)) * p.row_y;
 let all = vec4<f32>(map(at.x, v.x), map(at.y, v.y), map(at.z, v.z), map(at.w, v.w));
 for (var t = 0u; t < 4u; t++) {
  if m + t < p.m {
   y[at[t]] = all[t];
  }
 }
}==== moments.lines 1
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<f32>;
(3) <read_write> y_rest: array<f32>;
(4) <read_write> y_root: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 32u;
const ROWS: u32 = 8u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const CENTRE: u32 = 1u;
const GIVE: u32 = 2u;
const SMALL: u32 = 0u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;
fn lanes_sums(v: vec4<f32>) -> vec4<f32> {
 if LANES == 1u {
  return v;
 }
 let lane = local / COLUMNS % LANES;
 workgroupBarrier();
 parts[local] = v;
 for (var step = LANES / 2u; step > 0u; step >>= 1u) {
  workgroupBarrier();
  if lane < step {
   parts[local] += parts[local + step * COLUMNS];
  }
 }
 workgroupBarrier();
 return parts[local - lane * COLUMNS];
}
fn line(t: Line) {
 forward_part(t);
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<vec4<f32>, KEPT>;
fn x_of(t: Line, k: u32) -> vec4<f32> {
 if KEEP > 0u {
  return kept_x[k];
 }
 return x[place(t, k)];
}
struct Spread {
 scale: f32,
 near: f32,
 rest: f32,
 root: f32,
}
fn power_for(x: f32) -> f32 {
 return bitcast<f32>((254u - clamp(bitcast<u32>(x) >> 23u, 1u, 253u)) << 23u);
}
fn inverse_power(s: f32) -> f32 {
 return bitcast<f32>(0x7f000000u - bitcast<u32>(s));
}
const BLOCK = 64u;
fn spread_of(t: Line) -> Spread {
 var most = zero_v();
 for (var i = 0u; i < t.len; i++) {
  most = larger_v(most, abs(x[t.first + i * p.inner]));
 }
 let scale = power_for(max_v(most));
 let len = f32(t.len * WIDE);
 var near = 0.0;
 if CENTRE == 1u {
  let pivot = first_v(x[t.first]) * scale;
  var s = zero_v();
  for (var i = 0u; i < t.len; i++) {
   s += x[t.first + i * p.inner] * scale - pivot;
  }
  near = pivot + sum_v(s) / len;
 }
 var d = zero_v();
 var q = zero_v();
 for (var block = 0u; block < t.len; block += BLOCK) {
  var block_d = zero_v();
  var block_q = zero_v();
  for (var i = block; i < min(t.len, block + BLOCK); i++) {
   let v = x[t.first + i * p.inner] * scale - near;
   block_d += v;
   block_q += v * v;
  }
  d += block_d;
  q += block_q;
 }
 let rest = select(0.0, sum_v(d) / len, CENTRE == 1u);
 return Spread(scale, near, rest, sqrt(larger(sum_v(q) / len - rest * rest, 0.0)));
}
fn moments(t: Line) -> vec3<f32> {
 keep_x(t);
 let len = f32(max(t.len * WIDE, 1u));
 var m = 0.0;
 if CENTRE == 1u {
  let pivot = first_v(x[t.first]);
  var s = zero_v();
  for (var k = 0u; k < share(t); k++) {
   if has(t, k) {
    s += x_of(t, k) - pivot;
   }
  }
  m = pivot + lanes_sum(sum_v(s)) / len;
 }
 var q = zero_v();
 var d = zero_v();
 var size = zero_v();
 for (var k = 0u; k < share(t); k++) {
  if has(t, k) {
   let v = x_of(t, k) - m;
   q += v * v;
   d += v;
   if SMALL == 1u {
    size += abs(v);
   }
  }
 }
 let means = lanes_sums(vec4(sum_v(q), sum_v(d), sum_v(size), 0.0)) / len;
 if (!is_finite(means.x) || (SMALL == 1u && means.x < 1e-29 && means.z > 0.0)) && writes(t) {
  let z = spread_of(t);
  return vec3(z.near, z.rest, z.root) * inverse_power(z.scale) * 0.25;
 }
 let rest = select(0.0, means.y, CENTRE == 1u);
 return vec3(m, rest, sqrt(larger(means.x - rest * rest, 0.0))) * 0.25;
}
fn write_part(t: Line, z: vec3<f32>) {
 if writes(t) {
  y[t.out] = z.x;
  y_rest[t.out] = z.y;
  y_root[t.out] = z.z;
 }
}
fn forward_part(t: Line) { write_part(t, moments(t)); }==== moments.lines 2
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read> x_rest: array<f32>;
(3) <read> x_root: array<f32>;
(4) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 16u;
const LANES: u32 = 1u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const CENTRE: u32 = 1u;
const GIVE: u32 = 2u;
const SMALL: u32 = 0u;
fn at_least(x: f32, low: f32) -> f32 { return select(x, low, x < low); }
fn within(x: f32, most: f32) -> f32 { return select(at_least(x, -most), most, x > most); }
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;
fn line(t: Line) {
 forward_of_parts(t);
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
fn inverse_root(a: f32, b: f32) -> f32 {
 let m = larger(a, b);
 let q = min(a, b) / m;
 return 1.0 / (m * sqrt(1.0 + q * q));
}
const VARIANCE = 0u;
const STATISTICS = 2u;
struct Part {
 at: u32,
 weight: f32,
}
fn part_of(first: u32, i: u32) -> Part {
 let line = i / p.parts;
 let chunk = i - line * p.parts;
 return Part(first + (line * p.c * p.parts + chunk) * p.within, select(1.0, p.tail, chunk + 1u == p.parts));
}
fn deviation(at: u32, near: vec2<f32>) -> f32 {
 return (x[at] - near.x) + (x_rest[at] - near.y);
}
fn of_parts(t: Line) -> vec3<f32> {
 let line = t.column / p.within;
 let first = select(0u, line * (p.parts - 1u) * p.within + t.column, t.real);
 let near = vec2(x[first], x_rest[first]);
 var most = 0.0;
 for (var i = t.lane; i < t.len; i += t.lanes) {
  let at = part_of(first, i).at;
  most = larger(most, larger(abs(deviation(at, near)), x_root[at]));
 }
 let scale = power_for(lanes_max(most));
 var s = 0.0;
 for (var i = t.lane; i < t.len; i += t.lanes) {
  let one = part_of(first, i);
  s += one.weight * (deviation(one.at, near) * scale);
 }
 let shift = lanes_sum(s) / p.count;
 var q = 0.0;
 for (var i = t.lane; i < t.len; i += t.lanes) {
  let one = part_of(first, i);
  let d = deviation(one.at, near) * scale - shift;
  let root = x_root[one.at] * scale;
  q += one.weight * (root * root + d * d);
 }
 let root = sqrt(lanes_sum(q) / p.count) * inverse_power(scale);
 if CENTRE == 0u {
  return vec3(0.0, 0.0, root);
 }
 return vec3(near.x, near.y + shift * inverse_power(scale), root);
}
fn write_all(t: Line, z: vec3<f32>) {
 if !writes(t) {
  return;
 }
 if GIVE != STATISTICS {
  let root = z.z * p.scale;
  y[t.out] = select(root, root * root, GIVE == VARIANCE);
  return;
 }
 let near = bitcast<f32>(bitcast<u32>(z.x + z.y) ^ p.none);
 let first = abs(z.x) >= abs(z.y);
 let at = t.out;
 y[at] = near;
 y[p.row + at] = (select(z.y, z.x, first) - near) + select(z.x, z.y, first);
 y[2u * p.row + at] = inverse_root(z.z, p.scale);
 y[3u * p.row + at] = (z.z * 4.0) * (z.z * 4.0);
}
fn forward_of_parts(t: Line) { write_all(t, of_parts(t)); }==== slice.forward 1
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i >= p.units {
  return;
 }
 let g = p.first + i;
 let c = g % p.y_row + p.skip;
 if c >= p.zeros && c - p.zeros < p.x_row {
  y[i] = x[g / p.y_row * p.x_row + (c - p.zeros)];
 } else {
  y[i] = 0;
 }
}==== map.forward_fours 1
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<f32>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn f_sub(a: f32, b: f32) -> f32 { return a - b; }
fn f_mul(a: f32, b: f32) -> f32 { return a * b; }
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = 0.25f;
 let v2 = f_mul(v0, v1);
 let v3 = x1;
 let v4 = f_sub(v2, v3);
 return v4;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(f32(e1[c1]));
 return vec4<f32>(map(g + 0u, x0.x, x1.x), map(g + 1u, x0.y, x1.y), map(g + 2u, x0.z, x1.z), map(g + 3u, x0.w, x1.w));
}
@compute @workgroup_size(WG)
fn forward_fours(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
 let i = group_index(id, n) * WG + local;
 if i < p.units {
  y[i] = map4(i);
 }
}==== map.forward_fours 2
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = f_add(v0, v1);
 let v3 = 4.0f;
 let v4 = f_mul(v2, v3);
 return v4;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(e1[i]);
 return vec4<f32>(map(g + 0u, x0.x, x1.x), map(g + 1u, x0.y, x1.y), map(g + 2u, x0.z, x1.z), map(g + 3u, x0.w, x1.w));
}
==== map.forward_fours 3
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = 0.9f;
 let v2 = f_mul(v0, v1);
 let v3 = x1;
 let v4 = 0.1f;
 let v5 = f_mul(v3, v4);
 let v6 = f_add(v2, v5);
 return v6;
}
==== map.forward_fours 4
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn f_minimum(a: f32, b: f32) -> f32 { return select(b, a, a < b || is_nan(a)); }
fn map(g: u32, x0: f32) -> f32 {
 let v0 = x0;
 let v1 = 3.4028235e38f;
 let v2 = f_minimum(v0, v1);
 return v2;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let x0 = vec4<f32>(e0[i]);
 return vec4<f32>(map(g + 0u, x0.x), map(g + 1u, x0.y), map(g + 2u, x0.z), map(g + 3u, x0.w));
}
==== map.forward_fours 5
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = 0.9f;
 let v2 = f_mul(v0, v1);
 let v3 = x1;
 let v4 = 0.10000463f;
 let v5 = f_mul(v3, v4);
 let v6 = f_add(v2, v5);
 let v7 = 3.4028235e38f;
 let v8 = f_minimum(v6, v7);
 return v8;
}
==== map.forward_fours 6
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<f32>;
(3) <read> e2: array<f32>;
(4) <read> e3: array<f32>;
(5) <read> e4: array<f32>;
(6) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32, x2: f32, x3: f32, x4: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = x2;
 let v3 = x3;
 let v4 = f_sub(v0, v1);
 let v5 = f_mul(v2, v3);
 let v6 = f_mul(v4, v5);
 let v7 = x4;
 let v8 = f_add(v6, v7);
 let v9 = f_relu(v8);
 return v9;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(f32(e1[c1]));
 let x2 = vec4<f32>(f32(e2[c1]));
 let x3 = vec4<f32>(f32(e3[c1]));
 let x4 = vec4<f32>(f32(e4[c1]));
 return vec4<f32>(map(g + 0u, x0.x, x1.x, x2.x, x3.x, x4.x), map(g + 1u, x0.y, x1.y, x2.y, x3.y, x4.y), map(g + 2u, x0.z, x1.z, x2.z, x3.z, x4.z), map(g + 3u, x0.w, x1.w, x2.w, x3.w, x4.w));
}
==== max_pool2d.forward 1
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const K_H: u32 = 2u;
const K_W: u32 = 2u;
const S_H: u32 = 2u;
const S_W: u32 = 2u;
const P_H: u32 = 0u;
const P_W: u32 = 0u;
const D_H: u32 = 1u;
const D_W: u32 = 1u;
struct At { plane: u32, row: u32, column: u32 }
fn at(g: u32, h: u32, w: u32) -> At {
 let r = g / w;
 return At(r / h, r % h, g % w);
}
fn inside(o: u32, n: u32, k: u32, s: u32, pad: u32, d: u32) -> vec2<u32> {
 let start = o * s;
 let first = select(0u, (pad - min(pad, start) + d - 1u) / d, start < pad);
 return vec2(first, min(k, (n + pad - start + d - 1u) / d));
}
struct Best { value: f32, tap: u32 }
fn largest(o: At) -> Best {
 let rows = inside(o.row, p.h, K_H, S_H, P_H, D_H);
 let columns = inside(o.column, p.w, K_W, S_W, P_W, D_W);
 var line = (o.plane * p.h + o.row * S_H + rows.x * D_H - P_H) * p.w + o.column * S_W + columns.x * D_W - P_W;
 var best = Best(x[line], rows.x * K_W + columns.x);
 for (var a = rows.x; a < rows.y; a++) {
  var element = line;
  for (var b = columns.x; b < columns.y; b++) {
   let v = x[element];
   if (v > best.value || is_nan(v)) && !is_nan(best.value) {
    best = Best(v, a * K_W + b);
   }
   element += D_W;
  }
  line += D_H * p.w;
 }
 return best;
}
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i < p.units {
  y[i] = largest(at(p.first + i, p.oh, p.ow)).value;
 }
}==== moments.lines 3
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
(3) <read_write> y_rest: array<f32>;
(4) <read_write> y_root: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const CENTRE: u32 = 1u;
const GIVE: u32 = 2u;
const SMALL: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<f32, KEPT>;
struct Spread {
 scale: f32,
 near: f32,
 rest: f32,
 root: f32,
}
const BLOCK = 64u;
==== moments.lines 4
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read> x_rest: array<f32>;
(3) <read> x_root: array<f32>;
(4) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 32u;
const LANES: u32 = 1u;
const ROWS: u32 = 8u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const CENTRE: u32 = 1u;
const GIVE: u32 = 2u;
const SMALL: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const VARIANCE = 0u;
const STATISTICS = 2u;
struct Part {
 at: u32,
 weight: f32,
}
==== map.forward 1
(0) var<uniform> p: Params;
(1) <read> e0: array<f32>;
(2) <read> e1: array<f32>;
(3) <read_write> y: array<f32>;
const WG: u32 = 256u;
fn map(i: u32) -> f32 {
 let g = p.first + i;
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let v0 = f32(e0[i]);
 let v1 = 0.25f;
 let v2 = f_mul(v0, v1);
 let v3 = f32(e1[c1]);
 let v4 = f_sub(v2, v3);
 return v4;
}
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i < p.units {
  y[i] = map(i);
 }
}==== map.forward_fours 7
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = 0.9f;
 let v2 = f_mul(v0, v1);
 let v3 = x1;
 let v4 = 0.10002583f;
 let v5 = f_mul(v3, v4);
 let v6 = f_add(v2, v5);
 let v7 = 3.4028235e38f;
 let v8 = f_minimum(v6, v7);
 return v8;
}
==== map.forward 2
(0) var<uniform> p: Params;
(1) <read> e0: array<f32>;
(2) <read> e1: array<f32>;
(3) <read> e2: array<f32>;
(4) <read> e3: array<f32>;
(5) <read> e4: array<f32>;
(6) <read_write> y: array<f32>;
const WG: u32 = 256u;
fn map(i: u32) -> f32 {
 let g = p.first + i;
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let v0 = f32(e0[i]);
 let v1 = f32(e1[c1]);
 let v2 = f32(e2[c1]);
 let v3 = f32(e3[c1]);
 let v4 = f_sub(v0, v1);
 let v5 = f_mul(v2, v3);
 let v6 = f_mul(v4, v5);
 let v7 = f32(e4[c1]);
 let v8 = f_add(v6, v7);
 let v9 = f_relu(v8);
 return v9;
}
==== map.forward_fours 8
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn mulhi(a: u32, b: u32) -> u32 {
 let al = a & 0xffffu;
 let ah = a >> 16u;
 let bl = b & 0xffffu;
 let bh = b >> 16u;
 let mid = ah * bl + ((al * bl) >> 16u);
 return ah * bh + (mid >> 16u) + ((al * bh + (mid & 0xffffu)) >> 16u);
}
fn philox4(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
 var c = counter;
 var k = key;
 for (var round = 0u; round < 10u; round += 1u) {
  let h0 = mulhi(0xD2511F53u, c.x);
  let h1 = mulhi(0xCD9E8D57u, c.z);
  c = vec4<u32>(h1 ^ c.y ^ k.x, 0xCD9E8D57u * c.z, h0 ^ c.w ^ k.y, 0xD2511F53u * c.x);
  k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
 }
 return c;
}
fn uniform01x4(seed: vec2<u32>, step: vec2<u32>, stream: u32, block: u32) -> vec4<f32> {
 return vec4<f32>(philox4(vec4<u32>(block, stream, step.x, step.y), seed) >> vec4<u32>(8u)) * 0x1p-24f;
}
fn uniform01(seed: vec2<u32>, step: vec2<u32>, stream: u32, element: u32) -> f32 {
 return uniform01x4(seed, step, stream, element / 4u)[element % 4u];
}
fn f_ge(a: f32, b: f32) -> f32 { return f32(a >= b); }
fn map(g: u32, x0: f32) -> f32 {
 let v0 = uniform01(step.seed, step.step, 1u, g);
 let v1 = 0.25f;
 let v2 = f_ge(v0, v1);
 let v3 = x0;
 let v4 = 1.3333334f;
 let v5 = f_mul(v3, v4);
 let v6 = 0.0f;
 let v7 = f_where(v2, v5, v6);
 return v7;
}
==== reduce.lines 4
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 16u;
const LANES: u32 = 1u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== matmul_tiles.forward_tiles 6
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const TA: u32 = 0u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
fn map(i: u32, x0: f32) -> f32 {
 let g = p.first / p.block_units * p.block_y + i;
 let v0 = x0;
 let v1 = uniform01(step.seed, step.step, 1u, g);
 let v2 = 0.25f;
 let v3 = f_ge(v1, v2);
 let v4 = 0.0f;
 let v5 = f_where(v3, v0, v4);
 let v6 = 1.3333334f;
 let v7 = f_mul(v5, v6);
 return v7;
}
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== max_pool2d.index 1
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> t: array<u32>;
const WG: u32 = 256u;
const K_H: u32 = 2u;
const K_W: u32 = 2u;
const S_H: u32 = 2u;
const S_W: u32 = 2u;
const P_H: u32 = 0u;
const P_W: u32 = 0u;
const D_H: u32 = 1u;
const D_W: u32 = 1u;
struct At { plane: u32, row: u32, column: u32 }
struct Best { value: f32, tap: u32 }
@compute @workgroup_size(WG)
fn index(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i < p.units {
  t[i] = largest(at(p.first + i, p.oh, p.ow)).tap;
 }
}==== max_pool2d.grad_x 1
(0) var<uniform> p: Params;
(1) <read> dy: array<f32>;
(2) <read> t: array<u32>;
(3) <read> e0: array<f32>;
(4) <read_write> dx: array<f32>;
const WG: u32 = 256u;
const K_H: u32 = 2u;
const K_W: u32 = 2u;
const S_H: u32 = 2u;
const S_W: u32 = 2u;
const P_H: u32 = 0u;
const P_W: u32 = 0u;
const D_H: u32 = 1u;
const D_W: u32 = 1u;
struct At { plane: u32, row: u32, column: u32 }
fn reaching(i: u32, out: u32, k: u32, s: u32, pad: u32, d: u32) -> vec2<u32> {
 let reach = (k - 1u) * d;
 let last = i + pad;
 let first = select(0u, (last - min(last, reach) + s - 1u) / s, last > reach);
 return vec2(first, min(out, last / s + 1u));
}
@compute @workgroup_size(WG)
fn grad_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i >= p.units {
  return;
 }
 let e = at(p.first + i, p.h, p.w);
 let rows = reaching(e.row, p.oh, K_H, S_H, P_H, D_H);
 let columns = reaching(e.column, p.ow, K_W, S_W, P_W, D_W);
 var sum = 0.0;
 for (var o = rows.x; o < rows.y; o++) {
  let a = e.row + P_H - o * S_H;
  for (var q = columns.x; q < columns.y; q++) {
   let b = e.column + P_W - q * S_W;
   let window = (e.plane * p.oh + o) * p.ow + q;
   if a % D_H == 0u && b % D_W == 0u && t[window] == a / D_H * K_W + b / D_W {
    sum += dy[window];
   }
  }
 }
 dx[i] = map(i, sum);
}==== reduce.lines 5
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== reduce.lines 6
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 8u;
const LANES: u32 = 1u;
const ROWS: u32 = 32u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 4u;
const KIND: u32 = 0u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== moments.lines 5
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> x: array<f32>;
(3) <read> mean: array<f32>;
(4) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const OWN: u32 = 1u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
fn line(t: Line) {
 grad_scale_own(t);
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
fn mean_place(t: Line) -> u32 {
 let at = t.out + window_of(p.first * p.inner, 1u);
 return select(0u, at / p.inner / p.chunks % p.c * p.inner + at % p.inner, t.real);
}
fn factor(v: f32, m: vec3<f32>) -> f32 {
 if OWN == 1u {
  return ((v * 0.25 - m.x) - m.y) * m.z;
 }
 return v - m.x;
}
fn products(t: Line, m: vec3<f32>) {
 var s = zero_v();
 var u = zero_v();
 let step = t.lanes * p.inner;
 var i = t.lane;
 var at = t.first + i * p.inner;
 for (; i + t.lanes < t.len; i += 2u * t.lanes) {
  s += a[at] * factor(x[at], m);
  u += a[at + step] * factor(x[at + step], m);
  at += 2u * step;
 }
 if i < t.len {
  s += a[at] * factor(x[at], m);
 }
 let sum = lanes_sum(sum_v(s + u));
 if writes(t) {
  y[t.out] = sum;
 }
}
fn grad_scale_own(t: Line) {
 let at = mean_place(t);
 products(t, vec3(mean[at], mean[p.row + at], mean[2u * p.row + at]));
}==== map.forward_fours 9
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = 0.00025826445f;
 let v3 = f_mul(v1, v2);
 let v4 = f_mul(v0, v3);
 return v4;
}
==== map.forward_fours 10
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read> e2: array<vec4<f32>>;
(4) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32, x2: f32) -> f32 {
 let v0 = x0;
 let v1 = 0.00025826445f;
 let v2 = f_mul(v0, v1);
 let v3 = x1;
 let v4 = x2;
 let v5 = f_mul(v3, v4);
 let v6 = f_sub(v2, v5);
 return v6;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(e1[i]);
 let x2 = vec4<f32>(e2[i]);
 return vec4<f32>(map(g + 0u, x0.x, x1.x, x2.x), map(g + 1u, x0.y, x1.y, x2.y), map(g + 2u, x0.z, x1.z, x2.z), map(g + 3u, x0.w, x1.w, x2.w));
}
==== map.forward 3
(0) var<uniform> p: Params;
(1) <read> e0: array<f32>;
(2) <read> e1: array<f32>;
(3) <read> e2: array<f32>;
(4) <read> e3: array<f32>;
(5) <read> e4: array<f32>;
(6) <read> e5: array<f32>;
(7) <read_write> y: array<f32>;
const WG: u32 = 256u;
fn map(i: u32) -> f32 {
 let g = p.first + i;
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let v0 = f32(e0[i]);
 let v1 = f32(e1[c1]);
 let v2 = f_sub(v0, v1);
 let v3 = f32(e2[i]);
 let v4 = f32(e3[c1]);
 let v5 = f_mul(v3, v4);
 let v6 = f_sub(v2, v5);
 let v7 = f32(e4[c1]);
 let v8 = f32(e5[c1]);
 let v9 = 0.25f;
 let v10 = f_mul(v8, v9);
 let v11 = f_mul(v7, v10);
 let v12 = f_mul(v6, v11);
 return v12;
}
==== conv2d_tiles.tiles 2
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<f32>;
(3) <read_write> y: array<f32>;
const MODE: u32 = 1u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Walk {
 rows: u32,    // its digits: number = (t0 · rows + t1) · columns + t2
 columns: u32,
 count: u32,   // numbers from here on are none of it
 plane: u32,   // in b: elements from one t0 to the next
 steps: vec2<u32>,   // in b's image: rows from one t1 to the next, columns from one t2 to the next
 start: vec2<u32>,   // in b's image: row and column of the first one
 other: vec3<u32>,   // in the other tensor (columns: the result, terms: a): elements from one digit to the next
 first: u32,   // in the other tensor: the first element
}
struct Work {
 columns: Walk,
 terms: Walk,
 first: u32,
 end: u32,
}
struct Phase {
 pixels: u32,
 tap: u32,
 taps: u32,
 start: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M / 4u;
const VECS_B = TILE_N / 4u;
const FETCHES_A = (SLAB * VECS_A + WG - 1u) / WG;
const FETCHES_B = (SLAB * VECS_B + WG - 1u) / WG;
var<workgroup> terms: array<vec4<u32>, 2u * SLAB>;
struct Fetched {
 a: array<vec4<f32>, FETCHES_A>,
 b: array<vec4<f32>, FETCHES_B>,
 inside: array<vec4<bool>, FETCHES_B>,
}
==== conv2d_tiles.tiles 3
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<f32>;
(3) <read_write> y: array<f32>;
const MODE: u32 = 2u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Walk {
 rows: u32,    // its digits: number = (t0 · rows + t1) · columns + t2
 columns: u32,
 count: u32,   // numbers from here on are none of it
 plane: u32,   // in b: elements from one t0 to the next
 steps: vec2<u32>,   // in b's image: rows from one t1 to the next, columns from one t2 to the next
 start: vec2<u32>,   // in b's image: row and column of the first one
 other: vec3<u32>,   // in the other tensor (columns: the result, terms: a): elements from one digit to the next
 first: u32,   // in the other tensor: the first element
}
struct Work {
 columns: Walk,
 terms: Walk,
 first: u32,
 end: u32,
}
struct Phase {
 pixels: u32,
 tap: u32,
 taps: u32,
 start: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M / 4u;
const VECS_B = TILE_N / 4u;
const FETCHES_A = (SLAB * VECS_A + WG - 1u) / WG;
const FETCHES_B = (SLAB * VECS_B + WG - 1u) / WG;
var<workgroup> terms: array<vec4<u32>, 2u * SLAB>;
struct Fetched {
 a: array<vec4<f32>, FETCHES_A>,
 b: array<vec4<f32>, FETCHES_B>,
 inside: array<vec4<bool>, FETCHES_B>,
}
==== reduce.lines 7
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 32u;
const ROWS: u32 = 8u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 0u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== reduce.lines 8
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 4u;
const LANES: u32 = 1u;
const ROWS: u32 = 64u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 4u;
const KIND: u32 = 0u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== moments.lines 6
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> x: array<vec4<f32>>;
(3) <read> mean: array<f32>;
(4) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 32u;
const ROWS: u32 = 8u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const OWN: u32 = 1u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
fn factor(v: vec4<f32>, m: vec3<f32>) -> vec4<f32> {
 if OWN == 1u {
  return ((v * 0.25 - m.x) - m.y) * m.z;
 }
 return v - m.x;
}
==== map.forward_fours 11
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = 4.622781e-5f;
 let v3 = f_mul(v1, v2);
 let v4 = f_mul(v0, v3);
 return v4;
}
==== map.forward_fours 12
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read> e2: array<vec4<f32>>;
(4) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32, x2: f32) -> f32 {
 let v0 = x0;
 let v1 = 4.622781e-5f;
 let v2 = f_mul(v0, v1);
 let v3 = x1;
 let v4 = x2;
 let v5 = f_mul(v3, v4);
 let v6 = f_sub(v2, v5);
 return v6;
}
==== map.forward_fours 13
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<f32>;
(3) <read> e2: array<vec4<f32>>;
(4) <read> e3: array<f32>;
(5) <read> e4: array<f32>;
(6) <read> e5: array<f32>;
(7) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32, x2: f32, x3: f32, x4: f32, x5: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = f_sub(v0, v1);
 let v3 = x2;
 let v4 = x3;
 let v5 = f_mul(v3, v4);
 let v6 = f_sub(v2, v5);
 let v7 = x4;
 let v8 = x5;
 let v9 = 0.25f;
 let v10 = f_mul(v8, v9);
 let v11 = f_mul(v7, v10);
 let v12 = f_mul(v6, v11);
 return v12;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let c2 = g % p.e_dim2;
 let r2 = g / p.e_dim2;
 let c1 = r2 % p.e_dim1;
 let r1 = r2 / p.e_dim1;
 let c0 = r1;
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(f32(e1[c1]));
 let x2 = vec4<f32>(e2[i]);
 let x3 = vec4<f32>(f32(e3[c1]));
 let x4 = vec4<f32>(f32(e4[c1]));
 let x5 = vec4<f32>(f32(e5[c1]));
 return vec4<f32>(map(g + 0u, x0.x, x1.x, x2.x, x3.x, x4.x, x5.x), map(g + 1u, x0.y, x1.y, x2.y, x3.y, x4.y, x5.y), map(g + 2u, x0.z, x1.z, x2.z, x3.z, x4.z, x5.z), map(g + 3u, x0.w, x1.w, x2.w, x3.w, x4.w, x5.w));
}
==== map.forward_fours 14
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn f_identity(x: f32) -> f32 { return x; }
fn map(g: u32, x0: f32) -> f32 {
 let v0 = x0;
 let v1 = f_identity(v0);
 return v1;
}
==== optim/assign.trial 1
(0) var<uniform> p: Params;
(1) <read> state: array<f32>;
(2) <read> value: array<f32>;
(3) <read_write> guard: array<u32>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
const WHAT: u32 = 4u;
const LOOK: u32 = 3u;
fn finite_bits(x: u32) -> bool {
 return (x & 0x7f800000u) != 0x7f800000u;
}
fn breaks(i: u32) -> bool {
 return !finite_bits(bitcast<u32>(value[i])) && finite_bits(bitcast<u32>(state[i]));
}
@compute @workgroup_size(WG)
fn trial(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(id, n) * WG + lane;
 if i < p.units && guard[7] != 0u && guard[7] != LOOK && breaks(i) {
  refuse(WHAT);
 }
}==== optim/assign.assign 1
(0) var<uniform> p: Params;
(1) <read_write> state: array<f32>;
(2) <read> value: array<f32>;
(3) <read_write> guard: array<u32>;
const WG: u32 = 256u;
const WHAT: u32 = 4u;
@compute @workgroup_size(WG)
fn assign(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(id, n) * WG + lane;
 if i >= p.units || guard[0] != 0u {
  return;
 }
 if breaks(i) {
  guard[8u + WHAT] = 1u;
 } else {
  state[i] = value[i];
 }
}==== gather_rows.forward 1
(0) var<uniform> p: Params;
(1) <read> table: array<f32>;
(2) <read> index: array<u32>;
(3) <read_write> y: array<f32>;
const WG: u32 = 256u;
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
 let i = group_index(id, n) * WG + local;
 if i < p.units {
  let at = p.first + i;
  let row = index[at / p.cols];
  let value = table[min(row, p.rows - 1u) * p.cols + at % p.cols];
  y[i] = select(bitcast<f32>(row | 0x7fc00000u), value, row < p.rows);
 }
}==== matmul_tiles.forward_tiles 7
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read> e0: array<f32>;
(4) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 1u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== permute.forward 1
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const RANK: u32 = 5u;
fn source_index(g: u32) -> u32 {
 var rest = g;
 var at = 0u;
 if RANK > 1u {
  at += rest % p.d0 * p.s0;
  rest /= p.d0;
 }
 if RANK > 2u {
  at += rest % p.d1 * p.s1;
  rest /= p.d1;
 }
 if RANK > 3u {
  at += rest % p.d2 * p.s2;
  rest /= p.d2;
 }
 if RANK > 4u {
  at += rest % p.d3 * p.s3;
  rest /= p.d3;
 }
 if RANK > 5u {
  at += rest % p.d4 * p.s4;
  rest /= p.d4;
 }
 return at + rest * p.outer;
}
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i < p.units {
  y[i] = x[source_index(p.first + i)];
 }
}==== attention.forward 1
(0) var<uniform> p: Params;
(1) <read> rows: array<f32>;
(2) <read> cols: array<f32>;
(3) <read> values: array<f32>;
(4) <read_write> y: array<f32>;
const TR: u32 = 8u;
const TC: u32 = 16u;
const SLAB: u32 = 16u;
const COLS: u32 = 1u;
fn keys(batch: u32) -> u32 { return 0xffffffffu; }
fn biased(batch: u32, query: u32, key: u32, score: f32) -> f32 {
 return score;
}
fn whole_of(total: f32) -> f32 { return total; }
fn level_of(top: f32, total: f32) -> f32 { return top; }
fn window_start(row: u32) -> u32 { return 0u; }
fn window_end(row: u32) -> u32 { return 0xffffffffu; }
fn near(row: u32, col: u32) -> bool { return true; }
fn draw(lane: u32, batch: u32, row: u32, col: u32) {  }
fn kept(at: u32, w: f32) -> f32 { return w; }
fn cols_batch(batch: u32) -> u32 { return batch; }
const WG = TR * TC;
const TILE_R = 4u * TR;
const TILE_C = 4u * TC;
const ROW_R = TILE_R + 1u;
const ROW_C = TILE_C + 1u;
const WIDTH = COLS * TC;
const DEPTH = min(SLAB / 2u, TILE_C);
const HIDDEN = -3.40282347e38;
var<workgroup> slab_r: array<f32, SLAB * ROW_R>;
var<workgroup> slab_c: array<f32, max(SLAB * ROW_C, TILE_R * TC)>;
var<workgroup> weights: array<f32, TILE_C * ROW_R>;
struct Unit {
 batch: u32,
 row: u32,
 first: u32,
}
fn unit_of(unit: u32) -> Unit {
 let block = unit / p.chunks;
 return Unit(block / p.blocks, block % p.blocks * TILE_R, unit % p.chunks * WIDTH);
}
const FILLS_R = (TILE_R * SLAB + WG - 1u) / WG;
const FILLS_C = (TILE_C * SLAB + WG - 1u) / WG;
const FILLS_V = (DEPTH * WIDTH + WG - 1u) / WG;
struct Fetched {
 r: array<f32, FILLS_R>,
 c: array<f32, FILLS_C>,
}
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
  next = fetch_values(lane, batch, col + k + DEPTH, first);
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
}==== permute.forward 2
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const RANK: u32 = 4u;
==== map.forward_fours 15
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = uniform01(step.seed, step.step, 1u, g);
 let v2 = 0.1f;
 let v3 = f_ge(v1, v2);
 let v4 = x1;
 let v5 = 1.1111112f;
 let v6 = f_mul(v4, v5);
 let v7 = 0.0f;
 let v8 = f_where(v3, v6, v7);
 let v9 = f_add(v0, v8);
 return v9;
}
==== norm.lines 1
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 256u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const CENTRE: u32 = 1u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<vec4<f32>, KEPT>;
struct Spread {
 scale: f32,
 near: f32,
 rest: f32,
 root: f32,
}
const BLOCK = 64u;
const MOST_R = 3e14;
fn mean_of(t: Line, len: f32) -> f32 {
 if CENTRE == 0u {
  return 0.0;
 }
 let pivot = first_v(x[t.first]);
 var s = zero_v();
 for (var k = 0u; k < share(t); k++) {
  if has(t, k) {
   s += x_of(t, k) - pivot;
  }
 }
 return pivot + lanes_sum(sum_v(s)) / len;
}
fn rest_and_r(rest: f32, square: f32) -> vec2<f32> {
 let c = select(0.0, rest, CENTRE == 1u);
 return vec2(c, 1.0 / sqrt(larger(square - c * c, 0.0) + p.eps));
}
fn forward(t: Line) {
 keep_x(t);
 let len = f32(p.n * WIDE);
 let m = mean_of(t, len);
 var d = vec4<f32>();
 var q = vec4<f32>();
 for (var k = 0u; k < share(t); k++) {
  if has(t, k) {
   let v = x_of(t, k) - m;
   d += v;
   q += v * v;
  }
 }
 let s = lanes_sums(vec4(sum_v(d), sum_v(q), 0.0, 0.0)) / len;
 let c = rest_and_r(s.x, s.y);
 if is_finite(s.y) && c.y < MOST_R {
  for (var k = 0u; k < share(t); k++) {
   if has(t, k) {
    y[place(t, k)] = ((x_of(t, k) - m) - c.x) * c.y;
   }
  }
 } else if t.real {
  let z = spread_of(t);
  let r = inverse_root(z.root, p.root_eps * z.scale);
  for (var i = t.lane; i < t.len; i += t.lanes) {
   let at = t.first + i * p.inner;
   y[at] = ((x[at] * z.scale - z.near) - z.rest) * r;
  }
 }
}==== map.forward_fours 16
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read> e2: array<vec4<f32>>;
(4) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32, x2: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = f_mul(v0, v1);
 let v3 = x2;
 let v4 = f_add(v2, v3);
 return v4;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let c1 = g % p.e_dim1;
 let r1 = g / p.e_dim1;
 let c0 = r1;
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(e1[(c1) / 4u]);
 let x2 = vec4<f32>(e2[(c1) / 4u]);
 return vec4<f32>(map(g + 0u, x0.x, x1.x, x2.x), map(g + 1u, x0.y, x1.y, x2.y), map(g + 2u, x0.z, x1.z, x2.z), map(g + 3u, x0.w, x1.w, x2.w));
}
==== map.forward_fours 17
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn map(g: u32, x0: f32) -> f32 {
 let v0 = uniform01(step.seed, step.step, 2u, g);
 let v1 = 0.1f;
 let v2 = f_ge(v0, v1);
 let v3 = x0;
 let v4 = f_relu(v3);
 let v5 = 1.1111112f;
 let v6 = f_mul(v4, v5);
 let v7 = 0.0f;
 let v8 = f_where(v2, v6, v7);
 return v8;
}
==== map.forward_fours 18
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = uniform01(step.seed, step.step, 3u, g);
 let v2 = 0.1f;
 let v3 = f_ge(v1, v2);
 let v4 = x1;
 let v5 = 1.1111112f;
 let v6 = f_mul(v4, v5);
 let v7 = 0.0f;
 let v8 = f_where(v3, v6, v7);
 let v9 = f_add(v0, v8);
 return v9;
}
==== cross_entropy.lines 3
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read> labels: array<u32>;
(3) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const IGNORES: u32 = 0u;
const IGNORED: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<f32, KEPT>;
const LOWEST = -3.40282347e38;
const NONE = 0xffffffffu;
==== reduce.lines 9
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 1u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== cross_entropy.lines 4
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read> labels: array<u32>;
(3) <read> dy: array<f32>;
(4) <read_write> dx: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 16u;
const ROWS: u32 = 16u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const IGNORES: u32 = 0u;
const IGNORED: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<f32, KEPT>;
const LOWEST = -3.40282347e38;
const NONE = 0xffffffffu;
==== reduce.lines 10
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 32u;
const LANES: u32 = 8u;
const ROWS: u32 = 1u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== matmul_tiles.forward_tiles 8
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== matmul_tiles.forward_tiles 9
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
const TA: u32 = 1u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== reduce.lines 11
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 8u;
const LANES: u32 = 32u;
const ROWS: u32 = 1u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 4u;
const KIND: u32 = 0u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== moments.lines 7
(0) var<uniform> p: Params;
(1) <read> a: array<f32>;
(2) <read> x: array<f32>;
(3) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 32u;
const LANES: u32 = 8u;
const ROWS: u32 = 1u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const OWN: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
fn line(t: Line) {
 grad_scale_plain(t);
}
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
fn grad_scale_plain(t: Line) { products(t, vec3(0.0, 0.0, 1.0)); }==== map.forward_fours 19
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = f_mul(v0, v1);
 return v2;
}
fn map4(i: u32) -> vec4<f32> {
 let g = 4u * (p.first + i);
 let c1 = g % p.e_dim1;
 let r1 = g / p.e_dim1;
 let c0 = r1;
 let x0 = vec4<f32>(e0[i]);
 let x1 = vec4<f32>(e1[(c1) / 4u]);
 return vec4<f32>(map(g + 0u, x0.x, x1.x), map(g + 1u, x0.y, x1.y), map(g + 2u, x0.z, x1.z), map(g + 3u, x0.w, x1.w));
}
==== norm.lines 2
(0) var<uniform> p: Params;
(1) <read> dy: array<vec4<f32>>;
(2) <read> x: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 256u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const CENTRE: u32 = 1u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
var<workgroup> parts: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
var<private> kept_x: array<vec4<f32>, KEPT>;
struct Spread {
 scale: f32,
 near: f32,
 rest: f32,
 root: f32,
}
const BLOCK = 64u;
const MOST_R = 3e14;
var<private> kept_dy: array<vec4<f32>, KEPT>;
fn keep_dy(t: Line) {
 for (var k = 0u; k < KEEP; k++) {
  if has(t, k) {
   kept_dy[k] = dy[place(t, k)];
  }
 }
}
fn dy_of(t: Line, k: u32) -> vec4<f32> {
 if KEEP > 0u {
  return kept_dy[k];
 }
 return dy[place(t, k)];
}
fn grad_x(t: Line) {
 keep_x(t);
 keep_dy(t);
 let len = f32(p.n * WIDE);
 let m = mean_of(t, len);
 var d = vec4<f32>();
 var q = vec4<f32>();
 var a = vec4<f32>();
 var b = vec4<f32>();
 for (var k = 0u; k < share(t); k++) {
  if has(t, k) {
   let v = x_of(t, k) - m;
   let g = dy_of(t, k);
   d += v;
   q += v * v;
   a += g;
   b += g * v;
  }
 }
 let s = lanes_sums(vec4(sum_v(d), sum_v(q), sum_v(a), sum_v(b))) / len;
 let c = rest_and_r(s.x, s.y);
 if !(is_finite(s.y) && is_finite(s.z) && is_finite(s.w) && c.y < MOST_R) {
  if t.real {
   grad_of_spread(t, len);
  }
  return;
 }
 let slope = (s.w - s.z * c.x) * c.y;
 let shift = select(0.0, s.z, CENTRE == 1u);
 for (var k = 0u; k < share(t); k++) {
  if has(t, k) {
   y[place(t, k)] = c.y * ((dy_of(t, k) - shift) - ((x_of(t, k) - m) - c.x) * c.y * slope);
  }
 }
}
fn grad_of_spread(t: Line, len: f32) {
 let z = spread_of(t);
 let r = inverse_root(z.root, p.root_eps * z.scale);
 var most = abs(dy[t.first]);
 for (var i = 1u; i < t.len; i++) {
  most = larger_v(most, abs(dy[t.first + i * p.inner]));
 }
 let scale = power_for(max_v(most));
 var a = zero_v();
 var b = zero_v();
 for (var block = 0u; block < t.len; block += BLOCK) {
  var block_a = zero_v();
  var block_b = zero_v();
  for (var i = block; i < min(t.len, block + BLOCK); i++) {
   let at = t.first + i * p.inner;
   let g = dy[at] * scale;
   block_a += g;
   block_b += g * (((x[at] * z.scale - z.near) - z.rest) * r);
  }
  a += block_a;
  b += block_b;
 }
 let shift = select(0.0, sum_v(a) / len, CENTRE == 1u);
 let slope = sum_v(b) / len;
 let back = z.scale * inverse_power(scale);
 for (var i = t.lane; i < t.len; i += t.lanes) {
  let at = t.first + i * p.inner;
  let v = ((x[at] * z.scale - z.near) - z.rest) * r;
  y[at] = (((dy[at] * scale - shift) - v * slope) * r) * back;
 }
}==== map.forward_fours 20
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn map(g: u32, x0: f32) -> f32 {
 let v0 = uniform01(step.seed, step.step, 3u, g);
 let v1 = 0.1f;
 let v2 = f_ge(v0, v1);
 let v3 = x0;
 let v4 = 0.0f;
 let v5 = f_where(v2, v3, v4);
 let v6 = 1.1111112f;
 let v7 = f_mul(v5, v6);
 return v7;
}
==== matmul_tiles.forward_tiles 10
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
const TA: u32 = 0u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== matmul_tiles.forward_tiles 11
(0) var<uniform> p: Params;
(1) <read> a: array<vec4<f32>>;
(2) <read> b: array<vec4<f32>>;
(3) <read_write> y: array<f32>;
const TA: u32 = 1u;
const TB: u32 = 0u;
const TILE_M: u32 = 16u;
const TILE_N: u32 = 16u;
const PER_M: u32 = 4u;
const PER_N: u32 = 4u;
const SLAB: u32 = 16u;
struct Work {
 a: u32,   // where a's matrix starts in what this dispatch sees: it may start before that, and offsets wrap
 b: u32,
 y: u32,
 row: u32,    // the first row and column of the tile
 column: u32,
 first: u32,  // the terms of its sums
 end: u32,
}
const LANES_M = TILE_M / PER_M;
const LANES_N = TILE_N / PER_N;
const WG = LANES_M * LANES_N;
const VECS_M = PER_M / 4u;
const VECS_N = PER_N / 4u;
var<workgroup> slab_a: array<vec4<f32>, 2u * SLAB * TILE_M / 4u>;
var<workgroup> slab_b: array<vec4<f32>, 2u * SLAB * TILE_N / 4u>;
struct Factors {
 a: array<vec4<f32>, VECS_M>,
 b: array<vec4<f32>, VECS_N>,
}
const VECS_A = TILE_M * SLAB / 4u;
const VECS_B = TILE_N * SLAB / 4u;
const FETCHES_A = (VECS_A + WG - 1u) / WG;
const FETCHES_B = (VECS_B + WG - 1u) / WG;
==== map.forward_fours 21
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = f_relu(v0);
 let v2 = 0.0f;
 let v3 = f_le(v1, v2);
 let v4 = uniform01(step.seed, step.step, 2u, g);
 let v5 = 0.1f;
 let v6 = f_ge(v4, v5);
 let v7 = x1;
 let v8 = f_where(v6, v7, v2);
 let v9 = 1.1111112f;
 let v10 = f_mul(v8, v9);
 let v11 = f_where(v3, v2, v10);
 return v11;
}
==== reduce.lines 12
(0) var<uniform> p: Params;
(1) <read> x: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
const COLUMNS: u32 = 16u;
const LANES: u32 = 16u;
const ROWS: u32 = 1u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 4u;
const KIND: u32 = 0u;
const WIDE = 4u;
var<private> local: u32;
var<workgroup> part: array<vec4<f32>, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== map.forward_fours 22
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = f_add(v0, v1);
 return v2;
}
==== map.forward_fours 23
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read_write> y: array<vec4<f32>>;
struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
const WG: u32 = 256u;
fn map(g: u32, x0: f32) -> f32 {
 let v0 = uniform01(step.seed, step.step, 1u, g);
 let v1 = 0.1f;
 let v2 = f_ge(v0, v1);
 let v3 = x0;
 let v4 = 0.0f;
 let v5 = f_where(v2, v3, v4);
 let v6 = 1.1111112f;
 let v7 = f_mul(v5, v6);
 return v7;
}
==== map.forward_fours 24
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
==== reduce.lines 13
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
const COLUMNS: u32 = 1u;
const LANES: u32 = 1u;
const ROWS: u32 = 256u;
const KEEP: u32 = 0u;
const KEPT: u32 = 1u;
const WIDE_OUT: u32 = 1u;
const KIND: u32 = 0u;
const WIDE = 1u;
var<private> local: u32;
var<workgroup> part: array<f32, WG>;
struct Line {
 first: u32,
 len: u32,
 lane: u32,
 lanes: u32,
 out: u32,
 column: u32,
 real: bool,
}
const SUM = 0u;
const MEAN = 1u;
const MAX = 2u;
const MIN = 3u;
const ADDS = KIND == SUM || KIND == MEAN;
const UNIT = 2.3283064365386963e-10;
==== map.forward_fours 25
(0) var<uniform> p: Params;
(1) <read> e0: array<vec4<f32>>;
(2) <read> e1: array<vec4<f32>>;
(3) <read_write> y: array<vec4<f32>>;
const WG: u32 = 256u;
fn map(g: u32, x0: f32, x1: f32) -> f32 {
 let v0 = x0;
 let v1 = x1;
 let v2 = f_sub(v0, v1);
 return v2;
}
==== concat.forward 1
(0) var<uniform> p: Params;
(1) <read> x: array<f32>;
(2) <read_write> y: array<f32>;
const WG: u32 = 256u;
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
 let i = group_index(group, groups) * WG + lane;
 if i < p.units {
  let g = p.first + i;
  y[g / p.x_row * p.y_row + p.start + g % p.x_row] = x[i];
 }
}==== attention.grad 1
(0) var<uniform> p: Params;
(1) <read> rows: array<f32>;
(2) <read> cols: array<f32>;
(3) <read> values: array<f32>;
(4) <read_write> y: array<f32>;
const TR: u32 = 8u;
const TC: u32 = 16u;
const SLAB: u32 = 16u;
const COLS: u32 = 1u;
fn walk_all(lane: u32, batch: u32, row: u32, first: u32, sums: ptr<function, array<vec4<f32>, COLS>>) {
 walk(lane, batch, batch, row, first, sums);
}
const WG = TR * TC;
const TILE_R = 4u * TR;
const TILE_C = 4u * TC;
const ROW_R = TILE_R + 1u;
const ROW_C = TILE_C + 1u;
const WIDTH = COLS * TC;
const DEPTH = min(SLAB / 2u, TILE_C);
var<workgroup> slab_r: array<f32, SLAB * ROW_R>;
var<workgroup> slab_c: array<f32, max(SLAB * ROW_C, TILE_R * TC)>;
var<workgroup> weights: array<f32, TILE_C * ROW_R>;
struct Unit {
 batch: u32,
 row: u32,
 first: u32,
}
const FILLS_R = (TILE_R * SLAB + WG - 1u) / WG;
const FILLS_C = (TILE_C * SLAB + WG - 1u) / WG;
const FILLS_V = (DEPTH * WIDTH + WG - 1u) / WG;
struct Fetched {
 r: array<f32, FILLS_R>,
 c: array<f32, FILLS_C>,
}
fn of_queries(batch: u32, i: vec4<u32>, which: u32) -> vec4<f32> {
 let column = p.d + p.e + which;
 if p.of_queries == 1u {
  let at = (batch * p.rows_n + min(i, vec4<u32>(p.rows_n - 1u))) * p.rows_w + column;
  return vec4<f32>(rows[at.x], rows[at.y], rows[at.z], rows[at.w]);
 }
 let at = (batch * p.cols_n + min(i, vec4<u32>(p.cols_n - 1u))) * p.cols_w + column;
 return vec4<f32>(cols[at.x], cols[at.y], cols[at.z], cols[at.w]);
}
fn walk(lane: u32, queries: u32, batch: u32, row: u32, first: u32, sums: ptr<function, array<vec4<f32>, COLS>>) {
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
  let four = vec4<u32>(0u, 1u, 2u, 3u);
  let query4 = select(col + c + four * TC, row + r + four * TR, p.of_queries == 1u);
  let l = of_queries(queries, query4, 0u);
  let delta = of_queries(queries, query4, 1u);
  for (var x = 0u; x < 4u; x++) {
   for (var z = 0u; z < 4u; z++) {
    let i = row + r + x * TR;
    let j = col + c + z * TC;
    let query = p.of_queries == 1u;
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
}==== gather_rows.sort 1
(0) var<uniform> p: Params;
(1) <read> index: array<u32>;
(2) <read_write> order: array<u32>;
const WG: u32 = 256u;
@compute @workgroup_size(WG)
fn sort(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
 let i = group_index(id, n) * WG + local;
 if i < p.units {
  let row = index[i];
  var before = 0u;
  for (var k = 0u; k < p.m; k++) {
   let other = index[k];
   before += u32(other < row || (other == row && k < i));
  }
  order[before] = i;
 }
}==== gather_rows.grad_table 1
(0) var<uniform> p: Params;
(1) <read> dy: array<f32>;
(2) <read> index: array<u32>;
(3) <read> order: array<u32>;
(4) <read_write> dtable: array<f32>;
const WG: u32 = 256u;
const LANES: u32 = 32u;
@compute @workgroup_size(WG)
fn grad_table(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) local: u32) {
 let unit = group_index(id, n) * (WG / LANES) + local / LANES;
 if unit < p.units {
  let row = p.first + unit;
  var first = 0u;
  var end = p.m;
  while first < end {
   let middle = (first + end) / 2u;
   if index[order[middle]] < row {
    first = middle + 1u;
   } else {
    end = middle;
   }
  }
  while end < p.m && index[order[end]] == row {
   end++;
  }
  for (var column = local % LANES; column < p.cols; column += LANES) {
   var sum = 0.0;
   for (var k = first; k < end; k++) {
    sum += dy[order[k] * p.cols + column];
   }
   dtable[unit * p.cols + column] = sum;
  }
 }
}