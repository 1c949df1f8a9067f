//! How rows of golden files become ops and layers, family by family.

use crate::golden::Args;
use downhill::{
    Tensor,
    layers::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm},
    ops::{
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::{AvgPool, Upsample},
    },
};

/// Files of ops.
pub const OPS: [&str; 1] = ["pool"];

/// Files of layers, with parameters named as in PyTorch's state dicts.
pub const LAYERS: [&str; 1] = ["norm_layers"];

/// An op by its name in the files.
pub fn op<'g>(name: &str, args: &mut Args, x: &[Tensor<'g>]) -> Tensor<'g> {
    match name {
        // convolution

        // pooling, padding and resizing
        "max_pool2d" => {
            let kernel = pair(args, "kernel");
            let (stride, padding, dilation) = (Some(pair(args, "stride")), pair(args, "padding"), pair(args, "dilation"));
            x[0].max_pool2d_with(kernel, MaxPool { stride, padding, dilation, ceil_mode: args.b("ceil_mode") })
        }
        "max_pool1d" => {
            let (stride, padding, dilation) = (Some([args.u("stride")]), [args.u("padding")], [args.u("dilation")]);
            x[0].max_pool1d_with(args.u("kernel"), MaxPool { stride, padding, dilation, ceil_mode: args.b("ceil_mode") })
        }
        "avg_pool2d" => {
            let (kernel, stride, padding) = (pair(args, "kernel"), Some(pair(args, "stride")), pair(args, "padding"));
            let (ceil_mode, count_include_pad) = (args.b("ceil_mode"), args.b("count_include_pad"));
            x[0].avg_pool2d_with(kernel, AvgPool { stride, padding, ceil_mode, count_include_pad })
        }
        "avg_pool1d" => {
            let (kernel, stride, padding) = (args.u("kernel"), Some([args.u("stride")]), [args.u("padding")]);
            let (ceil_mode, count_include_pad) = (args.b("ceil_mode"), args.b("count_include_pad"));
            x[0].avg_pool1d_with(kernel, AvgPool { stride, padding, ceil_mode, count_include_pad })
        }
        "adaptive_avg_pool2d" => x[0].adaptive_avg_pool2d(pair(args, "size")),
        "global_avg_pool2d" => x[0].global_avg_pool2d(),
        "upsample" => x[0].upsample(upsample(args), pair(args, "size")),
        "upsample_by" => x[0].upsample_by(upsample(args), args.u("factor")),
        "pad_with" => {
            let (value, [left, right], [top, bottom]) = (args.f32("value"), pair(args, "columns"), pair(args, "rows"));
            let mode = match args.text("mode").as_str() {
                "constant" => PadMode::Constant(value),
                "reflect" => PadMode::Reflect,
                "replicate" => PadMode::Replicate,
                "circular" => PadMode::Circular,
                other => panic!("no mode {other}"),
            };
            x[0].pad_with(-1, left, right, mode).pad_with(-2, top, bottom, mode)
        }
        "flip" => x[0].flip(args.i("axis")),

        // normalisation

        // attention and embedding

        // recurrent
        other => panic!("no op for {other}"),
    }
}

fn pair(args: &mut Args, name: &str) -> [usize; 2] {
    args.dims(name).try_into().expect("two sizes")
}

fn upsample(args: &mut Args) -> Upsample {
    let align_corners = args.b("align_corners");
    match args.text("mode").as_str() {
        "nearest" => Upsample::Nearest,
        "bilinear" => Upsample::Bilinear { align_corners },
        other => panic!("no mode {other}"),
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
        "rms_norm" => {
            x[0].rms_norm_with("layer", RmsNorm { eps: args.f32("eps"), axes: args.u("axes"), no_affine: !args.b("affine") })
        }
        "group_norm" => {
            x[0].group_norm_with("layer", args.u("groups"), GroupNorm { eps: args.f32("eps"), no_affine: !args.b("affine") })
        }
        "instance_norm" => x[0].instance_norm_with("layer", InstanceNorm { eps: args.f32("eps"), affine: args.b("affine") }),

        // attention and embedding

        // recurrent
        other => panic!("no layer for {other}"),
    }
}
