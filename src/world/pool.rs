//! The memory of messages, which is used again.

use crate::threads::lock;
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
};

/// A message with its header. A message to several ranks is not copied.
pub(super) type Message = Arc<Buffer>;

/// The fewest bytes of a buffer that is kept. Smaller memory comes from the allocator quickly.
const LEAST: usize = 1 << 16;
/// The most bytes that are kept.
const MOST: usize = 256 << 20;

/// The free buffers of a rank, the oldest first. They keep their old content.
///
/// The system gives memory of megabytes page by page when it is first touched. That takes longer than to copy as many bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// Returns an empty buffer with room for `len` bytes.
    pub fn empty(&self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.clear();
        buffer
    }
    /// Returns a buffer of `len` bytes with any content. The bytes of an earlier message are not set to 0 again.
    #[cfg_attr(not(any(feature = "mpi", test)), expect(dead_code, reason = "messages between threads need no buffer of the receiver"))]
    pub fn of(&self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.resize(len, 0);
        buffer
    }
    /// Returns a buffer with room for `len` bytes. A buffer serves messages that fill at least half of it, so that small messages leave
    /// large buffers to large messages.
    fn take(&self, len: usize) -> Buffer {
        let mut free = lock(&self.0);
        let fits = (0..free.len()).filter(|&k| (len..=2 * len).contains(&free[k].capacity())).min_by_key(|&k| free[k].capacity());
        Buffer { bytes: fits.map_or_else(|| Vec::with_capacity(len), |k| free.remove(k)), pool: self.clone() }
    }
}

/// The bytes of a message. They go back to their pool when the message is dropped.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes.capacity() < LEAST {
            return;
        }
        let mut free = lock(&self.pool.0);
        free.push(std::mem::take(&mut self.bytes));
        let mut kept: usize = free.iter().map(Vec::capacity).sum();
        while kept > MOST {
            kept -= free.remove(0).capacity();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 1_000_003;

    #[test]
    fn memory_is_used_again() {
        let pool = Pool::default();
        let mut first = pool.empty(LARGE);
        first.extend((0..LARGE).map(|i| i as u8));
        let at = first.as_ptr();
        // A clone of a message holds its memory.
        let (message, clone) = (Arc::new(first), pool.clone());
        let other = Arc::clone(&message);
        drop(message);
        assert_ne!(clone.of(LARGE).as_ptr(), at);
        drop(other);
        // Small messages and larger ones leave the buffer alone.
        assert!([100, LARGE / 2 - 1, 2 * LARGE].iter().all(|&len| pool.empty(len).as_ptr() != at));
        let again = [pool.of(LARGE), pool.of(LARGE)].into_iter().find(|buffer| buffer.as_ptr() == at).expect("it is free");
        assert_eq!((again.len(), again[300]), (LARGE, 44));
        drop(again);
    }

    #[test]
    fn memory_is_bounded() {
        let pool = Pool::default();
        drop((0..9).map(|k| pool.empty(MOST / 8 - k)).collect::<Vec<_>>());
        drop(pool.empty(LEAST - 1));
        let sizes: Vec<usize> = lock(&pool.0).iter().map(Vec::capacity).collect();
        // The oldest buffer made room.
        assert_eq!(sizes, (1..9).map(|k| MOST / 8 - k).collect::<Vec<_>>());
    }
}
