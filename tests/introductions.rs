//! The introductory examples, by the functions whose results they print: every number against the one derived by hand.
//!
//! Tolerances: [`testing::close`], the crate's one formula, where a result is a few operations away from its inputs or
//! where training makes up for rounding as it goes; where neither is so, the bound stands beside the check with its reason.

// Each example has what all of them share as a module of its own.
#![allow(clippy::duplicate_mod)]

mod common;
#[path = "../examples/custom_loss.rs"]
mod custom_loss;
#[path = "../examples/gradient_descent.rs"]
mod gradient_descent;
#[path = "../examples/linear.rs"]
mod linear;
#[path = "../examples/neuron.rs"]
mod neuron;
#[path = "../examples/tabular.rs"]
mod tabular;

use common::{BOTH, Check, On, Suite};
use downhill::{Device, Error, optim::Sgd, testing::close};
use tabular::{Metric, Outcome, Problem};

fn main() {
    let mut suite = Suite::new();
    suite.each(&BOTH, "gradient_descent/bowl", bowl);
    suite.each(&BOTH, "gradient_descent/rosenbrock", rosenbrock);
    suite.each(&BOTH, "gradient_descent/himmelblau", himmelblau);
    suite.each(&BOTH, "linear/start", start);
    suite.each(&BOTH, "linear/train", train);
    suite.each(&BOTH, "linear/stack", stack);
    suite.each(&BOTH, "neuron", neuron);
    suite.each(&BOTH, "custom_loss/focal", focal);
    suite.each(&BOTH, "custom_loss/train", focal_train);
    for optimizer in 0..tabular::OPTIMIZERS.len() {
        suite.on(On::Cpu, &format!("tabular/{}", tabular::OPTIMIZERS[optimizer]), move |device| tables(device, optimizer));
    }
    suite.on(On::Gpu, "tabular", tables_agree);
    suite.run()
}

/// The rounding error of `f32`, relative: half the distance of two neighbours.
const EPSILON: f64 = f32::EPSILON as f64 / 2.0;

/// Rates too small, right, the best, of no use, and too large, each as the closed form says.
fn bowl(device: &Device) -> Check {
    use gradient_descent::*;
    for rate in BOWL_RATES {
        let d = descend_from(device, bowl, BOWL_START, Sgd::new(rate), BOWL)?;
        for (axis, curvature) in [1.0, 10.0].into_iter().enumerate() {
            let want = (1.0 - curvature * rate).powi(d.steps as i32) * f64::from(BOWL_START[axis]);
            // A step rounds the rate, the product and the difference, of numbers up to six times the result.
            let tolerance = 20.0 * (d.steps + 1) as f64 * EPSILON * want.abs();
            assert!((d.at[0][axis] - want).abs() <= tolerance, "rate {rate}, axis {axis}: {d:?}, by hand {want}");
        }
        let stationary = rate == 0.1 || rate == 2.0 / 11.0;
        assert_eq!(d.stationary, stationary, "rate {rate}: {d:?}");
        assert!(!stationary || d.gradient < BOWL.tolerance, "rate {rate}: {d:?}");
        match (rate < 0.3, &d.diverged) {
            (true, None) => assert!(d.steps <= BOWL.steps && d.f.is_finite(), "rate {rate}: {d:?}"),
            // y doubles each step: 5 · 4ᵏ, the loss of step k, is first beyond the largest f32, 2¹²⁸, for k = 63.
            (false, Some(Error::Diverged { step: 63, loss, .. })) => assert!(*loss == f32::INFINITY && d.steps == 63, "{d:?}"),
            _ => panic!("rate {rate}: {d:?}"),
        }
    }
    // The best rate is the soonest there.
    let steps = |rate| descend_from(device, bowl, BOWL_START, Sgd::new(rate), BOWL).map(|d| d.steps);
    assert!(steps(2.0 / 11.0)? < steps(0.1)?);
    Ok(())
}

fn rosenbrock(device: &Device) -> Check {
    use gradient_descent::*;
    let from = |rate: Sgd, limits| descend_from(device, rosenbrock, ROSENBROCK_START, rate, limits);
    // At (−1.2, 1): f = 2.2² + 100 · 0.44², ∇f = (−4.4 − 211.2, −88).
    let start = from(Sgd::new(1.0), Limits { steps: 0, ..ROSENBROCK })?;
    close(&[start.f, start.gradient], &[24.2, 215.6f64.hypot(88.0)], 2)?;

    let fast = from(Sgd::new(0.0005).momentum(0.95), ROSENBROCK)?;
    let mut stationary = vec![fast];
    if device.as_gpu().is_none() {
        // 10,000 steps, which a software adapter takes long for.
        stationary.push(from(Sgd::new(0.0015), ROSENBROCK)?);
        assert!(stationary[1].steps > 4 * stationary[0].steps, "{stationary:?}");
    }
    for d in stationary {
        assert!(d.stationary && d.gradient < ROSENBROCK.tolerance && d.diverged.is_none(), "{d:?}");
        // Near (1, 1) the smallest curvature is 0.399, so a gradient this small is at most this far from it.
        let far = (d.at[0][0] - 1.0).hypot(d.at[0][1] - 1.0);
        assert!(far <= 1.1 * d.gradient / 0.399, "{d:?}");
    }
    let slow = from(Sgd::new(0.00001), Limits { steps: 500, ..ROSENBROCK })?;
    assert!(!slow.stationary && slow.diverged.is_none() && slow.f > 1.0 && slow.f < start.f, "{slow:?}");
    let wild = from(Sgd::new(0.01), ROSENBROCK)?;
    assert!(matches!(wild.diverged, Some(Error::Diverged { .. })) && wild.at[0].iter().all(|w| w.is_finite()), "{wild:?}");
    Ok(())
}

/// Random starts end in local minima, and not all in the same.
fn himmelblau(device: &Device) -> Check {
    use gradient_descent::*;
    let start = descend_from_many(device, himmelblau, 12, 0.01, Limits { steps: 0, ..HIMMELBLAU })?;
    assert!(start.at.iter().all(|p| p.iter().all(|v| v.abs() <= 5.0)) && start.f > 100.0, "{start:?}");
    let end = descend_from_many(device, himmelblau, 12, 0.01, HIMMELBLAU)?;
    assert!(end.stationary && end.f < 1e-6, "{end:?}");
    let mut found = [false; 4];
    for at in end.at {
        let (minimum, far) = nearest(at);
        found[minimum] = true;
        // The smallest curvature at any of the minima is 25.7, at (3, 2).
        assert!(far <= 1.1 * HIMMELBLAU.tolerance / 25.7, "{at:?} is {far} away from minimum {minimum}");
    }
    assert_eq!(found, [true; 4], "each minimum is reached from somewhere");
    Ok(())
}

fn start(device: &Device) -> Check {
    let s = linear::start(device)?;
    close(&[s.loss], &[s.loss_by_hand], 6)?;
    close(&s.gradient, &s.gradient_by_hand, 6)?;
    // By pencil: the errors are 19.4, 85.8, −0.6, −5.4, 18.2 and 24.2.
    close(&[s.loss_by_hand], &[1447.4], 1)?;
    close(&s.gradient_by_hand, &[94.0 / 3.0, 202.0 / 3.0, 106.4], 1)?;
    for n in &s.nudges {
        // Each E is off by some roundings of its own size: those of w·x − t, its square, and the mean.
        let bound = 6.0 * EPSILON * s.loss / n.h;
        assert!((n.to_one_side - n.by_hand).abs() <= bound, "h {}: {} instead of {}", n.h, n.to_one_side, n.by_hand);
        assert!((n.to_both - s.gradient_by_hand[2]).abs() <= bound, "h {}: {}", n.h, n.to_both);
    }
    // The bound says something for the larger nudges.
    let best = &s.nudges[1];
    assert!((best.to_both / s.gradient_by_hand[2] - 1.0).abs() < 1e-4 && best.to_one_side != best.to_both);
    Ok(())
}

fn train(device: &Device) -> Check {
    use linear::{Bias, train};
    let trained = train(device, Bias::None)?;
    // E at the start is that of `start`, and 0 is its minimum.
    close(&trained.losses[..1], &[1447.4], 6)?;
    assert!(trained.losses.len() == 500 && trained.losses[499] < 1e-9, "{:?}", trained.losses[499]);
    let w = trained.weights;
    close(&w, &[5.0, 2.0, 1.0], 18)?;
    let predicted: f64 = w.iter().zip(linear::UNSEEN.0).map(|(w, x)| w * f64::from(x)).sum();
    close(&[predicted], &[19.0], 18)?;
    for bias in [Bias::FourthInput, Bias::OfLayer] {
        close(&train(device, bias)?.weights, &[5.0, 2.0, 1.0, 3.0], 24)?;
    }
    Ok(())
}

/// Small whole numbers: both ways are exact.
fn stack(device: &Device) -> Check {
    let s = linear::stack(device)?;
    assert_eq!(s.product, [5.0, 2.0, 1.0]);
    assert_eq!((&s.two[..], &s.one[..]), (&[11.0, 7.0, 2.0, 7.0, 15.0, 6.0][..], &s.two[..]));
    Ok(())
}

fn neuron(device: &Device) -> Check {
    let steps = neuron::train(device, 5)?;
    // The first step by pencil: z = 0.5·1.5 − 0.75·2 + 0.25, and ∂L/∂z = a − 1 = −1 / (1 + e⁻⁰·⁵).
    let d = -1.0 / (1.0 + (-0.5f64).exp());
    let [z, a, .., w1, w2, b] = steps[0].computed;
    close(&[z, a, w1, w2, b], &[-0.5, 1.0 + d, 0.5 - 0.75 * d, 0.75 + d, 0.25 - 0.5 * d], 3)?;
    for (i, step) in steps.iter().enumerate() {
        close(&step.computed, &step.by_hand, 3 * (i + 1)).map_err(|why| format!("step {}: {why}", i + 1))?;
    }
    Ok(())
}

fn focal(device: &Device) -> Check {
    use custom_loss::{CLASSES, LOGITS, by_hand, report};
    let r = report(device)?;
    let want: Vec<[f64; 2]> = LOGITS.iter().zip(CLASSES).map(|(&x, y)| by_hand(f64::from(x), f64::from(y))).collect();
    close(&r.values, &want.iter().map(|w| w[0]).collect::<Vec<_>>(), 8)?;
    close(&r.gradient, &want.iter().map(|w| w[1]).collect::<Vec<_>>(), 8)?;
    // By pencil, at logit 0: p = ½, so FL = α ln 2 / 4 and its slope, for class 1, α/4 · (ln ½ − ½).
    let ln2 = 2f64.ln();
    close(&[r.values[2], r.gradient[2]], &[0.25 * ln2 / 4.0, -0.0625 * (ln2 + 0.5)], 1)?;
    // Elementwise kernels and one sum: the functions have no kernels of their own, and most have none at all.
    assert!(r.plan.lines().all(|l| ["map ", "reduce ", "update "].iter().any(|op| l.starts_with(op))), "{}", r.plan);
    assert_eq!(r.plan.lines().filter(|l| l.starts_with("reduce ")).count(), 1, "{}", r.plan);
    assert!(
        r.plan.lines().filter(|l| !l.starts_with("update ")).count() == r.kernels && r.kernels <= 8 && r.unfused >= 20,
        "{} of {}\n{}",
        r.kernels,
        r.unfused,
        r.plan
    );
    Ok(())
}

fn focal_train(device: &Device) -> Check {
    let (history, accuracy) = custom_loss::train(device)?;
    assert!(history.epochs[39].loss < 0.25 * history.epochs[0].loss, "{} {}", history.epochs[0].loss, history.epochs[39].loss);
    assert!(accuracy >= 0.93, "{accuracy}");
    Ok(())
}

fn tables(device: &Device, optimizer: usize) -> Check {
    for problem in tabular::problems()? {
        check_outcome(&problem, optimizer, &problem.train(device, optimizer)?)?;
    }
    Ok(())
}

/// Near the least loss on the training part, and of use on the held-out part.
fn check_outcome(problem: &Problem, optimizer: usize, o: &Outcome) -> Check {
    let what = format!("{}, {}: loss {}, held out {}", problem.name, tabular::OPTIMIZERS[optimizer], o.loss, o.metric);
    let good = match problem.metric {
        Metric::R2 => o.metric >= 0.5,
        // The targets' own mean absolute deviation is 66.
        Metric::Mae => o.metric <= 45.0,
        Metric::Accuracy => o.metric >= if problem.name.starts_with("iris") { 0.9 } else { 0.96 },
    };
    assert!(good, "{what}");
    assert!(o.steps_to_near.is_some_and(|steps| steps <= o.steps) && o.loss <= problem.near, "{what}");
    if problem.metric == Metric::R2 {
        let least = problem.least_squares()?;
        // Full-batch descent goes all the way; the noise of batches keeps the others near.
        let slack = if optimizer == 0 { 1e-4 } else { 0.02 };
        assert!(o.loss >= least * (1.0 - 1e-6) && o.loss < least * (1.0 + slack), "{what}, by the normal equations {least}");
    }
    Ok(())
}

/// One optimizer for each problem, as a software adapter is slow: the same end as on the CPU.
fn tables_agree(device: &Device) -> Check {
    for (problem, optimizer) in tabular::problems()?.iter().zip(1..) {
        let (cpu, gpu) = (problem.train(&Device::cpu(), optimizer)?, problem.train(device, optimizer)?);
        check_outcome(problem, optimizer, &gpu)?;
        // The same weights to start with and the same batches. Only rounding differs, and a convex loss undoes that.
        assert!((cpu.loss - gpu.loss).abs() <= 1e-3 * cpu.loss, "{}: {} on the CPU, {} on the GPU", problem.name, cpu.loss, gpu.loss);
    }
    Ok(())
}
