//! Which half of Genesis a verse is from: verses of several lengths, by attention and by an LSTM, both without the padding.

use super::shared::{losses, start};
use downhill::{
    Batch, Device, Fit, Result, Tensor, Trainer,
    data::{self, Dataset, Field},
    layers::{AttentionMask, Recurrent, TransformerEncoderLayer},
    optim::Adam,
};
use std::collections::HashMap;

const LONGEST: usize = 24;

fn verses() -> Result<(Dataset, usize)> {
    let text = data::genesis();
    let text = text.decode(text.tokens())?.to_lowercase();
    let verses: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().take(LONGEST).collect()).collect();
    let mut words = HashMap::new();
    for word in verses.iter().flatten() {
        let new = words.len() as u32 + 1;
        words.entry(word).or_insert(new);
    }
    let order: Vec<usize> = (0..640).map(|k| k * 619 % verses.len()).collect();
    let padded = |i: &usize| (0..LONGEST).map(|k| verses[*i].get(k).map_or(0, |word| words[word])).collect::<Vec<_>>();
    let data = Dataset::of([
        Field::tokens("words", [LONGEST], order.iter().flat_map(padded).collect(), words.len() + 1),
        Field::lengths(order.iter().map(|&i| verses[i].len() as u32).collect(), LONGEST),
        Field::labels("half", order.iter().map(|&i| u32::from(i >= verses.len() / 2)).collect(), 2),
    ])?;
    Ok((data, words.len() + 1))
}

fn attention<'g>(b: &Batch<'g>, words: usize) -> Tensor<'g> {
    let x = b["words"].embedding("embed", words, 16).positional_embedding("pos", LONGEST);
    let mask = AttentionMask::lengths(b["length"]);
    let options = TransformerEncoderLayer { norm_first: true, dropout: 0.0, mask, ..TransformerEncoderLayer::default() };
    let x = x.transformer_encoder_layer_with("block", 4, 32, options);
    let valid = b["length"].sequence_mask(LONGEST).unsqueeze(-1);
    let mean = (x * valid).sum(&[1], false) / b["length"].to_f32().unsqueeze(-1);
    mean.linear("out", 2)
}

fn lstm<'g>(b: &Batch<'g>, words: usize) -> Tensor<'g> {
    let options = Recurrent { lengths: Some(b["length"]), ..Recurrent::default() };
    b["words"].embedding("embed", words, 16).lstm_with("lstm", 24, options).h.squeeze(0).linear("out", 2)
}

type Model = for<'g> fn(&Batch<'g>, usize) -> Tensor<'g>;

fn train(device: &Device, model: Model) -> Result<Vec<f64>> {
    let (data, words) = verses()?;
    let mut trainer = Trainer::for_batches(device, &data, move |b| model(b, words).cross_entropy(b["half"]).into(), Adam::new(0.01))?;
    start(&trainer)?;
    trainer.fit(&data, Fit::new().batch_size(64).shuffle(false))?;
    losses(&mut trainer)
}

pub fn run(device: &Device) -> Result<Vec<f64>> {
    Ok([train(device, attention)?, train(device, lstm)?].concat())
}
