//! The loops of the CPU device, compiled for the vector instructions of the machine.
//!
//! The crate is compiled for any processor of its architecture. [`wide`] compiles a loop again for each wider kind of vectors
//! and selects one of them at run time. The results have the same bits for all vectors, for two reasons. Rust never rounds a
//! product and a sum only once unless the code asks for it. And a loop that adds numbers uses a fixed number of partial sums.

/// The vector instructions of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// The instructions that every processor of the architecture has.
    Plain,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    V256,
    /// x86-64 with AVX2, FMA and AVX-512.
    #[cfg(target_arch = "x86_64")]
    V512,
}

impl Vectors {
    /// Returns the vector instructions of this machine.
    #[inline(always)]
    pub fn get() -> Vectors {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            return if wide { Vectors::V512 } else { Vectors::V256 };
        }
        Vectors::Plain
    }
}

/// Runs `f` compiled for the vectors of this machine: `wide(#[inline(always)] || …)`. A function that `f` calls is compiled
/// for these vectors only if it is inlined.
#[inline(always)]
pub fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn v256<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
        fn v512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match Vectors::get() {
            // SAFETY: the machine has these instructions.
            Vectors::V512 => return unsafe { v512(f) },
            // SAFETY: the machine has these instructions.
            Vectors::V256 => return unsafe { v256(f) },
            Vectors::Plain => {}
        }
    }
    f()
}

/// Copies `from` to memory that is not read soon. On x86-64 the copy bypasses the caches, so the old content of `to` is not
/// loaded. After the copies, call [`streamed`].
pub fn stream<T: bytemuck::Pod>(from: &[T], to: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let (from, to): (&[u8], &mut [u8]) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
        if from.len() == to.len() && from.len().is_multiple_of(16) && to.as_ptr().cast::<__m128i>().is_aligned() {
            for (from, to) in from.chunks_exact(16).zip(to.chunks_exact_mut(16)) {
                // SAFETY: both chunks have sixteen bytes, and `to` is aligned. Every x86-64 processor has these instructions.
                unsafe { _mm_stream_si128(to.as_mut_ptr().cast(), _mm_loadu_si128(from.as_ptr().cast())) };
            }
            return;
        }
        to.copy_from_slice(from);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

/// Makes the data that [`stream`] wrote visible to other threads.
pub fn streamed() {
    // SAFETY: every x86-64 processor has this instruction.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}
