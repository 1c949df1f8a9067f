//! The communication thread of a rank.

use super::{
    Mean, Traffic,
    delay::Delay,
    fold::{self, Terms},
    mail::{Link, Mail},
    tag::Tag,
};
use crate::{
    error::{Error, Result},
    threads::lock,
};
use std::{
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

/// A job of the communication thread. Jobs are done in order.
pub(super) enum Job {
    Reduce {
        tag: Tag,
        values: Vec<f32>,
        weight: Option<f32>,
        terms: Terms,
        to: Sender<Result<Mean>>,
    },
    /// With `root`, this rank alone gets the bytes of the other ranks.
    Gather {
        tag: Tag,
        bytes: Vec<u8>,
        root: Option<usize>,
        terms: Terms,
        to: Sender<Result<Vec<Vec<u8>>>>,
    },
    Delay(Delay),
    Fail(Error),
}

/// The time between two looks at the messages while there is no job. A message that another rank sends may need this rank's help to
/// arrive.
const LOOK: Duration = Duration::from_millis(2);

/// Does jobs until the last sender of jobs is dropped, and leaves the world then.
pub(super) fn serve(link: Box<dyn Link>, jobs: &Receiver<Job>, traffic: &Mutex<Traffic>) {
    let mut mail = Mail::new(link);
    loop {
        let job = if mail.size() > 1 { jobs.recv_timeout(LOOK) } else { jobs.recv().map_err(|_| RecvTimeoutError::Disconnected) };
        let since = Instant::now();
        // Nobody waits for a result whose receiver was dropped.
        match job {
            Ok(Job::Reduce { tag, values, weight, terms, to }) => {
                drop(to.send(whole(&mut mail, traffic, since, |mail| fold::reduce(mail, tag, values, weight, terms).map(Mean::new))))
            }
            Ok(Job::Gather { tag, bytes, root, terms, to }) => drop(to.send(whole(&mut mail, traffic, since, |mail| {
                let (full, empty) = (mail.message(tag, bytes.len(), |to| to.extend_from_slice(&bytes)), mail.message(tag, 0, |_| ()));
                let part = |rank: usize| if root.is_none_or(|root| root == rank) { full.clone() } else { empty.clone() };
                let parts = (0..mail.size()).map(part).collect();
                let all = mail.exchange(tag, parts, terms.timeout)?;
                Ok(all.iter().map(|message| Mail::content(message).to_vec()).collect())
            }))),
            Ok(Job::Delay(delay)) => mail.link.delay(delay),
            Ok(Job::Fail(error)) => mail.fail(error),
            Err(RecvTimeoutError::Timeout) => mail.look(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    mail.close();
}

/// Does a job. An error of the job ends the world.
fn whole<T>(mail: &mut Mail, traffic: &Mutex<Traffic>, since: Instant, job: impl FnOnce(&mut Mail) -> Result<T>) -> Result<T> {
    let result = job(mail);
    if let Err(error) = &result {
        mail.fail(error.clone());
    }
    let mut all = lock(traffic);
    *all = Traffic { busy: all.busy + since.elapsed().as_secs_f64(), waited: all.waited, ..mail.traffic };
    result
}
