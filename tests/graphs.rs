//! What only a whole graph can get wrong, one graph each. `random.rs` has random ones.

mod common;

use common::{BOTH, Check, On, Suite, bits};
use downhill::{
    Compiled, Device, Fit, Graph, Host, Shape, Trainer,
    data::{Dataset, Target},
    init::Init,
    ops::{
        Fill,
        map::{Expr, Fun, Inst, Map, Sub},
    },
    optim::Sgd,
    plan::Options,
    testing,
};

fn main() {
    let mut suite = Suite::new();
    let devices = [On::Cpu, On::Gpu, On::Small];
    suite.each(&devices, "gradients that are shared, constant or aliases", gradients);
    suite.each(&BOTH, "a loss that is a parameter", loss_is_a_parameter);
    suite.each(&BOTH, "a parameter without a part in the loss", unused);
    suite.each(&devices, "outputs that are inputs, aliases and fills", outputs);
    suite.each(&devices, "expressions composed by hand", composed);
    suite.each(&BOTH, "powers of 0, to 0, and of infinity", powers);
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
    // A loss without any parameter: the gradient of each is 0.
    let far = Graph::training();
    far.param("p", [2], Init::Ones);
    let mut trainer = Trainer::new(device, far.input([]), Sgd::new(0.1))?;
    trainer.step(&[Host::new([], vec![4.0])])?;
    assert_eq!((trainer.loss()?, trainer.params().get("p")?.f()), (4.0, &[1.0; 2][..]));
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
        let options = Options { fuse, reuse, ..device.plan_options() };
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
    assert!(text.starts_with("loss: [2, 2]: a loss is one number") && text.contains("graphs.rs"), "{text}");
    let mut trainer = Trainer::for_data(&cpu, &data, |x| x.linear("l", 1), |x, y| x.mse(y), Sgd::new(0.1))?;
    let wide = [Host::new([2, 2], vec![0.0; 4]), Host::new([2, 1], vec![0.0; 2])];
    assert!(trainer.step(&wide).err().is_some_and(|e| e.to_string().contains("samples of shape [1]")));
    // A batch size that cannot be is told without an epoch, too, and changes nothing.
    assert!(trainer.fit(&data, Fit::new().epochs(0).batch_size(3)).is_err());
    assert!(trainer.fit(&data, Fit::new().epochs(0).batch_size(1))?.epochs.is_empty());
    assert!(trainer.loss()?.is_nan());
    Ok(())
}
