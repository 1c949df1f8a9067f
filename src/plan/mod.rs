//! The plan: what a graph becomes once, and what every mini-batch replays. Plain data, no wgpu type.
//!
//! `Ir::new` takes what the outputs need out of the graph, `fuse` composes elementwise code,
//! `memory::plan` gives every tensor its buffer, and [`Plan::new`] puts it all into one list of steps.

pub(crate) mod fuse;
pub(crate) mod ir;
pub(crate) mod memory;
pub(crate) mod report;

pub use report::{LayerMemory, Memory};

use crate::{
    choice::Choices,
    error::{Error, Place, Result},
    graph::{InputDef, Node, NodeKind, OTHER_GRAPH, ParamDef, Tensor},
    host::Host,
    kernel::{Caps, Kernel, Which},
    ops::{
        Op,
        map::{Expr, Fun, Inst, Map},
    },
    shape::{DType, Shape},
};
use ir::Ir;
use std::{fmt, sync::Arc};

/// The phases of a training step, in their order. A batch that is computed in several micro-batches goes through `Compute`, `Reduce` and
/// `Assign` with each of them, and through the others with the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A batch is fetched from data on the device.
    Fetch,
    /// Forward and backward.
    Compute,
    /// Several gradients become one: those of micro-batches are added up.
    Reduce,
    /// Whether all is finite; the norm of the gradients.
    Check,
    /// Weights and the optimizer's states change.
    Update,
    /// State that the model assigns changes.
    Assign,
}

impl Phase {
    /// Whether a micro-batch that others follow goes through it.
    pub(crate) fn is_of_each(self) -> bool {
        !matches!(self, Phase::Check | Phase::Update)
    }
}

/// Steps that one submit makes at most, for each of which there is a row of hyperparameters.
pub(crate) const ROWS: usize = 64;

/// The flat buffers, each in pieces: see [`crate::params::Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flat {
    /// The weights, and state.
    Weights,
    /// The gradients that the update takes.
    Grads,
    /// The gradients of one micro-batch.
    Micro,
    /// A state of the optimizer.
    State(usize),
    /// Values that state is to become.
    Next,
}

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loc {
    /// A buffer of activations, reused by lifetime.
    Slot(usize),
    /// The range of parameter `i` in the flat buffer of weights.
    Param(usize),
    /// The range of parameter `i` in the flat buffer of gradients; in a plan for micro-batches, in that of theirs.
    Grad(usize),
    /// The range of the state `i` among the values that state is to become.
    Next(usize),
    /// The buffer of input `i`.
    Input(usize),
    /// The buffer of constant `i`.
    Constant(usize),
    /// A whole piece of a flat buffer.
    Piece(Flat, usize),
    /// What steps decide on the device, and the tables of the update.
    Control,
    /// A piece of data on the device, from which an input is fetched: the number of the input and of the piece.
    Data(usize, usize),
    /// The order of the samples of that data.
    Order,
}

/// What a step of a plan does.
#[derive(Clone, Debug)]
pub enum Work {
    /// An op of the graph.
    Op(Arc<dyn Op>),
    /// A part of a batch is fetched from data on the device.
    Fetch,
    /// A part of the optimizer's update, of the piece of that number of the flat buffers.
    Update(Update, usize),
}

/// The parts of an update, each of one piece of the flat buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Update {
    /// A micro-batch's gradients are added to those before.
    Accumulate,
    /// The norm of the gradients; after the last piece, whether the step counts.
    Check,
    /// The norms of each parameter and its ratio, if the rule has one.
    Norms,
    /// Whether state that is to be assigned is finite.
    TryAssign,
    /// Whether the update would overflow; after a bad step, which gradients are not finite.
    Try,
    /// Weights and states change.
    Apply,
    /// State becomes what was computed for it.
    Assign,
}

/// One op of the plan, or a part of the update.
#[derive(Clone, Debug)]
pub struct Step {
    /// When in a training step it runs.
    pub phase: Phase,
    /// Op, shapes and place, e.g. `matmul [64, 784] × [512, 784] → [64, 512] (mnist.rs:14)`.
    pub label: String,
    /// The layer that it is part of, e.g. `fc1`, also in its gradient; empty before the first layer.
    pub layer: String,
    /// What is done.
    pub work: Work,
    /// What is read; of an update, what is written as well.
    pub inputs: Vec<(Loc, Shape)>,
    /// What is written, but for updates.
    pub output: (Loc, Shape),
    /// The slot of each scratch buffer of the kernel.
    pub scratch: Vec<usize>,
    /// The chosen kernel; `None` in a plan for the CPU, and for an alias.
    pub kernel: Option<Kernel>,
    /// Whether the WGSL of the kernel is compiled without checks: see [`Checks`](crate::kernel::Checks).
    pub(crate) unchecked: bool,
}

impl Step {
    /// Label and layer: what an error names.
    pub(crate) fn title(&self) -> String {
        let Step { label, layer, .. } = self;
        if layer.is_empty() { label.clone() } else { format!("{label}, layer {layer}") }
    }
    /// The op of the graph, unless this is a part of the update.
    pub fn op(&self) -> Option<&Arc<dyn Op>> {
        match &self.work {
            Work::Op(op) => Some(op),
            _ => None,
        }
    }
    /// The op's name; `feed`, or `update` for the optimizer.
    pub fn name(&self) -> &'static str {
        match &self.work {
            Work::Op(op) => op.name(),
            Work::Fetch => "feed",
            Work::Update(..) => "update",
        }
    }
    /// Whether nothing is done: the output is the input's memory.
    pub fn is_alias(&self) -> bool {
        self.op().is_some_and(|op| op.is_alias())
    }
    /// Floating-point operations; 0 for an update, where they are not counted.
    pub fn flops(&self) -> u64 {
        self.op().map_or(0, |op| op.flops(&self.shapes(), self.output.1))
    }
    /// Bytes that it must read and write, whatever its kernel does.
    pub fn bytes(&self) -> u64 {
        let update = match &self.work {
            Work::Op(op) => return op.bytes(&self.shapes(), self.output.1),
            Work::Fetch => return 2 * self.output.1.bytes(),
            Work::Update(update, _) => update,
        };
        // In nearly all steps a trial finds in the guard that there is nothing to try. An update reads all that it
        // writes, but for state that it assigns.
        let each = |&(loc, shape): &(Loc, Shape)| match (update, loc) {
            (Update::Try, Loc::Piece(..)) => 0,
            // Its tables are read by few.
            (_, Loc::Control) => 0,
            (Update::Apply, Loc::Piece(Flat::Weights | Flat::State(_), _)) | (Update::Accumulate, Loc::Piece(Flat::Grads, _)) => {
                2 * shape.bytes()
            }
            _ => shape.bytes(),
        };
        self.inputs.iter().map(each).sum()
    }
    /// The tensor behind a binding of its kernel: where it is, and its elements.
    pub(crate) fn tensor(&self, which: Which) -> Option<(Loc, usize)> {
        let of = |&(loc, shape): &(Loc, Shape)| (loc, shape.elements());
        match which {
            Which::In(i) => self.inputs.get(i).map(of),
            Which::Out => Some(of(&self.output)),
            Which::Scratch(k) => Some((Loc::Slot(*self.scratch.get(k)?), *self.kernel.as_ref()?.scratch.get(k)?)),
        }
    }
    fn shapes(&self) -> Vec<Shape> {
        self.inputs.iter().map(|i| i.1).collect()
    }
}

/// A buffer for activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Of the largest tensor that lives here.
    pub elements: usize,
    /// Of all tensors that live here, on the CPU device; a GPU's buffers hold words.
    pub dtype: DType,
}

/// A lowered graph.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The model's parameters, by the numbers of [`Loc::Param`] and [`Loc::Grad`].
    pub params: Vec<ParamDef>,
    /// What is uploaded for each run.
    pub inputs: Vec<InputDef>,
    /// What is uploaded once.
    pub constants: Vec<Arc<Host<f32>>>,
    /// Buffers of activations and of scratch.
    pub slots: Vec<Slot>,
    /// What is run, in order.
    pub steps: Vec<Step>,
    /// What can be read after a run.
    pub outputs: Vec<(Loc, Shape)>,
    /// Whether [`Loc::Grad`] are the gradients of a micro-batch, which are added to those before.
    pub micro: bool,
    /// Groups of the optimizer, for each of which a step has a row of hyperparameters; none without an update.
    pub groups: usize,
    /// What is wrong with running it before a step was made on its parameters, if anything is.
    pub untrained: Option<Error>,
    /// Bytes of activations if every tensor had a buffer of its own.
    pub unplanned_bytes: u64,
}

/// How a graph is lowered.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The GPU's abilities, or `None` for the CPU device.
    pub caps: Option<Caps>,
    /// Take the candidate of this number (or the last one) of every op: 0 is the portable one. `None`: the one that
    /// `choices` has, else the one expected fastest on such a device.
    pub candidate: Option<usize>,
    /// What was measured on the device.
    pub choices: Option<Arc<Choices>>,
    /// Compose elementwise code.
    pub fuse: bool,
    /// Let activations share memory.
    pub reuse: bool,
}

impl PlanOptions {
    /// Everything on, for a GPU (with its abilities) or the CPU.
    pub fn new(caps: Option<Caps>) -> PlanOptions {
        PlanOptions { caps, candidate: None, choices: None, fuse: true, reuse: true }
    }
}

/// Tensors beside the output that one op of the CPU device may read: a bound for fusion only.
pub(crate) const CPU_INPUTS: usize = 16;

/// A graph between fusion and the choice of kernels: here they can be measured.
pub(crate) struct Draft {
    ir: Ir,
    /// Nodes that are computed into the flat buffers.
    grads: Vec<(usize, Loc)>,
    outputs: usize,
    untrained: Option<Error>,
}

impl Draft {
    /// The first half of [`Plan::new`]. Of `grads`, which are for all parameters or for none, one that is `None` is not computed.
    pub fn new(outputs: &[Tensor], grads: &[Option<Tensor>], options: &PlanOptions) -> Result<Draft> {
        let Some(first) = outputs.first() else {
            return Err(Error::argument("outputs", "a plan needs at least one"));
        };
        let graph = first.graph();
        graph.check()?;
        let all: Vec<Tensor> = outputs.iter().chain(grads.iter().flatten()).copied().collect();
        if all.iter().any(|t| !std::ptr::eq(t.graph(), graph)) {
            return Err(Error::argument("outputs", OTHER_GRAPH));
        }
        let params = graph.inner.borrow().params.clone();
        let fits = |(grad, param): (&Option<Tensor>, &ParamDef)| grad.is_none_or(|grad| grad.shape() == param.shape);
        let all_fit = grads.len() == params.len() && grads.iter().zip(&params).all(fits);
        if !grads.is_empty() && !all_fit {
            return Err(Error::argument("gradients", "a plan needs one for each parameter, in their order and of their shapes, or none"));
        }
        let ir = Ir::new(graph, &all);
        // The output and, in a step with random numbers, nothing more: inputs are what is left.
        let max_inputs = options.caps.map_or(CPU_INPUTS, |c| c.max_bindings.saturating_sub(1).clamp(3, CPU_INPUTS));
        let mut ir = if options.fuse { fuse::fuse(&ir, max_inputs) } else { ir };
        if !grads.is_empty() {
            keep_outputs(&mut ir, outputs.len());
        }
        let loc = |(i, param): (usize, &ParamDef)| if param.trained { Loc::Grad(i) } else { Loc::Next(i) };
        let locs = params.iter().enumerate().map(loc).zip(grads).filter(|(_, grad)| grad.is_some()).map(|(loc, _)| loc);
        let grads = own_grads(&mut ir, outputs.len(), locs);
        let untrained = graph.inner.borrow().untrained.clone();
        Ok(Draft { ir, grads, outputs: outputs.len(), untrained })
    }

    /// Every op that needs a kernel, with the shapes of its inputs and of its output, and its line.
    pub fn ops(&self) -> impl Iterator<Item = (&Arc<dyn Op>, Vec<Shape>, Shape, Place)> {
        let op = |id: usize| {
            let (op, node) = (self.ir.op(id).filter(|op| !op.is_alias())?, &self.ir.nodes[id]);
            Some((op, self.ir.shapes(id), node.shape, node.place))
        };
        (0..self.ir.nodes.len()).filter_map(op)
    }

    /// Chooses kernels and plans memory.
    pub fn lower(self, options: &PlanOptions) -> Plan {
        let Draft { ir, grads, outputs, untrained } = self;
        let (ir, grads) = (&ir, &grads[..]);
        let kernels: Vec<Option<Kernel>> = (0..ir.nodes.len()).map(|id| choose(ir, id, options)).collect();
        let scratch: Vec<Vec<usize>> = kernels.iter().map(|k| k.as_ref().map_or(Vec::new(), |k| k.scratch.clone())).collect();
        let memory = memory::plan(ir, grads, &scratch, options.reuse, options.caps.is_none());
        let mut plan = Plan { params: ir.params.clone(), inputs: ir.inputs.clone(), untrained, ..Plan::default() };
        for (id, (node, kernel)) in ir.nodes.iter().zip(kernels).enumerate() {
            match &node.kind {
                NodeKind::Constant(value) => plan.constants.push(value.clone()),
                NodeKind::Op(op) => plan.steps.push(Step {
                    phase: Phase::Compute,
                    label: label(ir, id),
                    layer: node.layer.map_or(String::new(), |first| ir.params[first].layer().to_string()),
                    work: Work::Op(op.clone()),
                    inputs: node.inputs.iter().map(|&i| (memory.locs[i], ir.nodes[i].shape)).collect(),
                    output: (memory.locs[id], node.shape),
                    scratch: memory.scratch[id].clone(),
                    kernel,
                    unchecked: op.is_unchecked(),
                }),
                _ => {}
            }
        }
        plan.outputs = ir.outputs[..outputs].iter().map(|&o| (memory.locs[o], ir.nodes[o].shape)).collect();
        plan.slots = memory.slots;
        plan.unplanned_bytes = memory::bytes(&memory::plan(ir, grads, &scratch, false, true).slots);
        plan
    }
}

impl Plan {
    /// Lowers what `outputs` need. `grads` gives for each parameter the tensor that is its gradient; it is computed
    /// into the flat buffer of gradients.
    pub fn new(outputs: &[Tensor], grads: &[Tensor], options: &PlanOptions) -> Result<Plan> {
        let grads: Vec<Option<Tensor>> = grads.iter().copied().map(Some).collect();
        Ok(Draft::new(outputs, &grads, options)?.lower(options))
    }

    /// Adds the steps of an update, and gives memory to their kernels: slots that hold nothing any more once the graph is
    /// computed, or new ones. `groups` is the number of rows of hyperparameters.
    pub fn append(&mut self, steps: Vec<Step>, groups: usize) {
        self.groups = groups;
        self.micro = steps.iter().any(|step| step.phase == Phase::Reduce);
        let kept: Vec<usize> = self.outputs.iter().filter_map(|o| if let Loc::Slot(i) = o.0 { Some(i) } else { None }).collect();
        for mut step in steps {
            for &elements in step.kernel.iter().flat_map(|kernel| &kernel.scratch) {
                let free = |i: &usize| !kept.contains(i) && !step.scratch.contains(i) && self.slots[*i].elements >= elements;
                let smallest = (0..self.slots.len()).filter(free).min_by_key(|&i| self.slots[i].elements);
                step.scratch.push(smallest.unwrap_or_else(|| {
                    self.slots.push(Slot { elements, dtype: DType::F32 });
                    self.slots.len() - 1
                }));
                self.unplanned_bytes += elements as u64 * 4;
            }
            self.steps.push(step);
        }
    }

    /// Renumbers the parameters to those of `known`, by name.
    ///
    /// # Errors
    /// A parameter that is not there, or in another shape.
    pub(crate) fn bind_params(&mut self, known: &[ParamDef]) -> Result<()> {
        let mut at = Vec::with_capacity(self.params.len());
        for p in &self.params {
            match known.iter().position(|k| k.name == p.name) {
                Some(i) if known[i].shape == p.shape && known[i].trained == p.trained => at.push(i),
                Some(i) if known[i].trained != p.trained => {
                    let is = |trained| if trained { "trained" } else { "state" };
                    let why = format!("{} here, but {} in the trainer", is(p.trained), is(known[i].trained));
                    return Err(Error::Parameter { name: p.name.clone(), why });
                }
                Some(i) => {
                    return Err(Error::Parameter {
                        name: p.name.clone(),
                        why: format!("{} here, but {} in the trainer", p.shape, known[i].shape),
                    });
                }
                None => return Err(Error::Parameter { name: p.name.clone(), why: "the trainer has none of that name".into() }),
            }
        }
        let renumber = |loc: &mut Loc| match loc {
            Loc::Param(i) | Loc::Grad(i) | Loc::Next(i) => *i = at[*i],
            _ => {}
        };
        for step in &mut self.steps {
            step.inputs.iter_mut().for_each(|(loc, _)| renumber(loc));
            renumber(&mut step.output.0);
        }
        self.outputs.iter_mut().for_each(|(loc, _)| renumber(loc));
        self.params = known.to_vec();
        Ok(())
    }

    /// Bytes of activations.
    pub(crate) fn activation_bytes(&self) -> u64 {
        memory::bytes(&self.slots)
    }
    /// Floating-point operations of one run.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(Step::flops).sum()
    }
}

/// A line per step: what a plan does, for people and for tests.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let inputs: Vec<String> = self.inputs.iter().map(|(l, s)| format!("{l:?} {s}")).collect();
        let (kernel, (to, shape)) = (self.kernel.as_ref().map_or("", |k| k.name), self.output);
        let text = self.op().and_then(|op| op.as_map()).map_or(String::new(), |m| format!(" {}", m.expr));
        match self.work {
            Work::Op(_) => write!(f, "{} {kernel}{text}: {} → {to:?} {shape}", self.name(), inputs.join(", ")),
            Work::Fetch => write!(f, "feed: {} → {to:?} {shape}", inputs.join(", ")),
            Work::Update(..) => write!(f, "{}: {}", self.label, inputs.join(", ")),
        }
    }
}

fn label(ir: &Ir, id: usize) -> String {
    let node = &ir.nodes[id];
    let shapes: Vec<String> = node
        .inputs
        .iter()
        .map(|&i| match &ir.nodes[i].kind {
            NodeKind::Param(p) => format!("{} {}", ir.params[*p].name, ir.nodes[i].shape),
            _ => ir.nodes[i].shape.to_string(),
        })
        .collect();
    let name = ir.op(id).map_or("", |op| op.name());
    format!("{name} {} → {} ({}:{})", shapes.join(" × "), node.shape, node.place.file(), node.place.line())
}

/// The kernel of a node: the first candidate is portable, the last one expected fastest on such a device, and one of them
/// may have been measured to be.
fn choose(ir: &Ir, id: usize, options: &PlanOptions) -> Option<Kernel> {
    let (caps, op) = (options.caps?, ir.op(id)?);
    let (x, y) = (ir.shapes(id), ir.nodes[id].shape);
    let mut kernels = if op.is_alias() { Vec::new() } else { op.kernels(&x, y, &caps) };
    match (options.candidate, &options.choices) {
        (Some(candidate), _) => kernels.truncate(candidate + 1),
        (None, Some(choices)) if kernels.len() > 1 => {
            let chosen = choices.kernel(&**op, &x, y, &kernels);
            kernels.truncate(chosen.map_or(kernels.len(), |i| i + 1));
        }
        _ => {}
    }
    kernels.pop()
}

/// Copies the outputs that are parameters: they are read after the update, and are those from before it.
fn keep_outputs(ir: &mut Ir, outputs: usize) {
    for o in 0..outputs {
        let mut root = ir.outputs[o];
        while ir.op(root).is_some_and(|op| op.is_alias()) {
            root = ir.nodes[root].inputs[0];
        }
        if let NodeKind::Param(_) = ir.nodes[root].kind {
            ir.outputs[o] = copy(ir, ir.outputs[o]);
        }
    }
}

/// A new node of the same value.
fn copy(ir: &mut Ir, id: usize) -> usize {
    let same = Map::new(Expr::call(Fun::Identity, &[Inst::Input(0)]));
    ir.push(Node { kind: NodeKind::Op(Arc::new(same)), inputs: vec![id], ..ir.nodes[id].clone() })
}

/// Makes every gradient a node of its own that nothing else reads, so that it can be computed in place in the flat
/// buffer: where that is not so (a shared gradient, an input, a constant) it is copied. Returns each node with its place.
fn own_grads(ir: &mut Ir, outputs: usize, locs: impl Iterator<Item = Loc>) -> Vec<(usize, Loc)> {
    let uses = ir.uses();
    (outputs..ir.outputs.len())
        .zip(locs)
        .map(|(o, loc)| {
            // Through aliases to the node that computes the values.
            let mut id = ir.outputs[o];
            while uses[id] == 1 && ir.op(id).is_some_and(|op| op.is_alias()) {
                id = ir.nodes[id].inputs[0];
            }
            let owned = uses[id] == 1 && ir.op(id).is_some_and(|op| !op.is_alias());
            if !owned {
                id = copy(ir, ir.outputs[o]);
                ir.outputs[o] = id;
            }
            (id, loc)
        })
        .collect()
}
