//! The plan. A graph is lowered to a plan once, and every mini-batch runs the plan. A plan is plain data and contains no wgpu
//! type.
//!
//! `Ir::new` takes the nodes that the outputs need out of the graph. `fuse` composes elementwise nodes. `memory::plan` gives
//! every tensor a buffer. [`Plan::new`] puts the result into one list of steps.

pub(crate) mod fuse;
pub(crate) mod ir;
pub(crate) mod memory;
pub(crate) mod report;
mod step;

pub use report::{LayerMemory, Memory};
pub use step::{Flat, Loc, Phase, Step, Update, Work};
pub(crate) use step::{Half, Phases};

use crate::{
    choice::Choices,
    error::{Error, Place, Result},
    graph::{InputDef, Node, NodeKind, OTHER_GRAPH, ParamDef, Tensor},
    host::Host,
    kernel::{Caps, Kernel},
    ops::{
        Op,
        all_gather::is_exchange,
        map::{Expr, Fun, Inst, Map},
    },
    shape::{DType, Shape},
};
use ir::Ir;
use std::{fmt, sync::Arc};

/// The maximum number of training steps in one submit. Each of them has a row of hyperparameters for each group.
pub(crate) const ROWS: usize = 64;

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
