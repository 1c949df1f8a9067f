//! The kernels, with one pass for each step, and the test cases.

use super::*;
use crate::kernel::{Bind, Pass, Word, source};

/// The product of a step, `[n, k] × [k, columns]`. The left operand is in the tensor that the steps write.
struct Product {
    entry: [&'static str; 2],
    /// The distance between the rows of the left operand, and the position of its first row, in elements.
    row: usize,
    first: usize,
    k: usize,
    /// The number of columns that belong to one element of the hidden size. Forward it is 4: the gates of one element are
    /// neighbours. Backward it is 1.
    per_column: usize,
}

/// Returns the candidates for all steps, in the order `order`. `binds` are the tensors that the steps read and write. `product(k)`
/// is the product of step k.
fn candidates(d: SequenceSizes, binds: &[Bind], order: &[usize], product: impl Fn(usize) -> Product, caps: &Caps) -> Vec<Kernel> {
    let pass = |k: usize, rows: usize, columns: usize| {
        let (p, step) = (product(k), d.step(k));
        let next = d.step((k + 1).min(d.t - 1)).time;
        let tiles_n = d.h.div_ceil(columns / p.per_column);
        let sizes = [("n", d.n), ("h", d.h), ("t", d.t), ("k", p.k), ("a_row", p.row), ("a_first", p.first), ("tiles_n", tiles_n)];
        let places = [("time", step.time), ("before", step.before), ("after", step.after), ("next", next)];
        let params = sizes.iter().chain(&places).map(|&(name, size)| (name.to_string(), Word::from(size))).collect();
        let consts = vec![("GATES", d.cell.gates().into()), ("FORWARD", usize::from(p.per_column > 1).into())];
        let units = d.n.div_ceil(rows) * tiles_n;
        let pass = Pass {
            source: source!("recurrent"),
            entry: p.entry[0],
            consts,
            params,
            binds: binds.to_vec(),
            code: String::new(),
            units,
            per_group: 1,
            step: false,
        };
        (pass, p.entry[1])
    };
    // A step waits for the step before it. Small tiles give work to the whole device.
    let tile = if caps.max_invocations >= 64 { 32 } else { 16 };
    let slab = [16, 8, 4].into_iter().find(|slab| 2 * slab * (tile + 1) * 4 <= caps.max_workgroup_bytes as usize).unwrap_or(2);
    let tiled = |&k: &usize| {
        let (mut pass, _) = pass(k, tile, tile);
        pass.consts.extend([("TILE", tile.into()), ("SLAB", slab.into())]);
        pass
    };
    let mut kernels = vec![Kernel { name: "tiled", passes: order.iter().map(tiled).collect(), scratch: Vec::new() }];
    if let (true, Some(lanes @ 4..=32)) = (caps.software, caps.subgroups) {
        let lanes = lanes as usize;
        let rows = d.n.next_power_of_two().clamp(lanes, 16.max(lanes));
        let in_rows = |&k: &usize| {
            let (mut pass, entry) = pass(k, rows, 4 * lanes);
            pass.consts.extend([("LANES", lanes.into()), ("ROWS", rows.into())]);
            Pass { source: source!("recurrent_rows"), entry, ..pass }
        };
        kernels.push(Kernel { name: "rows", passes: order.iter().map(in_rows).collect(), scratch: Vec::new() });
    }
    kernels
}

pub(super) fn forward(d: SequenceSizes, s: Shape, caps: &Caps) -> Vec<Kernel> {
    let binds =
        [Bind::input("x", 0, DType::F32), Bind::input("w", 1, DType::F32), Bind::input("b", 2, DType::F32), Bind::output("y", DType::F32)];
    let product = |k: usize| Product {
        entry: ["forward_tiled", "forward_rows"],
        row: d.row(),
        first: d.step(k).before * d.place(),
        k: d.h,
        per_column: 4,
    };
    let order: Vec<usize> = (0..d.t).collect();
    let mut kernels = candidates(d, &binds, &order, product, caps);
    let wg = caps.workgroup(256);
    let sizes = [("place", d.place()), ("row", d.row()), ("first", d.start() * d.place()), ("states", s.last())];
    let start = Pass {
        source: source!("recurrent"),
        entry: "start",
        consts: vec![("SIZE", wg.into())],
        params: sizes.iter().map(|&(name, size)| (format!("{name}_size"), size.into())).collect(),
        binds: vec![Bind::input("s", 3, DType::F32), Bind::output("y", DType::F32)],
        code: String::new(),
        units: d.n * d.place(),
        per_group: wg,
        step: false,
    };
    kernels.iter_mut().for_each(|kernel| kernel.passes.insert(0, start.clone()));
    kernels
}

pub(super) fn backward(d: SequenceSizes, caps: &Caps) -> Vec<Kernel> {
    let binds = [
        Bind::input("states", 0, DType::F32),
        Bind::input("w", 1, DType::F32),
        Bind::input("dy", 2, DType::F32),
        Bind::output("y", DType::F32),
    ];
    let size = D_PARTS * d.h;
    let product = |k: usize| Product {
        entry: ["backward_tiled", "backward_rows"],
        row: d.t * size,
        first: d.step((k + 1).min(d.t - 1)).time * size + d.cell.first() * d.h,
        // No step follows the last step, so its product has no terms.
        k: if k + 1 < d.t { d.gates() } else { 0 },
        per_column: 1,
    };
    let order: Vec<usize> = (0..d.t).rev().collect();
    candidates(d, &binds, &order, product, caps)
}

/// Both cells in both directions. The batch, the steps and the hidden size are 1, around a tile, or prime.
pub(super) fn cases(case: impl Fn(Cell, bool, usize, usize, usize) -> Case) -> Vec<Case> {
    let mut cases = Vec::new();
    for cell in [Cell::Lstm, Cell::Gru] {
        for (reverse, n, t, h) in [
            (false, 1, 1, 1),
            (true, 2, 3, 2),
            (false, 7, 5, 3),
            (false, 31, 2, 33),
            (true, 33, 1, 31),
            (true, 32, 2, 32),
            (false, 1, 11, 8),
            (false, 3, 2, 67),
            (false, 70, 2, 9),
        ] {
            cases.push(case(cell, reverse, n, t, h));
        }
    }
    cases
}
