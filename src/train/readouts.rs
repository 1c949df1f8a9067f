//! Readouts of a training beside its losses: the gradient noise scale, and the norms of each parameter.

use super::{Named, Saved, Trainer};
use crate::{
    engine::Ring,
    error::{Error, Result},
    host::{Data, Host},
    optim::Readouts,
    params::Status,
};
use std::sync::Arc;

/// The norms of one parameter in a step that measured them. See [`Fit::norms`](crate::Fit::norms).
///
/// A norm is √Σx² over the elements of the parameter. A norm below the smallest normal `f32` counts as 0, and no norm is above the
/// largest `f32`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamNorms {
    /// The norm of the weights before the update.
    pub weight: f32,
    /// The norm of the gradient of the whole batch, before clipping.
    pub gradient: f32,
    /// The norm of the change that the update made to the weights: new weights minus old weights.
    pub update: f32,
    /// The ratio by which the rule scaled the parameter's direction: see [`Rule::ratio`](crate::optim::Rule::ratio). `None` for rules
    /// without a ratio.
    pub trust_ratio: Option<f32>,
}

/// The norms of all trained parameters in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepNorms {
    /// The number of the step. The trainer's first step is 0.
    pub step: u64,
    /// The norms by the name of the parameter.
    pub params: Named<ParamNorms>,
}

/// The weight of the earlier steps in the running averages of the noise scale.
const DECAY: f64 = 0.99;

/// The gradient noise scale: running averages over steps, and the micro-batches of the current step.
///
/// A step has micro-batches of nⱼ samples with the gradients gⱼ, N samples together, and the gradient g = Σ nⱼ·gⱼ / N. With the gradient
/// G of all data and the variance S = tr Σ of the gradient of one sample, the expected values are E|g|² = |G|² + S/N and E Σ nⱼ·|gⱼ|² / N =
/// |G|² + k·S/N for k micro-batches of any sizes. Two equations for two unknowns:
///
/// ```text
/// S   = N · (M − |g|²) / (k − 1)       M = Σ nⱼ·|gⱼ|² / N
/// G² = |g|² − S / N
/// ```
/// For micro-batches of one size these are the formulas of McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Noise {
    /// The running averages of G² and of S.
    pub signal: f64,
    pub noise: f64,
    /// N, and k.
    samples: f64,
    parts: u32,
}

impl Noise {
    /// Returns the running averages of G² and of S, between two steps.
    pub fn of(signal: f64, noise: f64) -> Noise {
        Noise { signal, noise, ..Noise::default() }
    }
    /// Begins a step.
    pub fn begin(&mut self) {
        (self.samples, self.parts) = (0.0, 0);
    }
    /// Adds a micro-batch of this weight. A micro-batch without weight changes no gradient.
    pub fn add(&mut self, weight: f64) {
        self.samples += weight;
        self.parts += u32::from(weight > 0.0);
    }
    /// Ends the step. `spread` is M, and `norm` is |g|.
    pub fn end(&mut self, spread: f32, norm: f32) {
        let (spread, square, n) = (f64::from(spread), f64::from(norm).powi(2), self.samples);
        // Squares outside of the range of a float say nothing.
        if self.parts < 2 || !(1e-30..1e38).contains(&spread) {
            return;
        }
        let noise = n * (spread - square) / f64::from(self.parts - 1);
        let signal = square - noise / n;
        self.noise = DECAY * self.noise + (1.0 - DECAY) * noise;
        self.signal = DECAY * self.signal + (1.0 - DECAY) * signal;
    }
    /// Returns S/G². `None` before the first step, and while the estimate of G² is not positive.
    pub fn scale(&self) -> Option<f64> {
        (self.signal > 0.0).then(|| (self.noise / self.signal).max(0.0))
    }
}

/// Returns the norms of the trained parameters, from the rows of all parameters. `names` are the names of the trained parameters.
pub(super) fn norms_of(names: &Arc<[String]>, statuses: &[Status], rows: &[[f32; 4]], has_ratio: bool) -> Named<ParamNorms> {
    let trained = statuses.iter().zip(rows).filter(|(status, _)| status.is_trained());
    let norms = trained.map(|(_, &[weight, gradient, update, ratio])| ParamNorms {
        weight,
        gradient,
        update,
        trust_ratio: has_ratio.then_some(ratio),
    });
    Named::new(names.clone(), norms.collect())
}

impl Saved {
    /// Stores norms: the numbers of their steps, and a tensor.
    pub(super) fn set_norms(&mut self, prefix: &str, all: &[StepNorms]) {
        if all.is_empty() {
            return;
        }
        let steps: Vec<String> = all.iter().map(|norms| norms.step.to_string()).collect();
        self.info.insert(format!("{prefix}norm_steps"), steps.join(" "));
        let row = |n: &ParamNorms| [n.weight, n.gradient, n.update, n.trust_ratio.unwrap_or(f32::NAN)];
        let rows: Vec<f32> = all.iter().flat_map(|norms| norms.params.iter().flat_map(|(_, n)| row(n))).collect();
        self.tensors.push((format!("{prefix}norms"), Host::new([rows.len()], rows)));
    }
    /// Returns the norms that [`set_norms`](Saved::set_norms) stored, or `None` if they do not fit the parameters.
    pub(super) fn norms(&self, prefix: &str, names: &Arc<[String]>) -> Option<Vec<StepNorms>> {
        let Some(steps) = self.info.get(&format!("{prefix}norm_steps")) else { return Some(Vec::new()) };
        let steps: Vec<u64> = steps.split_whitespace().map(|step| step.parse().ok()).collect::<Option<_>>()?;
        let (_, rows) = self.tensors.iter().find(|(name, _)| *name == format!("{prefix}norms"))?;
        let rows = match &rows.data {
            Data::Float(rows) if rows.len() == 4 * names.len() * steps.len() => rows.as_chunks::<4>().0,
            _ => return None,
        };
        let of = |&[weight, gradient, update, ratio]: &[f32; 4]| ParamNorms {
            weight,
            gradient,
            update,
            trust_ratio: (!ratio.is_nan()).then_some(ratio),
        };
        let all = steps.into_iter().zip(rows.chunks(names.len()));
        Some(all.map(|(step, rows)| StepNorms { step, params: Named::new(names.clone(), rows.iter().map(of).collect()) }).collect())
    }
}

impl Trainer {
    /// Sets the readouts of steps, for a loop of your own. [`fit`](Trainer::fit) sets them by [`Fit::noise_scale`](crate::Fit::noise_scale)
    /// and [`Fit::norms`](crate::Fit::norms). The setting holds until the next call of `measure` or `fit`. The
    /// [reports](Trainer::take_reports) of steps have the results.
    ///
    /// A new setting drops the plans of steps, which are made again at the next step. So [`step_again`](Trainer::step_again) needs another
    /// step first.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::{Readouts, Sgd}};
    /// let g = Graph::training();
    /// let loss = g.input([2, 1]).linear("line", 1).mse(g.input([2, 1]));
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1))?;
    /// trainer.measure(Readouts { norms: Some(2), ..Readouts::default() })?;
    /// for _ in 0..4 {
    ///     trainer.step(&[Host::new([2, 1], vec![1.0, 2.0]), Host::new([2, 1], vec![3.0, 5.0])])?;
    /// }
    /// let reports = trainer.take_reports()?;
    /// assert_eq!(reports.iter().map(|r| r.norms.len()).collect::<Vec<_>>(), [0, 2, 0, 2]);
    /// let norms = reports[3].norms.get("line.weight")?;
    /// assert!((norms.update - 0.1 * norms.gradient).abs() < 1e-6);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// `norms` is 0, micro-batches wait for their step, a step was not finite, or the device fails.
    pub fn measure(&mut self, readouts: Readouts) -> Result<()> {
        pollster::block_on(self.read_out(readouts))
    }
    /// Does the work of [`measure`](Trainer::measure).
    pub(super) async fn read_out(&mut self, wanted: Readouts) -> Result<()> {
        if wanted.norms == Some(0) {
            return Err(Error::argument("norms", "they are measured in each n-th step, and n must be at least 1"));
        }
        if wanted == self.update.readouts {
            return Ok(());
        }
        self.no_part("measure")?;
        self.collect().await?;
        let ring = Ring::new(&self.store, self.ring.outputs(), wanted).await?;
        self.gone += self.ring.counters();
        self.drop_plans();
        (self.update.readouts, self.ring) = (wanted, ring);
        Ok(())
    }
}
