//! The methods of [`Tensor`] for maximum pooling, and the op's test cases.

use super::*;
use crate::ops::conv2d::Pair;
use std::panic::Location;

/// The options of `max_pool1d_with` (`N` = 1) and `max_pool2d_with` (`N` = 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool<const N: usize> {
    /// The distance from the start of one window to the start of the next. `None` means the size of the kernel.
    pub stride: Option<[usize; N]>,
    /// The number of elements that are added on each side. They count as −∞. Each window must still contain an element of the
    /// image.
    pub padding: [usize; N],
    /// The distance between neighbouring elements of a window.
    pub dilation: [usize; N],
    /// Whether the size of the output is rounded up instead of down. The last window may then reach past the padding.
    pub ceil_mode: bool,
}

impl<const N: usize> Default for MaxPool<N> {
    fn default() -> Self {
        MaxPool { stride: None, padding: [0; N], dilation: [1; N], ceil_mode: false }
    }
}

impl MaxPool<2> {
    pub(super) fn image(&self, x: Shape, kernel: [usize; 2]) -> Result<Image, String> {
        let (stride, MaxPool { padding, dilation, ceil_mode, .. }) = (self.stride.unwrap_or(kernel), *self);
        let axis = |k: usize, n| Windows::new(n, kernel[k], stride[k], padding[k], dilation[k], ceil_mode, false);
        let [rows, columns] = [x.dims()[x.rank() - 2], x.last()];
        Ok(Image { rows: axis(0, rows)?, columns: axis(1, columns)? })
    }
}

/// Returns the reason why `x` is not a batch of images `[n, channels, height, width]` (or of lines, if `rank` is 3) of floats.
/// Returns `None` if it is.
pub(in crate::ops) fn no_images(x: Shape, rank: usize) -> Option<String> {
    match (x.dtype(), rank) {
        (DType::U32, _) => Some("takes floats, not labels (see to_f32)".into()),
        _ if x.rank() == rank => None,
        (_, 3) => Some("takes [n, channels, length]: give it these axes by reshape or unsqueeze".into()),
        _ => Some("takes images, [n, channels, height, width]: give it these axes by reshape or unsqueeze".into()),
    }
}

impl<'g> Tensor<'g> {
    /// Returns the largest element of each window of `kernel` rows and columns. The windows do not overlap. `[n, c, h, w]` becomes
    /// `[n, c, ⌊h / kernel⌋, ⌊w / kernel⌋]`. Rows and columns that fill no window are left out.
    ///
    /// The gradient goes to the first maximum of a window, row by row. If a window contains NaN, its result is NaN. It is a mistake
    /// if the kernel is 0 or larger than the image.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([1, 1, 2, 4]).max_pool2d(2)])?;
    /// let x = Host::new([1, 1, 2, 4], vec![1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 8.0, 7.0]);
    /// assert_eq!(f.run(&[x])?[0].f(), &[4.0, 8.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn max_pool2d(self, kernel: impl Into<Pair>) -> Tensor<'g> {
        self.max_pool2d_with(kernel, MaxPool::default())
    }
    /// Computes [`max_pool2d`](Tensor::max_pool2d) with options. The result has
    /// `⌊(h + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1` rows, as in PyTorch, and a number of columns by the same
    /// formula.
    ///
    /// It is also a mistake if the stride or the dilation is 0, or if a window contains no element of the image because of the
    /// padding. The padding may be more than half of the kernel, as in ONNX.
    #[track_caller]
    pub fn max_pool2d_with(self, kernel: impl Into<Pair>, options: MaxPool<2>) -> Tensor<'g> {
        let Pair(kernel) = kernel.into();
        let x = self.shape();
        match no_images(x, 4).map_or_else(|| options.image(x, kernel), Err) {
            _ if self.is_dead() => self,
            Ok(image) => self.apply(MaxPool2d { image, index: false }),
            Err(why) => self.graph.mistake("max_pool2d", &[self], why, Location::caller()),
        }
    }
    /// Computes [`max_pool2d`](Tensor::max_pool2d) along one axis. `[n, c, length]` becomes `[n, c, ⌊length / kernel⌋]`.
    #[track_caller]
    pub fn max_pool1d(self, kernel: usize) -> Tensor<'g> {
        self.max_pool1d_with(kernel, MaxPool::default())
    }
    /// Computes [`max_pool1d`](Tensor::max_pool1d) with options. See [`max_pool2d_with`](Tensor::max_pool2d_with).
    #[track_caller]
    pub fn max_pool1d_with(self, kernel: usize, options: MaxPool<1>) -> Tensor<'g> {
        let MaxPool { stride, padding: [padding], dilation: [dilation], ceil_mode } = options;
        let options = MaxPool { stride: stride.map(|[s]| [1, s]), padding: [0, padding], dilation: [1, dilation], ceil_mode };
        let x = self.shape();
        match no_images(x, 3).map_or_else(|| options.image(x, [1, kernel]), Err) {
            _ if self.is_dead() => self,
            Ok(_) => self.unsqueeze(2).max_pool2d_with([1, kernel], options).squeeze(2),
            Err(why) => self.graph.mistake("max_pool1d", &[self], why, Location::caller()),
        }
    }
}

/// Returns a test image: its name, the shapes of x and y, and the windows.
fn image(x: &[usize], kernel: [usize; 2], options: MaxPool<2>) -> (String, Shape, Shape, Image) {
    let x = Shape::new(x).expect("at most six axes");
    let image = options.image(x, kernel).expect("the windows fit");
    let MaxPool { stride, padding, dilation, ceil_mode } = options;
    let ceil = if ceil_mode { ", ceil" } else { "" };
    let stride = stride.unwrap_or(kernel);
    let name = format!("{x} by {kernel:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}{ceil}");
    (name, x, image.shape(x, false).expect("the windows fit"), image)
}

/// Returns a test image with more than 16,384 elements.
pub(super) fn large() -> (String, Shape, Shape, Image) {
    image(&[1, 131, 127], [2, 2], MaxPool::default())
}

/// Returns the test images whose gradients are tested.
pub(super) fn images() -> Vec<(String, Shape, Shape, Image)> {
    let plain = MaxPool::<2>::default();
    let (one, two) = (MaxPool { stride: Some([1, 1]), ..plain }, MaxPool { stride: Some([2, 2]), ..plain });
    vec![
        image(&[1, 1, 1, 1], [1, 1], plain),
        image(&[2, 3, 8, 6], [2, 2], plain),
        image(&[1, 1, 7, 5], [2, 2], plain), // a row and a column are left out
        image(&[1, 2, 7, 5], [2, 2], MaxPool { ceil_mode: true, ..plain }),
        image(&[3, 1, 5, 7], [3, 3], MaxPool { padding: [1, 1], ..one }),
        image(&[1, 3, 11, 13], [3, 3], MaxPool { padding: [1, 1], ..two }),
        image(&[2, 1, 9, 10], [2, 1], MaxPool { stride: Some([3, 5]), ..plain }), // stride > kernel
        image(&[2, 2, 5, 4], [5, 4], plain),                                      // one window covers the image
        image(&[1, 1, 4, 9], [4, 5], MaxPool { stride: Some([3, 2]), padding: [2, 1], ..plain }),
        image(&[1, 2, 9, 10], [3, 2], MaxPool { padding: [1, 1], dilation: [2, 3], ..one }),
        image(&[1, 1, 10, 11], [2, 3], MaxPool { padding: [1, 1], dilation: [3, 2], ceil_mode: true, ..two }),
        image(&[5, 17, 6, 6], [3, 3], two),                               // many groups
        image(&[2, 2, 3, 4], [3, 4], MaxPool { padding: [2, 3], ..one }), // more padding than half of the kernel
        image(&[1, 2, 5, 4], [2, 3], MaxPool { padding: [1, 4], dilation: [1, 2], ..two }),
        image(&[3, 77, 65], [2, 2], plain),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    #[test]
    fn mistakes() {
        let message = |x: Shape, kernel, options| {
            Graph::training().input_of(x).max_pool2d_with(kernel, options).error().map_or(String::new(), |e| e.to_string())
        };
        let (x, plain) = (Shape::from([1, 3, 4, 6]), MaxPool::<2>::default());
        let start = |text: String, want: &str| assert!(text.starts_with(&format!("max_pool2d: {want} (")), "{text}");
        start(
            message(Shape::from([3, 4, 6]), [2, 2], plain),
            "[3, 4, 6]: takes images, [n, channels, height, width]: give it these axes by reshape or unsqueeze",
        );
        start(message(x.u32(), [2, 2], plain), "u32 [1, 3, 4, 6]: takes floats, not labels (see to_f32)");
        start(message(x, [2, 0], plain), "[1, 3, 4, 6]: kernel 0 should be at least 1");
        start(message(x, [2, 2], MaxPool { stride: Some([0, 1]), ..plain }), "[1, 3, 4, 6]: stride 0 should be at least 1");
        start(message(x, [2, 2], MaxPool { dilation: [1, 0], ..plain }), "[1, 3, 4, 6]: dilation 0 should be at least 1");
        start(
            message(x, [3, 3], MaxPool { padding: [1, 3], ..plain }),
            "[1, 3, 4, 6]: window 0 contains none of the 6 elements; use a smaller padding or dilation",
        );
        start(message(x, [7, 2], plain), "[1, 3, 4, 6]: a kernel of 7 is larger than 4 elements with padding 0");
        start(
            message(x, [2, 3], MaxPool { padding: [0, 1], dilation: [1, 4], ..plain }),
            "[1, 3, 4, 6]: a kernel of 3 with dilation 4 is larger than 6 elements with padding 1",
        );
        start(
            message(x, [2, 2], MaxPool { padding: [1, 0], dilation: [5, 1], ..plain }),
            "[1, 3, 4, 6]: window 0 contains none of the 4 elements; use a smaller padding or dilation",
        );
        let huge = usize::MAX;
        start(
            message(x, [huge, 1], MaxPool { padding: [huge / 2, 0], ..plain }),
            &format!("[1, 3, 4, 6]: 4 elements with padding {} are more than an axis can hold", huge / 2),
        );
        // Strides and dilations beyond the image have no effect.
        let far = MaxPool { stride: Some([huge, huge]), dilation: [1, huge], ceil_mode: true, ..plain };
        assert_eq!(Graph::training().input_of(x).max_pool2d_with([4, 1], far).shape(), Shape::from([1, 3, 1, 1]));
        let line = |x: Shape| Graph::training().input_of(x).max_pool1d(5).error().unwrap().to_string();
        assert!(line(x).starts_with("max_pool1d: [1, 3, 4, 6]: takes [n, channels, length]: give it"), "{}", line(x));
        let short = line(Shape::from([1, 3, 4]));
        assert!(short.starts_with("max_pool1d: [1, 3, 4]: a kernel of 5 is larger than 4 elements with padding 0 ("), "{short}");
    }
}
