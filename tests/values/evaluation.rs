//! Losses, accuracies and outputs of fit and evaluate, over batches of any size.

use crate::common::{BOTH, Check, Suite, small_limits};
use downhill::{
    Device, Error, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{Dataset, Target},
    gpu::{Choice, GpuOptions, Limits},
    init::Init,
    losses::{self, weighted_mean},
    optim::Sgd,
    testing::close,
};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "evaluation/outputs of any shape", any_shape);
    suite.each(&BOTH, "evaluation/accuracy by structure", accuracy_by_structure);
    suite.each(&BOTH, "evaluation/outputs are joined", joined);
    suite.each(&BOTH, "evaluation/class weights", class_weights);
    suite.each(&BOTH, "evaluation/sums of terms", sums_of_terms);
    suite.each(&BOTH, "evaluation/batches without weight", no_weight);
    suite.each(&BOTH, "evaluation/labels that are ignored", ignored);
    suite.each(&BOTH, "evaluation/NaN is not right", nan_is_wrong);
    suite.each(&BOTH, "evaluation/rows with NaN", correct_rows);
    suite.each(&BOTH, "evaluation/what fits a small device", small_device);
}

/// `n` samples of `t` tokens with a label of three classes each; token and label differ from place to place.
fn sequences(n: usize, t: usize) -> Result<Dataset, Error> {
    let tokens: Vec<u32> = (0..n * t).map(|i| (i * 5 % 7) as u32).collect();
    let labels = (0..n * t).map(|i| (i * i % 3) as u32).collect();
    Dataset::tokens(tokens, [t], 7, Target::labels_per([t], labels, 3))
}

/// Scores of three classes: all 0, or those of a table.
fn scores<'g>(x: Tensor<'g>, zero: bool) -> Tensor<'g> {
    let table = if zero { Init::Zeros } else { Init::Values((0..21).map(|i| (i as f32 * 0.9).sin()).collect::<Vec<_>>().into()) };
    x.graph().param("table", [7, 3], table).gather_rows(x)
}

/// A model whose weights do not move.
fn still(device: &Device, data: &Dataset, model: Model, loss: Loss) -> Result<Trainer, Error> {
    // Steps too small for any float.
    Trainer::for_data(device, data, model, loss, Sgd::new(1e-30).clip_norm(1e-20))
}

type Model = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
type Loss = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

/// Loss and accuracy of an epoch, of its validation, and of an evaluation, with batches of that size.
fn three(trainer: &mut Trainer, data: &Dataset, batch: usize) -> Result<[(f64, Option<f64>); 3], Error> {
    trainer.set_evaluation_batch(batch)?;
    let epoch = trainer.fit(data, Fit::new().batch_size(batch).validation(data))?.epochs.remove(0);
    let e = trainer.evaluate(data)?;
    Ok([(epoch.loss, epoch.accuracy), epoch.validation.expect("there was one"), (e.loss, e.accuracy)])
}

/// The loss is ln 3 if all scores are equal. The axis of the output that counts samples makes no difference.
fn any_shape(device: &Device) -> Check {
    fn rows<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        let n = t.shape().elements();
        y.reshape([n, 3]).cross_entropy(t.reshape([n]))
    }
    fn across<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        rows(y.permute(&[1, 0, 2]), t)
    }
    fn flat(x: Tensor<'_>) -> Tensor<'_> {
        scores(x, true).reshape([x.shape().elements(), 3])
    }
    fn wide(x: Tensor<'_>) -> Tensor<'_> {
        scores(x, true)
    }
    fn turned(x: Tensor<'_>) -> Tensor<'_> {
        scores(x, true).permute(&[1, 0, 2])
    }
    let ln3 = 3f64.ln();
    // Each sample has t = 4 tokens. In some cases a batch, or the last batch, has 4 samples too.
    for n in [4, 6, 8] {
        let data = sequences(n, 4)?;
        let zeros = data.labels().iter().filter(|&&l| l == 0).count() as f64 / (4 * n) as f64;
        let models: [(&str, Model, Loss, Option<f64>); 3] =
            [("flat", flat, rows, None), ("wide", wide, rows, Some(zeros)), ("turned", turned, across, None)];
        for (what, model, loss, accuracy) in models {
            let mut trainer = still(device, &data, model, loss)?;
            for batch in [1, 2, 3, 4, 6, 32] {
                for (got, share) in three(&mut trainer, &data, batch)? {
                    close(&[got], &[ln3], 4 * n).map_err(|e| format!("{what}, {n} samples by {batch}: {e}"))?;
                    assert_eq!(share, accuracy, "{what}, {n} samples by {batch}");
                }
            }
        }
    }
    Ok(())
}

/// There is an accuracy if the output has one score for each class of each label at whatever batch size, and only then.
fn accuracy_by_structure(device: &Device) -> Check {
    // One row of scores for the whole batch: with a last batch of one it looks like a classifier's.
    fn mean(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("fc", 3).mean(&[0], true)
    }
    fn each(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("fc", 3)
    }
    fn two(x: Tensor<'_>) -> Tensor<'_> {
        x.reshape([2, 2]).linear("fc", 3)
    }
    fn against_one<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        let n = t.shape().elements();
        y.broadcast_to([n, 3]).cross_entropy(t)
    }
    fn usual<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        y.cross_entropy(t)
    }
    let x: Vec<f32> = (0..7 * 2).map(|i| (i as f32 * 1.3).cos()).collect();
    let data = Dataset::new(x, [2], Target::labels(vec![0, 1, 2, 0, 1, 2, 0], 3))?;
    for batch in [1, 2, 3, 6, 7] {
        let mut one = still(device, &data, mean, against_one)?;
        assert!(three(&mut one, &data, batch)?.iter().all(|(_, accuracy)| accuracy.is_none()), "by {batch}");
        let mut all = still(device, &data, each, usual)?;
        let out = all.evaluate(&data)?.outputs;
        let want = downhill::train::metrics::accuracy(out.f(), 3, data.labels())?;
        assert!(three(&mut all, &data, batch)?.iter().all(|(_, accuracy)| *accuracy == Some(want)), "by {batch}");
        // A model that takes no more than batches of two is what it is there.
        let even = data.subset(&[0, 1, 2, 3])?;
        let mut pair = Trainer::for_data(device, &even, two, usual, Sgd::new(1e-30))?;
        assert!(three(&mut pair, &even, 2)?.iter().all(|(_, accuracy)| accuracy.is_some()));
        assert_eq!(pair.predict(&even.batch(&[0, 1, 2, 3])?.0)?.shape, Shape::from([4, 3]));
    }
    Ok(())
}

/// All outputs of all batches, in the order of the samples along whatever axis counts them.
fn joined(device: &Device) -> Check {
    fn zero<'g>(y: Tensor<'g>, _: Tensor<'g>) -> Tensor<'g> {
        y.mean_all()
    }
    let data = sequences(5, 4)?;
    let models: [(Model, &[usize]); 4] = [
        (|x| scores(x, false), &[5, 4, 3]),
        (|x| scores(x, false).reshape([x.shape().elements(), 3]), &[20, 3]),
        (|x| scores(x, false).permute(&[1, 0, 2]), &[4, 5, 3]),
        (|x| scores(x, false).permute(&[1, 2, 0]), &[4, 3, 5]),
    ];
    let (x, _) = data.batch(&[0, 1, 2, 3, 4])?;
    for (model, shape) in models {
        let mut trainer = still(device, &data, model, zero)?;
        trainer.set_evaluation_batch(5)?;
        let whole = trainer.predict(&x)?;
        assert_eq!(whole.shape.dims(), shape);
        for batch in [1, 2, 3, 4] {
            trainer.set_evaluation_batch(batch)?;
            let e = trainer.evaluate(&data)?;
            assert_eq!((&e.outputs, &trainer.predict(&x)?), (&whole, &whole), "{shape:?} by {batch}");
            assert_eq!(e.predictions()?.len(), whole.shape.elements() / shape[shape.len() - 1]);
        }
    }
    // An output about the whole batch: its mean over samples, also where it has no axis at all.
    let means: [(Model, &[usize]); 3] = [
        (|x| scores(x, false).mean(&[0], true), &[1, 4, 3]),
        (|x| scores(x, false).mean(&[0], false), &[4, 3]),
        (|x| scores(x, false).mean_all(), &[]),
    ];
    for (model, shape) in means {
        let mut trainer = still(device, &data, model, zero)?;
        trainer.set_evaluation_batch(5)?;
        let whole = trainer.predict(&x)?;
        assert_eq!(whole.shape.dims(), shape);
        trainer.set_evaluation_batch(2)?;
        close(&trainer.predict(&x)?.to_f64(), &whole.to_f64(), 60)?;
    }
    // How alike samples are: two axes grow.
    let mut alike = still(
        device,
        &data,
        |x| scores(x, false).reshape([x.dim(0), 12]).matmul_t(scores(x, false).reshape([x.dim(0), 12]), false, true),
        zero,
    )?;
    alike.set_evaluation_batch(5)?;
    assert_eq!(alike.predict(&x)?.shape, Shape::from([5, 5]));
    alike.set_evaluation_batch(3)?;
    let parts = alike.predict(&x)?;
    assert!(parts.fits(Shape::from([9 + 4])), "{parts:?}");
    Ok(())
}

/// 1,024 samples of class 0 at logits (0, 0) and one of class 1 at (2, 0), weights 1 and 100:
/// (1024·ln 2 + 100·ln(1 + e²)) / 1124.
fn class_weights(device: &Device) -> Check {
    let n = 1025;
    let mut x = vec![0.0; 2 * n];
    x[2 * n - 2] = 2.0;
    let labels = (0..n).map(|i| u32::from(i == n - 1)).collect();
    let data = Dataset::new(x, [2], Target::labels(labels, 2))?;
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x * x.graph().param("w", [], Init::Ones)
    }
    fn loss<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        losses::cross_entropy(y, t).class_weights(y.graph().constant(Host::new([2], vec![1.0, 100.0]))).mean()
    }
    let want = (1024.0 * 2f64.ln() + 100.0 * (1.0 + 2f64.exp()).ln()) / 1124.0;
    assert!((want - 0.820708).abs() < 1e-6);
    let mut trainer = still(device, &data, model, loss)?;
    for batch in [64, 1000, 1024, 1025] {
        for (got, accuracy) in three(&mut trainer, &data, batch)? {
            close(&[got], &[want], n).map_err(|e| format!("by {batch}: {e}"))?;
            assert_eq!(accuracy, Some(1024.0 / 1025.0));
        }
    }
    // Steps that nobody evaluates say what their batch has; an epoch from the host is the same.
    let epoch = trainer.fit(&data, Fit::new().batch_size(100).resident(0).shuffle(false))?.epochs.remove(0);
    close(&[epoch.loss], &[want], n)?;
    Ok(close(&[f64::from(epoch.losses[0])], &[2f64.ln()], 100)?)
}

/// Σ k·(a weighted mean) + plain means + numbers + a penalty, however it is written; against one batch of everything.
fn sums_of_terms(device: &Device) -> Check {
    let n = 23;
    let x: Vec<f32> = (0..3 * n).map(|i| (i as f32 * 0.71).sin() * 2.0).collect();
    let labels = (0..n).map(|i| (i * i % 3) as u32).collect();
    let data = Dataset::new(x, [3], Target::labels(labels, 3))?;
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("fc", 3)
    }
    fn weighted<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        losses::cross_entropy(y, t).class_weights(y.graph().constant(Host::new([3], vec![0.1, 1.0, 20.0]))).mean()
    }
    /// By the label, so that every batch has others.
    fn by_sample<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        losses::mse(y, y * 0.0 + 1.0).sample_weights(t.to_f32().square()).mean()
    }
    fn penalty(y: Tensor<'_>) -> Tensor<'_> {
        y.graph().param("fc.weight", [3, 3], Init::Zeros).square().sum_all() * 1e-2
    }
    let all: [(&str, Loss); 9] = [
        ("one", |y, t| weighted(y, t)),
        ("two", |y, t| weighted(y, t) + by_sample(y, t) * 0.25),
        ("with plain ones", |y, t| weighted(y, t) + y.square().mean_all() * 0.1 + penalty(y)),
        ("minus", |y, t| 2.0 - (-weighted(y, t)) / 4.0 - by_sample(y, t)),
        ("scalars", |y, t| y.graph().scalar(0.5) * weighted(y, t) + y.graph().constant(Host::new([1], vec![3.0])) * by_sample(y, t)),
        ("twice", |y, t| {
            let a = weighted(y, t);
            a + a * 0.5 + (a + by_sample(y, t)) * 2.0
        }),
        ("reshaped", |y, t| (weighted(y, t).reshape([1]) * 3.0).sum_all() + y.abs().mean_all()),
        ("many", |y, t| (0..200).fold(by_sample(y, t), |sum, _| sum + weighted(y, t) * 0.01)),
        ("of one's own", |y, t| {
            let w = t.to_f32() + 0.5;
            weighted_mean((y.square().sum(&[-1], false) * w).sum_all(), w.sum_all()) * 0.5 + 1.0
        }),
    ];
    for (what, loss) in all {
        let mut trainer = still(device, &data, model, loss)?.seed(2)?;
        let want = trainer.fit(&data, Fit::new().batch_size(n))?.epochs[0].losses[0];
        for batch in [1, 2, 5, 8, 22, 23] {
            for (got, _) in three(&mut trainer, &data, batch)? {
                close(&[got], &[f64::from(want)], 10 * n).map_err(|e| format!("{what} by {batch}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// A batch whose weights are all 0 counts for nothing, and so do all of them: 0.
fn no_weight(device: &Device) -> Check {
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x * x.graph().param("w", [], Init::Ones)
    }
    fn loss<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        losses::mse(y, t * 0.0).sample_weights(t.reshape([t.dim(0)])).mean()
    }
    let x = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for (weights, want) in [(vec![0.0, 0.0, 1.0, 3.0, 0.0, 0.0], (9.0 + 3.0 * 16.0) / 4.0), (vec![0.0; 6], 0.0)] {
        let data = Dataset::new(x.clone(), [1], Target::values([1], weights))?;
        let mut trainer = still(device, &data, model, loss)?;
        for batch in [1, 2, 4, 6] {
            for (got, _) in three(&mut trainer, &data, batch)? {
                close(&[got], &[want], 12).map_err(|e| format!("by {batch}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Padding: neither loss nor accuracy counts it, also where a batch has nothing else.
fn ignored(device: &Device) -> Check {
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x * x.graph().param("w", [], Init::Ones)
    }
    fn loss<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        losses::cross_entropy(y, t).ignore_index(0).mean()
    }
    fn beyond<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        losses::cross_entropy(y, t).ignore_index(3).mean()
    }
    // Rows of three scores, two labels a sample: the largest is of class k % 3.
    let rows = |n: usize| (0..n).flat_map(|k| (0..3).map(move |c| if c == k % 3 { 2.0 } else { c as f32 * 0.5 })).collect::<Vec<f32>>();
    let row_loss = |k: usize, label: u32| {
        let row = rows(k + 1)[3 * k..].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label as usize]
    };
    let zero = vec![0, 0, 0, 0, 1, 0, 2, 0, 0, 1, 1, 0];
    let three = vec![3, 3, 1, 0, 3, 3, 0, 1, 2, 3, 3, 3];
    for (labels, ignore, loss) in [(zero, 0, loss as Loss), (three, 3, beyond), (vec![0; 12], 0, loss)] {
        let there: Vec<(usize, u32)> = labels.iter().copied().enumerate().filter(|l| l.1 != ignore).collect();
        let n = there.len() as f64;
        let mean = there.iter().map(|&(k, l)| row_loss(k, l)).sum::<f64>() / n.max(1.0);
        let right = there.iter().filter(|&&(k, l)| k % 3 == l as usize).count() as f64;
        let data = Dataset::new(rows(12), [2, 3], Target::labels_per([2], labels, 4))?;
        let mut trainer = still(device, &data, model, loss)?;
        for batch in [1, 2, 4, 6] {
            for (got, accuracy) in self::three(&mut trainer, &data, batch)? {
                close(&[got], &[mean], 12).map_err(|e| format!("{ignore} by {batch}: {e}"))?;
                assert_eq!(accuracy, (n > 0.0).then(|| right / n), "{ignore} by {batch}");
            }
        }
        // A step whose batch has no label that counts has no accuracy.
        let (x, y) = data.batch(&[0])?;
        trainer.take_reports()?;
        trainer.step(&[x, y])?;
        assert_eq!(trainer.take_reports()?[0].accuracy.is_none(), there.first().is_none_or(|l| l.0 > 1));
    }
    Ok(())
}

/// A model that answers NaN predicts nothing.
fn nan_is_wrong(device: &Device) -> Check {
    let data = Dataset::new((0..12).map(|i| i as f32).collect(), [2], Target::labels(vec![0, 1, 2, 0, 1, 2], 3))?;
    let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 3), |y, t| y.cross_entropy(t), Sgd::new(0.1))?;
    for at in 0..3 {
        let mut bias = vec![0.0; 3];
        bias[at] = f32::NAN;
        trainer.params().set("fc.bias", &Host::new([3], bias))?;
        let e = trainer.evaluate(&data)?;
        assert!(e.loss.is_nan() && e.accuracy == Some(0.0), "{:?} {:?}", e.loss, e.accuracy);
        assert!(matches!(e.predictions(), Err(Error::NonFinite { .. })));
    }
    Ok(())
}

/// 1 where the label has the largest score; never in a row with a NaN, wherever that is and however the row is divided.
fn correct_rows(device: &Device) -> Check {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for k in [2, 3, 10, 33, 300, 5000] {
        let (mut x, mut labels, mut want) = (Vec::new(), Vec::new(), Vec::new());
        for label in [0, 1, k / 2, k - 1] {
            for (bad, at) in [(None, 0), (Some(nan), 0), (Some(nan), label), (Some(nan), k - 1), (Some(-inf), (label + 1) % k)] {
                let mut row: Vec<f32> = (0..k).map(|i| (i as f32 * 0.37).sin()).collect();
                row[label] = 3.0;
                if let Some(bad) = bad {
                    row[at] = bad;
                }
                x.extend(row);
                labels.push(label as u32);
                want.push(if bad.is_some_and(f32::is_nan) { 0.0 } else { 1.0 });
            }
        }
        let n = labels.len();
        let g = Graph::inference();
        let y = device.compile(&[g.input([n, k]).correct(g.labels([n]))])?.run(&[Host::new([n, k], x), Host::labels([n], labels)])?;
        assert_eq!(y[0].f(), want, "{k} classes");
    }
    Ok(())
}

/// Buffers of 1 MiB: eight samples are trained on, 1,024 would be far too many, and nobody has to say so.
fn small_device(device: &Device) -> Check {
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("wide", 4096).relu().linear("out", 2)
    }
    let own;
    let device = if device.as_gpu().is_some() {
        let limits = Limits { max_buffer_bytes: 1 << 20, max_binding_bytes: 1 << 20, ..small_limits(8) };
        let options =
            GpuOptions { limits: Some(limits), features: false, software: true, choice: Choice::Expected, ..GpuOptions::default() };
        own = Device::open(&options)?;
        &own
    } else {
        device
    };
    let x: Vec<f32> = (0..1500 * 2).map(|i| (i as f32 * 0.77).sin()).collect();
    let data = Dataset::new(x, [2], Target::labels((0..1500).map(|i| (i / 3 % 2) as u32).collect(), 2))?;
    let few = data.subset(&(0..20).collect::<Vec<_>>())?;
    let mut trainer = Trainer::for_data(device, &few, model, |y, t| y.cross_entropy(t), Sgd::new(1e-3))?;
    let before = trainer.evaluate(&data)?;
    let validation = trainer.fit(&few, Fit::new().batch_size(8).validation(&data))?.epochs[0].validation;
    assert!(validation.is_some_and(|(loss, _)| loss.is_finite()));
    let loss = trainer.evaluate(&data)?.loss;
    assert_eq!(validation.map(|v| v.0), Some(loss));
    assert_eq!(before.outputs.shape, Shape::from([1500, 2]));
    // However it is cut, the numbers are the same, and it takes no more than training does and a few MiB.
    for batch in [1, 13, 64] {
        trainer.set_evaluation_batch(batch)?;
        close(&[trainer.evaluate(&data)?.loss], &[loss], 4096)?;
    }
    let mut fresh = Trainer::for_data(device, &few, model, |y, t| y.cross_entropy(t), Sgd::new(1e-3))?;
    fresh.fit(&few, Fit::new().batch_size(8).validation(&data))?;
    let plans = fresh.memory(8)?.plans;
    assert!(plans < 16 << 20, "{plans} bytes of other plans");
    Ok(())
}
