//! Takes elements along an axis by index. Its gradient adds elements up by index.
//!
//! `y[o,i,c] = x[o, index[o,i,c], c]`. `dx[o,k,c] = Σ_{i: index[o,i,c] = k} dy[o,i,c]`, added in the order of i.
//!
//! Indices from the host are checked before anything runs. An index that the graph computes may name no element. Its result is
//! NaN, so the step is not finite and training notices it. Its gradient goes to no element.

use super::*;
use crate::{
    graph::Below,
    kernel::{Bind, Pass, source},
    threads::{HEAVY_TASK, chunk, lines},
};
use std::panic::Location;

/// The op: x `[.., n, ..]`, index u32 `[.., m, ..]` → `[.., m, ..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The axis that the indices count along.
    pub axis: usize,
}

/// The gradient: dy `[.., m, ..]`, index u32 `[.., m, ..]` → `[.., n, ..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScatterAdd {
    /// The axis that the indices count along.
    pub axis: usize,
    /// The size of this axis.
    pub n: usize,
}

/// The sizes: the elements before the axis, n and m, and the elements behind the axis.
#[derive(Clone, Copy)]
struct Sizes {
    n: usize,
    m: usize,
    inner: usize,
}

impl Sizes {
    fn new(large: Shape, index: Shape, axis: usize) -> Sizes {
        let [_, n, inner] = large.around(axis);
        Sizes { n, m: index.dims()[axis], inner }
    }
    /// Writes the elements that the indices name, for one place of the axes before `axis`.
    fn gather<T: Real>(&self, x: &[T], index: &[u32], y: &mut [T]) {
        for (i, (y, &k)) in y.iter_mut().zip(index).enumerate() {
            *y = if (k as usize) < self.n { x[k as usize * self.inner + i % self.inner] } else { T::nan() };
        }
    }
    fn scatter<T: Real>(&self, dy: &[T], index: &[u32], dx: &mut [T]) {
        dx.fill(T::zero());
        for (i, (&dy, &k)) in dy.iter().zip(index).enumerate() {
            if (k as usize) < self.n {
                dx[k as usize * self.inner + i % self.inner] += dy;
            }
        }
    }
    /// Returns a kernel whose units are the elements of `to`: `small` is true if they are the m elements of a line.
    fn kernel(&self, entry: &'static str, [from, to]: [&'static str; 2], small: bool, y: Shape, caps: &Caps) -> Kernel {
        let wg = caps.workgroup(256);
        let [few, many] = [self.m * self.inner, self.n * self.inner];
        let (read, write) = if small { (many, few) } else { (few, many) };
        let pass = Pass {
            source: source!("gather"),
            entry,
            consts: vec![("WG", wg.into())],
            params: [("n", self.n), ("m", self.m), ("inner", self.inner)].map(|(name, x)| (name.to_string(), x.into())).into(),
            binds: vec![
                Bind::input(from, 0, DType::F32).blocks(write, read),
                Bind::input("index", 1, DType::U32).blocks(write, few),
                Bind::output(to, DType::F32).blocks(write, write),
            ],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        Kernel::one("elements", pass)
    }
}

/// Checks the tensor and the indices, and returns their common shape but for `axis`.
fn check(x: &[Shape], axis: usize) -> Result<[Shape; 2], String> {
    let &[x, index] = x else { return Err(format!("takes a tensor and indices, not {} inputs", x.len())) };
    if x.dtype() != DType::F32 {
        return Err("takes floats, not labels (see to_f32)".into());
    }
    if index.dtype() != DType::U32 {
        return Err("the indices must be integers (Graph::labels, to_index)".into());
    }
    if axis >= x.rank() {
        return Err(format!("there is no axis {axis}"));
    }
    if index.rank() != x.rank() || !x.with(axis, 1).same_dims(index.with(axis, 1)) {
        return Err(format!("the indices must have the shape of the tensor, except along axis {axis}"));
    }
    Ok([x, index])
}

impl OpDef for Gather {
    const NAME: &'static str = "gather";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [_, index] = check(x, self.axis)?;
        Ok(index.of(DType::F32))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let s = Sizes::new(x[0].shape, x[1].shape, self.axis);
        let lines = x[0].f.chunks(s.n * s.inner).zip(x[1].u.chunks(s.m * s.inner));
        y.f.chunks_mut(s.m * s.inner).zip(lines).for_each(|(y, (x, index))| s.gather(x, index, y));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let s = Sizes::new(x[0].shape, x[1].shape, self.axis);
        let (n, m) = (s.n * s.inner, s.m * s.inner);
        lines(y.f, m, (HEAVY_TASK / m).max(1), |k, y| s.gather(chunk(x[0].f, n, k), chunk(x[1].u, m, k), y));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let n = x[0].shape().dims()[self.axis];
        vec![Some(dy.graph.apply(ScatterAdd { axis: self.axis, n }, &[dy, x[1]])), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        vec![Sizes::new(x[0], x[1], self.axis).kernel("forward", ["x", "y"], true, y, caps)]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn terms(&self, x: &[Shape]) -> usize {
        // For the gradient: all indices of a line may name one element.
        x[1].dims()[self.axis]
    }
    fn bytes(&self, x: &[Shape], y: Shape) -> u64 {
        x[1].bytes() + 2 * y.bytes()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, x[0].dims()[self.axis])
    }
    fn cases() -> Vec<Case> {
        let case = |(dims, axis, m): (&[usize], usize, usize)| {
            let x = Shape::new(dims).expect("at most six axes");
            let index = x.with(axis, m);
            Case::new(format!("{x} at {index} along {axis}"), Gather { axis }, &[x, index])
        };
        let mut cases: Vec<Case> = sizes().into_iter().map(case).collect();
        cases.push(case((&[3, 40_009], 1, 11)).flat());
        cases
    }
}

/// The shape of a tensor, an axis, and the number of indices along it.
fn sizes() -> Vec<(&'static [usize], usize, usize)> {
    vec![
        (&[1], 0, 1),
        (&[7], 0, 13),
        (&[3, 5, 2], 0, 4),
        (&[3, 5, 2], 1, 1),
        (&[3, 5, 2], 1, 9),
        (&[3, 5, 2], 2, 3),
        (&[2, 1, 6], 1, 5),
        (&[255, 3], 1, 1),
        (&[257, 3], 1, 2),
        (&[3, 31, 37], 1, 11),
    ]
}

impl OpDef for ScatterAdd {
    const NAME: &'static str = "scatter_add";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [dy, index] = check(x, self.axis)?;
        if !dy.same_dims(index) {
            return Err(format!("the gradient {dy} and the indices {index} should have one shape"));
        }
        Ok(dy.with(self.axis, self.n))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let s = Sizes::new(y.shape, x[1].shape, self.axis);
        let lines = x[0].f.chunks(s.m * s.inner).zip(x[1].u.chunks(s.m * s.inner));
        y.f.chunks_mut(s.n * s.inner).zip(lines).for_each(|(dx, (dy, index))| s.scatter(dy, index, dx));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let s = Sizes::new(y.shape, x[1].shape, self.axis);
        let (n, m) = (s.n * s.inner, s.m * s.inner);
        lines(y.f, n, (HEAVY_TASK / n).max(1), |k, dx| s.scatter(chunk(x[0].f, m, k), chunk(x[1].u, m, k), dx));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(Gather { axis: self.axis }, &[dy, x[1]])), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        vec![Sizes::new(y, x[1], self.axis).kernel("grad_x", ["dy", "dx"], false, y, caps)]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        x[1].dims()[self.axis]
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, self.n)
    }
    fn cases() -> Vec<Case> {
        let case = |(dims, axis, m): (&[usize], usize, usize)| {
            let x = Shape::new(dims).expect("at most six axes");
            let index = x.with(axis, m);
            Case::new(format!("{index} into {x} along {axis}"), ScatterAdd { axis, n: dims[axis] }, &[index, index])
        };
        let mut cases: Vec<Case> = sizes().into_iter().map(case).collect();
        cases.push(case((&[2, 3], 1, 301)).range(0, -0.5, 0.5));
        cases.push(case((&[3, 40_009], 1, 11)).flat());
        cases
    }
}

impl<'g> Tensor<'g> {
    /// Returns `y[.., i, ..] = x[.., index[.., i, ..], ..]`: the elements that the indices name along `axis`. A negative `axis`
    /// counts from the last axis. The indices have the shape of this tensor, except along the axis, and the result has their
    /// shape. It is PyTorch's `torch.gather`. The gradient of an element is added up in the order of the indices.
    ///
    /// Each index must be below the size of the axis. A wrong index from the host is an error before anything runs. If the graph
    /// computes a wrong index, the result is NaN. In training, NaN ends in [`Error::Diverged`](crate::Error::Diverged).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 3]).gather(1, g.labels([2, 2]))])?;
    /// let x = Host::new([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// assert_eq!(f.run(&[x, Host::labels([2, 2], vec![2, 0, 1, 1])])?[0].f(), &[3.0, 1.0, 5.0, 5.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if there is no such axis, or if the shapes do not fit.
    #[track_caller]
    pub fn gather(self, axis: isize, index: Tensor<'g>) -> Tensor<'g> {
        let (x, place) = (self.shape(), Location::caller());
        if self.is_dead() || index.is_dead() {
            return self.graph.dead();
        }
        let Some(at) = x.axis(axis) else {
            return self.graph.mistake("gather", &[self, index], format!("there is no axis {axis}"), place);
        };
        let y = self.graph.apply(Gather { axis: at }, &[self, index]);
        if !y.is_dead() {
            self.graph.require(index, Below { count: x.dims()[at], table: Some("gather"), least: None, ignored: None });
        }
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<Gather>();
        checks::cpu::<ScatterAdd>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Gather>();
        checks::wgsl::<ScatterAdd>();
    }
    #[test]
    fn mistakes() {
        let start = |write: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| {
            let g = Graph::training();
            assert!(write(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        start(&|g| g.input([4, 3]).gather(2, g.labels([4, 3])), "gather: [4, 3] × u32 [4, 3]: there is no axis 2 (src/ops/gather.rs:");
        start(
            &|g| g.input([4, 3]).gather(1, g.input([4, 3])),
            "gather: [4, 3] × [4, 3]: the indices must be integers (Graph::labels, to_index) (",
        );
        start(
            &|g| g.input([4, 3]).gather(1, g.labels([3, 3])),
            "gather: [4, 3] × u32 [3, 3]: the indices must have the shape of the tensor, except along axis 1 (",
        );
        start(&|g| g.labels([4]).gather(0, g.labels([4])), "gather: u32 [4] × u32 [4]: takes floats, not labels (see to_f32) (");
    }
    #[test]
    fn wrong_indices() {
        let g = Graph::training();
        let mut f = Device::cpu().compile(&[g.input([2, 3]).gather(1, g.labels([2, 1]))]).unwrap();
        let x = Host::new([2, 3], vec![1.0; 6]);
        let e = f.run(&[x, Host::labels([2, 1], vec![0, 3])]).unwrap_err().to_string();
        assert!(e.starts_with("gather: the index 3 at position [1, 0] is not below 3"), "{e}");
    }
}
