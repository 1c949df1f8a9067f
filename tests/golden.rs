//! Everything that PyTorch and timm computed in `tests/golden/`, by the public API, on the CPU device and on a GPU: ops with
//! every gradient, losses, ten steps of every optimizer with every option, and the first 20 losses of a network.
//!
//! Every row of the files is used; a name or an argument that is not known here fails. The tolerance is
//! [`testing::close`], unless a comment says otherwise.

mod common;
#[path = "common/golden.rs"]
mod golden;
#[path = "common/nets.rs"]
mod nets;

use common::{BOTH, Check, Suite};
use downhill::{
    Device, Fit, Graph, Host, Shape, Tensor, Trainer, data,
    init::Init,
    losses::{self, Loss},
    optim::{Adadelta, Adagrad, Adam, AdamOf, AdamW, Adamax, GroupOptions, Lamb, Lars, Lion, NAdam, Optimizer, RAdam, RmsProp, Sgd},
    testing::close,
};
use golden::{Args, cases, generate, input, numbers, tensor, text, whole};
use serde_json::Value;
use std::collections::BTreeSet;

fn main() {
    let mut suite = Suite::new();
    for (file, key, check) in [
        ("ops", "op", op as fn(&Value, &Device) -> Check),
        ("losses", "loss", loss),
        ("optimizers", "optimizer", optimizer),
        ("optimizers_timm", "optimizer", optimizer),
        ("averages", "average", averages),
        ("training", "model", training),
    ]
    .into_iter()
    .chain(nets::OPS.map(|file| (file, "op", op as fn(&Value, &Device) -> Check)))
    .chain(nets::LAYERS.map(|file| (file, "layer", layer as fn(&Value, &Device) -> Check)))
    {
        let all = cases(file);
        let names: BTreeSet<&str> = all.iter().map(|row| text(row, key)).collect();
        assert!(all.len() >= 5, "{file} has {} rows", all.len());
        for name in names {
            let rows: Vec<Value> = all.iter().filter(|row| text(row, key) == name).cloned().collect();
            for on in BOTH {
                let rows = rows.clone();
                suite.on(on, &format!("{file}/{name}"), move |device| {
                    let failed: Vec<String> = rows.iter().filter_map(|row| check(row, device).err().map(|e| e.to_string())).collect();
                    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
                });
            }
        }
    }
    suite.run()
}

/// How closely results are held to PyTorch's.
#[derive(Clone, Copy)]
enum Held {
    /// By the tolerance of all comparisons.
    Close,
    /// The same for each element on its own: relative to its own size.
    Each,
    /// Values must be within the tolerance, and gradients within this multiple of it.
    Gradient(f64),
}

/// Runs a graph's outputs and compares them with what PyTorch got.
fn compare(device: &Device, what: &str, outputs: &[Tensor], feed: &[Host<f32>], want: &[Host<f64>], held: Held) -> Check {
    let in_row = |e: downhill::Error| format!("{what}: {e}");
    let got = device.compile(outputs).map_err(in_row)?.run(feed).map_err(in_row)?;
    // No row adds up more than the elements of its largest input.
    let terms = feed.iter().map(Host::len).max().unwrap_or(1);
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        let what = format!("{what}, {}", if k == 0 { "value".to_string() } else { format!("gradient {k}") });
        if got.shape != want.shape {
            return Err(format!("{what}: {} instead of {}", got.shape, want.shape).into());
        }
        let (got, want) = (got.to_f64(), want.to_f64());
        let ok = match held {
            Held::Each => got.iter().zip(&want).try_for_each(|(g, w)| close(&[*g], &[*w], 1)),
            // A part of the error is as small as the tolerance wants it.
            Held::Gradient(times) if k > 0 => {
                let nearer: Vec<f64> = got.iter().zip(&want).map(|(g, w)| w + (g - w) / times).collect();
                close(&nearer, &want, terms)
            }
            _ => close(&got, &want, terms),
        };
        ok.map_err(|e| format!("{what}: {e}"))?;
    }
    Ok(())
}

/// Value and every gradient of one op.
fn op(row: &Value, device: &Device) -> Check {
    let (name, case) = (text(row, "op"), text(row, "case"));
    let what = format!("{name} {case} {}", row["args"]);
    let mut feed: Vec<Host<f32>> = row["inputs"].as_array().expect("a list").iter().map(input).collect();
    let g = Graph::training();
    let x: Vec<Tensor> = feed.iter().map(|x| g.input_of(x.shape)).collect();
    let mut args = Args::new(&row["args"]);
    let y = apply(name, &mut args, &x);
    args.done();
    let (mut outputs, mut want) = (vec![y], vec![tensor(&row["output"])]);
    // Labels count as floats where PyTorch says so.
    want[0].shape = want[0].shape.of(y.shape().dtype());
    if y.shape().dtype() == downhill::DType::U32 && want[0].u().is_empty() {
        want[0] = Host::labels(want[0].shape, want[0].f().iter().map(|&v| v as u32).collect());
    }
    if !row["cotangent"].is_null() {
        let grads = row["grads"].as_array().expect("a list");
        let known: Vec<usize> = (0..x.len()).filter(|&i| !grads[i].is_null()).collect();
        let dy = g.input(y.shape());
        feed.push(input(&row["cotangent"]));
        outputs.extend(y.vjp(dy, &known.iter().map(|&i| x[i]).collect::<Vec<_>>()));
        want.extend(known.iter().map(|&i| tensor(&grads[i])));
    }
    let held = match (name, case) {
        // Near 0 these two exist to be exact relative to their own value.
        ("log1p" | "expm1", "tiny") => Held::Each,
        // It has x − mean, where both are near 300: a unit in the last place of the mean, which is good to one or two of
        // them, is 3·10⁻⁵, ten times what the tolerance allows a difference of about 1.
        ("variance", case) if case.ends_with("far from 0") => Held::Gradient(16.0),
        // It has dy − Σ softmax·dy: two numbers of about 1 also where one class has it all, and the difference is 0.01.
        ("softmax", _) => Held::Gradient(4.0),
        _ => Held::Close,
    };
    compare(device, &what, &outputs, &feed, &want, held)
}

fn apply<'g>(name: &str, args: &mut Args, x: &[Tensor<'g>]) -> Tensor<'g> {
    let a = x[0];
    let b = || x[1];
    let over = |args: &mut Args| (args.axes("axes"), args.b("keepdim"));
    let shape = |dims: Vec<usize>| Shape::new(&dims).expect("at most six axes");
    match name {
        "add" => a + b(),
        "sub" => a - b(),
        "mul" => a * b(),
        "div" => a / b(),
        "pow" => a.pow(b()),
        "minimum" => a.minimum(b()),
        "maximum" => a.maximum(b()),
        "eq" => a.eq(b()),
        "ne" => a.ne(b()),
        "lt" => a.lt(b()),
        "le" => a.le(b()),
        "gt" => a.gt(b()),
        "ge" => a.ge(b()),
        "where" => a.where_(b(), x[2]),
        "neg" => -a,
        "exp" => a.exp(),
        "ln" => a.ln(),
        "sqrt" => a.sqrt(),
        "abs" => a.abs(),
        "sign" => a.sign(),
        "sin" => a.sin(),
        "cos" => a.cos(),
        "identity" => a.identity(),
        "sigmoid" => a.sigmoid(),
        "tanh" => a.tanh(),
        "relu" => a.relu(),
        "gelu" => a.gelu(),
        "gelu_tanh" => a.gelu_tanh(),
        "silu" => a.silu(),
        "softplus" => a.softplus(),
        "log_sigmoid" => a.log_sigmoid(),
        "reciprocal" => a.reciprocal(),
        "rsqrt" => a.rsqrt(),
        "square" => a.square(),
        "log1p" => a.log1p(),
        "expm1" => a.expm1(),
        "leaky_relu" => a.leaky_relu(args.f32("negative_slope")),
        "elu" => a.elu(args.f32("alpha")),
        "powf" => a.powf(args.f32("p")),
        "clamp" => a.clamp(args.f32("min"), args.f32("max")),
        "matmul" => a.matmul_t(b(), args.b("transpose_a"), args.b("transpose_b")),
        "sum" => over(args).apply(|axes, keep| a.sum(axes, keep)),
        "mean" => over(args).apply(|axes, keep| a.mean(axes, keep)),
        "max" => over(args).apply(|axes, keep| a.max(axes, keep)),
        "min" => over(args).apply(|axes, keep| a.min(axes, keep)),
        "logsumexp" => over(args).apply(|axes, keep| a.logsumexp(axes, keep)),
        "variance" => {
            let correction = args.u("correction");
            over(args).apply(|axes, keep| a.variance(axes, correction, keep))
        }
        "argmax" => a.argmax(args.i("axis")),
        "cumsum" => a.cumsum(args.i("axis")),
        "softmax" => a.softmax(args.i("axis")),
        "log_softmax" => a.log_softmax(args.i("axis")),
        "reshape" => a.reshape(shape(args.dims("shape"))),
        "permute" => a.permute(&args.dims("dims")),
        "concat" => a.concat(&x[1..], args.i("axis")),
        "slice" => a.slice(args.i("axis"), args.u("start"), args.u("end")),
        "one_hot" => a.one_hot(args.u("classes")),
        "pick" => a.pick(b()),
        "gather_rows" => a.gather_rows(b()),
        other => nets::op(other, args, x),
    }
}

/// Value, every gradient and the state after the call of one layer, whose parameters have PyTorch's names.
fn layer(row: &Value, device: &Device) -> Check {
    let name = text(row, "layer");
    let what = format!("{name} {} {}", text(row, "case"), row["args"]);
    let mut feed: Vec<Host<f32>> = row["inputs"].as_array().expect("a list").iter().map(input).collect();
    let g = if row["args"]["training"] == false { Graph::inference() } else { Graph::training() };
    let x: Vec<Tensor> = feed.iter().map(|x| g.input_of(x.shape)).collect();
    let mut args = Args::new(&row["args"]);
    let y = nets::layer(name, &mut args, &x);
    args.done();
    let dy = g.input(y.shape());
    feed.push(input(&row["cotangent"]));
    // The learning rate is next to 0: the step is there for the state that a layer assigns. A trainer needs a parameter, but a layer may
    // have none. A case in inference mode is trained with another graph of the same parameters.
    let other = Graph::training();
    let (y_trained, dy_trained) = match g.is_training() {
        true => (y, dy),
        false => {
            let x: Vec<Tensor> = feed[..x.len()].iter().map(|x| other.input_of(x.shape)).collect();
            (nets::layer(name, &mut Args::new(&row["args"]), &x), other.input(y.shape()))
        }
    };
    let spare = y_trained.graph().param("spare", [], Init::Ones);
    let loss = (y_trained * dy_trained).sum_all() * spare;
    let mut trainer = Trainer::new(device, loss, Sgd::new(1e-30)).map_err(|e| format!("{what}: {e}"))?;
    let values = |key: &str| row[key].as_object().expect("an object").iter().map(|(n, v)| (format!("layer.{n}"), v)).collect::<Vec<_>>();
    let given: Vec<(String, Host<f32>)> = [values("params"), values("state")].concat().iter().map(|(n, v)| (n.clone(), input(v))).collect();
    let mut names: Vec<&str> = given.iter().map(|(n, _)| n.as_str()).collect();
    let mut ours: Vec<&str> = trainer.params().names().filter(|&name| name != "spare").collect();
    names.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, names, "{what}: names of parameters and state");
    trainer.params().set_all(&given)?;

    let grads = row["grads"].as_array().expect("a list");
    let known: Vec<usize> = (0..x.len()).filter(|&i| !grads[i].is_null()).collect();
    let tensors = g.param_tensors();
    let trained = values("param_grads");
    let of = |name: &str| tensors[trainer.params().names().position(|n| n == name).expect("the names are equal")];
    let sources: Vec<Tensor> = known.iter().map(|&i| x[i]).chain(trained.iter().map(|(n, _)| of(n))).collect();
    let outputs: Vec<Tensor> = std::iter::once(y).chain(y.vjp(dy, &sources)).collect();
    let want: Vec<Host<f64>> = std::iter::once(&row["output"])
        .chain(known.iter().map(|&i| &grads[i]))
        .chain(trained.iter().map(|(_, v)| *v))
        .map(tensor)
        .collect();
    let got = trainer.compile(&outputs)?.run(&feed)?;
    let terms = feed.iter().chain(given.iter().map(|(_, v)| v)).map(Host::len).max().unwrap_or(1);
    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.shape, want.shape, "{what}, output {k}");
        close(&got.to_f64(), &want.to_f64(), terms).map_err(|e| format!("{what}, output {k} (0 is the value): {e}"))?;
    }
    if g.is_training() {
        trainer.step(&feed)?;
        trainer.loss()?;
    }
    for (name, want) in values("after") {
        close(&trainer.params().get(&name)?.to_f64(), &tensor(want).to_f64(), terms).map_err(|e| format!("{what}, {name} after: {e}"))?;
    }
    Ok(())
}

trait Over {
    fn apply<'g>(&self, f: impl Fn(&[isize], bool) -> Tensor<'g>) -> Tensor<'g>;
}

impl Over for (Vec<isize>, bool) {
    fn apply<'g>(&self, f: impl Fn(&[isize], bool) -> Tensor<'g>) -> Tensor<'g> {
        f(&self.0, self.1)
    }
}

/// Value and gradient of one loss.
fn loss(row: &Value, device: &Device) -> Check {
    let (name, case, reduction) = (text(row, "loss"), text(row, "case"), text(row, "reduction"));
    let what = format!("{name} {case}, {reduction}");
    let g = Graph::training();
    let mut feed = Vec::new();
    let mut feed_tensor = |v: &Value| {
        let data = input(v);
        feed.push(data);
        g.input_of(feed.last().expect("just pushed").shape)
    };
    assert_eq!(row["inputs"].as_array().expect("a list").len(), 1, "{what}");
    let (x, y) = (feed_tensor(&row["inputs"][0]), feed_tensor(&row["target"]));
    let mut args = Args::new(&row["args"]);
    let mut loss: Loss = match name {
        "mse" => losses::mse(x, y),
        "mae" => losses::mae(x, y),
        "huber" => losses::huber(x, y, args.f32("delta")),
        "bce" => losses::bce(x, y),
        "bce_with_logits" => losses::bce_with_logits(x, y),
        "cross_entropy" => losses::cross_entropy(x, y).label_smoothing(args.f32("label_smoothing")),
        "cross_entropy_soft" => losses::cross_entropy_soft(x, y).label_smoothing(args.f32("label_smoothing")),
        "nll" => losses::nll(x, y),
        "kl_div" => losses::kl_div(x, y),
        other => panic!("no loss for {other}"),
    };
    if row["args"].get("ignore_index").is_some() {
        loss = loss.ignore_index(args.u("ignore_index") as u32);
    }
    args.done();
    if let Some(weights) = row.get("class_weights") {
        loss = loss.class_weights(feed_tensor(weights));
    }
    if let Some(weights) = row.get("sample_weights") {
        loss = loss.sample_weights(feed_tensor(weights));
    }
    let y = match reduction {
        "mean" => loss.mean(),
        "sum" => loss.sum(),
        "none" => loss.none(),
        "batchmean" => loss.batch_mean(),
        other => panic!("no reduction for {other}"),
    };
    let grad = match row.get("cotangent") {
        Some(c) => y.vjp(feed_tensor(c), &[x]),
        None => y.grad(&[x]),
    };
    // If a probability is 0 or 1, the gradient is up to 10¹². The small gradients beside it must be right as well.
    let held = if case.starts_with("probabilities 0 and 1") { Held::Each } else { Held::Close };
    compare(device, &what, &[y, grad[0]], &feed, &[tensor(&row["value"]), tensor(&row["grad"])], held)
}

/// Ours for an optimizer of PyTorch or timm, by name and keyword arguments. PyTorch's weight decay takes in biases.
fn rule(row: &Value) -> Optimizer {
    fn betas(a: &mut Args) -> [f64; 2] {
        a.list("betas").try_into().expect("two rates")
    }
    fn adam<const DECOUPLED: bool>(new: AdamOf<DECOUPLED>, a: &mut Args) -> AdamOf<DECOUPLED> {
        let [beta1, beta2] = betas(a);
        new.betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay")).amsgrad(a.b("amsgrad"))
    }
    let mut a = Args::new(&row["options"]);
    let lr = a.f("lr");
    let rule = match text(row, "optimizer") {
        "SGD" => {
            let rule = Sgd::new(lr).momentum(a.f("momentum")).dampening(a.f("dampening"));
            rule.weight_decay(a.f("weight_decay")).nesterov(a.b("nesterov")).decay_all()
        }
        "RMSprop" => {
            let rule = RmsProp::new(lr).alpha(a.f("alpha")).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            rule.momentum(a.f("momentum")).centered(a.b("centered")).decay_all()
        }
        "Adagrad" => {
            let rule = Adagrad::new(lr).lr_decay(a.f("lr_decay")).weight_decay(a.f("weight_decay"));
            rule.initial_accumulator_value(a.f("initial_accumulator_value")).eps(a.f("eps")).decay_all()
        }
        "Adam" => adam(Adam::new(lr), &mut a).decay_all(),
        "AdamW" => adam(AdamW::new(lr), &mut a).decay_all(),
        "Adamax" => {
            let [beta1, beta2] = betas(&mut a);
            Adamax::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay")).decay_all()
        }
        "NAdam" => {
            let [beta1, beta2] = betas(&mut a);
            let rule = NAdam::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            rule.momentum_decay(a.f("momentum_decay")).decoupled_weight_decay(a.b("decoupled_weight_decay")).decay_all()
        }
        "RAdam" => {
            let [beta1, beta2] = betas(&mut a);
            let rule = RAdam::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            rule.decoupled_weight_decay(a.b("decoupled_weight_decay")).decay_all()
        }
        "Adadelta" => Adadelta::new(lr).rho(a.f("rho")).eps(a.f("eps")).weight_decay(a.f("weight_decay")).decay_all(),
        "Lion" => {
            let [beta1, beta2] = betas(&mut a);
            Lion::new(lr).betas(beta1, beta2).weight_decay(a.f("weight_decay")).decay_all()
        }
        "Lars" => {
            let rule = Lars::new(lr).momentum(a.f("momentum")).dampening(a.f("dampening")).weight_decay(a.f("weight_decay"));
            let rule = rule.nesterov(a.b("nesterov")).trust_coeff(a.f("trust_coeff")).eps(a.f("eps"));
            rule.trust_clip(a.b("trust_clip")).always_adapt(a.b("always_adapt")).decay_all()
        }
        "Lamb" => {
            let [beta1, beta2] = betas(&mut a);
            let rule = Lamb::new(lr).betas(beta1, beta2).eps(a.f("eps")).weight_decay(a.f("weight_decay"));
            let rule = rule.bias_correction(a.b("bias_correction")).grad_averaging(a.b("grad_averaging"));
            let rule = rule.max_grad_norm(a.maybe_f("max_grad_norm"));
            rule.trust_clip(a.b("trust_clip")).always_adapt(a.b("always_adapt")).decay_all()
        }
        other => panic!("no optimizer for {other}"),
    };
    a.done();
    rule
}

/// Ten steps of a trainer whose loss is Σ w·g: its gradient is g to the last bit. Then the same ten steps of another trainer, each from
/// two micro-batches, whose gradients have the mean g to a rounding.
fn optimizer(row: &Value, device: &Device) -> Check {
    steps(row, device, &[1.0])?;
    steps(row, device, &[1.75, 0.25])
}

/// Steps from micro-batches, each of which has this multiple of the gradient.
fn steps(row: &Value, device: &Device, micro: &[f32]) -> Check {
    let what = format!("{} {}, {} micro-batches", row["optimizer"], row["options"], micro.len());
    let start: Vec<f32> = numbers(&row["params"]).iter().map(|&x| x as f32).collect();
    // Rows of timm have several parameters, one after the other, and say which of them decay.
    let (sizes, decays) = match row["sizes"].as_array() {
        None => (vec![start.len()], vec![true]),
        Some(_) => {
            let decays = row["decays"].as_array().expect("a list").iter().map(|d| d.as_bool().expect("yes or no"));
            (numbers(&row["sizes"]).iter().map(|&n| n as usize).collect(), decays.collect())
        }
    };
    let before = |k: usize| sizes[..k].iter().sum::<usize>();
    let of: Vec<std::ops::Range<usize>> = (0..sizes.len()).map(|k| before(k)..before(k + 1)).collect();
    let names: Vec<String> = decays.iter().enumerate().map(|(k, decays)| format!("{}{k}", if *decays { "w" } else { "still" })).collect();
    let mut rule = rule(row);
    if decays.contains(&false) {
        rule = rule.group(|name| name.starts_with("still"), GroupOptions { weight_decay: Some(0.0), ..Default::default() });
    }
    // The norms of a parameter have the roundings of all its elements.
    let has_ratio = ["Lars", "Lamb"].contains(&rule.name());
    let g = Graph::training();
    let term = |(name, &n): (&String, &usize)| (g.param(name, [n], Init::Zeros) * g.input([n])).sum_all();
    let loss = names.iter().zip(&sizes).map(term).reduce(|a, b| a + b).expect("a parameter");
    let mut trainer = Trainer::new(device, loss, rule)?;
    for (name, of) in names.iter().zip(&of) {
        trainer.params().set(name, &Host::new([of.len()], start[of.clone()].to_vec()))?;
    }
    let rows = |key: &str| row[key].as_array().expect("a list").iter().map(numbers).collect::<Vec<_>>();
    let (grads, path) = (rows("grads"), rows("trajectory"));
    assert!(grads.len() == 10 && path.len() == 10, "{what}");
    // Rounding adds up over steps, so the unit of an element is what was rounded so far: in each step the weight once,
    // and its change a few times (a rule has up to a dozen operations, and its averages carry old roundings along).
    let mut last: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
    let mut rounded = vec![0.0; start.len()];
    for (k, (grad, want)) in grads.iter().zip(&path).enumerate() {
        for (i, times) in micro.iter().enumerate() {
            let part = |of: &std::ops::Range<usize>| Host::new([of.len()], grad[of.clone()].iter().map(|&x| times * x as f32).collect());
            let batch: Vec<Host<f32>> = of.iter().map(part).collect();
            if i + 1 < micro.len() { trainer.accumulate(&batch)? } else { trainer.step(&batch)? }
        }
        for (name, of) in names.iter().zip(&of) {
            let got = trainer.params().get(name)?;
            let changes: Vec<f64> = of.clone().map(|i| (want[i] - last[i]).abs()).collect();
            let most = changes.iter().copied().fold(0.0, f64::max);
            for (at, i) in of.clone().enumerate() {
                rounded[i] += want[i].abs() + 16.0 * if has_ratio { most } else { changes[at] };
                let (got, error) = (f64::from(got.f()[at]), (f64::from(got.f()[at]) - want[i]).abs());
                if error.is_nan() || error > f64::from(f32::EPSILON) * rounded[i] {
                    return Err(format!("{what}: step {}, element {i}: {got} instead of {}", k + 1, want[i]).into());
                }
            }
        }
        last.clone_from(want);
    }
    trainer.loss()?;
    Ok(())
}

/// Ten steps of an optimizer with an average, and ten more of two micro-batches each. The loss is that of [`optimizer`].
fn averages(row: &Value, device: &Device) -> Check {
    let what = format!("{} {} of {} {}", row["average"], row["args"], row["optimizer"], row["options"]);
    let mut args = Args::new(&row["args"]);
    let rule = match text(row, "average") {
        "ema" => rule(row).ema(args.f("decay")),
        "swa" => rule(row).swa(args.u("from") as u64, args.u("every") as u64),
        "lookahead" => rule(row).lookahead(args.u("k") as u64, args.f("alpha")),
        other => panic!("no average for {other}"),
    };
    args.done();
    let start: Vec<f32> = numbers(&row["params"]).iter().map(|&x| x as f32).collect();
    let n = start.len();
    let g = Graph::training();
    let w = g.param("w", [n], downhill::init::Init::Zeros);
    let mut trainer = Trainer::new(device, (w * g.input([n])).sum_all(), rule)?;
    trainer.params().set("w", &Host::new([n], start.clone()))?;
    assert_eq!(trainer.averaged()?.params().get("w")?.f(), start, "{what}: before the first step");
    let rows = |key: &str| row[key].as_array().expect("a list").iter().map(numbers).collect::<Vec<_>>();
    let (weights, averages, grads) = (rows("weights"), rows("averages"), row["grads"].as_array().expect("a list"));
    assert!(grads.len() == 20 && weights.len() == 20 && averages.len() == 20, "{what}");
    let mut last: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
    // As in `optimizer`. An average has the errors of the weights, and is rounded a few times in each step.
    let (mut rounded, mut more) = (vec![0.0; n], vec![0.0; n]);
    for (k, parts) in grads.iter().enumerate() {
        let mut parts: Vec<Host<f32>> =
            parts.as_array().expect("a list").iter().map(|g| Host::new([n], numbers(g).iter().map(|&x| x as f32).collect())).collect();
        let end = parts.pop().ok_or("no gradient")?;
        parts.iter().try_for_each(|part| trainer.accumulate(std::slice::from_ref(part)))?;
        trainer.step(&[end])?;
        let got = [trainer.params().get("w")?, trainer.averaged()?.params().get("w")?];
        for i in 0..n {
            rounded[i] += weights[k][i].abs() + 16.0 * (weights[k][i] - last[i]).abs();
            more[i] += 4.0 * averages[k][i].abs();
            for (name, got, want, sum) in
                [("weight", &got[0], weights[k][i], rounded[i]), ("average", &got[1], averages[k][i], rounded[i] + more[i])]
            {
                let (got, error) = (f64::from(got.f()[i]), (f64::from(got.f()[i]) - want).abs());
                if error.is_nan() || error > f64::from(f32::EPSILON) * sum {
                    return Err(format!("{what}: step {}, {name} {i}: {got} instead of {want}", k + 1).into());
                }
            }
        }
        last.clone_from(&weights[k]);
    }
    trainer.loss()?;
    Ok(())
}

/// The first 20 losses of a network on real digits, and its weights after them, by `fit`.
fn training(row: &Value, device: &Device) -> Check {
    let file = whole("training");
    let what = format!("{} {} {}", text(row, "model"), row["optimizer"], row["options"]);
    let (number, float) = (|v: &Value| v.as_u64().expect("a number"), |v: &Value| v.as_f64().expect("a number"));
    let check = &file["check"];
    let ours = generate(number(&check["seed"]), 4, float(&check["bound"]) as f32);
    assert_eq!(ours, numbers(&check["values"]).iter().map(|&x| x as f32).collect::<Vec<_>>());
    let (batch, steps) = (number(&file["batch"]) as usize, number(&file["steps"]) as usize);
    let shape = |v: &Value| Shape::new(&numbers(v).iter().map(|&d| d as usize).collect::<Vec<_>>()).expect("at most six axes");

    let digits = data::digits().subset(0..batch * steps)?.reshape(shape(&row["sample"]))?;
    let model = nets::model(text(row, "model"));
    let mut trainer = Trainer::for_data(device, &digits, model, |x, y| x.cross_entropy(y), rule(row))?;
    let drawn = row["params"].as_array().expect("a list");
    // The bound of each parameter's initial values. Errors of a weight are compared with this bound.
    let mut bounds = std::collections::BTreeMap::new();
    for p in drawn {
        let (name, shape, bound, plus) = (text(p, "name"), shape(&p["shape"]), float(&p["bound"]), float(&p["plus"]) as f32);
        let values = generate(number(&p["seed"]), shape.elements(), bound as f32).iter().map(|x| x + plus).collect();
        trainer.params().set(name, &Host::new(shape, values))?;
        bounds.insert(name.to_string(), bound);
    }
    let history = trainer.fit(&digits, Fit::new().batch_size(batch).shuffle(false))?;
    let losses = &history.epochs[0].losses;
    let want = numbers(&row["losses"]);
    assert!(losses.len() == 20 && want.len() == 20, "{what}: {} losses", losses.len());
    // Twenty steps amplify the rounding of f32 (PyTorch's own f32 run differs from its f64 run by up to 1e-5 here);
    // the issue asks for 1e-4.
    let near = |got: f64, want: f64, size: f64| (got - want).abs() <= 1e-4 * size;
    for (k, (&got, &want)) in losses.iter().zip(&want).enumerate() {
        if !near(f64::from(got), want, want.abs()) {
            return Err(format!("{what}: loss of step {k} is {got}, not {want}").into());
        }
    }
    let all = trainer.params().all()?;
    let ours: BTreeSet<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(ours, row["sums"].as_object().expect("an object").keys().map(String::as_str).collect(), "{what}: names");
    for (name, value) in &all {
        let (sum, squares) = (float(&row["sums"][name]), float(&row["squares"][name]));
        let value = value.to_f64();
        let (s, q) = (value.iter().sum::<f64>(), value.iter().map(|x| x * x).sum::<f64>());
        // A sum of n numbers of both signs is as large as √(n·Σx²) at most, and its error goes with that.
        if !near(s, sum, (value.len() as f64 * squares).sqrt()) || !near(q, squares, squares) {
            return Err(format!("{what}: {name} has the sum {s} and the squares {q}, not {sum} and {squares}").into());
        }
        let want = numbers(&row["heads"][name]);
        for (got, &want) in value.iter().zip(&want) {
            if !near(*got, want, bounds.get(name).copied().unwrap_or(want.abs())) {
                return Err(format!("{what}: {name} holds {got} where it should {want}").into());
            }
        }
    }
    Ok(())
}
