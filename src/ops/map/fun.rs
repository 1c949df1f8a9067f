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
            /// `y[i] = f(a[i], b[i], c[i])`; arguments beyond the arity are ignored. All slices are as long as `y`.
            pub fn eval<T: Real>(self, y: &mut [T], a: &[T], b: &[T], c: &[T]) {
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
    Relu "relu" (a) = if a <= T::zero() { T::zero() } else { a };
    Silu "silu" (a) = a * sigmoid(a);
    /// ln(1 + eᵃ).
    Softplus "softplus" (a) = softplus(a);
    /// ln σ(a) = −ln(1 + e⁻ᵃ).
    LogSigmoid "log_sigmoid" (a) = -softplus(-a);
    /// a·Φ(a), Φ the normal distribution function (Hendrycks & Gimpel 2016, eq. 1).
    Gelu "gelu" (a) = a * normal_cdf(a);
    GeluGrad "gelu_grad" (a) = normal_cdf(a) + a * (-a * a * T::of(0.5)).vexp() * T::of(FRAC_1_SQRT_TAU);
    /// The tanh approximation of gelu (Hendrycks & Gimpel 2016, section 2).
    GeluTanh "gelu_tanh" (a) = T::of(0.5) * a * (T::one() + gelu_inner(a).vtanh());
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
    Clamp "clamp" (a, b, c) = if a < b { b } else if a > c { c } else { a };
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

/// By e^−|a|, which never overflows.
pub(in crate::ops) fn sigmoid<T: Real>(a: T) -> T {
    let e = (-a.abs()).vexp();
    (if a >= T::zero() { T::one() } else { e }) / (T::one() + e)
}

fn softplus<T: Real>(a: T) -> T {
    a.max(T::zero()) + (-a.abs()).vexp().ln_1p()
}

fn normal_cdf<T: Real>(a: T) -> T {
    let half = T::of(0.5);
    // erfc keeps its relative precision in the left tail, 1 + erf would not.
    half * (-a * T::of(std::f64::consts::FRAC_1_SQRT_2)).erfc()
}

fn gelu_inner<T: Real>(a: T) -> T {
    T::of(GELU.0) * (a + T::of(GELU.1) * a * a * a)
}

fn gelu_tanh_grad<T: Real>(a: T) -> T {
    let (one, half, t) = (T::one(), T::of(0.5), gelu_inner(a).vtanh());
    half * (one + t) + half * a * (one - t * t) * T::of(GELU.0) * (one + T::of(3.0 * GELU.1) * a * a)
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
            Fun::Abs => one(dy * a.sign()),
            Fun::Exp => one(dy * y),
            Fun::Expm1 => one(dy * (y + 1.0)),
            Fun::Ln => one(dy / a),
            Fun::Log1p => one(dy / (a + 1.0)),
            Fun::Sqrt => one(dy * 0.5 / y),
            Fun::Rsqrt => one(dy * -0.5 * y / a),
            Fun::Square => one(dy * 2.0 * a),
            Fun::Reciprocal => one(-dy * y.square()),
            Fun::Sin => one(dy * a.cos()),
            Fun::Cos => one(-dy * a.sin()),
            Fun::Tanh => one(dy * (1.0 - y.square())),
            Fun::Sigmoid => one(dy * y * (1.0 - y)),
            Fun::Relu => one(y.gt(0.0).where_(dy, 0.0)),
            Fun::Silu => one(dy * (a.sigmoid() + y * (1.0 - a.sigmoid()))),
            Fun::Softplus => one(dy * a.sigmoid()),
            Fun::LogSigmoid => one(dy * (-a).sigmoid()),
            Fun::Gelu => one(dy * a.call(Fun::GeluGrad)),
            Fun::GeluGrad => one(dy * (2.0 - a.square()) * (a.square() * -0.5).exp() * FRAC_1_SQRT_TAU as f32),
            Fun::GeluTanh => one(dy * a.call(Fun::GeluTanhGrad)),
            Fun::GeluTanhGrad => {
                // u = √(2/π)(a + k a³), t = tanh u: the second derivative of ½a(1 + t).
                let (s, k) = (GELU.0 as f32, GELU.1 as f32);
                let t = ((a + a * a.square() * k) * s).tanh();
                let (du, sech2) = ((a.square() * (3.0 * k) + 1.0) * s, 1.0 - t.square());
                one(dy * sech2 * (du + a * (a * (3.0 * k * s) - t * du.square())))
            }
            Fun::Add => two(dy, dy),
            Fun::Sub => two(dy, -dy),
            Fun::Mul => two(dy * b, dy * a),
            Fun::Div => two(dy / b, -dy * y / b),
            // a⁰ is 1 and 0ᵇ is 0 whatever a and b > 0 are: without these the products would be 0·∞. As PyTorch has it.
            Fun::Pow => {
                let flat = a.eq(0.0) * b.ge(0.0);
                two(b.eq(0.0).where_(0.0, dy * b * a.pow(b - 1.0)), flat.where_(0.0, dy * y * a.ln()))
            }
            // A tie gives half to each, as PyTorch has it.
            Fun::Maximum => two(dy * (a.gt(b) + a.eq(b) * 0.5), dy * (b.gt(a) + a.eq(b) * 0.5)),
            Fun::Minimum => two(dy * (a.lt(b) + a.eq(b) * 0.5), dy * (b.lt(a) + a.eq(b) * 0.5)),
            Fun::Detach | Fun::Sign | Fun::Eq | Fun::Ne | Fun::Lt | Fun::Le | Fun::Gt | Fun::Ge => [None; 3],
            Fun::LeakyRelu => two(a.gt(0.0).where_(dy, dy * b), a.gt(0.0).where_(0.0, dy * a)),
            Fun::Elu => two(a.gt(0.0).where_(dy, dy * (y + b)), a.gt(0.0).where_(0.0, dy * a.expm1())),
            // The slope stays finite at 0 and 1, as PyTorch's does.
            Fun::Bce => two(
                dy * (a - b) / (a * (1.0 - a)).maximum(1e-12),
                dy * ((-a).log1p().maximum(-100.0) - a.ln().maximum(-100.0)),
            ),
            Fun::Clamp => {
                let (low, high) = (a.lt(b), a.gt(c));
                [Some((low + high).where_(0.0, dy)), Some(low.where_(dy, 0.0)), Some(high.where_(dy, 0.0))]
            }
            Fun::Where => [None, Some(a.where_(dy, 0.0)), Some(a.where_(0.0, dy))],
        }
    }
}
