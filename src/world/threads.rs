//! Ranks that are threads of one process.

use super::{
    mail::Link,
    pool::{Message, Pool},
};
use crate::error::Result;
use std::{
    sync::mpsc::{self, Receiver, Sender},
    time::Duration,
};

pub(super) struct ThreadLink {
    rank: usize,
    to: Vec<Sender<(usize, Message)>>,
    from: Receiver<(usize, Message)>,
}

/// Returns the links of `n` ranks.
pub(super) fn links(n: usize) -> Vec<ThreadLink> {
    let (to, from): (Vec<_>, Vec<_>) = (0..n).map(|_| mpsc::channel()).unzip();
    from.into_iter().enumerate().map(|(rank, from)| ThreadLink { rank, to: to.clone(), from }).collect()
}

impl Link for ThreadLink {
    fn place(&self) -> (usize, usize) {
        (self.rank, self.to.len())
    }
    fn send(&mut self, to: usize, message: Message) -> Result<()> {
        // A rank that has left does not need the message.
        let _ = self.to[to].send((self.rank, message));
        Ok(())
    }
    fn receive(&mut self, wait: Duration, _pool: &Pool) -> Result<Option<(usize, Message)>> {
        Ok(self.from.recv_timeout(wait).ok())
    }
    fn unsent(&mut self) -> Result<Option<usize>> {
        Ok(None)
    }
    fn waits(&self) -> bool {
        false
    }
    fn close(&mut self, _all: bool) {}
}
