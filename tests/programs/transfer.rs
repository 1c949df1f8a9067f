//! Transfer learning: a pretrained backbone, a new head; first the head alone, then all of it with small rates for the backbone.

use super::shared::{losses, start};
use downhill::{
    Device, Fit, Load, Result, Tensor, Trainer, data,
    layers::{BatchNorm, Conv2d},
    optim::{GroupOptions, Optimizer, Sgd},
};
use std::path::Path;

fn net<'g>(x: Tensor<'g>, classes: usize, frozen: bool) -> Tensor<'g> {
    let conv = || Conv2d { padding: 1.into(), no_bias: true, ..Conv2d::default() };
    let norm = BatchNorm { frozen, ..BatchNorm::default() };
    let x = x.conv2d_with("features.0", 8, 3, conv()).batch_norm_with("features.1", norm).relu().max_pool2d(2);
    let x = x.conv2d_with("features.4", 16, 3, conv()).batch_norm_with("features.5", norm).relu().max_pool2d(2);
    x.flatten().linear("head", classes)
}

pub fn run(device: &Device, pretrained: &Path) -> Result<Vec<f64>> {
    let digits = data::digits().reshape([1, 8, 8])?;
    let (train, test) = (digits.subset(..512)?, digits.subset(512..)?);
    let trainer = |optimizer: Optimizer| {
        Trainer::for_data(device, &train, |x| net(x, 10, true), |scores, labels| scores.cross_entropy(labels), optimizer)
    };
    let sgd = || Sgd::new(0.1).momentum(0.9);
    let mut head = trainer(sgd().freeze(["features"]))?;
    start(&head)?;
    head.params().load_with(pretrained, Load { only: &|name| name.starts_with("features."), ..Load::default() })?;
    head.fit(&train, Fit::new().batch_size(64).shuffle(false))?;
    let slow = GroupOptions { lr_scale: 0.1, ..GroupOptions::default() };
    let mut all = trainer(sgd().group(|name| name.starts_with("features."), slow))?;
    all.params().copy_from(&head.params(), |_| true)?;
    all.fit(&train, Fit::new().batch_size(64).shuffle(false))?;
    let result = all.evaluate(&test)?;
    Ok([losses(&mut head)?, losses(&mut all)?, vec![result.loss]].concat())
}
