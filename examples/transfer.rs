//! Transfer learning. A network that has learnt to name digits learns to tell odd digits from even ones, from a few images.
//!
//! ```text
//! cargo run --release --example transfer
//! cargo run --release --example transfer -- --shots 1
//! ```
//!
//! The layers below the last one, the backbone, are loaded from the file of the first network. At first they are frozen, and only a new last
//! layer is trained. Then all layers are trained, the backbone with a smaller rate (fine-tuning). A network that starts from random weights
//! is trained on the same few images for comparison.

mod common;

use clap::Parser;
use common::DeviceArgs;
use downhill::{
    Device, Fit, Load, Result, Tensor, Trainer,
    data::{self, Dataset, Field},
    layers::{BatchNorm, Conv2d},
    optim::{Adam, GroupOptions, Optimizer},
};
use std::{error::Error, num::NonZeroUsize, path::PathBuf, process::ExitCode};

/// Trains a network to name digits, and uses what it has learnt to tell odd digits from even ones.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// The number of images of each digit that show which digits are odd
    #[arg(long, default_value = "3")]
    shots: NonZeroUsize,
    /// The seed of initial weights, shuffles and the choice of images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for the weights of the first network
    #[arg(long, value_name = "FILE.safetensors", default_value = "transfer.safetensors", value_parser = common::new_file)]
    save: PathBuf,
}

/// The shares of held-out images that are recognised.
#[derive(Debug)]
pub struct Report {
    /// The digits, by the first network.
    pub digits: f64,
    /// Odd or even, by a network that started from random weights.
    pub scratch: f64,
    /// The same, with a frozen backbone.
    pub frozen: f64,
    /// The same, after fine-tuning.
    pub tuned: f64,
}

/// Computes the scores of classes. In training, `frozen` norms use the statistics that they were loaded with.
fn net<'g>(x: Tensor<'g>, classes: usize, frozen: bool) -> Tensor<'g> {
    let conv = || Conv2d { padding: 1.into(), no_bias: true, ..Conv2d::default() };
    let norm = BatchNorm { frozen, ..BatchNorm::default() };
    let x = x.conv2d_with("backbone.conv1", 16, 3, conv()).batch_norm_with("backbone.bn1", norm).relu().max_pool2d(2);
    let x = x.conv2d_with("backbone.conv2", 32, 3, conv()).batch_norm_with("backbone.bn2", norm).relu().max_pool2d(2);
    x.flatten().linear("head", classes)
}

fn trainer(device: &Device, data: &Dataset, frozen: bool, optimizer: impl Into<Optimizer>, seed: u64) -> Result<Trainer> {
    let classes = data.classes();
    Trainer::for_data(device, data, move |x| net(x, classes, frozen), |scores, labels| scores.cross_entropy(labels), optimizer)?.seed(seed)
}

/// Returns the same images with the classes even and odd.
fn parity(digits: &Dataset) -> Result<Dataset> {
    let odd = digits.labels().iter().map(|label| label % 2).collect();
    Dataset::of([digits.field("x")?.clone(), Field::labels("y", odd, 2)])
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    let device = args.device.open()?;
    let (train, test) = data::digits().reshape([1, 8, 8])?.stratified(0.8, args.seed)?;
    let few = train.stratified(10.0 * args.shots.get() as f64 / train.len() as f64, args.seed);
    let (few, _) = few.map_err(|_| format!("--shots {}: there are {} images of all digits", args.shots, train.len()))?;
    let mut first = trainer(&device, &train, false, Adam::new(2e-3), args.seed)?;
    first.fit(&train, Fit::new().epochs(10).progress(true))?;
    first.params().save(&args.save)?;
    let accuracy = |trainer: &mut Trainer, test: &Dataset| Ok::<_, downhill::Error>(trainer.evaluate(test)?.accuracy.unwrap_or(0.0));
    let digits = accuracy(&mut first, &test)?;

    let (few, test) = (parity(&few)?, parity(&test)?);
    let fit = |epochs: usize| Fit::new().epochs(epochs).batch_size(10);
    let mut scratch = trainer(&device, &few, false, Adam::new(2e-3), args.seed)?;
    scratch.fit(&few, fit(60))?;
    let scratch = accuracy(&mut scratch, &test)?;

    let mut head = trainer(&device, &few, true, Adam::new(0.01).freeze(["backbone"]), args.seed)?;
    let backbone = Load { only: &|name| name.starts_with("backbone."), ..Load::default() };
    let loaded = head.params().load_with(&args.save, backbone)?;
    println!("\nloaded: {}; not loaded: {}", loaded.loaded.join(", "), loaded.unexpected.join(", "));
    head.fit(&few, fit(30))?;
    let frozen = accuracy(&mut head, &test)?;

    let slow = GroupOptions { lr_scale: 0.1, ..GroupOptions::default() };
    let tuned = Adam::new(2e-3).group(|name| name.starts_with("backbone."), slow);
    let mut tuned = trainer(&device, &few, true, tuned, args.seed)?;
    tuned.params().copy_from(&head.params(), |_| true)?;
    tuned.fit(&few, fit(30))?;
    let tuned = accuracy(&mut tuned, &test)?;

    println!("{:5.1} % of the held-out digits are named right by the first network, which had {} images", 100.0 * digits, train.len());
    println!("{:5.1} % are told odd from even by a network that started from random weights and had {}", 100.0 * scratch, few.len());
    println!("{:5.1} % by the loaded backbone and a new last layer, which had the same images", 100.0 * frozen);
    println!("{:5.1} % after all its layers were trained on them", 100.0 * tuned);
    Ok(Report { digits, scratch, frozen, tuned })
}
