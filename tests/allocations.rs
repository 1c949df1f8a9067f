//! A step on the CPU device allocates nothing once its buffers are there.
//!
//! One test, so that nothing else allocates meanwhile.

use downhill::{
    Device, Graph, Host, Shape, Trainer,
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

// SAFETY: what the system's allocator does.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are those that it asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
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
}
