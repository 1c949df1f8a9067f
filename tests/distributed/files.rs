//! Checkpoints, and the files of callbacks.

use crate::{Got, all, classifier, common::*, digits};
use downhill::{
    Checkpoints, Device, Error, Fit, Trainer,
    callbacks::{CsvLogger, ModelCheckpoint},
    optim::{Adam, Sgd},
};
use std::{fs, path::Path};

fn trained(trainer: &mut Trainer, fit: Fit) -> Result<Got, Error> {
    let history = trainer.fit(&digits(100), fit)?;
    Got::of(trainer, history)
}

/// Four ranks with batches of 4, then two ranks with two batches of 4 each, are one rank with four batches of 4.
pub fn resume() -> Check {
    let cpu = Device::cpu();
    let new = || classifier(&cpu, Adam::new(5e-3).clip_norm(0.7));
    let folder = tempfile::tempdir()?;
    let fit = |path: &Path| Fit::new().batch_size(4).checkpoints(Checkpoints::new(path).every_steps(3).keep(9)).resume(path);
    all(4, |world| trained(&mut new()?.distributed(world)?, fit(folder.path()).epochs(2)))?;
    // 7 steps an epoch. The files after step 9 are lost, so that an epoch goes on in its middle.
    for number in [4, 5] {
        fs::remove_file(folder.path().join(format!("checkpoint-{number:08}.safetensors")))?;
    }
    let one = trained(&mut new()?, Fit::new().batch_size(4).accumulate(4).epochs(3))?;
    // The same micro-batches on two ranks, which add up to rounding, and on one, to the bit.
    let copy = tempfile::tempdir()?;
    for entry in fs::read_dir(folder.path())? {
        let entry = entry?;
        fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    let got = trained(&mut new()?, fit(copy.path()).accumulate(4).epochs(3))?;
    assert!(got.weights == one.weights && got.history.epochs == one.history.epochs, "on one rank");
    let two = all(2, |world| trained(&mut new()?.distributed(world)?, fit(folder.path()).accumulate(2).epochs(3)))?;
    assert!(two[0] == two[1], "both ranks");
    assert_eq!(two[0].reports.len(), 3 * 7 - 9);
    let apart = two[0].weights.iter().zip(&one.weights).flat_map(|(a, b)| a.1.iter().zip(&b.1));
    let most = apart.map(|(&a, &b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "{most:e} apart");
    Ok(())
}

/// The same program on another number of ranks has other steps. It goes on at the samples that the epoch has left.
pub fn other_steps() -> Check {
    let cpu = Device::cpu();
    let new = || classifier(&cpu, Sgd::new(0.1).momentum(0.9));
    let folder = tempfile::tempdir()?;
    let fit = || Fit::new().batch_size(4).checkpoints(Checkpoints::new(folder.path()).every_steps(3).keep(9)).resume(folder.path());
    all(4, |world| trained(&mut new()?.distributed(world)?, fit().epochs(1)))?;
    for number in [2, 3] {
        fs::remove_file(folder.path().join(format!("checkpoint-{number:08}.safetensors")))?;
    }
    // Three steps of 16 are made, and 52 of 100 samples are left: 6 steps of 8 and one of 4.
    let got = all(2, |world| trained(&mut new()?.distributed(world)?, fit().epochs(1)))?;
    assert!(got[0] == got[1]);
    assert_eq!(got[0].reports.iter().map(|r| r.samples).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 8, 4]);
    assert_eq!(got[0].history.epochs[0].losses.len(), 3 + 7);
    // Another batch size is another training, on any number of ranks.
    let other = all(2, |world| trained(&mut new()?.distributed(world)?, fit().batch_size(5).epochs(2)));
    let text = other.unwrap_err().to_string();
    assert!(text.contains("its training had"), "{text}");
    Ok(())
}

/// All ranks run the callbacks, and rank 0 alone writes.
pub fn written() -> Check {
    let cpu = Device::cpu();
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir()).collect::<Result<_, _>>()?;
    all(2, |world| {
        let path = folders[world.rank()].path();
        let fit = Fit::new().batch_size(8).epochs(2).with(CsvLogger::new(path.join("log.csv")).norms(path.join("norms.csv")));
        let fit = fit.with(ModelCheckpoint::new(path.join("{epoch}.safetensors"))).checkpoints(Checkpoints::new(path.join("all")));
        trained(&mut classifier(&cpu, Sgd::new(0.1))?.distributed(world)?, fit)
    })?;
    let names = |k: usize| -> Result<Vec<String>, Error> {
        let entries = fs::read_dir(folders[k].path()).expect("the folder is there");
        let mut names: Vec<String> = entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        Ok(names)
    };
    assert_eq!(names(0)?, ["1.safetensors", "2.safetensors", "all", "log.csv", "norms.csv"]);
    assert!(names(1)?.is_empty(), "{:?}", names(1));
    Ok(())
}
