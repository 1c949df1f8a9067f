//! The progress that `fit` shows: a bar on a terminal, plain lines elsewhere.

use super::{Epoch, StepReport};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    ops::Range,
    time::{Duration, Instant},
};

/// The shortest time between two updates of the loss on the bar. Each update costs a read-back, but no step waits for the
/// read-back.
const RENEW: Duration = Duration::from_millis(500);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    lines: bool,
    /// The numbers of the epochs: the one before the first, and the last.
    epochs: Range<usize>,
    steps: usize,
    samples: u64,
    started: Instant,
    renewed: Instant,
}

impl Progress {
    pub fn new(on: bool, epochs: Range<usize>, steps: usize) -> Progress {
        let bar = (on && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new((epochs.len() as u64).saturating_mul(steps as u64));
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3}% {msg} eta {eta}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        // A terminal that cannot draw a bar gets plain lines.
        let bar = bar.filter(|bar| !bar.is_hidden());
        let now = Instant::now();
        Progress { lines: on && bar.is_none(), bar, epochs, steps, samples: 0, started: now, renewed: now }
    }
    /// Returns whether it is time to request the loss from the device.
    pub fn wants_loss(&mut self) -> bool {
        let due = self.bar.is_some() && self.renewed.elapsed() >= RENEW;
        if due {
            self.renewed = Instant::now();
        }
        due
    }
    pub fn step(&mut self, epoch: usize, step: usize, samples: usize, last: Option<&StepReport>) {
        self.samples += samples as u64;
        let Some(bar) = &self.bar else { return };
        bar.set_prefix(format!("epoch {epoch}/{}", self.epochs.end));
        if let Some(r) = last {
            let rate = self.samples as f64 / self.started.elapsed().as_secs_f64();
            let accuracy = r.accuracy.map_or(String::new(), |a| format!(" accuracy {:.1}%", a * 100.0));
            bar.set_message(format!("loss {:.4}{accuracy} {rate:.0} samples/s", r.loss));
        }
        bar.set_position(((epoch - 1 - self.epochs.start) * self.steps + step) as u64);
    }
    // The user asked for these lines with `Fit::progress`.
    #[cfg_attr(not(test), expect(clippy::print_stderr))]
    pub fn epoch(&mut self, e: &Epoch) {
        let accuracy = |a: Option<f64>| a.map_or(String::new(), |a| format!("  accuracy {:5.2}%", a * 100.0));
        let validation = e.validation.map_or(String::new(), |(loss, a)| format!("  validation: loss {loss:.4}{}", accuracy(a)));
        let done = e.epoch - self.epochs.start;
        let left = (self.epochs.len() - done) as f64 * self.started.elapsed().as_secs_f64() / done as f64;
        let line = format!(
            "epoch {:>3}/{}  loss {:.4}{}{validation}  {:.0} samples/s  {left:.0} s left",
            e.epoch,
            self.epochs.end,
            e.loss,
            accuracy(e.accuracy),
            e.samples_per_s
        );
        match &self.bar {
            Some(bar) => bar.println(line),
            None if self.lines => eprintln!("{line}"),
            None => {}
        }
    }
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
