//! Optimizers from outside of the crate, as ARCHITECTURE.md shows how to add them.

use crate::common::Check;
use downhill::{
    Device, Error, Graph, Host, Trainer,
    host::Real,
    init::Init,
    kernel::Source,
    ops::Fill,
    optim::{Hyper, MAX_STATES, Norms, Optimizer, Readouts, Rule, State},
    testing,
};

/// `w ← w − lr · sign(g)`, of Bernstein et al. 2018, arXiv:1802.04434.
#[derive(Clone, Debug)]
struct SignSgd {
    lr: f64,
    /// It has no use for any.
    states: Vec<State>,
}

impl Rule for SignSgd {
    const NAME: &'static str = "SignSgd";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return sign(grad); }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return w - h[0] * u; }";
        Source { name: "sign_sgd", text }
    }
    fn states(&self) -> Vec<State> {
        self.states.clone()
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_w: T, g: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        if g == T::zero() { g } else { g.signum() }
    }
    fn apply<T: Real>(w: T, u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * u
    }
    fn cases() -> Vec<SignSgd> {
        vec![SignSgd { lr: 0.25, states: Vec::new() }]
    }
}

/// Steps of one length towards 5 and -1: ten of 1/4 get to 2.5, and to -1 and no further.
pub fn own_optimizer(device: &Device) -> Check {
    let g = Graph::training();
    let w = g.param("w", [2], Init::Zeros);
    let loss = (w - g.constant(Host::new([2], vec![5.0, -1.0]))).square().sum_all();
    let mut trainer = Trainer::new(device, loss, Optimizer::from(SignSgd { lr: 0.25, states: Vec::new() }))?;
    for _ in 0..10 {
        trainer.step(&[])?;
    }
    let w = trainer.params().get("w")?;
    if w.f() == [2.5, -1.0] { Ok(()) } else { Err(format!("{:?} instead of [2.5, -1]", w.f()).into()) }
}

/// States that there is no place for.
pub fn own_states() -> Check {
    let state = |name, start| State { name, start, kept: true };
    let four = ["a", "b", "c", "d"].map(|name| state(name, 0.0)).to_vec();
    for (states, want) in [
        (four.clone(), "SignSgd: Rule::states gives 4 states, but there can be 3"),
        (vec![four[0], four[1], four[0]], "SignSgd: Rule::states gives two states of the name `a`"),
        (vec![state("a", f32::NAN)], "SignSgd: the start of the state `a` is NaN, but must be finite"),
    ] {
        let g = Graph::training();
        let loss = g.param("w", [2], Init::Ones).square().sum_all();
        let error = Trainer::new(&Device::cpu(), loss, Optimizer::from(SignSgd { lr: 0.25, states })).err();
        assert_eq!(error.ok_or("no error")?.to_string(), want);
    }
    // The name of an average is taken if there is one.
    for averaged in [false, true] {
        let g = Graph::training();
        let loss = g.param("w", [2], Init::Ones).square().sum_all();
        let o = Optimizer::from(SignSgd { lr: 0.25, states: vec![state("average", 0.0)] });
        let error = Trainer::new(&Device::cpu(), loss, if averaged { o.ema(0.9) } else { o }).err().map(|e| e.to_string());
        let want = "SignSgd: Rule::states gives a state of the name `average`, which is that of the average of the weights";
        assert_eq!(error.as_deref(), averaged.then_some(want));
    }
    Ok(())
}

/// `w ← w − lr · 8/0`, where WGSL that is checked says that 8/0 is 8.
#[derive(Clone, Debug, PartialEq)]
struct Careless;

impl Rule for Careless {
    const NAME: &'static str = "Careless";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return grad; }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
                var numbers = array<f32, 3>(0.0, 0.0, w);
                return numbers[9u + u32(h[1])] - h[0] * f32(8u / u32(h[1]));
            }";
        Source { name: "careless", text }
    }
    fn states(&self) -> Vec<State> {
        Vec::new()
    }
    fn lr(&self) -> f64 {
        0.25
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_w: T, g: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        g
    }
    fn apply<T: Real>(w: T, _u: T, _s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        w - h[0] * T::of(8.0)
    }
    fn cases() -> Vec<Careless> {
        vec![Careless]
    }
}

pub fn careless(device: &Device) -> Check {
    let g = Graph::training();
    let loss = g.param("w", [64], Init::Ones).square().sum_all();
    let mut trainer = Trainer::new(device, loss, Optimizer::from(Careless))?;
    trainer.step(&[])?;
    assert_eq!(trainer.params().get("w")?.f(), [-1.0; 64]);
    Ok(())
}

/// `m ← μ·m + r·g`, `w ← w − lr·m`, where r = η·‖w‖/‖g‖ of each parameter: LARS without weight decay, of You, Gitman and Ginsburg 2017,
/// arXiv:1708.03888.
#[derive(Clone, Debug)]
struct Layerwise {
    lr: f64,
    momentum: f64,
}

const ETA: f64 = 0.1;

impl Rule for Layerwise {
    const NAME: &'static str = "Layerwise";
    fn source() -> Source {
        let text = "fn direction(w: f32, grad: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 { return grad; }
            fn apply(w: f32, u: f32, s: ptr<function, State>, h: array<f32, 8>) -> f32 {
                (*s).momentum = h[1] * (*s).momentum + u;
                return w - h[0] * (*s).momentum;
            }
            fn ratio(norms: Norms, h: array<f32, 8>) -> f32 {
                if norms.weight == 0.0 || norms.gradient == 0.0 { return 1.0; }
                return h[2] * norms.weight / norms.gradient;
            }";
        Source { name: "layerwise", text }
    }
    fn states(&self) -> Vec<State> {
        vec![State { name: "momentum", start: 0.0, kept: self.momentum != 0.0 }]
    }
    fn lr(&self) -> f64 {
        self.lr
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _t: u64, lr: f64, _decay: f64) -> Hyper {
        [lr, self.momentum, ETA, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_w: T, g: T, _s: &mut [T; MAX_STATES], _h: &[T; 8]) -> T {
        g
    }
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        s[0] = h[1] * s[0] + u;
        w - h[0] * s[0]
    }
    const HAS_RATIO: bool = true;
    fn ratio(norms: Norms, h: &Hyper) -> f64 {
        if norms.weight == 0.0 || norms.gradient == 0.0 { 1.0 } else { h[2] * norms.weight / norms.gradient }
    }
    fn cases() -> Vec<Layerwise> {
        vec![Layerwise { lr: 0.3, momentum: 0.5 }]
    }
}

/// Steps in one batch and in two, against the formula in `f64` with the gradients that the trainer has.
pub fn own_norms(device: &Device, momentum: f64) -> Check {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let train = |micro: usize| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let g = Graph::training();
        let n = 8 / micro;
        let loss = g.input([n, 3]).linear("fc1", 70).tanh().linear("fc2", 2).mse(g.input([n, 2]));
        let mut trainer = Trainer::new(device, loss, Optimizer::from(Layerwise { lr: 0.3, momentum }))?;
        trainer.measure(Readouts { noise_scale: micro > 1, norms: Some(1) })?;
        let names: Vec<String> = trainer.params().all()?.into_iter().map(|(name, _)| name).collect();
        let mut moved: Vec<Vec<f64>> = trainer.params().all()?.iter().map(|(_, w)| vec![0.0; w.len()]).collect();
        for t in 0..4 {
            let before = trainer.params().all()?;
            for k in 0..micro {
                let part = |c: usize, seed: u64| {
                    let whole = testing::fill([8, c].into(), &Fill::Range(-1.0, 1.0), seed + 10 * t);
                    Host::new([n, c], whole.f()[k * n * c..(k + 1) * n * c].to_vec())
                };
                let batch = [part(3, 1), part(2, 2)];
                if k + 1 < micro { trainer.accumulate(&batch)? } else { trainer.step(&batch)? }
            }
            let (ratios, measured) = (trainer.trust_ratios()?, trainer.take_reports()?.remove(0).norms);
            for (i, name) in names.iter().enumerate() {
                let (w, g) = (before[i].1.to_f64(), trainer.gradient(name)?.to_f64());
                let ratio = if norm(&w) == 0.0 || norm(&g) == 0.0 { 1.0 } else { ETA * norm(&w) / norm(&g) };
                let (got, trust) = (trainer.params().get(name)?, &ratios[i]);
                if trust.0 != *name || (trust.1.ratio / ratio - 1.0).abs() > 1e-5 || (trust.1.norms.gradient / norm(&g) - 1.0).abs() > 1e-5
                {
                    return Err(format!("step {t}, {name}: {trust:?} instead of {ratio}").into());
                }
                let change: Vec<f64> = got.to_f64().iter().zip(&w).map(|(is, was)| is - was).collect();
                let all = measured.get(name)?;
                let near = |got: f32, want: f64| (f64::from(got) - want).abs() <= 1e-6 * want;
                if all.trust_ratio != Some(trust.1.ratio as f32) || !near(all.weight, norm(&w)) || !near(all.update, norm(&change)) {
                    return Err(format!("step {t}, {name}: {all:?} instead of {trust:?}").into());
                }
                for (k, got) in got.f().iter().enumerate() {
                    moved[i][k] = momentum * moved[i][k] + ratio * g[k];
                    let want = w[k] - 0.3 * moved[i][k];
                    if (f64::from(*got) - want).abs() > 1e-5 * (w[k].abs() + moved[i][k].abs()) {
                        return Err(format!("step {t}, {name}: element {k}: {got} instead of {want}").into());
                    }
                }
            }
        }
        Ok(trainer.params().all()?.iter().flat_map(|(_, w)| w.f().to_vec()).collect())
    };
    let (whole, two) = (train(1)?, train(2)?);
    let worst = whole.iter().zip(&two).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if worst > 1e-5 {
        return Err(format!("one batch and two micro-batches differ by {worst}").into());
    }
    let same = train(2)?.iter().zip(&two).all(|(a, b)| a.to_bits() == b.to_bits());
    if same { Ok(()) } else { Err("another run has other bits".into()) }
}

/// A step that makes one weight too large changes no other one.
pub fn own_overflow(device: &Device) -> Check {
    let g = Graph::training();
    let (small, large) = (g.param("small", [70], Init::Ones), g.param("large", [3], Init::Ones));
    let loss = small.square().sum_all() + (large * g.constant(Host::new([3], vec![-1e-3; 3]))).sum_all();
    let mut trainer = Trainer::new(device, loss, Optimizer::from(Layerwise { lr: 1000.0, momentum: 0.5 }))?;
    trainer.params().set("large", &Host::new([3], vec![3e38; 3]))?;
    let before = trainer.params().all()?;
    trainer.step(&[])?;
    match trainer.loss() {
        Err(error @ Error::Diverged { step: 0, .. }) if error.to_string().contains("a weight would overflow") => {}
        other => return Err(format!("{other:?}").into()),
    }
    if trainer.params().all()? == before { Ok(()) } else { Err("a bad step changes something".into()) }
}
