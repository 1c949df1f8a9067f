//! Does this machine compute rightly? Every kernel on every device against the same in double precision.
//!
//! A driver is a compiler that somebody wrote. This runs each kernel of this crate, forward and each gradient, on small
//! tensors of awkward sizes, and prints how far the worst result was from the exact one, and how far it may be.
//! On a terminal the last line says what is running; elsewhere stderr gets a line for each, and if a driver crashes or hangs,
//! it does so in the last one.
//!
//! Exit codes: 0 all right, 1 something failed, 2 it could not be run.

mod common;

use clap::Parser;
use downhill::{
    Device, Error,
    gpu::{Choice, GpuOptions, Limits},
    selftest::{self, Next, Report},
};
use std::{
    io::{IsTerminal, Write, stderr},
    path::PathBuf,
    process::ExitCode,
};

/// Does this machine compute rightly? Every kernel on every device against the same in double precision.
#[derive(Parser)]
struct Args {
    /// all (every GPU, software ones too, and the CPU), cpu, gpu (every GPU), or a part of an adapter's name
    #[arg(long, default_value = "all", value_name = "all|cpu|gpu|NAME")]
    device: String,
    /// Only this op or optimizer; may be repeated
    #[arg(long, value_name = "NAME")]
    op: Vec<String>,
    /// Without the large cases
    #[arg(long)]
    quick: bool,
    /// Writes the reports to a file, a list with one of each device
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// GPUs with no more than WebGPU's default limits, and without optional features
    #[arg(long)]
    webgpu_limits: bool,
    /// GPUs without optional features (subgroups, timestamps)
    #[arg(long)]
    no_features: bool,
    /// GPUs with shaders that check their bounds
    #[arg(long)]
    checked: bool,
}

impl Args {
    /// The devices asked for; a name and why where one does not open.
    fn devices(&self) -> Result<Vec<Result<Device, String>>, Error> {
        let mut options = GpuOptions { software: true, checked: self.checked, choice: Choice::Expected, ..GpuOptions::default() };
        options.features = !(self.no_features || self.webgpu_limits);
        options.limits = self.webgpu_limits.then(Limits::default);
        let gpus = |options: &GpuOptions| -> Result<Vec<Result<Device, String>>, Error> {
            let all = Device::open_all(options)?.into_iter();
            Ok(all.map(|(summary, opened)| opened.map_err(|error| format!("{summary} does not open: {error}"))).collect())
        };
        match self.device.as_str() {
            "cpu" => Ok(vec![Ok(Device::cpu())]),
            "gpu" => gpus(&options),
            "all" => {
                let mut all = match gpus(&options) {
                    Err(none @ Error::NoAdapter { .. }) => {
                        println!("{none}\n");
                        Vec::new()
                    }
                    all => all?,
                };
                all.push(Ok(Device::cpu()));
                Ok(all)
            }
            name => gpus(&GpuOptions { name: Some(name.to_string()), ..options }),
        }
    }
}

/// Says what comes next, and gets it out before that can crash.
fn say(next: &Next) {
    let text = format!("{}/{} {} {}: {}", next.number + 1, next.of, next.op, next.kernel, next.case);
    let mut out = stderr().lock();
    // What cannot be printed is not worth an error.
    let _ = match out.is_terminal() {
        true => write!(out, "\r\x1b[2K{}", text.chars().take(78).collect::<String>()),
        false => writeln!(out, "{text}"),
    };
    let _ = out.flush();
}

fn test(device: &Device, args: &Args) -> Result<Report, Error> {
    let full = match args.quick {
        true => selftest::Options::quick(),
        false => selftest::Options::default(),
    };
    let report = selftest::run(device, &selftest::Options { only: args.op.clone(), progress: Some(&say), ..full });
    if stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
    report
}

fn main() -> ExitCode {
    let mut failed = false;
    let code = common::run(|args: Args| {
        let mut reports = Vec::new();
        for device in args.devices()? {
            match device {
                Ok(device) => {
                    println!("{}\n", device.describe());
                    let report = test(&device, &args)?;
                    println!("{report}\n");
                    failed |= !report.passed();
                    reports.push(report.json());
                }
                Err(why) => {
                    println!("FAILED: {why}\n");
                    failed = true;
                }
            }
        }
        if let Some(path) = &args.json {
            let text = serde_json::to_string_pretty(&reports)?;
            downhill::file::replace(path, text.as_bytes())?;
        }
        Ok(())
    });
    if failed { ExitCode::FAILURE } else { code }
}
