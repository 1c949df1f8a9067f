//! The CPU device: it runs plans, in `f32`, on all cores.

use crate::{
    error::Result,
    host::{self, Host, View, ViewMut},
    ops::Op,
    optim::{Bounds, Guard, Hyper, MAX_STATES, Optimizer, Settings, Squares, Trust, squares},
    params::{Layout, Status},
    plan::{Loc, Plan, Step, Update, Work},
    rng::Key,
    scratch,
    shape::{DType, Shape},
    threads::TASK,
};
use rayon::prelude::*;
use std::{array, mem, ops::Range};

/// Runs `f` on a thread that works for the device: all work in it is shared with the others without waking them for each op.
pub fn work<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// The flat buffers of a model on the CPU device, by piece: see [`Layout`].
#[derive(Debug, Default)]
pub struct CpuStore {
    pub layout: Layout,
    pub params: Vec<Vec<f32>>,
    pub grads: Vec<Vec<f32>>,
    /// Of each piece, the elements at which another group begins: see [`Layout::runs`].
    runs: Vec<Vec<(usize, usize)>>,
    /// Likewise, but of every parameter.
    ends: Vec<Vec<(usize, usize)>>,
    /// Of the parameters of each piece, if the rule has ratios.
    trusts: Vec<Vec<Trust>>,
    /// By state, then by piece.
    pub states: Vec<Vec<Vec<f32>>>,
    /// Gradients of a micro-batch, once a plan has them.
    micro: Vec<Vec<f32>>,
    /// What state is to become, of the pieces of state.
    next: Vec<Vec<f32>>,
    /// Of the gradients of each parameter; of state, of what it is to become.
    squares: Vec<Squares>,
    pub guard: Guard,
    /// The first parameter whose gradient was not finite in the first bad step.
    pub culprit: Option<usize>,
    /// How large weights and states are at most.
    sizes: Bounds,
}

/// What an update takes.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub optimizer: &'a Optimizer,
    /// A row for each group.
    pub hyper: &'a [Hyper],
}

impl CpuStore {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) without the memory.
    pub fn new(layout: Layout, states: usize) -> Result<CpuStore> {
        let (all, trained) = (0..layout.pieces.len(), 0..layout.trained);
        let states = (0..states).map(|k| zeros(&layout, &format!("state {k}"), trained.clone())).collect::<Result<_>>()?;
        let (params, grads) = (zeros(&layout, "params", all)?, zeros(&layout, "grads", trained)?);
        let next = zeros(&layout, "next state", layout.state_pieces())?;
        let squares = vec![Squares::default(); layout.ranges.len()];
        let runs = (0..layout.trained).map(|piece| layout.runs(piece)).collect();
        let ends = (0..layout.trained).map(|piece| layout.ends(piece).collect()).collect();
        let trusts = vec![Vec::new(); layout.trained];
        Ok(CpuStore { params, grads, states, next, squares, runs, ends, trusts, layout, ..CpuStore::default() })
    }
    /// Makes the buffers for gradients of micro-batches, if there are none yet.
    pub fn hold_micro(&mut self) -> Result<()> {
        if self.micro.is_empty() {
            self.micro = zeros(&self.layout, "grads of a micro-batch", 0..self.layout.trained)?;
        }
        Ok(())
    }
    pub fn set_guard(&mut self, guard: Guard) {
        (self.guard, self.culprit) = (guard, None);
    }
    pub fn holds_micro(&self) -> bool {
        !self.micro.is_empty()
    }
    /// Norms and ratios in the last update, by parameter.
    pub fn trusts(&self) -> Vec<Trust> {
        let mut all = vec![Trust::default(); self.layout.ranges.len()];
        for (piece, trusts) in self.trusts.iter().enumerate() {
            self.layout.segments(piece).zip(trusts).for_each(|((i, _), &trust)| all[i] = trust);
        }
        all
    }
    /// Sets all gradients, by trained piece.
    pub fn set_grads(&mut self, pieces: Vec<Vec<f32>>) {
        self.grads = pieces;
        self.square();
    }
    /// Finds the squares of all gradients.
    fn square(&mut self) {
        let trained = self.layout.trained;
        for (square, range) in self.squares.iter_mut().zip(&self.layout.ranges).filter(|(_, range)| range.piece < trained) {
            *square = squares(&self.grads[range.piece][range.of()]);
        }
    }

    /// A part of the update of step `step` (from 0), with the loss where it is given, and the weight of a micro-batch.
    fn update(&mut self, update: Update, piece: usize, step: u64, [loss, weight]: [Option<f32>; 2], rules: Rules) {
        match update {
            Update::Accumulate => self.accumulate(piece, loss.zip(weight)),
            Update::Check => self.check(step, loss, rules),
            Update::TryAssign => self.try_assign(piece, step),
            Update::Norms => unreachable!("the CPU device finds the norms in the update"),
            Update::Try => self.attempt(piece, step, rules),
            Update::Apply => self.apply(piece, rules),
            Update::Assign => self.assign(piece),
        }
    }
    /// The flat buffer that an op computes this into.
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
        let Guard { keep, add, .. } = self.guard;
        let sums = self.grads[piece].par_chunks_mut(TASK).zip(self.micro[piece].par_chunks(TASK));
        // Of the first one, the sum holds whatever it held.
        match keep == 0.0 {
            true => sums.for_each(|(sum, micro)| sum.iter_mut().zip(micro).for_each(|(sum, &g)| *sum = add * g)),
            false => sums.for_each(|(sum, micro)| sum.iter_mut().zip(micro).for_each(|(sum, &g)| *sum = keep * *sum + add * g)),
        }
    }
    /// Whether the step counts; its loss is that of its micro-batches where it is not given.
    fn check(&mut self, step: u64, loss: Option<f32>, rules: Rules) {
        if self.guard.near != 0 {
            // They come from outside.
            self.sizes = Bounds::default();
        }
        self.guard.near = u32::from(self.sizes.are_near());
        if loss.is_none() {
            self.square();
        }
        let (halted, loss) = (self.guard.halt != 0, loss.unwrap_or(self.guard.loss));
        let trained = || self.squares.iter().zip(&self.layout.ranges).map(|(s, r)| (s, matches!(r.status, Status::Trained { .. })));
        self.guard.judge(step, loss, trained().filter(|t| t.1).map(|t| *t.0).sum(), rules.optimizer.clip());
        if self.guard.halt != 0 && !halted {
            self.culprit = trained().position(|(squares, trained)| trained && !squares.sum.is_finite());
        }
    }
    /// Stops the step where state would become infinite or NaN, but is not.
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
    /// Stops the step where the update would make a number infinite or NaN.
    fn attempt(&mut self, piece: usize, step: u64, Rules { optimizer, hyper }: Rules) {
        if self.guard.trial != 2 {
            return;
        }
        let (count, mut states) = (self.states.len(), states(&mut self.states, piece));
        let (w, g) = (&mut self.params[piece], &self.grads[piece]);
        let runs = if optimizer.has_ratio() { &self.ends } else { &self.runs };
        let over = optimizer.try_update(Settings { hyper, runs: &runs[piece] }, &self.guard, w, g, &mut states[..count]);
        (0..=MAX_STATES).filter(|k| over >> k & 1 != 0).for_each(|k| self.refuse(step, k));
    }
    fn apply(&mut self, piece: usize, Rules { optimizer, hyper }: Rules) {
        if self.guard.halt != 0 {
            return;
        }
        let (count, mut states) = (self.states.len(), states(&mut self.states, piece));
        let (w, g) = (&mut self.params[piece], &self.grads[piece]);
        let runs = if optimizer.has_ratio() { &self.ends } else { &self.runs };
        let (settings, trusts) = (Settings { hyper, runs: &runs[piece] }, &mut self.trusts[piece]);
        optimizer.update(settings, &self.guard, w, g, &mut states[..count], trusts);
        if piece + 1 < self.layout.trained {
            return;
        }
        self.sizes = self.sizes.after(optimizer, self.guard.reach(optimizer.clip()), hyper);
        if self.sizes.are_near() || self.guard.strict != 0 {
            // Only where one cannot tell does one look.
            let weights = self.params[..self.layout.trained].iter().map(Vec::as_slice);
            self.sizes = Bounds::of(weights, self.states.iter().map(Vec::as_slice), optimizer);
        }
    }
    /// State becomes what was computed for it, but for numbers that would not be finite, which the check of the step hears of.
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

/// A flat buffer of some pieces.
fn zeros(layout: &Layout, what: &str, pieces: Range<usize>) -> Result<Vec<Vec<f32>>> {
    let piece = |i: usize| host::zeros(&format!("{what} piece {i} [{}]", layout.pieces[i]), layout.pieces[i]);
    pieces.map(piece).collect()
}

/// A piece of each state.
fn states(all: &mut [Vec<Vec<f32>>], piece: usize) -> [&mut [f32]; MAX_STATES] {
    let mut all = all.iter_mut();
    array::from_fn(|_| all.next().map_or(&mut [][..], |s| &mut s[piece][..]))
}

/// A plan with its buffers. Nothing is allocated in a step.
pub struct CpuExec {
    plan: Plan,
    slots: Vec<Host<f32>>,
    inputs: Vec<Host<f32>>,
    /// Room for the inputs of an op.
    views: Vec<View<'static, f32>>,
}

/// The memory of these views for others: collecting in place keeps it.
fn emptied<'a>(mut views: Vec<View<f32>>) -> Vec<View<'a, f32>> {
    views.clear();
    views.into_iter().map(|_| unreachable!("there are none")).collect()
}

impl CpuExec {
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) without the memory.
    pub fn new(plan: Plan) -> Result<CpuExec> {
        scratch::prepare()?;
        let slots = plan.slots.iter().map(|s| Host::try_zeros(Shape::from([s.elements]).of(s.dtype))).collect::<Result<_>>()?;
        let inputs = plan.inputs.iter().map(|i| Host::try_zeros(i.shape)).collect::<Result<_>>()?;
        let views = Vec::with_capacity(plan.steps.iter().map(|step| step.inputs.len()).max().unwrap_or(0));
        Ok(CpuExec { plan, slots, inputs, views })
    }
    /// Hands over the data of an input; its shape has been checked.
    pub fn write(&mut self, input: usize, data: &Host<f32>) {
        // Into the memory that is there.
        let to = self.inputs[input].view_mut();
        to.f.copy_from_slice(data.f());
        to.u.copy_from_slice(data.u());
    }
    /// The inputs, to be written in place.
    pub fn inputs(&mut self) -> &mut [Host<f32>] {
        &mut self.inputs
    }
    /// Runs the plan, of a step of that number; without an update where `more` micro-batches follow. `done` hears the number of each
    /// step of the plan when it is done. This is to be called by a thread that works for the device: see [`work`].
    pub fn run(&mut self, store: &mut CpuStore, key: Key, step: u64, more: bool, rules: Option<Rules>, mut done: impl FnMut(usize)) {
        let plan = mem::take(&mut self.plan);
        for (number, part) in plan.steps.iter().filter(|s| !s.is_alias()).enumerate() {
            match &part.work {
                _ if more && !part.phase.is_of_each() => continue,
                Work::Op(op) => self.step(&plan, part, &**op, store, key),
                &Work::Update(update, piece) => {
                    // Behind the guard there are the loss, and the weight of a micro-batch.
                    let behind = part.inputs.iter().skip_while(|input| input.0 != Loc::Control).skip(1);
                    let mut numbers = behind.take_while(|_| matches!(update, Update::Accumulate | Update::Check));
                    let [loss, weight] = [(); 2].map(|()| numbers.next().map(|&(loc, shape)| self.one(&plan, store, loc, shape)));
                    let rules = rules.expect("a plan with an update is run with its optimizer");
                    store.update(update, piece, step, [loss, weight], rules);
                }
                Work::Fetch => unreachable!("batches of the CPU device come from the host"),
            }
            done(number);
        }
        self.plan = plan;
    }
    fn step(&mut self, plan: &Plan, step: &Step, op: &dyn Op, store: &mut CpuStore, key: Key) {
        let (loc, shape) = step.output;
        // The planner never lets an op write what it reads, so the output can be taken out meanwhile.
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
            // While the gradient is in cache.
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
    /// How many outputs there are.
    pub fn outputs(&self) -> usize {
        self.plan.outputs.len()
    }
    /// An output of the last run that is one number.
    pub fn number(&self, store: &CpuStore, output: usize) -> f32 {
        let (loc, shape) = self.plan.outputs[output];
        self.one(&self.plan, store, loc, shape)
    }
    /// An output of the last run.
    pub fn read(&self, store: &CpuStore, output: usize) -> Result<Host<f32>> {
        let (loc, shape) = self.plan.outputs[output];
        let v = self.view(&self.plan, store, loc, shape);
        Ok(match shape.dtype() {
            DType::F32 => Host::new(shape, host::copy("an output", v.f)?),
            DType::U32 => Host::labels(shape, host::copy("an output", v.u)?),
        })
    }
}
