//! Control of a training: callbacks and their handle, the ready ones, checkpoints within an epoch, averages of the weights, another
//! optimizer.

mod averages;
mod callbacks;
#[path = "../common/mod.rs"]
mod common;
mod exchange;
mod monitors;
mod rates;
mod readouts;
mod ready;
mod resume;

use common::{Suite, bits};
use downhill::{
    Device, Error, History, Trainer,
    data::{self, Dataset},
    optim::Optimizer,
};

fn main() -> std::process::ExitCode {
    if let Some(code) = resume::child() {
        return code;
    }
    let mut suite = Suite::new();
    averages::trials(&mut suite);
    callbacks::trials(&mut suite);
    exchange::trials(&mut suite);
    monitors::trials(&mut suite);
    rates::trials(&mut suite);
    readouts::trials(&mut suite);
    ready::trials(&mut suite);
    resume::trials(&mut suite);
    suite.run()
}

/// The first `n` digits, as images.
fn digits(n: usize) -> Dataset {
    data::digits().subset(&(0..n).collect::<Vec<_>>()).expect("there are that many").reshape([1, 8, 8]).expect("64 pixels")
}

/// A classifier of digits with dropout, so that its steps depend on their number.
fn classifier(device: &Device, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(
        device,
        &digits(4),
        |x| x.flatten().linear("fc1", 12).relu().dropout(0.3).linear("fc2", 10),
        |x, y| x.cross_entropy(y),
        optimizer,
    )
}

/// All of a history that does not depend on the clock, to the last bit.
fn numbers(history: &History) -> Vec<(usize, Vec<u32>, Vec<u64>)> {
    let row = |e: &downhill::Epoch| {
        let all = [Some(e.loss), e.accuracy, e.validation.map(|v| v.0), e.validation.and_then(|v| v.1), Some(e.lr)];
        (e.epoch, bits(&e.losses), all.iter().map(|x| x.map_or(0, f64::to_bits)).collect())
    };
    history.epochs.iter().map(row).collect()
}
