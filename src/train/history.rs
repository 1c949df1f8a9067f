//! The reports of [`Trainer::fit`](crate::Trainer::fit).

use super::{named::Named, readouts::StepNorms};

/// The report of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Epoch {
    /// The number of the epoch. The first epoch of a call of `fit` is 1, unless the call [appends](crate::Fit::append).
    pub epoch: usize,
    /// The mean loss over all samples of the epoch, averaged like [`Evaluation::loss`](super::Evaluation::loss). Each step's
    /// loss is measured before its update.
    pub loss: f64,
    /// The share of labels that the model predicted before the update of each step, for a classifier. See
    /// [`Evaluation::accuracy`](super::Evaluation::accuracy).
    pub accuracy: Option<f64>,
    /// The losses and scalars that the model reports by name, averaged like [`loss`](Epoch::loss). See
    /// [`Outputs::watch`](super::Outputs::watch).
    pub watched: Named<f64>,
    /// The loss on the validation data and, for a classifier, the accuracy.
    pub validation: Option<(f64, Option<f64>)>,
    /// The losses and scalars of the validation data that the model reports by name.
    pub validation_watched: Named<f64>,
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// The learning rate of the epoch's first step.
    pub lr: f64,
    /// The seconds that the training steps took, without validation.
    pub seconds: f64,
    /// The number of samples trained per second, without validation.
    pub samples_per_s: f64,
    /// The gradient noise scale after the last step, if the steps measured it. See [`Fit::noise_scale`](crate::Fit::noise_scale).
    pub noise_scale: Option<f64>,
    /// The norms of each trained parameter in the steps that measured them, in order. See [`Fit::norms`](crate::Fit::norms).
    pub norms: Vec<StepNorms>,
}

/// The reports of a call of `fit`, or of several calls. See [`Fit::append`](crate::Fit::append).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct History {
    /// One report for each complete epoch.
    pub epochs: Vec<Epoch>,
    /// Whether a callback stopped the training early.
    pub stopped: bool,
    /// The size of a micro-batch, where steps were divided into micro-batches. See [`Fit::micro_batch`](crate::Fit::micro_batch) and [`Fit::memory`](crate::Fit::memory).
    pub micro_batch: Option<usize>,
}
