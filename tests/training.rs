//! The promises of training: the same bits in every run, the same numbers for every way of planning, one submit for each step,
//! checkpoints that continue exactly, and an end at the first step that is not finite.

mod common;

use common::{BOTH, Check, On, Suite, bits, weights};
use downhill::{
    Compiled, Device, Error, Event, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{self, Dataset, Target},
    init::Init,
    layers::Conv2d,
    losses,
    ops::Fill,
    optim::{Adam, AdamW, GroupOptions, Optimizer, RmsProp, Sgd},
    plan::PlanOptions,
    testing,
    train::metrics,
};
use std::{cell::Cell, ops::ControlFlow};

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
    suite.each(&BOTH, "a checkpoint goes on exactly", checkpoint);
    suite.each(&[On::Gpu], "a checkpoint goes to another device", checkpoint_elsewhere);
    suite.each(&BOTH, "params save and load", params_round_trip);
    suite.each(&BOTH, "compiled graphs see every step", shared_buffers);
    suite.each(&BOTH, "evaluate", evaluate);
    suite.each(&everywhere, "dropout", dropout);
    suite.each(&BOTH, "a diverging loss", diverging);
    suite.each(&BOTH, "a gradient that is not finite", bad_gradient);
    suite.each(&BOTH, "an early end", early_end);
    suite.each(&everywhere, "gradient clipping", clipping);
    suite.each(&BOTH, "parameter groups", groups);
    suite.each(&[On::Cpu, On::Gpu, On::Pieces], "gradients that are given", given_gradients);
    suite.each(&[On::Pieces], "split flat buffers", split);
    suite.each(&[On::Gpu, On::Pieces], "the CPU's loss curve", loss_curve);
    suite.each(&[On::Gpu, On::Webgpu], "the CPU's loss curve with convolutions", cnn_curve);
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

fn checkpoint(device: &Device) -> Check {
    let (data, folder) = (digits(70), tempfile::tempdir()?);
    let path = folder.path().join("at.safetensors");
    let adam: Optimizer = Adam::new(0.01).amsgrad(true).into();
    let sgd: Optimizer = Sgd::new(0.05).momentum(0.9).into();
    let plain: Optimizer = Sgd::new(0.05).into();
    for optimizer in [adam, sgd, plain] {
        let fit = || Fit::new().epochs(2).batch_size(16);
        let mut whole = classifier(device, optimizer.clone()).seed(5)?;
        whole.fit(&data, fit())?;
        whole.save(&path)?;
        let history = whole.fit(&data, fit())?;
        // Another seed, and fewer steps and epochs: all of it must be replaced.
        let mut resumed = classifier(device, optimizer.clone()).seed(6)?;
        resumed.fit(&data, fit().epochs(1))?;
        resumed.load(&path)?;
        assert_eq!(resumed.steps(), 10);
        let again = resumed.fit(&data, fit())?;
        assert!(weights(&whole)? == weights(&resumed)?, "{optimizer:?}: other weights");
        let losses = |h: &downhill::History| h.epochs.iter().map(|e| bits(&e.losses)).collect::<Vec<_>>();
        assert_eq!(losses(&history), losses(&again), "{optimizer:?}");
        assert_eq!((whole.steps(), whole.lr()), (resumed.steps(), resumed.lr()));
    }
    Ok(())
}

fn checkpoint_elsewhere(device: &Device) -> Check {
    let (data, folder) = (digits(70), tempfile::tempdir()?);
    let path = folder.path().join("at.safetensors");
    for (from, to) in [(device, &Device::cpu()), (&Device::cpu(), device)] {
        let mut a = classifier(from, AdamW::new(0.01)).seed(5)?;
        a.fit(&data, Fit::new().batch_size(16))?;
        a.save(&path)?;
        let mut b = classifier(to, AdamW::new(0.01));
        b.load(&path)?;
        assert!(weights(&a)? == weights(&b)?);
        let [a, b] = [&mut a, &mut b].map(|t| t.fit(&data, Fit::new().batch_size(16)).map(|h| h.epochs[0].loss));
        let (a, b) = (a?, b?);
        assert!((a - b).abs() < 1e-4 * a, "{a} and {b}");
    }
    Ok(())
}

fn params_round_trip(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("w.safetensors");
    let mut a = classifier(device, Sgd::new(0.1)).seed(1)?;
    a.fit(&digits(40), Fit::new())?;
    // Awkward values: the smallest normal number, a negative zero, infinity.
    let mut bias = a.params().get("fc2.bias")?;
    bias.view_mut().f[..3].copy_from_slice(&[f32::MIN_POSITIVE, -0.0, f32::INFINITY]);
    a.params().set("fc2.bias", &bias)?;
    a.params().save(&path)?;
    let b = classifier(device, Sgd::new(0.1)).seed(2)?;
    assert!(weights(&a)? != weights(&b)?);
    b.params().load(&path)?;
    assert!(weights(&a)? == weights(&b)?);
    assert_eq!(bits(b.params().get("fc2.bias")?.f()), bits(bias.f()));
    assert_eq!(b.params().names().collect::<Vec<_>>(), ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]);
    // Other libraries read it: a safetensors file of f32 tensors by these names, and nothing else.
    let bytes = std::fs::read(&path)?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(names, ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"]);
    assert_eq!(file.tensor("fc1.weight")?.shape(), [24, 64]);
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

/// Gradient descent on w⁴ with a step that is too large: |w| grows until the loss overflows.
fn diverging(device: &Device) -> Check {
    let data = Dataset::new(vec![1.0; 64], [1], Target::values([1], vec![0.0; 64]))?;
    let new = || {
        Trainer::for_data(
            device,
            &data,
            |x| x * x.graph().param("w", [1], Init::Constant(2.5)),
            |x, _| x.square().square().mean_all(),
            Sgd::new(0.5).momentum(0.5),
        )
    };
    let mut trainer = new()?;
    let error = trainer.fit(&data, Fit::new().epochs(5).batch_size(4)).expect_err("it overflows");
    let Error::Diverged { step, loss, what, .. } = &error else { return Err(error.into()) };
    assert!(*step >= 2 && *step < 16, "step {step}");
    assert!(!loss.is_finite() && what == "loss", "{error}");
    assert!(error.to_string().starts_with(&format!("step {step}: the loss is not finite")), "{error}");
    assert_eq!(trainer.steps(), *step);
    // The same training, ended before that step.
    let mut stopped = new()?;
    let last = *step as usize;
    let history = stopped.fit(&data, Fit::new().batch_size(4).callback(|event| stop_at(event, last)))?;
    assert!(history.stopped && history.epochs[0].losses.len() == last && history.epochs[0].losses.iter().all(|l| l.is_finite()));
    assert_eq!(stopped.steps(), *step);
    assert_eq!(weights(&trainer)?, weights(&stopped)?);
    assert!(trainer.params().get("w")?.f()[0].is_finite());
    // The same again ends at once; from better weights training goes on, and the old error is forgotten.
    let again = trainer.fit(&data, Fit::new().batch_size(4));
    assert!(matches!(again, Err(Error::Diverged { step: s, .. }) if s == *step), "{again:?}");
    trainer.params().set("w", &Host::new([1], vec![0.1]))?;
    let mut quiet = trainer;
    quiet.step(&[Host::new([4, 1], vec![0.5; 4]), Host::new([4, 1], vec![0.0; 4])])?;
    assert!(quiet.loss()? < 1e-4);
    Ok(())
}

fn stop_at(event: &Event, last: usize) -> ControlFlow<()> {
    match event {
        Event::Step { step, .. } if *step == last => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// √0 is finite; its gradient is not.
fn bad_gradient(device: &Device) -> Check {
    let g = Graph::training();
    let w = g.param("w", [2], Init::Constant(1.0));
    let still = g.param("still", [1], Init::Constant(3.0));
    let mut trainer = Trainer::new(device, (w * g.input([2])).sqrt().sum_all() + still.sum_all(), Adam::new(0.01))?;
    let good = [Host::new([2], vec![1.0, 2.0])];
    trainer.step(&good)?;
    trainer.step(&good)?;
    let before = weights(&trainer)?;
    trainer.step(&[Host::new([2], vec![0.0, 1.0])])?;
    trainer.step(&good)?;
    let error = trainer.loss().expect_err("0/0");
    assert!(
        matches!(&error, Error::Diverged { step: 2, loss, what, parameter: Some(name) }
        if loss.is_finite() && what == "gradient" && name == "w"),
        "{error}"
    );
    assert_eq!(weights(&trainer)?, before, "a step after the bad one was made");
    // Its reports are those of the finite steps.
    assert_eq!(trainer.take_reports()?.iter().map(|r| r.step).collect::<Vec<_>>(), [0, 1]);
    // And it goes on as if the bad step had not been.
    trainer.step(&good)?;
    trainer.loss()?;
    let g = Graph::training();
    let w = g.param("w", [2], Init::Constant(1.0));
    let still = g.param("still", [1], Init::Constant(3.0));
    let mut other = Trainer::new(device, (w * g.input([2])).sqrt().sum_all() + still.sum_all(), Adam::new(0.01))?;
    (0..3).try_for_each(|_| other.step(&good))?;
    assert_eq!(weights(&trainer)?, weights(&other)?);
    Ok(())
}

fn early_end(device: &Device) -> Check {
    let data = digits(50);
    let mut trainer = classifier(device, Sgd::new(0.1));
    let heard = Cell::new(0);
    let history = trainer.fit(
        &data,
        Fit::new()
            .epochs(9)
            .batch_size(10)
            .callback(|event| match event {
                Event::Step { epoch: 2, step: 3, steps: 5 } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .callback(|_| {
                heard.set(heard.get() + 1);
                ControlFlow::Continue(())
            }),
    )?;
    assert!(history.stopped);
    assert_eq!(history.epochs.iter().map(|e| e.losses.len()).collect::<Vec<_>>(), [5, 3]);
    // Five steps, an epoch, three steps, an epoch.
    assert_eq!((heard.get(), trainer.steps()), (10, 8));
    // By epoch, and not at all.
    let history = trainer.fit(
        &data,
        Fit::new().epochs(9).callback(|event| match event {
            Event::Epoch(e) if e.epoch == 3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }),
    )?;
    assert!(history.stopped && history.epochs.len() == 3);
    let history = trainer.fit(&data, Fit::new().epochs(2))?;
    assert!(!history.stopped && history.epochs.len() == 2);
    Ok(())
}

/// Σ a·x + Σ b·z: the gradients are x and z, and one norm is taken of both.
fn clipping(device: &Device) -> Check {
    let n = 700;
    let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    for (max, scale) in [(1.0, 1.0), (0.5, 3.0), (1e6, 1.0)] {
        let g = Graph::training();
        let (a, b) = (g.param("a", [n], Init::Zeros), g.param("b", [2, 2], Init::Zeros));
        let loss = (a * g.input([n])).sum_all() + (b * g.input([2, 2])).sum_all();
        let mut trainer = Trainer::new(device, loss, Sgd::new(1.0).clip_norm(max))?;
        let x: Vec<f32> = x.iter().map(|x| x * scale).collect();
        let z = vec![3.0, -4.0, 0.5, 12.0];
        trainer.step(&[Host::new([n], x.clone()), Host::new([2, 2], z.clone())])?;
        let norm = x.iter().chain(&z).map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let factor = (max / (norm + 1e-6)).min(1.0);
        assert_eq!(factor < 1.0, max < 100.0);
        for (name, grad) in [("a", &x), ("b", &z)] {
            let want: Vec<f64> = grad.iter().map(|&g| -factor * f64::from(g)).collect();
            let got = trainer.params().get(name)?.to_f64();
            testing::close(&got, &want, n).map_err(|e| format!("max {max}: {name}: {e}"))?;
            assert!(factor < 1.0 || got == want, "not clipped, and yet changed");
        }
        // The trainer returns the gradient before clipping.
        assert_eq!(trainer.gradient("a")?.f(), x);
    }
    Ok(())
}

/// One step of SGD: w ← w − lr·scale·(g + decay·w) with g = 1 everywhere.
fn groups(device: &Device) -> Check {
    let step = |optimizer: Optimizer| -> Result<Vec<f32>, Error> {
        let g = Graph::training();
        let all = [
            ("a.weight", Shape::from([2, 2])),
            ("a.bias", Shape::from([2])),
            ("b.weight", Shape::from([2, 2])),
            ("b.bias", Shape::from([2])),
            ("c.bias", Shape::from([2, 2])),
        ];
        let loss = all.map(|(name, shape)| g.param(name, shape, Init::Constant(2.0)).sum_all()).into_iter().reduce(|a, b| a + b);
        let mut trainer = Trainer::new(device, loss.expect("five parameters"), optimizer)?;
        trainer.step(&[])?;
        trainer.loss()?;
        let mut out = Vec::new();
        for (name, value) in trainer.params().all()? {
            assert!(value.f().iter().all(|x| *x == value.f()[0]), "{name}: {:?}", value.f());
            out.push(value.f()[0]);
        }
        Ok(out)
    };
    let sgd = || Sgd::new(0.5).weight_decay(0.25);
    // Matrices decay. Biases do not, whatever their rank.
    assert_eq!(step(sgd().into())?, [1.25, 1.5, 1.25, 1.5, 1.5]);
    assert_eq!(step(sgd().decay_all())?, [1.25; 5]);
    let frozen = GroupOptions { lr_scale: 0.0, ..Default::default() };
    assert_eq!(step(sgd().group(|name| name.starts_with("a."), frozen))?, [2.0, 2.0, 1.25, 1.5, 1.5]);
    let slow = GroupOptions { lr_scale: 0.5, weight_decay: None };
    let decaying = GroupOptions { lr_scale: 1.0, weight_decay: Some(0.5) };
    let both = sgd().group(|name| name.ends_with("bias"), decaying).group(|name| name.starts_with("a."), slow);
    assert_eq!(step(both)?, [1.625, 1.0, 1.25, 1.0, 1.0]);
    Ok(())
}

/// Parameters of more than one piece, one of them larger than a binding: every rule, against the CPU.
fn split(device: &Device) -> Check {
    let sizes: [(&str, usize); 5] = [("a", 9_000), ("b", 20_001), ("c", 7), ("d", 40_000), ("e", 12_000)];
    let limit = common::inner(device).caps().max_binding_bytes as usize / 4;
    assert!(sizes.iter().map(|s| s.1).sum::<usize>() > 4 * limit && sizes[3].1 > 2 * limit);
    for optimizer in downhill::optim::all() {
        for optimizer in [optimizer.clone(), optimizer.clip_norm(1.0)] {
            let run = |device: &Device| -> Result<Vec<(String, Host<f32>)>, Error> {
                let g = Graph::training();
                let mut feed = Vec::new();
                let mut loss: Option<Tensor> = None;
                for (k, (name, n)) in sizes.into_iter().enumerate() {
                    let w = g.param(name, [n], Init::Uniform { low: -1.0, high: 1.0 });
                    let x = g.input([n]);
                    feed.push(testing::fill(x.shape(), &Fill::Range(-1.0, 1.0), k as u64));
                    let term = (w * x).sum_all();
                    loss = Some(loss.map_or(term, |l| l + term));
                }
                let mut trainer = Trainer::new(device, loss.expect("five terms"), optimizer.clone())?;
                for _ in 0..3 {
                    trainer.step(&feed)?;
                }
                trainer.loss()?;
                trainer.params().all()
            };
            let (got, want) = (run(device)?, run(&Device::cpu())?);
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                // The norm is a sum of 81,008 terms.
                testing::close(&got.to_f64(), &want.to_f64(), 81_008).map_err(|e| format!("{optimizer:?}: {name}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// The first epoch on digits: same seed, same shuffles and masks, losses equal to 1e-3.
fn loss_curve(device: &Device) -> Check {
    let data = data::digits();
    let curve = |device: &Device| -> Result<Vec<f32>, Error> {
        let mut trainer = Trainer::for_data(
            device,
            &data,
            |x| x.linear("fc1", 128).relu().dropout(0.1).linear("fc2", 64).relu().linear("fc3", 10),
            |x, y| x.cross_entropy(y),
            Adam::new(4e-3),
        )?
        .seed(42)?;
        Ok(trainer.fit(&data, Fit::new().batch_size(100))?.epochs.remove(0).losses)
    };
    same_curve(&curve(device)?, &curve(&Device::cpu())?, 18)
}

/// Fifty steps of a network of convolutions with batch norm.
fn cnn_curve(device: &Device) -> Check {
    fn block<'g>(x: Tensor<'g>, k: usize) -> Tensor<'g> {
        let options = Conv2d { padding: 1.into(), no_bias: true, ..Conv2d::default() };
        x.conv2d_with(&format!("conv{k}"), 8 * k, 3, options).batch_norm(&format!("bn{k}")).relu().max_pool2d(2)
    }
    fn model(x: Tensor) -> Tensor {
        block(block(x, 1), 2).flatten().linear("fc1", 32).relu().linear("fc2", 10)
    }
    let data = data::digits().reshape([1, 8, 8])?.subset(&(0..50 * 32).collect::<Vec<_>>())?;
    let curve = |device: &Device| -> Result<Vec<f32>, Error> {
        let mut trainer = Trainer::for_data(device, &data, model, |x, y| x.cross_entropy(y), Adam::new(1e-3))?.seed(42)?;
        Ok(trainer.fit(&data, Fit::new().batch_size(32))?.epochs.remove(0).losses)
    };
    same_curve(&curve(device)?, &curve(&Device::cpu())?, 50)
}

/// Every step's loss is that of the other device to 1e-3, and they fall.
fn same_curve(got: &[f32], want: &[f32], steps: usize) -> Check {
    assert_eq!(got.len(), steps);
    let far = got.iter().zip(want).map(|(g, w)| (g - w).abs() / w).fold(0.0, f32::max);
    println!("{steps} steps differ by {far:e} at most");
    for (k, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-3 * w, "step {k}: {g} and {w}");
    }
    assert!(want[steps - 1] < 0.8 * want[0], "it learns nothing: {want:?}");
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
