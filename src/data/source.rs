//! Columns whose numbers are read when a batch needs them.

use super::{Features, Field, Role};
use crate::{error::Result, shape::Shape};
use std::{fmt, sync::Arc};

/// Reads the numbers of a column when a batch needs them: files that do not fit in memory, or numbers that are computed.
///
/// A training on a GPU reads two batches ahead on another thread. The trainer's seed and the epoch decide the order of the
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
pub trait Source: Send + Sync {
    /// Returns the number of rows. It must not change.
    fn rows(&self) -> usize;
    /// Reads the rows `rows` into `out`, one after the other. Each number must be finite.
    ///
    /// # Errors
    /// A row cannot be read. Training ends with this error.
    fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<()>;
}

/// A [`Source`] and the rows that a data set takes from it.
#[derive(Clone)]
pub struct Rows {
    source: Arc<dyn Source>,
    /// The rows. `None` for all rows in their order.
    rows: Option<Arc<[usize]>>,
    /// The number of elements of a row.
    width: usize,
}

impl Rows {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.as_ref().map_or_else(|| self.source.rows(), |rows| rows.len())
    }
    /// Returns true if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Returns the number of elements of all rows.
    pub(super) fn elements(&self) -> usize {
        self.len().saturating_mul(self.width)
    }
    /// Reads rows.
    ///
    /// # Errors
    /// The error of the source.
    pub fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<()> {
        match &self.rows {
            None => self.source.read(rows, out),
            Some(all) => self.source.read(&rows.iter().map(|&row| all[row]).collect::<Vec<_>>(), out),
        }
    }
    pub(super) fn pick(&self, rows: &[usize]) -> Rows {
        let rows = rows.iter().map(|&row| self.rows.as_ref().map_or(row, |all| all[row])).collect();
        Rows { source: self.source.clone(), rows: Some(rows), width: self.width }
    }
    /// Reads one element, or NaN if it cannot be read.
    pub(super) fn element(&self, i: usize) -> f32 {
        let mut row = vec![f32::NAN; self.width];
        self.read(&[i / self.width], &mut row).map_or(f32::NAN, |()| row[i % self.width])
    }
}

impl PartialEq for Rows {
    fn eq(&self, other: &Rows) -> bool {
        Arc::ptr_eq(&self.source, &other.source) && self.rows == other.rows && self.width == other.width
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Rows({} of a source)", self.len())
    }
}

impl Field {
    /// Makes a feature whose numbers are read when a batch needs them.
    pub fn source(name: impl Into<String>, sample: impl Into<Shape>, source: impl Source + 'static) -> Field {
        let sample = sample.into();
        let rows = Rows { source: Arc::new(source), rows: None, width: sample.elements() };
        Field::new(name, Role::Feature, sample, Features::Source(rows))
    }
}
