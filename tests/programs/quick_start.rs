//! Keras's quick start: a classifier, four callbacks, an evaluation.

use super::shared::start;
use downhill::callbacks::{CsvLogger, EarlyStopping, ModelCheckpoint, Monitor::ValLoss, ReduceLROnPlateau, ThresholdMode::Abs};
use downhill::{Device, Evaluation, Fit, History, Result, Trainer, data, optim::Sgd};
use std::path::Path;

pub fn run(device: &Device, folder: &Path) -> Result<(History, Evaluation)> {
    let digits = data::digits();
    let (train, validation, test) = (digits.subset(..400)?, digits.subset(400..600)?, digits.subset(600..)?);
    let mut trainer = Trainer::for_data(
        device,
        &train,
        |x| x.linear("fc1", 48).relu().linear("fc2", 10),
        |scores, labels| scores.cross_entropy(labels),
        Sgd::new(0.5),
    )?;
    start(&trainer)?;
    let fit = Fit::new()
        .batch_size(40)
        .epochs(12)
        .validation(&validation)
        .shuffle(false)
        .with(EarlyStopping::new(ValLoss).patience(3).restore_best_weights(true))
        .with(ModelCheckpoint::new(folder.join("best.safetensors")).save_best_only(ValLoss))
        .with(ReduceLROnPlateau::new(ValLoss).factor(0.2).patience(0).threshold(0.05, Abs))
        .with(CsvLogger::new(folder.join("log.csv")));
    let history = trainer.fit(&train, fit)?;
    Ok((history, trainer.evaluate(&test)?))
}
