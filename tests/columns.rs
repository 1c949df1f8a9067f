//! Data sets of several columns, models of several inputs, outputs and losses, and the scalars that reports have.

mod common;

use common::{BOTH, Check, On, Suite, bits, weights};
use downhill::{
    Batch, Device, Error, Evaluation, Fit, Graph, Host, Outputs, Tensor, Trainer,
    data::{Augment, Dataset, Field, Normalise, Source, Target},
    init::Init,
    layers::Recurrent,
    losses,
    optim::{Adam, Optimizer, Sgd},
};
use std::io::{Read, Seek, SeekFrom};

fn main() {
    let mut suite = Suite::new();
    suite.each(&BOTH, "resident, streamed and step by step", same_bits);
    suite.each(&BOTH, "means over unequal batches", means);
    suite.each(&BOTH, "every loss is reported", reports);
    suite.each(&BOTH, "outputs and predictions", predictions);
    suite.each(&[On::Gpu], "images beside other columns", augmented);
    suite.each(&BOTH, "a graph for any batch size", from_fn);
    suite.each(&BOTH, "a graph that reports", own_graph);
    suite.each(&BOTH, "metrics of a classifier", classifier);
    suite.each(&BOTH, "a GAN of two trainers", gan);
    suite.each(&BOTH, "a column that is read for each batch", source);
    suite.test("weights cross devices", across);
    suite.test("mistakes", mistakes);
    suite.run()
}

const N: usize = 37;

fn wave(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * step).sin()).collect()
}

/// Two features, two targets, weights and lengths, in another order than that of their roles.
fn data() -> Result<Dataset, Error> {
    Dataset::of([
        Field::weights((0..N).map(|i| (i % 4) as f32 * 0.5).collect()),
        Field::values("price", [1], wave(N, 0.9)),
        Field::floats("size", [3], wave(3 * N, 0.37)),
        Field::tokens("place", [2], (0..2 * N).map(|i| (i * 7 % 5) as u32).collect(), 5),
        Field::bytes("picture", [1, 2, 2], (0..4 * N).map(|i| (i * 31 % 256) as u8).collect(), 1.0 / 255.0),
        Field::labels("kind", (0..N).map(|i| (i % 3) as u32).collect(), 3),
        Field::lengths((0..N).map(|i| (i % 3) as u32).collect(), 2),
    ])
}

fn model<'g>(b: &Batch<'g>) -> Outputs<'g> {
    let n = b.samples();
    let place = b.graph().param("place", [5, 4], Init::Normal { mean: 0.0, std: 1.0 }).gather_rows(b["place"]).sum(&[1], false);
    let picture = b["picture"].reshape([n, 4]).linear("picture", 4);
    let h = (b["size"].linear("size", 4) + place + picture + b["length"].to_f32().unsqueeze(-1) * 0.1).tanh();
    let (price, kind) = (h.linear("price", 1), h.linear("kind", 3));
    let weighted = losses::mse(price.reshape([n]), b["price"].reshape([n])).sample_weights(b["weight"]).mean();
    Outputs::new()
        .output("price", price)
        .output("kind", kind)
        .loss("price", 1.0, weighted)
        .loss("kind", 0.25, kind.cross_entropy(b["kind"]))
        .watch("rmse", price.mse(b["price"]).sqrt())
        .watch("weighted rmse", weighted.sqrt())
}

fn read<'g>(b: &Batch<'g>) -> Outputs<'g> {
    let options = Recurrent { lengths: Some(b["length"]), ..Recurrent::default() };
    let h = b["x"].lstm_with("lstm", 2, options).h.reshape([b.samples(), 2]).linear("out", 1);
    Outputs::new().output("y", h).loss("y", 1.0, h.mse(b["y"]))
}

fn trainer(device: &Device) -> Result<Trainer, Error> {
    Trainer::for_batches(device, &data()?, model, Adam::new(0.02))
}

/// Batches from the device, from another thread and from the caller give the same bits.
fn same_bits(device: &Device) -> Check {
    let data = data()?;
    let (mut resident, mut streamed, mut stepped) = (trainer(device)?, trainer(device)?, trainer(device)?);
    let fit = || Fit::new().epochs(3).batch_size(8).validation(&data);
    let a = resident.fit(&data, fit().steps_per_submit(3))?;
    let b = streamed.fit(&data, fit().resident(0))?;
    for epoch in 0..3 {
        for rows in downhill::data::batches(&downhill::data::shuffled(N, 0, epoch), 8)? {
            stepped.step(&data.columns(rows)?)?;
        }
    }
    assert_eq!(weights(&resident)?, weights(&streamed)?);
    assert_eq!(weights(&resident)?, weights(&stepped)?);
    let reports = |trainer: &mut Trainer| trainer.take_reports();
    let wanted = reports(&mut stepped)?;
    assert_eq!(reports(&mut resident)?, wanted);
    assert_eq!(reports(&mut streamed)?, wanted);
    for (a, b) in a.epochs.iter().zip(&b.epochs) {
        assert_eq!((&a.losses, &a.watched, &a.validation_watched), (&b.losses, &b.watched, &b.validation_watched));
        assert_eq!((a.watched.len(), a.validation_watched.len()), (4, 4));
    }
    // A subset, and a data set with its columns in another order and one more.
    let other = Dataset::of(data.fields().iter().rev().cloned().chain([Field::floats("unused", [], wave(N, 0.1))]))?;
    let (a, b) = (resident.evaluate(&data)?, resident.evaluate(&other)?);
    assert_eq!((a.loss, a.outputs, a.watched), (b.loss, b.outputs, b.watched));
    Ok(())
}

/// The scalars of a model by their definitions, in `f64`.
fn by_hand(result: &Evaluation, data: &Dataset) -> Result<[f64; 4], Error> {
    let all: Vec<usize> = (0..N).collect();
    let columns = data.columns(&all)?;
    let column = |name: &str| &columns[data.names().position(|n| n == name).expect("it is there")];
    let (price, weight, kind) = (column("price").f(), column("weight").f(), column("kind").u());
    let squares: Vec<f64> = result.outputs.f().iter().zip(price).map(|(y, t)| (f64::from(*y) - f64::from(*t)).powi(2)).collect();
    let total: f64 = weight.iter().map(|&w| f64::from(w)).sum();
    let weighted = squares.iter().zip(weight).map(|(s, &w)| s * f64::from(w)).sum::<f64>() / total;
    let scores = result.more.get("kind")?.f();
    let nll: f64 = scores
        .chunks(3)
        .zip(kind)
        .map(|(row, &k)| row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() - f64::from(row[k as usize]))
        .sum::<f64>();
    Ok([weighted, nll / N as f64, (squares.iter().sum::<f64>() / N as f64).sqrt(), weighted.sqrt()])
}

/// Over batches of any sizes, the means are those over all samples.
fn means(device: &Device) -> Check {
    let data = data()?;
    let mut trainer = trainer(device)?;
    trainer.fit(&data, Fit::new().epochs(2))?;
    for size in [N, 8, 5] {
        trainer.set_evaluation_batch(size)?;
        let result = trainer.evaluate(&data)?;
        let want = by_hand(&result, &data)?;
        let got: Vec<(&str, f64)> = result.watched.iter().map(|(name, x)| (name, *x)).collect();
        assert_eq!(got.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["price", "kind", "rmse", "weighted rmse"]);
        for ((name, got), want) in got.iter().zip(want) {
            assert!((got - want).abs() < 2e-6 * want.abs(), "{name} in batches of {size}: {got} instead of {want}");
        }
        let loss = want[0] + 0.25 * want[1];
        assert!((result.loss - loss).abs() < 2e-6 * loss, "{} instead of {loss}", result.loss);
    }
    // A rate near 0: the epoch's means are those of the model, in batches and in micro-batches.
    trainer.set_lr(1e-30)?;
    let want = by_hand(&trainer.evaluate(&data)?, &data)?;
    let history = trainer.fit(&data, Fit::new().batch_size(8))?;
    for ((name, got), want) in history.epochs[0].watched.iter().zip(want) {
        assert!((got - want).abs() < 2e-6 * want.abs(), "{name}: {got} instead of {want}");
    }
    Ok(())
}

/// A step reports each loss without its weight, and the loss is the weighted sum.
fn reports(device: &Device) -> Check {
    let data = data()?;
    let mut trainer = trainer(device)?;
    trainer.step(&data.columns(&[0, 1, 2, 3, 4])?)?;
    let report = trainer.take_reports()?.remove(0);
    let of = |name: &str| report.watched.get(name).copied();
    assert!((report.loss - (of("price")? + 0.25 * of("kind")?)).abs() < 1e-6, "{report:?}");
    assert!((of("weighted rmse")?.powi(2) - of("price")?).abs() < 1e-6, "{report:?}");
    // Two targets: the accuracy of which of them?
    assert_eq!(report.accuracy, None);
    let e = of("loss").unwrap_err();
    assert_eq!(e.to_string(), "`loss`: there is no value of this name; there are price, kind, rmse, weighted rmse");

    // Micro-batches: one report for the step. This loss is one mean over samples.
    let make = || {
        Trainer::for_batches(
            device,
            &data,
            |b| {
                let mse = b["size"].linear("fc", 1).mse(b["price"]);
                Outputs::new().loss("mse", 1.0, mse).watch("rmse", mse.sqrt()).watch("half", mse * 0.5)
            },
            Sgd::new(0.1),
        )
    };
    let (mut whole, mut parts) = (make()?, make()?);
    whole.step(&data.columns(&[0, 1, 2, 3, 4])?)?;
    parts.accumulate(&data.columns(&[0, 1, 2])?)?;
    parts.step(&data.columns(&[3, 4])?)?;
    let (whole, parts) = (whole.take_reports()?.remove(0), parts.take_reports()?.remove(0));
    for ((name, a), (_, b)) in whole.watched.iter().zip(parts.watched.iter()) {
        assert!((a - b).abs() < 1e-6, "{name}: {a} {b}");
    }
    assert_eq!(parts.watched.len(), 3);
    Ok(())
}

fn predictions(device: &Device) -> Check {
    let data = data()?;
    let mut trainer = trainer(device)?;
    trainer.set_evaluation_batch(8)?;
    let result = trainer.evaluate(&data)?;
    assert_eq!((result.outputs.shape.dims(), result.more.get("kind")?.shape.dims()), (&[N, 1][..], &[N, 3][..]));
    // A prediction needs no targets and no weights.
    let inputs = data.select(&["picture", "length", "size", "place"])?;
    let all = trainer.predict_on(&inputs)?;
    assert_eq!(all.get("price")?, &result.outputs);
    assert_eq!(all.get("kind")?, result.more.get("kind")?);
    let e = trainer.predict(&Host::new([1, 3], vec![0.0; 3])).unwrap_err();
    assert!(e.to_string().starts_with("predict: the model takes `place` as well; use Trainer::predict_on"), "{e}");
    let e = trainer.predict_on(&data.select(&["size", "place", "length"])?).unwrap_err();
    let want = "predict_on: got the columns `size` [3], `place` u32 [2], `length` u32 [], but the graph was built for the columns `size` [3], \
                `place` u32 [2], `picture` [1, 2, 2], `length` u32 []";
    assert_eq!(e.to_string(), want);
    Ok(())
}

/// The images of the first feature change, on the device as on the host, and other columns do not.
fn augmented(device: &Device) -> Check {
    let images: Vec<u8> = (0..N * 16).map(|i| (i * 37 % 256) as u8).collect();
    let data = Dataset::of([
        Field::bytes("image", [1, 4, 4], images, 1.0 / 255.0),
        Field::floats("other", [2], wave(2 * N, 0.3)),
        Field::values("y", [1], wave(N, 0.7)),
    ])?;
    let make = || {
        Trainer::for_batches(
            device,
            &data,
            |b| {
                let image = b["image"].reshape([b.samples(), 16]);
                let y = image.linear("image", 4).tanh().linear("y", 1) + b["other"].linear("other", 1);
                Outputs::new().output("y", y).loss("mse", 1.0, y.mse(b["y"])).watch("other", b["other"].mean_all())
            },
            Adam::new(0.01),
        )
    };
    let augment = Augment { horizontal_flip: 0.5, vertical_flip: 0.5, crop_padding: 1 };
    let fit = || Fit::new().epochs(2).batch_size(8);
    let (mut plain, mut a, mut b) = (make()?, make()?, make()?);
    let other = plain.fit(&data, fit())?.epochs[1].watched.get("other")?.to_owned();
    let changed = a.fit(&data, fit().augment(augment))?;
    b.fit(&data, fit().augment(augment).resident(0))?;
    assert_eq!(weights(&a)?, weights(&b)?);
    assert_ne!(weights(&a)?, weights(&plain)?);
    assert_eq!(changed.epochs[1].watched.get("other")?, &other);
    Ok(())
}

/// A graph as a function of the batch size makes the steps of `fit`, the short last batch included.
fn from_fn(device: &Device) -> Check {
    let data = Dataset::new(wave(3 * N, 0.37), [3], Target::values([1], wave(N, 0.9)))?;
    let mut fitted = Trainer::for_data(device, &data, |x| x.linear("fc", 4).tanh().linear("out", 1), |y, t| y.mse(t), Adam::new(0.02))?;
    fitted.fit(&data, Fit::new().epochs(2).batch_size(8))?;
    let mut own = Trainer::from_fn(
        device,
        |g, n| {
            let (x, t) = (g.input([n, 3]), g.input([n, 1]));
            x.linear("fc", 4).tanh().linear("out", 1).mse(t).into()
        },
        Adam::new(0.02),
    )?;
    let mut samples = Vec::new();
    for epoch in 0..2 {
        for rows in downhill::data::batches(&downhill::data::shuffled(N, 0, epoch), 8)? {
            own.step(&data.columns(rows)?)?;
            samples.push(rows.len());
        }
    }
    assert_eq!(weights(&own)?, weights(&fitted)?);
    let reports = own.take_reports()?;
    assert_eq!(reports.iter().map(|r| r.samples).collect::<Vec<_>>(), samples);
    assert_eq!((samples[4], bits(&[reports[4].loss])), (5, bits(&[fitted.take_reports()?[4].loss])));
    // Micro-batches of any sizes, the memory and the summary of any batch.
    own.accumulate(&data.columns(&[0, 1])?)?;
    own.step(&data.columns(&[2])?)?;
    assert_eq!(own.take_reports()?[0].samples, 3);
    assert!(own.memory(64)?.total() > own.memory(8)?.total() && own.summary(5)?.contains("[5, 4]"));
    Ok(())
}

fn own_graph(device: &Device) -> Check {
    let g = Graph::training();
    let (x, t) = (g.input([4, 2]), g.input([4, 1]));
    let y = x.linear("fc", 1);
    let all = Outputs::new().loss("mse", 2.0, y.mse(t)).loss("mae", 1.0, y.mae(t)).watch("mean", y.mean_all());
    let mut trainer = Trainer::new(device, all, Sgd::new(0.1))?;
    trainer.step(&[Host::new([4, 2], wave(8, 0.5)), Host::new([4, 1], wave(4, 0.8))])?;
    let report = trainer.take_reports()?.remove(0);
    let of = |name: &str| report.watched.get(name).copied();
    assert!((report.loss - (2.0 * of("mse")? + of("mae")?)).abs() < 1e-6 && of("mean")? != 0.0, "{report:?}");
    trainer.apply_gradients(&[])?;
    assert!(trainer.take_reports()?[0].watched.is_empty());
    Ok(())
}

/// With one target of labels, the first output gives the accuracy.
fn classifier(device: &Device) -> Check {
    let iris = downhill::data::iris();
    let fit = || Fit::new().epochs(3).batch_size(16).validation(&iris);
    let mut one = Trainer::for_data(device, &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.05))?;
    let mut all = Trainer::for_batches(
        device,
        &iris,
        |b| {
            let scores = b["x"].linear("fc", 3);
            Outputs::new()
                .output("scores", scores)
                .loss("nll", 1.0, scores.cross_entropy(b["y"]))
                .watch("top", scores.correct(b["y"]).mean_all())
        },
        Sgd::new(0.05),
    )?;
    let (a, b) = (one.fit(&iris, fit())?, all.fit(&iris, fit())?);
    assert_eq!(weights(&one)?, weights(&all)?);
    for (a, b) in a.epochs.iter().zip(&b.epochs) {
        assert_eq!((a.loss, a.accuracy, &a.validation), (b.loss, b.accuracy, &b.validation));
        assert_eq!(b.watched.get("nll")?, &b.loss);
        assert!((b.watched.get("top")? - b.accuracy.ok_or("no accuracy")?).abs() < 1e-7);
    }
    Ok(())
}

/// Two trainers, each of which freezes the other's part and copies it on the device.
fn pair(device: &Device, n: usize) -> Result<[Trainer; 2], Error> {
    fn generator<'g>(z: Tensor<'g>) -> Tensor<'g> {
        z.linear("g.fc", 4).tanh().linear("g.out", 2)
    }
    fn judge<'g>(x: Tensor<'g>) -> Tensor<'g> {
        x.linear("d.fc", 8).leaky_relu(0.2).linear("d.out", 1)
    }
    let (g, h) = (Graph::training(), Graph::training());
    let (real, fake) = (judge(g.input([n, 2])), judge(generator(g.input([n, 3]))));
    let loss = real.bce_with_logits(g.full([n, 1], 1.0)) + fake.bce_with_logits(g.full([n, 1], 0.0));
    let judging = Trainer::new(device, loss, Optimizer::from(Adam::new(0.02)).freeze(["g"]))?;
    let fooled = judge(generator(h.input([n, 3])));
    let loss = fooled.bce_with_logits(h.full([n, 1], 1.0));
    let generating = Trainer::new(device, loss, Optimizer::from(Sgd::new(0.1).momentum(0.9)).freeze(["d"]))?;
    let order = ["g.fc.weight", "g.fc.bias", "g.out.weight", "g.out.bias", "d.fc.weight", "d.fc.bias", "d.out.weight", "d.out.bias"];
    for (i, name) in order.into_iter().enumerate() {
        let shape = judging.params().get(name)?.shape;
        let value = Host::new(shape, wave(shape.elements(), 0.37 + 0.11 * i as f32));
        judging.params().set(name, &value)?;
        generating.params().set(name, &value)?;
    }
    Ok([judging, generating])
}

/// The losses are those of PyTorch 2.15 for the same numbers.
fn gan(device: &Device) -> Check {
    let n = 4;
    let [mut judging, mut generating] = pair(device, n)?;
    let want = [(2.2260633, 0.2167306), (2.0114996, 0.3002975), (1.8435209, 0.3265795), (1.8561466, 0.2738089), (1.8525186, 0.2692196f32)];
    let before = [judging.counters(), generating.counters()].map(|c| c.map(|c| (c.bytes_read, c.waits)));
    for k in 0..want.len() {
        let (x, z) = (wave(2 * n, 0.5 + 0.1 * k as f32), wave(3 * n, 0.9 + 0.1 * k as f32));
        let (x, z) = (Host::new([n, 2], x), Host::new([n, 3], z));
        judging.step(&[x, z.clone()])?;
        assert_eq!(generating.params().copy_from(&judging.params(), |name| name.starts_with("d."))?, 4);
        generating.step(&[z])?;
        assert_eq!(judging.params().copy_from(&generating.params(), |name| name.starts_with("g."))?, 4);
    }
    // Nothing was read or waited for.
    assert_eq!([judging.counters(), generating.counters()].map(|c| c.map(|c| (c.bytes_read, c.waits))), before);
    assert_eq!(weights(&judging)?, {
        let mut all = weights(&generating)?;
        all.sort_by_key(|(name, _)| judging.params().names().position(|n| n == name));
        all
    });
    let (d, g) = (judging.take_reports()?, generating.take_reports()?);
    for ((d, g), (want_d, want_g)) in d.iter().zip(&g).zip(want) {
        assert!((d.loss - want_d).abs() < 2e-5 && (g.loss - want_g).abs() < 2e-5, "{} {} instead of {want_d} {want_g}", d.loss, g.loss);
    }
    // The copy may be of any size: the check for overflow looks at it.
    judging.params().set("d.out.bias", &Host::new([1], vec![f32::MAX]))?;
    generating.params().copy_from(&judging.params(), |name| name.starts_with("d."))?;
    assert_eq!(generating.params().get("d.out.bias")?.f(), &[f32::MAX]);
    let e = generating.params().copy_from(&judging.params(), |name| name == "x").unwrap_err().to_string();
    assert_eq!(e, "copy_from: the models have none of these parameters in common");
    let h = Graph::training();
    let other = Trainer::new(device, h.input([1, 2]).linear("d.fc", 3).sum_all(), Sgd::new(0.1))?;
    let e = other.params().copy_from(&judging.params(), |_| true).unwrap_err().to_string();
    assert_eq!(e, "parameter d.fc.weight: it is [8, 2] in one model and [3, 2] in the other");
    Ok(())
}

/// The numbers of [`wave`], read from a file that nobody keeps in memory.
struct Waves {
    path: std::path::PathBuf,
    bad: Option<usize>,
}

impl Source for Waves {
    fn rows(&self) -> usize {
        N
    }
    fn read(&self, rows: &[usize], out: &mut [f32]) -> Result<(), Error> {
        let failed = |e: std::io::Error| Error::File { path: self.path.clone(), why: e.to_string() };
        let mut file = std::fs::File::open(&self.path).map_err(failed)?;
        for (&row, out) in rows.iter().zip(out.chunks_mut(3)) {
            let mut bytes = [0; 12];
            file.seek(SeekFrom::Start(row as u64 * 12)).map_err(failed)?;
            file.read_exact(&mut bytes).map_err(failed)?;
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(x, b)| *x = f32::from_le_bytes(*b));
            if self.bad == Some(row) {
                out[1] = f32::NAN;
            }
        }
        Ok(())
    }
}

/// It trains as a column in memory does, to the bit, and so do its parts.
fn source(device: &Device) -> Check {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("waves");
    std::fs::write(&path, wave(3 * N, 0.37).iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())?;
    let y = || Field::values("y", [1], wave(N, 0.9));
    let read = |bad| Dataset::of([Field::source("x", [3], Waves { path: path.clone(), bad }), y()]);
    let (read, held) = (read(None)?, Dataset::of([Field::floats("x", [3], wave(3 * N, 0.37)), y()])?);
    assert_eq!(format!("{read:?}"), "Dataset(37 samples of [3] floats of a source, targets [1])");
    assert_eq!(read.columns(&[5, 0])?, held.columns(&[5, 0])?);
    let make = || Trainer::for_data(device, &held, |x| x.linear("fc", 4).tanh().linear("out", 1), |y, t| y.mse(t), Adam::new(0.02));
    let (mut a, mut b) = (make()?, make()?);
    let (parts, others) = (read.split(0.8, 3)?, held.split(0.8, 3)?);
    let (x, y) = (
        a.fit(&parts.0, Fit::new().epochs(3).batch_size(8).validation(&parts.1))?,
        b.fit(&others.0, Fit::new().epochs(3).batch_size(8).validation(&others.1))?,
    );
    assert_eq!(weights(&a)?, weights(&b)?);
    assert_eq!(x.epochs[2].losses, y.epochs[2].losses);
    assert_eq!(x.epochs[2].validation, y.epochs[2].validation);
    assert_eq!(a.predict_on(&read.select(&["x"])?)?, b.predict_on(&held)?);
    // A number that is not finite, and a file that is gone: the errors come when they are read.
    let bad = Dataset::of([Field::source("x", [3], Waves { path: path.clone(), bad: Some(9) }), Field::values("y", [1], wave(N, 0.9))])?;
    let e = a.fit(&bad, Fit::new()).unwrap_err();
    assert!(matches!(e, Error::NonFinite { row: 9, column: 1, .. }), "{e}");
    std::fs::remove_file(&path)?;
    let e = a.fit(&read, Fit::new()).unwrap_err();
    assert!(matches!(e, Error::File { .. }), "{e}");
    let e = Normalise::column(&read, "x").unwrap_err().to_string();
    assert!(e.contains("normalise them in the source, or in the model"), "{e}");
    Ok(())
}

/// Between devices the weights go through the host.
fn across() -> Check {
    let Ok(gpu) = On::Gpu.open() else { return Ok(()) };
    let ([a, _], [b, _]) = (pair(&gpu, 2)?, pair(&Device::cpu(), 2)?);
    a.params().set("d.out.bias", &Host::new([1], vec![7.5]))?;
    assert_eq!(b.params().copy_from(&a.params(), |_| true)?, 8);
    assert_eq!(weights(&a)?, weights(&b)?);
    assert_eq!(b.params().copy_from(&b.params(), |_| true)?, 8);
    Ok(())
}

fn mistakes() -> Check {
    let cpu = Device::cpu();
    let data = data()?;
    let text = |result: Result<Trainer, Error>| result.err().expect("it is a mistake").to_string();
    let line = line!() + 1;
    let e = text(Trainer::for_batches(&cpu, &data, |b| Outputs::new().loss("mse", 1.0, b["sise"].mean_all()), Sgd::new(0.1)));
    let want = format!(
        "column: `sise`: the data has no such column; it has size, place, picture, price, kind, weight, length ({}:{line})",
        file!()
    );
    assert_eq!(e, want);
    type Model = for<'g> fn(&Batch<'g>) -> Outputs<'g>;
    fn mse<'g>(b: &Batch<'g>) -> Tensor<'g> {
        b["size"].linear("fc", 1).mse(b["price"])
    }
    for (model, want) in [
        ((|b| Outputs::new().output("y", b["size"])) as Model, "Outputs: there is no loss to train; add one with Outputs::loss"),
        (|b| Outputs::new().loss("a", 1.0, mse(b)).loss("a", 1.0, mse(b)), "Outputs: two outputs, losses or watched scalars are named `a`"),
        (|b| Outputs::new().loss("a", 1.0, mse(b)).watch("w", b["size"]), "watch: [n, 3]: `w` must be one number, a float"),
        (|b| Outputs::new().loss("a", 0.5, b["size"].linear("fc", 1)), "loss: [n, 1]: `a` must be one number, a float"),
        (|b| Outputs::new().loss("a", 1.0, mse(b) + b.graph().input([1]).sum_all()), "model: a model for data has the inputs"),
    ] {
        let e = text(Trainer::for_batches(&cpu, &data, model, Sgd::new(0.1)));
        assert!(e.starts_with(want), "{want}: {e}");
    }
    let e = text(Trainer::for_data(&cpu, &data, |x| x.linear("fc", 1), |y, t| y.mse(t), Sgd::new(0.1)));
    let want = "for_data: it takes one feature and at most one target, but the data has size, place, picture, price, kind, weight, length; \
                use Trainer::for_batches";
    assert_eq!(e, want);
    let e = text(Trainer::from_fn(&cpu, |g, n| g.input([3, n]).linear("fc", 1).mean_all().into(), Sgd::new(0.1)));
    assert!(e.contains("the first axis of its first input must be the number of samples"), "{e}");
    let mut own = Trainer::from_fn(&cpu, |g, n| g.input([n, 3]).linear("fc", 1).mean_all().into(), Sgd::new(0.1))?;
    let e = own.fit(&data, Fit::new()).unwrap_err().to_string();
    assert!(e.starts_with("fit: this trainer was made for a graph of your own"), "{e}");
    let e = own.step(&[Host::new([4, 2], vec![0.0; 8])]).unwrap_err().to_string();
    assert!(e.starts_with("input 0: got [4, 2], but the graph was built for samples of shape [3]"), "{e}");

    let mut trainer = trainer(&cpu)?;
    let few = Dataset::of([Field::tokens("place", [2], vec![0; 2 * N], 9)])?;
    let e = trainer.fit(&few, Fit::new()).unwrap_err().to_string();
    assert!(
        e.starts_with("fit: got the columns `place` u32 [2], but the graph was built for the columns `size` [3], `place` u32 [2],"),
        "{e}"
    );
    // A token that the model's table does not have, in a data set with a larger vocabulary.
    let mut fields: Vec<Field> = data.fields().iter().filter(|f| f.name() != "place").cloned().collect();
    fields.push(Field::tokens("place", [2], (0..2 * N).map(|i| u32::from(i == 9) * 6).collect(), 9));
    let e = trainer.fit(&Dataset::of(fields)?, Fit::new()).unwrap_err();
    assert!(matches!(&e, Error::Index { position, index: 6, rows: 5, .. } if *position == [4, 1]), "{e}");
    // A length of 0, which a recurrent layer does not take.
    let columns = [Field::floats("x", [3, 1], wave(12, 0.3)), Field::values("y", [1], wave(4, 0.2)), Field::lengths(vec![3, 1, 0, 2], 3)];
    let sequences = Dataset::of(columns)?;
    let trained =
        Trainer::for_batches(&Device::cpu(), &sequences, read, Adam::new(0.02)).and_then(|mut t| t.fit(&sequences, Fit::new()).map(|_| ()));
    let e = trained.unwrap_err().to_string();
    assert_eq!(e, "lstm: sample 2 has the length 0, but lengths must be from 1 to 3");

    for (fields, want) in [
        (vec![Field::values("y", [], vec![0.0])], "Dataset: no column is a feature, so a model has no input"),
        (vec![], "Dataset: no column is a feature, so a model has no input"),
        (
            vec![Field::floats("a", [], vec![0.0]), Field::values("a", [], vec![0.0])],
            "Dataset: two columns are named `a`, or the name is empty",
        ),
        (vec![Field::floats("a", [], vec![0.0]), Field::floats("b", [], vec![0.0; 2])], "Dataset: 1 samples, but 2 rows of `b`"),
        (vec![Field::floats("a", [2], vec![0.0, 1.0, 2.0, f32::NAN])], "a: NaN at row 1, column 1"),
        (vec![Field::floats("a", [2], vec![0.0; 3])], "a: 3 numbers are no whole samples of [2]"),
        (vec![Field::floats("a", [], vec![0.0]), Field::labels("b", vec![3], 3)], "label 3 in row 0 is not one of the 3 classes"),
        (
            vec![Field::floats("a", [], vec![0.0; 2]), Field::lengths(vec![4, 5], 4)],
            "Field::lengths: sample 1 has the length 5, but lengths must be from 0 to 4",
        ),
    ] {
        let e = Dataset::of(fields).expect_err(want).to_string();
        assert!(e.starts_with(want), "{want}: {e}");
    }
    assert_eq!(
        data.field("y").unwrap_err().to_string(),
        format!("column `y`: the data has no such column; it has {}", data.names().collect::<Vec<_>>().join(", "))
    );
    Ok(())
}
