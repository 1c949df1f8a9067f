//! The error of a step that was not finite names the step, the loss or a gradient, and the first parameter.

use crate::common::{Check, On, Suite, weights};
use downhill::{
    Device, Error, Fit, Graph, Host, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, GroupOptions, Optimizer, Sgd},
};

const ALL: [On; 4] = [On::Cpu, On::Gpu, On::Checked, On::Pieces];

pub fn trials(suite: &mut Suite) {
    suite.each(&ALL, "the first parameter in the order of the graph", order);
    suite.each(&ALL, "the loss, a gradient, or both", causes);
    suite.each(&ALL, "frozen parameters are not named", frozen);
    suite.each(&ALL, "a watchdog that reads nothing in good steps", no_reads);
    suite.each(&ALL, "a bad step in the middle of an epoch", in_fit);
    suite.each(&ALL, "a bad micro-batch", micro);
    suite.each(&[On::Cpu, On::Gpu], "the words of the error", words);
}

/// Step, cause and parameter.
type Told = (u64, String, Option<String>);

fn told(trainer: &mut Trainer) -> Told {
    match trainer.loss() {
        Err(Error::Diverged { step, what, parameter, .. }) => (step, what, parameter),
        other => panic!("{other:?} instead of an error"),
    }
}

fn bad(step: u64, what: &str, name: &str) -> Told {
    (step, what.to_string(), Some(name.to_string()).filter(|name| !name.is_empty()))
}

/// Sizes of parameters; some do not fit into one piece of a small device, and one is larger than it can bind.
const SIZES: [(&str, usize); 6] = [("a", 70), ("b", 9_000), ("c", 20_000), ("d", 64), ("e", 9_000), ("f", 3)];

/// In memory `b` and `e` come after the others: they are of another group.
fn grouped(optimizer: impl Into<Optimizer>) -> Optimizer {
    let slow = GroupOptions { lr_scale: 0.5, ..Default::default() };
    let slower = GroupOptions { lr_scale: 0.25, ..Default::default() };
    optimizer.into().group(|name| ["b", "e"].contains(&name), slow).group(|name| name == "d", slower)
}

fn given(device: &Device, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    let g = Graph::training();
    let sum = SIZES.map(|(name, n)| g.param(name, [n], Init::Constant(0.5)).sum_all()).into_iter().reduce(|a, b| a + b);
    Trainer::new(device, sum.expect("some"), optimizer)
}

/// Gradients of 0.25, but for one element of some parameters.
fn grads(spoilt: &[(&'static str, usize, f32)]) -> Vec<(&'static str, Host<f32>)> {
    let one = |(name, n): (&'static str, usize)| {
        let mut g = vec![0.25; n];
        spoilt.iter().filter(|s| s.0 == name).for_each(|s| g[s.1] = s.2);
        (name, Host::new([n], g))
    };
    SIZES.into_iter().map(one).collect()
}

fn order(device: &Device) -> Check {
    let inf = f32::INFINITY;
    let mut trainer = given(device, grouped(Adam::new(0.01)))?;
    let mut step = 0;
    // One after the other in the same trainer: what was told before is forgotten.
    for (spoilt, first) in [
        (&[("b", 8_999, f32::NAN), ("c", 0, f32::NAN)][..], "b"),
        (&[("c", 19_999, inf)], "c"),
        (&[("c", 16_384, -inf), ("d", 63, inf)], "c"),
        (&[("f", 2, -f32::NAN), ("e", 4_000, inf)], "e"),
        (&[("f", 0, f32::NAN)], "f"),
        (&[("d", 17, -inf), ("e", 0, f32::NAN), ("b", 5_000, inf)], "b"),
        (&[("a", 69, inf), ("b", 0, f32::NAN), ("c", 9, inf), ("d", 1, inf), ("e", 1, inf), ("f", 1, inf)], "a"),
        (&[("d", 0, f32::from_bits(0x7f80_0001))], "d"),
    ] {
        trainer.apply_gradients(&grads(&[]))?;
        trainer.loss()?;
        step += 1;
        let before = weights(&trainer)?;
        trainer.apply_gradients(&grads(spoilt))?;
        // Those behind it change nothing, and are not what is told.
        trainer.apply_gradients(&grads(&[("a", 0, inf)]))?;
        trainer.apply_gradients(&grads(&[]))?;
        assert_eq!(told(&mut trainer), bad(step, "gradient", first), "{spoilt:?}");
        assert_eq!((trainer.steps(), weights(&trainer)?), (step, before));
    }
    // The largest finite ones are none, nor is an update that would overflow.
    trainer.apply_gradients(&grads(&[("c", 5, f32::MAX), ("e", 5, -1e30)]))?;
    assert_eq!(told(&mut trainer), bad(step, "update (the optimizer's state `square` would overflow)", ""));
    trainer.apply_gradients(&grads(&[]))?;
    trainer.loss()?;
    Ok(())
}

fn causes(device: &Device) -> Check {
    let g = Graph::training();
    // √(w + x) has the gradient ½/√(w + x), which is infinite where w + x is 0.
    let roots = |name: &str| (g.param(name, [2], Init::Ones) + g.input([2])).sqrt().sum_all();
    let loss = roots("u") + roots("v") + g.input([]).exp();
    let mut trainer = Trainer::new(device, loss, Sgd::new(1e-3))?;
    // The weights have moved by 1e-3 at most, so what makes their root 0 is asked for.
    let at_zero = |trainer: &Trainer, name: &str| -> Result<Host<f32>, Error> {
        let w = trainer.params().get(name)?.f()[1];
        Ok(Host::new([2], vec![1.0, -w]))
    };
    let (fine, zero, huge) = (Host::new([2], vec![1.0, 2.0]), Host::new([], vec![0.0]), Host::new([], vec![1000.0]));
    let below = Host::new([2], vec![1.0, -9.0]);
    let good = [fine.clone(), fine.clone(), zero.clone()];
    trainer.step(&good)?;
    trainer.step(&[fine.clone(), fine.clone(), huge.clone()])?;
    assert_eq!(told(&mut trainer), bad(1, "loss", ""));
    trainer.step(&[fine.clone(), at_zero(&trainer, "v")?, zero.clone()])?;
    assert_eq!(told(&mut trainer), bad(1, "gradient", "v"));
    trainer.step(&[at_zero(&trainer, "u")?, at_zero(&trainer, "v")?, zero.clone()])?;
    assert_eq!(told(&mut trainer), bad(1, "gradient", "u"));
    // Both: the loss is told first, and the parameter all the same.
    trainer.step(&[fine.clone(), at_zero(&trainer, "v")?, huge.clone()])?;
    assert_eq!(told(&mut trainer), bad(1, "loss", "v"));
    // The root of a negative number is NaN, as is its gradient.
    trainer.step(&[below.clone(), fine.clone(), zero.clone()])?;
    assert_eq!(told(&mut trainer), bad(1, "loss", "u"));
    trainer.step(&good)?;
    assert!(trainer.loss()?.is_finite());
    assert_eq!(trainer.steps(), 2);
    Ok(())
}

fn frozen(device: &Device) -> Check {
    let g = Graph::training();
    let roots = |name: &str| (g.param(name, [2], Init::Ones) + g.input([2])).sqrt().sum_all();
    let loss = roots("first") + roots("second") + roots("third");
    let mut trainer = Trainer::new(device, loss, Adam::new(1e-3).freeze(["first"]))?;
    let [fine, zero] = [1.0, -1.0].map(|x| Host::new([2], vec![1.0, x]));
    // Its root is 0: the gradient that nobody computes would be infinite.
    trainer.step(&[zero.clone(), fine.clone(), fine.clone()])?;
    trainer.loss()?;
    let w = trainer.params().get("third")?.f()[1];
    trainer.step(&[zero, fine.clone(), Host::new([2], vec![1.0, -w])])?;
    assert_eq!(told(&mut trainer), bad(1, "gradient", "third"));
    // The loss is NaN by the frozen one alone.
    trainer.step(&[Host::new([2], vec![1.0, -2.0]), fine.clone(), fine])?;
    assert_eq!(told(&mut trainer), bad(1, "loss", ""));
    Ok(())
}

fn no_reads(device: &Device) -> Check {
    let mut trainer = given(device, grouped(Adam::new(0.01)))?;
    trainer.step(&[])?;
    trainer.loss()?;
    let reads = |trainer: &Trainer| trainer.counters().map_or([0; 2], |c| [c.reads, c.waits]);
    let before = reads(&trainer);
    for _ in 0..30 {
        trainer.step(&[])?;
    }
    assert_eq!(reads(&trainer), before);
    trainer.loss()?;
    let one = u64::from(device.as_gpu().is_some());
    assert_eq!(reads(&trainer), before.map(|n| n + one));
    Ok(())
}

/// One sample spoils the gradient of `b` or of `a`; samples are in order, and the data is on the device where there is one.
fn in_fit(device: &Device) -> Check {
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        let root = |k: usize, name: &str| (x.slice(1, k, k + 1) * x.graph().param(name, [1], Init::Ones)).sqrt();
        root(0, "b") + root(1, "a")
    }
    let (n, steps) = (64, 16);
    let data = |spoilt: &[(usize, usize)]| {
        let mut x: Vec<f32> = (0..2 * n).map(|k| 1.0 + (k * 37 % 61) as f32 / 64.0).collect();
        spoilt.iter().for_each(|&(row, column)| x[2 * row + column] = 0.0);
        Dataset::new(x, [2], Target::values([1], vec![3.0; n]))
    };
    let fine = data(&[])?;
    for together in [1, 5, 16, 64] {
        let rule = Sgd::new(0.01).group(|name| name == "b", GroupOptions { lr_scale: 0.5, ..Default::default() });
        let mut trainer = Trainer::for_data(device, &fine, model, |y, t| y.mse(t), rule)?;
        let fit = || Fit::new().batch_size(4).shuffle(false).steps_per_submit(together);
        trainer.fit(&fine, fit())?;
        let mut diverge = |spoilt: &[(usize, usize)], first: u64, name: &str| -> Check {
            match trainer.fit(&data(spoilt)?, fit()) {
                Err(Error::Diverged { step, what, parameter: Some(parameter), loss }) => {
                    assert_eq!((step, what.as_str(), parameter.as_str()), (first, "gradient", name), "{together} steps a submit");
                    assert!(loss.is_finite());
                }
                other => return Err(format!("{other:?}").into()),
            }
            assert_eq!(trainer.steps(), first);
            Ok(())
        };
        // The sample 33 is in the step 8 of an epoch, the sample 62 in the last one.
        diverge(&[(33, 1), (40, 0)], steps + 8, "a")?;
        diverge(&[(62, 0), (61, 1)], steps + 8 + 15, "b")?;
        diverge(&[(0, 1)], steps + 8 + 15, "a")?;
        trainer.fit(&fine, fit())?;
        assert_eq!(trainer.steps(), 2 * steps + 23);
        assert!(trainer.take_reports()?.iter().all(|r| r.loss.is_finite() && r.grad_norm.is_finite() && r.grad_norm > 0.0));
    }
    Ok(())
}

fn micro(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([2, 2]);
    let root = |k: usize, name: &str| (x.slice(1, k, k + 1) * g.param(name, [1], Init::Ones)).sqrt();
    let loss = (root(0, "first") + root(1, "second")).mean_all();
    let mut trainer = Trainer::new(device, loss, grouped_by_name(Adam::new(0.01)))?;
    let batch = |a: f32, b: f32| [Host::new([2, 2], vec![1.0, 2.0, a, b])];
    let good = batch(1.0, 1.0);
    for (at, spoilt, name) in [(0, batch(1.0, 0.0), "second"), (1, batch(0.0, 1.0), "first"), (2, batch(0.0, 0.0), "first")] {
        (0..2).try_for_each(|_| trainer.accumulate(&good))?;
        trainer.step(&good)?;
        trainer.loss()?;
        let (steps, before) = (trainer.steps(), weights(&trainer)?);
        let parts: Vec<_> = (0..3).map(|k| if k == at { &spoilt } else { &good }).collect();
        trainer.accumulate(parts[0])?;
        trainer.accumulate(parts[1])?;
        trainer.step(parts[2])?;
        assert_eq!(told(&mut trainer), bad(steps, "gradient", name), "micro-batch {at}");
        assert_eq!(weights(&trainer)?, before);
    }
    Ok(())
}

fn grouped_by_name(optimizer: impl Into<Optimizer>) -> Optimizer {
    optimizer.into().group(|name| name == "first", GroupOptions { lr_scale: 0.5, ..Default::default() })
}

fn words(device: &Device) -> Check {
    const END: &str =
        "The weights are those of the last finite step; a smaller learning rate (Trainer::set_lr) or gradient clipping usually helps";
    let text = |trainer: &mut Trainer| trainer.loss().err().map_or(String::new(), |error| error.to_string());
    let mut trainer = given(device, Adam::new(0.01))?;
    trainer.apply_gradients(&grads(&[("c", 3, f32::NAN)]))?;
    // It has no loss.
    let want = format!("step 0: the gradient is not finite; the first parameter whose gradient is not finite is c. {END}");
    assert_eq!(text(&mut trainer), want);
    trainer.apply_gradients(&grads(&[("c", 3, 1e30)]))?;
    let want = format!("step 0: the update (the optimizer's state `square` would overflow) is not finite. {END}");
    assert_eq!(text(&mut trainer), want);
    let g = Graph::training();
    let loss = (g.param("w", [1], Init::Ones) * g.input([1])).sqrt().sum_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.1))?;
    let x = |x: f32| [Host::new([1], vec![x])];
    trainer.step(&x(0.0))?;
    let want = format!("step 0: the gradient is not finite (loss 0); the first parameter whose gradient is not finite is w. {END}");
    assert_eq!(text(&mut trainer), want);
    trainer.step(&x(-1.0))?;
    let want = format!("step 0: the loss is not finite (NaN); the first parameter whose gradient is not finite is w. {END}");
    assert_eq!(text(&mut trainer), want);
    let loss = g.param("v", [1], Init::Ones).sum_all() + g.input([1]).exp().sum_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.1))?;
    trainer.step(&[x(0.0), x(1000.0)].concat())?;
    assert_eq!(text(&mut trainer), format!("step 0: the loss is not finite (inf). {END}"));
    Ok(())
}
