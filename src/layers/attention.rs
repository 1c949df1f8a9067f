//! Attention: multi-head attention and the two layers of the transformer. Parameters and defaults are PyTorch's.

use super::{Linear, Rotary};
use crate::{
    graph::Tensor,
    init::Init,
    ops::attention::{Attention, AttentionMask},
};
use std::panic::Location;

/// Options of [multi-head attention](Tensor::multi_head_attention).
#[derive(Clone, Copy, Debug, Default)]
pub struct MultiHeadAttention<'g> {
    /// Position i attends to the positions 0..=i only.
    pub causal: bool,
    /// Leaves all biases out.
    pub no_bias: bool,
    /// The sequence to attend to, `[n, s, e]`. `None` means the input itself (self-attention).
    pub memory: Option<Tensor<'g>>,
    /// Padding and other masks, for n samples, `heads` heads, t queries and s keys. Lengths are `[n]`. A mask or a bias is `[t, s]`, or
    /// has four axes that broadcast to `[n, heads, t, s]`. As in Keras, a mask is 1 where a query sees a key. PyTorch's module has a
    /// boolean `attn_mask` of the opposite meaning.
    pub mask: AttentionMask<'g>,
    /// The number of heads of keys and values, torchtune's `num_kv_heads` (Ainslie et al. 2023). It must divide `heads`. `None` means
    /// `heads`. With k heads, `name.in_proj_weight` has e + 2·k·e/heads rows: those of the queries, the keys and the values.
    pub kv_heads: Option<usize>,
    /// The window of keys that each query sees. See [`Attention::local_window_size`].
    pub local_window_size: Option<[usize; 2]>,
    /// Whether a slope per head makes scores smaller with the distance of a key. See [`Attention::alibi`].
    pub alibi: bool,
    /// Turns queries and keys by their positions. See [`Tensor::rotary`].
    pub rotary: Option<Rotary>,
    /// The probability that a training step drops an attention weight, PyTorch's `dropout`. See [`Attention::dropout_p`].
    pub dropout: f32,
}

/// Options of a [transformer encoder layer](Tensor::transformer_encoder_layer).
#[derive(Clone, Copy, Debug)]
pub struct TransformerEncoderLayer<'g> {
    /// Normalises the inputs of the attention and of the feed-forward part instead of their outputs (Xiong et al. 2020). Such
    /// a layer trains without a warm-up.
    pub norm_first: bool,
    /// Position i attends to the positions 0..=i only. A language model needs this.
    pub causal: bool,
    /// The dropout rate: the share of numbers that a training step drops after each part. The default is 0.1.
    pub dropout: f32,
    /// The share of attention weights that a training step drops. The default is 0. PyTorch's layer uses `dropout` for it.
    pub attention_dropout: f32,
    /// Uses GELU instead of ReLU.
    pub gelu: bool,
    /// Padding and other masks. See [`MultiHeadAttention::mask`].
    pub mask: AttentionMask<'g>,
}

impl Default for TransformerEncoderLayer<'_> {
    fn default() -> Self {
        TransformerEncoderLayer {
            norm_first: false,
            causal: false,
            dropout: 0.1,
            attention_dropout: 0.0,
            gelu: false,
            mask: AttentionMask::default(),
        }
    }
}

/// Options of a [transformer decoder layer](Tensor::transformer_decoder_layer).
#[derive(Clone, Copy, Debug)]
pub struct TransformerDecoderLayer<'g> {
    /// See [`TransformerEncoderLayer::norm_first`].
    pub norm_first: bool,
    /// Position i of the input attends to its positions 0..=i only. The default is true. (PyTorch expects a `tgt_mask` instead.)
    pub causal: bool,
    /// The dropout rate after each part. The default is 0.1.
    pub dropout: f32,
    /// The share of weights of both attentions that a training step drops. The default is 0. PyTorch's layer uses `dropout` for it.
    pub attention_dropout: f32,
    /// Uses GELU instead of ReLU.
    pub gelu: bool,
    /// Padding and other masks of the self-attention. See [`MultiHeadAttention::mask`].
    pub mask: AttentionMask<'g>,
    /// Padding and other masks of the attention to `memory`.
    pub memory_mask: AttentionMask<'g>,
}

impl Default for TransformerDecoderLayer<'_> {
    fn default() -> Self {
        let (mask, memory_mask) = (AttentionMask::default(), AttentionMask::default());
        TransformerDecoderLayer { norm_first: false, causal: true, dropout: 0.1, attention_dropout: 0.0, gelu: false, mask, memory_mask }
    }
}

impl<'g> Tensor<'g> {
    /// Applies self-attention with `heads` heads to `[n, t, e]` (Vaswani et al. 2017, §3.2.2). Queries, keys and values are
    /// linear functions of the input. Each head attends separately, with e / heads features. A last linear layer combines the
    /// results of the heads. The parameters have the names of `torch.nn.MultiheadAttention`: `name.in_proj_weight` `[3e, e]`
    /// (queries, keys, values), `name.in_proj_bias`, `name.out_proj.weight` and `name.out_proj.bias`.
    ///
    /// It is a mistake if the input does not have three axes, if `heads` does not divide e, or if `kv_heads` does not divide `heads`.
    #[track_caller]
    pub fn multi_head_attention(self, name: &str, heads: usize) -> Tensor<'g> {
        self.multi_head_attention_with(name, heads, MultiHeadAttention::default())
    }
    /// [`multi_head_attention`](Tensor::multi_head_attention) with options.
    #[track_caller]
    pub fn multi_head_attention_with(self, name: &str, heads: usize, options: MultiHeadAttention<'g>) -> Tensor<'g> {
        let (g, memory, place) = (self.graph(), options.memory.unwrap_or(self), Location::caller());
        let _line = g.line();
        if self.is_dead() || memory.is_dead() {
            return g.dead();
        }
        let given: Vec<Tensor> = [self].into_iter().chain(options.memory).chain(options.mask.given()).collect();
        let (n, t, e, s) = match (self.shape().dims(), memory.shape().dims()) {
            (&[n, t, e], &[m, s, f]) if (n, e) == (m, f) => (n, t, e, s),
            (&[_, _, _], &[_, _, _]) => {
                let why = "the memory has another number of samples or features than the input".to_string();
                return g.mistake("multi_head_attention", &given, why, place);
            }
            _ => return g.mistake("multi_head_attention", &given, "takes sequences [n, places, features]".into(), place),
        };
        if heads == 0 || !e.is_multiple_of(heads) {
            return g.mistake("multi_head_attention", &given, format!("{heads} heads do not divide {e} features"), place);
        }
        if let Some(mask) = [options.mask.mask, options.mask.bias].into_iter().flatten().find(|m| ![2, 4].contains(&m.shape().rank())) {
            let why = format!("a mask or bias must be [{t}, {s}] or broadcast to [{n}, {heads}, {t}, {s}], but is {}", mask.shape());
            return g.mistake("multi_head_attention", &given, why, place);
        }
        let kv_heads = options.kv_heads.unwrap_or(heads);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            let why = format!("{kv_heads} heads of keys and values do not divide {heads} heads");
            return g.mistake("multi_head_attention", &given, why, place);
        }
        let (size, kv) = (e / heads, e / heads * kv_heads);
        let w = g.param(&format!("{name}.in_proj_weight"), [e + 2 * kv, e], Init::XavierUniform { gain: 1.0 });
        let b = (!options.no_bias).then(|| g.param(&format!("{name}.in_proj_bias"), [e + 2 * kv], Init::Zeros));
        // Returns the rows `from..to` of the projection: queries, keys and values.
        let project = |x: Tensor<'g>, places: usize, from: usize, to: usize| {
            let part = |p: Tensor<'g>| if to - from == e + 2 * kv { p } else { p.slice(0, from, to) };
            let y = x.reshape([n * places, e]).matmul_t(part(w), false, true);
            b.map_or(y, |b| y + part(b))
        };
        let (q, k, v) = if kv_heads == heads {
            // One permutation for all parts, `[parts, n, heads, positions, features of a head]`.
            let parts = |y: Tensor<'g>, places: usize, count: usize| y.reshape([n, places, count, heads, size]).permute(&[2, 0, 3, 1, 4]);
            let nth = |all: Tensor<'g>, i: usize| all.slice(0, i, i + 1).squeeze(0);
            match options.memory {
                None => {
                    let all = parts(project(self, t, 0, 3 * e), t, 3);
                    (nth(all, 0), nth(all, 1), nth(all, 2))
                }
                Some(memory) => {
                    let both = parts(project(memory, s, e, 3 * e), s, 2);
                    (parts(project(self, t, 0, e), t, 1).squeeze(0), nth(both, 0), nth(both, 1))
                }
            }
        } else {
            let part = |y: Tensor<'g>, places: usize, from: usize, heads: usize| {
                y.slice(1, from, from + heads * size).reshape([n, places, heads, size]).permute(&[0, 2, 1, 3])
            };
            let (of_q, of_kv, first) = match options.memory {
                None => {
                    let all = project(self, t, 0, e + 2 * kv);
                    (all, all, e)
                }
                Some(memory) => (project(self, t, 0, e), project(memory, s, e, e + 2 * kv), 0),
            };
            (part(of_q, t, 0, heads), part(of_kv, s, first, kv_heads), part(of_kv, s, first + kv, kv_heads))
        };
        let turn = |x: Tensor<'g>| options.rotary.map_or(x, |rotary| x.rotary_with(rotary));
        let attention = Attention {
            causal: options.causal,
            enable_gqa: kv_heads != heads,
            local_window_size: options.local_window_size,
            alibi: options.alibi,
            dropout_p: options.dropout,
            ..Attention::default()
        };
        let y = turn(q).scaled_dot_product_attention_masked(turn(k), v, options.mask, attention);
        if y.is_dead() {
            return y;
        }
        let y = y.permute(&[0, 2, 1, 3]).reshape([n, t, e]);
        y.linear_with(&format!("{name}.out_proj"), e, Linear { no_bias: options.no_bias, bias: Some(Init::Zeros), ..Linear::default() })
    }
    /// Applies an encoder layer of the transformer to `[n, t, e]` (Vaswani et al. 2017, §3.1). With x₁ = norm1(x +
    /// attention(x)), the output is norm2(x₁ + linear2(relu(linear1(x₁)))). `linear1` has `feed_forward` outputs. The
    /// parameters have the names of `torch.nn.TransformerEncoderLayer`: `name.self_attn.…`, `name.linear1.…`,
    /// `name.linear2.…`, `name.norm1.…`, `name.norm2.…`. If many such layers take too much memory, use
    /// [`checkpoint`](Tensor::checkpoint): it stores only the input of each layer.
    ///
    /// ```
    /// use downhill::{Graph, layers::TransformerEncoderLayer};
    /// let g = Graph::training();
    /// let x = g.labels([8, 20]).embedding("words", 500, 32).positional_embedding("places", 64);
    /// let options = TransformerEncoderLayer { causal: true, norm_first: true, ..TransformerEncoderLayer::default() };
    /// let y = x.transformer_encoder_layer_with("block1", 4, 128, options).linear("next", 500);
    /// assert_eq!(y.shape().dims(), &[8, 20, 500]);
    /// ```
    #[track_caller]
    pub fn transformer_encoder_layer(self, name: &str, heads: usize, feed_forward: usize) -> Tensor<'g> {
        self.transformer_encoder_layer_with(name, heads, feed_forward, TransformerEncoderLayer::default())
    }
    /// [`transformer_encoder_layer`](Tensor::transformer_encoder_layer) with options. Dropout follows the attention, the
    /// activation and the second linear layer. PyTorch also applies it to the attention weights. Here that dropout has a rate of its
    /// own, [`attention_dropout`](TransformerEncoderLayer::attention_dropout).
    #[track_caller]
    pub fn transformer_encoder_layer_with(
        self,
        name: &str,
        heads: usize,
        feed_forward: usize,
        options: TransformerEncoderLayer<'g>,
    ) -> Tensor<'g> {
        let _line = self.graph().line();
        let TransformerEncoderLayer { norm_first, causal, dropout, attention_dropout, gelu, mask } = options;
        let part = |part: &str| format!("{name}.{part}");
        let attend = |x: Tensor<'g>| {
            let options = MultiHeadAttention { causal, mask, dropout: attention_dropout, ..MultiHeadAttention::default() };
            x.multi_head_attention_with(&part("self_attn"), heads, options).dropout(dropout)
        };
        let feed = |x: Tensor<'g>| x.feed_forward(name, feed_forward, gelu, dropout);
        let norm = |x: Tensor<'g>, k: usize| x.layer_norm(&part(&format!("norm{k}")));
        if self.shape().rank() != 3 {
            let why = "takes sequences [n, places, features]".to_string();
            return self.graph().mistake("transformer_encoder_layer", &[self], why, Location::caller());
        }
        if norm_first {
            let x = self + attend(norm(self, 1));
            x + feed(norm(x, 2))
        } else {
            let x = norm(self + attend(self), 1);
            norm(x + feed(x), 2)
        }
    }
    /// Applies a decoder layer of the transformer to `[n, t, e]`, which also attends to `memory` `[n, s, e]`, the output of an
    /// encoder (Vaswani et al. 2017, §3.1). With x₁ = norm1(x + attention(x)) and x₂ = norm2(x₁ + attention(x₁, memory)), the output is
    /// norm3(x₂ + linear2(relu(linear1(x₂)))). The parameters have the names of `torch.nn.TransformerDecoderLayer`:
    /// `name.self_attn.…`, `name.multihead_attn.…`, `name.linear1.…`, `name.linear2.…` and `name.norm1.…` to `name.norm3.…`.
    ///
    /// It is a mistake if the input does not have three axes, if `memory` does not fit, or if `heads` does not divide e.
    ///
    /// ```
    /// use downhill::{Graph, layers::{AttentionMask, TransformerDecoderLayer}};
    /// let g = Graph::training();
    /// let (x, memory, lengths) = (g.input([8, 20, 32]), g.input([8, 15, 32]), g.labels([8]));
    /// let options = TransformerDecoderLayer { memory_mask: AttentionMask::lengths(lengths), ..TransformerDecoderLayer::default() };
    /// let y = x.transformer_decoder_layer_with("block1", memory, 4, 128, options);
    /// assert_eq!(y.shape().dims(), &[8, 20, 32]);
    /// ```
    #[track_caller]
    pub fn transformer_decoder_layer(self, name: &str, memory: Tensor<'g>, heads: usize, feed_forward: usize) -> Tensor<'g> {
        self.transformer_decoder_layer_with(name, memory, heads, feed_forward, TransformerDecoderLayer::default())
    }
    /// [`transformer_decoder_layer`](Tensor::transformer_decoder_layer) with options. Dropout follows each attention, the activation
    /// and the second linear layer.
    #[track_caller]
    pub fn transformer_decoder_layer_with(
        self,
        name: &str,
        memory: Tensor<'g>,
        heads: usize,
        feed_forward: usize,
        options: TransformerDecoderLayer<'g>,
    ) -> Tensor<'g> {
        let _line = self.graph().line();
        let TransformerDecoderLayer { norm_first, causal, dropout, attention_dropout, gelu, mask, memory_mask } = options;
        let with = MultiHeadAttention { dropout: attention_dropout, ..MultiHeadAttention::default() };
        if self.shape().rank() != 3 {
            let why = "takes sequences [n, places, features]".to_string();
            return self.graph().mistake("transformer_decoder_layer", &[self, memory], why, Location::caller());
        }
        let attend = |x: Tensor<'g>| {
            let options = MultiHeadAttention { causal, mask, ..with };
            x.multi_head_attention_with(&format!("{name}.self_attn"), heads, options).dropout(dropout)
        };
        let read = |x: Tensor<'g>| {
            let options = MultiHeadAttention { memory: Some(memory), mask: memory_mask, ..with };
            x.multi_head_attention_with(&format!("{name}.multihead_attn"), heads, options).dropout(dropout)
        };
        let feed = |x: Tensor<'g>| x.feed_forward(name, feed_forward, gelu, dropout);
        let norm = |x: Tensor<'g>, k: usize| x.layer_norm(&format!("{name}.norm{k}"));
        if norm_first {
            let x = self + attend(norm(self, 1));
            let x = x + read(norm(x, 2));
            x + feed(norm(x, 3))
        } else {
            let x = norm(self + attend(self), 1);
            let x = norm(x + read(x), 2);
            norm(x + feed(x), 3)
        }
    }
    /// Applies the feed-forward part of a layer of the transformer.
    #[track_caller]
    fn feed_forward(self, name: &str, width: usize, gelu: bool, dropout: f32) -> Tensor<'g> {
        let hidden = self.linear(&format!("{name}.linear1"), width);
        let hidden = if gelu { hidden.gelu() } else { hidden.relu() };
        hidden.dropout(dropout).linear(&format!("{name}.linear2"), self.shape().last()).dropout(dropout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Graph, Host, Shape, ops::Fill, testing};

    #[test]
    fn a_causal_layer_does_not_look_ahead() {
        let run = |causal: bool, last: f32| {
            let g = Graph::inference();
            let options = TransformerEncoderLayer { causal, ..TransformerEncoderLayer::default() };
            let y = g.input([1, 5, 8]).sinusoidal_positions().transformer_encoder_layer_with("block", 2, 16, options);
            let mut x = testing::fill(Shape::from([1, 5, 8]), &Fill::Range(-1.0, 1.0), 3).f().to_vec();
            x[39] = last;
            Device::cpu().compile(&[y]).unwrap().run(&[Host::new([1, 5, 8], x)]).unwrap().remove(0).f()[..32].to_vec()
        };
        assert_eq!(run(true, 0.5), run(true, -0.7));
        assert_ne!(run(false, 0.5), run(false, -0.7));
    }
    #[test]
    fn mistakes() {
        let told = |f: for<'g> fn(&'g Graph) -> Tensor<'g>, want: &str| {
            let g = Graph::training();
            assert!(f(&g).is_dead());
            let text = g.error().map_or(String::new(), |e| e.to_string());
            assert!(text.starts_with(want) && text.contains("(src/layers/attention.rs:"), "{text}");
        };
        told(|g| g.input([2, 5, 6]).multi_head_attention("a", 4), "multi_head_attention: [2, 5, 6]: 4 heads do not divide 6 features");
        told(|g| g.input([2, 5, 6]).multi_head_attention("a", 0), "multi_head_attention: [2, 5, 6]: 0 heads do not divide 6");
        told(|g| g.input([5, 6]).multi_head_attention("a", 2), "multi_head_attention: [5, 6]: takes sequences [n, places, features]");
        told(
            |g| {
                let options = MultiHeadAttention { kv_heads: Some(3), ..MultiHeadAttention::default() };
                g.input([2, 5, 8]).multi_head_attention_with("a", 4, options)
            },
            "multi_head_attention: [2, 5, 8]: 3 heads of keys and values do not divide 4 heads",
        );
        told(
            |g| {
                let options = MultiHeadAttention { dropout: 1.5, ..MultiHeadAttention::default() };
                g.input([2, 5, 6]).multi_head_attention_with("a", 2, options)
            },
            "scaled_dot_product_attention: [2, 2, 5, 3] × [2, 2, 5, 3] × [2, 2, 5, 3]: dropout_p = 1.5 is not in 0..=1",
        );
        told(
            |g| {
                let options = MultiHeadAttention { memory: Some(g.input([2, 3, 8])), ..MultiHeadAttention::default() };
                g.input([2, 5, 6]).multi_head_attention_with("a", 2, options)
            },
            "multi_head_attention: [2, 5, 6] × [2, 3, 8]: the memory has another number",
        );
        told(|g| g.input([5, 6]).transformer_encoder_layer("a", 2, 8), "transformer_encoder_layer: [5, 6]: takes sequences");
        told(
            |g| g.input([5, 6]).transformer_decoder_layer("a", g.input([2, 3, 6]), 2, 8),
            "transformer_decoder_layer: [5, 6] × [2, 3, 6]: takes sequences",
        );
        told(
            |g| {
                let mask = AttentionMask { mask: Some(g.input([2, 5, 5])), ..AttentionMask::default() };
                g.input([2, 5, 6]).multi_head_attention_with("a", 2, MultiHeadAttention { mask, ..MultiHeadAttention::default() })
            },
            "multi_head_attention: [2, 5, 6] × [2, 5, 5]: a mask or bias must be [5, 5] or broadcast to [2, 2, 5, 5]",
        );
        told(
            |g| {
                let mask = AttentionMask::lengths(g.labels([5]));
                g.input([2, 5, 6]).multi_head_attention_with("a", 2, MultiHeadAttention { mask, ..MultiHeadAttention::default() })
            },
            "scaled_dot_product_attention: [2, 2, 5, 3] × [2, 2, 5, 3] × [2, 2, 5, 3] × u32 [5]: lengths must have the first",
        );
    }
}
