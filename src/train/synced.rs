//! PlanKey norm with the statistics of all ranks: the exchanges within the computation of a micro-batch.
//!
//! Micro-batch k of a rank meets micro-batch k of the others. A rank without a micro-batch takes part with nothing, until no rank has
//! another exchange in the step.

use super::{Trainer, plans::PlanKey, ranks::Ranks};
use crate::{
    error::{Error, Result},
    world::{Tag, What},
};

/// The exchanges of the micro-batches of a step so far.
#[derive(Default)]
pub(super) struct Exchanges {
    /// The number of exchanges.
    made: u32,
    /// Whether a rank has another exchange in this step.
    more: bool,
}

impl Ranks {
    /// Exchanges the values of this rank with those of the others in step `step`. Returns the values of all ranks, in order. A rank that
    /// sends nothing has zeros. `more` says whether another exchange of this rank follows in the step.
    fn exchange_values(&mut self, step: u64, values: &[f32], more: bool) -> Result<Vec<f32>> {
        let tag = Tag { step, what: What::Values(self.exchanges.made) };
        let message = [u32::from(more).to_le_bytes()].into_iter().chain(values.iter().map(|x| x.to_le_bytes()));
        let messages = self.world.gather(tag, message.flatten().collect()).wait()?;
        self.exchanges = Exchanges { made: self.exchanges.made + 1, more: false };
        let mut all = Vec::with_capacity(messages.len() * values.len());
        for (rank, message) in messages.iter().enumerate() {
            let words: &[[u8; 4]] = message.as_chunks().0;
            let (more, theirs) = words.split_first().map_or((0, words), |(more, theirs)| (u32::from_le_bytes(*more), theirs));
            self.exchanges.more |= more != 0;
            match theirs.len() {
                0 => all.resize(all.len() + values.len(), 0.0),
                n if n == values.len() || values.is_empty() => all.extend(theirs.iter().map(|&x| f32::from_le_bytes(x))),
                n => {
                    let why =
                        format!("it sent {n} numbers at {tag}, but this rank sends {}; all ranks must have the same layers", values.len());
                    return Err(Error::Rank { rank, why });
                }
            }
        }
        Ok(all)
    }
}

/// Returns the [`Gather`](crate::plan::Gather) of a run that has `left` exchanges. `last` says whether the run is the last one of this rank
/// in step `step`.
pub(super) fn gather_values(ranks: &mut Option<Ranks>, step: u64, mut left: usize, last: bool) -> impl FnMut(Vec<f32>) -> Result<Vec<f32>> {
    move |values| {
        left = left.saturating_sub(1);
        let ranks = ranks.as_mut().expect("only plans over ranks exchange values");
        ranks.exchange_values(step, &values, left > 0 || !last)
    }
}

impl Trainer {
    /// Sets whether batch norm takes the statistics of the samples of all [ranks](Trainer::distributed) in training. The default is false:
    /// each rank takes the statistics of its own samples. PyTorch's `SyncBatchNorm`, Keras's `synchronized=True`.
    ///
    /// N ranks with batches of B then compute the same as one rank with batches of N·B, up to rounding, for any sizes of batches and with
    /// sample weights. Equal devices have equal bits, but not the bits of accumulation. Running averages follow the statistics of all
    /// samples. The option concerns every batch norm that is not [frozen](crate::layers::BatchNorm::frozen). With
    /// [`accumulate`](Trainer::accumulate), micro-batch k of a rank shares its statistics with micro-batch k of the others. One sample of a
    /// rank is enough.
    ///
    /// Each batch norm costs one exchange in the forward pass and one in the gradient, and a micro-batch has one more for the weights of
    /// the losses. The rank waits for them. Gradients are sent after the last of these exchanges, not during the backward pass.
    ///
    /// If the trainer has ranks already, all of them must call this method. With one rank nothing changes. Evaluation and
    /// [`find_lr`](Trainer::find_lr) exchange nothing.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, World, data, optim::Sgd};
    /// let iris = data::iris();
    /// let train = |world: World| -> downhill::Result<_> {
    ///     let new = Trainer::for_data(
    ///         &Device::cpu(),
    ///         &iris,
    ///         |x| x.linear("fc1", 8).batch_norm("bn").relu().linear("fc2", 3),
    ///         |x, y| x.cross_entropy(y),
    ///         Sgd::new(0.1),
    ///     );
    ///     let mut trainer = new?.sync_batch_norm(true)?.distributed(&world)?;
    ///     trainer.fit(&iris, Fit::new().batch_size(50 / world.size()).epochs(2))?;
    ///     trainer.params().get("bn.running_mean")
    /// };
    /// let alone = train(World::alone())?;
    /// let means: Vec<_> = std::thread::scope(|scope| {
    ///     let ranks: Vec<_> = World::threads(2).into_iter().map(|world| scope.spawn(|| train(world))).collect();
    ///     ranks.into_iter().map(|rank| rank.join().unwrap()).collect::<downhill::Result<_>>()
    /// })?;
    /// assert_eq!(means[0], means[1]);
    /// assert!(means[0].f().iter().zip(alone.f()).all(|(mean, alone)| (mean - alone).abs() < 1e-4));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Trainer::new`] made the trainer from one graph, whose batch norms are there already.
    /// - Micro-batches wait for their step.
    /// - [`Error::Rank`] if a rank has another setting.
    ///
    /// A model that uses gradients through batch norm in its own loss, such as a gradient penalty, is an error when a step is planned.
    pub fn sync_batch_norm(mut self, sync: bool) -> Result<Trainer> {
        self.model("sync_batch_norm")?;
        self.no_part("sync_batch_norm")?;
        pollster::block_on(self.collect())?;
        self.sync_batch_norm = sync;
        self.drop_plans();
        self.agreed()
    }
    /// Returns the number of this rank and of all ranks, if the plan has the statistics of all ranks. Ranks compute micro-batches.
    pub(super) fn synced(&self, key: PlanKey) -> Option<(usize, usize)> {
        let is = self.sync_batch_norm && self.ranks.is_some() && matches!(key, PlanKey::Micro(_));
        is.then(|| (self.rank(), self.ranks()))
    }
    /// Takes part in the exchanges that other ranks still have in this step. Ends the exchanges of the step.
    pub(super) fn follow(&mut self) -> Result<()> {
        let Some(ranks) = self.ranks.as_mut().filter(|_| self.sync_batch_norm) else { return Ok(()) };
        while ranks.exchanges.made == 0 || ranks.exchanges.more {
            ranks.exchange_values(self.step, &[], false)?;
        }
        ranks.exchanges = Exchanges::default();
        Ok(())
    }
}
