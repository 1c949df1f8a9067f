//! The options for opening an adapter.

use crate::choice::{BUDGET, Choice};
use std::{path::PathBuf, time::Duration};

/// The options that select an adapter and say how to open it.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// A part of the adapter's name. Upper and lower case are equal. A software adapter may be named too.
    pub name: Option<String>,
    /// Whether a software adapter may be opened if `name` is `None`.
    pub software: bool,
    /// Upper limits for the device. The device uses the smaller of each limit here and the adapter's own limit. `None` means
    /// the adapter's own limits. `Some(Limits::default())` means the limits that every adapter has.
    pub limits: Option<Limits>,
    /// Whether the device uses optional features (subgroups, timestamps, a pipeline cache) if the adapter has them.
    pub features: bool,
    /// Whether all shaders are compiled with checks, including the shaders of this crate. See
    /// [`Checks`](crate::kernel::Checks).
    pub checked: bool,
    /// The rule by which the device chooses kernels.
    pub choice: Choice,
    /// The time in which one plan may measure the candidates that it needs. Only [`Choice::Measured`] uses this budget. A
    /// budget of zero means that nothing is measured. With a larger budget, at least one candidate is measured. The next run
    /// of the program measures the rest.
    pub budget: Duration,
    /// The folder that stores the measurements. Only [`Choice::Measured`] uses it. `None` means the folder that [`Choice`]
    /// describes.
    pub cache: Option<PathBuf>,
}

impl Default for GpuOptions {
    /// The best hardware adapter with all its limits and features.
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

/// The limits of a device. The default values are the limits that WebGPU promises on every adapter.
///
/// ```no_run
/// use downhill::{Device, gpu::{GpuOptions, Limits}};
/// let limits = Limits { max_buffer_bytes: 64 << 20, ..Limits::default() };
/// let device = Device::open(&GpuOptions { limits: Some(limits), ..GpuOptions::default() })?;
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest size of a buffer in bytes.
    pub max_buffer_bytes: u64,
    /// The largest part of a buffer that can be bound to a shader, in bytes.
    pub max_binding_bytes: u64,
    /// The largest number of storage buffers that can be bound to a shader.
    pub max_bindings: u32,
    /// The largest number of workgroups of a dispatch in each of its three dimensions.
    pub max_workgroups: u32,
    /// The largest number of invocations in a workgroup.
    pub max_invocations: u32,
    /// The largest size of the memory that a workgroup shares, in bytes.
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
