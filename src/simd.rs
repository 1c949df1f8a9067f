//! Loops of the CPU device, compiled for the vectors that the machine has.
//!
//! The crate is compiled for any processor of its kind; [`wide`] compiles a loop once more for each wider kind of vectors and
//! chooses at run time. Rust never contracts a product and a sum to one rounding by itself, and loops that add up keep a
//! fixed number of sums, so that results are the same bits whatever the vectors.

/// The vectors that the machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vectors {
    /// Those that every processor of its kind has.
    Plain,
    /// x86-64: AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    V256,
    /// x86-64: AVX-512 as well.
    #[cfg(target_arch = "x86_64")]
    V512,
}

impl Vectors {
    /// Of this machine.
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

/// Runs `f` compiled for the vectors that the machine has: `wide(#[inline(always)] || …)`. What `f` calls takes part only where
/// it is inlined.
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
            // SAFETY: the machine has them.
            Vectors::V512 => return unsafe { v512(f) },
            // SAFETY: the machine has them.
            Vectors::V256 => return unsafe { v256(f) },
            Vectors::Plain => {}
        }
    }
    f()
}

/// Copies to memory that is not read soon, past the caches where the machine can: it is not read before it is written. Calls are
/// followed by [`streamed`].
pub fn stream<T: bytemuck::Pod>(from: &[T], to: &mut [T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let (from, to): (&[u8], &mut [u8]) = (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
        if from.len() == to.len() && from.len().is_multiple_of(16) && to.as_ptr().cast::<__m128i>().is_aligned() {
            for (from, to) in from.chunks_exact(16).zip(to.chunks_exact_mut(16)) {
                // SAFETY: both are sixteen bytes, and `to` is aligned; every x86-64 has these instructions.
                unsafe { _mm_stream_si128(to.as_mut_ptr().cast(), _mm_loadu_si128(from.as_ptr().cast())) };
            }
            return;
        }
        to.copy_from_slice(from);
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

/// Makes what [`stream`] wrote visible to other threads.
pub fn streamed() {
    // SAFETY: every x86-64 has this instruction.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence()
    };
}
