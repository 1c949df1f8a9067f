//! A loss of your own. The focal loss (Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5) is not part of this library. This
//! example writes it in tensor arithmetic. The library differentiates and fuses it like any other loss. It needs no new kernel.
//!
//! Let x be a logit and y a class of 0 or 1. Let s be 1 for y = 1 and −1 for y = 0. Then p = σ(s x) is the probability of the true class, and
//!
//! ```text
//! FL = −α (1 − p)ᵞ ln p                             ∂FL/∂x = s α (1 − p)ᵞ (γ p ln p + p − 1)
//! ```
//!
//! α weights the classes: α for class 1, 1 − α for class 0. With γ = 0 and α = ½, the loss is half of binary cross-entropy. A larger γ reduces
//! the weight of samples that are already predicted correctly. The derivative is in appendix B of the paper.

mod common;

use clap::Parser;
use common::plot;
use downhill::{
    Device, Graph, History, Host, Result, Tensor, Trainer,
    data::{self, Normalise},
    init::Init,
    optim::{Adam, Sgd},
    plan::{Plan, PlanOptions},
    train::{Fit, metrics},
};
use std::{error::Error, process::ExitCode, sync::Arc};

pub const ALPHA: f32 = 0.25;
pub const GAMMA: f32 = 2.0;

/// Computes the focal loss of each logit `x`, for classes `y` of 0.0 and 1.0.
pub fn focal<'g>(x: Tensor<'g>, y: Tensor<'g>) -> Tensor<'g> {
    let s = y * 2.0 - 1.0;
    let alpha = y.where_(ALPHA, 1.0 - ALPHA);
    // 1 − p = σ(−s x) and −ln p = softplus(−s x). These forms are accurate for p near 1, and finite for p near 0.
    let wrong = -s * x;
    alpha * wrong.sigmoid().powf(GAMMA) * wrong.softplus()
}

/// Computes FL and ∂FL/∂x by the formulas at the top of this file.
pub fn by_hand(x: f64, y: f64) -> [f64; 2] {
    let (gamma, s) = (f64::from(GAMMA), 2.0 * y - 1.0);
    let alpha = f64::from(if y == 1.0 { ALPHA } else { 1.0 - ALPHA });
    let p = 1.0 / (1.0 + (-s * x).exp());
    let scale = alpha * (1.0 - p).powf(gamma);
    [-scale * p.ln(), s * scale * (gamma * p * p.ln() + p - 1.0)]
}

/// The logits and classes of the printed points.
pub const LOGITS: [f32; 8] = [-4.0, -1.0, 0.0, 2.0, -2.0, 0.0, 1.0, 4.0];
pub const CLASSES: [f32; 8] = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];

/// The loss of some logits, and the plan that computes it.
pub struct Report {
    /// FL of each point.
    pub values: Vec<f64>,
    /// ∂FL/∂x of each point.
    pub gradient: Vec<f64>,
    /// The plan of a step, which computes the loss and its gradient.
    pub plan: String,
    /// The number of kernels for loss and gradient.
    pub kernels: usize,
    /// The number of kernels for loss and gradient without fusion.
    pub unfused: usize,
}

pub fn report(device: &Device) -> Result<Report> {
    let g = Graph::training();
    let x = g.param("logits", [8], Init::Values(Arc::new(LOGITS.to_vec())));
    let y = g.input([8]);
    let each = focal(x, y);
    let loss = each.sum_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.1))?;
    let values = trainer.compile(&[each])?.run(&[Host::new([8], CLASSES.to_vec())])?[0].to_f64();
    trainer.step(&[Host::new([8], CLASSES.to_vec())])?;
    trainer.loss()?;
    let gradient = loss.grad(&[x]);
    let steps = |fuse| Plan::new(&[loss], &gradient, &PlanOptions { fuse, ..device.plan_options() }).map(|plan| plan.steps.len());
    Ok(Report {
        values,
        gradient: trainer.gradient("logits")?.to_f64(),
        plan: trainer.plan_text(),
        kernels: steps(true)?,
        unfused: steps(false)?,
    })
}

/// Trains a linear classifier of tumours with the focal loss. Returns the history and the accuracy on held-out samples.
pub fn train(device: &Device) -> Result<(History, f64)> {
    let (mut train, mut test) = data::breast_cancer().stratified(0.8, 1)?;
    let norm = Normalise::features(&train);
    norm.apply(&mut train)?;
    norm.apply(&mut test)?;
    let labels: Vec<f32> = test.labels().iter().map(|&l| l as f32).collect();
    let (train, test) = (train.with_float_labels(), test.with_float_labels());
    let mut trainer = Trainer::for_data(device, &train, |x| x.linear("fc", 1), |x, y| focal(x, y).mean_all(), Adam::new(0.02))?;
    let history = trainer.fit(&train, Fit::new().epochs(40).batch_size(64).validation(&test))?;
    Ok((history, metrics::binary_accuracy(trainer.evaluate(&test)?.outputs.f(), &labels, 0.0)?))
}

/// Shows the focal loss in tensor arithmetic: its values, its gradient, its kernels, and a training with it.
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
    let r = report(&device)?;
    println!("focal loss, α = {ALPHA}, γ = {GAMMA}:");
    println!("  {:>6} {:>3} {:>12} {:>12} {:>12} {:>12}", "logit", "y", "FL", "by hand", "∂FL/∂x", "by hand");
    for i in 0..LOGITS.len() {
        let [value, gradient] = by_hand(f64::from(LOGITS[i]), f64::from(CLASSES[i]));
        println!("  {:>6} {:>3} {:>12.8} {value:>12.8} {:>12.8} {gradient:>12.8}", LOGITS[i], CLASSES[i], r.values[i], r.gradient[i]);
    }
    println!("\na step of loss and gradient is {} kernels ({} if nothing were fused):\n{}", r.kernels, r.unfused, r.plan);
    let (history, accuracy) = train(&device)?;
    println!("breast cancer, a linear classifier trained with it: {:.1}% of the held-out samples are right", accuracy * 100.0);
    args.plot.draw("breast cancer, focal loss", || history.panels())
}
