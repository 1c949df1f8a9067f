//! Whether a device computes rightly: every kernel of every op, forward and each gradient, and every optimizer's update,
//! against the same in `f64`. For users, to whom a driver is as unknown as it is to us.
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
//! What counts as right is what counts in the tests of this crate: [`testing::distance`] has the unit of the errors and the
//! tolerance, and a kernel that leaves an element unwritten, writes past an end, or has other bits in a second run is
//! wrong however near it is. What a device cannot hold or bind is not a failure, and is reported as not run.
//!
//! In the source of this crate, `cargo run --release --example selftest` does it on every device of the machine.

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
use std::time::Instant;

/// What to test. `Options::default()` is everything.
#[derive(Clone)]
pub struct Options<'a> {
    /// Only ops and optimizers of these names (of their files); all of them where it is empty.
    pub only: Vec<String>,
    /// Leaves out the cases with a tensor of more elements than this.
    pub max_elements: usize,
    /// Ops of your own, tested too: [`OpDef::NAME`](ops::OpDef::NAME) and [`OpDef::cases`](ops::OpDef::cases).
    pub own: Vec<(&'static str, Vec<Case>)>,
    /// Is told what comes next, before it does: a driver that crashes or hangs does so in what was told last.
    pub progress: Option<&'a dyn Fn(&Next)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options { only: Vec::new(), max_elements: usize::MAX, own: Vec::new(), progress: None }
    }
}

impl Options<'_> {
    /// Without the large cases, most of which are there for the folding of long dispatches: some seconds, for a program
    /// that wants to know when it starts.
    pub fn quick() -> Self {
        Options { max_elements: 4096, ..Options::default() }
    }
}

/// What comes next: a case of a kernel, forward and backward.
#[derive(Clone, Copy, Debug)]
pub struct Next<'a> {
    /// The op, or the optimizer.
    pub op: &'a str,
    /// The kernel's name.
    pub kernel: &'a str,
    /// The case's name.
    pub case: &'a str,
    /// Its number, from 0, of all cases.
    pub number: usize,
    /// All cases.
    pub of: usize,
}

/// Tests `device`. It blocks; every kernel is compiled, and each is waited for.
///
/// # Errors
/// [`Error::Argument`] where [`only`](Options::only) has a name that is no op's and no optimizer's. Everything that is
/// wrong with the device is in the report.
pub fn run(device: &Device, options: &Options) -> Result<Report> {
    let ops: Vec<(&str, Vec<Case>)> = ops::all().into_iter().chain(options.own.iter().cloned()).collect();
    let optimizers = optim::all();
    let mut names: Vec<&str> = ops.iter().map(|op| op.0).chain(optimizers.iter().map(Optimizer::name)).collect();
    names.dedup();
    if let Some(unknown) = options.only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Error::argument("selftest", format!("there is no `{unknown}`; there are {}", names.join(", "))));
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
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
                // A case that does not fit its op: of an op of the user's own.
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

/// Elements of a case's largest tensor.
fn largest(case: &Case) -> usize {
    let shapes: Vec<_> = case.inputs.iter().map(|i| i.0).collect();
    let y = case.op.shape(&shapes).ok();
    shapes.into_iter().chain(y).map(|s| s.elements()).max().unwrap_or(0)
}

/// Operations on one weight in the steps of [`update`], each of which rounds.
const ROUNDINGS: usize = 16;
/// Steps that are compared.
const STEPS: u64 = 3;

/// Some steps of a rule, of a matrix that decays and a vector that does not, with clipped gradients; then one with a gradient
/// that is not finite, which must leave the weights alone.
fn update(device: &Device, optimizer: &Optimizer) -> Result<Checked> {
    let optimizer = optimizer.clone().clip_norm(10.0);
    let g = Graph::training();
    // The weights are small, so that what a step adds to them counts.
    let init = Init::Uniform { low: -0.02, high: 0.02 };
    let w = [g.param("matrix", [61, 53], init.clone()), g.param("vector", [131], init)];
    let (scale, x) = (g.input(Shape::SCALAR), w.map(|w| g.input_of(w.shape())));
    // The gradient of w is x, or more than a float holds.
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
