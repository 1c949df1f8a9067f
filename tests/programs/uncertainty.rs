//! Uncertainty: a network that tells mean and variance (Gaussian NLL), trained at the rate that a finder suggests.

use super::shared::{losses, start, uniform};
use downhill::{
    Batch, Device, Fit, Outputs, Result, Trainer,
    data::{Dataset, Target},
    losses::gaussian_nll,
    optim::Sgd,
    train::FindLr,
};

fn net<'g>(b: &Batch<'g>) -> Outputs<'g> {
    let h = b["x"].linear("fc1", 32).tanh().linear("fc2", 32).tanh();
    let (mean, var) = (h.linear("mean", 1), h.linear("var", 1).softplus());
    let inside = (b["y"] - mean).abs().lt(var.sqrt() * 2.0);
    Outputs::new().loss("nll", 1.0, gaussian_nll(mean, b["y"], var).mean()).watch("inside", inside.mean_all())
}

pub fn run(device: &Device) -> Result<Vec<f64>> {
    let (x, noise) = (uniform(1, 64), uniform(2, 64));
    let y = x.iter().zip(noise).map(|(x, noise)| (3.0 * x).sin() + 0.3 * x.abs() * noise).collect();
    let data = Dataset::new(x, [1], Target::values([1], y))?;
    let mut trainer = Trainer::for_batches(device, &data, net, Sgd::new(0.01))?;
    start(&trainer)?;
    let curve = trainer.find_lr(&data, FindLr { min_lr: 1e-3, num_training: 40, batch_size: 64, ..FindLr::default() })?;
    let lr = curve.suggestion().unwrap_or(0.01);
    trainer.set_lr(lr)?;
    trainer.fit(&data, Fit::new().epochs(10).batch_size(64).shuffle(false))?;
    let inside = *trainer.evaluate(&data)?.watched.get("inside")?;
    Ok([curve.losses, vec![lr], losses(&mut trainer)?, vec![inside]].concat())
}
