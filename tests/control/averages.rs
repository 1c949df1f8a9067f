//! Averages of the weights: `tests/golden.rs` compares them with PyTorch's.

use crate::{
    classifier,
    common::{BOTH, Check, On, Suite, bits, weights},
    digits,
};
use downhill::{
    Checkpoints, Device, Epoch, Error, Fit, Graph, Host, Trainer,
    init::Init,
    optim::{Adafactor, Adam, GroupOptions, Muon, Optimizer, Sgd},
    plan::Memory,
    train::{Callback, Run},
};

/// The devices, among them one that cuts the model into pieces, with the eight buffers that WebGPU promises.
const ALL: [On; 4] = [On::Cpu, On::Gpu, On::Webgpu, On::Pieces];

pub fn trials(suite: &mut Suite) {
    suite.each(&ALL, "averages of a model with groups and pieces", definition);
    suite.each(&BOTH, "averages leave the weights alone", alone);
    suite.each(&BOTH, "a view of the averages", view);
    suite.each(&BOTH, "validation with the averages", validation);
    suite.each(&BOTH, "averages after a break", resumed);
    suite.each(&BOTH, "averages and a step that is not finite", diverged);
    suite.each(&BOTH, "averages of the largest numbers", largest);
    suite.each(&BOTH, "the memory of averages", memory);
    suite.each(&BOTH, "statistics of batch norm for averages", update_bn);
    suite.on(On::Gpu, "averages do not go through the host", on_the_device);
    suite.on(On::Cpu, "options of averages", refusals);
}

type Named = Vec<(String, Vec<u32>)>;

fn averages(trainer: &mut Trainer) -> Result<Named, Error> {
    Ok(trainer.averaged()?.params().all()?.into_iter().map(|(name, value)| (name, bits(value.f()))).collect())
}

/// Every kind, over a rule with three states, over a rule that updates matrices as a whole, and over one that updates everything so.
fn kinds() -> Vec<Optimizer> {
    let adam = Adam::new(0.01).amsgrad(true).weight_decay(0.1);
    let rules = [adam.into(), Muon::new(0.01).rest(adam), Adafactor::new(0.01).into()];
    let each = |rule: Optimizer| [rule.clone().ema(0.7), rule.clone().swa(2, 2), rule.lookahead(2, 0.5)];
    rules.into_iter().flat_map(each).collect()
}

/// Averages on the host, in f64, from the weights after each step.
fn definition(device: &Device) -> Check {
    for (kind, o) in kinds().into_iter().enumerate() {
        let o = o.group(|name| name.starts_with("wide"), GroupOptions { lr_scale: 0.5, weight_decay: Some(0.2) }).freeze(["still"]);
        let g = Graph::training();
        let x = g.input([4, 40]).linear("first", 400).tanh().linear("still", 40).linear("wide", 400).batch_norm("norm").linear("last", 2);
        let mut trainer = Trainer::new(device, x.square().mean_all(), o.clip_norm(1.0))?;
        let all = |all: Vec<(String, Host<f32>)>| all.into_iter().flat_map(|(_, value)| value.to_f64()).collect::<Vec<f64>>();
        let mut want: Vec<f64> = Vec::new();
        for t in 1..=6u32 {
            let batch: Vec<f32> = (0..160).map(|k| ((k * 7 + t * 13) % 31) as f32 / 31.0 - 0.4).collect();
            trainer.accumulate(&[Host::new([4, 40], batch.iter().map(|x| x * 0.5).collect())])?;
            trainer.step(&[Host::new([4, 40], batch)])?;
            let w = all(trainer.params().all()?);
            let (share, exact) = match (kind % 3, t) {
                (_, 1) | (1 | 2, 2) => (1.0, true),
                (0, _) => (1.0f32 - 0.7, false),
                (1, 4) => (1.0 / 2.0, false),
                (1, 6) => (1.0 / 3.0, false),
                // The weights are the slow weights then.
                (2, 4 | 6) => (1.0, true),
                _ => (0.0, true),
            };
            want.resize(w.len(), 0.0);
            want.iter_mut().zip(&w).for_each(|(a, w)| *a += f64::from(share) * (w - *a));
            let got = trainer.averaged()?.params().all()?;
            for (name, value) in got.iter().filter(|(name, _)| name.starts_with("still") || name.contains("running")) {
                assert_eq!(*value, trainer.params().get(name)?, "{name} has no average");
            }
            let mut at = 0;
            for (name, value) in &got {
                let own = at..at + value.len();
                at = own.end;
                if name.starts_with("still") || name.contains("running") {
                    continue;
                }
                for (i, (got, want)) in value.to_f64().iter().zip(&mut want[own]).enumerate() {
                    let most = if exact { 0.0 } else { 4.0 * f64::from(f32::EPSILON) * (got.abs() + 0.1) };
                    assert!((got - *want).abs() <= most, "kind {kind}, step {t}, {name} {i}: {got} instead of {want}");
                    *want = *got;
                }
            }
        }
        trainer.loss()?;
    }
    Ok(())
}

fn alone(device: &Device) -> Check {
    let data = digits(50);
    let run = |o: Optimizer| -> downhill::Result<_> {
        let mut trainer = classifier(device, o)?;
        trainer.fit(&data, Fit::new().epochs(2).batch_size(8).accumulate(2))?;
        weights(&trainer)
    };
    let adam = Adam::new(0.01).amsgrad(true);
    for rule in [adam.into(), Muon::new(0.01).rest(adam), Adafactor::new(0.01).into()] {
        let rule = || Optimizer::clone(&rule);
        let want = run(rule())?;
        assert_eq!(run(rule().ema(0.9))?, want);
        assert_eq!(run(rule().swa(3, 2))?, want);
        // With a share of 1 the slow weights are the weights. With less they are not.
        assert_eq!(run(rule().lookahead(2, 1.0))?, want);
        assert_ne!(run(rule().lookahead(2, 0.5))?, want);
    }
    Ok(())
}

/// A classifier with state.
fn with_norm(device: &Device, o: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(
        device,
        &digits(4),
        |x| x.flatten().linear("fc1", 12).batch_norm("norm").relu().linear("fc2", 10),
        |x, y| x.cross_entropy(y),
        o,
    )
}

fn view(device: &Device) -> Check {
    view_of(device, Adam::new(0.02).ema(0.9))?;
    view_of(device, Muon::new(0.02).rest(Adam::new(0.02)).ema(0.9))
}

fn view_of(device: &Device, o: Optimizer) -> Check {
    let (data, folder) = (digits(50), tempfile::tempdir()?);
    let path = folder.path().join("averages.safetensors");
    let mut trainer = with_norm(device, o)?;
    let images = Host::new([3, 1, 8, 8], (0..192).map(|k| (k % 17) as f32 / 17.0).collect());
    // Before the first step the averages are the weights, also where the weights were set.
    let first = trainer.params().get("fc2.bias")?;
    trainer.params().set("fc2.bias", &Host::new(first.shape, vec![0.5; 10]))?;
    assert_eq!(averages(&mut trainer)?, weights(&trainer)?);
    trainer.fit(&data, Fit::new().epochs(2).batch_size(16))?;
    let before = weights(&trainer)?;
    assert_ne!(averages(&mut trainer)?, before);
    let plain = (trainer.evaluate(&data)?, trainer.predict(&images)?);
    let mut averaged = trainer.averaged()?;
    averaged.save(&path)?;
    let mut got = (averaged.evaluate(&data)?, averaged.predict(&images)?);
    let on = averaged.predict_on(&data)?;
    // A trainer that has the averages as its weights.
    let mut other = with_norm(device, Sgd::new(0.1))?;
    other.params().load(&path)?;
    assert_eq!(weights(&other)?, averages(&mut trainer)?);
    let mut want = (other.evaluate(&data)?, other.predict(&images)?);
    (got.0.seconds, want.0.seconds) = (0.0, 0.0);
    assert_eq!(got, want);
    assert_eq!(on.iter().next().map(|o| o.1), Some(&want.0.outputs));
    assert_ne!(got.1, plain.1);
    // The view leaves no trace.
    assert_eq!((weights(&trainer)?, trainer.predict(&images)?, trainer.evaluate(&data)?.loss), (before, plain.1, plain.0.loss));
    // A compiled function follows the averages while training goes on. Other models copy them.
    let g = Graph::inference();
    let y = g.input([3, 1, 8, 8]).flatten().linear("fc1", 12).batch_norm("norm").relu().linear("fc2", 10);
    let mut f = trainer.averaged()?.compile(&[y])?;
    trainer.fit(&data, Fit::new().batch_size(16))?;
    let now = f.run(std::slice::from_ref(&images))?.remove(0);
    assert_eq!(now, trainer.averaged()?.predict(&images)?);
    assert_ne!(now, got.1);
    other.params().copy_from(&trainer.averaged()?.params(), |_| true)?;
    assert_eq!(weights(&other)?, averages(&mut trainer)?);
    // The weights themselves take the averages, whose state they share.
    trainer.params().copy_from(&f.params(), |_| true)?;
    assert_eq!(weights(&other)?, weights(&trainer)?);
    Ok(())
}

fn validation(device: &Device) -> Check {
    /// Checks the report of each epoch.
    struct Look<'a>(&'a downhill::data::Dataset, Vec<f64>);
    impl Callback for Look<'_> {
        fn on_epoch_end(&mut self, run: &mut Run, epoch: &Epoch) -> downhill::Result<()> {
            let (averaged, plain) = (run.averaged()?.evaluate(self.0)?.loss, run.evaluate(self.0)?.loss);
            assert_ne!(averaged, plain);
            assert_eq!(epoch.validation.map(|v| v.0), Some(averaged));
            self.1.push(averaged);
            Ok(())
        }
    }
    let (data, test) = (digits(40), digits(20));
    let mut look = Look(&test, Vec::new());
    let fit = Fit::new().epochs(3).batch_size(8).validation(&test).averaged(true);
    with_norm(device, Adam::new(0.02).ema(0.8))?.fit(&data, fit.with(&mut look))?;
    assert_eq!(look.1.len(), 3);
    let refused = with_norm(device, Adam::new(0.02))?.fit(&data, Fit::new().averaged(true)).err();
    assert!(refused.is_some_and(|e| e.to_string().contains("averaged: the optimizer keeps no average")));
    Ok(())
}

fn resumed(device: &Device) -> Check {
    let data = digits(40);
    for o in kinds() {
        let fit = |epochs| Fit::new().epochs(epochs).batch_size(6).accumulate(2);
        let mut whole = classifier(device, o.clone())?;
        whole.fit(&data, fit(4))?;
        // By hand.
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("saved");
        let (mut first, mut second) = (classifier(device, o.clone())?, classifier(device, o.clone())?);
        first.fit(&data, fit(2))?;
        first.save(&path)?;
        second.load(&path)?;
        assert_eq!((weights(&second)?, averages(&mut second)?), (weights(&first)?, averages(&mut first)?));
        second.fit(&data, fit(2))?;
        assert_eq!((weights(&second)?, averages(&mut second)?), (weights(&whole)?, averages(&mut whole)?));
        // By `fit`, within an epoch.
        let folder = tempfile::tempdir()?;
        let checked = |epochs| fit(epochs).checkpoints(Checkpoints::new(folder.path()).every_steps(3)).resume(folder.path());
        classifier(device, o.clone())?.fit(&data, checked(1))?;
        let mut third = classifier(device, o.clone())?;
        third.fit(&data, checked(4))?;
        assert_eq!((weights(&third)?, averages(&mut third)?), (weights(&whole)?, averages(&mut whole)?));
        // A seed starts anew.
        let mut again = third.seed(0)?;
        again.fit(&data, fit(4))?;
        assert_eq!((weights(&again)?, averages(&mut again)?), (weights(&whole)?, averages(&mut whole)?));
    }
    Ok(())
}

fn diverged(device: &Device) -> Check {
    for o in kinds() {
        let g = Graph::training();
        let w = g.param("w", [7, 10], Init::Constant(0.5));
        let loss = (w * g.input([7, 10])).sum_all();
        let (good, bad) = (Host::new([7, 10], vec![0.5; 70]), Host::new([7, 10], vec![f32::MAX; 70]));
        let mut trainer = Trainer::new(device, loss, o.clone())?;
        trainer.step(std::slice::from_ref(&good))?;
        trainer.step(std::slice::from_ref(&good))?;
        let before = (weights(&trainer)?, averages(&mut trainer)?);
        // The loss, a sum of 70 of the largest numbers, is infinite. The steps behind it do nothing either.
        trainer.step(&[bad])?;
        trainer.step(std::slice::from_ref(&good))?;
        assert!(matches!(trainer.loss(), Err(Error::Diverged { step: 2, .. })));
        assert_eq!((weights(&trainer)?, averages(&mut trainer)?), before);
        // Training goes on as if the bad step had not been.
        let mut other = Trainer::new(device, loss, o)?;
        for _ in 0..2 {
            trainer.step(std::slice::from_ref(&good))?;
            other.step(std::slice::from_ref(&good))?;
        }
        other.step(std::slice::from_ref(&good))?;
        other.step(std::slice::from_ref(&good))?;
        assert_eq!((weights(&trainer)?, averages(&mut trainer)?), (weights(&other)?, averages(&mut other)?));
    }
    Ok(())
}

/// No difference between a weight and its average overflows.
fn largest(device: &Device) -> Check {
    for rule in [Sgd::new(1.0).into(), Muon::new(1.0).weight_decay(0.0).rest(Sgd::new(1.0))] {
        let g = Graph::training();
        let w = g.param("w", [1, 2], Init::Constant(3e38));
        let mut trainer = Trainer::new(device, (w * g.input([1, 2])).sum_all(), Optimizer::ema(rule, 0.75))?;
        let zero = Host::new([1, 2], vec![0.0; 2]);
        trainer.step(std::slice::from_ref(&zero))?;
        trainer.params().set("w", &Host::new([1, 2], vec![-3e38, 3e38]))?;
        trainer.step(&[zero])?;
        let got = trainer.averaged()?.params().get("w")?;
        assert!((got.f()[0] / 1.5e38 - 1.0).abs() < 1e-6 && got.f()[1] == 3e38, "{got:?}");
    }
    Ok(())
}

fn memory(device: &Device) -> Check {
    let of = |o: Optimizer| -> downhill::Result<_> {
        let g = Graph::training();
        let loss = g.input([2, 100]).linear("fc1", 64).linear("fc2", 64).square().mean_all();
        let (memory, trainer) = (Memory::of(device, loss, o.clone())?, Trainer::new(device, loss, o)?);
        assert_eq!(trainer.memory(2)?.total(), memory.total());
        Ok(memory)
    };
    let (plain, with) = (of(Adam::new(0.1).into())?, of(Adam::new(0.1).ema(0.9))?);
    assert_eq!(with.optimizer[2], ("average".to_string(), plain.weights));
    // The rest is the row of hyperparameters.
    assert!((plain.weights..plain.weights + 4096).contains(&(with.total() - plain.total())), "{with}");
    // The average of a rule for whole parameters comes behind the states of both rules.
    let with = of(Muon::new(0.1).rest(Adam::new(0.1)).ema(0.9))?;
    assert_eq!(with.optimizer[2].0, "momentum");
    assert_eq!(with.optimizer[3], ("average".to_string(), plain.weights));
    // A frozen parameter has no average.
    let (plain, with) = (of(Adam::new(0.1).freeze(["fc1"]))?, of(Adam::new(0.1).freeze(["fc1"]).ema(0.9))?);
    assert_eq!(with.optimizer[2].1, 4 * (64 * 64 + 64));
    assert!(with.total() - plain.total() < 4 * (64 * 64 + 64) + 4096);
    Ok(())
}

/// The mean and the variance of each batch, by hand.
fn update_bn(device: &Device) -> Check {
    let data = digits(50);
    let mut trainer = with_norm(device, Adam::new(0.02).swa(4, 1))?;
    trainer.fit(&data, Fit::new().epochs(2).batch_size(16))?;
    let (before, weights) = (weights(&trainer)?, trainer.averaged()?.params().all()?);
    trainer.averaged()?.update_bn(&data, 16)?;
    let of = |name: &str| weights.iter().find(|(other, _)| other == name).map(|(_, value)| value.to_f64()).expect("it is there");
    let (w, b) = (of("fc1.weight"), of("fc1.bias"));
    let mut want = [vec![0.0; 12], vec![0.0; 12]];
    let images = data.columns(&(0..50).collect::<Vec<_>>())?.remove(0).to_f64();
    let rows: Vec<Vec<f64>> =
        images.chunks(64).map(|x| (0..12).map(|c| b[c] + x.iter().zip(&w[64 * c..]).map(|(x, w)| x * w).sum::<f64>()).collect()).collect();
    for rows in rows.chunks(16) {
        let n = rows.len() as f64;
        for c in 0..12 {
            let mean = rows.iter().map(|row| row[c]).sum::<f64>() / n;
            want[0][c] += mean / 4.0;
            want[1][c] += rows.iter().map(|row| (row[c] - mean).powi(2)).sum::<f64>() / (n - 1.0) / 4.0;
        }
    }
    for (name, want) in ["norm.running_mean", "norm.running_var"].into_iter().zip(want) {
        for (c, (got, want)) in trainer.params().get(name)?.to_f64().iter().zip(want).enumerate() {
            assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{name} {c}: {got} instead of {want}");
        }
    }
    let after = crate::common::weights(&trainer)?;
    let changed: Vec<&str> = before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, _)| a.0.as_str()).collect();
    assert_eq!(changed, ["norm.running_mean", "norm.running_var"]);
    // What is refused changes nothing. A model without state has nothing to renew.
    assert!(trainer.averaged()?.update_bn(&data, 0).is_err() && trainer.averaged()?.update_bn(&data, 7).is_err());
    assert_eq!(crate::common::weights(&trainer)?, after);
    classifier(device, Sgd::new(0.1).ema(0.5))?.averaged()?.update_bn(&data, 7)?;
    Ok(())
}

fn on_the_device(device: &Device) -> Check {
    let g = Graph::training();
    let loss = g.input([2, 500]).linear("fc", 500).square().mean_all();
    let (mut trainer, mut plain) = (Trainer::new(device, loss, Adam::new(0.1).ema(0.9))?, Trainer::new(device, loss, Adam::new(0.1))?);
    let batch = [Host::new([2, 500], vec![0.5; 1000])];
    for trainer in [&mut trainer, &mut plain] {
        trainer.step(&batch)?;
        trainer.loss()?;
    }
    let (with, without) = (trainer.counters().ok_or("a GPU")?, plain.counters().ok_or("a GPU")?);
    assert_eq!((with.dispatches, with.submits, with.bytes_read), (without.dispatches, without.submits, without.bytes_read));
    // Evaluation on the averages reads outputs only.
    let data = digits(64);
    let mut trainer = Trainer::for_data(
        device,
        &data,
        |x| x.flatten().linear("fc1", 2000).linear("fc2", 10),
        |x, y| x.cross_entropy(y),
        Sgd::new(0.1).ema(0.9),
    )?;
    trainer.fit(&data, Fit::new().batch_size(32))?;
    let before = trainer.counters().ok_or("a GPU")?;
    trainer.averaged()?.evaluate(&data)?;
    let after = trainer.counters().ok_or("a GPU")?;
    assert!(
        after.bytes_read - before.bytes_read < 64 * 100 && after.bytes_uploaded - before.bytes_uploaded < 64 * 1000,
        "{before:?} {after:?}"
    );
    Ok(())
}

fn refusals(device: &Device) -> Check {
    let sgd = || Optimizer::from(Sgd::new(0.1));
    let cases = [
        (sgd().ema(1.0), "Sgd: the decay of ema is 1, but must be at least 0 and below 1"),
        (sgd().ema(-0.1), "Sgd: the decay of ema is -0.1, but must be"),
        (sgd().ema(f64::NAN), "Sgd: the decay of ema is NaN, but must be"),
        (sgd().swa(1, 0), "Sgd: `every` of swa is 0, but must be at least 1"),
        (sgd().swa(0, 1), "Sgd: `from` of swa is 0, but must be at least 1"),
        (sgd().lookahead(0, 0.5), "Sgd: `k` of lookahead is 0, but must be at least 1"),
        (sgd().lookahead(5, 0.0), "Sgd: `alpha` of lookahead is 0, but must be above 0"),
        (sgd().lookahead(5, 1.5), "Sgd: `alpha` of lookahead is 1.5, but must be above 0"),
        (sgd().ema(0.9).swa(1, 1), "Sgd: ema and swa are set, but an optimizer keeps one average; choose one"),
    ];
    for (o, want) in cases {
        let error = classifier(device, o).err().map_or(String::new(), |e| e.to_string());
        assert!(error.starts_with(want), "`{error}` instead of `{want}`");
    }
    // A second call replaces the first one.
    classifier(device, sgd().ema(2.0).ema(0.5))?;
    let error = classifier(device, sgd())?.averaged().err().map_or(String::new(), |e| e.to_string());
    assert_eq!(error, "averaged: the optimizer keeps no average of the weights; add Optimizer::ema, swa or lookahead");
    Ok(())
}
