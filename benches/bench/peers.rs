//! The workloads that `scripts/peers.py` gives to PyTorch as well: the same first weights and batches to the bit, so that
//! the losses must agree. Times include getting a batch from memory, as there.

use crate::{
    On,
    kernels::again,
    table::{Rate, Table},
    training::mlp,
};
use downhill::{
    Error, Graph, Host, Result, Tensor, Trainer,
    data::{self, Dataset, Target},
    init::Init,
    layers::Conv2d,
    optim::{Adam, Optimizer, Sgd},
};
use serde_json::json;
use std::time::Instant;

/// SplitMix64 (Steele, Lea & Flood 2014) of a counter.
fn mix(seed: u64, n: usize) -> impl Iterator<Item = u64> {
    (0..n as u64).map(move |i| {
        let z = (seed << 32).wrapping_add(i).wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// Uniform over ±bound.
fn uniform(seed: u64, n: usize, bound: f64) -> Vec<f32> {
    mix(seed, n).map(|z| ((z >> 40) as f32 * 2f32.powi(-24) * 2.0 - 1.0) * bound as f32).collect()
}

/// The same million numbers again and again.
fn tiled(seed: u64, n: usize, bound: f64) -> Vec<f32> {
    uniform(seed, n.min(1 << 20), bound).into_iter().cycle().take(n).collect()
}

/// Fashion-MNIST's training images, normalised, as floats.
fn fashion() -> Result<Dataset> {
    let (train, _) = data::mnist("fashion-mnist")?;
    let (x, _) = train.batch(&(0..train.len()).collect::<Vec<_>>())?;
    let x = x.f().iter().map(|x| (x - 0.2860) / 0.3530).collect();
    Dataset::new(x, [784], Target::labels(train.labels().to_vec(), 10))
}

pub fn cnn(x: Tensor<'_>) -> Tensor<'_> {
    let same = || Conv2d { padding: 1.into(), ..Conv2d::default() };
    let x = x.reshape([x.shape().dims()[0], 1, 28, 28]);
    let x = x.conv2d_with("conv1", 32, 3, same()).relu().max_pool2d(2);
    let x = x.conv2d_with("conv2", 64, 3, same()).relu().max_pool2d(2);
    x.flatten().linear("fc1", 128).relu().linear("fc2", 10)
}

/// A model, its optimizer, and the layers in the order of their numbers, with what an output is the sum of.
struct Work {
    name: &'static str,
    model: for<'g> fn(Tensor<'g>) -> Tensor<'g>,
    optimizer: Optimizer,
    layers: &'static [(u64, &'static str, usize)],
    /// The step whose loss is compared, from 1.
    loss_step: u64,
}

impl Work {
    fn trainer(&self, on: &On, data: &Dataset) -> Result<Trainer> {
        let trainer = Trainer::for_data(&on.device, data, self.model, |y, labels| y.cross_entropy(labels), self.optimizer.clone())?;
        for &(number, layer, fan_in) in self.layers {
            let bound = 1.0 / (fan_in as f64).sqrt();
            let (weight, bias) = (format!("{layer}.weight"), format!("{layer}.bias"));
            let shape = trainer.params().get(&weight)?.shape;
            let (inputs, outputs) = (fan_in, shape.dims()[0]);
            let mut values = uniform(1000 * number + 1, shape.elements(), bound);
            if shape.rank() == 2 {
                // They are numbered as [inputs, outputs].
                values = (0..outputs * inputs).map(|e| values[e % inputs * outputs + e / inputs]).collect();
            }
            trainer.params().set(&weight, &Host::new(shape, values))?;
            trainer.params().set(&bias, &Host::new([outputs], uniform(1000 * number + 2, outputs, bound)))?;
        }
        Ok(trainer)
    }
    fn row(&self, table: &mut Table, on: &On, batch: usize, data: &mut Option<Result<Dataset>>) {
        let row = format!("{}, batch {batch}", self.name);
        if !table.wants(&row) {
            return;
        }
        let data = data.get_or_insert_with(fashion).as_ref();
        let made = data.map_err(Error::clone).and_then(|data| {
            let mut run = Batches { trainer: self.trainer(on, data)?, data, batch, order: Vec::new(), next: 0 };
            run.steps(self.loss_step as usize)?;
            let loss = run.trainer.loss()?;
            run.trainer.take_reports()?;
            Ok((run, loss))
        });
        let rate = Rate::Samples(batch as f64);
        match made {
            Ok((mut run, loss)) => {
                let more = json!({ "loss": loss, "loss_step": self.loss_step });
                let one = run.time(1).unwrap_or_default().as_secs_f64();
                let n = (table.budget.repetition.as_secs_f64() / one.max(1e-9)).clamp(1.0, 50.0) as usize;
                table.timed(&row, rate, more, || run.time(n));
            }
            Err(error) => drop(table.timed(&row, rate, json!({}), || Err(Error::clone(&error)))),
        }
    }
}

/// Batches of whole size, in an order for each epoch.
struct Batches<'a> {
    trainer: Trainer,
    data: &'a Dataset,
    batch: usize,
    order: Vec<usize>,
    next: usize,
}

impl Batches<'_> {
    fn steps(&mut self, n: usize) -> Result<()> {
        let of_epoch = self.data.len() / self.batch;
        for _ in 0..n {
            let (epoch, k) = (self.next / of_epoch, self.next % of_epoch);
            if k == 0 {
                let keys: Vec<u64> = mix(5000 + epoch as u64, self.data.len()).collect();
                self.order = (0..self.data.len()).collect();
                self.order.sort_by_key(|&i| keys[i]);
            }
            let (x, y) = self.data.batch(&self.order[k * self.batch..][..self.batch])?;
            self.trainer.step(&[x, y])?;
            self.next += 1;
        }
        Ok(())
    }
    fn time(&mut self, n: usize) -> Result<std::time::Duration> {
        let started = Instant::now();
        self.steps(n)?;
        self.trainer.take_reports()?;
        Ok(started.elapsed() / n as u32)
    }
}

pub fn peers(table: &mut Table, on: &On) {
    table.open("peers", "what scripts/peers.py compares with PyTorch; a batch is gathered in each step");
    // Repetitions as long as those of the other side.
    table.budget.repetition *= 10;
    let mlp = Work {
        name: "MLP",
        model: mlp,
        optimizer: Adam::new(1e-3).into(),
        layers: &[(1, "fc1", 784), (2, "fc2", 512), (3, "fc3", 256)],
        loss_step: 20,
    };
    let cnn = Work {
        name: "CNN",
        model: cnn,
        optimizer: Sgd::new(0.05).momentum(0.9).into(),
        layers: &[(11, "conv1", 9), (12, "conv2", 288), (13, "fc1", 3136), (14, "fc2", 128)],
        loss_step: 10,
    };
    let mut data = None;
    for batch in [128, 1024] {
        mlp.row(table, on, batch, &mut data);
    }
    cnn.row(table, on, 256, &mut data);
    for (name, n) in [("16 Mi", 1usize << 24), ("50 M", 50_000_000)] {
        let row = format!("Adam, {name}");
        if table.wants(&row) {
            adam(table, on, &row, n);
        }
    }
    for (name, n) in [("16 Mi", 1usize << 24), ("64 Mi", 1 << 26)] {
        let row = format!("relu(a·x + b), {name}");
        if table.wants(&row) {
            elementwise(table, on, &row, n);
        }
    }
    table.budget.repetition /= 10;
    table.close();
}

/// The update of n parameters whose gradients are there.
fn adam(table: &mut Table, on: &On, row: &str, n: usize) {
    let (w, gradient) = (tiled(31, n, 0.05), tiled(32, n, 0.01));
    let made = (|| {
        let g = Graph::training();
        let mut trainer = Trainer::new(&on.device, g.param("w", [n], Init::Zeros).sum_all(), Adam::new(1e-3))?;
        trainer.params().set("w", &Host::new([n], w.clone()))?;
        trainer.apply_gradients(&[("w", Host::new([n], gradient.clone()))])?;
        Ok(trainer)
    })();
    let rate = Rate::Bytes(28.0 * n as f64);
    match made {
        Ok(mut trainer) => {
            table.repeated(row, rate, |n| again(&mut trainer, n));
            // With a constant gradient every step moves by lr · g / (|g| + eps).
            let steps = trainer.steps() as f32;
            let now = trainer.params().get("w").map(|w| w.f()[..1024].to_vec()).unwrap_or_default();
            let want = |i: usize| w[i] - 1e-3 * steps * gradient[i] / (gradient[i].abs() + 1e-8);
            let worst = now.iter().enumerate().map(|(i, w)| (w - want(i)).abs() / (1.0 + want(i).abs())).fold(0.0, f32::max);
            table.note(&format!("largest difference from the closed form after {steps} steps: {worst:.1e}"));
        }
        Err(error) => table.repeated(row, rate, |_| Err(Error::clone(&error))),
    }
}

fn elementwise(table: &mut Table, on: &On, row: &str, n: usize) {
    let made = (|| {
        let g = Graph::inference();
        let mut f = on.device.compile(&[(g.input([n]) * 1.7 - 0.3).relu()])?;
        f.load(&[Host::new([n], tiled(21, n, 1.0))])?;
        Ok(f)
    })();
    let rate = Rate::Bytes(8.0 * n as f64);
    match made {
        Ok(mut f) => table.repeated(row, rate, |n| {
            (0..n).try_for_each(|_| f.launch())?;
            f.wait()
        }),
        Err(error) => table.repeated(row, rate, |_| Err(Error::clone(&error))),
    }
}
