//! Code that the examples share: the flags of a device, files to write, and errors that are printed as one line.

// Each example uses only a part of this module.
#![allow(dead_code)]

pub mod plot;
pub mod png;

use clap::{Args, Parser};
use downhill::{
    Device, Result, World,
    gpu::{Choice, GpuOptions},
};
use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Args)]
pub struct DeviceArgs {
    /// best (a real GPU, else the CPU), cpu, gpu (including software GPUs), or a part of an adapter's name
    #[arg(long, default_value = "best", value_name = "best|cpu|gpu|NAME")]
    device: String,
    /// How to choose the kernels of a GPU: by measuring, by expected speed, or kernels that run everywhere
    #[arg(long, default_value = "measured", value_name = "measured|expected|portable", value_parser = choice)]
    kernels: Choice,
    /// Measures nothing, like --kernels portable
    #[arg(long, conflicts_with = "kernels")]
    no_tune: bool,
}

fn choice(text: &str) -> Result<Choice, String> {
    match text {
        "measured" => Ok(Choice::Measured),
        "expected" => Ok(Choice::Expected),
        "portable" => Ok(Choice::Portable),
        _ => Err("it is measured, expected or portable".into()),
    }
}

impl DeviceArgs {
    /// Opens the device and prints its name, its driver, and the reason for choosing it.
    pub fn open(&self) -> Result<Device> {
        self.print(Device::parse_with(&self.device, &self.options())?)
    }
    /// Opens the device of a rank. Rank 0 prints.
    pub fn open_for(&self, world: &World) -> Result<Device> {
        if world.size() == 1 {
            return self.open();
        }
        let device = Device::for_rank_with(world, &self.device, &self.options())?;
        if world.rank() > 0 {
            return Ok(device);
        }
        println!("ranks:  {}", world.size());
        self.print(device)
    }
    fn options(&self) -> GpuOptions {
        let choice = if self.no_tune { Choice::Portable } else { self.kernels };
        GpuOptions { choice, ..GpuOptions::default() }
    }
    fn print(&self, device: Device) -> Result<Device> {
        println!("device: {} (driver: {})", device.name(), device.driver());
        println!("why:    {}", device.why());
        Ok(device)
    }
}

/// Returns the ranks that `mpirun` has started. Without the feature `mpi`, this process is alone.
pub fn world() -> Result<World> {
    #[cfg(feature = "mpi")]
    return World::mpi();
    #[cfg(not(feature = "mpi"))]
    Ok(World::alone())
}

/// Parses a path to write to, for clap. A missing folder is an error before the training instead of after it.
pub fn new_file(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    match path.parent() {
        _ if path.is_dir() => Err("that is a folder, not a file".into()),
        Some(folder) if !folder.is_dir() && folder != Path::new("") => Err(format!("there is no folder {}", folder.display())),
        _ => Ok(path),
    }
}

/// Parses the flags and runs an example. An error is printed as one line on stderr and gives exit code 2.
pub fn run<A: Parser, T>(example: impl FnOnce(A) -> Result<T, Box<dyn Error>>) -> ExitCode {
    let error = match A::try_parse() {
        Ok(args) => match example(args) {
            Ok(_) => return ExitCode::SUCCESS,
            Err(error) => format!("error: {error}"),
        },
        // The text of --help.
        Err(error) if !error.use_stderr() => error.exit(),
        // clap's message, without the usage below it.
        Err(error) => {
            error.to_string().lines().take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more")).collect::<Vec<_>>().join(" ")
        }
    };
    eprintln!("{}", error.split_whitespace().collect::<Vec<_>>().join(" "));
    ExitCode::from(2)
}
