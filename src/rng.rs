//! The one random generator: Philox 4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as
//! 1, 2, 3").
//!
//! The generator is a function of a counter and a key, and has no state. So a GPU invocation computes its number independently of
//! other invocations, the backward pass recomputes the numbers of the forward pass, and the CPU draws the same bits.
//!
//! - [`uniform01`] is the element stream of ops such as dropout, keyed by seed, step, stream (one a node) and
//!   element. `shaders/lib/philox.wgsl` is its twin.
//! - [`Stream`] is the sequential stream of the host (initial weights, shuffles, splits), keyed by a seed and the
//!   name of what it is for. It works with everything in the `rand` crate.

use crate::simd;
use rand::rand_core::{TryRng, utils};
use std::convert::Infallible;

/// The key of the random numbers of one step. The seed and the step are the first two arguments of [`uniform01`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The seed of the model.
    pub seed: u64,
    /// The number of the step, counted from 0. Every step draws different numbers.
    pub step: u64,
}

/// Returns four random words for a 128-bit counter and a 64-bit key, by ten rounds of Philox 4x32. The loop of [`fill_uniform`] becomes
/// vector instructions only if this function and its callers are inlined into it.
#[inline(always)]
pub(crate) fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let (p0, p1) = (0xD2511F53 * c0 as u64, 0xCD9E8D57 * c2 as u64);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        (k0, k1) = (k0.wrapping_add(0x9E3779B9), k1.wrapping_add(0xBB67AE85));
    }
    [c0, c1, c2, c3]
}

/// Splits a 64-bit number into its low and its high word. The GPU takes a 64-bit number in this form.
#[inline(always)]
pub(crate) fn words(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// Returns the four elements `4·block ..` of the element stream.
#[inline(always)]
pub(crate) fn uniform01x4(seed: u64, step: u64, stream: u32, block: u32) -> [f32; 4] {
    let [lo, hi] = words(step);
    // 24 bits are what an f32 holds exactly, so that 1.0 is never reached by rounding.
    philox([block, stream, lo, hi], words(seed)).map(|w| (w >> 8) as f32 * (1.0 / (1 << 24) as f32))
}

/// Returns element `element` of the random stream `stream` at step `step`. The number is uniform over [0, 1) and has 24 bits.
///
/// ```
/// use downhill::rng::{fill_uniform, uniform01};
/// let mut block = [0.0; 5];
/// fill_uniform(7, 1, 2, 30, &mut block);
/// assert_eq!(block[4], uniform01(7, 1, 2, 34));
/// ```
pub fn uniform01(seed: u64, step: u64, stream: u32, element: u32) -> f32 {
    uniform01x4(seed, step, stream, element / 4)[(element % 4) as usize]
}

/// Fills `out` with [`uniform01`] of the elements `first ..`, and computes several blocks of four elements at once.
pub fn fill_uniform(seed: u64, step: u64, stream: u32, first: u32, out: &mut [f32]) {
    let lead = ((4 - first % 4) % 4).min(out.len() as u32);
    let (head, rest) = out.split_at_mut(lead as usize);
    for (i, x) in head.iter_mut().enumerate() {
        *x = uniform01(seed, step, stream, first + i as u32);
    }
    let block = (first + lead) / 4;
    let (fours, tail) = rest.as_chunks_mut::<4>();
    simd::wide(
        #[inline(always)]
        || {
            for (i, four) in fours.iter_mut().enumerate() {
                *four = uniform01x4(seed, step, stream, block + i as u32);
            }
        },
    );
    let last = uniform01x4(seed, step, stream, block + fours.len() as u32);
    tail.copy_from_slice(&last[..tail.len()]);
}

/// A sequential stream of random numbers for the host: a generator for the `rand` crate.
///
/// ```
/// use downhill::rng::Stream;
/// use rand::RngExt;
/// let (mut a, mut b) = (Stream::new(1, "fc1.weight"), Stream::new(1, "fc1.weight"));
/// assert_eq!(a.random_range(0..100), b.random_range(0..100));
/// ```
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// Returns the stream of `seed` for `purpose`. Streams of different seeds or purposes are independent.
    pub fn new(seed: u64, purpose: &str) -> Stream {
        // Mixed by Philox itself: an exclusive or of seed and hash would let two pairs share a stream.
        let [lo, hi] = words(fnv1a(purpose.bytes()));
        let [k0, k1, ..] = philox([lo, hi, 0, 0], words(seed));
        Stream { key: [k0, k1], block: 0, words: [0; 4], used: 4 }
    }
    /// Draws a standard normal number, by Box and Muller's transform in `f64`. The `libm` crate gives the same bits on every
    /// system; the libraries of systems do not.
    pub fn normal(&mut self) -> f64 {
        use rand::RngExt;
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let (u, v) = (1.0 - self.random::<f64>(), self.random::<f64>());
        libm::sqrt(-2.0 * libm::log(u)) * libm::cos(std::f64::consts::TAU * v)
    }
}

impl TryRng for Stream {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        if self.used == 4 {
            let [lo, hi] = words(self.block);
            self.words = philox([lo, hi, 0, 0], self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        Ok(self.words[self.used - 1])
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        utils::next_u64_via_u32(self)
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        utils::fill_bytes_via_next_word(out, || self.try_next_u32())
    }
}

/// The 64-bit FNV-1a hash (Fowler, Noll & Vo): the same in every release, which `std`'s hasher does not promise.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, RngExt};

    /// `philox 4x32 10` of Random123's kat_vectors.
    const KNOWN: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
        ([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]),
    ];

    #[test]
    fn philox_known_answers() {
        for (counter, key, want) in KNOWN {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn element_stream_is_the_counter_spelled_out() {
        let word = philox([41, 3, 9, 7], [0x55667788, 0x11223344])[2];
        assert_eq!(uniform01(0x1122334455667788, 9 | 7 << 32, 3, 41 * 4 + 2), (word >> 8) as f32 / 16777216.0);
    }

    #[test]
    fn blocks_equal_single_elements_at_any_offset() {
        for first in [0, 1, 2, 3, 4, 1001, u32::MAX - 140] {
            for len in [0, 1, 2, 3, 4, 5, 8, 11, 21, 139] {
                let mut out = vec![f32::NAN; len];
                fill_uniform(5, 6, 7, first, &mut out);
                let want: Vec<f32> = (0..len as u32).map(|i| uniform01(5, 6, 7, first + i)).collect();
                assert_eq!(out, want, "from {first}, {len} elements");
            }
        }
    }

    #[test]
    fn uniform_numbers_are_uniform() {
        let n = 1 << 16;
        let mut x = vec![0.0; n];
        fill_uniform(1, 0, 0, 0, &mut x);
        assert!(x.iter().all(|x| (0.0..1.0).contains(x)));
        // The mean of n uniform numbers deviates by sqrt(1/12n); 5 of those happen once in a million.
        let mean = x.iter().map(|&x| x as f64).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / n as f64).sqrt(), "{mean}");
        // χ² over 64 bins: 63 degrees of freedom, so 63 ± 5·sqrt(126).
        let mut bins = [0u32; 64];
        x.iter().for_each(|x| bins[(x * 64.0) as usize] += 1);
        let expect = n as f64 / 64.0;
        let chi2: f64 = bins.iter().map(|&b| (b as f64 - expect).powi(2) / expect).sum();
        assert!((chi2 - 63.0).abs() < 5.0 * 126f64.sqrt(), "{chi2}");
    }

    #[test]
    fn normal_numbers_have_the_moments_of_a_normal() {
        let (n, mut s) = (1 << 16, Stream::new(3, "normal"));
        let x: Vec<f64> = (0..n).map(|_| s.normal()).collect();
        // Moment k deviates by sqrt(var(x^k) / n), with var(x) = 1, var(x²) = 2, var(x³) = 15, var(x⁴) = 96.
        for (k, want, var) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
            let got = x.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
            assert!((got - want).abs() < 5.0 * (var / n as f64).sqrt(), "moment {k}: {got}");
        }
    }

    #[test]
    fn streams_repeat_and_differ_by_seed_and_purpose() {
        let draw = |seed, purpose| Stream::new(seed, purpose).random::<[u64; 4]>();
        assert_eq!(draw(1, "a"), draw(1, "a"));
        let all = [draw(1, "a"), draw(2, "a"), draw(1, "b"), draw(1, ""), draw(1 << 32, "a")];
        assert!((0..5).all(|i| (0..i).all(|j| all[i] != all[j])));
        // The first words, pinned: a seed must give the same weights in every release.
        assert_eq!(Stream::new(0, "fc1.weight").next_u32(), 1614433581);
    }

    #[test]
    fn hash_is_the_published_one() {
        assert_eq!(["", "a", "foobar"].map(|text| fnv1a(text.bytes())), [0xcbf29ce484222325, 0xaf63dc4c8601ec8c, 0x85944171f73967e8]);
    }

    #[test]
    fn bytes_are_the_words_in_order() {
        let (mut bytes, mut s) = ([0u8; 12], Stream::new(4, "bytes"));
        Stream::new(4, "bytes").fill_bytes(&mut bytes);
        for four in bytes.chunks(4) {
            assert_eq!(four, s.next_u32().to_le_bytes());
        }
    }

    #[test]
    fn the_shader_is_valid() {
        let text = include_str!("../shaders/lib/philox.wgsl").to_string()
            + "@group(0) @binding(0) var<uniform> p: vec4<u32>;
               @group(0) @binding(1) var<storage, read_write> y: array<f32>;
               @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) i: vec3<u32>) { y[i.x] = uniform01(p.xy, p.zw, 3u, i.x); }";
        use wgpu::naga;
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::empty()).validate(&module).unwrap();
    }
}
