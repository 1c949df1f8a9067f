//! Tests whether a device computes correctly. It compares every kernel of every op, forward and for each gradient, and every
//! optimizer's update with results in `f64`. It is meant for users, whose drivers nobody has tested before.
//!
//! ```
//! use downhill::{Device, selftest};
//! let options = selftest::Options { only: vec!["softmax".into()], ..selftest::Options::quick() };
//! let report = selftest::run(&Device::cpu(), &options)?;
//! println!("{report}");
//! assert!(report.passed());
//! # Ok::<(), downhill::Error>(())
//! ```
//!
//! This crate's own tests use the same rules. [`testing::distance`] defines the unit of the errors and the tolerance. A
//! kernel is also wrong if it leaves an element unwritten, writes past an end, or gives other bits in a second run. A case
//! that the device cannot store or bind is not a failure. The report counts it as not run.
//!
//! In the source of this crate, `cargo run --release --example selftest` tests every device of the machine.

mod report;

pub use report::{Computed, Failure, Report, Row};

use crate::{
    device::Device,
    error::{Error, Result},
    graph::{Graph, Tensor},
    host::Host,
    init::Init,
    ops::{self, Case, Fill},
    optim::{self, Hyper, Optimizer, Settings},
    params::Status,
    shape::Shape,
    testing::{self, Checked, Subject},
    train::Trainer,
};
use std::{collections::HashSet, time::Instant};

/// The choice of tests. `Options::default()` selects everything.
#[derive(Clone)]
pub struct Options<'a> {
    /// The names of the ops and optimizers to test (the names of their files). An empty list selects all of them.
    pub only: Vec<String>,
    /// The names of ops and optimizers that are left out.
    pub except: Vec<String>,
    /// The largest number of elements. Cases with a larger tensor are skipped.
    pub max_elements: usize,
    /// Your own ops, which are tested too: [`OpDef::NAME`](ops::OpDef::NAME) and [`OpDef::cases`](ops::OpDef::cases).
    pub own: Vec<(&'static str, Vec<Case>)>,
    /// A function that is called before each test. If the driver crashes or hangs, the last call names the test that did it.
    pub progress: Option<&'a dyn Fn(&Next)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { only: Vec::new(), except: Vec::new(), max_elements: usize::MAX, own: Vec::new(), progress: None }
    }
}

impl Options<'_> {
    /// Skips the large cases, most of which test the folding of long dispatches. The test then takes a few seconds. This
    /// suits a program that tests the device at its start.
    pub fn quick() -> Self {
        Options { max_elements: 4096, ..Options::default() }
    }
}

/// The next test: a kernel and a case, forward and backward.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// The name of the op or the optimizer.
    pub op: &'a str,
    /// The name of the kernel.
    pub kernel: &'a str,
    /// The name of the case.
    pub case: &'a str,
    /// The number of the case among all cases, counted from 0.
    pub number: usize,
    /// The number of all cases.
    pub of: usize,
}

/// Tests `device`. The function blocks: it compiles every kernel and waits for each result.
///
/// # Errors
/// [`Error::Argument`] if [`only`](Options::only) or [`except`](Options::except) contains a name that is neither an op nor an
/// optimizer. Everything that is wrong with the device is in the report instead.
pub fn run(device: &Device, options: &Options) -> Result<Report> {
    let ops: Vec<(&str, Vec<Case>)> = ops::all().into_iter().chain(options.own.iter().cloned()).collect();
    let optimizers = optim::all();
    let mut names: Vec<&str> = ops.iter().map(|op| op.0).chain(optimizers.iter().map(Optimizer::name)).collect();
    let mut known = HashSet::new();
    names.retain(|name| known.insert(*name));
    if let Some(unknown) = options.only.iter().chain(&options.except).find(|name| !names.contains(&name.as_str())) {
        return Err(Error::argument("selftest", format!("there is no `{unknown}`; there are {}", names.join(", "))));
    }
    let has = |names: &[String], name: &str| names.iter().any(|one| one == name);
    let wanted = |name: &str| (options.only.is_empty() || has(&options.only, name)) && !has(&options.except, name);
    let fits = |case: &Case| largest(case) <= options.max_elements;
    let ops: Vec<(&str, Vec<Case>)> =
        ops.into_iter().filter(|op| wanted(op.0)).map(|(name, cases)| (name, cases.into_iter().filter(fits).collect::<Vec<_>>())).collect();
    let optimizers: Vec<Optimizer> = optimizers.into_iter().filter(|o| wanted(o.name())).collect();

    let (start, of) = (Instant::now(), ops.iter().map(|op| op.1.len()).sum::<usize>() + optimizers.len());
    let mut report = Report::new(device);
    let mut number = 0;
    let tell = |op: &str, kernel: &str, case: &str, number: usize| {
        if let Some(progress) = options.progress {
            progress(&Next { op, kernel, case, number, of });
        }
    };
    for (op, cases) in &ops {
        for case in cases {
            let g = Graph::training();
            match Subject::new(&g, case, device) {
                Ok(subject) => {
                    for (candidate, kernel) in subject.kernels.iter().enumerate() {
                        tell(op, kernel, &case.name, number);
                        let gradients = subject.grads.iter().map(|&i| Computed::Gradient(i));
                        let directions: Vec<Computed> = std::iter::once(Computed::Forward).chain(gradients).collect();
                        report.add(op, kernel, &case.name, &directions, subject.measure(candidate, device));
                    }
                }
                // Only a case of the user's own op can fail to fit its op.
                Err(why) => report.fail(op, "", Computed::Forward, &case.name, why),
            }
            number += 1;
            if device.as_gpu().is_some_and(|gpu| report.lost(gpu.lost())) {
                return Ok(report.finish(start.elapsed()));
            }
        }
    }
    let kernel = if device.as_gpu().is_some() { "apply" } else { "cpu" };
    for (i, optimizer) in optimizers.iter().enumerate() {
        let before = optimizers[..i].iter().filter(|o| o.name() == optimizer.name()).count();
        let case = format!("options {before}");
        tell(optimizer.name(), kernel, &case, number);
        report.add(optimizer.name(), kernel, &case, &[Computed::Update], update(device, optimizer).map(|checked| vec![checked]));
        number += 1;
        if device.as_gpu().is_some_and(|gpu| report.lost(gpu.lost())) {
            break;
        }
    }
    Ok(report.finish(start.elapsed()))
}

/// Returns the number of elements of a case's largest tensor.
fn largest(case: &Case) -> usize {
    let shapes: Vec<_> = case.inputs.iter().map(|i| i.0).collect();
    let y = case.op.shape(&shapes).ok();
    shapes.into_iter().chain(y).map(|s| s.elements()).max().unwrap_or(0)
}

/// The number of rounded operations on one parameter element in the steps of [`update`].
const ROUNDINGS: usize = 16;
/// The number of steps that are compared.
const STEPS: u64 = 3;

/// Runs some steps of an optimizer with clipped gradients on a matrix, which decays, and a vector, which does not. Then runs
/// a step with a gradient that is not finite. That step must leave the parameters unchanged.
fn update(device: &Device, optimizer: &Optimizer) -> Result<Checked> {
    let optimizer = optimizer.clone().clip_norm(10.0);
    let g = Graph::training();
    // The parameters are small, so that each update changes them noticeably.
    let init = Init::Uniform { low: -0.02, high: 0.02 };
    let w = [g.param("matrix", [61, 53], init.clone()), g.param("vector", [131], init)];
    let (scale, x) = (g.input(Shape::SCALAR), w.map(|w| g.input_of(w.shape())));
    // The gradient of w is x · scale². With a large scale it exceeds the range of a float.
    let term = |k: usize| (w[k] * (x[k] * scale * scale)).sum_all();
    let loss: Tensor = term(0) + term(1);
    let batch = |t: u64, scale: f32| -> Vec<Host<f32>> {
        let values = x.iter().zip(0..).map(|(x, k)| testing::fill(x.shape(), &Fill::Range(-1.0, 1.0), 10 * t + k));
        std::iter::once(Host::new(Shape::SCALAR, vec![scale])).chain(values).collect()
    };
    let flat =
        |trainer: &Trainer| -> Result<Vec<f32>> { Ok(trainer.params().all()?.iter().flat_map(|(_, value)| value.f().to_vec()).collect()) };
    let train = || -> Result<(Vec<f32>, bool)> {
        let mut trainer = Trainer::new(device, loss, optimizer.clone())?;
        for t in 1..=STEPS {
            trainer.step(&batch(t, 1.0))?;
        }
        let weights = flat(&trainer)?;
        trainer.step(&batch(4, 1e25))?;
        trainer.step(&batch(5, 1.0))?;
        let halted = match trainer.loss() {
            Err(Error::Diverged { step, .. }) => step == STEPS,
            Err(error) => return Err(error),
            Ok(_) => false,
        };
        let kept = flat(&trainer)?.iter().zip(&weights).all(|(a, b)| a.to_bits() == b.to_bits());
        Ok((weights, halted && kept))
    };
    let ((got, held), (again, _)) = (train()?, train()?);

    let params = g.inner.borrow().params.clone();
    let groups = optimizer.groups(&params)?;
    let mut want = Vec::new();
    for (k, param) in params.iter().enumerate() {
        let mut w: Vec<f64> = param.init.values(param.shape, 0, &param.name)?.into_iter().map(f64::from).collect();
        let mut states: Vec<Vec<f64>> = optimizer.states().iter().map(|s| vec![f64::from(s.start); w.len()]).collect();
        for t in 1..=STEPS {
            let grads: Vec<Vec<f64>> = batch(t, 1.0)[1..].iter().map(Host::to_f64).collect();
            let norm = grads.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            let clip = optimizer.clip().norm.map_or(1.0, |max| (f64::from(max) / (norm + 1e-6)).min(1.0));
            let Status::Trained { group } = groups.statuses[k] else { continue };
            let hyper: Vec<Hyper> = optimizer.hyper(t, &groups.settings).collect();
            let mut states: Vec<&mut [f64]> = states.iter_mut().map(|s| &mut s[..]).collect();
            let n = w.len();
            optimizer.update_f64(Settings { hyper: &hyper, runs: &[(n, group)] }, clip, &mut w, &grads[k], &mut states);
        }
        want.extend(w);
    }
    let mut checked = Checked::new(&got.iter().copied().map(f64::from).collect::<Vec<_>>(), &want, ROUNDINGS);
    if got.iter().zip(&again).any(|(a, b)| a.to_bits() != b.to_bits()) {
        checked.wrong = Some("a second run differs".into());
    } else if !held {
        checked.wrong = Some("a gradient that is not finite did not stop the training, or changed the weights".into());
    }
    Ok(checked)
}
