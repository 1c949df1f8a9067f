//! Mistakes in a graph: ops, settings, sizes, tensors of different graphs and gradients.

use crate::{common::Check, expect};
use downhill::{Device, Error, Graph, Host, Tensor, Trainer, init::Init, losses, optim::Sgd};

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
    let source: Vec<&str> = include_str!("graphs.rs").lines().collect();
    for (text, make) in all {
        let g = Graph::training();
        let bad = make(&g);
        let Some(error @ Error::Op { .. }) = bad.error() else { return Err(format!("{:?} instead of `{text}`", bad.error()).into()) };
        let message = error.to_string();
        // `… (tests/errors/graphs.rs:123)`, and on that line is the mistake: the text is beside it.
        let place = message.rsplit_once(" (tests/errors/graphs.rs:").and_then(|(_, at)| at.trim_end_matches(')').parse::<usize>().ok());
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

pub fn mistakes() -> Check {
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
    let here = include_str!("graphs.rs").lines().position(|line| line.ends_with(".reshape([4, 4, 5]) // here")).expect("above");
    expect(
        "a chain",
        bad.error(),
        &["reshape: [4, 16]: 64 elements do not fill [4, 4, 5], which has 80", &format!("graphs.rs:{})", here + 1)],
    )
}

pub fn settings() -> Check {
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

pub fn sizes() -> Check {
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
pub fn mixed() -> Check {
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

pub fn gradients() -> Check {
    check_mistakes(mistakes! {
        "grad: [3]: a gradient is taken of a single number; reduce it first": |g| g.input([3]).exp().grad(&[g.input([2])])[0];
        "grad: u32 []: a gradient is taken of floats": |g| { let x = g.input([3]); x.argmax(0).grad(&[x])[0] };
        "vjp: [3] × [2]: ": |g| { let x = g.input([3]); x.exp().vjp(g.input([2]), &[x])[0] };
        "vjp: [3] × u32 [3]: ": |g| { let x = g.input([3]); x.exp().vjp(g.labels([3]), &[x])[0] };
    })
}
