//! Elementwise functions, their gradients and elementwise losses over all of f32's range: at its ends against the numbers of
//! `scripts/golden_values.py`, in between densely against the `f64` oracle, which is held to the same numbers.
//!
//! An error here is relative to the element's own value, however small that is.

use crate::common::{BOTH, Check, Suite};
use downhill::{
    Device, Graph, Host, Tensor, losses,
    ops::map::{Expr, Fun, Inst, Map},
    testing,
};
use serde_json::Value;

pub fn trials(suite: &mut Suite) {
    suite.test("elementwise/oracle: unary", || unary(&Oracle));
    suite.test("elementwise/oracle: pairs", || pairs(&Oracle));
    suite.test("elementwise/oracle: losses", || small_losses(&Oracle));
    suite.each(&BOTH, "elementwise/unary functions over f32's range", |device| unary(device));
    suite.each(&BOTH, "elementwise/pairs over f32's range", |device| pairs(device));
    suite.each(&BOTH, "elementwise/losses where they are small", |device| small_losses(device));
    suite.each(&BOTH, "elementwise/dense", dense);
    suite.each(&BOTH, "elementwise/second gradients", second_gradients);
    suite.each(&BOTH, "elementwise/bce with logits, as stated", stated);
    suite.each(&BOTH, "elementwise/sine of multiples of a quarter turn", quarter_turns);
    suite.each(&BOTH, "elementwise/clamp with crossed and NaN bounds", clamp);
    suite.each(&BOTH, "elementwise/gradients at NaN", at_nan);
    suite.each(&BOTH, "elementwise/gradient of the target of bce", bce_target);
}

/// Computes a graph. It is a device or the oracle.
trait Computes {
    fn compute(&self, g: &Graph, outputs: &[Tensor], x: &[Host<f32>]) -> Result<Vec<Vec<f64>>, downhill::Error>;
    /// Whether numbers below the smallest normal number may be treated as 0, as WGSL allows.
    fn flushes(&self) -> bool;
}

impl Computes for Device {
    fn compute(&self, _: &Graph, outputs: &[Tensor], x: &[Host<f32>]) -> Result<Vec<Vec<f64>>, downhill::Error> {
        Ok(self.compile(outputs)?.run(x)?.iter().map(Host::to_f64).collect())
    }
    fn flushes(&self) -> bool {
        self.as_gpu().is_some()
    }
}

struct Oracle;

impl Computes for Oracle {
    fn compute(&self, g: &Graph, outputs: &[Tensor], x: &[Host<f32>]) -> Result<Vec<Vec<f64>>, downhill::Error> {
        Ok(testing::oracle(g, outputs, x)?.iter().map(Host::to_f64).collect())
    }
    fn flushes(&self) -> bool {
        false
    }
}

const NORMAL: f64 = f32::MIN_POSITIVE as f64;
const MAX: f64 = f32::MAX as f64;

/// Units in the last place (2⁻²³ of the value) that `got` is off; infinite where it is of another kind.
fn ulps(got: f64, want: f64) -> f64 {
    let alike = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
    // Near the largest number rounding decides, and the oracle goes on beyond it.
    let cut = |x: f64| if x.abs() > MAX * (1.0 - 1e-6) { f64::INFINITY.copysign(x) } else { x };
    let error = (got - want).abs();
    match (got, want) {
        _ if alike(got, want) || alike(cut(got), cut(want)) => 0.0,
        // A number below the smallest normal number may be 0.
        _ if error <= NORMAL && want.abs() <= 2.0 * NORMAL => 0.0,
        _ if error.is_finite() && want != 0.0 => error / (f64::from(f32::EPSILON) * want.abs()),
        _ => f64::INFINITY,
    }
}

/// Collects what is wrong, and says the first twelve.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn check(&mut self, what: impl Fn() -> String, got: f64, want: &[f64], most: f64) {
        let off = want.iter().map(|&w| ulps(got, w)).fold(f64::INFINITY, f64::min);
        if off > most {
            self.0.push(format!("{}: {got:e} instead of {:e}, {off:.1} ulp", what(), want[0]));
        }
    }
    fn end(self) -> Check {
        let n = self.0.len();
        if n == 0 { Ok(()) } else { Err(format!("{n} wrong:\n{}", self.0[..n.min(12)].join("\n")).into()) }
    }
}

fn golden() -> Value {
    let path = format!("{}/golden/values_elementwise.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("the file is there")).expect("it is JSON")
}

/// `None` is not tested.
fn column(list: &Value) -> Vec<Option<f64>> {
    let one = |v: &Value| match v.as_str() {
        Some(text) => Some(text.parse().expect("nan, inf or -inf")),
        None => v.as_f64(),
    };
    list.as_array().expect("a list").iter().map(one).collect()
}

fn inputs(list: &Value) -> Vec<f32> {
    column(list).into_iter().map(|x| x.expect("inputs are numbers") as f32).collect()
}

fn flushed(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
}

/// `fun` of these, constants behind them.
fn apply<'g>(g: &'g Graph, fun: Fun, x: &[Tensor<'g>], constants: &[f32]) -> Tensor<'g> {
    let inputs = (0..x.len()).map(Inst::Input);
    let args: Vec<Inst> = inputs.chain(constants.iter().map(|c| Inst::Const(c.to_bits()))).collect();
    g.apply(Map::new(Expr::call(fun, &args)), x)
}

/// Returns the largest error in ulp of the value (0) or the gradient (1) of a function at `x`.
fn bound(fun: Fun, output: usize, x: f32, want: f64) -> f64 {
    use Fun::*;
    let gradient = output == 1;
    // The function contains e to an exponent that is rounded. An ulp of an exponent of 80 is 80 ulp of the result.
    if gradient && matches!(fun, GeluGrad | GeluTanhGrad) {
        return 600.0 * (1.0 + 0.3 / want.abs().max(1e-9));
    }
    // For |x| < 4 the terms of the function cancel at a root. The error is the error of terms of about this size.
    let root = matches!((fun, gradient), (Silu | Gelu | GeluTanh, true) | (SiluGrad, _) | (GeluGrad | GeluTanhGrad, false));
    let size = if root && x.abs() < 4.0 { 0.3 / want.abs().max(1e-9) } else { 0.0 };
    // WGSL allows an error of 2.5 ulp for a division. The largest error measured here for a function is 4.3 ulp.
    8.0 * (1.0 + size)
}

/// The largest number that a device may treat as 0. Some functions multiply a number by up to some hundreds, and that number may be
/// below the smallest normal number.
fn least(fun: Fun) -> f64 {
    use Fun::*;
    if matches!(fun, Silu | SiluGrad | Gelu | GeluGrad | GeluTanh | GeluTanhGrad) { 300.0 * NORMAL } else { NORMAL }
}

fn unary(by: &dyn Computes) -> Check {
    let file = golden();
    let x = inputs(&file["x"]);
    let mut wrong = Wrong::default();
    for &fun in Fun::ALL {
        let want = match fun.arity() {
            1 if fun == Fun::Detach => continue,
            1 => &file["unary"][fun.name()],
            2 if matches!(fun, Fun::LeakyRelu | Fun::Elu) => &file["with"][fun.name()],
            _ => continue,
        };
        let want = [column(&want[0]), column(&want[1])];
        let g = Graph::training();
        let t = g.input([x.len()]);
        let y = match fun {
            Fun::LeakyRelu => t.leaky_relu(0.25),
            Fun::Elu => t.elu(1.5),
            _ => apply(&g, fun, &[t], &[]),
        };
        let dy = y.vjp(g.full([x.len()], 1.0), &[t])[0];
        let got = by.compute(&g, &[y, dy], &[Host::new([x.len()], x.clone())])?;
        for (k, what) in ["value", "gradient"].iter().enumerate() {
            for (i, &at) in x.iter().enumerate() {
                let Some(mut accept) = want[k][i].map(|w| vec![w]) else { continue };
                if by.flushes() && at.is_subnormal() {
                    let zero = x.iter().position(|z| z.to_bits() == flushed(at).to_bits()).expect("both zeros are there");
                    accept.extend(want[k][zero]);
                }
                if (got[k][i] - accept[0]).abs() <= least(fun) && accept[0].abs() <= least(fun) {
                    accept.push(got[k][i]);
                }
                let most = bound(fun, k, at, accept[0]);
                wrong.check(|| format!("{what} of {} at {at:e}", fun.name()), got[k][i], &accept, most);
            }
        }
    }
    wrong.end()
}

fn pairs(by: &dyn Computes) -> Check {
    let file = golden();
    let x = [inputs(&file["pairs"][0]), inputs(&file["pairs"][1])];
    let n = x[0].len();
    let key = |a: f32, b: f32| (a.to_bits(), b.to_bits());
    let mut wrong = Wrong::default();
    for (name, want) in file["binary"].as_object().expect("functions by name") {
        let fun = *Fun::ALL.iter().find(|f| f.name() == name).expect("the name of a function");
        let g = Graph::training();
        let (a, b) = (g.input([n]), g.input([n]));
        let y = apply(&g, fun, &[a, b], &[]);
        let mut outputs = vec![y];
        outputs.extend(y.vjp(g.full([n], 1.0), &[a, b]));
        let got = by.compute(&g, &outputs, &x.clone().map(|x| Host::new([n], x)))?;
        for (k, what) in ["value", "first gradient", "second gradient"].iter().enumerate() {
            let want = column(&want[k]);
            for i in 0..n {
                let (a, b) = (x[0][i], x[1][i]);
                // b·a^(b − 1): the power of such a number overflows before it is multiplied by as small a b.
                if fun == Fun::Pow && k == 1 && a.is_subnormal() {
                    continue;
                }
                let mut accept = vec![want[i].expect("every pair has a value")];
                if by.flushes() && (a.is_subnormal() || b.is_subnormal()) {
                    let to = key(flushed(a), flushed(b));
                    accept.extend((0..n).find(|&j| key(x[0][j], x[1][j]) == to).and_then(|j| want[j]));
                }
                wrong.check(|| format!("{what} of {name} at {a:e}, {b:e}"), got[k][i], &accept, 8.0);
            }
        }
    }
    wrong.end()
}

fn small_losses(by: &dyn Computes) -> Check {
    let file = golden();
    let mut wrong = Wrong::default();
    for (name, case) in file["losses"].as_object().expect("losses by name") {
        let x = [inputs(&case["x"][0]), inputs(&case["x"][1])];
        let n = x[0].len();
        let g = Graph::training();
        let (a, b) = (g.input([n]), g.input([n]));
        let y = match name.as_str() {
            "bce_with_logits" => losses::bce_with_logits(a, b),
            "bce" => losses::bce(a, b),
            "kl_div" => losses::kl_div(a, b),
            "huber" => losses::huber(a, b, 2.0),
            _ => return Err(format!("no loss {name}").into()),
        }
        .none();
        let mut outputs = vec![y];
        outputs.extend(y.vjp(g.full([n], 1.0), &[a, b]));
        let got = by.compute(&g, &outputs, &x.clone().map(|x| Host::new([n], x)))?;
        for (k, what) in ["value", "gradient", "gradient of the target"].iter().enumerate() {
            let want = column(&case["want"][k]);
            for i in 0..n {
                let Some(w) = want[i] else { continue };
                let (a, b) = (x[0][i], x[1][i]);
                // A difference that is 0 for some target is good to the last digits of its terms.
                let (p, q) = (f64::from(a), f64::from(b));
                let terms = match (name.as_str(), k) {
                    ("bce_with_logits", 1) if b > 0.0 && b < 1.0 => 2.0 * (1.0 - q) / (1.0 + (-p).exp()),
                    ("kl_div", 0) if p.is_finite() => (p * q).abs(),
                    ("kl_div", 2) if p.is_finite() => p.abs() + 1.0,
                    _ => 0.0,
                };
                let most = 4.0 * (1.0 + terms / w.abs().max(f64::MIN_POSITIVE));
                wrong.check(|| format!("{what} of {name} at {a:e}, {b:e}"), got[k][i], &[w], most);
            }
        }
    }
    wrong.end()
}

fn dense(device: &Device) -> Check {
    // Every exponent and both signs; a prime step, so that the last bits vary.
    let all = (0..u32::MAX / 1_040_003).map(|k| f32::from_bits(k * 1_040_003)).filter(|x| x.is_normal());
    // And more where functions bend.
    let x: Vec<f32> = all.chain((0..4000).map(|k| (k as f32 - 1999.5) * 0.0130507)).collect();
    let mut wrong = Wrong::default();
    for &fun in Fun::ALL.iter().filter(|f| f.arity() == 1 && **f != Fun::Detach) {
        let g = Graph::training();
        let t = g.input([x.len()]);
        let y = apply(&g, fun, &[t], &[]);
        let outputs = [y, y.vjp(g.full([x.len()], 1.0), &[t])[0]];
        let feed = [Host::new([x.len()], x.clone())];
        let (want, got) = (Oracle.compute(&g, &outputs, &feed)?, device.compute(&g, &outputs, &feed)?);
        for (k, what) in ["value", "gradient"].iter().enumerate() {
            for (i, &at) in x.iter().enumerate() {
                let (got, want) = (got[k][i], want[k][i]);
                let most = bound(fun, k, at, want);
                if want.abs() <= least(fun) && (got - want).abs() <= least(fun) {
                    continue;
                }
                wrong.check(|| format!("{what} of {} at {at:e}", fun.name()), got, &[want], most);
            }
        }
    }
    wrong.end()
}

/// Every gradient has a gradient: against the oracle, and finite where it is 0 in the limit.
fn second_gradients(device: &Device) -> Check {
    let ends = [0.0, 1e-30, 1e30, f32::MAX, f32::INFINITY].map(|x| [x, -x]);
    let x: Vec<f32> = ends.into_iter().flatten().chain((0..2000).map(|k| (k as f32 - 999.5) * 0.0130507)).collect();
    let mut wrong = Wrong::default();
    for fun in
        [Fun::Tanh, Fun::Sigmoid, Fun::SigmoidGrad, Fun::Silu, Fun::SiluGrad, Fun::Softplus, Fun::LogSigmoid, Fun::Gelu, Fun::GeluTanh]
    {
        let g = Graph::training();
        let t = g.input([x.len()]);
        let dy = apply(&g, fun, &[t], &[]).vjp(g.full([x.len()], 1.0), &[t])[0];
        let d2y = dy.vjp(g.full([x.len()], 1.0), &[t])[0];
        let feed = [Host::new([x.len()], x.clone())];
        let (want, got) = (Oracle.compute(&g, &[d2y], &feed)?, device.compute(&g, &[d2y], &feed)?);
        for (i, &at) in x.iter().enumerate() {
            if !want[0][i].is_finite() || (at.abs() > 1e20 && want[0][i] != 0.0) {
                wrong.0.push(format!("{} at {at:e}: the oracle has {}", fun.name(), want[0][i]));
            }
            if want[0][i].abs() > least(Fun::Gelu) {
                // As in `bound`; these have roots as well, all below 4.
                let most = if matches!(fun, Fun::Gelu | Fun::GeluTanh) { 600.0 } else { 8.0 };
                let size = if at.abs() < 4.0 { 2.4 / want[0][i].abs().max(1e-9) } else { 0.0 };
                wrong.check(|| format!("{} at {at:e}", fun.name()), got[0][i], &[want[0][i]], most + size);
            }
        }
    }
    wrong.end()
}

/// ln(1 + e⁻ˣ) and −σ(−x): the numbers of issue reports, where a difference of two large numbers is 0 or 1 % off.
fn stated(device: &Device) -> Check {
    let g = Graph::training();
    let (x, y) = (g.input([4]), g.input([4]));
    let loss = losses::bce_with_logits(x, y).none();
    let dx = loss.vjp(g.full([4], 1.0), &[x])[0];
    let logits = [10.0, 15.0, 20.0, 30.0f32];
    let mut wrong = Wrong::default();
    for (sign, target) in [(1.0f32, 1.0f32), (-1.0, 0.0)] {
        let feed = [Host::new([4], logits.map(|x| sign * x).to_vec()), Host::new([4], vec![target; 4])];
        let got = device.compute(&g, &[loss, dx], &feed)?;
        for (i, want) in [4.5398899e-5, 3.0590227e-7, 2.0611536e-9, 9.357623e-14].into_iter().enumerate() {
            let e = (-f64::from(logits[i])).exp();
            wrong.check(|| format!("loss {i}"), got[0][i], &[want], 4.0);
            wrong.check(|| format!("gradient {i}"), got[1][i], &[-f64::from(sign) * e / (1.0 + e)], 4.0);
        }
    }
    wrong.end()
}

/// The floats next to multiples of π/2, where one of the two is small, and as far out as they go.
fn quarter_turns(device: &Device) -> Check {
    let near = (1..3000).map(|k| (f64::from(k) * std::f64::consts::FRAC_PI_2) as f32);
    let far = (0..3000).map(|k| (k as f32 * 0.0317).exp() * 1.7).filter(|x| x.is_finite());
    let x: Vec<f32> = near.chain(far).chain([1e6, 1e7, 1e9, 1e20, f32::MAX, 16_367_173.0 * 2f32.powi(72)]).flat_map(|x| [x, -x]).collect();
    let g = Graph::inference();
    let t = g.input([x.len()]);
    let got = device.compute(&g, &[t.sin(), t.cos()], &[Host::new([x.len()], x.clone())])?;
    let mut wrong = Wrong::default();
    for (i, &at) in x.iter().enumerate() {
        let wide = f64::from(at);
        for (k, want) in [wide.sin(), wide.cos()].into_iter().enumerate() {
            wrong.check(|| format!("{} of {at:e}", ["sin", "cos"][k]), got[k][i], &[want], 4.0);
            if !(-1.0..=1.0).contains(&got[k][i]) {
                wrong.0.push(format!("{} at {at:e}", got[k][i]));
            }
        }
    }
    wrong.end()
}

/// min(max(x, lo), hi), as numpy, PyTorch and ONNX have it.
fn clamp(device: &Device) -> Check {
    let x = [-2.0, 0.0, 2.0, f32::NAN, f32::INFINITY, -1.0, 1.0];
    let nan = f32::NAN;
    let mut wrong = Wrong::default();
    for (lo, hi) in [(1.0, -1.0), (nan, 1.0), (-1.0, nan), (nan, nan), (-1.0, 1.0), (f32::NEG_INFINITY, 0.5), (0.5, f32::INFINITY)] {
        let g = Graph::training();
        let t = g.input([7]);
        let y = t.clamp(lo, hi);
        let dx = y.vjp(g.full([7], 1.0), &[t])[0];
        let got = device.compute(&g, &[y, dx], &[Host::new([7], x.to_vec())])?;
        for (i, &at) in x.iter().enumerate() {
            let any = at.is_nan() || lo.is_nan() || hi.is_nan();
            let want = if any { f64::NAN } else { f64::from(at.max(lo).min(hi)) };
            wrong.check(|| format!("clamp({at}, {lo}, {hi})"), got[0][i], &[want], 0.0);
            // No gradient passes if the bounds are crossed, or at NaN.
            let passes = f64::from(u8::from(at >= lo && at <= hi));
            wrong.check(|| format!("gradient of clamp({at}, {lo}, {hi})"), got[1][i], &[passes], 0.0);
        }
    }
    wrong.end()
}

/// PyTorch's convention: a selection passes the gradient on at NaN (maximum and minimum to both), |x| and clamp do not.
fn at_nan(device: &Device) -> Check {
    let g = Graph::training();
    let (a, b) = (g.input([3]), g.input([3]));
    let dy = g.full([3], 0.5);
    let mut outputs = Vec::new();
    for y in [a.relu(), a.leaky_relu(0.25), a.elu(1.5), a.abs(), a.clamp(-1.0, 1.0)] {
        outputs.push(y.vjp(dy, &[a])[0]);
    }
    for y in [a.maximum(b), a.minimum(b), a.where_(b, a)] {
        outputs.extend(y.vjp(dy, &[a, b]));
    }
    let nan = f32::NAN;
    let feed = [Host::new([3], vec![nan, 3.0, nan]), Host::new([3], vec![2.0, nan, nan])];
    let got = device.compute(&g, &outputs, &feed)?;
    let want = [
        [0.5, 0.5, 0.5],
        [0.125, 0.5, 0.125],
        [0.5, 0.5, 0.5],
        [0.0, 0.5, 0.0],
        [0.0, 0.0, 0.0],
        [0.5, 0.5, 0.5],
        [0.5, 0.5, 0.5],
        [0.5, 0.5, 0.5],
        [0.5, 0.5, 0.5],
        [0.0, 0.0, 0.0],
        [0.5, 0.5, 0.5],
    ];
    if got != want { Err(format!("{got:?}").into()) } else { Ok(()) }
}

/// ln(1 − p) − ln p is small near ½: −4(p − ½) there.
fn bce_target(device: &Device) -> Check {
    let p: Vec<f32> = (0..400).map(|k| 0.5 + (k as f32 - 199.5) * 1e-3).chain([0.5 + 1e-6, 0.5 - 1e-6]).collect();
    let g = Graph::training();
    let (x, y) = (g.input([p.len()]), g.input([p.len()]));
    let dy = losses::bce(x, y).none().vjp(g.full([p.len()], 1.0), &[y])[0];
    let got = device.compute(&g, &[dy], &[Host::new([p.len()], p.clone()), Host::new([p.len()], vec![0.25; p.len()])])?;
    let mut wrong = Wrong::default();
    for (i, &p) in p.iter().enumerate() {
        let p = f64::from(p);
        wrong.check(|| format!("at {p}"), got[0][i], &[((1.0 - 2.0 * p) / p).ln_1p()], 8.0);
    }
    wrong.end()
}
