//! The positions of the maxima of a pool.

use super::{MaxPool, MaxPool2d, no_images};
use crate::{graph::Tensor, host::Host, ops::conv2d::Pair};
use std::panic::Location;

impl<'g> Tensor<'g> {
    /// Returns [`max_pool2d_with`](Tensor::max_pool2d_with) and the position of each maximum in its image, `row · w + column` as
    /// u32: PyTorch's `F.max_pool2d(return_indices=True)`. The first of equal maxima counts, row by row. The positions have
    /// no gradient.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::max_pool2d::MaxPool};
    /// let g = Graph::inference();
    /// let (y, at) = g.input([1, 1, 2, 4]).max_pool2d_with_indices(2, MaxPool::default());
    /// let x = Host::new([1, 1, 2, 4], vec![1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 8.0, 7.0]);
    /// let y = Device::cpu().compile(&[y, at])?.run(&[x])?;
    /// assert_eq!((y[0].f(), y[1].u()), (&[4.0, 8.0][..], &[5, 6][..]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is also a mistake if an image has more than 16,777,216 elements.
    #[track_caller]
    pub fn max_pool2d_with_indices(self, kernel: impl Into<Pair>, options: MaxPool<2>) -> (Tensor<'g>, Tensor<'g>) {
        let (kernel, x, place, _line) = (kernel.into(), self.shape(), Location::caller(), self.graph.line());
        let y = self.max_pool2d_with(kernel, options);
        let (false, Ok(image)) = (y.is_dead(), no_images(x, 4).map_or_else(|| options.image(x, kernel.0), Err)) else { return (y, y) };
        let [h, w] = [x.dims()[2], x.dims()[3]];
        // Floats count the positions.
        if h * w > 1 << 24 {
            let dead = self.graph.mistake("max_pool2d_with_indices", &[self], "an image has more than 16,777,216 elements".into(), place);
            return (dead, dead);
        }
        let start = |windows: super::Windows| {
            let starts = (0..windows.out).map(|o| (o * windows.stride) as f32 - windows.padding as f32).collect();
            self.graph.constant(Host::new([windows.out], starts))
        };
        let (rows, columns) = (image.rows, image.columns);
        // The number of a tap is its row in the window times the width of the window, plus its column.
        let tap = self.apply(MaxPool2d { image, index: true }).to_f32();
        let width = columns.kernel as f32;
        let a = ((tap + 0.5) / width).to_index().to_f32();
        let row = start(rows).unsqueeze(1) + a * rows.dilation as f32;
        let column = start(columns) + (tap - a * width) * columns.dilation as f32;
        (y, (row * w as f32 + column).to_index())
    }
}
