//! AMD's machine code as text: its hottest loop, and the instructions of that loop.

use serde_json::{Value, json};
use std::collections::VecDeque;

/// Instructions of a loop, by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loop {
    /// Vector instructions, and the vector instructions that multiply and add floats.
    pub vector: u32,
    pub fma: u32,
    /// Loads from workgroup memory, and bytes that a lane loads and stores there.
    pub lds_loads: u32,
    pub lds_bytes: u32,
    /// Loads from memory, and bytes that a lane loads.
    pub loads: u32,
    pub load_bytes: u32,
    /// Waits for either kind of memory.
    pub waits: u32,
    pub branches: u32,
    /// Multiply-adds from a load to the wait for it: for memory the fewest of any load, for workgroup memory the mean. `None` if the loop
    /// loads nothing.
    pub cover: Option<u32>,
    pub lds_cover: Option<f64>,
}

impl Loop {
    /// Returns the share of multiply-adds in the vector instructions.
    pub fn share(&self) -> f64 {
        if self.vector == 0 { 0.0 } else { f64::from(self.fma) / f64::from(self.vector) }
    }
    pub fn json(&self) -> Value {
        json!([self.vector, self.fma, self.lds_loads, self.loads, self.waits, self.cover, self.lds_cover.map(|c| c.round())])
    }
}

/// Returns the instruction of a line, without its encoding.
fn instruction(line: &str) -> Option<&str> {
    line.strip_prefix('\t').map(|line| line.split(';').next().unwrap_or(line).trim())
}

/// Returns the lines of the hottest loop, without the loops in it. This is the loop with the most multiply-adds. A loop in another loop counts
/// four times as much. Returns `None` if nothing loops.
pub fn hottest(assembly: &str) -> Option<Vec<&str>> {
    let lines: Vec<&str> = assembly.lines().collect();
    let backward = branches(&lines).into_iter().filter(|(at, target)| target <= at);
    let mut loops: Vec<(usize, usize)> = backward.map(|(at, target)| (target, at)).collect();
    // Branches to one place are one loop.
    loops.sort_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
    loops.dedup_by_key(|&mut (start, _)| start);
    let holds = |a: (usize, usize), b: (usize, usize)| a != b && a.0 <= b.0 && b.1 <= a.1;
    let own = loops.iter().map(|&a| {
        let inner = |i: &usize| loops.iter().any(|&b| holds(a, b) && (b.0..=b.1).contains(i));
        let depth = loops.iter().filter(|&&b| holds(b, a)).count();
        let own: Vec<&str> = (a.0..=a.1).filter(|i| !inner(i)).map(|i| lines[i]).collect();
        (count(&own).fma << (2 * depth), own)
    });
    own.max_by_key(|(score, lines)| (*score, lines.len())).map(|(_, lines)| lines)
}

/// Returns the lines that branch, with the lines that they lead to.
fn branches(lines: &[&str]) -> Vec<(usize, usize)> {
    let branch = |(at, line): (usize, &&str)| {
        let words: Vec<&str> = instruction(line)?.split_whitespace().collect();
        let target = words.first()?.contains("branch").then(|| words.last())??;
        Some((at, lines.iter().position(|line| line.strip_suffix(':') == Some(target))?))
    };
    lines.iter().enumerate().filter_map(branch).collect()
}

/// Returns the lines without code that a scalar branch may skip and that multiplies nothing: code for the end of a matrix, for example.
fn without_rare<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let name = |line: &str| instruction(line).and_then(|text| text.split_whitespace().next().map(str::to_string)).unwrap_or_default();
    let skips = |&(at, to): &(usize, usize)| {
        to > at && name(lines[at]).starts_with("s_cbranch_scc") && !lines[at..to].iter().any(|line| is_fma(&name(line)))
    };
    let rare: Vec<(usize, usize)> = branches(lines).into_iter().filter(skips).collect();
    (0..lines.len()).filter(|i| !rare.iter().any(|(at, to)| at < i && i < to)).map(|i| lines[i]).collect()
}

/// Returns the number of bytes that a lane moves with an instruction of memory.
fn bytes(name: &str) -> u32 {
    let width = [("x4", 16), ("x3", 12), ("x2", 8), ("b128", 16), ("b96", 12), ("b64", 8)];
    let known = width.iter().find(|(ending, _)| name.ends_with(ending)).map_or(4, |&(_, bytes)| bytes);
    if name.contains("read2") || name.contains("load_2addr") || name.contains("write2") || name.contains("store_2addr") {
        2 * known
    } else {
        known
    }
}

fn is_fma(name: &str) -> bool {
    ["fma_f32", "fmac_f32", "fmaak_f32", "fmamk_f32", "mac_f32", "mad_f32", "madak_f32", "madmk_f32"].iter().any(|part| name.contains(part))
}

/// Counts the instructions of a loop, without rare code. Memory answers in order, so a wait for all but `n` loads is a wait for the loads
/// before them. The count goes through the loop twice, because the wait for a load may be in the next round.
pub fn count(lines: &[&str]) -> Loop {
    let lines = without_rare(lines);
    let mut all = Loop::default();
    let (mut memory, mut shared): (VecDeque<u32>, VecDeque<Option<u32>>) = Default::default();
    let (mut issued, mut shared_covers) = (0, Vec::new());
    for (round, line) in [0, 1].into_iter().flat_map(|round| lines.iter().map(move |line| (round, line))) {
        let Some(text) = instruction(line) else { continue };
        let name = text.split_whitespace().next().unwrap_or_default();
        let once = u32::from(round == 0);
        if name.starts_with("v_") {
            // Of two operations in one instruction, each counts.
            let parts = text.split("::").map(|part| part.split_whitespace().next().unwrap_or_default());
            let fma = parts.clone().filter(|part| is_fma(part)).count() as u32;
            all.vector += once * parts.count() as u32;
            all.fma += once * fma;
            issued += fma;
        } else if name.starts_with("ds_") {
            let load = name.contains("read") || name.contains("load");
            all.lds_loads += once * u32::from(load);
            all.lds_bytes += once * bytes(name);
            shared.push_back(load.then_some(issued));
        } else if name.starts_with("s_load") || name.starts_with("s_buffer_load") {
            shared.push_back(None);
        } else if ["buffer_load", "global_load", "flat_load"].iter().any(|start| name.starts_with(start)) {
            all.loads += once;
            all.load_bytes += once * bytes(name);
            memory.push_back(issued);
        } else if name == "s_waitcnt" {
            all.waits += once;
            let left = |counter: &str| {
                let number = text.split_once(counter)?.1.split(')').next()?;
                number.parse::<usize>().ok()
            };
            while memory.len() > left("vmcnt(").unwrap_or(usize::MAX) {
                let cover = issued - memory.pop_front().expect("it is not empty");
                all.cover = Some(all.cover.map_or(cover, |least| least.min(cover)));
            }
            while shared.len() > left("lgkmcnt(").unwrap_or(usize::MAX) {
                shared_covers.extend(shared.pop_front().expect("it is not empty").map(|at| issued - at));
            }
        } else if name.contains("branch") {
            all.branches += once;
        }
    }
    let mean = |covers: &[u32]| covers.iter().map(|&c| f64::from(c)).sum::<f64>() / covers.len() as f64;
    all.lds_cover = (!shared_covers.is_empty()).then(|| mean(&shared_covers));
    all
}
