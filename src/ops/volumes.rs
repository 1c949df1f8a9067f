//! Convolution, pooling and resizing over three axes, `[n, channels, depth, height, width]`. Each is the op over two axes with
//! the depth folded into another axis. They have no kernel of their own.

use super::{
    conv2d::Convolution,
    max_pool2d::{MaxPool, Windows},
    resample::{AvgPool, Upsample},
};
use crate::{
    graph::Tensor,
    shape::{DType, Shape},
};
use std::panic::Location;

/// The movement of a kernel over three axes: depth, height, width. The default is PyTorch's: stride 1, no padding, dilation 1,
/// one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Convolution3d {
    /// The distance between neighbouring positions of the kernel.
    pub stride: [usize; 3],
    /// The number of zeros on both sides of each axis.
    pub padding: [usize; 3],
    /// The distance between neighbouring elements of the kernel.
    pub dilation: [usize; 3],
    /// The number of groups of channels. Each group is convolved on its own.
    pub groups: usize,
}

impl Default for Convolution3d {
    fn default() -> Self {
        Convolution3d { stride: [1; 3], padding: [0; 3], dilation: [1; 3], groups: 1 }
    }
}

/// Returns the reason why `x` is no volume `[n, channels, depth, height, width]` of floats, or `None`.
fn no_volume(x: Shape) -> Option<String> {
    match x.dtype() {
        DType::U32 => Some("takes floats, not labels (see to_f32)".into()),
        DType::F32 if x.rank() == 5 => None,
        DType::F32 => Some("takes volumes, [n, channels, depth, height, width]: give it these axes by reshape or unsqueeze".into()),
    }
}

/// Returns the windows along the three axes of a volume.
fn windows(
    x: Shape,
    kernel: [usize; 3],
    stride: [usize; 3],
    padding: [usize; 3],
    dilation: [usize; 3],
    ceil: bool,
) -> Result<[Windows; 3], String> {
    let along = |k: usize| Windows::new(x.dims()[k + 2], kernel[k], stride[k], padding[k], dilation[k], ceil, true);
    Ok([along(0)?, along(1)?, along(2)?])
}

impl<'g> Tensor<'g> {
    /// Convolves volumes `[n, c, d, h, w]` with a weight `[out, c / groups, kd, kh, kw]`, to `[n, out, od, oh, ow]`. It is the
    /// cross-correlation of [`convolve2d`](Tensor::convolve2d) with one axis more. The layer with its own parameters is
    /// [`conv3d`](Tensor::conv3d).
    ///
    /// It is one convolution over two axes, in which a channel and a depth of the kernel are one channel. So it takes the memory
    /// of kd copies of the volume.
    ///
    /// It is a mistake if the tensors have not five axes, if the kernel is larger than the padded volume, if the groups do not
    /// divide the channels, if the channels of input and weight differ, or if a stride or a dilation is 0.
    #[track_caller]
    pub fn convolve3d(self, w: Tensor<'g>, options: Convolution3d) -> Tensor<'g> {
        let (x, shape, place, _line) = (self.shape(), w.shape(), Location::caller(), self.graph.line());
        if self.is_dead() || w.is_dead() {
            return self.graph.dead();
        }
        let Convolution3d { stride, padding, dilation, groups } = options;
        let check = || {
            no_volume(x).map_or(Ok(()), Err)?;
            let &[out, per_group, kd, kh, kw] = shape.dims() else {
                return Err(format!("the weight should have 5 axes, not {}", shape.rank()));
            };
            let c = x.dims()[1];
            if groups == 0 || !c.is_multiple_of(groups) || !out.is_multiple_of(groups) || per_group != c / groups {
                return Err(format!(
                    "{groups} groups of {c} channels do not fit the weight {shape}, which is [out, channels / groups, kd, kh, kw]"
                ));
            }
            let windows = windows(x, [kd, kh, kw], stride, padding, dilation, false)?;
            Ok((windows[0], out, kd, [kh, kw]))
        };
        let (depth, out, kd, [kh, kw]) = match check() {
            Ok(sizes) => sizes,
            Err(why) => return self.graph.mistake("convolve3d", &[self, w], why, place),
        };
        let [n, c, od] = [x.dims()[0], x.dims()[1], depth.out];
        let padded = if padding[0] == 0 { self } else { self.pad(2, padding[0], padding[0]) };
        // Place k has what the depth k of the kernel sees, for each depth of the output.
        let seen: Vec<Tensor> = (0..kd)
            .map(|k| padded.slice_step(2, k * dilation[0], k * dilation[0] + (od - 1) * stride[0] + 1, stride[0]).unsqueeze(2))
            .collect();
        let seen = if kd == 1 { seen[0] } else { seen[0].concat(&seen[1..], 2) };
        let [h, width] = [x.dims()[3], x.dims()[4]];
        let images = seen.permute(&[0, 3, 1, 2, 4, 5]).reshape([n * od, c * kd, h, width]);
        let flat = w.reshape([out, c / groups * kd, kh, kw]);
        let options = Convolution {
            stride: [stride[1], stride[2]],
            padding: [padding[1], padding[2]].into(),
            dilation: [dilation[1], dilation[2]],
            groups,
        };
        let y = images.convolve2d(flat, options);
        if y.is_dead() {
            return y;
        }
        let [oh, ow] = [y.shape().dims()[2], y.shape().dims()[3]];
        y.reshape([n, od, out, oh, ow]).permute(&[0, 2, 1, 3, 4])
    }
    /// Returns the largest element of each window of `kernel` (depth, height, width). The windows do not overlap. `[n, c, d, h,
    /// w]` becomes `[n, c, ⌊d / kd⌋, ⌊h / kh⌋, ⌊w / kw⌋]`. The gradient goes to the first maximum of a window. See
    /// [`max_pool2d`](Tensor::max_pool2d).
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::inference();
    /// assert_eq!(g.input([2, 3, 8, 6, 4]).max_pool3d([2, 2, 2]).shape().dims(), [2, 3, 4, 3, 2]);
    /// ```
    #[track_caller]
    pub fn max_pool3d(self, kernel: [usize; 3]) -> Tensor<'g> {
        self.max_pool3d_with(kernel, MaxPool::default())
    }
    /// Computes [`max_pool3d`](Tensor::max_pool3d) with options. See [`max_pool2d_with`](Tensor::max_pool2d_with).
    #[track_caller]
    pub fn max_pool3d_with(self, kernel: [usize; 3], options: MaxPool<3>) -> Tensor<'g> {
        let MaxPool { stride, padding: p, dilation: d, ceil_mode } = options;
        let s = stride.unwrap_or(kernel);
        self.fold(
            "max_pool3d",
            |x| windows(x, kernel, s, p, d, ceil_mode),
            |x, axes| {
                let [k, s, p, d] = [kernel, s, p, d].map(|of| [of[axes[0]], of[axes[1]]]);
                match axes {
                    [0, _] => x.max_pool2d_with(
                        [k[0], 1],
                        MaxPool { stride: Some([s[0], 1]), padding: [p[0], 0], dilation: [d[0], 1], ceil_mode },
                    ),
                    _ => x.max_pool2d_with(k, MaxPool { stride: Some(s), padding: p, dilation: d, ceil_mode }),
                }
            },
        )
    }
    /// Returns the mean of each window of `kernel` (depth, height, width). The windows do not overlap. `[n, c, d, h, w]` becomes
    /// `[n, c, ⌊d / kd⌋, ⌊h / kh⌋, ⌊w / kw⌋]`. See [`avg_pool2d`](Tensor::avg_pool2d).
    #[track_caller]
    pub fn avg_pool3d(self, kernel: [usize; 3]) -> Tensor<'g> {
        self.avg_pool3d_with(kernel, AvgPool::default())
    }
    /// Computes [`avg_pool3d`](Tensor::avg_pool3d) with options. See [`avg_pool2d_with`](Tensor::avg_pool2d_with).
    #[track_caller]
    pub fn avg_pool3d_with(self, kernel: [usize; 3], options: AvgPool<3>) -> Tensor<'g> {
        let AvgPool { stride, padding: p, ceil_mode, count_include_pad } = options;
        let s = stride.unwrap_or(kernel);
        self.fold(
            "avg_pool3d",
            |x| windows(x, kernel, s, p, [1; 3], ceil_mode),
            |x, axes| {
                let [k, s, p] = [kernel, s, p].map(|of| [of[axes[0]], of[axes[1]]]);
                match axes {
                    [0, _] => {
                        x.avg_pool2d_with([k[0], 1], AvgPool { stride: Some([s[0], 1]), padding: [p[0], 0], ceil_mode, count_include_pad })
                    }
                    _ => x.avg_pool2d_with(k, AvgPool { stride: Some(s), padding: p, ceil_mode, count_include_pad }),
                }
            },
        )
    }
    /// Resizes volumes: `[n, c, d, h, w]` becomes `[n, c, od, oh, ow]`. See [`upsample`](Tensor::upsample).
    /// [`Upsample::Bilinear`] is PyTorch's `trilinear` here. It is a mistake if an output size is 0.
    #[track_caller]
    pub fn upsample3d(self, mode: Upsample, size: [usize; 3]) -> Tensor<'g> {
        let check = |_| if size.contains(&0) { Err("an output of size 0 holds nothing".to_string()) } else { Ok(()) };
        self.fold("upsample3d", check, |x, axes| {
            let to = if axes[0] == 0 { [size[0], x.shape().last()] } else { [size[1], size[2]] };
            x.upsample(mode, to)
        })
    }
    /// Applies `f` to height and width, with the axes `[1, 2]`, and then to the depth, with the axes `[0, 1]`: the second one,
    /// which is height and width together, has to stay as it is.
    #[track_caller]
    fn fold<T>(
        self,
        name: &str,
        check: impl Fn(Shape) -> Result<T, String>,
        f: impl Fn(Tensor<'g>, [usize; 2]) -> Tensor<'g>,
    ) -> Tensor<'g> {
        let (x, place, _line) = (self.shape(), Location::caller(), self.graph.line());
        if self.is_dead() {
            return self;
        }
        if let Err(why) = no_volume(x).map_or(Ok(()), Err).and_then(|()| check(x)) {
            return self.graph.mistake(name, &[self], why, place);
        }
        let &[n, c, d, h, w] = x.dims() else { return self };
        let y = f(self.reshape([n, c * d, h, w]), [1, 2]);
        if y.is_dead() {
            return y;
        }
        let [oh, ow] = [y.shape().dims()[2], y.shape().dims()[3]];
        let y = f(y.reshape([n, c, d, oh * ow]), [0, 1]);
        if y.is_dead() {
            return y;
        }
        y.reshape([n, c, y.shape().dims()[2], oh, ow])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    #[test]
    fn mistakes() {
        let start = |write: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| {
            let g = Graph::training();
            assert!(write(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text) && message.contains("src/ops/volumes.rs:"), "{message}");
        };
        start(
            &|g| g.input([3, 4, 5, 6]).max_pool3d([2; 3]),
            "max_pool3d: [3, 4, 5, 6]: takes volumes, [n, channels, depth, height, width]: give",
        );
        start(
            &|g| g.input([1, 3, 4, 5, 6]).max_pool3d([5, 1, 1]),
            "max_pool3d: [1, 3, 4, 5, 6]: a kernel of 5 is larger than 4 elements with",
        );
        start(&|g| g.input([1, 3, 4, 5, 6]).avg_pool3d([1, 0, 1]), "avg_pool3d: [1, 3, 4, 5, 6]: kernel 0 should be at least 1 (");
        start(
            &|g| g.input([1, 3, 4, 5, 6]).upsample3d(Upsample::Nearest, [1, 0, 1]),
            "upsample3d: [1, 3, 4, 5, 6]: an output of size 0 holds",
        );
        start(
            &|g| g.input([1, 3, 4, 5, 6]).convolve3d(g.input([2, 3, 5, 1, 1]), Convolution3d::default()),
            "convolve3d: [1, 3, 4, 5, 6] × [2, 3, 5, 1, 1]: a kernel of 5 is larger than 4 elements with padding 0 (",
        );
        start(
            &|g| g.input([1, 3, 4, 5, 6]).convolve3d(g.input([2, 2, 1, 1, 1]), Convolution3d::default()),
            "convolve3d: [1, 3, 4, 5, 6] × [2, 2, 1, 1, 1]: 1 groups of 3 channels do not fit the weight [2, 2, 1, 1, 1], which is [out,",
        );
    }
}
