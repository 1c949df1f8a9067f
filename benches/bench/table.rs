//! Timing a row, printing it beside an earlier run's, and appending it to a file as JSON.

#[path = "stamp.rs"]
mod stamp;

use downhill::{Device, Error};
use serde_json::{Value, json};
use stamp::{commit, today};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    hint::black_box,
    io::{self, Write},
    path::Path,
    time::{Duration, Instant},
};

/// The work that the time of a row is divided into.
#[derive(Clone, Copy)]
pub enum Rate {
    /// Floating-point operations.
    Flop(f64),
    /// Bytes read and written.
    Bytes(f64),
    /// Samples trained.
    Samples(f64),
    /// Nothing: the time itself is what counts.
    None,
}

/// How long a row is measured for.
#[derive(Clone, Copy)]
pub struct Budget {
    /// Repetitions end when they took this long, once there are three.
    pub time: Duration,
    /// The length of a repetition. The number of its runs is chosen for this length.
    pub repetition: Duration,
}

/// The objects of a file of rows.
pub fn rows(path: &Path) -> io::Result<Vec<Value>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(named)?;
    text.lines().map(|line| serde_json::from_str(line).map_err(|e| named(e.into()))).collect()
}

/// Returns the key of a row: bench, device and shape.
fn key(row: &Value) -> [String; 3] {
    ["bench", "device", "shape"].map(|key| row[key].as_str().unwrap_or_default().to_string())
}

/// The destination of the rows. It also notes whether all rows could be measured.
pub struct Table {
    json: Option<File>,
    /// The median and the least time of each row in an earlier run, in milliseconds.
    old: HashMap<[String; 3], [f64; 2]>,
    /// Old time over new, of each bench's rows without the control.
    ratios: Vec<(&'static str, f64)>,
    pub budget: Budget,
    /// Only rows with this in their name.
    pub only: Option<String>,
    device: String,
    driver: String,
    /// The short hash of the measured commit, with a + if files differ from it.
    commit: String,
    date: String,
    bench: &'static str,
    pub failed: bool,
}

/// A row that is measured in turns with others: its name, and the work that says how long it took.
pub type Turn<'a> = (String, Rate, Box<dyn FnMut() -> Result<Duration, Error> + 'a>);

type Outcome = Result<(), Error>;

impl Table {
    pub fn new(json: Option<&Path>, old: Option<&Path>, budget: Budget) -> io::Result<Table> {
        let json = json.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        let of = |row: &Value| ["median_ms", "min_ms"].map(|key| row[key].as_f64().unwrap_or(f64::NAN));
        let old = old.map_or(Ok(Vec::new()), rows)?.iter().map(|row| (key(row), of(row))).collect();
        Ok(Table {
            json,
            old,
            ratios: Vec::new(),
            budget,
            only: None,
            device: String::new(),
            driver: String::new(),
            commit: commit(),
            date: today(),
            bench: "",
            failed: false,
        })
    }
    /// Whether a row of that name is asked for.
    pub fn wants(&self, shape: &str) -> bool {
        shape == CONTROL || self.only.as_ref().is_none_or(|part| shape.contains(part.as_str()))
    }
    /// The rows that follow are of this device.
    pub fn device(&mut self, device: &Device) {
        (self.device, self.driver) = (device.name(), device.driver());
        println!("\n{}, {}", self.device, self.driver);
    }
    /// The rows that follow are of this bench.
    pub fn open(&mut self, bench: &'static str, what: &str) {
        self.bench = bench;
        println!("\n  {bench}: {what}");
        println!("    {:<44} {:>12} {:>12}   at the median", "shape", "median", "min");
    }
    /// Ends a bench by a row that no change of the library can affect: where it moved, so did the machine.
    pub fn close(&mut self) {
        const BYTES: usize = 32 << 20;
        let (from, mut to) = (vec![1u8; BYTES], vec![0u8; BYTES]);
        self.row(CONTROL, Rate::Bytes(2.0 * BYTES as f64), || {
            black_box(&mut to).copy_from_slice(black_box(&from));
            Ok(())
        });
    }
    /// After all benches: how they compare with the earlier run.
    pub fn summary(&self) {
        let mut benches: Vec<&str> = self.ratios.iter().map(|r| r.0).collect();
        benches.dedup();
        for bench in benches {
            let logs: Vec<f64> = self.ratios.iter().filter(|r| r.0 == bench).map(|r| r.1.ln()).collect();
            println!("{bench}: {:.2}× the earlier run's speed (geometric mean of {} rows)", mean(&logs).exp(), logs.len());
        }
    }
    /// A row: `run` is timed until it returns, so it must wait for what it starts.
    pub fn row(&mut self, shape: &str, rate: Rate, mut run: impl FnMut() -> Outcome) {
        self.repeated(shape, rate, |n| (0..n).try_for_each(|_| run()));
    }
    /// A row whose `run(n)` does the work n times and then waits for all of it.
    pub fn repeated(&mut self, shape: &str, rate: Rate, mut run: impl FnMut(usize) -> Outcome) {
        if !self.wants(shape) {
            return;
        }
        let Budget { time, repetition } = self.budget;
        let measured = (|| {
            // The first run compiles and allocates; the second one says how long a run takes.
            run(1)?;
            let started = Instant::now();
            run(1)?;
            let one = started.elapsed();
            let n = (repetition.as_secs_f64() / one.as_secs_f64().max(1e-9)).ceil().clamp(1.0, 1000.0) as usize;
            let mut seconds = if n == 1 { vec![one.as_secs_f64()] } else { Vec::new() };
            let all = Instant::now();
            while seconds.len() < 3 || (all.elapsed() < time && seconds.len() < 100) {
                let started = Instant::now();
                run(n)?;
                seconds.push(started.elapsed().as_secs_f64() / n as f64);
            }
            Ok(seconds)
        })();
        self.put(shape, rate, measured, json!({}));
    }
    /// A row whose `run` says itself how long it took; nothing else in it is counted.
    pub fn timed(&mut self, shape: &str, rate: Rate, more: Value, mut run: impl FnMut() -> Result<Duration, Error>) -> Option<f64> {
        if !self.wants(shape) {
            return None;
        }
        let measured = (|| {
            run()?;
            let (mut seconds, all) = (Vec::new(), Instant::now());
            while seconds.len() < 5 || (all.elapsed() < 2 * self.budget.time && seconds.len() < 100) {
                seconds.push(run()?.as_secs_f64());
            }
            Ok(seconds)
        })();
        self.put(shape, rate, measured, more)
    }
    /// Rows like those of [`timed`](Table::timed) that are measured in turns. So other work on the machine slows all of them.
    pub fn in_turns(&mut self, rows: &mut [Turn]) {
        let mut measured: Vec<Result<Vec<f64>, Error>> = rows.iter().map(|_| Ok(Vec::new())).collect();
        let all = Instant::now();
        // The first round warms up.
        for round in 0..100 {
            if round > 5 && all.elapsed() > 2 * self.budget.time * rows.len() as u32 {
                break;
            }
            for ((.., run), measured) in rows.iter_mut().zip(&mut measured) {
                let Ok(seconds) = measured else { continue };
                match run() {
                    Ok(took) if round > 0 => seconds.push(took.as_secs_f64()),
                    Ok(_) => {}
                    Err(error) => *measured = Err(error),
                }
            }
        }
        for ((shape, rate, _), measured) in rows.iter().zip(measured) {
            self.put(shape, *rate, measured, json!({}));
        }
    }
    /// A row that is left out, and why.
    pub fn skip(&self, shape: &str, why: &str) {
        println!("    {shape:<44} {why}");
    }
    pub fn note(&self, text: &str) {
        println!("    {text}");
    }

    /// Prints a row; returns its median in seconds.
    fn put(&mut self, shape: &str, rate: Rate, measured: Result<Vec<f64>, Error>, more: Value) -> Option<f64> {
        let mut seconds = match measured {
            Ok(seconds) => seconds,
            Err(error) => {
                // A device too small for a row is no failure of the library.
                self.failed |= !matches!(error, Error::Limit { .. });
                self.skip(shape, &format!("not run: {error}"));
                return None;
            }
        };
        seconds.sort_by(f64::total_cmp);
        let (min, median) = (seconds[0], (seconds[(seconds.len() - 1) / 2] + seconds[seconds.len() / 2]) / 2.0);
        let (key, value, text) = match rate {
            Rate::Flop(x) => ("gflops", x / median / 1e9, format!("{:.1} GFLOP/s", x / median / 1e9)),
            Rate::Bytes(x) => ("gbps", x / median / 1e9, format!("{:.2} GB/s", x / median / 1e9)),
            Rate::Samples(x) => ("samples_per_s", x / median, format!("{:.0} samples/s", x / median)),
            Rate::None => ("", 0.0, String::new()),
        };
        let before = self.old.get(&[self.bench, &self.device, shape].map(String::from));
        let ratio = before.map_or(String::new(), |[m, least]| format!("   {:.2}× (least {:.2}×)", m / median / 1e3, least / min / 1e3));
        if let Some([m, _]) = before.filter(|_| shape != CONTROL) {
            self.ratios.push((self.bench, m / median / 1e3));
        }
        println!("    {shape:<44} {:>9.4} ms {:>9.4} ms   {text:<18}{ratio}", median * 1e3, min * 1e3);
        let mut object = json!({ "shape": shape, "median_ms": median * 1e3, "min_ms": min * 1e3 });
        if !key.is_empty() {
            object[key] = json!(value);
        }
        for (key, value) in more.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        self.write(object);
        Some(median)
    }
    /// Appends an object to the JSON file, with the bench, the device, the date and the commit.
    pub fn write(&mut self, mut object: Value) {
        let Some(file) = &mut self.json else { return };
        let common =
            [("bench", self.bench), ("device", &self.device), ("driver", &self.driver), ("date", &self.date), ("commit", &self.commit)];
        for (key, value) in common {
            object[key] = json!(value);
        }
        if let Err(error) = writeln!(file, "{object}") {
            println!("    the JSON file cannot be written: {error}");
            (self.failed, self.json) = (true, None);
        }
    }
}

/// The row that no change of the library can affect.
pub const CONTROL: &str = "control: host memcpy 32 MiB";

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
