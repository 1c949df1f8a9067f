//! Every op's own cases, on the CPU device and on GPUs: see `downhill::testing` for what is checked.
//!
//! On `small` the limits are so low that dispatches fold past the group limit, and that elementwise code, reductions
//! and flat buffers split past the binding limit.
//!
//! `cargo test --release --test ops softmax -- --bench` checks nothing: it times every case of the ops with that in their name, on the CPU
//! device and with each candidate on the GPU.

mod bench;
mod common;

use common::{Check, On, Suite, small_limits};
use downhill::{
    Compiled, Device, Graph, Host, Shape, Tensor,
    kernel::{Caps, Span, Which},
    losses,
    ops::{self, Case, Fill},
    optim, plan,
    selftest::{self, Computed},
    testing,
};
use libtest_mimic::Arguments;

fn main() {
    let arguments = Arguments::from_args();
    if arguments.bench {
        return bench::run(arguments.filter.as_deref());
    }
    let mut suite = Suite::new();
    for (op, cases) in ops::all() {
        for (i, case) in cases.into_iter().enumerate() {
            let name = format!("{op}/{i} {}", case.name.replace(' ', "_"));
            let c = case.clone();
            suite.test(&format!("reference/{name}"), move || Ok(testing::check_reference(&c)?));
            for on in [On::Cpu, On::Gpu, On::Checked, On::Webgpu] {
                let c = case.clone();
                suite.on(on, &name, move |device| Ok(testing::check_device(&c, device)?));
            }
            suite.on(On::Small, &name, move |device| small(op, &case, device));
        }
    }
    suite.on(On::Gpu, "NaN passes through reductions", nan);
    suite.test("small limits are exceeded", exceeded);
    for name in LARGE {
        for on in [On::Small, On::Cpu] {
            suite.on(on, &format!("large/{name}"), move |device| large(name, device));
        }
    }
    suite.each(&common::BOTH, "selftest", report);
    suite.on(On::Small, "selftest", limited);
    suite.test("selftest of nothing", nothing);
    suite.run()
}

/// The report of the self-test has every op and optimizer, with numbers that make sense.
fn report(device: &Device) -> Check {
    let report = selftest::run(device, &selftest::Options::quick())?;
    assert!(report.passed(), "{report}");
    for (op, cases) in ops::all() {
        let rows: Vec<_> = report.rows.iter().filter(|row| row.op == op).collect();
        assert_eq!(rows.first().map(|row| row.direction), Some(Computed::Forward), "{op}");
        assert!(rows[0].cases > 0 && rows[0].cases <= cases.len() && rows[0].not_run == 0, "{op}: {:?}", rows[0]);
        let gradients = cases.iter().any(|case| case.gradient);
        assert_eq!(rows.iter().any(|row| matches!(row.direction, Computed::Gradient(_))), gradients, "{op}");
    }
    for row in &report.rows {
        let worst = row.worst.ok_or("nothing was compared")?;
        assert!(worst.fits() && worst.ulps >= 0.0 && worst.tolerance >= 18.0, "{row:?}");
        // Sums and exponentials round; what only moves values does not have to.
        let rounds = ["matmul", "softmax", "reduce"].contains(&row.op.as_str()) || row.direction == Computed::Update;
        assert!(!rounds || (worst.ulps > 0.0 && row.relative > 0.0), "{row:?}");
    }
    for optimizer in optim::all() {
        assert!(report.rows.iter().any(|row| row.op == optimizer.name() && row.direction == Computed::Update), "{optimizer:?}");
    }
    assert_eq!(report.json()["rows"].as_array().map(Vec::len), Some(report.rows.len()));
    Ok(())
}

/// A case that is too large for the device is reported, but is no failure.
fn limited(device: &Device) -> Check {
    let only = vec!["permute".to_string(), "Adam".to_string()];
    let report = selftest::run(device, &selftest::Options { only, ..Default::default() })?;
    assert!(report.passed(), "{report}");
    let [permute, adam] = ["permute", "Adam"].map(|op| report.rows.iter().find(|row| row.op == op).expect("it was asked for"));
    assert!(permute.cases > 0 && permute.not_run > 0, "{permute:?}");
    // It needs more storage buffers than the four that there are.
    assert!(adam.cases == 0 && adam.not_run > 0 && adam.limit.as_ref().is_some_and(|why| why.contains("limit is 4")), "{adam:?}");
    assert!(report.to_string().contains("not run: 4 cases of Adam apply update: limit:"), "{report}");
    Ok(())
}

/// A name that is none is a mistake, and a report of nothing is no proof.
fn nothing() -> Check {
    let no = || vec!["softmux".to_string()];
    for options in [selftest::Options { only: no(), ..Default::default() }, selftest::Options { except: no(), ..Default::default() }] {
        let error = selftest::run(&Device::cpu(), &options).expect_err("there is none").to_string();
        assert!(
            error.starts_with("selftest: there is no `softmux`; there are all_gather, argmax, ") && error.contains(", Adam, AdamW, Adamax"),
            "{error}"
        );
    }
    let (only, except) = (vec!["slice".into(), "Sgd".into()], vec!["Sgd".into()]);
    let report = selftest::run(&Device::cpu(), &selftest::Options { only, except, ..Default::default() })?;
    assert!(report.passed() && report.rows.iter().all(|row| row.op == "slice"), "{report}");
    assert!(
        !selftest::run(&Device::cpu(), &selftest::Options { max_elements: 0, only: vec!["matmul".into()], ..Default::default() })?.passed()
    );
    Ok(())
}

/// Right, or an error that names need and limit: never a wrong number.
fn small(op: &str, case: &Case, device: &Device) -> Check {
    let Err(why) = testing::check_device(case, device) else { return Ok(()) };
    // Masked attention has more inputs than this device has bindings. WebGPU promises eight.
    let unmasked = if op == "attention" { 3 } else { 2 };
    if op.starts_with("attention") && case.inputs.len() > unmasked && why.contains("storage buffers bound at once") {
        return Ok(());
    }
    let limit = common::inner(device).caps().max_binding_bytes;
    let (shapes, y) = shapes(case)?;
    let most = shapes.iter().chain([&y]).map(|s| s.bytes()).max().unwrap_or(0);
    let may = match op {
        "map" => false,
        // Rows of one side and terms of the other cannot both be cut.
        "matmul" => shapes[0].dims() == [44, 1100],
        // Windows start at multiples of 64 units, and chunks of several lines must be of one size: a large prime has
        // none, and only 64 rows of so wide a tensor fit.
        "reduce" => [&[2, 17_011][..], &[65, 255], &[65, 257]].contains(&shapes[0].dims()),
        // A dispatch for some of the images.
        "conv2d" | "conv2d_grad_x" | "conv2d_grad_w" => !case.name.starts_with("many images") && case.name != "many small images",
        _ => true,
    };
    match why.contains(&format!("but this device's limit is {limit}:")) && most > limit && may {
        true => Ok(()),
        false => Err(why.into()),
    }
}

fn shapes(case: &Case) -> Result<(Vec<Shape>, Shape), String> {
    let shapes: Vec<Shape> = case.inputs.iter().map(|i| i.0).collect();
    let y = case.op.shape(&shapes)?;
    Ok((shapes, y))
}

/// Abilities that choose each way to divide lines which this device can run.
fn ways(device: &Device) -> Vec<Caps> {
    let caps = *common::inner(device).caps();
    let with = |subgroups| [true, false].map(|software| Caps { software, subgroups, ..caps });
    let sizes = if caps.subgroups.is_some() { vec![None, caps.subgroups] } else { vec![None] };
    sizes.into_iter().flat_map(with).collect()
}

/// A NaN anywhere in a row is in what is made of the row, and nowhere else.
fn nan(device: &Device) -> Check {
    for n in [7usize, 45, 260, 4_100] {
        let g = Graph::training();
        let x = g.input([3, n]);
        let labels = g.constant(Host::labels([3], vec![0, 1, 2]));
        let loss = losses::cross_entropy(x, labels).none();
        let rows = [x.sum(&[1], false), x.mean(&[1], false), x.max(&[1], false), x.min(&[1], false), loss];
        let whole = [x.softmax(-1), x.log_softmax(-1), x.layer_norm("n"), loss.vjp(g.full([3], 1.0), &[x])[0]];
        let outputs: Vec<Tensor> = rows.into_iter().chain(whole).chain([x.argmax(-1), x.argmin(-1)]).collect();
        for caps in ways(device) {
            let options = plan::PlanOptions { caps: Some(caps), ..device.plan_options() };
            let mut f = Compiled::new(device, &outputs, &options, 0)?;
            for at in [0, 1, n / 2, n - 1] {
                let mut values = testing::fill(x.shape(), &Fill::Range(-1.0, 1.0), 3).f().to_vec();
                values[n + at] = f32::NAN;
                let y = f.run(&[Host::new([3, n], values)])?;
                let what = format!("{n} elements, NaN at {at}, {caps:?}");
                for (i, y) in y.iter().enumerate().take(rows.len() + whole.len()) {
                    let row = y.len() / 3;
                    assert!(y.f().iter().enumerate().all(|(k, v)| v.is_nan() == (k / row == 1)), "{what}: output {i} is {:?}", y.f());
                }
                assert!(y[y.len() - 2..].iter().all(|y| y.u()[1] as usize == at), "{what}");
            }
        }
    }
    Ok(())
}

/// The cases do what `small` is for: without this they might all fit one day, unnoticed.
fn exceeded() -> Check {
    let limits = small_limits(4);
    let caps = Caps {
        max_bindings: limits.max_bindings as usize,
        max_binding_bytes: limits.max_binding_bytes,
        max_workgroup_bytes: limits.max_workgroup_bytes,
        max_invocations: limits.max_invocations,
        ..Caps::default()
    };
    for (op, cases) in ops::all() {
        let (mut folded, mut split) = (0, 0);
        for case in &cases {
            let (shapes, y) = shapes(case)?;
            for kernel in case.op.kernels(&shapes, y, &caps) {
                for pass in &kernel.passes {
                    let groups = pass.units.div_ceil(pass.per_group);
                    folded += usize::from(groups > limits.max_workgroups as usize);
                    let over = pass.binds.iter().any(|bind| {
                        let elements = match bind.which {
                            Which::In(i) => shapes[i].elements(),
                            Which::Out => y.elements(),
                            Which::Scratch(k) => kernel.scratch[k],
                        };
                        bind.span != Span::Whole && elements as u64 * 4 > caps.max_binding_bytes
                    });
                    split += usize::from(over);
                }
            }
        }
        println!("{op}: {folded} passes fold, {split} split");
        let least = match op {
            "map" => (1, 1),
            "reduce" => (5, 5),
            "variance" | "comoment" | "norm" | "norm_grad" => (3, 3),
            "softmax" | "max_pool2d" => (1, 0),
            "matmul" => (30, 10),
            "max_pool2d_grad" | "resample" => (1, 1),
            "conv2d" | "conv2d_grad_x" | "conv2d_grad_w" => (3, 4),
            _ => (0, 0),
        };
        assert!(folded >= least.0 && split >= least.1, "{op}: {folded} passes fold, {split} split");
    }
    Ok(())
}

/// Expressions over tensors of 60,000 elements, which are more than one binding of `small` holds.
const LARGE: [&str; 26] = [
    "random column",
    "normal",
    "bias",
    "rows",
    "outer",
    "five inputs",
    "where",
    "uniform",
    "dropout",
    "labels",
    "sum",
    "sum over rows",
    "variance",
    "max",
    "softmax",
    "log_softmax over rows",
    "cross_entropy",
    "argmax",
    "pick",
    "permute",
    "slice",
    "concat",
    "layer_norm",
    "batch_norm",
    "group_norm of long lines",
    "rms_norm of long lines",
];

/// Value and gradient of one of them against the oracle.
fn large(name: &str, device: &Device) -> Check {
    let g = Graph::training();
    let (x, y, row, column) = (g.input([300, 200]), g.input([300, 200]), g.input([200]), g.input([300, 1]));
    let labels = g.labels([300]);
    let z = match name {
        "bias" => (x + row).tanh(),
        "rows" => x.exp() * column,
        "outer" => column * row,
        "five inputs" => (x * y + x.square() * row) * (column + y) + row * column,
        "where" => x.gt(y).where_(x * row, y),
        "uniform" => g.uniform([300, 200]) * x,
        "normal" => g.normal([300, 200]) * x,
        "random column" => g.uniform([300, 1]) * x + column,
        "dropout" => x.dropout(0.4),
        "labels" => x * labels.to_f32().unsqueeze(-1),
        "sum" => x.sum(&[1], false),
        "sum over rows" => x.mean(&[0], false),
        "variance" => x.variance(&[1], 0, true) * column,
        "max" => x.max(&[1], false),
        "softmax" => x.softmax(-1),
        "log_softmax over rows" => x.log_softmax(0),
        "cross_entropy" => losses::cross_entropy(x, labels).none(),
        "argmax" => x.argmax(-1).to_f32() + x.sum(&[1], false),
        "pick" => x.pick(labels),
        "permute" => x.transpose() * 2.0,
        "slice" => x.slice(0, 7, 293).exp(),
        "concat" => x.slice(0, 0, 10).concat(&[y], 0).slice(1, 1, 200),
        "layer_norm" => x.layer_norm("n") * row,
        "batch_norm" => x.reshape([6, 50, 200]).batch_norm("n").relu().reshape([300, 200]) * column,
        "group_norm of long lines" => x.reshape([1, 6, 10_000]).group_norm("n", 1).reshape([300, 200]) * column,
        "rms_norm of long lines" => x.reshape([60_000]).rms_norm("n").reshape([300, 200]) * column,
        other => panic!("{other}"),
    };
    let c = g.constant(testing::fill(z.shape(), &Fill::Range(-1.0, 1.5), 5));
    let outputs: Vec<Tensor> = std::iter::once(z).chain((z * c).sum_all().grad(&[x, y, row, column])).collect();
    let mut inputs: Vec<Host<f32>> =
        [x, y, row, column].iter().zip(1..).map(|(t, seed)| testing::fill(t.shape(), &Fill::Range(-2.0, 2.0), seed)).collect();
    inputs.push(testing::fill(labels.shape(), &Fill::Labels(200), 9));
    let result = testing::compare(&g, &outputs, &inputs, device, &device.plan_options(), 300);
    // These read elsewhere than they write, and say so where that is too much for one binding.
    if let ("log_softmax over rows" | "permute" | "slice" | "concat", Some(gpu)) = (name, device.as_gpu()) {
        let (why, limit) = (result.expect_err("it does not fit"), gpu.caps().max_binding_bytes);
        let op = if name.starts_with("log") { "softmax" } else { why.split(' ').next().unwrap_or("") };
        assert!(why.starts_with(op) && why.contains("(tests/ops.rs:"), "{why}");
        assert!(why.contains(&format!("needs 240000, but this device's limit is {limit}")), "{why}");
        return Ok(());
    }
    Ok(result?)
}
