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
        assert!(q.scaled_dot_product_attention(k, v, Attention { causal: false, scale }).is_dead());
        g.error().unwrap().to_string()
    };
    let start = |text: String, want: &str| {
        assert!(text.starts_with(&format!("scaled_dot_product_attention: {want}")), "{text}");
        assert!(text.contains(" (src/ops/attention/tests.rs:"), "{text}");
    };
    start(message(&[4], &[4, 2], &[4, 2], None), "[4] × [4, 2] × [4, 2]: queries, keys and values must be floats with at least two axes");
    start(message(&[2, 5, 8], &[2, 7, 6], &[2, 7, 6], None), "[2, 5, 8] × [2, 7, 6] × [2, 7, 6]: queries have 8 features, but keys have 6");
    start(message(&[5, 8], &[7, 8], &[6, 8], None), "[5, 8] × [7, 8] × [6, 8]: there are 7 keys, but 6 values");
    start(message(&[2, 5, 8], &[7, 8], &[7, 8], None), "[2, 5, 8] × [7, 8] × [7, 8]: the axes before the last two must be the same");
    start(message(&[5, 8], &[7, 8], &[7, 8], Some(f32::NAN)), "[5, 8] × [7, 8] × [7, 8]: the scale must be a finite number, not NaN");
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
        let ours = x.scaled_dot_product_attention(k, v, Attention { causal, scale: None });
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
        let ours = x.scaled_dot_product_attention_masked(k, v, mask, Attention { causal, scale: None });
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
