//! How rows of golden files become ops, layers and networks, family by family.

use crate::golden::Args;
use downhill::{
    Tensor,
    layers::{
        AttentionMask, BatchNorm, Conv, Conv2d, ConvTranspose2d, Direction, GroupNorm, InstanceNorm, LayerNorm, MultiHeadAttention,
        Recurrent, RmsNorm, Rotary, TransformerDecoderLayer, TransformerEncoderLayer,
    },
    losses,
    ops::{
        attention::Attention,
        conv2d::{Convolution, Padding},
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::{AvgPool, Upsample},
        volumes::Convolution3d,
    },
};

/// Files of ops.
pub const OPS: [&str; 4] = ["attention", "composed", "conv", "pool"];

/// Files of layers, with parameters named as in PyTorch's state dicts.
pub const LAYERS: [&str; 4] = ["attention_layers", "conv_layers", "norm_layers", "recurrent_layers"];

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
            [w] => w.into(),
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
        "adaptive_max_pool2d" => x[0].adaptive_max_pool2d(pair(args, "size")),

        // compositions, and losses of every sample
        "norm" => {
            let (axes, keepdim) = (args.axes("axes"), args.b("keepdim"));
            x[0].norm(&axes, keepdim)
        }
        "normalize" => x[0].normalize(args.i("axis")),
        "cosine_similarity" => x[0].cosine_similarity(x[1], args.i("axis")),
        "masked_fill" => x[0].masked_fill(x[1], args.f32("value")),
        "slice_step" => x[0].slice_step(args.i("axis"), args.u("start"), args.u("end"), args.u("step")),
        "einsum" => x[0].einsum(&args.text("equation"), &x[1..]),
        "gather" => x[0].gather(args.i("axis"), x[1]),
        "sort" => x[0].sort(args.i("axis"), args.b("descending")).0,
        "argsort" => x[0].argsort(args.i("axis"), args.b("descending")),
        "topk" => x[0].topk(args.u("k"), args.i("axis"), args.b("largest")).0,
        "topk_indices" => x[0].topk(args.u("k"), args.i("axis"), args.b("largest")).1,
        "to_index" => x[0].to_index(),
        "ctc_loss" => x[0].log_softmax(-1).ctc_loss(x[1], x[2], x[3], args.u("blank") as u32),
        "max_pool2d_indices" => {
            let options = MaxPool { stride: Some(sizes(args, "stride")), padding: sizes(args, "padding"), ..MaxPool::default() };
            x[0].max_pool2d_with_indices(sizes::<2>(args, "kernel"), options).1
        }
        "conv3d" => {
            let [stride, padding, dilation] = ["stride", "padding", "dilation"].map(|name| sizes(args, name));
            x[0].convolve3d(x[1], Convolution3d { stride, padding, dilation, groups: args.u("groups") })
        }
        "max_pool3d" => {
            let [stride, padding] = ["stride", "padding"].map(|name| sizes(args, name));
            let options = MaxPool { stride: Some(stride), padding, ceil_mode: args.b("ceil_mode"), ..MaxPool::default() };
            x[0].max_pool3d_with(sizes(args, "kernel"), options)
        }
        "avg_pool3d" => {
            let [stride, padding] = ["stride", "padding"].map(|name| sizes(args, name));
            let count_include_pad = args.b("count_include_pad");
            let options = AvgPool { stride: Some(stride), padding, ceil_mode: args.b("ceil_mode"), count_include_pad };
            x[0].avg_pool3d_with(sizes(args, "kernel"), options)
        }
        "upsample3d" => x[0].upsample3d(upsample(args), sizes(args, "size")),
        "gaussian_nll" => losses::gaussian_nll(x[0], x[1], x[2]).none(),
        "poisson_nll" => losses::poisson_nll(x[0], x[1]).none(),
        "hinge" => losses::hinge(x[0], x[1]).none(),
        "hinge_embedding" => losses::hinge_embedding(x[0], x[1], args.f32("margin")).none(),
        "margin_ranking" => losses::margin_ranking(x[0], x[1], x[2], args.f32("margin")).none(),
        "triplet_margin" => losses::triplet_margin(x[0], x[1], x[2], args.f32("margin")).none(),
        "cosine_embedding" => losses::cosine_embedding(x[0], x[1], x[2], args.f32("margin")).none(),
        "pos_weight" => losses::bce_with_logits(x[0], x[1]).pos_weight(x[2]).none(),

        // normalisation

        // attention and embedding
        "attention" => {
            let options = Attention { scale: Some(args.f32("scale")), ..pairs(args) };
            x[0].scaled_dot_product_attention(x[1], x[2], options)
        }
        "attention_masked" => {
            let options = pairs(args);
            x[0].scaled_dot_product_attention_masked(x[1], x[2], mask(args, &x[3..]), options)
        }
        "attention_options" => x[0].scaled_dot_product_attention(x[1], x[2], pairs(args)),
        "rotary" => x[0].rotary_with(Rotary { base: args.f32("base"), interleaved: args.b("interleaved") }),
        other => panic!("no op for {other}"),
    }
}

/// The options of pairs of a query and a key. Most rows have only the first one.
fn pairs(args: &mut Args) -> Attention {
    let mut flag = |name: &str| args.has(name) && args.b(name);
    let (enable_gqa, alibi) = (flag("enable_gqa"), flag("alibi"));
    let local_window_size = args.has("window").then(|| sizes(args, "window"));
    Attention { causal: args.b("causal"), enable_gqa, alibi, local_window_size, ..Attention::default() }
}

/// The masks that the arguments name, in this order.
fn mask<'g>(args: &mut Args, x: &[Tensor<'g>]) -> AttentionMask<'g> {
    let mut x = x.iter().copied();
    let [lengths, mask, bias] = ["lengths", "mask", "bias"].map(|name| if args.b(name) { x.next() } else { None });
    AttentionMask { lengths, mask, bias }
}

fn pair(args: &mut Args, name: &str) -> [usize; 2] {
    args.dims(name).try_into().expect("two sizes")
}

fn upsample(args: &mut Args) -> Upsample {
    let align_corners = args.b("align_corners");
    match args.text("mode").as_str() {
        "nearest" => Upsample::Nearest,
        "nearest-exact" => Upsample::NearestExact,
        "bicubic" => Upsample::Bicubic { align_corners },
        "bilinear" | "trilinear" => Upsample::Bilinear { align_corners },
        other => panic!("no mode {other}"),
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
        "batch_norm" => {
            args.b("training");
            x[0].batch_norm_with(
                "layer",
                BatchNorm { eps: args.f32("eps"), momentum: args.f32("momentum"), no_affine: !args.b("affine"), frozen: false },
            )
        }
        "layer_norm" => {
            let (eps, axes) = (args.f32("eps"), args.u("axes"));
            x[0].layer_norm_with("layer", LayerNorm { eps, axes, no_affine: !args.b("affine"), no_bias: !args.b("bias") })
        }
        "rms_norm" => x[0].rms_norm_with("layer", RmsNorm { eps: args.f32("eps"), axes: args.u("axes"), no_affine: !args.b("affine") }),
        "group_norm" => x[0].group_norm_with("layer", args.u("groups"), GroupNorm { eps: args.f32("eps"), no_affine: !args.b("affine") }),
        "instance_norm" => x[0].instance_norm_with("layer", InstanceNorm { eps: args.f32("eps"), affine: args.b("affine") }),

        // attention and embedding
        "embedding" => x[0].embedding("layer", args.u("vocabulary"), args.u("dim")),
        "multi_head_attention" => {
            let (causal, no_bias, memory) = (args.b("causal"), !args.b("bias"), x.get(1).copied());
            x[0].multi_head_attention_with(
                "layer",
                args.u("heads"),
                MultiHeadAttention { causal, no_bias, memory, ..MultiHeadAttention::default() },
            )
        }
        "multi_head_attention_masked" => {
            let memory = args.b("memory").then(|| x[1]);
            let mask = mask(args, &x[1 + usize::from(memory.is_some())..]);
            x[0].multi_head_attention_with("layer", args.u("heads"), MultiHeadAttention { memory, mask, ..MultiHeadAttention::default() })
        }
        "multi_head_attention_options" => {
            let rotary = args.has("rotary").then(|| Rotary { interleaved: args.text("rotary") == "interleaved", ..Rotary::default() });
            let Attention { causal, local_window_size, alibi, .. } = pairs(args);
            let (memory, kv_heads) = (x.get(1).copied(), Some(args.u("kv_heads")));
            let options =
                MultiHeadAttention { causal, memory, kv_heads, local_window_size, alibi, rotary, ..MultiHeadAttention::default() };
            x[0].multi_head_attention_with("layer", args.u("heads"), options)
        }
        "transformer_decoder_layer" => {
            let (norm_first, gelu, mask, memory_mask) =
                (args.b("norm_first"), args.b("gelu"), AttentionMask::lengths(x[2]), AttentionMask::lengths(x[3]));
            let options =
                TransformerDecoderLayer { norm_first, gelu, mask, memory_mask, dropout: 0.0, ..TransformerDecoderLayer::default() };
            x[0].transformer_decoder_layer_with("layer", x[1], args.u("heads"), args.u("feed_forward"), options)
        }
        "transformer_encoder_layer" => {
            let (norm_first, causal, gelu) = (args.b("norm_first"), args.b("causal"), args.b("gelu"));
            let mask = AttentionMask { lengths: x.get(1).copied(), ..AttentionMask::default() };
            let options = TransformerEncoderLayer { norm_first, causal, gelu, mask, dropout: 0.0, ..TransformerEncoderLayer::default() };
            x[0].transformer_encoder_layer_with("layer", args.u("heads"), args.u("feed_forward"), options)
        }

        // recurrent
        "lstm" | "gru" => recurrent(name, args, x, None),
        "lstm_lengths" => recurrent("lstm", args, &x[..x.len() - 1], x.last().copied()),
        "gru_lengths" => recurrent("gru", args, &x[..x.len() - 1], x.last().copied()),
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
        "cnn" => |x| {
            let padded = || Conv2d { padding: 1.into(), no_bias: true, ..Conv2d::default() };
            let x = x.conv2d_with("conv1", 8, 3, padded()).batch_norm("bn1").relu().max_pool2d(2);
            let x = x.conv2d_with("conv2", 12, 3, padded()).batch_norm("bn2").relu().max_pool2d(2);
            x.flatten().linear("fc", 10)
        },
        "transformer" => |x| {
            let options = TransformerEncoderLayer { norm_first: true, dropout: 0.0, ..TransformerEncoderLayer::default() };
            let x = x.linear("embed", 16).positional_embedding("pos", 8);
            x.transformer_encoder_layer_with("block", 4, 32, options).mean(&[1], false).linear("out", 10)
        },
        other => panic!("no model for {other}"),
    }
}

/// All that a recurrent layer gives, in one row.
fn recurrent<'g>(name: &str, args: &mut Args, x: &[Tensor<'g>], lengths: Option<Tensor<'g>>) -> Tensor<'g> {
    let direction = match (args.b("reverse"), args.b("bidirectional")) {
        (false, false) => Direction::Forward,
        (true, false) => Direction::Reverse,
        (false, true) => Direction::Both,
        (true, true) => panic!("both ways, reversed"),
    };
    assert_eq!(args.b("state"), x.len() > 1);
    let (h0, c0) = (x.get(1).copied(), x.get(2).copied());
    let reset_after = !args.has("reset_after") || args.b("reset_after");
    let proj_size = if args.has("proj_size") { args.u("proj_size") } else { 0 };
    let options = Recurrent { no_bias: !args.b("bias"), layers: args.u("layers"), direction, h0, c0, reset_after, proj_size, lengths };
    let hidden = args.u("hidden");
    let row = |x: Tensor<'g>| x.reshape([x.shape().elements()]);
    if name == "lstm" {
        let lstm = x[0].lstm_with("layer", hidden, options);
        return row(lstm.output).concat(&[row(lstm.h), row(lstm.c)], 0);
    }
    let gru = x[0].gru_with("layer", hidden, options);
    row(gru.output).concat(&[row(gru.h)], 0)
}
