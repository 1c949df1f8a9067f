//! A plan that is loaded on a device of any kind. The trainer and [`crate::Compiled`] run it.

mod ring;
mod store;

pub(crate) use ring::{RING, Ring, RingRows};
pub(crate) use store::{Buckets, Store, StoreCopy};

use crate::{
    cpu,
    device::Device,
    error::{Error, Result},
    gpu::{self, ExecOptions, FlipShift, Resident, StepRow},
    graph::ParamDef,
    host::Host,
    optim::{Groups, Guard, Hyper, MEASURED, Optimizer, Parts, Readouts, Whole},
    params::{Layout, Owners, Status},
    plan::{Gather, Loc, Memory, Plan},
    profile::{self, KernelTime, StepTimes},
    rng::Key,
    threads::lock,
};
use ring::{CpuRing, measurements};
use std::{
    mem,
    sync::{Arc, Mutex},
    time::Instant,
};
use store::StoreOn;

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
            lock(ring).keep(row, exec, store);
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
