// across4 — four neighbouring lines at once: V is what a kernel loads, R what it has for each four lines. See lib/scalar.
//!include lib/map
//!include lib/vec4
alias R = vec4<f32>;

fn larger_r(a: R, b: R) -> R { return larger_v(a, b); }
fn sum_v(v: V) -> R { return v; }
fn max_v(v: V) -> R { return v; }
