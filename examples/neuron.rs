//! All derivatives of one neuron. The neuron is a = σ(w·x + b) with binary cross-entropy. The example prints the library's numbers beside the
//! numbers of the formulas.
//!
//! By the chain rule, ∂L/∂z = ∂L/∂a · ∂a/∂z. With a sigmoid and this loss, the product is simple:
//!
//! ```text
//! z = w·x + b      a = σ(z) = 1 / (1 + e⁻ᶻ)      L = −(y ln a + (1 − y) ln(1 − a))
//!
//! ∂L/∂a = (a − y) / (a (1 − a))                  ∂L/∂w = ∂L/∂z · x = (a − y) x
//! ∂a/∂z = a (1 − a)                              ∂L/∂b = ∂L/∂z     =  a − y
//! ∂L/∂z = a − y                                  w ← w − η ∂L/∂w,  b ← b − η ∂L/∂b
//! ```
//!
//! The library does not contain these formulas. It differentiates the graph. The right column is computed by the formulas in `f64`, from the
//! start to the last step, independently of the left column.

mod common;

use clap::Parser;
use common::plot;
use downhill::{
    Device, Graph, Host, Result, Trainer,
    init::Init,
    layers::Linear,
    optim::Sgd,
    plot::{Panel, Series},
};
use std::{error::Error, process::ExitCode, sync::Arc};

const X: [f64; 2] = [1.5, -2.0];
const Y: f64 = 1.0;
const W: [f64; 2] = [0.5, 0.75];
const B: f64 = 0.25;
const LEARNING_RATE: f64 = 0.5;

/// The names of the numbers of a step, in the order of printing.
pub const NAMES: [&str; 12] = ["z", "a", "L", "∂L/∂a", "∂a/∂z", "∂L/∂z", "∂L/∂w₁", "∂L/∂w₂", "∂L/∂b", "new w₁", "new w₂", "new b"];

/// The numbers of one step, named by [`NAMES`].
pub struct Step {
    pub computed: [f64; 12],
    pub by_hand: [f64; 12],
}

/// Trains the neuron on its one sample.
pub fn train(device: &Device, steps: usize) -> Result<Vec<Step>> {
    let g = Graph::training();
    let (x, y) = (g.input([1, 2]), g.input([1, 1]));
    let start = |v: &[f64]| Some(Init::Values(Arc::new(v.iter().map(|&v| v as f32).collect())));
    let z = x.linear_with("neuron", 1, Linear { weight: start(&W), bias: start(&[B]), ..Linear::default() });
    let a = z.sigmoid();
    let loss = a.bce(y);
    let mut trainer = Trainer::new(device, loss, Sgd::new(LEARNING_RATE))?;

    // Any tensor of the graph can be computed, and differentiated with respect to any other tensor, not only parameters.
    let params = g.param_tensors();
    let by = loss.grad(&[a, z, params[0], params[1]]);
    let a_by_z = a.grad(&[z])[0];
    let mut look = trainer.compile(&[z, a, loss, by[0], a_by_z, by[1], by[2], by[3]])?;

    let sample = [Host::new([1, 2], X.map(|v| v as f32).to_vec()), Host::new([1, 1], vec![Y as f32])];
    let (mut w, mut b) = (W, B);
    let mut done = Vec::new();
    for _ in 0..steps {
        let before = look.run(&sample)?;
        trainer.step(&sample)?;
        let after = [trainer.params().get("neuron.weight")?, trainer.params().get("neuron.bias")?];
        let mut computed = [0.0; 12];
        let numbers = before.iter().chain(&after).flat_map(|t| t.to_f64());
        computed.iter_mut().zip(numbers).for_each(|(to, from)| *to = from);
        done.push(Step { computed, by_hand: step_by_hand(&mut w, &mut b) });
    }
    Ok(done)
}

/// Computes the numbers of a step by the formulas at the top of this file.
fn step_by_hand(w: &mut [f64; 2], b: &mut f64) -> [f64; 12] {
    let z = w[0] * X[0] + w[1] * X[1] + *b;
    let a = 1.0 / (1.0 + (-z).exp());
    let loss = -(Y * a.ln() + (1.0 - Y) * (1.0 - a).ln());
    let dw = [(a - Y) * X[0], (a - Y) * X[1]];
    let db = a - Y;
    *w = [w[0] - LEARNING_RATE * dw[0], w[1] - LEARNING_RATE * dw[1]];
    *b -= LEARNING_RATE * db;
    [z, a, loss, (a - Y) / (a * (1.0 - a)), a * (1.0 - a), a - Y, dw[0], dw[1], db, w[0], w[1], *b]
}

/// Trains one sigmoid neuron with binary cross-entropy and prints every derivative beside its closed form.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: common::DeviceArgs,
    #[command(flatten)]
    plot: plot::PlotArgs,
    /// The number of steps of gradient descent to show
    #[arg(long, default_value_t = 4)]
    steps: usize,
}

#[allow(dead_code)] // The tests call `train`.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let steps = train(&args.device.open()?, args.steps)?;
    println!("x = {X:?}, y = {Y}; start: w = {W:?}, b = {B}; learning rate {LEARNING_RATE}");
    for (i, step) in steps.iter().enumerate() {
        println!("\nstep {:<6} {:>12} {:>12}", i + 1, "computed", "by hand");
        for (name, (computed, by_hand)) in NAMES.iter().zip(step.computed.iter().zip(&step.by_hand)) {
            println!("{name:<11} {computed:>12.7} {by_hand:>12.7}");
        }
    }
    args.plot.draw("one sigmoid neuron", || {
        let curve = |name, i: usize| Series::steps(name, steps.iter().map(|s| s.computed[i]));
        let panel = |title: &str, y, series| Panel { title: title.into(), x: "step", y, series };
        vec![
            panel("loss L", "L", vec![curve("L", 2)]),
            panel("weights", "after the step", vec![curve("w₁", 9), curve("w₂", 10), curve("b", 11)]),
        ]
    })
}
