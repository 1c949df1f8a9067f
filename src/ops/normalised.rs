//! Normalisation over the tensor's own statistics, which are tensors: statistics of a batch, or of long lines.
//! `y = (x − mean) / √(v + eps)·w` is elementwise code, which fuses with its neighbours. Only its gradient needs one op. Through
//! mean and variance, the gradient would be r³ times (x − mean)², which exceeds the range of `f32`. With `ŷ = (x − mean)·r` the
//! gradient is `r·w·(dy − mean dy − ŷ·mean(dy·ŷ))`.

use super::{
    comoment::{About, Comoment},
    map::{Expr, Fun, Inst, Map},
    moments::{Over, Rows, Statistics},
    *,
};

/// The op: y, x and, optionally, w. Its value is y, which is computed elsewhere. Its gradient goes to x and w.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalised {
    map: Map,
    own: Statistics,
    /// The number of ranks whose tensors have the statistics together.
    ranks: usize,
}

impl Normalised {
    /// Makes the op for a y that was normalised by these statistics of the tensors of `ranks` ranks.
    pub fn new(own: Statistics, ranks: usize) -> Normalised {
        Normalised { map: Map::new(Expr::call(Fun::Identity, &[Inst::Input(0)])), own, ranks }
    }
}

impl OpDef for Normalised {
    const NAME: &'static str = "normalised";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        match OpDef::shape(&self.map, x)? {
            y if x.len() > 1 && x[0] == y && x[1] == y => Ok(y),
            _ => Err("takes two tensors of floats of one shape, and a scale that broadcasts to it".into()),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        self.map.reference(&x[..1], y, key)
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        OpDef::cpu(&self.map, &x[..1], y, key)
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let scale = x.get(2).copied();
        let dscale = scale.map(|w| self.own.slope(x[1], dy, self.ranks).reshape(w.shape()));
        [None, Some(self.own.gradient_over(x[1], dy, scale, self.ranks))].into_iter().chain(scale.is_some().then_some(dscale)).collect()
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        OpDef::kernels(&self.map, &x[..1], y, caps)
    }
    fn as_map(&self) -> Option<&Map> {
        Some(&self.map)
    }
    fn cases() -> Vec<Case> {
        let own = Statistics { over: Over { lead: 0, start: 1, end: 2 }, centre: true, eps: 0.1 };
        let (x, w) = (Shape::from([5, 7]), Shape::from([5, 1]));
        // Here y does not depend on x and w, so the gradient cannot be checked. Tests of layers check it.
        let case = |name: &str, inputs: &[Shape]| Case::new(name, Normalised::new(own, 1), inputs).flat();
        vec![case("plain", &[x, x]), case("scaled", &[x, x, w])]
    }
}

impl Statistics {
    /// Returns the statistics of x, or of the x of all ranks.
    fn all<'g>(self, x: Tensor<'g>, ranks: usize) -> Tensor<'g> {
        if ranks > 1 { self.of_ranks(x, ranks).0 } else { x.graph.apply(self, &[x]) }
    }
    fn rows<'g>(self, x: Tensor<'g>, ranks: usize) -> Rows<'g> {
        Rows::of(self.all(x, ranks), self.over.kept(x.shape()))
    }
    /// Returns 4 / √(v + eps).
    pub(super) fn r<'g>(self, x: Tensor<'g>) -> Tensor<'g> {
        self.rows(x, 1).r
    }
    /// Returns ŷ = (x − mean) / √(v + eps).
    pub(super) fn normalised<'g>(self, x: Tensor<'g>) -> Tensor<'g> {
        self.scaled(x, None, 1)
    }
    /// Returns ŷ·w.
    fn scaled<'g>(self, x: Tensor<'g>, w: Option<Tensor<'g>>, ranks: usize) -> Tensor<'g> {
        let rows = self.rows(x, ranks);
        let deviation = if self.centre { rows.deviation(x) } else { x * 0.25 };
        // Multiply the small tensors first.
        let y = deviation * w.map_or(rows.r, |w| rows.r * w);
        let inputs: Vec<Tensor> = [y, x].into_iter().chain(w).collect();
        x.graph.apply(Normalised::new(self, ranks), &inputs)
    }
    /// Returns Σ dy·ŷ over this rank's x.
    fn slope<'g>(self, x: Tensor<'g>, dy: Tensor<'g>, ranks: usize) -> Tensor<'g> {
        let op = Comoment { over: self.over, about: About::Own { centre: self.centre, eps: self.eps } };
        x.graph.apply(op, &[dy, x, self.all(x, ranks)])
    }
    /// Returns the gradient for x. dy is the gradient of ŷ·w.
    pub(super) fn gradient<'g>(self, x: Tensor<'g>, dy: Tensor<'g>, w: Option<Tensor<'g>>) -> Tensor<'g> {
        self.gradient_over(x, dy, w, 1)
    }
    /// Returns the gradient for this rank's x. The statistics are those of `ranks` ranks.
    fn gradient_over<'g>(self, x: Tensor<'g>, dy: Tensor<'g>, w: Option<Tensor<'g>>, ranks: usize) -> Tensor<'g> {
        let (rows, part) = (self.rows(x, ranks), 1.0 / self.over.count(x.shape()) as f32);
        let kept = self.over.kept(x.shape());
        let over_ranks = (ranks > 1).then(|| self.means_of_ranks(x, [dy.sum_to(kept), self.slope(x, dy, ranks)], ranks));
        // ŷ·mean(dy·ŷ). The factors with the shape of the statistics are multiplied first.
        let slope = rows.r * over_ranks.map_or_else(|| self.slope(x, dy, ranks) * part, |means| means[1]);
        let scale = rows.r * w.map_or(x.graph.scalar(0.25), |w| w * 0.25);
        if !self.centre {
            return (dy - x * 0.25 * slope) * scale;
        }
        let shift = over_ranks.map_or_else(|| dy.sum_to(kept) * part, |means| means[0]) - rows.rest * slope;
        (dy - shift - (x * 0.25 - rows.mean) * slope) * scale
    }
}

impl<'g> Tensor<'g> {
    /// Returns this tensor normalised over these axes and scaled by w. Then returns the mean and the variance, for running
    /// averages. If the graph is [for several ranks](crate::Graph::ranks), mean and variance are those of the tensors of all ranks, and
    /// the number of values `[1]` behind each of them comes last.
    pub(crate) fn normalise_over(
        self,
        axes: Vec<usize>,
        eps: f32,
        w: Option<Tensor<'g>>,
    ) -> (Tensor<'g>, [Tensor<'g>; 2], Option<Tensor<'g>>) {
        let over = Over::new(axes).expect("all axes but the second one are a block, or one and the first");
        let own = Statistics { over, centre: true, eps };
        let ranks = self.graph.ranks().map_or(1, |(_, ranks)| ranks);
        let rows = own.rows(self, ranks);
        let count = (ranks > 1).then(|| own.of_ranks(self, ranks).1);
        (own.scaled(self, w, ranks), [(rows.mean + rows.rest) * 4.0, rows.variance], count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn cpu() {
        checks::cpu::<Normalised>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Normalised>();
    }
}
