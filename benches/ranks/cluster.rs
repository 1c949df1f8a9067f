//! A model of a step over ranks: from the figures of one rank and of a link to any number of ranks.

use crate::Row;

/// The way between two ranks.
pub struct Link {
    pub name: &'static str,
    /// The bytes that a rank can send in a second, while it receives as many.
    pub bytes_per_s: f64,
    /// The seconds that a message takes beyond its bytes, on the side of the sender.
    pub latency: f64,
}

/// The bytes of a bucket of gradients, and of the first one.
const BUCKET: f64 = 25.0 * 1048576.0;
const FIRST: f64 = 1048576.0;
/// The share of a step's computing that is the backward pass: two of three products.
const BACKWARD: f64 = 2.0 / 3.0;
/// The bytes that a core adds up in a second, from memory.
const ADDED_PER_S: f64 = 4e9;

/// The seconds in which `n` ranks exchange `bytes` of gradients: each rank sends n − 1 parts of 1/n and gets as many, adds up n parts, and
/// sends the mean of its part to n − 1 ranks.
fn exchange(link: &Link, bytes: f64, n: f64) -> f64 {
    2.0 * (n - 1.0) * (link.latency + bytes / n / link.bytes_per_s) + if n > 1.0 { bytes / ADDED_PER_S } else { 0.0 }
}

/// The seconds of a step on `n` ranks, whose computing takes `compute` seconds on each rank, and the share of the exchange that is hidden.
/// Buckets are exchanged while the backward pass goes on. The last bucket is ready when it ends.
fn step(link: &Link, bytes: f64, compute: f64, n: f64) -> (f64, f64) {
    let mut sizes = vec![bytes.min(FIRST)];
    let mut rest = bytes - sizes[0];
    while rest > 0.0 {
        sizes.push(rest.min(BUCKET));
        rest -= BUCKET;
    }
    let (mut ready, mut free) = (compute * (1.0 - BACKWARD), 0.0f64);
    for size in &sizes {
        ready += compute * BACKWARD * size / bytes;
        free = free.max(ready) + exchange(link, *size, n);
    }
    let all: f64 = sizes.iter().map(|size| exchange(link, *size, n)).sum();
    // The losses are exchanged at the end.
    let end = free.max(compute) + (n - 1.0) * link.latency;
    (end, if all > 0.0 { (1.0 - (end - compute) / all).max(0.0) } else { 0.0 })
}

fn row<'a>(rows: &'a [Row], model: &str, ranks: usize) -> Option<&'a Row> {
    rows.iter().find(|row| row.model == model && row.ranks == ranks && row.link.is_none())
}

/// Prints the prediction for this machine beside the measurement, and the prediction for clusters.
pub fn predict(rows: &[Row]) {
    // The link of this machine, by 2 ranks. A step of the tiny model has two exchanges of gradients and one of losses.
    let (Some(tiny), Some(wide)) = (row(rows, "tiny", 2), row(rows, "wide", 2)) else { return };
    let latency = tiny.busy / 3.0;
    let here = Link { name: "this machine", bytes_per_s: wide.bytes / (wide.busy - wide.bytes / ADDED_PER_S).max(1e-9), latency };
    println!("{}: {:.2} GB/s and {:.0} µs between 2 ranks\n", here.name, here.bytes_per_s / 1e9, 1e6 * here.latency);
    println!("Predicted from 1 rank and this link, beside the measurement. The ranks share the cores, so nothing is hidden:");
    println!("{:<12} {:>5} {:>12} {:>12} {:>7}", "model", "ranks", "predicted", "measured", "ratio");
    for model in ["mlp", "cnn"] {
        for n in [2, 4] {
            let (Some(one), Some(seen)) = (row(rows, model, 1), row(rows, model, n)) else { continue };
            // All ranks of the machine send at once.
            let shared = Link { bytes_per_s: here.bytes_per_s * 2.0 / n as f64, ..here };
            let want = one.step * n as f64 + exchange(&shared, one.bytes, n as f64) + (n - 1) as f64 * here.latency;
            println!("{model:<12} {n:>5} {:>9.2} ms {:>9.2} ms {:>7.2}", 1e3 * want, 1e3 * seen.step, want / seen.step);
        }
    }
    println!("\nPredicted and measured on 2 ranks whose messages are delayed. A rank has one core, and the link of this machine is added:");
    println!(
        "{:<12} {:<22} {:>12} {:>12} {:>7} {:>16} {:>8}",
        "model", "link", "predicted", "measured", "ratio", "hidden predicted", "measured"
    );
    for seen in rows {
        let Some(link) = LINKS.iter().find(|link| seen.link.as_deref() == Some(link.name)) else { continue };
        let Some(one) = row(rows, &seen.model, 1) else { continue };
        let both =
            Link { bytes_per_s: 1.0 / (1.0 / link.bytes_per_s + 1.0 / here.bytes_per_s), latency: link.latency + here.latency, ..*link };
        let (seconds, hidden) = step(&both, one.bytes, one.step * 2.0, 2.0);
        println!(
            "{:<12} {:<22} {:>9.2} ms {:>9.2} ms {:>7.2} {:>14.0} % {:>6.0} %",
            seen.model,
            link.name,
            1e3 * seconds,
            1e3 * seen.step,
            seconds / seen.step,
            100.0 * hidden,
            100.0 * seen.hidden().unwrap_or(0.0)
        );
    }
    println!(
        "\nPredicted for clusters, where each rank has the measured speed of this CPU to itself (weak scaling, the batch of a rank as above):"
    );
    println!("{:<12} {:<22} {:>6} {:>12} {:>11} {:>8}", "model", "link", "ranks", "step", "efficiency", "hidden");
    for model in ["cnn", "transformer"] {
        let Some(one) = row(rows, model, 1) else { continue };
        for link in LINKS {
            for n in [8, 64, 512, 1024] {
                let (seconds, hidden) = step(&link, one.bytes, one.step, f64::from(n));
                println!(
                    "{model:<12} {:<22} {n:>6} {:>9.1} ms {:>9.1} % {:>6.0} %",
                    link.name,
                    1e3 * seconds,
                    100.0 * one.step / seconds,
                    100.0 * hidden
                );
            }
        }
    }
}

/// Links by their makers' figures, the slowest first.
pub const LINKS: [Link; 3] = [
    Link { name: "1 Gb/s Ethernet", bytes_per_s: 0.118e9, latency: 30e-6 },
    Link { name: "10 Gb/s Ethernet", bytes_per_s: 1.18e9, latency: 20e-6 },
    Link { name: "100 Gb/s InfiniBand", bytes_per_s: 11.5e9, latency: 2e-6 },
];
