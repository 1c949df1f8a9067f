//! Metrics: how good predictions are. All of them are computed in `f64`.
//!
//! Predictions that are not finite are an error, as in scikit-learn: no number says how good they are. Scores may be infinite, since a
//! class that is masked has −∞, but not NaN.
//!
//! `scores` are what a model says of each class, `[n, classes]` row-major: logits, log-probabilities or probabilities. The class
//! with the largest score is predicted; of equal ones the first.

use crate::{
    data::{check_finite, check_labels},
    error::{Error, Result},
    shape::Shape,
};
use std::fmt;

/// The predicted class of each row.
///
/// # Errors
/// [`Error::NonFinite`] for a NaN, which has no place in an order; [`Error::Argument`] for scores that are no whole rows.
pub fn argmax(scores: &[f32], classes: usize) -> Result<Vec<u32>> {
    check_scores(scores, classes)?;
    let largest = |row: &[f32]| (1..classes).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
    Ok(scores.chunks_exact(classes).map(largest).collect())
}

/// The share of rows whose label has the largest score.
///
/// ```
/// use downhill::train::metrics::accuracy;
/// let scores = [0.1, 0.9, /**/ 0.8, 0.2, /**/ 0.3, 0.7, /**/ 0.6, 0.4];
/// assert_eq!(accuracy(&scores, 2, &[1, 0, 0, 0])?, 0.75);
/// # Ok::<(), downhill::Error>(())
/// ```
///
/// # Errors
/// Those of [`argmax`]; [`Error::Label`] for a label beyond the classes; [`Error::Argument`] where the rows are not as many as the
/// labels, or there are none.
pub fn accuracy(scores: &[f32], classes: usize, labels: &[u32]) -> Result<f64> {
    top_k(scores, classes, labels, 1)
}

/// The share of rows whose label is among the `k` largest scores.
///
/// # Errors
/// Those of [`accuracy`], and [`Error::Argument`] where `k` is not in `1..=classes`.
pub fn top_k(scores: &[f32], classes: usize, labels: &[u32], k: usize) -> Result<f64> {
    check(scores, classes, labels)?;
    if k == 0 || k > classes {
        return Err(Error::argument("top_k", format!("k is {k}, but must be 1 to {classes}, the number of classes")));
    }
    let hit = |(row, &label): (&[f32], &u32)| {
        let label = label as usize;
        let before = |(i, x): (usize, &f32)| *x > row[label] || (*x == row[label] && i < label);
        row.iter().enumerate().filter(|&s| before(s)).count() < k
    };
    let hits = scores.chunks_exact(classes).zip(labels).filter(|&s| hit(s)).count();
    Ok(hits as f64 / labels.len() as f64)
}

/// The share of rows on the right side of `threshold`, for a model with one output: 0.5 for a probability, 0.0 for a logit. Targets
/// are 0.0 and 1.0; a score equal to the threshold predicts 0.
///
/// # Errors
/// [`Error::Argument`] for different lengths, none, or a threshold of NaN; [`Error::NonFinite`] for a score of NaN, or a target that
/// is not finite.
pub fn binary_accuracy(scores: &[f32], targets: &[f32], threshold: f32) -> Result<f64> {
    check_lengths("binary_accuracy", scores, targets)?;
    check_scores(scores, 1)?;
    check_finite("targets", targets, Shape::SCALAR)?;
    if threshold.is_nan() {
        return Err(Error::argument("binary_accuracy", "the threshold is NaN, which no score is above"));
    }
    let hits = scores.iter().zip(targets).filter(|&(&s, &t)| (s > threshold) == (t > 0.5)).count();
    Ok(hits as f64 / scores.len() as f64)
}

/// The mean absolute error, mean |y − t|.
///
/// # Errors
/// [`Error::Argument`] for different lengths or none; [`Error::NonFinite`] for a number that is not finite.
pub fn mae(predictions: &[f32], targets: &[f32]) -> Result<f64> {
    check_pairs("mae", predictions, targets)?;
    Ok(sum(predictions, targets, |d| d.abs()) / targets.len() as f64)
}

/// The root of the mean squared error, √(mean (y − t)²), in the unit of the targets.
///
/// # Errors
/// [`Error::Argument`] for different lengths or none; [`Error::NonFinite`] for a number that is not finite.
pub fn rmse(predictions: &[f32], targets: &[f32]) -> Result<f64> {
    check_pairs("rmse", predictions, targets)?;
    Ok((sum(predictions, targets, |d| d * d) / targets.len() as f64).sqrt())
}

/// The coefficient of determination, R² = 1 − Σ(y − t)² / Σ(t − mean t)²: 1 is perfect, 0 no better than the mean of the targets.
/// Where all targets are equal it is 1 for a perfect prediction and 0 for any other, as in scikit-learn.
///
/// # Errors
/// [`Error::Argument`] for different lengths or none; [`Error::NonFinite`] for a number that is not finite.
pub fn r2(predictions: &[f32], targets: &[f32]) -> Result<f64> {
    check_pairs("r2", predictions, targets)?;
    let residual = sum(predictions, targets, |d| d * d);
    // Not by the sum below: rounding makes that of equal targets a tiny number.
    if targets.iter().all(|t| *t == targets[0]) {
        return Ok(if residual == 0.0 { 1.0 } else { 0.0 });
    }
    let mean = targets.iter().map(|&t| t as f64).sum::<f64>() / targets.len() as f64;
    Ok(1.0 - residual / targets.iter().map(|&t| (t as f64 - mean).powi(2)).sum::<f64>())
}

/// How often each class was taken for each other.
///
/// `Display` prints it as a table: a row for each true class, a column for each predicted one, then the recall of each row and,
/// below, the precision of each column.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfusionMatrix {
    classes: usize,
    /// `[true, predicted]`, row-major.
    counts: Vec<u64>,
    names: Vec<String>,
}

impl ConfusionMatrix {
    /// From all scores at once.
    ///
    /// # Errors
    /// Those of [`accuracy`]; [`Error::Argument`] where there is no memory for a table of so many classes.
    pub fn new(scores: &[f32], classes: usize, labels: &[u32]) -> Result<ConfusionMatrix> {
        check(scores, classes, labels)?;
        let (mut counts, cells) = (Vec::new(), classes.saturating_mul(classes));
        counts.try_reserve_exact(cells).map_err(|_| Error::argument("ConfusionMatrix", format!("there is no memory for {classes}²")))?;
        counts.resize(cells, 0);
        for (predicted, &label) in argmax(scores, classes)?.into_iter().zip(labels) {
            counts[label as usize * classes + predicted as usize] += 1;
        }
        Ok(ConfusionMatrix { classes, counts, names: (0..classes).map(|c| c.to_string()).collect() })
    }
    /// With names for the classes that have one.
    pub fn with_names(mut self, names: &[String]) -> ConfusionMatrix {
        self.names.iter_mut().zip(names).for_each(|(to, name)| to.clone_from(name));
        self
    }
    /// How many classes there are: the table's rows, and its columns.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// How many of class `label` were taken for class `predicted`; 0 for a class there is not.
    pub fn count(&self, label: usize, predicted: usize) -> u64 {
        match label < self.classes && predicted < self.classes {
            true => self.counts[label * self.classes + predicted],
            false => 0,
        }
    }
    /// The share of rows on the diagonal.
    pub fn accuracy(&self) -> f64 {
        (0..self.classes).map(|c| self.count(c, c)).sum::<u64>() as f64 / self.counts.iter().sum::<u64>() as f64
    }
    /// Of the rows taken for `class`, the share that is of it; `None` where there are none.
    pub fn precision(&self, class: usize) -> Option<f64> {
        share(self.count(class, class), (0..self.classes).map(|label| self.count(label, class)).sum())
    }
    /// Of the rows of `class`, the share taken for it; `None` where there are none.
    pub fn recall(&self, class: usize) -> Option<f64> {
        share(self.count(class, class), (0..self.classes).map(|predicted| self.count(class, predicted)).sum())
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl fmt::Display for ConfusionMatrix {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = |x: Option<f64>| x.map_or("–".to_string(), |x| format!("{:.1}%", 100.0 * x));
        let mut rows = vec![["true \\ predicted".to_string()].into_iter().chain(self.names.iter().cloned()).collect::<Vec<_>>()];
        rows[0].push("recall".to_string());
        for label in 0..self.classes {
            let mut row = vec![self.names[label].clone()];
            row.extend((0..self.classes).map(|predicted| self.count(label, predicted).to_string()));
            row.push(percent(self.recall(label)));
            rows.push(row);
        }
        let mut last = vec!["precision".to_string()];
        last.extend((0..self.classes).map(|c| percent(self.precision(c))));
        last.push(percent(Some(self.accuracy())));
        rows.push(last);
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.classes + 2).map(width).collect();
        for row in &rows {
            write!(f, "{:<1$}", row[0], widths[0])?;
            for (cell, &width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn sum(a: &[f32], b: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f(a as f64 - b as f64)).sum()
}

fn check_pairs(what: &str, predictions: &[f32], targets: &[f32]) -> Result<()> {
    check_lengths(what, predictions, targets)?;
    check_finite("predictions", predictions, Shape::SCALAR)?;
    check_finite("targets", targets, Shape::SCALAR)
}

fn check_lengths(what: &str, predictions: &[f32], targets: &[f32]) -> Result<()> {
    match (predictions.len(), targets.len()) {
        (_, 0) => Err(Error::argument(what, "no targets")),
        (a, b) if a != b => Err(Error::argument(what, format!("{a} predictions, but {b} targets"))),
        _ => Ok(()),
    }
}

fn check_scores(scores: &[f32], classes: usize) -> Result<()> {
    if classes == 0 || !scores.len().is_multiple_of(classes) {
        return Err(Error::argument("scores", format!("{} numbers are no whole rows of {classes} classes", scores.len())));
    }
    match scores.iter().position(|s| s.is_nan()) {
        Some(i) => Err(Error::NonFinite { what: "predictions".to_string(), value: scores[i], row: i / classes, column: i % classes }),
        None => Ok(()),
    }
}

fn check(scores: &[f32], classes: usize, labels: &[u32]) -> Result<()> {
    check_scores(scores, classes)?;
    check_labels(labels, classes)?;
    match (scores.len() / classes, labels.len()) {
        (_, 0) => Err(Error::argument("labels", "none")),
        (rows, n) if rows != n => Err(Error::argument("scores", format!("{rows} rows, but {n} labels"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Predicted: 2, 0, 1 (a tie of 1 and 2), 1.
    const SCORES: [f32; 12] = [0.1, 0.2, 0.7, 3.0, -1.0, 2.0, f32::NEG_INFINITY, 5.0, 5.0, -3.0, -1.0, -2.0];
    const LABELS: [u32; 4] = [2, 2, 1, 0];

    #[test]
    fn classes_by_hand() {
        assert_eq!(argmax(&SCORES, 3).unwrap(), [2, 0, 1, 1]);
        assert_eq!(accuracy(&SCORES, 3, &LABELS).unwrap(), 0.5);
        // Row 1 has its label second, row 3 last.
        assert_eq!(top_k(&SCORES, 3, &LABELS, 2).unwrap(), 0.75);
        assert_eq!(top_k(&SCORES, 3, &LABELS, 3).unwrap(), 1.0);
        // Of equal scores the first counts as the larger.
        assert_eq!(accuracy(&[1.0, 1.0], 2, &[1]).unwrap(), 0.0);
        assert_eq!(accuracy(&[1.0, 1.0], 2, &[0]).unwrap(), 1.0);
        assert_eq!(binary_accuracy(&[0.9, 0.4, 0.5, 0.51], &[1.0, 1.0, 0.0, 0.0], 0.5).unwrap(), 0.5);
        assert_eq!(binary_accuracy(&[0.9, -0.4, 0.3], &[1.0, 0.0, 0.0], 0.0).unwrap(), 2.0 / 3.0);
    }

    #[test]
    fn regression_by_hand() {
        let (y, t) = ([2.5, 0.0, 2.0, 8.0], [3.0, -0.5, 2.0, 7.0]);
        assert_eq!(mae(&y, &t).unwrap(), 0.5);
        assert!((rmse(&y, &t).unwrap() - 0.375f64.sqrt()).abs() < 1e-15);
        // Residuals 1.5; the targets' mean is 2.875 and their squares about it 29.1875.
        assert!((r2(&y, &t).unwrap() - (1.0 - 1.5 / 29.1875)).abs() < 1e-15);
        assert_eq!(r2(&[2.0, 2.0], &[1.0, 3.0]).unwrap(), 0.0);
        assert_eq!(r2(&[0.1; 3], &[0.1; 3]).unwrap(), 1.0);
        assert_eq!(r2(&[0.1, 0.1, 0.2], &[0.1; 3]).unwrap(), 0.0);
        // In f32 the squares of the first would be infinite, and those of the second 0.
        for scale in [1e30f32, 1e-30] {
            let (y, t) = ([2.0, 0.0, 1.0].map(|y| y * scale), [1.0, 1.0, 2.0].map(|t| t * scale));
            assert!((rmse(&y, &t).unwrap() / f64::from(scale) - 1.0).abs() < 1e-6);
            assert!((r2(&y, &t).unwrap() - (1.0 - 3.0 / (2.0 / 3.0))).abs() < 1e-6);
            assert!((mae(&y, &t).unwrap() / f64::from(scale) - 1.0).abs() < 1e-6);
        }
        // Targets far from 0, whose neighbours are 128 apart: residuals 128², squares about the mean 2 · 128².
        assert_eq!(r2(&[1.7e9, 1.7e9, 1.7e9 + 128.0], &[1.7e9 - 128.0, 1.7e9, 1.7e9 + 128.0]).unwrap(), 0.5);
        // In f32 the second of these would be lost beside the first.
        assert_eq!(mae(&[1e8, 1.0], &[0.0, 0.0]).unwrap(), 50000000.5);
    }

    #[test]
    fn confusion_by_hand() {
        let m = ConfusionMatrix::new(&SCORES, 3, &LABELS).unwrap();
        assert_eq!(m.counts, [0, 1, 0, /**/ 0, 1, 0, /**/ 1, 0, 1]);
        assert_eq!(m.accuracy(), 0.5);
        assert_eq!([0, 1, 2].map(|c| m.precision(c)), [Some(0.0), Some(0.5), Some(1.0)]);
        assert_eq!([0, 1, 2].map(|c| m.recall(c)), [Some(0.0), Some(1.0), Some(0.5)]);
        let m = ConfusionMatrix::new(&[0.0, 1.0], 2, &[1]).unwrap();
        assert_eq!((m.precision(0), m.recall(0), m.recall(7)), (None, None, None));
    }

    #[test]
    fn confusion_as_a_table() {
        let names = ["cat", "dog", "wombat"].map(String::from);
        let table = ConfusionMatrix::new(&SCORES, 3, &LABELS).unwrap().with_names(&names).to_string();
        let want = "\
true \\ predicted   cat    dog  wombat  recall
cat                  0      1       0    0.0%
dog                  0      1       0  100.0%
wombat               1      0       1   50.0%
precision         0.0%  50.0%  100.0%   50.0%
";
        assert_eq!(table, want, "\n{table}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(accuracy(&SCORES, 3, &[0, 1, 3, 0]).unwrap_err(), Error::Label { row: 2, label: 3, classes: 3 }));
        let scores = [0.0, 1.0, 0.0, f32::NAN];
        let of_classes =
            [accuracy(&scores, 2, &[0, 1]), top_k(&scores, 2, &[0, 1], 2), ConfusionMatrix::new(&scores, 2, &[0, 1]).map(|_| 1.0)];
        for e in of_classes.map(Result::unwrap_err) {
            assert!(matches!(e, Error::NonFinite { row: 1, column: 1, .. }), "{e}");
        }
        // Not a good number, nor any.
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for f in [mae, rmse, r2] {
                for same in [[1.0, 1.0], [1.0, 2.0]] {
                    let e = f(&[1.0, bad], &same).unwrap_err();
                    assert!(matches!(&e, Error::NonFinite { what, row: 1, column: 0, .. } if what == "predictions"), "{e}");
                    let e = f(&same, &[bad, 1.0]).unwrap_err();
                    assert!(matches!(&e, Error::NonFinite { what, row: 0, .. } if what == "targets"), "{e}");
                }
            }
            let e = binary_accuracy(&[0.5], &[bad], 0.5).unwrap_err();
            assert!(matches!(&e, Error::NonFinite { what, .. } if what == "targets"), "{e}");
        }
        assert!(matches!(binary_accuracy(&[f32::NAN], &[0.0], 0.5), Err(Error::NonFinite { .. })));
        assert_eq!(binary_accuracy(&[f32::INFINITY, f32::NEG_INFINITY], &[1.0, 0.0], 0.5).unwrap(), 1.0);
        for (e, want) in [
            (accuracy(&SCORES, 5, &LABELS), "12 numbers are no whole rows of 5 classes"),
            (accuracy(&SCORES, 3, &[0]), "4 rows, but 1 labels"),
            (accuracy(&[], 3, &[]), "none"),
            (accuracy(&[], 0, &[]), "no whole rows of 0"),
            (top_k(&SCORES, 3, &LABELS, 0), "must be 1 to 3"),
            (top_k(&SCORES, 3, &LABELS, 4), "must be 1 to 3"),
            (mae(&[1.0], &[1.0, 2.0]), "1 predictions, but 2 targets"),
            (rmse(&[], &[]), "no targets"),
            (r2(&[1.0], &[]), "no targets"),
            (binary_accuracy(&[1.0], &[1.0, 0.0], 0.5), "1 predictions, but 2 targets"),
            (binary_accuracy(&[1.0], &[0.0], f32::NAN), "the threshold is NaN"),
        ] {
            let e = e.unwrap_err();
            assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains(want), "{want}: {e}");
        }
    }
}
