//! How an epoch is cut into batches, and those into micro-batches.

use super::plans::Batch;
use std::ops::Range;

/// How an epoch is cut into batches, and those into micro-batches.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// Samples of a step; the last one takes what is left.
    pub each: usize,
    pub steps: usize,
    /// Of all steps together.
    pub samples: usize,
    /// Samples of a micro-batch, where steps are made of such; the last one of a step takes what is left.
    pub micro: Option<usize>,
    /// Whether one sample that is left joins the micro-batch before it.
    pub joins: bool,
}

/// The samples of a micro-batch, or of a step that has no such parts.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub rows: &'a [usize],
    /// The place of its first sample in the order of the epoch.
    pub start: u32,
    /// Its plan.
    pub key: Batch,
    /// Its number in the step, and whether others follow.
    pub number: u32,
    pub more: bool,
}

impl Cut {
    /// The samples of a step, from 0.
    fn step(&self, k: usize) -> Range<usize> {
        k * self.each..if k + 1 == self.steps { self.samples } else { (k + 1) * self.each }
    }
    /// What a step on so many samples is made of: the sizes of its parts, in order.
    fn sizes(&self, samples: usize) -> impl Iterator<Item = usize> + use<> {
        let size = self.micro.unwrap_or(samples).min(samples).max(1);
        let (whole, left) = (samples / size, samples % size);
        let joined = usize::from(self.joins && left == 1 && whole > 0);
        let rest = (left > joined).then_some(left);
        (0..whole).map(move |k| if k + 1 == whole { size + joined } else { size }).chain(rest)
    }
    /// The same where the model takes no batch of one sample: one that is left joins the micro-batch before it, or the step.
    pub fn joined(self) -> Cut {
        let last = self.step(self.steps - 1).len();
        Cut { joins: true, steps: self.steps - usize::from(last == 1 && self.steps > 1), ..self }
    }
    fn key(&self, samples: usize) -> Batch {
        if self.micro.is_some() { Batch::Micro(samples) } else { Batch::Whole(samples) }
    }
    /// The plans that an epoch takes, each once: that of the first batch comes first.
    pub fn keys(&self) -> Vec<Batch> {
        let mut keys = Vec::new();
        // All but the last step are alike.
        for k in [0, self.steps - 1] {
            for size in self.sizes(self.step(k).len()) {
                if !keys.contains(&self.key(size)) {
                    keys.push(self.key(size));
                }
            }
        }
        keys
    }
    /// The parts of all steps, in order.
    pub fn parts<'a>(&self, order: &'a [usize]) -> Vec<Part<'a>> {
        let mut parts = Vec::new();
        for k in 0..self.steps {
            let Range { mut start, end } = self.step(k);
            for (number, size) in (0..).zip(self.sizes(end - start)) {
                let rows = &order[start..start + size];
                parts.push(Part { rows, start: start as u32, key: self.key(size), number, more: start + size < end });
                start += size;
            }
        }
        parts
    }
}
