//! How rows of golden files become ops and layers, family by family.

use crate::golden::Args;
use downhill::{
    Tensor,
    layers::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm},
};

/// Files of ops.
pub const OPS: [&str; 0] = [];

/// Files of layers, with parameters named as in PyTorch's state dicts.
pub const LAYERS: [&str; 1] = ["norm_layers"];

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
        "batch_norm" => {
            args.b("training");
            x[0].batch_norm_with("layer", BatchNorm { eps: args.f32("eps"), momentum: args.f32("momentum"), no_affine: !args.b("affine") })
        }
        "layer_norm" => {
            let (eps, axes) = (args.f32("eps"), args.u("axes"));
            x[0].layer_norm_with("layer", LayerNorm { eps, axes, no_affine: !args.b("affine"), no_bias: !args.b("bias") })
        }
        "rms_norm" => x[0].rms_norm_with("layer", RmsNorm { eps: args.f32("eps"), axes: args.u("axes"), no_affine: !args.b("affine") }),
        "group_norm" => x[0].group_norm_with("layer", args.u("groups"), GroupNorm { eps: args.f32("eps"), no_affine: !args.b("affine") }),
        "instance_norm" => x[0].instance_norm_with("layer", InstanceNorm { eps: args.f32("eps"), affine: args.b("affine") }),

        // attention and embedding

        // recurrent
        other => panic!("no layer for {other}"),
    }
}
