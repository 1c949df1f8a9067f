//! The check between backward and update: nothing that is not finite reaches the weights.

use super::{MAX_STATES, Optimizer, update::workgroup};
use crate::{
    error::Error,
    kernel::{Bind, Caps, Kernel, Pass, Word, source},
    params::Layout,
    shape::DType,
    simd::wide,
};

/// The most that a number may be for an update to be surely finite (see [`Optimizer::is_bounded`]): 2⁶⁰.
pub(super) const FAR: f32 = (1u64 << 60) as f32;

/// What the check of a step found. On the device it is a buffer of such words, on the CPU this struct.
///
/// Once it halts it stays so, and updates do nothing: the weights are those that the first bad step started with.
///
/// A step is bad where its loss or a gradient is not finite, and where the update would make a weight or a state so. The last is
/// found by a *trial*: the update of all elements without writing any. Numbers far from the largest float cannot get there in one
/// step, so that nearly all steps need no trial; this says which do.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Guard {
    /// 0, or the number of the first bad step (from 0) plus 1.
    pub halt: u32,
    /// What gradients are multiplied by to clip them, after [`scale`](Guard::scale).
    pub factor: f32,
    /// The norm of all gradients together, before clipping; infinity where no `f32` is that large.
    pub norm: f32,
    /// What was not finite: 0 nothing, 1 the loss, 2 a gradient, 3 what the update would have written.
    pub cause: u32,
    /// What gradients are multiplied by first: 1, or a power of two where `factor` would be too small for an `f32`.
    pub scale: f32,
    /// Whether a weight or a state may be above 2⁶⁰: the last update wrote such a number, or they were set from outside.
    pub near: u32,
    /// Whether the rule may overflow with the hyperparameters of these steps, whatever the numbers are.
    pub strict: u32,
    /// 0 in a step that is bad anyway, 2 in one that needs a trial, else 1.
    pub trial: u32,
    /// What would have overflowed: weights, each of the optimizer's states, state that the model assigns.
    pub over: [u32; MAX_STATES + 2],
}

impl Default for Guard {
    /// As it is before the first step on weights that come from outside.
    fn default() -> Guard {
        Guard { halt: 0, factor: 1.0, norm: 0.0, cause: 0, scale: 1.0, near: 1, strict: 0, trial: 0, over: [0; MAX_STATES + 2] }
    }
}

/// The word of the guard that says whether numbers may be [`near`](Guard::near) overflow.
pub(crate) const NEAR: usize = 5;
/// The one that says whether every step needs a trial.
pub(crate) const STRICT: usize = 6;

/// PyTorch's `clip_grad_norm_` has the same, so that a norm of 0 divides.
const CLIP_EPS: f32 = 1e-6;

/// Gradients are multiplied by this first where the factor is below it; what is lost of small ones then is below the smallest float.
const SCALE: f32 = 1.0 / (1u128 << 120) as f32;

impl Guard {
    /// The check of step `step` (from 0) on the CPU, over all pieces of the gradients.
    pub fn check(&mut self, step: u64, loss: f32, grads: &[&[f32]], clip: Option<f32>) {
        self.judge(step, loss, grads.iter().map(|piece| square_sum(piece)).sum(), clip);
    }
    /// The same, given Σ g² over all gradients g.
    pub(crate) fn judge(&mut self, step: u64, loss: f32, sum: f64, clip: Option<f32>) {
        self.trial = 0;
        if self.halt != 0 {
            return;
        }
        match (loss.is_finite(), sum.is_finite()) {
            (false, _) => return self.stop(step, 1),
            (true, false) => return self.stop(step, 2),
            (true, true) => self.cause = 0,
        }
        let norm = sum.sqrt();
        self.norm = norm as f32;
        (self.factor, self.scale) = match clip {
            None => (1.0, 1.0),
            Some(max) => match f64::from(max) / (norm + f64::from(CLIP_EPS)) {
                tiny if tiny < f64::from(SCALE) => ((tiny / f64::from(SCALE)) as f32, SCALE),
                factor if self.norm.is_infinite() => (factor.min(1.0) as f32, 1.0),
                _ => ((max / (self.norm + CLIP_EPS)).min(1.0), 1.0),
            },
        };
        let far = self.reach(clip) > f64::from(FAR);
        self.trial = 1 + (u32::from(far) | self.near | self.strict);
        // The update says so again.
        self.near = 0;
    }
    /// What no gradient is above, once they are clipped.
    pub(crate) fn reach(&self, clip: Option<f32>) -> f64 {
        f64::from(self.norm.min(clip.unwrap_or(f32::INFINITY)))
    }
    fn stop(&mut self, step: u64, cause: u32) {
        (self.cause, self.halt) = (cause, (step as u32).wrapping_add(1).max(1));
    }
    /// Stops where the trial found that something would overflow.
    pub(crate) fn refuse(&mut self, step: u64, over: [u32; MAX_STATES + 2]) {
        if over.contains(&1) {
            self.over = over;
            self.stop(step, 3);
        }
    }
    /// The error to end with, if a step was bad; `loss` is that step's.
    pub fn error(&self, loss: f32, optimizer: &Optimizer) -> Option<Error> {
        let names = optimizer.states().into_iter().map(|s| format!("the optimizer's state `{}`", s.name));
        let names = std::iter::once("a weight".to_string()).chain(names).zip(self.over);
        let assigned = ("state of the model".to_string(), self.over[MAX_STATES + 1]);
        let over: Vec<String> = names.chain([assigned]).filter(|(_, over)| *over != 0).map(|(name, _)| name).collect();
        let what = match self.cause {
            1 => "loss".to_string(),
            2 => "gradient".to_string(),
            _ => format!("update ({} would overflow)", over.join(" and ")),
        };
        (self.halt != 0).then(|| Error::Diverged { step: u64::from(self.halt) - 1, loss, what })
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
    /// `f32`); the last one decides. What is frozen has no part in it.
    pub fn guard_kernels(&self, layout: &Layout, caps: &Caps) -> Vec<(usize, Kernel)> {
        let width = workgroup(caps);
        let mut live: Vec<(usize, usize)> = (0..layout.trained).map(|piece| (piece, layout.live(piece))).filter(|p| p.1 > 0).collect();
        if live.is_empty() {
            // The loss is looked at nevertheless.
            live.push((0, 0));
        }
        // Where a piece is larger than a binding, the dispatch is split at multiples of 64 chunks.
        // On a software adapter the tree that ends a chunk costs more than another 15 chunks of loads.
        let most = if caps.software { 16 * CHUNK } else { CHUNK };
        let chunk = (caps.max_binding_bytes / 256).clamp(64, most as u64) as usize / 4 * 4;
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
        let kernel = |(number, &(piece, len)): (usize, &(usize, usize))| {
            let units = len.div_ceil(chunk);
            // Two numbers for each chunk: see join.wgsl.
            let (grads, partials) = (Bind::input("grads", 1, DType::F32).per_unit(chunk).vec4(), Bind::scratch("partials", 0));
            let binds = vec![grads, partials.clone().per_unit(2).written()];
            let squares = pass(source!("optim/squares"), "squares", &[("len", Word::from(len))], binds, units, false);
            let (totals, loss) = (Bind::scratch("totals", 1).written(), Bind::input("loss", LOSS, DType::F32));
            let binds = vec![partials, totals, loss, Bind::input("guard", 2, DType::U32).written()];
            let params = [
                ("count", Word::from(units)),
                ("piece", Word::from(number)),
                ("pieces", Word::from(live.len())),
                ("max_norm", Word::F(self.clip().unwrap_or(0.0))),
            ];
            let check = pass(source!("optim/guard"), "check", &params, binds, 1, true);
            let passes = if units > 0 { vec![squares, check] } else { vec![check] };
            (piece, Kernel { name: "guard", passes, scratch: vec![2 * units.max(1), 2 * live.len()] })
        };
        live.iter().enumerate().map(kernel).collect()
    }
}

/// Sets a piece of `units` elements of state to what it becomes, unless the guard says otherwise. Bindings: `In(0)` the state,
/// `In(1)` its new values, `In(2)` the [`Guard`].
pub fn assign_kernel(units: usize, caps: &Caps) -> Kernel {
    assigned("assign", units, caps)
}

/// The trial of it: stops the step where a number would become one that is not finite. The bindings are the same.
pub fn assign_trial_kernel(units: usize, caps: &Caps) -> Kernel {
    assigned("trial", units, caps)
}

fn assigned(entry: &'static str, units: usize, caps: &Caps) -> Kernel {
    let (width, trial) = (workgroup(caps), entry == "trial");
    let each = |name, i| Bind::input(name, i, DType::F32).per_unit(1);
    let write = |bind: Bind, write| Bind { write, ..bind };
    let guard = Bind::input("guard", 2, DType::U32);
    let pass = Pass {
        source: source!("optim/assign"),
        entry,
        consts: vec![("WG", Word::U(width))],
        params: Vec::new(),
        binds: vec![write(each("state", 0), !trial), each("value", 1), if trial { guard.flags() } else { guard }],
        code: source!("optim/refuse").text.to_string(),
        units,
        per_group: width as usize,
        step: trial,
    };
    Kernel::one("assign", pass)
}

/// The number of the guard's input that is the loss.
pub const LOSS: usize = 100;
