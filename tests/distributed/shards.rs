//! Ranks with a data set each: against a loop on one rank that accumulates the same micro-batches.

use crate::{Got, all, classifier, common::*, digits, exact::with_batch_norm, fitted, ranks};
use downhill::{
    Checkpoints, Device, Error, Fit, Host, Trainer,
    data::{self, ArrayFile, Augment, Dataset, Field, Source},
    optim::{Adam, Optimizer, Schedule, Sgd},
};
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

type New<'a> = &'a (dyn Fn() -> Result<Trainer, Error> + Sync);

/// The seed of the trainers.
const SEED: u64 = 5;

/// Neighbouring parts of the digits.
fn shards(sizes: &[usize]) -> Vec<Dataset> {
    let mut start = 0;
    let part = |&n: &usize| {
        start += n;
        data::digits().subset(start - n..start).expect("there are that many")
    };
    sizes.iter().map(part).collect()
}

/// Makes the steps of an epoch in a loop on one rank. A step takes the next `size` samples of each shard, in batches of `micro`.
fn epoch(one: &mut Trainer, shards: &[Dataset], epoch: u64, steps: usize, size: usize, micro: usize) -> Result<(), Error> {
    let orders: Vec<_> = shards.iter().zip(SEED..).map(|(shard, seed)| data::shuffled(shard.len(), seed, epoch)).collect();
    for step in 0..steps {
        let mut batches: Vec<[Host<f32>; 2]> = Vec::new();
        for (shard, order) in shards.iter().zip(&orders) {
            for rows in order.chunks(size).nth(step).unwrap_or(&[]).chunks(micro) {
                let (x, y) = shard.batch(rows)?;
                batches.push([x, y]);
            }
        }
        let last = batches.pop().expect("a step has a batch");
        batches.iter().try_for_each(|batch| one.accumulate(batch))?;
        one.step(&last)?;
    }
    Ok(())
}

/// Trains two epochs on shards of these sizes, with batches of 8.
fn equal(what: &str, sizes: &[usize], new: New) -> Result<Vec<Got>, Error> {
    let (parts, mut one) = (shards(sizes), new()?);
    let steps = sizes.iter().map(|n| n.div_ceil(8)).max().expect("a shard");
    (0..2).try_for_each(|k| epoch(&mut one, &parts, k, steps, 8, 8))?;
    let want = Got::of(&mut one, Default::default())?;
    assert!(want.reports.iter().any(|report| report.loss < 0.8 * want.reports[0].loss), "{what} learns nothing");
    let fit = || Fit::new().batch_size(8).epochs(2).sharded_data(true);
    let got = all(sizes.len(), |world| fitted(new()?.distributed(world)?, &parts[world.rank()], fit()))?;
    for (rank, own) in got.iter().enumerate() {
        assert!(own.weights == want.weights, "{what}, {sizes:?}: the weights of rank {rank}");
        assert_eq!(own.reports, want.reports, "{what}, {sizes:?}: the reports of rank {rank}");
        assert_eq!(own.history, got[0].history, "{what}, {sizes:?}: the history of rank {rank}");
    }
    let all: usize = got[0].reports[..steps].iter().map(|report| report.samples).sum();
    assert_eq!((all, got[0].history.epochs[0].losses.len()), (sizes.iter().sum(), steps));
    Ok(got)
}

fn adam() -> Optimizer {
    Adam::new(1e-2).eps(1e-4).clip_norm(0.7)
}

/// Shards of unequal sizes. Dropout is numbered by the ranks that have samples, and the first ranks have the most.
pub fn optimizers() -> Check {
    let cpu = Device::cpu();
    let sgd = || classifier(&cpu, Sgd::new(0.2).momentum(0.9).nesterov(true));
    for sizes in [&[83, 40][..], &[61, 40, 22], &[50, 8, 3, 1], &[40, 40]] {
        equal("SGD", sizes, &sgd)?;
        equal("Adam", sizes, &|| classifier(&cpu, adam()))?;
    }
    // Without dropout, any rank may end first.
    let plain = |optimizer: Optimizer| {
        Trainer::for_data(&cpu, &digits(4), |x| x.linear("fc1", 24).tanh().linear("fc2", 10), |y, t| y.cross_entropy(t), optimizer)?
            .seed(SEED)
    };
    for sizes in [&[9, 70][..], &[22, 61, 40]] {
        equal("SGD without dropout", sizes, &|| plain(Sgd::new(0.2).momentum(0.9).into()))?;
        equal("Adam without dropout", sizes, &|| plain(adam()))?;
    }
    Ok(())
}

/// A GPU, with the data there or not. Fetched batches draw the same changes of images as batches of the host.
pub fn on(device: &Device) -> Check {
    let new = || classifier(device, adam());
    equal("data on the device", &[41, 22], &new)?;
    let parts = shards(&[30, 17]).into_iter().map(|shard| shard.reshape([1, 8, 8])).collect::<Result<Vec<_>, _>>()?;
    let augment = Augment { horizontal_flip: 0.5, vertical_flip: 0.1, crop_padding: 1 };
    let images = |resident: u64| {
        all(2, |world| {
            let trainer = Trainer::for_data(device, &parts[0], |x| crate::mlp(x.flatten()), |y, t| y.cross_entropy(t), adam())?;
            let fit = Fit::new().batch_size(6).accumulate(2).epochs(2).sharded_data(true).augment(augment).resident(resident);
            fitted(trainer.distributed(world)?, &parts[world.rank()], fit)
        })
    };
    let (there, here) = (images(1 << 30)?, images(0)?);
    assert!(there[0] == there[1] && there == here);
    Ok(())
}

/// Reads rows and notes them.
struct Noted(Dataset, Arc<Mutex<Vec<usize>>>);

impl Source for Noted {
    fn rows(&self) -> usize {
        self.0.len()
    }
    fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<(), Error> {
        self.1.lock().expect("no test panics here").extend(rows);
        out.copy_from_slice(self.0.batch(rows)?.0.f());
        Ok(())
    }
}

/// A rank reads each sample of its shard once in an epoch, in another order in each epoch.
pub fn each_once() -> Check {
    let cpu = Device::cpu();
    let parts = shards(&[37, 20]);
    let read = all(2, |world| {
        let (shard, rows) = (&parts[world.rank()], Arc::default());
        let x = Field::source("x", [64], Noted(shard.clone(), Arc::clone(&rows)));
        let streamed = Dataset::of([x, Field::labels("y", shard.labels().to_vec(), 10)])?;
        let mut trainer = classifier(&cpu, Sgd::new(0.1))?.distributed(world)?;
        trainer.fit(&streamed, Fit::new().batch_size(8).epochs(2).sharded_data(true))?;
        let read = rows.lock().expect("the training has ended").clone();
        Ok((shard.len(), read))
    })?;
    for (n, read) in read {
        let (first, second) = read.split_at(n);
        for epoch in [first, second] {
            let mut rows = epoch.to_vec();
            rows.sort_unstable();
            assert_eq!(rows, (0..n).collect::<Vec<_>>());
        }
        assert_ne!(first, second);
    }
    Ok(())
}

/// A file of numpy.
fn npy(path: &Path, descr: &str, dims: &str, bytes: &[u8]) -> Check {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {dims}, }}");
    Ok(fs::write(path, [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), bytes].concat())?)
}

/// The example of docs/distributed.md: each rank reads its own files. The weights are those of shards in memory.
pub fn from_files() -> Check {
    let (cpu, parts, folder) = (Device::cpu(), shards(&[37, 20]), tempfile::tempdir()?);
    for (rank, part) in parts.iter().enumerate() {
        let (x, _) = part.batch(&(0..part.len()).collect::<Vec<_>>())?;
        let floats: Vec<u8> = x.f().iter().flat_map(|x| x.to_le_bytes()).collect();
        let labels: Vec<u8> = part.labels().iter().map(|&label| label as u8).collect();
        npy(&folder.path().join(format!("part-{rank}.npy")), "<f4", &format!("({}, 64)", part.len()), &floats)?;
        npy(&folder.path().join(format!("labels-{rank}.npy")), "|u1", &format!("({},)", part.len()), &labels)?;
    }
    let trained = |read: &(dyn Fn(usize) -> Result<Dataset, Error> + Sync)| {
        all(2, |world| {
            let shard = read(world.rank())?;
            let fit = Fit::new().batch_size(8).epochs(2).sharded_data(true);
            fitted(classifier(&cpu, Sgd::new(0.2).momentum(0.9))?.distributed(world)?, &shard, fit)
        })
    };
    let files = trained(&|rank| {
        let images = ArrayFile::open(folder.path().join(format!("part-{rank}.npy")))?;
        let labels = ArrayFile::open(folder.path().join(format!("labels-{rank}.npy")))?.labels()?;
        Dataset::of([Field::source("x", [64], images), Field::labels("y", labels, 10)])
    })?;
    assert!(files == trained(&|rank| Ok(parts[rank].clone()))?);
    Ok(())
}

/// Steps of several micro-batches, of the samples that the smallest shard allows, and with a single sample that batch norm refuses.
pub fn steps() -> Check {
    let (cpu, parts) = (Device::cpu(), shards(&[50, 27, 41]));
    fn samples(fit: Fit) -> Fit {
        fit.epochs(2).sharded_data(true)
    }
    // A rank adds up its own micro-batches first: to rounding. The numbers of dropout are those of one rank.
    let mut one = classifier(&cpu, Sgd::new(0.1).momentum(0.9))?;
    (0..2).try_for_each(|k| epoch(&mut one, &parts, k, 3, 9, 3))?;
    let want = Got::of(&mut one, Default::default())?;
    let options: [fn() -> Fit<'static>; 2] =
        [|| Fit::new().batch_size(3).accumulate(3).drop_last(true), || Fit::new().batch_size(9).micro_batch(3).drop_last(true)];
    for options in options {
        let got = all(3, |world| {
            let trainer = classifier(&cpu, Sgd::new(0.1).momentum(0.9))?.distributed(world)?;
            fitted(trainer, &parts[world.rank()], samples(options()))
        })?;
        assert!(got[0] == got[1] && got[0] == got[2], "all ranks");
        assert_eq!(got[0].reports.iter().map(|r| r.samples).collect::<Vec<_>>(), [27; 6]);
        for (got, want) in got[0].reports.iter().zip(&want.reports) {
            assert!((got.loss - want.loss).abs() < 1e-4 * want.loss, "{got:?}, not {want:?}");
        }
        let apart = got[0].weights.iter().zip(&want.weights).flat_map(|(a, b)| a.1.iter().zip(&b.1));
        let most = apart.map(|(&a, &b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0.0, f32::max);
        assert!(most < 1e-5, "{most:e} apart");
    }
    // The 50, 41 and 25 samples are 5, 4 and 3 batches of 12, and the single sample of the last shard joins the batch before it.
    let parts = shards(&[50, 41, 25]);
    let schedule = Schedule::warmup(1).in_epochs().then(Schedule::exponential(0.99).in_samples());
    let got = all(3, |world| {
        let optimizer = Adam::new(1e-2).schedule(schedule.clone());
        let trainer = Trainer::for_data(&cpu, &parts[0], with_batch_norm, |y, t| y.cross_entropy(t), optimizer)?.distributed(world)?;
        fitted(trainer, &parts[world.rank()], samples(Fit::new().batch_size(12)).check_weights(1))
    })?;
    assert!(got[0] == got[1] && got[0] == got[2], "all ranks");
    assert_eq!(got[0].reports.iter().map(|r| r.samples).collect::<Vec<_>>()[..5], [36, 37, 24, 17, 2]);
    assert!(got[0].history.epochs[1].lr > 4.0 * got[0].history.epochs[0].lr);
    // A batch larger than every shard is a step of all samples.
    let got = all(3, |world| {
        let trainer = classifier(&cpu, Sgd::new(0.1))?.distributed(world)?;
        fitted(trainer, &parts[world.rank()], samples(Fit::new().batch_size(1_000_000).memory(1 << 24)))
    })?;
    assert_eq!(got[1].reports.iter().map(|r| r.samples).collect::<Vec<_>>(), [116, 116]);
    Ok(())
}

fn resumed(n: usize, parts: &[Dataset], folder: &Path, options: fn(Fit<'_>) -> Fit<'_>) -> Vec<Result<Got, Error>> {
    let cpu = Device::cpu();
    ranks(n, |world| {
        let checkpoints = Checkpoints::new(folder).every_steps(3).keep(9);
        let fit = Fit::new().batch_size(8).sharded_data(true).checkpoints(checkpoints).resume(folder);
        fitted(classifier(&cpu, adam())?.distributed(world)?, &parts[world.rank()], options(fit))
    })
}

/// A resume in the middle of an epoch, and what a training on shards does not resume from.
pub fn resume() -> Check {
    let (cpu, parts, folder) = (Device::cpu(), shards(&[83, 40]), tempfile::tempdir()?);
    resumed(2, &parts, folder.path(), |fit| fit.epochs(2)).into_iter().collect::<Result<Vec<_>, _>>()?;
    // An epoch has 11 steps. The files behind step 15, in the middle of the second epoch, are lost.
    for number in 6..=8 {
        fs::remove_file(folder.path().join(format!("checkpoint-{number:08}.safetensors")))?;
    }
    let refused = |results: Vec<Result<Got, Error>>, part: &str| {
        let text = results.into_iter().find_map(Result::err).map_or("no error".into(), |error| error.to_string());
        assert!(text.contains(part), "{text}");
    };
    let was = "its training had 11 steps of 8 in micro-batches of 8 over shards of [83, 40] samples shuffled, but this one has";
    let (others, three) = (shards(&[82, 41]), shards(&[83, 20, 20]));
    refused(
        resumed(2, &others, folder.path(), |fit| fit.epochs(3)),
        &format!("{was} 11 steps of 8 in micro-batches of 8 over shards of [82, 41]"),
    );
    refused(resumed(3, &three, folder.path(), |fit| fit.epochs(3)), was);
    refused(resumed(1, &parts, folder.path(), |fit| fit.epochs(3)), was);
    refused(resumed(2, &shards(&[61, 61]), folder.path(), |fit| fit.epochs(3).sharded_data(false)), was);
    let got = resumed(2, &parts, folder.path(), |fit| fit.epochs(3)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let fit = || Fit::new().batch_size(8).epochs(3).sharded_data(true);
    let want = all(2, |world| fitted(classifier(&cpu, adam())?.distributed(world)?, &parts[world.rank()], fit()))?;
    for (rank, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.reports.len(), 3 * 11 - 15);
        assert!(got.weights == want.weights && got.history == want.history, "rank {rank}");
    }
    Ok(())
}

/// All ranks set the option, and data that all ranks share must be of one size.
pub fn differ() -> Check {
    let (cpu, parts) = (Device::cpu(), shards(&[20, 30]));
    let errors = |sharded: fn(usize) -> bool| {
        let results = ranks(2, |world| {
            let trainer = classifier(&cpu, adam())?.distributed(world)?;
            fitted(trainer, &parts[world.rank()], Fit::new().sharded_data(sharded(world.rank())))
        });
        results.into_iter().map(|result| result.err().map_or("no error".into(), |e| e.to_string())).collect::<Vec<_>>()
    };
    for text in errors(|rank| rank == 0) {
        assert!(text.contains("rank 1: it has sharded_data false, but rank 0 has sharded_data true"), "{text}");
    }
    for text in errors(|_| false) {
        assert!(text.contains("rank 1: it has data with a number of samples of 30, but rank 0 has"), "{text}");
    }
    Ok(())
}
