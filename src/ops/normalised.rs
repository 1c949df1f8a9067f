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
}

impl Normalised {
    /// Makes the op for a y that was normalised by these statistics.
    pub fn new(own: Statistics) -> Normalised {
        Normalised { map: Map::new(Expr::call(Fun::Identity, &[Inst::Input(0)])), own }
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
        let dscale = scale.map(|w| self.own.slope(x[1], dy).reshape(w.shape()));
        [None, Some(self.own.gradient(x[1], dy, scale))].into_iter().chain(scale.is_some().then_some(dscale)).collect()
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
        let case = |name: &str, inputs: &[Shape]| Case::new(name, Normalised::new(own), inputs).flat();
        vec![case("plain", &[x, x]), case("scaled", &[x, x, w])]
    }
}

impl Statistics {
    fn rows<'g>(self, x: Tensor<'g>) -> Rows<'g> {
        Rows::of(x.graph.apply(self, &[x]), self.over.kept(x.shape()))
    }
    /// Returns 4 / √(v + eps).
    pub(super) fn r<'g>(self, x: Tensor<'g>) -> Tensor<'g> {
        self.rows(x).r
    }
    /// Returns ŷ = (x − mean) / √(v + eps).
    pub(super) fn normalised<'g>(self, x: Tensor<'g>) -> Tensor<'g> {
        self.scaled(x, None)
    }
    /// Returns ŷ·w.
    fn scaled<'g>(self, x: Tensor<'g>, w: Option<Tensor<'g>>) -> Tensor<'g> {
        let rows = self.rows(x);
        let deviation = if self.centre { rows.deviation(x) } else { x * 0.25 };
        // Multiply the small tensors first.
        let y = deviation * w.map_or(rows.r, |w| rows.r * w);
        let inputs: Vec<Tensor> = [y, x].into_iter().chain(w).collect();
        x.graph.apply(Normalised::new(self), &inputs)
    }
    /// Returns Σ dy·ŷ.
    fn slope<'g>(self, x: Tensor<'g>, dy: Tensor<'g>) -> Tensor<'g> {
        let op = Comoment { over: self.over, about: About::Own { centre: self.centre, eps: self.eps } };
        x.graph.apply(op, &[dy, x, x.graph.apply(self, &[x])])
    }
    /// Returns the gradient for x. dy is the gradient of ŷ·w.
    pub(super) fn gradient<'g>(self, x: Tensor<'g>, dy: Tensor<'g>, w: Option<Tensor<'g>>) -> Tensor<'g> {
        let (rows, part) = (self.rows(x), 1.0 / self.over.count(x.shape()) as f32);
        let kept = self.over.kept(x.shape());
        // ŷ·mean(dy·ŷ). The factors with the shape of the statistics are multiplied first.
        let slope = rows.r * (self.slope(x, dy) * part);
        let scale = rows.r * w.map_or(x.graph.scalar(0.25), |w| w * 0.25);
        if !self.centre {
            return (dy - x * 0.25 * slope) * scale;
        }
        let shift = dy.sum_to(kept) * part - rows.rest * slope;
        (dy - shift - (x * 0.25 - rows.mean) * slope) * scale
    }
}

impl<'g> Tensor<'g> {
    /// Returns this tensor normalised over these axes and scaled by w. Then returns the mean and the variance, for running
    /// averages.
    pub(crate) fn normalise_over(self, axes: Vec<usize>, eps: f32, w: Option<Tensor<'g>>) -> (Tensor<'g>, [Tensor<'g>; 2]) {
        let over = Over::new(axes).expect("all axes but the second one are a block, or one and the first");
        let own = Statistics { over, centre: true, eps };
        let rows = own.rows(self);
        (own.scaled(self, w), [(rows.mean + rows.rest) * 4.0, rows.variance])
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
