//! Schedules at their edges; clipping, updates and indices where something overflows, is frozen, or does not exist.

use crate::common::{BOTH, Check, On, Suite, bits, weights};
use downhill::{
    Device, Error, Graph, Host, Tensor, Trainer,
    init::Init,
    optim::{
        self, Adadelta, Adagrad, Adam, AdamW, Adamax, Curve, GroupOptions, Lamb, Lars, Lion, NAdam, Optimizer, RAdam, RmsProp, Schedule,
        Sgd,
    },
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

pub fn trials(suite: &mut Suite) {
    suite.test("schedules at their edges are PyTorch's", schedules);
    suite.test("curves of no steps", no_steps);
    let everywhere = [On::Cpu, On::Gpu, On::Checked, On::Pieces];
    suite.each(&everywhere, "what is frozen stays and does not count", frozen);
    suite.each(&BOTH, "all is frozen but state", all_frozen);
    suite.each(&everywhere, "clipping over all of f32", clipping);
    suite.each(&everywhere, "an update that would overflow is not made", overflow);
    suite.each(&BOTH, "gradients that no state could hold", states);
    suite.each(&BOTH, "growth until overflow", growth);
    suite.each(&BOTH, "state of the model that would overflow", assigned);
    suite.each(&BOTH, "numbers that were not finite before", infinite_before);
    suite.each(&[On::Cpu, On::Gpu, On::Checked], "computed indices beyond a table", indices);
    suite.each(&BOTH, "training with an index beyond a table", training);
}

fn schedules() -> Check {
    let json: Value = serde_json::from_str(include_str!("../golden/values_updates.json"))?;
    let cases = json["cases"].as_array().expect("a list of cases");
    assert!(cases.len() >= 90, "{} cases", cases.len());
    for case in cases {
        let args = &case["args"];
        let (f, u) = (|name: &str| args[name].as_f64().expect("a number"), |name: &str| args[name].as_u64().expect("an integer"));
        let schedule = match case["schedule"].as_str().expect("a name") {
            "CosineAnnealingLR" => Schedule::cosine(u("T_max")),
            "PolynomialLR" => Schedule::polynomial(u("total_iters"), f("power")),
            "LinearLR" => Schedule::linear(f("start_factor"), f("end_factor"), u("total_iters")),
            "StepLR" => Schedule::step(u("step_size"), f("gamma")),
            "ExponentialLR" => Schedule::exponential(f("gamma")),
            "OneCycleLR" => {
                let (total, warm, straight) = (u("total_steps"), f("pct_start"), args["anneal_strategy"] == "linear");
                Curve::OneCycle { total, warm, div: f("div_factor"), final_div: f("final_div_factor"), straight }.into()
            }
            other => panic!("no schedule for {other}"),
        };
        schedule.check()?;
        for (k, want) in case["lr"].as_array().expect("a list").iter().enumerate() {
            let (got, want) = (schedule.at(k as u64), want.as_f64().expect("a number"));
            assert!((got - want).abs() < 1e-14, "{case}: {got} at step {k}");
        }
    }
    // PyTorch divides by zero here. The rise has no length, so the schedule starts at the top.
    for (total, warm) in [(1, 1.0), (2, 0.5), (4, 0.25)] {
        for straight in [false, true] {
            let s = Schedule::from(Curve::OneCycle { total, warm, div: 25.0, final_div: 4.0, straight });
            assert_eq!(s.at(0), 1.0, "{s:?}");
        }
    }
    // If every step rises, the schedule ends at the top and stays there.
    let s = Schedule::from(Curve::OneCycle { total: 5, warm: 1.0, div: 25.0, final_div: 1e4, straight: false });
    assert_eq!([4, 5, 100].map(|k| s.at(k)), [1.0; 3]);
    Ok(())
}

fn no_steps() -> Check {
    let cosine = Schedule::cosine(5);
    for none in [Schedule::warmup(0), Schedule::linear(0.1, 1.0, 0), Schedule::constant().lasting(0), Schedule::exponential(0.5).lasting(0)]
    {
        let s = none.clone().then(cosine.clone());
        s.check()?;
        assert!((0..12).all(|k| s.at(k) == cosine.at(k)), "{s:?}");
        let twice = none.clone().then(none.clone()).then(cosine.clone());
        assert!((0..12).all(|k| twice.at(k) == cosine.at(k)), "{twice:?}");
    }
    // Alone it is at its end.
    assert_eq!([0, 1, 9].map(|k| Schedule::warmup(0).at(k)), [1.0; 3]);
    assert_eq!([0, 1, 9].map(|k| Schedule::linear(0.5, 0.25, 0).at(k)), [0.25; 3]);
    assert_eq!([0, 1].map(|k| Schedule::warmup(1).at(k)), [0.5, 1.0]);
    for impossible in [Schedule::cosine(0), Schedule::polynomial(0, 1.0), Schedule::one_cycle(0)] {
        assert!(matches!(impossible.check(), Err(Error::Argument { .. })), "{impossible:?}");
    }
    let tiny = Curve::OneCycle { total: 5, warm: 0.5, div: 1e-310, final_div: 1.0, straight: true };
    assert!(Schedule::from(tiny).check().is_err(), "1 / div is no number");
    // And a trainer takes it.
    let g = Graph::training();
    let loss = g.param("w", [1], Init::Ones).square().sum_all();
    let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.25).schedule(Schedule::warmup(0).then(Schedule::cosine(2))))?;
    trainer.step(&[])?;
    assert_eq!(trainer.params().get("w")?.f(), &[0.5]);
    Ok(())
}

/// A trainer of parameters of these sizes, which start at 0.5; their gradients are given.
fn given(device: &Device, sizes: &[(&str, usize)], optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    let g = Graph::training();
    let params: Vec<Tensor> = sizes.iter().map(|&(name, n)| g.param(name, [n, 1], Init::Constant(0.5))).collect();
    let sums: Vec<Tensor> = params.iter().map(|p| p.sum_all()).collect();
    let loss = sums[1..].iter().fold(sums[0], |sum, &x| sum + x);
    Trainer::new(device, loss, optimizer)
}

fn full(n: usize, value: f32) -> Host<f32> {
    Host::new([n, 1], vec![value; n])
}

/// All weights and states by name, from a checkpoint.
fn saved(trainer: &Trainer) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn std::error::Error>> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let (id, number) = (std::process::id(), NUMBER.fetch_add(1, Relaxed));
    let path = std::env::temp_dir().join(format!("downhill-updates-{id}-{number}.safetensors"));
    trainer.save(&path)?;
    let bytes = std::fs::read(&path)?;
    std::fs::remove_file(&path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    Ok(file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect())
}

fn frozen(device: &Device) -> Check {
    for rule in optim::all().into_iter().chain([AdamW::new(0.1).weight_decay(0.5).decay_all()]) {
        let freeze = |o: Optimizer| o.group(|name| name == "frozen", GroupOptions { lr_scale: 0.0, weight_decay: Some(0.5) });
        let sizes = [("frozen", 70), ("free", 130)];
        let mut trainer = given(device, &sizes, freeze(rule.clone().decay_all()).clip_norm(2.0))?;
        // The same without the frozen one: the norm is that of the other.
        let mut alone = given(device, &sizes[1..], rule.clone().decay_all().clip_norm(2.0))?;
        for bad in [1.0, 1e15, f32::INFINITY, f32::NAN, 3e38] {
            let g: Vec<f32> = (0..130).map(|k| (k as f32 * 0.37).sin() * 3.0).collect();
            let g = Host::new([130, 1], g);
            // It has none, so that none can be given.
            let given = trainer.apply_gradients(&[("frozen", full(70, bad))]);
            assert!(matches!(&given, Err(Error::Parameter { name, why }) if name == "frozen" && why.contains("it is frozen")), "{given:?}");
            trainer.apply_gradients(&[("free", g.clone())])?;
            alone.apply_gradients(&[("free", g)])?;
            trainer.loss()?;
        }
        assert_eq!(trainer.steps(), 5);
        assert_eq!(bits(trainer.params().get("frozen")?.f()), bits(&[0.5; 70]), "{rule:?}");
        let (got, want) = (trainer.params().get("free")?, alone.params().get("free")?);
        assert_eq!(bits(got.f()), bits(want.f()), "{rule:?}");
        assert!(got.f() != vec![0.5; 130], "{rule:?}");
        // It remembers nothing of the frozen one.
        let saved = saved(&trainer)?;
        assert!(saved.keys().all(|name| !name.starts_with("optimizer.") || name.ends_with(".free")), "{:?}", saved.keys());
    }
    // From a loss: the gradient of the frozen one is infinite.
    let g = Graph::training();
    let (a, b) = (g.param("a", [1], Init::Zeros), g.param("b", [1], Init::Ones));
    let loss = (a.sqrt() + b.square()).sum_all();
    let optimizer = Sgd::new(0.25).group(|name| name == "a", GroupOptions { lr_scale: 0.0, weight_decay: None });
    let mut trainer = Trainer::new(device, loss, optimizer)?;
    trainer.step(&[])?;
    assert_eq!((trainer.loss()?, trainer.params().get("a")?.f()[0], trainer.params().get("b")?.f()[0]), (1.0, 0.0, 0.5));
    Ok(())
}

/// Nothing would be trained; where there is anything that is, running averages go on, and a loss that is not finite is found.
fn all_frozen(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([1]);
    g.assign("count", g.state("count", [1], Init::Zeros) + 1.0);
    let loss = (g.param("w", [1], Init::Ones) * x.exp()).sum_all();
    let all = AdamW::new(0.1).decay_all().group(|_| true, GroupOptions { lr_scale: 0.0, weight_decay: None });
    let error = Trainer::new(device, loss, all).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("every parameter is frozen") && error.contains("the names are w"), "{error}");
    let loss = loss + 0.0 * g.param("v", [1], Init::Ones).sum_all();
    let mut trainer = Trainer::new(device, loss, AdamW::new(0.1).freeze(["w"]))?;
    for _ in 0..3 {
        trainer.step(&[Host::new([1], vec![0.0])])?;
    }
    assert_eq!(trainer.loss()?, 1.0);
    assert_eq!((trainer.params().get("w")?.f()[0], trainer.params().get("count")?.f()[0]), (1.0, 3.0));
    trainer.step(&[Host::new([1], vec![1000.0])])?;
    assert!(matches!(trainer.loss(), Err(Error::Diverged { step: 3, ref what, .. }) if what == "loss"));
    assert_eq!(trainer.params().get("count")?.f()[0], 3.0);
    Ok(())
}

/// `g · min(1, max / (‖g‖ + 1e-6))` in `f64`.
fn clipped(g: &[f32], max: f64) -> Vec<f64> {
    let norm = g.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
    let factor = (max / (norm + 1e-6)).min(1.0);
    g.iter().map(|&g| f64::from(g) * factor).collect()
}

fn clipping(device: &Device) -> Check {
    // 2 / √128, the example of the issue.
    for size in [1e19f32, -1e19, 3e38, f32::MAX, 1e30, 1e15] {
        let mut trainer = given(device, &[("w", 128)], Sgd::new(1.0).clip_norm(2.0))?;
        trainer.apply_gradients(&[("w", full(128, size))])?;
        trainer.loss()?;
        let want = 0.5 - 0.176_776_7 * size.signum();
        let w = trainer.params().get("w")?;
        assert!(w.f().iter().all(|w| (w - want).abs() < 2e-7), "{size}: {} instead of {want}", w.f()[0]);
    }
    // Large and small ones together, over several chunks and pieces; limits from the smallest to the largest.
    let wave = |k: usize| (k as f32 * 0.7 + 0.3).sin();
    let mixed: [&dyn Fn(usize) -> f32; 7] = [
        &|k| wave(k) * if k % 3 == 0 { 1e19 } else { 1.0 },
        &|k| wave(k) * if k == 6000 { 3e38 } else { 1e-3 },
        &|k| wave(k) * 1e30,
        &|k| if k == 17 { 1e14 } else { wave(k) },
        &|k| wave(k) * 1e-30,
        &|k| if k < 5000 { wave(k) * 1e-25 } else { 0.0 },
        &|k| wave(k) * if k % 2 == 0 { 1e12 } else { 1e18 },
    ];
    for (i, f) in mixed.iter().enumerate() {
        let g: Vec<f32> = (0..9000).map(f).collect();
        for max in [1e-20, 1.0, 50.0, 1e17, 1e36] {
            // The weights start near 0, so that what is subtracted from them is seen.
            let mut trainer = given(device, &[("a", 4000), ("b", 5000)], Sgd::new(1.0).clip_norm(max))?;
            trainer.params().set_all(&[("a".into(), full(4000, 0.0)), ("b".into(), full(5000, 0.0))])?;
            trainer.apply_gradients(&[("a", Host::new([4000, 1], g[..4000].to_vec())), ("b", Host::new([5000, 1], g[4000..].to_vec()))])?;
            trainer.loss()?;
            let w = [trainer.params().get("a")?.f(), trainer.params().get("b")?.f()].concat();
            for (k, (w, want)) in w.iter().zip(clipped(&g, max)).enumerate() {
                // Below the smallest normal number devices may take 0; products of such numbers are as coarse.
                let tiny = want.abs() < 2e-38;
                let error = (f64::from(*w) + want).abs();
                assert!(
                    error <= 1e-6 * want.abs() || tiny && error < 2e-38,
                    "mixture {i}, max {max}: element {k} is {w} instead of {}",
                    -want
                );
            }
        }
    }
    Ok(())
}

/// The error that a step ended in, by what was not finite.
fn diverged(result: Result<f32, Error>) -> (u64, String) {
    match result {
        Err(Error::Diverged { step, what, .. }) => (step, what),
        other => panic!("{other:?} instead of an error"),
    }
}

fn overflow(device: &Device) -> Check {
    let state = |name: &str| format!("update (the optimizer's state `{name}` would overflow)");
    let weight = "update (a weight would overflow)".to_string();
    // A rule, the gradient of one element of many, and what is said.
    let cases: Vec<(Optimizer, f32, String)> = vec![
        (Sgd::new(1e30).into(), 1e20, weight.clone()),
        (Sgd::new(1e30).into(), -1e20, weight.clone()),
        (Sgd::new(3e38).into(), 1e10, weight.clone()),
        (Sgd::new(10.0).into(), 3e38, weight.clone()),
        (Sgd::new(10.0).clip_norm(3e38), 3e38, weight.clone()),
        (Sgd::new(1e30).clip_norm(1e20), 1e25, weight.clone()),
        (Sgd::new(0.1).schedule(Schedule::linear(1e39, 1e39, 1)), 1e10, weight.clone()),
        (Adam::new(1e-3).into(), 1e25, state("square")),
        (AdamW::new(1e-3).into(), -1e25, state("square")),
        (
            Adam::new(1e-3).amsgrad(true).into(),
            1e25,
            format!("update ({0} `square` and {0} `largest` would overflow)", "the optimizer's state"),
        ),
        (Adam::new(1e38).eps(1e-30).into(), 1.0, weight.clone()),
        (RmsProp::new(1e-3).into(), 1e25, state("square")),
        (RmsProp::new(1e38).into(), 1.0, weight.clone()),
        (Adagrad::new(1e-3).into(), 1e25, state("sum")),
        (NAdam::new(1e-3).into(), 1e25, state("square")),
        // RAdam's first steps multiply the root by 0. That is NaN for an infinite root.
        (RAdam::new(1e-3).into(), 1e25, "update (a weight and the optimizer's state `square` would overflow)".into()),
        (Adamax::new(1e38).into(), 1.0, weight.clone()),
        (Adadelta::new(0.5).into(), 1e25, state("square")),
        (Lion::new(1e38).weight_decay(10.0).into(), 1.0, weight.clone()),
        (Lars::new(1e38).into(), 1e5, weight.clone()),
        (Lars::new(1e38).momentum(0.9).weight_decay(0.1).trust_coeff(1.0).into(), 1e5, weight.clone()),
        (Lamb::new(1e-3).max_grad_norm(None).into(), 1e25, state("square")),
        (Lamb::new(3e38).into(), 1.0, weight.clone()),
    ];
    for (i, (rule, bad, what)) in cases.into_iter().enumerate() {
        let rule_text = format!("{i}: {rule:?}");
        // Steps that count before it, where there can be any: states are at work.
        let before = u64::from(rule.lr(1) < 1.0);
        let sizes = [("a", 5000), ("b", 300)];
        let mut trainer = given(device, &sizes, rule)?;
        let small = [("a", full(5000, 0.25)), ("b", full(300, -0.5))];
        for _ in 0..before {
            trainer.apply_gradients(&small)?;
        }
        if before > 0 {
            trainer.loss()?;
        }
        let kept = saved(&trainer)?;
        // One element alone, the last one, would overflow; the others may not have been written.
        let mut g = full(300, if before > 0 { 0.125 } else { 0.0 });
        if let downhill::host::Data::Float(g) = &mut g.data {
            g[299] = bad;
        }
        let a = full(5000, if before > 0 { 0.125 } else { 0.0 });
        trainer.apply_gradients(&[("a", a), ("b", g)])?;
        trainer.apply_gradients(&small)?;
        assert_eq!(diverged(trainer.loss()), (before, what), "{rule_text}");
        assert_eq!(trainer.steps(), before, "{rule_text}");
        assert!(saved(&trainer)? == kept, "{rule_text}: something was written");
        // It goes on where the numbers allow.
        if before > 0 {
            trainer.apply_gradients(&small)?;
            trainer.loss()?;
            assert!(saved(&trainer)? != kept, "{rule_text}");
        }
    }
    // The text as a user sees it.
    let mut trainer = given(device, &[("w", 3)], Adam::new(1e-3))?;
    trainer.apply_gradients(&[("w", full(3, 1e25))])?;
    let text = trainer.loss().expect_err("it overflows").to_string();
    assert!(text.starts_with("step 0: the update (the optimizer's state `square` would overflow) is not finite"), "{text}");
    Ok(())
}

/// Gradients just below and above what a state can hold.
fn states(device: &Device) -> Check {
    // v = 0.001·g² overflows where g is above √(3.4e38 / 0.001) = 5.8e20.
    for (g, fits) in [(1e18f32, true), (1e20, true), (5e20, true), (6e20, false), (1e30, false)] {
        let mut trainer = given(device, &[("w", 65)], Adam::new(0.125))?;
        trainer.apply_gradients(&[("w", full(65, g))])?;
        match trainer.loss() {
            Ok(_) if fits => {
                // The first step of Adam is lr·sign(g), whatever the size.
                let w = trainer.params().get("w")?;
                assert!(w.f().iter().all(|w| (w - 0.375).abs() < 1e-6), "{g}: {}", w.f()[0]);
            }
            Err(Error::Diverged { what, .. }) if !fits => assert!(what.starts_with("update"), "{what}"),
            other => panic!("{g}: {other:?}"),
        }
    }
    Ok(())
}

/// Nothing is large at first: the numbers come near by and by.
fn growth(device: &Device) -> Check {
    // w ← w·(1 + 1e6) in each step: past the largest float in the seventh.
    let g = Graph::training();
    let w = g.param("w", [3], Init::Ones);
    let loss = (w * 0.0).sum_all() + 1.0;
    let mut trainer = Trainer::new(device, loss, Sgd::new(1e6))?;
    let mut size = 1.0f64;
    let mut made = 0;
    loop {
        let grad = Host::new([3], trainer.params().get("w")?.f().iter().map(|w| -w).collect());
        let before = weights(&trainer)?;
        let fits = size * (1.0 + 1e6) < f64::from(f32::MAX);
        trainer.apply_gradients(&[("w", grad)])?;
        match trainer.loss() {
            Ok(_) => {
                assert!(fits, "{size}");
                size *= 1.0 + 1e6;
                made += 1;
            }
            Err(Error::Diverged { step, what, .. }) => {
                assert_eq!((step, what.as_str(), fits), (made, "update (a weight would overflow)", false));
                assert_eq!(weights(&trainer)?, before);
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    assert_eq!(made, 6);
    // Momentum above 1 doubles the buffer; nothing else is asked to.
    let mut trainer = given(device, &[("w", 3)], Sgd::new(1e-30).momentum(2.0))?;
    for _ in 0..200 {
        trainer.apply_gradients(&[("w", full(3, 1.0))])?;
    }
    // b after t steps is 2ᵗ − 1: that of step 127 (from 0) is 2¹²⁸ − 1, which no float is.
    assert_eq!(diverged(trainer.loss()), (127, "update (a weight and the optimizer's state `momentum` would overflow)".to_string()));
    Ok(())
}

fn assigned(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([1]);
    let w = g.param("w", [1], Init::Ones);
    for (name, n) in [("power", 1), ("other", 70)] {
        let state = g.state(name, [n], Init::Ones);
        g.assign(name, state * if n == 1 { 1e30 } else { 0.5 });
    }
    let mut trainer = Trainer::new(device, (w * x).sum_all(), Adam::new(0.25))?;
    for _ in 0..3 {
        trainer.step(&[Host::new([1], vec![1.0])])?;
    }
    assert_eq!(diverged(trainer.loss()), (1, "update (state of the model would overflow)".to_string()));
    let of = |name: &str| -> Result<f32, Error> { Ok(trainer.params().get(name)?.f()[0]) };
    assert_eq!((of("power")?, of("other")?), (1e30, 0.5));
    assert!((of("w")? - 0.75).abs() < 1e-6);
    Ok(())
}

/// A number that is infinite from the start, such as a frozen mask or the start of a minimum, does not stop training.
fn infinite_before(device: &Device) -> Check {
    let g = Graph::training();
    let w = g.param("w", [2], Init::Ones);
    let least = g.state("least", [1], Init::Constant(f32::INFINITY));
    g.assign("least", least);
    let _ = g.param("mask", [3], Init::Constant(f32::NEG_INFINITY));
    let mut trainer = Trainer::new(
        device,
        w.square().sum_all(),
        Sgd::new(0.25).group(|name| name == "mask", GroupOptions { lr_scale: 0.0, weight_decay: None }),
    )?;
    trainer.step(&[])?;
    trainer.loss()?;
    assert_eq!(trainer.params().get("w")?.f(), &[0.5; 2]);
    assert_eq!(trainer.params().get("mask")?.f(), &[f32::NEG_INFINITY; 3]);
    assert_eq!(trainer.params().get("least")?.f(), &[f32::INFINITY]);
    Ok(())
}

/// NaN where `want` is, equal elsewhere.
fn same(what: &str, got: &[f32], want: &[f32]) {
    let same = |(g, w): (&f32, &f32)| g == w || g.is_nan() && w.is_nan();
    assert!(got.len() == want.len() && got.iter().zip(want).all(same), "{what}: {got:?} instead of {want:?}");
}

fn indices(device: &Device) -> Check {
    const N: f32 = f32::NAN;
    let scores = Host::new(
        [4, 5],
        [[0, 9, 0, 0, 0], [0, 0, 0, 0, 9], [0, 0, 9, 0, 0], [9, 0, 0, 0, 0]].concat().iter().map(|&x| x as f32).collect(),
    );
    let table = Host::new([3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let labels = Host::labels([6], vec![77, 1, 4_000_000_000, 2, 0, 3]);
    let g = Graph::inference();
    // argmax gives 1, 4, 2, 0; the slices of labels are not checked by the host.
    let (scores_t, table_t, labels_t) = (g.input([4, 5]), g.input([3, 2]), g.labels([6]));
    let best = scores_t.argmax(1);
    let (some, few) = (labels_t.slice(0, 1, 5), labels_t.slice(0, 0, 3));
    let wide = g.input([4, 3]);
    let weights = g.constant(Host::new([4], vec![1.0, 2.0, 3.0, 4.0]));
    let gathered = table_t.gather_rows(best);
    let picked = wide.pick(best);
    let known = best.to_f32().lt(3.0);
    let outputs = [
        gathered,
        table_t.gather_rows(some),
        table_t.gather_rows(best.reshape([2, 2])),
        picked,
        wide.pick(some),
        best.one_hot(3),
        some.one_hot(3),
        few.reshape([3, 1]).one_hot(2),
        best.one_hot(5),
        // The row of NaN is left out: its gradient is 0, and no row of the table gets it.
        (known.where_(gathered.sum(&[1], false), 0.0) * weights).sum_all().grad(&[table_t])[0],
        (known.where_(picked, 0.0) * weights).sum_all().grad(&[wide])[0],
        // It is not left out, but the gradient is the same.
        (gathered.sum(&[1], false) * weights).sum_all().grad(&[table_t])[0],
        (picked * weights).sum_all().grad(&[wide])[0],
    ];
    let x = Host::new([4, 3], (1..=12).map(|k| k as f32).collect());
    let got = device.compile(&outputs)?.run(&[scores, table, labels, x])?;
    let want: [&[f32]; 13] = [
        &[3.0, 4.0, N, N, 5.0, 6.0, 1.0, 2.0],
        &[3.0, 4.0, N, N, 5.0, 6.0, 1.0, 2.0],
        &[3.0, 4.0, N, N, 5.0, 6.0, 1.0, 2.0],
        &[2.0, N, 9.0, 10.0],
        &[2.0, N, 9.0, 10.0],
        &[0.0, 1.0, 0.0, N, N, N, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
        &[0.0, 1.0, 0.0, N, N, N, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
        &[N, N, 0.0, 1.0, N, N],
        &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        &[4.0, 4.0, 1.0, 1.0, 3.0, 3.0],
        &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0],
        &[4.0, 4.0, 1.0, 1.0, 3.0, 3.0],
        &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0],
    ];
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        same(&format!("output {k}"), got.f(), want);
    }
    Ok(())
}

fn training(device: &Device) -> Check {
    let g = Graph::training();
    let code = g.input([2, 6]).argmax(1);
    let words = code.embedding("words", 4, 3);
    let mut trainer = Trainer::new(device, words.square().mean_all(), Adam::new(0.1))?;
    let at = |a: usize, b: usize| Host::new([2, 6], (0..12).map(|k| if k == a || k == 6 + b { 1.0 } else { 0.0 }).collect());
    trainer.step(&[at(0, 3)])?;
    trainer.loss()?;
    let before = weights(&trainer)?;
    trainer.step(&[at(1, 5)])?;
    let (step, what) = diverged(trainer.loss());
    assert_eq!((step, what.as_str()), (1, "loss"));
    assert_eq!(weights(&trainer)?, before);
    // A loss on labels that were cut out of others.
    let g = Graph::training();
    let labels = g.labels([4]).slice(0, 0, 3);
    let log_p = g.input([3, 5]).linear("fc", 3).log_softmax(1);
    let mut trainer = Trainer::new(device, -log_p.pick(labels).mean_all(), Sgd::new(0.1))?;
    let x = Host::new([3, 5], (0..15).map(|k| k as f32 * 0.1).collect());
    trainer.step(&[Host::labels([4], vec![0, 2, 1, 9]), x.clone()])?;
    trainer.loss()?;
    trainer.step(&[Host::labels([4], vec![0, 3, 1, 0]), x])?;
    assert_eq!(diverged(trainer.loss()).0, 1);
    Ok(())
}
