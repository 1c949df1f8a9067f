//! Keys and values that several batches of queries share: the groups of grouped-query attention, and leading axes that broadcast.

use super::*;
use crate::shape::MAX_RANK;

/// The batch of keys and values that batch b of the queries reads is `b / each % count`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shared {
    /// The number of neighbouring batches of queries that share keys and values.
    pub each: usize,
    /// The number of batches of keys and values.
    pub count: usize,
    /// The number of times that the queries run through all batches of keys and values.
    pub outer: usize,
}

impl Shared {
    /// `lead` and `kv` are the leading axes of the queries, and of the keys and values. With `gqa`, the last one of `kv` may divide the
    /// last one of `lead`.
    pub(super) fn new(lead: Shape, kv: Shape, gqa: bool) -> Result<Shared, String> {
        let wrong = || {
            let how = if gqa { "must broadcast, and the heads of keys must divide those of queries" } else { "must broadcast" };
            format!("the axes before the last two {how}: they are {lead} and {kv}")
        };
        let (full, rank) = (lead.dims(), lead.rank());
        let mut dims = [1; MAX_RANK];
        dims[rank.checked_sub(kv.rank()).ok_or_else(wrong)?..rank].copy_from_slice(kv.dims());
        let dims = &dims[..rank];
        let group = |i: usize| if gqa && i + 1 == rank && full[i].is_multiple_of(dims[i]) { full[i] / dims[i] } else { 1 };
        if (0..rank).any(|i| dims[i] != 1 && dims[i] * group(i) != full[i]) {
            return Err(wrong());
        }
        let first = (0..rank).find(|&i| dims[i] != 1).unwrap_or(rank);
        let end = (0..rank).rfind(|&i| dims[i] != 1).map_or(rank, |i| i + 1);
        if (first..end).any(|i| dims[i] * group(i) != full[i]) {
            return Err(format!("the leading axes of keys that are not 1 must be neighbours, but they are {kv} for {lead}"));
        }
        let inside = if end == rank && first < end { group(rank - 1) } else { 1 };
        let product = |of: &[usize]| of.iter().product::<usize>();
        Ok(Shared { each: product(&full[end..]) * inside, count: product(&dims[first..end]), outer: product(&full[..first]) })
    }
    /// Returns whether each batch of queries has keys and values of its own.
    pub(super) fn is_none(self) -> bool {
        self.each == 1 && self.outer == 1
    }
    /// Returns the batch of keys and values that a batch of queries reads.
    pub(super) fn kv(self, batch: usize) -> usize {
        batch / self.each % self.count
    }
    /// Returns the number of batches of queries that read one batch of keys and values.
    pub(super) fn parts(self) -> usize {
        self.each * self.outer
    }
    /// Returns the batch of queries that is number `part` of those which read the batch `kv`.
    pub(super) fn queries(self, kv: usize, part: usize) -> usize {
        (part / self.each * self.count + kv) * self.each + part % self.each
    }
    /// Returns keys or values `[.., m, w]` with the leading axes of the queries.
    pub(super) fn repeat<'g>(self, x: Tensor<'g>, lead: Shape) -> Tensor<'g> {
        if self.is_none() && x.shape().rank() == lead.rank() + 2 {
            return x;
        }
        let [m, w] = rows(x.shape());
        let x = x.reshape([1, self.count, 1, m, w]).broadcast_to([self.outer, self.count, self.each, m, w]);
        x.reshape(with_lead(lead, [m, w]))
    }
    /// Returns the sum over the batches of queries that share keys and values: from the leading axes of the queries to the shape `to`.
    pub(super) fn sum<'g>(self, x: Tensor<'g>, to: Shape) -> Tensor<'g> {
        if self.is_none() && x.shape() == to {
            return x;
        }
        let [m, w] = rows(x.shape());
        x.reshape([self.outer, self.count, self.each, m, w]).sum(&[0, 2], false).reshape(to)
    }
}

/// Returns the sizes of the last two axes.
fn rows(x: Shape) -> [usize; 2] {
    [x.dims()[x.rank() - 2], x.last()]
}

/// Returns the shape of matrices with these leading axes.
pub(super) fn with_lead(lead: Shape, matrix: [usize; 2]) -> Shape {
    Shape::new(&[lead.dims(), &matrix].concat()).expect("a tensor with these leading axes exists")
}

/// Returns queries, keys and values with leading axes that the op takes, as PyTorch broadcasts them. Without broadcasting they are
/// unchanged. If they do not broadcast they are unchanged, too, and the op says why.
#[track_caller]
pub(super) fn broadcast<'g>(x: [Tensor<'g>; 3], gqa: bool) -> [Tensor<'g>; 3] {
    let leads = x.map(|x| matrix(x.shape()).map(|(lead, ..)| lead));
    let [Some(q), Some(k), Some(v)] = leads else { return x };
    if q == k && k == v {
        return x;
    }
    let Some(kv) = k.broadcast(v) else { return x };
    // Heads of queries may be a multiple of those of keys. The other axes broadcast.
    let heads = |lead: Shape| if gqa { lead.dims().last().copied().unwrap_or(1) } else { 1 };
    let (of_q, of_kv) = (heads(q), heads(kv));
    let without = |lead: Shape| if gqa && lead.rank() > 0 { lead.with(lead.rank() - 1, 1) } else { lead };
    let Some(others) = without(q).broadcast(without(kv)) else { return x };
    let with = |heads: usize| if gqa && others.rank() > 0 { others.with(others.rank() - 1, heads) } else { others };
    let (lead, whole) = (with(of_q), with(of_kv));
    if gqa && !of_q.is_multiple_of(of_kv) {
        return x;
    }
    // Keys are repeated in memory only if the kernels cannot broadcast them.
    let kv = if Shared::new(lead, kv, gqa).is_ok() { kv } else { whole };
    let to = |x: Tensor<'g>, lead: Shape| {
        let shape = with_lead(lead, rows(x.shape()));
        if x.shape() == shape { x } else { x.broadcast_to(shape) }
    };
    [to(x[0], lead), to(x[1], kv), to(x[2], kv)]
}
