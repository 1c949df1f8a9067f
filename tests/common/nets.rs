//! How rows of golden files become ops, layers and networks, family by family.

use crate::golden::Args;
use downhill::{
    Tensor,
    layers::{Direction, Recurrent},
};

/// Files of ops.
pub const OPS: [&str; 0] = [];

/// Files of layers, with parameters named as in PyTorch's state dicts.
pub const LAYERS: [&str; 1] = ["recurrent_layers"];

/// An op by its name in the files.
pub fn op<'g>(name: &str, _args: &mut Args, _x: &[Tensor<'g>]) -> Tensor<'g> {
    match name {
        // convolution

        // pooling, padding and resizing

        // normalisation

        // attention and embedding

        // recurrent
        other => panic!("no op for {other}"),
    }
}

/// A layer by its name in the files, with the name `layer`.
pub fn layer<'g>(name: &str, args: &mut Args, x: &[Tensor<'g>]) -> Tensor<'g> {
    match name {
        // convolution

        // normalisation

        // attention and embedding

        // recurrent
        "lstm" | "gru" => recurrent(name, args, x),
        other => panic!("no layer for {other}"),
    }
}

/// A network of `training.json` by its name there: from a batch of samples to the logits of 10 classes.
pub fn model(name: &str) -> for<'g> fn(Tensor<'g>) -> Tensor<'g> {
    match name {
        "mlp" => |x| x.linear("fc1", 48).relu().linear("fc2", 32).relu().linear("fc3", 10),
        "lstm" => |x| {
            let (n, t) = (x.dim(0), x.dim(1));
            x.lstm("lstm", 32).slice(1, t - 1, t).reshape([n, 32]).linear("out", 10)
        },
        other => panic!("no model for {other}"),
    }
}

/// All that a recurrent layer gives, in one row.
fn recurrent<'g>(name: &str, args: &mut Args, x: &[Tensor<'g>]) -> Tensor<'g> {
    let direction = match (args.b("reverse"), args.b("bidirectional")) {
        (false, false) => Direction::Forward,
        (true, false) => Direction::Reverse,
        (false, true) => Direction::Both,
        (true, true) => panic!("both ways, reversed"),
    };
    assert_eq!(args.b("state"), x.len() > 1);
    let (h0, c0) = (x.get(1).copied(), x.get(2).copied());
    let options = Recurrent { no_bias: !args.b("bias"), layers: args.u("layers"), direction, h0, c0 };
    let hidden = args.u("hidden");
    let row = |x: Tensor<'g>| x.reshape([x.shape().elements()]);
    if name == "lstm" {
        let lstm = x[0].lstm_with("layer", hidden, options);
        return row(lstm.output).concat(&[row(lstm.h), row(lstm.c)], 0);
    }
    let gru = x[0].gru_with("layer", hidden, options);
    row(gru.output).concat(&[row(gru.h)], 0)
}
