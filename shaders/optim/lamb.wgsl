// lamb — w ← w − lr·r·u,  u = m̂/(√v̂ + ε) + λ·w,  m and v running means of g and g²,  r = ‖w‖/‖u‖ of each parameter
// m̂/(√v̂ + ε) is scale·m / (√v + ε·√(1 − β₂ᵗ)).                                              You et al. 2019

fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    let decay = h[0];
    let beta1 = h[2];
    let fresh1 = h[3];
    let fresh2 = h[4];
    let size = h[5];
    let eps = h[6];
    let m = beta1 * (*s).mean + fresh1 * grad;
    let v = lerp((*s).square, grad * grad, fresh2);
    (*s).mean = m;
    (*s).square = v;
    return size * m / (sqrt(v) + eps) + decay * w;
}

fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
    return w - h[1] * u;
}

fn ratio(norms: Norms, h: array<f32, 8>) -> f32 {
    // The largest ratio, or 0 if the parameter does not adapt.
    let most = h[7];
    if (most == 0.0 || norms.weight == 0.0 || norms.direction == 0.0) {
        return 1.0;
    }
    return min(norms.weight / norms.direction, most);
}
