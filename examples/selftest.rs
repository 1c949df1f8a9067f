//! Tests whether this machine computes correctly. It compares every kernel on every device with a computation in double precision.
//!
//! A GPU driver contains a compiler, which may have bugs. The self-test runs each kernel of this crate, forward and for each gradient, on small
//! tensors of awkward sizes. It prints the largest error and the tolerance. On a terminal, the last line names the running case. Elsewhere,
//! stderr gets a line for each case. If a driver crashes or hangs, the last line names the case.
//!
//! Exit codes: 0 all tests passed, 1 a test failed, 2 the self-test could not run.

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

/// Tests whether this machine computes correctly: every kernel on every device, compared with double precision.
#[derive(Parser)]
struct Args {
    /// all (every GPU, including software GPUs, and the CPU), cpu, gpu (every GPU), or a part of an adapter's name
    #[arg(long, default_value = "all", value_name = "all|cpu|gpu|NAME")]
    device: String,
    /// Tests only this op or optimizer. May be repeated
    #[arg(long, value_name = "NAME")]
    op: Vec<String>,
    /// Leaves this op or optimizer out. May be repeated
    #[arg(long, value_name = "NAME")]
    except: Vec<String>,
    /// Omits the large cases
    #[arg(long)]
    quick: bool,
    /// Writes the reports to this file, as a list with one report for each device
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Opens GPUs with WebGPU's default limits and without optional features
    #[arg(long)]
    webgpu_limits: bool,
    /// Opens GPUs without optional features (subgroups, timestamps)
    #[arg(long)]
    no_features: bool,
    /// Compiles shaders with bounds checks
    #[arg(long)]
    checked: bool,
}

impl Args {
    /// Opens the requested devices. If a device does not open, the result has its name and the reason.
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

/// Prints the next case, and flushes the output before the case can crash.
fn say(next: &Next) {
    let text = format!("{}/{} {} {}: {}", next.number + 1, next.of, next.op, next.kernel, next.case);
    let mut out = stderr().lock();
    // A failure to print is ignored.
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
    let report =
        selftest::run(device, &selftest::Options { only: args.op.clone(), except: args.except.clone(), progress: Some(&say), ..full });
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
