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
    /// Losses and metrics.
    Rows,
    /// States of the model.
    State,
    /// Hashes of the weights.
    Hash,
    /// A common decision.
    Flow,
    /// The end of a training.
    End,
}

impl What {
    /// The names of the contents in [`Traffic::purposes`](crate::Traffic::purposes), by [`What::number`].
    pub const NAMES: [&str; 7] = ["facts", "gradients", "losses and metrics", "states", "hashes of weights", "decisions", "ends"];

    pub fn number(self) -> usize {
        match self {
            What::Hello => 0,
            What::Grads(_) => 1,
            What::Rows => 2,
            What::State => 3,
            What::Hash => 4,
            What::Flow => 5,
            What::End => 6,
        }
    }
}

impl Tag {
    /// The number of bytes of a tag in a message.
    pub const BYTES: usize = 16;

    pub fn bytes(self) -> [u8; Tag::BYTES] {
        let bucket = if let What::Grads(bucket) = self.what { bucket } else { 0 };
        let words = [self.step as u32, (self.step >> 32) as u32, self.what.number() as u32, bucket];
        bytemuck::cast(words.map(u32::to_le_bytes))
    }
    pub fn of(bytes: [u8; Tag::BYTES]) -> Option<Tag> {
        let [low, high, kind, bucket]: [u32; 4] = bytemuck::cast::<_, [[u8; 4]; 4]>(bytes).map(u32::from_le_bytes);
        let what = match kind {
            0 => What::Hello,
            1 => What::Grads(bucket),
            2 => What::Rows,
            3 => What::State,
            4 => What::Hash,
            5 => What::Flow,
            6 => What::End,
            _ => return None,
        };
        Some(Tag { step: u64::from(low) | u64::from(high) << 32, what })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let what = match self.what {
            What::Hello => "the comparison of the trainers",
            What::Grads(bucket) => return write!(f, "step {}, gradients {bucket}", self.step),
            What::Rows => "losses",
            What::State => "states",
            What::Hash => "the comparison of the weights",
            What::Flow => "a common decision",
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
        for what in [What::Hello, What::Grads(7), What::Rows, What::State, What::Hash, What::Flow, What::End] {
            let tag = Tag { step: (5 << 32) + 3, what };
            assert_eq!(Tag::of(tag.bytes()), Some(tag));
        }
        assert_eq!(Tag::of([9; Tag::BYTES]), None);
    }
}
