//! Which buffer each binding of a plan is.

use crate::{
    error::{Error, Result},
    gpu::{
        device::Gpu,
        exec::{ExecOptions, FENCE},
        feed::Resident,
        store::Store,
    },
    host::Data,
    kernel::{Pass, Which},
    plan::{Flat, Loc, Phase, Plan, Step, report::largest},
};

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
    /// The number of its step, in the order of the plan without aliases.
    pub kernel: usize,
    pub phase: Phase,
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
    /// Whether its gradients are those of micro-batches.
    micro: bool,
    /// Elements of each fence; 0 without guards.
    pub fence: usize,
}

/// Label and elements of each buffer of a plan's own: slots, inputs, constants.
pub(super) fn wanted(plan: &Plan) -> Vec<(String, usize)> {
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
    wanted
}

impl Buffers {
    pub async fn new(gpu: &Gpu, plan: &Plan, options: &ExecOptions<'_>) -> Result<Buffers> {
        let fence = if options.guards { FENCE } else { 0 };
        let wanted = wanted(plan);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let sizes: Vec<(String, u64)> = wanted.iter().map(|(label, n)| (label.clone(), 4 * (n + fence) as u64)).collect();
        let made = gpu.buffers(&sizes, usage).await?;
        let mut own = wanted.into_iter().zip(made).map(|((label, elements), buffer)| Own { label, elements, buffer });
        let mut next = |n: usize| own.by_ref().take(n).collect::<Vec<Own>>();
        let (slots, inputs, constants) = (next(plan.slots.len()), next(plan.inputs.len()), next(plan.constants.len()));
        for (own, host) in constants.iter().zip(&plan.constants) {
            gpu.queue.write_buffer(&own.buffer, 0, words_of(&host.data));
        }
        Ok(Buffers { slots, inputs, constants, micro: plan.micro, fence })
    }

    pub fn all(&self) -> impl Iterator<Item = &Own> {
        self.slots.iter().chain(&self.inputs).chain(&self.constants)
    }

    fn own<'a>(&self, own: &'a Own, elements: usize) -> Place<'a> {
        // A smaller tensor in a slot is followed by the rest of the slot, not by the fence.
        let fence = if elements == own.elements { self.fence } else { 0 };
        Place { buffer: &own.buffer, offset: 0, elements, fence }
    }

    /// Where a tensor of so many elements lies, if there is such a one; `data` is fetched from.
    pub fn place<'a>(&'a self, store: &'a Store, data: Option<&'a Resident>, loc: Loc, elements: usize) -> Option<Place<'a>> {
        let flat = |flat: Flat, i: usize| {
            let range = store.layout().ranges.get(i)?;
            Some(Place { buffer: store.piece(flat, range.piece)?, offset: range.start as u64 * 4, elements, fence: 0 })
        };
        let whole = |buffer: &'a wgpu::Buffer| Place { buffer, offset: 0, elements, fence: 0 };
        let own = |own: &'a Own| self.own(own, elements);
        match loc {
            Loc::Slot(i) => self.slots.get(i).map(own),
            Loc::Input(i) => self.inputs.get(i).map(own),
            Loc::Constant(i) => self.constants.get(i).map(own),
            Loc::Param(i) => flat(Flat::Weights, i),
            Loc::Grad(i) => flat(if self.micro { Flat::Micro } else { Flat::Grads }, i),
            Loc::Next(i) => flat(Flat::Next, i),
            Loc::Piece(flat, piece) => store.piece(flat, piece).map(whole),
            Loc::Control => Some(whole(&store.control)),
            Loc::Data(input, piece) => data?.piece(input, piece).map(whole),
            Loc::Order => Some(whole(data?.order())),
        }
    }

    /// Every pass of these steps, in order.
    pub fn work<'a>(&'a self, steps: &'a [Step], store: &'a Store, data: Option<&'a Resident>) -> Result<Vec<Work<'a>>> {
        let mut all = Vec::new();
        for (number, step) in steps.iter().filter(|s| !s.is_alias()).enumerate() {
            let Some(kernel) = &step.kernel else {
                return Err(Error::argument(
                    &step.label,
                    "this step has no kernel: it was planned for the CPU, or OpDef::kernels gives none for such a GPU",
                ));
            };
            let name = format!("{} {}", step.name(), kernel.name);
            for pass in &kernel.passes {
                let find = |which| step.tensor(which).and_then(|(loc, elements)| self.place(store, data, loc, elements));
                all.push(bind(step, &name, number, pass, find)?);
            }
        }
        Ok(all)
    }
}

fn bind<'a>(step: &Step, name: &str, kernel: usize, pass: &'a Pass, find: impl Fn(Which) -> Option<Place<'a>>) -> Result<Work<'a>> {
    let label = &step.title();
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
    Ok(Work { label: label.to_string(), name: name.to_string(), kernel, phase: step.phase, pass, places })
}

/// The bytes of a tensor.
pub(super) fn words_of(data: &Data<f32>) -> &[u8] {
    match data {
        Data::Float(v) => bytemuck::cast_slice(v),
        Data::Index(v) => bytemuck::cast_slice(v),
    }
}
