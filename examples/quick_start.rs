//! A first training with callbacks, as in Keras's quick start. A network learns handwritten digits.
//!
//! ```text
//! cargo run --release --example quick_start
//! ```
//!
//! Four callbacks watch the loss on validation images. `ReduceLROnPlateau` lowers the learning rate when the loss has not fallen. `EarlyStopping`
//! ends the training when that did not help, and restores the best weights. `ModelCheckpoint` saves the best weights to a file. `CsvLogger`
//! writes a table of the epochs.

mod common;

use clap::Parser;
use common::{DeviceArgs, plot};
use downhill::{
    Evaluation, Fit, History, Trainer,
    callbacks::{CsvLogger, EarlyStopping, ModelCheckpoint, Monitor::ValLoss, ReduceLROnPlateau},
    data,
    optim::Adam,
};
use std::{error::Error, path::PathBuf, process::ExitCode};

/// Trains a network on handwritten digits, with four callbacks.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// The largest number of epochs
    #[arg(long, default_value_t = 100)]
    epochs: usize,
    /// The file for the best weights
    #[arg(long, value_name = "FILE.safetensors", default_value = "quick_start.safetensors", value_parser = common::new_file)]
    save: PathBuf,
    /// The file for the table of the epochs
    #[arg(long, value_name = "FILE.csv", default_value = "quick_start.csv", value_parser = common::new_file)]
    log: PathBuf,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

/// The results.
pub struct Report {
    pub history: History,
    /// The evaluation on test images with the best weights.
    pub test: Evaluation,
    /// The evaluation on the same images with the weights of the file.
    pub loaded: Evaluation,
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    let device = args.device.open()?;
    let (rest, test) = data::digits().stratified(0.8, 1)?;
    let (train, validation) = rest.stratified(0.8, 2)?;
    let mut trainer = Trainer::for_data(
        &device,
        &train,
        |x| x.linear("fc1", 64).relu().linear("fc2", 10),
        |scores, labels| scores.cross_entropy(labels),
        Adam::new(0.005),
    )?;
    let fit = Fit::new()
        .epochs(args.epochs)
        .batch_size(32)
        .validation(&validation)
        .progress(true)
        .with(ReduceLROnPlateau::new(ValLoss).factor(0.2).patience(2))
        .with(EarlyStopping::new(ValLoss).patience(8).restore_best_weights(true))
        .with(ModelCheckpoint::new(&args.save).save_best_only(ValLoss))
        .with(CsvLogger::new(&args.log));
    let history = trainer.fit(&train, fit)?;
    let result = trainer.evaluate(&test)?;
    println!("\n{} of {} epochs; {:.1} % of the test images", history.epochs.len(), args.epochs, percent(&result));

    trainer.load(&args.save)?;
    let loaded = trainer.evaluate(&test)?;
    println!("with the weights of {}: {:.1} %", args.save.display(), percent(&loaded));
    println!("table of the epochs: {}", args.log.display());
    args.plot.draw("quick start", || history.panels())?;
    Ok(Report { history, test: result, loaded })
}

fn percent(result: &Evaluation) -> f64 {
    100.0 * result.accuracy.unwrap_or(0.0)
}
