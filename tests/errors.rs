//! Bad input gives a typed error before any step runs. The error names the op, the shapes and the line, or the row, the limit or
//! the file. No mistake of a user makes the library panic.

#[path = "errors/any_batch.rs"]
mod any_batch;
mod common;
#[path = "errors/graphs.rs"]
mod graphs;
#[path = "errors/inputs.rs"]
mod inputs;
#[path = "errors/limits.rs"]
mod limits;
#[path = "errors/optimizers.rs"]
mod optimizers;
#[path = "errors/own_ops.rs"]
mod own_ops;
#[path = "errors/params.rs"]
mod params;
#[path = "errors/places.rs"]
mod places;

use common::{BOTH, Check, On, Suite};
use downhill::{Device, Error, Graph, Host, Trainer, init::Init, layers::Linear, optim::Sgd};

fn main() {
    let mut suite = Suite::new();
    for (name, check) in [
        ("mistakes in a graph", graphs::mistakes as fn() -> Check),
        ("the line of every method", places::every_method),
        ("settings of ops and losses", graphs::settings),
        ("sizes", graphs::sizes),
        ("tensors of different graphs", graphs::mixed),
        ("gradients", graphs::gradients),
        ("gradients of an op of your own", own_ops::gradients),
        ("shapes of an op of your own", own_ops::shapes),
        ("models for any batch size", any_batch::check),
        ("adapters", adapters),
        ("optimizers", optimizers::optimizers),
        ("hosts that lie", inputs::lying_hosts),
    ] {
        suite.test(name, check);
    }
    suite.each(&BOTH, "constants that are not finite", not_finite);
    suite.each(&BOTH, "inputs", inputs::inputs);
    suite.each(&BOTH, "a batch size that was chosen", any_batch::chosen);
    suite.each(&BOTH, "labels", inputs::labels);
    suite.each(&BOTH, "losses of a trainer", inputs::trainer_losses);
    suite.each(&BOTH, "batch sizes and data", inputs::batches);
    suite.each(&BOTH, "data that is not finite", inputs::data_not_finite);
    suite.each(&BOTH, "names of parameters", params::parameter_names);
    suite.each(&BOTH, "parameters and files", params::parameters);
    suite.each(&BOTH, "checkpoints", params::checkpoints);
    suite.each(&BOTH, "odd graphs that work", odd);
    suite.each(&[On::Small], "limits", limits::limits);
    suite.each(&[On::Pieces], "buffers of training", limits::training_limits);
    suite.run()
}

/// The error must be there, and start and go on like this.
fn expect(what: &str, error: Option<Error>, parts: &[&str]) -> Check {
    let Some(error) = error else { return Err(format!("{what}: no error").into()) };
    let text = error.to_string();
    match parts.iter().enumerate().find(|&(i, part)| if i == 0 { !text.starts_with(part) } else { !text.contains(part) }) {
        Some((_, part)) => Err(format!("{what}: `{text}` has no `{part}`").into()),
        None => Ok(()),
    }
}

fn adapters() -> Check {
    let names: Vec<String> = Device::list().iter().map(|a| a.name.clone()).collect();
    let mut parts = vec!["no GPU adapter with `no such card` in its name; adapters here: "];
    parts.extend(names.iter().map(String::as_str));
    let error = Device::named("no such card").err();
    assert!(matches!(error, Some(Error::NoAdapter { .. })));
    expect("named", error, &parts)?;
    expect("parse", Device::parse("no such card").err(), &parts)?;
    assert!(Device::best().is_ok() && Device::parse("cpu").is_ok());
    Ok(())
}

/// NaN and infinity as numbers in a graph are legal, and mean the same everywhere.
fn not_finite(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([3]);
    let outputs =
        [x.maximum(f32::NEG_INFINITY), x.minimum(f32::INFINITY), x * f32::INFINITY, g.full([3], f32::NAN) + x, x.clamp(2.0, -2.0)];
    let y = device.compile(&outputs)?.run(&[Host::new([3], vec![-1.0, 1.0, 3.0])])?;
    assert_eq!((y[0].f(), y[1].f()), (&[-1.0, 1.0, 3.0][..], &[-1.0, 1.0, 3.0][..]));
    assert_eq!(y[2].f(), &[f32::NEG_INFINITY, f32::INFINITY, f32::INFINITY]);
    assert!(y[3].f().iter().all(|x| x.is_nan()));
    assert!(y[4].f().iter().all(|x| x.abs() == 2.0), "{:?}", y[4].f());
    Ok(())
}

/// Graphs that are strange and right.
fn odd(device: &Device) -> Check {
    // The loss is the parameter; a parameter that nothing uses; the same tensor twice; outputs that no op makes.
    let g = Graph::training();
    let (w, unused) = (g.param("w", [1], Init::Constant(2.0)), g.param("unused", [3], Init::Ones));
    let mut trainer = Trainer::new(device, w, Sgd::new(0.5))?;
    trainer.step(&[])?;
    trainer.step(&[])?;
    assert_eq!((trainer.loss()?, trainer.params().get("w")?.f()), (1.5, &[1.0][..]));
    assert_eq!(trainer.params().get("unused")?.f(), [1.0; 3]);
    let (x, c) = (g.input([2]), g.constant(Host::new([2], vec![3.0, 4.0])));
    let same = x.reshape([2, 1]).reshape([2]);
    let out = device
        .compile(&[x, x, c, unused, same, w, g.labels([2])])?
        .run(&[Host::new([2], vec![5.0, 6.0]), Host::labels([2], vec![7, 8])])?;
    assert_eq!((out[0].f(), out[1].f(), out[2].f(), out[3].f()), (&[5.0, 6.0][..], &[5.0, 6.0][..], &[3.0, 4.0][..], &[1.0; 3][..]));
    assert_eq!((out[4].f(), out[5].f(), out[6].u()), (&[5.0, 6.0][..], &[2.0][..], &[7, 8][..]));
    // A loss that no parameter moves trains nothing, and that is said.
    let g = Graph::training();
    let _ = g.param("w", [2], Init::Ones);
    let error = Trainer::new(device, g.input([2]).sum_all(), Sgd::new(0.5)).err();
    expect("no parameter", error, &["loss: []: it depends on no parameter (w)", "(tests/errors.rs:"])?;
    // A parameter twice in one sum; a gradient that is a constant; one element; a layer without a bias.
    let g = Graph::training();
    let w = g.param("w", [2], Init::Ones);
    let mut trainer = Trainer::new(device, (w + w + w * 1.0).sum_all() + g.scalar(1.0), Sgd::new(0.125))?;
    trainer.step(&[])?;
    assert_eq!((trainer.loss()?, trainer.params().get("w")?.f()), (7.0, &[0.625, 0.625][..]));
    let g = Graph::training();
    let y = g.input([1, 1]).linear_with("fc", 1, Linear { no_bias: true, weight: Some(Init::Ones), ..Linear::default() }).mean_all();
    let mut trainer = Trainer::new(device, y, Sgd::new(0.5))?;
    trainer.step(&[Host::new([1, 1], vec![3.0])])?;
    assert_eq!((trainer.loss()?, trainer.params().get("fc.weight")?.f()), (3.0, &[-0.5][..]));
    // More steps than the ring of losses holds, unread; a graph of many small nodes.
    let g = Graph::training();
    let w = g.param("w", [1], Init::Zeros);
    let mut trainer = Trainer::new(device, (w - g.input([1])).square().sum_all(), Sgd::new(0.01))?;
    for k in 0..2500 {
        trainer.step(&[Host::new([1], vec![(k % 7) as f32])])?;
    }
    let reports = trainer.take_reports()?;
    assert_eq!(reports.len(), 2500);
    let mut w = 0.0;
    for (k, report) in reports.iter().enumerate() {
        let d = w - (k % 7) as f64;
        assert!(report.step == k as u64 && (f64::from(report.loss) - d * d).abs() < 1e-4 * (1.0 + d * d), "{report:?}: not {}", d * d);
        w -= 0.02 * d;
    }
    let g = Graph::training();
    let w = g.param("w", [3], Init::Ones);
    let deep = (0..600).fold(w, |t, k| if k % 3 == 0 { t.sin() } else { t * 1.01 + w * 0.001 });
    let mut trainer = Trainer::new(device, deep.square().sum_all(), Sgd::new(0.01))?;
    trainer.step(&[])?;
    assert!(trainer.loss()?.is_finite());
    Ok(())
}
