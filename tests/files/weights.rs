//! Weights that go from file to model by name: other names, parts of a model, files that others wrote, models without a
//! trainer.

use crate::common::{BOTH, Check, Suite};
use downhill::{
    Device, Error, Graph, Host, Load, Tensor, Trainer,
    layers::BatchNorm,
    optim::{Adam, Sgd},
    weights,
};
use safetensors::{Dtype, tensor::TensorView};

pub fn trials(suite: &mut Suite) {
    suite.each(&BOTH, "weights under other names", renamed);
    suite.each(&BOTH, "weights that do not fit", misfits);
    suite.each(&BOTH, "weights without a trainer", compiled);
    suite.each(&BOTH, "frozen batch norm", frozen_norm);
    suite.test("tensors of every type", types);
}

fn model<'g>(x: Tensor<'g>, head: usize) -> Tensor<'g> {
    x.linear("body.fc1", 4).tanh().linear("body.fc2", 3).tanh().linear("head", head)
}

fn trainer(device: &Device, head: usize, seed: u64) -> Result<Trainer, Error> {
    let g = Graph::training();
    Trainer::new(device, model(g.input([2, 5]), head).square().mean_all(), Sgd::new(0.1))?.seed(seed)
}

fn renamed(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("pretrained");
    let from = trainer(device, 2, 1)?;
    // As PyTorch's DataParallel names them, with a head for other classes.
    let named: Vec<(String, Host<f32>)> = from.params().all()?.into_iter().map(|(name, value)| (format!("module.{name}"), value)).collect();
    weights::write(&path, &named)?;
    let to = trainer(device, 7, 2)?;
    let head = to.params().get("head.weight")?;
    let options = || Load {
        rename: &|name| name.trim_start_matches("module.").to_string(),
        only: &|name| name.starts_with("body."),
        ..Load::default()
    };
    let loaded = to.params().load_with(&path, options())?;
    assert_eq!(loaded.loaded, ["body.fc1.weight", "body.fc1.bias", "body.fc2.weight", "body.fc2.bias"]);
    assert_eq!((loaded.missing.len(), loaded.mismatched.len(), loaded.unexpected), (0, 0, vec!["head.bias".into(), "head.weight".into()]));
    assert_eq!(to.params().get("body.fc2.weight")?, from.params().get("body.fc2.weight")?);
    assert_eq!(to.params().get("head.weight")?, head);
    // Not strict: what fits is loaded, and the rest is told.
    let loaded = to.params().load_with(&path, Load { strict: false, only: &|_| true, ..options() })?;
    assert_eq!((loaded.loaded.len(), loaded.mismatched), (4, vec!["head.weight".to_string(), "head.bias".to_string()]));
    let e = to.params().load_with(&path, Load { rename: &|_| "head.bias".into(), ..Load::default() }).unwrap_err().to_string();
    assert!(e.starts_with("load_with: `module.body.fc") && e.contains("get one name by Load::rename"), "{e}");
    Ok(())
}

/// An error lists all names, and nothing has changed.
fn misfits(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("some");
    let trainer = trainer(device, 2, 1)?;
    let before = trainer.params().all()?;
    weights::write(&path, &[("body.fc1.bias".into(), Host::new([4], vec![9.0; 4]))])?;
    let e = trainer.params().load(&path).unwrap_err().to_string();
    let rest = "body.fc1.weight, body.fc2.weight, body.fc2.bias, head.weight, head.bias";
    assert_eq!(e, format!("parameter body.fc1.weight: not in {}; 5 are missing: {rest}", path.display()));
    let mut all = before.clone();
    all[0].1 = Host::new([1], vec![9.0]);
    all[3].1 = Host::labels([3], vec![1; 3]);
    weights::write(&path, &all)?;
    let e = trainer.params().load(&path).unwrap_err().to_string();
    let want = "parameter body.fc1.weight: got [1] with 1 values, but the model has [4, 5]; 2 are of another shape or type: body.fc1.weight, body.fc2.bias";
    assert_eq!(e, want);
    assert_eq!(trainer.params().all()?, before);
    for (tensors, want) in [
        (vec![("a".to_string(), Host::new([1], vec![0.0])), ("a".to_string(), Host::new([1], vec![0.0]))], "parameter a: two tensors have"),
        (vec![("__metadata__".to_string(), Host::new([1], vec![0.0]))], "parameter __metadata__: safetensors files keep this name"),
        (vec![("a".to_string(), Host::new([3], vec![0.0]))], "parameter a: 1 values do not fill the shape [3]"),
    ] {
        let e = weights::write(&path, &tensors).unwrap_err().to_string();
        assert!(e.starts_with(want), "{want}: {e}");
    }
    Ok(())
}

/// A graph alone loads weights and computes what the trainer does.
fn compiled(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weights");
    let trainer = trainer(device, 2, 3)?;
    trainer.params().save(&path)?;
    let g = Graph::inference();
    let y = model(g.input([2, 5]), 2);
    let x = Host::new([2, 5], (0..10).map(|i| (i as f32).sin()).collect());
    let mut alone = device.compile(&[y])?;
    let mut with = trainer.compile(&[y])?;
    let want = with.run(std::slice::from_ref(&x))?;
    assert_ne!(alone.run(std::slice::from_ref(&x))?, want);
    alone.params().load(&path)?;
    assert_eq!(alone.run(std::slice::from_ref(&x))?, want);
    assert_eq!(alone.params().names().collect::<Vec<_>>(), trainer.params().names().collect::<Vec<_>>());
    // The parameters of a graph that the trainer compiled are the trainer's.
    with.params().set("head.bias", &Host::new([2], vec![1.0, 2.0]))?;
    assert_eq!(trainer.params().get("head.bias")?.f(), &[1.0, 2.0]);
    // Running averages are loaded as well, without which batch norm refuses to run.
    let t = Graph::training();
    let mut norm = Trainer::new(device, t.input([4, 3]).batch_norm("bn").square().mean_all(), Adam::new(0.1))?;
    norm.step(&[Host::new([4, 3], (0..12).map(|i| (i as f32).cos()).collect())])?;
    norm.params().save(&path)?;
    let h = Graph::inference();
    let mut alone = device.compile(&[h.input([1, 3]).batch_norm("bn")])?;
    let x = [Host::new([1, 3], vec![1.0, 2.0, 3.0])];
    assert!(alone.run(&x).unwrap_err().to_string().contains("has seen no batch yet"));
    alone.params().load(&path)?;
    alone.run(&x)?;
    Ok(())
}

/// Frozen statistics are those of inference, stay as they are, and the gradient goes through them.
fn frozen_norm(device: &Device) -> Check {
    let frozen = BatchNorm { frozen: true, ..BatchNorm::default() };
    let g = Graph::training();
    let x = g.input([3, 2]);
    let w = g.param("w", [2], downhill::init::Init::Ones);
    let loss = (x * w).batch_norm_with("bn", frozen).square().mean_all();
    let mut trainer = Trainer::new(device, loss, Sgd::new(0.5).freeze(["bn"]))?;
    trainer.params().set("bn.running_mean", &Host::new([2], vec![1.0, -2.0]))?;
    trainer.params().set("bn.running_var", &Host::new([2], vec![4.0, 0.25]))?;
    let values = [0.5f32, -1.0, 2.0, 3.0, -0.5, 0.25];
    trainer.step(&[Host::new([3, 2], values.to_vec())])?;
    assert_eq!(trainer.params().get("bn.running_mean")?.f(), &[1.0, -2.0]);
    assert_eq!(trainer.params().get("bn.running_var")?.f(), &[4.0, 0.25]);
    // y = (x − m)·r; the mean of y² over 6 values has the gradient Σ 2·y·r·x / 6 for w = 1.
    let (mut loss, mut grad) = (0.0f64, [0.0f64; 2]);
    for (i, &x) in values.iter().enumerate() {
        let (m, v) = [(1.0, 4.0), (-2.0, 0.25)][i % 2];
        let (x, r) = (f64::from(x), 1.0 / f64::sqrt(v + 1e-5));
        let y = (x - m) * r;
        loss += y * y / 6.0;
        grad[i % 2] += 2.0 * y * r * x / 6.0;
    }
    assert!((f64::from(trainer.loss()?) - loss).abs() < 1e-5 * loss, "{} instead of {loss}", trainer.loss()?);
    for (w, grad) in trainer.params().get("w")?.f().iter().zip(grad) {
        assert!((f64::from(*w) - (1.0 - 0.5 * grad)).abs() < 1e-4, "{w} instead of {}", 1.0 - 0.5 * grad);
    }
    // A batch of one value, which training on the batch's own statistics refuses.
    let h = Graph::training();
    let one = h.input([1, 2]).batch_norm_with("bn", frozen).linear("fc", 1).sum_all();
    Trainer::new(device, one, Sgd::new(0.1))?.step(&[Host::new([1, 2], vec![1.0, 2.0])])?;
    let summary = trainer.summary(3)?;
    assert!(summary.contains("6 parameters (2 trained, 4 frozen)"), "{summary}");
    Ok(())
}

/// What other programs write: whole numbers, halves, and types that have no place here.
fn types() -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("types");
    let whole: Vec<u8> = [3i64, 0, 4_000_000_000].iter().flat_map(|x| x.to_le_bytes()).collect();
    let half: Vec<u8> = [0x3c00u16, 0xc000].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data);
    let file = safetensors::serialize(
        [
            ("whole", view(Dtype::I64, &[3], &whole)?),
            ("half", view(Dtype::F16, &[1, 2], &half)?),
            ("truth", view(Dtype::BOOL, &[2], &[1, 0])?),
        ],
        None,
    )?;
    std::fs::write(&path, file)?;
    let mut tensors = weights::read(&path)?;
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let want = [
        ("half".to_string(), Host::new([1, 2], vec![1.0, -2.0])),
        ("truth".to_string(), Host::labels([2], vec![1, 0])),
        ("whole".to_string(), Host::labels([3], vec![3, 0, 4_000_000_000])),
    ];
    assert_eq!(tensors, want);
    weights::write(&path, &want)?;
    assert_eq!(weights::read(&path)?, want);
    let negative = (-1i32).to_le_bytes();
    for (dtype, shape, data, want) in [
        (Dtype::I32, &[1][..], &negative[..], "parameter t: -1 is no u32, in "),
        (Dtype::F8_E4M3, &[2], &[0, 1], "parameter t: F8_E4M3 instead of floats"),
        (Dtype::F32, &[1; 7], &[0; 4], "parameter t: 7 axes, but at most 6 are possible, in "),
    ] {
        std::fs::write(&path, safetensors::serialize([("t", view(dtype, shape, data)?)], None)?)?;
        let e = weights::read(&path).expect_err(want).to_string();
        assert!(e.starts_with(want), "{want}: {e}");
    }
    Ok(())
}
