//! The model with the averages of its weights.

use super::{Evaluation, Named, Params, Shard, Trainer, evaluate::Seen};
use crate::{
    compiled::Compiled,
    data::Dataset,
    engine::Store,
    error::{Error, Result},
    graph::{Graph, Tensor},
    host::Host,
};
use std::path::Path;

/// A trainer's model with averages in place of its weights. [`Trainer::averaged`] returns it.
///
/// The averages stay where they are: nothing is copied, neither on the device nor through the host. Plans for evaluation with the
/// averages are stored beside the trainer's other plans. While this view exists, the trainer cannot train.
pub struct Averaged<'a> {
    trainer: &'a mut Trainer,
    store: Store,
}

impl Trainer {
    /// Returns a view of the model with averages in place of the trained weights. [`Optimizer::ema`](crate::optim::Optimizer::ema),
    /// [`swa`](crate::optim::Optimizer::swa) and [`lookahead`](crate::optim::Optimizer::lookahead) define the averages. Frozen
    /// parameters and state have their current values. Before the first step, the averages equal the weights.
    ///
    /// With [`Shard::State`], each rank has a part of the averages. Then all ranks must call this method, and each
    /// gets a copy of all averages.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::Adam};
    /// # let path = std::env::temp_dir().join(format!("downhill-averaged-{}.safetensors", std::process::id()));
    /// let (train, test) = data::iris().stratified(0.8, 1)?;
    /// let mut trainer = Trainer::for_data(
    ///     &Device::cpu(),
    ///     &train,
    ///     |x| x.linear("fc", 3),
    ///     |x, y| x.cross_entropy(y),
    ///     Adam::new(0.05).ema(0.9),
    /// )?;
    /// trainer.fit(&train, Fit::new().epochs(20).validation(&test).averaged(true))?;
    /// let mut averaged = trainer.averaged()?;
    /// assert!(averaged.evaluate(&test)?.accuracy.unwrap() > 0.8);
    /// averaged.save(&path)?; // The parameters alone, for inference.
    /// trainer.params().load(&path)?; // Or the training goes on from the averages.
    /// # std::fs::remove_file(path).ok();
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] if the optimizer keeps no average. Also an error if the device fails.
    pub fn averaged(&mut self) -> Result<Averaged<'_>> {
        if !self.update.optimizer.is_averaged() {
            let why = "the optimizer keeps no average of the weights; add Optimizer::ema, swa or lookahead";
            return Err(Error::argument("averaged", why));
        }
        // The average is the last state of the optimizer.
        let k = self.update.optimizer.states().len() - 1;
        if self.step <= self.update.since {
            self.store.start_average(k)?;
        }
        if self.shards() == Shard::State {
            let gathered = self.gather_average(k);
            self.told(gathered)?;
        }
        let store = self.store.averaged(k);
        Ok(Averaged { trainer: self, store })
    }
    /// Gathers the averages from their owners.
    fn gather_average(&self, k: usize) -> Result<()> {
        pollster::block_on(async {
            let average = self.whole_states(&self.whole_layout()?, k..k + 1, None).await?;
            self.store.write_average(average.into_iter().flatten().collect()).await
        })
    }
}

/// A trainer that evaluates with the averages until this is dropped.
struct Used<'a>(&'a mut Trainer);

impl Drop for Used<'_> {
    fn drop(&mut self) {
        self.0.seen = None;
    }
}

impl Averaged<'_> {
    fn used(&mut self) -> Used<'_> {
        self.trainer.seen = Some(self.store.clone());
        Used(self.trainer)
    }
    /// Computes loss, accuracy and outputs on a data set. See [`Trainer::evaluate`].
    ///
    /// # Errors
    /// The errors of [`Trainer::evaluate`].
    pub fn evaluate(&mut self, data: &Dataset) -> Result<Evaluation> {
        self.used().0.evaluate(data)
    }
    /// [`evaluate`](Averaged::evaluate), without blocking.
    pub async fn evaluate_async(&mut self, data: &Dataset) -> Result<Evaluation> {
        self.used().0.evaluate_async(data).await
    }
    /// [`evaluate`](Averaged::evaluate). `seen` is called with the number of samples evaluated so far, after each batch.
    pub(super) async fn evaluate_with(&mut self, data: &Dataset, seen: Seen<'_>) -> Result<Evaluation> {
        self.used().0.evaluate_with(data, seen).await
    }
    /// Computes the model's outputs for samples. See [`Trainer::predict`].
    ///
    /// # Errors
    /// The errors of [`Trainer::predict`].
    pub fn predict(&mut self, x: &Host<f32>) -> Result<Host<f32>> {
        self.used().0.predict(x)
    }
    /// Computes all outputs of the model for the samples of a data set. See [`Trainer::predict_on`].
    ///
    /// # Errors
    /// The errors of [`Trainer::predict_on`].
    pub fn predict_on(&mut self, data: &Dataset) -> Result<Named<Host<f32>>> {
        self.used().0.predict_on(data)
    }
    /// Returns a handle to the averages, the frozen parameters and the state. [`Params::copy_from`] takes it as a source, so another
    /// model can follow the averages without a copy through the host.
    pub fn params(&self) -> Params<'_> {
        Params::new(&self.trainer.params, &self.store)
    }
    /// Saves the averages, the frozen parameters and the state to a safetensors file, under the names of the parameters.
    /// [`Params::load`] loads them. [`Trainer::save`] saves both weights and averages, to train on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.params().save(path)
    }
    /// Compiles tensors of another graph. The compiled function reads the averages of the latest step, also when training goes on. See
    /// [`Trainer::compile`].
    ///
    /// # Errors
    /// The errors of [`Trainer::compile`].
    pub fn compile(&self, outputs: &[Tensor]) -> Result<Compiled> {
        self.trainer.compile_on(&self.store, outputs)
    }
    /// Renews the running averages of batch norm by one pass over a data set with the averaged weights. Afterwards they are the equal
    /// averages of the statistics of all batches. The last batch has the remaining samples.
    ///
    /// The statistics that a training leaves belong to the weights, not to their average, so a model with batch norm needs this after
    /// [`swa`](crate::optim::Optimizer::swa). The trainer shares its state with this view, so its running averages are renewed as well.
    /// State that is no running average, s ← (1 − m)·s + m·x, stays as it is. `torch.optim.swa_utils.update_bn`.
    ///
    /// # Errors
    /// The data does not fit the model, the batch size is 0, or the model does not accept it. The state is unchanged then.
    pub fn update_bn(&mut self, data: &Dataset, batch_size: usize) -> Result<()> {
        let picks = self.trainer.check_data("update_bn", data)?;
        if batch_size == 0 {
            return Err(Error::argument("update_bn", "a batch has at least 1 sample"));
        }
        let (names, first) = self.next_state(batch_size.min(data.len()))?;
        let Some(first) = first else { return Ok(()) };
        let params = self.params();
        let before: Vec<(String, Host<f32>)> = params.all()?.into_iter().filter(|(name, _)| names.contains(name)).collect();
        let renewed = self.renewed(data, &picks, batch_size, &before, first);
        params.set_all(renewed.as_ref().unwrap_or(&before))?;
        renewed.map(drop)
    }
    /// Returns the equal averages of the statistics of all batches. It changes the state.
    fn renewed(
        &self,
        data: &Dataset,
        picks: &[usize],
        size: usize,
        before: &[(String, Host<f32>)],
        mut f: Compiled,
    ) -> Result<Vec<(String, Host<f32>)>> {
        let order: Vec<usize> = (0..data.len()).collect();
        let mut batch = vec![Host::new([0], Vec::new()); picks.len()];
        let set = |x: f32| {
            let all: Vec<_> = before.iter().map(|(name, s)| (name.clone(), Host::new(s.shape, vec![x; s.len()]))).collect();
            self.params().set_all(&all)
        };
        // With a very large state s the next state is (1 − m)·s, and with the state 0 it is m·x.
        const LARGE: f32 = (1u64 << 60) as f32;
        data.gather_into(picks, &order[..size.min(order.len())], None, &mut batch)?;
        set(LARGE)?;
        let kept: Vec<Vec<f64>> = f.run(&batch)?.iter().map(|s| s.to_f64().iter().map(|s| s / f64::from(LARGE)).collect()).collect();
        set(0.0)?;
        let (mut sums, mut batches): (Vec<Vec<f64>>, f64) = (kept.iter().map(|s| vec![0.0; s.len()]).collect(), 0.0);
        for rows in order.chunks(size) {
            if rows.len() < size.min(order.len()) {
                f = self.next_state(rows.len())?.1.expect("batches of all sizes have the same state");
            }
            data.gather_into(picks, rows, None, &mut batch)?;
            for (sum, s) in sums.iter_mut().zip(f.run(&batch)?) {
                sum.iter_mut().zip(s.to_f64()).for_each(|(sum, s)| *sum += s);
            }
            batches += 1.0;
        }
        let mut renewed = before.to_vec();
        for (((_, state), kept), sums) in renewed.iter_mut().zip(kept).zip(sums) {
            let all = state.f().iter().zip(kept).zip(sums);
            let all = all.map(|((&was, kept), sum)| if kept < 1.0 { (sum / batches / (1.0 - kept)) as f32 } else { was });
            *state = Host::new(state.shape, all.collect());
        }
        Ok(renewed)
    }
    /// Returns the names of the state that a training step assigns, and a function that computes its next values from a batch.
    fn next_state(&self, batch: usize) -> Result<(Vec<String>, Option<Compiled>)> {
        let g = Graph::training();
        let loss = self.trainer.model("update_bn")?.write(&g, batch)?.loss;
        let (params, next) = (g.param_tensors(), g.param_grads(loss, |_| true));
        let assigned = |&(_, (is, next)): &(usize, (&Tensor, Option<Tensor>))| next.is_some_and(|next| next.id != is.id);
        let pairs = params.iter().zip(next).enumerate().filter(assigned);
        let (names, outputs): (Vec<String>, Vec<Tensor>) =
            pairs.filter_map(|(i, (_, next))| Some((g.inner.borrow().params[i].name.clone(), next?))).unzip();
        let f = if outputs.is_empty() { None } else { Some(self.compile(&outputs)?) };
        Ok((names, f))
    }
}
