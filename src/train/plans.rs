//! The cache of plans, which stores the latest few.

/// The kind and size of the batch that a training plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// A step on this number of samples. 0 where `Trainer::new` made the trainer from one graph.
    Whole(usize),
    /// A micro-batch of this number of samples. 0 where `Trainer::new` made the trainer from one graph.
    Micro(usize),
    /// An update with gradients that the caller gave. The step computes no loss.
    Given,
    /// The update of a step over ranks. The store has the mean of the gradients of all ranks, and the guard the mean of their losses.
    Mean,
}

impl Batch {
    /// Returns the number of samples. `None` for a step that computes no gradients.
    pub fn samples(self) -> Option<usize> {
        match self {
            Batch::Whole(n) | Batch::Micro(n) => Some(n),
            Batch::Given | Batch::Mean => None,
        }
    }
}

/// A cache of values by key. A full cache drops the value that was used least recently.
pub(super) struct Latest<K, T> {
    most: usize,
    /// The values in order of use. The value that was used last is at the end.
    all: Vec<(K, T)>,
}

impl<K: Copy + PartialEq, T> Latest<K, T> {
    /// Makes a cache of at most `most` values. `most` must be at least 2.
    pub fn new(most: usize) -> Latest<K, T> {
        Latest { most, all: Vec::with_capacity(most) }
    }
    pub fn get(&self, key: K) -> Option<&T> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    /// Returns the value and marks it as used last.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let at = self.all.iter().position(|(k, _)| *k == key)?;
        self.all[at..].rotate_left(1);
        self.all.last_mut().map(|(_, value)| value)
    }
    /// Makes room for one more value. Returns the value that was dropped, if any. Never drops the value of `keep`.
    pub fn room(&mut self, keep: Option<K>) -> Option<T> {
        let oldest = (self.all.len() >= self.most).then(|| self.all.iter().position(|(k, _)| Some(*k) != keep))??;
        Some(self.all.remove(oldest).1)
    }
    /// Adds a value. The caller must make [room](Latest::room) first.
    pub fn insert(&mut self, key: K, value: T) {
        debug_assert!(self.all.len() < self.most && self.get(key).is_none());
        self.all.push((key, value));
    }
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.all.iter().map(|(key, value)| (*key, value))
    }
    /// Removes and returns all values.
    pub fn take(&mut self) -> impl Iterator<Item = T> {
        self.all.drain(..).map(|(_, value)| value)
    }
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut latest = Latest::new(3);
        for key in [7, 8, 9] {
            assert_eq!(latest.room(None), None);
            latest.insert(key, key * 10);
        }
        assert_eq!(latest.get_mut(7), Some(&mut 70));
        assert_eq!(latest.get(8), Some(&80));
        assert_eq!(latest.get_mut(5), None);
        assert_eq!(latest.room(Some(8)), Some(90));
        latest.insert(1, 10);
        assert_eq!(latest.room(None), Some(80));
        assert_eq!(latest.iter().map(|(key, _)| key).collect::<Vec<_>>(), [7, 1]);
    }
}
