//! Expressions on the CPU device. A block of elements is computed at a time, one instruction after the other.

use super::{Expr, Inst};
use crate::{
    host::View,
    rng::{self, Key},
    scratch,
    shape::Shape,
    simd,
};

/// The number of elements in a block: enough to vectorise, and few enough to stay in cache.
const BLOCK: usize = 512;

/// The size of an output, in elements, that no cache can hold.
const LARGE: usize = 1 << 23;

impl Expr {
    /// Computes the elements `first..first + y.len()` of an output of the shape `shape`. With `own`, input 0 is the old value in
    /// `y`, and `x` are the other inputs.
    pub(super) fn eval(&self, x: &[View<f32>], own: bool, shape: Shape, first: usize, y: &mut [f32], key: Key) {
        let insts = self.insts();
        let view = |k: usize| match insts[k] {
            Inst::Input(i) if own => i.checked_sub(1).map(|i| &x[i]),
            Inst::Input(i) => Some(&x[i]),
            _ => None,
        };
        // An input with the size of the output is read in place.
        let plain = |k: usize| view(k).filter(|v| v.f.len() == shape.elements());
        let number = |k: usize| match (insts[k], view(k)) {
            (Inst::Const(bits), _) => Some(f32::from_bits(bits)),
            (_, Some(x)) if x.shape.elements() == 1 => Some(if x.f.is_empty() { x.u[0] as f32 } else { x.f[0] }),
            _ => None,
        };
        let (last, large) = (insts.len() - 1, !own && shape.elements() >= LARGE);
        scratch::with(insts.len() * BLOCK, |values: &mut [f32]| {
            for k in 0..=last {
                number(k).into_iter().for_each(|x| values[k * BLOCK..][..BLOCK].fill(x));
            }
            for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                let (at, n) = (first + block * BLOCK, y.len());
                for (k, inst) in insts.iter().enumerate() {
                    let (done, rest) = values.split_at_mut(k * BLOCK);
                    let arg = |a: usize| plain(a).map_or(&done[a * BLOCK..][..n], |x| &x.f[at..][..n]);
                    let out = &mut rest[..n];
                    match *inst {
                        Inst::Input(0) if own => out.copy_from_slice(y),
                        Inst::Input(_) if number(k).is_none() && (k == last || plain(k).is_none()) => {
                            view(k).into_iter().for_each(|x| load(x, at, out, shape));
                        }
                        Inst::Input(_) | Inst::Const(_) => {}
                        Inst::Random(stream) => rng::fill_uniform(key.seed, key.step, stream, at as u32, out),
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
                match insts[last] {
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

/// Loads the elements from `at` on of `x`, which is broadcast to `shape`.
fn load(x: &View<f32>, at: usize, out: &mut [f32], shape: Shape) {
    let get = |i: usize| if x.f.is_empty() { x.u[i] as f32 } else { x.f[i] };
    if x.shape.elements() == shape.elements() {
        return match x.f {
            [] => out.iter_mut().enumerate().for_each(|(i, o)| *o = get(at + i)),
            f => out.copy_from_slice(&f[at..][..out.len()]),
        };
    }
    // Go through the rows of the last axis. In a row, the elements of `x` are neighbours or all the same.
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
