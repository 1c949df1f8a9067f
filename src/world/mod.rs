//! The ranks that train one model together: processes under MPI, or threads of one process.
//!
//! MPI moves bytes, and this module adds. An MPI library may add in any order, so its sums differ from library to library and from run to
//! run. Here each rank owns a part of a sum. It gets that part from all ranks, adds in the order of the ranks and sends the mean to all
//! ranks. So the bits do not depend on the library, the fabric or the time.

mod delay;
mod fold;
mod mail;
#[cfg(feature = "mpi")]
mod mpi;
mod pool;
mod service;
mod tag;
mod threads;
mod traffic;

pub use fold::Wire;
pub(crate) use tag::{Tag, What};
pub use traffic::Traffic;

use crate::error::{Error, Result};
use delay::Delay;
use fold::Terms;
use mail::Link;
use service::Job;
use std::{
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The time that a rank waits for another rank. A first step may compile kernels for minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The ranks that train one model together, as one of them sees them.
///
/// A rank is a process that MPI starts, or a thread of this process. [`Trainer::distributed`](crate::Trainer::distributed) takes a world.
/// A clone is the same rank of the same world. When the last clone is dropped, the rank leaves, and the other ranks get an error if they
/// wait for this rank.
///
/// A rank that ends with an error tells the others, which then end with [`Error::Rank`]. A rank that is killed falls silent: the ranks
/// send each other a sign of life each second, and after 10 seconds of silence all others end with [`Error::Rank`]. A rank that lives but
/// does not come to the next exchange is waited for until the [timeout](World::timeout).
///
/// ```
/// use downhill::World;
/// let ranks = World::threads(3);
/// assert_eq!(ranks.iter().map(|world| (world.rank(), world.size())).collect::<Vec<_>>(), [(0, 3), (1, 3), (2, 3)]);
/// ```
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
    terms: Terms,
}

struct Inner {
    rank: usize,
    size: usize,
    local: (usize, usize),
    /// The jobs of the communication thread. `None` in a world of one rank.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    traffic: Arc<Mutex<Traffic>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(jobs) = &self.jobs
            && thread::panicking()
        {
            let error = Error::Rank { rank: self.rank, why: "it panicked".into() };
            // The thread has ended if the link failed. The other ranks then know already.
            let _ = jobs.send(Job::Fail(error));
        }
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been reported to the waiting call.
            let _ = thread.join();
        }
    }
}

/// The result of an exchange that may still be under way.
#[must_use]
pub(crate) struct Waiting<T> {
    result: mpsc::Receiver<Result<T>>,
    rank: usize,
    traffic: Arc<Mutex<Traffic>>,
}

/// The mean over ranks, and the time at which it arrived.
#[derive(Debug)]
pub(crate) struct Mean {
    pub values: Vec<f32>,
    pub arrived: Instant,
}

impl Mean {
    fn new(values: Vec<f32>) -> Mean {
        Mean { values, arrived: Instant::now() }
    }
}

impl<T> Waiting<T> {
    /// Waits for the result.
    pub fn wait(self) -> Result<T> {
        let since = Instant::now();
        let ended = |_| Err(Error::Rank { rank: self.rank, why: "its communication thread has ended".into() });
        let result = self.result.recv().unwrap_or_else(ended);
        crate::threads::lock(&self.traffic).waited += since.elapsed().as_secs_f64();
        result
    }
}

impl World {
    /// Returns a world of one rank. A [`Trainer`](crate::Trainer) in it works as without a world.
    pub fn alone() -> World {
        World::new((0, 1), (0, 1), None, None, Arc::default())
    }
    /// Returns a world of `n` ranks that are threads of this process. Give each rank to a thread of its own. `n` is at least 1.
    ///
    /// Such a world computes what `n` processes compute. Use it for tests.
    pub fn threads(n: usize) -> Vec<World> {
        threads::links(n.max(1)).into_iter().enumerate().map(|(rank, link)| World::serve((rank, n), (rank, n), link)).collect()
    }
    /// Returns this process's place among the processes that `mpirun` has started. Without `mpirun`, it is a world of one rank.
    ///
    /// One thread makes all calls of MPI. The process leaves MPI when the last clone of the world is dropped.
    ///
    /// # Errors
    /// [`Error::Rank`] if MPI cannot be started, or if this process has called `World::mpi` before.
    #[cfg(feature = "mpi")]
    pub fn mpi() -> Result<World> {
        let (tell, told) = mpsc::channel();
        let (jobs, work) = mpsc::channel();
        let traffic = Arc::<Mutex<Traffic>>::default();
        let shared = traffic.clone();
        let serve = move || match mpi::MpiLink::new() {
            Ok(link) => {
                // The receiver is waiting.
                let _ = tell.send(Ok((link.place(), link.local())));
                service::serve(Box::new(link), &work, &shared);
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        };
        let thread = thread::Builder::new().name("downhill mpi".into()).spawn(serve).map_err(no_thread)?;
        let (place, local) = told.recv().unwrap_or_else(|_| Err(Error::Rank { rank: 0, why: "the thread of MPI ended".into() }))?;
        Ok(World::new(place, local, Some(jobs), Some(thread), traffic))
    }
    fn serve(place: (usize, usize), local: (usize, usize), link: impl Link + Send + 'static) -> World {
        if place.1 < 2 {
            return World::alone();
        }
        let (jobs, work) = mpsc::channel();
        let traffic = Arc::<Mutex<Traffic>>::default();
        let shared = traffic.clone();
        // Without the thread, every job ends with an error.
        let thread = thread::Builder::new().name("downhill ranks".into()).spawn(move || service::serve(Box::new(link), &work, &shared));
        World::new(place, local, Some(jobs), thread.ok(), traffic)
    }
    fn new(
        (rank, size): (usize, usize),
        local: (usize, usize),
        jobs: Option<mpsc::Sender<Job>>,
        thread: Option<JoinHandle<()>>,
        traffic: Arc<Mutex<Traffic>>,
    ) -> World {
        let inner = Arc::new(Inner { rank, size, local, jobs, thread, traffic });
        World { inner, terms: Terms { timeout: TIMEOUT, wire: Wire::F32 } }
    }
    /// Sets the time that this rank waits for another rank that lives. 10 minutes by default.
    pub fn timeout(self, timeout: Duration) -> World {
        World { terms: Terms { timeout, ..self.terms }, ..self }
    }
    /// Sets the format of gradients on the way between ranks. [`Wire::F32`] by default. All ranks must set the same format.
    ///
    /// [`Wire::Bf16`] and [`Wire::F16`] send half of the bytes. Each rank's gradients and their mean are rounded. Sums are in `f32`, and all
    /// ranks use the same rounded mean.
    pub fn wire(self, wire: Wire) -> World {
        World { terms: Terms { wire, ..self.terms }, ..self }
    }
    /// Delays the messages of this rank, as a slow network would. Use it to see what a network costs, or that an exchange is hidden behind
    /// the backward pass. Results do not change.
    ///
    /// A message of b bytes takes b/`bytes_per_s` seconds to leave this rank, after the messages before it, and arrives `latency` later. The
    /// time of the real link is added. Each rank delays its own messages, so all ranks make this call, before they train. It counts for all
    /// clones. A world of one rank sends nothing. Signs of life are delayed as well, so with a latency near 10 seconds a rank that lives counts
    /// as silent.
    ///
    /// ```
    /// use downhill::World;
    /// use std::time::Duration;
    /// // Ethernet with 1 Gb/s: 30 µs, and 118 MB/s after the headers of its packets.
    /// let ranks: Vec<World> =
    ///     World::threads(2).into_iter().map(|world| world.delayed(Duration::from_micros(30), 118_000_000)).collect();
    /// assert_eq!(ranks[1].size(), 2);
    /// ```
    pub fn delayed(self, latency: Duration, bytes_per_s: u64) -> World {
        if let Some(jobs) = &self.inner.jobs {
            // The thread has ended if the link failed. Then there is nothing to delay.
            let _ = jobs.send(Job::Delay(Delay { latency, bytes_per_s }));
        }
        self
    }
    /// Returns the number of this rank. The first rank is 0.
    pub fn rank(&self) -> usize {
        self.inner.rank
    }
    /// Returns the number of ranks.
    pub fn size(&self) -> usize {
        self.inner.size
    }
    /// Returns the number of this rank among the ranks of its machine. The first one is 0.
    pub fn local_rank(&self) -> usize {
        self.inner.local.0
    }
    /// Returns the number of ranks on the machine of this rank.
    pub fn local_size(&self) -> usize {
        self.inner.local.1
    }
    /// Returns the communication of this rank so far.
    pub fn traffic(&self) -> Traffic {
        *crate::threads::lock(&self.inner.traffic)
    }

    /// Begins to compute the mean over the ranks, weighted, in the order of the ranks: the same arithmetic as the accumulation of as many
    /// micro-batches. A rank without a weight does not count. All ranks must give equally many values.
    pub(crate) fn reduce(&self, tag: Tag, values: Vec<f32>, weight: Option<f32>) -> Waiting<Mean> {
        let terms = self.terms;
        self.begin(
            |to| Job::Reduce { tag, values, weight, terms, to },
            |job| match job {
                Job::Reduce { values, weight, to, .. } => (to, Mean::new(fold::alone(values, weight))),
                _ => unreachable!("the job was made above"),
            },
        )
    }
    /// Begins to send `bytes` to all ranks. The result has the bytes of all ranks, in the order of the ranks.
    pub(crate) fn gather(&self, tag: Tag, bytes: Vec<u8>) -> Waiting<Vec<Vec<u8>>> {
        self.gather_on(tag, bytes, None)
    }
    /// Begins to send `bytes` to the rank `root`. The result there has the bytes of all ranks, in the order of the ranks. On the other ranks
    /// it has no bytes.
    pub(crate) fn gather_on(&self, tag: Tag, bytes: Vec<u8>, root: Option<usize>) -> Waiting<Vec<Vec<u8>>> {
        let terms = self.terms;
        self.begin(
            |to| Job::Gather { tag, bytes, root, terms, to },
            |job| match job {
                Job::Gather { bytes, to, .. } => (to, vec![bytes]),
                _ => unreachable!("the job was made above"),
            },
        )
    }
    /// Tells all ranks that this rank gives up, and why. Every later exchange fails on every rank.
    pub(crate) fn fail(&self, error: &Error) {
        if let Some(jobs) = &self.inner.jobs {
            let error = match error {
                Error::Rank { .. } => error.clone(),
                other => Error::Rank { rank: self.rank(), why: format!("it ended with: {other}") },
            };
            // The thread has ended if the link failed. The other ranks then know already.
            let _ = jobs.send(Job::Fail(error));
        }
    }
    /// Gives a job to the communication thread. Without one, `alone` does the job.
    fn begin<T>(
        &self,
        job: impl FnOnce(mpsc::Sender<Result<T>>) -> Job,
        alone: impl FnOnce(Job) -> (mpsc::Sender<Result<T>>, T),
    ) -> Waiting<T> {
        let (to, result) = mpsc::channel();
        let job = job(to);
        match &self.inner.jobs {
            // If the thread has ended, the job and with it the sender are dropped, and the result is an error.
            Some(jobs) => drop(jobs.send(job)),
            None => {
                let (to, result) = alone(job);
                to.send(Ok(result)).expect("the receiver is below");
            }
        }
        Waiting { result, rank: self.rank(), traffic: self.inner.traffic.clone() }
    }
}

#[cfg(feature = "mpi")]
fn no_thread(e: std::io::Error) -> Error {
    Error::Rank { rank: 0, why: format!("the thread for MPI cannot be started: {e}") }
}

#[cfg(test)]
mod tests;
