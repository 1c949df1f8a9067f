//! Metrics of predictions. All metrics are computed in `f64`.
//!
//! A prediction that is not finite is an error, as in scikit-learn. Scores may be infinite, because a masked class has the
//! score −∞. Scores may not be NaN.
//!
//! `scores` is the model's output `[n, classes]`, row-major: logits, log-probabilities or probabilities. The predicted class is
//! the class with the largest score. If several classes have the largest score, the first of them is predicted.

use crate::{
    data::{check_finite, check_labels},
    error::{Error, Result},
    shape::Shape,
};
use std::fmt;

/// Returns the predicted class of each row.
///
/// # Errors
/// [`Error::NonFinite`] for a NaN, because a NaN cannot be ordered. [`Error::Argument`] if the number of scores is no multiple of
/// `classes`.
pub fn argmax(scores: &[f32], classes: usize) -> Result<Vec<u32>> {
    check_scores(scores, classes)?;
    let largest = |row: &[f32]| (1..classes).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
    Ok(scores.chunks_exact(classes).map(largest).collect())
}

/// Returns the share of rows whose label has the largest score.
///
/// ```
/// use downhill::train::metrics::accuracy;
/// let scores = [0.1, 0.9, /**/ 0.8, 0.2, /**/ 0.3, 0.7, /**/ 0.6, 0.4];
/// assert_eq!(accuracy(&scores, 2, &[1, 0, 0, 0])?, 0.75);
/// # Ok::<(), downhill::Error>(())
/// ```
///
/// # Errors
/// The errors of [`argmax`]. [`Error::Label`] for a label that is not less than `classes`. [`Error::Argument`] if the number of
/// rows and the number of labels differ, or are 0.
pub fn accuracy(scores: &[f32], classes: usize, labels: &[u32]) -> Result<f64> {
    top_k(scores, classes, labels, 1)
}

/// Returns the share of rows whose label is among the `k` largest scores.
///
/// # Errors
/// The errors of [`accuracy`], and [`Error::Argument`] if `k` is not in `1..=classes`.
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

/// Returns the share of rows that a model with one output predicts correctly. A score greater than `threshold` predicts 1. Any
/// other score predicts 0. The threshold is 0.5 for probabilities and 0.0 for logits. Targets are 0.0 or 1.0.
///
/// # Errors
/// [`Error::Argument`] if the lengths differ or are 0, or the threshold is NaN. [`Error::NonFinite`] if a score is NaN or a
/// target is not finite.
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

/// Returns the mean absolute error, mean |y − t|.
///
/// # Errors
/// [`Error::Argument`] if the lengths differ or are 0. [`Error::NonFinite`] for a number that is not finite.
pub fn mae(predictions: &[f32], targets: &[f32]) -> Result<f64> {
    check_pairs("mae", predictions, targets)?;
    Ok(sum(predictions, targets, |d| d.abs()) / targets.len() as f64)
}

/// Returns the root of the mean squared error, √(mean (y − t)²), in the unit of the targets.
///
/// # Errors
/// [`Error::Argument`] if the lengths differ or are 0. [`Error::NonFinite`] for a number that is not finite.
pub fn rmse(predictions: &[f32], targets: &[f32]) -> Result<f64> {
    check_pairs("rmse", predictions, targets)?;
    Ok((sum(predictions, targets, |d| d * d) / targets.len() as f64).sqrt())
}

/// Returns the coefficient of determination, R² = 1 − Σ(y − t)² / Σ(t − mean t)². Perfect predictions have R² = 1. Predictions
/// as good as the mean of the targets have R² = 0. If all targets are equal, the result is 1 for perfect predictions and 0
/// otherwise, as in scikit-learn.
///
/// # Errors
/// [`Error::Argument`] if the lengths differ or are 0. [`Error::NonFinite`] for a number that is not finite.
pub fn r2(predictions: &[f32], targets: &[f32]) -> Result<f64> {
    check_pairs("r2", predictions, targets)?;
    let residual = sum(predictions, targets, |d| d * d);
    // The sum below cannot detect equal targets, because rounding may make it a tiny number instead of 0.
    if targets.iter().all(|t| *t == targets[0]) {
        return Ok(if residual == 0.0 { 1.0 } else { 0.0 });
    }
    let mean = targets.iter().map(|&t| t as f64).sum::<f64>() / targets.len() as f64;
    Ok(1.0 - residual / targets.iter().map(|&t| (t as f64 - mean).powi(2)).sum::<f64>())
}

/// A confusion matrix, which counts the rows by true class and predicted class.
///
/// `Display` prints a table with a row for each true class and a column for each predicted class. The last column has the
/// recall of each true class. The last row has the precision of each predicted class.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfusionMatrix {
    classes: usize,
    /// `[true, predicted]`, row-major.
    counts: Vec<u64>,
    names: Vec<String>,
}

impl ConfusionMatrix {
    /// Counts the predictions of all rows.
    ///
    /// # Errors
    /// The errors of [`accuracy`]. [`Error::Argument`] if there is not enough memory for `classes`² counts.
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
    /// Sets the names of the classes. Without a name, a class has its number as a name.
    pub fn with_names(mut self, names: &[String]) -> ConfusionMatrix {
        self.names.iter_mut().zip(names).for_each(|(to, name)| to.clone_from(name));
        self
    }
    /// Returns the number of classes, which is the number of rows and of columns.
    pub fn classes(&self) -> usize {
        self.classes
    }
    /// Returns the number of rows of class `label` that were predicted as class `predicted`. It is 0 for a class that does not
    /// exist.
    pub fn count(&self, label: usize, predicted: usize) -> u64 {
        match label < self.classes && predicted < self.classes {
            true => self.counts[label * self.classes + predicted],
            false => 0,
        }
    }
    /// Returns the share of rows that were predicted correctly.
    pub fn accuracy(&self) -> f64 {
        (0..self.classes).map(|c| self.count(c, c)).sum::<u64>() as f64 / self.counts.iter().sum::<u64>() as f64
    }
    /// Returns the share of correct rows among the rows that were predicted as `class`. `None` where no row was predicted as
    /// `class`.
    pub fn precision(&self, class: usize) -> Option<f64> {
        share(self.count(class, class), (0..self.classes).map(|label| self.count(label, class)).sum())
    }
    /// Returns the share of correct rows among the rows whose label is `class`. `None` where no row has this label.
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
        // The label of row 1 has the second largest score. The label of row 3 has the smallest score.
        assert_eq!(top_k(&SCORES, 3, &LABELS, 2).unwrap(), 0.75);
        assert_eq!(top_k(&SCORES, 3, &LABELS, 3).unwrap(), 1.0);
        // Among equal scores, the first counts as the largest.
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
        // In `f32`, the squares of the first numbers would be infinite, and the squares of the second numbers would be 0.
        for scale in [1e30f32, 1e-30] {
            let (y, t) = ([2.0, 0.0, 1.0].map(|y| y * scale), [1.0, 1.0, 2.0].map(|t| t * scale));
            assert!((rmse(&y, &t).unwrap() / f64::from(scale) - 1.0).abs() < 1e-6);
            assert!((r2(&y, &t).unwrap() - (1.0 - 3.0 / (2.0 / 3.0))).abs() < 1e-6);
            assert!((mae(&y, &t).unwrap() / f64::from(scale) - 1.0).abs() < 1e-6);
        }
        // These targets are far from 0, and neighbouring floats are 128 apart. The squared residual is 128². The squares about
        // the mean add up to 2 · 128².
        assert_eq!(r2(&[1.7e9, 1.7e9, 1.7e9 + 128.0], &[1.7e9 - 128.0, 1.7e9, 1.7e9 + 128.0]).unwrap(), 0.5);
        // An `f32` sum would lose the second number, because the first is much larger.
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
        // The result is neither a good number nor any other number.
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
