// adagrad — w ← w − lr·g / (√v + ε),  v ← v + g²,  g ← g + λ·w           Duchi, Hazan and Singer 2011

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let lr = h[0];
    let decay = h[1];
    let eps = h[2];
    let g = grad + decay * w;
    let v = (*s).sum + g * g;
    (*s).sum = v;
    return lr * g / (sqrt(v) + eps);
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return w - u;
}
