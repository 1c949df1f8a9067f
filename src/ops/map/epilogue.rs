//! What ops share whose kernels apply elementwise code to their results before they store them ([`MatMul`], convolutions).
//!
//! Such an op has an `epilogue`: input 0 is the op's own result, and inputs 1, 2, … are those that the op has behind its
//! own ones.
//!
//! [`MatMul`]: crate::ops::matmul::MatMul

use super::{Code, Expr, Fun, Inst, Map, Sub};
use crate::{
    host::{Real, View, ViewMut},
    kernel::Span,
    rng::Key,
    shape::Shape,
    threads::TASK,
};
use rayon::prelude::*;

/// Checks how many inputs an op of `own` inputs got.
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

/// Applies the epilogue to the results in `y`: the definition.
pub fn reference<T: Real>(epilogue: &Option<Expr>, rest: &[View<T>], y: &mut ViewMut<T>, key: Key) {
    if let Some(epilogue) = epilogue {
        epilogue.reference(rest, true, y, key);
    }
}

/// Applies the epilogue to the results in `y`, which are the elements `first..` of an output of that shape, on the CPU device.
pub fn finish(epilogue: &Option<Expr>, rest: &[View<f32>], shape: Shape, first: usize, y: &mut [f32], key: Key) {
    if let Some(epilogue) = epilogue {
        epilogue.eval(rest, true, shape, first, y, key);
    }
}

/// [`finish`] for all of an output, by all threads.
pub fn finish_all(epilogue: &Option<Expr>, rest: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
    if epilogue.is_some() {
        let shape = y.shape;
        y.f.par_chunks_mut(TASK).enumerate().for_each(|(i, y)| finish(epilogue, rest, shape, i * TASK, y, key));
    }
}

/// The epilogue that does the same as `first` and `map` after it.
pub fn after(first: &Option<Expr>, map: &Map) -> Expr {
    let Some(first) = first else { return map.expr.clone() };
    let (own, all): (usize, Vec<usize>) = (first.arity().max(1), (0..first.arity()).collect());
    let mut subs = vec![Sub::Expr(first, &all)];
    subs.extend((1..map.expr.arity()).map(|i| Sub::Input(own + i - 1)));
    map.expr.compose(&subs)
}

/// Nothing, in the place of an epilogue.
pub fn identity() -> Expr {
    Expr::call(Fun::Identity, &[Inst::Input(0)])
}

/// WGSL `fn map(i: u32, x0: f32) -> f32`: the epilogue, or the identity. The op has `own` inputs of its own.
pub fn code(epilogue: &Option<Expr>, own: usize, rest: &[Shape], y: Shape, origin: &str) -> Code {
    match epilogue {
        Some(epilogue) => Code::new(epilogue, 1, own, rest, y, origin),
        None => {
            let text = "fn map(i: u32, x0: f32) -> f32 {\n    return x0;\n}\n".to_string();
            Code { text, params: Vec::new(), binds: Vec::new(), step: false }
        }
    }
}

/// [`code`] for a pass that may be split: inputs of the output's shape are bound as the output is.
pub fn code_in(epilogue: &Option<Expr>, own: usize, rest: &[Shape], y: Shape, origin: &str, span: Span) -> Code {
    let mut code = code(epilogue, own, rest, y, origin);
    for (bind, _) in code.binds.iter_mut().zip(rest).filter(|(_, shape)| shape.elements() == y.elements()) {
        bind.span = span;
    }
    code
}

/// Operations on each element.
pub fn calls(epilogue: &Option<Expr>) -> usize {
    epilogue.as_ref().map_or(0, Expr::calls)
}
