//! What a plan takes of a device's memory, to the byte, by kind and by layer. Arithmetic only.

use super::{Loc, Phase, Plan};
use crate::{
    kernel::ALIGN,
    params::{Layout, Status},
};
use std::fmt;

/// The bytes of training on a device: of the model's flat buffers, of the plan for one batch size, and of what a trainer keeps besides.
///
/// Every buffer is counted, at its size. What is not in it: what the driver keeps for itself (pipelines, and what uploads
/// and read-backs go through).
#[non_exhaustive]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, those that are frozen as well.
    pub weights: u64,
    /// Gradients of those that are trained; of micro-batches both their own and their sum.
    pub gradients: u64,
    /// Each state of the optimizer, by name: `mean` and `square` of Adam.
    pub optimizer: Vec<(String, u64)>,
    /// State that is not trained, such as running averages, and what it becomes in a step.
    pub state: u64,
    /// Results of ops: slots, which several tensors share one after the other.
    pub activations: u64,
    /// What kernels keep between their passes: slots that no result of an op needs as large, and the update's.
    pub scratch: u64,
    /// What is uploaded for each batch.
    pub inputs: u64,
    /// The data set, where it lies on the device: there once [`fit`](crate::Trainer::fit) has put it there.
    pub data: u64,
    /// What is uploaded once with the plan.
    pub constants: u64,
    /// Sizes and settings of kernels, learning rates, losses that have not been read yet.
    pub tables: u64,
    /// Plans that the trainer keeps besides: those of other batch sizes (the last batch of an epoch has one), those of
    /// [evaluation](crate::Trainer::evaluate), and what outputs are read through.
    pub plans: u64,
    /// All of the above by layer, in the model's order; then what is of no layer.
    pub layers: Vec<LayerMemory>,
    /// Bytes of slots: activations, and scratch of the plan's kernels.
    pub planned: u64,
    /// What these would be if every tensor had one of its own.
    pub unplanned: u64,
    /// Bytes of the tensors that must exist at the same time at one step of the plan: no reuse of memory needs less.
    pub live: u64,
    /// That step: op, shapes and place.
    pub live_at: String,
}

/// A layer's part of [`Memory`].
///
/// A layer is what parameters of one prefix make: `fc1` has `fc1.weight` and `fc1.bias`. An op that takes a parameter is part of
/// its layer, any other op of the layer that it follows, and the ops of a gradient are part of the layer that it is of. A slot
/// that several layers share is counted for the layer whose tensor makes it as large as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerMemory {
    /// The prefix; `(inputs)` for what comes before the first layer, `(step)` for what is of the whole model.
    pub name: String,
    /// Weights, gradients, states of the optimizer, and state.
    pub parameters: u64,
    /// Slots; inputs and constants.
    pub activations: u64,
    /// Tables, scratch of the update, the data set, other plans.
    pub other: u64,
}

impl LayerMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.parameters + self.activations + self.other
    }
}

/// The rows of [`Memory::layers`] that are not layers.
const INPUTS: &str = "(inputs)";
const STEP: &str = "(step)";

impl Memory {
    /// Of a plan over the flat buffers of its parameters; the update keeps `states`.
    pub(crate) fn new(plan: &Plan, layout: &Layout, states: &[&str], tables: u64, data: u64) -> Memory {
        let mut m = Memory { tables, data, planned: plan.activation_bytes(), unplanned: plan.unplanned_bytes, ..Memory::default() };
        m.row(STEP).other = tables;
        m.optimizer = states.iter().map(|s| (s.to_string(), 0)).collect();
        for (param, range) in plan.params.iter().zip(&layout.ranges) {
            // With the gap behind it.
            let bytes = range.len.next_multiple_of(ALIGN) as u64 * 4;
            let gradients = 1 + u64::from(plan.micro);
            let copies = match range.status {
                Status::Trained { .. } => {
                    m.weights += bytes;
                    m.gradients += gradients * bytes;
                    m.optimizer.iter_mut().for_each(|s| s.1 += bytes);
                    1 + gradients + states.len() as u64
                }
                Status::Frozen => {
                    m.weights += bytes;
                    1
                }
                Status::State => {
                    m.state += 2 * bytes;
                    2
                }
            };
            m.row(param.layer()).parameters += bytes * copies;
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
        // What is no layer comes last.
        let (rest, layers): (Vec<LayerMemory>, Vec<LayerMemory>) =
            m.layers.into_iter().partition(|l| [INPUTS, STEP].contains(&l.name.as_str()));
        m.layers = layers.into_iter().chain(rest.into_iter().rev()).collect();
        (m.live, m.live_at) = live(plan);
        m
    }
    /// With so many bytes of other plans.
    pub(crate) fn with_plans(mut self, bytes: u64) -> Memory {
        let before = std::mem::replace(&mut self.plans, bytes);
        let row = self.row(STEP);
        row.other = row.other - before + bytes;
        self
    }
    /// All of it: what the device holds while it trains.
    pub fn total(&self) -> u64 {
        self.kinds().iter().map(|k| k.1).sum()
    }
    /// Every kind by name.
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

/// The first of the largest tensors of each slot.
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

/// Of each slot, the result or the scratch of a step that makes it as large as it is.
pub(crate) fn largest(plan: &Plan) -> Vec<String> {
    let of = |owner: Option<Tenant>| {
        owner.map_or(String::new(), |o| format!("{}{}", if o.scratch { "scratch of " } else { "" }, plan.steps[o.step].title()))
    };
    owners(plan).into_iter().map(of).collect()
}

/// What is written to slots, in order.
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

/// The most bytes that are alive at one step, and that step.
fn live(plan: &Plan) -> (u64, String) {
    // How the bytes alive change before each step.
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

/// `1.50 MiB`, `12.0 KiB`, `640 B`.
pub(crate) fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= f64::from(1 << 30) => format!("{:.2} GiB", b / f64::from(1 << 30)),
        b if b >= f64::from(1 << 20) => format!("{:.2} MiB", b / f64::from(1 << 20)),
        b if b >= 1024.0 => format!("{:.1} KiB", b / 1024.0),
        _ => format!("{bytes} B"),
    }
}

/// A table by kind and one by layer.
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
