//! Ranks that are processes of MPI.

use super::{
    mail::Link,
    pool::{Buffer, Message, Pool},
};
use crate::error::{Error, Result};
use mpi_sys as ffi;
use std::{
    collections::VecDeque,
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    ptr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

/// The tag of all messages. The communicator belongs to this module alone.
const TAG: c_int = 7;

/// The calls of MPI. All of them are made by the thread that made the link, because MPI was asked for no more
/// (`MPI_THREAD_FUNNELED`). Sends and receives never block, so a rank that is gone cannot hold up this one.
pub(super) struct MpiLink {
    comm: ffi::MPI_Comm,
    rank: usize,
    size: usize,
    local: (usize, usize),
    /// Messages under way. MPI reads them until their request is complete.
    sends: Vec<(usize, ffi::MPI_Request, Message)>,
    /// Messages that arrive, in the order in which MPI has matched them. MPI writes to the buffers until their request is complete.
    receives: VecDeque<(usize, ffi::MPI_Request, Buffer)>,
}

/// Returns an error if MPI's `call` did not succeed.
fn check(rank: usize, call: &str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let (mut text, mut len) = ([0u8; ffi::MPI_MAX_ERROR_STRING as usize + 1], 0);
    // SAFETY: the text has room for the longest message.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut len) };
    let text = String::from_utf8_lossy(&text[..usize::try_from(len).unwrap_or(0).min(text.len())]).into_owned();
    Err(Error::Rank { rank, why: format!("{call} failed: {text}") })
}

impl MpiLink {
    /// Starts MPI.
    pub fn new() -> Result<MpiLink> {
        let mut begun = 0;
        // SAFETY: MPI allows this call before MPI_Init.
        check(0, "MPI_Initialized", unsafe { ffi::MPI_Initialized(&mut begun) })?;
        if begun != 0 {
            let why = "MPI has already been started in this process; clone the first World instead of a second World::mpi".into();
            return Err(Error::Rank { rank: 0, why });
        }
        let mut level = 0;
        // SAFETY: MPI has not been started. It accepts null in place of the arguments of `main`.
        let code = unsafe { ffi::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), ffi::RSMPI_THREAD_FUNNELED, &mut level) };
        check(0, "MPI_Init_thread", code)?;
        // SAFETY: MPI has been started, by this thread. The out-parameters are valid, and `comm` and `near` are set before they are used.
        unsafe {
            let mut comm = MaybeUninit::uninit();
            check(0, "MPI_Comm_dup", ffi::MPI_Comm_dup(ffi::RSMPI_COMM_WORLD, comm.as_mut_ptr()))?;
            let comm = comm.assume_init();
            let near = |comm, what: &str| {
                let (mut rank, mut size) = (0, 0);
                check(0, what, ffi::MPI_Comm_rank(comm, &mut rank))?;
                check(0, what, ffi::MPI_Comm_size(comm, &mut size))?;
                Ok((rank as usize, size as usize))
            };
            let (rank, size) = near(comm, "MPI_Comm_rank")?;
            check(rank, "MPI_Comm_set_errhandler", ffi::MPI_Comm_set_errhandler(comm, ffi::RSMPI_ERRORS_RETURN))?;
            let mut machine = MaybeUninit::uninit();
            let split = ffi::MPI_Comm_split_type(comm, ffi::RSMPI_COMM_TYPE_SHARED, 0, ffi::RSMPI_INFO_NULL, machine.as_mut_ptr());
            check(rank, "MPI_Comm_split_type", split)?;
            let mut machine = machine.assume_init();
            let local = near(machine, "MPI_Comm_size")?;
            check(rank, "MPI_Comm_free", ffi::MPI_Comm_free(&mut machine))?;
            Ok(MpiLink { comm, rank, size, local, sends: Vec::new(), receives: VecDeque::new() })
        }
    }
    /// Returns the rank on this machine and the number of ranks here.
    pub fn local(&self) -> (usize, usize) {
        self.local
    }
    /// Returns whether a message to or from `other` is complete.
    fn done(other: usize, request: &mut ffi::MPI_Request) -> Result<bool> {
        let mut done = 0;
        // SAFETY: the request is of a send or a receive of this thread.
        check(other, "MPI_Test", unsafe { ffi::MPI_Test(request, &mut done, ffi::RSMPI_STATUS_IGNORE) })?;
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
        let mut found = 0;
        let (mut message, mut status) = (MaybeUninit::uninit(), MaybeUninit::<ffi::MPI_Status>::uninit());
        // SAFETY: the out-parameters are valid. `message` and `status` are read only if MPI found a message, and MPI has set them then.
        // The buffer lives in `receives`, at the same address, until the request is complete.
        unsafe {
            let code = ffi::MPI_Improbe(ffi::RSMPI_ANY_SOURCE, TAG, self.comm, &mut found, message.as_mut_ptr(), status.as_mut_ptr());
            check(self.rank, "MPI_Improbe", code)?;
            if found == 0 {
                return Ok(false);
            }
            let (mut message, status) = (message.assume_init(), status.assume_init());
            let mut len = 0;
            check(self.rank, "MPI_Get_count", ffi::MPI_Get_count(&status, ffi::RSMPI_UINT8_T, &mut len))?;
            let mut buffer = pool.of(len as usize);
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let at = buffer.as_mut_ptr().cast::<c_void>();
            let code = ffi::MPI_Imrecv(at, len, ffi::RSMPI_UINT8_T, &mut message, &mut request);
            check(self.rank, "MPI_Imrecv", code)?;
            self.receives.push_back((status.MPI_SOURCE as usize, request, buffer));
        }
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
        // SAFETY: the message lives in `sends`, at the same address and unchanged, until the request is complete.
        unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let code = ffi::MPI_Isend(at, len, ffi::RSMPI_UINT8_T, to as c_int, TAG, self.comm, &mut request);
            check(to, "MPI_Isend", code)?;
            self.sends.push((to, request, message));
        }
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
            unsafe { ffi::MPI_Finalize() };
        } else {
            // MPI still reads and writes these buffers, and MPI_Finalize would wait for a rank that is gone.
            std::mem::take(&mut self.sends).into_iter().for_each(std::mem::forget);
            std::mem::take(&mut self.receives).into_iter().for_each(std::mem::forget);
        }
    }
}
