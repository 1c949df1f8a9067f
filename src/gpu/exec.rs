//! Runs a loaded plan again and again. Every buffer, pipeline and bind group is made once. A step is one compute pass. A
//! submit holds one step or many.

use crate::{
    error::{Error, Result},
    gpu::{
        bind::{BufferRange, Buffers, Own, words_of},
        collect::Collected,
        device::Gpu,
        feed::{FlipShift, Resident},
        lower::{Dispatch, lower},
        pace::{MOST, Pace},
        profile::{Clocks, record},
        ring::GpuRing,
        run::Pause,
        shader::STEP_BYTES,
        store::GpuStore,
    },
    graph::InputDef,
    host::Host,
    optim::{Hyper, NORMS, SPREAD},
    plan::{Flat, Half, Loc, Phases, Plan, ROWS, Step, Update, Work},
    rng::words,
    shape::{DType, Shape},
};
use std::{
    ops::{AddAssign, Range},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

/// The number of elements in the fence behind a guarded buffer.
pub(super) const FENCE: usize = 64;

/// The options for loading a plan.
#[derive(Clone, Copy, Default)]
pub struct ExecOptions<'a> {
    /// The ring into which each step writes its first outputs.
    pub ring: Option<&'a Arc<GpuRing>>,
    /// Whether each buffer ends with a fence. Tests use fences to find writes past the end.
    pub guards: bool,
}

/// The numbers that change from one run of a plan to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepRow {
    /// The seed of the random numbers.
    pub seed: u64,
    /// The number of the step, counted from 0.
    pub step: u64,
    /// The number of the micro-batch in the step, counted from 0.
    pub micro: u32,
    /// Whether more micro-batches of the step follow. If so, this run makes no update.
    pub more: bool,
    /// The number of the batch. It selects the row in the ring.
    pub batch: u64,
    /// The place of the batch's first sample in the order of the data set on the device.
    pub sample: u32,
    /// The number of the measurement, if the step measures norms. It selects the row in the ring.
    pub norms: Option<u64>,
    /// The half of the update, if ranks share it.
    pub(crate) half: Option<Half>,
}

impl StepRow {
    /// Returns the number from which random numbers are drawn. Each micro-batch of a step has another number. For the first
    /// micro-batch it is the number of the step.
    pub fn draw(&self) -> u64 {
        self.step | u64::from(self.micro) << 40
    }
    /// Returns the phases that this run goes through.
    pub(crate) fn phases(&self) -> Phases {
        Phases { more: self.more, measures: self.norms.is_some(), half: self.half }
    }
    /// Returns `struct Step` of the shaders as words. `row` is the number of the row of hyperparameters.
    fn words(&self, row: usize) -> [u32; STEP_BYTES as usize / 4] {
        let ([s0, s1], [d0, d1]) = (words(self.seed), words(self.draw()));
        [s0, s1, d0, d1, self.sample, row as u32, 0, 0]
    }
}

/// Counts of the work done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The number of runs of a plan. Each run is a step or a micro-batch.
    pub steps: u64,
    /// The number of submits. A submit holds one step or many.
    pub submits: u64,
    /// The number of dispatches in all steps.
    pub dispatches: u64,
    /// The number of read-backs. Each read-back is also a submit. Only a bucket of gradients has none of its own: a part of a step ends
    /// with its copy.
    pub reads: u64,
    /// The number of times that the host waited for a read-back. The device is idle after such a wait.
    pub waits: u64,
    /// The number of times that the host waited because it was several submits ahead of the device. The device keeps working
    /// during such a wait.
    pub held: u64,
    /// The number of uploaded bytes: inputs, constants, uniforms, rows of the table of steps, data sets and the orders of
    /// their samples.
    pub bytes_uploaded: u64,
    /// The number of bytes in all read-backs.
    pub bytes_read: u64,
    /// The number of buffers made, for plans and for data sets.
    pub allocations: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, more: Counters) {
        self.steps += more.steps;
        self.submits += more.submits;
        self.dispatches += more.dispatches;
        self.reads += more.reads;
        self.waits += more.waits;
        self.held += more.held;
        self.bytes_uploaded += more.bytes_uploaded;
        self.bytes_read += more.bytes_read;
        self.allocations += more.allocations;
    }
}

/// The counters that a shared `GpuExec` can increase.
#[derive(Default)]
struct Counting {
    reads: AtomicU64,
    waits: AtomicU64,
    bytes_uploaded: AtomicU64,
    bytes_read: AtomicU64,
}

/// The dispatches that fetch a step's batch, and their data set.
struct Feed {
    resident: Arc<Resident>,
    augment: Option<FlipShift>,
    steps: Vec<Step>,
    dispatches: Vec<Dispatch>,
    /// The size of the uniforms in bytes.
    bytes: u64,
}

/// A plan that is loaded on a GPU.
pub struct GpuExec {
    gpu: Arc<Gpu>,
    store: Arc<GpuStore>,
    buffers: Buffers,
    /// The number of parameters in the plan.
    params: usize,
    /// The number of steps in the plan, without aliases.
    steps: usize,
    groups: usize,
    /// Whether micro-batches measure the spread of their gradients.
    spreads: bool,
    inputs: Vec<InputDef>,
    outputs: Vec<(Loc, Shape)>,
    /// The place of the weight of a micro-batch, in a plan for micro-batches.
    weight: Option<(Loc, Shape)>,
    dispatches: Vec<Dispatch>,
    /// The table of steps. Below it are its bind group and the distance between two rows in bytes.
    rows: wgpu::Buffer,
    rows_group: wgpu::BindGroup,
    row_stride: u64,
    /// The words of the rows and hyperparameters that are uploaded. The memory is reused.
    words: Vec<u32>,
    /// The dispatches that fetch a step's batch, if the plan is fed from a data set on the device.
    feed: Option<Feed>,
    collect: Option<Arc<Collected>>,
    ring: Option<Arc<GpuRing>>,
    /// The steps of the plan at which a run pauses for the values of other ranks.
    pauses: Arc<[Pause]>,
    pace: Pace,
    /// The size of all buffers made for the plan in bytes, without the buffers of the feed.
    bytes: u64,
    /// The counters that only the owner increases.
    done: Counters,
    counting: Counting,
}

impl GpuExec {
    /// Loads `plan`: makes every buffer, pipeline and bind group that the plan needs.
    ///
    /// # Errors
    /// [`Error::Limit`] with the name of the op if a tensor is larger than this device can hold or bind. [`Error::Device`] if
    /// the driver fails.
    pub async fn new(gpu: &Arc<Gpu>, plan: &Plan, store: &Arc<GpuStore>, options: ExecOptions<'_>) -> Result<GpuExec> {
        if let Some(param) = plan.params.get(store.layout().ranges.len()) {
            return Err(Error::Parameter { name: param.name.clone(), why: "it has no range in this store's layout".into() });
        }
        if plan.micro {
            store.hold_micro().await?;
        }
        if plan.measures() {
            store.hold_before().await?;
        }
        let buffers = Buffers::new(gpu, plan, &options).await?;
        let (dispatches, uniform_bytes) = lower(gpu, &plan.steps, |loc, elements| buffers.place(store, None, loc, elements)).await?;

        let row_stride = gpu.row_stride();
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let rows = gpu.buffers(&[(format!("{ROWS} steps"), ROWS as u64 * row_stride)], usage).await?.remove(0);
        let made = gpu.scoped("bind groups", |device| {
            let resource =
                wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &rows, offset: 0, size: wgpu::BufferSize::new(STEP_BYTES) });
            let entries = [wgpu::BindGroupEntry { binding: 0, resource }];
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some("step"), layout: &gpu.pipelines.step, entries: &entries })
        });
        let rows_group = made.await?;
        if let Some(ring) = options.ring {
            let wrong = |(_, (_, shape)): &(usize, &(Loc, Shape))| shape.elements() != 1 || shape.dtype() != DType::F32;
            if let Some((i, (_, shape))) = plan.outputs.iter().take(ring.outputs()).enumerate().find(wrong) {
                return Err(Error::argument("ring", format!("output {i} is {shape}, not one number")));
            }
        }

        let constants: usize = plan.constants.iter().map(|c| c.len() * 4).sum();
        let counting = Counting { bytes_uploaded: AtomicU64::new(uniform_bytes + constants as u64), ..Counting::default() };
        let allocations = buffers.all().count() as u64 + 2;
        let bytes = buffers.all().map(|own| own.buffer.size()).sum::<u64>() + rows.size() + uniform_bytes;
        Ok(GpuExec {
            gpu: gpu.clone(),
            store: store.clone(),
            buffers,
            params: plan.params.len(),
            steps: plan.steps.iter().filter(|step| !step.is_alias()).count(),
            groups: plan.groups,
            spreads: plan.steps.iter().any(|step| matches!(step.work, Work::Update(Update::Spread, _))),
            inputs: plan.inputs.clone(),
            outputs: plan.outputs.clone(),
            weight: plan.weight(),
            dispatches,
            rows,
            rows_group,
            row_stride,
            words: Vec::new(),
            feed: None,
            collect: None,
            ring: options.ring.cloned(),
            pauses: Pause::all(plan).into(),
            pace: Pace::default(),
            bytes,
            done: Counters { allocations, ..Counters::default() },
            counting,
        })
    }

    /// Writes a batch into input `input` for the next steps. The batch must have the shape of the input.
    pub fn write(&self, input: usize, data: &Host<f32>) -> Result<()> {
        let want = nth(&self.inputs, "input", input)?.shape;
        if !data.fits(want) {
            let got = format!("{} with {}", data.shape, data.content());
            return Err(Error::Input { what: format!("input {input}"), got, want: want.to_string() });
        }
        let bytes = words_of(&data.data);
        self.gpu.queue.write_buffer(&self.buffers.inputs[input].buffer, 0, bytes);
        self.counting.bytes_uploaded.fetch_add(bytes.len() as u64, Relaxed);
        self.gpu.check()
    }

    /// Makes each [fed](GpuExec::submit_steps) step fetch its batch from `resident`. `augment` changes the images of the first
    /// input. The dispatches are made once. A previous data set is dropped.
    ///
    /// # Errors
    /// [`Error::Input`] if the samples do not fit the plan's inputs, and the errors of [`GpuExec::new`].
    pub async fn feed(&mut self, resident: &Arc<Resident>, augment: Option<FlipShift>) -> Result<()> {
        if self.feed.as_ref().is_some_and(|old| Arc::ptr_eq(&old.resident, resident) && old.augment == augment) {
            return Ok(());
        }
        self.feed = None;
        let steps = resident.steps(&self.inputs, augment, self.gpu.caps())?;
        let find = |loc, elements| self.buffers.place(&self.store, Some(resident), loc, elements);
        let (mut dispatches, bytes) = lower(&self.gpu, &steps, find).await?;
        dispatches.iter_mut().for_each(|dispatch| dispatch.kernel += self.steps);
        self.counting.bytes_uploaded.fetch_add(bytes, Relaxed);
        self.done.allocations += 1;
        self.feed = Some(Feed { resident: resident.clone(), augment, steps, dispatches, bytes });
        Ok(())
    }
    /// Returns the steps that fetch a batch. The list is empty if the plan is not fed.
    pub(crate) fn fetch(&self) -> &[Step] {
        self.feed.as_ref().map_or(&[], |feed| &feed.steps)
    }
    /// Drops the data set from which the plan was fed.
    pub fn starve(&mut self) {
        self.feed = None;
    }

    /// Makes each step store all its outputs in `into`. `None` stops this.
    pub fn collect(&mut self, into: Option<&Arc<Collected>>) {
        self.collect = into.cloned();
    }
    /// Returns the size of the plan's own buffers in bytes, without parameters and data sets.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.feed.as_ref().map_or(0, |feed| feed.bytes)
    }
    /// Returns the shapes of the outputs.
    pub fn output_shapes(&self) -> impl Iterator<Item = Shape> + '_ {
        self.outputs.iter().map(|&(_, shape)| shape)
    }

    /// Runs the plan once on the current inputs.
    pub fn submit(&mut self, row: &StepRow) -> Result<()> {
        self.submit_steps(std::slice::from_ref(row), &[], false)
    }
    /// Runs the plan once for each row, in one submit. If `fed` is true, each step fetches its own batch. `hyper` lists the
    /// hyperparameters of all rows, one entry for each row and group. The call returns when the work is queued. It waits only
    /// if too many submits are queued already.
    ///
    /// # Errors
    /// [`Error::Argument`] if there are more rows than the table has, or if there is no room for the collected outputs. Also
    /// an error if the device fails.
    pub fn submit_steps(&mut self, rows: &[StepRow], hyper: &[Hyper], fed: bool) -> Result<()> {
        self.upload(rows, hyper, fed)?;
        let started = Instant::now();
        let mut encoder = self.encoder();
        for (i, row) in rows.iter().enumerate() {
            self.encode_kernels(&mut encoder, (row, i), fed, 0..self.steps, None)?;
            self.encode_outputs(&mut encoder, row);
        }
        self.submit_all(encoder, started, rows.len())
    }
    /// Checks the rows of the next runs and uploads them with their hyperparameters.
    pub(super) fn upload(&mut self, rows: &[StepRow], hyper: &[Hyper], fed: bool) -> Result<()> {
        self.gpu.check()?;
        let most = self.most();
        if rows.len() > most {
            return Err(Error::argument("submit", format!("{} steps at once, but at most {most} are possible", rows.len())));
        }
        if hyper.len() != rows.len() * self.groups {
            let want = format!("{} rows of hyperparameters for {} steps of {} groups", hyper.len(), rows.len(), self.groups);
            return Err(Error::argument("submit", want));
        }
        if fed && self.feed.is_none() {
            return Err(Error::argument("submit", "this plan is fed from nowhere"));
        }
        let collected: usize = self.output_shapes().map(|shape| shape.elements()).sum::<usize>() * rows.len();
        if let Some(full) = self.collect.as_ref().filter(|into| into.left() < collected) {
            return Err(Error::argument("submit", format!("{collected} numbers to collect, but there is room for {}", full.left())));
        }
        self.pace.room(&self.gpu)?;
        self.words.clear();
        for (i, row) in rows.iter().enumerate() {
            // The gap between two rows is filled with zeros.
            self.words.resize(self.words.len().next_multiple_of(self.row_stride as usize / 4), 0);
            self.words.extend(row.words(i));
        }
        // The upload happens after all earlier submits are done.
        self.gpu.queue.write_buffer(&self.rows, 0, bytemuck::cast_slice(&self.words));
        self.counting.bytes_uploaded.fetch_add(self.words.len() as u64 * 4, Relaxed);
        if self.groups > 0 {
            self.words.clear();
            self.words.extend(hyper.as_flattened().iter().map(|&h| (h as f32).to_bits()));
            self.store.write_hyper(&self.words);
            self.counting.bytes_uploaded.fetch_add(self.words.len() as u64 * 4, Relaxed);
        }
        Ok(())
    }
    pub(super) fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("step") })
    }
    /// Encodes the kernels with the numbers `kernels` of the run with the uploaded row `i`. Those that fetch the batch come before kernel 0.
    pub(super) fn encode_kernels(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        (row, i): (&StepRow, usize),
        fed: bool,
        kernels: Range<usize>,
        clocks: Option<&mut Clocks>,
    ) -> Result<()> {
        let feed = self.feed.as_ref().filter(|_| fed && kernels.start == 0).map_or(&[][..], |feed| &feed.dispatches);
        let own = self.dispatches.iter().filter(|dispatch| kernels.contains(&dispatch.kernel));
        let mut dispatches = 0;
        let all = feed.iter().chain(own).filter(|dispatch| row.phases().have(dispatch.phase)).inspect(|_| dispatches += 1);
        record(&self.gpu, encoder, all, (&self.rows_group, i as u32 * self.row_stride as u32), clocks)?;
        self.done.dispatches += dispatches;
        Ok(())
    }
    /// Encodes the copies of a run's outputs into the ring and into the buffer that collects them.
    pub(super) fn encode_outputs(&self, encoder: &mut wgpu::CommandEncoder, row: &StepRow) {
        if let Some(ring) = &self.ring {
            for (k, &output) in self.outputs.iter().take(ring.outputs()).enumerate() {
                let from = self.output(output);
                encoder.copy_buffer_to_buffer(from.buffer, from.offset, &ring.buffer, ring.place(row.batch, k), Some(4));
            }
            if self.groups > 0 && !row.more {
                let to = ring.place(row.batch, ring.outputs());
                let bytes = Some(4 * NORMS.len() as u64);
                encoder.copy_buffer_to_buffer(&self.store.control, 4 * NORMS.start as u64, &ring.buffer, to, bytes);
                if self.spreads {
                    let to = ring.place(row.batch, ring.outputs() + NORMS.len());
                    encoder.copy_buffer_to_buffer(&self.store.control, 4 * SPREAD as u64, &ring.buffer, to, Some(4));
                }
                if let (Some(number), Some(norms)) = (row.norms, &ring.norms) {
                    let mut to = norms.place(number);
                    for (buffer, from, bytes) in self.store.rows().into_iter().flatten() {
                        encoder.copy_buffer_to_buffer(buffer, from, &norms.buffer, to, Some(bytes));
                        to += bytes;
                    }
                }
            }
        }
        if let Some(into) = &self.collect {
            for &output in &self.outputs {
                let from = self.output(output);
                let at = into.take(from.elements);
                encoder.copy_buffer_to_buffer(from.buffer, from.offset, &into.buffer, at, Some(from.elements as u64 * 4));
            }
        }
    }
    /// Submits a part of a run, behind which other parts follow.
    pub(super) fn submit_part(&mut self, encoder: wgpu::CommandEncoder) -> Result<wgpu::SubmissionIndex> {
        let index = self.gpu.queue.submit([encoder.finish()]);
        self.done.submits += 1;
        self.gpu.check()?;
        Ok(index)
    }
    /// Submits `steps` runs, or the last part of one. `started` is the time when the host began to encode them.
    pub(super) fn submit_all(&mut self, encoder: wgpu::CommandEncoder, started: Instant, steps: usize) -> Result<()> {
        let index = self.submit_part(encoder)?;
        self.pace.sent(&self.gpu, index, started, steps);
        self.done.steps += steps as u64;
        Ok(())
    }
    fn output(&self, (loc, shape): (Loc, Shape)) -> BufferRange<'_> {
        self.buffers.place(&self.store, None, loc, shape.elements()).expect("outputs were bound when the plan was loaded")
    }
    /// Records that all steps so far are done. Later steps are timed anew.
    pub fn rested(&mut self) {
        self.pace.last();
    }
    /// Returns the number of fed steps for the next submit: `wanted`, or else the number that takes about ten milliseconds.
    pub fn steps_per_submit(&self, wanted: Option<usize>) -> usize {
        wanted.unwrap_or(self.pace.steps()).min(self.most())
    }
    /// Returns the largest number of steps in one submit.
    fn most(&self) -> usize {
        if self.groups > 0 { self.store.steps() } else { MOST }
    }

    /// Uploads the row of a step and encodes all its dispatches `times` times into one pass.
    pub(super) fn encode(&self, row: &StepRow, times: usize, stamps: Option<wgpu::ComputePassTimestampWrites>) -> wgpu::CommandEncoder {
        let words = row.words(0);
        self.gpu.queue.write_buffer(&self.rows, 0, bytemuck::cast_slice(&words));
        self.counting.bytes_uploaded.fetch_add(words.len() as u64 * 4, Relaxed);
        let mut encoder = self.encoder();
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("step"), timestamp_writes: stamps });
        for dispatch in (0..times).flat_map(|_| &self.dispatches) {
            dispatch.encode(&mut pass, &self.rows_group, 0);
        }
        drop(pass);
        encoder
    }

    /// Returns output `output` of the plan after all steps submitted so far.
    pub async fn read(&self, output: usize) -> Result<Host<f32>> {
        let output = *nth(&self.outputs, "output", output)?;
        let (from, shape) = (self.output(output), output.1);
        let parts = [(from.buffer, from.offset, from.elements)];
        self.count_read(from.elements);
        Ok(match shape.dtype() {
            DType::F32 => Host::new(shape, self.gpu.read(&parts).await?),
            DType::U32 => Host::labels(shape, self.gpu.read(&parts).await?),
        })
    }

    /// Returns the counters.
    pub fn counters(&self) -> Counters {
        Counters {
            reads: self.counting.reads.load(Relaxed),
            waits: self.counting.waits.load(Relaxed),
            held: self.pace.held,
            bytes_uploaded: self.counting.bytes_uploaded.load(Relaxed),
            bytes_read: self.counting.bytes_read.load(Relaxed),
            ..self.done
        }
    }
    /// Returns the number of dispatches in a step, without the dispatches that fetch its batch.
    #[cfg(test)]
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }
    pub(super) fn all_dispatches(&self, fed: bool) -> usize {
        self.dispatches.len() + self.feed.as_ref().filter(|_| fed).map_or(0, |feed| feed.dispatches.len())
    }
    /// Waits until all steps are done. The call blocks the thread.
    pub fn finish(&mut self) -> Result<()> {
        match self.pace.last() {
            Some(newest) => {
                self.counting.waits.fetch_add(1, Relaxed);
                self.gpu.wait(newest)
            }
            None => self.gpu.check(),
        }
    }

    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }
    /// Returns the number of steps in the plan, without aliases.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }
    pub(super) fn store(&self) -> &GpuStore {
        &self.store
    }
    /// Returns the place of the weight of a micro-batch.
    pub(super) fn weight(&self) -> BufferRange<'_> {
        self.output(self.weight.expect("a plan for micro-batches has their weight"))
    }
    /// Counts read-backs that followed parts of a run.
    pub(super) fn read_parts(&self, reads: usize, waits: usize, bytes: u64) {
        self.counting.reads.fetch_add(reads as u64, Relaxed);
        self.counting.waits.fetch_add(waits as u64, Relaxed);
        self.counting.bytes_read.fetch_add(bytes, Relaxed);
    }
    pub(super) fn pauses(&self) -> Arc<[Pause]> {
        self.pauses.clone()
    }
    /// Reads a tensor of this many elements after all parts submitted so far.
    pub(super) fn read_at(&self, (loc, elements): (Loc, usize)) -> Result<Vec<f32>> {
        let from = self.buffers.place(&self.store, None, loc, elements).expect("tensors of the plan have places");
        self.count_read(elements);
        pollster::block_on(self.gpu.read(&[(from.buffer, from.offset, elements)]))
    }
    /// Writes a tensor of this many elements before the parts that follow.
    pub(super) fn write_at(&self, (loc, elements): (Loc, usize), values: &[f32]) {
        let to = self.buffers.place(&self.store, None, loc, elements).expect("tensors of the plan have places");
        self.gpu.queue.write_buffer(to.buffer, to.offset, bytemuck::cast_slice(&values[..elements]));
        self.counting.bytes_uploaded.fetch_add(elements as u64 * 4, Relaxed);
    }
    fn count_read(&self, words: usize) {
        self.read_parts(1, 1, words as u64 * 4);
    }

    /// Fills every buffer that a step writes (slots, scratch, gradients) and every fence with `word`. For tests.
    pub fn fill_slots(&self, word: u32) -> Result<()> {
        let fence = self.buffers.fence;
        let fill = |buffer: &wgpu::Buffer, first: usize, count: usize| {
            let words = vec![word; count];
            self.gpu.queue.write_buffer(buffer, first as u64 * 4, bytemuck::cast_slice(&words));
        };
        for own in &self.buffers.slots {
            fill(&own.buffer, 0, own.elements + fence);
        }
        for own in self.buffers.inputs.iter().chain(&self.buffers.constants) {
            fill(&own.buffer, own.elements, fence);
        }
        for range in &self.store.layout().ranges[..self.params] {
            for flat in [Flat::Grads, Flat::Next] {
                self.store.piece(flat, range.piece).into_iter().for_each(|buffer| fill(buffer, range.start, range.len));
            }
        }
        self.gpu.check()
    }

    /// Returns the buffers whose fence has changed from `word`, with the first changed element. For tests.
    pub async fn fences_intact(&self, word: u32) -> Result<Vec<String>> {
        if self.buffers.fence == 0 {
            return Err(Error::argument("fences_intact", "this plan was loaded without guards"));
        }
        let all: Vec<&Own> = self.buffers.all().collect();
        let parts: Vec<_> = all.iter().map(|own| (&own.buffer, own.elements as u64 * 4, FENCE)).collect();
        let words: Vec<u32> = self.gpu.read(&parts).await?;
        let broken = all.iter().zip(words.chunks_exact(FENCE)).filter_map(|(own, fence)| {
            let at = fence.iter().position(|&w| w != word)?;
            Some(format!("{}: element {at} past its end became {:#010x}", own.label, fence[at]))
        });
        Ok(broken.collect())
    }
}

fn nth<'a, T>(all: &'a [T], what: &str, i: usize) -> Result<&'a T> {
    all.get(i).ok_or_else(|| Error::argument(format!("{what} {i}"), format!("this plan has {}", all.len())))
}
