//! The gradient noise scale and the norms of parameters: their values, and a training that does not notice them.

use crate::{
    classifier,
    common::{BOTH, Check, On, Suite, weights},
    digits, numbers,
};
use downhill::{
    Checkpoints, Device, Epoch, Error, Fit, Graph, Host, Result, StepReport, Tensor, Trainer,
    callbacks::CsvLogger,
    data::{Dataset, Target},
    init::Init,
    losses::weighted_mean,
    ops::Fill,
    optim::{Adam, Optimizer, Readouts, Schedule, Sgd},
    testing::fill,
    train::{Callback, Outputs, Run},
};

/// Devices that add up in one piece, and in several.
const PIECES: [On; 4] = [On::Cpu, On::Gpu, On::Checked, On::Pieces];

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "the noise scale of a quadratic", quadratic);
    suite.each(&PIECES, "the noise scale of each step", by_step);
    suite.each(&BOTH, "the noise scale of a weighted mean", weighted);
    suite.each(&PIECES, "norms of each parameter", norms);
    suite.each(&BOTH, "readouts change no bit", unnoticed);
    suite.each(&BOTH, "readouts of a training that resumes", resumed);
    suite.on(On::Gpu, "readouts cost no wait", waits);
    suite.each(&BOTH, "readouts in the log", logged);
    suite.on(On::Cpu, "mistakes with readouts", mistakes);
}

/// Returns numbers whose distribution is close to the normal one, with the given deviation.
fn normal(n: usize, seed: u64, deviation: f64) -> Vec<f32> {
    let parts: Vec<Host<f32>> = (0..6).map(|k| fill([n].into(), &Fill::Range(-1.0, 1.0), 100 * seed + k)).collect();
    // The variance of a number in -1..1 is 1/3.
    (0..n).map(|i| (parts.iter().map(|part| f64::from(part.f()[i])).sum::<f64>() * deviation / 2f64.sqrt()) as f32).collect()
}

/// ½·|w − x|² has the gradient w − x. So G is w minus the mean of x, and Σ is the covariance of x. Training leaves w where it is.
fn quadratic(device: &Device) -> Check {
    let (n, d) = (8192, 48);
    let mut x = normal(n * d, 1, 1.5);
    x.iter_mut().enumerate().for_each(|(i, x)| *x += if i % d < 12 { 0.7 } else { 0.0 });
    let mean = |k: usize| (0..n).map(|i| f64::from(x[i * d + k])).sum::<f64>() / n as f64;
    let means: Vec<f64> = (0..d).map(mean).collect();
    let spread: f64 = (0..n * d).map(|i| (f64::from(x[i]) - means[i % d]).powi(2)).sum::<f64>() / (n - 1) as f64;
    let want = spread / means.iter().map(|m| m * m).sum::<f64>();
    // By design tr Σ is 48 · 1.5² and |G|² is 12 · 0.7².
    assert!((want / (108.0 / 5.88) - 1.0).abs() < 0.05, "{want}");
    let data = Dataset::new(x, [d], Target::values([1], vec![0.0; n]))?;
    for (batch, micro) in [(64, 8), (60, 7), (96, 48)] {
        let mut trainer = Trainer::for_data(
            device,
            &data,
            move |x| x.graph().param("w", [d], Init::Zeros) - x,
            move |e, _| e.square().mean_all() * (d as f32 / 2.0),
            Sgd::new(1e-30),
        )?;
        let fit = Fit::new().epochs(4).batch_size(batch).micro_batch(micro).noise_scale(true);
        let history = trainer.fit(&data, fit)?;
        let got = history.epochs[3].noise_scale.ok_or("no noise scale")?;
        assert!((got / want - 1.0).abs() < 0.05, "batch {batch}, micro-batch {micro}: {got} instead of {want}");
        assert_eq!(trainer.take_reports()?.last().and_then(|r| r.noise_scale), Some(got));
    }
    Ok(())
}

/// The running averages in `f64`, from gradients of known parts of a step: their weights, and the gradients.
#[derive(Default)]
struct ByHand {
    noise: f64,
    signal: f64,
}

impl ByHand {
    fn step(&mut self, parts: &[(f64, Vec<f64>)]) -> f64 {
        let square = |g: &[f64]| g.iter().map(|g| g * g).sum::<f64>();
        let n: f64 = parts.iter().map(|(n, _)| n).sum();
        let whole: Vec<f64> = (0..parts[0].1.len()).map(|i| parts.iter().map(|(n, g)| n * g[i]).sum::<f64>() / n).collect();
        let mean = parts.iter().map(|(n, g)| n * square(g)).sum::<f64>() / n;
        // Two equations for two unknowns: mean = signal + k·noise/n, |whole|² = signal + noise/n.
        let noise = (mean - square(&whole)) * n / (parts.iter().filter(|(n, _)| *n > 0.0).count() - 1) as f64;
        let signal = square(&whole) - noise / n;
        (self.noise, self.signal) = (0.99 * self.noise + 0.01 * noise, 0.99 * self.signal + 0.01 * signal);
        self.noise / self.signal
    }
}

/// The sizes of two parameters that lie in two pieces where the limits are small.
const LARGE: [usize; 2] = [15_000, 9_000];

/// Returns the sum over two large parameters, each times known numbers and the mean of a column of `u`, which is `[n, 2]`.
fn large<'g>(g: &'g Graph, u: Tensor<'g>, init: Init) -> Tensor<'g> {
    let term = |k: usize| {
        let factors = g.constant(factors(k));
        (g.param(["large1", "large2"][k], [LARGE[k]], init.clone()) * factors).sum_all() * u.slice(1, k, k + 1).mean_all()
    };
    term(0) + term(1)
}

fn factors(k: usize) -> Host<f32> {
    fill([LARGE[k]].into(), &Fill::Range(-0.05, 0.05), 9 + k as u64)
}

/// The micro-batches of a step have different sizes.
fn by_step(device: &Device) -> Check {
    let d = 40;
    fn model(g: &Graph, n: usize, d: usize) -> Outputs<'_> {
        let x = g.input([n, d]);
        let each = (g.param("w", [d], Init::Zeros) - x).square().sum_all() / (2 * n) as f32;
        (each + large(g, x.slice(1, 0, 2), Init::Zeros)).into()
    }
    let mut trainer = Trainer::from_fn(device, move |g, n| model(g, n, d), Sgd::new(1e-30))?;
    trainer.measure(Readouts { noise_scale: true, norms: None })?;
    let mut by_hand = ByHand::default();
    for (t, sizes) in [&[3, 2, 4][..], &[2, 2], &[5, 1, 1, 1], &[4]].into_iter().enumerate() {
        let mut parts = Vec::new();
        for (k, &n) in sizes.iter().enumerate() {
            let x: Vec<f32> = normal(n * d, (10 * t + k) as u64 + 1, 0.5).into_iter().map(|x| x + 0.25).collect();
            let mean: Vec<f64> = (0..d).map(|j| (0..n).map(|i| f64::from(x[i * d + j])).sum::<f64>() / n as f64).collect();
            let mut gradient: Vec<f64> = mean.iter().map(|m| -m).collect();
            (0..2).for_each(|k| gradient.extend(factors(k).to_f64().iter().map(|f| f * mean[k])));
            parts.push((n as f64, gradient));
            let batch = [Host::new([n, d], x)];
            if k + 1 < sizes.len() { trainer.accumulate(&batch)? } else { trainer.step(&batch)? }
        }
        let got = trainer.take_reports()?.remove(0).noise_scale.ok_or("no noise scale")?;
        // A step without micro-batches says nothing new.
        let want = if sizes.len() > 1 { by_hand.step(&parts) } else { by_hand.noise / by_hand.signal };
        // The difference of two sums of squares in f32, of which it is more than a tenth.
        assert!((got / want - 1.0).abs() < 1e-5, "step {t}: {got} instead of {want}");
    }
    Ok(())
}

/// The weights of the micro-batches are the sums of the weights of their samples. A micro-batch without weight does not count.
fn weighted(device: &Device) -> Check {
    let d = 40;
    fn model(g: &Graph, n: usize, d: usize) -> Outputs<'_> {
        let (x, w) = (g.input([n, d]), g.input([n, 1]));
        let each = (g.param("w", [d], Init::Zeros) - x).square() * 0.5;
        weighted_mean((each * w).sum_all(), w.sum_all()).into()
    }
    let mut trainer = Trainer::from_fn(device, move |g, n| model(g, n, d), Sgd::new(1e-30))?;
    trainer.measure(Readouts { noise_scale: true, norms: None })?;
    let mut by_hand = ByHand::default();
    for t in 0..3u64 {
        let mut parts = Vec::new();
        for k in 0..4u64 {
            let (n, seed) = (3, 10 * t + k);
            let x: Vec<f32> = normal(n * d, seed, 0.5).into_iter().map(|x| x + 0.5).collect();
            let w: Vec<f32> = (0..n as u64).map(|i| if k == 1 || (i + k + t) % 3 == 0 { 0.0 } else { 1.0 }).collect();
            let all: f64 = w.iter().map(|&w| f64::from(w)).sum();
            let sum = |j: usize| (0..n).map(|i| f64::from(w[i]) * f64::from(x[i * d + j])).sum::<f64>();
            parts.push((all, (0..d).map(|j| if all > 0.0 { -sum(j) / all } else { 0.0 }).collect()));
            let batch = [Host::new([n, d], x), Host::new([n, 1], w)];
            if k < 3 { trainer.accumulate(&batch)? } else { trainer.step(&batch)? }
        }
        let (got, want) = (trainer.take_reports()?.remove(0).noise_scale.ok_or("no noise scale")?, by_hand.step(&parts));
        assert!((got / want - 1.0).abs() < 1e-5, "step {t}: {got} instead of {want}");
    }
    Ok(())
}

/// The norms of every parameter in `f64`, from the weights before and after the step and from the gradient that the trainer has.
fn norms(device: &Device) -> Check {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let rules: [Optimizer; 3] = [
        Sgd::new(0.03).momentum(0.9).into(),
        Adam::new(0.01).clip_norm(0.1).schedule(Schedule::warmup(3)),
        // The biases are frozen, so they have no norms.
        Adam::new(0.01).freeze(["fc1.bias"]),
    ];
    for optimizer in rules {
        let frozen = format!("{optimizer:?}").contains("fc1.bias");
        let g = Graph::training();
        let (x, y) = (g.input([6, 3]), g.input([6, 5]));
        let loss = x.linear("fc1", 400).tanh().linear("fc2", 2).linear("fc3", 5).mse(y) + large(&g, y.slice(1, 0, 2), Init::Ones);
        let mut trainer = Trainer::new(device, loss, optimizer)?;
        trainer.measure(Readouts { noise_scale: false, norms: Some(2) })?;
        for t in 0..6u64 {
            let batch = || [fill([6, 3].into(), &Fill::Range(-1.0, 1.0), t), fill([6, 5].into(), &Fill::Range(-1.0, 1.0), 50 + t)];
            let before = trainer.params().all()?;
            if t % 3 == 0 {
                trainer.accumulate(&batch())?;
            }
            trainer.step(&batch())?;
            let report = trainer.take_reports()?.remove(0);
            assert_eq!(report.norms.len(), if t % 2 == 0 { 0 } else { 8 - usize::from(frozen) }, "step {t}");
            for (name, got) in report.norms.iter() {
                let at = |all: &[(String, Host<f32>)]| all.iter().find(|(other, _)| other == name).map(|(_, w)| w.to_f64());
                let (was, is) = (at(&before).ok_or("no weight")?, at(&trainer.params().all()?).ok_or("no weight")?);
                let change: Vec<f64> = is.iter().zip(&was).map(|(is, was)| is - was).collect();
                let want = [norm(&was), norm(&trainer.gradient(name)?.to_f64()), norm(&change)];
                for (got, want) in [got.weight, got.gradient, got.update].into_iter().zip(want) {
                    // Sums of up to 15,000 squares in f32.
                    assert!((f64::from(got) - want).abs() <= 2e-6 * want, "step {t}, {name}: {got} instead of {want}");
                }
                assert!(got.trust_ratio.is_none() && got.update > 0.0);
            }
            assert_eq!(report.norms.get("fc2.weight").is_ok(), t % 2 == 1);
        }
        // After a step that is not finite, measuring goes on with the next finite one.
        let batch = |x: f32| [Host::new([6, 3], vec![x; 18]), Host::new([6, 5], vec![0.5; 30])];
        let weight = trainer.params().get("fc3.weight")?;
        trainer.params().set("fc3.weight", &Host::new(weight.shape, vec![f32::MAX; weight.len()]))?;
        trainer.step(&batch(1.0))?;
        trainer.step(&batch(1.0))?;
        assert!(matches!(trainer.loss(), Err(Error::Diverged { .. })));
        trainer.params().set("fc3.weight", &weight)?;
        trainer.step(&batch(1.0))?;
        trainer.step(&batch(1.0))?;
        let reports = trainer.take_reports()?;
        let found: Vec<(u64, usize)> = reports.iter().map(|r| (r.step, r.norms.len())).collect();
        assert_eq!(found, [(6, 0), (7, 8 - usize::from(frozen))]);
    }
    Ok(())
}

fn fit(epochs: usize) -> Fit<'static> {
    Fit::new().epochs(epochs).batch_size(16).micro_batch(6)
}

fn unnoticed(device: &Device) -> Check {
    let data = digits(70);
    let run = |fit: Fit| -> Result<_> {
        let mut trainer = classifier(device, Adam::new(0.01).clip_norm(0.5))?;
        let history = trainer.fit(&data, fit)?;
        let losses: Vec<(u32, u32)> = trainer.take_reports()?.iter().map(|r| (r.loss.to_bits(), r.grad_norm.to_bits())).collect();
        Ok((numbers(&history), losses, weights(&trainer)?))
    };
    let want = run(fit(3))?;
    for with in [fit(3).noise_scale(true), fit(3).norms(1), fit(3).norms(4).noise_scale(true), fit(3).norms(2).steps_per_submit(7)] {
        assert_eq!(run(with)?, want);
    }
    // A setting may change between calls, and holds until then.
    let mut trainer = classifier(device, Adam::new(0.01))?;
    for (with, norms, noise) in
        [(fit(1), 0, false), (fit(1).norms(2).noise_scale(true), 3, true), (fit(1).norms(5), 1, false), (fit(1), 0, false)]
    {
        let history = trainer.fit(&data, with)?;
        assert_eq!((history.epochs[0].norms.len(), history.epochs[0].noise_scale.is_some()), (norms, noise));
    }
    // More steps than a ring has rows, each with its norms.
    let steps = 2100;
    let one = Dataset::new(vec![0.5; 2 * steps], [1], Target::values([1], vec![1.0; 2 * steps]))?;
    let mut trainer = Trainer::for_data(device, &one, |x| x.linear("fc", 1), |y, t| y.mse(t), Sgd::new(1e-3))?;
    trainer.params().set("fc.weight", &Host::new([1, 1], vec![0.01]))?;
    let history = trainer.fit(&one, Fit::new().batch_size(2).norms(1))?;
    let norms = &history.epochs[0].norms;
    assert!(norms.iter().map(|n| n.step).eq(0..steps as u64));
    for pair in norms.windows(2) {
        let [a, b] = [&pair[0], &pair[1]].map(|n| n.params.get("fc.weight").copied().expect("it is trained"));
        // One weight, whose norm moves by the update.
        assert!(((a.weight - b.weight).abs() - a.update).abs() <= 1e-6, "{a:?} {b:?}");
    }
    Ok(())
}

/// Ends the training with an error after a step.
struct Break(u64);

impl Callback for Break {
    fn every(&self) -> Option<u64> {
        Some(self.0)
    }
    fn on_step_end(&mut self, _: &mut Run, _: &StepReport) -> Result<()> {
        Err(Error::Argument { what: "break".into(), why: "here".into() })
    }
}

fn resumed(device: &Device) -> Check {
    let data = Dataset::new(normal(70 * 3, 5, 1.0), [3], Target::values([1], vec![1.0; 70]))?;
    let trainer = || Trainer::for_data(device, &data, |x| x.linear("fc1", 4).tanh().linear("fc2", 1), |y, t| y.mse(t), Adam::new(0.01));
    let without_clock =
        |epochs: &[Epoch]| -> Vec<Epoch> { epochs.iter().map(|e| Epoch { seconds: 0.0, samples_per_s: 0.0, ..e.clone() }).collect() };
    let measured = || fit(4).norms(3).noise_scale(true);
    let want = trainer()?.fit(&data, measured())?;
    assert!(want.epochs.iter().all(|e| !e.norms.is_empty() && e.noise_scale.is_some()), "{:?}", want.epochs);
    let folder = tempfile::tempdir()?;
    let saved = || measured().checkpoints(Checkpoints::new(folder.path()).every_steps(2)).resume(folder.path());
    for step in [4, 9, 13, 18] {
        assert!(trainer()?.fit(&data, saved().with(Break(step))).is_err());
    }
    let got = trainer()?.fit(&data, saved())?;
    assert_eq!(without_clock(&got.epochs), without_clock(&want.epochs));
    Ok(())
}

fn waits(device: &Device) -> Check {
    let data = digits(70);
    let count = |fit: Fit| -> Result<_> {
        let mut trainer = classifier(device, Adam::new(0.01))?;
        trainer.fit(&data, fit.steps_per_submit(4))?;
        let counters = trainer.counters().expect("a GPU counts");
        Ok((counters.waits, counters.reads, counters.submits, counters.dispatches))
    };
    let plain = count(fit(3))?;
    let norms = count(fit(3).norms(2))?;
    assert_eq!((norms.0, norms.1, norms.2), (plain.0, plain.1, plain.2));
    // 15 steps, of which 7 measure with a copy, two sums and a joining of the sums.
    assert_eq!(norms.3, plain.3 + 7 * 4);
    let noise = count(fit(3).noise_scale(true))?;
    assert_eq!((noise.0, noise.1, noise.2), (plain.0, plain.1, plain.2));
    // Four steps of 6 + 6 + 4 samples and one of 6 in each of three epochs; each micro-batch has a sum and its end.
    assert_eq!(noise.3, plain.3 + 3 * 13 * 2);
    Ok(())
}

fn logged(device: &Device) -> Check {
    let data = digits(70);
    let folder = tempfile::tempdir()?;
    let (log, table) = (folder.path().join("log.csv"), folder.path().join("norms.csv"));
    let mut trainer = classifier(device, Adam::new(0.01))?;
    let logger = CsvLogger::new(&log).norms(&table);
    let history = trainer.fit(&data, fit(2).norms(4).noise_scale(true).with(logger))?;
    let text = std::fs::read_to_string(&log)?;
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows[0], "epoch,loss,accuracy,val_loss,val_accuracy,lr,seconds,noise_scale");
    for (row, e) in rows[1..].iter().zip(&history.epochs) {
        let scale = e.noise_scale.map_or(String::new(), |scale| scale.to_string());
        assert_eq!((row.split(',').count(), row.rsplit(',').next()), (8, Some(&scale[..])));
    }
    let text = std::fs::read_to_string(&table)?;
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows[0], "epoch,step,parameter,weight,gradient,update,trust_ratio");
    assert_eq!(rows.len(), 1 + 2 * 4);
    let n = history.epochs[1].norms[0].params.get("fc2.weight")?;
    assert!(rows.contains(&&*format!("2,7,fc2.weight,{},{},{},", n.weight, n.gradient, n.update)), "{text}");
    // The memory of a training counts the copy of the weights.
    let plain = classifier(device, Adam::new(0.01))?.memory(16)?.total();
    trainer = classifier(device, Adam::new(0.01))?;
    trainer.measure(Readouts { noise_scale: false, norms: Some(10) })?;
    assert!(trainer.memory(16)?.total() >= plain + 4 * (12 * 64 + 10 * 12));
    Ok(())
}

fn mistakes(device: &Device) -> Check {
    let data = digits(20);
    let mut trainer = classifier(device, Adam::new(0.01))?;
    let mut error = |fit: Fit| trainer.fit(&data, fit).expect_err("a mistake").to_string();
    assert_eq!(error(Fit::new().norms(0)), "norms: they are measured in each n-th step, and n must be at least 1");
    for whole in [Fit::new().batch_size(8), Fit::new().batch_size(64), Fit::new().batch_size(8).micro_batch(8)] {
        let text = error(whole.noise_scale(true));
        assert!(text.starts_with("noise_scale: it compares the gradients of the micro-batches of a step"), "{text}");
    }
    assert!(trainer.measure(Readouts { noise_scale: false, norms: Some(0) }).is_err());
    let (x, y) = data.batch(&[0, 1])?;
    trainer.accumulate(&[x, y])?;
    let text = trainer.measure(Readouts { noise_scale: false, norms: Some(3) }).expect_err("a step has begun").to_string();
    assert!(text.starts_with("measure: micro-batches are accumulated"), "{text}");
    Ok(())
}
