// is_nan — by the bits: `x != x` is false for NaN where naga writes SPIR-V (an ordered comparison), and a compiler may take
// it that x == x always holds. NaN has to pass through every op, or the guard would not see that a step diverged.
fn is_nan(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// Neither NaN nor infinite.
fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// The larger of a and b; NaN where one of them is. The built-in max may return the other one.
fn larger(a: f32, b: f32) -> f32 { return select(b, a, a >= b || is_nan(a)); }
