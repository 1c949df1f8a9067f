//! The one error type. Whatever a user can cause ends here, with the op, the shapes, the place or the limit in
//! its text and a word on what to do.

use std::{fmt, panic::Location, path::PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The line of the user's program that made a mistake.
pub type Place = &'static Location<'static>;

/// Everything that can go wrong by a user's input, a file, or the machine.
///
/// ```
/// use downhill::{Device, Error, Graph};
/// let g = Graph::training();
/// let bad = g.input([64, 784]).matmul(g.input([512, 10]));
/// let error = bad.error().unwrap();
/// assert!(error.to_string().starts_with("matmul: [64, 784] × [512, 10]: inner dimensions 784 and 512 differ ("));
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An op was given shapes (or a setting) it cannot take. Found while the graph is built, before any GPU work.
    #[error("{op}: {}: {why} ({}:{})", if operands.is_empty() { "no inputs".to_string() } else { operands.join(" × ") }, .place.file(), .place.line())]
    Op {
        /// The op's name, e.g. `matmul`.
        op: String,
        /// The shapes it was given, parameters with their names: `[64, 784]`, `fc2.weight [10, 512]`. Where a trainer tries a model, sizes
        /// that depend on the batch size `n` say so: `[n, 784]`.
        operands: Vec<String>,
        /// What does not fit, and what would.
        why: String,
        /// The line that called it.
        place: Place,
    },
    /// An argument outside its range.
    #[error("{what}: {why}")]
    Argument {
        /// The function or setting.
        what: String,
        /// What it was given, and what it takes.
        why: String,
    },
    /// Data handed to a plan does not have the shape the graph was built for.
    #[error("{what}: got {got}, but the graph was built for {want}")]
    Input {
        /// Which input.
        what: String,
        /// The shape that came.
        got: String,
        /// The shape that the graph has.
        want: String,
    },
    /// A label that names no class.
    #[error("label {label} in row {row} is not one of the {classes} classes (0 to {})", classes - 1)]
    Label {
        /// The sample, from 0.
        row: usize,
        /// What it has.
        label: u32,
        /// How many classes there are.
        classes: usize,
    },
    /// An index that names no row of a table.
    #[error("{op}: the index {index} at position {position:?} is not below {rows}, the size of the vocabulary")]
    Index {
        /// The op that looks it up.
        op: &'static str,
        /// What it is.
        index: u32,
        /// Where it is among the indices, along each of their axes, from 0.
        position: Vec<usize>,
        /// The rows of the table.
        rows: usize,
    },
    /// NaN or infinity in data.
    #[error("{what}: {value} at row {row}, column {column}: replace or drop it before training")]
    NonFinite {
        /// Which data.
        what: String,
        /// NaN or ±infinity.
        value: f32,
        /// The sample, from 0.
        row: usize,
        /// The number within the sample, from 0.
        column: usize,
    },
    /// A file that cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// A file whose content is not what its format says.
    #[error("{}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in the file.
        why: String,
    },
    /// A data set that is in none of the places where it was looked for.
    #[error("{name}: not found; looked in {}. {advice}", looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoData {
        /// What was asked for.
        name: String,
        /// Every place that was tried.
        looked: Vec<PathBuf>,
        /// How to get it.
        advice: String,
    },
    /// No adapter, or none of that name.
    #[error("no GPU adapter {wanted}; adapters here: {}", if available.is_empty() { "none (on Debian or Ubuntu, `apt install mesa-vulkan-drivers` gives a software one)".to_string() } else { available.join("; ") })]
    NoAdapter {
        /// What was asked for, as the end of a sentence.
        wanted: String,
        /// The adapters there are.
        available: Vec<String>,
    },
    /// More than the device allows. `need` and `limit` are in bytes unless `what` says otherwise.
    #[error("{what}: needs {need}, but this device's limit is {limit}: {advice}")]
    Limit {
        /// The tensor or resource.
        what: String,
        /// How much it takes.
        need: u64,
        /// How much there can be.
        limit: u64,
        /// What to make smaller.
        advice: String,
    },
    /// The loss, a gradient, or a number that the update would have written was not finite. The step, and all steps that were queued
    /// behind it, changed nothing: weights and states are those before this step, and training can go on. Running averages (state of the
    /// model) alone may have followed the finite micro-batches of a step that has several.
    #[error(
        "step {step}: the {what} is not finite{}{}. The weights are those of the last finite step; a smaller learning rate (Trainer::set_lr) or gradient clipping usually helps",
        told(*.loss, .what),
        .parameter.as_ref().map_or(String::new(), |name| format!("; the first parameter whose gradient is not finite is {name}"))
    )]
    Diverged {
        /// The first bad step, from 0.
        step: u64,
        /// Its loss; NaN where it has none, because its gradients were [given](crate::Trainer::apply_gradients).
        loss: f32,
        /// The first parameter, in the order in which the model made them, whose gradient was not finite. `None` where all gradients were
        /// finite. Frozen parameters have no gradient.
        parameter: Option<String>,
        /// `loss`; `gradient`, where the loss was finite; or, where all gradients were, `update` and in brackets the number that would
        /// have overflowed: a weight, a state of the optimizer, state of the model.
        what: String,
    },
    /// A parameter name or shape that does not match the model.
    #[error("parameter {name}: {why}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What does not fit.
        why: String,
    },
    /// The driver refused, ran out of memory or lost the device.
    #[error("{device}: {why}")]
    Device {
        /// Adapter and driver.
        device: String,
        /// What wgpu said.
        why: String,
    },
}

impl Error {
    pub(crate) fn argument(what: impl Into<String>, why: impl Into<String>) -> Self {
        Error::Argument { what: what.into(), why: why.into() }
    }
    pub(crate) fn file(path: impl Into<PathBuf>, why: impl fmt::Display) -> Self {
        Error::File { path: path.into(), why: why.to_string() }
    }
    pub(crate) fn format(path: impl Into<PathBuf>, why: impl fmt::Display) -> Self {
        Error::Format { path: path.into(), why: why.to_string() }
    }
}

/// The loss of a step that diverged, where it has one.
fn told(loss: f32, what: &str) -> String {
    match what {
        "loss" => format!(" ({loss})"),
        _ if loss.is_nan() => String::new(),
        _ => format!(" (loss {loss})"),
    }
}
