//! Takes a range of an axis.

use super::*;
use crate::kernel::{Bind, Pass, source};
use std::panic::Location;

/// The op: elements `start..end` of axis `axis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The axis that is cut.
    pub axis: usize,
    /// The first element of the result.
    pub start: usize,
    /// The first element behind the result.
    pub end: usize,
}

impl<'g> Tensor<'g> {
    /// Returns the elements `start..end` of an axis. A negative `axis` counts from the last axis. The gradient is the gradient of
    /// the result, with zeros around it. It is a mistake if there is no such axis, or if the range is empty or ends past the axis.
    #[track_caller]
    pub fn slice(self, axis: isize, start: usize, end: usize) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        match s.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => self.apply(Slice { axis, start, end }),
            None => self.graph.mistake("slice", &[self], format!("there is no axis {axis}"), place),
        }
    }
}

/// Returns the kernel of `slice` and `pad`. A row of y starts with `zeros` zeros. Then follows a row of `x` without its first
/// `skip` elements.
pub(super) fn kernel([x_row, y_row]: [usize; 2], skip: usize, zeros: usize, y: Shape, caps: &Caps) -> Kernel {
    let wg = caps.workgroup(256);
    let params = [("x_row", x_row), ("y_row", y_row), ("skip", skip), ("zeros", zeros)];
    let pass = Pass {
        source: source!("slice"),
        entry: "forward",
        consts: vec![("WG", wg.into())],
        params: params.map(|(name, size)| (name.to_string(), size.into())).to_vec(),
        binds: vec![Bind::input("x", 0, y.dtype()), Bind::output("y", y.dtype()).per_unit(1)],
        code: String::new(),
        units: y.elements(),
        per_group: wg,
        step: false,
    };
    Kernel::one("flat", pass)
}

impl OpDef for Slice {
    const NAME: &'static str = "slice";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let ([x], Slice { axis, start, end }) = (x, *self) else { return Err(format!("takes one input, not {}", x.len())) };
        match x.dims().get(axis) {
            None => Err(format!("there is no axis {axis}")),
            Some(_) if start >= end => Err(format!("{start}..{end} holds nothing")),
            Some(&n) if end > n => Err(format!("{start}..{end} ends past axis {axis}, which has size {n}")),
            Some(_) => Ok(x.with(axis, end - start)),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let [_, n, inner] = x[0].shape.around(self.axis);
        let (row, range) = (n * inner, self.start * inner..self.end * inner);
        let lines = |y: usize| y / range.len();
        for o in 0..lines(y.f.len()) {
            y.f[o * range.len()..][..range.len()].copy_from_slice(&x[0].f[o * row..][range.clone()]);
        }
        for o in 0..lines(y.u.len()) {
            y.u[o * range.len()..][..range.len()].copy_from_slice(&x[0].u[o * row..][range.clone()]);
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let n = x[0].shape().dims()[self.axis];
        vec![Some(dy.pad(self.axis as isize, self.start, n - self.end))]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let [_, n, inner] = x[0].around(self.axis);
        vec![kernel([n * inner, (self.end - self.start) * inner], self.start * inner, 0, y, caps)]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn bytes(&self, _x: &[Shape], y: Shape) -> u64 {
        2 * y.bytes()
    }
    fn cases() -> Vec<Case> {
        let case = |x: &[usize], axis: usize, start: usize, end: usize| {
            let x = Shape::new(x).expect("at most six axes");
            Case::new(format!("{x}, {start}..{end} of axis {axis}"), Slice { axis, start, end }, &[x])
        };
        vec![
            case(&[1], 0, 0, 1),
            case(&[257], 0, 1, 257),
            case(&[257], 0, 0, 256),
            case(&[13, 17], 0, 3, 4),
            case(&[13, 17], 1, 16, 17),
            case(&[13, 17], 1, 0, 17),
            case(&[3, 5, 7], 1, 1, 3),
            case(&[2, 3, 2, 5, 2, 3], 3, 2, 5),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn golden() {
        let n = |v: &serde_json::Value| v.as_u64().unwrap() as usize;
        checks::golden("slice", |args, x| x[0].slice(n(&args["axis"]) as isize, n(&args["start"]), n(&args["end"])));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Slice>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Slice>();
    }
    #[test]
    fn mistakes_name_the_range() {
        let start = |axis: isize, range: std::ops::Range<usize>, text: &str| {
            let message = Graph::training().input([2, 3]).slice(axis, range.start, range.end).error().unwrap().to_string();
            assert!(message.starts_with(text), "{message}");
        };
        start(2, 0..1, "slice: [2, 3]: there is no axis 2 (");
        start(-1, 1..4, "slice: [2, 3]: 1..4 ends past axis 1, which has size 3 (");
        start(0, 1..1, "slice: [2, 3]: 1..1 holds nothing (");
        assert_eq!(Graph::training().labels([2, 3]).slice(-1, 1, 3).shape(), Shape::from([2, 2]).u32());
    }
}
