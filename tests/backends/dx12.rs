//! Shaders as HLSL, translated as wgpu does it for DX12, and compiled by Microsoft's compilers.

use super::{
    Check, Seen, bindings, dxc, parse, pass,
    process::{Process, Refusal},
};
use downhill::{
    Shape,
    gpu::shader::assemble,
    kernel::{Caps, Pass},
    ops, optim,
};
use naga::{Module, ShaderStage, back::hlsl, valid::ModuleInfo};
use std::{
    collections::HashSet,
    env,
    process::Command,
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
    let seconds = env::var("DXC_SECONDS").ok().and_then(|text| text.parse().ok());
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

/// Gives texts to DXC that no test has given to it yet, on all cores. Returns a line about it.
pub fn compile(shaders: &[(String, Hlsl)]) -> Result<String, String> {
    static KNOWN: LazyLock<Mutex<HashSet<Hlsl>>> = LazyLock::new(Mutex::default);
    let dxc = match &*dxc::DXC {
        Ok(dxc) => dxc,
        Err(why) if env::var("CI").is_ok_and(|ci| ci == "true") => return Err(why.clone()),
        Err(why) => return Ok(format!("DXC: not run: {why}")),
    };
    let new: Vec<&(String, Hlsl)> = {
        let mut known = KNOWN.lock().expect("no test panics inside");
        shaders.iter().filter(|(_, hlsl)| known.insert(hlsl.clone())).collect()
    };
    each(&format!("DXC {}", dxc.version), "cs_6_0", &new, dxc::process)
}

/// Gives texts to FXC, on all cores. Returns a line about it.
fn compile_by_fxc(shaders: &[(String, Hlsl)]) -> Result<String, String> {
    let Some(program) = env::var_os("FXC") else {
        return Ok("FXC: not run: $FXC names no program; `scripts/dx12.sh fxc` prints one".to_string());
    };
    let all: Vec<&(String, Hlsl)> = shaders.iter().collect();
    each("FXC", "cs_5_1", &all, || Process::new(&mut Command::new(&program)))
}

/// Compiles texts on all cores, as long as there is time. A text is refused if its compiler ends twice.
fn each(name: &str, model: &str, texts: &[&(String, Hlsl)], compiler: impl Fn() -> Process + Sync) -> Result<String, String> {
    let begun = Instant::now();
    let [next, late, slow, ended] = [const { AtomicUsize::new(0) }; 4];
    let failed = Mutex::new(Vec::new());
    let work = || {
        let mut process = compiler();
        // Steps of a prime number, so that all kinds of shaders have their turn where time is short.
        while let Some(i) = Some(next.fetch_add(1, Relaxed)).filter(|&i| i < texts.len()) {
            let (what, hlsl) = texts[i * 7919 % texts.len()];
            if begun.elapsed() > *MOST {
                late.fetch_add(1, Relaxed);
                continue;
            }
            let mut result = process.compile(hlsl);
            if let Err(Refusal::Ended(why)) = &result {
                println!("{name}: {what}: {why}; once more");
                ended.fetch_add(1, Relaxed);
                process = compiler();
                result = process.compile(hlsl);
            }
            let why = match result {
                Ok(()) => continue,
                Err(Refusal::Slow) => {
                    slow.fetch_add(1, Relaxed);
                    process = compiler();
                    continue;
                }
                Err(Refusal::Ended(why)) => {
                    process = compiler();
                    why
                }
                Err(Refusal::Error(why)) => why,
            };
            failed.lock().expect("no thread panics inside").push(format!("{what}: {why}"));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(work);
        }
    });
    let [late, slow, ended] = [late, slow, ended].map(AtomicUsize::into_inner);
    let failed = failed.into_inner().expect("no thread panicked");
    if !failed.is_empty() {
        let (some, more) = (failed[..failed.len().min(10)].join("\n"), failed.len().saturating_sub(10));
        return Err(format!("{name} refuses {} of {} texts. {some}\nand {more} more", failed.len(), texts.len()));
    }
    let time = begun.elapsed().as_secs();
    let left = if late + slow > 0 { format!("; not run: {}, for lack of time", late + slow) } else { String::new() };
    let ended = if ended > 0 { format!("; {ended} needed a second process") } else { String::new() };
    Ok(format!("{name}: {} texts compiled as {model} in {time} s{left}{ended}", texts.len() - late - slow))
}

/// The reason why `assemble` writes types for aliases: with an alias, DXC refuses a shader that naga accepts.
pub fn aliases() -> Check {
    let text = "alias V = f32;
        @compute @workgroup_size(64) fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
            var a = V();
            var b = f32();
            y0[id.x] = a + b;
        }";
    let pass = pass(text, 1);
    let mended = assemble(&pass)?;
    let as_written = mended.replace("var a = f32()", "var a = V()") + "\nalias V = f32;";
    assert!(mended.contains("var a = f32()") && !mended.contains("alias"), "{mended}");
    let hlsl = |text: &str| parse(text).and_then(|(module, info)| translate(&module, &info, &pass, false));
    let [mended, as_written] = [hlsl(&mended)?, hlsl(&as_written)?];
    println!("{}", compile(&[("a shader without aliases".to_string(), mended)])?);
    if dxc::DXC.is_err() {
        return Ok(());
    }
    let mut process = dxc::process();
    match process.compile(&as_written) {
        Err(Refusal::Error(why)) if why.contains("redefinition of 'ZeroValuefloat'") => {}
        other => return Err(format!("DXC says of a shader with an alias: {other:?}").into()),
    }
    Ok(())
}

/// The harness itself: a compiler that ends is an error that says so, and the next process compiles.
pub fn crashes() -> Check {
    let text = Hlsl { text: "[numthreads(1, 1, 1)] void main() {}".to_string(), entry: "main".to_string() };
    let texts = [("a text".to_string(), text)];
    let texts: Vec<_> = texts.iter().collect();
    let answer = |of: &str| Process::new(Command::new("sh").args(["-c", &format!("read line; {of}")]));
    let why = each("a compiler", "cs_6_0", &texts, || answer("kill -SEGV $$")).expect_err("it ends each time");
    assert!(why.contains("a compiler refuses 1 of 1 texts. a text: the compiler ended (signal: 11"), "{why}");
    let threads = Mutex::new(HashSet::new());
    let line = each("a compiler", "cs_6_0", &texts, || {
        let first = threads.lock().expect("no thread panics inside").insert(thread::current().id());
        answer(if first { "exit 3" } else { "echo ok" })
    })?;
    assert!(line.starts_with("a compiler: 1 texts compiled as cs_6_0 in ") && line.ends_with(" s; 1 needed a second process"), "{line}");
    Ok(())
}

/// The kernels that a device of DX12 uses without DXC. FXC unrolls the loops of attention until it gives up.
pub fn portable() -> Check {
    let caps = Caps { max_workgroup_bytes: 32 << 10, max_invocations: 1024, max_bindings: 64, ..Caps::default() };
    let mut seen = Seen::default();
    for (name, cases) in ops::all().into_iter().filter(|(name, _)| !name.starts_with("attention")) {
        for case in cases {
            let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
            let y = case.op.shape(&shapes)?;
            if let Some(kernel) = case.op.kernels(&shapes, y, &caps).first() {
                seen.kernel(&format!("{name} {} {}", case.name, kernel.name), kernel, &caps)?;
            }
        }
    }
    for optimizer in optim::all() {
        seen.optimizer(&optimizer, &caps)?;
    }
    println!("portable kernels: {}", compile_by_fxc(&seen.hlsl)?);
    Ok(())
}
