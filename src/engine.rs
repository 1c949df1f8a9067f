//! A plan that is loaded on a device of any kind. The trainer and [`crate::Compiled`] run it.

use crate::{
    cpu,
    device::Device,
    error::{Error, Result},
    gpu::{self, Counters, ExecOptions, FlipShift, Resident, StepRow},
    graph::ParamDef,
    host::{self, Host},
    optim::{Groups, Guard, Hyper, MEASURED, Optimizer, Parts, ROW, Readouts, Trust, Whole, blend},
    params::{Layout, Owners, Status},
    plan::{Flat, Gather, Loc, Memory, Plan},
    profile::{self, KernelTime, StepTimes},
    rng::Key,
    threads::lock,
};
use std::{
    mem,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};

/// An optimizer and the parameter groups of a model.
#[derive(Clone, Debug)]
pub(crate) struct Updater {
    pub optimizer: Optimizer,
    pub groups: Groups,
    pub readouts: Readouts,
    /// The number of steps that the trainer had made when it got the optimizer.
    pub since: u64,
    /// The update of whole parameters, for a rule that is written with tensors.
    pub whole: Option<Whole>,
    /// The ranks that share the update. `None` if this rank updates all parameters.
    pub owners: Option<Owners>,
}

impl Updater {
    /// Makes the groups of these parameters for the optimizer.
    pub fn new(optimizer: Optimizer, params: &[ParamDef]) -> Result<Updater> {
        let groups = optimizer.groups(params)?;
        Ok(Updater { optimizer, groups, readouts: Readouts::default(), since: 0, whole: None, owners: None })
    }
    /// Plans the update of whole parameters. Its kernels are measured.
    pub async fn prepare(&mut self, device: &Device, params: &[ParamDef]) -> Result<()> {
        let options = device.plan_options();
        self.whole = match self.optimizer.whole_draft(params, &self.groups, self.owners.as_ref(), &options)? {
            Some(draft) => Some(draft.lower(async |draft| device.lower(draft, &options).await).await?),
            None => None,
        };
        Ok(())
    }
    /// Plans the update of whole parameters, but measures nothing.
    pub fn sketch(&mut self, device: &Device, params: &[ParamDef]) -> Result<()> {
        let options = device.plan_options();
        let draft = self.optimizer.whole_draft(params, &self.groups, self.owners.as_ref(), &options)?;
        self.whole = draft.map(|draft| draft.lowered(|draft| draft.lower(&options)));
        Ok(())
    }
    /// Returns the number of rows of hyperparameters for the update of elements. They come first.
    fn elementwise(&self) -> usize {
        self.rows() - self.groups.whole
    }
    /// Returns the number of rows of hyperparameters of a step.
    pub fn rows(&self) -> usize {
        self.optimizer.rows(self.groups.settings.len())
    }
    /// Returns the number of a step in the formulas of the rule, which count from 1. `step` counts from 0.
    pub fn count(&self, step: u64) -> u64 {
        step.saturating_sub(self.since) + 1
    }
    /// Returns the learning rate of a step (counted from 0).
    pub fn lr(&self, step: u64) -> f64 {
        self.optimizer.lr(self.count(step))
    }
    /// Adds the hyperparameters of a step (counted from 0) to `rows`.
    fn add_hyper(&self, step: u64, rows: &mut Vec<Hyper>) {
        let (elementwise, whole) = self.groups.settings.split_at(self.groups.settings.len() - self.groups.whole);
        rows.extend(self.optimizer.hyper(self.count(step), elementwise));
        rows.extend(self.optimizer.whole_hyper(self.count(step), whole));
    }
    /// Returns whether steps with these hyperparameters cannot overflow if all numbers are far from the largest. Whole parameters do not
    /// count, because each of their steps is tried.
    fn is_bounded(&self, hyper: &[Hyper]) -> bool {
        hyper.chunks(self.rows().max(1)).all(|rows| self.optimizer.is_bounded(&rows[..self.elementwise()]))
    }
    /// Adds the update to a plan that computes gradients. The first output of the plan must be the loss. In a plan for
    /// micro-batches, `weight` is the place of the weight of each micro-batch.
    pub fn append(&self, device: &Device, plan: &mut Plan, layout: &Layout, weight: Option<Loc>) -> Result<()> {
        let caps = device.as_gpu().map(|gpu| gpu.caps());
        let parts = Parts { groups: &self.groups, whole: self.whole.as_ref(), readouts: self.readouts };
        self.optimizer.append(plan, layout, parts, weight, caps)
    }
}

/// Returns the layout of the parameters on a device. [`Store::new`] makes buffers of this layout.
pub(crate) fn layout(device: &Device, params: &[ParamDef], update: Option<&Updater>) -> Result<Layout> {
    let [piece, buffer] =
        device.as_gpu().map_or([usize::MAX; 2], |gpu| [gpu.caps().max_binding_bytes, gpu.max_buffer_bytes()].map(|b| (b / 4) as usize));
    match update {
        Some(update) => update.optimizer.layout(params, &update.groups, update.owners.as_ref(), piece, buffer),
        None => Layout::new(params, &Status::plain(params), piece, buffer),
    }
}

/// A data set on a GPU from which steps fetch their batches, and the random changes to its images.
pub(crate) type Fed<'a> = (&'a Resident, Option<FlipShift>);

/// Returns the device memory that training with `plan` needs. The ring stores the first `ring` outputs of each step. The data
/// sets take `data` bytes. Nothing is allocated.
///
/// # Errors
/// [`Error::Limit`] if the plan could not be loaded.
pub(crate) fn memory(
    device: &Device,
    plan: &Plan,
    layout: &Layout,
    update: &Updater,
    ring: usize,
    fed: Option<Fed>,
    data: u64,
) -> Result<Memory> {
    let states = update.optimizer.states();
    let names: Vec<&str> = states.iter().map(|s| s.name).collect();
    let kept = match device.as_gpu() {
        Some(gpu) => {
            gpu::GpuRing::all_bytes(ring + update.readouts.tail(), RING) + gpu::GpuStore::control_bytes(gpu, layout, update.rows())
        }
        None => (RING * (ring + update.readouts.tail()) * 4 + size_of::<Guard>()) as u64,
    };
    let measurements = measurements(update.readouts);
    let norms = match measurements {
        0 => 0,
        // The weights before the update, and the rows in the ring and in its read-back buffer.
        n => 4 * (layout.trained_elements() + MEASURED * layout.ranges.len()) as u64 + 2 * gpu::GpuRing::norm_bytes(layout.ranges.len(), n),
    };
    let kept = kept + norms;
    Ok(Memory::new(plan, layout, &names, tables(device, plan, fed)? + kept, data))
}
/// Returns the bytes that a loaded plan needs in addition to the flat buffers of the model.
///
/// # Errors
/// The errors of [`memory`].
pub(crate) fn plan_bytes(device: &Device, plan: &Plan, fed: Option<Fed>) -> Result<u64> {
    Ok(of_plan(plan) + tables(device, plan, fed)?)
}
/// Returns the bytes of the slots, inputs and constants.
fn of_plan(plan: &Plan) -> u64 {
    let inputs: u64 = plan.inputs.iter().map(|i| i.shape.bytes()).sum();
    plan.activation_bytes() + inputs + plan.constants.iter().map(|c| c.shape.bytes()).sum::<u64>()
}
fn tables(device: &Device, plan: &Plan, fed: Option<Fed>) -> Result<u64> {
    let Some(gpu) = device.as_gpu() else { return Ok(0) };
    let fetch = fed.map_or(Ok(Vec::new()), |(data, augment)| data.steps(&plan.inputs, augment, gpu.caps()))?;
    gpu::needs(gpu, plan, &fetch)
}

/// The flat buffers of a model. Every plan of the model uses the same buffers.
#[derive(Clone)]
pub(crate) struct Store {
    flat: StoreOn,
    /// Whether a step was run or values were set. Before that, state has no meaning (see `Graph::require_step`).
    trained: Arc<AtomicBool>,
    /// The value of [`Guard::strict`] on the device.
    strict: Arc<AtomicBool>,
}

#[derive(Clone)]
enum StoreOn {
    Cpu(cpu::Shared),
    Gpu(Arc<gpu::GpuStore>),
}

impl Store {
    /// Makes the flat buffers for `params` and fills them with the initial values.
    pub async fn new(device: &Device, params: &[ParamDef], update: Option<&Updater>, seed: u64) -> Result<Store> {
        let layout = layout(device, params, update)?;
        let flat = match device.as_gpu() {
            None => StoreOn::Cpu(cpu::Shared::new(cpu::CpuStore::new(layout)?)),
            Some(gpu) => StoreOn::Gpu(Arc::new(gpu::GpuStore::new(gpu, layout, update.map_or(0, Updater::rows)).await?)),
        };
        let store = Store { flat, trained: Arc::default(), strict: Arc::default() };
        store.reset(params, update, seed)?;
        Ok(store)
    }
    /// Sets the initial parameters and optimizer states.
    pub fn reset(&self, params: &[ParamDef], update: Option<&Updater>, seed: u64) -> Result<()> {
        let layout = self.layout();
        let mut flat: Vec<Vec<f32>> = layout.pieces.iter().map(|&n| host::zeros("initial values", n)).collect::<Result<_>>()?;
        for (param, range) in params.iter().zip(&layout.ranges) {
            let values = param.init.values(param.shape, seed, &param.name)?;
            flat[range.piece][range.start..range.start + range.len].copy_from_slice(&values);
        }
        self.write_params(flat)?;
        for (k, state) in update.iter().flat_map(|u| u.optimizer.states()).enumerate() {
            let mut start: Vec<Vec<f32>> = layout.states[k].pieces.iter().map(|&n| host::zeros(state.name, n)).collect::<Result<_>>()?;
            if state.start != 0.0 {
                start.iter_mut().for_each(|piece| piece.fill(state.start));
            }
            self.write_state(k, start)?;
        }
        self.trained.store(false, Relaxed);
        self.write_guard(Guard::default())
    }
    /// Returns whether a step was run since the last reset, or [`mark_trained`](Store::mark_trained) was called.
    pub fn is_trained(&self) -> bool {
        self.trained.load(Relaxed)
    }
    /// Records that the parameters differ from the initial parameters.
    pub fn mark_trained(&self) {
        self.set_trained(true);
    }
    pub fn set_trained(&self, trained: bool) {
        self.trained.store(trained, Relaxed);
    }
    pub fn layout(&self) -> Layout {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().layout.clone(),
            StoreOn::Gpu(s) => s.layout().clone(),
        }
    }
    pub fn write_params(&self, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().params = pieces,
            StoreOn::Gpu(s) => s.write_params(&pieces)?,
        }
        self.set_near()
    }
    pub async fn read_params(&self) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            StoreOn::Cpu(s) => copies("params", &s.lock().params),
            StoreOn::Gpu(s) => s.read_params().await,
        }
    }
    /// Copies the parameters and all states of the optimizer, after all steps so far. On a GPU the device makes the copy while the host
    /// goes on.
    pub async fn copy(&self) -> Result<StoreCopy> {
        Ok(match &self.flat {
            StoreOn::Cpu(s) => {
                let store = s.lock();
                let states = store.states.iter().map(|state| copies("state", state));
                StoreCopy::Cpu([copies("params", &store.params)].into_iter().chain(states).collect::<Result<_>>()?)
            }
            StoreOn::Gpu(s) => StoreCopy::Gpu(s.copy().await?),
        })
    }
    /// Returns a store in which state `k` stands in place of the trained weights. Both share all of their memory.
    pub fn averaged(&self, k: usize) -> Store {
        let flat = match &self.flat {
            StoreOn::Cpu(s) => StoreOn::Cpu(s.averaged(k)),
            StoreOn::Gpu(s) => StoreOn::Gpu(Arc::new(s.averaged(k))),
        };
        Store { flat, trained: self.trained.clone(), strict: self.strict.clone() }
    }
    /// Sets the averages of all trained weights, for a store that has a part of them alone. [`averaged`](Store::averaged) shows them.
    pub async fn write_average(&self, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().average = pieces,
            StoreOn::Gpu(s) => s.write_average(&pieces).await?,
        }
        Ok(())
    }
    /// Returns whether the store has buffers for averages from other ranks.
    pub fn holds_average(&self) -> bool {
        match &self.flat {
            StoreOn::Cpu(s) => !s.lock().average.is_empty(),
            StoreOn::Gpu(s) => s.holds_average(),
        }
    }
    /// Sets state `k` to the trained weights.
    pub fn start_average(&self, k: usize) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().start_average(k),
            StoreOn::Gpu(s) => s.start_average(k)?,
        }
        Ok(())
    }
    /// Moves parameters by `share` of their way to those of another store. A share of 1 copies them. Each pair has the number of a
    /// parameter there and here.
    pub async fn copy_from(&self, from: &Store, pairs: &[(usize, usize)], share: f32) -> Result<()> {
        match (&self.flat, &from.flat) {
            (StoreOn::Gpu(to), StoreOn::Gpu(from)) if Arc::ptr_eq(to, from) => return Ok(()),
            (StoreOn::Gpu(to), StoreOn::Gpu(from)) if share == 1.0 && to.copy_from(from, pairs)? => {}
            (StoreOn::Gpu(to), StoreOn::Gpu(from)) if share < 1.0 && to.soft_update(from, pairs, share).await? => {}
            (StoreOn::Cpu(to), StoreOn::Cpu(from)) => to.copy_from(from, pairs, share)?,
            // Two devices.
            _ => {
                let (theirs, ours) = (from.layout().ranges, self.layout().ranges);
                let source = from.read_params().await?;
                let mut flat = self.read_params().await?;
                for &(at, to) in pairs {
                    let (to, from) = (&mut flat[ours[to].piece][ours[to].of()], &source[theirs[at].piece][theirs[at].of()]);
                    match share < 1.0 {
                        true => to.iter_mut().zip(from).for_each(|(to, &from)| *to = blend(*to, from, share)),
                        false => to.copy_from_slice(from),
                    }
                }
                self.write_params(flat)?;
            }
        }
        if from.is_trained() {
            self.mark_trained();
        }
        // No update reads frozen parameters, so their sizes do not matter.
        if pairs.iter().all(|&(_, to)| self.is_frozen(to)) { Ok(()) } else { self.set_near() }
    }
    fn is_frozen(&self, i: usize) -> bool {
        let status = match &self.flat {
            StoreOn::Cpu(s) => s.lock().layout.ranges[i].status,
            StoreOn::Gpu(s) => s.layout().ranges[i].status,
        };
        status == Status::Frozen
    }
    pub fn write_grads(&self, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().set_grads(pieces),
            StoreOn::Gpu(s) => s.write_grads(&pieces)?,
        }
        Ok(())
    }
    /// Sets the gradients of these parameters, which come one behind the other.
    pub fn write_grads_of(&self, params: &[usize], values: &[f32]) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().set_grads_of(params, values),
            StoreOn::Gpu(s) => s.write_grads_of(params, values)?,
        }
        Ok(())
    }
    /// Returns the gradients, or the weights, of these parameters, one behind the other.
    pub async fn read_of(&self, flat: Flat, params: &[usize]) -> Result<Vec<f32>> {
        match &self.flat {
            StoreOn::Cpu(s) => {
                let store = s.lock();
                let all = if flat == Flat::Grads { &store.grads } else { &store.params };
                let ranges = params.iter().map(|&i| store.layout.ranges[i]);
                Ok(ranges.flat_map(|range| &all[range.piece][range.of()]).copied().collect())
            }
            StoreOn::Gpu(s) => s.read_of(flat, params).await,
        }
    }
    /// Sets the weights of parameters that another rank updates. The update of this rank does not read them, so their sizes do not matter.
    pub fn write_weights_of(&self, params: &[usize], values: &[f32]) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => {
                let (mut store, mut at) = (s.lock(), 0);
                for range in params.iter().map(|&i| store.layout.ranges[i]).collect::<Vec<_>>() {
                    store.params[range.piece][range.of()].copy_from_slice(&values[at..at + range.len]);
                    at += range.len;
                }
                Ok(())
            }
            StoreOn::Gpu(s) => s.write_weights_of(params, values),
        }
    }
    pub async fn read_grads(&self) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            StoreOn::Cpu(s) => copies("grads", &s.lock().grads),
            StoreOn::Gpu(s) => s.read_grads().await,
        }
    }
    /// Sets the model's state, by piece.
    pub fn write_assigned(&self, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().set_assigned(pieces),
            StoreOn::Gpu(s) => s.write_assigned(&pieces)?,
        }
        Ok(())
    }
    /// Returns the model's state, by piece.
    pub async fn read_assigned(&self) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            StoreOn::Cpu(s) => copies("state", s.lock().assigned()),
            StoreOn::Gpu(s) => s.read_assigned().await,
        }
    }
    pub fn write_state(&self, k: usize, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().states[k] = pieces,
            StoreOn::Gpu(s) => s.write_state(k, &pieces)?,
        }
        self.set_near()
    }
    pub async fn read_state(&self, k: usize) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            StoreOn::Cpu(s) => copies("state", &s.lock().states[k]),
            StoreOn::Gpu(s) => s.read_state(k).await,
        }
    }
    /// Records that parameters or states come from outside and may have any size.
    fn set_near(&self) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().guard.near = 1,
            StoreOn::Gpu(s) => s.write_near(true)?,
        }
        Ok(())
    }
    /// Records whether the rule may overflow with the hyperparameters of the next steps.
    fn set_strict(&self, strict: bool) -> Result<()> {
        if self.strict.swap(strict, Relaxed) == strict {
            return Ok(());
        }
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().guard.strict = strict.into(),
            StoreOn::Gpu(s) => s.write_strict(strict)?,
        }
        Ok(())
    }
    /// Discards the gradients of micro-batches that were summed for the next step.
    pub fn forget_micro(&self) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().guard.weight = 0.0,
            StoreOn::Gpu(s) => s.forget_micro()?,
        }
        Ok(())
    }
    pub fn write_guard(&self, guard: Guard) -> Result<()> {
        self.strict.store(guard.strict != 0, Relaxed);
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().set_guard(guard),
            StoreOn::Gpu(s) => s.write_guard(bytemuck::cast_slice(&[guard]))?,
        }
        Ok(())
    }
    pub async fn read_guard(&self) -> Result<Guard> {
        match &self.flat {
            StoreOn::Cpu(s) => Ok(s.lock().guard),
            StoreOn::Gpu(s) => Ok(guard_of(&s.read_guard().await?)),
        }
    }
    /// Returns the first parameter whose gradient was not finite in a bad step, if there is such a parameter.
    pub async fn culprit(&self) -> Result<Option<usize>> {
        match &self.flat {
            StoreOn::Cpu(s) => Ok(s.lock().culprit),
            StoreOn::Gpu(s) => s.culprit().await,
        }
    }
    /// Returns the norms and ratios of the last update, by parameter.
    pub async fn trusts(&self) -> Result<Vec<Trust>> {
        match &self.flat {
            StoreOn::Cpu(s) => Ok(s.lock().trusts()),
            StoreOn::Gpu(s) => s.trusts().await,
        }
    }
    /// Returns whether the store has buffers for the gradients of micro-batches.
    pub fn holds_micro(&self) -> bool {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().holds_micro(),
            StoreOn::Gpu(s) => s.holds_micro(),
        }
    }
}

/// A copy of the parameters and of each state of the optimizer, by piece.
pub(crate) enum StoreCopy {
    Cpu(Vec<Vec<Vec<f32>>>),
    Gpu(gpu::GpuCopy),
}

impl StoreCopy {
    /// Returns whether the copy is made. Never waits.
    pub fn is_ready(&self) -> Result<bool> {
        match self {
            StoreCopy::Cpu(_) => Ok(true),
            StoreCopy::Gpu(copy) => copy.is_ready(),
        }
    }
    /// Waits for the copy and returns it.
    pub fn take(self) -> Result<Vec<Vec<Vec<f32>>>> {
        match self {
            StoreCopy::Cpu(flat) => Ok(flat),
            StoreCopy::Gpu(copy) => copy.take(),
        }
    }
}

fn copies(what: &str, pieces: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    pieces.iter().map(|piece| host::copy(what, piece)).collect()
}

/// Returns the number of measurements of norms in a ring. Each half of the ring may have the steps of `RING / 2` batches.
fn measurements(readouts: Readouts) -> usize {
    readouts.norms.map_or(0, |every| 2 * ((RING as u64 / 2).div_ceil(every) as usize))
}

/// The number of batches in a ring. Their losses and metrics stay in the ring until they are read.
pub(crate) const RING: usize = 1024;

/// A ring buffer. The plans of a model write the first outputs and the gradient norms of each batch into it.
#[derive(Clone)]
pub(crate) enum Ring {
    Cpu { kept: Arc<Mutex<CpuRing>>, store: cpu::Shared },
    Gpu(Arc<gpu::GpuRing>),
}

#[derive(Default)]
pub(crate) struct CpuRing {
    outputs: usize,
    rows: Vec<Vec<f32>>,
    /// The measured norms and the ratio of each parameter, a row for each measurement.
    norms: Vec<Vec<[f32; MEASURED + 1]>>,
    /// The first batch, the number of batches and the measurements of the pending read.
    asked: Option<(u64, usize, Range<u64>)>,
}

/// The rows that batches wrote into a ring, and the guard after the last batch.
pub(crate) struct RingRows {
    pub rows: Vec<Vec<f32>>,
    /// For each measurement, the norms of each parameter's weights, gradients and change, and its ratio.
    pub norms: Vec<Vec<[f32; MEASURED + 1]>>,
    pub guard: Guard,
}

impl Ring {
    /// Makes a ring for [`RING`] batches with `outputs` outputs each, and for what `readouts` measure.
    pub async fn new(store: &Store, outputs: usize, readouts: Readouts) -> Result<Ring> {
        let measurements = measurements(readouts);
        Ok(match &store.flat {
            StoreOn::Cpu(store) => {
                let (rows, norms) = (vec![vec![f32::NAN; outputs + readouts.tail()]; RING], vec![Vec::new(); measurements]);
                let ring = CpuRing { outputs, rows, norms, asked: None };
                Ring::Cpu { kept: Arc::new(Mutex::new(ring)), store: store.clone() }
            }
            StoreOn::Gpu(store) => Ring::Gpu(Arc::new(gpu::GpuRing::new(store, outputs, RING, readouts, measurements).await?)),
        })
    }
    /// Makes an empty ring of the same size for another store.
    pub async fn again(&self, store: &Store, readouts: Readouts) -> Result<Ring> {
        Ring::new(store, self.outputs(), readouts).await
    }
    /// Returns the number of outputs in a row.
    pub fn outputs(&self) -> usize {
        match self {
            Ring::Cpu { kept, .. } => lock(kept).outputs,
            Ring::Gpu(ring) => ring.outputs(),
        }
    }
    /// Asks for the rows of the batches `first..first + count` and of the measurements `norms`. `count` is at most [`RING`]. All
    /// these batches must be queued, and the previous read must be complete.
    pub fn ask(&self, first: u64, count: usize, norms: Range<u64>) -> Result<()> {
        match self {
            Ring::Cpu { kept, .. } => lock(kept).asked = Some((first, count, norms)),
            Ring::Gpu(ring) => ring.ask(first, count, norms)?,
        }
        Ok(())
    }
    /// Returns the rows of the pending read if they have arrived. Never waits.
    pub fn take(&self) -> Result<Option<RingRows>> {
        match self {
            Ring::Cpu { kept, store } => {
                let mut ring = lock(kept);
                let Some((first, count, norms)) = ring.asked.take() else { return Ok(None) };
                let measured = ring.norms.len() as u64;
                let norms = norms.map(|k| ring.norms[(k % measured) as usize].clone()).collect();
                let rows = (first..first + count as u64).map(|s| ring.rows[(s % RING as u64) as usize].clone()).collect();
                Ok(Some(RingRows { rows, norms, guard: store.lock().guard }))
            }
            Ring::Gpu(ring) => Ok(ring.take()?.map(RingRows::of)),
        }
    }
    /// Waits for the rows of the pending read and returns them.
    pub async fn wait(&self) -> Result<Option<RingRows>> {
        match self {
            Ring::Cpu { .. } => self.take(),
            Ring::Gpu(ring) => Ok(ring.wait().await?.map(RingRows::of)),
        }
    }
    /// Returns the counters of the read-backs. On the CPU all counters are zero.
    pub fn counters(&self) -> Counters {
        match self {
            Ring::Cpu { .. } => Counters::default(),
            Ring::Gpu(ring) => {
                let [reads, waits, bytes_read] = ring.counts();
                // The allocations are the ring, its read-back buffer and the rows of measured norms.
                Counters { reads, waits, bytes_read, allocations: 2 + u64::from(ring.measures()), ..Counters::default() }
            }
        }
    }
}

impl RingRows {
    fn of(kept: gpu::RingRead) -> RingRows {
        let of = |words: &Vec<f32>| {
            let (trusts, norms) = words.split_at(words.len() / (ROW + MEASURED) * ROW);
            norms.chunks_exact(MEASURED).zip(trusts.chunks_exact(ROW)).map(|(n, trust)| [n[0], n[1], n[2], trust[ROW - 1]]).collect()
        };
        RingRows { norms: kept.norms.iter().map(of).collect(), rows: kept.rows, guard: guard_of(&kept.guard) }
    }
}

fn guard_of(words: &[u32]) -> Guard {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words[..size_of::<Guard>() / 4]))
}

/// The buckets of gradients that [`Engine::run_sending`] sends.
pub(crate) struct Buckets {
    /// The parameters of each bucket.
    pub lists: Vec<Vec<usize>>,
    /// Whether a step may have several micro-batches.
    pub sums: bool,
    /// The memory for the gradients of each bucket on the CPU device. It may be short.
    memory: Vec<Vec<f32>>,
    /// The buckets that a GPU is read through. Empty on the CPU device.
    on_gpu: Vec<gpu::Bucket>,
}

impl Buckets {
    /// Makes the buffers of the buckets.
    pub async fn new(store: &Store, lists: Vec<Vec<usize>>, sums: bool) -> Result<Buckets> {
        let mut on_gpu = Vec::new();
        if let StoreOn::Gpu(store) = &store.flat {
            for list in &lists {
                on_gpu.push(gpu::Bucket::new(store, list, sums).await?);
            }
        }
        Ok(Buckets { lists, sums, memory: Vec::new(), on_gpu })
    }
    /// Takes the memory of the means of a step for the gradients of the next one. The system takes longer to give new memory.
    pub fn reuse(&mut self, memory: Vec<Vec<f32>>) {
        if self.on_gpu.is_empty() {
            self.memory = memory;
        }
    }
}

/// A plan that is loaded on a device.
pub(crate) struct Engine {
    on: ExecOn,
    store: Store,
    /// The kernels of a step, in order.
    kernels: Vec<KernelTime>,
    /// The bytes of the slots, inputs and constants.
    bytes: u64,
    /// The number of the kernel after which the gradient of each parameter is complete. Empty where the plan has no micro-batches.
    ready: Vec<usize>,
    /// The number of exchanges with other ranks in a run.
    exchanges: usize,
    /// The hyperparameters of the next steps. The memory is reused.
    hyper: Vec<Hyper>,
}

enum ExecOn {
    Cpu {
        exec: Box<cpu::CpuExec>,
        store: cpu::Shared,
        ring: Option<Arc<Mutex<CpuRing>>>,
        /// Whether a run stays on the calling thread.
        small: bool,
    },
    Gpu(Box<gpu::GpuExec>),
}

impl Engine {
    /// Loads `plan`. Each step writes the first outputs (single numbers) of the plan into `ring`.
    pub async fn new(device: &Device, plan: Plan, store: &Store, ring: Option<&Ring>) -> Result<Engine> {
        let (kernels, bytes, exchanges) = (profile::kernels(&plan.steps), of_plan(&plan), plan.exchanges());
        let ready = if plan.micro { plan.ready() } else { Vec::new() };
        let on = match (device.as_gpu(), &store.flat) {
            (Some(gpu), StoreOn::Gpu(store)) => {
                let ring = ring.and_then(|ring| if let Ring::Gpu(ring) = ring { Some(ring) } else { None });
                let exec = gpu::GpuExec::new(gpu, &plan, store, ExecOptions { ring, guards: false }).await?;
                gpu.keep_pipelines();
                ExecOn::Gpu(Box::new(exec))
            }
            (None, StoreOn::Cpu(store)) => {
                if plan.micro {
                    store.lock().hold_micro()?;
                }
                if plan.measures() {
                    store.lock().hold_before()?;
                }
                let ring = ring.and_then(|ring| if let Ring::Cpu { kept, .. } = ring { Some(kept.clone()) } else { None });
                let small = cpu::is_small(&plan);
                ExecOn::Cpu { exec: Box::new(cpu::CpuExec::new(plan)?), store: store.clone(), ring, small }
            }
            _ => unreachable!("a store is made for its device"),
        };
        Ok(Engine { on, store: store.clone(), kernels, bytes, ready, exchanges, hyper: Vec::new() })
    }
    /// Returns the bytes of the plan's own memory.
    pub fn bytes(&self) -> u64 {
        self.gpu().map_or(self.bytes, |exec| exec.bytes())
    }
    /// Returns whether a run on the CPU stays on the calling thread.
    #[cfg(test)]
    pub fn small(&mut self) -> Option<&mut bool> {
        if let ExecOn::Cpu { small, .. } = &mut self.on { Some(small) } else { None }
    }
    /// Returns the flat buffers that the plan uses.
    pub fn store(&self) -> &Store {
        &self.store
    }
    pub fn write(&mut self, input: usize, data: &Host<f32>) -> Result<()> {
        match &mut self.on {
            ExecOn::Cpu { exec, .. } => exec.write(input, data),
            ExecOn::Gpu(exec) => exec.write(input, data)?,
        }
        Ok(())
    }
    /// Returns the inputs on the CPU device. Their shapes must not change. Returns an empty slice on a GPU.
    pub fn inputs(&mut self) -> &mut [Host<f32>] {
        match &mut self.on {
            ExecOn::Cpu { exec, .. } => exec.inputs(),
            ExecOn::Gpu(_) => &mut [],
        }
    }
    /// Returns the number of fed steps that the next call of [`run`](Engine::run) should make, if the caller asks for `wanted`
    /// steps. A run with exchanges is alone.
    pub fn steps_per_submit(&self, wanted: Option<usize>) -> usize {
        self.gpu().filter(|_| self.exchanges == 0).map_or(1, |exec| exec.steps_per_submit(wanted))
    }
    /// Returns the number of exchanges with other ranks in a run.
    pub fn exchanges(&self) -> usize {
        self.exchanges
    }
    /// Runs the plan once for each row. If `fed` is true, each step fetches its own batch. `update` is the optimizer of a plan
    /// with an update. On a GPU the call makes one submit and returns when the work is queued. A plan with exchanges has one row.
    ///
    /// # Errors
    /// The error of `gather`, and the errors of the device.
    pub fn run(&mut self, rows: &[StepRow], fed: bool, update: Option<&Updater>, gather: Gather) -> Result<()> {
        self.expect(rows, update)?;
        match &mut self.on {
            ExecOn::Cpu { .. } => (0..rows.len()).try_for_each(|i| self.run_here(i, &rows[i], update, gather, |_, _| ())),
            ExecOn::Gpu(exec) if self.exchanges > 0 => {
                let row = rows.first().filter(|_| rows.len() == 1).expect("a run with exchanges is alone");
                exec.submit_over_ranks(row, &self.hyper, fed, gather)
            }
            ExecOn::Gpu(exec) => exec.submit_steps(rows, &self.hyper, fed),
        }
    }
    /// Runs the plan for micro-batches, of which the last one is the last of this rank in a step. `send` gets the gradients of each bucket
    /// as soon as they are computed, in order: the sum over the micro-batches so far, and its weight. The device computes the next ones
    /// meanwhile. A plan with exchanges sends nothing.
    pub async fn run_sending(
        &mut self,
        rows: &[StepRow],
        fed: bool,
        update: &Updater,
        gather: Gather<'_>,
        buckets: &mut Buckets,
        mut send: impl FnMut(Vec<f32>, f32) + Send,
    ) -> Result<()> {
        // Exchanges come first: all ranks make them in one order, and a rank without samples has them alone.
        if self.exchanges > 0 {
            return self.run(rows, fed, Some(update), gather);
        }
        let Some((last, before)) = rows.split_last() else { return Ok(()) };
        if !before.is_empty() {
            self.run(before, fed, Some(update), gather)?;
        }
        self.expect(std::slice::from_ref(last), Some(update))?;
        let complete = |list: &Vec<usize>| list.iter().map(|&i| self.ready[i]).max().unwrap_or(0);
        let ready: Vec<usize> = buckets.lists.iter().map(complete).collect();
        if let ExecOn::Gpu(exec) = &mut self.on {
            return exec.run_sending(last, (&self.hyper, fed), &buckets.on_gpu, &ready, send).await;
        }
        let (mut sent, mut memory) = (0, mem::take(&mut buckets.memory).into_iter());
        self.run_here(0, last, Some(update), gather, |number, moment| {
            while sent < ready.len() && ready[sent] <= number {
                let (sum, weight) = moment.sum(&buckets.lists[sent], memory.next().unwrap_or_default());
                send(sum, weight);
                sent += 1;
            }
        })
    }
    /// Computes the hyperparameters of the next steps and updates the guard for them.
    fn expect(&mut self, rows: &[StepRow], update: Option<&Updater>) -> Result<()> {
        self.hyper.clear();
        let Some(update) = update else { return Ok(()) };
        self.store.mark_trained();
        rows.iter().for_each(|row| update.add_hyper(row.step, &mut self.hyper));
        self.store.set_strict(!update.is_bounded(&self.hyper))
    }
    /// Runs the row with this number on the CPU. `done` is called with the number of each kernel when the kernel is done.
    fn run_here(
        &mut self,
        number: usize,
        row: &StepRow,
        update: Option<&Updater>,
        gather: Gather,
        mut done: impl FnMut(usize, &cpu::Moment) + Send,
    ) -> Result<()> {
        let ExecOn::Cpu { exec, store, ring, small } = &mut self.on else { unreachable!("only called for the CPU") };
        let store = &mut *store.lock();
        let rules = update.map(|update| {
            let rows = update.rows();
            let (elementwise, whole) = self.hyper[number * rows..][..rows].split_at(update.elementwise());
            cpu::Rules { optimizer: &update.optimizer, hyper: elementwise, whole }
        });
        let key = Key { seed: row.seed, step: row.draw() };
        // The threads of the device do not wait for other ranks, whose work may need the same threads.
        while let Some(at) = cpu::work(*small, || exec.run(store, key, row.step, row.phases(), rules, &mut done)) {
            let all = gather(exec.sent(store, at))?;
            exec.receive(at, &all);
        }
        if let Some(ring) = ring {
            let ring = &mut *lock(ring);
            let kept = &mut ring.rows[(row.batch % RING as u64) as usize];
            let (outputs, tail) = kept.split_at_mut(ring.outputs);
            for (value, output) in outputs.iter_mut().zip(0..exec.outputs()) {
                *value = exec.number(store, output);
            }
            tail.iter_mut().zip([store.guard.norm, store.guard.largest, store.guard.spread]).for_each(|(to, from)| *to = from);
            if let (Some(number), false) = (row.norms, ring.norms.is_empty()) {
                let at = (number % ring.norms.len() as u64) as usize;
                ring.norms[at] = store.measured();
            }
        }
        Ok(())
    }
    /// Runs one step with a clock around each kernel and a wait at the end. Times are in seconds from `zero`.
    pub async fn profile(
        &mut self,
        row: &StepRow,
        fed: bool,
        update: Option<&Updater>,
        gather: Gather<'_>,
        zero: Instant,
    ) -> Result<StepTimes> {
        self.expect(std::slice::from_ref(row), update)?;
        if let ExecOn::Gpu(exec) = &mut self.on {
            return exec.profile(row, &self.hyper, fed, gather, zero).await;
        }
        let begun = zero.elapsed().as_secs_f64();
        let (mut times, mut last) = (StepTimes::default(), begun);
        self.run_here(0, row, update, gather, |kernel, _| {
            let now = zero.elapsed().as_secs_f64();
            times.device.push((kernel, last, now));
            last = now;
        })?;
        times.lap("kernels", zero, begun);
        Ok(times)
    }
    /// Returns the kernels of a step in order. The kernel numbers in [`StepTimes`] are indices into this list.
    pub fn kernels(&self) -> Vec<KernelTime> {
        let fetch = self.gpu().map_or(&[][..], |exec| exec.fetch());
        [self.kernels.clone(), profile::kernels(fetch)].concat()
    }
    /// Waits until all steps are done.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.on {
            ExecOn::Cpu { .. } => Ok(()),
            ExecOn::Gpu(exec) => exec.finish(),
        }
    }
    /// Waits for the last step and returns one of its outputs.
    pub async fn read(&self, output: usize) -> Result<Host<f32>> {
        match &self.on {
            ExecOn::Cpu { exec, store, .. } => exec.read(&store.lock(), output),
            ExecOn::Gpu(exec) => exec.read(output).await,
        }
    }
    /// Returns the GPU part of the engine, or `None` on the CPU.
    pub fn gpu_mut(&mut self) -> Option<&mut gpu::GpuExec> {
        match &mut self.on {
            ExecOn::Cpu { .. } => None,
            ExecOn::Gpu(exec) => Some(exec),
        }
    }
    pub fn gpu(&self) -> Option<&gpu::GpuExec> {
        match &self.on {
            ExecOn::Cpu { .. } => None,
            ExecOn::Gpu(exec) => Some(exec),
        }
    }
}

/// Returns an error if the data of an input do not fit the graph's input.
pub(crate) fn check_input(plan_input: &crate::graph::InputDef, number: usize, data: &Host<f32>) -> Result<()> {
    if !data.fits(plan_input.shape) {
        let got = format!("{} with {}", data.shape, data.content());
        return Err(Error::Input { what: format!("input {number}"), got, want: plan_input.shape.to_string() });
    }
    plan_input.classes.map_or(Ok(()), |below| below.check(data.u(), data.shape.dims(), 1))
}
