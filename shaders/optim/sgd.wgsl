// sgd — w ← w − lr·b,  b ← μ·b + (1 − dampening)·g,  g ← g + λ·w         Sutskever et al. 2013
// Nesterov's direction g + μ·b and the plain one b are both `gradient·g + buffer·b`.

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[1];
    let mu = h[2];
    let damped = h[3];
    let gradient = h[4];
    let buffer = h[5];
    let g = grad + decay * w;
    let b = mu * (*s).momentum + damped * g;
    (*s).momentum = b;
    return gradient * g + buffer * b;
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return w - h[0] * u;
}
