//! One step of a rule over a piece of the flat buffers, on the CPU.

use super::{
    Guard, Hyper, MAX_STATES, Norms, Optimizer, Rule, State, Trust,
    average::{Turn, follow},
    guard::FAR,
    is_own,
    trust::{directions, squares},
};
use crate::{
    error::Result,
    host::Real,
    kernel::Source,
    simd::wide,
    threads::{chunk, parallel},
};
use std::{
    any::TypeId,
    fmt,
    ops::Range,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// [`Rule`] as a trait object. It is implemented for every rule and must not be implemented by hand.
pub(super) trait AnyRule: fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn source(&self) -> Source;
    /// Returns whether the WGSL is compiled without checks.
    fn is_unchecked(&self) -> bool;
    fn states(&self) -> Vec<State>;
    fn lr(&self) -> f64;
    fn weight_decay(&self) -> f64;
    fn check(&self) -> Result<()>;
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    fn grow(&self, g: f64, w: f64, s: [f64; MAX_STATES], h: &Hyper) -> (f64, [f64; MAX_STATES]);
    fn has_ratio(&self) -> bool;
    fn ratio(&self, norms: Norms, h: &Hyper) -> f64;
    fn loops_f32(&self) -> Loops<f32>;
    fn loops_f64(&self) -> Loops<f64>;
}

impl<R: Rule> AnyRule for R {
    fn name(&self) -> &'static str {
        R::NAME
    }
    fn source(&self) -> Source {
        R::source()
    }
    fn is_unchecked(&self) -> bool {
        !R::CHECKS.are_on() || is_own(TypeId::of::<R>())
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
    fn has_ratio(&self) -> bool {
        R::HAS_RATIO
    }
    fn ratio(&self, norms: Norms, h: &Hyper) -> f64 {
        R::ratio(norms, h)
    }
    fn loops_f32(&self) -> Loops<f32> {
        Loops { block: block::<R, f32>, directions: directions::<R, f32> }
    }
    fn loops_f64(&self) -> Loops<f64> {
        Loops { block: block::<R, f64>, directions: directions::<R, f64> }
    }
}

/// The loops that are compiled for each rule. All other code of an update calls them through pointers, and is compiled once.
#[derive(Clone, Copy)]
pub(super) struct Loops<T> {
    /// A step. See [`block`].
    block: Block<T>,
    /// Replaces gradients by their directions. See [`directions`].
    pub directions: Directions<T>,
}

/// The type of [`block`].
type Block<T> = fn(&[T; 8], [T; 2], &mut [T], &[T], &mut [T], &mut [T], &mut [T]);
/// The type of [`directions`].
type Directions<T> = fn(&[T; 8], &[T], &mut [T], &mut [T], &mut [T], &mut [T]);

impl Optimizer {
    /// Returns whether a step with these hyperparameters cannot overflow if all numbers are at most 2⁶⁰. `hyper` has the
    /// rows of one step.
    pub(crate) fn is_bounded(&self, hyper: &[Hyper]) -> bool {
        let far = f64::from(FAR);
        self.divide(hyper).0.iter().all(|h| {
            let (weight, states) = self.rule.grow(far, far, [far; MAX_STATES], h);
            // A NaN fails the comparison, so it counts as too large.
            states.into_iter().chain([weight]).all(|size| size <= 2f64.powi(126))
        })
    }

    /// Returns the number of stored states that have an element for each element of a parameter.
    pub(crate) fn kept(&self) -> usize {
        self.kept.iter().filter(|kept| **kept).count()
    }

    /// Returns whether the rule has a [`ratio`](Rule::ratio). Parameters are then updated one by one.
    pub(crate) fn has_ratio(&self) -> bool {
        self.rule.has_ratio()
    }

    /// Makes one step over one piece on the CPU. The guard has the factors that clip the gradients. `states` has the buffers of
    /// [`states`](Optimizer::states). Every element is computed separately, so the result does not depend on the number of
    /// threads.
    ///
    /// For a rule with a ratio, each run is one parameter, and `trusts` gets its norms and ratio. For other rules, `trusts`
    /// becomes empty.
    pub(crate) fn update(
        &self,
        settings: Settings,
        guard: &Guard,
        w: &mut [f32],
        g: &[f32],
        states: &mut [&mut [f32]],
        trusts: &mut Vec<Trust>,
    ) {
        trusts.clear();
        let todo = Todo { settings, clipped: self.clipped(guard), trial: None, trusts: Some(trusts) };
        jobs(self, self.rule.loops_f32(), todo, w, g, states);
    }

    /// Makes a trial of a step (see [`Guard`]). Nothing is changed. Returns a bit for each kind of number that would overflow,
    /// in the order of [`Guard::over`]. Bit 0 is for the weights.
    pub(crate) fn try_update(&self, settings: Settings, guard: &Guard, w: &mut [f32], g: &[f32], states: &mut [&mut [f32]]) -> u32 {
        let found = AtomicU32::new(0);
        let todo = Todo { settings, clipped: self.clipped(guard), trial: Some(&found), trusts: None };
        jobs(self, self.rule.loops_f32(), todo, w, g, states);
        found.into_inner()
    }

    /// Makes the update in double precision, with gradients multiplied by `factor`. This is the reference for the devices.
    /// Returns the norms and ratios of a rule with a ratio.
    pub(crate) fn update_f64(&self, settings: Settings, factor: f64, w: &mut [f64], g: &[f64], states: &mut [&mut [f64]]) -> Vec<Trust> {
        let clipped = Clipped { scale: 1.0, factor, limit: self.clip().value.map_or(f64::INFINITY, f64::from) };
        let mut trusts = Vec::new();
        let todo = Todo { settings, clipped, trial: None, trusts: Some(&mut trusts) };
        jobs(self, self.rule.loops_f64(), todo, w, g, states);
        trusts
    }

    fn clipped(&self, guard: &Guard) -> Clipped<f32> {
        Clipped { scale: guard.scale, factor: guard.factor, limit: self.clip().value.unwrap_or(f32::INFINITY) }
    }
}

/// Upper bounds of the magnitudes of weights and states, on the CPU device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    weight: f64,
    /// A bound for each state of the rule, including states that are not stored.
    states: [f64; MAX_STATES],
}

impl Default for Bounds {
    /// Returns the bounds of numbers that were set from outside, which are infinite.
    fn default() -> Bounds {
        Bounds::all(f64::INFINITY)
    }
}

impl Bounds {
    fn all(size: f64) -> Bounds {
        Bounds { weight: size, states: [size; MAX_STATES] }
    }
    /// Returns the bounds of the given pieces of weights and of the stored states.
    pub fn of<'a>(weights: impl Iterator<Item = &'a [f32]>, kept: impl Iterator<Item = &'a [Vec<f32>]>, optimizer: &Optimizer) -> Bounds {
        let (weight, mut kept) = (weights.map(largest).fold(0.0, f64::max), kept);
        let mut state = |is_kept| if is_kept { kept.next().into_iter().flatten().map(|x| largest(x)).fold(0.0, f64::max) } else { 0.0 };
        Bounds { weight, states: optimizer.kept.map(&mut state) }
    }
    /// Returns whether a bound exceeds [`FAR`] or is NaN.
    pub fn are_near(&self) -> bool {
        !self.states.iter().chain([&self.weight]).all(|&size| size <= f64::from(FAR))
    }
    /// Returns whether no bound exceeds the bound in `most`.
    #[cfg(test)]
    pub fn within(&self, most: &Bounds) -> bool {
        self.weight <= most.weight && self.states.iter().zip(most.states).all(|(is, most)| *is <= most)
    }
    /// Returns the bounds after a step with gradients of at most `g`.
    pub fn after(&self, optimizer: &Optimizer, g: f64, hyper: &[Hyper]) -> Bounds {
        // A margin for the roundings of each number in a step.
        const ROUNDED: f64 = 1.0 + 1e-5;
        let larger = |a: f64, b: f64| if a > b || a.is_nan() { a } else { b };
        let mut all = Bounds::all(0.0);
        // Slow weights that become the weights are within the bound of the weights, and stay so.
        all.weight = if optimizer.looks_ahead() { self.weight } else { 0.0 };
        for h in optimizer.divide(hyper).0 {
            let (weight, states) = optimizer.rule.grow(g * ROUNDED, self.weight, self.states, h);
            all.weight = larger(all.weight, weight * ROUNDED);
            for (k, (all, state)) in all.states.iter_mut().zip(states).enumerate() {
                // A state that is not stored is 0 again in the next step.
                *all = larger(*all, if optimizer.kept[k] { state * ROUNDED } else { 0.0 });
            }
        }
        all
    }
}

/// Returns the largest magnitude. It is infinite or NaN if a number is.
fn largest(x: &[f32]) -> f64 {
    // Shifting the bits to the left removes the sign. As integers, the results have the order of the magnitudes.
    let top = AtomicU32::new(0);
    parallel(x.len().div_ceil(CHUNK), &|k| {
        let x = chunk(x, CHUNK, k);
        let largest = wide(
            #[inline(always)]
            || x.iter().fold(0, |top: u32, x| top.max(x.to_bits() << 1)),
        );
        top.fetch_max(largest, Relaxed);
    });
    f64::from(f32::from_bits(top.into_inner() >> 1))
}

/// The number of elements that one thread processes at a time.
pub(super) const CHUNK: usize = 1 << 14;

/// The number of elements in a block. The zeros in place of states that are not stored lie on the stack for one block.
pub(super) const BLOCK: usize = 512;

/// Clips gradients: factor·(scale·g), limited to magnitudes of at most `limit`.
#[derive(Clone, Copy)]
struct Clipped<T> {
    scale: T,
    factor: T,
    limit: T,
}

/// The settings of the elements of a piece.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// The hyperparameters, a row for each group.
    pub hyper: &'a [Hyper],
    /// The end of each run of elements of one group, and the number of the group.
    pub runs: &'a [(usize, usize)],
}

/// The work to do on a piece.
struct Todo<'a, T> {
    settings: Settings<'a>,
    clipped: Clipped<T>,
    /// In a trial, the bits of the numbers that would overflow. A trial changes nothing.
    trial: Option<&'a AtomicU32>,
    /// The vector for norms and ratios, if they are wanted.
    trusts: Option<&'a mut Vec<Trust>>,
}

/// Neighbouring elements of one group.
pub(super) struct Elements<'a, T> {
    pub hyper: [T; 8],
    /// The ratio of the parameter, if the rule has a ratio. Otherwise 1.
    ratio: T,
    clipped: Clipped<T>,
    /// In a trial, the bits of the numbers that would overflow. A trial changes nothing.
    trial: Option<&'a AtomicU32>,
    w: &'a mut [T],
    g: &'a [T],
    states: [Option<&'a mut [T]>; MAX_STATES],
    /// The average of the weights, and what the step does with it. `None` without an average, and in a trial.
    average: Option<(&'a mut [T], Turn)>,
}

impl<'a, T: Real> Elements<'a, T> {
    /// Removes and returns the first `n` elements.
    fn split_off(&mut self, n: usize) -> Elements<'a, T> {
        Elements {
            hyper: self.hyper,
            ratio: self.ratio,
            clipped: self.clipped,
            trial: self.trial,
            w: self.w.split_off_mut(..n).expect("the groups end within the weights"),
            g: self.g.split_off(..n).expect("as many gradients as weights"),
            states: self.states.each_mut().map(|s| s.as_mut().map(|s| s.split_off_mut(..n).expect("as many states as weights"))),
            average: self.average.as_mut().map(|(a, turn)| (a.split_off_mut(..n).expect("as many averages as weights"), *turn)),
        }
    }
    pub fn len(&self) -> usize {
        self.w.len()
    }
    /// Splits more than [`CHUNK`] elements into two parts.
    pub fn halves(mut self) -> (Elements<'a, T>, Elements<'a, T>) {
        (self.split_off((self.len() / 2).next_multiple_of(CHUNK)), self)
    }
    /// Borrows the same elements again.
    fn again(&mut self) -> Elements<'_, T> {
        let states = self.states.each_mut().map(|s| s.as_mut().map(|s| &mut **s));
        Elements { w: &mut *self.w, states, average: self.average.as_mut().map(|(a, turn)| (&mut **a, *turn)), ..*self }
    }
    /// Runs a step or its trial on parts of the elements, with all threads.
    fn run(self, block: Block<T>) {
        if self.len() <= CHUNK {
            return self.run_here(block);
        }
        let (a, b) = self.halves();
        rayon::join(|| a.run(block), || b.run(block));
    }
    fn run_here(mut self, block: Block<T>) {
        let (h, ratio, trial, kept) = (self.hyper, self.ratio, self.trial, self.states.each_ref().map(Option::is_some));
        let (mut seen, mut average) = (0, self.average.take());
        self.blocks(|factor, w, g, states| {
            if trial.is_some() {
                seen |= attempt(block, &h, [factor, ratio], w, g, states);
                return;
            }
            let [s0, s1, s2] = states;
            block(&h, [factor, ratio], w, g, s0, s1, s2);
            // The block is still in the cache.
            if let Some((average, turn)) = &mut average {
                let average = average.split_off_mut(..w.len()).expect("as many averages as weights");
                follow(average, w, *turn);
                if turn.back {
                    w.copy_from_slice(average);
                }
            }
        });
        if let Some(found) = trial {
            found.fetch_or(dense(seen, kept), Relaxed);
        }
    }
    /// Calls `each` for every block of [`BLOCK`] elements. Its arguments are the factor that the gradients must still be
    /// multiplied by, the weights, the gradients and the states. States that are not stored are blocks of zeros, so that loops
    /// over elements have no branches.
    #[inline(always)]
    pub fn blocks(self, mut each: impl FnMut(T, &mut [T], &[T], [&mut [T]; MAX_STATES])) {
        let Elements { clipped: Clipped { scale, mut factor, limit }, w, g, mut states, .. } = self;
        let mut zeros = [[T::zero(); BLOCK]; MAX_STATES];
        let mut scaled = [T::zero(); BLOCK];
        let (plain, all) = (scale == T::one() && limit == T::of(f64::INFINITY), factor);
        if !plain {
            // The gradients below already contain the factor.
            factor = T::one();
        }
        for (b, (w, mut g)) in w.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).enumerate() {
            if !plain {
                scaled.iter_mut().zip(g).for_each(|(to, &g)| *to = (all * (scale * g)).max(-limit).min(limit));
                g = &scaled[..w.len()];
            }
            let [z0, z1, z2] = &mut zeros;
            let [s0, s1, s2] = &mut states;
            let range = b * BLOCK..b * BLOCK + w.len();
            each(factor, w, g, [part(s0, z0, &range), part(s1, z1, &range), part(s2, z2, &range)]);
        }
    }
}

/// Splits a piece into jobs where the group changes, and runs them. For a rule with a ratio, each job is one parameter, and
/// its norms and its ratio are computed first.
fn jobs<T: Real>(optimizer: &Optimizer, loops: Loops<T>, todo: Todo<T>, w: &mut [T], g: &[T], states: &mut [&mut [T]]) {
    let Todo { settings: Settings { hyper, runs }, clipped, trial, mut trusts } = todo;
    let mut rest = states.iter_mut();
    let states = optimizer.kept.map(|kept| kept.then(|| &mut **rest.next().expect("one buffer for each of the optimizer's states")));
    let (hyper, turn) = optimizer.divide(hyper);
    let average = rest.next().map(|s| &mut **s).zip(turn).filter(|_| trial.is_none());
    let (mut all, mut start) = (Elements { hyper: [T::zero(); 8], ratio: T::one(), clipped, trial, w, g, states, average }, 0);
    for &(end, group) in runs {
        let mut job = Elements { hyper: hyper[group].map(T::of), ..all.split_off(end - start) };
        if optimizer.has_ratio() {
            let trust = Trust::new(squares(job.again(), loops), |norms| optimizer.rule.ratio(norms, &hyper[group]));
            job.ratio = T::of(trust.ratio);
            trusts.iter_mut().for_each(|all| all.push(trust));
        }
        job.run(loops.block);
        start = end;
    }
}

/// Removes the bits of states that are not stored.
fn dense(seen: u32, kept: [bool; MAX_STATES]) -> u32 {
    let kept = (0..MAX_STATES).filter(|&k| kept[k]);
    kept.enumerate().fold(seen & 1, |bits, (to, k)| bits | ((seen >> (k + 1)) & 1) << (to + 1))
}

/// Returns the block `range` of a state, or zeros if the state is not stored.
fn part<'a, T: Real>(state: &'a mut Option<&mut [T]>, zeros: &'a mut [T; BLOCK], range: &Range<usize>) -> &'a mut [T] {
    match state {
        Some(s) => &mut s[range.clone()],
        None => {
            zeros.fill(T::zero());
            &mut zeros[..range.len()]
        }
    }
}

/// Computes one block without changing it. Returns a bit for the weights and for each state that would overflow.
fn attempt<T: Real>(block: Block<T>, h: &[T; 8], factors: [T; 2], w: &[T], g: &[T], [s0, s1, s2]: [&mut [T]; MAX_STATES]) -> u32 {
    let (n, was) = (g.len(), [w, s0, s1, s2]);
    let mut is = [[T::zero(); BLOCK]; MAX_STATES + 1];
    is.iter_mut().zip(was).for_each(|(is, was)| is[..n].copy_from_slice(was));
    let [w, s0, s1, s2] = &mut is;
    block(h, factors, &mut w[..n], g, s0, s1, s2);
    let over = |k: usize| was[k].iter().zip(&is[k]).any(|(was, is)| was.is_finite() && !is.is_finite());
    (0..=MAX_STATES).fold(0, |bits, k| bits | u32::from(over(k)) << k)
}

/// Updates one block. The gradients are multiplied by `factor` and the directions by `ratio`. It is a separate function, so
/// that it is compiled once for each rule.
#[inline(never)]
fn block<R: Rule, T: Real>(h: &[T; 8], [factor, ratio]: [T; 2], w: &mut [T], g: &[T], s0: &mut [T], s1: &mut [T], s2: &mut [T]) {
    T::run(
        #[inline(always)]
        || {
            // Cut outside of the closure, the slices could have any length for the compiler. It would then compute the last
            // vector of each block one element at a time.
            let (n, h) = (w.len(), *h);
            let (w, g, s0, s1, s2) = (&mut w[..n], &g[..n], &mut s0[..n], &mut s1[..n], &mut s2[..n]);
            for i in 0..n {
                let mut s = [s0[i], s1[i], s2[i]];
                let u = R::direction(w[i], factor * g[i], &mut s, &h);
                w[i] = R::apply(w[i], if R::HAS_RATIO { ratio * u } else { u }, &mut s, &h);
                [s0[i], s1[i], s2[i]] = s;
            }
        },
    )
}
