//! Where a plan runs: a GPU that wgpu reaches, or the CPU.

use crate::{
    error::Result,
    gpu::{self, AdapterSummary, Choice, Gpu, GpuOptions},
    plan::{self, Draft, Plan},
    profile::Clock,
    tune,
};
use std::{fmt, sync::Arc};

/// A device that trains: clone it freely.
///
/// ```
/// use downhill::Device;
/// let device = Device::best()?;
/// println!("{device}: {}", device.why());
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone)]
pub struct Device {
    gpu: Option<Arc<Gpu>>,
    why: String,
}

impl Device {
    /// The CPU: `f32`, all cores.
    pub fn cpu() -> Device {
        Device { gpu: None, why: "asked for".into() }
    }
    /// A real GPU where there is one, otherwise the CPU. A software Vulkan adapter is not chosen: it is slower than the
    /// CPU device; ask for it by [`Device::named`] or [`Device::gpu`].
    ///
    /// # Errors
    /// None today: a GPU that does not open is passed over, and [`why`](Device::why) says so.
    pub fn best() -> Result<Device> {
        pollster::block_on(Device::best_async())
    }
    /// [`best`](Device::best) without blocking.
    pub async fn best_async() -> Result<Device> {
        Device::best_with(&GpuOptions::default()).await
    }
    async fn best_with(options: &GpuOptions) -> Result<Device> {
        Ok(match gpu::open(options).await {
            Ok(gpu) => Device { why: "the best GPU of this machine".into(), gpu: Some(gpu) },
            Err(error) => {
                let software: Vec<String> = gpu::adapters().await.into_iter().filter(|a| a.software).map(|a| a.name).collect();
                let why = match software.is_empty() {
                    true => format!("no GPU: {error}"),
                    false => format!("no hardware GPU; {} is a software adapter, used only when asked for", software.join(", ")),
                };
                Device { gpu: None, why }
            }
        })
    }
    /// The best GPU, a software adapter where there is no other.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) where there is none.
    pub fn gpu() -> Result<Device> {
        Device::open(&GpuOptions { software: true, ..GpuOptions::default() })
    }
    /// The first adapter with `part` in its name, whatever the case; `cpu` is the CPU device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter), which lists what there is.
    pub fn named(part: &str) -> Result<Device> {
        Device::named_with(part, &GpuOptions::default())
    }
    fn named_with(part: &str, options: &GpuOptions) -> Result<Device> {
        match part {
            "cpu" => Ok(Device::cpu()),
            _ => Device::open(&GpuOptions { name: Some(part.to_string()), software: true, ..options.clone() }),
        }
    }
    /// A GPU opened with options of its own.
    pub fn open(options: &GpuOptions) -> Result<Device> {
        pollster::block_on(Device::open_async(options))
    }
    /// [`open`](Device::open) without blocking.
    pub async fn open_async(options: &GpuOptions) -> Result<Device> {
        Ok(Device { gpu: Some(gpu::open(options).await?), why: "asked for".into() })
    }
    /// Every GPU that `options` allow, opened, the best first; where one does not open, its error. An adapter that several
    /// backends offer is there once for each.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) where none is allowed, which lists what there is.
    pub fn open_all(options: &GpuOptions) -> Result<Vec<(AdapterSummary, Result<Device>)>> {
        let all = pollster::block_on(gpu::open_all(options))?.into_iter();
        Ok(all.map(|(summary, gpu)| (summary, gpu.map(|gpu| Device { gpu: Some(gpu), why: "asked for".into() }))).collect())
    }
    /// What `best`, `cpu`, `gpu` or a part of an adapter's name stands for: the values of an example's `--device`.
    pub fn parse(text: &str) -> Result<Device> {
        Device::parse_with(text, &GpuOptions::default())
    }
    /// [`parse`](Device::parse), and a GPU is opened with these options; those that say which one are those of `text`.
    ///
    /// ```
    /// use downhill::{Device, gpu::{Choice, GpuOptions}};
    /// let portable = GpuOptions { choice: Choice::Portable, ..GpuOptions::default() };
    /// let device = Device::parse_with("best", &portable)?;
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn parse_with(text: &str, options: &GpuOptions) -> Result<Device> {
        let any = GpuOptions { name: None, software: false, ..options.clone() };
        match text {
            "best" => pollster::block_on(Device::best_with(&any)),
            "gpu" => Device::open(&GpuOptions { software: true, ..any }),
            other => Device::named_with(other, &any),
        }
    }
    /// The adapters of this machine, the best first. The CPU device is always there besides.
    pub fn list() -> Vec<AdapterSummary> {
        pollster::block_on(gpu::adapters())
    }
    /// Why this device was chosen.
    pub fn why(&self) -> &str {
        &self.why
    }
    /// The adapter's name, or `CPU (n threads)`.
    pub fn name(&self) -> String {
        match &self.gpu {
            Some(gpu) => gpu.summary().name.clone(),
            None => format!("CPU ({} threads)", rayon::current_num_threads()),
        }
    }
    /// The driver's name and version; for the CPU device, this crate's.
    pub fn driver(&self) -> String {
        match &self.gpu {
            Some(gpu) => gpu.summary().driver.clone(),
            None => concat!("downhill ", env!("CARGO_PKG_VERSION")).to_string(),
        }
    }
    /// Adapter, driver, limits and features, over several lines.
    pub fn describe(&self) -> String {
        self.gpu.as_ref().map_or_else(|| format!("{}\ndriver      {}", self.name(), self.driver()), |gpu| gpu.describe())
    }
    /// Bytes of memory of its own, where that is known: a GPU's (of a software adapter, what the driver says), or this machine's.
    pub fn memory_bytes(&self) -> Option<u64> {
        match &self.gpu {
            Some(gpu) => gpu.memory_bytes(),
            // Linux alone says it in a file.
            None => {
                let text = std::fs::read_to_string("/proc/meminfo").ok()?;
                let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
                total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
            }
        }
    }
    /// How the time of its kernels is measured.
    pub(crate) fn clock(&self) -> Clock {
        self.gpu.as_ref().map_or(Clock::Host, |gpu| gpu.clock())
    }
    /// The GPU, or `None` for the CPU device.
    pub fn as_gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }
    /// How graphs are lowered for this device. Kernels are measured where a graph is compiled for it, not by
    /// [`Plan::new`](plan::Plan::new).
    pub fn plan_options(&self) -> plan::PlanOptions {
        let mut options = plan::PlanOptions::new(self.gpu.as_ref().map(|gpu| *gpu.caps()));
        if let Some(gpu) = &self.gpu {
            options.candidate = (gpu.options().choice == Choice::Portable).then_some(0);
            options.choices = Some(gpu.measured().clone());
        }
        options
    }
    /// The rest of the way from a graph to a plan: kernels are measured where none is chosen yet.
    pub(crate) async fn lower(&self, draft: Draft, options: &plan::PlanOptions) -> Result<Plan> {
        if let (Some(gpu), None) = (&self.gpu, options.candidate) {
            tune::measure(gpu, &draft).await?;
        }
        Ok(draft.lower(options))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.gpu {
            Some(gpu) => gpu.summary().fmt(f),
            None => f.write_str(&self.name()),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Device({self})")
    }
}
