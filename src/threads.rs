//! Helpers that are compiled once for the whole crate: parallel loops and the sizes of their tasks, a sort, and locks.

use rayon::prelude::*;
use std::{
    cell::Cell,
    cmp::Ordering,
    sync::{Mutex, MutexGuard, PoisonError},
};

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

thread_local!(static ALONE: Cell<bool> = const { Cell::new(false) });

/// Runs `f` without other threads: the loops below run on this thread. Their results are the same.
pub(crate) fn alone<R>(f: impl FnOnce() -> R) -> R {
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _back = Back(ALONE.replace(true));
    f()
}

/// Returns the number of threads that a loop of this thread has.
pub(crate) fn count() -> usize {
    if ALONE.get() { 1 } else { rayon::current_num_threads() }
}

/// Calls `task` with each number below `n`, on all threads.
///
/// Rayon's loops are long, and a loop over a closure is compiled for that closure. The loops here call a closure through a pointer, so
/// they are compiled once. They serve the whole crate.
pub(crate) fn parallel(n: usize, task: &(dyn Fn(usize) + Sync)) {
    match ALONE.get() {
        true => (0..n).for_each(task),
        false => (0..n).into_par_iter().for_each(task),
    }
}

/// Calls `task` with the number and the elements of each chunk of `size` elements, on all threads. The last chunk may be shorter.
pub(crate) fn chunks<T: Send>(all: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    fn run<T: Send>(all: &mut [T], size: usize, task: &(dyn Fn(usize, &mut [T]) + Sync)) {
        match ALONE.get() {
            true => all.chunks_mut(size).enumerate().for_each(|(k, chunk)| task(k, chunk)),
            false => all.par_chunks_mut(size).enumerate().for_each(|(k, chunk)| task(k, chunk)),
        }
    }
    run(all, size, &task);
}

/// Calls `task` with the number and the elements of each line of `size` elements, on all threads. A thread takes `least` lines at a time.
pub(crate) fn lines<T: Send>(all: &mut [T], size: usize, least: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    chunks(all, size * least, |k, lines| lines.chunks_mut(size).enumerate().for_each(|(i, line)| task(k * least + i, line)));
}

/// Returns chunk `k` of the chunks of `size` elements.
pub(crate) fn chunk<T>(all: &[T], size: usize, k: usize) -> &[T] {
    &all[k * size..all.len().min((k + 1) * size)]
}

/// Returns the numbers below `n`, sorted by their keys. Numbers with equal keys keep their order.
pub(crate) fn sorted<K: Ord>(n: usize, key: impl Fn(usize) -> K) -> Vec<usize> {
    fn run(n: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..n).collect();
        numbers.sort_by(|&a, &b| compare(a, b));
        numbers
    }
    run(n, &|a, b| key(a).cmp(&key(b)))
}

/// Locks a mutex, even if another thread panicked while it held the lock. The data behind these locks stay valid after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{panic::catch_unwind, thread};

    #[test]
    fn alone_means_this_thread() {
        let here = thread::current().id();
        let mut numbers = [1; 1000];
        alone(|| {
            parallel(100, &|_| assert_eq!(thread::current().id(), here));
            lines(&mut numbers, 1, 3, |k, line| {
                assert_eq!(thread::current().id(), here);
                line[0] += k;
            });
            assert_eq!(count(), 1);
        });
        assert!(numbers.iter().enumerate().all(|(k, &x)| x == k + 1));
        // Afterwards all threads are there again, after a panic as well.
        assert!(catch_unwind(|| alone(|| panic!("on purpose"))).is_err());
        assert_eq!(count(), rayon::current_num_threads());
    }
}
