//! Checks for ops, public because users add ops too. From an op's [`cases`](crate::ops::OpDef::cases) alone:
//!
//! * the shape rule holds: the reference fills exactly the shape that the rule gives;
//! * the gradient agrees with central differences in `f64`, in the middle of a graph;
//! * every kernel candidate agrees with the `f64` reference, forward and backward, by one tolerance;
//! * kernels write every element (outputs start as NaN) and nothing else (fences stay), and a second run is bit-equal.
//!
//! # Testing an op of your own
//!
//! Write its [`cases`](crate::ops::OpDef::cases) first: one element, primes, one below, at and above whatever your kernel divides
//! by, and enough work for many workgroups. Then, on each device:
//!
//! ```
//! use downhill::{Device, ops::pick::Pick, testing};
//! testing::check::<Pick>(&Device::cpu())?;
//! # Ok::<(), String>(())
//! ```
//!
//! * [`Device::gpu`] takes a software adapter where there is no GPU: slow, but strict.
//! * Opened with `GpuOptions { checked: true, .. }` shaders check their bounds; with small
//!   [`limits`](crate::gpu::GpuOptions::limits), dispatches fold and bindings split that never would on a large GPU.
//! * [`close`] has the tolerance, which grows with [`OpDef::terms`]: say there how many numbers you add up.
//! * A wrong [`reference`](OpDef::reference) is found by nothing here but its gradient: compare it with values from elsewhere.
//!
//! `tests/own_op.rs` in the source of this crate is a whole op with its tests, and puts bugs into it that these checks find.

use crate::{
    cpu,
    device::Device,
    error::Result,
    gpu::{self, ExecOptions, StepRow},
    graph::{Graph, Tensor},
    host::{Data, Host},
    ops::{Case, Fill, Key, OpDef},
    params::Layout,
    plan::{Options, Plan, ir::Ir},
    rng,
    shape::{DType, Shape},
};
use std::sync::Arc;

/// Seed and step of all checks.
const KEY: Key = Key { seed: 0x5eed, step: 3 };

/// What fills an output before a kernel runs: a NaN that no computation makes.
const NAN: u32 = 0x7fc0_dead;

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

/// Whether `got` is `want` to rounding, where each value is the sum of `terms` terms; else a sentence with the worst.
///
/// The tolerance is |got − want| ≤ 2⁻²³ · (16 + 2·√terms) · (|want| + mean |want|), the mean over what is not 0: 16 units in the last place for the
/// functions of WGSL, the square root because rounding errors of a sum are random, the mean because a result near 0 is
/// the difference of terms that are not. What is below the smallest normal `f32` may be 0. It is the one tolerance of all comparisons between a device and the oracle.
pub fn close(got: &[f64], want: &[f64], terms: usize) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} values instead of {}", got.len(), want.len()));
    }
    let finite = want.iter().filter(|w| w.is_finite() && **w != 0.0);
    let mean = finite.clone().map(|w| w.abs()).sum::<f64>() / finite.count().max(1) as f64;
    let unit = f64::from(f32::EPSILON) * (16.0 + 2.0 * (terms as f64).sqrt());
    let mut worst: Option<(f64, usize)> = None;
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = if g == w || (g.is_nan() && w.is_nan()) {
            0.0
        } else {
            (g - w).abs() / (unit * (w.abs() + mean) + f64::from(f32::MIN_POSITIVE))
        };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > worst.map_or(1.0, |(e, _)| e) {
            worst = Some((error, i));
        }
    }
    worst.map_or(Ok(()), |(error, i)| {
        Err(format!("element {i} of {}: {} instead of {}, {error:.1} times the tolerance", got.len(), got[i], want[i]))
    })
}

/// The case's op in the middle of a graph: its inputs are nodes, and the gradient that comes in depends on its output.
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

/// The case's op in the middle of a graph, written into `g`: its output, then the gradient of every float input.
pub fn graph<'g>(g: &'g Graph, case: &Case) -> Vec<Tensor<'g>> {
    let m = middle(g, case);
    std::iter::once(m.y).chain(m.grads).collect()
}

/// Everything: each case of an op, by [`check_reference`] and by [`check_device`].
///
/// # Errors
/// What is wrong with the first case that fails, in a sentence that opens with its name.
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

/// The shape rule and, by central differences in `f64`, the gradient.
pub fn check_reference(case: &Case) -> Result<(), String> {
    let g = Graph::training();
    let m = middle(&g, case);
    g.check().map_err(|e| e.to_string())?;
    let inputs: Vec<Host<f64>> = case.fill(17).iter().map(Host::cast).collect();
    let out = cpu::interpret(&Ir::new(&g, &[m.y]), &inputs, &[], KEY);
    if out[0].to_f64().iter().any(|v| !v.is_finite()) {
        return Err("the reference is not finite: choose other inputs for this case".into());
    }
    if m.grads.is_empty() {
        return Ok(());
    }
    let loss_ir = Ir::new(&g, &[m.loss]);
    let loss = |x: &[Host<f64>]| cpu::interpret(&loss_ir, x, &[], KEY)[0].to_f64()[0];
    let grads = cpu::interpret(&Ir::new(&g, &m.grads), &inputs, &[], KEY);
    let floats: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].shape.dtype() == DType::F32).collect();
    for ((&i, grad), t) in floats.iter().zip(&grads).zip(&m.x) {
        if !grad.shape.same_dims(t.shape()) {
            return Err(format!("the gradient of input {i} has the shape {} instead of {}", grad.shape, t.shape()));
        }
        let n = inputs[i].len();
        // Small inputs element by element; of large ones the derivative along a few random directions.
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
            // Central differences are good to h² and to rounding / h.
            let loss_rounding = loss(&inputs).abs().max(1.0) * f64::EPSILON * 64.0 / h;
            if (numeric - analytic).abs() > 1e-6 * (size + analytic.abs()) + loss_rounding + 1e-9 {
                return Err(format!("gradient of input {i}, direction {k}: {analytic} instead of {numeric}"));
            }
        }
    }
    Ok(())
}

/// Every candidate of the case's op on `device`, forward and backward, against the oracle.
pub fn check_device(case: &Case, device: &Device) -> Result<(), String> {
    let candidates = match device.as_gpu() {
        None => 1,
        Some(gpu) => {
            let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
            let y = case.op.shape(&shapes)?;
            case.op.kernels(&shapes, y, gpu.caps()).len().max(1)
        }
    };
    for candidate in 0..candidates {
        let options = Options { candidate: Some(candidate), ..device.plan_options() };
        check_candidate(case, device, &options).map_err(|e| format!("candidate {candidate}: {e}"))?;
    }
    Ok(())
}

fn check_candidate(case: &Case, device: &Device, options: &Options) -> Result<(), String> {
    let g = Graph::training();
    let m = middle(&g, case);
    let outputs: Vec<Tensor> = std::iter::once(m.y).chain(m.grads).collect();
    let inputs = case.fill(17);
    let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
    // The loss adds up all elements; a gradient adds as many terms as the forward op, or one for each use of an input.
    let most = shapes.iter().chain([&m.y.shape()]).map(|s| s.elements()).max().unwrap_or(1);
    let terms = case.op.terms(&shapes).max(if outputs.len() > 1 {
        most / shapes.iter().map(|s| s.elements()).min().unwrap_or(1).max(1)
    } else {
        1
    });
    compare(&g, &outputs, &inputs, device, options, terms)
}

/// Compiles `outputs` of `g` for `device` and compares them with the oracle on the unfused graph; on a GPU also with
/// outputs that start as NaN, fences, and a second run.
pub fn compare(
    g: &Graph,
    outputs: &[Tensor],
    inputs: &[Host<f32>],
    device: &Device,
    options: &Options,
    terms: usize,
) -> Result<(), String> {
    let text = |e: crate::Error| e.to_string();
    g.check().map_err(text)?;
    let wide: Vec<Host<f64>> = inputs.iter().map(Host::cast).collect();
    let ir = Ir::new(g, outputs);
    let params = |ir: &Ir| -> Result<Vec<Host<f64>>> {
        ir.params.iter().map(|p| Ok(Host::new(p.shape, p.init.values(p.shape, KEY.seed, &p.name)?).cast())).collect()
    };
    let want = cpu::interpret(&ir, &wide, &params(&ir).map_err(text)?, KEY);
    let got = run(outputs, inputs, device, options).map_err(text)??;
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let what = if i == 0 { "output".to_string() } else { format!("output {i} (a gradient)") };
        close(&got.to_f64(), &want.to_f64(), terms).map_err(|e| format!("{what} {}: {e}", want.shape))?;
    }
    Ok(())
}

/// The outputs on a device, after the checks that need no oracle. The outer error is the device's, the inner one a
/// check that failed.
fn run(outputs: &[Tensor], inputs: &[Host<f32>], device: &Device, options: &Options) -> Result<Result<Vec<Host<f32>>, String>> {
    let plan = Plan::new(outputs, &[], options)?;
    let Some(gpu) = device.as_gpu() else {
        let layout = Layout::new(&plan.params, &vec![0; plan.params.len()], 1, usize::MAX, usize::MAX)?;
        let mut store = cpu::Store::new(layout, 0);
        initial(&plan, &store.layout.clone(), &mut store.params)?;
        let mut exec = cpu::Exec::new(plan);
        inputs.iter().enumerate().for_each(|(i, x)| exec.write(i, x));
        exec.run(&mut store, KEY);
        return Ok(Ok((0..outputs.len()).map(|o| exec.read(&store, o)).collect::<Result<_>>()?));
    };
    let piece = (gpu.caps().max_binding_bytes / 4) as usize;
    let layout = Layout::new(&plan.params, &vec![0; plan.params.len()], 1, piece, (gpu.max_buffer_bytes() / 4) as usize)?;
    pollster::block_on(async {
        let store = Arc::new(gpu::Store::new(gpu, layout, 0).await?);
        let mut flat: Vec<Vec<f32>> = store.layout().pieces.iter().map(|&n| vec![0.0; n]).collect();
        initial(&plan, store.layout(), &mut flat)?;
        store.write_params(&flat)?;
        let mut exec = gpu::Exec::new(gpu, &plan, &store, ExecOptions { guards: true, ..ExecOptions::default() }).await?;
        for (i, x) in inputs.iter().enumerate() {
            exec.write(i, x)?;
        }
        let mut runs = Vec::new();
        for _ in 0..2 {
            exec.fill_slots(NAN)?;
            exec.submit(&StepRow { seed: KEY.seed, step: KEY.step, ..StepRow::default() })?;
            let mut out = Vec::new();
            for o in 0..outputs.len() {
                out.push(exec.read(o).await?);
            }
            runs.push(out);
        }
        let broken = exec.fences_intact(NAN).await?;
        if !broken.is_empty() {
            return Ok(Err(format!("a kernel wrote past the end of {}", broken.join(", "))));
        }
        let again = runs.pop().unwrap_or_default();
        let first = runs.pop().unwrap_or_default();
        let bits = |out: &[Host<f32>]| -> Vec<u32> {
            out.iter().flat_map(|h| h.f().iter().map(|x| x.to_bits()).chain(h.u().iter().copied())).collect()
        };
        let (a, b) = (bits(&first), bits(&again));
        if let Some(i) = (0..a.len()).find(|&i| a[i] != b[i]) {
            return Ok(Err(format!("a second run differs at element {i}: {:x} and {:x}", a[i], b[i])));
        }
        if let Some(i) = a.iter().position(|&x| x == NAN) {
            return Ok(Err(format!("element {i} was not written")));
        }
        Ok(Ok(first))
    })
}

fn initial(plan: &Plan, layout: &Layout, flat: &mut [Vec<f32>]) -> Result<()> {
    for (p, r) in plan.params.iter().zip(&layout.ranges) {
        flat[r.piece][r.start..r.start + r.len].copy_from_slice(&p.init.values(p.shape, KEY.seed, &p.name)?);
    }
    Ok(())
}
