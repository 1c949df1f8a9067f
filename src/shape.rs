//! Shapes, element types, the broadcast rule and the layout conventions.
//!
//! **Layout.** Every tensor is row-major and contiguous. The elements of the last axis are neighbours in memory. There are no
//! strides and no views. A transpose is a flag of `matmul`. A reshape is another name for the same buffer. A permute is a kernel.
//! Axis 0 counts samples. Images have the shape `[n, channels, height, width]`. The parameter `weight` of a layer has the shape
//! `[out, in]`, as in PyTorch, so PyTorch's files load.
//!
//! **Broadcasting** follows NumPy. Shapes are aligned at their last axis. An axis of size 1 repeats, and so does a missing axis.

use std::fmt;

/// The largest number of axes of a tensor.
pub const MAX_RANK: usize = 6;

/// The type of an element. All arithmetic is `f32`. Labels and indices are `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DType {
    /// Single precision.
    #[default]
    F32,
    /// Labels and indices.
    U32,
}

/// The axes of a tensor and the type of its elements.
///
/// ```
/// use downhill::Shape;
/// let s = Shape::from([2, 3]);
/// assert_eq!((s.rank(), s.elements(), s.to_string()), (2, 6, "[2, 3]".to_string()));
/// assert_eq!(Shape::from([4, 1]).broadcast(Shape::from([3])), Some(Shape::from([4, 3])));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
    dtype: DType,
}

impl Shape {
    /// The shape of a single number, `[]`.
    pub const SCALAR: Shape = Shape { dims: [0; MAX_RANK], rank: 0, dtype: DType::F32 };

    /// The shape that stands for more axes than a shape can have. No tensor can have it.
    pub(crate) const TOO_MANY_AXES: Shape = Shape { dims: [usize::MAX; MAX_RANK], rank: MAX_RANK as u8, dtype: DType::F32 };

    /// Returns a shape of `f32` elements. Returns `None` if `dims` has more than [`MAX_RANK`] axes.
    pub fn new(dims: &[usize]) -> Option<Shape> {
        let mut s = Shape::SCALAR;
        s.dims.get_mut(..dims.len())?.copy_from_slice(dims);
        s.rank = dims.len() as u8;
        Some(s)
    }
    /// Returns a shape of these axes with the element type `dtype`.
    pub fn of(self, dtype: DType) -> Shape {
        Shape { dtype, ..self }
    }
    /// Returns a shape of these axes whose elements are labels or indices (`u32`).
    pub fn u32(self) -> Shape {
        self.of(DType::U32)
    }
    /// Returns the element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Returns the number of axes. A scalar has 0 axes.
    pub fn rank(&self) -> usize {
        self.rank as usize
    }
    /// Returns the size of each axis.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank()]
    }
    /// Returns the number of elements. A scalar has 1 element. A number above `usize::MAX` is returned as `usize::MAX`. A graph
    /// refuses such a shape.
    pub fn elements(&self) -> usize {
        self.dims().iter().fold(1, |n, &d| n.saturating_mul(d))
    }
    /// Returns the size in memory, in bytes. Every element takes 4 bytes.
    pub fn bytes(&self) -> u64 {
        (self.elements() as u64).saturating_mul(4)
    }
    /// Returns true if both shapes have equal axes. The element types may differ.
    pub fn same_dims(&self, other: Shape) -> bool {
        self.dims() == other.dims()
    }
    /// Returns the size of the last axis, or 1 for a scalar.
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }
    /// Returns the shape of one sample: this shape without its first axis.
    pub fn sample(&self) -> Shape {
        self.without(0)
    }
    /// Returns the shape without axis `axis`. The shape is unchanged if it has no axis `axis`.
    pub fn without(&self, axis: usize) -> Shape {
        let mut s = Shape { rank: 0, dims: [0; MAX_RANK], ..*self };
        for (_, &d) in self.dims().iter().enumerate().filter(|&(i, _)| i != axis) {
            s.dims[s.rank()] = d;
            s.rank += 1;
        }
        s
    }
    /// Returns the shape with size `n` for axis `axis`. The shape is unchanged if it has no axis `axis`.
    pub fn with(&self, axis: usize, n: usize) -> Shape {
        let mut s = *self;
        if axis < s.rank() {
            s.dims[axis] = n;
        }
        s
    }
    /// Returns the shape with a new first axis of size `n`. Returns `None` if the result would have more than [`MAX_RANK`] axes.
    pub fn batched(&self, n: usize) -> Option<Shape> {
        let mut dims = vec![n];
        dims.extend_from_slice(self.dims());
        Some(Shape::new(&dims)?.of(self.dtype))
    }
    /// Returns the shape to which both shapes broadcast, with the element type of `self`. Returns `None` if the shapes do not fit.
    pub fn broadcast(&self, other: Shape) -> Option<Shape> {
        let (long, short) = if self.rank >= other.rank { (*self, other) } else { (other, *self) };
        let mut out = Shape { dtype: self.dtype, ..long };
        let lead = long.rank() - short.rank();
        for (o, &d) in out.dims[lead..long.rank()].iter_mut().zip(short.dims()) {
            *o = match (*o, d) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(out)
    }
    /// Returns the stride of a tensor of this shape along each axis of `out`. The stride is 0 along a repeated axis, and in the entries
    /// after the last axis. `self` must broadcast to `out`.
    pub(crate) fn strides_in(&self, out: Shape) -> [usize; MAX_RANK] {
        let lead = out.rank() - self.rank();
        let (mut strides, mut step) = ([0; MAX_RANK], 1);
        for (axis, &d) in self.dims().iter().enumerate().rev() {
            if d != 1 {
                strides[lead + axis] = step;
            }
            step *= d;
        }
        strides
    }
    /// Returns the index of an axis that is counted from the front (0, 1, …) or from the back (-1, -2, …). Returns `None` if the shape
    /// has no axis `axis`.
    pub fn axis(&self, axis: isize) -> Option<usize> {
        let a = if axis < 0 { axis + self.rank() as isize } else { axis };
        (0..self.rank() as isize).contains(&a).then_some(a as usize)
    }
    /// Returns true if the shape is a scalar and `axis` is 0 or −1. As in PyTorch, these two axes of a scalar are valid and have one element.
    pub(crate) fn is_scalar_along(&self, axis: isize) -> bool {
        self.rank == 0 && (-1..=0).contains(&axis)
    }
    /// Returns `[outer, n, inner]`: the numbers of elements before, along and after `axis`.
    pub fn around(&self, axis: usize) -> [usize; 3] {
        let d = self.dims();
        [d[..axis].iter().product(), d[axis], d[axis + 1..].iter().product()]
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.dtype == DType::U32 {
            f.write_str("u32 ")?;
        }
        if self.same_dims(Shape::TOO_MANY_AXES) {
            return f.write_str("[…]");
        }
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! from_arrays {
    ($($n:literal)*) => {$(
        impl From<[usize; $n]> for Shape {
            fn from(d: [usize; $n]) -> Shape {
                Shape::new(&d).expect("these array lengths are at most MAX_RANK")
            }
        }
    )*};
}
from_arrays!(0 1 2 3 4 5 6);

/// A shape of more than [`MAX_RANK`] axes becomes a shape that every graph refuses. [`Shape::new`] returns `None` instead.
///
/// ```
/// use downhill::{Graph, Shape};
/// let dims = vec![2, 3];
/// assert_eq!(Shape::from(&dims[..]), Shape::from([2, 3]));
/// let error = Graph::training().input(&[1; 7][..]).error().unwrap();
/// assert!(error.to_string().contains("more than 6 axes"));
/// ```
impl From<&[usize]> for Shape {
    fn from(d: &[usize]) -> Shape {
        Shape::new(d).unwrap_or(Shape::TOO_MANY_AXES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_is_numpys() {
        let s = |d: &[usize]| Shape::new(d).unwrap();
        let b = |x: &[usize], y: &[usize]| s(x).broadcast(s(y)).map(|o| o.dims().to_vec());
        assert_eq!(b(&[2, 1, 3], &[4, 1]), Some(vec![2, 4, 3]));
        assert_eq!(b(&[], &[5]), Some(vec![5]));
        assert_eq!(b(&[3], &[2]), None);
        assert_eq!(s(&[4, 1]).strides_in(s(&[2, 4, 3])), [0, 1, 0, 0, 0, 0]);
        assert_eq!(s(&[2, 3, 4]).around(1), [2, 3, 4]);
        assert_eq!(s(&[2, 3, 4]).without(1).dims(), &[2, 4]);
    }
}
