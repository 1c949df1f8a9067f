//! A table of a model's layers, with their sizes and costs.

use super::{Trainer, plans::PlanKey};
use crate::{
    error::Result,
    graph::{Graph, NodeKind, Tensor},
    params::Status,
    plan::{Memory, Plan, ir::Ir, report::size},
    shape::Shape,
};

/// A row of the table: the parameters `name.…` and the op that uses the first of them.
struct SummaryRow {
    name: String,
    output: Shape,
    params: usize,
    flops: u64,
    /// The parameters that have been counted.
    seen: Vec<usize>,
}

impl Trainer {
    /// Returns a table of the model at batch size `batch`. It lists each layer with its output shape, its parameters and the
    /// FLOPs of a forward pass. Below it are the numbers of trained and frozen parameters. The last line has the memory of a
    /// step. A trainer made from one graph always uses the batch size of the graph.
    ///
    /// # Errors
    /// The model does not accept a batch of this size.
    pub fn summary(&self, batch: usize) -> Result<String> {
        let Some(model) = &self.model else { return Ok(self.graph_summary.clone()) };
        let g = Graph::training();
        let loss = model.write(&g, batch.max(1))?.loss;
        let plan = self.step_plan(PlanKey::Whole(batch.max(1)))?;
        Ok(self.summarise(loss, &plan, &self.memory(batch.max(1))?))
    }
    pub(super) fn summarise(&self, loss: Tensor, step: &Plan, memory: &Memory) -> String {
        let layers = layers(&Ir::new(loss.graph(), &[loss]));
        // The columns are as wide as their longest text.
        let widest = |least: usize, text: &dyn Fn(&SummaryRow) -> String| {
            layers.iter().map(|l| text(l).chars().count()).max().unwrap_or(0).max(least)
        };
        let (names, outputs) = (widest(20, &|l| l.name.clone()), widest(18, &|l| l.output.to_string()));
        let mut text = format!("{:<names$} {:<outputs$} {:>12} {:>14}\n", "layer", "output", "parameters", "MFLOP forward");
        for l in &layers {
            let mflop = l.flops as f64 / 1e6;
            text += &format!("{:<names$} {:<outputs$} {:>12} {mflop:>14.3}\n", l.name, l.output.to_string(), l.params);
        }
        let params: usize = self.params().elements();
        let is_frozen = |status: &Status| *status == Status::Frozen;
        let statuses = self.params.iter().zip(&self.update.groups.statuses);
        let frozen: usize = statuses.filter(|(_, status)| is_frozen(status)).map(|(p, _)| p.shape.elements()).sum();
        let frozen = if frozen == 0 { String::new() } else { format!(" ({} trained, {frozen} frozen)", params - frozen) };
        text += &format!("{params} parameters{frozen}, {:.1} MFLOP a step, update not counted\n", step.flops() as f64 / 1e6);
        text + &memory_line(memory)
    }
    /// Replaces the memory in the summary of the graph.
    pub(super) fn summarise_memory(&mut self, memory: &Memory) {
        let end = self.graph_summary.rfind(MEMORY).unwrap_or(self.graph_summary.len());
        self.graph_summary.truncate(end);
        self.graph_summary += &memory_line(memory);
    }
    /// Returns the plan of the last step as text, with a line for each kernel. If the data lies on the device, the kernels that
    /// fetch a batch come first. The update comes last. The text is empty before the first step of a trainer made by
    /// [`for_data`](Trainer::for_data).
    pub fn plan_text(&self) -> String {
        let last = self.last.or_else(|| self.plans.iter().map(|(key, _)| key).last());
        let Some(loaded) = last.and_then(|key| self.plans.get(key)) else { return String::new() };
        let fetch = loaded.engine.gpu().map_or(&[][..], |exec| exec.fetch());
        fetch.iter().map(|step| format!("{step}\n")).chain([loaded.plan.clone()]).collect()
    }
}

/// The start of the last line of a summary.
const MEMORY: &str = "memory: ";

fn memory_line(memory: &Memory) -> String {
    let kinds: Vec<String> =
        memory.kinds().into_iter().filter(|k| k.1 > 0).map(|(name, bytes)| format!("{name} {}", size(bytes))).collect();
    format!("{MEMORY}{} ({})\n", size(memory.total()), kinds.join(", "))
}

fn layers(ir: &Ir) -> Vec<SummaryRow> {
    let mut layers: Vec<SummaryRow> = Vec::new();
    // For each node, the parameter that it is derived from alone: the parameter itself, reshaped or scaled, for example.
    let mut form: Vec<Option<usize>> = Vec::with_capacity(ir.nodes.len());
    for (id, node) in ir.nodes.iter().enumerate() {
        let inputs: Vec<Option<usize>> = node.inputs.iter().map(|&i| form[i]).collect();
        form.push(match &node.kind {
            NodeKind::Param(p) => Some(*p),
            NodeKind::Op(_) if inputs.iter().all(|f| f.is_some()) => inputs.first().copied().flatten(),
            _ => None,
        });
        let (NodeKind::Op(op), None) = (&node.kind, form[id]) else { continue };
        let flops = op.flops(&ir.shapes(id), node.shape);
        for p in inputs.into_iter().flatten() {
            let param = &ir.params[p];
            let i = layers.iter().position(|l| l.name == param.layer()).unwrap_or_else(|| {
                layers.push(SummaryRow { name: param.layer().to_string(), output: node.shape, params: 0, flops: 0, seen: Vec::new() });
                layers.len() - 1
            });
            let layer = &mut layers[i];
            (layer.output, layer.flops) = (node.shape, layer.flops + flops);
            if !layer.seen.contains(&p) {
                layer.params += param.shape.elements();
                layer.seen.push(p);
            }
        }
    }
    layers
}
