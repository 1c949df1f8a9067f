//! Losses of gradients: WGAN-GP, whose critic is held to slopes of 1, and a PINN that solves u″ = −π² sin πx, u(−1) = u(1) = 0.

use super::shared::{losses, start, uniform};
use downhill::{Device, Host, Result, Tensor, Trainer, data, optim::Adam};
use std::f32::consts::PI;

fn generator<'g>(z: Tensor<'g>) -> Tensor<'g> {
    z.linear("g.0", 32).relu().linear("g.2", 64).sigmoid()
}

fn critic<'g>(x: Tensor<'g>) -> Tensor<'g> {
    x.linear("c.0", 32).silu().linear("c.2", 1)
}

fn wgan_gp(device: &Device) -> Result<Vec<f64>> {
    let (digits, adam) = (data::digits(), || Adam::new(1e-3).betas(0.0, 0.9));
    let mut judging = Trainer::from_fn(
        device,
        |g, n| {
            let (real, fake, mix) = (g.input([n, 64]), generator(g.input([n, 16])), g.input([n, 1]));
            let between = mix * real + (1.0 - mix) * fake;
            let slope = critic(between).sum_all().grad(&[between])[0];
            let penalty = (slope.norm(&[1], false) - 1.0).square().mean_all();
            (critic(fake).mean_all() - critic(real).mean_all() + penalty * 10.0).into()
        },
        adam().freeze(["g"]),
    )?;
    let mut generating = Trainer::from_fn(device, |g, n| (-critic(generator(g.input([n, 16]))).mean_all()).into(), adam().freeze(["c"]))?;
    start(&judging)?;
    start(&generating)?;
    let mut all = Vec::new();
    for k in 0..9 {
        let (z, mix) = (uniform(k as u64, 64 * 16), uniform(100 + k as u64, 64).iter().map(|x| x / 2.0 + 0.5).collect());
        let (real, z) = (digits.batch(64 * k..64 * k + 64)?.0, Host::new([64, 16], z));
        judging.step(&[real, z.clone(), Host::new([64, 1], mix)])?;
        all.extend(losses(&mut judging)?);
        if k % 3 == 2 {
            generating.params().copy_from(&judging.params(), |name| name.starts_with("c."))?;
            generating.step(&[z])?;
            judging.params().copy_from(&generating.params(), |name| name.starts_with("g."))?;
            all.extend(losses(&mut generating)?);
        }
    }
    Ok(all)
}

fn pinn(device: &Device) -> Result<Vec<f64>> {
    fn net<'g>(x: Tensor<'g>) -> Tensor<'g> {
        x.linear("0", 16).tanh().linear("2", 16).tanh().linear("4", 1)
    }
    let mut trainer = Trainer::from_fn(
        device,
        |g, n| {
            let (x, edges) = (g.input([n, 1]), g.constant(Host::new([2, 1], vec![-1.0, 1.0])));
            let slope = net(x).sum_all().grad(&[x])[0];
            let curve = slope.sum_all().grad(&[x])[0];
            let residual = curve + (x * PI).sin() * PI.powi(2);
            (residual.square().mean_all() + net(edges).square().mean_all() * 10.0).into()
        },
        Adam::new(0.01),
    )?;
    start(&trainer)?;
    for k in 0..10 {
        trainer.step(&[Host::new([32, 1], uniform(k, 32))])?;
    }
    losses(&mut trainer)
}

pub fn run(device: &Device) -> Result<Vec<f64>> {
    Ok([wgan_gp(device)?, pinn(device)?].concat())
}
