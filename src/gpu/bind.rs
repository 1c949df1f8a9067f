//! Which buffer each binding of a plan is.

use crate::{
    error::{Error, Result},
    gpu::{
        device::Gpu,
        exec::{ExecOptions, FENCE, UpdatePass},
        store::{GUARD, Store},
    },
    host::Data,
    kernel::{Pass, Which},
    plan::{Loc, Plan, Step, report::largest},
};

/// How a kernel of an update names the state after the weights, the gradients and the guard…
const FIRST_STATE: usize = 3;
/// … and the loss.
pub(super) const LOSS: usize = 100;

/// A range of a buffer that holds a tensor.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub buffer: &'a wgpu::Buffer,
    /// In bytes.
    pub offset: u64,
    pub elements: usize,
    /// Elements of the fence that follows it, which bindings cover as well: many drivers drop what a shader writes
    /// past its binding, and then the fence would find nothing.
    pub fence: usize,
}

/// A pass and the tensors it binds.
pub(super) struct Work<'a> {
    /// The op with its shapes, place and layer, for errors and for labels of bind groups.
    pub label: String,
    /// Op and kernel, for labels of pipelines.
    pub name: String,
    /// Its number: ops in the order of the plan, then updates.
    pub kernel: usize,
    pub pass: &'a Pass,
    pub places: Vec<Place<'a>>,
}

/// A buffer of the plan's own, and how many elements of it are before its fence.
pub(super) struct Own {
    pub label: String,
    pub elements: usize,
    pub buffer: wgpu::Buffer,
}

/// All buffers of the plan's own.
pub(super) struct Buffers {
    pub slots: Vec<Own>,
    pub inputs: Vec<Own>,
    pub constants: Vec<Own>,
    /// Of the update passes.
    pub scratch: Vec<Own>,
    /// Elements of each fence; 0 without guards.
    pub fence: usize,
}

/// Elements of each scratch buffer that the updates share.
pub(super) fn update_scratch(updates: &[UpdatePass]) -> Vec<usize> {
    let mut scratch: Vec<usize> = Vec::new();
    for UpdatePass { kernel, .. } in updates {
        for (k, &n) in kernel.scratch.iter().enumerate() {
            scratch.resize(scratch.len().max(k + 1), 0);
            scratch[k] = scratch[k].max(n);
        }
    }
    scratch
}

/// Label and elements of each buffer of a plan's own: slots, inputs, constants, scratch of the updates.
pub(super) fn wanted(plan: &Plan, updates: &[UpdatePass]) -> Vec<(String, usize)> {
    let mut wanted: Vec<(String, usize)> = Vec::new();
    // Where a tensor is not the result of an op, the op that takes it tells the line.
    let taken = |loc: Loc| {
        let step = plan.steps.iter().find(|s| s.inputs.iter().any(|x| x.0 == loc));
        step.map_or(String::new(), |s| format!(" of {}", s.title()))
    };
    let slots = plan.slots.iter().zip(largest(plan)).enumerate();
    wanted.extend(slots.map(|(i, (s, of))| (format!("{of} (slot {i} [{}])", s.elements), s.elements)));
    let inputs = plan.inputs.iter().enumerate();
    wanted.extend(inputs.map(|(i, d)| (format!("input {i} {}{}", d.shape, taken(Loc::Input(i))), d.shape.elements())));
    let constants = plan.constants.iter().enumerate();
    wanted.extend(constants.map(|(i, c)| (format!("constant {i} {}{}", c.shape, taken(Loc::Constant(i))), c.shape.elements())));
    wanted.extend(update_scratch(updates).into_iter().enumerate().map(|(i, n)| (format!("update scratch {i} [{n}]"), n)));
    wanted
}

impl Buffers {
    pub async fn new(gpu: &Gpu, plan: &Plan, options: &ExecOptions<'_>) -> Result<Buffers> {
        let fence = if options.guards { FENCE } else { 0 };
        let wanted = wanted(plan, options.updates);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let sizes: Vec<(String, u64)> = wanted.iter().map(|(label, n)| (label.clone(), 4 * (n + fence) as u64)).collect();
        let made = gpu.buffers(&sizes, usage).await?;
        let mut own = wanted.into_iter().zip(made).map(|((label, elements), buffer)| Own { label, elements, buffer });
        let mut next = |n: usize| own.by_ref().take(n).collect::<Vec<Own>>();
        let (slots, inputs, constants) = (next(plan.slots.len()), next(plan.inputs.len()), next(plan.constants.len()));
        let scratch = next(usize::MAX);
        for (own, host) in constants.iter().zip(&plan.constants) {
            gpu.queue.write_buffer(&own.buffer, 0, words_of(&host.data));
        }
        Ok(Buffers { slots, inputs, constants, scratch, fence })
    }

    pub fn all(&self) -> impl Iterator<Item = &Own> {
        self.slots.iter().chain(&self.inputs).chain(&self.constants).chain(&self.scratch)
    }

    fn own<'a>(&self, own: &'a Own, elements: usize) -> Place<'a> {
        // A smaller tensor in a slot is followed by the rest of the slot, not by the fence.
        let fence = if elements == own.elements { self.fence } else { 0 };
        Place { buffer: &own.buffer, offset: 0, elements, fence }
    }

    /// Where a tensor of so many elements lies.
    pub fn place<'a>(&'a self, store: &'a Store, loc: Loc, elements: usize) -> Place<'a> {
        let flat = |buffers: &'a [wgpu::Buffer], i: usize| {
            let range = store.layout().ranges[i];
            Place { buffer: &buffers[range.piece], offset: range.start as u64 * 4, elements, fence: 0 }
        };
        let own = |buffers: &'a [Own], i: usize| self.own(&buffers[i], elements);
        match loc {
            Loc::Slot(i) => own(&self.slots, i),
            Loc::Input(i) => own(&self.inputs, i),
            Loc::Constant(i) => own(&self.constants, i),
            Loc::Param(i) => flat(&store.params, i),
            Loc::Grad(i) => flat(&store.grads, i),
        }
    }

    /// Every pass of the plan and of the updates, in order.
    pub fn work<'a>(&'a self, plan: &'a Plan, store: &'a Store, updates: &'a [UpdatePass]) -> Result<Vec<Work<'a>>> {
        let (mut all, mut number) = (Vec::new(), 0);
        for step in plan.steps.iter().filter(|s| !s.op.is_alias()) {
            let Some(kernel) = &step.kernel else {
                return Err(Error::argument(&step.label, "this step was planned for the CPU: it has no kernel"));
            };
            let name = format!("{} {}", step.op.name(), kernel.name);
            for pass in &kernel.passes {
                all.push(bind(&step.title(), &name, number, pass, |which| self.of_step(store, step, &kernel.scratch, which))?);
            }
            number += 1;
        }
        for update in updates {
            let label = update.label(store.layout());
            for pass in &update.kernel.passes {
                let name = format!("update {}", update.kernel.name);
                all.push(bind(&label, &name, number, pass, |which| self.of_update(plan, store, update, which))?);
            }
            number += 1;
        }
        Ok(all)
    }

    fn of_step<'a>(&'a self, store: &'a Store, step: &Step, scratch: &[usize], which: Which) -> Option<Place<'a>> {
        Some(match which {
            Which::In(i) => step.inputs.get(i).map(|&(loc, shape)| self.place(store, loc, shape.elements()))?,
            Which::Out => self.place(store, step.output.0, step.output.1.elements()),
            Which::Scratch(k) => self.place(store, Loc::Slot(*step.scratch.get(k)?), *scratch.get(k)?),
        })
    }

    fn of_update<'a>(&'a self, plan: &Plan, store: &'a Store, update: &UpdatePass, which: Which) -> Option<Place<'a>> {
        let elements = store.layout().pieces[update.piece];
        let flat = |buffers: &'a [wgpu::Buffer]| Place { buffer: &buffers[update.piece], offset: 0, elements, fence: 0 };
        Some(match which {
            Which::In(0) => flat(&store.params),
            Which::In(1) => flat(&store.grads),
            Which::In(2) => Place { buffer: &store.guard, offset: 0, elements: GUARD, fence: 0 },
            Which::In(LOSS) => plan.outputs.first().map(|&(loc, shape)| self.place(store, loc, shape.elements()))?,
            Which::In(i) => flat(store.states.get(i.checked_sub(FIRST_STATE)?)?),
            Which::Scratch(k) => self.own(&self.scratch[k], *update.kernel.scratch.get(k)?),
            Which::Out => return None,
        })
    }
}

fn bind<'a>(label: &str, name: &str, kernel: usize, pass: &'a Pass, find: impl Fn(Which) -> Option<Place<'a>>) -> Result<Work<'a>> {
    let mut places = Vec::with_capacity(pass.binds.len());
    for bind in &pass.binds {
        let why =
            || format!("kernel {} of {name} binds {:?} as `{}`, and there is no such tensor", pass.source.name, bind.which, bind.name);
        places.push(find(bind.which).ok_or_else(|| Error::argument(label, why()))?);
    }
    for (written, place) in pass.binds.iter().zip(&places).filter(|(b, _)| b.write) {
        if let Some((read, _)) = pass.binds.iter().zip(&places).find(|(b, p)| !b.write && p.buffer == place.buffer) {
            let why = format!(
                "kernel {} of {name} reads `{}` and writes `{}`, which are in one buffer",
                pass.source.name, read.name, written.name
            );
            return Err(Error::argument(label, why));
        }
    }
    Ok(Work { label: label.to_string(), name: name.to_string(), kernel, pass, places })
}

/// The bytes of a tensor.
pub(super) fn words_of(data: &Data<f32>) -> &[u8] {
    match data {
        Data::Float(v) => bytemuck::cast_slice(v),
        Data::Index(v) => bytemuck::cast_slice(v),
    }
}
