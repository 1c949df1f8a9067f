//! Convolutional layers.

use crate::{
    graph::Tensor,
    init::Init,
    ops::conv2d::{Convolution, Padding, Pair},
    shape::Shape,
};
use std::panic::Location;

/// Options of a convolutional layer over `D` axes. The defaults are PyTorch's.
#[derive(Clone, Debug)]
pub struct Conv<const D: usize> {
    /// The distance between neighbouring positions of the kernel on the input, in pixels.
    pub stride: [usize; D],
    /// The zeros added around the image.
    pub padding: Padding,
    /// The distance between neighbouring elements of the kernel on the input, in pixels.
    pub dilation: [usize; D],
    /// The number of groups of channels. Each group is convolved separately.
    pub groups: usize,
    /// Leaves the bias out.
    pub no_bias: bool,
    /// The initialiser of the weight; `None` means PyTorch's default.
    pub weight: Option<Init>,
    /// The initialiser of the bias; `None` means PyTorch's default.
    pub bias: Option<Init>,
}

/// Options of [`Tensor::conv1d_with`].
pub type Conv1d = Conv<1>;
/// Options of [`Tensor::conv2d_with`].
pub type Conv2d = Conv<2>;

/// Options of [`Tensor::conv_transpose2d_with`].
#[derive(Clone, Debug)]
pub struct ConvTranspose2d {
    /// The distance between the output pixels of neighbouring input pixels.
    pub stride: [usize; 2],
    /// The pixels removed from the edges of the output.
    pub padding: Padding,
    /// The number of pixels appended to the end of the output. It must be smaller than the stride or the dilation.
    pub output_padding: [usize; 2],
    /// The distance between neighbouring elements of the kernel on the output, in pixels.
    pub dilation: [usize; 2],
    /// The number of groups of channels. Each group is convolved separately.
    pub groups: usize,
    /// Leaves the bias out.
    pub no_bias: bool,
    /// The initialiser of the weight; `None` means PyTorch's default.
    pub weight: Option<Init>,
    /// The initialiser of the bias; `None` means PyTorch's default.
    pub bias: Option<Init>,
}

impl<const D: usize> Default for Conv<D> {
    fn default() -> Self {
        let Convolution { stride, padding, dilation, groups } = Convolution::default();
        Conv { stride, padding, dilation, groups, no_bias: false, weight: None, bias: None }
    }
}

impl Default for ConvTranspose2d {
    fn default() -> Self {
        let Conv { stride, padding, dilation, groups, no_bias, weight, bias } = Conv::default();
        ConvTranspose2d { stride, padding, output_padding: [0, 0], dilation, groups, no_bias, weight, bias }
    }
}

impl<const D: usize> Conv<D> {
    fn convolution(&self) -> Convolution<D> {
        Convolution { stride: self.stride, padding: self.padding, dilation: self.dilation, groups: self.groups }
    }
}

impl<'g> Tensor<'g> {
    /// Applies a convolutional layer, `[n, c, h, w]` to `[n, out, oh, ow]`: [`convolve2d`](Tensor::convolve2d) plus a bias
    /// for each channel. The parameters are `name.weight` `[out, c, kh, kw]` and `name.bias` `[out]`. Both start uniform in
    /// ±1/√(c·kh·kw), as in PyTorch. `kernel` is one side length, or `[height, width]`.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// let y = g.input([64, 3, 32, 32]).conv2d("conv1", 16, 3).relu().conv2d("conv2", 8, [1, 5]);
    /// assert_eq!(y.shape().dims(), [64, 8, 30, 26]);
    /// ```
    #[track_caller]
    pub fn conv2d(self, name: &str, out: usize, kernel: impl Into<Pair>) -> Tensor<'g> {
        self.conv2d_with(name, out, kernel, Conv2d::default())
    }
    /// [`conv2d`](Tensor::conv2d) with options. With groups, the weight has the shape `[out, c / groups, kh, kw]`, and both
    /// parameters start uniform in ±1/√(c / groups · kh·kw).
    ///
    /// ```
    /// use downhill::{Graph, layers::Conv2d, ops::conv2d::Padding};
    /// let g = Graph::training();
    /// let x = g.input([64, 16, 32, 32]);
    /// let same = x.conv2d_with("depthwise", 16, 3, Conv2d { padding: Padding::Same, groups: 16, ..Conv2d::default() });
    /// let half = x.conv2d_with("down", 32, 3, Conv2d { padding: 1.into(), stride: [2, 2], no_bias: true, ..Conv2d::default() });
    /// assert_eq!((same.shape().dims(), half.shape().dims()), (&[64, 16, 32, 32][..], &[64, 32, 16, 16][..]));
    /// ```
    #[track_caller]
    pub fn conv2d_with(self, name: &str, out: usize, kernel: impl Into<Pair>, options: Conv2d) -> Tensor<'g> {
        let Pair([h, w]) = kernel.into();
        let Some(c) = self.conv_channels("conv2d", 4, options.groups) else { return self.graph().dead() };
        let weight = self.weight(name, [out, c / options.groups, h, w], &options.weight);
        let y = self.convolve("conv2d", weight, options.convolution(), [self, weight], Location::caller());
        y.plus_bias(name, out, weight, options.no_bias, options.bias)
    }
    /// Applies a convolutional layer along the last axis, `[n, c, length]` to `[n, out, length']`. It works like
    /// [`conv2d`](Tensor::conv2d). The parameters are `name.weight` `[out, c, kernel]` and `name.bias` `[out]`.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// assert_eq!(g.input([64, 2, 1000]).conv1d("conv", 16, 5).shape().dims(), [64, 16, 996]);
    /// ```
    #[track_caller]
    pub fn conv1d(self, name: &str, out: usize, kernel: usize) -> Tensor<'g> {
        self.conv1d_with(name, out, kernel, Conv1d::default())
    }
    /// [`conv1d`](Tensor::conv1d) with options.
    #[track_caller]
    pub fn conv1d_with(self, name: &str, out: usize, kernel: usize, options: Conv1d) -> Tensor<'g> {
        let Some(c) = self.conv_channels("conv1d", 3, options.groups) else { return self.graph().dead() };
        let weight = self.weight(name, [out, c / options.groups, kernel], &options.weight);
        let y = self.convolve_rows(weight, options.convolution(), Location::caller());
        // The bias is added before the reshape, while the result is still an image. So it can be fused into the kernel.
        let y = y.plus_bias(name, out, weight, options.no_bias, options.bias);
        if y.is_dead() { y } else { y.squeeze(2) }
    }
    /// Applies a transposed convolutional layer, `[n, c, h, w]` to `[n, out, oh, ow]`:
    /// [`convolve_transpose2d`](Tensor::convolve_transpose2d) plus a bias for each channel. The parameters are `name.weight`
    /// `[c, out, kh, kw]` and `name.bias` `[out]`. Both start uniform in ±1/√(out·kh·kw), as in PyTorch.
    ///
    /// ```
    /// use downhill::{Graph, layers::ConvTranspose2d};
    /// let g = Graph::training();
    /// let y = g.input([64, 16, 7, 7]).conv_transpose2d_with("up", 8, 2, ConvTranspose2d { stride: [2, 2], ..ConvTranspose2d::default() });
    /// assert_eq!(y.shape().dims(), [64, 8, 14, 14]);
    /// ```
    #[track_caller]
    pub fn conv_transpose2d(self, name: &str, out: usize, kernel: impl Into<Pair>) -> Tensor<'g> {
        self.conv_transpose2d_with(name, out, kernel, ConvTranspose2d::default())
    }
    /// [`conv_transpose2d`](Tensor::conv_transpose2d) with options. With groups, the weight has the shape
    /// `[c, out / groups, kh, kw]`.
    #[track_caller]
    pub fn conv_transpose2d_with(self, name: &str, out: usize, kernel: impl Into<Pair>, options: ConvTranspose2d) -> Tensor<'g> {
        let Pair([h, w]) = kernel.into();
        let ConvTranspose2d { stride, padding, output_padding, dilation, groups, no_bias, weight, bias } = options;
        let Some(c) = self.conv_channels("conv_transpose2d", 4, groups) else { return self.graph().dead() };
        if !out.is_multiple_of(groups) {
            let why = format!("{groups} groups do not divide {out} output channels");
            return self.graph().mistake("conv_transpose2d", &[self], why, Location::caller());
        }
        let weight = self.weight(name, [c, out / groups, h, w], &weight);
        let y = self.convolve_transpose2d(weight, Convolution { stride, padding, dilation, groups }, output_padding);
        y.plus_bias(name, out, weight, no_bias, bias)
    }
    /// Returns the number of channels if images of `rank` axes can be divided into `groups` groups. Otherwise it records a
    /// mistake.
    #[track_caller]
    fn conv_channels(self, op: &str, rank: usize, groups: usize) -> Option<usize> {
        let shape = self.shape();
        let why = match shape.dims().get(1) {
            _ if self.is_dead() => return None,
            Some(_) if shape.rank() == rank && groups == 0 => "there are no 0 groups: 1 is a plain convolution".into(),
            Some(&c) if shape.rank() == rank && c.is_multiple_of(groups) => return Some(c),
            Some(c) if shape.rank() == rank => format!("{groups} groups do not divide {c} input channels"),
            _ => format!("input 0 should be [n, channels, {}], not of {} axes", ["length", "height, width"][rank - 3], shape.rank()),
        };
        self.graph().mistake(op, &[self], why, Location::caller());
        None
    }
    #[track_caller]
    fn weight(self, name: &str, shape: impl Into<Shape>, init: &Option<Init>) -> Tensor<'g> {
        self.graph().param(&format!("{name}.weight"), shape, init.clone().unwrap_or(Init::FanIn))
    }
    /// Adds a bias for each channel. Without an initialiser, the bias starts uniform in ±1/√fan_in of the weight.
    #[track_caller]
    fn plus_bias(self, name: &str, out: usize, weight: Tensor<'g>, none: bool, init: Option<Init>) -> Tensor<'g> {
        if none || self.is_dead() {
            return self;
        }
        let bound = 1.0 / (weight.shape().sample().elements() as f32).sqrt();
        let bias = self.graph().param(&format!("{name}.bias"), [out], init.unwrap_or(Init::Uniform { low: -bound, high: bound }));
        self + bias.reshape([out, 1, 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    #[test]
    fn parameters_are_pytorchs() {
        let g = Graph::training();
        let x = g.input([2, 4, 9, 9]);
        x.conv2d_with("a", 6, [3, 2], Conv2d { groups: 2, ..Conv2d::default() });
        x.conv_transpose2d_with("b", 6, 3, ConvTranspose2d { groups: 2, bias: Some(Init::Zeros), ..ConvTranspose2d::default() });
        g.input([2, 4, 9]).conv1d_with("c", 3, 5, Conv1d { no_bias: true, ..Conv1d::default() });
        let (a, b) = ((1.0f32 / 12.0).sqrt(), Init::Zeros);
        let want = [
            ("a.weight", Shape::from([6, 2, 3, 2]), Init::FanIn),
            ("a.bias", Shape::from([6]), Init::Uniform { low: -a, high: a }),
            ("b.weight", Shape::from([4, 3, 3, 3]), Init::FanIn),
            ("b.bias", Shape::from([6]), b),
            ("c.weight", Shape::from([3, 4, 5]), Init::FanIn),
        ];
        let params = g.inner.borrow().params.clone();
        assert_eq!(params.len(), want.len());
        for (p, (name, shape, init)) in params.iter().zip(want) {
            let init = match (&p.init, init) {
                (Init::Uniform { low, high }, Init::Uniform { low: l, .. }) => (low - l).abs() < 1e-7 && *high == -low,
                (got, want) => *got == want,
            };
            assert!(p.name == name && p.shape == shape && init, "{p:?}, not {name} {shape}");
        }
    }

    #[test]
    fn mistakes() {
        type Model = for<'g> fn(&'g Graph) -> Tensor<'g>;
        let told = |f: Model, text: &str| {
            let g = Graph::training();
            f(&g);
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        told(
            |g| g.input([2, 784]).conv2d("c", 8, 3),
            "conv2d: [2, 784]: input 0 should be [n, channels, height, width], not of 2 axes (src/layers/conv.rs:",
        );
        told(|g| g.input([2, 784]).conv1d("c", 8, 3), "conv1d: [2, 784]: input 0 should be [n, channels, length], not of 2 axes (");
        told(
            |g| g.input([2, 3, 9, 9]).conv2d_with("c", 8, 3, Conv2d { groups: 2, ..Conv2d::default() }),
            "conv2d: [2, 3, 9, 9]: 2 groups do not divide 3 input channels (",
        );
        told(
            |g| g.input([2, 3, 9, 9]).conv2d_with("c", 8, 3, Conv2d { groups: 0, ..Conv2d::default() }),
            "conv2d: [2, 3, 9, 9]: there are no 0 groups: 1 is a plain convolution (",
        );
        told(
            |g| g.input([2, 4, 9, 9]).conv2d_with("c", 9, 3, Conv2d { groups: 2, ..Conv2d::default() }),
            "conv2d: [2, 4, 9, 9] × c.weight [9, 2, 3, 3]: 2 groups do not divide 9 output channels (",
        );
        told(
            |g| g.input([2, 4, 9, 9]).conv_transpose2d_with("c", 9, 3, ConvTranspose2d { groups: 2, ..ConvTranspose2d::default() }),
            "conv_transpose2d: [2, 4, 9, 9]: 2 groups do not divide 9 output channels (",
        );
        told(|g| g.input([2, 4, 9, 9]).conv2d("c", 9, [3, 0]), "param: [9, 4, 3, 0]: an axis of size 0 holds nothing (src/layers/conv.rs:");
    }
}
