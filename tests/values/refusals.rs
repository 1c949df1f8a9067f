//! Some odd arguments are accepted, because PyTorch, NumPy or ONNX accept them. Others are refused, and the error states the reason.

use crate::common::{BOTH, Check, Suite};
use downhill::{
    DType, Device, Graph, Host, Shape, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    layers::{Conv1d, Conv2d, ConvTranspose2d, TransformerEncoderLayer},
    ops::{
        Fill,
        conv2d::{Convolution, Padding},
        max_pool2d::MaxPool,
        resample::{AvgPool, Upsample},
    },
    optim::Sgd,
    testing,
};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "output padding below the dilation", output_padding);
    suite.each(&BOTH, "a pair pads one axis left and right", left_and_right);
    suite.each(&BOTH, "pools with much padding", pools);
    suite.each(&BOTH, "dropout of everything", dropout);
    suite.each(&BOTH, "axes of a scalar", scalars);
    suite.each(&BOTH, "products of vectors", vectors);
    suite.test("what pads nothing or too much is refused", refused);
    suite.test("an axis of size 0 is refused by its name", nothing);
}

/// Outputs, and the inputs that they are of.
type Values<const N: usize> = (Vec<Vec<f64>>, [Vec<f64>; N]);

/// A tensor's value, the gradients for its inputs, and those inputs, which are spread over −2..2.
fn run<const N: usize>(
    device: &Device,
    shapes: [Shape; N],
    f: impl for<'g> Fn([Tensor<'g>; N]) -> Tensor<'g>,
) -> Result<Values<N>, Box<dyn std::error::Error>> {
    let g = Graph::training();
    let x = shapes.map(|s| g.input_of(s));
    let y = f(x);
    let mut outputs = vec![y];
    if y.shape().dtype() == DType::F32 {
        // The gradient that comes in differs from element to element.
        let c = g.constant(cotangent(y.shape()));
        outputs.extend((y * c).sum_all().grad(&x));
    }
    let mut number = 0;
    let inputs = shapes.map(|s| {
        number += 1;
        testing::fill(s, &Fill::Range(-2.0, 2.0), number)
    });
    let values = device.compile(&outputs)?.run(&inputs)?;
    // The oracle has the same, whatever is expected of it.
    testing::compare(&g, &outputs, &inputs, device, &device.plan_options(), 64)?;
    Ok((values.iter().map(Host::to_f64).collect(), inputs.map(|x| x.to_f64())))
}

fn cotangent(shape: Shape) -> Host<f32> {
    testing::fill(shape, &Fill::Range(-1.0, 1.5), 99)
}

fn near(what: &str, got: &[f64], want: &[f64]) -> Result<(), String> {
    testing::close(got, want, 64).map_err(|e| format!("{what}: {e}: {got:?} instead of {want:?}"))
}

/// The settings of one axis: stride, dilation, zeros before and after, output padding.
#[derive(Clone, Copy)]
struct Along(usize, usize, [usize; 2], usize);

/// `y[i·s + a·d − before] += x[i]·w[a]`, of `[1, 1, h, w]` and one kernel, by its definition; and the pairs that meet.
fn transposed(x: [usize; 2], k: [usize; 2], along: [Along; 2]) -> ([usize; 2], Vec<[usize; 3]>) {
    let size = |i: usize| (x[i] - 1) * along[i].0 + along[i].1 * (k[i] - 1) + 1 + along[i].3 - along[i].2[0] - along[i].2[1];
    let out = [size(0), size(1)];
    let at = |axis: usize, i: usize, a: usize| {
        let Along(stride, dilation, [before, _], _) = along[axis];
        (i * stride + a * dilation).checked_sub(before).filter(|&p| p < out[axis])
    };
    let mut all = Vec::new();
    for (i, j) in (0..x[0]).flat_map(|i| (0..x[1]).map(move |j| (i, j))) {
        for (a, b) in (0..k[0]).flat_map(|a| (0..k[1]).map(move |b| (a, b))) {
            if let (Some(p), Some(q)) = (at(0, i, a), at(1, j, b)) {
                all.push([i * x[1] + j, a * k[1] + b, p * out[1] + q]);
            }
        }
    }
    (out, all)
}

/// A name, the sizes of image and kernel, and how that moves.
type Row = (&'static str, [usize; 2], [usize; 2], [Along; 2]);

/// PyTorch wants it below the stride or the dilation of its axis: what is behind the reach of the kernel is 0.
fn output_padding(device: &Device) -> Check {
    let table: [Row; 6] = [
        ("stride 1, dilation 3, 2 more", [2, 2], [2, 2], [Along(1, 3, [0, 0], 2); 2]),
        ("the issue's, 7 × 7", [2, 2], [2, 2], [Along(1, 3, [0, 0], 2), Along(1, 3, [0, 0], 2)]),
        ("along one axis", [3, 4], [2, 3], [Along(2, 5, [1, 0], 4), Along(3, 1, [0, 2], 2)]),
        ("with padding", [3, 2], [3, 2], [Along(2, 3, [2, 1], 2), Along(1, 4, [1, 3], 3)]),
        ("nothing but zeros", [1, 1], [1, 1], [Along(1, 5, [1, 1], 4), Along(1, 2, [0, 0], 1)]),
        ("below both", [3, 3], [3, 3], [Along(2, 3, [0, 0], 1), Along(3, 2, [1, 1], 1)]),
    ];
    for (name, x, k, along) in table {
        let (out, pairs) = transposed(x, k, along);
        let padding = Padding::Sides([along[0].2[0], along[0].2[1], along[1].2[0], along[1].2[1]]);
        let options = Convolution { stride: along.map(|a| a.0), padding, dilation: along.map(|a| a.1), groups: 1 };
        let shapes = [Shape::from([1, 1, x[0], x[1]]), Shape::from([1, 1, k[0], k[1]])];
        let (values, [xs, ws]) = run(device, shapes, |[x, w]| x.convolve_transpose2d(w, options, along.map(|a| a.3)))?;
        let y_shape = Shape::from([1, 1, out[0], out[1]]);
        let c = cotangent(y_shape).to_f64();
        let (mut y, mut dx, mut dw) = (vec![0.0; out[0] * out[1]], vec![0.0; xs.len()], vec![0.0; ws.len()]);
        for [i, a, p] in pairs {
            y[p] += xs[i] * ws[a];
            dx[i] += c[p] * ws[a];
            dw[a] += c[p] * xs[i];
        }
        assert_eq!(values[0].len(), y.len(), "{name}");
        for (what, (got, want)) in ["y", "dx", "dw"].iter().zip(values.iter().zip([&y, &dx, &dw])) {
            near(&format!("{name}, {what}"), got, want)?;
        }
    }
    // The layer: its bias lies in the zeros too. Groups and several samples against the op on each of them.
    let g = Graph::training();
    let options =
        ConvTranspose2d { dilation: [3, 3], output_padding: [2, 2], groups: 2, bias: Some(Init::Ones), ..ConvTranspose2d::default() };
    let y = g.input([2, 4, 2, 2]).conv_transpose2d_with("up", 6, 2, options);
    assert_eq!(y.shape(), Shape::from([2, 6, 7, 7]));
    let mut trainer = Trainer::new(device, y.square().mean_all(), Sgd::new(0.1))?;
    trainer.step(&[testing::fill([2, 4, 2, 2].into(), &Fill::Range(-1.0, 1.0), 1)])?;
    let corner = y.slice(2, 5, 7).sub_ones();
    let x = testing::fill([2, 4, 2, 2].into(), &Fill::Range(-1.0, 1.0), 1);
    assert!(device.compile(&[corner])?.run(&[x])?[0].f().iter().all(|v| *v == 0.0));
    Ok(())
}

trait SubOnes {
    fn sub_ones(self) -> Self;
}
impl SubOnes for Tensor<'_> {
    fn sub_ones(self) -> Self {
        self - 1.0
    }
}

/// `[2, 0]` is two zeros on the left, none on the right; a single number counts the zeros on each side; `[top, bottom, left, right]` with
/// nothing above and below means the same.
fn left_and_right(device: &Device) -> Check {
    for (padding, [left, right]) in [
        (Padding::from([2, 0]), [2, 0]),
        ([0, 2].into(), [0, 2]),
        ([3, 1].into(), [3, 1]),
        (2.into(), [2, 2]),
        (Padding::Sides([0, 0, 1, 2]), [1, 2]),
        (Padding::Sides([1, 2, 1, 2]), [1, 2]),
        // 2·(4 − 1) = 6: three on each side; 1·(4 − 1): the second half has one more.
        (Padding::Same, [3, 3]),
    ] {
        let (n, k, dilation) = (7, 4, if padding == Padding::Same { 2 } else { 1 });
        let options = Convolution { padding, dilation: [dilation], ..Convolution::default() };
        let shapes = [Shape::from([1, 1, n]), Shape::from([1, 1, k])];
        let (values, [x, w]) = run(device, shapes, |[x, w]| x.convolve1d(w, options))?;
        let out = n + left + right - dilation * (k - 1);
        let at = |i: usize| i.checked_sub(left).filter(|&i| i < n).map_or(0.0, |i| x[i]);
        let want: Vec<f64> = (0..out).map(|o| (0..k).map(|a| at(o + a * dilation) * w[a]).sum()).collect();
        near(&format!("{padding:?}"), &values[0], &want)?;
        // The layer takes the same.
        let g = Graph::training();
        let layer = Conv1d { padding, dilation: [dilation], ..Conv1d::default() };
        assert_eq!(g.input([3, 2, n]).conv1d_with("c", 5, k, layer).shape(), Shape::from([3, 5, out]));
    }
    // A causal convolution: what comes later makes no difference.
    let g = Graph::inference();
    let y = g.input([1, 1, 5]).convolve1d(g.input([1, 1, 3]), Convolution { padding: [2, 0].into(), ..Convolution::default() });
    let w = Host::new([1, 1, 3], vec![1.0, 10.0, 100.0]);
    let y = device.compile(&[y])?.run(&[Host::new([1, 1, 5], vec![1.0, 2.0, 3.0, 4.0, 5.0]), w])?;
    assert_eq!(y[0].f(), [100.0, 210.0, 321.0, 432.0, 543.0]);
    // For an image, a pair is still the height and the width.
    let g = Graph::training();
    let y = g.input([1, 1, 5, 5]).conv2d_with("c", 1, 3, Conv2d { padding: [2, 0].into(), ..Conv2d::default() });
    assert_eq!(y.shape(), Shape::from([1, 1, 7, 3]));
    Ok(())
}

/// More padding than half of the kernel, as ONNX allows it: a maximum is of what lies inside, a mean is over all places or over
/// those. Windows by their definition, along one axis and both.
fn pools(device: &Device) -> Check {
    for (n, kernel, padding, stride, dilation, ceil_mode) in [
        (4, 3, 2, 1, 1, false),
        (5, 2, 1, 3, 1, true),
        (5, 4, 3, 2, 1, false),
        (3, 2, 1, 1, 3, false),
        (6, 3, 2, 2, 1, true),
        (6, 3, 4, 1, 2, false),
        (2, 5, 4, 1, 1, false),
    ] {
        let padded: usize = n + 2 * padding;
        let span = (kernel - 1) * dilation + 1;
        let mut out = (padded - span) / stride + 1;
        // As in PyTorch: rounded up, unless the last window starts behind the elements and the padding before them.
        out += usize::from(ceil_mode && !(padded - span).is_multiple_of(stride) && out * stride < n + padding);
        let inside = |o: usize| (0..kernel).filter_map(move |a| (o * stride + a * dilation).checked_sub(padding).filter(|&i| i < n));
        let row = Shape::from([1, 1, n]);
        let options = MaxPool { stride: Some([stride]), padding: [padding], dilation: [dilation], ceil_mode };
        let (values, [x]) = run(device, [row], |[x]| x.max_pool1d_with(kernel, options))?;
        let first = |o: usize| inside(o).reduce(|a, b| if x[b] > x[a] { b } else { a }).expect("each window has an element");
        near("max", &values[0], &(0..out).map(|o| x[first(o)]).collect::<Vec<_>>())?;
        let (mut dx, c) = (vec![0.0; n], cotangent([1, 1, out].into()).to_f64());
        (0..out).for_each(|o| dx[first(o)] += c[o]);
        near("max, gradient", &values[1], &dx)?;
        let plane = Shape::from([2, 3, n, n]);
        let (of, two) =
            (|s: usize| [s, s], MaxPool { stride: Some([stride; 2]), padding: [padding; 2], dilation: [dilation; 2], ceil_mode });
        let (values, [x]) = run(device, [plane], |[x]| x.max_pool2d_with(of(kernel), two))?;
        let most = |k: usize, o: usize, q: usize| {
            inside(o).flat_map(|i| inside(q).map(move |j| (i, j))).map(|(i, j)| x[(k * n + i) * n + j]).fold(f64::NEG_INFINITY, f64::max)
        };
        let want: Vec<f64> = (0..6).flat_map(|k| (0..out * out).map(move |w| (k, w))).map(|(k, w)| most(k, w / out, w % out)).collect();
        near("max of images", &values[0], &want)?;
        if dilation > 1 {
            continue;
        }
        for count_include_pad in [true, false] {
            let options = AvgPool { stride: Some([stride]), padding: [padding], ceil_mode, count_include_pad };
            let (values, [x]) = run(device, [row], |[x]| x.avg_pool1d_with(kernel, options))?;
            // A window that reaches past the padding is shorter.
            let places = |o: usize| if count_include_pad { (o * stride + kernel).min(padded) - o * stride } else { inside(o).count() };
            let want: Vec<f64> = (0..out).map(|o| inside(o).map(|i| x[i]).sum::<f64>() / places(o) as f64).collect();
            near("mean", &values[0], &want)?;
            let mut dx = vec![0.0; n];
            (0..out).for_each(|o| inside(o).for_each(|i| dx[i] += c[o] / places(o) as f64));
            near("mean, gradient", &values[1], &dx)?;
        }
    }
    // A mean that counts its padding is 0 where there is nothing else: [1, 2] after 3 zeros and before 3.
    let options = AvgPool { stride: Some([2]), padding: [3], ..AvgPool::default() };
    let (values, [x]) = run(device, [Shape::from([1, 1, 2])], |[x]| x.avg_pool1d_with(2, options))?;
    near("wholly in the padding", &values[0], &[0.0, x[0] / 2.0, x[1] / 2.0, 0.0])?;
    Ok(())
}

/// p = 1: zeros, and a gradient of 0, whatever the values are.
fn dropout(device: &Device) -> Check {
    let inf = f32::INFINITY;
    let values = Host::new([1, 2, 2, 2], vec![1.0, -inf, f32::MAX, 0.0, inf, f32::NAN, -3.0, 1e-30]);
    for f in [|x: Tensor| x.dropout(1.0), |x: Tensor| x.dropout2d(1.0)] as [for<'g> fn(Tensor<'g>) -> Tensor<'g>; 2] {
        let g = Graph::training();
        let x = g.input([1, 2, 2, 2]);
        let y = f(x);
        let dx = (y * g.full([1, 2, 2, 2], inf)).sum_all().grad(&[x])[0];
        let linear = (y * 3.0).sum_all().grad(&[x])[0];
        let out = device.compile(&[y, linear])?.run(std::slice::from_ref(&values))?;
        assert!(out.iter().all(|y| y.f().iter().all(|&v| v == 0.0)), "{out:?}");
        // The incoming gradient may be infinite too.
        let out = device.compile(&[dx])?.run(std::slice::from_ref(&values))?;
        assert!(out[0].f().iter().all(|&v| v == 0.0), "{out:?}");
        // An inference graph accepts all cases.
        let g = Graph::inference();
        let out = device.compile(&[f(g.input([1, 2, 2, 2]))])?.run(std::slice::from_ref(&values))?;
        assert_eq!(out[0].f()[..5], values.f()[..5]);
    }
    // A model trains beside it.
    let g = Graph::training();
    let options = TransformerEncoderLayer { dropout: 1.0, ..TransformerEncoderLayer::default() };
    let y = g.input([2, 3, 4]).linear("in", 4).transformer_encoder_layer_with("t", 2, 8, options);
    let mut trainer = Trainer::new(device, (y - 0.5).square().mean_all(), Sgd::new(0.1))?;
    for _ in 0..2 {
        trainer.step(&[testing::fill([2, 3, 4].into(), &Fill::Range(-1.0, 1.0), 1)])?;
    }
    assert!(trainer.loss()?.is_finite());
    let gradient = trainer.gradient("t.linear2.weight")?;
    assert!(gradient.f().iter().all(|&v| v == 0.0), "{gradient:?}");
    Ok(())
}

/// 0 and −1 are axes of a scalar, as in PyTorch: it has one element along each.
fn scalars(device: &Device) -> Check {
    type F = for<'g> fn(Tensor<'g>, isize) -> Tensor<'g>;
    // With the value and the derivative.
    type Row = (&'static str, F, fn(f64) -> [f64; 2]);
    let table: [Row; 12] = [
        ("sum", |x, a| x.sum(&[a], false), |x| [x, 1.0]),
        ("mean", |x, a| x.mean(&[a], true), |x| [x, 1.0]),
        ("max", |x, a| x.max(&[a], false), |x| [x, 1.0]),
        ("min", |x, a| x.min(&[a], true), |x| [x, 1.0]),
        ("logsumexp", |x, a| x.logsumexp(&[a], false), |x| [x, 1.0]),
        ("variance", |x, a| x.variance(&[a], 0, false), |_| [0.0, 0.0]),
        ("softmax", |x, a| x.softmax(a), |_| [1.0, 0.0]),
        ("log_softmax", |x, a| x.log_softmax(a), |_| [0.0, 0.0]),
        ("flip", |x, a| x.flip(a), |x| [x, 1.0]),
        ("squeeze", |x, a| x.squeeze(a), |x| [x, 1.0]),
        ("unsqueeze", |x, a| x.unsqueeze(a).squeeze(0), |x| [x, 1.0]),
        ("all", |x, _| x.sum_all() + x.mean_all() + x.max_all() + x.min_all(), |x| [4.0 * x, 4.0]),
    ];
    let c = cotangent(Shape::SCALAR).to_f64()[0];
    for (name, f, want) in table {
        for axis in [0, -1] {
            let (values, [x]) = run(device, [Shape::SCALAR], |[x]| f(x, axis))?;
            let [y, dx] = want(x[0]);
            near(name, &values[0], &[y])?;
            near(&format!("{name}, gradient"), &values[1], &[dx * c])?;
        }
        let g = Graph::training();
        assert_eq!(f(g.input([]), -1).shape(), Shape::SCALAR, "{name}");
    }
    for axis in [0, -1] {
        let g = Graph::training();
        let x = g.input([]);
        let y = device.compile(&[x.argmax(axis), x.argmin(axis)])?.run(&[Host::new([], vec![-3.0])])?;
        assert!(y.iter().all(|y| y.u() == [0] && y.shape == Shape::SCALAR.u32()), "{y:?}");
    }
    // There are no others.
    for axis in [1, -2] {
        for f in [|x: Tensor, a| x.sum(&[a], false), |x: Tensor, a| x.softmax(a), |x: Tensor, a| x.argmax(a), |x: Tensor, a| x.squeeze(a)]
            as [F; 4]
        {
            let error = f(Graph::training().input([]), axis).error().map_or(String::new(), |e| e.to_string());
            assert!(error.contains(&format!("there is no axis {axis}")), "{error}");
        }
    }
    Ok(())
}

/// As in NumPy, PyTorch and ONNX: a vector on the left is a row, one on the right a column.
fn vectors(device: &Device) -> Check {
    for (a, b, y) in [
        (&[3][..], &[3][..], &[][..]),
        (&[3], &[3, 4], &[4]),
        (&[5, 3], &[3], &[5]),
        (&[3], &[2, 3, 4], &[2, 4]),
        (&[2, 5, 3], &[3], &[2, 5]),
        (&[1], &[1], &[]),
    ] {
        let [a, b, y] = [a, b, y].map(|d| Shape::new(d).expect("at most six axes"));
        let g = Graph::training();
        assert_eq!(g.input_of(a).matmul(g.input_of(b)).shape(), y);
        let (values, [xs, ws]) = run(device, [a, b], |[a, b]| a.matmul(b))?;
        // y[o, i, j] = Σ_k a[o, i, k]·b[o, k, j] with a size of 1 for each axis that is not there.
        let (k, n) = (a.last(), if b.rank() > 1 { b.last() } else { 1 });
        let m = if a.rank() > 1 { a.dims()[a.rank() - 2] } else { 1 };
        let batch = y.elements() / (m * n);
        let (per_a, per_b) = (if xs.len() > m * k { m * k } else { 0 }, if ws.len() > k * n { k * n } else { 0 });
        let one = |o: usize, i: usize, j: usize| (0..k).map(|p| xs[o * per_a + i * k + p] * ws[o * per_b + p * n + j]).sum::<f64>();
        let want: Vec<f64> = (0..batch * m * n).map(|e| one(e / (m * n), e / n % m, e % n)).collect();
        near(&format!("{a} × {b}"), &values[0], &want)?;
    }
    let message = |a: &[usize], b: &[usize]| {
        let g = Graph::training();
        let [a, b] = [a, b].map(|d| Shape::new(d).expect("at most six axes"));
        g.input_of(a).matmul(g.input_of(b)).error().map_or(String::new(), |e| e.to_string())
    };
    assert!(message(&[3], &[4]).starts_with("matmul: [3] × [4]: inner dimensions 3 and 4 differ (tests/values/refusals.rs:"));
    assert!(message(&[3], &[]).starts_with("matmul: [3] × []: input 1 is not a matrix"), "{}", message(&[3], &[]));
    Ok(())
}

type Mistake = for<'g> fn(&'g Graph) -> Tensor<'g>;

fn message(f: Mistake) -> String {
    let g = Graph::training();
    f(&g);
    g.error().map_or("no error".to_string(), |e| e.to_string())
}

fn refused() -> Check {
    let table: [(Mistake, &str); 9] = [
        (
            |g| {
                g.input([1, 1, 5])
                    .convolve1d(g.input([1, 1, 3]), Convolution { padding: Padding::Sides([2, 0, 0, 0]), ..Convolution::default() })
            },
            "conv1d: [1, 1, 5] × [1, 1, 3]: one axis has no top and bottom to pad by 2 and 0",
        ),
        (
            |g| g.input([1, 1, 5]).conv1d_with("c", 2, 3, Conv1d { padding: Padding::Sides([0, 1, 1, 0]), ..Conv1d::default() }),
            "conv1d: [1, 1, 5] × c.weight [2, 1, 3]: one axis has no top and bottom to pad by 0 and 1",
        ),
        (
            |g| {
                let options = Convolution { stride: [1, 2], dilation: [3, 1], ..Convolution::default() };
                g.input([1, 1, 5, 5]).convolve_transpose2d(g.input([1, 1, 2, 2]), options, [2, 2])
            },
            "conv_transpose2d: [1, 1, 5, 5] × [1, 1, 2, 2]: the output padding 2 × 2 must be below the stride 1 × 2 or the dilation 3 × 1",
        ),
        (
            |g| {
                let options = Convolution { dilation: [3, 3], ..Convolution::default() };
                g.input([1, 2, 5, 5]).convolve_transpose2d(g.input([1, 1, 2, 2]), options, [2, 2])
            },
            "conv_transpose2d: [1, 2, 5, 5] × [1, 1, 2, 2]: the weight is for 1 channels, but the input has 2",
        ),
        (
            |g| g.input([1, 1, 4]).max_pool1d_with(2, MaxPool { padding: [2], ..MaxPool::default() }),
            "max_pool1d: [1, 1, 4]: window 0 contains none of the 4 elements; use a smaller padding or dilation",
        ),
        (
            |g| g.input([1, 1, 4]).avg_pool1d_with(2, AvgPool { padding: [3], count_include_pad: false, ..AvgPool::default() }),
            "avg_pool1d: [1, 1, 4]: window 0 contains none of the 4 elements",
        ),
        (
            // The first window reaches an element, one in the middle steps over all of them.
            |g| {
                let options = MaxPool { stride: Some([1, 1]), padding: [4, 0], dilation: [4, 1], ..MaxPool::default() };
                g.input([1, 1, 2, 1]).max_pool2d_with([2, 1], options)
            },
            "max_pool2d: [1, 1, 2, 1]: window 2 contains none of the 2 elements",
        ),
        (|g| g.input([3]).dropout(1.5), "dropout: [3]: p = 1.5 is not in 0..=1"),
        (|g| g.input([3]).sum(&[0, -1], false), "sum: [3]: axis -1 is named twice"),
    ];
    for (f, want) in table {
        let text = message(f);
        assert!(text.starts_with(want) && text.contains("(tests/values/refusals.rs:"), "{text}");
    }
    Ok(())
}

/// No tensor has an axis of size 0, whatever would make one; so says the error, in the place where it is made.
fn nothing() -> Check {
    let table: [Mistake; 26] = [
        |g| g.input([0]),
        |g| g.input([3, 0, 2]),
        |g| g.labels([0, 2]),
        |g| g.param("w", [2, 0], Init::Ones),
        |g| g.state("s", [0], Init::Zeros),
        |g| g.constant(Host::new([0, 3], vec![])),
        |g| g.full([2, 0], 1.0),
        |g| g.uniform([0]),
        |g| g.normal([0, 1]),
        |g| g.input([2, 3]).reshape([0, 3]),
        |g| g.input([1, 3]).broadcast_to([0, 3]),
        |g| g.input([2, 3]).slice(0, 1, 1),
        |g| g.input([2, 3]).linear("l", 0),
        |g| g.input([2, 3, 4, 4]).conv2d("c", 0, 3),
        |g| g.input([2, 3, 4, 4]).conv2d("c", 3, 0),
        |g| g.input([2, 3, 4]).conv1d("c", 3, 0),
        |g| g.input([2, 3, 4, 4]).conv_transpose2d("c", 0, 3),
        |g| g.input([2, 3, 4, 4]).adaptive_avg_pool2d([0, 2]),
        |g| g.input([2, 3, 4, 4]).upsample(Upsample::Nearest, [2, 0]),
        |g| g.input([2, 3, 4, 4]).upsample_by(Upsample::Nearest, 0),
        |g| g.labels([2]).one_hot(0),
        |g| g.labels([2]).embedding("e", 0, 3),
        |g| g.labels([2]).embedding("e", 3, 0),
        |g| g.input([2, 3, 4]).lstm("l", 0),
        |g| g.input([2, 3, 4]).gru("l", 0),
        |g| g.input([2, 3, 4]).transformer_encoder_layer("t", 2, 0),
    ];
    for (i, f) in table.into_iter().enumerate() {
        let text = message(f);
        let told = ["size 0", "holds nothing", "classes must be 1 or more", "size is 0"].iter().any(|words| text.contains(words));
        assert!(told && text.contains("(tests/values/refusals.rs:"), "{i}: {text}");
    }
    // Nor has a data set no samples, or samples of nothing.
    let none = || Target::labels(Vec::new(), 2);
    let data = Dataset::new(vec![0.5; 4], [2], Target::labels(vec![0, 1], 2))?;
    let errors = [
        Dataset::new(Vec::new(), [2], none()).err(),
        Dataset::new(Vec::new(), [0], none()).err(),
        Dataset::new(vec![1.0, 2.0], [2], Target::values([0], Vec::new())).err(),
        Dataset::bytes(Vec::new(), [2, 0], 1.0, Target::None).err(),
        Dataset::tokens(Vec::new(), [3], 5, Target::None).err(),
        data.subset(&[]).err(),
        data.clone().reshape([0, 2]).err(),
    ];
    for (i, error) in errors.into_iter().enumerate() {
        let text = error.map_or(String::new(), |e| e.to_string());
        assert!(["no rows", "no elements", "size 0", "holds nothing"].iter().any(|words| text.contains(words)), "{i}: {text}");
    }
    let device = Device::cpu();
    let g = Graph::inference();
    let mut f = device.compile(&[g.input([2]) + 1.0])?;
    assert!(f.run(&[Host::new([0], Vec::new())]).is_err() && f.run(&[Host::new([2], Vec::new())]).is_err() && f.run(&[]).is_err());
    // A kernel that is larger than its image would leave nothing.
    let table: [Mistake; 4] = [
        |g| g.input([1, 1, 2, 2]).max_pool2d(3),
        |g| g.input([1, 1, 2]).avg_pool1d(3),
        |g| g.input([1, 1, 2, 2]).conv2d("c", 1, 3),
        |g| g.input([1, 1, 1, 1]).conv_transpose2d_with("c", 1, 1, ConvTranspose2d { padding: 1.into(), ..ConvTranspose2d::default() }),
    ];
    for f in table {
        let text = message(f);
        let told = ["larger than", "more than the image", "leaves nothing"].iter().any(|words| text.contains(words));
        assert!(told && text.contains("(tests/values/refusals.rs:"), "{text}");
    }
    Ok(())
}
