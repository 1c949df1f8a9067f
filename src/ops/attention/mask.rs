//! Masks: the number of keys of each sequence, and a bias of each pair of a query and a key. The kernels read both where they need
//! them, so no other tensor of the size queries × keys exists.

use super::*;

/// Masks of [attention](Tensor::scaled_dot_product_attention_masked). The leading axes are batch and heads, for example.
///
/// A query that sees no key has the result 0, and gives no gradient. (PyTorch returns NaN if only −∞ is left, and 0 in
/// some of its kernels.)
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionMask<'g> {
    /// The number of keys of each sequence, labels of the shape `[batch]`: the first axes of the leading axes. Later keys are padding,
    /// and no query sees them. A number above m
    /// is an error if it comes from the host. If the device computes it, it counts as m.
    pub lengths: Option<Tensor<'g>>,
    /// 1 if the query sees the key, else 0, as a boolean `attn_mask` of PyTorch's function and Keras's `attention_mask`. Floats or
    /// labels. The shape broadcasts to `[.., n, m]`. The leading axes that are not 1 must be neighbours.
    pub mask: Option<Tensor<'g>>,
    /// A number that is added to the score, as a `attn_mask` of floats in PyTorch: a position bias, for example. It has the same
    /// shapes as `mask`. A number of −10³⁰ or less hides the key. The gradient of a bias stores all pairs; no other gradient does.
    pub bias: Option<Tensor<'g>>,
}

impl<'g> AttentionMask<'g> {
    /// Hides keys behind the end of each sequence. See [`lengths`](AttentionMask::lengths).
    pub fn lengths(lengths: Tensor<'g>) -> AttentionMask<'g> {
        AttentionMask { lengths: Some(lengths), ..AttentionMask::default() }
    }
    /// Hides the keys whose entry in `padding` `[n, m]` is not 0, for the leading axes `[n, heads]`: PyTorch's `key_padding_mask`. If the
    /// padding is at the ends, [`lengths`](AttentionMask::lengths) is faster.
    #[track_caller]
    pub fn key_padding(padding: Tensor<'g>) -> AttentionMask<'g> {
        let seen = padding.eq(0.0).unsqueeze(-2).unsqueeze(-3);
        AttentionMask { mask: Some(seen), ..AttentionMask::default() }
    }
    pub(crate) fn given(&self) -> impl Iterator<Item = Tensor<'g>> {
        [self.lengths, self.mask, self.bias].into_iter().flatten()
    }
    /// Returns the inputs of the op: lengths, and a bias that the mask is a part of.
    #[track_caller]
    pub(super) fn inputs(&self) -> Result<Vec<Tensor<'g>>, String> {
        let dtype = |t: Option<Tensor>| t.map(|t| t.shape().dtype());
        if dtype(self.lengths) == Some(DType::F32) {
            return Err("lengths must be labels, not floats".into());
        }
        if dtype(self.bias) == Some(DType::U32) {
            return Err("a bias must be floats, not labels: a mask may be labels".into());
        }
        let bias = match (self.mask, self.bias) {
            (None, bias) => bias,
            (Some(mask), None) => Some(mask.ne(0.0).where_(0.0, f32::MIN)),
            (Some(mask), Some(bias)) => Some(mask.ne(0.0).where_(bias, f32::MIN)),
        };
        Ok([self.lengths, bias].into_iter().flatten().collect())
    }
}
