//! Wide and deep: numbers and categories in, a class and a value out, a weighted sum of two losses.

use super::shared::{indices, start, uniform};
use downhill::data::{Dataset, Field};
use downhill::{Batch, Device, Evaluation, Fit, Outputs, Result, StepReport, Trainer, optim::AdamW};

fn wide_deep<'g>(b: &Batch<'g>) -> Outputs<'g> {
    let deep = b["numbers"].concat(&[b["kinds"].embedding("embed", 20, 4).flatten()], 1);
    let deep = deep.linear("fc1", 32).relu().linear("fc2", 16).relu();
    let both = b["wide"].concat(&[deep], 1);
    let (income, hours) = (both.linear("income", 2), both.linear("hours", 1));
    Outputs::new()
        .loss("income", 1.0, income.cross_entropy(b["income"]))
        .loss("hours", 0.3, hours.mse(b["hours"]))
        .watch("accuracy", income.correct(b["income"]).mean_all())
        .watch("mae", hours.mae(b["hours"]))
}

pub fn run(device: &Device) -> Result<(Vec<StepReport>, Evaluation)> {
    let data = Dataset::of([
        Field::floats("wide", [12], uniform(1, 12 * 300)),
        Field::floats("numbers", [5], uniform(2, 5 * 300)),
        Field::tokens("kinds", [3], indices(3, 20, 3 * 300), 20),
        Field::labels("income", indices(4, 2, 300), 2),
        Field::values("hours", [1], uniform(5, 300)),
    ])?;
    let mut trainer = Trainer::for_batches(device, &data, wide_deep, AdamW::new(0.01).weight_decay(0.01).decay_all())?;
    start(&trainer)?;
    trainer.fit(&data, Fit::new().epochs(2).batch_size(64).shuffle(false))?;
    Ok((trainer.take_reports()?, trainer.evaluate(&data)?))
}
