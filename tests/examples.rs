//! The examples as a whole: what they learn beside a baseline, the files that they write, what bad input gets.
//! `introductions.rs` checks the results of the introductory examples, and `mnist.rs` those of the first example.

// Each example has what all of them share as a module of its own.
#![allow(clippy::duplicate_mod, dead_code)]

#[path = "../examples/autoencoder.rs"]
mod autoencoder;
#[path = "../examples/char_lm.rs"]
mod char_lm;
#[path = "../examples/cifar.rs"]
mod cifar;
mod common;
#[path = "../examples/custom_loss.rs"]
mod custom_loss;
#[path = "../examples/gradient_descent.rs"]
mod gradient_descent;
#[path = "../examples/large_batch.rs"]
mod large_batch;
#[path = "../examples/linear.rs"]
mod linear;
#[path = "../examples/mnist.rs"]
mod mnist;
#[path = "../examples/neuron.rs"]
mod neuron;
#[path = "../examples/quick_start.rs"]
mod quick_start;
#[path = "../examples/common/mod.rs"]
mod shared;
#[path = "../examples/tabular.rs"]
mod tabular;
#[path = "../examples/transfer.rs"]
mod transfer;
#[path = "../examples/verses.rs"]
mod verses;

use clap::Parser;
use common::{BOTH, Check, On, Suite};
use downhill::{
    History, Shape,
    plot::{Panel, Series, svg},
    rng::Stream,
};
use rand::RngExt;
use shared::png::grid;
use std::{error::Error, fs, path::Path};

fn main() {
    let mut suite = Suite::new();
    suite.test("plots", plots);
    suite.on(On::Cpu, "plot of gradient_descent", |_| plot_of_gradient_descent());
    suite.on(On::Cpu, "plot of linear", |_| plot_of_linear());
    suite.on(On::Cpu, "plot of neuron", |_| plot_of_neuron());
    suite.on(On::Cpu, "plot of tabular", |_| plot_of_tabular());
    suite.on(On::Cpu, "plot of custom_loss", |_| plot_of_custom_loss());
    suite.on(On::Cpu, "plot of mnist", |_| plot_of_mnist());
    suite.on(On::Cpu, "profile of mnist", |_| mnist_profile());
    suite.test("files that cannot be written", bad_files);
    suite.test("grids of images", grids);
    suite.on(On::Cpu, "autoencoder", |_| autoencoders());
    suite.on(On::Gpu, "autoencoder, an epoch as on the CPU", |_| autoencoder_on_both());
    suite.on(On::Cpu, "cifar", |_| residual());
    suite.on(On::Cpu, "large_batch", |_| batches());
    for on in BOTH {
        suite.on(on, "quick_start", move |_| with_callbacks(on));
        suite.on(on, "transfer", move |_| transferred(on));
    }
    suite.on(On::Cpu, "verses", |_| halves());
    suite.on(On::Cpu, "char_lm", |_| writer());
    suite.on(On::Gpu, "char_lm, an epoch as on the CPU", |_| writer_on_both());
    suite.run()
}

type Any<T> = Result<T, Box<dyn Error>>;

fn text(path: &Path) -> Any<&str> {
    Ok(path.to_str().ok_or("a path in Unicode")?)
}

/// The error that these flags get: one line with these parts.
fn refused<T, A: Parser>(run: impl Fn(A) -> Any<T>, flags: &[&str], parts: &[&str]) -> Check {
    let result = A::try_parse_from(["example"].iter().chain(flags)).map_err(Into::into).and_then(run);
    let error = result.err().ok_or_else(|| format!("{flags:?} ran"))?;
    let line = match error.downcast_ref::<clap::Error>() {
        // `common::run` prints the part of clap's message before the usage.
        Some(error) => error.to_string().lines().next().unwrap_or("").to_string(),
        None => error.to_string(),
    };
    assert!(!line.contains('\n') && parts.iter().all(|part| line.contains(part)), "{flags:?}: {line}");
    Ok(())
}

/// The curves of an SVG file: polylines. On the way the file is read as XML.
fn curves(svg: &str) -> Any<Vec<Vec<(f64, f64)>>> {
    let (mut open, mut curves) = (Vec::new(), Vec::new());
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').ok_or("a tag without an end")?;
        assert!(!text.contains('>'), "{text}");
        let name = tag.split_whitespace().next().unwrap_or("");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closed, but not open"),
            None if tag.ends_with('/') => {}
            None => open.push(name),
        }
        if name != "polyline" {
            continue;
        }
        let points = tag
            .split_once("points=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(points, _)| points)
            .ok_or("a polyline without points")?
            .split_whitespace();
        let number = |n: &str| n.parse::<f64>().map_err(|e| format!("{n}: {e}"));
        let points = points.map(|p| p.split_once(',').ok_or("no point")).map(|p| p.map(|(x, y)| Ok((number(x)?, number(y)?)))?);
        let points: Vec<(f64, f64)> = points.collect::<Any<_>>()?;
        curves.push(points);
    }
    assert!(open.is_empty() && svg.starts_with("<svg "), "{open:?} {}", &svg[..40]);
    Ok(curves)
}

/// How many points each curve of the file has that an example draws with these flags. They go from left to right.
fn drawn<T, A: Parser>(run: impl Fn(A) -> Any<T>, flags: &[&str]) -> Any<Vec<usize>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("curves.svg");
    let own = ["example", "--device", "cpu", "--plot", text(&path)?];
    run(A::try_parse_from(own.iter().chain(flags))?)?;
    let curves = curves(&fs::read_to_string(path)?)?;
    for curve in &curves {
        assert!(curve.windows(2).all(|w| w[0].0 <= w[1].0), "{curve:?}");
    }
    Ok(curves.iter().map(Vec::len).collect())
}

fn plots() -> Check {
    let panel = |values: &[f64]| {
        let series = vec![Series::steps("a < b", values.iter().copied()), Series::steps("none", [])];
        Panel { title: "title".into(), x: "step", y: "loss", series }
    };
    let draw = |values: &[f64]| svg("\"title\"", &[panel(values), panel(&[1.0, 2.0])]);
    for (values, log) in [
        (&[1.0, 99.0][..], false),
        (&[1.0, 101.0], true),
        (&[0.0, 1000.0], false),
        (&[-1.0, 1000.0], false),
        (&[1e-30, 1e30, 1.0], true),
        (&[3.0], false),
        (&[0.0, 0.0, 0.0], false),
        (&[-1e-9, -1.1e-9], false),
        (&[], false),
    ] {
        let picture = draw(values);
        assert_eq!(picture, draw(values), "the same picture each time");
        assert_eq!(picture.contains("(logarithmic)"), log, "{values:?}");
        let curves = curves(&picture)?;
        let counts: Vec<usize> = [values.len(), 2].into_iter().filter(|&n| n > 0).collect();
        assert_eq!(curves.iter().map(Vec::len).collect::<Vec<_>>(), counts, "{values:?}");
        // Within its panel; larger values are further up.
        for (point, value) in curves[0].iter().zip(values) {
            assert!((72.0..640.0).contains(&point.0) && (40.0..460.0).contains(&point.1), "{values:?}: {point:?}");
            let higher = |other: &f64| curves[0][values.iter().position(|v| v == other).unwrap_or(0)].1;
            assert!(values.iter().all(|other| other <= value || higher(other) <= point.1), "{values:?}");
        }
    }
    svg("nothing", &[]);
    Ok(())
}

/// A bowl for five rates, Rosenbrock's valley for four, Himmelblau's function once.
fn plot_of_gradient_descent() -> Check {
    let points = drawn(gradient_descent::run, &[])?;
    // Those that neither arrive nor diverge are looked at every 10 of 200 and every 250 of 12,000 steps.
    assert_eq!((points.len(), points[0], points[3], points[5]), (10, 21, 21, 49), "{points:?}");
    Ok(())
}

fn plot_of_linear() -> Check {
    assert_eq!(drawn(linear::run, &[])?, [500; 3]);
    Ok(())
}

fn plot_of_neuron() -> Check {
    assert_eq!(drawn(neuron::run, &["--steps", "7"])?, [7; 4]);
    Ok(())
}

fn plot_of_tabular() -> Check {
    assert_eq!(drawn(tabular::run, &[])?, [400, 60, 60, 60, 60].repeat(4));
    Ok(())
}

/// 455 samples in batches of 64, 40 epochs.
fn plot_of_custom_loss() -> Check {
    assert_eq!(drawn(custom_loss::run, &[])?, [8 * 40, 40, 40]);
    Ok(())
}

/// The profile of a step is printed and written to a file. Profiling does not change the result of training.
fn mnist_profile() -> Check {
    let dir = tempfile::tempdir()?;
    let [plain, profiled, trace] = ["plain", "profiled", "trace.json"].map(|name| dir.path().join(name));
    let run = |flags: &[&str]| -> Any<()> {
        let common = ["mnist", "--device", "cpu", "--epochs", "1", "--save"];
        mnist::run(mnist::Args::try_parse_from(common.iter().chain(flags))?)
    };
    run(&[text(&plain)?])?;
    run(&[text(&profiled)?, "--memory", "--profile", text(&trace)?])?;
    assert_eq!(fs::read(plain)?, fs::read(profiled)?);
    let events: serde_json::Value = serde_json::from_slice(&fs::read(trace)?)?;
    assert!(events["traceEvents"].as_array().is_some_and(|events| events.len() > 100));
    Ok(())
}

/// 1,438 images in batches of 64: loss of steps, of epochs, of held-out images; accuracy of the last two.
fn plot_of_mnist() -> Check {
    let dir = tempfile::tempdir()?;
    let save = dir.path().join("w.safetensors");
    assert_eq!(drawn(mnist::run, &["--epochs", "3", "--save", text(&save)?])?, [69, 3, 3, 3, 3]);
    // More steps than there is room for are put together.
    let points = drawn(mnist::run, &["--epochs", "2", "--batch", "1", "--save", text(&save)?])?;
    assert_eq!(points, [1438, 2, 2, 2, 2]);
    Ok(())
}

/// Two rules at the batches of the search for rates and at all samples, on the digits.
fn batches() -> Check {
    let dir = tempfile::tempdir()?;
    let [json, plot] = ["out.json", "out.svg"].map(|name| dir.path().join(name));
    let flags = ["--data", "digits", "--device", "cpu", "--epochs", "8", "--rules", "adamw,muon", "--batches", "64,256,60000"];
    let files = ["--json", text(&json)?, "--plot", text(&plot)?, "--goal", "50", "--validate"];
    large_batch::run(large_batch::Args::try_parse_from(["example"].iter().chain(&flags).chain(&files))?)?;
    let all: serde_json::Value = serde_json::from_str(&fs::read_to_string(&json)?)?;
    let trainings = all["trainings"].as_array().ok_or("no trainings")?;
    // Five sixths of the 1,437 digits that are not held out.
    let steps: Vec<u64> = trainings.iter().filter_map(|t| t["steps"].as_u64()).collect();
    assert_eq!(steps, [152, 152, 40, 40, 8, 8]);
    assert!(trainings.iter().all(|t| t["batch"].as_u64().is_some_and(|batch| batch <= 1200)));
    for training in &trainings[..4] {
        let accuracy = training["accuracy"].as_f64().ok_or("no accuracy")?;
        assert!(accuracy > 0.8 && training["steps_to_goal"].as_u64().is_some(), "{training}");
    }
    assert_eq!(curves(&fs::read_to_string(&plot)?)?.len(), 4, "the accuracy and the steps of two rules");
    refused(large_batch::run, &["--data", "digits", "--batches", "0"], &["--batches", "0"])?;
    Ok(())
}

fn bad_files() -> Check {
    let dir = tempfile::tempdir()?;
    let folder = text(dir.path())?;
    let nowhere = format!("{folder}/nowhere/curves.svg");
    for flags in [["--plot", &nowhere], ["--plot", folder]] {
        let parts = ["--plot", flags[1], "folder"];
        refused(gradient_descent::run, &flags, &parts)?;
        refused(linear::run, &flags, &parts)?;
        refused(neuron::run, &flags, &parts)?;
        refused(tabular::run, &flags, &parts)?;
        refused(custom_loss::run, &flags, &parts)?;
        refused(mnist::run, &flags, &parts)?;
        refused(autoencoder::run, &flags, &parts)?;
        refused(cifar::run, &flags, &parts)?;
        refused(char_lm::run, &flags, &parts)?;
    }
    for flag in ["--images", "--samples"] {
        refused(autoencoder::run, &[flag, &nowhere], &[flag, "there is no folder"])?;
    }
    refused(mnist::run, &["--save", &nowhere], &["--save", "there is no folder"])?;
    refused(mnist::run, &["--profile", &nowhere], &["--profile", "there is no folder"])?;
    refused(mnist::run, &["--json", &nowhere], &["--json", "there is no folder"])?;
    refused(cifar::run, &["--wrong", &nowhere], &["--wrong", "there is no folder"])?;
    Ok(())
}

/// Width, height and bytes of a PNG file.
fn read_png(path: &Path) -> Any<(u32, u32, Vec<u8>)> {
    let mut reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(path)?)).read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("too large")?];
    let info = reader.next_frame(&mut bytes)?;
    bytes.truncate(info.buffer_size());
    Ok((info.width, info.height, bytes))
}

fn grids() -> Check {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("grid.png");
    // Three images of 1 × 2 pixels in two columns, pixels as 2 × 2: what is out of range is cut off, the fourth place is empty.
    grid(&path, &[0.0, 1.0, -3.0, 0.5, 2.0, 0.2], Shape::from([1, 1, 2]), 2, 2)?;
    let row = |line: u8, pixels: [u8; 4]| {
        [line, pixels[0], pixels[0], pixels[1], pixels[1], line, pixels[2], pixels[2], pixels[3], pixels[3], line]
    };
    let (line, first, second) = (row(96, [96; 4]), row(96, [0, 255, 0, 128]), row(96, [255, 51, 96, 96]));
    assert_eq!(read_png(&path)?, (11, 7, [line, first, first, line, second, second, line].concat()));
    // Red, green and blue planes of one pixel.
    grid(&path, &[1.0, 0.0, 0.4], Shape::from([3, 1, 1]), 1, 1)?;
    let (width, height, bytes) = read_png(&path)?;
    assert_eq!((width, height, &bytes[12..15], bytes.len()), (3, 3, &[255, 0, 102][..], 27));
    for shape in [Shape::from([2, 1, 1]), Shape::from([4])] {
        assert!(grid(&path, &[0.0; 4], shape, 1, 1).is_err_and(|e| e.to_string().contains("cannot be drawn")));
    }
    let nowhere = dir.path().join("nowhere/grid.png");
    assert!(grid(&nowhere, &[0.0], Shape::from([1, 1, 1]), 1, 1).is_err_and(|e| e.to_string().contains("nowhere")));
    Ok(())
}

/// The loss on held-out data after the first and after the last epoch.
fn held_out(history: &History) -> Any<(f64, f64)> {
    let at = |e: Option<&downhill::Epoch>| e.and_then(|e| e.validation).map(|v| v.0).ok_or("no validation");
    Ok((at(history.epochs.first())?, at(history.epochs.last())?))
}

/// Runs it on the digits; returns its report and the two pictures, if it drew them.
fn draw_digits(flags: &[&str]) -> Any<(autoencoder::Report, Vec<u8>, Option<Vec<u8>>)> {
    let dir = tempfile::tempdir()?;
    let (images, samples) = (dir.path().join("a.png"), dir.path().join("s.png"));
    let own = ["autoencoder", "--images", text(&images)?, "--samples", text(&samples)?];
    let report = autoencoder::run(autoencoder::Args::try_parse_from(own.iter().chain(flags))?)?;
    let (width, height, pixels) = read_png(&images)?;
    // 16 × 8 images of 8 × 8 pixels of 4 × 4.
    assert_eq!((width, height), (16 * 33 + 1, 8 * 33 + 1));
    let samples = if samples.exists() { Some(read_png(&samples)?.2) } else { None };
    Ok((report, pixels, samples))
}

fn autoencoders() -> Check {
    let dir = tempfile::tempdir()?;
    let images = dir.path().join("a.png");
    assert_eq!(drawn(autoencoder::run, &["--epochs", "2", "--images", text(&images)?])?, [46, 2, 2]);

    let flags = ["--device", "cpu", "--epochs", "20"];
    let (plain, images, samples) = draw_digits(&flags)?;
    let (first, last) = held_out(&plain.history)?;
    assert!(last < 0.8 * first && samples.is_none(), "{first} {last}");
    assert!(plain.error < 0.3 * plain.baseline, "{} {}", plain.error, plain.baseline);

    let (variational, _, samples) = draw_digits(&[&flags[..], &["--variational"]].concat())?;
    let (first, last) = held_out(&variational.history)?;
    assert!(last < 0.9 * first, "{first} {last}");
    // Codes that are held to a normal distribution say less of an image.
    assert!(variational.error < 0.5 * variational.baseline && variational.error > plain.error, "{} {}", variational.error, plain.error);
    assert_eq!(variational.baseline, plain.baseline);
    let samples = samples.ok_or("no samples were drawn")?;
    assert_eq!(samples.len(), (10 * 33 + 1) * (10 * 33 + 1));
    // Generated images are as bright as drawn images, and have darkest and brightest pixels.
    let mean = |pixels: &[u8]| pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
    assert!((mean(&samples) - mean(&images)).abs() < 8.0, "{} {}", mean(&samples), mean(&images));
    assert!(samples.iter().any(|&p| p < 5) && samples.iter().any(|&p| p > 250));

    for (flags, parts) in [
        (&["--lr", "-1"][..], &["Adam", "learning rate"][..]),
        (&["--data", "no-such-set"], &["no-such-set", "looked in"]),
        (&["--code", "0"], &["--code"]),
    ] {
        refused(autoencoder::run, &[&["--device", "cpu"], flags].concat(), parts)?;
    }
    Ok(())
}

/// Random codes and all.
fn autoencoder_on_both() -> Check {
    let epoch = |device| draw_digits(&["--variational", "--epochs", "1", "--kernels", "expected", "--device", device]);
    let (cpu, gpu) = (epoch("cpu")?.0.history.epochs[0].loss, epoch("gpu")?.0.history.epochs[0].loss);
    assert!((cpu - gpu).abs() <= 1e-3 * cpu, "{cpu} {gpu}");
    Ok(())
}

/// Six files of CIFAR-10's format: classes are stripes across, stripes along and squares, of colours and strengths that say nothing.
fn write_cifar(dir: &Path, images: u32) -> Check {
    let mix = |a: u32, b: u32| (a.wrapping_mul(2_654_435_761) ^ b.wrapping_mul(2_246_822_519)).wrapping_mul(3_266_489_917) >> 16;
    let names = (1..=5).map(|k| format!("data_batch_{k}.bin")).chain(["test_batch.bin".to_string()]);
    for (file, name) in (0..).zip(names) {
        let mut bytes = Vec::new();
        for i in 0..images {
            let (id, class) = (file * images + i, i % 3);
            bytes.push(class as u8);
            for (plane, y, x) in (0..3).flat_map(|p| (0..32).flat_map(move |y| (0..32).map(move |x| (p, y, x)))) {
                let (down, across) = ((y + mix(id, 1) % 8) / 4 % 2, (x + mix(id, 2) % 8) / 4 % 2);
                let bright = [down, across, down ^ across][class as usize];
                let noise = mix(id * 3 + plane, y * 32 + x) % 60;
                bytes.push((noise + mix(id, 10 + plane) % 80 + bright * 100) as u8);
            }
        }
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

fn residual() -> Check {
    let dir = tempfile::tempdir()?;
    write_cifar(dir.path(), 60)?;
    let (wrong, curves_file) = (dir.path().join("wrong.png"), dir.path().join("curves.svg"));
    let flags = ["cifar", "--device", "cpu", "--data", text(dir.path())?, "--channels", "4", "--batch", "20"];
    let report = |more: &[&str]| cifar::run(cifar::Args::try_parse_from(flags.iter().chain(more))?);
    let r = report(&["--epochs", "3", "--plot", text(&curves_file)?])?;
    // Three classes, alike in how often they come and how bright they are.
    assert!(r.accuracy > 0.9, "{}", r.accuracy);
    let (first, last) = held_out(&r.history)?;
    assert!(last < 0.5 * 3f64.ln() && last < first, "{first} {last}");
    let points: Vec<usize> = curves(&fs::read_to_string(&curves_file)?)?.iter().map(Vec::len).collect();
    assert_eq!(points, [45, 3, 3, 3, 3]);
    // Without a step that does anything, some are wrong.
    report(&["--epochs", "1", "--lr", "1e-9", "--wrong", text(&wrong)?])?;
    let (width, height, _) = read_png(&wrong)?;
    assert!(width == 10 * 65 + 1 && (height - 1) % 65 == 0, "{width} × {height}");

    refused(
        cifar::run,
        &["--device", "cpu", "--data", "no-such-set"],
        &["no-such-set", "cifar-10-binary.tar.gz", "https://www.cs.toronto.edu"],
    )?;
    refused(cifar::run, &[&flags[1..], &["--lr", "NaN"]].concat(), &["learning rate"])?;
    refused(cifar::run, &["--blocks", "0"], &["--blocks"])?;
    fs::write(dir.path().join("test_batch.bin"), [0; 100])?;
    refused(cifar::run, &flags[1..], &["test_batch.bin", "100 bytes"])?;
    fs::remove_file(dir.path().join("test_batch.bin"))?;
    refused(cifar::run, &flags[1..], &["test_batch.bin"])
}

fn with_callbacks(on: On) -> Check {
    let dir = tempfile::tempdir()?;
    let (best, log, plot) = (dir.path().join("best.safetensors"), dir.path().join("log.csv"), dir.path().join("curves.svg"));
    let flags = ["quick_start", "--device", on.name(), "--kernels", "expected", "--save", text(&best)?, "--log", text(&log)?];
    let r = quick_start::run(quick_start::Args::try_parse_from(flags.iter().chain(&["--plot", text(&plot)?]))?)?;
    let epochs = &r.history.epochs;
    assert!(r.history.stopped && epochs.len() < 100 && epochs[epochs.len() - 1].lr < epochs[0].lr, "{} epochs", epochs.len());
    assert!(r.test.accuracy.is_some_and(|share| share > 0.94), "{:?}", r.test.accuracy);
    assert_eq!((r.test.loss, &r.test.outputs), (r.loaded.loss, &r.loaded.outputs));
    assert_eq!(fs::read_to_string(log)?.lines().count(), epochs.len() + 1);
    assert_eq!(curves(&fs::read_to_string(plot)?)?[1].len(), epochs.len());
    refused(quick_start::run, &["--device", "cpu", "--save", "no-such-folder/a"], &["no-such-folder"])
}

fn transferred(on: On) -> Check {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("digits.safetensors");
    let flags = ["--device", on.name(), "--kernels", "expected", "--save", text(&path)?];
    let r = transfer::run(transfer::Args::try_parse_from(["transfer"].iter().chain(&flags))?)?;
    assert!(r.digits > 0.95 && r.frozen > r.scratch + 0.02 && r.tuned > r.scratch, "{r:?}");
    assert!(r.frozen > 0.9 && r.scratch > 0.7, "{r:?}");
    refused(transfer::run, &["--device", "cpu", "--shots", "1000"], &["--shots 1000"])
}

fn halves() -> Check {
    for model in ["attention", "lstm"] {
        let r = verses::run(verses::Args::try_parse_from(["verses", "--device", "cpu", "--epochs", "8", "--model", model])?)?;
        assert!(r.accuracy > r.baseline + 0.15 && r.baseline < 0.6, "{model}: {} beside {}", r.accuracy, r.baseline);
        let (first, last) = held_out(&r.history)?;
        assert!(last < 0.9 * first, "{model}: {first} {last}");
    }
    Ok(())
}

const WORDS: [[&str; 4]; 2] = [["cat", "dog", "bird", "fish"], ["sees", "hears", "finds", "likes"]];

/// Sentences of three random words.
fn write_sentences(path: &Path) -> Check {
    let mut random = Stream::new(1, "sentences");
    let mut word = |k: usize| WORDS[k][random.random_range(0..4)];
    let text: String = (0..400).map(|_| format!("the {} {} the {}. ", word(0), word(1), word(0))).collect();
    Ok(fs::write(path, text)?)
}

const SMALL: [&str; 10] = ["--window", "16", "--width", "32", "--heads", "2", "--layers", "1", "--prompt", "the "];

/// Flags and their values, with `more` in place of those of the same names: clap takes each once.
fn with<'a>(flags: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let kept = flags.chunks(2).filter(|pair| more.iter().step_by(2).all(|flag| *flag != pair[0]));
    kept.flatten().chain(more).copied().collect()
}

fn write_more(flags: &[&str]) -> Any<char_lm::Report> {
    char_lm::run(char_lm::Args::try_parse_from(["char_lm"].iter().chain(flags))?)
}

fn writer() -> Check {
    let dir = tempfile::tempdir()?;
    let (file, plot) = (dir.path().join("text.txt"), dir.path().join("curves.svg"));
    write_sentences(&file)?;
    let flags = with(&SMALL, &["--device", "cpu", "--text", text(&file)?, "--batch", "8", "--epochs", "8", "--length", "100"]);
    let run = |more: &[&str]| write_more(&with(&flags, more));
    let r = run(&["--temperature", "0.3", "--plot", text(&plot)?])?;
    // Which of four words comes is chance: ln 4 nats three times in a sentence of some 24 characters, 0.17 a character.
    let (first, last) = held_out(&r.history)?;
    assert!(last < first && last < 0.2 * r.baseline, "{first} {last}, by frequencies {}", r.baseline);
    assert!((2.5..3.1).contains(&r.baseline), "{}", r.baseline);
    let points: Vec<usize> = curves(&fs::read_to_string(&plot)?)?.iter().map(Vec::len).collect();
    let steps = r.history.epochs[0].losses.len() * 8;
    assert_eq!(points, [steps, 8, 8, 2, 8, 8]);

    // It writes on beyond its window, and in words: the last one may not be complete.
    assert!(r.written.starts_with("the ") && r.written.chars().count() == 104, "{}", r.written);
    let (whole, _) = r.written.rsplit_once(' ').ok_or("one word")?;
    let known = |w: &str| w == "the" || WORDS.concat().contains(&w);
    let words: Vec<&str> = whole.split(' ').map(|w| w.trim_end_matches('.')).collect();
    assert!(words.iter().filter(|w| known(w)).count() * 10 >= words.len() * 9, "{}", r.written);
    let again = |seed: &str| run(&["--epochs", "1", "--seed", seed]).map(|r| r.written);
    assert_eq!(again("1")?, again("1")?);
    assert_ne!(again("1")?, again("2")?);

    let file = text(&file)?;
    for (more, parts) in [
        (&["--prompt", "the Zoo"][..], &["'Z'", "not among"][..]),
        (&["--prompt", ""], &["--prompt is empty"]),
        (&["--temperature", "0"], &["--temperature is 0", "above 0"]),
        (&["--temperature", "NaN"], &["--temperature is NaN"]),
        (&["--heads", "3"], &["--width 32", "--heads 3"]),
        (&["--window", "5000"], &["window of 5000"]),
        (&["--dropout", "1.5"], &["dropout", "p = 1.5"]),
        (&["--lr", "-1"], &["AdamW", "learning rate"]),
    ] {
        refused(char_lm::run, &with(&flags, more), parts)?;
    }
    refused(char_lm::run, &["--device", "cpu", "--text", "no-such-text"], &["no-such-text"])?;
    fs::write(file, [0xff, 0xfe])?;
    refused(char_lm::run, &["--device", "cpu", "--text", file], &["text.txt", "UTF-8"])?;
    fs::write(file, "")?;
    refused(char_lm::run, &["--device", "cpu", "--text", file], &["no character"])
}

fn writer_on_both() -> Check {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("text.txt");
    write_sentences(&file)?;
    let epoch = |device: &str| -> Any<f64> {
        let flags = ["--device", device, "--kernels", "expected", "--text", text(&file)?, "--epochs", "1", "--length", "2"];
        Ok(write_more(&with(&SMALL, &flags))?.history.epochs[0].loss)
    };
    let (cpu, gpu) = (epoch("cpu")?, epoch("gpu")?);
    assert!((cpu - gpu).abs() <= 1e-3 * cpu, "{cpu} {gpu}");
    Ok(())
}
