//! Options of optimizers, groups and schedules that are out of range.

use crate::{common::Check, expect};
use downhill::{
    Device, Error, Graph, Trainer,
    init::Init,
    optim::{
        Adadelta, Adagrad, Adam, AdamW, Adamax, GroupOptions, Lamb, Lars, Lion, NAdam, Optimizer, RAdam, RmsProp, Scaling, Schedule, Sgd,
    },
};
use std::sync::Arc;

/// A graph of one parameter.
fn train(optimizer: impl Into<Optimizer>) -> Option<Error> {
    let g = Graph::training();
    let loss = g.param("a.weight", [2, 2], Init::Ones).square().sum_all();
    Trainer::new(&Device::cpu(), loss, optimizer).err()
}

pub fn optimizers() -> Check {
    for lr in [f64::NAN, f64::INFINITY, -f64::INFINITY, 0.0, -0.1, 1e-60, 1e60] {
        let rules: [Optimizer; 5] =
            [Sgd::new(lr).into(), Adam::new(lr).into(), AdamW::new(lr).into(), RmsProp::new(lr).into(), Adagrad::new(lr).into()];
        let adams: [Optimizer; 4] = [NAdam::new(lr).into(), RAdam::new(lr).into(), Adamax::new(lr).into(), Adadelta::new(lr).into()];
        let large: [Optimizer; 3] = [Lamb::new(lr).into(), Lars::new(lr).into(), Lion::new(lr).into()];
        for rule in rules.into_iter().chain(adams).chain(large) {
            let start = format!("{}: the learning rate is {lr}, but must be finite and positive", rule.name());
            expect("lr", train(rule), &[&start])?;
        }
    }
    let nan = f64::NAN;
    for (optimizer, text) in [
        (Optimizer::from(Sgd::new(0.1).momentum(nan)), "Sgd: "),
        (Sgd::new(0.1).momentum(-1.0).into(), "Sgd: "),
        (Sgd::new(0.1).weight_decay(-1.0).into(), "Sgd: the weight decay is -1"),
        (Sgd::new(0.1).nesterov(true).into(), "Sgd: "),
        (Adam::new(0.1).betas(1.0, 0.9).into(), "Adam: beta1 is 1, but must be at least 0 and below 1"),
        (Adam::new(0.1).betas(0.9, nan).into(), "Adam: beta2 is NaN"),
        (Adam::new(0.1).eps(0.0).into(), "Adam: eps is 0"),
        (AdamW::new(0.1).eps(1e-60).into(), "AdamW: eps is "),
        (RmsProp::new(0.1).alpha(2.0).into(), "RmsProp: alpha is 2"),
        (Adagrad::new(0.1).initial_accumulator_value(-1.0).into(), "Adagrad: "),
        (Adamax::new(0.1).betas(0.9, 1.0).into(), "Adamax: beta2 is 1, but must be at least 0 and below 1"),
        (Adamax::new(0.1).eps(0.0).into(), "Adamax: eps is 0"),
        (NAdam::new(0.1).betas(nan, 0.9).into(), "NAdam: beta1 is NaN"),
        (NAdam::new(0.1).momentum_decay(-1.0).into(), "NAdam: momentum_decay is -1, but must be finite and not negative"),
        (RAdam::new(0.1).betas(0.9, 1.0).into(), "RAdam: beta2 is 1"),
        (RAdam::new(0.1).weight_decay(-1.0).into(), "RAdam: the weight decay is -1"),
        (Adadelta::new(1.0).rho(1.0).into(), "Adadelta: rho is 1, but must be at least 0 and below 1"),
        (Adadelta::new(1.0).eps(nan).into(), "Adadelta: eps is NaN"),
        (Lion::new(0.1).betas(0.9, -0.5).into(), "Lion: beta2 is -0.5"),
        (Lion::new(0.1).weight_decay(nan).into(), "Lion: the weight decay is NaN"),
        (Lars::new(0.1).momentum(nan).into(), "Lars: momentum is NaN"),
        (Lars::new(0.1).trust_coeff(0.0).into(), "Lars: trust_coeff is 0, but must be finite and positive (as f32)"),
        (Lars::new(0.1).momentum(0.9).dampening(0.5).nesterov(true).into(), "Lars: nesterov needs a momentum above 0"),
        (Lars::new(0.1).eps(0.0).into(), "Lars: eps is 0"),
        (Lamb::new(0.1).betas(1.0, 0.9).into(), "Lamb: beta1 is 1"),
        (Lamb::new(0.1).eps(-1.0).into(), "Lamb: eps is -1"),
        (Lamb::new(0.1).max_grad_norm(0.0).into(), "Lamb: the norm to clip to is 0, but must be finite and positive"),
        (Lamb::new(0.1).max_grad_norm(f64::INFINITY).into(), "Lamb: the norm to clip to is inf"),
        (Sgd::new(0.1).clip_norm(0.0), "Sgd: the norm to clip to is 0"),
        (Sgd::new(0.1).clip_norm(nan), "Sgd: the norm to clip to is NaN"),
        (Sgd::new(0.1).clip_norm(f64::INFINITY), "Sgd: the norm to clip to is inf, but must be finite and positive (as f32)"),
        (Sgd::new(0.1).clip_value(0.0), "Sgd: the value to clip to is 0, but must be finite and positive (as f32)"),
        (Sgd::new(0.1).clip_value(-1.0), "Sgd: the value to clip to is -1"),
        (Sgd::new(0.1).clip_value(nan), "Sgd: the value to clip to is NaN"),
        (Sgd::new(0.1).clip_value(f64::INFINITY), "Sgd: the value to clip to is inf"),
        (Sgd::new(0.1).clip_value(1e300), "Sgd: the value to clip to is 1"),
        (Sgd::new(0.1).clip_norm(1.0).clip_value(1e-60), "Sgd: the value to clip to is 0.000"),
        (Sgd::new(0.1).freeze(["a"]), "Sgd: every parameter is frozen"),
        (Sgd::new(0.1).freeze(["b"]), "Sgd: freeze names `b`, and there is no parameter or layer of that name; the names are a.weight"),
        (Sgd::new(0.1).group(|_| false, GroupOptions::default()), "Sgd: group 0 (counted from 0) has no parameter"),
        (Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: nan, ..Default::default() }), "Sgd: the lr_scale of a group is NaN"),
        (Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: 1e-60, ..Default::default() }), "Sgd: the lr_scale of a group is 0.0000"),
        (Sgd::new(0.1).group(|_| true, GroupOptions { weight_decay: Some(nan), ..Default::default() }), "Sgd: the weight decay is NaN"),
        (Sgd::new(0.1).schedule(Schedule::step(0, 0.5)), ""),
        (Sgd::new(0.1).schedule(Schedule::exponential(nan)), ""),
        (Sgd::new(0.1).schedule(Schedule::cosine(0)), ""),
        (Sgd::new(0.1).schedule(Schedule::cosine_warm_restarts(0, 2)), "schedule CosineWarmRestarts"),
        (Sgd::new(0.1).schedule(Schedule::constant().scaled(0, 256, Scaling::Linear)), "schedule Constant: `scaled` needs a batch"),
        (Sgd::new(0.1).schedule(Schedule::constant().scaled(256, 0, Scaling::Sqrt)), "schedule Constant: `scaled` needs a batch"),
        (Sgd::new(0.1).schedule(Schedule::cosine(0).in_epochs()), "schedule Cosine"),
        (Sgd::new(0.1).schedule(Schedule::warmup(2).then(Schedule::cosine(0))), ""),
        (Sgd::new(0.1).schedule(Schedule::constant().then(Schedule::step(0, 0.5))), ""),
    ] {
        // Asking for its rate must not panic either.
        let _ = (optimizer.lr(0), optimizer.lr(1), optimizer.lr(u64::MAX), format!("{optimizer:?}"));
        let what = format!("{optimizer:?}");
        expect(&what, train(optimizer), &[text])?;
    }
    let g = Graph::training();
    let loss = g.input([2]).sum_all();
    expect("no parameters", Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).err(), &["Sgd: the graph has no parameters to train"])?;
    for (init, text) in [
        (Init::Normal { mean: 0.0, std: f32::NAN }, "parameter w: "),
        (Init::Uniform { low: 1.0, high: -1.0 }, "parameter w: "),
        (Init::Orthogonal { gain: 1.0 }, "parameter w: "),
        (Init::Values(Arc::new(vec![1.0])), "parameter w: 1 values were given for [3]"),
        (Init::FanIn, "parameter w: FanIn needs the shape of a weight"),
    ] {
        let g = Graph::training();
        let loss = g.param("w", [3], init).sum_all();
        expect("init", Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).err(), &[text])?;
    }
    Ok(())
}
