//! A step of a plan: its work, the places of its tensors, and the phase in which it runs.

use crate::{
    kernel::{Kernel, Which},
    ops::{Op, all_gather::is_exchange},
    shape::Shape,
};
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
