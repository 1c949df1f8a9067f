//! Data that do not fit: hosts that lie, inputs, labels, batches, and numbers that are not finite.

use crate::{
    common::{Check, weights},
    expect,
};
use downhill::{
    Device, Error, Fit, Graph, Host, Shape, Trainer,
    data::{self, Dataset, Target},
    host::Data,
    init::Init,
    losses,
    optim::{Adam, Sgd},
};

/// The fields of a `Host` are public, so it can contradict itself.
pub fn lying_hosts() -> Check {
    let float = Host { shape: Shape::from([2]), data: Data::<f32>::Index(vec![0, 1]) };
    let label = Host { shape: Shape::from([2]).u32(), data: Data::<f32>::Float(vec![0.0, 1.0]) };
    let short = Host::new([2, 2], vec![1.0]);
    let long = Host::new([2], vec![1.0; 5]);
    let huge = Host::new([usize::MAX, usize::MAX], vec![1.0; 5]);
    for host in [&float, &label, &short, &long, &huge] {
        let g = Graph::training();
        expect("constant", g.constant(host.clone()).error(), &["constant: "])?;
        let g = Graph::training();
        let x = g.input_of(if host.shape.dims().len() == 2 { Shape::from([2, 2]) } else { host.shape });
        let mut f = Device::cpu().compile(&[x * 2.0])?;
        expect("run", f.run(std::slice::from_ref(host)).err(), &["input 0: got "])?;
        let g = Graph::training();
        let w = g.param("w", [2], Init::Ones);
        let mut trainer = Trainer::new(&Device::cpu(), (w * g.input([2])).sum_all() + g.labels([2]).to_f32().sum_all(), Sgd::new(0.1))?;
        expect("set", trainer.params().set("w", host).err(), &["parameter w: got "])?;
        expect("step", trainer.step(&[host.clone(), Host::labels([2], vec![0, 1])]).err(), &["input 0: got "])?;
        expect("step", trainer.step(&[Host::new([2], vec![0.0; 2]), host.clone()]).err(), &["input 1: got "])?;
        let data = Dataset::new(vec![0.5; 8], [2], Target::labels(vec![0, 1, 2, 0], 3))?;
        let mut trainer = Trainer::for_data(&Device::cpu(), &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
        assert!(trainer.step(&[host.clone(), Host::labels([2], vec![0, 1])]).is_err());
        assert!(trainer.predict(host).is_err());
    }
    // Shapes of their own accord.
    let shape = Shape::from([usize::MAX, usize::MAX]);
    let _ = (shape.elements(), shape.bytes(), shape.batched(3), shape.to_string(), shape.sample(), shape.last());
    assert_eq!(Shape::new(&[1; 7]), None);
    Ok(())
}

pub fn inputs(device: &Device) -> Check {
    let g = Graph::training();
    let (x, y) = (g.input([4, 3]), g.labels([4]));
    let loss = x.linear("fc", 5).cross_entropy(y);
    let mut f = device.compile(&[loss])?;
    let mut trainer = Trainer::new(device, loss, Adam::new(0.1))?;
    let before = weights(&trainer)?;
    let (good_x, good_y) = (Host::new([4, 3], vec![0.5; 12]), Host::labels([4], vec![0, 1, 2, 3]));
    for (batch, text) in [
        (vec![], "got 0 tensors, but the graph was built for 2"),
        (vec![good_x.clone()], "got 1 tensors, but the graph was built for 2"),
        (vec![good_x.clone(); 3], "got 3 tensors"),
        (vec![Host::new([3, 4], vec![0.5; 12]), good_y.clone()], "input 0: got [3, 4] with 12 values, but the graph was built for [4, 3]"),
        (vec![Host::new([4, 3], vec![0.5; 11]), good_y.clone()], "input 0: got [4, 3] with 11 values, but the graph was built for [4, 3]"),
        (vec![good_y.clone(), good_x.clone()], "input 0: got u32 [4] with 4 labels, but the graph was built for [4, 3]"),
        (vec![good_x.clone(), Host::new([4], vec![0.0; 4])], "input 1: got [4] with 4 values, but the graph was built for u32 [4]"),
        (vec![good_x.clone(), Host::labels([5], vec![0; 5])], "input 1: got u32 [5] with 5 labels"),
        (vec![good_x.clone(), Host::labels([4], vec![0, 1, 5, 7])], "label 5 in row 2 is not one of the 5 classes (0 to 4)"),
        (vec![good_x.clone(), Host::labels([4], vec![u32::MAX, 1, 5, 7])], "label 4294967295 in row 0 is not one of the 5 classes"),
    ] {
        expect("run", f.run(&batch).err(), &["", text])?;
        expect("step", trainer.step(&batch).err(), &["", text])?;
    }
    // Nothing was trained, and good batches still work.
    assert_eq!((weights(&trainer)?, trainer.steps()), (before.clone(), 0));
    assert!(trainer.loss()?.is_nan());
    trainer.step(&[good_x.clone(), good_y.clone()])?;
    assert!(trainer.loss()?.is_finite() && weights(&trainer)? != before);
    assert!((f.run(&[good_x, good_y])?[0].f()[0] - 1.6).abs() < 1.0);
    expect("no outputs", device.compile(&[]).err(), &["outputs: a plan needs at least one"])?;
    // A function that needs a trainer for data says how to make one.
    let some = data::iris();
    let text = "this trainer was made of one graph; make it with Trainer::for_data";
    expect("fit", trainer.fit(&some, Fit::new()).err(), &["fit: ", text])?;
    expect("evaluate", trainer.evaluate(&some).err(), &["evaluate: ", text])?;
    expect("predict", trainer.predict(&Host::new([1, 4], vec![0.0; 4])).err(), &["predict: ", text])
}

/// By way of a data set with more classes than the model, through reshapes, slices and constants.
pub fn labels(device: &Device) -> Check {
    let data = Dataset::new(vec![0.5; 12], [2], Target::labels(vec![0, 1, 2, 0, 3, 1], 4))?;
    let model =
        |classes: usize| Trainer::for_data(device, &data, move |x| x.linear("fc", classes), |x, y| x.cross_entropy(y), Sgd::new(0.1));
    let mut trainer = model(3)?;
    let text = "label 3 in row 4 is not one of the 3 classes (0 to 2)";
    expect("fit", trainer.fit(&data, Fit::new().batch_size(2)).err(), &[text])?;
    expect("evaluate", trainer.evaluate(&data).err(), &[text])?;
    let fine = data.subset(&[0, 1, 2, 3])?;
    expect("validation", trainer.fit(&fine, Fit::new().batch_size(2).validation(&data)).err(), &[text])?;
    assert_eq!(trainer.steps(), 0, "before any step");
    let step = trainer.step(&[Host::new([2, 2], vec![0.0; 4]), Host::labels([2], vec![2, 3])]);
    expect("step", step.err(), &["label 3 in row 1 is not one of the 3 classes"])?;
    assert!(model(4)?.fit(&data, Fit::new().batch_size(2)).is_ok());
    // Labels on their way to the loss.
    let g = Graph::training();
    let (x, y) = (g.input([7, 3]), g.labels([2, 3]));
    let on_the_way = y.permute(&[1, 0]).reshape([6]).concat(&[g.constant(Host::labels([1], vec![2]))], 0);
    let mut f = device.compile(&[x.cross_entropy(on_the_way)])?;
    let run = f.run(&[Host::new([7, 3], vec![0.0; 21]), Host::labels([2, 3], vec![0, 1, 0, 0, 3, 0])]);
    expect("moved labels", run.err(), &["label 3 in row 4 is not one of the 3 classes"])?;
    // Two columns of classes, of different counts.
    let g = Graph::training();
    let (x, y) = (g.input([2, 3]), g.labels([2, 2]));
    let mut f = device.compile(&[x.cross_entropy(y.slice(1, 0, 1).reshape([2]))])?;
    f.run(&[Host::new([2, 3], vec![0.0; 6]), Host::labels([2, 2], vec![0, 9, 2, 9])])?;
    let g = Graph::training();
    let bad = g.input([2, 3]).cross_entropy(g.constant(Host::labels([2], vec![0, 7])));
    expect("constant", device.compile(&[bad]).err(), &["label 7 in row 1 is not one of the 3 classes (0 to 2)"])?;
    // Rows of a table.
    let g = Graph::training();
    let mut f = device.compile(&[g.param("table", [5, 2], Init::Ones).gather_rows(g.labels([3]))])?;
    expect("gather_rows", f.run(&[Host::labels([3], vec![4, 5, 0])]).err(), &["label 5 in row 1 is not one of the 5 classes"])?;
    // Indices of several axes: where along each of them, in inputs and in constants.
    let text = "gather_rows: the index 5 at position [1, 2] is not below 5, the size of the vocabulary";
    let g = Graph::training();
    let mut f = device.compile(&[g.param("table", [5, 2], Init::Ones).gather_rows(g.labels([2, 3]))])?;
    expect("gather_rows", f.run(&[Host::labels([2, 3], vec![4, 0, 1, 2, 3, 5])]).err(), &[text])?;
    let g = Graph::training();
    let bad = g.param("table", [5, 2], Init::Ones).gather_rows(g.constant(Host::labels([2, 3], vec![4, 0, 1, 2, 3, 5])));
    expect("constant indices", device.compile(&[bad]).err(), &[text])?;
    // Class numbers that are computed: of more classes than there are.
    let g = Graph::training();
    let y = g.input([2, 3]).cross_entropy(g.input([2, 9]).argmax(-1));
    let made =
        device.compile(&[y]).map(|mut f| f.run(&[Host::new([2, 3], vec![0.0; 6]), Host::new([2, 9], (0..18).map(|x| x as f32).collect())]));
    // No check sees them before the run: their rows are NaN, so that a step or a report tells.
    if let Ok(y) = made {
        assert!(y?[0].f()[0].is_nan());
    }
    Ok(())
}

pub fn trainer_losses(device: &Device) -> Check {
    let g = Graph::training();
    let x = g.input([4, 3]).linear("fc", 2);
    let error = Trainer::new(device, x, Sgd::new(0.1)).err();
    expect(
        "not reduced",
        error,
        &["loss: [4, 2]: a loss is one number, a float; reduce it first, e.g. with mean_all() (tests/errors/inputs.rs:"],
    )?;
    let g = Graph::training();
    let y = g.input([1, 3]).linear("fc", 4).argmax(-1);
    expect(
        "labels",
        Trainer::new(device, y, Sgd::new(0.1)).err(),
        &["loss: u32 [1]: a loss is one number, a float", "(tests/errors/inputs.rs:"],
    )?;
    // If model and loss are functions, making the trainer returns the error. It does not wait for the first step.
    let data = data::iris();
    let make = |k: u32| {
        Trainer::for_data(
            device,
            &data,
            |x| x.linear("fc", 3),
            move |x, y| match k {
                0 => x,
                1 => x.argmax(-1),
                2 => losses::cross_entropy(x, y).none(),
                3 => x.mse(y.to_f32()),
                _ => x.cross_entropy(y),
            },
            Sgd::new(0.1),
        )
    };
    let once = "a loss is one number, a float; reduce it first";
    expect("the model's output", make(0).err(), &["loss: [n, 3]: ", once, "(tests/errors/inputs.rs:"])?;
    expect("classes", make(1).err(), &["loss: u32 [n]: ", once, "(tests/errors/inputs.rs:"])?;
    expect("unreduced", make(2).err(), &["loss: [n]: ", once, "(tests/errors/inputs.rs:"])?;
    expect(
        "mse of labels",
        make(3).err(),
        &["mse: [n, 3] × [n]: prediction and target must have the same shape", "(tests/errors/inputs.rs:"],
    )?;
    make(4)?;
    // A model that is written for one batch size.
    let stuck = Trainer::for_data(device, &data, |x| x.reshape([1, 4]).linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1));
    expect("batches of 1", stuck.err(), &["reshape: [n, 4]: 4n elements do not fill [1, 4]", "(tests/errors/inputs.rs:"])?;
    // A model whose parameters depend on the batch.
    let mut moody = Trainer::for_data(device, &data, |x| x.linear("fc", 2 + x.dim(0)), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    expect("parameters by batch", moody.fit(&data, Fit::new()).err(), &["", "fc.weight"])?;
    // Graphs over a trainer's parameters.
    let trainer = make(4)?;
    let g = Graph::inference();
    expect(
        "unknown parameter",
        trainer.compile(&[g.input([1, 4]).linear("fc2", 3)]).err(),
        &["parameter fc2.weight: the trainer has none"],
    )?;
    let g = Graph::inference();
    expect(
        "other shape",
        trainer.compile(&[g.input([1, 4]).linear("fc", 2)]).err(),
        &["parameter fc.weight: [2, 4] here, but [3, 4] in the trainer"],
    )
}

pub fn batches(device: &Device) -> Check {
    let data = data::iris();
    let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    expect("0", trainer.fit(&data, Fit::new().batch_size(0)).err(), &["batch size: must be at least 1"])?;
    expect("evaluation", trainer.set_evaluation_batch(0).err(), &["evaluation batch: must be at least 1"])?;
    assert!(trainer.fit(&data, Fit::new().epochs(0))?.epochs.is_empty());
    // If the batch size exceeds the number of samples, all samples are one batch.
    for size in [150, 151, usize::MAX] {
        assert_eq!(trainer.fit(&data, Fit::new().batch_size(size))?.epochs[0].losses.len(), 1);
    }
    // Data of another shape, or with other targets.
    let values = Dataset::new(vec![0.5; 8], [4], Target::values([1], vec![0.0; 2]))?;
    let bare = Dataset::new(vec![0.5; 8], [4], Target::None)?;
    let narrow = Dataset::new(vec![0.5; 6], [3], Target::labels(vec![0, 1], 3))?;
    let want = "but the graph was built for samples of shape [4] with labels";
    for (other, got) in [
        (&values, "got samples of shape [4] with values of shape [1]"),
        (&bare, "got samples of shape [4] without a target"),
        (&narrow, "got samples of shape [3] with labels"),
    ] {
        expect("fit", trainer.fit(other, Fit::new().batch_size(1)).err(), &["fit: ", got, want])?;
        expect("evaluate", trainer.evaluate(other).err(), &["evaluate: ", got, want])?;
        expect("validation", trainer.fit(&data, Fit::new().validation(other)).err(), &["validation: ", got, want])?;
    }
    for x in [
        Host::new([4], vec![0.0; 4]),
        Host::new([0, 4], Vec::new()),
        Host::new([1, 5], vec![0.0; 5]),
        Host::new([], vec![0.0]),
        Host::labels([1, 4], vec![0; 4]),
    ] {
        expect(
            "predict",
            trainer.predict(&x).err(),
            &["predict: got ", "but the graph was built for samples of shape [4], and a first axis that counts them"],
        )?;
    }
    // Steps without a batch, with a batch of nothing, and with parts of different sizes.
    let y = |n: usize| Host::labels([n], vec![0; n]);
    for batch in [vec![], vec![Host::new([0, 4], Vec::new()), y(0)], vec![Host::new([], vec![1.0]), y(1)]] {
        expect("no batch", trainer.step(&batch).err(), &[""])?;
    }
    expect(
        "parts",
        trainer.step(&[Host::new([3, 4], vec![0.0; 12]), y(4)]).err(),
        &["input 1: got u32 [4] with 4 labels, but the graph was built for u32 [3]"],
    )?;
    // A batch that is said to be enormous must not be planned for.
    let huge = [Host::new([1 << 31, 4], vec![0.0; 4]), y(1)];
    expect("enormous", trainer.step(&huge).err(), &["input 0: got [2147483648, 4] with 4 values"])?;
    // Samples of five axes make batches of six; a model may not add one more.
    let deep = Dataset::new(vec![0.5; 4], [1, 1, 1, 2, 1], Target::values([1], vec![0.0; 2]))?;
    let seven = Trainer::for_data(device, &deep, |x| x.unsqueeze(0).flatten().linear("fc", 1), |x, y| x.mse(y), Sgd::new(0.1));
    expect("seven axes", seven.err(), &["unsqueeze: [n, 1, 1, 1, 2, 1]: more than 6 axes", "(tests/errors/inputs.rs:"])?;
    expect("six axes a sample", Dataset::new(vec![0.5; 4], [1, 1, 1, 1, 2, 1], Target::None).err(), &["", "at most 5 axes"])
}

pub fn data_not_finite(device: &Device) -> Check {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![0.5; 12];
        x[7] = bad;
        let error = Dataset::new(x.clone(), [3], Target::None).err();
        expect("Dataset", error, &[&format!("features: {bad} at row 2, column 1: ")])?;
        let data = Dataset::new(vec![0.5; 12], [3], Target::values([1], vec![1.0; 4]))?;
        let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 1), |x, y| x.mse(y), Sgd::new(0.1))?;
        let before = weights(&trainer)?;
        let targets = |y: f32| Host::new([4, 1], vec![1.0, 1.0, 1.0, y]);
        expect(
            "x",
            trainer.step(&[Host::new([4, 3], x.clone()), targets(1.0)]).err(),
            &[&format!("input 0: {bad} at row 2, column 1: replace or drop it")],
        )?;
        expect(
            "y",
            trainer.step(&[Host::new([4, 3], vec![0.5; 12]), targets(bad)]).err(),
            &[&format!("input 1: {bad} at row 3, column 0")],
        )?;
        expect("predict", trainer.predict(&Host::new([4, 3], x)).err(), &["", &format!("{bad} at row 2, column 1")])?;
        assert_eq!((weights(&trainer)?, trainer.steps()), (before, 0));
        // Large finite numbers are data like any other.
        trainer.step(&[Host::new([4, 3], vec![1e30; 12]), targets(1.0)])?;
        assert!(matches!(trainer.loss(), Err(Error::Diverged { step: 0, .. })));
    }
    Ok(())
}
