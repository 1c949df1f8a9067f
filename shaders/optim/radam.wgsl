// radam — w ← w − lr/(1 − β₁ᵗ)·r·m / (adaptive·√v + ε),  m and v running means of g and g²
// In the first steps `adaptive` is 0, and 1 stands in for r and ε.
// g ← g + λ·w first, or w ← w·(1 − lr·λ). The other one's term is 1 or 0.                             Liu et al. 2019

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[0];
    let fresh1 = h[2];
    let fresh2 = h[3];
    let step_size = h[4];
    let adaptive = h[5];
    let constant = h[6];
    let g = grad + decay * w;
    let m = lerp((*s).mean, g, fresh1);
    let v = lerp((*s).square, g * g, fresh2);
    (*s).mean = m;
    (*s).square = v;
    return step_size * m / (adaptive * sqrt(v) + constant);
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return h[1] * w - u;
}
