//! Every shader, written by hand or generated, without a device: assembled, validated by naga, and translated to
//! SPIR-V, MSL and HLSL as wgpu does it for Vulkan, Metal and DX12. DX12's compiler compiles the HLSL where `$DXC` names its
//! library, as `scripts/dxc.sh` prints it.
//!
//! The shaders are those of every case of every op, forward and backward, every candidate, unfused and fused; of the
//! losses; of every optimizer with every option; and of data that lies on the device; each for devices of several abilities.
//! A device without subgroups, or whose subgroups differ in size, gets no shader that uses them.

mod common;
#[path = "backends/dx12.rs"]
mod dx12;
#[path = "backends/dxc.rs"]
mod dxc;
#[path = "backends/process.rs"]
mod process;

use common::{Check, Suite, small_limits};
use downhill::{
    Graph, Host, Shape, Tensor,
    gpu::{FlipShift, feed_pass, shader::assemble, soft_update_pass},
    graph::ParamDef,
    host::Real,
    init::Init,
    kernel::{Bind, Caps, Kernel, Pass, Source},
    losses, ops,
    optim::{self, GroupOptions, Hyper, MAX_STATES, Norms, Optimizer, Readouts, Rule, State},
    params::{Layout, Status},
    plan::{Loc, Plan, PlanOptions},
    shape::DType,
    testing,
};
use dx12::Hlsl;
use naga::{
    AddressSpace, Module, TypeInner,
    back::{msl, spv},
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};
use std::collections::{BTreeSet, HashMap, hash_map::Entry};

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == dxc::SERVE) {
        return dxc::serve().expect("the test sends texts");
    }
    let mut suite = Suite::new();
    suite.test("ops", || {
        let mut seen = Seen::default();
        for (name, cases) in ops::all() {
            for (caps, case) in devices().iter().flat_map(|caps| cases.iter().map(move |case| (caps, case))) {
                let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
                let y = case.op.shape(&shapes)?;
                for kernel in case.op.kernels(&shapes, y, caps) {
                    seen.kernel(&format!("{name} {} {}", case.name, kernel.name), &kernel, caps)?;
                }
            }
        }
        seen.report("ops", 50)
    });
    suite.test("gradients", || {
        let mut seen = Seen::default();
        for case in ops::all().into_iter().flat_map(|(_, cases)| cases) {
            let g = Graph::training();
            let outputs = testing::graph(&g, &case);
            seen.plans(&case.name, &outputs)?;
        }
        seen.report("gradients", 100)
    });
    suite.test("losses", || {
        let mut seen = Seen::default();
        let g = Graph::training();
        let (x, labels, same) = (g.input([6, 5]), g.labels([6]), g.input([6, 5]));
        let classes = g.constant(Host::new([5], vec![0.5, 1.75, 0.3, 2.25, 1.2]));
        let samples = g.input([6]);
        for (name, loss) in [
            ("mse", losses::mse(x, same)),
            ("mae", losses::mae(x, same)),
            ("huber", losses::huber(x, same, 0.5)),
            ("bce", losses::bce(x, same)),
            ("bce_with_logits", losses::bce_with_logits(x, same)),
            ("kl_div", losses::kl_div(x, same)),
            ("cross_entropy", losses::cross_entropy(x, labels)),
            ("cross_entropy weighted", losses::cross_entropy(x, labels).label_smoothing(0.1).class_weights(classes)),
            ("cross_entropy_soft", losses::cross_entropy_soft(x, same).label_smoothing(0.1).class_weights(classes)),
            ("nll", losses::nll(x, labels).class_weights(classes)),
        ] {
            for loss in [loss, loss.sample_weights(samples)] {
                for y in [loss.mean(), loss.none().sigmoid().sum_all()] {
                    let grad = y.grad(&[x]);
                    seen.plans(name, &[y, grad[0]])?;
                }
            }
        }
        seen.report("losses", 50)
    });
    suite.test("networks", || {
        let mut seen = Seen::default();
        for n in [1, 64] {
            let g = Graph::training();
            let (x, labels) = (g.input([n, 20]), g.labels([n]));
            let h = x.linear("fc1", 33).gelu().dropout(0.3);
            let h = (h + h.linear("fc2", 33).tanh()).linear("fc3", 7);
            let y = h.cross_entropy(labels) + h.sigmoid().square().mean_all() * 0.1;
            let mut outputs = vec![y, h.argmax(-1).to_f32().eq(labels).mean_all(), h.correct(labels).mean_all()];
            outputs.extend(y.grad(&g.param_tensors()));
            seen.plans("a network", &outputs)?;
        }
        seen.report("networks", 10)
    });
    suite.test("a step of an MLP is few dispatches", dispatches);
    suite.test("optimizers", || {
        let mut seen = Seen::default();
        for optimizer in optim::all().into_iter().chain([Optimizer::from(Trusting)]) {
            for caps in devices() {
                seen.optimizer(&optimizer, &caps)?;
                seen.optimizer(&optimizer.clone().clip_norm(1.0), &caps)?;
                // Eight groups: what one dispatch can tell apart.
                let many = (1..8).fold(optimizer.clone(), |o, k| {
                    o.group(move |name| name.ends_with(&k.to_string()), GroupOptions { lr_scale: 1.0 + f64::from(k), ..Default::default() })
                });
                seen.optimizer(&many, &caps)?;
            }
        }
        for caps in devices() {
            seen.pass("soft update", &soft_update_pass(4096, 0.005, &caps), &caps)?;
        }
        // Rules for whole parameters, with an optimizer for the rest and without one.
        for optimizer in [optim::Muon::new(0.1).rest(optim::Adam::new(0.1)).clip_norm(1.0), optim::Adafactor::new(0.1).clip_value(1.0)] {
            for caps in devices() {
                let g = Graph::training();
                let loss = g.input([5, 33]).linear("fc1", 17).relu().linear("fc2", 40).square().mean_all();
                for step in testing::training_plan(loss, &optimizer, &caps)?.steps {
                    let caps = Caps { max_bindings: caps.max_bindings.max(8), ..caps };
                    step.kernel.iter().try_for_each(|kernel| seen.kernel(&format!("{optimizer:?} {}", step.label), kernel, &caps))?;
                }
            }
        }
        seen.report("optimizers", 22)
    });
    suite.test("data on the device", || {
        let mut seen = Seen::default();
        let (piece, flips) = ([("start", 10), ("rows", 20), ("len", 50)], FlipShift { horizontal: 1 << 23, vertical: 0, shift: 0 });
        for caps in devices() {
            for (bytes, each, augment) in
                [false, true].into_iter().flat_map(|b| [1, 4].map(|e| [(b, e, None), (b, e, Some(&flips))])).flatten()
            {
                seen.pass("feed", &feed_pass(bytes, each, &piece, Shape::from([8, 3, 4, 4]), augment, &caps), &caps)?;
            }
        }
        seen.report("feed", 8)
    });
    suite.test("FXC compiles portable kernels", dx12::portable);
    suite.test("broken shaders are found", broken);
    #[cfg(unix)]
    suite.test("a compiler that crashes is found", dx12::crashes);
    suite.test("DX12's compiler needs a shader without aliases", dx12::aliases);
    suite.run()
}

/// A rule with a ratio and the most states: no kernel of an update has more buffers.
#[derive(Clone, Debug)]
struct Trusting;

impl Rule for Trusting {
    const NAME: &'static str = "Trusting";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
                (*s).a = lerp((*s).a, grad, h[1]);
                return (*s).a + (*s).b * w;
            }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
                (*s).c = u;
                return w - h[0] * u;
            }
            fn ratio(norms: Norms, h: array<f32, 8>) -> f32 { return norms.weight / (norms.gradient + norms.direction + h[2]); }";
        Source { name: "trusting", text }
    }
    fn states(&self) -> Vec<State> {
        ["a", "b", "c"].map(|name| State { name, start: 0.0, kept: true }).into()
    }
    fn lr(&self) -> f64 {
        0.1
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, 0.1, 1e-8, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(w: T, g: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        s[0] = s[0] + h[1] * (g - s[0]);
        s[0] + s[1] * w
    }
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        s[2] = u;
        w - h[0] * u
    }
    const HAS_RATIO: bool = true;
    fn ratio(norms: Norms, h: &Hyper) -> f64 {
        norms.weight / (norms.gradient + norms.direction + h[2])
    }
    fn cases() -> Vec<Trusting> {
        vec![Trusting]
    }
}

/// Forward, loss, accuracy and all gradients; of more than one pass are only sums over a large batch.
fn dispatches() -> Check {
    for (batch, most) in [(1024, 16), (65_536, 19)] {
        let g = Graph::training();
        let (x, labels) = (g.input([batch, 784]), g.labels([batch]));
        let y = x.linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10);
        let loss = y.cross_entropy(labels);
        let grads = loss.grad(&g.param_tensors());
        for subgroups in [None, Some(32)] {
            let plan =
                Plan::new(&[loss, y.correct(labels).mean_all()], &grads, &PlanOptions::new(Some(Caps { subgroups, ..Caps::default() })))?;
            // Products may be cut into parts, which is their choice.
            let passes = |kernel: &Kernel| if kernel.passes[0].source.name.starts_with("matmul") { 1 } else { kernel.passes.len() };
            let count: usize = plan.steps.iter().filter_map(|step| step.kernel.as_ref()).map(passes).sum();
            assert_eq!(count, most, "{plan}");
        }
    }
    Ok(())
}

/// Abilities of devices that choose different kernels or constants.
fn devices() -> Vec<Caps> {
    let small = small_limits(4);
    vec![
        // Any WebGPU device.
        Caps::default(),
        // A software adapter, with and without subgroups.
        Caps { software: true, ..Caps::default() },
        Caps { software: true, subgroups: Some(8), ..Caps::default() },
        // Hardware: subgroups of several sizes, large workgroups.
        Caps { subgroups: Some(32), max_workgroup_bytes: 48 << 10, max_invocations: 1024, max_bindings: 16, ..Caps::default() },
        Caps { subgroups: Some(128), max_workgroup_bytes: 32 << 10, max_invocations: 512, ..Caps::default() },
        // Intel's.
        Caps { few_registers: true, max_workgroup_bytes: 64 << 10, max_invocations: 1024, max_bindings: 16, ..Caps::default() },
        // The small device of the other tests.
        Caps {
            max_bindings: small.max_bindings as usize,
            max_binding_bytes: small.max_binding_bytes,
            max_workgroup_bytes: small.max_workgroup_bytes,
            max_invocations: small.max_invocations,
            ..Caps::default()
        },
    ]
}

/// The resources of a workgroup that a shader needs.
#[derive(Clone, Copy)]
struct Needs {
    invocations: u32,
    bytes: u32,
    subgroups: bool,
}

/// The shaders checked so far, by text and entry point.
#[derive(Default)]
struct Seen {
    known: HashMap<(String, &'static str), Needs>,
    files: BTreeSet<&'static str>,
    passes: usize,
    /// For DX12, with a name.
    hlsl: Vec<(String, Hlsl)>,
}

impl Seen {
    fn pass(&mut self, what: &str, pass: &Pass, caps: &Caps) -> Check {
        self.passes += 1;
        self.files.insert(pass.source.name);
        let needs = match self.known.entry((assemble(pass)?, pass.entry)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let what = format!("{what}, {} {}", pass.source.name, pass.entry);
                let (needs, hlsl) = check(&new.key().0, pass).map_err(|e| format!("{what}: {e}"))?;
                self.hlsl.extend(hlsl.map(|hlsl| (what.clone(), hlsl)));
                *new.insert(needs)
            }
        };
        let over = |name: &str, need: u32, limit: u32| match need > limit {
            true => Err(format!("{what}, {} {}: {need} {name}, but {caps:?}", pass.source.name, pass.entry)),
            false => Ok(()),
        };
        // Masked attention has more inputs than the smallest device has bindings; there it is an error. WebGPU promises eight.
        let most = if pass.source.name.starts_with("attention") { caps.max_bindings.max(8) } else { caps.max_bindings };
        over("storage buffers", pass.binds.len() as u32, most as u32)?;
        over("invocations", needs.invocations, caps.max_invocations)?;
        over("subgroups", needs.subgroups.into(), caps.subgroups.is_some().into())?;
        Ok(over("bytes of workgroup memory", needs.bytes, caps.max_workgroup_bytes)?)
    }
    fn kernel(&mut self, what: &str, kernel: &Kernel, caps: &Caps) -> Check {
        kernel.passes.iter().try_for_each(|pass| self.pass(what, pass, caps))
    }
    /// Every way to lower `outputs`.
    fn plans(&mut self, what: &str, outputs: &[Tensor]) -> Check {
        for caps in devices() {
            for (candidate, fuse) in [(Some(0), true), (Some(0), false), (Some(1), true), (None, true)] {
                let options = PlanOptions { candidate, fuse, ..PlanOptions::new(Some(caps)) };
                let plan = Plan::new(outputs, &[], &options)?;
                for step in &plan.steps {
                    let kernel = step.kernel.iter();
                    kernel.clone().try_for_each(|k| self.kernel(&format!("{what}: {}", step.label), k, &caps))?;
                    assert!(kernel.count() == 1 || step.is_alias(), "{}: no kernel", step.label);
                }
            }
        }
        Ok(())
    }
    fn optimizer(&mut self, optimizer: &Optimizer, caps: &Caps) -> Check {
        let param =
            |k: usize| ParamDef { name: format!("w{k}"), shape: Shape::from([3, 100 + k]), init: Init::Zeros, decay: true, trained: true };
        let params: Vec<ParamDef> = (0..8).map(param).collect();
        let groups = optimizer.groups(&params)?;
        let mut statuses = groups.statuses.clone();
        *statuses.last_mut().expect("there are parameters") = Status::State;
        let layout = Layout::new(&params, &statuses, 1024, 1 << 20)?;
        assert!(layout.trained > 1 && layout.state == 1);
        for micro in [None, Some(Loc::Slot(1))] {
            let mut steps = optimizer.steps(&layout, optimizer.rows(groups.settings.len()), true, Loc::Slot(0), micro, Some(caps));
            let readouts = Readouts { noise_scale: true, norms: Some(1) };
            optimizer.read_out(&mut steps, readouts, &layout, optimizer.rows(groups.settings.len()), Some(caps));
            for step in steps {
                let (what, kernel) = (format!("{optimizer:?} {}", step.label), step.kernel.expect("a GPU's steps have kernels"));
                // Adam's six buffers are more than the smallest device has; there, training with it is an error.
                let fits = kernel.passes.iter().all(|p| p.binds.len() <= caps.max_bindings);
                assert!(fits || caps.max_bindings < 8, "{what} needs more buffers than WebGPU promises");
                let caps = Caps { max_bindings: caps.max_bindings.max(8), ..*caps };
                self.kernel(&what, &kernel, &caps)?;
            }
        }
        Ok(())
    }
    fn report(&self, what: &str, least: usize) -> Check {
        let files: Vec<&str> = self.files.iter().copied().collect();
        println!("{what}: {} different shaders in {} passes, of {}", self.known.len(), self.passes, files.join(", "));
        assert!(self.known.len() >= least, "only {} shaders", self.known.len());
        println!("{what}: {}", dx12::compile(&self.hlsl)?);
        Ok(())
    }
}

/// Parses and validates a shader.
fn parse(text: &str) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::SUBGROUP);
    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}

/// Validates a shader and translates it for every backend. Returns the HLSL without and with checks.
fn check(text: &str, pass: &Pass) -> Result<(Needs, [Hlsl; 2]), String> {
    let (module, info) = parse(text)?;
    // naga's HLSL would define the helpers of an aliased type twice.
    let alias = module.types.iter().find(|(_, ty)| ty.name.is_some() && !matches!(ty.inner, TypeInner::Struct { .. }));
    if let Some((_, ty)) = alias {
        return Err(format!("the module has an alias: {ty:?}"));
    }
    let subgroups = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).is_err();
    let entry = module.entry_points.iter().find(|e| e.name == pass.entry).ok_or(format!("no entry point {}", pass.entry))?;
    for checked in [false, true] {
        to_spirv(&module, &info, pass, checked)?;
        to_msl(&module, &info, pass, checked)?;
    }
    let hlsl = [dx12::translate(&module, &info, pass, false)?, dx12::translate(&module, &info, pass, true)?];
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    let bytes = shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum();
    Ok((Needs { invocations: entry.workgroup_size.iter().product(), bytes, subgroups }, hlsl))
}

/// Group and number of every binding, in order, and whether the shader writes it.
fn bindings(pass: &Pass) -> impl Iterator<Item = (naga::ResourceBinding, bool)> + '_ {
    let storage = pass.binds.iter().enumerate().map(|(i, b)| (0, i as u32 + 1, b.write));
    let step = pass.step.then_some((1, 0, false));
    let all = std::iter::once((0, 0, false)).chain(storage).chain(step);
    all.map(|(group, binding, write)| (naga::ResourceBinding { group, binding }, write))
}

fn policies(checked: bool) -> BoundsCheckPolicies {
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    BoundsCheckPolicies { index: policy, buffer: policy, ..BoundsCheckPolicies::default() }
}

fn to_spirv(module: &Module, info: &ModuleInfo, pass: &Pass, checked: bool) -> Result<(), String> {
    let slot = |(i, (at, _)): (usize, (naga::ResourceBinding, bool))| {
        (at, spv::BindingInfo { descriptor_set: at.group, binding: i as u32, binding_array_size: None })
    };
    let options = spv::Options {
        lang_version: if pass.source.text.contains("subgroup") { (1, 3) } else { (1, 0) },
        fake_missing_bindings: false,
        binding_map: bindings(pass).enumerate().map(slot).collect(),
        bounds_check_policies: policies(checked),
        zero_initialize_workgroup_memory: match checked {
            true => spv::ZeroInitializeWorkgroupMemoryMode::Polyfill,
            false => spv::ZeroInitializeWorkgroupMemoryMode::None,
        },
        force_loop_bounding: checked,
        ..spv::Options::default()
    };
    let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: pass.entry.to_string() };
    let words = spv::write_vec(module, info, &options, Some(&entry)).map_err(|e| format!("SPIR-V: {e}"))?;
    assert!(words[0] == 0x0723_0203 && words.len() > 50, "SPIR-V");
    Ok(())
}

fn to_msl(module: &Module, info: &ModuleInfo, pass: &Pass, checked: bool) -> Result<(), String> {
    let slot = |(i, (at, mutable)): (usize, (naga::ResourceBinding, bool))| {
        (at, msl::BindTarget { buffer: Some(i as u8), mutable, ..msl::BindTarget::default() })
    };
    let resources = bindings(pass).enumerate().map(slot).collect();
    let map = msl::EntryPointResources { resources, immediates_buffer: None, sizes_buffer: Some(30) };
    let options = msl::Options {
        lang_version: (2, 4),
        per_entry_point_map: [(pass.entry.to_string(), map)].into(),
        fake_missing_bindings: false,
        bounds_check_policies: policies(checked),
        zero_initialize_workgroup_memory: checked,
        force_loop_bounding: checked,
        ..msl::Options::default()
    };
    let entry = msl::PipelineOptions { entry_point: Some((naga::ShaderStage::Compute, pass.entry.to_string())), ..Default::default() };
    let (text, translated) = msl::write_string(module, info, &options, &entry).map_err(|e| format!("MSL: {e}"))?;
    let name = translated.entry_point_names.first().ok_or("MSL: no entry point")?.as_ref().map_err(|e| format!("MSL: {e}"))?;
    assert!(text.contains(&format!("kernel void {name}(")), "MSL");
    Ok(())
}

/// A pass of this text, with `bindings` buffers. It writes the first two.
fn pass(text: &'static str, bindings: usize) -> Pass {
    let read_only = |i: usize, bind: Bind| Bind { write: i < 2, ..bind };
    Pass {
        source: Source { name: "test", text },
        entry: "forward",
        consts: Vec::new(),
        params: Vec::new(),
        binds: (0..bindings).map(|i| read_only(i, Bind::output(format!("y{i}"), DType::F32))).collect(),
        code: String::new(),
        units: 1,
        per_group: 1,
        step: false,
    }
}

/// The harness itself: each of these is wrong in one way, and each must be found.
fn broken() -> Check {
    let caps = Caps { max_workgroup_bytes: 4096, max_invocations: 64, max_bindings: 2, ..Caps::default() };
    let verdict =
        |text: &'static str, bindings: usize| Seen::default().pass("a test", &pass(text, bindings), &caps).map_err(|e| e.to_string());
    let head = "@compute @workgroup_size(64) fn forward(@builtin(global_invocation_id) id: vec3<u32>) ";
    let leak = |body: &str| -> &'static str { format!("{head}{{ {body} }}").leak() };
    verdict(leak("y0[id.x] = 1.0;"), 1)?;
    for (text, bindings, part) in [
        (leak("y0[id.x] = 1.0"), 1, "expected"),
        (leak("y0[id.x] = 1u;"), 1, "automatic conversions"),
        (leak("y2[id.x] = 1.0;"), 3, "not permitted"),
        ("@compute @workgroup_size(0) fn forward() { y0[0] = 1.0; }", 1, "Workgroup size"),
        (leak("y7[id.x] = 1.0;"), 1, "no definition in scope"),
        (leak("y0[id.x] = sinn(1.0);"), 1, "no definition in scope"),
        ("@compute @workgroup_size(64) fn backward() { y0[0] = 1.0; }", 1, "entry point"),
        ("@compute @workgroup_size(65) fn forward() { y0[0] = 1.0; }", 1, "65 invocations"),
        ("var<workgroup> t: array<f32, 1025>;\n@compute @workgroup_size(64) fn forward() { y0[0] = t[3]; }", 1, "4100 bytes"),
        (leak("y0[id.x] = y1[0] + y2[0];"), 3, "3 storage buffers"),
        (leak("y0[id.x] = subgroupAdd(1.0);"), 1, "1 subgroups"),
    ] {
        match verdict(text, bindings) {
            Err(why) => assert!(why.contains(part), "found, but not as `{part}`: {why}"),
            Ok(()) => return Err(format!("not found: {text}").into()),
        }
    }
    Ok(())
}
