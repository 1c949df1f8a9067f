//! The memory that training takes, and the largest batch that fits into a memory budget.

use super::{
    SOME, Trainer, check_loss,
    cut::Cut,
    evaluate::{self, MOST},
    feed::Held,
    plans::{PlanKey, training_draft},
    tally::Tracked,
};
use crate::{
    device::Device,
    engine::{self, Updater},
    error::{Error, Result},
    gpu,
    graph::Tensor,
    optim::Optimizer,
    plan::{Memory, Plan, report::size},
};
use std::cmp::Reverse;

impl Memory {
    /// Returns the memory that [`Trainer::new`] would take with the same arguments. Allocates nothing on the device.
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
    /// The errors of [`Trainer::new`].
    pub fn of(device: &Device, loss: Tensor, optimizer: impl Into<Optimizer>) -> Result<Memory> {
        check_loss(loss)?;
        let params = loss.graph().inner.borrow().params.clone();
        let mut update = Updater::new(optimizer.into(), &params)?;
        update.sketch(device, &params)?;
        let layout = engine::layout(device, &params, Some(&update))?;
        let numbers = Tracked::of(loss, None, &[]).1;
        let mut plan = training_draft(device, &numbers, loss, &update.groups.statuses)?.lower(&device.plan_options());
        update.append(device, &mut plan, &layout, None)?;
        engine::memory(device, &plan, &layout, &update, numbers.len(), None, 0)
    }
}

/// [`Trainer::max_batch`] leaves 1/`LEFT` of the device's memory to the driver and to other programs.
const LEFT: u64 = 10;

impl Trainer {
    /// Returns the bytes that training on batches of `batch` samples takes, by kind and by layer.
    ///
    /// The sum includes everything that this trainer has on the device now: data sets, and cached plans of other batch sizes
    /// and of evaluation (the latest four of each). A trainer made from one graph always uses the batch size of the graph. This
    /// method plans a step, but allocates and measures nothing. Where a kernel has not been chosen yet, it assumes the kernel
    /// that it expects to be fastest.
    ///
    /// # Errors
    /// The batch is empty, or the model does not accept its size. [`Error::Limit`] if a step would exceed a limit of the
    /// device.
    pub fn memory(&self, batch: usize) -> Result<Memory> {
        if batch == 0 {
            return Err(Error::argument("memory", "a batch has at least one sample"));
        }
        self.step_memory(PlanKey::Whole(if self.model.is_some() { batch } else { 0 }))
    }
    /// Returns the bytes that training in micro-batches of `micro` samples takes, by kind and by layer. See
    /// [`Fit::micro_batch`](crate::Fit::micro_batch) and [`accumulate`](Trainer::accumulate).
    ///
    /// The sum does not depend on the number of micro-batches in a step. It includes the plan of one micro-batch and a second
    /// buffer of gradients.
    ///
    /// # Errors
    /// The errors of [`memory`](Trainer::memory), and a loss that [`accumulate`](Trainer::accumulate) refuses.
    pub fn micro_memory(&self, micro: usize) -> Result<Memory> {
        if micro == 0 {
            return Err(Error::argument("micro_memory", "a micro-batch has at least one sample"));
        }
        self.step_memory(PlanKey::Micro(if self.model.is_some() { micro } else { 0 }))
    }
    /// Returns the bytes that training with the plan `key` takes, by kind and by layer.
    pub(super) fn step_memory(&self, key: PlanKey) -> Result<Memory> {
        Ok(self.memory_of(&self.step_plan(key)?)?.with_plans(self.others(key)))
    }
    /// Returns a plan whose bytes can be counted. No kernel is measured for it.
    pub(super) fn step_plan(&self, key: PlanKey) -> Result<Plan> {
        let plan = match &self.graph_plan {
            Some(plan) => plan.clone(),
            None => self.draft(key)?.lower(&self.device.plan_options()),
        };
        let mut plan = self.complete(key, plan)?;
        // The buffers for gradients of micro-batches stay allocated after their first use.
        plan.micro |= self.store.holds_micro();
        Ok(plan)
    }
    /// Returns the bytes of all cached plans except the plan `key`, of the buffer that collects outputs, of gathered averages, and of the
    /// buffers through which a rank reads gradients from a GPU.
    fn others(&self, key: PlanKey) -> u64 {
        let training = self.plans.iter().filter(|(k, _)| *k != key).map(|(_, loaded)| loaded.engine.bytes());
        let inference = self.inference.iter().map(|(_, (f, _))| f.bytes());
        let outputs = self.collected.iter().map(|collected| collected.words() as u64 * 4);
        let averages = self.store.holds_average().then(|| 4 * self.store.layout().trained_elements() as u64);
        training.chain(inference).chain(outputs).chain(averages).sum::<u64>() + self.readback_bytes()
    }
    /// Returns the bytes of the read-back buffers of gradients of a rank on a GPU, with room for the sums of earlier micro-batches.
    fn readback_bytes(&self) -> u64 {
        if self.ranks.is_none() || self.device.as_gpu().is_none() {
            return 0;
        }
        let elements = |bucket: &Vec<usize>| bucket.iter().map(|&i| self.params[i].shape.elements()).sum();
        self.buckets().iter().map(|bucket| gpu::readback_bytes(elements(bucket), true)).sum()
    }
    /// Returns the most bytes that `fit` may take with batches of `batch` samples and an evaluation after each epoch.
    fn fit_bytes(&self, batch: usize) -> Result<u64> {
        let (key, fed) = (PlanKey::Whole(batch), None);
        let plan = self.step_plan(key)?;
        let again = engine::plan_bytes(&self.device, &plan, fed)?;
        let evaluation = match self.inference_bytes(self.evaluation.unwrap_or(batch.min(MOST))) {
            // Evaluation then uses smaller batches.
            Err(Error::Limit { .. }) => 0,
            bytes => bytes?,
        };
        Ok(self.memory_of(&plan)?.total() + self.others(key) + again + 3 * evaluation)
    }
    pub(super) fn memory_of(&self, plan: &Plan) -> Result<Memory> {
        let (fed, data) = (self.fed(), self.held.iter().map(Held::bytes).sum());
        engine::memory(&self.device, plan, &self.store.layout(), &self.update, self.ring.outputs(), fed, data)
    }
    /// Returns the largest batch size for which [`fit`](Trainer::fit) fits into `bytes` of memory and the limits of the device.
    /// `None` stands for nine tenths of the memory that the device reports. The size is computed from plans of several sizes.
    /// Nothing is allocated.
    ///
    /// The memory of `fit` is the sum of:
    /// - [`memory`](Trainer::memory), which includes the data sets that lie on the device now;
    /// - a second plan, for the last batch of an epoch;
    /// - three times the plan of an evaluation batch: the plan of full batches, the plan of the last batch, and the outputs.
    ///   The batch is of the same size as in training, or of the size [set](Trainer::set_evaluation_batch). A real evaluation
    ///   may use larger batches if they take a few MiB at most.
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
    /// - [`Error::Limit`] if not even one sample fits.
    /// - The trainer was made from one graph, so its batch size is fixed.
    /// - `bytes` is `None`, and the device does not report how much memory it has.
    pub fn max_batch(&self, bytes: Option<u64>) -> Result<usize> {
        self.model("max_batch")?;
        let unknown = || Error::argument("max_batch", format!("how much memory {} has is not known; give the bytes", self.device));
        let budget = match bytes {
            Some(bytes) => bytes,
            None => self.device.memory_bytes().map(|all| all - all / LEFT).ok_or_else(unknown)?,
        };
        let need = |batch: usize| self.fit_bytes(batch);
        // Some layers accept no batch of one sample, so the search starts at two. If two samples exceed a limit, one sample may
        // still fit. Any other error at two samples is a mistake in the model.
        let first = match need(SOME) {
            Err(Error::Limit { .. }) => (1, need(1)?),
            other => (SOME, other?),
        };
        let what = || "training on one sample at a time".to_string();
        largest(first, &need, budget, usize::MAX).ok_or_else(|| {
            let advice = "use a smaller model".to_string();
            Error::Limit { what: what(), need: need(1).unwrap_or(first.1), limit: budget, advice }
        })
    }
}

/// Returns the largest batch size, at most `most`, whose bytes fit into the budget. `first` is a batch size and its bytes, from
/// which the search starts. `None` where not even one sample fits.
fn largest(first: (usize, u64), need: &dyn Fn(usize) -> Result<u64>, budget: u64, most: usize) -> Option<usize> {
    let (mut low, mut used) = if first.1 <= budget { first } else { (1, need(1).unwrap_or(first.1)) };
    if used > budget {
        return None;
    }
    // A batch size that does not fit, and its bytes. The bytes are `None` if the plan exceeds a limit or a tensor has too many
    // elements.
    let mut high: Option<(usize, Option<u64>)> = if low < first.0 { Some((first.0, None)) } else { most.checked_add(1).map(|n| (n, None)) };
    let mut slope = 0.0;
    for round in 0.. {
        // Memory grows nearly linearly with the batch size. The next size is the point where the line meets the budget. If a
        // limit comes first, bisection finds it.
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
    Some(low)
}

impl Trainer {
    /// Returns the largest size of a micro-batch for which training with the batches of `cut` fits into `bytes`. `None` where
    /// whole batches fit. `validation` is the number of samples evaluated after each epoch. `copies` says whether the device copies the
    /// parameters and states for checkpoints.
    pub(super) fn fitting(&self, bytes: u64, cut: &Cut, validation: Option<usize>, copies: bool) -> Result<Option<usize>> {
        let copy = if copies { self.copy_bytes() } else { 0 };
        let inference = |samples: usize| match self.inference_bytes(samples) {
            // Evaluation then uses smaller batches.
            Err(Error::Limit { .. }) => Ok(0),
            other => other,
        };
        // Two plans, and the buffer that collects their outputs.
        let evaluation = |size: usize| match (validation, self.evaluation) {
            (None, _) => Ok(0),
            (Some(n), Some(size)) => inference(size.min(n)).map(|bytes| 3 * bytes),
            (Some(n), None) => {
                let most = n.min(MOST);
                Ok(3 * inference(size.min(most))?.max(inference(most)?.min(evaluate::small(Some(bytes)))))
            }
        };
        let alone = |key: PlanKey| Ok(self.step_memory(key)?.total() + evaluation(key.samples().unwrap_or(1))? + copy);
        let all = |cut: Cut| -> Result<u64> {
            let mut keys = cut.keys();
            keys.sort_by_key(|key| Reverse(key.samples()));
            let rest = keys.iter().skip(1).map(|&key| engine::plan_bytes(&self.device, &self.step_plan(key)?, self.fed()));
            Ok(alone(keys[0])? + rest.sum::<Result<u64>>()?)
        };
        // Some layers accept no batch of one sample.
        let all = |micro: Option<usize>| match all(Cut { micro, ..*cut }) {
            Err(Error::Op { .. }) if cut.each > 1 => all(Cut { micro, ..*cut }.joined()),
            other => other,
        };
        let fits = |micro: Option<usize>| all(micro).is_ok_and(|need| need <= bytes);
        if cut.micro.is_none() && fits(None) {
            return Ok(None);
        }
        let most = cut.micro.unwrap_or(cut.each);
        let least = match alone(PlanKey::Micro(1)) {
            Err(Error::Op { .. }) if most >= SOME => (SOME, alone(PlanKey::Micro(SOME))?),
            other => (1, other?),
        };
        let need = |micro: usize| alone(PlanKey::Micro(micro));
        if let Some(upper) = largest(least, &need, bytes, most) {
            let mut sizes: Vec<usize> = (cut.each.div_ceil(upper)..=cut.each).map(|k| cut.each / k).collect();
            sizes.insert(0, upper);
            sizes.retain(|&size| size > least.0);
            sizes.push(least.0);
            sizes.dedup();
            if let Some(size) = sizes.into_iter().find(|&size| fits(Some(size))) {
                return Ok(Some(size));
            }
        }
        let flat = self.flat_bytes() + copy;
        let why = match flat > bytes {
            true => format!(
                "{}, but weights, gradients and states of the optimizer{} take {} alone; use a smaller model, freeze parts of it, or take an \
                 optimizer with fewer states",
                size(bytes),
                if copies { " and the copy of a checkpoint" } else { "" },
                size(flat)
            ),
            false => format!(
                "{bytes} bytes, but micro-batches of {} take {}; give that much, compute activations again (Tensor::checkpoint), or use a \
                 smaller model",
                least.0,
                all(Some(least.0))?
            ),
        };
        Err(Error::argument("Fit::memory", why))
    }
    /// Returns the bytes of a copy of the parameters and states.
    fn copy_bytes(&self) -> u64 {
        let layout = self.store.layout();
        let states: usize = layout.states.iter().flat_map(|state| &state.pieces).sum();
        4 * (layout.elements() + states) as u64
    }
    fn fed(&self) -> Option<engine::Fed<'_>> {
        self.held.iter().find_map(Held::fed)
    }
    /// Returns the bytes of parameters, gradients, gradients of micro-batches, and states.
    fn flat_bytes(&self) -> u64 {
        let layout = self.store.layout();
        let states: usize = layout.states.iter().flat_map(|state| &state.pieces).sum();
        4 * (layout.elements() + 2 * layout.trained_elements() + states) as u64
    }
}
