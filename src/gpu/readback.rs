//! Buffers into which the device copies, and which the host then reads.

use crate::{error::Result, gpu::device::Gpu};
use futures_intrusive::sync::ManualResetEvent;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

/// A buffer into which the device copies, and which the host then reads. It is made once and used for one read after the other.
pub(crate) struct Readback {
    gpu: Arc<Gpu>,
    pub(super) buffer: wgpu::Buffer,
    mapped: Arc<Mapped>,
}

struct Mapped {
    event: ManualResetEvent,
    ok: AtomicBool,
}

impl Readback {
    /// Makes a buffer for `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if there is not enough memory.
    pub async fn new(gpu: &Arc<Gpu>, label: String, bytes: u64) -> Result<Readback> {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let buffer = gpu.buffers(&[(label, bytes)], usage).await?.remove(0);
        let mapped = Arc::new(Mapped { event: ManualResetEvent::new(false), ok: AtomicBool::new(false) });
        Ok(Readback { gpu: gpu.clone(), buffer, mapped })
    }
    /// Asks for the first `bytes` bytes. The copies into the buffer must have been submitted, and the previous read must have been
    /// [taken](Readback::take).
    pub fn ask(&self, bytes: u64) {
        self.mapped.event.reset();
        let tell = self.mapped.clone();
        self.buffer.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            tell.ok.store(result.is_ok(), Relaxed);
            tell.event.set();
        });
    }
    /// Returns whether the bytes have arrived, by the last poll of the device. Never waits.
    pub fn is_here(&self) -> bool {
        self.mapped.event.is_set()
    }
    /// Waits for the bytes that the copies of `submission` bring.
    pub async fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        if !self.is_here() {
            self.gpu.wait(submission)?;
        }
        // The poll of another thread may run the callback a little later. So the event is awaited, without a busy loop.
        self.mapped.event.wait().await;
        Ok(())
    }
    /// Gives the first `bytes` bytes, which have arrived, to `read`. Then the buffer is free for the next read.
    pub fn take<T>(&self, bytes: u64, read: impl FnOnce(&[u8]) -> T) -> Result<T> {
        if !self.mapped.ok.load(Relaxed) {
            return Err(self.gpu.check().err().unwrap_or_else(|| self.gpu.error("a read-back could not be mapped")));
        }
        let view = self.buffer.get_mapped_range(..bytes).map_err(|e| self.gpu.error(e.to_string()))?;
        let result = read(&view);
        drop(view);
        self.buffer.unmap();
        Ok(result)
    }
}
