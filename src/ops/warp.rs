//! Reads images at the places that an affine map gives: turns, scales and moves them.
//!
//! `y[n, c, i, j] = x[n, c]` at the row `m₃·u + m₄·v + m₅` and the column `m₀·u + m₁·v + m₂`, both counted from the centre of
//! the image. `u` and `v` are the column and the row of the output, counted from the centre. `m` is row n of the maps. Between
//! pixels the value is bilinear. Outside of the image it is 0. PyTorch's `grid_sample` with zero padding.
//!
//! No gradient flows through it: it changes data.

use super::*;
use crate::{
    kernel::{Bind, Pass, source},
    threads::{HEAVY_TASK, chunk, lines},
};

/// The op: images `[n, c, h, w]`, maps `[n, 6]` → `[n, c, h, w]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warp;

/// Fills `y`, one plane of an image, from the plane `x`.
fn plane<T: Real>(x: &[T], m: &[T], [h, w]: [usize; 2], y: &mut [T]) {
    let centre = |n: usize| T::of((n as f64 - 1.0) / 2.0);
    let (down, right, one) = (centre(h), centre(w), T::one());
    let pixel = |row: i64, column: i64| {
        let inside = (0..h as i64).contains(&row) && (0..w as i64).contains(&column);
        if inside { x[row as usize * w + column as usize] } else { T::zero() }
    };
    // Places far outside are moved to where all four neighbours are outside as well.
    let place = |at: T, n: usize| at.max(T::of(-2.0)).min(T::of(n as f64 + 1.0));
    for (k, y) in y.iter_mut().enumerate() {
        let (u, v) = (T::of((k % w) as f64) - right, T::of((k / w) as f64) - down);
        let column = place(m[0] * u + m[1] * v + m[2] + right, w);
        let row = place(m[3] * u + m[4] * v + m[5] + down, h);
        let (i, j) = (row.floor().f64() as i64, column.floor().f64() as i64);
        let (a, b) = (row - row.floor(), column - column.floor());
        let upper = pixel(i, j) * (one - b) + pixel(i, j + 1) * b;
        let lower = pixel(i + 1, j) * (one - b) + pixel(i + 1, j + 1) * b;
        *y = upper * (one - a) + lower * a;
    }
}

impl OpDef for Warp {
    const NAME: &'static str = "warp";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let [x, m] = x else { return Err(format!("takes images and maps, not {} inputs", x.len())) };
        match (x.rank(), m.dims(), x.dtype(), m.dtype()) {
            (4, &[n, 6], DType::F32, DType::F32) if n == x.dims()[0] => Ok(*x),
            _ => Err("takes images [n, channels, height, width] and maps [n, 6], both of floats".into()),
        }
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let &[_, c, h, w] = x[0].shape.dims() else { unreachable!("the shape rule takes four axes") };
        for (k, y) in y.f.chunks_mut(h * w).enumerate() {
            plane(&x[0].f[k * h * w..][..h * w], &x[1].f[k / c * 6..][..6], [h, w], y);
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let &[_, c, h, w] = x[0].shape.dims() else { unreachable!("the shape rule takes four axes") };
        lines(y.f, h * w, (HEAVY_TASK / (h * w)).max(1), |k, y| plane(chunk(x[0].f, h * w, k), chunk(x[1].f, 6, k / c), [h, w], y));
    }
    fn vjp<'g>(&self, _x: &[Tensor<'g>], _y: Tensor<'g>, _dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![None, None]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        let &[_, c, h, w] = x[0].dims() else { unreachable!("the shape rule takes four axes") };
        let wg = caps.workgroup(256);
        let pass = Pass {
            source: source!("warp"),
            entry: "forward",
            consts: vec![("WG", wg.into())],
            params: [("c", c), ("h", h), ("w", w)].map(|(name, n)| (name.to_string(), n.into())).into(),
            binds: vec![Bind::input("x", 0, DType::F32), Bind::input("m", 1, DType::F32), Bind::output("y", DType::F32).per_unit(1)],
            code: String::new(),
            units: y.elements(),
            per_group: wg,
            step: false,
        };
        vec![Kernel::one("elements", pass)]
    }
    fn flops(&self, _x: &[Shape], y: Shape) -> u64 {
        20 * y.elements() as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        // A place is rounded to as many units as the image has rows or columns, and the value moves with it.
        let size = x[0].dims()[2].max(x[0].dims()[3]);
        4 * size * size
    }
    fn cases() -> Vec<Case> {
        let case = |x: [usize; 4]| Case::new(format!("{x:?}"), Warp, &[Shape::from(x), Shape::from([x[0], 6])]).range(1, -1.2, 1.5).flat();
        vec![case([1, 1, 1, 1]), case([2, 3, 5, 7]), case([3, 1, 28, 28]), case([5, 2, 16, 1]), case([2, 3, 31, 33])]
    }
}

impl<'g> Tensor<'g> {
    /// Reads images `[n, c, h, w]` at the places that the maps `[n, 6]` give.
    #[track_caller]
    pub(crate) fn warp(self, maps: Tensor<'g>) -> Tensor<'g> {
        self.graph().apply(Warp, &[self, maps])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Graph, host::Host, ops::checks};

    #[test]
    fn golden() {
        checks::golden_in(include_str!("../../tests/golden/warp.json"), "warp", |_, x| x[0].warp(x[1]));
    }
    #[test]
    fn cpu() {
        // The places in an image are rounded, so the error grows with its size: `terms` has this, and the tolerance of
        // `checks::cpu` has not.
        crate::testing::check::<Warp>(&Device::cpu()).unwrap();
    }
    #[test]
    fn wgsl() {
        checks::wgsl::<Warp>();
    }

    fn moved(h: usize, w: usize, x: Vec<f32>, m: [f32; 6]) -> Vec<f32> {
        let g = Graph::inference();
        let y = g.input([1, 1, h, w]).warp(g.input([1, 6]));
        let mut f = Device::cpu().compile(&[y]).unwrap();
        f.run(&[Host::new([1, 1, h, w], x), Host::new([1, 6], m.to_vec())]).unwrap()[0].f().to_vec()
    }

    #[test]
    fn by_hand() {
        let x: Vec<f32> = (1..=6).map(|i| i as f32).collect();
        assert_eq!(moved(2, 3, x.clone(), [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), x);
        // Half a turn, one column to the left, and half a row down.
        assert_eq!(moved(2, 3, x.clone(), [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0]), [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(moved(2, 3, x.clone(), [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]), [2.0, 3.0, 0.0, 5.0, 6.0, 0.0]);
        assert_eq!(moved(2, 3, x, [1.0, 0.0, 0.0, 0.0, 1.0, -0.5]), [0.5, 1.0, 1.5, 2.5, 3.5, 4.5]);
        // A quarter turn: the rows become columns.
        assert_eq!(moved(2, 2, vec![1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, -1.0, 0.0, 0.0]), [3.0, 1.0, 4.0, 2.0]);
    }
}
