//! The flat buffers of a model on the CPU device, and the parts of an update.

use crate::{
    error::Result,
    host,
    optim::{Bounds, Guard, Hyper, MAX_STATES, MEASURED, Optimizer, Settings, Squares, Trust, blend, norm, squares},
    params::{Layout, StateLayout},
    plan::{Flat, Loc, Update},
    threads::{TASK, chunk, chunks, lock},
};
use std::{
    array, mem,
    ops::{Deref, DerefMut, Range},
    sync::{Arc, Mutex, MutexGuard},
};

/// The flat buffers of a model on the CPU device, by piece. See [`Layout`].
#[derive(Debug, Default)]
pub struct CpuStore {
    pub layout: Layout,
    pub params: Vec<Vec<f32>>,
    pub grads: Vec<Vec<f32>>,
    /// For each part, the elements at which another parameter group begins. See [`Layout::runs`].
    runs: Vec<Vec<(usize, usize)>>,
    /// For each part, the elements at which another parameter begins.
    ends: Vec<Vec<(usize, usize)>>,
    /// The norms and ratios of the parameters in each part, if the rule uses ratios.
    trusts: Vec<Vec<Trust>>,
    /// The optimizer states, by state and then by piece.
    pub states: Vec<Vec<Vec<f32>>>,
    /// The averages of all trained weights, by piece, if this rank updates a part of them alone. Empty until they are gathered.
    pub average: Vec<Vec<f32>>,
    /// The gradients of a micro-batch. Empty until a plan needs them.
    pub(super) micro: Vec<Vec<f32>>,
    /// The weights before the update, in steps that measure norms. Empty until a plan needs them.
    before: Vec<Vec<f32>>,
    /// The norms of each parameter's weights, gradients and change, in the last step that measured them.
    norms: Vec<[f32; MEASURED]>,
    /// The next values of the state pieces. A step assigns them at its end.
    pub(super) next: Vec<Vec<f32>>,
    /// The sum of squares of each parameter's gradient.
    pub(super) squares: Vec<Squares>,
    pub guard: Guard,
    /// The first parameter whose gradient was not finite in the first bad step.
    pub culprit: Option<usize>,
    /// Upper bounds on the sizes of the parameters and states.
    sizes: Bounds,
}

/// The flat buffers of a model, which several plans share. In a view of the averages, a state of the optimizer stands in place of the
/// trained weights.
#[derive(Clone)]
pub struct Shared {
    store: Arc<Mutex<CpuStore>>,
    average: Option<usize>,
}

impl Shared {
    pub fn new(store: CpuStore) -> Shared {
        Shared { store: Arc::new(Mutex::new(store)), average: None }
    }
    /// Returns a view in which state `k` stands in place of the trained weights.
    pub fn averaged(&self, k: usize) -> Shared {
        Shared { store: self.store.clone(), average: Some(k) }
    }
    /// Moves parameters by `share` of their way to those of another store. A share of 1 copies them. Each pair has the number of a
    /// parameter there and here.
    pub fn copy_from(&self, from: &Shared, pairs: &[(usize, usize)], share: f32) -> Result<()> {
        let address = |shared: &Shared| Arc::as_ptr(&shared.store);
        if address(self) == address(from) {
            // Weights and a view of their averages. One view is locked at a time.
            let source = from.lock();
            let copies: Vec<Vec<f32>> = pairs.iter().map(|&(at, _)| host::copy("parameters", source.param(at))).collect::<Result<_>>()?;
            drop(source);
            let mut store = self.lock();
            pairs.iter().zip(&copies).for_each(|(&(_, to), from)| store.follow(to, from, share));
        } else {
            // Two threads that copy between the same stores lock them in one order.
            let (mut store, source) = match address(self) < address(from) {
                true => (self.lock(), from.lock()),
                false => {
                    let source = from.lock();
                    (self.lock(), source)
                }
            };
            pairs.iter().for_each(|&(at, to)| store.follow(to, source.param(at), share));
        }
        Ok(())
    }
    /// Locks the buffers for one user.
    pub fn lock(&self) -> Locked<'_> {
        let mut store = lock(&self.store);
        self.average.iter().for_each(|&k| store.exchange(k));
        Locked { store, average: self.average }
    }
}

/// The locked buffers. Weights and averages change places again at the end.
pub struct Locked<'a> {
    store: MutexGuard<'a, CpuStore>,
    average: Option<usize>,
}

impl Deref for Locked<'_> {
    type Target = CpuStore;
    fn deref(&self) -> &CpuStore {
        &self.store
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut CpuStore {
        &mut self.store
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.average.iter().for_each(|&k| self.store.exchange(k));
    }
}

/// The optimizer and hyperparameters of an update.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub optimizer: &'a Optimizer,
    /// The [rows](Optimizer::rows) of hyperparameters of a step.
    pub hyper: &'a [Hyper],
    /// The hyperparameters of groups of whole parameters.
    pub whole: &'a [Hyper],
}

impl CpuStore {
    /// Makes the buffers for a layout, filled with zeros.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if there is not enough memory.
    pub fn new(layout: Layout) -> Result<CpuStore> {
        let (all, trained) = (0..layout.pieces.len(), 0..layout.trained);
        let state = |(k, state): (usize, &StateLayout)| {
            let pieces = state.pieces.iter().enumerate();
            pieces.map(|(i, &n)| host::zeros(&format!("state {k} piece {i} [{n}]"), n)).collect()
        };
        let states = layout.states.iter().enumerate().map(state).collect::<Result<_>>()?;
        let (params, grads) = (zeros(&layout, "params", all)?, zeros(&layout, "grads", trained)?);
        let next = zeros(&layout, "next state", layout.state_pieces())?;
        let squares = vec![Squares::default(); layout.ranges.len()];
        let norms = vec![[0.0; MEASURED]; layout.ranges.len()];
        let parts = 0..layout.parts.len();
        let runs = parts.clone().map(|part| layout.runs(part)).collect();
        let ends = parts.clone().map(|part| layout.ends(part).collect()).collect();
        let trusts = vec![Vec::new(); parts.len()];
        Ok(CpuStore { params, grads, states, next, squares, norms, runs, ends, trusts, layout, ..CpuStore::default() })
    }
    /// Sets state `k` to the trained weights.
    pub fn start_average(&mut self, k: usize) {
        let weights = self.layout.parts.iter().map(|part| &self.params[part.piece][part.of()]);
        self.states[k].iter_mut().zip(weights).for_each(|(state, w)| state.copy_from_slice(w));
    }
    fn param(&self, i: usize) -> &[f32] {
        let range = self.layout.ranges[i];
        &self.params[range.piece][range.of()]
    }
    /// Moves parameter `to` by `share` of its way to `from`.
    fn follow(&mut self, to: usize, from: &[f32], share: f32) {
        let range = self.layout.ranges[to];
        let to = &mut self.params[range.piece][range.of()];
        match share < 1.0 {
            true => to.iter_mut().zip(from).for_each(|(to, &from)| *to = blend(*to, from, share)),
            false => to.copy_from_slice(from),
        }
    }
    /// Exchanges the trained weights and state `k`, or the gathered averages. Nothing is copied.
    fn exchange(&mut self, k: usize) {
        let average = if self.average.is_empty() { &mut self.states[k] } else { &mut self.average };
        self.params.iter_mut().zip(average).for_each(|(w, state)| mem::swap(w, state));
    }
    /// Makes the buffers for the gradients of micro-batches, unless they exist.
    pub fn hold_micro(&mut self) -> Result<()> {
        if self.micro.is_empty() {
            self.micro = zeros(&self.layout, "grads of a micro-batch", 0..self.layout.trained)?;
        }
        Ok(())
    }
    /// Makes the buffers for the weights before an update, unless they exist.
    pub fn hold_before(&mut self) -> Result<()> {
        if self.before.is_empty() {
            self.before = zeros(&self.layout, "params before an update", 0..self.layout.trained)?;
        }
        Ok(())
    }
    pub fn set_guard(&mut self, guard: Guard) {
        (self.guard, self.culprit) = (guard, None);
    }
    pub fn holds_micro(&self) -> bool {
        !self.micro.is_empty()
    }
    /// Returns the norms and ratios of the last update, by parameter.
    pub fn trusts(&self) -> Vec<Trust> {
        let mut all = vec![Trust::default(); self.layout.ranges.len()];
        for (part, trusts) in self.trusts.iter().enumerate() {
            self.layout.own(part).zip(trusts).for_each(|((i, _), &trust)| all[i] = trust);
        }
        all
    }
    /// Returns the measured norms and the ratio of each parameter.
    pub fn measured(&self) -> Vec<[f32; MEASURED + 1]> {
        self.norms.iter().zip(self.trusts()).map(|(&[w, g, u], trust)| [w, g, u, trust.ratio as f32]).collect()
    }
    /// Returns the model's state, by piece.
    pub fn assigned(&self) -> &[Vec<f32>] {
        &self.params[self.layout.state_pieces()]
    }
    /// Sets the model's state, by piece.
    pub fn set_assigned(&mut self, pieces: Vec<Vec<f32>>) {
        self.params.splice(self.layout.state_pieces(), pieces);
    }
    /// Sets all gradients, by trained piece.
    pub fn set_grads(&mut self, pieces: Vec<Vec<f32>>) {
        self.grads = pieces;
        self.square();
    }
    /// Sets the gradients, or the weights, of these parameters, which come one behind the other.
    pub fn set_of(&mut self, flat: Flat, params: &[usize], mut values: &[f32]) {
        for &i in params {
            let range = self.layout.ranges[i];
            let all = if flat == Flat::Grads { &mut self.grads } else { &mut self.params };
            let own = &mut all[range.piece][range.of()];
            own.copy_from_slice(values.split_off(..range.len).expect("there is a value for each element"));
            if flat == Flat::Grads {
                self.squares[i] = squares(own);
            }
        }
    }
    /// Computes the sums of squares of all gradients.
    fn square(&mut self) {
        let trained = self.layout.trained;
        for (square, range) in self.squares.iter_mut().zip(&self.layout.ranges).filter(|(_, range)| range.piece < trained) {
            *square = squares(&self.grads[range.piece][range.of()]);
        }
    }

    /// Runs a part of the update of step `step` (counted from 0). `loss` is the loss of the step, if the part needs it.
    /// `weight` is the weight of a micro-batch.
    pub(super) fn update(&mut self, update: Update, piece: usize, step: u64, [loss, weight]: [Option<f32>; 2], rules: Rules) {
        match update {
            Update::Accumulate => self.accumulate(piece, loss.zip(weight)),
            Update::Spread => self.guard.add_spread(self.micro.iter().map(|piece| squares(piece).sum).sum()),
            Update::Check => self.check(step, loss, rules),
            Update::TryAssign => self.try_assign(piece, step),
            Update::Numbers | Update::Look | Update::TryStore | Update::Store => unreachable!("slots are not in the store"),
            Update::Norms => unreachable!("the CPU device finds the norms in the update"),
            Update::Try => self.attempt(piece, step, rules),
            Update::Apply => self.apply(piece, rules),
            Update::Follow => self.follow_average(piece, rules),
            Update::Assign => self.assign(piece),
            Update::Keep => self.before[piece].copy_from_slice(&self.params[piece]),
            Update::Measure => self.measure(piece),
        }
    }
    /// Returns the flat buffer into which an op writes `loc`.
    pub(super) fn target(&mut self, micro: bool, loc: Loc) -> &mut Vec<f32> {
        let piece = |i: usize| self.layout.ranges[i].piece;
        match loc {
            Loc::Grad(i) if micro => &mut self.micro[piece(i)],
            Loc::Grad(i) => &mut self.grads[piece(i)],
            Loc::Next(i) => &mut self.next[piece(i) - self.layout.state_pieces().start],
            _ => unreachable!("only gradients and state are computed into flat buffers"),
        }
    }
    fn accumulate(&mut self, piece: usize, batch: Option<(f32, f32)>) {
        if let (0, Some((loss, weight))) = (piece, batch) {
            self.guard.weigh(weight, loss);
        }
        let (guard, micro) = (self.guard, &self.micro[piece]);
        chunks(&mut self.grads[piece], TASK, |k, sums| guard.add_micro(sums, chunk(micro, TASK, k)));
    }
    /// Decides whether the step counts. Without a given `loss`, the loss is the loss of the micro-batches.
    fn check(&mut self, step: u64, loss: Option<f32>, rules: Rules) {
        if self.guard.near != 0 {
            // The values were set from outside, so nothing is known about their sizes.
            self.sizes = Bounds::default();
        }
        self.guard.near = u32::from(self.sizes.are_near());
        if loss.is_none() {
            self.square();
        }
        let (halted, loss) = (self.guard.halt != 0, loss.unwrap_or(self.guard.loss));
        let trained = || self.squares.iter().zip(&self.layout.ranges).map(|(s, r)| (s, r.status.is_trained()));
        self.guard.judge(step, loss, trained().filter(|t| t.1).map(|t| *t.0).sum(), rules.optimizer.clip());
        if self.guard.halt != 0 && !halted {
            self.culprit = trained().position(|(squares, trained)| trained && !squares.sum.is_finite());
        }
    }
    /// Stops the step if a finite state value would become infinite or NaN.
    fn try_assign(&mut self, piece: usize, step: u64) {
        if matches!(self.guard.trial, 1 | 2) && (0..self.params[piece].len()).any(|i| self.breaks(piece, i)) {
            self.refuse(step, MAX_STATES + 1);
        }
    }
    fn breaks(&self, piece: usize, i: usize) -> bool {
        self.params[piece][i].is_finite() && !self.next[piece - self.layout.state_pieces().start][i].is_finite()
    }
    pub(super) fn refuse(&mut self, step: u64, what: usize) {
        let mut over = self.guard.over;
        over[what] = 1;
        self.guard.refuse(step, over);
    }
    /// Stops the step if the update would make a number infinite or NaN.
    fn attempt(&mut self, number: usize, step: u64, Rules { optimizer, hyper, .. }: Rules) {
        if self.guard.trial != 2 {
            return;
        }
        let (count, part) = (optimizer.kept(), self.layout.parts[number]);
        let mut states = states(self.states[..count].iter_mut(), number);
        let (w, g) = (&mut self.params[part.piece][part.of()], &self.grads[part.piece][part.of()]);
        let runs = if optimizer.has_ratio() { &self.ends } else { &self.runs };
        let over = optimizer.try_update(Settings { hyper, runs: &runs[number] }, &self.guard, w, g, &mut states[..count]);
        (0..=MAX_STATES).filter(|k| over >> k & 1 != 0).for_each(|k| self.refuse(step, k));
    }
    fn apply(&mut self, number: usize, Rules { optimizer, hyper, .. }: Rules) {
        if self.guard.halt != 0 {
            return;
        }
        // An average of the weights is the last of all states.
        let (kept, others) = self.states.split_at_mut(optimizer.kept());
        let average = others.last_mut().filter(|_| optimizer.is_averaged());
        let count = kept.len() + usize::from(average.is_some());
        let (mut states, part) = (states(kept.iter_mut().chain(average), number), self.layout.parts[number]);
        let (w, g) = (&mut self.params[part.piece][part.of()], &self.grads[part.piece][part.of()]);
        let runs = if optimizer.has_ratio() { &self.ends } else { &self.runs };
        let (settings, trusts) = (Settings { hyper, runs: &runs[number] }, &mut self.trusts[number]);
        optimizer.update(settings, &self.guard, w, g, &mut states[..count], trusts);
        if number + 1 < self.layout.elementwise().end {
            return;
        }
        self.sizes = self.sizes.after(optimizer, self.guard.reach(optimizer.clip()), hyper);
        if self.sizes.are_near() || self.guard.strict != 0 {
            // The exact sizes are measured only if the bounds cannot exclude an overflow.
            let (parts, slow) = (self.layout.elementwise().end, self.states.last().filter(|_| optimizer.looks_ahead()));
            let own = self.layout.parts[..parts].iter().map(|part| &self.params[part.piece][part.of()]);
            let weights = own.chain(slow.into_iter().flat_map(|all| &all[..parts]).map(Vec::as_slice));
            self.sizes = Bounds::of(weights, self.states.iter().map(Vec::as_slice), optimizer);
        }
    }
    fn follow_average(&mut self, number: usize, Rules { optimizer, hyper, .. }: Rules) {
        let (average, part) = (self.states.last_mut().filter(|_| self.guard.halt == 0), self.layout.parts[number]);
        average.into_iter().for_each(|average| optimizer.follow(hyper, &mut average[number], &mut self.params[part.piece][part.of()]));
    }
    /// Computes the norms of the parameters of a piece.
    fn measure(&mut self, piece: usize) {
        if self.guard.halt != 0 {
            return;
        }
        let (before, after, grads) = (&mut self.before[piece], &self.params[piece], &self.grads[piece]);
        for (i, range) in self.layout.segments(piece) {
            let (was, is) = (&mut before[range.of()], &after[range.of()]);
            let [weight, gradient] = [&*was, &grads[range.of()]].map(|x| squares(x).sum);
            chunks(was, TASK, |k, was| was.iter_mut().zip(chunk(is, TASK, k)).for_each(|(was, is)| *was = is - *was));
            self.norms[i] = [weight, gradient, squares(was).sum].map(|sum| norm(sum) as f32);
        }
    }
    /// Assigns the next values to a piece of state. A finite number that would become infinite or NaN stays unchanged, and the
    /// guard records the fault.
    fn assign(&mut self, piece: usize) {
        if self.guard.halt != 0 {
            return;
        }
        let bad: Vec<usize> = (0..self.params[piece].len()).filter(|&i| self.breaks(piece, i)).collect();
        let first = self.layout.state_pieces().start;
        let kept: Vec<f32> = bad.iter().map(|&i| self.params[piece][i]).collect();
        self.params[piece].copy_from_slice(&self.next[piece - first]);
        bad.iter().zip(kept).for_each(|(&i, x)| self.params[piece][i] = x);
        self.guard.over[MAX_STATES + 1] |= u32::from(!bad.is_empty());
    }
}

/// Makes the flat buffers of some pieces, filled with zeros.
fn zeros(layout: &Layout, what: &str, pieces: Range<usize>) -> Result<Vec<Vec<f32>>> {
    let piece = |i: usize| host::zeros(&format!("{what} piece {i} [{}]", layout.pieces[i]), layout.pieces[i]);
    pieces.map(piece).collect()
}

/// Returns one piece of each state, and of an average.
fn states<'a>(mut all: impl Iterator<Item = &'a mut Vec<Vec<f32>>>, piece: usize) -> [&'a mut [f32]; MAX_STATES + 1] {
    array::from_fn(|_| all.next().map_or(&mut [][..], |s| &mut s[piece][..]))
}
