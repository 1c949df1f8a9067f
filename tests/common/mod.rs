//! Code that the integration tests share: devices, and trials that need a GPU.
//!
//! Every device is opened once and only when a trial wants it. Where the machine has no adapter, such a trial is
//! reported as ignored with the reason; it fails where the environment has `CI=true`, so that nothing is skipped there
//! unseen.

// Each test binary uses a part of this.
#![allow(dead_code)]

use downhill::{
    Device, Error, Trainer,
    gpu::{Choice, Gpu, GpuOptions, Limits},
};
use libtest_mimic::{Arguments, Completion, Trial};
use std::sync::{Arc, OnceLock};

/// The result of a check. Errors of the library and sentences convert to it by `?`.
pub type Check = Result<(), Box<dyn std::error::Error>>;

/// A device to check on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Cpu,
    /// The best adapter, a software one where there is no other.
    Gpu,
    /// The same, with shaders that check their bounds.
    Checked,
    /// The same with WebGPU's default limits and no optional features.
    Webgpu,
    /// The same with limits so small that most tensors of the tests do not fit: see [`small_limits`].
    Small,
    /// As `Small`, but with the eight storage buffers that WebGPU promises and Adam needs.
    Pieces,
}

/// The CPU and the plain GPU.
pub const BOTH: [On; 2] = [On::Cpu, On::Gpu];

/// Limits far below WebGPU's: dispatches fold beyond 16 groups, bindings split beyond 64 KiB (16,384 elements), and a
/// shader has that many storage buffers.
pub fn small_limits(bindings: u32) -> Limits {
    Limits {
        max_workgroups: 16,
        max_binding_bytes: 64 << 10,
        max_buffer_bytes: 16 << 20,
        max_bindings: bindings,
        max_invocations: 64,
        max_workgroup_bytes: 4 << 10,
    }
}

impl On {
    /// The name that trials on it start with.
    pub fn name(self) -> &'static str {
        match self {
            On::Cpu => "cpu",
            On::Gpu => "gpu",
            On::Checked => "checked",
            On::Webgpu => "webgpu",
            On::Small => "small",
            On::Pieces => "pieces",
        }
    }
    /// The device; opened at the first call.
    pub fn open(self) -> Result<Device, Error> {
        static OPEN: [OnceLock<Result<Device, Error>>; 5] = [const { OnceLock::new() }; 5];
        let options = GpuOptions { software: true, choice: Choice::Expected, ..GpuOptions::default() };
        let (k, options) = match self {
            On::Cpu => return Ok(Device::cpu()),
            On::Gpu => (0, options),
            On::Checked => (1, GpuOptions { checked: true, ..options }),
            On::Webgpu => (2, GpuOptions { limits: Some(Limits::default()), features: false, ..options }),
            On::Small => (3, GpuOptions { limits: Some(small_limits(4)), features: false, ..options }),
            On::Pieces => (4, GpuOptions { limits: Some(small_limits(8)), features: false, ..options }),
        };
        OPEN[k].get_or_init(|| Device::open(&options)).clone()
    }
}

/// Returns the plain GPU device, or the error of opening it.
pub fn gpu() -> Result<Device, Error> {
    On::Gpu.open()
}

/// The GPU behind a device that is one.
pub fn inner(device: &Device) -> &Arc<Gpu> {
    device.as_gpu().expect("a GPU device was asked for")
}

/// The bits of floats, for comparisons that must hold exactly.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// The numbers of `grid` in scripts/golden_values.py.
pub fn grid(n: usize, a: usize, b: usize, m: usize) -> Vec<f32> {
    (0..n).map(|k| ((a * k + b) % m) as f32 - (m / 2) as f32).map(|x| x / 64.0).collect()
}

/// The weights of a trainer, to the last bit.
pub fn weights(trainer: &Trainer) -> Result<Vec<(String, Vec<u32>)>, Error> {
    Ok(trainer.params().all()?.into_iter().map(|(name, value)| (name, bits(value.f()))).collect())
}

/// Trials of one test binary.
#[derive(Default)]
pub struct Suite(Vec<Trial>);

impl Suite {
    pub fn new() -> Suite {
        Suite::default()
    }
    /// A check that opens no device of ours.
    pub fn test(&mut self, name: &str, f: impl FnOnce() -> Check + Send + 'static) {
        self.0.push(Trial::test(name, || Ok(f()?)));
    }
    /// A check on a device; ignored where it needs a GPU and the machine has none, unless this is CI.
    pub fn on(&mut self, on: On, name: &str, f: impl FnOnce(&Device) -> Check + Send + 'static) {
        self.0.push(Trial::ignorable_test(format!("{}/{name}", on.name()), move || match on.open() {
            Ok(device) => Ok(f(&device).map(|()| Completion::Completed)?),
            Err(none @ Error::NoAdapter { .. }) if std::env::var("CI").as_deref() != Ok("true") => Ok(Completion::ignored_with(none)),
            Err(error) => Err(error.into()),
        }));
    }
    /// The same check on several devices.
    pub fn each(&mut self, devices: &[On], name: &str, f: fn(&Device) -> Check) {
        for &on in devices {
            self.on(on, name, f);
        }
    }
    /// Runs what the command line asks for, and ends the process.
    pub fn run(self) -> ! {
        libtest_mimic::run(&Arguments::from_args(), self.0).exit()
    }
}
