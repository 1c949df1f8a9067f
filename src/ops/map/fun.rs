//! The functions that elementwise expressions are made of. One line each in the table below; the WGSL twin is
//! `f_<name>` in `shaders/lib/map.wgsl`; the gradient is one line in [`Fun::vjp`].

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
            /// Its name: of the method, and after `f_` of the WGSL function.
            pub fn name(self) -> &'static str {
                match self { $(Fun::$name => $text),* }
            }
            /// How many arguments it takes, one to three.
            pub fn arity(self) -> usize {
                match self { $(Fun::$name => [$(stringify!($arg)),*].len()),* }
            }
            /// Its value; arguments beyond the arity are ignored.
            pub fn value<T: Real>(self, args: [T; 3]) -> T {
                match self { $(Fun::$name => { let [$($arg),*, ..] = args; $value })* }
            }
            /// `y[i] = f(a[i], b[i], c[i])`, for the CPU device. All slices that the arity counts are as long as `y`.
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
    /// a, as a constant for the gradient.
    Detach "detach" (a) = a;
    Neg "neg" (a) = -a;
    Abs "abs" (a) = a.abs();
    /// -1, 0 or 1.
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
    /// σ(a)·σ(−a), the gradient of σ. From its value, as y(1 − y), it would have no digits left where y is near 1.
    SigmoidGrad "sigmoid_grad" (a) = sigmoid(a) * sigmoid(-a);
    Relu "relu" (a) = if a <= T::zero() { T::zero() } else { a };
    Silu "silu" (a) = at_least(a, -FAR) * sigmoid(a);
    SiluGrad "silu_grad" (a) = product_grad(a, (-a.abs()).vexp(), T::one());
    /// ln(1 + eᵃ).
    Softplus "softplus" (a) = softplus(a);
    /// ln σ(a) = −ln(1 + e⁻ᵃ).
    LogSigmoid "log_sigmoid" (a) = -softplus(-a);
    /// a·Φ(a), Φ the normal distribution function (Hendrycks & Gimpel 2016, eq. 1).
    Gelu "gelu" (a) = at_least(a, -FAR) * a.normal().0;
    GeluGrad "gelu_grad" (a) = gelu_grad(a);
    /// The tanh approximation of gelu (Hendrycks & Gimpel 2016, section 2).
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
    /// a where a > 0, else b·a.
    LeakyRelu "leaky_relu" (a, b) = if a > T::zero() { a } else { b * a };
    /// a where a > 0, else b·(eᵃ − 1) (Clevert, Unterthiner & Hochreiter 2015, eq. 16).
    Elu "elu" (a, b) = if a > T::zero() { a } else { b * a.exp_m1() };
    /// −(b ln a + (1 − b) ln(1 − a)), each logarithm at least −100.
    Bce "bce" (a, b) = -(b * at_least(a.ln(), -100.0) + (T::one() - b) * at_least((-a).ln_1p(), -100.0));
    /// ln(1 + eᵃ) − ab, as a sum without a difference: the loss of a logit a for the target b.
    BceWithLogits "bce_with_logits" (a, b) = bce_with_logits(a, b);
    /// min(max(a, b), c); NaN where one of them is.
    Clamp "clamp" (a, b, c) = clamp(a, b, c);
    /// b where a ≠ 0, else c.
    Where "where" (a, b, c) = if a != T::zero() { b } else { c };
}

/// 1 / √(2π), the peak of the normal density.
const FRAC_1_SQRT_TAU: f64 = 0.398_942_280_401_432_7;
/// √(2/π) and the cubic coefficient of gelu's tanh approximation.
const GELU: (f64, f64) = (0.797_884_560_802_865_4, 0.044_715);

fn bool<T: Real>(b: bool) -> T {
    if b { T::one() } else { T::zero() }
}

/// NaN stays NaN.
fn at_least<T: Real>(a: T, low: f64) -> T {
    if a < T::of(low) { T::of(low) } else { a }
}

fn clamp<T: Real>(a: T, low: T, high: T) -> T {
    let a = if a < low || low.is_nan() { low } else { a };
    if a > high || high.is_nan() { high } else { a }
}

/// So far out every sigmoid is 0 or 1, in `f64` too. There a factor is cut off that would make a NaN of a 0.
const FAR: f64 = 1e4;

fn within<T: Real>(a: T) -> T {
    clamp(a, T::of(-FAR), T::of(FAR))
}

/// σ(u) and σ(−u) from e^−|u|, where u has the sign of `a`: each has all its digits, however small it is.
#[inline(always)]
fn logistic<T: Real>(a: T, e: T) -> (T, T) {
    let (large, small) = (T::one() / (T::one() + e), e / (T::one() + e));
    if a >= T::zero() { (large, small) } else { (small, large) }
}

/// By e^−|a|, which never overflows.
pub(in crate::ops) fn sigmoid<T: Real>(a: T) -> T {
    let e = (-a.abs()).vexp();
    (if a >= T::zero() { T::one() } else { e }) / (T::one() + e)
}

/// The gradient of a·σ(u), σ(u)(1 + a·u'·σ(−u)), from e^−|u| and u'.
#[inline(always)]
fn product_grad<T: Real>(a: T, e: T, du: T) -> T {
    let (p, q) = logistic(a, e);
    p * (T::one() + within(a) * du * q)
}

fn softplus<T: Real>(a: T) -> T {
    a.max(T::zero()) + (-a.abs()).vexp().ln_1p()
}

fn bce_with_logits<T: Real>(a: T, b: T) -> T {
    // What is lost on the wrong side; 0·∞ where nothing is on it.
    let wrong = if a > T::zero() { T::one() - b } else { b };
    (-a.abs()).vexp().ln_1p() + if wrong == T::zero() { wrong } else { a.abs() * wrong }
}

#[inline(always)]
fn gelu_grad<T: Real>(a: T) -> T {
    let (cdf, e) = a.normal();
    cdf + within(a) * e * T::of(FRAC_1_SQRT_TAU)
}

/// e^−|2u| for u = √(2/π)(a + k·a³), of which tanh u = 2σ(2u) − 1 is made.
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
    /// The gradient for each argument, from the arguments, the value `y` and the gradient `dy` of the value. Where
    /// `y` serves as well as the arguments it is used: then the arguments need not be kept until the backward pass.
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
            // |a|, because of the sign at −0.
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
            // Cut off where e^(−½a²) has long been 0: a² may be infinite.
            Fun::GeluGrad => {
                let square = a.clamp(-100.0, 100.0).square();
                one(dy * (2.0 - square) * (square * -0.5).exp() * FRAC_1_SQRT_TAU as f32)
            }
            Fun::GeluTanh => one(dy * a.call(Fun::GeluTanhGrad)),
            Fun::GeluTanhGrad => {
                // u = √(2/π)(a + k a³), t = tanh u: the second derivative of ½a(1 + t).
                let (s, k, a) = (GELU.0 as f32, GELU.1 as f32, a.clamp(-100.0, 100.0));
                let u = (a + a * a.square() * k) * s;
                let (du, sech2) = ((a.square() * (3.0 * k) + 1.0) * s, (u * 2.0).call(Fun::SigmoidGrad) * 4.0);
                one(dy * sech2 * (du + a * (a * (3.0 * k * s) - u.tanh() * du.square())))
            }
            Fun::Add => two(dy, dy),
            Fun::Sub => two(dy, -dy),
            Fun::Mul => two(dy * b, dy * a),
            Fun::Div => two(dy / b, -dy * y / b),
            // a⁰ is 1 and 0ᵇ is 0 whatever a and b > 0 are, and aᵇ = 0 does not grow: without these the products would be 0·∞.
            Fun::Pow => {
                let flat = a.eq(0.0) * b.ge(0.0) + a.gt(0.0) * y.eq(0.0);
                two(b.eq(0.0).where_(0.0, dy * b * a.pow(b - 1.0)), flat.where_(0.0, dy * y * a.ln()))
            }
            // A tie gives half to each, and NaN all to both, as PyTorch has it.
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
            // From eᵃ, of which y + b would keep few digits where a is far below 0. Above 0 it may be infinite, and is 1.
            Fun::Elu => {
                let below = a.le(0.0);
                let slope = below.where_(a, 0.0).exp();
                two(below.where_(dy * b * slope, dy), below.where_(dy * a.expm1(), 0.0))
            }
            // The slope stays finite at 0 and 1, as PyTorch's does. ln(1 − a) − ln a is that of their quotient near ½.
            Fun::Bce => {
                let logit = a.ln().maximum(-100.0) - (-a).log1p().maximum(-100.0);
                let near = (a - 0.5).abs().lt(0.2);
                let small = near.where_((a * 2.0 - 1.0) / (1.0 - a), 0.0).log1p();
                two(dy * (a - b) / (a * (1.0 - a)).maximum(1e-12), -dy * near.where_(small, logit))
            }
            // σ(a) − b, where neither that is near 0 nor that it is near 1 may cost digits.
            Fun::BceWithLogits => {
                let (near, far) = ((0.5 - b) + (a * 0.5).tanh() * 0.5, (1.0 - b) * a.sigmoid() - b * (-a).sigmoid());
                two(dy * a.abs().lt(1.0).where_(near, far), -dy * a)
            }
            // The gradient passes within the limits and at them, and nowhere where they are crossed.
            Fun::Clamp => {
                let (low, high) = (a.lt(b) * b.le(c), a.gt(c) + b.gt(c));
                [Some((a.ge(b) * a.le(c)).where_(dy, 0.0)), Some(low.where_(dy, 0.0)), Some(high.where_(dy, 0.0))]
            }
            Fun::Where => [None, Some(a.where_(dy, 0.0)), Some(a.where_(0.0, dy))],
        }
    }
}
