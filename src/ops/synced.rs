//! Statistics of the tensors of all ranks, for batch norm over ranks.
//!
//! A rank sends one list of numbers in the forward pass and one in the gradient. The statistics of parts are combined as by Chan, Golub
//! & LeVeque 1983: mean = Σ nᵣ·meanᵣ / N and var = Σ nᵣ·(varᵣ + (meanᵣ − mean)²) / N, where nᵣ is the number of values of rank r.

use super::{moments::Statistics, *};

/// The weight of a rank whose loss has no weight, as a part of all weights. Its samples belong to the batch statistics, so it has a
/// gradient, and a weight of 0 would drop the gradient. No sum of weights notices a number so small.
const LEAST: f32 = 1.0 / (1u64 << 40) as f32;

/// Tells the graph the weight of this rank's loss in the mean over ranks. Returns the weight with which the gradients of this rank count.
///
/// The loss of all ranks is L = Σ wᵣ·Lᵣ / Σ wᵣ, and the gradient of all ranks is the mean of the ranks' gradients with the same weights.
/// So a gradient that flows from the loss of rank r to the values of rank k is multiplied by wᵣ / wₖ.
pub(crate) fn weigh_rank<'g>(weight: Tensor<'g>) -> Tensor<'g> {
    let g = weight.graph;
    let Some((rank, ranks)) = g.ranks() else { return weight };
    let all = weight.reshape([1]).all_gather(ranks);
    let all = all.ne(0.0).where_(all, all.sum_all() * LEAST);
    let own = all.slice(0, rank, rank + 1).reshape([]);
    // If no loss has a weight, no gradient flows between ranks.
    g.set_shares(all / own.ne(0.0).where_(own, 1.0));
    own
}

impl Statistics {
    /// Returns the statistics of the x of all ranks, as the [op](Statistics) gives them, and the number of values behind each of them:
    /// `[4, results]` and `[1]`.
    pub(super) fn of_ranks<'g>(self, x: Tensor<'g>, ranks: usize) -> (Tensor<'g>, Tensor<'g>) {
        let (g, c) = (x.graph, self.over.kept(x.shape()).elements());
        let own = g.apply(self, &[x]);
        let count = g.full([1], self.over.count(x.shape()) as f32);
        // The third row follows from the fourth. The second row makes the mean exact to twice the digits.
        let all = count.concat(&[own.slice(0, 0, 2).reshape([2 * c]), own.slice(0, 3, 4).reshape([c])], 0).all_gather(ranks);
        let columns = |from: usize, to: usize| all.slice(1, from, to);
        let (n, mean_of, rest_of, variance_of) =
            (columns(0, 1), columns(1, 1 + c), columns(1 + c, 1 + 2 * c), columns(1 + 2 * c, 1 + 3 * c));
        let count = n.sum(&[0], true);
        // A rank without samples has zeros, and its share is 0.
        let share = n / count;
        let over_ranks = |t: Tensor<'g>| (t * share).sum(&[0], true);
        let mean = over_ranks(mean_of);
        // Differences from the rounded mean are exact if all means are close. Their mean is the error of the rounded mean.
        let apart = mean_of - mean + rest_of;
        let rest = over_ranks(apart);
        let variance = over_ranks(variance_of + ((apart - rest) * 4.0).square());
        let r = (variance + self.eps).rsqrt() * 4.0;
        (mean.concat(&[rest, r, variance], 0), count.reshape([1]))
    }
    /// Returns the means over the values of all ranks from this rank's sums, for the gradient of x. Each sum has the shape of the results.
    /// The gradients of the ranks count with their [weights](weigh_rank).
    pub(super) fn means_of_ranks<'g>(self, x: Tensor<'g>, sums: [Tensor<'g>; 2], ranks: usize) -> [Tensor<'g>; 2] {
        let (g, kept) = (x.graph, self.over.kept(x.shape()));
        let Some(shares) = g.shares() else {
            let why = "with sync_batch_norm, a model cannot use gradients through batch norm in its own loss: the loss of a rank does not \
                       know the losses of the others";
            return [g.mistake("batch_norm", &[x], why.into(), x.place()); 2];
        };
        let c = kept.elements();
        let all = sums[0].reshape([c]).concat(&[sums[1].reshape([c])], 0).all_gather(ranks);
        let means = (all * shares).sum(&[0], false) / self.of_ranks(x, ranks).1;
        [means.slice(0, 0, c).reshape(kept), means.slice(0, c, 2 * c).reshape(kept)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, graph::NodeKind, ops::all_gather::is_exchange, plan::ir::Ir};

    /// Computes the outputs of all ranks in `f64`, node by node. All ranks have the same nodes, of other sizes.
    fn interpret(irs: &[Ir], inputs: &[Vec<Host<f64>>], params: &[Host<f64>]) -> Vec<Vec<Host<f64>>> {
        let mut values: Vec<Vec<Host<f64>>> = vec![Vec::new(); irs.len()];
        for id in 0..irs[0].nodes.len() {
            for (rank, ir) in irs.iter().enumerate() {
                let node = &ir.nodes[id];
                let mut y = Host::zeros(node.shape);
                match &node.kind {
                    NodeKind::Input(i) => y = inputs[rank][*i].clone(),
                    NodeKind::Param(i) => y = params[*i].clone(),
                    NodeKind::Constant(c) => y = c.cast(),
                    NodeKind::Op(op) if is_exchange(&**op) => {
                        let sent = irs.iter().zip(&values).flat_map(|(ir, values)| values[ir.nodes[id].inputs[0]].f().iter().copied());
                        y = Host::new(node.shape, sent.collect());
                    }
                    NodeKind::Op(op) => {
                        let x: Vec<View<f64>> = node.inputs.iter().map(|&i| values[rank][i].view()).collect();
                        op.reference_f64(&x, &mut y.view_mut(), Key::default());
                    }
                }
                values[rank].push(y);
            }
        }
        irs.iter().zip(values).map(|(ir, values)| ir.outputs.iter().map(|&o| values[o].clone()).collect()).collect()
    }

    /// Compares the gradients of ranks of several sizes and weights with central differences of the loss of all ranks. The loss of the last
    /// rank has no weight.
    #[test]
    fn gradients() {
        let (sizes, weights) = ([2, 3, 2], [3.0, 1.5, 0.0]);
        let graphs: Vec<Graph> = (0..3).map(|rank| Graph::training_over(Some((rank, 3)))).collect();
        let irs: Vec<Ir> = graphs
            .iter()
            .zip(sizes)
            .map(|(g, n)| {
                let (x, w) = (g.input([n, 4, 2]), g.input([]));
                let y = x.batch_norm("bn");
                let c = g.constant(Host::new(y.shape(), (0..y.shape().elements()).map(|i| (i as f32 * 0.7).sin()).collect()));
                let loss = (y.square() * y * 0.3 + y * c).mean_all();
                let own = weigh_rank(w);
                let grads = loss.grad(&[x, g.param_tensors()[0]]);
                assert_eq!(g.error().map(|error| error.to_string()), None);
                Ir::new(g, &[loss, own, grads[0], grads[1]])
            })
            .collect();
        assert!(irs.iter().all(|ir| ir.nodes.len() == irs[0].nodes.len()));
        let wave = |n: usize, k: f64| (0..8 * n).map(|i| 5.0 + (i as f64 * k + k).sin() * 1.5).collect::<Vec<f64>>();
        let inputs: Vec<Vec<Host<f64>>> = (0..3)
            .map(|rank| vec![Host::new([sizes[rank], 4, 2], wave(sizes[rank], 1.3 + rank as f64)), Host::new([], vec![weights[rank]])])
            .collect();
        let start: Vec<Host<f64>> =
            [[0.7, 1.2, -0.5, 2.0], [0.1, 0.0, -0.3, 0.2], [0.0; 4], [1.0; 4]].map(|p| Host::new([4], p.to_vec())).into();
        let all = interpret(&irs, &inputs, &start);
        let own: Vec<f64> = all.iter().map(|outputs| outputs[1].f()[0]).collect();
        assert!(own[..2] == weights[..2] && own[2] > 0.0 && own[2] < 1e-9, "{own:?}");
        let loss = |inputs: &[Vec<Host<f64>>], params: &[Host<f64>]| {
            let all = interpret(&irs, inputs, params);
            all.iter().zip(weights).map(|(outputs, w)| w * outputs[0].f()[0]).sum::<f64>() / 4.5
        };
        let h = 1e-5;
        let close = |a: f64, b: f64, what: &str| assert!((a - b).abs() < 1e-7 * (1.0 + b.abs()), "{what}: {a} instead of {b}");
        for rank in 0..3 {
            for i in 0..8 * sizes[rank] {
                let moved = |h: f64| {
                    let mut inputs = inputs.clone();
                    inputs[rank][0].view_mut().f[i] += h;
                    loss(&inputs, &start)
                };
                let numeric = (moved(h) - moved(-h)) / (2.0 * h);
                close(all[rank][2].f()[i] * own[rank] / 4.5, numeric, &format!("rank {rank}, element {i}"));
            }
        }
        for i in 0..4 {
            let moved = |h: f64| {
                let mut params = start.clone();
                params[0].view_mut().f[i] += h;
                loss(&inputs, &params)
            };
            let mean: f64 = all.iter().zip(&own).map(|(outputs, w)| w * outputs[3].f()[i]).sum::<f64>() / 4.5;
            close(mean, (moved(h) - moved(-h)) / (2.0 * h), &format!("weight {i}"));
        }
    }
}
