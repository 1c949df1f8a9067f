//! The kernels of [`Attention`] and [`AttentionGrad`]. The kernel `tiled` takes its sizes from the limits of the device. The kernel
//! `rows` is for software adapters.

use super::*;
use crate::kernel::{Bind, Pass, source};

/// The largest number of columns of the output that one invocation computes in each of its rows.
const COLS: usize = 8;

/// The operands of the two products. `rows · colsᵀ` gives scores. The scores become weights, and weights `· values` gives the
/// output.
struct Sides {
    rows: (usize, usize, usize),
    cols: (usize, usize, usize),
    values: (usize, usize, usize),
    /// The number of columns of the output.
    width: usize,
    of: Rows,
}

/// Returns the sizes of a tile. A workgroup has rows × columns invocations, and each invocation computes 4 × 4 scores. The third
/// number is the number of terms of a product in workgroup memory at once. The fourth number is the number of output columns of an
/// invocation. Each set of sizes is a pipeline, so there are few sets.
fn tile(n: usize, m: usize, width: usize, caps: &Caps) -> [usize; 4] {
    let bytes = |&[tr, tc, slab]: &[usize; 3]| 4 * (4 * tc * (4 * tr + 1) + slab * (4 * tr + 1) + (slab * (4 * tc + 1)).max(4 * tr * tc));
    let fits = |t: &[usize; 3]| t[0] * t[1] <= caps.max_invocations as usize && bytes(t) <= caps.max_workgroup_bytes as usize;
    // With few registers, fewer terms are fetched at once.
    let (slab, most) = if caps.few_registers { (4, 4) } else { (16, COLS) };
    let [tr, tc, slab] = [[16, 16, slab], [8, 16, slab], [4, 8, 8]].into_iter().find(fits).unwrap_or([2, 4, 8]);
    // Small matrices get small tiles.
    let tr = if n <= 8 { 2 } else { tr };
    let tc = if m <= 16 && width <= 4 * most { 4 } else { tc };
    [tr, tc, slab, width.div_ceil(tc).next_power_of_two().min(most)]
}

/// The rows of a kernel are queries or keys.
#[derive(Clone, Copy, PartialEq)]
enum Rows {
    Queries,
    Keys,
}

/// Returns the candidates. The first flag says that the attention is causal. The others say that the gradient is for the queries, and
/// that it is for the values.
fn kernels(entries: [&'static str; 2], s: AttentionSizes, sides: &Sides, flags: [usize; 3], scale: f32, caps: &Caps) -> Vec<Kernel> {
    let [tr, tc, slab, per_lane] = tile(sides.rows.1, sides.cols.1, sides.width, caps);
    let consts = vec![("TR", tr.into()), ("TC", tc.into()), ("SLAB", slab.into()), ("COLS", per_lane.into())];
    let tiled = pass(s, sides, [4 * tr, per_lane * tc], flags, scale);
    let mut kernels = vec![Kernel::one("tiled", Pass { entry: entries[0], consts, ..tiled })];
    if let (true, Some(lanes @ (4 | 8 | 16))) = (caps.software, caps.subgroups) {
        let (lanes, rows, source) = (lanes as usize, if sides.rows.1 <= 16 { 16 } else { 32 }, source!("attention_rows"));
        let consts = vec![("LANES", lanes.into()), ("ROWS", rows.into())];
        kernels.push(Kernel::one("rows", Pass { source, entry: entries[1], consts, ..pass(s, sides, [rows, 4 * lanes], flags, scale) }));
    }
    kernels
}

/// Returns the pass that both strategies share. A unit is a block of the output.
fn pass(s: AttentionSizes, sides: &Sides, [block, chunk]: [usize; 2], flags: [usize; 3], scale: f32) -> Pass {
    let &Sides { rows, cols, values, width, of } = sides;
    let (blocks, chunks) = (rows.1.div_ceil(block), width.div_ceil(chunk));
    let [causal, of_queries, of_values] = flags;
    let sizes = [
        ("rows_n", rows.1),
        ("rows_w", rows.2),
        ("cols_n", cols.1),
        ("cols_w", cols.2),
        ("values_w", values.1),
        ("values_from", values.2),
        ("width", width),
        ("d", s.d),
        ("e", s.e),
        ("blocks", blocks),
        ("chunks", chunks),
        ("causal", causal),
        ("of_queries", of_queries),
        ("of_values", of_values),
    ];
    let mut params: Vec<(String, Word)> = sizes.map(|(name, x)| (name.to_string(), x.into())).into();
    params.push(("scale".into(), scale.into()));
    params.extend(s.pairs.params(s.n, s.m, of == Rows::Queries).into_iter().map(|(name, x)| (name.to_string(), x)));
    let mut batches = s.batch;
    let mut walk = "";
    let mut cols_batch = "batch";
    if !s.shared.is_none() {
        let shared = [("kv_each", s.shared.each), ("kv_count", s.shared.count), ("kv_parts", s.shared.parts())];
        params.extend(shared.map(|(name, x)| (name.to_string(), x.into())));
        match of {
            Rows::Queries => cols_batch = "batch / p.kv_each % p.kv_count",
            Rows::Keys => {
                batches = s.shared.count;
                walk = "for (var part = 0u; part < p.kv_parts; part++) {\n        \
                        let reader = (part / p.kv_each * p.kv_count + batch) * p.kv_each + part % p.kv_each;\n        ";
            }
        }
    }
    let mut binds = vec![
        Bind::input("rows", rows.0, DType::F32),
        Bind::input("cols", cols.0, DType::F32),
        Bind::input("values", values.0, DType::F32),
        Bind::output("y", DType::F32),
    ];
    binds.extend(s.pairs.binds());
    // Each batch of queries that reads the keys and values of a unit. Without sharing it is one.
    let (queries, end) = if walk.is_empty() { ("batch", "") } else { ("reader", "\n    }") };
    let walks = [("walk_all", "COLS"), ("walk_all_rows", "ROWS")].map(|(name, count)| {
        let called = name.replace("_all", "");
        format!(
            "fn {name}(lane: u32, batch: u32, row: u32, first: u32, sums: ptr<function, array<vec4<f32>, {count}>>) {{\n    \
             {walk}{called}(lane, {queries}, batch, row, first, sums);{end}\n}}\n"
        )
    });
    let shared = format!("fn cols_batch(batch: u32) -> u32 {{ return {cols_batch}; }}\n{}", walks.concat());
    Pass {
        source: source!("attention"),
        entry: "forward",
        consts: Vec::new(),
        params,
        binds,
        code: s.pairs.code(of == Rows::Queries) + &shared,
        units: batches * blocks * chunks,
        per_group: 1,
        step: s.pairs.is_random(),
    }
}

pub(super) fn forward(op: &Attention, s: AttentionSizes, caps: &Caps) -> Vec<Kernel> {
    let sides = Sides { rows: (0, s.n, s.d), cols: (1, s.m, s.d), values: (2, s.e, 0), width: s.e, of: Rows::Queries };
    kernels(["forward", "forward_rows"], s, &sides, [op.causal.into(), 0, 0], op.scale(s.d), caps)
}

pub(super) fn grad(op: &AttentionGrad, s: AttentionSizes, caps: &Caps) -> Vec<Kernel> {
    let (a, b) = ((0, s.n, s.d + s.e + 2), (1, s.m, s.d + s.e));
    // The rows belong to the input whose gradient is computed. The weights multiply rows of the other tensor.
    let (rows, cols, of) = if op.of == Of::Q { (a, b, Rows::Queries) } else { (b, a, Rows::Keys) };
    let (from, width) = if op.of == Of::V { (s.d, s.e) } else { (0, s.d) };
    let sides = Sides { rows, cols, values: (cols.0, cols.2, from), width, of };
    let flags = [op.options.causal, op.of == Of::Q, op.of == Of::V].map(usize::from);
    kernels(["grad", "grad_rows"], s, &sides, flags, op.scale(), caps)
}
