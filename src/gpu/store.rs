//! What outlives a plan: the weights, their gradients and the optimizer's states, in flat buffers.

use crate::{
    error::{Error, Result},
    gpu::device::Gpu,
    optim::{NEAR, STRICT},
    params::Layout,
};
use std::sync::Arc;

/// 32-bit words of the guard, where an optimizer keeps what it decides on the device (whether a step was finite).
pub const GUARD: usize = 64;

/// The flat buffers of a model, by piece of its [`Layout`]. Several plans (of other batch sizes) share one.
pub struct Store {
    gpu: Arc<Gpu>,
    layout: Layout,
    pub(super) params: Vec<wgpu::Buffer>,
    pub(super) grads: Vec<wgpu::Buffer>,
    /// By state, then by piece of trained parameters.
    pub(super) states: Vec<Vec<wgpu::Buffer>>,
    pub(super) guard: wgpu::Buffer,
}

impl Store {
    /// Buffers for `layout` and an optimizer of `states` states, all zero.
    ///
    /// # Errors
    /// [`Error::Limit`] where a piece is larger than a buffer can be,
    /// [`Error::Device`] without the memory.
    pub async fn new(gpu: &Arc<Gpu>, layout: Layout, states: usize) -> Result<Store> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let mut wanted = vec![("guard".to_string(), 4 * GUARD as u64)];
        let names = ["params".to_string(), "grads".to_string()].into_iter().chain((0..states).map(|k| format!("state {k}")));
        for (k, name) in names.enumerate() {
            let piece = |(i, &n): (usize, &usize)| (format!("{name} piece {i} [{n}]"), n as u64 * 4);
            let pieces = if k < 2 { layout.pieces.len() } else { layout.trained };
            wanted.extend(layout.pieces[..pieces].iter().enumerate().map(piece));
        }
        let mut made = gpu.buffers(&wanted, usage).await?.into_iter();
        let guard = made.next().expect("the guard is the first of the buffers made");
        let mut flat = |pieces: usize| made.by_ref().take(pieces).collect::<Vec<_>>();
        let (params, grads) = (flat(layout.pieces.len()), flat(layout.pieces.len()));
        let states = (0..states).map(|_| flat(layout.trained)).collect();
        Ok(Store { gpu: gpu.clone(), layout, params, grads, states, guard })
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
    /// Where each parameter lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
    /// Optimizer states.
    pub fn states(&self) -> usize {
        self.states.len()
    }
    /// Sets all weights, by piece. The lengths must be those of the layout.
    pub fn write_params(&self, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(&self.params, pieces)
    }
    /// All weights, by piece, after all steps submitted so far.
    pub async fn read_params(&self) -> Result<Vec<Vec<f32>>> {
        self.read(&self.params).await
    }
    /// Sets all gradients, by piece.
    pub fn write_grads(&self, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(&self.grads, pieces)
    }
    /// All gradients, by piece.
    pub async fn read_grads(&self) -> Result<Vec<Vec<f32>>> {
        self.read(&self.grads).await
    }
    /// Sets state `k`, by piece.
    pub fn write_state(&self, k: usize, pieces: &[Vec<f32>]) -> Result<()> {
        self.write(self.state(k)?, pieces)
    }
    /// State `k`, by piece.
    pub async fn read_state(&self, k: usize) -> Result<Vec<Vec<f32>>> {
        self.read(self.state(k)?).await
    }
    /// Sets the guard's words, from the first.
    pub fn write_guard(&self, words: &[u32]) -> Result<()> {
        self.gpu.queue.write_buffer(&self.guard, 0, bytemuck::cast_slice(words));
        self.gpu.check()
    }
    /// Sets the guard's word that says whether weights or states may be near overflow.
    pub(crate) fn write_near(&self, near: bool) -> Result<()> {
        self.write_word(NEAR, near)
    }
    /// Sets the guard's word that says whether every step needs a trial.
    pub(crate) fn write_strict(&self, strict: bool) -> Result<()> {
        self.write_word(STRICT, strict)
    }
    fn write_word(&self, word: usize, value: bool) -> Result<()> {
        self.gpu.queue.write_buffer(&self.guard, 4 * word as u64, bytemuck::bytes_of(&u32::from(value)));
        self.gpu.check()
    }
    /// The guard's words.
    pub async fn read_guard(&self) -> Result<Vec<u32>> {
        self.gpu.read(&[(&self.guard, 0, GUARD)]).await
    }

    fn state(&self, k: usize) -> Result<&[wgpu::Buffer]> {
        let why = || format!("this store has {}", self.states.len());
        self.states.get(k).map(Vec::as_slice).ok_or_else(|| Error::argument(format!("state {k}"), why()))
    }
    fn write(&self, buffers: &[wgpu::Buffer], pieces: &[Vec<f32>]) -> Result<()> {
        let (lengths, wanted): (Vec<usize>, _) = (pieces.iter().map(Vec::len).collect(), &self.layout.pieces[..buffers.len()]);
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
        for (buffer, &n) in buffers.iter().zip(&self.layout.pieces) {
            pieces.push(self.gpu.read(&[(buffer, 0, n)]).await?);
        }
        Ok(pieces)
    }
}
