use super::*;
use crate::{Graph, ops::checks};

#[test]
fn wgsl() {
    checks::wgsl::<Conv2dOp>();
    checks::wgsl::<Conv2dGradX>();
    checks::wgsl::<Conv2dGradW>();
}

type Model = for<'g> fn(&'g Graph) -> Tensor<'g>;

/// Checks that the error of `f` begins with `text`.
fn told(f: Model, text: &str) {
    let g = Graph::training();
    assert!(f(&g).is_dead());
    let message = g.error().map_or(String::new(), |e| e.to_string());
    assert!(message.starts_with(text), "{message}");
}

#[test]
fn mistakes() {
    let conv = Convolution::<2>::default;
    told(
        |g| g.input([2, 3, 4, 5]).convolve2d(g.input([8, 3, 5, 3]), Convolution::default()),
        "conv2d: [2, 3, 4, 5] × [8, 3, 5, 3]: the kernel is 5 × 3, which is more than the image with its padding, 4 × 5 (src/ops/conv2d/tests.rs:",
    );
    told(
        |g| g.input([2, 3, 4]).convolve1d(g.input([8, 3, 3]), Convolution { dilation: [2], ..Convolution::default() }),
        "conv1d: [2, 3, 4] × [8, 3, 3]: the kernel, dilated, is 5, which is more than the image with its padding, 4 (src/ops/conv2d/tests.rs:",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 1, 3, 3]), Convolution { groups: 3, ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [6, 1, 3, 3]: 3 groups do not divide 4 input channels (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([5, 2, 3, 3]), Convolution { groups: 2, ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [5, 2, 3, 3]: 2 groups do not divide 5 output channels (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3, 3]), Convolution { groups: 2, ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [6, 4, 3, 3]: the weight is for 4 channels in each of 2 groups, but the input has 4 (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 3, 3, 3]), Convolution::default()),
        "conv2d: [2, 4, 5, 5] × [6, 3, 3, 3]: the weight is for 3 channels, but the input has 4 (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3, 3]), Convolution { stride: [0, 1], ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [6, 4, 3, 3]: a stride of 0 × 1 is not possible: it must be 1 or more (",
    );
    told(
        |g| g.input([2, 4, 5]).convolve1d(g.input([6, 4, 3]), Convolution { dilation: [0], ..Convolution::default() }),
        "conv1d: [2, 4, 5] × [6, 4, 3]: a dilation of 0 is not possible: it must be 1 or more (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3, 3]), Convolution { groups: 0, ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [6, 4, 3, 3]: there are no 0 groups: 1 is a plain convolution (",
    );
    told(
        |g| g.input([2, 4, 5]).convolve2d(g.input([6, 4, 3, 3]), Convolution::default()),
        "conv2d: [2, 4, 5] × [6, 4, 3, 3]: input 0 should be [n, channels, height, width], not of 3 axes (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3]), Convolution::default()),
        "conv2d: [2, 4, 5, 5] × [6, 4, 3]: the weight should have 4 axes, not 3 (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve1d(g.input([6, 4, 3]), Convolution::default()),
        "conv1d: [2, 4, 5, 5] × [6, 4, 3]: input 0 should be [n, channels, length], not of 4 axes (",
    );
    told(
        |g| g.labels([2, 4, 5]).convolve1d(g.input([6, 4, 3]), Convolution::default()),
        "conv1d: u32 [2, 4, 5] × [6, 4, 3]: input 0 holds labels; `to_f32` makes floats of them (",
    );
    told(
        |g| {
            let options = Convolution { stride: [2, 1], padding: Padding::Same, ..Convolution::default() };
            g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3, 3]), options)
        },
        "conv2d: [2, 4, 5, 5] × [6, 4, 3, 3]: padding `Same` is for a stride of 1, not 2 × 1; `Padding::Sides` gives the zeros of each side (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3, 3]), Convolution { padding: usize::MAX.into(), ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [6, 4, 3, 3]: stride, dilation and padding must be at most 1073741824 (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve2d(g.input([6, 4, 3, 3]), Convolution { padding: [1 << 30, 1].into(), ..Convolution::default() }),
        "conv2d: [2, 4, 5, 5] × [6, 4, 3, 3]: the image with its padding is 2147483653 × 7; along each axis it must be at most 1073741824 (",
    );
    assert_eq!(conv(), Convolution { stride: [1, 1], padding: 0.into(), dilation: [1, 1], groups: 1 });
}

#[test]
fn mistakes_in_transposed_ones() {
    told(
        |g| {
            g.input([2, 4, 5, 5]).convolve_transpose2d(
                g.input([4, 3, 3, 3]),
                Convolution { stride: [2, 3], ..Convolution::default() },
                [1, 3],
            )
        },
        "conv_transpose2d: [2, 4, 5, 5] × [4, 3, 3, 3]: the output padding 1 × 3 must be below the stride 2 × 3 or the dilation 1 × 1 along each axis (",
    );
    told(
        |g| {
            g.input([2, 4, 1, 5]).convolve_transpose2d(
                g.input([4, 3, 2, 3]),
                Convolution { padding: 1.into(), ..Convolution::default() },
                [0, 0],
            )
        },
        "conv_transpose2d: [2, 4, 1, 5] × [4, 3, 2, 3]: the padding takes 2 × 2 from 2 × 7, which leaves nothing (",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve_transpose2d(g.input([3, 3, 2, 3]), Convolution::default(), [0, 0]),
        "conv_transpose2d: [2, 4, 5, 5] × [3, 3, 2, 3]: the weight is for 3 channels, but the input has 4 (",
    );
    told(
        |g| {
            let options = Convolution { padding: Padding::Same, ..Convolution::default() };
            g.input([2, 4, 5, 5]).convolve_transpose2d(g.input([4, 3, 3, 3]), options, [0, 0])
        },
        "conv_transpose2d: [2, 4, 5, 5] × [4, 3, 3, 3]: padding `Same` is not for a transposed convolution",
    );
    told(
        |g| g.input([2, 4, 5, 5]).convolve_transpose2d(g.input([4, 3, 3, 3]), Convolution { groups: 3, ..Convolution::default() }, [0, 0]),
        "conv_transpose2d: [2, 4, 5, 5] × [4, 3, 3, 3]: 3 groups do not divide 4 input channels (",
    );
}

/// A convolution, its bias and an activation are one step of the plan.
#[test]
fn bias_and_activation_are_one_kernel() {
    let g = Graph::training();
    let y = g.input([2, 3, 8, 8]).conv2d("conv1", 16, 3).relu();
    let t = y.conv_transpose2d("up", 3, 3).sigmoid();
    let row = g.input([2, 3, 8]).conv1d("row", 16, 3);
    for (y, name) in [(y, "conv2d tiles"), (t, "conv2d_grad_x tiles"), (row, "conv2d tiles")] {
        let options = crate::plan::PlanOptions::new(Some(Caps::default()));
        let plan = crate::plan::Plan::new(&[y], &[], &options).unwrap();
        let steps: Vec<String> = plan.to_string().lines().filter(|l| !l.starts_with("reshape")).map(str::to_string).collect();
        assert_eq!(steps.len(), if name.contains("grad") { 2 } else { 1 }, "{steps:?}");
        assert!(steps.iter().any(|step| step.starts_with(name)), "{steps:?}");
    }
}
