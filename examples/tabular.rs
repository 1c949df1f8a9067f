//! Compares five optimizers on four problems with real tables: the loss that each reaches, the quality of its predictions, and its speed.
//!
//! | data          | task           | loss                      | held-out metric |
//! |---------------|----------------|---------------------------|-----------------|
//! | diabetes      | regression     | mean squared error        | R²              |
//! | diabetes      | regression     | mean absolute error       | MAE             |
//! | breast cancer | two classes    | binary cross-entropy      | accuracy        |
//! | iris          | three classes  | categorical cross-entropy | accuracy        |
//!
//! Every model is one linear layer, so the losses are convex and have one minimum. The optimizers differ in how soon they come near the minimum,
//! not in where they end. For the mean squared error, the example also prints the minimum. Least squares has a closed form, the normal
//! equations XᵀX w = Xᵀt.
//!
//! Each column of a table is standardised by the mean and the deviation of its training rows. Otherwise, columns in different units would need
//! different learning rates. Full-batch descent makes one step in each epoch. The other optimizers make a step for every 32 rows. So full-batch
//! descent makes fewer steps, and each of its steps costs as much as eleven steps of the others.

mod common;

use clap::Parser;
use common::plot;
use downhill::{
    Device, Fit, Result, Tensor, Trainer,
    data::{self, Dataset, Normalise, Target},
    optim::{Adam, Optimizer, RmsProp, Sgd},
    plot::{Panel, Series},
    train::metrics,
};
use std::{error::Error, process::ExitCode};

pub const OPTIMIZERS: [&str; 5] = ["full batch", "mini-batch", "momentum", "RMSProp", "Adam"];
const BATCH: usize = 32;
const EPOCHS: usize = 60;
/// The number of epochs of full-batch descent.
const FULL_EPOCHS: usize = 400;

/// The metric of predictions on held-out rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    R2,
    Mae,
    Accuracy,
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Metric::R2 => "R²",
            Metric::Mae => "MAE",
            Metric::Accuracy => "accuracy",
        }
    }
}

/// The training rows and the held-out rows of a table, standardised.
#[derive(Clone)]
pub struct Table {
    train: Dataset,
    test: Dataset,
    /// The standardisation of the targets, if they are measurements.
    scale: Option<Normalise>,
}

impl Table {
    fn new((mut train, mut test): (Dataset, Dataset), measurements: bool) -> Result<Table> {
        let features = Normalise::features(&train);
        features.apply(&mut train)?;
        features.apply(&mut test)?;
        let scale = if measurements { Some(Normalise::targets(&train)?) } else { None };
        if let Some(scale) = &scale {
            scale.apply_targets(&mut train)?;
            scale.apply_targets(&mut test)?;
        }
        Ok(Table { train, test, scale })
    }
}

/// A problem: a table, a loss and a metric.
pub struct Problem {
    pub name: &'static str,
    pub table: Table,
    loss: for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>,
    pub metric: Metric,
    /// A loss less than this counts as near the minimum.
    pub near: f64,
    /// The learning rate of each of [`OPTIMIZERS`].
    rates: [f64; 5],
}

pub fn problems() -> Result<[Problem; 4]> {
    let diabetes = Table::new(data::diabetes().split(0.8, 1)?, true)?;
    let cancer = Table::new(data::breast_cancer().with_float_labels().split(0.8, 1)?, false)?;
    let iris = Table::new(data::iris().stratified(0.8, 1)?, false)?;
    Ok([
        Problem {
            name: "diabetes, mean squared error",
            table: diabetes.clone(),
            loss: |y, t| y.mse(t),
            metric: Metric::R2,
            near: 0.52,
            rates: [0.2, 0.01, 0.002, 0.002, 0.005],
        },
        Problem {
            name: "diabetes, mean absolute error",
            table: diabetes,
            loss: |y, t| y.mae(t),
            metric: Metric::Mae,
            near: 0.58,
            rates: [0.1, 0.01, 0.002, 0.002, 0.005],
        },
        Problem {
            name: "breast cancer, binary cross-entropy",
            table: cancer,
            loss: |y, t| y.bce_with_logits(t),
            metric: Metric::Accuracy,
            near: 0.08,
            rates: [1.0, 0.2, 0.02, 0.005, 0.01],
        },
        Problem {
            name: "iris, categorical cross-entropy",
            table: iris,
            loss: |y, t| y.cross_entropy(t),
            metric: Metric::Accuracy,
            near: 0.15,
            rates: [1.0, 0.5, 0.05, 0.02, 0.05],
        },
    ])
}

/// The result of one optimizer on a problem.
pub struct Outcome {
    /// The number of steps and the loss on the training part, after each epoch.
    pub curve: Vec<(usize, f64)>,
    /// The final loss on the training part.
    pub loss: f64,
    /// The metric on the held-out part, in the units of the table.
    pub metric: f64,
    pub steps: usize,
    /// The number of steps until the loss on the training part reached [`Problem::near`]. The loss is checked after each epoch.
    pub steps_to_near: Option<usize>,
}

impl Problem {
    /// Trains with one of [`OPTIMIZERS`].
    pub fn train(&self, device: &Device, optimizer: usize) -> Result<Outcome> {
        let rate = self.rates[optimizer];
        let rule: Optimizer = match optimizer {
            0 | 1 => Sgd::new(rate).into(),
            2 => Sgd::new(rate).momentum(0.9).into(),
            3 => RmsProp::new(rate).into(),
            _ => Adam::new(rate).into(),
        };
        let Table { train, test, scale } = &self.table;
        let (epochs, batch) = if optimizer == 0 { (FULL_EPOCHS, train.len()) } else { (EPOCHS, BATCH) };
        let outputs = train.classes().max(1);
        let mut trainer = Trainer::for_data(device, train, move |x| x.linear("fc", outputs), self.loss, rule)?;
        // The model is evaluated on the training part after each epoch, because the losses of steps are losses of single batches.
        let history = trainer.fit(train, Fit::new().epochs(epochs).batch_size(batch).validation(train))?;
        let losses: Vec<f64> = history.epochs.iter().filter_map(|e| e.validation.map(|v| v.0)).collect();

        let evaluation = trainer.evaluate(test)?;
        let metric = match test.target() {
            Target::Values { data, .. } => {
                let (mut y, mut t) = (evaluation.outputs.f().to_vec(), data.clone());
                for values in [&mut y, &mut t] {
                    scale.iter().try_for_each(|scale| scale.undo(values))?;
                }
                match self.metric {
                    Metric::R2 => metrics::r2(&y, &t)?,
                    Metric::Mae => metrics::mae(&y, &t)?,
                    // A logit above 0 is a probability above one half.
                    Metric::Accuracy => metrics::binary_accuracy(&y, &t, 0.0)?,
                }
            }
            _ => metrics::accuracy(evaluation.outputs.f(), outputs, test.labels())?,
        };
        let steps = train.len().div_ceil(batch);
        Ok(Outcome {
            curve: (1..).map(|epoch| epoch * steps).zip(losses.iter().copied()).collect(),
            loss: losses[losses.len() - 1],
            metric,
            steps: epochs * steps,
            steps_to_near: losses.iter().position(|&loss| loss <= self.near).map(|epoch| (epoch + 1) * steps),
        })
    }

    /// Computes the least mean squared error of a linear layer on the training part, by the normal equations.
    pub fn least_squares(&self) -> Result<f64> {
        let n = self.table.train.len();
        let (x, t) = self.table.train.batch(0..n)?;
        let (x, t, k) = (x.to_f64(), t.to_f64(), x.shape.last());
        // X ends with a column of 1 for the bias and a column of t. So XᵀX also contains Xᵀt.
        let x = |i: usize, j: usize| if j < k { x[i * k + j] } else { [1.0, t[i]][j - k] };
        let mut rows: Vec<Vec<f64>> = (0..=k).map(|a| (0..=k + 1).map(|b| (0..n).map(|i| x(i, a) * x(i, b)).sum()).collect()).collect();
        // Gauss-Jordan elimination. It needs no pivoting, because XᵀX is positive definite.
        for p in 0..=k {
            let pivot: Vec<f64> = rows[p].iter().map(|v| v / rows[p][p]).collect();
            for row in &mut rows {
                let factor = row[p];
                row.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
            }
            rows[p] = pivot;
        }
        let error = |i: usize| (0..=k).map(|j| rows[j][k + 1] * x(i, j)).sum::<f64>() - t[i];
        Ok((0..n).map(|i| error(i).powi(2)).sum::<f64>() / n as f64)
    }
}

/// Compares five optimizers on real tables with four losses.
#[derive(Parser)]
pub struct Args {
    #[command(flatten)]
    device: common::DeviceArgs,
    #[command(flatten)]
    plot: plot::PlotArgs,
}

#[allow(dead_code)] // The tests call `problems` and `train`.
fn main() -> ExitCode {
    common::run(run)
}

pub fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let device = args.device.open()?;
    let mut panels = Vec::new();
    for (i, problem) in problems()?.iter().enumerate() {
        let (n, m) = (problem.table.train.len(), problem.table.test.len());
        println!("\n{} ({n} rows to train, {m} held out)", problem.name);
        if i == 0 {
            println!("  the least loss there is, by the normal equations: {:.6}", problem.least_squares()?);
        }
        let near = format!("steps to {}", problem.near);
        println!("  {:<12} {:>12} {:>14} {:>8} {near:>14}", "", "final loss", problem.metric.name(), "steps");
        let mut series = Vec::new();
        for (optimizer, name) in OPTIMIZERS.iter().enumerate() {
            let o = problem.train(&device, optimizer)?;
            let near = o.steps_to_near.map_or("never".to_string(), |steps| steps.to_string());
            println!("  {name:<12} {:>12.6} {:>14.4} {:>8} {near:>14}", o.loss, o.metric, o.steps);
            series.push(Series::new(*name, o.curve.iter().map(|&(step, loss)| (step as f64, loss))));
        }
        panels.push(Panel { title: problem.name.into(), x: "step", y: "loss on the training part", series });
    }
    args.plot.draw("five optimizers", || panels)
}
