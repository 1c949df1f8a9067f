// average — a ← a + share·(w − a);  w ← a in a step of Lookahead that says so
//   average [n]   the row `turn` of the hyperparameters of a step: the share, and whether the weights take the average
// update.wgsl calls `turn` and `averaged` for four elements of a piece. Put before this file then: piece.wgsl.
// `follow`, with piece.wgsl before it too, does the same for whole parameters: weights [n]   guard (src/optim/guard.rs)
// `soft_update` is an entry point of its own, for four elements: average [n]   weights [n]   p.share
//!include lib/index

// The share, and 1 if the weights take the average.
fn turn() -> vec2<f32> {
    let at = p.hyper + 8u * (step.row * p.groups + p.turn);
    return vec2(number(at), number(at + 1u));
}

// Drivers may add the terms in another order, which can overflow. So the result is kept between a and w. It is exact where both are equal.
fn blend(a: vec4<f32>, w: vec4<f32>, share: f32) -> vec4<f32> {
    let rest = 1.0 - share;
    let between = select(a + (share * w - share * a), w - (rest * w - rest * a), share >= 0.5);
    return min(max(between, min(a, w)), max(a, w));
}

// The new average, and the weights after it.
fn averaged(i: u32, w: vec4<f32>, turn: vec2<f32>) -> vec4<f32> {
    let a = blend(average[i], w, turn.x);
    average[i] = a;
    return select(w, a, turn.y != 0.0);
}

@compute @workgroup_size(WG)
fn follow(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    let at = turn();
    // If this step or an earlier step was not finite, nothing was stored.
    if (guard[0] != 0u || i >= p.units) {
        return;
    }
    weights[i] = averaged(i, weights[i], at);
}

@compute @workgroup_size(WG)
fn soft_update(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if (i < p.units) {
        average[i] = blend(average[i], weights[i], p.share);
    }
}
