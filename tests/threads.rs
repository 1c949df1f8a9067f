//! The CPU device gives the same bits whatever the number of threads: sums are split by sizes, not by threads.

use downhill::{
    Device, Graph, Host, Shape, Trainer,
    layers::Conv2d,
    ops::Fill,
    optim::{Adafactor, AdamW, Muon, Optimizer},
    testing,
};

/// The weights after three steps with each optimizer: convolutions, pooling, batch norm, linear layers, reductions, clipping.
fn train() -> Vec<(String, Host)> {
    let muon = Muon::new(1e-2).flatten(true).rest(AdamW::new(1e-2));
    [AdamW::new(1e-2).into(), muon, Adafactor::new(1e-2).into()].into_iter().flat_map(train_with).collect()
}

fn train_with(optimizer: Optimizer) -> Vec<(String, Host)> {
    let (n, g) = (37, Graph::training());
    let (x, y) = (g.input([n, 3, 22, 20]), g.labels([n]));
    let same = Conv2d { padding: 1.into(), ..Default::default() };
    let maps = x.conv2d_with("c1", 10, 3, same).batch_norm("n1").relu().max_pool2d(2).conv2d("c2", 17, 3).gelu_tanh();
    let loss = maps.flatten().linear("fc1", 300).tanh().layer_norm("n2").linear("fc2", 10).cross_entropy(y);
    let mut trainer = Trainer::new(&Device::cpu(), loss, optimizer.clip_norm(1.0)).unwrap();
    let shape = Shape::from([n, 3, 22, 20]);
    trainer.step(&[testing::fill(shape, &Fill::Range(-1.0, 1.0), 1), testing::fill(Shape::from([n]).u32(), &Fill::Labels(10), 2)]).unwrap();
    (0..2).for_each(|_| trainer.step_again().unwrap());
    assert!(trainer.loss().unwrap().is_finite());
    trainer.params().all().unwrap()
}

#[test]
fn training_gives_the_same_bits_on_any_number_of_threads() {
    let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(train);
    let one = on(1);
    for threads in [2, 3, 7] {
        for ((name, a), (_, b)) in one.iter().zip(on(threads)) {
            assert!(a.f().iter().zip(b.f()).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} differs on {threads} threads");
        }
    }
}
