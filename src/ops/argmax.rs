//! The position of the largest or smallest element along an axis.
//!
//! `y[o,c] = min { i : x[o,i,c] = max_j x[o,j,c] }`. If there are NaN, the first NaN wins, as in PyTorch. The op `Correct` compares
//! this position with a given label for each row.

use super::{
    lines::{Can, Lines},
    *,
};
use crate::{
    kernel::{Bind, source},
    threads::{TASK, lines},
};
use std::panic::Location;

/// The op: the position of the largest or smallest element along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argmax {
    /// The axis to search along. The output does not have this axis.
    pub axis: usize,
    /// Whether to find the smallest element instead of the largest.
    pub min: bool,
}

impl Argmax {
    /// Returns the position in the line with number `line`.
    fn line<T: Real>(&self, x: &View<T>, line: usize) -> u32 {
        let [_, n, inner] = x.shape.around(self.axis);
        let at = line / inner * n * inner + line % inner;
        let mut best = (x.f[at], 0);
        for i in 1..n {
            let v = x.f[at + i * inner];
            let better = if self.min { v < best.0 } else { v > best.0 };
            if (better || v.is_nan()) && !best.0.is_nan() {
                best = (v, i);
            }
        }
        best.1 as u32
    }
}

impl OpDef for Argmax {
    const NAME: &'static str = "argmax";

    fn called(&self) -> &'static str {
        if self.min { "argmin" } else { "argmax" }
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let x = one_float(x)?;
        if self.axis >= x.rank() {
            return Err(format!("there is no axis {}", self.axis));
        }
        Ok(x.without(self.axis).u32())
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.u.iter_mut().enumerate().for_each(|(line, y)| *y = self.line(&x[0], line));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let least = (TASK / x[0].shape.dims()[self.axis]).max(1);
        lines(y.u, 1, least, |line, y| y[0] = self.line(&x[0], line));
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, _dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![None]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let kernel = |lines: Lines| {
            let x = lines.full(Bind::input("x", 0, DType::F32));
            let y = lines.ones(Bind::output("y", DType::U32));
            let mut pass = lines.pass(source!("argmax"), "forward", vec![x, y]);
            pass.consts.push(("SIGN", if self.min { -1.0f32 } else { 1.0 }.into()));
            Kernel::one(lines.name(), pass)
        };
        Lines::all(x[0].around(self.axis), Can::Single, caps).into_iter().map(kernel).collect()
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize], axis, min| {
            let x = Shape::new(dims).expect("at most six axes");
            let name = if min { "argmin" } else { "argmax" };
            Case::new(format!("{name} {x} over {axis}"), Argmax { axis, min }, &[x]).flat()
        };
        let mut cases = vec![case(&[20_011, 10], 1, false), case(&[257, 2, 3], 1, false)];
        for min in [false, true] {
            cases.push(case(&[1], 0, min));
            cases.push(case(&[3, 5, 7], 0, min));
            cases.push(case(&[3, 32, 7], 1, min));
            cases.push(case(&[3, 33, 37], 1, min));
            cases.push(case(&[5, 257], 1, min));
            cases.push(case(&[2, 5003], 1, min));
        }
        cases
    }
}

/// The op: scores `[.., k]`, labels `[..]` → `[..]`. The result is 1 if the label is the argmax of its row and the row has no NaN.
/// Otherwise it is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correct;

impl Correct {
    /// Returns the result for one row.
    fn row<T: Real>(x: &[View<T>], row: usize) -> T {
        let k = x[0].shape.last();
        let at = Argmax { axis: x[0].shape.rank() - 1, min: false }.line(&x[0], row);
        let right = at == x[1].u[row] && !x[0].f[row * k + at as usize].is_nan();
        T::of(f64::from(u8::from(right)))
    }
}

impl OpDef for Correct {
    const NAME: &'static str = "correct";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, labels] = x else { return Err(format!("takes scores and labels, not {} inputs", x.len())) };
        cross_entropy::check(*x, *labels)?;
        Ok(labels.of(DType::F32))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.f.iter_mut().enumerate().for_each(|(row, y)| *y = Correct::row(x, row));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let least = (TASK / x[0].shape.last()).max(1);
        lines(y.f, 1, least, |row, y| y[0] = Correct::row(x, row));
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, _dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![None, None]
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        let kernel = |lines: Lines| {
            let [labels, y] = [Bind::input("labels", 1, DType::U32), Bind::output("y", DType::F32)].map(|bind| lines.ones(bind));
            let mut pass = lines.pass(source!("argmax"), "forward_correct", vec![lines.full(Bind::input("x", 0, DType::F32)), labels, y]);
            pass.consts.push(("SIGN", 1.0f32.into()));
            Kernel::one(lines.name(), pass)
        };
        Lines::all(x[0].around(x[0].rank() - 1), Can::Single, caps).into_iter().map(kernel).collect()
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        x[0].elements() as u64
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        Fill::labelled(x, x[0].last())
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize]| {
            let x = Shape::new(dims).expect("at most six axes");
            let rows = x.without(x.rank() - 1);
            Case::new(format!("{rows} rows of {}", x.last()), Correct, &[x, rows]).flat()
        };
        [&[3][..], &[1, 1], &[131, 2], &[67, 10], &[3, 11, 33], &[2, 257], &[20_011, 3]].map(case).into()
    }
}

impl<'g> Tensor<'g> {
    /// Returns 1 for each row whose largest score belongs to its label, and 0 for the other rows. The scores are `[.., k]`, the
    /// labels and the result are `[..]`. The mean of the result is the accuracy.
    ///
    /// The result is `argmax(-1)` compared with the labels, in one kernel. But a row with a NaN is never correct. The op has no
    /// gradient.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 3]).correct(g.labels([2]))])?;
    /// let y = f.run(&[Host::new([2, 3], vec![1.0, 5.0, 5.0, 9.0, 8.0, 7.0]), Host::labels([2], vec![2, 0])])?;
    /// assert_eq!(y[0].f(), &[0.0, 1.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if the shape of the labels is not the shape of the rows.
    #[track_caller]
    pub fn correct(self, labels: Tensor<'g>) -> Tensor<'g> {
        self.graph.apply(Correct, &[self, labels])
    }
    /// Returns the index of the largest element along `axis`, as labels without that axis. A negative `axis` counts from the last
    /// axis. Among equal elements the first one wins. If there are NaN, the first NaN wins. The op has no gradient.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2, 3]).argmax(-1)])?;
    /// let y = f.run(&[Host::new([2, 3], vec![1.0, 5.0, 5.0, 9.0, 8.0, 7.0])])?;
    /// assert_eq!(y[0].u(), &[1, 0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn argmax(self, axis: isize) -> Tensor<'g> {
        self.arg("argmax", axis, false)
    }
    /// Returns the index of the smallest element along `axis`. See [`Tensor::argmax`].
    #[track_caller]
    pub fn argmin(self, axis: isize) -> Tensor<'g> {
        self.arg("argmin", axis, true)
    }
    #[track_caller]
    fn arg(self, name: &str, axis: isize, min: bool) -> Tensor<'g> {
        let x = self.shape();
        match x.axis(axis) {
            _ if self.is_dead() => self,
            Some(axis) => self.apply(Argmax { axis, min }),
            None if x.is_scalar_along(axis) => self.reshape([1]).apply(Argmax { axis: 0, min }).reshape([]),
            None => self.graph.mistake(name, &[self], format!("there is no axis {axis}"), Location::caller()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::checks;

    #[test]
    fn golden() {
        checks::golden("argmax", |args, x| x[0].argmax(args["axis"].as_i64().unwrap() as isize));
    }
    #[test]
    fn cpu() {
        checks::cpu::<Argmax>();
        checks::cpu::<Correct>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Argmax>();
        checks::wgsl::<Correct>();
    }
    #[test]
    fn mistakes() {
        checks::mistake(
            &|g| g.input([4, 3]).correct(g.labels([3])),
            "correct: [4, 3] × u32 [3]: the labels should have the shape u32 [4], one for",
        );
        checks::mistake(
            &|g| g.input([4, 3]).correct(g.input([4])),
            "correct: [4, 3] × [4]: the labels must be integers (Graph::labels), one a row (",
        );
        checks::mistake(
            &|g| g.labels([4, 3]).correct(g.labels([4])),
            "correct: u32 [4, 3] × u32 [4]: the first input must be floats, one for each class",
        );
        checks::mistake(&|g| g.input([4, 3]).apply(Correct), "correct: [4, 3]: takes scores and labels, not 1 inputs (src/ops/argmax.rs:");
    }
    #[test]
    fn ties_and_nan() {
        let nan = f64::NAN;
        let x = Host::new([4, 4], vec![1.0, 3.0, 3.0, 2.0, 0.0, nan, 5.0, nan, -0.0, 0.0, -0.0, 0.0, 7.0, 7.0, 7.0, 6.0]);
        let of = |min| {
            let mut y = Host::<f64>::zeros(Shape::from([4]).u32());
            Argmax { axis: 1, min }.reference(&[x.view()], &mut y.view_mut(), Key::default());
            y.u().to_vec()
        };
        assert_eq!(of(false), [1, 1, 0, 0]);
        assert_eq!(of(true), [0, 1, 0, 3]);
    }
}
