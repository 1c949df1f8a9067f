//! A trainer tries a model before anybody has chosen a batch size: its errors say `n`, and name parameters. At a batch size that somebody
//! has chosen, and in a graph of one's own, they have the numbers.

use crate::{
    common::Check,
    own_ops::{Lie, Odd},
};
use downhill::{
    Device, Error, Graph, Host, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    losses,
    optim::Sgd,
};

/// Whatever is fed: images of two channels, 6 × 6, of three classes.
fn images() -> Result<Dataset, Error> {
    Dataset::new(vec![0.5; 4 * 72], [2, 6, 6], Target::labels(vec![0, 1, 2, 0], 3))
}

/// Four numbers a sample, with two to predict.
fn numbers() -> Result<Dataset, Error> {
    Dataset::new(vec![0.5; 40 * 4], [4], Target::values([2], vec![1.0; 80]))
}

/// The text of an error, without its place, which is in this file.
fn text(error: Option<Error>) -> Result<String, String> {
    let text = error.ok_or("no error")?.to_string();
    match text.rsplit_once(" (tests/errors/any_batch.rs:") {
        Some((text, line)) if line.trim_end_matches(')').parse::<usize>().is_ok() => Ok(text.to_string()),
        _ => Err(format!("`{text}` is of no line here")),
    }
}

type Model = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
type Loss = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

fn param<'g>(x: Tensor<'g>, name: &str, shape: &[usize]) -> Tensor<'g> {
    x.graph().param(name, downhill::Shape::new(shape).expect("few axes"), Init::Ones)
}

pub fn check() -> Check {
    let mse: Loss = |y, t| y.mse(t);
    let plain: Model = |x| x.linear("fc", 2);
    let cases: Vec<(Model, Loss, &str)> = vec![
        // A weight of another size.
        (
            |x| x.linear("fc1", 784).matmul_t(param(x, "fc2.weight", &[10, 512]), false, true),
            mse,
            "matmul: [n, 784] × fc2.weight [10, 512]: inner dimensions 784 and 512 differ",
        ),
        (|x| x + param(x, "b", &[5]), mse, "add: [n, 4] × b [5]: shape [5] (input 1) does not broadcast with [n, 4]"),
        (|x| x.linear("fc", 3).linear("fc", 3), mse, "param: [3, 4] × [3, 3]: `fc.weight` already has the shape [3, 4]"),
        // A fixed batch, and sizes that are several times the batch.
        (|x| x.reshape([32, 4]).linear("fc", 2), mse, "reshape: [n, 4]: 4n elements do not fill [32, 4], which has 128"),
        (
            |x| x.linear("fc", 2).concat(&[x.linear("fc", 2)], 0),
            mse,
            "mse: [2n, 2] × [n, 2]: prediction and target must have the same shape; reshape one of them",
        ),
        (
            |x| x.linear("fc", 2).pad(0, 0, 1),
            mse,
            "mse: [n + 1, 2] × [n, 2]: prediction and target must have the same shape; reshape one of them",
        ),
        (
            |x| x.concat(&[param(x, "w", &[7, 4])], 1),
            mse,
            "concat: [n, 4] × w [7, 4]: [7, 4] (input 1) differs from [n, 4] in more than axis 1",
        ),
        (|x| x.matmul(x.linear("fc", 5)), mse, "matmul: [n, 4] × [n, 5]: inner dimensions 4 and n differ"),
        // Losses.
        (plain, |y, _| y, "loss: [n, 2]: a loss is one number, a float; reduce it first, e.g. with mean_all()"),
        (
            plain,
            |y, t| losses::mse(y, t.sum(&[1], false)).mean(),
            "mse: [n, 2] × [n]: prediction and target must have the same shape; reshape one of them",
        ),
        // A gradient.
        (
            |x| x.graph().apply(Odd(Lie::TooFew), &[x.linear("fc", 2), param(x, "w", &[2])]),
            mse,
            "odd: [n, 2] × w [2]: its vjp returns 1 gradient for 2 inputs: it must return one gradient for each input, or None for an input without a gradient",
        ),
        // The same mistake at no other size: then it says at which.
        (
            |x| if x.dim(0) == 2 { x.reshape([9]) } else { x.linear("fc", 2) },
            mse,
            "reshape: [2, 4]: 8 elements do not fill [9], which has 9; the model was tried with a batch of 2",
        ),
        // No line through the sizes.
        (
            |x| x.matmul_t(x, false, true).flatten().reshape([1]),
            mse,
            "reshape: [2, 2]: 4 elements do not fill [1], which has 1; the model was tried with a batch of 2",
        ),
    ];
    let data = numbers()?;
    for (model, loss, want) in cases {
        let error = Trainer::for_data(&Device::cpu(), &data, model, loss, Sgd::new(0.1)).err();
        assert_eq!(text(error)?, want);
    }
    let cases: Vec<(Model, Loss, &str)> = vec![
        (
            |x| x.flatten().linear("fc", 3),
            |y, t| y.cross_entropy(t.unsqueeze(1)),
            "cross_entropy: [n, 3] × u32 [n, 1]: the labels should have the shape u32 [n], one for each row of the first input",
        ),
        (
            |x| x.flatten().linear("fc", 3),
            |y, t| y.mse(t.to_f32()),
            "mse: [n, 3] × [n]: prediction and target must have the same shape; reshape one of them",
        ),
        (
            |x| x.convolve2d(param(x, "conv.weight", &[8, 3, 3, 3]), Default::default()),
            |y, t| y.flatten().cross_entropy(t),
            "conv2d: [n, 2, 6, 6] × conv.weight [8, 3, 3, 3]: the weight is for 3 channels, but the input has 2",
        ),
        (
            |x| x.conv2d("conv", 8, 7),
            |y, t| y.flatten().cross_entropy(t),
            "conv2d: [n, 2, 6, 6] × conv.weight [8, 2, 7, 7]: the kernel is 7 × 7, which is more than the image with its padding, 6 × 6",
        ),
    ];
    let data = images()?;
    for (model, loss, want) in cases {
        let error = Trainer::for_data(&Device::cpu(), &data, model, loss, Sgd::new(0.1)).err();
        assert_eq!(text(error)?, want);
    }
    Ok(())
}

pub fn chosen(device: &Device) -> Check {
    let model: Model = |x| if x.dim(0) > 5 { (x + param(x, "b", &[5])).linear("fc", 2) } else { x.linear("fc", 2) };
    let mut trainer = Trainer::for_data(device, &numbers()?, model, |y, t| y.mse(t), Sgd::new(0.1))?;
    let batch = [Host::new([6, 4], vec![0.5; 24]), Host::new([6, 2], vec![0.5; 12])];
    let want = "add: [6, 4] × b [5]: shape [5] (input 1) does not broadcast with [6, 4]";
    assert_eq!(text(trainer.step(&batch).err())?, want);
    let g = Graph::training();
    let x = g.input([6, 4]);
    let loss = (x + g.param("b", [5], Init::Ones)).sum_all();
    assert_eq!(text(Trainer::new(device, loss, Sgd::new(0.1)).err())?, want);
    Ok(())
}
