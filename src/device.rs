//! Devices. A device runs plans. It is a GPU that wgpu can use, or the CPU.

use crate::{
    error::Result,
    gpu::{self, AdapterSummary, Choice, Gpu, GpuOptions},
    plan::{self, Draft, Plan},
    profile::Clock,
    tune,
};
use std::{fmt, sync::Arc};

/// A device: a GPU or the CPU. Cloning is cheap, and clones use the same device.
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
    /// Returns the CPU device. It computes in `f32` on all cores.
    pub fn cpu() -> Device {
        Device { gpu: None, why: "asked for".into() }
    }
    /// Returns the best hardware GPU, or the CPU device if no hardware GPU opens. A software Vulkan adapter is never chosen,
    /// because it is slower than the CPU device. [`Device::named`] and [`Device::gpu`] can return a software adapter.
    ///
    /// # Errors
    /// None at present. If no GPU opens, [`why`](Device::why) states the reason.
    pub fn best() -> Result<Device> {
        pollster::block_on(Device::best_async())
    }
    /// [`best`](Device::best), without blocking.
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
    /// Returns the best GPU. If there is no hardware GPU, returns a software adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) if there is no adapter.
    pub fn gpu() -> Result<Device> {
        Device::open(&GpuOptions { software: true, ..GpuOptions::default() })
    }
    /// Returns the adapter with the name `part`. If no adapter has exactly this name, returns the best adapter with `part` in
    /// its name. Upper and lower case are then equal. The name `cpu` stands for the CPU device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) if no name contains `part`. The error lists the adapters of the machine.
    pub fn named(part: &str) -> Result<Device> {
        Device::named_with(part, &GpuOptions::default())
    }
    fn named_with(part: &str, options: &GpuOptions) -> Result<Device> {
        match part {
            "cpu" => Ok(Device::cpu()),
            _ => Device::open(&GpuOptions { name: Some(part.to_string()), software: true, ..options.clone() }),
        }
    }
    /// Opens a GPU with the given options.
    pub fn open(options: &GpuOptions) -> Result<Device> {
        pollster::block_on(Device::open_async(options))
    }
    /// [`open`](Device::open), without blocking.
    pub async fn open_async(options: &GpuOptions) -> Result<Device> {
        Ok(Device { gpu: Some(gpu::open(options).await?), why: "asked for".into() })
    }
    /// Opens every GPU that `options` allow, and returns them with the best first. For a GPU that does not open, the list has
    /// the error. If several backends offer an adapter, the list has the adapter once for each backend.
    ///
    /// # Errors
    /// [`Error::NoAdapter`](crate::Error::NoAdapter) if `options` allow no adapter. The error lists the adapters of the machine.
    pub fn open_all(options: &GpuOptions) -> Result<Vec<(AdapterSummary, Result<Device>)>> {
        let all = pollster::block_on(gpu::open_all(options))?.into_iter();
        Ok(all.map(|(summary, gpu)| (summary, gpu.map(|gpu| Device { gpu: Some(gpu), why: "asked for".into() }))).collect())
    }
    /// Returns the device that `text` names: `best`, `cpu`, `gpu` or a part of an adapter's name. The examples pass the value
    /// of their option `--device`.
    pub fn parse(text: &str) -> Result<Device> {
        Device::parse_with(text, &GpuOptions::default())
    }
    /// [`parse`](Device::parse), with options for opening a GPU. `text` alone chooses the GPU, so `options.name` and
    /// `options.software` are ignored.
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
    /// Returns the adapters of this machine, with the best first. The list does not contain the CPU device, which is always
    /// available.
    pub fn list() -> Vec<AdapterSummary> {
        pollster::block_on(gpu::adapters())
    }
    /// Returns the reason why this device was chosen.
    pub fn why(&self) -> &str {
        &self.why
    }
    /// Returns the adapter's name, or `CPU (n threads)`.
    pub fn name(&self) -> String {
        match &self.gpu {
            Some(gpu) => gpu.summary().name.clone(),
            None => format!("CPU ({} threads)", rayon::current_num_threads()),
        }
    }
    /// Returns the driver's name and version. For the CPU device, returns the name and version of this crate.
    pub fn driver(&self) -> String {
        match &self.gpu {
            Some(gpu) => gpu.summary().driver.clone(),
            None => concat!("downhill ", env!("CARGO_PKG_VERSION")).to_string(),
        }
    }
    /// Describes the adapter, the driver, the limits and the features on several lines.
    pub fn describe(&self) -> String {
        self.gpu.as_ref().map_or_else(|| format!("{}\ndriver      {}", self.name(), self.driver()), |gpu| gpu.describe())
    }
    /// Returns the bytes of the device's memory, or `None` if they are not known. For a GPU, this is its own memory. For a
    /// software adapter, this is the number that the driver states. For the CPU device, this is the memory of the machine.
    pub fn memory_bytes(&self) -> Option<u64> {
        match &self.gpu {
            Some(gpu) => gpu.memory_bytes(),
            // Only Linux states the machine's memory in a file.
            None => {
                let text = std::fs::read_to_string("/proc/meminfo").ok()?;
                let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
                total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
            }
        }
    }
    /// Returns the clock that measures the time of kernels.
    pub(crate) fn clock(&self) -> Clock {
        self.gpu.as_ref().map_or(Clock::Host, |gpu| gpu.clock())
    }
    /// Returns the GPU, or `None` for the CPU device.
    pub fn as_gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }
    /// Returns the options for lowering a graph for this device. Compiling a graph for the device measures kernels.
    /// [`Plan::new`](plan::Plan::new) measures no kernels.
    pub fn plan_options(&self) -> plan::PlanOptions {
        let mut options = plan::PlanOptions::new(self.gpu.as_ref().map(|gpu| *gpu.caps()));
        if let Some(gpu) = &self.gpu {
            options.candidate = (gpu.options().choice == Choice::Portable).then_some(0);
            options.choices = Some(gpu.measured().clone());
        }
        options
    }
    /// Lowers a draft to a plan. On a GPU, it first measures the candidates of each op that has no chosen kernel yet.
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
