//! The trace of all ranks.

use crate::{all, common::*, digits};
use downhill::{Device, Tensor, Trainer, optim::Sgd, profile::Track};
use serde_json::Value;
use std::collections::BTreeMap;

/// The name, the start and the end of an event in microseconds, and the bytes that it sends.
type Span = (String, f64, f64, u64);

/// The spans of a trace, by rank and kind.
type Spans = BTreeMap<(u64, String), Vec<Span>>;

/// Returns the spans of a trace and the names of its processes. Checks all events.
fn read(bytes: &[u8]) -> Result<(Spans, Vec<String>), Box<dyn std::error::Error>> {
    let trace: Value = serde_json::from_slice(bytes)?;
    let (mut spans, mut processes) = (Spans::new(), Vec::new());
    let (mut threads, mut named) = (BTreeMap::<_, Vec<(f64, f64)>>::new(), Vec::new());
    for e in trace["traceEvents"].as_array().ok_or("no events")? {
        let number = |key: &str| e[key].as_f64().ok_or_else(|| format!("no number `{key}` in {e}"));
        let (text, thread) = (|e: &Value| e.as_str().unwrap_or_default().to_string(), (number("pid")? as u64, number("tid")? as u64));
        match (e["ph"].as_str(), e["name"].as_str()) {
            (Some("M"), Some("process_name")) => processes.push(text(&e["args"]["name"])),
            (Some("M"), Some("thread_name")) => named.push(thread),
            (Some("X"), Some(name)) => {
                let (start, length) = (number("ts")?, number("dur")?);
                assert!(start >= 0.0 && length >= 0.0, "{e}");
                threads.entry(thread).or_default().push((start, start + length));
                let span = (name.to_string(), start, start + length, e["args"]["bytes"].as_u64().unwrap_or(0));
                spans.entry((thread.0 - 1, text(&e["cat"]))).or_default().push(span);
            }
            _ => return Err(format!("{e}").into()),
        }
    }
    for (thread, events) in threads {
        assert!(named.contains(&thread), "{thread:?} has no name");
        // Spans of a thread are in order, and each ends within the spans around it. Starts are sums of floats that were whole nanoseconds.
        let (mut open, mut last): (Vec<f64>, f64) = (Vec::new(), 0.0);
        for (start, end) in events {
            assert!(start >= last, "events are in order");
            last = start;
            open.retain(|&around| around > start + 1e-6);
            assert!(open.iter().all(|&around| end <= around + 1e-6), "{start}..{end} in {open:?}");
            open.push(end);
        }
    }
    Ok((spans, processes))
}

/// The gradients of the first layer alone have 1 MiB, so there are two buckets.
fn wide(x: Tensor) -> Tensor {
    x.linear("fc1", 4096).relu().linear("fc2", 10)
}

/// A process for each rank, and in each of its steps the exchange of each bucket.
pub fn of(device: &Device) -> Check {
    const STEPS: usize = 3;
    let data = digits(16);
    let (x, y) = data.batch(&(0..16).collect::<Vec<_>>())?;
    let batch = [x, y];
    for n in [2, 3] {
        let folder = tempfile::tempdir()?;
        let profiles = all(n, |world| {
            let trainer = Trainer::for_data(device, &data, wide, |x, y| x.cross_entropy(y), Sgd::new(0.1).momentum(0.9))?;
            let mut trainer = trainer.distributed(world)?;
            trainer.step(&batch)?;
            let profile = trainer.profile(STEPS)?;
            profile.write_trace(folder.path().join(format!("{}.json", world.rank())))?;
            Ok(profile)
        })?;
        println!("{}", profiles[0]);
        let file = |rank: usize| std::fs::read(folder.path().join(format!("{rank}.json")));
        assert!((1..n).all(|rank| file(rank).is_ok_and(|other| file(0).is_ok_and(|first| first == other))), "one trace for all ranks");
        let (spans, processes) = read(&file(0)?)?;
        assert_eq!(processes, (0..n).map(|rank| format!("rank {rank}: {device}")).collect::<Vec<_>>());
        let of = |rank: usize, cat: &str| spans.get(&(rank as u64, cat.to_string())).map_or(&[][..], Vec::as_slice);
        let ends = |rank: usize| of(rank, "exchange").iter().map(|span| span.2).collect::<Vec<_>>();
        for (rank, profile) in profiles.iter().enumerate() {
            let parts: Vec<&str> = of(rank, "rank").iter().map(|span| span.0.as_str()).collect();
            let whole = |k: usize| format!("step {}", k + 1);
            let names = ["gradients", "numbers", "wait for gradients", "wait for numbers", "update"];
            let want: Vec<String> = (0..STEPS).flat_map(|k| [whole(k)].into_iter().chain(names.map(str::to_string))).collect();
            assert_eq!(parts, want, "rank {rank} of {n}");
            let steps: Vec<&Span> = of(rank, "rank").iter().filter(|span| span.0.starts_with("step ")).collect();
            let mut exchanges = of(rank, "exchange").to_vec();
            assert_eq!(exchanges.len(), 2 * STEPS);
            exchanges.sort_by(|a, b| a.1.total_cmp(&b.1));
            for (buckets, step) in exchanges.chunks(2).zip(steps) {
                assert_eq!([buckets[0].0.as_str(), buckets[1].0.as_str()], ["gradients 1", "gradients 2"]);
                assert!(buckets.iter().all(|b| b.1 >= step.1 && b.2 <= step.2), "{buckets:?} in {step:?}");
                // The exchanges of buckets follow each other, and so do their means.
                assert!(buckets[0].2 <= buckets[1].2 && buckets[0].3 < buckets[1].3, "{buckets:?}");
                let sent: u64 = buckets.iter().map(|bucket| bucket.3).sum();
                let exchange = profile.exchange.ok_or("an exchange")?;
                assert!(exchange.bytes - sent < 2 && exchange.ranks == n, "{exchange:?}, {sent}");
            }
            // Kernels are in the steps with clocks.
            assert!(of(rank, "device").iter().any(|span| span.0.starts_with("matmul")));
            assert_eq!(of(rank, "host").iter().filter(|span| span.0.starts_with("step ")).count(), STEPS);
            assert!(profile.spans.iter().any(|span| span.track == Track::Exchange && span.bytes > 0));
            // The ends of exchanges lie over those of rank 0, some before and some behind.
            let mut apart: Vec<f64> = ends(0).iter().zip(ends(rank)).map(|(a, b)| a - b).collect();
            apart.sort_by(f64::total_cmp);
            assert!((apart[apart.len() / 2 - 1] + apart[apart.len() / 2]).abs() < 0.01, "{apart:?}");
        }
    }
    Ok(())
}
