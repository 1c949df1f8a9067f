// lion — w ← w·(1 − lr·λ) − lr·sign(β₁·m + (1 − β₁)·g),  m a running mean of g                            Chen et al. 2023

const LEAST: f32 = 1.1754943508222875e-38;

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let fresh1 = h[2];
    let fresh2 = h[3];
    let along = lerp((*s).mean, grad, fresh1);
    (*s).mean = lerp((*s).mean, grad, fresh2);
    // GPUs differ in their treatment of subnormal numbers.
    return select(sign(along), 0.0, abs(along) < LEAST);
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return h[1] * w - h[0] * u;
}
