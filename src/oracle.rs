//! The oracle computes a graph in `f64`, op by op, with the plain definitions. This module also has the one tolerance for the
//! results of devices.

use crate::{
    error::Result,
    graph::{Graph, NodeKind, Tensor},
    host::{Host, View},
    plan::ir::Ir,
    rng::Key,
};

/// The seed and the step of all checks.
pub(crate) const KEY: Key = Key { seed: 0x5eed, step: 3 };

/// The number that fills an output before a kernel runs: a NaN with bits that no computation produces.
pub(crate) const NAN: u32 = 0x7fc0_dead;

/// Computes every node of a graph with the op's reference, one after the other. Each node has its own memory.
pub(crate) fn interpret(ir: &Ir, inputs: &[Host<f64>], params: &[Host<f64>], key: Key) -> Vec<Host<f64>> {
    let mut values: Vec<Host<f64>> = Vec::with_capacity(ir.nodes.len());
    for node in &ir.nodes {
        let value = match &node.kind {
            NodeKind::Input(i) => inputs[*i].clone(),
            NodeKind::Param(i) => params[*i].clone(),
            NodeKind::Constant(c) => c.cast(),
            NodeKind::Op(op) => {
                let mut y = Host::zeros(node.shape);
                let x: Vec<View<f64>> = node.inputs.iter().map(|&i| values[i].view()).collect();
                op.reference_f64(&x, &mut y.view_mut(), key);
                y
            }
        };
        values.push(value);
    }
    ir.outputs.iter().map(|&o| values[o].clone()).collect()
}

/// Computes `outputs` in `f64`, on the unfused graph. Parameters have their initial values.
///
/// # Errors
/// The first mistake of the graph.
pub fn oracle(g: &Graph, outputs: &[Tensor], inputs: &[Host<f32>]) -> Result<Vec<Host<f64>>> {
    g.check()?;
    let wide: Vec<Host<f64>> = inputs.iter().map(Host::cast).collect();
    let ir = Ir::new(g, outputs);
    let values = ir.params.iter().map(|p| Ok(Host::new(p.shape, p.init.values(p.shape, KEY.seed, &p.name)?).cast()));
    Ok(interpret(&ir, &wide, &values.collect::<Result<Vec<_>>>()?, KEY))
}

/// The distance between computed values and the oracle's values. [`distance`] has the definitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// The largest error, in units in the last place. It is infinite if a value is NaN or infinite, but the oracle's value is
    /// not.
    pub ulps: f64,
    /// The largest error allowed, in units in the last place.
    pub tolerance: f64,
    /// The largest relative error |got − want| / |want|. Only elements count that are not 0 and are at least as large as the
    /// mean.
    pub relative: f64,
    /// The index of the element with the largest error.
    pub element: usize,
}

impl Distance {
    /// Returns the largest error divided by the tolerance. A ratio of at most 1 means that the values are right up to
    /// rounding.
    pub fn ratio(&self) -> f64 {
        self.ulps / self.tolerance
    }
    /// Returns true if every element is right up to rounding.
    pub fn fits(&self) -> bool {
        self.ratio() <= 1.0
    }
}

/// Measures how far `got` is from `want`. Each value is the sum of `terms` terms. Returns a sentence if the lengths differ.
///
/// An error is |got − want|. Its unit in the last place is 2⁻²³ · (|want| + mean |want|). The mean is taken over the numbers
/// that are finite and not 0. The mean is part of the unit because a result near 0 is the difference of terms that are not
/// near 0.
///
/// The tolerance is 16 + 2·√terms units. The 16 is for the functions of WGSL. The square root is there because the rounding
/// errors of a sum are random. Numbers below the smallest normal `f32` may be 0. Every comparison between a device and the
/// oracle uses this tolerance.
pub fn distance(got: &[f64], want: &[f64], terms: usize) -> Result<Distance, String> {
    if got.len() != want.len() {
        return Err(format!("{} values instead of {}", got.len(), want.len()));
    }
    let finite = want.iter().filter(|w| w.is_finite() && **w != 0.0);
    let mean = finite.clone().map(|w| w.abs()).sum::<f64>() / finite.count().max(1) as f64;
    let tolerance = 16.0 + 2.0 * (terms as f64).sqrt();
    let mut worst = Distance { ulps: 0.0, tolerance, relative: 0.0, element: 0 };
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        if g == w || (g.is_nan() && w.is_nan()) {
            continue;
        }
        let error = if g.is_finite() { (g - w).abs() } else { f64::INFINITY };
        let ulps = error / (f64::from(f32::EPSILON) * (w.abs() + mean) + f64::from(f32::MIN_POSITIVE) / tolerance);
        let ulps = if ulps.is_nan() { f64::INFINITY } else { ulps };
        if ulps > worst.ulps {
            (worst.ulps, worst.element) = (ulps, i);
        }
        if w != 0.0 && w.is_finite() && w.abs() >= mean {
            worst.relative = worst.relative.max(error / w.abs());
        }
    }
    Ok(worst)
}

/// Checks that `got` equals `want` up to rounding, by the tolerance of [`distance`]. Otherwise returns a sentence about the
/// worst element.
pub fn close(got: &[f64], want: &[f64], terms: usize) -> Result<(), String> {
    let worst = distance(got, want, terms)?;
    sentence(&worst, got, want).map_or(Ok(()), Err)
}

/// Returns a sentence about the worst element, if it is wrong.
fn sentence(worst: &Distance, got: &[f64], want: &[f64]) -> Option<String> {
    let (i, times) = (worst.element, worst.ratio());
    (!worst.fits()).then(|| format!("element {i} of {}: {} instead of {}, {times:.1} times the tolerance", got.len(), got[i], want[i]))
}

/// The result of all checks of one output.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The distance from the oracle.
    pub distance: Distance,
    /// A sentence that says what is wrong, if anything is.
    pub wrong: Option<String>,
}

impl Checked {
    /// Judges an output by [`distance`] alone.
    pub(crate) fn new(got: &[f64], want: &[f64], terms: usize) -> Checked {
        match distance(got, want, terms) {
            Ok(distance) => Checked { wrong: sentence(&distance, got, want), distance },
            Err(why) => {
                let distance = Distance { ulps: f64::INFINITY, tolerance: 1.0, relative: f64::INFINITY, element: 0 };
                Checked { distance, wrong: Some(why) }
            }
        }
    }
}
