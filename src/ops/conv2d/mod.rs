//! Convolutions of images, and their two gradients. One of the gradients is the transposed convolution.
//!
//! `y[n,o,i,j] = Σ_{c,a,b} x[n, c, i·s − top + a·d, j·s − left + b·d] · w[o,c,a,b]`. `x` is 0 outside of the image, `s` is the
//! stride, and `d` is the dilation. With groups, each group of output channels sees its own group of input channels. The sum of all
//! `y·dy` is linear in `x`, in `w` and in `dy`. Its three derivatives are the three ops. So the gradients of each op use the other
//! two ops.

mod cases;
mod cpu;
mod kernels;
mod options;
#[cfg(test)]
mod tests;

pub use options::{Convolution, Padding, Pair};

use super::*;
use map::{Expr, Map, epilogue};

/// The movement of a kernel over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The distance in pixels between neighbouring positions of the kernel: down, right.
    pub stride: [usize; 2],
    /// The distance in pixels between neighbouring elements of the kernel: down, right.
    pub dilation: [usize; 2],
    /// The zeros around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// The number of groups of channels. Each group is convolved on its own.
    pub groups: usize,
}

/// The convolution: x `[n, c, h, w]`, w `[out, c / groups, kh, kw]`, then the further inputs of the epilogue → y `[n, out, oh, ow]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dOp {
    /// The movement of the kernel.
    pub geometry: Geometry,
    /// The expression that is applied to every element of the result. Its input 0 is the result. Its inputs 1, 2, … are the op's
    /// inputs 2, 3, ….
    pub epilogue: Option<Expr>,
}

/// The gradient of the convolution for `x`, which is also the transposed convolution: dy `[n, out, oh, ow]`, w, then the further
/// inputs of the epilogue → dx.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dGradX {
    /// The movement of the kernel over `x`.
    pub geometry: Geometry,
    /// The height and the width of `x`.
    pub image: [usize; 2],
    /// The expression that is applied to every element of the result. See [`Conv2dOp::epilogue`].
    pub epilogue: Option<Expr>,
}

/// The gradient of the convolution for `w`: x, dy → dw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dGradW {
    /// The movement of the kernel over `x`.
    pub geometry: Geometry,
    /// The height and the width of the kernel.
    pub kernel: [usize; 2],
}

/// The sizes of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ConvSizes {
    n: usize,
    groups: usize,
    /// The number of channels in one group of x, and in one group of y.
    c: usize,
    o: usize,
    /// The height and the width of x, of the kernel and of y.
    image: [usize; 2],
    kernel: [usize; 2],
    map: [usize; 2],
}

impl ConvSizes {
    fn x(&self) -> Shape {
        Shape::from([self.n, self.groups * self.c, self.image[0], self.image[1]])
    }
    fn w(&self) -> Shape {
        Shape::from([self.groups * self.o, self.c, self.kernel[0], self.kernel[1]])
    }
    fn y(&self) -> Shape {
        Shape::from([self.n, self.groups * self.o, self.map[0], self.map[1]])
    }
    /// Returns the number of kernel elements of one output channel.
    fn taps(&self) -> usize {
        self.c * self.kernel[0] * self.kernel[1]
    }
    fn flops(&self) -> u64 {
        2 * self.y().elements() as u64 * self.taps() as u64
    }
}

/// Returns `5 × 3`, or the width alone if users see one axis.
fn by([h, w]: [usize; 2], flat: bool) -> String {
    if flat { w.to_string() } else { format!("{h} × {w}") }
}

/// The largest number of pixels along one axis, with padding. Kernels count pixels in 32 bits, and the positions may be negative.
const MOST: usize = 1 << 30;

/// Returns the four sizes of an image or a weight.
fn four(shape: Shape, what: &str, axes: &str) -> Result<[usize; 4], String> {
    if shape.dtype() != DType::F32 {
        return Err(format!("{what} holds labels; `to_f32` makes floats of them"));
    }
    <[usize; 4]>::try_from(shape.dims()).map_err(|_| format!("{what} should be {axes}, not of {} axes", shape.rank()))
}

impl Geometry {
    /// Checks the settings. The error is a sentence.
    fn check(&self, flat: bool) -> Result<(), String> {
        for (name, value) in [("stride", self.stride), ("dilation", self.dilation)] {
            if value.contains(&0) {
                return Err(format!("a {name} of {} is not possible: it must be 1 or more", by(value, flat)));
            }
        }
        if self.stride.iter().chain(&self.dilation).chain(&self.padding).any(|&size| size > MOST) {
            return Err(format!("stride, dilation and padding must be at most {MOST}"));
        }
        if self.groups == 0 { Err("there are no 0 groups: 1 is a plain convolution".into()) } else { Ok(()) }
    }
    /// Returns the number of pixels that a kernel reaches over, along each axis.
    fn span(&self, kernel: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|i| self.dilation[i] * (kernel[i] - 1) + 1)
    }
    /// Returns the size of an image with its padding.
    fn padded(&self, image: [usize; 2]) -> [usize; 2] {
        [image[0] + self.padding[0] + self.padding[1], image[1] + self.padding[2] + self.padding[3]]
    }
    /// Returns the height and the width of the result.
    fn map(&self, image: [usize; 2], kernel: [usize; 2], flat: bool) -> Result<[usize; 2], String> {
        let (span, padded) = (self.span(kernel), self.padded(image));
        if padded[0] > MOST || padded[1] > MOST {
            return Err(format!("the image with its padding is {}; along each axis it must be at most {MOST}", by(padded, flat)));
        }
        if span[0] > padded[0] || span[1] > padded[1] {
            let dilated = if span == kernel { "" } else { ", dilated," };
            let (span, padded) = (by(span, flat), by(padded, flat));
            return Err(format!("the kernel{dilated} is {span}, which is more than the image with its padding, {padded}"));
        }
        Ok([0, 1].map(|i| (padded[i] - span[i]) / self.stride[i] + 1))
    }
    /// Returns the sizes for the shapes of x and w. `flat` says that users see one axis of an image.
    fn sizes(&self, x: Shape, w: Shape, flat: bool) -> Result<ConvSizes, String> {
        let [image_axes, weight_axes] = match flat {
            true => ["[n, channels, length]", "[out, channels / groups, length]"],
            false => ["[n, channels, height, width]", "[out, channels / groups, height, width]"],
        };
        let [n, channels, h, w0] = four(x, "input 0", image_axes)?;
        let [out, c, kh, kw] = four(w, "the weight", weight_axes)?;
        self.check(flat)?;
        let groups = self.groups;
        self.divides(channels, "input")?;
        self.divides(out, "output")?;
        if c * groups != channels {
            let each = if groups == 1 { String::new() } else { format!(" in each of {groups} groups") };
            return Err(format!("the weight is for {c} channels{each}, but the input has {channels}"));
        }
        let (image, kernel) = ([h, w0], [kh, kw]);
        Ok(ConvSizes { n, groups, c, o: out / groups, image, kernel, map: self.map(image, kernel, flat)? })
    }
    fn divides(&self, channels: usize, which: &str) -> Result<(), String> {
        match channels % self.groups {
            0 => Ok(()),
            _ => Err(format!("{} groups do not divide {channels} {which} channels", self.groups)),
        }
    }
    fn known(&self, x: Shape, w: Shape) -> ConvSizes {
        self.sizes(x, w, false).expect("shape() accepted these shapes when the graph was built")
    }
    /// Returns each output row (or column, with `axis` 1) for which the tap at `tap` lies inside of the image, and the row of the
    /// image that the tap reads.
    fn meets(&self, axis: usize, tap: usize, s: &ConvSizes) -> impl Iterator<Item = (usize, usize)> {
        let (at, pad, stride, size) = (tap * self.dilation[axis], self.padding[2 * axis], self.stride[axis], s.image[axis]);
        (0..s.map[axis]).filter_map(move |i| (i * stride + at).checked_sub(pad).filter(|&p| p < size).map(|p| (i, p)))
    }
    /// Calls `f(x, w, y)` with the positions of the elements of every product. It is the definition of all three ops.
    fn products(&self, s: &ConvSizes, mut f: impl FnMut(usize, usize, usize)) {
        let ([h, wide], [oh, ow], [kh, kw]) = (s.image, s.map, s.kernel);
        for (n, out, c) in (0..s.n).flat_map(|n| (0..s.groups * s.o).flat_map(move |o| (0..s.c).map(move |c| (n, o, c)))) {
            let x = (n * s.groups * s.c + out / s.o * s.c + c) * h * wide;
            let (w, y) = ((out * s.c + c) * kh * kw, (n * s.groups * s.o + out) * oh * ow);
            for (a, b) in (0..kh).flat_map(|a| (0..kw).map(move |b| (a, b))) {
                for (i, row) in self.meets(0, a, s) {
                    for (j, column) in self.meets(1, b, s) {
                        f(x + row * wide + column, w + a * kw + b, y + i * ow + j);
                    }
                }
            }
        }
    }
}

impl Conv2dGradX {
    fn sizes(&self, dy: Shape, w: Shape) -> Result<ConvSizes, String> {
        let [n, out, oh, ow] = four(dy, "input 0", "[n, channels, height, width]")?;
        let [w_out, c, kh, kw] = four(w, "the weight", "[channels, out / groups, height, width]")?;
        self.geometry.check(false)?;
        self.geometry.divides(out, "input")?;
        if w_out != out {
            return Err(format!("the weight is for {w_out} channels, but the input has {out}"));
        }
        let (groups, kernel) = (self.geometry.groups, [kh, kw]);
        let map = self.geometry.map(self.image, kernel, false)?;
        if map != [oh, ow] {
            return Err(format!("a result of {} comes from {}, not from {}", by(self.image, false), by(map, false), by([oh, ow], false)));
        }
        Ok(ConvSizes { n, groups, c, o: out / groups, image: self.image, kernel, map })
    }
    fn known(&self, dy: Shape, w: Shape) -> ConvSizes {
        self.sizes(dy, w).expect("shape() accepted these shapes when the graph was built")
    }
}

impl Conv2dGradW {
    fn sizes(&self, x: Shape, dy: Shape) -> Result<ConvSizes, String> {
        let axes = "[n, channels, height, width]";
        let ([_, channels, ..], [n, out, oh, ow]) = (four(x, "input 0", axes)?, four(dy, "input 1", axes)?);
        self.geometry.check(false)?;
        self.geometry.divides(channels, "input")?;
        let [kh, kw] = self.kernel;
        let s = self.geometry.sizes(x, Shape::from([out, channels / self.geometry.groups, kh, kw]), false)?;
        match (s.n, s.map) == (n, [oh, ow]) {
            true => Ok(s),
            false => Err(format!("the output of these images is {}, not {dy}", s.y())),
        }
    }
    fn known(&self, x: Shape, dy: Shape) -> ConvSizes {
        self.sizes(x, dy).expect("shape() accepted these shapes when the graph was built")
    }
}

impl OpDef for Conv2dOp {
    const NAME: &'static str = "conv2d";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        epilogue::count(&self.epilogue, 2, x.len())?;
        let y = self.geometry.sizes(x[0], x[1], false)?.y();
        epilogue::fits(&x[2..], y)?;
        Ok(y)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        y.f.fill(T::zero());
        let s = self.geometry.known(x[0].shape, x[1].shape);
        self.geometry.products(&s, |i, w, o| y.f[o] += x[0].f[i] * x[1].f[w]);
        epilogue::reference(&self.epilogue, &x[2..], y, key);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        cpu::forward(&self.geometry, &self.geometry.known(x[0].shape, x[1].shape), x[0].f, x[1].f, y.f);
        epilogue::finish_all(&self.epilogue, &x[2..], y, key);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (s, geometry, g) = (self.geometry.known(x[0].shape(), x[1].shape()), self.geometry, dy.graph);
        let dx = g.apply(Conv2dGradX { geometry, image: s.image, epilogue: None }, &[dy, x[1]]);
        vec![Some(dx), Some(g.apply(Conv2dGradW { geometry, kernel: s.kernel }, &[x[0], dy]))]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let s = self.geometry.known(x[0], x[1]);
        kernels::images(kernels::Mode::Forward, &self.geometry, &s, &self.epilogue, &x[2..], y, caps)
    }
    fn flops(&self, x: &[Shape], y: Shape) -> u64 {
        self.geometry.known(x[0], x[1]).flops() + (y.elements() * epilogue::calls(&self.epilogue)) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.geometry.known(x[0], x[1]).taps()
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("{:?}", self.geometry), &x[..2])
    }
    fn with_epilogue(&self, map: &Map) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Conv2dOp { epilogue: Some(epilogue::after(&self.epilogue, map)), ..self.clone() }))
    }
    fn plain(&self, _: &[Shape]) -> Option<Arc<dyn Op>> {
        self.epilogue.as_ref()?;
        Some(Arc::new(Conv2dOp { epilogue: Some(epilogue::identity()), ..self.clone() }))
    }
    fn cases() -> Vec<Case> {
        cases::forward()
    }
}

impl OpDef for Conv2dGradX {
    const NAME: &'static str = "conv2d_grad_x";

    fn called(&self) -> &'static str {
        "conv_transpose2d"
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        epilogue::count(&self.epilogue, 2, x.len())?;
        let dx = self.sizes(x[0], x[1])?.x();
        epilogue::fits(&x[2..], dx)?;
        Ok(dx)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        y.f.fill(T::zero());
        let s = self.known(x[0].shape, x[1].shape);
        self.geometry.products(&s, |i, w, o| y.f[i] += x[0].f[o] * x[1].f[w]);
        epilogue::reference(&self.epilogue, &x[2..], y, key);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        cpu::grad_x(&self.geometry, &self.known(x[0].shape, x[1].shape), x[0].f, x[1].f, y.f);
        epilogue::finish_all(&self.epilogue, &x[2..], y, key);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, d: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (s, geometry, g) = (self.known(x[0].shape(), x[1].shape()), self.geometry, d.graph);
        let dy = g.apply(Conv2dOp { geometry, epilogue: None }, &[d, x[1]]);
        vec![Some(dy), Some(g.apply(Conv2dGradW { geometry, kernel: s.kernel }, &[d, x[0]]))]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let s = self.known(x[0], x[1]);
        kernels::images(kernels::Mode::GradX, &self.geometry, &s, &self.epilogue, &x[2..], y, caps)
    }
    fn flops(&self, x: &[Shape], y: Shape) -> u64 {
        self.known(x[0], x[1]).flops() + (y.elements() * epilogue::calls(&self.epilogue)) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        let s = self.known(x[0], x[1]);
        s.o * s.kernel[0] * s.kernel[1]
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("{:?}", self.geometry), &x[..2])
    }
    fn with_epilogue(&self, map: &Map) -> Option<Arc<dyn Op>> {
        Some(Arc::new(Conv2dGradX { epilogue: Some(epilogue::after(&self.epilogue, map)), ..self.clone() }))
    }
    fn plain(&self, _: &[Shape]) -> Option<Arc<dyn Op>> {
        self.epilogue.as_ref()?;
        Some(Arc::new(Conv2dGradX { epilogue: Some(epilogue::identity()), ..self.clone() }))
    }
    fn cases() -> Vec<Case> {
        cases::grad_x()
    }
}

impl OpDef for Conv2dGradW {
    const NAME: &'static str = "conv2d_grad_w";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, dy] = x else { return Err(format!("takes two inputs, not {}", x.len())) };
        Ok(self.sizes(*x, *dy)?.w())
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.f.fill(T::zero());
        let s = self.known(x[0].shape, x[1].shape);
        self.geometry.products(&s, |i, w, o| y.f[w] += x[0].f[i] * x[1].f[o]);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        cpu::grad_w(&self.geometry, &self.known(x[0].shape, x[1].shape), x[0].f, x[1].f, y.f);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, d: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (s, geometry, g) = (self.known(x[0].shape(), x[1].shape()), self.geometry, d.graph);
        let dx = g.apply(Conv2dGradX { geometry, image: s.image, epilogue: None }, &[x[1], d]);
        vec![Some(dx), Some(g.apply(Conv2dOp { geometry, epilogue: None }, &[x[0], d]))]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::grad_w(&self.geometry, &self.known(x[0], x[1]), caps)
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        self.known(x[0], x[1]).flops()
    }
    fn terms(&self, x: &[Shape]) -> usize {
        let s = self.known(x[0], x[1]);
        s.n * s.map[0] * s.map[1]
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("{:?}", self.geometry), x)
    }
    fn cases() -> Vec<Case> {
        cases::grad_w()
    }
}
