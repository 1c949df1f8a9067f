//! Ranks that share the update: each rank has the optimizer's states of its own parameters, and gets the other weights from their owners.

use super::{
    Trainer,
    plans::PlanKey,
    ranks::{Ranks, fact},
};
use crate::{
    engine::{self, RingRows, Store, Updater},
    error::{Error, Result},
    optim::{Guard, MAX_STATES, State},
    params::{Layout, Owners, StateLayout, Status},
    plan::{Flat, Half, no_gather},
    world::{Tag, What},
};
use std::{ops::Range, time::Instant};

/// The part of a training that the [ranks](Trainer::distributed) share, so that no rank holds all of it. See [`Trainer::shard`].
///
/// Rajbhandari, Rasley, Ruwase and He 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, arXiv:1910.02054.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shard {
    /// Each rank holds everything.
    #[default]
    None,
    /// Each rank holds the optimizer's states of about 1/N of the parameters, on N ranks, and updates these parameters. It is P_os in §5.1 of
    /// the paper, known as stage 1.
    State,
}

/// The result of a rank's trial of its part of an update: [`Guard::halt`], [`Guard::cause`] and [`Guard::over`].
type Tried = [u32; 2 + MAX_STATES + 2];

fn words<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    let words: Vec<u32> = bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect();
    words.try_into().ok()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x))
}

/// Returns the guard after the trials of all ranks. A step is bad on all ranks at once.
fn combined(own: Guard, all: &[Tried]) -> Guard {
    let refused = |tried: &&Tried| tried[0] != 0 && tried[1] == 3;
    let Some(&[halt, cause, ..]) = all.iter().find(refused) else { return own };
    let mut over = own.over;
    for tried in all.iter().filter(refused) {
        over.iter_mut().zip(&tried[2..]).for_each(|(all, one)| *all |= one);
    }
    Guard { halt, cause, over, ..own }
}

impl Trainer {
    /// Shares the optimizer's states among the [ranks](Trainer::distributed). Call it after [`distributed`](Trainer::distributed), on all
    /// ranks. In a world of one rank it changes nothing.
    ///
    /// With [`Shard::State`] each rank holds the states of about 1/N of the elements and updates these parameters alone. Then it gets the other
    /// weights from their owners. A parameter belongs to one rank as a whole, so a parameter that is larger than 1/N of the model makes
    /// the shares unequal. Weights, losses, reports and checkpoints have the bits of a training without shards. So a checkpoint may be resumed
    /// with shards or without, on any number of ranks. [`memory`](Trainer::memory) has the bytes of this rank.
    ///
    /// A rank sends 1.5 times the bytes of a training without shards: its part of the mean gradient, as without shards, and its weights.
    /// All ranks get the whole mean gradient, because its norm, to which gradients are clipped, then has the same bits on all of them.
    ///
    /// - [`save`](Trainer::save) gathers the states: all ranks must call it, and rank 0 alone writes the file.
    ///   [`Run::save`](super::Run::save) and [`Run::snapshot`](super::Run::snapshot) gather them too. A checkpoint of
    ///   [`fit`](crate::Fit::checkpoints) is gathered in the memory of the host of rank 0.
    /// - [`averaged`](Trainer::averaged) gathers the averages of the weights on each rank, so all ranks must call it. The first call makes
    ///   buffers for them.
    /// - The trainer holds all states until this call. A model whose states do not fit into the memory of one device cannot be made.
    ///
    /// ```
    /// use downhill::{Device, Fit, Shard, Trainer, World, data, optim::Adam};
    /// let iris = data::iris();
    /// let train = |world: World, shard| -> downhill::Result<_> {
    ///     let model = Trainer::for_data(
    ///         &Device::cpu(),
    ///         &iris,
    ///         |x| x.linear("fc1", 16).relu().linear("fc2", 3),
    ///         |x, y| x.cross_entropy(y),
    ///         Adam::new(0.01),
    ///     );
    ///     let mut trainer = model?.distributed(&world)?.shard(shard)?;
    ///     trainer.fit(&iris, Fit::new().batch_size(16))?;
    ///     Ok((trainer.params().all()?, trainer.memory(16)?.optimizer))
    /// };
    /// let ranks = |shard| -> downhill::Result<Vec<_>> {
    ///     std::thread::scope(|scope| {
    ///         let ranks: Vec<_> = World::threads(2).into_iter().map(|world| scope.spawn(move || train(world, shard))).collect();
    ///         ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    ///     })
    /// };
    /// let (whole, shared) = (ranks(Shard::None)?, ranks(Shard::State)?);
    /// assert_eq!(shared[0].0, whole[0].0);
    /// assert_eq!(shared[0].1[0].1 + shared[1].1[0].1, whole[0].1[0].1);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Rank`] if a rank asks for something else, or is gone.
    /// - [Micro-batches](Trainer::accumulate) wait for their step, an earlier step was not [finite](Error::Diverged), or the device has not
    ///   enough memory.
    ///
    /// With [`Shard::State`], two methods that concern one rank alone are errors, because the rank has only a part of the states:
    /// [`apply_gradients`](Trainer::apply_gradients) and [`find_lr`](Trainer::find_lr).
    pub fn shard(mut self, shard: Shard) -> Result<Trainer> {
        let cut = pollster::block_on(self.cut(shard));
        self.told(cut)?;
        Ok(self)
    }
    async fn cut(&mut self, shard: Shard) -> Result<()> {
        if self.ranks.is_none() {
            return Ok(());
        }
        self.no_part("shard")?;
        self.collect().await?;
        self.agree(vec![fact("the shards", format!("{shard:?}"))])?;
        let mut update = self.update.clone();
        update.owners = self.owners(shard, &update.groups.statuses);
        update.prepare(&self.device, &self.params).await?;
        let trained = self.store.is_trained();
        let whole = self.whole_layout()?;
        let flat = self.whole(&whole, None).await?;
        let store = Store::new(&self.device, &self.params, Some(&update), self.seed).await?;
        let (layout, (params, states)) = (store.layout(), flat.split_first().expect("the parameters come first"));
        store.write_params(params.clone())?;
        for ((k, flat), from) in states.iter().enumerate().zip(&whole.states) {
            let to = &layout.states[k];
            let mut own = start(&update.optimizer.states()[k], to);
            for (to, from) in to.ranges.iter().zip(&from.ranges) {
                if let (Some((to, _)), Some((from, _))) = (to, from) {
                    own[to.piece][to.of()].copy_from_slice(&flat[from.piece][from.of()]);
                }
            }
            store.write_state(k, own)?;
        }
        store.set_trained(trained);
        self.replace(update, store).await
    }
    /// Returns what the ranks share.
    pub(super) fn shards(&self) -> Shard {
        if self.update.owners.is_some() { Shard::State } else { Shard::None }
    }
    /// Returns the owners of parameters with these statuses.
    fn owners(&self, shard: Shard, statuses: &[Status]) -> Option<Owners> {
        (shard == Shard::State).then(|| Owners::new(&self.params, statuses, self.rank(), self.ranks()))
    }
    /// Divides the update of another optimizer as the current one is divided.
    pub(super) fn share_update(&self, update: &mut Updater) {
        update.owners = self.owners(self.shards(), &update.groups.statuses);
    }
    /// Returns an error if this rank has only a part of the optimizer's states.
    pub(super) fn no_shard(&self, what: &str, advice: &str) -> Result<()> {
        match self.update.owners {
            None => Ok(()),
            Some(_) => {
                let why = format!("this rank has only a part of the optimizer's states (Shard::State), but it would need all; {advice}");
                Err(Error::argument(what, why))
            }
        }
    }
    /// Returns the layout of the parameters and of all states on this device, without shards.
    pub(super) fn whole_layout(&self) -> Result<Layout> {
        match self.update.owners {
            None => Ok(self.store.layout()),
            Some(_) => engine::layout(&self.device, &self.params, Some(&Updater { owners: None, ..self.update.clone() })),
        }
    }
    /// Returns the parameters and all states by piece of [`whole_layout`](Trainer::whole_layout). With shards, the states come from their
    /// owners, so all ranks must call it. With `root`, this rank alone gets the states, and the others get the parameters.
    pub(super) async fn whole(&self, layout: &Layout, root: Option<usize>) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut all = vec![self.store.read_params().await?];
        all.extend(self.whole_states(layout, 0..layout.states.len(), root).await?);
        Ok(all)
    }
    /// Returns these states by piece of [`whole_layout`](Trainer::whole_layout). See [`whole`](Trainer::whole).
    pub(super) async fn whole_states(&self, layout: &Layout, which: Range<usize>, root: Option<usize>) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut own = Vec::new();
        for k in which.clone() {
            own.push(self.store.read_state(k).await?);
        }
        let (Some(owners), Some(ranks)) = (&self.update.owners, &self.ranks) else { return Ok(own) };
        let mine = &self.store.layout().states[which.clone()];
        let places = mine.iter().zip(&own).flat_map(|(state, flat)| state.ranges.iter().flatten().map(move |place| (place.0, flat)));
        let values: Vec<f32> = places.flat_map(|(range, flat)| &flat[range.piece][range.of()]).copied().collect();
        let tag = Tag { step: self.step, what: What::Optimizer };
        let came = ranks.world.gather_on(tag, bytes(&values), root).wait()?;
        if root.is_some_and(|root| root != self.rank()) {
            return Ok(Vec::new());
        }
        let (states, layouts) = (&self.update.optimizer.states()[which.clone()], &layout.states[which]);
        let mut all: Vec<_> = states.iter().zip(layouts).map(|(state, places)| start(state, places)).collect();
        for (rank, message) in came.iter().enumerate() {
            let mut values = floats(message);
            for (flat, state) in all.iter_mut().zip(layouts) {
                for (range, _) in owners.of(rank).filter_map(|i| state.ranges[i]) {
                    for to in &mut flat[range.piece][range.of()] {
                        *to = values.next().ok_or_else(|| short(rank))?;
                    }
                }
            }
        }
        Ok(all)
    }

    /// Makes the update of this rank's parameters with the mean gradient. All ranks decide together whether the step counts.
    pub(super) async fn run_halves(&mut self) -> Result<()> {
        let end = self.number([(false, 0)]);
        self.run_half(Half::Check)?;
        let own = self.store.read_guard().await?;
        let tried: Vec<u32> = [own.halt, own.cause].into_iter().chain(own.over).collect();
        let all = self.gather(What::Trial, || tried.iter().flat_map(|word| word.to_le_bytes()).collect())?.unwrap_or_default();
        let all: Vec<Tried> = all.iter().enumerate().map(|(rank, b)| words(b).ok_or_else(|| short(rank))).collect::<Result<_>>()?;
        let guard = combined(own, &all);
        if (guard.halt, guard.over) != (own.halt, own.over) {
            self.store.write_guard(guard)?;
        }
        self.run_half(Half::Update)?;
        self.ran(PlanKey::Mean, false, end);
        Ok(())
    }
    fn run_half(&mut self, half: Half) -> Result<()> {
        self.rows.iter_mut().for_each(|row| row.half = Some(half));
        let loaded = self.plans.get_mut(PlanKey::Mean).expect("the plan was loaded before its batch");
        loaded.engine.run(&self.rows, false, Some(&self.update), &mut no_gather)
    }
    /// Gets the weights that the other ranks have updated, and the norms of their parameters if the step measured norms.
    pub(super) async fn exchange_weights(&mut self, end: &mut RingRows) -> Result<()> {
        let Some(owners) = self.update.owners.as_ref().filter(|_| end.guard.halt == 0) else { return Ok(()) };
        let lists: Vec<Vec<usize>> = (0..self.ranks()).map(|rank| owners.of(rank).collect()).collect();
        let layout = self.store.layout();
        let own = &lists[self.rank()];
        let mut values = self.store.read_of(Flat::Weights, own).await?;
        values.extend(end.norms.iter().flat_map(|norms| own.iter().flat_map(|&i| norms[i])));
        let (since, sent) = (Instant::now(), 4 * values.len() * (self.ranks() - 1));
        let all = self.gather(What::Weights, || bytes(&values))?.unwrap_or_default();
        let waited = since.elapsed().as_secs_f64();
        if let Some(Ranks { exchange, .. }) = &mut self.ranks {
            exchange.bytes += sent as u64;
            (exchange.seconds, exchange.waited) = (exchange.seconds + waited, exchange.waited + waited);
        }
        for (rank, message) in all.iter().enumerate().filter(|(rank, _)| *rank != self.rank()) {
            let values: Vec<f32> = floats(message).collect();
            let elements = lists[rank].iter().map(|&i| layout.ranges[i].len).sum();
            let (weights, rest) = values.split_at_checked(elements).ok_or_else(|| short(rank))?;
            self.store.write_of(Flat::Weights, &lists[rank], weights)?;
            let mut rows = rest.as_chunks().0.iter();
            for norms in &mut end.norms {
                for &i in &lists[rank] {
                    norms[i] = *rows.next().ok_or_else(|| short(rank))?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the values of a state before the first step.
fn start(state: &State, places: &StateLayout) -> Vec<Vec<f32>> {
    places.pieces.iter().map(|&n| vec![state.start; n]).collect()
}

fn short(rank: usize) -> Error {
    Error::Rank { rank, why: "it sent a part of the update that does not fit the model of this rank".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bad_on_all_ranks() {
        let good = Guard { norm: 2.0, ..Guard::default() };
        let tried = |halt: u32, cause: u32, over: [u32; MAX_STATES + 2]| -> Tried {
            let mut all = [halt, cause, 0, 0, 0, 0, 0];
            all[2..].copy_from_slice(&over);
            all
        };
        let none = tried(0, 0, [0; MAX_STATES + 2]);
        assert_eq!(combined(good, &[none, none]), good);
        // A loss that is not finite is the same on all ranks.
        let loss = Guard { halt: 8, cause: 1, ..good };
        assert_eq!(combined(loss, &[tried(8, 1, [0; 5]), tried(8, 1, [0; 5])]), loss);
        let all = [none, tried(8, 3, [1, 0, 0, 0, 0]), tried(8, 3, [0, 0, 1, 0, 0])];
        for own in [good, Guard { halt: 8, cause: 3, over: [0, 0, 1, 0, 0], ..good }] {
            assert_eq!(combined(own, &all), Guard { halt: 8, cause: 3, over: [1, 0, 1, 0, 0], ..good });
        }
    }
}
