//! Methods that are compositions of ops. They have no kernel and no gradient of their own.

use crate::{
    graph::{Graph, Tensor},
    host::Host,
};
use std::panic::Location;

/// The largest number of elements of [`Graph::arange`], and the largest size of [`Graph::eye`]. Floats represent all whole
/// numbers up to this number.
const MOST: usize = 1 << 24;

impl Graph {
    /// Returns the numbers `start`, `start + step`, `start + 2·step`, … below `end`, as a constant of floats. With a negative
    /// step, the numbers are above `end`. There are `⌈(end − start) / step⌉` numbers. PyTorch calls it `torch.arange`. For
    /// indices, see [`to_index`](Tensor::to_index).
    ///
    /// ```
    /// use downhill::{Device, Graph};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.arange(0, 4, 1), g.arange(1, 0.25, -0.25)])?;
    /// let y = f.run(&[])?;
    /// assert_eq!((y[0].f(), y[1].f()), (&[0.0, 1.0, 2.0, 3.0][..], &[1.0, 0.75, 0.5][..]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if there is no such number, if there are more than 16,777,216, or if an argument is not finite.
    #[track_caller]
    pub fn arange(&self, start: impl Into<f64>, end: impl Into<f64>, step: impl Into<f64>) -> Tensor<'_> {
        let (start, end, step) = (start.into(), end.into(), step.into());
        // A step of 0 gives an infinity or NaN.
        let n = ((end - start) / step).ceil();
        if !(1.0..=MOST as f64).contains(&n) || !step.is_finite() {
            let why = match n > MOST as f64 && n.is_finite() {
                true => format!("{n} numbers are more than {MOST}"),
                false => "there is no such number: step must be finite, not 0, and lead from start towards end".to_string(),
            };
            return self.mistake("arange", &[format!("{start} to {end} by {step}")], why, Location::caller());
        }
        let values: Vec<f32> = (0..n as usize).map(|i| (start + i as f64 * step) as f32).collect();
        self.constant(Host::new([values.len()], values))
    }
    /// Returns the matrix `[n, n]` with 1 on the diagonal and 0 elsewhere. It becomes part of fused kernels. PyTorch calls it
    /// `torch.eye`. It is a mistake if n is 0 or more than 16,777,216.
    ///
    /// ```
    /// use downhill::{Device, Graph};
    /// let g = Graph::inference();
    /// let y = Device::cpu().compile(&[g.eye(2)])?.run(&[])?;
    /// assert_eq!(y[0].f(), &[1.0, 0.0, 0.0, 1.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn eye(&self, n: usize) -> Tensor<'_> {
        if !(1..=MOST).contains(&n) {
            let why = format!("n must be in 1..={MOST}");
            return self.mistake("eye", &[format!("[{n}, {n}]")], why, Location::caller());
        }
        let i = self.arange(0, n as f64, 1);
        i.unsqueeze(1).eq(i)
    }
}

impl<'g> Tensor<'g> {
    /// Returns `value` where `mask` is not 0, else the element of this tensor. The mask broadcasts to the shape of this tensor,
    /// and the result has this shape. No gradient flows to this tensor where the mask is not 0, and no gradient flows to the
    /// mask.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let x = g.input([4]);
    /// let mut f = Device::cpu().compile(&[x.masked_fill(x.gt(2.0), -1.0)])?;
    /// assert_eq!(f.run(&[Host::new([4], vec![1.0, 2.0, 3.0, 4.0])])?[0].f(), &[1.0, 2.0, -1.0, -1.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn masked_fill(self, mask: Tensor<'g>, value: f32) -> Tensor<'g> {
        if !self.is_dead() && !mask.is_dead() && self.shape().broadcast(mask.shape()) != Some(self.shape()) {
            let why = "the mask does not broadcast to the shape of the tensor".to_string();
            return self.graph.mistake("masked_fill", &[self, mask], why, Location::caller());
        }
        mask.where_(value, self)
    }
    /// Returns the Euclidean norm over some axes: √Σx². With `keepdim` the axes stay, with size 1. The gradient at 0 is 0, as that of
    /// PyTorch's `linalg.vector_norm`. The squares must be in the range of an `f32`. It is a mistake if there is no such axis.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let x = g.input([2, 2]);
    /// let norm = x.norm(&[-1], false);
    /// let slope = norm.sum_all().grad(&[x])[0];
    /// let y = Device::cpu().compile(&[norm, slope])?.run(&[Host::new([2, 2], vec![3.0, -4.0, 0.0, 0.0])])?;
    /// assert_eq!((y[0].f(), y[1].f()), (&[5.0, 0.0][..], &[0.6, -0.8, 0.0, 0.0][..]));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn norm(self, axes: &[isize], keepdim: bool) -> Tensor<'g> {
        let sum = self.square().sum(axes, keepdim);
        let none = sum.eq(0.0);
        // At 0 the square root has an infinite slope, which times 0 would be NaN.
        none.where_(0.0, none.where_(1.0, sum).sqrt())
    }
    /// Returns x / max(‖x‖₂, 10⁻¹²). The norm is taken along `axis`, and a negative `axis` counts from the last axis. So each
    /// line along the axis has the length 1. A line of zeros stays as it is. It is PyTorch's `F.normalize`. It is a mistake if
    /// there is no such axis.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 2]).normalize(-1)])?;
    /// let y = f.run(&[Host::new([2, 2], vec![3.0, 4.0, 0.0, 0.0])])?;
    /// assert_eq!(y[0].f(), &[0.6, 0.8, 0.0, 0.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn normalize(self, axis: isize) -> Tensor<'g> {
        if let Some(why) = no_axis(self, axis) {
            return self.graph.mistake("normalize", &[self], why, Location::caller());
        }
        self / length(self, axis, 1e-12, true)
    }
    /// Returns the cosine of the angle between two vectors: Σ x·y / (max(‖x‖, 10⁻⁸)·max(‖y‖, 10⁻⁸)). The vectors lie along
    /// `axis`, and the result does not have this axis. The two tensors broadcast, and a negative `axis` counts from the last axis
    /// of the broadcast shape. It is PyTorch's `F.cosine_similarity`. It is a mistake if the shapes do not fit or if there is no
    /// such axis.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let (x, y) = (g.input([2, 2]), g.input([2]));
    /// let mut f = Device::cpu().compile(&[x.cosine_similarity(y, -1)])?;
    /// let z = f.run(&[Host::new([2, 2], vec![2.0, 0.0, 3.0, 4.0]), Host::new([2], vec![5.0, 0.0])])?;
    /// assert_eq!(z[0].f(), &[1.0, 0.6]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn cosine_similarity(self, other: Tensor<'g>, axis: isize) -> Tensor<'g> {
        let _line = self.graph.line();
        if self.is_dead() || other.is_dead() {
            return self.graph.dead();
        }
        let Some(shape) = self.shape().broadcast(other.shape()) else {
            let why = "the shapes do not broadcast to one shape".to_string();
            return self.graph.mistake("cosine_similarity", &[self, other], why, Location::caller());
        };
        if shape.axis(axis).is_none() {
            let why = format!("there is no axis {axis}");
            return self.graph.mistake("cosine_similarity", &[self, other], why, Location::caller());
        }
        let [x, y] = [self, other].map(|t| t.broadcast_to(shape));
        (x * y).sum(&[axis], false) / (length(x, axis, 1e-8, false) * length(y, axis, 1e-8, false))
    }
    /// Returns the elements `start`, `start + step`, … below `end` along an axis: `x[start:end:step]` in Python. A negative
    /// `axis` counts from the last axis. It is a mistake if the step is 0, and in the cases of [`slice`](Tensor::slice).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([5]).slice_step(0, 0, 5, 2)])?;
    /// assert_eq!(f.run(&[Host::new([5], vec![1.0, 2.0, 3.0, 4.0, 5.0])])?[0].f(), &[1.0, 3.0, 5.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn slice_step(self, axis: isize, start: usize, end: usize, step: usize) -> Tensor<'g> {
        let (x, _line) = (self.shape(), self.graph.line());
        let why = match x.axis(axis).map(|at| (at, x.dims()[at])) {
            _ if self.is_dead() => return self,
            None => Err(format!("there is no axis {axis}")),
            Some(_) if step == 0 => Err("a step of 0 does not move".to_string()),
            Some(_) if start >= end => Err(format!("{start}..{end} holds nothing")),
            Some((at, n)) if end > n => Err(format!("{start}..{end} ends past axis {at}, which has size {n}")),
            Some((at, _)) => Ok(at),
        };
        let at = match why {
            Ok(at) => at,
            Err(why) => return self.graph.mistake("slice_step", &[self], why, Location::caller()),
        };
        // Whole groups of `step` elements, of which the first ones stay. Then the first element of an incomplete last group.
        let (groups, rest) = ((end - start) / step, (end - start) % step);
        let behind = start + groups * step;
        let last = (rest > 0).then(|| self.slice(axis, behind, behind + 1));
        if groups == 0 {
            return last.unwrap_or(self);
        }
        let [outer, _, inner] = x.around(at);
        let first = self.slice(axis, start, behind).reshape([outer * groups, step, inner]).slice(1, 0, 1).reshape(x.with(at, groups));
        last.map_or(first, |last| first.concat(&[last], axis))
    }
}

/// Returns the reason why `x` has no axis `axis`, or `None`.
fn no_axis(x: Tensor, axis: isize) -> Option<String> {
    (!x.is_dead() && x.shape().axis(axis).is_none()).then(|| format!("there is no axis {axis}"))
}

/// Returns max(‖x‖₂, least) along an axis. The maximum is taken of the squares. So the gradient of a short line is 0, not 0/0.
#[track_caller]
fn length<'g>(x: Tensor<'g>, axis: isize, least: f64, keepdim: bool) -> Tensor<'g> {
    x.square().sum(&[axis], keepdim).maximum((least * least) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    #[test]
    fn mistakes() {
        let start = |write: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| {
            let g = Graph::training();
            assert!(write(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text), "{message}");
        };
        let none = "there is no such number: step must be finite, not 0, and lead from start towards end (src/ops/composed.rs:";
        start(&|g| g.arange(0, 4, 0), &format!("arange: 0 to 4 by 0: {none}"));
        start(&|g| g.arange(0, 4, -1), &format!("arange: 0 to 4 by -1: {none}"));
        start(&|g| g.arange(4, 4, 1), &format!("arange: 4 to 4 by 1: {none}"));
        start(&|g| g.arange(0.0, 1.0, f64::NAN), &format!("arange: 0 to 1 by NaN: {none}"));
        start(&|g| g.arange(0.0, 1.0, f64::INFINITY), &format!("arange: 0 to 1 by inf: {none}"));
        start(&|g| g.arange(0.0, 1e9, 1.0), "arange: 0 to 1000000000 by 1: 1000000000 numbers are more than 16777216 (");
        start(&|g| g.eye(0), "eye: [0, 0]: n must be in 1..=16777216 (");
        start(
            &|g| g.input([2, 3]).masked_fill(g.input([4, 2, 3]), 1.0),
            "masked_fill: [2, 3] × [4, 2, 3]: the mask does not broadcast to the shape of the tensor (",
        );
        start(&|g| g.input([2, 3]).normalize(2), "normalize: [2, 3]: there is no axis 2 (");
        start(
            &|g| g.input([2, 3]).cosine_similarity(g.input([2, 4]), 1),
            "cosine_similarity: [2, 3] × [2, 4]: the shapes do not broadcast to one shape (",
        );
        start(&|g| g.input([2, 3]).cosine_similarity(g.input([3]), 2), "cosine_similarity: [2, 3] × [3]: there is no axis 2 (");
        start(&|g| g.input([2, 3]).slice_step(1, 0, 3, 0), "slice_step: [2, 3]: a step of 0 does not move (");
        start(&|g| g.input([2, 3]).slice_step(1, 0, 4, 2), "slice_step: [2, 3]: 0..4 ends past axis 1, which has size 3 (");
        start(&|g| g.labels([2, 3]).slice_step(3, 0, 1, 2), "slice_step: u32 [2, 3]: there is no axis 3 (");
    }
    #[test]
    fn labels_keep_their_type() {
        let g = Graph::inference();
        let y = g.labels([7]).slice_step(0, 1, 7, 3);
        assert_eq!(y.shape(), Shape::from([2]).u32());
        let feed = [Host::<f64>::labels([7], (0..7).collect())];
        let y = crate::oracle::interpret(&crate::plan::ir::Ir::new(&g, &[y]), &feed, &[], crate::rng::Key::default());
        assert_eq!(y[0].u(), [1, 4]);
    }
}
