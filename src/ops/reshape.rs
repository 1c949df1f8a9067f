//! Gives the same elements another shape. The op is an alias, without a kernel.

use super::*;
use crate::shape::MAX_RANK;
use std::panic::Location;

/// The op: the memory of the input with the shape `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reshape {
    /// The new shape. It has the same number of elements as the input.
    pub to: Shape,
}

impl<'g> Tensor<'g> {
    /// Returns the same elements in the same order with another shape. It is a mistake if the new shape has another number of
    /// elements.
    #[track_caller]
    pub fn reshape(self, to: impl Into<Shape>) -> Tensor<'g> {
        let to = to.into();
        // If the shape is the same, no node is added. A node would separate two nodes that could fuse.
        if self.shape().same_dims(to) { self } else { self.apply(Reshape { to }) }
    }
    /// Returns `[n, ..]` as `[n, rest]`: each sample becomes one row.
    #[track_caller]
    pub fn flatten(self) -> Tensor<'g> {
        let s = self.shape();
        let n = s.dims().first().copied().unwrap_or(1);
        self.reshape([n, s.elements() / n.max(1)])
    }
    /// Inserts a new axis of size 1 before axis `axis`. −1 puts the new axis last.
    #[track_caller]
    pub fn unsqueeze(self, axis: isize) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        if self.is_dead() {
            return self;
        }
        let at = if axis < 0 { axis + s.rank() as isize + 1 } else { axis };
        if !(0..=s.rank() as isize).contains(&at) {
            return self.graph.mistake("unsqueeze", &[self], format!("there is no position {axis} for a new axis"), place);
        }
        let mut dims = s.dims().to_vec();
        dims.insert(at as usize, 1);
        match Shape::new(&dims) {
            Some(to) => self.reshape(to),
            None => self.graph.mistake("unsqueeze", &[self], format!("more than {MAX_RANK} axes"), place),
        }
    }
    /// Removes axis `axis`. It is a mistake if its size is not 1.
    #[track_caller]
    pub fn squeeze(self, axis: isize) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        match s.axis(axis) {
            _ if self.is_dead() => self,
            Some(a) if s.dims()[a] == 1 => self.reshape(s.without(a)),
            Some(a) => self.graph.mistake("squeeze", &[self], format!("axis {axis} has size {}, not 1", s.dims()[a]), place),
            None if s.is_scalar_along(axis) => self,
            None => self.graph.mistake("squeeze", &[self], format!("there is no axis {axis}"), place),
        }
    }
}

impl OpDef for Reshape {
    const NAME: &'static str = "reshape";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        // Count without overflow, because the graph has not checked the new shape yet.
        match self.to.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
            Some(n) if n == x.elements() => Ok(self.to.of(x.dtype())),
            Some(0) => Err(format!("{} elements do not fill {}: an axis of size 0 holds nothing", x.elements(), self.to.of(DType::F32))),
            Some(n) => Err(format!("{} elements do not fill {}, which has {n}", x.elements(), self.to.of(DType::F32))),
            None => Err(format!("{} elements do not fill {}", x.elements(), self.to.of(DType::F32))),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.f.copy_from_slice(x[0].f);
        y.u.copy_from_slice(x[0].u);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.reshape(x[0].shape()))]
    }
    fn kernels(&self, _x: &[Shape], _y: Shape, _caps: &Caps) -> Vec<Kernel> {
        Vec::new()
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn is_alias(&self) -> bool {
        true
    }
    fn cases() -> Vec<Case> {
        let case = |x: &[usize], y: &[usize]| {
            let [x, to] = [x, y].map(|d| Shape::new(d).expect("at most six axes"));
            Case::new(format!("{x} to {to}"), Reshape { to }, &[x])
        };
        vec![case(&[], &[1, 1]), case(&[2, 3, 4], &[4, 6]), case(&[13, 17], &[221]), case(&[6, 1, 5], &[1, 5, 1, 2, 3, 1])]
    }
}

#[cfg(test)]
mod tests {
    use crate::{Graph, Shape, ops::checks};

    #[test]
    fn golden() {
        checks::golden("reshape", |args, x| x[0].reshape(Shape::new(&checks::sizes(&args["shape"])).unwrap()));
    }
    #[test]
    fn cpu() {
        checks::cpu::<super::Reshape>();
    }

    #[test]
    fn mistakes_name_both_counts() {
        type Model = for<'g> fn(&'g Graph) -> crate::Tensor<'g>;
        let start = |f: Model, text: &str| {
            let g = Graph::training();
            let message = f(&g).error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        start(|g| g.input([2, 3]).reshape([4, 2]), "reshape: [2, 3]: 6 elements do not fill [4, 2], which has 8 (");
        start(|g| g.input([2]).reshape([usize::MAX, 2]), "reshape: [2]: 2 elements do not fill [");
        start(|g| g.input([2, 3]).squeeze(-1), "squeeze: [2, 3]: axis -1 has size 3, not 1 (");
        start(|g| g.input([2, 3]).unsqueeze(4), "unsqueeze: [2, 3]: there is no position 4 for a new axis (");
        start(|g| g.input([1; 6]).unsqueeze(0), "unsqueeze: [1, 1, 1, 1, 1, 1]: more than 6 axes (");
        let g = Graph::training();
        assert_eq!(g.input([2, 3]).unsqueeze(-1).shape().dims(), [2, 3, 1]);
        assert_eq!(g.input([2, 3]).unsqueeze(1).squeeze(1).shape().dims(), [2, 3]);
        assert_eq!(g.input([4, 2, 3]).flatten().shape().dims(), [4, 6]);
        assert!(g.error().is_none());
        // After a mistake every method hands the dead tensor on.
        g.input([2]).squeeze(5).flatten().unsqueeze(7).reshape([3]);
        assert!(g.error().is_some_and(|e| e.to_string().starts_with("squeeze: ")));
    }
}
