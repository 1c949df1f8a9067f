use super::*;
use crate::optim::Guard;
use std::time::Duration;

fn tag(step: u64, what: What) -> Tag {
    Tag { step, what }
}

/// Runs `f` on each rank of a world of `n` threads, and returns the results in order.
fn on_ranks<T: Send>(n: usize, f: impl Fn(World) -> T + Sync) -> Vec<T> {
    let f = &f;
    thread::scope(|scope| {
        let ranks: Vec<_> = World::threads(n).into_iter().map(|world| scope.spawn(move || f(world))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

/// The numbers of a rank. They are of different sizes, so that the order of a sum shows in its bits.
fn numbers(rank: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + rank * 101) % 211) as f32 / 7.0 * 10f32.powi((i % 5) as i32 - 2) - 3.1).collect()
}

/// The weight of a rank. Rank 1 has no samples.
fn weight(rank: usize) -> Option<f32> {
    (rank != 1).then_some([32.0, 0.0, 7.0, 0.0, 19.0][rank])
}

#[test]
fn a_mean_has_the_bits_of_accumulation() {
    for ranks in 1..=5 {
        for n in [0, 1, 63, 64, 65, 1000, 5003] {
            let (mut guard, mut want) = (Guard { weight: 0.0, ..Guard::default() }, vec![f32::NAN; n]);
            for rank in 0..ranks {
                if let Some(weight) = weight(rank) {
                    guard.weigh(weight, 0.0);
                    guard.add_micro(&mut want, &numbers(rank, n));
                }
            }
            let all = on_ranks(ranks, |world| {
                world.reduce(tag(3, What::Grads(0)), numbers(world.rank(), n), weight(world.rank())).wait().unwrap().values
            });
            for mean in all {
                assert_eq!(mean.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), want.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_mean_without_weights_is_zero() {
    // The memory of the sum still holds the mean before.
    let all = on_ranks(2, |world| {
        let mean = |step, weight| world.reduce(tag(step, What::Grads(0)), numbers(world.rank(), 1000), weight).wait().unwrap().values;
        (mean(0, Some(1.0)), mean(1, None))
    });
    assert!(all.iter().all(|(first, second)| first.iter().any(|x| *x != 0.0) && *second == [0.0; 1000]));
}

#[test]
fn a_number_that_is_not_finite_reaches_all_ranks() {
    let all = on_ranks(3, |world| {
        let mut values = numbers(world.rank(), 100);
        if world.rank() == 2 {
            values[70] = f32::NAN;
        }
        world.reduce(tag(0, What::Grads(0)), values, Some(1.0)).wait().unwrap().values
    });
    assert!(all.iter().all(|mean| mean[70].is_nan() && mean[69].is_finite()));
}

#[test]
fn half_the_bytes() {
    for (wire, size, precision) in [(Wire::F32, 4, 0.0), (Wire::Bf16, 2, 1.0 / 128.0), (Wire::F16, 2, 1.0 / 1024.0)] {
        let n = 64 * 40;
        let all = on_ranks(2, |world| {
            let world = world.wire(wire);
            let mean = world.reduce(tag(0, What::Grads(0)), numbers(world.rank(), n), Some(1.0)).wait().unwrap().values;
            (mean, world.traffic())
        });
        assert_eq!(all[0].0, all[1].0);
        let exact: Vec<f32> = numbers(0, n).iter().zip(numbers(1, n)).map(|(a, b)| (a + b) / 2.0).collect();
        let scale = numbers(0, n).iter().chain(&numbers(1, n)).fold(0f32, |most, x| most.max(x.abs()));
        assert!(all[0].0.iter().zip(&exact).all(|(mean, exact)| (mean - exact).abs() <= (precision + 1e-6) * scale));
        // Half of the values go to the other rank, and half of the mean.
        let content = (size * n) as u64;
        for (_, traffic) in &all {
            assert!((content..content + 2000).contains(&traffic.sent), "{traffic:?} for {content}");
            // A sign of life may be under way.
            assert!((content..content + 2000).contains(&traffic.received), "{traffic:?} for {content}");
            assert!(traffic.busy > 0.0);
            let (_, messages, bytes) = traffic.purposes().find(|(name, ..)| *name == "gradients").unwrap();
            assert!(messages == 2 && (content..content + 200).contains(&bytes), "a part and a mean: {traffic:?}");
            assert_eq!(traffic.purposes().map(|(_, _, bytes)| bytes).sum::<u64>(), traffic.sent);
        }
    }
}

#[test]
fn a_slow_network() {
    let (latency, ranks) = (Duration::from_millis(80), 3);
    let mean = |world: &World| world.reduce(tag(0, What::Grads(0)), numbers(world.rank(), 5003), Some(1.0)).wait().unwrap().values;
    let want = on_ranks(ranks, |world| mean(&world));
    let got = on_ranks(ranks, |world| {
        let (world, since) = (world.delayed(latency, 1_000_000), Instant::now());
        (mean(&world), since.elapsed())
    });
    for ((got, took), want) in got.iter().zip(&want) {
        assert_eq!(got, want);
        // Two thirds of 20 kB leave a rank at 1 MB/s, and then as much of the means. The last message comes by its latency later.
        assert!(*took > 2 * latency + Duration::from_millis(26), "{took:?}");
    }
    // A rank that leaves does not wait until its messages would have arrived.
    let since = Instant::now();
    let got = on_ranks(2, |world| {
        let world = world.delayed(Duration::from_secs(1000), 1);
        (world.rank() == 0).then(|| world.gather(tag(7, What::End), vec![0]).wait().unwrap_err().to_string())
    });
    assert_eq!(got[0].as_deref(), Some("rank 1: it left, while this rank is at step 7, the end of the training"));
    assert!(since.elapsed() < Duration::from_secs(9), "it is not called silent");
}

#[test]
fn ranks_gather_in_order() {
    let all = on_ranks(4, |world| {
        let own = vec![world.rank() as u8; world.rank()];
        // Two exchanges are under way at once.
        let (first, second) = (world.gather(tag(1, What::Rows), own), world.gather(tag(1, What::State), vec![9]));
        (first.wait().unwrap(), second.wait().unwrap())
    });
    for (first, second) in all {
        assert_eq!((first, second), (vec![vec![], vec![1], vec![2, 2], vec![3, 3, 3]], vec![vec![9]; 4]));
    }
}

#[test]
fn one_rank_gathers() {
    let all = on_ranks(3, |world| world.gather_on(tag(1, What::Optimizer), vec![7; 100 * world.rank()], Some(1)).wait().unwrap());
    assert_eq!(all[1], [vec![], vec![7; 100], vec![7; 200]]);
    assert!(all[0].iter().chain(&all[2]).all(Vec::is_empty));
}

#[test]
fn a_world_of_one_rank() {
    for world in [World::alone(), World::threads(1).remove(0), World::threads(0).remove(0)] {
        assert_eq!((world.rank(), world.size(), world.local_rank(), world.local_size()), (0, 1, 0, 1));
        assert_eq!(world.reduce(tag(0, What::Grads(0)), vec![1.5, -2.0], Some(3.0)).wait().unwrap().values, [1.5, -2.0]);
        assert_eq!(world.gather(tag(0, What::Rows), vec![1, 2]).wait().unwrap(), [[1, 2]]);
        world.fail(&Error::argument("x", "y"));
        assert_eq!(world.traffic().sent, 0);
    }
}

/// The error of each rank, as text.
fn errors(all: Vec<Result<Vec<Vec<u8>>>>) -> Vec<String> {
    all.into_iter().map(|result| result.expect_err("the exchange fails").to_string()).collect()
}

#[test]
fn ranks_at_different_places() {
    let all = errors(on_ranks(3, |world| {
        let step = if world.rank() == 1 { 15 } else { 14 };
        world.gather(tag(step, What::Rows), vec![0]).wait()
    }));
    // The first rank that sees the difference tells the others.
    let told = |text: &String| text.contains("it is at step 14, losses") || text.contains("rank 1: it is at step 15, losses");
    assert!(all.iter().all(told), "{all:?}");
    assert!(all.iter().any(|text| text.ends_with("all ranks must make the same calls")), "{all:?}");
}

#[test]
fn models_of_different_sizes() {
    let all = on_ranks(2, |world| world.reduce(tag(0, What::Grads(0)), vec![1.0; 100 + 100 * world.rank()], Some(1.0)).wait());
    for result in all {
        let text = result.expect_err("the sizes differ").to_string();
        assert!(text.contains("which do not fit the model of this rank"), "{text}");
    }
}

#[test]
fn a_rank_that_fails_tells_the_others() {
    let all = errors(on_ranks(3, |world| {
        if world.rank() == 2 {
            let error = Error::argument("batch size", "must be at least 1");
            world.fail(&error);
        }
        world.gather(tag(7, What::Rows), vec![0]).wait()
    }));
    assert!(all.iter().all(|text| text == "rank 2: it ended with: batch size: must be at least 1"), "{all:?}");
}

#[test]
fn a_rank_that_leaves() {
    let all = on_ranks(2, |world| {
        if world.rank() == 1 {
            return None;
        }
        Some(world.gather(tag(7, What::End), vec![0]).wait().unwrap_err().to_string())
    });
    assert_eq!(all[0].as_deref(), Some("rank 1: it left, while this rank is at step 7, the end of the training"));
}

#[test]
fn a_rank_that_panics() {
    let mut worlds = World::threads(2);
    let (two, one) = (worlds.remove(1), worlds.remove(0));
    let other = thread::spawn(move || {
        let _world = two;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert_eq!(one.gather(tag(0, What::Rows), vec![]).wait().unwrap_err().to_string(), "rank 1: it panicked");
    assert!(other.join().is_err());
}

#[test]
fn a_rank_that_does_not_come() {
    let mut worlds = World::threads(3);
    // Rank 2 lives and does nothing. The other ranks do not wait for it longer than asked.
    let _two = worlds.remove(2);
    let since = Instant::now();
    let ranks: Vec<_> = worlds
        .into_iter()
        .map(|world| thread::spawn(move || world.timeout(Duration::from_millis(300)).gather(tag(4, What::Rows), vec![]).wait()))
        .collect();
    let all = errors(ranks.into_iter().map(|rank| rank.join().unwrap()).collect());
    assert!(all.iter().all(|text| text.starts_with("rank 2: it did not come to step 4, losses within 0 s")), "{all:?}");
    assert!(since.elapsed() < Duration::from_secs(10));
}
