//! The results of [`run`](super::run): as data, as a table, and as JSON.

use crate::{
    device::Device,
    error::{Error, Result},
    testing::{Checked, Distance},
    threads::sorted,
};
use serde_json::{Value, json};
use std::{fmt, time::Duration};

/// The quantity that a kernel computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Computed {
    /// The output.
    Forward,
    /// The gradient of the input with this index.
    Gradient(usize),
    /// Parameters after some steps of an optimizer.
    Update,
}

impl fmt::Display for Computed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Computed::Forward => f.pad("forward"),
            Computed::Gradient(i) => f.pad(&format!("gradient {i}")),
            Computed::Update => f.pad("update"),
        }
    }
}

/// The results of one kernel in one direction, over all of its cases.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name of the op or the optimizer.
    pub op: String,
    /// The name of the kernel: `cpu` on the CPU device, `alias` if there is nothing to compute.
    pub kernel: String,
    /// The quantity that the kernel computed.
    pub direction: Computed,
    /// The number of cases that ran.
    pub cases: usize,
    /// The number of cases that failed in this direction.
    pub failed: usize,
    /// The number of cases that did not run, because the device is too small for them.
    pub not_run: usize,
    /// The reason why the first of the cases that did not run was too large.
    pub limit: Option<String>,
    /// The distance of the worst case: the case with the largest error in relation to its tolerance.
    pub worst: Option<Distance>,
    /// The name of the worst case.
    pub worst_case: String,
    /// The largest [`Distance::relative`] of all cases.
    pub relative: f64,
}

/// The failure of one case.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The name of the op or the optimizer.
    pub op: String,
    /// The name of the kernel.
    pub kernel: String,
    /// The quantity that the kernel computed.
    pub direction: Computed,
    /// The name of the case.
    pub case: String,
    /// A sentence that says what is wrong.
    pub why: String,
}

/// The results for one device. `Display` writes a table and explains its columns.
#[derive(Clone, Debug)]
pub struct Report {
    /// The adapter, the driver, the limits and the features, on several lines.
    pub device: String,
    /// The results by op, kernel and direction.
    pub rows: Vec<Row>,
    /// All failures, in the order in which they were found.
    pub failures: Vec<Failure>,
    /// The reason why the device was lost, if it was lost. The remaining cases were not tested.
    pub lost: Option<String>,
    /// The duration of the test in seconds.
    pub seconds: f64,
}

impl Report {
    pub(super) fn new(device: &Device) -> Report {
        Report { device: device.describe(), rows: Vec::new(), failures: Vec::new(), lost: None, seconds: 0.0 }
    }
    /// Adds the results of one case of a kernel in these directions.
    pub(super) fn add(&mut self, op: &str, kernel: &str, case: &str, directions: &[Computed], result: Result<Vec<Checked>>) {
        match result {
            Ok(all) => {
                for (&direction, checked) in directions.iter().zip(all) {
                    let (row, distance) = (self.row(op, kernel, direction), checked.distance);
                    row.cases += 1;
                    row.relative = row.relative.max(distance.relative);
                    if row.worst.is_none_or(|worst| distance.ratio() > worst.ratio()) {
                        (row.worst, row.worst_case) = (Some(distance), case.to_string());
                    }
                    if let Some(why) = checked.wrong {
                        self.fail(op, kernel, direction, case, why);
                    }
                }
            }
            Err(error @ Error::Limit { .. }) => {
                for &direction in directions {
                    let row = self.row(op, kernel, direction);
                    row.not_run += 1;
                    row.limit.get_or_insert_with(|| error.to_string());
                }
            }
            Err(error) => {
                for &direction in directions {
                    self.row(op, kernel, direction).cases += 1;
                }
                self.fail(op, kernel, directions[0], case, error.to_string());
            }
        }
    }
    /// Adds a failed case to its row.
    pub(super) fn fail(&mut self, op: &str, kernel: &str, direction: Computed, case: &str, why: String) {
        self.row(op, kernel, direction).failed += 1;
        self.failures.push(Failure { op: op.into(), kernel: kernel.into(), direction, case: case.into(), why });
    }
    /// Records that the device was lost, if `why` is given. Returns true if it was lost.
    pub(super) fn lost(&mut self, why: Option<String>) -> bool {
        self.lost = why;
        self.lost.is_some()
    }
    pub(super) fn finish(mut self, took: Duration) -> Report {
        let mut kernels: Vec<(&str, &str)> = Vec::new();
        for row in &self.rows {
            if !kernels.contains(&(&row.op, &row.kernel)) {
                // The row goes after the rows of the op's other kernels.
                let at = kernels.iter().rposition(|k| k.0 == row.op).map_or(kernels.len(), |i| i + 1);
                kernels.insert(at, (&row.op, &row.kernel));
            }
        }
        let place = |row: &Row| (kernels.iter().position(|k| *k == (&row.op, &row.kernel)), row.direction);
        let order = sorted(self.rows.len(), |i| place(&self.rows[i]));
        self.rows = order.iter().map(|&i| self.rows[i].clone()).collect();
        self.seconds = took.as_secs_f64();
        self
    }
    fn row(&mut self, op: &str, kernel: &str, direction: Computed) -> &mut Row {
        let at = self.rows.iter().position(|r| r.op == op && r.kernel == kernel && r.direction == direction);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                op: op.into(),
                kernel: kernel.into(),
                direction,
                cases: 0,
                failed: 0,
                not_run: 0,
                limit: None,
                worst: None,
                worst_case: String::new(),
                relative: 0.0,
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    /// Returns true if the device computes correctly: at least one case ran, and none failed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.lost.is_none() && self.rows.iter().any(|row| row.cases > 0)
    }
    /// Returns everything as JSON, under the names of the fields. An infinite error (an unexpected NaN) is `null`.
    pub fn json(&self) -> Value {
        let direction = |d: Computed| match d {
            Computed::Forward => json!({ "direction": "forward" }),
            Computed::Gradient(input) => json!({ "direction": "gradient", "input": input }),
            Computed::Update => json!({ "direction": "update" }),
        };
        let with = |mut fields: Value, d: Computed| {
            if let (Value::Object(fields), Value::Object(direction)) = (&mut fields, direction(d)) {
                fields.extend(direction);
            }
            fields
        };
        let rows = self.rows.iter().map(|r| {
            let fields = json!({
                "op": r.op, "kernel": r.kernel, "cases": r.cases, "failed": r.failed, "not_run": r.not_run, "limit": r.limit,
                "ulps": r.worst.map(|w| w.ulps), "tolerance": r.worst.map(|w| w.tolerance), "ratio": r.worst.map(|w| w.ratio()),
                "worst_case": r.worst_case, "relative": r.relative,
            });
            with(fields, r.direction)
        });
        let failures =
            self.failures.iter().map(|f| with(json!({ "op": f.op, "kernel": f.kernel, "case": f.case, "why": f.why }), f.direction));
        json!({
            "device": self.device, "passed": self.passed(), "lost": self.lost, "seconds": self.seconds,
            "rows": rows.collect::<Vec<_>>(), "failures": failures.collect::<Vec<_>>(),
        })
    }
}

/// The largest number of characters of a case's name in the table.
const CASE: usize = 48;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:<12} {:<11} {:>5} {:>9} {:>9} {:>6} {:>9}  {:<7} worst case",
            "op", "kernel", "direction", "cases", "ULP", "allowed", "used", "relative", "verdict"
        )?;
        for row in &self.rows {
            write!(f, "{:<20} {:<12} {:<11} {:>5} ", row.op, row.kernel, row.direction, row.cases)?;
            match row.worst {
                Some(w) => {
                    let used = (100.0 * w.ratio()).min(99_999.0);
                    write!(f, "{:>9.3} {:>9.1} {used:>4.0} % {:>9.1e}  ", w.ulps, w.tolerance, row.relative)?;
                }
                None => write!(f, "{:>9} {:>9} {:>6} {:>9}  ", "-", "-", "-", "-")?,
            }
            let verdict = match (row.failed, row.cases) {
                (0, 0) => "not run",
                (0, _) => "ok",
                _ => "FAILED",
            };
            let case = match row.worst {
                Some(worst) if worst.ulps == 0.0 => "none: all are exact",
                _ => row.worst_case.as_str(),
            };
            let short: String = case.chars().take(CASE).collect();
            writeln!(f, "{verdict:<7} {short}{}", if short.len() < case.len() { "…" } else { "" })?;
        }
        let (cases, not_run) = self.rows.iter().fold((0, 0), |(cases, not), row| (cases + row.cases, not + row.not_run));
        writeln!(f)?;
        writeln!(f, "ULP       largest |got − want| in units in the last place, 2⁻²³ · (|want| + mean |want|), at the case that")?;
        writeln!(f, "          comes nearest to the tolerance: 16 + 2·√(number of terms in a sum)")?;
        writeln!(f, "relative  largest |got − want| / |want|, of the elements not below the mean")?;
        writeln!(f)?;
        for row in self.rows.iter().filter(|row| row.not_run > 0) {
            let why = row.limit.as_deref().unwrap_or_default();
            writeln!(f, "not run: {} cases of {} {} {}: limit: {why}", row.not_run, row.op, row.kernel, row.direction)?;
        }
        for Failure { op, kernel, direction, case, why } in &self.failures {
            writeln!(f, "FAILED: {op} {kernel} {direction}, case `{case}`: {why}")?;
        }
        if let Some(why) = &self.lost {
            writeln!(f, "FAILED: {why}; nothing was tested after that")?;
        }
        let verdict = if self.passed() { "all right".to_string() } else { format!("{} FAILED", self.failures.len().max(1)) };
        write!(f, "{cases} comparisons in {:.1} s, {not_run} not run for a limit of the device: {verdict}", self.seconds)
    }
}
