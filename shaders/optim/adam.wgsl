// adam — w ← w − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε),  m and v running means of g and g²
// Adam: g ← g + λ·w first. AdamW: w ← w·(1 − lr·λ) first. The other one's term is 0 and 1.
//                                          Kingma and Ba 2014, Loshchilov and Hutter 2017, Reddi et al. 2018

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[0];
    let fresh1 = h[2];
    let beta2 = h[3];
    let fresh2 = h[4];
    let step_size = h[5];
    let root = h[6];
    let eps = h[7];
    let g = grad + decay * w;
    let m = lerp((*s).mean, g, fresh1);
    let v = beta2 * (*s).square + fresh2 * g * g;
    // Without AMSGrad this is v: a state that is not kept reads as 0.
    let largest = max((*s).largest, v);
    (*s).mean = m;
    (*s).square = v;
    (*s).largest = largest;
    return step_size * m / (sqrt(largest) / root + eps);
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return h[1] * w - u;
}
