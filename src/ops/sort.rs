//! The order of the elements along an axis, and sorted values.
//!
//! The op returns indices. The values are gathered by these indices, so their gradient is that of [`Tensor::gather`].

use super::*;
use crate::{
    kernel::{Bind, Pass, source},
    threads::{TASK, chunk, lines, sorted},
};
use std::panic::Location;

/// The op: the order of a stable sort along an axis, `[.., n, ..]` → u32 `[.., n, ..]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// The axis of the lines that are sorted.
    pub axis: usize,
    /// Whether the largest element comes first.
    pub descending: bool,
}

/// Returns a whole number with the order of `x`. NaN is larger than every other number, and both zeros are equal.
fn key<T: Real>(x: T) -> i64 {
    let x = x.f64();
    match x.to_bits() as i64 {
        _ if x.is_nan() => i64::MAX,
        _ if x == 0.0 => 0,
        // The bits of negative numbers have the reverse order.
        bits if bits < 0 => bits ^ i64::MAX,
        bits => bits,
    }
}

impl Sort {
    /// Writes the order of the lines of one block `[n, inner]`.
    fn block<T: Real>(&self, n: usize, inner: usize, x: &[T], y: &mut [u32]) {
        for c in 0..inner {
            let order = sorted(n, |i| if self.descending { !key(x[i * inner + c]) } else { key(x[i * inner + c]) });
            order.into_iter().enumerate().for_each(|(r, i)| y[r * inner + c] = i as u32);
        }
    }
}

impl OpDef for Sort {
    const NAME: &'static str = "sort";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        if self.axis >= x.rank() {
            return Err(format!("there is no axis {}", self.axis));
        }
        Ok(x.u32())
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        y.u.chunks_mut(n * inner).zip(x[0].f.chunks(n * inner)).for_each(|(y, x)| self.block(n, inner, x, y));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        let size = n * inner;
        lines(y.u, size, (TASK / size).max(1), |k, y| self.block(n, inner, chunk(x[0].f, size, k), y));
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, _dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let ([_, n, inner], wg) = (x[0].around(self.axis), caps.workgroup(256));
        let pass = Pass {
            source: source!("sort"),
            entry: "forward",
            consts: vec![("WG", wg.into()), ("DESCENDING", u32::from(self.descending).into())],
            params: [("n", n), ("inner", inner)].map(|(name, x)| (name.to_string(), x.into())).into(),
            binds: vec![
                Bind::input("x", 0, DType::F32).blocks(n * inner, n * inner),
                Bind::output("y", DType::U32).blocks(n * inner, n * inner),
            ],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        vec![Kernel::one("ranks", pass)]
    }
    fn flops(&self, x: &[Shape], y: Shape) -> u64 {
        (y.elements() * x[0].dims()[self.axis]) as u64
    }
    fn cases() -> Vec<Case> {
        let case = |(dims, axis): (&[usize], usize)| {
            [false, true].map(|descending| {
                let x = Shape::new(dims).expect("at most six axes");
                let name = format!("{x} along {axis}{}", if descending { ", descending" } else { "" });
                Case::new(name, Sort { axis, descending }, &[x]).flat()
            })
        };
        let sizes: [(&[usize], usize); 9] = [
            (&[1], 0),
            (&[13], 0),
            (&[3, 5, 2], 0),
            (&[3, 5, 2], 1),
            (&[3, 5, 2], 2),
            (&[7, 1, 3], 1),
            (&[2, 255], 1),
            (&[3, 257, 2], 1),
            (&[2_003], 0),
        ];
        sizes.into_iter().flat_map(case).collect()
    }
}

impl<'g> Tensor<'g> {
    /// Returns the indices that sort this tensor along `axis`: u32, of the shape of this tensor. Equal elements keep their order,
    /// and NaN is the largest number. A negative `axis` counts from the last axis. It is PyTorch's `torch.argsort` with
    /// `stable=True`. There is no gradient.
    ///
    /// On a GPU, the work grows with the square of the length of the axis.
    ///
    /// It is a mistake if there is no such axis, or if the tensor has labels.
    #[track_caller]
    pub fn argsort(self, axis: isize, descending: bool) -> Tensor<'g> {
        self.sort_by("argsort", axis, descending)
    }
    /// Returns the values of this tensor in ascending order along `axis`, or in descending order, and their
    /// [indices](Tensor::argsort). The gradient of a value goes to the element that it comes from. It is PyTorch's `torch.sort`
    /// with `stable=True`.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let (values, indices) = g.input([4]).sort(0, false);
    /// let y = Device::cpu().compile(&[values, indices])?.run(&[Host::new([4], vec![3.0, 1.0, 4.0, 2.0])])?;
    /// assert_eq!((y[0].f(), y[1].u()), (&[1.0, 2.0, 3.0, 4.0][..], &[1, 3, 0, 2][..]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if there is no such axis, or if the tensor has labels.
    #[track_caller]
    pub fn sort(self, axis: isize, descending: bool) -> (Tensor<'g>, Tensor<'g>) {
        let indices = self.sort_by("sort", axis, descending);
        (self.gather(axis, indices), indices)
    }
    /// Returns the `k` largest elements along `axis`, the largest first, and their indices. With `largest` false, it returns the
    /// smallest elements, the smallest first. The first of equal elements count. The gradient of a value goes to the
    /// element that it comes from. It is PyTorch's `torch.topk`.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let (values, indices) = g.input([4]).topk(2, 0, true);
    /// let y = Device::cpu().compile(&[values, indices])?.run(&[Host::new([4], vec![3.0, 1.0, 4.0, 2.0])])?;
    /// assert_eq!((y[0].f(), y[1].u()), (&[4.0, 3.0][..], &[2, 0][..]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is also a mistake if k is 0 or larger than the axis. See [`sort`](Tensor::sort).
    #[track_caller]
    pub fn topk(self, k: usize, axis: isize, largest: bool) -> (Tensor<'g>, Tensor<'g>) {
        let n = self.shape().axis(axis).map_or(k, |a| self.shape().dims()[a]);
        if !self.is_dead() && !(1..=n).contains(&k) {
            let dead = self.graph.mistake("topk", &[self], format!("k is {k}, but must be in 1..={n}"), Location::caller());
            return (dead, dead);
        }
        let indices = self.sort_by("topk", axis, largest);
        let indices = if k == n { indices } else { indices.slice(axis, 0, k) };
        (self.gather(axis, indices), indices)
    }
    #[track_caller]
    fn sort_by(self, name: &str, axis: isize, descending: bool) -> Tensor<'g> {
        let (x, place) = (self.shape(), Location::caller());
        let why = match x.axis(axis) {
            _ if self.is_dead() => return self,
            Some(axis) if x.dtype() == DType::F32 => return self.apply(Sort { axis, descending }),
            Some(_) => "takes floats, not labels (see to_f32)".to_string(),
            None => format!("there is no axis {axis}"),
        };
        self.graph.mistake(name, &[self], why, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<Sort>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Sort>();
    }
    #[test]
    fn mistakes() {
        let start = |write: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| {
            let g = Graph::training();
            assert!(write(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        start(&|g| g.input([4, 3]).argsort(2, true), "argsort: [4, 3]: there is no axis 2 (src/ops/sort.rs:");
        start(&|g| g.input([4, 3]).sort(-3, true).0, "sort: [4, 3]: there is no axis -3 (");
        start(&|g| g.labels([4]).sort(0, true).1, "sort: u32 [4]: takes floats, not labels (see to_f32) (");
        start(&|g| g.input([4, 3]).topk(4, 1, true).0, "topk: [4, 3]: k is 4, but must be in 1..=3 (");
        start(&|g| g.input([4, 3]).topk(0, 1, true).1, "topk: [4, 3]: k is 0, but must be in 1..=3 (");
        start(&|g| g.input([4, 3]).topk(1, 2, true).1, "topk: [4, 3]: there is no axis 2 (");
    }
}
