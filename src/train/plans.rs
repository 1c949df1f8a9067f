//! The plans that are kept: the latest few of them.

/// What a plan of the training graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// A step on so many samples; 0 where the trainer was made of one graph.
    Whole(usize),
    /// A micro-batch of so many samples, or of that graph.
    Micro(usize),
    /// A step that computes nothing: it takes the gradients as they lie.
    Given,
}

impl Batch {
    /// Its samples, where a model says that there may be any number of them.
    pub fn samples(self) -> Option<usize> {
        match self {
            Batch::Whole(n) | Batch::Micro(n) => Some(n),
            Batch::Given => None,
        }
    }
}

/// Values by key. Where there are as many as there may be, the one that was not used for longest makes room.
pub(super) struct Latest<K, T> {
    most: usize,
    /// The one that was used last is at the end.
    all: Vec<(K, T)>,
}

impl<K: Copy + PartialEq, T> Latest<K, T> {
    /// At most so many, which are at least two.
    pub fn new(most: usize) -> Latest<K, T> {
        Latest { most, all: Vec::with_capacity(most) }
    }
    pub fn get(&self, key: K) -> Option<&T> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    /// To be used: that makes it the latest.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let at = self.all.iter().position(|(k, _)| *k == key)?;
        self.all[at..].rotate_left(1);
        self.all.last_mut().map(|(_, value)| value)
    }
    /// Makes room for one more: what had to go for it. `keep` stays.
    pub fn room(&mut self, keep: Option<K>) -> Option<T> {
        let oldest = (self.all.len() >= self.most).then(|| self.all.iter().position(|(k, _)| Some(*k) != keep))??;
        Some(self.all.remove(oldest).1)
    }
    /// There must be [room](Latest::room) for it.
    pub fn insert(&mut self, key: K, value: T) {
        debug_assert!(self.all.len() < self.most && self.get(key).is_none());
        self.all.push((key, value));
    }
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.all.iter().map(|(key, value)| (*key, value))
    }
    /// All of them, which are gone then.
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
