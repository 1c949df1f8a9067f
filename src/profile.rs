//! The profile of a training step: a table for people and a trace for [Perfetto](https://ui.perfetto.dev).

mod trace;

use crate::{
    error::Result,
    file,
    plan::{Step, report::size},
};
use serde_json::Value;
use std::{fmt, path::Path, time::Instant};

/// The best speeds measured on a device by two small probes. The profile compares kernels with these speeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// The arithmetic peak in 10⁹ floating-point operations a second. On a GPU, the probe multiplies and adds `f32` numbers in
    /// registers. On the CPU, the probe multiplies matrices.
    pub gflops: f64,
    /// The memory peak in 10⁹ bytes a second, reads and writes together. The probe copies much more memory than the caches
    /// hold.
    pub gbps: f64,
}

impl fmt::Display for Peaks {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.1} GFLOP/s, {:.1} GB/s", self.gflops, self.gbps)
    }
}

/// The clock that measured the time of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The GPU's own clock, read before and after each dispatch.
    Timestamps,
    /// The host's clock around each dispatch and a wait. The time includes the submit and the wait.
    Waits,
    /// The host's clock around each op of the CPU device.
    Host,
}

/// The measured time of one op of a plan, or of one update. It covers all dispatches of the op.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The op, its shapes and its place in the source, e.g. `matmul [64, 784] × fc1.weight [512, 784] → [64, 512]
    /// (mnist.rs:14)`.
    pub label: String,
    /// The op's name, or `update` for the optimizer.
    pub op: String,
    /// The name of the chosen candidate. On the CPU device, which has no candidates, the name is `cpu`.
    pub kernel: String,
    /// The layer that contains the op.
    pub layer: String,
    /// The number of dispatches in a step. A kernel may have several passes, and a tensor larger than a binding needs several
    /// windows.
    pub dispatches: usize,
    /// The time of the op in one step, in seconds: the median over the measured steps.
    pub seconds: f64,
    /// The number of floating-point operations in one step, or 0 if they are not counted.
    pub flops: u64,
    /// The number of bytes that any kernel for the op must read and write.
    pub bytes: u64,
}

impl KernelTime {
    fn new(label: String, op: &str, kernel: &str, layer: &str, flops: u64, bytes: u64) -> KernelTime {
        let [op, kernel, layer] = [op, kernel, layer].map(str::to_string);
        KernelTime { label, op, kernel, layer, dispatches: 0, seconds: 0.0, flops, bytes }
    }
    /// Returns the speed in 10⁹ floating-point operations a second.
    pub fn gflops(&self) -> f64 {
        rate(self.flops, self.seconds)
    }
    /// Returns the speed in 10⁹ bytes a second.
    pub fn gbps(&self) -> f64 {
        rate(self.bytes, self.seconds)
    }
    /// Returns the fraction of the nearer peak that the kernel reaches. The flag is true if the nearer peak is arithmetic and
    /// false if it is memory.
    pub fn of_peak(&self, peaks: &Peaks) -> (f64, bool) {
        let (compute, memory) = (self.gflops() / peaks.gflops, self.gbps() / peaks.gbps);
        (compute.max(memory), compute > memory)
    }
}

fn rate(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds / 1e9 } else { 0.0 }
}

/// The kind of a [`TimeSpan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// Work of the host, in the steps with clocks.
    Host,
    /// Kernels of the device, in the steps with clocks.
    Device,
    /// Work of a rank, in the steps without clocks.
    Rank,
    /// The exchange of a bucket of gradients, in the steps without clocks: from the moment when this rank sends the bucket until the mean
    /// over the ranks has arrived.
    Exchange,
}

/// A period of time on the host or on the device. Two spans of one track either follow each other or one contains the other. The
/// exchanges of several buckets may overlap.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeSpan {
    /// The kind of the span.
    pub track: Track,
    /// The name of the work.
    pub name: String,
    /// The index of the kernel in [`Profile::kernels`], if the span is the time of a kernel.
    pub kernel: Option<usize>,
    /// The start of the span in seconds from the start of the profile.
    pub start: f64,
    /// The length of the span in seconds.
    pub seconds: f64,
    /// The number of bytes that an exchange sends. 0 for all other spans.
    pub bytes: u64,
}

/// The profile of a training step. See [`Trainer::profile`](crate::Trainer::profile).
///
/// `Display` prints a table of kernels. The kernel with the longest time comes first.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The adapter and its driver.
    pub device: String,
    /// The clock that measured the kernels.
    pub clock: Clock,
    /// The peaks of the device.
    pub peaks: Peaks,
    /// The number of measured steps.
    pub steps: usize,
    /// Every op in the order of the plan, then the updates.
    pub kernels: Vec<KernelTime>,
    /// The time in seconds of a whole step without clocks and with a wait at its end. It is the median over separate steps,
    /// equal in number to `steps`.
    pub step_seconds: f64,
    /// All measured spans, sorted by start.
    pub spans: Vec<TimeSpan>,
    /// The exchange of gradients with the other ranks, in the steps without clocks. `None` for one rank.
    pub exchange: Option<Exchange>,
    /// The events of the trace of each rank, on the clock of rank 0. Empty for one rank.
    ranks: Vec<Value>,
}

/// The exchange of gradients between the [ranks](crate::Trainer::distributed) of a training, in one step on one rank.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exchange {
    /// The number of ranks.
    pub ranks: usize,
    /// The bytes of gradients that this rank sends in a step: its part of each other rank's share, and the mean of its own share to each
    /// other rank, 2·(n − 1)/n of all gradients for n ranks, with 4 bytes for a number. A [wire](crate::World::wire) of 2 bytes halves them.
    /// With [`Shard::State`](crate::Shard::State), the weights of this rank for each other rank are added.
    pub bytes: u64,
    /// The seconds from the moment when the first gradients are sent until the last mean has arrived. With
    /// [`Shard::State`](crate::Shard::State), the seconds in which the weights of the other ranks arrive are added.
    pub seconds: f64,
    /// The part of these seconds in which this rank waited and computed nothing.
    pub waited: f64,
}

impl Exchange {
    /// Returns the share of the exchange during which this rank computed, 0 to 1.
    pub fn hidden(&self) -> f64 {
        if self.seconds > 0.0 { (1.0 - self.waited / self.seconds).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// The measurements of one step. Times are in seconds from the start of the profile.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepTimes {
    /// The number of the kernel, the start and the end of each dispatch, in order.
    pub device: Vec<(usize, f64, f64)>,
    /// The name, the start and the end of each piece of work of the host, in order.
    pub host: Vec<(&'static str, f64, f64)>,
    /// The exchange of each bucket of gradients, in the order of the buckets.
    pub exchange: Vec<BucketTime>,
}

/// The exchange of a bucket of gradients. Times are in seconds from the start of the profile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketTime {
    /// The number of bytes that this rank sends.
    pub bytes: u64,
    /// The time when this rank sent the bucket.
    pub start: f64,
    /// The time when the mean over the ranks had arrived.
    pub end: f64,
}

impl TimeSpan {
    fn new(track: Track, name: String, start: f64, end: f64) -> TimeSpan {
        TimeSpan { track, name, kernel: None, start, seconds: end - start, bytes: 0 }
    }
}

/// Returns the spans of a step, in order, within a span of the whole step.
fn within(number: usize, all: Vec<TimeSpan>) -> Vec<TimeSpan> {
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return all };
    let step = TimeSpan::new(first.track, format!("step {}", number + 1), first.start, last.start + last.seconds);
    [step].into_iter().chain(all).collect()
}

impl StepTimes {
    /// Returns the spans of the host in the step with this number.
    fn host(&self, track: Track, number: usize) -> Vec<TimeSpan> {
        within(number, self.host.iter().map(|&(name, start, end)| TimeSpan::new(track, name.to_string(), start, end)).collect())
    }
    /// Adds the span from the end of the last host span to now. The first span starts at `since`. Times are in seconds from
    /// `zero`.
    pub fn lap(&mut self, name: &'static str, zero: Instant, since: f64) {
        let start = self.host.last().map_or(since, |last| last.2);
        self.host.push((name, start, zero.elapsed().as_secs_f64().max(start)));
    }
}

/// Returns a row for each plan step that does work, in order. The rows hold no times yet.
pub(crate) fn kernels(steps: &[Step]) -> Vec<KernelTime> {
    let row = |s: &Step| {
        let kernel = s.kernel.as_ref().map_or("cpu", |k| k.name);
        KernelTime::new(s.label.clone(), s.name(), kernel, &s.layer, s.flops(), s.bytes())
    };
    steps.iter().filter(|s| !s.is_alias()).map(row).collect()
}

pub(crate) fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    x.get(x.len() / 2).map_or(0.0, |&m| if x.len() % 2 == 1 { m } else { (m + x[x.len() / 2 - 1]) / 2.0 })
}

impl Profile {
    /// Combines the measurements of several steps with the same kernels.
    pub(crate) fn new(
        device: String,
        clock: Clock,
        peaks: Peaks,
        mut kernels: Vec<KernelTime>,
        plain: Vec<f64>,
        steps: &[StepTimes],
    ) -> Profile {
        let mut sums = vec![vec![0.0; steps.len()]; kernels.len()];
        let mut spans = Vec::new();
        for (number, step) in steps.iter().enumerate() {
            spans.extend(step.host(Track::Host, number));
            let device = step.device.iter().map(|&(k, start, end)| {
                let name = format!("{} {}", kernels[k].op, kernels[k].kernel);
                TimeSpan { kernel: Some(k), ..TimeSpan::new(Track::Device, name, start, end) }
            });
            spans.extend(within(number, device.collect()));
            for &(k, start, end) in &step.device {
                sums[k][number] += end - start;
                kernels[k].dispatches += usize::from(number == 0);
            }
        }
        for (kernel, sums) in kernels.iter_mut().zip(sums) {
            kernel.seconds = median(sums);
        }
        let steps = steps.len();
        let ranks = Vec::new();
        Profile { device, clock, peaks, steps, kernels, step_seconds: median(plain), spans, exchange: None, ranks }.sorted()
    }
    /// Adds the steps without clocks of a rank.
    pub(crate) fn with_exchange(mut self, exchange: Option<Exchange>, steps: &[StepTimes]) -> Profile {
        for (number, step) in steps.iter().enumerate() {
            self.spans.extend(step.host(Track::Rank, number));
            let bucket = |(k, b): (usize, &BucketTime)| TimeSpan {
                bytes: b.bytes,
                ..TimeSpan::new(Track::Exchange, format!("gradients {}", k + 1), b.start, b.end)
            };
            self.spans.extend(step.exchange.iter().enumerate().map(bucket));
        }
        Profile { exchange, ..self }.sorted()
    }
    fn sorted(mut self) -> Profile {
        self.spans.sort_by(|a, b| a.start.total_cmp(&b.start).then(b.seconds.total_cmp(&a.seconds)));
        self
    }
    /// Returns the sum of the times of all kernels in a step, in seconds.
    pub fn kernel_seconds(&self) -> f64 {
        self.kernels.iter().map(|k| k.seconds).sum()
    }
    /// Returns the host's work in a step, in order. Each row has a name and the median time in seconds.
    pub fn host(&self) -> Vec<(String, f64)> {
        let mut names: Vec<&str> = Vec::new();
        let spans = || self.spans.iter().filter(|s| s.track == Track::Host && !s.name.starts_with("step "));
        spans().for_each(|s| {
            if !names.contains(&s.name.as_str()) {
                names.push(&s.name)
            }
        });
        let of = |name: &str| median(spans().filter(|s| s.name == name).map(|s| s.seconds).collect());
        names.into_iter().map(|name| (name.to_string(), of(name))).collect()
    }
    /// Writes all spans to a file as a trace in the JSON format of Chrome's trace events. <https://ui.perfetto.dev> opens the
    /// file. The trace has one track for the host and one for the device. The host and the device have different clocks. So
    /// the trace places the first dispatch of a step at the time when the host submitted the step.
    ///
    /// The trace of a training over [ranks](crate::Trainer::distributed) has a process for each rank, with the steps without clocks and the
    /// exchange of each bucket of gradients before the steps with clocks. Every rank has the same trace. Ranks share no clock. An exchange
    /// ends on all ranks at nearly the same time, so the ends of the exchanges of a rank are laid over those of rank 0: the median
    /// difference moves the times of the rank.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the file cannot be written.
    pub fn write_trace(&self, path: impl AsRef<Path>) -> Result<()> {
        file::replace(path, self.trace().to_string().as_bytes())
    }
}

/// Formats a time as `1.23 s`, `4.56 ms` or `7.9 µs`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

/// Prints a table of the kernels. The kernel with the longest time comes first.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let all = self.kernel_seconds();
        writeln!(f, "{:>9} {:>7} {:>9} {:>8} {:>11}  what", "time", "share", "GFLOP/s", "GB/s", "of peak")?;
        // Kernels of phases that did not run have no time.
        let ran = || self.kernels.iter().filter(|k| k.dispatches > 0);
        let mut order: Vec<&KernelTime> = ran().collect();
        order.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for k in order {
            let (share, compute) = k.of_peak(&self.peaks);
            let gflops = if k.flops > 0 { format!("{:.1}", k.gflops()) } else { "–".into() };
            let of_peak = format!("{:.0} % {}", 100.0 * share, if compute { "FMA" } else { "copy" });
            let (label, percent) =
                (k.label.trim_start_matches(&k.op).trim_start().trim_start_matches(&k.kernel).trim_start(), 100.0 * k.seconds / all);
            let times = if k.dispatches > 1 { format!(" ×{}", k.dispatches) } else { String::new() };
            let (time, gbps) = (time(k.seconds), k.gbps());
            writeln!(f, "{time:>9} {percent:>5.1} % {gflops:>9} {gbps:>8.1} {of_peak:>11}  {} {}{times}: {label}", k.op, k.kernel)?;
        }
        let clock = match self.clock {
            Clock::Timestamps => "the device's timestamps",
            Clock::Waits => "the host's clock around each dispatch and a wait, as this device has no timestamps",
            Clock::Host => "the host's clock",
        };
        let bytes: u64 = ran().map(|k| k.bytes).sum();
        let flops: u64 = ran().map(|k| k.flops).sum();
        writeln!(
            f,
            "\nkernels {} a step, the median of {} by {clock}; a step as in training {}",
            time(all),
            self.steps,
            time(self.step_seconds)
        )?;
        writeln!(f, "together {:.1} MFLOP and {}; this device's peaks: {}", flops as f64 / 1e6, size(bytes), self.peaks)?;
        let host: Vec<String> = self.host().iter().map(|(name, s)| format!("{name} {}", time(*s))).collect();
        write!(f, "host, with clocks: {}", host.join(", "))?;
        let Some(e) = &self.exchange else { return Ok(()) };
        let (hidden, sent) = (100.0 * e.hidden(), size(e.bytes));
        write!(
            f,
            "\n{} ranks: {sent} sent a step in {}, of which this rank waited {} ({hidden:.0} % hidden)",
            e.ranks,
            time(e.seconds),
            time(e.waited)
        )
    }
}
