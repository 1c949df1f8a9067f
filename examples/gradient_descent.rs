//! Gradient descent on functions of two numbers. There is no data and no network, only w ← w − η ∇f(w).
//!
//! ```text
//! bowl        f = ½ (x² + 10 y²)                     minimum 0 at (0, 0)
//! Rosenbrock  f = (1 − x)² + 100 (y − x²)²           minimum 0 at (1, 1), along a flat, bent valley
//! Himmelblau  f = (x² + y − 11)² + (x + y² − 7)²     four minima, all 0
//! ```
//!
//! At a minimum of f, ∇f = 0. This is the first-order condition. So descent stops when ‖∇f‖ is less than a tolerance. The rate η decides how
//! fast descent gets there, and whether it gets there at all. On the bowl, each step multiplies x by 1 − η and y by 1 − 10 η. After k steps,
//! x = (1 − η)ᵏ x₀ and y = (1 − 10 η)ᵏ y₀. So η = 2/11 is the best rate. For η ≥ 2/10, y does not shrink.

mod common;

use clap::Parser;
use common::plot;
use downhill::{
    Device, Error, Graph, Result, Tensor, Trainer,
    init::Init,
    optim::{Optimizer, Sgd},
    plot::{Panel, Series},
};
use std::process::ExitCode;

/// A function of x and y, which is applied to each element. A tensor of n elements stands for n points.
pub type Function = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

pub fn bowl<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    (x.square() + y.square() * 10.0) * 0.5
}
pub fn rosenbrock<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    (1.0 - x).square() + (y - x.square()).square() * 100.0
}
pub fn himmelblau<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    (x.square() + y - 11.0).square() + (x + y.square() - 7.0).square()
}

/// The minima of Himmelblau's function, to seven decimals. They are the roots of x² + y = 11, x + y² = 7.
pub const MINIMA: [[f64; 2]; 4] = [[3.0, 2.0], [-2.8051181, 3.1313125], [-3.7793103, -3.2831860], [3.5844283, -1.8481265]];

pub const BOWL_START: [f32; 2] = [10.0, 1.0];
/// The rates for the bowl: too small, good, best, the smallest that does not shrink y, too large.
pub const BOWL_RATES: [f64; 5] = [0.001, 0.1, 2.0 / 11.0, 0.2, 0.3];
pub const ROSENBROCK_START: [f32; 2] = [-1.2, 1.0];

/// The limits of a descent. It checks ∇f every `look` steps, because each check waits for the device. It ends after `steps` steps at the
/// latest.
#[derive(Clone, Copy)]
pub struct Limits {
    pub steps: u64,
    pub look: u64,
    pub tolerance: f64,
}
pub const BOWL: Limits = Limits { steps: 200, look: 10, tolerance: 1e-4 };
pub const ROSENBROCK: Limits = Limits { steps: 12_000, look: 250, tolerance: 1e-3 };
pub const HIMMELBLAU: Limits = Limits { steps: 500, look: 25, tolerance: 1e-3 };

/// The result of a descent.
#[derive(Debug)]
pub struct Descent {
    pub steps: u64,
    /// The number of steps and the sum of f over the points, at each check.
    pub curve: Vec<(u64, f64)>,
    /// x and y of each point.
    pub at: Vec<[f64; 2]>,
    /// f, summed over the points.
    pub f: f64,
    /// ‖∇f‖ over all points.
    pub gradient: f64,
    /// Whether ‖∇f‖ became less than the tolerance.
    pub stationary: bool,
    /// The error [`Error::Diverged`], if it ended the descent. The points are then the result of the last finite step.
    pub diverged: Option<Error>,
}

/// Descends from several points. `start` initialises their x and their y.
pub fn descend(device: &Device, f: Function, start: [Init; 2], points: usize, optimizer: Optimizer, limits: Limits) -> Result<Descent> {
    let g = Graph::training();
    let [x, y] = [("x", &start[0]), ("y", &start[1])].map(|(name, init)| g.param(name, [points], init.clone()));
    // Each term of the sum depends on one point only. So each point has the gradient of its own f, and the points are independent.
    let f = f(x, y).sum_all();
    let mut trainer = Trainer::new(device, f, optimizer)?;
    // This function computes f and ∇f at the current points, because it reads the trainer's weights.
    let gradient: Vec<Tensor> = f.grad(&[x, y]);
    let norm = (gradient[0].square().sum_all() + gradient[1].square().sum_all()).sqrt();
    let mut look = trainer.compile(&[f, norm, x, y])?;

    let (mut diverged, mut curve) = (None, Vec::new());
    loop {
        let now = look.run(&[])?.iter().map(|t| t.to_f64()).collect::<Vec<_>>();
        curve.push((trainer.steps(), now[0][0]));
        let stationary = now[1][0] < limits.tolerance;
        if stationary || diverged.is_some() || trainer.steps() >= limits.steps {
            let at = now[2].iter().zip(&now[3]).map(|(&x, &y)| [x, y]).collect();
            return Ok(Descent { steps: trainer.steps(), curve, at, f: now[0][0], gradient: now[1][0], stationary, diverged });
        }
        for _ in 0..limits.look {
            trainer.step(&[])?;
        }
        // A loss that is not finite is an error. The weights are then the weights after the last finite step.
        diverged = match trainer.loss() {
            Ok(_) => None,
            Err(error @ Error::Diverged { .. }) => Some(error),
            Err(error) => return Err(error),
        };
    }
}

/// Descends from one point.
pub fn descend_from(device: &Device, f: Function, start: [f32; 2], optimizer: impl Into<Optimizer>, limits: Limits) -> Result<Descent> {
    descend(device, f, start.map(Init::Constant), 1, optimizer.into(), limits)
}

/// Descends from random points in [−5, 5]², all at once.
pub fn descend_from_many(device: &Device, f: Function, points: usize, rate: f64, limits: Limits) -> Result<Descent> {
    let anywhere = Init::Uniform { low: -5.0, high: 5.0 };
    descend(device, f, [anywhere.clone(), anywhere], points, Sgd::new(rate).into(), limits)
}

/// Returns the number of the minimum in [`MINIMA`] that is nearest to a point, and its distance.
pub fn nearest(at: [f64; 2]) -> (usize, f64) {
    let far = MINIMA.map(|m| (m[0] - at[0]).hypot(m[1] - at[1]));
    (0..MINIMA.len()).map(|i| (i, far[i])).min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::NAN))
}

/// Formats a number, with an exponent only if it is very large or very small.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-4..1e6).contains(&x.abs()) { format!("{x:.6}") } else { format!("{x:.3e}") }
}

/// Prints a descent and returns its curve.
fn print(name: &str, d: &Descent) -> Series {
    let end = match &d.diverged {
        _ if d.stationary => "‖∇f‖ is below the tolerance".to_string(),
        Some(Error::Diverged { step, what, .. }) => format!("diverged: in step {step} the {what} is not finite"),
        Some(error) => error.to_string(),
        None => "out of steps".to_string(),
    };
    let [x, y, f, gradient] = [d.at[0][0], d.at[0][1], d.f, d.gradient].map(number);
    println!("  {name:<22} {:>6} {x:>12} {y:>12} {f:>12} {gradient:>12}  {end}", d.steps);
    Series::new(name, d.curve.iter().map(|&(step, f)| (step as f64, f)))
}

/// Runs gradient descent on functions of two numbers: rates that are too small, right and too large, stopping, and local minima.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: common::DeviceArgs,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

#[allow(dead_code)] // The tests call `descend`.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let device = args.device.open()?;
    let head = |title: &str| println!("\n{title}\n  {:<22} {:>6} {:>12} {:>12} {:>12} {:>12}", "", "steps", "x", "y", "f", "‖∇f‖");

    head(&format!("bowl, from {BOWL_START:?}, until ‖∇f‖ < {}:", BOWL.tolerance));
    let mut panels: Vec<Panel> = ["bowl", "Rosenbrock", "Himmelblau, 12 points"]
        .map(|title| Panel { title: title.into(), x: "step", y: "f", series: Vec::new() })
        .into();
    for rate in BOWL_RATES {
        let d = descend_from(&device, bowl, BOWL_START, Sgd::new(rate), BOWL)?;
        panels[0].series.push(print(&format!("rate {rate:.4}"), &d));
        let [x, y] = [(1.0, BOWL_START[0]), (10.0, BOWL_START[1])].map(|(c, w)| (1.0 - c * rate).powi(d.steps as i32) * f64::from(w));
        println!("  {:<22} {:>6} {:>12} {:>12}", "  by hand", d.steps, number(x), number(y));
    }

    let s = ROSENBROCK_START.map(f64::from);
    head(&format!("Rosenbrock, from {ROSENBROCK_START:?}, until ‖∇f‖ < {}:", ROSENBROCK.tolerance));
    print("start", &descend_from(&device, rosenbrock, ROSENBROCK_START, Sgd::new(1.0), Limits { steps: 0, ..ROSENBROCK })?);
    let gradient = [-2.0 * (1.0 - s[0]) - 400.0 * s[0] * (s[1] - s[0] * s[0]), 200.0 * (s[1] - s[0] * s[0])];
    let f = (1.0 - s[0]).powi(2) + 100.0 * (s[1] - s[0] * s[0]).powi(2);
    let [x, y, f, gradient] = [s[0], s[1], f, gradient[0].hypot(gradient[1])].map(number);
    println!("  {:<22} {:>6} {x:>12} {y:>12} {f:>12} {gradient:>12}", "  by hand", 0);
    for rate in [0.00001, 0.0015, 0.01] {
        let d = descend_from(&device, rosenbrock, ROSENBROCK_START, Sgd::new(rate), ROSENBROCK)?;
        panels[1].series.push(print(&format!("rate {rate}"), &d));
    }
    let d = descend_from(&device, rosenbrock, ROSENBROCK_START, Sgd::new(0.0005).momentum(0.95), ROSENBROCK)?;
    panels[1].series.push(print("rate 0.0005, momentum", &d));

    println!("\nHimmelblau, from 12 random points at once, rate 0.01:");
    let start = descend_from_many(&device, himmelblau, 12, 0.01, Limits { steps: 0, ..HIMMELBLAU })?;
    let end = descend_from_many(&device, himmelblau, 12, 0.01, HIMMELBLAU)?;
    for (from, to) in start.at.iter().zip(&end.at) {
        let (i, far) = nearest(*to);
        let [from, to, minimum] = [*from, *to, MINIMA[i]].map(|p| format!("({:9.6}, {:9.6})", p[0], p[1]));
        println!("  {from} → {to}   minimum {} is {minimum}, {far:.0e} away", i + 1);
    }
    println!("  after {} steps f = {:.1e} and ‖∇f‖ = {:.1e}, over all points", end.steps, end.f, end.gradient);
    panels[2].series.push(Series::new("rate 0.01", end.curve.iter().map(|&(step, f)| (step as f64, f))));
    args.plot.draw("gradient descent", || panels)
}
