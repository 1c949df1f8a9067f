//! The ring, where the plans of a model leave the numbers of each batch until the host reads them.

use super::store::{Store, StoreOn};
use crate::{
    cpu,
    error::Result,
    gpu::{self, Counters, StepRow},
    optim::{Guard, MEASURED, ROW, Readouts},
    threads::lock,
};
use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

/// Returns the number of measurements of norms in a ring. Each half of the ring may have the steps of `RING / 2` batches.
pub(super) fn measurements(readouts: Readouts) -> usize {
    readouts.norms.map_or(0, |every| 2 * ((RING as u64 / 2).div_ceil(every) as usize))
}

/// The number of batches in a ring. Their losses and metrics stay in the ring until they are read.
pub(crate) const RING: usize = 1024;

/// A ring buffer. The plans of a model write the first outputs and the gradient norms of each batch into it.
#[derive(Clone)]
pub(crate) enum Ring {
    Cpu { kept: Arc<Mutex<CpuRing>>, store: cpu::Shared },
    Gpu(Arc<gpu::GpuRing>),
}

#[derive(Default)]
pub(crate) struct CpuRing {
    outputs: usize,
    rows: Vec<Vec<f32>>,
    /// The measured norms and the ratio of each parameter, a row for each measurement.
    norms: Vec<Vec<[f32; MEASURED + 1]>>,
    /// The first batch, the number of batches and the measurements of the pending read.
    asked: Option<(u64, usize, Range<u64>)>,
}

impl CpuRing {
    /// Keeps the numbers of a run that has ended.
    pub fn keep(&mut self, row: &StepRow, exec: &cpu::CpuExec, store: &cpu::CpuStore) {
        let kept = &mut self.rows[(row.batch % RING as u64) as usize];
        let (outputs, tail) = kept.split_at_mut(self.outputs);
        for (value, output) in outputs.iter_mut().zip(0..exec.outputs()) {
            *value = exec.number(store, output);
        }
        tail.iter_mut().zip([store.guard.norm, store.guard.largest, store.guard.spread]).for_each(|(to, from)| *to = from);
        if let (Some(number), false) = (row.norms, self.norms.is_empty()) {
            let at = (number % self.norms.len() as u64) as usize;
            self.norms[at] = store.measured();
        }
    }
}

/// The rows that batches wrote into a ring, and the guard after the last batch.
pub(crate) struct RingRows {
    pub rows: Vec<Vec<f32>>,
    /// For each measurement, the norms of each parameter's weights, gradients and change, and its ratio.
    pub norms: Vec<Vec<[f32; MEASURED + 1]>>,
    pub guard: Guard,
}

impl Ring {
    /// Makes a ring for [`RING`] batches with `outputs` outputs each, and for what `readouts` measure.
    pub async fn new(store: &Store, outputs: usize, readouts: Readouts) -> Result<Ring> {
        let measurements = measurements(readouts);
        Ok(match &store.flat {
            StoreOn::Cpu(store) => {
                let (rows, norms) = (vec![vec![f32::NAN; outputs + readouts.tail()]; RING], vec![Vec::new(); measurements]);
                let ring = CpuRing { outputs, rows, norms, asked: None };
                Ring::Cpu { kept: Arc::new(Mutex::new(ring)), store: store.clone() }
            }
            StoreOn::Gpu(store) => Ring::Gpu(Arc::new(gpu::GpuRing::new(store, outputs, RING, readouts, measurements).await?)),
        })
    }
    /// Makes an empty ring of the same size for another store.
    pub async fn again(&self, store: &Store, readouts: Readouts) -> Result<Ring> {
        Ring::new(store, self.outputs(), readouts).await
    }
    /// Returns the number of outputs in a row.
    pub fn outputs(&self) -> usize {
        match self {
            Ring::Cpu { kept, .. } => lock(kept).outputs,
            Ring::Gpu(ring) => ring.outputs(),
        }
    }
    /// Asks for the rows of the batches `first..first + count` and of the measurements `norms`. `count` is at most [`RING`]. All
    /// these batches must be queued, and the previous read must be complete.
    pub fn ask(&self, first: u64, count: usize, norms: Range<u64>) -> Result<()> {
        match self {
            Ring::Cpu { kept, .. } => lock(kept).asked = Some((first, count, norms)),
            Ring::Gpu(ring) => ring.ask(first, count, norms)?,
        }
        Ok(())
    }
    /// Returns the rows of the pending read if they have arrived. Never waits.
    pub fn take(&self) -> Result<Option<RingRows>> {
        match self {
            Ring::Cpu { kept, store } => {
                let mut ring = lock(kept);
                let Some((first, count, norms)) = ring.asked.take() else { return Ok(None) };
                let measured = ring.norms.len() as u64;
                let norms = norms.map(|k| ring.norms[(k % measured) as usize].clone()).collect();
                let rows = (first..first + count as u64).map(|s| ring.rows[(s % RING as u64) as usize].clone()).collect();
                Ok(Some(RingRows { rows, norms, guard: store.lock().guard }))
            }
            Ring::Gpu(ring) => Ok(ring.take()?.map(RingRows::of)),
        }
    }
    /// Waits for the rows of the pending read and returns them.
    pub async fn wait(&self) -> Result<Option<RingRows>> {
        match self {
            Ring::Cpu { .. } => self.take(),
            Ring::Gpu(ring) => Ok(ring.wait().await?.map(RingRows::of)),
        }
    }
    /// Returns the counters of the read-backs. On the CPU all counters are zero.
    pub fn counters(&self) -> Counters {
        match self {
            Ring::Cpu { .. } => Counters::default(),
            Ring::Gpu(ring) => {
                let [reads, waits, bytes_read] = ring.counts();
                // The allocations are the ring, its read-back buffer and the rows of measured norms.
                Counters { reads, waits, bytes_read, allocations: 2 + u64::from(ring.measures()), ..Counters::default() }
            }
        }
    }
}

impl RingRows {
    fn of(kept: gpu::RingRead) -> RingRows {
        let of = |words: &Vec<f32>| {
            let (trusts, norms) = words.split_at(words.len() / (ROW + MEASURED) * ROW);
            norms.chunks_exact(MEASURED).zip(trusts.chunks_exact(ROW)).map(|(n, trust)| [n[0], n[1], n[2], trust[ROW - 1]]).collect()
        };
        RingRows { norms: kept.norms.iter().map(of).collect(), rows: kept.rows, guard: guard_of(&kept.guard) }
    }
}

pub(super) fn guard_of(words: &[u32]) -> Guard {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&words[..size_of::<Guard>() / 4]))
}
