//! A small transformer that learns to write, one character after the other.
//!
//! ```text
//! cargo run --release --example char_lm                          # Genesis, which ships with the crate
//! cargo run --release --example char_lm -- --text FILE --length 500 --temperature 0.6
//! ```
//!
//! The model reads a window of the text. At every place of the window it predicts the next character. Attention at a place sees
//! only this place and the places before it (Vaswani et al. 2017, "Attention Is All You Need"). The normalisation stands before
//! each part, as in Radford et al. 2019. The loss is in nats per character. The program also prints the entropy of the
//! character frequencies: this is the loss of a model that knows only how frequent each character is.
//!
//! After training, the program writes text. It draws a character from softmax(logits / temperature), appends it to the text,
//! and repeats this. A low temperature prefers likely characters; a high temperature takes more risks.

mod common;

use clap::Parser;
use common::{
    DeviceArgs,
    plot::{self, Series},
};
use downhill::{
    Fit, Graph, History, Host, Tensor, Trainer,
    data::{self, Text},
    init::Init,
    ops::attention::Attention,
    optim::{AdamW, Optimizer, Schedule},
    rng::Stream,
};
use rand::RngExt;
use std::{error::Error, num::NonZeroUsize, path::PathBuf, process::ExitCode};

/// Trains a transformer on a text, and writes more of it.
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
    /// Windows of a step
    #[arg(long, default_value = "32")]
    batch: NonZeroUsize,
    /// The largest learning rate; it rises to this and falls to 0
    #[arg(long, default_value_t = 3e-3)]
    lr: f64,
    /// Characters of a window: how far back it can look
    #[arg(long, default_value = "96")]
    window: NonZeroUsize,
    /// Numbers for each character between the layers; a multiple of the heads
    #[arg(long, default_value = "128")]
    width: NonZeroUsize,
    #[arg(long, default_value = "4")]
    heads: NonZeroUsize,
    /// Layers of attention
    #[arg(long, default_value = "3")]
    layers: NonZeroUsize,
    /// The share of numbers that a step leaves out between the layers: a short text is soon learnt by heart
    #[arg(long, default_value_t = 0.15)]
    dropout: f32,
    /// Decides initial weights, the order of windows, and the characters drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What the text that it writes begins with
    #[arg(long, default_value = "And God said")]
    prompt: String,
    /// Characters to write
    #[arg(long, default_value_t = 300)]
    length: usize,
    /// How much it risks: above 0
    #[arg(long, default_value_t = 0.8)]
    temperature: f64,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

/// Sizes of the network.
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
    /// Of tokens `[n, t]`, the logits `[n, t, characters]` of those that follow.
    fn model(self, tokens: Tensor) -> Tensor {
        // A vector for each character, and one for each place of the window.
        let table = |name, rows| tokens.graph().param(name, [rows, self.width], Init::Normal { mean: 0.0, std: 0.1 });
        let mut x = table("characters", self.characters).gather_rows(tokens) + table("places", self.window);
        x = x.dropout(self.dropout);
        for i in 1..=self.layers {
            x = self.layer(x, &format!("layer{i}"));
        }
        x.layer_norm("norm").linear("next", self.characters)
    }
    /// What each place gathers from those before it is added to it, then what two linear layers make of that.
    fn layer<'g>(self, x: Tensor<'g>, name: &str) -> Tensor<'g> {
        let name = |part: &str| format!("{name}.{part}");
        let (n, t, heads, width) = (x.dim(0), x.dim(1), self.heads, self.width);
        // Queries, keys and values by one product, [3, n, heads, t, width of a head].
        let all = x.layer_norm(&name("norm1")).linear(&name("qkv"), 3 * width);
        let all = all.reshape([n, t, 3, heads, width / heads]).permute(&[2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|i| all.slice(0, i, i + 1).squeeze(0));
        let gathered = q.scaled_dot_product_attention(k, v, Attention { causal: true, ..Attention::default() });
        let x = x + gathered.permute(&[0, 2, 1, 3]).reshape([n, t, width]).linear(&name("out"), width).dropout(self.dropout);
        x + x.layer_norm(&name("norm2")).linear(&name("fc1"), 4 * width).gelu().linear(&name("fc2"), width).dropout(self.dropout)
    }
}

/// How well it predicts, and what it wrote.
pub struct Report {
    pub history: History,
    /// The loss on held-out text of a model that knows the frequencies of characters alone.
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
        let mut panels = plot::history(&history);
        panels[0].series.push(Series::new("frequencies alone", [(0.0, baseline), (epochs as f64, baseline)]));
        panels
    })?;
    Ok(Report { history, baseline, written })
}

/// The mean of −ln p over one text, p the share of a character in another; each is counted once more than it occurs.
fn frequencies_only(train: &Text, test: &Text) -> f64 {
    let mut counts = vec![1.0; train.vocabulary().len()];
    train.tokens().iter().for_each(|&t| counts[t as usize] += 1.0);
    let total: f64 = counts.iter().sum();
    test.tokens().iter().map(|&t| -(counts[t as usize] / total).ln()).sum::<f64>() / test.tokens().len() as f64
}

/// Goes on from the prompt with the trained weights, on a window that slides over what has been written.
fn write(trainer: &Trainer, net: Net, mut tokens: Vec<u32>, args: &Args) -> downhill::Result<Vec<u32>> {
    let g = Graph::inference();
    let mut next = trainer.compile(&[net.model(g.labels([1, net.window]))])?;
    let mut random = Stream::new(args.seed, "characters");
    for _ in 0..args.length {
        let start = tokens.len().saturating_sub(net.window);
        let mut window = tokens[start..].to_vec();
        let last = window.len() - 1;
        // What stands behind the last character is not looked at.
        window.resize(net.window, 0);
        let logits = next.run(&[Host::labels([1, net.window], window)])?[0].to_f64();
        tokens.push(draw(&logits[last * net.characters..(last + 1) * net.characters], args.temperature, &mut random));
    }
    Ok(tokens)
}

/// An index, drawn from softmax(logits / temperature).
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
