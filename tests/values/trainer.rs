//! A trainer at its limits: a last batch that is too small, a step that is not finite, very many plans and reports, and graphs that
//! cannot be trained.

use crate::common::{BOTH, Check, Suite, inner};
use downhill::{
    Device, Error, Event, Fit, Graph, Host, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, GroupOptions, Schedule, Sgd},
    testing::close,
};
use std::{ops::ControlFlow, sync::Mutex};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "trainer/the last batch", last_batch);
    suite.each(&BOTH, "trainer/after a step that is not finite", diverged);
    suite.each(&BOTH, "trainer/a learning rate that is set", learning_rate);
    suite.each(&BOTH, "trainer/reports that nobody takes", reports);
    suite.each(&BOTH, "trainer/plans of many sizes", many_sizes);
    suite.each(&BOTH, "trainer/nothing to train", nothing_to_train);
    suite.each(&BOTH, "trainer/graphs of inference", inference_graphs);
    suite.test("trainer/parameters that are left out are told", warned);
}

/// 33 samples in batches of 32 with batch norm, and other remainders.
fn last_batch(device: &Device) -> Check {
    let set = |n: usize| {
        let x: Vec<f32> = (0..n * 2).map(|i| (i as f32 * 0.77).sin()).collect();
        Dataset::new(x, [2], Target::labels((0..n).map(|i| (i % 2) as u32).collect(), 2))
    };
    let norm = |data: &Dataset| {
        Trainer::for_data(
            device,
            data,
            |x| x.linear("fc", 4).batch_norm("bn").relu().linear("out", 2),
            |y, t| y.cross_entropy(t),
            Sgd::new(0.1),
        )
    };
    let steps = |trainer: &mut Trainer, data: &Dataset, fit: Fit| -> Result<Vec<usize>, Error> {
        trainer.take_reports()?;
        let history = trainer.fit(data, fit.epochs(2))?;
        let sizes: Vec<usize> = trainer.take_reports()?.iter().map(|r| r.samples).collect();
        assert_eq!(history.epochs.iter().map(|e| e.losses.len()).sum::<usize>(), sizes.len());
        Ok(sizes[..sizes.len() / 2].to_vec())
    };
    for from_host in [false, true] {
        let fit = |batch: usize| if from_host { Fit::new().batch_size(batch).resident(0) } else { Fit::new().batch_size(batch) };
        let (of33, of65) = (set(33)?, set(65)?);
        let mut trainer = norm(&of33)?;
        assert_eq!(steps(&mut trainer, &of33, fit(32))?, [33]);
        assert_eq!(steps(&mut trainer, &of65, fit(32))?, [32, 33]);
        assert_eq!(steps(&mut trainer, &of33, fit(32).drop_last(true))?, [32]);
        assert_eq!(steps(&mut trainer, &of65, fit(31))?, [31, 31, 3]);
        assert_eq!(steps(&mut trainer, &of65, fit(31).drop_last(true))?, [31, 31]);
        // Nothing is left, or there is no full batch.
        assert_eq!(steps(&mut trainer, &of33, fit(11).drop_last(true))?, [11; 3]);
        assert_eq!(steps(&mut trainer, &of33, fit(100).drop_last(true))?, [33]);
        assert_eq!(steps(&mut trainer, &of33, fit(usize::MAX))?, [33]);
        // A model that takes one sample gets one.
        let mut plain = Trainer::for_data(device, &of33, |x| x.linear("fc", 2), |y, t| y.cross_entropy(t), Sgd::new(0.1))?;
        assert_eq!(steps(&mut plain, &of33, fit(32))?, [32, 1]);
        // Merged or dropped, every sample is seen once at most, and the same ones as before.
        let order = |drop: bool| -> Result<Vec<u32>, Error> {
            let rows = Dataset::new((0..9).map(|i| i as f32).collect(), [1], Target::None)?;
            let mut t = Trainer::for_data(
                device,
                &rows,
                |x| x + x.batch_norm("bn") * 0.0,
                |y, _| (y * 0.0 + y).sum_all() + y.graph().param("w", [], Init::Zeros) * 0.0,
                Sgd::new(1e-30),
            )?;
            let losses = t.fit(&rows, fit(4).shuffle(false).drop_last(drop))?.epochs.remove(0).losses;
            Ok(losses.iter().map(|&l| l.round() as u32).collect())
        };
        assert_eq!((order(false)?, order(true)?), (vec![6, 30], vec![6, 22]));
    }
    // The model takes pairs of samples. The last sample cannot join a batch, so an error before training says what to do.
    let odd = set(7)?;
    let mut pairs = Trainer::for_data(
        device,
        &odd,
        |x| x.reshape([x.dim(0) / 2, 4]).linear("fc", 4).reshape([x.dim(0) / 2 * 2, 2]),
        |y, t| y.cross_entropy(t),
        Sgd::new(0.1),
    )?;
    let error = pairs.fit(&odd, Fit::new().batch_size(4)).err().ok_or("three is no pair")?.to_string();
    assert!(error.contains("Fit::drop_last") && error.contains("3 of the 7 samples") && pairs.steps() == 0, "{error}");
    assert_eq!(steps(&mut pairs, &odd, Fit::new().batch_size(4).drop_last(true))?, [4]);
    // XOR with the defaults.
    let xor = Dataset::new(vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0], [2], Target::values([1], vec![0.0, 1.0, 1.0, 0.0]))?;
    let mut trainer =
        Trainer::for_data(device, &xor, |x| x.linear("hidden", 8).tanh().linear("out", 1), |y, t| y.bce_with_logits(t), Adam::new(0.1))?;
    let history = trainer.fit(&xor, Fit::new().epochs(200))?;
    assert!(history.epochs.len() == 200 && history.epochs[199].loss < 0.1 && trainer.steps() == 200);
    assert_eq!(trainer.loss()?, history.epochs[199].losses[0], "the loss of the last step");
    Ok(())
}

/// The epochs before are kept, the rate can be lowered, and training goes on.
fn diverged(device: &Device) -> Check {
    let data = Dataset::new(vec![1.0; 8], [1], Target::None)?;
    // w ← w − lr·2w: with a rate above 1 it grows by |1 − 2·lr| a step.
    let mut trainer =
        Trainer::for_data(device, &data, |x| x * x.graph().param("w", [1], Init::Ones), |y, _| y.square().mean_all(), Sgd::new(50.0))?;
    // 99² a step in the loss, 4 steps an epoch: beyond 3.4e38 in the third.
    let error = trainer.fit(&data, Fit::new().epochs(99).batch_size(2)).err();
    let Some(Error::Diverged { step, .. }) = error else { return Err(format!("{error:?}").into()) };
    let history = trainer.history().clone();
    assert_eq!((history.epochs.len(), history.stopped), (step as usize / 4, false));
    assert!(step >= 8 && history.epochs.iter().all(|e| e.loss.is_finite() && e.losses.len() == 4), "{history:?}");
    // The last finite step's.
    let last = trainer.loss()?;
    assert!(last.is_finite() && last > history.epochs[history.epochs.len() - 1].losses[3], "{last}");
    assert_eq!(trainer.take_reports()?.last().map(|r| r.step), Some(step - 1));
    assert_eq!(trainer.loss()?, last, "taking reports does not change it");
    // The step before left a weight of which the square overflows; from a better one it goes on.
    let w = 3.0;
    trainer.params().set("w", &Host::new([1], vec![w]))?;
    trainer.set_lr(0.25)?;
    let after = trainer.fit(&data, Fit::new().batch_size(2))?;
    assert_eq!((after.epochs.len(), trainer.history()), (1, &after));
    // Halved by each of four steps.
    close(&[f64::from(trainer.params().get("w")?.f()[0])], &[f64::from(w) / 16.0], 8)?;
    // A validation that fails takes nothing of the epoch away; an epoch that a callback ends is there.
    let stopped = trainer.fit(
        &data,
        Fit::new().epochs(3).batch_size(2).callback(|event| match event {
            Event::Epoch(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }),
    )?;
    assert!(stopped.stopped && trainer.history() == &stopped && stopped.epochs.len() == 1);
    Ok(())
}

/// SGD on g = 1: w falls by the rate, its schedule's factor and its group's scale.
fn learning_rate(device: &Device) -> Check {
    let g = Graph::training();
    let (a, b) = (g.param("a", [1], Init::Zeros), g.param("b", [1], Init::Zeros));
    let half = GroupOptions { lr_scale: 0.5, ..GroupOptions::default() };
    let optimizer = Sgd::new(1.0).schedule(Schedule::step(2, 0.5)).group(|name| name == "b", half);
    let mut trainer = Trainer::new(device, a.sum_all() + b.sum_all(), optimizer)?;
    let mut want = [0.0, 0.0];
    for (k, set) in [None, None, Some(0.25), None, Some(4.0), None].into_iter().enumerate() {
        if let Some(lr) = set {
            trainer.set_lr(lr)?;
        }
        let lr = [1.0, 1.0, 0.25, 0.25, 4.0, 4.0][k] * 0.5f64.powi(k as i32 / 2);
        assert_eq!(trainer.lr(), lr);
        trainer.step(&[])?;
        want = [want[0] - lr, want[1] - 0.5 * lr];
        let got = [trainer.params().get("a")?.f()[0], trainer.params().get("b")?.f()[0]].map(f64::from);
        assert_eq!(got, want, "step {k}");
    }
    let before = trainer.lr();
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e300] {
        let error = trainer.set_lr(bad).err().ok_or("it was taken")?.to_string();
        assert!(error.starts_with("Sgd: the learning rate is ") && trainer.lr() == before, "{error}");
    }
    Ok(())
}

fn reports(device: &Device) -> Check {
    let g = Graph::training();
    let loss = g.param("w", [], Init::Zeros) * 0.0 + g.input([]);
    let mut trainer = Trainer::new(device, loss, Sgd::new(1.0))?;
    for k in 0..5000 {
        trainer.step(&[Host::new([], vec![k as f32])])?;
    }
    assert_eq!(trainer.loss()?, 4999.0);
    let reports = trainer.take_reports()?;
    assert!(reports.len() == 4096 && reports.iter().enumerate().all(|(i, r)| r.step == i as u64 + 904 && r.loss == (i + 904) as f32));
    assert!(trainer.take_reports()?.is_empty() && trainer.loss()? == 4999.0);
    Ok(())
}

/// The trainer stores only the latest plans. Results of the dropped plans are not lost.
fn many_sizes(device: &Device) -> Check {
    let data = Dataset::new((0..400).map(|i| i as f32 * 0.01).collect(), [2], Target::values([1], vec![0.5; 200]))?;
    let make = || Trainer::for_data(device, &data, |x| x.linear("fc", 64).tanh().linear("out", 1), |y, t| y.mse(t), Sgd::new(1e-30));
    let mut trainer = make()?;
    let batch = |n: usize| data.batch(&(0..n).collect::<Vec<_>>()).map(|(x, y)| [x, y]);
    let whole = trainer.predict(&batch(200)?[0])?;
    for n in 1..=60 {
        trainer.step(&batch(n)?)?;
        let y = trainer.predict(&batch(n)?[0])?;
        close(&y.to_f64(), &whole.to_f64()[..n], 64)?;
    }
    // Nobody waits for a step before its plan has to go: each loss is that of its batch all the same.
    let mut queued = make()?;
    for n in 1..=60 {
        queued.step(&batch(n)?)?;
    }
    let mut one = make()?;
    for report in queued.take_reports()? {
        let rows = data.subset(&(0..report.samples).collect::<Vec<_>>())?;
        close(&[f64::from(report.loss)], &[one.evaluate(&rows)?.loss], 64)?;
    }
    let plans = trainer.memory(1)?.plans;
    // Four of training and four of inference, none of more than 60 samples but what outputs are read through.
    let most = 4 * trainer.memory(60)?.total() + 4 * trainer.memory(60)?.total();
    let mut few = make()?;
    for n in 57..=60 {
        few.step(&batch(n)?)?;
        few.predict(&batch(n)?[0])?;
    }
    let same = few.memory(1)?.plans;
    assert!(plans < most && plans <= same + 4 * 200, "{plans} bytes of plans, where {same} are expected");
    // Every step has its report, of its own batch.
    let reports = trainer.take_reports()?;
    assert_eq!(reports.iter().map(|r| r.samples).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    // The batch of the last step is there however many plans came after it.
    let last = trainer.loss()?;
    trainer.step_again()?;
    assert_eq!(trainer.loss()?, last);
    if device.as_gpu().is_some() {
        let seen = trainer.counters().ok_or("a GPU counts")?;
        assert_eq!(seen.steps, 61 + 61, "what is gone was counted");
        let own = Device::open(inner(device).options())?;
        let mut trainer = Trainer::for_data(&own, &data, |x| x.linear("fc", 64).tanh().linear("out", 1), |y, t| y.mse(t), Sgd::new(0.1))?;
        let mut bytes = Vec::new();
        for n in 1..=90 {
            trainer.step(&batch(n)?)?;
            trainer.loss()?;
            bytes.extend((n % 30 == 0).then(|| inner(&own).allocated_bytes()).flatten());
        }
        if let [a, _, c] = bytes[..] {
            assert!(c < a + (1 << 20), "{a} bytes became {c}");
        }
    }
    Ok(())
}

fn nothing_to_train(device: &Device) -> Check {
    let refuse = |loss: for<'g> fn(&'g Graph) -> Tensor<'g>| {
        let g = Graph::training();
        let error = Trainer::new(device, loss(&g), Sgd::new(0.1)).err();
        assert!(matches!(&error, Some(Error::Op { op, .. }) if op == "loss"), "{error:?}");
        let text = error.map_or(String::new(), |e| e.to_string());
        assert!(text.contains("depends on no parameter (w)") && text.contains("trainer.rs:"), "{text}");
    };
    refuse(|g| {
        g.param("w", [2], Init::Ones);
        g.input([2]).sum_all()
    });
    // A gradient that does not flow: cut off, through an index, through a comparison.
    refuse(|g| (g.param("w", [2], Init::Ones).detach() * g.input([2])).sum_all());
    refuse(|g| (g.param("w", [2, 3], Init::Ones).argmax(-1).to_f32() * g.input([2])).sum_all());
    refuse(|g| g.param("w", [2], Init::Ones).gt(g.input([2])).sum_all());
    // For a model for data, the error comes when the trainer is made.
    let data = Dataset::new(vec![1.0; 8], [2], Target::values([1], vec![0.0; 4]))?;
    fn unused(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("fc", 1);
        x.sum(&[-1], true)
    }
    let error = Trainer::for_data(device, &data, unused, |y, t| y.mse(t), Sgd::new(0.1)).err();
    assert!(error.as_ref().is_some_and(|e| e.to_string().contains("no parameter (fc.weight, fc.bias)")), "{error:?}");
    Ok(())
}

/// A model that works differently in training is refused.
fn inference_graphs(device: &Device) -> Check {
    type Write = for<'g> fn(Tensor<'g>) -> Tensor<'g>;
    let cases: [(&str, Write); 4] = [
        ("dropout", |x| x.dropout(0.5)),
        ("dropout2d", |x| x.reshape([2, 3, 1, 1]).dropout2d(0.5).flatten()),
        ("batch_norm", |x| x.batch_norm("bn")),
        ("is_training", |x| if x.graph().is_training() { x * 2.0 } else { x }),
    ];
    for (name, layer) in cases {
        let g = Graph::inference();
        let loss = layer(g.input([2, 3]).linear("fc", 3)).square().mean_all();
        let error = Trainer::new(device, loss, Sgd::new(0.1)).err().map_or(String::new(), |e| e.to_string());
        assert!(error.starts_with(&format!("{name}: ")) && error.contains("Graph::training") && error.contains("trainer.rs:"), "{error}");
        let error = downhill::plan::Memory::of(device, loss, Sgd::new(0.1)).err();
        assert!(error.is_some_and(|e| e.to_string().contains("Graph::training")));
        // In a graph that trains, and compiled, it works.
        let h = Graph::training();
        Trainer::new(device, layer(h.input([2, 3]).linear("fc", 3)).square().mean_all(), Sgd::new(0.1))?;
    }
    let g = Graph::inference();
    let kept = g.state("count", [], Init::Zeros);
    g.assign("count", kept + 1.0);
    let error = Trainer::new(device, g.input([2, 3]).linear("fc", 1).mean_all(), Sgd::new(0.1)).err();
    assert!(error.is_some_and(|e| e.to_string().starts_with("assign: ")));
    // A layer that works as in training gives no error.
    let g = Graph::inference();
    Trainer::new(device, g.input([2, 3]).linear("fc", 1).dropout(0.0).mean_all(), Sgd::new(0.1))?;
    Ok(())
}

/// The messages of the log.
static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());
struct Log;
impl log::Log for Log {
    fn enabled(&self, of: &log::Metadata) -> bool {
        of.target().starts_with("downhill")
    }
    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            LOG.lock().expect("nobody panics while holding it").push(format!("{}: {}", record.level(), record.args()));
        }
    }
    fn flush(&self) {}
}

fn warned() -> Check {
    log::set_logger(&Log).map_err(|e| e.to_string())?;
    log::set_max_level(log::LevelFilter::Warn);
    let said = |name: &str| LOG.lock().expect("nobody panics while holding it").iter().filter(|line| line.contains(name)).count();
    let g = Graph::training();
    g.param("left-out", [2], Init::Ones);
    let loss = g.input([2, 3]).linear("reached", 1).mean_all();
    Trainer::new(&Device::cpu(), loss, Sgd::new(0.1))?;
    assert_eq!((said("WARN: the loss does not depend on left-out: "), said("reached")), (1, 0));
    // One that is frozen is not to be trained.
    let g = Graph::training();
    g.param("left-alone", [2], Init::Ones);
    g.param("left-behind", [2], Init::Ones);
    let loss = g.input([2, 3]).linear("reached", 1).mean_all();
    Trainer::new(&Device::cpu(), loss, Sgd::new(0.1).freeze(["left-alone", "reached.bias"]))?;
    assert_eq!((said("depend on left-behind: "), said("left-alone"), said("reached")), (1, 0, 0));
    let data = Dataset::new(vec![1.0; 8], [2], Target::values([1], vec![0.0; 4]))?;
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        x.linear("forgotten", 2);
        x.linear("used", 1)
    }
    let mut trainer = Trainer::for_data(&Device::cpu(), &data, model, |y, t| y.mse(t), Sgd::new(0.1))?;
    trainer.fit(&data, Fit::new().epochs(2))?;
    assert_eq!((said("forgotten.weight, forgotten.bias"), said("used")), (1, 0), "once");
    Ok(())
}
