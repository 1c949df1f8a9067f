//! Turns the steps of a plan into dispatches. For each pass it finds the tensors to bind, the division into windows and the
//! uniforms. [`needs`] does the same work as loading a plan, but makes nothing on the device.

use crate::{
    error::{Error, Result},
    gpu::{
        bind::{BufferRange, wanted},
        device::Gpu,
        dispatch::{Reach, Window, params, part},
        shader::{STEP_BYTES, Shader},
    },
    kernel::Pass,
    plan::{Loc, Phase, Plan, ROWS, Step},
};

/// A pass and the tensors that it binds.
struct BoundPass<'a> {
    /// The op with its shapes, place and layer. Errors and bind group labels use it.
    label: String,
    /// The names of the op and its kernel. Pipeline labels use it.
    name: String,
    /// The number of the step in the plan, without aliases.
    kernel: usize,
    step: &'a Step,
    pass: &'a Pass,
    /// The place and the number of elements of each tensor.
    tensors: Vec<(Loc, usize)>,
}

impl BoundPass<'_> {
    fn missing(&self, i: usize) -> Error {
        let (bind, file, name) = (&self.pass.binds[i], self.pass.source.name, &self.name);
        let why = format!("kernel {file} of {name} binds {:?} as `{}`, and there is no such tensor", bind.which, bind.name);
        Error::argument(&self.label, why)
    }

    /// Returns the buffer range of each tensor.
    fn places<'a>(&self, find: impl Fn(Loc, usize) -> Option<BufferRange<'a>>) -> Result<Vec<BufferRange<'a>>> {
        let found = self.tensors.iter().enumerate();
        let places = found.map(|(i, &(loc, n))| find(loc, n).ok_or_else(|| self.missing(i))).collect::<Result<Vec<BufferRange>>>()?;
        let bound = || self.pass.binds.iter().zip(&places);
        for (written, place) in bound().filter(|(bind, _)| bind.write) {
            if let Some((read, _)) = bound().find(|(bind, other)| !bind.write && other.buffer == place.buffer) {
                let (file, name) = (self.pass.source.name, &self.name);
                let why = format!("kernel {file} of {name} reads `{}` and writes `{}`, which are in one buffer", read.name, written.name);
                return Err(Error::argument(&self.label, why));
            }
        }
        Ok(places)
    }
}

/// Returns every pass of these steps, in order.
fn works(steps: &[Step]) -> Result<Vec<BoundPass<'_>>> {
    let mut all = Vec::new();
    for (kernel, step) in steps.iter().filter(|s| !s.is_alias()).enumerate().filter(|(_, s)| !s.is_exchange()) {
        let Some(chosen) = &step.kernel else {
            return Err(Error::argument(&step.label, "this step was planned for the CPU: it has no kernel"));
        };
        let name = format!("{} {}", step.name(), chosen.name);
        for pass in &chosen.passes {
            let mut work = BoundPass { label: step.title(), name: name.clone(), kernel, step, pass, tensors: Vec::new() };
            for (i, bind) in pass.binds.iter().enumerate() {
                let tensor = step.tensor(bind.which).ok_or_else(|| work.missing(i))?;
                work.tensors.push(tensor);
            }
            all.push(work);
        }
    }
    Ok(all)
}

/// One dispatch of a pass.
struct Job {
    work: usize,
    window: Window,
    /// Whether the pass has more than one dispatch.
    split: bool,
    /// The offset and the size of `struct Params` in bytes.
    params: (u64, u64),
}

impl Gpu {
    fn reach(&self) -> Reach {
        Reach { binding: self.caps().max_binding_bytes, groups: self.limits().max_compute_workgroups_per_dimension }
    }
    fn uniform_align(&self) -> u64 {
        self.limits().min_uniform_buffer_offset_alignment as u64
    }
    /// Returns the distance between two rows of the table of steps in bytes.
    pub(super) fn row_stride(&self) -> u64 {
        STEP_BYTES.next_multiple_of(self.uniform_align())
    }

    /// Returns the dispatches of all passes, and the words of a buffer that holds the `struct Params` of every dispatch.
    fn jobs(&self, works: &[BoundPass]) -> Result<(Vec<Job>, Vec<u32>)> {
        let (mut jobs, mut words) = (Vec::new(), Vec::<u32>::new());
        for (i, BoundPass { label, name, pass, tensors, .. }) in works.iter().enumerate() {
            let (need, limit) = (pass.binds.len() as u64, self.caps().max_bindings as u64);
            if need > limit {
                let what = format!("{label}: {name} (storage buffers bound at once)");
                return Err(Error::Limit { what, need, limit, advice: "use fewer inputs, or a kernel of several passes".into() });
            }
            let elements: Vec<usize> = tensors.iter().map(|tensor| tensor.1).collect();
            let windows = self.reach().windows(label, pass, &elements)?;
            for &window in &windows {
                let own = params(pass, window);
                words.resize((words.len() as u64 * 4).next_multiple_of(self.uniform_align()) as usize / 4, 0);
                let params = (words.len() as u64 * 4, own.len() as u64 * 4);
                jobs.push(Job { work: i, window, split: windows.len() > 1, params });
                words.extend(own);
            }
        }
        // A buffer is made even if there are no dispatches.
        words.resize(words.len().max(4), 0);
        self.check_size(&format!("params of {} dispatches", jobs.len()), words.len() as u64 * 4)?;
        Ok((jobs, words))
    }
}

/// Returns the bytes that the tables of a plan take on a device: the uniforms of the dispatches and the rows of the steps. The
/// buffers of the plan and of the layout are not counted. `fetch` lists the steps that fetch batches from data on the device.
///
/// # Errors
/// [`Error::Limit`] if loading the plan would give this error.
pub(crate) fn needs(gpu: &Gpu, plan: &Plan, fetch: &[Step]) -> Result<u64> {
    for (label, elements) in wanted(plan) {
        gpu.check_size(&label, elements as u64 * 4)?;
    }
    let uniforms = |steps| Ok(gpu.jobs(&works(steps)?)?.1.len() as u64 * 4);
    let fetched = if fetch.is_empty() { 0 } else { uniforms(fetch)? };
    Ok(uniforms(&plan.steps)? + ROWS as u64 * gpu.row_stride() + fetched)
}

/// A dispatch that is encoded again in each step.
pub(super) struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    /// Whether the dispatch reads the row of the step.
    step: bool,
    size: [u32; 3],
    pub phase: Phase,
    /// The number of the step in the plan, without aliases. The steps that fetch a batch have the last numbers.
    pub kernel: usize,
}

impl Dispatch {
    /// Encodes the dispatch. `at` is the offset of the step's row in the table.
    pub fn encode(&self, pass: &mut wgpu::ComputePass, rows: &wgpu::BindGroup, at: u32) {
        if self.step {
            pass.set_bind_group(1, rows, &[at]);
        }
        self.encode_alone(pass);
    }
    /// Encodes a dispatch that reads no row.
    pub fn encode_alone(&self, pass: &mut wgpu::ComputePass) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        let [x, y, z] = self.size;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Makes the dispatches of steps, with their pipelines, bind groups and uniform buffer. Also returns the size of the uniform
/// buffer in bytes.
pub(super) async fn lower<'a>(
    gpu: &Gpu,
    steps: &[Step],
    find: impl Fn(Loc, usize) -> Option<BufferRange<'a>>,
) -> Result<(Vec<Dispatch>, u64)> {
    let works = works(steps)?;
    let places = works.iter().map(|work| work.places(&find)).collect::<Result<Vec<_>>>()?;
    let (jobs, words) = gpu.jobs(&works)?;
    let shaders: Vec<Shader> =
        works.iter().map(|work| Shader { label: &work.name, pass: work.pass, unchecked: work.step.unchecked }).collect();
    let pipelines = gpu.pipelines(&shaders).await.into_iter().collect::<Result<Vec<_>>>()?;

    let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
    let bytes = words.len() as u64 * 4;
    let uniform = gpu.buffers(&[(format!("params of {} dispatches", jobs.len()), bytes)], usage).await?.remove(0);
    gpu.queue.write_buffer(&uniform, 0, bytemuck::cast_slice(&words));

    let reach = gpu.reach();
    let made = gpu.scoped("bind groups", |device| {
        let size = wgpu::BufferSize::new;
        let binding = |buffer, offset, bytes| wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size: size(bytes) });
        let entry = |binding, resource| wgpu::BindGroupEntry { binding, resource };
        let dispatches = jobs.iter().map(|job| {
            let (work, pipeline) = (&works[job.work], &pipelines[job.work]);
            let mut entries = vec![entry(0, binding(&uniform, job.params.0, job.params.1))];
            for (i, (bind, place)) in work.pass.binds.iter().zip(&places[job.work]).enumerate() {
                let (first, count) = part(bind.span, job.split, job.window, place.elements);
                let fenced = count + if first + count == place.elements { place.fence } else { 0 };
                let bound = if fenced as u64 * 4 <= reach.binding { fenced } else { count };
                entries.push(entry(i as u32 + 1, binding(place.buffer, place.offset + first as u64 * 4, bound as u64 * 4)));
            }
            let (label, layout) = (Some(work.label.as_str()), &pipeline.bindings);
            Dispatch {
                pipeline: pipeline.pipeline.clone(),
                group: device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries }),
                step: work.pass.step,
                size: reach.fold(work.pass, job.window),
                phase: work.step.phase,
                kernel: work.kernel,
            }
        });
        dispatches.collect()
    });
    Ok((made.await?, bytes))
}
