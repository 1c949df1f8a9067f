//! Shaders as HLSL, translated as wgpu does it for DX12, and compiled by Microsoft's compiler.

use super::{bindings, dxc};
use downhill::kernel::Pass;
use naga::{Module, ShaderStage, back::hlsl, valid::ModuleInfo};
use std::{
    collections::HashSet,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// The least shader model that DXC knows. Devices with a newer one get the same texts: see [`translate`].
const MODEL: hlsl::ShaderModel = hlsl::ShaderModel::V6_0;

/// The time for the texts of one test, in seconds: `$DXC_SECONDS`, or 8. The texts that are left are counted and reported.
static MOST: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("DXC_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(8))
});

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Hlsl {
    pub text: String,
    pub entry: String,
}

/// Translates a shader for DX12. Of its options, wgpu sets the registers from the layout of the pipeline: constant buffers,
/// read-only buffers and writable buffers are numbered apart, through all groups. `num_workgroups`, for which DX12 has no builtin, is in
/// the next constant buffer. The uniform of the step has a dynamic offset.
pub fn translate(module: &Module, info: &ModuleInfo, pass: &Pass, checked: bool) -> Result<Hlsl, String> {
    let (mut uniforms, mut read, mut written) = (0, 0, 0);
    let mut slot = |(at, write): (naga::ResourceBinding, bool)| {
        let uniform = at.binding == 0;
        let register = if uniform {
            &mut uniforms
        } else if write {
            &mut written
        } else {
            &mut read
        };
        let target = hlsl::BindTarget { register: *register, restrict_indexing: uniform && at.group == 1, ..Default::default() };
        *register += 1;
        (at, target)
    };
    let binding_map: hlsl::BindingMap = bindings(pass).map(&mut slot).collect();
    let text = |shader_model| -> Result<Hlsl, String> {
        let options = hlsl::Options {
            shader_model,
            binding_map: binding_map.clone(),
            fake_missing_bindings: false,
            special_constants_binding: Some(hlsl::BindTarget { register: uniforms, ..Default::default() }),
            zero_initialize_workgroup_memory: checked,
            restrict_indexing: checked,
            force_loop_bounding: checked,
            ..hlsl::Options::default()
        };
        let entry = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, pass.entry.to_string())) };
        let mut text = String::new();
        let names = hlsl::Writer::new(&mut text, &options, &entry).write(module, info, None).map_err(|e| format!("HLSL: {e}"))?;
        let entry = names.entry_point_names.into_iter().next().ok_or("HLSL: no entry point")?.map_err(|e| format!("HLSL: {e}"))?;
        Ok(Hlsl { text, entry })
    };
    let least = text(MODEL)?;
    assert!(least.text.contains(&format!("void {}(", least.entry)) && least.text.contains("[numthreads("), "HLSL");
    // DXC's versions 1.7 and 1.8, and FXC.
    for model in [hlsl::ShaderModel::V6_7, hlsl::ShaderModel::V6_8, hlsl::ShaderModel::V5_1] {
        assert!(text(model)? == least, "HLSL of shader model {model:?} differs");
    }
    Ok(least)
}

/// Compiles texts that no test has compiled yet, on all cores. Returns a line about it.
pub fn compile(shaders: &[(String, Hlsl)]) -> Result<String, String> {
    static KNOWN: LazyLock<Mutex<HashSet<Hlsl>>> = LazyLock::new(Mutex::default);
    let dxc = match &*dxc::DXC {
        Ok(dxc) => dxc,
        Err(why) if std::env::var("CI").is_ok_and(|ci| ci == "true") => return Err(why.clone()),
        Err(why) => return Ok(format!("DXC: not run: {why}")),
    };
    let new: Vec<&(String, Hlsl)> = {
        let mut known = KNOWN.lock().expect("no test panics inside");
        shaders.iter().filter(|(_, hlsl)| known.insert(hlsl.clone())).collect()
    };
    let begun = Instant::now();
    let (next, late, failed) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        let compiler = dxc.compiler().expect("the library has made one before");
        // Steps of a prime number, so that all kinds of shaders have their turn where time is short.
        while let Some(i) = Some(next.fetch_add(1, Relaxed)).filter(|&i| i < new.len()) {
            let (what, hlsl) = new[i * 7919 % new.len()];
            if begun.elapsed() > *MOST {
                late.fetch_add(1, Relaxed);
            } else if let Err(why) = compiler.compile(hlsl, "cs_6_0") {
                failed.lock().expect("no thread panics inside").push(format!("{what}: {why}"));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(work);
        }
    });
    let (late, failed) = (late.into_inner(), failed.into_inner().expect("no thread panicked"));
    if !failed.is_empty() {
        let (some, more) = (failed[..failed.len().min(10)].join("\n"), failed.len().saturating_sub(10));
        return Err(format!("DXC {} refuses {} of {} texts. {some}\nand {more} more", dxc.version, failed.len(), new.len()));
    }
    let time = begun.elapsed().as_secs();
    let left = if late > 0 { format!("; not run: {late}, for lack of time") } else { String::new() };
    Ok(format!("DXC {}: {} texts compiled as cs_6_0 in {time} s{left}", dxc.version, new.len() - late))
}
