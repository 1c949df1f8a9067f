//! Which rows of a data set a call takes.

use std::ops::{Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// Rows of a data set: a range, or a list of the numbers of rows.
///
/// ```
/// let iris = downhill::data::iris();
/// assert_eq!((iris.subset(100..)?.len(), iris.subset(..=2)?.len()), (50, 3));
/// assert_eq!(iris.subset(&[149, 0])?.labels(), &[2, 0]);
/// # Ok::<(), downhill::Error>(())
/// ```
pub trait Selection {
    /// Returns the numbers of the rows, for a data set of `len` rows. A row that the data does not have may be among them.
    fn rows(self, len: usize) -> Vec<usize>;
}

impl<T: AsRef<[usize]> + ?Sized> Selection for &T {
    fn rows(self, _: usize) -> Vec<usize> {
        self.as_ref().to_vec()
    }
}

macro_rules! ranges {
    ($($range:ty),*) => {$(
        impl Selection for $range {
            fn rows(self, len: usize) -> Vec<usize> {
                within(self, len)
            }
        }
    )*};
}

ranges!(Range<usize>, RangeFrom<usize>, RangeFull, RangeInclusive<usize>, RangeTo<usize>, RangeToInclusive<usize>);

fn within(range: impl RangeBounds<usize>, len: usize) -> Vec<usize> {
    let start = match range.start_bound() {
        Bound::Included(&row) => row,
        Bound::Excluded(&row) => row.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&row) => row.saturating_add(1),
        Bound::Excluded(&row) => row,
        Bound::Unbounded => len,
    };
    // One row that the data does not have is enough for an error.
    (start..end.min(len.max(start).saturating_add(1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!((1..3).rows(9), [1, 2]);
        assert_eq!((7..).rows(9), [7, 8]);
        assert_eq!((..2).rows(9), [0, 1]);
        assert_eq!((..=2).rows(9), [0, 1, 2]);
        assert_eq!((3..=4).rows(9), [3, 4]);
        assert_eq!((..).rows(2), [0, 1]);
        assert_eq!((&[4, 4, 1]).rows(2), [4, 4, 1]);
        assert_eq!((&vec![0; 2]).rows(2), [0, 0]);
        // Rows behind the end are in it, but not without end.
        assert_eq!((1..usize::MAX).rows(2), [1, 2]);
        assert_eq!((5..usize::MAX).rows(2), [5]);
        assert_eq!((..=usize::MAX).rows(1), [0, 1]);
        assert!((5..).rows(2).is_empty() && (1..1).rows(9).is_empty());
    }
    #[test]
    fn rows_that_are_not_there() {
        let iris = crate::data::iris();
        assert_eq!(iris.subset(149..151).unwrap_err().to_string(), "row 150: the data has 150 rows (0 to 149)");
        assert_eq!(iris.subset(150..).unwrap_err().to_string(), "Dataset::subset: no rows");
        assert_eq!(iris.batch(400..usize::MAX).unwrap_err().to_string(), "row 400: the data has 150 rows (0 to 149)");
        assert_eq!(iris.columns(148..).unwrap()[0].shape.dims(), [2, 4]);
    }
}
