//! Tests of the rules against PyTorch, on the CPU.

mod device;
mod options;
mod trust;

use super::*;
use crate::{graph::ParamDef, init::Init, shape::Shape};
use serde_json::{Map, Value};

fn golden(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).expect(&path)).expect(&path);
    serde_json::from_value(json["cases"].take()).expect("a list of cases")
}

fn numbers(json: &Value) -> Vec<f64> {
    json.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn rows(json: &Value) -> Vec<Vec<f64>> {
    json.as_array().expect("a list of lists").iter().map(numbers).collect()
}

/// PyTorch's keyword arguments. The test must read each of them.
struct Args(Map<String, Value>);

impl Args {
    fn new(json: &Value) -> Args {
        Args(json.as_object().expect("an object").clone())
    }
    fn value(&mut self, name: &str) -> Value {
        self.0.remove(name).unwrap_or_else(|| panic!("no argument {name}"))
    }
    fn f(&mut self, name: &str) -> f64 {
        self.value(name).as_f64().expect(name)
    }
    fn u(&mut self, name: &str) -> u64 {
        self.value(name).as_u64().expect(name)
    }
    fn b(&mut self, name: &str) -> bool {
        self.value(name).as_bool().expect(name)
    }
    fn done(self) {
        assert!(self.0.is_empty(), "arguments that are not mapped: {:?}", self.0);
    }
}

/// Returns our optimizer for PyTorch's optimizer with this name and these keyword arguments.
fn optimizer(case: &Value) -> Optimizer {
    fn adam<const DECOUPLED: bool>(new: adam::AdamOf<DECOUPLED>, a: &mut Args) -> Optimizer {
        let betas = numbers(&a.value("betas"));
        let rule = new.betas(betas[0], betas[1]).eps(a.f("eps")).weight_decay(a.f("weight_decay")).amsgrad(a.b("amsgrad"));
        rule.into()
    }
    let mut a = Args::new(&case["options"]);
    let lr = a.f("lr");
    let rule: Optimizer = match case["optimizer"].as_str().expect("a name") {
        "SGD" => Sgd::new(lr)
            .momentum(a.f("momentum"))
            .dampening(a.f("dampening"))
            .weight_decay(a.f("weight_decay"))
            .nesterov(a.b("nesterov"))
            .into(),
        "RMSprop" => RmsProp::new(lr)
            .alpha(a.f("alpha"))
            .eps(a.f("eps"))
            .weight_decay(a.f("weight_decay"))
            .momentum(a.f("momentum"))
            .centered(a.b("centered"))
            .into(),
        "Adagrad" => Adagrad::new(lr)
            .lr_decay(a.f("lr_decay"))
            .weight_decay(a.f("weight_decay"))
            .initial_accumulator_value(a.f("initial_accumulator_value"))
            .eps(a.f("eps"))
            .into(),
        "Adam" => adam(Adam::new(lr), &mut a),
        "AdamW" => adam(AdamW::new(lr), &mut a),
        other => panic!("no optimizer for {other}"),
    };
    a.done();
    rule.decay_all()
}

/// Makes a vector parameter, to which weight decay does not apply by default.
fn vector(name: &str, n: usize) -> ParamDef {
    ParamDef { name: name.into(), shape: Shape::from([n]), init: Init::Zeros, decay: false, trained: true }
}

/// One of PyTorch's trajectories, with the data to follow it.
struct Course {
    label: String,
    optimizer: Optimizer,
    groups: Groups,
    start: Vec<f64>,
    grads: Vec<Vec<f64>>,
    /// The weights after each step.
    weights: Vec<Vec<f64>>,
}

fn courses() -> Vec<Course> {
    let cases = golden("optimizers.json");
    assert!(cases.len() >= 38, "{} cases", cases.len());
    let course = |case: &Value| {
        let (optimizer, start) = (optimizer(case), numbers(&case["params"]));
        let groups = optimizer.groups(&[vector("w", start.len())]).expect("PyTorch's options are in range");
        let label = format!("{} {}", case["optimizer"], case["options"]);
        let (grads, weights) = (rows(&case["grads"]), rows(&case["trajectory"]));
        assert!(grads.len() == 10 && weights.len() == 10, "{label}");
        Course { label, optimizer, groups, start, grads, weights }
    };
    cases.iter().map(course).collect()
}

impl Course {
    /// Follows the trajectory with `step(t, grads, weights)`. Returns the largest error in units of the tolerance.
    ///
    /// The tolerance of an element is `eps` times the sum of all magnitudes rounded so far. In each step, the weight is rounded
    /// once and its change `terms` times.
    fn follow(&self, eps: f64, terms: f64, mut step: impl FnMut(u64, &[f64], &mut [f64])) -> f64 {
        let mut w = self.start.clone();
        let mut rounded = vec![0.0; w.len()];
        let mut worst = 0.0f64;
        let mut last = &self.start;
        for (k, (g, want)) in self.grads.iter().zip(&self.weights).enumerate() {
            step(k as u64 + 1, g, &mut w);
            for i in 0..w.len() {
                rounded[i] += want[i].abs() + terms * (want[i] - last[i]).abs();
                let error = (w[i] - want[i]).abs() / (eps * rounded[i]);
                assert!(
                    error <= 1.0,
                    "{}: step {}, element {i}: {} instead of {}, {error} × the tolerance",
                    self.label,
                    k + 1,
                    w[i],
                    want[i]
                );
                worst = worst.max(error);
            }
            last = want;
        }
        worst
    }
}

/// Returns the hyperparameters of a step, a row for each group.
fn hyper(o: &Optimizer, t: u64, groups: &[Group]) -> Vec<Hyper> {
    o.hyper(t, groups).collect()
}

/// Clips to a norm only.
fn norm(max: f32) -> Clip {
    Clip { norm: Some(max), value: None }
}

/// Returns the states before the first step.
fn states<T: Real>(optimizer: &Optimizer, n: usize) -> Vec<Vec<T>> {
    optimizer.states().iter().map(|s| vec![T::of(f64::from(s.start)); n]).collect()
}

/// The number of roundings in the change of one weight. The formulas have up to a dozen operations, and running averages carry
/// the roundings of several steps.
const TERMS: f64 = 16.0;

#[test]
fn rules_follow_pytorch_in_f64() {
    for course in courses() {
        let (o, n) = (&course.optimizer, course.start.len());
        let mut states = states::<f64>(o, n);
        course.follow(f64::EPSILON, TERMS, |t, g, w| {
            let mut states: Vec<&mut [f64]> = states.iter_mut().map(|s| &mut s[..]).collect();
            o.update_f64(Settings { hyper: &hyper(o, t, &course.groups.settings), runs: &[(n, 0)] }, 1.0, w, g, &mut states);
        });
    }
}

fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

fn copy_back(from: &[f32], to: &mut [f64]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = f64::from(from));
}

#[test]
fn rules_follow_pytorch_in_f32() {
    for course in courses() {
        let (o, n) = (&course.optimizer, course.start.len());
        let (mut states, mut weights) = (states::<f32>(o, n), to_f32(&course.start));
        let worst = course.follow(f64::from(f32::EPSILON), TERMS, |t, g, w| {
            let mut states: Vec<&mut [f32]> = states.iter_mut().map(|s| &mut s[..]).collect();
            o.update(
                Settings { hyper: &hyper(o, t, &course.groups.settings), runs: &[(n, 0)] },
                &Guard::default(),
                &mut weights,
                &to_f32(g),
                &mut states,
                &mut Vec::new(),
            );
            copy_back(&weights, w);
        });
        println!("{worst:.3} {}", course.label);
    }
}

/// Returns numbers in -1..1 that depend only on the seed. None of them is 0.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ((x >> 40) as f32 + 0.5) / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn the_cpu_gives_the_same_bits_on_any_number_of_threads() {
    let o = Optimizer::from(Adam::new(0.01).weight_decay(0.1).amsgrad(true));
    // There are two groups. Each group has more than one chunk.
    let (n, runs) = (100_003, [(40_001, 0), (100_003, 1)]);
    let settings = [Group { lr_scale: 1.0, weight_decay: 0.1 }, Group { lr_scale: 2.0, weight_decay: 0.0 }];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        pool.install(|| {
            let (mut w, mut states, mut guard) = (noise(1, n), states::<f32>(&o, n), Guard::default());
            for t in 1..=3 {
                let g = noise(t + 50, n);
                guard.check(t - 1, 1.0, &[&g[..50_000], &g[50_000..]], norm(1.0));
                let mut states: Vec<&mut [f32]> = states.iter_mut().map(|s| &mut s[..]).collect();
                o.update(Settings { hyper: &hyper(&o, t, &settings), runs: &runs }, &guard, &mut w, &g, &mut states, &mut Vec::new());
            }
            (w, guard)
        })
    };
    let (w, guard) = run(1);
    assert_eq!(run(3), (w.clone(), guard));
    // The result equals the definition, element by element.
    for (i, group) in [(39_999, 0), (40_001, 1), (100_002, 1)] {
        let (mut x, mut s, mut guard) = (f64::from(noise(1, n)[i]), [0.0; MAX_STATES], Guard::default());
        for t in 1..=3 {
            let g = noise(t + 50, n);
            guard.check(t - 1, 1.0, &[&g], norm(1.0));
            let h = hyper(&o, t, &settings)[group];
            let u = Adam::direction(x, f64::from(guard.factor * g[i]), &mut s, &h);
            x = Adam::apply(x, u, &mut s, &h);
        }
        assert!((x - f64::from(w[i])).abs() < 1e-6, "element {i}: {x} {}", w[i]);
    }
}

#[test]
fn corrections_hold_in_very_long_runs() {
    let adam = Adam::new(0.1);
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
    let [_, _, _, _, _, step, root, _] = adam.hyper(1, 0.1, 0.0);
    assert!(close(step, 1.0) && close(root, 0.001f64.sqrt()), "{step} {root}");
    for t in [1 << 31, 1 << 40, u64::MAX] {
        assert_eq!(adam.hyper(t, 0.1, 0.0)[5..7], [0.1, 1.0]);
    }
}

/// Returns numbers of all magnitudes up to 2⁶⁰, with both signs.
fn sizes(seed: u64, n: usize) -> Vec<f32> {
    noise(seed, n).iter().zip(noise(seed + 1, n)).map(|(&x, y)| x.signum() * (y * 60.0).exp2()).collect()
}

#[test]
fn nothing_grows_beyond_what_a_rule_says() {
    for o in all() {
        let row = &hyper(&o, 1, &[Group { lr_scale: 1.0, weight_decay: 0.1 }]);
        assert!(o.is_bounded(row), "{o:?}: usual options need no trial");
        for seed in 0..300 {
            let n = 8;
            let (mut w, mut g) = (sizes(10 * seed, n), sizes(10 * seed + 2, n));
            let mut states: Vec<Vec<f32>> = (0..o.states().len() as u64).map(|k| sizes(10 * seed + 4 + k, n)).collect();
            // Means and sums of squares are not negative.
            states.iter_mut().zip(o.states()).filter(|(_, s)| ["square", "largest", "sum"].contains(&s.name)).for_each(|(x, _)| {
                x.iter_mut().for_each(|x| *x = x.abs());
            });
            // Every third seed uses the largest numbers.
            if seed % 3 == 0 {
                (w[0], g[0]) = (2f32.powi(60), 2f32.powi(60));
                states.iter_mut().for_each(|s| s[0] = 2f32.powi(60));
            }
            let of = |w: &[f32], states: &[Vec<f32>]| Bounds::of([w].into_iter(), states.chunks(1), &o);
            let largest = g.iter().fold(0.0, |a: f32, g| a.max(g.abs()));
            let most = of(&w, &states).after(&o, f64::from(largest), row);
            let mut parts: Vec<&mut [f32]> = states.iter_mut().map(|s| &mut s[..]).collect();
            assert_eq!(
                o.try_update(Settings { hyper: row, runs: &[(n, 0)] }, &Guard::default(), &mut w, &g, &mut parts),
                0,
                "{o:?}: nothing overflows"
            );
            o.update(Settings { hyper: row, runs: &[(n, 0)] }, &Guard::default(), &mut w, &g, &mut parts, &mut Vec::new());
            let is = of(&w, &states);
            assert!(is.within(&most), "{o:?}: {is:?} instead of {most:?}");
        }
    }
    // If an option makes overflow possible, the rule is not bounded.
    let bounded = |o: Optimizer| o.is_bounded(&hyper(&o, 2, &[Group { lr_scale: 1.0, weight_decay: 1.0 }]));
    for o in [Sgd::new(1e25), Sgd::new(0.1).momentum(1e25), Sgd::new(0.1).dampening(-1e25).momentum(0.1)] {
        assert!(!bounded(o.into()), "{o:?}");
    }
    for o in [Adam::new(1e-3).eps(1e-40), Adam::new(1e25)] {
        assert!(!bounded(o.into()), "{o:?}");
    }
    assert!(!bounded(RmsProp::new(1e-25).eps(1e-30).into()), "g / eps overflows on the way");
    assert!(!bounded(Adagrad::new(1e-3).eps(1e-30).into()));
}
