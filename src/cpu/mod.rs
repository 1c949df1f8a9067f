//! The CPU device. It runs plans in `f32` on all cores.

mod store;

use crate::{
    error::Result,
    host::{self, Host, View, ViewMut},
    ops::{Op, all_gather::is_exchange},
    optim::squares,
    plan::{Flat, Loc, Phases, Plan, Step, Update, Work},
    rng::Key,
    scratch,
    shape::{DType, Shape},
    threads::{self, TASK, chunk, chunks, parallel},
};
use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
pub use store::{CpuStore, Rules, Shared};

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
