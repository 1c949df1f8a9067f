//! Tests of rules with a trust ratio: LAMB, whose ratio uses the norm of the direction, and LARS, whose ratio comes before the
//! momentum.

use super::{
    device::{BINDING, OnGpu, open, slices},
    *,
};
use crate::params::Layout;
use pollster::block_on;

/// Returns both rules with the options of the hand formulas. Every parameter adapts. The files of timm cover the other options.
fn rules() -> Vec<Optimizer> {
    let lamb = Lamb::new(0.01).weight_decay(0.3).betas(0.9, 0.99).max_grad_norm(None).always_adapt(true);
    let lars = Lars::new(0.5).trust_coeff(0.02).always_adapt(true);
    vec![lamb.into(), lars.weight_decay(0.1).momentum(0.9).into(), lars.into()]
}

/// A parameter that is updated by hand formulas in `f64`.
struct ByHand {
    w: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
}

fn norm_of(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

impl ByHand {
    fn new(w: &[f32]) -> ByHand {
        ByHand { w: w.iter().map(|&x| x.into()).collect(), m: vec![0.0; w.len()], v: vec![0.0; w.len()] }
    }
    /// Makes one step of the rule `name`. Returns its ratio.
    fn step(&mut self, name: &str, t: i32, lr: f64, decay: f64, momentum: f64, g: &[f64]) -> f64 {
        let (weight, gradient) = (norm_of(&self.w), norm_of(g));
        if name == "Lars" {
            let none = weight == 0.0 || gradient == 0.0;
            let ratio = if none { 1.0 } else { 0.02 * weight / (gradient + decay * weight + 1e-8) };
            // The ratio of `tiny.more` is less than the smallest normal float.
            let ratio = if ratio < f32::MIN_POSITIVE.into() { 0.0 } else { ratio };
            for ((w, m), g) in self.w.iter_mut().zip(&mut self.m).zip(g) {
                *m = momentum * *m + ratio * (g + decay * *w);
                *w -= lr * *m;
            }
            return ratio;
        }
        let u: Vec<f64> = (0..g.len())
            .map(|i| {
                self.m[i] = 0.9 * self.m[i] + 0.1 * g[i];
                self.v[i] = 0.99 * self.v[i] + 0.01 * g[i] * g[i];
                let (m, v) = (self.m[i] / (1.0 - 0.9f64.powi(t)), self.v[i] / (1.0 - 0.99f64.powi(t)));
                m / (v.sqrt() + 1e-6) + decay * self.w[i]
            })
            .collect();
        let direction = norm_of(&u);
        let ratio = if weight == 0.0 || direction == 0.0 { 1.0 } else { (weight / direction).min(f32::MAX.into()) };
        self.w.iter_mut().zip(&u).for_each(|(w, u)| *w -= lr * ratio * u);
        ratio
    }
}

/// A parameter to make: its name, the number of elements, and the magnitudes of its weights and gradients.
type Made = (&'static str, usize, f32, f32);

const MADE: [Made; 14] = [
    ("one.weight", 1, 1.0, 1.0),
    ("a.weight", 63, 1.0, 0.5),
    ("a.bias", 64, 0.1, 1.0),
    ("still.weight", 65, 1.0, 0.0),
    ("b.weight", 10_007, 0.3, 1.0),
    ("empty.weight", 100, 0.0, 1.0),
    ("c.weight", 65, 2.0, 0.1),
    ("empty.still", 66, 0.0, 0.0),
    ("c.more", 700, 1.0, 1.0),
    ("frozen.weight", 130, 1.0, 1.0),
    ("huge.weight", 129, 1e30, 1e15),
    ("huge.bias", 400, 1e30, 1e-15),
    ("tiny.weight", 11_000, 1e-30, 1e-15),
    ("tiny.more", 65, 1e-25, 1e15),
];

struct Model {
    optimizer: Optimizer,
    groups: Groups,
    layout: Layout,
    made: Vec<Made>,
}

/// Makes a model of these parameters. Two groups have their own settings, and one parameter is frozen. Pieces have 11,000
/// elements, which is more than a small binding holds.
fn model(rule: &Optimizer, made: impl Iterator<Item = Made>) -> Model {
    let made: Vec<Made> = made.collect();
    let params: Vec<ParamDef> =
        made.iter().map(|&(name, n, ..)| ParamDef { decay: name.ends_with(".weight"), ..vector(name, n) }).collect();
    let o = rule.clone().freeze(["frozen"]);
    let o = o.group(|name| name.starts_with("c."), GroupOptions { lr_scale: 0.5, weight_decay: Some(0.2) });
    let groups = o.groups(&params).expect("options in range");
    let layout = Layout::new(&params, &groups.statuses, 11_000, 1 << 20).expect("it fits");
    assert!(groups.settings.len() >= 2 && layout.trained >= 2, "{groups:?} {layout:?}");
    Model { optimizer: o, groups, layout, made }
}

impl Model {
    /// Returns flat values of these magnitudes. No value is 0, unless the magnitude is 0.
    fn flat(&self, seed: u64, size: impl Fn(&Made) -> f32) -> Vec<Vec<f32>> {
        let mut flat: Vec<Vec<f32>> = self.layout.pieces.iter().map(|&n| vec![0.0; n]).collect();
        for (i, (range, made)) in self.layout.ranges.iter().zip(&self.made).enumerate() {
            let values = noise(seed + 1000 * i as u64, range.len).into_iter().map(|x| size(made) * x);
            flat[range.piece][range.of()].iter_mut().zip(values).for_each(|(to, x)| *to = x);
        }
        flat
    }
    fn start(&self) -> Vec<Vec<f32>> {
        self.flat(3, |made| made.2)
    }
    fn grads(&self, t: u64) -> Vec<Vec<f32>> {
        let mut grads = self.flat(100 * t, |made| made.3);
        grads.truncate(self.layout.trained);
        grads
    }
    /// Returns the runs of a rule with a ratio.
    fn ends(&self, piece: usize) -> Vec<(usize, usize)> {
        self.layout.ends(piece).collect()
    }
    fn states<T: Real>(&self) -> Vec<Vec<Vec<T>>> {
        self.layout.pieces[..self.layout.trained].iter().map(|&n| states(&self.optimizer, n)).collect()
    }
}

/// Returns slices of the states of a piece.
fn parts<T>(states: &mut [Vec<T>]) -> Vec<&mut [T]> {
    states.iter_mut().map(|s| &mut s[..]).collect()
}

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

/// Compares steps on the GPU, on the CPU and in `f64` with the hand formulas. Returns the weights and rows of the GPU.
fn compare(model: &Model, small: bool) -> Option<(Vec<Vec<f32>>, Vec<Trust>)> {
    let Model { optimizer: o, groups, layout, .. } = model;
    let (start, text) = (model.start(), format!("{o:?}"));
    let momentum = if text.contains("momentum: 0.9") { 0.9 } else { 0.0 };
    let of = |i: usize| match layout.ranges[i].status {
        Status::Trained { group } => Some((layout.ranges[i], group)),
        _ => None,
    };
    let gpu = open(|limits| {
        if small {
            limits.max_binding_bytes = BINDING;
        }
    });
    let mut device = gpu.as_ref().map(|gpu| OnGpu::new(gpu, o, groups, layout, &start));
    let (mut cpu, mut cpu_states) = (start.clone(), model.states::<f32>());
    let mut double: Vec<Vec<f64>> = start.iter().map(|w| w.iter().map(|&x| x.into()).collect()).collect();
    let mut double_states = model.states::<f64>();
    let mut hand: Vec<ByHand> = layout.ranges.iter().map(|r| ByHand::new(&start[r.piece][r.of()])).collect();
    let mut rounded: Vec<Vec<f64>> = hand.iter().map(|h| vec![0.0; h.w.len()]).collect();
    let (mut guard, mut rows) = (Guard::default(), Vec::new());
    for t in 1..=3 {
        let grads = model.grads(t);
        guard.check(t - 1, 1.0, &slices(&grads), o.clip());
        assert_eq!(guard.halt, 0);
        let (factor, hyper) = (f64::from(guard.factor), hyper(o, t, &groups.settings));
        let (mut on_cpu, mut in_double) = (vec![Trust::default(); layout.ranges.len()], vec![Trust::default(); layout.ranges.len()]);
        for piece in 0..layout.trained {
            let (g, ends) = (&grads[piece], model.ends(piece));
            let (settings, mut f32s) = (Settings { hyper: &hyper, runs: &ends }, Vec::new());
            let over = o.try_update(settings, &guard, &mut cpu[piece], g, &mut parts(&mut cpu_states[piece]));
            assert_eq!(over, 0, "{text}: step {t}, piece {piece}");
            o.update(settings, &guard, &mut cpu[piece], g, &mut parts(&mut cpu_states[piece]), &mut f32s);
            let g: Vec<f64> = g.iter().map(|&x| x.into()).collect();
            let f64s = o.update_f64(settings, factor, &mut double[piece], &g, &mut parts(&mut double_states[piece]));
            for (k, (i, _)) in layout.segments(piece).enumerate() {
                (on_cpu[i], in_double[i]) = (f32s[k], f64s[k]);
            }
        }
        if let Some(device) = &mut device {
            device.step(o, groups, t, 1.0, &grads);
            assert_eq!(device.guard().halt, 0, "{text}: step {t}: {:?}", device.guard());
            rows = block_on(device.store.trusts()).expect("the device is there");
        }
        let on_gpu = device.as_ref().map(OnGpu::weights);
        for i in 0..layout.ranges.len() {
            let Some((range, group)) = of(i) else { continue };
            let (name, settings) = (model.made[i].0, groups.settings[group]);
            let limit = o.clip().value.map_or(f64::INFINITY, f64::from);
            let g = grads[range.piece][range.of()].iter().map(|&g| (factor * f64::from(g)).clamp(-limit, limit)).collect::<Vec<_>>();
            let before = hand[i].w.clone();
            let ratio = hand[i].step(o.name(), t as i32, o.lr(t) * settings.lr_scale, settings.weight_decay, momentum, &g);
            let place = format!("{text}: step {t}, {name}");
            // The reference in `f64` equals the hand formula.
            assert!(near(in_double[i].ratio, ratio, 1e-12), "{place}: {:?} {ratio}", in_double[i]);
            assert!(near(in_double[i].norms.weight, norm_of(&before), 1e-12), "{place}: {:?}", in_double[i]);
            assert!(near(in_double[i].norms.gradient, norm_of(&g), 1e-12), "{place}: {:?}", in_double[i]);
            // The devices equal it up to rounding.
            let all = [Some(on_cpu[i]), on_gpu.as_ref().map(|_| rows[i])];
            for trust in all.into_iter().flatten() {
                let norms = |trust: Trust| [trust.norms.weight, trust.norms.gradient, trust.norms.direction, trust.ratio];
                for (k, (got, want)) in norms(trust).into_iter().zip(norms(in_double[i])).enumerate() {
                    assert!(near(got, want, 1e-5), "{place}: number {k}: {trust:?} instead of {:?}", in_double[i]);
                }
            }
            // If the terms of a direction cancel, it has the roundings of the parameter's largest directions.
            let most = before.iter().zip(&hand[i].w).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            for (k, want) in hand[i].w.iter().enumerate() {
                let at = (range.piece, range.start + k);
                assert!((double[at.0][at.1] - want).abs() <= 1e-12 * (want.abs() + most), "{place}: element {k}");
                rounded[i][k] += want.abs() + (TERMS + 80.0) * most;
                let bound = f64::from(f32::EPSILON) * rounded[i][k];
                for (on, got) in [("CPU", Some(&cpu)), ("GPU", on_gpu.as_ref())] {
                    let Some(got) = got.map(|w| f64::from(w[at.0][at.1])) else { continue };
                    assert!((got - want).abs() <= bound, "{place}, {on}: element {k}: {got} instead of {want}");
                }
            }
        }
    }
    let frozen = model.made.iter().position(|made| made.0 == "frozen.weight").map(|i| layout.ranges[i]).expect("one is frozen");
    let device = device?;
    let weights = device.weights();
    assert_eq!((frozen.status, &weights[frozen.piece]), (Status::Frozen, &start[frozen.piece]));
    for (piece, w) in weights.iter().enumerate() {
        let inside = |i: usize| layout.segments(piece).any(|(_, r)| r.of().contains(&i));
        assert!((0..w.len()).all(|i| inside(i) || w[i] == 0.0), "{text}: gaps stay 0");
    }
    Some((weights, rows))
}

#[test]
fn norms_of_parameters_of_all_sizes() {
    for rule in rules() {
        for small in [false, true] {
            let model = model(&rule, MADE.into_iter());
            assert!(model.layout.pieces.iter().any(|&n| n as u64 * 4 > BINDING), "some are split: {:?}", model.layout);
            let Some((weights, rows)) = compare(&model, small) else { continue };
            let (again, same) = compare(&model, small).expect("the device is there still");
            assert!(weights.iter().flatten().map(|x| x.to_bits()).eq(again.iter().flatten().map(|x| x.to_bits())), "the same bits");
            assert_eq!(rows, same);
        }
    }
}

#[test]
fn norms_are_of_clipped_gradients() {
    let usual = || MADE.into_iter().filter(|made| !made.0.starts_with("huge") && !made.0.starts_with("tiny"));
    for rule in rules() {
        // This makes the largest piece larger than a binding.
        let more = usual().chain([("d.weight", 11_000, 0.5, 1.0)]);
        let model = model(&rule.clip_norm(5.0).clip_value(0.07), more);
        compare(&model, true);
        let mut guard = Guard::default();
        guard.check(0, 1.0, &slices(&model.grads(1)), model.optimizer.clip());
        assert!(guard.factor < 0.5, "the clip is at work: {guard:?}");
    }
}

#[test]
fn a_ratio_without_bounds_is_the_largest_float() {
    // The norm of the smallest numbers is 0 on every device.
    let trust = |w: &[f32], g: &[f32]| {
        let (o, mut w, mut s) = (Optimizer::from(Lamb::new(0.1).always_adapt(true)), w.to_vec(), [vec![0.0; 2], vec![0.0; 2]]);
        let rows = hyper(&o, 1, &[Group { lr_scale: 1.0, weight_decay: 0.0 }]);
        let (settings, mut trusts) = (Settings { hyper: &rows, runs: &[(2, 0)] }, Vec::new());
        o.update(settings, &Guard::default(), &mut w, g, &mut parts(&mut s), &mut trusts);
        assert!(w.iter().all(|w| w.is_finite()), "{w:?}");
        trusts[0]
    };
    let most = f64::from(f32::MAX);
    assert_eq!(trust(&[1e30, 1e30], &[1e-20, 1e-20]).ratio, most);
    assert_eq!(trust(&[3e38, 3e38], &[1.0, 1.0]).norms.weight, most);
    assert_eq!(trust(&[1e-40, 1e-39], &[1.0, 1.0]), Trust { ratio: 1.0, ..trust(&[0.0, 0.0], &[1.0, 1.0]) });
    // A norm of 0 gives the ratio 1, and every ratio is a number.
    for (o, decay) in rules().into_iter().flat_map(|o| [(o.clone(), 0.0), (o, 0.1)]) {
        let h = &hyper(&o, 1, &[Group { lr_scale: 1.0, weight_decay: decay }])[0];
        for (weight, other) in [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)] {
            assert_eq!(o.rule.ratio(Norms { weight, gradient: other, direction: other }, h), 1.0, "{o:?}");
        }
    }
}

#[test]
fn the_cpu_adds_up_in_one_order_on_any_number_of_threads() {
    for o in rules() {
        let (n, ends) = (100_003, [(40_001, 0), (100_003, 0)]);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            pool.install(|| {
                let (mut w, mut states, g) = (noise(1, n), states::<f32>(&o, n), noise(2, n));
                let rows = hyper(&o, 1, &[Group { lr_scale: 1.0, weight_decay: 0.1 }]);
                let mut trusts = Vec::new();
                let settings = Settings { hyper: &rows, runs: &ends };
                o.update(settings, &Guard::default(), &mut w, &g, &mut parts(&mut states), &mut trusts);
                (w, trusts)
            })
        };
        let (w, trusts) = run(1);
        assert_eq!(run(3), (w, trusts.clone()));
        assert!(trusts.len() == 2 && near(trusts[1].norms.weight, (60_002f64 / 3.0).sqrt(), 0.01), "{trusts:?}");
    }
}
