use super::*;
use crate::{
    init::Init,
    optim::{Adam, Sgd},
};

#[test]
fn a_step_again_is_a_step_on_the_same_batch() {
    let x = Host::new([3, 2], vec![0.5, -1.0, 2.0, 0.25, -0.75, 1.5]);
    let y = Host::new([3, 1], vec![1.0, -2.0, 0.5]);
    let make = || {
        let g = Graph::training();
        let loss = g.input([3, 2]).linear("fc", 4).tanh().linear("out", 1).mse(g.input([3, 1]));
        Trainer::new(&Device::cpu(), loss, Adam::new(0.1)).unwrap()
    };
    let (mut a, mut b) = (make(), make());
    let error = a.step_again().unwrap_err().to_string();
    assert!(error.contains("no step before"), "{error}");
    a.step(&[x.clone(), y.clone()]).unwrap();
    a.step_again().unwrap();
    for _ in 0..2 {
        b.step(&[x.clone(), y.clone()]).unwrap();
    }
    assert_eq!(a.params().all().unwrap(), b.params().all().unwrap());
    let (a, b) = (a.take_reports().unwrap(), b.take_reports().unwrap());
    assert_eq!(a, b);
    assert!(a[1].loss < a[0].loss);
}

#[test]
fn a_checkpoint_does_not_count_steps_that_changed_nothing() {
    let g = Graph::training();
    let loss = (g.input([]) * g.param("w", [], Init::Ones)).square();
    let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1)).unwrap();
    let path = std::env::temp_dir().join(format!("downhill-unread-{}.safetensors", std::process::id()));
    // The third step overflows. The loss is not read before the parameters are saved.
    for x in [1.0, 2.0, 1e30, 1.0] {
        trainer.step(&[Host::new([], vec![x])]).unwrap();
    }
    trainer.save(&path).unwrap();
    let saved = trainer.params().get("w").unwrap();
    trainer.load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((trainer.steps(), trainer.params().get("w").unwrap()), (2, saved));
    trainer.step(&[Host::new([], vec![1.0])]).unwrap();
    assert!(trainer.loss().unwrap().is_finite());
}

/// The futures of these methods are `Send`, so an executor with several threads can run them.
#[test]
fn steps_and_evaluation_can_cross_threads() {
    fn crosses(_: impl Send) {}
    let data = crate::data::iris();
    let mut trainer = Trainer::for_data(&Device::cpu(), &data, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1)).unwrap();
    let (x, y) = data.batch(&[0, 1]).unwrap();
    crosses(trainer.step_async(&[x.clone(), y]));
    crosses(trainer.take_reports_async());
    crosses(trainer.evaluate_async(&data));
    crosses(trainer.predict_async(&x));
}

/// After an error between the micro-batches of a step, the next step does not contain them.
#[test]
fn micro_batches_that_are_forgotten_count_for_nothing() {
    let batch = |x: f32| [Host::new([3, 2], vec![x, -1.0, 2.0, 0.25, -0.75, 1.5])];
    let mut devices = vec![Device::cpu()];
    devices.extend(Device::gpu());
    for device in devices {
        let make = || {
            let g = Graph::training();
            let loss = g.input([3, 2]).linear("fc", 4).tanh().linear("out", 1).square().mean_all();
            Trainer::new(&device, loss, Adam::new(0.1)).unwrap()
        };
        let (mut a, mut b) = (make(), make());
        a.accumulate(&batch(7.0)).unwrap();
        a.forget_micro().unwrap();
        for trainer in [&mut a, &mut b] {
            trainer.accumulate(&batch(0.5)).unwrap();
            trainer.step(&batch(-0.5)).unwrap();
        }
        assert_eq!(a.params().all().unwrap(), b.params().all().unwrap(), "{device}");
        assert_eq!(a.take_reports().unwrap(), b.take_reports().unwrap(), "{device}");
    }
}

/// The sums of an epoch in progress, and the reports before it, survive being stored, with all watched scalars.
#[test]
fn a_place_has_the_watched_scalars() {
    let data = crate::data::iris();
    let make = || {
        Trainer::for_batches(
            &Device::cpu(),
            &data,
            |b| {
                let loss = b["x"].linear("fc", 3).cross_entropy(b["y"]);
                let weight = b["x"].slice(1, 0, 1).sum_all();
                let weighted = crate::losses::weighted_mean(b["x"].slice(1, 1, 2).sum_all(), weight);
                crate::Outputs::new().loss("nll", 1.0, loss).watch("root", loss.sqrt()).watch("weighted", weighted)
            },
            Sgd::new(0.1),
        )
        .unwrap()
    };
    let mut trainer = make();
    trainer.fit(&data, crate::Fit::new().epochs(2).batch_size(64).validation(&data)).unwrap();
    let (mut tally, kept) = (Tally::default(), trainer.kept.clone());
    let row: Vec<f32> = (0..8).map(|i| 0.5 + i as f32).collect();
    tally.add(&kept, &row, 3, 1);
    tally.add(&kept, &row[1..].iter().chain([&2.0]).copied().collect::<Vec<_>>(), 2, 1);
    trainer.tally = Some((tally.clone(), vec![0.5]));
    let saved = trainer.save_place();
    let mut other = make();
    other.load_place(std::path::Path::new("place"), &saved).unwrap();
    assert_eq!(other.history.epochs, trainer.history.epochs);
    assert_eq!(other.history.epochs[1].validation_watched.len(), 3);
    let restored = &other.tally.as_ref().unwrap().0;
    assert_eq!((restored.watched(), restored.loss()), (tally.watched(), tally.loss()));
    assert_eq!(format!("{restored:?}"), format!("{tally:?}"));
}

/// Values from outside may be large, so the next step is tried first. Frozen parameters are in no update.
#[test]
fn a_step_is_tried_after_a_copy_into_trained_parameters_alone() {
    let make = || {
        let g = Graph::training();
        let loss = g.input([3, 2]).linear("a", 4).tanh().linear("b", 1).square().mean_all();
        Trainer::new(&Device::cpu(), loss, Sgd::new(0.1).freeze(["a"])).unwrap()
    };
    let (mut trainer, other) = (make(), make().seed(7).unwrap());
    let near = |trainer: &Trainer| pollster::block_on(trainer.store.read_guard()).unwrap().near;
    let x = [Host::new([3, 2], vec![0.5; 6])];
    for (layer, want) in [("a.", 0), ("b.", 1)] {
        trainer.step(&x).unwrap();
        assert_eq!(near(&trainer), 0);
        assert_eq!(trainer.params().copy_from(&other.params(), |name| name.starts_with(layer)).unwrap(), 2);
        assert_eq!(near(&trainer), want, "{layer}");
    }
}
