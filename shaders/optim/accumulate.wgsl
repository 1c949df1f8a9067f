// accumulate — sum ← keep·sum + add·micro. After every micro-batch, the sum is the weighted mean over the micro-batches so far.
//   micro [n]   sum [n]   loss [1]   weight [1]   guard (src/optim/guard.rs)
// `weigh` runs first, with one invocation: keep = W / (W + w), add = w / (W + w), W ← W + w. Here w is the weight of this micro-batch,
// and W the sum of the weights of the micro-batches before it. `weigh` computes the mean of their losses with the same formula.
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
    // If all weights so far are 0, only the latest micro-batch counts. Its gradient may come from a penalty on parameters.
    var keep = 0.0;
    var add = 1.0;
    if all != 0.0 {
        keep = before / all;
        add = mine / all;
    }
    // Before the first micro-batch the guard holds the loss of the previous step.
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
    // Before the first micro-batch, the sum still holds the values of an earlier step.
    if keep == 0.0 {
        sum[i] = mine;
    } else {
        sum[i] = keep * sum[i] + mine;
    }
}
