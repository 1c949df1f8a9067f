//! A GPU that is read bucket by bucket while it computes.

use crate::{Got, all, common::*, digits, fitted};
use downhill::{Device, Error, Fit, Host, Tensor, Trainer, optim::Adam};

/// Without dropout, whose masks depend on the numbers of micro-batches. It has six trained parameters.
fn model(x: Tensor) -> Tensor {
    x.linear("fc1", 24).batch_norm("bn").relu().linear("fc2", 10)
}

fn new(device: &Device) -> Result<Trainer, Error> {
    Trainer::for_data(device, &digits(4), model, |y, t| y.cross_entropy(t), Adam::new(1e-2).eps(1e-4).clip_norm(0.7).clip_value(0.05))
}

/// Buckets of one parameter each, of some, and one bucket for all: the same bits, with one micro-batch of a rank in a step or several.
pub fn sizes(device: &Device) -> Check {
    let data = digits(61);
    let train = |most: usize, options: fn(Fit<'static>) -> Fit<'static>| {
        all(2, |world| {
            let fit = options(Fit::new()).epochs(2).bucket_bytes(most);
            fitted(new(device)?.distributed(world)?, &data, fit)
        })
    };
    let ways: [fn(Fit<'static>) -> Fit<'static>; 4] = [
        |fit| fit.batch_size(8),
        |fit| fit.batch_size(4).accumulate(2),
        |fit| fit.batch_size(12).micro_batch(5).resident(0),
        |fit| fit.batch_size(4).accumulate(3).steps_per_submit(3),
    ];
    for (way, number) in ways.into_iter().zip(1..) {
        let want = train(25 << 20, way)?;
        assert!(want[0].reports.last().map(|r| r.loss) < want[0].reports.first().map(|r| r.loss), "way {number} learns nothing");
        for most in [1, 2000] {
            assert!(train(most, way)? == want, "way {number}: buckets of {most} bytes");
        }
    }
    Ok(())
}

/// The sum over the micro-batches of one rank has the bits of the sum that the device makes.
pub fn sums(device: &Device) -> Check {
    let data = digits(60);
    let batch = |rows: std::ops::Range<usize>| -> Result<[Host<f32>; 2], Error> {
        let (x, y) = data.batch(&rows.collect::<Vec<_>>())?;
        Ok([x, y])
    };
    let train = |trainer: &mut Trainer| {
        for step in 0..4 {
            trainer.accumulate(&batch(step..step + 7)?)?;
            trainer.accumulate(&batch(20..25 + step)?)?;
            trainer.step(&batch(40..51)?)?;
        }
        Got::of(trainer, Default::default()).map(Got::trained)
    };
    let want = train(&mut new(device)?)?;
    // The other rank has no samples, so the mean over the ranks changes nothing.
    let none = [Host::new([0, 64], vec![]), Host::labels([0], vec![])];
    let got = all(2, |world| {
        let mut trainer = new(device)?.distributed(world)?;
        if world.rank() == 0 {
            return train(&mut trainer);
        }
        (0..4).try_for_each(|_| trainer.step(&none))?;
        Got::of(&mut trainer, Default::default()).map(Got::trained)
    })?;
    for got in got {
        assert!(got.weights == want.weights, "weights");
        assert_eq!(got.reports, want.reports);
    }
    Ok(())
}

/// A step has a submit for each bucket, one for the rest of the micro-batch and one for the update. It makes no buffer.
pub fn counts(device: &Device) -> Check {
    let data = digits(32);
    for (most, buckets) in [(1, 6), (1000, 3), (25 << 20, 1)] {
        all(2, |world| {
            // Other trials, and the other rank, make buffers meanwhile.
            let own = Device::open(inner(device).options())?;
            let mut trainer = new(&own)?.distributed(world)?;
            let mut fit = || trainer.fit(&data, Fit::new().batch_size(4).accumulate(2).bucket_bytes(most)).map(|_| trainer.counters());
            let of = |made: (u64, u64)| made.0;
            (0..2).try_for_each(|_| fit().map(|_| ()))?;
            let before = (fit()?.expect("a GPU counts"), of(inner(&own).buffers_made()));
            let after = (fit()?.expect("a GPU counts"), of(inner(&own).buffers_made()));
            // Two steps. The first micro-batch of a step is a run of its own, or is submitted with others.
            assert_eq!(after.0.steps - before.0.steps, 2 * 3);
            assert_eq!(after.0.submits - before.0.submits, 2 * (1 + (buckets + 1) + 1), "buckets of {most} bytes");
            assert_eq!(after.1, before.1, "buffers");
            Ok(())
        })?;
    }
    Ok(())
}

/// The buffers through which gradients are read count: each gradient beside the sum of earlier micro-batches, and two weights.
pub fn memory(device: &Device) -> Check {
    let elements = 64 * 24 + 3 * 24 + 24 * 10 + 10;
    let alone = new(device)?.micro_memory(4)?.total();
    let over_ranks = all(2, |world| Ok(new(device)?.distributed(world)?.micro_memory(4)?.total()))?;
    assert_eq!(over_ranks, [alone + 2 * 4 * elements + 2 * 4; 2]);
    Ok(())
}
