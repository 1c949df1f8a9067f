//! Losses and their gradients: small values, masked classes, weights of 0.

use crate::common::{BOTH, Check, Suite};
use downhill::{Device, Graph, Host, losses};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "losses/weight_of", weight_of);
}

/// A weighted mean is known by what it divides by; where that is 0, it is 0 and so is its gradient.
fn weight_of(device: &Device) -> Check {
    let g = Graph::training();
    let (x, y, w) = (g.input([3, 2]), g.input([3, 2]), g.input([3]));
    let loss = losses::mse(x, y).sample_weights(w).mean();
    let weight = g.weight_of(loss).ok_or("a weighted mean")?;
    if g.weight_of(losses::mse(x, y).mean()).is_some() || g.weight_of(losses::mse(x, y).sample_weights(w).sum()).is_some() {
        return Err("neither a mean of equal weights nor a sum divides by weights".into());
    }
    let mut f = device.compile(&[loss, weight, loss.grad(&[x])[0]])?;
    let feed =
        |w: [f32; 3]| [Host::new([3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Host::new([3, 2], vec![0.0; 6]), Host::new([3], w.to_vec())];
    // (1 + 4 + 2·25 + 2·36) / 6, and 2·w·x / 6.
    let some = f.run(&feed([1.0, 0.0, 2.0]))?;
    let near = |got: &Host<f32>, want: &[f64]| downhill::testing::close(&got.to_f64(), want, 6);
    near(&some[0], &[127.0 / 6.0])?;
    near(&some[1], &[6.0])?;
    near(&some[2], &[1.0 / 3.0, 2.0 / 3.0, 0.0, 0.0, 10.0 / 3.0, 4.0])?;
    let none = f.run(&feed([0.0; 3]))?;
    assert_eq!((none[0].f(), none[1].f(), none[2].f()), (&[0.0][..], &[0.0][..], &[0.0; 6][..]));
    Ok(())
}
