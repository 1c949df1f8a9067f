//! Tests of the executor with hand-made plans. Other tests cover whole models.

mod cuts;
mod faults;
mod steps;
mod wgsl;

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
