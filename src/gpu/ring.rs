//! What steps leave on the device: losses and metrics, read without stopping it.

use crate::{
    error::{Error, Result},
    gpu::{device::Gpu, store::GpuStore},
    optim::{GUARD, NORMS},
    threads::lock,
};
use futures_intrusive::sync::ManualResetEvent;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// The first outputs of each batch, numbers all of them, and how large the gradients were, for as many batches as it holds; shared by
/// the plans of a model. Each row has the outputs, then norm and largest magnitude of the gradients, which the last micro-batch
/// of a step leaves.
///
/// A read is asked for and comes later: it is a copy in the queue, behind the steps of before and in front of those
/// that write the same places again. So nobody waits for it, unless somebody wants to.
pub struct GpuRing {
    gpu: Arc<Gpu>,
    store: Arc<GpuStore>,
    pub(super) buffer: wgpu::Buffer,
    width: usize,
    capacity: u64,
    staging: wgpu::Buffer,
    asked: Mutex<Option<Asked>>,
    reads: AtomicU64,
    waits: AtomicU64,
    bytes_read: AtomicU64,
}

/// A read that is under way.
struct Asked {
    first: u64,
    count: usize,
    submission: wgpu::SubmissionIndex,
    mapped: Arc<Mapped>,
}

struct Mapped {
    event: ManualResetEvent,
    ok: AtomicBool,
}

/// What a read brought.
#[derive(Clone, Debug, PartialEq)]
pub struct RingRead {
    /// The first batch of it.
    pub first: u64,
    /// What each batch left.
    pub rows: Vec<Vec<f32>>,
    /// The guard after the last one.
    pub guard: Vec<u32>,
}

impl GpuRing {
    /// For `outputs` outputs of `capacity` batches.
    ///
    /// # Errors
    /// [`Error::Argument`] where that is nothing, [`Error::Device`] without the memory.
    pub async fn new(store: &Arc<GpuStore>, outputs: usize, capacity: usize) -> Result<GpuRing> {
        if outputs == 0 || capacity == 0 {
            return Err(Error::argument("ring", "a ring of no batches, or of no outputs, holds nothing"));
        }
        let width = outputs + NORMS.len();
        let (gpu, usage) = (store.gpu(), wgpu::BufferUsages::COPY_DST);
        let [bytes, guard] = [GpuRing::bytes(outputs, capacity), GUARD as u64 * 4];
        let label = format!("ring of {capacity} batches × {width}");
        let buffer = gpu.buffers(&[(label, bytes)], usage | wgpu::BufferUsages::COPY_SRC).await?.remove(0);
        let staging =
            gpu.buffers(&[("read-back of the ring".into(), bytes + guard)], usage | wgpu::BufferUsages::MAP_READ).await?.remove(0);
        let [reads, waits, bytes_read] = [0; 3].map(AtomicU64::new);
        let (gpu, store, asked) = (gpu.clone(), store.clone(), Mutex::new(None));
        Ok(GpuRing { gpu, store, buffer, width, capacity: capacity as u64, staging, asked, reads, waits, bytes_read })
    }
    /// Bytes of the ring itself.
    pub fn bytes(outputs: usize, capacity: usize) -> u64 {
        ((outputs + NORMS.len()) * capacity) as u64 * 4
    }
    /// Bytes of the ring and of what it is read through, with the guard.
    pub(crate) fn all_bytes(outputs: usize, capacity: usize) -> u64 {
        2 * GpuRing::bytes(outputs, capacity) + 4 * GUARD as u64
    }
    /// Outputs that it keeps of a batch.
    pub fn outputs(&self) -> usize {
        self.width - NORMS.len()
    }
    /// Where number `i` of a batch goes, in bytes.
    pub(super) fn place(&self, batch: u64, i: usize) -> u64 {
        (batch % self.capacity * self.width as u64 + i as u64) * 4
    }

    /// Queues a read of the batches `first..first + count`, at least one, and of the guard. One at a time: what was asked
    /// for before must have been [taken](GpuRing::take).
    ///
    /// # Errors
    /// [`Error::Argument`] for no batches, for more than the ring holds, or for a second read.
    pub fn ask(&self, first: u64, count: usize) -> Result<()> {
        if count == 0 || count as u64 > self.capacity {
            return Err(Error::argument("ring", format!("{count} batches asked for, but the ring holds {}", self.capacity)));
        }
        let mut asked = lock(&self.asked);
        if asked.is_some() {
            return Err(Error::argument("ring", "a read is under way"));
        }
        let row = self.width as u64 * 4;
        let before = (count as u64).min(self.capacity - first % self.capacity) * row;
        let (all, guard) = (count as u64 * row, GUARD as u64 * 4);
        let label = Some("read-back of the ring");
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        encoder.copy_buffer_to_buffer(&self.buffer, self.place(first, 0), &self.staging, 0, Some(before));
        if all > before {
            encoder.copy_buffer_to_buffer(&self.buffer, 0, &self.staging, before, Some(all - before));
        }
        encoder.copy_buffer_to_buffer(&self.store.control, 0, &self.staging, all, Some(guard));
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let mapped = Arc::new(Mapped { event: ManualResetEvent::new(false), ok: AtomicBool::new(false) });
        let tell = mapped.clone();
        self.staging.map_async(wgpu::MapMode::Read, ..all + guard, move |result| {
            tell.ok.store(result.is_ok(), Relaxed);
            tell.event.set();
        });
        self.reads.fetch_add(1, Relaxed);
        self.bytes_read.fetch_add(all + guard, Relaxed);
        *asked = Some(Asked { first, count, submission, mapped });
        self.gpu.check()
    }
    /// What was asked for, if it has come; never waits.
    pub fn take(&self) -> Result<Option<RingRead>> {
        if lock(&self.asked).is_none() {
            return Ok(None);
        }
        self.gpu.poll()?;
        let mut asked = lock(&self.asked);
        match asked.take_if(|asked| asked.mapped.event.is_set()) {
            Some(came) => self.unpack(came).map(Some),
            None => Ok(None),
        }
    }
    /// What was asked for; waits for it, and so for all steps before. `None` where nothing was.
    pub async fn wait(&self) -> Result<Option<RingRead>> {
        let Some((submission, mapped)) = lock(&self.asked).as_ref().map(|a| (a.submission.clone(), a.mapped.clone())) else {
            return Ok(None);
        };
        if !mapped.event.is_set() {
            self.waits.fetch_add(1, Relaxed);
            self.gpu.wait(submission)?;
        }
        // Another thread's poll may be the one that calls back, a little later: so await it, without spinning.
        mapped.event.wait().await;
        self.take()
    }
    fn unpack(&self, came: Asked) -> Result<RingRead> {
        if !came.mapped.ok.load(Relaxed) {
            return Err(self.gpu.check().err().unwrap_or_else(|| self.gpu.error("a read-back could not be mapped")));
        }
        let words = came.count * self.width;
        let bytes = (words + GUARD) as u64 * 4;
        let view = self.staging.get_mapped_range(..bytes).map_err(|e| self.gpu.error(e.to_string()))?;
        let (rows, guard) = view.split_at(words * 4);
        let rows = rows.chunks_exact(self.width * 4).map(bytemuck::pod_collect_to_vec).collect();
        let kept = RingRead { first: came.first, rows, guard: bytemuck::pod_collect_to_vec(guard) };
        drop(view);
        self.staging.unmap();
        Ok(kept)
    }

    /// Reads asked for, times that somebody waited for one, and their bytes.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.reads, &self.waits, &self.bytes_read].map(|n| n.load(Relaxed))
    }
}
