//! Draws curves of a training into an SVG file.

use clap::Args;
use downhill::plot::{Panel, svg};
use std::{error::Error, path::PathBuf};

#[derive(Args)]
pub struct PlotArgs {
    /// Draws the curves of the training into this file
    #[arg(long, value_name = "FILE.svg", value_parser = super::new_file)]
    plot: Option<PathBuf>,
}

impl PlotArgs {
    /// Draws the panels in a grid, if the flag `--plot` is given.
    pub fn draw(&self, title: &str, panels: impl FnOnce() -> Vec<Panel>) -> Result<(), Box<dyn Error>> {
        let Some(path) = &self.plot else { return Ok(()) };
        downhill::file::replace(path, svg(title, &panels()).as_bytes())?;
        println!("curves of the training: {}", path.display());
        Ok(())
    }
}
