// adadelta — w ← w − lr·d,  d = √(a + ε)/√(v + ε)·g,  v and a running means of g² and d²                       Zeiler 2012
// g ← g + λ·w first.

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[1];
    let fresh = h[2];
    let eps = h[3];
    let g = grad + decay * w;
    let v = lerp((*s).square, g * g, fresh);
    let d = sqrt((*s).change + eps) / sqrt(v + eps) * g;
    (*s).square = v;
    (*s).change = lerp((*s).change, d * d, fresh);
    return d;
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return w - h[0] * u;
}
