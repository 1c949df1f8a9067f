//! The one error type of the crate. Every failure that a user can cause is an [`Error`]. Its text names the op, the shapes,
//! the place or the limit, and says what to do.

use std::{fmt, panic::Location, path::PathBuf};

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The line of the user's program that made the mistake.
pub type Place = &'static Location<'static>;

/// Everything that can go wrong because of a user's input, a file, or the machine.
///
/// ```
/// use downhill::{Device, Error, Graph};
/// let g = Graph::training();
/// let bad = g.input([64, 784]).matmul(g.input([512, 10]));
/// let error = bad.error().unwrap();
/// assert!(error.to_string().starts_with("matmul: [64, 784] × [512, 10]: inner dimensions 784 and 512 differ ("));
/// // A `main` that returns an error prints this text.
/// assert_eq!(format!("{error:?}"), error.to_string());
/// ```
#[non_exhaustive]
#[derive(Clone, thiserror::Error)]
pub enum Error {
    /// An op got shapes or a setting that it cannot take. The error is found while the graph is built, before any GPU work.
    #[error("{op}: {}: {why} ({}:{})", if operands.is_empty() { "no inputs".to_string() } else { operands.join(" × ") }, .place.file(), .place.line())]
    Op {
        /// The name of the op, e.g. `matmul`.
        op: String,
        /// The shapes of the operands. Parameters appear with their names: `[64, 784]`, `fc2.weight [10, 512]`. When a
        /// trainer builds a model, sizes that depend on the batch size are written with `n`: `[n, 784]`.
        operands: Vec<String>,
        /// The reason why the shapes do not fit, and which shapes would fit.
        why: String,
        /// The line that called the op.
        place: Place,
    },
    /// An argument is outside its range.
    #[error("{what}: {why}")]
    Argument {
        /// The function or the setting.
        what: String,
        /// The value that the function got, and the values that it takes.
        why: String,
    },
    /// Data passed to a plan does not have the shape for which the graph was built.
    #[error("{what}: got {got}, but the graph was built for {want}")]
    Input {
        /// The name of the input.
        what: String,
        /// The shape of the data.
        got: String,
        /// The shape of the input in the graph.
        want: String,
    },
    /// A label is not the number of a class.
    #[error("label {label} in row {row} is not one of the {classes} classes (0 to {})", classes - 1)]
    Label {
        /// The index of the sample, counted from 0.
        row: usize,
        /// The label of the sample.
        label: u32,
        /// The number of classes.
        classes: usize,
    },
    /// An index does not name a row of a table.
    #[error("{op}: the index {index} at position {position:?} is not below {rows}, the size of the vocabulary")]
    Index {
        /// The op that reads the table.
        op: &'static str,
        /// The index.
        index: u32,
        /// The position of the index in the tensor of indices: one number for each axis, counted from 0.
        position: Vec<usize>,
        /// The number of rows of the table.
        rows: usize,
    },
    /// The length of a sequence is too large or too small.
    #[error("{op}: sample {sample} has the length {length}, but lengths must be from {least} to {most}")]
    Length {
        /// The op that takes the lengths, or the function that made their column.
        op: &'static str,
        /// The length.
        length: u32,
        /// The index of the sample, counted from 0: the first axis of the lengths.
        sample: usize,
        /// The smallest length.
        least: u32,
        /// The largest length: the number of steps, of targets or of keys.
        most: usize,
    },
    /// Data contains a NaN or an infinity.
    #[error("{what}: {value} at row {row}, column {column}: replace or drop it before training")]
    NonFinite {
        /// The data that contains the number: features, targets or an input.
        what: String,
        /// The number: NaN or ±infinity.
        value: f32,
        /// The index of the sample, counted from 0.
        row: usize,
        /// The index of the number within the sample, counted from 0.
        column: usize,
    },
    /// A file cannot be read or written.
    #[error("{}: {why}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The message of the operating system.
        why: String,
    },
    /// The content of a file does not follow the file's format.
    #[error("{}: {why}", path.display())]
    Format {
        /// The path of the file.
        path: PathBuf,
        /// The mistake, and its position in the file.
        why: String,
    },
    /// A data set was not found in any of the places that were searched.
    #[error("{name}: not found; looked in {}. {advice}", looked.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoData {
        /// The name of the data set.
        name: String,
        /// Every place that was searched.
        looked: Vec<PathBuf>,
        /// How to get the data set.
        advice: String,
    },
    /// There is no GPU adapter, or no adapter of the requested name.
    #[error("no GPU adapter {wanted}; adapters here: {}", if available.is_empty() { "none (on Debian or Ubuntu, `apt install mesa-vulkan-drivers` gives a software one)".to_string() } else { available.join("; ") })]
    NoAdapter {
        /// The request, as the end of a sentence.
        wanted: String,
        /// The adapters of this machine.
        available: Vec<String>,
    },
    /// Something needs more than the device allows. `need` and `limit` are in bytes unless `what` names another unit.
    #[error("{what}: needs {need}, but this device's limit is {limit}: {advice}")]
    Limit {
        /// The tensor or the resource.
        what: String,
        /// The size that it needs.
        need: u64,
        /// The largest size that the device allows.
        limit: u64,
        /// The setting or size to reduce.
        advice: String,
    },
    /// The loss, a gradient, or a number that the update would have written was not finite. This step changed nothing, and
    /// neither did the steps that were queued behind it: parameters and states have the values from before this step, and
    /// training can continue. There is one exception. If a step has several micro-batches, running averages (states of the
    /// model) may already include the finite micro-batches.
    #[error(
        "step {step}: the {what} is not finite{}{}. The weights are those of the last finite step; a smaller learning rate (Trainer::set_lr) or gradient clipping usually helps",
        told(*.loss, .what),
        .parameter.as_ref().map_or(String::new(), |name| format!("; the first parameter whose gradient is not finite is {name}"))
    )]
    Diverged {
        /// The index of the first diverged step, counted from 0.
        step: u64,
        /// The loss of this step. It is NaN if the gradients were [given](crate::Trainer::apply_gradients), because there is
        /// no loss then.
        loss: f32,
        /// The first parameter with a gradient that was not finite, in the order in which the model created the parameters.
        /// `None` if all gradients were finite. Frozen parameters have no gradient.
        parameter: Option<String>,
        /// The kind of number that was not finite: `loss`; `gradient` if the loss was finite; `update` if all gradients were
        /// finite too. After `update`, brackets name the number that would have overflowed: a parameter, a state of the
        /// optimizer, or a state of the model.
        what: String,
    },
    /// A parameter's name or shape does not match the model.
    #[error("parameter {name}: {why}")]
    Parameter {
        /// The name of the parameter.
        name: String,
        /// The mismatch.
        why: String,
    },
    /// A rank that trains together with this one is at fault: it ended, it does not answer, or it differs from rank 0.
    #[error("rank {rank}: {why}")]
    Rank {
        /// The number of the rank at fault.
        rank: usize,
        /// The fault.
        why: String,
    },
    /// The driver refused a request, ran out of memory or lost the device.
    #[error("{device}: {why}")]
    Device {
        /// The names of the adapter and the driver.
        device: String,
        /// The message of wgpu.
        why: String,
    },
}

/// Writes the sentence of the error, as `Display` does. A `main` that ends with `?` prints the `Debug` text.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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

/// Returns the text about the loss of a diverged step. The text is empty if the step has no loss.
fn told(loss: f32, what: &str) -> String {
    match what {
        "loss" => format!(" ({loss})"),
        _ if loss.is_nan() => String::new(),
        _ => format!(" (loss {loss})"),
    }
}
