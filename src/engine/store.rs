//! The flat buffers of a model on a device of any kind.

use super::{Updater, layout, ring::guard_of};
use crate::{
    cpu,
    device::Device,
    error::Result,
    gpu,
    graph::ParamDef,
    host,
    optim::{Guard, Trust, blend},
    params::{Layout, Status},
    plan::Flat,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// The flat buffers of a model. Every plan of the model uses the same buffers.
#[derive(Clone)]
pub(crate) struct Store {
    pub(super) flat: StoreOn,
    /// Whether a step was run or values were set. Before that, state has no meaning (see `Graph::require_step`).
    trained: Arc<AtomicBool>,
    /// The value of [`Guard::strict`] on the device.
    strict: Arc<AtomicBool>,
}

#[derive(Clone)]
pub(super) enum StoreOn {
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
    /// Sets the gradients, or the weights, of these parameters, which come one behind the other.
    pub fn write_of(&self, flat: Flat, params: &[usize], values: &[f32]) -> Result<()> {
        match &self.flat {
            StoreOn::Cpu(s) => s.lock().set_of(flat, params, values),
            StoreOn::Gpu(s) => s.write_of(flat, params, values)?,
        }
        Ok(())
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
    pub(super) fn set_strict(&self, strict: bool) -> Result<()> {
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

/// The buckets of gradients that [`Engine::run_sending`] sends.
pub(crate) struct Buckets {
    /// The parameters of each bucket.
    pub lists: Vec<Vec<usize>>,
    /// Whether a step may have several micro-batches.
    pub sums: bool,
    /// The memory for the gradients of each bucket on the CPU device. It may be short.
    pub(super) memory: Vec<Vec<f32>>,
    /// The buckets that a GPU is read through. Empty on the CPU device.
    pub(super) on_gpu: Vec<gpu::Bucket>,
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
