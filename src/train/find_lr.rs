//! A search for a good learning rate.

use super::Trainer;
use crate::{
    data::{self, Dataset},
    error::{Error, Result},
    host::Host,
    optim::Schedule,
    plot::{Panel, Series, svg},
    weights::write_to,
};
use std::{mem, path::Path};

/// The options of [`Trainer::find_lr`]. Names and defaults are those of Lightning's `lr_find`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FindLr {
    /// The rate of the first step. 1e-8 by default.
    pub min_lr: f64,
    /// The rate of the last step. 1 by default.
    pub max_lr: f64,
    /// The number of steps. 100 by default.
    pub num_training: usize,
    /// The number of samples in a step. 32 by default.
    pub batch_size: usize,
    /// The search ends when the smoothed loss is this many times the best smoothed loss. 4 by default.
    pub early_stop_threshold: f64,
}

impl Default for FindLr {
    fn default() -> FindLr {
        FindLr { min_lr: 1e-8, max_lr: 1.0, num_training: 100, batch_size: 32, early_stop_threshold: 4.0 }
    }
}

/// The losses of a search for a learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct LrCurve {
    /// The rate of each step.
    pub rates: Vec<f64>,
    /// The smoothed loss of each step: an exponential average with the factor 0.98, corrected for its start.
    pub losses: Vec<f64>,
}

impl LrCurve {
    /// Returns the rate at which the smoothed loss falls fastest. The first 10 steps and the last one do not count. `None` if fewer than
    /// three steps remain.
    pub fn suggestion(&self) -> Option<f64> {
        let losses = self.losses.get(10..self.losses.len().saturating_sub(1)).filter(|losses| losses.len() >= 3)?;
        let slope = |k: usize| match k {
            0 => losses[1] - losses[0],
            k if k + 1 == losses.len() => losses[k] - losses[k - 1],
            k => (losses[k + 1] - losses[k - 1]) / 2.0,
        };
        let steepest = (0..losses.len()).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
        Some(self.rates[10 + steepest])
    }
    /// Returns the content of an SVG file with the loss over log₁₀ of the rate.
    pub fn svg(&self) -> String {
        let points = self.rates.iter().map(|rate| rate.log10()).zip(self.losses.iter().copied());
        let series = vec![Series::new("smoothed loss", points)];
        svg("learning rates", &[Panel { title: "loss by learning rate".into(), x: "log10 of the rate", y: "loss", series }])
    }
}

impl Trainer {
    /// Searches for a learning rate: makes steps whose rate grows from step to step, and returns their losses. Afterwards the trainer is as
    /// it was before: parameters, state, optimizer, counters, reports and history. Smith 2015, arXiv:1506.01186.
    ///
    /// The rate of step k of n is min_lr · (max_lr / min_lr)^(k / (n − 1)), whatever the schedule is.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::Adam, train::FindLr};
    /// let iris = data::iris();
    /// let mut trainer =
    ///     Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Adam::new(1e-3))?;
    /// let curve = trainer.find_lr(&iris, FindLr { max_lr: 10.0, ..FindLr::default() })?;
    /// let lr = curve.suggestion().unwrap();
    /// assert!(lr > 1e-4 && lr < 10.0, "{lr}");
    /// trainer.set_lr(lr)?;
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The data does not fit the model, an option is out of range, micro-batches wait for their step, or the device fails.
    pub fn find_lr(&mut self, data: &Dataset, options: FindLr) -> Result<LrCurve> {
        let FindLr { min_lr, max_lr, num_training, batch_size, early_stop_threshold } = options;
        if !(min_lr > 0.0 && min_lr < max_lr && max_lr.is_finite()) {
            return Err(Error::argument("find_lr", format!("needs 0 < min_lr < max_lr, but got {min_lr} and {max_lr}")));
        }
        if num_training < 2 || batch_size == 0 || early_stop_threshold.is_nan() || early_stop_threshold <= 1.0 {
            let why = "needs num_training of at least 2, batch_size of at least 1, and early_stop_threshold above 1";
            return Err(Error::argument("find_lr", why));
        }
        let picks = self.check_data("find_lr", data)?;
        self.no_part("find_lr")?;
        self.no_shard("find_lr", "search before Trainer::shard")?;
        pollster::block_on(self.collect())?;
        let (saved, optimizer, trained) = (self.snapshot(None)?, self.update.optimizer.clone(), self.store.is_trained());
        let (reports, loss, noise) = (mem::take(&mut self.reports), self.loss, self.noise);
        self.update.optimizer = optimizer.clone().schedule(Schedule::constant());
        // Ranks search alone, and equal ranks find the same.
        let ranks = self.ranks.take();
        let searched = self.search(data, &picks, options);
        self.ranks = ranks;
        self.update.optimizer = optimizer;
        let mut bytes = Vec::new();
        write_to(&mut bytes, &saved.tensors, &saved.info).map_err(|e| Error::file(Path::new("snapshot"), e))?;
        self.adopt(Path::new("snapshot"), &bytes)?;
        self.store.set_trained(trained);
        // The last batch is gone, so no step can be made on it again.
        (self.reports, self.loss, self.noise, self.last) = (reports, loss, noise, None);
        searched
    }
    fn search(&mut self, data: &Dataset, picks: &[usize], options: FindLr) -> Result<LrCurve> {
        let size = options.batch_size.min(data.len());
        let mut batch = vec![Host::new([0], Vec::new()); picks.len()];
        let mut curve = LrCurve { rates: Vec::new(), losses: Vec::new() };
        let (mut order, mut average, mut best) = (Vec::new(), 0.0, f64::INFINITY);
        let ratio = (options.max_lr / options.min_lr).ln() / (options.num_training - 1) as f64;
        for k in 0..options.num_training {
            if order.len() < size {
                order = data::shuffled(data.len(), self.seed, self.epoch + k as u64);
            }
            let rate = options.min_lr * (ratio * k as f64).exp();
            self.set_lr(rate)?;
            data.gather_into(picks, &order.split_off(order.len() - size), None, &mut batch)?;
            self.step(&batch)?;
            let loss = match self.loss() {
                Err(Error::Diverged { .. }) => break,
                loss => f64::from(loss?),
            };
            average = 0.98 * average + 0.02 * loss;
            let smooth = average / (1.0 - 0.98f64.powi(k as i32 + 1));
            if k > 0 && smooth > options.early_stop_threshold * best {
                break;
            }
            best = best.min(smooth);
            curve.rates.push(rate);
            curve.losses.push(smooth);
        }
        Ok(curve)
    }
}
