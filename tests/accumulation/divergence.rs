//! Micro-batches that are not finite, and what is refused.

use crate::{classifier, common::*, cut, digits, mlp, rows, says};
use downhill::{
    Device, Error, Fit, Graph, Host, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    losses,
    optim::{Adam, Sgd},
};

/// A batch of four rows of three numbers.
fn batch(row: [f32; 3]) -> [Host<f32>; 1] {
    let good = [[1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [3.0, 1.0, 2.0]];
    [Host::new([4, 3], good.into_iter().chain([row]).flatten().collect())]
}

const GOOD: [f32; 3] = [2.0, 1.0, 0.25];
/// With which a logarithm, or the gradient of a square root, is not finite.
const NEGATIVE: [f32; 3] = [1.0, -1.0, 1.0];
const ZERO: [f32; 3] = [1.0, 0.0, 1.0];

type Loss = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

/// w and v are trained, and the loss is a mean of v·f(x·w).
fn trainer(device: &Device, loss: Loss) -> Result<Trainer, Error> {
    let g = Graph::training();
    let (x, w, v) = (g.input([4, 3]), g.param("w", [3], Init::Constant(1.5)), g.param("v", [3], Init::Constant(0.5)));
    Trainer::new(device, loss(x * w, v), Adam::new(0.01))
}

/// Two steps of three micro-batches, the second of which has a bad one in some place; and a third step that is queued by then.
pub fn lower_level(device: &Device) -> Check {
    // The gradient of v is not finite where the loss is not; that of w where the root's is not, though the loss is.
    let cases: [(Loss, [f32; 3], &str, &str); 2] =
        [(|y, v| (y.ln() * v).mean_all(), NEGATIVE, "loss", "v"), (|y, v| (y.sqrt() * v).mean_all(), ZERO, "gradient", "w")];
    for (loss, bad, cause, culprit) in cases {
        let step = |trainer: &mut Trainer, rows: [[f32; 3]; 3]| -> Check {
            trainer.accumulate(&batch(rows[0]))?;
            trainer.accumulate(&batch(rows[1]))?;
            Ok(trainer.step(&batch(rows[2]))?)
        };
        let mut reference = trainer(device, loss)?;
        step(&mut reference, [GOOD; 3])?;
        let before = weights(&reference)?;
        for place in 0..3 {
            let mut trainer = trainer(device, loss)?;
            let mut second = [GOOD; 3];
            second[place] = bad;
            step(&mut trainer, [GOOD; 3])?;
            step(&mut trainer, second)?;
            step(&mut trainer, [GOOD; 3])?;
            match trainer.loss() {
                Err(Error::Diverged { step: 1, what, parameter, loss }) => {
                    assert_eq!((what.as_str(), parameter.as_deref()), (cause, Some(culprit)), "micro-batch {place}");
                    assert_eq!(loss.is_finite(), cause == "gradient");
                }
                other => panic!("micro-batch {place}: {other:?}"),
            }
            assert!(weights(&trainer)? == before, "micro-batch {place}: the weights are those before the step");
            assert_eq!(trainer.steps(), 1);
            // It is told once, and training goes on as if it had not been.
            assert_eq!(trainer.take_reports()?.len(), 1);
            step(&mut trainer, [GOOD; 3])?;
            assert_eq!(trainer.take_reports()?.iter().map(|r| (r.step, r.samples)).collect::<Vec<_>>(), [(1, 12)]);
            let mut other = self::trainer(device, loss)?;
            step(&mut other, [GOOD; 3])?;
            step(&mut other, [GOOD; 3])?;
            assert!(weights(&trainer)? == weights(&other)?, "micro-batch {place}: as if there had been no bad step");
        }
    }
    Ok(())
}

/// The same in an epoch of steps of 16 samples in 5, 5, 5 and 1, from everywhere: the bad sample is in the third one.
pub fn epoch(device: &Device) -> Check {
    let values: Vec<f32> = (0..80).map(|i| 1.0 + (i as f32 * 0.3).sin().abs()).collect();
    let all = |bad: Option<usize>| {
        let mut values = values.clone();
        bad.into_iter().for_each(|i| values[i] = -1.0);
        Dataset::new(values.clone(), [1], Target::values([1], values))
    };
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        (x * x.graph().param("w", [1], Init::Constant(1.5))).ln()
    }
    let good = all(None)?;
    let new = || Trainer::for_data(device, &good, model, |y, t| y.mse(t), Sgd::new(0.02).momentum(0.9));
    let fit = || cut(16, 5).shuffle(false);
    let mut reference = new()?;
    reference.fit(&good.subset(&(0..32).collect::<Vec<_>>())?, fit())?;
    let before = weights(&reference)?;
    for sample in [32, 38, 46, 47] {
        let data = all(Some(sample))?;
        let ways = [fit().steps_per_submit(1), fit().steps_per_submit(7), fit().steps_per_submit(64), fit().resident(0), fit()];
        for (k, fit) in ways.into_iter().enumerate() {
            let mut trainer = new()?;
            match trainer.fit(&data, fit) {
                Err(Error::Diverged { step: 2, what, parameter, loss }) => {
                    assert_eq!((what.as_str(), parameter.as_deref()), ("loss", Some("w")), "sample {sample}, way {k}");
                    assert!(loss.is_nan());
                }
                other => panic!("sample {sample}, way {k}: {other:?}"),
            }
            assert!(weights(&trainer)? == before, "sample {sample}, way {k}");
            assert_eq!((trainer.steps(), trainer.take_reports()?.len()), (2, 2));
            // And on.
            trainer.fit(&good, self::cut(16, 5).shuffle(false))?;
            let mut other = new()?;
            other.fit(&good.subset(&(0..32).collect::<Vec<_>>())?, self::cut(16, 5).shuffle(false))?;
            other.fit(&good, self::cut(16, 5).shuffle(false))?;
            assert!(weights(&trainer)? == weights(&other)?, "sample {sample}, way {k}: training goes on otherwise");
        }
    }
    Ok(())
}

/// State follows each finite micro-batch, keeps what it has where one is not, and then the step does not count.
pub fn running_averages(device: &Device) -> Check {
    let new = |loss: Loss| -> Result<Trainer, Error> {
        let g = Graph::training();
        let (x, w, v) = (g.input([4, 3]), g.param("w", [3], Init::Constant(1.5)), g.param("v", [3], Init::Constant(0.5)));
        g.state("s", [3], Init::Ones);
        g.assign("s", x.ln().mean(&[0], false));
        Trainer::new(device, loss(x * w, v), Sgd::new(0.0625))
    };
    let log = |column: usize, row: [f32; 3]| batch(row)[0].f().chunks(3).map(|r| r[column].ln()).sum::<f32>() / 4.0;
    // A loss that is finite whatever the state is, and one that is not either.
    let cases: [(Loss, &str); 2] =
        [(|y, v| (y * v).mean_all(), "update (state of the model would overflow)"), (|y, v| (y.ln() * v).mean_all(), "loss")];
    for (loss, cause) in cases {
        for place in 0..2 {
            let mut trainer = new(loss)?;
            trainer.step(&batch(GOOD))?;
            let before = [trainer.params().get("w")?, trainer.params().get("v")?];
            let last = [4.0, 3.0, 0.5];
            for k in 0..2 {
                trainer.accumulate(&batch(if k == place { NEGATIVE } else { GOOD }))?;
            }
            trainer.step(&batch(last))?;
            trainer.accumulate(&batch(GOOD))?;
            match trainer.loss() {
                Err(Error::Diverged { step: 1, what, .. }) => assert_eq!(what, cause, "micro-batch {place}"),
                other => panic!("micro-batch {place}: {other:?}"),
            }
            assert_eq!([trainer.params().get("w")?, trainer.params().get("v")?], before);
            // The third micro-batch was finite in every column, but it completed the step: then nothing is assigned. The second
            // number is that of the latest finite one before.
            let state = trainer.params().get("s")?;
            assert!(state.f().iter().all(|s| s.is_finite()), "{state:?}");
            assert!((state.f()[1] - log(1, GOOD)).abs() < 1e-5, "micro-batch {place}: {state:?}, not {}", log(1, GOOD));
            // And on, without what was known of the bad step.
            trainer.accumulate(&batch(GOOD))?;
            trainer.step(&batch(last))?;
            assert!(trainer.loss()?.is_finite());
            let state = trainer.params().get("s")?;
            (0..3).for_each(|c| assert!((state.f()[c] - log(c, last)).abs() < 1e-5, "{state:?}"));
        }
    }
    Ok(())
}

/// Micro-batches that wait when an earlier step turns out to be bad are forgotten: the weights that they were computed with are.
pub fn forgotten(device: &Device) -> Check {
    let loss: Loss = |y, v| (y.ln() * v).mean_all();
    let (mut a, mut b) = (trainer(device, loss)?, trainer(device, loss)?);
    a.step(&batch(NEGATIVE))?;
    a.accumulate(&batch([5.0, 5.0, 5.0]))?;
    a.accumulate(&batch([7.0, 7.0, 7.0]))?;
    assert!(matches!(a.loss(), Err(Error::Diverged { step: 0, .. })));
    // So the next one is a step of its own.
    a.step(&batch(GOOD))?;
    b.step(&batch(GOOD))?;
    assert_eq!(a.take_reports()?, b.take_reports()?);
    assert!(weights(&a)? == weights(&b)?);
    // A seed, and a checkpoint, begin anew as well.
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("at.safetensors");
    a.accumulate(&batch(GOOD))?;
    a.save(&path)?;
    a.load(&path)?;
    a.step(&batch([0.5, 1.0, 2.0]))?;
    b.step(&batch([0.5, 1.0, 2.0]))?;
    assert!(weights(&a)? == weights(&b)?);
    a.accumulate(&batch(GOOD))?;
    let mut a = a.seed(0)?;
    let mut b = trainer(device, loss)?;
    a.step(&batch(GOOD))?;
    b.step(&batch(GOOD))?;
    assert!(weights(&a)? == weights(&b)?);
    Ok(())
}

pub fn mixed(device: &Device) -> Check {
    let data = digits(64);
    let (mut a, mut b) = (classifier(device, Sgd::new(0.1))?, classifier(device, Sgd::new(0.1))?);
    let part = |k: usize| rows(&data, 16 * k..16 * (k + 1));
    a.accumulate(&part(0)?)?;
    a.accumulate(&part(1)?)?;
    let wait = "micro-batches are accumulated (2 so far) and wait for their step; complete the step first, with Trainer::step";
    says(a.fit(&data, Fit::new()), &format!("fit: {wait}"))?;
    says(a.fit(&data, Fit::new().memory(1 << 30)), &format!("fit: {wait}"))?;
    says(a.apply_gradients(&[("fc2.bias", Host::new([10], vec![1.0; 10]))]), &format!("apply_gradients: {wait}"))?;
    says(a.profile(2), &format!("profile: {wait}"))?;
    says(a.step_again(), &format!("step_again: {wait}"))?;
    // A batch that is refused is no part of the step, and looking changes nothing.
    let bad = [Host::new([16, 64], vec![f32::NAN; 1024]), part(2)?[1].clone()];
    assert!(matches!(a.accumulate(&bad), Err(Error::NonFinite { .. })));
    assert!(matches!(a.step(&bad), Err(Error::NonFinite { .. })));
    let (before, report) = (weights(&a)?, a.take_reports()?);
    assert!(report.is_empty() && before == weights(&b)?, "no update yet");
    assert!(a.loss()?.is_nan(), "no step yet");
    a.evaluate(&data)?;
    a.predict(&part(3)?[0])?;
    a.step(&part(2)?)?;
    b.accumulate(&part(0)?)?;
    b.accumulate(&part(1)?)?;
    b.step(&part(2)?)?;
    assert!(weights(&a)? == weights(&b)? && before != weights(&a)?);
    assert_eq!((a.take_reports()?, a.steps()), (b.take_reports()?, 1));
    says(a.step_again(), "step_again: the last step had several micro-batches, but the device has only the last micro-batch")?;
    // A profile measures the last micro-batch, as if it were a whole step.
    a.profile(1)?;
    assert_eq!(a.take_reports()?.iter().map(|r| (r.step, r.samples)).collect::<Vec<_>>(), [(1, 16), (2, 16)]);
    a.step(&part(3)?)?;
    a.step_again()?;
    a.apply_gradients(&[("fc2.bias", Host::new([10], vec![1.0; 10]))])?;
    a.fit(&data, Fit::new())?;
    assert_eq!(a.steps(), 8);
    // After an epoch of micro-batches the same holds.
    a.fit(&data, cut(32, 16))?;
    assert!(a.step_again().is_err());
    Ok(())
}

pub fn requests(device: &Device) -> Check {
    let data = digits(64);
    let mut trainer = classifier(device, Sgd::new(0.1))?;
    let before = weights(&trainer)?;
    says(trainer.fit(&data, cut(16, 17)), "micro_batch: 17 samples, but a step has 16; make it smaller, or the batch larger")?;
    let larger = Fit::new().batch_size(16).accumulate(2).micro_batch(33);
    says(trainer.fit(&data, larger), "micro_batch: 33 samples, but a step has 32")?;
    says(trainer.fit(&data, cut(16, 0)), "micro_batch: a micro-batch has at least 1 sample")?;
    says(trainer.fit(&data, Fit::new().accumulate(0)), "accumulate: a step takes the gradients of at least 1 batch")?;
    says(trainer.fit(&data, Fit::new().batch_size(0).accumulate(2)), "batch size: must be at least 1")?;
    let many = Fit::new().batch_size(1 << 40).accumulate(1 << 40);
    says(trainer.fit(&data, many), "accumulate: 1099511627776 batches of 1099511627776 samples are more than can be counted")?;
    says(trainer.micro_memory(0), "micro_memory: a micro-batch has at least one sample")?;
    assert!(weights(&trainer)? == before && trainer.steps() == 0);
    // Means of different kinds.
    let kinds: [Loss; 2] = [
        |y, t| losses::cross_entropy(y, t).ignore_index(3).mean() + y.square().mean_all() * 0.1,
        |y, t| losses::cross_entropy(y, t).ignore_index(3).mean() + losses::cross_entropy(y, t).ignore_index(4).mean(),
    ];
    for loss in kinds {
        let mut trainer = Trainer::for_data(device, &data, mlp, loss, Sgd::new(0.1))?;
        let why = "accumulate: the loss has means of several kinds";
        says(trainer.fit(&data, cut(32, 16)), why)?;
        says(trainer.fit(&data, cut(32, 20)), why)?;
        says(trainer.accumulate(&rows(&data, 0..16)?), why)?;
        says(trainer.micro_memory(16), why)?;
        // Whole batches are as good as ever, and nothing waits.
        trainer.fit(&data, Fit::new())?;
        trainer.step(&rows(&data, 0..16)?)?;
        assert_eq!(trainer.steps(), 3);
    }
    // The same mean twice is one.
    let twice: Loss = |y, t| {
        let once = losses::cross_entropy(y, t).ignore_index(3).mean();
        once * 0.25 + losses::cross_entropy(y, t).ignore_index(3).label_smoothing(0.1).mean()
    };
    Trainer::for_data(device, &data, mlp, twice, Sgd::new(0.1))?.fit(&data, cut(32, 16))?;
    Ok(())
}
