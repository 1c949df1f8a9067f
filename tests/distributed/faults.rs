//! Steps that are not finite, ranks that differ and ranks that end: typed errors, on all ranks, which name the rank.

use crate::{Got, classifier, common::*, digits, fitted, ranks};
use downhill::{
    Device, Error, Event, Fit, Host, Trainer, World,
    callbacks::TerminateOnNaN,
    data::{Dataset, Target},
    optim::{Adam, Sgd},
};
use std::ops::ControlFlow;

/// The rank at fault and the reason.
pub fn fault<T: std::fmt::Debug>(result: Result<T, Error>) -> (usize, String) {
    match result {
        Err(Error::Rank { rank, why, .. }) => (rank, why),
        other => panic!("no error of a rank: {other:?}"),
    }
}

/// All ranks diverge at the step of accumulation, with its weights, and may go on.
pub fn diverged() -> Check {
    let cpu = Device::cpu();
    let mut values = vec![0.5f32; 2 * 40];
    // One sample of the third step, which rank 1 computes.
    values[2 * 21] = 1e30;
    let data = Dataset::new(values, [2], Target::values([1], (0..40).map(|i| (i as f32).sin()).collect()))?;
    let new = || Trainer::for_data(&cpu, &data, |x| x.linear("fc", 1), |y, t| y.mse(t), Sgd::new(0.1));
    let run = |mut trainer: Trainer, fit: fn() -> Fit<'static>| -> Result<(String, Vec<u32>, u64), Error> {
        let error = trainer.fit(&data, fit()).unwrap_err();
        assert!(matches!(error, Error::Diverged { step: 2, .. }), "{error}");
        let weights = bits(trainer.params().get("fc.weight")?.f());
        // The training goes on, here with finite samples.
        let half = data.subset(&(0..16).collect::<Vec<_>>())?;
        trainer.fit(&half, fit())?;
        Ok((error.to_string(), weights, trainer.steps()))
    };
    let want = run(new()?, || Fit::new().batch_size(4).accumulate(2).shuffle(false))?;
    for got in ranks(2, |world| run(new()?.distributed(world)?, || Fit::new().batch_size(4).shuffle(false))) {
        assert_eq!(got?, want);
    }
    let recovers = |trainer: Trainer, fit: Fit| fitted(trainer, &data, fit.shuffle(false).batch_size(4).with(TerminateOnNaN::new()));
    let want = recovers(new()?, Fit::new().accumulate(2))?;
    assert!(want.history.stopped);
    for got in ranks(2, |world| recovers(new()?.distributed(world)?, Fit::new())) {
        assert_eq!(got?, want);
    }
    Ok(())
}

/// Trainers that differ: each rank names rank 1 and the difference.
pub fn start() -> Check {
    let cpu = Device::cpu();
    let (data, more) = (digits(50), digits(51));
    let sgd = || Sgd::new(0.1).momentum(0.9);
    let usual = || classifier(&cpu, sgd());
    type Make<'a> = &'a (dyn Fn() -> Result<Trainer, Error> + Sync);
    let wide = || Trainer::for_data(&cpu, &digits(4), |x| x.linear("fc1", 25).linear("fc2", 10), |y, t| y.cross_entropy(t), sgd())?.seed(5);
    let shallow = || Trainer::for_data(&cpu, &digits(4), |x| x.linear("fc1", 24), |y, t| y.cross_entropy(t), sgd())?.seed(5);
    let adam = || classifier(&cpu, Adam::new(0.1));
    let slow = || classifier(&cpu, Sgd::new(0.1).momentum(0.8));
    let rate = || classifier(&cpu, Sgd::new(0.2).momentum(0.9));
    let seed = || usual()?.seed(6);
    let weights = || {
        let trainer = usual()?;
        trainer.params().set("fc2.bias", &Host::new([10], vec![0.5; 10]))?;
        Ok(trainer)
    };
    let frozen = || classifier(&cpu, Sgd::new(0.1).momentum(0.9).freeze(["fc1"]));
    let others: [(Make, &str, &str); 8] = [
        (&wide, "fc1.weight [25, 64]", "fc1.weight [24, 64]"),
        (&shallow, "the optimizer Sgd", "parameter fc2.weight [10, 24]"),
        (&adam, "the optimizer Adam", "the optimizer Sgd"),
        (&slow, "momentum of the optimizer 0.8", "momentum of the optimizer 0.9"),
        (&rate, "the learning rate 0.2", "the learning rate 0.1"),
        (&seed, "the seed 6", "the seed 5"),
        (&weights, "weights with the hash", "weights with the hash"),
        (&frozen, "Frozen", "Trained"),
    ];
    for (other, theirs, ours) in others {
        for (rank, result) in ranks(3, |world| {
            let trainer = if world.rank() == 1 { other()? } else { usual()? };
            trainer.distributed(world).map(|_| ())
        })
        .into_iter()
        .enumerate()
        {
            let (at, why) = fault(result);
            let (is, was) = why.split_once(", but rank 0 has ").expect("two sides");
            assert!(at == 1 && is.contains(theirs) && was.contains(ours), "rank {rank}: {why}");
        }
    }
    type Ways = fn(usize) -> Fit<'static>;
    let fits: [(Ways, &str); 5] = [
        (|rank| Fit::new().batch_size(8 + rank), "the batch size 9"),
        (|rank| Fit::new().epochs(1 + rank), "a number of epochs to train of 2"),
        (|rank| Fit::new().shuffle(rank == 0), "shuffle false"),
        (
            |rank| if rank == 0 { Fit::new() } else { Fit::new().with(TerminateOnNaN::new()) },
            "the callbacks [TerminateOnNaN] and 0 closures",
        ),
        (|_| Fit::new(), "data with a number of samples of 51"),
    ];
    for (k, (fit, theirs)) in fits.iter().enumerate() {
        for result in ranks(2, |world| {
            let data = if k == 4 && world.rank() == 1 { &more } else { &data };
            usual()?.distributed(world)?.fit(data, fit(world.rank()))
        }) {
            let (at, why) = fault(result);
            assert!(at == 1 && why.contains(theirs), "{why}");
        }
    }
    Ok(())
}

/// The last of three ranks gives its second step a number that is not finite. The other ranks name it.
pub fn bad_batch(data: &Dataset, new: impl Fn(&World) -> Result<Trainer, Error> + Sync) {
    let batch = || data.batch(&[0, 1, 2]).map(|(x, y)| [x, y]);
    let mut results = ranks(3, |world| {
        let mut trainer = new(world)?;
        trainer.step(&batch()?)?;
        let mut own = batch()?;
        if world.rank() == 2 {
            own[0].view_mut().f[65] = f32::NAN;
        }
        trainer.step(&own)
    });
    assert!(matches!(results.remove(2), Err(Error::NonFinite { row: 1, column: 1, .. })));
    for result in results {
        let (rank, why) = fault(result);
        assert!(rank == 2 && why.contains("NaN at row 1"), "{rank}: {why}");
    }
}

/// A rank that ends with an error, or just leaves: the others end too, and know why.
pub fn early() -> Check {
    let (cpu, data) = (Device::cpu(), digits(80));
    let new = |world: &World| classifier(&cpu, Sgd::new(0.1))?.distributed(world);
    let batch = || data.batch(&[0, 1, 2]).map(|(x, y)| [x, y]);
    bad_batch(&data, new);
    let mut results = ranks(3, |world| {
        let mut trainer = new(world)?;
        (0..3 - world.rank() as u64 / 2).try_for_each(|_| trainer.step(&batch()?))?;
        Ok(trainer.steps())
    });
    assert_eq!(results.remove(2)?, 2);
    for result in results {
        assert_eq!(fault(result).0, 2);
    }
    // A callback fails on rank 1.
    struct Fails(usize);
    impl downhill::train::Callback for Fails {
        fn on_epoch_end(&mut self, run: &mut downhill::train::Run, _: &downhill::Epoch) -> Result<(), Error> {
            if run.epoch() == 2 && run.rank() == self.0 {
                run.save("/nowhere/at all").and(Err(Error::File { path: "disk".into(), why: "full".into() }))
            } else {
                Ok(())
            }
        }
    }
    let mut results = ranks(2, |world| {
        let mut trainer = new(world)?;
        let result = trainer.fit(&data, Fit::new().epochs(3).with(Fails(1)));
        assert_eq!(trainer.history().epochs.len(), 2);
        result
    });
    assert!(matches!(results.remove(1), Err(Error::File { .. })));
    let (rank, why) = fault(results.remove(0));
    assert!(rank == 1 && why.contains("disk: full"), "{why}");
    Ok(())
}

/// A closure that stops one rank stops all, after the same step.
pub fn stops() -> Check {
    let (cpu, data) = (Device::cpu(), digits(80));
    for (at, steps, epochs) in [(Some(3), 3, 1), (None, 5, 1)] {
        let got = ranks(2, |world| {
            let rank = world.rank();
            let stop = move |event: &Event| match event {
                Event::Step { step, .. } if rank == 1 && Some(*step) == at => ControlFlow::Break(()),
                Event::Epoch(_) if rank == 1 && at.is_none() => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
            fitted(classifier(&cpu, Sgd::new(0.1))?.distributed(world)?, &data, Fit::new().batch_size(8).epochs(4).callback(stop))
        });
        let got: Vec<Got> = got.into_iter().collect::<Result<_, _>>()?;
        assert!(got[0] == got[1]);
        assert_eq!((got[0].history.stopped, got[0].reports.len(), got[0].history.epochs.len()), (true, steps, epochs));
    }
    Ok(())
}

/// A rank whose weights were changed behind the back of the others.
pub fn drift() -> Check {
    let (cpu, data) = (Device::cpu(), digits(64));
    struct Moves(usize);
    impl downhill::train::Callback for Moves {
        fn every(&self) -> Option<u64> {
            Some(3)
        }
        fn on_step_end(&mut self, run: &mut downhill::train::Run, _: &downhill::StepReport) -> Result<(), Error> {
            if run.rank() == self.0 { run.params().set("fc2.bias", &Host::new([10], vec![0.5; 10])) } else { Ok(()) }
        }
    }
    for result in ranks(3, |world| {
        let fit = Fit::new().batch_size(4).epochs(2).check_weights(2).with(Moves(2));
        classifier(&cpu, Sgd::new(0.1))?.distributed(world)?.fit(&data, fit)
    }) {
        let (rank, why) = fault(result);
        assert!(rank == 2 && why.contains("its weights after 4 steps differ"), "{why}");
    }
    Ok(())
}

pub fn refused() -> Check {
    let (cpu, data) = (Device::cpu(), digits(64));
    for result in ranks(2, |world| {
        let mut trainer = classifier(&cpu, Sgd::new(0.1))?.distributed(world)?;
        trainer.fit(&data, Fit::new())?;
        let again = trainer.step_again().unwrap_err().to_string();
        assert!(again.contains("made over ranks"), "{again}");
        // Each rank may read and evaluate alone.
        if world.rank() == 1 {
            assert!(trainer.loss()? > 0.0 && trainer.evaluate(&data)?.loss > 0.0);
        }
        let many = Fit::new().batch_size(1024).micro_batch(1);
        trainer.fit(&data, many)?;
        trainer.fit(&data, Fit::new().check_weights(0)).map(|_| ())
    }) {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Argument { .. } | Error::Rank { .. }) && error.to_string().contains("n must be at least 1"),
            "{error}"
        );
    }
    // One rank is no world.
    let mut alone = classifier(&cpu, Sgd::new(0.1))?.distributed(&World::alone())?;
    alone.fit(&data, Fit::new())?;
    alone.step_again()?;
    Ok(())
}
