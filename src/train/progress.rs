//! The progress that `fit` shows: a bar on a terminal, plain lines elsewhere, or events of the crate `log`.

use super::{Epoch, StepReport};
use crate::plan::report::size;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    mem,
    ops::Range,
    time::{Duration, Instant},
};

/// Where [`Fit::progress`](super::Fit::progress) shows the progress of a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere.
    #[default]
    Off,
    /// On the standard error. A terminal shows one line, which has a bar. Any other output gets a plain line after each epoch.
    Show,
    /// As events of level `info` of the crate [`log`], with the target `downhill::fit`: one after each epoch, and one every ten
    /// seconds within an epoch.
    Log,
}

impl From<bool> for Progress {
    fn from(show: bool) -> Progress {
        if show { Progress::Show } else { Progress::Off }
    }
}

fn noise(scale: Option<f64>) -> String {
    scale.map_or(String::new(), |scale| format!("  noise scale {scale:.0}"))
}

/// The target of events.
const TARGET: &str = "downhill::fit";

enum To {
    Nowhere,
    Bar(ProgressBar),
    Lines,
    Log,
}

/// The progress of a call of `fit`.
pub(super) struct Shown {
    to: To,
    /// The numbers of the epochs: the one before the first, and the last.
    epochs: Range<usize>,
    /// The number of steps in an epoch.
    steps: usize,
    /// The bytes that training takes on the device, if they are shown.
    memory: Option<u64>,
    samples: u64,
    started: Instant,
    /// The time of the validation so far.
    paused: Duration,
    /// The number of steps made before the first step that was seen, and the number made now, both from the first epoch on.
    first: Option<u64>,
    made: u64,
    /// The shortest time between two reports within an epoch. Each costs a read-back, but no step waits for the read-back.
    renew: Duration,
    renewed: Instant,
    due: bool,
}

impl Shown {
    pub fn new(progress: Progress, epochs: Range<usize>, steps: usize, memory: Option<u64>) -> Shown {
        let bar = (progress == Progress::Show && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new((epochs.len() as u64).saturating_mul(steps as u64));
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3}% {wide_msg}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        // A terminal that cannot draw a bar gets plain lines.
        let bar = bar.filter(|bar| !bar.is_hidden());
        let to = match (progress, bar) {
            (Progress::Off, _) => To::Nowhere,
            (Progress::Log, _) => To::Log,
            (Progress::Show, Some(bar)) => To::Bar(bar),
            (Progress::Show, None) => To::Lines,
        };
        let renew = if progress == Progress::Log { Duration::from_secs(10) } else { Duration::from_millis(500) };
        #[cfg(test)]
        let renew = tests::RENEW.get().unwrap_or(renew);
        let (now, paused) = (Instant::now(), Duration::ZERO);
        let (samples, first, made) = (0, None, 0);
        Shown { to, epochs, steps, memory, samples, started: now, paused, first, made, renew, renewed: now, due: false }
    }
    /// Returns whether it is time to request the loss from the device.
    pub fn wants_loss(&mut self) -> bool {
        self.due = matches!(self.to, To::Bar(_) | To::Log) && self.renewed.elapsed() >= self.renew;
        if self.due {
            self.renewed = Instant::now();
        }
        self.due
    }
    /// Shows a step of an epoch. `last` is the latest report.
    pub fn step(&mut self, epoch: usize, step: usize, samples: usize, last: Option<&StepReport>) {
        self.samples += samples as u64;
        self.made = ((epoch - 1 - self.epochs.start) * self.steps + step) as u64;
        self.first.get_or_insert(self.made - 1);
        let told = |shown: &Shown| last.map(|report| shown.told(report));
        match &self.to {
            To::Bar(bar) => {
                bar.set_prefix(format!("epoch {epoch}/{}", self.epochs.end));
                if let Some(text) = told(self) {
                    bar.set_message(text);
                }
                bar.set_position(self.made);
            }
            To::Log if mem::take(&mut self.due) => {
                if let Some(text) = told(self) {
                    log::info!(target: TARGET, "epoch {epoch}/{} step {step}/{} {text}", self.epochs.end, self.steps);
                }
            }
            _ => {}
        }
    }
    /// Describes the latest report.
    fn told(&self, report: &StepReport) -> String {
        let rate = self.samples as f64 / (self.started.elapsed() - self.paused).as_secs_f64();
        let accuracy = report.accuracy.map_or(String::new(), |a| format!(" accuracy {:.1}%", a * 100.0));
        format!("loss {:.4}{accuracy}{} {rate:.0} samples/s{}", report.loss, noise(report.noise_scale), self.rest(" "))
    }
    /// Describes the time left, at the pace of this call so far, and the memory.
    fn rest(&self, gap: &str) -> String {
        let all = self.epochs.len() as u64 * self.steps as u64;
        let (made, left) = (self.made - self.first.unwrap_or(0), all.saturating_sub(self.made));
        let seconds = self.started.elapsed().as_secs_f64() * left as f64 / made as f64;
        let left = (made > 0).then(|| format!("{gap}{} left", time(seconds)));
        left.unwrap_or_default() + &self.memory.map_or(String::new(), |bytes| format!("{gap}{}", size(bytes)))
    }
    /// Shows how much of the validation data is evaluated. `since` is the time when the evaluation began.
    pub fn validation(&mut self, done: usize, samples: usize, since: Instant) {
        if done == samples {
            self.paused += since.elapsed();
        }
        if let To::Bar(bar) = &self.to {
            bar.set_message(format!("validation {done}/{samples} samples{}", self.rest(" ")));
        }
    }
    // The user asked for these lines with `Fit::progress`.
    #[cfg_attr(not(test), expect(clippy::print_stderr))]
    pub fn epoch(&mut self, e: &Epoch) {
        match &self.to {
            To::Nowhere => {}
            To::Bar(bar) => bar.println(self.line(e)),
            To::Lines => eprintln!("{}", self.line(e)),
            To::Log => log::info!(target: TARGET, "{}", self.line(e)),
        }
    }
    /// Describes an epoch.
    fn line(&self, e: &Epoch) -> String {
        let numbers = |loss: f64, accuracy: Option<f64>, watched: &super::Named<f64>| {
            let accuracy = accuracy.map_or(String::new(), |a| format!("  accuracy {:5.2}%", a * 100.0));
            let watched: String = watched.iter().map(|(name, x)| format!("  {name} {x:.4}")).collect();
            format!("loss {loss:.4}{accuracy}{watched}")
        };
        let validation = e.validation.map(|(loss, accuracy)| format!("  validation: {}", numbers(loss, accuracy, &e.validation_watched)));
        let (numbers, validation) = (numbers(e.loss, e.accuracy, &e.watched), validation.unwrap_or_default());
        let (noise, rest) = (noise(e.noise_scale), self.rest("  "));
        format!("epoch {:>3}/{}  {numbers}{validation}{noise}  {:.0} samples/s{rest}", e.epoch, self.epochs.end, e.samples_per_s)
    }
    pub fn finish(self) {
        if let To::Bar(bar) = self.to {
            bar.finish_and_clear();
        }
    }
}

/// Formats a time.
fn time(seconds: f64) -> String {
    let s = seconds.round().min(1e9) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, Fit, Trainer,
        data::{self, told::told},
        optim::Sgd,
    };
    use std::cell::Cell;

    thread_local! {
        /// The time between two reports within an epoch, for the trainings of a test.
        pub(super) static RENEW: Cell<Option<Duration>> = const { Cell::new(None) };
    }

    #[test]
    fn times() {
        for (seconds, want) in [(0.4, "0 s"), (59.0, "59 s"), (59.6, "1 min 0 s"), (3599.0, "59 min 59 s"), (7500.0, "2 h 5 min")] {
            assert_eq!(time(seconds), want);
        }
        assert!(time(f64::INFINITY).ends_with("min"));
    }

    fn trainer(data: &data::Dataset) -> Trainer {
        Trainer::for_data(&Device::cpu(), data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1)).unwrap()
    }

    #[test]
    fn events_within_an_epoch_come_every_ten_seconds() {
        let mut shown = Shown::new(Progress::Log, 0..1, 10, None);
        let ago = |seconds: u64| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("the clock runs for longer");
        for (seconds, due) in [(0, false), (9, false), (10, true), (11, true)] {
            shown.renewed = ago(seconds);
            assert_eq!(shown.wants_loss(), due, "{seconds}");
        }
        // The clock starts again with each event.
        assert!(!shown.wants_loss());
        // Nothing is due where nothing is shown.
        let mut off = Shown::new(Progress::Off, 0..1, 10, None);
        off.renewed = ago(11);
        assert!(!off.wants_loss());
    }

    /// Two epochs of five steps, with an interval that no step undercuts, and with one that no epoch exceeds. An event has the latest report
    /// that has arrived, which is that of the step before.
    #[test]
    fn events_of_steps() {
        let iris = data::iris();
        let fit = |renew: Duration| {
            RENEW.set(Some(renew));
            let mut trainer = trainer(&iris);
            let events = told("downhill::fit", || {
                trainer.fit(&iris, Fit::new().epochs(2).batch_size(30).progress(Progress::Log)).unwrap();
            });
            RENEW.set(None);
            (events, trainer.take_reports().unwrap())
        };
        let (events, reports) = fit(Duration::ZERO);
        let steps: Vec<&String> = events.iter().filter(|event| event.contains(" step ")).collect();
        for (k, (event, report)) in steps.iter().zip(&reports).enumerate() {
            let (epoch, step) = ((k + 1) / 5 + 1, (k + 1) % 5 + 1);
            let want = format!("INFO downhill::fit: epoch {epoch}/2 step {step}/5 loss {:.4} accuracy ", report.loss);
            assert!(event.starts_with(&want) && event.contains(" samples/s "), "{event} is not {want}");
        }
        assert_eq!((reports.len(), steps.len(), events.len()), (10, 9, 11));
        assert_eq!(fit(Duration::from_secs(3600)).0.len(), 2);
    }

    #[test]
    fn a_line_tells_all_numbers_of_an_epoch() {
        let named = |x: f64| super::super::Named::new(["rmse".to_string()].into(), vec![x]);
        let iris = data::iris();
        let mut trainer = trainer(&iris);
        let any = trainer.fit(&iris, Fit::new()).unwrap().epochs.remove(0);
        let report = trainer.take_reports().unwrap().remove(0);
        let epoch = Epoch {
            epoch: 2,
            loss: 0.5,
            accuracy: Some(0.25),
            watched: named(1.5),
            validation: Some((0.75, None)),
            validation_watched: named(2.5),
            samples_per_s: 1234.4,
            ..any
        };
        let mut shown = Shown::new(Progress::Off, 0..4, 10, Some(3 << 20));
        assert_eq!(
            shown.line(&epoch),
            "epoch   2/4  loss 0.5000  accuracy 25.00%  rmse 1.5000  validation: loss 0.7500  rmse 2.5000  1234 samples/s  3.00 MiB"
        );
        // A training that goes on at step 15 has seen one step of the 25 that are left.
        shown.step(2, 5, 8, Some(&report));
        shown.started = Instant::now().checked_sub(Duration::from_secs(4)).expect("the clock runs for longer");
        assert!(shown.line(&epoch).ends_with("samples/s  1 min 40 s left  3.00 MiB"), "{}", shown.line(&epoch));
        let told = shown.told(&StepReport { loss: 0.25, accuracy: Some(0.5), ..report });
        assert_eq!(told, "loss 0.2500 accuracy 50.0% 2 samples/s 1 min 40 s left 3.00 MiB");
    }
}
