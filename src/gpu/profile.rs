//! Measures a step with a clock around each dispatch.

use crate::{
    error::Result,
    gpu::{
        device::Gpu,
        exec::{GpuExec, StepRow},
        lower::Dispatch,
    },
    optim::Hyper,
    plan::Gather,
    profile::{Clock, StepTimes},
};
use std::time::Instant;

/// The number of dispatches that one query set can time. Each dispatch needs two queries.
const SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// The clocks of one measured step.
pub(super) struct Clocks {
    /// The start of the profile. All times are seconds from it.
    zero: Instant,
    /// The start of the step.
    begun: f64,
    /// Two timestamps for each dispatch, and the buffer for their values. `None` if the device has no clock.
    queries: Option<(Vec<wgpu::QuerySet>, wgpu::Buffer)>,
    /// The kernel number of each dispatch.
    kernels: Vec<usize>,
    times: StepTimes,
}

impl Clocks {
    async fn new(gpu: &Gpu, dispatches: usize, zero: Instant) -> Result<Clocks> {
        let queries = match gpu.clock() {
            Clock::Timestamps => {
                let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
                let resolved = gpu.buffers(&[("timestamps".into(), 16 * dispatches.max(1) as u64)], usage).await?.remove(0);
                let made = gpu.scoped("timestamps", |device| {
                    let set = |first: usize| {
                        let count = 2 * SET.min(dispatches - first) as u32;
                        device.create_query_set(&wgpu::QuerySetDescriptor {
                            label: Some("timestamps"),
                            ty: wgpu::QueryType::Timestamp,
                            count,
                        })
                    };
                    (0..dispatches).step_by(SET).map(set).collect()
                });
                Some((made.await?, resolved))
            }
            _ => None,
        };
        Ok(Clocks {
            zero,
            begun: zero.elapsed().as_secs_f64(),
            queries,
            kernels: Vec::with_capacity(dispatches),
            times: StepTimes::default(),
        })
    }
    /// Records the host's work since the last call.
    pub fn lap(&mut self, name: &'static str) {
        self.times.lap(name, self.zero, self.begun);
    }
    /// Copies the timestamps to a buffer that can be read.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let Some((sets, resolved)) = &self.queries else { return };
        // A step that does not run all phases has fewer dispatches.
        for (i, set) in sets.iter().enumerate().take(self.kernels.len().div_ceil(SET)) {
            let count = 2 * SET.min(self.kernels.len() - i * SET) as u32;
            encoder.resolve_query_set(set, 0..count, resolved, 16 * (i * SET) as u64);
        }
    }
    /// Returns the times. The step must be done.
    async fn read(mut self, gpu: &Gpu) -> Result<StepTimes> {
        let Some((_, resolved)) = &self.queries else { return Ok(self.times) };
        let words: Vec<u32> = gpu.read(&[(resolved, 0, 4 * self.kernels.len())]).await?;
        let ticks: Vec<u64> = words.as_chunks::<2>().0.iter().map(|&[low, high]| u64::from(high) << 32 | u64::from(low)).collect();
        let first = ticks.first().copied().unwrap_or(0);
        let period = f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
        // The device has its own clock. So the first dispatch is placed where the host began to submit.
        let start = self.times.host.iter().find(|h| h.0 == "submit").map_or(self.begun, |h| h.1);
        let mut end = start;
        for (&kernel, &[from, to]) in self.kernels.iter().zip(ticks.as_chunks::<2>().0) {
            let [from, to] = [from, to].map(|t| start + t.saturating_sub(first) as f64 * period);
            // Dispatches that do not depend on each other may overlap. So each dispatch counts from the end of the previous
            // one.
            let from = from.max(end);
            end = to.max(from);
            self.times.device.push((kernel, from, end));
        }
        self.lap("read clocks");
        Ok(self.times)
    }
}

/// Encodes dispatches of one step. The step's row is at offset `at`. Without clocks, all dispatches share one pass. With
/// clocks, each dispatch has its own pass. If the device has no timestamps, each dispatch is also submitted and awaited here.
pub(super) fn record<'a>(
    gpu: &Gpu,
    encoder: &mut wgpu::CommandEncoder,
    dispatches: impl Iterator<Item = &'a Dispatch>,
    (rows, at): (&wgpu::BindGroup, u32),
    clocks: Option<&mut Clocks>,
) -> Result<()> {
    let label = Some("step");
    let Some(clocks) = clocks else {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: None });
        dispatches.for_each(|dispatch| dispatch.encode(&mut pass, rows, at));
        return Ok(());
    };
    for dispatch in dispatches {
        let i = clocks.kernels.len();
        clocks.kernels.push(dispatch.kernel);
        if let Some((sets, _)) = &clocks.queries {
            let (set, query) = (&sets[i / SET], 2 * (i % SET) as u32);
            let times = wgpu::ComputePassTimestampWrites {
                query_set: set,
                beginning_of_pass_write_index: Some(query),
                end_of_pass_write_index: Some(query + 1),
            };
            let descriptor = wgpu::ComputePassDescriptor { label, timestamp_writes: Some(times) };
            dispatch.encode(&mut encoder.begin_compute_pass(&descriptor), rows, at);
        } else {
            let mut own = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
            dispatch.encode(&mut own.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: None }), rows, at);
            let commands = own.finish();
            let start = clocks.zero.elapsed().as_secs_f64();
            gpu.wait(gpu.queue.submit([commands]))?;
            clocks.times.device.push((dispatch.kernel, start, clocks.zero.elapsed().as_secs_f64()));
        }
    }
    if clocks.queries.is_none() {
        clocks.lap("kernels");
    }
    Ok(())
}

impl Gpu {
    /// Returns the clock that measures a dispatch on this device.
    pub(crate) fn clock(&self) -> Clock {
        match self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            true => Clock::Timestamps,
            false => Clock::Waits,
        }
    }
    /// Returns the time in seconds of the driver's copy of `bytes` bytes between two buffers. The fastest of several copies
    /// counts.
    pub(crate) async fn copy_seconds(&self, bytes: u64) -> Result<f64> {
        const COPIES: u32 = 2;
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffers = self.buffers(&[("copy from".into(), bytes), ("copy to".into(), bytes)], usage).await?;
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let start = Instant::now();
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("copy") });
            for _ in 0..COPIES {
                encoder.copy_buffer_to_buffer(&buffers[0], 0, &buffers[1], 0, Some(bytes));
            }
            self.wait(self.queue.submit([encoder.finish()]))?;
            best = best.min(start.elapsed().as_secs_f64() / f64::from(COPIES));
        }
        Ok(best)
    }
}

impl GpuExec {
    /// Runs one step as [`submit`](GpuExec::submit) does, waits for it and measures it. Times are in seconds from `zero`.
    pub(crate) async fn profile(
        &mut self,
        row: &StepRow,
        hyper: &[Hyper],
        fed: bool,
        gather: Gather<'_>,
        zero: Instant,
    ) -> Result<StepTimes> {
        self.finish()?;
        let mut clocks = Clocks::new(self.gpu(), self.all_dispatches(fed), zero).await?;
        self.submit_pausing(row, hyper, fed, gather, Some(&mut clocks))?;
        self.finish()?;
        clocks.lap("wait");
        clocks.read(self.gpu()).await
    }
}
