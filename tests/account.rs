//! Every byte accounted for: the report before anything is made is what is made, its parts add up, and the largest batch that it
//! promises is one that runs.

mod common;

use common::{BOTH, Check, On, Suite, inner, small_limits};
use downhill::{
    Device, Error, Fit, Graph, Host, Tensor, Trainer,
    data::{self, Augment, Dataset},
    gpu::{Choice, GpuOptions, Limits},
    layers::Conv2d,
    optim::{Adam, Optimizer, Sgd},
    plan::Memory,
};
use std::time::Instant;

fn main() {
    let mut suite = Suite::new();
    let gpus = [On::Gpu, On::Webgpu, On::Small, On::Pieces];
    suite.each(&gpus, "the bytes of every buffer", exact);
    suite.each(&gpus, "the bytes with the data set on the device", fed);
    suite.each(&[On::Gpu, On::Webgpu, On::Pieces], "the bytes of all that fit keeps", kept);
    suite.each(&[On::Gpu], "what the driver allocates", allocated);
    suite.each(&[On::Cpu, On::Gpu, On::Pieces], "the parts add up", adds_up);
    suite.each(&BOTH, "layers are found", layers);
    suite.each(&BOTH, "before anything is made", before);
    suite.each(&BOTH, "the largest batch for a budget", budget);
    suite.test("the largest batch by a limit", by_limit);
    suite.each(&BOTH, "bad requests", requests);
    suite.run()
}

fn mlp(x: Tensor) -> Tensor {
    x.linear("fc1", 48).relu().dropout(0.1).linear("fc2", 10)
}

fn cnn(x: Tensor) -> Tensor {
    let padded = Conv2d { padding: 1.into(), ..Conv2d::default() };
    let x = x.conv2d_with("conv1", 6, 3, padded.clone()).batch_norm("bn1").relu().max_pool2d(2);
    let skip = x;
    let x = x.conv2d_with("conv2", 6, 3, padded).batch_norm("bn2").relu() + skip;
    x.flatten().linear("fc", 10)
}

type Model = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

const MODELS: [(&str, Model); 2] = [("mlp", mlp), ("cnn", cnn)];

fn digits(name: &str) -> Result<Dataset, Error> {
    let all = data::digits();
    if name == "cnn" { all.reshape([1, 8, 8]) } else { Ok(all) }
}

fn trainer(device: &Device, name: &str, model: Model, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(device, &digits(name)?, model, |y, t| y.cross_entropy(t), optimizer)
}

fn batch(name: &str, n: usize) -> Result<[Host<f32>; 2], Error> {
    let data = digits(name)?;
    let (x, y) = data.batch(&(0..n).map(|i| i % data.len()).collect::<Vec<_>>())?;
    Ok([x, y])
}

/// A device of its own, on which nothing else is made meanwhile.
fn fresh(device: &Device) -> Result<Device, Error> {
    Device::open(&GpuOptions { name: Some(device.name()), ..inner(device).options().clone() })
}

fn exact(device: &Device) -> Check {
    let device = fresh(device)?;
    let made = || inner(&device).buffers_made().1;
    // Adam's update binds more than four buffers at once.
    let few = inner(&device).caps().max_bindings < 6;
    for (name, model) in MODELS {
        let rules: [Optimizer; 2] = [Sgd::new(0.01).into(), if few { Sgd::new(0.01).momentum(0.9).into() } else { Adam::new(1e-3).into() }];
        for rule in rules {
            for n in [2, 33] {
                let before = made();
                let mut trainer = trainer(&device, name, model, rule.clone())?;
                let planned = trainer.memory(n)?;
                let weights = made() - before;
                let flat = planned.weights + planned.gradients + planned.state + planned.optimizer.iter().map(|s| s.1).sum::<u64>();
                // The guard is made with them, and the ring of losses and accuracies with what it is read through.
                // A row of the ring has the norm and the largest of the gradients as well. Behind the guard there are the sums of
                // each piece, a flag for each parameter, the tables of where parameters and groups end, and 64 steps' hyperparameters.
                let control = (weights - flat - 2 * 1024 * 4 * 4 - 256) / 4;
                let (params, least) = (trainer.params().shapes().count() as u64, 64 + 3 + 64 * 8);
                assert!((least + params..least + 4 * (params + 8) + 64).contains(&control), "{name}: {control} words of the guard");
                trainer.step(&batch(name, n)?)?;
                assert_eq!(made() - before, planned.total(), "{name}, {n} samples, {rule:?}:\n{planned}");
                trainer.step(&batch(name, n)?)?;
                assert_eq!(made() - before, planned.total(), "{name}: a second step makes nothing");
                assert_eq!(trainer.memory(n)?, planned);
            }
        }
    }
    Ok(())
}

/// The same with the data set on the device, from which steps fetch their batches.
fn fed(device: &Device) -> Check {
    let device = fresh(device)?;
    let made = || inner(&device).buffers_made().1;
    let data = digits("cnn")?.subset(&(0..128).collect::<Vec<_>>())?;
    for augment in [None, Some(Augment { horizontal_flip: 0.5, crop_padding: 1, ..Augment::default() })] {
        let before = made();
        let mut trainer = trainer(&device, "cnn", cnn, Sgd::new(0.01))?;
        let away = trainer.memory(32)?;
        assert_eq!(away.data, 0);
        let fit = Fit::new().batch_size(32).epochs(2);
        trainer.fit(&data, if let Some(a) = augment { fit.augment(a) } else { fit })?;
        let there = trainer.memory(32)?;
        // Each pixel is a byte, whose 256 meanings are there as well; labels and the order of the samples are words.
        assert_eq!(there.data, 128 * (64 + 4 + 4) + 1024);
        assert_eq!(made() - before, there.total(), "{augment:?}:\n{there}");
        assert_eq!(there.layers.iter().map(|l| l.total()).sum::<u64>(), there.total());
        assert!(there.total() > away.total() + there.data, "its kernels have sizes too");
    }
    Ok(())
}

/// The same with a last batch of its own and a validation: four plans, the data, and what outputs are read through. And the largest
/// batch for a budget is one with which all of that is within.
fn kept(device: &Device) -> Check {
    let device = fresh(device)?;
    let made = || inner(&device).buffers_made().1;
    // So that the buffer of read-backs is there, and large enough.
    let g = Graph::inference();
    device.compile(&[g.full([1 << 20], 1.0) + g.input([])])?.run(&[Host::new([], vec![1.0])])?;
    for (name, model) in MODELS {
        let data = digits(name)?;
        let [train, validation] = [0..100, 100..170].map(|rows| data.subset(&rows.collect::<Vec<_>>()));
        let (train, validation) = (train?, validation?);
        let before = made();
        let mut trainer = trainer(&device, name, model, Sgd::new(0.01))?;
        let alone = trainer.memory(32)?;
        trainer.set_evaluation_batch(32)?;
        trainer.fit(&train, Fit::new().batch_size(32).epochs(2).validation(&validation))?;
        let there = trainer.memory(32)?;
        assert_eq!(made() - before, there.total(), "{name}:\n{there}");
        assert_eq!(there.layers.iter().map(|l| l.total()).sum::<u64>(), there.total());
        assert_eq!((alone.plans, alone.activations), (0, there.activations));
        assert!(there.plans > 0 && there.data > 0 && there.to_string().contains("other plans"));
        // The same of whichever of them it is asked.
        assert_eq!(trainer.memory(4)?.total(), there.total());
        trainer.set_evaluation_batch(16)?;
        trainer.evaluate(&validation)?;
        assert_eq!(made() - before, trainer.memory(32)?.total(), "{name}, another evaluation");
    }
    for (name, model) in MODELS {
        let (data, budget) = (digits(name)?, 6_000_000);
        let before = made();
        let mut trainer = trainer(&device, name, model, Sgd::new(0.01))?;
        let most = trainer.max_batch(Some(budget))?;
        // Only one sample is missing from the last batch. The data stays on the host, because the budget did not count it.
        let n = 2 * most - 1;
        let all = |n: usize| data.subset(&(0..n).map(|i| i % data.len()).collect::<Vec<_>>());
        trainer.fit(&all(n)?, Fit::new().batch_size(most).validation(&all(most + most / 2)?).resident(0))?;
        assert!(most > 8 && made() - before <= budget, "{name}: {most} samples take {} bytes", made() - before);
    }
    Ok(())
}

/// The same, asked of wgpu: sizes are rounded up there, so that there may be a little more, and no less.
fn allocated(device: &Device) -> Check {
    let device = fresh(device)?;
    let gpu = inner(&device);
    let Some(before) = gpu.allocated_bytes() else { return Ok(()) };
    let g = Graph::training();
    let (x, y) = (g.input([256, 64]), g.labels([256]));
    let loss = x.linear("fc1", 1024).relu().linear("fc2", 1024).relu().linear("fc3", 10).cross_entropy(y);
    let memory = Memory::of(&device, loss, Adam::new(1e-3))?;
    let trainer = Trainer::new(&device, loss, Adam::new(1e-3))?;
    let (now, buffers) = (gpu.allocated_bytes().expect("it was known before") - before, gpu.buffers_made().0);
    // Uploads of initial weights go through buffers of wgpu's own, as large as they are.
    let (least, most) = (memory.total(), memory.total() + memory.weights * 4 + buffers * 4096);
    assert!((least..most).contains(&now), "{now} bytes allocated, of {buffers} buffers of together {least}");
    assert_eq!(trainer.memory(1)?, memory, "a graph of one's own has its own batch");
    Ok(())
}

fn adds_up(device: &Device) -> Check {
    for (name, model) in MODELS {
        let trainer = trainer(device, name, model, Adam::new(1e-3))?;
        let (small, large) = (trainer.memory(8)?, trainer.memory(40)?);
        for m in [&small, &large] {
            assert_eq!(m.layers.iter().map(|l| l.total()).sum::<u64>(), m.total(), "layers of {name}:\n{m}");
            assert_eq!(m.kinds().iter().map(|k| k.1).sum::<u64>(), m.total());
            assert!(m.planned < m.unplanned, "{name}: {} bytes planned, {} unplanned", m.planned, m.unplanned);
            assert!(m.live <= m.planned && 2 * m.live > m.planned, "{name}: {} bytes must live, {} do", m.live, m.planned);
            assert!(m.live_at.contains(file!()), "{}", m.live_at);
        }
        // The bytes of weights do not depend on the batch. The bytes of inputs are proportional to the batch.
        assert_eq!((small.weights, &small.optimizer, small.inputs * 5), (large.weights, &large.optimizer, large.inputs));
        assert_eq!(small.optimizer.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["mean", "square"]);
        assert_eq!(small.inputs, 8 * (64 + 1) * 4);
        assert!(large.activations > 3 * small.activations);
    }
    Ok(())
}

fn layers(device: &Device) -> Check {
    let m = trainer(device, "cnn", cnn, Sgd::new(0.1))?.memory(16)?;
    let names: Vec<&str> = m.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["conv1", "bn1", "conv2", "bn2", "fc", "(inputs)", "(step)"]);
    let parameters: Vec<u64> = m.layers.iter().map(|l| l.parameters).collect();
    // Weight and bias, each beside its gradient, at multiples of 64 numbers; running averages beside what they become.
    let of = |all: &[u64]| all.iter().map(|n| n.next_multiple_of(64) * 4 * 2).sum::<u64>();
    assert_eq!(parameters, [of(&[54, 6]), of(&[6; 4]), of(&[324, 6]), of(&[6; 4]), of(&[960, 10]), 0, 0]);
    assert_eq!(m.state, of(&[6; 4]));
    // Nearly all tensors are of a layer, those of the gradient too.
    let activations: u64 = m.layers[..5].iter().map(|l| l.activations).sum();
    assert!(10 * activations > 9 * m.planned, "{activations} of {} bytes are of layers:\n{m}", m.planned);
    let text = m.to_string();
    for word in ["weights", "gradients", "activations", "conv2", "together", "account.rs:"] {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
    let summary = trainer(device, "cnn", cnn, Sgd::new(0.1))?.summary(16)?;
    let row = summary.lines().find(|l| l.starts_with("bn1")).ok_or("no bn1 in the summary")?;
    assert!(row.contains("[16, 6, 8, 8]"), "{row}");
    Ok(())
}

fn before(device: &Device) -> Check {
    let g = Graph::training();
    let loss = mlp(g.input([32, 64])).cross_entropy(g.labels([32]));
    // Other trials make buffers at the same time, so this trial opens its own GPU.
    let own = if device.as_gpu().is_some() { fresh(device)? } else { device.clone() };
    let device = &own;
    let made = || device.as_gpu().map(|gpu| gpu.buffers_made());
    let then = made();
    let memory = Memory::of(device, loss, Adam::new(1e-3))?;
    assert_eq!(made(), then);
    let h = Graph::training();
    let wrong = Memory::of(device, h.input([3]), Adam::new(1e-3)).unwrap_err().to_string();
    assert_eq!(Trainer::new(device, loss, Adam::new(1e-3))?.memory(7)?, memory);
    assert!(wrong.contains("a loss is one number"), "{wrong}");
    // The trainer of the same model for data has the accuracy besides.
    let other = trainer(device, "mlp", mlp, Adam::new(1e-3))?.memory(32)?;
    assert_eq!((other.weights, other.gradients, other.inputs), (memory.weights, memory.gradients, memory.inputs));
    Ok(())
}

fn budget(device: &Device) -> Check {
    for (name, model) in MODELS {
        let trainer = trainer(device, name, model, Adam::new(1e-3))?;
        for bytes in [1u64 << 20, 10_000_000, 1 << 30] {
            let started = Instant::now();
            let most = trainer.max_batch(Some(bytes))?;
            println!("{name} in {bytes} bytes: {most} samples, found in {:?}", started.elapsed());
            // A step takes less than an epoch with its validation, but not by much; or a limit of the device comes first.
            let over = trainer.memory(6 * (most + 1));
            assert!(trainer.memory(most)?.total() <= bytes, "{name}: {most} samples do not fit in {bytes}");
            assert!(matches!(&over, Ok(m) if m.total() > bytes) || matches!(over, Err(Error::Limit { .. })), "{name}: {most}");
        }
        let error = trainer.max_batch(Some(20_000)).unwrap_err();
        assert!(matches!(error, Error::Limit { limit: 20_000, .. }), "{error}");
        // The memory of the machine, or of the device, is known on Linux.
        if cfg!(target_os = "linux") {
            let all = device.memory_bytes().ok_or("how much memory it has is not known")?;
            assert!(all >= 64 << 20, "{all} bytes of memory");
            assert!(trainer.max_batch(None)? >= 1000);
        }
    }
    Ok(())
}

/// Small limits, set on purpose: the largest batch runs, one more is refused, by the planner and by the device.
fn by_limit() -> Check {
    for (buffer, binding) in [(1u64 << 20, 1u64 << 20), (1 << 20, 64 << 10), (200 << 10, 200 << 10)] {
        let limits = Limits { max_buffer_bytes: buffer, max_binding_bytes: binding, ..small_limits(8) };
        let device = match Device::open(&GpuOptions {
            limits: Some(limits),
            choice: Choice::Expected,
            features: false,
            software: true,
            ..GpuOptions::default()
        }) {
            Err(Error::NoAdapter { .. }) if std::env::var("CI").as_deref() != Ok("true") => return Ok(()),
            opened => opened?,
        };
        for (name, model) in MODELS {
            let mut trainer = trainer(&device, name, model, Adam::new(1e-3))?;
            let started = Instant::now();
            let most = trainer.max_batch(Some(1 << 40))?;
            println!("{name}, buffers of {buffer}, bindings of {binding}: {most} samples, found in {:?}", started.elapsed());
            assert!(most > 8, "{name}: only {most}");
            trainer.step(&batch(name, most)?)?;
            assert!(trainer.loss()?.is_finite());
            let planned = trainer.memory(most + 1).unwrap_err();
            let refused = trainer.step(&batch(name, most + 1)?).unwrap_err();
            assert!(matches!(planned, Error::Limit { .. }), "{planned}");
            assert_eq!(planned.to_string(), refused.to_string());
        }
    }
    Ok(())
}

fn requests(device: &Device) -> Check {
    let g = Graph::training();
    let one = Trainer::new(device, mlp(g.input([4, 64])).cross_entropy(g.labels([4])), Sgd::new(0.1))?;
    let error = one.max_batch(Some(1 << 30)).unwrap_err().to_string();
    assert!(error.starts_with("max_batch: this trainer was made of one graph"), "{error}");
    let data = trainer(device, "mlp", mlp, Sgd::new(0.1))?;
    assert_eq!(data.memory(0).unwrap_err().to_string(), "memory: a batch has at least one sample");
    Ok(())
}
