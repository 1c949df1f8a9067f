//! The promises of training: the same bits in every run, the same numbers for every way of planning, one submit for each step,
//! checkpoints that continue exactly, and an end at the first step that is not finite.

#[path = "training/checkpoints.rs"]
mod checkpoints;
mod common;
#[path = "training/curves.rs"]
mod curves;
#[path = "training/ends.rs"]
mod ends;
#[path = "training/updates.rs"]
mod updates;

use common::{BOTH, Check, On, Suite, bits, weights};
use downhill::{
    Compiled, Device, Error, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{self, Dataset, Target},
    init::Init,
    losses,
    ops::Fill,
    optim::{Adam, Optimizer, RmsProp, Sgd},
    plan::PlanOptions,
    testing,
    train::metrics,
};

fn main() {
    let mut suite = Suite::new();
    let everywhere = [On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Pieces];
    suite.each(&BOTH, "same seed, same bits", same_bits);
    for on in everywhere {
        // Ten networks where people compute, some on the devices of tests.
        let count = if BOTH.contains(&on) { 10 } else { 3 };
        suite.on(on, "planned, fused or neither", move |device| lowerings(device, count));
    }
    suite.each(&[On::Gpu, On::Pieces], "one submit a step", one_submit);
    suite.each(&BOTH, "the short last batch", short_batch);
    suite.each(&BOTH, "the order of samples", orders);
    suite.each(&BOTH, "a checkpoint goes on exactly", checkpoints::checkpoint);
    suite.each(&[On::Gpu], "a checkpoint goes to another device", checkpoints::checkpoint_elsewhere);
    suite.each(&BOTH, "params save and load", checkpoints::params_round_trip);
    suite.each(&BOTH, "compiled graphs see every step", shared_buffers);
    suite.each(&BOTH, "evaluate", evaluate);
    suite.each(&everywhere, "dropout", dropout);
    suite.each(&BOTH, "a diverging loss", ends::diverging);
    suite.each(&BOTH, "a gradient that is not finite", ends::bad_gradient);
    suite.each(&BOTH, "an early end", ends::early_end);
    suite.each(&everywhere, "gradient clipping", updates::clipping);
    suite.each(&BOTH, "parameter groups", updates::groups);
    suite.each(&[On::Cpu, On::Gpu, On::Pieces], "gradients that are given", given_gradients);
    suite.each(&[On::Pieces], "split flat buffers", updates::split);
    suite.each(&[On::Gpu, On::Pieces], "the CPU's loss curve", curves::loss_curve);
    suite.each(&[On::Gpu, On::Webgpu], "the CPU's loss curve with convolutions", curves::cnn_curve);
    suite.run()
}

/// The first `n` digits.
fn digits(n: usize) -> Dataset {
    data::digits().subset(&(0..n).collect::<Vec<_>>()).expect("there are that many")
}

/// A classifier of digits with dropout.
fn classifier(device: &Device, optimizer: impl Into<Optimizer>) -> Trainer {
    Trainer::for_data(
        device,
        &digits(4),
        |x| x.linear("fc1", 24).relu().dropout(0.3).linear("fc2", 10),
        |x, y| x.cross_entropy(y),
        optimizer,
    )
    .expect("the model fits")
}

fn same_bits(device: &Device) -> Check {
    let data = digits(101);
    let adam: Optimizer = Adam::new(0.01).amsgrad(true).clip_norm(0.5);
    let sgd: Optimizer = Sgd::new(0.05).momentum(0.9).nesterov(true).weight_decay(1e-3).into();
    let rms: Optimizer = RmsProp::new(0.003).centered(true).momentum(0.5).into();
    for optimizer in [adam, sgd, rms] {
        let run = |seed: u64| -> Result<_, Error> {
            let mut trainer = classifier(device, optimizer.clone()).seed(seed)?;
            let history = trainer.fit(&data, Fit::new().epochs(3).batch_size(16))?;
            let losses: Vec<Vec<u32>> = history.epochs.iter().map(|e| bits(&e.losses)).collect();
            Ok((weights(&trainer)?, losses))
        };
        let (first, again, other) = (run(7)?, run(7)?, run(8)?);
        assert_eq!(first.1[0].len(), 7, "six batches of 16 and one of 5");
        assert!(first == again, "{optimizer:?}: a second run differs");
        assert!(first.1 != other.1 && first.0 != other.0, "{optimizer:?}: another seed trains the same");
        assert!(f32::from_bits(first.1[2][0]) < f32::from_bits(first.1[0][0]), "{optimizer:?} learns nothing");
    }
    Ok(())
}

/// A network that is different for each seed: layers, activations, residuals, dropout, and two or three losses.
fn network<'g>(g: &'g Graph, seed: u64) -> (Vec<Tensor<'g>>, Vec<Host<f32>>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % below
    };
    let rows = [1, 5, 16, 33][random(4) as usize];
    let (x, labels) = (g.input([rows, 7]), g.labels([rows]));
    let mut h = x.linear("in", 12);
    for k in 0..2 + random(4) {
        let before = h;
        let wide = 8 + random(9) as usize;
        h = match random(8) {
            0 => h.linear(&format!("fc{k}"), wide).gelu(),
            1 => h + h.linear(&format!("fc{k}"), h.shape().last()).tanh(),
            2 => h.dropout(0.25),
            3 => (h - h.mean(&[-1], true)) * (h.variance(&[-1], 0, true) + 0.1).rsqrt(),
            4 => h.silu().concat(&[before.sigmoid()], -1),
            5 => h.softmax(-1) * 3.0,
            6 => h.gt(0.0).where_(h * 0.5, h.square()),
            _ => h.linear(&format!("fc{k}"), wide).elu(0.7).slice(1, 1, wide),
        };
    }
    let logits = h.linear("out", 5);
    let smooth = losses::cross_entropy(logits, labels).label_smoothing(0.1).mean();
    let mut loss = smooth + (logits - h.mean(&[-1], true)).square().mean_all() * 0.3;
    if random(2) == 0 {
        loss = loss + losses::huber(h, g.full(h.shape(), 0.2), 0.5).sum() * 0.01;
    }
    let mut outputs = vec![loss, logits, h];
    outputs.extend(loss.grad(&g.param_tensors()));
    outputs.extend(loss.grad(&[x]));
    let inputs = vec![testing::fill(x.shape(), &Fill::Range(-2.0, 2.0), seed), testing::fill(labels.shape(), &Fill::Labels(5), seed + 1)];
    (outputs, inputs)
}

fn lowerings(device: &Device, count: u64) -> Check {
    for seed in 1..=count {
        let g = Graph::training();
        let (outputs, inputs) = network(&g, seed);
        let run = |fuse: bool, reuse: bool| -> Result<Vec<u32>, Box<dyn std::error::Error>> {
            let options = PlanOptions { fuse, reuse, ..device.plan_options() };
            // Sums of up to 33 rows × 16 columns one after the other through up to six layers and their gradients.
            testing::compare(&g, &outputs, &inputs, device, &options, 4096)
                .map_err(|e| format!("network {seed}, fuse {fuse}, reuse {reuse}: {e}"))?;
            let out = Compiled::new(device, &outputs, &options, 3)?.run(&inputs)?;
            Ok(out.iter().flat_map(|o| bits(o.f())).collect())
        };
        for fuse in [false, true] {
            assert!(run(fuse, false)? == run(fuse, true)?, "network {seed}, fuse {fuse}: the planner changes results");
        }
    }
    Ok(())
}

fn one_submit(device: &Device) -> Check {
    // A device of its own: other trials make buffers meanwhile.
    let device = &Device::open(common::inner(device).options())?;
    let data = digits(48);
    let mut trainer = classifier(device, Adam::new(1e-3));
    let (x, y) = data.batch(&(0..48).collect::<Vec<_>>())?;
    let batch = [x, y];
    trainer.step(&batch)?;
    trainer.loss()?;
    let before = trainer.counters().expect("a GPU counts");
    let memory = common::inner(device).allocated_bytes();
    for _ in 0..100 {
        trainer.step(&batch)?;
    }
    let after = trainer.counters().expect("a GPU counts");
    assert_eq!(after.submits - before.submits, 100);
    assert_eq!((after.allocations, after.reads), (before.allocations, before.reads));
    // A step uploads its batch, one row of the table and the hyperparameters of one group, and reads nothing.
    let row = 4 * (8 + 8);
    assert_eq!(after.bytes_uploaded - before.bytes_uploaded, 100 * (4 * (48 * 64 + 48) + row));
    assert_eq!(after.bytes_read, before.bytes_read);
    trainer.loss()?;
    let reports = trainer.take_reports()?;
    assert_eq!(reports.len(), 101);
    // wgpu stages uploads in buffers of its own, a few of which are under way; but nothing piles up.
    if let (Some(before), Some(after)) = (memory, common::inner(device).allocated_bytes()) {
        assert!(after <= before + (1 << 20), "{before} bytes became {after}");
    }
    Ok(())
}

/// Ten samples in batches of four by hand, in f64: w ← w − lr·∂/∂w mean (x·w + b − y)².
fn short_batch(device: &Device) -> Check {
    let x: Vec<f32> = (0..20).map(|i| (i as f32 * 0.37).sin()).collect();
    let y: Vec<f32> = (0..10).map(|i| 0.5 * x[2 * i] - 2.0 * x[2 * i + 1] + 0.25).collect();
    let data = Dataset::new(x.clone(), [2], Target::values([1], y.clone()))?;
    let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 1), |x, y| x.mse(y), Sgd::new(0.3))?;
    let start = [0.4, -0.3, 0.1f64];
    trainer.params().set("fc.weight", &Host::new([1, 2], vec![0.4, -0.3]))?;
    trainer.params().set("fc.bias", &Host::new([1], vec![0.1]))?;
    let history = trainer.fit(&data, Fit::new().epochs(2).batch_size(4).shuffle(false))?;
    let (mut w, mut losses) = (start.map(|w| f64::from(w as f32)), Vec::new());
    for _ in 0..2 {
        for rows in [0..4, 4..8, 8..10] {
            let (mut grad, mut loss, n) = ([0.0; 3], 0.0, rows.len() as f64);
            for i in rows {
                let x = [f64::from(x[2 * i]), f64::from(x[2 * i + 1]), 1.0];
                let error = x.iter().zip(&w).map(|(x, w)| x * w).sum::<f64>() - f64::from(y[i]);
                loss += error * error / n;
                grad.iter_mut().zip(x).for_each(|(g, x)| *g += 2.0 * error * x / n);
            }
            losses.push(loss);
            w.iter_mut().zip(grad).for_each(|(w, g)| *w -= 0.3 * g);
        }
    }
    let got: Vec<f64> = history.epochs.iter().flat_map(|e| &e.losses).map(|&l| f64::from(l)).collect();
    testing::close(&got, &losses, 12)?;
    let got = [trainer.params().get("fc.weight")?.to_f64(), trainer.params().get("fc.bias")?.to_f64()].concat();
    testing::close(&got, &w, 12)?;
    // An epoch's loss is the mean over samples, not over steps.
    let mean = (losses[0] * 4.0 + losses[1] * 4.0 + losses[2] * 2.0) / 10.0;
    testing::close(&[history.epochs[0].loss], &[mean], 12)?;
    assert_eq!(trainer.steps(), 6);
    Ok(())
}

/// Samples 0 to 29 one at a time, with a loss that says which it was.
fn orders(device: &Device) -> Check {
    let data = Dataset::new((0..30).map(|i| i as f32).collect(), [1], Target::None)?;
    let new = |seed: u64| {
        Trainer::for_data(device, &data, move |x| x + x.graph().param("w", [1], Init::Zeros) * 0.0, |y, _| y.mean_all(), Sgd::new(0.1))?
            .seed(seed)
    };
    let order = |trainer: &mut Trainer, shuffle: bool| -> Result<Vec<u32>, Error> {
        let history = trainer.fit(&data, Fit::new().batch_size(1).shuffle(shuffle))?;
        Ok(history.epochs[0].losses.iter().map(|&l| l as u32).collect())
    };
    let (mut a, mut b, mut c) = (new(1)?, new(1)?, new(2)?);
    let (first, second) = (order(&mut a, true)?, order(&mut a, true)?);
    assert!(first != second, "every epoch has the same order: {first:?}");
    assert_eq!((&first, &second), (&order(&mut b, true)?, &order(&mut b, true)?));
    assert!(first != order(&mut c, true)?, "every seed has the same order");
    let straight: Vec<u32> = (0..30).collect();
    assert_eq!(order(&mut a, false)?, straight);
    for mut order in [first, second] {
        order.sort_unstable();
        assert_eq!(order, straight, "each sample once");
    }
    Ok(())
}

fn shared_buffers(device: &Device) -> Check {
    let data = digits(20);
    let mut trainer = classifier(device, Sgd::new(0.1)).seed(1)?;
    let g = Graph::inference();
    let x = g.input([20, 64]);
    // Other layers may share parameters as well: here the first alone.
    let mut whole = trainer.compile(&[x.linear("fc1", 24).relu().linear("fc2", 10)])?;
    let first_graph = Graph::inference();
    let mut first = trainer.compile(&[first_graph.input([20, 64]).linear("fc1", 24)])?;
    // The last alone: its parameters have other numbers here than in the trainer.
    let last_graph = Graph::inference();
    let mut second = trainer.compile(&[last_graph.input([20, 24]).relu().linear("fc2", 10)])?;
    let x = data.batch(&(0..20).collect::<Vec<_>>())?.0;
    let mut last = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let (logits, hidden) = (whole.run(std::slice::from_ref(&x))?, first.run(std::slice::from_ref(&x))?);
        let now = (bits(logits[0].f()), bits(hidden[0].f()));
        assert_eq!(now.0, bits(trainer.predict(&x)?.f()));
        testing::close(&second.run(&hidden)?[0].to_f64(), &logits[0].to_f64(), 24)?;
        assert!(now.0 != last.0 && now.1 != last.1, "the compiled graph did not see the step");
        last = now;
        trainer.fit(&data, Fit::new().batch_size(20))?;
    }
    Ok(())
}

/// More samples than one batch of evaluation takes, and not a multiple of it.
fn evaluate(device: &Device) -> Check {
    let data = data::digits();
    let mut trainer = classifier(device, Adam::new(0.01)).seed(1)?;
    trainer.fit(&data, Fit::new().batch_size(256))?;
    let result = trainer.evaluate(&data)?;
    assert_eq!(result.outputs.shape, Shape::from([1797, 10]));
    assert_eq!(result.accuracy, Some(metrics::accuracy(result.outputs.f(), 10, data.labels())?));
    assert!(result.accuracy > Some(0.5), "{:?}", result.accuracy);
    let logits = result.outputs.to_f64();
    let loss = |(x, &y): (&[f64], &u32)| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[y as usize];
    let want = logits.chunks(10).zip(data.labels()).map(loss).sum::<f64>() / 1797.0;
    testing::close(&[result.loss], &[want], 1797)?;
    // The same however often, and no step was made.
    assert_eq!(trainer.evaluate(&data)?.outputs, result.outputs);
    assert_eq!(trainer.steps(), 8);
    let x = data.batch(&(0..1797).collect::<Vec<_>>())?.0;
    assert_eq!(trainer.predict(&x)?, result.outputs);
    Ok(())
}

/// Masks are the oracle's, bit by bit, on every device: also where the tensor is split over several dispatches.
fn dropout(device: &Device) -> Check {
    for shape in [Shape::from([1]), Shape::from([7, 5]), Shape::from([300, 200])] {
        let g = Graph::training();
        let x = g.input(shape);
        let (a, b) = (x.dropout(0.3), x.dropout(0.3));
        let dx = (a * 2.0).sum_all().grad(&[x])[0];
        let mut f = Compiled::new(device, &[a, b, dx], &device.plan_options(), 11)?;
        let ones = Host::new(shape, vec![1.0; shape.elements()]);
        let mut masks = Vec::new();
        for step in 0..2 {
            let out = f.run(std::slice::from_ref(&ones))?;
            for (k, y) in out[..2].iter().enumerate() {
                let mut random = vec![0.0; shape.elements()];
                downhill::rng::fill_uniform(11, step, k as u32 + 1, 0, &mut random);
                let want: Vec<f32> = random.iter().map(|&u| if u >= 0.3 { 1.0 / 0.7 } else { 0.0 }).collect();
                let wrong = y.f().iter().zip(&want).filter(|(y, w)| (*y - *w).abs() > 1e-6).count();
                assert_eq!(wrong, 0, "{shape}, step {step}, mask {k}: {wrong} elements");
            }
            // The gradient passes where the value did.
            let passed = out[0].f().iter().zip(out[2].f()).all(|(y, d)| (d - 2.0 * y).abs() < 1e-6);
            assert!(passed, "{shape}, step {step}: the backward mask is another one");
            masks.extend(out[..2].iter().map(|y| y.f().to_vec()));
        }
        if shape.elements() > 1000 {
            let kept = masks[0].iter().filter(|&&y| y > 0.0).count() as f64 / shape.elements() as f64;
            assert!((kept - 0.7).abs() < 0.01, "{kept} of the elements are kept");
            for (i, a) in masks.iter().enumerate() {
                assert!(masks[..i].iter().all(|b| a != b), "two layers or steps have the same mask");
            }
        }
    }
    Ok(())
}

/// The gradients that a step found, given to another trainer, are that step; twice, they are two. State stays.
fn given_gradients(device: &Device) -> Check {
    let trainer = || -> Result<Trainer, Error> {
        let g = Graph::training();
        let x = g.input([6, 5]);
        let loss = x.linear("fc1", 4).batch_norm("bn").tanh().linear("fc2", 3).square().mean_all();
        Trainer::new(device, loss, Optimizer::from(Adam::new(0.02)).clip_norm(0.1))?.seed(3)
    };
    let batch = [Host::new([6, 5], (0..30).map(|i| (i as f32 * 0.7).sin()).collect())];
    let (mut whole, mut given) = (trainer()?, trainer()?);
    whole.step(&batch)?;
    let names = ["fc1.weight", "fc1.bias", "bn.weight", "bn.bias", "fc2.weight", "fc2.bias"];
    let gradients = names.map(|name| whole.gradient(name)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let gradients: Vec<(&str, Host<f32>)> = names.into_iter().zip(gradients).collect();
    assert!(gradients.iter().any(|(_, g)| g.f().iter().any(|&x| x != 0.0)));

    let state = given.params().get("bn.running_mean")?;
    given.apply_gradients(&gradients)?;
    assert_eq!(given.params().get("bn.running_mean")?, state);
    for name in names {
        assert_eq!(bits(given.params().get(name)?.f()), bits(whole.params().get(name)?.f()), "{name}");
    }
    given.step_again()?;
    assert_eq!(given.steps(), 2);
    assert_ne!(given.params().get("fc1.weight")?, whole.params().get("fc1.weight")?);
    assert!(given.take_reports()?.iter().all(|r| r.loss.is_nan()) && given.loss()?.is_nan());

    // A gradient that is not finite changes no parameter and gives an error.
    let before = weights(&given)?;
    given.apply_gradients(&[("fc2.bias", Host::new([3], vec![1.0, f32::INFINITY, 0.0]))])?;
    assert!(matches!(given.loss(), Err(Error::Diverged { .. })));
    assert_eq!(weights(&given)?, before);
    for (bad, says) in [("fc3.bias", "fc3.bias"), ("bn.running_mean", "no gradient"), ("fc1.bias", "[3]")] {
        let error = given.apply_gradients(&[(bad, Host::new([3], vec![1.0; 3]))]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    Ok(())
}
