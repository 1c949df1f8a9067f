//! Long sums that are cut into parts. The first pass writes the sums of each part to scratch memory. The second pass adds these
//! sums in order.

use super::map::{Expr, epilogue};
use crate::{
    kernel::{Bind, Caps, Kernel, Pass, Span, source},
    shape::{DType, Shape},
};

/// Returns a kernel of two passes. Its first pass writes `count` parts of `size` elements to scratch 0. Its second pass adds the
/// parts and applies the epilogue. The further inputs of the epilogue are the op's inputs from the third on.
pub fn kernel(
    name: &'static str,
    first: Pass,
    [count, size]: [usize; 2],
    epilogue: &Option<Expr>,
    rest: &[Shape],
    y: Shape,
    caps: &Caps,
) -> Kernel {
    let lanes = caps.workgroup(256);
    let code = epilogue::code_in(epilogue, 2, rest, y, "p.first", Span::PerUnit(1));
    let mut params = vec![("parts".to_string(), count.into()), ("size".to_string(), size.into())];
    params.extend(code.params);
    let mut binds = vec![Bind::scratch("part", 0)];
    binds.extend(code.binds);
    binds.push(Bind::output("y", DType::F32).per_unit(1));
    let sum = Pass {
        source: source!("sum_parts"),
        entry: "sum_parts",
        consts: vec![("LANES", lanes.into())],
        params,
        binds,
        code: code.text,
        units: y.elements(),
        per_group: lanes,
        step: code.step,
    };
    Kernel { name, passes: vec![first, sum], scratch: vec![count * size] }
}
