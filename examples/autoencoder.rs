//! An autoencoder. It learns the look of images without labels. The network compresses each image to a small code and draws the image again
//! from the code.
//!
//! ```text
//! cargo run --release --example autoencoder                              # writes autoencoder.png
//! cargo run --release --example autoencoder -- --variational             # also writes samples.png, with new images
//! cargo run --release --example autoencoder -- --data fashion-mnist
//! ```
//!
//! Let x be the pixels, as probabilities of being bright, z the code, and x̂(z) the image drawn from the code. The loss of an image is
//!
//! ```text
//! autoencoder    L = −Σ x ln x̂(z) + (1 − x) ln(1 − x̂(z))                       z = encoder(x)
//! variational    L + KL,  KL = −½ Σ (1 + ln σ² − μ² − σ²)                       z = μ + σ ε,  ε normal,  (μ, ln σ²) = encoder(x)
//! ```
//!
//! The variational autoencoder (Kingma & Welling 2014, "Auto-Encoding Variational Bayes", eq. 10 and appendix B) draws z at random.
//! Neighbouring codes must therefore give similar images. The loss also pulls the codes of all images towards a normal distribution. So an
//! image drawn from a normal random code looks like the training images.

mod common;

use clap::Parser;
use common::{DeviceArgs, plot, png};
use downhill::{
    Fit, Graph, History, Tensor, Trainer,
    data::{self, Dataset},
    init::Init,
    layers::Linear,
    losses,
    optim::Adam,
};
use std::{error::Error, num::NonZeroUsize, path::PathBuf, process::ExitCode};

/// Compresses images to a small code and draws them again. With --variational, also draws images from random codes.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// A data set in the style of MNIST: a folder with its four IDX files, or a name such as fashion-mnist [default: the shipped digits]
    #[arg(long, value_name = "DIR|NAME")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Trains a variational autoencoder, which draws codes at random
    #[arg(long)]
    variational: bool,
    /// The size of a code [default: 8 for the digits, else 16]
    #[arg(long)]
    code: Option<NonZeroUsize>,
    /// The number of epochs [default: 60 for the digits, else 10]
    #[arg(long)]
    epochs: Option<NonZeroUsize>,
    /// The number of images in a step [default: 64 for the digits, else 256]
    #[arg(long)]
    batch: Option<NonZeroUsize>,
    /// The learning rate
    #[arg(long, default_value_t = 2e-3)]
    lr: f64,
    /// The seed of initial weights, shuffles and random codes, and of the choice of held-out digits
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file for held-out images, each with the image drawn from its code on the right
    #[arg(long, value_name = "FILE.png", default_value = "autoencoder.png", value_parser = common::new_file)]
    images: PathBuf,
    /// The file for images from random codes, with --variational
    #[arg(long, value_name = "FILE.png", default_value = "samples.png", value_parser = common::new_file)]
    samples: PathBuf,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

/// The sizes of the layers.
#[derive(Clone, Copy)]
struct Net {
    pixels: usize,
    hidden: usize,
    code: usize,
    variational: bool,
}

/// Applies a linear layer with He's initial weights, for ReLU.
fn layer<'g>(x: Tensor<'g>, name: &str, outputs: usize) -> Tensor<'g> {
    x.linear_with(name, outputs, Linear { weight: Some(Init::KaimingUniform { a: 0.0 }), ..Linear::default() })
}

impl Net {
    /// Computes the logit of each pixel from codes `[n, code]`.
    fn decoder(self, code: Tensor) -> Tensor {
        layer(code, "decoder1", self.hidden).relu().linear("decoder2", self.pixels)
    }
    /// Computes the logits of the drawn pixels from images `[n, pixels]`. The loss of the variational autoencoder also needs the mean and the
    /// logarithm of the variance. A model has one output, so the three tensors are concatenated along the last axis.
    fn model(self, x: Tensor) -> Tensor {
        let hidden = layer(x, "encoder1", self.hidden).relu();
        let mean = hidden.linear("encoder2", self.code);
        if !self.variational {
            return self.decoder(mean);
        }
        let log_variance = hidden.linear("encoder3", self.code);
        // In this form, z has a gradient with respect to mean and variance, because the noise does not depend on them.
        let noise = x.graph().normal(mean.shape());
        let code = if x.graph().is_training() { mean + (log_variance * 0.5).exp() * noise } else { mean };
        self.decoder(code).concat(&[mean, log_variance], -1)
    }
    /// Computes the mean over images of the loss defined at the top of this file.
    fn loss<'g>(self, output: Tensor<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let (pixels, code) = (self.pixels, self.code);
        let drawn = losses::bce_with_logits(output.slice(-1, 0, pixels), x).none().sum(&[-1], false);
        if !self.variational {
            return drawn.mean_all();
        }
        let (mean, log_variance) = (output.slice(-1, pixels, pixels + code), output.slice(-1, pixels + code, pixels + 2 * code));
        let kl = (log_variance.exp() + mean.square() - log_variance - 1.0).sum(&[-1], false) * 0.5;
        (drawn + kl).mean_all()
    }
}

/// The results.
pub struct Report {
    pub history: History,
    /// The mean squared error of the pixels of held-out images.
    pub error: f64,
    /// The mean squared error of the mean training image, which is the best image that can be drawn without a code.
    pub baseline: f64,
}

fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    let device = args.device.open()?;
    let (name, (train, test), hidden, code, epochs, batch) = match &args.data {
        Some(data) => (data.display().to_string(), data::mnist(data)?, 512, 16, 10, 256),
        None => ("handwritten digits".into(), data::digits().reshape([1, 8, 8])?.stratified(0.8, args.seed)?, 256, 8, 60, 64),
    };
    let image = train.sample_shape();
    let (train, test) = (train.flat().without_target(), test.flat().without_target());
    let or = |given: Option<NonZeroUsize>, default| given.map_or(default, NonZeroUsize::get);
    let net = Net { pixels: image.elements(), hidden, code: or(args.code, code), variational: args.variational };
    println!(
        "data:   {name}, {} images to train with, {} held out; {} numbers for {} pixels",
        train.len(),
        test.len(),
        net.code,
        net.pixels
    );

    let mut trainer = Trainer::for_data(&device, &train, move |x| net.model(x), move |output, x| net.loss(output, x), Adam::new(args.lr))?
        .seed(args.seed)?;
    let fit = Fit::new().epochs(or(args.epochs, epochs)).batch_size(or(args.batch, batch)).validation(&test).progress(true);
    let history = trainer.fit(&train, fit)?;

    let output = trainer.evaluate(&test)?.outputs;
    let width = output.shape.last();
    let drawn: Vec<f32> = output.f().chunks(width).flat_map(|row| &row[..net.pixels]).map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    let truth = pixels(&test)?;
    let mean = mean_image(&pixels(&train)?, net.pixels);
    let error = squared(&drawn, &truth);
    let baseline = squared(&mean.iter().copied().cycle().take(truth.len()).collect::<Vec<_>>(), &truth);
    println!("\nmean squared error of a pixel, held-out images: {error:.5}; of the mean image in place of each: {baseline:.5}");

    let scale = if net.pixels <= 16 * 16 { 4 } else { 2 };
    let pairs = truth.chunks(net.pixels).zip(drawn.chunks(net.pixels)).take(64);
    png::grid(&args.images, &pairs.flat_map(|(x, y)| [x, y]).flatten().copied().collect::<Vec<_>>(), image, 16, scale)?;
    println!("held-out images, each with its copy on its right: {}", args.images.display());
    if net.variational {
        let g = Graph::inference();
        let samples = trainer.compile(&[net.decoder(g.normal([100, net.code])).sigmoid()])?.run(&[])?;
        png::grid(&args.samples, samples[0].f(), image, 10, scale)?;
        println!("images of random codes: {}", args.samples.display());
    }
    args.plot.draw(&format!("autoencoder, {name}"), || history.panels())?;
    Ok(Report { history, error, baseline })
}

/// Returns every pixel of every image.
fn pixels(data: &Dataset) -> downhill::Result<Vec<f32>> {
    Ok(data.batch(..)?.0.f().to_vec())
}

fn mean_image(images: &[f32], pixels: usize) -> Vec<f32> {
    let mut sum = vec![0.0; pixels];
    images.chunks(pixels).for_each(|image| sum.iter_mut().zip(image).for_each(|(sum, &x)| *sum += f64::from(x)));
    sum.iter().map(|sum| (sum / (images.len() / pixels) as f64) as f32).collect()
}

fn squared(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / x.len() as f64
}
