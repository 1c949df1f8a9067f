//! State: tensors that are kept and saved with the weights and assigned after each step, on every device.

mod common;

use common::{BOTH, Check, On, Suite, bits};
use downhill::{
    Device, Error, Graph, Host, Tensor, Trainer,
    init::Init,
    optim::{Adam, Optimizer, Sgd},
};

fn main() {
    let mut suite = Suite::new();
    let everywhere = [On::Cpu, On::Gpu, On::Checked, On::Webgpu, On::Pieces];
    suite.each(&everywhere, "assigned after every step", assigned);
    suite.each(&everywhere, "in pieces of its own", pieces);
    suite.each(&BOTH, "no part in the norm of the gradients", norm);
    suite.each(&BOTH, "kept at a step that is not finite", diverging);
    suite.each(&BOTH, "checkpoints and weights", saved);
    suite.each(&BOTH, "shared by graphs, required by some", shared);
    suite.test("mistakes", mistakes);
    suite.run()
}

/// A running mean of the rows of x, which is also what x is measured from, and a count.
fn centred<'g>(x: Tensor<'g>) -> Tensor<'g> {
    let (g, width) = (x.graph(), x.shape().last());
    let mean = g.state("mean", [width], Init::Constant(0.5));
    g.assign("mean", mean * 0.75 + x.mean(&[0], false) * 0.25);
    g.assign("count", g.state("count", [], Init::Zeros) + 1.0);
    (x - mean).linear("fc", 3)
}

fn trainer(device: &Device, width: usize, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    let g = Graph::training();
    let loss = centred(g.input([4, width])).square().mean_all();
    Trainer::new(device, loss, optimizer)
}

fn batch(width: usize, step: usize) -> Host<f32> {
    Host::new([4, width], (0..4 * width).map(|i| ((i * 7 + step * 13) % 11) as f32 * 0.25 - 1.0).collect())
}

/// Returns the running mean after `steps` steps, from its definition.
fn mean_after(width: usize, steps: usize) -> Vec<f64> {
    let mut mean = vec![0.5; width];
    for step in 0..steps {
        let x = batch(width, step).to_f64();
        for (c, mean) in mean.iter_mut().enumerate() {
            *mean = *mean * 0.75 + 0.25 * (0..4).map(|r| x[r * width + c]).sum::<f64>() / 4.0;
        }
    }
    mean
}

fn near(got: &Host<f32>, want: &[f64]) -> bool {
    got.len() == want.len() && got.f().iter().zip(want).all(|(&g, w)| (f64::from(g) - w).abs() < 1e-5)
}

fn assigned(device: &Device) -> Check {
    for optimizer in [Optimizer::from(Sgd::new(0.1).momentum(0.9)), Adam::new(0.01).into()] {
        let mut t = trainer(device, 5, optimizer)?;
        assert_eq!(t.params().names().collect::<Vec<_>>(), ["mean", "count", "fc.weight", "fc.bias"]);
        assert_eq!(t.params().elements(), 18, "state is not trained");
        let start = t.params().get("fc.weight")?;
        for step in 0..3 {
            t.step(&[batch(5, step)])?;
            assert!(near(&t.params().get("mean")?, &mean_after(5, step + 1)), "step {step}: {:?}", t.params().get("mean")?);
            assert_eq!(t.params().get("count")?.f(), [step as f32 + 1.0]);
        }
        assert_ne!(bits(start.f()), bits(t.params().get("fc.weight")?.f()));
        let why = t.gradient("mean").unwrap_err().to_string();
        assert!(why.contains("mean") && why.contains("no gradient"), "{why}");
    }
    Ok(())
}

/// State that is larger than a binding of the device of small limits, beside weights that are not.
fn pieces(device: &Device) -> Check {
    let width = 20_011;
    let g = Graph::training();
    let x = g.input([width]);
    let mean = g.state("mean", [width], Init::Constant(0.5));
    g.assign("mean", mean * 0.75 + x * 0.25);
    let w = g.param("w", [], Init::Ones);
    let mut t = Trainer::new(device, ((x - mean) * w).square().mean_all(), Adam::new(0.1))?;
    let x = Host::new([width], (0..width).map(|i| (i % 11) as f32 * 0.25 - 1.0).collect());
    (0..2).try_for_each(|_| t.step(std::slice::from_ref(&x)))?;
    let want: Vec<f64> = x.to_f64().iter().map(|x| 0.5 * 0.5625 + x * 0.4375).collect();
    assert!(near(&t.params().get("mean")?, &want));
    assert!(t.params().get("w")?.f()[0] < 0.9, "it was trained");
    Ok(())
}

/// A clipped step is the same whether there is (large) state or not.
fn norm(device: &Device) -> Check {
    let run = |with: bool| -> Result<Vec<u32>, Error> {
        let g = Graph::training();
        let x = g.input([4, 5]);
        if with {
            g.assign("large", g.state("large", [7], Init::Constant(1e6)) * 1.5);
        }
        let mut t = Trainer::new(device, x.linear("fc", 3).square().mean_all(), Sgd::new(0.1).clip_norm(0.01))?;
        for step in 0..3 {
            t.step(&[batch(5, step)])?;
        }
        Ok(bits(t.params().get("fc.weight")?.f()))
    };
    assert_eq!(run(true)?, run(false)?);
    Ok(())
}

fn diverging(device: &Device) -> Check {
    let mut t = trainer(device, 5, Sgd::new(0.1))?;
    t.step(&[batch(5, 0)])?;
    t.step(&[Host::new([4, 5], vec![3e38; 20])])?;
    t.step(&[batch(5, 1)])?;
    match t.loss() {
        Err(Error::Diverged { step: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(near(&t.params().get("mean")?, &mean_after(5, 1)));
    assert_eq!(t.params().get("count")?.f(), [1.0]);
    t.step(&[batch(5, 1)])?;
    t.loss()?;
    assert!(near(&t.params().get("mean")?, &mean_after(5, 2)));
    Ok(())
}

fn saved(device: &Device) -> Check {
    let dir = tempfile::tempdir()?;
    let all = |t: &Trainer| -> Result<Vec<Vec<u32>>, Error> { Ok(t.params().all()?.iter().map(|(_, v)| bits(v.f())).collect()) };
    let mut straight = trainer(device, 5, Adam::new(0.01))?;
    (0..4).try_for_each(|step| straight.step(&[batch(5, step)]))?;
    let mut first = trainer(device, 5, Adam::new(0.01))?;
    (0..2).try_for_each(|step| first.step(&[batch(5, step)]))?;
    first.save(dir.path().join("c"))?;
    let mut second = trainer(device, 5, Adam::new(0.01))?;
    second.load(dir.path().join("c"))?;
    (2..4).try_for_each(|step| second.step(&[batch(5, step)]))?;
    assert_eq!(all(&straight)?, all(&second)?);

    straight.params().save(dir.path().join("w"))?;
    first.params().load(dir.path().join("w"))?;
    assert_eq!(all(&straight)?, all(&first)?);
    // A new seed starts state again, too.
    let fresh = first.seed(3)?;
    assert_eq!(fresh.params().get("mean")?.f(), [0.5; 5]);
    assert_eq!(fresh.params().get("count")?.f(), [0.0]);
    Ok(())
}

fn shared(device: &Device) -> Check {
    let mut t = trainer(device, 5, Sgd::new(0.1))?;
    let g = Graph::inference();
    let mean = g.state("mean", [5], Init::Zeros);
    // In an inference graph nothing is assigned.
    g.assign("mean", mean * 0.0);
    g.require_step("centred", &[mean.shape()], "it has seen no batch; train first".into(), std::panic::Location::caller());
    let mut f = t.compile(&[mean * 2.0])?;
    let why = f.run(&[]).unwrap_err().to_string();
    assert!(why.starts_with("centred: [5]: it has seen no batch; train first (tests/state.rs:"), "{why}");
    t.step(&[batch(5, 0)])?;
    let twice: Vec<f64> = mean_after(5, 1).iter().map(|m| 2.0 * m).collect();
    for _ in 0..2 {
        assert!(near(&f.run(&[])?[0], &twice));
    }
    t.step(&[batch(5, 1)])?;
    let twice: Vec<f64> = mean_after(5, 2).iter().map(|m| 2.0 * m).collect();
    assert!(near(&f.run(&[])?[0], &twice), "it sees the later step");
    // Weights that were set count as trained ones, until they start again.
    let t = t.seed(1)?;
    assert!(f.run(&[]).is_err());
    t.params().set("mean", &Host::new([5], vec![1.0; 5]))?;
    assert_eq!(f.run(&[])?[0].f(), [2.0; 5]);

    let h = Graph::inference();
    let why = t.compile(&[h.param("mean", [5], Init::Zeros)]).err().map(|e| e.to_string());
    assert_eq!(why.as_deref(), Some("parameter mean: trained here, but state in the trainer"));
    Ok(())
}

fn mistakes() -> Check {
    let text = |f: fn(&Graph)| {
        let g = Graph::training();
        f(&g);
        g.error().map_or(String::new(), |e| e.to_string())
    };
    for (got, want) in [
        (text(|g| g.assign("mean", g.input([3]))), "assign: [3]: there is no state `mean` in this graph; make it with Graph::state before"),
        (
            text(|g| {
                g.state("mean", [2], Init::Zeros);
                g.assign("mean", g.input([3]));
            }),
            "assign: [3]: `mean` has the shape [2]",
        ),
        (
            text(|g| {
                g.param("w", [3], Init::Zeros);
                g.assign("w", g.input([3]));
            }),
            "assign: [3]: there is no state `w`",
        ),
        (
            text(|g| {
                g.param("w", [3], Init::Zeros);
                g.state("w", [3], Init::Zeros);
            }),
            "state: [3] × [3]: `w` is already a parameter that is trained",
        ),
        (
            text(|g| {
                g.state("w", [3], Init::Zeros);
                g.param("w", [3], Init::Zeros);
            }),
            "param: [3] × [3]: `w` is already state, which is not trained",
        ),
        (
            text(|g| {
                g.state("w", [3], Init::Zeros);
                g.state("w", [4], Init::Zeros);
            }),
            "state: [3] × [4]: `w` already has the shape [3]",
        ),
    ] {
        assert!(got.starts_with(want) && got.contains("(tests/state.rs:"), "{got}");
    }
    let (g, h) = (Graph::training(), Graph::training());
    g.state("mean", [3], Init::Zeros);
    g.assign("mean", h.input([3]));
    assert!(g.error().is_some_and(|e| e.to_string().contains("different graphs")));
    // State alone is nothing to train.
    let g = Graph::training();
    let loss = g.state("mean", [3], Init::Ones).sum_all();
    let why = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).err().map(|e| e.to_string());
    assert!(why.is_some_and(|why| why.contains("no parameters to train")));
    Ok(())
}
