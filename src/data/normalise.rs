//! Normalisation to mean 0 and standard deviation 1. It is learnt on one part of the data and applied to all parts.

use super::{Dataset, Features, Field, pixel};
use crate::error::{Error, Result};

/// A mean and a standard deviation, for each feature or for all features together: `x → (x − mean) / std`.
///
/// Learn them on the training part only. Otherwise the model gets information from the held-out part. A constant feature gets
/// a `std` of 1.
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
    /// The means: one for each feature, or a single one.
    pub mean: Vec<f64>,
    /// The standard deviations, one for each mean.
    pub std: Vec<f64>,
}

impl Normalise {
    /// Learns a mean and a standard deviation for each number of the first feature. This suits tables, whose columns have
    /// different units.
    pub fn features(train: &Dataset) -> Normalise {
        Normalise::each_of(&train.fields[0])
    }
    /// Learns one mean and one standard deviation over all numbers of the first feature. This suits images, whose pixels have
    /// the same unit.
    pub fn overall(train: &Dataset) -> Normalise {
        Normalise::learn(1, train.features().len(), |i, _| train.features().exact(i))
    }
    /// Learns a mean and a standard deviation for each number of the first target. This suits regression:
    /// [`undo`](Normalise::undo) converts predictions back.
    ///
    /// # Errors
    /// [`Error::Argument`] if the targets are not numbers.
    pub fn targets(train: &Dataset) -> Result<Normalise> {
        match train.first_target().map(|i| &train.fields[i]).filter(|y| y.data.vocabulary().is_none()) {
            Some(field) => Ok(Normalise::each_of(field)),
            None => Err(Error::argument("Normalise::targets", "the targets are not numbers")),
        }
    }
    /// Learns a mean and a standard deviation for each number of the column `name`.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such column, or it has tokens or labels.
    pub fn column(train: &Dataset, name: &str) -> Result<Normalise> {
        match train.field(name)? {
            Field { data: Features::Tokens { .. }, .. } => Err(no_mean()),
            Field { data: Features::Source(_), .. } => Err(unread()),
            field => Ok(Normalise::each_of(field)),
        }
    }
    fn each_of(field: &Field) -> Normalise {
        let (width, rows) = (field.width(), field.data.len() / field.width());
        Normalise::learn(width, rows, |row, column| field.data.exact(row * width + column))
    }
    /// Learns in two passes in `f64`: first the mean, then the deviations from it. The mean is the first number plus the mean
    /// difference from the first number. So a column far from 0 loses no digits, and the mean of a constant column is exactly
    /// the constant.
    fn learn(width: usize, rows: usize, at: impl Fn(usize, usize) -> f64) -> Normalise {
        let (mut mean, mut std) = (vec![0.0; width], vec![1.0; width]);
        for column in 0..width {
            let x = || (0..rows).map(|row| at(row, column));
            let first = at(0, column);
            let m = first + x().map(|v| v - first).sum::<f64>() / rows as f64;
            mean[column] = m;
            // This test does not use the variance. Rounding can give a constant column a tiny variance, and dividing by it
            // gives large numbers.
            if x().any(|v| v != first) {
                std[column] = (x().map(|v| (v - m) * (v - m)).sum::<f64>() / rows as f64).sqrt();
            }
        }
        Normalise { mean, std }
    }

    /// Normalises the first feature of `data`. With a single mean, bytes stay bytes. With a mean for each number, bytes become
    /// floats.
    ///
    /// # Errors
    /// [`Error::Argument`] if `data` and the training data differ in their number of features. [`Error::NonFinite`] if a
    /// normalised number leaves the range of `f32`. After an error, `data` is unchanged.
    pub fn apply(&self, data: &mut Dataset) -> Result<()> {
        self.change(data, 0)
    }
    /// Normalises the first target of `data`.
    ///
    /// # Errors
    /// The errors of [`apply`](Normalise::apply). [`Error::Argument`] if the targets are not numbers, or differ in shape from
    /// the training targets.
    pub fn apply_targets(&self, data: &mut Dataset) -> Result<()> {
        match data.first_target().filter(|&i| data.fields[i].data.vocabulary().is_none()) {
            Some(i) => self.change(data, i),
            None => Err(Error::argument("Normalise::apply_targets", "the targets are not numbers")),
        }
    }
    /// Normalises the column `name` of `data`.
    ///
    /// ```
    /// use downhill::data::{Dataset, Field, Normalise};
    /// let mut data = Dataset::of([Field::floats("age", [], vec![20.0, 40.0]), Field::floats("height", [], vec![1.5, 1.9])])?;
    /// Normalise::column(&data, "age")?.apply_column(&mut data, "age")?;
    /// assert_eq!(data.columns(&[0, 1])?[0].f(), &[-1.0, 1.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`apply`](Normalise::apply), and [`Error::Argument`] if there is no such column.
    pub fn apply_column(&self, data: &mut Dataset, name: &str) -> Result<()> {
        let i = data.position(name)?;
        self.change(data, i)
    }
    fn change(&self, data: &mut Dataset, column: usize) -> Result<()> {
        let field = &data.fields[column];
        let (what, width) = (field.called(), field.width());
        self.fit(&what, width)?;
        // The new scale and shift, if the numbers are bytes and there is a single mean.
        let mut bytes = None;
        match &field.data {
            Features::Tokens { .. } => return Err(no_mean()),
            Features::Source(_) => return Err(unread()),
            Features::Bytes { data, scale, shift } if self.mean.len() == 1 => {
                let (scale, shift) = (scale / self.std[0], (shift - self.mean[0]) / self.std[0]);
                finite(&what, data.iter().map(|&byte| pixel(byte, scale, shift) as f32), width)?;
                bytes = Some((scale, shift));
            }
            x => finite(&what, self.normal((0..x.len()).map(|i| x.exact(i))), width)?,
        }
        match (data.change(column), bytes) {
            (Features::Bytes { scale, shift, .. }, Some(new)) => (*scale, *shift) = new,
            (x, _) => *x = Features::Float(self.normal((0..x.len()).map(|i| x.exact(i))).collect()),
        }
        Ok(())
    }
    /// Normalises whole rows of numbers in place.
    ///
    /// # Errors
    /// [`Error::Argument`] if the length of `x` is not a multiple of the number of means. Then `x` is unchanged.
    pub fn rows(&self, x: &mut [f32]) -> Result<()> {
        self.each(x, |x, mean, std| (x - mean) / std)
    }
    /// Undoes the normalisation in place: `x · std + mean`.
    ///
    /// # Errors
    /// The errors of [`rows`](Normalise::rows).
    pub fn undo(&self, x: &mut [f32]) -> Result<()> {
        self.each(x, |x, mean, std| x * std + mean)
    }
    fn each(&self, x: &mut [f32], f: impl Fn(f64, f64, f64) -> f64) -> Result<()> {
        let width = self.mean.len();
        self.fit("features", width)?;
        if !x.len().is_multiple_of(width) {
            return Err(Error::argument("Normalise", format!("{} numbers are no whole rows of {width}", x.len())));
        }
        for row in x.chunks_exact_mut(width) {
            for ((x, &mean), &std) in row.iter_mut().zip(&self.mean).zip(&self.std) {
                *x = f(f64::from(*x), mean, std) as f32;
            }
        }
        Ok(())
    }
    /// Returns whole rows of numbers, normalised.
    fn normal(&self, x: impl Iterator<Item = f64>) -> impl Iterator<Item = f32> {
        let of = self.mean.iter().zip(&self.std).cycle();
        x.zip(of).map(|(x, (mean, std))| ((x - mean) / std) as f32)
    }
    fn fit(&self, what: &str, width: usize) -> Result<()> {
        let (n, m) = (self.mean.len(), self.std.len());
        let usable = self.mean.iter().all(|m| m.is_finite()) && self.std.iter().all(|s| s.is_finite() && *s > 0.0);
        match n == m && n > 0 && (n == 1 || n == width) {
            true if usable => Ok(()),
            true => Err(Error::argument("Normalise", "means must be finite, and deviations finite and above 0")),
            false => Err(Error::argument("Normalise", format!("{n} means and {m} deviations do not fit {width} {what}"))),
        }
    }
}

fn unread() -> Error {
    Error::argument("Normalise", "the numbers are read when a batch needs them; normalise them in the source, or in the model")
}

fn no_mean() -> Error {
    Error::argument("Normalise", "tokens are numbers of words, which have no mean")
}

/// Returns an error that names the first number outside the range of `f32`.
fn finite(what: &str, mut x: impl Iterator<Item = f32>, width: usize) -> Result<()> {
    let mut at = 0;
    let bad = x.find(|x| {
        at += 1;
        !x.is_finite()
    });
    match bad {
        Some(value) => Err(Error::NonFinite { what: format!("normalised {what}"), value, row: (at - 1) / width, column: (at - 1) % width }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Target;

    fn table() -> Dataset {
        // The columns are 1, 2, 3, 4, then constant 0.1, then 10, 10, 10, 50.
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
        // The constant feature becomes 0. A division by a tiny deviation would enlarge rounding errors.
        assert!((0..4).all(|row| x(row * 3 + 1) == 0.0));
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
        let Target::Values { data: mut y, .. } = data.target() else { panic!("targets changed their kind") };
        assert!((y[0] as f64 + 3.0 / 5f64.sqrt()).abs() < 1e-6, "{y:?}");
        norm.undo(&mut y).unwrap();
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
    #[test]
    fn rows_that_do_not_fit_stay_as_they_are() {
        let norm = Normalise { mean: vec![1.0, 2.0, 3.0], std: vec![1.0, 2.0, 4.0] };
        for f in [Normalise::rows, Normalise::undo] {
            for len in [1, 2, 4, 5, 7] {
                let mut x = vec![7.0; len];
                let e = f(&norm, &mut x).unwrap_err();
                assert_eq!(e.to_string(), format!("Normalise: {len} numbers are no whole rows of 3"));
                assert_eq!(x, vec![7.0; len]);
            }
            let uneven = Normalise { std: vec![1.0], ..norm.clone() };
            assert!(f(&uneven, &mut [7.0; 3]).unwrap_err().to_string().contains("3 means and 1 deviations do not fit"));
            let none = Normalise { mean: Vec::new(), std: Vec::new() };
            assert!(f(&none, &mut [7.0; 3]).unwrap_err().to_string().contains("0 means and 0 deviations do not fit"));
            let nan = Normalise { mean: vec![f64::NAN; 3], ..norm.clone() };
            assert!(f(&nan, &mut [7.0; 3]).unwrap_err().to_string().contains("means must be finite"));
            f(&norm, &mut []).unwrap();
        }
        let mut x = [2.0, 6.0, -1.0, 1.0, 0.0, 3.0];
        norm.rows(&mut x).unwrap();
        assert_eq!(x, [1.0, 2.0, -1.0, 0.0, -1.0, 0.0]);
        norm.undo(&mut x).unwrap();
        assert_eq!(x, [2.0, 6.0, -1.0, 1.0, 0.0, 3.0]);
        // One mean for all columns.
        let mut x = [3.0; 5];
        Normalise { mean: vec![1.0], std: vec![2.0] }.rows(&mut x).unwrap();
        assert_eq!(x, [1.0; 5]);
    }

    /// Each column is mean + factor · (−1, 0, 1). Normalised it is −√1.5, 0, √1.5 for every mean and factor.
    #[test]
    fn columns_of_any_size() {
        // The columns are far from 0 (the floats next to 1.7e9 are 128 apart), huge, tiny and subnormal.
        let columns = [(1.7e9f32, 128.0f32), (98765.43, 0.0078125), (0.0, 3e38), (0.0, 1e20), (1e-20, 1e-22), (0.0, 1e-40)];
        let x: Vec<f32> = [-1.0f32, 0.0, 1.0].iter().flat_map(|k| columns.map(|(mean, by)| mean + k * by)).collect();
        let mut data = Dataset::new(x, [columns.len()], Target::None).unwrap();
        Normalise::features(&data).apply(&mut data).unwrap();
        for (i, column) in (0..18).map(|i| (i, i % columns.len())) {
            let want = (i / columns.len()) as f64 - 1.0;
            let got = f64::from(data.features().at(i)) / 1.5f64.sqrt();
            // Rounding makes the three numbers around 1e-20 unevenly spaced.
            let tolerance = if column == 4 { 1e-5 } else { 1e-7 };
            assert!((got - want).abs() <= tolerance, "column {column}: {got} instead of {want}");
        }
        // Constants become exactly 0.
        for c in [98765.43, 1.7e9, 3e38, -1e-40, 0.1] {
            let mut data = Dataset::new(vec![c; 1001], [1], Target::None).unwrap();
            let norm = Normalise::features(&data);
            assert_eq!((norm.mean[0], norm.std[0]), (f64::from(c), 1.0));
            norm.apply(&mut data).unwrap();
            assert_eq!(data.features(), &Features::Float(vec![0.0; 1001]));
        }
    }

    /// White images with one pixel that is not white. The product and the shift nearly cancel.
    #[test]
    fn bytes_far_from_0_are_as_exact_as_floats() {
        let bytes: Vec<u8> = (0..40_000).map(|i| if i == 7 { 254 } else { 255 }).collect();
        let mut images = Dataset::bytes(bytes.clone(), [4], 1.0 / 255.0, Target::None).unwrap();
        Normalise::overall(&images).apply(&mut images).unwrap();
        // One of n numbers differs. Normalised it is −√(n − 1), and the other numbers are 1/√(n − 1).
        let root = f64::from(39_999).sqrt();
        let x = images.batch(&[0, 1]).unwrap().0;
        for (i, want) in [(7, -root), (0, 1.0 / root)] {
            // The scale is 1/255 rounded to `f32`. The rounding changes both numbers by the same factor.
            assert!((f64::from(x.f()[i]) / want - 1.0).abs() < 1e-6, "{} instead of {want}", x.f()[i]);
            assert_eq!(images.features().at(i), x.f()[i]);
        }
    }

    #[test]
    fn numbers_that_leave_the_range_are_refused() {
        let narrow = Normalise { mean: vec![0.0], std: vec![1e-30] };
        let mut data = Dataset::new(vec![0.0, 0.0, 0.0, 1e20], [2], Target::values([1], vec![1.0, 1e30])).unwrap();
        let before = data.clone();
        let e = narrow.apply(&mut data).unwrap_err();
        assert!(matches!(&e, Error::NonFinite { what, row: 1, column: 1, .. } if what == "normalised features"), "{e}");
        let e = narrow.apply_targets(&mut data).unwrap_err();
        assert!(matches!(&e, Error::NonFinite { what, row: 1, column: 0, .. } if what == "normalised targets"), "{e}");
        assert_eq!(data, before);
        let mut bytes = Dataset::bytes(vec![0, 1, 200], [1], 1e35, Target::None).unwrap();
        let e = Normalise { mean: vec![0.0], std: vec![1e-2] }.apply(&mut bytes).unwrap_err();
        assert!(matches!(e, Error::NonFinite { row: 2, column: 0, .. }), "{e}");
    }
}
