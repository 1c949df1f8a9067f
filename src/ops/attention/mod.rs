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
//! More inputs may follow, in both ops: the number of keys of each sequence (labels), a bias (floats), which is added to the scores,
//! and the slopes of ALiBi, one for each head. See [`AttentionMask`]. If a query sees no key, then y = 0 and l = 0.
//!
//! Dropout multiplies each weight p by a factor r, which is 0 or 1/(1 − dropout_p). l does not change. Then `y[i,:] = Σ_j r·p·v[j,:]`,
//! `dv[j,:] = Σ_i r·p·dy[i,:]` and `t = scale · p · (r · dy·v − δ)`. The numbers behind r belong to the pair, so the gradients draw
//! them again. Several heads of queries may share one head of keys.
//!
//! Sources: Vaswani et al. 2017, eq. 1; Milakov & Gimelshein 2018 (the online softmax); Rabe & Staats 2021; Dao et al. 2022,
//! algorithm 1 and appendix B.2 (the tiles and the gradient).

mod cases;
mod cpu;
mod grad;
mod kernels;
mod mask;
mod pairs;
mod shared;
mod tensor;
#[cfg(test)]
mod tests;

use super::*;
use crate::kernel::Word;
pub(crate) use grad::AttentionGrad;
use grad::Of;
pub use mask::AttentionMask;
use pairs::{Given, Pairs};
use shared::Shared;

/// The op: queries `[.., n, d]`, keys `[.., m, d]`, values `[.., m, e]` → `[.., n, e + 1]`. The last column is l. The fields are
/// also the options of [`Tensor::scaled_dot_product_attention`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Attention {
    /// Whether query i sees the keys 0..=i only. Queries and keys are both counted from 0, even if their numbers differ, as with
    /// PyTorch's `is_causal`.
    pub causal: bool,
    /// The factor of the scores. `None` means 1/√d.
    pub scale: Option<f32>,
    /// Whether keys and values may have fewer heads than queries, as with PyTorch's `enable_gqa` (Ainslie et al. 2023). Heads are the
    /// last leading axis. With h heads of queries and h/g heads of keys, head i of the queries reads head ⌊i/g⌋ of the keys.
    pub enable_gqa: bool,
    /// The window `[left, right]`: query i sees the keys i − left ..= i + right only, as with JAX's `local_window_size` and
    /// FlashAttention's `window_size` (Beltagy, Peters & Cohan 2020). Queries and keys are both counted from 0. Mistral's
    /// `sliding_window` of w keys is `[w - 1, 0]`. The kernels skip blocks of keys that lie outside of the window.
    pub local_window_size: Option<[usize; 2]>,
    /// Whether `slope · |i − j|` is subtracted from the score of query i and key j (ALiBi, Press, Smith & Lewis 2022). The slope of
    /// head i of h heads is 2^(−8·(i + 1)/h) if h is a power of two. For other numbers of heads it is that of the paper's code.
    pub alibi: bool,
    /// The probability that training drops a weight, as PyTorch's `dropout_p`. The other weights are divided by 1 − `dropout_p`. An
    /// inference graph drops nothing. The gradients draw the same random numbers again, so no mask is stored.
    pub dropout_p: f32,
    /// The number of the stream of random numbers. The methods of [`Tensor`] set it. In your own graph it must not be set.
    pub stream: u32,
}

/// The sizes of both ops.
#[derive(Clone, Copy, Debug, PartialEq)]
struct AttentionSizes {
    /// The product of the leading axes of the queries: batch and heads.
    batch: usize,
    n: usize,
    m: usize,
    d: usize,
    e: usize,
    pairs: Pairs,
    shared: Shared,
}

impl AttentionSizes {
    /// Returns the number of keys that query `i` sees. They are the first keys.
    fn seen(&self, causal: bool, i: usize) -> usize {
        if causal { self.m.min(i + 1) } else { self.m }
    }
    /// Returns the floating-point operations of products over `terms` columns, for every pair of a query and a key that it sees.
    fn flops(&self, causal: bool, terms: usize) -> u64 {
        let of_query = |i: usize| {
            let keys = self.pairs.columns(true, i..i + 1, self.m);
            self.seen(causal, i).min(keys.end).saturating_sub(keys.start)
        };
        let pairs: usize = (0..self.n).map(of_query).sum();
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
        if lead_k != lead_v {
            return Err(format!("the axes before the last two must broadcast: they are {lead}, {lead_k} and {lead_v}"));
        }
        let shared = Shared::new(lead, lead_k, self.enable_gqa)?;
        if let Some(scale) = self.scale.filter(|s| !s.is_finite()) {
            return Err(format!("the scale must be a finite number, not {scale}"));
        }
        let pairs = Pairs::new(x, 3, lead, [n, m], self)?;
        Ok(AttentionSizes { batch: lead.elements(), n, m, d, e, pairs, shared })
    }
    fn known_sizes(&self, x: &[Shape]) -> AttentionSizes {
        self.sizes(x).expect("shape() accepted these shapes when the graph was built")
    }
    /// Returns the text of a class: the options that are set. The number of the random stream does not matter for the choice of a kernel.
    fn text(&self) -> String {
        let set = [
            self.enable_gqa.then(|| "shared heads".to_string()),
            self.local_window_size.map(|window| format!("window {window:?}")),
            self.alibi.then(|| "ALiBi".to_string()),
            (self.dropout_p > 0.0).then(|| format!("dropout {}", self.dropout_p)),
        ];
        let first = format!("causal: {:?}, scale: {:?}", self.causal, self.scale);
        std::iter::once(first).chain(set.into_iter().flatten()).collect::<Vec<_>>().join(", ")
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
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        let (scale, given) = (T::of(f64::from(self.scale(s.d))), s.pairs.of(s.m, x));
        for (row, y) in y.f.chunks_mut(s.e + 1).enumerate() {
            let (batch, i) = (row / s.n, row % s.n);
            let q = &x[0].f[row * s.d..][..s.d];
            let kv = s.shared.kv(batch) * s.m;
            let keys = x[1].f[kv * s.d..].chunks(s.d).take(s.seen(self.causal, i));
            let scores: Vec<T> = keys.enumerate().map(|(j, k)| dot(q, k) * scale + given.bias(batch, i, j)).collect();
            let top = scores.iter().fold(T::neg_infinity(), |m, &x| if m >= x || m.is_nan() { m } else { x });
            y.fill(T::zero());
            if given.is_some() && top == T::neg_infinity() {
                continue;
            }
            let p: Vec<T> = scores.iter().map(|&s| (s - top).exp()).collect();
            let sum: f64 = p.iter().map(|p| p.f64()).sum();
            for (j, (&p, v)) in p.iter().zip(x[2].f[kv * s.e..].chunks(s.e)).enumerate() {
                let p = p * T::of(s.factor(key, batch, i, j));
                y.iter_mut().zip(v).for_each(|(y, &v)| *y += p * v * T::of(1.0 / sum));
            }
            y[s.e] = top + T::of(sum.ln());
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        cpu::forward(s, self.causal, self.scale(s.d), [x[0].f, x[1].f, x[2].f], s.pairs.of(s.m, x), key, y.f);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        let [q, k, v] = [x[0], x[1], x[2]];
        let (d, e) = (q.shape().last(), v.shape().last());
        let split = |t: Tensor<'g>| (t.slice(-1, 0, e), t.slice(-1, e, e + 1));
        let ((y, l), (dy, dl)) = (split(y), split(dy));
        let delta = (dy * y).sum(&[-1], true) - dl;
        let (rows, cols) = (q.concat(&[dy, l, delta], -1), k.concat(&[v], -1));
        let options = Attention { scale: Some(self.scale(d)), ..*self };
        let grad = |of| AttentionGrad { of, d, options };
        let inputs = [&[rows, cols], &x[3..]].concat();
        let mut grads = [Of::Q, Of::K, Of::V].map(|of| Some(q.graph.apply(grad(of), &inputs))).to_vec();
        // In plain ops, which are computed only if something needs this gradient.
        grads.extend((2..inputs.len()).map(|i| grad(Of::Q).of_mask(&inputs, i)));
        grads
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("Attention {{ {} }}", self.text()), x)
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
        masks(x, x[1], self.alibi, &mut fills);
        fills
    }
    fn cases() -> Vec<Case> {
        cases::forward()
    }
}

/// The largest number of inputs: queries, keys, values, lengths, a bias and slopes.
const INPUTS: usize = 6;

/// Returns the shapes of the inputs, in `all`. A step must not allocate memory for them.
fn shapes<'a, T>(x: &[View<T>], all: &'a mut [Shape; INPUTS]) -> &'a [Shape] {
    all.iter_mut().zip(x).for_each(|(shape, x)| *shape = x.shape);
    &all[..x.len()]
}

/// Gives lengths every number of keys that they may have, and slopes their signs.
fn masks(x: &[Shape], keys: Shape, alibi: bool, fills: &mut [Fill]) {
    let m = keys.dims()[keys.rank() - 2];
    x.iter().zip(&mut *fills).filter(|(x, _)| x.dtype() == DType::U32).for_each(|(_, fill)| *fill = Fill::Labels(m + 1));
    if let (true, Some(slopes)) = (alibi, fills.last_mut()) {
        *slopes = Fill::Range(0.05, 0.8);
    }
}

/// Returns 1 if query i sees key j, else 0.
fn causal_mask(graph: &crate::graph::Graph, n: usize, m: usize) -> Tensor<'_> {
    let seen = |at: usize| f32::from(u8::from(at % m <= at / m));
    graph.constant(Host::new([n, m], (0..n * m).map(seen).collect()))
}
