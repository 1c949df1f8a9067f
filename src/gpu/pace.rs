//! How far the host runs ahead of the device, and how many steps it sends at a time.

use crate::{error::Result, gpu::device::Gpu, plan::ROWS};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Submissions under way at once. The host waits for the oldest where there would be more: the device has the others to
/// go on with.
const IN_FLIGHT: usize = 4;
/// Steps of one submission, at most.
pub const MOST: usize = ROWS;
/// How long a submission should take: long against what a submit costs the host, short against the eye, and a hundredth
/// of what desktop systems let a device be silent for.
const SHOULD: Duration = Duration::from_millis(10);

/// What is under way, and what was learnt from it.
#[derive(Default)]
pub(super) struct Pace {
    under_way: VecDeque<Sent>,
    /// A time before which what came before the oldest one was not done.
    ended: Option<Instant>,
    learnt: Learnt,
    /// Times that the host had to wait for the oldest.
    pub held: u64,
}

struct Sent {
    index: wgpu::SubmissionIndex,
    done: Arc<AtomicBool>,
    at: Instant,
    /// When it was last seen not to be done.
    seen: Option<Instant>,
    steps: usize,
}

impl Pace {
    /// Steps that the next submission should have.
    pub fn steps(&self) -> usize {
        self.learnt.steps
    }
    /// Waits until another submission may go.
    pub fn room(&mut self, gpu: &Gpu) -> Result<()> {
        let full = IN_FLIGHT - 1;
        while let Some(oldest) = self.under_way.front_mut() {
            let now = Instant::now();
            gpu.poll()?;
            let done = oldest.done.load(Relaxed);
            if !done {
                oldest.seen = Some(now);
                if self.under_way.len() <= full {
                    break;
                }
            }
            let oldest = self.under_way.pop_front().expect("it was just looked at");
            if !done {
                self.held += 1;
                gpu.wait(oldest.index)?;
            }
            // It began when it was there and the one before was done, so it took at most this long: exactly that, where the host
            // waited for both.
            let now = Instant::now();
            let began = self.ended.map_or(oldest.at, |ended| ended.max(oldest.at));
            self.learnt.add(now - began, oldest.steps);
            self.ended = if done { oldest.seen.or(self.ended) } else { Some(now) };
        }
        Ok(())
    }
    /// What was submitted just now.
    pub fn sent(&mut self, gpu: &Gpu, index: wgpu::SubmissionIndex, at: Instant, steps: usize) {
        self.under_way.push_back(Sent { index, done: gpu.done(), at, seen: None, steps });
    }
    /// The newest submission. It is no longer known that any is under way: nothing is learnt of those, because how long they took
    /// was not seen.
    pub fn last(&mut self) -> Option<wgpu::SubmissionIndex> {
        self.ended = None;
        self.under_way.drain(..).next_back().map(|sent| sent.index)
    }
}

/// The number of steps that follows from how long submissions took.
struct Learnt {
    steps: usize,
    /// Seconds a step, of the last few submissions. Some were disturbed, and where the host was late to see one end the next one
    /// seems short.
    recent: VecDeque<f64>,
}

impl Default for Learnt {
    fn default() -> Learnt {
        Learnt { steps: 1, recent: VecDeque::new() }
    }
}

impl Learnt {
    fn add(&mut self, took: Duration, steps: usize) {
        self.recent.push_back(took.as_secs_f64() / steps as f64);
        if self.recent.len() > IN_FLIGHT {
            self.recent.pop_front();
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let step = sorted[1.min(sorted.len() - 1)];
        let fit = ((SHOULD.as_secs_f64() / step) as usize).clamp(1, MOST);
        // Up in small strides, because longer ones have not been tried; down at once.
        self.steps = fit.min(self.steps * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_comes_near_ten_milliseconds_from_below() {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let mut learnt = Learnt::default();
        let mut seen = Vec::new();
        // Steps of 0.7 ms: 14 of them are 9.8 ms.
        for _ in 0..6 {
            learnt.add(ms(0.7 * learnt.steps as f64), learnt.steps);
            seen.push(learnt.steps);
        }
        assert_eq!(seen, [2, 4, 8, 14, 14, 14]);
        // One that was disturbed changes nothing, nor does the one after it, which seems short. Slower steps do within a few submissions.
        learnt.add(ms(500.0), 14);
        learnt.add(ms(0.1), 14);
        assert_eq!(learnt.steps, 14);
        for _ in 0..IN_FLIGHT {
            learnt.add(ms(30.0), 1);
        }
        assert_eq!(learnt.steps, 1);
        // Never more than the table has rows, never less than a step.
        for _ in 0..10 {
            learnt.add(ms(0.001), 1);
        }
        assert_eq!(learnt.steps, MOST);
        for _ in 0..IN_FLIGHT {
            learnt.add(ms(2000.0), 1);
        }
        assert_eq!(learnt.steps, 1);
    }
}
