// The elementwise functions: f_<name> is the twin of the line of that name in src/ops/map/fun.rs.
//
// exp, ln and what is made of them are computed here by range reduction and a short series instead of by the built-in
// functions: WGSL lets those be wrong by many units in the last place (and sin and cos by 2^-11), and drivers differ.
// With these, every device gives the same answer to a few units in the last place. Elementwise kernels wait for
// memory, so the few extra operations cost next to nothing.
//!include lib/nan

// x · 2^n for -252 <= n <= 254, in two steps, since neither the scale nor the result need be a normal number.
fn scale(x: f32, n: i32) -> f32 {
    let half = n / 2;
    return x * bitcast<f32>(u32(half + 127) << 23u) * bitcast<f32>(u32(n - half + 127) << 23u);
}

// x = n ln 2 + r with |r| <= ln(2)/2 (ln 2 in two parts, the first of few bits, so that r is exact); e^r by Taylor to r^7/7!.
fn f_exp(x: f32) -> f32 {
    let c = clamp(x, -105.0, 89.0);
    let n = round(c * 1.44269504);
    let r = (c - n * 0.693359375) + n * 2.12194440e-4;
    let s = 1.0 + r * (1.0 + r * (0.5 + r * (0.166666667 + r * (0.0416666667 + r * (8.33333333e-3 + r * (1.38888889e-3 + r * 1.98412698e-4))))));
    let y = scale(s, i32(n));
    return select(y, x, is_nan(x));
}

// 2 atanh(s) for |s| <= 0.172: ln of (1 + s)/(1 - s).
fn twice_atanh(s: f32) -> f32 {
    let t = s * s;
    return 2.0 * s + 2.0 * s * t * (0.333333333 + t * (0.2 + t * (0.142857143 + t * 0.111111111)));
}

// x = 2^n m with m in [√½, √2]; ln m = 2 atanh((m - 1)/(m + 1)).
fn f_ln(x: f32) -> f32 {
    let small = x < 1.17549435e-38;
    let bits = bitcast<i32>(select(x, x * 8388608.0, small));
    let n = (bits - 0x3f3504f3) >> 23u;
    let m = bitcast<f32>(bits - (n << 23u));
    let e = f32(n) - select(0.0, 23.0, small);
    let y = (twice_atanh((m - 1.0) / (m + 1.0)) - e * 2.12194440e-4) + e * 0.693359375;
    let inf = bitcast<f32>(0x7f800000u | (p.units & 0u));
    // x - x is 0, or NaN for infinities and NaN: ln(+inf) = inf, ln(0) = -inf, ln(negative) = NaN.
    let special = select(select((x - x) / (x - x), -inf, x == 0.0), inf, x == inf);
    return select(special, y, x > 0.0 && x < inf);
}

fn f_log1p(x: f32) -> f32 {
    return select(f_ln(1.0 + x), twice_atanh(x / (2.0 + x)), x > -0.29 && x < 0.41);
}

// Taylor near 0, where e^x - 1 cancels.
fn f_expm1(x: f32) -> f32 {
    let s = x + x * x * (0.5 + x * (0.166666667 + x * (0.0416666667 + x * (8.33333333e-3 + x * (1.38888889e-3 + x * (1.98412698e-4 + x * 2.48015873e-5))))));
    return select(f_exp(x) - 1.0, s, abs(x) < 0.35);
}

// x = k π/2 + r with |r| <= π/4, π/2 in three parts; sin r and cos r by Taylor. Meant for |x| up to about 10^4.
fn sin_quadrant(x: f32, shift: i32) -> f32 {
    let k = round(x * 0.636619772);
    let r = ((x - k * 1.5703125) - k * 4.83751297e-4) - k * 7.54978942e-8;
    let t = r * r;
    let s = r + r * t * (-0.166666667 + t * (8.33333333e-3 + t * (-1.98412698e-4 + t * 2.75573192e-6)));
    let c = 1.0 + t * (-0.5 + t * (0.0416666667 + t * (-1.38888889e-3 + t * (2.48015873e-5 - t * 2.75573192e-7))));
    let q = (i32(k) + shift) & 3;
    let y = select(s, c, (q & 1) == 1);
    return select(y, -y, q >= 2);
}
fn f_sin(x: f32) -> f32 { return sin_quadrant(x, 0); }
fn f_cos(x: f32) -> f32 { return sin_quadrant(x, 1); }

fn f_identity(x: f32) -> f32 { return x; }
fn f_detach(x: f32) -> f32 { return x; }
fn f_neg(x: f32) -> f32 { return -x; }
fn f_abs(x: f32) -> f32 { return abs(x); }
fn f_sign(x: f32) -> f32 { return select(select(x, -1.0, x < 0.0), 1.0, x > 0.0); }
fn f_sqrt(x: f32) -> f32 { return sqrt(x); }
fn f_rsqrt(x: f32) -> f32 { return 1.0 / sqrt(x); }
fn f_square(x: f32) -> f32 { return x * x; }
fn f_reciprocal(x: f32) -> f32 { return 1.0 / x; }

// By e^-|x|, which never overflows.
fn f_sigmoid(x: f32) -> f32 {
    let e = f_exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
// tanh |x| = -q / (q + 2) with q = e^(-2|x|) - 1, which keeps its precision near 0.
fn f_tanh(x: f32) -> f32 {
    let q = f_expm1(-2.0 * abs(x));
    let y = -q / (q + 2.0);
    return select(y, -y, x < 0.0);
}
fn f_relu(x: f32) -> f32 { return select(x, 0.0, x <= 0.0); }
fn f_silu(x: f32) -> f32 { return x * f_sigmoid(x); }
fn f_softplus(x: f32) -> f32 { return max(x, 0.0) + f_log1p(f_exp(-abs(x))); }
fn f_log_sigmoid(x: f32) -> f32 { return -f_softplus(-x); }

// e^(z²) erfc(z) / t as a polynomial in t = 1/(1 + z/2) for z >= 0: a least-squares fit, relative error below 6e-8.
fn erfc(x: f32) -> f32 {
    let z = abs(x);
    let t = 1.0 / (1.0 + 0.5 * z);
    let q = 0.28208768 + t * (0.28235337 + t * (0.24326195 + t * (0.20206591 + t * (-0.025167814 + t * (0.27596289 + t * (-0.48536947 + t * (0.28369462 - t * 0.058889173)))))));
    let y = t * q * f_exp(-z * z);
    return select(y, 2.0 - y, x < 0.0);
}
fn normal_cdf(x: f32) -> f32 { return 0.5 * erfc(x * -0.707106781); }
fn f_gelu(x: f32) -> f32 { return x * normal_cdf(x); }
fn f_gelu_grad(x: f32) -> f32 { return normal_cdf(x) + x * 0.398942280 * f_exp(-0.5 * x * x); }
// ½(1 + tanh u) = σ(2u).
fn gelu_inner(x: f32) -> f32 { return 0.797884561 * (x + 0.044715 * x * x * x); }
fn f_gelu_tanh(x: f32) -> f32 { return x * f_sigmoid(2.0 * gelu_inner(x)); }
fn f_gelu_tanh_grad(x: f32) -> f32 {
    let s = f_sigmoid(2.0 * gelu_inner(x));
    return s + x * 2.0 * s * (1.0 - s) * 0.797884561 * (1.0 + 0.134145 * x * x);
}

fn f_add(a: f32, b: f32) -> f32 { return a + b; }
fn f_sub(a: f32, b: f32) -> f32 { return a - b; }
fn f_mul(a: f32, b: f32) -> f32 { return a * b; }
fn f_div(a: f32, b: f32) -> f32 { return a / b; }
// a^b = ±e^(b ln|a|), negative for a < 0 and odd b; NaN for finite a < 0 and b not whole. 1 where b is 0 or |a| is 1,
// even beside infinity, and of a = 1 beside NaN.
fn f_pow(a: f32, b: f32) -> f32 {
    // b ln|a| in two parts: its rounding error would be multiplied by the result.
    let l = f_ln(abs(a));
    let h = b * l;
    // Beyond the range of e^h there is nothing to correct, and infinities would make a NaN.
    let power = f_exp(h) * (1.0 + select(0.0, fma(b, l, -h), abs(h) < 200.0));
    let y = select(power, 1.0, abs(a) == 1.0);
    let whole = floor(b) == b;
    let odd = whole && abs(b) < 16777216.0 && (i32(b) & 1) != 0;
    let negative = select(select((a - a) / (a - a), y, whole || a < -3.40282347e38), -y, odd);
    let positive = select(y, select(0.0, 1.0 / abs(a), b < 0.0), a == 0.0 && !is_nan(b));
    return select(select(positive, negative, a < 0.0), 1.0, b == 0.0);
}
fn f_maximum(a: f32, b: f32) -> f32 { return select(b, a, a > b || is_nan(a)); }
fn f_minimum(a: f32, b: f32) -> f32 { return select(b, a, a < b || is_nan(a)); }
fn f_eq(a: f32, b: f32) -> f32 { return f32(a == b); }
fn f_ne(a: f32, b: f32) -> f32 { return f32(!(a == b)); }
fn f_lt(a: f32, b: f32) -> f32 { return f32(a < b); }
fn f_le(a: f32, b: f32) -> f32 { return f32(a <= b); }
fn f_gt(a: f32, b: f32) -> f32 { return f32(a > b); }
fn f_ge(a: f32, b: f32) -> f32 { return f32(a >= b); }
fn f_leaky_relu(a: f32, b: f32) -> f32 { return select(b * a, a, a > 0.0); }
fn f_elu(a: f32, b: f32) -> f32 { return select(b * f_expm1(a), a, a > 0.0); }
fn at_least(x: f32, low: f32) -> f32 { return select(x, low, x < low); }
fn f_bce(p: f32, y: f32) -> f32 { return -(y * at_least(f_ln(p), -100.0) + (1.0 - y) * at_least(f_log1p(-p), -100.0)); }
fn f_clamp(a: f32, b: f32, c: f32) -> f32 { return select(select(a, c, a > c), b, a < b); }
fn f_where(a: f32, b: f32, c: f32) -> f32 { return select(b, c, a == 0.0); }
