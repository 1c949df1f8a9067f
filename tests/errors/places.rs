//! The line that an error names is the line of the user's program: for every public method that adds to a graph, whatever it is
//! made of, in what it builds, in the gradient of that, and in its mistakes.

use crate::common::Check;
use downhill::{
    Error, Graph, Host, Tensor,
    init::Init,
    layers::{
        BatchNorm, Conv1d, Conv2d, Conv3d, ConvTranspose2d, Direction, GroupNorm, InstanceNorm, LayerNorm, Linear, MultiHeadAttention,
        RandomAffine, Recurrent, RmsNorm, Rotary, TransformerDecoderLayer, TransformerEncoderLayer,
    },
    losses,
    ops::{
        attention::{Attention, AttentionMask},
        conv2d::{Convolution, Padding},
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::{AvgPool, Upsample},
        softmax::Softmax,
        volumes::Convolution3d,
    },
    plan::{Plan, PlanOptions},
};
use std::{fs, path::Path};

type Make = for<'g> fn(&'g Graph) -> Tensor<'g>;

/// Each on a line of its own.
#[rustfmt::skip]
fn cases() -> Vec<(u32, &'static str, Make)> {
    let mut all: Vec<(u32, &'static str, Make)> = Vec::new();
    macro_rules! case {
        (|$g:ident| $make:expr) => {
            all.push((line!(), stringify!($make), |$g| $make))
        };
    }
    // These calls are right.
    case!(|g| g.input([2, 3]).sum(&[0, 1], true));
    case!(|g| g.input([2, 3, 4]).mean(&[0, 2], false));
    case!(|g| g.input([2, 3, 4]).max(&[0, 2], true));
    case!(|g| g.input([2, 3, 4]).min(&[0, 2], false));
    case!(|g| g.input([2, 3]).sum_all() + g.input([2, 3]).mean_all() + g.input([2, 3]).max_all() * g.input([2, 3]).min_all());
    case!(|g| g.input([2, 3]).logsumexp(&[0, 1], false));
    case!(|g| g.input([2, 3]).pick(g.labels([2])));
    case!(|g| g.labels([2]).one_hot(3));
    case!(|g| g.input([2, 3]).correct(g.labels([2])));
    case!(|g| g.input([2, 3]).cumsum(-1));
    case!(|g| g.input([2, 3]).argmax(0).to_f32() + g.input([2, 3]).argmin(0).to_f32());
    case!(|g| g.input([2, 3, 4]).variance(&[0, 2], 1, true) + g.input([2, 3, 4]).std(&[2], 0, true));
    case!(|g| g.input([2, 3, 4]).scaled_dot_product_attention(g.input([2, 5, 4]), g.input([2, 5, 6]), Attention { causal: true, ..Attention::default() }));
    case!(|g| g.input([2, 3, 4]).scaled_dot_product_attention_masked(g.input([2, 5, 4]), g.input([2, 5, 6]), AttentionMask { lengths: Some(g.labels([2])), mask: Some(g.labels([3, 5])), bias: Some(g.input([3, 5])) }, Attention::default()));
    case!(|g| g.input([2, 4, 3, 4]).scaled_dot_product_attention(g.input([2, 2, 5, 4]), g.input([2, 2, 5, 6]), Attention { enable_gqa: true, local_window_size: Some([1, 1]), alibi: true, dropout_p: 0.2, ..Attention::default() }));
    case!(|g| g.input([2, 1, 3, 4]).scaled_dot_product_attention(g.input([3, 5, 4]), g.input([5, 6]), Attention::default()));
    case!(|g| g.input([2, 3, 4]).rotary().rotary_with(Rotary { base: 100.0, interleaved: true }));
    case!(|g| g.input([2, 3, 4]).permute(&[2, 0, 1]).transpose());
    case!(|g| g.input([2, 3, 8, 8]).max_pool2d(2).max_pool2d_with(2, MaxPool { padding: [1, 1], ..MaxPool::default() }));
    case!(|g| g.input([2, 3, 8]).max_pool1d(2).max_pool1d_with(2, MaxPool { padding: [1], ..MaxPool::default() }));
    case!(|g| g.input([5, 3]).gather_rows(g.labels([2])));
    case!(|g| g.input([2, 3]).softmax(0).log_softmax(1));
    case!(|g| g.input([2, 1, 4, 4]).random_affine(RandomAffine::default()).random_brightness(0.1).random_contrast(0.1).cutout(2));
    case!(|g| g.input([4, 3]).mixup(g.labels([4]), 3, 0.5).0);
    case!(|g| g.input([2, 3]).checkpoint(|x| x.checkpoint(|x| x.linear("fc", 4).softmax(1)).tanh().dropout(0.5)));
    case!(|g| g.input([2, 3]).slice(1, 0, 2).reshape([4]).unsqueeze(0).squeeze(0).flatten());
    case!(|g| g.input([2, 3, 8, 8]).avg_pool2d(2).avg_pool2d_with(2, AvgPool { padding: [1, 1], ..AvgPool::default() }));
    case!(|g| g.input([2, 3, 8]).avg_pool1d(2).avg_pool1d_with(2, AvgPool { padding: [1], ..AvgPool::default() }));
    case!(|g| g.input([2, 3, 8, 8]).adaptive_avg_pool2d([3, 3]).global_avg_pool2d());
    case!(|g| g.input([2, 3, 8, 8]).adaptive_avg_pool2d([1, 1]));
    case!(|g| g.input([2, 3, 4, 4]).upsample(Upsample::Nearest, [5, 7]).upsample_by(Upsample::Bilinear { align_corners: false }, 2).flip(-1));
    case!(|g| g.scalar(2.0) * g.full([3], 1.0) * g.uniform([3]) * g.normal([3]));
    case!(|g| g.input([3]).identity().abs().sign().exp().expm1().ln().log1p().sqrt().rsqrt().square().reciprocal().sin().cos().tanh());
    case!(|g| g.input([3]).sigmoid().relu().silu().softplus().log_sigmoid().gelu().gelu_tanh().detach().stop_gradient());
    case!(|g| g.input([3]).maximum(g.input([3])).minimum(0.5).pow(g.input([3])).eq(1.0).ne(g.input([3])).lt(2.0).le(1.0).gt(0.5).ge(0.1));
    case!(|g| g.input([3]).powf(3.0).powf(1.7).clamp(0.0, 1.0).leaky_relu(0.1).elu(1.0).where_(g.input([3]), 2.0).broadcast_to([2, 3]));
    case!(|g| g.input([2, 3, 4, 4]).dropout(0.5).dropout2d(0.5));
    case!(|g| g.input([2, 3]).matmul(g.input([3, 4])).matmul_t(g.input([5, 4]), false, true));
    case!(|g| g.input([2, 3]).concat(&[g.input([2, 4])], 1).pad(0, 1, 2));
    case!(|g| g.input([5, 6]).pad_with(0, 1, 2, PadMode::Reflect).pad_with(0, 0, 2, PadMode::Replicate));
    case!(|g| g.input([5, 6]).pad_with(1, 1, 2, PadMode::Circular).pad_with(1, 3, 0, PadMode::Constant(1.0)));
    case!(|g| g.input([2, 3, 8, 8]).convolve2d(g.input([4, 3, 3, 3]), Convolution::default()));
    case!(|g| g.input([2, 3, 8]).convolve1d(g.input([4, 3, 3]), Convolution::default()));
    case!(|g| g.input([2, 3, 8, 8]).convolve_transpose2d(g.input([3, 4, 3, 3]), Convolution::default(), [0, 0]));
    case!(|g| { let x = g.input([3]); x.exp().ln().sum_all().grad(&[x])[0] });
    case!(|g| { let x = g.input([2, 3]); x.softmax(1).vjp(g.input([2, 3]), &[x])[0] });
    case!(|g| -(1.0 - g.input([3]) / 2.0 + 3.0 * g.input([1])) * g.input([2, 1]) / g.input([3]));
    case!(|g| g.labels([2, 3]).embedding("e", 5, 8).positional_embedding("p", 4).sinusoidal_positions());
    case!(|g| g.input([2, 3, 8]).multi_head_attention("a", 2));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 2, MultiHeadAttention { memory: Some(g.input([2, 5, 8])), ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 4, MultiHeadAttention { kv_heads: Some(2), rotary: Some(Rotary::default()), alibi: true, local_window_size: Some([1, 1]), dropout: 0.1, ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 4, MultiHeadAttention { kv_heads: Some(1), memory: Some(g.input([2, 5, 8])), ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 8]).transformer_encoder_layer("t", 2, 16));
    case!(|g| g.input([2, 3, 8]).transformer_encoder_layer_with("t", 2, 16, TransformerEncoderLayer { norm_first: true, causal: true, gelu: true, dropout: 0.2, ..TransformerEncoderLayer::default() }));
    case!(|g| g.input([2, 3, 8]).transformer_decoder_layer("t", g.input([2, 5, 8]), 2, 16));
    case!(|g| g.input([2, 3, 8]).transformer_decoder_layer_with("t", g.input([2, 5, 8]), 2, 16, TransformerDecoderLayer { norm_first: true, gelu: true, memory_mask: AttentionMask::key_padding(g.labels([2, 5])), ..TransformerDecoderLayer::default() }));
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { direction: Direction::Both, lengths: Some(g.labels([2])), ..Recurrent::default() }).output);
    case!(|g| g.labels([2]).sequence_mask(4));
    case!(|g| g.input([2, 3, 8]).linear("l", 4).linear_with("m", 5, Linear { bias: Some(Init::Ones), ..Linear::default() }));
    case!(|g| g.input([2, 4, 9, 9]).conv2d("c", 6, 3).conv2d_with("d", 4, 3, Conv2d { groups: 2, padding: Padding::Same, ..Conv2d::default() }));
    case!(|g| g.input([2, 4, 9]).conv1d("c", 6, 3).conv1d_with("d", 4, 3, Conv1d { groups: 2, ..Conv1d::default() }));
    case!(|g| g.input([2, 4, 9, 9]).conv_transpose2d("c", 6, 3).conv_transpose2d_with("d", 4, 3, ConvTranspose2d { groups: 2, ..ConvTranspose2d::default() }));
    case!(|g| g.input([2, 4, 6]).lstm("r", 5));
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { layers: 2, direction: Direction::Both, h0: Some(g.input([4, 2, 5])), ..Recurrent::default() }).output);
    case!(|g| g.input([2, 4, 6]).gru("r", 5));
    case!(|g| g.input([2, 4, 6]).gru_with("r", 5, Recurrent { layers: 2, direction: Direction::Reverse, no_bias: true, ..Recurrent::default() }).h);
    case!(|g| g.input([2, 4, 6]).gru_with("r", 5, Recurrent { reset_after: false, direction: Direction::Both, ..Recurrent::default() }).output);
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { proj_size: 3, layers: 2, ..Recurrent::default() }).c);
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { proj_size: 3, direction: Direction::Both, lengths: Some(g.labels([2])), ..Recurrent::default() }).c);
    case!(|g| g.input([2, 4, 6]).batch_norm("n").batch_norm_with("m", BatchNorm { momentum: 0.5, ..BatchNorm::default() }));
    case!(|g| g.input([2, 4, 6]).layer_norm("n").layer_norm_with("m", LayerNorm { axes: 2, ..LayerNorm::default() }));
    case!(|g| g.input([1, 1 << 16]).layer_norm_with("n", LayerNorm { no_affine: true, ..LayerNorm::default() }));
    case!(|g| g.input([2, 4, 6]).rms_norm("n").rms_norm_with("m", RmsNorm { axes: 2, ..RmsNorm::default() }));
    case!(|g| g.input([1, 1 << 16]).rms_norm_with("n", RmsNorm { no_affine: true, ..RmsNorm::default() }));
    case!(|g| g.input([2, 4, 6]).group_norm("n", 2).group_norm_with("m", 4, GroupNorm::default()));
    case!(|g| g.input([2, 4, 6]).instance_norm("n").instance_norm_with("m", InstanceNorm { affine: true, ..InstanceNorm::default() }));
    case!(|g| g.input([4]).mse(g.input([4])) + g.input([4]).mae(g.input([4])) + g.input([4]).huber(g.input([4]), 0.5));
    case!(|g| g.input([4]).bce(g.input([4])) + g.input([4]).bce_with_logits(g.input([4])) + g.input([4]).kl_div(g.input([4])));
    case!(|g| g.input([4, 3]).cross_entropy(g.labels([4])) + g.input([4, 3]).nll(g.labels([4])) + g.input([4, 3]).cross_entropy_soft(g.input([4, 3])));
    case!(|g| losses::mse(g.input([4, 2]), g.input([4, 2])).sample_weights(g.input([4])).mean() + losses::mae(g.input([4]), g.input([4])).sum());
    case!(|g| losses::huber(g.input([4, 2]), g.input([4, 2]), 1.0).sample_weights(g.input([4])).none());
    case!(|g| losses::bce(g.input([4]), g.input([4])).batch_mean() + losses::bce_with_logits(g.input([4]), g.input([4])).mean() + losses::kl_div(g.input([4]), g.input([4])).mean());
    case!(|g| losses::cross_entropy(g.input([4, 3]), g.labels([4])).label_smoothing(0.1).class_weights(g.input([3])).sample_weights(g.input([4])).mean());
    case!(|g| losses::cross_entropy_soft(g.input([4, 3]), g.input([4, 3])).label_smoothing(0.1).class_weights(g.input([3])).mean());
    case!(|g| losses::cross_entropy(g.input([4, 3]), g.labels([4])).ignore_index(7).label_smoothing(0.1).class_weights(g.input([3])).sum());
    case!(|g| losses::nll(g.input([4, 3]), g.labels([4])).ignore_index(7).mean());
    case!(|g| losses::weighted_mean(g.input([3]).sum_all(), g.input([2]).sum_all()));
    case!(|g| losses::nll(g.input([4, 3]), g.labels([4])).class_weights(g.input([3])).sample_weights(g.input([4])).mean());
    case!(|g| g.param("p", [3], Init::Ones) * g.state("s", [3], Init::Zeros) * g.constant(Host::new([3], vec![1.0, 2.0, 3.0])));
    case!(|g| g.apply(Softmax { axis: 0, log: false }, &[g.input_of([2, 3].into())]));
    case!(|g| { g.state("s", [3], Init::Zeros); g.assign("s", g.input([3])); g.state("s", [3], Init::Zeros).exp() });
    case!(|g| g.arange(0, 6, 2) * g.eye(3) + (2 * g.input([3]) - 1) / 3);
    case!(|g| g.input([2, 3]).gather(1, g.input([2, 5]).to_index()) + g.input([2, 5]).gather(1, g.input([2, 5]).argsort(1, true)));
    case!(|g| g.input([2, 3]).sort(1, false).0 + g.input([2, 4]).topk(3, 1, true).0);
    case!(|g| g.input([2, 9, 3]).log_softmax(-1).ctc_loss(g.labels([2, 3]), g.labels([2]), g.labels([2]), 0));
    case!(|g| g.input([2, 3, 6, 6]).max_pool2d_with_indices(2, MaxPool::default()).1.to_f32());
    case!(|g| g.input([2, 3, 4, 5, 6]).convolve3d(g.input([2, 3, 2, 2, 2]), Convolution3d { padding: [1, 0, 0], stride: [2, 1, 1], ..Convolution3d::default() }));
    case!(|g| g.input([2, 3, 4, 5, 6]).conv3d("c", 2, [2, 1, 1]).conv3d_with("d", 2, [1, 2, 1], Conv3d { no_bias: true, ..Conv3d::default() }));
    case!(|g| g.input([2, 3, 9, 8, 7]).max_pool3d([2; 3]).max_pool3d_with([2; 3], MaxPool { padding: [1; 3], ..MaxPool::default() }));
    case!(|g| g.input([2, 3, 9, 8, 7]).avg_pool3d([2; 3]).avg_pool3d_with([2; 3], AvgPool { padding: [1; 3], ..AvgPool::default() }));
    case!(|g| g.input([2, 3, 4, 5, 6]).upsample3d(Upsample::Bilinear { align_corners: false }, [7, 3, 4]));
    case!(|g| g.input([2, 3]).norm(&[-1], true));
    case!(|g| g.input([2, 3]).masked_fill(g.input([3]), 1.0).normalize(-1).cosine_similarity(g.input([3]), 0));
    case!(|g| g.input([2, 7]).slice_step(1, 1, 7, 4) + g.labels([9]).slice_step(0, 0, 9, 8).to_f32());
    case!(|g| g.input([2, 3, 4]).einsum("bij,kj,b->bki", &[g.input([5, 4]), g.input([2])]));
    case!(|g| g.input([2, 3, 7, 8]).adaptive_max_pool2d([3, 4]) + g.input([2, 3, 6, 8]).adaptive_max_pool2d([3, 4]));
    case!(|g| g.input([2, 3, 4, 4]).upsample(Upsample::Bicubic { align_corners: false }, [5, 7]).upsample(Upsample::NearestExact, [9, 3]));
    case!(|g| losses::gaussian_nll(g.input([4, 2]), g.input([4, 2]), g.input([4, 1])).mean() + losses::poisson_nll(g.input([4]), g.input([4])).mean());
    case!(|g| g.input([4]).hinge(g.input([4])) + losses::hinge_embedding(g.input([4]), g.input([4]), 1.0).mean());
    case!(|g| losses::margin_ranking(g.input([4]), g.input([4]), g.input([4]), 0.5).sum() + losses::triplet_margin(g.input([4, 2]), g.input([4, 2]), g.input([4, 2]), 1.0).sample_weights(g.input([4])).mean());
    case!(|g| losses::cosine_embedding(g.input([4, 2]), g.input([4, 2]), g.input([4]), 0.1).sample_weights(g.input([4])).none());
    case!(|g| losses::bce_with_logits(g.input([4, 2]), g.input([4, 2])).pos_weight(g.input([2])).mean());
    // Mistakes of the methods themselves, and of what they are made of.
    case!(|g| g.input([0]));
    case!(|g| g.labels([0]));
    case!(|g| g.input_of([2, 0].into()));
    case!(|g| g.param("p", [0], Init::Ones));
    case!(|g| g.state("s", [0], Init::Ones));
    case!(|g| { g.assign("none", g.input([3])); g.input([1]) });
    case!(|g| { g.state("s", [2], Init::Zeros); g.assign("s", g.input([3])); g.input([1]) });
    case!(|g| g.constant(Host::new([4], vec![1.0; 3])));
    case!(|g| g.apply(Softmax { axis: 5, log: false }, &[g.input([2])]));
    case!(|g| g.full([0], 1.0));
    case!(|g| g.uniform([0]));
    case!(|g| g.normal([0]));
    case!(|g| { g.input([2]).dim(3); g.input([1]) });
    case!(|g| g.input([2, 3]).sum(&[2], true));
    case!(|g| g.input([2, 3]).mean(&[0, 0], true));
    case!(|g| g.input([2, 3]).max(&[5], true));
    case!(|g| g.input([2, 3]).min(&[-3], true));
    case!(|g| g.labels([2, 3]).sum_all());
    case!(|g| g.labels([2, 3]).mean_all());
    case!(|g| g.labels([2, 3]).max_all());
    case!(|g| g.labels([2, 3]).min_all());
    case!(|g| g.input([2, 3]).logsumexp(&[2], true));
    case!(|g| g.labels([2, 3]).logsumexp(&[1], true));
    case!(|g| g.input([2, 3]).pick(g.labels([3])));
    case!(|g| g.input([2]).one_hot(3));
    case!(|g| g.input([2, 3]).correct(g.labels([3])));
    case!(|g| g.input([2]).argmax(1));
    case!(|g| g.input([2]).argmin(1));
    case!(|g| g.input([2, 3]).variance(&[1], 3, true));
    case!(|g| g.input([2, 3, 4]).variance(&[0, 2], 8, true));
    case!(|g| g.input([2, 3]).std(&[7], 0, true));
    case!(|g| g.input([2, 3, 4]).scaled_dot_product_attention(g.input([2, 5, 5]), g.input([2, 5, 6]), Attention::default()));
    case!(|g| g.input([2, 3]).permute(&[0, 0]));
    case!(|g| g.input([2]).transpose());
    case!(|g| g.input([2, 3, 8, 8]).max_pool2d(9));
    case!(|g| g.input([2, 3, 8]).max_pool2d_with(2, MaxPool::default()));
    case!(|g| g.input([2, 3, 8]).max_pool1d(9));
    case!(|g| g.input([2, 3]).max_pool1d_with(2, MaxPool::default()));
    case!(|g| g.input([5, 3]).gather_rows(g.input([2])));
    case!(|g| g.input([2, 3]).softmax(2));
    case!(|g| g.input([2, 3]).random_affine(RandomAffine::default()));
    case!(|g| g.input([2, 3]).random_brightness(-1.0));
    case!(|g| g.input([2, 3]).random_contrast(0.1));
    case!(|g| g.input([2, 3]).cutout(2));
    case!(|g| g.input([4, 3]).mixup(g.labels([3]), 3, 0.5).0);
    case!(|g| g.input([2, 3]).log_softmax(-3));
    case!(|g| g.input([2, 3]).slice(2, 0, 1));
    case!(|g| g.input([2, 3]).slice(1, 2, 9));
    case!(|g| g.input([2, 3]).reshape([7]));
    case!(|g| g.input([2]).unsqueeze(5));
    case!(|g| g.input([1; 6]).unsqueeze(0));
    case!(|g| g.input([2]).squeeze(0));
    case!(|g| g.input([2]).squeeze(3));
    case!(|g| g.input([2, 3, 8, 8]).avg_pool2d(9));
    case!(|g| g.input([2, 3, 8]).avg_pool2d_with(2, AvgPool::default()));
    case!(|g| g.input([2, 3, 8]).avg_pool1d(9));
    case!(|g| g.input([2, 3]).avg_pool1d_with(2, AvgPool::default()));
    case!(|g| g.input([2, 3, 8, 8]).adaptive_avg_pool2d([0, 1]));
    case!(|g| g.input([2, 3]).adaptive_avg_pool2d([1, 1]));
    case!(|g| g.input([2, 3]).global_avg_pool2d());
    case!(|g| g.input([2, 3, 4, 4]).upsample(Upsample::Nearest, [0, 1]));
    case!(|g| g.input([2, 3, 4, 4]).upsample_by(Upsample::Nearest, 0));
    case!(|g| g.input([2]).flip(1));
    case!(|g| g.input([2]).maximum(g.input([3])));
    case!(|g| g.input([2]).pow(g.input([3])));
    case!(|g| g.input([2]) + g.input([3]));
    case!(|g| g.input([2]) - g.input([3]));
    case!(|g| g.input([2]) * g.input([3]));
    case!(|g| g.input([2]) / g.input([3]));
    case!(|g| g.input([2]).where_(g.input([3]), 1.0));
    case!(|g| g.input([2, 3]).broadcast_to([2]));
    case!(|g| g.input([2]).dropout(2.0));
    case!(|g| g.input([2]).dropout2d(0.5));
    case!(|g| g.input([2, 3, 4, 4]).dropout2d(-1.0));
    case!(|g| g.input([2, 3]).matmul(g.input([2, 3])));
    case!(|g| g.input([2, 3]).matmul_t(g.input([2, 4]), false, true));
    case!(|g| g.input([2, 3]).concat(&[g.input([3, 3])], 1));
    case!(|g| g.input([2, 3]).concat(&[], 2));
    case!(|g| g.input([2]).pad(1, 1, 1));
    case!(|g| g.input([2]).pad_with(1, 1, 1, PadMode::Reflect));
    case!(|g| g.labels([2]).pad_with(0, 1, 1, PadMode::Reflect));
    case!(|g| g.input([2]).pad_with(0, 2, 1, PadMode::Reflect));
    case!(|g| g.input([2]).pad_with(0, 1, 3, PadMode::Circular));
    case!(|g| g.input([1 << 20, 1 << 10]).pad_with(0, 1 << 23, 0, PadMode::Replicate));
    case!(|g| g.input([1 << 20, 1 << 10]).pad_with(0, 1 << 22, 1 << 22, PadMode::Constant(1.0)));
    case!(|g| g.input([2, 3, 8, 8]).convolve2d(g.input([4, 2, 3, 3]), Convolution::default()));
    case!(|g| g.input([2, 3, 8]).convolve1d(g.input([4, 2, 3]), Convolution::default()));
    case!(|g| g.input([2, 3, 8, 8]).convolve_transpose2d(g.input([2, 4, 3, 3]), Convolution::default(), [0, 0]));
    case!(|g| g.input([3]).grad(&[g.input([2])])[0]);
    case!(|g| g.input([3]).vjp(g.input([2]), &[g.input([2])])[0]);
    case!(|g| g.input([2, 3]).embedding("e", 5, 8));
    case!(|g| g.labels([2, 3]).embedding("e", 0, 8));
    case!(|g| g.input([2, 3, 4]).positional_embedding("p", 2));
    case!(|g| g.input([4]).positional_embedding("p", 2));
    case!(|g| g.input([4]).sinusoidal_positions());
    case!(|g| g.input([2, 3, 8]).multi_head_attention("a", 3));
    case!(|g| g.input([3, 8]).multi_head_attention("a", 2));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 4, MultiHeadAttention { kv_heads: Some(3), ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 4, MultiHeadAttention { dropout: 2.0, ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 8, MultiHeadAttention { rotary: Some(Rotary::default()), ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 7]).rotary());
    case!(|g| g.input([2, 3, 8]).rotary_with(Rotary { base: 0.0, interleaved: false }));
    case!(|g| g.input([4, 3, 4]).scaled_dot_product_attention(g.input([3, 5, 4]), g.input([3, 5, 6]), Attention { enable_gqa: true, ..Attention::default() }));
    case!(|g| g.input([4, 3, 4]).scaled_dot_product_attention(g.input([3, 5, 4]), g.input([3, 5, 6]), Attention::default()));
    case!(|g| g.input([3, 4]).scaled_dot_product_attention(g.input([5, 4]), g.input([5, 6]), Attention { alibi: true, ..Attention::default() }));
    case!(|g| g.input([3, 4]).scaled_dot_product_attention(g.input([5, 4]), g.input([5, 6]), Attention { dropout_p: 2.0, ..Attention::default() }));
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { lengths: Some(g.labels([3])), proj_size: 3, ..Recurrent::default() }).output);
    case!(|g| g.labels([2, 3, 8]).multi_head_attention("a", 2));
    case!(|g| g.input([2, 3, 8]).multi_head_attention_with("a", 2, MultiHeadAttention { memory: Some(g.input([2, 5, 7])), ..MultiHeadAttention::default() }));
    case!(|g| g.input([2, 3, 4]).scaled_dot_product_attention_masked(g.input([2, 5, 4]), g.input([2, 5, 6]), AttentionMask::lengths(g.labels([3])), Attention::default()));
    case!(|g| g.input([2, 3, 4]).scaled_dot_product_attention_masked(g.input([2, 5, 4]), g.input([2, 5, 6]), AttentionMask::lengths(g.input([2])), Attention::default()));
    case!(|g| g.input([3, 8]).transformer_decoder_layer("t", g.input([2, 3, 8]), 2, 16));
    case!(|g| g.input([2, 3, 8]).transformer_decoder_layer("t", g.input([2, 3, 7]), 2, 16));
    case!(|g| g.labels([2]).sequence_mask(0));
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { lengths: Some(g.input([2])), ..Recurrent::default() }).output);
    case!(|g| g.input([3, 8]).transformer_encoder_layer("t", 2, 16));
    case!(|g| g.input([2, 3, 8]).transformer_encoder_layer("t", 3, 16));
    case!(|g| g.input([2, 3, 8]).transformer_encoder_layer("t", 2, 0));
    case!(|g| g.labels([2, 3, 8]).transformer_encoder_layer("t", 2, 16));
    case!(|g| g.input([2, 3, 8]).transformer_encoder_layer_with("t", 2, 16, TransformerEncoderLayer { dropout: 2.0, ..TransformerEncoderLayer::default() }));
    case!(|g| g.input([2, 3, 8]).transformer_encoder_layer_with("t", 2, 16, TransformerEncoderLayer { dropout: f32::NAN, norm_first: true, ..TransformerEncoderLayer::default() }));
    case!(|g| g.input([]).linear("l", 2));
    case!(|g| g.input([2, 3]).linear("l", 0));
    case!(|g| g.labels([2, 3]).linear_with("l", 2, Linear::default()));
    case!(|g| g.input([2, 3]).conv2d("c", 2, 3));
    case!(|g| g.input([2, 3, 2, 2]).conv2d("c", 2, 3));
    case!(|g| g.input([2, 3, 4, 4]).conv2d_with("c", 2, 3, Conv2d { groups: 2, ..Conv2d::default() }));
    case!(|g| g.input([2, 3, 4, 4]).conv2d_with("c", 2, 3, Conv2d { groups: 0, ..Conv2d::default() }));
    case!(|g| g.input([2, 3, 4, 4]).conv2d("c", 0, 3));
    case!(|g| g.input([2, 3]).conv1d("c", 2, 3));
    case!(|g| g.input([2, 3, 2]).conv1d("c", 2, 3));
    case!(|g| g.input([2, 3, 4]).conv1d_with("c", 2, 3, Conv1d { groups: 2, ..Conv1d::default() }));
    case!(|g| g.input([2, 3]).conv_transpose2d("c", 2, 3));
    case!(|g| g.input([2, 4, 4, 4]).conv_transpose2d_with("c", 3, 3, ConvTranspose2d { groups: 2, ..ConvTranspose2d::default() }));
    case!(|g| g.input([2, 4, 4, 4]).conv_transpose2d_with("c", 4, 3, ConvTranspose2d { output_padding: [9, 9], ..ConvTranspose2d::default() }));
    case!(|g| g.input([2, 3]).lstm("r", 5));
    case!(|g| g.input([2, 3, 4]).lstm("r", 0));
    case!(|g| g.input([2, 3, 4]).lstm_with("r", 5, Recurrent { layers: 0, ..Recurrent::default() }).h);
    case!(|g| g.labels([2, 3, 4]).gru("r", 5));
    case!(|g| g.input([2, 3, 4]).gru_with("r", 5, Recurrent { h0: Some(g.input([2])), ..Recurrent::default() }).output);
    case!(|g| g.input([2]).batch_norm("n"));
    case!(|g| g.input([1, 2]).batch_norm("n"));
    case!(|g| g.input([4, 2]).batch_norm_with("n", BatchNorm { momentum: 2.0, ..BatchNorm::default() }));
    case!(|g| g.input([]).layer_norm("n"));
    case!(|g| g.input([2]).layer_norm_with("n", LayerNorm { axes: 2, ..LayerNorm::default() }));
    case!(|g| g.input([]).rms_norm("n"));
    case!(|g| g.labels([2]).rms_norm_with("n", RmsNorm::default()));
    case!(|g| g.input([2, 3, 4]).group_norm("n", 2));
    case!(|g| g.input([2]).group_norm_with("n", 2, GroupNorm::default()));
    case!(|g| g.input([2, 3]).instance_norm("n"));
    case!(|g| g.input([2]).instance_norm_with("n", InstanceNorm::default()));
    case!(|g| g.input([4]).mse(g.input([3])));
    case!(|g| g.input([4]).mae(g.input([3])));
    case!(|g| g.input([4]).huber(g.input([3]), 1.0));
    case!(|g| g.input([4]).huber(g.input([4]), 0.0));
    case!(|g| g.input([4]).bce(g.input([3])));
    case!(|g| g.input([4]).bce_with_logits(g.input([3])));
    case!(|g| g.input([4]).kl_div(g.input([3])));
    case!(|g| g.input([4, 3]).cross_entropy(g.labels([3])));
    case!(|g| g.input([4, 3]).cross_entropy_soft(g.input([3])));
    case!(|g| g.input([4, 3]).nll(g.labels([3])));
    case!(|g| losses::cross_entropy(g.input([4, 3]), g.labels([4])).label_smoothing(2.0).mean());
    case!(|g| losses::cross_entropy(g.input([4, 3]), g.labels([3])).label_smoothing(0.1).sum());
    case!(|g| losses::cross_entropy(g.input([4, 3]), g.labels([4])).class_weights(g.labels([3])).mean());
    case!(|g| losses::mse(g.input([4]), g.input([4])).class_weights(g.input([3])).none());
    case!(|g| losses::nll(g.input([4, 3]), g.labels([4])).class_weights(g.input([4])).batch_mean());
    case!(|g| losses::mae(g.input([4]), g.input([4])).sample_weights(g.input([3])).mean());
    case!(|g| losses::mae(g.input([4]), g.input([4])).ignore_index(3).mean());
    case!(|g| losses::kl_div(g.input([4, 2]), g.input([4, 2])).sample_weights(g.input([2])).sum());
    case!(|g| g.input([2, 4, 6]).gru_with("r", 5, Recurrent { proj_size: 3, ..Recurrent::default() }).output);
    case!(|g| g.input([2, 4, 6]).lstm_with("r", 5, Recurrent { reset_after: false, ..Recurrent::default() }).h);
    case!(|g| g.input([2, 3, 4, 5, 6]).convolve3d(g.input([2, 3, 5, 2, 2]), Convolution3d::default()));
    case!(|g| g.input([2, 3, 4, 5]).conv3d("c", 2, [2, 1, 1]));
    case!(|g| g.input([2, 3, 4, 5, 6]).conv3d_with("c", 2, [9, 1, 1], Conv3d::default()));
    case!(|g| g.input([2, 3, 4, 5, 6]).max_pool3d([5, 1, 1]));
    case!(|g| g.input([2, 3, 4, 5]).max_pool3d_with([2; 3], MaxPool::default()));
    case!(|g| g.input([2, 3, 4, 5, 6]).avg_pool3d([0, 1, 1]));
    case!(|g| g.input([2, 3, 4, 5, 6]).avg_pool3d_with([1, 6, 1], AvgPool::default()));
    case!(|g| g.input([2, 3, 4, 5, 6]).upsample3d(Upsample::Nearest, [1, 1, 0]));
    case!(|g| g.arange(0, 1, -1));
    case!(|g| g.input([2, 3]).gather(2, g.labels([2, 3])));
    case!(|g| g.input([2, 3]).gather(1, g.labels([3, 3])));
    case!(|g| g.input([2, 3]).argsort(2, true));
    case!(|g| g.input([2, 3]).sort(2, true).0);
    case!(|g| g.input([2, 3]).topk(4, 1, true).1);
    case!(|g| g.labels([2]).to_index());
    case!(|g| g.input([2, 9, 3]).ctc_loss(g.labels([2, 3]), g.labels([2]), g.labels([2]), 3));
    case!(|g| g.input([2, 9, 3]).ctc_loss(g.labels([2, 3]), g.labels([3]), g.labels([2]), 0));
    case!(|g| g.input([2, 3, 6, 6]).max_pool2d_with_indices(7, MaxPool::default()).1);
    case!(|g| g.input([2, 3, 6]).max_pool2d_with_indices(2, MaxPool::default()).0);
    case!(|g| g.eye(0));
    case!(|g| g.input(&[1; 7][..]));
    case!(|g| g.input([2]) * 2 + g.input([3]));
    case!(|g| g.input([2, 3]).masked_fill(g.input([2]), 1.0));
    case!(|g| g.input([2, 3]).normalize(2));
    case!(|g| g.input([2, 3]).norm(&[2], true));
    case!(|g| g.input([2, 3]).cosine_similarity(g.input([2]), 0));
    case!(|g| g.input([2, 3]).slice_step(1, 0, 3, 0));
    case!(|g| g.input([2, 3]).slice_step(1, 2, 2, 1));
    case!(|g| g.input([2, 3]).einsum("ij,ij->ij", &[g.input([3, 2])]));
    case!(|g| g.labels([2, 3]).einsum("ij,jk->ik", &[g.input([3, 2])]));
    case!(|g| g.input([2, 3]).adaptive_max_pool2d([1, 1]));
    case!(|g| g.input([2, 3, 4, 4]).adaptive_max_pool2d([0, 1]));
    case!(|g| g.input([2, 3, 4, 4]).upsample(Upsample::Bicubic { align_corners: true }, [0, 1]));
    case!(|g| losses::gaussian_nll(g.input([4, 2]), g.input([4, 2]), g.input([4])).mean());
    case!(|g| losses::poisson_nll(g.input([4]), g.input([3])).mean());
    case!(|g| g.input([4]).hinge(g.input([3])));
    case!(|g| losses::hinge_embedding(g.input([4]), g.input([4]), f32::NAN).mean());
    case!(|g| losses::margin_ranking(g.input([4]), g.input([4]), g.input([3]), 0.5).sum());
    case!(|g| losses::triplet_margin(g.input([]), g.input([]), g.input([]), 1.0).mean());
    case!(|g| losses::cosine_embedding(g.input([4, 2]), g.input([4, 2]), g.input([4, 2]), 0.1).none());
    case!(|g| losses::bce_with_logits(g.input([4, 2]), g.input([4, 2])).pos_weight(g.input([3])).mean());
    case!(|g| losses::mse(g.input([4, 2]), g.input([4, 2])).pos_weight(g.input([2])).mean());
    all
}

/// The names of all public functions that give a tensor or a loss, and whether they are `#[track_caller]`.
fn public() -> Result<Vec<(String, bool)>, std::io::Error> {
    let mut all = Vec::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut folders = ["graph", "ops", "layers"].map(|name| src.join(name)).to_vec();
    let mut files = ["losses.rs", "losses/margins.rs", "autodiff.rs"].map(|name| src.join(name)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    for file in files {
        let text = fs::read_to_string(&file)?;
        let (mut tracked, mut of) = (false, String::new());
        for line in text.lines() {
            let code = line.trim();
            if line.starts_with("impl") {
                of = code.to_string();
            }
            let mine = of.contains(" Tensor<'g>") || of.contains(" Loss<'g>") || of.contains("impl Graph") || !line.starts_with(' ');
            let public = code.strip_prefix("pub fn ").and_then(|rest| rest.split_once(['(', '<']));
            if let Some((name, _)) = public.filter(|(_, rest)| mine && (rest.contains("Tensor<") || rest.contains("Loss<"))) {
                all.push((name.to_string(), tracked));
            }
            // Those that a macro makes: `exp = Exp;`, `mse(y: Tensor<'g>);`.
            if let Some((name, rest)) = code.split_once([' ', '(']).filter(|_| line.starts_with("    ") && !line.starts_with("     ")) {
                let made = rest
                    .strip_prefix("= ")
                    .is_some_and(|fun| fun.ends_with(';') && fun.starts_with(char::is_uppercase) && !fun.contains([' ', '(']));
                if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                    && (made || rest.ends_with(": Tensor<'g>);"))
                {
                    all.push((name.to_string(), true));
                }
            }
            tracked = code == "#[track_caller]" || (tracked && code.starts_with('#'));
        }
    }
    Ok(all)
}

/// Methods that neither add a node nor make a mistake.
const QUIET: [&str; 3] = ["param_tensors", "mistake", "weight_of"];

pub fn every_method() -> Check {
    let cases = cases();
    let all = public()?;
    assert!(all.len() > 100, "{all:?}");
    let mut wrong: Vec<String> = Vec::new();
    for (name, tracked) in &all {
        if QUIET.contains(&name.as_str()) || name.starts_with('$') {
            continue;
        }
        let called =
            |text: &str| [format!(".{name}("), format!("losses::{name}("), format!(". {name}(")].iter().any(|call| text.contains(call));
        if !tracked {
            wrong.push(format!("{name}: not #[track_caller]"));
        }
        if !cases.iter().any(|(_, text, _)| called(text)) {
            wrong.push(format!("{name}: no case here"));
        }
    }
    for (line, text, make) in &cases {
        let here = format!("({}:{line})", file!());
        let g = Graph::training();
        let y = make(&g);
        if let Some(error) = g.error() {
            if !(matches!(error, Error::Op { .. }) && error.to_string().ends_with(&here)) {
                wrong.push(format!("{text}: {error}, not {here}"));
            }
            continue;
        }
        // Every op that it adds, and those of its gradient.
        let options = PlanOptions { fuse: false, ..PlanOptions::new(None) };
        let plan = Plan::new(&[y], &[], &options)?;
        let params = plan.params.clone();
        wrong.extend(plan.steps.iter().filter(|s| !s.label.ends_with(&here)).map(|s| format!("{text}: {}", s.label)));
        let sources = g.param_tensors();
        if !sources.is_empty() {
            let grads = y.square().mean_all().grad(&sources);
            let own = format!("{}:", file!());
            let plan = Plan::new(&grads, &[], &options)?;
            wrong.extend(plan.steps.iter().filter(|s| !s.label.contains(&own)).map(|s| format!("gradient of {text}: {}", s.label)));
        }
        // Every parameter: a name that is taken by another shape.
        for param in params {
            let g = Graph::training();
            let _ = if param.trained { g.param(&param.name, [7, 7, 7], Init::Zeros) } else { g.state(&param.name, [7, 7, 7], Init::Zeros) };
            let _ = make(&g);
            match g.error() {
                Some(error) if error.to_string().ends_with(&here) => {}
                other => wrong.push(format!("{text}: `{}` is taken: {other:?}, not {here}", param.name)),
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} places:\n{}", wrong.len(), wrong.join("\n")).into()) }
}
