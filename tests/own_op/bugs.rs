//! The harness and the self-test find the bugs that are put into an op here.

use crate::{RIGHT, RunningSum, RunningSumOf, WGSL, common::Check};
use downhill::{
    Device, Shape, Tensor,
    host::{Real, View, ViewMut},
    kernel::{Caps, Kernel},
    ops::{Case, OpDef},
    rng::Key,
    selftest::{self, Computed, Report},
    testing,
};
use std::sync::Arc;

/// The mistakes that an op can have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bug {
    /// The gradient sums from the wrong end.
    Gradient,
    /// The kernel computes something else.
    Value,
    /// The kernel leaves an element out.
    Hole,
    /// The kernel writes past the end.
    Past,
}

/// [`RunningSum`] with a bug.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Wrong(Bug);

impl OpDef for Wrong {
    const NAME: &'static str = "wrong_sum";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        RIGHT.shape(x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        RIGHT.reference(x, y, key);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        match self.0 {
            Bug::Gradient => vec![Some(dy.running_sum())],
            _ => RIGHT.vjp(x, y, dy),
        }
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let mut kernels = RIGHT.kernels(x, y, caps);
        let (right, wrong) = match self.0 {
            Bug::Gradient => return kernels,
            Bug::Value => ("sum += x[i];", "sum += abs(x[i]);"),
            Bug::Hole => ("y[i] = sum;", "if k + 1u < p.n { y[i] = sum; }"),
            Bug::Past => ("y[i] = sum;", "y[i] = sum; y[i + 1u] = sum;"),
        };
        assert!(WGSL.contains(right));
        kernels[0].passes[0].source.text = WGSL.replace(right, wrong).leak();
        kernels
    }
    fn terms(&self, x: &[Shape]) -> usize {
        RIGHT.terms(x)
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

/// One case of an op with a bug.
fn case(bug: Bug) -> Case {
    Case { op: Arc::new(Wrong(bug)), ..Case::new("[3, 5]", RIGHT, &[Shape::from([3, 5])]) }
}

/// The harness's verdict on a bug.
fn verdict(bug: Bug, device: &Device) -> Result<(), String> {
    let case = case(bug);
    testing::check_reference(&case)?;
    testing::check_device(&case, device)
}

pub fn expect(bug: Bug, device: &Device, words: &str) -> Check {
    match verdict(bug, device) {
        Ok(()) => Err(format!("{bug:?} was not found").into()),
        Err(text) if text.contains(words) => Ok(()),
        Err(text) => Err(format!("{bug:?}: `{text}` does not say `{words}`").into()),
    }
}

/// The self-test of an op from outside.
fn report(name: &'static str, cases: Vec<Case>, device: &Device) -> Result<Report, downhill::Error> {
    selftest::run(device, &selftest::Options { only: vec![name.into()], own: vec![(name, cases)], ..Default::default() })
}

/// The self-test of the right op passes and says how near it is.
pub fn reported_right(device: &Device) -> Check {
    let report = report("running_sum", RunningSum::cases(), device)?;
    assert!(report.passed() && report.failures.is_empty(), "{report}");
    let kernel = if device.as_gpu().is_some() { "rows" } else { "cpu" };
    let rows: Vec<_> = report.rows.iter().map(|r| (r.op.as_str(), r.kernel.as_str(), r.direction, r.cases, r.failed)).collect();
    assert_eq!(rows, [("running_sum", kernel, Computed::Forward, 18, 0), ("running_sum", kernel, Computed::Gradient(0), 18, 0)]);
    for row in &report.rows {
        let worst = row.worst.ok_or("nothing was compared")?;
        // 16 + 2·√terms; the cases have rows of 1 to 257.
        assert!(worst.ulps > 0.0 && worst.fits() && (18.0..=16.0 + 2.0 * 257f64.sqrt()).contains(&worst.tolerance), "{report}");
        assert!(row.relative > 0.0 && row.relative < 1e-5, "{report}");
    }
    Ok(())
}

/// The self-test of an op with a bug fails, and says where and why.
pub fn reported(bug: Bug, device: &Device, words: &str) -> Check {
    let mut cases = vec![case(bug)];
    cases.extend(RunningSum::cases());
    let report = report("wrong_sum", cases, device)?;
    assert!(!report.passed(), "{report}");
    let forward = &report.rows[0];
    assert_eq!(
        (forward.direction, forward.cases, forward.failed, forward.worst_case.as_str()),
        (Computed::Forward, 19, 1, "[3, 5]"),
        "{report}"
    );
    assert!(matches!(bug, Bug::Past) || !forward.worst.is_some_and(|worst| worst.fits()), "{report}");
    let failure = &report.failures[0];
    assert_eq!((failure.op.as_str(), failure.kernel.as_str(), failure.case.as_str()), ("wrong_sum", "rows", "[3, 5]"));
    assert!(failure.why.contains(words), "{report}");
    let json = report.json();
    assert_eq!((&json["passed"], &json["rows"][0]["failed"], &json["failures"][0]["case"]), (&false.into(), &1.into(), &"[3, 5]".into()));
    let line = format!("FAILED: wrong_sum rows forward, case `[3, 5]`: {}", failure.why);
    assert!(report.to_string().contains(&line), "{report}");
    Ok(())
}
