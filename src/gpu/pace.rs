//! Decides how far the host runs ahead of the device, and how many steps one submit holds.

use crate::{error::Result, gpu::device::Gpu, plan::ROWS};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// The largest number of submits in progress. If there would be more, the host waits for the oldest. The device has the others
/// to work on meanwhile.
const IN_FLIGHT: usize = 4;
/// The largest number of steps in one submit.
pub const MOST: usize = ROWS;
/// The time that one submit should take. It is long compared with the host's cost of a submit, and too short to be visible. It
/// is a hundredth of the time after which desktop systems reset a busy device.
const SHOULD: Duration = Duration::from_millis(10);

/// The submits in progress, and the number of steps learnt from earlier submits.
#[derive(Default)]
pub(super) struct Pace {
    under_way: VecDeque<Sent>,
    /// A time. The submit before the oldest one was not done earlier than this time.
    ended: Option<Instant>,
    learnt: Learnt,
    /// The number of times that the host waited for the oldest submit.
    pub held: u64,
}

struct Sent {
    index: wgpu::SubmissionIndex,
    done: Arc<AtomicBool>,
    at: Instant,
    /// The last time at which the submit was seen unfinished.
    seen: Option<Instant>,
    steps: usize,
}

impl Pace {
    /// Returns the number of steps for the next submit.
    pub fn steps(&self) -> usize {
        self.learnt.steps
    }
    /// Waits until another submit is allowed.
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
            // A submit begins when it is queued and the previous submit is done. So this duration is an upper bound. It is
            // exact if the host waited for both submits.
            let now = Instant::now();
            let began = self.ended.map_or(oldest.at, |ended| ended.max(oldest.at));
            self.learnt.add(now - began, oldest.steps);
            self.ended = if done { oldest.seen.or(self.ended) } else { Some(now) };
        }
        Ok(())
    }
    /// Records a new submit.
    pub fn sent(&mut self, gpu: &Gpu, index: wgpu::SubmissionIndex, at: Instant, steps: usize) {
        self.under_way.push_back(Sent { index, done: gpu.done(), at, seen: None, steps });
    }
    /// Returns the newest submit and forgets all submits in progress. Nothing is learnt from them, because nobody saw how long
    /// they took.
    pub fn last(&mut self) -> Option<wgpu::SubmissionIndex> {
        self.ended = None;
        self.under_way.drain(..).next_back().map(|sent| sent.index)
    }
}

/// The number of steps for a submit, learnt from the durations of earlier submits.
struct Learnt {
    steps: usize,
    /// The seconds for each step in the last few submits. Other programs may have disturbed some of them. If the host sees the
    /// end of a submit late, the next submit seems too short.
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
        // The number at most doubles, because larger numbers have not been tried. It falls at once.
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
        // A step takes 0.7 ms. So 14 steps take 9.8 ms.
        for _ in 0..6 {
            learnt.add(ms(0.7 * learnt.steps as f64), learnt.steps);
            seen.push(learnt.steps);
        }
        assert_eq!(seen, [2, 4, 8, 14, 14, 14]);
        // One disturbed submit changes nothing, and the next submit, which seems short, changes nothing either. Slower steps
        // change the number within a few submits.
        learnt.add(ms(500.0), 14);
        learnt.add(ms(0.1), 14);
        assert_eq!(learnt.steps, 14);
        for _ in 0..IN_FLIGHT {
            learnt.add(ms(30.0), 1);
        }
        assert_eq!(learnt.steps, 1);
        // The number stays between one step and the rows of the table.
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
