//! The shapes to test.

use super::*;
use map::{Fun, Inst, Sub};

/// All four combinations of flags at every size, sizes around a tile, the ways to batch, and epilogues.
pub fn cases() -> Vec<Case> {
    let product = |ta: bool, tb: bool, a: &[usize], m: usize, k: usize, n: usize, b: &[usize]| {
        let shape = |batch: &[usize], r: usize, c: usize, t: bool| {
            Shape::new(&[batch, &if t { [c, r] } else { [r, c] }].concat()).expect("at most six axes")
        };
        let (x, w) = (shape(a, m, k, ta), shape(b, k, n, tb));
        let name = format!("{x}{} × {w}{}", if ta { "ᵀ" } else { "" }, if tb { "ᵀ" } else { "" });
        Case::new(name, MatMul { transpose_a: ta, transpose_b: tb, epilogue: None }, &[x, w])
    };
    let mut cases = Vec::new();
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        cases.push(product(ta, tb, &[], 1, 1, 1, &[]));
        cases.push(product(ta, tb, &[], 13, 17, 19, &[]));
        cases.push(product(ta, tb, &[], 63, 65, 64, &[]));
        cases.push(product(ta, tb, &[], 65, 16, 63, &[]));
        cases.push(product(ta, tb, &[], 64, 15, 65, &[]));
        cases.push(product(ta, tb, &[], 1, 131, 3, &[]));
        cases.push(product(ta, tb, &[], 67, 1, 1, &[]));
        cases.push(product(ta, tb, &[3], 5, 7, 2, &[3]));
        cases.push(product(ta, tb, &[2, 3], 4, 5, 6, &[]));
        cases.push(product(ta, tb, &[], 4, 5, 6, &[3]));
        cases.push(product(ta, tb, &[2, 1, 3], 2, 3, 5, &[4, 1]));
        cases.push(product(ta, tb, &[2, 1, 3, 1], 3, 2, 2, &[2, 1, 3]));
    }

    // Sizes beyond the largest tile, with rows that are loaded four numbers at a time, and sums in parts. They are flat, because
    // the gradients are products as well.
    for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        cases.push(product(ta, tb, &[], 132, 36, 140, &[]).flat());
        cases.push(product(ta, tb, &[], 30, 520, 31, &[]).flat());
    }
    // Thin products: attention heads, single rows and single columns.
    cases.push(product(false, true, &[], 67, 200, 10, &[]).flat());
    cases.push(product(true, false, &[], 10, 200, 67, &[]).flat());
    cases.push(product(false, true, &[], 1, 200, 70, &[]).flat());
    cases.push(product(false, false, &[], 1, 200, 70, &[]).flat());
    cases.push(product(true, true, &[], 70, 200, 1, &[]).flat());
    // Small bindings: windows of rows, of columns, of parts and of products. The last product cannot be split.
    cases.push(product(false, true, &[], 1000, 50, 20, &[]).flat());
    cases.push(product(false, true, &[], 1, 50, 1000, &[]).flat());
    cases.push(product(true, false, &[], 20, 1500, 30, &[]).flat());
    cases.push(product(true, true, &[71], 16, 20, 25, &[71]).flat());
    cases.push(product(false, false, &[40, 3], 15, 10, 16, &[1, 3]).flat());
    cases.push(product(false, true, &[], 44, 1100, 36, &[]).flat());

    // More products than the number of workgroups in one dimension of a dispatch.
    let many = [[65_537, 1, 2], [65_537, 2, 1]].map(Shape::from);
    cases.push(Case::new("65,537 products", MatMul::default(), &many).flat());

    let bias_relu =
        Expr::call(Fun::Relu, &[Inst::Input(0)]).compose(&[Sub::Expr(&Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]), &[0, 1])]);
    let mut fused = |name: &str, epilogue: &Expr, shapes: &[&[usize]]| {
        let shapes: Vec<Shape> = shapes.iter().map(|d| Shape::new(d).expect("at most six axes")).collect();
        cases.push(Case::new(name, MatMul { transpose_b: true, epilogue: Some(epilogue.clone()), ..MatMul::default() }, &shapes).flat());
    };
    fused("relu(a·bᵀ + bias)", &bias_relu, &[&[67, 33], &[65, 33], &[65]]);
    fused("relu(a·bᵀ + bias), batched", &bias_relu, &[&[2, 3, 5, 7], &[3, 4, 7], &[2, 1, 5, 1]]);
    fused("relu(a·bᵀ + bias), in parts", &bias_relu, &[&[20, 520], &[24, 520], &[24]]);
    fused("a·bᵀ + c, in windows", &Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]), &[&[1000, 3], &[20, 3], &[1000, 20]]);
    fused("a·bᵀ plus noise, in windows", &Expr::call(Fun::Add, &[Inst::Input(0), Inst::Random(7)]), &[&[1000, 3], &[20, 3]]);
    fused("a·bᵀ plus noise, a head", &Expr::call(Fun::Add, &[Inst::Input(0), Inst::Random(7)]), &[&[70, 65], &[10, 65]]);
    fused("a·bᵀ plus noise", &Expr::call(Fun::Add, &[Inst::Input(0), Inst::Random(7)]), &[&[66, 3], &[5, 3]]);
    cases
}
