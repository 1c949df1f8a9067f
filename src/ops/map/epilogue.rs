//! Helpers of ops whose kernels apply elementwise code to their results before they store them ([`MatMul`], convolutions).
//!
//! Such an op has an `epilogue`. Input 0 of the epilogue is the op's own result. The inputs 1, 2, … of the epilogue follow the op's
//! own inputs.
//!
//! [`MatMul`]: crate::ops::matmul::MatMul

use super::{Code, Expr, Fun, Inst, Map, Sub};
use crate::{
    host::{Real, View, ViewMut},
    kernel::Span,
    rng::Key,
    shape::Shape,
    threads::{TASK, chunks},
};

/// Checks the number of inputs of an op that has `own` inputs of its own.
pub fn count(epilogue: &Option<Expr>, own: usize, given: usize) -> Result<(), String> {
    let need = own + epilogue.as_ref().map_or(0, |e| e.arity().max(1) - 1);
    if given == need { Ok(()) } else { Err(format!("takes {need} inputs, not {given}")) }
}

/// Checks that the epilogue's inputs broadcast to the op's result.
pub fn fits(rest: &[Shape], y: Shape) -> Result<(), String> {
    match rest.iter().find(|s| y.broadcast(**s) != Some(y)) {
        Some(s) => Err(format!("the epilogue's input {s} does not broadcast to {y}")),
        None => Ok(()),
    }
}

/// Applies the epilogue to the results in `y`, by its definition.
pub fn reference<T: Real>(epilogue: &Option<Expr>, rest: &[View<T>], y: &mut ViewMut<T>, key: Key) {
    if let Some(epilogue) = epilogue {
        epilogue.reference(rest, true, y, key);
    }
}

/// Applies the epilogue to the results in `y`, on the CPU device. They are the elements from `first` on of an output of the shape
/// `shape`.
pub fn finish(epilogue: &Option<Expr>, rest: &[View<f32>], shape: Shape, first: usize, y: &mut [f32], key: Key) {
    if let Some(epilogue) = epilogue {
        epilogue.eval(rest, true, shape, first, y, key);
    }
}

/// Applies [`finish`] to all of an output, with all threads.
pub fn finish_all(epilogue: &Option<Expr>, rest: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
    if epilogue.is_some() {
        let shape = y.shape;
        chunks(y.f, TASK, |i, y| finish(epilogue, rest, shape, i * TASK, y, key));
    }
}

/// Returns the epilogue that does the same as `first` followed by `map`.
pub fn after(first: &Option<Expr>, map: &Map) -> Expr {
    let Some(first) = first else { return map.expr.clone() };
    let (own, all): (usize, Vec<usize>) = (first.arity().max(1), (0..first.arity()).collect());
    let mut subs = vec![Sub::Expr(first, &all)];
    subs.extend((1..map.expr.arity()).map(|i| Sub::Input(own + i - 1)));
    map.expr.compose(&subs)
}

/// Returns the epilogue that changes nothing.
pub fn identity() -> Expr {
    Expr::call(Fun::Identity, &[Inst::Input(0)])
}

/// Returns WGSL `fn map(i: u32, x0: f32) -> f32`: the epilogue, or the identity if there is none. The op has `own` inputs of its
/// own.
pub fn code(epilogue: &Option<Expr>, own: usize, rest: &[Shape], y: Shape, origin: &str) -> Code {
    match epilogue {
        Some(epilogue) => Code::new(epilogue, 1, own, rest, y, origin),
        None => {
            let text = "fn map(i: u32, x0: f32) -> f32 {\n    return x0;\n}\n".to_string();
            Code { text, params: Vec::new(), binds: Vec::new(), step: false }
        }
    }
}

/// Returns [`code`] for a pass that may be split. Inputs with the output's size are bound with `span`, as the output is.
pub fn code_in(epilogue: &Option<Expr>, own: usize, rest: &[Shape], y: Shape, origin: &str, span: Span) -> Code {
    let mut code = code(epilogue, own, rest, y, origin);
    for (bind, _) in code.binds.iter_mut().zip(rest).filter(|(_, shape)| shape.elements() == y.elements()) {
        bind.span = span;
    }
    code
}

/// Returns the number of operations on each element.
pub fn calls(epilogue: &Option<Expr>) -> usize {
    epilogue.as_ref().map_or(0, Expr::calls)
}
