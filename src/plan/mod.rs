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
    error::{Error, Place, Result},
    graph::{InputDef, Kind, Node, OTHER_GRAPH, ParamDef, Tensor},
    host::Host,
    kernel::{Caps, Kernel},
    ops::{
        Op,
        map::{Expr, Fun, Inst, Map},
    },
    shape::{DType, Shape},
    tune::Choices,
};
use ir::Ir;
use std::{fmt, sync::Arc};

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loc {
    /// A buffer of activations, reused by lifetime.
    Slot(usize),
    /// The range of parameter `i` in the flat buffer of weights.
    Param(usize),
    /// The range of parameter `i` in the flat buffer of gradients.
    Grad(usize),
    /// The buffer of input `i`.
    Input(usize),
    /// The buffer of constant `i`.
    Constant(usize),
}

/// One op of the plan.
#[derive(Clone, Debug)]
pub struct Step {
    /// Op, shapes and place, e.g. `matmul [64, 784] × [512, 784] → [64, 512] (mnist.rs:14)`.
    pub label: String,
    /// The layer that it is part of, e.g. `fc1`, also in its gradient; empty before the first layer.
    pub layer: String,
    /// What is computed.
    pub op: Arc<dyn Op>,
    /// What is read.
    pub inputs: Vec<(Loc, Shape)>,
    /// What is written.
    pub output: (Loc, Shape),
    /// The slot of each scratch buffer of the kernel.
    pub scratch: Vec<usize>,
    /// The chosen kernel; `None` in a plan for the CPU, and for an alias.
    pub kernel: Option<Kernel>,
}

impl Step {
    /// Label and layer: what an error names.
    pub(crate) fn title(&self) -> String {
        let Step { label, layer, .. } = self;
        if layer.is_empty() { label.clone() } else { format!("{label}, layer {layer}") }
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
    /// What is wrong with running it before a step was made on its parameters, if anything is.
    pub untrained: Option<Error>,
    /// Bytes of activations if every tensor had a buffer of its own.
    pub unplanned_bytes: u64,
}

/// How a graph is lowered.
#[derive(Clone, Debug)]
pub struct Options {
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

impl Options {
    /// Everything on, for a GPU (with its abilities) or the CPU.
    pub fn new(caps: Option<Caps>) -> Options {
        Options { caps, candidate: None, choices: None, fuse: true, reuse: true }
    }
}

/// Tensors beside the output that one op of the CPU device may read: a bound for fusion only.
pub(crate) const CPU_INPUTS: usize = 16;

/// A graph between fusion and the choice of kernels: here they can be measured.
pub(crate) struct Draft {
    ir: Ir,
    /// (node, parameter)
    grads: Vec<(usize, usize)>,
    outputs: usize,
    untrained: Option<Error>,
}

impl Draft {
    /// The first half of [`Plan::new`].
    pub fn new(outputs: &[Tensor], grads: &[Tensor], options: &Options) -> Result<Draft> {
        let Some(first) = outputs.first() else {
            return Err(Error::argument("outputs", "a plan needs at least one"));
        };
        let graph = first.graph();
        graph.check()?;
        let all: Vec<Tensor> = outputs.iter().chain(grads).copied().collect();
        if all.iter().any(|t| !std::ptr::eq(t.graph(), graph)) {
            return Err(Error::argument("outputs", OTHER_GRAPH));
        }
        let params: Vec<Shape> = graph.inner.borrow().params.iter().map(|p| p.shape).collect();
        if !grads.is_empty() && grads.iter().map(|g| g.shape()).ne(params) {
            return Err(Error::argument("gradients", "a plan needs one for each parameter, in their order and of their shapes, or none"));
        }
        let ir = Ir::new(graph, &all);
        // The output and, in a step with random numbers, nothing more: inputs are what is left.
        let max_inputs = options.caps.map_or(CPU_INPUTS, |c| c.max_bindings.saturating_sub(1).clamp(3, CPU_INPUTS));
        let mut ir = if options.fuse { fuse::fuse(&ir, max_inputs) } else { ir };
        if !grads.is_empty() {
            keep_outputs(&mut ir, outputs.len());
        }
        let grads = own_grads(&mut ir, outputs.len());
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
    pub fn lower(self, options: &Options) -> Plan {
        let Draft { ir, grads, outputs, untrained } = self;
        let (ir, grads) = (&ir, &grads[..]);
        let kernels: Vec<Option<Kernel>> = (0..ir.nodes.len()).map(|id| choose(ir, id, options)).collect();
        let scratch: Vec<Vec<usize>> = kernels.iter().map(|k| k.as_ref().map_or(Vec::new(), |k| k.scratch.clone())).collect();
        let memory = memory::plan(ir, grads, &scratch, options.reuse, options.caps.is_none());
        let mut plan = Plan { params: ir.params.clone(), inputs: ir.inputs.clone(), untrained, ..Plan::default() };
        for (id, (node, kernel)) in ir.nodes.iter().zip(kernels).enumerate() {
            match &node.kind {
                Kind::Constant(value) => plan.constants.push(value.clone()),
                Kind::Op(op) => plan.steps.push(Step {
                    label: label(ir, id),
                    layer: node.layer.map_or(String::new(), |first| ir.params[first].layer().to_string()),
                    op: op.clone(),
                    inputs: node.inputs.iter().map(|&i| (memory.locs[i], ir.nodes[i].shape)).collect(),
                    output: (memory.locs[id], node.shape),
                    scratch: memory.scratch[id].clone(),
                    kernel,
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
    pub fn new(outputs: &[Tensor], grads: &[Tensor], options: &Options) -> Result<Plan> {
        Ok(Draft::new(outputs, grads, options)?.lower(options))
    }

    /// Renumbers the parameters to those of `known`, by name.
    ///
    /// # Errors
    /// A parameter that is not there, or in another shape.
    pub fn bind_params(&mut self, known: &[ParamDef]) -> Result<()> {
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
            Loc::Param(i) | Loc::Grad(i) => *i = at[*i],
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
    pub fn activation_bytes(&self) -> u64 {
        memory::bytes(&self.slots)
    }
    /// Floating-point operations of one run.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(|s| s.op.flops(&s.inputs.iter().map(|i| i.1).collect::<Vec<_>>(), s.output.1)).sum()
    }
}

/// A line per step: what a plan does, for people and for tests.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for step in &self.steps {
            let inputs: Vec<String> = step.inputs.iter().map(|(l, s)| format!("{l:?} {s}")).collect();
            let kernel = step.kernel.as_ref().map_or("", |k| k.name);
            let text = step.op.as_map().map_or(String::new(), |m| format!(" {}", m.expr));
            writeln!(f, "{} {kernel}{text}: {} → {:?} {}", step.op.name(), inputs.join(", "), step.output.0, step.output.1)?;
        }
        Ok(())
    }
}

fn label(ir: &Ir, id: usize) -> String {
    let node = &ir.nodes[id];
    let shapes: Vec<String> = node
        .inputs
        .iter()
        .map(|&i| match &ir.nodes[i].kind {
            Kind::Param(p) => format!("{} {}", ir.params[*p].name, ir.nodes[i].shape),
            _ => ir.nodes[i].shape.to_string(),
        })
        .collect();
    let name = ir.op(id).map_or("", |op| op.name());
    format!("{name} {} → {} ({}:{})", shapes.join(" × "), node.shape, node.place.file(), node.place.line())
}

/// The kernel of a node: the first candidate is portable, the last one expected fastest on such a device, and one of them
/// may have been measured to be.
fn choose(ir: &Ir, id: usize, options: &Options) -> Option<Kernel> {
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
        if let Kind::Param(_) = ir.nodes[root].kind {
            ir.outputs[o] = copy(ir, ir.outputs[o]);
        }
    }
}

/// A new node of the same value.
fn copy(ir: &mut Ir, id: usize) -> usize {
    let same = Map::new(Expr::call(Fun::Identity, &[Inst::Input(0)]));
    ir.push(Node { kind: Kind::Op(Arc::new(same)), inputs: vec![id], ..ir.nodes[id].clone() })
}

/// Makes every gradient a node of its own that nothing else reads, so that it can be computed in place in the flat
/// buffer: where that is not so (a shared gradient, an input, a constant) it is copied. Returns (node, parameter).
fn own_grads(ir: &mut Ir, outputs: usize) -> Vec<(usize, usize)> {
    let uses = ir.uses();
    (outputs..ir.outputs.len())
        .map(|o| {
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
            (id, o - outputs)
        })
        .collect()
}
