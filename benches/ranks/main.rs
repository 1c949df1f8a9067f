//! What training over ranks costs: `cargo bench --features mpi --bench ranks -- [--json FILE]`.
//!
//! The program starts itself under `mpirun` on 1, 2 and 4 ranks of this machine, and measures steps and exchanges. The ranks share the
//! cores, so more ranks are not faster here: the point is what the exchange adds. From the figures of one rank and of the link it
//! predicts the step of 2 and 4 ranks here, which it compares with the measurement, and of many ranks on a cluster.

mod cluster;

use clap::Parser;
use downhill::{Device, Host, Result, Shape, Tensor, Trainer, World, layers::Conv2d, ops::attention::Attention, optim::Adam};
use serde_json::{Value, json};
use std::{
    env,
    error::Error,
    fs::OpenOptions,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

#[derive(Parser)]
struct Args {
    /// Appends a JSON line for each row to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measures this model as a rank; the program starts itself so
    #[arg(long)]
    rank: Option<String>,
    /// Measures fewer steps, and no large model
    #[arg(long)]
    quick: bool,
    /// Cargo passes this
    #[arg(long, hide = true)]
    bench: bool,
}

/// A model and the samples of a rank in a step.
struct Case {
    name: &'static str,
    batch: usize,
    steps: usize,
    /// The shapes of a sample and of its target.
    shapes: [&'static [usize]; 2],
    model: for<'g> fn(Tensor<'g>) -> Tensor<'g>,
}

const CASES: [Case; 5] = [
    // A model of a few numbers shows the latency of an exchange, and one of 16 million numbers with little work its speed.
    Case { name: "tiny", batch: 1, steps: 100, shapes: [&[16], &[1]], model: |x| x.linear("fc", 1) },
    Case { name: "wide", batch: 1, steps: 6, shapes: [&[4096], &[4096]], model: |x| x.linear("fc", 4096) },
    Case { name: "mlp", batch: 128, steps: 30, shapes: [&[784], &[10]], model: mlp },
    Case { name: "cnn", batch: 64, steps: 8, shapes: [&[1, 28, 28], &[10]], model: cnn },
    Case { name: "transformer", batch: 2, steps: 2, shapes: [&[128, WIDTH], &[128, 1]], model: transformer },
];

fn mlp(x: Tensor<'_>) -> Tensor<'_> {
    x.linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10)
}

fn cnn(x: Tensor<'_>) -> Tensor<'_> {
    let same = Conv2d { padding: 1.into(), ..Conv2d::default() };
    let x = x.conv2d_with("conv1", 32, 3, same.clone()).relu().max_pool2d(2);
    x.conv2d_with("conv2", 64, 3, same).relu().max_pool2d(2).flatten().linear("fc1", 128).relu().linear("fc2", 10)
}

const WIDTH: usize = 768;

/// Fourteen layers of 7.1 million numbers: 99 million together.
fn transformer(mut x: Tensor<'_>) -> Tensor<'_> {
    for i in 0..14 {
        let name = |part: &str| format!("layer{i}.{part}");
        let (n, t) = (x.dim(0), x.dim(1));
        let all = x.layer_norm(&name("norm1")).linear(&name("qkv"), 3 * WIDTH);
        let all = all.reshape([n, t, 3, 12, WIDTH / 12]).permute(&[2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|i| all.slice(0, i, i + 1).squeeze(0));
        let gathered = q.scaled_dot_product_attention(k, v, Attention { causal: true, ..Attention::default() });
        x = x + gathered.permute(&[0, 2, 1, 3]).reshape([n, t, WIDTH]).linear(&name("out"), WIDTH);
        x = x + x.layer_norm(&name("norm2")).linear(&name("fc1"), 4 * WIDTH).gelu().linear(&name("fc2"), WIDTH);
    }
    x.layer_norm("norm").linear("next", 1)
}

/// The figures of a case on a number of ranks.
#[derive(Clone, Debug)]
pub struct Row {
    pub model: String,
    pub ranks: usize,
    pub batch: usize,
    /// The bytes of the gradients.
    pub bytes: f64,
    /// The seconds of a step: the median on rank 0.
    pub step: f64,
    /// Of a step on rank 0: bytes sent, seconds of exchanges, and seconds of waiting for them.
    pub sent: f64,
    pub busy: f64,
    pub waited: f64,
}

impl Row {
    fn json(&self) -> Value {
        let Row { model, ranks, batch, bytes, step, sent, busy, waited } = self;
        json!({ "bench": "ranks", "model": model, "ranks": ranks, "batch": batch, "bytes": bytes, "step_s": step, "sent": sent,
            "exchange_s": busy, "waited_s": waited })
    }
    fn of(line: &str) -> Option<Row> {
        let row: Value = serde_json::from_str(line).ok()?;
        let number = |name: &str| row[name].as_f64();
        Some(Row {
            model: row["model"].as_str()?.to_string(),
            ranks: number("ranks")? as usize,
            batch: number("batch")? as usize,
            bytes: number("bytes")?,
            step: number("step_s")?,
            sent: number("sent")?,
            busy: number("exchange_s")?,
            waited: number("waited_s")?,
        })
    }
}

/// Measures a case on this rank.
fn rank(case: &Case, quick: bool) -> Result<Row> {
    let world = World::mpi()?;
    let device = Device::for_rank_with(&world, "cpu", &Default::default())?;
    let (model, shapes) = (case.model, case.shapes);
    let of = |n: usize, shape: &[usize]| [&[n], shape].concat();
    let trainer = Trainer::from_fn(
        &device,
        move |g, n| {
            let [x, t] = shapes.map(|shape| g.input(&of(n, shape)[..]));
            model(x).mse(t).into()
        },
        Adam::new(1e-4),
    )?;
    let mut trainer = trainer.distributed(&world)?;
    let inputs = shapes.map(|shape| {
        let shape = Shape::from(&of(case.batch, shape)[..]);
        Host::new(shape, (0..shape.elements()).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect())
    });
    let mut times = Vec::new();
    let mut before = world.traffic();
    let steps = if quick { case.steps.div_ceil(4) } else { case.steps };
    for k in 0..steps + 2 {
        // The first steps make plans and touch memory.
        if k == 2 {
            before = world.traffic();
        }
        let since = Instant::now();
        trainer.step(&inputs)?;
        trainer.loss()?;
        if k >= 2 {
            times.push(since.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let (after, each) = (world.traffic(), steps as f64);
    let bytes = trainer.params().all()?.iter().map(|(_, value)| 4 * value.shape.elements()).sum::<usize>() as f64;
    Ok(Row {
        model: case.name.into(),
        ranks: world.size(),
        batch: case.batch,
        bytes,
        step: times[times.len() / 2],
        sent: (after.sent - before.sent) as f64 / each,
        busy: (after.busy - before.busy) / each,
        waited: (after.waited - before.waited) / each,
    })
}

/// Starts the ranks of a case and returns the figures of rank 0.
fn measure(case: &Case, ranks: usize, quick: bool) -> std::result::Result<Row, Box<dyn Error>> {
    let launcher = env::var("MPIRUN").unwrap_or_else(|_| "mpirun --allow-run-as-root --oversubscribe --bind-to none".into());
    let mut words = launcher.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("mpirun"));
    command.args(words).args(["-n", &ranks.to_string()]).arg(env::current_exe()?).args(["--rank", case.name]);
    if quick {
        command.arg("--quick");
    }
    let out = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    text.lines().find_map(Row::of).ok_or_else(|| format!("{} on {ranks} ranks measured nothing: {text}", case.name).into())
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let args = Args::parse();
    if let Some(name) = &args.rank {
        let case = CASES.iter().find(|case| case.name == name).ok_or("there is no such model")?;
        let row = rank(case, args.quick)?;
        // The figures of the other ranks are like these.
        if env::var("OMPI_COMM_WORLD_RANK").or(env::var("PMI_RANK")).is_ok_and(|rank| rank != "0") {
            return Ok(());
        }
        println!("{}", row.json());
        return Ok(());
    }
    let mut rows = Vec::new();
    println!(
        "{:<12} {:>5} {:>6} {:>12} {:>10} {:>10} {:>10} {:>10} {:>7} {:>8}",
        "model", "ranks", "batch", "samples/s", "step", "sent", "exchange", "waited", "hidden", "added"
    );
    for case in &CASES {
        for ranks in [1, 2, 4] {
            if case.name == "transformer" && (ranks > 1 || args.quick) {
                continue;
            }
            let row = measure(case, ranks, args.quick)?;
            let one = rows.iter().find(|one: &&Row| one.model == row.model && one.ranks == 1).unwrap_or(&row).step;
            let hidden = if row.busy > 0.0 { format!("{:.0} %", 100.0 * (1.0 - row.waited / row.busy).max(0.0)) } else { "-".into() };
            println!(
                "{:<12} {:>5} {:>6} {:>12.0} {:>7.2} ms {:>7.2} MB {:>7.2} ms {:>7.2} ms {:>7} {:>6.0} %",
                row.model,
                ranks,
                row.batch,
                (ranks * row.batch) as f64 / row.step,
                1e3 * row.step,
                row.sent / 1e6,
                1e3 * row.busy,
                1e3 * row.waited,
                hidden,
                100.0 * (row.step / (one * ranks as f64) - 1.0),
            );
            if let Some(path) = &args.json {
                writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{}", row.json())?;
            }
            rows.push(row);
        }
    }
    println!("\nadded: the time of a step beyond that of one rank for as many samples, on the same cores.\n");
    cluster::predict(&rows);
    Ok(())
}
