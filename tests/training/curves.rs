//! Loss curves of a GPU beside those of the CPU.

use crate::common::Check;
use downhill::{Device, Error, Fit, Tensor, Trainer, data, layers::Conv2d, optim::Adam};

/// The first epoch on digits: same seed, same shuffles and masks, losses equal to 1e-3.
pub fn loss_curve(device: &Device) -> Check {
    let data = data::digits();
    let curve = |device: &Device| -> Result<Vec<f32>, Error> {
        let mut trainer = Trainer::for_data(
            device,
            &data,
            |x| x.linear("fc1", 128).relu().dropout(0.1).linear("fc2", 64).relu().linear("fc3", 10),
            |x, y| x.cross_entropy(y),
            Adam::new(4e-3),
        )?
        .seed(42)?;
        Ok(trainer.fit(&data, Fit::new().batch_size(100))?.epochs.remove(0).losses)
    };
    same_curve(&curve(device)?, &curve(&Device::cpu())?, 18)
}

/// Fifty steps of a network of convolutions with batch norm.
pub fn cnn_curve(device: &Device) -> Check {
    fn block<'g>(x: Tensor<'g>, k: usize) -> Tensor<'g> {
        let options = Conv2d { padding: 1.into(), no_bias: true, ..Conv2d::default() };
        x.conv2d_with(&format!("conv{k}"), 8 * k, 3, options).batch_norm(&format!("bn{k}")).relu().max_pool2d(2)
    }
    fn model(x: Tensor) -> Tensor {
        block(block(x, 1), 2).flatten().linear("fc1", 32).relu().linear("fc2", 10)
    }
    let data = data::digits().reshape([1, 8, 8])?.subset(&(0..50 * 32).collect::<Vec<_>>())?;
    let curve = |device: &Device| -> Result<Vec<f32>, Error> {
        let mut trainer = Trainer::for_data(device, &data, model, |x, y| x.cross_entropy(y), Adam::new(1e-3))?.seed(42)?;
        Ok(trainer.fit(&data, Fit::new().batch_size(32))?.epochs.remove(0).losses)
    };
    same_curve(&curve(device)?, &curve(&Device::cpu())?, 50)
}

/// Every step's loss is that of the other device to 1e-3, and they fall.
fn same_curve(got: &[f32], want: &[f32], steps: usize) -> Check {
    assert_eq!(got.len(), steps);
    let far = got.iter().zip(want).map(|(g, w)| (g - w).abs() / w).fold(0.0, f32::max);
    println!("{steps} steps differ by {far:e} at most");
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-3 * w, "step {k}: {g} and {w}");
    }
    assert!(want[steps - 1] < 0.8 * want[0], "it learns nothing: {want:?}");
    Ok(())
}
