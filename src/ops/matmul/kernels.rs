//! The kernels of [`MatMul`] and its test cases.

use super::*;
use crate::kernel::{Bind, Pass, Word, source};
use map::{Fun, Inst, Sub};

/// Products summed between two barriers.
const SLAB: usize = 16;

pub(super) fn kernels(op: &MatMul, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
    let d = op.known_dims(x[0], x[1]);
    let mut kernels = vec![tiled(op, &d, x, y, caps)];
    if let (true, Some((lanes @ 4..=32, most))) = (caps.software, caps.subgroups)
        && lanes == most
    {
        kernels.push(rows(op, &d, x, y, lanes as usize));
    }
    kernels
}

/// What every strategy has: the sizes, the strides of the batch, the bindings, the epilogue, and blocks of outputs as
/// units. The pass cannot be split: a block reads all of a row of `a` and a column of `b`.
fn pass(op: &MatMul, d: &Dims, x: &[Shape], y: Shape, [block_m, block_n]: [usize; 2]) -> Pass {
    let mut code = epilogue::code(&op.epilogue, 2, &x[2..], y, "p.first");
    let (blocks_m, blocks_n) = (d.m.div_ceil(block_m), d.n.div_ceil(block_n));
    let mut params: Vec<(String, Word)> = [("m", d.m), ("n", d.n), ("k", d.k), ("tiles_n", blocks_n), ("tiles", blocks_m * blocks_n)]
        .map(|(name, size)| (name.to_string(), size.into()))
        .to_vec();
    let lead = 4 - d.batch.rank();
    for axis in 0..4usize {
        let of = |list: &[usize], other: usize| axis.checked_sub(lead).map_or(other, |i| list[i]);
        if axis > 0 {
            params.push((format!("d{axis}"), of(d.batch.dims(), 1).into()));
        }
        params.push((format!("a{axis}"), (of(&d.a, 0) * d.m * d.k).into()));
        params.push((format!("b{axis}"), (of(&d.b, 0) * d.k * d.n).into()));
    }
    params.append(&mut code.params);
    let mut binds = vec![Bind::input("a", 0, DType::F32), Bind::input("b", 1, DType::F32)];
    binds.append(&mut code.binds);
    binds.push(Bind::output("y", DType::F32));
    Pass {
        source: source!("matmul"),
        entry: "forward_tiled",
        consts: vec![("TA", (op.transpose_a as usize).into()), ("TB", (op.transpose_b as usize).into())],
        params,
        binds,
        code: code.text,
        units: d.batch.elements() * blocks_m * blocks_n,
        per_group: 1,
        step: code.step,
    }
}

/// Tiles in workgroup memory: the portable kernel.
fn tiled(op: &MatMul, d: &Dims, x: &[Shape], y: Shape, caps: &Caps) -> Kernel {
    let fits = |tile: &usize| {
        let (invocations, bytes) = (tile * tile / 16, 2 * SLAB * (tile + 1) * 4);
        invocations <= caps.max_invocations as usize && bytes <= caps.max_workgroup_bytes as usize
    };
    // The smallest tile that holds the matrix, else the largest that fits the device.
    let largest = [64, 32, 16].into_iter().find(fits).unwrap_or(8);
    let tile = d.m.max(d.n).next_power_of_two().clamp(8, largest);
    let mut pass = pass(op, d, x, y, [tile, tile]);
    pass.consts.extend([("TILE", tile.into()), ("SLAB", SLAB.into())]);
    Kernel::one("tiled", pass)
}

/// Blocks in the registers of one subgroup, without workgroup memory: for software adapters.
fn rows(op: &MatMul, d: &Dims, x: &[Shape], y: Shape, lanes: usize) -> Kernel {
    let rows = d.m.next_power_of_two().clamp(lanes, 32.max(lanes));
    let pass = Pass { source: source!("matmul_rows"), entry: "forward_rows", ..pass(op, d, x, y, [rows, 4 * lanes]) };
    let consts = [("LANES", lanes.into()), ("ROWS", rows.into()), ("EPILOGUE", (op.epilogue.is_some() as usize).into())];
    Kernel::one("rows", Pass { consts: [&pass.consts[..], &consts].concat(), ..pass })
}

/// All four flags at every size, sizes around a tile, the ways to batch, and epilogues.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |ta: bool, tb: bool, a: &[usize], m: usize, k: usize, n: usize, b: &[usize]| {
        let shape = |batch: &[usize], r: usize, c: usize, t: bool| {
            Shape::new(&[batch, &if t { [c, r] } else { [r, c] }].concat()).expect("at most six axes")
        };
        let (x, w) = (shape(a, m, k, ta), shape(b, k, n, tb));
        let name = format!("{x}{} × {w}{}", if ta { "ᵀ" } else { "" }, if tb { "ᵀ" } else { "" });
        cases.push(Case::new(name, MatMul { transpose_a: ta, transpose_b: tb, epilogue: None }, &[x, w]));
    };
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        add(ta, tb, &[], 1, 1, 1, &[]);
        add(ta, tb, &[], 13, 17, 19, &[]);
        add(ta, tb, &[], 63, 65, 64, &[]);
        add(ta, tb, &[], 65, 16, 63, &[]);
        add(ta, tb, &[], 64, 15, 65, &[]);
        add(ta, tb, &[], 1, 131, 3, &[]);
        add(ta, tb, &[], 67, 1, 1, &[]);
        add(ta, tb, &[3], 5, 7, 2, &[3]);
        add(ta, tb, &[2, 3], 4, 5, 6, &[]);
        add(ta, tb, &[], 4, 5, 6, &[3]);
        add(ta, tb, &[2, 1, 3], 2, 3, 5, &[4, 1]);
        add(ta, tb, &[2, 1, 3, 1], 3, 2, 2, &[2, 1, 3]);
    }

    // More products than a dispatch has workgroups along one dimension.
    let many = [[65_537, 1, 2], [65_537, 2, 1]].map(Shape::from);
    cases.push(Case::new("65,537 products", MatMul::default(), &many).flat());

    let bias_relu = Expr::call(Fun::Relu, &[Inst::Input(0)])
        .compose(&[Sub::Expr(&Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]), &[0, 1])]);
    let mut fused = |name: &str, epilogue: &Expr, shapes: &[&[usize]]| {
        let shapes: Vec<Shape> = shapes.iter().map(|d| Shape::new(d).expect("at most six axes")).collect();
        cases.push(Case::new(name, MatMul { transpose_b: true, epilogue: Some(epilogue.clone()), ..MatMul::default() }, &shapes).flat());
    };
    fused("relu(a·bᵀ + bias)", &bias_relu, &[&[67, 33], &[65, 33], &[65]]);
    fused("relu(a·bᵀ + bias), batched", &bias_relu, &[&[2, 3, 5, 7], &[3, 4, 7], &[2, 1, 5, 1]]);
    fused("a·bᵀ plus noise", &Expr::call(Fun::Add, &[Inst::Input(0), Inst::Random(7)]), &[&[66, 3], &[5, 3]]);
    cases
}
