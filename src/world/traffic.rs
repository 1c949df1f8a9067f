//! The count of a rank's messages.

use super::What;

/// The communication of a rank so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// The number of bytes sent to other ranks, with the headers of messages.
    pub sent: u64,
    /// The number of bytes received from other ranks.
    pub received: u64,
    /// The seconds in which exchanges were under way. It includes the time until the slowest rank comes.
    pub busy: f64,
    /// The seconds in which the training waited for an exchange. The rest of [`busy`](Traffic::busy) was hidden behind other work.
    pub waited: f64,
    /// The numbers of messages and bytes that were sent, by the number of the content. Messages outside of exchanges come last.
    pub(super) contents: [(u64, u64); What::NAMES.len() + 1],
}

impl Traffic {
    /// Counts a message to one rank. `None` is a message outside of an exchange.
    pub(super) fn count(&mut self, what: Option<What>, bytes: usize) {
        self.sent += bytes as u64;
        let (messages, sum) = &mut self.contents[what.map_or(What::NAMES.len(), |what| what.numbers()[0] as usize)];
        (*messages, *sum) = (*messages + 1, *sum + bytes as u64);
    }
    /// Returns for each purpose of messages its name, the number of messages sent, and their bytes, which add up to
    /// [`sent`](Traffic::sent).
    ///
    /// ```
    /// use downhill::World;
    /// for (name, messages, bytes) in World::alone().traffic().purposes() {
    ///     assert_eq!((messages, bytes), (0, 0), "{name}");
    /// }
    /// ```
    pub fn purposes(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let names = What::NAMES.into_iter().chain(["signs of life"]);
        names.zip(self.contents).map(|(name, (messages, bytes))| (name, messages, bytes))
    }
}
