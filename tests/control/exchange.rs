//! Another optimizer in the middle of a training, and models that follow others.

use crate::{
    common::{BOTH, Check, On, Suite, bits, weights},
    digits, numbers,
};
use downhill::{
    Device, Error, Fit, Graph, Host, Trainer,
    init::Init,
    optim::{Adam, GroupOptions, Optimizer, Schedule, Sgd},
    plan::Memory,
};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "another optimizer equals a new trainer", another);
    suite.each(&BOTH, "another optimizer for one graph", graph);
    suite.each(&BOTH, "another optimizer is saved", saved);
    suite.each(&BOTH, "another optimizer after a bad step", after_bad);
    suite.each(&[On::Cpu, On::Gpu, On::Pieces], "a model follows another softly", soft);
    suite.on(On::Gpu, "a model follows another on the device", soft_on_the_device);
    suite.each(&BOTH, "two models follow each other at once", crosswise);
}

/// No dropout: its masks depend on the number of the step.
fn model(device: &Device, o: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(
        device,
        &digits(4),
        |x| x.flatten().linear("fc1", 12).batch_norm("norm").relu().linear("fc2", 10),
        |x, y| x.cross_entropy(y),
        o,
    )
}

fn optimizers() -> Vec<Optimizer> {
    let sgd = || Sgd::new(0.1).momentum(0.9).schedule(Schedule::warmup(3).then(Schedule::cosine(20)));
    vec![
        sgd(),
        sgd().clip_norm(0.5).freeze(["fc1"]),
        Adam::new(0.01).amsgrad(true).group(|name| name.starts_with("fc2"), GroupOptions { lr_scale: 0.1, ..GroupOptions::default() }),
        Adam::new(0.01).ema(0.8),
    ]
}

fn another(device: &Device) -> Check {
    let data = digits(40);
    // Without a shuffle, which depends on the number of the epoch.
    let fit = || Fit::new().epochs(2).batch_size(8).shuffle(false);
    for next in optimizers() {
        let mut trainer = model(device, Adam::new(0.02))?;
        trainer.fit(&data, fit())?;
        trainer.evaluate(&data)?;
        let mut fresh = model(device, next.clone())?;
        fresh.params().copy_from(&trainer.params(), |_| true)?;
        let before = weights(&trainer)?;
        trainer.set_optimizer(next)?;
        assert_eq!((weights(&trainer)?, trainer.steps(), trainer.lr()), (before, 10, fresh.lr()));
        assert_eq!(trainer.evaluate(&data)?.loss, fresh.evaluate(&data)?.loss);
        let (a, b) = (trainer.fit(&data, fit())?, fresh.fit(&data, fit())?);
        assert_eq!((numbers(&a), weights(&trainer)?, trainer.lr()), (numbers(&b), weights(&fresh)?, fresh.lr()));
        assert_eq!(trainer.take_reports()?.iter().map(|r| r.step).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert_eq!(trainer.memory(8)?.optimizer, fresh.memory(8)?.optimizer);
        if let Ok(averaged) = fresh.averaged() {
            let want = averaged.params().all()?;
            assert_eq!(trainer.averaged()?.params().all()?, want);
        }
        // With micro-batches, and once more.
        trainer.set_optimizer(Sgd::new(0.05))?;
        fresh.set_optimizer(Sgd::new(0.05))?;
        let (a, b) = (trainer.fit(&data, fit().accumulate(2))?, fresh.fit(&data, fit().accumulate(2))?);
        assert_eq!((numbers(&a), weights(&trainer)?), (numbers(&b), weights(&fresh)?));
    }
    // What does not fit changes nothing.
    let mut trainer = model(device, Adam::new(0.02))?;
    trainer.fit(&data, fit())?;
    let before = (weights(&trainer)?, trainer.lr());
    let cases: [(Optimizer, &str); 4] = [
        (Sgd::new(-1.0).into(), "Sgd: the learning rate is -1"),
        (Sgd::new(0.1).freeze(["fc3"]), "Sgd: freeze names `fc3`"),
        (Sgd::new(0.1).group(|name| name == "fc3", GroupOptions::default()), "Sgd: group 0"),
        (Sgd::new(0.1).freeze(["fc1", "fc2", "norm"]), "Sgd: every parameter is frozen"),
    ];
    for (bad, want) in cases {
        let error = trainer.set_optimizer(bad).err().map_or(String::new(), |e| e.to_string());
        assert!(error.starts_with(want), "`{error}` instead of `{want}`");
        assert_eq!((weights(&trainer)?, trainer.lr()), before);
    }
    trainer.fit(&data, fit())?;
    Ok(())
}

fn graph(device: &Device) -> Check {
    let batch = [Host::new([4, 3], (0..12).map(|k| k as f32 / 12.0).collect())];
    let new = |o: Optimizer| {
        let g = Graph::training();
        let loss = g.input([4, 3]).linear("a", 5).tanh().linear("b", 2).square().mean_all();
        let memory = Memory::of(device, loss, o.clone())?.total();
        Trainer::new(device, loss, o).map(|trainer| (trainer, memory))
    };
    let (mut trainer, _) = new(Adam::new(0.1).freeze(["a.bias"]))?;
    trainer.step(&batch)?;
    trainer.accumulate(&batch)?;
    let waits = trainer.set_optimizer(Sgd::new(0.1).freeze(["a.bias"])).err().map_or(String::new(), |e| e.to_string());
    assert!(waits.starts_with("set_optimizer: micro-batches are accumulated"), "{waits}");
    trainer.step(&batch)?;
    let next = || Sgd::new(0.1).momentum(0.5).freeze(["a.bias"]);
    let (mut fresh, memory) = new(next())?;
    fresh.params().copy_from(&trainer.params(), |_| true)?;
    trainer.set_optimizer(next())?;
    assert!(trainer.summary(4)?.contains("optimizer `momentum`") && !trainer.summary(4)?.contains("optimizer `mean`"));
    assert_eq!((trainer.memory(4)?.total(), trainer.summary(4)?), (memory, fresh.summary(4)?));
    assert!(trainer.step_again().is_err(), "the batch is gone");
    for _ in 0..3 {
        trainer.step(&batch)?;
        fresh.step(&batch)?;
    }
    assert_eq!(weights(&trainer)?, weights(&fresh)?);
    let error = trainer.set_optimizer(Sgd::new(0.1).freeze(["b"])).err().map_or(String::new(), |e| e.to_string());
    assert!(error.starts_with("set_optimizer: a.bias, b.weight, b.bias would be frozen or trained unlike before"), "{error}");
    trainer.step(&batch)?;
    trainer.loss()?;
    Ok(())
}

/// A checkpoint knows when the optimizer came.
fn saved(device: &Device) -> Check {
    let (data, folder) = (digits(40), tempfile::tempdir()?);
    let (path, fit) = (folder.path().join("saved"), || Fit::new().epochs(1).batch_size(8));
    let next = || Adam::new(0.01).schedule(Schedule::warmup(20));
    let mut whole = model(device, Sgd::new(0.1))?;
    whole.fit(&data, fit())?;
    whole.set_optimizer(next())?;
    whole.fit(&data, fit())?;
    whole.save(&path)?;
    let mut other = model(device, next())?;
    other.load(&path)?;
    assert_eq!((other.steps(), other.lr()), (10, whole.lr()));
    let (a, b) = (whole.fit(&data, fit())?, other.fit(&data, fit())?);
    assert_eq!((numbers(&a), weights(&whole)?), (numbers(&b), weights(&other)?));
    // A checkpoint of a trainer with one optimizer, and a seed, set the count back.
    let mut first = model(device, next())?;
    first.fit(&data, fit())?;
    first.save(&path)?;
    other.load(&path)?;
    assert_eq!(other.lr(), first.lr());
    let other = other.seed(0)?;
    assert_eq!(other.lr(), model(device, next())?.lr());
    Ok(())
}

fn after_bad(device: &Device) -> Check {
    let g = Graph::training();
    let loss = (g.param("w", [70], Init::Constant(0.5)) * g.input([70])).sum_all();
    let (good, bad) = ([Host::new([70], vec![0.5; 70])], [Host::new([70], vec![f32::MAX; 70])]);
    let mut trainer = Trainer::new(device, loss, Adam::new(0.1))?;
    trainer.step(&good)?;
    trainer.step(&bad)?;
    // The error of the bad step comes first, and once.
    assert!(matches!(trainer.set_optimizer(Sgd::new(0.1)), Err(Error::Diverged { step: 1, .. })));
    trainer.set_optimizer(Sgd::new(0.1))?;
    let before = trainer.params().get("w")?;
    trainer.step(&good)?;
    assert_eq!((trainer.steps(), trainer.params().get("w")?.f()[0]), (2, before.f()[0] - 0.1 * 0.5));
    trainer.step(&bad)?;
    assert!(matches!(trainer.loss(), Err(Error::Diverged { step: 2, .. })));
    Ok(())
}

fn pair(device: &Device) -> Result<[Trainer; 2], Error> {
    // The second one has another order and another layer, so that the places differ.
    let g = Graph::training();
    let x = g.input([4, 100]).linear("a", 160).linear("b", 100).batch_norm("norm").linear("c", 7);
    let h = Graph::training();
    let y = h.input([4, 130]).linear("other", 100).linear("a", 160).linear("b", 100).batch_norm("norm");
    Ok([
        Trainer::new(device, x.square().mean_all(), Sgd::new(0.1).ema(0.5))?,
        Trainer::new(device, y.square().mean_all(), Adam::new(0.1).freeze(["a"]))?.seed(7)?,
    ])
}

fn soft(device: &Device) -> Check {
    let [mut target, mut network] = pair(device)?;
    target.step(&[Host::new([4, 100], (0..400).map(|k| (k % 17) as f32 / 17.0).collect())])?;
    network.step(&[Host::new([4, 130], (0..520).map(|k| (k % 13) as f32 / 13.0).collect())])?;
    for tau in [0.005, 0.5, 0.75, 0.0, 1.0] {
        let before = target.params().all()?;
        let moves = |name: &str| name != "b.bias";
        // a.weight, a.bias, b.weight, four of the norm.
        assert_eq!(target.params().soft_update(&network.params(), tau, moves)?, 7);
        for ((name, was), (_, is)) in before.iter().zip(&target.params().all()?) {
            let Some(from) = network.params().get(name).ok().filter(|_| moves(name)) else {
                assert_eq!(was, is, "{name} has no other, or is left out");
                continue;
            };
            if tau == 0.0 || tau == 1.0 {
                assert_eq!(bits(is.f()), bits(if tau == 0.0 { was.f() } else { from.f() }), "{name} at {tau}");
            }
            for (i, ((was, from), is)) in was.to_f64().iter().zip(from.to_f64()).zip(is.to_f64()).enumerate() {
                let want = (1.0 - tau) * was + tau * from;
                let most = 4.0 * f64::from(f32::EPSILON) * (was.abs() + from.abs());
                assert!((is - want).abs() <= most, "{name} {i} at {tau}: {is} instead of {want}");
            }
        }
    }
    // A model follows averages, and its own averages.
    let mut f = target.averaged()?.compile(&[{
        let g = Graph::inference();
        Box::leak(Box::new(g)).input([1, 100]).linear("a", 160)
    }])?;
    network.params().soft_update(&f.params(), 1.0, |_| true)?;
    assert_eq!(network.params().get("a.weight")?, target.averaged()?.params().get("a.weight")?);
    target.params().soft_update(&f.params(), 1.0, |_| true)?;
    assert_eq!(target.params().get("a.weight")?, network.params().get("a.weight")?);
    f.run(&[Host::new([1, 100], vec![0.5; 100])])?;
    for (tau, want) in [(-0.1, "tau is -0.1"), (1.5, "tau is 1.5"), (f64::NAN, "tau is NaN")] {
        let error = target.params().soft_update(&network.params(), tau, |_| true).err().map_or(String::new(), |e| e.to_string());
        assert_eq!(error, format!("soft_update: {want}, but must be in 0..=1"));
    }
    let none = target.params().soft_update(&network.params(), 0.5, |name| name == "c.bias").err().map_or(String::new(), |e| e.to_string());
    assert_eq!(none, "soft_update: the models have none of these parameters in common");
    target.step(&[Host::new([4, 100], vec![0.5; 400])])?;
    target.loss()?;
    Ok(())
}

/// Two threads copy between the same models, each in one direction. Neither waits for ever, and a parameter is of one of the models.
fn crosswise(device: &Device) -> Check {
    let [a, b] = pair(device)?;
    let old = [a.params().get("a.weight")?, b.params().get("a.weight")?];
    let copy =
        |to: &Trainer, from: &Trainer| (0..50).try_for_each(|_| to.params().copy_from(&from.params(), |name| name == "a.weight").map(drop));
    std::thread::scope(|s| {
        let other = s.spawn(|| copy(&a, &b));
        copy(&b, &a)?;
        other.join().expect("it does not panic")
    })?;
    for model in [&a, &b] {
        assert!(old.contains(&model.params().get("a.weight")?));
    }
    Ok(())
}

fn soft_on_the_device(device: &Device) -> Check {
    let [target, network] = pair(device)?;
    let before = (target.counters().ok_or("a GPU")?, network.counters().ok_or("a GPU")?);
    target.params().soft_update(&network.params(), 0.5, |_| true)?;
    assert_eq!((target.counters().ok_or("a GPU")?, network.counters().ok_or("a GPU")?), before, "nothing is read or uploaded");
    Ok(())
}
