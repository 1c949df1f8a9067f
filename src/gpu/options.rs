//! How an adapter is opened.

use crate::choice::{BUDGET, Choice};
use std::{path::PathBuf, time::Duration};

/// Which adapter to open, and how.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Part of the adapter's name, in any case. A software adapter can be named like any other.
    pub name: Option<String>,
    /// Whether a software adapter will do where none is named.
    pub software: bool,
    /// Limits that are kept to where the adapter's own are larger, such as those that every adapter has.
    pub limits: Option<Limits>,
    /// Whether to use optional features (subgroups, timestamps) where the adapter has them.
    pub features: bool,
    /// Whether all shaders are compiled with checks, those of this crate too: see [`Checks`](crate::kernel::Checks).
    pub checked: bool,
    /// How kernels are chosen.
    pub choice: Choice,
    /// With [`Choice::Measured`], how long a plan may take to measure the candidates that it needs. With a budget of zero nothing is
    /// measured. With any other at least one candidate is, and the next run of the program measures the rest.
    pub budget: Duration,
    /// With [`Choice::Measured`], the folder where the measurements are stored, instead of the one that [`Choice`] names.
    pub cache: Option<PathBuf>,
}

impl Default for GpuOptions {
    /// The best hardware there is, all of it.
    fn default() -> GpuOptions {
        GpuOptions {
            name: None,
            software: false,
            limits: None,
            features: true,
            checked: false,
            choice: Choice::Measured,
            budget: BUDGET,
            cache: None,
        }
    }
}

/// What a device can do at most. By default these are the limits that WebGPU promises everywhere.
///
/// ```no_run
/// use downhill::{Device, gpu::{GpuOptions, Limits}};
/// let limits = Limits { max_buffer_bytes: 64 << 20, ..Limits::default() };
/// let device = Device::open(&GpuOptions { limits: Some(limits), ..GpuOptions::default() })?;
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a buffer.
    pub max_buffer_bytes: u64,
    /// Bytes of a buffer that a shader sees.
    pub max_binding_bytes: u64,
    /// Storage buffers that a shader sees.
    pub max_bindings: u32,
    /// Workgroups of a dispatch in each of its three dimensions.
    pub max_workgroups: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Bytes of the memory that a workgroup shares.
    pub max_workgroup_bytes: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        let webgpu = wgpu::Limits::default();
        Limits {
            max_buffer_bytes: webgpu.max_buffer_size,
            max_binding_bytes: webgpu.max_storage_buffer_binding_size,
            max_bindings: webgpu.max_storage_buffers_per_shader_stage,
            max_workgroups: webgpu.max_compute_workgroups_per_dimension,
            max_invocations: webgpu.max_compute_invocations_per_workgroup,
            max_workgroup_bytes: webgpu.max_compute_workgroup_storage_size,
        }
    }
}

impl Limits {
    pub(super) fn of_wgpu(self) -> wgpu::Limits {
        let webgpu = wgpu::Limits::default();
        wgpu::Limits {
            max_buffer_size: self.max_buffer_bytes,
            max_storage_buffer_binding_size: self.max_binding_bytes,
            max_storage_buffers_per_shader_stage: self.max_bindings,
            max_compute_workgroups_per_dimension: self.max_workgroups,
            max_compute_invocations_per_workgroup: self.max_invocations,
            max_compute_workgroup_size_x: self.max_invocations.min(webgpu.max_compute_workgroup_size_x),
            max_compute_workgroup_storage_size: self.max_workgroup_bytes,
            ..webgpu
        }
    }
}
