//! Checks of ops that need no device. Methods and gradients are compared with PyTorch, `cpu` is compared with the reference, and
//! naga validates the WGSL.

use super::*;
use crate::{
    gpu::shader::assemble,
    graph::Graph,
    kernel::{Span, Which},
    oracle::interpret,
    plan::ir::Ir,
};
use serde_json::Value;
use wgpu::naga;

fn numbers(v: &Value) -> Vec<f64> {
    let number = |x: &Value| x.as_f64().unwrap_or_else(|| x.as_str().and_then(|s| s.parse().ok()).expect("a number"));
    v.as_array().expect("a list").iter().map(number).collect()
}

fn tensor(v: &Value) -> Host<f64> {
    let shape = Shape::new(&numbers(&v["shape"]).iter().map(|&x| x as usize).collect::<Vec<_>>()).expect("at most six axes");
    let data = numbers(&v["data"]);
    match v["dtype"] == "u32" {
        true => Host::labels(shape, data.iter().map(|&x| x as u32).collect()),
        false => Host::new(shape, data),
    }
}

/// Returns a list of sizes or axes among the arguments of a row.
pub(crate) fn sizes(v: &Value) -> Vec<usize> {
    numbers(v).iter().map(|&x| x as usize).collect()
}

/// Returns the axes among the arguments of a row.
pub(crate) fn axes(args: &Value) -> Vec<isize> {
    numbers(&args["axes"]).iter().map(|&x| x as isize).collect()
}

/// Checks the value and the gradients of `method` on every golden row of `op`, in `f64`. PyTorch computed the rows in `f64` from
/// inputs that are `f32`. Constants of our graphs are `f32`, with a relative error of 2⁻²⁴. Values near 1e4 lose their last digits.
pub(crate) fn golden(op: &str, method: impl for<'g> Fn(&Value, &[Tensor<'g>]) -> Tensor<'g>) {
    golden_in(include_str!("../../tests/golden/ops.json"), op, method);
}

/// [`golden`] with the rows of a file of an op without a public method.
pub(crate) fn golden_in(file: &str, op: &str, method: impl for<'g> Fn(&Value, &[Tensor<'g>]) -> Tensor<'g>) {
    let file: Value = serde_json::from_str(file).expect("the golden file is JSON");
    let rows: Vec<&Value> = file["cases"].as_array().expect("`cases` is a list").iter().filter(|c| c["op"] == op).collect();
    assert!(!rows.is_empty(), "no golden values of {op}");
    for row in rows {
        let inputs: Vec<Host<f64>> = row["inputs"].as_array().expect("`inputs` is a list").iter().map(tensor).collect();
        let g = Graph::training();
        let x: Vec<Tensor> = inputs.iter().map(|i| g.input_of(i.shape)).collect();
        let y = method(&row["args"], &x);
        assert_eq!(g.error().map(|e| e.to_string()), None, "{op} {}", row["case"]);
        let (mut outputs, mut want, mut feed) = (vec![y], vec![tensor(&row["output"])], inputs.clone());
        if let Some(grads) = row["grads"].as_array().filter(|_| !row["cotangent"].is_null()) {
            let dy = g.input_of(y.shape());
            feed.push(tensor(&row["cotangent"]));
            let known: Vec<usize> = (0..x.len()).filter(|&i| grads.get(i).is_some_and(|g| !g.is_null())).collect();
            outputs.extend(y.vjp(dy, &known.iter().map(|&i| x[i]).collect::<Vec<_>>()));
            want.extend(known.iter().map(|&i| tensor(&grads[i])));
        }
        let got = interpret(&Ir::new(&g, &outputs), &feed, &[], Key::default());
        for (k, (got, want)) in got.iter().zip(&want).enumerate() {
            let what = format!("{op} {}, {}", row["case"], if k == 0 { "value" } else { "gradient" });
            assert_eq!(got.shape, want.shape, "{what}");
            for (i, (a, b)) in got.to_f64().into_iter().zip(want.to_f64()).enumerate() {
                assert!(
                    a == b || (a - b).abs() <= 1e-7 * (1.0 + b.abs()) || (a.is_nan() && b.is_nan()),
                    "{what}: element {i} is {a}, not {b}"
                );
            }
        }
    }
}

/// Returns inputs of a case: well-spread numbers, some of them equal.
fn fill(case: &Case) -> Vec<Host<f32>> {
    let value = |i: usize, k: usize| ((i * 7919 + k * 104_729) % 1009) as f64 / 1009.0;
    let input = |(k, (shape, fill)): (usize, &(Shape, Fill))| {
        let all = 0..shape.elements();
        match *fill {
            Fill::Range(lo, hi) => Host::new(*shape, all.map(|i| (lo + (hi - lo) * value(i, k)) as f32).collect()),
            Fill::Labels(n) => Host::labels(*shape, all.map(|i| (value(i, k) * n as f64) as u32).collect()),
        }
    };
    case.inputs.iter().enumerate().map(input).collect()
}

/// Checks the shape rule on every case of an op, and compares `cpu` with the `f64` reference. A plain sum in `f32` could have an
/// error of 2⁻²⁴ for each term. The tolerance here is stricter.
pub(crate) fn cpu<O: OpDef>() {
    for case in O::cases() {
        let x = fill(&case);
        let shapes: Vec<Shape> = x.iter().map(|x| x.shape).collect();
        let shape = case.op.shape(&shapes).unwrap_or_else(|why| panic!("{}: {why}", case.name));
        let (mut y, mut want) = (Host::<f32>::zeros(shape), Host::<f64>::zeros(shape));
        y.view_mut().f.fill(f32::NAN);
        y.view_mut().u.fill(u32::MAX);
        case.op.cpu(&x.iter().map(Host::view).collect::<Vec<_>>(), &mut y.view_mut(), Key::default());
        let wide: Vec<Host<f64>> = x.iter().map(Host::cast).collect();
        case.op.reference_f64(&wide.iter().map(Host::view).collect::<Vec<_>>(), &mut want.view_mut(), Key::default());
        for (i, (a, b)) in y.to_f64().into_iter().zip(want.to_f64()).enumerate() {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "{} {}: element {i} is {a}, not {b}", O::NAME, case.name);
        }
    }
}

/// Checks that naga accepts the WGSL of every kernel of every case, for several devices. Checks that the bindings fit the tensors.
pub(crate) fn wgsl<O: OpDef>() {
    // Masked attention has more inputs than the smallest device has bindings. WebGPU promises eight.
    let fewest = if O::NAME.starts_with("attention") { 8 } else { 4 };
    let small = Caps { max_bindings: 4, max_binding_bytes: 4096, max_workgroup_bytes: 2048, max_invocations: 64, ..Caps::default() };
    let software = Caps { software: true, subgroups: Some(8), ..Caps::default() };
    let mut seen = std::collections::HashSet::new();
    for (case, caps) in O::cases().iter().flat_map(|c| [(c, Caps::default()), (c, small), (c, software)]) {
        let shapes: Vec<Shape> = case.inputs.iter().map(|x| x.0).collect();
        let y = case.op.shape(&shapes).expect("cases fit");
        let kernels = case.op.kernels(&shapes, y, &caps);
        // A choice is found again by its name.
        let names: std::collections::HashSet<_> = kernels.iter().map(|kernel| kernel.name).collect();
        assert_eq!(names.len(), kernels.len(), "{}: two candidates of one name", case.name);
        for kernel in kernels {
            let most = caps.max_bindings.max(fewest);
            for pass in &kernel.passes {
                assert!(pass.units > 0 && pass.per_group > 0 && pass.binds.len() <= most, "{}", case.name);
                for bind in &pass.binds {
                    let elements = match bind.which {
                        Which::In(i) => shapes[i].elements(),
                        Which::Out => y.elements(),
                        Which::Scratch(i) => kernel.scratch[i],
                    };
                    // The last unit may be ragged. It must start inside of the tensor, and the tensor must not go on behind it.
                    let last = bind.span.start(pass.units - 1);
                    let (Span::PerUnit(n) | Span::Blocks { elements: n, .. } | Span::Lines { chunk: n, .. }) = bind.span else {
                        continue;
                    };
                    assert!(last < elements && last + n >= elements, "{} `{}` {pass:?}", case.name, bind.name);
                }
                let text = assemble(pass).expect("includes exist");
                if seen.insert((pass.entry, text.clone())) {
                    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
                    let flags = naga::valid::ValidationFlags::all();
                    let subgroups = match caps.subgroups {
                        None => naga::valid::Capabilities::empty(),
                        Some(_) => naga::valid::Capabilities::SUBGROUP,
                    };
                    let mut validator = naga::valid::Validator::new(flags, subgroups);
                    validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
                    validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
                    validator.validate(&module).unwrap_or_else(|e| panic!("{}: {}", case.name, e.emit_to_string(&text)));
                }
            }
        }
    }
}

/// Checks that `f` is a mistake, and that its error begins with `text`.
pub(crate) fn mistake(f: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str) {
    let g = Graph::training();
    assert!(f(&g).is_dead());
    let message = g.error().map_or(String::new(), |e| e.to_string());
    assert!(message.starts_with(text), "{message}");
}
