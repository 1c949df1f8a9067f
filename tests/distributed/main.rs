//! Training over ranks that are threads of this process: the same bits as accumulation on one rank, checkpoints on other numbers of ranks,
//! and errors that name the rank at fault.

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod exact;
mod faults;
mod files;
mod overlap;
mod parts;
mod sharded_states;
mod shards;
mod synced;
mod traces;

use common::{BOTH, On, Suite, bits};
use downhill::{
    Device, Error, Fit, History, StepReport, Tensor, Trainer, World,
    data::{self, Dataset},
    optim::Optimizer,
};
use std::thread;

fn main() {
    let mut suite = Suite::new();
    suite.test("the bits of accumulation", exact::optimizers);
    suite.test("steps that do not divide", exact::sizes);
    suite.test("weighted means", exact::weighted);
    suite.test("dropout and batch norm", exact::batch_norm);
    suite.test("averages, readouts and augmentation", exact::readouts);
    suite.test("validation and early stopping", exact::validation);
    suite.test("several micro-batches of a rank", exact::several);
    suite.test("buckets", exact::buckets);
    suite.test("an exchange behind the backward pass", overlap::hidden);
    suite.test("a profile", exact::profile);
    suite.test("a loop of one's own", exact::own_loop);
    suite.test("a limit of memory", exact::memory);
    for on in [On::Cpu, On::Gpu, On::Pieces] {
        suite.on(on, "batch norm over ranks, against the whole batch", synced::whole_batch);
        suite.on(on, "batch norm over ranks, with means far from 0", synced::far_means);
        suite.on(on, "batch norm over ranks, with sample weights", synced::weighted);
        suite.on(on, "batch norm over ranks, for epochs", synced::epochs);
    }
    suite.test("batch norm over ranks, in a loop of one's own", synced::own_loop);
    suite.test("batch norm over ranks, refused", synced::refused);
    suite.on(On::Gpu, "batch norm over ranks, beside the CPU", synced::mixed);
    suite.on(On::Gpu, "the bits of accumulation", exact::on);
    suite.on(On::Pieces, "the bits of accumulation", exact::on);
    suite.on(On::Gpu, "beside the CPU", exact::mixed);
    for on in [On::Gpu, On::Pieces] {
        suite.on(on, "buckets of any sizes", parts::sizes);
        suite.on(on, "sums of micro-batches", parts::sums);
    }
    suite.on(On::Gpu, "submits and buffers of a step", parts::counts);
    suite.on(On::Gpu, "the memory of buckets", parts::memory);
    suite.each(&BOTH, "a trace of all ranks", traces::of);
    suite.test("a device for each rank", devices::cpu);
    suite.on(On::Gpu, "a device for each rank", devices::gpu);
    suite.test("a resume from 4 ranks on 2", files::resume);
    suite.test("a resume in the middle of an epoch, with other steps", files::other_steps);
    suite.test("rank 0 alone writes", files::written);
    suite.test("a shard for each rank", shards::optimizers);
    suite.on(On::Gpu, "a shard for each rank", shards::on);
    suite.test("each sample of a shard once", shards::each_once);
    suite.test("shards in files", shards::from_files);
    suite.test("steps over shards", shards::steps);
    suite.test("a resume on shards", shards::resume);
    suite.test("ranks that differ in their shards", shards::differ);
    suite.test("shards of the states", sharded_states::optimizers);
    suite.on(On::Gpu, "shards of the states", sharded_states::on);
    suite.on(On::Pieces, "shards of the states", sharded_states::on);
    suite.on(On::Pieces, "shards in several pieces", sharded_states::pieces);
    suite.each(&common::BOTH, "the memory of shards", sharded_states::memory);
    suite.each(&common::BOTH, "averages of shards", sharded_states::averages);
    suite.test("the traffic of shards", sharded_states::traffic);
    suite.test("the files of shards", sharded_states::files);
    suite.each(&common::BOTH, "an overflow on one rank", sharded_states::overflow);
    suite.each(&common::BOTH, "a step of shards that is not finite", sharded_states::diverged);
    suite.each(&common::BOTH, "all options of ranks", sharded_states::together);
    suite.test("shards that begin and end", sharded_states::changes);
    suite.test("what shards do not do", sharded_states::refused);
    suite.test("a step that is not finite", faults::diverged);
    suite.test("ranks that differ at the start", faults::start);
    suite.test("a rank that ends early", faults::early);
    suite.test("a rank that stops", faults::stops);
    suite.test("weights that drift apart", faults::drift);
    suite.test("what ranks do not do", faults::refused);
    suite.run()
}

/// Runs `f` on each of `n` ranks. Results come in the order of ranks.
fn ranks<T: Send>(n: usize, f: impl Fn(&World) -> Result<T, Error> + Sync) -> Vec<Result<T, Error>> {
    let f = &f;
    thread::scope(|scope| {
        let all: Vec<_> = World::threads(n).into_iter().map(|world| scope.spawn(move || f(&world))).collect();
        all.into_iter().map(|rank| rank.join().expect("a rank does not panic")).collect()
    })
}

/// The same, where no rank may fail.
fn all<T: Send>(n: usize, f: impl Fn(&World) -> Result<T, Error> + Sync) -> Result<Vec<T>, Error> {
    ranks(n, f).into_iter().collect()
}

/// The results of a training that are compared.
#[derive(Clone, Debug, PartialEq)]
struct Got {
    weights: Vec<(String, Vec<u32>)>,
    reports: Vec<StepReport>,
    history: History,
}

impl Got {
    fn of(trainer: &mut Trainer, mut history: History) -> Result<Got, Error> {
        for epoch in &mut history.epochs {
            (epoch.seconds, epoch.samples_per_s) = (0.0, 0.0);
        }
        let weights = trainer.params().all()?.into_iter().map(|(name, value)| (name, bits(value.f()))).collect();
        Ok(Got { weights, reports: trainer.take_reports()?, history })
    }
    /// The same without running averages.
    fn trained(mut self) -> Got {
        self.weights.retain(|(name, _)| !name.contains("running"));
        self
    }
}

fn fitted(mut trainer: Trainer, data: &Dataset, fit: Fit) -> Result<Got, Error> {
    let history = trainer.fit(data, fit)?;
    Got::of(&mut trainer, history)
}

fn digits(n: usize) -> Dataset {
    data::digits().subset(&(0..n).collect::<Vec<_>>()).expect("there are that many")
}

fn mlp(x: Tensor) -> Tensor {
    x.linear("fc1", 24).tanh().dropout(0.2).linear("fc2", 10)
}

fn classifier(device: &Device, optimizer: impl Into<Optimizer>) -> Result<Trainer, Error> {
    Trainer::for_data(device, &digits(4), mlp, |y, t| y.cross_entropy(t), optimizer)?.seed(5)
}
