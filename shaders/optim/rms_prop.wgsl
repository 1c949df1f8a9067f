// rms_prop — w ← w − lr·b,  b ← μ·b + g / (√(v − a²) + ε),  v and a running means of g² and g
// g ← g + λ·w first; a counts where `centered` is 1.                     Hinton 2012, Graves 2013

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[1];
    let alpha = h[2];
    let fresh = h[3];
    let centered = h[4];
    let eps = h[5];
    let mu = h[6];
    let g = grad + decay * w;
    let v = alpha * (*s).square + fresh * g * g;
    let a = lerp((*s).mean, g, fresh);
    // Rounding can make the variance negative.
    let b = mu * (*s).momentum + g / (sqrt(max(v - centered * (a * a), 0.0)) + eps);
    (*s).square = v;
    (*s).mean = a;
    (*s).momentum = b;
    return b;
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return w - h[0] * u;
}
