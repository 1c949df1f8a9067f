//! Gradient accumulation: steps that are made of micro-batches are those of the whole batch, to rounding; the same micro-batches give the
//! same bits from wherever they come; and a budget of memory is kept.

#[path = "../common/mod.rs"]
mod common;
mod divergence;
mod exact;
mod memory;

use common::{BOTH, Check, On, Suite};
use downhill::{
    Device, Error, Fit, Trainer,
    data::{self, Dataset},
    layers::Conv2d,
    optim::Optimizer,
};

fn main() {
    let mut suite = Suite::new();
    let everywhere = [On::Cpu, On::Gpu, On::Pieces];
    suite.each(&everywhere, "the mean of the whole batch", exact::plain);
    suite.each(&everywhere, "weighted means", exact::weighted);
    suite.each(&BOTH, "convolutions", exact::convolutions);
    suite.each(&[On::Small], "few bindings", exact::few_bindings);
    suite.each(&everywhere, "weights of 0", exact::weights_of_zero);
    suite.each(&everywhere, "the same bits from everywhere", exact::same_bits);
    suite.each(&BOTH, "the lower level, sizes mixed", exact::lower_level);
    suite.each(&everywhere, "dropout of each micro-batch", exact::dropout);
    suite.each(&BOTH, "running averages", exact::running_averages);
    suite.each(&BOTH, "one sample that is left", exact::one_left);
    suite.each(&BOTH, "a sample drawn in parts, reported whole", exact::reports);
    suite.each(&[On::Gpu], "what an epoch costs", exact::costs);
    suite.each(&everywhere, "a bad micro-batch", divergence::lower_level);
    suite.each(&BOTH, "a bad micro-batch of an epoch", divergence::epoch);
    suite.each(&BOTH, "a bad micro-batch and running averages", divergence::running_averages);
    suite.each(&BOTH, "micro-batches that wait are forgotten", divergence::forgotten);
    suite.each(&BOTH, "what may not be mixed", divergence::mixed);
    suite.each(&BOTH, "bad requests", divergence::requests);
    suite.each(&[On::Gpu, On::Webgpu, On::Pieces], "the bytes of every buffer", memory::exact);
    suite.each(&BOTH, "the largest micro-batch for a budget", memory::largest);
    suite.each(&[On::Gpu, On::Pieces], "a budget is kept", memory::kept);
    suite.each(&BOTH, "budgets that are too small", memory::too_small);
    suite.run()
}

/// The first `n` digits.
fn digits(n: usize) -> Dataset {
    data::digits().subset(&(0..n).collect::<Vec<_>>()).expect("there are that many")
}

/// A device of its own, on which nothing else is made meanwhile.
fn fresh(device: &Device) -> Result<Device, Error> {
    match device.as_gpu() {
        Some(gpu) => Device::open(gpu.options()),
        None => Ok(Device::cpu()),
    }
}

fn mlp(x: downhill::Tensor) -> downhill::Tensor {
    x.linear("fc1", 24).tanh().linear("fc2", 10)
}

fn cnn(x: downhill::Tensor) -> downhill::Tensor {
    let padded = Conv2d { padding: 1.into(), ..Conv2d::default() };
    x.conv2d_with("conv1", 6, 3, padded.clone()).relu().max_pool2d(2).conv2d_with("conv2", 8, 3, padded).relu().flatten().linear("fc", 10)
}

/// A classifier whose loss is a plain mean.
fn classifier(device: &Device, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(device, &digits(4), mlp, |y, t| y.cross_entropy(t), optimizer)
}

/// Batches of `batch` in micro-batches of `micro`.
fn cut(batch: usize, micro: usize) -> Fit<'static> {
    Fit::new().batch_size(batch).micro_batch(micro)
}

/// The batch of those rows, as `step` takes it.
fn rows(data: &Dataset, rows: std::ops::Range<usize>) -> Result<[downhill::Host<f32>; 2], Error> {
    let (x, y) = data.batch(&rows.collect::<Vec<_>>())?;
    Ok([x, y])
}

/// The start of an error.
fn says<T: std::fmt::Debug>(result: Result<T, Error>, start: &str) -> Check {
    let text = result.expect_err(start).to_string();
    assert!(text.starts_with(start), "`{text}`, not `{start}`");
    Ok(())
}
