//! The options of a convolution, and the methods of [`Tensor`] that take the weight as a tensor.

use super::*;
use crate::error::Place;
use std::panic::Location;

/// A height and a width. `3` is `[3, 3]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair(pub [usize; 2]);

impl From<usize> for Pair {
    fn from(side: usize) -> Pair {
        Pair([side; 2])
    }
}
impl From<[usize; 2]> for Pair {
    fn from(sides: [usize; 2]) -> Pair {
        Pair(sides)
    }
}

/// The zeros around an image. `1.into()` adds one zero on every side. `[1, 2].into()` adds one above and below, and two on the left
/// and on the right. Along one axis, `[1, 2].into()` adds one on the left and two on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Padding {
    /// The result has the size of the image. Each axis gets dilation · (kernel − 1) zeros. If this number is odd, the bottom or
    /// right side gets one more. As in PyTorch, the stride must be 1.
    Same,
    /// One number for each axis of an image, for both of its sides: height, width. For one axis: left, right.
    Pair([usize; 2]),
    /// Top, bottom, left, right. For one axis, the last two numbers count. The first two must then be 0 or equal to the last two.
    Sides([usize; 4]),
}

impl Default for Padding {
    fn default() -> Padding {
        Padding::Sides([0; 4])
    }
}
impl From<usize> for Padding {
    fn from(all: usize) -> Padding {
        Padding::Sides([all; 4])
    }
}
impl From<[usize; 2]> for Padding {
    fn from(pair: [usize; 2]) -> Padding {
        Padding::Pair(pair)
    }
}
impl From<[usize; 4]> for Padding {
    fn from(sides: [usize; 4]) -> Padding {
        Padding::Sides(sides)
    }
}

/// The movement of a kernel over `D` axes. The default is PyTorch's: stride 1, no padding, dilation 1, one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution<const D: usize> {
    /// The distance in pixels between neighbouring positions of the kernel.
    pub stride: [usize; D],
    /// The zeros around the image.
    pub padding: Padding,
    /// The distance in pixels between neighbouring elements of the kernel.
    pub dilation: [usize; D],
    /// The number of groups of channels. Each group is convolved on its own. With one group for each channel, it is a depthwise
    /// convolution.
    pub groups: usize,
}

impl<const D: usize> Default for Convolution<D> {
    fn default() -> Self {
        Convolution { stride: [1; D], padding: Padding::default(), dilation: [1; D], groups: 1 }
    }
}

impl Convolution<1> {
    /// Returns this convolution for images of height 1. The error says what is wrong with the padding.
    fn of_rows(self) -> Result<Convolution<2>, String> {
        let padding = match self.padding {
            Padding::Same => Padding::Same,
            Padding::Pair([left, right]) => Padding::Sides([0, 0, left, right]),
            Padding::Sides([top, bottom, left, right]) if [top, bottom] == [0, 0] || [top, bottom] == [left, right] => {
                Padding::Sides([0, 0, left, right])
            }
            Padding::Sides([top, bottom, ..]) => {
                return Err(format!("one axis has no top and bottom to pad by {top} and {bottom}: `[left, right].into()` pads it"));
            }
        };
        Ok(Convolution { stride: [1, self.stride[0]], padding, dilation: [1, self.dilation[0]], groups: self.groups })
    }
}

impl Convolution<2> {
    /// Returns the geometry for a kernel of the given size. The error says what is wrong.
    fn geometry(self, kernel: [usize; 2], flat: bool) -> Result<Geometry, String> {
        let sides = match self.padding {
            Padding::Sides(sides) => sides,
            Padding::Pair([h, w]) => [h, h, w, w],
            Padding::Same => [0; 4],
        };
        let geometry = Geometry { stride: self.stride, dilation: self.dilation, padding: sides, groups: self.groups };
        geometry.check(flat)?;
        match self.padding {
            Padding::Sides(_) | Padding::Pair(_) => Ok(geometry),
            Padding::Same if self.stride != [1, 1] => Err(format!(
                "padding `Same` is for a stride of 1, not {}; `Padding::Sides` gives the zeros of each side",
                by(self.stride, flat)
            )),
            Padding::Same => {
                let all = [0, 1].map(|i| self.dilation[i] * (kernel[i] - 1));
                Ok(Geometry { padding: [all[0] / 2, all[0] - all[0] / 2, all[1] / 2, all[1] - all[1] / 2], ..geometry })
            }
        }
    }
}

/// Returns the height and the width of a weight.
fn kernel(w: Shape, flat: bool) -> Result<[usize; 2], String> {
    match (w.dims(), flat) {
        (&[_, _, h, w], false) => Ok([h, w]),
        (&[_, _, w], true) => Ok([1, w]),
        _ => Err(format!("the weight should have {} axes, not {}", if flat { 3 } else { 4 }, w.rank())),
    }
}

impl<'g> Tensor<'g> {
    /// Convolves images `[n, c, h, w]` with a weight `[out, c / groups, kh, kw]`. As everywhere in this field, it is the
    /// cross-correlation: `y[n,o,i,j] = Σ_{c,a,b} x[n, c, i·s − top + a·d, j·s − left + b·d] · w[o,c,a,b]`.
    ///
    /// The result is `[n, out, oh, ow]` with `oh = (h + top + bottom − d·(kh − 1) − 1) / s + 1`, rounded down. The layer with its
    /// own parameters is [`conv2d`](Tensor::conv2d).
    ///
    /// It is a mistake if a tensor has not four axes, if the kernel is larger than the padded image, if the groups do not divide
    /// the channels, if the channels of input and weight differ, or if the stride or the dilation is 0.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::conv2d::{Convolution, Padding}};
    /// let g = Graph::inference();
    /// let (x, w) = (g.input([1, 1, 3, 3]), g.input([1, 1, 2, 2]));
    /// let plain = x.convolve2d(w, Convolution::default());
    /// let same = x.convolve2d(w, Convolution { padding: Padding::Same, ..Convolution::default() });
    /// let mut f = Device::cpu().compile(&[plain, same])?;
    /// let x = Host::new([1, 1, 3, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    /// let y = f.run(&[x, Host::new([1, 1, 2, 2], vec![1.0, 0.0, 0.0, 1.0])])?;
    /// assert_eq!(y[0].f(), &[6.0, 8.0, 12.0, 14.0]);
    /// assert_eq!(y[1].f(), &[6.0, 8.0, 3.0, 12.0, 14.0, 6.0, 7.0, 8.0, 9.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn convolve2d(self, w: Tensor<'g>, options: Convolution<2>) -> Tensor<'g> {
        self.convolve("conv2d", w, options, [self, w], Location::caller())
    }
    /// Convolves `[n, c, length]` along the last axis with a weight `[out, c / groups, k]`. See [`convolve2d`](Tensor::convolve2d).
    #[track_caller]
    pub fn convolve1d(self, w: Tensor<'g>, options: Convolution<1>) -> Tensor<'g> {
        let y = self.convolve_rows(w, options, Location::caller());
        if y.is_dead() { y } else { y.squeeze(2) }
    }
    /// Returns the result of [`convolve1d`](Tensor::convolve1d) as an image, `[n, out, 1, length]`.
    pub(crate) fn convolve_rows(self, w: Tensor<'g>, options: Convolution<1>, place: Place) -> Tensor<'g> {
        let row = |t: Tensor<'g>| match *t.shape().dims() {
            [a, b, c] if !t.is_dead() => t.graph.at(place, || t.reshape(Shape::from([a, b, 1, c]).of(t.shape().dtype()))),
            _ => t,
        };
        match options.of_rows() {
            _ if self.is_dead() || w.is_dead() => self.graph.dead(),
            Ok(options) => row(self).convolve("conv1d", row(w), options, [self, w], place),
            Err(why) => self.graph.mistake("conv1d", &[self, w], why, place),
        }
    }
    /// Computes both convolutions. `name` is the method that the user called, and `given` are the tensors that the user passed.
    pub(crate) fn convolve(self, name: &str, w: Tensor<'g>, options: Convolution<2>, given: [Tensor<'g>; 2], place: Place) -> Tensor<'g> {
        let flat = name == "conv1d";
        if self.is_dead() || w.is_dead() {
            return self.graph.dead();
        }
        let axes = if flat { 3 } else { 4 };
        let checked = match given[0].shape().rank() {
            rank if rank != axes && flat => Err(format!("input 0 should be [n, channels, length], not of {rank} axes")),
            _ => kernel(given[1].shape(), flat).and_then(|kernel| options.geometry(kernel, flat)),
        };
        match checked.and_then(|geometry| geometry.sizes(self.shape(), w.shape(), flat).map(|_| geometry)) {
            Ok(geometry) => self.graph.apply_at(Arc::new(Conv2dOp { geometry, epilogue: None }), &[self, w], place),
            Err(why) => self.graph.mistake(name, &given, why, place),
        }
    }
    /// Computes the transposed convolution of images `[n, c, h, w]` with a weight `[c, out / groups, kh, kw]`. It is the gradient
    /// of a [`convolve2d`](Tensor::convolve2d) with these options for its input. Each element of x is multiplied by the kernel, and
    /// the products are added to the result at `stride` times the position of the element.
    ///
    /// The result is `[n, out, oh, ow]` with `oh = (h − 1)·s − top − bottom + d·(kh − 1) + 1 + output_padding`. Several sizes of
    /// images give h × w under the convolution. A larger output padding chooses a larger size among them (Dumoulin & Visin 2016,
    /// §4).
    ///
    /// The mistakes are those of `convolve2d`. It is also a mistake if the padding is [`Same`](Padding::Same), if the output
    /// padding of an axis is below neither its stride nor its dilation, or if the result has no elements.
    ///
    /// ```
    /// use downhill::{Graph, ops::conv2d::Convolution};
    /// let g = Graph::inference();
    /// let options = Convolution { stride: [2, 2], padding: 1.into(), ..Convolution::default() };
    /// let y = g.input([8, 16, 7, 7]).convolve_transpose2d(g.input([16, 4, 3, 3]), options, [1, 1]);
    /// assert_eq!(y.shape().dims(), [8, 4, 14, 14]);
    /// ```
    #[track_caller]
    pub fn convolve_transpose2d(self, w: Tensor<'g>, options: Convolution<2>, output_padding: [usize; 2]) -> Tensor<'g> {
        let (shapes, place) = ([self.shape(), w.shape()], Location::caller());
        if self.is_dead() || w.is_dead() {
            return self.graph.dead();
        }
        match options.transposed(shapes[0], shapes[1], output_padding) {
            Ok((op, [rows, columns])) => {
                let x = self.graph.at(place, || if rows + columns == 0 { self } else { self.pad(2, 0, rows).pad(3, 0, columns) });
                self.graph.apply_at(Arc::new(op), &[x, w], place)
            }
            Err(why) => self.graph.mistake("conv_transpose2d", &[self, w], why, place),
        }
    }
}

impl Convolution<2> {
    /// Returns the op, and the numbers of rows and columns of zeros to append to its input. They make up for an output padding of a
    /// whole stride or more.
    fn transposed(self, x: Shape, w: Shape, output_padding: [usize; 2]) -> Result<(Conv2dGradX, [usize; 2]), String> {
        if self.padding == Padding::Same {
            return Err("padding `Same` is not for a transposed convolution; `Padding::Sides` gives the zeros of each side".into());
        }
        let [.., h, wide] = four(x, "input 0", "[n, channels, height, width]")?;
        let geometry = self.geometry(kernel(w, false)?, false)?;
        let (extra, stride, dilation) = (output_padding, self.stride, self.dilation);
        if (0..2).any(|i| extra[i] >= stride[i].max(dilation[i])) {
            let [extra, stride, dilation] = [extra, stride, dilation].map(|p| by(p, false));
            return Err(format!("the output padding {extra} must be below the stride {stride} or the dilation {dilation} along each axis"));
        }
        let (span, padding) = (geometry.span(kernel(w, false)?), geometry.padded([0, 0]));
        let full = [0, 1].map(|i| ([h, wide][i] - 1) * stride[i] + span[i] + extra[i]);
        if (0..2).any(|i| padding[i] >= full[i]) {
            let [full, padding] = [full, padding].map(|p| by(p, false));
            return Err(format!("the padding takes {padding} from {full}, which leaves nothing"));
        }
        let more = [0, 1].map(|i| extra[i] / stride[i]);
        let op = Conv2dGradX { geometry, image: [0, 1].map(|i| full[i] - padding[i]), epilogue: None };
        op.sizes(x.with(2, h + more[0]).with(3, wide + more[1]), w)?;
        Ok((op, more))
    }
}
