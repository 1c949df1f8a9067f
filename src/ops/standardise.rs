//! `y = (x − mean)·scale`, with mean and scale broadcast. It is an elementwise expression, which fuses as any other. But its
//! gradient for the scale, Σ dy·(x − mean), is one reduction, without the product in memory.

use super::{
    map::{Expr, Fun, Inst, Map, Sub},
    *,
};

/// The op: x, scale and, optionally, mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standardise {
    map: Map,
}

impl Standardise {
    /// Makes the op with a mean, or with 0 instead of a mean.
    pub fn new(mean: bool) -> Standardise {
        let of = |f, b| Expr::call(f, &[Inst::Input(0), Inst::Input(b)]);
        let centred = of(Fun::Sub, 1);
        let x = if mean { Sub::Expr(&centred, &[0, 2]) } else { Sub::Input(0) };
        Standardise { map: Map::new(of(Fun::Mul, 1).compose(&[x, Sub::Input(1)])) }
    }
}

impl OpDef for Standardise {
    const NAME: &'static str = "standardise";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let y = OpDef::shape(&self.map, x)?;
        match x[0] == y && x.iter().all(|x| x.dtype() == DType::F32) {
            true => Ok(y),
            false => Err("scale and mean must be floats that broadcast to the first input".into()),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        self.map.reference(x, y, key)
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        OpDef::cpu(&self.map, x, y, key)
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (scale, mean) = (x[1], x.get(2).copied());
        let dscale = dy.comoment(x[0], mean, scale.shape());
        let dmean = mean.map(|m| match m.shape().same_dims(scale.shape()) {
            // A bias behind this op needs the same sum.
            true => -(dy.sum_to(m.shape()) * scale),
            false => -(dy * scale),
        });
        [Some(dy * scale), Some(dscale)].into_iter().chain(mean.is_some().then_some(dmean)).collect()
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        OpDef::kernels(&self.map, x, y, caps)
    }
    fn as_map(&self) -> Option<&Map> {
        Some(&self.map)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        // For the gradient of the scale.
        x[0].elements() / x[1].elements()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::floats(x, &[(0, 0.1, 2.0)])
    }
    fn cases() -> Vec<Case> {
        let case = |x: &[usize], scale: &[usize], mean: Option<&[usize]>| {
            let shapes: Vec<Shape> = [x, scale].into_iter().chain(mean).map(|d| Shape::new(d).expect("at most six axes")).collect();
            Case::new(format!("{shapes:?}"), Standardise::new(mean.is_some()), &shapes)
        };
        let mut cases = vec![
            case(&[1], &[1], None),
            case(&[5, 7], &[5, 7], Some(&[5, 7])),
            case(&[5, 7], &[], Some(&[7])),
            case(&[5, 7, 3], &[5, 1, 3], Some(&[5, 1, 3])),
            case(&[3, 2, 5, 2], &[3, 1, 5, 1], Some(&[1, 5, 1])),
        ];
        // Scales of channels, at the front and in the middle, and scales of columns.
        for kept in [&[3, 1, 1][..], &[1, 3, 1, 1], &[5, 3, 1, 1], &[7, 11], &[5, 3, 7, 11]] {
            cases.push(case(&[5, 3, 7, 11], kept, None));
            cases.push(case(&[5, 3, 7, 11], kept, Some(kept)));
        }
        cases
    }
}

impl<'g> Tensor<'g> {
    /// Returns (self − mean)·scale.
    #[track_caller]
    pub(crate) fn standardise(self, scale: Tensor<'g>, mean: Option<Tensor<'g>>) -> Tensor<'g> {
        let inputs: Vec<Tensor> = [self, scale].into_iter().chain(mean).collect();
        self.graph.apply(Standardise::new(mean.is_some()), &inputs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<Standardise>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Standardise>();
    }
    #[test]
    fn mistakes() {
        let g = Graph::training();
        assert!(g.input([3]).standardise(g.input([2, 3]), None).is_dead());
        let text = g.error().map_or(String::new(), |e| e.to_string());
        let want = "standardise: [3] × [2, 3]: scale and mean must be floats that broadcast to the first input (src/ops/standardise.rs:";
        assert!(text.starts_with(want), "{text}");
    }
}
