//! Messages between ranks: exchanges, signs of life, and farewells.

use super::{
    Traffic,
    delay::DelayedLink,
    pool::{Buffer, Message, Pool},
    tag::Tag,
};
use crate::error::{Error, Result};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

/// A way to send messages to other ranks. Messages from one rank to another arrive in order.
pub(super) trait Link {
    /// Returns the rank and the number of ranks.
    fn place(&self) -> (usize, usize);
    /// Begins to send a message.
    fn send(&mut self, to: usize, message: Message) -> Result<()>;
    /// Returns a message that has arrived, with its sender. Waits for at most `wait`. Memory for messages comes from the pool.
    fn receive(&mut self, wait: Duration, pool: &Pool) -> Result<Option<(usize, Message)>>;
    /// Returns a rank that has not taken all messages yet. Messages that are under way make progress only in calls of the link.
    fn unsent(&mut self) -> Result<Option<usize>>;
    /// Whether a rank must wait until all ranks leave.
    fn waits(&self) -> bool;
    /// Ends the use of the link. `all` says whether all other ranks are leaving too.
    fn close(&mut self, all: bool);
}

/// The time between two signs of life.
const BEAT: Duration = Duration::from_secs(1);
/// A rank that is silent for this time is dead. A busy machine may hold up a living rank for seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// The time that a rank waits for the others to leave after a failure.
const GRACE: Duration = Duration::from_secs(10);
/// The most bytes of a packet. MPI counts in 32 bits. A sign of life waits behind the packets that were sent before, and a packet that
/// arrives is one, so packets are small enough for a slow network.
const PACKET: usize = 1 << 26;

const MAGIC: [u8; 4] = *b"dhl1";
const VERSION: usize = 24;
/// A header has: the magic number, the kind, the tag, the number of bytes of the content, the version of this crate.
const HEADER: usize = 8 + Tag::BYTES + 8 + VERSION;

// The kinds of messages.
const DATA: u8 = 0;
const ALIVE: u8 = 1;
const FAREWELL: u8 = 2;
const LEFT: u8 = 3;
/// A farewell whose rank at fault is no longer there.
const GONE: u8 = 4;

/// The mailbox of a rank.
pub(super) struct Mail {
    pub link: DelayedLink,
    pool: Pool,
    rank: usize,
    /// Data that has arrived and was not wanted yet, by rank.
    inbox: Vec<VecDeque<Message>>,
    /// The first packets of a message that is not complete, by rank.
    partial: Vec<Option<Buffer>>,
    /// Whether a rank has left.
    left: Vec<bool>,
    /// The first failure that this rank knows of.
    failed: Option<Error>,
    /// The rank that is silent, if that is the failure. Nobody waits for it.
    gone: Option<usize>,
    /// The place of the latest exchange.
    place: Option<Tag>,
    /// The times of the last sign of life that was sent and received.
    beat: Instant,
    heard: Instant,
    silence: Duration,
    packet: usize,
    /// The messages that this rank has sent and received.
    pub traffic: Traffic,
}

/// The parts of a header.
struct Head {
    kind: u8,
    tag: Option<Tag>,
    len: usize,
    version: String,
}

fn head(message: &[u8]) -> Option<Head> {
    let (head, _) = message.split_first_chunk::<HEADER>()?;
    let (start, rest) = head.split_first_chunk::<8>()?;
    let (tag, rest) = rest.split_first_chunk::<{ Tag::BYTES }>()?;
    let (len, version) = rest.split_first_chunk::<8>()?;
    let version = String::from_utf8_lossy(version).trim_end_matches('\0').to_string();
    let tag = if start[5] != 0 { Tag::of(*tag) } else { None };
    (start[..4] == MAGIC).then(|| Head { kind: start[4], tag, len: u64::from_le_bytes(*len) as usize, version })
}

impl Mail {
    pub fn new(link: Box<dyn Link>) -> Mail {
        let ((rank, size), now) = (link.place(), Instant::now());
        Mail {
            link: DelayedLink::new(link),
            pool: Pool::default(),
            rank,
            inbox: vec![VecDeque::new(); size],
            partial: (0..size).map(|_| None).collect(),
            left: vec![false; size],
            failed: None,
            gone: None,
            place: None,
            beat: now,
            heard: now,
            silence: SILENCE,
            packet: PACKET,
            traffic: Traffic::default(),
        }
    }
    pub fn rank(&self) -> usize {
        self.rank
    }
    pub fn size(&self) -> usize {
        self.inbox.len()
    }
    /// Makes a message of an exchange. `write` appends its content, which has `len` bytes.
    pub fn message(&self, tag: Tag, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Message {
        self.make(DATA, Some(tag), len, write)
    }
    fn make(&self, kind: u8, tag: Option<Tag>, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Message {
        let mut message = self.pool.empty(HEADER + len);
        message.extend(MAGIC);
        message.extend([kind, u8::from(tag.is_some()), 0, 0]);
        message.extend(tag.map_or([0; Tag::BYTES], Tag::bytes));
        message.extend((len as u64).to_le_bytes());
        message.extend(env!("CARGO_PKG_VERSION").bytes().chain([0; VERSION]).take(VERSION));
        write(&mut message);
        debug_assert_eq!(message.len(), HEADER + len, "the header has the length");
        Arc::new(message)
    }
    /// Returns the content of a message of an exchange.
    pub fn content(message: &Message) -> &[u8] {
        &message[HEADER..]
    }
    /// Sends `parts[r]` to rank r. Returns the message of each rank, in the order of the ranks.
    pub fn exchange(&mut self, tag: Tag, mut parts: Vec<Message>, timeout: Duration) -> Result<Vec<Message>> {
        self.ok()?;
        self.place = Some(tag);
        let mut came: Vec<Option<Message>> = vec![None; parts.len()];
        came[self.rank] = Some(Arc::clone(&parts[self.rank]));
        // Each rank begins with the next one, so that not all send to rank 0 first.
        for k in 1..parts.len() {
            let to = (self.rank + k) % parts.len();
            self.send(Some(tag), to, std::mem::take(&mut parts[to]))?;
        }
        let since = Instant::now();
        loop {
            for (rank, came) in came.iter_mut().enumerate().filter(|(_, came)| came.is_none()) {
                if let Some(message) = self.inbox[rank].pop_front() {
                    self.same_place(rank, tag, &message)?;
                    *came = Some(message);
                }
            }
            let missing = came.iter().position(Option::is_none);
            let slow = match missing {
                Some(rank) => Some(rank),
                None => self.link.unsent()?,
            };
            let Some(slow) = slow else { break };
            if let Some(rank) = (0..came.len()).find(|&rank| came[rank].is_none() && self.left[rank]) {
                return Err(Error::Rank { rank, why: format!("it left, while this rank is at {tag}") });
            }
            if since.elapsed() > timeout {
                let why = format!("it did not come to {tag} within {:.0} s; see World::timeout", timeout.as_secs_f64());
                return Err(Error::Rank { rank: slow, why });
            }
            self.tend(Duration::from_millis(1));
            self.ok()?;
        }
        Ok(came.into_iter().map(|message| message.expect("no rank is missing")).collect())
    }
    fn same_place(&self, rank: usize, tag: Tag, message: &Message) -> Result<()> {
        let head = head(message).expect("only whole messages come into the inbox");
        if head.tag == Some(tag) {
            return Ok(());
        }
        let other = head.tag.map_or("an unknown place".into(), |tag| tag.to_string());
        Err(Error::Rank { rank, why: format!("it is at {other}, while this rank is at {tag}; all ranks must make the same calls") })
    }
    fn ok(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }
    /// Sends a message of an exchange, or one without a tag that is no part of an exchange.
    fn send(&mut self, tag: Option<Tag>, to: usize, message: Message) -> Result<()> {
        self.traffic.count(tag.map(|tag| tag.what), message.len());
        if message.len() <= self.packet {
            return self.link.send(to, message);
        }
        let pool = &self.pool;
        message.chunks(self.packet).try_for_each(|bytes| {
            let mut packet = pool.empty(bytes.len());
            packet.extend_from_slice(bytes);
            self.link.send(to, Arc::new(packet))
        })
    }
    /// Sends a message to all other ranks. Ranks that cannot be reached are left out.
    fn tell(&mut self, kind: u8, content: &[u8]) {
        let message = self.make(kind, self.place, content.len(), |to| to.extend_from_slice(content));
        let own = self.rank;
        for rank in (0..self.size()).filter(|&rank| rank != own) {
            let _ = self.send(None, rank, Arc::clone(&message));
        }
    }
    /// Ends the world with an error: this rank and all others fail from now on. Only the first error counts.
    pub fn fail(&mut self, error: Error) {
        if self.failed.is_some() {
            return;
        }
        let (rank, why) = match &error {
            Error::Rank { rank, why } => (*rank, why.clone()),
            other => (self.rank, other.to_string()),
        };
        let kind = if self.gone.is_some() { GONE } else { FAREWELL };
        self.tell(kind, &[&(rank as u32).to_le_bytes(), why.as_bytes()].concat());
        self.failed = Some(error);
    }
    /// Takes messages that have arrived, while this rank waits for nothing.
    pub fn look(&mut self) {
        self.tend(Duration::ZERO);
    }
    /// Sends a sign of life, takes messages, and looks whether the rank before this one lives. Waits for at most `wait`.
    fn tend(&mut self, mut wait: Duration) {
        let size = self.size();
        if self.beat.elapsed() >= BEAT {
            self.beat = Instant::now();
            let alive = self.make(ALIVE, self.place, 0, |_| ());
            let next = (self.rank + 1) % size;
            if !self.left[next]
                && let Err(error) = self.send(None, next, alive)
            {
                self.fail(error);
            }
        }
        loop {
            match self.link.receive(wait, &self.pool) {
                Ok(Some((from, packet))) => self.take(from, packet),
                Ok(None) => break,
                Err(error) => return self.fail(error),
            }
            wait = Duration::ZERO;
        }
        let before = (self.rank + size - 1) % size;
        if !self.left[before] && self.failed.is_none() && self.heard.elapsed() > self.silence {
            let why = format!("it has been silent for {} s: its process ended, is stopped, or cannot be reached", self.silence.as_secs());
            self.gone = Some(before);
            self.fail(Error::Rank { rank: before, why });
        }
    }
    fn take(&mut self, from: usize, packet: Message) {
        self.traffic.received += packet.len() as u64;
        if from == (self.rank + self.size() - 1) % self.size() {
            self.heard = Instant::now();
        }
        let message = match self.partial[from].take() {
            None => packet,
            Some(mut all) => {
                all.extend_from_slice(&packet);
                Arc::new(all)
            }
        };
        let Some(head) = head(&message) else {
            return self
                .fail(Error::Rank { rank: from, why: "it is not a rank of this program, or has another version of downhill".into() });
        };
        if head.version != env!("CARGO_PKG_VERSION") {
            let why = format!("it has downhill {}, but this rank has {}", head.version, env!("CARGO_PKG_VERSION"));
            return self.fail(Error::Rank { rank: from, why });
        }
        if message.len() < HEADER + head.len {
            let copy = |shared: Message| {
                let mut own = self.pool.empty(shared.len());
                own.extend_from_slice(&shared);
                own
            };
            self.partial[from] = Some(Arc::try_unwrap(message).unwrap_or_else(copy));
            return;
        }
        match head.kind {
            DATA => self.inbox[from].push_back(message),
            FAREWELL | GONE => {
                let (rank, why) = Mail::content(&message).split_first_chunk::<4>().unwrap_or((&[0; 4], b"it failed"));
                let error = Error::Rank { rank: u32::from_le_bytes(*rank) as usize, why: String::from_utf8_lossy(why).into() };
                if let (None, GONE, Error::Rank { rank, .. }) = (&self.failed, head.kind, &error) {
                    self.gone = Some(*rank);
                }
                self.failed.get_or_insert(error);
            }
            LEFT => self.left[from] = true,
            _ => {}
        }
    }
    /// Leaves the world.
    pub fn close(mut self) {
        self.tell(LEFT, &[]);
        self.left[self.rank] = true;
        let mut failed = None;
        while self.link.waits() && (0..self.size()).any(|rank| !self.left[rank] && self.gone != Some(rank)) {
            if self.failed.is_some() && failed.get_or_insert_with(Instant::now).elapsed() > GRACE {
                break;
            }
            self.tend(Duration::from_millis(1));
        }
        let all = !self.left.contains(&false);
        self.link.close(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{
        tag::What,
        threads::{ThreadLink, links},
    };
    use std::thread;

    const TAG: Tag = Tag { step: 5, what: What::Rows };
    const LONG: Duration = Duration::from_secs(60);

    /// A link that must wait until all ranks leave, as under MPI.
    struct Waits(ThreadLink);

    impl Link for Waits {
        fn place(&self) -> (usize, usize) {
            self.0.place()
        }
        fn send(&mut self, to: usize, message: Message) -> Result<()> {
            self.0.send(to, message)
        }
        fn receive(&mut self, wait: Duration, pool: &Pool) -> Result<Option<(usize, Message)>> {
            self.0.receive(wait, pool)
        }
        fn unsent(&mut self) -> Result<Option<usize>> {
            self.0.unsent()
        }
        fn waits(&self) -> bool {
            true
        }
        fn close(&mut self, all: bool) {
            assert!(!all, "a rank is gone, so MPI_Finalize would wait for it");
        }
    }

    fn parts(mail: &Mail, len: usize) -> Vec<Message> {
        vec![mail.message(TAG, len, |to| to.extend((0..len).map(|i| i as u8))); mail.size()]
    }
    fn exchange(mail: &mut Mail, len: usize) -> Result<Vec<Message>> {
        let parts = parts(mail, len);
        mail.exchange(TAG, parts, LONG)
    }

    #[test]
    fn a_rank_that_is_silent_is_not_waited_for() {
        let mut links = links(3);
        // Rank 1 is there and says nothing.
        let _one = links.remove(1);
        let since = Instant::now();
        let ranks: Vec<_> = links
            .into_iter()
            .map(|link| {
                thread::spawn(move || {
                    let mut mail = Mail::new(Box::new(Waits(link)));
                    mail.silence = Duration::from_secs(4);
                    let error = exchange(&mut mail, 4).expect_err("a rank is missing").to_string();
                    mail.close();
                    error
                })
            })
            .collect();
        for rank in ranks {
            let error = rank.join().expect("it does not call MPI_Finalize");
            assert!(error.starts_with("rank 1: it has been silent for 4 s"), "{error}");
        }
        assert!(since.elapsed() < Duration::from_secs(4) + GRACE);
    }

    #[test]
    fn packets_make_a_message() {
        let ranks: Vec<_> = links(2)
            .into_iter()
            .map(|link| {
                thread::spawn(move || {
                    let mut mail = Mail::new(Box::new(link));
                    mail.packet = 100;
                    let all = exchange(&mut mail, 1234).unwrap();
                    exchange(&mut mail, 1).unwrap();
                    all
                })
            })
            .collect();
        for all in ranks.into_iter().map(|rank| rank.join().unwrap()) {
            assert!(all.iter().all(|message| Mail::content(message).iter().copied().eq((0..1234).map(|i| i as u8))));
        }
    }

    #[test]
    fn strangers() {
        let version = |text: &[u8]| {
            let mut bytes = parts(&Mail::new(Box::new(links(1).remove(0))), 4)[0].to_vec();
            bytes[HEADER - VERSION..][..text.len()].copy_from_slice(text);
            bytes
        };
        for (bytes, want) in [
            (version(b"9.8.7\0"), format!("rank 1: it has downhill 9.8.7, but this rank has {}", env!("CARGO_PKG_VERSION"))),
            (vec![7; 200], "rank 1: it is not a rank of this program, or has another version of downhill".into()),
            (vec![7; 3], "rank 1: it is not a rank of this program, or has another version of downhill".into()),
        ] {
            let mut links = links(2);
            let mut other = links.remove(1);
            let pool = Pool::default();
            let mut message = pool.empty(bytes.len());
            message.extend(bytes);
            other.send(0, Arc::new(message)).unwrap();
            let mut mail = Mail::new(Box::new(links.remove(0)));
            assert_eq!(exchange(&mut mail, 4).expect_err("the message is refused").to_string(), want);
            // The other rank hears of it.
            let mut told = false;
            while let Some((_, message)) = other.receive(Duration::ZERO, &pool).unwrap() {
                told |= head(&message).unwrap().kind == FAREWELL;
            }
            assert!(told);
        }
    }
}
