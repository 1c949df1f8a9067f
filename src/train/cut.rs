//! How an epoch is divided into batches, and a batch into micro-batches.

use super::{options::Fit, plans::PlanKey};
use crate::error::{Error, Result};
use std::ops::Range;

/// How an epoch is divided into batches, and a batch into micro-batches.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// The number of samples in a step. The last step has the remaining samples. If the data is sharded, the samples are those of this rank.
    pub each: usize,
    pub steps: usize,
    /// The number of steps that have samples. It is less than `steps` where the shard of another rank is larger than that of this rank.
    pub filled: usize,
    /// The number of samples in all steps together.
    pub samples: usize,
    /// Whether each rank computes all parts of its own steps. Otherwise the ranks divide the parts of each step.
    pub sharded: bool,
    /// The number of samples in a micro-batch. The last micro-batch of a step has the remaining samples. `None` where steps are
    /// not divided.
    pub micro: Option<usize>,
    /// Whether a single remaining sample joins the micro-batch before it.
    pub joins: bool,
}

/// A micro-batch, or a whole step that is not divided.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub rows: &'a [usize],
    /// The position of its first sample in the order of the epoch.
    pub start: u32,
    /// The key of its plan.
    pub key: PlanKey,
    /// Its number in the step, over all ranks. The first part is 0.
    pub number: u32,
    /// Whether the step begins with this part, on this rank.
    pub first: bool,
    /// Whether more parts of the same step follow.
    pub more: bool,
}

impl Fit<'_> {
    /// Divides `n` samples into steps and micro-batches. A step has the batches of all ranks, or of this rank if the data is sharded.
    pub(super) fn cut(&self, n: usize, ranks: usize) -> Result<Cut> {
        let wrong = |what: &str, why: String| Err(Error::argument(what, why));
        let sharded = self.sharded_data && ranks > 1;
        let batches = self.accumulate.checked_mul(if sharded { 1 } else { ranks });
        let Some(size) = batches.and_then(|batches| batches.checked_mul(self.batch)) else {
            return wrong("accumulate", format!("{} batches of {} samples are more than can be counted", self.accumulate, self.batch));
        };
        match (self.batch, self.accumulate, self.micro) {
            (0, ..) => return wrong("batch size", "must be at least 1".into()),
            (_, 0, _) => return wrong("accumulate", "a step takes the gradients of at least 1 batch".into()),
            (.., Some(0)) => return wrong("micro_batch", "a micro-batch has at least 1 sample".into()),
            (.., Some(micro)) if micro > size => {
                return wrong("micro_batch", format!("{micro} samples, but a step has {size}; make it smaller, or the batch larger"));
            }
            _ => {}
        }
        // Ranks number their micro-batches alike, so `each` does not depend on the size of a shard.
        let (each, left) = (if sharded { size } else { size.min(n) }, n % size);
        let micro = self.micro.or((self.accumulate > 1 || ranks > 1).then_some(self.batch));
        // The gradients of ranks are added up as those of micro-batches are, so a step over ranks always has micro-batches.
        let micro = if ranks > 1 { micro.map(|micro| micro.min(each)) } else { micro.filter(|&micro| micro < each) };
        let steps = n.div_ceil(size);
        let cut = Cut { each, steps, filled: steps, samples: n, sharded, micro, joins: false };
        Ok(if self.drop_last && left > 0 && n > size { cut.with_steps(steps - 1) } else { cut })
    }
}

impl Cut {
    /// Returns the division with this number of steps. Samples behind them are left out.
    pub fn with_steps(self, steps: usize) -> Cut {
        match steps < self.filled {
            true => Cut { steps, filled: steps, samples: steps * self.each, ..self },
            false => Cut { steps, ..self },
        }
    }
    /// Returns the samples of step `k`, as positions in the order of the epoch. The first step is 0.
    fn step(&self, k: usize) -> Range<usize> {
        let bound = |k: usize| if k < self.filled { k * self.each } else { self.samples };
        bound(k)..bound(k + 1)
    }
    /// Returns the sizes of the parts of a step on `samples` samples, in order.
    fn sizes(&self, samples: usize) -> impl Iterator<Item = usize> + use<> {
        let size = self.micro.unwrap_or(samples).min(samples).max(1);
        let (whole, left) = (samples / size, samples % size);
        let joined = usize::from(self.joins && left == 1 && whole > 0);
        let rest = (left > joined).then_some(left);
        (0..whole).map(move |k| if k + 1 == whole { size + joined } else { size }).chain(rest)
    }
    /// Returns the division for a model that accepts no batch of one sample. A single remaining sample joins the micro-batch or
    /// the step before it.
    pub fn joined(self) -> Cut {
        let last = self.step(self.steps - 1).len();
        let steps = self.steps - usize::from(last == 1 && self.steps > 1);
        Cut { joins: true, steps, filled: steps, ..self }
    }
    /// Returns a text that is equal for equal epochs, for checkpoints. `shards` has the samples of each rank if the data is sharded.
    pub fn text(&self, shuffle: bool, shards: &[usize]) -> String {
        let micro = self.micro.map_or(String::new(), |micro| format!(" in micro-batches of {micro}"));
        let order = if shuffle { "shuffled" } else { "in order" };
        let samples = if self.sharded { format!("shards of {shards:?}") } else { self.samples.to_string() };
        format!("{} steps of {}{micro} over {samples} samples {order}", self.steps, self.each)
    }
    fn key(&self, samples: usize) -> PlanKey {
        if self.micro.is_some() { PlanKey::Micro(samples) } else { PlanKey::Whole(samples) }
    }
    /// Returns the keys of the plans that an epoch needs, without duplicates. The plan of the first batch comes first.
    pub fn keys(&self) -> Vec<PlanKey> {
        let mut keys = Vec::new();
        // All steps except the last have the same parts.
        for k in [0, self.filled - 1] {
            for size in self.sizes(self.step(k).len()) {
                if !keys.contains(&self.key(size)) {
                    keys.push(self.key(size));
                }
            }
        }
        keys
    }
    /// Returns the parts of the steps from `first` on, in order.
    pub fn parts<'a>(&self, order: &'a [usize], first: usize) -> Vec<Part<'a>> {
        (first..self.steps).flat_map(|k| self.parts_of(order, k)).collect()
    }
    fn parts_of<'a>(&self, order: &'a [usize], k: usize) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let (key, Range { mut start, end }) = (*self, self.step(k));
        (0..).zip(self.sizes(end - start)).map(move |(number, size)| {
            let (rows, at) = (&order[start..start + size], start);
            start += size;
            Part { rows, start: at as u32, key: key.key(size), number, first: number == 0, more: start < end }
        })
    }
    /// Returns the number of parts of a step that one of `ranks` ranks computes. A rank computes neighbouring parts. If the data is sharded,
    /// it is the largest number that a rank may have, and the same on all ranks.
    pub fn each_rank(&self, ranks: usize) -> usize {
        let parts = match self.sharded {
            true => self.each.div_ceil(self.micro.unwrap_or(self.each)),
            false => self.sizes(self.each).count().div_ceil(ranks),
        };
        parts.max(1)
    }
    /// Returns the parts that rank `rank` of `ranks` computes, of the steps from `first` on. A part without rows behind each step is the
    /// update.
    pub fn parts_of_rank<'a>(&self, order: &'a [usize], first: usize, rank: usize, ranks: usize) -> Vec<Part<'a>> {
        let (mut parts, each) = (Vec::new(), self.each_rank(ranks));
        for k in first..self.steps {
            let is_mine = |part: &Part| self.sharded || (part.number as usize / each).min(ranks - 1) == rank;
            let mine = self.parts_of(order, k).filter(is_mine).zip(0..);
            let before = parts.len();
            let number = (rank * each) as u32;
            parts.extend(mine.map(|(part, i)| Part { number: number + i, first: i == 0, more: true, ..part }));
            let first = parts.len() == before;
            parts.push(Part { rows: &[], start: 0, key: PlanKey::Mean, number: 0, first, more: false });
        }
        parts
    }
}
