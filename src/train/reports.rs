//! The reports of steps: their losses and metrics. Reading them does not stop the device.

use super::{
    Made, Named, StepNorms, StepReport, Tally, Trainer,
    readouts::{Noise, norms_of},
};
use crate::{
    engine::{RING, RingRows},
    error::Result,
    gpu::StepRow,
    optim::Guard,
};
use std::mem;

/// The largest number of reports that are stored until the caller takes them.
const REPORTS: usize = 4096;

impl Trainer {
    /// Returns the loss of the last step, and waits for the step. Steps of [`fit`](Trainer::fit) count too. The loss is NaN
    /// before the first step, and after a step with [given gradients](Trainer::apply_gradients).
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::Error::Diverged) if a loss or a gradient was not finite. No update was made from this step
    /// on, so the parameters have the values of the last finite step. Training can continue, for example with a smaller
    /// learning rate ([`set_lr`](Trainer::set_lr)). The error is returned once. After that, the last step is the last finite
    /// step.
    pub fn loss(&mut self) -> Result<f32> {
        pollster::block_on(self.loss_async())
    }
    /// [`loss`](Trainer::loss), without blocking.
    pub async fn loss_async(&mut self) -> Result<f32> {
        self.collect().await?;
        Ok(self.loss)
    }
    /// Returns the reports of the steps since the last call, and waits for the steps. Steps of [`fit`](Trainer::fit) count too.
    /// At most the latest 4,096 reports are stored.
    ///
    /// # Errors
    /// The errors of [`loss`](Trainer::loss).
    pub fn take_reports(&mut self) -> Result<Vec<StepReport>> {
        pollster::block_on(self.take_reports_async())
    }
    /// [`take_reports`](Trainer::take_reports), without blocking.
    pub async fn take_reports_async(&mut self) -> Result<Vec<StepReport>> {
        self.collect().await?;
        Ok(mem::take(&mut self.reports).into())
    }

    /// Waits for all steps and reads their numbers from the device.
    pub(super) async fn collect(&mut self) -> Result<()> {
        loop {
            if let Some(kept) = self.ring.wait().await? {
                self.absorb(kept).await?;
            }
            if self.unread.is_empty() {
                return Ok(());
            }
            self.ask()?;
        }
    }
    /// Processes the numbers that have arrived, and requests the rest for a later call. Never waits.
    pub(super) async fn glance(&mut self) -> Result<()> {
        if let Some(kept) = self.ring.take()? {
            self.absorb(kept).await?;
        }
        match self.asked.is_empty() && !self.unread.is_empty() {
            true => self.ask(),
            false => Ok(()),
        }
    }
    /// Makes room in the ring for `count` more batches. It requests one half of the ring, while the batches write the other
    /// half. The previous request has arrived long before, because fewer steps than half a ring are ever running.
    pub(super) async fn make_room(&mut self, count: usize) -> Result<()> {
        if self.unread.len() + count <= RING / 2 {
            return Ok(());
        }
        let came = match self.ring.take()? {
            None => self.ring.wait().await?,
            came => came,
        };
        if let Some(kept) = came {
            self.absorb(kept).await?;
        }
        if self.unread.is_empty() { Ok(()) } else { self.ask() }
    }
    /// Requests the numbers of the batches that have not been requested yet.
    fn ask(&mut self) -> Result<()> {
        let measured = || self.unread.iter().filter_map(|made| made.row.norms);
        let norms = measured().next().map_or(0..0, |first| first..first + measured().count() as u64);
        self.ring.ask(self.unread[0].row.batch, self.unread.len(), norms)?;
        mem::swap(&mut self.unread, &mut self.asked);
        Ok(())
    }
    /// Discards all reports that have not been taken.
    pub(super) fn forget(&mut self) -> Result<()> {
        pollster::block_on(self.ring.wait())?;
        self.unread.clear();
        self.asked.clear();
        self.reports.clear();
        (self.micro, self.part, self.noise) = (0, Tally::default(), Noise::default());
        self.loss = f32::NAN;
        Ok(())
    }

    /// Makes reports from the numbers that arrived.
    pub(super) async fn absorb(&mut self, kept: RingRows) -> Result<()> {
        let bad = (kept.guard.halt != 0).then(|| u64::from(kept.guard.halt) - 1);
        let labels = self.model.as_ref().map_or(0, |model| model.labels());
        let (mut norms, reads) = (kept.norms.iter(), self.update.readouts);
        for (&Made { row: StepRow { step, micro, more, norms: measures, .. }, samples, given }, row) in self.asked.iter().zip(&kept.rows) {
            if bad.is_some_and(|bad| step > bad) {
                break;
            }
            let (row, tail) = row.split_at(row.len() - reads.tail());
            if micro == 0 {
                self.part = Tally::default();
                self.noise.begin();
            }
            if !given {
                self.part.add(&self.kept, row, samples, labels);
                self.noise.add(self.kept.weight_in(row, samples));
            }
            if more {
                continue;
            }
            let (loss, accuracy, watched) = match micro {
                _ if given => (f32::NAN, None, Named::default()),
                0 => (row[0], self.kept.accuracy(row), self.kept.watched(row)),
                _ => (self.part.loss() as f32, self.part.accuracy().map(|share| share as f32), self.part.watched().rounded()),
            };
            if bad == Some(step) {
                self.part = Tally::default();
                self.asked.clear();
                return self.diverged(kept.guard, step, loss).await;
            }
            self.loss = loss;
            let (samples, [grad_norm, grad_max]) = (samples.max(self.part.samples() as usize), [tail[0], tail[1]]);
            if reads.noise_scale && micro > 0 {
                self.noise.end(tail[2], grad_norm);
            }
            let noise_scale = self.noise.scale().filter(|_| reads.noise_scale);
            let rows = measures.and_then(|_| norms.next());
            let (statuses, ratio) = (&self.update.groups.statuses, self.update.optimizer.has_ratio());
            let norms = rows.map_or(Named::default(), |rows| norms_of(&self.trained, statuses, rows, ratio));
            if self.tally.is_some() && !norms.is_empty() {
                self.measured.push(StepNorms { step, params: norms.clone() });
            }
            self.reports.push_back(StepReport { step, loss, accuracy, watched, samples, grad_norm, grad_max, noise_scale, norms });
            if let (Some((tally, losses)), false) = (&mut self.tally, given) {
                tally.join(&self.part);
                losses.push(loss);
            }
        }
        self.reports.drain(..self.reports.len().saturating_sub(REPORTS));
        self.asked.clear();
        match bad {
            // The micro-batches of the bad step arrived earlier, or will arrive later.
            Some(bad) => self.diverged(kept.guard, bad, f32::NAN).await,
            None => Ok(()),
        }
    }
    /// Handles a step that was not finite. This step and all later steps changed nothing, so the trainer acts as if it had not
    /// made them.
    async fn diverged(&mut self, guard: Guard, step: u64, loss: f32) -> Result<()> {
        self.reports.drain(..self.reports.len().saturating_sub(REPORTS));
        self.unread.clear();
        (self.step, self.micro) = (step, 0);
        let culprit = self.store.culprit().await?.map(|i| self.params[i].name.clone());
        self.store.write_guard(Guard::default())?;
        guard.error(loss, culprit, &self.update.optimizer).map_or(Ok(()), Err)
    }
}
