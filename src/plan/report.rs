//! The device memory that a plan needs, to the byte, by kind and by layer. This module only computes numbers.

use super::{Loc, Phase, Plan};
use crate::{
    kernel::ALIGN,
    params::{Layout, Status},
};
use std::fmt;

/// The number of bytes that training needs on a device. It counts the model's flat buffers, the plan for one batch size, and
/// everything else that the trainer stores on the device.
///
/// Every buffer counts with its full size. Memory of the driver is not counted: pipelines, and the buffers that uploads and
/// read-backs pass through.
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The parameters, including frozen ones.
    pub weights: u64,
    /// The gradients of the trained parameters. With micro-batches, both the gradients of one micro-batch and their sum.
    pub gradients: u64,
    /// Each state of the optimizer, with its name: `mean` and `square` for Adam. Averages of the weights are the state `average`.
    pub optimizer: Vec<(String, u64)>,
    /// The model's state, such as running averages, and the buffers for its new values in a step.
    pub state: u64,
    /// The results of ops. They lie in slots, which several tensors share one after the other.
    pub activations: u64,
    /// The data that kernels store between their passes. It counts the slots whose largest tensor is scratch.
    pub scratch: u64,
    /// The inputs, which are uploaded for each batch.
    pub inputs: u64,
    /// The data set on the device, if [`fit`](crate::Trainer::fit) has uploaded it.
    pub data: u64,
    /// The constants, which are uploaded once with the plan.
    pub constants: u64,
    /// The sizes and settings of kernels, the learning rates, and the losses that have not been read yet.
    pub tables: u64,
    /// The other plans that the trainer stores: plans for other batch sizes (such as the last batch of an epoch), plans of
    /// [evaluation](crate::Trainer::evaluate), and the buffers through which outputs are read. With [shards](crate::Shard::State), also the
    /// averages of the weights that this rank has gathered.
    pub plans: u64,
    /// All of the above by layer, in the model's order. The rows that belong to no layer come last.
    pub layers: Vec<LayerMemory>,
    /// The number of bytes of the slots: activations and scratch of the plan's kernels.
    pub planned: u64,
    /// The number of bytes of the slots if every tensor had its own slot.
    pub unplanned: u64,
    /// The number of bytes of the tensors that must exist at the same time, at the step that needs the most. No reuse of memory
    /// needs less.
    pub live: u64,
    /// The step that needs the most: its op, shapes and place.
    pub live_at: String,
}

/// The memory of one layer, a part of [`Memory`].
///
/// The parameters with one prefix make a layer: `fc1` has `fc1.weight` and `fc1.bias`. An op that reads a parameter belongs to
/// the parameter's layer. Any other op belongs to the layer that it follows. The ops of a gradient belong to the layer whose
/// gradient they compute. A slot that several layers share counts for the layer with the largest tensor in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerMemory {
    /// The prefix of the layer; `(inputs)` for everything before the first layer, `(step)` for everything that belongs to the
    /// whole model.
    pub name: String,
    /// The weights, the gradients, the states of the optimizer, and the model's state.
    pub parameters: u64,
    /// The slots. For `(inputs)`, also the inputs and the constants.
    pub activations: u64,
    /// The tables, the data set and the other plans.
    pub other: u64,
}

impl LayerMemory {
    /// Returns the sum of all fields.
    pub fn total(&self) -> u64 {
        self.parameters + self.activations + self.other
    }
}

/// The names of the rows of [`Memory::layers`] that are not layers.
const INPUTS: &str = "(inputs)";
const STEP: &str = "(step)";

impl Memory {
    /// Counts the memory of a plan with the given layout of its parameters. The optimizer stores `states`.
    pub(crate) fn new(plan: &Plan, layout: &Layout, states: &[&str], tables: u64, data: u64) -> Memory {
        let mut m = Memory { tables, data, planned: plan.activation_bytes(), unplanned: plan.unplanned_bytes, ..Memory::default() };
        m.row(STEP).other = tables;
        for (i, (param, range)) in plan.params.iter().zip(&layout.ranges).enumerate() {
            // The gap behind the parameter counts, too.
            let bytes = range.len.next_multiple_of(ALIGN) as u64 * 4;
            let gradients = 1 + u64::from(plan.micro);
            let all = match range.status {
                Status::Trained { .. } | Status::Whole { .. } => {
                    m.weights += bytes;
                    m.gradients += gradients * bytes;
                    bytes * (1 + gradients)
                }
                Status::Frozen => {
                    m.weights += bytes;
                    bytes
                }
                Status::State => {
                    m.state += 2 * bytes;
                    2 * bytes
                }
            };
            m.row(param.layer()).parameters += all;
            for (name, state) in states.iter().zip(&layout.states) {
                let bytes = state.ranges[i].map_or(0, |(range, _)| range.len.next_multiple_of(ALIGN) as u64 * 4);
                m.row(param.layer()).parameters += bytes;
                // Two rules may have states of one name.
                match m.optimizer.iter_mut().find(|known| known.0 == *name) {
                    Some(known) => known.1 += bytes,
                    None => m.optimizer.push((name.to_string(), bytes)),
                }
            }
        }
        m.inputs = plan.inputs.iter().map(|i| i.shape.bytes()).sum();
        m.constants = plan.constants.iter().map(|c| c.shape.bytes()).sum();
        m.row(INPUTS).activations = m.inputs + m.constants;
        m.row(INPUTS).other = data;
        for (slot, owner) in plan.slots.iter().zip(owners(plan)) {
            let bytes = slot.elements as u64 * 4;
            match owner {
                Some(Tenant { scratch: true, .. }) => m.scratch += bytes,
                _ => m.activations += bytes,
            }
            let row = owner.map_or(INPUTS, |o| match &plan.steps[o.step] {
                step if step.phase > Phase::Compute => STEP,
                step if step.layer.is_empty() => INPUTS,
                step => &step.layer,
            });
            m.row(row).activations += bytes;
        }
        // The rows that are not layers come last.
        let (rest, layers): (Vec<LayerMemory>, Vec<LayerMemory>) =
            m.layers.into_iter().partition(|l| [INPUTS, STEP].contains(&l.name.as_str()));
        m.layers = layers.into_iter().chain(rest.into_iter().rev()).collect();
        (m.live, m.live_at) = live(plan);
        m
    }
    /// Sets the number of bytes of other plans.
    pub(crate) fn with_plans(mut self, bytes: u64) -> Memory {
        let before = std::mem::replace(&mut self.plans, bytes);
        let row = self.row(STEP);
        row.other = row.other - before + bytes;
        self
    }
    /// Returns the number of bytes that the device stores while it trains.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|k| k.1).sum()
    }
    /// Returns the number of bytes of each kind, with the name of the kind.
    pub fn kinds(&self) -> Vec<(String, u64)> {
        let kind = |name: &str, bytes: u64| (name.to_string(), bytes);
        let mut all = vec![kind("weights", self.weights), kind("gradients", self.gradients)];
        all.extend(self.optimizer.iter().map(|(name, bytes)| (format!("optimizer `{name}`"), *bytes)));
        all.extend([
            kind("state", self.state),
            kind("activations", self.activations),
            kind("scratch", self.scratch),
            kind("inputs", self.inputs),
            kind("data set", self.data),
            kind("constants", self.constants),
            kind("tables", self.tables),
            kind("other plans", self.plans),
        ]);
        all
    }
    fn row(&mut self, name: &str) -> &mut LayerMemory {
        let i = self.layers.iter().position(|l| l.name == name).unwrap_or_else(|| {
            self.layers.push(LayerMemory { name: name.to_string(), ..LayerMemory::default() });
            self.layers.len() - 1
        });
        &mut self.layers[i]
    }
}

/// A tensor in a slot.
#[derive(Clone, Copy)]
struct Tenant {
    step: usize,
    elements: usize,
    scratch: bool,
}

/// Returns, for each slot, the largest tensor in it. Among equal sizes the first one counts.
fn owners(plan: &Plan) -> Vec<Option<Tenant>> {
    let mut owners: Vec<Option<Tenant>> = vec![None; plan.slots.len()];
    for (slot, tenant) in tenants(plan) {
        let owner = &mut owners[slot];
        if owner.is_none_or(|o| o.elements < tenant.elements) {
            *owner = Some(tenant);
        }
    }
    owners
}

/// Returns, for each slot, the name of its largest tensor: the result or the scratch of a step.
pub(crate) fn largest(plan: &Plan) -> Vec<String> {
    let of = |owner: Option<Tenant>| {
        owner.map_or(String::new(), |o| format!("{}{}", if o.scratch { "scratch of " } else { "" }, plan.steps[o.step].title()))
    };
    owners(plan).into_iter().map(of).collect()
}

/// Returns the tensors that steps write to slots, in the order of the steps.
fn tenants(plan: &Plan) -> Vec<(usize, Tenant)> {
    let mut all = Vec::new();
    for (i, step) in plan.steps.iter().enumerate().filter(|(_, s)| !s.is_alias()) {
        if let Loc::Slot(slot) = step.output.0 {
            all.push((slot, Tenant { step: i, elements: step.output.1.elements(), scratch: false }));
        }
        let sizes = step.kernel.iter().flat_map(|k| &k.scratch);
        all.extend(step.scratch.iter().zip(sizes).map(|(&slot, &elements)| (slot, Tenant { step: i, elements, scratch: true })));
    }
    all
}

/// Returns the largest number of bytes that are alive at one step, and the label of that step.
fn live(plan: &Plan) -> (u64, String) {
    // The change of the number of live bytes at each step.
    let mut change = vec![0i64; plan.steps.len() + 1];
    let all = tenants(plan);
    for (i, &(slot, t)) in all.iter().enumerate() {
        let next = all[i + 1..].iter().find(|o| o.0 == slot).map_or(plan.steps.len(), |o| o.1.step);
        let reads = |s: &usize| !t.scratch && !plan.steps[*s].is_alias() && plan.steps[*s].inputs.iter().any(|x| x.0 == Loc::Slot(slot));
        let kept = next == plan.steps.len() && !t.scratch && plan.outputs.iter().any(|o| o.0 == Loc::Slot(slot));
        let last = if kept { plan.steps.len() - 1 } else { (t.step + 1..next).rev().find(reads).unwrap_or(t.step) };
        change[t.step] += t.elements as i64 * 4;
        change[last + 1] -= t.elements as i64 * 4;
    }
    let (mut now, mut most, mut at) = (0i64, 0, String::new());
    for (step, change) in plan.steps.iter().zip(change) {
        now += change;
        if now > most {
            (most, at) = (now, step.label.clone());
        }
    }
    (most as u64, at)
}

/// Formats a number of bytes: `1.50 MiB`, `12.0 KiB`, `640 B`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= f64::from(1 << 30) => format!("{:.2} GiB", b / f64::from(1 << 30)),
        b if b >= f64::from(1 << 20) => format!("{:.2} MiB", b / f64::from(1 << 20)),
        b if b >= 1024.0 => format!("{:.1} KiB", b / 1024.0),
        _ => format!("{bytes} B"),
    }
}

/// Writes a table by kind and a table by layer.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let total = self.total();
        let share = |bytes: u64| format!("{:5.1} %", 100.0 * bytes as f64 / total.max(1) as f64);
        writeln!(f, "{:<28} {:>12} {:>8}", "memory", "bytes", "")?;
        for (name, bytes) in self.kinds().into_iter().filter(|k| k.1 > 0) {
            writeln!(f, "{name:<28} {:>12} {:>8}", size(bytes), share(bytes))?;
        }
        writeln!(f, "{:<28} {:>12}\n", "together", size(total))?;
        writeln!(f, "{:<28} {:>12} {:>12} {:>12} {:>8}", "layer", "parameters", "activations", "together", "")?;
        for l in &self.layers {
            let [p, a, t] = [l.parameters, l.activations, l.total()].map(size);
            writeln!(f, "{:<28} {p:>12} {a:>12} {t:>12} {:>8}", l.name, share(l.total()))?;
        }
        writeln!(f, "\nslots: {}; {} if none were used again", size(self.planned), size(self.unplanned))?;
        write!(f, "the most that must exist at once: {}, at {}", size(self.live), self.live_at)
    }
}
