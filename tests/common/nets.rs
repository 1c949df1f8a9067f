//! How rows of golden files become ops and layers, family by family.

use crate::golden::Args;
use downhill::{
    Tensor,
    layers::{Conv, ConvTranspose2d},
    ops::conv2d::{Convolution, Padding},
};

/// Files of ops.
pub const OPS: [&str; 1] = ["conv"];

/// Files of layers, with parameters named as in PyTorch's state dicts.
pub const LAYERS: [&str; 1] = ["conv_layers"];

/// Sizes along each axis.
fn sizes<const D: usize>(args: &mut Args, name: &str) -> [usize; D] {
    args.dims(name).try_into().expect("a size for each axis")
}

/// PyTorch's padding: `same`, or zeros on both sides of each axis.
fn padding(args: &mut Args) -> Padding {
    match args.text_or_dims("padding") {
        Ok(text) if text == "same" => Padding::Same,
        Ok(text) => panic!("padding {text}"),
        Err(dims) => match dims[..] {
            [w] => Padding::Sides([0, 0, w, w]),
            [h, w] => [h, w].into(),
            _ => panic!("padding {dims:?}"),
        },
    }
}

fn convolution<const D: usize>(args: &mut Args) -> Convolution<D> {
    let (stride, dilation) = (sizes(args, "stride"), sizes(args, "dilation"));
    Convolution { stride, padding: padding(args), dilation, groups: args.u("groups") }
}

fn conv<const D: usize>(args: &mut Args) -> Conv<D> {
    let Convolution { stride, padding, dilation, groups } = convolution(args);
    Conv { stride, padding, dilation, groups, no_bias: !args.b("bias"), ..Conv::default() }
}

/// An op by its name in the files.
pub fn op<'g>(name: &str, args: &mut Args, x: &[Tensor<'g>]) -> Tensor<'g> {
    match name {
        // convolution
        "conv1d" => x[0].convolve1d(x[1], convolution(args)),
        "conv2d" => x[0].convolve2d(x[1], convolution(args)),
        "conv_transpose2d" => x[0].convolve_transpose2d(x[1], convolution(args), sizes(args, "output_padding")),

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
        "Conv1d" => x[0].conv1d_with("layer", args.u("out"), sizes::<1>(args, "kernel")[0], conv(args)),
        "Conv2d" => x[0].conv2d_with("layer", args.u("out"), sizes::<2>(args, "kernel"), conv(args)),
        "ConvTranspose2d" => {
            let (out, kernel, output_padding) = (args.u("out"), sizes::<2>(args, "kernel"), sizes(args, "output_padding"));
            let Conv { stride, padding, dilation, groups, no_bias, .. } = conv::<2>(args);
            let options = ConvTranspose2d { stride, padding, output_padding, dilation, groups, no_bias, ..ConvTranspose2d::default() };
            x[0].conv_transpose2d_with("layer", out, kernel, options)
        }

        // normalisation

        // attention and embedding

        // recurrent
        other => panic!("no layer for {other}"),
    }
}
