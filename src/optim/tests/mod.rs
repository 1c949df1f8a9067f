//! Tests of the rules against PyTorch and timm, on the CPU.

mod device;
mod options;
mod trust;
mod whole;

use super::*;
use crate::{graph::ParamDef, init::Init, params::Status, shape::Shape};
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

/// Keyword arguments of PyTorch or timm. The test must read each of them.
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

/// Returns our optimizer for the optimizer of PyTorch or timm with this name and these keyword arguments.
fn optimizer(case: &Value) -> Optimizer {
    fn adam<const DECOUPLED: bool>(new: adam::AdamOf<DECOUPLED>, a: &mut Args) -> Optimizer {
        let [beta1, beta2] = numbers(&a.value("betas")).try_into().expect("two rates");
        let rule = new.betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay")).amsgrad(a.b("amsgrad"));
        rule.into()
    }
    let mut a = Args::new(&case["options"]);
    let lr = a.f("lr");
    let betas = |a: &mut Args| -> [f64; 2] { numbers(&a.value("betas")).try_into().expect("two rates") };
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
        "Adamax" => {
            let [beta1, beta2] = betas(&mut a);
            Adamax::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay")).into()
        }
        "NAdam" => {
            let [beta1, beta2] = betas(&mut a);
            let rule = NAdam::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            rule.momentum_decay(a.f("momentum_decay")).decoupled_weight_decay(a.b("decoupled_weight_decay")).into()
        }
        "RAdam" => {
            let [beta1, beta2] = betas(&mut a);
            let rule = RAdam::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            rule.decoupled_weight_decay(a.b("decoupled_weight_decay")).into()
        }
        "Adadelta" => Adadelta::new(lr).rho(a.f("rho")).eps(a.f("eps")).weight_decay(a.f("weight_decay")).into(),
        "Lion" => {
            let [beta1, beta2] = betas(&mut a);
            Lion::new(lr).betas(beta1, beta2).weight_decay(a.f("weight_decay")).into()
        }
        "Lars" => {
            let rule = Lars::new(lr).momentum(a.f("momentum")).dampening(a.f("dampening")).weight_decay(a.f("weight_decay"));
            let rule = rule.nesterov(a.b("nesterov")).trust_coeff(a.f("trust_coeff")).eps(a.f("eps"));
            rule.trust_clip(a.b("trust_clip")).always_adapt(a.b("always_adapt")).into()
        }
        "Lamb" => {
            let [beta1, beta2] = betas(&mut a);
            let rule = Lamb::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            let rule = rule.bias_correction(a.b("bias_correction")).grad_averaging(a.b("grad_averaging"));
            let rule = rule.max_grad_norm(a.value("max_grad_norm").as_f64());
            rule.trust_clip(a.b("trust_clip")).always_adapt(a.b("always_adapt")).into()
        }
        other => panic!("no optimizer for {other}"),
    };
    a.done();
    rule.decay_all()
}

/// Makes a vector parameter, to which weight decay does not apply by default.
fn vector(name: &str, n: usize) -> ParamDef {
    ParamDef { name: name.into(), shape: Shape::from([n]), init: Init::Zeros, decay: false, trained: true }
}

/// A trajectory of PyTorch or timm, with the data to follow it.
struct Course {
    label: String,
    optimizer: Optimizer,
    /// The parameters. Their elements lie one after the other.
    params: Vec<ParamDef>,
    groups: Groups,
    start: Vec<f64>,
    grads: Vec<Vec<f64>>,
    /// The weights after each step.
    weights: Vec<Vec<f64>>,
}

/// Returns the trajectories of a file.
fn courses_of(file: &str) -> Vec<Course> {
    let course = |case: &Value| {
        // Parsing a decimal may miss the nearest `f64` by a bit. Weights and gradients are `f32`s exactly.
        let exact = |x: &Value| -> Vec<f64> { to_f32(&numbers(x)).into_iter().map(f64::from).collect() };
        let start = exact(&case["params"]);
        // A case has one parameter that decays, unless it says otherwise.
        let list = |key: &str| case[key].as_array().cloned().unwrap_or_default();
        let sizes: Vec<usize> = list("sizes").into_iter().map(|n| n.as_u64().expect("a size") as usize).collect();
        let sizes = if sizes.is_empty() { vec![start.len()] } else { sizes };
        let decays = list("decays").into_iter().map(|d| d.as_bool().expect("yes or no")).chain(std::iter::repeat(true));
        let param = |(i, (&n, decays))| vector(&format!("{}{i}", if decays { "decays" } else { "still" }), n);
        let params: Vec<ParamDef> = sizes.iter().zip(decays).enumerate().map(param).collect();
        let mut optimizer = optimizer(case);
        if params.iter().any(|p| p.name.starts_with("still")) {
            optimizer = optimizer.group(|name| name.starts_with("still"), GroupOptions { weight_decay: Some(0.0), ..Default::default() });
        }
        let groups = optimizer.groups(&params).expect("these options are in range");
        let label = format!("{} {}", case["optimizer"], case["options"]);
        let grads: Vec<Vec<f64>> = case["grads"].as_array().expect("a list of lists").iter().map(exact).collect();
        let weights = rows(&case["trajectory"]);
        assert!(grads.len() == 10 && weights.len() == 10, "{label}");
        Course { label, optimizer, params, groups, start, grads, weights }
    };
    golden(file).iter().map(course).collect()
}

/// Returns all trajectories.
fn courses() -> Vec<Course> {
    let (torch, timm) = (courses_of("optimizers.json"), courses_of("optimizers_timm.json"));
    assert!(torch.len() >= 68 && timm.len() >= 30, "{} and {} cases", torch.len(), timm.len());
    torch.into_iter().chain(timm).collect()
}

impl Course {
    /// Returns the end and the group of each parameter.
    fn runs(&self) -> Vec<(usize, usize)> {
        let mut end = 0;
        let run = |(param, status): (&ParamDef, &Status)| {
            end += param.shape.elements();
            let Status::Trained { group } = status else { panic!("{} is trained", param.name) };
            (end, *group)
        };
        self.params.iter().zip(&self.groups.statuses).map(run).collect()
    }
    /// Follows the trajectory with `step(t, grads, weights)`. Returns the largest error in units of the tolerance.
    ///
    /// The tolerance of an element is `eps` times the sum of all magnitudes rounded so far. In each step, the weight is rounded
    /// once and its change `terms` times. With a ratio, the terms of a direction may cancel, so the largest change of the parameter
    /// counts.
    fn follow(&self, eps: f64, terms: f64, mut step: impl FnMut(u64, &[f64], &mut [f64])) -> f64 {
        let mut w = self.start.clone();
        let mut rounded = vec![0.0; w.len()];
        let mut worst = 0.0f64;
        let mut last = &self.start;
        for (k, (g, want)) in self.grads.iter().zip(&self.weights).enumerate() {
            step(k as u64 + 1, g, &mut w);
            let changes: Vec<f64> = want.iter().zip(last).map(|(is, was)| (is - was).abs()).collect();
            let own =
                |i: usize| self.runs().iter().scan(0, |start, &(end, _)| Some(std::mem::replace(start, end)..end)).find(|r| r.contains(&i));
            for i in 0..w.len() {
                let change = match own(i).filter(|_| self.optimizer.has_ratio()) {
                    Some(range) => changes[range].iter().copied().fold(0.0, f64::max),
                    None => changes[i],
                };
                rounded[i] += want[i].abs() + terms * change;
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
fn rules_follow_pytorch_and_timm_in_f64() {
    for course in courses() {
        let (o, n) = (&course.optimizer, course.start.len());
        let mut states = states::<f64>(o, n);
        course.follow(f64::EPSILON, TERMS, |t, g, w| {
            let mut states: Vec<&mut [f64]> = states.iter_mut().map(|s| &mut s[..]).collect();
            let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            let factor = o.clip().norm.map_or(1.0, |max| (f64::from(max) / norm).min(1.0));
            o.update_f64(Settings { hyper: &hyper(o, t, &course.groups.settings), runs: &course.runs() }, factor, w, g, &mut states);
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
fn rules_follow_pytorch_and_timm_in_f32() {
    for course in courses() {
        let (o, n) = (&course.optimizer, course.start.len());
        let (mut states, mut weights, mut guard) = (states::<f32>(o, n), to_f32(&course.start), Guard::default());
        let worst = course.follow(f64::from(f32::EPSILON), TERMS, |t, g, w| {
            let mut states: Vec<&mut [f32]> = states.iter_mut().map(|s| &mut s[..]).collect();
            let (settings, g) = (Settings { hyper: &hyper(o, t, &course.groups.settings), runs: &course.runs() }, to_f32(g));
            guard.check(t - 1, 1.0, &[&g], o.clip());
            o.update(settings, &guard, &mut weights, &g, &mut states, &mut Vec::new());
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
        assert_eq!(RAdam::new(0.1).hyper(t, 0.1, 0.0)[4..7], [0.1, 1.0, 1e-8]);
        let [_, _, _, _, now, next, root, _] = NAdam::new(0.1).hyper(t, 0.1, 0.0);
        assert!(close(now, 0.01) && close(next, 0.09) && root == 1.0, "{now} {next} {root}");
    }
}

#[test]
fn nadam_has_its_product_of_momenta_in_closed_form() {
    for (beta, psi) in [(0.9, 4e-3), (0.999, 4e-3), (0.9, 0.0), (0.5, 2.0), (0.99, 1e6), (0.0, 4e-3), (0.99, 1e-9)] {
        let (rule, mut product) = (NAdam::new(1.0).betas(beta, 0.999).momentum_decay(psi), 1.0);
        let momentum = |t: u64| beta * (1.0 - 0.5 * 0.96f64.powf(t as f64 * psi));
        for t in 1..=3000 {
            product *= momentum(t);
            let [_, _, _, _, now, next, ..] = rule.hyper(t, 1.0, 0.0);
            let want = [(1.0 - momentum(t)) / (1.0 - product), momentum(t + 1) / (1.0 - product * momentum(t + 1))];
            for (got, want) in [now, next].into_iter().zip(want) {
                assert!((got - want).abs() <= 1e-13 * want, "{beta} {psi}: step {t}: {got} instead of {want}");
            }
        }
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
            states.iter_mut().zip(o.states()).filter(|(_, s)| ["square", "largest", "sum", "change"].contains(&s.name)).for_each(
                |(x, _)| {
                    x.iter_mut().for_each(|x| *x = x.abs());
                },
            );
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
    let lars = Lars::new(0.1).always_adapt(true);
    let ratios: [Optimizer; 3] = [Lamb::new(1e25).into(), Lars::new(1e25).into(), lars.trust_coeff(1e25).into()];
    let others: [Optimizer; 4] =
        [NAdam::new(1e25).into(), RAdam::new(1e25).into(), Adamax::new(0.1).eps(1e-30).into(), Adadelta::new(1e35).into()];
    for o in ratios.into_iter().chain(others) {
        assert!(!bounded(o.clone()), "{o:?}");
    }
    assert!(bounded(lars.trust_coeff(1e25).trust_clip(true).into()), "a ratio of 1 at most makes nothing larger");
}
