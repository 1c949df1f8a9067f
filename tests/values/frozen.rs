//! Parameters that are frozen: what is not computed, kept or moved for them, and what is told.

use crate::common::{Check, On, Suite, bits, grid, inner, weights};
use downhill::{
    Device, Error, Graph, Host, Trainer,
    gpu::GpuOptions,
    init::Init,
    optim::{Adagrad, Adam, AdamW, GroupOptions, Optimizer, RmsProp, Sgd},
    testing,
};
use serde_json::Value;

const ALL: [On; 4] = [On::Cpu, On::Gpu, On::Checked, On::Pieces];
const NONE: [&str; 0] = [];

pub fn trials(suite: &mut Suite) {
    suite.each(&ALL, "frozen parameters are PyTorch's without requires_grad", pytorch);
    suite.each(&ALL, "nothing is computed for a frozen parameter alone", plans);
    suite.each(&ALL, "nothing is kept for a frozen parameter", memory);
    suite.each(&ALL, "frozen for twenty steps", stays);
    suite.each(&ALL, "frozen by parameter, layer, block and group", names);
    suite.each(&[On::Cpu], "what cannot be frozen", errors);
    suite.each(&[On::Cpu, On::Gpu], "checkpoints with frozen parameters", checkpoints);
    suite.each(&[On::Cpu, On::Gpu], "gradients and values of a frozen parameter", asked);
}

const SIZES: [(&str, usize, usize); 3] = [("fc1", 8, 5), ("fc2", 8, 8), ("fc3", 3, 8)];

fn mlp(device: &Device, optimizer: Optimizer) -> Result<Trainer, Error> {
    let g = Graph::training();
    let x = g.input([6, 5]);
    let y = x.linear("fc1", 8).tanh().linear("fc2", 8).tanh().linear("fc3", 3);
    let trainer = Trainer::new(device, y.mse(g.input([6, 3])), optimizer)?;
    let mut start = Vec::new();
    for (i, (layer, n, m)) in SIZES.into_iter().enumerate() {
        start.push((format!("{layer}.weight"), Host::new([n, m], grid(n * m, 37, 11 * i, 61))));
        start.push((format!("{layer}.bias"), Host::new([n], grid(n, 29, 7 * i, 23))));
    }
    trainer.params().set_all(&start)?;
    Ok(trainer)
}

fn batch(step: usize) -> [Host<f32>; 2] {
    [Host::new([6, 5], grid(30, 53, 19 * step, 97)), Host::new([6, 3], grid(18, 31, 5 * step, 41))]
}

fn numbers(json: &Value) -> Vec<f64> {
    json.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

fn pytorch(device: &Device) -> Check {
    let json: Value = serde_json::from_str(include_str!("../golden/values_steps.json"))?;
    let cases = json["frozen"].as_array().expect("a list of cases");
    assert_eq!(cases.len(), 12);
    for case in cases {
        let still: Vec<&str> = case["frozen"].as_array().expect("names").iter().map(|name| name.as_str().expect("a name")).collect();
        let rule: Optimizer = match case["optimizer"].as_str().expect("a name") {
            "Adam" => Adam::new(0.01).into(),
            "AdamW" => AdamW::new(0.01).weight_decay(0.1).decay_all(),
            _ => Sgd::new(0.05).momentum(0.9).into(),
        };
        let what = format!("{rule:?}, frozen {still:?}");
        let rule = case["clip_norm"].as_f64().into_iter().fold(rule, |rule, max| rule.clip_norm(max));
        let mut trainer = mlp(device, rule.freeze(still.clone()))?;
        let start = trainer.params().all()?;
        (0..20).try_for_each(|step| trainer.step(&batch(step)))?;
        let losses: Vec<f64> = trainer.take_reports()?.iter().map(|r| f64::from(r.loss)).collect();
        // The tolerance covers the rounding of twenty steps of sums over samples and layers.
        testing::close(&losses, &numbers(&case["losses"]), 20 * 64).map_err(|e| format!("{what}: {e}"))?;
        for (name, before) in start {
            let after = trainer.params().get(&name)?;
            let is_still = still.iter().any(|s| *s == name || name.strip_suffix(".weight").or(name.strip_suffix(".bias")) == Some(s));
            assert_eq!(bits(before.f()) == bits(after.f()), is_still, "{what}: {name}");
            testing::close(&after.to_f64(), &numbers(&case["after"][&name]), 20 * 64).map_err(|e| format!("{what}: {name}: {e}"))?;
        }
    }
    Ok(())
}

const DEEP: usize = 6;

/// Layers of one size, `fc1` first.
fn chain(device: &Device, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    let g = Graph::training();
    let y = (1..=DEEP).fold(g.input([64, 64]), |x, k| x.linear(&format!("fc{k}"), 64).tanh());
    Trainer::new(device, y.square().mean_all(), optimizer)
}

fn layers(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|k| format!("fc{k}")).collect()
}

/// The work of a step.
struct Work {
    /// Products of matrices.
    products: usize,
    /// All lines of the plan but those of the update.
    lines: usize,
    mflop: f64,
    /// The parameters that have a gradient.
    grads: Vec<usize>,
}

fn work(trainer: &Trainer) -> Result<Work, Box<dyn std::error::Error>> {
    let (text, summary) = (trainer.plan_text(), trainer.summary(64)?);
    let line = summary.lines().find(|line| line.contains(" MFLOP a step")).ok_or("a line of all operations")?;
    let mflop = line.split(" MFLOP").next().and_then(|start| start.rsplit(' ').next()).ok_or("a number")?.parse()?;
    let grads = (0..2 * DEEP).filter(|i| text.contains(&format!("Grad({i})"))).collect();
    let lines = text.lines().filter(|line| !line.starts_with("update")).count();
    Ok(Work { products: text.lines().filter(|line| line.starts_with("matmul")).count(), lines, mflop, grads })
}

fn plans(device: &Device) -> Check {
    // Each layer needs three products: forward, the gradient of its weights and the gradient of its input. The first layer has no
    // gradient of its input.
    let all = work(&chain(device, Adam::new(0.1))?)?;
    assert_eq!((all.products, &all.grads), (3 * DEEP - 1, &(0..2 * DEEP).collect()));
    let product = 2.0 * 64f64.powi(3) / 1e6;
    let mut before = all.lines;
    for k in 1..DEEP {
        let still = chain(device, Adam::new(0.1).freeze(layers(1..=k)))?;
        let Work { products, lines, mflop, grads } = work(&still)?;
        // Frozen layers have no backward pass: no gradient of a weight and no gradient of an input.
        assert_eq!((products, grads), (3 * DEEP - 1 - 2 * k, (2 * k..2 * DEEP).collect()), "{k} layers:\n{}", still.plan_text());
        assert!(lines + 3 <= before, "{k} layers: {lines} lines after {before}");
        let saved = all.mflop - mflop;
        assert!(saved > 2.0 * k as f64 * product - 0.1 && saved < 2.2 * k as f64 * product, "{k} layers: {saved} MFLOP fewer");
        assert!(still.summary(64)?.contains(&format!(" trained, {} frozen)", k * 65 * 64)));
        before = lines;
    }
    // Freezing a layer in the middle, or the last layer, saves only the gradient of its weights.
    for k in [3, DEEP] {
        let Work { products, grads, .. } = work(&chain(device, Adam::new(0.1).freeze(layers(k..=k)))?)?;
        let others: Vec<usize> = (0..2 * DEEP).filter(|i| i / 2 + 1 != k).collect();
        assert_eq!((products, grads), (3 * DEEP - 2, others), "layer {k}");
    }
    // A bias alone: the other gradients of the layer are there.
    let grads = work(&chain(device, Adam::new(0.1).freeze(["fc2.bias"]))?)?.grads;
    assert_eq!(grads, (0..2 * DEEP).filter(|&i| i != 3).collect::<Vec<_>>());
    assert!(!chain(device, Adam::new(0.1))?.summary(64)?.contains("frozen"));
    Ok(())
}

fn memory(device: &Device) -> Check {
    // A device of its own, on which nothing else is made meanwhile.
    let own = match device.as_gpu() {
        None => device.clone(),
        Some(gpu) => Device::open(&GpuOptions { name: Some(device.name()), ..gpu.options().clone() })?,
    };
    let made = || own.as_gpu().map_or(0, |_| inner(&own).buffers_made().1);
    let layer = 4 * (64 * 64 + 64);
    for (still, rule) in [
        (layers(1..=4), Adam::new(0.1).amsgrad(true).into()),
        (layers(3..=3), Adam::new(0.1).into()),
        (layers(2..=6), Optimizer::from(Sgd::new(0.1))),
        (vec!["fc3.weight".to_string(), "fc4.bias".to_string()], Sgd::new(0.1).momentum(0.9).into()),
    ] {
        let (states, what) = (rule.states().len() as u64, format!("{rule:?}, {still:?}"));
        let before = made();
        let mut trainer = chain(&own, rule.freeze(still.clone()))?;
        let memory = trainer.memory(64)?;
        let frozen: u64 = still
            .iter()
            .map(|name| {
                if name.contains("weight") {
                    layer - 256
                } else if name.contains("bias") {
                    256
                } else {
                    layer
                }
            })
            .sum();
        let all = DEEP as u64 * layer;
        assert_eq!((memory.weights, memory.gradients, memory.state), (all, all - frozen, 0), "{what}");
        assert_eq!(memory.optimizer.iter().map(|s| s.1).collect::<Vec<_>>(), vec![all - frozen; states as usize], "{what}");
        let rows: u64 = memory.layers.iter().map(|l| l.parameters).sum();
        assert_eq!(rows, all + (all - frozen) * (1 + states), "{what}");
        trainer.step(&[Host::new([64, 64], grid(4096, 37, 5, 61))])?;
        trainer.loss()?;
        if device.as_gpu().is_some() {
            assert_eq!(made() - before, memory.total(), "{what}:\n{memory}");
        }
    }
    Ok(())
}

/// A frozen layer with a frozen batch norm behind it, whose state goes on; its gradients would be huge.
fn stays(device: &Device) -> Check {
    let rules: [Optimizer; 5] = [
        Sgd::new(0.1).momentum(0.9).weight_decay(0.5).decay_all(),
        Adam::new(0.1).weight_decay(0.5).decay_all(),
        AdamW::new(0.1).weight_decay(0.5).decay_all(),
        RmsProp::new(0.01).weight_decay(0.5).decay_all(),
        Adagrad::new(0.1).weight_decay(0.5).decay_all(),
    ];
    for rule in rules {
        let g = Graph::training();
        let x = g.input([6, 5]);
        let y = x.linear("fc1", 7).tanh().linear("fc2", 8).batch_norm("bn").tanh().linear("fc3", 3);
        // ∂/∂big is 1e30.
        let big = (g.param("big", [4], Init::Zeros) * 1e30).sum_all();
        let still = ["fc2", "bn", "big"];
        let what = format!("{rule:?}");
        let mut trainer = Trainer::new(device, y.mse(g.input([6, 3])) + big, rule.freeze(still).clip_norm(0.5))?;
        let before = trainer.params().all()?;
        (0..20).try_for_each(|step| trainer.step(&batch(step)))?;
        let reports = trainer.take_reports()?;
        assert!(reports.iter().all(|r| r.grad_norm > 0.0 && r.grad_norm < 100.0 && r.grad_max <= r.grad_norm), "{what}");
        for ((name, before), (_, after)) in before.iter().zip(trainer.params().all()?) {
            let is_still = still.iter().any(|s| name.starts_with(s)) && !name.contains("running");
            assert_eq!(bits(before.f()) == bits(after.f()), is_still, "{what}: {name}");
        }
    }
    // The first step of plain descent is as long as the norm allows, whatever the frozen gradient is.
    let g = Graph::training();
    let [w, big] = ["w", "big"].map(|name| g.param(name, [4], Init::Zeros));
    let mut trainer = Trainer::new(device, (w * 3.0 + big * 1e30).sum_all(), Sgd::new(1.0).freeze(["big"]).clip_norm(0.5))?;
    trainer.step(&[])?;
    let report = trainer.take_reports()?.remove(0);
    assert_eq!((report.grad_norm, report.grad_max), (6.0, 3.0));
    assert!(trainer.params().get("w")?.f().iter().all(|w| (w + 0.25).abs() < 1e-6));
    Ok(())
}

/// One step of plain descent on Σ of everything, from 2: 1.5 where the rate is 0.5.
fn names(device: &Device) -> Check {
    let all = ["block.a.weight", "block.a.bias", "block.b.weight", "blocks.weight", "head.weight", "head.bias", "alone"];
    let step = |optimizer: Optimizer| -> Result<Vec<f32>, Error> {
        let g = Graph::training();
        let sums = all.map(|name| g.param(name, [3, 2], Init::Constant(2.0)).sum_all());
        let mut trainer = Trainer::new(device, sums.into_iter().reduce(|a, b| a + b).expect("some"), optimizer)?;
        trainer.step(&[])?;
        trainer.loss()?;
        all.iter().map(|name| Ok(trainer.params().get(name)?.f()[5])).collect()
    };
    let sgd = || Optimizer::from(Sgd::new(0.5));
    let group = |o: Optimizer, start: &'static str, lr_scale| {
        o.group(move |n| n.starts_with(start), GroupOptions { lr_scale, ..Default::default() })
    };
    assert_eq!(step(sgd())?, [1.5; 7]);
    assert_eq!(step(sgd().freeze(NONE))?, [1.5; 7]);
    assert_eq!(step(sgd().freeze(["block.a.bias"]))?, [1.5, 2.0, 1.5, 1.5, 1.5, 1.5, 1.5]);
    assert_eq!(step(sgd().freeze(["block.a"]))?, [2.0, 2.0, 1.5, 1.5, 1.5, 1.5, 1.5]);
    // A block of layers, and not what only begins alike.
    assert_eq!(step(sgd().freeze(["block"]))?, [2.0, 2.0, 2.0, 1.5, 1.5, 1.5, 1.5]);
    assert_eq!(step(sgd().freeze(["block.b"]).freeze(["alone", "head.bias"]).freeze(["alone"]))?, [1.5, 1.5, 2.0, 1.5, 1.5, 2.0, 2.0]);
    assert_eq!(step(group(sgd(), "block.", 0.0))?, [2.0, 2.0, 2.0, 1.5, 1.5, 1.5, 1.5]);
    // The first group that matches counts, and a name counts beside every group.
    let both = group(group(sgd(), "block.a", 0.5), "block", 0.0).freeze(["head", "block.a.bias"]);
    assert_eq!(step(both)?, [1.75, 2.0, 2.0, 2.0, 2.0, 2.0, 1.5]);
    assert_eq!(step(group(sgd(), "head", 0.5).freeze(["head"]))?, [1.5, 1.5, 1.5, 1.5, 2.0, 2.0, 1.5]);
    // −0 is 0.
    assert_eq!(step(group(sgd(), "alone", -0.0))?[6], 2.0);
    Ok(())
}

fn errors(device: &Device) -> Check {
    let told = |optimizer: Optimizer| {
        let g = Graph::training();
        let y = g.input([6, 5]).linear("fc1", 8).batch_norm("bn").linear("fc2", 3);
        g.param("unused", [2], Init::Ones);
        match Trainer::new(device, y.square().mean_all(), optimizer).err() {
            Some(error @ (Error::Argument { .. } | Error::Op { .. })) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let sgd = || Optimizer::from(Sgd::new(0.1));
    let zero = GroupOptions { lr_scale: 0.0, ..Default::default() };
    let all = "fc1.weight, fc1.bias, bn.weight, bn.bias, fc2.weight, fc2.bias, unused";
    for (optimizer, want) in [
        (
            sgd().freeze(["fc1", "bn", "fc2", "unused"]),
            format!("Sgd: every parameter is frozen, so there is nothing to train; leave one of them out; the names are {all}"),
        ),
        (
            sgd().group(|_| true, zero),
            format!("Sgd: every parameter is frozen, so there is nothing to train; leave one of them out; the names are {all}"),
        ),
        (sgd().freeze(["fc1", "unused"]).group(|_| true, zero), "Sgd: every parameter is frozen".into()),
        (
            sgd().freeze(["fc1"]).freeze(["fc"]),
            format!("Sgd: freeze names `fc`, and there is no parameter or layer of that name; the names are {all}"),
        ),
        (sgd().freeze(["fc1."]), "Sgd: freeze names `fc1.`, and there is no".into()),
        (sgd().freeze([""]), "Sgd: freeze names ``, and there is no".into()),
        (
            sgd().freeze(["bn.running_mean"]),
            "Sgd: freeze names `bn.running_mean`, which is state: no optimizer changes it; leave the name out".into(),
        ),
        (
            sgd().group(|name| name == "fc3", zero),
            format!("Sgd: group 0 (counted from 0) has no parameter: no name matches, or earlier groups match them; the names are {all}"),
        ),
        (sgd().group(|name| name.contains("running"), zero), "Sgd: group 0 (counted from 0) has no parameter".into()),
        // The loss depends on none of the remaining parameters.
        (sgd().freeze(["fc1", "bn", "fc2"]), "loss: []: it depends on no trained parameter (unused), so there is nothing to train".into()),
    ] {
        let told = told(optimizer);
        assert!(told.starts_with(&want), "{told}\ninstead of\n{want}");
    }
    Ok(())
}

fn checkpoints(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model");
    let new = |still: &[&str]| mlp(device, Adam::new(0.01).freeze(still.iter().copied()));
    let mut from = new(&["fc1"])?;
    (0..3).try_for_each(|step| from.step(&batch(step)))?;
    from.save(&path)?;
    let mut same = new(&["fc1"])?;
    same.params().set("fc1.bias", &Host::new([8], vec![9.0; 8]))?;
    same.load(&path)?;
    for step in 3..6 {
        from.step(&batch(step))?;
        same.step(&batch(step))?;
    }
    assert_eq!((weights(&same)?, same.steps()), (weights(&from)?, 6));
    for (still, parts) in [
        // More, fewer and others than in the file.
        (
            &["fc1", "fc2"][..],
            ["it contains `optimizer.mean.fc2.bias`", "frozen was fc1.weight fc1.bias and is fc1.weight fc1.bias fc2.weight fc2.bias now"],
        ),
        (&[], ["parameter optimizer.mean.fc1.weight: not in ", "frozen was fc1.weight fc1.bias and is none now"]),
        (&["fc2"], ["parameter optimizer.mean.fc1.weight: not in ", "frozen was fc1.weight fc1.bias and is fc2.weight fc2.bias now"]),
    ] {
        let mut to = new(still)?;
        let before = weights(&to)?;
        let error = to.load(&path).expect_err("others are frozen");
        assert!(matches!(error, Error::Format { .. } | Error::Parameter { .. }), "{error:?}");
        let text = error.to_string();
        assert!(parts.iter().all(|part| text.contains(part)) && text.ends_with("Params::load takes the weights alone"), "{text}");
        assert_eq!((to.steps(), weights(&to)?), (0, before), "nothing is changed");
        to.params().load(&path)?;
        to.step(&batch(0))?;
        to.loss()?;
    }
    // An optimizer without states loses nothing.
    let sgd = |still: &[&str]| mlp(device, Sgd::new(0.01).freeze(still.iter().copied()));
    let mut from = sgd(&["fc1"])?;
    from.step(&batch(0))?;
    from.save(&path)?;
    let mut to = sgd(&["fc3.bias"])?;
    to.load(&path)?;
    assert_eq!((to.steps(), weights(&to)?), (1, weights(&from)?));
    Ok(())
}

fn asked(device: &Device) -> Check {
    let mut trainer = mlp(device, Adam::new(0.01).freeze(["fc1", "fc3.bias"]))?;
    trainer.step(&batch(0))?;
    let before = weights(&trainer)?;
    let refused = |error: Result<(), Error>, wanted: &str| match error {
        Err(Error::Parameter { name, why }) => {
            assert!(name == wanted && why.contains("it is frozen") && why.contains("Optimizer::freeze"), "{why}")
        }
        other => panic!("{other:?}"),
    };
    for name in ["fc1.weight", "fc1.bias", "fc3.bias"] {
        refused(trainer.gradient(name).map(drop), name);
        let given = trainer.params().get(name)?;
        refused(trainer.apply_gradients(&[("fc2.bias", Host::new([8], vec![1.0; 8])), (name, given)]), name);
    }
    assert_eq!((trainer.steps(), weights(&trainer)?), (1, before));
    assert_eq!(trainer.gradient("fc2.weight")?.shape.dims(), &[8, 8]);
    // Setting a parameter has an effect, as in a trainer without frozen parameters.
    let mut free = mlp(device, Adam::new(0.01).into())?;
    let value = Host::new([8, 5], grid(40, 17, 3, 59));
    let mut trainer = mlp(device, Adam::new(0.01).freeze(["fc1"]))?;
    let old = trainer.params().get("fc1.weight")?;
    for trainer in [&mut free, &mut trainer] {
        trainer.params().set("fc1.weight", &value)?;
        trainer.step(&batch(1))?;
    }
    assert!(old.f() != value.f());
    let (got, want) = (trainer.loss()?, free.loss()?);
    assert!((got - want).abs() <= 1e-6 * want, "{got} instead of {want}");
    assert_eq!(trainer.params().get("fc1.weight")?.f(), value.f());
    Ok(())
}
