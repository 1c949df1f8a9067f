//! Matrix products: batched, with either operand transposed, and with an elementwise epilogue.
//!
//! `y[…, i, j] = Σ_p a[…, i, p] · b[…, p, j]`. A transposed operand is read in place, without a copy. If elementwise code follows a
//! product, the planner gives it to the product's kernel. The kernel applies it to the sums before it stores them.

mod cases;
mod kernels;
#[cfg(test)]
mod tests;

use super::*;
use crate::{shape::MAX_RANK, threads::chunks};
use map::{Expr, Map, epilogue};
use product::{By, Matrix, product_then};
use std::panic::Location;

/// The op: inputs `a [.., m, k]`, `b [.., k, n]`, then the further inputs of the epilogue; output `[.., m, n]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatMul {
    /// Whether `a` is `[.., k, m]`.
    pub transpose_a: bool,
    /// Whether `b` is `[.., n, k]`.
    pub transpose_b: bool,
    /// The expression that is applied to every element of the product. Its input 0 is the product. Its inputs 1, 2, … are the op's
    /// inputs 2, 3, ….
    pub epilogue: Option<Expr>,
}

impl<'g> Tensor<'g> {
    /// Returns the matrix product `[.., m, k] × [.., k, n] → [.., m, n]`. The axes before the last two are batch axes and
    /// broadcast.
    ///
    /// A vector `[k]` on the left is a row, and a vector on the right is a column. The result has no axis for a vector, as in NumPy
    /// and PyTorch. It is a mistake if an operand is a scalar, or if inner dimensions or batch axes do not fit.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// let y = g.input([8, 64, 784]).matmul(g.input([784, 10]));
    /// assert_eq!(y.shape().dims(), [8, 64, 10]);
    /// ```
    #[track_caller]
    pub fn matmul(self, b: Tensor<'g>) -> Tensor<'g> {
        let (shapes, place) = ([self.shape(), b.shape()], Location::caller());
        let [row, column] = shapes.map(|s| s.rank() == 1);
        if !(row || column) || self.is_dead() || b.is_dead() {
            return self.matmul_t(b, false, false);
        }
        let [k, k_b] = [shapes[0].last(), shapes[1].last()];
        let a_shape = if row { Shape::from([1, k]).of(shapes[0].dtype()) } else { shapes[0] };
        let b_shape = if column { Shape::from([k_b, 1]).of(shapes[1].dtype()) } else { shapes[1] };
        if let Err(why) = OpDef::shape(&MatMul::default(), &[a_shape, b_shape]) {
            return self.graph.mistake("matmul", &[self, b], why, place);
        }
        let y = self.reshape(a_shape).matmul_t(b.reshape(b_shape), false, false);
        let y = if column { y.squeeze(-1) } else { y };
        if row { y.squeeze(if column { -1 } else { -2 }) } else { y }
    }
    /// Returns [`Tensor::matmul`] with the last two axes of either operand swapped. This tensor is `[.., k, m]` if `transpose_a`,
    /// and `b` is `[.., n, k]` if `transpose_b`. Both operands must have at least two axes.
    #[track_caller]
    pub fn matmul_t(self, b: Tensor<'g>, transpose_a: bool, transpose_b: bool) -> Tensor<'g> {
        self.graph.apply(MatMul { transpose_a, transpose_b, epilogue: None }, &[self, b])
    }
}

/// The sizes of a product. If all `a` are multiplied by the same `b`, the batch is folded into the rows.
#[derive(Clone, Debug, PartialEq)]
struct Dims {
    m: usize,
    n: usize,
    k: usize,
    /// The batch axes. The fields `a` and `b` have the distance of neighbours along each batch axis, counted in matrices. The
    /// distance is 0 if a matrix repeats.
    batch: Shape,
    a: [usize; MAX_RANK],
    b: [usize; MAX_RANK],
}

impl Dims {
    /// Returns the positions of the first elements of `a` and `b` for product `i` of the batch.
    fn start(&self, i: usize) -> (usize, usize) {
        let (mut rest, mut a, mut b) = (i, 0, 0);
        for (axis, &d) in self.batch.dims().iter().enumerate().rev() {
            a += rest % d * self.a[axis];
            b += rest % d * self.b[axis];
            rest /= d;
        }
        (a * self.m * self.k, b * self.k * self.n)
    }
}

impl MatMul {
    fn dims(&self, a: Shape, b: Shape) -> Result<Dims, String> {
        let split = |i: usize, s: Shape, transposed: bool| match s.dims() {
            _ if s.dtype() != DType::F32 => Err(format!("input {i} holds labels; `one_hot` or `to_f32` makes floats of them")),
            [batch @ .., r, c] => {
                let batch = Shape::new(batch).expect("a shape's part has fewer axes than the shape");
                Ok(if transposed { (batch, *c, *r) } else { (batch, *r, *c) })
            }
            _ => Err(format!("input {i} is not a matrix: it has fewer than two axes; `unsqueeze` adds one")),
        };
        let (a_batch, mut m, k) = split(0, a, self.transpose_a)?;
        let (b_batch, k_b, n) = split(1, b, self.transpose_b)?;
        if k != k_b {
            return Err(format!("inner dimensions {k} and {k_b} differ"));
        }
        let mut batch = a_batch.broadcast(b_batch).ok_or_else(|| format!("batch axes {a_batch} and {b_batch} do not broadcast"))?;
        if b_batch.elements() == 1 && !self.transpose_a {
            m *= batch.elements();
            batch = Shape::SCALAR;
        }
        let strides = |s: Shape| if batch.rank() == 0 { [0; MAX_RANK] } else { s.strides_in(batch) };
        Ok(Dims { m, n, k, a: strides(a_batch), b: strides(b_batch), batch })
    }
    fn known_dims(&self, a: Shape, b: Shape) -> Dims {
        self.dims(a, b).expect("shape() accepted these shapes when the graph was built")
    }
}

/// Below this number of multiplications for each product, the threads share the products of a batch. Above it, they share each
/// product.
const SMALL: usize = 1 << 17;

impl OpDef for MatMul {
    const NAME: &'static str = "matmul";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        epilogue::count(&self.epilogue, 2, x.len())?;
        self.dims(x[0], x[1])?;
        let (a, b) = (x[0].dims(), x[1].dims());
        let m = if self.transpose_a { a[a.len() - 1] } else { a[a.len() - 2] };
        let n = if self.transpose_b { b[b.len() - 2] } else { b[b.len() - 1] };
        // Give both operands the last two axes of the output. Then broadcasting concerns the batch axes only.
        let last = |s: Shape| s.with(s.rank() - 2, m).with(s.rank() - 1, n);
        let y = last(x[0]).broadcast(last(x[1])).expect("dims() broadcast the batch axes");
        epilogue::fits(&x[2..], y)?;
        Ok(y)
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        let d = self.known_dims(x[0].shape, x[1].shape);
        let (m, n, k) = (d.m, d.n, d.k);
        for (i, y) in y.f.chunks_mut(m * n).enumerate() {
            let (a, b) = d.start(i);
            let (a, b) = (&x[0].f[a..][..m * k], &x[1].f[b..][..k * n]);
            let a = |i: usize, p: usize| if self.transpose_a { a[p * m + i] } else { a[i * k + p] };
            // The rows of b as [k, n], so that the innermost loop reads neighbours.
            let b: Vec<T> = match self.transpose_b {
                true => (0..k * n).map(|e| b[e % n * k + e / n]).collect(),
                false => b.to_vec(),
            };
            for (i, y) in y.chunks_mut(n).enumerate() {
                y.fill(T::zero());
                for (p, b) in b.chunks(n).enumerate() {
                    let a = a(i, p);
                    y.iter_mut().zip(b).for_each(|(y, &b)| *y += a * b);
                }
            }
        }
        epilogue::reference(&self.epilogue, &x[2..], y, key);
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        let d = self.known_dims(x[0].shape, x[1].shape);
        let (m, n, k) = (d.m, d.n, d.k);
        let sides = |(a, b): (usize, usize)| {
            let side = |data, [rows, columns]: [usize; 2], transposed| match transposed {
                false => Matrix::rows(data, columns),
                true => Matrix::rows(data, rows).transposed(),
            };
            let a = side(&x[0].f[a..][..m * k], [m, k], self.transpose_a);
            [a, side(&x[1].f[b..][..k * n], [k, n], self.transpose_b)]
        };
        let (shape, size) = (y.shape, m * n);
        let finish = |first: usize, y: &mut [f32]| epilogue::finish(&self.epilogue, &x[2..], shape, first, y, key);
        if size * k < SMALL {
            chunks(y.f, size, |i, y| {
                product_then([m, k, n], sides(d.start(i)), y, By::This, &|first, y| finish(i * size + first, y));
            });
        } else {
            for (i, y) in y.f.chunks_mut(size).enumerate() {
                product_then([m, k, n], sides(d.start(i)), y, By::All, &|first, y| finish(i * size + first, y));
            }
        }
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let (a, b) = (x[0], x[1]);
        // For y = a·b: da = dy·bᵀ and db = aᵀ·dy. If an operand is transposed, its gradient is transposed, too.
        let da = match self.transpose_a {
            false => dy.matmul_t(b, false, !self.transpose_b),
            true => b.matmul_t(dy, self.transpose_b, true),
        };
        // If a whole batch shares one b, the gradient of b is one product over all rows instead of a sum of many products.
        let shared = b.shape().rank() == 2 && a.shape().rank() > 2 && !self.transpose_a;
        let rows = |t: Tensor<'g>| if shared { t.reshape([t.shape().elements() / t.shape().last(), t.shape().last()]) } else { t };
        let (a, dy) = (rows(a), rows(dy));
        let db = match self.transpose_b {
            false => a.matmul_t(dy, !self.transpose_a, false),
            true => dy.matmul_t(a, true, self.transpose_a),
        };
        vec![Some(da), Some(db)]
    }
    fn kernels(&self, x: &[Shape], y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::kernels(self, x, y, caps)
    }
    fn flops(&self, x: &[Shape], y: Shape) -> u64 {
        let k = self.known_dims(x[0], x[1]).k;
        y.elements() as u64 * (2 * k + epilogue::calls(&self.epilogue)) as u64
    }
    fn terms(&self, x: &[Shape]) -> usize {
        self.known_dims(x[0], x[1]).k
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        let flag = |on, name| if on { name } else { "" };
        (format!("{}{}", flag(self.transpose_a, " aᵀ"), flag(self.transpose_b, " bᵀ")), &x[..2])
    }
    /// The planner calls this method only if `map` has the shape of the product.
    fn with_epilogue(&self, map: &Map) -> Option<Arc<dyn Op>> {
        Some(Arc::new(MatMul { epilogue: Some(epilogue::after(&self.epilogue, map)), ..self.clone() }))
    }
    fn plain(&self, _: &[Shape]) -> Option<Arc<dyn Op>> {
        self.epilogue.as_ref()?;
        Some(Arc::new(MatMul { epilogue: Some(epilogue::identity()), ..self.clone() }))
    }
    fn cases() -> Vec<Case> {
        cases::cases()
    }
}
