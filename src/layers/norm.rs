//! Normalisation: batch, layer, group, instance and RMS. Parameters and defaults are PyTorch's.

use crate::{
    graph::Tensor,
    init::Init,
    ops::norm::NormOptions,
    shape::{DType, Shape},
};
use std::panic::Location;

/// Options of a [batch normalisation](Tensor::batch_norm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// The number added to the variance. The default is 10⁻⁵.
    pub eps: f32,
    /// The share of each batch's statistics in the new running statistics. The default is 0.1.
    pub momentum: f32,
    /// Leaves the weight and the bias out.
    pub no_affine: bool,
    /// Uses the running statistics in training as well, and does not change them. PyTorch's `eval()` of the layer, Keras's
    /// `trainable = False`. [`Optimizer::freeze`](crate::optim::Optimizer::freeze) freezes the weight and the bias.
    pub frozen: bool,
}

impl Default for BatchNorm {
    fn default() -> BatchNorm {
        BatchNorm { eps: 1e-5, momentum: 0.1, no_affine: false, frozen: false }
    }
}

/// Options of a [layer normalisation](Tensor::layer_norm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// The number added to the variance. The default is 10⁻⁵.
    pub eps: f32,
    /// The number of trailing axes to normalise over. The default is 1.
    pub axes: usize,
    /// Leaves the weight and the bias out.
    pub no_affine: bool,
    /// Leaves the bias out.
    pub no_bias: bool,
}

impl Default for LayerNorm {
    fn default() -> LayerNorm {
        LayerNorm { eps: 1e-5, axes: 1, no_affine: false, no_bias: false }
    }
}

/// Options of a [group normalisation](Tensor::group_norm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// The number added to the variance. The default is 10⁻⁵.
    pub eps: f32,
    /// Leaves the weight and the bias out.
    pub no_affine: bool,
}

impl Default for GroupNorm {
    fn default() -> GroupNorm {
        GroupNorm { eps: 1e-5, no_affine: false }
    }
}

/// Options of an [instance normalisation](Tensor::instance_norm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceNorm {
    /// The number added to the variance. The default is 10⁻⁵.
    pub eps: f32,
    /// Adds a weight and a bias. The default is false, as in PyTorch.
    pub affine: bool,
}

impl Default for InstanceNorm {
    fn default() -> InstanceNorm {
        InstanceNorm { eps: 1e-5, affine: false }
    }
}

/// Options of an [RMS normalisation](Tensor::rms_norm).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNorm {
    /// The number added to the mean square. The default is 2⁻²³, as in PyTorch. (Keras uses 10⁻⁶.)
    pub eps: f32,
    /// The number of trailing axes to normalise over. The default is 1.
    pub axes: usize,
    /// Leaves the weight out.
    pub no_affine: bool,
}

impl Default for RmsNorm {
    fn default() -> RmsNorm {
        RmsNorm { eps: f32::EPSILON, axes: 1, no_affine: false }
    }
}

impl<'g> Tensor<'g> {
    /// Applies batch normalisation, `y = (x − mean) / √(var + eps) · w + b`, to each channel of `[n, c]`, `[n, c, l]` or
    /// `[n, c, h, w]` (Ioffe & Szegedy 2015, algorithm 1). The parameters are `name.weight` (starts at one) and `name.bias`
    /// (starts at zero), both `[c]`.
    ///
    /// A training graph uses the mean and the variance of the batch. After each step it updates the states
    /// `name.running_mean` and `name.running_var`: running = 0.9·running + 0.1·batch. This update takes the unbiased estimate
    /// of the batch's variance. An inference graph uses the running statistics. Running an inference graph before a step or a
    /// load of parameters is an error.
    ///
    /// A training over [ranks](crate::Trainer::distributed) uses the statistics of each rank's own samples. With
    /// [`Trainer::sync_batch_norm`](crate::Trainer::sync_batch_norm) it uses those of all samples.
    ///
    /// It is a mistake if the input has fewer than two axes, or if a training graph has only one value for each channel.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Sgd};
    /// fn model<'g>(x: downhill::Tensor<'g>) -> downhill::Tensor<'g> {
    ///     x.batch_norm("bn")
    /// }
    /// let (g, h) = (Graph::training(), Graph::inference());
    /// let mut trainer = Trainer::new(&Device::cpu(), model(g.input([2, 1])).square().mean_all(), Sgd::new(0.1))?;
    /// trainer.step(&[Host::new([2, 1], vec![3.0, 7.0])])?;
    /// assert_eq!(trainer.params().get("bn.running_mean")?.f(), &[0.5]);
    /// let y = trainer.compile(&[model(h.input([1, 1]))])?.run(&[Host::new([1, 1], vec![0.5])])?;
    /// assert_eq!(y[0].f(), &[0.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn batch_norm(self, name: &str) -> Tensor<'g> {
        self.batch_norm_with(name, BatchNorm::default())
    }
    /// [`batch_norm`](Tensor::batch_norm) with options.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, layers::BatchNorm, optim::Sgd};
    /// let g = Graph::training();
    /// let frozen = BatchNorm { frozen: true, eps: 0.0, ..BatchNorm::default() };
    /// let loss = g.input([2, 1]).batch_norm_with("bn", frozen).linear("fc", 1).square().mean_all();
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1).freeze(["bn"]))?;
    /// trainer.params().set("bn.running_mean", &Host::new([1], vec![5.0]))?;
    /// trainer.step(&[Host::new([2, 1], vec![3.0, 7.0])])?;
    /// assert_eq!(trainer.params().get("bn.running_mean")?.f(), &[5.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn batch_norm_with(self, name: &str, options: BatchNorm) -> Tensor<'g> {
        let (shape, g, place) = (self.shape(), self.graph(), Location::caller());
        let _line = g.line();
        let BatchNorm { eps, momentum, no_affine, frozen } = options;
        let Some((c, kept)) = self.channels("batch_norm", eps) else { return g.dead() };
        let n = shape.elements() / c;
        let why = match (0.0..=1.0).contains(&momentum) {
            false => Some(format!("the momentum is {momentum}, but must be in 0..=1")),
            true if !frozen && g.trains("batch_norm", &[self], place) && n == 1 && g.ranks().is_none() => {
                Some("in training each channel needs more than one value; use a larger batch".into())
            }
            true => None,
        };
        if let Some(why) = why {
            return g.mistake("batch_norm", &[self], why, place);
        }
        let affine = |name: &str, init| g.param(name, [c], init).reshape(kept);
        let weight = (!no_affine).then(|| affine(&format!("{name}.weight"), Init::Ones));
        let bias = (!no_affine).then(|| affine(&format!("{name}.bias"), Init::Zeros));
        let names = [format!("{name}.running_mean"), format!("{name}.running_var")];
        let running_mean = g.state(&names[0], [c], Init::Zeros);
        let running_var = g.state(&names[1], [c], Init::Ones);
        let y = if !frozen && g.trains("batch_norm", &[self], place) {
            let axes = (0..shape.rank()).filter(|&a| a != 1).collect();
            let (y, [mean, var], count) = self.normalise_over(axes, eps, weight);
            // A variance that overflows is replaced by the largest finite number. A running average could never recover from
            // infinity.
            let finite = |t: Tensor<'g>| t.minimum(f32::MAX);
            let follow = |old: Tensor<'g>, new: Tensor<'g>, share: Tensor<'g>| old * (1.0 - momentum) + new.reshape([c]) * share;
            g.assign(&names[0], follow(running_mean, mean, g.scalar(momentum)));
            let share = match count {
                // The variance of a single value is 0.
                Some(count) => count / (count - 1.0).maximum(1.0) * momentum,
                None => g.scalar(momentum * (n as f64 / (n - 1) as f64) as f32),
            };
            g.assign(&names[1], finite(follow(running_var, finite(var), share)));
            y
        } else {
            let why = format!("`{name}` has seen no batch yet: make a step, or load weights, before it is used");
            g.require_step("batch_norm", &[self], why, place);
            let r = (running_var.reshape(kept) + eps).rsqrt();
            self.standardise(weight.map_or(r, |w| r * w), Some(running_mean.reshape(kept)))
        };
        bias.map_or(y, |b| y + b)
    }

    /// Applies layer normalisation, `y = (x − mean) / √(var + eps) · w + b`, over the last axis (Ba, Kiros & Hinton 2016, eq.
    /// 4). The parameters are `name.weight` (starts at one) and `name.bias` (starts at zero). Both have the size of the last
    /// axis.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let y = g.input([1, 2]).layer_norm("ln");
    /// let mut f = Device::cpu().compile(&[y])?;
    /// let y = f.run(&[Host::new([1, 2], vec![100.0, 102.0])])?;
    /// assert!((y[0].f()[1] - 1.0).abs() < 1e-4);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn layer_norm(self, name: &str) -> Tensor<'g> {
        self.layer_norm_with(name, LayerNorm::default())
    }
    /// [`layer_norm`](Tensor::layer_norm) with options. The parameters have the shape of the last `axes` axes.
    #[track_caller]
    pub fn layer_norm_with(self, name: &str, options: LayerNorm) -> Tensor<'g> {
        let LayerNorm { eps, axes, no_affine, no_bias } = options;
        let Some((y, shape)) = self.over_last("layer_norm", axes, true, eps) else { return self.graph().dead() };
        y.affine(name, shape, shape, !no_affine, !no_affine && !no_bias)
    }

    /// Applies RMS normalisation, `y = x / √(mean x² + eps) · w`, over the last axis (Zhang & Sennrich 2019, eq. 4). It is
    /// [`layer_norm`](Tensor::layer_norm) without the mean. The parameter is `name.weight` (starts at one).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host};
    /// let g = Graph::training();
    /// let mut f = Device::cpu().compile(&[g.input([1, 2]).rms_norm("rms")])?;
    /// let y = f.run(&[Host::new([1, 2], vec![1.0, 7.0])])?;
    /// assert!((y[0].f()[1] - 1.4).abs() < 1e-5);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn rms_norm(self, name: &str) -> Tensor<'g> {
        self.rms_norm_with(name, RmsNorm::default())
    }
    /// [`rms_norm`](Tensor::rms_norm) with options. The parameter has the shape of the last `axes` axes.
    #[track_caller]
    pub fn rms_norm_with(self, name: &str, options: RmsNorm) -> Tensor<'g> {
        let RmsNorm { eps, axes, no_affine } = options;
        let Some((y, shape)) = self.over_last("rms_norm", axes, false, eps) else { return self.graph().dead() };
        y.affine(name, shape, shape, !no_affine, false)
    }

    /// Applies group normalisation, `y = (x − mean) / √(var + eps) · w + b`, to `[n, c, …]` (Wu & He 2018, eq. 1 and 7). The
    /// channels of each sample are divided into `groups` equal groups, and each group is normalised separately. The
    /// parameters are `name.weight` (starts at one) and `name.bias` (starts at zero), both `[c]`.
    ///
    /// It is a mistake if the input has fewer than two axes, or if `groups` does not divide the number of channels.
    ///
    /// ```
    /// let g = downhill::Graph::training();
    /// assert_eq!(g.input([8, 32, 14, 14]).group_norm("gn", 4).shape().dims(), &[8, 32, 14, 14]);
    /// ```
    #[track_caller]
    pub fn group_norm(self, name: &str, groups: usize) -> Tensor<'g> {
        self.group_norm_with(name, groups, GroupNorm::default())
    }
    /// [`group_norm`](Tensor::group_norm) with options.
    #[track_caller]
    pub fn group_norm_with(self, name: &str, groups: usize, options: GroupNorm) -> Tensor<'g> {
        let GroupNorm { eps, no_affine } = options;
        let Some((c, kept)) = self.channels("group_norm", eps) else { return self.graph().dead() };
        if groups == 0 || c % groups != 0 {
            let why = format!("{groups} groups do not divide {c} channels");
            return self.graph().mistake("group_norm", &[self], why, Location::caller());
        }
        self.grouped(groups, eps).affine(name, Shape::from([c]), kept, !no_affine, !no_affine)
    }

    /// Applies instance normalisation, `y = (x − mean) / √(var + eps)`, to each channel of each sample of `[n, c, …]`
    /// (Ulyanov, Vedaldi & Lempitsky 2016, section 2). It has no parameters unless the [options](Tensor::instance_norm_with)
    /// ask for them.
    ///
    /// It is a mistake if there is no axis behind the channels, or only one value for each channel.
    ///
    /// ```
    /// let g = downhill::Graph::training();
    /// assert_eq!(g.input([8, 3, 32, 32]).instance_norm("in").shape().dims(), &[8, 3, 32, 32]);
    /// ```
    #[track_caller]
    pub fn instance_norm(self, name: &str) -> Tensor<'g> {
        self.instance_norm_with(name, InstanceNorm::default())
    }
    /// [`instance_norm`](Tensor::instance_norm) with options. `affine` adds the parameters `name.weight` (starts at one) and
    /// `name.bias` (starts at zero), both `[c]`.
    #[track_caller]
    pub fn instance_norm_with(self, name: &str, options: InstanceNorm) -> Tensor<'g> {
        let InstanceNorm { eps, affine } = options;
        let Some((c, kept)) = self.channels("instance_norm", eps) else { return self.graph().dead() };
        if self.shape().dims()[2..].iter().product::<usize>() == 1 {
            let why = "each channel of a sample needs more than one value, in axes behind the channels".to_string();
            return self.graph().mistake("instance_norm", &[self], why, Location::caller());
        }
        self.grouped(c, eps).affine(name, Shape::from([c]), kept, affine, affine)
    }

    /// Returns the number of channels of `[n, c, …]`, and the shape `[1, c, 1…]` that gives each channel one number. Returns
    /// `None` after a mistake.
    #[track_caller]
    fn channels(self, op: &str, eps: f32) -> Option<(usize, Shape)> {
        let shape = self.shape();
        let why = if shape.rank() < 2 { Some("takes [n, channels, …]".to_string()) } else { bad(shape, eps) };
        if let Some(why) = why.filter(|_| !self.is_dead()) {
            self.graph().mistake(op, &[self], why, Location::caller());
        }
        let kept = (0..shape.rank()).filter(|&a| a != 1).fold(shape, |s, a| s.with(a, 1));
        self.graph().error().is_none().then(|| (shape.dims()[1], kept))
    }
    /// Normalises each group of channels of each sample.
    #[track_caller]
    fn grouped(self, groups: usize, eps: f32) -> Tensor<'g> {
        let (shape, n) = (self.shape(), self.shape().dims()[0]);
        let rows = self.reshape([n, groups, shape.elements() / (n * groups)]);
        rows.normalise(NormOptions { start: 2, centre: true, eps }).reshape(shape)
    }
    /// Normalises over the last axes. Returns the result and the shape of these axes, or `None` after a mistake.
    #[track_caller]
    fn over_last(self, op: &str, axes: usize, centre: bool, eps: f32) -> Option<(Tensor<'g>, Shape)> {
        let shape = self.shape();
        let start = shape.rank().checked_sub(axes).filter(|_| axes > 0);
        let why = match start {
            None => Some(format!("cannot normalise over the last {axes} axes")),
            Some(_) => bad(shape, eps),
        };
        if let Some(why) = why.filter(|_| !self.is_dead()) {
            self.graph().mistake(op, &[self], why, Location::caller());
        }
        if self.graph().error().is_some() {
            return None;
        }
        let last = Shape::new(&shape.dims()[start?..])?;
        Some((self.normalise(NormOptions { start: start?, centre, eps }), last))
    }
    /// Returns self · `name.weight` + `name.bias`. Both parameters have the shape `shape` and are broadcast as `kept`.
    #[track_caller]
    fn affine(self, name: &str, shape: Shape, kept: Shape, weight: bool, bias: bool) -> Tensor<'g> {
        let g = self.graph();
        let mut y = self;
        if weight {
            y = y.standardise(g.undecayed(&format!("{name}.weight"), shape, Init::Ones).reshape(kept), None);
        }
        if bias {
            y = y + g.undecayed(&format!("{name}.bias"), shape, Init::Zeros).reshape(kept);
        }
        y
    }
}

/// Returns the mistake in the operand or in `eps`, if there is one. All layers of this file use it.
fn bad(x: Shape, eps: f32) -> Option<String> {
    match x.dtype() {
        DType::U32 => Some("takes floats, not labels (see to_f32)".into()),
        _ if eps.is_finite() && eps >= 0.0 => None,
        _ => Some(format!("eps is {eps}, but must be finite and not negative")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Device, Graph, Host, Trainer,
        kernel::Caps,
        optim::Sgd,
        oracle::interpret,
        plan::{Plan, PlanOptions, ir::Ir},
        rng::Key,
    };

    /// Returns the name of the op and the number of dispatches of each plan step that has dispatches.
    fn dispatches(outputs: &[Tensor], grads: &[Tensor]) -> Vec<(&'static str, usize)> {
        let plan = Plan::new(outputs, grads, &PlanOptions::new(Some(Caps::default()))).expect("the graph is right");
        let step = |s: &crate::plan::Step| (s.name(), s.kernel.as_ref().map_or(0, |k| k.passes.len()));
        plan.steps.iter().filter(|s| !s.is_alias()).map(step).collect()
    }

    #[test]
    fn few_kernels() {
        let g = Graph::training();
        let x = g.input([8, 16, 14, 14]);
        let inner = (x * 1.5).exp();
        let y = inner.batch_norm("bn").relu();
        let forward = [("map", 1), ("statistics", 2), ("slice", 1), ("slice", 1), ("slice", 1), ("map", 1)];
        assert_eq!(dispatches(&[y], &[]), forward);
        let dy = g.input(y.shape());
        let sources = [&[inner][..], &g.param_tensors()[..2]].concat();
        let grads = y.vjp(dy, &sources);
        // The gradient reads dy and x for the sums, and again in the one kernel that computes dx.
        let all = dispatches(&[&[y][..], &grads].concat(), &[]);
        let backward = [("map", 1), ("reduce", 1), ("reduce", 1), ("comoment", 2), ("map", 1), ("map", 1), ("map", 1)];
        assert_eq!(all[forward.len() + 1..], backward);

        // The op that follows is fused into the kernel. With running statistics, everything is one kernel.
        let g = Graph::inference();
        assert_eq!(dispatches(&[g.input([8, 16, 14, 14]).batch_norm("bn").relu()], &[]), [("map", 1)]);
        let g = Graph::training();
        assert_eq!(dispatches(&[g.input([32, 512]).layer_norm("ln").gelu()], &[]), [("norm", 1), ("map", 1)]);
        let x = g.input([32, 512]);
        let y = x.layer_norm("ln");
        let grads = y.vjp(g.input([32, 512]), &[x]);
        assert_eq!(dispatches(&grads, &[]), [("map", 1), ("norm_grad", 1)]);
        assert_eq!(dispatches(&[g.input([8, 16, 14, 14]).group_norm("gn", 4).relu()], &[]), [("norm", 1), ("map", 1)]);
    }

    /// Running statistics follow every batch, and follow it twice if a layer is used twice. They mean nothing before the
    /// first batch.
    #[test]
    fn running_statistics() -> crate::Result<()> {
        let g = Graph::training();
        let (a, b) = (g.input([3, 1]), g.input([3, 1]));
        let loss = a.batch_norm("bn").mean_all() + b.batch_norm("bn").square().mean_all();
        let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(1e-30))?;
        let h = Graph::inference();
        let mut f = trainer.compile(&[h.input([2, 1]).batch_norm("bn")])?;
        let x = Host::new([2, 1], vec![0.0, 3.0]);
        let why = f.run(std::slice::from_ref(&x)).unwrap_err().to_string();
        let want = "batch_norm: [2, 1]: `bn` has seen no batch yet: make a step, or load weights, before it is used (src/layers/norm.rs:";
        assert!(why.starts_with(want), "{why}");

        trainer.step(&[Host::new([3, 1], vec![1.0, 2.0, 6.0]), Host::new([3, 1], vec![0.0, 4.0, 8.0])])?;
        // The means are 3 and 4, and the unbiased variances are 7 and 16.
        let (mean, var) = (0.9 * (0.1 * 3.0) + 0.1 * 4.0, 0.9 * (0.9 + 0.1 * 7.0) + 0.1 * 16.0);
        let near = |got: &Host<f32>, want: &[f32]| got.f().iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5);
        assert!(near(&trainer.params().get("bn.running_mean")?, &[mean]));
        assert!(near(&trainer.params().get("bn.running_var")?, &[var]));
        assert!(near(&f.run(&[x])?[0], &[-mean / var.sqrt(), (3.0 - mean) / var.sqrt()]));
        Ok(())
    }

    /// Compares gradients of gradients with central differences of the gradient.
    #[test]
    fn second_derivatives() {
        type Model = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
        let models: [(&str, Model); 6] = [
            ("variance", |x| x.variance(&[0, 2], 1, true)),
            ("std", |x| x.std(&[1], 0, false)),
            ("batch_norm", |x| x.batch_norm("n")),
            ("layer_norm", |x| x.layer_norm_with("n", LayerNorm { axes: 2, ..LayerNorm::default() })),
            ("rms_norm", |x| x.rms_norm("n")),
            ("bce", |x| crate::losses::bce(x.sigmoid(), x.graph().full(x.shape(), 0.3)).none()),
        ];
        for (name, model) in models {
            let g = Graph::training();
            let (x, d) = (g.input([2, 3, 4]), g.input([2, 3, 4]));
            let y = model(x);
            let c = g.constant(Host::new(y.shape(), (0..y.shape().elements()).map(|i| (i as f32 * 0.7).sin()).collect()));
            let slope = ((y * c + y.square() * c).sum_all().grad(&[x])[0] * d).sum_all();
            let second = slope.grad(&[x])[0];
            assert!(g.error().is_none(), "{name}: {:?}", g.error());
            let value = |at: &[f64], to: &[f64], t: Tensor| {
                let ir = Ir::new(&g, &[t]);
                let params: Vec<Host<f64>> = ir.params.iter().map(|p| Host::new(p.shape, vec![1.0; p.shape.elements()])).collect();
                interpret(&ir, &[Host::new([2, 3, 4], at.to_vec()), Host::new([2, 3, 4], to.to_vec())], &params, Key::default())[0].to_f64()
            };
            let wave = |k: f64| (0..24).map(|i| (f64::from(i) * k + k).sin() * 1.5).collect::<Vec<f64>>();
            let (x, d) = (wave(1.3), wave(2.9));
            let analytic = value(&x, &d, second);
            for (i, a) in analytic.iter().enumerate() {
                let moved = |h: f64| {
                    let mut x = x.clone();
                    x[i] += h;
                    value(&x, &d, slope)[0]
                };
                let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((a - numeric).abs() < 1e-5 * (1.0 + a.abs()), "{name}, element {i}: {a} instead of {numeric}");
            }
        }
    }

    #[test]
    fn mistakes() {
        let start = |f: &dyn for<'g> Fn(&'g Graph) -> Tensor<'g>, text: &str| {
            let g = Graph::training();
            assert!(f(&g).is_dead());
            let message = g.error().map_or(String::new(), |e| e.to_string());
            assert!(message.starts_with(text) && message.contains(" (src/layers/norm.rs:"), "{message}");
        };
        start(&|g| g.input([3]).batch_norm("n"), "batch_norm: [3]: takes [n, channels, …]");
        start(
            &|g| g.input([1, 3, 1, 1]).batch_norm("n"),
            "batch_norm: [1, 3, 1, 1]: in training each channel needs more than one value; use a larger batch",
        );
        let bad = BatchNorm { momentum: 1.5, ..BatchNorm::default() };
        start(&|g| g.input([3, 2]).batch_norm_with("n", bad), "batch_norm: [3, 2]: the momentum is 1.5, but must be in 0..=1");
        let bad = BatchNorm { eps: -1.0, ..BatchNorm::default() };
        start(&|g| g.input([3, 2]).batch_norm_with("n", bad), "batch_norm: [3, 2]: eps is -1, but must be finite and not negative");
        start(&|g| g.labels([3, 2]).batch_norm("n"), "batch_norm: u32 [3, 2]: takes floats, not labels (see to_f32)");
        start(&|g| g.input([]).layer_norm("n"), "layer_norm: []: cannot normalise over the last 1 axes");
        let bad = LayerNorm { axes: 0, ..LayerNorm::default() };
        start(&|g| g.input([3, 2]).layer_norm_with("n", bad), "layer_norm: [3, 2]: cannot normalise over the last 0 axes");
        let bad = LayerNorm { eps: f32::NAN, ..LayerNorm::default() };
        start(&|g| g.input([3, 2]).layer_norm_with("n", bad), "layer_norm: [3, 2]: eps is NaN, but must be finite and not negative");
        start(&|g| g.labels([3, 2]).layer_norm("n"), "layer_norm: u32 [3, 2]: takes floats, not labels (see to_f32)");
        let bad = RmsNorm { axes: 3, ..RmsNorm::default() };
        start(&|g| g.input([3, 2]).rms_norm_with("n", bad), "rms_norm: [3, 2]: cannot normalise over the last 3 axes");
        start(&|g| g.input([3, 6, 2]).group_norm("n", 4), "group_norm: [3, 6, 2]: 4 groups do not divide 6 channels");
        start(&|g| g.input([3, 6, 2]).group_norm("n", 0), "group_norm: [3, 6, 2]: 0 groups do not divide 6 channels");
        start(&|g| g.input([3]).group_norm("n", 1), "group_norm: [3]: takes [n, channels, …]");
        start(
            &|g| g.input([3, 6]).instance_norm("n"),
            "instance_norm: [3, 6]: each channel of a sample needs more than one value, in axes behind the channels",
        );
        // A weight of another shape belongs to another layer.
        start(
            &|g| g.input([3, 2]).layer_norm("n").reshape([2, 3]).layer_norm("n"),
            "param: [2] × [3]: `n.weight` already has the shape [2]",
        );
    }
}
