//! The plan: what a graph becomes once, and what every mini-batch replays. Plain data, no wgpu type.

use crate::{
    graph::{InputDef, ParamDef},
    host::Host,
    kernel::Kernel,
    ops::Op,
    shape::{DType, Shape},
};
use std::sync::Arc;

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
    pub op: Arc<dyn Op>,
    pub inputs: Vec<(Loc, Shape)>,
    pub output: (Loc, Shape),
    /// The slot of each scratch buffer of the kernel.
    pub scratch: Vec<usize>,
    /// The chosen kernel; `None` in a plan for the CPU.
    pub kernel: Option<Kernel>,
}

/// A buffer for activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub elements: usize,
    pub dtype: DType,
}

/// A lowered graph.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub params: Vec<ParamDef>,
    pub inputs: Vec<InputDef>,
    pub constants: Vec<Arc<Host<f32>>>,
    pub slots: Vec<Slot>,
    pub steps: Vec<Step>,
    /// What can be read after a run.
    pub outputs: Vec<(Loc, Shape)>,
}
