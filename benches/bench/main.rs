//! `cargo bench`: how fast each device of this machine is.
//!
//! Every row is repeated after a warm-up; the time of work on a GPU includes waiting for it. Options go after `--`:
//! `cargo bench -- --device cpu --filter matmul --quick --json rows.jsonl`.

mod table;

use clap::Parser;
use downhill::{
    Compiled, DType, Device, Error, Graph, Host, Shape, Tensor, Trainer,
    gpu::{Choice, GpuOptions},
    init::Init,
    ops::{
        Fill,
        attention::Attention,
        conv2d::{Conv2d, Conv2dGradW, Conv2dGradX, Geometry},
    },
    optim::Adam,
    plan, testing,
};
use serde_json::json;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use table::{Budget, Rate, Table};

#[derive(Parser)]
#[command(about = "How fast each device of this machine is")]
struct Options {
    /// Only devices with this in their name, whatever the case.
    #[arg(long)]
    device: Option<String>,
    /// Only benches with this in their name: matmul, attention, conv2d, elementwise, reduction, normalisation, optimizer, training, host.
    #[arg(long)]
    filter: Option<String>,
    /// Fewer and smaller rows, measured for a shorter time.
    #[arg(long)]
    quick: bool,
    /// Appends every row to this file, a JSON object a line.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Portable kernels only, instead of those that are measured to be fastest.
    #[arg(long)]
    no_tune: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

type Bench = fn(&mut Table, &On);

const BENCHES: [(&str, Bench); 9] = [
    ("matmul", matmul),
    ("attention", attention),
    ("conv2d", conv2d),
    ("elementwise", elementwise),
    ("reduction", reduction),
    ("normalisation", normalisation),
    ("optimizer", optimizer),
    ("training", training),
    ("host", host),
];

/// A device, and how much of it there is time for.
struct On {
    device: Device,
    /// The adapter is a CPU in disguise: large rows would take minutes.
    software: bool,
    quick: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let ms = Duration::from_millis;
    let budget = match options.quick {
        true => Budget { time: ms(150), repetition: ms(2) },
        false => Budget { time: ms(800), repetition: ms(10) },
    };
    let mut table = Table::new(options.json.as_deref(), budget)?;
    let wanted = |name: &str, part: &Option<String>| part.as_ref().is_none_or(|p| name.to_lowercase().contains(&p.to_lowercase()));
    let mut ran = false;
    for on in devices(&options)?.into_iter().filter(|on| wanted(&on.device.to_string(), &options.device)) {
        table.device(&on.device);
        for (_, bench) in BENCHES.iter().filter(|(name, _)| wanted(name, &options.filter)) {
            bench(&mut table, &on);
            ran = true;
        }
    }
    match (ran, table.failed) {
        (false, _) => Err("no device or no bench has that in its name".into()),
        (_, true) => Err("not every row could be measured".into()),
        _ => Ok(()),
    }
}

/// The CPU and every adapter.
fn devices(&Options { quick, no_tune, .. }: &Options) -> Result<Vec<On>, Error> {
    let mut all = vec![On { device: Device::cpu(), software: false, quick }];
    for adapter in Device::list() {
        let choice = if no_tune { Choice::Portable } else { Choice::Measured };
        // Time for all of them: what is measured here should not depend on how often it was run before.
        let options = GpuOptions { choice, budget: Duration::from_secs(600), ..GpuOptions::default() };
        let device = Device::parse_with(&adapter.name, &options)?;
        // Two adapters of one name are one here.
        if device.as_gpu().is_some_and(|gpu| *gpu.summary() == adapter) && all.iter().all(|on| on.device.name() != device.name()) {
            all.push(On { device, software: adapter.software, quick });
        }
    }
    Ok(all)
}

fn uniform(shape: impl Into<Shape>, seed: u64) -> Host<f32> {
    testing::fill(shape.into(), &Fill::Range(-1.0, 1.0), seed)
}

/// Runs `f` n times on what is loaded, and waits.
fn replay(f: &mut Compiled, n: usize) -> Result<(), Error> {
    (0..n).try_for_each(|_| f.launch())?;
    f.wait()
}

/// A row for a graph of some inputs.
fn graph(table: &mut Table, on: &On, row: &str, rate: Rate, inputs: &[Shape], write: impl for<'g> Fn(&[Tensor<'g>]) -> Tensor<'g>) {
    outputs(table, on, row, rate, &Graph::inference(), inputs, |x| vec![write(x)])
}

/// The same with several outputs.
fn outputs<'g>(
    table: &mut Table,
    on: &On,
    row: &str,
    rate: Rate,
    g: &'g Graph,
    inputs: &[Shape],
    write: impl Fn(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
) {
    let loaded = (|| {
        let x: Vec<Tensor> = inputs.iter().map(|&s| g.input(s)).collect();
        let mut f = on.device.compile(&write(&x))?;
        let data: Vec<Host<f32>> = inputs.iter().enumerate().map(|(i, &s)| uniform(s, i as u64)).collect();
        f.load(&data)?;
        Ok(f)
    })();
    match loaded {
        Ok(mut f) => table.repeated(row, rate, |n| replay(&mut f, n)),
        Err(error) => table.repeated(row, rate, |_| Err(Error::clone(&error))),
    }
}

/// The layers of the MLP: inputs and outputs.
const MLP: [(&str, usize, usize); 3] = [("fc1", 784, 512), ("fc2", 512, 256), ("fc3", 256, 10)];

fn matmul(table: &mut Table, on: &On) {
    table.open("matmul", "square, and the products of the MLP 784-512-256-10 at batch 1024; rows × inner × columns");
    let sizes: &[usize] = match (on.quick, on.software) {
        (true, _) => &[256, 512],
        (_, true) => &[256, 512, 1024],
        _ => &[256, 512, 1024, 2048],
    };
    let mut row = |name: &str, [m, k, n]: [usize; 3], ta: bool, tb: bool| {
        let side = |r: usize, c: usize, t: bool| Shape::from(if t { [c, r] } else { [r, c] });
        let inputs = [side(m, k, ta), side(k, n, tb)];
        let name = format!("{m} × {k} × {n}{name}");
        graph(table, on, &name, Rate::Flop(2.0 * (m * k * n) as f64), &inputs, |x| x[0].matmul_t(x[1], ta, tb));
    };
    for &n in sizes {
        row("", [n, n, n], false, false);
    }
    for (name, inputs, outputs) in MLP {
        row(&format!(" ({name}: x·Wᵀ)"), [1024, inputs, outputs], false, true);
    }
    if !on.quick {
        let (name, inputs, outputs) = MLP[0];
        row(&format!(" ({name}: dW = dyᵀ·x)"), [outputs, 1024, inputs], true, false);
        let (name, inputs, outputs) = MLP[1];
        row(&format!(" ({name}: dx = dy·W)"), [1024, outputs, inputs], false, false);
    }
    table.close();
}

/// The convolutions of a small network for images of digits, one of a larger network, and a depthwise one.
fn conv2d(table: &mut Table, on: &On) {
    table.open("conv2d", "3 × 3, padding 1: x [n, channels, height, width] → channels, forward and both gradients");
    let n = if on.quick || on.software { 16 } else { 128 };
    let shapes = [([n, 1, 28, 28], 32, 1), ([n, 32, 14, 14], 64, 1), ([n, 64, 56, 56], 64, 1), ([n, 64, 28, 28], 64, 64)];
    for (x, out, groups) in shapes {
        if on.quick && x[2] == 56 {
            continue;
        }
        let ([n, c, h, w], y) = (x, [x[0], out, x[2], x[3]]);
        let [x, y, weight] = [Shape::from(x), Shape::from(y), Shape::from([out, c / groups, 3, 3])];
        let geometry = Geometry { stride: [1, 1], dilation: [1, 1], padding: [1; 4], groups };
        let depthwise = if groups > 1 { ", depthwise" } else { "" };
        let mut row = |what: &str, inputs: [Shape; 2], op: &dyn for<'g> Fn(&[Tensor<'g>]) -> Tensor<'g>| {
            let rate = Rate::Flop((2 * y.elements() * 9 * c / groups) as f64);
            graph(table, on, &format!("[{n}, {c}, {h}, {w}] → {out}{depthwise}: {what}"), rate, &inputs, op);
        };
        row("forward", [x, weight], &|t| t[0].graph().apply(Conv2d { geometry, epilogue: None }, t));
        row("grad_x", [y, weight], &|t| t[0].graph().apply(Conv2dGradX { geometry, image: [h, w], epilogue: None }, t));
        row("grad_w", [x, y], &|t| t[0].graph().apply(Conv2dGradW { geometry, kernel: [3, 3] }, t));
    }
    table.close();
}

/// Products of a pair of a query and a key: two forward, five more backward (Dao et al. 2022); half of the pairs are causal.
fn attention(table: &mut Table, on: &On) {
    table.open("attention", "softmax(q·kᵀ/√d)·v; heads of a batch × positions × features; backward by its own recomputation");
    let sizes: &[[usize; 3]] = match (on.quick, on.software) {
        (true, _) => &[[8, 128, 32]],
        (_, true) => &[[8, 128, 32], [8, 256, 64]],
        _ => &[[8, 128, 32], [64, 256, 64], [16, 1024, 64], [4, 2048, 128]],
    };
    for &[heads, n, d] in sizes {
        for causal in [false, true] {
            let options = Attention { causal, scale: None };
            let name = |what: &str| format!("{heads} × {n} × {d}{}{what}", if causal { ", causal" } else { "" });
            let pairs = if causal { n * (n + 1) / 2 } else { n * n };
            let flop = |products: usize| Rate::Flop((2 * heads * pairs * d * products) as f64);
            let inputs = [Shape::from([heads, n, d]); 4];
            graph(table, on, &name(""), flop(2), &inputs[..3], |x| x[0].scaled_dot_product_attention(x[1], x[2], options));
            graph(table, on, &name(", with gradients"), flop(7), &inputs, |x| {
                let y = x[0].scaled_dot_product_attention(x[1], x[2], options);
                y.vjp(x[3], &x[..3]).into_iter().fold(y, |sum, grad| sum + grad)
            });
        }
    }
    table.close();
}

fn elementwise(table: &mut Table, on: &On) {
    table.open("elementwise", "relu(a·x + b), one kernel; 8 bytes an element");
    for (name, n) in [("1 Mi", 1usize << 20), ("16 Mi", 1 << 24)] {
        graph(table, on, name, Rate::Bytes(8.0 * n as f64), &[Shape::from([n])], |x| (x[0] * 1.5 + 0.25).relu());
    }
    table.close();
}

fn reduction(table: &mut Table, on: &On) {
    table.open("reduction", "4 bytes an element");
    let n = 1usize << 24;
    graph(table, on, "sum of 16 Mi", Rate::Bytes(4.0 * n as f64), &[Shape::from([n])], |x| x[0].sum_all());
    for [rows, columns] in [[1024usize, 512], [4096, 4096]] {
        let name = format!("sums of the columns of [{rows}, {columns}]");
        let bytes = Rate::Bytes(4.0 * (rows * columns) as f64);
        graph(table, on, &name, bytes, &[Shape::from([rows, columns])], |x| x[0].sum(&[0], false));
    }
    table.close();
}

/// Forward and backward in a training graph, of layer and parameters. What must be read and written is x → y, then
/// dy, x → dx.
fn normalisation(table: &mut Table, on: &On) {
    table.open("normalisation", "forward and backward; 20 bytes an element");
    type Layer = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
    let rows: [(&str, &[usize], Layer); 4] = [
        ("layer_norm [4096, 1024]", &[4096, 1024], |x| x.layer_norm("n")),
        ("rms_norm [4096, 1024]", &[4096, 1024], |x| x.rms_norm("n")),
        ("batch_norm [128, 64, 32, 32]", &[128, 64, 32, 32], |x| x.batch_norm("n")),
        ("group_norm [32, 64, 32, 32] in 8", &[32, 64, 32, 32], |x| x.group_norm("n", 8)),
    ];
    for (name, dims, layer) in rows {
        let shape = Shape::new(dims).expect("at most six axes");
        let g = Graph::training();
        outputs(table, on, name, Rate::Bytes(20.0 * shape.elements() as f64), &g, &[shape, shape], |x| {
            let y = layer(x[0]);
            // Of what is trained: running statistics are behind it.
            let sources = [&x[..1], &g.param_tensors()[..if name.starts_with("rms") { 1 } else { 2 }]].concat();
            std::iter::once(y).chain(y.vjp(x[1], &sources)).collect()
        });
    }
    table.close();
}

/// The loss does not depend on the weights, so that nothing but the update takes time: the gradient, zeros, is written
/// (one word an element) and checked (one), Adam reads four words and writes three.
fn optimizer(table: &mut Table, on: &On) {
    table.open("optimizer", "a step of Adam: gradient written, checked, weights and states updated; 36 bytes a parameter");
    let millions = if on.quick { 5 } else { 50 };
    let n = millions * 1_000_000usize;
    let made = (|| {
        let g = Graph::training();
        g.param("w", [n], Init::Zeros);
        let mut trainer = Trainer::new(&on.device, g.scalar(0.0), Adam::new(1e-3))?;
        trainer.step(&[])?;
        Ok(trainer)
    })();
    let (row, rate) = (format!("{millions} M parameters"), Rate::Bytes(36.0 * n as f64));
    match made {
        Ok(mut trainer) => table.repeated(&row, rate, |n| steps(&mut trainer, n, None)),
        Err(error) => table.repeated(&row, rate, |_| Err(Error::clone(&error))),
    }
    table.close();
}

/// Makes n steps, on a batch that is uploaded each time or on the one that is there, and waits for the last loss.
fn steps(trainer: &mut Trainer, n: usize, batch: Option<&[Host<f32>]>) -> Result<(), Error> {
    for _ in 0..n {
        match batch {
            Some(batch) => trainer.step(batch)?,
            None => trainer.step_again()?,
        }
    }
    let loss = trainer.loss()?;
    assert!(loss.is_finite(), "a step that diverged was timed");
    trainer.take_reports()?;
    Ok(())
}

fn mlp(device: &Device, batch: usize) -> Result<(Trainer, [Host<f32>; 2]), Error> {
    let g = Graph::training();
    let (x, labels) = (g.input([batch, 784]), g.labels([batch]));
    let mut y = x;
    for (i, (name, _, outputs)) in MLP.into_iter().enumerate() {
        y = if i == 0 { y } else { y.relu() }.linear(name, outputs);
    }
    let trainer = Trainer::new(device, y.cross_entropy(labels), Adam::new(1e-3))?;
    let labels = testing::fill(Shape::from([batch]).of(DType::U32), &Fill::Labels(10), 5);
    Ok((trainer, [uniform([batch, 784], 4), labels]))
}

fn training(table: &mut Table, on: &On) {
    table.open("training", "a step of the MLP 784-512-256-10, ReLU, cross-entropy, Adam; upload of the batch included");
    for batch in [128, 1024, 4096] {
        let row = format!("batch {batch}");
        if batch == 4096 && on.quick {
            table.skip(&row, "left out by --quick");
            continue;
        }
        let rate = Rate::Samples(batch as f64);
        match mlp(&on.device, batch) {
            Ok((mut trainer, data)) => table.repeated(&row, rate, |n| steps(&mut trainer, n, Some(&data))),
            Err(error) => table.repeated(&row, rate, |_| Err(Error::clone(&error))),
        }
    }
    table.close();
}

/// What the host itself does; the device's work is waited for between the timed parts.
fn host(table: &mut Table, on: &On) {
    if on.device.as_gpu().is_none() {
        return;
    }
    table.open("host", "the host's time to encode and submit, without waiting");
    const CHAIN: u32 = 512;
    let chain = (|| {
        let g = Graph::inference();
        let x = g.input([64]);
        let y = (0..CHAIN).fold(x, |y, _| y + 1.0);
        let plan = plan::Options { fuse: false, ..on.device.plan_options() };
        let mut f = Compiled::new(&on.device, &[y], &plan, 0)?;
        f.load(&[uniform([64], 1)])?;
        Ok(f)
    })();
    let row = format!("a dispatch (one of {CHAIN})");
    match chain {
        Ok(mut f) => table.timed(&row, json!({}), || {
            let started = Instant::now();
            f.launch()?;
            let took = started.elapsed() / CHAIN;
            f.wait()?;
            Ok(took)
        }),
        Err(error) => table.timed(&row, json!({}), || Err(Error::clone(&error))),
    };
    let made = mlp(&on.device, 128).and_then(|(mut trainer, data)| {
        steps(&mut trainer, 1, Some(&data))?;
        let before = trainer.counters().unwrap_or_default();
        steps(&mut trainer, 10, Some(&data))?;
        let after = trainer.counters().unwrap_or_default();
        Ok((trainer, data, (after.submits - before.submits) as f64 / 10.0, (after.dispatches - before.dispatches) / 10))
    });
    let (mut trainer, data, submits, dispatches) = match made {
        Ok(made) => made,
        Err(error) => {
            table.timed("a step of the MLP", json!({}), || Err(Error::clone(&error)));
            return table.close();
        }
    };
    let more = json!({ "submits_per_step": submits, "dispatches_per_step": dispatches });
    let mut time = |row: &str, batch: Option<&[Host<f32>]>| {
        table.timed(row, more.clone(), || {
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
