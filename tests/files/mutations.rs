//! A bounded run of the fuzzer: samples changed at random, by seed, thousands for each reader. Each loads or is a typed error, in a time
//! and a memory that are bounded. `DOWNHILL_FUZZ` says how many.

use crate::{
    common::{Check, Suite},
    readers::{LIMIT, Make, READERS, Reader},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

pub fn trials(suite: &mut Suite) {
    for (name, make) in READERS {
        suite.test(&format!("mutations of {name}"), move || mutations(name, make));
    }
}

/// The default number of mutations for each reader.
const COUNT: u64 = 3000;
/// A table of one-byte fields becomes floats and a record of their ends: some thirty bytes each.
const MOST_BYTES: usize = 40 * LIMIT as usize;
/// Far more than any takes, on a busy machine.
const MOST_TIME: Duration = Duration::from_secs(10);

fn mutations(name: &'static str, make: Make) -> Check {
    let folder = tempfile::tempdir()?;
    let mut reader = make(folder.path());
    for sample in reader.samples.clone() {
        reader.read(&sample)?;
    }
    let count = match env::var("DOWNHILL_FUZZ") {
        Ok(count) => count.parse().map_err(|_| format!("DOWNHILL_FUZZ is {count}, not a number"))?,
        Err(_) => COUNT,
    };
    for k in 0..count {
        let bytes = mutation(&reader, k);
        let (before, started) = (Counting::start(), Instant::now());
        let read = catch_unwind(AssertUnwindSafe(|| reader.read(&bytes)));
        let (took, peak) = (started.elapsed(), Counting::peak().saturating_sub(before));
        let wrong = match read {
            Err(_) => "it panicked".to_string(),
            Ok(Err(why)) => why,
            Ok(Ok(())) if peak > MOST_BYTES => format!("it took {peak} bytes"),
            Ok(Ok(())) if took > MOST_TIME => format!("it took {took:?}"),
            Ok(Ok(())) => continue,
        };
        let kept = env::temp_dir().join(format!("downhill-{name}-{k}"));
        fs::write(&kept, &bytes)?;
        return Err(format!("mutation {k} of {name}, {} bytes, now in {}: {wrong}", bytes.len(), kept.display()).into());
    }
    Ok(())
}

/// Number `k` of the files for a reader: plain, wrapped (gzipped, for most), or a wrapped one that was changed.
fn mutation(reader: &Reader, k: u64) -> Vec<u8> {
    let mut dice = Dice(k);
    let sample = &reader.samples[dice.below(reader.samples.len())];
    match dice.below(4) {
        0 => changed((reader.wrap)(sample), &reader.samples, &mut dice),
        1 => (reader.wrap)(&changed(sample.clone(), &reader.samples, &mut dice)),
        _ => changed(sample.clone(), &reader.samples, &mut dice),
    }
}

/// Words that formats and parsers of numbers know.
const WORDS: &[&str] = &[
    "nan",
    "inf",
    "-1",
    "-0",
    "1e999",
    "1e-400",
    "0.5",
    "1.",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "\"",
    ",",
    ",,",
    "\n",
    "\r",
    "\r\n",
    "#",
    " ",
    "\t",
    "\u{feff}",
    "é",
    "\0",
    "true",
    "{",
    "}",
    "[",
    "]",
    ":",
    "null",
    "F32",
    "F16",
    "BF16",
    "I64",
    "BOOL",
    "shape",
    "data_offsets",
    "__metadata__",
    "step",
    "epoch",
    "optimizer",
    "fc1.weight",
    "kernel",
    "ms",
    "slow_ms",
    "wrong",
    "does_not_run",
    "candidates",
    "\x1f\u{8b}",
];
/// Numbers at the edges of their types.
const EDGES: [u64; 10] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];

fn changed(mut bytes: Vec<u8>, samples: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    // One change in half of the files, two in a quarter, and so on.
    let changes = 1 + (dice.next().trailing_ones().min(9));
    for _ in 0..changes {
        let (a, b) = (dice.below(bytes.len() + 1), dice.below(bytes.len() + 1));
        let (from, to) = (a.min(b), a.max(b));
        match dice.below(14) {
            0 => bytes.truncate(a),
            1 => drop(bytes.drain(from..to)),
            2 => {
                let part = bytes[from..to].to_vec();
                bytes.splice(b..b, part);
            }
            // Many times, up to some thousand bytes.
            3 => {
                let part = bytes[from..to.min(from + 40)].to_vec();
                bytes.splice(a..a, part.repeat(dice.below(100)));
            }
            4 => {
                let other = &samples[dice.below(samples.len())];
                bytes.truncate(a);
                bytes.extend_from_slice(&other[dice.below(other.len() + 1)..]);
            }
            5 => bytes.extend(vec![0; dice.below(600)]),
            6 | 7 => {
                let word = WORDS[dice.below(WORDS.len())];
                let end = if dice.below(2) == 0 { a } else { bytes.len().min(a + word.len()) };
                bytes.splice(a..end, word.bytes());
            }
            8 | 13 => {
                let edge = EDGES[dice.below(EDGES.len())];
                let all = if dice.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let width = [1, 2, 4, 8][dice.below(4)];
                // The end that holds the number.
                let part = if all == edge.to_le_bytes() { &all[..width] } else { &all[8 - width..] };
                bytes.splice(a..bytes.len().min(a + width), part.iter().copied());
            }
            // A number, whole, for another one.
            9 => {
                let is = |i: &usize| bytes[*i].is_ascii_digit();
                if let Some(start) = (a..bytes.len()).find(is) {
                    let end = (start..bytes.len()).find(|i| !is(i)).unwrap_or(bytes.len());
                    bytes.splice(start..end, EDGES[dice.below(EDGES.len())].to_string().bytes());
                }
            }
            kind => {
                let new = dice.next() as u8;
                match bytes.get_mut(a) {
                    Some(byte) if kind == 10 => *byte ^= 1 << (new & 7),
                    Some(byte) if kind == 11 => *byte = byte.wrapping_add(1),
                    Some(byte) => *byte = new,
                    None => bytes.push(new),
                }
            }
        }
        bytes.truncate(1 << 16);
    }
    bytes
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

/// Counts the bytes that a thread holds, and the most of them so far.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    /// Begins anew: what is held now.
    fn start() -> usize {
        PEAK.set(HELD.get());
        HELD.get()
    }
    fn peak() -> usize {
        PEAK.get()
    }
    fn took(bytes: usize) {
        // A thread that ends has none.
        let held = HELD.try_with(|held| {
            held.set(held.get().wrapping_add(bytes));
            held.get()
        });
        if let Ok(held) = held
            && held < isize::MAX as usize
        {
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held)));
        }
    }
}

// SAFETY: what the system's allocator does; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::took(layout.size());
        // SAFETY: the caller's promises are those that it asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        Counting::took(layout.size().wrapping_neg());
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
