//! Masks: the number of keys of each sequence, and a bias of each pair of a query and a key. The kernels read both where they need
//! them, so no other tensor of the size queries × keys exists.

use super::*;
use crate::{kernel::Bind, shape::MAX_RANK};

/// A bias of at most this number hides a key from a query. It stands for −∞, which WGSL cannot write.
pub(super) const HIDDEN: f32 = -1e30;

/// Masks of [attention](Tensor::scaled_dot_product_attention_masked). The leading axes are batch and heads, for example.
///
/// A query that sees no key has the result 0, and gives no gradient. (PyTorch returns NaN if only −∞ is left, and 0 in
/// some of its kernels.)
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionMask<'g> {
    /// The number of keys of each sequence, labels of the shape `[batch]`: the first axes of the leading axes. Later keys are padding,
    /// and no query sees them. A number above m counts as m.
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

/// The places of the masks in the inputs of an op.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Masks {
    /// The number of the input that holds the lengths, and the number of neighbouring batches that share a length.
    lengths: Option<(usize, usize)>,
    bias: Option<BiasPlace>,
}

/// The element of batch b, query i and key j is `b / outer % count · matrix + i · row + j · col`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BiasPlace {
    input: usize,
    outer: usize,
    count: usize,
    matrix: usize,
    row: usize,
    col: usize,
}

impl BiasPlace {
    fn new(input: usize, shape: Shape, lead: Shape, [n, m]: [usize; 2]) -> Result<BiasPlace, String> {
        let rank = lead.rank() + 2;
        let mut full = [1; MAX_RANK];
        full[..lead.rank()].copy_from_slice(lead.dims());
        full[lead.rank()..rank].copy_from_slice(&[n, m]);
        let full = &full[..rank];
        let wrong = || format!("a mask or bias must broadcast to {full:?}, but has the shape {shape}");
        let mut dims = [1; MAX_RANK];
        dims[rank.checked_sub(shape.rank()).ok_or_else(wrong)?..rank].copy_from_slice(shape.dims());
        if dims.iter().zip(full).any(|(&d, &f)| d != 1 && d != f) {
            return Err(wrong());
        }
        let lead = full.len() - 2;
        let first = (0..lead).find(|&i| dims[i] != 1).unwrap_or(lead);
        let end = (0..lead).rfind(|&i| dims[i] != 1).map_or(lead, |i| i + 1);
        if dims[first..end] != full[first..end] {
            return Err(format!("the leading axes of a mask that are not 1 must be neighbours, but its shape is {shape} for {full:?}"));
        }
        let (rows, cols) = (dims[lead], dims[lead + 1]);
        Ok(BiasPlace {
            input,
            outer: full[end..lead].iter().product(),
            count: dims[first..end].iter().product(),
            matrix: rows * cols,
            row: if rows == 1 { 0 } else { cols },
            col: usize::from(cols > 1),
        })
    }
}

impl Masks {
    /// Finds the masks behind the first `skip` inputs: lengths are labels, a bias is floats.
    pub(super) fn new(x: &[Shape], skip: usize, lead: Shape, sizes: [usize; 2]) -> Result<Masks, String> {
        let mut masks = Masks::default();
        for (i, s) in x.iter().enumerate().skip(skip) {
            match s.dtype() {
                DType::U32 if masks != Masks::default() => return Err("takes lengths once, and before a bias".into()),
                DType::U32 if lead.dims().starts_with(s.dims()) => masks.lengths = Some((i, lead.elements() / s.elements())),
                DType::U32 => {
                    return Err(format!("lengths must have the first of the leading axes {lead}, but have the shape {:?}", s.dims()));
                }
                DType::F32 if masks.bias.is_some() => return Err("takes one bias".into()),
                DType::F32 => masks.bias = Some(BiasPlace::new(i, *s, lead, sizes)?),
            }
        }
        Ok(masks)
    }
    /// Returns the contents of the masks.
    pub(super) fn of<'a, T>(self, m: usize, x: &'a [View<'a, T>]) -> Given<'a, T> {
        let lengths = self.lengths.map_or(&[][..], |(i, _)| x[i].u);
        Given { masks: self, m, lengths, bias: self.bias.map_or(&[][..], |b| x[b.input].f) }
    }
    pub(super) fn binds(&self) -> Vec<Bind> {
        let lengths = self.lengths.map(|(i, _)| Bind::input("lengths", i, DType::U32));
        lengths.into_iter().chain(self.bias.map(|b| Bind::input("bias", b.input, DType::F32))).collect()
    }
    pub(super) fn params(&self, n: usize, m: usize) -> Vec<(&'static str, usize)> {
        let mut all = Vec::new();
        if *self != Masks::default() {
            all.extend([("queries", n), ("keys", m)]);
        }
        if let Some((_, shared)) = self.lengths {
            all.push(("batches", shared));
        }
        if let Some(b) = self.bias {
            all.extend([
                ("bias_outer", b.outer),
                ("bias_count", b.count),
                ("bias_matrix", b.matrix),
                ("bias_row", b.row),
                ("bias_col", b.col),
            ]);
        }
        all
    }
    /// Returns the functions that `attention.wgsl` takes from here.
    pub(super) fn code(&self) -> String {
        let keys = match self.lengths {
            None => "0xffffffffu",
            Some(_) => "min(p.keys, lengths[batch / p.batches])",
        };
        let biased = match self.bias {
            None => "    return score;\n",
            Some(_) => {
                "    let matrix = batch / p.bias_outer % p.bias_count * p.bias_matrix;\n    \
                 let b = bias[matrix + min(query, p.queries - 1u) * p.bias_row + min(key, p.keys - 1u) * p.bias_col];\n    \
                 return select(score + b, HIDDEN, b <= -1e30);\n"
            }
        };
        // Without masks a row sees its first key. So its sum is not 0, unless a number overflowed.
        let whole = if *self == Masks::default() { "total" } else { "select(total, 1.0, total == 0.0)" };
        let level = if *self == Masks::default() { "top" } else { "select(top, 0.0, total == 0.0)" };
        format!(
            "fn keys(batch: u32) -> u32 {{ return {keys}; }}\n\
             fn biased(batch: u32, query: u32, key: u32, score: f32) -> f32 {{\n{biased}}}\n\
             fn whole_of(total: f32) -> f32 {{ return {whole}; }}\n\
             fn level_of(top: f32, total: f32) -> f32 {{ return {level}; }}\n"
        )
    }
    /// Returns the exponents `scores − l` with −10⁴ for hidden pairs, in plain ops. `x` are the inputs of the op.
    pub(super) fn apply<'g>(&self, x: &[Tensor<'g>], exponent: Tensor<'g>) -> Tensor<'g> {
        let mut exponent = exponent;
        if let Some(b) = self.bias {
            let bias = x[b.input];
            exponent = bias.le(HIDDEN).where_(-1e4, exponent + bias);
        }
        if let Some((i, _)) = self.lengths {
            let (m, rank) = (exponent.shape().last(), exponent.shape().rank());
            let mut dims = x[i].shape().dims().to_vec();
            dims.resize(rank, 1);
            let places = exponent.graph.constant(Host::new([m], (0..m).map(|j| j as f32).collect()));
            let lengths = x[i].reshape(Shape::new(&dims).expect("the scores have as many axes"));
            exponent = lengths.gt(places).where_(exponent, -1e4);
        }
        exponent
    }
}

/// The contents of the masks.
#[derive(Clone, Copy)]
pub(super) struct Given<'a, T> {
    masks: Masks,
    m: usize,
    lengths: &'a [u32],
    bias: &'a [T],
}

impl<T: Real> Given<'_, T> {
    pub(super) fn is_some(&self) -> bool {
        self.masks != Masks::default()
    }
    /// Returns the number of keys of a batch.
    pub(super) fn keys(&self, batch: usize) -> usize {
        self.masks.lengths.map_or(self.m, |(_, shared)| self.m.min(self.lengths[batch / shared] as usize))
    }
    /// Returns the number that is added to the score of a pair. It is −∞ if the query does not see the key.
    pub(super) fn bias(&self, batch: usize, query: usize, key: usize) -> T {
        if key >= self.keys(batch) {
            return T::neg_infinity();
        }
        let Some(b) = self.masks.bias else { return T::zero() };
        let bias = self.bias[batch / b.outer % b.count * b.matrix + query * b.row + key * b.col];
        if bias <= T::of(f64::from(HIDDEN)) { T::neg_infinity() } else { bias }
    }
}
