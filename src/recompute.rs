//! Recomputation: activations of a part of the graph are dropped after the forward pass, and computed again for the gradient.
//!
//! A region is a range of nodes: the nodes that one closure added. Two regions are either nested or disjoint. When the reverse walk
//! reaches a node of a region, it reads copies of the region's nodes instead of the nodes themselves. The copies are made at that
//! moment. They depend on the gradient that arrives there, so they run after it.

use crate::graph::{Graph, Node, NodeKind, Tensor};
use std::{collections::BTreeMap, ops::Range};

impl<'g> Tensor<'g> {
    /// Returns `part(self)`. The activations of `part` are dropped after the forward pass and computed again for the gradient.
    /// PyTorch calls this `torch.utils.checkpoint`. Keras and JAX call it rematerialisation (Chen et al. 2016,
    /// [arXiv:1604.06174](https://arxiv.org/abs/1604.06174)).
    ///
    /// Values and gradients have the same bits with and without this method, except where a driver rounds a fused expression
    /// differently. Second derivatives agree to rounding. Each dropout draws the same mask again. The closure runs once. A running
    /// average advances once in a step.
    ///
    /// `part` may return anything: a tensor, or the output and the last state of a recurrent layer, for example. `part` may also
    /// read tensors that it captures. A captured result of another op is an input of the part, as `self` is, and stays in memory.
    /// Parameters are always in memory. Without a gradient this method changes nothing. A mistake in `part` is reported for the op
    /// that made it.
    ///
    /// **Cost.** One more forward pass of the part, without the ops that no gradient needs.
    ///
    /// **Gain.** Take a model of n blocks. Without parts, the activations of all n blocks stay in memory. If each block is a part,
    /// the inputs of the n blocks stay in memory, and the activations of one block at a time. Parts can be nested. Let each group
    /// of √n blocks be a part, and each block in a group a part, too. Then about 2·√n inputs stay in memory, and the activations of
    /// one block. The cost is two more forward passes. [`Memory`](crate::plan::Memory) shows the bytes before anything runs.
    ///
    /// | MiB of activations on the CPU device | 4 blocks | 16 | 64 |
    /// |---|---|---|---|
    /// | transformer blocks `[8, 128, 128]`, 4 heads, 512 inside | 42.6 | 162.8 | 643.5 |
    /// | each a part | 14.0 | 20.0 | 44.0 |
    /// | nested in groups of 2, 4, 8 | 13.5 | 15.5 | 19.5 |
    /// | perceptrons `x + fc2(dropout(gelu(fc1(x))))`, `[8, 128, 256]`, 1,024 inside | 37 | 145 | 577 |
    /// | each a part | 12 | 24 | 72 |
    /// | nested | 11 | 15 | 23 |
    ///
    /// On two cores, a step of the transformer took 1.3 times as long with parts and 1.5 times as long with nested parts.
    ///
    /// ```
    /// use downhill::{Device, Graph, Tensor, losses, optim::Adam, plan::Memory};
    /// let bytes = |recompute: bool| {
    ///     let g = Graph::training();
    ///     let (mut x, target) = (g.input([8, 32, 64]), g.input([8, 32, 64]));
    ///     for i in 0..12 {
    ///         let block = |x| Tensor::transformer_encoder_layer(x, &format!("block{i}"), 4, 256);
    ///         x = if recompute { x.checkpoint(block) } else { block(x) };
    ///     }
    ///     Memory::of(&Device::cpu(), losses::mse(x, target).mean(), Adam::new(1e-3)).map(|memory| memory.activations)
    /// };
    /// assert!(bytes(true)? * 4 < bytes(false)?);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn checkpoint<R>(self, part: impl FnOnce(Tensor<'g>) -> R) -> R {
        let start = self.graph.inner.borrow().nodes.len();
        let result = part(self);
        let mut g = self.graph.inner.borrow_mut();
        let end = g.nodes.len();
        g.regions.push(start..end);
        result
    }
}

/// The copies that one reverse walk makes.
pub(crate) struct Copies<'g> {
    graph: &'g Graph,
    /// The node that is differentiated.
    of: usize,
    /// The regions. An inner region comes before the regions that contain it.
    regions: Vec<Range<usize>>,
    /// The innermost region that contains each node.
    region: Vec<Option<usize>>,
    /// The copy of each node of a region, by the number of the region.
    made: BTreeMap<usize, Vec<usize>>,
}

impl<'g> Copies<'g> {
    /// Starts a walk for the gradient of `of`.
    pub fn new(of: Tensor<'g>) -> Copies<'g> {
        let len = of.id + 1;
        let cut = |r: &Range<usize>| r.start.min(len)..r.end.min(len);
        let regions: Vec<Range<usize>> = of.graph.inner.borrow().regions.iter().map(cut).collect();
        let mut region = vec![None; len];
        for (i, range) in regions.iter().enumerate().rev() {
            region[range.clone()].fill(Some(i));
        }
        Copies { graph: of.graph, of: of.id, regions, region, made: BTreeMap::new() }
    }

    /// Runs `f`, which adds the gradient of node `id`. The new nodes are not merged with equal nodes of the forward pass. Merging
    /// would force the forward pass to store the activations of those nodes.
    pub fn apart<R>(&self, id: usize, f: impl FnOnce() -> R) -> R {
        match self.region[id] {
            Some(region) => self.graph.as_copy((region, self.of, 0), f),
            None => f(),
        }
    }

    /// Returns the node that the gradient of node `user` reads instead of node `id`.
    pub fn read(&mut self, nodes: &[Node], user: usize, id: usize) -> usize {
        self.read_in(nodes, self.region[user], id)
    }

    fn read_in(&mut self, nodes: &[Node], region: Option<usize>, id: usize) -> usize {
        let Some(region) = region else { return id };
        let range = self.regions[region].clone();
        // Parameters and constants stay in memory, so they need no copy.
        if !range.contains(&id) || !matches!(nodes[id].kind, NodeKind::Op(_)) {
            return self.read_in(nodes, self.around(region), id);
        }
        if !self.made.contains_key(&region) {
            self.copy(nodes, region);
        }
        self.made[&region][id - range.start]
    }

    /// Copies the nodes of a region. An input from outside of the region is read as the enclosing region reads it, which may be a
    /// copy, too.
    fn copy(&mut self, nodes: &[Node], region: usize) {
        let range = self.regions[region].clone();
        let mut copies: Vec<usize> = range.clone().collect();
        for id in range.clone() {
            let node = &nodes[id];
            let NodeKind::Op(op) = &node.kind else { continue };
            let read = |&i: &usize| match range.contains(&i) && matches!(nodes[i].kind, NodeKind::Op(_)) {
                true => copies[i - range.start],
                false => self.read_in(nodes, self.around(region), i),
            };
            let inputs: Vec<usize> = node.inputs.iter().map(read).collect();
            let inputs: Vec<Tensor> = inputs.iter().map(|&i| self.graph.tensor(i)).collect();
            let mark = (region, self.of, node.copy);
            let copy = || self.graph.part_of(node, || self.graph.apply_at(op.clone(), &inputs, node.place));
            copies[id - range.start] = self.graph.as_copy(mark, copy).id;
        }
        self.made.insert(region, copies);
    }

    /// Returns the innermost region that contains the region `region`.
    fn around(&self, region: usize) -> Option<usize> {
        let start = self.regions[region].start;
        (region + 1..self.regions.len()).find(|&r| self.regions[r].contains(&start))
    }
}
