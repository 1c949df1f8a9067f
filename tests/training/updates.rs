//! The way from gradients to weights: clipping, groups, and flat buffers of several pieces.

use crate::common::Check;
use downhill::{
    Device, Error, Graph, Host, Shape, Tensor, Trainer,
    init::Init,
    ops::Fill,
    optim::{GroupOptions, Optimizer, Sgd},
    testing,
};

/// Σ a·x + Σ b·z: the gradients are x and z, and one norm is taken of both.
pub fn clipping(device: &Device) -> Check {
    let n = 700;
    let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    for (max, scale) in [(1.0, 1.0), (0.5, 3.0), (1e6, 1.0)] {
        let g = Graph::training();
        let (a, b) = (g.param("a", [n], Init::Zeros), g.param("b", [2, 2], Init::Zeros));
        let loss = (a * g.input([n])).sum_all() + (b * g.input([2, 2])).sum_all();
        let mut trainer = Trainer::new(device, loss, Sgd::new(1.0).clip_norm(max))?;
        let x: Vec<f32> = x.iter().map(|x| x * scale).collect();
        let z = vec![3.0, -4.0, 0.5, 12.0];
        trainer.step(&[Host::new([n], x.clone()), Host::new([2, 2], z.clone())])?;
        let norm = x.iter().chain(&z).map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let factor = (max / (norm + 1e-6)).min(1.0);
        assert_eq!(factor < 1.0, max < 100.0);
        for (name, grad) in [("a", &x), ("b", &z)] {
            let want: Vec<f64> = grad.iter().map(|&g| -factor * f64::from(g)).collect();
            let got = trainer.params().get(name)?.to_f64();
            testing::close(&got, &want, n).map_err(|e| format!("max {max}: {name}: {e}"))?;
            assert!(factor < 1.0 || got == want, "not clipped, and yet changed");
        }
        // The trainer returns the gradient before clipping.
        assert_eq!(trainer.gradient("a")?.f(), x);
    }
    Ok(())
}

/// One step of SGD: w ← w − lr·scale·(g + decay·w) with g = 1 everywhere.
pub fn groups(device: &Device) -> Check {
    let step = |optimizer: Optimizer| -> Result<Vec<f32>, Error> {
        let g = Graph::training();
        let all = [
            ("a.weight", Shape::from([2, 2])),
            ("a.bias", Shape::from([2])),
            ("b.weight", Shape::from([2, 2])),
            ("b.bias", Shape::from([2])),
            ("c.bias", Shape::from([2, 2])),
        ];
        let loss = all.map(|(name, shape)| g.param(name, shape, Init::Constant(2.0)).sum_all()).into_iter().reduce(|a, b| a + b);
        let mut trainer = Trainer::new(device, loss.expect("five parameters"), optimizer)?;
        trainer.step(&[])?;
        trainer.loss()?;
        let mut out = Vec::new();
        for (name, value) in trainer.params().all()? {
            assert!(value.f().iter().all(|x| *x == value.f()[0]), "{name}: {:?}", value.f());
            out.push(value.f()[0]);
        }
        Ok(out)
    };
    let sgd = || Sgd::new(0.5).weight_decay(0.25);
    // Matrices decay. Biases do not, whatever their rank.
    assert_eq!(step(sgd().into())?, [1.25, 1.5, 1.25, 1.5, 1.5]);
    assert_eq!(step(sgd().decay_all())?, [1.25; 5]);
    let frozen = GroupOptions { lr_scale: 0.0, ..Default::default() };
    assert_eq!(step(sgd().group(|name| name.starts_with("a."), frozen))?, [2.0, 2.0, 1.25, 1.5, 1.5]);
    let slow = GroupOptions { lr_scale: 0.5, weight_decay: None };
    let decaying = GroupOptions { lr_scale: 1.0, weight_decay: Some(0.5) };
    let both = sgd().group(|name| name.ends_with("bias"), decaying).group(|name| name.starts_with("a."), slow);
    assert_eq!(step(both)?, [1.625, 1.0, 1.25, 1.0, 1.0]);
    Ok(())
}

/// Parameters of more than one piece, one of them larger than a binding: every rule, against the CPU.
pub fn split(device: &Device) -> Check {
    let sizes: [(&str, usize); 5] = [("a", 9_000), ("b", 20_001), ("c", 7), ("d", 40_000), ("e", 12_000)];
    let limit = crate::common::inner(device).caps().max_binding_bytes as usize / 4;
    assert!(sizes.iter().map(|s| s.1).sum::<usize>() > 4 * limit && sizes[3].1 > 2 * limit);
    for optimizer in downhill::optim::all() {
        for optimizer in [optimizer.clone(), optimizer.clip_norm(1.0)] {
            let run = |device: &Device| -> Result<Vec<(String, Host<f32>)>, Error> {
                let g = Graph::training();
                let mut feed = Vec::new();
                let mut loss: Option<Tensor> = None;
                for (k, (name, n)) in sizes.into_iter().enumerate() {
                    let w = g.param(name, [n], Init::Uniform { low: -1.0, high: 1.0 });
                    let x = g.input([n]);
                    feed.push(testing::fill(x.shape(), &Fill::Range(-1.0, 1.0), k as u64));
                    let term = (w * x).sum_all();
                    loss = Some(loss.map_or(term, |l| l + term));
                }
                let mut trainer = Trainer::new(device, loss.expect("five terms"), optimizer.clone())?;
                for _ in 0..3 {
                    trainer.step(&feed)?;
                }
                trainer.loss()?;
                trainer.params().all()
            };
            let (got, want) = (run(device)?, run(&Device::cpu())?);
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                // The norm is a sum of 81,008 terms.
                testing::close(&got.to_f64(), &want.to_f64(), 81_008).map_err(|e| format!("{optimizer:?}: {name}: {e}"))?;
            }
        }
    }
    Ok(())
}
