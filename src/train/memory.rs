//! How much memory training takes, and the largest batch that fits.

use super::{SOME, Trainer, check_loss, evaluate::MOST, feed::Held, training_plan};
use crate::{
    device::Device,
    engine::{self, Update},
    error::{Error, Result},
    graph::Tensor,
    optim::Optimizer,
    plan::{Memory, Plan},
};

impl Memory {
    /// What [`Trainer::new`] would take with the same arguments. Nothing is made on the device.
    ///
    /// ```
    /// use downhill::{Device, Graph, plan::Memory, optim::Adam};
    /// let g = Graph::training();
    /// let loss = g.input([1024, 784]).linear("fc1", 512).relu().linear("fc2", 10).cross_entropy(g.labels([1024]));
    /// let memory = Memory::of(&Device::cpu(), loss, Adam::new(1e-3))?;
    /// assert_eq!(memory.weights, 4 * (784 * 512 + 512 + 512 * 10 + 64)); // Ranges are multiples of 64 numbers.
    /// assert_eq!(memory.layers.iter().map(|l| l.total()).sum::<u64>(), memory.total());
    /// println!("{memory}");
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn of(device: &Device, loss: Tensor, optimizer: impl Into<Optimizer>) -> Result<Memory> {
        check_loss(loss)?;
        let params = loss.graph().inner.borrow().params.clone();
        let update = Update::new(optimizer.into(), &params)?;
        engine::memory(device, &training_plan(device, &[loss], loss)?, &params, &update, 1, None, 0)
    }
}

/// The part of a device's memory that [`Trainer::max_batch`] leaves to the driver and to whoever else uses the device: one in so many.
const LEFT: u64 = 10;

impl Trainer {
    /// The bytes that training on batches of `batch` samples takes, by kind and by layer, with all that this trainer keeps by now: plans of
    /// other batch sizes and of evaluation (the latest four of each), and data sets. A trainer made of one graph has that
    /// graph's batch size whatever is asked for. It plans, and loads and measures nothing: a kernel that is
    /// not chosen yet is taken to be the one expected fastest.
    ///
    /// # Errors
    /// A batch of no samples, or one that the model does not take; [`Error::Limit`] where a step on such a batch would give it.
    pub fn memory(&self, batch: usize) -> Result<Memory> {
        if batch == 0 {
            return Err(Error::argument("memory", "a batch has at least one sample"));
        }
        match (&self.model, &self.graph_memory) {
            (Some(_), _) => Ok(self.memory_of(&self.step_plan(batch)?)?.with_plans(self.others(batch))),
            (None, Some(memory)) => Ok(memory.clone().with_plans(self.others(0))),
            (None, None) => unreachable!("a trainer without a model is made of one graph"),
        }
    }
    fn step_plan(&self, batch: usize) -> Result<Plan> {
        Ok(self.model("memory")?.draft(&self.device, batch)?.0.lower(&self.device.plan_options()))
    }
    /// The bytes of what is kept besides the plan of that number.
    fn others(&self, key: usize) -> u64 {
        let training = self.plans.iter().filter(|(k, _)| *k != key).map(|(_, loaded)| loaded.engine.bytes());
        let inference = self.inference.iter().map(|(_, (f, _))| f.bytes());
        let outputs = self.collected.iter().map(|collected| collected.words() as u64 * 4);
        training.chain(inference).chain(outputs).sum()
    }
    /// What training with epochs of such batches, and evaluating in between, may take.
    fn fit_bytes(&self, batch: usize) -> Result<u64> {
        let plan = self.step_plan(batch)?;
        let again = engine::plan_bytes(&self.device, &plan, &self.store.layout(), Some(&self.update), None)?;
        let evaluation = match self.inference_bytes(self.evaluation.unwrap_or(batch.min(MOST))) {
            // Then it takes fewer samples.
            Err(Error::Limit { .. }) => 0,
            bytes => bytes?,
        };
        Ok(self.memory_of(&plan)?.total() + self.others(batch) + again + 3 * evaluation)
    }
    pub(super) fn memory_of(&self, plan: &Plan) -> Result<Memory> {
        let (fed, data) = (self.held.iter().find_map(Held::fed), self.held.iter().map(Held::bytes).sum());
        engine::memory(&self.device, plan, &self.params, &self.update, plan.outputs.len(), fed, data)
    }
    /// The largest batch size for which [`fit`](Trainer::fit) fits into `bytes` of memory and all limits of the device. `None` takes nine
    /// tenths of the memory that the device says it has. It is computed, from plans of some sizes, and nothing is loaded.
    ///
    /// It counts [`memory`](Trainer::memory), which has the data sets that lie on the device by now; a second plan, for the last batch
    /// of an epoch; and an evaluation in batches of the same size (or of that which was [set](Trainer::set_evaluation_batch)), whose last
    /// batch has a plan too, and whose outputs take as much again at most. An evaluation may take larger batches while they take a few
    /// MiB at most.
    ///
    /// ```
    /// use downhill::{Device, Trainer, data, optim::Adam};
    /// let trainer = Trainer::for_data(
    ///     &Device::cpu(),
    ///     &data::digits(),
    ///     |x| x.linear("fc1", 128).relu().linear("fc2", 10),
    ///     |logits, labels| logits.cross_entropy(labels),
    ///     Adam::new(1e-3),
    /// )?;
    /// let most = trainer.max_batch(Some(16 << 20))?;
    /// assert!(trainer.memory(most)?.total() <= 16 << 20 && trainer.memory(3 * most)?.total() > 16 << 20);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Limit`] where not even one sample fits; a trainer made of one graph, whose batch is what it is; without `bytes`, a
    /// device that does not say how much memory it has.
    pub fn max_batch(&self, bytes: Option<u64>) -> Result<usize> {
        self.model("max_batch")?;
        let unknown = || Error::argument("max_batch", format!("how much memory {} has is not known; give the bytes", self.device));
        let budget = match bytes {
            Some(bytes) => bytes,
            None => self.device.memory_bytes().map(|all| all - all / LEFT).ok_or_else(unknown)?,
        };
        let need = |batch: usize| self.fit_bytes(batch);
        // Some layers take no batch of one; what is wrong with two, other than their size, is wrong with the model.
        let first = match need(SOME) {
            Err(Error::Limit { .. }) => (1, need(1)?),
            other => (SOME, other?),
        };
        let (mut low, mut used) = if first.1 <= budget { first } else { (1, need(1).unwrap_or(first.1)) };
        if used > budget {
            let what = "training on one sample at a time".to_string();
            return Err(Error::Limit { what, need: used, limit: budget, advice: "use a smaller model".into() });
        }
        // Samples that do not fit, and their bytes unless a limit or the number of elements of a tensor comes first.
        let mut high: Option<(usize, Option<u64>)> = if low < SOME { Some((SOME, None)) } else { None };
        let mut slope = 0.0;
        for round in 0.. {
            // Memory is nearly a line over the batch: where it meets the budget. Where a limit comes first, halves find it.
            if let Some((batch, Some(bytes))) = high {
                slope = (bytes - used) as f64 / (batch - low) as f64;
            }
            let meets = low.saturating_add(((budget - used) as f64 / slope) as usize);
            let next = match high {
                Some((high, _)) if high - low <= 1 => break,
                Some((high, bytes)) if bytes.is_none() || round % 4 == 3 => low + (high - low) / 2,
                Some((high, _)) => meets.clamp(low + 1, high - 1),
                None if slope > 0.0 => meets.clamp(low + 1, low.saturating_mul(64)),
                None => low * 16,
            };
            match need(next) {
                Ok(bytes) if bytes <= budget => {
                    slope = (bytes.saturating_sub(used)) as f64 / (next - low) as f64;
                    (low, used) = (next, bytes);
                }
                Ok(bytes) => high = Some((next, Some(bytes))),
                Err(_) => high = Some((next, None)),
            }
        }
        Ok(low)
    }
}
