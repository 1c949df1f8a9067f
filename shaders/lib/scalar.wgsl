// scalar — a kernel along an axis reads one element at a time. V is the type of a load, and R the type of the result of a line.
// lib/along4 and lib/across4 have the same names for four elements at once.
//!include lib/map
alias V = f32;
alias VU = u32;
alias R = f32;
const WIDE = 1u;

fn larger_v(a: V, b: V) -> V { return larger(a, b); }
fn larger_r(a: R, b: R) -> R { return larger(a, b); }
fn zero_v() -> V { return 0.0; }
fn zero_r() -> R { return 0.0; }
fn finite_r(a: R) -> bool { return is_finite(a); }
fn sum_v(v: V) -> R { return v; }
fn alike(a: R, b: R) -> bool { return sign(a) == sign(b) && abs(a) * 0.5 <= abs(b) && abs(b) * 0.5 <= abs(a); }
fn first_v(v: V) -> R { return v; }
fn max_v(v: V) -> R { return v; }
fn exp_v(v: V) -> V { return f_exp(v); }
// e^v - 1, accurate for small v.
fn expm1_near_0_v(v: V) -> V { return expm1_near_0(v); }
// The indices of the elements in the i-th V.
fn numbers(i: u32) -> VU { return i; }
// The element of v that belongs to index i of a line.
fn pick_v(v: V, i: u32) -> f32 { return v; }
