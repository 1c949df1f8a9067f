//! The plans that are kept: the latest few of them.

/// Values by number. Where there are as many as there may be, the one that was not used for longest makes room.
pub(super) struct Latest<T> {
    most: usize,
    /// The one that was used last is at the end.
    all: Vec<(usize, T)>,
}

impl<T> Latest<T> {
    /// At most so many, which are at least two.
    pub fn new(most: usize) -> Latest<T> {
        Latest { most, all: Vec::with_capacity(most) }
    }
    pub fn get(&self, key: usize) -> Option<&T> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    /// To be used: that makes it the latest.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut T> {
        let at = self.all.iter().position(|(k, _)| *k == key)?;
        self.all[at..].rotate_left(1);
        self.all.last_mut().map(|(_, value)| value)
    }
    /// Makes room for one more: what had to go for it. `keep` stays.
    pub fn room(&mut self, keep: Option<usize>) -> Option<T> {
        let oldest = (self.all.len() >= self.most).then(|| self.all.iter().position(|(k, _)| Some(*k) != keep))??;
        Some(self.all.remove(oldest).1)
    }
    /// There must be [room](Latest::room) for it.
    pub fn insert(&mut self, key: usize, value: T) {
        debug_assert!(self.all.len() < self.most && self.get(key).is_none());
        self.all.push((key, value));
    }
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.all.iter().map(|(key, value)| (*key, value))
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
