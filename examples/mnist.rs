//! Trains a network to classify images, shows its accuracy, and saves the weights.
//!
//! ```text
//! cargo run --release --example mnist                              # the shipped digits, on the best device
//! cargo run --release --example mnist -- --data fashion-mnist      # or a folder with the four IDX files
//! cargo run --release --example mnist -- --model cnn               # a convolutional network
//! cargo run --release --example mnist -- --memory --profile        # the memory and the time of a step
//! cargo run --release --example mnist -- --batch 1024 --micro-batch 64   # a large batch in the memory of a small one
//! mpirun -n 4 cargo run --release --features mpi --example mnist         # four processes train one network
//! ```

mod common;

use clap::{Parser, ValueEnum};
use common::{DeviceArgs, plot};
use downhill::{
    Device, Evaluation, Fit, History, Tensor, Trainer,
    data::{self, Dataset, Normalise},
    init::Init,
    layers::{Conv2d, Linear},
    optim::{Adagrad, Adam, AdamW, Optimizer, RmsProp, Schedule, Sgd},
    train::metrics::ConfusionMatrix,
};
use std::{
    error::Error,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Trains a network on images, evaluates it on other images, and saves it.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// A data set in the style of MNIST: a folder with its four IDX files, or a name such as fashion-mnist [default: the shipped digits]
    #[arg(long, value_name = "DIR|NAME")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Prints at the end the kernels that a GPU used, with reasons
    #[arg(long)]
    report: bool,
    /// The network: linear layers only (mlp), or convolutions before them (cnn)
    #[arg(long, value_enum, default_value = "mlp")]
    model: Kind,
    /// Applies batch norm after each convolution
    #[arg(long)]
    batch_norm: bool,
    /// The number of epochs [default: 60 for the digits, else 5; cnn: 40, else 8]
    #[arg(long)]
    epochs: Option<NonZeroUsize>,
    /// The number of images in a step, for each rank of mpirun [default: 64 for the digits, else 1024; cnn: 32, else 128]
    #[arg(long)]
    batch: Option<NonZeroUsize>,
    /// The number of images in a micro-batch. A step accumulates the gradients of its micro-batches [default: all images of a step]
    #[arg(long)]
    micro_batch: Option<NonZeroUsize>,
    /// The learning rate [default: depends on the optimizer]
    #[arg(long)]
    lr: Option<f64>,
    /// The seed of initial weights and shuffles, and of the choice of held-out digits
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, value_enum, default_value = "adam")]
    optimizer: Rule,
    /// The safetensors file for the weights
    #[arg(long, value_name = "FILE", default_value = "mnist.safetensors", value_parser = common::new_file)]
    save: PathBuf,
    /// Writes the results to this file as one JSON object
    #[arg(long, value_name = "FILE", value_parser = common::new_file)]
    json: Option<PathBuf>,
    /// Prints the memory of a step, by kind and by layer, and the largest batch that fits
    #[arg(long)]
    memory: bool,
    /// Prints where the time of a step goes. With a file, also writes a trace for ui.perfetto.dev
    #[arg(long, value_name = "TRACE.json", value_parser = common::new_file)]
    profile: Option<Option<PathBuf>>,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Mlp,
    Cnn,
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

/// A task: training images, held-out images, and the network for them.
struct Task {
    name: String,
    train: Dataset,
    test: Dataset,
    /// The height of an image in pixels.
    height: usize,
    width: usize,
    net: Net,
    epochs: usize,
    batch: usize,
    /// The number of processes that train together.
    ranks: usize,
}

/// The network: optional convolutions, then linear layers.
#[derive(Clone)]
struct Net {
    /// The number of channels of each convolution.
    channels: Vec<usize>,
    batch_norm: bool,
    /// The number of outputs of each linear layer.
    layers: Vec<usize>,
    /// The dropout probabilities of pixels and of hidden units. Dropout reduces overfitting to few images.
    dropout: (f32, f32),
}

impl Task {
    fn new(args: &Args, ranks: usize) -> downhill::Result<Task> {
        let (name, (mut train, mut test)) = match &args.data {
            Some(data) => (data.display().to_string(), data::mnist(data)?),
            None => ("handwritten digits".to_string(), data::digits().reshape([1, 8, 8])?.stratified(0.8, args.seed)?),
        };
        let (channels, hidden, dropout, epochs, batch) = match (args.model, &args.data) {
            (Kind::Mlp, None) => (vec![], vec![1024], (0.2, 0.5), 60, 64),
            (Kind::Mlp, Some(_)) => (vec![], vec![512, 256], (0.0, 0.0), 5, 1024),
            (Kind::Cnn, None) => (vec![16, 32], vec![128], (0.0, 0.5), 40, 32),
            (Kind::Cnn, Some(_)) => (vec![32, 64], vec![128], (0.0, 0.25), 8, 128),
        };
        let &[.., height, width] = train.sample_shape().dims() else { unreachable!("images have two axes") };
        if args.model == Kind::Mlp {
            (train, test) = (train.flat(), test.flat());
        }
        // Held-out images are normalised with the mean and deviation of the training images, like unknown images.
        let normalise = Normalise::overall(&train);
        normalise.apply(&mut train)?;
        normalise.apply(&mut test)?;
        let layers = hidden.into_iter().chain([train.classes()]).collect();
        let net = Net { channels, batch_norm: args.batch_norm, layers, dropout };
        let (epochs, batch) = (args.epochs.map_or(epochs, |n| n.get()), args.batch.map_or(batch, |n| n.get()));
        Ok(Task { name, train, test, height, width, net, epochs, batch, ranks })
    }
    fn trainer(&self, device: &Device, args: &Args) -> downhill::Result<Trainer> {
        let mut optimizer = args.optimizer.optimizer(args.lr);
        if args.model == Kind::Cnn {
            // A small learning rate at the end improves the accuracy by about one percent.
            optimizer = optimizer.schedule(Schedule::cosine((self.epochs * self.train.len().div_ceil(self.batch * self.ranks)) as u64));
        }
        let net = self.net.clone();
        Trainer::for_data(device, &self.train, move |x| net.model(x), |logits, labels| logits.cross_entropy(labels), optimizer)?
            .seed(args.seed)
    }
    fn fit(&self, args: &Args) -> Fit<'_> {
        let fit = Fit::new().epochs(self.epochs).batch_size(self.batch).validation(&self.test).progress(true);
        if let Some(n) = args.micro_batch { fit.micro_batch(n.get()) } else { fit }
    }
}

/// He's initialiser for the weights of layers before ReLU.
const RELU: Option<Init> = Some(Init::KaimingUniform { a: 0.0 });

impl Net {
    /// Computes the logits of images `[n, 1, height, width]`, or of rows of pixels if there are no convolutions.
    fn model<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let (pixels, hidden) = self.dropout;
        let mut x = x.dropout(pixels);
        for (i, &channels) in (1..).zip(&self.channels) {
            x = x.conv2d_with(&format!("conv{i}"), channels, 3, Conv2d { padding: 1.into(), weight: RELU, ..Conv2d::default() });
            if self.batch_norm {
                x = x.batch_norm(&format!("bn{i}"));
            }
            x = x.relu().max_pool2d(2);
        }
        x = x.flatten();
        for (i, &outputs) in (1..).zip(&self.layers) {
            if i > 1 {
                x = x.relu().dropout(hidden);
            }
            x = x.linear_with(&format!("fc{i}"), outputs, Linear { weight: RELU, ..Linear::default() });
        }
        x
    }
}

fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let world = common::world()?;
    let device = args.device.open_for(&world)?;
    if args.batch_norm && args.model == Kind::Mlp {
        return Err("--batch-norm is for --model cnn".into());
    }
    let task = Task::new(&args, world.size())?;
    if world.rank() > 0 {
        // Rank 0 alone prints and saves.
        task.trainer(&device, &args)?.distributed(&world)?.fit(&task.train, task.fit(&args))?;
        return Ok(());
    }
    println!(
        "data:   {}, {} images to train with, {} held out, {} classes",
        task.name,
        task.train.len(),
        task.test.len(),
        task.train.classes()
    );
    let trainer = task.trainer(&device, &args)?;
    println!("\n{}", trainer.summary(task.batch)?);
    if args.memory {
        println!("{}", trainer.memory(task.batch)?);
        match trainer.max_batch(None) {
            Ok(most) => println!("the largest batch that fits: {most} images\n"),
            Err(error) => println!("the largest batch that fits is not known: {error}\n"),
        }
    }
    if let Some(trace) = &args.profile {
        profile(&task, &device, &args, trace.as_deref())?;
    }

    let mut trainer = trainer.distributed(&world)?;
    let history = trainer.fit(&task.train, task.fit(&args))?;
    let seconds: f64 = history.epochs.iter().map(|e| e.seconds).sum();
    let evaluation = trainer.evaluate(&task.test)?;
    let accuracy = evaluation.accuracy.ok_or("the model is no classifier")?;
    println!("\ntrained in {seconds:.1} s; {:.2}% of the {} held-out images are read correctly\n", accuracy * 100.0, task.test.len());
    let matrix = ConfusionMatrix::new(evaluation.outputs.f(), task.test.classes(), task.test.labels())?;
    println!("{}", matrix.with_names(task.test.class_names()));
    show_some(&task, &evaluation)?;

    trainer.params().save(&args.save)?;
    reload(&task, &trainer, &args, &evaluation)?;
    args.plot.draw(&task.name, || history.panels())?;
    if let Some(gpu) = device.as_gpu().filter(|_| args.report) {
        println!("\n{}", gpu.choices());
    }
    if let Some(path) = &args.json {
        write_json(path, &device, &args, &history, accuracy)?;
    }
    Ok(())
}

/// Prints where the time of a step goes. A separate trainer makes the steps.
fn profile(task: &Task, device: &Device, args: &Args, trace: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let mut trainer = task.trainer(device, args)?;
    let rows: Vec<usize> = (0..task.batch.min(task.train.len())).collect();
    let (x, y) = task.train.batch(&rows)?;
    trainer.step(&[x, y])?;
    let profile = trainer.profile(20)?;
    println!("a step on {} images:\n{profile}", rows.len());
    if let Some(path) = trace {
        profile.write_trace(path)?;
        println!("its trace, for https://ui.perfetto.dev: {}", path.display());
    }
    println!();
    Ok(())
}

/// Loads the saved weights into a new trainer, and checks that its outputs are the same to the last bit.
fn reload(task: &Task, trained: &Trainer, args: &Args, before: &Evaluation) -> Result<(), Box<dyn Error>> {
    let mut fresh = task.trainer(trained.device(), args)?;
    let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    let weights = |trainer: &Trainer| trainer.params().all().map(|all| all.iter().flat_map(|(_, v)| v.f().to_vec()).collect::<Vec<_>>());
    let untrained = differ(&weights(&fresh)?, &weights(trained)?);
    fresh.params().load(&args.save)?;
    let (file, outputs) = (args.save.display(), before.outputs.len());
    println!("saved {} weights to {file}", fresh.params().elements());
    match differ(fresh.evaluate(&task.test)?.outputs.f(), before.outputs.f()) {
        0 => {
            println!(
                "loaded into a fresh trainer, in which {untrained} of them were others: all {outputs} outputs are the same to the last bit"
            );
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
    // Characters are about twice as high as wide. So a pixel of a small image takes two characters, and a character shows two rows of
    // pixels of a large image.
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

/// Returns the rows `y..y + down` of an image as text. Each pixel becomes `across` characters. Brighter pixels have denser characters.
fn shades(image: &[f32], width: usize, y: usize, down: usize, across: usize) -> String {
    const SHADES: &[u8] = b" .:-=+*#%@";
    let (low, high) = image.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let rows: Vec<&[f32]> = image.chunks(width).skip(y).take(down).collect();
    let shade = |x: usize| {
        let mean = rows.iter().map(|row| row[x]).sum::<f32>() / rows.len() as f32;
        // An image of one shade has no range. It is shown dark.
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
    Ok(downhill::file::replace(path, format!("{results:#}\n").as_bytes())?)
}
