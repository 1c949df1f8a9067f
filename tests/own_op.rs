//! An op from outside of the crate, as ARCHITECTURE.md shows how to add one: a running sum along the last axis. And an
//! optimizer.
//!
//! The op passes the harness that the library's own ops pass, on every device, and trains; and the harness finds the bugs
//! that are put into it here.

mod common;

use common::{BOTH, Check, On, Suite};
use downhill::{
    DType, Device, Error, Graph, Host, Shape, Tensor, Trainer,
    host::{Real, View, ViewMut},
    init::Init,
    kernel::{Bind, Caps, Checks, Kernel, Pass, Source},
    ops::{Case, Fill, OpDef},
    optim::{Hyper, MAX_STATES, Norms, Optimizer, Readouts, Rule, Sgd, State},
    plan::{Plan, PlanOptions},
    rng::Key,
    selftest::{self, Computed, Report},
    testing,
};
use std::sync::Arc;

/// `y[r,c] = Σ_{k ≤ c} x[r,k]`, or `Σ_{k ≥ c} x[r,k]` in reverse, `r` over all axes but the last.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RunningSum {
    reverse: bool,
}

/// Its kernel. A crate of its own would keep this in `shaders/running_sum.wgsl` and write `source!("running_sum")`.
const WGSL: &str = "
// running_sum — y[r,c] = Σ_{k ≤ c} x[r,k], from the other end where REVERSE
//   x [rows, n]   y [rows, n]
// One invocation walks one row, so that the order of the additions is fixed: simple, and fast where there are many rows.
//!include lib/index

@compute @workgroup_size(WG)
fn forward(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group_index(id, n) * WG + lane;
    if row >= p.units {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < p.n; k++) {
        let i = row * p.n + select(k, p.n - 1u - k, REVERSE == 1u);
        sum += x[i];
        y[i] = sum;
    }
}
";

impl OpDef for RunningSum {
    const NAME: &'static str = "running_sum";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        match x {
            [x] if x.dtype() != DType::F32 => Err("takes floats, not labels (see to_f32)".into()),
            [x] if x.rank() == 0 => Err("a single number has no axis to sum along".into()),
            [x] => Ok(*x),
            _ => Err(format!("takes one input, not {}", x.len())),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _key: Key) {
        let n = x[0].shape.last();
        for (x, y) in x[0].f.chunks(n).zip(y.f.chunks_mut(n)) {
            let mut sum = T::zero();
            for k in 0..n {
                let i = if self.reverse { n - 1 - k } else { k };
                sum += x[i];
                y[i] = sum;
            }
        }
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // x[k] is a term of every y[c] that comes after it.
        vec![Some(dy.graph().apply(RunningSum { reverse: !self.reverse }, &[dy]))]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let n = x[0].last();
        let workgroup = caps.workgroup(64);
        let pass = Pass {
            source: Source { name: "running_sum", text: WGSL },
            entry: "forward",
            consts: vec![("WG", workgroup.into()), ("REVERSE", u32::from(self.reverse).into())],
            params: vec![("n".to_string(), n.into())],
            // Row u is all that unit u touches: where a binding would be too large, the rows are dispatched in parts.
            binds: vec![Bind::input("x", 0, DType::F32).per_unit(n), Bind::output("y", DType::F32).per_unit(n)],
            code: String::new(),
            units: y.elements() / n,
            per_group: workgroup,
            step: false,
        };
        vec![Kernel::one("rows", pass)]
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[0].last()
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], reverse| {
            let x = Shape::new(dims).expect("at most six axes");
            Case::new(format!("{x}{}", if reverse { ", reverse" } else { "" }), RunningSum { reverse }, &[x])
        };
        // One element, one row, one column, primes, at and around a workgroup, more than a small binding holds.
        let shapes: [&[usize]; 9] = [&[1], &[13], &[7, 1], &[3, 5, 2, 11], &[63, 3], &[64, 3], &[65, 3], &[1, 257], &[2501, 13]];
        shapes.into_iter().flat_map(|dims| [case(dims, false), case(dims, true)]).collect()
    }
}

/// The extension trait that makes the op a method, like the ops of the library.
trait RunningSumOf<'g> {
    fn running_sum(self) -> Tensor<'g>;
}

impl<'g> RunningSumOf<'g> for Tensor<'g> {
    #[track_caller]
    fn running_sum(self) -> Tensor<'g> {
        self.graph().apply(RunningSum { reverse: false }, &[self])
    }
}

/// [`RunningSum`] whose author promises that its kernel stays inside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Proved;

impl OpDef for Proved {
    const NAME: &'static str = "proved_sum";
    // SAFETY: a row is below `p.units`, so that each index is inside of `x` and `y`; the one loop ends, and nothing is divided.
    const CHECKS: Checks<Proved> = unsafe { Checks::off() };

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        RIGHT.shape(x)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        RIGHT.reference(x, y, key);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        RIGHT.vjp(x, y, dy)
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        RIGHT.kernels(x, y, caps)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        RIGHT.terms(x)
    }
    fn cases() -> Vec<Case> {
        vec![Case::new("[3, 5]", Proved, &[Shape::from([3, 5])])]
    }
}

/// The same WGSL is compiled with checks for the one op and without for the other: two pipelines, each made once.
fn promises(device: &Device) -> Check {
    let device = Device::open(common::inner(device).options())?;
    let run = |proved: bool| -> Result<usize, Error> {
        let g = Graph::inference();
        let x = g.input([1, 4]);
        let y = if proved { g.apply(Proved, &[x]) } else { x.running_sum() };
        let y = device.compile(&[y])?.run(&[Host::new([1, 4], vec![1.0, 2.0, 3.0, 4.0])])?;
        assert_eq!(y[0].f(), [1.0, 3.0, 6.0, 10.0]);
        Ok(common::inner(&device).pipeline_count())
    };
    let counts = [run(false)?, run(true)?, run(false)?, run(true)?];
    assert_eq!(counts, [1, 2, 2, 2]);
    Ok(testing::check::<Proved>(&device)?)
}

/// `y = x` and zeros behind it, by WGSL that leaves its tensors and arrays wherever it can.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reckless;

const RECKLESS: &str = "
var<workgroup> lanes: array<f32, WG>;

@compute @workgroup_size(WG)
fn forward(@builtin(local_invocation_index) lane: u32) {
    var own = array<f32, 4>(1.0, 2.0, 3.0, 4.0);
    let far = p.n + lane;
    let start = lanes[lane];
    workgroupBarrier();
    lanes[far] = 5.0;
    if lane < p.n {
        // 0 from memory that nothing was written to, 7 of a division by 0, 4 from behind the end of an array.
        y[lane] = x[lane] + start + f32(7u / (p.n - 64u) - 7u) + own[far] - 4.0;
    }
    own[far * 1000u] = 6.0;
    // Behind the end: the gradients and the weights of others.
    y[far + 1u] = x[far + 1u] + own[lane & 3u];
    y[lane - 64u] = 9.0;
}
";

impl OpDef for Reckless {
    const NAME: &'static str = "reckless";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _key: Key) {
        y.f.copy_from_slice(x[0].f);
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph().apply(Reckless, &[dy]))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, _caps: &Caps) -> Vec<Kernel> {
        let pass = Pass {
            source: Source { name: "reckless", text: RECKLESS },
            entry: "forward",
            consts: vec![("WG", 64usize.into())],
            params: vec![("n".to_string(), x[0].elements().into())],
            binds: vec![Bind::input("x", 0, DType::F32), Bind::output("y", DType::F32)],
            code: String::new(),
            units: 1,
            per_group: 1,
            step: false,
        };
        vec![Kernel::one("reckless", pass)]
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

/// Its gradient is computed between those of two other parameters, from a weight between theirs, and changes neither.
fn reckless(device: &Device) -> Check {
    let g = Graph::training();
    let [before, w, after] = ["before", "w", "after"].map(|name| g.param(name, [64], Init::Ones));
    let factors = g.constant(Host::new([64], (0..64).map(|i| i as f32).collect()));
    let loss = (g.apply(Reckless, &[w]) * factors).sum_all() + (before * factors).sum_all() + (after * factors).sum_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.25))?;
    trainer.step(&[])?;
    for name in ["before", "w", "after"] {
        let (gradient, weight) = (trainer.gradient(name)?, trainer.params().get(name)?);
        // The last element is where writes behind the end may go.
        let end = if name == "w" { 63 } else { 64 };
        for (i, (g, w)) in gradient.f().iter().zip(weight.f()).enumerate().take(end) {
            if (*g, *w) != (i as f32, 1.0 - 0.25 * i as f32) {
                return Err(format!("{name}: element {i} has the gradient {g} and becomes {w}").into());
            }
        }
    }
    Ok(())
}

/// The mistakes that an op can have.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
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

const RIGHT: RunningSum = RunningSum { reverse: false };

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

fn expect(bug: Bug, device: &Device, words: &str) -> Check {
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
fn reported_right(device: &Device) -> Check {
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
fn reported(bug: Bug, device: &Device, words: &str) -> Check {
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

/// `x / by`, with a `Debug` text that shows the divisor only where it is not lazy.
#[derive(Clone, Copy, PartialEq)]
struct Divide {
    by: f32,
    lazy: bool,
}

impl std::fmt::Debug for Divide {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        if self.lazy { f.write_str("Divide") } else { write!(f, "Divide({:?})", self.by) }
    }
}

impl OpDef for Divide {
    const NAME: &'static str = "divide";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _key: Key) {
        y.f.iter_mut().zip(x[0].f).for_each(|(y, &x)| *y = x / T::of(self.by.into()));
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph().apply(*self, &[dy]))]
    }
    fn kernels(&self, _x: &[Shape], _y: Shape, _caps: &Caps) -> Vec<Kernel> {
        Vec::new()
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

/// Equal ops over one input are one step. Others are others: by settings that `Debug` does not show, by the sign of 0, by NaN.
fn settings() -> Check {
    let results = |ops: &[Divide]| -> Result<(Vec<f32>, usize), Box<dyn std::error::Error>> {
        let g = Graph::training();
        let x = g.input([1]);
        let outputs: Vec<Tensor> = ops.iter().map(|&op| g.apply(op, &[x])).collect();
        let steps = Plan::new(&outputs, &[], &PlanOptions::new(None))?.steps.len();
        let y = Device::cpu().compile(&outputs)?.run(&[Host::new([1], vec![6.0])])?;
        Ok((y.iter().map(|y| y.f()[0]).collect(), steps))
    };
    for lazy in [false, true] {
        let op = |by: f32| Divide { by, lazy };
        let (y, steps) = results(&[op(2.0), op(3.0), op(2.0), op(-3.0)])?;
        assert_eq!((y, steps), (vec![3.0, 2.0, 3.0, -2.0], 3), "lazy: {lazy}");
        let (y, steps) = results(&[op(f32::NAN), op(f32::NAN), op(1.0)])?;
        assert!(y[0].is_nan() && y[1].is_nan() && y[2] == 6.0 && steps == 3, "lazy: {lazy}: {y:?}, {steps} steps");
    }
    let (y, steps) = results(&[0.0, -0.0, 0.0].map(|by| Divide { by, lazy: false }))?;
    assert_eq!((y, steps), (vec![f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY], 2));
    // The library's own: constants in expressions.
    let g = Graph::training();
    let x = g.input([1]);
    let mut f = Device::cpu().compile(&[x / 0.0, x / -0.0, x / f32::NAN])?;
    let y = f.run(&[Host::new([1], vec![6.0])])?;
    assert_eq!((y[0].f(), y[1].f(), y[2].f()[0].is_nan()), (&[f32::INFINITY][..], &[f32::NEG_INFINITY][..], true));
    Ok(())
}

/// Parameters behind the op learn what it takes to climb 1, 3, 6, 10, 15.
fn train(device: &Device) -> Check {
    let g = Graph::training();
    let steps = g.param("steps", [1, 5], Init::Zeros);
    let mut trainer = Trainer::new(device, steps.running_sum().mse(g.input([1, 5])), Sgd::new(0.3))?;
    let heights = Host::new([1, 5], vec![1.0, 3.0, 6.0, 10.0, 15.0]);
    trainer.step(&[heights])?;
    for _ in 1..600 {
        trainer.step_again()?;
    }
    let learnt = trainer.params().get("steps")?;
    for (learnt, want) in learnt.f().iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
        if (learnt - want).abs() > 1e-4 {
            return Err(format!("{learnt} instead of {want}").into());
        }
    }
    Ok(())
}

/// `w ← w − lr · sign(g)`, of Bernstein et al. 2018, arXiv:1802.04434.
#[derive(Clone, Debug)]
struct SignSgd {
    lr: f64,
    /// It has no use for any.
    states: Vec<State>,
}

impl Rule for SignSgd {
    const NAME: &'static str = "SignSgd";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return sign(grad); }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return w - h[0] * u; }";
        Source { name: "sign_sgd", text }
    }
    fn states(&self) -> Vec<State> {
        self.states.clone()
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_w: T, g: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        if g == T::zero() { g } else { g.signum() }
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * u
    }
    fn cases() -> Vec<SignSgd> {
        vec![SignSgd { lr: 0.25, states: Vec::new() }]
    }
}

/// Steps of one length towards 5 and -1: ten of 1/4 get to 2.5, and to -1 and no further.
fn own_optimizer(device: &Device) -> Check {
    let g = Graph::training();
    let w = g.param("w", [2], Init::Zeros);
    let loss = (w - g.constant(Host::new([2], vec![5.0, -1.0]))).square().sum_all();
    let mut trainer = Trainer::new(device, loss, Optimizer::from(SignSgd { lr: 0.25, states: Vec::new() }))?;
    for _ in 0..10 {
        trainer.step(&[])?;
    }
    let w = trainer.params().get("w")?;
    if w.f() == [2.5, -1.0] { Ok(()) } else { Err(format!("{:?} instead of [2.5, -1]", w.f()).into()) }
}

/// States that there is no place for.
fn own_states() -> Check {
    let state = |name, start| State { name, start, kept: true };
    let four = ["a", "b", "c", "d"].map(|name| state(name, 0.0)).to_vec();
    for (states, want) in [
        (four.clone(), "SignSgd: Rule::states gives 4 states, but there can be 3"),
        (vec![four[0], four[1], four[0]], "SignSgd: Rule::states gives two states of the name `a`"),
        (vec![state("a", f32::NAN)], "SignSgd: the start of the state `a` is NaN, but must be finite"),
    ] {
        let g = Graph::training();
        let loss = g.param("w", [2], Init::Ones).square().sum_all();
        let error = Trainer::new(&Device::cpu(), loss, Optimizer::from(SignSgd { lr: 0.25, states })).err();
        assert_eq!(error.ok_or("no error")?.to_string(), want);
    }
    // The name of an average is taken if there is one.
    for averaged in [false, true] {
        let g = Graph::training();
        let loss = g.param("w", [2], Init::Ones).square().sum_all();
        let o = Optimizer::from(SignSgd { lr: 0.25, states: vec![state("average", 0.0)] });
        let error = Trainer::new(&Device::cpu(), loss, if averaged { o.ema(0.9) } else { o }).err().map(|e| e.to_string());
        let want = "SignSgd: Rule::states gives a state of the name `average`, which is that of the average of the weights";
        assert_eq!(error.as_deref(), averaged.then_some(want));
    }
    Ok(())
}

/// `w ← w − lr · 8/0`, where WGSL that is checked says that 8/0 is 8.
#[derive(Clone, Debug, PartialEq)]
struct Careless;

impl Rule for Careless {
    const NAME: &'static str = "Careless";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return grad; }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
                var numbers = array<f32, 3>(0.0, 0.0, w);
                return numbers[9u + u32(h[1])] - h[0] * f32(8u / u32(h[1]));
            }";
        Source { name: "careless", text }
    }
    fn states(&self) -> Vec<State> {
        Vec::new()
    }
    fn lr(&self) -> f64 {
        0.25
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_w: T, g: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        g
    }
    fn apply<T: Real>(w: T, _u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * T::of(8.0)
    }
    fn cases() -> Vec<Careless> {
        vec![Careless]
    }
}

fn careless(device: &Device) -> Check {
    let g = Graph::training();
    let loss = g.param("w", [64], Init::Ones).square().sum_all();
    let mut trainer = Trainer::new(device, loss, Optimizer::from(Careless))?;
    trainer.step(&[])?;
    assert_eq!(trainer.params().get("w")?.f(), [-1.0; 64]);
    Ok(())
}

/// `m ← μ·m + r·g`, `w ← w − lr·m`, where r = η·‖w‖/‖g‖ of each parameter: LARS without weight decay, of You, Gitman and Ginsburg 2017,
/// arXiv:1708.03888.
#[derive(Clone, Debug)]
struct Layerwise {
    lr: f64,
    momentum: f64,
}

const ETA: f64 = 0.1;

impl Rule for Layerwise {
    const NAME: &'static str = "Layerwise";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return grad; }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
                (*s).momentum = h[1] * (*s).momentum + u;
                return w - h[0] * (*s).momentum;
            }
            fn ratio(norms: Norms, h: array<f32, 8>) -> f32 {
                if norms.weight == 0.0 || norms.gradient == 0.0 { return 1.0; }
                return h[2] * norms.weight / norms.gradient;
            }";
        Source { name: "layerwise", text }
    }
    fn states(&self) -> Vec<State> {
        vec![State { name: "momentum", start: 0.0, kept: self.momentum != 0.0 }]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, self.momentum, ETA, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_w: T, g: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        g
    }
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        s[0] = h[1] * s[0] + u;
        w - h[0] * s[0]
    }
    const HAS_RATIO: bool = true;
    fn ratio(norms: Norms, h: &Hyper) -> f64 {
        if norms.weight == 0.0 || norms.gradient == 0.0 { 1.0 } else { h[2] * norms.weight / norms.gradient }
    }
    fn cases() -> Vec<Layerwise> {
        vec![Layerwise { lr: 0.3, momentum: 0.5 }]
    }
}

/// Steps in one batch and in two, against the formula in `f64` with the gradients that the trainer has.
fn own_norms(device: &Device, momentum: f64) -> Check {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let train = |micro: usize| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let g = Graph::training();
        let n = 8 / micro;
        let loss = g.input([n, 3]).linear("fc1", 70).tanh().linear("fc2", 2).mse(g.input([n, 2]));
        let mut trainer = Trainer::new(device, loss, Optimizer::from(Layerwise { lr: 0.3, momentum }))?;
        trainer.measure(Readouts { noise_scale: micro > 1, norms: Some(1) })?;
        let names: Vec<String> = trainer.params().all()?.into_iter().map(|(name, _)| name).collect();
        let mut moved: Vec<Vec<f64>> = trainer.params().all()?.iter().map(|(_, w)| vec![0.0; w.len()]).collect();
        for t in 0..4 {
            let before = trainer.params().all()?;
            for k in 0..micro {
                let part = |c: usize, seed: u64| {
                    let whole = testing::fill([8, c].into(), &Fill::Range(-1.0, 1.0), seed + 10 * t);
                    Host::new([n, c], whole.f()[k * n * c..(k + 1) * n * c].to_vec())
                };
                let batch = [part(3, 1), part(2, 2)];
                if k + 1 < micro { trainer.accumulate(&batch)? } else { trainer.step(&batch)? }
            }
            let (ratios, measured) = (trainer.trust_ratios()?, trainer.take_reports()?.remove(0).norms);
            for (i, name) in names.iter().enumerate() {
                let (w, g) = (before[i].1.to_f64(), trainer.gradient(name)?.to_f64());
                let ratio = if norm(&w) == 0.0 || norm(&g) == 0.0 { 1.0 } else { ETA * norm(&w) / norm(&g) };
                let (got, trust) = (trainer.params().get(name)?, &ratios[i]);
                if trust.0 != *name || (trust.1.ratio / ratio - 1.0).abs() > 1e-5 || (trust.1.norms.gradient / norm(&g) - 1.0).abs() > 1e-5
                {
                    return Err(format!("step {t}, {name}: {trust:?} instead of {ratio}").into());
                }
                let change: Vec<f64> = got.to_f64().iter().zip(&w).map(|(is, was)| is - was).collect();
                let all = measured.get(name)?;
                let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= 1e-6 * want;
                if all.trust_ratio != Some(trust.1.ratio as f32) || !near(all.weight, norm(&w)) || !near(all.update, norm(&change)) {
                    return Err(format!("step {t}, {name}: {all:?} instead of {trust:?}").into());
                }
                for (k, got) in got.f().iter().enumerate() {
                    moved[i][k] = momentum * moved[i][k] + ratio * g[k];
                    let want = w[k] - 0.3 * moved[i][k];
                    if (f64::from(*got) - want).abs() > 1e-5 * (w[k].abs() + moved[i][k].abs()) {
                        return Err(format!("step {t}, {name}: element {k}: {got} instead of {want}").into());
                    }
                }
            }
        }
        Ok(trainer.params().all()?.iter().flat_map(|(_, w)| w.f().to_vec()).collect())
    };
    let (whole, two) = (train(1)?, train(2)?);
    let worst = whole.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if worst > 1e-5 {
        return Err(format!("one batch and two micro-batches differ by {worst}").into());
    }
    let same = train(2)?.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits());
    if same { Ok(()) } else { Err("another run has other bits".into()) }
}

/// A step that makes one weight too large changes no other one.
fn own_overflow(device: &Device) -> Check {
    let g = Graph::training();
    let (small, large) = (g.param("small", [70], Init::Ones), g.param("large", [3], Init::Ones));
    let loss = small.square().sum_all() + (large * g.constant(Host::new([3], vec![-1e-3; 3]))).sum_all();
    let mut trainer = Trainer::new(device, loss, Optimizer::from(Layerwise { lr: 1000.0, momentum: 0.5 }))?;
    trainer.params().set("large", &Host::new([3], vec![3e38; 3]))?;
    let before = trainer.params().all()?;
    trainer.step(&[])?;
    match trainer.loss() {
        Err(error @ Error::Diverged { step: 0, .. }) if error.to_string().contains("a weight would overflow") => {}
        other => return Err(format!("{other:?}").into()),
    }
    if trainer.params().all()? == before { Ok(()) } else { Err("a bad step changes something".into()) }
}

fn main() {
    let mut suite = Suite::new();
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Small], "harness", |device| Ok(testing::check::<RunningSum>(device)?));
    suite.each(&BOTH, "trains", train);
    suite.test("settings tell ops apart", settings);
    suite.each(&BOTH, "own optimizer", own_optimizer);
    suite.test("own states", own_states);
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu], "own norms", |device| own_norms(device, 0.5));
    // Its four buffers are those of a rule without states: weights, gradients, the guard and partial sums.
    suite.on(On::Small, "own norms without momentum", |device| own_norms(device, 0.0));
    suite.each(&BOTH, "own norms, an overflow", own_overflow);
    suite.on(On::Gpu, "promises", promises);
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Small], "an op that leaves its tensors", reckless);
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Small], "a rule that divides by zero", careless);
    suite.on(On::Cpu, "wrong gradient", |d| expect(Bug::Gradient, d, "gradient of input 0"));
    suite.on(On::Gpu, "wrong value", |d| expect(Bug::Value, d, "times the tolerance"));
    suite.on(On::Gpu, "hole", |d| expect(Bug::Hole, d, "was not written"));
    suite.on(On::Gpu, "past the end", |d| expect(Bug::Past, d, "past the end"));
    suite.each(&[On::Cpu, On::Gpu, On::Checked], "reported right", reported_right);
    suite.on(On::Gpu, "reported wrong value", |d| reported(Bug::Value, d, "times the tolerance"));
    suite.on(On::Gpu, "reported hole", |d| reported(Bug::Hole, d, "was not written"));
    suite.on(On::Gpu, "reported past the end", |d| reported(Bug::Past, d, "past the end"));
    suite.test("mistakes name the op and the line", || {
        let g = Graph::training();
        let line = line!() + 1;
        let y = g.scalar(1.0).running_sum();
        let text = y.error().ok_or("no error")?.to_string();
        let want = format!("running_sum: []: a single number has no axis to sum along ({}:{line})", file!());
        if text == want { Ok(()) } else { Err(format!("`{text}` instead of `{want}`").into()) }
    });
    suite.run()
}
