//! ResNet-18 with a rate for each stage. The structure is that of the paper; images and channels are small for the tests.

use super::shared::{indices, losses, start, uniform};
use downhill::{
    Device, Fit, Result, Tensor, Trainer,
    data::{Dataset, Target},
    layers::Conv2d,
    ops::max_pool2d::MaxPool,
    optim::{GroupOptions, Optimizer, Sgd},
};

fn conv<'g>(x: Tensor<'g>, name: &str, out: usize, kernel: usize, stride: usize) -> Tensor<'g> {
    x.conv2d_with(name, out, kernel, Conv2d { stride: [stride; 2], padding: (kernel / 2).into(), no_bias: true, ..Conv2d::default() })
}

fn block<'g>(x: Tensor<'g>, name: &str, out: usize, stride: usize) -> Tensor<'g> {
    let part = |part: &str| format!("{name}.{part}");
    let y = conv(x, &part("conv1"), out, 3, stride).batch_norm(&part("bn1")).relu();
    let y = conv(y, &part("conv2"), out, 3, 1).batch_norm(&part("bn2"));
    if stride == 1 && x.dim(1) == out {
        return (y + x).relu();
    }
    (y + conv(x, &part("downsample.0"), out, 1, stride).batch_norm(&part("downsample.1"))).relu()
}

fn resnet18<'g>(x: Tensor<'g>, width: usize, classes: usize) -> Tensor<'g> {
    let pool = MaxPool { stride: Some([2, 2]), padding: [1, 1], ..MaxPool::default() };
    let mut x = conv(x, "conv1", width, 7, 2).batch_norm("bn1").relu().max_pool2d_with([3, 3], pool);
    for (k, stride) in [1, 2, 2, 2].into_iter().enumerate() {
        x = block(x, &format!("layer{}.0", k + 1), width << k, stride);
        x = block(x, &format!("layer{}.1", k + 1), width << k, 1);
    }
    x.mean(&[2, 3], false).linear("fc", classes)
}

pub fn run(device: &Device) -> Result<Vec<f64>> {
    let data = Dataset::new(uniform(1, 40 * 3 * 64 * 64), [3, 64, 64], Target::labels(indices(2, 10, 40), 10))?;
    let stages = ["fc", "layer4", "layer3", "layer2", "layer1", "conv1", "bn1"];
    let scales = [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125];
    let mut sgd = Optimizer::from(Sgd::new(0.032).momentum(0.9).weight_decay(0.01)).decay_all();
    for (stage, lr_scale) in stages.into_iter().zip(scales) {
        sgd = sgd.group(move |name| name.starts_with(stage), GroupOptions { lr_scale, ..GroupOptions::default() });
    }
    let mut trainer = Trainer::for_data(device, &data, |x| resnet18(x, 4, 10), |x, y| x.cross_entropy(y), sgd)?;
    start(&trainer)?;
    trainer.fit(&data, Fit::new().batch_size(8).shuffle(false))?;
    losses(&mut trainer)
}
