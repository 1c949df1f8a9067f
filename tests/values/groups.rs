//! Many groups of parameters, each with settings of its own.

use crate::common::{Check, On, Suite, bits, grid, weights};
use downhill::{
    Device, Error, Fit, Graph, Host, Tensor, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{GroupOptions, Optimizer, Schedule, Sgd},
};
use std::sync::Arc;

const ALL: [On; 4] = [On::Cpu, On::Gpu, On::Checked, On::Pieces];

pub fn trials(suite: &mut Suite) {
    suite.each(&ALL, "a thousand groups", thousand);
    suite.each(&ALL, "the settings of many groups in one submit", many_steps);
}

/// Each parameter has settings of its own, and some are frozen; one is larger than a small device can bind. Momentum by hand.
fn thousand(device: &Device) -> Check {
    // The tables of a thousand are more than 64 KiB, which is all that a kernel of the small device can bind.
    let small = device.as_gpu().is_some_and(|gpu| gpu.caps().max_binding_bytes <= 64 << 10);
    let n = if small { 900 } else { 1000 };
    let size = |i: usize| if i == 500 { 20_000 } else { 1 + i % 3 };
    let settings = |i: usize| (if i % 100 == 7 { 0.0 } else { 0.25 + i as f64 / 1024.0 }, (i % 17) as f64 / 64.0);
    let number = |name: &str| name[1..].parse::<usize>().expect("a number");
    let mut optimizer: Optimizer = Sgd::new(0.5).momentum(0.75).into();
    for i in 0..n {
        let (lr_scale, decay) = settings(i);
        optimizer = optimizer.group(move |name| number(name) == i, GroupOptions { lr_scale, weight_decay: Some(decay) });
    }
    let g = Graph::training();
    let start = |i: usize| grid(size(i), 37, i, 61);
    let params: Vec<Tensor> = (0..n).map(|i| g.param(format!("p{i}").as_str(), [size(i)], Init::Values(Arc::new(start(i))))).collect();
    let sums: Vec<Tensor> = params.iter().map(|p| p.sum_all()).collect();
    let loss = sums[1..].iter().fold(sums[0], |sum, &x| sum + x);
    let mut trainer = Trainer::new(device, loss, optimizer)?;
    let grad = |i: usize, step: usize| grid(size(i), 41, 13 * step + i, 101);
    for step in 0..3 {
        let named: Vec<(String, Host<f32>)> =
            (0..n).filter(|&i| settings(i).0 > 0.0).map(|i| (format!("p{i}"), Host::new([size(i)], grad(i, step)))).collect();
        let named: Vec<(&str, Host<f32>)> = named.iter().map(|(name, g)| (name.as_str(), g.clone())).collect();
        trainer.apply_gradients(&named)?;
    }
    trainer.take_reports()?;
    for (i, (name, got)) in trainer.params().all()?.into_iter().enumerate() {
        let (scale, decay) = settings(i);
        let mut w: Vec<f64> = start(i).iter().map(|&w| f64::from(w)).collect();
        let mut b = vec![0.0; w.len()];
        for step in 0..3 {
            for ((w, b), g) in w.iter_mut().zip(&mut b).zip(grad(i, step)) {
                *b = 0.75 * *b + f64::from(g) + decay * *w;
                *w -= 0.5 * scale * *b;
            }
        }
        if scale == 0.0 {
            assert_eq!(bits(got.f()), bits(&start(i)), "{name}");
        }
        for (k, (got, want)) in got.f().iter().zip(&w).enumerate() {
            assert!((f64::from(*got) - want).abs() < 2e-6, "{name}[{k}]: {got} instead of {want}");
        }
    }
    Ok(())
}

/// A submit has the largest number of steps whose hyperparameters a kernel can bind. The learning rate changes with each step.
fn many_steps(device: &Device) -> Check {
    fn model(x: Tensor<'_>) -> Tensor<'_> {
        let sum = (0..300).map(|i| x.graph().param(format!("p{i}").as_str(), [1], Init::Constant(i as f32 / 4096.0))).reduce(|a, b| a + b);
        x * sum.expect("there are some")
    }
    let data = Dataset::new(grid(40, 37, 5, 61), [1], Target::values([1], grid(40, 29, 7, 23)))?;
    let run = |together: Option<usize>| -> Result<_, Error> {
        let mut optimizer = Sgd::new(1e-4).schedule(Schedule::cosine(40));
        for i in 0..300 {
            let options = GroupOptions { lr_scale: 1.0 + i as f64 / 64.0, ..Default::default() };
            optimizer = optimizer.group(move |name| name == format!("p{i}"), options);
        }
        let mut trainer = Trainer::for_data(device, &data, model, |y, t| y.mse(t), optimizer)?;
        let fit = Fit::new().batch_size(2).epochs(2);
        trainer.fit(&data, if let Some(n) = together { fit.steps_per_submit(n) } else { fit })?;
        weights(&trainer)
    };
    let one = run(Some(1))?;
    assert!(one.iter().enumerate().all(|(i, (_, w))| w != &bits(&[i as f32 / 4096.0])), "all are trained");
    for together in [Some(20), Some(64), None] {
        assert!(run(together)? == one, "{together:?} steps a submit");
    }
    Ok(())
}
