//! The methods of [`Tensor`] that resample images, and the op's test cases.

use super::*;
use crate::ops::conv2d::Pair;
use crate::ops::max_pool2d::{Windows, no_images};
use std::panic::Location;

/// The options of `avg_pool1d_with` (`N` = 1) and `avg_pool2d_with` (`N` = 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool<const N: usize> {
    /// The distance from the start of one window to the start of the next. `None` means the size of the kernel.
    pub stride: Option<[usize; N]>,
    /// The number of zeros that are added on each side. If they do not count in the mean, each window must contain an element of
    /// the image.
    pub padding: [usize; N],
    /// Whether the size of the output is rounded up instead of down. The last window may then reach past the padding.
    pub ceil_mode: bool,
    /// Whether the zeros of the padding count in the mean. Otherwise the mean is over the elements inside of the image.
    pub count_include_pad: bool,
}

impl<const N: usize> Default for AvgPool<N> {
    fn default() -> Self {
        AvgPool { stride: None, padding: [0; N], ceil_mode: false, count_include_pad: true }
    }
}

/// The interpolation between the elements of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsample {
    /// Takes the element at `⌊o·h / oh⌋`.
    Nearest,
    /// Takes the element at `⌊(o + ½)·h / oh⌋`, the element that the middle of the output lies in. It is PyTorch's `nearest-exact`.
    NearestExact,
    /// Takes the weighted sum of the sixteen elements around a point, by cubic convolution (Keys 1981) with a = −0.75, as in PyTorch.
    /// Results may lie outside of the range of the elements. Both axes are products with constant matrices. So an element that is not
    /// finite makes its row and its column NaN.
    Bicubic {
        /// The same as for [`Upsample::Bilinear`].
        align_corners: bool,
    },
    /// Takes the weighted mean of the four elements around a point. A nearer element has a larger weight.
    Bilinear {
        /// Whether the first and the last element stay at the ends, and the points between them are spread evenly. Without it,
        /// which is PyTorch's default, elements are squares, and the outer edges of the image stay at the ends.
        align_corners: bool,
    },
}

impl Upsample {
    /// Resizes images. `size` gets 0 for rows or 1 for columns, and the size of the axis, and returns the new size.
    #[track_caller]
    fn apply<'g>(self, name: &str, x: Tensor<'g>, size: impl Fn(usize, usize) -> usize) -> Tensor<'g> {
        match (self, no_images(x.shape(), 4)) {
            (Upsample::Bicubic { align_corners }, None) if !x.is_dead() => {
                let place = Location::caller();
                let dims = x.shape();
                cubic::resize(x, [size(0, dims.dims()[2]), size(1, dims.last())], align_corners)
                    .unwrap_or_else(|why| x.graph.mistake(name, &[x], why, place))
            }
            _ => x.resample(name, 4, |k, n| match self {
                Upsample::Nearest => Along::nearest(n, size(k, n)),
                // A bicubic resize of no image ends with the mistake of `resample`.
                Upsample::NearestExact | Upsample::Bicubic { .. } => Along::nearest_exact(n, size(k, n)),
                Upsample::Bilinear { align_corners } => Along::linear(n, size(k, n), align_corners),
            }),
        }
    }
}

impl<'g> Tensor<'g> {
    /// Returns the mean of each window of `kernel` rows and columns. The windows do not overlap. `[n, c, h, w]` becomes
    /// `[n, c, ⌊h / kernel⌋, ⌊w / kernel⌋]`. Rows and columns that fill no window are left out. It is a mistake if the kernel is 0
    /// or larger than the image.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([1, 1, 2, 4]).avg_pool2d(2)])?;
    /// let x = Host::new([1, 1, 2, 4], vec![1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 8.0, 7.0]);
    /// assert_eq!(f.run(&[x])?[0].f(), &[2.5, 6.5]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn avg_pool2d(self, kernel: impl Into<Pair>) -> Tensor<'g> {
        self.avg_pool2d_with(kernel, AvgPool::default())
    }
    /// Computes [`avg_pool2d`](Tensor::avg_pool2d) with options. The result has `⌊(h + 2·padding − kernel) / stride⌋ + 1` rows, as
    /// in PyTorch, and a number of columns by the same formula.
    ///
    /// It is also a mistake if the stride is 0. The padding may be more than half of the kernel, as in ONNX, so a window may lie
    /// wholly in the padding. Its mean is 0 if the padding counts. Otherwise such a window is a mistake.
    #[track_caller]
    pub fn avg_pool2d_with(self, kernel: impl Into<Pair>, options: AvgPool<2>) -> Tensor<'g> {
        let Pair(kernel) = kernel.into();
        self.resample("avg_pool2d", 4, |k, n| mean(n, kernel[k], options.stride.map(|s| s[k]), options.padding[k], &options))
    }
    /// Computes [`avg_pool2d`](Tensor::avg_pool2d) along one axis. `[n, c, length]` becomes `[n, c, ⌊length / kernel⌋]`.
    #[track_caller]
    pub fn avg_pool1d(self, kernel: usize) -> Tensor<'g> {
        self.avg_pool1d_with(kernel, AvgPool::default())
    }
    /// Computes [`avg_pool1d`](Tensor::avg_pool1d) with options. See [`avg_pool2d_with`](Tensor::avg_pool2d_with).
    #[track_caller]
    pub fn avg_pool1d_with(self, kernel: usize, options: AvgPool<1>) -> Tensor<'g> {
        self.resample("avg_pool1d", 3, |k, n| match k {
            0 => Ok(Along::same(n)),
            _ => mean(n, kernel, options.stride.map(|[s]| s), options.padding[0], &options),
        })
    }
    /// Returns the means of `[oh, ow]` parts of each image. `[n, c, h, w]` becomes `[n, c, oh, ow]` for every h and w. Part `i` has
    /// the rows `⌊i·h / oh⌋ .. ⌈(i + 1)·h / oh⌉`, as in PyTorch. If `oh` does not divide h, neighbouring parts may share a row. It is a
    /// mistake if an output size is 0.
    #[track_caller]
    pub fn adaptive_avg_pool2d(self, size: [usize; 2]) -> Tensor<'g> {
        match size {
            // The kernel of `mean` uses all invocations for a long line.
            [1, 1] if no_images(self.shape(), 4).is_none() => self.mean(&[2, 3], true),
            _ => self.resample("adaptive_avg_pool2d", 4, |k, n| Along::bins(n, size[k])),
        }
    }
    /// Returns the mean of each channel of each image. `[n, c, h, w]` becomes `[n, c]` (Lin, Chen & Yan 2013, section 3.2).
    #[track_caller]
    pub fn global_avg_pool2d(self) -> Tensor<'g> {
        match no_images(self.shape(), 4) {
            _ if self.is_dead() => self,
            None => self.mean(&[2, 3], false),
            Some(why) => self.graph.mistake("global_avg_pool2d", &[self], why, Location::caller()),
        }
    }
    /// Resizes images: `[n, c, h, w]` becomes `[n, c, oh, ow]`. The images may grow or shrink. PyTorch calls it `interpolate`.
    /// There is no antialiasing if images shrink. It is a mistake if an output size is 0.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::resample::Upsample};
    /// let g = Graph::inference();
    /// let x = g.input([1, 1, 1, 2]);
    /// let (nearest, even) = (Upsample::Nearest, Upsample::Bilinear { align_corners: true });
    /// let mut f = Device::cpu().compile(&[x.upsample(nearest, [1, 4]), x.upsample(even, [1, 3])])?;
    /// let y = f.run(&[Host::new([1, 1, 1, 2], vec![1.0, 2.0])])?;
    /// assert_eq!((y[0].f(), y[1].f()), (&[1.0, 1.0, 2.0, 2.0][..], &[1.0, 1.5, 2.0][..]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn upsample(self, mode: Upsample, size: [usize; 2]) -> Tensor<'g> {
        mode.apply("upsample", self, |k, _| size[k])
    }
    /// Resizes images to `factor` times their size. See [`upsample`](Tensor::upsample).
    #[track_caller]
    pub fn upsample_by(self, mode: Upsample, factor: usize) -> Tensor<'g> {
        mode.apply("upsample_by", self, |_, n| n.saturating_mul(factor))
    }
    /// Reverses the order of the elements along `axis`. A negative `axis` counts from the last axis. It is a mistake if there is no
    /// such axis.
    #[track_caller]
    pub fn flip(self, axis: isize) -> Tensor<'g> {
        let (x, place) = (self.shape(), Location::caller());
        match x.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => {
                let [outer, n, inner] = x.around(axis);
                let op = Resample { rows: Along::flip(n), columns: Along::same(inner), transposed: false };
                self.reshape([outer, n, inner]).apply(op).reshape(x)
            }
            None if x.is_scalar_along(axis) => self,
            None => self.graph.mistake("flip", &[self], format!("there is no axis {axis}"), place),
        }
    }
    /// Resamples the last two of `rank` axes. `along` gets 0 for the axis before the last and 1 for the last axis, and the size of
    /// the axis.
    #[track_caller]
    fn resample(self, name: &str, rank: usize, along: impl Fn(usize, usize) -> Result<Along, String>) -> Tensor<'g> {
        let (x, place) = (self.shape(), Location::caller());
        let op = || {
            no_images(x, rank).map_or(Ok(()), Err)?;
            Ok(Resample { rows: along(0, x.dims()[rank - 2])?, columns: along(1, x.last())?, transposed: false })
        };
        match op() {
            _ if self.is_dead() => self,
            Ok(op) => self.apply(op),
            Err(why) => self.graph.mistake(name, &[self], why, place),
        }
    }
}

fn mean<const N: usize>(n: usize, kernel: usize, stride: Option<usize>, padding: usize, o: &AvgPool<N>) -> Result<Along, String> {
    let counted = o.count_include_pad;
    Ok(Along::mean(Windows::new(n, kernel, stride.unwrap_or(kernel), padding, 1, o.ceil_mode, counted)?, counted))
}

/// Returns pairs of axes to test.
pub(super) fn sizes() -> Vec<[Along; 2]> {
    let window = |n, kernel, stride, padding, ceil, counted| {
        Along::mean(Windows::new(n, kernel, stride, padding, 1, ceil, counted).expect("the windows fit"), counted)
    };
    let all = |f: &dyn Fn(usize, usize) -> Result<Along, String>, sizes: &[[usize; 4]]| -> Vec<[Along; 2]> {
        sizes.iter().map(|&[h, oh, w, ow]| [f(h, oh).expect("not 0"), f(w, ow).expect("not 0")]).collect()
    };
    let mut sizes = vec![
        [window(1, 1, 1, 0, false, true), window(1, 1, 1, 0, false, true)],
        [window(8, 2, 2, 0, false, true), window(6, 2, 2, 0, false, true)],
        [window(7, 2, 2, 0, false, true), window(5, 2, 2, 0, true, true)],
        [window(5, 3, 1, 1, false, true), window(7, 3, 1, 1, false, true)],
        [window(11, 3, 2, 1, false, false), window(13, 3, 2, 1, false, false)],
        [window(9, 2, 3, 0, false, true), window(10, 1, 5, 0, false, true)],
        [window(5, 5, 5, 0, false, true), window(4, 4, 4, 0, false, true)],
        [window(4, 4, 3, 2, true, true), window(9, 5, 2, 1, true, false)],
        [window(97, 3, 2, 1, true, false), window(67, 2, 1, 1, true, true)],
        // The padding is more than half of a kernel. Some windows lie wholly in the padding.
        [window(4, 3, 2, 2, false, false), window(5, 4, 1, 3, true, true)],
        [window(3, 2, 2, 3, false, true), window(4, 3, 1, 5, false, true)],
        [Along::flip(3), Along::same(37)],
        [Along::flip(129), Along::same(1)],
    ];
    let bins = [[1, 1, 1, 1], [7, 3, 5, 5], [6, 3, 8, 2], [3, 7, 2, 5], [13, 5, 11, 6], [67, 31, 17, 16]];
    sizes.extend(all(&Along::bins, &bins));
    let points = [[1, 1, 1, 1], [1, 3, 4, 1], [3, 6, 2, 6], [5, 7, 7, 5], [7, 3, 3, 11], [11, 2, 13, 3], [31, 67, 16, 17]];
    sizes.extend(all(&Along::nearest, &points));
    sizes.extend(all(&Along::nearest_exact, &points));
    sizes.extend(all(&|n, out| Along::linear(n, out, false), &points));
    sizes.extend(all(&|n, out| Along::linear(n, out, true), &points));
    sizes
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (k, [rows, columns]) in sizes().into_iter().enumerate() {
        for transposed in [false, true] {
            // Several planes, but one plane if the image is large.
            let lead = [[1, 1], [2, 3], [3, 1]][if rows.n * columns.n > 1000 { 0 } else { k % 3 }];
            let op = Resample { rows, columns, transposed };
            let size = if transposed { [rows.out, columns.out] } else { [rows.n, columns.n] };
            let x = Shape::from([lead[0], lead[1], size[0], size[1]]);
            let to = if transposed { [rows.n, columns.n] } else { [rows.out, columns.out] };
            let what = if transposed { "gradient of " } else { "" };
            cases.push(Case::new(format!("{what}{} {k}, {x} to {to:?}", OpDef::called(&op)), op, &[x]));
        }
    }
    // Small bindings are written in several windows. The cases are flat, because their gradients would not fit.
    let linear = |n, out| Along::linear(n, out, false).expect("not 0");
    let large = Resample { rows: linear(31, 131), columns: linear(37, 127), transposed: false };
    cases.push(Case::new("upsample [31, 37] to [131, 127]", large, &[Shape::from([31, 37])]).flat());
    let mean = |n| Along::mean(Windows::new(n, 3, 2, 1, 1, false, true).expect("the windows fit"), true);
    let large = Resample { rows: mean(131), columns: mean(127), transposed: true };
    cases.push(Case::new("gradient of avg_pool2d [131, 127]", large, &[Shape::from([66, 64])]).flat());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    #[test]
    fn mistakes() {
        let x = Shape::from([1, 3, 4, 6]);
        let message = |x: Shape, f: &dyn for<'g> Fn(Tensor<'g>) -> Tensor<'g>, want: &str| {
            let text = f(Graph::training().input_of(x)).error().map_or(String::new(), |e| e.to_string());
            assert!(text.starts_with(want) && text.contains("tensor.rs:"), "{text}");
        };
        let (plain, bilinear) = (AvgPool::<2>::default(), Upsample::Bilinear { align_corners: false });
        message(Shape::from([4, 6]), &|x| x.avg_pool2d([2, 2]), "avg_pool2d: [4, 6]: takes images, [n, channels, height, width]: give");
        message(x.u32(), &|x| x.avg_pool2d([2, 2]), "avg_pool2d: u32 [1, 3, 4, 6]: takes floats, not labels (see to_f32) (");
        message(x, &|x| x.avg_pool2d([5, 2]), "avg_pool2d: [1, 3, 4, 6]: a kernel of 5 is larger than 4 elements with padding 0 (");
        let stride = AvgPool { stride: Some([1, 0]), ..plain };
        message(x, &|x| x.avg_pool2d_with([2, 2], stride), "avg_pool2d: [1, 3, 4, 6]: stride 0 should be at least 1 (");
        let padding = AvgPool { padding: [3, 0], count_include_pad: false, ..plain };
        message(x, &|x| x.avg_pool2d_with([3, 2], padding), "avg_pool2d: [1, 3, 4, 6]: window 0 contains none of the 4 elements; u");
        message(x, &|x| x.avg_pool1d(2), "avg_pool1d: [1, 3, 4, 6]: takes [n, channels, length]: give it these axes by");
        message(x, &|x| x.adaptive_avg_pool2d([0, 3]), "adaptive_avg_pool2d: [1, 3, 4, 6]: an output of size 0 holds nothing (");
        message(Shape::from([4, 6]), &|x| x.adaptive_avg_pool2d([1, 1]), "adaptive_avg_pool2d: [4, 6]: takes images");
        message(Shape::from([4, 6]), &|x| x.global_avg_pool2d(), "global_avg_pool2d: [4, 6]: takes images");
        message(x, &|x| x.upsample(bilinear, [4, 0]), "upsample: [1, 3, 4, 6]: an output of size 0 holds nothing (");
        message(x, &|x| x.upsample_by(Upsample::Nearest, 0), "upsample_by: [1, 3, 4, 6]: an output of size 0 holds nothing (");
        let large = "[1, 3, 4, 6]: an axis of 4 becomes one of 18446744073709551615: their product may be at most 536870912 (";
        message(x, &|x| x.upsample(bilinear, [usize::MAX, 6]), &format!("upsample: {large}"));
        message(x, &|x| x.upsample_by(Upsample::Nearest, usize::MAX), &format!("upsample_by: {large}"));
        message(x, &|x| x.flip(4), "flip: [1, 3, 4, 6]: there is no axis 4 (");
    }
}
