//! The time of each kernel in a training step, and the reason for the choice of each kernel.

use crate::{
    On,
    peers::cnn,
    table::Table,
    training::{images, mlp},
};
use downhill::{Profile, Result, Tensor, Trainer, gpu::Verdict, optim::Adam, profile::Clock};
use serde_json::json;

/// Profiles a step of the MLP and a step of the CNN. Then lists the choices that the device has made so far.
pub fn profile(table: &mut Table, on: &On) {
    table.open("profile", "the kernels of a training step");
    let (wide, narrow) = if on.quick || on.software { (128, 32) } else { (1024, 256) };
    for (name, model, batch) in [("MLP", mlp as for<'g> fn(Tensor<'g>) -> Tensor<'g>, wide), ("CNN", cnn, narrow)] {
        let model_name = format!("{name}, batch {batch}");
        match measure(on, model, batch) {
            Ok(profile) => write(table, &model_name, &profile),
            Err(error) => {
                table.failed = true;
                table.skip(&model_name, &format!("not run: {error}"));
            }
        }
    }
    choices(table, on);
}

fn measure(on: &On, model: for<'g> fn(Tensor<'g>) -> Tensor<'g>, batch: usize) -> Result<Profile> {
    let data = images(batch)?;
    let mut trainer = Trainer::for_data(&on.device, &data, model, |y, labels| y.cross_entropy(labels), Adam::new(1e-4))?;
    let (x, y) = data.batch(&(0..batch).collect::<Vec<_>>())?;
    trainer.step(&[x, y])?;
    trainer.profile(if on.software { 5 } else { 20 })
}

/// Prints the profile, and writes a row for each kernel.
fn write(table: &mut Table, model: &str, profile: &Profile) {
    println!("\n{model}\n{profile}\n");
    let all = profile.kernel_seconds();
    for kernel in &profile.kernels {
        let (of_peak, compute) = kernel.of_peak(&profile.peaks);
        table.write(json!({
            "model": model, "shape": kernel.label, "op": kernel.op, "kernel": kernel.kernel, "layer": kernel.layer,
            "dispatches": kernel.dispatches, "median_ms": kernel.seconds * 1e3, "share": kernel.seconds / all,
            "gflops": kernel.gflops(), "gbps": kernel.gbps(), "of_peak": of_peak, "peak": if compute { "arithmetic" } else { "memory" },
            "clock": clock(profile.clock), "step_ms": profile.step_seconds * 1e3,
            "peak_gflops": profile.peaks.gflops, "peak_gbps": profile.peaks.gbps,
        }));
    }
}

fn clock(clock: Clock) -> &'static str {
    match clock {
        Clock::Timestamps => "the GPU's clock",
        Clock::Waits => "the host's clock around each dispatch and a wait",
        Clock::Host => "the host's clock",
    }
}

/// Writes a row for each choice that the device has made since it was opened.
fn choices(table: &mut Table, on: &On) {
    let Some(gpu) = on.device.as_gpu() else { return };
    table.open("choices", "the candidates of each class of ops, in the JSON file");
    for chosen in gpu.choices().classes {
        let candidates = chosen.candidates.iter().map(|c| match &c.verdict {
            Verdict::Time(time) => json!({ "kernel": c.kernel, "ms": time.as_secs_f64() * 1e3 }),
            Verdict::Slow(time) => json!({ "kernel": c.kernel, "ms": time.as_secs_f64() * 1e3, "why": "slow in its first runs" }),
            Verdict::Wrong(why) => json!({ "kernel": c.kernel, "why": format!("wrong: {why}") }),
            Verdict::DoesNotRun(why) => json!({ "kernel": c.kernel, "why": format!("does not run: {why}") }),
            Verdict::NotMeasured => json!({ "kernel": c.kernel, "why": "not measured" }),
        });
        table.write(json!({
            "class": chosen.class, "kernel": chosen.kernel, "origin": chosen.origin.to_string(), "candidates": candidates.collect::<Vec<_>>(),
        }));
    }
}
