//! One step of a rule over a piece of the flat buffers: the kernel, and the same on the CPU.

use super::{Hyper, MAX_STATES, Optimizer, Rule, State};
use crate::{
    error::Result,
    host::Real,
    kernel::{Bind, Caps, Kernel, Pass, Source, Word, source},
    shape::DType,
    simd::wide,
};
use std::{fmt, ops::Range};

/// [`Rule`] as an object. Implemented for every rule; never by hand.
pub(super) trait AnyRule: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn source(&self) -> Source;
    fn states(&self) -> Vec<State>;
    fn lr(&self) -> f64;
    fn weight_decay(&self) -> f64;
    fn check(&self) -> Result<()>;
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    fn run_f32(&self, job: Job<f32>);
    fn run_f64(&self, job: Job<f64>);
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
    fn run_f32(&self, job: Job<f32>) {
        run::<R, f32>(job)
    }
    fn run_f64(&self, job: Job<f64>) {
        run::<R, f64>(job)
    }
}

/// Invocations of a workgroup: a power of two.
pub(super) fn workgroup(caps: &Caps) -> u32 {
    1 << caps.max_invocations.clamp(1, 256).ilog2()
}

/// Blocks of a workgroup's size that it does.
const EACH: u32 = 4;

impl Optimizer {
    /// The update of one piece of `units` elements, in which the groups end at `ends` (see
    /// [`Layout`](crate::params::Layout)). Bindings: `In(0)` the weights, `In(1)` the gradients, `In(2)` the
    /// [`Guard`](super::Guard), `In(3 + k)` the k-th of the [`states`](Optimizer::states). The hyperparameters are
    /// read from `step.hyper`.
    pub fn update_kernel(&self, ends: &[usize], units: usize, caps: &Caps) -> Kernel {
        let states = self.rule.states();
        let kept = self.states();
        let each = |name, i| Bind::input(name, i, DType::F32).per_unit(1);
        let mut binds = vec![each("params", 0).written(), each("grads", 1), Bind::input("guard", 2, DType::U32)];
        binds.extend(kept.iter().enumerate().map(|(k, s)| each(s.name, 3 + k).written()));
        // The last group ends with the piece.
        let ends = &ends[..ends.len().saturating_sub(1)];
        let width = workgroup(caps);
        let pass = Pass {
            source: source!("optim/update"),
            entry: "apply",
            consts: vec![("WG", Word::U(width)), ("EACH", Word::U(EACH))],
            params: ends.iter().enumerate().map(|(k, &end)| (format!("end{k}"), Word::from(end))).collect(),
            binds,
            code: format!("{}\n{}\n{}", self.rule.source().text, state_code(&states), group_code(ends.len())),
            units,
            per_group: (width * EACH) as usize,
            step: true,
        };
        Kernel::one(self.rule.name(), pass)
    }

    /// One step over one piece on the CPU: `hyper` has a row for each group, the groups end at `ends`, gradients are
    /// multiplied by `factor` (see [`Guard`](super::Guard)), and `states` are those of [`states`](Optimizer::states).
    /// Every element is computed on its own, so the result does not depend on the number of threads.
    pub fn update(&self, hyper: &[Hyper], ends: &[usize], factor: f32, w: &mut [f32], g: &[f32], states: &mut [&mut [f32]]) {
        jobs(self.kept, hyper, ends, factor, w, g, states, &|job| self.rule.run_f32(job));
    }

    /// The same in double precision.
    pub fn update_f64(&self, hyper: &[Hyper], ends: &[usize], factor: f64, w: &mut [f64], g: &[f64], states: &mut [&mut [f64]]) {
        jobs(self.kept, hyper, ends, factor, w, g, states, &|job| self.rule.run_f64(job));
    }
}

/// `State`, `load` and `store`.
fn state_code(states: &[State]) -> String {
    let list = |f: &dyn Fn(&State) -> String, separator: &str| states.iter().map(f).collect::<Vec<_>>().join(separator);
    let kept = |s: &State, code: String, other: &str| if s.kept { code } else { other.to_string() };
    let (fields, loads, stores) = match states {
        // WGSL has no empty struct.
        [] => ("none: f32".to_string(), "0.0".to_string(), String::new()),
        _ => (
            list(&|s| format!("{}: f32", s.name), ", "),
            list(&|s| kept(s, format!("{}[i]", s.name), "0.0"), ", "),
            list(&|s| kept(s, format!("    {0}[i] = s.{0};\n", s.name), ""), ""),
        ),
    };
    format!(
        "struct State {{ {fields} }}\n\
         fn load(i: u32) -> State {{\n    return State({loads});\n}}\n\
         fn store(i: u32, s: State) {{\n{stores}}}\n"
    )
}

/// `group_of`: how many groups end at or before an element.
fn group_code(ends: usize) -> String {
    let sum: String = (0..ends).map(|k| format!(" + u32(i >= p.end{k})")).collect();
    format!("fn group_of(i: u32) -> u32 {{\n    return 0u{sum};\n}}\n")
}

/// Elements that one thread does at a time.
const CHUNK: usize = 1 << 14;

/// Elements whose unkept states are kept on the stack.
const BLOCK: usize = 512;

/// Some neighbouring elements of one group.
pub(super) struct Job<'a, T> {
    hyper: [T; 8],
    factor: T,
    w: &'a mut [T],
    g: &'a [T],
    states: [Option<&'a mut [T]>; MAX_STATES],
}

impl<'a, T: Real> Job<'a, T> {
    /// The first `n` elements, which are gone from this one then.
    fn split_off(&mut self, n: usize) -> Job<'a, T> {
        Job {
            hyper: self.hyper,
            factor: self.factor,
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
    factor: T,
    w: &mut [T],
    g: &[T],
    states: &mut [&mut [T]],
    run: &(impl Fn(Job<T>) + Sync),
) {
    let mut states = states.iter_mut().map(|s| &mut **s);
    let states = kept.map(|kept| kept.then(|| states.next().expect("one buffer for each of the optimizer's states")));
    let (mut all, mut start) = (Job { hyper: [T::zero(); 8], factor, w, g, states }, 0);
    for (&end, row) in ends.iter().zip(hyper) {
        Job { hyper: row.map(T::of), ..all.split_off(end - start) }.run_all(run);
        start = end;
    }
}

/// One job. States that are not kept are blocks of zeros, so that the loop over elements has no branches.
fn run<R: Rule, T: Real>(job: Job<T>) {
    let Job { hyper, factor, w, g, mut states } = job;
    let mut zeros = [[T::zero(); BLOCK]; MAX_STATES];
    for (b, (w, g)) in w.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).enumerate() {
        let [z0, z1, z2] = &mut zeros;
        let [s0, s1, s2] = &mut states;
        let range = b * BLOCK..b * BLOCK + w.len();
        block::<R, T>(&hyper, factor, w, g, part(s0, z0, &range), part(s1, z1, &range), part(s2, z2, &range));
    }
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
