//! The plan. A graph is lowered to a plan once, and every mini-batch runs the plan. A plan is plain data and contains no wgpu
//! type.
//!
//! `Ir::new` takes the nodes that the outputs need out of the graph. `fuse` composes elementwise nodes. `memory::plan` gives
//! every tensor a buffer. [`Plan::new`] puts the result into one list of steps.

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
        all_gather::is_exchange,
        map::{Expr, Fun, Inst, Map},
    },
    shape::{DType, Shape},
};
use ir::Ir;
use std::{fmt, sync::Arc};

/// The phases of a training step, in their order. If a batch is computed in several micro-batches, each micro-batch goes
/// through `Compute`, `Reduce` and `Assign`. The other phases run with the last micro-batch only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Fetches a batch from data on the device.
    Fetch,
    /// The forward and the backward pass.
    Compute,
    /// Adds the gradients of a micro-batch to the sum of the gradients before.
    Reduce,
    /// Checks that all numbers are finite, and computes the norm of the gradients.
    Check,
    /// Updates the weights and the optimizer's states.
    Update,
    /// Assigns the model's new state.
    Assign,
    /// Measures the norms of the parameters, in the steps that want them. A part of it runs before the update.
    Measure,
}

/// Which phases a run of a plan goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phases {
    /// Whether more micro-batches of the step follow. The check and the update are then left out.
    pub more: bool,
    /// Whether the step measures norms.
    pub measures: bool,
    /// The half of a step of ranks that share the update.
    pub half: Option<Half>,
}

/// The halves of the update of a step, which are runs of their own if [ranks share it](crate::train::Shard::State). Between them the ranks
/// decide together whether the step counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// The check, with the trial.
    Check,
    /// The update and all that follows it.
    Update,
}

impl Phases {
    /// Returns whether the run goes through this phase.
    pub fn have(self, phase: Phase) -> bool {
        match phase {
            Phase::Check if self.half == Some(Half::Update) => false,
            Phase::Update | Phase::Measure if self.half == Some(Half::Check) => false,
            Phase::Check | Phase::Update => !self.more,
            Phase::Measure => !self.more && self.measures,
            _ => true,
        }
    }
}

/// The maximum number of training steps in one submit. Each of them has a row of hyperparameters for each group.
pub(crate) const ROWS: usize = 64;

/// The flat buffers. Each is stored in pieces: see [`crate::params::Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flat {
    /// The weights and the model's state.
    Weights,
    /// The gradients that the update reads.
    Grads,
    /// The gradients of one micro-batch.
    Micro,
    /// The weights before the update, in a step that measures norms.
    Before,
    /// A state of the optimizer.
    State(usize),
    /// The new values of the model's state, before they are assigned.
    Next,
}

/// The place of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loc {
    /// A buffer of activations. Several tensors share it, one after the other.
    Slot(usize),
    /// The range of parameter `i` in the flat buffer of weights.
    Param(usize),
    /// The range of parameter `i` in the flat buffer of gradients. In a plan for micro-batches, the range in the flat buffer of
    /// one micro-batch's gradients.
    Grad(usize),
    /// The range of the state `i` in the flat buffer of new values of state.
    Next(usize),
    /// The range of parameter `i` in a flat buffer. The gradients are those that the update reads. Each state of the optimizer has
    /// its own range.
    Of(Flat, usize),
    /// The buffer of input `i`.
    Input(usize),
    /// The buffer of constant `i`.
    Constant(usize),
    /// A whole piece of a flat buffer.
    Piece(Flat, usize),
    /// A [part](crate::params::Part) of a piece of the flat buffer of weights or gradients.
    Part(Flat, usize),
    /// The control buffer: the decisions that steps make on the device, and the tables of the update.
    Control,
    /// A piece of data on the device, from which an input is fetched. The fields are the number of the input and the number of
    /// the piece.
    Data(usize, usize),
    /// The order of the samples of the data on the device.
    Order,
}

/// The work of a step of a plan.
#[derive(Clone, Debug)]
pub enum Work {
    /// An op of the graph.
    Op(Arc<dyn Op>),
    /// Fetches a part of a batch from data on the device.
    Fetch,
    /// A part of the optimizer's update, and the number of the piece of the flat buffers that it works on. For the rule itself, it is the
    /// number of the [part](crate::params::Part). If the step stores a new
    /// weight or state, the number says which flag of the guard is raised when the new number would overflow.
    Update(Update, usize),
}

/// The parts of an update. Each part works on one piece of the flat buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Update {
    /// Adds a micro-batch's gradients to the sum of the gradients before.
    Accumulate,
    /// Adds the squared norm of a micro-batch's gradients to the mean over the micro-batches.
    Spread,
    /// Computes the norm of the gradients. After the last piece, it decides whether the step counts.
    Check,
    /// Computes the norms of each parameter and its ratio, if the rule has a ratio.
    Norms,
    /// Copies numbers from the control buffer to a slot, for the rule that is written with tensors: the factors that clip the
    /// gradients, and hyperparameters.
    Numbers,
    /// After a bad step, finds the gradients that are not finite.
    Look,
    /// Checks that a new weight or a new state that the rule computed from tensors is finite.
    TryStore,
    /// Stores a new weight or a new state that the rule computed from tensors.
    Store,
    /// Moves the average of whole parameters, after their new weights are stored.
    Follow,
    /// Checks that the new state is finite.
    TryAssign,
    /// Checks that the update would not overflow. After a bad step, it finds the gradients that are not finite.
    Try,
    /// Updates the weights and the optimizer's states.
    Apply,
    /// Assigns the new state.
    Assign,
    /// Copies the weights before the update, so that `Measure` knows their change.
    Keep,
    /// Computes the norms of each parameter's weights, gradients and change.
    Measure,
}

/// A step of the plan: one op, or a part of the update.
#[derive(Clone, Debug)]
pub struct Step {
    /// The phase of the training step in which it runs.
    pub phase: Phase,
    /// Its op, shapes and place, e.g. `matmul [64, 784] × [512, 784] → [64, 512] (mnist.rs:14)`.
    pub label: String,
    /// The layer that the step is part of, e.g. `fc1`. The steps of a layer's gradient have the same layer. Empty before the
    /// first layer.
    pub layer: String,
    /// The work of the step.
    pub work: Work,
    /// The tensors that the step reads. An update also writes some of them.
    pub inputs: Vec<(Loc, Shape)>,
    /// The tensor that an op writes. For an update, this is the control buffer.
    pub output: (Loc, Shape),
    /// The slot of each scratch buffer of its kernel.
    pub scratch: Vec<usize>,
    /// The chosen kernel. `None` in a plan for the CPU, for an alias, and for an exchange with other ranks.
    pub kernel: Option<Kernel>,
    /// Whether the WGSL of its kernel is compiled without checks. See [`Checks`](crate::kernel::Checks).
    pub(crate) unchecked: bool,
}

impl Step {
    /// Returns the label and the layer. Errors name a step by this text.
    pub(crate) fn title(&self) -> String {
        let Step { label, layer, .. } = self;
        if layer.is_empty() { label.clone() } else { format!("{label}, layer {layer}") }
    }
    /// Returns the op of the graph, or `None` for a fetch or a part of the update.
    pub fn op(&self) -> Option<&Arc<dyn Op>> {
        match &self.work {
            Work::Op(op) => Some(op),
            _ => None,
        }
    }
    /// Returns the op's name, `feed` for a fetch, or `update` for the optimizer.
    pub fn name(&self) -> &'static str {
        match &self.work {
            Work::Op(op) => op.name(),
            Work::Fetch => "feed",
            Work::Update(..) => "update",
        }
    }
    /// Whether the step does nothing, because the output shares the input's memory.
    pub fn is_alias(&self) -> bool {
        self.op().is_some_and(|op| op.is_alias())
    }
    /// Whether a run pauses at this step, for the values of other ranks.
    pub(crate) fn is_exchange(&self) -> bool {
        self.op().is_some_and(|op| is_exchange(&**op))
    }
    /// Returns the number of floating-point operations. The operations of an update are not counted, so it has 0.
    pub fn flops(&self) -> u64 {
        self.op().map_or(0, |op| op.flops(&self.shapes(), self.output.1))
    }
    /// Returns the number of bytes that the step must read and write with any kernel.
    pub fn bytes(&self) -> u64 {
        let update = match &self.work {
            Work::Op(op) => return op.bytes(&self.shapes(), self.output.1),
            Work::Fetch => return 2 * self.output.1.bytes(),
            Work::Update(update, _) => update,
        };
        // In nearly all steps, a trial finds in the guard that there is nothing to try. An update reads everything that it
        // writes, except the state that it assigns.
        let each = |&(loc, shape): &(Loc, Shape)| match (update, loc) {
            (Update::Try | Update::Look, Loc::Piece(..) | Loc::Part(..)) => 0,
            // The tables are small, so they are not counted.
            (_, Loc::Control) => 0,
            (Update::Apply, Loc::Piece(Flat::Weights | Flat::State(_), _) | Loc::Part(Flat::Weights, _))
            | (Update::Accumulate, Loc::Piece(Flat::Grads, _)) => 2 * shape.bytes(),
            _ => shape.bytes(),
        };
        self.inputs.iter().map(each).sum()
    }
    /// Returns the place and the number of elements of the tensor behind a binding of the kernel.
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

/// A buffer for activations or scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The number of elements of the largest tensor in the slot.
    pub elements: usize,
    /// The element type of all tensors in the slot, on the CPU device. A GPU's buffers hold words of any type.
    pub dtype: DType,
}

/// A lowered graph: the list of steps that each run executes, with all buffers that it needs.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The model's parameters. [`Loc::Param`] and [`Loc::Grad`] are indices into this list.
    pub params: Vec<ParamDef>,
    /// The inputs, which are uploaded for each run.
    pub inputs: Vec<InputDef>,
    /// The constants, which are uploaded once.
    pub constants: Vec<Arc<Host<f32>>>,
    /// The buffers of activations and of scratch.
    pub slots: Vec<Slot>,
    /// The steps, in the order in which they run.
    pub steps: Vec<Step>,
    /// The outputs, which can be read after a run.
    pub outputs: Vec<(Loc, Shape)>,
    /// Whether [`Loc::Grad`] holds the gradients of one micro-batch, which a later step adds to the sum.
    pub micro: bool,
    /// The number of parameter groups of the optimizer. A step has a row of hyperparameters for each group. 0 without an
    /// update.
    pub groups: usize,
    /// The error of running the plan before the first training step, if the model needs a training step first.
    pub untrained: Option<Error>,
    /// The number of bytes of activations if every tensor had its own buffer.
    pub unplanned_bytes: u64,
}

/// Exchanges values with the other ranks while a run of a plan pauses: takes the values of this rank and returns those of all ranks, in the
/// order of the ranks.
pub(crate) type Gather<'a> = &'a mut (dyn FnMut(Vec<f32>) -> Result<Vec<f32>> + Send);

/// The [`Gather`] of plans without exchanges.
pub(crate) fn no_gather(_: Vec<f32>) -> Result<Vec<f32>> {
    unreachable!("only the plans of a training over ranks have exchanges")
}

/// The options of lowering a graph.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The capabilities of the GPU, or `None` for the CPU device.
    pub caps: Option<Caps>,
    /// The number of the candidate to use for every op; 0 is the portable candidate. An op with fewer candidates uses its last
    /// one. With `None`, each op uses the candidate in `choices`, or the candidate expected to be the fastest on the device.
    pub candidate: Option<usize>,
    /// The candidates that were chosen by measurements on the device.
    pub choices: Option<Arc<Choices>>,
    /// Whether elementwise nodes are fused.
    pub fuse: bool,
    /// Whether activations share memory.
    pub reuse: bool,
}

impl PlanOptions {
    /// Returns options with fusion and shared memory on, for a GPU (with its capabilities) or the CPU device.
    pub fn new(caps: Option<Caps>) -> PlanOptions {
        PlanOptions { caps, candidate: None, choices: None, fuse: true, reuse: true }
    }
}

/// The maximum number of inputs of one op on the CPU device. Only fusion uses this limit.
pub(crate) const CPU_INPUTS: usize = 16;

/// A graph after fusion and before the choice of kernels. At this point, candidates can be measured.
pub(crate) struct Draft {
    ir: Ir,
    /// The nodes that are computed into the flat buffers, with their places.
    grads: Vec<(usize, Loc)>,
    outputs: usize,
    untrained: Option<Error>,
}

impl Draft {
    /// Does the first half of [`Plan::new`]. `grads` is empty or has an entry for each parameter. An entry that is `None` is
    /// not computed.
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
            return Err(Error::argument(
                "gradients",
                "a plan needs a gradient for each parameter, in the order and shapes of the parameters, or no gradients",
            ));
        }
        let ir = Ir::new(graph, &all);
        // The output takes one binding, and random numbers take no other. The remaining bindings are for inputs.
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

    /// Returns every op that needs a kernel, with the shapes of its inputs and its output and the line that built it.
    pub fn ops(&self) -> impl Iterator<Item = (&Arc<dyn Op>, Vec<Shape>, Shape, Place)> {
        let op = |id: usize| {
            let (op, node) = (self.ir.op(id).filter(|op| !op.is_alias() && !is_exchange(&***op))?, &self.ir.nodes[id]);
            Some((op, self.ir.shapes(id), node.shape, node.place))
        };
        (0..self.ir.nodes.len()).filter_map(op)
    }

    /// Chooses kernels, plans memory and returns the plan.
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
    /// Lowers the nodes that `outputs` need. `grads` holds the gradient of each parameter, in their order, or is empty. The
    /// plan computes the gradients into the flat buffer of gradients.
    pub fn new(outputs: &[Tensor], grads: &[Tensor], options: &PlanOptions) -> Result<Plan> {
        let grads: Vec<Option<Tensor>> = grads.iter().copied().map(Some).collect();
        Ok(Draft::new(outputs, &grads, options)?.lower(options))
    }

    /// Returns the place of the weight of a micro-batch, in a plan for micro-batches.
    pub(crate) fn weight(&self) -> Option<(Loc, Shape)> {
        self.steps.iter().find(|step| matches!(step.work, Work::Update(Update::Accumulate, 0)))?.inputs.last().copied()
    }
    /// Returns for each parameter the number of the step after which its gradient and the weight of the micro-batch are computed. Numbers
    /// leave out aliases.
    pub(crate) fn ready(&self) -> Vec<usize> {
        let (weight, mut weighed, mut ready) = (self.weight().map(|weight| weight.0), 0, vec![0; self.params.len()]);
        let steps = self.steps.iter().filter(|step| !step.is_alias()).enumerate();
        for (number, step) in steps.filter(|(_, step)| step.phase == Phase::Compute) {
            match step.output.0 {
                Loc::Grad(i) => ready[i] = number,
                loc if Some(loc) == weight => weighed = number,
                _ => {}
            }
        }
        ready.into_iter().map(|number| number.max(weighed)).collect()
    }

    /// Adds the steps of an update, and gives slots to the scratch buffers of their kernels. These are slots that hold no
    /// output once the graph is computed, or new slots. `groups` is the number of parameter groups.
    pub fn append(&mut self, steps: Vec<Step>, groups: usize) {
        self.groups = groups;
        self.micro = steps.iter().any(|step| step.phase == Phase::Reduce);
        let kept: Vec<usize> = self.outputs.iter().filter_map(|o| if let Loc::Slot(i) = o.0 { Some(i) } else { None }).collect();
        for mut step in steps {
            // The steps of another plan have theirs.
            let placed = step.scratch.len();
            for &elements in step.kernel.iter().flat_map(|kernel| &kernel.scratch[placed..]) {
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

    /// Returns the number of times that a run pauses for the values of other ranks.
    pub(crate) fn exchanges(&self) -> usize {
        self.steps.iter().filter(|step| step.is_exchange()).count()
    }
    /// Returns whether some of its steps measure norms.
    pub(crate) fn measures(&self) -> bool {
        self.steps.iter().any(|step| step.phase == Phase::Measure)
    }
    /// Takes the slots and the constants of another plan into this plan. Its slots become slots that hold no output of this plan
    /// once the graph is computed, or new slots. `inputs` has the place of each of its inputs. Its parameters must have the numbers of
    /// this plan's parameters. Returns its steps, which belong to `phase` now, and its outputs.
    pub(crate) fn embed(&mut self, other: Plan, inputs: &[Loc], phase: Phase) -> (Vec<Step>, Vec<(Loc, Shape)>) {
        let slot = |loc: Loc| if let Loc::Slot(i) = loc { Some(i) } else { None };
        let mut kept: Vec<usize> = self.outputs.iter().map(|o| o.0).chain(inputs.iter().copied()).filter_map(slot).collect();
        let mut slots = Vec::with_capacity(other.slots.len());
        for wanted in &other.slots {
            let fits = |own: Slot| own.elements >= wanted.elements && own.dtype == wanted.dtype;
            let free = (0..self.slots.len()).filter(|i| !kept.contains(i) && fits(self.slots[*i]));
            let slot = free.min_by_key(|&i| self.slots[i].elements).unwrap_or(self.slots.len());
            if slot == self.slots.len() {
                self.slots.push(*wanted);
            }
            kept.push(slot);
            slots.push(slot);
        }
        let first = self.constants.len();
        self.constants.extend(other.constants);
        self.unplanned_bytes += other.unplanned_bytes;
        let place = |loc: Loc| match loc {
            Loc::Slot(i) => Loc::Slot(slots[i]),
            Loc::Constant(i) => Loc::Constant(first + i),
            Loc::Input(i) => inputs[i],
            other => other,
        };
        let mut steps = other.steps;
        for step in &mut steps {
            step.phase = phase;
            step.inputs.iter_mut().chain([&mut step.output]).for_each(|(loc, _)| *loc = place(*loc));
            step.scratch.iter_mut().for_each(|i| *i = slots[*i]);
        }
        (steps, other.outputs.into_iter().map(|(loc, shape)| (place(loc), shape)).collect())
    }

    /// Gives each parameter the number of the parameter with the same name in `known`.
    ///
    /// # Errors
    /// A parameter is missing in `known`, or has another shape there, or is trained in one list and state in the other.
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

    /// Returns the number of bytes of all slots.
    pub(crate) fn activation_bytes(&self) -> u64 {
        memory::bytes(&self.slots)
    }
    /// Returns the number of floating-point operations of one run.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(Step::flops).sum()
    }
}

/// Writes one line for each step, for people and for tests.
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

/// Returns the kernel of a node. The first candidate is portable, and the last one is expected to be the fastest on the device.
/// `options` may name another candidate, by its number or by a measurement.
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

/// Copies the outputs that are parameters. They are read after the update but must have their values from before the update.
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

/// Adds a node that copies the value of the node `id`.
fn copy(ir: &mut Ir, id: usize) -> usize {
    let same = Map::new(Expr::call(Fun::Identity, &[Inst::Input(0)]));
    ir.push(Node { kind: NodeKind::Op(Arc::new(same)), inputs: vec![id], ..ir.nodes[id].clone() })
}

/// Makes every gradient a separate node that nothing else reads, so that it can be computed in place in the flat buffer. A
/// gradient that is shared, an input or a constant is copied. Returns each node with its place.
fn own_grads(ir: &mut Ir, outputs: usize, locs: impl Iterator<Item = Loc>) -> Vec<(usize, Loc)> {
    let uses = ir.uses();
    (outputs..ir.outputs.len())
        .zip(locs)
        .map(|(o, loc)| {
            // Follow aliases to the node that computes the values.
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
