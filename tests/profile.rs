//! A profile is of real steps: it trains as they do, its times are those of the plan's kernels and lie within the host's, and its
//! trace is what Perfetto reads.

mod common;

use common::{BOTH, Check, On, Suite, weights};
use downhill::{
    Device, Graph, Host, Profile, Trainer,
    gpu::GpuOptions,
    optim::Adam,
    profile::{Clock, Track},
};
use serde_json::Value;
use std::{collections::HashMap, time::Instant};

fn main() {
    let mut suite = Suite::new();
    suite.each(&BOTH, "steps as any others", steps);
    // Webgpu has no timestamps.
    let clocks = [On::Cpu, On::Gpu, On::Webgpu, On::Pieces];
    suite.each(&clocks, "every kernel is measured", kernels);
    suite.each(&clocks, "the trace", trace);
    suite.each(&BOTH, "more kernels than a query set holds", many);
    suite.each(&BOTH, "a compiled graph", compiled);
    suite.each(&[On::Cpu, On::Gpu, On::Webgpu, On::Small], "measured peaks", peaks);
    suite.each(&BOTH, "bad requests", requests);
    suite.run()
}

const BATCH: usize = 48;
const SIZES: [usize; 3] = [100, 64, 10];

fn trainer(device: &Device) -> downhill::Result<Trainer> {
    let g = Graph::training();
    let (x, y) = (g.input([BATCH, SIZES[0]]), g.labels([BATCH]));
    let loss = x.linear("fc1", SIZES[1]).relu().dropout(0.2).linear("fc2", SIZES[2]).cross_entropy(y);
    let mut trainer = Trainer::new(device, loss, Adam::new(1e-2))?;
    let x = Host::new([BATCH, SIZES[0]], (0..BATCH * SIZES[0]).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect());
    trainer.step(&[x, Host::labels([BATCH], (0..BATCH as u32).map(|i| i % 10).collect())])?;
    Ok(trainer)
}

fn steps(device: &Device) -> Check {
    let (mut a, mut b) = (trainer(device)?, trainer(device)?);
    let profile = a.profile(3)?;
    (0..6).try_for_each(|_| b.step_again())?;
    assert_eq!((a.steps(), profile.steps), (7, 3));
    assert_eq!(weights(&a)?, weights(&b)?, "the same weights, to the last bit");
    let (a, b) = (a.take_reports()?, b.take_reports()?);
    assert_eq!((a.len(), &a), (7, &b));
    assert!(a[6].loss < a[0].loss);
    Ok(())
}

fn kernels(device: &Device) -> Check {
    let mut trainer = trainer(device)?;
    let before = trainer.counters();
    let p = trainer.profile(4)?;
    let clock = match device.as_gpu() {
        None => Clock::Host,
        Some(gpu) if gpu.options().features && gpu.describe().contains("timestamp_query") => Clock::Timestamps,
        Some(_) => Clock::Waits,
    };
    assert_eq!(p.clock, clock);
    // The profile has the same ops as the plan, in the same order. The update of each piece comes after the guard.
    let plan = trainer.plan_text();
    let ops: Vec<&str> = plan.lines().filter_map(|l| l.split(' ').next()).filter(|op| *op != "reshape").collect();
    let named: Vec<&str> = p.kernels.iter().map(|k| k.op.as_str()).collect();
    assert_eq!(named, ops);
    assert!(named.iter().filter(|op| **op == "update").count() >= 3, "{named:?}");
    if let (Some(before), Some(after)) = (before, trainer.counters()) {
        assert_eq!(p.kernels.iter().map(|k| k.dispatches as u64).sum::<u64>() * 8, after.dispatches - before.dispatches);
    }
    for k in &p.kernels {
        // In nearly all steps a trial finds that there is nothing to try.
        let trial = k.label.starts_with("update trial of ");
        assert!(k.dispatches >= usize::from(device.as_gpu().is_some()) && k.seconds >= 0.0 && (k.bytes > 0) != trial, "{k:?}");
        assert!(k.op == "update" || ["fc1", "fc2"].contains(&k.layer.as_str()), "{k:?}");
    }
    let first = p.kernels.iter().find(|k| k.op == "matmul").ok_or("no matmul")?;
    let [n, m] = [SIZES[0] as u64, SIZES[1] as u64];
    assert!(first.label.contains("fc1.weight [64, 100]") && first.label.contains("profile.rs:"), "{}", first.label);
    // x·wᵀ, and what is fused behind it.
    let (flops, b) = (2 * BATCH as u64 * n * m, BATCH as u64);
    assert!((flops..flops * 6 / 5).contains(&first.flops), "{first:?}");
    assert!((4 * (b * n + n * m + b * m)..4 * (b * n + n * m + 3 * b * m)).contains(&first.bytes), "{first:?}");
    let updated: u64 = p.kernels.iter().filter(|k| k.op == "update").map(|k| k.bytes).sum();
    let weights = trainer.memory(BATCH)?.weights;
    // Weights and two states read and written, gradients read, and read before by the guard, with the loss.
    assert_eq!(updated, 8 * weights + 4);
    // The device's times are within the host's, and not of another unit.
    let whole = |track: Track| {
        p.spans.iter().filter(move |s| s.track == track && s.kernel.is_none() && s.name.starts_with("step ")).map(|s| s.seconds)
    };
    assert_eq!(whole(Track::Device).count(), 4);
    for (device, host) in whole(Track::Device).zip(whole(Track::Host)) {
        assert!(device > 0.0 && device <= 1.01 * host + 1e-5, "{device} s of the device within {host} s of the host");
    }
    let (all, plain) = (p.kernel_seconds(), p.step_seconds);
    assert!(all > plain / 500.0 && all < 500.0 * plain, "kernels {all} s, a step {plain} s");
    let text = p.to_string();
    println!("{text}");
    for word in
        ["GFLOP/s", "GB/s", "matmul", "update", "[48, 64]", "profile.rs:", "peaks", if clock == Clock::Host { "kernels" } else { "wait" }]
    {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    assert_eq!(text.lines().take_while(|l| !l.is_empty()).count(), 1 + p.kernels.len());
    Ok(())
}

/// Writes the trace, reads it back, and checks what Perfetto needs.
fn read_trace(p: &Profile) -> Result<Vec<Value>, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("trace.json");
    p.write_trace(&path)?;
    let trace: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let events = trace["traceEvents"].as_array().ok_or("no list of events")?.clone();
    let mut tracks: HashMap<(u64, u64), Vec<(f64, f64)>> = HashMap::new();
    let mut named = Vec::new();
    for e in &events {
        let number = |key: &str| e[key].as_f64().ok_or_else(|| format!("no number `{key}` in {e}"));
        let track = (number("pid")? as u64, number("tid")? as u64);
        assert!(e["name"].is_string(), "{e}");
        match e["ph"].as_str() {
            Some("M") => named.push((track, e["name"].as_str().unwrap_or("").to_string(), e["args"]["name"].is_string())),
            Some("X") => {
                let (ts, dur) = (number("ts")?, number("dur")?);
                assert!(ts >= 0.0 && dur >= 0.0, "{e}");
                tracks.entry(track).or_default().push((ts, ts + dur));
            }
            _ => panic!("{e}"),
        }
    }
    assert_eq!(tracks.len(), 2, "a track of the host and one of the device");
    for (track, events) in tracks {
        for what in ["process_name", "thread_name"] {
            assert!(named.contains(&(track, what.to_string(), true)), "track {track:?} has no {what}");
        }
        // In the order of their starts, each ends within whatever is open, or starts when that has ended. Sums of floats that
        // were whole nanoseconds differ by less than a picosecond.
        let mut open: Vec<f64> = Vec::new();
        let mut last = 0.0;
        for (start, end) in events {
            assert!(start >= last, "events are in order");
            last = start;
            open.retain(|&e| e > start + 1e-6);
            assert!(open.iter().all(|&e| end <= e + 1e-6), "{start}..{end} ends behind what is around it: {open:?}");
            open.push(end);
        }
    }
    Ok(events)
}

fn trace(device: &Device) -> Check {
    let p = trainer(device)?.profile(3)?;
    let events = read_trace(&p)?;
    let of = |cat: &str, name: &str| {
        events.iter().filter(|e| e["cat"] == cat && e["name"].as_str().is_some_and(|n| n.starts_with(name))).count()
    };
    assert_eq!((of("host", "step "), of("device", "step ")), (3, 3));
    let dispatches: usize = p.kernels.iter().map(|k| k.dispatches).sum();
    assert_eq!(of("device", ""), 3 * (1 + dispatches));
    for (name, _) in p.host() {
        assert_eq!(of("host", &name), 3, "{name}");
    }
    if p.clock == Clock::Timestamps {
        assert_eq!(p.host().iter().map(|h| h.0.as_str()).collect::<Vec<_>>(), ["upload", "encode", "submit", "wait", "read clocks"]);
    }
    let matmul =
        events.iter().find(|e| e["cat"] == "device" && e["name"].as_str().is_some_and(|n| n.starts_with("matmul"))).ok_or("no matmul")?;
    assert!(matmul["args"]["flop"].as_u64() > Some(0) && matmul["args"]["layer"] == "fc1", "{matmul}");
    let nowhere = p.write_trace("/nonexistent/trace.json").unwrap_err().to_string();
    assert!(nowhere.starts_with("/nonexistent/trace.json: "), "{nowhere}");
    Ok(())
}

/// 2,300 dispatches, of which a query set holds 2,048.
fn many(device: &Device) -> Check {
    let g = Graph::inference();
    let x = g.input([3, 8]);
    // Sums, which are not fused into each other.
    let y = (0..2300).fold(x, |y, i| if i % 2 == 0 { y.sum(&[0], true) } else { y.broadcast_to([3, 8]) });
    let mut f = device.compile(&[y])?;
    f.load(&[Host::new([3, 8], vec![0.0; 24])])?;
    let p = f.profile(1)?;
    assert!(p.kernels.len() > 2048, "{}", p.kernels.len());
    assert!(p.kernels.iter().all(|k| k.dispatches == 1));
    assert!(p.kernels[2048..].iter().map(|k| k.seconds).sum::<f64>() > 0.0);
    read_trace(&p)?;
    Ok(())
}

fn compiled(device: &Device) -> Check {
    let g = Graph::inference();
    let x = g.input([32, 256]);
    let mut f = device.compile(&[x.linear("fc", 128).softmax(-1)])?;
    let input = Host::new([32, 256], (0..32 * 256).map(|i| (i % 7) as f32 - 3.0).collect());
    let before = f.run(std::slice::from_ref(&input))?;
    let p = f.profile(2)?;
    assert_eq!((p.kernels.len(), p.steps), (2, 2));
    assert_eq!((p.kernels[0].op.as_str(), p.kernels[1].op.as_str()), ("matmul", "softmax"));
    assert_eq!(f.output(0)?, before[0], "what it computes is as before");
    assert_eq!(f.run(&[input])?, before);
    Ok(())
}

fn peaks(device: &Device) -> Check {
    let start = Instant::now();
    let peaks = device.peaks()?;
    println!("{device}: {peaks}, measured in {:?}", start.elapsed());
    // If the compiler removes work, or the time is in other units, the speed is far above that of any device.
    assert!((0.05..1e6).contains(&peaks.gflops) && (0.05..1e5).contains(&peaks.gbps), "{peaks}");
    // Measured once only: a second measurement would give other numbers.
    assert_eq!(device.clone().peaks()?, peaks);
    if let Some(gpu) = device.as_gpu() {
        // Another opened device measures anew.
        let other = Device::open(&GpuOptions { name: Some(device.name()), ..gpu.options().clone() })?;
        assert_ne!(other.peaks()?, peaks);
    }
    Ok(())
}

fn requests(device: &Device) -> Check {
    let g = Graph::training();
    let mut fresh = Trainer::new(device, g.input([4, 3]).linear("fc", 2).square().mean_all(), Adam::new(1e-3))?;
    let error = fresh.profile(3).unwrap_err().to_string();
    assert!(error.starts_with("profile: there was no step before it"), "{error}");
    let h = Graph::inference();
    let error = device.compile(&[h.input([3]) * 2.0])?.profile(1).unwrap_err().to_string();
    assert!(error.contains("no inputs have been loaded"), "{error}");
    // At least one step.
    assert_eq!(trainer(device)?.profile(0)?.steps, 1);
    Ok(())
}
