//! `cargo bench`: how fast each device of this machine is.
//!
//! Every row is repeated after a warm-up; the time of work on a GPU includes waiting for it. Options go after `--`:
//! `cargo bench -- --device cpu --filter matmul --quick --json rows.jsonl`.

#[path = "../../examples/common/mod.rs"]
mod common;
mod kernels;
mod page;
mod peers;
mod profile;
mod readme;
mod table;
mod training;

use clap::Parser;
use downhill::{
    Device, Error,
    gpu::{Choice, GpuOptions},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use table::{Budget, Table};

#[derive(Parser)]
#[command(about = "How fast each device of this machine is")]
struct Options {
    /// Only devices with this in their name, whatever the case.
    #[arg(long)]
    device: Option<String>,
    /// Only benches with this in their name; `--list` has them.
    #[arg(long)]
    filter: Option<String>,
    /// Only rows with this in their name.
    #[arg(long)]
    row: Option<String>,
    /// Prints the names of the benches.
    #[arg(long)]
    list: bool,
    /// Fewer and smaller rows, measured for a shorter time.
    #[arg(long)]
    quick: bool,
    /// A row for every kernel that could compute an op, not for the chosen one alone.
    #[arg(long)]
    candidates: bool,
    /// Appends every row to this file, a JSON object a line.
    #[arg(long, value_parser = common::new_file)]
    json: Option<PathBuf>,
    /// Prints beside each row how many times faster it is than in this file of an earlier run.
    #[arg(long, value_name = "OLD.jsonl")]
    compare: Option<PathBuf>,
    /// Measures nothing: writes the figures of README.md and docs/performance.md from the files in benches/results.
    #[arg(long)]
    readme: bool,
    /// Measures nothing: writes the page `index.html` from the files in this folder, which `scripts/gpu.sh` has filled.
    #[arg(long, value_name = "FOLDER")]
    page: Option<PathBuf>,
    /// Portable kernels only, instead of those that are measured to be fastest.
    #[arg(long)]
    no_tune: bool,
    /// The flag that cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

type Bench = fn(&mut Table, &On);

/// All benches. The last four run only if `--filter` names them.
const BENCHES: [(&str, Bench); 14] = [
    ("matmul", kernels::matmul),
    ("attention", kernels::attention),
    ("conv2d", kernels::conv2d),
    ("elementwise", kernels::elementwise),
    ("reduction", kernels::reduction),
    ("normalisation", kernels::normalisation),
    ("optimizer", kernels::optimizer),
    ("training", training::training),
    ("start", training::start),
    ("host", training::host),
    ("scaling", training::scaling),
    ("accumulation", training::accumulation),
    ("peers", peers::peers),
    ("profile", profile::profile),
];
const ASKED_FOR: [&str; 4] = ["scaling", "accumulation", "peers", "profile"];

/// A device, and how much of it there is time for.
struct On {
    device: Device,
    /// The adapter is a CPU in disguise: large rows would take minutes.
    software: bool,
    quick: bool,
    candidates: bool,
}

impl On {
    /// The device as a user opens it, with an empty folder for what is kept from run to run.
    fn reopen(&self, folder: &Path) -> Result<Device, Error> {
        match self.device.as_gpu() {
            None => Ok(Device::cpu()),
            Some(gpu) => {
                let budget = GpuOptions::default().budget;
                Device::open(&GpuOptions { cache: Some(folder.to_path_buf()), budget, ..gpu.options().clone() })
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    if options.list {
        BENCHES.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    }
    if options.readme {
        return readme::write();
    }
    if let Some(folder) = &options.page {
        return page::write(folder);
    }
    let ms = Duration::from_millis;
    let budget = match options.quick {
        true => Budget { time: ms(150), repetition: ms(2) },
        false => Budget { time: ms(800), repetition: ms(10) },
    };
    let mut table = Table::new(options.json.as_deref(), options.compare.as_deref(), budget)?;
    table.only = options.row.clone();
    let wanted = |name: &str, part: &Option<String>| part.as_ref().is_none_or(|p| name.to_lowercase().contains(&p.to_lowercase()));
    let runs = |name: &str| match &options.filter {
        None => !ASKED_FOR.contains(&name),
        part => wanted(name, part),
    };
    let mut ran = false;
    for on in devices(&options)?.into_iter().filter(|on| wanted(&on.device.to_string(), &options.device)) {
        table.device(&on.device);
        for (_, bench) in BENCHES.iter().filter(|(name, _)| runs(name)) {
            bench(&mut table, &on);
            ran = true;
        }
    }
    table.summary();
    match (ran, table.failed) {
        (false, _) => Err("no device or no bench has that in its name".into()),
        (_, true) => Err("not every row could be measured".into()),
        _ => Ok(()),
    }
}

/// The CPU and every adapter.
fn devices(&Options { quick, candidates, no_tune, .. }: &Options) -> Result<Vec<On>, Error> {
    let mut all = vec![On { device: Device::cpu(), software: false, quick, candidates }];
    for adapter in Device::list() {
        let choice = if no_tune { Choice::Portable } else { Choice::Measured };
        // Time for all of them: what is measured here should not depend on how often it was run before.
        let options = GpuOptions { choice, budget: Duration::from_secs(600), ..GpuOptions::default() };
        let device = Device::parse_with(&adapter.name, &options)?;
        // Two adapters of one name are one here.
        if device.as_gpu().is_some_and(|gpu| *gpu.summary() == adapter) && all.iter().all(|on| on.device.name() != device.name()) {
            all.push(On { device, software: adapter.software, quick, candidates });
        }
    }
    Ok(all)
}
