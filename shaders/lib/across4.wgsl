// across4 — a kernel reads four neighbouring lines at once. V is the type of a load, R of the results of four lines. See lib/scalar.
//!include lib/map
//!include lib/vec4
alias R = vec4<f32>;

fn larger_r(a: R, b: R) -> R { return larger_v(a, b); }
fn zero_r() -> R { return vec4<f32>(0.0); }
fn finite_r(a: R) -> vec4<bool> { return (bitcast<VU>(a) & VU(0x7f800000u)) != VU(0x7f800000u); }
fn alike(a: R, b: R) -> vec4<bool> { return (sign(a) == sign(b)) & (abs(a) * 0.5 <= abs(b)) & (abs(b) * 0.5 <= abs(a)); }
fn first_v(v: V) -> R { return v; }
fn sum_v(v: V) -> R { return v; }
fn max_v(v: V) -> R { return v; }
