// vec4 — code that lib/along4 and lib/across4 share.
alias V = vec4<f32>;
alias VU = vec4<u32>;
const WIDE = 4u;

fn zero_v() -> V { return vec4<f32>(0.0); }
fn larger_v(a: V, b: V) -> V {
    let nan_a = (bitcast<VU>(a) & VU(0x7fffffffu)) > VU(0x7f800000u);
    return select(b, a, (a >= b) | nan_a);
}
fn exp_v(v: V) -> V { return V(f_exp(v.x), f_exp(v.y), f_exp(v.z), f_exp(v.w)); }
fn expm1_near_0_v(v: V) -> V { return V(expm1_near_0(v.x), expm1_near_0(v.y), expm1_near_0(v.z), expm1_near_0(v.w)); }
// The numbers of the elements of V number i.
fn numbers(i: u32) -> VU { return VU(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u); }
// The number of v that is number i of a line.
fn pick_v(v: V, i: u32) -> f32 { return v[i % 4u]; }
