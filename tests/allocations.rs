//! A step on the CPU device allocates nothing once its buffers are there, whatever its ops, nor does a micro-batch; and an epoch keeps
//! to the bytes that it is given.
//!
//! One test, so that nothing else allocates meanwhile.

use downhill::{
    Device, Fit, Graph, Host, Shape, Tensor, Trainer,
    data::{Dataset, Target},
    host::Real,
    kernel::Source,
    layers::{Conv2d, MultiHeadAttention, Rotary},
    losses,
    ops::{Fill, resample::Upsample},
    optim::{Adam, GroupOptions, Hyper, MAX_STATES, Norms, Optimizer, Rule, Sgd, State},
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

/// A trainer after its first step.
fn stepped(loss: Tensor, optimizer: impl Into<Optimizer>, batch: &[Host<f32>]) -> Trainer {
    let mut trainer = Trainer::new(&Device::cpu(), loss, optimizer).unwrap();
    trainer.step(batch).unwrap();
    trainer
}

fn mlp() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([130, 784]), g.labels([130]));
    let loss = x.linear("fc1", 512).relu().linear("fc2", 256).relu().linear("fc3", 10).cross_entropy(y);
    stepped(loss, Adam::new(1e-3), &batch([130, 784].into(), 130))
}

fn cnn() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([33, 1, 28, 28]), g.labels([33]));
    let same = || Conv2d { padding: 1.into(), ..Default::default() };
    let maps = x.conv2d_with("c1", 32, 3, same()).relu().max_pool2d(2).conv2d_with("c2", 64, 3, same()).relu().max_pool2d(2);
    let loss = maps.flatten().linear("fc1", 128).relu().linear("fc2", 10).cross_entropy(y);
    stepped(loss, Sgd::new(0.05).momentum(0.9), &batch([33, 1, 28, 28].into(), 33))
}

/// Attention, layer norm, a table of vectors, dropout, and products of a batch.
fn transformer() -> Trainer {
    let g = Graph::training();
    let (tokens, y) = (g.labels([3, 70]), g.labels([3]));
    let x = tokens.embedding("tokens", 10, 32).dropout(0.1);
    let causal = MultiHeadAttention { causal: true, ..Default::default() };
    let x = x + x.layer_norm("norm1").multi_head_attention_with("attention", 4, causal);
    let x = x + x.layer_norm("norm2").multi_head_attention("all", 2);
    let options = MultiHeadAttention {
        kv_heads: Some(2),
        local_window_size: Some([40, 3]),
        alibi: true,
        rotary: Some(Rotary::default()),
        dropout: 0.1,
        ..Default::default()
    };
    let x = x + x.layer_norm("norm4").multi_head_attention_with("options", 4, options);
    let x = x + x.layer_norm("norm3").linear("up", 64).gelu().linear("down", 32);
    let gram = x.matmul_t(x, false, true).softmax(-1).matmul(x).permute(&[2, 0, 1]);
    let logits = gram.permute(&[1, 2, 0]).mean(&[1], false).linear("out", 10);
    let loss = logits.cross_entropy(y) + logits.correct(y).mean_all();
    let data = [testing::fill([3, 70].into(), &Fill::Labels(10), 1), testing::fill(Shape::from([3]).u32(), &Fill::Labels(10), 2)];
    stepped(loss, Adam::new(1e-3).clip_norm(1.0), &data)
}

/// Normalisations, those of a batch with running averages, and images of other sizes.
fn norms() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([5, 3, 17, 16]), g.labels([5]));
    let maps = x.conv2d("c1", 8, 3).batch_norm("batch").relu().conv2d("c2", 8, 1).group_norm("group", 2).silu();
    let maps = maps.upsample(Upsample::Bilinear { align_corners: false }, [20, 21]).instance_norm("instance").avg_pool2d(2).flip(-1);
    let wide = maps.adaptive_avg_pool2d([5, 6]).max_pool2d(2).flatten().rms_norm("rms").linear("wide", 70_001);
    let spread = maps.variance(&[0, 2, 3], 1, false).mean_all() + maps.std(&[1], 0, false).mean_all();
    let loss = wide.logsumexp(&[1], false).mean_all() + losses::nll(maps.flatten().linear("out", 10).log_softmax(-1), y).mean() + spread;
    stepped(loss, Sgd::new(0.05).momentum(0.9), &batch([5, 3, 17, 16].into(), 5))
}

/// Recurrent layers, and the steps of a sequence one by one.
fn recurrent() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([6, 25, 12]), g.labels([6]));
    let states = x.lstm("lstm", 20).gru("gru", 16);
    let steps: Vec<Tensor> = (0..25).map(|t| states.slice(1, t, t + 1).tanh()).collect();
    let loss = steps[0].concat(&steps[1..], 1).flatten().linear("out", 10).cross_entropy(y);
    stepped(loss, Adam::new(1e-3), &batch([6, 25, 12].into(), 6))
}

/// A rule with a ratio, which is tried before each step because it has no `grow`; in two groups.
fn ratios() -> Trainer {
    let g = Graph::training();
    let (x, y) = (g.input([9, 12]), g.labels([9]));
    let loss = x.linear("fc1", 300).relu().linear("fc2", 10).cross_entropy(y);
    let optimizer = Optimizer::from(Layerwise).group(|name| name.starts_with("fc2"), GroupOptions { lr_scale: 0.5, ..Default::default() });
    stepped(loss, optimizer, &batch([9, 12].into(), 9))
}

/// A step along the direction as long as the weights are large.
#[derive(Clone, Debug)]
struct Layerwise;

impl Rule for Layerwise {
    const NAME: &'static str = "Layerwise";
    fn source() -> Source {
        unreachable!("the CPU device has no shaders")
    }
    fn states(&self) -> Vec<State> {
        vec![State { name: "momentum", start: 0.0, kept: true }]
    }
    fn lr(&self) -> f64 {
        0.01
    }
    fn weight_decay(&self) -> f64 {
        0.0
    }
    fn check(&self) -> downhill::Result<()> {
        Ok(())
    }
    fn hyper(&self, _: u64, lr: f64, _: f64) -> Hyper {
        [lr, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
    fn direction<T: Real>(_: T, g: T, _: &mut [T; MAX_STATES], _: &[T; 8]) -> T {
        g
    }
    fn apply<T: Real>(w: T, u: T, s: &mut [T; MAX_STATES], h: &[T; 8]) -> T {
        s[0] = h[1] * s[0] + u;
        w - h[0] * s[0]
    }
    const HAS_RATIO: bool = true;
    fn ratio(norms: Norms, _: &Hyper) -> f64 {
        if norms.direction == 0.0 { 1.0 } else { norms.weight / norms.direction }
    }
    fn cases() -> Vec<Layerwise> {
        vec![Layerwise]
    }
}

/// rayon's queue of work from other threads has blocks of 63 places, so it allocates once in 63 steps.
const STEPS: usize = 63;

/// Returns the number of allocations in [`STEPS`] calls.
fn count(mut f: impl FnMut()) -> usize {
    (0..10).for_each(|_| f());
    let before = COUNT.load(Relaxed);
    (0..STEPS).for_each(|_| f());
    COUNT.load(Relaxed) - before
}

#[test]
fn steps_allocate_nothing() {
    let models = [
        ("MLP", mlp as fn() -> Trainer),
        ("CNN", cnn),
        ("transformer", transformer),
        ("norms", norms),
        ("recurrent layers", recurrent),
        ("rule with a ratio", ratios),
    ];
    for (name, model) in models {
        let mut trainer = model();
        let made = count(|| trainer.step_again().unwrap());
        assert!(made <= 1, "{STEPS} steps of the {name} made {made} allocations");
        assert!(trainer.loss().unwrap().is_finite());
    }
    batches();
    budgets();
}

/// A batch is copied into memory that is there, and so is a micro-batch.
fn batches() {
    let (mut trainer, batch) = (mlp(), batch([130, 784].into(), 130));
    let whole = count(|| trainer.step(&batch).unwrap());
    assert!(whole <= 1, "{STEPS} steps on a batch made {whole} allocations");
    let parts = count(|| {
        trainer.accumulate(&batch).unwrap();
        trainer.accumulate(&batch).unwrap();
        trainer.step(&batch).unwrap();
    });
    assert!(parts <= 3, "{STEPS} steps of three micro-batches made {parts} allocations");
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
