//! Ranks that share the optimizer's states, against ranks that do not: the same bits, the same files, and less memory.

use crate::{Got, all, classifier, common::*, digits, fitted, ranks};
use downhill::{
    Checkpoints, Device, Error, Fit, Graph, Host, Shard, Tensor, Trainer, World,
    callbacks::{ModelCheckpoint, TerminateOnNaN},
    data::Dataset,
    init::Init,
    optim::{Adafactor, Adam, AdamW, GroupOptions, Lamb, Lars, Muon, Optimizer, RmsProp, Sgd},
    train::FindLr,
};
use std::{fs, path::Path};

type New<'a> = &'a (dyn Fn() -> Result<Trainer, Error> + Sync);
type Options<'a> = &'a (dyn for<'f> Fn(Fit<'f>) -> Fit<'f> + Sync);

/// Trains on `n` ranks. Returns the results of each rank, and the checkpoint at the end.
fn trained(n: usize, shard: Shard, new: New, data: &Dataset, options: Options) -> Result<(Vec<Got>, Vec<u8>), Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("end.safetensors");
    let got = all(n, |world| {
        let mut trainer = new()?.distributed(world)?.shard(shard)?;
        let history = trainer.fit(data, options(Fit::new().batch_size(8)))?;
        if shard == Shard::State || world.rank() == 0 {
            trainer.save(&path)?;
        }
        Got::of(&mut trainer, history)
    })?;
    Ok((got, fs::read(path).expect("the file is there")))
}

/// Ranks of these numbers with shards against the same ranks without.
fn equal(what: &str, worlds: &[usize], new: New, data: &Dataset, options: Options) -> Check {
    for &n in worlds {
        let (want, file) = trained(n, Shard::None, new, data, options)?;
        let first = want[0].reports[0].loss;
        assert!(want[0].reports.iter().any(|report| report.loss < 0.97 * first), "{what} learns nothing");
        let (got, shared) = trained(n, Shard::State, new, data, options)?;
        for (rank, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!(got.weights == want.weights, "{what}: the weights of rank {rank} of {n}");
            assert_eq!(got.reports, want.reports, "{what}: the reports of rank {rank} of {n}");
            assert_eq!(got.history, want.history, "{what}: the history of rank {rank} of {n}");
        }
        assert!(file == shared, "{what}: the checkpoint of {n} ranks");
    }
    Ok(())
}

fn plain(fit: Fit) -> Fit {
    fit.epochs(2).norms(3).check_weights(2)
}

/// A name, and an optimizer.
type Rule = (&'static str, fn() -> Optimizer);

/// The name of a file, and its tensors.
type File = (String, Vec<(String, Host<f32>)>);

fn grouped() -> Optimizer {
    let adam = AdamW::new(1e-2).eps(1e-4).group(|name| name.ends_with("bias"), GroupOptions { lr_scale: 0.5, weight_decay: Some(0.1) });
    adam.group(|name| name == "fc2.weight", GroupOptions { lr_scale: 2.0, ..GroupOptions::default() }).clip_norm(0.7)
}

fn muon() -> Optimizer {
    Muon::new(0.02).rest(Adam::new(1e-2).eps(1e-4)).clip_norm(1.0).ema(0.9)
}

pub fn optimizers() -> Check {
    let (cpu, data) = (Device::cpu(), digits(100));
    let rules: [Rule; 9] = [
        ("SGD", || Sgd::new(0.2).momentum(0.9).nesterov(true).weight_decay(1e-3).clip_value(0.05)),
        ("Adam", || Adam::new(1e-2).eps(1e-4).amsgrad(true).clip_norm(0.7).clip_value(0.05)),
        ("AdamW with groups", grouped),
        ("averages", || Adam::new(1e-2).eps(1e-4).ema(0.9)),
        ("slow weights", || RmsProp::new(1e-3).momentum(0.5).lookahead(2, 0.5)),
        ("LAMB", || Lamb::new(0.03).eps(1e-4).into()),
        ("Muon", muon),
        ("Adafactor", || Adafactor::new(0.05).swa(2, 3)),
        ("frozen", || Sgd::new(0.2).momentum(0.9).freeze(["fc1.weight"])),
    ];
    for (what, optimizer) in rules {
        let new = || classifier(&cpu, optimizer());
        equal(what, if what == "Adam" { &[2, 3, 4, 6] } else { &[2, 3] }, &new, &data, &plain)?;
    }
    Ok(())
}

fn with_batch_norm(x: Tensor) -> Tensor {
    // Where a small device adds up norms by 256 elements, the second rank begins within such a cell.
    x.linear("fc1", 25).batch_norm("bn").relu().dropout(0.2).linear("fc2", 40).relu().linear("fc3", 10)
}

/// Shards of the data and of the states, batch norm over ranks, and several buckets and micro-batches, all at once.
pub fn together(device: &Device) -> Check {
    let parts = [0..40, 40..57, 57..61];
    let train = |shard| {
        all(3, |world| {
            let own = digits(61).subset(&parts[world.rank()].clone().collect::<Vec<_>>())?;
            let new = Trainer::for_data(device, &own, with_batch_norm, |y, t| y.cross_entropy(t), grouped())?;
            let trainer = new.sync_batch_norm(true)?.distributed(world)?.shard(shard)?;
            let fit = Fit::new().epochs(3).batch_size(4).accumulate(2).sharded_data(true).bucket_bytes(2000).check_weights(1);
            fitted(trainer, &own, fit)
        })
    };
    let (want, got) = (train(Shard::None)?, train(Shard::State)?);
    assert!(want.iter().chain(&got).all(|one| *one == want[0]), "a rank differs");
    let losses: Vec<f64> = want[0].history.epochs.iter().map(|epoch| epoch.loss).collect();
    assert!(losses[2] < 0.97 * losses[0], "{losses:?}");
    // The second shard ends after 3 steps of 8 samples, and the third one after 1.
    assert_eq!(want[0].reports.iter().map(|report| report.samples).take(5).collect::<Vec<_>>(), [20, 16, 9, 8, 8]);
    Ok(())
}

/// Ranks on a GPU, also where parameters lie in several pieces.
pub fn on(device: &Device) -> Check {
    let data = digits(61);
    let rules: [Rule; 5] = [
        ("AdamW", grouped),
        ("Muon", muon),
        ("slow weights", || Adam::new(1e-2).eps(1e-4).lookahead(2, 0.5)),
        ("LAMB", || Lamb::new(0.03).eps(1e-4).clip_norm(1.0)),
        ("LARS", || {
            Lars::new(0.5).momentum(0.9).group(|name| name.starts_with("fc2"), GroupOptions { lr_scale: 0.5, ..Default::default() })
        }),
    ];
    for (what, optimizer) in rules {
        let new = || Trainer::for_data(device, &data, with_batch_norm, |y, t| y.cross_entropy(t), optimizer());
        equal(what, &[2, 3], &new, &data, &|fit| fit.epochs(2).norms(2).noise_scale(true).check_weights(1))?;
    }
    Ok(())
}

/// A model whose parameters need several pieces on the small device.
pub fn pieces(device: &Device) -> Check {
    let data = digits(40);
    fn model(x: Tensor) -> Tensor {
        (0..4).fold(x, |x, k| x.linear(&format!("in{k}"), 128).tanh()).linear("out", 10)
    }
    let optimizer =
        || Adam::new(3e-3).clip_norm(0.7).group(|name| name.starts_with("in2"), GroupOptions { lr_scale: 0.5, ..Default::default() });
    let new = || Trainer::for_data(device, &data, model, |y, t| y.cross_entropy(t), optimizer());
    equal("pieces", &[2, 4], &new, &data, &|fit| fit.epochs(3))?;
    let new = || Trainer::for_data(device, &data, model, |y, t| y.cross_entropy(t), Lamb::new(0.03));
    equal("LAMB in pieces", &[3], &new, &data, &|fit| fit.epochs(3))
}

/// The states take 1/N of the memory, and the buffers have that size.
pub fn memory(device: &Device) -> Check {
    fn model(x: Tensor) -> Tensor {
        (0..8).fold(x, |x, k| x.linear(&format!("fc{k}"), 64).tanh()).linear("out", 10)
    }
    let data = digits(16);
    let new = || Trainer::for_data(device, &data, model, |y, t| y.cross_entropy(t), Adam::new(1e-3));
    let bytes = |trainer: &Trainer| -> Result<[u64; 2], Error> {
        let memory = trainer.memory(8)?;
        Ok([memory.optimizer.iter().map(|(_, bytes)| bytes).sum(), memory.total()])
    };
    for n in [2, 4] {
        let got = all(n, |world| {
            let whole = new()?.distributed(world)?;
            Ok((bytes(&whole)?, bytes(&whole.shard(Shard::State)?)?))
        })?;
        let ([states, total], _) = got[0];
        assert_eq!(got.iter().map(|(_, [own, _])| own).sum::<u64>(), states);
        for (_, [own, all]) in got {
            // Eight equal layers and a small one: no rank has more than a layer beyond its share.
            let share = states / n as u64;
            assert!(own.abs_diff(share) <= 2 * 4 * (64 * 64 + 64), "{own} of {states} bytes on {n} ranks");
            // The tables of the parts are small.
            assert!((total - all).abs_diff(states - own) < 4096, "{all} of {total} bytes");
        }
    }
    Ok(())
}

/// The averages are gathered for a view of them, in a training and behind it.
pub fn averages(device: &Device) -> Check {
    let (data, held) = (digits(64), digits(90).subset(&(64..90).collect::<Vec<_>>())?);
    let rules: [fn() -> Optimizer; 2] = [|| Adam::new(1e-2).ema(0.8), muon];
    for optimizer in rules {
        let new = || Trainer::for_data(device, &data, with_batch_norm, |y, t| y.cross_entropy(t), optimizer());
        let run = |world: &World, shard: Shard| -> Result<_, Error> {
            let mut trainer = new()?.distributed(world)?.shard(shard)?;
            let start = bits(trainer.averaged()?.params().get("fc2.weight")?.f());
            let history = trainer.fit(&data, Fit::new().batch_size(8).epochs(2).validation(&held).averaged(true))?;
            let mut averaged = trainer.averaged()?;
            averaged.update_bn(&data, 16)?;
            let outputs = bits(averaged.evaluate(&held)?.outputs.f());
            let average = bits(averaged.params().get("fc2.weight")?.f());
            Ok((start, Got::of(&mut trainer, history)?, outputs, average))
        };
        let want = all(3, |world| run(world, Shard::None))?;
        assert!(want[0].0 != want[0].3 && want[0].1.weights.iter().all(|(_, bits)| *bits != want[0].3));
        for (rank, (got, want)) in all(3, |world| run(world, Shard::State))?.into_iter().zip(want).enumerate() {
            assert!(got == want, "rank {rank}");
        }
    }
    Ok(())
}

/// Gradients to all, and then weights: one and a half times the bytes.
pub fn traffic() -> Check {
    let (cpu, data) = (Device::cpu(), digits(64));
    let sent = |n: usize, shard: Shard| {
        all(n, |world| {
            let mut trainer = Trainer::for_data(
                &cpu,
                &data,
                |x| x.linear("fc1", 256).tanh().linear("fc2", 256).linear("out", 10),
                |y, t| y.cross_entropy(t),
                Adam::new(1e-3),
            )?
            .distributed(world)?
            .shard(shard)?;
            let before = world.traffic().sent;
            trainer.fit(&data, Fit::new().batch_size(4).epochs(2))?;
            let sent = world.traffic().sent - before;
            let exchange = trainer.profile(1)?.exchange.map_or(0, |exchange| exchange.bytes);
            Ok([sent, exchange])
        })
    };
    for n in [2, 4] {
        let [whole, shared] = [sent(n, Shard::None)?, sent(n, Shard::State)?];
        let sum = |all: &[[u64; 2]], k: usize| all.iter().map(|sent| sent[k]).sum::<u64>();
        let elements = (64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10) as u64;
        let each = 4 * (n as u64 - 1) * elements;
        assert_eq!((sum(&whole, 1), sum(&shared, 1)), (2 * each, 3 * each), "the bytes of a step on {n} ranks");
        let ratio = sum(&shared, 0) as f64 / sum(&whole, 0) as f64;
        assert!((1.48..1.53).contains(&ratio), "{ratio} times the bytes on {n} ranks");
    }
    Ok(())
}

/// Checkpoints within a training, by steps and by time, are those of ranks without shards. A resume divides the states anew.
pub fn files() -> Check {
    let cpu = Device::cpu();
    let new = || classifier(&cpu, Adam::new(5e-3).clip_norm(0.7).ema(0.9));
    let data = digits(100);
    let fit = |path: &Path| {
        Fit::new().batch_size(4).checkpoints(Checkpoints::new(path.join("all")).every_steps(3).keep(9)).resume(path.join("all"))
    };
    let run = |n: usize, shard: Shard, path: &Path, more: &(dyn Fn(Fit<'static>) -> Fit<'static> + Sync)| {
        all(n, |world| {
            let mut trainer = new()?.distributed(world)?.shard(shard)?;
            let saved = ModelCheckpoint::new(path.join("{epoch}.safetensors"));
            let history = trainer.fit(&data, more(fit(path).with(saved)))?;
            Got::of(&mut trainer, history)
        })
    };
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir()).collect::<Result<_, _>>()?;
    let [whole, shared] = [0, 1].map(|k| folders[k].path());
    let want = run(4, Shard::None, whole, &|fit| fit.epochs(2))?;
    let got = run(4, Shard::State, shared, &|fit| fit.epochs(2))?;
    assert!(got == want);
    let files = |path: &Path| -> Result<Vec<File>, Error> {
        let mut names: Vec<_> = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
        names.extend(fs::read_dir(path.join("all")).expect("a folder").map(|entry| entry.expect("an entry").path()));
        names.retain(|path| path.is_file());
        names.sort_unstable();
        let name = |file: &Path| file.strip_prefix(path).expect("in the folder").to_string_lossy().into_owned();
        names.iter().map(|file| Ok((name(file), downhill::weights::read(file)?))).collect()
    };
    let (ours, theirs) = (files(shared)?, files(whole)?);
    assert_eq!(ours.len(), 2 + 5, "{:?}", ours.iter().map(|(name, _)| name).collect::<Vec<_>>());
    for ((name, ours), (other, theirs)) in ours.iter().zip(&theirs) {
        // The place of a training has times.
        let timeless = |all: &[(String, Host<f32>)]| all.iter().filter(|(name, _)| !name.starts_with("fit.")).cloned().collect::<Vec<_>>();
        assert!(name == other && timeless(ours) == timeless(theirs), "{name}");
        assert!(ours.iter().any(|(name, value)| name == "optimizer.square.fc1.weight" && value.f().iter().any(|x| *x > 0.0)));
    }
    // The last two files are lost, so that an epoch goes on in its middle: with shards or without, on two ranks.
    for path in [whole, shared] {
        for number in [4, 5] {
            fs::remove_file(path.join(format!("all/checkpoint-{number:08}.safetensors")))?;
        }
    }
    let ways: [(Shard, &Path); 2] = [(Shard::None, shared), (Shard::State, whole)];
    let mut ends = Vec::new();
    for (shard, path) in ways {
        ends.push(run(2, shard, path, &|fit| fit.accumulate(2).epochs(3))?);
    }
    assert!(ends[0] == ends[1] && ends[0][0].reports.len() == 3 * 7 - 9);
    // The clock of rank 0 says when all give their states.
    let folder = tempfile::tempdir()?;
    all(3, |world| {
        let every = Checkpoints::new(folder.path()).every(std::time::Duration::from_millis(1)).keep(99);
        let mut trainer = new()?.distributed(world)?.shard(Shard::State)?;
        trainer.fit(&data, Fit::new().batch_size(4).checkpoints(every))
    })?;
    assert!(fs::read_dir(folder.path())?.count() > 2);
    Ok(())
}

/// The gradient of `a` is 1e10, and that of `b` is its value. A step with a rate of 1e30 overflows `a` alone.
fn steep(device: &Device) -> Result<Trainer, Error> {
    fn of<'g>(g: &'g Graph, n: usize) -> downhill::Outputs<'g> {
        let ones = g.input([n, 1]).mean_all();
        let (a, b) = (g.param("a", [64], Init::Ones), g.param("b", [64], Init::Ones));
        (a.sum_all() * ones * 1e10 + b.square().sum_all() * 0.5).into()
    }
    Trainer::from_fn(device, of, Sgd::new(1e-3).momentum(0.5))
}

/// A step that overflows on one rank alone is bad on all ranks, and leaves the weights of the last good step on all.
pub fn overflow(device: &Device) -> Check {
    let batch = [Host::new([2, 1], vec![1.0; 2])];
    let run = |mut trainer: Trainer| -> Result<_, Error> {
        trainer.step(&batch)?;
        trainer.set_lr(1e30)?;
        let error = trainer.step(&batch).unwrap_err();
        assert!(matches!(error, Error::Diverged { step: 1, .. }), "{error}");
        let weights: Vec<Vec<u32>> =
            ["a", "b"].iter().map(|name| Ok(bits(trainer.params().get(name)?.f()))).collect::<Result<_, Error>>()?;
        trainer.set_lr(0.25)?;
        trainer.step(&batch)?;
        trainer.loss()?;
        let after: Vec<Vec<u32>> = ["a", "b"].iter().map(|name| Ok(bits(trainer.params().get(name)?.f()))).collect::<Result<_, Error>>()?;
        Ok((error.to_string(), weights, after, trainer.steps()))
    };
    // Of three ranks, one has no parameter.
    for n in [2, 3] {
        let want = all(n, |world| run(steep(device)?.distributed(world)?))?;
        assert!(want[0].0.contains("a weight"), "{}", want[0].0);
        assert_eq!(f32::from_bits(want[0].1[1][0]), 0.999);
        assert!(want[0].1[1] != want[0].2[1]);
        assert_eq!(all(n, |world| run(steep(device)?.distributed(world)?.shard(Shard::State)?))?, want);
    }
    Ok(())
}

/// A gradient that is not finite names the same parameter on all ranks, and a training recovers from a snapshot.
pub fn diverged(device: &Device) -> Check {
    let mut values = vec![0.5f32; 2 * 40];
    values[2 * 21] = 1e30;
    let data = Dataset::new(values, [2], downhill::data::Target::values([1], (0..40).map(|i| (i as f32).sin()).collect()))?;
    let new = || Trainer::for_data(device, &data, |x| x.linear("fc", 4).linear("out", 1), |y, t| y.mse(t), Adam::new(0.1));
    let run = |mut trainer: Trainer| -> Result<(String, Vec<u32>), Error> {
        let error = trainer.fit(&data, Fit::new().batch_size(4).shuffle(false)).unwrap_err();
        assert!(matches!(error, Error::Diverged { step: 1, .. }), "{error}");
        let half = data.subset(&(0..16).collect::<Vec<_>>())?;
        trainer.fit(&half, Fit::new().batch_size(4).shuffle(false))?;
        Ok((error.to_string(), bits(trainer.params().get("fc.weight")?.f())))
    };
    let want = all(3, |world| run(new()?.distributed(world)?))?;
    assert_eq!(all(3, |world| run(new()?.distributed(world)?.shard(Shard::State)?))?, want);
    let recovers = |trainer: Trainer| {
        let fit = Fit::new().shuffle(false).batch_size(4).with(TerminateOnNaN::new().recover(2, 0.5).every(1));
        fitted(trainer, &data, fit)
    };
    let want = all(2, |world| recovers(new()?.distributed(world)?))?;
    assert!(want[0].history.stopped);
    assert!(all(2, |world| recovers(new()?.distributed(world)?.shard(Shard::State)?))? == want);
    Ok(())
}

/// Shards begin and end in the middle of a training, and the optimizer may change.
pub fn changes() -> Check {
    let (cpu, data) = (Device::cpu(), digits(64));
    let run = |world: &World, shards: [Shard; 3]| -> Result<Got, Error> {
        let mut trainer = classifier(&cpu, Adam::new(5e-3))?.distributed(world)?;
        let fit = || Fit::new().batch_size(8).append(true);
        for shard in shards {
            trainer = trainer.shard(shard)?;
            trainer.fit(&data, fit())?;
        }
        trainer.set_optimizer(Muon::new(0.01).rest(Sgd::new(0.1).momentum(0.9)).freeze(["fc1.bias"]))?;
        let history = trainer.fit(&data, fit())?;
        Got::of(&mut trainer, history)
    };
    let want = all(3, |world| run(world, [Shard::None; 3]))?;
    for shards in [[Shard::State, Shard::None, Shard::State], [Shard::None, Shard::State, Shard::None]] {
        assert!(all(3, |world| run(world, shards))? == want, "{shards:?}");
    }
    Ok(())
}

pub fn refused() -> Check {
    let (cpu, data) = (Device::cpu(), digits(32));
    let new = || classifier(&cpu, Adam::new(1e-2).ema(0.9));
    for result in ranks(2, |world| {
        let mut trainer = new()?.distributed(world)?.shard(Shard::State)?;
        let part = "this rank has only a part of the optimizer's states (Shard::State)";
        let texts = [
            trainer.apply_gradients(&[]).err().map(|e| e.to_string()),
            trainer.find_lr(&data, FindLr::default()).err().map(|e| e.to_string()),
        ];
        assert!(texts.iter().all(|text| text.as_ref().is_some_and(|text| text.contains(part))), "{texts:?}");
        trainer.fit(&data, Fit::new().averaged(world.rank() == 0)).map(|_| ())
    }) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("it has averaged false, but rank 0 has averaged true"), "{text}");
    }
    for result in ranks(2, |world| {
        let shard = if world.rank() == 1 { Shard::State } else { Shard::None };
        new()?.distributed(world)?.shard(shard).map(|_| ())
    }) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Rank { rank: 1, .. }) && error.to_string().contains("the shards State"), "{error}");
    }
    // One rank holds everything.
    let mut alone = new()?.distributed(&World::alone())?.shard(Shard::State)?;
    alone.fit(&data, Fit::new().averaged(true).validation(&data))?;
    assert!(alone.averaged().is_ok());
    new()?.shard(Shard::State).map(|_| ()).map_err(Into::into)
}
