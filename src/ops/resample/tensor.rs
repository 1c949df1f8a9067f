//! The methods of [`Tensor`] that resample, and the op's test cases.

use super::*;
use crate::ops::conv2d::Pair;
use crate::ops::max_pool2d::{Windows, no_images};
use std::panic::Location;

/// What `avg_pool1d_with` (`N` = 1) and `avg_pool2d_with` (`N` = 2) are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool<const N: usize> {
    /// How far each window is from the one before; the kernel's size without one.
    pub stride: Option<[usize; N]>,
    /// Zeros on each side. Where they do not count, each window must reach an element.
    pub padding: [usize; N],
    /// Rounds the output's size up instead of down: the last window may reach past the padding.
    pub ceil_mode: bool,
    /// Whether the zeros of the padding count in the mean. Without it the mean is of what lies inside of the image.
    pub count_include_pad: bool,
}

impl<const N: usize> Default for AvgPool<N> {
    fn default() -> Self {
        AvgPool { stride: None, padding: [0; N], ceil_mode: false, count_include_pad: true }
    }
}

/// Where the values between the elements of an image come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsample {
    /// From the element at `⌊o·h / oh⌋`.
    Nearest,
    /// From the four around a point, in proportion to how near they are.
    Bilinear {
        /// The first and the last element stay where they are, and what is between is spread evenly. Without it, PyTorch's
        /// default, elements are squares whose outer edges stay where they are.
        align_corners: bool,
    },
}

impl Upsample {
    fn along(self, n: usize, out: usize) -> Result<Along, String> {
        match self {
            Upsample::Nearest => Along::nearest(n, out),
            Upsample::Bilinear { align_corners } => Along::linear(n, out, align_corners),
        }
    }
}

impl<'g> Tensor<'g> {
    /// The mean of each window of `kernel` rows and columns, without overlap: `[n, c, h, w]` to `[n, c, ⌊h / kernel⌋, ⌊w /
    /// kernel⌋]`. Rows and columns that fill no window are left out. A mistake: a kernel of 0, or one larger than the image.
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
    /// [`avg_pool2d`](Tensor::avg_pool2d) with options: sizes are `⌊(h + 2·padding − kernel) / stride⌋ + 1`, as PyTorch has
    /// it. Mistakes besides: a stride of 0, a mean without the padding of a window that lies in it wholly (the padding may be
    /// more than half of the kernel, as in ONNX; where it counts such a mean is 0).
    #[track_caller]
    pub fn avg_pool2d_with(self, kernel: impl Into<Pair>, options: AvgPool<2>) -> Tensor<'g> {
        let Pair(kernel) = kernel.into();
        self.resample("avg_pool2d", 4, |k, n| mean(n, kernel[k], options.stride.map(|s| s[k]), options.padding[k], &options))
    }
    /// [`avg_pool2d`](Tensor::avg_pool2d) along one axis: `[n, c, length]` to `[n, c, ⌊length / kernel⌋]`.
    #[track_caller]
    pub fn avg_pool1d(self, kernel: usize) -> Tensor<'g> {
        self.avg_pool1d_with(kernel, AvgPool::default())
    }
    /// [`avg_pool1d`](Tensor::avg_pool1d) with options.
    #[track_caller]
    pub fn avg_pool1d_with(self, kernel: usize, options: AvgPool<1>) -> Tensor<'g> {
        self.resample("avg_pool1d", 3, |k, n| match k {
            0 => Ok(Along::same(n)),
            _ => mean(n, kernel, options.stride.map(|[s]| s), options.padding[0], &options),
        })
    }
    /// The means of `[oh, ow]` parts of each image: `[n, c, h, w]` to `[n, c, oh, ow]`, whatever h and w are. Part `i` of the
    /// rows goes from `⌊i·h / oh⌋` to before `⌈(i + 1)·h / oh⌉`, as in PyTorch: neighbours share a row where they do not fit.
    /// A mistake: an output of size 0.
    #[track_caller]
    pub fn adaptive_avg_pool2d(self, size: [usize; 2]) -> Tensor<'g> {
        match size {
            // Its kernel sums up long lines with all invocations.
            [1, 1] if no_images(self.shape(), 4).is_none() => self.mean(&[2, 3], true),
            _ => self.resample("adaptive_avg_pool2d", 4, |k, n| Along::bins(n, size[k])),
        }
    }
    /// The mean of each channel of each image: `[n, c, h, w]` to `[n, c]` (Lin, Chen & Yan 2013, section 3.2).
    #[track_caller]
    pub fn global_avg_pool2d(self) -> Tensor<'g> {
        match no_images(self.shape(), 4) {
            _ if self.is_dead() => self,
            None => self.mean(&[2, 3], false),
            Some(why) => self.graph.mistake("global_avg_pool2d", &[self], why, Location::caller()),
        }
    }
    /// Images of another size, larger or smaller: `[n, c, h, w]` to `[n, c, oh, ow]`. PyTorch's `interpolate`, without its
    /// smoothing where it makes them smaller. A mistake: an output of size 0.
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
        self.resample("upsample", 4, |k, n| mode.along(n, size[k]))
    }
    /// [`upsample`](Tensor::upsample) to `factor` times the size.
    #[track_caller]
    pub fn upsample_by(self, mode: Upsample, factor: usize) -> Tensor<'g> {
        self.resample("upsample_by", 4, |_, n| mode.along(n, n.saturating_mul(factor)))
    }
    /// The elements along `axis` (negative: from the back) in the opposite order. A mistake: no such axis.
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
    /// Along the last two of `rank` axes; `along` is given 0 for the first of them, 1 for the other, and the size.
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

/// Pairs of axes to test.
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
        // More padding than half of a kernel; windows in it wholly.
        [window(4, 3, 2, 2, false, false), window(5, 4, 1, 3, true, true)],
        [window(3, 2, 2, 3, false, true), window(4, 3, 1, 5, false, true)],
        [Along::flip(3), Along::same(37)],
        [Along::flip(129), Along::same(1)],
    ];
    let bins = [[1, 1, 1, 1], [7, 3, 5, 5], [6, 3, 8, 2], [3, 7, 2, 5], [13, 5, 11, 6], [67, 31, 17, 16]];
    sizes.extend(all(&Along::bins, &bins));
    let points = [[1, 1, 1, 1], [1, 3, 4, 1], [3, 6, 2, 6], [5, 7, 7, 5], [7, 3, 3, 11], [11, 2, 13, 3], [31, 67, 16, 17]];
    sizes.extend(all(&Along::nearest, &points));
    sizes.extend(all(&|n, out| Along::linear(n, out, false), &points));
    sizes.extend(all(&|n, out| Along::linear(n, out, true), &points));
    sizes
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (k, [rows, columns]) in sizes().into_iter().enumerate() {
        for transposed in [false, true] {
            // Several planes, but not where they are large.
            let lead = [[1, 1], [2, 3], [3, 1]][if rows.n * columns.n > 1000 { 0 } else { k % 3 }];
            let op = Resample { rows, columns, transposed };
            let size = if transposed { [rows.out, columns.out] } else { [rows.n, columns.n] };
            let x = Shape::from([lead[0], lead[1], size[0], size[1]]);
            let to = if transposed { [rows.n, columns.n] } else { [rows.out, columns.out] };
            let what = if transposed { "gradient of " } else { "" };
            cases.push(Case::new(format!("{what}{} {k}, {x} to {to:?}", OpDef::called(&op)), op, &[x]));
        }
    }
    // Written in several windows where bindings are small: their gradients would not fit.
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
        message(x, &|x| x.avg_pool2d_with([3, 2], padding), "avg_pool2d: [1, 3, 4, 6]: window 0 lies beside all of the 4 elements: a");
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
