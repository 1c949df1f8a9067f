//! The functions of elementwise expressions. Each function is one line in the table below. Its WGSL is `f_<name>` in
//! `shaders/lib/map.wgsl`. Its gradient is one line in [`Fun::vjp`].

use crate::{graph::Tensor, host::Real, simd::wide};

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident $text:literal ($($arg:ident),*) = $value:expr;)*) => {
        /// An elementwise function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fun {
            $(
                #[doc = concat!("`", $text, "(", stringify!($($arg),*), ")` = `", stringify!($value), "`.")]
                #[doc = ""]
                $(#[$doc])*
                $name,
            )*
        }

        impl Fun {
            /// Every function.
            pub const ALL: &'static [Fun] = &[$(Fun::$name),*];
            /// Returns the name of the method. The name of the WGSL function is the same with `f_` before it.
            pub fn name(self) -> &'static str {
                match self { $(Fun::$name => $text),* }
            }
            /// Returns the number of arguments: one, two or three.
            pub fn arity(self) -> usize {
                match self { $(Fun::$name => [$(stringify!($arg)),*].len()),* }
            }
            /// Returns the value. Arguments beyond the arity are ignored.
            pub fn value<T: Real>(self, args: [T; 3]) -> T {
                match self { $(Fun::$name => { let [$($arg),*, ..] = args; $value })* }
            }
            /// Computes `y[i] = f(a[i], b[i], c[i])` for the CPU device. Each slice that is an argument has the length of `y`.
            pub(super) fn eval(self, y: &mut [f32], a: &[f32], b: &[f32], c: &[f32]) {
                use num_traits::{One, Zero};
                type T = f32;
                wide(#[inline(always)] || match self { $(Fun::$name => functions!(@loop y a b c ($($arg),*) $value),)* });
            }
        }
    };
    (@loop $y:ident $a:ident $b:ident $c:ident ($p:ident) $value:expr) => {
        for (y, &$p) in $y.iter_mut().zip($a) { *y = $value }
    };
    (@loop $y:ident $a:ident $b:ident $c:ident ($p:ident, $q:ident) $value:expr) => {
        for ((y, &$p), &$q) in $y.iter_mut().zip($a).zip($b) { *y = $value }
    };
    (@loop $y:ident $a:ident $b:ident $c:ident ($p:ident, $q:ident, $r:ident) $value:expr) => {
        for (((y, &$p), &$q), &$r) in $y.iter_mut().zip($a).zip($b).zip($c) { *y = $value }
    };
}

functions! {
    Identity "identity" (a) = a;
    /// The gradient treats the result as a constant.
    Detach "detach" (a) = a;
    Neg "neg" (a) = -a;
    Abs "abs" (a) = a.abs();
    /// The value is −1, 0 or 1.
    Sign "sign" (a) = if a > T::zero() { T::one() } else if a < T::zero() { -T::one() } else { a };
    Exp "exp" (a) = a.vexp();
    Expm1 "expm1" (a) = a.exp_m1();
    Ln "ln" (a) = a.ln();
    Log1p "log1p" (a) = a.ln_1p();
    Sqrt "sqrt" (a) = a.sqrt();
    Rsqrt "rsqrt" (a) = T::one() / a.sqrt();
    Square "square" (a) = a * a;
    Reciprocal "reciprocal" (a) = T::one() / a;
    Sin "sin" (a) = a.sin();
    Cos "cos" (a) = a.cos();
    Tanh "tanh" (a) = a.vtanh();
    Sigmoid "sigmoid" (a) = sigmoid(a);
    /// This is the gradient of σ: σ(a)·σ(−a). If y is near 1, the form y(1 − y) has no digits left.
    SigmoidGrad "sigmoid_grad" (a) = sigmoid(a) * sigmoid(-a);
    Relu "relu" (a) = if a <= T::zero() { T::zero() } else { a };
    Silu "silu" (a) = at_least(a, -FAR) * sigmoid(a);
    SiluGrad "silu_grad" (a) = product_grad(a, (-a.abs()).vexp(), T::one());
    /// The value is ln(1 + eᵃ).
    Softplus "softplus" (a) = softplus(a);
    /// The value is ln σ(a) = −ln(1 + e⁻ᵃ).
    LogSigmoid "log_sigmoid" (a) = -softplus(-a);
    /// This is a·Φ(a). Φ is the distribution function of the normal distribution (Hendrycks & Gimpel 2016, eq. 1).
    Gelu "gelu" (a) = at_least(a, -FAR) * a.normal().0;
    GeluGrad "gelu_grad" (a) = gelu_grad(a);
    /// This is the tanh approximation of gelu (Hendrycks & Gimpel 2016, section 2).
    GeluTanh "gelu_tanh" (a) = at_least(a, -FAR) * logistic(a, gelu_exp(a)).0;
    GeluTanhGrad "gelu_tanh_grad" (a) = gelu_tanh_grad(a);
    Add "add" (a, b) = a + b;
    Sub "sub" (a, b) = a - b;
    Mul "mul" (a, b) = a * b;
    Div "div" (a, b) = a / b;
    Pow "pow" (a, b) = a.powf(b);
    Maximum "maximum" (a, b) = if a > b || a.is_nan() { a } else { b };
    Minimum "minimum" (a, b) = if a < b || a.is_nan() { a } else { b };
    Eq "eq" (a, b) = bool(a == b);
    Ne "ne" (a, b) = bool(a != b);
    Lt "lt" (a, b) = bool(a < b);
    Le "le" (a, b) = bool(a <= b);
    Gt "gt" (a, b) = bool(a > b);
    Ge "ge" (a, b) = bool(a >= b);
    /// The value is a if a > 0, else b·a.
    LeakyRelu "leaky_relu" (a, b) = if a > T::zero() { a } else { b * a };
    /// The value is a if a > 0, else b·(eᵃ − 1) (Clevert, Unterthiner & Hochreiter 2015, eq. 16).
    Elu "elu" (a, b) = if a > T::zero() { a } else { b * a.exp_m1() };
    /// The value is −(b ln a + (1 − b) ln(1 − a)). Each logarithm is limited to at least −100.
    Bce "bce" (a, b) = -(b * at_least(a.ln(), -100.0) + (T::one() - b) * at_least((-a).ln_1p(), -100.0));
    /// The value is ln(1 + eᵃ) − ab, computed as a sum without a difference. It is the loss of a logit a for the target b.
    BceWithLogits "bce_with_logits" (a, b) = bce_with_logits(a, b);
    /// The value is min(max(a, b), c). It is NaN if one of the three is NaN.
    Clamp "clamp" (a, b, c) = clamp(a, b, c);
    /// The value is b if a ≠ 0, else c.
    Where "where" (a, b, c) = if a != T::zero() { b } else { c };
}

/// 1 / √(2π), the peak of the normal density.
const FRAC_1_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
/// √(2/π) and the cubic coefficient of gelu's tanh approximation.
const GELU: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

fn bool<T: Real>(b: bool) -> T {
    if b { T::one() } else { T::zero() }
}

/// Returns the larger of `a` and `low`. NaN stays NaN.
fn at_least<T: Real>(a: T, low: f64) -> T {
    if a < T::of(low) { T::of(low) } else { a }
}

fn clamp<T: Real>(a: T, low: T, high: T) -> T {
    let a = if a < low || low.is_nan() { low } else { a };
    if a > high || high.is_nan() { high } else { a }
}

/// Beyond ±FAR every sigmoid is 0 or 1, even in `f64`. Factors are limited to this range, because an infinite factor times 0 would
/// be NaN.
const FAR: f64 = 1e4;

fn within<T: Real>(a: T) -> T {
    clamp(a, T::of(-FAR), T::of(FAR))
}

/// Returns σ(u) and σ(−u), computed from e = e^−|u|. u has the sign of `a`. Both are accurate even if they are very small.
#[inline(always)]
fn logistic<T: Real>(a: T, e: T) -> (T, T) {
    let (large, small) = (T::one() / (T::one() + e), e / (T::one() + e));
    if a >= T::zero() { (large, small) } else { (small, large) }
}

/// Returns σ(a), computed from e^−|a|, which never overflows.
pub(in crate::ops) fn sigmoid<T: Real>(a: T) -> T {
    let e = (-a.abs()).vexp();
    (if a >= T::zero() { T::one() } else { e }) / (T::one() + e)
}

/// Returns the gradient of a·σ(u): σ(u)(1 + a·u'·σ(−u)). e is e^−|u|, and du is u'.
#[inline(always)]
fn product_grad<T: Real>(a: T, e: T, du: T) -> T {
    let (p, q) = logistic(a, e);
    p * (T::one() + within(a) * du * q)
}

fn softplus<T: Real>(a: T) -> T {
    a.max(T::zero()) + (-a.abs()).vexp().ln_1p()
}

fn bce_with_logits<T: Real>(a: T, b: T) -> T {
    // `wrong` is the share of the target on the other side. If it is 0, its product with an infinite a would be NaN.
    let wrong = if a > T::zero() { T::one() - b } else { b };
    (-a.abs()).vexp().ln_1p() + if wrong == T::zero() { wrong } else { a.abs() * wrong }
}

#[inline(always)]
fn gelu_grad<T: Real>(a: T) -> T {
    let (cdf, e) = a.normal();
    cdf + within(a) * e * T::of(FRAC_1_SQRT_TAU)
}

/// Returns e^−|2u| for u = √(2/π)(a + k·a³). From it follows tanh u = 2σ(2u) − 1.
#[inline(always)]
fn gelu_exp<T: Real>(a: T) -> T {
    let a = a.f64().abs();
    T::exp_of(-2.0 * GELU.0 * a * (1.0 + GELU.1 * a * a))
}

#[inline(always)]
fn gelu_tanh_grad<T: Real>(a: T) -> T {
    let b = within(a);
    product_grad(a, gelu_exp(a), T::of(2.0 * GELU.0) * (T::one() + T::of(3.0 * GELU.1) * b * b))
}

impl Fun {
    /// Returns the gradient of each argument, from the arguments, the value `y` and the gradient `dy` of the value. The formulas
    /// use `y` instead of the arguments where they can. Then the arguments need not be stored until the backward pass.
    pub(super) fn vjp<'g>(self, x: &[Tensor<'g>], y: Tensor<'g>, dy: Tensor<'g>) -> [Option<Tensor<'g>>; 3] {
        let (a, b, c) = (x[0], *x.get(1).unwrap_or(&x[0]), *x.get(2).unwrap_or(&x[0]));
        let one = |d: Tensor<'g>| [Some(d), None, None];
        let two = |da: Tensor<'g>, db: Tensor<'g>| [Some(da), Some(db), None];
        match self {
            Fun::Identity => one(dy),
            Fun::Neg => one(-dy),
            Fun::Abs => one(dy * (a.gt(0.0) - a.lt(0.0))),
            Fun::Exp => one(dy * y),
            Fun::Expm1 => one(dy * a.exp()),
            Fun::Ln => one(dy / a),
            Fun::Log1p => one(dy / (a + 1.0)),
            Fun::Sqrt => one(dy * 0.5 / y),
            // |a| instead of a, because of the sign at −0.
            Fun::Rsqrt => one(dy * -0.5 * y / a.abs()),
            Fun::Square => one(dy * 2.0 * a),
            Fun::Reciprocal => one(-(dy * y) * y),
            Fun::Sin => one(dy * a.cos()),
            Fun::Cos => one(-dy * a.sin()),
            // tanh a = 2σ(2a) − 1.
            Fun::Tanh => one(dy * ((a * 2.0).call(Fun::SigmoidGrad) * 4.0)),
            Fun::Sigmoid => one(dy * a.call(Fun::SigmoidGrad)),
            // σ(−a) − σ(a) = −tanh ½a.
            Fun::SigmoidGrad => one(-dy * y * (a * 0.5).tanh()),
            Fun::Relu => one(y.le(0.0).where_(0.0, dy)),
            Fun::Silu => one(dy * a.call(Fun::SiluGrad)),
            Fun::SiluGrad => {
                let half = a.clamp(-FAR as f32, FAR as f32) * 0.5;
                one(dy * a.call(Fun::SigmoidGrad) * (2.0 - half * half.tanh() * 2.0))
            }
            Fun::Softplus => one(dy * a.sigmoid()),
            Fun::LogSigmoid => one(dy * (-a).sigmoid()),
            Fun::Gelu => one(dy * a.call(Fun::GeluGrad)),
            // a² may be infinite. So a is limited to a range beyond which e^(−½a²) is 0 anyway.
            Fun::GeluGrad => {
                let square = a.clamp(-100.0, 100.0).square();
                one(dy * (2.0 - square) * (square * -0.5).exp() * FRAC_1_SQRT_TAU as f32)
            }
            Fun::GeluTanh => one(dy * a.call(Fun::GeluTanhGrad)),
            Fun::GeluTanhGrad => {
                // The second derivative of ½a(1 + t), where t = tanh u and u = √(2/π)(a + k a³).
                let (s, k, a) = (GELU.0 as f32, GELU.1 as f32, a.clamp(-100.0, 100.0));
                let u = (a + a * a.square() * k) * s;
                let (du, sech2) = ((a.square() * (3.0 * k) + 1.0) * s, (u * 2.0).call(Fun::SigmoidGrad) * 4.0);
                one(dy * sech2 * (du + a * (a * (3.0 * k * s) - u.tanh() * du.square())))
            }
            Fun::Add => two(dy, dy),
            Fun::Sub => two(dy, -dy),
            Fun::Mul => two(dy * b, dy * a),
            Fun::Div => two(dy / b, -dy * y / b),
            // a⁰ is 1 for every a, and 0ᵇ is 0 for every b > 0. If aᵇ underflows to 0, its gradient is 0. The products would be 0·∞
            // in these cases.
            Fun::Pow => {
                let flat = a.eq(0.0) * b.ge(0.0) + a.gt(0.0) * y.eq(0.0);
                two(b.eq(0.0).where_(0.0, dy * b * a.pow(b - 1.0)), flat.where_(0.0, dy * y * a.ln()))
            }
            // At a tie, each side gets half of the gradient. If one side is NaN, both sides get all of it, as in PyTorch.
            Fun::Maximum => {
                let all = a.eq(b).where_(dy * 0.5, dy);
                two(a.lt(b).where_(0.0, all), a.gt(b).where_(0.0, all))
            }
            Fun::Minimum => {
                let all = a.eq(b).where_(dy * 0.5, dy);
                two(a.gt(b).where_(0.0, all), a.lt(b).where_(0.0, all))
            }
            Fun::Detach | Fun::Sign | Fun::Eq | Fun::Ne | Fun::Lt | Fun::Le | Fun::Gt | Fun::Ge => [None; 3],
            Fun::LeakyRelu => two(a.gt(0.0).where_(dy, dy * b), a.gt(0.0).where_(0.0, dy * a)),
            // Use eᵃ. The form y + b has few digits if a is far below 0. If a is above 0, eᵃ may be infinite, so use 1 there.
            Fun::Elu => {
                let below = a.le(0.0);
                let slope = below.where_(a, 0.0).exp();
                two(below.where_(dy * b * slope, dy), below.where_(dy * a.expm1(), 0.0))
            }
            // The slope stays finite at 0 and 1, as in PyTorch. Near ½, compute ln(1 − a) − ln a as the logarithm of the quotient.
            Fun::Bce => {
                let logit = a.ln().maximum(-100.0) - (-a).log1p().maximum(-100.0);
                let near = (a - 0.5).abs().lt(0.2);
                let small = near.where_((a * 2.0 - 1.0) / (1.0 - a), 0.0).log1p();
                two(dy * (a - b) / (a * (1.0 - a)).maximum(1e-12), -dy * near.where_(small, logit))
            }
            // σ(a) − b. One form keeps the digits of a small difference for |a| < 1, the other form for larger |a|.
            Fun::BceWithLogits => {
                let (near, far) = ((0.5 - b) + (a * 0.5).tanh() * 0.5, (1.0 - b) * a.sigmoid() - b * (-a).sigmoid());
                two(dy * a.abs().lt(1.0).where_(near, far), -dy * a)
            }
            // The gradient passes if a is within the limits or equal to one. It passes nowhere if the limits are crossed.
            Fun::Clamp => {
                let (low, high) = (a.lt(b) * b.le(c), a.gt(c) + b.gt(c));
                [Some((a.ge(b) * a.le(c)).where_(dy, 0.0)), Some(low.where_(dy, 0.0)), Some(high.where_(dy, 0.0))]
            }
            Fun::Where => [None, Some(a.where_(dy, 0.0)), Some(a.where_(0.0, dy))],
        }
    }
}
