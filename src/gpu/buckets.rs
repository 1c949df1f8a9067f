//! Buckets of gradients that the host reads while the device computes the next ones.

use crate::{
    error::Result,
    gpu::{
        exec::{GpuExec, StepRow},
        readback::Readback,
        store::GpuStore,
    },
    optim::{Guard, Hyper, WEIGHT},
    plan::Flat,
};
use std::collections::VecDeque;

/// A bucket of gradients, and the buffer through which the host reads it.
pub(crate) struct Bucket {
    /// The parameters whose gradients it has.
    params: Vec<usize>,
    elements: usize,
    /// Whether the sum over the earlier micro-batches of the step is read too.
    sums: bool,
    readback: Readback,
}

/// The bytes before the gradients: the weight of the earlier micro-batches of the step, and the weight of this one.
const WEIGHTS: u64 = 8;

/// Returns the size in bytes of the read-back buffer of a bucket.
pub(crate) fn bytes(elements: usize, sums: bool) -> u64 {
    WEIGHTS + 4 * elements as u64 * if sums { 2 } else { 1 }
}

impl Bucket {
    /// Makes a bucket of the gradients of these parameters. Steps of one micro-batch need no `sums`.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if the bucket is larger than a buffer can be. [`Error::Device`](crate::Error::Device) if there
    /// is not enough memory.
    pub async fn new(store: &GpuStore, params: &[usize], sums: bool) -> Result<Bucket> {
        let elements = params.iter().map(|&i| store.layout().ranges[i].len).sum();
        let readback = Readback::new(store.gpu(), format!("read-back of gradients [{elements}]"), bytes(elements, sums)).await?;
        Ok(Bucket { params: params.to_vec(), elements, sums, readback })
    }
    fn bytes(&self) -> u64 {
        bytes(self.elements, self.sums)
    }
    /// Encodes the copies into the read-back buffer.
    fn copy(&self, exec: &GpuExec, encoder: &mut wgpu::CommandEncoder) {
        let (store, to) = (exec.store(), &self.readback.buffer);
        encoder.copy_buffer_to_buffer(&store.control, 4 * WEIGHT as u64, to, 0, Some(4));
        let weight = exec.weight();
        encoder.copy_buffer_to_buffer(weight.buffer, weight.offset, to, 4, Some(4));
        let mut at = WEIGHTS;
        for flat in [Flat::Micro, Flat::Grads].into_iter().take(if self.sums { 2 } else { 1 }) {
            for range in self.params.iter().map(|&i| store.layout().ranges[i]) {
                let from = store.piece(flat, range.piece).expect("a plan for micro-batches has made the buffers of gradients");
                let len = 4 * range.len as u64;
                encoder.copy_buffer_to_buffer(from, 4 * range.start as u64, to, at, Some(len));
                at += len;
            }
        }
    }
    /// Returns the sum over the micro-batches so far and its weight. The copies must have arrived.
    fn take(&self) -> Result<(Vec<f32>, f32)> {
        self.readback.take(self.bytes(), |read| {
            let floats: fn(&[u8]) -> Vec<f32> = bytemuck::pod_collect_to_vec;
            let (weights, grads) = read.split_at(WEIGHTS as usize);
            let (micro, before) = grads.split_at(4 * self.elements);
            let weights = floats(weights);
            let mut guard = Guard { weight: weights[0], ..Guard::default() };
            guard.weigh(weights[1], 0.0);
            let mut sum = if self.sums { floats(before) } else { vec![0.0; self.elements] };
            guard.add_micro(&mut sum, &floats(micro));
            (sum, guard.weight)
        })
    }
}

impl GpuExec {
    /// Runs the plan of a micro-batch in parts. The first part ends with kernel `ready[0]`, which completes the gradients of the first
    /// bucket, and so on. `send` gets each bucket as soon as it has arrived, in order, while the device computes the next ones: the sum over
    /// the micro-batches so far and its weight.
    ///
    /// # Errors
    /// The errors of [`submit_steps`](GpuExec::submit_steps). Then the buckets cannot be used again.
    pub(crate) async fn run_sending(
        &mut self,
        row: &StepRow,
        (hyper, fed): (&[Hyper], bool),
        buckets: &[Bucket],
        ready: &[usize],
        mut send: impl FnMut(Vec<f32>, f32),
    ) -> Result<()> {
        let gpu = self.gpu().clone();
        let mut run = self.begin(row, hyper, fed, None)?;
        let mut asked: VecDeque<(&Bucket, wgpu::SubmissionIndex)> = VecDeque::with_capacity(buckets.len());
        for (bucket, &ready) in buckets.iter().zip(ready) {
            let submission = run.submit(ready + 1, |exec, encoder| bucket.copy(exec, encoder))?;
            bucket.readback.ask(bucket.bytes());
            asked.push_back((bucket, submission));
            // The first buckets may arrive while the host encodes.
            gpu.poll()?;
            while asked.front().is_some_and(|(bucket, _)| bucket.readback.is_here())
                && let Some((bucket, _)) = asked.pop_front()
            {
                let (sum, weight) = bucket.take()?;
                send(sum, weight);
            }
        }
        run.end()?;
        let waits = asked.len();
        for (bucket, submission) in asked {
            bucket.readback.wait(submission).await?;
            let (sum, weight) = bucket.take()?;
            send(sum, weight);
        }
        self.read_parts(buckets.len(), waits, buckets.iter().map(Bucket::bytes).sum());
        Ok(())
    }
}
