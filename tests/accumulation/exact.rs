//! Micro-batches against whole batches, and against themselves.

use crate::{classifier, cnn, common::*, cut, digits, fresh, mlp, rows};
use downhill::{
    Device, Error, Event, Fit, Graph, Host, Tensor, Trainer,
    data::{self, Augment, Dataset, Target},
    gpu::Counters,
    init::Init,
    losses,
    optim::{Adam, AdamW, Lamb, Lars, Optimizer, Sgd},
    testing,
};
use std::{cell::Cell, ops::ControlFlow};

/// The results of a run that are compared.
struct Run {
    weights: Vec<(String, Host<f32>)>,
    reports: Vec<downhill::StepReport>,
    history: downhill::History,
    events: usize,
}

fn run(mut trainer: Trainer, data: &Dataset, fit: Fit) -> Result<Run, Error> {
    let events = Cell::new(0);
    let count = |event: &Event| {
        events.set(events.get() + usize::from(matches!(event, Event::Step { .. })));
        ControlFlow::Continue(())
    };
    let history = trainer.fit(data, fit.callback(count))?;
    Ok(Run { weights: trainer.params().all()?, reports: trainer.take_reports()?, history, events: events.get() })
}

/// How far apart two vectors are, as a part of their length.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(1e-30)
}

/// The run in parts is the whole one: each tensor of weights to a part in 100,000, and what is reported.
fn like(what: &str, parts: &Run, whole: &Run) -> Check {
    for ((name, a), (_, b)) in parts.weights.iter().zip(&whole.weights) {
        let far = apart(&a.to_f64(), &b.to_f64());
        assert!(far <= 1e-5, "{what}: {name} is {far:.1e} apart");
    }
    assert_eq!((parts.reports.len(), parts.events), (whole.reports.len(), whole.events), "{what}");
    for (a, b) in parts.reports.iter().zip(&whole.reports) {
        assert_eq!((a.step, a.samples), (b.step, b.samples), "{what}");
        let near = |a: f32, b: f32| (a - b).abs() <= 2e-5 * b.abs();
        assert!(near(a.loss, b.loss) && near(a.grad_norm, b.grad_norm) && near(a.grad_max, b.grad_max), "{what}: {a:?}, not {b:?}");
        let share = |share: Option<f32>| share.map(|share| (share * 1e5).round());
        assert_eq!(share(a.accuracy), share(b.accuracy), "{what}");
    }
    for (a, b) in parts.history.epochs.iter().zip(&whole.history.epochs) {
        assert!((a.loss - b.loss).abs() <= 2e-5 * b.loss.abs(), "{what}: an epoch's loss of {}, not {}", a.loss, b.loss);
        assert_eq!(a.losses.len(), b.losses.len(), "{what}");
        assert!(a.accuracy.is_none() && b.accuracy.is_none() || (a.accuracy.unwrap() - b.accuracy.unwrap()).abs() < 1e-6, "{what}");
    }
    Ok(())
}

/// All ways to cut batches of 48 against whole ones: 20 steps over 240 samples; 230, so that the last batch is short; fewer samples than a
/// batch has.
fn ways(what: &str, data: &Dataset, new: &dyn Fn() -> Result<Trainer, Error>, all: bool) -> Check {
    let of = |n: usize| data.subset(&(0..n).collect::<Vec<_>>());
    let (even, ragged, few) = (of(240)?, of(230)?, of(40)?);
    let whole = run(new()?, &even, Fit::new().epochs(4).batch_size(48))?;
    assert_eq!(whole.reports.len(), 20);
    assert!(whole.reports[19].loss < 0.97 * whole.reports[0].loss, "{what} learns nothing: {:?}", whole.reports[19]);
    let part = |fit: Fit| run(new()?, &even, fit.epochs(4));
    like(&format!("{what}, 48 in 16"), &part(cut(48, 16))?, &whole)?;
    like(&format!("{what}, 48 in 20, 20 and 8"), &part(cut(48, 20))?, &whole)?;
    if all {
        like(&format!("{what}, three of 16"), &part(Fit::new().batch_size(16).accumulate(3))?, &whole)?;
        like(&format!("{what}, three of 16, in 7"), &part(Fit::new().batch_size(16).accumulate(3).micro_batch(7))?, &whole)?;
        like(&format!("{what}, one of 48"), &part(Fit::new().batch_size(48).accumulate(1).micro_batch(48))?, &whole)?;
        let whole = run(new()?, &few, Fit::new().epochs(20).batch_size(1000))?;
        like(&format!("{what}, more than there are"), &run(new()?, &few, cut(1000, 16).epochs(20))?, &whole)?;
        let none = run(new()?, &few, cut(1000, 64).epochs(20))?;
        assert_eq!((none.history.micro_batch, whole.reports.len()), (None, 20), "all of it is less than a micro-batch");
        assert!(bits_of(&none) == bits_of(&whole));
    }
    let whole = run(new()?, &ragged, Fit::new().epochs(4).batch_size(48))?;
    assert_eq!(whole.reports.iter().map(|r| r.samples).take(6).collect::<Vec<_>>(), [48, 48, 48, 48, 38, 48]);
    like(&format!("{what}, 38 left, in 16"), &run(new()?, &ragged, cut(48, 16).epochs(4))?, &whole)?;
    let whole = run(new()?, &ragged, Fit::new().epochs(5).batch_size(48).drop_last(true))?;
    assert_eq!(whole.reports.len(), 20);
    like(&format!("{what}, 38 left out"), &run(new()?, &ragged, cut(48, 20).epochs(5).drop_last(true))?, &whole)
}

fn bits_of(run: &Run) -> Vec<Vec<u32>> {
    run.weights.iter().map(|(_, w)| bits(w.f())).collect()
}

/// λ·Σ w² over all parameters.
fn penalty<'g>(y: Tensor<'g>) -> Tensor<'g> {
    let all = y.graph().param_tensors();
    all.into_iter().map(|w| w.square().sum_all()).reduce(|a, b| a + b).expect("there are parameters") * 1e-2
}

fn adam() -> Optimizer {
    Adam::new(3e-3).eps(1e-4).clip_norm(0.7).clip_value(0.05)
}

pub fn plain(device: &Device) -> Check {
    let data = digits(240);
    ways("Adam", &data, &|| classifier(device, adam()), true)?;
    ways("AdamW", &data, &|| classifier(device, AdamW::new(3e-3).eps(1e-4).clip_norm(0.7)), false)?;
    let sgd = || Sgd::new(0.1).momentum(0.9).nesterov(true).weight_decay(1e-3).clip_value(0.02);
    ways("SGD", &data, &|| classifier(device, sgd()), false)?;
    ways("LAMB", &data, &|| classifier(device, Lamb::new(0.01).eps(1e-4).trust_clip(true)), false)?;
    ways("LARS", &data, &|| classifier(device, Lars::new(2.0).momentum(0.9).weight_decay(1e-3).trust_coeff(0.01)), false)?;
    let new = || Trainer::for_data(device, &data, mlp, |y, t| y.cross_entropy(t) + penalty(y), Sgd::new(0.1).momentum(0.9));
    ways("a penalty on parameters", &data, &new, false)
}

/// Digits with ten numbers to predict and a weight for each sample: some are 0, and so are all of some micro-batches in order.
fn with_weights(n: usize) -> Result<Dataset, Error> {
    let (x, y) = digits(n).batch(&(0..n).collect::<Vec<_>>())?;
    let target = |i: usize| {
        let weight = if i / 16 % 3 == 1 { 0.0 } else { (i % 5) as f32 * 0.75 };
        (0..10).map(move |k| (k as f32 * 0.3).cos()).chain([weight])
    };
    let mut values: Vec<f32> = (0..n).flat_map(target).collect();
    y.u().iter().enumerate().for_each(|(i, &label)| values[11 * i + label as usize] += 1.0);
    Dataset::new(x.f().to_vec(), [64], Target::values([11], values))
}

fn weighted_mse<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
    let n = t.dim(0);
    losses::mse(y, t.slice(1, 0, 10)).sample_weights(t.slice(1, 10, 11).reshape([n])).mean()
}

pub fn weighted(device: &Device) -> Check {
    let data = digits(240);
    type Loss = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;
    let ignored: Loss = |y, t| losses::cross_entropy(y, t).ignore_index(3).mean();
    let classes: Loss = |y, t| {
        let weights = y.graph().constant(Host::new([10], (1..11).map(|w| w as f32 / 4.0).collect()));
        losses::cross_entropy(y, t).class_weights(weights).mean() + penalty(y)
    };
    let both: Loss = |y, t| {
        let weights = y.graph().constant(Host::new([10], (1..11).map(|w| w as f32 / 4.0).collect()));
        losses::cross_entropy(y, t).class_weights(weights).ignore_index(7).mean() * 0.5 + 0.25
    };
    ways("ignored labels", &data, &|| Trainer::for_data(device, &data, mlp, ignored, adam()), false)?;
    ways("weights of classes, a penalty", &data, &|| Trainer::for_data(device, &data, mlp, classes, adam()), true)?;
    let sgd = || Sgd::new(0.1).momentum(0.9);
    ways("weights and ignored labels", &data, &|| Trainer::for_data(device, &data, mlp, both, sgd()), false)?;
    let data = with_weights(240)?;
    ways("weights of samples", &data, &|| Trainer::for_data(device, &data, mlp, weighted_mse, adam()), false)
}

pub fn convolutions(device: &Device) -> Check {
    let data = digits(240).reshape([1, 8, 8])?;
    ways("a CNN", &data, &|| Trainer::for_data(device, &data, cnn, |y, t| y.cross_entropy(t), adam()), false)
}

/// Four buffers for a kernel, and pieces of 64 KiB.
pub fn few_bindings(device: &Device) -> Check {
    let data = digits(240);
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("fc1", 150).tanh().linear("fc2", 100).tanh().linear("fc3", 10)
    }
    let new = || Trainer::for_data(device, &data, model, |y, t| y.cross_entropy(t), Sgd::new(0.1).momentum(0.9).clip_norm(1.0));
    ways("SGD in pieces", &data, &new, false)
}

/// Micro-batches that weigh nothing: one, the first ones, the last ones, all; a penalty on parameters counts all the same.
pub fn weights_of_zero(device: &Device) -> Check {
    let data = with_weights(48)?;
    fn loss<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        weighted_mse(y, t) + penalty(y)
    }
    for weigh in [[false, true, true], [true, false, true], [true, true, false], [false, false, true], [true, false, false], [false; 3]] {
        let mut batches: Vec<[Host<f32>; 2]> = Vec::new();
        for (k, weigh) in weigh.into_iter().enumerate() {
            let [x, mut y] = rows(&data, 16 * k..16 * (k + 1))?;
            y.view_mut().f.chunks_mut(11).enumerate().for_each(|(i, row)| row[10] = if weigh { 0.5 + (i % 3) as f32 } else { 0.0 });
            batches.push([x, y]);
        }
        let whole = [0, 1].map(|i| {
            let values: Vec<f32> = batches.iter().flat_map(|b| b[i].f().to_vec()).collect();
            Host::new([48, values.len() / 48], values)
        });
        let new = || Trainer::for_data(device, &data, mlp, loss, Sgd::new(0.1).momentum(0.9));
        let (mut a, mut b) = (new()?, new()?);
        for _ in 0..3 {
            a.step(&whole)?;
            b.accumulate(&batches[0])?;
            b.accumulate(&batches[1])?;
            b.step(&batches[2])?;
        }
        let (a, b) = ((a.take_reports()?, a.params().all()?), (b.take_reports()?, b.params().all()?));
        for (a, b) in a.0.iter().zip(&b.0) {
            assert!((a.loss - b.loss).abs() <= 1e-5 * a.loss && a.grad_norm > 0.0, "{weigh:?}: {b:?}, not {a:?}");
            assert!((a.grad_norm - b.grad_norm).abs() <= 1e-5 * a.grad_norm, "{weigh:?}: {b:?}, not {a:?}");
        }
        for ((name, a), (_, b)) in a.1.iter().zip(&b.1) {
            let far = apart(&b.to_f64(), &a.to_f64());
            assert!(far <= 1e-5, "{weigh:?}: {name} is {far:.1e} apart");
        }
    }
    Ok(())
}

/// The same micro-batches from data on the device, from the host, by any number of a submit, and one by one.
pub fn same_bits(device: &Device) -> Check {
    let images = data::digits().reshape([1, 8, 8])?.subset(&(0..517).collect::<Vec<_>>())?;
    let augment = Augment { horizontal_flip: 0.5, vertical_flip: 0.1, crop_padding: 1 };
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.flatten().linear("fc1", 32).relu().dropout(0.2).linear("fc2", 10)
    }
    for augment in [None, Some(augment)] {
        let new = || Trainer::for_data(device, &images, model, |y, t| y.cross_entropy(t), Adam::new(3e-3).clip_norm(5.0))?.seed(3);
        let fit = || {
            let fit = cut(60, 16).epochs(2);
            if let Some(augment) = augment { fit.augment(augment) } else { fit }
        };
        let run = |fit: Fit| -> Result<_, Error> {
            let mut trainer = new()?;
            let losses: Vec<u32> = trainer.fit(&images, fit)?.epochs.iter().flat_map(|e| bits(&e.losses)).collect();
            Ok((losses, weights(&trainer)?))
        };
        let want = run(fit().steps_per_submit(1))?;
        assert_eq!(want.0.len(), 2 * 9);
        assert!(want.0[0] != want.0[9], "it learns nothing");
        assert!(run(fit().steps_per_submit(1))? == want, "again");
        assert!(run(fit().steps_per_submit(7))? == want, "seven micro-batches in a submit");
        assert!(run(fit().steps_per_submit(64))? == want, "64 micro-batches in a submit");
        assert!(run(fit())? == want, "as many as it takes");
        assert!(run(fit().resident(0))? == want, "from the host");
        assert!(run(fit().micro_batch(20))? != want, "other micro-batches have other masks");
        if augment.is_none() {
            let mut trainer = new()?;
            for epoch in 0..2 {
                for batch in data::batches(&data::shuffled(517, 3, epoch), 60)? {
                    let parts: Vec<&[usize]> = batch.chunks(16).collect();
                    for (k, part) in parts.iter().enumerate() {
                        let (x, y) = images.batch(part)?;
                        if k + 1 < parts.len() { trainer.accumulate(&[x, y])? } else { trainer.step(&[x, y])? }
                    }
                }
            }
            let losses: Vec<u32> = trainer.take_reports()?.iter().map(|r| r.loss.to_bits()).collect();
            assert!((losses, weights(&trainer)?) == want, "one by one");
        }
    }
    Ok(())
}

/// Micro-batches of any sizes, in any order, with steps on whole batches between; a graph of one's own as well.
pub fn lower_level(device: &Device) -> Check {
    let data = digits(96);
    let (mut a, mut b) = (classifier(device, adam())?, classifier(device, adam())?);
    for _ in 0..3 {
        a.step(&rows(&data, 0..50)?)?;
        for part in [0..3, 3..30, 30..31, 31..33] {
            b.accumulate(&rows(&data, part)?)?;
        }
        b.step(&rows(&data, 33..50)?)?;
        let (a_all, b_all) = (a.gradient("fc1.weight")?, b.gradient("fc1.weight")?);
        assert!(apart(&b_all.to_f64(), &a_all.to_f64()) < 1e-5, "the gradient of the whole batch");
        [&mut a, &mut b].map(|t| t.step(&rows(&data, 50..96).expect("there are that many"))).into_iter().collect::<Result<(), _>>()?;
    }
    assert_eq!((a.steps(), b.steps()), (6, 6));
    let (x, y) = (a.take_reports()?, b.take_reports()?);
    for (x, y) in x.iter().zip(&y) {
        assert_eq!((x.step, x.samples), (y.step, y.samples));
        assert!((x.loss - y.loss).abs() <= 1e-5 * x.loss);
    }
    for ((name, a), (_, b)) in a.params().all()?.iter().zip(&b.params().all()?) {
        assert!(apart(&b.to_f64(), &a.to_f64()) < 1e-5, "{name}");
    }
    let of = |n: usize| -> Result<Trainer, Error> {
        let g = Graph::training();
        Trainer::new(device, mlp(g.input([n, 64])).cross_entropy(g.labels([n])) + penalty(g.scalar(0.0)), adam())
    };
    let (mut a, mut b) = (of(48)?, of(16)?);
    for _ in 0..3 {
        a.step(&rows(&data, 0..48)?)?;
        b.accumulate(&rows(&data, 0..16)?)?;
        b.accumulate(&rows(&data, 16..32)?)?;
        b.step(&rows(&data, 32..48)?)?;
    }
    for ((name, a), (_, b)) in a.params().all()?.iter().zip(&b.params().all()?) {
        assert!(apart(&b.to_f64(), &a.to_f64()) < 1e-5, "{name} of a graph of one's own");
    }
    assert_eq!(b.take_reports()?.iter().map(|r| r.samples).collect::<Vec<_>>(), [48; 3]);
    Ok(())
}

/// The gradient of Σ w·dropout(1) is the mask, so that of three micro-batches is the mean of three masks.
pub fn dropout(device: &Device) -> Check {
    let masks = |device: &Device, parts: usize, steps: usize| -> Result<Vec<f32>, Error> {
        let g = Graph::training();
        let x = g.input([8, 32]);
        let mut trainer =
            Trainer::new(device, (x.dropout(0.5) * g.param("w", [8, 32], Init::Ones)).sum_all(), Sgd::new(0.0625))?.seed(9)?;
        let ones = [Host::new([8, 32], vec![1.0; 256])];
        for _ in 0..steps {
            (1..parts).try_for_each(|_| trainer.accumulate(&ones))?;
            trainer.step(&ones)?;
        }
        Ok(trainer.gradient("w")?.f().to_vec())
    };
    let (one, two, next) = (masks(device, 1, 1)?, masks(device, 2, 1)?, masks(device, 1, 2)?);
    assert!(one.iter().all(|m| [0.0, 2.0].contains(m)) && two.iter().all(|m| [0.0, 1.0, 2.0].contains(m)));
    // The first micro-batch has the mask of a whole batch; the second one another, which is not that of the next step either.
    let second: Vec<f32> = two.iter().zip(&one).map(|(two, one)| 2.0 * two - one).collect();
    let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    for (a, b) in [(&second, &one), (&second, &next), (&one, &next)] {
        assert!((88..168).contains(&differ(a, b)), "{} of 256 differ", differ(a, b));
    }
    assert!(second.iter().all(|m| [0.0, 2.0].contains(m)));
    // A third one differs from both, and other devices draw the same.
    let three = masks(device, 3, 2)?;
    let cpu = masks(&Device::cpu(), 3, 2)?;
    testing::close(&three.iter().map(|&m| f64::from(m)).collect::<Vec<_>>(), &cpu.iter().map(|&m| f64::from(m)).collect::<Vec<_>>(), 3)?;
    let thirds = three.iter().filter(|m| [1, 2].contains(&((*m * 1.5).round() as usize))).count();
    assert!((160..224).contains(&thirds), "{thirds} of 256 are in some masks, but not in all");
    Ok(())
}

/// running ← 0.9·running + 0.1·statistic, once a micro-batch, with the unbiased variance.
pub fn running_averages(device: &Device) -> Check {
    let x: Vec<f32> = (0..46).map(|i| (i as f32 * 0.7).sin() * 2.0 + 0.5).collect();
    let data = Dataset::new(x.clone(), [2], Target::values([1], x[..23].to_vec()))?;
    let mut trainer = Trainer::for_data(device, &data, |x| x.batch_norm("bn").linear("fc", 1), |y, t| y.mse(t), Sgd::new(0.1))?;
    // 8, of 3, 3 and 2; 8; 7, of 3 and 4, because one is left.
    trainer.fit(&data, cut(8, 3).shuffle(false))?;
    let (mut mean, mut var) = ([0.0f64; 2], [1.0f64; 2]);
    for part in [0..3, 3..6, 6..8, 8..11, 11..14, 14..16, 16..19, 19..23] {
        let n = part.len() as f64;
        for c in 0..2 {
            let of: Vec<f64> = part.clone().map(|i| f64::from(x[2 * i + c])).collect();
            let m = of.iter().sum::<f64>() / n;
            let v = of.iter().map(|x| (x - m) * (x - m)).sum::<f64>() / (n - 1.0);
            (mean[c], var[c]) = (0.9 * mean[c] + 0.1 * m, 0.9 * var[c] + 0.1 * v);
        }
    }
    testing::close(&trainer.params().get("bn.running_mean")?.to_f64(), &mean, 16)?;
    testing::close(&trainer.params().get("bn.running_var")?.to_f64(), &var, 16)?;
    assert_eq!(trainer.take_reports()?.iter().map(|r| r.samples).collect::<Vec<_>>(), [8, 8, 7]);
    Ok(())
}

/// One sample that is left joins the micro-batch before it where the model takes no batch of one, and is one of its own elsewhere.
pub fn one_left(device: &Device) -> Check {
    let data = digits(49);
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("fc1", 24).batch_norm("bn").relu().linear("fc2", 10)
    }
    let new = || Trainer::for_data(device, &data, model, |y, t| y.cross_entropy(t), Sgd::new(0.1).momentum(0.9));
    // 17 in 8 and 9; 49 in batches of 48, the last of which takes the one that is left: 16, 16 and 17.
    for (batch, micro, steps) in [(17, 8, vec![vec![8, 9], vec![8, 9], vec![8, 7]]), (48, 16, vec![vec![16, 16, 17]])] {
        let mut fitted = new()?;
        fitted.fit(&data, cut(batch, micro).shuffle(false))?;
        let (mut by_hand, mut first) = (new()?, 0);
        for sizes in &steps {
            for (k, &size) in sizes.iter().enumerate() {
                let batch = rows(&data, first..first + size)?;
                if k + 1 < sizes.len() {
                    by_hand.accumulate(&batch)?
                } else {
                    by_hand.step(&batch)?
                }
                first += size;
            }
        }
        assert_eq!(first, 49);
        assert!(weights(&fitted)? == weights(&by_hand)?, "{batch} in {micro}");
        assert_eq!(fitted.take_reports()?, by_hand.take_reports()?);
    }
    let error = new()?.fit(&data, cut(48, 1)).unwrap_err();
    assert!(matches!(error, Error::Op { .. }), "{error}");
    assert!(error.to_string().contains("The model does not accept micro-batches of 1"), "{error}");
    let mut plain = classifier(device, Sgd::new(0.1))?;
    plain.fit(&data, cut(48, 47))?;
    assert_eq!(plain.take_reports()?.iter().map(|r| r.samples).collect::<Vec<_>>(), [48, 1]);
    Ok(())
}

/// Reports of steps, of epochs and by callbacks are of whole steps.
pub fn reports(device: &Device) -> Check {
    let data = digits(100);
    let (mut heard, mut epochs) = (Vec::new(), 0);
    let mut trainer = classifier(device, Sgd::new(0.0625))?;
    let hear = |event: &Event| {
        match event {
            Event::Step { epoch, step, steps } => heard.push((*epoch, *step, *steps)),
            Event::Epoch(_) => epochs += 1,
        }
        ControlFlow::Continue(())
    };
    let history = trainer.fit(&data, Fit::new().batch_size(10).accumulate(4).micro_batch(7).epochs(2).callback(hear))?;
    assert_eq!(heard, [(1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 1, 3), (2, 2, 3), (2, 3, 3)]);
    assert_eq!((epochs, trainer.steps(), history.micro_batch), (2, 6, Some(7)));
    let reports = trainer.take_reports()?;
    assert_eq!(reports.iter().map(|r| (r.step, r.samples)).collect::<Vec<_>>(), [(0, 40), (1, 40), (2, 20), (3, 40), (4, 40), (5, 20)]);
    for (epoch, steps) in history.epochs.iter().zip(reports.chunks(3)) {
        let mean =
            |of: &dyn Fn(&downhill::StepReport) -> f32| steps.iter().map(|r| f64::from(of(r)) * r.samples as f64).sum::<f64>() / 100.0;
        testing::close(&[epoch.loss, epoch.accuracy.ok_or("a classifier")?], &[mean(&|r| r.loss), mean(&|r| r.accuracy.unwrap())], 16)?;
        assert_eq!(epoch.losses, steps.iter().map(|r| r.loss).collect::<Vec<_>>());
    }
    // A callback ends it between steps, never within one.
    let stop =
        |event: &Event| if matches!(event, Event::Step { step: 2, .. }) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let history = trainer.fit(&data, cut(40, 7).steps_per_submit(64).callback(stop))?;
    assert_eq!((trainer.steps(), history.stopped, trainer.take_reports()?.len()), (8, true, 2));
    trainer.fit(&data, cut(40, 7))?;
    assert!((trainer.loss()? - trainer.take_reports()?.last().ok_or("a step")?.loss).abs() == 0.0);
    Ok(())
}

/// In an epoch of accumulated steps nothing is read before its end, nothing is made, and what goes up is an order and rows.
pub fn costs(device: &Device) -> Check {
    let device = &fresh(device)?;
    let data = digits(512);
    let mut trainer = classifier(device, Adam::new(1e-3))?;
    let fit = || cut(128, 16).steps_per_submit(64);
    trainer.fit(&data, fit())?;
    let mut counted = |fit: Fit, epochs: u64| -> Result<Counters, Error> {
        let before = trainer.counters().expect("a GPU counts");
        trainer.fit(&data, fit.epochs(epochs as usize))?;
        let after = trainer.counters().expect("a GPU counts");
        let allocations = after.allocations - before.allocations;
        assert_eq!(allocations, 0, "nothing is made");
        Ok(Counters {
            steps: after.steps - before.steps,
            submits: after.submits - before.submits,
            dispatches: after.dispatches - before.dispatches,
            reads: after.reads - before.reads,
            waits: after.waits - before.waits,
            bytes_uploaded: after.bytes_uploaded - before.bytes_uploaded,
            ..Counters::default()
        })
    };
    // 32 micro-batches an epoch, in one submit.
    let seen = counted(fit(), 3)?;
    assert_eq!((seen.steps, seen.submits, seen.reads, seen.waits), (96, 3, 3, 3));
    assert!(seen.bytes_uploaded <= 3 * (4 * (512 + 2) + 32 * 512), "{} bytes", seen.bytes_uploaded);
    let dispatches = seen.dispatches / 3;
    let seen = counted(fit().steps_per_submit(1), 1)?;
    assert_eq!((seen.steps, seen.submits, seen.reads, seen.waits, seen.dispatches), (32, 32, 1, 1, dispatches));
    // The first seven of eight lack what only the last one does: the check, the trial and the update. Two more fetch the samples.
    let mut alone = |last: bool| -> Result<u64, Error> {
        let before = trainer.counters().expect("a GPU counts");
        let batch = rows(&data, 0..16)?;
        if last {
            trainer.step(&batch)?
        } else {
            trainer.accumulate(&batch)?
        }
        let after = trainer.counters().expect("a GPU counts");
        assert_eq!((after.submits - before.submits, after.reads, after.allocations), (1, before.reads, before.allocations));
        Ok(after.dispatches - before.dispatches)
    };
    let (first, last) = (alone(false)?, alone(true)?);
    assert_eq!((dispatches, last - first), (4 * (7 * first + last) + 64, 4));
    Ok(())
}
