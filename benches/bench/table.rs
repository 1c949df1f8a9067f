//! Timing a row, printing it, and appending it to a file as JSON.

use downhill::{Device, Error};
use serde_json::{Value, json};
use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

/// What a row's time is set against.
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
    /// A repetition is made of so many runs that it takes about this long.
    pub repetition: Duration,
}

/// Where rows go, and whether all of them could be measured.
pub struct Table {
    json: Option<File>,
    pub budget: Budget,
    device: String,
    driver: String,
    bench: &'static str,
    pub failed: bool,
}

type Outcome = Result<(), Error>;

impl Table {
    pub fn new(json: Option<&Path>, budget: Budget) -> std::io::Result<Table> {
        let json = json.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Table { json, budget, device: String::new(), driver: String::new(), bench: "", failed: false })
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
        self.row("control: host memcpy 32 MiB", Rate::Bytes(2.0 * BYTES as f64), || {
            black_box(&mut to).copy_from_slice(black_box(&from));
            Ok(())
        });
    }
    /// A row: `run` is timed until it returns, so it must wait for what it starts.
    pub fn row(&mut self, shape: &str, rate: Rate, mut run: impl FnMut() -> Outcome) {
        self.repeated(shape, rate, |n| (0..n).try_for_each(|_| run()));
    }
    /// A row whose `run(n)` does the work n times and then waits for all of it.
    pub fn repeated(&mut self, shape: &str, rate: Rate, mut run: impl FnMut(usize) -> Outcome) {
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
    pub fn timed(&mut self, shape: &str, more: Value, mut run: impl FnMut() -> Result<Duration, Error>) -> Option<f64> {
        let measured = (|| {
            run()?;
            let (mut seconds, all) = (Vec::new(), Instant::now());
            while seconds.len() < 5 || (all.elapsed() < 2 * self.budget.time && seconds.len() < 100) {
                seconds.push(run()?.as_secs_f64());
            }
            Ok(seconds)
        })();
        self.put(shape, Rate::None, measured, more)
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
        println!("    {shape:<44} {:>9.4} ms {:>9.4} ms   {text}", median * 1e3, min * 1e3);
        if let Some(file) = &mut self.json {
            let mut object = json!({
                "bench": self.bench, "device": self.device, "driver": self.driver, "shape": shape,
                "median_ms": median * 1e3, "min_ms": min * 1e3,
            });
            if !key.is_empty() {
                object[key] = json!(value);
            }
            for (key, value) in more.as_object().into_iter().flatten() {
                object[key] = value.clone();
            }
            if let Err(error) = writeln!(file, "{object}") {
                println!("    the JSON file cannot be written: {error}");
                (self.failed, self.json) = (true, None);
            }
        }
        Some(median)
    }
}
