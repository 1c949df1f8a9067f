//! The gradients of [`Attention`].

use super::*;

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
    /// The options, with the factor of the scores.
    pub options: Attention,
}

impl AttentionGrad {
    fn sizes(&self, x: &[Shape]) -> Result<AttentionSizes, String> {
        let [rows, cols, ..] = x else { return Err(format!("takes two tensors, not {}", x.len())) };
        match (matrix(*rows), matrix(*cols)) {
            (Some((lead, n, a)), Some((other, m, b))) if a == b + 2 && b > self.d => {
                let shared = Shared::new(lead, other, self.options.enable_gqa)?;
                let pairs = Pairs::new(x, 2, lead, [n, m], &self.options)?;
                Ok(AttentionSizes { batch: lead.elements(), n, m, d: self.d, e: b - self.d, pairs, shared })
            }
            _ => Err(format!("takes [.., n, {0} + e + 2] and [.., m, {0} + e]", self.d)),
        }
    }
    fn known_sizes(&self, x: &[Shape]) -> AttentionSizes {
        self.sizes(x).expect("shape() accepted these shapes when the graph was built")
    }
    /// Returns the factor of the scores.
    pub(super) fn scale(&self) -> f32 {
        self.options.scale(self.d)
    }
    /// Returns the weights r·p and the gradients `p · (r · dy·vᵀ − δ)` of the scores, in plain ops. Both have a number for each query and
    /// key.
    fn weights<'g>(&self, x: &[Tensor<'g>]) -> [Tensor<'g>; 2] {
        let s = self.known_sizes(&x.iter().map(|x| x.shape()).collect::<Vec<_>>());
        let (rows, d, e) = (x[0], s.d, s.e);
        let lead = lead(rows);
        let cols = s.shared.repeat(x[1], lead);
        let [q, dy] = [(0, d), (d, d + e)].map(|(from, to)| rows.slice(-1, from, to));
        let [l, delta] = [d + e, d + e + 1].map(|at| rows.slice(-1, at, at + 1));
        let [k, v] = [(0, d), (d, d + e)].map(|(from, to)| cols.slice(-1, from, to));
        let mut exponent = s.pairs.apply(x, q.matmul_t(k, false, true) * self.scale() - l);
        if self.options.causal {
            // e^-10000 is 0, even in f64.
            exponent = causal_mask(rows.graph, s.n, s.m).where_(exponent, -1e4);
        }
        let p = exponent.exp();
        let dp = dy.matmul_t(v, false, true);
        match s.pairs.factors(rows.graph, lead, s.n, s.m) {
            None => [p, p * (dp - delta)],
            Some(r) => [p * r, p * (dp * r - delta)],
        }
    }
    /// Returns the gradient of input `i`, a bias or slopes. Lengths have no gradient.
    pub(super) fn of_mask<'g>(&self, x: &[Tensor<'g>], i: usize) -> Option<Tensor<'g>> {
        let mask = x[i];
        if mask.shape().dtype() == DType::U32 {
            return None;
        }
        let of_scores = self.weights(x)[1];
        if !self.options.alibi || i + 1 < x.len() {
            return Some(of_scores.sum_to(mask.shape()));
        }
        let [n, m] = [x[0], x[1]].map(|x| x.dim(-2));
        let of_slopes = of_scores * -pairs::distances(mask.graph, n, m);
        Some(of_slopes.sum_to([mask.dim(0), 1, 1].into()).reshape(mask.shape()))
    }
    /// Returns the gradient in plain ops, with all weights in memory. Second derivatives use it.
    fn plain<'g>(&self, x: &[Tensor<'g>]) -> Tensor<'g> {
        let s = self.known_sizes(&x.iter().map(|x| x.shape()).collect::<Vec<_>>());
        let (rows, d, width) = (x[0], self.d, s.d + s.e);
        let [p, t] = self.weights(x);
        let to = |w: usize| shared::with_lead(lead(x[1]), [s.m, w]);
        match self.of {
            Of::Q => (t * self.scale()).matmul(s.shared.repeat(x[1], lead(rows)).slice(-1, 0, d)),
            Of::K => s.shared.sum((t * self.scale()).matmul_t(rows.slice(-1, 0, d), true, false), to(d)),
            Of::V => s.shared.sum(p.matmul_t(rows.slice(-1, d, width), true, false), to(s.e)),
        }
    }
}

/// Returns the leading axes.
fn lead(x: Tensor) -> Shape {
    matrix(x.shape()).expect("shape() accepted this matrix").0
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
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, key: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        let given = s.pairs.of(s.m, x);
        let (d, e, scale) = (s.d, s.e, T::of(f64::from(self.scale())));
        y.f.fill(T::zero());
        for batch in 0..s.batch {
            for (i, j) in (0..s.n).flat_map(|i| (0..s.seen(self.options.causal, i)).map(move |j| (i, j))) {
                let (row, col) = (batch * s.n + i, s.shared.kv(batch) * s.m + j);
                let (a, b) = (&x[0].f[row * (d + e + 2)..][..d + e + 2], &x[1].f[col * (d + e)..][..d + e]);
                let p = (dot(&a[..d], &b[..d]) * scale + given.bias(batch, i, j) - a[d + e]).exp();
                let r = T::of(s.factor(key, batch, i, j));
                let t = p * (dot(&a[d..d + e], &b[d..]) * r - a[d + e + 1]) * scale;
                let (weight, to, from) = match self.of {
                    Of::Q => (t, row * d, &b[..d]),
                    Of::K => (t, col * d, &a[..d]),
                    Of::V => (p * r, col * e, &a[d..d + e]),
                };
                y.f[to..].iter_mut().zip(from).for_each(|(y, &z)| *y += weight * z);
            }
        }
    }
    fn cpu(&self, x: &[View<f32>], y: &mut ViewMut<f32>, key: Key) {
        let s = self.known_sizes(shapes(x, &mut [Shape::SCALAR; INPUTS]));
        cpu::grad(self, s, [x[0].f, x[1].f], s.pairs.of(s.m, x), key, y.f);
    }
    fn vjp<'g>(&self, x: &[Tensor<'g>], _y: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        // Copy the inputs. One input may depend on the other one, and this gradient must not include that dependence.
        let is_float = |x: &Tensor<'g>| x.shape().dtype() == DType::F32;
        let inputs: Vec<Tensor> = x.iter().map(|&x| if is_float(&x) { x * 1.0 } else { x }).collect();
        let floats: Vec<Tensor> = inputs.iter().copied().filter(is_float).collect();
        let mut grads = self.plain(&inputs).vjp(dy, &floats).into_iter();
        x.iter().map(|x| if is_float(x) { grads.next() } else { None }).collect()
    }
    fn class<'a>(&self, x: &'a [Shape]) -> (String, &'a [Shape]) {
        (format!("AttentionGrad {{ of: {:?}, d: {}, {} }}", self.of, self.d, self.options.text()), x)
    }
    fn kernels(&self, x: &[Shape], _y: Shape, caps: &Caps) -> Vec<Kernel> {
        kernels::grad(self, self.known_sizes(x), caps)
    }
    fn flops(&self, x: &[Shape], _y: Shape) -> u64 {
        let s = self.known_sizes(x);
        s.flops(self.options.causal, if self.of == Of::V { s.d + s.e } else { 2 * s.d + s.e })
    }
    fn terms(&self, x: &[Shape]) -> usize {
        let s = self.known_sizes(x);
        s.d + s.e + if self.of == Of::Q { s.m } else { s.n * s.shared.parts() }
    }
    fn fills(&self, x: &[Shape]) -> Vec<Fill> {
        // Choose scores, and the numbers subtracted from them, whose powers are near 1.
        let size = (f64::from(self.scale()) * (self.d as f64).sqrt()).abs().max(1.0).sqrt().recip() / 2.0;
        let mut fills = vec![Fill::Range(-size, size); x.len()];
        masks(x, x[1], self.options.alibi, &mut fills);
        fills
    }
    fn cases() -> Vec<Case> {
        cases::grad()
    }
}
