//! The kernels: PyTorch's trajectories again, the CPU as the reference for groups, pieces and windows, the guard.

use super::*;
use crate::{
    gpu::{self, Choice, Exec, ExecOptions, Gpu, GpuOptions, StepRow, Store, UpdatePass, shader::assemble},
    graph::InputDef,
    host::Host,
    kernel::{Caps, Kernel},
    params::{ALIGN, Layout},
    plan::{Loc, Plan},
};
use pollster::block_on;
use std::sync::Arc;

/// A software adapter will do; where there is none at all, that is said, and fails in CI.
fn open(change: impl FnOnce(&mut wgpu::Limits)) -> Option<Arc<Gpu>> {
    let mut limits = wgpu::Limits::default();
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

/// A model on the device that is nothing but parameters; its loss and its gradients are fed from outside.
struct OnGpu {
    store: Arc<Store>,
    exec: Exec,
}

impl OnGpu {
    fn new(gpu: &Arc<Gpu>, o: &Optimizer, layout: &Layout, weights: &[Vec<f32>]) -> OnGpu {
        let pass = |(piece, kernel)| UpdatePass { kernel, piece };
        let mut updates: Vec<UpdatePass> = o.guard_kernels(layout, gpu.caps()).into_iter().map(pass).collect();
        updates.extend((0..layout.pieces.len()).map(|i| pass((i, o.trial_kernel(&layout.ends[i], gpu.caps())))));
        updates.extend((0..layout.pieces.len()).map(|i| pass((i, o.update_kernel(&layout.ends[i], gpu.caps())))));
        let loss = Shape::SCALAR;
        let plan = Plan { inputs: vec![InputDef { shape: loss, classes: None }], outputs: vec![(Loc::Input(0), loss)], ..Plan::default() };
        let store = Arc::new(block_on(Store::new(gpu, layout.clone(), o.states().len())).expect("a small model"));
        store.write_params(weights).expect("weights fit");
        for (k, state) in o.states().iter().enumerate() {
            let start: Vec<Vec<f32>> = layout.pieces.iter().map(|&n| vec![state.start; n]).collect();
            store.write_state(k, &start).expect("states fit");
        }
        let options = ExecOptions { updates: &updates, guards: true, ..ExecOptions::default() };
        let exec = block_on(Exec::new(gpu, &plan, &store, options)).expect("kernels compile");
        exec.fill_slots(NAN).expect("the device is there");
        store.write_guard(bytemuck::cast_slice(&[Guard::default()])).expect("the guard fits");
        OnGpu { store, exec }
    }
    /// Step `t` (from 1).
    fn step(&mut self, o: &Optimizer, groups: &Groups, t: u64, loss: f32, grads: &[Vec<f32>]) {
        self.store.write_grads(grads).expect("gradients fit");
        self.exec.write(0, &Host::new(Shape::SCALAR, vec![loss])).expect("a loss fits");
        let row = StepRow { seed: 0, step: t - 1, hyper: o.hyper_rows(t, &groups.settings) };
        self.exec.submit(&row).expect("the device is there");
        assert_eq!(block_on(self.exec.fences_intact(NAN)).expect("guarded"), Vec::<String>::new());
    }
    fn weights(&self) -> Vec<Vec<f32>> {
        block_on(self.store.read_params()).expect("the device is there")
    }
    fn guard(&self) -> Guard {
        let words = block_on(self.store.read_guard()).expect("the device is there");
        bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words[..size_of::<Guard>() / 4]))
    }
}

/// A NaN that no arithmetic makes.
const NAN: u32 = 0x7fc0_dead;

#[test]
fn rules_follow_pytorch_on_the_gpu() {
    let Some(gpu) = open(|_| ()) else { return };
    for course in courses() {
        let (o, n) = (&course.optimizer, course.start.len());
        let layout = Layout::new(&[vector("w", n)], &course.groups.of, 1, 1 << 20, 1 << 20).expect("it fits");
        let padded = |x: &[f64]| vec![[to_f32(x), vec![0.0; ALIGN - n]].concat()];
        let mut device = OnGpu::new(&gpu, o, &layout, &padded(&course.start));
        let worst = course.follow(f64::from(f32::EPSILON), TERMS, |t, g, w| {
            device.step(o, &course.groups, t, 1.0, &padded(g));
            copy_back(&device.weights()[0][..n], w);
        });
        println!("{worst:.3} {}", course.label);
        assert!(device.weights()[0][n..].iter().all(|&x| x == 0.0), "{}: the gap after the parameter stays 0", course.label);
    }
}

/// Bytes of a binding, so that pieces are split and the guard's chunks (of 128) do not divide them.
const BINDING: u64 = 32 << 10;

/// Three groups, and what is frozen, in three pieces. The first is larger than a binding, and its second group begins past the first
/// binding.
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
    let layout = Layout::new(&params, &groups.of, groups.settings.len(), 11_000, 1 << 20).expect("it fits");
    (groups, layout)
}

/// The gradients that count.
fn live<'a>(layout: &Layout, grads: &'a [Vec<f32>]) -> Vec<&'a [f32]> {
    grads.iter().enumerate().map(|(piece, g)| &g[..layout.live(piece)]).collect()
}

#[test]
fn groups_pieces_and_windows_agree_with_the_cpu() {
    let Some(gpu) = open(|limits| limits.max_storage_buffer_binding_size = BINDING) else { return };
    for o in all() {
        let o = o.clip_norm(50.0);
        let (groups, layout) = split_model(&o);
        // A rule without weight decay has the same settings for both kinds of parameters.
        assert!(groups.settings.len() >= 2 && layout.pieces.len() == 3, "{groups:?} {layout:?}");
        assert!(layout.pieces[0] % 128 != 0 && layout.pieces[0] as u64 * 4 > BINDING, "{layout:?}");
        let flat = |seed: u64| -> Vec<Vec<f32>> { layout.pieces.iter().enumerate().map(|(i, &n)| noise(seed + i as u64, n)).collect() };
        // A weight whose decay takes all of its gradient off has few digits left: these start with none.
        let start = flat(2);
        let mut device = OnGpu::new(&gpu, &o, &layout, &start);
        assert!(device.exec.dispatches() > 4 * layout.pieces.len(), "the two passes of the guard, the trial, the update: some are split");
        let mut weights: Vec<Vec<f64>> = start.iter().map(|w| w.iter().map(|&x| f64::from(x)).collect()).collect();
        let mut all_states: Vec<Vec<Vec<f64>>> = layout.pieces.iter().map(|&n| states(&o, n)).collect();
        let mut rounded: Vec<Vec<f64>> = layout.pieces.iter().map(|&n| vec![0.0; n]).collect();
        let mut guard = Guard::default();
        for t in 1..=3 {
            let grads = flat(100 * t);
            device.step(&o, &groups, t, 1.0, &grads);
            guard.check(t - 1, 1.0, &live(&layout, &grads), o.clip());
            assert!(guard.factor < 1.0, "the clip is at work: {guard:?}");
            let got = device.guard();
            // A fixed tree over 22,000 squares: at most 20 additions deep.
            assert!((got.norm / guard.norm - 1.0).abs() < 32.0 * f32::EPSILON, "{got:?} {guard:?}");
            assert!((got.factor / guard.factor - 1.0).abs() < 40.0 * f32::EPSILON, "{got:?} {guard:?}");
            let (hyper, got) = (o.hyper(t, &groups.settings), device.weights());
            for piece in 0..layout.pieces.len() {
                let w = &mut weights[piece];
                let before = w.clone();
                let g: Vec<f64> = grads[piece].iter().map(|&x| f64::from(x)).collect();
                let mut states: Vec<&mut [f64]> = all_states[piece].iter_mut().map(|s| &mut s[..]).collect();
                o.update_f64(&hyper, &layout.ends[piece], f64::from(guard.factor), w, &g, &mut states);
                for i in 0..w.len() {
                    // The clip factor differs by up to 40 roundings, and may count twice (a ratio of averages).
                    rounded[piece][i] += w[i].abs() + (TERMS + 80.0) * (w[i] - before[i]).abs();
                    let (error, bound) = ((f64::from(got[piece][i]) - w[i]).abs(), f64::from(f32::EPSILON) * rounded[piece][i]);
                    assert!(error <= bound, "{o:?}: step {t}, piece {piece}, element {i}: {} instead of {}", got[piece][i], w[i]);
                }
            }
        }
        let frozen = layout.ranges[3];
        assert_eq!(device.weights()[frozen.piece][frozen.start..][..frozen.len], start[frozen.piece][frozen.start..][..frozen.len]);
    }
}

#[test]
fn the_guard_stops_the_first_step_that_is_not_finite() {
    let o = Optimizer::from(Sgd::new(0.5)).clip_norm(1e9);
    let (groups, layout) = split_model(&o);
    let good: Vec<Vec<f32>> = layout.pieces.iter().enumerate().map(|(i, &n)| noise(i as u64 + 7, n)).collect();
    let gpu = open(|limits| limits.max_storage_buffer_binding_size = BINDING);
    // The loss, an element of the gradient to spoil, and the cause that both sides must name.
    let last = (0..layout.pieces.len()).map(|piece| layout.live(piece) - 1).collect::<Vec<_>>();
    let (frozen, frozen_end) = (layout.ranges[3].start, layout.pieces[2] - 1);
    assert_eq!((layout.ranges[3].piece, frozen), (2, last[2] + 1));
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
        // What is frozen is not looked at.
        (1.0, Some((2, frozen, f32::INFINITY)), 0),
        (1.0, Some((2, frozen_end, f32::NAN)), 0),
    ];
    for (loss, spoil, cause) in cases {
        let mut bad = good.clone();
        if let Some((piece, i, x)) = spoil {
            bad[piece][i] = x;
        }
        let check = |guard: &mut Guard, step, loss, grads: &[Vec<f32>]| {
            guard.check(step, loss, &live(&layout, grads), o.clip());
        };
        let mut guard = Guard::default();
        check(&mut guard, 0, 1.0, &good);
        assert_eq!((guard.halt, guard.cause, guard.factor), (0, 0, 1.0));
        check(&mut guard, 1, loss, &bad);
        let after = guard;
        assert_eq!((guard.cause, guard.halt), (cause, if cause == 0 { 0 } else { 2 }), "loss {loss}, {spoil:?}");
        check(&mut guard, 2, 1.0, &good);
        if cause == 0 {
            assert!(guard.error(loss, &o).is_none());
        } else {
            assert_eq!(guard, after, "the first bad step stays on record");
            let text = guard.error(loss, &o).expect("a bad step").to_string();
            assert!(text.starts_with(&format!("step 1: the {} is not finite", ["", "loss", "gradient"][cause as usize])), "{text}");
        }
        let Some(gpu) = &gpu else { continue };
        let mut device = OnGpu::new(gpu, &o, &layout, &good);
        device.step(&o, &groups, 1, 1.0, &good);
        let before = device.weights();
        device.step(&o, &groups, 2, loss, &bad);
        let (now, got) = (device.weights(), device.guard());
        assert_eq!((got.halt, got.cause), (after.halt, after.cause), "loss {loss}, {spoil:?}");
        assert!((got.norm / after.norm - 1.0).abs() < 32.0 * f32::EPSILON, "{got:?} {after:?}");
        assert!((got.factor / after.factor - 1.0).abs() < 40.0 * f32::EPSILON, "{got:?} {after:?}");
        assert_eq!(now == before, cause != 0, "a bad step changes nothing, a good one does: loss {loss}, {spoil:?}");
        device.step(&o, &groups, 3, 1.0, &good);
        assert_eq!(device.weights() == now, cause != 0, "and nothing moves after it: loss {loss}, {spoil:?}");
        if cause != 0 {
            assert_eq!(device.guard(), got, "the first bad step stays on record");
        }
    }
}

/// All kernels of all rules, on a small device.
fn kernels() -> Vec<Kernel> {
    let caps = Caps { max_invocations: 100, max_binding_bytes: BINDING, ..Caps::default() };
    let of = |o: Optimizer| {
        let (_, layout) = split_model(&o);
        let guards: Vec<Kernel> = o.guard_kernels(&layout, &caps).into_iter().map(|(_, kernel)| kernel).collect();
        let updates = |ends: &Vec<usize>| [o.trial_kernel(ends, &Caps::default()), o.update_kernel(ends, &Caps::default())];
        [guards, layout.ends.iter().flat_map(updates).collect()].concat()
    };
    all().into_iter().flat_map(of).collect()
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
    let want = ["AdamW", "Adam", "Adagrad", "RmsProp", "Sgd"].into_iter().flat_map(|n| ["trial", "apply"].map(|entry| (n, entry)));
    let guards = ["squares", "check"].map(|entry| ("guard", entry));
    assert_eq!(names, want.chain(guards).collect());
}
