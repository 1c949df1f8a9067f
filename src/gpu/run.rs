//! A run of a plan that is submitted in parts. Between two parts the host may read what the first has computed, and write what the second
//! needs.

use crate::{
    error::Result,
    gpu::{
        exec::{GpuExec, StepRow},
        profile::Clocks,
    },
    optim::Hyper,
    plan::{Gather, Loc, Plan},
    shape::Shape,
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

/// A step of the plan at which a run pauses for the values of other ranks.
#[derive(Clone, Copy)]
pub(super) struct Pause {
    /// The number of the step in the plan, without aliases.
    kernel: usize,
    from: (Loc, usize),
    to: (Loc, usize),
}

impl Pause {
    /// Returns the pauses of a run of a plan, in order.
    pub fn all(plan: &Plan) -> Vec<Pause> {
        let steps = plan.steps.iter().filter(|step| !step.is_alias()).enumerate().filter(|(_, step)| step.is_exchange());
        let of = |(loc, shape): (Loc, Shape)| (loc, shape.elements());
        steps.map(|(kernel, step)| Pause { kernel, from: of(step.inputs[0]), to: of(step.output) }).collect()
    }
}

impl GpuExec {
    /// Runs the plan once. The run pauses for each exchange: the host reads the values of this rank and writes those of all ranks.
    ///
    /// # Errors
    /// The error of `gather`, and the errors of [`submit_steps`](GpuExec::submit_steps).
    pub fn submit_over_ranks(&mut self, row: &StepRow, hyper: &[Hyper], fed: bool, gather: Gather) -> Result<()> {
        self.submit_pausing(row, hyper, fed, gather, None)
    }
    /// [`submit_over_ranks`](GpuExec::submit_over_ranks). With `clocks`, the run is measured.
    pub(super) fn submit_pausing(
        &mut self,
        row: &StepRow,
        hyper: &[Hyper],
        fed: bool,
        gather: Gather,
        clocks: Option<&mut Clocks>,
    ) -> Result<()> {
        let pauses = self.pauses();
        let mut run = self.begin(row, hyper, fed, clocks)?;
        for pause in pauses.iter() {
            run.submit(pause.kernel, |_, _| ())?;
            let all = gather(run.exec.read_at(pause.from)?)?;
            run.exec.write_at(pause.to, &all);
            run.lap("exchange values with ranks");
        }
        run.end()
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
