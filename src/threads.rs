//! What threads share: work that is cut into tasks, and locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Elements that one parallel task of the CPU device takes: so many that starting the task costs little beside them.
///
/// Where a sum is cut into tasks, its order follows from this number and the next two: to change one is to change results.
pub(crate) const TASK: usize = 1 << 14;
/// The same where an element takes long: an exponential, a window, a place anywhere in memory.
pub(crate) const HEAVY_TASK: usize = TASK / 2;
/// The same where an element takes little: a few additions.
pub(crate) const LIGHT_TASK: usize = 2 * TASK;

/// A lock whose data stays sound even if a thread panicked while holding it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
