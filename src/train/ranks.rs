//! Training over ranks: the ranks of a trainer, and all that they must agree on.

use super::{
    Trainer, callback::Flow, cut::Cut, evaluate::Evaluation, named::Named, options::Fit, plans::PlanKey, shard::Shard, share::BUCKET,
    synced::Exchanges,
};
use crate::{
    data::Dataset,
    engine::Buckets,
    error::{Error, Result},
    params::Status,
    profile::{Exchange, StepTimes},
    rng::fnv1a,
    world::{Tag, What, World},
};
use std::time::Instant;

/// The ranks that train one model, as one of them sees them.
pub(super) struct Ranks {
    pub world: World,
    /// The number of micro-batches that each rank computes for a step of `fit`. `None` in a loop of the user's own.
    pub each: Option<u32>,
    /// The most bytes of a bucket of gradients.
    pub bucket: usize,
    /// The buckets of the last step, whose buffers the next step uses again.
    pub buckets: Option<Buckets>,
    /// The number n, so that the weights are compared after each n-th step.
    pub check_weights: Option<u64>,
    /// The exchange of the last step.
    pub exchange: Exchange,
    /// The times of the current step, if it is traced.
    pub times: Option<Traced>,
    /// The plan of this rank's last micro-batch. Its inputs still hold the micro-batch.
    pub last: Option<PlanKey>,
    /// The number of samples of each rank in `fit`, if the data is sharded.
    pub shards: Vec<usize>,
    /// The exchanges of the micro-batches of this step so far.
    pub exchanges: Exchanges,
}

/// A step whose times are measured.
pub(super) struct Traced {
    /// The start of the profile.
    pub zero: Instant,
    /// The start of the step, in seconds from the start of the profile.
    pub begun: f64,
    pub times: StepTimes,
}

impl Ranks {
    fn new(world: &World) -> Ranks {
        Ranks {
            world: world.clone(),
            each: None,
            bucket: BUCKET,
            buckets: None,
            check_weights: None,
            exchange: Exchange { ranks: world.size(), ..Exchange::default() },
            times: None,
            last: None,
            shards: Vec::new(),
            exchanges: Exchanges::default(),
        }
    }
    /// Notes the host's work since the last call, if the step is traced.
    pub fn lap(&mut self, name: &'static str) {
        self.times.iter_mut().for_each(|Traced { zero, begun, times }| times.lap(name, *zero, *begun));
    }
    /// Returns the number in the step of micro-batch `k` of this rank. No two micro-batches of a step have one number, because
    /// dropout and augmentation draw from it.
    pub fn number(&self, k: u32) -> u32 {
        match self.each {
            Some(each) => self.world.rank() as u32 * each + k,
            // The ranks need not have equally many.
            None => k * self.world.size() as u32 + self.world.rank() as u32,
        }
    }
}

/// Facts that must be the same on all ranks: a name and a value each.
type Facts = Vec<(String, String)>;

pub(super) fn fact(name: impl Into<String>, value: impl ToString) -> (String, String) {
    (name.into(), value.to_string())
}

/// Returns the first rank whose facts differ from those of rank 0, and the difference.
fn difference(all: &[Facts]) -> Option<Error> {
    let first = &all[0];
    let unlike = |facts: &Facts| {
        let at = (0..facts.len().max(first.len())).find(|&i| facts.get(i) != first.get(i))?;
        let told = |fact: Option<&(String, String)>| fact.map_or("nothing more".to_string(), |(name, value)| format!("{name} {value}"));
        Some(format!("it has {}, but rank 0 has {}", told(facts.get(at)), told(first.get(at))))
    };
    all.iter().enumerate().find_map(|(rank, facts)| Some(Error::Rank { rank, why: unlike(facts)? }))
}

impl Trainer {
    /// Trains the model together with the other ranks of `world`. Each rank makes a trainer with the same model, optimizer and seed, and
    /// calls the same methods.
    ///
    /// A step over ranks is [accumulation](Trainer::accumulate) over ranks. With [`Fit::batch_size`] B, a step of [`fit`](Trainer::fit) on N
    /// ranks has N·B samples. Micro-batch k of the step belongs to rank k. All ranks get the mean gradient and make the same update:
    ///
    /// g = Σ nⱼ·gⱼ / Σ nⱼ, over the micro-batches j of all ranks, in order.
    ///
    /// On equal devices the weights, losses and reports have the bits of one rank that [accumulates](Fit::accumulate) N batches, with dropout
    /// and a short last step. With `accumulate(M)` a rank computes M neighbouring micro-batches of a step and adds them up first, so the bits
    /// agree to rounding only. Each rank reads its own part of the data. The order of an epoch follows from the seed, so no data is sent. With
    /// [`Fit::sharded_data`] each rank has a data set of its own.
    ///
    /// - PlanKey norm normalises over the micro-batch of a rank, unless [`sync_batch_norm`](Trainer::sync_batch_norm) is set. A state of the
    ///   model, such as a running average, becomes the mean over ranks after each step, weighted by samples. Accumulation assigns the state
    ///   once for each micro-batch instead.
    /// - All ranks have the same reports and the same history, but for times. Each rank evaluates the validation data. Decisions use the
    ///   numbers of rank 0. A callback that stops the training on one rank stops it on all.
    /// - Rank 0 alone shows [progress](Fit::progress) and writes [checkpoints](Fit::checkpoints) and the files of
    ///   [callbacks](crate::callbacks). All ranks must be able to read the checkpoint that they [resume](Fit::resume) from. A training may
    ///   resume on another number of ranks.
    /// - Each rank holds all states of the optimizer, unless the ranks [share](Trainer::shard) them.
    /// - In a loop of your own, each rank gives its own batch to [`step`](Trainer::step). A batch may be of any size. Every rank must
    ///   make every step. [`loss`](Trainer::loss), [`evaluate`](Trainer::evaluate) and all other methods concern one rank alone.
    ///   Set the [seed](Trainer::seed) before this call.
    ///
    /// A step that is not finite is [`Error::Diverged`] on all ranks at once, and all ranks may go on. Any other error of
    /// [`fit`](Trainer::fit) or [`step`](Trainer::step) on one rank ends the world: the other ranks get [`Error::Rank`].
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, World, data, optim::Sgd};
    /// let iris = data::iris();
    /// let train = |world: World| -> downhill::Result<_> {
    ///     let trainer =
    ///         Trainer::for_data(&Device::cpu(), &iris, |x| x.linear("fc", 3), |x, y| x.cross_entropy(y), Sgd::new(0.1))?;
    ///     let mut trainer = trainer.distributed(&world)?;
    ///     trainer.fit(&iris, Fit::new().batch_size(16))?;
    ///     trainer.params().get("fc.weight")
    /// };
    /// // In a program of your own, `World::mpi` gives each process its rank.
    /// let weights: Vec<_> = std::thread::scope(|scope| {
    ///     let ranks: Vec<_> = World::threads(2).into_iter().map(|world| scope.spawn(|| train(world))).collect();
    ///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<downhill::Result<_>>()
    /// })?;
    /// assert_eq!(weights[0], weights[1]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Rank`] if a rank has other parameters, another optimizer, another seed or other weights than rank 0, or if a rank is gone.
    /// Micro-batches wait for their step.
    pub fn distributed(mut self, world: &World) -> Result<Trainer> {
        self.no_part("distributed")?;
        pollster::block_on(self.collect())?;
        self.ranks = (world.size() > 1).then(|| Ranks::new(world));
        if self.sync_batch_norm {
            // Plans know the ranks.
            self.drop_plans();
        }
        self.agreed()
    }
    /// Returns the number of this rank. It is 0 where the trainer has no ranks.
    pub(super) fn rank(&self) -> usize {
        self.ranks.as_ref().map_or(0, |ranks| ranks.world.rank())
    }
    /// Returns the number of ranks.
    pub(super) fn ranks(&self) -> usize {
        self.ranks.as_ref().map_or(1, |ranks| ranks.world.size())
    }
    /// Tells the other ranks why this rank ends. A step that was not finite is the same step on all ranks, so they can go on.
    pub(super) fn told<T>(&self, result: Result<T>) -> Result<T> {
        if let (Some(ranks), Err(error)) = (&self.ranks, &result)
            && !matches!(error, Error::Diverged { .. })
        {
            ranks.world.fail(error);
        }
        result
    }
    /// Sends `bytes` to all ranks and returns those of all ranks, in order. Without ranks, it returns `None`.
    pub(super) fn gather(&self, what: What, bytes: impl FnOnce() -> Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
        let Some(ranks) = &self.ranks else { return Ok(None) };
        ranks.world.gather(Tag { step: self.step, what }, bytes()).wait().map(Some)
    }
    /// Compares facts with those of the other ranks. All ranks find the same difference.
    pub(super) fn agree(&self, facts: Facts) -> Result<()> {
        let write = || serde_json::to_vec(&facts).expect("texts can be written");
        let Some(all) = self.gather(What::Hello, write)? else { return Ok(()) };
        let read = |(rank, bytes): (usize, &Vec<u8>)| {
            serde_json::from_slice(bytes).map_err(|e| Error::Rank { rank, why: format!("its facts cannot be read: {e}") })
        };
        let all: Vec<Facts> = all.iter().enumerate().map(read).collect::<Result<_>>()?;
        difference(&all).map_or(Ok(()), Err)
    }
    /// Compares the facts of the trainer with those of the other ranks.
    pub(super) fn agreed(self) -> Result<Trainer> {
        let agreed = self.facts().and_then(|facts| self.agree(facts));
        self.told(agreed)?;
        Ok(self)
    }
    /// Returns the facts of a trainer.
    fn facts(&self) -> Result<Facts> {
        if self.ranks.is_none() {
            return Ok(Facts::new());
        }
        let mut facts = Facts::new();
        for (param, status) in self.params.iter().zip(&self.update.groups.statuses) {
            let kind = if *status == Status::State { "state" } else { "parameter" };
            facts.push(fact(kind, format!("{} {} ({status:?})", param.name, param.shape)));
        }
        facts.push(fact("the optimizer", self.update.optimizer.name()));
        facts.push(fact("the learning rate", format!("{:?}", self.update.optimizer.base_lr())));
        facts.extend(self.options().into_iter().map(|(name, value)| fact(format!("the option {name} of the optimizer"), value)));
        facts.push(fact("sync_batch_norm", self.sync_batch_norm));
        facts.extend([fact("the seed", self.seed), fact("a number of steps of", self.step), fact("a number of epochs of", self.epoch)]);
        // Different kinds of devices round differently, so only the start is the same on all of them.
        let device = if self.step > 0 { self.device.to_string() } else { String::new() };
        let devices = self.gather(What::Hello, || device.into_bytes())?.unwrap_or_default();
        if devices.iter().all(|device| *device == devices[0]) {
            facts.push(fact("weights with the hash", format!("{:016x}", self.hash()?)));
        }
        Ok(facts)
    }
    /// Compares all that `fit` must have in common, before it begins.
    pub(super) fn agree_on(&mut self, data: &Dataset, fit: &Fit) -> Result<()> {
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        (ranks.check_weights, ranks.bucket) = (fit.check_weights, fit.bucket);
        let mut facts = self.facts()?;
        let callbacks: Vec<String> = fit.hooks.iter().map(|callback| callback.name()).collect();
        facts.push(fact("sharded_data", fit.sharded_data));
        if !fit.sharded_data {
            facts.push(fact("data with a number of samples of", data.len()));
        }
        facts.extend([
            fact("the batch size", fit.batch),
            fact("accumulate", fit.accumulate),
            fact("micro_batch", format!("{:?}", fit.micro)),
            fact("a limit of memory:", fit.memory.is_some()),
            fact("drop_last", fit.drop_last),
            fact("shuffle", fit.shuffle),
            fact("a number of epochs to train of", fit.epochs),
            fact("augment", format!("{:?}", fit.augment)),
            fact("readouts", format!("{:?}", fit.readouts)),
            fact("validation data with a number of samples of", fit.validation.map_or(0, Dataset::len)),
            fact("check_weights", format!("{:?}", fit.check_weights)),
            fact("bucket_bytes", fit.bucket),
            fact("append", fit.append),
            fact("resume:", fit.resume.is_some()),
            fact("averaged", fit.averaged),
            fact("the shards", format!("{:?}", self.shards())),
            fact("checkpoints of shards:", self.shards() == Shard::State && fit.checkpoints.is_some()),
            fact("the callbacks", format!("[{}] and {} closures", callbacks.join(", "), fit.closures.len())),
        ]);
        self.agree(facts)
    }
    /// Notes the sizes of all shards if the data is sharded. `samples` is the size of this rank's shard. Steps have no more samples than the
    /// largest shard.
    pub(super) fn note_shards(&mut self, cut: Cut, samples: usize) -> Result<Cut> {
        if !cut.sharded {
            return Ok(cut);
        }
        let shards = self.of_ranks(samples)?;
        let each = shards.iter().fold(samples, |most, &n| most.max(n)).min(cut.each);
        self.ranks.iter_mut().for_each(|ranks| ranks.shards = shards.clone());
        Ok(Cut { each, micro: cut.micro.map(|micro| micro.min(each)), ..cut })
    }
    /// Gives all ranks the same number of steps if the data is sharded: that of the largest shard, or with `drop_last` of the smallest.
    pub(super) fn join_shards(&self, cut: Cut, drop_last: bool) -> Result<Cut> {
        if !cut.sharded {
            return Ok(cut);
        }
        let steps = self.of_ranks(cut.steps)?.into_iter();
        let steps = if drop_last { steps.min() } else { steps.max() };
        Ok(cut.with_steps(steps.unwrap_or(cut.steps)))
    }
    /// Returns the number of samples in a step of all ranks.
    pub(super) fn samples_of_step(&self, cut: Cut) -> usize {
        match &self.ranks {
            Some(ranks) if cut.sharded => ranks.shards.iter().map(|&n| n.min(cut.each)).sum(),
            _ => cut.each,
        }
    }
    /// Returns the text of an epoch, which is the same on all ranks.
    pub(super) fn epoch_text(&self, cut: Cut, shuffle: bool) -> String {
        cut.text(shuffle, self.ranks.as_ref().map_or(&[], |ranks| &ranks.shards))
    }
    /// Compares the place at which `fit` begins, after a checkpoint was loaded.
    pub(super) fn agree_on_place(&mut self, cut: Cut, shuffle: bool) -> Result<()> {
        if self.ranks.is_none() {
            return Ok(());
        }
        let (mut facts, cut) = (self.facts()?, self.epoch_text(cut, shuffle));
        facts.extend([fact("an epoch of", cut), fact("a place after epoch", self.place.epoch), fact("a step of", self.steps_of_epoch())]);
        self.agree(facts)
    }
    /// Returns the smallest of the numbers of all ranks.
    pub(super) fn least(&self, n: Option<usize>) -> Result<Option<usize>> {
        let all = self.of_ranks(n.unwrap_or(usize::MAX))?;
        Ok(all.into_iter().min().filter(|&least| least < usize::MAX))
    }
    /// Returns the numbers of all ranks, in order.
    fn of_ranks(&self, n: usize) -> Result<Vec<usize>> {
        let all = self.gather(What::Hello, || (n as u64).to_le_bytes().to_vec())?;
        let number = |bytes: &Vec<u8>| bytes.as_slice().try_into().map_or(usize::MAX, |bytes| u64::from_le_bytes(bytes) as usize);
        Ok(all.map_or(vec![n], |all| all.iter().map(number).collect()))
    }
    /// Returns what rank 0 says.
    pub(super) fn rank_0_says(&self, yes: bool) -> Result<bool> {
        let all = self.gather(What::Flow, || vec![u8::from(yes)])?;
        Ok(all.map_or(yes, |all| all[0] != [0]))
    }
    /// Returns how all ranks go on: a rank that stops stops all.
    pub(super) fn together(&self, flow: Flow) -> Result<Flow> {
        let all = self.gather(What::Flow, || vec![flow as u8])?;
        let other = |byte: u8| [Flow::Go, Flow::Moved, Flow::Stop].into_iter().find(|flow| *flow as u8 == byte);
        Ok(all.into_iter().flatten().flatten().filter_map(other).fold(flow, Flow::max))
    }
    /// Replaces the numbers of an evaluation by those of rank 0, so that all ranks decide alike.
    pub(super) fn as_rank_0(&self, mut e: Evaluation) -> Result<Evaluation> {
        let numbers = || {
            let all = [e.loss, e.accuracy.unwrap_or(f64::NAN)];
            all.into_iter().chain(e.watched.iter().map(|(_, x)| *x)).flat_map(f64::to_le_bytes).collect()
        };
        let Some(all) = self.gather(What::Flow, numbers)? else { return Ok(e) };
        let numbers: Vec<f64> = all[0].as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect();
        if let Some((&[loss, accuracy], watched)) = numbers.split_first_chunk()
            && watched.len() == e.watched.len()
            && watched.len() == self.kept.names().len()
        {
            (e.loss, e.accuracy) = (loss, e.accuracy.map(|_| accuracy));
            e.watched = Named::new(self.kept.names(), watched.to_vec());
        }
        Ok(e)
    }
    /// Returns a hash of the parameters and, without shards, of the states of the optimizer. It does not depend on how a device cuts them
    /// into pieces.
    fn hash(&self) -> Result<u64> {
        let mut all = pollster::block_on(self.store.read_params())?;
        let states = if self.update.owners.is_none() { self.update.optimizer.states().len() } else { 0 };
        for k in 0..states {
            all.extend(pollster::block_on(self.store.read_state(k))?);
        }
        Ok(fnv1a(all.iter().flatten().flat_map(|x| x.to_bits().to_le_bytes())))
    }
    /// Compares the weights of all ranks, if this step wants it.
    pub(super) fn check_weights(&self) -> Result<()> {
        let every = self.ranks.as_ref().and_then(|ranks| ranks.check_weights);
        if !every.is_some_and(|every| self.step.is_multiple_of(every)) {
            return Ok(());
        }
        let hash = self.hash()?;
        let all = self.gather(What::Hash, || hash.to_le_bytes().to_vec())?.unwrap_or_default();
        let Some(rank) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
        let why = format!("its weights after {} steps differ from those of rank 0, although all ranks made the same updates", self.step);
        Err(Error::Rank { rank, why })
    }
}
