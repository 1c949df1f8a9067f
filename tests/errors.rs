//! Bad input gives a typed error before any step runs. The error names the op, the shapes and the line, or the row, the limit or
//! the file. No mistake of a user makes the library panic.

#[path = "errors/any_batch.rs"]
mod any_batch;
mod common;
#[path = "errors/own_ops.rs"]
mod own_ops;
#[path = "errors/places.rs"]
mod places;

use common::{BOTH, Check, On, Suite, weights};
use downhill::{
    Device, Error, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{self, Dataset, Target},
    host::Data,
    init::Init,
    layers::Linear,
    losses,
    optim::{
        Adadelta, Adagrad, Adam, AdamW, Adamax, GroupOptions, Lamb, Lars, Lion, NAdam, Optimizer, RAdam, RmsProp, Scaling, Schedule, Sgd,
    },
};
use std::sync::Arc;

fn main() {
    let mut suite = Suite::new();
    for (name, check) in [
        ("mistakes in a graph", mistakes as fn() -> Check),
        ("the line of every method", places::every_method),
        ("settings of ops and losses", settings),
        ("sizes", sizes),
        ("tensors of different graphs", mixed),
        ("gradients", gradients),
        ("gradients of an op of your own", own_ops::gradients),
        ("shapes of an op of your own", own_ops::shapes),
        ("models for any batch size", any_batch::check),
        ("adapters", adapters),
        ("optimizers", optimizers),
        ("hosts that lie", lying_hosts),
    ] {
        suite.test(name, check);
    }
    suite.each(&BOTH, "constants that are not finite", not_finite);
    suite.each(&BOTH, "inputs", inputs);
    suite.each(&BOTH, "a batch size that was chosen", any_batch::chosen);
    suite.each(&BOTH, "labels", labels);
    suite.each(&BOTH, "losses of a trainer", trainer_losses);
    suite.each(&BOTH, "batch sizes and data", batches);
    suite.each(&BOTH, "data that is not finite", data_not_finite);
    suite.each(&BOTH, "names of parameters", parameter_names);
    suite.each(&BOTH, "parameters and files", parameters);
    suite.each(&BOTH, "checkpoints", checkpoints);
    suite.each(&BOTH, "odd graphs that work", odd);
    suite.each(&[On::Small], "limits", limits);
    suite.each(&[On::Pieces], "buffers of training", training_limits);
    suite.run()
}

/// The error must be there, and start and go on like this.
fn expect(what: &str, error: Option<Error>, parts: &[&str]) -> Check {
    let Some(error) = error else { return Err(format!("{what}: no error").into()) };
    let text = error.to_string();
    match parts.iter().enumerate().find(|&(i, part)| if i == 0 { !text.starts_with(part) } else { !text.contains(part) }) {
        Some((_, part)) => Err(format!("{what}: `{text}` has no `{part}`").into()),
        None => Ok(()),
    }
}

/// How the error of a mistake starts, and the mistake.
type Mistakes = Vec<(&'static str, fn(&Graph) -> Tensor)>;

macro_rules! mistakes {
    ($($text:literal: |$g:ident| $make:expr;)*) => {
        vec![$(($text, (|$g| $make) as fn(&Graph) -> Tensor)),*]
    };
}

/// Makes each mistake in a graph of its own and checks the error, that what follows it changes nothing, and that whoever
/// wants to run the graph gets it.
fn check_mistakes(all: Mistakes) -> Check {
    let source: Vec<&str> = include_str!("errors.rs").lines().collect();
    for (text, make) in all {
        let g = Graph::training();
        let bad = make(&g);
        let Some(error @ Error::Op { .. }) = bad.error() else { return Err(format!("{:?} instead of `{text}`", bad.error()).into()) };
        let message = error.to_string();
        // `… (tests/errors.rs:123)`, and on that line is the mistake: the text is beside it.
        let place = message.rsplit_once(" (tests/errors.rs:").and_then(|(_, at)| at.trim_end_matches(')').parse::<usize>().ok());
        let line = place.and_then(|at| source.get(at - 1)).unwrap_or(&"nowhere");
        if !message.starts_with(text) || !line.contains(&format!("\"{text}\"")) {
            return Err(format!("`{message}` instead of `{text}`, on this line:\n{line}").into());
        }
        go_on(&g, bad);
        assert_eq!(g.error().map(|e| e.to_string()), Some(message.clone()), "the first mistake counts");
        let same = |error: Option<Error>| error.map(|e| e.to_string()) == Some(message.clone());
        assert!(same(Device::cpu().compile(&[bad]).err()) && same(Trainer::new(&Device::cpu(), bad, Sgd::new(0.1)).err()), "{message}");
    }
    Ok(())
}

/// Everything there is, on a dead tensor and with one: none of it panics.
fn go_on<'g>(g: &'g Graph, dead: Tensor<'g>) {
    let (x, labels) = (g.input([2, 3]), g.labels([2]));
    for (a, b) in [(dead, dead), (dead, x), (x, dead), (dead, labels), (labels, dead)] {
        let _ = (a + b, a - b, a * b, a / b, -a, a + 1.0, 1.0 - b, a.pow(b), a.maximum(b), a.eq(b), a.where_(b, a), a.where_(1.0, b));
        let _ = (a.powf(1.7), a.clamp(0.0, 1.0), a.elu(1.0), a.leaky_relu(0.1), a.gelu(), a.dropout(0.5), a.detach(), a.to_f32());
        let _ = (a.matmul(b), a.matmul_t(b, true, true), a.linear("fc", 4), a.sum_all(), a.mean(&[0], true), a.max(&[-1], false));
        let _ = (a.variance(&[0], 1, false), a.std(&[0], 0, true), a.logsumexp(&[1], false), a.argmax(0), a.argmin(-1), a.softmax(0));
        let _ = (a.log_softmax(1), a.reshape([6]), a.flatten(), a.unsqueeze(0), a.squeeze(0), a.permute(&[1, 0]), a.transpose());
        let _ = (a.concat(&[b], 0), a.slice(0, 0, 1), a.pad(0, 1, 1), a.pick(b), a.one_hot(3), a.gather_rows(b), a.broadcast_to([2, 3]));
        let _ = (a.gather(0, b), b.sort(0, true), a.topk(1, 0, true), a.to_index(), a.argsort(0, false), a * 2, 2 - a);
        let _ = (a.masked_fill(b, 1.0), a.normalize(0), a.cosine_similarity(b, 0), a.slice_step(0, 0, 1, 2), a.einsum("ij,jk->ik", &[b]));
        let _ = (
            a.ctc_loss(b, a, b, 0),
            a.adaptive_max_pool2d([1, 1]),
            a.max_pool2d_with_indices(1, downhill::ops::max_pool2d::MaxPool::default()),
        );
        let _ = (
            losses::triplet_margin(a, b, a, 1.0).mean(),
            losses::gaussian_nll(a, b, b).sum(),
            losses::cosine_embedding(a, b, a, 0.0).none(),
        );
        let _ = (losses::bce_with_logits(a, a).pos_weight(b).mean(), losses::margin_ranking(a, b, a, 0.0).mean(), a.hinge(b));
        let _ = (a.mse(b), a.mae(b), a.huber(b, 1.0), a.bce(b), a.bce_with_logits(b), a.kl_div(b), a.cross_entropy(b), a.nll(b));
        let _ = losses::cross_entropy(a, b).label_smoothing(0.1).class_weights(b).sample_weights(a).mean();
        let _ = losses::cross_entropy_soft(a, b).label_smoothing(0.1).class_weights(a).sample_weights(b).batch_mean();
        let _ = losses::nll(a, b).class_weights(b).sum();
        let _ = (a.grad(&[b]), a.vjp(b, &[x, dead]), a.shape(), a.dim(-1), a.dim(9), a.error(), format!("{a:?}"));
    }
    let _ = (g.scalar(1.0), g.full([2], 0.0), g.uniform([2]), g.normal([2]), g.param("p", [2], Init::Zeros), g.param_tensors());
    let _ = g.constant(Host::new([2], vec![1.0, 2.0]));
}

fn mistakes() -> Check {
    check_mistakes(mistakes! {
        "matmul: [64, 784] × [512, 10]: inner dimensions 784 and 512 differ": |g| g.input([64, 784]).matmul(g.input([512, 10]));
        "matmul: [784, 64] × [784, 10]: inner dimensions 64 and 784 differ": |g| g.input([784, 64]).matmul(g.input([784, 10]));
        "matmul: [] × [4, 2]: input 0 is not a matrix": |g| g.input([]).matmul(g.input([4, 2]));
        "matmul: u32 [4, 4] × [4, 2]: input 0 holds labels": |g| g.labels([4, 4]).matmul(g.input([4, 2]));
        "matmul: [2, 3, 4] × [3, 4, 5]: ": |g| g.input([2, 3, 4]).matmul(g.input([3, 4, 5]));
        "add: [2, 3] × [2]: shape [2] (input 1) does not broadcast with [2, 3]": |g| g.input([2, 3]) + g.input([2]);
        "maximum: [2, 3] × [4, 3]: shape [4, 3] (input 1) does not broadcast": |g| g.input([2, 3]).maximum(g.input([4, 3]));
        "where: [2] × [3] × [2]: ": |g| g.input([2]).where_(g.input([3]), g.input([2]) + 1.0);
        "broadcast_to: [2, 3]: does not broadcast to [2]": |g| g.input([2, 3]).broadcast_to([2]);
        "reshape: [2, 3]: 6 elements do not fill [4], which has 4": |g| g.input([2, 3]).reshape([4]);
        "reshape: [2, 3]: 6 elements do not fill": |g| g.input([2, 3]).reshape([usize::MAX, usize::MAX]);
        "reshape: [2, 3]: ": |g| g.input([2, 3]).reshape([6, 0]);
        "permute: [2, 3]: [0, 0] does not name each of the 2 axes once": |g| g.input([2, 3]).permute(&[0, 0]);
        "permute: [2, 3]: ": |g| g.input([2, 3]).permute(&[0, 1, 2, 3, 4, 5, 6, 7]);
        "permute: [2, 3]: ": |g| g.input([2, 3]).permute(&[]);
        "transpose: [3]: fewer than two axes": |g| g.input([3]).transpose();
        "unsqueeze: [1, 1, 1, 1, 1, 1]: more than 6 axes": |g| g.input([1; 6]).unsqueeze(0);
        "unsqueeze: [2]: there is no position 3 for a new axis": |g| g.input([2]).unsqueeze(3);
        "squeeze: [2, 3]: axis 0 has size 2, not 1": |g| g.input([2, 3]).squeeze(0);
        "squeeze: [2, 3]: there is no axis 2": |g| g.input([2, 3]).squeeze(2);
        "concat: [2, 3] × [2, 4]: [2, 4] (input 1) differs from [2, 3] in more than axis 0": |g| g.input([2, 3]).concat(&[g.input([2, 4])], 0);
        "concat: [2, 3] × u32 [2, 3]: ": |g| g.input([2, 3]).concat(&[g.labels([2, 3])], 0);
        "concat: [2, 3]: there is no axis 2": |g| g.input([2, 3]).concat(&[], 2);
        "slice: [2, 3]: 1..4 ends past axis 1": |g| g.input([2, 3]).slice(1, 1, 4);
        "slice: [2, 3]: 2..1 holds nothing": |g| g.input([2, 3]).slice(1, 2, 1);
        "pad: [2, 3]: there is no axis 5": |g| g.input([2, 3]).pad(5, 1, 1);
        "sum: [2, 3]: there is no axis 2": |g| g.input([2, 3]).sum(&[2], false);
        "mean: [2, 3]: axis -1 is named twice": |g| g.input([2, 3]).mean(&[1, -1], false);
        "max: u32 [2]: takes floats, not labels": |g| g.labels([2]).max(&[0], false);
        "sum: u32 [2]: takes floats, not labels": |g| g.labels([2]).sum_all();
        "variance: [2, 3]: 3 elements with a correction of 3": |g| g.input([2, 3]).variance(&[1], 3, false);
        "logsumexp: [2, 3]: there is no axis -3": |g| g.input([2, 3]).logsumexp(&[-3], false);
        "softmax: [2, 3]: there is no axis 2": |g| g.input([2, 3]).softmax(2);
        "log_softmax: []: there is no axis -2": |g| g.scalar(1.0).log_softmax(-2);
        "argmax: [2, 3]: there is no axis -3": |g| g.input([2, 3]).argmax(-3);
        "softmax: u32 [2]: takes floats, not labels": |g| g.labels([2]).softmax(0);
        "pick: [2, 3] × u32 [3]: the labels should have the shape u32 [2]": |g| g.input([2, 3]).pick(g.labels([3]));
        "pick: [2, 3] × [2]: the labels must be integers": |g| g.input([2, 3]).pick(g.input([2]));
        "one_hot: [2]: takes labels, not floats": |g| g.input([2]).one_hot(3);
        "gather_rows: [] × u32 [2]: ": |g| g.scalar(2.0).gather_rows(g.labels([2]));
        "gather_rows: [5, 2] × [2]: the indices must be integers": |g| g.input([5, 2]).gather_rows(g.input([2]));
        "cross_entropy: [8, 10] × [8]: the labels must be integers": |g| g.input([8, 10]).cross_entropy(g.input([8]));
        "cross_entropy: [8, 10] × u32 [7]: the labels should have the shape u32 [8]": |g| g.input([8, 10]).cross_entropy(g.labels([7]));
        "cross_entropy: [8, 10] × u32 [8, 1]: ": |g| g.input([8, 10]).cross_entropy(g.labels([8, 1]));
        "cross_entropy_soft: [8, 10] × [8, 9]: ": |g| g.input([8, 10]).cross_entropy_soft(g.input([8, 9]));
        "pick: [8, 10] × u32 [9]: ": |g| g.input([8, 10]).nll(g.labels([9]));
        "mse: [8] × [8, 1]: prediction and target must have the same shape": |g| g.input([8]).mse(g.input([8, 1]));
        "bce: [8, 1] × [8]: ": |g| g.input([8, 1]).bce(g.input([8]));
        "kl_div: [8] × [4]: ": |g| g.input([8]).kl_div(g.input([4]));
        "linear: []: there is no axis to transform": |g| g.scalar(1.0).linear("fc", 3);
        "matmul: u32 [8, 4] × fc.weight [3, 4]: input 0 holds labels": |g| g.labels([8, 4]).linear("fc", 3);
        "param: [3, 4] × [3, 5]: `fc.weight` already has the shape [3, 4]": |g| g.input([2, 4]).linear("fc", 3) + g.input([2, 5]).linear("fc", 3);
        "constant: [2, 2]: 3 values do not fill that shape": |g| g.constant(Host::new([2, 2], vec![1.0; 3]));
        "grad: [2]: a gradient is taken of a single number": |g| g.input([2]).grad(&[g.input([2])])[0];
        "dim: [2, 3]: there is no axis 2": |g| { let _ = g.input([2, 3]).dim(2); g.input([1]) };
    })?;
    // In a chain it is the line of the method.
    let g = Graph::training();
    let bad = g
        .input([4, 8])
        .linear("a", 16)
        .reshape([4, 4, 5]) // here
        .relu();
    let here = include_str!("errors.rs").lines().position(|line| line.ends_with(".reshape([4, 4, 5]) // here")).expect("above");
    expect(
        "a chain",
        bad.error(),
        &["reshape: [4, 16]: 64 elements do not fill [4, 4, 5], which has 80", &format!("errors.rs:{})", here + 1)],
    )
}

fn settings() -> Check {
    check_mistakes(mistakes! {
        "dropout: [2]: p = 1.5 is not in 0..=1": |g| g.input([2]).dropout(1.5);
        "dropout: [2]: p = NaN is not in 0..=1": |g| g.input([2]).dropout(f32::NAN);
        "dropout: [2]: p = -0.1 is not in 0..=1": |g| g.input([2]).dropout(-0.1);
        "huber: [2] × [2]: delta is 0, but must be finite and positive": |g| g.input([2]).huber(g.input([2]), 0.0);
        "huber: [2] × [2]: delta is NaN": |g| g.input([2]).huber(g.input([2]), f32::NAN);
        "label_smoothing: [2, 3]: epsilon is 1.5, but must be in 0..=1": |g| losses::cross_entropy(g.input([2, 3]), g.labels([2])).label_smoothing(1.5).mean();
        "label_smoothing: [2, 3]: epsilon is NaN": |g| losses::cross_entropy(g.input([2, 3]), g.labels([2])).label_smoothing(f32::NAN).mean();
        "label_smoothing: [2]: only cross-entropy has this option": |g| losses::mse(g.input([2]), g.input([2])).label_smoothing(0.1).mean();
        "class_weights: [2, 3]: got [2]: their shape must be [3]": |g| losses::cross_entropy(g.input([2, 3]), g.labels([2])).class_weights(g.input([2])).mean();
        "class_weights: [2]: got [2]: only losses over classes have class weights": |g| losses::mse(g.input([2]), g.input([2])).class_weights(g.input([2])).mean();
        "sample_weights: [3] × [2]: weights of shape [3] fit neither a loss of shape [2]": |g| losses::cross_entropy(g.input([2, 3]), g.labels([2])).sample_weights(g.input([3])).mean();
        "one_hot: u32 [2]: the number of classes must be 1 or more": |g| g.labels([2]).one_hot(0);
        "one_hot: u32 [2]: 18446744073709551615 are more than": |g| g.labels([2]).one_hot(usize::MAX);
        "param: [0, 4]: an axis of size 0 holds nothing": |g| g.input([2, 4]).linear("fc", 0);
    })
}

fn sizes() -> Check {
    let huge = "more than 4,294,967,295 elements";
    assert!(Graph::training().input([65_536, 65_536]).error().is_some_and(|e| e.to_string().contains(huge)));
    check_mistakes(mistakes! {
        "input: [0]: an axis of size 0 holds nothing": |g| g.input([0]);
        "input: [4, 0, 2]: an axis of size 0": |g| g.input([4, 0, 2]);
        "input: u32 [0]: an axis of size 0": |g| g.labels([0]);
        "param: [0]: an axis of size 0": |g| g.param("w", [0], Init::Zeros);
        "constant: [0]: an axis of size 0": |g| g.constant(Host::new([0], Vec::new()));
        "input: [18446744073709551615, 2]: more than 4,294,967,295 elements": |g| g.input([usize::MAX, 2]);
        "input: [18446744073709551615, 0]: ": |g| g.input([usize::MAX, 0]);
        "param: [4294967296]: more than": |g| g.param("w", [1 << 32], Init::Zeros);
        "full: no inputs: the result is [18446744073709551615, 18446744073709551615, 3]: more than 4,294,967,295": |g| g.full([usize::MAX, usize::MAX, 3], 0.0);
        "full: no inputs: the result is [3, 0]: an axis of size 0": |g| g.full([3, 0], 0.0);
        "uniform: no inputs: the result is [1048576, 1048576]: more than": |g| g.uniform([1 << 20, 1 << 20]);
        "mul: [65536, 1] × [1, 65536]: the result is [65536, 65536]: more than": |g| g.input([65_536, 1]) * g.input([1, 65_536]);
        "matmul: [65536, 1] × [1, 65536]: the result is [65536, 65536]: more than": |g| g.input([65_536, 1]).matmul(g.input([1, 65_536]));
        "broadcast_to: [1]: ": |g| g.input([1]).broadcast_to([usize::MAX, usize::MAX]);
        "broadcast_to: [1]: ": |g| g.input([1]).broadcast_to([0]);
        "pad: [2]: ": |g| g.input([2]).pad(0, usize::MAX - 1, usize::MAX - 1);
        "pad: [2]: ": |g| g.input([2]).pad(0, 1 << 62, 0);
        "param: [18446744073709551615, 4]: more than": |g| g.input([2, 4]).linear("fc", usize::MAX);
    })
}

/// Also where the numbers of the nodes are the same, or beyond the other graph.
fn mixed() -> Check {
    let text = "the tensors belong to different graphs";
    type Make = Box<dyn for<'a> Fn(Tensor<'a>, Tensor<'a>, Tensor<'a>) -> Tensor<'a>>;
    let cases: Vec<(&str, Make)> = vec![
        ("add", Box::new(|x, y, _| x + y)),
        ("add late", Box::new(|x, _, late| x + late)),
        ("sub turned", Box::new(|x, y, _| y - x)),
        ("where", Box::new(|x, y, late| x.where_(y, late))),
        ("matmul", Box::new(|x, y, _| x.matmul(y))),
        ("concat", Box::new(|x, y, _| x.concat(&[y], 0))),
        ("mse", Box::new(|x, y, _| x.mse(y))),
        ("kl_div", Box::new(|x, _, late| x.kl_div(late))),
        ("sample weights", Box::new(|x, y, _| losses::mse(x, x).sample_weights(y).mean())),
        ("grad", Box::new(|x, y, _| x.sum_all().grad(&[y])[0])),
        ("grad late", Box::new(|x, _, late| x.sum_all().grad(&[late])[0])),
        ("vjp", Box::new(|x, y, _| x.exp().vjp(y, &[x])[0])),
    ];
    for (name, make) in &cases {
        let (g, other) = (Graph::training(), Graph::training());
        let (x, y) = (g.input([2, 2]), other.input([2, 2]));
        let late = (0..20).fold(y, |t, _| t.exp());
        let z = make(x, y, late);
        expect(name, z.error(), &["", text])?;
    }
    // Labels of another graph, and outputs of several.
    let (g, other) = (Graph::training(), Graph::training());
    let (x, y) = (g.input([2, 2]), other.input([2, 2]));
    for outputs in [[x, y], [x, y.exp()]] {
        expect("compile", Device::cpu().compile(&outputs).err(), &["outputs: ", text])?;
    }
    expect("pick", x.pick(other.labels([2])).error(), &["pick: [2, 2] × u32 [2]: ", text])
}

fn gradients() -> Check {
    check_mistakes(mistakes! {
        "grad: [3]: a gradient is taken of a single number; reduce it first": |g| g.input([3]).exp().grad(&[g.input([2])])[0];
        "grad: u32 []: a gradient is taken of floats": |g| { let x = g.input([3]); x.argmax(0).grad(&[x])[0] };
        "vjp: [3] × [2]: ": |g| { let x = g.input([3]); x.exp().vjp(g.input([2]), &[x])[0] };
        "vjp: [3] × u32 [3]: ": |g| { let x = g.input([3]); x.exp().vjp(g.labels([3]), &[x])[0] };
    })
}

fn adapters() -> Check {
    let names: Vec<String> = Device::list().iter().map(|a| a.name.clone()).collect();
    let mut parts = vec!["no GPU adapter with `no such card` in its name; adapters here: "];
    parts.extend(names.iter().map(String::as_str));
    let error = Device::named("no such card").err();
    assert!(matches!(error, Some(Error::NoAdapter { .. })));
    expect("named", error, &parts)?;
    expect("parse", Device::parse("no such card").err(), &parts)?;
    assert!(Device::best().is_ok() && Device::parse("cpu").is_ok());
    Ok(())
}

/// A graph of one parameter.
fn train(optimizer: impl Into<Optimizer>) -> Option<Error> {
    let g = Graph::training();
    let loss = g.param("a.weight", [2, 2], Init::Ones).square().sum_all();
    Trainer::new(&Device::cpu(), loss, optimizer).err()
}

fn optimizers() -> Check {
    for lr in [f64::NAN, f64::INFINITY, -f64::INFINITY, 0.0, -0.1, 1e-60, 1e60] {
        let rules: [Optimizer; 5] =
            [Sgd::new(lr).into(), Adam::new(lr).into(), AdamW::new(lr).into(), RmsProp::new(lr).into(), Adagrad::new(lr).into()];
        let adams: [Optimizer; 4] = [NAdam::new(lr).into(), RAdam::new(lr).into(), Adamax::new(lr).into(), Adadelta::new(lr).into()];
        let large: [Optimizer; 3] = [Lamb::new(lr).into(), Lars::new(lr).into(), Lion::new(lr).into()];
        for rule in rules.into_iter().chain(adams).chain(large) {
            let start = format!("{}: the learning rate is {lr}, but must be finite and positive", rule.name());
            expect("lr", train(rule), &[&start])?;
        }
    }
    let nan = f64::NAN;
    for (optimizer, text) in [
        (Optimizer::from(Sgd::new(0.1).momentum(nan)), "Sgd: "),
        (Sgd::new(0.1).momentum(-1.0).into(), "Sgd: "),
        (Sgd::new(0.1).weight_decay(-1.0).into(), "Sgd: the weight decay is -1"),
        (Sgd::new(0.1).nesterov(true).into(), "Sgd: "),
        (Adam::new(0.1).betas(1.0, 0.9).into(), "Adam: beta1 is 1, but must be at least 0 and below 1"),
        (Adam::new(0.1).betas(0.9, nan).into(), "Adam: beta2 is NaN"),
        (Adam::new(0.1).eps(0.0).into(), "Adam: eps is 0"),
        (AdamW::new(0.1).eps(1e-60).into(), "AdamW: eps is "),
        (RmsProp::new(0.1).alpha(2.0).into(), "RmsProp: alpha is 2"),
        (Adagrad::new(0.1).initial_accumulator_value(-1.0).into(), "Adagrad: "),
        (Adamax::new(0.1).betas(0.9, 1.0).into(), "Adamax: beta2 is 1, but must be at least 0 and below 1"),
        (Adamax::new(0.1).eps(0.0).into(), "Adamax: eps is 0"),
        (NAdam::new(0.1).betas(nan, 0.9).into(), "NAdam: beta1 is NaN"),
        (NAdam::new(0.1).momentum_decay(-1.0).into(), "NAdam: momentum_decay is -1, but must be finite and not negative"),
        (RAdam::new(0.1).betas(0.9, 1.0).into(), "RAdam: beta2 is 1"),
        (RAdam::new(0.1).weight_decay(-1.0).into(), "RAdam: the weight decay is -1"),
        (Adadelta::new(1.0).rho(1.0).into(), "Adadelta: rho is 1, but must be at least 0 and below 1"),
        (Adadelta::new(1.0).eps(nan).into(), "Adadelta: eps is NaN"),
        (Lion::new(0.1).betas(0.9, -0.5).into(), "Lion: beta2 is -0.5"),
        (Lion::new(0.1).weight_decay(nan).into(), "Lion: the weight decay is NaN"),
        (Lars::new(0.1).momentum(nan).into(), "Lars: momentum is NaN"),
        (Lars::new(0.1).trust_coeff(0.0).into(), "Lars: trust_coeff is 0, but must be finite and positive (as f32)"),
        (Lars::new(0.1).momentum(0.9).dampening(0.5).nesterov(true).into(), "Lars: nesterov needs a momentum above 0"),
        (Lars::new(0.1).eps(0.0).into(), "Lars: eps is 0"),
        (Lamb::new(0.1).betas(1.0, 0.9).into(), "Lamb: beta1 is 1"),
        (Lamb::new(0.1).eps(-1.0).into(), "Lamb: eps is -1"),
        (Lamb::new(0.1).max_grad_norm(0.0).into(), "Lamb: the norm to clip to is 0, but must be finite and positive"),
        (Lamb::new(0.1).max_grad_norm(f64::INFINITY).into(), "Lamb: the norm to clip to is inf"),
        (Sgd::new(0.1).clip_norm(0.0), "Sgd: the norm to clip to is 0"),
        (Sgd::new(0.1).clip_norm(nan), "Sgd: the norm to clip to is NaN"),
        (Sgd::new(0.1).clip_norm(f64::INFINITY), "Sgd: the norm to clip to is inf, but must be finite and positive (as f32)"),
        (Sgd::new(0.1).clip_value(0.0), "Sgd: the value to clip to is 0, but must be finite and positive (as f32)"),
        (Sgd::new(0.1).clip_value(-1.0), "Sgd: the value to clip to is -1"),
        (Sgd::new(0.1).clip_value(nan), "Sgd: the value to clip to is NaN"),
        (Sgd::new(0.1).clip_value(f64::INFINITY), "Sgd: the value to clip to is inf"),
        (Sgd::new(0.1).clip_value(1e300), "Sgd: the value to clip to is 1"),
        (Sgd::new(0.1).clip_norm(1.0).clip_value(1e-60), "Sgd: the value to clip to is 0.000"),
        (Sgd::new(0.1).freeze(["a"]), "Sgd: every parameter is frozen"),
        (Sgd::new(0.1).freeze(["b"]), "Sgd: freeze names `b`, and there is no parameter or layer of that name; the names are a.weight"),
        (Sgd::new(0.1).group(|_| false, GroupOptions::default()), "Sgd: group 0 (counted from 0) has no parameter"),
        (Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: nan, ..Default::default() }), "Sgd: the lr_scale of a group is NaN"),
        (Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: 1e-60, ..Default::default() }), "Sgd: the lr_scale of a group is 0.0000"),
        (Sgd::new(0.1).group(|_| true, GroupOptions { weight_decay: Some(nan), ..Default::default() }), "Sgd: the weight decay is NaN"),
        (Sgd::new(0.1).schedule(Schedule::step(0, 0.5)), ""),
        (Sgd::new(0.1).schedule(Schedule::exponential(nan)), ""),
        (Sgd::new(0.1).schedule(Schedule::cosine(0)), ""),
        (Sgd::new(0.1).schedule(Schedule::cosine_warm_restarts(0, 2)), "schedule CosineWarmRestarts"),
        (Sgd::new(0.1).schedule(Schedule::constant().scaled(0, 256, Scaling::Linear)), "schedule Constant: `scaled` needs a batch"),
        (Sgd::new(0.1).schedule(Schedule::constant().scaled(256, 0, Scaling::Sqrt)), "schedule Constant: `scaled` needs a batch"),
        (Sgd::new(0.1).schedule(Schedule::cosine(0).in_epochs()), "schedule Cosine"),
        (Sgd::new(0.1).schedule(Schedule::warmup(2).then(Schedule::cosine(0))), ""),
        (Sgd::new(0.1).schedule(Schedule::constant().then(Schedule::step(0, 0.5))), ""),
    ] {
        // Asking for its rate must not panic either.
        let _ = (optimizer.lr(0), optimizer.lr(1), optimizer.lr(u64::MAX), format!("{optimizer:?}"));
        let what = format!("{optimizer:?}");
        expect(&what, train(optimizer), &[text])?;
    }
    let g = Graph::training();
    let loss = g.input([2]).sum_all();
    expect("no parameters", Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).err(), &["Sgd: the graph has no parameters to train"])?;
    for (init, text) in [
        (Init::Normal { mean: 0.0, std: f32::NAN }, "parameter w: "),
        (Init::Uniform { low: 1.0, high: -1.0 }, "parameter w: "),
        (Init::Orthogonal { gain: 1.0 }, "parameter w: "),
        (Init::Values(Arc::new(vec![1.0])), "parameter w: 1 values were given for [3]"),
        (Init::FanIn, "parameter w: FanIn needs the shape of a weight"),
    ] {
        let g = Graph::training();
        let loss = g.param("w", [3], init).sum_all();
        expect("init", Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).err(), &[text])?;
    }
    Ok(())
}

/// The fields of a `Host` are public, so it can contradict itself.
fn lying_hosts() -> Check {
    let float = Host { shape: Shape::from([2]), data: Data::<f32>::Index(vec![0, 1]) };
    let label = Host { shape: Shape::from([2]).u32(), data: Data::<f32>::Float(vec![0.0, 1.0]) };
    let short = Host::new([2, 2], vec![1.0]);
    let long = Host::new([2], vec![1.0; 5]);
    let huge = Host::new([usize::MAX, usize::MAX], vec![1.0; 5]);
    for host in [&float, &label, &short, &long, &huge] {
        let g = Graph::training();
        expect("constant", g.constant(host.clone()).error(), &["constant: "])?;
        let g = Graph::training();
        let x = g.input_of(if host.shape.dims().len() == 2 { Shape::from([2, 2]) } else { host.shape });
        let mut f = Device::cpu().compile(&[x * 2.0])?;
        expect("run", f.run(std::slice::from_ref(host)).err(), &["input 0: got "])?;
        let g = Graph::training();
        let w = g.param("w", [2], Init::Ones);
        let mut trainer = Trainer::new(&Device::cpu(), (w * g.input([2])).sum_all() + g.labels([2]).to_f32().sum_all(), Sgd::new(0.1))?;
        expect("set", trainer.params().set("w", host).err(), &["parameter w: got "])?;
        expect("step", trainer.step(&[host.clone(), Host::labels([2], vec![0, 1])]).err(), &["input 0: got "])?;
        expect("step", trainer.step(&[Host::new([2], vec![0.0; 2]), host.clone()]).err(), &["input 1: got "])?;
        let data = Dataset::new(vec![0.5; 8], [2], Target::labels(vec![0, 1, 2, 0], 3))?;
        let mut trainer = Trainer::for_data(&Device::cpu(), &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
        assert!(trainer.step(&[host.clone(), Host::labels([2], vec![0, 1])]).is_err());
        assert!(trainer.predict(host).is_err());
    }
    // Shapes of their own accord.
    let shape = Shape::from([usize::MAX, usize::MAX]);
    let _ = (shape.elements(), shape.bytes(), shape.batched(3), shape.to_string(), shape.sample(), shape.last());
    assert_eq!(Shape::new(&[1; 7]), None);
    Ok(())
}

/// NaN and infinity as numbers in a graph are legal, and mean the same everywhere.
fn not_finite(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([3]);
    let outputs =
        [x.maximum(f32::NEG_INFINITY), x.minimum(f32::INFINITY), x * f32::INFINITY, g.full([3], f32::NAN) + x, x.clamp(2.0, -2.0)];
    let y = device.compile(&outputs)?.run(&[Host::new([3], vec![-1.0, 1.0, 3.0])])?;
    assert_eq!((y[0].f(), y[1].f()), (&[-1.0, 1.0, 3.0][..], &[-1.0, 1.0, 3.0][..]));
    assert_eq!(y[2].f(), &[f32::NEG_INFINITY, f32::INFINITY, f32::INFINITY]);
    assert!(y[3].f().iter().all(|x| x.is_nan()));
    assert!(y[4].f().iter().all(|x| x.abs() == 2.0), "{:?}", y[4].f());
    Ok(())
}

fn inputs(device: &Device) -> Check {
    let g = Graph::training();
    let (x, y) = (g.input([4, 3]), g.labels([4]));
    let loss = x.linear("fc", 5).cross_entropy(y);
    let mut f = device.compile(&[loss])?;
    let mut trainer = Trainer::new(device, loss, Adam::new(0.1))?;
    let before = weights(&trainer)?;
    let (good_x, good_y) = (Host::new([4, 3], vec![0.5; 12]), Host::labels([4], vec![0, 1, 2, 3]));
    for (batch, text) in [
        (vec![], "got 0 tensors, but the graph was built for 2"),
        (vec![good_x.clone()], "got 1 tensors, but the graph was built for 2"),
        (vec![good_x.clone(); 3], "got 3 tensors"),
        (vec![Host::new([3, 4], vec![0.5; 12]), good_y.clone()], "input 0: got [3, 4] with 12 values, but the graph was built for [4, 3]"),
        (vec![Host::new([4, 3], vec![0.5; 11]), good_y.clone()], "input 0: got [4, 3] with 11 values, but the graph was built for [4, 3]"),
        (vec![good_y.clone(), good_x.clone()], "input 0: got u32 [4] with 4 labels, but the graph was built for [4, 3]"),
        (vec![good_x.clone(), Host::new([4], vec![0.0; 4])], "input 1: got [4] with 4 values, but the graph was built for u32 [4]"),
        (vec![good_x.clone(), Host::labels([5], vec![0; 5])], "input 1: got u32 [5] with 5 labels"),
        (vec![good_x.clone(), Host::labels([4], vec![0, 1, 5, 7])], "label 5 in row 2 is not one of the 5 classes (0 to 4)"),
        (vec![good_x.clone(), Host::labels([4], vec![u32::MAX, 1, 5, 7])], "label 4294967295 in row 0 is not one of the 5 classes"),
    ] {
        expect("run", f.run(&batch).err(), &["", text])?;
        expect("step", trainer.step(&batch).err(), &["", text])?;
    }
    // Nothing was trained, and good batches still work.
    assert_eq!((weights(&trainer)?, trainer.steps()), (before.clone(), 0));
    assert!(trainer.loss()?.is_nan());
    trainer.step(&[good_x.clone(), good_y.clone()])?;
    assert!(trainer.loss()?.is_finite() && weights(&trainer)? != before);
    assert!((f.run(&[good_x, good_y])?[0].f()[0] - 1.6).abs() < 1.0);
    expect("no outputs", device.compile(&[]).err(), &["outputs: a plan needs at least one"])?;
    // A function that needs a trainer for data says how to make one.
    let some = data::iris();
    let text = "this trainer was made of one graph; make it with Trainer::for_data";
    expect("fit", trainer.fit(&some, Fit::new()).err(), &["fit: ", text])?;
    expect("evaluate", trainer.evaluate(&some).err(), &["evaluate: ", text])?;
    expect("predict", trainer.predict(&Host::new([1, 4], vec![0.0; 4])).err(), &["predict: ", text])
}

/// By way of a data set with more classes than the model, through reshapes, slices and constants.
fn labels(device: &Device) -> Check {
    let data = Dataset::new(vec![0.5; 12], [2], Target::labels(vec![0, 1, 2, 0, 3, 1], 4))?;
    let model =
        |classes: usize| Trainer::for_data(device, &data, move |x| x.linear("fc", classes), |x, y| x.cross_entropy(y), Sgd::new(0.1));
    let mut trainer = model(3)?;
    let text = "label 3 in row 4 is not one of the 3 classes (0 to 2)";
    expect("fit", trainer.fit(&data, Fit::new().batch_size(2)).err(), &[text])?;
    expect("evaluate", trainer.evaluate(&data).err(), &[text])?;
    let fine = data.subset(&[0, 1, 2, 3])?;
    expect("validation", trainer.fit(&fine, Fit::new().batch_size(2).validation(&data)).err(), &[text])?;
    assert_eq!(trainer.steps(), 0, "before any step");
    let step = trainer.step(&[Host::new([2, 2], vec![0.0; 4]), Host::labels([2], vec![2, 3])]);
    expect("step", step.err(), &["label 3 in row 1 is not one of the 3 classes"])?;
    assert!(model(4)?.fit(&data, Fit::new().batch_size(2)).is_ok());
    // Labels on their way to the loss.
    let g = Graph::training();
    let (x, y) = (g.input([7, 3]), g.labels([2, 3]));
    let on_the_way = y.permute(&[1, 0]).reshape([6]).concat(&[g.constant(Host::labels([1], vec![2]))], 0);
    let mut f = device.compile(&[x.cross_entropy(on_the_way)])?;
    let run = f.run(&[Host::new([7, 3], vec![0.0; 21]), Host::labels([2, 3], vec![0, 1, 0, 0, 3, 0])]);
    expect("moved labels", run.err(), &["label 3 in row 4 is not one of the 3 classes"])?;
    // Two columns of classes, of different counts.
    let g = Graph::training();
    let (x, y) = (g.input([2, 3]), g.labels([2, 2]));
    let mut f = device.compile(&[x.cross_entropy(y.slice(1, 0, 1).reshape([2]))])?;
    f.run(&[Host::new([2, 3], vec![0.0; 6]), Host::labels([2, 2], vec![0, 9, 2, 9])])?;
    let g = Graph::training();
    let bad = g.input([2, 3]).cross_entropy(g.constant(Host::labels([2], vec![0, 7])));
    expect("constant", device.compile(&[bad]).err(), &["label 7 in row 1 is not one of the 3 classes (0 to 2)"])?;
    // Rows of a table.
    let g = Graph::training();
    let mut f = device.compile(&[g.param("table", [5, 2], Init::Ones).gather_rows(g.labels([3]))])?;
    expect("gather_rows", f.run(&[Host::labels([3], vec![4, 5, 0])]).err(), &["label 5 in row 1 is not one of the 5 classes"])?;
    // Indices of several axes: where along each of them, in inputs and in constants.
    let text = "gather_rows: the index 5 at position [1, 2] is not below 5, the size of the vocabulary";
    let g = Graph::training();
    let mut f = device.compile(&[g.param("table", [5, 2], Init::Ones).gather_rows(g.labels([2, 3]))])?;
    expect("gather_rows", f.run(&[Host::labels([2, 3], vec![4, 0, 1, 2, 3, 5])]).err(), &[text])?;
    let g = Graph::training();
    let bad = g.param("table", [5, 2], Init::Ones).gather_rows(g.constant(Host::labels([2, 3], vec![4, 0, 1, 2, 3, 5])));
    expect("constant indices", device.compile(&[bad]).err(), &[text])?;
    // Class numbers that are computed: of more classes than there are.
    let g = Graph::training();
    let y = g.input([2, 3]).cross_entropy(g.input([2, 9]).argmax(-1));
    let made =
        device.compile(&[y]).map(|mut f| f.run(&[Host::new([2, 3], vec![0.0; 6]), Host::new([2, 9], (0..18).map(|x| x as f32).collect())]));
    // No check sees them before the run: their rows are NaN, so that a step or a report tells.
    if let Ok(y) = made {
        assert!(y?[0].f()[0].is_nan());
    }
    Ok(())
}

fn trainer_losses(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([4, 3]).linear("fc", 2);
    let error = Trainer::new(device, x, Sgd::new(0.1)).err();
    expect(
        "not reduced",
        error,
        &["loss: [4, 2]: a loss is one number, a float; reduce it first, e.g. with mean_all() (tests/errors.rs:"],
    )?;
    let g = Graph::training();
    let y = g.input([1, 3]).linear("fc", 4).argmax(-1);
    expect("labels", Trainer::new(device, y, Sgd::new(0.1)).err(), &["loss: u32 [1]: a loss is one number, a float", "(tests/errors.rs:"])?;
    // If model and loss are functions, making the trainer returns the error. It does not wait for the first step.
    let data = data::iris();
    let make = |k: u32| {
        Trainer::for_data(
            device,
            &data,
            |x| x.linear("fc", 3),
            move |x, y| match k {
                0 => x,
                1 => x.argmax(-1),
                2 => losses::cross_entropy(x, y).none(),
                3 => x.mse(y.to_f32()),
                _ => x.cross_entropy(y),
            },
            Sgd::new(0.1),
        )
    };
    let once = "a loss is one number, a float; reduce it first";
    expect("the model's output", make(0).err(), &["loss: [n, 3]: ", once, "(tests/errors.rs:"])?;
    expect("classes", make(1).err(), &["loss: u32 [n]: ", once, "(tests/errors.rs:"])?;
    expect("unreduced", make(2).err(), &["loss: [n]: ", once, "(tests/errors.rs:"])?;
    expect("mse of labels", make(3).err(), &["mse: [n, 3] × [n]: prediction and target must have the same shape", "(tests/errors.rs:"])?;
    make(4)?;
    // A model that is written for one batch size.
    let stuck = Trainer::for_data(device, &data, |x| x.reshape([1, 4]).linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1));
    expect("batches of 1", stuck.err(), &["reshape: [n, 4]: 4n elements do not fill [1, 4]", "(tests/errors.rs:"])?;
    // A model whose parameters depend on the batch.
    let mut moody = Trainer::for_data(device, &data, |x| x.linear("fc", 2 + x.dim(0)), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    expect("parameters by batch", moody.fit(&data, Fit::new()).err(), &["", "fc.weight"])?;
    // Graphs over a trainer's parameters.
    let trainer = make(4)?;
    let g = Graph::inference();
    expect(
        "unknown parameter",
        trainer.compile(&[g.input([1, 4]).linear("fc2", 3)]).err(),
        &["parameter fc2.weight: the trainer has none"],
    )?;
    let g = Graph::inference();
    expect(
        "other shape",
        trainer.compile(&[g.input([1, 4]).linear("fc", 2)]).err(),
        &["parameter fc.weight: [2, 4] here, but [3, 4] in the trainer"],
    )
}

fn batches(device: &Device) -> Check {
    let data = data::iris();
    let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    expect("0", trainer.fit(&data, Fit::new().batch_size(0)).err(), &["batch size: must be at least 1"])?;
    expect("evaluation", trainer.set_evaluation_batch(0).err(), &["evaluation batch: must be at least 1"])?;
    assert!(trainer.fit(&data, Fit::new().epochs(0))?.epochs.is_empty());
    // If the batch size exceeds the number of samples, all samples are one batch.
    for size in [150, 151, usize::MAX] {
        assert_eq!(trainer.fit(&data, Fit::new().batch_size(size))?.epochs[0].losses.len(), 1);
    }
    // Data of another shape, or with other targets.
    let values = Dataset::new(vec![0.5; 8], [4], Target::values([1], vec![0.0; 2]))?;
    let bare = Dataset::new(vec![0.5; 8], [4], Target::None)?;
    let narrow = Dataset::new(vec![0.5; 6], [3], Target::labels(vec![0, 1], 3))?;
    let want = "but the graph was built for samples of shape [4] with labels";
    for (other, got) in [
        (&values, "got samples of shape [4] with values of shape [1]"),
        (&bare, "got samples of shape [4] without a target"),
        (&narrow, "got samples of shape [3] with labels"),
    ] {
        expect("fit", trainer.fit(other, Fit::new().batch_size(1)).err(), &["fit: ", got, want])?;
        expect("evaluate", trainer.evaluate(other).err(), &["evaluate: ", got, want])?;
        expect("validation", trainer.fit(&data, Fit::new().validation(other)).err(), &["validation: ", got, want])?;
    }
    for x in [
        Host::new([4], vec![0.0; 4]),
        Host::new([0, 4], Vec::new()),
        Host::new([1, 5], vec![0.0; 5]),
        Host::new([], vec![0.0]),
        Host::labels([1, 4], vec![0; 4]),
    ] {
        expect(
            "predict",
            trainer.predict(&x).err(),
            &["predict: got ", "but the graph was built for samples of shape [4], and a first axis that counts them"],
        )?;
    }
    // Steps without a batch, with a batch of nothing, and with parts of different sizes.
    let y = |n: usize| Host::labels([n], vec![0; n]);
    for batch in [vec![], vec![Host::new([0, 4], Vec::new()), y(0)], vec![Host::new([], vec![1.0]), y(1)]] {
        expect("no batch", trainer.step(&batch).err(), &[""])?;
    }
    expect(
        "parts",
        trainer.step(&[Host::new([3, 4], vec![0.0; 12]), y(4)]).err(),
        &["input 1: got u32 [4] with 4 labels, but the graph was built for u32 [3]"],
    )?;
    // A batch that is said to be enormous must not be planned for.
    let huge = [Host::new([1 << 31, 4], vec![0.0; 4]), y(1)];
    expect("enormous", trainer.step(&huge).err(), &["input 0: got [2147483648, 4] with 4 values"])?;
    // Samples of five axes make batches of six; a model may not add one more.
    let deep = Dataset::new(vec![0.5; 4], [1, 1, 1, 2, 1], Target::values([1], vec![0.0; 2]))?;
    let seven = Trainer::for_data(device, &deep, |x| x.unsqueeze(0).flatten().linear("fc", 1), |x, y| x.mse(y), Sgd::new(0.1));
    expect("seven axes", seven.err(), &["unsqueeze: [n, 1, 1, 1, 2, 1]: more than 6 axes", "(tests/errors.rs:"])?;
    expect("six axes a sample", Dataset::new(vec![0.5; 4], [1, 1, 1, 1, 2, 1], Target::None).err(), &["", "at most 5 axes"])
}

fn data_not_finite(device: &Device) -> Check {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5; 12];
        x[7] = bad;
        let error = Dataset::new(x.clone(), [3], Target::None).err();
        expect("Dataset", error, &[&format!("features: {bad} at row 2, column 1: ")])?;
        let data = Dataset::new(vec![0.5; 12], [3], Target::values([1], vec![1.0; 4]))?;
        let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 1), |x, y| x.mse(y), Sgd::new(0.1))?;
        let before = weights(&trainer)?;
        let targets = |y: f32| Host::new([4, 1], vec![1.0, 1.0, 1.0, y]);
        expect(
            "x",
            trainer.step(&[Host::new([4, 3], x.clone()), targets(1.0)]).err(),
            &[&format!("input 0: {bad} at row 2, column 1: replace or drop it")],
        )?;
        expect(
            "y",
            trainer.step(&[Host::new([4, 3], vec![0.5; 12]), targets(bad)]).err(),
            &[&format!("input 1: {bad} at row 3, column 0")],
        )?;
        expect("predict", trainer.predict(&Host::new([4, 3], x)).err(), &["", &format!("{bad} at row 2, column 1")])?;
        assert_eq!((weights(&trainer)?, trainer.steps()), (before, 0));
        // Large finite numbers are data like any other.
        trainer.step(&[Host::new([4, 3], vec![1e30; 12]), targets(1.0)])?;
        assert!(matches!(trainer.loss(), Err(Error::Diverged { step: 0, .. })));
    }
    Ok(())
}

/// Any text is a name, as long as a file can keep it.
fn parameter_names(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("w.safetensors");
    for name in ["", " ", "a\0b", "w\n\"{}", "ß∂🦀", "//!include lib/map", "}", "optimizer", &"long".repeat(1000)] {
        let g = Graph::training();
        let (w, x) = (g.param(name, [4], Init::Ones), g.input([4]));
        let mut trainer = Trainer::new(device, (w * x).sum_all(), Adam::new(0.5))?;
        trainer.step(&[Host::new([4], vec![1.0; 4])])?;
        let value = trainer.params().get(name)?;
        assert!(value.f().iter().all(|w| (w - 0.5).abs() < 1e-3), "{name:?}: {value:?}");
        trainer.params().save(&path)?;
        trainer.params().set(name, &Host::new([4], vec![7.0; 4]))?;
        trainer.params().load(&path)?;
        assert_eq!(trainer.params().get(name)?, value, "{name:?}");
        trainer.save(&path)?;
        trainer.load(&path)?;
    }
    // Files reserve a few names.
    for name in ["__metadata__", "optimizer.m.w"] {
        let g = Graph::training();
        let error = Trainer::new(device, g.param(name, [1], Init::Ones).sum_all(), Sgd::new(0.1)).err();
        expect(name, error, &["param: [1]: ", name, "choose another", "(tests/errors.rs:"])?;
    }
    Ok(())
}

fn parameters(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let make = |width: usize| {
        let g = Graph::training();
        Trainer::new(device, g.input([2, 3]).linear("fc", width).sum_all(), Sgd::new(0.1))
    };
    let trainer = make(4)?;
    let before = weights(&trainer)?;
    let params = trainer.params();
    expect(
        "get",
        params.get("fc.weigth").err(),
        &["parameter fc.weigth: the model has no parameter of this name; it has fc.weight, fc.bias"],
    )?;
    expect("gradient", trainer.gradient("nope").err(), &["parameter nope: the model has no parameter of this name"])?;
    expect("set name", params.set("w", &Host::new([1], vec![1.0])).err(), &["parameter w: the model has no parameter of this name"])?;
    expect(
        "set shape",
        params.set("fc.weight", &Host::new([3, 4], vec![1.0; 12])).err(),
        &["parameter fc.weight: got [3, 4] with 12 values, but the model has [4, 3]"],
    )?;
    expect("set length", params.set("fc.bias", &Host::new([4], vec![1.0; 3])).err(), &["parameter fc.bias: got [4] with 3 values"])?;
    expect("set labels", params.set("fc.bias", &Host::labels([4], vec![1; 4])).err(), &["parameter fc.bias: got u32 [4]"])?;
    // All or nothing.
    let some = [("fc.bias".to_string(), Host::new([4], vec![9.0; 4])), ("fc.weight".to_string(), Host::new([1], vec![9.0]))];
    expect("set_all", params.set_all(&some).err(), &["parameter fc.weight: "])?;

    expect("no file", params.load(at("none")).err(), &[at("none").to_str().expect("a path of ours"), "No such file"])?;
    std::fs::write(at("garbage"), b"this is no safetensors file at all")?;
    expect("garbage", params.load(at("garbage")).err(), &["", "garbage: not a safetensors file"])?;
    std::fs::write(at("empty"), b"")?;
    expect("empty", params.load(at("empty")).err(), &["", "empty: not a safetensors file"])?;
    expect("a folder", params.load(folder.path()).err(), &[""])?;
    params.save(at("good"))?;
    let good = std::fs::read(at("good"))?;
    for cut in [1, 8, 20, good.len() - 1] {
        std::fs::write(at("cut"), &good[..cut])?;
        expect("cut", params.load(at("cut")).err(), &["", "cut: not a safetensors file"])?;
    }
    // A header that says it is larger than memory.
    let mut long = good.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(at("long"), long)?;
    expect("long", params.load(at("long")).err(), &["", "long: not a safetensors file"])?;
    make(5)?.params().save(at("wide"))?;
    expect("another model", params.load(at("wide")).err(), &["parameter fc.weight: got [5, 3] with 15 values, but the model has [4, 3]"])?;
    let tensor = |dtype, shape: Vec<usize>, bytes: &[u8]| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let view = safetensors::tensor::TensorView::new(dtype, shape, bytes)?;
        Ok(safetensors::serialize([("fc.weight", view)], None)?)
    };
    std::fs::write(at("whole"), tensor(safetensors::Dtype::I32, vec![4, 3], &[0; 48])?)?;
    expect("whole numbers", params.load(at("whole")).err(), &["parameter fc.weight: I32 instead of floats", "whole"])?;
    std::fs::write(at("missing"), tensor(safetensors::Dtype::F32, vec![4, 3], &[0; 48])?)?;
    expect("missing", params.load(at("missing")).err(), &["parameter fc.bias: not in "])?;
    // All names that are missing, not only the first one.
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4])?;
    std::fs::write(at("others"), safetensors::serialize([("layer.weight", view)], None)?)?;
    expect("others", params.load(at("others")).err(), &["parameter fc.weight: not in ", "; 2 are missing: fc.weight, fc.bias"])?;
    std::fs::write(at("axes"), tensor(safetensors::Dtype::F32, vec![1; 9], &[0; 4])?)?;
    expect(
        "axes",
        params.load(at("axes")).err(),
        &["parameter fc.weight: got [1, 1, 1, 1, 1, 1, 1, 1, 1] with 1 values, but the model has [4, 3]"],
    )?;
    for path in [at("no/such/folder"), folder.path().to_path_buf(), std::path::PathBuf::new()] {
        expect("save", params.save(&path).err(), &[path.to_str().expect("a path of ours")])?;
        expect("save", trainer.save(&path).err(), &[path.to_str().expect("a path of ours")])?;
    }
    assert_eq!(weights(&trainer)?, before);
    Ok(())
}

fn checkpoints(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let make = |width: usize, optimizer: Optimizer| {
        let g = Graph::training();
        Trainer::new(device, g.input([2, 3]).linear("fc", width).sum_all(), optimizer)
    };
    let mut trainer = make(4, Adam::new(0.1).into())?;
    trainer.step(&[Host::new([2, 3], vec![1.0; 6])])?;
    let before = weights(&trainer)?;
    make(4, Sgd::new(0.1).into())?.save(at("sgd"))?;
    expect(
        "another optimizer",
        trainer.load(at("sgd")).err(),
        &["", "a checkpoint of Sgd, but this trainer uses Adam; Params::load takes the weights alone"],
    )?;
    make(5, Adam::new(0.1).into())?.save(at("wide"))?;
    expect("another model", trainer.load(at("wide")).err(), &["parameter fc.weight: got [5, 3]"])?;
    make(4, Adam::new(0.1).into())?.params().save(at("weights"))?;
    expect("weights alone", trainer.load(at("weights")).err(), &["", "weights: no checkpoint, but this trainer uses Adam"])?;
    expect("no file", trainer.load(at("none")).err(), &["", "No such file"])?;
    // Another option has another state.
    make(4, Adam::new(0.1).amsgrad(false).into())?.save(at("plain"))?;
    let mut amsgrad = make(4, Adam::new(0.1).amsgrad(true).into())?;
    expect("a state that is not there", amsgrad.load(at("plain")).err(), &["parameter optimizer.", "not in "])?;
    // A weights file takes the weights of a checkpoint, too.
    trainer.save(at("good"))?;
    make(4, Sgd::new(0.1).into())?.params().load(at("good"))?;
    assert_eq!((weights(&trainer)?, trainer.steps()), (before, 1));
    trainer.load(at("good"))?;
    // Numbers that are none.
    let bytes = std::fs::read(at("good"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let from = text.find("\"step\":\"1\"").expect("the file says how many steps");
    let mut wrong = bytes;
    wrong[from + 8] = b'x';
    std::fs::write(at("wrong"), wrong)?;
    expect("steps", trainer.load(at("wrong")).err(), &["", "`step` is `x`, not a number"])
}

/// Graphs that are strange and right.
fn odd(device: &Device) -> Check {
    // The loss is the parameter; a parameter that nothing uses; the same tensor twice; outputs that no op makes.
    let g = Graph::training();
    let (w, unused) = (g.param("w", [1], Init::Constant(2.0)), g.param("unused", [3], Init::Ones));
    let mut trainer = Trainer::new(device, w, Sgd::new(0.5))?;
    trainer.step(&[])?;
    trainer.step(&[])?;
    assert_eq!((trainer.loss()?, trainer.params().get("w")?.f()), (1.5, &[1.0][..]));
    assert_eq!(trainer.params().get("unused")?.f(), [1.0; 3]);
    let (x, c) = (g.input([2]), g.constant(Host::new([2], vec![3.0, 4.0])));
    let same = x.reshape([2, 1]).reshape([2]);
    let out = device
        .compile(&[x, x, c, unused, same, w, g.labels([2])])?
        .run(&[Host::new([2], vec![5.0, 6.0]), Host::labels([2], vec![7, 8])])?;
    assert_eq!((out[0].f(), out[1].f(), out[2].f(), out[3].f()), (&[5.0, 6.0][..], &[5.0, 6.0][..], &[3.0, 4.0][..], &[1.0; 3][..]));
    assert_eq!((out[4].f(), out[5].f(), out[6].u()), (&[5.0, 6.0][..], &[2.0][..], &[7, 8][..]));
    // A loss that no parameter moves trains nothing, and that is said.
    let g = Graph::training();
    let _ = g.param("w", [2], Init::Ones);
    let error = Trainer::new(device, g.input([2]).sum_all(), Sgd::new(0.5)).err();
    expect("no parameter", error, &["loss: []: it depends on no parameter (w)", "(tests/errors.rs:"])?;
    // A parameter twice in one sum; a gradient that is a constant; one element; a layer without a bias.
    let g = Graph::training();
    let w = g.param("w", [2], Init::Ones);
    let mut trainer = Trainer::new(device, (w + w + w * 1.0).sum_all() + g.scalar(1.0), Sgd::new(0.125))?;
    trainer.step(&[])?;
    assert_eq!((trainer.loss()?, trainer.params().get("w")?.f()), (7.0, &[0.625, 0.625][..]));
    let g = Graph::training();
    let y = g.input([1, 1]).linear_with("fc", 1, Linear { no_bias: true, weight: Some(Init::Ones), ..Linear::default() }).mean_all();
    let mut trainer = Trainer::new(device, y, Sgd::new(0.5))?;
    trainer.step(&[Host::new([1, 1], vec![3.0])])?;
    assert_eq!((trainer.loss()?, trainer.params().get("fc.weight")?.f()), (3.0, &[-0.5][..]));
    // More steps than the ring of losses holds, unread; a graph of many small nodes.
    let g = Graph::training();
    let w = g.param("w", [1], Init::Zeros);
    let mut trainer = Trainer::new(device, (w - g.input([1])).square().sum_all(), Sgd::new(0.01))?;
    for k in 0..2500 {
        trainer.step(&[Host::new([1], vec![(k % 7) as f32])])?;
    }
    let reports = trainer.take_reports()?;
    assert_eq!(reports.len(), 2500);
    let mut w = 0.0;
    for (k, report) in reports.iter().enumerate() {
        let d = w - (k % 7) as f64;
        assert!(report.step == k as u64 && (f64::from(report.loss) - d * d).abs() < 1e-4 * (1.0 + d * d), "{report:?}: not {}", d * d);
        w -= 0.02 * d;
    }
    let g = Graph::training();
    let w = g.param("w", [3], Init::Ones);
    let deep = (0..600).fold(w, |t, k| if k % 3 == 0 { t.sin() } else { t * 1.01 + w * 0.001 });
    let mut trainer = Trainer::new(device, deep.square().sum_all(), Sgd::new(0.01))?;
    trainer.step(&[])?;
    assert!(trainer.loss()?.is_finite());
    Ok(())
}

/// Operands over a binding's limit, more bindings than a shader has, buffers over the limit: need and limit are named.
fn limits(device: &Device) -> Check {
    let limit = common::inner(device).caps().max_binding_bytes;
    let over = |make: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>| {
        let g = Graph::training();
        let error = device.compile(&[make(&g)]).err();
        assert!(matches!(error, None | Some(Error::Limit { .. })), "{error:?}");
        error
    };
    let bound = format!("but this device's limit is {limit}: ");
    // Rows of the left side and of the result are split, but each of them meets all of the right side.
    let matmul = over(&|g| g.input([200, 200]).matmul_t(g.input([200, 200]), false, true));
    expect(
        "matmul",
        matmul,
        &["matmul [200, 200] × [200, 200] → [200, 200] (tests/errors.rs:", "(`b`, bound whole): needs 160000, ", &bound],
    )?;
    let gather = over(&|g| g.param("table", [20_000, 2], Init::Zeros).gather_rows(g.labels([3])));
    expect("gather_rows", gather, &["gather_rows table [20000, 2] × u32 [3] → [3, 2] (tests/errors.rs:", "needs 160000, ", &bound])?;
    // A tensor that can be split is no error: see tests/ops.rs. But no buffer can hold this tensor.
    let most = common::inner(device).max_buffer_bytes();
    let large = format!("needs 20000000, but this device's limit is {most}: ");
    let here = |text: &str, line: u32| format!("{text} (tests/errors.rs:{line})");
    let input = over(&|g| g.input([5_000_000]).sum_all());
    expect("input", input, &[&here("input 0 [5000000] of reduce [5000000] → []", line!() - 1), &large])?;
    let constant = over(&|g| g.constant(Host::new([5_000_000], vec![1.0; 5_000_000])).sum_all());
    expect("constant", constant, &[&here("constant 0 [5000000] of reduce [5000000] → []", line!() - 1), &large])?;
    // A slot is the result of an op, in a layer: the place is that op's.
    let line = line!() + 1;
    let slot = over(&|g| g.input([1000, 1]).linear("wide", 5000));
    let op = "matmul [1000, 1] × wide.weight [5000, 1] × wide.bias [5000] → [1000, 5000]";
    expect("slot", slot, &[&format!("{}, layer wide (slot 0 [5000000]): {large}", here(op, line))])?;
    let g = Graph::training();
    let big = Trainer::new(device, g.param("w", [5_000_000], Init::Zeros).sum_all(), Sgd::new(0.1)).err();
    expect("parameter", big, &["parameter w [5000000]: needs 20000", &format!("but this device's limit is {most}: ")])?;
    // Adam binds weights, gradients, the guard and two states; this device has four.
    let g = Graph::training();
    let adam = Trainer::new(device, g.param("w", [5], Init::Zeros).sum_all(), Adam::new(0.1)).err();
    assert!(matches!(adam, Some(Error::Limit { .. })), "{adam:?}");
    expect("Adam", adam, &["", "Adam", "storage buffers bound at once", "needs 5, but this device's limit is 4: "])?;
    // An adapter that cannot do what is asked of it.
    let mut options = common::inner(device).options().clone();
    let mut asked = common::small_limits(4);
    asked.max_bindings = 1_000_000;
    options.limits = Some(asked);
    assert!(Device::open(&options).is_ok(), "limits above the adapter's are cut down to them");
    Ok(())
}

/// In training, too: the first plan that does not fit is an error of the call that needs it, and others still work.
fn training_limits(device: &Device) -> Check {
    let data = Dataset::new(vec![0.5; 300 * 200], [200], Target::labels((0..300).map(|i| i % 10).collect(), 10))?;
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.transpose().transpose().linear("fc", 10)
    }
    let mut trainer = Trainer::for_data(device, &data, model, |x, y| x.cross_entropy(y), Adam::new(0.1))?;
    let error = trainer.fit(&data, Fit::new().batch_size(100)).err();
    assert!(matches!(error, Some(Error::Limit { .. })), "{error:?}");
    expect(
        "fit",
        error,
        &["permute [100, 200] → ", "(tests/errors.rs:", "needs 80000, but this device's limit is 65536: use a smaller batch"],
    )?;
    assert_eq!(trainer.steps(), 0);
    trainer.fit(&data, Fit::new().batch_size(50))?;
    assert_eq!(trainer.steps(), 6);
    Ok(())
}
