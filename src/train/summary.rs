//! A model's layers, sizes and costs as a table.

use super::{Trainer, training_plan};
use crate::{
    error::Result,
    graph::{Graph, Kind, Tensor},
    plan::{Plan, ir::Ir},
    shape::Shape,
};

/// A row of the table: the parameters `name.…` and the op that uses the first of them.
struct Layer {
    name: String,
    output: Shape,
    params: usize,
    flops: u64,
}

impl Trainer {
    /// Layers with output shapes, parameters and FLOPs of a forward pass, and the bytes of a step, for batches of `batch`;
    /// a trainer made of one graph has that graph's batch size whatever is asked for.
    ///
    /// # Errors
    /// A model that does not take such a batch.
    pub fn summary(&self, batch: usize) -> Result<String> {
        let Some(model) = &self.model else { return Ok(self.graph_summary.clone()) };
        let g = Graph::training();
        let loss = model.write(&g, batch.max(1))?.loss;
        let plan = training_plan(&self.device, &[loss], loss)?;
        Ok(self.summarise(loss, &plan))
    }
    pub(super) fn summarise(&self, loss: Tensor, step: &Plan) -> String {
        let mut text = format!("{:<20} {:<18} {:>12} {:>14}\n", "layer", "output", "parameters", "MFLOP forward");
        for l in &layers(&Ir::new(loss.graph(), &[loss])) {
            let mflop = l.flops as f64 / 1e6;
            text += &format!("{:<20} {:<18} {:>12} {mflop:>14.3}\n", l.name, l.output.to_string(), l.params);
        }
        let params: usize = self.params().elements();
        let states = self.update.optimizer.states().len();
        let mib = |bytes: u64| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
        let flat = |buffers: usize| mib((params * buffers) as u64 * 4);
        text += &format!("{params} parameters, {:.1} MFLOP a step, update not counted\n", step.flops() as f64 / 1e6);
        text += &format!("memory: weights {}, gradients {}, optimizer {}, ", flat(1), flat(1), flat(states));
        text += &format!("activations {} ({} without reuse)\n", mib(step.activation_bytes()), mib(step.unplanned_bytes));
        text
    }
    /// The plan of a step at the batch size last trained with, a line for each dispatch; empty before the first step.
    pub fn plan_text(&self) -> String {
        let last = self.last.or_else(|| self.plans.keys().copied().max());
        last.and_then(|key| self.plans.get(&key)).map_or(String::new(), |p| p.plan.clone())
    }
}

fn layers(ir: &Ir) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for (id, node) in ir.nodes.iter().enumerate() {
        let Kind::Op(op) = &node.kind else { continue };
        for &input in &node.inputs {
            let Kind::Param(p) = ir.nodes[input].kind else { continue };
            let param = &ir.params[p];
            let name = param.name.rsplit_once('.').map_or(param.name.as_str(), |(layer, _)| layer);
            let (count, flops) = (param.shape.elements(), op.flops(&ir.shapes(id), node.shape));
            match layers.iter_mut().find(|l| l.name == name) {
                Some(l) => {
                    (l.params, l.flops, l.output) = (l.params + count, l.flops + flops, node.shape);
                }
                None => layers.push(Layer { name: name.to_string(), output: node.shape, params: count, flops }),
            }
        }
    }
    layers
}
