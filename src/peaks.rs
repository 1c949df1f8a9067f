//! The peaks of a device, measured by ops that only compute or only copy.

use crate::{
    compiled::Compiled,
    device::Device,
    error::Result,
    graph::{Graph, Tensor},
    host::Host,
    ops::probe::Probe,
    profile::Peaks,
    threads::{chunk, chunks},
};
use std::{sync::OnceLock, time::Instant};

/// The shortest time of an arithmetic probe, in seconds. It is much longer than the start of a kernel, and much shorter than
/// the time after which an operating system stops a kernel.
const LONG: f64 = 3e-3;

impl Device {
    /// Returns the best arithmetic and memory speeds of this device. Two small probes measure the speeds at the first call, in
    /// some tenths of a second. Other programs that run at the same time lower the measured speeds.
    ///
    /// ```
    /// let peaks = downhill::Device::cpu().peaks()?;
    /// println!("{peaks}");
    /// assert!(peaks.gflops > 0.1 && peaks.gbps > 0.1);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// An error if the device fails or there is no memory for the copy.
    pub fn peaks(&self) -> Result<Peaks> {
        pollster::block_on(self.peaks_async())
    }
    /// The asynchronous form of [`peaks`](Device::peaks). It does not block.
    pub async fn peaks_async(&self) -> Result<Peaks> {
        static CPU: OnceLock<Peaks> = OnceLock::new();
        let known = self.as_gpu().map_or(&CPU, |gpu| &gpu.peaks);
        if let Some(peaks) = known.get() {
            return Ok(*peaks);
        }
        let peaks = match self.as_gpu() {
            Some(_) => Peaks { gflops: self.multiply_add().await?, gbps: self.copy().await? },
            None => Peaks { gflops: self.product().await?, gbps: copy_here() },
        };
        Ok(*known.get_or_init(|| peaks))
    }
    /// Measures the arithmetic of the GPU, in 10⁹ operations a second.
    async fn multiply_add(&self) -> Result<f64> {
        // On a GPU, the number fills the largest GPU several times over. A software adapter needs fewer invocations.
        let invocations = if self.is_software() { 1 << 13 } else { 1 << 20 };
        let mut rounds = 32;
        loop {
            let probe = Probe::MultiplyAdd { invocations, rounds };
            let mut f = self.probe(Host::new([2], vec![0.5, 1.0]), |x| x.graph().apply(probe, &[x])).await?;
            let (seconds, flops) = fastest(&mut f, 1).await?;
            if seconds >= LONG || rounds >= 1 << 16 {
                return Ok(flops as f64 / seconds.min(fastest(&mut f, 3).await?.0) / 1e9);
            }
            rounds *= if seconds < LONG / 16.0 { 8 } else { 2 };
        }
    }
    /// Measures the memory of the GPU, in 10⁹ bytes a second. The faster result of a kernel and of the driver's own copy
    /// counts.
    async fn copy(&self) -> Result<f64> {
        let Some(gpu) = self.as_gpu() else { return Ok(copy_here()) };
        // The size is larger than the caches but within the limits.
        let bytes = gpu.caps().max_binding_bytes.min(if self.is_software() { 32 << 20 } else { 128 << 20 });
        let n = bytes as usize / 4;
        let kernel = {
            let mut f = self.probe(Host::new([n], vec![1.0; n]), |x| x.graph().apply(Probe::Copy, &[x])).await?;
            fastest(&mut f, 2).await?.0
        };
        Ok(2.0 * bytes as f64 / kernel.min(gpu.copy_seconds(bytes).await?) / 1e9)
    }
    /// Measures the arithmetic of the CPU by matrix products, in 10⁹ operations a second. Small products finish before other
    /// programs can disturb them. Large products use many cores.
    async fn product(&self) -> Result<f64> {
        let mut best = 0f64;
        let many = rayon::current_num_threads() > 8;
        for (n, runs) in [(256, 48), (512, 8), (1024, 4)].into_iter().filter(|&(n, _)| n < 1024 || many) {
            let mut f = self.probe(Host::new([n, n], vec![1.0; n * n]), |x| x.matmul(x)).await?;
            let (seconds, flops) = fastest(&mut f, runs).await?;
            best = best.max(flops as f64 / seconds / 1e9);
        }
        Ok(best)
    }
    fn is_software(&self) -> bool {
        self.as_gpu().is_some_and(|gpu| gpu.caps().software)
    }
    /// Compiles an op with one input and loads the input.
    async fn probe(&self, x: Host<f32>, op: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g>) -> Result<Compiled> {
        let g = Graph::inference();
        let mut options = self.plan_options();
        options.candidate = if self.as_gpu().is_some() { Some(0) } else { None };
        let mut f = Compiled::new_async(self, &[op(g.input(x.shape))], &options, 0).await?;
        f.load(&[x])?;
        Ok(f)
    }
}

/// Returns the shortest time of several runs in seconds, and the number of operations in one run. A first run warms up and
/// does not count.
async fn fastest(f: &mut Compiled, runs: usize) -> Result<(f64, u64)> {
    let (zero, mut best) = (Instant::now(), f64::INFINITY);
    for run in 0..=runs {
        let seconds: f64 = f.measure(zero).await?.device.iter().map(|d| d.2 - d.1).sum();
        if run > 0 {
            best = best.min(seconds);
        }
    }
    Ok((best.max(1e-9), f.kernels().iter().map(|k| k.flops).sum()))
}

/// Measures the memory of this machine by a copy on all threads, in 10⁹ bytes a second.
fn copy_here() -> f64 {
    const N: usize = 64 << 20;
    let (from, mut to) = (vec![1u32; N / 4], vec![0u32; N / 4]);
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        chunks(&mut to, 1 << 16, |k, to| to.copy_from_slice(chunk(&from, 1 << 16, k)));
        best = best.min(start.elapsed().as_secs_f64());
    }
    // The result must be used, or the compiler may remove the copy.
    std::hint::black_box(&to);
    2.0 * N as f64 / best / 1e9
}
