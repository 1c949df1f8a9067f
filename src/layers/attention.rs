//! Attention: embeddings, positions, multi-head attention and the two layers of the transformer. Parameters and defaults
//! are PyTorch's.

use super::Linear;
use crate::{
    graph::{Below, Tensor},
    host::Host,
    init::Init,
    ops::attention::{Attention, AttentionMask},
    shape::DType,
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
    /// Uses GELU instead of ReLU.
    pub gelu: bool,
    /// Padding and other masks. See [`MultiHeadAttention::mask`].
    pub mask: AttentionMask<'g>,
}

impl Default for TransformerEncoderLayer<'_> {
    fn default() -> Self {
        TransformerEncoderLayer { norm_first: false, causal: false, dropout: 0.1, gelu: false, mask: AttentionMask::default() }
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
        TransformerDecoderLayer { norm_first: false, causal: true, dropout: 0.1, gelu: false, mask, memory_mask }
    }
}

impl<'g> Tensor<'g> {
    /// Looks up a vector for each index: indices `[..]` below `vocabulary` become `[.., dim]`. The vectors are the rows of
    /// the parameter `name.weight` `[vocabulary, dim]`, which starts standard normal. An index out of range is an error
    /// before the step runs.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let y = g.labels([2, 3]).embedding("words", 10, 4);
    /// assert_eq!(y.shape().dims(), &[2, 3, 4]);
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let error = f.run(&[Host::labels([2, 3], vec![0, 1, 2, 3, 10, 5])]).unwrap_err();
    /// assert_eq!(error.to_string(), "embedding: the index 10 at position [1, 1] is not below 10, the size of the vocabulary");
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn embedding(self, name: &str, vocabulary: usize, dim: usize) -> Tensor<'g> {
        let shape = self.shape();
        if self.is_dead() {
            return self;
        }
        if shape.dtype() != DType::U32 {
            let why = "takes indices (Graph::labels), not floats".to_string();
            return self.graph().mistake("embedding", &[self], why, Location::caller());
        }
        let table = self.graph().param(&format!("{name}.weight"), [vocabulary, dim], Init::Normal { mean: 0.0, std: 1.0 });
        // This check comes before the one of gather_rows, because its message speaks of the vocabulary.
        self.graph().require(self, Below { count: vocabulary, table: Some("embedding"), least: None, ignored: None });
        table.gather_rows(self)
    }
    /// Adds a learnt vector to each position of `[.., t, e]`: the first t rows of the parameter `name.weight` `[longest, e]`.
    /// The parameter starts normal with a standard deviation of 0.02. A sequence longer than `longest` is a mistake.
    #[track_caller]
    pub fn positional_embedding(self, name: &str, longest: usize) -> Tensor<'g> {
        let Some([t, e]) = self.places("positional_embedding") else { return self.graph().dead() };
        if t > longest {
            let why = format!("the sequence has {t} places, but {longest} were planned");
            return self.graph().mistake("positional_embedding", &[self], why, Location::caller());
        }
        let table = self.graph().param(&format!("{name}.weight"), [longest, e], Init::Normal { mean: 0.0, std: 0.02 });
        self + table.slice(0, 0, t)
    }
    /// Adds sinusoidal positions to `[.., t, e]`. Feature 2k of position i gets sin(i / 10000^(2k/e)), and feature 2k + 1
    /// gets the cosine of the same angle (Vaswani et al. 2017, §3.5).
    #[track_caller]
    pub fn sinusoidal_positions(self) -> Tensor<'g> {
        let Some([t, e]) = self.places("sinusoidal_positions") else { return self.graph().dead() };
        let value = |at: usize| {
            let (i, c) = ((at / e) as f64, at % e);
            let angle = i / 1e4f64.powf((c - c % 2) as f64 / e as f64);
            (if c % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
        };
        self + self.graph().constant(Host::new([t, e], (0..t * e).map(value).collect()))
    }
    /// Returns the sizes of the last two axes of a sequence.
    #[track_caller]
    fn places(self, op: &str) -> Option<[usize; 2]> {
        let shape = self.shape();
        match shape.dims() {
            _ if self.is_dead() => None,
            [.., t, e] if shape.dtype() == DType::F32 => Some([*t, *e]),
            _ => {
                self.graph().mistake(op, &[self], "takes floats [.., places, features]".into(), Location::caller());
                None
            }
        }
    }
    /// Applies self-attention with `heads` heads to `[n, t, e]` (Vaswani et al. 2017, §3.2.2). Queries, keys and values are
    /// linear functions of the input. Each head attends separately, with e / heads features. A last linear layer combines the
    /// results of the heads. The parameters have the names of `torch.nn.MultiheadAttention`: `name.in_proj_weight` `[3e, e]`
    /// (queries, keys, values), `name.in_proj_bias`, `name.out_proj.weight` and `name.out_proj.bias`.
    ///
    /// It is a mistake if the input does not have three axes, or if `heads` does not divide e.
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
        let w = g.param(&format!("{name}.in_proj_weight"), [3 * e, e], Init::XavierUniform { gain: 1.0 });
        let b = (!options.no_bias).then(|| g.param(&format!("{name}.in_proj_bias"), [3 * e], Init::Zeros));
        // Returns the parts `from..to` of queries, keys and values, `[parts, n, heads, positions, features of a head]`.
        let project = |x: Tensor<'g>, places: usize, from: usize, to: usize| {
            let part = |p: Tensor<'g>| if to - from == 3 { p } else { p.slice(0, from * e, to * e) };
            let y = x.reshape([n * places, e]).matmul_t(part(w), false, true);
            let y = b.map_or(y, |b| y + part(b));
            y.reshape([n, places, to - from, heads, e / heads]).permute(&[2, 0, 3, 1, 4])
        };
        let nth = |all: Tensor<'g>, i: usize| all.slice(0, i, i + 1).squeeze(0);
        let (q, k, v) = match options.memory {
            None => {
                let all = project(self, t, 0, 3);
                (nth(all, 0), nth(all, 1), nth(all, 2))
            }
            Some(memory) => {
                let both = project(memory, s, 1, 3);
                (project(self, t, 0, 1).squeeze(0), nth(both, 0), nth(both, 1))
            }
        };
        let attention = Attention { causal: options.causal, scale: None };
        let y = q.scaled_dot_product_attention_masked(k, v, options.mask, attention);
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
    /// activation and the second linear layer. PyTorch also applies dropout to the attention weights, but this layer does
    /// not.
    #[track_caller]
    pub fn transformer_encoder_layer_with(
        self,
        name: &str,
        heads: usize,
        feed_forward: usize,
        options: TransformerEncoderLayer<'g>,
    ) -> Tensor<'g> {
        let _line = self.graph().line();
        let TransformerEncoderLayer { norm_first, causal, dropout, gelu, mask } = options;
        let part = |part: &str| format!("{name}.{part}");
        let attend = |x: Tensor<'g>| {
            let options = MultiHeadAttention { causal, mask, ..MultiHeadAttention::default() };
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
        let TransformerDecoderLayer { norm_first, causal, dropout, gelu, mask, memory_mask } = options;
        if self.shape().rank() != 3 {
            let why = "takes sequences [n, places, features]".to_string();
            return self.graph().mistake("transformer_decoder_layer", &[self, memory], why, Location::caller());
        }
        let attend = |x: Tensor<'g>| {
            let options = MultiHeadAttention { causal, mask, ..MultiHeadAttention::default() };
            x.multi_head_attention_with(&format!("{name}.self_attn"), heads, options).dropout(dropout)
        };
        let read = |x: Tensor<'g>| {
            let options = MultiHeadAttention { memory: Some(memory), mask: memory_mask, ..MultiHeadAttention::default() };
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
    use crate::{Device, Graph, Shape, ops::Fill, testing};

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
    fn positions() {
        let g = Graph::inference();
        let y = Device::cpu().compile(&[(g.input([3, 5]) * 0.0).sinusoidal_positions()]).unwrap().run(&[Host::zeros(Shape::from([3, 5]))]);
        let y = y.unwrap().remove(0);
        let at = |i: f64, k: i32| i / 1e4f64.powf(f64::from(2 * k) / 5.0);
        let want: Vec<f64> = (0..3).flat_map(|i| [0, 0, 1, 1, 2].map(|k| at(f64::from(i), k))).collect();
        for (c, (got, angle)) in y.f().iter().zip(want).enumerate() {
            let want = if c % 5 % 2 == 0 { angle.sin() } else { angle.cos() };
            assert!((f64::from(*got) - want).abs() < 1e-6, "{c}");
        }
    }
    #[test]
    fn mistakes() {
        let told = |f: for<'g> fn(&'g Graph) -> Tensor<'g>, want: &str| {
            let g = Graph::training();
            assert!(f(&g).is_dead());
            let text = g.error().map_or(String::new(), |e| e.to_string());
            assert!(text.starts_with(want) && text.contains("(src/layers/attention.rs:"), "{text}");
        };
        told(|g| g.input([4, 3]).embedding("e", 5, 2), "embedding: [4, 3]: takes indices (Graph::labels), not floats");
        told(
            |g| g.input([2, 12, 4]).positional_embedding("p", 8),
            "positional_embedding: [2, 12, 4]: the sequence has 12 places, but 8 were planned",
        );
        told(|g| g.input([4]).sinusoidal_positions(), "sinusoidal_positions: [4]: takes floats [.., places, features]");
        told(|g| g.input([2, 5, 6]).multi_head_attention("a", 4), "multi_head_attention: [2, 5, 6]: 4 heads do not divide 6 features");
        told(|g| g.input([2, 5, 6]).multi_head_attention("a", 0), "multi_head_attention: [2, 5, 6]: 0 heads do not divide 6");
        told(|g| g.input([5, 6]).multi_head_attention("a", 2), "multi_head_attention: [5, 6]: takes sequences [n, places, features]");
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
