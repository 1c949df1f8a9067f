//! Bytes of micro-batches, and budgets.

use crate::{classifier, cnn, common::*, cut, digits, fresh, mlp, rows, says};
use downhill::{
    Device, Error, Fit, Graph, Host, Tensor, Trainer,
    data::Dataset,
    optim::{Adam, Optimizer, Sgd},
};

fn normed(x: Tensor<'_>) -> Tensor<'_> {
    x.linear("fc1", 40).batch_norm("bn").relu().linear("fc2", 10)
}

type Model = for<'g> fn(Tensor<'g>) -> Tensor<'g>;

const MODELS: [(&str, Model); 3] = [("mlp", mlp), ("cnn", cnn), ("normed", normed)];

fn images(name: &str, n: usize) -> Result<Dataset, Error> {
    let all = digits(n);
    if name == "cnn" { all.reshape([1, 8, 8]) } else { Ok(all) }
}

fn trainer(device: &Device, name: &str, model: Model, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(device, &images(name, 4)?, model, |y, t| y.cross_entropy(t), optimizer)
}

/// So that the buffer of read-backs is there, and large enough.
fn read_something(device: &Device) -> Check {
    let g = Graph::inference();
    device.compile(&[g.full([1 << 18], 1.0) + g.input([])])?.run(&[Host::new([], vec![1.0])])?;
    Ok(())
}

/// The memory planned for micro-batches equals the memory of the buffers made, also beside plans of whole batches.
pub fn exact(device: &Device) -> Check {
    let device = fresh(device)?;
    read_something(&device)?;
    let made = || inner(&device).buffers_made().1;
    for (name, model) in MODELS {
        for rule in [Sgd::new(0.01).into(), Adam::new(1e-3).into()] {
            let rule: Optimizer = rule;
            let (data, before) = (images(name, 100)?, made());
            let mut trainer = trainer(&device, name, model, rule)?;
            let (planned, plain) = (trainer.micro_memory(13)?, trainer.memory(13)?);
            assert!(planned.total() > plain.total());
            assert_eq!((planned.gradients, planned.weights), (2 * plain.gradients, plain.weights));
            trainer.accumulate(&rows(&data, 0..13)?)?;
            assert_eq!(made() - before, planned.total(), "{name}:\n{planned}");
            trainer.step(&rows(&data, 13..26)?)?;
            trainer.loss()?;
            assert_eq!(made() - before, planned.total(), "{name}: the second one makes nothing");
            assert_eq!(trainer.micro_memory(13)?, planned);
            // A whole batch has a plan besides; the second buffer of gradients stays.
            let both = trainer.memory(20)?;
            assert_eq!(both.gradients, planned.gradients);
            trainer.step(&rows(&data, 0..20)?)?;
            assert_eq!(made() - before, both.total(), "{name}:\n{both}");
            assert_eq!(both.layers.iter().map(|l| l.total()).sum::<u64>(), both.total());
            assert_eq!(trainer.micro_memory(13)?.total(), both.total());
        }
    }
    let g = Graph::training();
    let before = made();
    let mut own = Trainer::new(&device, mlp(g.input([8, 64])).cross_entropy(g.labels([8])), Adam::new(1e-3))?;
    let (planned, plain) = (own.micro_memory(1)?, own.memory(1)?);
    assert_eq!(made() - before, plain.total());
    own.accumulate(&rows(&digits(8), 0..8)?)?;
    assert_eq!(made() - before, planned.total(), "{planned}");
    assert_eq!(own.memory(1)?.total(), planned.total());
    Ok(())
}

/// Sizes that divide the batch are taken at their own bytes, and not at one byte less. The bits are those of that size.
pub fn largest(device: &Device) -> Check {
    for (name, model) in MODELS {
        let data = images(name, 240)?;
        let new = || trainer(device, name, model, Adam::new(1e-3));
        let need = |n: usize| Ok::<_, Error>(new()?.micro_memory(n)?.total());
        let chosen = |bytes: u64| -> Result<Option<usize>, Error> {
            let mut trainer = new()?;
            Ok(trainer.fit(&data, Fit::new().batch_size(240).memory(bytes).resident(0))?.micro_batch)
        };
        for [n, next] in [[120, 80], [80, 60], [60, 48], [20, 16], [12, 10], [3, 2]] {
            let bytes = need(n)?;
            assert_eq!(chosen(bytes)?, Some(n), "{name}: {bytes} bytes");
            let less = chosen(bytes - 1)?.ok_or("whole batches do not fit")?;
            // Between them are some that leave a few over, which take a plan.
            assert!((next..n).contains(&less), "{name}: {less} samples in {} bytes", bytes - 1);
            assert!(need(less)? < bytes && need(n + 1)? > bytes);
        }
        let whole = new()?.memory(240)?.total();
        assert_eq!((chosen(whole)?, chosen(u64::MAX)?), (None, None));
        assert_eq!(chosen(whole - 1)?, Some(120));
        // A micro-batch size that the caller sets is an upper bound.
        let mut asked = new()?;
        assert_eq!(asked.fit(&data, cut(240, 7).memory(1 << 30))?.micro_batch, Some(7));
        let of = |fit: Fit| -> Result<_, Error> {
            let mut trainer = new()?;
            let history = trainer.fit(&data, fit.epochs(2).resident(0))?;
            Ok((history.micro_batch, weights(&trainer)?))
        };
        assert!(of(Fit::new().batch_size(20).accumulate(12).memory(need(20)?))? == of(cut(240, 20))?);
    }
    // 61 samples leave one over whether they come in 15s, 12s or 10s: it joins the micro-batch before it, which is a plan more.
    if device.as_gpu().is_none() {
        let data = digits(61);
        let new = || trainer(device, "normed", normed, Sgd::new(0.1));
        let more = new()?.micro_memory(16)?;
        let bytes = new()?.micro_memory(15)?.total() + more.activations + more.scratch + more.inputs + more.constants;
        for (bytes, micro) in [(bytes, 15), (bytes - 1, 12)] {
            let mut joined = new()?;
            assert_eq!(joined.fit(&data, Fit::new().batch_size(61).memory(bytes))?.micro_batch, Some(micro));
            assert_eq!(joined.take_reports()?.iter().map(|r| r.samples).collect::<Vec<_>>(), [61]);
            assert!(joined.micro_memory(micro)?.total() <= bytes);
        }
    }
    Ok(())
}

/// All buffers together are within the budget, and not far below it. They include the plans of last batches, data and evaluations.
pub fn kept(device: &Device) -> Check {
    for (name, model) in MODELS {
        let (train, held_out) = (images(name, 500)?, images(name, 333)?);
        let smallest = trainer(device, name, model, Adam::new(1e-3))?.micro_memory(2)?.total();
        for (more, validates) in [(30_000, false), (400_000, false), (1 << 20, true), (3 << 20, true), (20 << 20, true)] {
            let (device, bytes) = (fresh(device)?, smallest + more);
            read_something(&device)?;
            let made = || inner(&device).buffers_made().1;
            let before = made();
            let mut trainer = trainer(&device, name, model, Adam::new(1e-3))?;
            let fit = || {
                let fit = Fit::new().batch_size(192).epochs(2).memory(bytes);
                if validates { fit.validation(&held_out) } else { fit }
            };
            let micro = trainer.fit(&train, fit())?.micro_batch;
            let mut held = made() - before;
            if trainer.memory(2)?.data == 0 {
                // Data that was put there, and made room for the micro-batch.
                let mut most = bytes / 2;
                for n in [500, 333].into_iter().take(1 + usize::from(validates)) {
                    let size = n * (64 + 4 + 4) + 1024 + 8;
                    (most, held) = if size <= most { (most - size, held - size) } else { (most, held) };
                }
            }
            println!("{name}: {held} bytes of {bytes}, {} on the device, micro-batches of {micro:?}", trainer.memory(2)?.data);
            assert!(held <= bytes, "{name}: {held} bytes are held, of {bytes}");
            // Unless a limit of the device comes first.
            let limited = |micro: usize| trainer.micro_memory(192 / (192 / micro - 1)).is_err();
            assert!(micro.is_none_or(|micro| 2 * held > bytes || limited(micro)), "{name}: {held} bytes of {bytes} are little");
            // Again it is the same.
            assert_eq!(trainer.fit(&train, fit())?.micro_batch, micro, "{name}");
            assert_eq!(trainer.history().epochs.len(), 2);
        }
    }
    Ok(())
}

pub fn too_small(device: &Device) -> Check {
    let data = digits(64);
    let mut trainer = classifier(device, Adam::new(1e-3))?;
    let before = weights(&trainer)?;
    let fit = |bytes: u64| Fit::new().memory(bytes);
    for bytes in [0, 1, 20_000] {
        let error = trainer.fit(&data, fit(bytes)).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("Fit::memory: ") && text.contains("but weights, gradients and states of the optimizer take"), "{text}");
        assert!(text.contains("use a smaller model"), "{text}");
    }
    // The error states the bytes that one sample needs. This number of bytes is enough, and one byte less is not.
    let least = trainer.micro_memory(1)?.total();
    let text = trainer.fit(&data, fit(least - 1)).unwrap_err().to_string();
    assert!(text.contains(&format!("{} bytes, but micro-batches of 1 take {least}; give that much", least - 1)), "{text}");
    says(trainer.fit(&data, fit(least - 1)), "Fit::memory: ")?;
    assert!(weights(&trainer)? == before && trainer.steps() == 0);
    assert_eq!(trainer.fit(&data, fit(least))?.micro_batch, Some(1));
    assert_eq!(trainer.steps(), 2);
    Ok(())
}
