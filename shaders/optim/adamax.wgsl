// adamax — w ← w − lr/(1 − β₁ᵗ) · m / v,  v ← max(β₂·v, |g| + ε),  m a running mean of g,  g ← g + λ·w      Kingma and Ba 2014

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[0];
    let fresh1 = h[1];
    let beta2 = h[2];
    let step_size = h[3];
    let eps = h[4];
    let g = grad + decay * w;
    let m = lerp((*s).mean, g, fresh1);
    let v = max(beta2 * (*s).largest, abs(g) + eps);
    (*s).mean = m;
    (*s).largest = v;
    return step_size * m / v;
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return w - u;
}
