//! `sync_batch_norm`: N ranks with batches of B compute what one rank computes with batches of N·B, up to rounding.

use crate::{
    Got, all,
    common::*,
    digits,
    faults::{bad_batch, fault},
    ranks,
};
use downhill::{
    Device, Error, Fit, Host, Tensor, Trainer, World,
    data::{Dataset, Target},
    layers::BatchNorm,
    losses,
    optim::{Adam, Sgd},
    testing::close,
    train::FindLr,
};

type New<'a> = &'a (dyn Fn() -> Result<Trainer, Error> + Sync);
type Steps<'a> = &'a (dyn Fn(&mut Trainer, usize, usize) -> Result<(), Error> + Sync);

fn floats(bits: &[u32]) -> Vec<f64> {
    bits.iter().map(|&bits| f64::from(f32::from_bits(bits))).collect()
}

/// Checks that N ranks agree with one rank up to the rounding of sums of `terms` terms, and with each other to the last bit. `steps` gets
/// the trainer, the rank and the number of ranks.
fn equal(what: &str, worlds: &[usize], new: New, terms: usize, steps: Steps) -> Check {
    for &n in worlds {
        let mut one = new()?;
        let before = Got::of(&mut one, Default::default())?;
        steps(&mut one, 0, 1)?;
        let want = Got::of(&mut one, Default::default())?;
        let got = all(n, |world| {
            let mut trainer = new()?.sync_batch_norm(true)?.distributed(world)?;
            steps(&mut trainer, world.rank(), n)?;
            Got::of(&mut trainer, Default::default())
        })?;
        assert!(got.iter().all(|other| other == &got[0]), "{what}: the ranks of {n}");
        for ((name, own), (_, want)) in got[0].weights.iter().zip(&want.weights) {
            close(&floats(own), &floats(want), terms).map_err(|why| format!("{what}, {n} ranks, {name}: {why}"))?;
        }
        // The changes of the weights are gradients. Weights alone could hide an error in small ones. A bias before batch norm has the gradient 0,
        // which is a sum of rounding errors.
        for (((name, start), (_, own)), (_, want)) in before.weights.iter().zip(&got[0].weights).zip(&want.weights) {
            let moved = |to: &[u32]| floats(to).iter().zip(floats(start)).map(|(to, from)| to - from).collect::<Vec<f64>>();
            let (own, want) = (moved(own), moved(want));
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let apart = norm(&own.iter().zip(&want).map(|(a, b)| a - b).collect::<Vec<f64>>());
            assert!(apart <= 1e-4 * norm(&want) + 1e-6, "{what}, {n} ranks, {name}: {apart:e} apart of {:e}", norm(&want));
        }
        let losses = |got: &Got| got.reports.iter().map(|report| f64::from(report.loss)).collect::<Vec<f64>>();
        let samples = |got: &Got| got.reports.iter().map(|report| report.samples).collect::<Vec<usize>>();
        assert_eq!(samples(&got[0]), samples(&want), "{what}, {n} ranks");
        close(&losses(&got[0]), &losses(&want), terms).map_err(|why| format!("{what}, {n} ranks, losses: {why}"))?;
    }
    Ok(())
}

/// Steps of `fit` on batches of `whole` samples over all ranks.
fn fitted<'a>(data: &'a Dataset, whole: usize) -> impl Fn(&mut Trainer, usize, usize) -> Result<(), Error> + Sync + 'a {
    move |trainer, _, n| trainer.fit(data, Fit::new().batch_size(whole / n).check_weights(1)).map(|_| ())
}

fn dense(x: Tensor) -> Tensor {
    let x = x.linear("fc1", 24).batch_norm("bn1").tanh();
    x.linear("fc2", 12)
        .batch_norm_with("bn2", BatchNorm { no_affine: true, momentum: 0.3, ..BatchNorm::default() })
        .relu()
        .linear("fc3", 10)
}

fn conv(x: Tensor) -> Tensor {
    // The second computation of the first layers exchanges again.
    let x = x.checkpoint(|x| x.conv2d("conv1", 4, 3).batch_norm("bn1").relu());
    x.conv2d("conv2", 6, 3).batch_norm("bn2").relu().global_avg_pool2d().flatten().linear("fc", 10)
}

/// Dense layers and convolutions, with the last step short: one rank has fewer samples, or ranks have none.
pub fn whole_batch(device: &Device) -> Check {
    for n in [36, 30, 26] {
        let data = digits(n);
        let new = || Trainer::for_data(device, &data, dense, |y, t| y.cross_entropy(t), Sgd::new(0.1));
        equal(&format!("dense, {n} samples"), &[2, 3], &new, 64, &fitted(&data, 12))?;
    }
    let data = digits(26).reshape([1, 8, 8])?;
    let new = || Trainer::for_data(device, &data, conv, |y, t| y.cross_entropy(t), Sgd::new(0.1));
    equal("convolutions", &[2, 3], &new, 12 * 36, &fitted(&data, 12))
}

/// Channels whose mean is far from 0, and whose samples differ little.
pub fn far_means(device: &Device) -> Check {
    let value = |i: usize| 1e3 + (i as f32 * 1.7).sin() * 1.4 + (i as f32 * 0.31).cos();
    let images =
        Dataset::new((0..24 * 48).map(value).collect(), [3, 4, 4], Target::values([1], (0..24).map(|i| (i as f32).sin()).collect()))?;
    fn conv<'g>(x: Tensor<'g>) -> Tensor<'g> {
        x.batch_norm("bn").conv2d("conv", 4, 3).tanh().flatten().linear("fc", 1)
    }
    let new = || Trainer::for_data(device, &images, conv, |y, t| y.mse(t), Sgd::new(0.05));
    equal("images", &[2, 3], &new, 12 * 16, &fitted(&images, 12))?;
    let rows = Dataset::new((0..24 * 5).map(value).collect(), [5], Target::values([1], (0..24).map(|i| (i as f32).sin()).collect()))?;
    let new = || Trainer::for_data(device, &rows, |x| x.batch_norm("bn").linear("fc", 1), |y, t| y.mse(t), Sgd::new(0.05));
    equal("rows", &[2, 3], &new, 12, &fitted(&rows, 12))
}

/// Sample weights. In the first step a rank has no weight at all, but its samples count for the statistics, and in the second one all
/// weights are 0.
pub fn weighted(device: &Device) -> Check {
    let n = 36;
    let (x, _) = digits(n).batch(&(0..n).collect::<Vec<_>>())?;
    let weight = |i: usize| if i < 6 || (12..24).contains(&i) { 0.0 } else { (i % 5) as f32 * 0.75 };
    let values = (0..n).flat_map(|i| (0..3).map(move |k| ((i * 3 + k) as f32 * 0.3).cos()).chain([weight(i)])).collect();
    let data = Dataset::new(x.f().to_vec(), [64], Target::values([4], values))?;
    fn loss<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        let n = t.dim(0);
        losses::mse(y, t.slice(1, 0, 3)).sample_weights(t.slice(1, 3, 4).reshape([n])).mean()
    }
    fn net<'g>(x: Tensor<'g>) -> Tensor<'g> {
        x.linear("fc1", 8).batch_norm("bn1").tanh().linear("fc2", 8).batch_norm("bn2").tanh().linear("fc3", 3)
    }
    let new = || Trainer::for_data(device, &data, net, loss, Sgd::new(0.1));
    let ordered = |trainer: &mut Trainer, _: usize, n: usize| trainer.fit(&data, Fit::new().batch_size(12 / n).shuffle(false)).map(|_| ());
    equal("sample weights", &[2, 3], &new, 64, &ordered)
}

/// Batches of any sizes, one sample, none, and micro-batches: number k of each rank meets number k of the others.
pub fn own_loop() -> Check {
    let (cpu, data) = (Device::cpu(), digits(60));
    let new = || Trainer::for_data(&cpu, &data, dense, |y, t| y.cross_entropy(t), Sgd::new(0.1));
    let batch = |rows: std::ops::Range<usize>| -> Result<[Host<f32>; 2], Error> {
        if rows.is_empty() {
            return Ok([Host::new([0, 64], vec![]), Host::labels([0], vec![])]);
        }
        let (x, y) = data.batch(&rows.collect::<Vec<_>>())?;
        Ok([x, y])
    };
    equal("batches of any sizes", &[3], &new, 64, &|trainer, rank, n| {
        for cuts in [[0, 5, 5, 8], [10, 11, 17, 20], [20, 20, 20, 29]] {
            let rows = if n == 1 { cuts[0]..cuts[3] } else { cuts[rank]..cuts[rank + 1] };
            trainer.step(&batch(rows)?)?;
        }
        Ok(())
    })?;
    equal("micro-batches", &[2], &new, 64, &|trainer, rank, n| {
        // The second micro-batch of rank 1 is empty.
        for start in [0, 9, 20] {
            let own = |from: usize, to: usize, more: usize| match (n, rank) {
                (1, _) => from..to + more,
                (_, 0) => from..to,
                _ => to..to + more,
            };
            trainer.accumulate(&batch(own(start, start + 4, 3))?)?;
            trainer.step(&batch(own(start + 7, start + 12, 0))?)?;
        }
        Ok(())
    })?;
    // More micro-batches on one rank than on the others.
    let got = all(3, |world| {
        let mut trainer = new()?.sync_batch_norm(true)?.distributed(world)?;
        for step in 0..2 {
            (0..2 * world.rank()).try_for_each(|k| trainer.accumulate(&batch(k..k + 3 + step)?))?;
            trainer.step(&batch(40..44)?)?;
        }
        Got::of(&mut trainer, Default::default())
    })?;
    assert!(got[0] == got[1] && got[0] == got[2]);
    assert_eq!(got[0].reports[1].samples, (2 + 4) * 4 + 3 * 4);
    Ok(())
}

/// Epochs of `fit` with several micro-batches of a rank, with an optimizer with states, on ranks that learn.
pub fn epochs(device: &Device) -> Check {
    let data = digits(100);
    let new = || Trainer::for_data(device, &data, dense, |y, t| y.cross_entropy(t), Adam::new(1e-2));
    let got = all(2, |world| {
        let mut trainer = new()?.distributed(world)?.sync_batch_norm(true)?;
        let history = trainer.fit(&data, Fit::new().batch_size(12).micro_batch(5).epochs(6).check_weights(2))?;
        let profile = trainer.profile(1).map(|profile| profile.to_string());
        let own = Got::of(&mut trainer, history)?;
        // The methods of one rank.
        if world.rank() == 1 {
            assert!(trainer.evaluate(&data)?.loss.is_finite() && trainer.micro_memory(4)?.total() > 0 && trainer.memory(4)?.total() > 0);
            trainer.find_lr(&data, FindLr { num_training: 5, ..FindLr::default() })?;
        }
        trainer.fit(&data, Fit::new().batch_size(12))?;
        Ok((own, profile))
    })?;
    assert!(got[0].0 == got[1].0, "both ranks");
    let losses: Vec<f64> = got[0].0.history.epochs.iter().map(|epoch| epoch.loss).collect();
    assert!(losses[5] < 0.7 * losses[0], "{losses:?}");
    // On a GPU the host's times have the exchanges.
    let row = if device.as_gpu().is_some() { "exchange values with ranks" } else { "all_gather" };
    let texts: Vec<&String> = got.iter().filter_map(|(_, profile)| profile.as_ref().ok()).collect();
    assert!(!texts.is_empty() && texts.iter().all(|text| text.contains(row)), "{}", texts[0]);
    Ok(())
}

/// One rank is on the CPU, the other one on a GPU.
pub fn mixed(device: &Device) -> Check {
    let (cpu, data) = (Device::cpu(), digits(26));
    let of = |device: &Device| Trainer::for_data(device, &data, dense, |y, t| y.cross_entropy(t), Sgd::new(0.1));
    let mut one = of(&cpu)?;
    one.fit(&data, Fit::new().batch_size(12))?;
    let want = one.take_reports()?;
    let got = all(2, |world| {
        let mut trainer = of(if world.rank() == 0 { &cpu } else { device })?.sync_batch_norm(true)?.distributed(world)?;
        trainer.fit(&data, Fit::new().batch_size(6))?;
        trainer.take_reports()
    })?;
    for (own, want) in got.iter().flat_map(|own| own.iter().zip(&want)) {
        close(&[own.loss.into()], &[want.loss.into()], 64)?;
    }
    Ok(())
}

/// The option is the same on all ranks, and trainers of one graph do not have it. A rank that fails ends the others in the middle of their
/// computation.
pub fn refused() -> Check {
    let (cpu, data) = (Device::cpu(), digits(40));
    let new = || Trainer::for_data(&cpu, &data, dense, |y, t| y.cross_entropy(t), Sgd::new(0.1));
    for result in ranks(2, |world| new()?.sync_batch_norm(world.rank() == 1)?.distributed(world).map(|_| ())) {
        assert_eq!(fault(result), (1, "it has sync_batch_norm true, but rank 0 has sync_batch_norm false".into()));
    }
    let g = downhill::Graph::training();
    let one = Trainer::new(&cpu, g.input([4, 3]).batch_norm("bn").square().mean_all(), Sgd::new(0.1))?;
    let why = one.sync_batch_norm(true).err().map_or(String::new(), |error| error.to_string());
    assert!(why.contains("sync_batch_norm") && why.contains("made of one graph"), "{why}");

    bad_batch(&data, |world| new()?.sync_batch_norm(true)?.distributed(world));
    // A layer that is frozen on one rank exchanges nothing.
    for result in ranks(2, |world| {
        let options = BatchNorm { frozen: world.rank() == 1, ..BatchNorm::default() };
        let trainer = Trainer::for_data(
            &cpu,
            &data,
            move |x| x.linear("fc1", 6).batch_norm_with("bn1", options).tanh().linear("fc2", 10).batch_norm("bn2"),
            |y, t| y.cross_entropy(t),
            Sgd::new(0.1),
        )?;
        trainer.sync_batch_norm(true)?.distributed(world)?.fit(&data, Fit::new().batch_size(8)).map(|_| ())
    }) {
        let why = fault(result).1;
        assert!(why.contains("numbers at step 0, values 0 of the computation") && why.contains("must have the same layers"), "{why}");
    }
    // No rank has a sample.
    for result in ranks(2, |world| {
        let mut trainer = new()?.sync_batch_norm(true)?.distributed(world)?;
        trainer.step(&[Host::new([0, 64], vec![]), Host::labels([0], vec![])])
    }) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("no rank has a sample in this step"), "{text}");
    }
    // A loss with a gradient of its own through batch norm.
    fn penalty<'g>(y: Tensor<'g>, t: Tensor<'g>) -> Tensor<'g> {
        let inputs: Vec<Tensor> = y.graph().param_tensors();
        y.cross_entropy(t) + y.square().mean_all().grad(&inputs[..1])[0].square().sum_all()
    }
    for result in ranks(2, |world| {
        let trainer = Trainer::for_data(&cpu, &data, dense, penalty, Sgd::new(0.1))?;
        trainer.sync_batch_norm(true)?.distributed(world)?.fit(&data, Fit::new().batch_size(8)).map(|_| ())
    }) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("a model cannot use gradients through batch norm in its own loss"), "{text}");
    }
    // With one rank the option changes nothing.
    let bits = |sync: bool| -> Result<_, Error> {
        let mut trainer = new()?.sync_batch_norm(sync)?.distributed(&World::alone())?;
        trainer.fit(&data, Fit::new().batch_size(8))?;
        weights(&trainer)
    };
    assert!(bits(true)? == bits(false)?);
    Ok(())
}
