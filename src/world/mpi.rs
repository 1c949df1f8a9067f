//! Ranks that are processes of MPI.

use super::{
    mail::Link,
    pool::{Buffer, Message, Pool},
};
use crate::error::{Error, Result};
use std::{
    collections::VecDeque,
    ffi::{c_char, c_int, c_void},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The functions of mpi.c.
mod ffi {
    use super::{Request, c_char, c_int, c_void};

    unsafe extern "C" {
        pub fn downhill_mpi_initialized(begun: *mut c_int) -> c_int;
        pub fn downhill_mpi_init() -> c_int;
        pub fn downhill_mpi_place(rank: *mut c_int, size: *mut c_int) -> c_int;
        pub fn downhill_mpi_local(rank: *mut c_int, size: *mut c_int) -> c_int;
        pub fn downhill_mpi_send(at: *const c_void, len: c_int, to: c_int, request: *mut Request) -> c_int;
        pub fn downhill_mpi_probe(found: *mut c_int, from: *mut c_int, len: *mut c_int) -> c_int;
        pub fn downhill_mpi_receive(at: *mut c_void, len: c_int, request: *mut Request) -> c_int;
        pub fn downhill_mpi_test(request: *mut Request, done: *mut c_int) -> c_int;
        pub fn downhill_mpi_finalize() -> c_int;
        pub fn downhill_mpi_error(code: c_int, text: *mut c_char, room: c_int) -> c_int;
    }
}

/// A send or a receive under way, as MPI knows it.
type Request = u64;

/// The most bytes of the text of an error.
const TEXT: usize = 512;

/// The calls of MPI. All of them are made by the thread that made the link, because MPI was asked for no more
/// (`MPI_THREAD_FUNNELED`). Sends and receives never block, so a rank that is gone cannot hold up this one.
pub(super) struct MpiLink {
    rank: usize,
    size: usize,
    local: (usize, usize),
    /// Messages under way. MPI reads them until their request is complete.
    sends: Vec<(usize, Request, Message)>,
    /// Messages that arrive, in the order in which MPI has matched them. MPI writes to the buffers until their request is complete.
    receives: VecDeque<(usize, Request, Buffer)>,
}

/// Returns an error if MPI's `call` did not succeed.
fn check(rank: usize, call: &str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let mut text = [0u8; TEXT];
    // SAFETY: the text has this many bytes.
    let len = unsafe { ffi::downhill_mpi_error(code, text.as_mut_ptr().cast(), TEXT as c_int) };
    let text = String::from_utf8_lossy(&text[..usize::try_from(len).unwrap_or(0).min(text.len())]).into_owned();
    Err(Error::Rank { rank, why: format!("{call} failed: {text}") })
}

impl MpiLink {
    /// Starts MPI.
    pub fn new() -> Result<MpiLink> {
        let mut begun = 0;
        // SAFETY: MPI allows this call before MPI_Init.
        check(0, "MPI_Initialized", unsafe { ffi::downhill_mpi_initialized(&mut begun) })?;
        if begun != 0 {
            let why = "MPI has already been started in this process; clone the first World instead of a second World::mpi".into();
            return Err(Error::Rank { rank: 0, why });
        }
        // SAFETY: MPI has not been started.
        check(0, "MPI_Init_thread", unsafe { ffi::downhill_mpi_init() })?;
        let [mut rank, mut size, mut near, mut count] = [0; 4];
        // SAFETY: this thread has started MPI, and the out-parameters are valid.
        check(0, "MPI_Comm_dup", unsafe { ffi::downhill_mpi_place(&mut rank, &mut size) })?;
        // SAFETY: the same, and the ranks have their communicator.
        check(rank as usize, "MPI_Comm_split_type", unsafe { ffi::downhill_mpi_local(&mut near, &mut count) })?;
        let local = (near as usize, count as usize);
        Ok(MpiLink { rank: rank as usize, size: size as usize, local, sends: Vec::new(), receives: VecDeque::new() })
    }
    /// Returns the rank on this machine and the number of ranks here.
    pub fn local(&self) -> (usize, usize) {
        self.local
    }
    /// Returns whether a message to or from `other` is complete.
    fn done(other: usize, request: &mut Request) -> Result<bool> {
        let mut done = 0;
        // SAFETY: the request is of a send or a receive of this thread.
        check(other, "MPI_Test", unsafe { ffi::downhill_mpi_test(request, &mut done) })?;
        Ok(done != 0)
    }
    /// Frees messages that were sent.
    fn advance(&mut self) -> Result<()> {
        let mut k = 0;
        while k < self.sends.len() {
            let (to, mut request, _) = self.sends[k];
            let done = MpiLink::done(to, &mut request)?;
            self.sends[k].1 = request;
            if done {
                self.sends.swap_remove(k);
            } else {
                k += 1;
            }
        }
        Ok(())
    }
    /// Begins to receive a message that has arrived, if there is one.
    fn probe(&mut self, pool: &Pool) -> Result<bool> {
        let [mut found, mut from, mut len] = [0; 3];
        // SAFETY: the out-parameters are valid.
        check(self.rank, "MPI_Improbe", unsafe { ffi::downhill_mpi_probe(&mut found, &mut from, &mut len) })?;
        if found == 0 {
            return Ok(false);
        }
        let (mut buffer, mut request) = (pool.of(len as usize), 0);
        let at = buffer.as_mut_ptr().cast::<c_void>();
        // SAFETY: a message of this length was found. The buffer lives in `receives`, at the same address, until the request is complete.
        check(self.rank, "MPI_Imrecv", unsafe { ffi::downhill_mpi_receive(at, len, &mut request) })?;
        self.receives.push_back((from as usize, request, buffer));
        Ok(true)
    }
    /// Returns a complete message that comes after no other message of its rank.
    fn complete(&mut self) -> Result<Option<(usize, Message)>> {
        let mut waiting = Vec::new();
        for k in 0..self.receives.len() {
            let (from, mut request, _) = self.receives[k];
            if waiting.contains(&from) {
                continue;
            }
            let done = MpiLink::done(from, &mut request)?;
            self.receives[k].1 = request;
            if done && let Some((from, _, buffer)) = self.receives.remove(k) {
                return Ok(Some((from, Arc::new(buffer))));
            }
            waiting.push(from);
        }
        Ok(None)
    }
}

impl Link for MpiLink {
    fn place(&self) -> (usize, usize) {
        (self.rank, self.size)
    }
    fn send(&mut self, to: usize, message: Message) -> Result<()> {
        let (at, len) = (message.as_ptr().cast::<c_void>(), message.len() as c_int);
        let mut request = 0;
        // SAFETY: the message lives in `sends`, at the same address and unchanged, until the request is complete.
        check(to, "MPI_Isend", unsafe { ffi::downhill_mpi_send(at, len, to as c_int, &mut request) })?;
        self.sends.push((to, request, message));
        Ok(())
    }
    fn receive(&mut self, wait: Duration, pool: &Pool) -> Result<Option<(usize, Message)>> {
        let since = Instant::now();
        let mut tries = 0;
        loop {
            self.advance()?;
            while self.probe(pool)? {}
            if let Some(message) = self.complete()? {
                return Ok(Some(message));
            }
            if since.elapsed() >= wait {
                return Ok(None);
            }
            // Ranks may share cores: the others must be able to run.
            match tries {
                0..20 => thread::yield_now(),
                _ => thread::sleep(Duration::from_micros(50)),
            }
            tries += 1;
        }
    }
    fn unsent(&mut self) -> Result<Option<usize>> {
        self.advance()?;
        Ok(self.sends.first().map(|(to, ..)| *to))
    }
    fn waits(&self) -> bool {
        true
    }
    fn close(&mut self, all: bool) {
        let (since, pool) = (Instant::now(), Pool::default());
        while !self.sends.is_empty() && since.elapsed() < Duration::from_secs(3) && self.receive(Duration::from_millis(1), &pool).is_ok() {}
        if all && self.sends.is_empty() {
            // SAFETY: this thread started MPI, and no message is under way. The other ranks call it as well, so it does not wait for long.
            unsafe { ffi::downhill_mpi_finalize() };
        } else {
            // MPI still reads and writes these buffers, and MPI_Finalize would wait for a rank that is gone.
            std::mem::take(&mut self.sends).into_iter().for_each(std::mem::forget);
            std::mem::take(&mut self.receives).into_iter().for_each(std::mem::forget);
        }
    }
}
