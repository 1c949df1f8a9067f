//! The largest element of each window of an image.
//!
//! `y[g,o,q] = max x[g, o·s + a·d − p, q·s + b·d − p]` over the taps `(a, b)` of the kernel, without those outside of the image.
//! Its gradient goes by the number of the tap that won, which is an op of its own: then no window is looked through twice.

use super::*;
use crate::kernel::{Bind, Pass, Word, source};
use rayon::prelude::*;
use std::{ops::Range, panic::Location};

/// Windows along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Windows {
    pub(super) n: usize,
    pub(super) out: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    dilation: usize,
}

impl Windows {
    /// Windows of `kernel` elements, `dilation` apart, over `n` elements and `padding` more on each side; each starts
    /// `stride` behind the one before. With `ceil` the last one may reach past the padding, but not start behind `n`.
    ///
    /// # Errors
    /// A sentence, where a number is 0, the padding is more than half of the kernel, or no window has an element.
    pub fn new(n: usize, kernel: usize, stride: usize, padding: usize, dilation: usize, ceil: bool) -> Result<Windows, String> {
        for (name, value) in [("kernel", kernel), ("stride", stride), ("dilation", dilation)] {
            if value == 0 {
                return Err(format!("{name} 0 should be at least 1"));
            }
        }
        if padding > kernel / 2 {
            return Err(format!("padding {padding} is more than half of the kernel {kernel}"));
        }
        let span = (kernel - 1).saturating_mul(dilation).saturating_add(1);
        let padded = n.saturating_add(2 * padding);
        if span > padded {
            let dilated = if dilation > 1 { format!(" with dilation {dilation}") } else { String::new() };
            return Err(format!("a kernel of {kernel}{dilated} is larger than {n} elements with padding {padding}"));
        }
        if padded > i32::MAX as usize {
            return Err(format!("{n} elements with padding {padding} are more than an axis can hold"));
        }
        // What moves past the end at once, or never moves, may as well do so by less.
        let (stride, dilation) = (stride.min(padded), dilation.min(padded));
        let mut out = (padded - span) / stride + 1;
        if ceil && (padded - span) % stride > 0 && out * stride < n + padding {
            out += 1;
        }
        let windows = Windows { n, out, kernel, stride, padding, dilation };
        match (0..out).find(|&o| windows.inside(o).is_empty()) {
            Some(o) => Err(format!("window {o} has no element of {n}: a smaller dilation or padding would do")),
            None => Ok(windows),
        }
    }
    /// The taps of window `o` that lie inside.
    fn inside(&self, o: usize) -> Range<usize> {
        let start = o * self.stride;
        let first = self.padding.saturating_sub(start).div_ceil(self.dilation);
        first..(self.n + self.padding).saturating_sub(start).div_ceil(self.dilation).min(self.kernel)
    }
    /// The element at a tap of window `o`, if it lies inside.
    fn at(&self, o: usize, tap: usize) -> Option<usize> {
        (o * self.stride + tap * self.dilation).checked_sub(self.padding).filter(|&i| i < self.n)
    }
}

/// Windows of an image: the last two axes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Image {
    rows: Windows,
    columns: Windows,
}

impl Image {
    fn taps(&self) -> usize {
        self.rows.kernel * self.columns.kernel
    }
    /// Elements of a plane of x.
    fn plane(&self) -> usize {
        self.rows.n * self.columns.n
    }
    /// The shape of y, with that of x for `transposed`, from that of the other.
    fn shape(&self, x: Shape, transposed: bool) -> Result<Shape, String> {
        let (n, out) = ([self.rows.n, self.columns.n], [self.rows.out, self.columns.out]);
        let (from, to) = if transposed { (out, n) } else { (n, out) };
        if x.rank() < 2 || x.dims()[x.rank() - 2..] != from {
            return Err(format!("the last two axes should be {from:?}"));
        }
        Ok(x.with(x.rank() - 2, to[0]).with(x.rank() - 1, to[1]))
    }
    /// The element of a plane of x that is tap `t` of window `w` of the plane, if it lies inside.
    fn at(&self, w: usize, t: usize) -> Option<usize> {
        let (o, q) = (w / self.columns.out, w % self.columns.out);
        let row = self.rows.at(o, t / self.columns.kernel)?;
        Some(row * self.columns.n + self.columns.at(q, t % self.columns.kernel)?)
    }
    /// The largest element of window `w` of a plane, and its tap.
    fn largest<T: Real>(&self, x: &[T], w: usize) -> (T, usize) {
        let (o, q) = (w / self.columns.out, w % self.columns.out);
        let mut best: Option<(T, usize)> = None;
        for a in self.rows.inside(o) {
            let row = (o * self.rows.stride + a * self.rows.dilation - self.rows.padding) * self.columns.n;
            for b in self.columns.inside(q) {
                let v = x[row + q * self.columns.stride + b * self.columns.dilation - self.columns.padding];
                let more = best.is_none_or(|(m, _)| (v > m || v.is_nan()) && !m.is_nan());
                best = if more { Some((v, a * self.columns.kernel + b)) } else { best };
            }
        }
        best.expect("every window has an element")
    }
    fn pass(&self, entry: &'static str, binds: Vec<Bind>, units: usize, caps: &Caps) -> Pass {
        let wg = caps.max_invocations.min(256) as usize;
        let (r, c) = (self.rows, self.columns);
        let consts: [(&'static str, usize); 9] = [
            ("WG", wg),
            ("K_H", r.kernel),
            ("K_W", c.kernel),
            ("S_H", r.stride),
            ("S_W", c.stride),
            ("P_H", r.padding),
            ("P_W", c.padding),
            ("D_H", r.dilation),
            ("D_W", c.dilation),
        ];
        Pass {
            source: source!("max_pool2d"),
            entry,
            consts: consts.map(|(name, x)| (name, Word::from(x))).to_vec(),
            params: [("h", r.n), ("w", c.n), ("oh", r.out), ("ow", c.out)].map(|(name, x)| (name.to_string(), x.into())).to_vec(),
            binds,
            code: String::new(),
            units,
            per_group: wg,
            step: false,
        }
    }
}

/// Elements of one parallel task on the CPU device.
const TASK: usize = 1 << 13;

/// The op: x `[.., h, w]` → `[.., oh, ow]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2d {
    image: Image,
    index: bool,
}

/// What lies at a tap of each window: x `[.., h, w]`, taps u32 `[.., oh, ow]` → `[.., oh, ow]`, 0 for a tap outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2dPick {
    image: Image,
}

/// Its gradient: dy `[.., oh, ow]`, taps u32 `[.., oh, ow]` → `[.., h, w]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaxPool2dGrad {
    image: Image,
}

impl OpDef for MaxPool2d {
    const NAME: &'static str = "max_pool2d";

    fn called(&self) -> &'static str {
        if self.index { "max_pool2d_index" } else { "max_pool2d" }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x] = x else { return Err(format!("takes one input, not {}", x.len())) };
        if x.dtype() != DType::F32 {
            return Err("takes floats, not labels (see to_f32)".into());
        }
        Ok(self.image.shape(*x, false)?.of(if self.index { DType::U32 } else { DType::F32 }))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let windows = self.image.rows.out * self.image.columns.out;
        let largest = |w: usize| self.image.largest(&x[0].f[w / windows * self.image.plane()..], w % windows);
        y.f.iter_mut().enumerate().for_each(|(w, y)| *y = largest(w).0);
        y.u.iter_mut().enumerate().for_each(|(w, t)| *t = largest(w).1 as u32);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let (Image { rows, columns }, plane) = (self.image, self.image.plane());
        let at_least = (TASK / columns.out).max(1);
        let line = |k: usize| (&x[0].f[k / rows.out * plane..][..plane], k % rows.out);
        let plain = |w: Windows| [w.kernel, w.stride, w.padding, w.dilation] == [2, 2, 0, 1] && w.out * 2 <= w.n;
        y.u.par_chunks_mut(columns.out).with_min_len(at_least).enumerate().for_each(|(k, t)| {
            let (x, o) = line(k);
            t.iter_mut().enumerate().for_each(|(q, t)| *t = self.image.largest(x, o * columns.out + q).1 as u32);
        });
        y.f.par_chunks_mut(columns.out).with_min_len(at_least).enumerate().for_each(|(k, y)| {
            let (x, o) = line(k);
            if plain(rows) && plain(columns) {
                let larger = |a: f32, b: f32| if a >= b || a.is_nan() { a } else { b };
                let (a, b) = (&x[2 * o * columns.n..][..columns.n], &x[(2 * o + 1) * columns.n..][..columns.n]);
                for ((y, a), b) in y.iter_mut().zip(a.chunks_exact(2)).zip(b.chunks_exact(2)) {
                    *y = larger(larger(a[0], a[1]), larger(b[0], b[1]));
                }
            } else {
                y.iter_mut().enumerate().for_each(|(q, y)| *y = self.image.largest(x, o * columns.out + q).0);
            }
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        if self.index {
            return vec![None];
        }
        let taps = x[0].apply(MaxPool2d { index: true, ..*self });
        vec![Some(dy.graph.apply(MaxPool2dGrad { image: self.image }, &[dy, taps]))]
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (entry, name) = if self.index { ("index", "t") } else { ("forward", "y") };
        let binds = vec![Bind::input("x", 0, DType::F32), Bind::output(name, y.dtype()).per_unit(1)];
        vec![Kernel::one("elements", self.image.pass(entry, binds, y.elements(), caps))]
    }
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        (y.elements() * self.image.taps()) as u64
    }
    fn cases() -> Vec<Case> {
        // Far from the kinks that other ops have: there `Fill` makes equal numbers.
        let case = |index, name: String, x, _, image| Case::new(name, MaxPool2d { image, index }, &[x]).range(0, 1.5, 5.5);
        let values = images().into_iter().map(|(name, x, y, image)| case(false, name, x, y, image));
        let taps = images().into_iter().step_by(3).map(|(name, x, y, image)| case(true, format!("{name}, index"), x, y, image).flat());
        values.chain(taps).collect()
    }
}

impl MaxPool2dPick {
    fn shapes(&self, x: &[Shape], transposed: bool) -> Result<Shape, String> {
        let [x, taps] = x else { return Err(format!("takes values and taps, not {} inputs", x.len())) };
        if x.dtype() != DType::F32 || taps.dtype() != DType::U32 {
            return Err("takes floats and integers".into());
        }
        let y = self.image.shape(*x, transposed)?;
        let (windows, what) = if transposed { (*x, "values") } else { (y, "windows") };
        if !windows.same_dims(*taps) {
            return Err(format!("the taps {taps} should be those of the {what} {windows}"));
        }
        Ok(y)
    }
}

impl OpDef for MaxPool2dPick {
    const NAME: &'static str = "max_pool2d_pick";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        self.shapes(x, false)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let windows = self.image.rows.out * self.image.columns.out;
        for (w, (y, &t)) in y.f.iter_mut().zip(x[1].u).enumerate() {
            let at = self.image.at(w % windows, t as usize);
            *y = at.map_or(T::zero(), |at| x[0].f[w / windows * self.image.plane() + at]);
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(MaxPool2dGrad { image: self.image }, &[dy, x[1]])), None]
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let taps = Bind::input("t", 1, DType::U32).per_unit(1);
        let binds = vec![Bind::input("x", 0, DType::F32), taps, Bind::output("y", DType::F32).per_unit(1)];
        vec![Kernel::one("elements", self.image.pass("pick", binds, y.elements(), caps))]
    }
    fn flops(&self, _x: &[Shape], _y: Shape) -> u64 {
        0
    }
    fn terms(&self, _x: &[Shape]) -> usize {
        // Of the gradient.
        self.image.taps()
    }
    fn cases() -> Vec<Case> {
        let case = |(name, x, y, image): (String, Shape, Shape, Image)| {
            Case::new(name, MaxPool2dPick { image }, &[x, y]).labels(1, image.taps())
        };
        images().into_iter().map(case).collect()
    }
}

impl OpDef for MaxPool2dGrad {
    const NAME: &'static str = "max_pool2d_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        MaxPool2dPick { image: self.image }.shapes(x, true)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.f.chunks_mut(self.image.plane()).enumerate().for_each(|(g, dx)| self.plane(x, dx, g));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let plane = self.image.plane();
        y.f.par_chunks_mut(plane)
            .with_min_len((TASK / plane).max(1))
            .enumerate()
            .for_each(|(g, dx)| self.plane(x, dx, g));
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(MaxPool2dPick { image: self.image }, &[dy, x[1]])), None]
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (dy, taps) = (Bind::input("dy", 0, DType::F32), Bind::input("t", 1, DType::U32));
        let binds = vec![dy, taps, Bind::output("dx", DType::F32).per_unit(1)];
        vec![Kernel::one("elements", self.image.pass("grad_x", binds, y.elements(), caps))]
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn terms(&self, _x: &[Shape]) -> usize {
        self.image.taps()
    }
    fn cases() -> Vec<Case> {
        let case = |(name, _, y, image): (String, Shape, Shape, Image)| {
            Case::new(name, MaxPool2dGrad { image }, &[y, y]).labels(1, image.taps())
        };
        images().into_iter().map(case).collect()
    }
}

impl MaxPool2dGrad {
    /// Plane `g` of dx.
    fn plane<T: Real>(&self, x: &[View<T>], dx: &mut [T], g: usize) {
        let windows = self.image.rows.out * self.image.columns.out;
        dx.fill(T::zero());
        let here = |w: usize| (x[0].f[g * windows + w], x[1].u[g * windows + w] as usize);
        for (w, (dy, t)) in (0..windows).map(|w| (w, here(w))) {
            if let Some(at) = self.image.at(w, t) {
                dx[at] += dy;
            }
        }
    }
}

/// Images and windows to test: name, x, y, the windows.
fn images() -> Vec<(String, Shape, Shape, Image)> {
    let image = |x: &[usize], kernel: [usize; 2], options: MaxPool<2>| {
        let x = Shape::new(x).expect("at most six axes");
        let image = options.image(x, kernel).expect("the windows fit");
        let MaxPool { stride, padding, dilation, ceil_mode } = options;
        let ceil = if ceil_mode { ", ceil" } else { "" };
        let stride = stride.unwrap_or(kernel);
        let name = format!("{x} by {kernel:?}, stride {stride:?}, padding {padding:?}, dilation {dilation:?}{ceil}");
        (name, x, image.shape(x, false).expect("the windows fit"), image)
    };
    let plain = MaxPool::<2>::default();
    let (one, two) = (MaxPool { stride: Some([1, 1]), ..plain }, MaxPool { stride: Some([2, 2]), ..plain });
    vec![
        image(&[1, 1, 1, 1], [1, 1], plain),
        image(&[2, 3, 8, 6], [2, 2], plain),
        image(&[1, 1, 7, 5], [2, 2], plain), // leaves a row and a column out
        image(&[1, 2, 7, 5], [2, 2], MaxPool { ceil_mode: true, ..plain }),
        image(&[3, 1, 5, 7], [3, 3], MaxPool { padding: [1, 1], ..one }),
        image(&[1, 3, 11, 13], [3, 3], MaxPool { padding: [1, 1], ..two }),
        image(&[2, 1, 9, 10], [2, 1], MaxPool { stride: Some([3, 5]), ..plain }), // stride > kernel
        image(&[2, 2, 5, 4], [5, 4], plain), // all of it
        image(&[1, 1, 4, 9], [4, 5], MaxPool { stride: Some([3, 2]), padding: [2, 1], ..plain }),
        image(&[1, 2, 9, 10], [3, 2], MaxPool { padding: [1, 1], dilation: [2, 3], ..one }),
        image(&[1, 1, 10, 11], [2, 3], MaxPool { padding: [1, 1], dilation: [3, 2], ceil_mode: true, ..two }),
        image(&[5, 17, 6, 6], [3, 3], two), // many groups
        image(&[3, 77, 65], [2, 2], plain),
    ]
}

/// What `max_pool1d_with` (`N` = 1) and `max_pool2d_with` (`N` = 2) are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool<const N: usize> {
    /// How far each window is from the one before; the kernel's size without one.
    pub stride: Option<[usize; N]>,
    /// Elements on each side that count as −∞; at most half of the kernel.
    pub padding: [usize; N],
    /// How far the elements of a window are apart.
    pub dilation: [usize; N],
    /// Rounds the output's size up instead of down: the last window may reach past the padding.
    pub ceil_mode: bool,
}

impl<const N: usize> Default for MaxPool<N> {
    fn default() -> Self {
        MaxPool { stride: None, padding: [0; N], dilation: [1; N], ceil_mode: false }
    }
}

impl MaxPool<2> {
    fn image(&self, x: Shape, kernel: [usize; 2]) -> Result<Image, String> {
        let (stride, MaxPool { padding, dilation, ceil_mode, .. }) = (self.stride.unwrap_or(kernel), *self);
        let axis = |k: usize, n| Windows::new(n, kernel[k], stride[k], padding[k], dilation[k], ceil_mode);
        let [rows, columns] = [x.dims()[x.rank() - 2], x.last()];
        Ok(Image { rows: axis(0, rows)?, columns: axis(1, columns)? })
    }
}

/// Why `x` is no batch of images `[n, channels, height, width]`, or of lines, of floats.
pub(super) fn no_images(x: Shape, rank: usize) -> Option<String> {
    match (x.dtype(), rank) {
        (DType::U32, _) => Some("takes floats, not labels (see to_f32)".into()),
        _ if x.rank() == rank => None,
        (_, 3) => Some("takes [n, channels, length]: give it these axes by reshape or unsqueeze".into()),
        _ => Some("takes images, [n, channels, height, width]: give it these axes by reshape or unsqueeze".into()),
    }
}

impl<'g> Tensor<'g> {
    /// The largest element of each window of `kernel` rows and columns, without overlap: `[n, c, h, w]` to
    /// `[n, c, ⌊h / kernel⌋, ⌊w / kernel⌋]`. Rows and columns that fill no window are left out. The gradient goes to the first maximum of a window
    /// (row by row); a NaN is the result wherever it is in the window. A mistake: a kernel of 0, or one larger than the image.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([1, 1, 2, 4]).max_pool2d([2, 2])])?;
    /// let x = Host::new([1, 1, 2, 4], vec![1.0, 2.0, 5.0, 6.0, 3.0, 4.0, 8.0, 7.0]);
    /// assert_eq!(f.run(&[x])?[0].f(), &[4.0, 8.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn max_pool2d(self, kernel: [usize; 2]) -> Tensor<'g> {
        self.max_pool2d_with(kernel, MaxPool::default())
    }
    /// [`max_pool2d`](Tensor::max_pool2d) with options: sizes are `⌊(h + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1`, as
    /// PyTorch has it. Mistakes besides: a stride or dilation of 0, a padding of more than half of the kernel.
    #[track_caller]
    pub fn max_pool2d_with(self, kernel: [usize; 2], options: MaxPool<2>) -> Tensor<'g> {
        let x = self.shape();
        match no_images(x, 4).map_or_else(|| options.image(x, kernel), Err) {
            _ if self.is_dead() => self,
            Ok(image) => self.apply(MaxPool2d { image, index: false }),
            Err(why) => self.graph.mistake("max_pool2d", &[x], why, Location::caller()),
        }
    }
    /// [`max_pool2d`](Tensor::max_pool2d) along one axis: `[n, c, length]` to `[n, c, ⌊length / kernel⌋]`.
    #[track_caller]
    pub fn max_pool1d(self, kernel: usize) -> Tensor<'g> {
        self.max_pool1d_with(kernel, MaxPool::default())
    }
    /// [`max_pool1d`](Tensor::max_pool1d) with options.
    #[track_caller]
    pub fn max_pool1d_with(self, kernel: usize, options: MaxPool<1>) -> Tensor<'g> {
        let MaxPool { stride, padding: [padding], dilation: [dilation], ceil_mode } = options;
        let options = MaxPool { stride: stride.map(|[s]| [1, s]), padding: [0, padding], dilation: [1, dilation], ceil_mode };
        let x = self.shape();
        match no_images(x, 3).map_or_else(|| options.image(x, [1, kernel]), Err) {
            _ if self.is_dead() => self,
            Ok(_) => self.unsqueeze(2).max_pool2d_with([1, kernel], options).squeeze(2),
            Err(why) => self.graph.mistake("max_pool1d", &[x], why, Location::caller()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<MaxPool2d>();
        checks::cpu::<MaxPool2dPick>();
        checks::cpu::<MaxPool2dGrad>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<MaxPool2d>();
        checks::wgsl::<MaxPool2dPick>();
        checks::wgsl::<MaxPool2dGrad>();
    }
    #[test]
    fn the_first_of_equal_ones_wins_and_nan_is_passed_on() {
        let image = MaxPool::default().image(Shape::from([2, 6]), [2, 3]).unwrap();
        let nan = f64::NAN;
        let x = Host::new([2, 6], vec![1.0, 3.0, 2.0, 5.0, 9.0, nan, 3.0, 3.0, 0.0, nan, 5.0, 9.0]);
        let mut taps = Host::<f64>::zeros(Shape::from([1, 2]).u32());
        MaxPool2d { image, index: true }.reference(&[x.view()], &mut taps.view_mut(), Key::default());
        assert_eq!(taps.u(), [1, 2]);
        let narrow: Host<f32> = x.cast();
        let mut y = Host::<f32>::zeros(Shape::from([1, 2]));
        OpDef::cpu(&MaxPool2d { image, index: false }, &[narrow.view()], &mut y.view_mut(), Key::default());
        assert!(y.f()[0] == 3.0 && y.f()[1].is_nan());
        // The way of the CPU device for windows of 2 by 2.
        let image = MaxPool::default().image(Shape::from([2, 6]), [2, 2]).unwrap();
        let mut y = Host::<f32>::zeros(Shape::from([1, 3]));
        OpDef::cpu(&MaxPool2d { image, index: false }, &[narrow.view()], &mut y.view_mut(), Key::default());
        assert!(y.f()[0] == 3.0 && y.f()[1].is_nan() && y.f()[2].is_nan(), "{y:?}");
    }
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
            message(x, [3, 3], MaxPool { padding: [1, 2], ..plain }),
            "[1, 3, 4, 6]: padding 2 is more than half of the kernel 3",
        );
        start(message(x, [7, 2], plain), "[1, 3, 4, 6]: a kernel of 7 is larger than 4 elements with padding 0");
        start(
            message(x, [2, 3], MaxPool { padding: [0, 1], dilation: [1, 4], ..plain }),
            "[1, 3, 4, 6]: a kernel of 3 with dilation 4 is larger than 6 elements with padding 1",
        );
        start(
            message(x, [2, 2], MaxPool { padding: [1, 0], dilation: [5, 1], ..plain }),
            "[1, 3, 4, 6]: window 0 has no element of 4: a smaller dilation or padding would do",
        );
        let huge = usize::MAX;
        start(
            message(x, [huge, 1], MaxPool { padding: [huge / 2, 0], ..plain }),
            &format!("[1, 3, 4, 6]: 4 elements with padding {} are more than an axis can hold", huge / 2),
        );
        // Far strides and dilations that nothing comes of are none.
        let far = MaxPool { stride: Some([huge, huge]), dilation: [1, huge], ceil_mode: true, ..plain };
        assert_eq!(Graph::training().input_of(x).max_pool2d_with([4, 1], far).shape(), Shape::from([1, 3, 1, 1]));
        let line = |x: Shape| Graph::training().input_of(x).max_pool1d(5).error().unwrap().to_string();
        assert!(line(x).starts_with("max_pool1d: [1, 3, 4, 6]: takes [n, channels, length]: give it"), "{}", line(x));
        let short = line(Shape::from([1, 3, 4]));
        assert!(short.starts_with("max_pool1d: [1, 3, 4]: a kernel of 5 is larger than 4 elements with padding 0 ("), "{short}");
    }
}
