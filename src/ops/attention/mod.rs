//! Scaled dot-product attention with an online softmax. No tensor of the size queries × keys is ever stored.
//!
//! The score of query i and key j is `s[i,j] = scale · Σ_c q[i,c] · k[j,c]`. With `l[i] = ln Σ_j e^s[i,j]` the result is
//! `y[i,:] = Σ_j e^(s[i,j] − l[i]) · v[j,:]`. The sums run over the keys j that query i sees. The op's output holds y and, as one
//! more column, l. From l the gradients compute every weight `p[i,j] = e^(s[i,j] − l[i])` without a second softmax. With
//! `δ[i] = Σ_c dy[i,c] · y[i,c]` the gradients are
//!
//! * `dv[j,:] = Σ_i p[i,j] · dy[i,:]`
//! * `t[i,j] = scale · p[i,j] · (dy[i,:]·v[j,:] − δ[i])`, `dq[i,:] = Σ_j t[i,j] · k[j,:]`, `dk[j,:] = Σ_i t[i,j] · q[i,:]`
//!
//! A gradient of l only changes δ. Each of the three gradients reads two tensors, `[q | dy | l | δ]` and `[k | v]`. In them, the
//! numbers of one query or one key lie side by side in one row. So a gradient needs few bindings, and every device has enough.
//!
//! Two more inputs may follow, in both ops: the number of keys of each sequence (labels), and a bias (floats), which is added to
//! the scores. See [`AttentionMask`]. If a query sees no key, then y = 0 and l = 0.
//!
//! Sources: Vaswani et al. 2017, eq. 1; Milakov & Gimelshein 2018 (the online softmax); Rabe & Staats 2021; Dao et al. 2022,
//! algorithm 1 and appendix B.2 (the tiles and the gradient).

mod cases;
mod cpu;
mod kernels;
mod mask;
#[cfg(test)]
mod tests;

use super::*;
pub use mask::AttentionMask;
use mask::Masks;

/// The op: queries `[.., n, d]`, keys `[.., m, d]`, values `[.., m, e]` → `[.., n, e + 1]`. The last column is l. The fields are
/// also the options of [`Tensor::scaled_dot_product_attention`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    /// Whether query i sees the keys 0..=i only. Queries and keys are both counted from 0, even if their numbers differ, as with
    /// PyTorch's `is_causal`.
    pub causal: bool,
    /// The factor of the scores. `None` means 1/√d.
    pub scale: Option<f32>,
}

/// The input that a gradient belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The queries.
    Q,
    /// The keys.
    K,
    /// The values.
    V,
}

/// The gradients: `[q | dy | l | δ]` `[.., n, d + e + 2]`, `[k | v]` `[.., m, d + e]` → the gradient of the queries, keys or
/// values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AttentionGrad {
    /// The input that the gradient belongs to.
    pub of: Of,
    /// The number of features of a query and of a key.
    pub d: usize,
    /// See [`Attention::causal`].
    pub causal: bool,
    /// The factor of the scores.
    pub scale: f32,
}

/// The sizes of both ops.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AttentionSizes {
    /// The product of the leading axes: batch and heads.
    batch: usize,
    n: usize,
    m: usize,
    d: usize,
    e: usize,
    masks: Masks,
}

impl AttentionSizes {
    /// Returns the number of keys that query `i` sees. They are the first keys.
    fn seen(&self, causal: bool, i: usize) -> usize {
        if causal { self.m.min(i + 1) } else { self.m }
    }
    /// Returns the floating-point operations of products over `terms` columns, for every pair of a query and a key that it sees.
    fn flops(&self, causal: bool, terms: usize) -> u64 {
        let pairs = if causal { (0..self.n).map(|i| self.seen(true, i)).sum() } else { self.n * self.m };
        2 * (self.batch * pairs * terms) as u64
    }
}

/// Returns the shape of the leading axes and the sizes of the last two axes. Returns `None` if `x` is not a matrix of floats.
fn matrix(x: Shape) -> Option<(Shape, usize, usize)> {
    match x.dims() {
        [lead @ .., r, c] if x.dtype() == DType::F32 => Some((Shape::new(lead)?, *r, *c)),
        _ => None,
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).fold(T::zero(), |sum, (&a, &b)| sum + a * b)
}

impl Attention {
    fn sizes(&self, x: &[Shape]) -> Result<AttentionSizes, String> {
        let [q, k, v, ..] = x else { return Err(format!("takes queries, keys and values, not {} inputs", x.len())) };
        let (Some((lead, n, d)), Some((lead_k, m, d_k)), Some((lead_v, m_v, e))) = (matrix(*q), matrix(*k), matrix(*v)) else {
            return Err("queries, keys and values must be floats with at least two axes: [.., rows, features]".into());
        };
        if d != d_k {
            return Err(format!("queries have {d} features, but keys have {d_k}: a score is the product of all of them"));
        }
        if m != m_v {
            return Err(format!("there are {m} keys, but {m_v} values: each key needs one"));
        }
        if lead != lead_k || lead != lead_v {
            return Err(format!("the axes before the last two must be the same: they are {lead}, {lead_k} and {lead_v}"));
        }
        if let Some(scale) = self.scale.filter(|s| !s.is_finite()) {
            return Err(format!("the scale must be a finite number, not {scale}"));
        }
        let masks = Masks::new(x, 3, lead, [n, m])?;
        Ok(AttentionSizes { batch: lead.elements(), n, m, d, e, masks })
    }
    fn known_sizes(&self, x: &[Shape]) -> AttentionSizes {
        self.sizes(x).expect("shape() accepted these shapes when the graph was built")
    }
    fn scale(&self, d: usize) -> f32 {
        self.scale.unwrap_or((1.0 / (d as f64).sqrt()) as f32)
    }
}

impl OpDef for Attention {
    const NAME: &'static str = "attention";

    fn called(&self) -> &'static str {
        "scaled_dot_product_attention"
    }
    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let s = self.sizes(x)?;
        Ok(x[0].with(x[0].rank() - 1, s.e + 1))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        let (scale, given) = (T::of(f64::from(self.scale(s.d))), s.masks.of(s.m, x));
        for (row, y) in y.f.chunks_mut(s.e + 1).enumerate() {
            let (batch, i) = (row / s.n, row % s.n);
            let q = &x[0].f[row * s.d..][..s.d];
            let keys = x[1].f[batch * s.m * s.d..].chunks(s.d).take(s.seen(self.causal, i));
            let scores: Vec<T> = keys.enumerate().map(|(j, k)| dot(q, k) * scale + given.bias(batch, i, j)).collect();
            let top = scores.iter().fold(T::neg_infinity(), |m, &x| if m >= x || m.is_nan() { m } else { x });
            y.fill(T::zero());
            if given.is_some() && top == T::neg_infinity() {
                continue;
            }
            let p: Vec<T> = scores.iter().map(|&s| (s - top).exp()).collect();
            let sum: f64 = p.iter().map(|p| p.f64()).sum();
            for (&p, v) in p.iter().zip(x[2].f[batch * s.m * s.e..].chunks(s.e)) {
                y.iter_mut().zip(v).for_each(|(y, &v)| *y += p * v * T::of(1.0 / sum));
            }
            y[s.e] = top + T::of(sum.ln());
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        cpu::forward(s, self.causal, self.scale(s.d), [x[0].f, x[1].f, x[2].f], s.masks.of(s.m, x), y.f);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let [q, k, v] = [x[0], x[1], x[2]];
        let (d, e) = (q.shape().last(), v.shape().last());
        let split = |t: Tensor<'g>| (t.slice(-1, 0, e), t.slice(-1, e, e + 1));
        let ((y, l), (dy, dl)) = (split(y), split(dy));
        let delta = (dy * y).sum(&[-1], true) - dl;
        let (rows, cols) = (q.concat(&[dy, l, delta], -1), k.concat(&[v], -1));
        let grad = |of| AttentionGrad { of, d, causal: self.causal, scale: self.scale(d) };
        let inputs = [&[rows, cols], &x[3..]].concat();
        let mut grads = [Of::Q, Of::K, Of::V].map(|of| Some(q.graph.apply(grad(of), &inputs))).to_vec();
        // In plain ops, which are computed only if something needs this gradient.
        let of_mask = |&mask: &Tensor<'g>| (mask.shape().dtype() == DType::F32).then(|| grad(Of::Q).of_bias(&inputs).sum_to(mask.shape()));
        grads.extend(x[3..].iter().map(of_mask));
        grads
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::forward(self, self.known_sizes(x), caps)
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        let s = self.known_sizes(x);
        s.flops(self.causal, s.d + s.e)
    }
    fn terms(&self, x: &[Shape]) -> usize {
        // For a gradient: the gradient of each weight contains a sum over e.
        let s = self.known_sizes(x);
        s.m * s.e + s.d
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // Choose the inputs so that the scores are as large as with the usual scale.
        let d = x[0].last() as f64;
        let size = (f64::from(self.scale(x[0].last())) * d.sqrt()).abs().max(1e-6).sqrt().recip() * 2.0;
        let mut fills = Fill::floats(x, &[(0, -size, size), (1, -size, size), (2, -2.0, 2.0)]);
        lengths(x, x[1], &mut fills);
        fills
    }
    fn cases() -> Vec<Case> {
        cases::forward()
    }
}

impl AttentionGrad {
    fn sizes(&self, x: &[Shape]) -> Result<AttentionSizes, String> {
        let [rows, cols, ..] = x else { return Err(format!("takes two tensors, not {}", x.len())) };
        match (matrix(*rows), matrix(*cols)) {
            (Some((lead, n, a)), Some((other, m, b))) if lead == other && a == b + 2 && b > self.d => {
                let masks = Masks::new(x, 2, lead, [n, m])?;
                Ok(AttentionSizes { batch: lead.elements(), n, m, d: self.d, e: b - self.d, masks })
            }
            _ => Err(format!("takes [.., n, {0} + e + 2] and [.., m, {0} + e]", self.d)),
        }
    }
    fn known_sizes(&self, x: &[Shape]) -> AttentionSizes {
        self.sizes(x).expect("shape() accepted these shapes when the graph was built")
    }
    /// Returns the weights p and `p · (dy·vᵀ − δ)`, in plain ops. Both have a number for each query and key.
    fn weights<'g>(&self, x: &[Tensor<'g>]) -> [Tensor<'g>; 2] {
        let s = self.known_sizes(&x.iter().map(|x| x.shape()).collect::<Vec<_>>());
        let (rows, cols, d, e) = (x[0], x[1], s.d, s.e);
        let [q, dy] = [(0, d), (d, d + e)].map(|(from, to)| rows.slice(-1, from, to));
        let [l, delta] = [d + e, d + e + 1].map(|at| rows.slice(-1, at, at + 1));
        let [k, v] = [(0, d), (d, d + e)].map(|(from, to)| cols.slice(-1, from, to));
        let mut exponent = s.masks.apply(x, q.matmul_t(k, false, true) * self.scale - l);
        if self.causal {
            // e^-10000 is 0, even in f64.
            exponent = causal_mask(rows.graph, s.n, s.m).where_(exponent, -1e4);
        }
        let p = exponent.exp();
        [p, p * (dy.matmul_t(v, false, true) - delta)]
    }
    /// Returns the gradient of a bias of all pairs.
    fn of_bias<'g>(&self, x: &[Tensor<'g>]) -> Tensor<'g> {
        self.weights(x)[1]
    }
    /// Returns the gradient in plain ops, with all weights in memory. Second derivatives use it.
    fn plain<'g>(&self, x: &[Tensor<'g>]) -> Tensor<'g> {
        let (rows, cols, d, width) = (x[0], x[1], self.d, x[1].shape().last());
        let [p, t] = self.weights(x);
        match self.of {
            Of::Q => (t * self.scale).matmul(cols.slice(-1, 0, d)),
            Of::K => (t * self.scale).matmul_t(rows.slice(-1, 0, d), true, false),
            Of::V => p.matmul_t(rows.slice(-1, d, width), true, false),
        }
    }
}

/// The largest number of inputs: queries, keys, values, lengths and a bias.
const INPUTS: usize = 5;

/// Returns the shapes of the inputs, in `all`. A step must not allocate memory for them.
fn shapes<'a, T>(x: &[View<T>], all: &'a mut [Shape; INPUTS]) -> &'a [Shape] {
    all.iter_mut().zip(x).for_each(|(shape, x)| *shape = x.shape);
    &all[..x.len()]
}

/// Gives lengths every number of keys that they may have.
fn lengths(x: &[Shape], keys: Shape, fills: &mut [Fill]) {
    let m = keys.dims()[keys.rank() - 2];
    x.iter().zip(fills).filter(|(x, _)| x.dtype() == DType::U32).for_each(|(_, fill)| *fill = Fill::Labels(m + 1));
}

/// Returns 1 if query i sees key j, else 0.
fn causal_mask(graph: &crate::graph::Graph, n: usize, m: usize) -> Tensor<'_> {
    let seen = |at: usize| f32::from(u8::from(at % m <= at / m));
    graph.constant(Host::new([n, m], (0..n * m).map(seen).collect()))
}

impl OpDef for AttentionGrad {
    const NAME: &'static str = "attention_grad";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        let s = self.sizes(x)?;
        let (like, width) = match self.of {
            Of::Q => (x[0], s.d),
            Of::K => (x[1], s.d),
            Of::V => (x[1], s.e),
        };
        Ok(like.with(like.rank() - 1, width))
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        let given = s.masks.of(s.m, x);
        let (d, e, scale) = (s.d, s.e, T::of(f64::from(self.scale)));
        y.f.fill(T::zero());
        for batch in 0..s.batch {
            for (i, j) in (0..s.n).flat_map(|i| (0..s.seen(self.causal, i)).map(move |j| (i, j))) {
                let (row, col) = (batch * s.n + i, batch * s.m + j);
                let (a, b) = (&x[0].f[row * (d + e + 2)..][..d + e + 2], &x[1].f[col * (d + e)..][..d + e]);
                let p = (dot(&a[..d], &b[..d]) * scale + given.bias(batch, i, j) - a[d + e]).exp();
                let t = p * (dot(&a[d..d + e], &b[d..]) - a[d + e + 1]) * scale;
                let (weight, to, from) = match self.of {
                    Of::Q => (t, row * d, &b[..d]),
                    Of::K => (t, col * d, &a[..d]),
                    Of::V => (p, col * e, &a[d..d + e]),
                };
                y.f[to..].iter_mut().zip(from).for_each(|(y, &z)| *y += weight * z);
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, _: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        cpu::grad(self, s, [x[0].f, x[1].f], s.masks.of(s.m, x), y.f);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // Copy the inputs. One input may depend on the other one, and this gradient must not include that dependence.
        let is_float = |x: &Tensor<'g>| x.shape().dtype() == DType::F32;
        let inputs: Vec<Tensor> = x.iter().map(|&x| if is_float(&x) { x * 1.0 } else { x }).collect();
        let floats: Vec<Tensor> = inputs.iter().copied().filter(is_float).collect();
        let mut grads = self.plain(&inputs).vjp(dy, &floats).into_iter();
        x.iter().map(|x| if is_float(x) { grads.next() } else { None }).collect()
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::grad(self, self.known_sizes(x), caps)
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        let s = self.known_sizes(x);
        s.flops(self.causal, if self.of == Of::V { s.d + s.e } else { 2 * s.d + s.e })
    }
    fn terms(&self, x: &[Shape]) -> usize {
        let s = self.known_sizes(x);
        s.d + s.e + if self.of == Of::Q { s.m } else { s.n }
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // Choose scores, and the numbers subtracted from them, whose powers are near 1.
        let size = (f64::from(self.scale) * (self.d as f64).sqrt()).abs().max(1.0).sqrt().recip() / 2.0;
        let mut fills = vec![Fill::Range(-size, size); x.len()];
        lengths(x, x[1], &mut fills);
        fills
    }
    fn cases() -> Vec<Case> {
        cases::grad()
    }
}

impl<'g> Tensor<'g> {
    /// Returns softmax(q·kᵀ·scale)·v. `self` is the queries q (Vaswani et al. 2017, eq. 1).
    ///
    /// The queries are `[.., n, d]`, the keys are `[.., m, d]`, the values are `[.., m, e]`, and the result is `[.., n, e]`. The
    /// leading axes (batch, heads) must be equal. Each row of the result is a weighted mean of the values. The weight of a key says
    /// how well the key agrees with the query. The scale is 1/√d unless `options` sets it. With `causal`, query i sees the keys j ≤
    /// i only. Queries and keys are both counted from 0, even if n ≠ m, as with PyTorch's `is_causal`.
    ///
    /// Memory grows with n + m and not with n·m, forward and backward (Dao et al. 2022).
    ///
    /// It is a mistake if a tensor has fewer than two axes, if the features, the numbers of keys and values or the leading axes do
    /// not fit, or if the scale is not finite.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::attention::Attention};
    /// let g = Graph::inference();
    /// let [q, k, v] = [(); 3].map(|()| g.input([2, 1]));
    /// let y = q.scaled_dot_product_attention(k, v, Attention { causal: true, ..Attention::default() });
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let [q, k, v] = [[0.0, 0.0], [5.0, 9.0], [1.0, 3.0]].map(|x| Host::new([2, 1], x.to_vec()));
    /// assert_eq!(f.run(&[q, k, v])?[0].f(), &[1.0, 2.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn scaled_dot_product_attention(self, k: Tensor<'g>, v: Tensor<'g>, options: Attention) -> Tensor<'g> {
        self.scaled_dot_product_attention_masked(k, v, AttentionMask::default(), options)
    }
    /// [`scaled_dot_product_attention`](Tensor::scaled_dot_product_attention) with masks: padding, a mask of pairs, a bias. A query sees
    /// the keys that `causal`, the lengths and the mask all let it see. Memory still grows with n + m only, beside the masks.
    ///
    /// It is also a mistake if a mask does not fit, or has the wrong type: see [`AttentionMask`].
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, ops::attention::{Attention, AttentionMask}};
    /// let g = Graph::inference();
    /// let [q, k, v] = [(); 3].map(|()| g.input([2, 3, 1]));
    /// let mask = AttentionMask::lengths(g.labels([2]));
    /// let y = q.scaled_dot_product_attention_masked(k, v, mask, Attention::default());
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let [q, k] = [(); 2].map(|()| Host::new([2, 3, 1], vec![0.0; 6]));
    /// let v = Host::new([2, 3, 1], vec![1.0, 3.0, 8.0, 1.0, 3.0, 8.0]);
    /// let y = f.run(&[q, k, v, Host::labels([2], vec![2, 3])])?;
    /// assert_eq!(y[0].f(), &[2.0, 2.0, 2.0, 4.0, 4.0, 4.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn scaled_dot_product_attention_masked(
        self,
        k: Tensor<'g>,
        v: Tensor<'g>,
        mask: AttentionMask<'g>,
        options: Attention,
    ) -> Tensor<'g> {
        let masks = match mask.inputs() {
            Ok(masks) => masks,
            Err(why) => {
                let given: Vec<Tensor> = [self, k, v].into_iter().chain(mask.given()).collect();
                return self.graph.mistake(OpDef::called(&options), &given, why, std::panic::Location::caller());
            }
        };
        let y = self.graph.apply(options, &[&[self, k, v], &masks[..]].concat());
        if y.is_dead() { y } else { y.slice(-1, 0, v.shape().last()) }
    }
}
