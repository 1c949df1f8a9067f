//! Tests of the GPU kernels. They follow PyTorch's trajectories, and compare groups, pieces, windows and the guard with the CPU.

use super::*;
use crate::{
    gpu::{self, Choice, ExecOptions, Gpu, GpuExec, GpuOptions, GpuStore, Limits, StepRow, shader::assemble},
    graph::InputDef,
    host::Host,
    kernel::{Caps, Kernel},
    params::{Layout, Status},
    plan::{Loc, Plan},
};
use pollster::block_on;
use std::sync::Arc;
use wgpu::naga;

/// Opens an adapter, which may be a software adapter. If there is no adapter, prints this fact, or fails in CI.
pub(super) fn open(change: impl FnOnce(&mut Limits)) -> Option<Arc<Gpu>> {
    let mut limits = Limits::default();
    change(&mut limits);
    let options = GpuOptions { software: true, checked: true, limits: Some(limits), choice: Choice::Expected, ..GpuOptions::default() };
    match block_on(gpu::open(&options)) {
        Ok(gpu) => Some(gpu),
        Err(error @ Error::NoAdapter { .. }) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have an adapter: {error}");
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A model on the device that has only parameters. The test provides its loss and its gradients.
pub(super) struct OnGpu {
    pub store: Arc<GpuStore>,
    pub exec: GpuExec,
}

impl OnGpu {
    pub fn new(gpu: &Arc<Gpu>, o: &Optimizer, groups: &Groups, layout: &Layout, weights: &[Vec<f32>]) -> OnGpu {
        let (loss, count) = (Shape::SCALAR, o.rows(groups.settings.len()));
        let inputs = vec![InputDef { shape: loss, classes: None }];
        let mut plan = Plan { inputs, outputs: vec![(Loc::Input(0), loss)], ..Plan::default() };
        plan.append(o.steps(layout, count, false, Loc::Input(0), None, Some(gpu.caps())), count);
        let store =
            Arc::new(block_on(GpuStore::new(gpu, layout.clone().with_states(&[], o.states().len()), count)).expect("a small model"));
        store.write_params(weights).expect("weights fit");
        for (k, state) in o.states().iter().enumerate() {
            let start: Vec<Vec<f32>> = layout.pieces[..layout.trained].iter().map(|&n| vec![state.start; n]).collect();
            store.write_state(k, &start).expect("states fit");
        }
        let exec =
            block_on(GpuExec::new(gpu, &plan, &store, ExecOptions { guards: true, ..ExecOptions::default() })).expect("kernels compile");
        exec.fill_slots(NAN).expect("the device is there");
        store.write_guard(bytemuck::cast_slice(&[Guard::default()])).expect("the guard fits");
        OnGpu { store, exec }
    }
    /// Makes step `t`. The first step is 1.
    pub fn step(&mut self, o: &Optimizer, groups: &Groups, t: u64, loss: f32, grads: &[Vec<f32>]) {
        self.store.write_grads(grads).expect("gradients fit");
        self.exec.write(0, &Host::new(Shape::SCALAR, vec![loss])).expect("a loss fits");
        let row = StepRow { step: t - 1, ..StepRow::default() };
        self.exec.submit_steps(&[row], &hyper(o, t, &groups.settings), false).expect("the device is there");
        assert_eq!(block_on(self.exec.fences_intact(NAN)).expect("guarded"), Vec::<String>::new());
    }
    pub fn weights(&self) -> Vec<Vec<f32>> {
        block_on(self.store.read_params()).expect("the device is there")
    }
    pub fn guard(&self) -> Guard {
        let words = block_on(self.store.read_guard()).expect("the device is there");
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words[..size_of::<Guard>() / 4]))
    }
}

/// A NaN whose bits no arithmetic produces.
const NAN: u32 = 0x7fc0_dead;

#[test]
fn rules_follow_pytorch_and_timm_on_the_gpu() {
    let Some(gpu) = open(|_| ()) else { return };
    for course in courses() {
        let o = &course.optimizer;
        let layout = Layout::new(&course.params, &course.groups.statuses, 1 << 20, 1 << 20).expect("it fits");
        // The places of the elements in the only piece.
        let places: Vec<usize> = layout.ranges.iter().flat_map(|r| r.start..r.start + r.len).collect();
        let padded = |x: &[f64]| {
            let mut piece = vec![0.0; layout.pieces[0]];
            places.iter().zip(to_f32(x)).for_each(|(&at, x)| piece[at] = x);
            vec![piece]
        };
        let mut device = OnGpu::new(&gpu, o, &course.groups, &layout, &padded(&course.start));
        let worst = course.follow(f64::from(f32::EPSILON), TERMS, |t, g, w| {
            device.step(o, &course.groups, t, 1.0, &padded(g));
            let weights = &device.weights()[0];
            w.iter_mut().zip(&places).for_each(|(w, &at)| *w = f64::from(weights[at]));
        });
        println!("{worst:.3} {}", course.label);
        let inside = |i: usize| places.contains(&i);
        assert!(device.weights()[0].iter().enumerate().all(|(i, &x)| x == 0.0 || inside(i)), "{}: gaps stay 0", course.label);
    }
}

/// The number of bytes of a binding. It is so small that pieces are split, and the guard's chunks of 128 do not divide them.
pub(super) const BINDING: u64 = 32 << 10;

/// Makes a model with three groups in three pieces, and frozen parameters in a fourth piece. The first piece is larger than a
/// binding. Its second group begins after the first binding.
fn split_model(o: &Optimizer) -> (Groups, Layout) {
    let matrix = |name: &str, n: usize| ParamDef { decay: true, ..vector(name, n) };
    let params = [
        matrix("a.weight", 700),
        vector("a.bias", 130),
        matrix("b.weight", 10_007),
        vector("b.bias", 65),
        matrix("c.weight", 11_000),
        matrix("c.more", 250),
    ];
    let o = o.clone().group(|name| name.starts_with("c."), GroupOptions { lr_scale: 0.5, weight_decay: Some(0.3) });
    let o = o.group(|name| name == "b.bias", GroupOptions { lr_scale: 0.0, weight_decay: None });
    let groups = o.groups(&params).expect("four groups");
    let layout = Layout::new(&params, &groups.statuses, 11_000, 1 << 20).expect("it fits");
    (groups, layout)
}

pub(super) fn slices(grads: &[Vec<f32>]) -> Vec<&[f32]> {
    grads.iter().map(Vec::as_slice).collect()
}

#[test]
fn groups_pieces_and_windows_agree_with_the_cpu() {
    let Some(gpu) = open(|limits| limits.max_binding_bytes = BINDING) else { return };
    for o in all() {
        let o = o.clip_norm(50.0);
        let (groups, layout) = split_model(&o);
        // A rule without weight decay has the same settings for both kinds of parameters.
        assert!(groups.settings.len() >= 2 && (layout.trained, layout.pieces.len()) == (3, 4), "{groups:?} {layout:?}");
        assert!(layout.pieces[0] % 128 != 0 && layout.pieces[0] as u64 * 4 > BINDING, "{layout:?}");
        let flat = |seed: u64| -> Vec<Vec<f32>> { layout.pieces.iter().enumerate().map(|(i, &n)| noise(seed + i as u64, n)).collect() };
        // If the weight decay of a weight cancels its gradient, few digits remain. No weight here starts so.
        let start = flat(2);
        let mut device = OnGpu::new(&gpu, &o, &groups, &layout, &start);
        assert!(device.exec.dispatches() > 4 * layout.trained, "the two passes of the guard, the trial, the update: some are split");
        let mut weights: Vec<Vec<f64>> = start.iter().map(|w| w.iter().map(|&x| f64::from(x)).collect()).collect();
        let mut all_states: Vec<Vec<Vec<f64>>> = layout.pieces.iter().map(|&n| states(&o, n)).collect();
        let mut rounded: Vec<Vec<f64>> = layout.pieces.iter().map(|&n| vec![0.0; n]).collect();
        let mut guard = Guard::default();
        for t in 1..=3 {
            let mut grads = flat(100 * t);
            grads.truncate(layout.trained);
            device.step(&o, &groups, t, 1.0, &grads);
            guard.check(t - 1, 1.0, &slices(&grads), o.clip());
            assert!(guard.factor < 1.0, "the clip is at work: {guard:?}");
            let got = device.guard();
            // The sum is a fixed tree over 22,000 squares, which is at most 20 additions deep.
            assert!((got.norm / guard.norm - 1.0).abs() < 32.0 * f32::EPSILON, "{got:?} {guard:?}");
            assert!((got.factor / guard.factor - 1.0).abs() < 40.0 * f32::EPSILON, "{got:?} {guard:?}");
            assert_eq!(got.largest, guard.largest);
            let (hyper, got) = (hyper(&o, t, &groups.settings), device.weights());
            for piece in 0..layout.trained {
                let w = &mut weights[piece];
                let before = w.clone();
                let g: Vec<f64> = grads[piece].iter().map(|&x| f64::from(x)).collect();
                let mut states: Vec<&mut [f64]> = all_states[piece].iter_mut().map(|s| &mut s[..]).collect();
                let runs = if o.has_ratio() { layout.ends(piece).collect() } else { layout.runs(piece) };
                o.update_f64(Settings { hyper: &hyper, runs: &runs }, f64::from(guard.factor), w, &g, &mut states);
                for i in 0..w.len() {
                    // The clip factor differs by up to 40 roundings. It may count twice, in a ratio of averages.
                    rounded[piece][i] += w[i].abs() + (TERMS + 80.0) * (w[i] - before[i]).abs();
                    let (error, bound) = ((f64::from(got[piece][i]) - w[i]).abs(), f64::from(f32::EPSILON) * rounded[piece][i]);
                    assert!(error <= bound, "{o:?}: step {t}, piece {piece}, element {i}: {} instead of {}", got[piece][i], w[i]);
                }
            }
        }
        let frozen = layout.ranges[3];
        assert_eq!((frozen.status, &device.weights()[frozen.piece]), (Status::Frozen, &start[frozen.piece]));
    }
}

#[test]
fn the_guard_stops_the_first_step_that_is_not_finite() {
    let o = Optimizer::from(Sgd::new(0.5)).clip_norm(1e9);
    let (groups, layout) = split_model(&o);
    let good: Vec<Vec<f32>> = layout.pieces[..layout.trained].iter().enumerate().map(|(i, &n)| noise(i as u64 + 7, n)).collect();
    let gpu = open(|limits| limits.max_binding_bytes = BINDING);
    // The loss, an element of the gradient to spoil, and the cause that both sides must name.
    let last = layout.pieces.iter().map(|n| n - 1).collect::<Vec<_>>();
    let weights: Vec<Vec<f32>> = layout.pieces.iter().enumerate().map(|(i, &n)| noise(i as u64 + 70, n)).collect();
    let cases = [
        (1.0, None, 0),
        (f32::MAX, None, 0),
        (f32::NAN, None, 1),
        (f32::NEG_INFINITY, Some((1, 5, f32::NAN)), 1),
        (1.0, Some((0, 0, f32::INFINITY)), 2),
        (1.0, Some((0, last[0], f32::NEG_INFINITY)), 2),
        (1.0, Some((1, last[1], f32::NAN)), 2),
        (1.0, Some((2, last[2], f32::from_bits(0xffc0_0001))), 2),
        (1.0, Some((2, 3, 1e15)), 0),
    ];
    for (loss, spoil, cause) in cases {
        let mut bad = good.clone();
        if let Some((piece, i, x)) = spoil {
            bad[piece][i] = x;
        }
        let check = |guard: &mut Guard, step, loss, grads: &[Vec<f32>]| {
            guard.check(step, loss, &slices(grads), o.clip());
        };
        let mut guard = Guard::default();
        check(&mut guard, 0, 1.0, &good);
        assert_eq!((guard.halt, guard.cause, guard.factor), (0, 0, 1.0));
        check(&mut guard, 1, loss, &bad);
        let after = guard;
        assert_eq!((guard.cause, guard.halt), (cause, if cause == 0 { 0 } else { 2 }), "loss {loss}, {spoil:?}");
        check(&mut guard, 2, 1.0, &good);
        if cause == 0 {
            assert!(guard.error(loss, None, &o).is_none());
        } else {
            assert_eq!(guard, Guard { trial: 0, ..after }, "the first bad step stays on record");
            let text = guard.error(loss, None, &o).expect("a bad step").to_string();
            assert!(text.starts_with(&format!("step 1: the {} is not finite", ["", "loss", "gradient"][cause as usize])), "{text}");
        }
        let Some(gpu) = &gpu else { continue };
        let mut device = OnGpu::new(gpu, &o, &groups, &layout, &weights);
        device.step(&o, &groups, 1, 1.0, &good);
        let before = device.weights();
        device.step(&o, &groups, 2, loss, &bad);
        let (now, got) = (device.weights(), device.guard());
        assert_eq!((got.halt, got.cause), (after.halt, after.cause), "loss {loss}, {spoil:?}");
        assert!((got.norm / after.norm - 1.0).abs() < 32.0 * f32::EPSILON, "{got:?} {after:?}");
        assert!((got.factor / after.factor - 1.0).abs() < 40.0 * f32::EPSILON, "{got:?} {after:?}");
        assert_eq!(now == before, cause != 0, "a bad step changes nothing, a good one does: loss {loss}, {spoil:?}");
        // The number of the parameter whose gradient was spoiled, in the order of the graph.
        let at =
            |&(piece, i, _): &(usize, usize, f32)| layout.segments(piece).filter(|(_, r)| r.start <= i).last().map(|(number, _)| number);
        let spoilt = spoil.as_ref().filter(|_| cause != 0).and_then(at);
        assert_eq!(block_on(device.store.culprit()).expect("the device is there"), spoilt, "loss {loss}, {spoil:?}");
        device.step(&o, &groups, 3, 1.0, &good);
        assert_eq!(block_on(device.store.culprit()).expect("the device is there"), spoilt, "later steps change nothing");
        assert_eq!(device.weights() == now, cause != 0, "and nothing moves after it: loss {loss}, {spoil:?}");
        if cause != 0 {
            assert_eq!(device.guard(), Guard { trial: 0, ..got }, "the first bad step stays on record");
        }
    }
}

/// Returns all kernels of all rules, for a small device.
fn kernels() -> Vec<Kernel> {
    let caps = Caps { max_invocations: 100, max_binding_bytes: BINDING, ..Caps::default() };
    let of = |o: Optimizer| {
        let (groups, mut layout) = split_model(&o);
        // The last piece is treated as state.
        layout.state = 1;
        let steps = |micro| o.steps(&layout, o.rows(groups.settings.len()), true, Loc::Slot(0), micro, Some(&caps));
        [steps(None), steps(Some(Loc::Slot(1)))].concat().into_iter().filter_map(|step| step.kernel).collect::<Vec<_>>()
    };
    let averaged = [Lamb::new(0.1).ema(0.9), Lars::new(0.1).ema(0.9)];
    all().into_iter().chain(averaged).flat_map(of).collect()
}

#[test]
fn every_shader_is_valid() {
    let mut names = std::collections::BTreeSet::new();
    for kernel in kernels() {
        for pass in &kernel.passes {
            let text = assemble(pass).expect("includes are there");
            let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
            let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty());
            validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
            assert!(module.entry_points.iter().any(|e| e.name == pass.entry), "{} has {}", pass.source.name, pass.entry);
            assert!(pass.binds.len() <= Caps::default().max_bindings, "{}", kernel.name);
            names.insert((kernel.name, pass.entry));
        }
    }
    let rules: std::collections::BTreeSet<&str> = all().iter().map(Optimizer::name).collect();
    assert!(rules.len() >= 12, "{rules:?}");
    let want = rules.into_iter().flat_map(|n| ["trial", "update"].map(|entry| (n, entry)));
    let rest = [("guard", "squares"), ("guard", "check"), ("accumulate", "weigh"), ("accumulate", "accumulate"), ("assign", "trial")];
    let more = [("assign", "assign"), ("norms", "add_up"), ("norms", "ratios")];
    assert_eq!(names, want.chain(rest).chain(more).collect());
}
