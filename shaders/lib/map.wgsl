// The elementwise functions: f_<name> is the twin of the line of that name in src/ops/map/fun.rs.
//
// exp, ln and functions made of them are computed here by range reduction and a short series instead of by the built-in
// functions. WGSL allows built-in functions errors of many units in the last place (and sin and cos 2^-11), and drivers differ.
// With these, every device gives the same answer to a few units in the last place. Elementwise kernels wait for
// memory, so the few extra operations cost next to nothing.
//!include lib/nan

// x · 2^n for -252 <= n <= 254, in two steps, since neither the scale nor the result need be a normal number.
fn scale(x: f32, n: i32) -> f32 {
    let half = n / 2;
    return x * bitcast<f32>(u32(half + 127) << 23u) * bitcast<f32>(u32(n - half + 127) << 23u);
}

// x = n ln 2 + r with |r| <= ln(2)/2 (ln 2 in two parts, the first of few bits, so that r is exact); e^r by Taylor to r^7/7!.
fn f_exp(x: f32) -> f32 { return exp_of(x, 0.0); }
// e^(x + y) for |y| <= 0.05: of an exponent of -50 the last digit is 50 last digits of the result.
fn exp_of(x: f32, y: f32) -> f32 {
    let c = clamp(x, -105.0, 89.0);
    let n = round(c * 1.44269504);
    let r = ((c - n * 0.693359375) + n * 2.12194440e-4) + y;
    let s = 1.0 + r * (1.0 + r * (0.5 + r * (0.166666667 + r * (0.0416666667 + r * (8.33333333e-3 + r * (1.38888889e-3 + r * 1.98412698e-4))))));
    return select(scale(s, i32(n)), x, is_nan(x));
}

// 2 atanh(s) for |s| <= 0.172: ln of (1 + s)/(1 - s).
fn twice_atanh(s: f32) -> f32 {
    let t = s * s;
    return 2.0 * s + 2.0 * s * t * (0.333333333 + t * (0.2 + t * (0.142857143 + t * 0.111111111)));
}

// Devices may drop the sign of 0 on the way, and it is the sign of an infinite quotient. FXC, a compiler of DX12, breaks down on | for x = -p.
fn with_sign(y: f32, x: f32) -> f32 {
    return bitcast<f32>((bitcast<u32>(y) & 0x7fffffffu) ^ (bitcast<u32>(x) & 0x80000000u));
}
// WGSL has no constants for these, and compilers may take it that x - x is 0.
fn not_a_number() -> f32 { return bitcast<f32>(0x7fc00000u | (p.units & 0u)); }
fn infinity() -> f32 { return bitcast<f32>(0x7f800000u | (p.units & 0u)); }

// NaN stays in these.
fn at_least(x: f32, low: f32) -> f32 { return select(x, low, x < low); }
fn within(x: f32, most: f32) -> f32 { return select(at_least(x, -most), most, x > most); }

// The first 12 bits: two such numbers have an exact product.
fn high_bits(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & 0xfffff000u); }
// a b = x + y, where y is the rounding error of x.
fn exact_product(a: f32, b: f32) -> vec2<f32> {
    let ah = high_bits(a);
    let bh = high_bits(b);
    let al = a - ah;
    let bl = b - bh;
    let x = a * b;
    return vec2<f32>(x, ((ah * bh - x) + ah * bl + al * bh) + al * bl);
}
// a + b = x + y exactly, for |a| >= |b| or a = 0. Without max compilers (Mesa's) take (a + b) - a for b.
fn exact_sum(a: f32, b: f32) -> vec2<f32> {
    let x = max(a + b, -3.40282347e38);
    return vec2<f32>(x, b - (x - a));
}

// x = 2^n m with m in [√½, √2], for positive x: m and n. A number below the smallest normal number is read as
// an integer, because a device may treat it as 0.
fn power_of_two(x: f32) -> vec2<f32> {
    let raw = bitcast<u32>(x);
    let small = raw < 0x800000u;
    let bits = select(bitcast<i32>(x), bitcast<i32>(f32(bitcast<i32>(x))), small);
    let n = (bits - 0x3f3504f3) >> 23u;
    return vec2<f32>(bitcast<f32>(bits - (n << 23u)), f32(n) - select(0.0, 149.0, small));
}

// ln m = 2 atanh((m - 1)/(m + 1)).
fn f_ln(x: f32) -> f32 {
    let m = power_of_two(x);
    let y = (twice_atanh((m.x - 1.0) / (m.x + 1.0)) - m.y * 2.12194440e-4) + m.y * 0.693359375;
    // ln(+inf) = inf, ln(0) = -inf, ln(negative) = NaN.
    let raw = bitcast<u32>(x);
    let special = select(select(not_a_number(), infinity(), raw == 0x7f800000u), -infinity(), (raw << 1u) == 0u);
    return select(special, y, raw > 0u && raw < 0x7f800000u);
}
// The same in two parts for a positive finite number, the first one of 12 bits.
fn ln_in_parts(x: f32) -> vec2<f32> {
    let m = power_of_two(x);
    let inverse = 1.0 / (m.x + 1.0);
    let rough = (m.x - 1.0) * inverse;
    // s + low = (m - 1)/(m + 1) for the exact sum, of which d are the first bits and the others.
    let s = high_bits(rough);
    let d = high_bits(m.x + 1.0);
    let low = (((m.x - 1.0) - s * d) - s * (m.x - (d - 1.0))) * inverse;
    let t = rough * rough;
    let tail = 2.0 * low + 2.0 * rough * t * (0.333333333 + t * (0.2 + t * (0.142857143 + t * 0.111111111)));
    let y = exact_sum(m.y * 0.693359375, 2.0 * s);
    let rest = (y.y + tail) - m.y * 2.12194440e-4;
    let first = high_bits(y.x + rest);
    return vec2<f32>(first, (y.x - first) + rest);
}

fn f_log1p(x: f32) -> f32 {
    return with_sign(select(f_ln(1.0 + x), twice_atanh(x / (2.0 + x)), x > -0.29 && x < 0.41), x);
}

// e^x - 1 for |x| <= 0.35, by Taylor.
fn expm1_near_0(x: f32) -> f32 {
    return x + x * x * (0.5 + x * (0.166666667 + x * (0.0416666667 + x * (8.33333333e-3 + x * (1.38888889e-3 + x * (1.98412698e-4 + x * 2.48015873e-5))))));
}
// Elsewhere nothing cancels.
fn f_expm1(x: f32) -> f32 {
    return with_sign(select(f_exp(x) - 1.0, expm1_near_0(x), abs(x) < 0.35), x);
}

// The high half of a b.
fn high_product(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u);
}
// 32 bits from bit `shift` on of two words.
fn shifted(a: u32, b: u32, shift: u32) -> u32 { return (a << shift) | ((b >> 1u) >> (31u - shift)); }

// k π/2 + r, with |r| <= π/4 and k up to multiples of 4.
struct Turn {
    r: f32,
    k: u32,
}
// Finite x >= 0 so. A software adapter does both halves for every element, whatever the condition: so there is no table, and no switch.
fn quarter_turns(x: f32) -> Turn {
    if x <= 6000.0 {
        // π/2 in four parts, of which the first three have 12 bits, as k has: their products are exact.
        let k = round(x * 0.636619772);
        return Turn((((x - k * 1.5703125) - k * 4.837513e-4) - k * 7.5495336e-8) - k * 2.563344e-12, u32(i32(k)));
    }
    // Payne and Hanek's way (1983): of x/(2π) = m 2^e / (2π) only the 64 bits behind the point are computed, the last two of them roughly.
    let raw = bitcast<u32>(x);
    let m = (raw << 8u) | 0x80000000u;
    let e = (raw >> 23u) - 126u;
    // The words of 1/(2π) from the one before bit e on, of these: 0, 28be60db, 9391054a, 7f09d5f4, 7d4d3770, 36d8a566, 4f10e410, 7f9458ea;
    // the number of words to leave out has three bits.
    let four = (e & 128u) != 0u;
    let two = (e & 64u) != 0u;
    let one = (e & 32u) != 0u;
    let a = vec4<u32>(select(0u, 0x7d4d3770u, four), select(0x28be60dbu, 0x36d8a566u, four), select(0x9391054au, 0x4f10e410u, four), select(0x7f09d5f4u, 0x7f9458eau, four));
    let b = select(a, vec4<u32>(a.zw, 0x7d4d3770u, 0x36d8a566u), two);
    let w = select(b, vec4<u32>(b.yzw, select(0x7d4d3770u, 0x4f10e410u, two)), one);
    let shift = e & 31u;
    let middle = shifted(w.y, w.z, shift);
    let last = shifted(w.z, w.w, shift);
    let below = (m >> 16u) * (last >> 16u) + (((m >> 16u) * (last & 0xffffu)) >> 16u) + (((m & 0xffffu) * (last >> 16u)) >> 16u);
    let low = m * middle + below;
    let high = m * shifted(w.x, w.y, shift) + high_product(m, middle) + u32(low < below);
    // The number of quarters, and the rest from -1/2 to 1/2 of a quarter. The size of the rest is exact to the last of the 64 bits.
    let rest = (high << 2u) | (low >> 30u);
    let minus = bitcast<u32>(bitcast<i32>(rest) >> 31u);
    let r = f32(i32(rest ^ minus)) * 4294967296.0 + f32(i32(((low << 2u) ^ minus) >> 1u)) * 2.0;
    return Turn(bitcast<f32>(bitcast<u32>(r * 8.51530395e-20) | (minus & 0x80000000u)), (high >> 30u) - minus);
}
// The sine of |x| + shift π/2; sin r and cos r by Taylor.
fn sine(x: f32, shift: u32) -> f32 {
    let turn = quarter_turns(abs(x));
    let r = turn.r;
    let t = r * r;
    let s = r + r * t * (-0.166666667 + t * (8.33333333e-3 + t * (-1.98412698e-4 + t * 2.75573192e-6)));
    let c = 1.0 + t * (-0.5 + t * (0.0416666667 + t * (-1.38888889e-3 + t * (2.48015873e-5 - t * 2.75573192e-7))));
    let q = turn.k + shift;
    let y = select(s, c, (q & 1u) == 1u);
    let finite = (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
    return select(not_a_number(), select(y, -y, (q & 2u) != 0u), finite);
}
fn f_sin(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(sine(x, 0u)) ^ (bitcast<u32>(x) & 0x80000000u)); }
fn f_cos(x: f32) -> f32 { return sine(x, 1u); }

fn f_identity(x: f32) -> f32 { return x; }
fn f_detach(x: f32) -> f32 { return x; }
fn f_neg(x: f32) -> f32 { return -x; }
fn f_abs(x: f32) -> f32 { return abs(x); }
fn f_sign(x: f32) -> f32 { return select(select(x, -1.0, x < 0.0), 1.0, x > 0.0); }
fn f_sqrt(x: f32) -> f32 { return with_sign(sqrt(x), x); }
fn f_rsqrt(x: f32) -> f32 { return with_sign(1.0 / sqrt(x), x); }
fn f_square(x: f32) -> f32 { return x * x; }
fn f_reciprocal(x: f32) -> f32 { return with_sign(1.0 / x, x); }

// By e^-|x|, which never overflows.
fn f_sigmoid(x: f32) -> f32 {
    let e = f_exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}
// σ(u) and σ(-u) from e^-|u|, where u has the sign of x.
fn logistic(x: f32, e: f32) -> vec2<f32> {
    let large = 1.0 / (1.0 + e);
    return select(vec2<f32>(e * large, large), vec2<f32>(large, e * large), x >= 0.0);
}
fn f_sigmoid_grad(x: f32) -> f32 {
    let e = f_exp(-abs(x));
    return e / ((1.0 + e) * (1.0 + e));
}
// tanh |x| = -q / (q + 2) with q = e^(-2|x|) - 1, which keeps its precision near 0.
fn f_tanh(x: f32) -> f32 {
    let q = f_expm1(-2.0 * abs(x));
    return with_sign(-q / (q + 2.0), x);
}
fn f_relu(x: f32) -> f32 { return select(x, 0.0, x <= 0.0); }
// If σ is 0, the factor is bounded. Otherwise −infinity · 0 would be NaN.
fn f_silu(x: f32) -> f32 { return at_least(x, -200.0) * f_sigmoid(x); }
// The gradient of x σ(u) from e^-|u| and u'.
fn product_grad(x: f32, e: f32, du: f32) -> f32 {
    let s = logistic(x, e);
    return s.x * (1.0 + within(x, 200.0) * du * s.y);
}
fn f_silu_grad(x: f32) -> f32 { return product_grad(x, f_exp(-abs(x)), 1.0); }
fn f_softplus(x: f32) -> f32 { return max(x, 0.0) + f_log1p(f_exp(-abs(x))); }
fn f_log_sigmoid(x: f32) -> f32 { return -f_softplus(-x); }

// Φ(x) and e^(-x²/2). Φ(-x) 2 e^(x²/2) is t times a polynomial of t = 1/(1 + x/√8): a least-squares fit, relative error below 6e-8.
fn normal(x: f32) -> vec2<f32> {
    let a = within(x, 20.0);
    let t = 1.0 / (1.0 + 0.353553391 * abs(a));
    let q = 0.28208768 + t * (0.28235337 + t * (0.24326195 + t * (0.20206591 + t * (-0.025167814 + t * (0.27596289 + t * (-0.48536947 + t * (0.28369462 - t * 0.058889173)))))));
    let square = exact_product(a, a);
    let e = exp_of(-0.5 * square.x, -0.5 * square.y);
    let tail = 0.5 * t * q * e;
    return vec2<f32>(select(tail, 1.0 - tail, a > 0.0), e);
}
fn f_gelu(x: f32) -> f32 { return at_least(x, -20.0) * normal(x).x; }
fn f_gelu_grad(x: f32) -> f32 {
    let n = normal(x);
    return n.x + within(x, 20.0) * 0.398942280 * n.y;
}
// e^-|2u| for u = √(2/π)(x + 0.044715 x³), with ½(1 + tanh u) = σ(2u); 2u as x (c + d x²), each with the digits behind its last.
fn gelu_exp(x: f32) -> f32 {
    let a = within(abs(x), 20.0);
    let square = exact_product(a, a);
    let cubic = exact_product(0.071354814, square.x);
    let low = cubic.y + 0.071354814 * square.y + 2.3988325e-9 * square.x;
    let c = 1.5957692;
    let f = exact_sum(max(c, cubic.x), min(c, cubic.x));
    let u = exact_product(a, f.x);
    return exp_of(-u.x, -(u.y + a * (f.y + (low - 4.534068e-8))));
}
fn f_gelu_tanh(x: f32) -> f32 { return at_least(x, -20.0) * logistic(x, gelu_exp(x)).x; }
fn f_gelu_tanh_grad(x: f32) -> f32 {
    let a = within(x, 20.0);
    return product_grad(a, gelu_exp(x), 1.5957692 * (1.0 + 0.134145 * a * a));
}

fn f_add(a: f32, b: f32) -> f32 { return a + b; }
fn f_sub(a: f32, b: f32) -> f32 { return a - b; }
fn f_mul(a: f32, b: f32) -> f32 { return a * b; }
fn f_div(a: f32, b: f32) -> f32 { return a / b; }
// a^b = ±e^(b ln|a|), negative for a < 0 (and -0) and odd b; NaN for finite a < 0 and b not whole. 1 where b is 0 or |a| is 1,
// even beside infinity, and of a = 1 beside NaN.
fn f_pow(a: f32, b: f32) -> f32 {
    let base = abs(a);
    let l = ln_in_parts(base);
    let h = b * l.x;
    let b_high = high_bits(b);
    let rest = ((b_high * l.x - h) + (b - b_high) * l.x) + b * l.y;
    // Beyond the range of e^h there is nothing to correct, and infinities would make a NaN.
    let power = exp_of(h, select(0.0, rest, abs(h) < 200.0));
    let large = bitcast<u32>(base) == 0x7f800000u;
    let end = select(select(infinity(), 0.0, large != (b > 0.0)), power, base > 0.0 && !large);
    let y = select(end, 1.0, base == 1.0);
    let whole = floor(b) == b;
    let odd = whole && abs(b) < 16777216.0 && (i32(b) & 1) != 0;
    let signed = select(y, with_sign(y, a), odd);
    let real = !is_nan(b) && (a >= 0.0 || whole || large);
    let known = select(not_a_number(), signed, real && !is_nan(a));
    return select(known, 1.0, b == 0.0 || a == 1.0);
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
fn f_bce(p: f32, y: f32) -> f32 { return -(y * at_least(f_ln(p), -100.0) + (1.0 - y) * at_least(f_log1p(-p), -100.0)); }
// The second term is the loss on the wrong side. It would be 0·∞ if the target has no share there.
fn f_bce_with_logits(a: f32, b: f32) -> f32 {
    let wrong = select(b, 1.0 - b, a > 0.0);
    return f_log1p(f_exp(-abs(a))) + select(abs(a) * wrong, 0.0, wrong == 0.0);
}
fn f_clamp(a: f32, b: f32, c: f32) -> f32 {
    let low = select(a, b, a < b || is_nan(b));
    return select(low, c, low > c || is_nan(c));
}
fn f_where(a: f32, b: f32, c: f32) -> f32 { return select(b, c, a == 0.0); }
