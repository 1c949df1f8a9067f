//! Over a slow network, the gradients of the last layers travel while the first layers compute theirs.

use crate::{all, common::*, digits};
use downhill::{
    Device, Error, Fit, Shape, Tensor, Trainer,
    host::{Real, View, ViewMut},
    kernel::{Caps, Kernel},
    ops::{Case, OpDef},
    optim::Sgd,
    rng::Key,
};
use std::{thread, time::Duration};

/// The time that a message is under way.
const LATENCY: Duration = Duration::from_millis(60);
/// The time of the backward pass between the last layer and the first. It is longer than the exchange of the last layer: two parameters, for
/// each of which a rank waits for a part and for a mean.
const PAUSE: Duration = Duration::from_millis(500);

/// y = x. The gradient takes its time.
#[derive(Debug, PartialEq)]
struct Pause {
    backward: bool,
}

impl OpDef for Pause {
    const NAME: &'static str = "pause";

    fn shape(&self, x: &[Shape]) -> Result<Shape, String> {
        Ok(x[0])
    }
    fn reference<T: Real>(&self, x: &[View<T>], y: &mut ViewMut<T>, _: Key) {
        if self.backward {
            thread::sleep(PAUSE);
        }
        y.f.copy_from_slice(x[0].f);
    }
    fn vjp<'g>(&self, _: &[Tensor<'g>], _: Tensor<'g>, dy: Tensor<'g>) -> Vec<Option<Tensor<'g>>> {
        vec![Some(dy.graph().apply(Pause { backward: true }, &[dy]))]
    }
    fn kernels(&self, _: &[Shape], _: Shape, _: &Caps) -> Vec<Kernel> {
        Vec::new()
    }
    fn cases() -> Vec<Case> {
        Vec::new()
    }
}

fn model(x: Tensor) -> Tensor {
    let y = x.linear("fc1", 24).tanh();
    y.graph().apply(Pause { backward: false }, &[y]).linear("fc2", 10)
}

pub fn hidden() -> Check {
    let (cpu, data) = (Device::cpu(), digits(16));
    // Returns the weights, and the seconds in which exchanges were under way and in which the training waited for them.
    let train = |latency: Duration, bucket: usize| -> Result<_, Error> {
        let got = all(2, |world| {
            let world = if latency.is_zero() { world.clone() } else { world.clone().delayed(latency, 1_000_000_000) };
            let trainer = Trainer::for_data(&cpu, &data, model, |y, t| y.cross_entropy(t), Sgd::new(0.1).momentum(0.9))?;
            let mut trainer = trainer.seed(5)?.distributed(&world)?;
            let before = world.traffic();
            trainer.fit(&data, Fit::new().batch_size(4).bucket_bytes(bucket))?;
            let after = world.traffic();
            assert_eq!(trainer.steps(), 2);
            Ok((weights(&trainer)?, after.busy - before.busy, after.waited - before.waited))
        })?;
        assert!(got[0].0 == got[1].0, "both ranks");
        Ok(got)
    };
    let want = train(Duration::ZERO, 1)?.remove(0).0;
    let steps = 2.0 * LATENCY.as_secs_f64();
    for (weights, _, waited) in train(LATENCY, 25 << 20)? {
        assert!(weights == want, "one bucket");
        // A part, a mean and the losses.
        assert!(waited >= 3.0 * steps, "waited {waited:.3} s");
    }
    for (weights, busy, waited) in train(LATENCY, 1)? {
        assert!(weights == want, "a bucket for each parameter");
        // Four latencies of each step are hidden. A busy machine may add to the waits.
        assert!(busy - waited >= 2.0 * steps, "under way {busy:.3} s, waited {waited:.3} s");
    }
    Ok(())
}
