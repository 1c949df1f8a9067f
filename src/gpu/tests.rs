//! Tests of the executor with hand-made plans. Other tests cover whole models.

use super::{dispatch::*, shader::assemble, *};
use crate::{
    error::{Error, Result},
    graph::{InputDef, ParamDef, Tensor},
    host::{Host, Real, View, ViewMut},
    init::Init,
    kernel::{Bind, Caps, Kernel, Pass, Source, Span, Which, Word},
    ops::{Case, OpDef},
    optim::{Control, Readouts},
    params::{Layout, Status},
    plan::{Flat, Loc, Phase, Plan, Slot, Step, Update, Work},
    rng::Key,
    shape::{DType, Shape},
};
use pollster::block_on;
use std::{collections::HashSet, sync::Arc};
use wgpu::naga;

/// An op that only carries a kernel.
#[derive(Debug, PartialEq)]
struct Probe;
impl OpDef for Probe {
    const NAME: &'static str = "probe";
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, _: &[View<T>], _: &mut ViewMut<T>, _: Key) {
        unreachable!("these plans run on the GPU only")
    }
    fn vjp<'g>(&self, _: &[Tensor<'g>], _: Tensor<'g>, _: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        Vec::new()
    }
    fn kernels(&self, _: &[Shape], _: Shape, _: &Caps) -> Vec<Kernel> {
        Vec::new()
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

/// Opens a GPU, also a software adapter. If there is no adapter, the test is skipped with a message. In CI it fails.
fn open_with(options: GpuOptions) -> Option<Arc<Gpu>> {
    let choice = if options.choice == Choice::Measured { Choice::Expected } else { options.choice };
    match block_on(open(&GpuOptions { software: true, choice, ..options })) {
        Ok(gpu) => Some(gpu),
        Err(error @ Error::NoAdapter { .. }) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have an adapter: {error}");
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn with_limits(change: impl FnOnce(&mut Limits)) -> Option<Arc<Gpu>> {
    let mut limits = Limits::default();
    change(&mut limits);
    open_with(GpuOptions { limits: Some(limits), ..GpuOptions::default() })
}

/// A pipeline cache of another device, or of no device, acts like an empty cache. Pipelines still compile.
#[test]
fn pipeline_caches_of_other_devices() {
    let folder = tempfile::tempdir().unwrap();
    let options = GpuOptions { software: true, cache: Some(folder.path().to_path_buf()), ..GpuOptions::default() };
    // If there is no adapter, other tests report it.
    let Ok(gpu) = block_on(open(&options)) else { return };
    if !gpu.has(wgpu::Features::PIPELINE_CACHE) {
        return;
    }
    let make = |data: Option<Vec<u8>>| block_on(device::pipeline_cache(&gpu.device, data));
    let own = make(None).get_data().unwrap();
    // wgpu's header has 16 bytes, then the backend, the vendor and device (within 15 bytes), the driver's version (within 16
    // bytes) and the length. The driver's own data follow.
    let changed = |range: std::ops::Range<usize>| {
        let mut bytes = own.clone();
        bytes[range].iter_mut().for_each(|byte| *byte ^= 0x5a);
        bytes
    };
    let all = [
        ("its own", own.clone()),
        ("of another backend", changed(16..17)),
        ("of another vendor", changed(20..24)),
        ("of another device", changed(24..28)),
        ("of another driver", changed(32..48)),
        ("of another length", changed(48..56)),
        ("of a driver that says otherwise", changed(64..own.len().min(96))),
        ("cut", own[..40].to_vec()),
        ("empty", Vec::new()),
        ("no cache", vec![7; 4000]),
    ];
    let source = wgpu::ShaderSource::Wgsl("@compute @workgroup_size(1) fn main() {}".into());
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    for (what, data) in all {
        let cache = make(Some(data));
        let descriptor = wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: Some(&cache),
        };
        let compiled = block_on(gpu.scoped("compile", |device| device.create_compute_pipeline(&descriptor)));
        assert!(compiled.is_ok(), "{what}: {}", compiled.unwrap_err());
    }
}

/// The number of invocations in a workgroup in these tests.
const WG: usize = 64;

fn pass(text: &'static str, units: usize, binds: Vec<Bind>) -> Pass {
    Pass {
        source: Source { name: "probe", text },
        entry: "forward",
        consts: vec![("WG", Word::from(WG))],
        params: Vec::new(),
        binds,
        code: String::new(),
        units,
        per_group: WG,
        step: false,
    }
}

fn step(inputs: &[(Loc, Shape)], output: (Loc, Shape), kernel: Kernel) -> Step {
    let scratch = (0..kernel.scratch.len()).collect();
    let label = format!("probe {} → {}", inputs[0].1, output.1);
    let (phase, work) = (Phase::Compute, Work::Op(Arc::new(Probe)));
    Step { phase, label, layer: String::new(), work, inputs: inputs.to_vec(), output, scratch, kernel: Some(kernel), unchecked: true }
}

/// Returns a plan of one step. The step reads inputs of these shapes and writes slot 0.
fn one(inputs: &[Shape], output: Shape, pass: Pass) -> Plan {
    let places: Vec<(Loc, Shape)> = inputs.iter().enumerate().map(|(i, &s)| (Loc::Input(i), s)).collect();
    Plan {
        inputs: inputs.iter().map(|&shape| InputDef { shape, classes: None }).collect(),
        slots: vec![Slot { elements: output.elements(), dtype: output.dtype() }],
        steps: vec![step(&places, (Loc::Slot(0), output), Kernel::one("plain", pass))],
        outputs: vec![(Loc::Slot(0), output)],
        ..Plan::default()
    }
}

fn load(gpu: &Arc<Gpu>, plan: &Plan, options: ExecOptions) -> Result<GpuExec> {
    let store = Arc::new(block_on(GpuStore::new(gpu, Layout::default(), 0))?);
    block_on(GpuExec::new(gpu, plan, &store, options))
}

fn run(gpu: &Arc<Gpu>, plan: &Plan, inputs: &[Host<f32>]) -> (Host<f32>, usize) {
    let mut exec = load(gpu, plan, ExecOptions { guards: true, ..ExecOptions::default() }).unwrap();
    exec.fill_slots(NAN).unwrap();
    for (i, x) in inputs.iter().enumerate() {
        exec.write(i, x).unwrap();
    }
    exec.submit(&StepRow::default()).unwrap();
    assert_eq!(block_on(exec.fences_intact(NAN)).unwrap(), Vec::<String>::new());
    (block_on(exec.read(0)).unwrap(), exec.dispatches())
}

/// A NaN whose bits no arithmetic produces.
const NAN: u32 = 0x7fc0_dead;

fn ramp(shape: impl Into<Shape>) -> Host<f32> {
    let shape = shape.into();
    Host::new(shape, (0..shape.elements()).map(|i| (i % 9973) as f32 + 0.25).collect())
}

const DOUBLE: &str = "//!include lib/index
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if i < p.units { y[i] = 2.0 * x[i]; }
}
";

fn double(n: usize) -> Plan {
    let binds = vec![Bind::input("x", 0, DType::F32).per_unit(1), Bind::output("y", DType::F32).per_unit(1)];
    one(&[Shape::from([n])], Shape::from([n]), pass(DOUBLE, n, binds))
}

#[test]
fn folds_more_groups_than_a_dimension_holds() {
    let n = 65_600 * WG + 7; // 65,601 workgroups: more than one dimension allows.
    let Some(gpu) = with_limits(|l| l.max_workgroups = 64) else { return };
    let x = ramp([n]);
    let (y, dispatches) = run(&gpu, &double(n), std::slice::from_ref(&x));
    assert_eq!(dispatches, 1);
    assert!(y.f().iter().zip(x.f()).all(|(y, x)| *y == 2.0 * x));
}

#[test]
fn splits_what_cannot_be_folded_or_bound() {
    // y[u] = x[u, 0] + x[u, 1] + x[u, 2] + b[u]. The tensor b fits the binding limit and is bound whole.
    let text = "//!include lib/index
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if i < p.units { y[i] = p.scale * (x[3u * i] + x[3u * i + 1u] + x[3u * i + 2u]) + b[p.first + i]; }
}
";
    let n = 5000;
    let binds =
        vec![Bind::input("x", 0, DType::F32).per_unit(3), Bind::input("b", 1, DType::F32), Bind::output("y", DType::F32).per_unit(1)];
    let mut sum = pass(text, n, binds);
    sum.params = vec![("scale".into(), Word::F(0.5))];
    let plan = one(&[Shape::from([n, 3]), Shape::from([n])], Shape::from([n]), sum);
    let (x, b) = (ramp([n, 3]), ramp([n]));
    let want: Vec<f32> = x.f().chunks(3).zip(b.f()).map(|(x, b)| 0.5 * (x[0] + x[1] + x[2]) + b).collect();

    // 20,480 bytes bind 1,706 units of x. The next smaller multiple of 64 is 1,664 (26 · 64). So there are four windows.
    let Some(gpu) = with_limits(|l| l.max_binding_bytes = 20_480) else { return };
    let (y, dispatches) = run(&gpu, &plan, &[x.clone(), b.clone()]);
    assert_eq!((y.f(), dispatches), (&want[..], 4));

    // 3³ workgroups of 64 compute 1,728 units. So there are three windows.
    let Some(gpu) = with_limits(|l| l.max_workgroups = 3) else { return };
    let (y, dispatches) = run(&gpu, &plan, &[x, b]);
    assert_eq!((y.f(), dispatches), (&want[..], 3));
}

#[test]
fn limits_are_typed_errors() {
    let Some(gpu) = with_limits(|l| {
        l.max_binding_bytes = 4096;
        l.max_buffer_bytes = 65_536;
        l.max_workgroups = 2;
        l.max_bindings = 2;
    }) else {
        return;
    };
    let refused = |plan: &Plan| match load(&gpu, plan, ExecOptions::default()) {
        Err(Error::Limit { what, need, limit, .. }) => (what, need, limit),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no limit was found"),
    };
    let whole = |n: usize, more: usize| {
        let mut binds = vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)];
        binds.extend((0..more).map(|i| Bind::input(format!("z{i}"), 0, DType::F32)));
        one(&[Shape::from([n])], Shape::from([n]), pass(DOUBLE, n, binds))
    };
    assert_eq!(refused(&whole(2000, 0)), ("probe [2000] → [2000] (`x`, bound whole)".into(), 8000, 4096));
    assert_eq!(refused(&whole(20_000, 0)), ("probe [20000] → [20000] (slot 0 [20000])".into(), 80_000, 65_536));
    assert_eq!(refused(&whole(1000, 0)), ("probe [1000] → [1000] (workgroups)".into(), 16, 8));
    assert_eq!(refused(&whole(100, 1)), ("probe [100] → [100]: probe plain (storage buffers bound at once)".into(), 3, 2));
    // Sizes just inside the limits work.
    assert_eq!(run(&gpu, &double(1024), &[ramp([1024])]).0.f()[1023], 2.0 * 1023.25);
    let error = block_on(GpuStore::new(&gpu, Layout { pieces: vec![64, 32_768], ..Layout::default() }, 0)).err().unwrap();
    assert!(error.to_string().starts_with("params piece 1 [32768]: needs 131072, but this device's limit is 65536"), "{error}");
}

#[test]
fn a_write_past_the_end_is_found() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let text = "@compute @workgroup_size(WG)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = 1.0; }
";
    // There are 100 elements and two workgroups of 64. The shader does not compare with p.units, so it makes 28 writes too
    // many.
    let n = Shape::from([100]);
    let plan = one(&[n], n, pass(text, 100, vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)]));
    let mut exec = load(&gpu, &plan, ExecOptions { guards: true, ..ExecOptions::default() }).unwrap();
    exec.fill_slots(NAN).unwrap();
    exec.submit(&StepRow::default()).unwrap();
    let found = block_on(exec.fences_intact(NAN)).unwrap();
    assert_eq!(found, vec!["probe [100] → [100] (slot 0 [100]): element 0 past its end became 0x3f800000"]);
}

/// `z = sum of x · w` in one invocation, `dw = x`, and an update that adds `h[0] · dw` if the guard allows the update.
fn trained() -> (Plan, Layout) {
    let n = Shape::from([70]);
    let loss = "@compute @workgroup_size(1)
fn forward() {
    var s = 0.0;
    for (var i = 0u; i < p.n; i++) { s += x[i] * w[i] * c[i]; }
    z[0] = s;
}
@compute @workgroup_size(WG)
fn grad_w(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < p.units { dw[id.x] = f32(x[id.x]) * c[id.x]; }
}
";
    let bind = |name: &str, which, write| Bind { which, write, ..Bind::input(name, 0, DType::F32) };
    let (x, w, c) = (bind("x", Which::In(0), false), bind("w", Which::In(1), false), bind("c", Which::In(2), false));
    let (z, dw) = (bind("z", Which::Out, true), bind("dw", Which::Out, true));
    let mut forward = pass(loss, 1, vec![x.clone(), w, c.clone(), z]);
    forward.params = vec![("n".into(), Word::from(70usize))];
    let mut grad = pass(loss, 70, vec![x, c, dw]);
    grad.entry = "grad_w";

    let places = [(Loc::Input(0), n), (Loc::Param(0), n), (Loc::Constant(0), n)];
    let mut plan = Plan {
        params: vec![ParamDef { name: "w".into(), shape: n, init: Init::Zeros, decay: false, trained: true }],
        inputs: vec![InputDef { shape: n, classes: None }],
        constants: vec![Arc::new(Host::new(n, vec![0.5; 70]))],
        slots: vec![Slot { elements: 1, dtype: DType::F32 }],
        steps: vec![
            step(&places, (Loc::Slot(0), Shape::SCALAR), Kernel::one("plain", forward)),
            step(&places, (Loc::Grad(0), n), Kernel::one("plain", grad)),
        ],
        outputs: vec![(Loc::Slot(0), Shape::SCALAR), (Loc::Grad(0), n)],
        ..Plan::default()
    };

    let update = "@compute @workgroup_size(WG)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= p.units { return; }
    let h = bitcast<f32>(guard[p.hyper + 8u * (2u * step.row + GROUP)]);
    m[id.x] += g[id.x];
    w[id.x] -= h * m[id.x] + 0.0 * part[0];
    if id.x == 0u {
        guard[0] = step.step.x;
        guard[1] = step.seed.y;
        guard[2] = bitcast<u32>(loss[0]);
    }
}
";
    let partial = "@compute @workgroup_size(1)
fn forward() { part[0] = 1.0; }
";
    let binds = vec![
        bind("w", Which::In(0), true),
        bind("g", Which::In(1), false),
        Bind { dtype: DType::U32, ..bind("guard", Which::In(2), true) },
        bind("m", Which::In(3), true),
        bind("loss", Which::In(4), false),
        bind("part", Which::Scratch(0), false),
    ];
    let mut main = pass(update, 128, binds);
    main.step = true;
    main.consts.push(("GROUP", Word::U(1)));
    let layout = Layout::new(&plan.params, &[Status::Trained { group: 1 }], 1 << 20, 1 << 20).unwrap();
    let tables = Control::new(&layout, 2, u64::MAX);
    main.params.push(("hyper".into(), Word::from(tables.hyper)));
    let passes = vec![pass(partial, 1, vec![bind("part", Which::Scratch(0), true)]), main];
    let [piece, words] = [128, tables.words].map(|n| Shape::from([n]));
    let flat = |flat| (Loc::Piece(flat, 0), piece);
    let inputs = [flat(Flat::Weights), flat(Flat::Grads), (Loc::Control, words.u32()), flat(Flat::State(0)), (Loc::Slot(0), Shape::SCALAR)];
    let kernel = Kernel { name: "momentum", passes, scratch: vec![1] };
    let work = Work::Update(Update::Apply, 0);
    let update = Step { phase: Phase::Update, work, scratch: Vec::new(), ..step(&inputs, (Loc::Control, words.u32()), kernel) };
    plan.append(vec![update], 2);
    (plan, layout)
}

#[test]
fn steps_update_the_store_and_fill_the_ring() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let steps = 150u64; // More steps than the table has rows and than the ring has.
    let train = || {
        let (plan, layout) = trained();
        let store = Arc::new(block_on(GpuStore::new(&gpu, layout.with_states(&[], 1), 2)).unwrap());
        let ring = Arc::new(block_on(GpuRing::new(&store, 1, 48, Readouts::default(), 0)).unwrap());
        let options = ExecOptions { ring: Some(&ring), guards: true };
        let mut exec = block_on(GpuExec::new(&gpu, &plan, &store, options)).unwrap();
        exec.fill_slots(NAN).unwrap();
        let start: Vec<f32> = (0..128).map(|i| if i < 70 { i as f32 * 0.5 } else { 0.0 }).collect();
        store.write_params(&[start]).unwrap();
        let before = exec.counters();
        let x = ramp([70]);
        for t in 0..steps {
            let row = StepRow { seed: 7 << 32 | 5, step: t, batch: t, ..StepRow::default() };
            let mut hyper = [[0.0; 8]; 2];
            hyper[1][0] = f64::from(1.0 / 1024.0 / (t + 1) as f32);
            hyper[0][0] = 1e9; // A hyperparameter of another parameter group.
            exec.write(0, &x).unwrap();
            exec.submit_steps(&[row], &hyper, false).unwrap();
        }
        exec.finish().unwrap();
        let after = exec.counters();
        assert_eq!((after.submits, after.dispatches, after.reads), (steps, 4 * steps, 0));
        assert_eq!(after.bytes_uploaded - before.bytes_uploaded, steps * (280 + 32 + 64));
        assert_eq!(after.allocations, before.allocations);
        assert!(ring.take().unwrap().is_none());
        assert!(ring.ask(0, 49, 0..0).is_err() && ring.ask(0, 0, 0..0).is_err() && ring.ask(0, 1, 0..1).is_err());
        ring.ask(steps - 48, 48, 0..0).unwrap();
        assert!(ring.ask(0, 1, 0..0).unwrap_err().to_string().contains("under way"));
        let ring = block_on(ring.wait()).unwrap().unwrap();
        assert_eq!((ring.first, ring.guard), (steps - 48, block_on(store.read_guard()).unwrap()));
        let ring = ring.rows;
        assert_eq!(block_on(exec.fences_intact(NAN)).unwrap(), Vec::<String>::new());
        (block_on(store.read_params()).unwrap(), block_on(store.read_state(0)).unwrap(), ring, block_on(store.read_guard()).unwrap())
    };
    let (w, m, ring, guard) = train();

    // The same computation by hand. The weights only affect the loss, so they are sums of known numbers.
    let x = ramp([70]);
    let (mut want_w, mut losses): (Vec<f32>, Vec<f64>) = ((0..70).map(|i| i as f32 * 0.5).collect(), Vec::new());
    for t in 0..steps {
        losses.push(want_w.iter().zip(x.f()).map(|(&w, &x)| w as f64 * x as f64 * 0.5).sum());
        let h = 1.0 / 1024.0 / (t + 1) as f32;
        for (w, x) in want_w.iter_mut().zip(x.f()) {
            *w -= h * (x * 0.5 * (t + 1) as f32);
        }
    }
    for (i, (got, want)) in w[0].iter().zip(&want_w).enumerate() {
        // There are 150 subtractions, and each is rounded. The product is rounded too, unless the driver fuses it with the
        // subtraction.
        assert!((got - want).abs() <= 300.0 * f32::EPSILON * 40.0, "weight {i}: {got} is not {want}");
    }
    assert!(w[0][70..].iter().all(|&w| w == 0.0), "the gap after a range stays zero");
    assert_eq!(m[0][69], 69.25 * 0.5 * 150.0);
    assert_eq!(ring.len(), 48);
    for (row, want) in ring.iter().zip(&losses[steps as usize - 48..]) {
        // The sum has 70 terms of both signs. Each is below 69.25 · 40 · 0.5.
        assert!((row[0] as f64 - want).abs() < 70.0 * 70.0 * 1400.0 * f32::EPSILON as f64, "{} is not {want}", row[0]);
    }
    assert_eq!((guard[0], guard[1], guard[2]), (149, 7, ring[47][0].to_bits()));

    let again = train();
    assert_eq!((again.0, again.1, again.2, again.3), (w, m, ring, guard), "a second run is equal to the last bit");
}

#[test]
fn labels_go_in_and_out_as_integers() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let text = "@compute @workgroup_size(WG)
fn forward(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < p.units { y[id.x] = x[id.x] ^ 0x80000001u; } }
";
    let n = Shape::from([3]).u32();
    let plan = one(&[n], n, pass(text, 3, vec![Bind::input("x", 0, DType::U32), Bind::output("y", DType::U32)]));
    let x = Host::labels([3], vec![0, 0x7fff_ffff, 0xffff_ffff]);
    assert_eq!(run(&gpu, &plan, std::slice::from_ref(&x)).0.u(), &[0x8000_0001, 0xffff_fffe, 0x7fff_fffe]);

    let exec = load(&gpu, &plan, ExecOptions::default()).unwrap();
    let error = exec.write(0, &Host::labels([2], vec![1, 2])).unwrap_err().to_string();
    assert_eq!(error, "input 0: got u32 [2] with 2 labels, but the graph was built for u32 [3]");
    assert_eq!(exec.write(1, &x).unwrap_err().to_string(), "input 1: this plan has 1");
    assert_eq!(block_on(exec.read(1)).unwrap_err().to_string(), "output 1: this plan has 1");
}

#[test]
fn a_kernel_that_is_wrong_is_an_error_not_a_panic() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let n = Shape::from([4]);
    let refused = |plan: &Plan| load(&gpu, plan, ExecOptions::default()).err().expect("an error").to_string();
    let binds = || vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)];
    let error = refused(&one(&[n], n, pass("@compute @workgroup_size(WG)\nfn forward() { y[0] = q; }\n", 4, binds())));
    assert!(error.contains("probe plain forward") && error.contains("no definition in scope for identifier: `q`"), "{error}");

    let mut both = one(&[n], n, pass(DOUBLE, 4, binds()));
    both.steps[0].inputs[0].0 = Loc::Slot(0);
    let error = refused(&both);
    assert!(error.contains("reads `x` and writes `y`, which are in one buffer"), "{error}");

    let error = refused(&one(&[n], n, pass(DOUBLE, 4, vec![Bind::input("x", 3, DType::F32), Bind::output("y", DType::F32)])));
    assert!(error.contains("binds In(3) as `x`"), "{error}");

    let mut cpu = double(4);
    cpu.steps[0].kernel = None;
    assert!(refused(&cpu).contains("planned for the CPU"));

    // The device still works.
    assert_eq!(run(&gpu, &double(2), &[ramp([2])]).0.f(), &[0.5, 2.5]);
}

#[test]
fn checked_shaders_drop_what_is_out_of_bounds() {
    let Some(gpu) = open_with(GpuOptions { checked: true, choice: Choice::Portable, features: false, ..GpuOptions::default() }) else {
        return;
    };
    assert_eq!(gpu.caps().subgroups, None);
    let x = ramp([1000]);
    assert!(run(&gpu, &double(1000), std::slice::from_ref(&x)).0.f().iter().zip(x.f()).all(|(y, x)| *y == 2.0 * x));
    assert_eq!(gpu.pipeline_count(), 1);
    run(&gpu, &double(77), &[ramp([77])]);
    assert_eq!(gpu.pipeline_count(), 1, "shapes are in the uniform, so another size compiles nothing");
}

/// WGSL from outside this crate has defined results where unchecked WGSL has none. Its pipelines differ from the pipelines of
/// trusted WGSL.
#[test]
fn what_is_not_trusted_is_checked() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let text = "var<workgroup> shared_words: array<u32, 64>;
@compute @workgroup_size(WG)
fn forward(@builtin(local_invocation_index) lane: u32) {
    var a = array<u32, 4>(1u, 2u, 3u, 4u);
    if lane == 0u {
        y[0] = x[0] / x[1];
        y[1] = a[x[0]];
        y[2] = shared_words[x[2]];
        y[100000u + x[0]] = 9u;
    }
    // An index that is known when it is compiled would be an error; this one leaves the array, and nothing else.
    a[x[0] + lane] = 5u;
    shared_words[x[0] * 100u + lane] = a[lane & 3u];
}
";
    let (x, y) = (Shape::from([3]).u32(), Shape::from([4]).u32());
    let mut plan = one(&[x], y, pass(text, 1, vec![Bind::input("x", 0, DType::U32), Bind::output("y", DType::U32)]));
    plan.steps[0].unchecked = false;
    let got = run(&gpu, &plan, &[Host::labels([3], vec![700, 0, 17])]).0;
    // WGSL defines x / 0 as x. The checks clamp each index into its array.
    assert_eq!(got.u()[..3], [700, 4, 0]);

    let double = double(100);
    let mut outside = double.clone();
    outside.steps[0].unchecked = false;
    let unchecked = || gpu.pipelines.known.lock().unwrap().keys().filter(|key| key.2).count();
    let before = gpu.pipeline_count();
    for (plan, count, of_these) in [(&outside, 1, 0), (&double, 2, 1), (&outside, 2, 1), (&double, 2, 1)] {
        assert_eq!(run(&gpu, plan, &[ramp([100])]).0.f()[99], 198.5);
        assert_eq!((gpu.pipeline_count() - before, unchecked()), (count, of_these));
    }
    assert_eq!([true, false].map(|trusted| gpu.checks(trusted).bounds_checks), [false, true]);
    assert!(gpu.checks(false).force_loop_bounding && gpu.checks(false).int_div_checks);
    let Some(careful) = open_with(GpuOptions { checked: true, ..GpuOptions::default() }) else { return };
    assert!(careful.checks(true).bounds_checks);
}

#[test]
fn an_unknown_name_lists_the_adapters() {
    let all = block_on(adapters());
    let options = GpuOptions { name: Some("no such adapter".into()), ..GpuOptions::default() };
    match block_on(open(&options)) {
        Err(Error::NoAdapter { wanted, available }) => {
            assert_eq!(wanted, "with `no such adapter` in its name");
            assert_eq!(available, all.iter().map(|a| a.to_string()).collect::<Vec<_>>());
        }
        other => panic!("{other:?}"),
    }
    let Some(first) = all.first() else { return };
    let named = block_on(open(&GpuOptions { name: Some(first.name.to_uppercase()), ..GpuOptions::default() })).unwrap();
    assert!(named.describe().contains(&first.name), "{}", named.describe());
}

/// Parses WGSL with naga and returns the name and value of each of its constants.
fn constants(text: &str) -> Vec<(String, naga::Literal)> {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let (flags, caps) = (naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
    naga::valid::Validator::new(flags, caps).validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let value = |c: &naga::Constant| match module.global_expressions[c.init] {
        naga::Expression::Literal(l) => (c.name.clone().unwrap(), l),
        ref other => panic!("{other:?}"),
    };
    module.constants.iter().map(|(_, c)| value(c)).collect()
}

#[test]
fn assembled_wgsl_is_valid_and_its_constants_exact() {
    let mut all = pass(
        "//!include lib/index
//!include lib/index
@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
    let i = group_index(id, n);
    y[i] = twice(x[i]) + A + p.scale + f32(step.row) + f32(step.seed.x + k[0] + p.rows);
}
",
        1,
        vec![Bind::input("x", 0, DType::F32), Bind::input("k", 1, DType::U32), Bind::output("y", DType::F32)],
    );
    all.code = "fn twice(x: f32) -> f32 { return 2.0 * x; }".into();
    all.params = vec![("scale".into(), Word::F(1.0)), ("rows".into(), Word::U(3))];
    all.step = true;
    let exact = [("A", 0.1f32), ("B", f32::MAX), ("C", f32::MIN_POSITIVE), ("D", -1.0e-45), ("E", -16_777_217.5), ("F", 1.0), ("G", -0.0)];
    all.consts.extend(exact.map(|(name, x)| (name, Word::F(x))));
    all.consts.push(("H", Word::U(u32::MAX)));
    let text = assemble(&all).unwrap();
    assert_eq!(text.matches("fn group_index").count(), 1);
    let found = constants(&text);
    for (name, x) in exact {
        let bits = found.iter().find(|c| c.0 == name).map(|c| match c.1 {
            naga::Literal::F32(y) => y.to_bits(),
            other => panic!("{other:?}"),
        });
        assert_eq!(bits, Some(x.to_bits()), "{name} = {x:e}");
    }
    assert!(found.contains(&("H".into(), naga::Literal::U32(u32::MAX))));

    all.code = "//!include lib/nothing".into();
    let error = assemble(&all).unwrap_err().to_string();
    assert!(error.starts_with("shader probe: cannot include `lib/nothing`; there are lib/"), "{error}");
}

#[test]
fn folding_covers_every_group_with_few_to_spare() {
    let one = |units| Window { first: 0, units };
    let p = pass("", 0, Vec::new());
    for most in [1, 2, 7, 16] {
        let reach = Reach { binding: u64::MAX, groups: most };
        for groups in 1..=(most as usize).pow(3) {
            let [x, y, z] = reach.fold(&p, one(groups * WG));
            assert!(x <= most && y <= most && z <= most, "{groups} as {x}, {y}, {z} of {most}");
            let made = (x * y * z) as usize;
            assert!(made >= groups && made < groups + (y * z) as usize + z as usize, "{groups} as {x}, {y}, {z} of {most}");
        }
    }
    let reach = Reach { binding: u64::MAX, groups: 65_535 };
    assert_eq!(reach.fold(&p, one(65_535 * WG)), [65_535, 1, 1]);
    assert_eq!(reach.fold(&p, one(65_535 * WG + 1)), [32_768, 2, 1]);
}

#[test]
fn windows_cover_every_unit_once_and_start_aligned() {
    let binds = |n| vec![Bind::output("y", DType::F32).per_unit(n)];
    for (units, n, limit) in [(1000, 1, 1024), (64, 3, 768), (129, 16, 4096), (4097, 2, 4095)] {
        let p = pass("", units, binds(n));
        let reach = Reach { binding: limit, groups: 65_535 };
        let windows = reach.windows("test", &p, &[units * n]).unwrap();
        let mut seen = HashSet::new();
        for w in &windows {
            let (first, count) = part(p.binds[0].span, windows.len() > 1, *w, units * n);
            assert!(count as u64 * 4 <= limit && first * 4 % 256 == 0, "{w:?}");
            assert_eq!((first, count), (w.first * n, w.units * n));
            assert!((w.first..w.first + w.units).all(|u| seen.insert(u)), "{w:?} overlaps");
        }
        assert_eq!(seen.len(), units);
    }
    // Lines are divided into chunks of any length. A window starts at most 63 elements before its first unit and ends after
    // its last.
    for (outer, line, chunk, limit) in [(3, 1009usize, 100usize, 4096), (1, 5000, 7, 512), (70, 13, 13, 1024)] {
        let chunks = line.div_ceil(chunk);
        let span = Span::Lines { line, chunks, chunk };
        let p = pass("", outer * chunks, vec![Bind { span, ..Bind::output("y", DType::F32) }]);
        let windows = Reach { binding: limit, groups: 65_535 }.windows("test", &p, &[outer * line]).unwrap();
        let mut next = 0;
        for w in &windows {
            let (first, count) = part(span, true, *w, outer * line);
            assert!(w.first == next && count as u64 * 4 <= limit && first % 64 == 0, "{w:?}");
            let ends = (w.first + w.units) / chunks * line + (w.first + w.units) % chunks * chunk;
            assert!(first <= span.start(w.first) && first + 64 > span.start(w.first) && first + count >= ends, "{w:?}");
            next += w.units;
        }
        assert!(windows.len() > 1 && next == p.units);
    }
    // A window cannot divide a single unit that is too large, or a tensor that is written whole.
    let reach = Reach { binding: 4096, groups: 65_535 };
    assert!(reach.windows("test", &pass("", 100, binds(17)), &[1700]).is_err());
    let p = pass("", 2000, vec![Bind::input("x", 0, DType::F32).per_unit(1), Bind::output("y", DType::F32)]);
    let error = reach.windows("test", &p, &[2000, 10]).unwrap_err().to_string();
    assert!(error.starts_with("test (`x`): needs 8000, but this device's limit is 4096"), "{error}");
}

#[test]
fn a_pass_that_divides_its_work_by_zero_is_an_error() {
    let lines = |chunks, chunk| Span::Lines { line: 9, chunks, chunk };
    let blocks = |units, elements| Span::Blocks { units, elements };
    let all = [
        (0, Span::Whole, "`per_group`"),
        (WG, Span::PerUnit(0), "the elements of a unit of `y`"),
        (WG, blocks(0, 2), "the units of a block or line of `y`"),
        (WG, blocks(2, 0), "the elements of a block or unit of `y`"),
        (WG, lines(0, 2), "the units of a block or line of `y`"),
        (WG, lines(2, 0), "the elements of a block or unit of `y`"),
    ];
    let gpu = open_with(GpuOptions::default());
    for (per_group, span, name) in all {
        let binds = vec![Bind::input("x", 0, DType::F32), Bind { span, ..Bind::output("y", DType::F32) }];
        let p = Pass { per_group, ..pass(DOUBLE, 100, binds) };
        let why = format!("kernel probe divides its work by {name}, which is 0: it must be at least 1");
        for binding in [64, u64::MAX] {
            let error = Reach { binding, groups: 65_535 }.windows("test", &p, &[100, 100]).unwrap_err();
            assert_eq!(error.to_string(), format!("test: {why}"));
        }
        let Some(gpu) = &gpu else { continue };
        let plan = one(&[Shape::from([100])], Shape::from([100]), p);
        let loaded = load(gpu, &plan, ExecOptions::default()).map(|_| ()).unwrap_err();
        let needed = super::needs(gpu, &plan, &[]).unwrap_err();
        for error in [loaded, needed] {
            assert!(matches!(&error, Error::Argument { .. }) && error.to_string().ends_with(&why), "{error}");
        }
    }
}

#[test]
fn a_lost_device_is_an_error_at_every_call() {
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    let mut exec = load(&gpu, &double(4), ExecOptions::default()).unwrap();
    exec.submit(&StepRow::default()).unwrap();
    gpu.device.destroy();
    let _ = exec.finish(); // From here on, every call reports that the device is lost.
    let lost = |r: Result<()>| assert!(matches!(&r, Err(Error::Device { .. })), "{r:?}");
    lost(exec.write(0, &ramp([4])));
    lost(exec.submit(&StepRow::default()));
    lost(block_on(exec.read(0)).map(drop));
    lost(load(&gpu, &double(8), ExecOptions::default()).map(drop));
}

#[test]
fn what_is_shared_can_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>(_: T) {}
    shared::<(Gpu, GpuStore, GpuExec)>();
    sent(open(&GpuOptions::default()));
    sent(adapters());
    let Some(gpu) = open_with(GpuOptions::default()) else { return };
    println!("{}", gpu.describe());
    let sums: Vec<f32> = std::thread::scope(|s| {
        let runs = (1..5).map(|n| {
            let gpu = &gpu;
            s.spawn(move || (0..10).map(|_| run(gpu, &double(n * 1000), &[ramp([n * 1000])]).0.f()[n * 1000 - 1]).sum())
        });
        runs.collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(sums, [1000, 2000, 3000, 4000].map(|n| 20.0 * (n as f32 - 0.75)));
}
