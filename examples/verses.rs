//! A classifier of texts of several lengths: which half of Genesis is a verse from?
//!
//! ```text
//! cargo run --release --example verses                       # attention, with a mask for the padding
//! cargo run --release --example verses -- --model lstm       # an LSTM, with the lengths of the verses
//! ```
//!
//! A verse is a line of the text. Its words are tokens, and shorter verses are padded to the length of the longest. Neither model sees the
//! padding: the result for a verse does not depend on the verses beside it.

mod common;

use clap::{Parser, ValueEnum};
use common::{DeviceArgs, plot};
use downhill::{
    Batch, Fit, History, Outputs, Result, Tensor, Trainer,
    callbacks::{EarlyStopping, Monitor::ValLoss},
    data::{self, Dataset, Field},
    layers::{AttentionMask, Direction, Recurrent, TransformerEncoderLayer},
    optim::Adam,
};
use std::{collections::HashMap, error::Error, process::ExitCode};

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Model {
    Attention,
    Lstm,
}

/// Trains a classifier of verses.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: DeviceArgs,
    /// How the words of a verse are combined
    #[arg(long, value_enum, default_value = "attention")]
    model: Model,
    /// The largest number of epochs
    #[arg(long, default_value_t = 15)]
    epochs: usize,
    /// The seed of initial weights, shuffles, dropout and of the choice of held-out verses
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

/// The results.
pub struct Report {
    pub history: History,
    /// The share of held-out verses that are classified correctly.
    pub accuracy: f64,
    /// The same share if every verse gets the more frequent class.
    pub baseline: f64,
}

/// The longest verse, in words. The rest of a longer verse is left out.
const LONGEST: usize = 48;
/// The size of the vector of a word.
const WIDTH: usize = 32;

/// Returns the verses as columns `words`, `length` and `half`, and the number of different words. Word 0 is the padding, and word 1 stands
/// for all words that occur once.
fn verses() -> Result<(Dataset, usize)> {
    let text = data::genesis();
    let text = text.decode(text.tokens())?.to_lowercase();
    let split = |line: &'_ str| -> Vec<String> {
        let words = line.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
        words.take(LONGEST).map(String::from).collect()
    };
    let verses: Vec<Vec<String>> = text.lines().map(split).filter(|verse| !verse.is_empty()).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    verses.iter().flatten().for_each(|word| *counts.entry(word).or_default() += 1);
    let mut frequent: Vec<&str> = counts.iter().filter(|(_, count)| **count > 1).map(|(word, _)| *word).collect();
    frequent.sort_unstable();
    let numbers: HashMap<&str, u32> = frequent.iter().zip(2..).map(|(word, number)| (*word, number)).collect();
    let padded = |verse: &Vec<String>| {
        let tokens = verse.iter().map(|word| numbers.get(word.as_str()).copied().unwrap_or(1));
        tokens.chain([0; LONGEST]).take(LONGEST).collect::<Vec<u32>>()
    };
    let vocabulary = frequent.len() + 2;
    let data = Dataset::of([
        Field::tokens("words", [LONGEST], verses.iter().flat_map(padded).collect(), vocabulary),
        Field::lengths(verses.iter().map(|verse| verse.len() as u32).collect(), LONGEST),
        Field::labels("half", (0..verses.len()).map(|i| u32::from(2 * i >= verses.len())).collect(), 2),
    ])?;
    Ok((data, vocabulary))
}

/// Words see each other by attention. The mean over the words of the verse gives the scores.
fn attention<'g>(words: Tensor<'g>, lengths: Tensor<'g>) -> Tensor<'g> {
    let options = TransformerEncoderLayer { norm_first: true, dropout: 0.3, mask: AttentionMask::lengths(lengths), ..Default::default() };
    let x = words.positional_embedding("places", LONGEST).transformer_encoder_layer_with("block", 4, 2 * WIDTH, options);
    let valid = lengths.sequence_mask(LONGEST).unsqueeze(-1);
    (x * valid).sum(&[1], false) / lengths.to_f32().unsqueeze(-1)
}

/// An LSTM reads the words in both directions. The last states of both give the scores.
fn lstm<'g>(words: Tensor<'g>, lengths: Tensor<'g>) -> Tensor<'g> {
    let options = Recurrent { lengths: Some(lengths), direction: Direction::Both, ..Recurrent::default() };
    words.lstm_with("lstm", WIDTH, options).h.permute(&[1, 0, 2]).flatten()
}

fn model<'g>(b: &Batch<'g>, model: Model, vocabulary: usize) -> Outputs<'g> {
    let words = b["words"].embedding("words", vocabulary, WIDTH).dropout(0.3);
    let x = match model {
        Model::Attention => attention(words, b["length"]),
        Model::Lstm => lstm(words, b["length"]),
    };
    let scores = x.dropout(0.3).linear("out", 2);
    Outputs::from(scores.cross_entropy(b["half"])).output("scores", scores)
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<Report, Box<dyn Error>> {
    let device = args.device.open()?;
    let (data, vocabulary) = verses()?;
    let (rest, test) = data.split(0.8, args.seed)?;
    let (train, validation) = rest.split(0.9, args.seed)?;
    println!("data:   {} verses to train with, {} held out, {vocabulary} words", train.len(), test.len());
    let which = args.model;
    let mut trainer = Trainer::for_batches(&device, &train, move |b| model(b, which, vocabulary), Adam::new(2e-3))?.seed(args.seed)?;
    let early = EarlyStopping::new(ValLoss).patience(4).restore_best_weights(true);
    let history = trainer.fit(&train, Fit::new().epochs(args.epochs).validation(&validation).progress(true).with(early))?;

    let accuracy = trainer.evaluate(&test)?.accuracy.unwrap_or(0.0);
    let second = test.labels().iter().filter(|&&half| half == 1).count() as f64 / test.len() as f64;
    let baseline = second.max(1.0 - second);
    println!(
        "\n{:.1} % of the held-out verses are placed in their half; {:.1} % if all are placed in one",
        100.0 * accuracy,
        100.0 * baseline
    );
    args.plot.draw("verses", || history.panels())?;
    Ok(Report { history, accuracy, baseline })
}
