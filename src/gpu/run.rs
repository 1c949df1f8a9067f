//! A run of a plan that is submitted in parts. Between two parts the host may read what the first has computed, and write what the second
//! needs.

use crate::{
    error::Result,
    gpu::{
        exec::{GpuExec, StepRow},
        profile::Clocks,
    },
    optim::Hyper,
};
use std::time::Instant;

/// A run of a plan that is submitted in parts. See [`GpuExec::begin`].
#[must_use = "a run without its end leaves out the last kernels and the outputs"]
pub(crate) struct Run<'a> {
    exec: &'a mut GpuExec,
    row: StepRow,
    fed: bool,
    clocks: Option<&'a mut Clocks>,
    /// The number of the first kernel that is not submitted yet.
    next: usize,
    started: Instant,
}

impl GpuExec {
    /// Begins a run of the plan. [`Run::submit`] submits its next kernels, and [`Run::end`] all others. The arguments are those of
    /// [`submit_steps`](GpuExec::submit_steps) for one row. With `clocks`, the run is measured.
    ///
    /// # Errors
    /// The errors of [`submit_steps`](GpuExec::submit_steps).
    pub(super) fn begin<'a>(&'a mut self, row: &StepRow, hyper: &[Hyper], fed: bool, clocks: Option<&'a mut Clocks>) -> Result<Run<'a>> {
        self.upload(std::slice::from_ref(row), hyper, fed)?;
        let mut run = Run { exec: self, row: *row, fed, clocks, next: 0, started: Instant::now() };
        run.lap("upload");
        Ok(run)
    }
}

impl Run<'_> {
    fn lap(&mut self, name: &'static str) {
        self.clocks.iter_mut().for_each(|clocks| clocks.lap(name));
    }
    fn encode(&mut self, end: usize) -> Result<wgpu::CommandEncoder> {
        let mut encoder = self.exec.encoder();
        let kernels = self.next..end.max(self.next);
        self.next = kernels.end;
        self.exec.encode_kernels(&mut encoder, (&self.row, 0), self.fed, kernels, self.clocks.as_deref_mut())?;
        Ok(encoder)
    }
    /// Submits the kernels before number `end` that are not submitted yet. Kernels have the numbers of the plan's steps, without aliases.
    /// `then` encodes copies that follow them. Returns the submission, for which the host may wait.
    pub fn submit(&mut self, end: usize, then: impl FnOnce(&GpuExec, &mut wgpu::CommandEncoder)) -> Result<wgpu::SubmissionIndex> {
        let mut encoder = self.encode(end)?;
        then(self.exec, &mut encoder);
        self.exec.submit_part(encoder)
    }
    /// Submits all other kernels and the copies of the outputs.
    pub fn end(mut self) -> Result<()> {
        let mut encoder = self.encode(self.exec.steps())?;
        self.exec.encode_outputs(&mut encoder, &self.row);
        if let Some(clocks) = &self.clocks {
            clocks.resolve(&mut encoder);
        }
        self.lap("encode");
        self.exec.submit_all(encoder, self.started, 1)?;
        self.lap("submit");
        Ok(())
    }
}
