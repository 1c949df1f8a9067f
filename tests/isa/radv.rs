//! The shader compilers of GPUs that are not there, through plain Vulkan: Mesa's RADV for AMD with its null back end, and Mesa's ANV for Intel
//! on a kernel driver that is replaced by a library. They compile and run nothing. wgpu cannot open the null device, because wgpu submits
//! work when it opens a device. The SPIR-V is the SPIR-V that wgpu makes. The features that change machine code (robust access, subgroups of
//! several sizes) are on, as wgpu has them.

use ash::{khr::pipeline_executable_properties, vk};
use downhill::{
    gpu::shader::assemble,
    kernel::{Caps, Pass},
};
use naga::{
    back::spv,
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ValidationFlags, Validator},
};
use std::{collections::BTreeMap, error::Error, ffi::CString};

/// AMD's families: two of GCN, and RDNA 1, 2 and 3.
pub const AMD: [&str; 5] = ["polaris10", "vega10", "navi10", "navi21", "gfx1100"];
/// Intel's platforms: Xe of Tiger Lake, and Arc.
pub const INTEL: [&str; 2] = ["tgl", "dg2"];
/// Intel's number as a vendor, as in `src/gpu/device.rs`.
const INTEL_VENDOR: u32 = 0x8086;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The compiler of the family in the environment.
pub struct Compiler {
    _entry: ash::Entry,
    _instance: ash::Instance,
    device: ash::Device,
    executable: pipeline_executable_properties::Device,
    caps: Caps,
}

/// The compiler's numbers for a pass, and its machine code.
pub struct Compiled {
    pub stats: BTreeMap<String, f64>,
    pub assembly: String,
}

impl Compiler {
    /// Opens the only device of the driver. It must not be real hardware.
    pub fn open() -> Result<Compiler> {
        let stub = std::env::var_os("INTEL_STUB_GPU_PLATFORM").is_some();
        // SAFETY: the loader and the driver are libraries that keep to Vulkan. Every structure that is handed over outlives its call. What
        // is made here is kept until the process ends.
        unsafe {
            let entry = ash::Entry::load()?;
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let instance = entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&app), None)?;
            let is_null = |&at: &vk::PhysicalDevice| {
                let name = instance.get_physical_device_properties(at).device_name;
                stub || text(&name).starts_with("Null hardware")
            };
            let all = instance.enumerate_physical_devices()?;
            let physical = all.into_iter().find(is_null).ok_or("this driver has no null hardware")?;
            let mut sizes = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut sizes);
            instance.get_physical_device_properties2(physical, &mut properties);
            let (limits, vendor) = (properties.properties.limits, properties.properties.vendor_id);
            let one_size = sizes.min_subgroup_size == sizes.max_subgroup_size;
            let caps = Caps {
                few_registers: vendor == INTEL_VENDOR,
                max_bindings: limits.max_per_stage_descriptor_storage_buffers as usize,
                max_binding_bytes: u64::from(limits.max_storage_buffer_range.min(i32::MAX as u32)) / 4 * 4,
                max_workgroup_bytes: limits.max_compute_shared_memory_size,
                max_invocations: limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0]),
                software: false,
                subgroups: one_size.then_some(sizes.max_subgroup_size),
            };
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let extensions = [pipeline_executable_properties::NAME.as_ptr(), ash::ext::robustness2::NAME.as_ptr()];
            let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
            let mut executable = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut of_1_3 = vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true);
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .enabled_features(&core)
                .push_next(&mut robust)
                .push_next(&mut executable)
                .push_next(&mut of_1_3);
            let device = instance.create_device(physical, &info, None)?;
            let executable = pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Compiler { _entry: entry, _instance: instance, device, executable, caps })
        }
    }

    /// Returns the abilities that wgpu would report for this family.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Compiles a pass of the library, that is, without checks.
    pub fn compile(&self, pass: &Pass) -> Result<Compiled> {
        let code = spirv(&assemble(pass)?, pass)?;
        let device = &self.device;
        // SAFETY: as in `open`; the SPIR-V was written by naga from a module that it had validated.
        unsafe {
            let module = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&code), None)?;
            let layout = |kinds: &[vk::DescriptorType]| {
                let binding = |(i, &kind): (usize, &vk::DescriptorType)| {
                    let at = vk::DescriptorSetLayoutBinding::default().binding(i as u32).descriptor_type(kind);
                    at.descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE)
                };
                let bindings: Vec<_> = kinds.iter().enumerate().map(binding).collect();
                device.create_descriptor_set_layout(&vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings), None)
            };
            let mut kinds = vec![vk::DescriptorType::UNIFORM_BUFFER];
            kinds.extend(pass.binds.iter().map(|_| vk::DescriptorType::STORAGE_BUFFER));
            let sets = [layout(&kinds)?, layout(&[vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC])?];
            let pipeline_layout = device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&sets), None)?;
            let entry = CString::new(pass.entry)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                .module(module)
                .name(&entry);
            let flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let info = vk::ComputePipelineCreateInfo::default().flags(flags).stage(stage).layout(pipeline_layout);
            let pipeline = device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None).map_err(|(_, why)| why)?[0];
            let which = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline);
            let stats = self.executable.get_pipeline_executable_statistics(&which)?;
            let stats = stats.iter().map(|stat| {
                let value = match stat.format {
                    vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => stat.value.f64,
                    _ => stat.value.u64 as f64,
                };
                (text(&stat.name), value)
            });
            let compiled = Compiled { stats: stats.collect(), assembly: self.assembly(&which)? };
            device.destroy_pipeline(pipeline, None);
            device.destroy_pipeline_layout(pipeline_layout, None);
            sets.iter().for_each(|&set| device.destroy_descriptor_set_layout(set, None));
            device.destroy_shader_module(module, None);
            Ok(compiled)
        }
    }

    /// Returns the last of the driver's texts, which is the disassembly.
    fn assembly(&self, which: &vk::PipelineExecutableInfoKHR) -> Result<String> {
        // SAFETY: as in `open`. The second call fills memory of the sizes that the first call asked for.
        unsafe {
            let mut all = self.executable.get_pipeline_executable_internal_representations(which)?;
            let mut texts: Vec<Vec<u8>> = all.iter().map(|r| vec![0; r.data_size]).collect();
            all.iter_mut().zip(&mut texts).for_each(|(r, text)| r.p_data = text.as_mut_ptr().cast());
            let (mut count, get) = (all.len() as u32, self.executable.fp().get_pipeline_executable_internal_representations_khr);
            get(self.executable.device(), which, &mut count, all.as_mut_ptr()).result()?;
            let bytes = texts.pop().ok_or("the driver shows no machine code")?;
            Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string())
        }
    }
}

fn text(chars: &[std::ffi::c_char]) -> String {
    chars.iter().take_while(|&&c| c != 0).map(|&c| c as u8 as char).collect()
}

/// Returns SPIR-V with the options of wgpu on Vulkan 1.3 for a shader without checks.
fn spirv(text: &str, pass: &Pass) -> Result<Vec<u32>> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    let storage = (0..=pass.binds.len() as u32).map(|binding| (0, binding));
    let slot = |(group, binding): (u32, u32)| {
        (naga::ResourceBinding { group, binding }, spv::BindingInfo { descriptor_set: group, binding, binding_array_size: None })
    };
    let policy = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        fake_missing_bindings: false,
        binding_map: storage.chain([(1, 0)]).map(slot).collect(),
        bounds_check_policies: BoundsCheckPolicies { index: policy, buffer: policy, image_load: policy, binding_array: policy },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: pass.entry.to_string() };
    Ok(spv::write_vec(&module, &info, &options, Some(&entry))?)
}
