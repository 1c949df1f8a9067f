//! The kernels of [`Attention`] and [`AttentionGrad`]: one strategy, `tiled`, whose sizes follow from the device's limits.

use super::*;
use crate::kernel::{Bind, Pass, source};

/// Columns of the output that one invocation owns of each of its rows, at most.
const COLS: usize = 8;

/// What is multiplied with what: `rows · colsᵀ` gives scores, and weights made of them `· values` the output.
struct Sides {
    rows: (usize, usize, usize),
    cols: (usize, usize, usize),
    values: (usize, usize, usize),
    /// Columns of the output.
    width: usize,
}

/// Invocations of a workgroup as rows × columns, each of which does 4 × 4 scores, and how many terms of a product lie in
/// workgroup memory at once.
fn tile(n: usize, m: usize, width: usize, caps: &Caps) -> [usize; 3] {
    let bytes = |&[tr, tc, slab]: &[usize; 3]| 4 * (4 * tc * (4 * tr + 1) + slab * (4 * tr + 1) + slab * (4 * tc + 1));
    let fits = |t: &[usize; 3]| t[0] * t[1] <= caps.max_invocations as usize && bytes(t) <= caps.max_workgroup_bytes as usize;
    let [tr, tc, slab] = [[16, 16, 16], [8, 16, 16], [4, 8, 8]].into_iter().find(fits).unwrap_or([2, 4, 8]);
    // No more than there is to do.
    let enough = |n: usize| n.next_power_of_two();
    [tr.min(enough(n.div_ceil(4))), tc.min(enough(m.div_ceil(4).max(width.div_ceil(COLS)))), slab]
}

fn pass(entry: &'static str, s: Sizes, sides: Sides, consts: &[(&'static str, usize)], scale: f32, caps: &Caps) -> Pass {
    let Sides { rows, cols, values, width } = sides;
    let [tr, tc, slab] = tile(rows.1, cols.1, width, caps);
    let per_lane = width.div_ceil(tc).min(COLS);
    let (blocks, chunks) = (rows.1.div_ceil(4 * tr), width.div_ceil(per_lane * tc));
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
    ];
    let mut params: Vec<(String, crate::kernel::Word)> = sizes.map(|(name, x)| (name.to_string(), x.into())).into();
    params.push(("scale".into(), scale.into()));
    let own = [("TR", tr), ("TC", tc), ("SLAB", slab), ("COLS", per_lane)];
    Pass {
        source: source!("attention"),
        entry,
        consts: own.iter().chain(consts).map(|&(name, x)| (name, x.into())).collect(),
        params,
        binds: vec![
            Bind::input("rows", rows.0, DType::F32),
            Bind::input("cols", cols.0, DType::F32),
            Bind::input("values", values.0, DType::F32),
            Bind::output("y", DType::F32),
        ],
        code: String::new(),
        units: s.batch * blocks * chunks,
        per_group: 1,
        step: false,
    }
}

pub(super) fn forward(op: &Attention, s: Sizes, caps: &Caps) -> Vec<Kernel> {
    let sides = Sides { rows: (0, s.n, s.d), cols: (1, s.m, s.d), values: (2, s.e, 0), width: s.e };
    let consts = [("CAUSAL", usize::from(op.causal))];
    vec![Kernel::one("tiled", pass("forward", s, sides, &consts, op.scale(s.d), caps))]
}

pub(super) fn grad(op: &AttentionGrad, s: Sizes, caps: &Caps) -> Vec<Kernel> {
    let (a, b) = ((0, s.n, s.d + s.e + 2), (1, s.m, s.d + s.e));
    // Rows are what the gradient is of; the weights are those of the other side's rows.
    let (rows, cols) = if op.of == Of::Q { (a, b) } else { (b, a) };
    let (from, width) = if op.of == Of::V { (s.d, s.e) } else { (0, s.d) };
    let sides = Sides { rows, cols, values: (cols.0, cols.2, from), width };
    let consts = [("CAUSAL", op.causal.into()), ("QUERIES", (op.of == Of::Q).into()), ("VALUES", (op.of == Of::V).into())];
    vec![Kernel::one("tiled", pass("grad", s, sides, &consts, op.scale, caps))]
}
