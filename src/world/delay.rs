//! A link that is as slow as another network.

use super::{
    mail::Link,
    pool::{Message, Pool},
};
use crate::error::Result;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The figures of a slow network.
#[derive(Clone, Copy)]
pub(super) struct Delay {
    pub latency: Duration,
    pub bytes_per_s: u64,
}

/// The longest time for which one message is held back. Ranks are given up long before.
const LONGEST: Duration = Duration::from_secs(3600);

/// A link that holds messages back for the time that a slow network would need.
pub(super) struct DelayedLink {
    link: Box<dyn Link>,
    delay: Option<Delay>,
    /// The time at which all messages so far have left this rank.
    free: Instant,
    /// Messages that are held back, with the time at which each goes on.
    held: VecDeque<(Instant, usize, Message)>,
}

impl DelayedLink {
    pub fn new(link: Box<dyn Link>) -> DelayedLink {
        DelayedLink { link, delay: None, free: Instant::now(), held: VecDeque::new() }
    }
    /// Sets the figures of the network for later messages.
    pub fn delay(&mut self, delay: Delay) {
        self.delay = Some(delay);
    }
    /// Sends the messages whose time has come.
    fn go_on(&mut self) -> Result<()> {
        while self.held.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let (_, to, message) = self.held.pop_front().expect("there is a first message");
            self.link.send(to, message)?;
        }
        Ok(())
    }
}

impl Link for DelayedLink {
    fn place(&self) -> (usize, usize) {
        self.link.place()
    }
    fn send(&mut self, to: usize, message: Message) -> Result<()> {
        let Some(Delay { latency, bytes_per_s }) = self.delay else { return self.link.send(to, message) };
        let takes = Duration::from_secs_f64(message.len() as f64 / bytes_per_s.max(1) as f64);
        self.free = self.free.max(Instant::now()) + takes.min(LONGEST);
        self.held.push_back((self.free + latency.min(LONGEST), to, message));
        Ok(())
    }
    fn receive(&mut self, wait: Duration, pool: &Pool) -> Result<Option<(usize, Message)>> {
        self.go_on()?;
        // The caller comes again, so a wait may be too short.
        let next = self.held.front().map_or(wait, |(due, ..)| wait.min(due.saturating_duration_since(Instant::now())));
        self.link.receive(next, pool)
    }
    fn unsent(&mut self) -> Result<Option<usize>> {
        self.go_on()?;
        match self.held.front() {
            Some((_, to, _)) => Ok(Some(*to)),
            None => self.link.unsent(),
        }
    }
    fn waits(&self) -> bool {
        self.link.waits()
    }
    fn close(&mut self, all: bool) {
        for (_, to, message) in std::mem::take(&mut self.held) {
            // A rank that cannot be reached hears of it by silence.
            let _ = self.link.send(to, message);
        }
        self.link.close(all);
    }
}
