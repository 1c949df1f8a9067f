//! A ring buffer on the device for the losses and metrics of steps. The host reads it without stopping the device.

use crate::{
    error::{Error, Result},
    gpu::{device::Gpu, readback::Readback, store::GpuStore},
    optim::{GUARD, MEASURED, ROW, Readouts},
    threads::lock,
};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// A ring buffer of rows, one row for each batch. The plans of a model share it. A row holds the first outputs of the batch,
/// each a single number. Then it holds the norm and the largest magnitude of the gradients, and the spread of the micro-batches, which the
/// last micro-batch of a step writes. If steps measure norms, another buffer has a row for each measurement.
///
/// A read has two parts: the request and the arrival. The request queues a copy behind all earlier steps. Later steps that
/// overwrite the same rows come after the copy. So the host waits for a read only if it wants to.
pub struct GpuRing {
    gpu: Arc<Gpu>,
    store: Arc<GpuStore>,
    pub(super) buffer: wgpu::Buffer,
    outputs: usize,
    width: usize,
    capacity: u64,
    pub(super) norms: Option<MeasuredRows>,
    staging: Readback,
    asked: Mutex<Option<Asked>>,
    reads: AtomicU64,
    waits: AtomicU64,
    bytes_read: AtomicU64,
}

/// The rows of the measured norms.
pub(super) struct MeasuredRows {
    pub buffer: wgpu::Buffer,
    /// The number of words in a row.
    pub words: u64,
    capacity: u64,
}

impl MeasuredRows {
    /// Returns the offset of a measurement in bytes.
    pub fn place(&self, number: u64) -> u64 {
        number % self.capacity * self.words * 4
    }
}

/// A read that was requested and has not been taken.
struct Asked {
    first: u64,
    count: usize,
    /// The number of measurements.
    norms: usize,
    submission: wgpu::SubmissionIndex,
}

/// The result of a read.
#[derive(Clone, Debug, PartialEq)]
pub struct RingRead {
    /// The first batch of the read.
    pub first: u64,
    /// The row of each batch.
    pub rows: Vec<Vec<f32>>,
    /// For each measurement, the rows of [`Control`](crate::optim::Control): [`ROW`] words for each parameter, then [`MEASURED`] words
    /// for each parameter.
    pub norms: Vec<Vec<f32>>,
    /// The guard after the last batch.
    pub guard: Vec<u32>,
}

impl GpuRing {
    /// Makes a ring for `capacity` batches with `outputs` outputs each, for the given readouts, with room for `measurements` measurements
    /// of norms.
    ///
    /// # Errors
    /// [`Error::Argument`] if one of the numbers is 0. [`Error::Device`] if there is not enough memory.
    pub async fn new(store: &Arc<GpuStore>, outputs: usize, capacity: usize, readouts: Readouts, measurements: usize) -> Result<GpuRing> {
        if outputs == 0 || capacity == 0 {
            return Err(Error::argument("ring", "a ring of no batches, or of no outputs, holds nothing"));
        }
        let width = outputs + readouts.tail();
        let (gpu, usage) = (store.gpu(), wgpu::BufferUsages::COPY_DST);
        let [bytes, guard] = [GpuRing::bytes(width, capacity), GUARD as u64 * 4];
        let label = format!("ring of {capacity} batches × {width}");
        let buffer = gpu.buffers(&[(label, bytes)], usage | wgpu::BufferUsages::COPY_SRC).await?.remove(0);
        let norms = GpuRing::norm_bytes(store.layout().ranges.len(), measurements);
        let staging = Readback::new(gpu, "read-back of the ring".into(), bytes + guard + norms).await?;
        let norms = match measurements {
            0 => None,
            n => {
                let wanted = [(format!("{n} measurements"), norms)];
                let buffer = gpu.buffers(&wanted, usage | wgpu::BufferUsages::COPY_SRC).await?.remove(0);
                Some(MeasuredRows { buffer, words: norms / 4 / n as u64, capacity: n as u64 })
            }
        };
        let [reads, waits, bytes_read] = [0; 3].map(AtomicU64::new);
        let (gpu, store, asked) = (gpu.clone(), store.clone(), Mutex::new(None));
        Ok(GpuRing { gpu, store, buffer, outputs, width, capacity: capacity as u64, norms, staging, asked, reads, waits, bytes_read })
    }
    /// Returns the size in bytes of a ring of `capacity` rows of `width` numbers.
    pub fn bytes(width: usize, capacity: usize) -> u64 {
        (width * capacity) as u64 * 4
    }
    /// Returns the size of the rows of `measurements` measurements in bytes, for a model with `params` parameters.
    pub(crate) fn norm_bytes(params: usize, measurements: usize) -> u64 {
        ((ROW + MEASURED) * params * measurements) as u64 * 4
    }
    /// Returns the size of such a ring and of its read-back buffer in bytes, without measurements. The read-back buffer also holds
    /// the guard.
    pub(crate) fn all_bytes(width: usize, capacity: usize) -> u64 {
        2 * GpuRing::bytes(width, capacity) + 4 * GUARD as u64
    }
    /// Returns the number of outputs in a row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
    /// Returns the offset of number `i` of a batch in bytes.
    pub(super) fn place(&self, batch: u64, i: usize) -> u64 {
        (batch % self.capacity * self.width as u64 + i as u64) * 4
    }

    /// Queues a read of the batches `first..first + count`, of the measurements `norms` and of the guard. The previous read must have been
    /// [taken](GpuRing::take).
    ///
    /// # Errors
    /// [`Error::Argument`] if `count` is 0 or larger than the ring, or if another read is pending.
    pub fn ask(&self, first: u64, count: usize, norms: Range<u64>) -> Result<()> {
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
        encoder.copy_buffer_to_buffer(&self.buffer, self.place(first, 0), &self.staging.buffer, 0, Some(before));
        if all > before {
            encoder.copy_buffer_to_buffer(&self.buffer, 0, &self.staging.buffer, before, Some(all - before));
        }
        encoder.copy_buffer_to_buffer(&self.store.control, 0, &self.staging.buffer, all, Some(guard));
        let mut end = all + guard;
        for number in norms.clone() {
            let rows = self.norms.as_ref().filter(|rows| norms.end - norms.start <= rows.capacity);
            let rows = rows.ok_or_else(|| Error::argument("ring", format!("measurements {norms:?} asked for, which it does not hold")))?;
            encoder.copy_buffer_to_buffer(&rows.buffer, rows.place(number), &self.staging.buffer, end, Some(4 * rows.words));
            end += 4 * rows.words;
        }
        let submission = self.gpu.queue.submit([encoder.finish()]);
        self.staging.ask(end);
        self.reads.fetch_add(1, Relaxed);
        self.bytes_read.fetch_add(end, Relaxed);
        *asked = Some(Asked { first, count, norms: (norms.end - norms.start) as usize, submission });
        self.gpu.check()
    }
    /// Returns the result of the pending read if it has arrived. Never waits.
    pub fn take(&self) -> Result<Option<RingRead>> {
        if lock(&self.asked).is_none() {
            return Ok(None);
        }
        self.gpu.poll()?;
        let mut asked = lock(&self.asked);
        match asked.take_if(|_| self.staging.is_here()) {
            Some(came) => self.unpack(came).map(Some),
            None => Ok(None),
        }
    }
    /// Waits for the pending read, and so for all earlier steps, and returns its result. Returns `None` if no read is pending.
    pub async fn wait(&self) -> Result<Option<RingRead>> {
        let Some(submission) = lock(&self.asked).as_ref().map(|asked| asked.submission.clone()) else { return Ok(None) };
        self.waits.fetch_add(u64::from(!self.staging.is_here()), Relaxed);
        self.staging.wait(submission).await?;
        self.take()
    }
    fn unpack(&self, came: Asked) -> Result<RingRead> {
        let words = came.count * self.width;
        let each = self.norms.as_ref().map_or(1, |rows| rows.words as usize);
        let bytes = (words + GUARD + came.norms * each) as u64 * 4;
        self.staging.take(bytes, |view| {
            let (rows, rest) = view.split_at(words * 4);
            let (guard, norms) = rest.split_at(GUARD * 4);
            let rows = rows.chunks_exact(self.width * 4).map(bytemuck::pod_collect_to_vec).collect();
            let norms = norms.chunks_exact(each * 4).map(bytemuck::pod_collect_to_vec).collect();
            RingRead { first: came.first, rows, norms, guard: bytemuck::pod_collect_to_vec(guard) }
        })
    }

    /// Returns whether the ring has rows for measured norms.
    pub(crate) fn measures(&self) -> bool {
        self.norms.is_some()
    }
    /// Returns the number of reads, the number of waits for a read, and the bytes of all reads.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.reads, &self.waits, &self.bytes_read].map(|n| n.load(Relaxed))
    }
}
