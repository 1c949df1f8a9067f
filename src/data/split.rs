//! Shuffles, batches and splits: which rows are used, and in which order.

use super::Dataset;
use crate::{
    error::{Error, Result},
    rng::Stream,
    threads::sorted,
};
use rand::seq::SliceRandom;

/// Returns the rows `0..n` in a random order (Fisher & Yates). The order depends only on the seed and the epoch.
pub fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..n).collect();
    rows.shuffle(&mut Stream::new(seed, &format!("shuffle {epoch}")));
    rows
}

/// Returns the rows of each batch of an epoch. Each batch has `size` rows. The last batch has the rows that remain, which may
/// be fewer. If there are fewer than `size` rows in all, they form one batch.
///
/// ```
/// use downhill::data::{batches, shuffled};
/// let order = shuffled(1797, 1, 0);
/// let lengths: Vec<usize> = batches(&order, 1000)?.map(|rows| rows.len()).collect();
/// assert_eq!(lengths, [1000, 797]);
/// # Ok::<(), downhill::Error>(())
/// ```
///
/// # Errors
/// [`Error::Argument`] if `size` is 0.
pub fn batches(order: &[usize], size: usize) -> Result<std::slice::Chunks<'_, usize>> {
    match size {
        0 => Err(Error::argument("batch size", "must be at least 1")),
        _ => Ok(order.chunks(size)),
    }
}

impl Dataset {
    /// Splits the rows at random into two parts. The first part has about `fraction` of the rows. `split(0.8, seed)` makes a
    /// training part and a held-out part.
    ///
    /// # Errors
    /// [`Error::Argument`] if a part would have no rows.
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        let order = shuffled(self.len(), seed, SPLIT);
        let (first, second) = order.split_at(self.count(fraction)?);
        Ok((self.subset(first)?, self.subset(second)?))
    }
    /// Splits like [`split`](Dataset::split), but each class has the same share of both parts, up to one row.
    ///
    /// # Errors
    /// [`Error::Argument`] if a part would have no rows, or if the targets are not labels.
    pub fn stratified(&self, fraction: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        let labels = self.labels();
        if labels.len() != self.len() {
            return Err(Error::argument("stratified", "the targets are not labels, one for each sample; use split"));
        }
        let (n, count) = (self.len(), self.count(fraction)?);
        let order = shuffled(n, seed, SPLIT);
        let by_class = sorted(n, |i| labels[order[i]]);
        // The rows are sorted by class. The first part gets `count` evenly spaced rows.
        let mut first = vec![false; n];
        for (i, &place) in by_class.iter().enumerate() {
            let share = |i: usize| (i as u128 * count as u128 / n as u128) as usize;
            first[order[place]] = share(i + 1) > share(i);
        }
        let (a, b): (Vec<usize>, Vec<usize>) = order.iter().partition(|&&r| first[r]);
        Ok((self.subset(&a)?, self.subset(&b)?))
    }
    fn count(&self, fraction: f64) -> Result<usize> {
        let count = (fraction * self.len() as f64).round();
        match count >= 1.0 && count < self.len() as f64 {
            true => Ok(count as usize),
            false => Err(Error::argument("split", format!("a fraction of {fraction} of {} rows leaves one part empty", self.len()))),
        }
    }
}

/// The epoch number for splits. No training reaches it, so a split never has the order of a shuffle.
const SPLIT: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Features, Target};

    #[test]
    fn shuffles_are_permutations_that_repeat() {
        let order = shuffled(1000, 1, 0);
        let mut sorted = order.clone();
        sorted.sort();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(order, shuffled(1000, 1, 0));
        // A random permutation has one fixed point on average. More than 10 fixed points happen once in 10 million
        // permutations.
        for other in [shuffled(1000, 1, 1), shuffled(1000, 2, 0), (0..1000).collect()] {
            assert!(order.iter().zip(&other).filter(|(a, b)| a == b).count() <= 10);
        }
        // Every row reaches every position: over many epochs, row 0's mean position is the mean of 0..10.
        let mean = (0..2000).map(|e| shuffled(10, 1, e).iter().position(|&r| r == 0).unwrap() as f64).sum::<f64>() / 2000.0;
        assert!((mean - 4.5).abs() < 5.0 * (8.25f64 / 2000.0).sqrt(), "{mean}");
    }

    #[test]
    fn batches_end_with_the_short_one() {
        let order: Vec<usize> = (0..7).collect();
        assert_eq!(batches(&order, 3).unwrap().collect::<Vec<_>>(), [&[0, 1, 2][..], &[3, 4, 5], &[6]]);
        assert_eq!(batches(&order, 7).unwrap().len(), 1);
        assert_eq!(batches(&order, 0).unwrap_err().to_string(), "batch size: must be at least 1");
        assert_eq!(batches(&order, usize::MAX).unwrap().collect::<Vec<_>>(), [&order[..]]);
    }

    fn hundred() -> Dataset {
        // Row i contains the number i. Nine rows in ten have class 0.
        let labels = (0..100).map(|i| (i % 10 == 9) as u32).collect();
        Dataset::new((0..100).map(|i| i as f32).collect(), [1], Target::labels(labels, 2)).unwrap()
    }

    #[test]
    fn splits_take_every_row_once() {
        for (a, b) in [hundred().split(0.8, 3).unwrap(), hundred().stratified(0.8, 3).unwrap()] {
            assert_eq!((a.len(), b.len()), (80, 20));
            let mut rows: Vec<usize> = [&a, &b].iter().flat_map(|d| (0..d.len()).map(|i| d.features().at(i) as usize)).collect();
            assert!(rows.windows(2).any(|w| w[0] > w[1]), "not shuffled");
            rows.sort();
            assert_eq!(rows, (0..100).collect::<Vec<_>>());
            let (Features::Float(x), y) = (a.features(), a.labels()) else { panic!("floats became bytes") };
            assert!(x.iter().zip(y).all(|(&x, &y)| y == (x as u32 % 10 == 9) as u32), "labels left their rows");
        }
        assert_eq!(hundred().split(0.8, 3).unwrap(), hundred().split(0.8, 3).unwrap());
        assert_ne!(hundred().split(0.8, 3).unwrap(), hundred().split(0.8, 4).unwrap());
    }

    #[test]
    fn stratified_keeps_the_proportions() {
        for (fraction, rare) in [(0.8, 8..=8), (0.5, 5..=5), (0.25, 2..=3)] {
            let (a, _) = hundred().stratified(fraction, 1).unwrap();
            let ones = a.labels().iter().sum::<u32>();
            assert!(rare.contains(&ones), "{fraction}: {ones} of the rare class");
        }
    }

    #[test]
    fn splits_that_leave_nothing_are_refused() {
        for fraction in [0.0, 0.001, 1.0, 0.999, -1.0, 2.0, f64::NAN] {
            let e = hundred().split(fraction, 1).unwrap_err();
            assert!(matches!(e, Error::Argument { .. }) && e.to_string().contains("one part empty"), "{fraction}: {e}");
        }
        let e = hundred().with_float_labels().stratified(0.5, 1).unwrap_err();
        assert!(e.to_string().contains("not labels"), "{e}");
    }
}
