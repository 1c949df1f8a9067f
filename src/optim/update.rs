//! One step of a rule over a piece of the flat buffers: the kernel, and the same on the CPU.

use super::{Guard, Hyper, MAX_STATES, Optimizer, Rule, State, guard::FAR};
use crate::{
    error::Result,
    host::Real,
    kernel::{Bind, Caps, Kernel, Pass, Source, Word, source},
    shape::DType,
    simd::wide,
};
use rayon::prelude::*;
use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// [`Rule`] as an object. Implemented for every rule; never by hand.
pub(super) trait AnyRule: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn source(&self) -> Source;
    fn states(&self) -> Vec<State>;
    fn lr(&self) -> f64;
    fn weight_decay(&self) -> f64;
    fn check(&self) -> Result<()>;
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    fn grow(&self, g: f64, w: f64, s: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]);
    fn run_f32(&self, job: Job<f32>);
    fn run_f64(&self, job: Job<f64>);
    fn try_f32(&self, job: Job<f32>);
}

impl<R: Rule> AnyRule for R {
    fn name(&self) -> &'static str {
        R::NAME
    }
    fn source(&self) -> Source {
        R::source()
    }
    fn states(&self) -> Vec<State> {
        Rule::states(self)
    }
    fn lr(&self) -> f64 {
        Rule::lr(self)
    }
    fn weight_decay(&self) -> f64 {
        Rule::weight_decay(self)
    }
    fn check(&self) -> Result<()> {
        Rule::check(self)
    }
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper {
        Rule::hyper(self, t, lr, decay)
    }
    fn grow(&self, g: f64, w: f64, s: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]) {
        R::grow(g, w, s, h)
    }
    fn run_f32(&self, job: Job<f32>) {
        run::<R, f32>(job, false)
    }
    fn run_f64(&self, job: Job<f64>) {
        run::<R, f64>(job, false)
    }
    fn try_f32(&self, job: Job<f32>) {
        run::<R, f32>(job, true)
    }
}

/// Invocations of a workgroup: a power of two.
pub(super) fn workgroup(caps: &Caps) -> u32 {
    1 << caps.max_invocations.clamp(1, 256).ilog2()
}

/// Groups of four elements that an invocation of the trial looks at, so that a trial that is not needed starts few workgroups.
const EACH: usize = 16;

impl Optimizer {
    /// The update of one piece, in which the groups end at `ends` (see [`Layout`](crate::params::Layout)). Bindings: `In(0)` the
    /// weights, `In(1)` the gradients, `In(2)` the [`Guard`], `In(3 + k)` the k-th of the [`states`](Optimizer::states). The
    /// hyperparameters are read from `step.hyper`.
    pub fn update_kernel(&self, ends: &[usize], caps: &Caps) -> Kernel {
        self.kernel(false, ends, caps)
    }
    /// The trial of it (see [`Guard`]): it only writes the guard. The bindings are the same.
    pub fn trial_kernel(&self, ends: &[usize], caps: &Caps) -> Kernel {
        self.kernel(true, ends, caps)
    }
    fn kernel(&self, trial: bool, ends: &[usize], caps: &Caps) -> Kernel {
        let states = self.rule.states();
        let kept = self.states();
        // A unit is four elements, of one group: groups start where parameters may.
        let each = |name, i| Bind { write: !trial, ..Bind::input(name, i, DType::F32).per_unit(4).vec4() };
        let grads = Bind { write: false, ..each("grads", 1) };
        let mut binds = vec![each("params", 0), grads, Bind::input("guard", 2, DType::U32).flags()];
        binds.extend(kept.iter().enumerate().map(|(k, s)| each(s.name, 3 + k)));
        // The last group ends with what is updated.
        let (units, ends) = (ends.last().map_or(0, |end| end / 4), &ends[..ends.len().saturating_sub(1)]);
        let width = workgroup(caps);
        let texts = [self.rule.source().text, &state_code(&states), &group_code(ends.len()), source!("optim/refuse").text];
        let mut pass = Pass {
            source: source!("optim/update"),
            entry: "apply",
            consts: vec![("WG", Word::U(width))],
            params: ends.iter().enumerate().map(|(k, &end)| (format!("end{k}"), Word::from(end / 4))).collect(),
            binds,
            code: texts.join("\n"),
            units,
            per_group: width as usize,
            step: true,
        };
        if trial {
            pass.entry = "trial";
            pass.consts.push(("EACH", Word::from(EACH)));
            pass.per_group *= EACH;
        }
        Kernel::one(self.rule.name(), pass)
    }

    /// Whether a step with these hyperparameters, a row for each group, overflows nothing where all numbers are at most 2⁶⁰.
    pub fn is_bounded(&self, hyper: &[Hyper]) -> bool {
        let far = f64::from(FAR);
        hyper.iter().all(|h| {
            let (weight, states) = self.rule.grow(far, far, [far; MAX_STATES], h);
            // What is not a number is not below anything.
            states.into_iter().chain([weight]).all(|size| size <= 2f64.powi(126))
        })
    }

    /// One step over one piece on the CPU: `hyper` has a row for each group, the groups end at `ends`, gradients are
    /// clipped as the guard says, and `states` are those of [`states`](Optimizer::states).
    /// Every element is computed on its own, so the result does not depend on the number of threads.
    pub fn update(&self, hyper: &[Hyper], ends: &[usize], guard: &Guard, w: &mut [f32], g: &[f32], states: &mut [&mut [f32]]) {
        jobs(self.kept, hyper, ends, [guard.scale, guard.factor], &AtomicU32::new(0), w, g, states, &|job| self.rule.run_f32(job));
    }

    /// The trial of it (see [`Guard`]): what would overflow, in the order of [`Guard::over`], the weights in bit 0. Nothing is changed.
    pub fn try_update(&self, hyper: &[Hyper], ends: &[usize], guard: &Guard, w: &mut [f32], g: &[f32], states: &mut [&mut [f32]]) -> u32 {
        let found = AtomicU32::new(0);
        jobs(self.kept, hyper, ends, [guard.scale, guard.factor], &found, w, g, states, &|job| self.rule.try_f32(job));
        found.into_inner()
    }

    /// The update in double precision, with gradients multiplied by `factor`.
    pub fn update_f64(&self, hyper: &[Hyper], ends: &[usize], factor: f64, w: &mut [f64], g: &[f64], states: &mut [&mut [f64]]) {
        jobs(self.kept, hyper, ends, [1.0, factor], &AtomicU32::new(0), w, g, states, &|job| self.rule.run_f64(job));
    }
}

/// `State`; and for four elements at once `States`, `load`, `store`; `squares`, their sum; `compare`, which refuses what
/// overflows.
fn state_code(states: &[State]) -> String {
    if states.is_empty() {
        // WGSL has no empty struct.
        return "struct State { none: f32 }\n\
            struct States { x: State, y: State, z: State, w: State }\n\
            fn load(i: u32) -> States {\n    return States();\n}\n\
            fn store(i: u32, s: States) {\n}\n\
            fn squares(s: States) -> f32 {\n    return 0.0;\n}\n\
            fn compare(was: States, is: States) {\n}\n"
            .to_string();
    }
    let list = |f: &dyn Fn(&State) -> String, separator: &str| states.iter().map(f).collect::<Vec<_>>().join(separator);
    let kept = |s: &State, code: String, other: &str| if s.kept { code } else { other.to_string() };
    let fields = list(&|s| format!("{}: f32", s.name), ", ");
    let loads = list(&|s| kept(s, format!("    let l_{0} = {0}[i];\n", s.name), ""), "");
    let of = |c: &str| format!("State({})", list(&|s| kept(s, format!("l_{}.{c}", s.name), "0.0"), ", "));
    let four = |of: &str, name: &str| format!("vec4({of}.x.{name}, {of}.y.{name}, {of}.z.{name}, {of}.w.{name})");
    let stores = list(&|s| kept(s, format!("    {}[i] = {};\n", s.name, four("s", s.name)), ""), "");
    let square = |s: &State| kept(s, format!("    let q_{0} = {1};\n    sum += dot(q_{0}, q_{0});\n", s.name, four("s", s.name)), "");
    let squares = list(&square, "");
    let mut number = 0;
    let mut compared = String::new();
    for s in states.iter().filter(|s| s.kept) {
        number += 1;
        compared +=
            &format!("    if (overflows({}, {})) {{\n        refuse({number}u);\n    }}\n", four("was", s.name), four("is", s.name));
    }
    let all = ["x", "y", "z", "w"].map(of).join(", ");
    format!(
        "struct State {{ {fields} }}\n\
         struct States {{ x: State, y: State, z: State, w: State }}\n\
         fn load(i: u32) -> States {{\n{loads}    return States({all});\n}}\n\
         fn store(i: u32, s: States) {{\n{stores}}}\n\
         fn squares(s: States) -> f32 {{\n    var sum = 0.0;\n{squares}    return sum;\n}}\n\
         fn compare(was: States, is: States) {{\n{compared}}}\n"
    )
}

/// `group_of`: how many groups end at or before an element.
fn group_code(ends: usize) -> String {
    let sum: String = (0..ends).map(|k| format!(" + u32(i >= p.end{k})")).collect();
    format!("fn group_of(i: u32) -> u32 {{\n    return 0u{sum};\n}}\n")
}

/// How large weights and states are at most, on the CPU device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    weight: f64,
    /// By the rule's states, those that are not kept as well.
    states: [f64; MAX_STATES],
}

impl Default for Sizes {
    /// Of numbers from outside.
    fn default() -> Sizes {
        Sizes::all(f64::INFINITY)
    }
}

impl Sizes {
    fn all(size: f64) -> Sizes {
        Sizes { weight: size, states: [size; MAX_STATES] }
    }
    /// Of these pieces of weights and of the states that are kept.
    pub fn of<'a>(weights: impl Iterator<Item = &'a [f32]>, kept: impl Iterator<Item = &'a [Vec<f32>]>, optimizer: &Optimizer) -> Sizes {
        let (weight, mut kept) = (weights.map(largest).fold(0.0, f64::max), kept);
        let mut state = |is_kept| if is_kept { kept.next().into_iter().flatten().map(|x| largest(x)).fold(0.0, f64::max) } else { 0.0 };
        Sizes { weight, states: optimizer.kept.map(&mut state) }
    }
    /// Whether one of them is above [`FAR`], or is no number.
    pub fn are_near(&self) -> bool {
        !self.states.iter().chain([&self.weight]).all(|&size| size <= f64::from(FAR))
    }
    /// Whether none of these is larger than those.
    #[cfg(test)]
    pub fn within(&self, most: &Sizes) -> bool {
        self.weight <= most.weight && self.states.iter().zip(most.states).all(|(is, most)| *is <= most)
    }
    /// What they can be after a step with gradients of at most `g`.
    pub fn after(&self, optimizer: &Optimizer, g: f64, hyper: &[Hyper]) -> Sizes {
        // In each step every number is rounded some times.
        const ROUNDED: f64 = 1.0 + 1e-5;
        let larger = |a: f64, b: f64| if a > b || a.is_nan() { a } else { b };
        let mut all = Sizes::all(0.0);
        for h in hyper {
            let (weight, states) = optimizer.rule.grow(g * ROUNDED, self.weight, self.states, h);
            all.weight = larger(all.weight, weight * ROUNDED);
            for (k, (all, state)) in all.states.iter_mut().zip(states).enumerate() {
                // One that is not kept is 0 again.
                *all = larger(*all, if optimizer.kept[k] { state * ROUNDED } else { 0.0 });
            }
        }
        all
    }
}

/// The largest magnitude; infinite or NaN where one is.
fn largest(x: &[f32]) -> f64 {
    // Twice the bits are those of the magnitude, and in their order.
    let top = |x: &[f32]| x.iter().fold(0, |top: u32, x| top.max(x.to_bits() << 1));
    let top = x
        .par_chunks(CHUNK)
        .map(|x| {
            wide(
                #[inline(always)]
                || top(x),
            )
        })
        .max()
        .unwrap_or(0);
    f64::from(f32::from_bits(top >> 1))
}

/// Elements that one thread does at a time.
const CHUNK: usize = 1 << 14;

/// Elements whose unkept states are kept on the stack.
const BLOCK: usize = 512;

/// Some neighbouring elements of one group.
pub(super) struct Job<'a, T> {
    hyper: [T; 8],
    /// What gradients are multiplied by, one after the other.
    clip: [T; 2],
    /// Of a trial: what would overflow.
    found: &'a AtomicU32,
    w: &'a mut [T],
    g: &'a [T],
    states: [Option<&'a mut [T]>; MAX_STATES],
}

impl<'a, T: Real> Job<'a, T> {
    /// The first `n` elements, which are gone from this one then.
    fn split_off(&mut self, n: usize) -> Job<'a, T> {
        Job {
            hyper: self.hyper,
            clip: self.clip,
            found: self.found,
            w: self.w.split_off_mut(..n).expect("the groups end within the weights"),
            g: self.g.split_off(..n).expect("as many gradients as weights"),
            states: self.states.each_mut().map(|s| s.as_mut().map(|s| s.split_off_mut(..n).expect("as many states as weights"))),
        }
    }
    /// In parts, by all threads.
    fn run_all(mut self, run: &(impl Fn(Job<T>) + Sync)) {
        if self.w.len() <= CHUNK {
            return run(self);
        }
        let half = self.split_off((self.w.len() / 2).next_multiple_of(CHUNK));
        rayon::join(|| half.run_all(run), || self.run_all(run));
    }
}

/// Cuts a piece into jobs at the ends of groups, and runs them.
#[expect(clippy::too_many_arguments, reason = "those of `update`, and what to do")]
fn jobs<T: Real>(
    kept: [bool; MAX_STATES],
    hyper: &[Hyper],
    ends: &[usize],
    clip: [T; 2],
    found: &AtomicU32,
    w: &mut [T],
    g: &[T],
    states: &mut [&mut [T]],
    run: &(impl Fn(Job<T>) + Sync),
) {
    let mut states = states.iter_mut().map(|s| &mut **s);
    let states = kept.map(|kept| kept.then(|| states.next().expect("one buffer for each of the optimizer's states")));
    let (mut all, mut start) = (Job { hyper: [T::zero(); 8], clip, found, w, g, states }, 0);
    for (&end, row) in ends.iter().zip(hyper) {
        Job { hyper: row.map(T::of), ..all.split_off(end - start) }.run_all(run);
        start = end;
    }
}

/// One job, or its trial. States that are not kept are blocks of zeros, so that the loop over elements has no branches.
fn run<R: Rule, T: Real>(job: Job<T>, trial: bool) {
    let Job { hyper, clip: [scale, factor], found, w, g, mut states } = job;
    let mut zeros = [[T::zero(); BLOCK]; MAX_STATES];
    let mut scaled = [T::zero(); BLOCK];
    let mut seen = 0;
    for (b, (w, mut g)) in w.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).enumerate() {
        if scale != T::one() {
            scaled.iter_mut().zip(g).for_each(|(to, &g)| *to = scale * g);
            g = &scaled[..w.len()];
        }
        let [z0, z1, z2] = &mut zeros;
        let [s0, s1, s2] = &mut states;
        let range = b * BLOCK..b * BLOCK + w.len();
        let all = [part(s0, z0, &range), part(s1, z1, &range), part(s2, z2, &range)];
        if trial {
            seen |= attempt::<R, T>(&hyper, factor, w, g, all);
            continue;
        }
        let [s0, s1, s2] = all;
        block::<R, T>(&hyper, factor, w, g, s0, s1, s2);
    }
    if seen != 0 {
        found.fetch_or(dense(seen, &states), Relaxed);
    }
}

/// Bits of weights and of all states as bits of weights and of the states that are kept.
fn dense<T>(seen: u32, states: &[Option<&mut [T]>; MAX_STATES]) -> u32 {
    let kept = (0..MAX_STATES).filter(|&k| states[k].is_some());
    kept.enumerate().fold(seen & 1, |bits, (to, k)| bits | ((seen >> (k + 1)) & 1) << (to + 1))
}

/// This block of a state, or of zeros in its place.
fn part<'a, T: Real>(state: &'a mut Option<&mut [T]>, zeros: &'a mut [T; BLOCK], range: &Range<usize>) -> &'a mut [T] {
    match state {
        Some(s) => &mut s[range.clone()],
        None => {
            zeros.fill(T::zero());
            &mut zeros[..range.len()]
        }
    }
}

/// What would overflow in one block, weights and states: a bit each.
fn attempt<R: Rule, T: Real>(h: &[T; 8], factor: T, w: &[T], g: &[T], [s0, s1, s2]: [&mut [T]; MAX_STATES]) -> u32 {
    let (n, was) = (g.len(), [w, s0, s1, s2]);
    let mut is = [[T::zero(); BLOCK]; MAX_STATES + 1];
    is.iter_mut().zip(was).for_each(|(is, was)| is[..n].copy_from_slice(was));
    let [w, s0, s1, s2] = &mut is;
    block::<R, T>(h, factor, &mut w[..n], g, s0, s1, s2);
    let over = |k: usize| was[k].iter().zip(&is[k]).any(|(was, is)| was.is_finite() && !is.is_finite());
    (0..=MAX_STATES).fold(0, |bits, k| bits | u32::from(over(k)) << k)
}

/// One block. On its own, so that the compiler knows that the slices do not overlap, and vectorises.
#[inline(never)]
fn block<R: Rule, T: Real>(h: &[T; 8], factor: T, w: &mut [T], g: &[T], s0: &mut [T], s1: &mut [T], s2: &mut [T]) {
    let n = w.len();
    let (g, s0, s1, s2) = (&g[..n], &mut s0[..n], &mut s1[..n], &mut s2[..n]);
    wide(
        #[inline(always)]
        || {
            for i in 0..n {
                let mut s = [s0[i], s1[i], s2[i]];
                w[i] = R::update(w[i], factor * g[i], &mut s, h);
                [s0[i], s1[i], s2[i]] = s;
            }
        },
    )
}
