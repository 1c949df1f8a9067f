//! A GAN: two networks, two losses, two optimizers.

use super::shared::{losses, start, uniform};
use downhill::{Device, Host, Result, Tensor, Trainer, data, optim::Adam};

fn generator<'g>(z: Tensor<'g>) -> Tensor<'g> {
    z.linear("g.0", 32).relu().linear("g.2", 64).sigmoid()
}

/// The loss of the judge where it should say `real`: 1 for real images.
fn judged<'g>(x: Tensor<'g>, real: f32) -> Tensor<'g> {
    let score = x.linear("d.0", 32).leaky_relu(0.2).linear("d.2", 1);
    score.bce_with_logits(x.graph().full(score.shape(), real))
}

pub fn run(device: &Device) -> Result<Vec<f64>> {
    let digits = data::digits();
    let adam = || Adam::new(2e-3).betas(0.5, 0.999);
    let mut judging = Trainer::from_fn(
        device,
        |g, n| (judged(g.input([n, 64]), 1.0) + judged(generator(g.input([n, 16])), 0.0)).into(),
        adam().freeze(["g"]),
    )?;
    let mut generating = Trainer::from_fn(device, |g, n| judged(generator(g.input([n, 16])), 1.0).into(), adam().freeze(["d"]))?;
    start(&judging)?;
    start(&generating)?;
    for k in 0..10 {
        let (real, z) = (digits.batch(64 * k..64 * k + 64)?.0, Host::new([64, 16], uniform(k as u64, 64 * 16)));
        judging.step(&[real, z.clone()])?;
        generating.params().copy_from(&judging.params(), |name| name.starts_with("d."))?;
        generating.step(&[z])?;
        judging.params().copy_from(&generating.params(), |name| name.starts_with("g."))?;
    }
    Ok(losses(&mut judging)?.into_iter().zip(losses(&mut generating)?).flat_map(|(d, g)| [d, g]).collect())
}
