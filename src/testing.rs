//! Checks for ops. They are public, because users can add ops too. They need only the op's
//! [`cases`](crate::ops::OpDef::cases) and check that:
//!
//! * the shape rule is right: the reference fills exactly the shape that the rule gives;
//! * the gradient agrees with central differences in `f64`, in the middle of a graph;
//! * every candidate agrees with the `f64` reference, forward and backward, by one tolerance (a device with
//!   [`Choice::Portable`](crate::gpu::Choice::Portable) has one candidate);
//! * kernels write every element (outputs start as NaN) and nothing else (the fences behind each buffer stay unchanged), and
//!   a second run gives the same bits.
//!
//! [`selftest`](crate::selftest) makes a report of the last two checks, for users.
//!
//! # Testing an op of your own
//!
//! Write the op's [`cases`](crate::ops::OpDef::cases) first. Include one element, primes, and enough work for many
//! workgroups. For each number by which your kernel divides, include sizes one below it, equal to it and one above it. Then
//! run on each device:
//!
//! ```
//! use downhill::{Device, ops::softmax::Softmax, testing};
//! testing::check::<Softmax>(&Device::cpu())?;
//! # Ok::<(), String>(())
//! ```
//!
//! * [`Device::gpu`] takes a software adapter if there is no GPU. A software adapter is slow, but strict.
//! * With `GpuOptions { checked: true, .. }`, shaders check their bounds. With small
//!   [`limits`](crate::gpu::GpuOptions::limits), dispatches are folded and bindings are split that a large GPU would leave
//!   whole.
//! * [`distance`] has the tolerance. It grows with [`OpDef::terms`], so return the number of terms that your op adds up
//!   there.
//! * These checks find a wrong [`reference`](OpDef::reference) only through its gradient. So also compare the reference with
//!   values from another source.
//!
//! `tests/own_op.rs` in the source of this crate is a complete op with its tests. The tests also put bugs into the op and
//! show that these checks find them.

pub use crate::{
    ops::fill,
    oracle::{Checked, Distance, close, distance, oracle},
};

#[doc(hidden)]
pub use crate::choice::cache::Sample as TuningFiles;

use crate::{
    cpu,
    device::Device,
    error::Result,
    gpu::{self, ExecOptions, StepRow},
    graph::{Graph, Tensor},
    host::{Data, Host},
    kernel::Caps,
    ops::{Case, Fill, OpDef},
    optim::{Optimizer, Parts, Readouts},
    oracle::{KEY, NAN, interpret},
    params::{Layout, Status},
    plan::{Draft, Phases, Plan, PlanOptions, ir::Ir},
    shape::{DType, Shape},
};
use std::sync::Arc;

/// A graph with the case's op in the middle. The op's inputs are nodes, and the incoming gradient depends on the op's output.
struct Middle<'g> {
    x: Vec<Tensor<'g>>,
    y: Tensor<'g>,
    loss: Tensor<'g>,
    grads: Vec<Tensor<'g>>,
}

fn middle<'g>(g: &'g Graph, case: &Case) -> Middle<'g> {
    let x: Vec<Tensor> = case.inputs.iter().map(|(s, _)| g.input_of(*s)).collect();
    let floats: Vec<Tensor> = x.iter().copied().filter(|t| t.shape().dtype() == DType::F32).collect();
    let inner: Vec<Tensor> = x.iter().map(|t| if t.shape().dtype() == DType::F32 { *t * 1.0 } else { *t }).collect();
    let y = g.apply_at(case.op.clone(), &inner, std::panic::Location::caller());
    for (t, (_, fill)) in x.iter().zip(&case.inputs) {
        if let Fill::Labels(n) = fill {
            g.require_classes(*t, *n);
        }
    }
    if !case.gradient || y.is_dead() {
        return Middle { x: floats, y, loss: y, grads: Vec::new() };
    }
    let c = g.constant(fill(y.shape(), &Fill::Range(-1.0, 1.5), 991));
    let loss = (y * c + (y * c).square() * 0.25).sum_all();
    let grads = loss.grad(&floats);
    Middle { x: floats, y, loss, grads }
}

/// Writes the case's op into the middle of the graph `g`. Returns its output, then the gradient of every float input.
pub fn graph<'g>(g: &'g Graph, case: &Case) -> Vec<Tensor<'g>> {
    let m = middle(g, case);
    std::iter::once(m.y).chain(m.grads).collect()
}

/// Writes the case's op into `g` with inputs of its own, and nothing else. A benchmark of the op measures this graph.
pub fn alone<'g>(g: &'g Graph, case: &Case) -> Tensor<'g> {
    let x: Vec<Tensor> = case.inputs.iter().map(|(s, _)| g.input_of(*s)).collect();
    g.apply_at(case.op.clone(), &x, std::panic::Location::caller())
}

/// Returns the plan of a training step on `loss`, for a GPU with the abilities `caps`. No device is opened. `Trainer` makes
/// the same plan, but adds the numbers for its reports to the outputs.
///
/// # Errors
/// The first mistake of the graph, or the part of the plan that exceeds the abilities.
pub fn training_plan(loss: Tensor, optimizer: &Optimizer, caps: &Caps) -> Result<Plan> {
    let g = loss.graph();
    let grads = g.param_grads(loss, |_| false);
    let mut plan = Draft::new(&[loss], &grads, &PlanOptions::new(Some(*caps)))?.lower(&PlanOptions::new(Some(*caps)));
    let (groups, elements) = (optimizer.groups(&plan.params)?, (caps.max_binding_bytes / 4) as usize);
    let layout = optimizer.layout(&plan.params, &groups, None, elements, elements)?;
    let options = PlanOptions::new(Some(*caps));
    let whole = optimizer.whole_draft(&plan.params, &groups, None, &options)?.map(|draft| draft.lowered(|draft| draft.lower(&options)));
    let parts = Parts { groups: &groups, whole: whole.as_ref(), readouts: Readouts::default() };
    optimizer.append(&mut plan, &layout, parts, None, Some(caps))?;
    Ok(plan)
}

/// Checks each case of an op with [`check_reference`] and [`check_device`].
///
/// # Errors
/// A sentence about the first case that fails. It begins with the name of the case.
pub fn check<O: OpDef>(device: &Device) -> Result<(), String> {
    let cases = O::cases();
    if cases.is_empty() {
        return Err(format!("{} has no cases", O::NAME));
    }
    cases.iter().try_for_each(|case| {
        let both = check_reference(case).and_then(|()| check_device(case, device));
        both.map_err(|why| format!("{} {}: {why}", O::NAME, case.name))
    })
}

/// Checks the shape rule, and the gradient by central differences in `f64`.
pub fn check_reference(case: &Case) -> Result<(), String> {
    let g = Graph::training();
    let m = middle(&g, case);
    g.check().map_err(|e| e.to_string())?;
    let inputs: Vec<Host<f64>> = case.fill(17).iter().map(Host::cast).collect();
    let out = interpret(&Ir::new(&g, &[m.y]), &inputs, &[], KEY);
    if out[0].to_f64().iter().any(|v| !v.is_finite()) {
        return Err("the reference is not finite: choose other inputs for this case".into());
    }
    if m.grads.is_empty() {
        return Ok(());
    }
    let loss_ir = Ir::new(&g, &[m.loss]);
    let loss = |x: &[Host<f64>]| interpret(&loss_ir, x, &[], KEY)[0].to_f64()[0];
    let grads = interpret(&Ir::new(&g, &m.grads), &inputs, &[], KEY);
    let floats: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].shape.dtype() == DType::F32).collect();
    for ((&i, grad), t) in floats.iter().zip(&grads).zip(&m.x) {
        if !grad.shape.same_dims(t.shape()) {
            return Err(format!("the gradient of input {i} has the shape {} instead of {}", grad.shape, t.shape()));
        }
        let n = inputs[i].len();
        // For small inputs, every element is checked. For large inputs, the derivatives in a few random directions are
        // checked.
        let directions: Vec<Vec<f64>> = if n <= 48 {
            (0..n).map(|k| (0..n).map(|j| f64::from(u8::from(j == k))).collect()).collect()
        } else if n <= 200_000 {
            (0..3).map(|k| fill(inputs[i].shape, &Fill::Range(-1.0, 1.0), 1000 + k).to_f64()).collect()
        } else {
            Vec::new()
        };
        for (k, d) in directions.iter().enumerate() {
            let h = 1e-5;
            let moved = |sign: f64| {
                let mut x = inputs.clone();
                if let Data::Float(v) = &mut x[i].data {
                    v.iter_mut().zip(d).for_each(|(v, d)| *v += sign * h * d);
                }
                loss(&x)
            };
            let numeric = (moved(1.0) - moved(-1.0)) / (2.0 * h);
            let analytic: f64 = grad.f().iter().zip(d).map(|(g, d)| g * d).sum();
            let size: f64 = grad.f().iter().zip(d).map(|(g, d)| (g * d).abs()).sum();
            // The error of central differences is of order h² plus rounding / h.
            let loss_rounding = loss(&inputs).abs().max(1.0) * f64::EPSILON * 64.0 / h;
            if (numeric - analytic).abs() > 1e-6 * (size + analytic.abs()) + loss_rounding + 1e-9 {
                return Err(format!("gradient of input {i}, direction {k}: {analytic} instead of {numeric}"));
            }
        }
    }
    Ok(())
}

/// Compares every candidate of the case's op on `device` with the oracle, forward and backward. A software adapter that
/// checks bounds also runs the candidates that hardware with its limits would have.
pub fn check_device(case: &Case, device: &Device) -> Result<(), String> {
    let g = Graph::training();
    let subject = Subject::new(&g, case, device)?;
    for candidate in 0..subject.kernels.len() {
        let checked = subject.measure(candidate, device).map_err(|e| e.to_string());
        checked.and_then(|c| verdict(&c, &subject.want)).map_err(|e| format!("candidate {candidate}: {e}"))?;
    }
    let checked = device.as_gpu().filter(|gpu| gpu.options().checked && !case.op.is_alias());
    let Some(caps) = checked.map(|gpu| *gpu.caps()).filter(|caps| caps.software) else { return Ok(()) };
    let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
    let kernels = |caps: &Caps| case.op.kernels(&shapes, subject.outputs[0].shape(), caps);
    let mut known = kernels(&caps);
    for few_registers in [false, true] {
        let hardware = Caps { software: false, few_registers, ..caps };
        for (candidate, kernel) in kernels(&hardware).into_iter().enumerate() {
            if known.contains(&kernel) {
                continue;
            }
            let options = PlanOptions { caps: Some(hardware), candidate: Some(candidate), ..device.plan_options() };
            let checked = measure(&subject.outputs, &subject.inputs, &subject.want, device, &options, subject.terms);
            let name = kernel.name;
            checked.map_err(|e| e.to_string()).and_then(|c| verdict(&c, &subject.want)).map_err(|e| format!("hardware's {name}: {e}"))?;
            known.push(kernel);
        }
    }
    Ok(())
}

/// A case in the middle of a graph, with its inputs and the oracle's outputs.
pub(crate) struct Subject<'g> {
    /// The names of the op's candidates that the device may use.
    pub kernels: Vec<&'static str>,
    /// The indices of the inputs that have a gradient. The outputs after the first are these gradients.
    pub grads: Vec<usize>,
    outputs: Vec<Tensor<'g>>,
    inputs: Vec<Host<f32>>,
    want: Vec<Host<f64>>,
    terms: usize,
}

impl<'g> Subject<'g> {
    /// Writes `case` for `device` into the empty graph `g`. Returns a sentence if the case does not fit its op.
    pub fn new(g: &'g Graph, case: &Case, device: &Device) -> Result<Subject<'g>, String> {
        let outputs = graph(g, case);
        let inputs = case.fill(17);
        let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
        let want = oracle(g, &outputs, &inputs).map_err(|e| e.to_string())?;
        let y = outputs[0].shape();
        // The loss adds up all elements. A gradient adds as many terms as the forward op, or one term for each use of an
        // input element.
        let most = shapes.iter().chain([&y]).map(|s| s.elements()).max().unwrap_or(1);
        let terms = case.op.terms(&shapes).max(if outputs.len() > 1 {
            most / shapes.iter().map(|s| s.elements()).min().unwrap_or(1).max(1)
        } else {
            1
        });
        // A device that always takes one candidate has no use for the others.
        let used = device.plan_options().candidate.map_or(usize::MAX, |only| only + 1);
        let kernels = match device.as_gpu() {
            None => vec!["cpu"],
            Some(_) if case.op.is_alias() => vec!["alias"],
            Some(gpu) => case.op.kernels(&shapes, y, gpu.caps()).iter().take(used).map(|kernel| kernel.name).collect(),
        };
        let floats = (0..shapes.len()).filter(|&i| shapes[i].dtype() == DType::F32);
        let grads = floats.take(outputs.len() - 1).collect();
        Ok(Subject { kernels, grads, outputs, inputs, want, terms })
    }
    /// Runs one candidate on the device: see [`measure`].
    pub fn measure(&self, candidate: usize, device: &Device) -> Result<Vec<Checked>> {
        let options = PlanOptions { candidate: Some(candidate), ..device.plan_options() };
        measure(&self.outputs, &self.inputs, &self.want, device, &options, self.terms)
    }
}

/// Compiles `outputs` of `g` for `device` and compares them with the oracle on the unfused graph. On a GPU, outputs start as
/// NaN, fences surround them, and a second run must give the same bits.
pub fn compare(
    g: &Graph,
    outputs: &[Tensor],
    inputs: &[Host<f32>],
    device: &Device,
    options: &PlanOptions,
    terms: usize,
) -> Result<(), String> {
    let text = |e: crate::Error| e.to_string();
    let want = oracle(g, outputs, inputs).map_err(text)?;
    verdict(&measure(outputs, inputs, &want, device, options, terms).map_err(text)?, &want)
}

/// Returns the first thing that is wrong.
fn verdict(checked: &[Checked], want: &[Host<f64>]) -> Result<(), String> {
    for (i, (checked, want)) in checked.iter().zip(want).enumerate() {
        let what = if i == 0 { "output".to_string() } else { format!("output {i} (a gradient)") };
        checked.wrong.as_ref().map_or(Ok(()), |why| Err(format!("{what} {}: {why}", want.shape)))?;
    }
    Ok(())
}

/// Compiles `outputs` for `device` and compares each output with the expected values. The plan runs twice, and both runs must
/// give the same bits. On a GPU, outputs start as NaN and have fences around them.
///
/// # Errors
/// The device cannot run the graph, or refuses it: see [`Device::compile`].
pub fn measure(
    outputs: &[Tensor],
    inputs: &[Host<f32>],
    want: &[Host<f64>],
    device: &Device,
    options: &PlanOptions,
    terms: usize,
) -> Result<Vec<Checked>> {
    let Runs { first, again, broken } = run(outputs, inputs, device, options)?;
    let check = |((first, again), want): ((&Host<f32>, &Host<f32>), &Host<f64>)| {
        let near = Checked::new(&first.to_f64(), &want.to_f64(), terms);
        let (a, b) = (bits(first), bits(again));
        let unwritten = || a.iter().position(|&x| x == NAN).map(|i| format!("element {i} was not written"));
        let differs = || {
            let i = (0..a.len()).find(|&i| a[i] != b[i])?;
            Some(format!("a second run differs at element {i}: {:x} and {:x}", a[i], b[i]))
        };
        Checked { wrong: broken.clone().or_else(unwritten).or_else(differs).or(near.wrong), ..near }
    };
    Ok(first.iter().zip(&again).zip(want).map(check).collect())
}

fn bits(x: &Host<f32>) -> Vec<u32> {
    x.f().iter().map(|x| x.to_bits()).chain(x.u().iter().copied()).collect()
}

/// The outputs of two runs, and the fences that were overwritten.
struct Runs {
    first: Vec<Host<f32>>,
    again: Vec<Host<f32>>,
    broken: Option<String>,
}

fn run(outputs: &[Tensor], inputs: &[Host<f32>], device: &Device, options: &PlanOptions) -> Result<Runs> {
    let plan = Plan::new(outputs, &[], options)?;
    let Some(gpu) = device.as_gpu() else {
        let layout = Layout::new(&plan.params, &Status::plain(&plan.params), usize::MAX, usize::MAX)?;
        let mut store = cpu::CpuStore::new(layout)?;
        initial(&plan, &store.layout.clone(), &mut store.params)?;
        let mut exec = cpu::CpuExec::new(plan)?;
        inputs.iter().enumerate().for_each(|(i, x)| exec.write(i, x));
        let mut run = || {
            exec.run(&mut store, KEY, KEY.step, Phases::default(), None, |_, _| ());
            (0..outputs.len()).map(|o| exec.read(&store, o)).collect::<Result<Vec<_>>>()
        };
        return Ok(Runs { first: run()?, again: run()?, broken: None });
    };
    let piece = (gpu.caps().max_binding_bytes / 4) as usize;
    let layout = Layout::new(&plan.params, &Status::plain(&plan.params), piece, (gpu.max_buffer_bytes() / 4) as usize)?;
    pollster::block_on(async {
        let store = Arc::new(gpu::GpuStore::new(gpu, layout, 0).await?);
        let mut flat: Vec<Vec<f32>> = store.layout().pieces.iter().map(|&n| vec![0.0; n]).collect();
        initial(&plan, store.layout(), &mut flat)?;
        store.write_params(&flat)?;
        let mut exec = gpu::GpuExec::new(gpu, &plan, &store, ExecOptions { guards: true, ..ExecOptions::default() }).await?;
        for (i, x) in inputs.iter().enumerate() {
            exec.write(i, x)?;
        }
        let mut runs = [Vec::new(), Vec::new()];
        for out in &mut runs {
            exec.fill_slots(NAN)?;
            exec.submit(&StepRow { seed: KEY.seed, step: KEY.step, ..StepRow::default() })?;
            for o in 0..outputs.len() {
                out.push(exec.read(o).await?);
            }
        }
        let broken = exec.fences_intact(NAN).await?;
        let broken = (!broken.is_empty()).then(|| format!("a kernel wrote past the end of {}", broken.join(", ")));
        let [first, again] = runs;
        Ok(Runs { first, again, broken })
    })
}

fn initial(plan: &Plan, layout: &Layout, flat: &mut [Vec<f32>]) -> Result<()> {
    for (p, r) in plan.params.iter().zip(&layout.ranges) {
        flat[r.piece][r.of()].copy_from_slice(&p.init.values(p.shape, KEY.seed, &p.name)?);
    }
    Ok(())
}
