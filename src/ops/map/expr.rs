//! Elementwise expressions: straight-line code over the inputs, without repeated subexpressions.

use super::fun::Fun;
use crate::{
    host::{Real, View},
    rng,
    rng::Key,
    scratch,
    shape::Shape,
    simd,
};
use std::fmt;

/// One value of an expression; later ones refer to earlier ones by index.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inst {
    /// The element of input `i`.
    Input(usize),
    /// A constant, by its bits.
    Const(u32),
    /// A uniform random number in [0, 1), of the stream given; see [`crate::rng`].
    Random(u32),
    /// A function of earlier values; places beyond its arity are 0.
    Call(Fun, [usize; 3]),
}

/// An elementwise expression; its value is that of the last instruction.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Expr {
    insts: Vec<Inst>,
}

/// What an input of an expression becomes when it is [composed](Expr::compose).
pub enum Sub<'a> {
    /// Input `i` of the new expression.
    Input(usize),
    /// The value of another expression, whose input `j` is input `map[j]` of the new one.
    Expr(&'a Expr, &'a [usize]),
}

/// Elements that are evaluated at once: enough to vectorise, few enough to stay in cache.
const BLOCK: usize = 512;

/// Elements of an output that caches have no room for.
const LARGE: usize = 1 << 23;

const ONE: Inst = Inst::Const(1f32.to_bits());

impl Expr {
    /// A number.
    pub fn constant(value: f32) -> Expr {
        Expr { insts: vec![Inst::Const(value.to_bits())] }
    }
    /// Uniform random numbers in [0, 1), of that stream.
    pub fn random(stream: u32) -> Expr {
        Expr { insts: vec![Inst::Random(stream)] }
    }
    /// `fun` of inputs and constants.
    pub fn call(fun: Fun, args: &[Inst]) -> Expr {
        let mut e = Expr { insts: Vec::new() };
        let mut at = [0; 3];
        for (to, &arg) in at.iter_mut().zip(args) {
            *to = e.push(arg);
        }
        e.push(Inst::Call(fun, at));
        e
    }
    /// Its values in order; the last one is the result.
    pub fn insts(&self) -> &[Inst] {
        &self.insts
    }
    /// Inputs it reads: one more than the largest number.
    pub fn arity(&self) -> usize {
        self.insts.iter().map(|i| if let Inst::Input(i) = i { i + 1 } else { 0 }).max().unwrap_or(0)
    }
    /// Whether it draws random numbers.
    pub fn is_random(&self) -> bool {
        self.insts.iter().any(|i| matches!(i, Inst::Random(_)))
    }
    /// Function calls in it.
    pub fn calls(&self) -> usize {
        self.insts.iter().filter(|i| matches!(i, Inst::Call(..))).count()
    }
    /// This expression with every input replaced. Equal subexpressions become one.
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
                // Composed, a name for the same value is nothing.
                Inst::Call(Fun::Identity | Fun::Detach, [a, ..]) => at[a],
                // Gradients start as 1.
                Inst::Call(Fun::Mul, [a, b, _]) if out.insts[at[a]] == ONE => at[b],
                Inst::Call(Fun::Mul, [a, b, _]) if out.insts[at[b]] == ONE => at[a],
                Inst::Call(f, args) => out.push(Inst::Call(f, args.map(|a| at.get(a).copied().unwrap_or(0)))),
                other => out.push(other),
            };
            at.push(v);
        }
        // The value is the last instruction; where it was shared or is a bare input it may stand earlier.
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
        // Arguments beyond the arity are zeroed so that equal calls compare equal.
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
    /// Keeps what `last` needs, in order, with `last` at the end.
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
    /// Evaluates elements `first..first + y.len()` of an output of that shape. With `own`, input 0 is what stands in `y`, and `x`
    /// are the other inputs.
    pub fn eval<T: Real>(&self, x: &[View<T>], own: bool, shape: Shape, first: usize, y: &mut [T], key: Key) {
        let view = |k: usize| match self.insts[k] {
            Inst::Input(i) if own => i.checked_sub(1).map(|i| &x[i]),
            Inst::Input(i) => Some(&x[i]),
            _ => None,
        };
        // What lies in memory as the output does is read where it is.
        let plain = |k: usize| view(k).filter(|v| v.f.len() == shape.elements());
        let number = |k: usize| match (self.insts[k], view(k)) {
            (Inst::Const(bits), _) => Some(T::of(f32::from_bits(bits) as f64)),
            (_, Some(x)) if x.shape.elements() == 1 => Some(if x.f.is_empty() { T::of(x.u[0] as f64) } else { x.f[0] }),
            _ => None,
        };
        let (last, large) = (self.insts.len() - 1, !own && shape.elements() >= LARGE);
        scratch::with(self.insts.len() * BLOCK, |values: &mut [T]| {
            for k in 0..=last {
                number(k).into_iter().for_each(|x| values[k * BLOCK..][..BLOCK].fill(x));
            }
            for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                let (at, n) = (first + block * BLOCK, y.len());
                for (k, inst) in self.insts.iter().enumerate() {
                    let (done, rest) = values.split_at_mut(k * BLOCK);
                    let arg = |a: usize| plain(a).map_or(&done[a * BLOCK..][..n], |x| &x.f[at..][..n]);
                    let out = &mut rest[..n];
                    match *inst {
                        Inst::Input(0) if own => out.copy_from_slice(y),
                        Inst::Input(_) if number(k).is_none() && (k == last || plain(k).is_none()) => {
                            view(k).into_iter().for_each(|x| load(x, at, out, shape));
                        }
                        Inst::Input(_) | Inst::Const(_) => {}
                        Inst::Random(stream) => {
                            let mut r = [0.0f32; BLOCK];
                            rng::fill_uniform(key.seed, key.step, stream, at as u32, &mut r[..n]);
                            out.iter_mut().zip(r).for_each(|(o, r)| *o = T::of(r as f64));
                        }
                        Inst::Call(f, [a, b, c]) => {
                            let out = if k == last && !large { &mut *y } else { out };
                            match f.arity() {
                                1 => f.eval(out, arg(a), &[], &[]),
                                2 => f.eval(out, arg(a), arg(b), &[]),
                                _ => f.eval(out, arg(a), arg(b), arg(c)),
                            }
                        }
                    }
                }
                let result = &values[last * BLOCK..][..n];
                match self.insts[last] {
                    _ if large => simd::stream(result, y),
                    Inst::Call(..) => {}
                    _ => y.copy_from_slice(result),
                }
            }
            if large {
                simd::streamed();
            }
        });
    }
}

/// Elements `at..` of `x`, broadcast to `shape`.
fn load<T: Real>(x: &View<T>, at: usize, out: &mut [T], shape: Shape) {
    let get = |i: usize| if x.f.is_empty() { T::of(x.u[i] as f64) } else { x.f[i] };
    if x.shape.elements() == shape.elements() {
        return match x.f {
            [] => out.iter_mut().enumerate().for_each(|(i, o)| *o = get(at + i)),
            f => out.copy_from_slice(&f[at..][..out.len()]),
        };
    }
    // Walk rows of the last axis: within one, elements are neighbours or all the same.
    let (last, columns) = (shape.last(), x.shape.last());
    let (mut done, mut g) = (0, at);
    while done < out.len() {
        let (mut rest, mut base, mut step) = (g / last, 0, columns);
        let inner = x.shape.dims().iter().rev().skip(1);
        for (&d, &own) in shape.dims().iter().rev().skip(1).zip(inner) {
            base += if own == 1 { 0 } else { rest % d * step };
            step *= own;
            rest /= d;
        }
        let column = g % last;
        let run = (last - column).min(out.len() - done);
        let to = &mut out[done..done + run];
        match columns {
            1 => to.fill(get(base)),
            _ if x.f.is_empty() => to.iter_mut().enumerate().for_each(|(i, o)| *o = get(base + column + i)),
            _ => to.copy_from_slice(&x.f[base + column..][..run]),
        }
        (done, g) = (done + run, g + run);
    }
}

/// `relu(add(x0, x1))`.
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
        // One line per value: the nested text repeats what is shared and can grow without bound.
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
