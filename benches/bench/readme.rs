//! The figures of README.md, all figures in docs/performance.md, and the plot there, from the rows in benches/results. No number in them is
//! typed by hand.

use crate::table::rows;
use downhill::{
    file,
    plot::{Panel, Series},
};
use serde_json::Value;
use std::{collections::BTreeMap, error::Error, fmt::Write, fs, path::Path};

const START: &str = "<!-- measured: written by `cargo bench -- --readme` -->\n";
const END: &str = "<!-- /measured -->";

/// The figures of the README: the bench, the row, the start of the device's name, and the work in words.
const FIGURES: [(&str, &str, &str, &str); 6] = [
    ("peers", "MLP, batch 1024", "CPU", "A training step of an MLP, batch 1,024"),
    ("peers", "CNN, batch 256", "CPU", "A training step of a CNN, batch 256"),
    ("peers", "Adam, 50 M", "CPU", "Adam's update of 50 million parameters"),
    ("training", "batch 4096", "CPU", "A training step of the MLP, batch 4,096"),
    ("accumulation", "batch 65536 in 1024", "CPU", "The same on 65,536 samples, in micro-batches of 1,024"),
    ("training", "batch 4096", "llvmpipe", "A training step of the MLP, batch 4,096, by a GPU's kernels"),
];

/// The parts of each bench in the README: its name in the files, the text about its measurement, and the command.
const SHOWN: [(&str, &str, &str); 5] = [
    ("training", "A step of the MLP 784-512-256-10 with Adam, in `fit`, gathering its batch included", "cargo bench -- --filter training"),
    (
        "start",
        "From opening the device to the first loss at batch 1024, nothing compiled or chosen before",
        "MESA_SHADER_CACHE_DISABLE=true cargo bench -- --filter start",
    ),
    ("accumulation", "A step of that MLP on 65,536 samples, by the size of its micro-batches", "cargo bench -- --filter accumulation"),
    ("matmul", "Matrix products", "cargo bench -- --filter matmul"),
    ("optimizer", "Adam's update, gradients checked", "cargo bench -- --filter optimizer"),
];

/// Rewrites the sections and the plot.
pub fn write() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = results(&root.join("benches/results"))?;
    for (name, text) in [("README.md", figures(&rows)?), ("docs/performance.md", section(&rows)?)] {
        let old = fs::read_to_string(root.join(name))?;
        let (head, rest) = old.split_once(START).ok_or(format!("{name} has no place for measured numbers"))?;
        let (_, tail) = rest.split_once(END).ok_or(format!("{name} has no end of the measured numbers"))?;
        file::replace(root.join(name), format!("{head}{START}{text}{END}{tail}").as_bytes())?;
    }
    file::replace(root.join("benches/results/scaling.svg"), scaling(&rows)?.as_bytes())?;
    println!("README.md, docs/performance.md and benches/results/scaling.svg are up to date with {} rows", rows.len());
    Ok(())
}

/// The six figures of the README.
fn figures(rows: &[Value]) -> Result<String, Box<dyn Error>> {
    let mut out = String::from("\n| Work | Device | downhill | PyTorch 2.15 on the same CPU |\n|---|---|---:|---:|\n");
    for (bench, shape, device, words) in FIGURES {
        let is = |r: &&Value| r["bench"] == bench && r["shape"] == shape && text(r, "device").starts_with(device);
        let row = rows.iter().find(is).ok_or(format!("no row of {bench} is {shape} on {device}"))?;
        let peer = match row["peer"].as_str() {
            Some(peer) if !peer.starts_with("PyTorch 2.15") => return Err(format!("{shape}: the peer is {peer}").into()),
            Some(_) => format!("{} ms", ms(row, "peer_median_ms")),
            None => "not measured".into(),
        };
        let short = if device == "CPU" { text(row, "device") } else { "lavapipe, a software driver, on that CPU" };
        writeln!(out, "| {words} | {short} | {} ms | {peer} |", ms(row, "median_ms"))?;
    }
    out.push('\n');
    Ok(out)
}

/// All rows; of rows that measure the same, the last one.
fn results(folder: &Path) -> Result<Vec<Value>, Box<dyn Error>> {
    let mut files: Vec<_> = fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    let mut all: Vec<Value> = Vec::new();
    for row in files.iter().map(|path| rows(path)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let same = |old: &Value| ["bench", "device", "driver", "shape", "peer"].iter().all(|&k| old[k] == row[k]);
        match all.iter_mut().find(|old| same(old)) {
            Some(old) => *old = row,
            None => all.push(row),
        }
    }
    Ok(all)
}

pub fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or_default()
}

pub fn ms(row: &Value, key: &str) -> String {
    row[key].as_f64().map_or("?".into(), |ms| if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") })
}

pub fn rate(row: &Value) -> String {
    let known = [("samples_per_s", "samples/s"), ("gflops", "GFLOP/s"), ("gbps", "GB/s")];
    let found = known.into_iter().find_map(|(key, unit)| Some((row[key].as_f64()?, unit)));
    found.map_or(String::new(), |(x, unit)| if x < 100.0 { format!("{x:.1} {unit}") } else { format!("{x:.0} {unit}") })
}

fn section(rows: &[Value]) -> Result<String, Box<dyn Error>> {
    let mut out = String::from("\n");
    let of = |bench: &str| rows.iter().filter(move |r| r["bench"] == bench && !text(r, "shape").starts_with("control")).collect::<Vec<_>>();
    let stamp = |row: &Value| format!("{}, {}", text(row, "date"), text(row, "commit"));

    let peers: Vec<&Value> = of("peers").into_iter().filter(|r| r["peer"].is_string()).collect();
    if !peers.is_empty() {
        writeln!(out, "Beside a peer on the same machine, in turns, medians (`scripts/peers.py`):\n")?;
        writeln!(out, "| Work | Device | downhill | Peer | Peer's time | Times as fast | Measured |\n|---|---|---:|---|---:|---:|---|")?;
        for row in peers {
            let (own, peer) = (row["median_ms"].as_f64().unwrap_or(f64::NAN), row["peer_median_ms"].as_f64().unwrap_or(f64::NAN));
            let (shape, device, name) = (text(row, "shape"), text(row, "device"), text(row, "peer"));
            let (own_ms, peer_ms) = (ms(row, "median_ms"), ms(row, "peer_median_ms"));
            writeln!(out, "| {shape} | {device} | {own_ms} ms | {name} | {peer_ms} ms | {:.2} | {} |", peer / own, stamp(row))?;
        }
        out.push('\n');
    }
    for (bench, what, command) in SHOWN {
        let rows = of(bench);
        if rows.is_empty() {
            continue;
        }
        writeln!(out, "{what} (`{command}`):\n")?;
        writeln!(out, "| Work | Device, driver | Median | At the median | Measured |\n|---|---|---:|---:|---|")?;
        for row in rows {
            let (shape, device, driver) = (text(row, "shape"), text(row, "device"), text(row, "driver"));
            writeln!(out, "| {shape} | {device}, {driver} | {} ms | {} | {} |", ms(row, "median_ms"), rate(row), stamp(row))?;
        }
        out.push('\n');
    }
    if !of("scaling").is_empty() {
        writeln!(out, "The same training by batch size, 32 to 65,536 (`cargo bench -- --filter scaling`):\n")?;
        writeln!(out, "![Samples a second by batch size](../benches/results/scaling.svg)\n")?;
    }
    Ok(out)
}

/// Samples a second by batch size, a curve for each device and each size of micro-batches.
pub fn scaling(rows: &[Value]) -> Result<String, Box<dyn Error>> {
    let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for row in rows.iter().filter(|r| r["bench"] == "scaling") {
        let Some(batch) = text(row, "shape").strip_prefix("batch ") else { continue };
        let (batch, micro) = batch.split_once(" in ").map_or((batch, None), |(batch, micro)| (batch, Some(micro)));
        if let (Ok(batch), Some(rate)) = (batch.parse::<f64>(), row["samples_per_s"].as_f64()) {
            let parts = micro.map_or(String::new(), |micro| format!(", in micro-batches of {micro}"));
            curves.entry(format!("{}{parts}", text(row, "device"))).or_default().push((batch.log2(), rate));
        }
    }
    let series = curves.into_iter().map(|(device, points)| Series::new(device, points)).collect();
    let panel = Panel { title: "MLP 784-512-256-10, Adam".into(), x: "batch size, as a power of two", y: "samples/s", series };
    Ok(downhill::plot::svg("Training by batch size", &[panel]))
}
