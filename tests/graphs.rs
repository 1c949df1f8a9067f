//! Random graphs of all ops: the oracle against every device, forward and gradients, with fusion and memory planning on
//! and off; then what only a whole graph can get wrong, one graph each.

mod common;

use common::{BOTH, Check, On, Suite, bits};
use downhill::{
    Compiled, Device, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    layers::Linear,
    ops::{
        Fill,
        map::{Expr, Fun, Inst, Map, Sub},
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::Upsample,
    },
    optim::Sgd,
    plan::Options,
    testing,
};

fn main() {
    let mut suite = Suite::new();
    // Where a graph costs the compilation of its kernels there are fewer.
    for (on, count) in [(On::Cpu, 300), (On::Gpu, 100), (On::Checked, 10), (On::Small, 20)] {
        suite.on(on, "random graphs", move |device| random_graphs(device, count));
    }
    let devices = [On::Cpu, On::Gpu, On::Small];
    suite.each(&devices, "gradients that are shared, constant or aliases", gradients);
    suite.each(&BOTH, "a loss that is a parameter", loss_is_a_parameter);
    suite.each(&BOTH, "a parameter without a part in the loss", unused);
    suite.each(&devices, "outputs that are inputs, aliases and fills", outputs);
    suite.each(&devices, "expressions composed by hand", composed);
    suite.each(&BOTH, "powers of 0, to 0, and of infinity", powers);
    suite.each(&BOTH, "weights shared by name", shared_by_name);
    suite.each(&BOTH, "second derivatives of pooling", second_derivatives);
    suite.each(&BOTH, "NaN in a window", nan_in_a_window);
    suite.each(&devices, "dropout of channels", dropout_of_channels);
    suite.test("tensors of different graphs", different_graphs);
    suite.test("tensors whose data is of another type", another_type);
    suite.test("models that data cannot feed", unfed);
    suite.run()
}

/// A graph under construction: tensors to build on, each with a bound on its values, and what the inputs hold.
struct Random<'g> {
    g: &'g Graph,
    state: u64,
    pool: Vec<(Tensor<'g>, f32)>,
    floats: Vec<Tensor<'g>>,
    inputs: Vec<Host<f32>>,
}

impl<'g> Random<'g> {
    fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 33) % n as u64) as usize
    }
    /// New values: an input, a parameter, a constant or a fill.
    fn leaf(&mut self, dims: &[usize]) -> Tensor<'g> {
        let shape = Shape::new(dims).expect("at most six axes");
        let seed = self.inputs.len() as u64 * 31 + self.floats.len() as u64 + self.state % 1000;
        let values = testing::fill(shape, &Fill::Range(-1.5, 1.7), seed);
        match self.below(8) {
            0 => self.g.full(shape, 0.37),
            1 => self.g.constant(values),
            2..5 => {
                let p = self.g.param(&format!("p{}", self.floats.len()), shape, Init::Values(values.f().to_vec().into()));
                self.floats.push(p);
                p
            }
            _ => {
                self.inputs.push(values);
                let x = self.g.input(shape);
                self.floats.push(x);
                x
            }
        }
    }
    fn labels(&mut self, dims: &[usize], classes: usize) -> Tensor<'g> {
        let shape = Shape::new(dims).expect("at most six axes");
        self.inputs.push(testing::fill(shape, &Fill::Labels(classes), self.state % 1000));
        self.g.labels(shape)
    }
    fn any(&mut self) -> (Tensor<'g>, f32) {
        let i = self.below(self.pool.len());
        self.pool[i]
    }
    /// A tensor that broadcasts with one of shape `s`: of the pool, or a leaf with some axes of size 1 or left out.
    fn partner(&mut self, s: Shape) -> (Tensor<'g>, f32) {
        let fits: Vec<(Tensor, f32)> =
            self.pool.iter().copied().filter(|(t, _)| t.shape().broadcast(s).is_some_and(|b| b.rank() < 5)).collect();
        if !fits.is_empty() && self.below(3) > 0 {
            return fits[self.below(fits.len())];
        }
        let from = self.below(s.rank() + 1);
        let dims: Vec<usize> = s.dims()[from..].iter().map(|&d| if self.below(3) == 0 { 1 } else { d }).collect();
        (self.leaf(&dims), 1.7)
    }
    /// `t` moved off the kinks that it may lie on exactly, such as 0 after a relu: there a rounding error decides.
    fn generic(&mut self, t: Tensor<'g>) -> Tensor<'g> {
        self.inputs.push(testing::fill(t.shape(), &Fill::Range(-1.0, 1.0), self.state % 977));
        t * 0.8 + self.g.input(t.shape())
    }
    fn step(&mut self) {
        let (x, bound) = self.any();
        let s = x.shape();
        let axis = |r: &mut Self| r.below(s.rank().max(1)) as isize;
        let (y, bound) = match self.below(34) {
            0 => (x.sin(), 1.0),
            1 => (x.tanh(), 1.0),
            2 => (x.sigmoid() + x.cos(), 2.0),
            3 => (x.tanh().exp(), 2.8),
            4 => ((x.square() + 0.5).ln() + (x.square() + 0.3).sqrt(), 2.0 * bound + 2.0),
            5 => ((x.square() + 0.5).rsqrt() - x.silu(), bound + 2.0),
            6 => (x.softplus() * x.log_sigmoid().tanh(), bound + 1.0),
            7 => (x.gelu() - x.gelu_tanh() * 0.5, 2.0 * bound),
            8 => (self.generic(x).relu().elu(0.7), bound + 1.0),
            9 => (self.generic(x).leaky_relu(0.1).abs(), bound + 1.0),
            10 => (self.generic(x).clamp(-0.6, 0.9), 1.0),
            11 => (x.dropout(0.4), 2.0 * bound),
            12 if s.rank() < 4 => {
                // Random numbers, then more elements than there are of them.
                let wide = self.leaf(&[&[2], s.dims()].concat());
                (x * self.g.uniform(s) + wide, bound + 1.7)
            }
            13..16 => {
                let (b, other) = self.partner(s);
                (x + b, bound + other)
            }
            16 => {
                let (b, other) = self.partner(s);
                (b - x, bound + other)
            }
            17 | 18 => {
                let (b, other) = self.partner(s);
                (x * b, bound * other)
            }
            19 => {
                let (b, _) = self.partner(s);
                (x / (b.square() + 0.5), 2.0 * bound)
            }
            20 => {
                let (b, other) = self.partner(s);
                let a = self.generic(x);
                (a.maximum(b) - a.minimum(b * 0.3), bound + 1.0 + other)
            }
            21 => {
                let (a, other) = self.partner(s);
                let (b, third) = self.partner(s);
                let c = self.generic(x).gt(0.0);
                match a.shape().broadcast(b.shape()).is_some() {
                    true => (c.where_(a, b), other.max(third)),
                    false => (c.where_(a, 0.2), other.max(1.0)),
                }
            }
            22 => {
                let (b, _) = self.partner(s);
                ((x.tanh().square() + 0.5).pow(b.tanh()), 2.0)
            }
            23 => {
                let axes: Vec<isize> = (0..s.rank() as isize).filter(|_| self.below(2) == 0).collect();
                let keep = self.below(2) == 0;
                match self.below(5) {
                    0 => (x.sum(&axes, keep) * (1.0 / 6.0), 4.0 * bound),
                    1 => (x.mean(&axes, keep), bound),
                    2 => (self.generic(x).max(&axes, keep), bound + 1.0),
                    3 => (x.logsumexp(&axes, keep), bound + 4.0),
                    _ => (x.variance(&axes, 0, keep), bound * bound),
                }
            }
            24 if s.rank() > 0 => {
                let a = axis(self);
                (if self.below(2) == 0 { x.softmax(a) } else { x.log_softmax(a).tanh() }, 1.0)
            }
            25 if s.rank() >= 2 => {
                let (k, n) = (s.last(), 1 + self.below(5));
                let (ta, tb) = (self.below(2) == 1, self.below(2) == 1);
                let k = if ta { s.dims()[s.rank() - 2] } else { k };
                let mut dims = if tb { vec![n, k] } else { vec![k, n] };
                if s.rank() == 3 && self.below(2) == 0 {
                    dims.insert(0, s.dims()[0]);
                }
                let w = self.leaf(&dims);
                (x.matmul_t(w, ta, tb) * (1.0 / k as f32), 1.7 * bound)
            }
            26 if s.rank() > 0 => {
                (x.linear(&format!("l{}", self.inputs.len() * 100 + self.pool.len()), 1 + self.below(6)).relu(), 3.0 * bound)
            }
            27 => {
                // Among its own elements: a transpose of the sizes, a row, or an axis more.
                let mut dims = s.dims().to_vec();
                match self.below(3) {
                    0 => dims.reverse(),
                    1 => dims = vec![s.elements()],
                    _ => dims.insert(self.below(dims.len() + 1), 1),
                }
                match dims.len() < 5 {
                    true => (x.reshape(Shape::new(&dims).expect("at most four axes")), bound),
                    false => (-x, bound),
                }
            }
            28 if s.rank() >= 2 => {
                let mut order: Vec<usize> = (0..s.rank()).collect();
                let shift = 1 + self.below(s.rank() - 1);
                order.rotate_left(shift);
                (x.permute(&order), bound)
            }
            29 if s.rank() > 0 => {
                let a = axis(self);
                (x.concat(&[x.sin(), x], a), bound.max(1.0))
            }
            30 if s.rank() > 0 => {
                let a = axis(self);
                let n = s.dims()[a as usize];
                let start = self.below(n);
                let end = start + 1 + self.below(n - start);
                (x.slice(a, start, end).pad(a, self.below(2), 1), bound)
            }
            31 if s.rank() > 0 => {
                let k = s.last();
                let y = self.labels(&s.dims()[..s.rank() - 1], k);
                match self.below(3) {
                    0 => (x.pick(y), bound),
                    1 => (downhill::losses::cross_entropy(x, y).label_smoothing(0.1).none(), 2.0 * bound + 4.0),
                    _ => (y.one_hot(k) * x, bound),
                }
            }
            32 if s.rank() > 0 && s.rank() < 4 => {
                let y = self.labels(&[3], s.dims()[0]);
                (x.gather_rows(y), bound)
            }
            33 if s.rank() > 0 => (self.generic(x).argmax(-1).to_f32() * 0.2, 1.0),
            _ => (x.detach() + x * 0.3, 1.3 * bound),
        };
        // Large values would hide the rounding errors of small ones, and the other way round.
        self.pool.push(if bound > 4.0 { (y.tanh(), 1.0) } else { (y, bound) });
    }
}

/// A graph of a dozen ops, the loss first among its outputs, then some of its tensors, then gradients of inputs and parameters.
fn random_graph<'g>(g: &'g Graph, seed: u64) -> (Vec<Tensor<'g>>, Vec<Host<f32>>) {
    let mut r = Random { g, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, pool: Vec::new(), floats: Vec::new(), inputs: Vec::new() };
    for _ in 0..10 {
        r.below(2);
    }
    for _ in 0..2 {
        let rank = r.below(4);
        let dims: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 5, 7][r.below(5)]).collect();
        let leaf = r.leaf(&dims);
        r.pool.push((leaf, 1.7));
    }
    for _ in 0..4 + r.below(10) {
        r.step();
    }
    let mut loss = g.scalar(0.0);
    for k in 0..3 {
        let t = if k == 0 { r.pool[r.pool.len() - 1].0 } else { r.any().0 };
        loss = loss + (t * (0.5 + k as f32) + t.square() * 0.25).sum_all();
    }
    let mut outputs = vec![loss];
    for _ in 0..r.below(4) {
        outputs.push(r.any().0);
    }
    // A gradient may be the difference of larger terms, down to nothing: then rounding is all that is left of it.
    outputs.extend(loss.grad(&r.floats).into_iter().map(|d| d + 0.5));
    (outputs, r.inputs)
}

/// Rounding errors of up to 20 ops one after the other, each of which may double what it gets.
const TERMS: usize = 1 << 16;

fn random_graphs(device: &Device, count: u64) -> Check {
    for seed in 1..=count {
        let g = Graph::training();
        let (outputs, inputs) = random_graph(&g, seed);
        g.error().map_or(Ok(()), Err)?;
        let all = [(true, true), (false, false), (true, false), (false, true)];
        let some = if device.as_gpu().is_none() { &all[..] } else { &all[..1 + usize::from(seed % 4 == 0)] };
        for &(fuse, reuse) in some {
            let options = Options { fuse, reuse, ..device.plan_options() };
            testing::compare(&g, &outputs, &inputs, device, &options, TERMS)
                .map_err(|e| format!("graph {seed}, fuse {fuse}, reuse {reuse}: {e}"))?;
        }
        // The gradients that a step leaves in the flat buffer are those.
        let params = g.param_tensors();
        if !params.is_empty() && (device.as_gpu().is_none() || seed % 4 == 1) {
            let loss = outputs[0];
            let mut trainer = Trainer::new(device, loss, Sgd::new(1e-3))?;
            trainer.step(&inputs)?;
            let names: Vec<String> = trainer.params().names().map(String::from).collect();
            let mut want = Compiled::new(device, &[vec![loss], loss.grad(&params)].concat(), &device.plan_options(), 0)?.run(&inputs)?;
            let first = want.remove(0).f()[0];
            testing::close(&[trainer.loss()?.into()], &[first.into()], TERMS).map_err(|e| format!("graph {seed}: loss: {e}"))?;
            for (name, want) in names.iter().zip(want) {
                let got = trainer.gradient(name)?;
                let [got, want] = [got, want].map(|d| d.to_f64().iter().map(|d| d + 0.5).collect::<Vec<f64>>());
                testing::close(&got, &want, TERMS).map_err(|e| format!("graph {seed}: gradient of {name}: {e}"))?;
            }
        }
    }
    Ok(())
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
        [([2, 3, 4].into(), 0.5, "[2, 3, 4]: takes images"), (Shape::from([1, 2, 3, 4]), 1.0, "[1, 2, 3, 4]: p = 1 is not in")]
    {
        let text = Graph::training().input_of(x).dropout2d(p).error().map_or(String::new(), |e| e.to_string());
        assert!(text.starts_with(&format!("dropout2d: {why}")), "{text}");
    }
    Ok(())
}
