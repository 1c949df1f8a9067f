//! Rules for whole parameters: Muon and Adafactor beside PyTorch, with everything that an optimizer combines with them.

use crate::common::{BOTH, Check, On, Suite, bits, grid, weights};
use downhill::{
    Device, Error, Fit, Graph, Host, Shape, Tensor, Trainer, data,
    init::Init,
    optim::{Adafactor, Adam, AdamW, AdjustLr, GroupOptions, Muon, Optimizer, Schedule, Sgd},
};
use serde_json::Value;

const ALL: [On; 4] = [On::Cpu, On::Gpu, On::Checked, On::Pieces];

pub fn trials(suite: &mut Suite) {
    suite.each(&ALL, "whole rules are PyTorch's, also through accumulation", pytorch);
    suite.each(&ALL, "whole rules of large matrices and vectors", large);
    suite.each(&BOTH, "whole rules resume from a checkpoint to the last bit", resume);
    suite.each(&BOTH, "whole rules write nothing in a step that fails", fails);
    suite.each(&BOTH, "whole rules in fit and with given gradients", ways);
    suite.each(&BOTH, "the states of whole rules take their own memory", memory);
    suite.each(&[On::Cpu], "bad options of whole rules", errors);
    suite.each(&BOTH, "whole rules and zeros", zeros);
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Ours for PyTorch's.
fn rule(row: &Value) -> Optimizer {
    let (o, f) = (&row["options"], |v: &Value| v.as_f64().expect("a number"));
    let (lr, decay) = (f(&o["lr"]), f(&o["weight_decay"]));
    let mut optimizer: Optimizer = if row["optimizer"] == "Muon" {
        let [a, b, c] = numbers(&o["ns_coefficients"])[..] else { panic!("three coefficients") };
        let adjust = match o["adjust_lr_fn"].as_str() {
            Some("original") => AdjustLr::Original,
            Some("match_rms_adamw") => AdjustLr::MatchRmsAdamw,
            Some("spectral_unclamped") => AdjustLr::SpectralUnclamped,
            other => panic!("no adjustment for {other:?}"),
        };
        let rule = Muon::new(lr).weight_decay(decay).momentum(f(&o["momentum"])).nesterov(o["nesterov"] == true).eps(f(&o["eps"]));
        let steps = o["ns_steps"].as_u64().expect("a count") as usize;
        let rule = rule.ns_coefficients(a, b, c).ns_steps(steps).adjust_lr_fn(adjust).flatten(row["flatten"] == true);
        let (r, betas) = (&row["rest"], numbers(&row["rest"]["betas"]));
        let rest = AdamW::new(f(&r["lr"])).betas(betas[0], betas[1]).eps(f(&r["eps"]));
        rule.rest(rest.weight_decay(f(&r["weight_decay"])).amsgrad(r["amsgrad"] == true))
    } else {
        let eps = numbers(&o["eps"]);
        Adafactor::new(lr).beta2_decay(f(&o["beta2_decay"])).eps(eps[0], eps[1]).d(f(&o["d"])).weight_decay(decay).into()
    };
    // PyTorch's weight decay takes in biases.
    optimizer = optimizer.decay_all();
    if row["scaled"] == true {
        optimizer = optimizer.group(|name| name == "wide", GroupOptions { lr_scale: 0.1, ..Default::default() });
    }
    if row["schedule"] == true {
        optimizer = optimizer.schedule(Schedule::step(5, 0.5));
    }
    if let Some(max) = row["clip_norm"].as_f64() {
        optimizer = optimizer.clip_norm(max);
    }
    row["clip_value"].as_f64().map_or(optimizer.clone(), |max| optimizer.clip_value(max))
}

/// Σ w·x over all parameters, whose gradients are the inputs.
fn linear<'g>(g: &'g Graph, shapes: &[(String, Shape)]) -> Tensor<'g> {
    let terms = shapes.iter().map(|(name, shape)| (g.param(name, *shape, Init::Zeros) * g.input(*shape)).sum_all());
    terms.reduce(|a, b| a + b).expect("there are parameters")
}

fn pytorch(device: &Device) -> Check {
    let json: Value = serde_json::from_str(include_str!("../golden/whole.json"))?;
    let cases = json["cases"].as_array().expect("a list of cases");
    let (inputs, cases) = cases.split_first().expect("the inputs come first");
    assert_eq!(cases.len(), 26);
    let narrow = |v: &Value| match v.as_array() {
        Some(_) => numbers(v).iter().map(|&x| x as f32).collect::<Vec<_>>(),
        None => vec![v.as_f64().expect("a number") as f32],
    };
    let shapes: Vec<(String, Shape)> = inputs["shapes"]
        .as_object()
        .expect("shapes")
        .iter()
        .map(|(name, dims)| {
            let dims: Vec<usize> = numbers(dims).iter().map(|&d| d as usize).collect();
            (name.clone(), Shape::new(&dims).expect("at most six axes"))
        })
        .collect();
    let values = |all: &Value, factor: f32| -> Vec<Host<f32>> {
        shapes.iter().map(|(name, shape)| Host::new(*shape, narrow(&all[name]).iter().map(|x| factor * x).collect())).collect()
    };
    for case in cases {
        let what = format!("{} {} {}", case["optimizer"], case["options"], case["rest"]);
        let g = Graph::training();
        let mut trainer = Trainer::new(device, linear(&g, &shapes), rule(case))?;
        let start: Vec<(String, Host<f32>)> = shapes.iter().map(|s| s.0.clone()).zip(values(&inputs["params"], 1.0)).collect();
        trainer.params().set_all(&start)?;
        let mut compared = 0;
        for (k, grads) in inputs["grads"].as_array().expect("twenty gradients").iter().enumerate() {
            if k >= 10 {
                // The mean of both is the gradient.
                trainer.accumulate(&values(grads, 0.5))?;
                trainer.step(&values(grads, 1.5))?;
            } else {
                trainer.step(&values(grads, 1.0))?;
            }
            let want = &case["trajectory"][(k + 1).to_string()];
            if want.is_null() {
                continue;
            }
            for (name, _) in &shapes {
                compared += 1;
                let want = numbers(&want[name]);
                let got = trainer.params().get(name)?.to_f64();
                let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
                // Every step rounds the weight and its change; the polynomials of Muon make roundings of X a few times larger.
                // PyTorch's own f32 differs from its f64 by up to half of this.
                let most = f64::from(f32::EPSILON) * largest * (4.0 + (k + 1) as f64);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    if (got - want).abs().is_nan() || (got - want).abs() > most {
                        return Err(format!(
                            "{what}: step {}, {name} {i}: {got} instead of {want}, {:.1e} of {most:.1e}",
                            k + 1,
                            got - want
                        )
                        .into());
                    }
                }
            }
        }
        assert_eq!(compared, 6 * shapes.len());
        trainer.loss()?;
    }
    Ok(())
}

fn of(name: &str, dims: &[usize]) -> (String, Shape) {
    (name.to_string(), Shape::new(dims).expect("at most six axes"))
}

/// Values that depend on the number of the step.
fn some(shapes: &[(String, Shape)], step: usize) -> Vec<Host<f32>> {
    let one = |(i, (_, shape)): (usize, &(String, Shape))| Host::new(*shape, grid(shape.elements(), 37 + 2 * i, 11 * step + i, 101));
    shapes.iter().enumerate().map(one).collect()
}

fn set(trainer: &Trainer, shapes: &[(String, Shape)], step: usize) -> Check {
    let all: Vec<(String, Host<f32>)> = shapes.iter().map(|s| s.0.clone()).zip(some(shapes, step)).collect();
    Ok(trainer.params().set_all(&all)?)
}

fn both() -> [Optimizer; 2] {
    [Muon::new(0.02).rest(AdamW::new(0.01)).clip_norm(2.0), Adafactor::new(0.05).weight_decay(0.1).clip_norm(2.0)]
}

/// Sizes of many workgroups and blocks: the device agrees with the CPU device. With small limits there are several pieces.
fn large(device: &Device) -> Check {
    let shapes = [of("a", &[130, 70]), of("b", &[65, 129]), of("c", &[300]), of("d", &[1, 33]), of("e", &[33, 1]), of("f", &[100, 100])];
    for optimizer in both() {
        let mut all = Vec::new();
        for device in [device, &Device::cpu()] {
            let g = Graph::training();
            let mut trainer = Trainer::new(device, linear(&g, &shapes), optimizer.clone())?;
            set(&trainer, &shapes, 50)?;
            for k in 0..3 {
                trainer.step(&some(&shapes, k))?;
            }
            trainer.loss()?;
            all.push(trainer.params().all()?);
        }
        for ((name, got), (_, want)) in all[0].iter().zip(&all[1]) {
            downhill::testing::close(&got.to_f64(), &want.to_f64(), 130).map_err(|e| format!("{optimizer:?}: {name}: {e}"))?;
        }
    }
    Ok(())
}

fn small() -> [(String, Shape); 4] {
    [of("fc1.weight", &[6, 9]), of("fc1.bias", &[6]), of("fc2.weight", &[7, 3]), of("head.weight", &[4, 5])]
}

fn resume(device: &Device) -> Check {
    let shapes = small();
    let path = std::env::temp_dir().join(format!("downhill-whole-{}-{}", std::process::id(), device.as_gpu().is_some()));
    let rules = [
        Muon::new(0.02).rest(Adam::new(0.01).amsgrad(true)).except(["head"]).schedule(Schedule::step(2, 0.5)),
        Muon::new(0.02).rest(Sgd::new(0.01).momentum(0.9)).except(["head.weight"]).freeze(["fc2"]),
        Adafactor::new(0.05).into(),
    ];
    for rule in rules {
        let new = || -> Result<Trainer, Error> { Trainer::new(device, linear(&Graph::training(), &shapes), rule.clone()) };
        let (mut whole, mut first, mut second) = (new()?, new()?, new()?);
        set(&whole, &shapes, 50)?;
        set(&first, &shapes, 50)?;
        for k in 0..7 {
            if k == 4 {
                first.save(&path)?;
                second.load(&path)?;
            }
            if k == 2 {
                whole.set_lr(0.03)?;
                first.set_lr(0.03)?;
            }
            whole.step(&some(&shapes, k))?;
            if k < 4 { &mut first } else { &mut second }.step(&some(&shapes, k))?;
        }
        assert_eq!((whole.lr(), weights(&whole)?), (second.lr(), weights(&second)?), "{rule:?}");
        assert_ne!(weights(&whole)?, weights(&first)?, "the steps after the checkpoint do something");
        // The states are the same, too.
        whole.save(&path)?;
        let bytes = std::fs::read(&path)?;
        second.save(&path)?;
        assert_eq!(bytes, std::fs::read(&path)?, "{rule:?}");
    }
    let other = Trainer::new(device, linear(&Graph::training(), &shapes), Muon::new(0.02).rest(AdamW::new(0.01)))?;
    other.save(&path)?;
    let mut adafactor = Trainer::new(device, linear(&Graph::training(), &shapes), Adafactor::new(0.05))?;
    let error = adafactor.load(&path).unwrap_err().to_string();
    assert!(error.contains("a checkpoint of Muon") && error.contains("Adafactor"), "{error}");
    let mut sgd = Trainer::new(device, linear(&Graph::training(), &shapes), Muon::new(0.02).rest(Sgd::new(0.01)))?;
    let error = sgd.load(&path).unwrap_err().to_string();
    assert!(error.contains("fc1.bias") && error.contains("rest was AdamW and is Sgd now"), "{error}");
    std::fs::remove_file(&path)?;
    Ok(())
}

/// A gradient that is not finite, and an update that would overflow. Nothing changes, neither before nor after other steps.
fn fails(device: &Device) -> Check {
    let shapes = small();
    let (path, index) = (std::env::temp_dir().join(format!("downhill-fails-{}-{}", std::process::id(), device.as_gpu().is_some())), 2);
    let state = |trainer: &Trainer| -> Result<Vec<u8>, Error> {
        trainer.save(&path)?;
        Ok(std::fs::read(&path).expect("the file was written"))
    };
    for optimizer in both() {
        let g = Graph::training();
        let mut trainer = Trainer::new(device, linear(&g, &shapes) * 1e20, optimizer.clone().clip_norm(1e30))?;
        set(&trainer, &shapes, 50)?;
        let scaled = |k: usize, factor: f32| -> Vec<Host<f32>> {
            some(&shapes, k).into_iter().map(|x| Host::new(x.shape, x.f().iter().map(|x| x * factor).collect())).collect()
        };
        trainer.step(&scaled(0, 1e-20))?;
        trainer.loss()?;
        let before = (weights(&trainer)?, state(&trainer)?);
        let mut bad = scaled(1, 1e-20);
        let huge = bad[index].f().iter().map(|x| x * 1e20 * 1e30).collect();
        bad[index] = Host::new(bad[index].shape, huge);
        trainer.step(&bad)?;
        trainer.step(&scaled(2, 1e-20))?;
        match trainer.loss() {
            Err(Error::Diverged { step: 1, parameter: Some(name), .. }) if name == shapes[index].0 => {}
            other => return Err(format!("{optimizer:?}: {other:?}").into()),
        }
        assert_eq!(before, (weights(&trainer)?, state(&trainer)?), "{optimizer:?}");
    }
    let large: [(Optimizer, &str); 3] = [
        (Muon::new(3e38).rest(Sgd::new(0.1)), "a weight"),
        (Muon::new(1e-3).momentum(0.0).rest(AdamW::new(3e38)), "a weight"),
        (Adafactor::new(0.1).into(), "the optimizer's state `row` and the optimizer's state `column`"),
    ];
    for (optimizer, over) in large {
        let mut trainer = Trainer::new(device, linear(&Graph::training(), &shapes), optimizer.clone())?;
        set(&trainer, &shapes, 50)?;
        let before = (weights(&trainer)?, state(&trainer)?);
        let batch = some(&shapes, 1).into_iter().enumerate().map(|(i, x)| {
            // The squares of the gradient of one matrix overflow.
            let factor = if i == index { 1e30 } else { 1.0 };
            Host::new(x.shape, x.f().iter().map(|x| x * factor).collect())
        });
        trainer.step(&batch.collect::<Vec<_>>())?;
        let error = trainer.loss().unwrap_err();
        assert!(matches!(error, Error::Diverged { step: 0, .. }) && error.to_string().contains(over), "{optimizer:?}: {error}");
        assert_eq!(before, (weights(&trainer)?, state(&trainer)?), "{optimizer:?}");
    }
    std::fs::remove_file(&path)?;
    Ok(())
}

/// Steps by `fit`, several in a submit, are the steps by hand; gradients from outside are the gradients of a loss.
fn ways(device: &Device) -> Check {
    let digits = data::digits().subset(&(0..200).collect::<Vec<_>>())?;
    for optimizer in both() {
        let optimizer = optimizer.schedule(Schedule::step(1, 0.8));
        let new = || {
            Trainer::for_data(
                device,
                &digits,
                |x| x.flatten().linear("fc1", 17).relu().linear("fc2", 10),
                |x, y| x.cross_entropy(y),
                optimizer.clone(),
            )
        };
        let (mut by_fit, mut by_hand) = (new()?, new()?);
        by_fit.fit(&digits, Fit::new().epochs(2).batch_size(20).shuffle(false).steps_per_submit(7))?;
        for k in 0..20 {
            let rows: Vec<usize> = (k % 10 * 20..k % 10 * 20 + 20).collect();
            let (x, y) = digits.batch(&rows)?;
            by_hand.step(&[x, y])?;
        }
        assert_eq!(weights(&by_fit)?, weights(&by_hand)?, "{optimizer:?}");
    }
    let shapes = small();
    for optimizer in both() {
        let new = || -> Result<Trainer, Error> { Trainer::new(device, linear(&Graph::training(), &shapes), optimizer.clone()) };
        let (mut by_loss, mut given) = (new()?, new()?);
        set(&by_loss, &shapes, 50)?;
        set(&given, &shapes, 50)?;
        for k in 0..3 {
            let grads = some(&shapes, k);
            by_loss.step(&grads)?;
            let named: Vec<(&str, Host<f32>)> = shapes.iter().map(|s| s.0.as_str()).zip(grads).collect();
            given.apply_gradients(&named)?;
            assert_eq!(bits(by_loss.gradient("fc1.weight")?.f()), bits(given.gradient("fc1.weight")?.f()));
        }
        assert_eq!(weights(&by_loss)?, weights(&given)?, "{optimizer:?}");
    }
    Ok(())
}

fn memory(device: &Device) -> Check {
    let n = 256;
    let of = |optimizer: Optimizer| -> Result<downhill::plan::Memory, Error> {
        let trainer = Trainer::from_fn(
            device,
            move |g, b| g.input([b, n]).linear("fc1", n).relu().linear("fc2", n).square().mean_all().into(),
            optimizer,
        )?;
        let memory = trainer.memory(64)?;
        assert_eq!(memory.layers.iter().map(|l| l.total()).sum::<u64>(), memory.total());
        Ok(memory)
    };
    let sum = |memory: &downhill::plan::Memory| memory.optimizer.iter().map(|s| s.1).sum::<u64>();
    let (adam, adafactor, muon) = (of(Adam::new(0.1).into())?, of(Adafactor::new(0.1).into())?, of(Muon::new(0.1).rest(Adam::new(0.1)))?);
    let (matrices, vectors) = (2 * 4 * (n * n) as u64, 2 * 4 * n as u64);
    assert_eq!(sum(&adam), 2 * (matrices + vectors));
    // A row, a column and the vector for each layer.
    assert_eq!(adafactor.optimizer, [("row".into(), vectors), ("column".into(), vectors), ("square".into(), vectors)]);
    assert_eq!(muon.optimizer, [("mean".into(), vectors), ("square".into(), vectors), ("momentum".into(), matrices)]);
    // New weights lie in slots until they are stored. Even if all of them need new slots, Adafactor takes less than Adam.
    assert!(adafactor.total() < adam.total(), "{adafactor}\n{adam}");
    Ok(())
}

fn errors(device: &Device) -> Check {
    let fails = |optimizer: Optimizer, parts: &[&str]| {
        let error = Trainer::new(device, linear(&Graph::training(), &small()), optimizer).err().expect("an error").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let muon = Muon::new(0.1);
    fails(muon.into(), &["Muon", "matrices alone", "fc1.bias [6]", "Muon::rest"]);
    fails(muon.rest(AdamW::new(0.1)).except(["tail"]), &["except names `tail`", "head.weight"]);
    fails(Optimizer::from(muon).except(["head"]), &["except", "no"]);
    fails(AdamW::new(0.1).decay_all().except(["head"]), &["except", "no"]);
    fails(muon.rest(AdamW::new(-1.0)), &["AdamW", "learning rate", "-1"]);
    fails(Muon::new(f64::NAN).rest(AdamW::new(0.1)), &["Muon", "learning rate"]);
    fails(muon.weight_decay(-1.0).rest(AdamW::new(0.1)), &["weight decay is -1"]);
    fails(muon.momentum(1.5).rest(AdamW::new(0.1)), &["momentum is 1.5"]);
    fails(muon.eps(0.0).rest(AdamW::new(0.1)), &["eps is 0"]);
    fails(muon.ns_coefficients(1.0, f64::INFINITY, 0.0).rest(AdamW::new(0.1)), &["ns_coefficients"]);
    fails(muon.ns_steps(100).rest(AdamW::new(0.1)), &["ns_steps is 100", "below 100"]);
    let ada = Adafactor::new(0.1);
    fails(ada.beta2_decay(0.5).into(), &["Adafactor", "beta2_decay is 0.5"]);
    fails(ada.eps(0.0, 0.1).into(), &["eps1 is 0"]);
    fails(ada.eps(1e-7, -1.0).into(), &["eps2 is -1"]);
    fails(ada.d(0.5).into(), &["d is 0.5", "at least 1"]);
    fails(ada.weight_decay(f64::NAN).into(), &["weight decay"]);
    // Only vectors are left over, and they are frozen; or only a kernel, and it is flattened.
    Trainer::new(device, linear(&Graph::training(), &small()), Optimizer::from(muon).freeze(["fc1.bias"]))?;
    let kernel = [of("kernel", &[3, 2, 2, 2])];
    let error = Trainer::new(device, linear(&Graph::training(), &kernel), muon).err().expect("an error").to_string();
    assert!(error.contains("kernel [3, 2, 2, 2]") && error.contains("Muon::flatten"), "{error}");
    Trainer::new(device, linear(&Graph::training(), &kernel), muon.flatten(true))?;
    Ok(())
}

/// Gradients and weights of 0: nothing becomes NaN, and Muon leaves the weights to the decay.
fn zeros(device: &Device) -> Check {
    let shapes = small();
    let zeros: Vec<Host<f32>> = shapes.iter().map(|(_, shape)| Host::new(*shape, vec![0.0; shape.elements()])).collect();
    for optimizer in both() {
        let mut trainer = Trainer::new(device, linear(&Graph::training(), &shapes), optimizer)?;
        trainer.step(&zeros)?;
        trainer.loss()?;
        assert!(trainer.params().all()?.iter().all(|(_, value)| value.f().iter().all(|&x| x == 0.0)));
        trainer.step(&some(&shapes, 1))?;
        trainer.loss()?;
        assert!(
            trainer.params().all()?.iter().all(|(_, value)| value.f().iter().all(|x| x.is_finite()) && value.f().iter().any(|&x| x != 0.0))
        );
    }
    Ok(())
}
