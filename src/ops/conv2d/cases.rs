//! The shapes to test. The three ops use the same convolutions.

use super::*;
use map::{Fun, Inst, Sub};

/// A convolution: its name, images `[n, c, h, w]`, output channels, kernel, stride, padding, dilation, groups.
struct ConvRow(&'static str, [usize; 4], usize, [usize; 2], [usize; 2], [usize; 4], [usize; 2], usize);

/// No padding; a stride or dilation of 1.
const NONE: [usize; 4] = [0; 4];
const ONE: [usize; 2] = [1; 2];

const ROWS: [ConvRow; 24] = [
    ConvRow("one of each", [1, 1, 1, 1], 1, ONE, ONE, NONE, ONE, 1),
    ConvRow("one by one", [3, 5, 4, 7], 6, ONE, ONE, NONE, ONE, 1),
    ConvRow("one by one, every third", [2, 5, 7, 8], 3, ONE, [3, 3], NONE, ONE, 1),
    ConvRow("three by three", [2, 3, 7, 5], 4, [3, 3], ONE, [1; 4], ONE, 1),
    ConvRow("one channel", [5, 1, 9, 11], 7, [3, 3], ONE, NONE, ONE, 1),
    ConvRow("one output channel", [2, 6, 5, 5], 1, [3, 3], ONE, [1; 4], ONE, 1),
    ConvRow("all rectangular", [1, 3, 11, 13], 5, [2, 4], [3, 2], [1, 1, 2, 2], [2, 1], 1),
    ConvRow("same, even kernel", [2, 3, 6, 5], 4, [2, 4], ONE, [0, 1, 1, 2], ONE, 1),
    ConvRow("stride above kernel", [2, 3, 11, 10], 4, [2, 2], [3, 4], NONE, ONE, 1),
    ConvRow("stride above image", [2, 3, 3, 2], 4, [2, 1], [5, 7], NONE, ONE, 1),
    ConvRow("rows left unused", [1, 2, 10, 12], 3, [3, 3], [4, 4], NONE, ONE, 1),
    ConvRow("padding beyond the kernel", [2, 2, 3, 4], 3, [2, 3], [2, 1], [3, 2, 4, 3], ONE, 1),
    ConvRow("kernel of the padded image", [3, 4, 4, 5], 5, [6, 7], ONE, [1; 4], ONE, 1),
    ConvRow("dilation", [2, 3, 9, 10], 4, [3, 2], ONE, [2, 1, 0, 3], [2, 3], 1),
    ConvRow("dilation and stride", [1, 3, 13, 12], 4, [3, 3], [2, 3], [2; 4], [4, 2], 1),
    ConvRow("groups", [2, 6, 7, 6], 9, [3, 3], ONE, [1; 4], ONE, 3),
    ConvRow("groups, stride", [3, 10, 5, 6], 34, [2, 3], [2, 2], [1, 0, 2, 0], ONE, 2),
    ConvRow("depthwise", [2, 5, 8, 7], 5, [3, 3], ONE, [1; 4], ONE, 5),
    ConvRow("depthwise, two for each", [3, 4, 9, 9], 8, [3, 2], [2, 1], [1; 4], [1, 2], 4),
    ConvRow("a tile", [1, 16, 8, 8], 64, ONE, ONE, NONE, ONE, 1),
    ConvRow("one less than a tile", [1, 7, 9, 7], 63, [2, 1], [1, 1], [0, 0, 0, 0], ONE, 1),
    ConvRow("one more than a tile", [1, 8, 13, 5], 65, [2, 2], ONE, [0, 1, 1, 0], ONE, 1),
    ConvRow("past a tile each way", [5, 17, 6, 5], 67, [3, 3], [1, 2], [1; 4], ONE, 1),
    ConvRow("rows of images", [7, 4, 1, 37], 5, [1, 5], [1, 2], [0, 0, 2, 2], ONE, 1),
];

/// Cases that are too large for central differences. There are many images, which small bindings see in windows. There are more
/// groups than the number of workgroups in one dimension of a dispatch, with one channel and with several.
const LARGE: [ConvRow; 4] = [
    ConvRow("many images", [133, 1, 12, 12], 3, [3, 3], [2, 2], [1, 0, 1, 0], ONE, 1),
    ConvRow("many small images", [1031, 2, 4, 4], 4, [2, 2], [2, 2], NONE, ONE, 2),
    ConvRow("large and flat", [1, 1, 1, 140_003], 1, [1, 2], [1, 1], NONE, ONE, 1),
    ConvRow("65,537 groups", [1, 65_537, 1, 1], 3 * 65_537, ONE, ONE, NONE, ONE, 65_537),
];

impl ConvRow {
    fn geometry(&self) -> (Geometry, ConvSizes) {
        let ConvRow(name, [n, c, h, w], out, kernel, stride, padding, dilation, groups) = *self;
        let geometry = Geometry { stride, dilation, padding, groups };
        let [x, w] = [Shape::from([n, c, h, w]), Shape::from([out, c / groups, kernel[0], kernel[1]])];
        (geometry, geometry.sizes(x, w, false).unwrap_or_else(|why| unreachable!("{name}: {why}")))
    }
}

fn each(case: impl Fn(&str, Geometry, ConvSizes) -> Case) -> Vec<Case> {
    let row = |row: &ConvRow| {
        let (geometry, s) = row.geometry();
        case(row.0, geometry, s)
    };
    ROWS.iter().map(row).chain(LARGE.iter().map(row).map(Case::flat)).collect()
}

/// Returns relu(y + bias of each channel).
fn bias_relu() -> Expr {
    let sum = Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]);
    Expr::call(Fun::Relu, &[Inst::Input(0)]).compose(&[Sub::Expr(&sum, &[0, 1])])
}

/// Returns cases with an epilogue: a bias, a tensor of the result's shape (in windows, too), and random numbers that depend on the
/// position.
fn fused(op: impl Fn(&ConvRow, Option<Expr>) -> (Case, Shape)) -> Vec<Case> {
    let add = Expr::call(Fun::Add, &[Inst::Input(0), Inst::Input(1)]);
    let noise = Expr::call(Fun::Add, &[Inst::Input(0), Inst::Random(7)]);
    let mut cases = Vec::new();
    for row in [&ROWS[3], &ROWS[14], &ROWS[17], &ROWS[22], &LARGE[0]] {
        for (name, epilogue, inputs) in [("bias and relu", bias_relu(), 1), ("sum", add.clone(), 2), ("noise", noise.clone(), 0)] {
            let (mut case, y) = op(row, Some(epilogue));
            case.name = format!("{}, {name}", row.0);
            let shape = if inputs == 1 { Shape::from([y.dims()[1], 1, 1]) } else { y };
            case.inputs.extend((0..inputs.min(1)).map(|_| (shape, Fill::Range(-2.0, 2.0))));
            cases.push(case.flat());
        }
    }
    cases
}

pub fn forward() -> Vec<Case> {
    let mut cases = each(|name, geometry, s| Case::new(name, Conv2dOp { geometry, epilogue: None }, &[s.x(), s.w()]));
    cases.extend(fused(|row, epilogue| {
        let (geometry, s) = row.geometry();
        (Case::new(row.0, Conv2dOp { geometry, epilogue }, &[s.x(), s.w()]), s.y())
    }));
    cases
}

pub fn grad_x() -> Vec<Case> {
    let op = |geometry, s: ConvSizes, epilogue| Conv2dGradX { geometry, image: s.image, epilogue };
    let mut cases = each(|name, geometry, s| Case::new(name, op(geometry, s, None), &[s.y(), s.w()]));
    cases.extend(fused(|row, epilogue| {
        let (geometry, s) = row.geometry();
        (Case::new(row.0, op(geometry, s, epilogue), &[s.y(), s.w()]), s.x())
    }));
    cases
}

pub fn grad_w() -> Vec<Case> {
    each(|name, geometry, s| Case::new(name, Conv2dGradW { geometry, kernel: s.kernel }, &[s.x(), s.y()]))
}
