//! One plan on one device, whichever that is: what the trainer and [`crate::Compiled`] run.

use crate::{
    cpu,
    device::Device,
    error::{Error, Result},
    gpu::{self, ExecOptions, RingSpec, StepRow, UpdatePass},
    graph::ParamDef,
    host::Host,
    ops::Key,
    optim::{Groups, Guard, Optimizer, assign_kernel},
    params::Layout,
    plan::Plan,
};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// An optimizer and the groups it makes of a model's parameters.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub optimizer: Optimizer,
    pub groups: Groups,
}

/// The flat buffers of a model. Every plan of the model uses the same ones.
#[derive(Clone)]
pub(crate) struct Store {
    flat: Flat,
    /// Whether a step was made on them, or values were set: before that state means nothing (see `Graph::require_step`).
    trained: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Flat {
    Cpu(Arc<Mutex<cpu::Store>>),
    Gpu(Arc<gpu::Store>),
}

/// A lock whose data stays sound even if a thread panicked while holding it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Flat buffers for `params`, filled with their initial values.
    pub async fn new(device: &Device, params: &[ParamDef], update: Option<&Update>, seed: u64) -> Result<Store> {
        let states = update.map_or(Vec::new(), |u| u.optimizer.states());
        let (of, count) = update.map_or((vec![0; params.len()], 1), |u| (u.groups.of.clone(), u.groups.settings.len()));
        let flat = match device.as_gpu() {
            None => {
                let layout = Layout::new(params, &of, count, usize::MAX, usize::MAX)?;
                Flat::Cpu(Arc::new(Mutex::new(cpu::Store::new(layout, states.len()))))
            }
            Some(gpu) => {
                let piece = (gpu.caps().max_binding_bytes / 4) as usize;
                let layout = Layout::new(params, &of, count, piece, (gpu.max_buffer_bytes() / 4) as usize)?;
                Flat::Gpu(Arc::new(gpu::Store::new(gpu, layout, states.len()).await?))
            }
        };
        let store = Store { flat, trained: Arc::default() };
        store.reset(params, update, seed)?;
        Ok(store)
    }
    /// Sets initial weights and states.
    pub fn reset(&self, params: &[ParamDef], update: Option<&Update>, seed: u64) -> Result<()> {
        let layout = self.layout();
        let mut flat: Vec<Vec<f32>> = layout.pieces.iter().map(|&n| vec![0.0; n]).collect();
        for (param, range) in params.iter().zip(&layout.ranges) {
            let values = param.init.values(param.shape, seed, &param.name)?;
            flat[range.piece][range.start..range.start + range.len].copy_from_slice(&values);
        }
        self.write_params(flat)?;
        for (k, state) in update.iter().flat_map(|u| u.optimizer.states()).enumerate() {
            self.write_state(k, layout.pieces[..layout.trained].iter().map(|&n| vec![state.start; n]).collect())?;
        }
        self.trained.store(false, Relaxed);
        self.write_guard(Guard::default())
    }
    /// Whether a step was made on these weights since they were reset, or they were [set](Store::mark_trained).
    pub fn is_trained(&self) -> bool {
        self.trained.load(Relaxed)
    }
    /// Says that the weights are not the initial ones.
    pub fn mark_trained(&self) {
        self.trained.store(true, Relaxed);
    }
    pub fn layout(&self) -> Layout {
        match &self.flat {
            Flat::Cpu(s) => lock(s).layout.clone(),
            Flat::Gpu(s) => s.layout().clone(),
        }
    }
    pub fn write_params(&self, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            Flat::Cpu(s) => lock(s).params = pieces,
            Flat::Gpu(s) => s.write_params(&pieces)?,
        }
        Ok(())
    }
    pub async fn read_params(&self) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            Flat::Cpu(s) => Ok(lock(s).params.clone()),
            Flat::Gpu(s) => s.read_params().await,
        }
    }
    pub async fn read_grads(&self) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            Flat::Cpu(s) => Ok(lock(s).grads.clone()),
            Flat::Gpu(s) => s.read_grads().await,
        }
    }
    pub fn write_state(&self, k: usize, pieces: Vec<Vec<f32>>) -> Result<()> {
        match &self.flat {
            Flat::Cpu(s) => lock(s).states[k] = pieces,
            Flat::Gpu(s) => s.write_state(k, &pieces)?,
        }
        Ok(())
    }
    pub async fn read_state(&self, k: usize) -> Result<Vec<Vec<f32>>> {
        match &self.flat {
            Flat::Cpu(s) => Ok(lock(s).states[k].clone()),
            Flat::Gpu(s) => s.read_state(k).await,
        }
    }
    pub fn write_guard(&self, guard: Guard) -> Result<()> {
        match &self.flat {
            Flat::Cpu(s) => lock(s).guard = guard,
            Flat::Gpu(s) => s.write_guard(bytemuck::cast_slice(&[guard]))?,
        }
        Ok(())
    }
    pub async fn read_guard(&self) -> Result<Guard> {
        match &self.flat {
            Flat::Cpu(s) => Ok(lock(s).guard),
            Flat::Gpu(s) => {
                let words = s.read_guard().await?;
                Ok(bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words[..size_of::<Guard>() / 4])))
            }
        }
    }
}

/// Steps whose losses and metrics are kept until they are read.
pub(crate) const RING: usize = 1024;

/// A loaded plan.
pub(crate) struct Engine {
    on: Loaded,
    store: Store,
}

enum Loaded {
    Cpu { exec: Box<cpu::Exec>, store: Arc<Mutex<cpu::Store>>, ring: Vec<Vec<f32>> },
    Gpu(Box<gpu::Exec>),
}

impl Engine {
    /// Loads `plan`. With an `update`, output 0 is the loss; the first `ring` outputs (all scalars) are kept for each step.
    pub async fn new(device: &Device, plan: Plan, store: &Store, update: Option<&Update>, ring: usize) -> Result<Engine> {
        let on = match (device.as_gpu(), &store.flat) {
            (Some(gpu), Flat::Gpu(store)) => {
                let updates = update.map_or(Vec::new(), |u| passes(u, store.layout(), gpu.caps()));
                let spec = RingSpec { outputs: (0..ring).collect(), capacity: RING };
                let options = ExecOptions { updates: &updates, ring: (ring > 0).then_some(&spec), guards: false };
                Loaded::Gpu(Box::new(gpu::Exec::new(gpu, &plan, store, options).await?))
            }
            (None, Flat::Cpu(store)) => {
                let ring = if ring > 0 { vec![vec![f32::NAN; ring]; RING] } else { Vec::new() };
                Loaded::Cpu { exec: Box::new(cpu::Exec::new(plan)), store: store.clone(), ring }
            }
            _ => unreachable!("a store is made for its device"),
        };
        Ok(Engine { on, store: store.clone() })
    }
    /// The flat buffers that it works on.
    pub fn store(&self) -> &Store {
        &self.store
    }
    pub fn write(&mut self, input: usize, data: &Host<f32>) -> Result<()> {
        match &mut self.on {
            Loaded::Cpu { exec, .. } => exec.write(input, data),
            Loaded::Gpu(exec) => exec.write(input, data)?,
        }
        Ok(())
    }
    /// Runs the plan, and the update where there is one. On a GPU it returns when the work is queued.
    pub fn step(&mut self, key: Key, update: Option<&Update>) -> Result<()> {
        if update.is_some() {
            self.store.mark_trained();
        }
        match &mut self.on {
            Loaded::Cpu { exec, store, ring, .. } => {
                let store = &mut *lock(store);
                cpu::work(|| {
                    exec.run(store, key);
                    if !ring.is_empty() {
                        let row = &mut ring[(key.step % RING as u64) as usize];
                        row.iter_mut().enumerate().for_each(|(output, value)| *value = exec.number(store, output));
                    }
                    if let Some(Update { optimizer, groups }) = update {
                        let hyper = optimizer.hyper(key.step + 1, &groups.settings);
                        store.update(optimizer, &hyper, key.step, exec.number(store, 0));
                    }
                });
            }
            Loaded::Gpu(exec) => {
                let hyper = update.map_or([[0.0; 8]; 8], |u| u.optimizer.hyper_rows(key.step + 1, &u.groups.settings));
                exec.submit(&StepRow { seed: key.seed, step: key.step, hyper })?;
            }
        }
        Ok(())
    }
    /// Waits until all steps are done.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.on {
            Loaded::Cpu { .. } => Ok(()),
            Loaded::Gpu(exec) => exec.finish(),
        }
    }
    /// An output of the last step; waits for it.
    pub async fn read(&self, output: usize) -> Result<Host<f32>> {
        match &self.on {
            Loaded::Cpu { exec, store, .. } => exec.read(&lock(store), output),
            Loaded::Gpu(exec) => exec.read(output).await,
        }
    }
    /// What the ring holds of the steps `first..first + count`, at most [`RING`] of them; waits for the last one.
    pub async fn read_ring(&self, first: u64, count: usize) -> Result<Vec<Vec<f32>>> {
        match &self.on {
            Loaded::Cpu { ring, .. } => Ok((first..first + count as u64).map(|s| ring[(s % RING as u64) as usize].clone()).collect()),
            Loaded::Gpu(exec) => exec.read_ring(first, count).await,
        }
    }
    pub fn gpu(&self) -> Option<&gpu::Exec> {
        match &self.on {
            Loaded::Cpu { .. } => None,
            Loaded::Gpu(exec) => Some(exec),
        }
    }
}

/// The check and the update as passes over the flat buffers.
fn passes(update: &Update, layout: &Layout, caps: &crate::kernel::Caps) -> Vec<UpdatePass> {
    let guard = update.optimizer.guard_kernels(layout, caps).into_iter().map(|(piece, kernel)| UpdatePass { kernel, piece });
    let pieces = layout.pieces.iter().zip(&layout.ends).enumerate();
    let updates = pieces.map(|(piece, (&units, ends))| UpdatePass {
        kernel: match piece < layout.trained {
            true => update.optimizer.update_kernel(ends, units, caps),
            false => assign_kernel(units, caps),
        },
        piece,
    });
    guard.chain(updates).collect()
}

/// A batch as the graph wants it, or an error that says what is wrong with it.
pub(crate) fn check_input(plan_input: &crate::graph::InputDef, number: usize, data: &Host<f32>) -> Result<()> {
    let what = format!("input {number}");
    if !data.fits(plan_input.shape) {
        let got = format!("{} with {}", data.shape, data.content());
        return Err(Error::Input { what, got, want: plan_input.shape.to_string() });
    }
    plan_input.classes.map_or(Ok(()), |below| below.check(data.u(), data.shape.dims(), 1))
}
