//! Adds zeros, or other elements, before and after a tensor along an axis.

use super::*;
use std::panic::Location;

/// The op: `before` zeros, the input, `after` zeros along axis `axis`. Its kernel is in `shaders/slice.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pad {
    /// The axis along which zeros are added.
    pub axis: usize,
    /// The number of zeros in front of the input.
    pub before: usize,
    /// The number of zeros behind the input.
    pub after: usize,
}

/// The elements that [`Tensor::pad_with`] adds. They are PyTorch's modes. The examples show the elements `1 2 3 4` with 2 added
/// before and 2 added after them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// All added elements are this number.
    Constant(f32),
    /// `3 2 1 2 3 4 3 2`. The tensor is mirrored at the first and the last element, which are not repeated.
    Reflect,
    /// `1 1 1 2 3 4 4 4`. The first and the last element are repeated.
    Replicate,
    /// `3 4 1 2 3 4 1 2`. The tensor is continued from its other end.
    Circular,
}

impl<'g> Tensor<'g> {
    /// Adds `before` zeros in front of this tensor and `after` zeros behind it, along an axis. A negative `axis` counts from the
    /// last axis. It is a mistake if there is no such axis.
    #[track_caller]
    pub fn pad(self, axis: isize, before: usize, after: usize) -> Tensor<'g> {
        let (s, place) = (self.shape(), Location::caller());
        match s.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => self.apply(Pad { axis, before, after }),
            None => self.graph.mistake("pad", &[self], format!("there is no axis {axis}"), place),
        }
    }
    /// Adds elements as [`pad`](Tensor::pad) does, but by `mode` instead of zeros. To pad an image, call it for the rows and for
    /// the columns.
    ///
    /// It is also a mistake to add too many elements. An axis of n elements has `n − 1` elements for [`PadMode::Reflect`] and n for
    /// [`PadMode::Circular`].
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::pad::PadMode};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([3]).pad_with(0, 2, 1, PadMode::Reflect)])?;
    /// assert_eq!(f.run(&[Host::new([3], vec![1.0, 2.0, 3.0])])?[0].f(), &[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn pad_with(self, axis: isize, before: usize, after: usize, mode: PadMode) -> Tensor<'g> {
        let _line = self.graph.line();
        let s = self.shape();
        let mistake = |why: String| self.graph.mistake("pad_with", &[self], why, Location::caller());
        let Some(at) = s.axis(axis).filter(|_| s.dtype() == DType::F32) else {
            return match s.dtype() {
                _ if self.is_dead() => self,
                DType::U32 => mistake("takes floats, not labels (see to_f32)".into()),
                DType::F32 => mistake(format!("there is no axis {axis}")),
            };
        };
        let (n, most) = (s.dims()[at], before.max(after));
        match mode {
            PadMode::Reflect if most >= n => {
                return mistake(format!("{most} elements to reflect, but axis {axis} has {} besides its edge", n - 1));
            }
            PadMode::Circular if most > n => return mistake(format!("{most} elements to repeat, but axis {axis} has {n}")),
            _ => {}
        }
        let side = |count: usize, front: bool| match mode {
            PadMode::Constant(value) => self.graph.full(s.with(at, count), value),
            PadMode::Reflect => {
                let start = if front { 1 } else { n - 1 - count };
                self.slice(axis, start, start + count).flip(axis)
            }
            PadMode::Replicate => {
                let edge = if front { 0 } else { n - 1 };
                self.slice(axis, edge, edge + 1).broadcast_to(s.with(at, count))
            }
            PadMode::Circular => {
                let start = if front { n - count } else { 0 };
                self.slice(axis, start, start + count)
            }
        };
        match (before, after) {
            (0, 0) => self,
            (0, _) => self.concat(&[side(after, false)], axis),
            (_, 0) => side(before, true).concat(&[self], axis),
            _ => side(before, true).concat(&[self, side(after, false)], axis),
        }
    }
}

impl OpDef for Pad {
    const NAME: &'static str = "pad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        let Some(&n) = x.dims().get(self.axis) else { return Err(format!("there is no axis {}", self.axis)) };
        match n.checked_add(self.before).and_then(|n| n.checked_add(self.after)) {
            Some(n) => Ok(x.with(self.axis, n)),
            None => Err(format!("{} + {n} + {} is more than an axis can hold", self.before, self.after)),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let ([_, n, inner], [_, n_y, _]) = (x[0].shape.around(self.axis), y.shape.around(self.axis));
        let (row, y_row, at) = (n * inner, n_y * inner, self.before * inner);
        y.f.fill(T::zero());
        y.u.fill(0);
        for (y, x) in y.f.chunks_mut(y_row).zip(x[0].f.chunks(row)) {
            y[at..][..row].copy_from_slice(x);
        }
        for (y, x) in y.u.chunks_mut(y_row).zip(x[0].u.chunks(row)) {
            y[at..][..row].copy_from_slice(x);
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let n = x[0].shape().dims()[self.axis];
        vec![Some(dy.slice(self.axis as isize, self.before, self.before + n))]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let ([_, n, inner], [_, n_y, _]) = (x[0].around(self.axis), y.around(self.axis));
        vec![slice::kernel([n * inner, n_y * inner], 0, self.before * inner, y, caps)]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn as_pad(&self) -> Option<&Pad> {
        Some(self)
    }
    fn cases() -> Vec<Case> {
        let case = |x: &[usize], axis: usize, before: usize, after: usize| {
            let x = Shape::new(x).expect("at most six axes");
            Case::new(format!("{x}, {before} and {after} along axis {axis}"), Pad { axis, before, after }, &[x])
        };
        vec![
            case(&[1], 0, 0, 0),
            case(&[255], 0, 1, 1),
            case(&[13, 17], 0, 3, 0),
            case(&[13, 17], 1, 0, 2),
            case(&[3, 5, 7], 1, 1, 3),
            case(&[2, 3, 2, 5, 2, 3], 3, 2, 1),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn zeros_lie_before_and_after() {
        let pad = Pad { axis: 1, before: 1, after: 2 };
        let x = Host::new([2, 1, 2], vec![1.0, 2.0, 3.0, 4.0]);
        let mut y = Host::new([2, 4, 2], vec![f64::NAN; 16]);
        assert_eq!(OpDef::shape(&pad, &[x.shape]), Ok(y.shape));
        pad.reference(&[x.view()], &mut y.view_mut(), Key::default());
        assert_eq!(y.f(), [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn modes_as_documented() {
        let padded = |before, after, mode| {
            let g = Graph::inference();
            let y = g.input([4]).pad_with(0, before, after, mode);
            crate::Device::cpu().compile(&[y]).unwrap().run(&[Host::new([4], vec![1.0, 2.0, 3.0, 4.0])]).unwrap()[0].f().to_vec()
        };
        assert_eq!(padded(2, 1, PadMode::Constant(7.0)), [7.0, 7.0, 1.0, 2.0, 3.0, 4.0, 7.0]);
        assert_eq!(padded(2, 2, PadMode::Reflect), [3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0]);
        assert_eq!(padded(2, 2, PadMode::Replicate), [1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0]);
        assert_eq!(padded(2, 2, PadMode::Circular), [3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0]);
        assert_eq!(padded(0, 4, PadMode::Circular), [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(padded(3, 0, PadMode::Reflect), [4.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(padded(0, 0, PadMode::Replicate), [1.0, 2.0, 3.0, 4.0]);
    }
    #[test]
    fn cpu() {
        checks::cpu::<Pad>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Pad>();
    }
    #[test]
    fn mistakes() {
        let message = |axis, before| Graph::training().input([2, 3]).pad(axis, before, 1).error().unwrap().to_string();
        assert!(message(2, 0).starts_with("pad: [2, 3]: there is no axis 2 ("));
        let text = |x: Shape, axis, before, after, mode, want: &str| {
            let text = Graph::training().input_of(x).pad_with(axis, before, after, mode).error().unwrap().to_string();
            assert!(text.starts_with(&format!("pad_with: {want} (")), "{text}");
        };
        let x = Shape::from([2, 3]);
        text(x, -3, 1, 1, PadMode::Reflect, "[2, 3]: there is no axis -3");
        text(x.u32(), 0, 1, 1, PadMode::Circular, "u32 [2, 3]: takes floats, not labels (see to_f32)");
        text(x, -1, 1, 3, PadMode::Reflect, "[2, 3]: 3 elements to reflect, but axis -1 has 2 besides its edge");
        text(x, 0, 3, 1, PadMode::Circular, "[2, 3]: 3 elements to repeat, but axis 0 has 2");
        assert!(message(0, usize::MAX).starts_with("pad: [2, 3]: 18446744073709551615 + 2 + 1 is more than an axis can hold ("));
    }
}
