//! The place of an exchange in the training.

use std::fmt;

/// The place of an exchange in the training. All ranks make the same exchanges in the same order, so tags that differ show a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub step: u64,
    pub what: What,
}

/// The content of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Facts that must be the same on all ranks.
    Hello,
    /// A bucket of the gradients.
    Grads(u32),
    /// Values that the computation of a micro-batch needs from all ranks, such as statistics of batch norm.
    Values(u32),
    /// Losses and metrics.
    Rows,
    /// States of the model.
    State,
    /// The results of the trials of an update.
    Trial,
    /// Weights that their owners have updated.
    Weights,
    /// States of the optimizer.
    Optimizer,
    /// Hashes of the weights.
    Hash,
    /// A common decision.
    Flow,
    /// Times, for the trace of all ranks.
    Times,
    /// The end of a training.
    End,
}

impl What {
    /// The names of the contents in [`Traffic::purposes`](crate::Traffic::purposes), by [`What::numbers`].
    pub const NAMES: [&str; 12] = [
        "facts",
        "gradients",
        "values",
        "losses and metrics",
        "states",
        "trials",
        "weights",
        "states of the optimizer",
        "hashes of weights",
        "decisions",
        "times",
        "ends",
    ];

    /// Returns the number of the content, and the number of the exchange among those of one content.
    pub fn numbers(self) -> [u32; 2] {
        match self {
            What::Hello => [0, 0],
            What::Grads(k) => [1, k],
            What::Values(k) => [2, k],
            What::Rows => [3, 0],
            What::State => [4, 0],
            What::Trial => [5, 0],
            What::Weights => [6, 0],
            What::Optimizer => [7, 0],
            What::Hash => [8, 0],
            What::Flow => [9, 0],
            What::Times => [10, 0],
            What::End => [11, 0],
        }
    }
    fn of([kind, k]: [u32; 2]) -> Option<What> {
        let all = [
            What::Hello,
            What::Grads(k),
            What::Values(k),
            What::Rows,
            What::State,
            What::Trial,
            What::Weights,
            What::Optimizer,
            What::Hash,
            What::Flow,
            What::Times,
            What::End,
        ];
        all.into_iter().find(|what| what.numbers()[0] == kind)
    }
}

impl Tag {
    /// The number of bytes of a tag in a message.
    pub const BYTES: usize = 16;

    pub fn bytes(self) -> [u8; Tag::BYTES] {
        let [kind, k] = self.what.numbers();
        bytemuck::cast([self.step as u32, (self.step >> 32) as u32, kind, k].map(u32::to_le_bytes))
    }
    pub fn of(bytes: [u8; Tag::BYTES]) -> Option<Tag> {
        let [low, high, kind, k]: [u32; 4] = bytemuck::cast::<_, [[u8; 4]; 4]>(bytes).map(u32::from_le_bytes);
        Some(Tag { step: u64::from(low) | u64::from(high) << 32, what: What::of([kind, k])? })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let what = match self.what {
            What::Hello => "the comparison of the trainers",
            What::Grads(bucket) => return write!(f, "step {}, gradients {bucket}", self.step),
            What::Values(k) => return write!(f, "step {}, values {k} of the computation", self.step),
            What::Rows => "losses",
            What::State => "states",
            What::Trial => "the trial of the update",
            What::Weights => "weights",
            What::Optimizer => "states of the optimizer",
            What::Hash => "the comparison of the weights",
            What::Flow => "a common decision",
            What::Times => "times",
            What::End => "the end of the training",
        };
        write!(f, "step {}, {what}", self.step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back() {
        for number in 0..What::NAMES.len() as u32 {
            let what = What::of([number, 7]).expect("there is a name for each content");
            assert_eq!(what.numbers()[0], number);
            let tag = Tag { step: (5 << 32) + 3, what };
            assert_eq!(Tag::of(tag.bytes()), Some(tag));
        }
        assert_eq!(Tag::of([9; Tag::BYTES]), None);
    }
}
