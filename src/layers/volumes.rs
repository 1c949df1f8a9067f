//! Convolutional layers over three axes.

use crate::{graph::Tensor, init::Init, ops::volumes::Convolution3d, shape::Shape};
use std::panic::Location;

/// Options of [`Tensor::conv3d_with`]. The defaults are PyTorch's.
#[derive(Clone, Debug, Default)]
pub struct Conv3d {
    /// The movement of the kernel: stride, padding, dilation and groups.
    pub convolution: Convolution3d,
    /// Leaves the bias out.
    pub no_bias: bool,
    /// The initialiser of the weight; `None` means PyTorch's default.
    pub weight: Option<Init>,
    /// The initialiser of the bias; `None` means PyTorch's default.
    pub bias: Option<Init>,
}

impl<'g> Tensor<'g> {
    /// Applies a convolutional layer, `[n, c, d, h, w]` to `[n, out, od, oh, ow]`: [`convolve3d`](Tensor::convolve3d) plus a bias
    /// for each channel. The parameters are `name.weight` `[out, c, kd, kh, kw]` and `name.bias` `[out]`. Both start uniform in
    /// ±1/√(c·kd·kh·kw), as in PyTorch.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// assert_eq!(g.input([4, 1, 16, 32, 32]).conv3d("conv", 8, [3, 5, 5]).shape().dims(), [4, 8, 14, 28, 28]);
    /// ```
    #[track_caller]
    pub fn conv3d(self, name: &str, out: usize, kernel: [usize; 3]) -> Tensor<'g> {
        self.conv3d_with(name, out, kernel, Conv3d::default())
    }
    /// [`conv3d`](Tensor::conv3d) with options. With groups, the weight has the shape `[out, c / groups, kd, kh, kw]`.
    #[track_caller]
    pub fn conv3d_with(self, name: &str, out: usize, kernel: [usize; 3], options: Conv3d) -> Tensor<'g> {
        let (g, x, _line) = (self.graph(), self.shape(), self.graph().line());
        let (groups, [kd, kh, kw]) = (options.convolution.groups, kernel);
        let why = match x.dims()[..] {
            _ if self.is_dead() => return self,
            [_, c, _, _, _] if groups > 0 && c.is_multiple_of(groups) => String::new(),
            [_, c, _, _, _] => format!("{groups} groups do not divide {c} input channels"),
            _ => format!("input 0 should be [n, channels, depth, height, width], not of {} axes", x.rank()),
        };
        if !why.is_empty() {
            return g.mistake("conv3d", &[self], why, Location::caller());
        }
        let shape = Shape::from([out, x.dims()[1] / groups, kd, kh, kw]);
        let weight = g.param(&format!("{name}.weight"), shape, options.weight.unwrap_or(Init::FanIn));
        let y = self.convolve3d(weight, options.convolution);
        if options.no_bias || y.is_dead() {
            return y;
        }
        let bound = 1.0 / (shape.sample().elements() as f32).sqrt();
        let bias = options.bias.unwrap_or(Init::Uniform { low: -bound, high: bound });
        y + g.param(&format!("{name}.bias"), [out], bias).reshape([out, 1, 1, 1])
    }
}
