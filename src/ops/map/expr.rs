//! Elementwise expressions. An expression is straight-line code over the inputs, without repeated subexpressions.

use super::fun::Fun;
use crate::{
    host::{Real, View, ViewMut},
    rng::{self, Key},
    shape::Shape,
};
use std::fmt;

/// One value of an expression. A later value refers to earlier values by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inst {
    /// The element of input `i`.
    Input(usize),
    /// A constant, by its bits.
    Const(u32),
    /// A uniform random number in [0, 1) from the stream with this number. See [`crate::rng`].
    Random(u32),
    /// A function of earlier values. Places beyond the function's arity are 0.
    Call(Fun, [usize; 3]),
}

/// An elementwise expression. The last instruction gives its value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Expr {
    insts: Vec<Inst>,
}

/// The replacement of an input when an expression is [composed](Expr::compose).
pub enum Sub<'a> {
    /// Input `i` of the new expression.
    Input(usize),
    /// The value of another expression. Input `j` of that expression is input `map[j]` of the new expression.
    Expr(&'a Expr, &'a [usize]),
}

const ONE: Inst = Inst::Const(1f32.to_bits());

impl Expr {
    /// Returns the expression of a constant.
    pub fn constant(value: f32) -> Expr {
        Expr { insts: vec![Inst::Const(value.to_bits())] }
    }
    /// Returns the expression of uniform random numbers in [0, 1) from the stream `stream`.
    pub fn random(stream: u32) -> Expr {
        Expr { insts: vec![Inst::Random(stream)] }
    }
    /// Returns the expression that calls `fun` with inputs and constants.
    pub fn call(fun: Fun, args: &[Inst]) -> Expr {
        let mut e = Expr { insts: Vec::new() };
        let mut at = [0; 3];
        for (to, &arg) in at.iter_mut().zip(args) {
            *to = e.push(arg);
        }
        e.push(Inst::Call(fun, at));
        e
    }
    /// Returns the values in order. The last value is the result.
    pub(crate) fn insts(&self) -> &[Inst] {
        &self.insts
    }
    /// Returns the number of inputs: one more than the largest number of an input.
    pub fn arity(&self) -> usize {
        self.insts.iter().map(|i| if let Inst::Input(i) = i { i + 1 } else { 0 }).max().unwrap_or(0)
    }
    /// Returns true if the expression draws random numbers.
    pub(crate) fn is_random(&self) -> bool {
        self.insts.iter().any(|i| matches!(i, Inst::Random(_)))
    }
    /// Returns the number of function calls.
    pub fn calls(&self) -> usize {
        self.insts.iter().filter(|i| matches!(i, Inst::Call(..))).count()
    }
    /// Returns this expression with every input replaced. Equal subexpressions become one.
    pub fn compose(&self, subs: &[Sub]) -> Expr {
        let mut out = Expr { insts: Vec::new() };
        let values: Vec<usize> = subs
            .iter()
            .map(|sub| match sub {
                Sub::Input(i) => out.push(Inst::Input(*i)),
                Sub::Expr(e, map) => out.append(e, |i| Inst::Input(map[i])),
            })
            .collect();
        let mut at = Vec::with_capacity(self.insts.len());
        for inst in &self.insts {
            let v = match *inst {
                Inst::Input(i) => values[i],
                // The value of these functions is their argument, so a composed expression needs no call.
                Inst::Call(Fun::Identity | Fun::Detach, [a, ..]) => at[a],
                // Gradients start as 1, and a factor of 1 changes nothing.
                Inst::Call(Fun::Mul, [a, b, _]) if out.insts[at[a]] == ONE => at[b],
                Inst::Call(Fun::Mul, [a, b, _]) if out.insts[at[b]] == ONE => at[a],
                Inst::Call(f, args) => out.push(Inst::Call(f, args.map(|a| at.get(a).copied().unwrap_or(0)))),
                other => out.push(other),
            };
            at.push(v);
        }
        // The last instruction must be the value. But the value may be shared or a bare input, and stand earlier.
        let last = at[at.len() - 1];
        out.finish(last)
    }
    fn append(&mut self, e: &Expr, input: impl Fn(usize) -> Inst) -> usize {
        let mut at = Vec::with_capacity(e.insts.len());
        for inst in &e.insts {
            let v = match *inst {
                Inst::Input(i) => self.push(input(i)),
                Inst::Call(f, args) => self.push(Inst::Call(f, args.map(|a| at.get(a).copied().unwrap_or(0)))),
                other => self.push(other),
            };
            at.push(v);
        }
        at[at.len() - 1]
    }
    fn push(&mut self, inst: Inst) -> usize {
        // Set the places beyond the arity to zero, so that equal calls compare equal.
        let inst = match inst {
            Inst::Call(f, mut a) => {
                a[f.arity()..].fill(0);
                Inst::Call(f, a)
            }
            other => other,
        };
        self.insts.iter().position(|&i| i == inst).unwrap_or_else(|| {
            self.insts.push(inst);
            self.insts.len() - 1
        })
    }
    /// Returns the instructions that `last` needs, in order. `last` is the last of them.
    fn finish(&self, last: usize) -> Expr {
        let mut needed = vec![false; self.insts.len()];
        needed[last] = true;
        for i in (0..=last).rev().filter(|&i| needed[i]).collect::<Vec<_>>() {
            self.mark(i, &mut needed);
        }
        let (mut at, mut insts) = (vec![0; self.insts.len()], Vec::new());
        for i in (0..=last).filter(|&i| needed[i]) {
            at[i] = insts.len();
            insts.push(match self.insts[i] {
                Inst::Call(f, a) => {
                    let mut args = [0; 3];
                    (0..f.arity()).for_each(|k| args[k] = at[a[k]]);
                    Inst::Call(f, args)
                }
                other => other,
            });
        }
        Expr { insts }
    }
    fn mark(&self, i: usize, needed: &mut [bool]) {
        if let Inst::Call(f, a) = self.insts[i] {
            for &arg in &a[..f.arity()] {
                if !needed[arg] {
                    needed[arg] = true;
                    self.mark(arg, needed);
                }
            }
        }
    }
    /// Computes every element of `y` by the definition: one element after the other, one instruction after the other. With `own`,
    /// input 0 is the old value in `y`, and `x` are the other inputs.
    pub(in crate::ops) fn reference<T: Real>(&self, x: &[View<T>], own: bool, y: &mut ViewMut<T>, key: Key) {
        let (shape, mut values) = (y.shape, Vec::with_capacity(self.insts.len()));
        for (at, y) in y.f.iter_mut().enumerate() {
            values.clear();
            for inst in &self.insts {
                values.push(match *inst {
                    Inst::Input(0) if own => *y,
                    Inst::Input(i) => element(&x[i - usize::from(own)], shape, at),
                    Inst::Const(bits) => T::of(f64::from(f32::from_bits(bits))),
                    Inst::Random(stream) => T::of(f64::from(rng::uniform01(key.seed, key.step, stream, at as u32))),
                    Inst::Call(fun, args) => fun.value(args.map(|k| values[k])),
                });
            }
            *y = values[values.len() - 1];
        }
    }
}

/// Returns element `at` of `x`, which is broadcast to `shape`.
fn element<T: Real>(x: &View<T>, shape: Shape, at: usize) -> T {
    let (mut rest, mut from, mut step) = (at, 0, 1);
    for (&d, &own) in shape.dims().iter().rev().zip(x.shape.dims().iter().rev()) {
        from += if own == 1 { 0 } else { rest % d * step };
        step *= own;
        rest /= d;
    }
    if x.f.is_empty() { T::of(f64::from(x.u[from])) } else { x.f[from] }
}

/// Writes nested calls, for example `relu(add(x0, x1))`.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut texts: Vec<String> = Vec::new();
        for inst in &self.insts {
            texts.push(match *inst {
                Inst::Input(i) => format!("x{i}"),
                Inst::Const(bits) => format!("{:?}", f32::from_bits(bits)),
                Inst::Random(stream) => format!("random{stream}"),
                Inst::Call(fun, a) => {
                    format!("{}({})", fun.name(), a[..fun.arity()].iter().map(|&i| texts[i].as_str()).collect::<Vec<_>>().join(", "))
                }
            });
        }
        f.write_str(texts.last().map_or("", |t| t))
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Write one line for each value. A nested text repeats shared parts and can grow without bound.
        for (i, inst) in self.insts.iter().enumerate() {
            match *inst {
                Inst::Input(n) => write!(f, "v{i}=x{n};")?,
                Inst::Const(bits) => write!(f, "v{i}={:?};", f32::from_bits(bits))?,
                Inst::Random(s) => write!(f, "v{i}=random{s};")?,
                Inst::Call(fun, a) => write!(f, "v{i}={}{:?};", fun.name(), &a[..fun.arity()])?,
            }
        }
        Ok(())
    }
}
