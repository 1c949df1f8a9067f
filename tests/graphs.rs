//! Mistakes that only a whole graph can show, with one graph for each mistake. `random.rs` has random graphs.

mod common;

use common::{BOTH, Check, On, Suite, bits};
use downhill::{
    Compiled, Device, Error, Fit, Graph, Host, Shape, Trainer,
    data::{Dataset, Target},
    init::Init,
    layers::Linear,
    losses::cross_entropy,
    ops::{
        Fill,
        attention::Attention,
        map::{Expr, Fun, Inst, Map, Sub},
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::Upsample,
    },
    optim::Sgd,
    plan::PlanOptions,
    testing,
};

fn main() {
    let mut suite = Suite::new();
    let devices = [On::Cpu, On::Gpu, On::Small];
    let special = [On::Cpu, On::Gpu, On::Checked];
    suite.each(&devices, "gradients that are shared, constant or aliases", gradients);
    suite.each(&BOTH, "a loss that is a parameter", loss_is_a_parameter);
    suite.each(&BOTH, "a parameter without a part in the loss", unused);
    suite.each(&devices, "outputs that are inputs, aliases and fills", outputs);
    suite.each(&devices, "expressions composed by hand", composed);
    suite.each(&BOTH, "powers of 0, to 0, and of infinity", powers);
    suite.each(&BOTH, "normal random numbers", normal);
    suite.each(&BOTH, "weights shared by name", shared_by_name);
    suite.each(&BOTH, "second derivatives of pooling", second_derivatives);
    suite.each(&BOTH, "NaN in a window", nan_in_a_window);
    suite.each(&special, "NaN and infinity through functions", special_functions);
    suite.each(&special, "NaN and infinity through lines", special_lines);
    suite.each(&special, "NaN and infinity through sorts and indices", special_indices);
    suite.each(&BOTH, "a summary with a long name", long_name);
    suite.each(&BOTH, "whole numbers in arithmetic", whole_numbers);
    suite.each(&BOTH, "a NaN inside of a model", diverges);
    suite.each(&devices, "dropout of channels", dropout_of_channels);
    suite.test("tensors of different graphs", different_graphs);
    suite.test("tensors whose data is of another type", another_type);
    suite.test("models that data cannot feed", unfed);
    suite.run()
}

/// Parameters with one gradient for two of them, one that is a constant, one that is an input, one under another shape.
fn gradients(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([2, 3]);
    let p = |name: &str, shape: &[usize]| g.param(name, Shape::new(shape).expect("few axes"), Init::Constant(0.5));
    let (a, b, c, d, e) = (p("a", &[2, 3]), p("b", &[2, 3]), p("c", &[2, 3]), p("d", &[6]), p("e", &[]));
    let loss = ((a + b) * x).sum_all() + c.sum_all() * 2.0 + (d.reshape([3, 2]) * x.square().reshape([3, 2])).sum_all() + e;
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.1))?;
    let values = [1.0, -2.0, 3.0, 0.5, 4.0, -1.0];
    trainer.step(&[Host::new([2, 3], values.to_vec())])?;
    let squares: Vec<f32> = values.iter().map(|v| v * v).collect();
    let want: [(&str, &[f32]); 5] = [("a", &values), ("b", &values), ("c", &[2.0; 6]), ("d", &squares), ("e", &[1.0])];
    for (name, want) in want {
        assert_eq!(trainer.gradient(name)?.f(), want, "{name}");
        let moved: Vec<f32> = want.iter().map(|g| 0.5 - 0.1 * g).collect();
        assert_eq!(trainer.params().get(name)?.f(), moved, "{name}");
    }
    Ok(())
}

/// The loss of a step is the one before its update.
fn loss_is_a_parameter(device: &Device) -> Check {
    for shape in [&[][..], &[1, 1]] {
        let g = Graph::training();
        let p = g.param("p", Shape::new(shape).expect("few axes"), Init::Constant(3.0));
        let mut trainer = Trainer::new(device, p.reshape([1]), Sgd::new(0.5))?;
        let mut losses = Vec::new();
        for _ in 0..3 {
            trainer.step(&[])?;
            losses.push(trainer.loss()?);
        }
        assert_eq!((losses, trainer.params().get("p")?.f()), (vec![3.0, 2.5, 2.0], &[1.5][..]));
    }
    Ok(())
}

/// It keeps its value, wherever in the graph it was made.
fn unused(device: &Device) -> Check {
    let g = Graph::training();
    let before = g.param("before", [3], Init::Ones);
    let loss = (g.param("used", [2], Init::Ones) * 3.0).sum_all();
    let after = g.param("after", [2, 2], Init::Constant(7.0));
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.1))?;
    trainer.step(&[])?;
    assert_eq!((trainer.loss()?, trainer.params().get("after")?.f()), (6.0, &[7.0; 4][..]));
    assert_eq!((trainer.gradient("before")?.f(), trainer.gradient("after")?.f()), (&[0.0; 3][..], &[0.0; 4][..]));
    let none = device.compile(&loss.grad(&[after, before * 2.0]))?.run(&[])?;
    assert_eq!((none[0].f(), none[1].f()), (&[0.0; 4][..], &[0.0; 3][..]));
    // A loss without any parameter is nothing to train.
    let far = Graph::training();
    far.param("p", [2], Init::Ones);
    let error = Trainer::new(device, far.input([]), Sgd::new(0.1)).err().ok_or("it was taken")?.to_string();
    assert!(error.starts_with("loss: []: it depends on no parameter (p)") && error.contains("graphs.rs:"), "{error}");
    let alone = Trainer::new(device, Graph::training().scalar(1.0), Sgd::new(0.1));
    assert!(alone.err().is_some_and(|e| e.to_string().contains("no parameters to train")));
    Ok(())
}

fn outputs(device: &Device) -> Check {
    let g = Graph::inference();
    let (x, y) = (g.input([2, 3]), g.labels([2]));
    let p = g.param("p", [2], Init::Values(vec![5.0, 6.0].into()));
    let fill = g.full([3, 2], 0.5);
    let all = [
        x,
        x.reshape([3, 2]),
        y,
        y.reshape([1, 2]),
        p,
        p.reshape([2, 1]),
        fill,
        fill.reshape([6]),
        x.identity(),
        y.to_f32(),
        fill.matmul(x),
        (fill.matmul(x) * 2.0).reshape([9]),
        // Labels in elementwise code after a product, and the same tensor on both sides of one.
        x.matmul_t(x, false, true) + y.to_f32(),
        x,
    ];
    let inputs = [Host::new([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), Host::labels([2], vec![4, 7])];
    for (fuse, reuse) in [(true, true), (true, false), (false, true), (false, false)] {
        let options = PlanOptions { fuse, reuse, ..device.plan_options() };
        testing::compare(&g, &all, &inputs, device, &options, 3)?;
        let got = Compiled::new(device, &all, &options, 0)?.run(&inputs)?;
        assert_eq!(got[1], Host::new([3, 2], inputs[0].f().to_vec()));
        assert_eq!((&got[2], got[3].u(), got[5].f()), (&inputs[1], &[4, 7][..], &[5.0, 6.0][..]));
        assert_eq!((got[7].f(), bits(got[0].f())), (&[0.5; 6][..], bits(got[13].f())));
        assert_eq!(got[12].f(), &[18.0, 39.0, 36.0, 84.0]);
    }
    Ok(())
}

/// An expression of several functions is an op like any other: it has a gradient.
fn composed(device: &Device) -> Check {
    let call = |f: Fun, n: usize| Expr::call(f, &(0..n).map(Inst::Input).collect::<Vec<_>>());
    // sin(a · b) + a, then that times noise.
    let sum = call(Fun::Add, 2)
        .compose(&[Sub::Expr(&call(Fun::Sin, 1).compose(&[Sub::Expr(&call(Fun::Mul, 2), &[0, 1])]), &[0, 1]), Sub::Input(0)]);
    let noise = Expr::call(Fun::Mul, &[Inst::Input(0), Inst::Random(900)]).compose(&[Sub::Expr(&sum, &[0, 1])]);
    for (expr, random) in [(sum, false), (noise, true)] {
        let g = Graph::training();
        let (a, b) = (g.input([4, 3]), g.input([3]));
        let y = g.apply(Map::new(expr), &[a, b]);
        let dy = g.constant(testing::fill(Shape::from([4, 3]), &Fill::Range(0.5, 1.5), 3));
        let grads = y.vjp(dy, &[a, b]);
        let by_hand = (a * b).sin() + a;
        let slope = (a * b).cos();
        let noise = if random { y / by_hand } else { g.full([4, 3], 1.0) };
        let da = dy * (slope * b + 1.0) * noise;
        let db = (dy * slope * a * noise).sum(&[0], false);
        let inputs = [testing::fill(a.shape(), &Fill::Range(0.2, 1.2), 1), testing::fill(b.shape(), &Fill::Range(0.3, 0.9), 2)];
        let all = [y, grads[0], grads[1], da, db];
        testing::compare(&g, &all, &inputs, device, &device.plan_options(), 64)?;
        let got = device.compile(&all)?.run(&inputs)?;
        for (k, want) in [(1, 3), (2, 4)] {
            testing::close(&got[k].to_f64(), &got[want].to_f64(), 64)?;
        }
    }
    Ok(())
}

/// As PyTorch has them: a⁰ is flat also where a is 0, and 0ᵇ also where ln 0 is infinite.
fn powers(device: &Device) -> Check {
    let g = Graph::training();
    let (a, b) = (g.input([6]), g.input([6]));
    let y = a.pow(b);
    let mut all = vec![y];
    all.extend(y.vjp(g.full([6], 1.0), &[a, b]));
    let fixed = a.powf(0.0);
    all.extend(fixed.vjp(g.full([6], 1.0), &[a]));
    let inf = f32::INFINITY;
    let inputs = [Host::new([6], vec![0.0, 0.0, 2.0, 0.0, inf, 4.0]), Host::new([6], vec![0.0, 2.5, 0.0, 1.0, 2.5, -inf])];
    let got = device.compile(&all)?.run(&inputs)?;
    assert_eq!(got[0].f(), [1.0, 0.0, 1.0, 0.0, inf, 0.0]);
    assert_eq!(got[1].f()[..4], [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(got[2].f()[..2], [0.0, 0.0]);
    assert_eq!(got[2].f()[3], 0.0);
    assert_eq!(got[3].f(), [0.0; 6]);
    Ok(())
}

/// The moments of a normal distribution, its tails, other numbers in each run, and none that depend on their neighbours.
fn normal(device: &Device) -> Check {
    const N: usize = 1 << 16;
    let g = Graph::inference();
    let mut f = device.compile(&[g.normal([N]), g.normal([N])])?;
    let (first, second) = (f.run(&[])?, f.run(&[])?);
    let x = first[0].to_f64();
    let n = N as f64;
    // Moment k deviates by √(var(xᵏ) / n), with var(x) = 1, var(x²) = 2, var(x³) = 15, var(x⁴) = 96.
    for (k, want, var) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0f64)] {
        let got = x.iter().map(|x| x.powi(k)).sum::<f64>() / n;
        assert!((got - want).abs() < 5.0 * (var / n).sqrt(), "moment {k}: {got}");
    }
    // P(|x| > 2) = 0.0455.
    let beyond = x.iter().filter(|x| x.abs() > 2.0).count() as f64 / n;
    assert!((beyond - 0.0455).abs() < 5.0 * (0.0455 * 0.9545 / n).sqrt(), "{beyond}");
    let correlation = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / n;
    for (what, other) in [("another call", &first[1].to_f64()[..]), ("the next run", &second[0].to_f64()), ("the next element", &x[1..])] {
        let r = correlation(&x, other);
        assert!(r.abs() < 5.0 / n.sqrt(), "{what}: {r}");
    }
    Ok(())
}

fn different_graphs() -> Check {
    let (g, h) = (Graph::training(), Graph::training());
    let (x, other, late) = (g.input([2]), h.input([2]), h.input([2]));
    let error = |e: Option<downhill::Error>| e.map_or(String::new(), |e| e.to_string());
    // Tensors of one number in their graphs.
    assert!(error((x + other).error()).contains("different graphs"));
    let both = Device::cpu().compile(&[other, Graph::training().input([2])]);
    assert!(error(both.err()).contains("different graphs"));
    let g = Graph::training();
    let loss = g.input([2]).sum_all();
    loss.grad(&[late]);
    assert!(error(g.error()).contains("different graphs"));
    let g = Graph::training();
    let x = g.input([2]);
    x.vjp(g.input([3]), &[x]);
    assert!(error(g.error()).starts_with("vjp: [2] × [3]: the gradient of [2] must have that shape"));
    let g = Graph::training();
    g.labels([1]).grad(&[]);
    assert!(error(g.error()).contains("floats, not labels"));
    Ok(())
}

/// The fields of a tensor are the user's to set; a shape may be larger than any memory.
fn another_type() -> Check {
    let g = Graph::training();
    let mut f = Device::cpu().compile(&[g.input([2]) * 2.0])?;
    let mut x = Host::labels([2], vec![1, 2]);
    x.shape = Shape::from([2]);
    let text = f.run(&[x.clone()]).map_or_else(|e| e.to_string(), |_| String::new());
    assert_eq!(text, "input 0: got [2] with 2 labels, but the graph was built for [2]");
    assert!(f.run(&[Host::new([usize::MAX, 3], vec![1.0])]).is_err());
    g.constant(x);
    assert!(g.error().is_some_and(|e| e.to_string().contains("2 labels do not fill")));
    let g = Graph::training();
    g.constant(Host::new([usize::MAX, 3], vec![1.0]));
    assert!(g.error().is_some());
    // A target of labels' type that holds numbers is one of numbers.
    let sample = Shape::from([1]).u32();
    let data = Dataset::new(vec![1.0, 2.0], [1], Target::Values { sample, data: vec![1.0, 2.0] })?;
    let mut trainer = Trainer::for_data(&Device::cpu(), &data, |x| x.linear("l", 1), |x, y| x.mse(y), Sgd::new(0.1))?;
    trainer.fit(&data, Fit::new().batch_size(2))?;
    Ok(())
}

fn unfed() -> Check {
    let data = Dataset::new(vec![1.0, 2.0], [1], Target::values([1], vec![1.0, 2.0]))?;
    let cpu = Device::cpu();
    let more = Trainer::for_data(&cpu, &data, |x| x.linear("l", 1) + x.graph().input([1]), |x, y| x.mse(y), Sgd::new(0.1));
    assert!(more.err().is_some_and(|e| e.to_string().contains("the inputs that the data gives")));
    let unreduced = Trainer::for_data(&cpu, &data, |x| x.linear("l", 2), |x, y| (x - y).square(), Sgd::new(0.1));
    let text = unreduced.err().map_or(String::new(), |e| e.to_string());
    assert!(text.starts_with("loss: [n, 2]: a loss is one number") && text.contains("graphs.rs"), "{text}");
    let mut trainer = Trainer::for_data(&cpu, &data, |x| x.linear("l", 1), |x, y| x.mse(y), Sgd::new(0.1))?;
    let wide = [Host::new([2, 2], vec![0.0; 4]), Host::new([2, 1], vec![0.0; 2])];
    assert!(trainer.step(&wide).err().is_some_and(|e| e.to_string().contains("samples of shape [1]")));
    // A batch size that cannot be is told without an epoch, too, and changes nothing.
    assert!(trainer.fit(&data, Fit::new().epochs(0).batch_size(0)).is_err());
    assert!(trainer.fit(&data, Fit::new().epochs(0).batch_size(1))?.epochs.is_empty());
    assert!(trainer.loss()?.is_nan());
    Ok(())
}

/// A layer that is used twice gets the sum of both gradients.
fn shared_by_name(device: &Device) -> Check {
    let weight = testing::fill(Shape::from([5, 5]), &Fill::Range(-1.0, 1.0), 3).f().to_vec();
    let bias = testing::fill(Shape::from([5]), &Fill::Range(-1.0, 1.0), 4).f().to_vec();
    let g = Graph::training();
    let x = g.input([4, 5]);
    let loss = |first: &str, second: &str| {
        let options = || Linear {
            weight: Some(Init::Values(weight.clone().into())),
            bias: Some(Init::Values(bias.clone().into())),
            ..Linear::default()
        };
        x.linear_with(first, 5, options()).tanh().linear_with(second, 5, options()).square().sum_all()
    };
    let (shared, apart) = (loss("fc", "fc"), loss("a", "b"));
    let [w, b, w1, b1, w2, b2] = g.param_tensors()[..] else { return Err("six parameters".into()) };
    let (both, each) = (shared.grad(&[w, b]), apart.grad(&[w1, b1, w2, b2]));
    let sums = [each[0] + each[2], each[1] + each[3]];
    let feed = [testing::fill(x.shape(), &Fill::Range(-1.0, 1.0), 5)];
    let out = device.compile(&[shared, apart, both[0], sums[0], both[1], sums[1], each[0]])?.run(&feed)?;
    for pair in out[..6].chunks(2) {
        testing::close(&pair[0].to_f64(), &pair[1].to_f64(), 20)?;
    }
    assert!(testing::close(&out[2].to_f64(), &out[6].to_f64(), 20).is_err(), "one of the two gradients is missing");
    Ok(())
}

/// The gradient of a gradient of pooling, resizing and padding.
fn second_derivatives(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([2, 2, 7, 6]);
    let options = MaxPool { stride: Some([2, 1]), padding: [1, 1], ..MaxPool::default() };
    let padded = x.square().pad_with(-1, 2, 1, PadMode::Reflect).pad_with(-2, 1, 0, PadMode::Replicate);
    let y = padded.max_pool2d_with([3, 3], options).upsample(Upsample::Bilinear { align_corners: false }, [5, 11]).avg_pool2d([2, 3]);
    let first = y.square().sum_all().grad(&[x])[0];
    let second = (first * first).sum_all().grad(&[x])[0];
    let feed = [testing::fill(x.shape(), &Fill::Range(0.5, 1.5), 7)];
    testing::compare(&g, &[y, first, second], &feed, device, &device.plan_options(), 1000)?;
    Ok(())
}

/// It is the maximum wherever it is, and the gradient goes to it.
fn nan_in_a_window(device: &Device) -> Check {
    for kernel in [[2, 2], [2, 4]] {
        let g = Graph::training();
        let x = g.input([1, 1, 2, 4]);
        let y = x.max_pool2d(kernel);
        let dx = y.vjp(g.full(y.shape(), 1.0), &[x])[0];
        for at in [0, 1, 4, 5] {
            let mut values = vec![1.0, 2.0, 3.0, 4.0, 8.0, 7.0, 6.0, 5.0];
            values[at] = f32::NAN;
            let out = device.compile(&[y, dx])?.run(&[Host::new([1, 1, 2, 4], values)])?;
            let rest = if kernel == [2, 2] { 6 } else { at };
            let want: Vec<f32> = (0..8).map(|i| if i == at || i == rest { 1.0 } else { 0.0 }).collect();
            assert!(out[0].f()[0].is_nan() && out[0].f()[1..].iter().all(|&y| y == 6.0), "{kernel:?} {at}: {:?}", out[0]);
            assert_eq!(out[1].f(), want, "{kernel:?} {at}");
        }
    }
    Ok(())
}

/// Special values that must reach the loss, and finite values.
const SPECIAL: [f32; 10] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, 1.0, -1.0, 0.5, 2.0, -2.5, 3.0];

/// Every function of every one of them, alone and fused with its neighbours, is NaN and infinite where the oracle is.
fn special_functions(device: &Device) -> Check {
    for arity in 1..=3 {
        // All tuples.
        let n = SPECIAL.len().pow(arity);
        let column = |k: u32| Host::new([n], (0..n).map(|i| SPECIAL[i / SPECIAL.len().pow(k) % SPECIAL.len()]).collect());
        let feed: Vec<Host<f32>> = (0..arity).map(column).collect();
        let g = Graph::inference();
        let x: Vec<_> = feed.iter().map(|_| g.input([n])).collect();
        let inner: Vec<_> = x.iter().map(|&x| x * 1.0).collect();
        for &f in Fun::ALL.iter().filter(|f| f.arity() == arity as usize) {
            let args: Vec<_> = (0..arity as usize).map(Inst::Input).collect();
            let y = g.apply(Map::new(Expr::call(f, &args)), &inner) * 2.0;
            for fuse in [true, false] {
                let options = PlanOptions { fuse, ..device.plan_options() };
                testing::compare(&g, &[y], &feed, device, &options, 1).map_err(|e| format!("{}, fused {fuse}: {e}", f.name()))?;
            }
        }
    }
    Ok(())
}

/// The same of whatever looks at a line as a whole: one, several or many invocations to a line, along either axis.
fn special_lines(device: &Device) -> Check {
    for n in [5, 67, 5003] {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let ends: [&[(usize, f32)]; 9] = [
            &[],
            &[(0, nan)],
            &[(n - 1, nan)],
            &[(1, nan), (n - 2, nan), (2, inf)],
            &[(n / 2, inf)],
            &[(n / 2, -inf)],
            &[(0, inf), (n - 1, -inf)],
            &[(0, -inf), (n - 1, nan)],
            &[(0, inf), (n - 1, inf)],
        ];
        let m = ends.len();
        let mut x = testing::fill([m, n].into(), &Fill::Range(-2.0, 3.0), 5).f().to_vec();
        for (row, ends) in ends.iter().enumerate() {
            ends.iter().for_each(|&(at, value)| x[row * n + at] = value);
        }
        let g = Graph::training();
        let (input, labels) = (g.input([m, n]), g.labels([m]));
        g.require_classes(labels, n);
        let rows = input * 1.0;
        let columns = rows.permute(&[1, 0]);
        let mut all: Vec<(&str, downhill::Tensor)> = Vec::new();
        for (axis, x) in [(1, rows), (0, columns)] {
            all.extend([
                ("sum", x.sum(&[axis], false)),
                ("mean", x.mean(&[axis], false)),
                ("max", x.max(&[axis], false)),
                ("min", x.min(&[axis], false)),
                ("argmax", x.argmax(axis)),
                ("argmin", x.argmin(axis)),
                ("variance", x.variance(&[axis], 0, false)),
                ("softmax", x.softmax(axis)),
                ("log_softmax", x.log_softmax(axis)),
                ("logsumexp", x.logsumexp(&[axis], false)),
            ]);
        }
        let images = rows.reshape([m, 1, 1, n]);
        all.extend([
            ("layer_norm", rows.layer_norm("layer")),
            ("rms_norm", rows.rms_norm("rms")),
            ("cross_entropy", cross_entropy(rows, labels).none()),
            ("matmul", rows.matmul(g.full([n, 3], 0.5))),
            ("max_pool2d", images.max_pool2d([1, 3])),
            ("conv2d", images.conv2d("conv", 2, [1, 3])),
        ]);
        if n < 100 {
            let q = rows.reshape([1, m, n]);
            let v = g.constant(testing::fill([1, m, 4].into(), &Fill::Range(-1.0, 1.0), 6));
            all.push(("attention", q.scaled_dot_product_attention(q * 0.5, v, Attention::default())));
        }
        let feed = [Host::new([m, n], x), Host::labels([m], (0..m as u32).map(|i| i % n as u32).collect())];
        for (name, y) in all {
            for fuse in [true, false] {
                let options = PlanOptions { fuse, ..device.plan_options() };
                testing::compare(&g, &[y], &feed, device, &options, n).map_err(|e| format!("{name} of {n}, fused {fuse}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Whatever stands between it and the loss, the guard sees it.
fn diverges(device: &Device) -> Check {
    type Layer = fn(downhill::Tensor) -> downhill::Tensor;
    let layers: [(&str, Layer); 8] = [
        ("relu", |x| x.relu()),
        ("maximum", |x| x.maximum(0.0)),
        ("clamp", |x| x.clamp(-1.0, 1.0)),
        ("max_pool2d", |x| x.reshape([1, 1, 2, 4]).max_pool2d([2, 2]).reshape([2])),
        ("max", |x| x.max(&[0], false)),
        ("softmax", |x| x.softmax(0).square()),
        ("exp", |x| x.exp()),
        ("rms_norm", |x| x.rms_norm("rms").slice(0, 1, 8)),
    ];
    for (name, layer) in layers {
        let g = Graph::training();
        let w = g.param("w", [8], Init::Ones);
        let mut trainer = Trainer::new(device, layer((w * g.input([8])).ln()).sum_all(), Sgd::new(0.1))?;
        let mut x = vec![1.5; 8];
        trainer.step(&[Host::new([8], x.clone())])?;
        trainer.loss()?;
        x[0] = -1.0;
        trainer.step(&[Host::new([8], x)])?;
        let loss = trainer.loss();
        assert!(matches!(&loss, Err(Error::Diverged { step: 1, what, .. }) if what == "loss"), "{name}: {loss:?}");
    }
    Ok(())
}

fn dropout_of_channels(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([8, 16, 3, 5]);
    let y = x.dropout2d(0.4);
    let dx = y.square().sum_all().grad(&[x])[0];
    let feed = [testing::fill(x.shape(), &Fill::Range(0.5, 1.5), 7)];
    testing::compare(&g, &[y, dx], &feed, device, &device.plan_options(), 1)?;
    let out = device.compile(&[y])?.run(&feed)?;
    let mut dropped = 0;
    for (y, x) in out[0].f().chunks(15).zip(feed[0].f().chunks(15)) {
        let zero = y[0] == 0.0;
        dropped += usize::from(zero);
        assert!(y.iter().zip(x).all(|(y, x)| (y - if zero { 0.0 } else { x / 0.6 }).abs() < 1e-5), "a channel is in parts: {y:?}");
    }
    // 128 channels, within four standard deviations.
    assert!((29..=73).contains(&dropped), "{dropped} of 128 channels are dropped");
    let inference = Graph::inference();
    let x = inference.input([8, 16, 3, 5]);
    assert_eq!(format!("{:?}", x.dropout2d(0.4)), format!("{x:?}"));
    for (x, p, why) in
        [([2, 3, 4].into(), 0.5, "[2, 3, 4]: takes images"), (Shape::from([1, 2, 3, 4]), 1.5, "[1, 2, 3, 4]: p = 1.5 is not in")]
    {
        let text = Graph::training().input_of(x).dropout2d(p).error().map_or(String::new(), |e| e.to_string());
        assert!(text.starts_with(&format!("dropout2d: {why}")), "{text}");
    }
    Ok(())
}

/// NaN is the largest number, zeros of both signs are equal, and an index that names nothing gives NaN and takes no gradient.
fn special_indices(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([8]);
    let at = g.input([3]).to_index();
    let taken = x.gather(0, at);
    let dx = taken.sum_all().grad(&[x])[0];
    let (top, _) = x.topk(3, 0, false);
    let mut f = device.compile(&[x.argsort(0, false), x.argsort(0, true), top, at, taken, dx])?;
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let y = f.run(&[Host::new([8], vec![nan, 1.0, -inf, 0.0, -0.0, inf, nan, -1.0]), Host::new([3], vec![1.5, nan, 8.0])])?;
    assert_eq!(y[0].u(), [2, 7, 3, 4, 1, 5, 0, 6]);
    assert_eq!(y[1].u(), [0, 6, 5, 1, 3, 4, 7, 2]);
    assert_eq!(y[2].f(), [-inf, -1.0, 0.0]);
    assert_eq!(y[3].u(), [1, u32::MAX, 8]);
    assert!(y[4].f()[0] == 1.0 && y[4].f()[1..].iter().all(|x| x.is_nan()), "{:?}", y[4]);
    assert_eq!(y[5].f(), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    Ok(())
}

/// A long name makes its column wider, and the columns behind it stay below their titles.
fn long_name(device: &Device) -> Check {
    let g = Graph::training();
    let name = "encoder.layers.11.self_attention.out_proj";
    let y = g.input([4, 3]).linear(name, 5).relu().linear("fc", 2);
    let summary = Trainer::new(device, y.mean_all(), Sgd::new(0.1))?.summary(4)?;
    let lines: Vec<&str> = summary.lines().take(3).collect();
    assert!(lines[1].starts_with(&format!("{name} [4, 5]")), "{summary}");
    assert!(lines.iter().all(|line| line.len() == lines[0].len()) && lines[0].find("output") == lines[1].find("[4"), "{summary}");
    assert_eq!(lines[2].find("[4"), lines[0].find("output"), "{summary}");
    Ok(())
}

/// A whole number on either side of an operator, as an operand of a method, and shapes from slices.
fn whole_numbers(device: &Device) -> Check {
    let g = Graph::training();
    let dims = [3usize];
    let x = g.input(&dims[..]);
    let y = 2 * x - 1 + x.maximum(2) * (6 / x) - (1 - x) / 2;
    let mut f = device.compile(&[y, y.sum_all().grad(&[x])[0]])?;
    let y = f.run(&[Host::new([3], vec![1.0, 2.5, 4.0])])?;
    testing::close(&y[0].to_f64(), &[13.0, 10.75, 14.5], 6)?;
    Ok(testing::close(&y[1].to_f64(), &[-9.5, 2.5, 2.5], 6)?)
}
