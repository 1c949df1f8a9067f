//! The flat buffers that outlive a plan: the parameters, their gradients and the optimizer's states.

use crate::{
    error::{Error, Result},
    gpu::device::Gpu,
    optim::{Control, GUARD, MEASURED, NEAR, ROW, STRICT, Trust, WEIGHT},
    params::{Layout, StateLayout},
    plan::Flat,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

const USAGE: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Returns the label and the size in bytes of a piece with `n` words.
fn wanted(name: &str, piece: usize, n: usize) -> (String, u64) {
    (format!("{name} piece {piece} [{n}]"), n as u64 * 4)
}

/// The flat buffers of a model, by piece of its [`Layout`]. Several plans (for different batch sizes) share one store.
pub struct GpuStore {
    gpu: Arc<Gpu>,
    layout: Layout,
    params: Vec<wgpu::Buffer>,
    /// The gradients of the trained pieces.
    grads: Vec<wgpu::Buffer>,
    /// The optimizer states, by state and then by piece.
    states: Vec<Vec<wgpu::Buffer>>,
    /// The gradients of micro-batches, by trained piece. Empty until a plan needs them.
    micro: OnceLock<Vec<wgpu::Buffer>>,
    /// The weights before an update, by trained piece, and then the rows of measured norms. Empty until a plan needs them.
    before: OnceLock<Vec<wgpu::Buffer>>,
    /// The averages of all trained weights, if this rank updates a part of them alone. Empty until they are gathered.
    average: OnceLock<Vec<wgpu::Buffer>>,
    /// The next values of the state pieces.
    next: Vec<wgpu::Buffer>,
    pub(super) control: wgpu::Buffer,
    /// The places of the guard and the tables in `control`.
    tables: Control,
}

impl GpuStore {
    /// Makes the buffers for `layout` and for an optimizer with `groups` parameter groups. All values are zero.
    ///
    /// # Errors
    /// [`Error::Limit`] if a piece is larger than a buffer can be. [`Error::Device`] if there is not enough memory.
    pub async fn new(gpu: &Arc<Gpu>, layout: Layout, groups: usize) -> Result<GpuStore> {
        let tables = Control::new(&layout, groups, gpu.caps().max_binding_bytes);
        let (trained, all, control) = (0..layout.trained, 0..layout.pieces.len(), wanted("guard", 0, tables.words));
        let params = all.clone().map(|i| wanted("params", i, layout.pieces[i]));
        let grads = trained.clone().map(|i| wanted("grads", i, layout.pieces[i]));
        let state = |(k, state): (usize, &StateLayout)| {
            let pieces = state.pieces.iter().enumerate();
            pieces.map(|(i, &n)| wanted(&format!("state {k}"), i, n)).collect::<Vec<_>>()
        };
        let states = layout.states.iter().enumerate().flat_map(state);
        let next = layout.state_pieces().map(|i| wanted("next state", i, layout.pieces[i]));
        let wanted: Vec<(String, u64)> = [control].into_iter().chain(params).chain(grads).chain(states).chain(next).collect();
        let mut made = gpu.buffers(&wanted, USAGE).await?.into_iter();
        let control = made.next().expect("the guard is the first of the buffers made");
        let mut take = |pieces: usize| made.by_ref().take(pieces).collect::<Vec<_>>();
        let (params, grads) = (take(all.len()), take(trained.len()));
        let states = layout.states.iter().map(|state| take(state.pieces.len())).collect();
        let next = take(layout.state);
        let at = 4 * (tables.hyper - tables.tables.len()) as u64;
        gpu.queue.write_buffer(&control, at, bytemuck::cast_slice(&tables.tables));
        Ok(GpuStore {
            gpu: gpu.clone(),
            layout,
            params,
            grads,
            states,
            micro: OnceLock::new(),
            before: OnceLock::new(),
            average: OnceLock::new(),
            next,
            control,
            tables,
        })
    }
    /// Makes the buffers for the gradients of micro-batches, unless they exist.
    ///
    /// # Errors
    /// [`Error::Device`] if there is not enough memory.
    pub(crate) async fn hold_micro(&self) -> Result<()> {
        self.hold("grads of a micro-batch", &self.micro, None).await
    }
    /// Makes the buffers for the weights before an update, unless they exist.
    ///
    /// # Errors
    /// [`Error::Device`] if there is not enough memory.
    pub(crate) async fn hold_before(&self) -> Result<()> {
        self.hold("params before an update", &self.before, Some(MEASURED * self.layout.ranges.len())).await
    }
    async fn hold(&self, what: &str, buffers: &OnceLock<Vec<wgpu::Buffer>>, more: Option<usize>) -> Result<()> {
        if buffers.get().is_none() {
            let pieces = self.layout.pieces[..self.layout.trained].iter().copied().chain(more).enumerate();
            let wanted: Vec<(String, u64)> = pieces.map(|(i, n)| wanted(what, i, n)).collect();
            // If another thread has set the buffers meanwhile, its buffers are used.
            let _ = buffers.set(self.gpu.buffers(&wanted, USAGE).await?);
        }
        Ok(())
    }
    pub(crate) fn holds_micro(&self) -> bool {
        self.micro.get().is_some()
    }
    /// Returns the size of the guard and of the tables behind it in bytes.
    pub(crate) fn control_bytes(gpu: &Gpu, layout: &Layout, groups: usize) -> u64 {
        4 * Control::new(layout, groups, gpu.caps().max_binding_bytes).words as u64
    }
    /// Returns the largest number of steps in one submit. The store has rows of hyperparameters for this number.
    pub(super) fn steps(&self) -> usize {
        self.tables.steps
    }
    /// Sets the hyperparameters of the steps in the next submit.
    pub(super) fn write_hyper(&self, words: &[u32]) {
        self.gpu.queue.write_buffer(&self.control, 4 * self.tables.hyper as u64, bytemuck::cast_slice(words));
    }
    /// Returns the buffer of a piece, if it exists.
    pub(super) fn piece(&self, flat: Flat, piece: usize) -> Option<&wgpu::Buffer> {
        match flat {
            Flat::Weights => self.params.get(piece),
            Flat::Grads => self.grads.get(piece),
            Flat::Micro => self.micro.get()?.get(piece),
            Flat::Before => self.before.get()?.get(piece),
            Flat::State(k) => self.states.get(k)?.get(piece),
            Flat::Next => self.next.get(piece.checked_sub(self.layout.state_pieces().start)?),
        }
    }

    /// Returns the rows of norms and ratios: their buffer, their offset and their size in bytes. The measured norms follow, if there are
    /// any.
    pub(super) fn rows(&self) -> [Option<(&wgpu::Buffer, u64, u64)>; 2] {
        let bytes = |words: usize| 4 * (words * self.layout.ranges.len()) as u64;
        let norms = self.piece(Flat::Before, self.layout.trained).map(|buffer| (buffer, 0, bytes(MEASURED)));
        [Some((&self.control, 4 * self.tables.rows as u64, bytes(ROW))), norms]
    }
    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
    /// Returns the place of each parameter in the flat buffers.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// Sets all parameters, by piece. The lengths must match the layout.
    pub fn write_params(&self, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(&self.params, pieces)
    }
    /// Returns all parameters, by piece, after all steps submitted so far.
    pub async fn read_params(&self) -> Result<Vec<Vec<f32>>> {
        self.read(&self.params).await
    }
    /// Whether parameter `i` lies in the same buffer as parameter `other` of another store. Weights and a view of their averages share
    /// frozen parameters and state.
    pub(super) fn shares(&self, i: usize, store: &GpuStore, other: usize) -> bool {
        self.params[self.layout.ranges[i].piece] == store.params[store.layout.ranges[other].piece]
    }
    /// Copies parameters from another store of the same GPU, in the queue. Each pair has the number of a parameter there and
    /// here. Returns false if the other store is on another GPU.
    pub(crate) fn copy_from(&self, from: &GpuStore, pairs: &[(usize, usize)]) -> Result<bool> {
        if !Arc::ptr_eq(&self.gpu, &from.gpu) {
            return Ok(false);
        }
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy of parameters") });
        for &(at, to) in pairs.iter().filter(|&&(at, to)| !self.shares(to, from, at)) {
            let (at, to) = (from.layout.ranges[at], self.layout.ranges[to]);
            let bytes = |n: usize| 4 * n as u64;
            encoder.copy_buffer_to_buffer(&from.params[at.piece], bytes(at.start), &self.params[to.piece], bytes(to.start), bytes(to.len));
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()?;
        Ok(true)
    }
    /// Sets the averages of all trained weights, by piece. The buffers are made at the first call.
    pub(crate) async fn write_average(&self, pieces: &[Vec<f32>]) -> Result<()> {
        self.hold("averages of all ranks", &self.average, None).await?;
        self.write(self.average.get().expect("it was made above"), pieces)
    }
    pub(crate) fn holds_average(&self) -> bool {
        self.average.get().is_some()
    }
    /// Returns a store in which state `k`, or the gathered averages, stand in place of the trained weights. It shares all buffers with this
    /// store and has no states.
    pub(crate) fn averaged(&self, k: usize) -> GpuStore {
        let rest = &self.params[self.layout.trained..];
        GpuStore {
            gpu: self.gpu.clone(),
            layout: self.layout.clone(),
            params: [self.average.get().unwrap_or(&self.states[k]), rest].concat(),
            grads: self.grads.clone(),
            states: Vec::new(),
            micro: OnceLock::new(),
            before: OnceLock::new(),
            average: OnceLock::new(),
            next: self.next.clone(),
            control: self.control.clone(),
            tables: self.tables.clone(),
        }
    }
    /// Sets state `k` to the trained weights, behind the steps submitted so far.
    pub(crate) fn start_average(&self, k: usize) -> Result<()> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("start of an average") });
        for (part, to) in self.layout.parts.iter().zip(&self.states[k]) {
            encoder.copy_buffer_to_buffer(&self.params[part.piece], 4 * part.start as u64, to, 0, Some(4 * part.len as u64));
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }
    /// Sets all gradients, by trained piece.
    pub fn write_grads(&self, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(&self.grads, pieces)
    }
    /// Returns all gradients, by trained piece.
    pub async fn read_grads(&self) -> Result<Vec<Vec<f32>>> {
        self.read(&self.grads).await
    }
    /// Sets the gradients, or the weights, of these parameters, which come one behind the other.
    pub(crate) fn write_of(&self, flat: Flat, params: &[usize], mut values: &[f32]) -> Result<()> {
        let all = if flat == Flat::Grads { &self.grads } else { &self.params };
        for range in params.iter().map(|&i| self.layout.ranges[i]) {
            let own = values.split_off(..range.len).expect("there is a value for each element");
            self.gpu.queue.write_buffer(&all[range.piece], 4 * range.start as u64, bytemuck::cast_slice(own));
        }
        self.gpu.check()
    }
    /// Returns the gradients, or the weights, of these parameters, one behind the other, after all steps submitted so far.
    pub(crate) async fn read_of(&self, flat: Flat, params: &[usize]) -> Result<Vec<f32>> {
        let all = if flat == Flat::Grads { &self.grads } else { &self.params };
        let ranges = params.iter().map(|&i| self.layout.ranges[i]);
        let parts: Vec<_> = ranges.map(|range| (&all[range.piece], 4 * range.start as u64, range.len)).collect();
        self.gpu.read(&parts).await
    }
    /// Sets the model's state, by piece.
    pub(crate) fn write_assigned(&self, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(&self.params[self.layout.state_pieces()], pieces)
    }
    /// Returns the model's state, by piece, after all steps submitted so far.
    pub(crate) async fn read_assigned(&self) -> Result<Vec<Vec<f32>>> {
        self.read(&self.params[self.layout.state_pieces()]).await
    }
    /// Sets optimizer state `k`, by piece.
    pub fn write_state(&self, k: usize, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(self.state(k)?, pieces)
    }
    /// Returns optimizer state `k`, by piece.
    pub async fn read_state(&self, k: usize) -> Result<Vec<Vec<f32>>> {
        self.read(self.state(k)?).await
    }
    /// Queues a copy of the parameters and of all states behind the steps submitted so far.
    pub(crate) async fn copy(&self) -> Result<GpuCopy> {
        let all = || [&self.params].into_iter().chain(&self.states);
        let wanted: Vec<(String, u64)> = all().flatten().map(|buffer| ("copy of a piece".into(), buffer.size())).collect();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let made = self.gpu.buffers(&wanted, usage).await?;
        let left = Arc::new(AtomicUsize::new(made.len()));
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy") });
        for (from, to) in all().flatten().zip(&made) {
            encoder.copy_buffer_to_buffer(from, 0, to, 0, None);
        }
        let submission = self.gpu.queue.submit([encoder.finish()]);
        for buffer in &made {
            let left = left.clone();
            // A buffer that could not be mapped gives its error when it is read.
            buffer.map_async(wgpu::MapMode::Read, .., move |_| {
                left.fetch_sub(1, Relaxed);
            });
        }
        let mut made = made.into_iter();
        let pieces = all().map(|group| made.by_ref().take(group.len()).collect()).collect();
        self.gpu.check()?;
        Ok(GpuCopy { gpu: self.gpu.clone(), pieces, left, submission })
    }
    /// Sets the first words of the guard. All other words of the guard and the flags of the parameters become 0.
    pub fn write_guard(&self, words: &[u32]) -> Result<()> {
        let mut all = vec![0u32; self.tables.flags + self.layout.ranges.len()];
        all[..words.len()].copy_from_slice(words);
        self.gpu.queue.write_buffer(&self.control, 0, bytemuck::cast_slice(&all));
        self.gpu.check()
    }
    /// Sets the guard's word that says whether parameters or states may be close to overflow.
    pub(crate) fn write_near(&self, near: bool) -> Result<()> {
        self.write_word(NEAR, near)
    }
    /// Sets the guard's word that says whether every step needs a trial.
    pub(crate) fn write_strict(&self, strict: bool) -> Result<()> {
        self.write_word(STRICT, strict)
    }
    /// Discards the micro-batches that were summed for the next step.
    pub(crate) fn forget_micro(&self) -> Result<()> {
        self.write_word(WEIGHT, false)
    }
    fn write_word(&self, word: usize, value: bool) -> Result<()> {
        self.gpu.queue.write_buffer(&self.control, 4 * word as u64, bytemuck::bytes_of(&u32::from(value)));
        self.gpu.check()
    }
    /// Returns the words of the guard.
    pub async fn read_guard(&self) -> Result<Vec<u32>> {
        self.gpu.read(&[(&self.control, 0, GUARD)]).await
    }
    /// Returns the first parameter whose gradient was not finite in a bad step, if there is such a parameter.
    pub(crate) async fn culprit(&self) -> Result<Option<usize>> {
        let flags: Vec<u32> = self.gpu.read(&[(&self.control, 4 * self.tables.flags as u64, self.layout.ranges.len())]).await?;
        Ok(flags.iter().position(|&flag| flag != 0))
    }
    /// Returns the norms and ratios of the last update, by parameter.
    pub(crate) async fn trusts(&self) -> Result<Vec<Trust>> {
        let rows = self.gpu.read(&[(&self.control, 4 * self.tables.rows as u64, ROW * self.layout.ranges.len())]).await?;
        Ok(rows.chunks_exact(ROW).map(Trust::of_row).collect())
    }

    fn state(&self, k: usize) -> Result<&[wgpu::Buffer]> {
        let why = || format!("this store has {}", self.states.len());
        self.states.get(k).map(Vec::as_slice).ok_or_else(|| Error::argument(format!("state {k}"), why()))
    }
    fn write(&self, buffers: &[wgpu::Buffer], pieces: &[Vec<f32>]) -> Result<()> {
        let lengths: Vec<usize> = pieces.iter().map(Vec::len).collect();
        let wanted: Vec<usize> = buffers.iter().map(|buffer| buffer.size() as usize / 4).collect();
        if lengths != wanted {
            let (got, want) = (format!("pieces of {lengths:?}"), format!("pieces of {wanted:?}"));
            return Err(Error::Input { what: "flat values".into(), got, want });
        }
        for (buffer, piece) in buffers.iter().zip(pieces) {
            self.gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(piece));
        }
        self.gpu.check()
    }
    async fn read(&self, buffers: &[wgpu::Buffer]) -> Result<Vec<Vec<f32>>> {
        let mut pieces = Vec::with_capacity(buffers.len());
        for buffer in buffers {
            pieces.push(self.gpu.read(&[(buffer, 0, buffer.size() as usize / 4)]).await?);
        }
        Ok(pieces)
    }
}

/// A copy of the parameters and of each state, in buffers that the host can read.
pub(crate) struct GpuCopy {
    gpu: Arc<Gpu>,
    pieces: Vec<Vec<wgpu::Buffer>>,
    /// The number of buffers that are not mapped yet.
    left: Arc<AtomicUsize>,
    submission: wgpu::SubmissionIndex,
}

impl GpuCopy {
    /// Returns whether the copy is made. Never waits.
    pub fn is_ready(&self) -> Result<bool> {
        self.gpu.poll()?;
        Ok(self.left.load(Relaxed) == 0)
    }
    /// Waits for the copy and returns it.
    pub fn take(self) -> Result<Vec<Vec<Vec<f32>>>> {
        if self.left.load(Relaxed) > 0 {
            self.gpu.wait(self.submission.clone())?;
        }
        // The poll of another thread may run the callbacks a little later.
        while self.left.load(Relaxed) > 0 {
            std::thread::yield_now();
        }
        let read = |buffer: &wgpu::Buffer| {
            let view = buffer.get_mapped_range(..).map_err(|e| self.gpu.error(e.to_string()))?;
            Ok(bytemuck::pod_collect_to_vec(&view))
        };
        self.pieces.iter().map(|group| group.iter().map(read).collect()).collect()
    }
}
