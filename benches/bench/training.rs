//! Whole steps of training, and what the host has to do for them.

use crate::{
    On,
    kernels::{MLP, again, uniform},
    table::{Rate, Table, Turn},
};
use downhill::{
    Compiled, DType, Device, Error, Event, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{Dataset, Target},
    ops::Fill,
    optim::Adam,
    plan, testing,
};
use serde_json::json;
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

pub fn mlp(x: Tensor<'_>) -> Tensor<'_> {
    MLP.into_iter().enumerate().fold(x, |y, (i, (name, _, outputs))| if i == 0 { y } else { y.relu() }.linear(name, outputs))
}

/// Returns `n` samples of noise with 28 × 28 pixels in 10 classes, as bytes.
pub fn images(n: usize) -> Result<Dataset, Error> {
    let labels = testing::fill(Shape::from([n]).of(DType::U32), &Fill::Labels(10), 5);
    let pixels = (0..n * 784).map(|i| (i as u32).wrapping_mul(0x9E37_79B9).to_be_bytes()[0]).collect();
    Dataset::bytes(pixels, [784], 1.0 / 255.0, Target::labels(labels.u().to_vec(), 10))
}

fn trainer(device: &Device, data: &Dataset) -> Result<Trainer, Error> {
    Trainer::for_data(device, data, mlp, |y, labels| y.cross_entropy(labels), Adam::new(1e-4))
}

/// Samples a second of `fit` at this batch size, for about `time`: what gathers the batches, normalises them and steps.
fn fitted(trainer: &mut Trainer, data: &Dataset, [batch, micro]: [usize; 2], time: Duration) -> Result<Duration, Error> {
    let (started, mut steps) = (Instant::now(), 0);
    // Only whole batches: the last one of an epoch would have a plan of its own.
    let until = |event: &Event| {
        steps += matches!(event, Event::Step { .. }) as u32;
        if started.elapsed() < time { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let fit = Fit::new().epochs(1000).batch_size(batch).callback(until);
    trainer.fit(data, if micro < batch { fit.micro_batch(micro) } else { fit })?;
    Ok(started.elapsed() / steps.max(1))
}

pub fn training(table: &mut Table, on: &On) {
    table.open("training", &format!("{WHAT}: a step of `fit`, gathering its batch included"));
    let sizes: &[usize] = if on.quick { &[128, 1024] } else { &[128, 1024, 4096] };
    fits(table, on, sizes);
}

/// Every power of two, and on the CPU large batches also in micro-batches. The plot in docs/performance.md shows these rows.
pub fn scaling(table: &mut Table, on: &On) {
    const MICRO: usize = 1024;
    table.open("scaling", &format!("{WHAT}: samples a second by batch size"));
    let most = if on.quick { 12 } else { 16 };
    let sizes = (5..=most).map(|power| 1 << power);
    let mut all: Vec<[usize; 2]> = sizes.clone().map(|batch| [batch; 2]).collect();
    if on.device.as_gpu().is_none() {
        all.extend(sizes.filter(|&batch| batch > MICRO).map(|batch| [batch, MICRO]));
    }
    let (made, time) = (images(1 << most.max(14)), table.budget.time / 3);
    let mut rows: Vec<Turn> = Vec::new();
    for [batch, micro] in all {
        let name = if micro < batch { format!("batch {batch} in {micro}") } else { format!("batch {batch}") };
        let (made, mut known) = (&made, None);
        let run = move || {
            let data = made.as_ref().map_err(Error::clone)?;
            let trainer = match &mut known {
                Some(trainer) => trainer,
                none => none.insert(trainer(&on.device, data)?),
            };
            fitted(trainer, data, [batch, micro], time)
        };
        if table.wants(&name) {
            rows.push((name, Rate::Samples(batch as f64), Box::new(run)));
        }
    }
    table.in_turns(&mut rows);
    table.close();
}

const WHAT: &str = "MLP 784-512-256-10, ReLU, cross-entropy, Adam";

fn fits(table: &mut Table, on: &On, sizes: &[usize]) {
    let largest = sizes.iter().copied().max().unwrap_or(1);
    let data = images(largest.max(1 << 14));
    for &batch in sizes {
        let (row, rate, time) = (format!("batch {batch}"), Rate::Samples(batch as f64), table.budget.time / 3);
        let made = data.clone().and_then(|data| {
            let mut trainer = trainer(&on.device, &data)?;
            fitted(&mut trainer, &data, [batch; 2], Duration::ZERO)?;
            Ok((trainer, data))
        });
        match made {
            Ok((mut trainer, data)) => table.timed(&row, rate, json!({}), || fitted(&mut trainer, &data, [batch; 2], time)),
            Err(error) => table.timed(&row, rate, json!({}), || Err(Error::clone(&error))),
        };
    }
    table.close();
}

/// Samples of the batch that is cut.
const LOGICAL: usize = 1 << 16;

/// A step on 65,536 samples, by what it computes at a time. `bytes` are those that [`Trainer::micro_memory`] says.
pub fn accumulation(table: &mut Table, on: &On) {
    table.open("accumulation", &format!("{WHAT}: a step on {LOGICAL} samples, by the size of micro-batches"));
    let data = images(LOGICAL);
    // A software adapter takes some ten seconds a step.
    let (least, by) = if on.quick { (12, 4) } else { (8, if on.software { 4 } else { 2 }) };
    for micro in (least..=16).step_by(by).map(|power| 1 << power) {
        let (row, rate) = (format!("batch {LOGICAL} in {micro}"), Rate::Samples(LOGICAL as f64));
        if !table.wants(&row) {
            continue;
        }
        let made = data.clone().and_then(|data| {
            let trainer = trainer(&on.device, &data)?;
            let memory = if micro < LOGICAL { trainer.micro_memory(micro)? } else { trainer.memory(LOGICAL)? };
            Ok((trainer, data, memory.total()))
        });
        match made {
            Ok((mut trainer, data, bytes)) => table.timed(&row, rate, json!({ "bytes": bytes }), || {
                let started = Instant::now();
                trainer.fit(&data, Fit::new().batch_size(LOGICAL).micro_batch(micro))?;
                Ok(started.elapsed())
            }),
            Err(error) => table.timed(&row, rate, json!({}), || Err(Error::clone(&error))),
        };
    }
    table.close();
}

/// From nothing to the loss of the first step, with no kernel compiled and none chosen before. Some drivers keep compiled kernels in files
/// of their own: Mesa does unless `MESA_SHADER_CACHE_DISABLE=true` is in the environment.
pub fn start(table: &mut Table, on: &On) {
    table.open("start", "from opening the device to the first loss of that MLP at batch 1024");
    let data = images(1024);
    table.timed("first step", Rate::None, json!({}), || {
        let data = data.clone()?;
        let folder = tempfile::tempdir().map_err(|e| Error::Argument { what: "a folder for the cache".into(), why: e.to_string() })?;
        let started = Instant::now();
        let device = on.reopen(folder.path())?;
        let mut trainer = trainer(&device, &data)?;
        trainer.fit(&data, Fit::new().batch_size(1024))?;
        Ok(started.elapsed())
    });
    table.close();
}

/// A graph of the MLP and a batch for it.
fn loaded(device: &Device, batch: usize) -> Result<(Trainer, [Host<f32>; 2]), Error> {
    let g = Graph::training();
    let (x, labels) = (g.input([batch, 784]), g.labels([batch]));
    let trainer = Trainer::new(device, mlp(x).cross_entropy(labels), Adam::new(1e-4))?;
    let labels = testing::fill(Shape::from([batch]).of(DType::U32), &Fill::Labels(10), 5);
    Ok((trainer, [uniform([batch, 784], 4), labels]))
}

/// Measures the work of the host. Between the timed parts, it waits for the work of the device.
pub fn host(table: &mut Table, on: &On) {
    if on.device.as_gpu().is_none() {
        return;
    }
    table.open("host", "the host's time to encode and submit, without waiting");
    const CHAIN: u32 = 512;
    let chain = (|| {
        let g = Graph::inference();
        let x = g.input([64]);
        let y = (0..CHAIN).fold(x, |y, _| y + 1.0);
        let plan = plan::PlanOptions { fuse: false, ..on.device.plan_options() };
        let mut f = Compiled::new(&on.device, &[y], &plan, 0)?;
        f.load(&[uniform([64], 1)])?;
        Ok(f)
    })();
    let row = format!("a dispatch (one of {CHAIN})");
    match chain {
        Ok(mut f) => table.timed(&row, Rate::None, json!({}), || {
            let started = Instant::now();
            f.launch()?;
            let took = started.elapsed() / CHAIN;
            f.wait()?;
            Ok(took)
        }),
        Err(error) => table.timed(&row, Rate::None, json!({}), || Err(Error::clone(&error))),
    };
    let made = loaded(&on.device, 128).and_then(|(mut trainer, data)| {
        trainer.step(&data)?;
        let before = trainer.counters().unwrap_or_default();
        again(&mut trainer, 10)?;
        let after = trainer.counters().unwrap_or_default();
        Ok((trainer, data, (after.submits - before.submits) as f64 / 10.0, (after.dispatches - before.dispatches) / 10))
    });
    let (mut trainer, data, submits, dispatches) = match made {
        Ok(made) => made,
        Err(error) => {
            table.timed("a step of the MLP", Rate::None, json!({}), || Err(Error::clone(&error)));
            return table.close();
        }
    };
    let more = json!({ "submits_per_step": submits, "dispatches_per_step": dispatches });
    let mut time = |row: &str, batch: Option<&[Host<f32>]>| {
        table.timed(row, Rate::None, more.clone(), || {
            let started = Instant::now();
            match batch {
                Some(batch) => trainer.step(batch)?,
                None => trainer.step_again()?,
            }
            let took = started.elapsed();
            trainer.take_reports()?;
            Ok(took)
        })
    };
    let median = time("a step of the MLP", None);
    time("the same, checking and uploading a batch of 128", Some(&data));
    let verdict = median.map_or("", |s| if s < 1e-3 { ", under 1 ms" } else { ", NOT under 1 ms" });
    table.note(&format!("submits a step: {submits}; dispatches a step: {dispatches}{verdict}"));
    table.close();
}
