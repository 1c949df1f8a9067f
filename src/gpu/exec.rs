//! The replay of a plan: every buffer, pipeline and bind group is made once; a step is one encoder, one compute pass
//! and one submit.

use crate::{
    error::{Error, Result},
    gpu::{
        bind::{Buffers, Own, words_of},
        device::Gpu,
        dispatch::{Reach, params, part},
        shader::{HYPER, STEP_BYTES},
        store::Store,
    },
    host::Host,
    kernel::{Kernel, Pass},
    plan::{Loc, Plan},
    shape::{DType, Shape},
};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Elements of the fence after a guarded buffer.
pub(super) const FENCE: usize = 64;
/// Steps whose rows the table on the device holds.
const ROWS: u64 = 64;
/// Submissions under way at once: `submit` waits for the oldest where there would be more.
const IN_FLIGHT: usize = 4;

/// An optimizer's kernel for one piece of the flat buffers. Its passes bind `In(0)`, the weights; `In(1)`, the
/// gradients; `In(2)`, the guard; `In(3 + k)`, state `k`; `In(100)`, the plan's first output (the loss); and scratch,
/// which all updates of a plan share.
#[derive(Clone, Debug)]
pub struct UpdatePass {
    /// What runs.
    pub kernel: Kernel,
    /// The piece of the flat buffers that its bindings are of.
    pub piece: usize,
}

/// What each step leaves in a ring on the device: the outputs of these indices, scalars all of them.
#[derive(Clone, Debug, Default)]
pub struct RingSpec {
    /// Numbers of outputs of the plan.
    pub outputs: Vec<usize>,
    /// Steps that the ring holds.
    pub capacity: usize,
}

/// What a plan is run with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecOptions<'a> {
    /// What runs after the plan's steps, in order.
    pub updates: &'a [UpdatePass],
    /// What each step leaves on the device, to be read later.
    pub ring: Option<&'a RingSpec>,
    /// Whether each buffer gets a fence after its end, for tests.
    pub guards: bool,
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepRow {
    /// Of the random numbers.
    pub seed: u64,
    /// Its number, from 0.
    pub step: u64,
    /// By parameter group: see [`crate::optim::Hyper`].
    pub hyper: [[f32; 8]; 8],
}

impl StepRow {
    /// `struct Step` of the shaders.
    fn words(&self) -> Vec<u32> {
        let pair = |x: u64| [x as u32, (x >> 32) as u32];
        let hyper = self.hyper.as_flattened().iter().map(|h| h.to_bits());
        let words: Vec<u32> = pair(self.seed).into_iter().chain(pair(self.step)).chain(hyper).collect();
        debug_assert_eq!(words.len(), 4 + HYPER);
        words
    }
}

/// What an [`Exec`] did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps, each of which is one submit.
    pub submits: u64,
    /// Dispatches of all steps.
    pub dispatches: u64,
    /// Read-backs; each is a submit too.
    pub reads: u64,
    /// Bytes of inputs, constants, uniforms and rows of the table.
    pub bytes_uploaded: u64,
    /// Bytes of read-backs.
    pub bytes_read: u64,
    /// Buffers made. All of them are made when the plan is loaded.
    pub allocations: u64,
}

/// [`Counters`] that a shared `Exec` can add to.
#[derive(Default)]
struct Counting {
    reads: AtomicU64,
    bytes_uploaded: AtomicU64,
    bytes_read: AtomicU64,
}

struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    /// Whether it reads the row of the step.
    step: bool,
    size: [u32; 3],
}

/// A [`Dispatch`] without its bind group.
struct Job {
    work: usize,
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroupLayout,
    /// Offset and bytes of its `struct Params`.
    params: (u64, u64),
    /// First element and count of what each binding sees.
    parts: Vec<(usize, usize)>,
    size: [u32; 3],
}

struct Ring {
    buffer: wgpu::Buffer,
    outputs: Vec<usize>,
    capacity: u64,
}

/// A plan, loaded.
pub struct Exec {
    gpu: Arc<Gpu>,
    store: Arc<Store>,
    buffers: Buffers,
    /// How many parameters the plan has.
    params: usize,
    inputs: Vec<Shape>,
    outputs: Vec<(Loc, Shape)>,
    dispatches: Vec<Dispatch>,
    /// The table of steps, its bind group, and the bytes from row to row.
    rows: wgpu::Buffer,
    rows_group: wgpu::BindGroup,
    row_stride: u64,
    ring: Option<Ring>,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    submits: u64,
    allocations: u64,
    counting: Counting,
}

impl Exec {
    /// Makes every buffer, pipeline and bind group that replaying `plan` takes.
    ///
    /// # Errors
    /// [`Error::Limit`] where a tensor is larger than this device can hold or bind, naming the op;
    /// [`Error::Device`] where the driver refuses.
    pub async fn new(gpu: &Arc<Gpu>, plan: &Plan, store: &Arc<Store>, options: ExecOptions<'_>) -> Result<Exec> {
        if let Some(param) = plan.params.get(store.layout().ranges.len()) {
            return Err(Error::Parameter { name: param.name.clone(), why: "it has no range in this store's layout".into() });
        }
        let buffers = Buffers::new(gpu, plan, &options).await?;
        let limits = gpu.limits();
        let align = limits.min_uniform_buffer_offset_alignment as u64;
        let reach = Reach { binding: gpu.caps().max_binding_bytes, groups: limits.max_compute_workgroups_per_dimension };

        let works = buffers.work(plan, store, options.updates)?;
        let (mut jobs, mut uniforms) = (Vec::new(), Vec::<u32>::new());
        let passes: Vec<(&str, &Pass)> = works.iter().map(|work| (work.name.as_str(), work.pass)).collect();
        let pipelines = gpu.pipelines(&passes).await;
        for ((i, work), pipeline) in works.iter().enumerate().zip(pipelines) {
            let pipeline = pipeline?;
            let elements: Vec<usize> = work.places.iter().map(|place| place.elements).collect();
            let windows = reach.windows(&work.label, work.pass, &elements)?;
            for &window in &windows {
                let parts = work.pass.binds.iter().zip(&work.places).map(|(bind, place)| {
                    let (first, count) = part(bind.span, windows.len() > 1, window, place.elements);
                    let fenced = count + if first + count == place.elements { place.fence } else { 0 };
                    (first, if fenced as u64 * 4 <= reach.binding { fenced } else { count })
                });
                let words = params(work.pass, window);
                let at = (uniforms.len() as u64 * 4).next_multiple_of(align);
                uniforms.resize(at as usize / 4, 0);
                uniforms.extend(&words);
                jobs.push(Job {
                    work: i,
                    pipeline: pipeline.pipeline.clone(),
                    bindings: pipeline.bindings.clone(),
                    params: (at, words.len() as u64 * 4),
                    parts: parts.collect(),
                    size: reach.fold(work.pass, window),
                });
            }
        }

        let row_stride = STEP_BYTES.next_multiple_of(align);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let uniform_bytes = (uniforms.len() as u64 * 4).max(16);
        let tables = [(format!("params of {} dispatches", jobs.len()), uniform_bytes), (format!("{ROWS} steps"), ROWS * row_stride)];
        let [uniform, rows]: [wgpu::Buffer; 2] = gpu.buffers(&tables, usage).await?.try_into().expect("as many buffers as were asked for");
        gpu.queue.write_buffer(&uniform, 0, bytemuck::cast_slice(&uniforms));
        let ring = match options.ring {
            Some(spec) => Some(Ring::new(gpu, plan, spec).await?),
            None => None,
        };

        let made = gpu.scoped("bind groups", |device| {
            let bytes = wgpu::BufferSize::new;
            let binding = |buffer, offset, size| wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: bytes(size) });
            let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
            let dispatches = jobs.into_iter().map(|job| {
                let work = &works[job.work];
                let mut entries = vec![entry(0, binding(&uniform, job.params.0, job.params.1))];
                for (i, (place, &(first, count))) in work.places.iter().zip(&job.parts).enumerate() {
                    let (offset, size) = (place.offset + first as u64 * 4, count as u64 * 4);
                    entries.push(entry(i as u32 + 1, binding(place.buffer, offset, size)));
                }
                let label = Some(work.label.as_str());
                let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout: &job.bindings, entries: &entries });
                Dispatch { pipeline: job.pipeline, group, step: work.pass.step, size: job.size }
            });
            let dispatches: Vec<Dispatch> = dispatches.collect();
            let rows_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("step"),
                layout: &gpu.pipelines.step,
                entries: &[entry(0, binding(&rows, 0, STEP_BYTES))],
            });
            (dispatches, rows_group)
        });
        let (dispatches, rows_group) = made.await?;
        drop(works);

        let constants: usize = plan.constants.iter().map(|c| c.len() * 4).sum();
        let counting = Counting { bytes_uploaded: AtomicU64::new(uniform_bytes + constants as u64), ..Counting::default() };
        let allocations = (buffers.all().count() + 2 + ring.is_some() as usize) as u64;
        Ok(Exec {
            gpu: gpu.clone(),
            store: store.clone(),
            buffers,
            params: plan.params.len(),
            inputs: plan.inputs.iter().map(|input| input.shape).collect(),
            outputs: plan.outputs.clone(),
            dispatches,
            rows,
            rows_group,
            row_stride,
            ring,
            in_flight: VecDeque::new(),
            submits: 0,
            allocations,
            counting,
        })
    }

    /// Puts a batch into input `input`; it is there for the next step. Its shape must be that of the plan.
    pub fn write(&self, input: usize, data: &Host<f32>) -> Result<()> {
        let want = *nth(&self.inputs, "input", input)?;
        if !data.fits(want) {
            let got = format!("{} with {}", data.shape, data.content());
            return Err(Error::Input { what: format!("input {input}"), got, want: want.to_string() });
        }
        let bytes = words_of(&data.data);
        self.gpu.queue.write_buffer(&self.buffers.inputs[input].buffer, 0, bytes);
        self.counting.bytes_uploaded.fetch_add(bytes.len() as u64, Relaxed);
        self.gpu.check()
    }

    /// Runs the plan and the updates once. Returns when the work is queued; it waits only where too much is queued
    /// already.
    pub fn submit(&mut self, row: &StepRow) -> Result<()> {
        self.gpu.check()?;
        while self.in_flight.len() >= IN_FLIGHT {
            let oldest = self.in_flight.pop_front().expect("IN_FLIGHT is at least 1");
            self.gpu.wait(oldest)?;
        }
        let mut encoder = self.encode(row, 1, None);
        if let Some(ring) = &self.ring {
            let row = row.step % ring.capacity * ring.outputs.len() as u64 * 4;
            for (i, &output) in ring.outputs.iter().enumerate() {
                let (loc, shape) = self.outputs[output];
                let from = self.buffers.place(&self.store, loc, shape.elements());
                encoder.copy_buffer_to_buffer(from.buffer, from.offset, &ring.buffer, row + i as u64 * 4, Some(4));
            }
        }
        self.in_flight.push_back(self.gpu.queue.submit([encoder.finish()]));
        self.submits += 1;
        self.gpu.check()
    }

    /// Uploads the row of a step, and encodes all dispatches into one pass, `times` times over.
    pub(super) fn encode(&self, row: &StepRow, times: usize, stamps: Option<wgpu::ComputePassTimestampWrites>) -> wgpu::CommandEncoder {
        let words = row.words();
        let at = row.step % ROWS * self.row_stride;
        self.gpu.queue.write_buffer(&self.rows, at, bytemuck::cast_slice(&words));
        self.counting.bytes_uploaded.fetch_add(words.len() as u64 * 4, Relaxed);

        let label = Some("step");
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label, timestamp_writes: stamps });
        for dispatch in (0..times).flat_map(|_| &self.dispatches) {
            pass.set_pipeline(&dispatch.pipeline);
            pass.set_bind_group(0, &dispatch.group, &[]);
            if dispatch.step {
                pass.set_bind_group(1, &self.rows_group, &[at as u32]);
            }
            let [x, y, z] = dispatch.size;
            pass.dispatch_workgroups(x, y, z);
        }
        drop(pass);
        encoder
    }

    /// Output `output` of the plan, after all steps submitted so far.
    pub async fn read(&self, output: usize) -> Result<Host<f32>> {
        let (loc, shape) = *nth(&self.outputs, "output", output)?;
        let from = self.buffers.place(&self.store, loc, shape.elements());
        let parts = [(from.buffer, from.offset, from.elements)];
        self.count_read(from.elements);
        Ok(match shape.dtype() {
            DType::F32 => Host::new(shape, self.gpu.read(&parts).await?),
            DType::U32 => Host::labels(shape, self.gpu.read(&parts).await?),
        })
    }

    /// The outputs of the ring, in the order of its [`RingSpec`], of each of the steps `first..first + count`.
    ///
    /// # Errors
    /// [`Error::Argument`] for more steps than the ring holds.
    pub async fn read_ring(&self, first: u64, count: usize) -> Result<Vec<Vec<f32>>> {
        let Some(ring) = self.ring.as_ref().filter(|ring| count as u64 <= ring.capacity) else {
            let holds = self.ring.as_ref().map_or(0, |ring| ring.capacity);
            return Err(Error::argument("read_ring", format!("{count} steps asked for, but the ring holds {holds}")));
        };
        let width = ring.outputs.len();
        let start = first % ring.capacity;
        let before = (count as u64).min(ring.capacity - start) as usize;
        let mut parts = vec![(&ring.buffer, start * width as u64 * 4, before * width), (&ring.buffer, 0, (count - before) * width)];
        parts.retain(|part| part.2 > 0);
        self.count_read(count * width);
        let words: Vec<u32> = self.gpu.read(&parts).await?;
        let value = |(i, &word): (usize, &u32)| match self.outputs[ring.outputs[i]].1.dtype() {
            DType::F32 => f32::from_bits(word),
            DType::U32 => word as f32,
        };
        Ok(words.chunks_exact(width.max(1)).map(|row| row.iter().enumerate().map(value).collect()).collect())
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        Counters {
            submits: self.submits,
            dispatches: self.submits * self.dispatches.len() as u64,
            reads: self.counting.reads.load(Relaxed),
            bytes_uploaded: self.counting.bytes_uploaded.load(Relaxed),
            bytes_read: self.counting.bytes_read.load(Relaxed),
            allocations: self.allocations,
        }
    }
    /// Dispatches of a step.
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }
    /// Waits until all steps are done. Blocks.
    pub fn finish(&mut self) -> Result<()> {
        match self.in_flight.drain(..).next_back() {
            Some(newest) => self.gpu.wait(newest),
            None => self.gpu.check(),
        }
    }

    fn count_read(&self, words: usize) {
        self.counting.reads.fetch_add(1, Relaxed);
        self.counting.bytes_read.fetch_add(words as u64 * 4, Relaxed);
    }

    /// For tests: fills everything that a step has to write (slots, scratch, gradients) and every fence with `word`.
    pub fn fill_slots(&self, word: u32) -> Result<()> {
        let fence = self.buffers.fence;
        let fill = |buffer: &wgpu::Buffer, first: usize, count: usize| {
            let words = vec![word; count];
            self.gpu.queue.write_buffer(buffer, first as u64 * 4, bytemuck::cast_slice(&words));
        };
        for own in self.buffers.slots.iter().chain(&self.buffers.scratch) {
            fill(&own.buffer, 0, own.elements + fence);
        }
        for own in self.buffers.inputs.iter().chain(&self.buffers.constants) {
            fill(&own.buffer, own.elements, fence);
        }
        for range in &self.store.layout().ranges[..self.params] {
            fill(&self.store.grads[range.piece], range.start, range.len);
        }
        self.gpu.check()
    }

    /// For tests: the buffers whose fence is not all `word` any more, with the first element that changed.
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

impl Ring {
    async fn new(gpu: &Gpu, plan: &Plan, spec: &RingSpec) -> Result<Ring> {
        if spec.capacity == 0 {
            return Err(Error::argument("ring", "a ring of no steps holds nothing"));
        }
        for &i in &spec.outputs {
            let (_, shape) = nth(&plan.outputs, "output", i)?;
            if shape.elements() != 1 {
                return Err(Error::argument("ring", format!("output {i} is {shape}, not one number")));
            }
        }
        let bytes = (spec.capacity * spec.outputs.len().max(1)) as u64 * 4;
        let label = format!("ring of {} steps × {}", spec.capacity, spec.outputs.len());
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffers(&[(label, bytes)], usage).await?.remove(0);
        Ok(Ring { buffer, outputs: spec.outputs.clone(), capacity: spec.capacity as u64 })
    }
}
