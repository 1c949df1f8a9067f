//! A linear neuron learns prices from bills: y = w·x, without a bias, with identity activation and mean squared error.
//!
//! A meal consists of portions of fish, chips and ketchup. The bill shows only the total. The prices are 5, 2 and 1. Let there be n meals x
//! with totals t, and let E(w) = 1/n Σ (w·x − t)². Then
//!
//! ```text
//! ∂E/∂wⱼ = 2/n Σ (w·x − t) xⱼ          ΔE/Δwⱼ = (E(w + h eⱼ) − E(w)) / h = ∂E/∂wⱼ + h · 1/n Σ xⱼ²
//! ```
//!
//! The second formula describes a change of one weight by h. The quotient is the gradient plus an error that grows with h, because E is a
//! parabola. In `f32`, a second error grows as h shrinks: E has a relative error of about ε = 2⁻²⁴, so the quotient has an error of about
//! ε·E/h. So h must be neither too large nor too small. The difference to both sides, (E(w + h) − E(w − h)) / 2h, does not have the first
//! error, because the chord of a parabola has the slope of the parabola at its middle. So a larger h is better there.

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

/// The portions of fish, chips and ketchup, and the bill. The last row is not used for training.
const MEALS: [([f32; 3], f32); 7] = [
    ([2.0, 0.0, 1.0], 11.0),
    ([0.0, 2.0, 3.0], 7.0),
    ([0.0, 1.0, 0.0], 2.0),
    ([1.0, 1.0, 0.0], 7.0),
    ([2.0, 2.0, 1.0], 15.0),
    ([1.0, 0.0, 1.0], 6.0),
    ([3.0, 1.0, 2.0], 19.0),
];
pub const UNSEEN: ([f32; 3], f32) = MEALS[SEEN];
const SEEN: usize = 6;
/// The price of delivery for each meal, which is the bias.
const DELIVERY: f32 = 3.0;
const START: [f32; 3] = [0.2, 1.4, 30.0];
/// The learning rate. Gradient descent on a parabola needs a rate less than 2/λ. λ is the largest eigenvalue of 2/n Σ x xᵀ, which is 7.6
/// here, and 9.3 with the bias. At the rate 0.15, the slowest direction, with eigenvalue 0.28, shrinks by 4 % in each step.
const RATE: f64 = 0.15;
const STEPS: usize = 500;
/// The relative rounding error of `f32`, which is half the distance between neighbouring numbers.
pub const EPSILON: f64 = f32::EPSILON as f64 / 2.0;

/// Returns the training meals. If `ones`, each has a fourth input of 1.
fn portions(ones: bool) -> Host {
    let rows: Vec<f32> = MEALS[..SEEN].iter().flat_map(|(x, _)| x.iter().copied().chain(ones.then_some(1.0))).collect();
    Host::new([SEEN, rows.len() / SEEN], rows)
}
fn bills(delivery: f32) -> Host {
    Host::new([SEEN, 1], MEALS[..SEEN].iter().map(|m| m.1 + delivery).collect())
}

/// ΔE/Δw of one weight for a change by `h`.
pub struct Nudge {
    pub h: f64,
    pub to_one_side: f64,
    pub to_both: f64,
    /// The value of `to_one_side` by the formula.
    pub by_hand: f64,
}

/// E at the start, its gradient, and the quotients for changes of the price of ketchup.
pub struct Start {
    pub loss: f64,
    pub loss_by_hand: f64,
    pub gradient: Vec<f64>,
    pub gradient_by_hand: [f64; 3],
    pub nudges: Vec<Nudge>,
}

pub fn start(device: &Device) -> Result<Start> {
    // Here E is a function of the weights. The weights are the graph's input, and the data is a constant.
    let g = Graph::training();
    let (x, t) = (g.constant(portions(false)), g.constant(bills(0.0)));
    let w = g.input([1, 3]);
    let loss = x.matmul_t(w, false, true).mse(t);
    let mut f = device.compile(&[loss, loss.grad(&[w])[0]])?;

    let at_start = f.run(&[Host::new([1, 3], START.to_vec())])?;
    let mut loss_at = |h: f64| -> Result<f64> {
        let w = vec![START[0], START[1], START[2] + h as f32];
        Ok(f.run(&[Host::new([1, 3], w)])?[0].to_f64()[0])
    };

    // The formulas at the top of this file, in f64.
    let meals = MEALS[..SEEN].iter().map(|(x, t)| (x.map(f64::from), f64::from(*t)));
    let n = SEEN as f64;
    let (mut loss_by_hand, mut gradient_by_hand, mut mean_square) = (0.0, [0.0; 3], 0.0);
    for (x, t) in meals {
        let error = (0..3).map(|j| f64::from(START[j]) * x[j]).sum::<f64>() - t;
        loss_by_hand += error * error / n;
        (0..3).for_each(|j| gradient_by_hand[j] += 2.0 / n * error * x[j]);
        mean_square += x[2] * x[2] / n;
    }
    let nudges = [0, 4, 8, 12, 16].map(|k| 0.5f64.powi(k)).into_iter().map(|h| {
        let (low, middle, high) = (loss_at(-h)?, loss_at(0.0)?, loss_at(h)?);
        let by_hand = gradient_by_hand[2] + h * mean_square;
        Ok(Nudge { h, to_one_side: (high - middle) / h, to_both: (high - low) / (2.0 * h), by_hand })
    });
    let nudges = nudges.collect::<Result<_>>()?;
    Ok(Start { loss: at_start[0].to_f64()[0], loss_by_hand, gradient: at_start[1].to_f64(), gradient_by_hand, nudges })
}

/// The kind of bias.
#[derive(Clone, Copy, PartialEq)]
pub enum Bias {
    None,
    /// The bias is a fourth weight, whose input is always 1.
    FourthInput,
    /// The bias is the bias parameter of the layer.
    OfLayer,
}

/// The result of training.
pub struct Trained {
    /// The weights. The bias comes last, if there is one.
    pub weights: Vec<f64>,
    /// E before each step.
    pub losses: Vec<f64>,
}

/// Trains from the weights (0.2, 1.4, 30). With a bias, the bills include delivery.
pub fn train(device: &Device, bias: Bias) -> Result<Trained> {
    let x = portions(bias == Bias::FourthInput);
    let t = bills(if bias == Bias::None { 0.0 } else { DELIVERY });
    let mut weights = START.to_vec();
    weights.extend((bias == Bias::FourthInput).then_some(0.0));

    let g = Graph::training();
    let layer = Linear { no_bias: bias != Bias::OfLayer, weight: Some(Init::Values(Arc::new(weights))), bias: Some(Init::Zeros) };
    let y = g.input(x.shape).linear_with("price", 1, layer).identity();
    let mut trainer = Trainer::new(device, y.mse(g.input(t.shape)), Sgd::new(RATE))?;
    for _ in 0..STEPS {
        trainer.step(&[x.clone(), t.clone()])?;
    }
    let losses = trainer.take_reports()?.iter().map(|r| f64::from(r.loss)).collect();
    Ok(Trained { weights: trainer.params().all()?.iter().flat_map(|(_, value)| value.to_f64()).collect(), losses })
}

/// Two linear layers, and the single layer that equals them.
pub struct Stack {
    /// W₂·(W₁·x) for every meal.
    pub two: Vec<f64>,
    /// (W₂·W₁)·x for every meal.
    pub one: Vec<f64>,
    /// W₂·W₁.
    pub product: Vec<f64>,
}

/// Shows that two linear layers without an activation between them equal one layer: W₂·(W₁·x) = (W₂·W₁)·x. By hand,
/// (2 1)·(2 0 1; 1 2 −1) = (4+1 0+2 2−1) = (5 2 1).
pub fn stack(device: &Device) -> Result<Stack> {
    let g = Graph::inference();
    let x = g.constant(portions(false));
    let w1 = g.constant(Host::new([2, 3], vec![2.0, 0.0, 1.0, 1.0, 2.0, -1.0]));
    let w2 = g.constant(Host::new([1, 2], vec![2.0, 1.0]));
    let product = w2.matmul(w1);
    let two = x.matmul_t(w1, false, true).matmul_t(w2, false, true);
    let out = device.compile(&[two, x.matmul_t(product, false, true), product])?.run(&[])?;
    Ok(Stack { two: out[0].to_f64(), one: out[1].to_f64(), product: out[2].to_f64() })
}

/// Learns prices from bills: linear regression by gradient descent.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: common::DeviceArgs,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

#[allow(dead_code)] // The tests call the functions above.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let device = args.device.open()?;

    let s = start(&device)?;
    println!("start: w = {START:?}");
    println!("  E      {:>10.4}   by hand {:>10.4}", s.loss, s.loss_by_hand);
    println!("  ∂E/∂w  {:.4?}   by hand {:.4?}", s.gradient, s.gradient_by_hand);
    println!("nudging the price of ketchup by h:");
    println!("  {:>12} {:>12} {:>12} {:>12} {:>12}", "h", "one side", "its formula", "both sides", "ε·E/h");
    for n in &s.nudges {
        println!("  {:>12.8} {:>12.4} {:>12.4} {:>12.4} {:>12.4}", n.h, n.to_one_side, n.by_hand, n.to_both, EPSILON * s.loss / n.h);
    }

    let trained = [Bias::None, Bias::FourthInput, Bias::OfLayer].map(|bias| train(&device, bias));
    let [none, fourth, own] = trained;
    let (none, fourth, own) = (none?, fourth?, own?);
    let w = &none.weights;
    println!("after {STEPS} steps: w = {w:.5?}   true prices [5, 2, 1]");
    let predicted: f64 = w.iter().zip(UNSEEN.0).map(|(w, x)| w * f64::from(x)).sum();
    println!("the unseen meal {:?}: {predicted:.4}   true bill {}", UNSEEN.0, UNSEEN.1);

    println!("delivered for {DELIVERY} more, the bias as a fourth input of 1: w = {:.5?}", fourth.weights);
    println!("                             as the layer's own bias:       w = {:.5?}", own.weights);

    let s = stack(&device)?;
    println!("two layers in a row: {:?}", s.two);
    println!("one of W₂·W₁ = {:?}: {:?}", s.product, s.one);
    args.plot.draw("prices learnt from bills", || {
        let runs = [("no bias", none), ("the bias as a fourth input", fourth), ("the layer's own bias", own)];
        let series = runs.map(|(name, run)| Series::steps(name, run.losses)).into();
        vec![Panel { title: "mean squared error".into(), x: "step", y: "E", series }]
    })
}
