//! Ops, one by one.

use crate::{
    On,
    table::{Rate, Table},
};
use downhill::{
    Compiled, Error, Graph, Host, Shape, Tensor, Trainer,
    init::Init,
    ops::{
        Fill,
        attention::Attention,
        conv2d::{Conv2dGradW, Conv2dGradX, Conv2dOp, Geometry},
    },
    optim::Adam,
    plan::{self, Plan},
    testing,
};

pub fn uniform(shape: impl Into<Shape>, seed: u64) -> Host<f32> {
    testing::fill(shape.into(), &Fill::Range(-1.0, 1.0), seed)
}

/// Runs `f` n times on what is loaded, and waits.
fn replay(f: &mut Compiled, n: usize) -> Result<(), Error> {
    (0..n).try_for_each(|_| f.launch())?;
    f.wait()
}

/// A row for a graph of some inputs.
fn graph(table: &mut Table, on: &On, row: &str, rate: Rate, inputs: &[Shape], write: impl for<'g> Fn(&[Tensor<'g>]) -> Tensor<'g>) {
    outputs(table, on, row, rate, &Graph::inference(), inputs, |x| vec![write(x)])
}

/// The same with several outputs. With `--candidates`, a row for every kernel of the last step, each in turn.
fn outputs<'g>(
    table: &mut Table,
    on: &On,
    row: &str,
    rate: Rate,
    g: &'g Graph,
    inputs: &[Shape],
    write: impl Fn(&[Tensor<'g>]) -> Vec<Tensor<'g>>,
) {
    let x: Vec<Tensor> = inputs.iter().map(|&s| g.input(s)).collect();
    let y = write(&x);
    let data: Vec<Host<f32>> = inputs.iter().enumerate().map(|(i, &s)| uniform(s, i as u64)).collect();
    for (name, options) in candidates(on, &y) {
        let row = if name.is_empty() { row.to_string() } else { format!("{row}: {name}") };
        let loaded = Compiled::new(&on.device, &y, &options, 0).and_then(|mut f| f.load(&data).map(|()| f));
        match loaded {
            Ok(mut f) => table.repeated(&row, rate, |n| replay(&mut f, n)),
            Err(error) => table.repeated(&row, rate, |_| Err(Error::clone(&error))),
        }
    }
}

/// How to lower these tensors: as the device does; where `--candidates` asks for it, by each kernel of the last step instead.
fn candidates(on: &On, y: &[Tensor]) -> Vec<(String, plan::PlanOptions)> {
    let options = on.device.plan_options();
    let name = |candidate: usize| -> Option<&'static str> {
        let plan = Plan::new(y, &[], &plan::PlanOptions { candidate: Some(candidate), ..options.clone() }).ok()?;
        plan.steps.last()?.kernel.as_ref().map(|kernel| kernel.name)
    };
    let mut all: Vec<(String, plan::PlanOptions)> = Vec::new();
    while let (true, Some(name)) = (on.candidates, name(all.len())) {
        // Beyond the last candidate it is that one again.
        if all.last().is_some_and(|(last, _)| last == name) {
            break;
        }
        all.push((name.to_string(), plan::PlanOptions { candidate: Some(all.len()), ..options.clone() }));
    }
    if all.is_empty() { vec![(String::new(), options)] } else { all }
}

/// The layers of the MLP: inputs and outputs.
pub const MLP: [(&str, usize, usize); 3] = [("fc1", 784, 512), ("fc2", 512, 256), ("fc3", 256, 10)];

pub fn matmul(table: &mut Table, on: &On) {
    table.open("matmul", "square, and the products of the MLP 784-512-256-10 at batch 1024; rows × inner × columns");
    let sizes: &[usize] = match (on.quick, on.software) {
        (true, _) => &[256, 512],
        (_, true) => &[256, 512, 1024],
        _ => &[256, 512, 1024, 2048],
    };
    let mut row = |name: &str, [m, k, n]: [usize; 3], ta: bool, tb: bool| {
        let side = |r: usize, c: usize, t: bool| Shape::from(if t { [c, r] } else { [r, c] });
        let inputs = [side(m, k, ta), side(k, n, tb)];
        let name = format!("{m} × {k} × {n}{name}");
        graph(table, on, &name, Rate::Flop(2.0 * (m * k * n) as f64), &inputs, |x| x[0].matmul_t(x[1], ta, tb));
    };
    for &n in sizes {
        row("", [n, n, n], false, false);
    }
    for (name, inputs, outputs) in MLP {
        row(&format!(" ({name}: x·Wᵀ)"), [1024, inputs, outputs], false, true);
    }
    if !on.quick {
        let (name, inputs, outputs) = MLP[0];
        row(&format!(" ({name}: dW = dyᵀ·x)"), [outputs, 1024, inputs], true, false);
        let (name, inputs, outputs) = MLP[1];
        row(&format!(" ({name}: dx = dy·W)"), [1024, outputs, inputs], false, false);
    }
    table.close();
}

/// The convolutions of a small network for images of digits, one of a larger network, and a depthwise one.
pub fn conv2d(table: &mut Table, on: &On) {
    table.open("conv2d", "3 × 3, padding 1: x [n, channels, height, width] → channels, forward and both gradients");
    let n = if on.quick || on.software { 16 } else { 128 };
    let shapes = [([n, 1, 28, 28], 32, 1), ([n, 32, 14, 14], 64, 1), ([n, 64, 56, 56], 64, 1), ([n, 64, 28, 28], 64, 64)];
    for (x, out, groups) in shapes {
        if on.quick && x[2] == 56 {
            continue;
        }
        let ([n, c, h, w], y) = (x, [x[0], out, x[2], x[3]]);
        let [x, y, weight] = [Shape::from(x), Shape::from(y), Shape::from([out, c / groups, 3, 3])];
        let geometry = Geometry { stride: [1, 1], dilation: [1, 1], padding: [1; 4], groups };
        let depthwise = if groups > 1 { ", depthwise" } else { "" };
        let mut row = |what: &str, inputs: [Shape; 2], op: &dyn for<'g> Fn(&[Tensor<'g>]) -> Tensor<'g>| {
            let rate = Rate::Flop((2 * y.elements() * 9 * c / groups) as f64);
            graph(table, on, &format!("[{n}, {c}, {h}, {w}] → {out}{depthwise}: {what}"), rate, &inputs, op);
        };
        row("forward", [x, weight], &|t| t[0].graph().apply(Conv2dOp { geometry, epilogue: None }, t));
        row("grad_x", [y, weight], &|t| t[0].graph().apply(Conv2dGradX { geometry, image: [h, w], epilogue: None }, t));
        row("grad_w", [x, y], &|t| t[0].graph().apply(Conv2dGradW { geometry, kernel: [3, 3] }, t));
    }
    table.close();
}

/// Products of a pair of a query and a key: two forward, five more backward (Dao et al. 2022); half of the pairs are causal.
pub fn attention(table: &mut Table, on: &On) {
    table.open("attention", "softmax(q·kᵀ/√d)·v; heads of a batch × positions × features; backward by its own recomputation");
    let sizes: &[[usize; 3]] = match (on.quick, on.software) {
        (true, _) => &[[8, 128, 32]],
        (_, true) => &[[8, 128, 32], [8, 256, 64]],
        _ => &[[8, 128, 32], [64, 256, 64], [16, 1024, 64], [4, 2048, 128]],
    };
    for &[heads, n, d] in sizes {
        for causal in [false, true] {
            let options = Attention { causal, ..Attention::default() };
            let name = |what: &str| format!("{heads} × {n} × {d}{}{what}", if causal { ", causal" } else { "" });
            let pairs = if causal { n * (n + 1) / 2 } else { n * n };
            let flop = |products: usize| Rate::Flop((2 * heads * pairs * d * products) as f64);
            let inputs = [Shape::from([heads, n, d]); 4];
            graph(table, on, &name(""), flop(2), &inputs[..3], |x| x[0].scaled_dot_product_attention(x[1], x[2], options));
            graph(table, on, &name(", with gradients"), flop(7), &inputs, |x| {
                let y = x[0].scaled_dot_product_attention(x[1], x[2], options);
                y.vjp(x[3], &x[..3]).into_iter().fold(y, |sum, grad| sum + grad)
            });
        }
    }
    table.close();
}

pub fn elementwise(table: &mut Table, on: &On) {
    table.open("elementwise", "relu(a·x + b), one kernel; 8 bytes an element");
    for (name, n) in [("1 Mi", 1usize << 20), ("16 Mi", 1 << 24)] {
        graph(table, on, name, Rate::Bytes(8.0 * n as f64), &[Shape::from([n])], |x| (x[0] * 1.5 + 0.25).relu());
    }
    table.close();
}

pub fn reduction(table: &mut Table, on: &On) {
    table.open("reduction", "4 bytes an element");
    let n = 1usize << 24;
    graph(table, on, "sum of 16 Mi", Rate::Bytes(4.0 * n as f64), &[Shape::from([n])], |x| x[0].sum_all());
    for [rows, columns] in [[1024usize, 512], [4096, 4096]] {
        let name = format!("sums of the columns of [{rows}, {columns}]");
        let bytes = Rate::Bytes(4.0 * (rows * columns) as f64);
        graph(table, on, &name, bytes, &[Shape::from([rows, columns])], |x| x[0].sum(&[0], false));
    }
    table.close();
}

/// Forward and backward in a training graph, with layer and parameters. The kernels must read and write x → y, then
/// dy, x → dx.
pub fn normalisation(table: &mut Table, on: &On) {
    table.open("normalisation", "forward and backward; 20 bytes an element");
    type Layer = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
    let rows: [(&str, &[usize], Layer); 4] = [
        ("layer_norm [4096, 1024]", &[4096, 1024], |x| x.layer_norm("n")),
        ("rms_norm [4096, 1024]", &[4096, 1024], |x| x.rms_norm("n")),
        ("batch_norm [128, 64, 32, 32]", &[128, 64, 32, 32], |x| x.batch_norm("n")),
        ("group_norm [32, 64, 32, 32] in 8", &[32, 64, 32, 32], |x| x.group_norm("n", 8)),
    ];
    for (name, dims, layer) in rows {
        let shape = Shape::new(dims).expect("at most six axes");
        let g = Graph::training();
        outputs(table, on, name, Rate::Bytes(20.0 * shape.elements() as f64), &g, &[shape, shape], |x| {
            let y = layer(x[0]);
            // The trained parameters only. Running statistics come after them.
            let sources = [&x[..1], &g.param_tensors()[..if name.starts_with("rms") { 1 } else { 2 }]].concat();
            std::iter::once(y).chain(y.vjp(x[1], &sources)).collect()
        });
    }
    table.close();
}

/// The update alone, with gradients that are there: Adam reads four words an element and writes three; a GPU reads one more
/// before, to check that all are finite.
pub fn optimizer(table: &mut Table, on: &On) {
    table.open("optimizer", "Adam: weights and states updated; 28 bytes a parameter, a GPU reads 4 more to check gradients");
    let sizes: &[(&str, usize)] = if on.quick { &[("4 Mi", 1 << 22)] } else { &[("16 Mi", 1 << 24), ("50 M", 50_000_000)] };
    for &(name, n) in sizes {
        let made = (|| {
            let g = Graph::training();
            let w = g.param("w", [n], Init::Uniform { low: -0.05, high: 0.05 });
            let mut trainer = Trainer::new(&on.device, w.sum_all(), Adam::new(1e-3))?;
            trainer.apply_gradients(&[("w", testing::fill(Shape::from([n]), &Fill::Range(-0.01, 0.01), 1))])?;
            Ok(trainer)
        })();
        let (row, rate) = (format!("{name} parameters"), Rate::Bytes(28.0 * n as f64));
        match made {
            Ok(mut trainer) => table.repeated(&row, rate, |n| again(&mut trainer, n)),
            Err(error) => table.repeated(&row, rate, |_| Err(Error::clone(&error))),
        }
    }
    table.close();
}

/// Makes n steps on what is on the device, and waits for the last one.
pub fn again(trainer: &mut Trainer, n: usize) -> Result<(), Error> {
    (0..n).try_for_each(|_| trainer.step_again())?;
    trainer.take_reports().map(drop)
}
