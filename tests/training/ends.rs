//! Trainings that end before their time.

use crate::{
    classifier,
    common::{Check, weights},
    digits,
};
use downhill::{
    Device, Error, Event, Fit, Graph, Host, Trainer,
    data::{Dataset, Target},
    init::Init,
    optim::{Adam, Sgd},
};
use std::{cell::Cell, ops::ControlFlow};

/// Gradient descent on w⁴ with a step that is too large: |w| grows until the loss overflows.
pub fn diverging(device: &Device) -> Check {
    let data = Dataset::new(vec![1.0; 64], [1], Target::values([1], vec![0.0; 64]))?;
    let new = || {
        Trainer::for_data(
            device,
            &data,
            |x| x * x.graph().param("w", [1], Init::Constant(2.5)),
            |x, _| x.square().square().mean_all(),
            Sgd::new(0.5).momentum(0.5),
        )
    };
    let mut trainer = new()?;
    let error = trainer.fit(&data, Fit::new().epochs(5).batch_size(4)).expect_err("it overflows");
    let Error::Diverged { step, loss, what, .. } = &error else { return Err(error.into()) };
    assert!(*step >= 2 && *step < 16, "step {step}");
    assert!(!loss.is_finite() && what == "loss", "{error}");
    assert!(error.to_string().starts_with(&format!("step {step}: the loss is not finite")), "{error}");
    assert_eq!(trainer.steps(), *step);
    // The same training, ended before that step.
    let mut stopped = new()?;
    let last = *step as usize;
    let history = stopped.fit(&data, Fit::new().batch_size(4).callback(|event| stop_at(event, last)))?;
    assert!(history.stopped && history.epochs[0].losses.len() == last && history.epochs[0].losses.iter().all(|l| l.is_finite()));
    assert_eq!(stopped.steps(), *step);
    assert_eq!(weights(&trainer)?, weights(&stopped)?);
    assert!(trainer.params().get("w")?.f()[0].is_finite());
    // The same again ends at once; from better weights training goes on, and the old error is forgotten.
    let again = trainer.fit(&data, Fit::new().batch_size(4));
    assert!(matches!(again, Err(Error::Diverged { step: s, .. }) if s == *step), "{again:?}");
    trainer.params().set("w", &Host::new([1], vec![0.1]))?;
    let mut quiet = trainer;
    quiet.step(&[Host::new([4, 1], vec![0.5; 4]), Host::new([4, 1], vec![0.0; 4])])?;
    assert!(quiet.loss()? < 1e-4);
    Ok(())
}

fn stop_at(event: &Event, last: usize) -> ControlFlow<()> {
    match event {
        Event::Step { step, .. } if *step == last => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

/// √0 is finite; its gradient is not.
pub fn bad_gradient(device: &Device) -> Check {
    let g = Graph::training();
    let w = g.param("w", [2], Init::Constant(1.0));
    let still = g.param("still", [1], Init::Constant(3.0));
    let mut trainer = Trainer::new(device, (w * g.input([2])).sqrt().sum_all() + still.sum_all(), Adam::new(0.01))?;
    let good = [Host::new([2], vec![1.0, 2.0])];
    trainer.step(&good)?;
    trainer.step(&good)?;
    let before = weights(&trainer)?;
    trainer.step(&[Host::new([2], vec![0.0, 1.0])])?;
    trainer.step(&good)?;
    let error = trainer.loss().expect_err("0/0");
    assert!(
        matches!(&error, Error::Diverged { step: 2, loss, what, parameter: Some(name) }
        if loss.is_finite() && what == "gradient" && name == "w"),
        "{error}"
    );
    assert_eq!(weights(&trainer)?, before, "a step after the bad one was made");
    // Its reports are those of the finite steps.
    assert_eq!(trainer.take_reports()?.iter().map(|r| r.step).collect::<Vec<_>>(), [0, 1]);
    // And it goes on as if the bad step had not been.
    trainer.step(&good)?;
    trainer.loss()?;
    let g = Graph::training();
    let w = g.param("w", [2], Init::Constant(1.0));
    let still = g.param("still", [1], Init::Constant(3.0));
    let mut other = Trainer::new(device, (w * g.input([2])).sqrt().sum_all() + still.sum_all(), Adam::new(0.01))?;
    (0..3).try_for_each(|_| other.step(&good))?;
    assert_eq!(weights(&trainer)?, weights(&other)?);
    Ok(())
}

pub fn early_end(device: &Device) -> Check {
    let data = digits(50);
    let mut trainer = classifier(device, Sgd::new(0.1));
    let heard = Cell::new(0);
    let history = trainer.fit(
        &data,
        Fit::new()
            .epochs(9)
            .batch_size(10)
            .callback(|event| match event {
                Event::Step { epoch: 2, step: 3, steps: 5 } => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .callback(|_| {
                heard.set(heard.get() + 1);
                ControlFlow::Continue(())
            }),
    )?;
    assert!(history.stopped);
    assert_eq!(history.epochs.iter().map(|e| e.losses.len()).collect::<Vec<_>>(), [5, 3]);
    // Five steps, an epoch, three steps, an epoch.
    assert_eq!((heard.get(), trainer.steps()), (10, 8));
    // By epoch, and not at all.
    let history = trainer.fit(
        &data,
        Fit::new().epochs(9).callback(|event| match event {
            Event::Epoch(e) if e.epoch == 3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }),
    )?;
    assert!(history.stopped && history.epochs.len() == 3);
    let history = trainer.fit(&data, Fit::new().epochs(2))?;
    assert!(!history.stopped && history.epochs.len() == 2);
    Ok(())
}
