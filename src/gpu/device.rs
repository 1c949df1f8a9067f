//! The list of adapters, and the open adapter.
//!
//! No function here panics when the machine or its driver fails. An error of wgpu becomes [`Error::Device`] or
//! [`Error::Limit`]. An error inside an error scope is returned by the call that caused it. An error that wgpu reports later
//! is returned by the next call.

use crate::{
    choice::{
        Choice, ChoiceReport, Choices,
        cache::{self, DeviceKey},
    },
    error::{Error, Result},
    gpu::{options::GpuOptions, shader::Pipelines},
    kernel::Caps,
    profile::Peaks,
    threads::lock,
};
use futures_intrusive::channel::shared::oneshot_channel;
use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// The description of an adapter of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSummary {
    /// The name that the driver gives, e.g. `NVIDIA GeForce RTX 4070`.
    pub name: String,
    /// The graphics interface: `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// The driver's name and version. The text is empty if the backend does not report them.
    pub driver: String,
    /// The kind of adapter: `discrete GPU`, `integrated GPU`, `virtual GPU`, `software` or `other`.
    pub kind: &'static str,
    /// Whether the adapter is software that runs on the CPU.
    pub software: bool,
}

impl AdapterSummary {
    fn new(info: &wgpu::AdapterInfo) -> AdapterSummary {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        AdapterSummary {
            name: info.name.clone(),
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            kind,
            software: info.device_type == wgpu::DeviceType::Cpu,
        }
    }
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({}, {}", self.name, self.kind, self.backend)?;
        if !self.driver.is_empty() {
            write!(f, ", {}", self.driver)?;
        }
        f.write_str(")")
    }
}

/// Returns the adapters that wgpu finds, sorted by kind: discrete, integrated, virtual, other, software.
async fn enumerate(options: &GpuOptions) -> Vec<wgpu::Adapter> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Vec::new(); // Instance::new would panic.
    }
    let instance = wgpu::Instance::new(options.instance());
    let mut found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    found.retain(|a| a.get_info().backend != wgpu::Backend::Noop);
    use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};
    let mut sorted = Vec::new();
    for kind in [DiscreteGpu, IntegratedGpu, VirtualGpu, Other, Cpu] {
        sorted.extend(found.extract_if(.., |a| a.get_info().device_type == kind));
    }
    sorted
}

/// Returns a description of every adapter of this machine. The best adapter comes first.
pub async fn adapters() -> Vec<AdapterSummary> {
    enumerate(&GpuOptions::default()).await.iter().map(|a| AdapterSummary::new(&a.get_info())).collect()
}

impl GpuOptions {
    fn fit(&self, summary: &AdapterSummary) -> bool {
        match &self.name {
            Some(part) => summary.name.to_lowercase().contains(&part.to_lowercase()),
            None => self.software || !summary.software,
        }
    }
}

/// Opens the best adapter that `options` allow.
///
/// # Errors
/// [`Error::NoAdapter`] with the list of adapters if `options` allow none of them. [`Error::Device`] if no allowed adapter can
/// be opened.
pub async fn open(options: &GpuOptions) -> Result<Arc<Gpu>> {
    let found = enumerate(options).await;
    // An adapter whose whole name was given comes before an adapter whose name only contains the given text.
    let (exact, rest): (Vec<_>, Vec<_>) = found.iter().partition(|a| options.name.as_ref() == Some(&a.get_info().name));
    let mut failed = None;
    for adapter in exact.into_iter().chain(rest) {
        let summary = AdapterSummary::new(&adapter.get_info());
        if !options.fit(&summary) {
            continue;
        }
        match Gpu::new(adapter, summary, options).await {
            Ok(gpu) => return Ok(gpu),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| none(options, &found)))
}

/// Opens an adapter that `options` allow for one of several processes of a machine. Their numbers go around the adapters, the best first.
///
/// # Errors
/// The errors of [`open`].
pub(crate) async fn open_nth(options: &GpuOptions, number: usize) -> Result<Arc<Gpu>> {
    let found = enumerate(options).await;
    let all = || found.iter().map(|adapter| (adapter, AdapterSummary::new(&adapter.get_info())));
    let mut fit: Vec<_> = all().filter(|(_, summary)| options.fit(summary)).collect();
    // Several backends may offer one adapter. Software adapters serve where there is no hardware.
    let first = fit.first().map(|(_, summary)| (summary.backend.clone(), summary.software));
    fit.retain(|(_, summary)| Some((summary.backend.clone(), summary.software)) == first);
    match fit.len() {
        0 => Err(none(options, &found)),
        n => {
            let (adapter, summary) = fit.swap_remove(number % n);
            Gpu::new(adapter, summary, options).await
        }
    }
}

/// Opens every adapter that `options` allow. The best adapter comes first. The list holds an error for each adapter that
/// cannot be opened.
///
/// # Errors
/// [`Error::NoAdapter`] with the list of adapters if `options` allow none of them.
pub async fn open_all(options: &GpuOptions) -> Result<Vec<(AdapterSummary, Result<Arc<Gpu>>)>> {
    let (found, mut all) = (enumerate(options).await, Vec::new());
    for adapter in &found {
        let summary = AdapterSummary::new(&adapter.get_info());
        if options.fit(&summary) {
            all.push((summary.clone(), Gpu::new(adapter, summary, options).await));
        }
    }
    if all.is_empty() { Err(none(options, &found)) } else { Ok(all) }
}

fn none(options: &GpuOptions, found: &[wgpu::Adapter]) -> Error {
    Error::NoAdapter {
        wanted: match &options.name {
            Some(part) => format!("with `{part}` in its name"),
            None if options.software => "at all".to_string(),
            None => "that is hardware".to_string(),
        },
        available: found.iter().map(|a| AdapterSummary::new(&a.get_info()).to_string()).collect(),
    }
}

/// The faults that wgpu reported outside any call of this crate.
#[derive(Default)]
struct Faults {
    /// Why the device was lost. A lost device never comes back.
    lost: Option<String>,
    /// The first error that was reported since the last check.
    error: Option<String>,
}

/// An open adapter. It is shared as an `Arc`: every plan and every model on the adapter uses the same `Gpu`.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(super) pipelines: Pipelines,
    summary: AdapterSummary,
    limits: wgpu::Limits,
    features: wgpu::Features,
    options: GpuOptions,
    caps: Caps,
    faults: Arc<Mutex<Faults>>,
    /// The buffer for read-backs, if no read-back is using it now.
    staging: Mutex<Option<wgpu::Buffer>>,
    /// The number of buffers made so far, and the sum of their sizes in bytes.
    made: [AtomicU64; 2],
    /// The peaks of the device, once they are measured.
    pub(crate) peaks: OnceLock<Peaks>,
    choices: Arc<Choices>,
    /// The file that stores the driver's pipeline cache.
    kept: Option<cache::Blob>,
    /// The number of pipelines when the file was last written.
    written: AtomicUsize,
}

/// The largest read-back buffer that is reused. The losses and metrics of a step need much less.
const KEPT_STAGING: u64 = 16 << 20;

/// Intel's number as a vendor on the PCI bus.
const INTEL: u32 = 0x8086;

impl Gpu {
    async fn new(adapter: &wgpu::Adapter, summary: AdapterSummary, options: &GpuOptions) -> Result<Arc<Gpu>> {
        let (info, own) = (adapter.get_info(), adapter.limits());
        let choice = options.choice_on(&summary.backend, adapter.features().contains(wgpu::Features::SUBGROUP));
        let options = GpuOptions { choice, ..options.clone() };
        let limits = options.limits.map_or(own.clone(), |limits| limits.of_wgpu().or_worse_values_from(&own));
        let folder = (options.choice == Choice::Measured).then(|| cache::folder(options.cache.clone())).flatten();
        let mut optional = wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
        optional.set(wgpu::Features::PIPELINE_CACHE, folder.is_some());
        let features = if options.features { adapter.features() & optional } else { wgpu::Features::empty() };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("downhill"),
            required_features: features,
            required_limits: limits.clone(),
            ..Default::default()
        };
        let opened = adapter.request_device(&descriptor).await;
        let (device, queue) = opened.map_err(|e| Error::Device { device: summary.to_string(), why: e.to_string() })?;

        let faults = Arc::new(Mutex::new(Faults::default()));
        let (lost, error) = (faults.clone(), faults.clone());
        device.set_device_lost_callback(move |reason, why| {
            lock(&lost).lost.get_or_insert(format!("the device was lost ({reason:?}): {why}"));
        });
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            lock(&error).error.get_or_insert(message(&e));
        }));

        let subgroups = features.contains(wgpu::Features::SUBGROUP) && options.choice != Choice::Portable;
        let caps = Caps {
            max_bindings: limits.max_storage_buffers_per_shader_stage as usize,
            max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / 4 * 4,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_invocations: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            software: summary.software,
            subgroups: equal(info.subgroup_min_size, info.subgroup_max_size).filter(|_| subgroups),
            few_registers: info.vendor == INTEL && !summary.software,
        };
        let file = wgpu::util::pipeline_cache_key(&info).filter(|_| features.contains(wgpu::Features::PIPELINE_CACHE));
        let kept = folder.as_ref().zip(file).map(|(folder, name)| {
            let owner = format!("{info:?} {:?}", vulkan(&device).map(|device| device.pipeline_cache_uuid));
            cache::Blob::new(folder.join(format!("{name}.bin")), owner)
        });
        let known = match &kept {
            Some(kept) => Some(pipeline_cache(&device, kept.read()).await),
            None => None,
        };
        let pipelines = Pipelines::new(&device, known);
        let driver = options.driver(&summary.backend, &summary.driver);
        let key = DeviceKey::new([&summary.name, summary.kind, &summary.backend, &driver], &caps, options.checked);
        let choices = Arc::new(Choices::new(folder.map(|folder| cache::ChoiceFile::new(&folder, key))));
        let (staging, written) = (Mutex::new(None), AtomicUsize::new(0));
        let (made, peaks) = (Default::default(), OnceLock::new());
        Ok(Arc::new(Gpu {
            device,
            queue,
            pipelines,
            summary,
            limits,
            features,
            options,
            caps,
            faults,
            staging,
            made,
            peaks,
            choices,
            kept,
            written,
        }))
    }

    /// Returns the name, kind, backend and driver of the adapter.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }
    /// Returns the capabilities of the device that decide which kernels can run.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }
    /// Returns the options with which the adapter was opened.
    pub fn options(&self) -> &GpuOptions {
        &self.options
    }
    /// Returns the kernels chosen so far for ops with several kernels, with the reason for each choice. See [`Choice`].
    pub fn choices(&self) -> ChoiceReport {
        ChoiceReport { device: self.summary.to_string(), classes: self.choices.all() }
    }
    /// Returns the measurements and choices for this device.
    pub(crate) fn measured(&self) -> &Arc<Choices> {
        &self.choices
    }
    /// Returns whether the device uses this feature.
    pub(crate) fn has(&self, feature: wgpu::Features) -> bool {
        self.features.contains(feature)
    }
    /// Writes the driver's pipeline cache to its file if there are new pipelines.
    pub(crate) fn keep_pipelines(&self) {
        let count = self.pipeline_count();
        if let Some(kept) = self.kept.as_ref().filter(|_| self.written.swap(count, Relaxed) != count) {
            self.compiled().inspect(|data| kept.write(data));
        }
    }
    /// Returns the largest size of a buffer in bytes.
    pub fn max_buffer_bytes(&self) -> u64 {
        self.limits.max_buffer_size / 4 * 4
    }
    /// Returns the device memory in use in bytes: parameters, plans, and wgpu's staging memory for uploads. Returns `None` if
    /// the backend does not report its memory.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }
    /// Returns the number of buffers made so far and the sum of their sizes in bytes. Buffers for models, plans and read-backs
    /// count.
    pub fn buffers_made(&self) -> (u64, u64) {
        (self.made[0].load(Relaxed), self.made[1].load(Relaxed))
    }
    /// Returns the size of the device's largest own heap in bytes, or `None` if the size is unknown. A GPU that shares the
    /// machine's memory reports the part that the driver lets the GPU use.
    pub fn memory_bytes(&self) -> Option<u64> {
        vulkan(&self.device)?.heap
    }
    pub(crate) fn limits(&self) -> &wgpu::Limits {
        &self.limits
    }
    /// Returns a text of several lines with the adapter, its limits and its features.
    pub fn describe(&self) -> String {
        let (s, l, mib) = (&self.summary, &self.limits, |bytes: u64| format!("{} MiB", bytes >> 20));
        let names: Vec<String> = self.features.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let subgroups = self.caps.subgroups.map_or("not used".to_string(), |lanes| format!("of {lanes} lanes"));
        [
            format!("adapter     {} ({})", s.name, s.kind),
            format!("backend     {}", s.backend),
            format!("driver      {}", s.driver),
            format!("buffers     up to {}, {} bound", mib(self.max_buffer_bytes()), mib(self.caps.max_binding_bytes)),
            format!("bindings    {} storage buffers a shader", self.caps.max_bindings),
            format!("workgroups  {} invocations, {} bytes shared", self.caps.max_invocations, self.caps.max_workgroup_bytes),
            format!("dispatches  {} groups a dimension", l.max_compute_workgroups_per_dimension),
            format!("subgroups   {subgroups}"),
            format!("features    {}", if names.is_empty() { "none".to_string() } else { names.join(", ") }),
        ]
        .join("\n")
    }

    pub(crate) fn error(&self, why: impl Into<String>) -> Error {
        Error::Device { device: self.summary.to_string(), why: why.into() }
    }

    /// Returns why the device was lost, or `None` if the device is not lost.
    pub(crate) fn lost(&self) -> Option<String> {
        lock(&self.faults).lost.clone()
    }

    /// Returns the error that wgpu reported since the last check, if wgpu reported an error.
    pub(crate) fn check(&self) -> Result<()> {
        let mut faults = lock(&self.faults);
        match faults.lost.clone().or(faults.error.take()) {
            Some(why) => Err(self.error(why)),
            None => Ok(()),
        }
    }

    /// Runs `make` and turns a wgpu error inside `make` into an error of this call. The reason in the error begins with `what`.
    /// `make` runs at once, because an error scope belongs to a thread. The returned future may be awaited on another thread.
    pub(crate) fn scoped<'a, T, F: FnOnce(&wgpu::Device) -> T>(
        &'a self,
        what: &str,
        make: F,
    ) -> impl Future<Output = Result<T>> + use<'a, T, F> {
        let scopes = self.scopes();
        let made = make(&self.device);
        let checked = self.checked(what.to_string(), scopes);
        async move { checked.await.map(|()| made) }
    }
    /// Opens an error scope for a lack of memory, one for internal errors, and one for invalid calls.
    fn scopes(&self) -> [wgpu::ErrorScopeGuard; 3] {
        use wgpu::ErrorFilter::{Internal, OutOfMemory, Validation};
        [OutOfMemory, Internal, Validation].map(|filter| self.device.push_error_scope(filter))
    }
    /// Closes the scopes now. Returns their first error later.
    fn checked(&self, what: String, [memory, internal, validation]: [wgpu::ErrorScopeGuard; 3]) -> impl Future<Output = Result<()>> {
        let (validation, internal, memory) = (validation.pop(), internal.pop(), memory.pop());
        async move {
            // A lack of memory makes all later commands invalid too. So the lack of memory is the error to report.
            match memory.await.or(internal.await).or(validation.await) {
                Some(error) => Err(self.error(format!("{what}: {}", message(&error)))),
                None => self.check(),
            }
        }
    }

    /// Returns an error if a buffer of `need` bytes would be larger than this device allows.
    pub(crate) fn check_size(&self, what: &str, need: u64) -> Result<()> {
        let limit = self.max_buffer_bytes();
        if need <= limit {
            return Ok(());
        }
        Err(Error::Limit { what: what.to_string(), need, limit, advice: "use a smaller batch or a smaller layer".into() })
    }

    /// Makes buffers with these labels and sizes in bytes. All bytes are zero.
    pub(crate) async fn buffers(&self, wanted: &[(String, u64)], usage: wgpu::BufferUsages) -> Result<Vec<wgpu::Buffer>> {
        for (what, bytes) in wanted {
            self.check_size(what, *bytes)?;
        }
        let total: u64 = wanted.iter().map(|(_, bytes)| bytes).sum();
        let largest =
            wanted.iter().max_by_key(|(_, bytes)| bytes).map_or(String::new(), |(what, bytes)| format!(", of which {bytes} for {what}"));
        let what = format!("{} buffers of together {total} bytes{largest}", wanted.len());
        let make = |device: &wgpu::Device| {
            let new = |(label, size): &(String, u64)| {
                device.create_buffer(&wgpu::BufferDescriptor { label: Some(label), size: *size, usage, mapped_at_creation: false })
            };
            wanted.iter().map(new).collect()
        };
        let buffers: Vec<wgpu::Buffer> = self.scoped(&what, make).await?;
        self.made[0].fetch_add(buffers.len() as u64, Relaxed);
        self.made[1].fetch_add(total, Relaxed);
        Ok(buffers)
    }

    /// Calls the callbacks of all finished work. Never waits.
    pub(crate) fn poll(&self) -> Result<()> {
        // wgpu may panic here too if the device is lost. See `wait`.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(wgpu::PollType::Poll)));
        self.check()?;
        polled.map(|_| ()).map_err(|_| self.error("the device was lost"))
    }
    /// Returns a flag. The flag becomes true when all work submitted so far is done and a thread [polls](Gpu::poll). A wait
    /// with a timeout of zero would give the same information, but wgpu 30 panics in such a wait if another thread polls
    /// meanwhile.
    pub(crate) fn done(&self) -> Arc<AtomicBool> {
        let done = Arc::new(AtomicBool::new(false));
        let tell = done.clone();
        self.queue.on_submitted_work_done(move || tell.store(true, Relaxed));
        done
    }
    /// Waits until the submission is done. On the web, `wait` returns at once, because the browser polls.
    pub(crate) fn wait(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        // wgpu 30 panics if a device is lost during the wait. The panic is caught and becomes an error.
        let done = catch_unwind(AssertUnwindSafe(|| self.device.poll(wait)));
        self.check()?;
        match done {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(self.error(e.to_string())),
            Err(_) => Err(self.error("the device was lost while waiting for it")),
        }
    }

    /// Reads 32-bit words from buffers and joins them to one list. Each part is a buffer, a byte offset and a number of words.
    /// Waits until all submitted work is done.
    pub(crate) async fn read<T: bytemuck::Pod>(&self, parts: &[(&wgpu::Buffer, u64, usize)]) -> Result<Vec<T>> {
        assert_eq!(size_of::<T>(), 4, "buffers hold 32-bit words");
        self.check()?;
        let words: usize = parts.iter().map(|part| part.2).sum();
        if words == 0 {
            return Ok(Vec::new());
        }
        let bytes = words as u64 * 4;
        let kept = lock(&self.staging).take().filter(|b| b.size() >= bytes);
        let staging = match kept {
            Some(buffer) => buffer,
            None => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                self.buffers(&[(format!("read-back of {words} words"), bytes)], usage).await?.remove(0)
            }
        };
        let (sender, receiver) = oneshot_channel();
        let submission = self.scoped("read-back", |device| {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("read-back") });
            let mut at = 0;
            for &(buffer, offset, words) in parts {
                encoder.copy_buffer_to_buffer(buffer, offset, &staging, at, Some(words as u64 * 4));
                at += words as u64 * 4;
            }
            let index = self.queue.submit([encoder.finish()]);
            // Sending fails only if nobody waits for the read-back any more.
            staging.map_async(wgpu::MapMode::Read, ..bytes, move |mapped| drop(sender.send(mapped)));
            index
        });
        self.wait(submission.await?)?;
        // The poll of another thread may run the callback a little later. So the result is awaited, without a busy loop.
        match receiver.receive().await {
            Some(Ok(())) => {}
            _ => return Err(self.check().err().unwrap_or_else(|| self.error("a read-back could not be mapped"))),
        }
        let mut out = vec![T::zeroed(); words];
        {
            let view = staging.get_mapped_range(..bytes).map_err(|e| self.error(e.to_string()))?;
            bytemuck::cast_slice_mut(&mut out).copy_from_slice(&view);
        }
        staging.unmap();
        if bytes <= KEPT_STAGING {
            *lock(&self.staging) = Some(staging);
        }
        Ok(out)
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.summary.fmt(f)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Gpu({self})")
    }
}

/// Returns wgpu's error text. wgpu's out-of-memory error has no text, so this function gives one.
fn message(error: &wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => "out of device memory; use a smaller batch or a smaller model".to_string(),
        other => other.to_string(),
    }
}

/// Makes the driver's pipeline cache and fills it with the data of an earlier run. wgpu checks that the data belong to this
/// device and driver version. If the data do not belong to them, wgpu returns a cache that cannot compile anything. The loop
/// then makes an empty cache.
pub(super) async fn pipeline_cache(device: &wgpu::Device, mut data: Option<Vec<u8>>) -> wgpu::PipelineCache {
    loop {
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("downhill"), data: data.as_deref(), fallback: true };
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        // SAFETY: the data come from this driver. `Blob` checks by a hash that the data are whole and by a UUID that the
        // driver is the same.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        if scope.pop().await.is_none() || data.take().is_none() {
            return cache;
        }
    }
}

/// Returns the size of every subgroup of a device if the smallest and the largest size are equal. If they differ, the driver
/// may compile a kernel for any size between them. The order of a sum over subgroups, and so its bits, would be unknown.
fn equal(least: u32, most: u32) -> Option<u32> {
    (least == most && least > 0).then_some(least)
}

/// Properties of a device that Vulkan reports.
struct Vulkan {
    /// The size in bytes of the largest heap that is local to the device.
    heap: Option<u64>,
    /// The number of a device and driver that can share compiled pipelines.
    pipeline_cache_uuid: [u8; 16],
}

#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn vulkan(device: &wgpu::Device) -> Option<Vulkan> {
    // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    const LOCAL: u32 = 1;
    // SAFETY: this code changes, destroys and stores nothing of the driver. The device that lends the handles outlives this
    // function. Vulkan allows queries of memory and properties at any time and from any thread.
    let (memory, properties) = unsafe {
        let vulkan = device.as_hal::<wgpu::hal::vulkan::Api>()?;
        let (instance, device) = (vulkan.shared_instance().raw_instance(), vulkan.raw_physical_device());
        (instance.get_physical_device_memory_properties(device), instance.get_physical_device_properties(device))
    };
    let heaps = &memory.memory_heaps[..memory.memory_heap_count as usize];
    let heap = heaps.iter().filter(|h| h.flags.as_raw() & LOCAL != 0).map(|h| h.size).max();
    Some(Vulkan { heap, pipeline_cache_uuid: properties.pipeline_cache_uuid })
}

/// wgpu has no Vulkan on this system.
#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn vulkan(_: &wgpu::Device) -> Option<Vulkan> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subgroups_are_used_where_all_are_of_one_size() {
        // NVIDIA and a software adapter; then newer AMD, Intel and Apple, as wgpu reports them; then a device that does not say.
        assert_eq!([(32, 32), (8, 8)].map(|(least, most)| equal(least, most)), [Some(32), Some(8)]);
        assert_eq!([(32, 64), (8, 32), (4, 64), (0, 0)].map(|(least, most)| equal(least, most)), [None; 4]);
    }
}
