//! The methods of [`Tensor`].

use super::*;
use crate::graph::Below;

impl<'g> Tensor<'g> {
    /// Returns softmax(q·kᵀ·scale)·v. `self` is the queries q (Vaswani et al. 2017, eq. 1).
    ///
    /// The queries are `[.., n, d]`, the keys are `[.., m, d]`, the values are `[.., m, e]`, and the result is `[.., n, e]`. The
    /// leading axes (batch, heads) broadcast, as in PyTorch. With `enable_gqa` the keys and values may have fewer heads. Each row of the result is a weighted mean of the values. The weight of a key says
    /// how well the key agrees with the query. The scale is 1/√d unless `options` sets it. With `causal`, query i sees the keys j ≤
    /// i only. Queries and keys are both counted from 0, even if n ≠ m, as with PyTorch's `is_causal`.
    ///
    /// Memory grows with n + m and not with n·m, forward and backward (Dao et al. 2022). The kernels read shared heads and most
    /// broadcast keys where they are, without a copy.
    ///
    /// It is a mistake if a tensor has fewer than two axes, if the features, the numbers of keys and values or the leading axes do
    /// not fit, if the scale is not finite, if `dropout_p` is not in 0..=1, or if `alibi` is set and there is no axis of heads.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::attention::Attention};
    /// let g = Graph::inference();
    /// let [q, k, v] = [(); 3].map(|()| g.input([2, 1]));
    /// let y = q.scaled_dot_product_attention(k, v, Attention { causal: true, ..Attention::default() });
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let [q, k, v] = [[0.0, 0.0], [5.0, 9.0], [1.0, 3.0]].map(|x| Host::new([2, 1], x.to_vec()));
    /// assert_eq!(f.run(&[q, k, v])?[0].f(), &[1.0, 2.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn scaled_dot_product_attention(self, k: Tensor<'g>, v: Tensor<'g>, options: Attention) -> Tensor<'g> {
        self.scaled_dot_product_attention_masked(k, v, AttentionMask::default(), options)
    }
    /// [`scaled_dot_product_attention`](Tensor::scaled_dot_product_attention) with masks: padding, a mask of pairs, a bias. A query sees
    /// the keys that `causal`, the lengths and the mask all let it see. Memory still grows with n + m only, beside the masks.
    ///
    /// It is also a mistake if a mask does not fit, or has the wrong type: see [`AttentionMask`]. A length from the host that is above m
    /// is an error before anything runs.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::attention::{Attention, AttentionMask}};
    /// let g = Graph::inference();
    /// let [q, k, v] = [(); 3].map(|()| g.input([2, 3, 1]));
    /// let mask = AttentionMask::lengths(g.labels([2]));
    /// let y = q.scaled_dot_product_attention_masked(k, v, mask, Attention::default());
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let [q, k] = [(); 2].map(|()| Host::new([2, 3, 1], vec![0.0; 6]));
    /// let v = Host::new([2, 3, 1], vec![1.0, 3.0, 8.0, 1.0, 3.0, 8.0]);
    /// let y = f.run(&[q, k, v, Host::labels([2], vec![2, 3])])?;
    /// assert_eq!(y[0].f(), &[2.0, 2.0, 2.0, 4.0, 4.0, 4.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn scaled_dot_product_attention_masked(
        self,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: AttentionMask<'g>,
        options: Attention,
    ) -> Tensor<'g> {
        let (g, place, _line) = (self.graph, std::panic::Location::caller(), self.graph.line());
        let given: Vec<Tensor> = [self, k, v].into_iter().chain(mask.given()).collect();
        let mut masks = match mask.inputs() {
            Ok(masks) => masks,
            Err(why) => return g.mistake(OpDef::called(&options), &given, why, place),
        };
        let [q, k, v] = shared::broadcast([self, k, v], options.enable_gqa);
        let (dropout_p, stream) = match options.dropout_p {
            p if !(0.0..=1.0).contains(&p) => (p, 0),
            p if p > 0.0 && !self.is_dead() && g.trains(OpDef::called(&options), &given, place) => (p, g.stream()),
            _ => (0.0, 0),
        };
        if let (true, [.., heads, _, _]) = (options.alibi, q.shape().dims()) {
            masks.push(g.constant(Host::new([*heads], slopes(*heads))));
        }
        let options = Attention { dropout_p, stream, ..options };
        let y = g.apply(options, &[&[q, k, v], &masks[..]].concat());
        if y.is_dead() {
            return y;
        }
        if let Some(lengths) = mask.lengths {
            g.require(lengths, Below::lengths(OpDef::called(&options), 0, k.dim(-2)));
        }
        y.slice(-1, 0, v.shape().last())
    }
}

/// Returns the slopes of ALiBi, as the code of Press, Smith & Lewis 2022 does. With 2ᵏ heads they are a geometric sequence that ends
/// at 2⁻⁸. The heads above a power of two take every other slope of the next sequence.
pub(super) fn slopes(heads: usize) -> Vec<f32> {
    let whole = (heads + 1).next_power_of_two() / 2;
    let exponent = |h: usize| if h < whole { 8.0 * (h + 1) as f64 } else { 4.0 * (2 * (h - whole) + 1) as f64 };
    (0..heads).map(|h| (-exponent(h) / whole as f64).exp2() as f32).collect()
}
