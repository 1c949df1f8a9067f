//! `Tensor::checkpoint`: the same numbers as without, in less memory.

mod common;

use common::{BOTH, Check, Suite, bits, weights};
use downhill::{
    Device, Error, Graph, Host, Tensor, Trainer,
    init::Init,
    layers::{Recurrent, TransformerEncoderLayer},
    losses,
    ops::Fill,
    optim::Adam,
    plan::{Memory, Plan, PlanOptions},
    testing,
};

fn main() {
    let mut suite = Suite::new();
    suite.each(&BOTH, "values and gradients", gradients);
    suite.each(&BOTH, "training", training);
    suite.each(&BOTH, "against the oracle", oracle);
    suite.each(&BOTH, "second derivatives", second_derivatives);
    suite.each(&BOTH, "memory of perceptrons", perceptrons);
    suite.each(&BOTH, "memory of transformers", transformers);
    suite.test("constants", fills);
    suite.test("gradients twice", twice);
    suite.test("what is recomputed, and when", late);
    suite.test("nothing without a gradient", inference);
    suite.test("mistakes", mistakes);
    suite.run()
}

/// How a model's parts are run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Kept,
    /// Each block.
    Parts,
    /// Groups of blocks, and each block in them.
    Nested,
}

fn part<'g>(mode: Mode, x: Tensor<'g>, f: impl FnOnce(Tensor<'g>) -> Tensor<'g>) -> Tensor<'g> {
    if mode == Mode::Kept { f(x) } else { x.checkpoint(f) }
}

/// `n` blocks one after the other; nested, in groups of `group`.
fn blocks<'g>(mode: Mode, x: Tensor<'g>, n: usize, group: usize, block: impl Fn(Tensor<'g>, usize) -> Tensor<'g>) -> Tensor<'g> {
    let some = |x, from: usize, to: usize| (from..to).fold(x, |x, i| part(mode, x, |x| block(x, i)));
    match mode {
        Mode::Nested => (0..n).step_by(group).fold(x, |x, i| x.checkpoint(|x| some(x, i, n.min(i + group)))),
        _ => some(x, 0, n),
    }
}

type Model = for<'g> fn(Mode, Tensor<'g>) -> Tensor<'g>;

/// Inputs `[6, 5, 8]`, whatever comes out.
const MODELS: [(&str, Model); 7] = [
    ("perceptron", |mode, x| blocks(mode, x, 5, 2, |x, i| x.linear(&format!("a{i}"), 16).tanh().dropout(0.3).linear(&format!("b{i}"), 8))),
    ("transformer", |mode, x| {
        let options = TransformerEncoderLayer { norm_first: true, causal: true, gelu: true, ..TransformerEncoderLayer::default() };
        blocks(mode, x, 4, 2, |x, i| x.transformer_encoder_layer_with(&format!("t{i}"), 2, 16, options))
    }),
    ("images", |mode, x| {
        blocks(mode, x.reshape([6, 1, 5, 8]), 4, 2, |x, i| {
            x.conv2d(&format!("c{i}"), 4, 3).batch_norm(&format!("n{i}")).relu().dropout2d(0.2).pad(2, 1, 1).pad(3, 1, 1)
        })
    }),
    ("recurrent", |mode, x| {
        blocks(mode, x, 3, 2, |x, i| {
            let cell = x.lstm_with(&format!("l{i}"), 8, Recurrent::default());
            cell.output * 0.5 + cell.c.reshape([6, 1, 8])
        })
    }),
    ("captured and shared", |mode, x| {
        // A parameter of all parts, an activation and a part's own result that others read from outside, and what no gradient goes into.
        let scale = x.graph().param("scale", [8], Init::Constant(0.7));
        let skip = (x * scale).sigmoid();
        let mut inner = skip;
        let y = blocks(mode, x, 4, 2, |x, i| {
            let h = x.linear("shared", 8).sin() * scale + skip;
            h + h.exp().detach() * x.linear(&format!("own{i}"), 8)
        });
        let z = part(mode, y, |y| {
            inner = (y * 0.1).exp();
            inner.tanh().square()
        });
        z + inner * z + y
    }),
    ("parts with several consumers", |mode, x| {
        let a = part(mode, x, |x| x.linear("a", 8).softmax(-1).dropout(0.5));
        let b = part(mode, a, |x| x.matmul(a.permute(&[0, 2, 1])).tanh());
        let c = part(mode, a, |x| b.matmul(x).layer_norm("c"));
        a * c + b.sum(&[2], true) * c.cos()
    }),
    ("one part that does nothing, and the whole as one", |mode, x| {
        let x = part(mode, x, |x| x);
        part(mode, x, |x| blocks(mode, x, 3, 1, |x, i| x.linear(&format!("a{i}"), 8).silu().max(&[1], true) + x))
    }),
];

fn input() -> Host<f32> {
    testing::fill([6, 5, 8].into(), &Fill::Range(-1.0, 1.0), 1)
}

fn loss<'g>(g: &'g Graph, model: Model, mode: Mode) -> Tensor<'g> {
    let y = model(mode, g.input([6, 5, 8]));
    (y.square() * 0.5 + y).mean_all()
}

/// The loss, the gradients, and what the state becomes.
fn gradients(device: &Device) -> Check {
    for (name, model) in MODELS {
        let mut want: Option<Vec<Host<f32>>> = None;
        for mode in [Mode::Kept, Mode::Parts, Mode::Nested] {
            let g = Graph::training();
            let loss = loss(&g, model, mode);
            let outputs = [vec![loss], loss.grad(&g.param_tensors())].concat();
            let got = device.compile(&outputs)?.run(&[input()])?;
            let want = want.get_or_insert_with(|| got.clone());
            assert_eq!(got.len(), want.len());
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                assert_eq!(bits(got.f()), bits(want.f()), "{name} {mode:?}, output {i}");
            }
        }
    }
    Ok(())
}

/// 20 steps end with the same weights and running averages.
fn training(device: &Device) -> Check {
    for (name, model) in MODELS {
        let mut want = None;
        for mode in [Mode::Kept, Mode::Parts, Mode::Nested] {
            let g = Graph::training();
            let mut trainer = Trainer::new(device, loss(&g, model, mode), Adam::new(1e-2))?;
            let start = weights(&trainer)?;
            for _ in 0..20 {
                trainer.step(&[input()])?;
            }
            let got = weights(&trainer)?;
            assert!(got.iter().zip(&start).all(|(got, start)| got != start), "{name} {mode:?}: something does not train");
            assert_eq!(&got, want.get_or_insert_with(|| got.clone()), "{name} {mode:?}");
        }
    }
    Ok(())
}

/// The oracle computes the copies like any other node, in a graph that is not fused.
fn oracle(device: &Device) -> Check {
    for (name, model) in MODELS {
        let g = Graph::training();
        let loss = loss(&g, model, Mode::Nested);
        let outputs = [vec![loss], loss.grad(&g.param_tensors()).into_iter().map(|d| d + 0.5).collect()].concat();
        for (fuse, reuse) in [(true, true), (false, true)] {
            let options = PlanOptions { fuse, reuse, ..device.plan_options() };
            testing::compare(&g, &outputs, &[input()], device, &options, 1 << 12).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

/// A penalty on the gradient, of which the gradient is taken; outside of parts and in a part.
fn second_derivatives(device: &Device) -> Check {
    let mut all: Vec<Vec<Host<f32>>> = Vec::new();
    for (mode, inside) in [(Mode::Kept, false), (Mode::Parts, false), (Mode::Nested, false), (Mode::Parts, true)] {
        let g = Graph::training();
        let x = g.input([6, 5, 8]);
        let penalty = |x| {
            let y: Tensor = blocks(mode, x, 3, 2, |x, i| x.linear(&format!("a{i}"), 8).tanh().dropout(0.2) + x);
            let dx = y.square().sum_all().grad(&[x])[0];
            dx.square().mean_all() + y.mean_all()
        };
        let loss = if inside { x.checkpoint(penalty) } else { penalty(x) };
        let outputs = [vec![loss], loss.grad(&g.param_tensors())].concat();
        testing::compare(&g, &outputs, &[input()], device, &device.plan_options(), 1 << 12)?;
        all.push(device.compile(&outputs)?.run(&[input()])?);
    }
    for got in &all[1..] {
        for (got, want) in got.iter().zip(&all[0]) {
            // The second gradient comes to a node and to its copy on ways of their own: the same parts are added in another order.
            testing::close(&got.to_f64(), &want.to_f64(), 1 << 8)?;
        }
    }
    Ok(())
}

/// Two gradients of one loss are computed from one copy, and are those of one call.
fn twice() -> Check {
    let g = Graph::training();
    let loss = loss(&g, MODELS[0].1, Mode::Nested);
    let params = g.param_tensors();
    let once = Plan::new(&loss.grad(&params), &[], &PlanOptions::new(None))?.steps.len();
    let again: Vec<Tensor> = params.iter().map(|&p| loss.grad(&[p])[0]).collect();
    assert_eq!(Plan::new(&again, &[], &PlanOptions::new(None))?.steps.len(), once);
    Ok(())
}

/// Products of matrices: those of the forward pass, then of each block from the last, those that are recomputed and those of the
/// gradient. The second product of a block is needed by no gradient.
fn late() -> Check {
    let g = Graph::training();
    let x = g.input([4, 8]);
    let y = (0..3).fold(x, |x, i| x.checkpoint(|x| x.linear(&format!("a{i}"), 16).tanh().linear(&format!("b{i}"), 8)));
    let plan = Plan::new(&y.square().mean_all().grad(&g.param_tensors()), &[], &PlanOptions::new(None))?;
    let layers: Vec<&str> = plan.steps.iter().filter(|s| s.name() == "matmul").map(|s| s.layer.as_str()).collect();
    // The first product again, those of the gradient of b (the one for the input has the gradient of tanh in it, which is of a), and of
    // a: a0 has but one of these, because its input has no gradient.
    let want = ["a0 b0 a1 b1 a2 b2", "a2 b2 a2 a2 a2", "a1 b1 a1 a1 a1", "a0 b0 a0 a0"].join(" ");
    assert_eq!(layers.join(" "), want, "{plan}");
    Ok(())
}

/// Parts change nothing where no gradient is taken.
fn inference() -> Check {
    for (_, model) in MODELS {
        let plan = |mode| {
            let g = Graph::inference();
            let y = model(mode, g.input([6, 5, 8]));
            Ok::<String, Error>(Plan::new(&[y], &[], &PlanOptions::new(None))?.to_string())
        };
        assert_eq!(plan(Mode::Kept)?, plan(Mode::Nested)?);
    }
    Ok(())
}

fn mistakes() -> Check {
    let of = |error: Option<Error>| match error {
        Some(Error::Op { op, place, .. }) => (op, place.line()),
        other => panic!("{other:?}"),
    };
    // A mistake in the part, at its line; what comes after is dead.
    let g = Graph::training();
    let x = g.input([2, 3]);
    let y = x.checkpoint(|x| x.checkpoint(|x| x.matmul(x))).tanh();
    assert_eq!(of(g.error()), ("matmul".to_string(), line!() - 1));
    assert!(matches!(Device::cpu().compile(&y.grad(&[x])), Err(Error::Op { .. })));
    // A part of a dead tensor is dead; the first mistake counts.
    assert_eq!(y.checkpoint(|y| y.relu()).shape().rank(), 0);
    assert_eq!(of(g.error()).0, "matmul");
    // A tensor of another graph, read in the part and returned by it.
    let (g, other) = (Graph::training(), Graph::training());
    let (x, z) = (g.input([2]), other.input([2]));
    let _ = x.checkpoint(|x| x + z);
    assert_eq!(of(g.error()), ("add".to_string(), line!() - 1));
    let g = Graph::training();
    let x = g.input([2]);
    let _ = x + x.checkpoint(|_| z);
    assert_eq!(of(g.error()), ("add".to_string(), line!() - 1));
    Ok(())
}

/// MiB of a training step's slots for 4, 16 and 64 blocks: all kept, each a part, and in groups of √n. No byte more than must exist.
fn mib(device: &Device, shape: [usize; 3], block: for<'g> fn(Tensor<'g>, usize) -> Tensor<'g>) -> Result<[[f64; 3]; 3], Error> {
    let mut table = [[0.0; 3]; 3];
    for (row, mode) in table.iter_mut().zip([Mode::Kept, Mode::Parts, Mode::Nested]) {
        for (cell, (n, group)) in row.iter_mut().zip([(4, 2), (16, 4), (64, 8)]) {
            let g = Graph::training();
            let y = blocks(mode, g.input(shape), n, group, block);
            let memory = Memory::of(device, losses::mse(y, g.input(shape)).mean(), Adam::new(1e-3))?;
            assert_eq!(memory.planned, memory.live);
            *cell = memory.planned as f64 / f64::from(1 << 20);
        }
    }
    Ok(table)
}

/// Checks how memory falls. If n blocks are stored, each takes `block` MiB. Recomputed parts take `border` MiB for each block, and
/// nested parts for each of 2·√n blocks. The rest is the memory of one block and its gradient, for any number of blocks.
fn falls(table: [[f64; 3]; 3], border: f64, block: f64) {
    let [kept, parts, nested] = table;
    for (k, (n, root)) in [(4.0, 2.0), (16.0, 4.0), (64.0, 8.0)].into_iter().enumerate() {
        assert!(kept[k] >= n * block, "{table:?}");
        assert!(parts[k] <= n * border + 2.0 * block, "{table:?}");
        assert!(nested[k] <= 2.0 * root * border + 2.0 * block, "{table:?}");
    }
}

fn perceptrons(device: &Device) -> Check {
    // The input of a block, and inside two tensors of four times its size.
    let table = mib(device, [8, 128, 256], |x, i| {
        let h = x.linear(&format!("block{i}.fc1"), 1024).gelu().dropout(0.1);
        x + h.linear(&format!("block{i}.fc2"), 256)
    })?;
    falls(table, 1.0, 9.0);
    Ok(())
}

fn transformers(device: &Device) -> Check {
    let table = mib(device, [8, 128, 128], |x, i| {
        let options = TransformerEncoderLayer { norm_first: true, gelu: true, ..TransformerEncoderLayer::default() };
        x.transformer_encoder_layer_with(&format!("block{i}"), 4, 512, options)
    })?;
    falls(table, 0.5, 10.0);
    Ok(())
}

/// Fills are constants of a plan, one for all parts.
fn fills() -> Check {
    let constants = |mode| {
        let g = Graph::training();
        let recurrent = MODELS.iter().find(|m| m.0 == "recurrent").expect("it is there").1;
        Memory::of(&Device::cpu(), loss(&g, recurrent, mode), Adam::new(1e-3)).map(|m| m.constants)
    };
    let kept = constants(Mode::Kept)?;
    assert!(kept > 0);
    assert_eq!(constants(Mode::Parts)?, kept);
    assert_eq!(constants(Mode::Nested)?, kept);
    Ok(())
}
