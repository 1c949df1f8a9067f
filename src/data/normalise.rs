//! Normalisation: mean 0 and standard deviation 1, learnt on one part of the data and applied to all.

use super::{Dataset, Features, Target};
use crate::error::{Error, Result};

/// A mean and a standard deviation for each feature, or one for all: `x → (x − mean) / std`.
///
/// Learn it on the training part only, or the held-out part is not held out. A feature that never changes gets a `std` of 1.
///
/// ```
/// use downhill::data::{Normalise, diabetes};
/// let (mut train, mut test) = diabetes().split(0.8, 1)?;
/// let norm = Normalise::features(&train);
/// norm.apply(&mut train)?;
/// norm.apply(&mut test)?;
/// # Ok::<(), downhill::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Normalise {
    /// One number a feature, or a single one.
    pub mean: Vec<f64>,
    /// As many standard deviations.
    pub std: Vec<f64>,
}

impl Normalise {
    /// Each feature by itself: for tables, whose columns have different units.
    pub fn features(train: &Dataset) -> Normalise {
        let width = train.sample_shape().elements();
        Normalise::learn(width, train.len(), |row, column| train.features().at(row * width + column))
    }
    /// One mean and one deviation over all features: for images, whose pixels have the same unit.
    pub fn overall(train: &Dataset) -> Normalise {
        Normalise::learn(1, train.features().len(), |i, _| train.features().at(i))
    }
    /// Each number of the targets by itself: for regression. [`undo`](Normalise::undo) brings predictions back.
    ///
    /// # Errors
    /// [`Error::Argument`] where the targets are not numbers.
    pub fn targets(train: &Dataset) -> Result<Normalise> {
        match train.target() {
            Target::Values { sample, data } => {
                let width = sample.elements();
                Ok(Normalise::learn(width, train.len(), |row, column| data[row * width + column]))
            }
            _ => Err(Error::argument("Normalise::targets", "the targets are not numbers")),
        }
    }
    /// Two passes in `f64`: the mean, then the deviations from it.
    fn learn(width: usize, rows: usize, at: impl Fn(usize, usize) -> f32) -> Normalise {
        let (mut mean, mut std) = (vec![0.0; width], vec![1.0; width]);
        for column in 0..width {
            let x = || (0..rows).map(|row| at(row, column) as f64);
            let m = x().sum::<f64>() / rows as f64;
            mean[column] = m;
            // Not by the variance: rounding makes that of a constant a tiny number, and dividing by it large ones.
            if x().any(|v| v != at(0, column) as f64) {
                std[column] = (x().map(|v| (v - m) * (v - m)).sum::<f64>() / rows as f64).sqrt();
            }
        }
        Normalise { mean, std }
    }

    /// Normalises the features of `data`. Bytes stay bytes under an overall mean, and become floats under one a feature.
    ///
    /// # Errors
    /// [`Error::Argument`] where `data` has not the features this was learnt on.
    pub fn apply(&self, data: &mut Dataset) -> Result<()> {
        self.fit("features", data.sample_shape().elements())?;
        match data.change().0 {
            Features::Bytes { scale, shift, .. } if self.mean.len() == 1 => {
                (*scale, *shift) = ((*scale as f64 / self.std[0]) as f32, ((*shift as f64 - self.mean[0]) / self.std[0]) as f32);
            }
            Features::Float(x) => self.rows(x),
            Features::Tokens { .. } => return Err(Error::argument("Normalise", "tokens are numbers of words, which have no mean")),
            bytes => {
                let mut x: Vec<f32> = (0..bytes.len()).map(|i| bytes.at(i)).collect();
                self.rows(&mut x);
                *bytes = Features::Float(x);
            }
        }
        Ok(())
    }
    /// Normalises the targets of `data`.
    ///
    /// # Errors
    /// [`Error::Argument`] where they are not numbers, or not of the shape this was learnt on.
    pub fn apply_targets(&self, data: &mut Dataset) -> Result<()> {
        match data.change().1 {
            Target::Values { sample, data } => {
                self.fit("targets", sample.elements())?;
                self.rows(data);
                Ok(())
            }
            _ => Err(Error::argument("Normalise::apply_targets", "the targets are not numbers")),
        }
    }
    /// Normalises whole rows of numbers in place.
    pub fn rows(&self, x: &mut [f32]) {
        self.each(x, |x, mean, std| (x - mean) / std);
    }
    /// The way back: `x · std + mean`.
    pub fn undo(&self, x: &mut [f32]) {
        self.each(x, |x, mean, std| x * std + mean);
    }
    fn each(&self, x: &mut [f32], f: impl Fn(f64, f64, f64) -> f64) {
        for row in x.chunks_mut(self.mean.len().max(1)) {
            for ((x, &mean), &std) in row.iter_mut().zip(&self.mean).zip(&self.std) {
                *x = f(*x as f64, mean, std) as f32;
            }
        }
    }
    fn fit(&self, what: &str, width: usize) -> Result<()> {
        let (n, m) = (self.mean.len(), self.std.len());
        let usable = self.mean.iter().all(|m| m.is_finite()) && self.std.iter().all(|s| s.is_finite() && *s > 0.0);
        match n == m && (n == 1 || n == width) {
            true if usable => Ok(()),
            true => Err(Error::argument("Normalise", "means must be finite, and deviations finite and above 0")),
            false => Err(Error::argument("Normalise", format!("{n} means and {m} deviations do not fit {width} {what}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Dataset {
        // Columns: 1, 2, 3, 4; always 0.1; 10, 10, 10, 50.
        let x = vec![1.0, 0.1, 10.0, 2.0, 0.1, 10.0, 3.0, 0.1, 10.0, 4.0, 0.1, 50.0];
        Dataset::new(x, [3], Target::values([1], vec![2.0, 4.0, 6.0, 8.0])).unwrap()
    }

    #[test]
    fn each_feature_by_itself() {
        let mut data = table();
        let norm = Normalise::features(&data);
        let want = [(2.5, 1.25f64.sqrt()), (0.1f32 as f64, 1.0), (20.0, 300f64.sqrt())];
        for (i, (mean, std)) in want.into_iter().enumerate() {
            assert!((norm.mean[i] - mean).abs() < 1e-12 && (norm.std[i] - std).abs() < 1e-12, "{norm:?}");
        }
        norm.apply(&mut data).unwrap();
        let x = |i| data.features().at(i) as f64;
        assert!((x(0) + 1.5 / 1.25f64.sqrt()).abs() < 1e-6 && (x(11) - 30.0 / 300f64.sqrt()).abs() < 1e-6);
        // The constant feature is 0 (to the rounding of its mean), not noise blown up.
        assert!((0..4).all(|row| x(row * 3 + 1).abs() < 1e-7));
    }

    #[test]
    fn bytes_stay_bytes_under_one_mean() {
        let images = Dataset::bytes(vec![0, 100, 200, 100], [2], 0.01, Target::None).unwrap();
        let (mut overall, mut each) = (images.clone(), images.clone());
        let norm = Normalise::overall(&images);
        assert!((norm.mean[0] - 1.0).abs() < 1e-7 && (norm.std[0] - 0.5f64.sqrt()).abs() < 1e-7, "{norm:?}");
        norm.apply(&mut overall).unwrap();
        assert!(matches!(overall.features(), Features::Bytes { .. }));
        for (i, x) in [0.0, 1.0, 2.0, 1.0f32].into_iter().enumerate() {
            assert!((overall.features().at(i) - (x - 1.0) * 2f32.sqrt()).abs() < 1e-6);
        }
        Normalise::features(&images).apply(&mut each).unwrap();
        assert_eq!(each.features(), &Features::Float(vec![-1.0, 0.0, 1.0, 0.0]));
    }

    #[test]
    fn targets_go_and_come_back() {
        let mut data = table();
        let norm = Normalise::targets(&data).unwrap();
        norm.apply_targets(&mut data).unwrap();
        let Target::Values { data: mut y, .. } = data.target().clone() else { panic!("targets changed their kind") };
        assert!((y[0] as f64 + 3.0 / 5f64.sqrt()).abs() < 1e-6, "{y:?}");
        norm.undo(&mut y);
        assert!(y.iter().zip([2.0, 4.0, 6.0, 8.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?}");
    }

    #[test]
    fn what_was_learnt_elsewhere_is_refused() {
        let mut two = Dataset::new(vec![1.0, 2.0], [2], Target::labels(vec![0], 1)).unwrap();
        let norm = Normalise::features(&table());
        assert_eq!(norm.apply(&mut two).unwrap_err().to_string(), "Normalise: 3 means and 3 deviations do not fit 2 features");
        let by_zero = Normalise { mean: vec![0.0], std: vec![0.0] };
        assert!(by_zero.apply(&mut two).unwrap_err().to_string().contains("above 0"));
        assert!(norm.apply_targets(&mut table()).unwrap_err().to_string().contains("do not fit 1 targets"));
        assert!(norm.apply_targets(&mut two).unwrap_err().to_string().contains("not numbers"));
        assert!(Normalise::targets(&two).unwrap_err().to_string().contains("not numbers"));
    }
}
