//! Floats as indices.

use super::*;
use crate::{
    kernel::{Bind, Pass, source},
    threads::{TASK, chunk, chunks},
};

/// The op: the whole part of every element, as `u32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToIndex;

/// Returns the whole part of a number, or the largest index if it has none.
fn index<T: Real>(x: T) -> u32 {
    let fits = x > T::of(-1.0) && x < T::of(4_294_967_296.0);
    // A cast of a number in (−1, 0) is 0.
    if fits { x.to_u32().unwrap_or(u32::MAX) } else { u32::MAX }
}

impl OpDef for ToIndex {
    const NAME: &'static str = "to_index";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        match x {
            [x] if x.dtype() == DType::F32 => Ok(x.u32()),
            [_] => Err("takes floats; these are labels already".into()),
            _ => Err(format!("takes one input, not {}", x.len())),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        y.u.iter_mut().zip(x[0].f).for_each(|(y, &x)| *y = index(x));
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        chunks(y.u, TASK, |k, y| y.iter_mut().zip(chunk(x[0].f, TASK, k)).for_each(|(y, &x)| *y = index(x)));
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, _dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![None]
    }
    fn kernels(&self, _x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let wg = caps.workgroup(256);
        let pass = Pass {
            source: source!("to_index"),
            entry: "forward",
            consts: vec![("WG", wg.into())],
            params: Vec::new(),
            binds: vec![Bind::input("x", 0, DType::F32).per_unit(1), Bind::output("y", DType::U32).per_unit(1)],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        vec![Kernel::one("elements", pass)]
    }
    fn cases() -> Vec<Case> {
        let case = |dims: &[usize]| {
            let x = Shape::new(dims).expect("at most six axes");
            Case::new(format!("{x}"), ToIndex, &[x]).range(0, -3.0, 90.0).flat()
        };
        [&[][..], &[1], &[255], &[256], &[257], &[7, 5, 3], &[70_001]].map(case).into()
    }
}

impl<'g> Tensor<'g> {
    /// Returns floats as indices or labels (`u32`). A fraction is cut off, as by PyTorch's `long()`. A negative number (−1 or
    /// less), NaN and a number of 2³² or more become 4,294,967,295. This index names nothing, so an op that takes it returns NaN.
    /// There is no gradient.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([3]).to_index()])?;
    /// assert_eq!(f.run(&[Host::new([3], vec![2.0, 3.9, -0.5])])?[0].u(), &[2, 3, 0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// It is a mistake if the tensor has labels already.
    #[track_caller]
    pub fn to_index(self) -> Tensor<'g> {
        self.apply(ToIndex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Graph, ops::checks};

    #[test]
    fn cpu() {
        checks::cpu::<ToIndex>();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<ToIndex>();
    }
    #[test]
    fn ends() {
        let most = u32::MAX;
        let values = [0.0, -0.0, 0.999, 1.0, 16_777_216.0, 4_294_967_000.0, 4_294_967_296.0, -0.999, -1.0, f32::NAN, f32::INFINITY];
        let want = [0, 0, 0, 1, 16_777_216, 4_294_967_040, most, 0, most, most, most];
        assert_eq!(values.map(index), want);
        let e = Graph::training().labels([2]).to_index().error().map_or(String::new(), |e| e.to_string());
        assert!(e.starts_with("to_index: u32 [2]: takes floats; these are labels already (src/ops/to_index.rs:"), "{e}");
    }
}
