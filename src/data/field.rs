//! The named columns of a data set.

use super::{Features, Target, check_finite, check_labels, check_tokens, pick};
use crate::{
    error::{Error, Result},
    shape::{DType, MAX_RANK, Shape},
};
use std::sync::Arc;

/// The role of a column in training.
///
/// A prediction needs features, masks and lengths. It does without targets and weights, which only losses need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// An input of the model.
    Feature,
    /// A value or a label that the model should predict.
    Target,
    /// The weight of each sample in a loss.
    Weight,
    /// A mask of the positions of each sample, for example 1 at a word and 0 at padding.
    Mask,
    /// The number of valid positions of each sample.
    Length,
}

/// A column of a [`Dataset`](super::Dataset): a name, a role, and one array of a fixed shape for each sample. The arrays have
/// the shape `sample` and are row-major, one sample after the other.
///
/// ```
/// use downhill::data::{Dataset, Field};
/// let data = Dataset::of([
///     Field::floats("income", [], vec![0.3, 1.2, 0.7]),
///     Field::tokens("words", [2], vec![4, 0, 1, 1, 3, 2], 5),
///     Field::labels("bought", vec![0, 1, 1], 2),
///     Field::weights(vec![1.0, 0.5, 1.0]),
/// ])?;
/// assert_eq!(data.names().collect::<Vec<_>>(), ["income", "words", "bought", "weight"]);
/// let batch = data.columns(&[2, 0])?;
/// assert_eq!((batch[0].f(), batch[1].u(), batch[2].u()), (&[0.7, 0.3][..], &[3, 2, 4, 0][..], &[1, 0][..]));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub(super) name: String,
    pub(super) role: Role,
    /// The shape of one sample, with the type that the model gets.
    pub(super) sample: Shape,
    pub(super) data: Features,
    /// The names of the tokens or labels. Empty if they have none.
    pub(super) categories: Arc<[String]>,
}

impl Field {
    /// Makes a column of any kind. The other constructors are shorter.
    pub fn new(name: impl Into<String>, role: Role, sample: impl Into<Shape>, data: Features) -> Field {
        let dtype = if data.vocabulary().is_some() { DType::U32 } else { DType::F32 };
        Field { name: name.into(), role, sample: sample.into().of(dtype), data, categories: Arc::default() }
    }
    /// Makes a feature of floats.
    pub fn floats(name: impl Into<String>, sample: impl Into<Shape>, data: Vec<f32>) -> Field {
        Field::new(name, Role::Feature, sample, Features::Float(data))
    }
    /// Makes a feature of bytes, which stay bytes in memory. A number is `byte · scale`.
    pub fn bytes(name: impl Into<String>, sample: impl Into<Shape>, data: Vec<u8>, scale: f32) -> Field {
        Field::new(name, Role::Feature, sample, Features::Bytes { data, scale: f64::from(scale), shift: 0.0 })
    }
    /// Makes a feature of tokens below `vocabulary`, which the model gets as `u32`. Categories are tokens of shape `[]`.
    pub fn tokens(name: impl Into<String>, sample: impl Into<Shape>, data: Vec<u32>, vocabulary: usize) -> Field {
        Field::new(name, Role::Feature, sample, Features::Tokens { data, vocabulary })
    }
    /// Makes a target with one class for each sample, `0..classes`.
    pub fn labels(name: impl Into<String>, values: Vec<u32>, classes: usize) -> Field {
        Field::labels_per(name, [], values, classes)
    }
    /// Makes a target with classes of shape `sample` for each sample, `0..classes`.
    pub fn labels_per(name: impl Into<String>, sample: impl Into<Shape>, values: Vec<u32>, classes: usize) -> Field {
        Field::new(name, Role::Target, sample, Features::Tokens { data: values, vocabulary: classes })
    }
    /// Makes a target of numbers. `[1]` fits the output of `linear(_, 1)`.
    pub fn values(name: impl Into<String>, sample: impl Into<Shape>, data: Vec<f32>) -> Field {
        Field::new(name, Role::Target, sample, Features::Float(data))
    }
    /// Makes the column `weight`, with one weight for each sample.
    pub fn weights(data: Vec<f32>) -> Field {
        Field::new("weight", Role::Weight, [], Features::Float(data))
    }
    /// Makes the column `mask`, with one number for each position of a sample. Bytes of 1 and 0 are stored, which the model
    /// gets as floats.
    pub fn mask(sample: impl Into<Shape>, data: &[bool]) -> Field {
        let data = data.iter().map(|&b| u8::from(b)).collect();
        Field::new("mask", Role::Mask, sample, Features::Bytes { data, scale: 1.0, shift: 0.0 })
    }
    /// Makes the column `length`, with the number of valid positions of each sample, at most `most`. The model gets it as
    /// `u32`.
    pub fn lengths(data: Vec<u32>, most: usize) -> Field {
        Field::new("length", Role::Length, [], Features::Tokens { data, vocabulary: most.saturating_add(1) })
    }
    /// Gives the column another name.
    pub fn named(self, name: impl Into<String>) -> Field {
        Field { name: name.into(), ..self }
    }
    /// Gives the column another role.
    pub fn with_role(self, role: Role) -> Field {
        Field { role, ..self }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Returns the role.
    pub fn role(&self) -> Role {
        self.role
    }
    /// Returns the shape of one sample, with the type that the model gets.
    pub fn sample(&self) -> Shape {
        self.sample
    }
    /// Returns the numbers. Labels and lengths are tokens.
    pub fn data(&self) -> &Features {
        &self.data
    }

    /// Returns the names of the tokens or labels, in order. The slice is empty if they have no names. [`Csv`](super::Csv) gives
    /// names to categories.
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// Makes the column `y` of the targets of a data set. `None` where there are no targets.
    pub(super) fn of_target(target: Target) -> Option<Field> {
        match target {
            Target::None => None,
            Target::Labels { sample, values, classes } => Some(Field::labels_per("y", sample, values, classes)),
            Target::Values { sample, data } => Some(Field::values("y", sample, data)),
        }
    }
    /// Returns the numbers as targets. Only numbers and labels can be targets.
    pub(super) fn target(&self) -> Target {
        let numbers = || (0..self.data.len()).map(|i| self.data.exact(i));
        match &self.data {
            Features::Float(data) => Target::values(self.sample, data.clone()),
            Features::Source(rows) if rows.vocabulary().is_some() => {
                Target::labels_per(self.sample, numbers().map(|x| x as u32).collect(), rows.vocabulary().unwrap_or(0))
            }
            Features::Bytes { .. } | Features::Source(_) => Target::values(self.sample, numbers().map(|x| x as f32).collect()),
            Features::Tokens { data, vocabulary } => Target::labels_per(self.sample, data.clone(), *vocabulary),
        }
    }
    /// Returns the name for errors. Where a data set has one feature and one target, errors call them so.
    pub(super) fn called(&self) -> String {
        match (self.role, self.name.as_str()) {
            (Role::Feature, "x") => "features".into(),
            (Role::Target, "y") => "targets".into(),
            (_, name) => name.to_string(),
        }
    }
    /// Returns the number of elements of a sample.
    pub(crate) fn width(&self) -> usize {
        self.sample.elements()
    }
    /// Checks that the column has whole samples of finite numbers, and that each token is in range. Returns the number of
    /// samples.
    pub(super) fn check(&self) -> Result<usize> {
        let (what, sample) = (self.called(), self.sample);
        check_sample(&what, sample)?;
        let len = rows(&what, self.data.len(), sample)?;
        match &self.data {
            Features::Float(x) => check_finite(&what, x, sample)?,
            Features::Bytes { scale, shift, .. } if !((255.0 * scale + shift) as f32).is_finite() => {
                return Err(Error::argument(what, format!("the scale of the bytes is {scale}")));
            }
            Features::Bytes { .. } => {}
            Features::Source(rows) => {
                let width = rows.known_width().unwrap_or(self.width());
                if width != self.width() {
                    let why = format!("samples of {}, but a row of the source has {width} numbers", sample.of(DType::F32));
                    return Err(Error::argument(what, why));
                }
                // The numbers are checked when they are read.
                if let Some(vocabulary) = rows.vocabulary() {
                    self.check_indices(&[], vocabulary)?;
                }
            }
            Features::Tokens { data, vocabulary } => self.check_indices(data, *vocabulary)?,
        }
        Ok(len)
    }
    /// Checks that labels or tokens are in range. `data` has whole samples.
    pub(super) fn check_indices(&self, data: &[u32], vocabulary: usize) -> Result<()> {
        match self.role {
            Role::Target => check_labels(data, vocabulary).map_err(|e| match e {
                // A sample may have several labels. The error names the row of the sample.
                Error::Label { row, label, classes } => Error::Label { row: row / self.width(), label, classes },
                other => other,
            }),
            Role::Length => match data.iter().position(|&length| length as usize >= vocabulary) {
                Some(at) => {
                    let (sample, most) = (at / self.width(), vocabulary.saturating_sub(1));
                    Err(Error::Length { op: "Field::lengths", length: data[at], sample, least: 0, most })
                }
                None => Ok(()),
            },
            _ => check_tokens("Dataset::tokens", data, vocabulary, self.sample.dims()),
        }
    }
    /// Returns the column of the rows `rows`, in this order.
    pub(super) fn pick(&self, rows: &[usize]) -> Field {
        let width = self.width();
        let data = match &self.data {
            Features::Float(v) => Features::Float(pick(v, width, rows)),
            Features::Source(all) => Features::Source(all.pick(rows)),
            Features::Bytes { data, scale, shift } => Features::Bytes { data: pick(data, width, rows), scale: *scale, shift: *shift },
            Features::Tokens { data, vocabulary } => Features::Tokens { data: pick(data, width, rows), vocabulary: *vocabulary },
        };
        Field { name: self.name.clone(), data, categories: self.categories.clone(), ..*self }
    }
}

pub(super) fn check_sample(what: &str, sample: Shape) -> Result<()> {
    let elements = sample.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if sample.rank() == MAX_RANK || elements.is_none_or(|n| n == 0) {
        let why = format!(
            "a sample of {} has no elements, or too many, or no axis left for the batch (at most {} axes)",
            sample.of(DType::F32),
            MAX_RANK - 1
        );
        return Err(Error::argument(what, why));
    }
    Ok(())
}

fn rows(what: &str, len: usize, sample: Shape) -> Result<usize> {
    let width = sample.elements();
    match len {
        0 => Err(Error::argument(what, "no rows")),
        _ if !len.is_multiple_of(width) => {
            Err(Error::argument(what, format!("{len} numbers are no whole samples of {} ({width} each)", sample.of(DType::F32))))
        }
        _ => Ok(len / width),
    }
}
