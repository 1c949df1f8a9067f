//! What training over ranks costs: `cargo bench --features mpi --bench ranks -- [--json FILE]`.
//!
//! The program starts itself under `mpirun` on 1, 2 and 4 ranks of this machine, and measures steps and exchanges. The ranks share the
//! cores, so more ranks are not faster here: the point is what the exchange adds. From the figures of one rank and of the link it
//! predicts the step of 2 and 4 ranks here, which it compares with the measurement, and of many ranks on a cluster. Some rows delay the
//! messages as a slower network would (`World::delayed`), so that the prediction for such a network can be compared as well.

mod cluster;
#[path = "../bench/stamp.rs"]
mod stamp;

use clap::Parser;
use cluster::{LINKS, Link};
use downhill::{Device, Host, Result, Shape, Tensor, Trainer, World, layers::Conv2d, ops::attention::Attention, optim::Adam};
use serde_json::{Map, Value, json};
use std::{
    env,
    error::Error,
    fs::OpenOptions,
    hint::black_box,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[derive(Parser)]
struct Args {
    /// Appends a JSON line for each row to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Measures this model as a rank; the program starts itself so
    #[arg(long)]
    rank: Option<String>,
    /// Delays the messages of the rank as this link of a cluster would
    #[arg(long)]
    link: Option<String>,
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
    /// The name of the link that the messages were delayed for.
    pub link: Option<String>,
    /// The bytes of the gradients.
    pub bytes: f64,
    /// The bytes that rank 0 sends in a step.
    pub sent: f64,
    /// The seconds of a step, of its exchanges, and of waiting for them: medians over the steps of rank 0.
    pub step: f64,
    pub busy: f64,
    pub waited: f64,
    /// The line of the row in a file.
    pub json: Value,
}

impl Row {
    fn of(line: &str) -> Option<Row> {
        let json: Value = serde_json::from_str(line).ok()?;
        let number = |name: &str| json[name].as_f64();
        Some(Row {
            model: json["model"].as_str()?.to_string(),
            ranks: number("ranks")? as usize,
            batch: number("batch")? as usize,
            link: json["link"].as_str().map(String::from),
            bytes: number("bytes")?,
            step: number("step_s")?,
            sent: number("sent")?,
            busy: number("exchange_s")?,
            waited: number("waited_s")?,
            json,
        })
    }
    /// Returns the share of the exchange behind which the rank computed.
    pub fn hidden(&self) -> Option<f64> {
        (self.busy > 0.0).then(|| (1.0 - self.waited / self.busy).max(0.0))
    }
    /// Returns the messages and the bytes of a step, by purpose.
    fn purposes(&self) -> String {
        let all = self.json["purposes"].as_object().into_iter().flatten();
        let text = all.map(|(name, of)| format!("{name} {:.2} with {:.0} B", of[0].as_f64().unwrap_or(0.0), of[1].as_f64().unwrap_or(0.0)));
        text.collect::<Vec<_>>().join(", ")
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Measures a case on this rank.
fn rank(case: &Case, link: Option<&Link>, quick: bool) -> Result<Value> {
    let mut world = World::mpi()?;
    if let Some(link) = link {
        world = world.delayed(Duration::from_secs_f64(link.latency), link.bytes_per_s as u64);
    }
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
    let (mut first, mut seconds) = (world.traffic(), [const { Vec::new() }; 3]);
    let steps = if quick { case.steps.div_ceil(4) } else { case.steps };
    for k in 0..steps + 2 {
        let (before, since) = (world.traffic(), Instant::now());
        trainer.step(&inputs)?;
        trainer.loss()?;
        let (took, after) = (since.elapsed().as_secs_f64(), world.traffic());
        // The first steps make plans and touch memory.
        match k {
            0..2 => first = after,
            _ => seconds.iter_mut().zip([took, after.busy - before.busy, after.waited - before.waited]).for_each(|(all, x)| all.push(x)),
        }
    }
    let [step, busy, waited] = seconds.map(median);
    let (last, each) = (world.traffic(), steps as f64);
    let bytes = trainer.params().all()?.iter().map(|(_, value)| 4 * value.shape.elements()).sum::<usize>() as f64;
    let purposes = last.purposes().zip(first.purposes()).filter(|(last, first)| last.1 > first.1);
    let purposes = purposes
        .map(|((name, messages, bytes), (_, m, b))| (name.to_string(), json!([(messages - m) as f64 / each, (bytes - b) as f64 / each])));
    let over = link.map_or(String::new(), |link| format!(" over {}", link.name));
    Ok(json!({
        "bench": "ranks",
        "shape": format!("{} on {} ranks{over}", case.name, world.size()),
        "device": device.name(),
        "driver": device.driver(),
        "date": stamp::today(),
        "commit": stamp::commit(),
        "model": case.name,
        "ranks": world.size(),
        "batch": case.batch,
        "link": link.map(|link| link.name),
        "bytes": bytes,
        "step_s": step,
        "sent": (last.sent - first.sent) as f64 / each,
        "exchange_s": busy,
        "waited_s": waited,
        "purposes": purposes.collect::<Map<_, _>>(),
    }))
}

/// The row that no change of the library can affect, as in the other bench: seconds to copy 32 MiB. Where it moved, so did the machine.
fn control() -> Value {
    const BYTES: usize = 32 << 20;
    let (from, mut to) = (vec![1u8; BYTES], vec![0u8; BYTES]);
    let copy = |_| {
        let since = Instant::now();
        black_box(&mut to).copy_from_slice(black_box(&from));
        since.elapsed().as_secs_f64()
    };
    let times: Vec<f64> = (0..101).map(copy).collect();
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let device = Device::cpu();
    json!({ "bench": "ranks", "shape": "control: host memcpy 32 MiB", "device": device.name(), "driver": device.driver(),
        "date": stamp::today(), "commit": stamp::commit(), "median_ms": 1e3 * median(times), "min_ms": 1e3 * least })
}

/// Starts the ranks of a case and returns the figures of rank 0.
fn measure(case: &Case, ranks: usize, link: Option<&Link>, quick: bool) -> std::result::Result<Row, Box<dyn Error>> {
    let launcher = env::var("MPIRUN").unwrap_or_else(|_| "mpirun --allow-run-as-root --oversubscribe --bind-to none".into());
    let mut words = launcher.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or("mpirun"));
    command.args(words).args(["-n", &ranks.to_string()]).arg(env::current_exe()?).args(["--rank", case.name]);
    command.args(link.iter().flat_map(|link| ["--link", link.name]));
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
        let link = args.link.as_ref().map(|name| LINKS.iter().find(|link| link.name == name).ok_or("there is no such link")).transpose()?;
        let row = rank(case, link, args.quick)?;
        // The figures of the other ranks are like these.
        if env::var("OMPI_COMM_WORLD_RANK").or(env::var("PMI_RANK")).is_ok_and(|rank| rank != "0") {
            return Ok(());
        }
        println!("{row}");
        return Ok(());
    }
    let put = |json: &Value| match &args.json {
        Some(path) => OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "{json}")),
        None => Ok(()),
    };
    let mut rows = Vec::new();
    println!(
        "{:<12} {:<16} {:>5} {:>6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>7} {:>8}",
        "model", "link", "ranks", "batch", "samples/s", "step", "sent", "exchange", "waited", "hidden", "added"
    );
    for case in &CASES {
        // Each of two ranks has a core, so a delay is not hidden behind the work of the other rank.
        let delayed = LINKS[..2].iter().map(|link| (2, Some(link))).filter(|_| ["mlp", "cnn"].contains(&case.name));
        for (ranks, link) in [(1, None), (2, None), (4, None)].into_iter().chain(delayed) {
            if case.name == "transformer" && (ranks > 1 || args.quick) {
                continue;
            }
            let row = measure(case, ranks, link, args.quick)?;
            let one = rows.iter().find(|one: &&Row| one.model == row.model && one.ranks == 1).unwrap_or(&row).step;
            println!(
                "{:<12} {:<16} {:>5} {:>6} {:>10.0} {:>7.2} ms {:>7.2} MB {:>7.2} ms {:>7.2} ms {:>7} {:>6.0} %",
                row.model,
                row.link.as_deref().unwrap_or("-"),
                ranks,
                row.batch,
                (ranks * row.batch) as f64 / row.step,
                1e3 * row.step,
                row.sent / 1e6,
                1e3 * row.busy,
                1e3 * row.waited,
                row.hidden().map_or("-".into(), |hidden| format!("{:.0} %", 100.0 * hidden)),
                100.0 * (row.step / (one * ranks as f64) - 1.0),
            );
            put(&row.json)?;
            rows.push(row);
        }
    }
    let control = control();
    println!("{}: {:.2} ms", control["shape"].as_str().unwrap_or_default(), control["median_ms"].as_f64().unwrap_or_default());
    put(&control)?;
    println!("\nadded: the time of a step beyond that of one rank for as many samples, on the same cores.\n");
    println!("The messages of a step on 2 ranks:");
    rows.iter().filter(|row| row.ranks == 2 && row.link.is_none()).for_each(|row| println!("{:<12} {}", row.model, row.purposes()));
    println!();
    cluster::predict(&rows);
    Ok(())
}
