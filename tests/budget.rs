//! The cost of an epoch, counted in submits, dispatches, uploads, read-backs, waits and buffers. The result of training is the same
//! with data on the device or on the host, and with one step in a submit or many.

mod common;

use common::{Check, On, Suite, bits, weights};
use downhill::{
    Device, Error, Event, Fit, Graph, Host, Tensor, Trainer,
    data::{self, Augment, Dataset, Normalise, Target},
    gpu::Counters,
    init::Init,
    losses,
    optim::{Adam, Sgd},
    testing,
};
use std::ops::ControlFlow;

fn main() {
    let mut suite = Suite::new();
    suite.on(On::Gpu, "an epoch", epoch);
    suite.on(On::Gpu, "an epoch from the host", epoch_from_host);
    suite.on(On::Gpu, "an epoch with a weighted loss", weighted_epoch);
    suite.on(On::Gpu, "an evaluation", evaluation);
    suite.on(On::Gpu, "steps find their number for a submit", pace);
    suite.on(On::Gpu, "more steps than the ring holds", long_epoch);
    suite.on(On::Gpu, "data goes to the device once", data_stays);
    suite.each(&[On::Gpu, On::Webgpu, On::Pieces], "the same bits from everywhere", same_bits);
    suite.each(&[On::Gpu, On::Pieces], "a step that is not finite within a submit", diverging);
    suite.each(&[On::Gpu], "an end within a submit", early_end);
    suite.each(&[On::Cpu, On::Gpu, On::Pieces], "augmented images", augmented);
    suite.each(&[On::Cpu, On::Gpu], "mistakes", mistakes);
    suite.run()
}

/// Samples, batch, and so full steps and the samples of the last one.
const DIGITS: (usize, usize, usize, usize) = (1797, 64, 28, 5);
/// Bytes of a row of the table of steps.
const ROW: u64 = 4 * 8;
/// The hyperparameters of a step of one group.
const HYPER: u64 = 4 * 8;

fn mlp(x: Tensor) -> Tensor {
    x.flatten().linear("fc1", 32).relu().dropout(0.2).linear("fc2", 10)
}

fn classifier(device: &Device, data: &Dataset) -> Result<Trainer, Error> {
    Trainer::for_data(device, data, mlp, |x, y| x.cross_entropy(y), Adam::new(3e-3).clip_norm(5.0))?.seed(3)
}

/// A device of its own: other trials make buffers meanwhile, and look for the end of reads, which then nobody waits for.
fn own(device: &Device) -> Result<Device, Error> {
    Device::open(common::inner(device).options())
}

/// Returns the counts of the work that `f` did.
fn counted(trainer: &mut Trainer, f: impl FnOnce(&mut Trainer) -> Check) -> Result<Counters, Box<dyn std::error::Error>> {
    let before = trainer.counters().expect("a GPU counts");
    f(trainer)?;
    let after = trainer.counters().expect("a GPU counts");
    Ok(Counters {
        steps: after.steps - before.steps,
        submits: after.submits - before.submits,
        dispatches: after.dispatches - before.dispatches,
        reads: after.reads - before.reads,
        waits: after.waits - before.waits,
        held: after.held - before.held,
        bytes_uploaded: after.bytes_uploaded - before.bytes_uploaded,
        bytes_read: after.bytes_read - before.bytes_read,
        allocations: after.allocations - before.allocations,
    })
}

fn epoch(device: &Device) -> Check {
    let device = &own(device)?;
    let (n, batch, full, last) = DIGITS;
    let data = data::digits();
    let mut trainer = classifier(device, &data)?;
    let fit = || Fit::new().batch_size(batch);
    trainer.fit(&data, fit())?;
    // The plans alone.
    let mut per_step = |rows: usize| {
        let (x, y) = data.batch(&(0..rows).collect::<Vec<_>>())?;
        counted(&mut trainer, |trainer| Ok(trainer.step(&[x, y])?))
    };
    let plans = [per_step(batch)?, per_step(last)?].map(|c| c.dispatches);
    trainer.loss()?;
    let memory = common::inner(device).allocated_bytes();
    let (order, kept) = (4 * n as u64, 4 * (4 * (full as u64 + 1) + 64));
    for (together, submits) in [(1, 29), (8, 5), (64, 2)] {
        let seen = counted(&mut trainer, |trainer| {
            trainer.fit(&data, fit().epochs(3).steps_per_submit(together))?;
            Ok(())
        })?;
        let steps = full as u64 + 1;
        assert_eq!((seen.steps, seen.submits), (3 * steps, 3 * submits), "{together} steps a submit");
        // Two more than those of the plan: they fetch images and labels.
        assert_eq!(seen.dispatches, 3 * (full as u64 * (plans[0] + 2) + plans[1] + 2));
        // At the end of an epoch its losses and accuracies are read, and waited for. Nothing else is.
        assert_eq!((seen.reads, seen.waits, seen.bytes_read), (3, 3, 3 * kept));
        assert_eq!(seen.allocations, 0);
        // The order of the samples, and the rows; between two rows of a submit there is what the alignment asks for.
        let gaps = seen.bytes_uploaded - 3 * (order + steps * (ROW + HYPER));
        assert!(gaps <= 3 * (steps - submits) * (512 - ROW), "{gaps} bytes more");
        assert!(together > 1 || gaps == 0, "{gaps} bytes more");
    }
    // wgpu stages uploads in buffers of its own, a few of which are under way; but nothing piles up.
    if let (Some(before), Some(after)) = (memory, common::inner(device).allocated_bytes()) {
        assert!(after <= before + (1 << 20), "{before} bytes became {after}");
    }
    Ok(())
}

fn epoch_from_host(device: &Device) -> Check {
    let device = &own(device)?;
    let (n, batch, full, _) = DIGITS;
    let data = data::digits();
    let mut trainer = classifier(device, &data)?;
    let fit = || Fit::new().batch_size(batch).resident(0);
    trainer.fit(&data, fit())?;
    let seen = counted(&mut trainer, |trainer| {
        trainer.fit(&data, fit().epochs(2))?;
        Ok(())
    })?;
    let steps = 2 * (full as u64 + 1);
    assert_eq!((seen.steps, seen.submits, seen.reads, seen.waits, seen.allocations), (steps, steps, 2, 2, 0));
    assert_eq!(seen.bytes_uploaded, steps * (ROW + HYPER) + 2 * 4 * (n as u64 * 65));
    Ok(())
}

/// The weight of each batch is one more number to read, and nothing else.
fn weighted_epoch(device: &Device) -> Check {
    let device = &own(device)?;
    let (_, batch, full, _) = DIGITS;
    let data = data::digits();
    fn weighted<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        let weights = y.graph().constant(Host::new([10], (1..11).map(|w| w as f32).collect()));
        losses::cross_entropy(y, t).class_weights(weights).mean()
    }
    let mut trainer = Trainer::for_data(device, &data, mlp, weighted, Adam::new(3e-3))?;
    trainer.fit(&data, Fit::new().batch_size(batch))?;
    let seen = counted(&mut trainer, |trainer| {
        trainer.fit(&data, Fit::new().batch_size(batch).epochs(2))?;
        Ok(())
    })?;
    let steps = full as u64 + 1;
    assert_eq!((seen.steps, seen.reads, seen.waits, seen.allocations), (2 * steps, 2, 2, 0));
    assert_eq!(seen.bytes_read, 2 * 4 * (5 * steps + 64));
    Ok(())
}

fn evaluation(device: &Device) -> Check {
    let device = &own(device)?;
    let (n, batch, full, _) = DIGITS;
    let (data, held_out) = (data::digits(), data::digits().subset(&(0..1500).rev().collect::<Vec<_>>())?);
    let mut trainer = classifier(device, &data)?;
    let fit = || Fit::new().batch_size(batch).steps_per_submit(1).validation(&held_out);
    trainer.fit(&data, fit())?;
    // Two batches. Outputs, loss and accuracy of both are read at once.
    let outputs = 4 * (1500 * 10 + 2 * 2);
    let mut result = None;
    let seen = counted(&mut trainer, |trainer| {
        result = Some(trainer.evaluate(&held_out)?);
        Ok(())
    })?;
    assert_eq!((seen.steps, seen.submits, seen.reads, seen.waits, seen.bytes_read, seen.allocations), (2, 2, 1, 1, outputs, 0));
    // The data is on the device for the validation: orders and rows go up.
    assert_eq!(seen.bytes_uploaded, 4 * 1500 + 2 * ROW);
    let result = result.expect("it was evaluated");
    // If the data is not resident, the samples are uploaded too, and the result is the same.
    let mut again = None;
    let copy = held_out.subset(&(0..1500).collect::<Vec<_>>())?;
    let seen = counted(&mut trainer, |trainer| {
        again = Some(trainer.evaluate(&copy)?);
        Ok(())
    })?;
    assert_eq!((seen.submits, seen.reads, seen.waits, seen.allocations), (2, 1, 1, 0));
    assert_eq!(seen.bytes_uploaded, 4 * 1500 * 65 + 2 * ROW);
    let again = again.expect("it was evaluated");
    assert_eq!((result.loss, result.accuracy, &result.outputs), (again.loss, again.accuracy, &again.outputs));
    // An epoch with its validation: two read-backs.
    let seen = counted(&mut trainer, |trainer| {
        trainer.fit(&data, fit())?;
        Ok(())
    })?;
    let steps = full as u64 + 1 + 2;
    assert_eq!((seen.steps, seen.submits, seen.reads, seen.waits, seen.allocations), (steps, steps, 2, 2, 0));
    assert_eq!(seen.bytes_uploaded, 4 * (n as u64 + 1500) + steps * ROW + (steps - 2) * HYPER);
    Ok(())
}

fn pace(device: &Device) -> Check {
    let device = &own(device)?;
    let data = data::digits();
    let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 10), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    let seen = counted(&mut trainer, |trainer| {
        trainer.fit(&data, Fit::new().epochs(8).batch_size(16))?;
        Ok(())
    })?;
    println!("{seen:?}");
    assert_eq!(seen.steps, 8 * 113);
    // How many there are is the machine's business; that of one step each would take ten milliseconds every time.
    assert!(seen.submits < seen.steps, "{} submits of {} steps", seen.submits, seen.steps);
    assert_eq!(seen.waits, 8);
    Ok(())
}

fn long_epoch(device: &Device) -> Check {
    let device = &own(device)?;
    let data = data::digits();
    let run = |together: usize| {
        let mut trainer = Trainer::for_data(device, &data, |x| x.linear("fc", 10), |x, y| x.cross_entropy(y), Sgd::new(0.01))?;
        let mut losses = Vec::new();
        let seen = counted(&mut trainer, |trainer| {
            losses = trainer.fit(&data, Fit::new().batch_size(1).steps_per_submit(together))?.epochs.remove(0).losses;
            Ok(())
        })?;
        // Each half of the ring is read while the other one fills; only the end of the epoch is waited for.
        assert_eq!((seen.steps, seen.reads, seen.waits), (1797, 4, 1), "{together} steps a submit");
        Ok::<_, Box<dyn std::error::Error>>((bits(&losses), weights(&trainer)?))
    };
    let (one, many) = (run(1)?, run(64)?);
    assert_eq!(one.0.len(), 1797);
    assert!(one == many, "64 steps in a submit train otherwise");
    Ok(())
}

fn data_stays(device: &Device) -> Check {
    let (n, batch, full, _) = DIGITS;
    let mut data = data::digits();
    let mut trainer = classifier(device, &data)?;
    // The number of uploaded bytes. Rows and orders are the part `small`.
    let small = (full as u64 + 1) * 512 + 4 * (n as u64 + 2) + 4096;
    let samples = n as u64 * (64 + 4);
    let mut fit = |data: &Dataset, most: u64| {
        let seen = counted(&mut trainer, |trainer| {
            trainer.fit(data, Fit::new().batch_size(batch).resident(most))?;
            Ok(())
        })?;
        Ok::<_, Box<dyn std::error::Error>>(seen.bytes_uploaded)
    };
    fit(&data, 1 << 30)?;
    assert!(fit(&data, 1 << 30)? < small, "the same data went up again");
    assert!(fit(&data.clone(), 1 << 30)? < small, "a copy of the data went up again");
    // Bytes that mean something else, and other samples.
    Normalise::overall(&data.clone()).apply(&mut data)?;
    assert!((samples..samples + small).contains(&fit(&data, 1 << 30)?));
    let half = data.subset(&(0..n / 2).collect::<Vec<_>>())?;
    assert!((samples / 2 - 100..samples / 2 + small).contains(&fit(&half, 1 << 30)?));
    // If the data may not be resident, each step uploads floats.
    assert!(fit(&half, samples / 2)? > 3 * samples / 2);
    assert!((samples / 2 - 100..samples / 2 + small).contains(&fit(&half, 1 << 30)?));
    Ok(())
}

/// Weights and losses of two epochs, by every way that batches take.
fn same_bits(device: &Device) -> Check {
    let images = data::digits().reshape([1, 8, 8])?.subset(&(0..517).collect::<Vec<_>>())?;
    let mut normal = images.clone();
    Normalise::overall(&images).apply(&mut normal)?;
    let augment = Augment { horizontal_flip: 0.5, vertical_flip: 0.1, crop_padding: 1 };
    for (what, data, augment) in [("bytes", &images, None), ("augmented", &images, Some(augment)), ("normalised", &normal, Some(augment))] {
        ways(what, data, augment, &|| classifier(device, data))?;
    }
    let flat = images.without_target().flat();
    ways("no targets", &flat, None, &|| {
        Trainer::for_data(device, &flat, |x| x.linear("in", 7).tanh().linear("out", 64), |y, x| y.mse(x), Adam::new(0.01))
    })?;
    let table = data::diabetes();
    ways("a table", &table, None, &|| {
        Trainer::for_data(device, &table, |x| x.linear("in", 7).tanh().linear("out", 1), |y, t| y.mse(t), Sgd::new(1e-3))
    })?;
    let text = data::genesis().split(0.05)?.0.windows(4, 15)?;
    ways("tokens", &text, None, &|| {
        Trainer::for_data(device, &text, |x| x.embedding("table", 99, 6).linear("out", 99), |y, t| y.cross_entropy(t), Sgd::new(0.1))
    })
}

fn ways(what: &str, data: &Dataset, augment: Option<Augment>, new: &dyn Fn() -> Result<Trainer, Error>) -> Check {
    let fit = || {
        let fit = Fit::new().epochs(2).batch_size(24);
        if let Some(augment) = augment { fit.augment(augment) } else { fit }
    };
    let run = |fit: Fit| -> Result<_, Error> {
        let mut trainer = new()?;
        let losses: Vec<u32> = trainer.fit(data, fit)?.epochs.iter().flat_map(|e| bits(&e.losses)).collect();
        Ok((losses, weights(&trainer)?))
    };
    let want = run(fit().steps_per_submit(1))?;
    assert_eq!(want.0.len(), 2 * data.len().div_ceil(24));
    assert!(want.0[0] != want.0[want.0.len() - 2], "{what}: it learns nothing");
    assert!(run(fit().steps_per_submit(8))? == want, "{what}: eight steps in a submit");
    assert!(run(fit().steps_per_submit(64))? == want, "{what}: an epoch in a submit");
    assert!(run(fit())? == want, "{what}: as many as it takes");
    assert!(run(fit().resident(0))? == want, "{what}: from the host");
    if augment.is_none() {
        let mut trainer = new()?;
        // The seed that the trainer was made with.
        let seed = if what == "bytes" { 3 } else { 0 };
        for epoch in 0..2 {
            for rows in data::batches(&data::shuffled(data.len(), seed, epoch), 24)? {
                let (x, y) = data.batch(rows)?;
                let inputs = [x, y];
                trainer.step(&inputs[..if what == "no targets" { 1 } else { 2 }])?;
            }
        }
        let losses: Vec<u32> = trainer.take_reports()?.iter().map(|r| r.loss.to_bits()).collect();
        assert!((losses, weights(&trainer)?) == want, "{what}: step by step");
    }
    Ok(())
}

/// Gradient descent on w⁴ with a step that is too large: |w| grows until the loss overflows.
fn diverging(device: &Device) -> Check {
    let data = Dataset::new(vec![1.0; 64], [1], Target::values([1], vec![0.0; 64]))?;
    let run = |fit: Fit| -> Result<_, Error> {
        let mut trainer = Trainer::for_data(
            device,
            &data,
            |x| x * x.graph().param("w", [1], Init::Constant(2.5)),
            |x, _| x.square().square().mean_all(),
            Sgd::new(0.5).momentum(0.5),
        )?;
        let error = trainer.fit(&data, fit.batch_size(4)).err();
        let step = match error {
            Some(Error::Diverged { step, loss, .. }) if !loss.is_finite() => Some(step),
            Some(other) => return Err(other),
            None => None,
        };
        Ok((step, trainer.steps(), weights(&trainer)?))
    };
    let one = run(Fit::new().steps_per_submit(1))?;
    let bad = one.0.expect("it overflows") as usize;
    assert!((2..14).contains(&bad) && one.1 == bad as u64, "step {bad}");
    for together in [2, 5, 16] {
        assert_eq!(run(Fit::new().steps_per_submit(together))?, one, "{together} steps a submit");
    }
    // The weights are those of before that step.
    let stopped = run(Fit::new().steps_per_submit(16).callback(|event| match event {
        Event::Step { step, .. } if *step == bad => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }))?;
    assert_eq!((stopped.0, stopped.1, stopped.2), (None, one.1, one.2));
    Ok(())
}

fn early_end(device: &Device) -> Check {
    let data = data::digits().subset(&(0..200).collect::<Vec<_>>())?;
    // An epoch has 20 steps.
    for last in [1, 3, 8, 9, 20] {
        let run = |together: usize| -> Result<_, Error> {
            let mut trainer = classifier(device, &data)?;
            let mut heard = Vec::new();
            let fit = Fit::new().epochs(2).batch_size(10).steps_per_submit(together).callback(|event| {
                if let Event::Step { epoch, step, .. } = event {
                    heard.push((*epoch, *step));
                    if (*epoch, *step) == (2, last) {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            });
            let history = trainer.fit(&data, fit)?;
            let losses: Vec<u32> = history.epochs.iter().flat_map(|e| bits(&e.losses)).collect();
            assert!(history.stopped);
            // Training goes on from there.
            trainer.fit(&data, Fit::new().batch_size(10).steps_per_submit(together))?;
            Ok((losses, heard, trainer.steps(), weights(&trainer)?))
        };
        let (one, many) = (run(1)?, run(8)?);
        assert_eq!((one.0.len(), one.1.len(), one.2), (20 + last, 20 + last, 40 + last as u64));
        assert!(one == many, "an end after {last} steps");
    }
    Ok(())
}

/// A loss that tells which pixels it saw, and where.
fn augmented(device: &Device) -> Check {
    let data = data::digits().reshape([1, 8, 8])?.subset(&(0..100).collect::<Vec<_>>())?;
    let ramp: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
    let losses = |device: &Device, fit: Fit, seed: u64| -> Result<Vec<f32>, Error> {
        let ramp = ramp.clone();
        let mut trainer = Trainer::for_data(
            device,
            &data,
            move |x| x + x.graph().param("w", [1], Init::Zeros) * 0.0,
            move |y, _| (y * y.graph().constant(Host::new([1, 8, 8], ramp.clone()))).mean_all(),
            Sgd::new(0.1),
        )?
        .seed(seed)?;
        Ok(trainer.fit(&data, fit.epochs(2).batch_size(10).shuffle(false))?.epochs.into_iter().flat_map(|e| e.losses).collect())
    };
    let plain = losses(device, Fit::new(), 1)?;
    assert_eq!(plain[..10], plain[10..], "nothing changes");
    for augment in [
        Augment { horizontal_flip: 0.5, ..Augment::default() },
        Augment { vertical_flip: 0.5, ..Augment::default() },
        Augment { crop_padding: 2, ..Augment::default() },
    ] {
        let got = losses(device, Fit::new().augment(augment), 1)?;
        assert!(got[..10].iter().zip(&got[10..]).all(|(a, b)| a != b), "{augment:?}: both epochs see the same");
        assert!(got.iter().zip(&plain).all(|(a, b)| a != b), "{augment:?} changes nothing");
        assert_eq!(got, losses(device, Fit::new().augment(augment), 1)?);
        assert!(got != losses(device, Fit::new().augment(augment), 2)?, "{augment:?}: another seed draws the same");
        // The same images as on the CPU.
        let cpu = losses(&Device::cpu(), Fit::new().augment(augment), 1)?;
        testing::close(&got.map_f64(), &cpu.map_f64(), 640)?;
        assert_eq!(bits(&got), bits(&losses(device, Fit::new().augment(augment).resident(0), 1)?));
    }
    // Certain flips of both kinds, done and undone: the loss of the turned ramp.
    let both = Augment { horizontal_flip: 1.0, vertical_flip: 1.0, crop_padding: 0 };
    let got = losses(device, Fit::new().augment(both), 1)?;
    let (x, _) = data.batch(&(0..10).collect::<Vec<_>>())?;
    let turned: f64 = x.f().chunks(64).flat_map(|x| x.iter().rev().zip(&ramp)).map(|(&x, &r)| f64::from(x * r)).sum();
    testing::close(&[f64::from(got[0])], &[turned / 640.0], 640)?;
    Ok(())
}

trait MapF64 {
    fn map_f64(&self) -> Vec<f64>;
}
impl MapF64 for Vec<f32> {
    fn map_f64(&self) -> Vec<f64> {
        self.iter().map(|&x| f64::from(x)).collect()
    }
}

fn mistakes(device: &Device) -> Check {
    let data = data::digits();
    let images = data.clone().reshape([1, 8, 8])?;
    let mut trainer = classifier(device, &images)?;
    let mut fit = |data: &Dataset, fit: Fit| trainer.fit(data, fit).expect_err("a mistake").to_string();
    let flip = |p: f32| Augment { horizontal_flip: p, ..Augment::default() };
    for (error, want) in [
        (fit(&images, Fit::new().augment(flip(1.5))), "horizontal_flip is 1.5, but a probability is 0 to 1"),
        (fit(&images, Fit::new().augment(flip(f32::NAN))), "a probability is 0 to 1"),
        (fit(&images, Fit::new().augment(Augment { crop_padding: 9, ..Augment::default() })), "out of sight"),
        (fit(&images, Fit::new().steps_per_submit(0)), "must be 1 to 64"),
        (fit(&images, Fit::new().steps_per_submit(65)), "must be 1 to 64"),
    ] {
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(trainer.steps(), 0);
    let mut flat = classifier(device, &data)?;
    let error = flat.fit(&data, Fit::new().augment(flip(0.5))).expect_err("no images").to_string();
    assert!(error.contains("must be images [channels, height, width], not [64]"), "{error}");
    // A graph that is fed by hand is nothing that data on the device could feed.
    let g = Graph::training();
    let mut own = Trainer::new(device, g.param("w", [1], Init::Ones).square().mean_all(), Sgd::new(0.1))?;
    assert!(own.fit(&data, Fit::new()).is_err());
    Ok(())
}
