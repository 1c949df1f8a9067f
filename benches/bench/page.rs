//! The page that shows the files of `scripts/gpu.sh`. It is one HTML file, which needs no network.

use crate::{
    readme::{ms, rate, scaling, text},
    table::rows,
};
use downhill::file;
use serde_json::Value;
use std::{error::Error, fmt::Write, fs, path::Path};

/// Writes `index.html` into the folder. A part whose file is missing is left out.
pub fn write(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for name in ["bench.jsonl", "scaling.jsonl", "profile.jsonl", "peers.jsonl"] {
        let path = folder.join(name);
        if path.exists() {
            rows.extend(self::rows(&path)?);
        }
    }
    let selftest = match fs::read_to_string(folder.join("selftest.json")) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => Value::Null,
    };
    let mut page = Page(HEAD.to_string());
    page.system(&fs::read_to_string(folder.join("system.txt")).unwrap_or_default());
    page.parts(&fs::read_to_string(folder.join("parts.tsv")).unwrap_or_default());
    page.selftest(selftest.as_array().map_or(&[], Vec::as_slice));
    page.scaling(&rows)?;
    page.peers(&rows);
    page.profiles(&rows);
    page.benches(&rows);
    page.choices(&rows);
    page.0.push_str("</body></html>\n");
    let path = folder.join("index.html");
    file::replace(&path, page.0.as_bytes())?;
    println!("{}", path.display());
    Ok(())
}

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>downhill on this machine</title>\n<style>\n\
    body { font: 15px/1.5 sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #282828 }\n\
    table { border-collapse: collapse; margin: 1em 0 } td, th { padding: 2px 12px 2px 0; text-align: left; vertical-align: top }\n\
    tr { border-bottom: 1px solid #ddd } .n { text-align: right; white-space: nowrap } .bad { color: #b00020; font-weight: bold }\n\
    .good { color: #1a7f37 } .bar { display: inline-block; height: 10px; background: #1f77b4 } pre { background: #f6f6f6; padding: 1em; overflow: auto }\n\
    </style></head><body>\n<h1>downhill on this machine</h1>\n";

/// The text of the page so far.
struct Page(String);

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

/// Returns a cell that holds a number.
fn n(text: impl AsRef<str>) -> String {
    format!("<td class=\"n\">{}", escape(text.as_ref()))
}

/// Returns a cell that holds text.
fn t(text: impl AsRef<str>) -> String {
    format!("<td>{}", escape(text.as_ref()))
}

/// Returns a cell for a fraction of a peak, with a bar of this length.
fn share(x: f64) -> String {
    let width = (100.0 * x.clamp(0.0, 1.0)).round();
    format!("<td class=\"n\">{:.1} %<td><span class=\"bar\" style=\"width:{width}px\"></span>", 100.0 * x)
}

fn verdict(good: bool, text: &str) -> String {
    format!("<td class=\"{}\">{}", if good { "good" } else { "bad" }, escape(text))
}

/// Returns the first line of the description of a report's device.
fn device(report: &Value) -> &str {
    text(report, "device").lines().next().unwrap_or_default().trim_start_matches("adapter").trim()
}

/// Returns the different values of a key, in the order of their first rows.
fn distinct<'a>(rows: &[&'a Value], key: &str) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    for row in rows {
        let value = text(row, key);
        if !all.contains(&value) {
            all.push(value);
        }
    }
    all
}

fn of<'a>(rows: &'a [Value], bench: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["bench"] == bench).collect()
}

impl Page {
    fn heading(&mut self, level: u8, text: &str) {
        self.0 += &format!("<h{level}>{}</h{level}>\n", escape(text));
    }
    fn paragraph(&mut self, text: &str) {
        self.0 += &format!("<p>{}</p>\n", escape(text));
    }
    /// Adds a table. Each row is the text of its cells.
    fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = String>) {
        let heads: String = heads.iter().map(|head| format!("<th>{}", escape(head))).collect();
        self.0 += &format!("<table><tr>{heads}\n");
        for row in rows {
            self.0 += &format!("<tr>{row}\n");
        }
        self.0 += "</table>\n";
    }

    fn system(&mut self, text: &str) {
        if !text.is_empty() {
            self.0 += &format!("<pre>{}</pre>\n", escape(text.trim_end()));
        }
    }

    /// Adds a row for each part of the script: its name, its result, its seconds, its log and its command, with tabs between them.
    fn parts(&mut self, text: &str) {
        self.heading(2, "Parts");
        let rows = text.lines().filter_map(|line| {
            let [name, result, seconds, log, command] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
            let log = format!("<td><a href=\"{0}\">{0}</a>", escape(log));
            Some([t(name), verdict(result == "passed", result), n(seconds), log, t(command)].concat())
        });
        self.table(&["Part", "Result", "Seconds", "Log", "Command"], rows);
    }

    /// Adds the summary of each device's self-test, its failures, and the rows with the largest errors.
    fn selftest(&mut self, reports: &[Value]) {
        self.heading(2, "Right or not");
        if reports.is_empty() {
            return self.paragraph("There is no report of a self-test.");
        }
        let list = |report: &Value, key: &str| report[key].as_array().cloned().unwrap_or_default();
        let sum = |rows: &[Value], key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
        let summary = reports.iter().map(|report| {
            let rows = list(report, "rows");
            let [cases, failed, not_run] = ["cases", "failed", "not_run"].map(|key| sum(&rows, key).to_string());
            let right = report["passed"] == true;
            let result = verdict(right, if right { "right" } else { "WRONG" });
            [t(device(report)), result, n(cases), n(failed), n(not_run), n(format!("{:.0}", number(report, "seconds")))].concat()
        });
        self.table(&["Device", "Result", "Comparisons", "Failed", "Not run", "Seconds"], summary.collect::<Vec<_>>());
        for report in reports {
            if let Some(lost) = report["lost"].as_str() {
                self.paragraph(&format!("{} was lost: {lost}", device(report)));
            }
            let failures = list(report, "failures");
            if !failures.is_empty() {
                self.heading(3, &format!("Failures on {}", device(report)));
                let rows = failures.iter().map(|f| ["op", "kernel", "direction", "case", "why"].map(|key| t(text(f, key))).concat());
                self.table(&["Op", "Kernel", "Direction", "Case", "Why"], rows.collect::<Vec<_>>());
            }
        }
    }

    /// Adds the curve of samples a second by batch size, and its table.
    fn scaling(&mut self, rows: &[Value]) -> Result<(), Box<dyn Error>> {
        let scaling = of(rows, "scaling");
        if scaling.is_empty() {
            return Ok(());
        }
        self.heading(2, "Training by batch size");
        self.0 += &self::scaling(rows)?;
        self.measured(&scaling);
        Ok(())
    }

    /// Adds a table of rows with a time.
    fn measured(&mut self, rows: &[&Value]) {
        let row = |row: &&Value| {
            let least = row["min_ms"].as_f64().map_or(String::new(), |ms| format!("{ms:.3} ms"));
            [t(text(row, "device")), t(text(row, "shape")), n(format!("{:.3} ms", number(row, "median_ms"))), n(least), n(rate(row))]
                .concat()
        };
        self.table(&["Device", "Work", "Median", "Least", "At the median"], rows.iter().map(row));
    }

    fn peers(&mut self, rows: &[Value]) {
        let peers: Vec<&Value> = of(rows, "peers").into_iter().filter(|row| row["peer"].is_string()).collect();
        if peers.is_empty() {
            return;
        }
        self.heading(2, "Beside PyTorch");
        self.paragraph(
            "Both sides are measured in turns. Times are medians of a step. Equal losses show that both sides do the same work.",
        );
        let row = |row: &&Value| {
            let times = number(row, "peer_median_ms") / number(row, "median_ms");
            let loss = |key: &str| row[key].as_f64().map_or(String::new(), |loss| format!("{loss:.6}"));
            let own = [t(text(row, "device")), t(text(row, "shape")), n(format!("{} ms", ms(row, "median_ms")))];
            let peer = [t(text(row, "peer")), n(format!("{} ms", ms(row, "peer_median_ms"))), n(format!("{times:.2}"))];
            [own.concat(), peer.concat(), n(loss("loss")), n(loss("peer_loss"))].concat()
        };
        let heads = ["Device", "Work", "downhill", "Peer", "Peer's time", "Times as fast", "Loss", "Peer's loss"];
        self.table(&heads, peers.iter().map(row));
    }

    /// Adds a table for each model and device: the kernels of a step, the slowest first.
    fn profiles(&mut self, rows: &[Value]) {
        let all = of(rows, "profile");
        let all: Vec<&Value> = all.into_iter().filter(|row| row["model"].is_string()).collect();
        if all.is_empty() {
            return;
        }
        self.heading(2, "Where a step's time goes");
        for device in distinct(&all, "device") {
            for model in distinct(&all, "model") {
                let mut kernels: Vec<&Value> = all.iter().copied().filter(|row| row["device"] == device && row["model"] == model).collect();
                let Some(first) = kernels.first().copied() else { continue };
                self.heading(3, &format!("{model} on {device}"));
                self.paragraph(&format!(
                    "A step without clocks takes {:.3} ms. The peaks are {:.0} GFLOP/s and {:.1} GB/s. The kernels are measured by {}.",
                    number(first, "step_ms"),
                    number(first, "peak_gflops"),
                    number(first, "peak_gbps"),
                    text(first, "clock"),
                ));
                kernels.sort_by(|a, b| number(b, "median_ms").total_cmp(&number(a, "median_ms")));
                let row = |row: &&Value| {
                    let time = [n(format!("{:.4} ms", number(row, "median_ms"))), n(format!("{:.1} %", 100.0 * number(row, "share")))];
                    let speed = [n(format!("{:.1}", number(row, "gflops"))), n(format!("{:.1}", number(row, "gbps")))];
                    let peak = share(number(row, "of_peak")) + &t(text(row, "peak"));
                    [t(text(row, "shape")), t(text(row, "kernel")), time.concat(), speed.concat(), peak].concat()
                };
                let heads = ["Op", "Kernel", "Time", "Of the step", "GFLOP/s", "GB/s", "Of the peak", "", "Nearer peak"];
                self.table(&heads, kernels.iter().map(row));
            }
        }
    }

    fn benches(&mut self, rows: &[Value]) {
        let elsewhere = ["scaling", "profile", "choices", "peers"];
        let all: Vec<&Value> = rows.iter().filter(|row| !elsewhere.contains(&text(row, "bench"))).collect();
        for bench in distinct(&all, "bench") {
            self.heading(2, &format!("Bench: {bench}"));
            self.measured(&all.iter().copied().filter(|row| row["bench"] == bench).collect::<Vec<_>>());
        }
    }

    /// Adds a row for each candidate of each class.
    fn choices(&mut self, rows: &[Value]) {
        let all = of(rows, "choices");
        if all.is_empty() {
            return;
        }
        self.heading(2, "Chosen kernels");
        self.paragraph(
            "The fastest correct candidate of a class of ops is chosen. Times are those of a problem of the class, which may be small. The \
             portable candidate comes first, and the candidate that is expected to be fastest comes last.",
        );
        for device in distinct(&all, "device") {
            self.heading(3, device);
            let of_device = all.iter().filter(|row| row["device"] == device);
            let rows = of_device.map(|row| {
                let mut list = String::new();
                for c in row["candidates"].as_array().into_iter().flatten() {
                    let time = c["ms"].as_f64().map_or(String::new(), |ms| format!(" {ms:.3} ms"));
                    let why = c["why"].as_str().map_or(String::new(), |why| format!(" ({why})"));
                    let line = escape(&format!("{}{time}{why}", text(c, "kernel")));
                    // Writing to a string cannot fail.
                    let _ = if c["kernel"] == row["kernel"] { write!(list, "<b>{line}</b><br>") } else { write!(list, "{line}<br>") };
                }
                [t(text(row, "class")), t(text(row, "kernel")), t(text(row, "origin")), format!("<td>{list}")].concat()
            });
            self.table(&["Class", "Chosen", "Origin", "Candidates"], rows.collect::<Vec<_>>());
        }
    }
}
