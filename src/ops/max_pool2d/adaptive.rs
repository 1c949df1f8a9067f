//! Maximum pooling to a given size.

use super::{MaxPool, no_images};
use crate::{graph::Tensor, host::Host, ops::resample::Along};
use std::panic::Location;

impl<'g> Tensor<'g> {
    /// Returns the largest element of `[oh, ow]` parts of each image. `[n, c, h, w]` becomes `[n, c, oh, ow]` for every h and w.
    /// Part `i` has the rows `⌊i·h / oh⌋ .. ⌈(i + 1)·h / oh⌉`, as in PyTorch. If `oh` does not divide h, neighbouring parts may
    /// share a row.
    ///
    /// If the output sizes divide those of the image, it is [`max_pool2d`](Tensor::max_pool2d). Otherwise equal maxima of a part
    /// share its gradient. It is a mistake if an output size is 0.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([1, 1, 1, 5]).adaptive_max_pool2d([1, 2])])?;
    /// assert_eq!(f.run(&[Host::new([1, 1, 1, 5], vec![1.0, 2.0, 5.0, 3.0, 4.0])])?[0].f(), &[5.0, 5.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn adaptive_max_pool2d(self, size: [usize; 2]) -> Tensor<'g> {
        let (x, _line) = (self.shape(), self.graph.line());
        let parts = || {
            no_images(x, 4).map_or(Ok(()), Err)?;
            Ok([Along::bins(x.dims()[2], size[0])?, Along::bins(x.dims()[3], size[1])?])
        };
        match parts() {
            _ if self.is_dead() => self,
            Err(why) => self.graph.mistake("adaptive_max_pool2d", &[self], why, Location::caller()),
            Ok([rows, columns]) => match [x.dims()[2] % size[0], x.dims()[3] % size[1]] {
                [0, 0] => self.max_pool2d_with([x.dims()[2] / size[0], x.dims()[3] / size[1]], MaxPool::default()),
                _ => largest(largest(self, 2, rows), 3, columns),
            },
        }
    }
}

/// Returns the largest element of each part of an axis. A short part repeats its last element, which changes no maximum.
#[track_caller]
fn largest<'g>(x: Tensor<'g>, axis: usize, parts: Along) -> Tensor<'g> {
    let (n, out) = (x.shape().dims()[axis], parts.out());
    if n == out {
        return x;
    }
    let most = parts.most();
    let places = (0..out).flat_map(|o| {
        let (first, end) = parts.range(o);
        (first..first + most).map(move |i| i.min(end - 1) as u32)
    });
    let places = x.graph.constant(Host::labels([out * most], places.collect()));
    let first = if axis == 2 { [2, 0, 1, 3] } else { [3, 0, 1, 2] };
    let back = if axis == 2 { [1, 2, 0, 3] } else { [1, 2, 3, 0] };
    let lines = x.permute(&first).gather_rows(places);
    let [_, a, b, c] = [0, 1, 2, 3].map(|k| lines.shape().dims()[k]);
    lines.reshape([out, most, a, b, c]).max(&[1], false).permute(&back)
}
