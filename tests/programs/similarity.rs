//! Two losses between networks and views: NT-Xent (SimCLR), and the distillation of a teacher into a student.

use super::shared::{losses, start, uniform};
use downhill::data::{self, Dataset, Field};
use downhill::{Batch, Device, Fit, Host, Result, Tensor, Trainer, losses::kl_div, optim::Optimizer, optim::Sgd};

fn nt_xent<'g>(a: Tensor<'g>, b: Tensor<'g>, temperature: f32) -> Tensor<'g> {
    let (g, n) = (a.graph(), a.dim(0));
    let z = a.concat(&[b], 0).normalize(-1);
    let scores = (z.matmul(z.transpose()) / temperature).masked_fill(g.eye(2 * n), f32::NEG_INFINITY);
    let labels = (n..2 * n).chain(0..n).map(|i| i as u32).collect();
    scores.cross_entropy(g.constant(Host::labels([2 * n], labels)))
}

fn distillation<'g>(student: Tensor<'g>, teacher: Tensor<'g>, labels: Tensor<'g>, temperature: f32) -> Tensor<'g> {
    let soft = kl_div((student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)).batch_mean();
    soft * 0.9 * temperature.powi(2) + student.cross_entropy(labels) * 0.1
}

fn mlp<'g>(x: Tensor<'g>, name: &str, hidden: usize, out: usize) -> Tensor<'g> {
    x.linear(&format!("{name}.0"), hidden).relu().linear(&format!("{name}.2"), out)
}

type Loss = for<'g> fn(&Batch<'g>) -> Tensor<'g>;

fn train(device: &Device, data: &Dataset, sgd: impl Into<Optimizer>, teacher: Option<&Trainer>, loss: Loss) -> Result<Trainer> {
    let mut trainer = Trainer::for_batches(device, data, move |b| loss(b).into(), sgd)?;
    start(&trainer)?;
    if let Some(teacher) = teacher {
        trainer.params().copy_from(&teacher.params(), |name| name.starts_with("teacher."))?;
    }
    trainer.fit(data, Fit::new().batch_size(64).shuffle(false))?;
    Ok(trainer)
}

pub fn run(device: &Device) -> Result<Vec<f64>> {
    let (digits, noise) = (data::digits(), uniform(1, 2 * 1797 * 64));
    let (a, b) = noise.split_at(1797 * 64);
    let data = digits.and(Field::floats("a", [64], a.into()))?.and(Field::floats("b", [64], b.into()))?.subset(..384)?;
    let sgd = |lr: f64| Sgd::new(lr).momentum(0.9);
    let mut encoder = train(device, &data, sgd(0.1), None, |b| {
        let [one, other] = ["a", "b"].map(|view| mlp(b["x"] + b[view] * 0.1, "encoder", 48, 16));
        nt_xent(one, other, 0.5)
    })?;
    let mut teacher = train(device, &data, sgd(0.1), None, |b| mlp(b["x"], "teacher", 96, 10).cross_entropy(b["y"]))?;
    let mut student = train(device, &data, sgd(0.02).freeze(["teacher"]), Some(&teacher), |b| {
        distillation(mlp(b["x"], "student", 16, 10), mlp(b["x"], "teacher", 96, 10), b["y"], 3.0)
    })?;
    Ok([losses(&mut encoder)?, losses(&mut teacher)?, losses(&mut student)?].concat())
}
