//! Data and initial weights of the programs in this folder. `scripts/programs/common.py` draws the same numbers.

use crate::golden::{generate, mix};
use downhill::{Host, Result, Shape, Trainer, weights};
use flate2::Crc;
use std::path::Path;

/// Numbers in [−1, 1).
pub fn uniform(seed: u64, n: usize) -> Vec<f32> {
    generate(seed, n, 1.0)
}

/// Numbers in 0..below.
pub fn indices(seed: u64, below: u64, n: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (mix(seed, i) % below) as u32).collect()
}

/// The initial values of a parameter or of a running average: matrices within 1/√fan_in, vectors within 0.1 of 0, or of 1 where they are
/// scales or variances.
fn drawn(name: &str, shape: Shape) -> Host<f32> {
    let (dims, mut crc) = (shape.dims(), Crc::new());
    crc.update(name.as_bytes());
    let bound = if dims.len() > 1 { 1.0 / (dims[1..].iter().product::<usize>() as f64).sqrt() } else { 0.1 };
    let scale = dims.len() == 1 && (name.ends_with(".weight") || name.ends_with("running_var"));
    let values = generate(crc.sum().into(), shape.elements(), bound as f32);
    Host::new(shape, values.into_iter().map(|x| x + f32::from(u8::from(scale))).collect())
}

/// Sets all parameters and running averages to their initial values.
pub fn start(trainer: &Trainer) -> Result<()> {
    let all: Vec<_> = trainer.params().shapes().map(|(name, shape)| (name.to_string(), drawn(name, shape))).collect();
    trainer.params().set_all(&all)
}

/// The losses of the steps since the last call.
pub fn losses(trainer: &mut Trainer) -> Result<Vec<f64>> {
    Ok(trainer.take_reports()?.iter().map(|report| report.loss.into()).collect())
}

/// Writes the network that `transfer` loads: it has learnt to tell four rotations.
pub fn pretrained(path: &Path) -> Result<()> {
    let norm =
        |name: &str, n: usize| ["weight", "bias", "running_mean", "running_var"].map(|part| (format!("{name}.{part}"), Shape::from([n])));
    let mut all = [norm("features.1", 8), norm("features.5", 16)].concat();
    let more =
        [("features.0.weight", [8, 1, 3, 3].into()), ("features.4.weight", [16, 8, 3, 3].into()), ("head.weight", Shape::from([4, 64]))];
    all.extend(more.map(|(name, shape)| (name.to_string(), shape)));
    let values: Vec<_> = all.into_iter().map(|(name, shape)| (name.clone(), drawn(&format!("pretrained.{name}"), shape))).collect();
    weights::write(path, &values)
}
