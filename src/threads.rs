//! Helpers for threads: the sizes of parallel tasks, and locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of elements in one parallel task of the CPU device. It is large enough to make the cost of starting the task
/// small.
///
/// This number and the next two also decide the order of a sum that is divided into tasks. A change of one of them changes
/// results.
pub(crate) const TASK: usize = 1 << 14;
/// The number of elements in a task with costly elements: an exponential, a window, or a read at any address.
pub(crate) const HEAVY_TASK: usize = TASK / 2;
/// The number of elements in a task with cheap elements: a few additions.
pub(crate) const LIGHT_TASK: usize = 2 * TASK;

/// Locks a mutex, even if another thread panicked while it held the lock. The data behind these locks stay valid after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
