//! What steps report: their losses and metrics, read from the device without stopping it.

use super::{StepReport, Trainer, gradients::GIVEN};
use crate::{
    engine::{Kept, RING},
    error::Result,
};
use std::mem;

impl Trainer {
    /// The loss of the last step; waits for it. NaN before the first one.
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged) where a loss or gradient was not finite: no update was made since, so the weights are those
    /// of the last finite step, and training can go on, with a smaller learning rate for instance.
    pub fn loss(&mut self) -> Result<f32> {
        pollster::block_on(self.loss_async())
    }
    /// [`loss`](Trainer::loss), without blocking.
    pub async fn loss_async(&mut self) -> Result<f32> {
        self.collect().await?;
        Ok(self.reports.last().map_or(f32::NAN, |r| r.loss))
    }
    /// The reports of all steps since the last call of this; waits for them.
    ///
    /// # Errors
    /// As [`loss`](Trainer::loss).
    pub fn take_reports(&mut self) -> Result<Vec<StepReport>> {
        pollster::block_on(self.take_reports_async())
    }
    /// [`take_reports`](Trainer::take_reports), without blocking.
    pub async fn take_reports_async(&mut self) -> Result<Vec<StepReport>> {
        self.collect().await?;
        Ok(mem::take(&mut self.reports))
    }

    /// Waits for what the steps left on the device.
    async fn collect(&mut self) -> Result<()> {
        loop {
            if let Some(kept) = self.ring.wait().await? {
                self.absorb(kept)?;
            }
            if self.unread.is_empty() {
                return Ok(());
            }
            self.ask()?;
        }
    }
    /// Takes in what has come since, and asks for the rest, for a later look. Never waits.
    pub(super) fn glance(&mut self) -> Result<()> {
        if let Some(kept) = self.ring.take()? {
            self.absorb(kept)?;
        }
        match self.asked.is_empty() && !self.unread.is_empty() {
            true => self.ask(),
            false => Ok(()),
        }
    }
    /// Before `count` more steps: half of the ring is asked for while they write the other half. What was asked for before that
    /// has long come, because fewer steps than half a ring are ever under way.
    pub(super) async fn make_room(&mut self, count: usize) -> Result<()> {
        if self.unread.len() + count <= RING / 2 {
            return Ok(());
        }
        let came = match self.ring.take()? {
            None => self.ring.wait().await?,
            came => came,
        };
        came.map_or(Ok(()), |kept| self.absorb(kept))?;
        if self.unread.is_empty() { Ok(()) } else { self.ask() }
    }
    /// Asks for what has not been asked for.
    fn ask(&mut self) -> Result<()> {
        self.ring.ask(self.unread[0].0, self.unread.len())?;
        mem::swap(&mut self.unread, &mut self.asked);
        Ok(())
    }
    /// Forgets the reports that nobody has taken.
    pub(super) fn forget(&mut self) -> Result<()> {
        pollster::block_on(self.ring.wait())?;
        self.unread.clear();
        self.asked.clear();
        self.reports.clear();
        Ok(())
    }

    /// Makes reports of what came.
    fn absorb(&mut self, kept: Kept) -> Result<()> {
        let bad = (kept.guard.halt != 0).then(|| u64::from(kept.guard.halt) - 1);
        let finite = |step: u64| bad.is_none_or(|bad| step < bad);
        for (&(step, key), row) in self.asked.iter().zip(&kept.rows).filter(|((step, _), _)| finite(*step)) {
            let loaded = &self.plans[&key];
            let (loss, accuracy) = (if key == GIVEN { f32::NAN } else { row[0] }, row[..loaded.kept].get(1).copied());
            self.reports.push(StepReport { step, loss, accuracy, samples: loaded.batch });
        }
        self.asked.clear();
        let Some(bad) = bad else { return Ok(()) };
        // Steps after it changed nothing: as if they had not been made.
        self.unread.clear();
        self.step = bad;
        self.store.write_guard(Default::default())?;
        let loss = bad.checked_sub(kept.first).and_then(|i| kept.rows.get(i as usize)).map_or(f32::NAN, |row| row[0]);
        kept.guard.error(loss).map_or(Ok(()), Err)
    }
}
