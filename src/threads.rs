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

/// Returns the numbers of the cores that this thread may run on. Empty where the system does not say.
pub(crate) fn cores() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a set of cores is plain bits, so zeros are an empty set. The call writes at most the size of the set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the set lives until the end of the call.
        if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } == 0 {
            // SAFETY: the macro reads a bit of the set, and the number is below its size.
            return (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect();
        }
    }
    Vec::new()
}

/// Keeps this thread, and threads that it starts from now on, on these cores. Returns whether the system does so.
pub(crate) fn stay_on(cores: &[usize]) -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a set of cores is plain bits, so zeros are an empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &core in cores.iter().filter(|&&core| core < libc::CPU_SETSIZE as usize) {
            // SAFETY: the macro sets a bit of the set, and the number is below its size.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        // SAFETY: the call only reads the set, which lives until its end.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = cores;
        false
    }
}

/// Returns part `k` of `n` nearly equal parts of a list. If the list is shorter than `n`, some parts are the same element.
pub(crate) fn part<T>(all: &[T], k: usize, n: usize) -> &[T] {
    if all.len() < n {
        return all.get(k % all.len().max(1)..).map_or(&[], |rest| &rest[..rest.len().min(1)]);
    }
    &all[k * all.len() / n..(k + 1) * all.len() / n]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{panic::catch_unwind, thread};

    #[test]
    fn parts_of_a_list() {
        let list = [0, 1, 2, 3, 4, 5, 6];
        assert_eq!([0, 1, 2].map(|k| part(&list, k, 3)), [&list[..2], &list[2..4], &list[4..]]);
        assert_eq!([0, 1, 2].map(|k| part(&list[..2], k, 3)), [&list[..1], &list[1..2], &list[..1]]);
        assert!(part(&list[..0], 1, 3).is_empty());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_stays_on_its_cores() {
        thread::spawn(|| {
            let all = cores();
            assert!(stay_on(&all[..1]));
            let own = thread::spawn(cores).join().unwrap();
            assert_eq!((cores(), own), (all[..1].to_vec(), all[..1].to_vec()));
        })
        .join()
        .unwrap();
    }

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
