//! The first example as a whole: what the command line asks for, what the JSON file says, what bad input gets.

// It brings `examples/common` in, which is not this folder's.
#[allow(dead_code)]
#[path = "../examples/mnist.rs"]
mod mnist;

mod common;

use clap::Parser;
use common::{Check, On, Suite};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::{error::Error, fs, io::Write, path::Path};

fn main() {
    let mut suite = Suite::new();
    suite.on(On::Cpu, "digits by default", |_| digits());
    suite.on(On::Cpu, "digits by convolutions", |_| convolutions());
    suite.on(On::Gpu, "an epoch is that of the CPU", |_| same_epoch(&[]));
    suite.on(On::Gpu, "an epoch of convolutions is that of the CPU", |_| same_epoch(&["--model", "cnn", "--batch-norm"]));
    suite.on(On::Gpu, "an epoch in micro-batches is that of the CPU", |_| same_epoch(&["--batch", "100", "--micro-batch", "32"]));
    suite.on(On::Cpu, "micro-batches larger than a step", |_| {
        let error = run(&["--device", "cpu", "--batch", "32", "--micro-batch", "33"]).expect_err("too many").to_string();
        assert!(error.contains("33 samples, but a step has 32"), "{error}");
        Ok(())
    });
    suite.on(On::Cpu, "a folder of IDX files", |_| folder());
    suite.on(On::Cpu, "bad input", |_| bad_input());
    suite.run()
}

/// Runs the example and returns its JSON object.
fn run(flags: &[&str]) -> Result<Value, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (weights, json) = (dir.path().join("w.safetensors"), dir.path().join("r.json"));
    let own = ["mnist", "--save", weights.to_str().ok_or("a path in Unicode")?, "--json", json.to_str().ok_or("a path in Unicode")?];
    mnist::run(mnist::Args::try_parse_from(own.iter().chain(flags))?)?;
    assert!(fs::metadata(&weights)?.len() > 1000, "the weights were saved");
    Ok(serde_json::from_str(&fs::read_to_string(json)?)?)
}

fn number(result: &Value, key: &str) -> Result<f64, String> {
    result[key].as_f64().ok_or_else(|| format!("no number `{key}` in {result}"))
}

fn digits() -> Check {
    let result = run(&["--device", "cpu"])?;
    assert!(number(&result, "test_accuracy")? >= 0.97, "{result}");
    assert!(result["device"].as_str().is_some_and(|d| d.starts_with("CPU")) && result["driver"].is_string(), "{result}");
    for key in ["epochs", "train_loss", "samples_per_s", "seconds", "seed"] {
        number(&result, key)?;
    }
    Ok(())
}

/// Saved and loaded with what the normalisation has seen of the batches.
fn convolutions() -> Check {
    for flags in [&["--model", "cnn"][..], &["--model", "cnn", "--batch-norm"]] {
        let result = run(&[&["--device", "cpu"], flags].concat())?;
        assert!(number(&result, "test_accuracy")? >= 0.975, "{flags:?}: {result}");
    }
    Ok(())
}

fn same_epoch(model: &[&str]) -> Check {
    let flags = |device| [model, &["--epochs", "1", "--seed", "3", "--kernels", "expected", "--device", device]].concat();
    let (cpu, gpu) = (run(&flags("cpu"))?, run(&flags("gpu"))?);
    assert_ne!(cpu["device"], gpu["device"]);
    let (a, b) = (number(&cpu, "train_loss")?, number(&gpu, "train_loss")?);
    assert!((a - b).abs() <= 1e-3 * a, "{cpu} {gpu}");
    Ok(())
}

/// An IDX file of bytes: magic, sizes, data.
fn idx(dims: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
    bytes.extend(data);
    bytes
}

/// Images of three classes, each bright in a third of its own; the training files gzipped, the others not.
fn write_set(dir: &Path) -> Check {
    for (name, n, gzip) in [("train", 600u32, true), ("t10k", 90, false)] {
        let labels: Vec<u8> = (0..n).map(|i| (i % 3) as u8).collect();
        let pixel = |i: u32, row: u32, column: u32| {
            let noise = (i * 7919 + row * 104_729 + column * 1_299_709) % 97;
            (noise + if row / 4 == i % 3 { 120 } else { 0 }) as u8
        };
        let images: Vec<u8> = (0..n).flat_map(|i| (0..12).flat_map(move |row| (0..10).map(move |column| pixel(i, row, column)))).collect();
        for (kind, bytes) in [("images-idx3", idx(&[n, 12, 10], &images)), ("labels-idx1", idx(&[n], &labels))] {
            let path = dir.join(format!("{name}-{kind}-ubyte{}", if gzip { ".gz" } else { "" }));
            if gzip {
                let mut out = GzEncoder::new(fs::File::create(path)?, Compression::fast());
                out.write_all(&bytes)?;
                out.finish()?;
            } else {
                fs::write(path, bytes)?;
            }
        }
    }
    Ok(())
}

fn folder() -> Check {
    let dir = tempfile::tempdir()?;
    write_set(dir.path())?;
    let data = dir.path().to_str().ok_or("a path in Unicode")?;
    let flags = ["--device", "cpu", "--epochs", "3", "--batch", "64", "--data", data];
    for rule in ["sgd", "momentum", "rmsprop", "adagrad", "adam", "adamw"] {
        let result = run(&[&flags[..], &["--optimizer", rule]].concat())?;
        assert!(number(&result, "test_accuracy")? > 0.95, "{rule}: {result}");
    }
    fs::remove_file(dir.path().join("t10k-labels-idx1-ubyte"))?;
    let error = run(&flags).err().ok_or("a file is missing")?.to_string();
    assert!(error.contains(data) && error.contains("t10k-labels"), "{error}");
    Ok(())
}

fn bad_input() -> Check {
    let cases: &[(&[&str], &[&str])] = &[
        (&["--lr", "NaN"], &["Adam", "learning rate"]),
        (&["--lr", "0"], &["Adam", "learning rate"]),
        (&["--lr", "-1"], &["Adam", "learning rate is -1"]),
        (&["--batch", "0"], &["--batch"]),
        (&["--data", "no-such-set"], &["no-such-set", "looked in"]),
        (&["--device", "no such adapter"], &["no such adapter", "adapters here"]),
        (&["--optimizer", "newton"], &["newton"]),
        (&["--model", "rnn"], &["rnn", "mlp, cnn"]),
        (&["--batch-norm"], &["--batch-norm", "--model cnn"]),
    ];
    for (flags, parts) in cases {
        let device: &[&str] = if flags[0] == "--device" { &[] } else { &["--device", "cpu"] };
        let error = run(&[flags, device].concat()).err().ok_or_else(|| format!("{flags:?} ran"))?.to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{flags:?}: {error}");
    }
    Ok(())
}
