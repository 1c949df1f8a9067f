//! Tests of the settings of users: schedules against PyTorch, ranges of options, groups.

use super::*;
use crate::{graph::Graph, layers::LayerNorm, params::Status};

#[test]
fn schedules_follow_pytorch() {
    let cases = golden("schedules.json");
    assert!(cases.len() >= 103, "{} cases", cases.len());
    for case in &cases {
        let name = case["schedule"].as_str().expect("a name");
        let mut a = Args::new(&case["args"]);
        let lr = a.f(if name == "OneCycleLR" { "max_lr" } else { "lr" });
        let cosine = |mut a: Args| {
            let curve = Curve::Cosine { total: a.u("T_max"), floor: a.f("eta_min") / lr };
            a.done();
            Schedule::from(curve)
        };
        let linear = |mut a: Args| {
            let line = Schedule::linear(a.f("start_factor"), a.f("end_factor"), a.u("total_iters"));
            a.done();
            line
        };
        let schedule = match name {
            "StepLR" => Schedule::step(a.u("step_size"), a.f("gamma")),
            "ExponentialLR" => Schedule::exponential(a.f("gamma")),
            "PolynomialLR" => Schedule::polynomial(a.u("total_iters"), a.f("power")),
            "CosineAnnealingLR" => cosine(std::mem::replace(&mut a, Args(Map::new()))),
            "LinearLR" => linear(std::mem::replace(&mut a, Args(Map::new()))),
            "CosineAnnealingWarmRestarts" => {
                Curve::CosineWarmRestarts { t_0: a.u("T_0"), t_mult: a.u("T_mult"), floor: a.f("eta_min") / lr }.into()
            }
            "Noam" => Schedule::inverse_sqrt(a.u("warm")),
            "SequentialLR" => {
                let milestones = numbers(&a.value("milestones"));
                assert_eq!(milestones.len(), 1);
                let warmup = linear(Args::new(&a.value("warmup"))).lasting(milestones[0] as u64);
                warmup.then(cosine(Args::new(&a.value("cosine"))))
            }
            "OneCycleLR" => {
                assert!(!a.b("three_phase"));
                let straight = a.value("anneal_strategy") == "linear";
                let (total, warm) = (a.u("total_steps"), a.f("pct_start"));
                Curve::OneCycle { total, warm, div: a.f("div_factor"), final_div: a.f("final_div_factor"), straight }.into()
            }
            other => panic!("no schedule for {other}"),
        };
        a.done();
        let optimizer = Sgd::new(lr).schedule(schedule);
        optimizer.check().expect("PyTorch's arguments are in range");
        let want = numbers(&case["lr"]);
        assert!(want.len() == 30 || name == "OneCycleLR");
        for (k, want) in want.iter().enumerate() {
            let got = optimizer.lr(k as u64 + 1);
            // PyTorch multiplies the rate from step to step, which rounds a few times in each step. Our schedule is the closed
            // form.
            assert!((got - want).abs() <= 100.0 * f64::EPSILON * lr, "{name} {}: step {k}: {got} instead of {want}", case["args"]);
        }
    }
}

#[test]
fn schedules_at_their_edges() {
    let s = Schedule::warmup(4)
        .then(Schedule::constant().lasting(2))
        .then(Schedule::step(3, 0.5).lasting(6))
        .then(Schedule::linear(0.2, 0.1, 2));
    let want = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.2, 0.15, 0.1, 0.1];
    for (k, want) in want.iter().enumerate() {
        assert!((s.at(k as u64) - want).abs() < 1e-15, "step {k}: {} instead of {want}", s.at(k as u64));
    }
    assert_eq!(s.at(u64::MAX), 0.1);
    assert_eq!(Schedule::polynomial(10, 2.0).at(11), 0.0);
    // One-cycle gives no NaN for any length and fraction. The first factor is the start, and the last factor is the end.
    for total in 1..40 {
        for warm in [0.0, 0.1, 0.3, 0.5, 1.0] {
            let s = Schedule::from(Curve::OneCycle { total, warm, div: 25.0, final_div: 4.0, straight: false });
            s.check().expect("in range");
            assert!((0..total + 5).all(|k| (0.01 - 1e-12..=1.0 + 1e-12).contains(&s.at(k))), "{s:?}");
            // If all steps rise, the last factor is the highest.
            let end = if warm == 1.0 { 1.0 } else { 0.01 };
            assert!((s.at(total - 1) - end).abs() < 1e-15 && (s.at(total) - end).abs() < 1e-15, "{s:?}");
        }
    }
    assert!((Schedule::one_cycle(100).at(0) - 0.04).abs() < 1e-15 && (Schedule::one_cycle(100).at(29) - 1.0).abs() < 1e-15);

    // Without a rise, the factor falls from 1 on.
    assert_eq!([0, 3, 8].map(|k| Schedule::inverse_sqrt(0).at(k)), [1.0, 0.5, 1.0 / 3.0]);
    // Lengths that double until they are more than can be counted.
    assert!(
        Schedule::cosine_warm_restarts(1, 2).at(u64::MAX).is_finite() && Schedule::cosine_warm_restarts(u64::MAX, u64::MAX).at(5) > 0.999
    );

    let why = |s: Schedule| Sgd::new(0.1).schedule(s).check().unwrap_err().to_string();
    assert_eq!(why(Schedule::constant().then(Schedule::cosine(5))), "schedule Constant: nothing can follow it: end it with `lasting`");
    assert_eq!(why(Schedule::cosine(0)), "schedule Cosine { total: 0, floor: 0.0 }: it must last at least one step");
    for bad in [
        Schedule::step(0, 0.5),
        Schedule::step(1, f64::NAN),
        Schedule::exponential(-0.1),
        Schedule::exponential(f64::INFINITY),
        Schedule::polynomial(5, f64::NAN),
        Schedule::linear(0.1, -1.0, 5),
        Curve::Cosine { total: 5, floor: -0.1 }.into(),
        Schedule::cosine_warm_restarts(0, 1),
        Schedule::cosine_warm_restarts(1, 0),
        Curve::CosineWarmRestarts { t_0: 1, t_mult: 1, floor: f64::NAN }.into(),
        Schedule::warmup(5).in_epochs().then(Schedule::cosine(0).in_samples()),
        Schedule::constant().scaled(0, 256, Scaling::Linear),
        Schedule::constant().scaled(256, 0, Scaling::Linear),
        Schedule::warmup(5).scaled(0, 0, Scaling::Sqrt).then(Schedule::cosine(5)),
        Curve::OneCycle { total: 5, warm: 1.1, div: 25.0, final_div: 1e4, straight: true }.into(),
        Curve::OneCycle { total: 5, warm: 0.3, div: 0.0, final_div: 1e4, straight: true }.into(),
    ] {
        assert!(why(bad.clone()).starts_with("schedule "), "{bad:?}");
    }
}

#[test]
fn schedules_in_epochs_and_samples_become_steps() {
    let same = |a: &Schedule, b: &Schedule| (0..500).for_each(|k| assert_eq!(a.at(k).to_bits(), b.at(k).to_bits(), "step {k}: {a:?}"));
    let to = |s: Schedule| s.to_steps(30, 256).expect("no number is 0");
    let one_cycle = |total| Schedule::from(Curve::OneCycle { total, warm: 0.3, div: 25.0, final_div: 1e4, straight: true });
    // Each curve with a count, in epochs of 30 steps, and in samples, of which 256 or a part of them are a step.
    type Make = fn(u64) -> Schedule;
    let curves: [Make; 9] = [
        |n| Schedule::step(n, 0.5),
        |n| Schedule::polynomial(n, 2.0),
        Schedule::cosine,
        |n| Schedule::cosine_warm_restarts(n, 2),
        Schedule::inverse_sqrt,
        |n| Schedule::linear(0.1, 1.0, n),
        Schedule::warmup,
        Schedule::one_cycle,
        |n| Schedule::constant().lasting(n),
    ];
    for make in curves {
        let then = || Schedule::linear(0.5, 0.1, 7);
        let s = |n| make(n).lasting(n).then(then());
        same(&to(s(4).in_epochs()), &make(120).lasting(120).then(Schedule::linear(0.5, 0.1, 210)));
        // Curves that follow count on their own.
        same(&to(make(4).in_epochs().lasting(4).then(then())), &make(120).lasting(120).then(then()));
        same(&to(s(1025).in_samples()), &make(5).lasting(5).then(Schedule::linear(0.5, 0.1, 1)));
        same(&to(s(4)), &s(4));
        assert!(s(4).in_epochs().at(0).is_nan() && s(4).in_epochs().check().is_ok());
    }
    same(&to(one_cycle(3).in_epochs()), &one_cycle(90));
    // A curve keeps the first unit that it gets.
    let mixed = to(Schedule::warmup(512).in_samples().then(Schedule::cosine(2)).in_epochs());
    same(&mixed, &Schedule::warmup(2).then(Schedule::cosine(60)));
    let gamma = to(Schedule::exponential(0.5).in_epochs());
    assert!((gamma.at(30) - 0.5).abs() < 1e-14 && (gamma.at(15) - 0.5f64.sqrt()).abs() < 1e-14);
    assert!((to(Schedule::exponential(0.999).in_samples()).at(2) - 0.999f64.powi(512)).abs() < 1e-14);
    // A function gets complete epochs, or samples.
    let f = || Schedule::lambda(|k| k as f64);
    assert_eq!([0, 29, 30, 61].map(|k| to(f().in_epochs()).at(k)), [0.0, 0.0, 1.0, 2.0]);
    assert_eq!([0, 1, 7].map(|k| to(f().in_samples()).at(k)), [0.0, 256.0, 1792.0]);
    // The scale is a factor of all curves before it.
    let s = Schedule::warmup(3).scaled(1024, 256, Scaling::Sqrt).then(Schedule::constant()).scaled(8192, 4096, Scaling::Linear);
    assert_eq!([0, 2, 3].map(|k| s.at(k)), [1.0, 3.0, 2.0]);
    for (epoch, step) in [(0, 256), (30, 0)] {
        let error = Schedule::constant().to_steps(epoch, step).unwrap_err().to_string();
        assert_eq!(error, "to_steps: an epoch has at least 1 step, and a step at least 1 sample");
    }
}

/// The rate is outside of the momentum. So the rule is the one with the rate inside and the momentum correction of Goyal et al.
/// 2017, section 3: v ← μ·(lr/lr_before)·v + lr·g, w ← w − v.
#[test]
fn a_jump_of_the_rate_acts_at_once() {
    let (mu, rates) = (0.9, [0.1, 0.1, 1.6, 1.6, 0.2]);
    let o = Sgd::new(1.0).momentum(mu).schedule(Schedule::lambda(move |k| rates[k as usize]));
    let (mut w, mut states) = (vec![0.5, -0.25], states::<f64>(&o, 2));
    let (mut by_hand, mut v, mut before) = (w.clone(), [0.0; 2], rates[0]);
    let mut steps = Vec::new();
    for (k, lr) in rates.into_iter().enumerate() {
        let g = [0.3 + 0.1 * k as f64, -0.7];
        let mut parts: Vec<&mut [f64]> = states.iter_mut().map(|s| &mut s[..]).collect();
        let was = w[0];
        o.update_f64(
            Settings { hyper: &hyper(&o, k as u64 + 1, &[Group { lr_scale: 1.0, weight_decay: 0.0 }]), runs: &[(2, 0)] },
            1.0,
            &mut w,
            &g,
            &mut parts,
        );
        steps.push(was - w[0]);
        for i in 0..2 {
            v[i] = mu * (lr / before) * v[i] + lr * g[i];
            by_hand[i] -= v[i];
            assert!((w[i] - by_hand[i]).abs() < 1e-14, "step {k}, element {i}: {} instead of {}", w[i], by_hand[i]);
        }
        before = lr;
    }
    // The first step at the higher rate is longer by more than the ratio of the rates, because the momentum grows too.
    assert!(steps[2] > 16.0 * steps[1] && steps[4] < 0.2 * steps[3], "{steps:?}");
}

#[test]
fn options_out_of_range_are_typed_errors() {
    let why = |o: Optimizer| match o.check() {
        Err(error @ Error::Argument { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    for lr in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-50, 1e50] {
        assert_eq!(why(AdamW::new(lr).into()), format!("AdamW: the learning rate is {lr}, but must be finite and positive (as f32)"));
    }
    let bad: Vec<Optimizer> = vec![
        Adam::new(0.1).betas(1.0, 0.9).into(),
        Adam::new(0.1).betas(0.9, -0.1).into(),
        Adam::new(0.1).betas(f64::NAN, 0.9).into(),
        AdamW::new(0.1).eps(-1.0).into(),
        AdamW::new(0.1).eps(0.0).into(),
        AdamW::new(0.1).weight_decay(-0.1).into(),
        RmsProp::new(0.1).alpha(1.5).into(),
        RmsProp::new(0.1).eps(f64::NAN).into(),
        RmsProp::new(0.1).momentum(-0.1).into(),
        Adagrad::new(0.1).lr_decay(-1.0).into(),
        Adagrad::new(0.1).initial_accumulator_value(f64::INFINITY).into(),
        Adagrad::new(0.1).eps(1e-60).into(),
        Adamax::new(0.1).betas(1.0, 0.9).into(),
        Adamax::new(0.1).betas(0.9, f64::NAN).into(),
        Adamax::new(0.1).eps(0.0).into(),
        NAdam::new(0.1).betas(-0.1, 0.9).into(),
        NAdam::new(0.1).betas(0.9, 1.0).into(),
        NAdam::new(0.1).momentum_decay(-1.0).into(),
        NAdam::new(0.1).momentum_decay(f64::INFINITY).into(),
        NAdam::new(0.1).eps(f64::NAN).into(),
        RAdam::new(0.1).betas(1.5, 0.9).into(),
        RAdam::new(0.1).betas(0.9, 1.0).into(),
        RAdam::new(0.1).eps(-1.0).into(),
        Adadelta::new(0.1).rho(1.0).into(),
        Adadelta::new(0.1).eps(0.0).into(),
        Lion::new(0.1).betas(1.0, 0.9).into(),
        Lion::new(0.1).betas(0.9, f64::NAN).into(),
        Lion::new(0.1).weight_decay(f64::INFINITY).into(),
        Lars::new(0.1).momentum(-0.1).into(),
        Lars::new(0.1).momentum(0.9).dampening(f64::NAN).into(),
        Lars::new(0.1).nesterov(true).into(),
        Lars::new(0.1).trust_coeff(0.0).into(),
        Lars::new(0.1).trust_coeff(1e-60).into(),
        Lars::new(0.1).eps(0.0).into(),
        Lamb::new(0.1).betas(1.0, 0.9).into(),
        Lamb::new(0.1).betas(0.9, -1.0).into(),
        Lamb::new(0.1).eps(f64::INFINITY).into(),
        Lamb::new(0.1).max_grad_norm(0.0).into(),
        Lamb::new(0.1).max_grad_norm(f64::NAN).into(),
        Sgd::new(0.1).momentum(f64::NAN).into(),
        Sgd::new(0.1).momentum(0.9).dampening(f64::NAN).into(),
        Sgd::new(0.1).nesterov(true).into(),
        Sgd::new(0.1).momentum(0.9).dampening(0.1).nesterov(true).into(),
        Sgd::new(0.1).clip_norm(0.0),
        Sgd::new(0.1).clip_norm(f64::NAN),
        Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: -1.0, weight_decay: None }),
        Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: 1e-60, weight_decay: None }),
        Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: 1e60, weight_decay: None }),
        Sgd::new(0.1).group(|_| true, GroupOptions { lr_scale: 1.0, weight_decay: Some(f64::NAN) }),
    ];
    for o in bad {
        assert!(why(o.clone()).starts_with(o.name()), "{o:?}");
    }
    assert_eq!(why(Sgd::new(0.1).nesterov(true).into()), "Sgd: nesterov needs a momentum above 0 and a dampening of 0");
    assert!(all().iter().all(|o| o.check().is_ok()));
}

#[test]
fn groups_are_settings_that_parameters_share() {
    let matrix = |name: &str| ParamDef { decay: true, ..vector(name, 4) };
    let params = [matrix("enc.w"), vector("enc.b", 4), matrix("head.w"), vector("head.b", 4)];
    let group = |lr_scale, weight_decay| Group { lr_scale, weight_decay };
    let of = |groups: &[usize]| groups.iter().map(|&group| Status::Trained { group }).collect::<Vec<_>>();
    let plain = Optimizer::from(AdamW::new(1e-3)).groups(&[params[0].clone()]).unwrap();
    assert_eq!((plain.statuses, plain.settings), (of(&[0]), vec![group(1.0, 0.01)]));
    let by_rule = Optimizer::from(AdamW::new(1e-3)).groups(&params).unwrap();
    assert_eq!((by_rule.statuses, by_rule.settings), (of(&[0, 1, 0, 1]), vec![group(1.0, 0.01), group(1.0, 0.0)]));
    let all = AdamW::new(1e-3).decay_all().groups(&params).unwrap();
    assert_eq!((all.statuses, all.settings), (of(&[0; 4]), vec![group(1.0, 0.01)]));
    // Biases of a group have no weight decay, unless the group sets a weight decay. The first group that matches wins.
    let o = AdamW::new(1e-3)
        .group(|name| name.starts_with("enc."), GroupOptions { lr_scale: 0.1, ..Default::default() })
        .group(|name| name.ends_with(".b"), GroupOptions { weight_decay: Some(0.5), ..Default::default() });
    let own = o.groups(&params).unwrap();
    assert_eq!(own.statuses, of(&[0, 1, 2, 3]));
    assert_eq!(own.settings, [group(0.1, 0.01), group(0.1, 0.0), group(1.0, 0.01), group(1.0, 0.5)]);
    let rows = hyper(&o, 3, &own.settings);
    assert_eq!((rows.len(), rows[0]), (4, AdamW::new(1e-3).hyper(3, 1e-4, 0.01)));

    // The clip of a rule is the clip of the optimizer, unless the optimizer sets another.
    let clip = |o: Optimizer| o.clip().norm;
    assert_eq!(clip(Lamb::new(0.1).into()), Some(1.0));
    assert_eq!(clip(Lamb::new(0.1).max_grad_norm(None).into()), None);
    assert_eq!(clip(Lamb::new(0.1).max_grad_norm(2.0).into()), Some(2.0));
    assert_eq!(clip(Lamb::new(0.1).clip_norm(3.0)), Some(3.0));
    assert_eq!(clip(Lars::new(0.1).into()), None);
    // The parameters of a norm do not decay, whatever their rank.
    let g = Graph::training();
    g.input([2, 3, 4]).layer_norm_with("norm", LayerNorm { axes: 2, ..Default::default() }).linear("fc", 2);
    let decays: Vec<(String, bool)> = g.inner.borrow().params.iter().map(|p| (p.name.clone(), p.decay)).collect();
    let want = [("norm.weight", false), ("norm.bias", false), ("fc.weight", true), ("fc.bias", false)];
    assert_eq!(decays, want.map(|(name, decay)| (name.to_string(), decay)));

    let error = o.clone().group(|name| name == "nobody", GroupOptions::default()).groups(&params).unwrap_err().to_string();
    assert!(error.contains("group 2") && error.contains("enc.w, enc.b, head.w, head.b"), "{error}");
    let error = Optimizer::from(Sgd::new(0.1)).groups(&[]).unwrap_err().to_string();
    assert_eq!(error, "Sgd: the graph has no parameters to train");
    // There may be any number of groups.
    let many: Vec<ParamDef> = (0..1000).map(|i| vector(&format!("p{i}"), 1)).collect();
    let own = |o: Optimizer, i: usize| {
        let options = GroupOptions { lr_scale: 0.5 + i as f64, weight_decay: None };
        o.group(move |name| name == format!("p{i}"), options)
    };
    let each = (0..1000).fold(Optimizer::from(Sgd::new(0.1)), own).groups(&many).unwrap();
    assert_eq!((each.settings.len(), each.settings[999].lr_scale), (1000, 999.5));

    // Parameters are frozen by the name of a parameter, by the name of a layer, and by a group.
    let frozen = |o: Optimizer| o.groups(&params).map(|groups| groups.statuses.iter().map(|&s| s == Status::Frozen).collect::<Vec<_>>());
    let sgd = || Optimizer::from(Sgd::new(0.1));
    assert_eq!(frozen(sgd().freeze(["enc.b"]).freeze(["head"])).unwrap(), [false, true, true, true]);
    let zero = GroupOptions { lr_scale: 0.0, ..Default::default() };
    assert_eq!(frozen(sgd().group(|name| name == "head.w", zero)).unwrap(), [false, false, true, false]);
    let error = frozen(sgd().freeze(["enc", "encoder"])).unwrap_err().to_string();
    assert!(error.contains("freeze names `encoder`") && error.contains("enc.w, enc.b, head.w, head.b"), "{error}");
    let error = frozen(sgd().freeze(["enc", "head"])).unwrap_err().to_string();
    assert!(error.contains("every parameter is frozen"), "{error}");
}

#[test]
fn neither_biases_nor_norms_decay_by_default() {
    use crate::{
        Graph, Shape,
        layers::{LayerNorm, RmsNorm},
    };
    let g = Graph::training();
    let x = g.input([4, 6, 8]).linear("fc", 8);
    // Norms over two axes, whose parameters are matrices.
    let x = x.layer_norm_with("ln", LayerNorm { axes: 2, ..LayerNorm::default() });
    let x = x.rms_norm_with("rms", RmsNorm { axes: 2, ..RmsNorm::default() }).batch_norm("bn");
    let named = |name: &str, shape: Shape| g.param(name, shape, Init::Ones).sum_all();
    let more = [
        ("head.weight", [2, 3]),
        ("head.bias", [2, 3]),
        ("gru.bias_ih", [2, 3]),
        ("attention.in_proj_bias", [2, 3]),
        ("bias", [2, 3]),
        ("block.relative_position_bias_table", [2, 3]),
        ("bias.weight", [2, 3]),
        ("unbiased", [2, 3]),
    ];
    let loss = more.into_iter().map(|(name, shape)| named(name, shape.into())).fold(x.sum_all(), |sum, x| sum + x);
    assert!(loss.error().is_none());
    let params = g.inner.borrow().params.clone();
    let decays: Vec<&str> = params.iter().filter(|p| p.decay).map(|p| &p.name[..]).collect();
    assert_eq!(decays, ["fc.weight", "head.weight", "bias.weight", "unbiased"]);
    assert!(params.iter().any(|p| p.name == "ln.weight" && p.shape.rank() == 2), "the scale of a norm is a matrix here");
    // So LAMB adapts these four only, unless it always adapts. The last number of a row is the largest ratio.
    let adapting = |o: Optimizer| {
        let groups = o.groups(&params).expect("options in range");
        let rows = hyper(&o, 1, &groups.settings);
        let adapts = |status: &Status| matches!(status, Status::Trained { group } if rows[*group][7] > 0.0);
        groups.statuses.iter().filter(|status| adapts(status)).count()
    };
    let trained = params.iter().filter(|p| p.trained).count();
    assert_eq!(adapting(Lamb::new(0.1).into()), 4);
    assert_eq!(adapting(Lars::new(0.1).weight_decay(0.1).into()), 4);
    assert_eq!(adapting(Lars::new(0.1).into()), 0);
    assert_eq!(adapting(Lamb::new(0.1).always_adapt(true).into()), trained);
    assert_eq!(adapting(Lars::new(0.1).always_adapt(true).into()), trained);
    assert_eq!(adapting(Lamb::new(0.1).decay_all()), trained);
}
