//! Learns to read images, shows how well, and keeps the weights.
//!
//! ```text
//! cargo run --release --example mnist                              # the digits that ship, on the best device
//! cargo run --release --example mnist -- --data fashion-mnist      # or a folder with the four IDX files
//! ```

mod common;

use clap::{Parser, ValueEnum};
use common::{DeviceArgs, plot};
use downhill::{
    Device, Evaluation, Fit, History, Tensor, Trainer,
    data::{self, Dataset, Normalise},
    init::Init,
    layers::Linear,
    optim::{Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd},
    train::metrics::ConfusionMatrix,
};
use std::{
    error::Error,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Trains a network on images, evaluates it on others, and saves it.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// An MNIST-style set: a folder of its four IDX files, or a name such as fashion-mnist [default: the digits that ship]
    #[arg(long, value_name = "DIR|NAME")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// How often to go through the training images [default: 60 for the digits, else 5]
    #[arg(long)]
    epochs: Option<NonZeroUsize>,
    /// Images of a step [default: 64 for the digits, else 1024]
    #[arg(long)]
    batch: Option<NonZeroUsize>,
    /// The learning rate [default: one that suits the optimizer]
    #[arg(long)]
    lr: Option<f64>,
    /// Decides initial weights, shuffles, and which of the digits are held out
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: Rule,
    /// Where the weights go, as safetensors
    #[arg(long, value_name = "FILE", default_value = "mnist.safetensors", value_parser = common::new_file)]
    save: PathBuf,
    /// Writes the results to this file, as one JSON object
    #[arg(long, value_name = "FILE", value_parser = common::new_file)]
    json: Option<PathBuf>,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
enum Rule {
    Sgd,
    Momentum,
    RmsProp,
    Adagrad,
    Adam,
    AdamW,
}

impl Rule {
    fn optimizer(self, lr: Option<f64>) -> Optimizer {
        let or = |default| lr.unwrap_or(default);
        match self {
            Rule::Sgd => Sgd::new(or(0.1)).into(),
            Rule::Momentum => Sgd::new(or(0.02)).momentum(0.9).into(),
            Rule::RmsProp => RmsProp::new(or(1e-3)).into(),
            Rule::Adagrad => Adagrad::new(or(0.02)).into(),
            Rule::Adam => Adam::new(or(1e-3)).into(),
            Rule::AdamW => AdamW::new(or(1e-3)).into(),
        }
    }
}

/// What is learnt: two sets of images, one to train with and one held out, and the network for them.
struct Task {
    name: String,
    train: Dataset,
    test: Dataset,
    /// Pixels of an image.
    height: usize,
    width: usize,
    /// Outputs of each layer.
    layers: Vec<usize>,
    /// The share of pixels, and of hidden units, that a step leaves out: few images are soon learnt by heart.
    dropout: (f32, f32),
    epochs: usize,
    batch: usize,
}

impl Task {
    fn new(args: &Args) -> downhill::Result<Task> {
        let (name, (train, test), hidden, dropout, epochs, batch) = match &args.data {
            Some(data) => (data.display().to_string(), data::mnist(data)?, vec![512, 256], (0.0, 0.0), 5, 1024),
            None => {
                let digits = data::digits().reshape([1, 8, 8])?;
                ("handwritten digits".to_string(), digits.stratified(0.8, args.seed)?, vec![1024], (0.2, 0.5), 60, 64)
            }
        };
        let &[.., height, width] = train.sample_shape().dims() else { unreachable!("images have two axes") };
        let (mut train, mut test) = (train.flat(), test.flat());
        // The held-out images are seen through the training images' mean and deviation, as an unknown one would be.
        let normalise = Normalise::overall(&train);
        normalise.apply(&mut train)?;
        normalise.apply(&mut test)?;
        let layers = hidden.into_iter().chain([train.classes()]).collect();
        let (epochs, batch) = (args.epochs.map_or(epochs, |n| n.get()), args.batch.map_or(batch, |n| n.get()));
        Ok(Task { name, train, test, height, width, layers, dropout, epochs, batch })
    }
    fn trainer(&self, device: &Device, args: &Args) -> downhill::Result<Trainer> {
        let (layers, dropout, optimizer) = (self.layers.clone(), self.dropout, args.optimizer.optimizer(args.lr));
        Trainer::for_data(device, &self.train, move |x| mlp(x, &layers, dropout), |logits, labels| logits.cross_entropy(labels), optimizer)?
            .seed(args.seed)
    }
}

/// Linear layers with ReLU between them, which is what He's initial weights are for.
fn mlp<'g>(x: Tensor<'g>, layers: &[usize], (pixels, hidden): (f32, f32)) -> Tensor<'g> {
    layers.iter().enumerate().fold(x, |x, (i, &outputs)| {
        let x = if i == 0 { x.dropout(pixels) } else { x.relu().dropout(hidden) };
        x.linear_with(&format!("fc{}", i + 1), outputs, Linear { weight: Some(Init::KaimingUniform { a: 0.0 }), ..Linear::default() })
    })
}

fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let device = args.device.open()?;
    let task = Task::new(&args)?;
    println!(
        "data:   {}, {} images to train with, {} held out, {} classes",
        task.name,
        task.train.len(),
        task.test.len(),
        task.train.classes()
    );
    let mut trainer = task.trainer(&device, &args)?;
    println!("\n{}", trainer.summary(task.batch)?);

    let history = trainer.fit(&task.train, Fit::new().epochs(task.epochs).batch_size(task.batch).validation(&task.test).progress(true))?;
    let seconds: f64 = history.epochs.iter().map(|e| e.seconds).sum();
    let evaluation = trainer.evaluate(&task.test)?;
    let accuracy = evaluation.accuracy.ok_or("the model is no classifier")?;
    println!("\ntrained in {seconds:.1} s; {:.2}% of the {} held-out images are read correctly\n", accuracy * 100.0, task.test.len());
    let matrix = ConfusionMatrix::new(evaluation.outputs.f(), task.test.classes(), task.test.labels())?;
    println!("{}", matrix.with_names(task.test.class_names()));
    show_some(&task, &evaluation)?;

    trainer.params().save(&args.save)?;
    reload(&task, &device, &args, &evaluation)?;
    args.plot.draw(&task.name, || plot::history(&history))?;
    if let Some(path) = &args.json {
        write_json(path, &device, &args, &history, accuracy)?;
    }
    Ok(())
}

/// A trainer that has learnt nothing predicts the same, to the last bit, once it has the saved weights.
fn reload(task: &Task, device: &Device, args: &Args, before: &Evaluation) -> Result<(), Box<dyn Error>> {
    let mut fresh = task.trainer(device, args)?;
    let differ = |a: &Evaluation| a.outputs.f().iter().zip(before.outputs.f()).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let untrained = differ(&fresh.evaluate(&task.test)?);
    fresh.params().load(&args.save)?;
    let (file, outputs) = (args.save.display(), before.outputs.len());
    println!("saved {} weights to {file}", fresh.params().elements());
    match differ(&fresh.evaluate(&task.test)?) {
        0 => {
            println!("loaded into a fresh trainer: all {outputs} outputs are the same to the last bit ({untrained} differed before)");
            Ok(())
        }
        n => Err(format!("{file}: after loading it, {n} of {outputs} outputs differ").into()),
    }
}

/// Prints the first images that were read correctly, and the first that were not.
fn show_some(task: &Task, evaluation: &Evaluation) -> downhill::Result<()> {
    let predicted = evaluation.predictions()?;
    let labels = task.test.labels();
    let (right, wrong): (Vec<usize>, Vec<usize>) = (0..labels.len()).partition(|&i| predicted[i] == labels[i]);
    // Characters are about twice as high as wide: a small image takes two of them a pixel, a large one two pixels each.
    let (across, down) = if task.width <= 16 { (2, 1) } else { (1, 2) };
    let columns = task.width * across;
    let beside = (100 / (columns + 2)).clamp(1, 4);
    for (title, rows) in [("some that were read correctly:", right), ("some that were not:", wrong)] {
        let rows = &rows[..rows.len().min(beside)];
        if rows.is_empty() {
            continue;
        }
        println!("{title}");
        let (x, _) = task.test.batch(rows)?;
        for y in (0..task.height).step_by(down) {
            let line = |image: &[f32]| shades(image, task.width, y, down, across);
            println!("  {}", x.f().chunks(task.height * task.width).map(line).collect::<Vec<_>>().join("  ").trim_end());
        }
        let names = [("predicted", &predicted[..]), ("true", labels)];
        for (what, classes) in names {
            let name = |&i: &usize| format!("{:columns$}", format!("{what} {}", task.test.class_name(classes[i])));
            println!("  {}", rows.iter().map(name).collect::<Vec<_>>().join("  ").trim_end());
        }
        println!();
    }
    Ok(())
}

/// Row `y` of an image (with the ones below it up to `y + down`), each pixel as `across` characters from dark to bright.
fn shades(image: &[f32], width: usize, y: usize, down: usize, across: usize) -> String {
    const SHADES: &[u8] = b" .:-=+*#%@";
    let (low, high) = image.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let rows: Vec<&[f32]> = image.chunks(width).skip(y).take(down).collect();
    let shade = |x: usize| {
        let mean = rows.iter().map(|row| row[x]).sum::<f32>() / rows.len() as f32;
        // An image of one shade has no range; it is shown dark.
        let level = (mean - low) / (high - low).max(f32::MIN_POSITIVE) * (SHADES.len() - 1) as f32;
        SHADES[(level.round() as usize).min(SHADES.len() - 1)] as char
    };
    (0..width).flat_map(|x| std::iter::repeat_n(shade(x), across)).collect()
}

fn write_json(path: &Path, device: &Device, args: &Args, history: &History, accuracy: f64) -> Result<(), Box<dyn Error>> {
    let seconds: f64 = history.epochs.iter().map(|e| e.seconds).sum();
    let samples: f64 = history.epochs.iter().map(|e| e.samples_per_s * e.seconds).sum();
    let results = serde_json::json!({
        "device": device.name(),
        "driver": device.driver(),
        "epochs": history.epochs.len(),
        "train_loss": history.epochs.last().map(|e| e.loss),
        "test_accuracy": accuracy,
        "samples_per_s": samples / seconds,
        "seconds": seconds,
        "seed": args.seed,
    });
    std::fs::write(path, format!("{results:#}\n")).map_err(|e| format!("{}: {e}", path.display()).into())
}
