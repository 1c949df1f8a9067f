//! How rows of golden files become ops and layers, family by family.

use crate::golden::Args;
use downhill::Tensor;

/// Files of ops.
pub const OPS: [&str; 0] = [];

/// Files of layers, with parameters named as in PyTorch's state dicts.
pub const LAYERS: [&str; 0] = [];

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
pub fn layer<'g>(name: &str, _args: &mut Args, _x: &[Tensor<'g>]) -> Tensor<'g> {
    match name {
        // convolution

        // normalisation

        // attention and embedding

        // recurrent
        other => panic!("no layer for {other}"),
    }
}
