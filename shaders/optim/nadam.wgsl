// nadam — w ← w − lr·(now·g + next·m) / (√v/√(1 − β₂ᵗ) + ε),  m and v running means of g and g²
// g ← g + λ·w first, or w ← w·(1 − lr·λ). The other one's term is 1 or 0.                                Dozat 2016

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[0];
    let fresh1 = h[2];
    let fresh2 = h[3];
    let now = h[4];
    let next = h[5];
    let root = h[6];
    let eps = h[7];
    let g = grad + decay * w;
    let m = lerp((*s).mean, g, fresh1);
    let v = lerp((*s).square, g * g, fresh2);
    (*s).mean = m;
    (*s).square = v;
    return (now * g + next * m) / (sqrt(v) / root + eps);
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return h[1] * w - u;
}
