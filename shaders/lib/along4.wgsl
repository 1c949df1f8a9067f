// along4 — a kernel reads four neighbours along a line at once. V is the type of a load, R the type of a line's result. See lib/scalar.
//!include lib/map
//!include lib/vec4
alias R = f32;

fn larger_r(a: R, b: R) -> R { return larger(a, b); }
fn zero_r() -> R { return 0.0; }
fn finite_r(a: R) -> bool { return is_finite(a); }
fn alike(a: R, b: R) -> bool { return sign(a) == sign(b) && abs(a) * 0.5 <= abs(b) && abs(b) * 0.5 <= abs(a); }
fn first_v(v: V) -> R { return v.x; }
fn sum_v(v: V) -> R { return (v.x + v.y) + (v.z + v.w); }
fn max_v(v: V) -> R { return larger(larger(v.x, v.y), larger(v.z, v.w)); }
