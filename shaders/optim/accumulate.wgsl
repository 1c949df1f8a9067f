// accumulate — sum ← keep·sum + add·micro: the mean over micro-batches, each as much as it weighs, after every one of them
//   micro [n]   sum [n]   loss [1]   weight [1]   guard (src/optim/guard.rs)
// `weigh` comes first, one invocation: keep = W / (W + w), add = w / (W + w), W ← W + w, where w is what this micro-batch weighs
// and W what those before it do. The mean of their losses is kept in the same way.
// The check ends the step and sets W to 0.
//!include lib/index

const WEIGHT_SUM: u32 = 14u;
const KEEP: u32 = 15u;
const ADD: u32 = 16u;
const LOSS_SUM: u32 = 17u;

@compute @workgroup_size(WG)
fn weigh(@builtin(local_invocation_index) lane: u32) {
    if lane != 0u {
        return;
    }
    let before = bitcast<f32>(guard[WEIGHT_SUM]);
    let mine = weight[0];
    let all = before + mine;
    // Where none weighs anything yet, the latest counts alone: a penalty on parameters has its gradient all the same.
    var keep = 0.0;
    var add = 1.0;
    if all != 0.0 {
        keep = before / all;
        add = mine / all;
    }
    // Before the first one the guard holds the loss of the step before.
    var mean = add * loss[0];
    if before != 0.0 {
        mean = keep * bitcast<f32>(guard[LOSS_SUM]) + mean;
    }
    guard[WEIGHT_SUM] = bitcast<u32>(all);
    guard[KEEP] = bitcast<u32>(keep);
    guard[ADD] = bitcast<u32>(add);
    guard[LOSS_SUM] = bitcast<u32>(mean);
}

@compute @workgroup_size(WG)
fn accumulate(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(id, n) * WG + lane;
    if i >= p.units {
        return;
    }
    let keep = bitcast<f32>(guard[KEEP]);
    let mine = bitcast<f32>(guard[ADD]) * micro[i];
    // Of the first one, the sum holds whatever it held.
    if keep == 0.0 {
        sum[i] = mine;
    } else {
        sum[i] = keep * sum[i] + mine;
    }
}
