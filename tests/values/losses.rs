//! Losses and their gradients: small values, masked classes, weights of 0, labels that do not count.
//!
//! For logits x, −ln p_j = ln(1 + o_j) and 1 − p_j = o_j / (1 + o_j) with o_j = Σ_{k≠j} e^(x_k − x_j). These formulas are accurate
//! even if their results are small. PyTorch's own formulas are not, even in f64.

use crate::common::{BOTH, Check, Suite};
use downhill::{
    Device, Error, Graph, Host, Tensor,
    losses::{self, Loss},
    testing::close,
};

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "losses/weight_of", weight_of);
    suite.each(&BOTH, "losses/confident rows", confident_rows);
    suite.each(&BOTH, "losses/confident columns", confident_columns);
    suite.each(&BOTH, "losses/soft targets near certainty", soft_targets);
    suite.each(&BOTH, "losses/logsumexp near 0", logsumexp);
    suite.each(&BOTH, "losses/masked classes", masked_classes);
    suite.each(&BOTH, "losses/rows of masked classes", masked_rows);
    suite.each(&BOTH, "losses/a sample weight of 0", sample_weight_0);
    suite.each(&BOTH, "losses/a class weight of 0", class_weight_0);
    suite.each(&BOTH, "losses/all weights 0", all_weights_0);
    suite.each(&BOTH, "losses/ignored rows", ignored_rows);
    suite.each(&BOTH, "losses/ignored labels are not checked", ignored_labels);
    suite.each(&BOTH, "losses/computed labels beyond the classes", computed_labels);
    suite.test("losses/ignore_index where there are no labels", no_labels);
}

/// Each element on its own, relative to its own size.
fn each(what: &str, got: &Host<f32>, want: &[f64]) -> Check {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.to_f64().into_iter().zip(want).enumerate() {
        close(&[g], &[*w], want.len()).map_err(|_| format!("{what}, {i}: {g:e} instead of {w:e}"))?;
    }
    Ok(())
}

/// Runs what `write` makes of the inputs.
fn run(device: &Device, feed: &[Host<f32>], write: impl for<'g> Fn(&[Tensor<'g>]) -> Vec<Tensor<'g>>) -> Result<Vec<Host<f32>>, Error> {
    let g = Graph::training();
    let x: Vec<Tensor> = feed.iter().map(|x| g.input_of(x.shape)).collect();
    device.compile(&write(&x))?.run(feed)
}

fn rows<const K: usize>(rows: &[[f32; K]]) -> Host<f32> {
    Host::new([rows.len(), K], rows.concat())
}

/// Returns, for each class j, the sum of e^(x_k − x_j) over the other classes k.
fn others(x: &[f32]) -> Vec<f64> {
    let power = |j: usize, k: usize| (f64::from(x[k]) - f64::from(x[j])).exp();
    (0..x.len()).map(|j| (0..x.len()).filter(|&k| k != j).map(|k| power(j, k)).sum()).collect()
}

/// A weighted mean is known by what it divides by; where that is 0, it is 0 and so is its gradient.
fn weight_of(device: &Device) -> Check {
    let g = Graph::training();
    let (x, y, w) = (g.input([3, 2]), g.input([3, 2]), g.input([3]));
    let loss = losses::mse(x, y).sample_weights(w).mean();
    let weight = g.weight_of(loss).ok_or("a weighted mean")?;
    if g.weight_of(losses::mse(x, y).mean()).is_some() || g.weight_of(losses::mse(x, y).sample_weights(w).sum()).is_some() {
        return Err("neither a mean of equal weights nor a sum divides by weights".into());
    }
    let mut f = device.compile(&[loss, weight, loss.grad(&[x])[0]])?;
    let x = rows(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let feed = |w: [f32; 3]| [x.clone(), Host::new([3, 2], vec![0.0; 6]), Host::new([3], w.to_vec())];
    // (1 + 4 + 2·25 + 2·36) / 6, and 2·w·x / 6.
    let some = f.run(&feed([1.0, 0.0, 2.0]))?;
    each("mean", &some[0], &[127.0 / 6.0])?;
    each("weight", &some[1], &[6.0])?;
    each("gradient", &some[2], &[1.0 / 3.0, 2.0 / 3.0, 0.0, 0.0, 10.0 / 3.0, 4.0])?;
    let none = f.run(&feed([0.0; 3]))?;
    assert_eq!((none[0].f(), none[1].f(), none[2].f()), (&[0.0][..], &[0.0][..], &[0.0; 6][..]));
    Ok(())
}

/// Logits of `k` classes, three rows: the top at three places, as far above the others as the loss is still a normal number.
fn confident(k: usize) -> [Vec<f32>; 3] {
    [(15.0, 0), (33.0, k - 1), (70.0, k / 2)].map(|(by, at)| {
        // The others differ, and none is 0.
        let mut x: Vec<f32> = (0..k).map(|i| (i * 7 % 11) as f32 / -8.0 - 1.0).collect();
        x[at] += by;
        x
    })
}

/// Every way from logits to a loss of the sure class and to its gradient.
fn confident_rows(device: &Device) -> Check {
    // As the issue has it: 3.0590227e-7.
    let feed = [rows(&[[15.0, 0.0]]), Host::labels([1], vec![0])];
    let y = run(device, &feed, |x| vec![x[0].cross_entropy(x[1]), x[0].cross_entropy(x[1]).grad(&[x[0]])[0]])?;
    each("(15, 0)", &y[0], &[3.059_022_27e-7])?;
    each("(15, 0)", &y[1], &[-3.059_021_8e-7, 3.059_021_8e-7])?;
    // Short lines, lines for subgroups and for workgroups, in ones and in fours, and longer ones than registers hold.
    for k in [2, 3, 16, 33, 64, 257, 1031, 8228] {
        let x = confident(k);
        let (top, low) = ([0, k - 1, k / 2], [k - 1, 0, k / 2 - 1]);
        for labels in [top, low] {
            let feed = [Host::new([3, k], x.concat()), Host::labels([3], labels.map(|l| l as u32).to_vec())];
            let y = run(device, &feed, |x| {
                let one_hot = x[1].one_hot(x[0].shape().last());
                let ways = [
                    losses::cross_entropy(x[0], x[1]).none(),
                    losses::nll(x[0].log_softmax(-1), x[1]).none(),
                    losses::cross_entropy_soft(x[0], one_hot).none(),
                    -(x[0].log_softmax(-1) * one_hot).sum(&[-1], false),
                ];
                ways.into_iter().flat_map(|y| [y, y.sum_all().grad(&[x[0]])[0]]).collect()
            })?;
            let (mut value, mut gradient) = (Vec::new(), Vec::new());
            for (x, label) in x.iter().zip(labels) {
                let o = others(x);
                value.push(o[label].ln_1p());
                gradient.extend((0..k).map(|j| if j == label { -o[j] / (1.0 + o[j]) } else { 1.0 / (1.0 + o[j]) }));
            }
            for (way, y) in ["cross_entropy", "nll", "soft", "log_softmax"].iter().zip(y.chunks(2)) {
                each(&format!("{way} of {k}"), &y[0], &value)?;
                each(&format!("gradient of {way} of {k}"), &y[1], &gradient)?;
            }
        }
        // Σ c·softmax(x) has the gradient p_j·Σ_i p_i·(c_j − c_i).
        let c: Vec<f32> = (0..3 * k).map(|i| if i % k == k / 3 { 90.0 } else { (i * 5 % 7) as f32 - 2.25 }).collect();
        let feed = [Host::new([3, k], x.concat()), Host::new([3, k], c.clone())];
        let y = run(device, &feed, |x| {
            let p = x[0].softmax(-1);
            vec![p, (p * x[1]).sum_all().grad(&[x[0]])[0]]
        })?;
        let (mut value, mut gradient) = (Vec::new(), Vec::new());
        for (x, c) in x.iter().zip(c.chunks(k)) {
            let p: Vec<f64> = others(x).iter().map(|o| 1.0 / (1.0 + o)).collect();
            let sum = |j: usize| (0..k).map(|i| p[i] * f64::from(c[j] - c[i])).sum::<f64>();
            gradient.extend((0..k).map(|j| p[j] * sum(j)));
            value.extend(p);
        }
        each(&format!("softmax of {k}"), &y[0], &value)?;
        each(&format!("gradient of softmax of {k}"), &y[1], &gradient)?;
    }
    Ok(())
}

/// The same along an axis that is not the last one.
fn confident_columns(device: &Device) -> Check {
    for k in [3, 33, 300] {
        let x = confident(k);
        let across: Vec<f32> = (0..3 * k).map(|i| x[i % 3][i / 3]).collect();
        let top = [0, k - 1, k / 2];
        let feed = [Host::new([k, 3], across), Host::labels([3], top.map(|l| l as u32).to_vec())];
        let y = run(device, &feed, |x| {
            let y = x[0].log_softmax(0);
            let of_label = losses::nll(y.permute(&[1, 0]), x[1]).sum();
            vec![y, of_label.grad(&[x[0]])[0]]
        })?;
        let o = x.map(|x| others(&x));
        let value: Vec<f64> = (0..3 * k).map(|i| -o[i % 3][i / 3].ln_1p()).collect();
        let gradient: Vec<f64> = (0..3 * k)
            .map(|i| (&o[i % 3][i / 3], i / 3 == top[i % 3]))
            .map(|(o, own)| if own { -o / (1.0 + o) } else { 1.0 / (1.0 + o) })
            .collect();
        each(&format!("log_softmax of {k}"), &y[0], &value)?;
        each(&format!("gradient of {k}"), &y[1], &gradient)?;
    }
    Ok(())
}

/// Targets that are nearly certain, and label smoothing of nearly nothing: p·Σt − t of the top class is −Σ of the other classes'.
fn soft_targets(device: &Device) -> Check {
    let (x, t) = ([[15.0, 0.0, -1.0], [21.0, 1.5, 0.5]], [[1.0, 1e-9, 3e-8], [1.0, 2e-12, 1e-11]]);
    let y = run(device, &[rows(&x), rows(&t)], |x| {
        let y = losses::cross_entropy_soft(x[0], x[1]).none();
        vec![y, y.sum_all().grad(&[x[0]])[0]]
    })?;
    let (mut value, mut gradient) = (Vec::new(), Vec::new());
    for (x, t) in x.iter().zip(&t) {
        let (o, t) = (others(x), t.map(f64::from));
        value.push((0..3).map(|k| t[k] * o[k].ln_1p()).sum());
        let of = |j: usize| t.iter().sum::<f64>() / (1.0 + o[j]) - t[j];
        gradient.extend([-of(1) - of(2), of(1), of(2)]);
    }
    each("soft", &y[0], &value)?;
    each("gradient of soft", &y[1], &gradient)?;
    // Label smoothing ε of two classes: (1 − ε)·l + ½ε·(l₀ + l₁), and its gradient ∓((1 − p₀) − ½ε).
    let eps = f64::from(1e-6f32);
    let y = run(device, &[rows(&[[15.0, 0.0]]), Host::labels([1], vec![0])], |x| {
        let y = losses::cross_entropy(x[0], x[1]).label_smoothing(1e-6).mean();
        vec![y, y.grad(&[x[0]])[0]]
    })?;
    let o = others(&[15.0, 0.0]);
    each("smoothing", &y[0], &[(1.0 - 0.5 * eps) * o[0].ln_1p() + 0.5 * eps * o[1].ln_1p()])?;
    let d = o[0] / (1.0 + o[0]) - 0.5 * eps;
    each("gradient of smoothing", &y[1], &[-d, d])
}

fn logsumexp(device: &Device) -> Check {
    let x = [[0.0, -15.0, -16.0], [-30.0, -31.0, 0.0], [2.0, 2.0, 2.0]];
    let y = run(device, &[rows(&x)], |x| {
        let y = x[0].logsumexp(&[-1], false);
        vec![y, y.sum_all().grad(&[x[0]])[0]]
    })?;
    let small = |a: f64, b: f64| (a.exp() + b.exp()).ln_1p();
    each("logsumexp", &y[0], &[small(-15.0, -16.0), small(-30.0, -31.0), 2.0 + 3f64.ln()])?;
    each("gradient", &y[1], &x.iter().flat_map(|x| others(x)).map(|o| 1.0 / (1.0 + o)).collect::<Vec<_>>())
}

/// 0 · ∞ is 0 where a class has no part; what is infinite is infinite.
fn masked_classes(device: &Device) -> Check {
    let x = rows(&[[1.0, 2.0, -INF]]);
    // ln(1 + e) − 1·0.25 − 2·0.75 + 1, and ± (σ(−1) − 0.25).
    let (value, d) = (0.563_261_687_518_222_9, 0.018_941_421_369_995_1);
    let y = run(device, &[x.clone(), rows(&[[0.25, 0.75, 0.0]])], |x| {
        let y = losses::cross_entropy_soft(x[0], x[1]).mean();
        let dx = y.grad(x);
        vec![y, dx[0], dx[1]]
    })?;
    each("soft", &y[0], &[value])?;
    each("gradient", &y[1], &[d, -d, 0.0])?;
    // The gradient for the target is −ln p; of the masked class, of which nothing can be said, it is 0.
    let l = 1f64.exp().ln_1p();
    each("gradient for the target", &y[2], &[l, l - 1.0, 0.0])?;
    // A class that has a part but no probability: infinite, as PyTorch has it.
    let y = run(device, &[x.clone(), rows(&[[0.25, 0.5, 0.25]])], |x| vec![losses::cross_entropy_soft(x[0], x[1]).mean()])?;
    assert_eq!(y[0].f(), &[INF]);
    // A label beside masked classes, smoothed over those with a weight: PyTorch's value without the masked class.
    let feed = [x.clone(), Host::labels([1], vec![0]), Host::new([3], vec![1.0, 3.0, 0.0])];
    let y = run(device, &feed, |x| {
        let plain = losses::cross_entropy(x[0], x[1]).mean();
        let smooth = losses::cross_entropy(x[0], x[1]).label_smoothing(0.3);
        let weighted = smooth.class_weights(x[2]).mean();
        vec![plain, plain.grad(&[x[0]])[0], weighted, weighted.grad(&[x[0]])[0], smooth.mean(), smooth.label_smoothing(1.0).mean()]
    })?;
    let p = 1.0 / (1.0 + 1f64.exp());
    each("plain", &y[0], &[l])?;
    each("gradient", &y[1], &[p - 1.0, 1.0 - p, 0.0])?;
    // t = 0.7·(1, 0, 0) + 0.1·(1, 3, 0): 0.8·l + 0.3·(l − 1), with the gradient p·1.1 − t.
    each("weighted", &y[2], &[0.8 * l + 0.3 * (l - 1.0)])?;
    each("gradient of weighted", &y[3], &[p * 1.1 - 0.8, (1.0 - p) * 1.1 - 0.3, 0.0])?;
    assert_eq!((y[4].f(), y[5].f()), (&[INF][..], &[INF][..]));
    // The masked class is the label: an infinite loss, and the gradient (p, p, −1).
    let y = run(device, &[x.clone(), Host::labels([1], vec![2])], |x| {
        let y = x[0].cross_entropy(x[1]);
        vec![y, y.grad(&[x[0]])[0], losses::cross_entropy(x[0], x[1]).label_smoothing(1.0).mean()]
    })?;
    assert_eq!((y[0].f(), y[2].f()), (&[INF][..], &[INF][..]));
    each("gradient of ∞", &y[1], &[p, 1.0 - p, -1.0])?;
    // q = 0 where ln p = −∞: 0, with the gradient −q.
    let y = run(device, &[rows(&[[-INF, -0.7, -0.7]]), rows(&[[0.0, 0.5, 0.5]])], |x| {
        let y = losses::kl_div(x[0], x[1]).sum();
        vec![y, y.grad(&[x[0]])[0]]
    })?;
    each("kl_div", &y[0], &[0.5f64.ln() + f64::from(0.7f32)])?;
    each("gradient of kl_div", &y[1], &[0.0, -0.5, -0.5])?;
    // nll of log-probabilities, some of them −∞.
    let y = run(device, &[rows(&[[-INF, -0.25], [-0.5, -INF]]), Host::labels([2], vec![1, 0])], |x| {
        vec![x[0].nll(x[1]), x[0].nll(x[1]).grad(&[x[0]])[0]]
    })?;
    each("nll", &y[0], &[0.375])?;
    each("gradient of nll", &y[1], &[0.0, -0.5, -0.5, 0.0])
}

/// Nothing can be said of a row in which all classes are masked, as PyTorch has it; of the others it can.
fn masked_rows(device: &Device) -> Check {
    for k in [2usize, 5, 64, 1031] {
        let x: Vec<f32> = (0..3 * k).map(|i| if i / k == 1 { -INF } else { 0.0 }).collect();
        let feed = [Host::new([3, k], x), Host::labels([3], vec![0, 0, 1])];
        let y = run(device, &feed, |x| {
            vec![x[0].softmax(-1), x[0].log_softmax(-1), losses::cross_entropy(x[0], x[1]).none(), x[0].logsumexp(&[-1], false)]
        })?;
        let (n, ln) = (k as f64, (k as f64).ln());
        for (i, (p, l)) in y[0].f().iter().zip(y[1].f()).enumerate() {
            match i / k {
                1 => assert!(p.is_nan() && l.is_nan(), "{k}: {p} {l}"),
                _ => assert!((f64::from(*p) * n - 1.0).abs() < 1e-6 && (f64::from(*l) + ln).abs() < 1e-6, "{k}: {p} {l}"),
            }
        }
        assert!(y[2].f()[1].is_nan() && y[2].f()[0].is_finite() && y[2].f()[2].is_finite(), "{k}: {:?}", y[2].f());
        assert_eq!(y[3].f()[1], -INF, "{k}");
        // An infinite logit says nothing either.
        let x: Vec<f32> = (0..3 * k).map(|i| if i == k + 1 { INF } else { 0.0 }).collect();
        let y = run(device, &[Host::new([3, k], x), feed[1].clone()], |x| {
            vec![x[0].softmax(-1), x[0].log_softmax(-1), losses::cross_entropy(x[0], x[1]).none()]
        })?;
        let nan = |x: &Host<f32>| x.f().iter().enumerate().filter(|(_, x)| x.is_nan()).map(|(i, _)| i).collect::<Vec<_>>();
        assert_eq!(nan(&y[1]), (k..2 * k).collect::<Vec<_>>(), "{k}");
        assert!(nan(&y[0]).contains(&(k + 1)) && nan(&y[2]) == [1], "{k}");
    }
    Ok(())
}

/// A loss of `[3, 4]` and what is compared with it, by name.
type Named = (&'static str, for<'g> fn(Tensor<'g>, Tensor<'g>) -> Loss<'g>);

/// Losses of each element; those of classes on labels; those on targets.
const EACH: [Named; 14] = [
    ("mse", |x, y| losses::mse(x, y)),
    ("mae", |x, y| losses::mae(x, y)),
    ("huber", |x, y| losses::huber(x, y, 0.5)),
    ("bce", |x, y| losses::bce(x, y)),
    ("bce_with_logits", |x, y| losses::bce_with_logits(x, y)),
    ("kl_div", |x, y| losses::kl_div(x, y)),
    ("pos_weight", |x, y| losses::bce_with_logits(x, y).pos_weight(x.graph().full([4], 1.5))),
    ("gaussian_nll", |x, y| losses::gaussian_nll(x, y, x.graph().full([x.dim(0), 1], 0.8))),
    ("poisson_nll", |x, y| losses::poisson_nll(x, y)),
    ("hinge", |x, y| losses::hinge(x, y)),
    ("hinge_embedding", |x, y| losses::hinge_embedding(x, y, 2.0)),
    ("margin_ranking", |x, y| losses::margin_ranking(x, x.graph().full(x.shape(), 0.3), y, 2.0)),
    ("triplet_margin", |x, y| losses::triplet_margin(x, y, x.graph().full(x.shape(), 0.3), 3.0)),
    ("cosine_embedding", |x, y| losses::cosine_embedding(x, y, x.graph().full([x.dim(0)], 1.0), 0.0)),
];
const LABELS: [Named; 4] = [
    ("cross_entropy", |x, y| losses::cross_entropy(x, y)),
    ("cross_entropy, smoothed", |x, y| losses::cross_entropy(x, y).label_smoothing(0.2)),
    ("nll", |x, y| losses::nll(x, y)),
    ("nll of log_softmax", |x, y| losses::nll(x.log_softmax(-1), y)),
];
const TARGETS: [Named; 3] = [
    ("cross_entropy_soft", |x, y| losses::cross_entropy_soft(x, y)),
    ("cross_entropy_soft, smoothed", |x, y| losses::cross_entropy_soft(x, y).label_smoothing(0.2)),
    ("cross_entropy_soft of softmax", |x, y| losses::cross_entropy_soft(x, y.softmax(-1))),
];

/// Mean, sum and each loss, and the gradients of the mean and of each, for the prediction and for a target of floats.
fn all<'g>(loss: Loss<'g>, x: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
    let known: Vec<Tensor> = x[..2].iter().copied().filter(|t| t.shape().dtype() == downhill::DType::F32).collect();
    let mut outputs = vec![loss.mean(), loss.sum(), loss.none()];
    outputs.extend(outputs[0].grad(&known));
    outputs.extend(outputs[2].square().sum_all().grad(&known));
    outputs
}

/// Checks that `three` rows, of which the middle row has no weight, give the results of the other two rows alone.
fn same_without(what: &str, three: &[Host<f32>], two: &[Host<f32>]) -> Check {
    for (k, (three, two)) in three.iter().zip(two).enumerate() {
        let what = format!("{what}, output {k}");
        if three.shape.same_dims(two.shape) {
            each(&what, three, &two.to_f64())?;
            continue;
        }
        let width = three.len() / 3;
        let (first, rest) = three.f().split_at(width);
        let (middle, last) = rest.split_at(width);
        if middle.iter().any(|&x| x != 0.0) {
            return Err(format!("{what}: {middle:?} instead of zeros").into());
        }
        each(&what, &Host::new([2 * width], [first, last].concat()), &two.to_f64())?;
    }
    Ok(())
}

/// A prediction in 0..1, as bce wants it: log-probabilities are below 0, but losses compute all the same.
const X: [[f32; 4]; 2] = [[0.3, 0.6, 0.2, 0.9], [0.7, 0.1, 0.8, 0.4]];
const Y: [[f32; 4]; 2] = [[0.2, 0.4, 0.3, 0.1], [0.1, 0.2, 0.6, 0.1]];
/// Rows that no loss has an answer for.
const BAD: [[f32; 4]; 4] = [[NAN; 4], [INF, -INF, 1.0, 0.0], [-INF; 4], [1e30, -3e38, 3e38, NAN]];

fn between(rows: [[f32; 4]; 2], middle: [f32; 4]) -> Host<f32> {
    Host::new([3, 4], [rows[0], middle, rows[1]].concat())
}

/// A sample of weight 0 is not there, whatever its prediction and its target.
fn sample_weight_0(device: &Device) -> Check {
    let (with, without) = (Host::new([3], vec![0.5, 0.0, 2.0]), Host::new([2], vec![0.5, 2.0]));
    let targets = |y: [f32; 4]| (between(Y, y), rows(&Y));
    let labels = (Host::labels([3], vec![2, 1, 3]), Host::labels([2], vec![2, 3]));
    let weights = [1.5, 0.25, 1.0, 3.0];
    for bad in BAD {
        for (name, loss) in EACH.iter().chain(&TARGETS).chain(&LABELS) {
            let of_labels = LABELS.iter().any(|l| l.0 == *name);
            for (y, classes) in [(Y[0], false), (bad, false), (bad, true)] {
                if classes && EACH.iter().any(|l| l.0 == *name) {
                    continue;
                }
                let (three, two) = if of_labels { labels.clone() } else { targets(y) };
                let three = run(device, &[between(X, bad), three, with.clone(), Host::new([4], weights.to_vec())], |x| {
                    let loss = loss(x[0], x[1]).sample_weights(x[2]);
                    all(if classes { loss.class_weights(x[3]) } else { loss }, x)
                })?;
                let two = run(device, &[rows(&X), two, without.clone(), Host::new([4], weights.to_vec())], |x| {
                    let loss = loss(x[0], x[1]).sample_weights(x[2]);
                    all(if classes { loss.class_weights(x[3]) } else { loss }, x)
                })?;
                same_without(&format!("{name}, {bad:?}, {y:?}, class weights: {classes}"), &three, &two)?;
            }
        }
    }
    // The weights are a mask of elements. It hides a value whose square overflows.
    let feed = [rows(&[[3e30, 2.0]]), rows(&[[0.0, 0.0]]), rows(&[[0.0, 1.0]])];
    let y = run(device, &feed, |x| all(losses::mse(x[0], x[1]).sample_weights(x[2]), x))?;
    each("mask", &y[0], &[4.0])?;
    each("gradient behind a mask", &y[3], &[0.0, 4.0])
}

/// A sample whose class has weight 0 counts as absent too. With label smoothing, the class has a part in the loss of other labels,
/// as in PyTorch.
fn class_weight_0(device: &Device) -> Check {
    let weights = Host::new([4], vec![1.5, 0.0, 1.0, 3.0]);
    let (with, without) = (Host::labels([3], vec![2, 1, 3]), Host::labels([2], vec![2, 3]));
    for bad in BAD {
        for (name, loss) in [LABELS[0], LABELS[2], LABELS[3]] {
            let three = run(device, &[between(X, bad), with.clone(), weights.clone()], |x| all(loss(x[0], x[1]).class_weights(x[2]), x))?;
            let two = run(device, &[rows(&X), without.clone(), weights.clone()], |x| all(loss(x[0], x[1]).class_weights(x[2]), x))?;
            same_without(&format!("{name}, {bad:?}"), &three, &two)?;
        }
    }
    // −∞ in the class of weight 0, which is smoothed over: its part is 0, as that of any value would be.
    let smoothed = |x: f32| {
        let feed = [rows(&[[0.3, x, 0.2, 0.9]]), Host::labels([1], vec![2]), weights.clone()];
        run(device, &feed, |x| all(losses::cross_entropy(x[0], x[1]).label_smoothing(0.2).class_weights(x[2]), x))
    };
    let (masked, far) = (smoothed(-INF)?, smoothed(-200.0)?);
    masked.iter().zip(&far).try_for_each(|(masked, far)| each("masked", masked, &far.to_f64()))
}

/// A mean of nothing is 0, with a gradient of 0.
fn all_weights_0(device: &Device) -> Check {
    let zero = |what: &str, y: &[Host<f32>]| {
        let all = y.iter().all(|y| y.f().iter().all(|&y| y == 0.0));
        if all { Ok(()) } else { Err(format!("{what}: {y:?}")) }
    };
    for x in [X[0], BAD[0], BAD[1]] {
        for (name, loss) in EACH.iter().chain(&TARGETS) {
            let feed = [between(X, x), between(Y, x), Host::new([3], vec![0.0; 3])];
            zero(name, &run(device, &feed, |x| all(loss(x[0], x[1]).sample_weights(x[2]), x))?)?;
        }
        for (name, loss) in LABELS {
            let labels = Host::labels([3], vec![1, 1, 7]);
            let feed = [between(X, x), labels.clone(), Host::new([3], vec![0.0; 3]), Host::new([4], vec![2.0, 0.0, 1.0, 1.0])];
            zero(name, &run(device, &feed, |x| all(loss(x[0], x[1]).ignore_index(7).sample_weights(x[2]), x))?)?;
            if name != "cross_entropy, smoothed" {
                let feed = [feed[0].clone(), labels, feed[3].clone()];
                zero(name, &run(device, &feed, |x| all(loss(x[0], x[1]).ignore_index(7).class_weights(x[2]), x))?)?;
            }
            let feed = [feed[0].clone(), Host::labels([3], vec![7; 3])];
            zero(name, &run(device, &feed, |x| all(loss(x[0], x[1]).ignore_index(7), x))?)?;
        }
    }
    Ok(())
}

/// A row whose label is ignored is not there, whatever its logits: with weights of samples and of classes, and beside classes of 0.
fn ignored_rows(device: &Device) -> Check {
    for bad in BAD {
        for (name, loss) in LABELS {
            // No class, the largest number there is, and one of the classes.
            for ignored in [4, 1 << 24, u32::MAX - 1, u32::MAX, 1] {
                for (classes, samples) in [(false, false), (true, false), (false, true), (true, true)] {
                    let weighted = |n: usize| Host::new([n], [2.0, 0.5, 1.5][3 - n..].to_vec());
                    let outputs = |device: &Device, x: Host<f32>, labels: Host<f32>, w: Host<f32>| {
                        run(device, &[x, labels, w, Host::new([4], vec![1.5, 0.25, 1.0, 3.0])], |x| {
                            let loss = loss(x[0], x[1]).ignore_index(ignored);
                            let loss = if classes { loss.class_weights(x[3]) } else { loss };
                            all(if samples { loss.sample_weights(x[2]) } else { loss }, x)
                        })
                    };
                    let with = Host::labels([3], vec![2, ignored, 3]);
                    let three = outputs(device, between(X, bad), with, Host::new([3], vec![0.5, 7.0, 1.5]))?;
                    let two = outputs(device, rows(&X), Host::labels([2], vec![2, 3]), weighted(2))?;
                    same_without(&format!("{name}, {bad:?}, {ignored}, {classes}, {samples}"), &three, &two)?;
                }
            }
        }
    }
    Ok(())
}

/// The check of a batch passes the ignored label and no other one; so does that of constants.
fn ignored_labels(device: &Device) -> Check {
    for (name, loss) in LABELS {
        let batch = |labels: Vec<u32>| {
            run(device, &[rows(&X), Host::labels([2], labels)], |x| {
                let y = loss(x[0], x[1]).ignore_index(9).class_weights(x[0].graph().full([4], 2.0)).mean();
                vec![y, y.grad(&[x[0]])[0]]
            })
        };
        batch(vec![9, 3])?;
        let error = batch(vec![9, 4]).err().ok_or("label 4 of 4 classes")?;
        assert!(matches!(error, Error::Label { row: 1, label: 4, classes: 4 }), "{name}: {error}");
        let g = Graph::training();
        let y = loss(g.input([2, 4]), g.constant(Host::labels([2], vec![9, 3]))).ignore_index(9).mean();
        device.compile(&[y, y.grad(&g.param_tensors()).first().copied().unwrap_or(y)])?;
        let g = Graph::training();
        let error = device.compile(&[loss(g.input([2, 4]), g.constant(Host::labels([2], vec![9, 3]))).mean()]).err();
        assert!(matches!(error, Some(Error::Label { row: 0, label: 9, .. })), "{name}: {error:?}");
    }
    Ok(())
}

/// A label that the graph computes is seen by no check: its row is NaN, and no other one is.
fn computed_labels(device: &Device) -> Check {
    for k in [3usize, 40, 300] {
        let x: Vec<f32> = (0..3 * k).map(|i| (i % 5) as f32).collect();
        let mut scores = vec![0.0; 3 * 2 * k];
        // The labels are 1, k and 2.
        [1, k, 2].into_iter().enumerate().for_each(|(row, label)| scores[row * 2 * k + label] = 1.0);
        let y = run(device, &[Host::new([3, k], x), Host::new([3, 2 * k], scores)], |x| {
            let labels = x[1].argmax(-1);
            let y = losses::cross_entropy(x[0], labels).none();
            let ignored = losses::cross_entropy(x[0], labels).ignore_index(x[0].shape().last() as u32).mean();
            vec![y, y.sum_all().grad(&[x[0]])[0], ignored]
        })?;
        let nan = |x: &Host<f32>| x.f().iter().enumerate().filter(|(_, x)| x.is_nan()).map(|(i, _)| i).collect::<Vec<_>>();
        assert_eq!((nan(&y[0]), nan(&y[1])), (vec![1], (k..2 * k).collect()), "{k}");
        assert!(y[2].f()[0].is_finite());
    }
    Ok(())
}

fn no_labels() -> Check {
    let g = Graph::training();
    let (x, y) = (g.input([2, 3]), g.input([2, 3]));
    assert!(losses::mse(x, y).ignore_index(3).mean().error().is_some());
    let text = g.error().map_or(String::new(), |e| e.to_string());
    assert!(text.starts_with("ignore_index: [2, 3]: only losses on labels have this option (tests/values/losses.rs:"), "{text}");
    Ok(())
}
