//! How an epoch is divided into batches, and a batch into micro-batches.

use super::plans::Batch;
use std::ops::Range;

/// How an epoch is divided into batches, and a batch into micro-batches.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// The number of samples in a step. The last step has the remaining samples.
    pub each: usize,
    pub steps: usize,
    /// The number of samples in all steps together.
    pub samples: usize,
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
    pub key: Batch,
    /// Its number in the step, over all ranks. The first part is 0.
    pub number: u32,
    /// Whether the step begins with this part, on this rank.
    pub first: bool,
    /// Whether more parts of the same step follow.
    pub more: bool,
}

impl Cut {
    /// Returns the samples of step `k`, as positions in the order of the epoch. The first step is 0.
    fn step(&self, k: usize) -> Range<usize> {
        k * self.each..if k + 1 == self.steps { self.samples } else { (k + 1) * self.each }
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
        Cut { joins: true, steps: self.steps - usize::from(last == 1 && self.steps > 1), ..self }
    }
    /// Returns a text that is equal for equal epochs, for checkpoints.
    pub fn text(&self, shuffle: bool) -> String {
        let micro = self.micro.map_or(String::new(), |micro| format!(" in micro-batches of {micro}"));
        let order = if shuffle { "shuffled" } else { "in order" };
        format!("{} steps of {}{micro} over {} samples {order}", self.steps, self.each, self.samples)
    }
    fn key(&self, samples: usize) -> Batch {
        if self.micro.is_some() { Batch::Micro(samples) } else { Batch::Whole(samples) }
    }
    /// Returns the keys of the plans that an epoch needs, without duplicates. The plan of the first batch comes first.
    pub fn keys(&self) -> Vec<Batch> {
        let mut keys = Vec::new();
        // All steps except the last have the same parts.
        for k in [0, self.steps - 1] {
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
    /// Returns the number of parts of a step that one of `ranks` ranks computes. A rank computes neighbouring parts.
    pub fn each_rank(&self, ranks: usize) -> usize {
        self.sizes(self.each).count().div_ceil(ranks).max(1)
    }
    /// Returns the parts that rank `rank` of `ranks` computes, of the steps from `first` on. A part behind each step is the update. It has
    /// the rows of all ranks.
    pub fn parts_of_rank<'a>(&self, order: &'a [usize], first: usize, rank: usize, ranks: usize) -> Vec<Part<'a>> {
        let (mut parts, each) = (Vec::new(), self.each_rank(ranks));
        for k in first..self.steps {
            let mine = self.parts_of(order, k).filter(|part| (part.number as usize / each).min(ranks - 1) == rank);
            let before = parts.len();
            parts.extend(mine.enumerate().map(|(i, part)| Part { first: i == 0, more: true, ..part }));
            let (step, first) = (self.step(k), parts.len() == before);
            let (rows, start) = (&order[step.clone()], step.start as u32);
            parts.push(Part { rows, start, key: Batch::Mean, number: 0, first, more: false });
        }
        parts
    }
}
