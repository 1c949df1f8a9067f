//! Devices. A device runs plans. It is a GPU that wgpu can use, or the CPU.

use crate::{
    error::Result,
    gpu::{self, AdapterSummary, Choice, Gpu, GpuOptions},
    plan::{self, Draft, Plan},
    profile::Clock,
    threads, tune,
    world::{Tag, What, World},
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
    /// Returns the device of this rank. The environment variable `DOWNHILL_DEVICE` names it as in [`parse`](Device::parse): `cpu`, `gpu`
    /// or a part of an adapter's name. Without the variable, ranks take hardware GPUs, and the CPU device where there are none. Ranks
    /// may have devices of different kinds.
    ///
    /// The ranks of a machine go around its adapters by their [local rank](World::local_rank): with two GPUs, the third rank shares the first
    /// GPU. If several ranks of a machine may use the same cores, each of them takes its share of the cores, and the threads of the CPU
    /// device stay there. If the launcher has bound the ranks to cores, they stay as they are. Only Linux can do this.
    ///
    /// Every rank must call this function, before any other work: threads that run already stay where they are.
    ///
    /// ```
    /// use downhill::{Device, World};
    /// let device = Device::for_rank(&World::alone())?;
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// There is no such adapter, or it does not open. [`Error::Rank`](crate::Error::Rank) if another rank is gone.
    pub fn for_rank(world: &World) -> Result<Device> {
        Device::for_rank_with(world, "best", &GpuOptions::default())
    }
    /// [`for_rank`](Device::for_rank), with options for opening a GPU. A `text` other than `best` names the device in place of the
    /// environment variable. `options.name` and `options.software` are ignored.
    ///
    /// # Errors
    /// The errors of [`for_rank`](Device::for_rank).
    pub fn for_rank_with(world: &World, text: &str, options: &GpuOptions) -> Result<Device> {
        take_cores(world)?;
        let set = std::env::var("DOWNHILL_DEVICE").ok().filter(|_| text == "best");
        let text = set.as_deref().unwrap_or(text);
        let nth = |name: Option<&str>, software| {
            let options = GpuOptions { name: name.map(str::to_string), software, ..options.clone() };
            let gpu = pollster::block_on(gpu::open_nth(&options, world.local_rank()))?;
            Ok(Device { gpu: Some(gpu), why: format!("the adapter of rank {}", world.rank()) })
        };
        let opened = match text {
            "cpu" => Ok(Device::cpu()),
            "best" => nth(None, false).or_else(|_| Device::parse_with("best", options)),
            "gpu" => nth(None, true),
            name => nth(Some(name), true),
        };
        opened.inspect_err(|error| world.fail(error))
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

/// Gives this process its share of the cores, if it shares them with other ranks.
fn take_cores(world: &World) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    // The name of the machine, the process and its cores.
    type Seat = (String, u32, Vec<usize>);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let own: Seat = (host, std::process::id(), threads::cores());
    let bytes = serde_json::to_vec(&own).expect("texts and numbers can be written");
    let all = world.gather(Tag { step: 0, what: What::Hello }, bytes).wait()?;
    let seats: Vec<Seat> = all.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect();
    let here: Vec<&Seat> = seats.iter().filter(|seat| seat.0 == own.0).collect();
    // Ranks that are threads of one process share its threads.
    let processes = here.iter().filter(|seat| seat.1 == own.1).count() == 1;
    if processes && here.len() > 1 && here.iter().all(|seat| seat.2 == own.2) {
        let cores = threads::part(&own.2, world.local_rank(), world.local_size());
        if !cores.is_empty() && threads::stay_on(cores) {
            // The threads of the CPU device start here, so that they stay on these cores too.
            let threads = rayon::current_num_threads();
            log::debug!("rank {} stays on the cores {cores:?}, with {threads} threads", world.rank());
        }
    }
    Ok(())
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
