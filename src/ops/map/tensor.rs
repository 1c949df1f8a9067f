//! The elementwise methods of [`Tensor`], the operators, and the op's test cases.

use super::*;
use crate::{graph::Graph, ops::max_pool2d::no_images, shape::Shape};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// The second operand of an elementwise method: a tensor or a number.
#[derive(Clone, Copy)]
pub enum Operand<'g> {
    Tensor(Tensor<'g>),
    Scalar(f32),
}

impl<'g> From<Tensor<'g>> for Operand<'g> {
    fn from(t: Tensor<'g>) -> Self {
        Operand::Tensor(t)
    }
}
impl From<f32> for Operand<'_> {
    fn from(x: f32) -> Self {
        Operand::Scalar(x)
    }
}
/// The number becomes a float. Floats represent all whole numbers up to 16,777,216.
impl From<i32> for Operand<'_> {
    fn from(x: i32) -> Self {
        Operand::Scalar(x as f32)
    }
}

#[track_caller]
fn call<'g>(graph: &'g Graph, fun: Fun, args: &[Operand<'g>]) -> Tensor<'g> {
    let mut x: Vec<Tensor> = Vec::new();
    let insts: Vec<Inst> = args
        .iter()
        .map(|a| match *a {
            Operand::Scalar(v) => Inst::Const(v.to_bits()),
            Operand::Tensor(t) => {
                let known = x.iter().position(|k| k.is(t));
                Inst::Input(known.unwrap_or_else(|| {
                    x.push(t);
                    x.len() - 1
                }))
            }
        })
        .collect();
    graph.apply(Map::new(Expr::call(fun, &insts)), &x)
}

impl Graph {
    /// Returns a number as a tensor of shape `[]`. The number becomes part of fused kernels and takes no memory.
    #[track_caller]
    pub fn scalar(&self, value: f32) -> Tensor<'_> {
        self.apply(Map::new(Expr::constant(value)), &[])
    }
    /// Returns a tensor of the given shape whose elements are all `value`.
    #[track_caller]
    pub fn full(&self, shape: impl Into<Shape>, value: f32) -> Tensor<'_> {
        self.apply(Map { expr: Expr::constant(value), fixed: Some(shape.into().of(DType::F32)) }, &[])
    }
    /// Returns uniform random numbers in [0, 1). Each step draws new numbers. The generator is Philox 4x32-10 (Salmon et al. 2011).
    /// The numbers depend on the seed, the step, this call and the element. They are the same on every device.
    #[track_caller]
    pub fn uniform(&self, shape: impl Into<Shape>) -> Tensor<'_> {
        self.apply(Map { expr: Expr::random(self.stream()), fixed: Some(shape.into().of(DType::F32)) }, &[])
    }
    /// Returns standard normal random numbers. Each step draws new numbers. They are √(−2 ln(1 − u)) cos(2πv) of two calls of
    /// [`uniform`](Graph::uniform) (Box & Muller 1958).
    ///
    /// ```
    /// use downhill::{Device, Graph};
    /// let g = Graph::training();
    /// let z = g.normal([100, 100]);
    /// let moments = [z.mean_all(), z.square().mean_all()];
    /// let y = Device::cpu().compile(&moments)?.run(&[])?;
    /// assert!(y[0].f()[0].abs() < 0.05 && (y[1].f()[0] - 1.0).abs() < 0.07);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn normal(&self, shape: impl Into<Shape>) -> Tensor<'_> {
        let shape = shape.into();
        let (u, v) = (self.uniform(shape), self.uniform(shape));
        // 1 − u is in (0, 1], where the logarithm is finite.
        ((-u).log1p() * -2.0).sqrt() * (v * std::f32::consts::TAU).cos()
    }
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $fun:ident;)*) => {
        impl<'g> Tensor<'g> {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(self) -> Tensor<'g> { self.call(Fun::$fun) }
        )*}
    };
}

unary! {
    /// Returns the same values. Models use it as the name of an activation.
    identity = Identity;
    /// Returns the same values as a constant. No gradient flows through it.
    detach = Detach;
    /// Returns |x|. The gradient is sign(x), and 0 at 0.
    abs = Abs;
    /// Returns −1, 0 or 1: the sign of x. There is no gradient.
    sign = Sign;
    /// Returns eˣ.
    exp = Exp;
    /// Returns eˣ − 1. It is accurate for small x.
    expm1 = Expm1;
    /// Returns the natural logarithm. It is NaN for x < 0.
    ln = Ln;
    /// Returns ln(1 + x). It is accurate for small x.
    log1p = Log1p;
    /// Returns √x. It is NaN for x < 0.
    sqrt = Sqrt;
    /// Returns 1 / √x.
    rsqrt = Rsqrt;
    /// Returns x².
    square = Square;
    /// Returns 1 / x.
    reciprocal = Reciprocal;
    /// Returns sin x. x is in radians.
    sin = Sin;
    /// Returns cos x. x is in radians.
    cos = Cos;
    /// Returns tanh x = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ).
    tanh = Tanh;
    /// Returns σ(x) = 1 / (1 + e⁻ˣ).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::inference();
    /// let mut f = Device::cpu().compile(&[g.input([2]).sigmoid()])?;
    /// let y = f.run(&[Host::new([2], vec![0.0, 100.0])])?;
    /// assert_eq!(y[0].f(), &[0.5, 1.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    sigmoid = Sigmoid;
    /// Returns max(x, 0). The gradient at 0 is 0, as in PyTorch.
    relu = Relu;
    /// Returns x·σ(x) (Elfwing, Uchibe & Doya 2017).
    silu = Silu;
    /// Returns ln(1 + eˣ), without overflow.
    softplus = Softplus;
    /// Returns ln σ(x) = −ln(1 + e⁻ˣ), without overflow.
    log_sigmoid = LogSigmoid;
    /// Returns x·Φ(x). Φ is the distribution function of the normal distribution (Hendrycks & Gimpel 2016).
    gelu = Gelu;
    /// Returns ½x(1 + tanh(√(2/π)(x + 0.044715x³))). This is the tanh approximation of [`gelu`](Tensor::gelu) (Hendrycks & Gimpel
    /// 2016).
    gelu_tanh = GeluTanh;
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $fun:ident;)*) => {
        impl<'g> Tensor<'g> {$(
            $(#[$doc])*
            #[track_caller]
            pub fn $name(self, other: impl Into<Operand<'g>>) -> Tensor<'g> { call(self.graph, Fun::$fun, &[self.into(), other.into()]) }
        )*}
    };
}

binary! {
    /// Returns the larger of the two operands, with broadcasting. At a tie each operand gets half of the gradient.
    maximum = Maximum;
    /// Returns the smaller of the two operands, with broadcasting. At a tie each operand gets half of the gradient.
    minimum = Minimum;
    /// Returns x^y, with broadcasting. It is NaN for x < 0 unless y is a whole number. See also [`Tensor::powf`].
    pow = Pow;
    /// Returns 1 if the operands are equal, else 0. There is no gradient. Labels and floats compare by value.
    eq = Eq;
    /// Returns 1 if the operands differ, else 0. There is no gradient.
    ne = Ne;
    /// Returns 1 if this operand is smaller than `other`, else 0. There is no gradient.
    lt = Lt;
    /// Returns 1 if this operand is smaller than or equal to `other`, else 0. There is no gradient.
    le = Le;
    /// Returns 1 if this operand is larger than `other`, else 0. There is no gradient.
    gt = Gt;
    /// Returns 1 if this operand is larger than or equal to `other`, else 0. There is no gradient.
    ge = Ge;
}

impl<'g> Tensor<'g> {
    #[track_caller]
    pub(super) fn call(self, fun: Fun) -> Tensor<'g> {
        call(self.graph, fun, &[self.into()])
    }
    /// Returns x^p for a fixed p. It is NaN for x < 0 unless p is a whole number.
    #[track_caller]
    pub fn powf(self, p: f32) -> Tensor<'g> {
        // The common powers are products and roots, which are faster and accurate to the last bit or two.
        match p {
            0.5 => self.sqrt(),
            -0.5 => self.rsqrt(),
            -1.0 => self.reciprocal(),
            1.0 => self.identity(),
            2.0 => self.square(),
            3.0 => self.square() * self,
            _ => call(self.graph, Fun::Pow, &[self.into(), p.into()]),
        }
    }
    /// Returns min(max(x, `min`), `max`): x limited to `min..=max`. If `min` exceeds `max`, the result is `max`. If one of the
    /// three is NaN, the result is NaN. The gradient passes where x is within the limits or equal to a limit.
    #[track_caller]
    pub fn clamp(self, min: f32, max: f32) -> Tensor<'g> {
        call(self.graph, Fun::Clamp, &[self.into(), min.into(), max.into()])
    }
    /// Returns x for x > 0, else `slope`·x (Maas, Hannun & Ng 2013). PyTorch's default slope is 0.01.
    #[track_caller]
    pub fn leaky_relu(self, slope: f32) -> Tensor<'g> {
        call(self.graph, Fun::LeakyRelu, &[self.into(), slope.into()])
    }
    /// Returns x for x > 0, else `alpha`·(eˣ − 1) (Clevert, Unterthiner & Hochreiter 2015, eq. 16). PyTorch's default alpha is 1.
    #[track_caller]
    pub fn elu(self, alpha: f32) -> Tensor<'g> {
        call(self.graph, Fun::Elu, &[self.into(), alpha.into()])
    }
    /// Returns `a` for each element of this tensor that is not 0, else `b`, with broadcasting. No gradient flows to this tensor.
    #[track_caller]
    pub fn where_(self, a: impl Into<Operand<'g>>, b: impl Into<Operand<'g>>) -> Tensor<'g> {
        call(self.graph, Fun::Where, &[self.into(), a.into(), b.into()])
    }
    /// Broadcasts this tensor to `shape`. Missing axes and axes of size 1 are repeated. It is a mistake if the shapes do not fit.
    #[track_caller]
    pub fn broadcast_to(self, shape: impl Into<Shape>) -> Tensor<'g> {
        let (s, to) = (self.shape(), shape.into().of(DType::F32));
        if self.is_dead() || (s.same_dims(to) && s.dtype() == DType::F32) {
            return self;
        }
        if s.broadcast(to).is_none_or(|b| !b.same_dims(to)) {
            let why = format!("does not broadcast to {to}");
            return self.graph.mistake("broadcast_to", &[self], why, std::panic::Location::caller());
        }
        self.apply(Map { expr: Expr::call(Fun::Identity, &[Inst::Input(0)]), fixed: Some(to) })
    }
    /// Returns [`losses::bce`](crate::losses::bce) of each element. It is one function, because the gradients of its logarithms
    /// would give 0/0 at 0 and at 1.
    #[track_caller]
    pub(crate) fn bce_each(self, y: Tensor<'g>) -> Tensor<'g> {
        call(self.graph, Fun::Bce, &[self.into(), y.into()])
    }
    /// Returns [`losses::bce_with_logits`](crate::losses::bce_with_logits) of each element. It is one function, because a sum of
    /// other functions would lose the digits of a small loss.
    #[track_caller]
    pub(crate) fn bce_with_logits_each(self, y: Tensor<'g>) -> Tensor<'g> {
        call(self.graph, Fun::BceWithLogits, &[self.into(), y.into()])
    }
    /// Returns labels as floats.
    #[track_caller]
    pub fn to_f32(self) -> Tensor<'g> {
        self.identity()
    }
    /// Sets each element to zero with probability `p` in training, and multiplies the others by 1 / (1 − p) (Srivastava et al.
    /// 2014, inverted). With p = 1 all elements are zero. In an inference graph the method changes nothing. It is a mistake if `p`
    /// is not in 0..=1.
    ///
    /// The mask comes from [`Graph::uniform`]. The backward pass computes the mask again, so the mask is not stored.
    #[track_caller]
    pub fn dropout(self, p: f32) -> Tensor<'g> {
        self.drop_out("dropout", p, self.shape())
    }
    /// Drops whole channels of images `[n, channels, height, width]` (Tompson et al. 2014). Neighbouring pixels are strongly
    /// correlated, so dropping single pixels would have little effect. See [`dropout`](Tensor::dropout). It is also a mistake if
    /// the tensor has not four axes.
    #[track_caller]
    pub fn dropout2d(self, p: f32) -> Tensor<'g> {
        let x = self.shape();
        if let Some(why) = no_images(x, 4).filter(|_| !self.is_dead()) {
            return self.graph.mistake("dropout2d", &[self], why, std::panic::Location::caller());
        }
        self.drop_out("dropout2d", p, x.with(2, 1).with(3, 1))
    }
    /// Draws one random number for each element of the shape `mask`, which broadcasts to this tensor's shape.
    #[track_caller]
    fn drop_out(self, name: &str, p: f32, mask: Shape) -> Tensor<'g> {
        if !(0.0..=1.0).contains(&p) {
            return self.graph.mistake(name, &[self], format!("p = {p} is not in 0..=1"), std::panic::Location::caller());
        }
        if p == 0.0 || self.is_dead() || !self.graph.trains(name, &[self], std::panic::Location::caller()) {
            return self;
        }
        // With p = 1 no element is scaled. A scale of 0 avoids infinity times 0.
        let scale = if p < 1.0 { 1.0 / (1.0 - p) } else { 0.0 };
        self.graph.uniform(mask).ge(p).where_(self * scale, 0.0)
    }
    /// Returns the same as [`detach`](Tensor::detach). Keras, TensorFlow and JAX use this name.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let x = g.input([2]);
    /// let dx = (x * x.stop_gradient()).sum_all().grad(&[x])[0];
    /// assert_eq!(Device::cpu().compile(&[dx])?.run(&[Host::new([2], vec![3.0, 4.0])])?[0].f(), &[3.0, 4.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn stop_gradient(self) -> Tensor<'g> {
        self.detach()
    }
}

macro_rules! operator {
    ($($trait:ident $method:ident)*) => {$(
        impl<'g> $trait for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, b: Tensor<'g>) -> Tensor<'g> { call(self.graph, Fun::$trait, &[self.into(), b.into()]) }
        }
        impl<'g> $trait<f32> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, b: f32) -> Tensor<'g> { call(self.graph, Fun::$trait, &[self.into(), b.into()]) }
        }
        impl<'g> $trait<Tensor<'g>> for f32 {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, b: Tensor<'g>) -> Tensor<'g> { call(b.graph, Fun::$trait, &[self.into(), b.into()]) }
        }
        impl<'g> $trait<i32> for Tensor<'g> {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, b: i32) -> Tensor<'g> { call(self.graph, Fun::$trait, &[self.into(), b.into()]) }
        }
        impl<'g> $trait<Tensor<'g>> for i32 {
            type Output = Tensor<'g>;
            #[track_caller]
            fn $method(self, b: Tensor<'g>) -> Tensor<'g> { call(b.graph, Fun::$trait, &[self.into(), b.into()]) }
        }
    )*};
}
operator!(Add add Sub sub Mul mul Div div);

impl<'g> Neg for Tensor<'g> {
    type Output = Tensor<'g>;
    #[track_caller]
    fn neg(self) -> Tensor<'g> {
        self.call(Fun::Neg)
    }
}

/// Every function over its own domain, then the ways to broadcast, then sizes.
pub(super) fn cases() -> Vec<Case> {
    let op = |f: Fun| Map::new(Expr::call(f, &(0..f.arity()).map(Inst::Input).collect::<Vec<_>>()));
    let mut cases = Vec::new();
    for &f in Fun::ALL {
        let shapes = vec![Shape::from([3, 41]); f.arity()];
        let mut case = Case::new(f.name(), op(f), &shapes);
        case = match f {
            Fun::Ln | Fun::Sqrt | Fun::Rsqrt | Fun::Log1p => case.range(0, 0.1, 30.0),
            Fun::Pow => case.range(0, 0.1, 4.0),
            Fun::Exp | Fun::Expm1 | Fun::Sin | Fun::Cos => case.range(0, -9.0, 9.0),
            Fun::Tanh | Fun::Sigmoid | Fun::SigmoidGrad | Fun::Softplus | Fun::LogSigmoid | Fun::Silu | Fun::SiluGrad => {
                case.range(0, -20.0, 20.0)
            }
            Fun::Gelu | Fun::GeluGrad | Fun::GeluTanh | Fun::GeluTanhGrad => case.range(0, -6.0, 6.0),
            Fun::BceWithLogits => case.range(0, -20.0, 20.0).range(1, 0.0, 1.0),
            Fun::Bce => case.range(0, 0.02, 0.98).range(1, 0.0, 1.0),
            Fun::Clamp => case.range(1, -1.0, -0.5).range(2, 0.5, 1.0),
            Fun::Detach | Fun::Sign | Fun::Eq | Fun::Ne | Fun::Lt | Fun::Le | Fun::Gt | Fun::Ge => case.flat(),
            _ => case,
        };
        cases.push(case);
    }
    for f in [Fun::Tanh, Fun::Sigmoid, Fun::Exp, Fun::GeluTanh, Fun::Elu] {
        let shapes = vec![Shape::from([3, 41]); f.arity()];
        cases.push(Case::new(format!("{} far out", f.name()), op(f), &shapes).range(0, -80.0, 80.0).flat());
    }
    let pairs: &[(&[usize], &[usize])] = &[
        (&[], &[]),
        (&[1], &[7]),
        (&[5, 7], &[]),
        (&[5, 7], &[7]),
        (&[5, 7], &[5, 1]),
        (&[2, 1, 3], &[4, 1]),
        (&[2, 3, 4, 5], &[3, 1, 1]),
        (&[2, 3, 4, 5], &[3, 1, 5]),
        (&[1, 3, 1, 5, 1, 2], &[2, 1, 4, 1, 3, 1]),
    ];
    for (a, b) in pairs {
        let shapes = [a, b].map(|d| Shape::new(d).expect("at most six axes"));
        cases.push(Case::new(format!("{} with {}", shapes[0], shapes[1]), op(Fun::Mul), &shapes));
    }
    for n in [1, 255, 256, 257, 65_536 * 3 + 1] {
        cases.push(Case::new(format!("{n} elements"), op(Fun::Tanh), &[Shape::from([n])]));
    }
    cases
}
