//! Random graphs of all ops (proptest): the `f64` oracle on the unfused graph against every device, forward and gradients, with
//! fusion and memory planning on and off. What fails is shrunk to a graph of few ops.
//!
//! ```sh
//! cargo test --test random                                            # 500 graphs on the CPU and on the GPU
//! DOWNHILL_GRAPHS=20000 DOWNHILL_SEED=7 cargo test --release --test random    # many more, others
//! ```

mod common;

use common::{Check, On, Suite};
use downhill::{
    Compiled, Device, Error, Graph, Host, Shape, Tensor, Trainer,
    init::Init,
    layers::{BatchNorm, Conv2d, ConvTranspose2d, GroupNorm, LayerNorm, RmsNorm},
    ops::{
        Fill,
        attention::Attention,
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::{AvgPool, Upsample},
    },
    optim::Sgd,
    plan::PlanOptions,
    testing,
};
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};

fn main() {
    let mut suite = Suite::new();
    let wanted = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (count, seed) = (wanted("DOWNHILL_GRAPHS").unwrap_or(500), wanted("DOWNHILL_SEED").unwrap_or(1));
    // Two halves, for two cores; fewer on the devices of tests.
    for (on, share) in [(On::Cpu, 1.0), (On::Gpu, 1.0), (On::Checked, 0.04), (On::Webgpu, 0.04), (On::Small, 0.08)] {
        for half in 0..2 {
            let count = (count as f64 * share / 2.0).ceil() as u32;
            suite.on(on, &format!("random graphs {half}"), move |device| graphs(device, count, 2 * seed + half));
        }
    }
    suite.test("every kind of step is taken", every_kind);
    suite.run()
}

/// The choices that make a graph: a list for the leaves and a list for each step. Shrinking removes steps and sets choices to 0.
type Genes = Vec<Vec<u16>>;

fn graphs(device: &Device, count: u32, seed: u64) -> Check {
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &std::array::from_fn::<u8, 32, _>(|i| seed.to_le_bytes()[i % 8]));
    let mut number = 0u32;
    let genes = vec(vec(any::<u16>(), 16), 3..16);
    let counter = std::cell::RefCell::new(&mut number);
    let result = TestRunner::new_with_rng(config, rng).run(&genes, |genes| {
        let number = {
            let mut n = counter.borrow_mut();
            **n += 1;
            **n
        };
        check(device, &genes, number).map_err(|e| TestCaseError::fail(e.to_string()))
    });
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, genes)) => {
            let g = Graph::training();
            let (outputs, _, steps) = random_graph(&g, &genes, true);
            Err(format!("{why}\nsteps {steps:?}, outputs {outputs:?}, genes {genes:?}").into())
        }
        Err(other) => Err(other.into()),
    }
}

/// A graph under construction: tensors to build on, each with a bound on its values, and what the inputs hold.
struct Random<'g> {
    g: &'g Graph,
    genes: Vec<u16>,
    /// Kinds of the steps so far.
    steps: Vec<usize>,
    /// Whether parts are recomputed for the gradient.
    recompute: bool,
    pool: Vec<(Tensor<'g>, f32)>,
    floats: Vec<Tensor<'g>>,
    inputs: Vec<Host<f32>>,
}

impl<'g> Random<'g> {
    /// Returns the next choice of this step, or 0 after the last choice.
    fn below(&mut self, n: usize) -> usize {
        self.genes.pop().map_or(0, usize::from) % n
    }
    /// New values: an input, a parameter, a constant or a fill.
    fn leaf(&mut self, dims: &[usize]) -> Tensor<'g> {
        let shape = Shape::new(dims).expect("at most six axes");
        let seed = self.seed();
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
    /// For values unlike those before.
    fn seed(&self) -> u64 {
        (self.inputs.len() * 31 + self.floats.len() * 7 + self.pool.len()) as u64
    }
    fn labels(&mut self, dims: &[usize], classes: usize) -> Tensor<'g> {
        let shape = Shape::new(dims).expect("at most six axes");
        self.inputs.push(testing::fill(shape, &Fill::Labels(classes), self.seed()));
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
        self.inputs.push(testing::fill(t.shape(), &Fill::Range(-1.0, 1.0), self.seed()));
        t * 0.8 + self.g.input(t.shape())
    }
    /// A tensor of that many axes: one of the pool, or a leaf.
    fn of_rank(&mut self, rank: usize) -> (Tensor<'g>, f32) {
        let fits: Vec<(Tensor, f32)> = self.pool.iter().copied().filter(|(t, _)| t.shape().rank() == rank).collect();
        if !fits.is_empty() && self.below(3) > 0 {
            return fits[self.below(fits.len())];
        }
        let mut dims: Vec<usize> = (0..rank).map(|_| 2 + self.below(5)).collect();
        dims[0] = 1 + self.below(3);
        (self.leaf(&dims), 1.7)
    }
    /// A layer, or an op of images or sequences.
    fn layer(&mut self, kind: usize) {
        let name = format!("layer{}", self.steps.len());
        let (x, bound) = self.of_rank(if kind < 41 { 4 } else { 3 });
        let d = x.shape().dims().to_vec();
        let (c, h, w) = (d[1], d[2], d[d.len() - 1]);
        // Its sums are as large as its weights and inputs allow; the values are brought back to about 1.
        let (y, bound) = match kind {
            34 | 35 => {
                let groups = if c.is_multiple_of(2) { 1 + self.below(2) } else { 1 };
                let (kernel, padding) = ([1 + self.below(h.min(3)), 1 + self.below(w.min(3))], self.below(2));
                let (stride, out) = ([1 + self.below(3), 1 + self.below(2)], groups * (1 + self.below(3)));
                let y = if kind == 34 {
                    let options = Conv2d { stride, padding: padding.into(), groups, ..Conv2d::default() };
                    x.conv2d_with(&name, out, kernel, options)
                } else {
                    x.conv_transpose2d_with(&name, out, kernel, ConvTranspose2d { stride, groups, ..ConvTranspose2d::default() })
                };
                (y.tanh(), 1.0)
            }
            36 => {
                let (kernel, stride) = ([1 + self.below(h.min(3)), 1 + self.below(w.min(3))], [1 + self.below(2), 1 + self.below(3)]);
                let padding = kernel.map(|k| k / 2);
                (self.generic(x).max_pool2d_with(kernel, MaxPool { stride: Some(stride), padding, ..MaxPool::default() }), bound + 1.0)
            }
            37 => match self.below(3) {
                0 => (x.avg_pool2d_with([h.min(2), w.min(2)], AvgPool { stride: Some([1, 2]), ..AvgPool::default() }), bound),
                1 => (x.adaptive_avg_pool2d([1 + self.below(4), 1 + self.below(4)]), bound),
                _ => (x.global_avg_pool2d(), bound),
            },
            38 => {
                let mode = if self.below(2) == 0 { Upsample::Nearest } else { Upsample::Bilinear { align_corners: self.below(2) == 0 } };
                (x.upsample(mode, [1 + self.below(7), 1 + self.below(7)]), bound)
            }
            // With an ε that keeps what hardly varies from being blown up.
            39 if d[0] * h * w > 1 => (x.batch_norm_with(&name, BatchNorm { eps: 0.1, ..BatchNorm::default() }), 4.0),
            39 => (x.dropout2d(0.3), 1.5 * bound),
            40 => match self.below(2) {
                0 => {
                    let groups = if c.is_multiple_of(2) { 2 } else { 1 };
                    (x.group_norm_with(&name, groups, GroupNorm { eps: 0.1, ..GroupNorm::default() }), 4.0)
                }
                _ => (x.pad_with(-1, (w - 1).min(1), w - 1, PadMode::Reflect).flip(2).pad_with(1, 0, 1, PadMode::Circular), bound),
            },
            41 => match self.below(2) {
                0 => (x.layer_norm_with(&name, LayerNorm { eps: 0.1, ..LayerNorm::default() }), 4.0),
                _ => (x.rms_norm_with(&name, RmsNorm { eps: 0.1, ..RmsNorm::default() }), 4.0),
            },
            42 => {
                let (m, e) = (1 + self.below(5), 1 + self.below(4));
                let (k, v) = (self.leaf(&[d[0], m, w]), self.leaf(&[d[0], m, e]));
                (x.tanh().scaled_dot_product_attention(k, v, Attention { causal: self.below(2) == 1, ..Attention::default() }), 1.7)
            }
            _ => match self.below(2) {
                0 => (x.lstm(&name, 1 + self.below(4)), 1.0),
                _ => (x.gru(&name, 1 + self.below(4)), 1.0),
            },
        };
        self.pool.push(if bound > 4.0 { (y.tanh(), 1.0) } else { (y, bound) });
    }
    fn step(&mut self, genes: &[u16]) {
        self.genes = genes.iter().rev().copied().collect();
        let kind = self.below(KINDS);
        self.steps.push(kind);
        let (x, bound) = self.any();
        let s = x.shape();
        let axis = |r: &mut Self| r.below(s.rank().max(1)) as isize;
        let (y, bound) = match kind {
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
            34..44 => return self.layer(kind),
            _ => (x.detach() + x * 0.3, 1.3 * bound),
        };
        // Large values would hide the rounding errors of small ones, and the other way round.
        self.pool.push(if bound > 4.0 { (y.tanh(), 1.0) } else { (y, bound) });
    }
}

/// Kinds of steps.
const KINDS: usize = 44;

/// The kind of no step: it stands before those of a part that is recomputed.
const PART: usize = KINDS;

/// A graph of up to a dozen ops, the loss first among its outputs, then some of its tensors, then gradients of inputs and
/// parameters; what its inputs are fed; the kinds of its steps.
fn random_graph<'g>(g: &'g Graph, genes: &Genes, recompute: bool) -> (Vec<Tensor<'g>>, Vec<Host<f32>>, Vec<usize>) {
    let leaves = genes[0].iter().rev().copied().collect();
    let mut r = Random { g, genes: leaves, steps: Vec::new(), recompute, pool: Vec::new(), floats: Vec::new(), inputs: Vec::new() };
    for _ in 0..2 {
        let rank = r.below(4);
        let dims: Vec<usize> = (0..rank).map(|_| [1, 2, 3, 5, 7][r.below(5)]).collect();
        let leaf = r.leaf(&dims);
        r.pool.push((leaf, 1.7));
    }
    steps(&mut r, &genes[1..]);
    r.genes = genes[0].clone();
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
    (outputs, r.inputs, r.steps)
}

/// The steps; a few of them together may be recomputed for the gradient, and some of those again.
fn steps(r: &mut Random, mut genes: &[Vec<u16>]) {
    while let Some((first, rest)) = genes.split_first() {
        // The last choice, which no step comes to.
        let part = match first[15] % 8 {
            n @ 1..4 if genes.len() > usize::from(n) => usize::from(n),
            _ => 0,
        };
        let x = r.pool[0].0;
        let run = |r: &mut Random| {
            r.step(first);
            steps(r, &rest[..part]);
        };
        if part > 0 {
            r.steps.push(PART);
        }
        if part > 0 && r.recompute {
            x.checkpoint(|_| run(r))
        } else {
            run(r)
        }
        genes = &rest[part..];
    }
}

/// Rounding errors of up to 20 ops one after the other, each of which may double what it gets.
const TERMS: usize = 1 << 16;

/// The graph of these genes, the `number`-th one.
fn check(device: &Device, genes: &Genes, number: u32) -> Check {
    let g = Graph::training();
    let (outputs, inputs, _) = random_graph(&g, genes, true);
    g.error().map_or(Ok(()), Err)?;
    let all = [(true, true), (false, false), (true, false), (false, true)];
    let cpu = device.as_gpu().is_none();
    let some = if cpu { &all[..] } else { &all[..1 + usize::from(number.is_multiple_of(4))] };
    for &(fuse, reuse) in some {
        let options = PlanOptions { fuse, reuse, ..device.plan_options() };
        testing::compare(&g, &outputs, &inputs, device, &options, TERMS).map_err(|e| format!("fuse {fuse}, reuse {reuse}: {e}"))?;
    }
    // The same bits as where nothing is recomputed, as long as fusion has no part in it.
    if cpu {
        let kept = Graph::training();
        let (want, _, _) = random_graph(&kept, genes, false);
        let options = PlanOptions { fuse: false, ..device.plan_options() };
        let [got, want] = [&outputs, &want].map(|outputs| Compiled::new(device, outputs, &options, 0)?.run(&inputs));
        for (i, (got, want)) in got?.iter().zip(&want?).enumerate() {
            let same = got.f().iter().zip(want.f()).all(|(g, w)| g.to_bits() == w.to_bits());
            same.then_some(()).ok_or(format!("output {i} is not as without recomputation"))?;
        }
    }
    // The gradients that a step leaves in the flat buffer are those.
    let params = g.param_tensors();
    if !params.is_empty() && (cpu || number % 4 == 1) {
        let loss = outputs[0];
        let mut trainer = match Trainer::new(device, loss, Sgd::new(1e-3)) {
            // Parameters that only a comparison or an index sees: there is nothing to train, because every gradient is 0.
            Err(Error::Op { op, .. }) if op == "loss" => {
                let grads = Compiled::new(device, &loss.grad(&params), &device.plan_options(), 0)?.run(&inputs)?;
                let zero = grads.iter().all(|d| d.f().iter().all(|d| *d == 0.0));
                return if zero { Ok(()) } else { Err("a gradient that is not 0, but no trainer".into()) };
            }
            trainer => trainer?,
        };
        trainer.step(&inputs)?;
        let names: Vec<String> = trainer.params().names().map(String::from).collect();
        let mut want = Compiled::new(device, &[vec![loss], loss.grad(&params)].concat(), &device.plan_options(), 0)?.run(&inputs)?;
        let first = want.remove(0).f()[0];
        testing::close(&[trainer.loss()?.into()], &[first.into()], TERMS).map_err(|e| format!("loss: {e}"))?;
        for (name, want) in names.iter().zip(want) {
            // State has no gradient.
            let Ok(got) = trainer.gradient(name) else { continue };
            let [got, want] = [got, want].map(|d| d.to_f64().iter().map(|d| d + 0.5).collect::<Vec<f64>>());
            testing::close(&got, &want, TERMS).map_err(|e| format!("gradient of {name}: {e}"))?;
        }
    }
    Ok(())
}

/// The graphs do what they are for: none of the kinds is out of reach.
fn every_kind() -> Check {
    let mut seen = [0; KINDS + 1];
    let mut state = 1u64;
    for _ in 0..300 {
        let mut gene = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 48) as u16
        };
        let genes: Genes = (0..10).map(|_| (0..16).map(|_| gene()).collect()).collect();
        let g = Graph::training();
        let (_, _, steps) = random_graph(&g, &genes, true);
        g.error().map_or(Ok(()), Err)?;
        steps.iter().for_each(|&kind| seen[kind] += 1);
    }
    assert!(seen.iter().all(|&n| n > 20), "{seen:?}");
    Ok(())
}
