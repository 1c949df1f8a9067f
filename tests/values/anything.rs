//! Nothing that a user says to a method panics: random shapes, axes and options (proptest) for every method of a tensor, every layer
//! and every loss. Each either makes a graph with a mistake, whose error names the line here, or a graph that a device runs and
//! whose values and gradients are the oracle's. `DOWNHILL_OPTIONS=100000` in the environment sets the number of calls.

use crate::common::{Check, On, Suite};
use downhill::{
    DType, Device, Error, Graph, Host, Shape, Tensor, Trainer,
    init::Init,
    layers::{
        BatchNorm, Conv1d, Conv2d, ConvTranspose2d, Direction, GroupNorm, InstanceNorm, LayerNorm, Linear, MultiHeadAttention, Recurrent,
        RmsNorm, TransformerEncoderLayer,
    },
    losses,
    ops::{
        Fill,
        attention::Attention,
        conv2d::{Convolution, Padding},
        max_pool2d::MaxPool,
        pad::PadMode,
        resample::{AvgPool, Upsample},
    },
    optim::Sgd,
    testing,
};
use proptest::{
    collection::vec,
    prelude::any,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner},
};

pub fn trials(suite: &mut Suite) {
    let wanted = std::env::var("DOWNHILL_OPTIONS").ok().and_then(|text| text.parse().ok());
    for (on, share) in [(On::Cpu, 1.0), (On::Gpu, 0.05)] {
        let count = (f64::from(wanted.unwrap_or(6000u32)) * share).ceil() as u32;
        suite.on(on, "any options", move |device| options(device, count));
    }
    suite.test("every kind of method is both refused and run", kinds);
}

/// Choices, the first of which says what is called.
type Genes = Vec<u16>;

fn options(device: &Device, count: u32) -> Check {
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let result = TestRunner::new_with_rng(config, rng)
        .run(&vec(any::<u16>(), 40), |genes| check(device, &genes).map(|_| ()).map_err(|e| TestCaseError::fail(e.to_string())));
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, genes)) => Err(format!("kind {}: {why}\n{genes:?}", genes[0] as usize % KINDS).into()),
        Err(other) => Err(other.into()),
    }
}

/// Returns whether the call was accepted.
fn check(device: &Device, genes: &Genes) -> Result<bool, Box<dyn std::error::Error>> {
    let g = Graph::training();
    let mut r = Random { g: &g, genes: genes[1..].iter().rev().copied().collect(), inputs: Vec::new(), floats: Vec::new() };
    let y = r.call(genes[0] as usize % KINDS);
    match g.error() {
        None => {}
        Some(Error::Op { place, why, .. }) if place.file().ends_with("anything.rs") && !why.is_empty() => return Ok(false),
        Some(other) => return Err(format!("an odd error: {other}").into()),
    }
    let mut outputs = vec![y];
    if y.shape().dtype() == DType::F32 {
        let loss = (y * 0.7 + y.square() * 0.2).sum_all();
        outputs.extend(loss.grad(&r.floats).into_iter().map(|d| d + 0.5));
        match Trainer::new(device, loss, Sgd::new(1e-3)) {
            Err(Error::Argument { why, .. }) if why.contains("no parameters to train") => {}
            other => drop(other?),
        }
    }
    g.error().map_or(Ok(()), Err)?;
    testing::compare(&g, &outputs, &r.inputs, device, &device.plan_options(), TERMS)?;
    Ok(true)
}

/// The factor of the tolerance for several layers in a row, which may magnify values.
const TERMS: usize = 1 << 18;

/// Checks that the random options make both cases: every kind is accepted sometimes and, if it has refusable options, refused sometimes.
fn kinds() -> Check {
    let mut seen = [[0; 2]; KINDS];
    let mut state = 1u64;
    for k in 0..KINDS * 60 {
        let mut gene = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 48) as u16
        };
        let genes: Genes = std::iter::once((k % KINDS) as u16).chain((0..40).map(|_| gene())).collect();
        let g = Graph::training();
        let mut r = Random { g: &g, genes: genes[1..].to_vec(), inputs: Vec::new(), floats: Vec::new() };
        r.call(k % KINDS);
        seen[k % KINDS][usize::from(g.error().is_some())] += 1;
    }
    assert!(seen.iter().all(|[taken, _]| *taken > 1), "{seen:?}");
    assert!(seen.iter().filter(|[_, refused]| *refused > 1).count() > KINDS - 5, "{seen:?}");
    Ok(())
}

struct Random<'g> {
    g: &'g Graph,
    genes: Vec<u16>,
    inputs: Vec<Host<f32>>,
    floats: Vec<Tensor<'g>>,
}

const KINDS: usize = 62;

impl<'g> Random<'g> {
    /// Returns the next choice, or 0 after the last choice.
    fn below(&mut self, n: usize) -> usize {
        self.genes.pop().map_or(0, usize::from) % n
    }
    fn yes(&mut self) -> bool {
        self.below(2) == 1
    }
    /// Mostly small, now and then 0 or far too large.
    fn size(&mut self) -> usize {
        [1, 2, 3, 4, 2, 3, 1, 2, 4, 3, 2, 1, 0, 5, 6, usize::MAX][self.below(16)]
    }
    /// Returns the size of an axis of a tensor. It is rarely 0.
    fn length(&mut self) -> usize {
        [1, 2, 3, 4, 5, 6, 2, 3, 4][self.below(9)] * usize::from(self.below(40) > 0)
    }
    fn few(&mut self) -> usize {
        [0, 1, 0, 2, 1, 3, 4, 5][self.below(8)]
    }
    fn axis(&mut self) -> isize {
        [0, 1, -1, -2, 2, 3, -3, 0, 1, -1, 4, 9, -9, isize::MAX, isize::MIN, -4][self.below(16)]
    }
    fn axes(&mut self) -> Vec<isize> {
        (0..[1, 1, 2, 0, 3][self.below(5)]).map(|_| self.axis()).collect()
    }
    fn number(&mut self) -> f32 {
        [0.5, 0.1, 1.0, 0.0, 2.0, -1.0, 1e-3, 0.3, f32::NAN, f32::INFINITY, -0.0, 7.0][self.below(12)]
    }
    fn pair(&mut self) -> [usize; 2] {
        [self.size(), self.size()]
    }
    fn pad_pair(&mut self) -> [usize; 2] {
        [self.few(), self.few()]
    }
    fn step(&mut self) -> [usize; 2] {
        let mut one = || [1, 2, 1, 3, 1, 0, 4, 5][self.below(8)];
        [one(), one()]
    }
    fn padding(&mut self) -> Padding {
        match self.below(5) {
            0 => Padding::Same,
            1 => self.few().into(),
            2 => self.pad_pair().into(),
            3 => Padding::Sides([self.few(), self.few(), self.few(), self.few()]),
            _ => 0.into(),
        }
    }
    fn groups(&mut self) -> usize {
        [1, 1, 2, 1, 3, 0][self.below(6)]
    }
    fn dims(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.length()).collect()
    }
    fn shape(&mut self) -> Shape {
        let rank = [2, 3, 1, 4, 0, 5, 6][self.below(7)];
        Shape::new(&self.dims(rank)).expect("at most six axes")
    }
    /// Values off the kinks and within the domain of most functions.
    fn of(&mut self, shape: Shape) -> Tensor<'g> {
        let values = testing::fill(shape, &Fill::Range(0.2, 1.8), 31 + self.inputs.len() as u64);
        let x = self.g.input(shape);
        self.inputs.push(values);
        if !shape.dims().contains(&0) {
            self.floats.push(x);
        }
        x
    }
    /// Mostly of the rank that is wanted.
    fn rank(&mut self, rank: usize) -> Tensor<'g> {
        if self.below(12) == 0 {
            return self.any();
        }
        let shape = Shape::new(&self.dims(rank)).expect("at most six axes");
        self.of(shape)
    }
    fn any(&mut self) -> Tensor<'g> {
        let shape = self.shape();
        if self.below(12) == 0 {
            return self.labels(shape, 2);
        }
        self.of(shape)
    }
    fn labels(&mut self, shape: Shape, classes: usize) -> Tensor<'g> {
        let y = self.g.labels(shape);
        self.inputs.push(testing::fill(shape.u32(), &Fill::Labels(classes.max(1)), 5));
        y
    }
    /// Labels of the rows of `x`, mostly.
    fn labels_of(&mut self, x: Tensor<'g>) -> Tensor<'g> {
        let s = x.shape();
        match self.below(8) {
            0 => self.any(),
            1 => self.labels(s, s.last()),
            _ => self.labels(s.without(s.rank().max(1) - 1), s.last()),
        }
    }
    /// Mostly of a shape that broadcasts with that of `x`.
    fn partner(&mut self, x: Tensor<'g>) -> Tensor<'g> {
        let s = x.shape();
        match self.below(5) {
            0 => self.any(),
            1 if s.rank() > 0 => {
                let axis = self.below(s.rank());
                self.of(s.with(axis, 1).of(DType::F32))
            }
            2 => self.of(Shape::SCALAR),
            3 => self.of(s.without(0).of(DType::F32)),
            _ => self.of(s.of(DType::F32)),
        }
    }
    fn call(&mut self, kind: usize) -> Tensor<'g> {
        match kind {
            0 => (self.any().exp() + 0.1).ln().abs().sqrt().sin().cos().tanh().sigmoid().expm1(),
            1 => self.any().relu().silu().softplus().log_sigmoid().gelu().gelu_tanh().square().log1p(),
            2 => self.any().reciprocal().rsqrt().sign().identity(),
            3 => {
                let x = self.any();
                let y = self.partner(x);
                (x + y) * (x - y) / y
            }
            4 => {
                let x = self.any();
                let y = self.partner(x);
                x.maximum(y).minimum(y * 0.3).pow(y)
            }
            5 => {
                let x = self.any();
                let y = self.partner(x);
                x.eq(y) + x.ne(y) + x.lt(y) + x.le(y) + x.gt(y) + x.ge(y)
            }
            6 => {
                let x = self.any();
                let (a, b) = (self.partner(x), self.partner(x));
                (x - 1.0).gt(0.1).where_(a, b)
            }
            7 => {
                let x = self.any();
                let (p, a) = (self.number(), self.number());
                x.powf(p).clamp(p, a).leaky_relu(a).elu(0.5)
            }
            8 => {
                let (x, to) = (self.any(), self.shape());
                x.broadcast_to(to)
            }
            9 => self.any().to_f32().detach() + self.any(),
            10 => {
                let p = self.number();
                self.any().dropout(p)
            }
            11 => {
                let p = self.number();
                self.rank(4).dropout2d(p)
            }
            12 => {
                let (x, axes, keep) = (self.any(), self.axes(), self.yes());
                x.sum(&axes, keep)
            }
            13 => {
                let (x, axes, keep) = (self.any(), self.axes(), self.yes());
                x.mean(&axes, keep)
            }
            14 => {
                let (x, axes, keep) = (self.any(), self.axes(), self.yes());
                if self.yes() { x.max(&axes, keep) } else { x.min(&axes, keep) }
            }
            15 => {
                let (x, axes, keep) = (self.any(), self.axes(), self.yes());
                x.logsumexp(&axes, keep)
            }
            16 => {
                let (x, axes, keep, correction) = (self.any(), self.axes(), self.yes(), self.few());
                x.variance(&axes, correction, keep)
            }
            17 => {
                let (x, axes, keep, correction) = (self.any(), self.axes(), self.yes(), self.few());
                x.detach().std(&axes, correction, keep)
            }
            18 => {
                let x = self.any();
                x.sum_all() + x.mean_all() + x.max_all() + x.min_all()
            }
            19 => {
                let (x, axis) = (self.any(), self.axis());
                if self.yes() { x.softmax(axis) } else { x.log_softmax(axis) }
            }
            20 => {
                let (x, axis) = (self.any(), self.axis());
                if self.yes() { x.argmax(axis) } else { x.argmin(axis) }
            }
            21 => {
                let x = self.any();
                let y = self.labels_of(x);
                x.pick(y)
            }
            22 => {
                let (shape, classes) = (self.shape(), self.size());
                self.labels(shape, classes.min(4)).one_hot(classes)
            }
            23 => {
                let x = self.any();
                let y = self.labels_of(x);
                x.correct(y)
            }
            24 => {
                let (x, shape) = (self.any(), self.shape());
                let index = self.labels(shape, x.shape().dims().first().copied().unwrap_or(1));
                x.gather_rows(index)
            }
            25 => {
                let x = self.any();
                let mut dims: Vec<usize> = (0..x.shape().rank()).collect();
                match self.below(4) {
                    0 => dims = vec![self.size(), self.size()],
                    1 => dims.reverse(),
                    _ => dims.rotate_left(self.below(x.shape().rank().max(1))),
                }
                x.permute(&dims)
            }
            26 => self.any().transpose(),
            27 => {
                let (x, to) = (self.any(), self.shape());
                match self.below(3) {
                    0 => x.reshape(to),
                    1 => x.reshape([x.shape().elements()]),
                    _ => x.flatten(),
                }
            }
            28 => {
                let (x, axis) = (self.any(), self.axis());
                x.unsqueeze(axis)
            }
            29 => {
                let (x, axis) = (self.any(), self.axis());
                if self.yes() { x.unsqueeze(1).squeeze(1) } else { x.squeeze(axis) }
            }
            30 => {
                let (x, axis, start, more) = (self.any(), self.axis(), self.few(), self.size());
                x.slice(axis, start, start.wrapping_add(more))
            }
            31 => {
                let (x, axis) = (self.any(), self.axis());
                let others: Vec<Tensor> = (0..self.below(3)).map(|_| if self.yes() { x } else { self.partner(x) }).collect();
                x.concat(&others, axis)
            }
            32 => {
                let (x, axis, before, after) = (self.any(), self.axis(), self.few(), self.few());
                let after = if self.below(20) == 0 { usize::MAX } else { after };
                x.pad(axis, before, after)
            }
            33 => {
                let (x, axis, before, after) = (self.any(), self.axis(), self.few(), self.few());
                let value = self.number();
                let after = if self.below(20) == 0 { usize::MAX } else { after };
                x.pad_with(
                    axis,
                    before,
                    after,
                    [PadMode::Reflect, PadMode::Replicate, PadMode::Circular, PadMode::Constant(value)][self.below(4)],
                )
            }
            34 => {
                let (x, axis) = (self.any(), self.axis());
                x.flip(axis)
            }
            35 => {
                let a = self.any();
                let (s, ta, tb) = (a.shape(), self.yes(), self.yes());
                let k = if ta && s.rank() > 1 { s.dims()[s.rank() - 2] } else { s.last() };
                let n = self.length();
                let b = if self.below(4) == 0 { self.any() } else { self.of(Shape::from(if tb { [n, k] } else { [k, n] })) };
                a.matmul_t(b, ta, tb)
            }
            36 => {
                let a = self.any();
                let b = self.partner(a);
                a.matmul(b)
            }
            37 | 38 => {
                let q = self.rank([3, 2, 4][self.genes.len() % 3]);
                let (s, m, e) = (q.shape(), self.length(), self.length());
                let [k, v] = [s.last(), e].map(|last| s.with(s.rank().max(2) - 2, m).with(s.rank().max(1) - 1, last));
                let (k, v) = if self.below(4) == 0 { (self.any(), self.any()) } else { (self.of(k), self.of(v)) };
                let scale = if self.yes() { Some(self.number()) } else { None };
                q.scaled_dot_product_attention(k, v, Attention { causal: self.yes(), scale, ..Attention::default() })
            }
            39 => {
                let (x, kernel, padding, dilation) = (self.rank(4), self.pair(), self.pad_pair(), self.step());
                let stride = if self.yes() { Some(self.step()) } else { None };
                x.max_pool2d_with(kernel, MaxPool { stride, padding, dilation, ceil_mode: self.yes() })
            }
            40 => {
                let (x, kernel, [padding, _], [dilation, stride]) = (self.rank(3), self.size(), self.pad_pair(), self.step());
                let stride = if self.yes() { Some([stride]) } else { None };
                x.max_pool1d_with(kernel, MaxPool { stride, padding: [padding], dilation: [dilation], ceil_mode: self.yes() })
            }
            41 => {
                let (x, kernel, padding) = (self.rank(4), self.pair(), self.pad_pair());
                let stride = if self.yes() { Some(self.step()) } else { None };
                x.avg_pool2d_with(kernel, AvgPool { stride, padding, ceil_mode: self.yes(), count_include_pad: self.yes() })
            }
            42 => {
                let (x, kernel, [padding, _], [stride, _]) = (self.rank(3), self.size(), self.pad_pair(), self.step());
                let stride = if self.yes() { Some([stride]) } else { None };
                x.avg_pool1d_with(kernel, AvgPool { stride, padding: [padding], ceil_mode: self.yes(), count_include_pad: self.yes() })
            }
            43 => {
                let (x, size) = (self.rank(4), self.pair());
                if self.below(4) == 0 { x.global_avg_pool2d() } else { x.adaptive_avg_pool2d(size) }
            }
            44 => {
                let (x, mode) = (self.rank(4), self.mode());
                if self.yes() {
                    return x.upsample(mode, self.pair());
                }
                x.upsample_by(mode, self.size())
            }
            45 | 46 => {
                let (x, [kh, kw], out) = (self.rank(4), self.kernel(), self.length());
                let options = Convolution { stride: self.step(), padding: self.padding(), dilation: self.step(), groups: self.groups() };
                let c = x.shape().dims().get(1).copied().unwrap_or(1);
                let w = if self.below(10) == 0 { self.any() } else { self.of([out, c / options.groups.max(1), kh, kw].into()) };
                x.convolve2d(w, options)
            }
            47 => {
                let (x, [k, out], [stride, dilation]) = (self.rank(3), self.kernel(), self.step());
                let options = Convolution { stride: [stride], padding: self.padding(), dilation: [dilation], groups: self.groups() };
                let c = x.shape().dims().get(1).copied().unwrap_or(1);
                let w = if self.below(10) == 0 { self.any() } else { self.of([out, c / options.groups.max(1), k].into()) };
                x.convolve1d(w, options)
            }
            48 | 49 => {
                let (x, [kh, kw], out) = (self.rank(4), self.kernel(), self.length());
                let padding = if self.yes() { 0.into() } else { self.padding() };
                let options = Convolution { stride: self.step(), padding, dilation: self.step(), groups: self.groups() };
                let c = x.shape().dims().get(1).copied().unwrap_or(1);
                let w = if self.below(10) == 0 { self.any() } else { self.of([c, out, kh, kw].into()) };
                let extra = self.pad_pair();
                x.convolve_transpose2d(w, options, extra)
            }
            50 => {
                let (x, kernel, out) = (self.rank(4), self.kernel(), self.size());
                let options = Conv2d {
                    stride: self.step(),
                    padding: self.padding(),
                    dilation: self.step(),
                    groups: self.groups(),
                    no_bias: self.yes(),
                    ..Conv2d::default()
                };
                x.conv2d_with("c", out, kernel, options)
            }
            51 => {
                let (x, [kernel, out], [stride, dilation]) = (self.rank(3), self.kernel(), self.step());
                let (stride, dilation, padding) = ([stride], [dilation], self.padding());
                let options = Conv1d { stride, padding, dilation, groups: self.groups(), no_bias: self.yes(), ..Conv1d::default() };
                x.conv1d_with("c", out, kernel, options)
            }
            52 => {
                let (x, kernel, out) = (self.rank(4), self.kernel(), self.size());
                let options = ConvTranspose2d {
                    stride: self.step(),
                    padding: if self.yes() { 0.into() } else { self.padding() },
                    output_padding: self.pad_pair(),
                    dilation: self.step(),
                    groups: self.groups(),
                    no_bias: self.yes(),
                    ..ConvTranspose2d::default()
                };
                x.conv_transpose2d_with("c", out, kernel, options)
            }
            53 => {
                let (x, out, no_bias) = (self.any(), self.size(), self.yes());
                x.linear_with("l", out, Linear { no_bias, weight: self.yes().then_some(Init::FanIn), ..Linear::default() })
            }
            54 => {
                let (shape, vocabulary, dim) = (self.shape(), self.size(), self.size());
                let x = self.labels(shape, vocabulary.min(4)).embedding("e", vocabulary, dim);
                match self.below(3) {
                    0 => x.positional_embedding("p", self.size()),
                    1 => x.sinusoidal_positions(),
                    _ => x,
                }
            }
            55 => {
                let (x, heads) = (self.rank(3), self.size());
                let memory = if self.below(3) == 0 { Some(self.rank(3)) } else { None };
                x.multi_head_attention_with(
                    "m",
                    heads,
                    MultiHeadAttention { causal: self.yes(), no_bias: self.yes(), memory, ..MultiHeadAttention::default() },
                )
            }
            56 => {
                let (x, heads, wide) = (self.rank(3), self.size(), self.size());
                let dropout = if self.yes() { 0.0 } else { self.number() };
                let options = TransformerEncoderLayer {
                    norm_first: self.yes(),
                    causal: self.yes(),
                    dropout,
                    gelu: self.yes(),
                    ..TransformerEncoderLayer::default()
                };
                x.transformer_encoder_layer_with("t", heads, wide, options)
            }
            57 | 58 => {
                let (x, hidden) = (self.rank(3), self.size());
                let direction = [Direction::Forward, Direction::Reverse, Direction::Both][self.below(3)];
                let state = if self.below(4) == 0 { Some(self.any()) } else { None };
                let layers = [1, 2, 1, 0][self.below(4)];
                let options = Recurrent { no_bias: self.yes(), layers, direction, h0: state, ..Recurrent::default() };
                if kind == 57 {
                    let lstm = x.lstm_with("r", hidden, options);
                    return lstm.output.mean_all() + lstm.h.mean_all() + lstm.c.mean_all();
                }
                let gru = x.gru_with("r", hidden, options);
                gru.output.mean_all() + gru.h.mean_all()
            }
            59 => {
                let (x, eps, groups) = (self.rank(4), [0.1, 0.1, 1.0, 0.0, -1.0, f32::NAN][self.below(6)], self.groups());
                let axes = [1, 2, 1, 0, 3, 9][self.below(6)];
                let no_affine = self.yes();
                match self.below(5) {
                    0 => x.batch_norm_with("n", BatchNorm { eps, momentum: 0.1, no_affine, frozen: false }),
                    1 => x.layer_norm_with("n", LayerNorm { eps, axes, no_affine, no_bias: self.yes() }),
                    2 => x.rms_norm_with("n", RmsNorm { eps, axes, no_affine }),
                    3 => x.group_norm_with("n", groups, GroupNorm { eps, no_affine }),
                    _ => x.instance_norm_with("n", InstanceNorm { eps, affine: !no_affine }),
                }
            }
            60 => {
                let x = self.any();
                let y = self.partner(x);
                let delta = self.number();
                let loss = match self.below(6) {
                    0 => losses::mse(x, y),
                    1 => losses::mae(x, y + 3.0),
                    2 => losses::huber(x, y, delta),
                    3 => losses::bce(x * 0.4, y * 0.5),
                    4 => losses::bce_with_logits(x, y * 0.5),
                    _ => losses::kl_div(x.ln(), y),
                };
                self.reduced(loss)
            }
            _ => {
                let x = self.any();
                let loss = match self.below(3) {
                    0 => losses::cross_entropy(x, self.labels_of(x)),
                    1 => losses::nll(-x, self.labels_of(x)),
                    _ => losses::cross_entropy_soft(x, self.partner(x)),
                };
                let loss = if self.below(3) == 0 { loss.label_smoothing(self.number()) } else { loss };
                let k = x.shape().last();
                let loss = if self.below(3) == 0 { loss.class_weights(self.of([k].into())) } else { loss };
                self.reduced(loss)
            }
        }
    }
    fn mode(&mut self) -> Upsample {
        match self.below(3) {
            0 => Upsample::Nearest,
            k => Upsample::Bilinear { align_corners: k == 1 },
        }
    }
    fn kernel(&mut self) -> [usize; 2] {
        let mut one = || [1, 2, 3, 2, 1, 4, 3, 2][self.below(8)] * usize::from(self.below(40) > 0);
        [one(), one()]
    }
    fn reduced(&mut self, loss: losses::Loss<'g>) -> Tensor<'g> {
        match self.below(4) {
            0 => loss.none(),
            1 => loss.sum(),
            2 => loss.batch_mean(),
            _ => loss.mean(),
        }
    }
}
