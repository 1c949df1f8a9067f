// lars — w ← w − lr·b,  b ← μ·b + (1 − dampening)·u,  u = r·(g + λ·w),  r = η·‖w‖/(‖g‖ + λ·‖w‖ + ε) of each parameter
// `nesterov` is 1 for Nesterov's step u + μ·b and 0 for the plain step b.                     You, Gitman and Ginsburg 2017

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return grad + h[1] * w;
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let mu = h[2];
    let damped = h[3];
    let nesterov = h[4];
    let b = mu * (*s).momentum + damped * u;
    (*s).momentum = b;
    return w - h[0] * (nesterov * (u + mu * b) + (1.0 - nesterov) * b);
}

fn ratio(norms: Norms, h: array<f32, 8>) -> f32 {
    let decay = h[1];
    let coeff = h[5];
    let eps = h[6];
    // The largest ratio, or 0 if the parameter does not adapt.
    let most = h[7];
    if (most == 0.0 || norms.weight == 0.0 || norms.gradient == 0.0) {
        return 1.0;
    }
    return min(coeff * norms.weight / (norms.gradient + decay * norms.weight + eps), most);
}
