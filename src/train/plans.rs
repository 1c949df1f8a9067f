//! The plans of a trainer, and the cache that stores the latest few.

use super::{Loaded, Trainer, check_loss, samples, tally::weight_of_batch};
use crate::{
    device::Device,
    engine::Engine,
    error::{Error, Result},
    graph::{Graph, Tensor},
    host::Host,
    ops::synced::weigh_rank,
    params::Status,
    plan::{Draft, Loc, Phase, Plan},
    shape::Shape,
};
use std::sync::Arc;

/// The kind and size of the batch that a plan for training is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlanKey {
    /// A step on this number of samples. 0 where `Trainer::new` made the trainer from one graph.
    Whole(usize),
    /// A micro-batch of this number of samples. 0 where `Trainer::new` made the trainer from one graph.
    Micro(usize),
    /// An update with gradients that the caller gave. The step computes no loss.
    Given,
    /// The update of a step over ranks. The store has the mean of the gradients of all ranks, and the guard the mean of their losses.
    Mean,
}

impl PlanKey {
    /// Returns the number of samples. `None` for a step that computes no gradients.
    pub fn samples(self) -> Option<usize> {
        match self {
            PlanKey::Whole(n) | PlanKey::Micro(n) => Some(n),
            PlanKey::Given | PlanKey::Mean => None,
        }
    }
}

/// A cache of values by key. A full cache drops the value that was used least recently.
pub(super) struct Latest<K, T> {
    most: usize,
    /// The values in order of use. The value that was used last is at the end.
    all: Vec<(K, T)>,
}

impl<K: Copy + PartialEq, T> Latest<K, T> {
    /// Makes a cache of at most `most` values. `most` must be at least 2.
    pub fn new(most: usize) -> Latest<K, T> {
        Latest { most, all: Vec::with_capacity(most) }
    }
    pub fn get(&self, key: K) -> Option<&T> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }
    /// Returns the value and marks it as used last.
    pub fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let at = self.all.iter().position(|(k, _)| *k == key)?;
        self.all[at..].rotate_left(1);
        self.all.last_mut().map(|(_, value)| value)
    }
    /// Makes room for one more value. Returns the value that was dropped, if any. Never drops the value of `keep`.
    pub fn room(&mut self, keep: Option<K>) -> Option<T> {
        let oldest = (self.all.len() >= self.most).then(|| self.all.iter().position(|(k, _)| Some(*k) != keep))??;
        Some(self.all.remove(oldest).1)
    }
    /// Adds a value. The caller must make [room](Latest::room) first.
    pub fn insert(&mut self, key: K, value: T) {
        debug_assert!(self.all.len() < self.most && self.get(key).is_none());
        self.all.push((key, value));
    }
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.all.iter().map(|(key, value)| (*key, value))
    }
    /// Removes and returns all values.
    pub fn take(&mut self) -> impl Iterator<Item = T> {
        self.all.drain(..).map(|(_, value)| value)
    }
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut().map(|(_, value)| value)
    }
}

impl Trainer {
    /// Makes and loads the plan for a batch, unless the plan exists or the batch is empty.
    pub(super) async fn plan(&mut self, key: PlanKey) -> Result<()> {
        let none = self.model.is_some() && key.samples() == Some(0);
        if none || self.plans.get(key).is_some() {
            return Ok(());
        }
        let plan = self.complete(key, self.computed(key).await?)?;
        self.load_plan(key, plan).await
    }
    /// Returns the plan for a batch without the update. Its kernels have been measured.
    pub(super) async fn computed(&self, key: PlanKey) -> Result<Plan> {
        let options = self.device.plan_options();
        match (&self.model, key.samples()) {
            (Some(_), Some(_)) => self.device.lower(self.draft(key)?, &options).await,
            (_, None) => Plan::new(&[Graph::training().scalar(0.0)], &[], &options),
            (None, _) => Ok(self.graph_plan.clone().expect("a trainer without a model is made of one graph")),
        }
    }
    pub(super) fn draft(&self, key: PlanKey) -> Result<Draft> {
        let batch = key.samples().unwrap_or(1);
        let (draft, kept) = self.model("step")?.draft(&self.device, batch, &self.update.groups.statuses, self.synced(key))?;
        if kept != self.kept {
            let why = format!(
                "in a batch of {batch} its loss has other terms than in batches of another size; its terms must not depend on the batch size"
            );
            return Err(Error::argument("model", why));
        }
        Ok(draft)
    }
    /// Adds the optimizer's update to a plan.
    pub(super) fn complete(&self, key: PlanKey, mut plan: Plan) -> Result<Plan> {
        plan.bind_params(&self.params)?;
        let weighted = if let PlanKey::Micro(_) = key { self.kept.weight(&plan.outputs)? } else { None };
        let weight = match (key, weighted) {
            // See `training_draft`.
            (PlanKey::Micro(_), _) if self.synced(key).is_some() => plan.outputs.last().map(|output| output.0),
            (PlanKey::Micro(_), Some(output)) => Some(plan.outputs[output].0),
            (PlanKey::Micro(_) | PlanKey::Mean, _) => {
                plan.constants.push(Arc::new(Host::new(Shape::SCALAR, vec![samples(&plan) as f32])));
                Some(Loc::Constant(plan.constants.len() - 1))
            }
            _ => None,
        };
        self.update.append(&self.device, &mut plan, &self.store.layout(), weight)?;
        if key == PlanKey::Mean {
            // The ranks have added up the micro-batches. The check reads the mean loss from the guard, as after micro-batches.
            plan.steps.retain(|step| step.phase != Phase::Reduce);
            plan.micro = false;
        }
        Ok(plan)
    }
    pub(super) async fn load_plan(&mut self, key: PlanKey, plan: Plan) -> Result<()> {
        let (inputs, batch, text) = (plan.inputs.clone(), samples(&plan), plan.to_string());
        // Queued steps may still use buffers of the old plan. The device frees those buffers after the steps.
        if let Some(old) = self.plans.room(self.last) {
            old.engine.gpu().into_iter().for_each(|exec| self.gone += exec.counters());
        }
        let engine = Engine::new(&self.device, plan, &self.store, Some(&self.ring)).await?;
        self.plans.insert(key, Loaded { engine, inputs, batch, plan: text });
        Ok(())
    }
    /// Drops all plans and the buffer that collects outputs.
    pub(super) fn release(&mut self) {
        self.drop_plans();
        self.inference.take().filter_map(|(f, _)| f.counters()).for_each(|f| self.gone += f);
        self.collected.take().into_iter().for_each(|collected| self.gone += collected.counters());
    }
    /// Drops the plans of steps.
    pub(super) fn drop_plans(&mut self) {
        for loaded in self.plans.take() {
            loaded.engine.gpu().into_iter().for_each(|exec| self.gone += exec.counters());
        }
        self.last = None;
    }
}

/// Returns the draft of a step, before kernels are chosen. It computes the outputs, the loss first, and the gradients. If batch norm takes
/// the statistics of all ranks, the last output is the weight of this rank's micro-batch.
#[track_caller]
pub(super) fn training_draft(device: &Device, outputs: &[Tensor], loss: Tensor, statuses: &[Status]) -> Result<Draft> {
    check_loss(loss)?;
    let weight = loss.graph().ranks().map(|_| weigh_rank(weight_of_batch(loss)));
    let outputs: Vec<Tensor> = outputs.iter().copied().chain(weight).collect();
    Draft::new(&outputs, &gradients(loss, statuses)?.0, &device.plan_options())
}

/// Returns the tensor that a step computes for each parameter: a gradient, or the next value of a state. Also returns the names
/// of the trained parameters that the loss does not depend on.
#[track_caller]
pub(super) fn gradients<'g>(loss: Tensor<'g>, statuses: &[Status]) -> Result<(Vec<Option<Tensor<'g>>>, Vec<String>)> {
    check_loss(loss)?;
    let g = loss.graph();
    let grads = g.param_grads(loss, |i| statuses[i] == Status::Frozen);
    g.check()?;
    let trained = statuses.iter().filter(|status| status.is_trained()).count();
    let idle: Vec<String> = {
        let g = g.inner.borrow();
        let is_idle = |grad: &Option<Tensor>| grad.is_some_and(|grad| g.nodes[grad.id].is_zeros());
        g.params.iter().zip(&grads).filter(|(p, grad)| p.trained && is_idle(grad)).map(|(p, _)| p.name.clone()).collect()
    };
    if trained == idle.len() && trained > 0 {
        let why = format!(
            "it depends on no {}parameter ({}), so there is nothing to train; compute it from the model's output",
            if statuses.contains(&Status::Frozen) { "trained " } else { "" },
            idle.join(", ")
        );
        return Err(Error::Op { op: "loss".into(), operands: vec![loss.to_string()], why, place: loss.place() });
    }
    Ok((grads, idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut latest = Latest::new(3);
        for key in [7, 8, 9] {
            assert_eq!(latest.room(None), None);
            latest.insert(key, key * 10);
        }
        assert_eq!(latest.get_mut(7), Some(&mut 70));
        assert_eq!(latest.get(8), Some(&80));
        assert_eq!(latest.get_mut(5), None);
        assert_eq!(latest.room(Some(8)), Some(90));
        latest.insert(1, 10);
        assert_eq!(latest.room(None), Some(80));
        assert_eq!(latest.iter().map(|(key, _)| key).collect::<Vec<_>>(), [7, 1]);
    }
}
