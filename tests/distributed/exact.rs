//! N ranks with batches of B against one rank that accumulates N batches of B.

use crate::{Got, all, classifier, common::*, digits, fitted};
use downhill::{
    Device, Error, Fit, Host, Outputs, Tensor, Trainer,
    callbacks::{EarlyStopping, Monitor, ReduceLROnPlateau},
    data::{Augment, Dataset, Target},
    losses,
    optim::{Adafactor, Adam, Lamb, Muon, Optimizer, Sgd},
};

type New<'a> = &'a (dyn Fn() -> Result<Trainer, Error> + Sync);
type Options<'a> = &'a (dyn for<'f> Fn(Fit<'f>) -> Fit<'f> + Sync);

/// Ranks of these numbers against accumulation on one.
fn equal(what: &str, worlds: &[usize], new: New, data: &Dataset, batch: usize, options: Options) -> Result<Vec<Got>, Error> {
    let mut last = Vec::new();
    for &n in worlds {
        let want = fitted(new()?, data, options(Fit::new().batch_size(batch).accumulate(n)))?.trained();
        let first = want.reports[0].loss;
        assert!(want.reports.iter().any(|report| report.loss < 0.95 * first), "{what} learns nothing");
        let got = all(n, |world| fitted(new()?.distributed(world)?, data, options(Fit::new().batch_size(batch))))?;
        for (rank, own) in got.iter().enumerate() {
            assert!(own.weights == got[0].weights, "{what}: the state of rank {rank} of {n}");
            let own = own.clone().trained();
            assert!(own.weights == want.weights, "{what}: the weights of rank {rank} of {n}");
            assert_eq!(own.reports, want.reports, "{what}: the reports of rank {rank} of {n}");
            assert_eq!(own.history.epochs, want.history.epochs, "{what}: the history of rank {rank} of {n}");
        }
        last = got;
    }
    Ok(last)
}

fn plain(fit: Fit) -> Fit {
    fit.epochs(3)
}

fn adam() -> Optimizer {
    Adam::new(1e-2).eps(1e-4).clip_norm(0.7).clip_value(0.05)
}

pub fn optimizers() -> Check {
    let (cpu, data) = (Device::cpu(), digits(120));
    let of = |optimizer: fn() -> Optimizer| {
        let cpu = cpu.clone();
        move || classifier(&cpu, optimizer())
    };
    let sgd = of(|| Sgd::new(0.2).momentum(0.9).nesterov(true).weight_decay(1e-3).clip_value(0.05));
    equal("SGD", &[1, 2, 3, 4], &sgd, &data, 8, &plain)?;
    equal("Adam", &[2, 4], &of(adam), &data, 8, &plain)?;
    equal("LAMB", &[3], &of(|| Lamb::new(0.03).eps(1e-4).into()), &data, 8, &plain)?;
    equal("Muon", &[2], &of(|| Muon::new(0.02).rest(Sgd::new(0.1))), &data, 8, &plain)?;
    equal("Adafactor", &[2], &of(|| Adafactor::new(0.05).into()), &data, 8, &plain)?;
    Ok(())
}

/// A short last step, in which a rank has fewer samples or none; fewer samples than ranks; a last step that is left out; one sample.
pub fn sizes() -> Check {
    let cpu = Device::cpu();
    let new = || classifier(&cpu, Sgd::new(0.5).momentum(0.9));
    for n in [97, 100, 113, 30, 5, 3] {
        equal(&format!("{n} samples"), &[2, 3, 4], &new, &digits(n), 8, &|fit| fit.epochs(6))?;
    }
    equal("a step left out", &[3], &new, &digits(100), 8, &|fit| fit.epochs(2).drop_last(true))?;
    equal("in order", &[4], &new, &digits(50), 1, &|fit| fit.epochs(2).shuffle(false))?;
    Ok(())
}

/// Some micro-batches weigh nothing, and so do all of some steps.
pub fn weighted() -> Check {
    let n = 96;
    let (x, y) = digits(n).batch(&(0..n).collect::<Vec<_>>())?;
    let weight = |i: usize| if i / 8 % 3 == 1 || i >= 72 { 0.0 } else { (i % 5) as f32 * 0.75 };
    let mut values: Vec<f32> = (0..n).flat_map(|i| (0..10).map(|k| (k as f32 * 0.3).cos()).chain([weight(i)])).collect();
    y.u().iter().enumerate().for_each(|(i, &label)| values[11 * i + label as usize] += 1.0);
    let data = Dataset::new(x.f().to_vec(), [64], Target::values([11], values))?;
    fn loss<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        let n = t.dim(0);
        let penalty = y.graph().param_tensors().into_iter().map(|w| w.square().sum_all()).reduce(|a, b| a + b);
        losses::mse(y, t.slice(1, 0, 10)).sample_weights(t.slice(1, 10, 11).reshape([n])).mean() + penalty.expect("parameters") * 1e-2
    }
    let cpu = Device::cpu();
    let new = || Trainer::for_data(&cpu, &data, crate::mlp, loss, Sgd::new(0.1).momentum(0.9));
    equal("weighted means", &[2, 3, 4], &new, &data, 8, &|fit| fit.epochs(2).shuffle(false))?;
    Ok(())
}

pub fn with_batch_norm(x: Tensor) -> Tensor {
    x.linear("fc1", 24).batch_norm("bn").relu().dropout(0.2).linear("fc2", 10)
}

/// Weights have the bits of accumulation. Running averages are the mean over ranks, the same on all ranks.
pub fn batch_norm() -> Check {
    let (cpu, data) = (Device::cpu(), digits(97));
    let new = || Trainer::for_data(&cpu, &data, with_batch_norm, |y, t| y.cross_entropy(t), adam());
    let got = equal("batch norm", &[2, 3], &new, &data, 8, &plain)?;
    assert!(got[0].weights.iter().any(|(name, _)| name == "bn.running_mean"));
    // One step of two ranks: 0.9·old + 0.1·(the mean of both statistics).
    let data = digits(10);
    let new = || Trainer::for_data(&cpu, &data, |x| x.batch_norm("bn").linear("fc", 10), |y, t| y.cross_entropy(t), Sgd::new(0.1));
    let running = all(2, |world| {
        let mut trainer = new()?.distributed(world)?;
        trainer.fit(&data, Fit::new().batch_size(5).shuffle(false))?;
        trainer.params().get("bn.running_mean")
    })?;
    let (x, _) = data.batch(&(0..10).collect::<Vec<_>>())?;
    for c in 0..64 {
        let mean = (0..10).map(|i| f64::from(x.f()[64 * i + c])).sum::<f64>() / 10.0;
        assert!((f64::from(running[1].f()[c]) - 0.1 * mean).abs() < 1e-6);
    }
    assert_eq!(running[0], running[1]);
    Ok(())
}

pub fn readouts() -> Check {
    let (cpu, data) = (Device::cpu(), digits(100).reshape([1, 8, 8])?);
    let new = || Trainer::for_data(&cpu, &data, |x| crate::mlp(x.flatten()), |y, t| y.cross_entropy(t), Adam::new(2e-2).ema(0.9))?.seed(2);
    let augment = Augment { horizontal_flip: 0.5, vertical_flip: 0.1, crop_padding: 1 };
    let got =
        equal("readouts", &[2, 4], &new, &data, 8, &|fit| fit.epochs(3).noise_scale(true).norms(2).augment(augment).check_weights(3))?;
    assert!(got[3].reports.iter().any(|report| report.noise_scale.is_some() && !report.norms.is_empty()));
    let averages = |n: usize, ranks: bool| -> Result<Vec<u32>, Error> {
        let fit = |mut trainer: Trainer, fit: Fit| -> Result<_, Error> {
            trainer.fit(&data, fit.epochs(2).batch_size(8))?;
            let mean = trainer.averaged()?.evaluate(&data)?;
            Ok(bits(mean.outputs.f()))
        };
        match ranks {
            true => Ok(all(n, |world| fit(new()?.distributed(world)?, Fit::new()))?.remove(n - 1)),
            false => fit(new()?, Fit::new().accumulate(n)),
        }
    };
    assert!(averages(3, true)? == averages(3, false)?, "averages of the weights");
    Ok(())
}

/// Watched scalars, validation and decisions by it.
pub fn validation() -> Check {
    let (cpu, data) = (Device::cpu(), digits(90));
    let held = digits(140).subset(&(90..140).collect::<Vec<_>>())?;
    let new = || Trainer::for_batches(&cpu, &data, watched, Sgd::new(1.0).momentum(0.9));
    fn watched<'g>(b: &downhill::Batch<'g>) -> Outputs<'g> {
        let names: Vec<String> = b.names().map(str::to_string).collect();
        let y = b[names[0].as_str()].linear("fc1", 24).tanh().linear("fc2", 10);
        let loss = y.cross_entropy(b[names[1].as_str()]);
        Outputs::new().output("y", y).loss("nll", 1.0, loss).watch("root", loss.sqrt()).watch("largest", y.abs().mean_all())
    }
    let got = equal("validation", &[2, 3], &new, &data, 8, &|fit| {
        let early = EarlyStopping::new(Monitor::ValLoss).patience(2).restore_best_weights(true);
        fit.epochs(30).with(early).with(ReduceLROnPlateau::new(Monitor::Loss))
    });
    // Without validation data there is no number to watch.
    assert!(matches!(got, Err(Error::Argument { .. })), "{got:?}");
    for n in [2, 3] {
        let fit = |mut trainer: Trainer, fit: Fit| -> Result<Got, Error> {
            let early = EarlyStopping::new(Monitor::ValLoss).patience(2).restore_best_weights(true);
            let history = trainer.fit(&data, fit.batch_size(8).epochs(60).validation(&held).with(early))?;
            Got::of(&mut trainer, history)
        };
        let want = fit(new()?, Fit::new().accumulate(n))?;
        assert!(want.history.stopped && want.history.epochs.len() > 2, "{} epochs", want.history.epochs.len());
        assert_eq!(want.history.epochs[0].validation_watched.len(), 3);
        for got in all(n, |world| fit(new()?.distributed(world)?, Fit::new()))? {
            assert!(got == want, "{n} ranks");
        }
    }
    Ok(())
}

/// With M micro-batches of a rank, a rank adds up its own first: to rounding.
pub fn several() -> Check {
    let (cpu, data) = (Device::cpu(), digits(100));
    let new = || classifier(&cpu, Sgd::new(0.1).momentum(0.9));
    let want = fitted(new()?, &data, Fit::new().batch_size(4).accumulate(6).epochs(3))?;
    let ways: [fn(Fit<'static>) -> Fit<'static>; 2] = [|fit| fit.batch_size(4).accumulate(3), |fit| fit.batch_size(12).micro_batch(4)];
    for way in ways {
        let got = all(2, |world| fitted(new()?.distributed(world)?, &data, way(Fit::new()).epochs(3)))?;
        assert!(got[0] == got[1], "both ranks");
        for (got, want) in got[0].reports.iter().zip(&want.reports) {
            assert!((got.loss - want.loss).abs() < 1e-4 * want.loss && got.samples == want.samples, "{got:?}, not {want:?}");
        }
        assert_eq!(got[0].reports.len(), want.reports.len());
        let apart = got[0].weights.iter().zip(&want.weights).flat_map(|(a, b)| a.1.iter().zip(&b.1));
        let most = apart.map(|(&a, &b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0.0, f32::max);
        assert!(most < 1e-5, "{most:e} apart");
    }
    Ok(())
}

/// Each rank gives its own batches: of any sizes, several, or none.
pub fn own_loop() -> Check {
    let (cpu, data) = (Device::cpu(), digits(60));
    let new = || classifier(&cpu, adam());
    let batch = |rows: std::ops::Range<usize>| -> Result<[Host<f32>; 2], Error> {
        let (x, y) = data.batch(&rows.collect::<Vec<_>>())?;
        Ok([x, y])
    };
    let shares = |step: usize| [step..step + 7, 20..25 + step, 40..41];
    let mut one = new()?;
    for step in 0..4 {
        let [a, b, c] = shares(step);
        one.accumulate(&batch(a)?)?;
        one.accumulate(&batch(b)?)?;
        one.step(&batch(c)?)?;
    }
    // Rank 1 has no sample.
    one.accumulate(&batch(0..5)?)?;
    let mut want = None;
    let got = all(3, |world| {
        let mut trainer = new()?.distributed(world)?;
        for step in 0..4 {
            trainer.step(&batch(shares(step)[world.rank()].clone())?)?;
        }
        let so_far = crate::Got::of(&mut trainer, Default::default())?;
        let none = [Host::new([0, 64], vec![]), Host::labels([0], vec![])];
        // Micro-batches of different numbers.
        (0..world.rank()).try_for_each(|k| trainer.accumulate(&batch(k..k + 3)?))?;
        trainer.step(&if world.rank() == 1 { none } else { batch(0..5)? })?;
        Ok((so_far, crate::Got::of(&mut trainer, Default::default())?))
    })?;
    for (so_far, end) in &got {
        let one = want.get_or_insert(so_far.clone());
        assert!(so_far == one && end == &got[0].1, "all ranks");
        assert_eq!(end.reports[0].samples, 5 + 3 + (3 + 3 + 5));
    }
    // The first four steps are those of accumulation.
    let mut one = new()?;
    for step in 0..4 {
        let [a, b, c] = shares(step);
        one.accumulate(&batch(a)?)?;
        one.accumulate(&batch(b)?)?;
        one.step(&batch(c)?)?;
    }
    assert!(Some(crate::Got::of(&mut one, Default::default())?) == want, "accumulation");
    Ok(())
}

/// The smallest micro-batch of all ranks counts.
pub fn memory() -> Check {
    let (cpu, data) = (Device::cpu(), digits(96));
    let new = || classifier(&cpu, Sgd::new(0.1).momentum(0.9));
    let trainer = new()?;
    let (few, many) = (trainer.micro_memory(8)?.total(), trainer.micro_memory(1000)?.total());
    drop(trainer);
    let got = all(2, |world| {
        let budget = if world.rank() == 1 { few } else { many };
        fitted(new()?.distributed(world)?, &data, Fit::new().batch_size(24).memory(budget))
    })?;
    let micro = got[0].history.micro_batch.ok_or("micro-batches")?;
    assert!(got[0] == got[1] && micro < 24, "{micro}");
    Ok(())
}

/// Buckets of one parameter each, of two, and one bucket for all: the same bits, with several micro-batches as well.
pub fn buckets() -> Check {
    let (cpu, data) = (Device::cpu(), digits(100));
    let model = |most: usize, micro: usize| {
        all(2, |world| {
            let trainer = Trainer::for_data(&cpu, &data, with_batch_norm, |y, t| y.cross_entropy(t), adam())?.distributed(world)?;
            fitted(trainer, &data, Fit::new().batch_size(12).micro_batch(micro).epochs(2).bucket_bytes(most))
        })
    };
    for micro in [12, 5] {
        let want = model(25 << 20, micro)?;
        for most in [1, 200, 7000] {
            assert!(model(most, micro)? == want, "buckets of {most} bytes");
        }
    }
    Ok(())
}

/// A profile is made of steps as any others, and has the exchange.
pub fn profile() -> Check {
    let (cpu, data) = (Device::cpu(), digits(40));
    let (x, y) = data.batch(&(0..8).collect::<Vec<_>>())?;
    let batch = [x, y];
    let mut one = classifier(&cpu, adam())?;
    for _ in 0..5 {
        one.accumulate(&batch)?;
        one.step(&batch)?;
    }
    let want = weights(&one)?;
    for (profile, got) in all(2, |world| {
        let mut trainer = classifier(&cpu, adam())?.distributed(world)?;
        trainer.step(&batch)?;
        let profile = trainer.profile(2)?;
        Ok((profile, weights(&trainer)?))
    })? {
        assert!(got == want, "five steps");
        let e = profile.exchange.ok_or("an exchange")?;
        // Half of the gradients to the other rank, and half of the means.
        assert_eq!((e.ranks, e.bytes), (2, 4 * (24 * 64 + 24 + 10 * 24 + 10)));
        assert!(e.seconds > 0.0 && e.waited <= e.seconds && (0.0..=1.0).contains(&e.hidden()));
        let text = profile.to_string();
        assert!(text.contains("exchange and update") && text.contains("2 ranks: ") && text.contains("% hidden"), "{text}");
        assert!(profile.kernels.iter().any(|k| k.dispatches > 0 && k.op == "matmul"));
    }
    Ok(())
}

/// Ranks on a GPU, with the data there or not.
pub fn on(device: &Device) -> Check {
    let data = digits(61);
    let new = || Trainer::for_data(device, &data, with_batch_norm, |y, t| y.cross_entropy(t), Adam::new(5e-3).eps(1e-4).clip_norm(0.7));
    equal("data on the device", &[2], &new, &data, 8, &|fit| fit.epochs(2).noise_scale(true).norms(2).bucket_bytes(300))?;
    let mut profiles = all(2, |world| {
        let mut trainer = new()?.distributed(world)?;
        trainer.fit(&data, Fit::new().batch_size(30))?;
        trainer.profile(2)
    })?;
    assert!(profiles.remove(1).exchange.is_some_and(|exchange| exchange.bytes > 0));
    equal("data from the host", &[3], &new, &data, 8, &|fit| fit.epochs(2).resident(0))?;
    Ok(())
}

/// One rank on the CPU, the other on a GPU: to rounding.
pub fn mixed(device: &Device) -> Check {
    let (cpu, data) = (Device::cpu(), digits(61));
    let of = |device: &Device| Trainer::for_data(device, &data, with_batch_norm, |y, t| y.cross_entropy(t), Sgd::new(0.1).momentum(0.9));
    let want = fitted(of(&cpu)?, &data, Fit::new().batch_size(8).accumulate(2).epochs(2))?;
    let got = all(2, |world| {
        let mut trainer = of(if world.rank() == 0 { &cpu } else { device })?.distributed(world)?;
        trainer.fit(&data, Fit::new().batch_size(8))?;
        // A second call begins from weights that differ by rounding.
        let history = trainer.fit(&data, Fit::new().batch_size(8).append(true))?;
        Got::of(&mut trainer, history)
    })?;
    for (got, rank) in got.iter().zip(0..) {
        assert_eq!(got.reports.len(), want.reports.len());
        for (own, want) in got.reports.iter().zip(&want.reports) {
            assert!((own.loss - want.loss).abs() <= 1e-3 * want.loss, "rank {rank}: {own:?}, not {want:?}");
        }
    }
    let losses = |got: &Got| got.reports.iter().map(|r| r.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&got[0]), losses(&got[1]));
    Ok(())
}
