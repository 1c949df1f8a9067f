//! Accumulation of gradients over micro-batches, and an exponential moving average of the weights, which is evaluated.

use super::shared::{losses, start};
use downhill::{Device, Fit, Result, Trainer, data, optim::Adam};

pub fn run(device: &Device) -> Result<Vec<f64>> {
    let (train, test) = (data::digits().subset(..1280)?, data::digits().subset(1280..)?);
    let adam = Adam::new(0.005).ema(0.9);
    let mut trainer = Trainer::for_data(device, &train, |x| x.linear("0", 48).relu().linear("2", 10), |x, y| x.cross_entropy(y), adam)?;
    start(&trainer)?;
    trainer.fit(&train, Fit::new().batch_size(32).accumulate(4).shuffle(false))?;
    let averaged = trainer.averaged()?.evaluate(&test)?.loss;
    Ok([losses(&mut trainer)?, vec![averaged]].concat())
}
