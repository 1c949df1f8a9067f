//! A step on the CPU device allocates nothing once its buffers are there, nor does a micro-batch more than a batch; and an epoch keeps to
//! the bytes that it is given.
//!
//! One test, so that nothing else allocates meanwhile.

use downhill::{
    Device, Fit, Graph, Host, Shape, Trainer,
    data::{Dataset, Target},
    layers::Conv2d,
    ops::Fill,
    optim::{Adam, Sgd},
    testing,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Bytes that are there, and the most there were.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        MOST.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promises are those that it asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn batch(x: Shape, n: usize) -> [Host<f32>; 2] {
    [testing::fill(x, &Fill::Range(-1.0, 1.0), 1), testing::fill(Shape::from([n]).u32(), &Fill::Labels(10), 2)]
}

fn mlp() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([130, 784]), g.labels([130]));
    let loss = x.linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10).cross_entropy(y);
    let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(1e-3)).unwrap();
    trainer.step(&batch([130, 784].into(), 130)).unwrap();
    trainer
}

fn cnn() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([33, 1, 28, 28]), g.labels([33]));
    let same = || Conv2d { padding: 1.into(), ..Default::default() };
    let maps = x.conv2d_with("c1", 32, 3, same()).relu().max_pool2d(2).conv2d_with("c2", 64, 3, same()).relu().max_pool2d(2);
    let loss = maps.flatten().linear("fc1", 128).relu().linear("fc2", 10).cross_entropy(y);
    let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.05).momentum(0.9)).unwrap();
    trainer.step(&batch([33, 1, 28, 28].into(), 33)).unwrap();
    trainer
}

/// rayon's queue of work from outside of it has blocks of 63 places: one allocation for so many steps.
const STEPS: usize = 63;

#[test]
fn steps_allocate_nothing() {
    for (name, mut trainer) in [("MLP", mlp()), ("CNN", cnn())] {
        (0..10).for_each(|_| trainer.step_again().unwrap());
        let before = COUNT.load(Relaxed);
        (0..STEPS).for_each(|_| trainer.step_again().unwrap());
        let made = COUNT.load(Relaxed) - before;
        assert!(made <= 1, "{STEPS} steps of the {name} made {made} allocations");
        assert!(trainer.loss().unwrap().is_finite());
    }
    micro_batches();
    budgets();
}

/// Handing over a batch allocates as often whether it is a step or a micro-batch.
fn micro_batches() {
    let (mut trainer, batch) = (mlp(), batch([130, 784].into(), 130));
    let mut count = |f: fn(&mut Trainer, &[Host<f32>])| {
        (0..10).for_each(|_| f(&mut trainer, &batch));
        let before = COUNT.load(Relaxed);
        (0..STEPS).for_each(|_| f(&mut trainer, &batch));
        COUNT.load(Relaxed) - before
    };
    let whole = count(|trainer, batch| trainer.step(batch).unwrap());
    let parts = count(|trainer, batch| {
        trainer.accumulate(batch).unwrap();
        trainer.step(batch).unwrap();
    });
    assert!(parts <= 2 * whole + 2, "{parts} allocations of {STEPS} pairs, {whole} of as many steps");
    assert!(trainer.loss().unwrap().is_finite());
}

/// All that an epoch on the CPU device takes beside the data set, threads' scratch and the order of the samples.
fn budgets() {
    let n = 4096;
    let pixels = (0..n * 784).map(|i| (i * 31 % 251) as u8).collect();
    let labels = Target::labels((0..n).map(|i| (i % 10) as u32).collect(), 10);
    let data = Dataset::bytes(pixels, [784], 1.0 / 255.0, labels).unwrap();
    let validation = data.subset(&(0..1000).collect::<Vec<_>>()).unwrap();
    for validates in [false, true] {
        for mib in [14, 20, 32] {
            let before = LIVE.load(Relaxed);
            MOST.store(before, Relaxed);
            let mut trainer = Trainer::for_data(
                &Device::cpu(),
                &data,
                |x| x.linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10),
                |y, t| y.cross_entropy(t),
                Adam::new(1e-3),
            )
            .unwrap();
            let fit = Fit::new().batch_size(n).epochs(2).memory(mib << 20);
            let history = trainer.fit(&data, if validates { fit.validation(&validation) } else { fit }).unwrap();
            let (micro, most) = (history.micro_batch.unwrap(), MOST.load(Relaxed) - before);
            println!("{most} bytes of {mib} MiB, micro-batches of {micro}, validation: {validates}");
            assert!((16..n).contains(&micro));
            // Planning takes a little.
            assert!(most <= (mib << 20) as usize + (1 << 18), "{most} bytes are more than {mib} MiB");
            assert!(most > (mib << 20) as usize / 2, "{most} bytes are little for {mib} MiB");
        }
    }
}
