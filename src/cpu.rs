//! The CPU device. It runs plans in `f32` on all cores.

use crate::{
    error::Result,
    host::{self, Host, View, ViewMut},
    ops::{Op, all_gather::is_exchange},
    optim::{Bounds, Guard, Hyper, MAX_STATES, MEASURED, Optimizer, Settings, Squares, Trust, blend, norm, squares},
    params::{Layout, StateLayout},
    plan::{Flat, Loc, Phases, Plan, Step, Update, Work},
    rng::Key,
    scratch,
    shape::{DType, Shape},
    threads::{self, TASK, chunk, chunks, lock, parallel},
};
use std::{
    array, mem,
    ops::{Deref, DerefMut, Range},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// Runs `f` on a thread of the device's thread pool. The parallel work inside `f` then starts faster, because the other
/// threads are not woken for each op.
///
/// Small work stays on this thread, because waking another thread and waiting for it takes about ten microseconds.
pub fn work<R: Send>(small: bool, f: impl FnOnce() -> R + Send) -> R {
    if small { threads::alone(f) } else { rayon::scope(|_| f()) }
}

/// The most operations of small work. They take a tenth of a millisecond.
const SMALL: u64 = 1 << 21;

/// Returns whether a run of the plan is so small that more threads would not pay.
pub fn is_small(plan: &Plan) -> bool {
    let flops = |step: &Step| match &step.work {
        Work::Op(op) if step.output.1.elements() <= TASK => {
            let inputs: Vec<Shape> = step.inputs.iter().map(|(_, shape)| *shape).collect();
            Some(op.flops(&inputs, step.output.1))
        }
        // Updates divide their work in ways of their own.
        _ => None,
    };
    let steps = plan.steps.iter().filter(|step| !step.is_alias());
    steps.map(flops).try_fold(0u64, |sum, flops| sum.checked_add(flops?)).is_some_and(|sum| sum < SMALL)
}

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
    micro: Vec<Vec<f32>>,
    /// The weights before the update, in steps that measure norms. Empty until a plan needs them.
    before: Vec<Vec<f32>>,
    /// The norms of each parameter's weights, gradients and change, in the last step that measured them.
    norms: Vec<[f32; MEASURED]>,
    /// The next values of the state pieces. A step assigns them at its end.
    next: Vec<Vec<f32>>,
    /// The sum of squares of each parameter's gradient.
    squares: Vec<Squares>,
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
    fn update(&mut self, update: Update, piece: usize, step: u64, [loss, weight]: [Option<f32>; 2], rules: Rules) {
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
    fn target(&mut self, micro: bool, loc: Loc) -> &mut Vec<f32> {
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
    fn refuse(&mut self, step: u64, what: usize) {
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

/// A run of a plan for micro-batches, while its gradients become ready.
pub struct Moment<'a> {
    exec: &'a CpuExec,
    plan: &'a Plan,
    store: &'a CpuStore,
}

impl Moment<'_> {
    /// Returns the sum over the micro-batches so far of the gradients of these parameters, one behind the other, and the weight of the
    /// sum. The gradients and the weight of the current micro-batch must be computed. The sum is written into the memory of `sum`.
    pub fn sum(&self, params: &[usize], mut sum: Vec<f32>) -> (Vec<f32>, f32) {
        let (loc, shape) = self.plan.weight().expect("a plan for micro-batches adds them up");
        let mut guard = self.store.guard;
        guard.weigh(self.exec.one(self.plan, self.store, loc, shape), 0.0);
        let ranges: Vec<_> = params.iter().map(|&i| self.store.layout.ranges[i]).collect();
        sum.clear();
        sum.reserve_exact(ranges.iter().map(|range| range.len).sum());
        for range in ranges {
            let at = sum.len();
            sum.extend_from_slice(&self.store.grads[range.piece][range.of()]);
            let micro = &self.store.micro[range.piece][range.of()];
            chunks(&mut sum[at..], TASK, |k, sums| guard.add_micro(sums, chunk(micro, TASK, k)));
        }
        (sum, guard.weight)
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

/// A loaded plan with its buffers. A step allocates nothing.
pub struct CpuExec {
    plan: Plan,
    slots: Vec<Host<f32>>,
    inputs: Vec<Host<f32>>,
    /// Memory for the list of an op's inputs. It is reused by each op.
    views: Vec<View<'static, f32>>,
    /// The plan step whose exchange has given the values of all ranks. The next run goes on from there.
    received: Option<usize>,
}

/// Empties a list of views and returns it with another lifetime. Collecting in place reuses the memory.
fn emptied<'a>(mut views: Vec<View<f32>>) -> Vec<View<'a, f32>> {
    views.clear();
    views.into_iter().map(|_| unreachable!("there are none")).collect()
}

impl CpuExec {
    /// Loads a plan and makes its buffers.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if there is not enough memory.
    pub fn new(plan: Plan) -> Result<CpuExec> {
        scratch::prepare()?;
        let slots = plan.slots.iter().map(|s| Host::try_zeros(Shape::from([s.elements]).of(s.dtype))).collect::<Result<_>>()?;
        let inputs = plan.inputs.iter().map(|i| Host::try_zeros(i.shape)).collect::<Result<_>>()?;
        let views = Vec::with_capacity(plan.steps.iter().map(|step| step.inputs.len()).max().unwrap_or(0));
        Ok(CpuExec { plan, slots, inputs, views, received: None })
    }
    /// Copies the data of an input. The caller has checked the shape.
    pub fn write(&mut self, input: usize, data: &Host<f32>) {
        // The copy reuses the memory of the input.
        let to = self.inputs[input].view_mut();
        to.f.copy_from_slice(data.f());
        to.u.copy_from_slice(data.u());
    }
    /// Returns the inputs, so that the caller can write them in place.
    pub fn inputs(&mut self) -> &mut [Host<f32>] {
        &mut self.inputs
    }
    /// Runs the given phases of the plan for step `step`. `done` is called with the number of each plan step when the plan step is done. The
    /// caller must be on a thread of the device: see [`work`].
    ///
    /// The run pauses at an exchange with other ranks and returns the number of that plan step. After [`receive`](CpuExec::receive), the
    /// next call goes on from there.
    pub fn run(
        &mut self,
        store: &mut CpuStore,
        key: Key,
        step: u64,
        phases: Phases,
        rules: Option<Rules>,
        mut done: impl FnMut(usize, &Moment),
    ) -> Option<usize> {
        let plan = mem::take(&mut self.plan);
        let (received, mut paused) = (self.received.take(), None);
        for (number, part) in plan.steps.iter().filter(|s| !s.is_alias()).enumerate().skip(received.unwrap_or(0)) {
            match &part.work {
                _ if !phases.have(part.phase) => continue,
                Work::Op(op) if is_exchange(&**op) => {
                    if received != Some(number) {
                        paused = Some(number);
                        break;
                    }
                }
                Work::Op(op) => self.step(&plan, part, &**op, store, key),
                Work::Update(Update::Numbers, _) => {
                    self.numbers(part, store, rules.expect("a plan with an update is run with its optimizer"))
                }
                &Work::Update(Update::TryStore, what) => self.try_store(&plan, part, store, step, what),
                Work::Update(Update::Store, _) => self.store(part, store),
                &Work::Update(update, piece) => {
                    // The guard is followed by the loss and the weight of a micro-batch.
                    let behind = part.inputs.iter().skip_while(|input| input.0 != Loc::Control).skip(1);
                    let mut numbers = behind.take_while(|_| matches!(update, Update::Accumulate | Update::Check));
                    let [loss, weight] = [(); 2].map(|()| numbers.next().map(|&(loc, shape)| self.one(&plan, store, loc, shape)));
                    let rules = rules.expect("a plan with an update is run with its optimizer");
                    store.update(update, piece, step, [loss, weight], rules);
                }
                Work::Fetch => unreachable!("batches of the CPU device come from the host"),
            }
            done(number, &Moment { exec: self, plan: &plan, store });
        }
        self.plan = plan;
        paused
    }
    /// Returns the values that this rank sends in the exchange at a plan step.
    pub fn sent(&self, store: &CpuStore, number: usize) -> Vec<f32> {
        let step = self.plan.steps.iter().filter(|step| !step.is_alias()).nth(number).expect("the run paused there");
        self.view(&self.plan, store, step.inputs[0].0, step.inputs[0].1).f.to_vec()
    }
    /// Takes the values of all ranks in the exchange at a plan step.
    pub fn receive(&mut self, number: usize, all: &[f32]) {
        let step = self.plan.steps.iter().filter(|step| !step.is_alias()).nth(number).expect("the run paused there");
        let Loc::Slot(slot) = step.output.0 else { unreachable!("no gradient and no state is an exchanged tensor itself") };
        self.slots[slot].view_mut().f[..all.len()].copy_from_slice(all);
        self.received = Some(number);
    }
    fn step(&mut self, plan: &Plan, step: &Step, op: &dyn Op, store: &mut CpuStore, key: Key) {
        let (loc, shape) = step.output;
        // The planner never lets an op write a buffer that the op reads. So the output can be taken out during the op.
        let (mut taken, start) = match loc {
            Loc::Slot(i) => (mem::replace(&mut self.slots[i], Host::new([0], Vec::new())), 0),
            Loc::Grad(i) | Loc::Next(i) => {
                let start = store.layout.ranges[i].start;
                (Host::new([0], mem::take(store.target(plan.micro, loc))), start)
            }
            _ => unreachable!("ops write slots and gradients"),
        };
        let room = mem::take(&mut self.views);
        self.views = {
            let whole = taken.view_mut();
            let mut y = match shape.dtype() {
                DType::F32 => ViewMut { shape, f: &mut whole.f[start..start + shape.elements()], u: &mut [] },
                DType::U32 => ViewMut { shape, f: &mut [], u: &mut whole.u[..shape.elements()] },
            };
            let mut x = emptied(room);
            x.extend(step.inputs.iter().map(|&(l, s)| self.view(plan, store, l, s)));
            op.cpu(&x, &mut y, key);
            let room = emptied(x);
            // The squares are computed while the gradient is in the cache.
            if let (Loc::Grad(i), false) = (loc, plan.micro) {
                store.squares[i] = squares(y.f);
            }
            room
        };
        match (loc, taken.data) {
            (Loc::Grad(_) | Loc::Next(_), crate::host::Data::Float(v)) => *store.target(plan.micro, loc) = v,
            (Loc::Slot(i), data) => self.slots[i] = Host { shape: taken.shape, data },
            _ => unreachable!("gradients are floats"),
        }
    }
    /// Copies the factors of the gradients and the hyperparameters of whole parameters to a slot.
    fn numbers(&mut self, part: &Step, store: &CpuStore, rules: Rules) {
        let (Loc::Slot(slot), shape) = part.output else { unreachable!("the numbers have a slot") };
        let to = &mut self.slots[slot].view_mut().f[..shape.elements()];
        let hyper = rules.whole.as_flattened().iter().map(|&h| h as f32);
        to.iter_mut().zip([store.guard.factor, store.guard.scale].into_iter().chain(hyper)).for_each(|(to, x)| *to = x);
    }
    /// Stops the step if a finite number would become infinite or NaN.
    fn try_store(&self, plan: &Plan, part: &Step, store: &mut CpuStore, step: u64, what: usize) {
        if !matches!(store.guard.trial, 1 | 2) {
            return;
        }
        let [was, is] = [0, 1].map(|i| self.view(plan, store, part.inputs[i].0, part.inputs[i].1).f);
        let breaks = AtomicBool::new(false);
        parallel(is.len().div_ceil(TASK), &|k| {
            if chunk(was, TASK, k).iter().zip(chunk(is, TASK, k)).any(|(was, is)| was.is_finite() && !is.is_finite()) {
                breaks.store(true, Relaxed);
            }
        });
        if breaks.into_inner() {
            store.refuse(step, what);
        }
    }
    /// Stores a new weight or state.
    fn store(&mut self, part: &Step, store: &mut CpuStore) {
        if store.guard.halt != 0 {
            return;
        }
        let [(to, _), (Loc::Slot(slot), shape), ..] = part.inputs[..] else { unreachable!("new values are in slots") };
        let from = &self.slots[slot].f()[..shape.elements()];
        let to = match to {
            Loc::Param(i) => &mut store.params[store.layout.ranges[i].piece][store.layout.ranges[i].of()],
            Loc::Of(Flat::State(k), i) => {
                let (range, _) = store.layout.states[k].ranges[i].expect("the parameter has this state");
                &mut store.states[k][range.piece][range.of()]
            }
            _ => unreachable!("weights and states are stored"),
        };
        chunks(to, TASK, |k, to| to.copy_from_slice(chunk(from, TASK, k)));
    }
    fn view<'a>(&'a self, plan: &'a Plan, store: &'a CpuStore, loc: Loc, shape: Shape) -> View<'a, f32> {
        let n = shape.elements();
        let range = |buffers: &'a [Vec<f32>], i: usize| {
            let r = store.layout.ranges[i];
            View { shape, f: &buffers[r.piece][r.start..r.start + n], u: &[] }
        };
        let whole = |h: &'a Host<f32>| match shape.dtype() {
            DType::F32 => View { shape, f: &h.f()[..n], u: &[] },
            DType::U32 => View { shape, f: &[], u: &h.u()[..n] },
        };
        match loc {
            Loc::Slot(i) => whole(&self.slots[i]),
            Loc::Input(i) => whole(&self.inputs[i]),
            Loc::Constant(i) => whole(&plan.constants[i]),
            Loc::Param(i) => range(&store.params, i),
            Loc::Of(Flat::Grads, i) => range(&store.grads, i),
            Loc::Of(Flat::State(k), i) => {
                let (r, _) = store.layout.states[k].ranges[i].expect("the parameter has this state");
                View { shape, f: &store.states[k][r.piece][r.start..r.start + n], u: &[] }
            }
            Loc::Grad(i) => range(if plan.micro { &store.micro } else { &store.grads }, i),
            Loc::Next(i) => {
                let r = store.layout.ranges[i];
                View { shape, f: &store.next[r.piece - store.layout.state_pieces().start][r.start..r.start + n], u: &[] }
            }
            _ => unreachable!("ops read tensors of the graph"),
        }
    }
    fn one(&self, plan: &Plan, store: &CpuStore, loc: Loc, shape: Shape) -> f32 {
        let v = self.view(plan, store, loc, shape);
        v.f.first().copied().unwrap_or_else(|| v.u[0] as f32)
    }
    /// Returns the number of outputs.
    pub fn outputs(&self) -> usize {
        self.plan.outputs.len()
    }
    /// Returns an output of the last run that is a single number.
    pub fn number(&self, store: &CpuStore, output: usize) -> f32 {
        let (loc, shape) = self.plan.outputs[output];
        self.one(&self.plan, store, loc, shape)
    }
    /// Returns an output of the last run.
    pub fn read(&self, store: &CpuStore, output: usize) -> Result<Host<f32>> {
        let (loc, shape) = self.plan.outputs[output];
        let v = self.view(&self.plan, store, loc, shape);
        Ok(match shape.dtype() {
            DType::F32 => Host::new(shape, host::copy("an output", v.f)?),
            DType::U32 => Host::labels(shape, host::copy("an output", v.u)?),
        })
    }
}
