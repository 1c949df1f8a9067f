//! Trains the same network with larger and larger batches, for the same number of epochs, and compares the update rules.
//!
//! ```text
//! cargo run --release --example large_batch                    # Fashion-MNIST if it is there, else the shipped digits
//! cargo run --release --example large_batch -- --plot large_batch.svg --json large_batch.json
//! cargo run --release --example large_batch -- --validate --batches 8192 --lr-factor 0.5   # a point of the search for rates
//! ```
//!
//! Each rule has a learning rate that is good for it at a batch of 256, and one that is good at 8,192. For other batches, the nearer
//! rate is scaled by the batch or by its square root. A warm-up comes first. A batch of all samples makes one step in an epoch.

mod common;

use clap::{Parser, ValueEnum};
use common::{DeviceArgs, plot};
use downhill::{
    Device, Fit, Tensor, Trainer,
    data::{self, Dataset, Normalise},
    file,
    init::Init,
    layers::Linear,
    optim::{AdamW, Lamb, Lars, Muon, Optimizer, Scaling, Schedule, Sgd},
    plot::{Panel, Series},
};
use serde_json::json;
use std::{error::Error, num::NonZeroUsize, path::PathBuf, process::ExitCode};

/// Trains with batches of 256 samples and more, and shows the accuracy and the number of steps of each rule.
#[derive(Parser)]
pub struct Args {
    /// A data set in the style of MNIST: a folder with its four IDX files, or a name; `digits` are the shipped digits [default: fashion-mnist if it is found, else digits]
    #[arg(long, value_name = "DIR|NAME")]
    data: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// The number of epochs of each training [default: 20; 60 for the digits]
    #[arg(long)]
    epochs: Option<NonZeroUsize>,
    /// The batches [default: 256,1024,8192,32768,60000; a batch larger than the data is all of the data]
    #[arg(long, value_delimiter = ',')]
    batches: Vec<NonZeroUsize>,
    /// The update rules [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    rules: Vec<Rule>,
    /// A factor of all learning rates
    #[arg(long, default_value_t = 1.0)]
    lr_factor: f64,
    /// Holds a sixth of the training images out and measures with them. The learning rates were chosen so
    #[arg(long)]
    validate: bool,
    /// The accuracy to reach, in percent
    #[arg(long, default_value_t = 85.0)]
    goal: f64,
    /// The seed of initial weights and shuffles
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Writes the results to this file as one JSON object
    #[arg(long, value_name = "FILE", value_parser = common::new_file)]
    json: Option<PathBuf>,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Rule {
    Sgd,
    Adamw,
    Lars,
    Lamb,
    Muon,
}

impl Rule {
    const ALL: [Rule; 5] = [Rule::Sgd, Rule::Adamw, Rule::Lars, Rule::Lamb, Rule::Muon];

    fn title(self) -> &'static str {
        match self {
            Rule::Sgd => "SGD, linear",
            Rule::Adamw => "AdamW, √",
            Rule::Lars => "LARS, linear",
            Rule::Lamb => "LAMB, √",
            Rule::Muon => "Muon, √",
        }
    }
    fn scaling(self) -> Scaling {
        match self {
            Rule::Sgd | Rule::Lars => Scaling::Linear,
            Rule::Adamw | Rule::Lamb | Rule::Muon => Scaling::Sqrt,
        }
    }
    /// The optimizer, whose schedule scales the learning rate from a batch of [`SMALL`] or of [`LARGE`]. Both rates are the best of a
    /// search over factors of 2 with `--validate`.
    fn optimizer(self, batch: usize, factor: f64, schedule: Schedule) -> Optimizer {
        // The nearer batch by ratio.
        let (base, small) = if batch * batch < SMALL * LARGE { (SMALL, true) } else { (LARGE, false) };
        let lr = |at_small: f64, at_large: f64| factor * if small { at_small } else { at_large };
        let optimizer = match self {
            Rule::Sgd => Sgd::new(lr(0.048, 0.192)).momentum(0.9).into(),
            Rule::Adamw => AdamW::new(lr(4e-3, 0.0112)).into(),
            Rule::Lars => Lars::new(lr(2.4, 9.6)).momentum(0.9).weight_decay(1e-4).into(),
            Rule::Lamb => Lamb::new(lr(4e-3, 0.0224)).weight_decay(0.01).into(),
            Rule::Muon => Muon::new(lr(0.012, 0.034)).rest(AdamW::new(lr(6e-4, 1.7e-3))),
        };
        optimizer.schedule(schedule.scaled(batch, base, self.scaling()))
    }
}

/// The batches whose learning rates are known.
const SMALL: usize = 256;
const LARGE: usize = 8192;

/// A task: training images, held-out images, and the number of epochs.
struct Task {
    name: String,
    train: Dataset,
    test: Dataset,
    epochs: usize,
}

impl Task {
    fn new(args: &Args) -> downhill::Result<Task> {
        let known = match &args.data {
            Some(name) if name.as_os_str() == "digits" => None,
            Some(name) => Some((name.display().to_string(), data::mnist(name)?)),
            None => data::mnist("fashion-mnist").ok().map(|found| ("fashion-mnist".to_string(), found)),
        };
        let few = known.is_none();
        let (name, (train, test)) = match known {
            Some(known) => known,
            None => ("handwritten digits".to_string(), data::digits().stratified(0.8, args.seed)?),
        };
        let (train, test) = if args.validate { train.stratified(5.0 / 6.0, args.seed)? } else { (train, test) };
        let (mut train, mut test) = (train.flat(), test.flat());
        let normalise = Normalise::overall(&train);
        normalise.apply(&mut train)?;
        normalise.apply(&mut test)?;
        Ok(Task { name, train, test, epochs: args.epochs.map_or(if few { 60 } else { 20 }, |n| n.get()) })
    }
    /// The batches to train with, at most all samples.
    fn batches(&self, args: &Args) -> Vec<usize> {
        let own: Vec<usize> = args.batches.iter().map(|n| n.get()).collect();
        let all = if own.is_empty() { vec![SMALL, 1024, LARGE, 32_768, 60_000] } else { own };
        let mut batches: Vec<usize> = all.into_iter().map(|batch| batch.min(self.train.len())).collect();
        batches.dedup();
        batches
    }
}

/// The result of a training.
struct Outcome {
    /// The share of held-out images that are read correctly.
    accuracy: f64,
    /// The number of steps of the training.
    steps: usize,
    /// The number of steps at the end of the first epoch that reached the goal.
    steps_to_goal: Option<usize>,
    seconds: f64,
}

fn mlp(x: Tensor) -> Tensor {
    let relu = || Linear { weight: Some(Init::KaimingUniform { a: 0.0 }), ..Linear::default() };
    x.linear_with("fc1", 512, relu()).relu().linear_with("fc2", 256, relu()).relu().linear("fc3", 10)
}

fn train(device: &Device, task: &Task, rule: Rule, batch: usize, args: &Args) -> downhill::Result<Outcome> {
    let steps = (task.epochs * task.train.len().div_ceil(batch)) as u64;
    // A tenth of the training, but at least two steps, is warm-up.
    let warm = (steps / 10).max(2).min(steps - 1);
    let schedule = Schedule::warmup(warm).then(Schedule::cosine(steps - warm));
    let optimizer = rule.optimizer(batch, args.lr_factor, schedule);
    let mut trainer = Trainer::for_data(device, &task.train, mlp, |y, labels| y.cross_entropy(labels), optimizer)?.seed(args.seed)?;
    let history = trainer.fit(&task.train, Fit::new().epochs(task.epochs).batch_size(batch).validation(&task.test))?;
    let accuracy = |epoch: &downhill::Epoch| epoch.validation.and_then(|(_, accuracy)| accuracy).unwrap_or(0.0);
    let mut made = 0;
    let steps_to_goal = history.epochs.iter().find_map(|epoch| {
        made += epoch.losses.len();
        (accuracy(epoch) * 100.0 >= args.goal).then_some(made)
    });
    Ok(Outcome {
        accuracy: history.epochs.last().map_or(0.0, accuracy),
        steps: steps as usize,
        steps_to_goal,
        seconds: history.epochs.iter().map(|epoch| epoch.seconds).sum(),
    })
}

fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let device = args.device.open()?;
    let task = Task::new(&args)?;
    let batches = task.batches(&args);
    let rules = if args.rules.is_empty() { Rule::ALL.to_vec() } else { args.rules.clone() };
    println!("data:   {}, {} images to train with, {} held out", task.name, task.train.len(), task.test.len());
    println!("        {} epochs of each training; accuracy in percent, and the steps to {} %\n", task.epochs, args.goal);
    println!("{:>8} {:>7}{}", "batch", "steps", rules.iter().map(|rule| format!("{:>16}", rule.title())).collect::<String>());
    let mut rows: Vec<(usize, Vec<Option<Outcome>>)> = Vec::new();
    for &batch in &batches {
        let (mut row, steps) = (Vec::new(), task.epochs * task.train.len().div_ceil(batch));
        print!("{batch:>8} {steps:>7}");
        for &rule in &rules {
            let outcome = match train(&device, &task, rule, batch, &args) {
                Ok(outcome) => Some(outcome),
                Err(downhill::Error::Diverged { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            let steps = |o: &Outcome| o.steps_to_goal.map_or("-".to_string(), |steps| steps.to_string());
            let cell = outcome.as_ref().map_or("diverged".to_string(), |o| format!("{:.1} ({})", o.accuracy * 100.0, steps(o)));
            print!("{cell:>16}");
            std::io::Write::flush(&mut std::io::stdout())?;
            row.push(outcome);
        }
        println!();
        rows.push((batch, row));
    }
    args.plot.draw(&format!("{}, {} epochs", task.name, task.epochs), || panels(&rules, &rows, args.goal))?;
    if let Some(path) = &args.json {
        let trainings = rows.iter().flat_map(|(batch, row)| {
            rules.iter().zip(row).map(move |(rule, outcome)| {
                let name = format!("{rule:?}").to_lowercase();
                match outcome {
                    Some(o) => json!({ "rule": name, "batch": batch, "steps": o.steps, "accuracy": o.accuracy, "steps_to_goal": o.steps_to_goal, "seconds": o.seconds }),
                    None => json!({ "rule": name, "batch": batch, "diverged": true }),
                }
            })
        });
        let all = json!({ "data": task.name, "device": device.name(), "epochs": task.epochs, "goal": args.goal, "trainings": trainings.collect::<Vec<_>>() });
        file::replace(path, format!("{all:#}\n").as_bytes())?;
    }
    Ok(())
}

/// The accuracy and the steps to the goal over the batch. The axis of the batch is logarithmic.
fn panels(rules: &[Rule], rows: &[(usize, Vec<Option<Outcome>>)], goal: f64) -> Vec<Panel> {
    let series = |value: &dyn Fn(&Outcome) -> Option<f64>| {
        let points =
            |k: usize| rows.iter().filter_map(move |(batch, row)| Some(((*batch as f64).log2(), row[k].as_ref().and_then(value)?)));
        rules.iter().enumerate().map(|(k, rule)| Series::new(rule.title(), points(k))).collect()
    };
    let x = "log₂ of the batch";
    vec![
        Panel { title: "accuracy on held-out images".into(), x, y: "percent", series: series(&|o| Some(o.accuracy * 100.0)) },
        Panel { title: format!("steps to {goal} %"), x, y: "steps", series: series(&|o| o.steps_to_goal.map(|steps| steps as f64)) },
    ]
}
