//! A buffer for the outputs of many steps. The host reads them all at once.

use crate::{
    error::Result,
    gpu::{Counters, device::Gpu},
    host::Host,
    shape::{DType, Shape},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// A buffer in which steps store all their outputs, one step after the other. See
/// [`GpuExec::collect`](super::GpuExec::collect).
pub struct Collected {
    gpu: Arc<Gpu>,
    pub(super) buffer: wgpu::Buffer,
    words: usize,
    used: AtomicUsize,
    reads: AtomicU64,
    bytes_read: AtomicU64,
}

impl Collected {
    /// Makes a buffer for `words` numbers.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if `words` is more than a buffer can hold.
    /// [`Error::Device`](crate::Error::Device) if there is not enough memory.
    pub async fn new(gpu: &Arc<Gpu>, words: usize) -> Result<Collected> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffers(&[(format!("outputs [{words}]"), words as u64 * 4)], usage).await?.remove(0);
        Ok(Collected {
            gpu: gpu.clone(),
            buffer,
            words,
            used: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        })
    }
    /// Returns the counters of the read-backs.
    pub fn counters(&self) -> Counters {
        let reads = self.reads.load(Relaxed);
        Counters { reads, waits: reads, bytes_read: self.bytes_read.load(Relaxed), allocations: 1, ..Counters::default() }
    }
    /// Empties the buffer and returns it.
    pub fn emptied(self: Arc<Collected>) -> Arc<Collected> {
        self.used.store(0, Relaxed);
        self
    }
    /// Returns how many numbers the whole buffer can hold.
    pub fn words(&self) -> usize {
        self.words
    }
    /// Returns how many more numbers the buffer can hold.
    pub fn left(&self) -> usize {
        self.words - self.used.load(Relaxed)
    }
    /// Reserves `words` numbers and returns their offset in bytes. The caller has checked that the numbers fit.
    pub(super) fn take(&self, words: usize) -> u64 {
        self.used.fetch_add(words, Relaxed) as u64 * 4
    }
    /// Waits for the steps and returns the stored outputs as tensors of these shapes. Then the buffer is empty.
    pub async fn read(&self, shapes: impl Iterator<Item = Shape>) -> Result<Vec<Host<f32>>> {
        let used = self.used.swap(0, Relaxed);
        self.reads.fetch_add(1, Relaxed);
        self.bytes_read.fetch_add(used as u64 * 4, Relaxed);
        let words: Vec<u32> = self.gpu.read(&[(&self.buffer, 0, used)]).await?;
        let mut rest = words.as_slice();
        let tensor = |shape: Shape| {
            let (of, more) = rest.split_at_checked(shape.elements())?;
            rest = more;
            Some(match shape.dtype() {
                DType::F32 => Host::new(shape, bytemuck::cast_slice(of).to_vec()),
                DType::U32 => Host::labels(shape, of.to_vec()),
            })
        };
        Ok(shapes.map_while(tensor).collect())
    }
}
