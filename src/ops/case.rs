//! Test cases of ops: settings, shapes and input values.

use super::{Op, OpDef};
use crate::{
    host::Host,
    rng,
    shape::{DType, Shape},
};
use std::sync::Arc;

/// The kind of values that a test puts into an input.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Floats spread over `lo..hi`. No value is near a kink at 0, ±0.5 or ±1. Two values are equal only if they were moved away
    /// from the same kink.
    Range(f64, f64),
    /// Labels `0..n`.
    Labels(usize),
}

impl Fill {
    /// Returns floats in −1..2 for every float input. Labels are 0 or 1, so that they fit every table with two rows. They are 0 if
    /// an axis has size 1.
    pub(super) fn plain(x: &[Shape]) -> Vec<Fill> {
        let least = x.iter().flat_map(|s| s.dims()).min().map_or(1, |&d| d.min(2));
        let fill = |s: &Shape| if s.dtype() == DType::U32 { Fill::Labels(least) } else { Fill::Range(-1.0, 2.0) };
        x.iter().map(fill).collect()
    }
    /// Returns floats for every input. Input `i` has floats over `lo..hi`.
    pub(super) fn floats(x: &[Shape], ranges: &[(usize, f64, f64)]) -> Vec<Fill> {
        let mut fills = Fill::plain(x);
        ranges.iter().for_each(|&(i, lo, hi)| fills[i] = Fill::Range(lo, hi));
        fills
    }
    /// Returns floats for every input except input 1, which has labels of `n` classes.
    pub(super) fn labelled(x: &[Shape], n: usize) -> Vec<Fill> {
        let mut fills = Fill::plain(x);
        fills[1] = Fill::Labels(n);
        fills
    }
}

/// One row of an op's test table.
#[derive(Clone, Debug)]
pub struct Case {
    /// The special feature of the case, for example `one row` or `past a tile`.
    pub name: String,
    /// The op with the settings of this row.
    pub op: Arc<dyn Op>,
    /// The shape of each input and the kind of its values.
    pub inputs: Vec<(Shape, Fill)>,
    /// Whether the op has gradients, which are checked. Large cases leave out the check against central differences in `f64`.
    pub gradient: bool,
}

impl Case {
    /// Makes a case whose input values are those of [`OpDef::fills`]. Gradients are checked.
    pub fn new(name: impl Into<String>, op: impl OpDef, shapes: &[Shape]) -> Case {
        let fills = OpDef::fills(&op, shapes);
        Case::of(name.into(), Arc::new(op), shapes, fills)
    }
    fn of(name: String, op: Arc<dyn Op>, shapes: &[Shape], fills: Vec<Fill>) -> Case {
        let typed = |(&s, fill): (&Shape, Fill)| (if matches!(fill, Fill::Labels(_)) { s.u32() } else { s }, fill);
        let inputs = shapes.iter().zip(fills).map(typed).collect();
        Case { name, op, inputs, gradient: true }
    }
    /// Fills input `i` with floats over `lo..hi`.
    pub fn range(mut self, i: usize, lo: f64, hi: f64) -> Case {
        self.inputs[i].1 = Fill::Range(lo, hi);
        self
    }
    /// Fills input `i` with labels of `n` classes.
    pub fn labels(mut self, i: usize, n: usize) -> Case {
        self.inputs[i] = (self.inputs[i].0.of(DType::U32), Fill::Labels(n));
        self
    }
    /// Turns off the check of gradients. The op is flat: a comparison or an index.
    pub fn flat(mut self) -> Case {
        self.gradient = false;
        self
    }
    /// Returns the inputs. The same seed gives the same inputs.
    pub fn fill(&self, seed: u64) -> Vec<Host<f32>> {
        self.inputs.iter().enumerate().map(|(i, (shape, values))| fill(*shape, values, seed + i as u64)).collect()
    }
}

/// Returns a tensor with values of the kind `fill`. The same seed gives the same values.
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
            // Cut the range into n equal cells and take one value from the middle of each cell, in a random order. So all values
            // differ, and none is close to another.
            let mut cells: Vec<usize> = (0..n).collect();
            for i in (1..n).rev() {
                cells.swap(i, (random[i] * (i + 1) as f32) as usize);
            }
            let value = |(&cell, &r): (&usize, &f32)| {
                let x = lo + (hi - lo) * (cell as f64 + 0.25 + 0.5 * f64::from(r)) / n as f64;
                // Move values away from the kinks of ops such as relu and clamp.
                [-1.0, -0.5, 0.0, 0.5, 1.0].iter().fold(x, |x, kink| if (x - kink).abs() < 1e-2 { kink + 1e-2 } else { x }) as f32
            };
            Host::new(shape, cells.iter().zip(&random).map(value).collect())
        }
    }
}
