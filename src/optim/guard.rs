//! The check between backward and update: nothing that is not finite reaches the weights.

use super::{Optimizer, update::workgroup};
use crate::{
    error::Error,
    kernel::{Bind, Caps, Kernel, Pass, Word, source},
    params::Layout,
    shape::DType,
    simd::wide,
};

/// What the check of a step found. On the device it is a buffer of four words, on the CPU this struct.
///
/// Once it halts it stays so, and updates do nothing: the weights are those that the first bad step started with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Guard {
    /// 0, or the number of the first bad step (from 0) plus 1.
    pub halt: u32,
    /// What gradients are multiplied by to clip them.
    pub factor: f32,
    /// The norm of all gradients together, before clipping.
    pub norm: f32,
    /// What was not finite: 0 nothing, 1 the loss, 2 a gradient.
    pub cause: u32,
}

impl Default for Guard {
    /// As it is before the first step.
    fn default() -> Guard {
        Guard { halt: 0, factor: 1.0, norm: 0.0, cause: 0 }
    }
}

/// PyTorch's `clip_grad_norm_` has the same, so that a norm of 0 divides.
const CLIP_EPS: f32 = 1e-6;

impl Guard {
    /// The check of step `step` (from 0) on the CPU, over all pieces of the gradients.
    pub fn check(&mut self, step: u64, loss: f32, grads: &[&[f32]], clip: Option<f32>) {
        self.judge(step, loss, grads.iter().map(|piece| square_sum(piece)).sum(), clip);
    }
    /// The same, given Σ g² over all gradients g.
    pub(crate) fn judge(&mut self, step: u64, loss: f32, sum: f64, clip: Option<f32>) {
        if self.halt != 0 {
            return;
        }
        self.cause = match (loss.is_finite(), sum.is_finite()) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => 0,
        };
        if self.cause != 0 {
            self.halt = (step as u32).wrapping_add(1).max(1);
            return;
        }
        self.norm = sum.sqrt() as f32;
        self.factor = clip.map_or(1.0, |max| (max / (self.norm + CLIP_EPS)).min(1.0));
    }
    /// The error to end with, if a step was bad; `loss` is that step's.
    pub fn error(&self, loss: f32) -> Option<Error> {
        let what = if self.cause == 1 { "loss" } else { "gradient" };
        (self.halt != 0).then(|| Error::Diverged { step: u64::from(self.halt) - 1, loss, what: what.into() })
    }
}

/// Elements that one workgroup adds up.
const CHUNK: usize = 4096;

/// Elements that one thread adds up at a time.
const TASK: usize = 1 << 14;

/// Σ x², by all threads, in an order that follows from the number of elements alone. It is finite if and only if every x
/// is: squares of `f32` are far from the largest `f64`.
pub(crate) fn square_sum(x: &[f32]) -> f64 {
    if x.len() > TASK {
        let (a, b) = x.split_at((x.len() / 2).next_multiple_of(TASK));
        let (a, b) = rayon::join(|| square_sum(a), || square_sum(b));
        return a + b;
    }
    const LANES: usize = 32;
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    wide(
        #[inline(always)]
        || {
            for x in chunks {
                for (sum, &x) in sums.iter_mut().zip(x) {
                    *sum += f64::from(x) * f64::from(x);
                }
            }
        },
    );
    sums.iter_mut().zip(rest).for_each(|(s, &x)| *s += f64::from(x) * f64::from(x));
    sums.iter().sum()
}

impl Optimizer {
    /// The check as kernels, each for one piece of the gradients, to run in this order before the updates. They share
    /// the scratch. Bindings: `In(1)` the gradients of the piece, `In(2)` the [`Guard`], `In(100)` the loss (one
    /// `f32`); the last one decides.
    pub fn guard_kernels(&self, layout: &Layout, caps: &Caps) -> Vec<(usize, Kernel)> {
        let (width, pieces) = (workgroup(caps), layout.trained);
        // Where a piece is larger than a binding, the dispatch is split at multiples of 64 chunks.
        let chunk = (caps.max_binding_bytes / 256).clamp(64, CHUNK as u64) as usize;
        let pass = |source, entry, params: &[(&str, Word)], binds, units, step| Pass {
            source,
            entry,
            consts: vec![("WG", Word::U(width)), ("CHUNK", Word::from(chunk))],
            params: params.iter().map(|&(name, word)| (name.to_string(), word)).collect(),
            binds,
            code: source!("optim/join").text.to_string(),
            units,
            per_group: 1,
            step,
        };
        let kernel = |(piece, &len): (usize, &usize)| {
            let units = len.div_ceil(chunk);
            let (grads, partials) = (Bind::input("grads", 1, DType::F32).per_unit(chunk), Bind::scratch("partials", 0));
            let binds = vec![grads, partials.clone().per_unit(1).written()];
            let squares = pass(source!("optim/squares"), "squares", &[("len", Word::from(len))], binds, units, false);
            let (totals, loss) = (Bind::scratch("totals", 1).written(), Bind::input("loss", LOSS, DType::F32));
            let binds = vec![partials, totals, loss, Bind::input("guard", 2, DType::U32).written()];
            let params = [
                ("count", Word::from(units)),
                ("piece", Word::from(piece)),
                ("pieces", Word::from(pieces)),
                ("max_norm", Word::F(self.clip().unwrap_or(0.0))),
            ];
            let check = pass(source!("optim/guard"), "check", &params, binds, 1, true);
            (piece, Kernel { name: "guard", passes: vec![squares, check], scratch: vec![units, pieces] })
        };
        layout.pieces[..pieces].iter().enumerate().map(kernel).collect()
    }
}

/// Sets a piece of `units` elements of state to what it becomes, unless the guard says otherwise. Bindings: `In(0)` the state,
/// `In(1)` its new values, `In(2)` the [`Guard`].
pub fn assign_kernel(units: usize, caps: &Caps) -> Kernel {
    let width = workgroup(caps);
    let each = |name, i| Bind::input(name, i, DType::F32).per_unit(1);
    let pass = Pass {
        source: source!("optim/assign"),
        entry: "assign",
        consts: vec![("WG", Word::U(width))],
        params: Vec::new(),
        binds: vec![each("state", 0).written(), each("value", 1), Bind::input("guard", 2, DType::U32)],
        code: String::new(),
        units,
        per_group: width as usize,
        step: false,
    };
    Kernel::one("assign", pass)
}

/// The number of the guard's input that is the loss.
pub const LOSS: usize = 100;
