//! The oracle: a graph in `f64`, op by op, by the plain definitions; and the one tolerance for what a device computes.

use crate::{
    error::Result,
    graph::{Graph, NodeKind, Tensor},
    host::{Host, View},
    plan::ir::Ir,
    rng::Key,
};

/// Seed and step of all checks.
pub(crate) const KEY: Key = Key { seed: 0x5eed, step: 3 };

/// What fills an output before a kernel runs: a NaN that no computation makes.
pub(crate) const NAN: u32 = 0x7fc0_dead;

/// The definition of what a graph computes: every op's reference, one after the other, in memory of its own.
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

/// The definition of `outputs` in `f64`, on the unfused graph. Parameters have their initial values.
///
/// # Errors
/// The graph's first mistake.
pub fn oracle(g: &Graph, outputs: &[Tensor], inputs: &[Host<f32>]) -> Result<Vec<Host<f64>>> {
    g.check()?;
    let wide: Vec<Host<f64>> = inputs.iter().map(Host::cast).collect();
    let ir = Ir::new(g, outputs);
    let values = ir.params.iter().map(|p| Ok(Host::new(p.shape, p.init.values(p.shape, KEY.seed, &p.name)?).cast()));
    Ok(interpret(&ir, &wide, &values.collect::<Result<Vec<_>>>()?, KEY))
}

/// How far values are from those of the oracle: [`distance`] has the definitions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// The largest error, in units in the last place. Infinite where a value is NaN or infinite and should not be.
    pub ulps: f64,
    /// The largest error allowed, in the same units.
    pub tolerance: f64,
    /// The largest |got − want| / |want| of those elements that are at least as large as the mean, and not 0.
    pub relative: f64,
    /// The element of the largest error.
    pub element: usize,
}

impl Distance {
    /// The largest error as a part of the tolerance: at most 1 is right to rounding.
    pub fn ratio(&self) -> f64 {
        self.ulps / self.tolerance
    }
    /// Whether every element is right to rounding.
    pub fn fits(&self) -> bool {
        self.ratio() <= 1.0
    }
}

/// How far `got` is from `want`, where each value is the sum of `terms` terms; or a sentence if there are not as many.
///
/// An error is |got − want|, its unit in the last place 2⁻²³ · (|want| + mean |want|), the mean over what is not 0 and finite. The
/// tolerance is 16 + 2·√terms such units: 16 for the
/// functions of WGSL, the square root because rounding errors of a sum are random, the mean because a result near 0 is
/// the difference of terms that are not. What is below the smallest normal `f32` may be 0. It is the one tolerance of all comparisons between a device and the oracle.
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

/// Whether `got` is `want` to rounding, by the tolerance of [`distance`]; else a sentence with the worst element.
pub fn close(got: &[f64], want: &[f64], terms: usize) -> Result<(), String> {
    let worst = distance(got, want, terms)?;
    sentence(&worst, got, want).map_or(Ok(()), Err)
}

/// What is wrong with the worst element, if it is.
fn sentence(worst: &Distance, got: &[f64], want: &[f64]) -> Option<String> {
    let (i, times) = (worst.element, worst.ratio());
    (!worst.fits()).then(|| format!("element {i} of {}: {} instead of {}, {times:.1} times the tolerance", got.len(), got[i], want[i]))
}

/// What the checks of one output found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// From the oracle.
    pub distance: Distance,
    /// What is wrong, in a sentence.
    pub wrong: Option<String>,
}

impl Checked {
    /// By [`distance`] alone.
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
