//! Test cases of ops: settings, shapes, and the values of inputs.

use super::{Op, OpDef};
use crate::{
    host::Host,
    rng,
    shape::{DType, Shape},
};
use std::sync::Arc;

/// What a test puts into an input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Floats spread over `lo..hi`, none of them near a kink at 0 or at ±1, no two the same.
    Range(f64, f64),
    /// Labels `0..n`.
    Labels(usize),
}

impl Fill {
    /// Floats in −1..2. Labels are 0 or 1: the least that any table has, if it has two rows.
    pub(super) fn plain(x: &[Shape]) -> Vec<Fill> {
        let least = x.iter().flat_map(|s| s.dims()).min().map_or(1, |&d| d.min(2));
        let fill = |s: &Shape| if s.dtype() == DType::U32 { Fill::Labels(least) } else { Fill::Range(-1.0, 2.0) };
        x.iter().map(fill).collect()
    }
    /// Floats for every input, those of input `i` over `lo..hi`.
    pub(super) fn floats<const N: usize>(x: &[Shape], ranges: [(usize, f64, f64); N]) -> Vec<Fill> {
        let mut fills = Fill::plain(x);
        ranges.into_iter().for_each(|(i, lo, hi)| fills[i] = Fill::Range(lo, hi));
        fills
    }
    /// Input 1 holds labels of `n` classes.
    pub(super) fn labelled(x: &[Shape], n: usize) -> Vec<Fill> {
        let mut fills = Fill::plain(x);
        fills[1] = Fill::Labels(n);
        fills
    }
}

/// One row of an op's test table.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it, e.g. `one row`, `past a tile`.
    pub name: String,
    /// The op with the settings of this row.
    pub op: Arc<dyn Op>,
    /// Shape and content of each input.
    pub inputs: Vec<(Shape, Fill)>,
    /// Whether gradients exist and are checked. Large cases leave the f64 central differences out by size.
    pub gradient: bool,
}

impl Case {
    /// Inputs as the op says ([`OpDef::fills`]), gradients checked.
    pub fn new(name: impl Into<String>, op: impl OpDef, shapes: &[Shape]) -> Case {
        let typed = |(&s, fill): (&Shape, Fill)| (if matches!(fill, Fill::Labels(_)) { s.u32() } else { s }, fill);
        let inputs = shapes.iter().zip(OpDef::fills(&op, shapes)).map(typed).collect();
        Case { name: name.into(), op: Arc::new(op), inputs, gradient: true }
    }
    /// Input `i` over `lo..hi`.
    pub fn range(mut self, i: usize, lo: f64, hi: f64) -> Case {
        self.inputs[i].1 = Fill::Range(lo, hi);
        self
    }
    /// Input `i` holds labels of `n` classes.
    pub fn labels(mut self, i: usize, n: usize) -> Case {
        self.inputs[i] = (self.inputs[i].0.of(DType::U32), Fill::Labels(n));
        self
    }
    /// No gradient: the op is flat (a comparison, an index).
    pub fn flat(mut self) -> Case {
        self.gradient = false;
        self
    }
    /// The inputs, the same every time.
    pub fn fill(&self, seed: u64) -> Vec<Host<f32>> {
        self.inputs.iter().enumerate().map(|(i, (shape, values))| fill(*shape, values, seed + i as u64)).collect()
    }
}

/// A tensor of the values that `fill` says, the same for the same seed.
pub fn fill(shape: Shape, fill: &Fill, seed: u64) -> Host<f32> {
    let n = shape.elements();
    let mut random = vec![0.0f32; n];
    rng::fill_uniform(seed, 0, 77, 0, &mut random);
    match *fill {
        Fill::Labels(classes) => {
            let labels = random.iter().map(|r| ((r * classes as f32) as u32).min(classes as u32 - 1)).collect();
            Host::labels(shape, labels)
        }
        Fill::Range(lo, hi) => {
            // One value from each of n equal cells, in a random order: all different, none near another.
            let mut cells: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                cells.swap(i, (random[i] * (i + 1) as f32) as usize);
            }
            let value = |(&cell, &r): (&usize, &f32)| {
                let x = lo + (hi - lo) * (cell as f64 + 0.25 + 0.5 * f64::from(r)) / n as f64;
                // Off the kinks of relu, clamp and their like.
                [-1.0, -0.5, 0.0, 0.5, 1.0].iter().fold(x, |x, kink| if (x - kink).abs() < 1e-2 { kink + 1e-2 } else { x }) as f32
            };
            Host::new(shape, cells.iter().zip(&random).map(value).collect())
        }
    }
}
