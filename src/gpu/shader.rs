//! Turns a [`Pass`] into WGSL, and WGSL into a pipeline.
//!
//! The files in `shaders/` contain only functions. This module writes the declarations that the functions use: the uniform
//! `p`, the bindings, `step` and the constants. The declarations come from the same data as the bindings of the buffers.

use crate::{
    error::{Error, Result},
    gpu::{device::Gpu, prune::reachable},
    kernel::{Bind, Pass, Source, Word, source},
    shape::DType,
    threads::{chunks, lock},
};
use std::{
    collections::HashMap,
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

/// The files that a line `//!include NAME` can include.
const LIBRARY: &[Source] = &[
    source!("lib/cell"),
    source!("lib/conv"),
    source!("lib/index"),
    source!("lib/across4"),
    source!("lib/along4"),
    source!("lib/lanes"),
    source!("lib/lines"),
    source!("lib/map"),
    source!("lib/nan"),
    source!("lib/philox"),
    source!("lib/powers"),
    source!("lib/product"),
    source!("lib/scalar"),
    source!("lib/spread"),
    source!("lib/strip"),
    source!("lib/subgroup"),
    source!("lib/tile"),
    source!("lib/vec4"),
    source!("lib/workgroup"),
];

/// The declaration of `struct Step`. It is equal in every shader that uses the step.
const STEP: &str = "struct Step { seed: vec2<u32>, step: vec2<u32>, sample: u32, row: u32, unused: vec2<u32> }
@group(1) @binding(0) var<uniform> step: Step;
";

/// The size of `struct Step` in bytes.
pub(super) const STEP_BYTES: u64 = 32;

/// Returns the whole WGSL of a pass. The text begins with the declarations. Then come the functions that the entry point uses,
/// from the generated code, the file and its includes.
///
/// # Errors
/// [`Error::Argument`] if an include names a file that is not in the library.
pub fn assemble(pass: &Pass) -> Result<String> {
    let mut out = String::from("struct Params {\n    first: u32,\n    units: u32,\n");
    for (name, word) in &pass.params {
        line(&mut out, format_args!("    {name}: {},", type_of(*word)));
    }
    out.push_str("}\n@group(0) @binding(0) var<uniform> p: Params;\n");
    for (i, bind) in pass.binds.iter().enumerate() {
        let Bind { name, dtype, write, vec4, .. } = bind;
        let access = if *write { "read_write" } else { "read" };
        let scalar = match dtype {
            DType::F32 => "f32",
            DType::U32 => "u32",
        };
        let element = if *vec4 { format!("vec4<{scalar}>") } else { scalar.to_string() };
        line(&mut out, format_args!("@group(0) @binding({}) var<storage, {access}> {name}: array<{element}>;", i + 1));
    }
    if pass.step {
        out.push_str(STEP);
    }
    for &(name, word) in &pass.consts {
        line(&mut out, format_args!("const {name}: {} = {};", type_of(word), literal(word)));
    }
    let (mut included, mut functions) = (Vec::new(), String::new());
    for text in [pass.code.as_str(), pass.source.text] {
        include(pass.source.name, text, &mut included, &mut functions)?;
    }
    out.push_str(&reachable(&functions, pass.entry));
    Ok(out)
}

fn line(out: &mut String, text: std::fmt::Arguments) {
    writeln!(out, "{text}").expect("writing to a String does not fail");
}

fn type_of(word: Word) -> &'static str {
    match word {
        Word::U(_) => "u32",
        Word::F(_) => "f32",
    }
}

/// Returns a WGSL literal with exactly this value. Rust prints the shortest decimal number that reads back as the same float.
fn literal(word: Word) -> String {
    match word {
        Word::U(x) => format!("{x}u"),
        Word::F(x) => {
            debug_assert!(x.is_finite(), "WGSL has no literal for {x}");
            format!("{x:e}f")
        }
    }
}

/// Appends `text`. Each include is replaced by its file. A file is included only once.
fn include(file: &str, text: &str, included: &mut Vec<&'static str>, out: &mut String) -> Result<()> {
    for text_line in text.lines() {
        let Some(name) = text_line.strip_prefix("//!include ").map(str::trim) else {
            out.push_str(text_line);
            out.push('\n');
            continue;
        };
        let Some(&Source { name, text: library }) = LIBRARY.iter().find(|known| known.name == name) else {
            let known: Vec<&str> = LIBRARY.iter().map(|known| known.name).collect();
            return Err(Error::argument(format!("shader {file}"), format!("cannot include `{name}`; there are {}", known.join(", "))));
        };
        if !included.contains(&name) {
            included.push(name);
            include(name, library, included, out)?;
        }
    }
    Ok(())
}

/// A pass that must be compiled.
pub(crate) struct Shader<'a> {
    /// The names of the op and the kernel.
    pub label: &'a str,
    pub pass: &'a Pass,
    /// Whether the WGSL is trusted to stay inside its bindings.
    pub unchecked: bool,
}

/// A compiled pass and the layout of its bindings.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroupLayout,
}

/// The pipelines of a device.
pub(super) struct Pipelines {
    /// The layout of bind group 1: one row of the table of steps, at a dynamic offset.
    pub step: wgpu::BindGroupLayout,
    pub known: Mutex<HashMap<PipelineKey, Pipeline>>,
    /// The driver's own pipeline cache, if the driver can export it.
    cache: Option<wgpu::PipelineCache>,
}

/// The WGSL, the entry point, and whether the shader is [unchecked](Shader::unchecked).
type PipelineKey = (Arc<str>, &'static str, bool);

impl Pipelines {
    pub fn new(device: &wgpu::Device, cache: Option<wgpu::PipelineCache>) -> Pipelines {
        let uniform = wgpu::BufferBindingType::Uniform;
        let entries = [entry(0, uniform, true, wgpu::BufferSize::new(STEP_BYTES))];
        let step = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some("step"), entries: &entries });
        Pipelines { step, known: Mutex::default(), cache }
    }
}

fn entry(binding: u32, ty: wgpu::BufferBindingType, dynamic: bool, size: Option<wgpu::BufferSize>) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: size },
        count: None,
    }
}

impl Gpu {
    /// Returns the pipeline of each pass. A pass that this device has not compiled yet is compiled now. Different passes are
    /// compiled on several threads.
    ///
    /// # Errors
    /// [`Error::Device`] with the compiler's message, for each pass whose WGSL is wrong or that the driver rejects.
    pub(crate) async fn pipelines(&self, shaders: &[Shader<'_>]) -> Vec<Result<Pipeline>> {
        let key = |shader: &Shader| Ok((assemble(shader.pass)?.into(), shader.pass.entry, shader.unchecked));
        let keys: Vec<Result<PipelineKey>> = shaders.iter().map(key).collect();
        let mut wanted: Vec<(usize, PipelineKey)> = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let Ok(key) = key else { continue };
            if !lock(&self.pipelines.known).contains_key(key) && wanted.iter().all(|(_, known)| known != key) {
                wanted.push((i, key.clone()));
            }
        }
        let compile = |(i, key): &(usize, PipelineKey)| {
            let Shader { label, pass, unchecked } = shaders[*i];
            let label = format!("{label} {}", pass.entry);
            // The compilation begins on this thread, because its error scopes belong to this thread.
            let (what, text) = (label.clone(), key.0.clone());
            let compile = || self.scoped(&label, move |device| self.compile(device, &what, &text, pass, unchecked));
            // naga 30 panics on some invalid shaders.
            let made = catch_unwind(AssertUnwindSafe(compile));
            made.map_err(|_| self.error(format!("{label}: the shader compiler panicked")))
        };
        let mut made: Vec<_> = wanted.iter().map(|_| None).collect();
        chunks(&mut made, 1, |k, made| made[0] = Some(compile(&wanted[k])));
        let mut failed: HashMap<PipelineKey, Error> = HashMap::new();
        for ((_, key), made) in wanted.into_iter().zip(made.into_iter().flatten()) {
            let made = match made {
                Ok(made) => made.await,
                Err(error) => Err(error),
            };
            match made {
                Ok(pipeline) => drop(lock(&self.pipelines.known).insert(key, pipeline)),
                Err(error) => drop(failed.insert(key, error)),
            }
        }
        let known = lock(&self.pipelines.known);
        let result = |key: Result<PipelineKey>| {
            let key = key?;
            match failed.get(&key) {
                Some(error) => Err(error.clone()),
                None => Ok(known[&key].clone()),
            }
        };
        keys.into_iter().map(result).collect()
    }

    /// Returns the number of pipelines compiled so far.
    pub fn pipeline_count(&self) -> usize {
        lock(&self.pipelines.known).len()
    }
    /// Returns the content of the driver's pipeline cache, to be stored for the next run.
    pub(super) fn compiled(&self) -> Option<Vec<u8>> {
        self.pipelines.cache.as_ref().and_then(|cache| cache.get_data())
    }

    /// Returns the checks with which WGSL is compiled.
    pub(super) fn checks(&self, unchecked: bool) -> wgpu::ShaderRuntimeChecks {
        match unchecked && !self.options().checked {
            true => wgpu::ShaderRuntimeChecks::unchecked(),
            false => wgpu::ShaderRuntimeChecks::checked(),
        }
    }
    fn compile(&self, device: &wgpu::Device, label: &str, text: &str, pass: &Pass, unchecked: bool) -> Pipeline {
        let source = wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(text.into()) };
        // SAFETY: only trusted kernels are compiled without checks. A kernel is trusted if it belongs to this crate or if its
        // author promises, by `Checks::off`, that it stays inside its bindings, never divides by zero and ends its loops.
        // Tests with checks, fences and sentinels show that the kernels of this crate do so.
        let module = unsafe { device.create_shader_module_trusted(source, self.checks(unchecked)) };

        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, false, None)];
        entries.extend(pass.binds.iter().enumerate().map(|(i, bind)| {
            let ty = wgpu::BufferBindingType::Storage { read_only: !bind.write };
            entry(i as u32 + 1, ty, false, None)
        }));
        let bindings = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
        let groups = [Some(&bindings), Some(&self.pipelines.step)];
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: if pass.step { &groups } else { &groups[..1] },
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some(pass.entry),
            // Trusted kernels write their workgroup memory before they read it.
            compilation_options: wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: !unchecked, ..Default::default() },
            cache: self.pipelines.cache.as_ref(),
        });
        Pipeline { pipeline, bindings }
    }
}
