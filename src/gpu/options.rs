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
    /// The compiler of shaders on DX12, a backend of Windows. Other backends ignore the compiler.
    pub dx12_compiler: Dx12Compiler,
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
            dx12_compiler: Dx12Compiler::Auto,
        }
    }
}

impl GpuOptions {
    /// Returns the description of wgpu's instance. A named compiler comes before the environment's compiler.
    pub(super) fn instance(&self) -> wgpu::InstanceDescriptor {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
        if let Some(compiler) = self.dx12_compiler.of_wgpu() {
            descriptor.backend_options.dx12.shader_compiler = compiler;
        }
        descriptor
    }
    /// Returns the rule by which a device chooses kernels. DX12 without subgroups is DX12 without DXC. FXC needs minutes for
    /// kernels with tiles, or refuses them, so such a device uses portable kernels.
    pub(super) fn choice_on(&self, backend: &str, subgroups: bool) -> Choice {
        if backend == "dx12" && !subgroups { Choice::Portable } else { self.choice }
    }
    /// Returns the text by which measurements know the driver. Another compiler of shaders makes other kernels.
    pub(super) fn driver(&self, backend: &str, driver: &str) -> String {
        match &self.dx12_compiler {
            named if backend == "dx12" && *named != Dx12Compiler::Auto => format!("{driver} {named:?}"),
            _ => driver.to_string(),
        }
    }
}

/// The compiler of shaders on DX12.
///
/// DXC is Microsoft's compiler of today, and each program ships it: `dxcompiler.dll` of a
/// [release](https://github.com/microsoft/DirectXShaderCompiler/releases), 1.8.2502 or later. FXC is Microsoft's older
/// compiler, and Windows has it. FXC knows shader model 5.1, so no kernel uses subgroups. FXC needs minutes for kernels with tiles,
/// or refuses them. So a device with FXC uses [`Choice::Portable`] whatever the options say. A graph with attention is then an
/// [`Error::Device`](crate::Error::Device), because every kernel of attention on hardware has tiles.
///
/// ```no_run
/// use downhill::{Device, gpu::{Dx12Compiler, GpuOptions}};
/// let dxc = Dx12Compiler::Dxc { path: r"C:\tools\dxcompiler.dll".to_string() };
/// let device = Device::open(&GpuOptions { dx12_compiler: dxc, ..GpuOptions::default() })?;
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dx12Compiler {
    /// The compiler that wgpu's environment variable `WGPU_DX12_COMPILER` names (`dxc`, `fxc` or `auto`). Without the variable,
    /// DXC if Windows finds `dxcompiler.dll` beside the program or on the `PATH`, otherwise FXC.
    #[default]
    Auto,
    /// DXC from this file. If Windows cannot load the file, the machine has no DX12 adapters: its GPUs are opened through Vulkan
    /// if they have a driver for Vulkan, and the error is [`Error::NoAdapter`](crate::Error::NoAdapter) if they have none.
    Dxc {
        /// The path of `dxcompiler.dll`. Windows looks for a name without a folder beside the program and on the `PATH`.
        path: String,
    },
    /// FXC, even if there is a DXC.
    Fxc,
}

impl Dx12Compiler {
    fn of_wgpu(&self) -> Option<wgpu::Dx12Compiler> {
        match self {
            Dx12Compiler::Auto => None,
            Dx12Compiler::Dxc { path } => Some(wgpu::Dx12Compiler::DynamicDxc { dxc_path: path.clone() }),
            Dx12Compiler::Fxc => Some(wgpu::Dx12Compiler::Fxc),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_of_dx12_reaches_the_instance() {
        let compiler = |dx12_compiler: Dx12Compiler| {
            let options = GpuOptions { dx12_compiler, ..GpuOptions::default() };
            options.instance().backend_options.dx12.shader_compiler
        };
        let path = "tools/dxcompiler.dll";
        match compiler(Dx12Compiler::Dxc { path: path.to_string() }) {
            wgpu::Dx12Compiler::DynamicDxc { dxc_path } => assert_eq!(dxc_path, path),
            other => panic!("{other:?}"),
        }
        assert!(matches!(compiler(Dx12Compiler::Fxc), wgpu::Dx12Compiler::Fxc));
        // Without a choice the environment decides, and wgpu where the environment is silent.
        let silent = wgpu::Dx12Compiler::default().with_env();
        assert_eq!(format!("{:?}", compiler(Dx12Compiler::Auto)), format!("{silent:?}"));
    }

    #[test]
    fn fxc_gets_portable_kernels() {
        let options = GpuOptions { choice: Choice::Expected, ..GpuOptions::default() };
        let choices =
            [("dx12", false), ("dx12", true), ("vulkan", false)].map(|(backend, subgroups)| options.choice_on(backend, subgroups));
        assert_eq!(choices, [Choice::Portable, Choice::Expected, Choice::Expected]);
    }

    #[test]
    fn measurements_belong_to_a_named_compiler_on_dx12_alone() {
        let options = |dx12_compiler: Dx12Compiler| GpuOptions { dx12_compiler, ..GpuOptions::default() };
        assert_eq!(options(Dx12Compiler::Fxc).driver("dx12", "1.2"), "1.2 Fxc");
        assert_eq!(options(Dx12Compiler::Fxc).driver("vulkan", "1.2"), "1.2");
        assert_eq!(options(Dx12Compiler::Auto).driver("dx12", "1.2"), "1.2");
    }
}
