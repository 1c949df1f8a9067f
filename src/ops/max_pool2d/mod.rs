//! The largest element of each window of an image.
//!
//! `y[g,o,q] = max x[g, o·s + a·d − p, q·s + b·d − p]` over the taps `(a, b)` of the kernel that lie inside of the image. The
//! gradient needs the number of the tap with the largest element. A second op computes these taps, so that the gradient need not
//! search the windows again.

mod adaptive;
mod image;
mod indices;
mod tensor;

pub use image::Windows;
pub use tensor::MaxPool;
pub(in crate::ops) use tensor::no_images;

use super::*;
use crate::{
    kernel::{Bind, Pass, Span},
    scratch,
    threads::{HEAVY_TASK, lines},
};
use image::Image;
use map::{Expr, Fun, Inst, Map, epilogue};
use tensor::{images, large};

/// The op: x `[.., h, w]` → `[.., oh, ow]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MaxPool2d {
    image: Image,
    index: bool,
}

/// The op that reads one tap of each window: x `[.., h, w]`, taps u32 `[.., oh, ow]` → `[.., oh, ow]`. The result is 0 for a tap
/// outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MaxPool2dPick {
    image: Image,
}

/// The gradient of the pool: dy `[.., oh, ow]`, taps u32 `[.., oh, ow]`, then the further inputs of the epilogue → `[.., h, w]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MaxPool2dGrad {
    image: Image,
    /// The expression that is applied to every element of the result, as in [`MatMul`](super::matmul::MatMul).
    epilogue: Option<Expr>,
}

impl OpDef for MaxPool2d {
    const NAME: &'static str = "max_pool2d";

    fn called(&self) -> &'static str {
        if self.index { "max_pool2d_index" } else { "max_pool2d" }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
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
        let least = (HEAVY_TASK / columns.out).max(1);
        let line = |k: usize| (&x[0].f[k / rows.out * plane..][..plane], k % rows.out);
        if self.image.is_halved() {
            lines(y.f, columns.out, least, |k, y| {
                let (x, o) = line(k);
                self.image.halve(x, o, y, |y, best, _| *y = best);
            });
            return lines(y.u, columns.out, least, |k, taps| {
                let (x, o) = line(k);
                self.image.halve(x, o, taps, |t, _, tap| *t = tap);
            });
        }
        lines(y.f, columns.out, least, |k, y| {
            let (x, o) = line(k);
            self.image.scan(x, o, y, &mut []);
        });
        lines(y.u, columns.out, least, |k, taps| {
            let (x, o) = line(k);
            scratch::with(columns.out, |best| self.image.scan(x, o, best, taps));
        });
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        if self.index {
            return vec![None];
        }
        let taps = x[0].apply(MaxPool2d { index: true, ..*self });
        vec![Some(dy.graph.apply(MaxPool2dGrad { image: self.image, epilogue: None }, &[dy, taps]))]
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (entry, name) = if self.index { ("index", "t") } else { ("forward", "y") };
        let binds = vec![Bind::input("x", 0, DType::F32), Bind::output(name, y.dtype()).per_unit(1)];
        vec![Kernel::one("elements", self.image.pass(entry, binds, y.elements(), caps))]
    }
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        (y.elements() * self.image.taps()) as u64
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // `Fill` makes equal numbers near the kinks of other ops. This range is far from these kinks.
        Fill::floats(x, &[(0, 1.5, 5.5)])
    }
    fn cases() -> Vec<Case> {
        let case = |index, name, x, image| Case::new(name, MaxPool2d { image, index }, &[x]);
        let values = images().into_iter().map(|(name, x, _, image)| case(false, name, x, image));
        let taps = images().into_iter().map(|(name, x, _, image)| case(true, format!("{name}, index"), x, image).flat());
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
        let Image { rows, columns } = self.image;
        for (w, (y, &t)) in y.f.iter_mut().zip(x[1].u).enumerate() {
            let (line, q) = (w / columns.out, w % columns.out);
            let row = rows.at(line % rows.out, t as usize / columns.kernel);
            let at = row.zip(columns.at(q, t as usize % columns.kernel));
            *y = at.map_or(T::zero(), |(i, j)| x[0].f[(line / rows.out * rows.n + i) * columns.n + j]);
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(MaxPool2dGrad { image: self.image, epilogue: None }, &[dy, x[1]])), None]
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
        // For the gradient: this number of windows can contribute to an element.
        self.image.taps()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, self.image.taps())
    }
    fn cases() -> Vec<Case> {
        let case = |(name, x, y, image): (String, Shape, Shape, Image)| Case::new(name, MaxPool2dPick { image }, &[x, y]);
        images().into_iter().map(case).collect()
    }
}

impl OpDef for MaxPool2dGrad {
    const NAME: &'static str = "max_pool2d_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        epilogue::count(&self.epilogue, 2, x.len())?;
        let y = MaxPool2dPick { image: self.image }.shapes(&x[..2], true)?;
        epilogue::fits(&x[2..], y)?;
        Ok(y)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        y.f.chunks_mut(self.image.plane()).enumerate().for_each(|(g, dx)| self.plane(x, dx, g));
        epilogue::reference(&self.epilogue, &x[2..], y, key);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        let (plane, windows) = (self.image.plane(), self.image.rows.out * self.image.columns.out);
        lines(y.f, plane, (HEAVY_TASK / plane).max(1), |g, dx| match self.image.is_halved() {
            true => self.image.double(&x[0].f[g * windows..], &x[1].u[g * windows..], dx),
            false => self.plane(x, dx, g),
        });
        epilogue::finish_all(&self.epilogue, &x[2..], y, key);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph.apply(MaxPool2dPick { image: self.image }, &[dy, x[1]])), None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let (dy, taps) = (Bind::input("dy", 0, DType::F32), Bind::input("t", 1, DType::U32));
        let mut code = epilogue::code_in(&self.epilogue, 2, &x[2..], y, "p.first", Span::PerUnit(1));
        let mut binds = vec![dy, taps];
        binds.append(&mut code.binds);
        binds.push(Bind::output("dx", DType::F32).per_unit(1));
        let mut pass = self.image.pass("grad_x", binds, y.elements(), caps);
        pass.params.append(&mut code.params);
        vec![Kernel::one("elements", Pass { code: code.text, step: code.step, ..pass })]
    }
    /// The planner calls this method only if `map` has the shape of the result.
    fn with_epilogue(&self, map: &Map) -> Option<Arc<dyn Op>> {
        Some(Arc::new(MaxPool2dGrad { epilogue: Some(epilogue::after(&self.epilogue, map)), ..self.clone() }))
    }
    fn plain(&self, _: &[Shape]) -> Option<Arc<dyn Op>> {
        self.epilogue.as_ref()?;
        Some(Arc::new(MaxPool2dGrad { epilogue: Some(epilogue::identity()), ..self.clone() }))
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn terms(&self, _x: &[Shape]) -> usize {
        self.image.taps()
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, self.image.taps())
    }
    fn cases() -> Vec<Case> {
        let case = |(name, _, y, image): (String, Shape, Shape, Image)| Case::new(name, MaxPool2dGrad { image, epilogue: None }, &[y, y]);
        let mut cases: Vec<Case> = images().into_iter().map(case).collect();
        // Small bindings are written in several windows. The case is flat, because the gradient of this gradient would not fit.
        cases.push(case(large()).flat());
        // The gradient of an activation before the pool: the epilogue reads values of the result's shape, in several windows, too.
        for (name, x, y, image) in [images().swap_remove(1), large()] {
            let op = MaxPool2dGrad { image, epilogue: Some(Expr::call(Fun::Mul, &[Inst::Input(0), Inst::Input(1)])) };
            cases.push(Case::new(format!("{name}, epilogue"), op, &[y, y, x]).flat());
        }
        cases
    }
}

impl MaxPool2dGrad {
    /// Computes plane `g` of dx.
    fn plane<T: Real>(&self, x: &[View<T>], dx: &mut [T], g: usize) {
        let Image { rows, columns } = self.image;
        dx.fill(T::zero());
        for (o, w) in (0..rows.out).map(|o| (o, (g * rows.out + o) * columns.out)) {
            for (q, (&dy, &t)) in x[0].f[w..].iter().zip(&x[1].u[w..]).take(columns.out).enumerate() {
                let (a, b) = (t as usize / columns.kernel, t as usize % columns.kernel);
                if let (Some(i), Some(j)) = (rows.at(o, a), columns.at(q, b)) {
                    dx[i * columns.n + j] += dy;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

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
        // The method of the CPU device for windows of 2 by 2.
        let image = MaxPool::default().image(Shape::from([2, 6]), [2, 2]).unwrap();
        let mut y = Host::<f32>::zeros(Shape::from([1, 3]));
        OpDef::cpu(&MaxPool2d { image, index: false }, &[narrow.view()], &mut y.view_mut(), Key::default());
        assert!(y.f()[0] == 3.0 && y.f()[1].is_nan() && y.f()[2].is_nan(), "{y:?}");
    }
}
