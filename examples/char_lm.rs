//! A small transformer that learns to write text, one character at a time.
//!
//! ```text
//! cargo run --release --example char_lm                          # Genesis, which ships with the crate
//! cargo run --release --example char_lm -- --text FILE --length 500 --temperature 0.6
//! ```
//!
//! The model reads a window of the text. At every position of the window, it predicts the next character. Attention is causal: a position
//! attends only to itself and earlier positions (Vaswani et al. 2017, "Attention Is All You Need"). Normalisation comes before each part, as
//! in Radford et al. 2019. The loss is in nats per character. The example also prints the loss of a model that knows only the frequency of
//! each character. This loss is the entropy of the frequencies.
//!
//! To write text, the example repeatedly draws a character from softmax(logits / temperature) and appends it. A low temperature prefers
//! probable characters. A high temperature allows improbable characters.

mod common;

use clap::Parser;
use common::{DeviceArgs, plot};
use downhill::{
    Fit, Graph, History, Host, Tensor, Trainer,
    data::{self, Text},
    init::Init,
    ops::attention::Attention,
    optim::{AdamW, Optimizer, Schedule},
    plot::Series,
    rng::Stream,
};
use rand::RngExt;
use std::{error::Error, num::NonZeroUsize, path::PathBuf, process::ExitCode};

/// Trains a transformer on a text and writes a continuation.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
pub struct Args {
    /// A text in UTF-8 [default: Genesis, which ships with the crate]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[arg(long, default_value = "14")]
    epochs: NonZeroUsize,
    /// The number of windows in a step
    #[arg(long, default_value = "32")]
    batch: NonZeroUsize,
    /// The largest learning rate. The rate rises to this value and then falls
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// The number of characters in a window
    #[arg(long, default_value = "96")]
    window: NonZeroUsize,
    /// The number of features of each position, a multiple of the number of heads
    #[arg(long, default_value = "128")]
    width: NonZeroUsize,
    #[arg(long, default_value = "4")]
    heads: NonZeroUsize,
    /// The number of transformer layers
    #[arg(long, default_value = "3")]
    layers: NonZeroUsize,
    /// The dropout probability. Dropout reduces overfitting to a short text
    #[arg(long, default_value_t = 0.15)]
    dropout: f32,
    /// The seed of initial weights, the order of windows, and the characters drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The beginning of the written text
    #[arg(long, default_value = "And God said")]
    prompt: String,
    /// The number of characters to write
    #[arg(long, default_value_t = 300)]
    length: usize,
    /// The temperature, above 0. A higher temperature gives less probable characters
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

/// The sizes of the network.
#[derive(Clone, Copy)]
struct Net {
    characters: usize,
    window: usize,
    width: usize,
    heads: usize,
    layers: usize,
    dropout: f32,
}

impl Net {
    /// Computes the logits `[n, t, characters]` of the next characters from tokens `[n, t]`.
    fn model(self, tokens: Tensor) -> Tensor {
        // There is a vector for each character, and a vector for each position of the window.
        let table = |name, rows| tokens.graph().param(name, [rows, self.width], Init::Normal { mean: 0.0, std: 0.1 });
        let mut x = table("characters", self.characters).gather_rows(tokens) + table("places", self.window);
        x = x.dropout(self.dropout);
        for i in 1..=self.layers {
            x = self.layer(x, &format!("layer{i}"));
        }
        x.layer_norm("norm").linear("next", self.characters)
    }
    /// Applies a transformer layer. It adds the output of causal attention to x, and then the output of two linear layers.
    fn layer<'g>(self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        let name = |part: &str| format!("{name}.{part}");
        let (n, t, heads, width) = (x.dim(0), x.dim(1), self.heads, self.width);
        // One product computes queries, keys and values: [3, n, heads, t, width of a head].
        let all = x.layer_norm(&name("norm1")).linear(&name("qkv"), 3 * width);
        let all = all.reshape([n, t, 3, heads, width / heads]).permute(&[2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|i| all.slice(0, i, i + 1).squeeze(0));
        let gathered = q.scaled_dot_product_attention(k, v, Attention { causal: true, ..Attention::default() });
        let x = x + gathered.permute(&[0, 2, 1, 3]).reshape([n, t, width]).linear(&name("out"), width).dropout(self.dropout);
        x + x.layer_norm(&name("norm2")).linear(&name("fc1"), 4 * width).gelu().linear(&name("fc2"), width).dropout(self.dropout)
    }
}

/// The results.
pub struct Report {
    pub history: History,
    /// The loss on held-out text of a model that knows only the frequencies of characters.
    pub baseline: f64,
    pub written: String,
}

fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    if !(args.temperature.is_finite() && args.temperature > 0.0) {
        return Err(format!("--temperature is {}, but must be above 0", args.temperature).into());
    }
    let (width, heads) = (args.width.get(), args.heads.get());
    if !width.is_multiple_of(heads) {
        return Err(format!("--width {width} is not a multiple of --heads {heads}").into());
    }
    let device = args.device.open()?;
    let text = match &args.text {
        Some(path) => Text::read(path)?,
        None => data::genesis(),
    };
    let prompt = text.encode(&args.prompt)?;
    if prompt.is_empty() {
        return Err("--prompt is empty: it takes a character to begin with".into());
    }
    let (train_text, test_text) = text.split(0.9)?;
    let window = args.window.get();
    let (train, test) = (train_text.windows(window, window)?, test_text.windows(window, window)?);
    let (characters, baseline) = (text.vocabulary().len(), frequencies_only(&train_text, &test_text));
    println!(
        "data:   {} characters to train with, {} held out, {characters} different ones",
        train_text.tokens().len(),
        test_text.tokens().len()
    );
    println!("their frequencies alone give a loss of {baseline:.4} nats a character on the held-out text");

    let net = Net { characters, window, width, heads, layers: args.layers.get(), dropout: args.dropout };
    let (epochs, batch) = (args.epochs.get(), args.batch.get());
    let steps = (epochs * train.len().div_ceil(batch)) as u64;
    let rule = Optimizer::from(AdamW::new(args.lr)).schedule(Schedule::one_cycle(steps)).clip_norm(1.0);
    let mut trainer = Trainer::for_data(&device, &train, move |tokens| net.model(tokens), |logits, next| logits.cross_entropy(next), rule)?
        .seed(args.seed)?;
    println!("\n{}", trainer.summary(batch)?);
    let history = trainer.fit(&train, Fit::new().epochs(epochs).batch_size(batch).validation(&test).progress(true))?;
    if let Some((loss, _)) = history.epochs.last().and_then(|e| e.validation) {
        println!(
            "\nheld-out text: {loss:.4} nats a character, {:.2} bits; {:.1}% of the frequencies' {baseline:.4}",
            loss / 2f64.ln(),
            100.0 * loss / baseline
        );
    }

    let tokens = write(&trainer, net, prompt, &args)?;
    let written = text.decode(&tokens)?;
    println!("\n{written}\n");
    args.plot.draw("a transformer on characters", || {
        let mut panels = history.panels();
        panels[0].series.push(Series::new("frequencies alone", [(0.0, baseline), (epochs as f64, baseline)]));
        panels
    })?;
    Ok(Report { history, baseline, written })
}

/// Computes the mean of −ln p over the test text. p is the frequency of a character in the training text. Each character is counted once
/// more than it occurs, so that p is never 0.
fn frequencies_only(train: &Text, test: &Text) -> f64 {
    let mut counts = vec![1.0; train.vocabulary().len()];
    train.tokens().iter().for_each(|&t| counts[t as usize] += 1.0);
    let total: f64 = counts.iter().sum();
    test.tokens().iter().map(|&t| -(counts[t as usize] / total).ln()).sum::<f64>() / test.tokens().len() as f64
}

/// Continues the prompt with the trained weights. The model reads the last characters that fit into its window.
fn write(trainer: &Trainer, net: Net, mut tokens: Vec<u32>, args: &Args) -> downhill::Result<Vec<u32>> {
    let g = Graph::inference();
    let mut next = trainer.compile(&[net.model(g.labels([1, net.window]))])?;
    let mut random = Stream::new(args.seed, "characters");
    for _ in 0..args.length {
        let start = tokens.len().saturating_sub(net.window);
        let mut window = tokens[start..].to_vec();
        let last = window.len() - 1;
        // Attention is causal, so the padding after the last character has no influence.
        window.resize(net.window, 0);
        let logits = next.run(&[Host::labels([1, net.window], window)])?[0].to_f64();
        tokens.push(draw(&logits[last * net.characters..(last + 1) * net.characters], args.temperature, &mut random));
    }
    Ok(tokens)
}

/// Draws an index from softmax(logits / temperature).
fn draw(logits: &[f64], temperature: f64, random: &mut Stream) -> u32 {
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| ((logit - largest) / temperature).exp()).collect();
    let mut left = random.random::<f64>() * weights.iter().sum::<f64>();
    for (i, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return i as u32;
        }
    }
    weights.len() as u32 - 1
}
