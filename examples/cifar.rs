//! A residual network on CIFAR-10: 60,000 colour images of 32 × 32 pixels in ten classes (Krizhevsky 2009).
//!
//! ```text
//! cargo run --release --example cifar -- --data DIR       # the files of cifar-10-binary.tar.gz
//! ```
//!
//! A residual block adds the output of two convolutions to the input of the block (He et al. 2015, "Deep Residual Learning for Image
//! Recognition", fig. 2 and section 4.2, the network for CIFAR-10):
//!
//! ```text
//! y = relu(x + bn(conv(relu(bn(conv(x))))))           where size and channels change: bn(conv1×1(x)) in place of x
//! ```
//!
//! The network has three stages of residual blocks. Each stage has half the height and width and twice the channels of the stage before. The
//! mean of each channel and a linear layer follow. In training, each image is flipped at random, as in the paper.

mod common;

use clap::Parser;
use common::{DeviceArgs, plot, png};
use downhill::{
    Fit, History, Tensor, Trainer,
    data::{self, Dataset, Normalise},
    init::Init,
    layers::Conv2d,
    optim::{Optimizer, Schedule, Sgd},
    train::metrics::ConfusionMatrix,
};
use std::{error::Error, num::NonZeroUsize, path::PathBuf, process::ExitCode};

/// Trains a residual network on the files of CIFAR-10.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// A folder with the files of CIFAR-10's binary version, or a name to search for in the folders of data sets
    #[arg(long, value_name = "DIR|NAME", default_value = "cifar-10")]
    data: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
    /// The number of blocks in each of the three stages. 3 gives the network of 20 layers in the paper
    #[arg(long, default_value = "1")]
    blocks: NonZeroUsize,
    /// The number of channels in the first stage
    #[arg(long, default_value = "16")]
    channels: NonZeroUsize,
    #[arg(long, default_value = "10")]
    epochs: NonZeroUsize,
    #[arg(long, default_value = "128")]
    batch: NonZeroUsize,
    /// The largest learning rate of SGD with momentum. The rate rises to this value and then falls
    #[arg(long, default_value_t = 0.1)]
    lr: f64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for some held-out images that were not recognised
    #[arg(long, value_name = "FILE.png", value_parser = common::new_file)]
    wrong: Option<PathBuf>,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

/// The sizes of the network.
#[derive(Clone, Copy)]
struct Net {
    blocks: usize,
    channels: usize,
    classes: usize,
}

/// Applies a convolution and batch norm. The convolution has no bias, because the normalisation would remove it.
fn conv_bn<'g>(x: Tensor<'g>, name: &str, out: usize, kernel: usize, stride: usize) -> Tensor<'g> {
    let options = Conv2d {
        padding: (kernel / 2).into(),
        stride: [stride; 2],
        no_bias: true,
        weight: Some(Init::KaimingNormal { a: 0.0 }),
        ..Conv2d::default()
    };
    x.conv2d_with(&format!("{name}.conv"), out, kernel, options).batch_norm(&format!("{name}.bn"))
}

fn block<'g>(x: Tensor<'g>, name: &str, out: usize, stride: usize) -> Tensor<'g> {
    let inner = conv_bn(x, &format!("{name}.1"), out, 3, stride).relu();
    let y = conv_bn(inner, &format!("{name}.2"), out, 3, 1);
    let same = x.dim(1) == out && stride == 1;
    let shortcut = if same { x } else { conv_bn(x, &format!("{name}.shortcut"), out, 1, stride) };
    (shortcut + y).relu()
}

/// Flips about half of the images `[n, c, h, w]` in training. Each step flips other images.
fn mirror(x: Tensor) -> Tensor {
    let g = x.graph();
    if g.is_training() { g.uniform([x.dim(0), 1, 1, 1]).lt(0.5).where_(x, x.flip(-1)) } else { x }
}

impl Net {
    fn model(self, x: Tensor) -> Tensor {
        let mut x = conv_bn(mirror(x), "stem", self.channels, 3, 1).relu();
        for stage in 0..3 {
            for k in 0..self.blocks {
                let stride = if stage > 0 && k == 0 { 2 } else { 1 };
                x = block(x, &format!("stage{}.{}", stage + 1, k + 1), self.channels << stage, stride);
            }
        }
        x.global_avg_pool2d().linear("fc", self.classes)
    }
}

/// The results.
pub struct Report {
    pub history: History,
    /// The share of held-out images whose class was predicted correctly.
    pub accuracy: f64,
}

fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    let device = args.device.open()?;
    let (mut train, mut test) = data::cifar10(&args.data).map_err(|e| match e {
        downhill::Error::NoData { .. } => format!("{e} (--data DIR); it is at https://www.cs.toronto.edu/~kriz/cifar.html"),
        other => other.to_string(),
    })?;
    println!("data:   {}, {} images to train with, {} held out", args.data.display(), train.len(), test.len());
    // Held-out images are normalised with the mean and deviation of the training images, like unknown images.
    let normalise = Normalise::overall(&train);
    normalise.apply(&mut train)?;
    normalise.apply(&mut test)?;

    let net = Net { blocks: args.blocks.get(), channels: args.channels.get(), classes: train.classes() };
    let (epochs, batch) = (args.epochs.get(), args.batch.get());
    let steps = (epochs * train.len().div_ceil(batch)) as u64;
    let rule = Optimizer::from(Sgd::new(args.lr).momentum(0.9).weight_decay(5e-4)).schedule(Schedule::one_cycle(steps));
    let mut trainer =
        Trainer::for_data(&device, &train, move |x| net.model(x), |logits, labels| logits.cross_entropy(labels), rule)?.seed(args.seed)?;
    println!("\n{}", trainer.summary(batch)?);
    let history = trainer.fit(&train, Fit::new().epochs(epochs).batch_size(batch).validation(&test).progress(true))?;

    let evaluation = trainer.evaluate(&test)?;
    let accuracy = evaluation.accuracy.ok_or("the model is no classifier")?;
    println!("\n{:.2}% of the {} held-out images are recognised\n", accuracy * 100.0, test.len());
    let matrix = ConfusionMatrix::new(evaluation.outputs.f(), test.classes(), test.labels())?;
    println!("{}", matrix.with_names(test.class_names()));
    if let Some(path) = &args.wrong {
        draw_wrong(path, &test, &evaluation.predictions()?, &normalise)?;
    }
    args.plot.draw(&format!("residual network, {}", args.data.display()), || history.panels())?;
    Ok(Report { history, accuracy })
}

/// Draws the first images whose class was predicted wrongly, and lists the true and the predicted classes.
fn draw_wrong(path: &std::path::Path, test: &Dataset, predicted: &[u32], normalise: &Normalise) -> Result<(), Box<dyn Error>> {
    let labels = test.labels();
    let wrong: Vec<usize> = (0..test.len()).filter(|&i| predicted[i] != labels[i]).take(40).collect();
    if wrong.is_empty() {
        println!("every held-out image is recognised: nothing is drawn");
        return Ok(());
    }
    let mut pixels = test.batch(&wrong)?.0.f().to_vec();
    normalise.undo(&mut pixels)?;
    png::grid(path, &pixels, test.sample_shape(), 10, 2)?;
    println!("not recognised, from left to right, drawn in {}:", path.display());
    for row in wrong.chunks(10) {
        let named = row.iter().map(|&i| format!("{} (taken for {})", test.class_name(labels[i]), test.class_name(predicted[i])));
        println!("  {}", named.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
