use super::*;
use crate::{Graph, ops::checks};

#[test]
fn cpu() {
    checks::cpu::<Attention>();
    checks::cpu::<AttentionGrad>();
}

#[test]
fn wgsl() {
    checks::wgsl::<Attention>();
    checks::wgsl::<AttentionGrad>();
}

#[test]
fn mistakes() {
    let message = |q: &[usize], k: &[usize], v: &[usize], scale: Option<f32>| {
        let g = Graph::training();
        let [q, k, v] = [q, k, v].map(|s| g.input(Shape::new(s).unwrap()));
        assert!(q.scaled_dot_product_attention(k, v, Attention { scale, ..Attention::default() }).is_dead());
        g.error().unwrap().to_string()
    };
    let start = |text: String, want: &str| {
        assert!(text.starts_with(&format!("scaled_dot_product_attention: {want}")), "{text}");
        assert!(text.contains(" (src/ops/attention/tests.rs:"), "{text}");
    };
    start(message(&[4], &[4, 2], &[4, 2], None), "[4] × [4, 2] × [4, 2]: queries, keys and values must be floats with at least two axes");
    start(message(&[2, 5, 8], &[2, 7, 6], &[2, 7, 6], None), "[2, 5, 8] × [2, 7, 6] × [2, 7, 6]: queries have 8 features, but keys have 6");
    start(message(&[5, 8], &[7, 8], &[6, 8], None), "[5, 8] × [7, 8] × [6, 8]: there are 7 keys, but 6 values");
    start(
        message(&[2, 5, 8], &[3, 7, 8], &[3, 7, 8], None),
        "[2, 5, 8] × [3, 7, 8] × [3, 7, 8]: the axes before the last two must broadcast",
    );
    start(message(&[5, 8], &[7, 8], &[7, 8], Some(f32::NAN)), "[5, 8] × [7, 8] × [7, 8]: the scale must be a finite number, not NaN");
    let with = |q: &[usize], k: &[usize], options: Attention| {
        let g = Graph::training();
        let [q, k] = [q, k].map(|s| g.input(Shape::new(s).unwrap()));
        assert!(q.scaled_dot_product_attention(k, k, options).is_dead());
        g.error().unwrap().to_string()
    };
    let gqa = Attention { enable_gqa: true, ..Attention::default() };
    start(
        with(&[6, 5, 8], &[4, 7, 8], gqa),
        "[6, 5, 8] × [4, 7, 8] × [4, 7, 8]: the axes before the last two must broadcast, and the heads of keys",
    );
    start(
        with(&[2, 5, 8], &[4, 7, 8], gqa),
        "[2, 5, 8] × [4, 7, 8] × [4, 7, 8]: the axes before the last two must broadcast, and the heads of keys",
    );
    let alibi = Attention { alibi: true, ..Attention::default() };
    start(with(&[5, 8], &[7, 8], alibi), "[5, 8] × [7, 8] × [7, 8]: ALiBi needs an axis of heads");
    let drop = Attention { dropout_p: -0.1, ..Attention::default() };
    start(with(&[5, 8], &[7, 8], drop), "[5, 8] × [7, 8] × [7, 8]: dropout_p = -0.1 is not in 0..=1");
    let g = Graph::training();
    assert!(g.labels([3, 4]).scaled_dot_product_attention(g.input([3, 4]), g.input([3, 4]), Attention::default()).is_dead());
    assert!(g.error().unwrap().to_string().contains("must be floats"));
}

/// The op agrees with matrix products and a softmax. Second derivatives agree, too, even if one input depends on another.
#[test]
fn plain() {
    use crate::{ops::fill, oracle::interpret, plan::ir::Ir};
    for causal in [false, true] {
        let g = Graph::training();
        let x = g.input([2, 5, 4]);
        let (k, v) = (x.tanh(), x.sin());
        let ours = x.scaled_dot_product_attention(k, v, Attention { causal, ..Attention::default() });
        let mut scores = x.matmul_t(k, false, true) * 0.5;
        if causal {
            scores = causal_mask(&g, 5, 5).where_(scores, -1e30);
        }
        let plain = scores.softmax(-1).matmul(v);
        let twice = |y: Tensor<'_>| {
            let first = y.square().sum_all().grad(&[x])[0];
            [y, first, first.square().sum_all().grad(&[x])[0]].map(|t| t.id)
        };
        let [ours, plain] = [ours, plain].map(twice).map(|ids| {
            let outputs = ids.map(|id| g.tensor(id));
            interpret(&Ir::new(&g, &outputs), &[fill(x.shape(), &Fill::Range(-2.0, 2.0), 3).cast::<f64>()], &[], Key::default())
        });
        for (k, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
            for (a, b) in ours.f().iter().zip(plain.f()) {
                // The sums use f32 constants in both.
                assert!((a - b).abs() <= 1e-9 * (1.0 + b.abs()), "derivative {k}: {a}, not {b}");
            }
        }
    }
}

/// Masks agree with plain ops in the value, in the first derivatives (that of a bias, too) and in the second derivatives.
#[test]
fn masks_agree_with_plain_ops() {
    use crate::{ops::fill, oracle::interpret, plan::ir::Ir};
    for (causal, by_length, by_mask) in [(false, true, false), (true, true, true), (false, false, true), (true, false, false)] {
        let g = Graph::training();
        let (x, b) = (g.input([2, 3, 5, 4]), g.input([3, 5, 5]));
        let (lengths, seen) = (g.labels([2]), g.labels([2, 1, 1, 5]));
        let (k, v) = (x.tanh(), x.sin());
        let mask = AttentionMask { lengths: by_length.then_some(lengths), mask: by_mask.then_some(seen), bias: Some(b) };
        let ours = x.scaled_dot_product_attention_masked(k, v, mask, Attention { causal, ..Attention::default() });
        let places = g.constant(Host::new([5], (0..5).map(|j| j as f32).collect()));
        let mut all = g.full([2, 3, 5, 5], 1.0);
        if by_length {
            all = all * lengths.reshape([2, 1, 1, 1]).gt(places);
        }
        if by_mask {
            all = all * seen.to_f32();
        }
        if causal {
            all = all * causal_mask(&g, 5, 5);
        }
        // The sum of the powers may be 0: then the result is 0.
        let p = all * (x.matmul_t(k, false, true) * 0.5 + b).exp();
        let sum = p.sum(&[-1], true);
        let plain = (p / (sum + sum.eq(0.0))).matmul(v);
        let twice = |y: Tensor<'_>| {
            let first = (y * y).sum_all().grad(&[x, b]);
            let sum = first[0].square().sum_all() + first[1].square().sum_all();
            let second = sum.grad(&[x, b]);
            [y, first[0], first[1], second[0], second[1]].map(|t| t.id)
        };
        let inputs = [
            fill(x.shape(), &Fill::Range(-2.0, 2.0), 3).cast::<f64>(),
            fill(b.shape(), &Fill::Range(-1.0, 1.0), 4).cast::<f64>(),
            Host::<f32>::labels([2], vec![3, 0]).cast(),
            Host::<f32>::labels([2, 1, 1, 5], vec![0, 1, 1, 0, 1, 0, 0, 1, 1, 1]).cast(),
        ];
        let [ours, plain] = [ours, plain].map(twice).map(|ids| {
            let outputs = ids.map(|id| g.tensor(id));
            interpret(&Ir::new(&g, &outputs), &inputs, &[], Key::default())
        });
        for (k, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
            for (a, b) in ours.f().iter().zip(plain.f()) {
                assert!((a - b).abs() <= 1e-7 * (1.0 + b.abs()), "{causal} {by_length} {by_mask}, output {k}: {a}, not {b}");
            }
        }
    }
}

/// Runs an attention of random numbers on the CPU device. The value is first, then the gradients of q, k and v.
fn attend(graph: Graph, lead: &[usize], options: Attention) -> Vec<Host<f32>> {
    use crate::{Device, ops::fill};
    let shapes = [[5, 4], [7, 4], [7, 3]].map(|rc| Shape::new(&[lead, &rc].concat()).unwrap());
    let x = shapes.map(|s| graph.input(s));
    let y = x[0].scaled_dot_product_attention(x[1], x[2], options);
    let outputs = if graph.is_training() { [&[y], &y.sin().sum_all().grad(&x)[..]].concat() } else { vec![y] };
    let feed: Vec<Host<f32>> = shapes.iter().enumerate().map(|(i, &s)| fill(s, &Fill::Range(-1.0, 1.0), i as u64)).collect();
    Device::cpu().compile(&outputs).unwrap().run(&feed).unwrap()
}

/// The weights that dropout keeps are those of `rng`, at the places that the documentation names.
#[test]
fn dropout_drops_weights() {
    use crate::{ops::fill, oracle::interpret, plan::ir::Ir, rng::uniform01};
    let (p, [b, n, m]) = (0.4, [2usize, 5, 7]);
    let g = Graph::training();
    let [q, k, v, factors] = [[b, n, 4], [b, m, 4], [b, m, 3], [b, n, m]].map(|s| g.input(s));
    let options = Attention { dropout_p: p, ..Attention::default() };
    let ours = q.scaled_dot_product_attention(k, v, options);
    let plain = ((q.matmul_t(k, false, true) * 0.5).softmax(-1) * factors).matmul(v);
    let twice = |y: Tensor<'_>| {
        let first = y.sin().sum_all().grad(&[q, k, v]);
        let second = (first[0].square().sum_all() + first[2].square().sum_all()).grad(&[q, k, v]);
        [&[y], &first[..], &second[..]].concat().iter().map(|t| t.id).collect::<Vec<_>>()
    };
    let drawn = |at: usize| uniform01(3, 9, 1, (at / m * 8 + at % m) as u32);
    let kept: Vec<f32> = (0..b * n * m).map(|at| if drawn(at) >= p { 1.0 / (1.0 - p) } else { 0.0 }).collect();
    assert!(kept.contains(&0.0) && !kept.iter().all(|&f| f == 0.0));
    let mut feed: Vec<Host<f64>> = [q, k, v].iter().zip(0..).map(|(x, s)| fill(x.shape(), &Fill::Range(-1.0, 1.0), s).cast()).collect();
    feed.push(Host::new([b, n, m], kept).cast());
    let key = Key { seed: 3, step: 9 };
    let [ours, plain] = [ours, plain].map(twice).map(|ids| {
        let outputs: Vec<Tensor> = ids.into_iter().map(|id| g.tensor(id)).collect();
        interpret(&Ir::new(&g, &outputs), &feed, &[], key)
    });
    for (k, (ours, plain)) in ours.iter().zip(&plain).enumerate() {
        for (a, b) in ours.f().iter().zip(plain.f()) {
            assert!((a - b).abs() <= 1e-6 * (1.0 + b.abs()), "output {k}: {a}, not {b}");
        }
    }
}

/// The mean over many masks is the attention without dropout. Inference has no dropout, and with p = 1 nothing is left.
#[test]
fn dropout_has_the_mean_of_attention() {
    use crate::{Device, ops::fill};
    let (p, count) = (0.3f64, 4000);
    let g = Graph::training();
    let [q, k, v] = [[5, 4], [7, 4], [7, 3]].map(|s| g.input(s));
    let drop = Attention { dropout_p: p as f32, ..Attention::default() };
    let many = q.broadcast_to([count, 5, 4]).scaled_dot_product_attention(k, v, drop);
    let all = [many.mean(&[0], false), q.scaled_dot_product_attention(k, v, Attention::default())];
    let feed: Vec<Host<f32>> = [q, k, v].iter().zip(0..).map(|(x, s)| fill(x.shape(), &Fill::Range(-1.0, 1.0), s)).collect();
    let y = Device::cpu().compile(&all).unwrap().run(&feed).unwrap();
    for (mean, want) in y[0].f().iter().zip(y[1].f()) {
        // Weights are at most 1 and values at most 1: a result deviates by at most √(p/(1 − p)), its mean by that over √count.
        let deviation = (p / (1.0 - p) / f64::from(count as u32)).sqrt();
        assert!(f64::from(mean - want).abs() < 5.0 * deviation && mean != want, "{mean} instead of {want}");
    }
    let plain = attend(Graph::inference(), &[2], Attention::default());
    assert_eq!(attend(Graph::inference(), &[2], drop), plain);
    assert_ne!(attend(Graph::training(), &[2], drop)[0], plain[0]);
    let none = attend(Graph::training(), &[2], Attention { dropout_p: 1.0, ..drop });
    assert!(none[..3].iter().all(|x| x.f().iter().all(|&x| x == 0.0)), "{none:?}");
}

/// Keys outside of the window change no bit.
#[test]
fn a_window_hides_keys() {
    use crate::{Device, ops::fill};
    for causal in [false, true] {
        let g = Graph::training();
        let [q, k] = [[200, 3], [300, 3]].map(|s| g.input(s));
        let options = Attention { causal, local_window_size: Some([9, 20]), ..Attention::default() };
        let y = q.scaled_dot_product_attention(k, k, options).slice(0, 130, 140);
        let mut f = Device::cpu().compile(&[y]).unwrap();
        let q = fill([200, 3].into(), &Fill::Range(-1.0, 1.0), 1);
        let k = fill([300, 3].into(), &Fill::Range(-1.0, 1.0), 2);
        let want = f.run(&[q.clone(), k.clone()]).unwrap().remove(0);
        let mut far = k.f().to_vec();
        far.iter_mut().enumerate().filter(|(i, _)| !(121..160).contains(&(i / 3))).for_each(|(_, x)| *x += 5.0);
        assert_eq!(f.run(&[q, Host::new([300, 3], far)]).unwrap()[0], want);
    }
}

#[test]
fn slopes_are_those_of_the_paper() {
    let powers = |all: &[i32]| all.iter().map(|&k| 2f32.powf(-k as f32 / 2.0)).collect::<Vec<_>>();
    assert_eq!(tensor::slopes(8), powers(&[2, 4, 6, 8, 10, 12, 14, 16]));
    assert_eq!(tensor::slopes(1), powers(&[16]));
    // Four heads, and two of the eight slopes of the next sequence.
    assert_eq!(tensor::slopes(6), powers(&[4, 8, 12, 16, 2, 6]));
}

#[test]
fn lengths_out_of_range() {
    use crate::Device;
    let run = |lengths: Vec<u32>| {
        let g = Graph::inference();
        let q = g.input([2, 1, 3, 1]);
        let y = q.scaled_dot_product_attention_masked(q, q, AttentionMask::lengths(g.labels([2])), Attention::default());
        let mut f = Device::cpu().compile(&[y]).unwrap();
        f.run(&[Host::new([2, 1, 3, 1], vec![1.0; 6]), Host::labels([2], lengths)]).map(|y| y[0].f().to_vec())
    };
    assert_eq!(run(vec![3, 0]).unwrap(), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let error = run(vec![3, 4]).unwrap_err().to_string();
    assert_eq!(error, "scaled_dot_product_attention: sample 1 has the length 4, but lengths must be from 0 to 3");
    let g = Graph::inference();
    let q = g.input([2, 3, 1]);
    q.scaled_dot_product_attention_masked(q, q, AttentionMask::lengths(g.constant(Host::labels([2], vec![9, 1]))), Attention::default());
    assert!(g.error().unwrap().to_string().contains("sample 0 has the length 9"));
    // The device computes this length, so it counts as 3.
    let g = Graph::inference();
    let q = g.input([1, 3, 1]);
    let long = (g.input([1]) * 100.0).to_index();
    let y = q.scaled_dot_product_attention_masked(q, q, AttentionMask::lengths(long), Attention::default());
    let y = Device::cpu().compile(&[y]).unwrap().run(&[Host::new([1, 3, 1], vec![0.0, 0.0, 0.0]), Host::new([1], vec![1.0])]).unwrap();
    assert_eq!(y[0].f(), [0.0; 3]);
}

#[test]
fn mistakes_in_masks() {
    let message = |mask: for<'g> fn(&'g Graph) -> AttentionMask<'g>| {
        let g = Graph::training();
        let [q, k] = [[2, 3, 5, 4], [2, 3, 7, 4]].map(|s| g.input(s));
        assert!(q.scaled_dot_product_attention_masked(k, k, mask(&g), Attention::default()).is_dead());
        g.error().unwrap().to_string()
    };
    for (text, want) in [
        (
            message(|g| AttentionMask::lengths(g.labels([3]))),
            "lengths must have the first of the leading axes [2, 3], but have the shape [3]",
        ),
        (message(|g| AttentionMask::lengths(g.input([2]))), "lengths must be labels, not floats"),
        (message(|g| AttentionMask { bias: Some(g.labels([5, 7])), ..AttentionMask::default() }), "a bias must be floats, not labels"),
        (
            message(|g| AttentionMask { bias: Some(g.input([5, 6])), ..AttentionMask::default() }),
            "a mask or bias must broadcast to [2, 3, 5, 7], but has the shape [5, 6]",
        ),
        (
            message(|g| AttentionMask { mask: Some(g.input([1, 1, 1, 1, 7])), ..AttentionMask::default() }),
            "a mask or bias must broadcast to [2, 3, 5, 7]",
        ),
    ] {
        assert!(text.starts_with("scaled_dot_product_attention: [2, 3, 5, 4] × [2, 3, 7, 4] × [2, 3, 7, 4] × "), "{text}");
        assert!(text.contains(want) && text.contains(" (src/ops/attention/tests.rs:"), "{text}");
    }
    let g = Graph::training();
    let q = g.input([2, 3, 2, 5, 4]);
    let mask = AttentionMask { bias: Some(g.input([2, 1, 2, 5, 5])), ..AttentionMask::default() };
    assert!(q.scaled_dot_product_attention_masked(q, q, mask, Attention::default()).is_dead());
    assert!(g.error().unwrap().to_string().contains("the leading axes of a mask that are not 1 must be neighbours"));
}
