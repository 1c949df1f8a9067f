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
