//! Measures how long a plan takes on the device.

use crate::{
    error::Result,
    gpu::{
        device::Gpu,
        exec::{GpuExec, StepRow},
    },
};
use std::time::{Duration, Instant};

impl GpuExec {
    /// Returns the time of one run of the plan. `times` runs are submitted together and their time is divided by `times`. The
    /// device's clock measures the runs. Without such a clock, the host measures the time from the submit to its end.
    pub(crate) async fn time(&self, gpu: &Gpu, times: usize) -> Result<Duration> {
        let count = times.max(1) as u32;
        let row = StepRow::default();
        if !gpu.has(wgpu::Features::TIMESTAMP_QUERY) {
            let encoder = self.encode(&row, times, None);
            let started = Instant::now();
            gpu.wait(gpu.queue.submit([encoder.finish()]))?;
            return Ok(started.elapsed() / count);
        }
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let ticks = gpu.buffers(&[("timestamps".to_string(), 16)], usage).await?.remove(0);
        let run = gpu.scoped("timestamps", |device| {
            let query_set =
                device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("run"), ty: wgpu::QueryType::Timestamp, count: 2 });
            let (first, last) = (Some(0), Some(1));
            let stamps = wgpu::ComputePassTimestampWrites {
                query_set: &query_set,
                beginning_of_pass_write_index: first,
                end_of_pass_write_index: last,
            };
            let mut encoder = self.encode(&row, times, Some(stamps));
            encoder.resolve_query_set(&query_set, 0..2, &ticks, 0);
            let started = Instant::now();
            (gpu.queue.submit([encoder.finish()]), started)
        });
        let (submission, started) = run.await?;
        gpu.wait(submission)?;
        let outside = started.elapsed();
        let words: Vec<u32> = gpu.read(&[(&ticks, 0, 4)]).await?;
        let [first, last] = [0, 2].map(|i| u64::from(words[i]) | u64::from(words[i + 1]) << 32);
        let inside = Duration::from_nanos((last.wrapping_sub(first) as f64 * f64::from(gpu.queue.get_timestamp_period())) as u64);
        // The device's clock is ignored if it does not move or if it shows more time than the host's clock.
        Ok(if inside.is_zero() || inside > outside { outside } else { inside } / count)
    }
}
