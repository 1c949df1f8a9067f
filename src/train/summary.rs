//! A model's layers, sizes and costs as a table.

use super::Trainer;
use crate::{
    error::Result,
    graph::{Graph, Kind},
    plan::{Plan, ir::Ir, memory},
    shape::Shape,
};
use std::fmt::Write;

/// A row of the table: the parameters `name.…` and the op that uses the first of them.
struct Layer {
    name: String,
    output: Shape,
    params: usize,
    flops: u64,
}

impl Trainer {
    /// Layers with output shapes, parameters and FLOPs of a forward pass, and the bytes of it all, for batches of `batch`.
    ///
    /// # Errors
    /// For a trainer made of one graph.
    pub fn summary(&self, batch: usize) -> Result<String> {
        let g = Graph::training();
        let written = self.model("summary")?.write(&g, batch.max(1))?;
        let ir = Ir::new(&g, &[written.loss]);
        let layers = layers(&ir);
        let step = {
            let grads = written.loss.grad(&g.param_tensors());
            Plan::new(&[written.loss], &grads, &self.device.plan_options())?
        };
        let mut text = String::new();
        let _ = writeln!(text, "{:<20} {:<18} {:>12} {:>14}", "layer", "output", "parameters", "MFLOP forward");
        for l in &layers {
            let _ = writeln!(text, "{:<20} {:<18} {:>12} {:>14.3}", l.name, l.output.to_string(), l.params, l.flops as f64 / 1e6);
        }
        let params: usize = self.params().elements();
        let states = self.update.optimizer.states().len();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let _ = writeln!(text, "{params} parameters, {:.1} MFLOP a step at batch {batch}", step.flops() as f64 / 1e6);
        let _ = writeln!(
            text,
            "memory: weights {:.2} MiB, gradients {:.2} MiB, optimizer {:.2} MiB, activations {:.2} MiB ({:.2} MiB without reuse)",
            mib(params as u64 * 4),
            mib(params as u64 * 4),
            mib((params * states) as u64 * 4),
            mib(memory::bytes(&step.slots)),
            mib(step.unplanned_bytes)
        );
        Ok(text)
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
