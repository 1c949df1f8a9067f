//! Ten programs as people write them, beside the same programs in PyTorch and Keras (`scripts/programs`): the same losses on the CPU and on
//! the GPU, in at most 1.3 times the lines.

mod accumulation_ema;
#[path = "../common/mod.rs"]
mod common;
mod gan;
#[allow(dead_code)] // The programs use a part of it.
#[path = "../common/golden.rs"]
mod golden;
mod gradients;
mod quick_start;
mod resnet18;
mod shared;
mod similarity;
mod text;
mod transfer;
mod uncertainty;
mod wide_deep;

use common::{BOTH, Check, Suite};
use downhill::{Device, Epoch, Graph, Host, Result, Tensor, Trainer, optim::Sgd, testing::close};
use std::{fs, path::Path};

/// A program. It gets a device, and a folder that has the file `pretrained.safetensors`.
type Program = fn(&Device, &Path) -> Result<Vec<f64>>;

const PROGRAMS: [(&str, Program); 10] = [
    ("quick_start", |device, folder| {
        let (history, result) = quick_start::run(device, folder)?;
        let column = |f: fn(&Epoch) -> Option<f64>| history.epochs.iter().filter_map(f).collect();
        let evaluated = vec![result.loss, result.accuracy.unwrap_or(0.0)];
        Ok([column(|e| Some(e.loss)), column(|e| Some(e.validation?.0)), column(|e| Some(e.lr)), evaluated].concat())
    }),
    ("transfer", |device, folder| transfer::run(device, &folder.join("pretrained.safetensors"))),
    ("wide_deep", |device, _| {
        let (steps, result) = wide_deep::run(device)?;
        let mut all = Vec::new();
        for step in steps {
            all.extend([step.loss, *step.watched.get("income")?, *step.watched.get("hours")?].map(f64::from));
        }
        all.extend([*result.watched.get("accuracy")?, *result.watched.get("mae")?]);
        Ok(all)
    }),
    ("accumulation_ema", |device, _| accumulation_ema::run(device)),
    ("gan", |device, _| gan::run(device)),
    ("text", |device, _| text::run(device)),
    ("resnet18", |device, _| resnet18::run(device)),
    ("similarity", |device, _| similarity::run(device)),
    ("gradients", |device, _| gradients::run(device)),
    ("uncertainty", |device, _| uncertainty::run(device)),
];

fn main() {
    let mut suite = Suite::new();
    for (name, program) in PROGRAMS {
        for on in BOTH {
            suite.on(on, name, move |device| same_losses(name, program, device));
        }
        suite.test(&format!("lines of {name}"), move || lines(name));
    }
    suite.each(&BOTH, "Monte-Carlo dropout", monte_carlo);
    suite.run()
}

fn same_losses(name: &str, program: Program, device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    shared::pretrained(&folder.path().join("pretrained.safetensors"))?;
    let got = program(device, folder.path())?;
    let cases = golden::cases("programs");
    assert_eq!(cases.len(), PROGRAMS.len());
    let case = cases.iter().find(|case| case["program"] == name).ok_or("no golden losses")?;
    let want = golden::numbers(&case["losses"]);
    assert_eq!(got.len(), want.len(), "the number of losses");
    for (k, (&got, &want)) in got.iter().zip(&want).enumerate() {
        close(&[got], &[want], SAMPLES).map_err(|e| format!("number {k} of {name}: {e}"))?;
    }
    Ok(())
}

/// The samples of a batch, whose losses are added up.
const SAMPLES: usize = 64;

/// A training graph over a trainer's weights draws new masks in each run (Gal & Ghahramani 2016). With x, weights w and the rate p, the
/// output has the mean Σ w·x and the variance p / (1 − p) · Σ (w·x)².
fn monte_carlo(device: &Device) -> Check {
    fn net<'g>(x: Tensor<'g>) -> Tensor<'g> {
        x.dropout(0.2).linear("fc", 1)
    }
    let g = Graph::training();
    let trainer = Trainer::new(device, net(g.input([1, 64])).sum_all(), Sgd::new(0.1))?;
    shared::start(&trainer)?;
    let x = shared::uniform(7, 64);
    let (weight, bias) = (trainer.params().get("fc.weight")?, trainer.params().get("fc.bias")?);
    let parts: Vec<f64> = weight.f().iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).collect();
    let (mean, variance) = (parts.iter().sum::<f64>() + f64::from(bias.f()[0]), 0.25 * parts.iter().map(|part| part * part).sum::<f64>());

    // 2,000 rows with masks of their own, in each of two runs.
    let (rows, h) = (2000, Graph::training());
    let mut sampled = trainer.compile(&[net(h.input([rows, 64]))])?;
    let x = Host::new([rows, 64], x.iter().copied().cycle().take(rows * 64).collect());
    let (first, second) = (sampled.run(std::slice::from_ref(&x))?.remove(0), sampled.run(&[x])?.remove(0));
    assert_ne!(first, second);
    for drawn in [first.to_f64(), second.to_f64()] {
        let got = drawn.iter().sum::<f64>() / rows as f64;
        let spread = drawn.iter().map(|y| (y - got).powi(2)).sum::<f64>() / (rows - 1) as f64;
        // Five standard deviations of both estimates; the outputs are nearly normal.
        assert!((got - mean).abs() < 5.0 * (variance / rows as f64).sqrt(), "{got} instead of {mean}");
        assert!((spread - variance).abs() < 5.0 * variance * (2.0 / rows as f64).sqrt(), "{spread} instead of {variance}");
    }
    Ok(())
}

/// Lines that are neither blank nor a comment. `None` where there is no such file.
fn count(path: &str, comments: [&str; 2]) -> Option<usize> {
    let text = fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).ok()?;
    let code = |line: &&str| !line.is_empty() && !comments.iter().any(|comment| line.starts_with(comment));
    Some(text.lines().map(str::trim).filter(code).count())
}

/// A program has at most 1.3 times the lines that the shorter one of PyTorch and Keras needs.
fn lines(name: &str) -> Check {
    let ours = count(&format!("programs/{name}.rs"), ["//", "//"]).ok_or("no program")?;
    let python = |end: &str| count(&format!("../scripts/programs/{name}{end}.py"), ["#", "\"\"\""]);
    let theirs = ["", "_keras"].into_iter().filter_map(python).min().ok_or("no program in Python")?;
    println!("{name}: {ours} lines, {theirs} in Python, {:.2} times as many", ours as f64 / theirs as f64);
    assert!(theirs > 10 && ours as f64 <= 1.3 * theirs as f64, "{name} has {ours} lines, but {theirs} in Python");
    Ok(())
}
