//! A first guess of speed without a clock: the share of a family's peak multiply-adds that a candidate could reach.
//!
//! A compute unit starts one vector instruction of a subgroup of 64 in a clock, loads 128 bytes from workgroup memory, and 64 (GCN) or
//! 128 (RDNA) bytes from its first cache. The loop takes the longest of the three. Memory allows what the op's own bytes allow at that
//! shape. Waits, occupancy and clocks are not in it.

use crate::table::Row;
use std::collections::BTreeMap;

/// The compute units, peak multiply-adds (two operations each) in operations a second, and bytes a second, of a card of each family:
/// RX 480, Vega 64, RX 5700 XT, RX 6800 XT, RX 7900 XTX (without its second issue).
const CARDS: [(&str, f64, f64, f64, f64); 5] = [
    ("polaris10", 36.0, 5.8e12, 256e9, 64.0),
    ("vega10", 64.0, 12.7e12, 484e9, 64.0),
    ("navi10", 40.0, 9.8e12, 448e9, 128.0),
    ("navi21", 72.0, 20.7e12, 512e9, 128.0),
    ("gfx1100", 96.0, 30.7e12, 960e9, 128.0),
];

/// Shares of the peak.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// The share that the loop's instructions allow.
    pub loop_: f64,
    /// The share that memory allows at that shape.
    pub memory: f64,
    /// The smaller of both, less the compute units without a workgroup and the results beyond an edge.
    pub all: f64,
}

/// Returns `None` if the loop multiplies nothing.
pub fn estimate(row: &Row) -> Option<Estimate> {
    let counts = row.hot.as_ref().filter(|counts| counts.fma > 0 && row.flops > 0)?;
    let &(_, units, peak, bytes, cached) = CARDS.iter().find(|card| card.0 == row.family)?;
    let [vector, fma, shared, loaded] = [counts.vector, counts.fma, counts.lds_bytes, counts.load_bytes].map(f64::from);
    let loop_ = fma / vector.max(shared * 64.0 / 128.0).max(loaded * 64.0 / cached);
    let memory = (row.flops as f64 / peak / (row.bytes as f64 / bytes)).min(1.0);
    let rounds = row.groups as f64 / units;
    let busy = rounds / rounds.ceil();
    Some(Estimate { loop_, memory, all: (loop_ * busy * row.useful).min(memory) })
}

/// Compares the expected candidate of each op and family with the others. Returns the number of comparisons, and a line for each op whose
/// expected candidate the estimate puts last, at least a tenth behind the next one.
pub fn last(rows: &[Row]) -> (usize, Vec<String>) {
    let mut ops: BTreeMap<[&str; 3], Vec<(&Row, f64)>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.number == 0) {
        // If memory allows little of the peak, the instructions do not decide.
        if let Some(estimate) = estimate(row).filter(|estimate| estimate.memory > 0.2) {
            ops.entry([&row.family, &row.of, &row.op]).or_default().push((row, estimate.all));
        }
    }
    let (mut all, mut lines) = (0, Vec::new());
    for ([family, of, op], candidates) in ops {
        let Some(&(best, share)) = candidates.iter().find(|(row, _)| row.expected) else { continue };
        let others = candidates.iter().filter(|(row, _)| row.candidate != best.candidate);
        let Some(least) = others.map(|&(_, share)| share).reduce(f64::min) else { continue };
        all += 1;
        if share < 0.9 * least {
            let shares: Vec<String> = candidates.iter().map(|(row, share)| format!("{} {:.1} %", row.candidate, 100.0 * share)).collect();
            lines.push(format!("{family}: {of}: {op}: {} is expected, but {}", best.candidate, shares.join(", ")));
        }
    }
    (all, lines)
}
