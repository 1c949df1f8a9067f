//! Memory for intermediate results on the CPU device, which threads keep: a step allocates nothing.

use crate::{error::Result, host};
use std::cell::RefCell;

/// Bytes that a buffer has at least: more than nearly all uses need. Memory that is not touched is not used.
const LEAST: usize = 4 << 20;

/// Buffers that a thread has at once, at most, in the ops that are here: in the gradient of a convolution's weights the parts'
/// sums, the columns, and the two sides of a product.
const DEEP: usize = 4;

thread_local! {
    /// Free buffers; the last one is taken first.
    static FREE: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `n` numbers of any values.
pub fn with<T: bytemuck::Pod, R>(n: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let words = (n * size_of::<T>()).div_ceil(size_of::<u64>());
    let mut buffer = FREE.with_borrow_mut(|free| free.pop()).unwrap_or_default();
    if buffer.len() < words {
        // Zeroed memory is mapped when it is first touched.
        buffer = vec![0; words.max(LEAST / size_of::<u64>())];
    }
    let result = f(&mut bytemuck::cast_slice_mut(&mut buffer)[..n]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

/// Makes the buffers of every thread that works for the device, so that no step has to.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) without the memory.
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
