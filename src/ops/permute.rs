//! Permutes axes.

use super::*;
use crate::{
    kernel::{Bind, Pass, Word, source},
    shape::MAX_RANK,
    threads::{TASK, chunks},
};
use std::panic::Location;

/// The op: axis `i` of the output is axis `dims[i]` of the input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Permute {
    /// The axis of the input for each axis of the output. Each axis of the input appears once.
    pub dims: Vec<usize>,
}

impl<'g> Tensor<'g> {
    /// Returns the tensor with its axes in another order. Axis `i` of the result is axis `dims[i]` of this tensor. It is a mistake
    /// if `dims` does not name every axis once. To multiply by a transposed matrix, use [`Tensor::matmul_t`], which needs no
    /// permute.
    #[track_caller]
    pub fn permute(self, dims: &[usize]) -> Tensor<'g> {
        self.apply(Permute { dims: dims.to_vec() })
    }
    /// Returns the tensor with its last two axes swapped. It is a mistake if there are fewer than two axes.
    #[track_caller]
    pub fn transpose(self) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        let mut dims: Vec<usize> = (0..s.rank()).collect();
        match &mut dims[..] {
            _ if self.is_dead() => self,
            [.., r, c] => {
                std::mem::swap(r, c);
                self.permute(&dims)
            }
            _ => self.graph.mistake("transpose", &[self], "fewer than two axes".into(), place),
        }
    }
}

/// An axis of the output: its size, and the distance of its elements in the input.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Axis {
    size: usize,
    stride: usize,
}

impl Permute {
    /// Returns the axes of the output, but as few as possible, and at least one. Axes that are neighbours in the input and in the
    /// output are joined to one axis. The result lies in `axes`.
    fn axes<'a>(&self, x: Shape, axes: &'a mut [Axis; MAX_RANK]) -> &'a [Axis] {
        let (strides, mut count) = (x.strides_in(x), 0);
        *axes = [Axis { size: 1, stride: 1 }; MAX_RANK];
        for &d in self.dims.iter().filter(|&&d| x.dims()[d] != 1) {
            let next = Axis { size: x.dims()[d], stride: strides[d] };
            match axes[..count].last_mut() {
                Some(last) if last.stride == next.size * next.stride => *last = Axis { size: last.size * next.size, stride: next.stride },
                _ => {
                    axes[count] = next;
                    count += 1;
                }
            }
        }
        &axes[..count.max(1)]
    }
}

/// Fills `y` row by row along the last axis. The elements of a row have a constant distance in `x`.
fn rows<E: Copy + Send + Sync>(axes: &[Axis], x: &[E], y: &mut [E]) {
    let (last, outer) = axes.split_last().expect("axes() gives at least one");
    let per_task = (TASK / last.size).max(1);
    chunks(y, per_task * last.size, |task, y| {
        for (row, y) in y.chunks_mut(last.size).enumerate() {
            let (mut rest, mut at) = (task * per_task + row, 0);
            for axis in outer.iter().rev() {
                at += rest % axis.size * axis.stride;
                rest /= axis.size;
            }
            y.iter_mut().zip(x[at..].iter().step_by(last.stride)).for_each(|(y, x)| *y = *x);
        }
    });
}

impl OpDef for Permute {
    const NAME: &'static str = "permute";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        let mut sorted = self.dims.clone();
        sorted.sort_unstable();
        if !sorted.into_iter().eq(0..x.rank()) {
            return Err(format!("{:?} does not name each of the {} axes once", self.dims, x.rank()));
        }
        let dims: Vec<usize> = self.dims.iter().map(|&d| x.dims()[d]).collect();
        Ok(Shape::new(&dims).expect("as many axes as the input has").of(x.dtype()))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let (from, to) = (x[0].shape, y.shape);
        let strides = from.strides_in(from);
        let source = |e: usize| {
            let (mut rest, mut at) = (e, 0);
            for (&size, &axis) in to.dims().iter().zip(&self.dims).rev() {
                at += rest % size * strides[axis];
                rest /= size;
            }
            at
        };
        y.f.iter_mut().enumerate().for_each(|(e, y)| *y = x[0].f[source(e)]);
        y.u.iter_mut().enumerate().for_each(|(e, y)| *y = x[0].u[source(e)]);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let mut axes = Default::default();
        let axes = self.axes(x[0].shape, &mut axes);
        rows(axes, x[0].f, y.f);
        rows(axes, x[0].u, y.u);
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let mut inverse = vec![0; self.dims.len()];
        self.dims.iter().enumerate().for_each(|(i, &d)| inverse[d] = i);
        vec![Some(dy.permute(&inverse))]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let wg = caps.workgroup(256);
        let mut axes = Default::default();
        let axes = self.axes(x[0], &mut axes);
        let (rank, outer) = (axes.len(), axes[0]);
        let mut params: Vec<(String, Word)> = vec![("outer".into(), outer.stride.into())];
        for i in 0..5 {
            let axis = axes[1..].iter().nth_back(i).copied().unwrap_or(Axis { size: 1, stride: 0 });
            params.extend([(format!("d{i}"), axis.size.into()), (format!("s{i}"), axis.stride.into())]);
        }
        let pass = Pass {
            source: source!("permute"),
            entry: "forward",
            consts: vec![("WG", wg.into()), ("RANK", rank.into())],
            params,
            binds: vec![Bind::input("x", 0, y.dtype()), Bind::output("y", y.dtype()).per_unit(1)],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        vec![Kernel::one("flat", pass)]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn cases() -> Vec<Case> {
        let case = |x: &[usize], dims: &[usize]| {
            let x = Shape::new(x).expect("at most six axes");
            Case::new(format!("{x} by {dims:?}"), Permute { dims: dims.to_vec() }, &[x])
        };
        vec![
            case(&[], &[]),
            case(&[1], &[0]),
            case(&[7], &[0]),
            case(&[13, 17], &[1, 0]),
            case(&[13, 17], &[0, 1]),
            case(&[255, 257], &[1, 0]),
            case(&[2, 3, 5], &[2, 0, 1]),
            case(&[2, 3, 5], &[1, 2, 0]),
            case(&[4, 1, 3], &[2, 1, 0]),
            case(&[2, 3, 4, 5], &[0, 2, 3, 1]),
            case(&[2, 3, 4, 5], &[0, 3, 1, 2]),
            case(&[2, 3, 2, 3, 2], &[4, 2, 0, 3, 1]),
            case(&[2, 3, 4, 3, 2, 3], &[5, 4, 3, 2, 1, 0]),
            case(&[3, 2, 1, 4, 5, 2], &[4, 5, 0, 1, 3, 2]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn golden() {
        checks::golden("permute", |args, x| x[0].permute(&checks::sizes(&args["dims"])));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Permute>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Permute>();
    }
    #[test]
    fn neighbours_that_stay_neighbours_are_one_axis() {
        let axes =
            |x: &[usize], dims: &[usize]| Permute { dims: dims.to_vec() }.axes(Shape::new(x).unwrap(), &mut Default::default()).to_vec();
        let axis = |size, stride| Axis { size, stride };
        assert_eq!(axes(&[2, 3, 4, 5], &[2, 3, 0, 1]), [axis(20, 1), axis(6, 20)]);
        assert_eq!(axes(&[2, 3, 1, 5], &[1, 2, 0, 3]), [axis(3, 5), axis(2, 15), axis(5, 1)]);
        assert_eq!(axes(&[2, 3], &[0, 1]), [axis(6, 1)]);
        assert_eq!(axes(&[1, 1], &[1, 0]), [axis(1, 1)]);
    }

    #[test]
    fn mistakes_name_the_axes() {
        let start = |dims: &[usize], text: &str| {
            let message = Graph::training().input([2, 3]).permute(dims).error().unwrap().to_string();
            assert!(message.starts_with(text), "{message}");
        };
        start(&[0, 0], "permute: [2, 3]: [0, 0] does not name each of the 2 axes once (");
        start(&[0, 2], "permute: [2, 3]: [0, 2] does not name each of the 2 axes once (");
        start(&[0], "permute: [2, 3]: [0] does not name each of the 2 axes once (");
        let g = Graph::training();
        assert_eq!(g.input([2, 3, 4]).transpose().shape().dims(), [2, 4, 3]);
        g.input([2]).transpose().transpose().permute(&[3]);
        assert!(g.error().unwrap().to_string().starts_with("transpose: [2]: fewer than two axes ("));
    }
}
