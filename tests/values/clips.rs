//! Clipping by norm and by value, and the sizes of gradients in reports.

use crate::common::{Check, On, Suite, bits, grid, weights};
use downhill::{
    Device, Error, Fit, Graph, Host, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, AdamW, Optimizer, Sgd},
    testing,
};
use serde_json::Value;

const ALL: [On; 4] = [On::Cpu, On::Gpu, On::Checked, On::Pieces];

pub fn trials(suite: &mut Suite) {
    suite.each(&ALL, "clipped gradients are PyTorch's", pytorch);
    suite.each(&ALL, "values at the limit exactly", at_the_limit);
    suite.each(&ALL, "limits tiny and huge", extremes);
    suite.each(&ALL, "clipping hides nothing that is not finite", not_hidden);
    suite.each(&ALL, "the sizes of gradients in reports", reports);
    suite.each(&ALL, "the sizes of gradients in fit", in_fit);
}

/// A trainer of vectors that start so, whose gradients are given.
fn given(device: &Device, start: &[(&str, Vec<f32>)], optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    let g = Graph::training();
    let sum = start.iter().map(|(name, x)| g.param(name, [x.len()], Init::Zeros).sum_all()).reduce(|a, b| a + b);
    let trainer = Trainer::new(device, sum.expect("some"), optimizer)?;
    let start: Vec<(String, Host<f32>)> = start.iter().map(|(name, x)| (name.to_string(), host(x))).collect();
    trainer.params().set_all(&start)?;
    Ok(trainer)
}

fn host(x: &[f32]) -> Host<f32> {
    Host::new([x.len()], x.to_vec())
}

fn pytorch(device: &Device) -> Check {
    let json: Value = serde_json::from_str(include_str!("../golden/values_steps.json"))?;
    let cases = json["clipped"].as_array().expect("a list of cases");
    assert_eq!(cases.len(), 18);
    for case in cases {
        let rule: Optimizer = match case["optimizer"].as_str().expect("a name") {
            "Adam" => Adam::new(0.01).into(),
            "AdamW" => AdamW::new(0.01).weight_decay(0.1).decay_all(),
            _ => Sgd::new(0.05).momentum(0.9).into(),
        };
        // Whichever is called first.
        let rule = rule.clip_value(case["clip_value"].as_f64().expect("a number"));
        let rule = case["clip_norm"].as_f64().into_iter().fold(rule, |rule, max| rule.clip_norm(max));
        let what = format!("{rule:?}");
        let mut trainer = given(device, &[("a", grid(70, 37, 3, 61)), ("b", grid(9, 29, 5, 23))], rule)?;
        for step in 0..5 {
            trainer.apply_gradients(&[("a", host(&grid(70, 41, 13 * step, 101))), ("b", host(&grid(9, 17, 7 * step, 59)))])?;
        }
        trainer.loss()?;
        for (name, want) in ["a", "b"].into_iter().zip(case["after"].as_array().expect("two")) {
            let want: Vec<f64> = want.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect();
            testing::close(&trainer.params().get(name)?.to_f64(), &want, 79).map_err(|e| format!("{what}: {name}: {e}"))?;
        }
    }
    Ok(())
}

/// w ← 0 − g.
fn moved(device: &Device, g: &[f32], optimizer: impl Into<Optimizer>) -> Result<Vec<f32>, Error> {
    let mut trainer = given(device, &[("w", vec![0.0; g.len()])], optimizer)?;
    trainer.apply_gradients(&[("w", host(g))])?;
    trainer.loss()?;
    Ok(trainer.params().get("w")?.f().to_vec())
}

fn at_the_limit(device: &Device) -> Check {
    let next = |x: f32, up: i32| f32::from_bits(x.to_bits().wrapping_add_signed(up));
    for max in [0.5f32, 0.1, 1e-30, 3e37] {
        let g = [max, -max, next(max, 1), -next(max, 1), next(max, -1), -next(max, -1), f32::MAX, -f32::MAX, max / 3.0, 0.0, -max / 7.0];
        let want: Vec<f32> = g.iter().map(|g| 0.0 - g.clamp(-max, max)).collect();
        assert_eq!(bits(&moved(device, &g, Sgd::new(1.0).clip_value(f64::from(max)))?), bits(&want), "{max}");
    }
    // A norm at the limit is a little above it with the 1e-6, as PyTorch has it.
    let got = moved(device, &[3.0, -4.0], Sgd::new(1.0).clip_norm(5.0))?;
    assert!((got[0] + 3.0).abs() < 1e-6 && (got[1] - 4.0).abs() < 2e-6, "{got:?}");
    Ok(())
}

fn extremes(device: &Device) -> Check {
    let g = grid(16, 37, 5, 61).iter().map(|g| g * 1e5).collect::<Vec<_>>();
    let norm = g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    // Below the smallest normal float devices may have 0, but nothing larger.
    for max in [1e-40, 1e-44] {
        for rule in [Sgd::new(1.0).clip_value(max), Sgd::new(1.0).clip_norm(max), Sgd::new(1.0).clip_norm(max).clip_value(max)] {
            let got = moved(device, &g, rule)?;
            assert!(got.iter().all(|w| f64::from(w.abs()) <= 1.01 * max), "{max}: {got:?}");
        }
    }
    for max in [1e-37, 1e-36, 1e-35, 1e-30, 1e-25] {
        let got = moved(device, &g, Sgd::new(1.0).clip_norm(max))?;
        for (got, g) in got.iter().zip(&g) {
            let want = -f64::from(*g) * max / norm;
            let error = (f64::from(*got) - want).abs();
            assert!(error <= 1e-6 * want.abs() || want.abs() < 2e-38 && error < 2e-38, "{max}: {got} instead of {want}");
        }
        let got = moved(device, &g, Sgd::new(1.0).clip_value(max))?;
        assert!(got.iter().zip(&g).all(|(w, g)| f64::from(*w) == f64::from(max as f32) * -f64::from(g.signum())), "{max}: {got:?}");
    }
    // The largest limits change no gradient.
    let plain: Vec<u32> = g.iter().map(|g| (0.0 - g).to_bits()).collect();
    for rule in [Sgd::new(1.0).clip_value(3.4e38), Sgd::new(1.0).clip_norm(3.4e38), Sgd::new(1.0).clip_norm(3.4e38).clip_value(3.4e38)] {
        assert_eq!(bits(&moved(device, &g, rule)?), plain);
    }
    // Each of the largest floats.
    let got = moved(device, &[f32::MAX, -f32::MAX, 1.0], Sgd::new(1.0).clip_value(2.0))?;
    assert_eq!(got, [-2.0, 2.0, -1.0]);
    // By the norm first: √128·1e19, of which each is 0.1767767 of 2; then by the value.
    let mut trainer = given(device, &[("w", vec![0.5; 128])], Sgd::new(1.0).clip_norm(2.0).clip_value(0.125))?;
    trainer.apply_gradients(&[("w", host(&[1e19; 128]))])?;
    let report = trainer.take_reports()?.remove(0);
    assert!((report.grad_norm / 1.131_370_8e20 - 1.0).abs() < 1e-6 && report.grad_max == 1e19, "{report:?}");
    assert_eq!(trainer.params().get("w")?.f(), &[0.375; 128]);
    Ok(())
}

fn not_hidden(device: &Device) -> Check {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
        for rule in [Adam::new(0.1).clip_value(1e-3), Adam::new(0.1).clip_norm(1e-3), Adam::new(0.1).clip_norm(1.0).clip_value(1e-40)] {
            let mut trainer = given(device, &[("a", vec![0.5; 70]), ("b", vec![0.25; 130])], rule)?;
            let before = weights(&trainer)?;
            let mut g = vec![1.0; 130];
            g[129] = bad;
            trainer.apply_gradients(&[("a", host(&[1.0; 70])), ("b", host(&g))])?;
            match trainer.loss() {
                Err(Error::Diverged { step: 0, what, parameter: Some(name), .. }) if what == "gradient" && name == "b" => {}
                other => panic!("{bad}: {other:?}"),
            }
            assert_eq!(weights(&trainer)?, before);
        }
    }
    Ok(())
}

fn reports(device: &Device) -> Check {
    // The caller gives gradients of every size, clipped or not. On a small device they lie in more than one piece.
    for (scale, inside) in [(1.0f32, true), (1e-30, true), (1e19, true), (1e38, false)] {
        for rule in [Optimizer::from(Sgd::new(1e-3)), Sgd::new(1e-3).clip_norm(0.5), Sgd::new(1e-3).clip_value(0.5)] {
            // A step of 1e35 changes nothing but would overflow nothing either.
            let mut trainer = given(device, &[("a", vec![0.5; 20_000]), ("b", vec![0.5; 9])], rule)?;
            let (a, mut b) = (grid(20_000, 41, 7, 101), grid(9, 17, 3, 59));
            b[4] = -2.0;
            let [a, b] = [a, b].map(|g| g.iter().map(|g| g * scale).collect::<Vec<_>>());
            let norm = a.iter().chain(&b).map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            trainer.apply_gradients(&[("a", host(&a)), ("b", host(&b))])?;
            // And a step of which the gradients are all 0.
            trainer.apply_gradients(&[])?;
            let reports = trainer.take_reports()?;
            let [first, second] = [&reports[0], &reports[1]].map(|r| (r.grad_norm, r.grad_max));
            assert_eq!((first.1, second), (2.0 * scale, (0.0, 0.0)));
            match inside {
                true => assert!((f64::from(first.0) / norm - 1.0).abs() < 1e-5, "{scale}: {} instead of {norm}", first.0),
                // No float is as large.
                false => assert_eq!(first.0, f32::INFINITY),
            }
        }
    }
    // The gradients come from a loss: ∂/∂w of Σ (w·x)² / n is 2·w·x²/n. Micro-batches give the gradient of all samples together.
    let g = Graph::training();
    let x = g.input([2, 1]);
    let loss = (x * g.param("w", [1], Init::Ones)).square().mean_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(1e-3).clip_norm(0.01))?;
    let two = |a: f32, b: f32| [Host::new([2, 1], vec![a, b])];
    trainer.step(&two(1.0, 3.0))?;
    let w = f64::from(trainer.params().get("w")?.f()[0]);
    trainer.accumulate(&two(1.0, 2.0))?;
    trainer.accumulate(&two(3.0, 4.0))?;
    trainer.step(&two(-5.0, 0.0))?;
    let reports = trainer.take_reports()?;
    for (report, want) in reports.iter().zip([10.0, 2.0 * w * 55.0 / 6.0]) {
        let near = |x: f32| (f64::from(x) / want - 1.0).abs() < 1e-6;
        assert!(near(report.grad_norm) && near(report.grad_max), "{report:?} instead of {want}");
    }
    assert_eq!(reports.len(), 2);
    Ok(())
}

/// One weight, whose training is followed by hand; batches in order.
fn in_fit(device: &Device) -> Check {
    let (n, batch) = (14, 4);
    let (x, y) = (grid(n, 37, 5, 61), grid(n, 29, 7, 23));
    let data = Dataset::new(x.clone(), [1], Target::values([1], y.clone()))?;
    fn model(x: downhill::Tensor<'_>) -> downhill::Tensor<'_> {
        x * x.graph().param("w", [1], Init::Constant(2.0))
    }
    let mut trainer = Trainer::for_data(device, &data, model, |y, t| y.mse(t), Sgd::new(0.5).clip_value(0.25))?;
    let before = trainer.counters();
    trainer.fit(&data, Fit::new().batch_size(batch).epochs(3).shuffle(false))?;
    let counters = trainer.counters();
    let reports = trainer.take_reports()?;
    // They came with the losses: one read and one wait an epoch.
    if let (Some(before), Some(after), Some(now)) = (before, counters, trainer.counters()) {
        assert_eq!((after.reads - before.reads, after.waits - before.waits), (3, 3));
        assert_eq!((now.reads, now.waits), (after.reads, after.waits));
    }
    assert_eq!(reports.len(), 12);
    let (mut w, mut clipped) = (2.0f64, 0);
    for (k, report) in reports.iter().enumerate() {
        let rows = k % 4 * batch..n.min((k % 4 + 1) * batch);
        let g = rows.clone().map(|i| 2.0 * (w * f64::from(x[i]) - f64::from(y[i])) * f64::from(x[i])).sum::<f64>() / rows.len() as f64;
        for got in [report.grad_norm, report.grad_max] {
            assert!((f64::from(got) - g.abs()).abs() < 1e-5 * g.abs().max(0.01), "step {k}: {got} instead of {g}");
        }
        clipped += usize::from(g.abs() > 0.25);
        w -= 0.5 * g.clamp(-0.25, 0.25);
    }
    assert!((1..12).contains(&clipped), "{clipped} were clipped");
    assert!((f64::from(trainer.params().get("w")?.f()[0]) - w).abs() < 1e-5);
    Ok(())
}
