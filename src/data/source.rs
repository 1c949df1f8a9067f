//! Columns whose numbers are read when a batch needs them.

use super::{Dataset, Features, Field, Id, Role};
use crate::{
    error::{Error, Result},
    shape::Shape,
};
use std::{borrow::Cow, fmt, sync::Arc};

/// Reads the numbers of a column when a batch needs them: files that do not fit in memory, or numbers that are computed.
///
/// `Source` reads floats, and `Source<u32>` reads tokens or labels. [`ArrayFile`](super::ArrayFile),
/// [`TokenFile`](super::TokenFile) and [`image_folder`](super::image_folder) are sources that are ready to use.
/// [`Dataset::cache`] reads a source into memory.
///
/// A training reads two batches ahead on another thread. The trainer's seed and the epoch decide the order of the
/// rows, as for a column in memory. So a training that is resumed reads the same rows again. `read` must return the same
/// numbers for the same row.
///
/// ```
/// use downhill::{Device, Fit, Trainer, data::{Dataset, Field, Source}, optim::Adam};
/// /// Waves of different phases. A real source reads a file.
/// struct Waves;
/// impl Source for Waves {
///     fn rows(&self) -> usize {
///         1000
///     }
///     fn read(&self, rows: &[usize], out: &mut [f32]) -> downhill::Result<()> {
///         for (row, out) in rows.iter().zip(out.chunks_mut(8)) {
///             out.iter_mut().enumerate().for_each(|(i, x)| *x = (*row as f32 + i as f32 * 0.8).sin());
///         }
///         Ok(())
///     }
/// }
/// let labels = (0..1000).map(|row| u32::from((row as f32).sin() > 0.0)).collect();
/// let data = Dataset::of([Field::source("x", [8], Waves), Field::labels("y", labels, 2)])?;
/// let (train, test) = data.split(0.9, 1)?;
/// let mut trainer =
///     Trainer::for_data(&Device::cpu(), &train, |x| x.linear("fc", 2), |x, y| x.cross_entropy(y), Adam::new(0.05))?;
/// trainer.fit(&train, Fit::new().epochs(3))?;
/// assert!(trainer.evaluate(&test)?.accuracy > Some(0.9));
/// # Ok::<(), downhill::Error>(())
/// ```
pub trait Source<T = f32>: Send + Sync {
    /// Returns the number of rows. It must not change.
    fn rows(&self) -> usize;
    /// Reads the rows `rows` into `out`, one after the other. Each number must be finite. Each token must be below the
    /// vocabulary.
    ///
    /// # Errors
    /// A row cannot be read. Training ends with this error.
    fn read(&self, rows: &[usize], out: &mut [T]) -> Result<()>;
    /// Returns the number of elements of a row, where the source knows it. A column of another sample shape is then an error.
    fn width(&self) -> Option<usize> {
        None
    }
}

/// A [`Source`] and the rows that a data set takes from it.
#[derive(Clone)]
pub struct Rows {
    kind: Kind,
    /// The rows. `None` for all rows in their order.
    rows: Option<Arc<[usize]>>,
    /// The number of elements of a row.
    width: usize,
}

#[derive(Clone)]
enum Kind {
    Floats(Arc<dyn Source>),
    Tokens(Arc<dyn Source<u32>>, usize),
}

impl Rows {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        let all = || match &self.kind {
            Kind::Floats(source) => source.rows(),
            Kind::Tokens(source, _) => source.rows(),
        };
        self.rows.as_ref().map_or_else(all, |rows| rows.len())
    }
    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the number of different tokens or labels. `None` for floats.
    pub fn vocabulary(&self) -> Option<usize> {
        match self.kind {
            Kind::Floats(_) => None,
            Kind::Tokens(_, vocabulary) => Some(vocabulary),
        }
    }
    /// Returns the number of elements of a row, where the source knows it.
    pub(super) fn known_width(&self) -> Option<usize> {
        match &self.kind {
            Kind::Floats(source) => source.width(),
            Kind::Tokens(source, _) => source.width(),
        }
    }
    /// Returns the number of elements of all rows.
    pub(super) fn elements(&self) -> usize {
        self.len().saturating_mul(self.width)
    }
    /// Returns the numbers of rows in the source.
    fn of<'a>(&self, rows: &'a [usize]) -> Cow<'a, [usize]> {
        match &self.rows {
            None => rows.into(),
            Some(all) => rows.iter().map(|&row| all[row]).collect::<Vec<_>>().into(),
        }
    }
    /// Reads rows of floats.
    ///
    /// # Errors
    /// The error of the source. [`Error::Argument`] if the source has tokens.
    pub fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        match &self.kind {
            Kind::Floats(source) => source.read(&self.of(rows), out),
            Kind::Tokens(..) => Err(Error::argument("Rows::read", "the source has tokens; use read_tokens")),
        }
    }
    /// Reads rows of tokens.
    ///
    /// # Errors
    /// The error of the source. [`Error::Argument`] if the source has floats.
    pub fn read_tokens(&self, rows: &[usize], out: &mut [u32]) -> Result<()> {
        match &self.kind {
            Kind::Tokens(source, _) => source.read(&self.of(rows), out),
            Kind::Floats(_) => Err(Error::argument("Rows::read_tokens", "the source has floats; use read")),
        }
    }
    pub(super) fn pick(&self, rows: &[usize]) -> Rows {
        Rows { kind: self.kind.clone(), rows: Some(self.of(rows).into()), width: self.width }
    }
    /// Reads one element, or NaN if it cannot be read.
    pub(super) fn element(&self, i: usize) -> f64 {
        let (row, column) = (i / self.width, i % self.width);
        match self.kind {
            Kind::Floats(_) => {
                let mut out = vec![f32::NAN; self.width];
                self.read(&[row], &mut out).map_or(f64::NAN, |()| f64::from(out[column]))
            }
            Kind::Tokens(..) => {
                let mut out = vec![0; self.width];
                self.read_tokens(&[row], &mut out).map_or(f64::NAN, |()| f64::from(out[column]))
            }
        }
    }
    /// Reads all rows into memory.
    fn cache(&self, what: &str) -> Result<Features> {
        fn all<T: Default + Copy>(what: &str, rows: &Rows, read: impl Fn(&[usize], &mut [T]) -> Result<()>) -> Result<Vec<T>> {
            let (len, mut all) = (rows.elements(), Vec::new());
            all.try_reserve_exact(len).map_err(|_| Error::argument(what, format!("there is no memory for its {len} numbers")))?;
            all.resize(len, T::default());
            let order: Vec<usize> = (0..rows.len()).collect();
            let each = 1 + (1 << 20) / rows.width;
            order.chunks(each).zip(all.chunks_mut(each * rows.width)).try_for_each(|(rows, out)| read(rows, out))?;
            Ok(all)
        }
        Ok(match self.kind {
            Kind::Floats(_) => Features::Float(all(what, self, |rows, out| self.read(rows, out))?),
            Kind::Tokens(_, vocabulary) => Features::Tokens { data: all(what, self, |rows, out| self.read_tokens(rows, out))?, vocabulary },
        })
    }
}

impl PartialEq for Rows {
    fn eq(&self, other: &Rows) -> bool {
        let same = match (&self.kind, &other.kind) {
            (Kind::Floats(a), Kind::Floats(b)) => Arc::ptr_eq(a, b),
            (Kind::Tokens(a, n), Kind::Tokens(b, m)) => Arc::ptr_eq(a, b) && n == m,
            _ => false,
        };
        same && self.rows == other.rows && self.width == other.width
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Rows({} of a source)", self.len())
    }
}

impl Field {
    /// Makes a feature whose numbers are read when a batch needs them. [`with_role`](Field::with_role) makes a target of it.
    pub fn source(name: impl Into<String>, sample: impl Into<Shape>, source: impl Source + 'static) -> Field {
        Field::of_kind(name.into(), sample.into(), Kind::Floats(Arc::new(source)))
    }
    /// Makes a feature of tokens below `vocabulary` that are read when a batch needs them. [`with_role`](Field::with_role)
    /// makes labels of it.
    pub fn token_source(name: impl Into<String>, sample: impl Into<Shape>, source: impl Source<u32> + 'static, vocabulary: usize) -> Field {
        Field::of_kind(name.into(), sample.into(), Kind::Tokens(Arc::new(source), vocabulary))
    }
    fn of_kind(name: String, sample: Shape, kind: Kind) -> Field {
        Field::new(name, Role::Feature, sample, Features::Source(Rows { kind, rows: None, width: sample.elements() }))
    }
}

impl Dataset {
    /// Returns the data set with all numbers in memory. The columns of a [`Source`] are read. Training on the result gives the
    /// same bits, and a GPU can hold the data: see [`Fit::resident`](crate::Fit::resident).
    ///
    /// # Errors
    /// The error of a source, and the errors of [`of`](Dataset::of). [`Error::Argument`] if there is not enough memory.
    pub fn cache(&self) -> Result<Dataset> {
        if !self.has_source() {
            return Ok(self.clone());
        }
        let mut all = self.clone();
        for field in &mut all.fields {
            if let Features::Source(rows) = &field.data {
                field.data = rows.cache(&field.called())?;
            }
            field.check()?;
        }
        all.id = Id::new();
        Ok(all)
    }
    /// Returns whether a column is read when a batch needs it.
    pub(crate) fn has_source(&self) -> bool {
        self.fields.iter().any(|field| matches!(field.data, Features::Source(_)))
    }
}
