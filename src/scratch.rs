//! The scratch memory for intermediate results on the CPU device. Each thread reuses its buffers, so a step allocates nothing.

use crate::{error::Result, host};
use std::cell::RefCell;

/// The smallest size of a buffer in bytes. Nearly all uses need less. The system provides memory only when it is first
/// touched.
const LEAST: usize = 4 << 20;

/// The largest number of buffers that a thread uses at once. The gradient of a convolution's parameters needs four: the
/// partial sums, the columns, and both operands of a product.
const DEEP: usize = 4;

thread_local! {
    /// The free buffers. The last buffer is used first.
    static FREE: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a scratch array of `n` numbers. The array holds arbitrary values.
pub fn with<T: bytemuck::Pod, R>(n: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut buffer = take((n * size_of::<T>()).div_ceil(size_of::<u64>()));
    let result = f(&mut bytemuck::cast_slice_mut(&mut buffer)[..n]);
    give(buffer);
    result
}

/// Returns a buffer of at least `words` words.
fn take(words: usize) -> Vec<u64> {
    let buffer = FREE.with_borrow_mut(|free| free.pop()).unwrap_or_default();
    // The system provides zeroed memory when it is first touched.
    if buffer.len() < words { vec![0; words.max(LEAST / size_of::<u64>())] } else { buffer }
}

fn give(buffer: Vec<u64>) {
    FREE.with_borrow_mut(|free| free.push(buffer));
}

/// Makes the buffers of every thread of the device, so that no step has to make them.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if there is not enough memory.
pub fn prepare() -> Result<()> {
    let made = rayon::broadcast(|_| {
        FREE.with_borrow_mut(|free| {
            free.reserve(2 * DEEP);
            while free.len() < DEEP {
                free.push(host::zeros("scratch of a thread", LEAST / size_of::<u64>())?);
            }
            Ok(())
        })
    });
    made.into_iter().collect()
}
