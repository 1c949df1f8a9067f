//! Another optimizer in the middle of a training.

use super::{Trainer, plans::PlanKey};
use crate::{
    engine::{Store, Updater},
    error::{Error, Result},
    optim::Optimizer,
    params::Status,
};

impl Trainer {
    /// Continues with another optimizer. Parameters and state stay as they are. The new optimizer starts as in a new trainer: its states
    /// and averages are new, and its schedule and its formulas count steps from 1 again. [`steps`](Trainer::steps) counts on.
    ///
    /// For example, a training may begin with Adam and end with SGD, or train first the head of a model and then all of it. A rate that
    /// [`set_lr`](Trainer::set_lr) has set belongs to the old optimizer. Nothing goes through the host on one GPU. Old and new buffers
    /// exist together for a moment. Plans are made again. A function that [`compile`](Trainer::compile) has made before keeps the weights
    /// of this moment.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::{Adam, Sgd}};
    /// let g = Graph::training();
    /// let loss = g.input([4, 3]).linear("fc", 2).square().mean_all();
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(0.01))?;
    /// let x = Host::new([4, 3], vec![0.5; 12]);
    /// trainer.step(&[x.clone()])?;
    /// trainer.set_optimizer(Sgd::new(0.1).momentum(0.9))?;
    /// trainer.step(&[x])?;
    /// assert_eq!((trainer.steps(), trainer.lr()), (2, 0.1));
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The trainer is unchanged after an error.
    /// - An option of the optimizer is out of range, or a name of a group or of a frozen parameter fits no parameter.
    /// - [`Trainer::new`] made the trainer from one graph, and the optimizer freezes other parameters than before. The plan of the graph
    ///   has only the gradients that were wanted.
    /// - [Micro-batches](Trainer::accumulate) wait for their step, or an earlier step was [not finite](Error::Diverged).
    /// - The device has not enough memory.
    pub fn set_optimizer(&mut self, optimizer: impl Into<Optimizer>) -> Result<()> {
        pollster::block_on(self.set_optimizer_async(optimizer))
    }
    /// [`set_optimizer`](Trainer::set_optimizer), without blocking.
    pub async fn set_optimizer_async(&mut self, optimizer: impl Into<Optimizer>) -> Result<()> {
        self.no_part("set_optimizer")?;
        let mut update = Updater::new(optimizer.into(), &self.params)?;
        self.share_update(&mut update);
        update.prepare(&self.device, &self.params).await?;
        match &self.model {
            Some(model) => model.try_with(&update.optimizer)?,
            None => {
                let pairs = self.params.iter().zip(self.update.groups.statuses.iter().zip(&update.groups.statuses));
                let changed = |(was, is): (&Status, &Status)| (*was == Status::Frozen) != (*is == Status::Frozen);
                let names: Vec<&str> = pairs.filter(|(_, both)| changed(*both)).map(|(p, _)| p.name.as_str()).collect();
                if !names.is_empty() {
                    let why = format!(
                        "{} would be frozen or trained unlike before, but this trainer was made of one graph; make it with Trainer::for_data, \
                         or make a new trainer and copy the parameters (Params::copy_from)",
                        names.join(", ")
                    );
                    return Err(Error::argument("set_optimizer", why));
                }
            }
        }
        self.collect().await?;
        (update.since, update.readouts) = (self.step, self.update.readouts);
        let store = Store::new(&self.device, &self.params, Some(&update), self.seed).await?;
        let all: Vec<(usize, usize)> = (0..self.params.len()).map(|i| (i, i)).collect();
        store.copy_from(&self.store, &all, 1.0).await?;
        self.replace(update, store).await
    }
    /// Goes on with another update and with buffers for it. Plans are made again.
    pub(super) async fn replace(&mut self, update: Updater, store: Store) -> Result<()> {
        let ring = self.ring.again(&store, update.readouts).await?;
        self.release();
        self.gone += self.ring.counters();
        (self.update, self.store, self.ring) = (update, store, ring);
        if self.model.is_none() {
            let memory = self.memory_of(&self.step_plan(PlanKey::Whole(0))?)?;
            self.summarise_memory(&memory);
        }
        Ok(())
    }
}
