//! Learning rates: the search for one, schedules that are functions, and the curves that are drawn.

use crate::{
    classifier,
    common::{BOTH, Check, On, Suite, weights},
    digits, numbers,
};
use downhill::{
    Checkpoints, Device, Fit,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, Scaling, Schedule, Sgd},
    train::FindLr,
};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "a search for a rate leaves no trace", search);
    suite.on(On::Cpu, "the suggestion of a search", suggestion);
    suite.each(&BOTH, "a schedule that is a function", lambda);
    suite.each(&BOTH, "a schedule in epochs", epochs);
}

fn search(device: &Device) -> Check {
    let data = digits(70);
    let schedule = || Schedule::warmup(5).then(Schedule::exponential(0.9));
    let fit = || Fit::new().epochs(2).batch_size(16);
    let (mut plain, mut searched) =
        (classifier(device, Adam::new(0.01).schedule(schedule()))?, classifier(device, Adam::new(0.01).schedule(schedule()))?);
    let options = FindLr { min_lr: 1e-6, max_lr: 1e3, num_training: 40, batch_size: 20, early_stop_threshold: 4.0 };
    let curves = [searched.find_lr(&data, options)?, searched.find_lr(&data, options)?];
    assert_eq!(curves[0], curves[1], "the same search each time");
    assert_eq!((searched.steps(), searched.lr().to_bits()), (0, plain.lr().to_bits()));
    assert!(searched.take_reports()?.is_empty() && searched.loss()?.is_nan());
    let (a, b) = (plain.fit(&data, fit())?, searched.fit(&data, fit())?);
    // In the middle of a training as well.
    searched.find_lr(&data, options)?;
    assert_eq!(numbers(searched.history()), numbers(&b));
    assert_eq!(plain.take_reports()?, searched.take_reports()?);
    let (c, d) = (plain.fit(&data, fit())?, searched.fit(&data, fit())?);
    assert_eq!((numbers(&a), numbers(&c), weights(&plain)?), (numbers(&b), numbers(&d), weights(&searched)?));
    let curve = &curves[0];
    assert!(curve.rates.len() > 10 && curve.losses.iter().all(|loss| loss.is_finite()));
    assert!((curve.rates[0] / 1e-6 - 1.0).abs() < 1e-12 && curve.rates.windows(2).all(|r| r[0] < r[1]));
    assert!(curve.svg().contains("polyline"));
    for bad in [FindLr { min_lr: 2.0, ..options }, FindLr { num_training: 1, ..options }, FindLr { min_lr: 1e-6, max_lr: 1e-7, ..options }]
    {
        let bad = if bad.min_lr == 2.0 { FindLr { max_lr: 1.0, ..bad } } else { bad };
        assert!(searched.find_lr(&data, bad).expect_err("out of range").to_string().starts_with("find_lr: needs"));
    }
    Ok(())
}

/// Gradient descent on (x·w)²: the loss of step k is known, and it rises once the rate is above 1.
fn suggestion(device: &Device) -> Check {
    let data = Dataset::new(vec![1.0; 8], [1], Target::values([1], vec![0.0; 8]))?;
    let mut trainer = downhill::Trainer::for_data(
        device,
        &data,
        |x| x * x.graph().param("w", [1], Init::Ones),
        |x, _| x.square().mean_all(),
        Sgd::new(0.1),
    )?;
    let curve = trainer.find_lr(&data, FindLr { min_lr: 1e-4, max_lr: 10.0, num_training: 60, batch_size: 8, ..FindLr::default() })?;
    let (mut w, mut average) = (1.0f64, 0.0);
    for (k, (rate, loss)) in curve.rates.iter().zip(&curve.losses).enumerate() {
        average = 0.98 * average + 0.02 * w * w;
        let want = average / (1.0 - 0.98f64.powi(k as i32 + 1));
        assert!((loss - want).abs() < 1e-4 * want, "step {k}: {loss}, by hand {want}");
        w -= rate * 2.0 * w;
    }
    let lr = curve.suggestion().ok_or("no suggestion")?;
    assert!(lr > 1e-2 && lr < 1.0, "{lr}");
    Ok(())
}

fn lambda(device: &Device) -> Check {
    let data = digits(40);
    let run = |schedule: Schedule| -> downhill::Result<_> {
        let mut trainer = classifier(device, Sgd::new(0.1).schedule(schedule))?;
        trainer.fit(&data, Fit::new().epochs(2).batch_size(10))?;
        weights(&trainer)
    };
    assert_eq!(run(Schedule::lambda(|k| 0.5f64.powf((k / 3) as f64)))?, run(Schedule::step(3, 0.5))?);
    let by_parts = Schedule::lambda(|_| 0.5).lasting(4).then(Schedule::lambda(|k| 1.0 / (k + 1) as f64));
    assert_eq!([3, 4, 5].map(|k| by_parts.at(k)), [0.5, 1.0, 0.5]);
    assert!(by_parts == by_parts.clone() && by_parts != Schedule::lambda(|_| 0.5));
    assert!(Schedule::lambda(|_| 1.0).then(Schedule::constant()).check().is_err(), "a function has no end");
    let bad = run(Schedule::lambda(|k| if k == 3 { f64::NAN } else { 1.0 }));
    assert!(matches!(bad, Err(downhill::Error::Diverged { step: 3, .. })), "{bad:?}");
    Ok(())
}

fn epochs(device: &Device) -> Check {
    let data = digits(70);
    let fit = || Fit::new().epochs(3).batch_size(16).micro_batch(10);
    let by_epochs = || Schedule::warmup(1).then(Schedule::cosine(2)).in_epochs().scaled(64, 16, Scaling::Sqrt);
    // 70 samples are 5 steps of 16.
    let by_steps = || Schedule::warmup(5).then(Schedule::cosine(10)).scaled(64, 16, Scaling::Sqrt);
    let run = |schedule: Schedule, fit: Fit| -> downhill::Result<_> {
        let mut trainer = classifier(device, Adam::new(0.01).schedule(schedule))?;
        let history = trainer.fit(&data, fit)?;
        Ok((trainer, history))
    };
    let ((a, ours), (b, theirs)) = (run(by_epochs(), fit())?, run(by_steps(), fit())?);
    assert_eq!((numbers(&ours), weights(&a)?), (numbers(&theirs), weights(&b)?));
    assert!((ours.epochs[1].lr - 0.02).abs() < 1e-15, "{}", ours.epochs[1].lr);
    // Without the remaining samples an epoch has 4 steps.
    let ((_, ours), (_, theirs)) = (
        run(by_epochs(), fit().drop_last(true))?,
        run(Schedule::warmup(4).then(Schedule::cosine(8)).scaled(4, 1, Scaling::Sqrt), fit().drop_last(true))?,
    );
    assert_eq!(numbers(&ours), numbers(&theirs));
    let (_, samples) = run(Schedule::warmup(80).then(Schedule::cosine(160)).in_samples().scaled(2, 1, Scaling::Linear), fit())?;
    assert_eq!(numbers(&samples), numbers(&run(by_steps(), fit())?.1));
    // A training that resumes has the same rates.
    let folder = tempfile::tempdir()?;
    let saved = |epochs| fit().epochs(epochs).checkpoints(Checkpoints::new(folder.path()).every_steps(3)).resume(folder.path());
    run(by_epochs(), saved(2))?;
    let (c, history) = run(by_epochs(), saved(3))?;
    assert_eq!((numbers(&history), weights(&c)?), (numbers(&run(by_steps(), fit())?.1), weights(&b)?));
    // Steps alone have no epochs, unless a call of fit came before.
    let mut trainer = classifier(device, Adam::new(0.01).schedule(by_epochs()))?;
    assert!(trainer.lr().is_nan());
    let (x, y) = data.batch(&[0, 1, 2, 3])?;
    let batch = [x, y];
    let error = trainer.step(&batch).expect_err("no epochs").to_string();
    assert!(error.starts_with("Adam: the schedule counts epochs or samples, which Trainer::fit turns into steps"), "{error}");
    trainer.fit(&data, fit())?;
    assert!(trainer.lr() >= 0.0);
    trainer.step(&batch)?;
    // Epochs of another length would move the schedule.
    let error = trainer.fit(&data, fit().batch_size(20)).expect_err("other epochs").to_string();
    let want = "Adam: the schedule counts epochs or samples, and the 16 steps so far had 16 samples and epochs of 5 steps, but now they have 20 \
        samples and epochs of 4 steps";
    assert!(error.starts_with(want), "{error}");
    trainer.fit(&data, fit())?;
    trainer.seed(1)?.fit(&data, fit().batch_size(20))?;
    // A search for a rate has no schedule.
    classifier(device, Adam::new(0.01).schedule(by_epochs()))?.find_lr(&data, FindLr::default())?;
    Ok(())
}
