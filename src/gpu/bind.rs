//! The buffers of a plan, and the search for the buffer of a tensor.

use crate::{
    error::Result,
    gpu::{
        device::Gpu,
        exec::{ExecOptions, FENCE},
        feed::Resident,
        store::GpuStore,
    },
    host::Data,
    plan::{Flat, Loc, Plan, report::largest},
};

/// A range of a buffer that holds a tensor.
#[derive(Clone, Copy)]
pub(super) struct BufferRange<'a> {
    pub buffer: &'a wgpu::Buffer,
    /// The offset in bytes.
    pub offset: u64,
    pub elements: usize,
    /// The number of elements in the fence behind the tensor. A binding includes the fence: many drivers drop writes past a
    /// binding, and then the fence could not detect them.
    pub fence: usize,
}

/// A buffer that belongs to the plan, and its number of elements without the fence.
pub(super) struct Own {
    pub label: String,
    pub elements: usize,
    pub buffer: wgpu::Buffer,
}

/// All buffers that belong to the plan.
pub(super) struct Buffers {
    pub slots: Vec<Own>,
    pub inputs: Vec<Own>,
    pub constants: Vec<Own>,
    /// Whether the plan computes the gradients of micro-batches.
    micro: bool,
    /// The number of elements in each fence. It is 0 without guards.
    pub fence: usize,
}

/// Returns the label and the number of elements of each buffer of a plan: slots, inputs, constants.
pub(super) fn wanted(plan: &Plan) -> Vec<(String, usize)> {
    let mut wanted: Vec<(String, usize)> = Vec::new();
    // The label of an input or constant names the first op that uses it.
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

    fn own<'a>(&self, own: &'a Own, elements: usize) -> BufferRange<'a> {
        // A tensor that is smaller than its slot is followed by the rest of the slot, so it has no fence.
        let fence = if elements == own.elements { self.fence } else { 0 };
        BufferRange { buffer: &own.buffer, offset: 0, elements, fence }
    }

    /// Returns the range of a tensor with `elements` elements, or `None` if there is no such tensor. `data` is the data set
    /// that feeds the plan.
    pub fn place<'a>(&'a self, store: &'a GpuStore, data: Option<&'a Resident>, loc: Loc, elements: usize) -> Option<BufferRange<'a>> {
        let flat = |flat: Flat, i: usize| {
            let range = store.layout().ranges.get(i)?;
            Some(BufferRange { buffer: store.piece(flat, range.piece)?, offset: range.start as u64 * 4, elements, fence: 0 })
        };
        let whole = |buffer: &'a wgpu::Buffer| BufferRange { buffer, offset: 0, elements, fence: 0 };
        let own = |own: &'a Own| self.own(own, elements);
        match loc {
            Loc::Slot(i) => self.slots.get(i).map(own),
            Loc::Input(i) => self.inputs.get(i).map(own),
            Loc::Constant(i) => self.constants.get(i).map(own),
            Loc::Param(i) => flat(Flat::Weights, i),
            Loc::Grad(i) => flat(if self.micro { Flat::Micro } else { Flat::Grads }, i),
            Loc::Next(i) => flat(Flat::Next, i),
            Loc::Of(Flat::State(k), i) => {
                let (range, _) = (*store.layout().states.get(k)?.ranges.get(i)?)?;
                Some(BufferRange { buffer: store.piece(Flat::State(k), range.piece)?, offset: range.start as u64 * 4, elements, fence: 0 })
            }
            Loc::Of(of, i) => flat(of, i),
            Loc::Piece(flat, piece) => store.piece(flat, piece).map(whole),
            Loc::Part(flat, part) => {
                let part = store.layout().parts.get(part)?;
                Some(BufferRange { buffer: store.piece(flat, part.piece)?, offset: part.start as u64 * 4, elements, fence: 0 })
            }
            Loc::Control => Some(whole(&store.control)),
            Loc::Data(input, piece) => data?.piece(input, piece).map(whole),
            Loc::Order => Some(whole(data?.order())),
        }
    }
}

/// Returns the bytes of a tensor.
pub(super) fn words_of(data: &Data<f32>) -> &[u8] {
    match data {
        Data::Float(v) => bytemuck::cast_slice(v),
        Data::Index(v) => bytemuck::cast_slice(v),
    }
}
