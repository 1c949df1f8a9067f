//! An op from outside of the crate, as ARCHITECTURE.md shows how to add one: a running sum along the last axis. And an
//! optimizer.
//!
//! The op passes the harness that the library's own ops pass, on every device, and trains; and the harness finds the bugs
//! that are put into it here.

#[path = "own_op/bugs.rs"]
mod bugs;
#[path = "own_op/checks.rs"]
mod checks;
mod common;
#[path = "own_op/rules.rs"]
mod rules;

use common::{BOTH, Check, On, Suite};
use downhill::{
    DType, Device, Graph, Host, Shape, Tensor, Trainer,
    host::{Real, View, ViewMut},
    init::Init,
    kernel::{Bind, Caps, Kernel, Pass, Source},
    ops::{Case, OpDef},
    optim::Sgd,
    plan::{Plan, PlanOptions},
    rng::Key,
    testing,
};

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

const RIGHT: RunningSum = RunningSum { reverse: false };

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

fn main() {
    let mut suite = Suite::new();
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Small], "harness", |device| Ok(testing::check::<RunningSum>(device)?));
    suite.each(&BOTH, "trains", train);
    suite.test("settings tell ops apart", settings);
    suite.each(&BOTH, "own optimizer", rules::own_optimizer);
    suite.test("own states", rules::own_states);
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu], "own norms", |device| rules::own_norms(device, 0.5));
    // Its four buffers are those of a rule without states: weights, gradients, the guard and partial sums.
    suite.on(On::Small, "own norms without momentum", |device| rules::own_norms(device, 0.0));
    suite.each(&BOTH, "own norms, an overflow", rules::own_overflow);
    suite.on(On::Gpu, "promises", checks::promises);
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Small], "an op that leaves its tensors", checks::reckless);
    suite.each(&[On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Small], "a rule that divides by zero", rules::careless);
    suite.on(On::Cpu, "wrong gradient", |d| bugs::expect(bugs::Bug::Gradient, d, "gradient of input 0"));
    suite.on(On::Gpu, "wrong value", |d| bugs::expect(bugs::Bug::Value, d, "times the tolerance"));
    suite.on(On::Gpu, "hole", |d| bugs::expect(bugs::Bug::Hole, d, "was not written"));
    suite.on(On::Gpu, "past the end", |d| bugs::expect(bugs::Bug::Past, d, "past the end"));
    suite.each(&[On::Cpu, On::Gpu, On::Checked], "reported right", bugs::reported_right);
    suite.on(On::Gpu, "reported wrong value", |d| bugs::reported(bugs::Bug::Value, d, "times the tolerance"));
    suite.on(On::Gpu, "reported hole", |d| bugs::reported(bugs::Bug::Hole, d, "was not written"));
    suite.on(On::Gpu, "reported past the end", |d| bugs::reported(bugs::Bug::Past, d, "past the end"));
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
