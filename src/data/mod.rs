//! Data: a [`Dataset`] holds samples and targets. This module makes data sets, and splits, normalises and batches them.
//!
//! - [`Dataset::new`], [`Dataset::bytes`], [`Dataset::tokens`] take numbers from memory.
//! - [`Csv`], [`idx`], [`mnist`], [`cifar10`] read files, gzipped or not. [`with_read_limit`] sets the largest size of a
//!   file.
//! - [`Text`] takes a text, for models of its characters.
//! - [`ArrayFile`], [`TokenFile`] and [`image_folder`] read files when a batch needs them, for data that memory does not hold.
//!   [`Source`] is for readers of your own.
//! - [`digits`], [`iris`], [`breast_cancer`], [`diabetes`], [`genesis`] are real data that ships with the crate.

mod array;
mod augment;
mod cifar;
mod classes;
mod columns;
mod csv;
mod field;
mod fields;
mod file;
mod folder;
mod gather;
pub mod idx;
mod known;
mod mnist;
mod normalise;
mod selection;
mod source;
mod split;
mod text;
mod tokens;
#[cfg(test)]
pub(crate) mod told;

pub use array::ArrayFile;
pub use augment::Augment;
pub use cifar::cifar10;
pub use csv::{Column, Csv};
pub use field::{Field, Role};
pub use file::with_read_limit;
pub use folder::image_folder;
pub use known::{breast_cancer, diabetes, digits, genesis, iris};
pub use mnist::mnist;
pub use normalise::Normalise;
pub use selection::Selection;
pub use source::{Rows, Source};
pub use split::{batches, shuffled};
pub use text::Text;
pub use tokens::TokenFile;

use crate::{
    error::{Error, Result},
    shape::{DType, Shape},
};
use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The inputs of a model, row-major, one sample after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// Floats.
    Float(Vec<f32>),
    /// Images stored as bytes, which take a quarter of the memory. A pixel is `byte · scale + shift`, rounded once.
    Bytes {
        /// The bytes, row-major.
        data: Vec<u8>,
        /// The factor of each byte. 1/255 gives pixels in 0..1.
        scale: f64,
        /// The number added to the product. Factor and shift are `f64`, because product and shift nearly cancel in normalised
        /// images that are mostly white.
        shift: f64,
    },
    /// Numbers of words or characters, `0..vocabulary`. The model gets them as `u32`, for a table of embeddings.
    Tokens {
        /// The numbers, row-major.
        data: Vec<u32>,
        /// The number of different words or characters.
        vocabulary: usize,
    },
    /// Floats or tokens that are read when a batch needs them. See [`Source`].
    Source(Rows),
}

impl Features {
    /// Returns the number of elements of all samples together.
    pub fn len(&self) -> usize {
        match self {
            Features::Float(v) => v.len(),
            Features::Bytes { data, .. } => data.len(),
            Features::Tokens { data, .. } => data.len(),
            Features::Source(rows) => rows.elements(),
        }
    }
    /// Returns true if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns element `i` as the model sees it.
    pub(crate) fn at(&self, i: usize) -> f32 {
        self.exact(i) as f32
    }
    /// Returns element `i` before it is rounded.
    fn exact(&self, i: usize) -> f64 {
        match self {
            Features::Float(v) => f64::from(v[i]),
            Features::Bytes { data, scale, shift } => pixel(data[i], *scale, *shift),
            Features::Tokens { data, .. } => f64::from(data[i]),
            Features::Source(rows) => rows.element(i),
        }
    }
    /// Returns the number of different tokens or labels. `None` for numbers.
    pub(crate) fn vocabulary(&self) -> Option<usize> {
        match self {
            Features::Float(_) | Features::Bytes { .. } => None,
            Features::Tokens { vocabulary, .. } => Some(*vocabulary),
            Features::Source(rows) => rows.vocabulary(),
        }
    }
}

/// Returns the value of a byte before it is rounded.
fn pixel(byte: u8, scale: f64, shift: f64) -> f64 {
    f64::from(byte) * scale + shift
}

/// The targets that a model should predict.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// No targets. A model can still make predictions for such data.
    None,
    /// Classes with the numbers `0..classes`.
    Labels {
        /// The shape of one sample's labels: `[]` for one class, `[t]` for one class at each of t positions.
        sample: Shape,
        /// The labels, row-major, one sample after the other.
        values: Vec<u32>,
        /// The number of classes.
        classes: usize,
    },
    /// Numbers of shape `sample` for each sample.
    Values {
        /// The shape of one sample's numbers.
        sample: Shape,
        /// The numbers, row-major, one sample after the other.
        data: Vec<f32>,
    },
}

impl Target {
    /// Targets with one class for each sample, `0..classes`.
    pub fn labels(values: Vec<u32>, classes: usize) -> Target {
        Target::labels_per([], values, classes)
    }
    /// Targets with classes of shape `sample` for each sample, `0..classes`. `[t]` means one class at each of t positions of
    /// a sequence.
    pub fn labels_per(sample: impl Into<Shape>, values: Vec<u32>, classes: usize) -> Target {
        Target::Labels { sample: sample.into().u32(), values, classes }
    }
    /// Targets with numbers of shape `sample` for each sample. `[1]` fits the output of `linear(_, 1)`.
    pub fn values(sample: impl Into<Shape>, data: Vec<f32>) -> Target {
        Target::Values { sample: sample.into().of(DType::F32), data }
    }
}

fn pick<T: Copy>(data: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    rows.iter().flat_map(|&r| &data[r * width..(r + 1) * width]).copied().collect()
}

/// Samples and their targets. Every constructor checks that each number is finite, each label names a class, and each sample
/// is complete.
///
/// A data set consists of named columns ([`Field`]) with one array for each sample. [`Dataset::of`] takes any number of
/// columns. Most data sets have one feature and one target: [`Dataset::new`], [`Dataset::bytes`] and [`Dataset::tokens`] name
/// them `x` and `y`.
///
/// ```
/// use downhill::data::{Dataset, Target};
/// let data = Dataset::new(vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [2], Target::labels(vec![0, 1, 0], 2))?;
/// let (x, y) = data.batch(&[2, 0])?;
/// assert_eq!((data.len(), x.f(), y.u()), (3, &[0.5, 0.6, 0.1, 0.2][..], &[0, 0][..]));
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Dataset {
    /// The columns, sorted by role. The first column is a feature.
    fields: Vec<Field>,
    class_names: Vec<String>,
    len: usize,
    id: Id,
}

/// The identity of the numbers in a data set. A copy has the same identity. Every change of the numbers takes a new identity.
/// So data that is already on a device need not be uploaded again. Two identities always compare as equal, so `Dataset`'s
/// `PartialEq` ignores them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(u64);

impl Id {
    fn new() -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Id(NEXT.fetch_add(1, Relaxed))
    }
    pub fn is(self, other: Id) -> bool {
        self.0 == other.0
    }
}

impl PartialEq for Id {
    fn eq(&self, _: &Id) -> bool {
        true
    }
}

impl Dataset {
    /// Creates a data set of floats. `x` has one sample of shape `sample` after the other.
    ///
    /// # Errors
    /// [`Error::NonFinite`] and [`Error::Label`] name the row. [`Error::Argument`] reports lengths that do not fit, a data
    /// set without rows, and a sample with no elements or with more than 5 axes.
    pub fn new(x: Vec<f32>, sample: impl Into<Shape>, target: Target) -> Result<Dataset> {
        Dataset::with(Features::Float(x), sample.into(), target)
    }
    /// Creates a data set of bytes, which stay bytes in memory. A number is `byte · scale`, so a scale of 1/255 gives images
    /// in 0..1.
    pub fn bytes(x: Vec<u8>, sample: impl Into<Shape>, scale: f32, target: Target) -> Result<Dataset> {
        Dataset::with(Features::Bytes { data: x, scale: f64::from(scale), shift: 0.0 }, sample.into(), target)
    }
    /// Creates a data set of tokens below `vocabulary`. A model gets the tokens as `u32`.
    ///
    /// # Errors
    /// [`Error::Index`] if a token is not below `vocabulary`, and the errors of [`new`](Dataset::new).
    pub fn tokens(x: Vec<u32>, sample: impl Into<Shape>, vocabulary: usize, target: Target) -> Result<Dataset> {
        Dataset::with(Features::Tokens { data: x, vocabulary }, sample.into(), target)
    }
    fn with(features: Features, sample: Shape, target: Target) -> Result<Dataset> {
        Dataset::of([Field::new("x", Role::Feature, sample, features)].into_iter().chain(Field::of_target(target)))
    }
    /// Creates a data set of named columns, at least one of which is a feature. The columns are sorted by role: features,
    /// targets, weights, masks, lengths. Columns of one role keep their order.
    /// [`Trainer::for_batches`](crate::Trainer::for_batches) trains on such data.
    ///
    /// ```
    /// use downhill::data::{Dataset, Field};
    /// let (age, zip) = (vec![0.31, 0.64], vec![7, 2]);
    /// let data = Dataset::of([
    ///     Field::floats("age", [1], age),
    ///     Field::tokens("zip", [], zip, 10),
    ///     Field::values("rent", [1], vec![0.9, 1.4]),
    ///     Field::labels("kind", vec![2, 0], 3),
    /// ])?;
    /// assert_eq!(format!("{data:?}"), "Dataset(2 samples: age [1] floats, zip [] tokens, rent [1] target, kind 3 classes)");
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`new`](Dataset::new). [`Error::Argument`] for two columns of one name, for an empty name, for columns of
    /// different lengths, and where no column is a feature.
    pub fn of(fields: impl IntoIterator<Item = Field>) -> Result<Dataset> {
        let mut fields: Vec<Field> = fields.into_iter().collect();
        fields.sort_by_key(|field| field.role);
        let Some(first) = fields.first().filter(|field| field.role == Role::Feature) else {
            return Err(Error::argument("Dataset", "no column is a feature, so a model has no input"));
        };
        let len = first.check()?;
        for (i, field) in fields.iter().enumerate() {
            if field.name.is_empty() || fields[..i].iter().any(|other| other.name == field.name) {
                return Err(Error::argument("Dataset", format!("two columns are named `{}`, or the name is empty", field.name)));
            }
            let rows = if i == 0 { len } else { field.check()? };
            if rows != len {
                let what = if field.called() == "targets" { "targets".to_string() } else { format!("rows of `{}`", field.name) };
                return Err(Error::argument("Dataset", format!("{len} samples, but {rows} {what}")));
            }
        }
        Ok(Dataset { fields, class_names: Vec::new(), len, id: Id::new() })
    }
    /// Returns the columns.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }
    /// Returns the names of the columns.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }
    /// Returns the column `name`.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such column. The error lists the names.
    pub fn field(&self, name: &str) -> Result<&Field> {
        Ok(&self.fields[self.position(name)?])
    }
    /// Returns the number of the column `name`.
    pub(crate) fn position(&self, name: &str) -> Result<usize> {
        self.names().position(|other| other == name).ok_or_else(|| no_column(name, self.names()))
    }
    /// Adds a column.
    ///
    /// # Errors
    /// The errors of [`of`](Dataset::of).
    pub fn and(self, field: Field) -> Result<Dataset> {
        let class_names = self.class_names;
        Ok(Dataset { class_names, ..Dataset::of(self.fields.into_iter().chain([field]))? })
    }
    /// Returns the data set with these columns alone.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such column, and the errors of [`of`](Dataset::of).
    pub fn select(&self, names: &[&str]) -> Result<Dataset> {
        let fields: Vec<Field> = names.iter().map(|name| self.field(name).cloned()).collect::<Result<_>>()?;
        let data = Dataset::of(fields)?;
        let same = data.classes() == self.class_names.len();
        Ok(Dataset { class_names: if same { self.class_names.clone() } else { Vec::new() }, ..data })
    }
    /// Sets the names of the classes.
    pub fn with_class_names(mut self, names: &[&str]) -> Result<Dataset> {
        if names.len() != self.classes() {
            return Err(Error::argument("class names", format!("{} names for {} classes", names.len(), self.classes())));
        }
        self.class_names = names.iter().map(|n| n.to_string()).collect();
        Ok(self)
    }
    /// Gives the samples another shape, such as `[784]` for `[1, 28, 28]`. It changes the first feature.
    pub fn reshape(mut self, sample: impl Into<Shape>) -> Result<Dataset> {
        let (old, sample) = (self.sample_shape(), sample.into());
        field::check_sample("features", sample)?;
        if sample.elements() != old.elements() {
            return Err(Error::argument("Dataset::reshape", format!("a sample is {old}, which does not fill {}", sample.of(DType::F32))));
        }
        self.fields[0].sample = sample.of(old.dtype());
        Ok(self)
    }
    /// Flattens each sample of the first feature to one axis.
    pub fn flat(mut self) -> Dataset {
        let sample = self.sample_shape();
        self.fields[0].sample = Shape::from([sample.elements()]).of(sample.dtype());
        self
    }
    /// Turns the labels of the first target into floats, as binary cross-entropy takes them: 0.0 and 1.0 for two classes. A
    /// single label for each sample gets the shape `[1]`. Other targets stay unchanged.
    pub fn with_float_labels(mut self) -> Dataset {
        if let Some(i) = self.first_target()
            && let Features::Tokens { data, .. } = &self.fields[i].data
        {
            let field = &self.fields[i];
            let sample = if field.sample.rank() == 0 { Shape::from([1]) } else { field.sample };
            self.id = Id::new();
            self.fields[i] = Field::values(field.name.as_str(), sample, data.iter().map(|&v| v as f32).collect());
        }
        self
    }

    /// Removes the targets. A model whose target is its input, such as an autoencoder, needs no targets.
    pub fn without_target(mut self) -> Dataset {
        self.fields.retain(|field| field.role != Role::Target);
        Dataset { class_names: Vec::new(), id: Id::new(), ..self }
    }

    /// Returns the identity of the numbers.
    pub(crate) fn id(&self) -> Id {
        self.id
    }
    /// Returns the numbers of column `i` for a change, and takes a new identity.
    fn change(&mut self, i: usize) -> &mut Features {
        self.id = Id::new();
        &mut self.fields[i].data
    }
    fn first_target(&self) -> Option<usize> {
        self.fields.iter().position(|field| field.role == Role::Target)
    }
    /// Returns the number of samples, which is at least one.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Returns false: a data set has at least one sample.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Returns the first feature, which most models take alone.
    pub fn features(&self) -> &Features {
        &self.fields[0].data
    }
    /// Returns a copy of the first target. [`field`](Dataset::field) borrows a column instead.
    pub fn target(&self) -> Target {
        self.first_target().map_or(Target::None, |i| self.fields[i].target())
    }
    /// Returns the shape of one sample of the first feature, without the batch axis.
    pub fn sample_shape(&self) -> Shape {
        self.fields[0].sample
    }
    /// Returns the labels of the first target. The slice is empty if the target is no column of labels, or has a [`Source`].
    pub fn labels(&self) -> &[u32] {
        match self.first_target().map(|i| &self.fields[i].data) {
            Some(Features::Tokens { data, .. }) => data,
            _ => &[],
        }
    }
    /// Returns the number of classes of the first target, or 0 if it is no column of labels.
    pub fn classes(&self) -> usize {
        self.first_target().and_then(|i| self.fields[i].data.vocabulary()).unwrap_or(0)
    }
    /// Returns the names of the classes. The slice is empty if the classes have no names.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }
    /// Returns the name of a class, or its number if it has no name.
    pub fn class_name(&self, class: u32) -> String {
        self.class_names.get(class as usize).cloned().unwrap_or_else(|| class.to_string())
    }

    /// Returns a data set of the rows `rows`, in this order. A [`Selection`] is a range or a list.
    pub fn subset(&self, rows: impl Selection) -> Result<Dataset> {
        let rows = &rows.rows(self.len)[..];
        self.check_rows(rows)?;
        if rows.is_empty() {
            return Err(Error::argument("Dataset::subset", "no rows"));
        }
        let fields = self.fields.iter().map(|field| field.pick(rows)).collect();
        Ok(Dataset { fields, class_names: self.class_names.clone(), len: rows.len(), id: Id::new() })
    }
    fn check_rows(&self, rows: &[usize]) -> Result<()> {
        match rows.iter().find(|&&r| r >= self.len) {
            Some(r) => Err(Error::argument(format!("row {r}"), format!("the data has {} rows (0 to {})", self.len, self.len - 1))),
            None => Ok(()),
        }
    }
}

/// Returns the error for a name that no column has.
pub(crate) fn no_column<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let names: Vec<&str> = names.collect();
    Error::argument(format!("column `{name}`"), format!("the data has no such column; it has {}", names.join(", ")))
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kind = |data: &Features| match data {
            Features::Float(_) => "floats",
            Features::Bytes { .. } => "bytes",
            Features::Tokens { .. } => "tokens",
            Features::Source(rows) if rows.vocabulary().is_some() => "tokens of a source",
            Features::Source(_) => "floats of a source",
        };
        let text = |field: &Field| {
            let sample = field.sample.of(DType::F32);
            match (field.data.vocabulary(), field.role) {
                (_, Role::Feature) => format!("{sample} {}", kind(&field.data)),
                (Some(classes), Role::Target) if sample.rank() > 0 => format!("{classes} classes at each of {sample}"),
                (Some(classes), Role::Target) => format!("{classes} classes"),
                (_, role) => format!("{sample} {}", format!("{role:?}").to_lowercase()),
            }
        };
        match &self.fields[..] {
            [x] if x.name == "x" => write!(f, "Dataset({} samples of {}, no targets)", self.len, text(x)),
            [x, y] if (x.name.as_str(), y.name.as_str()) == ("x", "y") => match y.data.vocabulary() {
                Some(_) => write!(f, "Dataset({} samples of {}, {})", self.len, text(x), text(y)),
                None => write!(f, "Dataset({} samples of {}, targets {})", self.len, text(x), y.sample),
            },
            all => {
                let all: Vec<String> = all.iter().map(|field| format!("{} {}", field.name, text(field))).collect();
                write!(f, "Dataset({} samples: {})", self.len, all.join(", "))
            }
        }
    }
}

pub(crate) fn check_finite(what: &str, data: &[f32], sample: Shape) -> Result<()> {
    let width = sample.elements();
    match data.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::NonFinite { what: what.to_string(), value: data[i], row: i / width, column: i % width }),
        None => Ok(()),
    }
}

/// Returns an error unless every token is below `vocabulary`. `sample` contains the axes of one sample.
fn check_tokens(op: &'static str, tokens: &[u32], vocabulary: usize, sample: &[usize]) -> Result<()> {
    if vocabulary == 0 {
        return Err(Error::argument("vocabulary", "must be at least 1"));
    }
    let Some(mut at) = tokens.iter().position(|&t| t as usize >= vocabulary) else { return Ok(()) };
    let index = tokens[at];
    // The loop goes from the last axis to the first. The remaining quotient is the number of the sample.
    let mut position: Vec<usize> = sample.iter().rev().map(|&d| (at % d, at /= d).0).collect();
    position.push(at);
    position.reverse();
    Err(Error::Index { op, index, position, rows: vocabulary })
}

pub(crate) fn check_labels(values: &[u32], classes: usize) -> Result<()> {
    if classes == 0 {
        return Err(Error::argument("classes", "must be at least 1"));
    }
    match values.iter().position(|&v| v as usize >= classes) {
        Some(row) => Err(Error::Label { row, label: values[row], classes }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn six() -> Dataset {
        Dataset::new((0..12).map(|i| i as f32).collect(), [2], Target::labels(vec![0, 1, 2, 0, 1, 2], 3)).unwrap()
    }

    #[test]
    fn batches_hold_the_rows_asked_for() {
        let alone = six().with_class_names(&["a", "b", "c"]).unwrap().without_target();
        assert_eq!((alone.target(), alone.classes(), alone.class_names().len()), (Target::None, 0, 0));
        assert_eq!(alone.features(), six().features());
        let (x, y) = six().batch(&[5, 0, 5]).unwrap();
        assert_eq!(x, Host::new([3, 2], vec![10.0, 11.0, 0.0, 1.0, 10.0, 11.0]));
        assert_eq!(y, Host::labels([3], vec![2, 0, 2]));

        let images = Dataset::bytes(vec![0, 51, 255, 102], [1, 2], 1.0 / 255.0, Target::values([1], vec![3.0, 4.0])).unwrap();
        let (x, y) = images.batch(&[1]).unwrap();
        assert_eq!(x.shape, Shape::from([1, 1, 2]));
        assert!((x.f()[0] - 1.0).abs() < 1e-7 && (x.f()[1] - 0.4).abs() < 1e-7);
        assert_eq!(y, Host::new([1, 1], vec![4.0]));
        assert_eq!(images.features().at(3), x.f()[1]);

        let bare = Dataset::new(vec![1.0, 2.0], [], Target::None).unwrap();
        let (x, y) = bare.batch(&[1, 0]).unwrap();
        assert_eq!((x, y.len()), (Host::new([2], vec![2.0, 1.0]), 0));
    }

    #[test]
    fn subsets_and_shapes() {
        let part = six().with_class_names(&["a", "b", "c"]).unwrap().subset(&[4, 1]).unwrap();
        assert_eq!((part.len(), part.labels(), part.classes()), (2, &[1, 1][..], 3));
        assert_eq!(part.features(), &Features::Float(vec![8.0, 9.0, 2.0, 3.0]));
        assert_eq!((part.class_name(1), six().class_name(1)), ("b".to_string(), "1".to_string()));
        let image = part.reshape([1, 2, 1]).unwrap();
        assert_eq!(image.sample_shape(), Shape::from([1, 2, 1]));
        assert_eq!(image.flat().sample_shape(), Shape::from([2]));
        assert_eq!(format!("{:?}", six()), "Dataset(6 samples of [2] floats, 3 classes)");
    }

    #[test]
    fn other_numbers_are_another_data_set() {
        let data = six();
        let same = |other: &Dataset| data.id().is(other.id());
        assert!(same(&data) && same(&data.clone()) && same(&data.clone().reshape([1, 2]).unwrap()) && same(&data.clone().flat()));
        assert!(same(&data.clone().with_class_names(&["a", "b", "c"]).unwrap()));
        // The two are equal, but their identities differ.
        assert!(!same(&six()) && six() == data);
        let mut normal = data.clone();
        Normalise::overall(&data).apply(&mut normal).unwrap();
        assert!(!same(&normal) && !same(&data.subset(&[0, 1, 2, 3, 4, 5]).unwrap()));
        assert!(!same(&data.clone().with_float_labels()) && !same(&data.clone().without_target()));
        let values = data.clone().with_float_labels();
        let mut scaled = values.clone();
        Normalise::targets(&values).unwrap().apply_targets(&mut scaled).unwrap();
        assert!(!scaled.id().is(values.id()));
    }

    #[test]
    fn bad_data_is_refused_with_its_place() {
        let new = |x: Vec<f32>, target| Dataset::new(x, [2], target).unwrap_err();
        let e = new(vec![0.0, 1.0, 2.0, f32::NAN], Target::None);
        assert!(matches!(e, Error::NonFinite { row: 1, column: 1, .. }), "{e}");
        assert_eq!(e.to_string(), "features: NaN at row 1, column 1: replace or drop it before training");
        let e = new(vec![0.0; 4], Target::values([1], vec![1.0, f32::INFINITY]));
        assert!(matches!(&e, Error::NonFinite { what, row: 1, column: 0, .. } if what == "targets"), "{e}");
        let e = new(vec![0.0; 6], Target::labels(vec![0, 3, 1], 3));
        assert!(matches!(e, Error::Label { row: 1, label: 3, classes: 3 }), "{e}");
        for (e, part) in [
            (new(vec![0.0; 3], Target::None), "3 numbers are no whole samples of [2]"),
            (new(vec![], Target::None), "no rows"),
            (new(vec![0.0; 4], Target::labels(vec![0], 2)), "2 samples, but 1 targets"),
            (new(vec![0.0; 4], Target::labels(vec![0, 0], 0)), "at least 1"),
            (Dataset::new(vec![0.0], [1; 6], Target::None).unwrap_err(), "at most 5 axes"),
            (Dataset::new(vec![], [0], Target::None).unwrap_err(), "no elements"),
            (six().reshape([usize::MAX, 3]).unwrap_err(), "too many"),
            (Dataset::bytes(vec![0], [1], f32::NAN, Target::None).unwrap_err(), "scale"),
            (six().reshape([3]).unwrap_err(), "does not fill [3]"),
            (six().with_class_names(&["a"]).unwrap_err(), "1 names for 3 classes"),
            (six().batch(&[0, 6]).unwrap_err(), "the data has 6 rows (0 to 5)"),
            (six().subset(&[6]).unwrap_err(), "row 6"),
            (six().subset(&[]).unwrap_err(), "no rows"),
        ] {
            assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains(part), "{e}");
        }
    }
}
