//! Training: [`Trainer`] holds a model's weights and optimizer on a device, and the plans that use them.

mod checkpoint;
mod evaluate;
mod feed;
mod fit;
mod gradients;
mod memory;
pub mod metrics;
mod model;
mod outputs;
mod params;
mod plans;
mod progress;
mod reports;
mod summary;
mod tally;
#[cfg(test)]
mod tests;

pub use evaluate::Evaluation;
pub use fit::{Epoch, Event, Fit, History};
pub use params::Params;

use crate::{
    compiled::Compiled,
    data::Dataset,
    device::Device,
    engine::{Engine, RING, Ring, Store, Update, check_input},
    error::{Error, Result},
    gpu::{Collected, Counters},
    graph::{Graph, InputDef, ParamDef, Tensor},
    host::Host,
    ops::Key,
    optim::Optimizer,
    plan::{Draft, Memory, Plan},
    profile::Profile,
    shape::DType,
};
use gradients::GIVEN;
use model::{Kind, Model, Written};
use plans::Latest;
use std::{collections::VecDeque, sync::Arc, time::Instant};
use tally::{Kept, Tally};

/// A plan of the training graph at one batch size.
struct Loaded {
    engine: Engine,
    inputs: Vec<InputDef>,
    batch: usize,
    plan: String,
}

/// A step whose report has not come yet.
#[derive(Clone, Copy)]
struct Made {
    step: u64,
    samples: usize,
    /// Whether its gradients were given, so that it has no loss.
    given: bool,
}

/// One step's loss and, for a classifier, accuracy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// From 0.
    pub step: u64,
    /// Before this step's update.
    pub loss: f32,
    /// The share of this batch's labels predicted before the step's update, for a classifier; `None` where none of them counts.
    pub accuracy: Option<f32>,
    /// Of the batch; for a graph of your own, the first axis of its first input.
    pub samples: usize,
}

/// A model in training.
///
/// Two levels: [`Trainer::new`] takes the loss of a graph of your own and makes one step at a time;
/// [`Trainer::for_data`] takes a model as a function and also does [`fit`](Trainer::fit),
/// [`evaluate`](Trainer::evaluate) and [`predict`](Trainer::predict), at any batch size.
///
/// ```
/// use downhill::{Device, Graph, Host, Trainer, optim::Sgd};
/// let g = Graph::training();
/// let (x, y) = (g.input([4, 1]), g.input([4, 1]));
/// let mut trainer = Trainer::new(&Device::cpu(), x.linear("line", 1).mse(y), Sgd::new(0.1))?;
/// let x = Host::new([4, 1], vec![0.0, 1.0, 2.0, 3.0]);
/// let y = Host::new([4, 1], vec![1.0, 3.0, 5.0, 7.0]);
/// for _ in 0..200 {
///     trainer.step(&[x.clone(), y.clone()])?;
/// }
/// assert!((trainer.params().get("line.weight")?.f()[0] - 2.0).abs() < 1e-2);
/// # Ok::<(), downhill::Error>(())
/// ```
pub struct Trainer {
    device: Device,
    update: Update,
    store: Store,
    params: Vec<ParamDef>,
    /// `None` where the trainer was made of one graph.
    model: Option<Model>,
    /// The summary of that one graph.
    graph_summary: String,
    /// Its memory.
    graph_memory: Option<Memory>,
    /// Plans of the training graph by batch size; by 0 that of a graph of the user's own.
    plans: Latest<Loaded>,
    /// Plans of the inference graph by batch size, and what each keeps.
    inference: Latest<(Compiled, Kept)>,
    /// Samples of a batch of evaluation, where somebody said so.
    evaluation: Option<usize>,
    small: Option<evaluate::Small>,
    seed: u64,
    step: u64,
    epoch: u64,
    /// The plan of the last step, whose inputs still hold its batch.
    last: Option<usize>,
    ring: Ring,
    /// What a step leaves there.
    kept: Kept,
    /// Steps whose loss has not been asked for yet; then those that have not come.
    unread: Vec<Made>,
    asked: Vec<Made>,
    /// Of the latest steps.
    reports: VecDeque<StepReport>,
    /// The loss of the last step that was made.
    loss: f32,
    /// What the steps of an epoch that is under way add up to, and the loss of each.
    tally: Option<(Tally, Vec<f32>)>,
    history: History,
    /// Data sets that are on the device.
    held: Vec<feed::Held>,
    /// What outputs are read through.
    collected: Option<Arc<Collected>>,
    /// What was counted by what is gone.
    gone: Counters,
}

impl Trainer {
    /// Trains the parameters of a graph so that `loss`, a single number, falls. The graph may be dropped afterwards.
    ///
    /// Parameters that the loss does not depend on are named in the log (crate [`log`], at level `warn`): they stay as they are, but for
    /// weight decay.
    ///
    /// # Errors
    /// The graph's first mistake, with its line; a loss that is not a single number, or depends on no parameter; a graph made by
    /// [`Graph::inference`] in which a layer is not as in training; an optimizer's option out of range; a limit of the device.
    pub fn new(device: &Device, loss: Tensor, optimizer: impl Into<Optimizer>) -> Result<Trainer> {
        pollster::block_on(Trainer::new_async(device, loss, optimizer))
    }
    /// [`new`](Trainer::new), without blocking.
    pub async fn new_async(device: &Device, loss: Tensor<'_>, optimizer: impl Into<Optimizer>) -> Result<Trainer> {
        let mut trainer = Trainer::empty(device, loss, optimizer.into(), 1, Kept::default()).await?;
        let plan = device.lower(training_draft(device, &[loss], loss)?, &device.plan_options()).await?;
        let memory = trainer.memory_of(&plan)?;
        trainer.graph_summary = trainer.summarise(loss, &plan, &memory);
        trainer.graph_memory = Some(memory);
        trainer.load_plan(0, plan).await?;
        Ok(trainer)
    }
    /// Trains `model`, a function from a batch `[n, …]` of the samples of `data` to its output, so that
    /// `loss(output, target)` falls. The target is `[n, …]` labels or values as the data has them; the model's input for
    /// data without a target.
    ///
    /// ```
    /// use downhill::{Device, Fit, Trainer, data, optim::Adam};
    /// let (train, test) = data::iris().stratified(0.8, 1)?;
    /// let mut trainer = Trainer::for_data(
    ///     &Device::cpu(),
    ///     &train,
    ///     |x| x.linear("fc1", 16).relu().linear("fc2", 3),
    ///     |logits, labels| logits.cross_entropy(labels),
    ///     Adam::new(0.02),
    /// )?;
    /// trainer.fit(&train, Fit::new().epochs(30).batch_size(32))?;
    /// assert!(trainer.evaluate(&test)?.accuracy.unwrap() > 0.9);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn for_data(
        device: &Device,
        data: &Dataset,
        model: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g> + Send + Sync + 'static,
        loss: impl for<'g> Fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g> + Send + Sync + 'static,
        optimizer: impl Into<Optimizer>,
    ) -> Result<Trainer> {
        pollster::block_on(Trainer::for_data_async(device, data, model, loss, optimizer))
    }
    /// [`for_data`](Trainer::for_data), without blocking.
    pub async fn for_data_async(
        device: &Device,
        data: &Dataset,
        model: impl for<'g> Fn(Tensor<'g>) -> Tensor<'g> + Send + Sync + 'static,
        loss: impl for<'g> Fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g> + Send + Sync + 'static,
        optimizer: impl Into<Optimizer>,
    ) -> Result<Trainer> {
        let model = Model::new(Box::new(model), Box::new(loss), data.sample_shape(), Kind::of(data.target()))?;
        let g = Graph::training();
        let Written { loss, numbers, kept, .. } = model.write(&g, SOME)?;
        let mut trainer = Trainer::empty(device, loss, optimizer.into(), numbers.len(), kept).await?;
        trainer.model = Some(model);
        Ok(trainer)
    }
    /// Without a plan; so many numbers of a step are to be read.
    async fn empty(device: &Device, loss: Tensor<'_>, optimizer: Optimizer, width: usize, kept: Kept) -> Result<Trainer> {
        loss.graph().check()?;
        let params = loss.graph().inner.borrow().params.clone();
        let update = Update::new(optimizer, &params)?;
        let idle = gradients(loss)?.1;
        if !idle.is_empty() {
            log::warn!("the loss does not depend on {}: training leaves them as they are, but for weight decay", idle.join(", "));
        }
        let store = Store::new(device, &params, Some(&update), 0).await?;
        let ring = Ring::new(&store, width).await?;
        Ok(Trainer {
            device: device.clone(),
            update,
            store,
            params,
            model: None,
            graph_summary: String::new(),
            graph_memory: None,
            plans: Latest::new(PLANS),
            inference: Latest::new(PLANS),
            evaluation: None,
            small: None,
            seed: 0,
            step: 0,
            epoch: 0,
            last: None,
            ring,
            kept,
            unread: Vec::with_capacity(RING),
            asked: Vec::with_capacity(RING),
            reports: VecDeque::new(),
            loss: f32::NAN,
            tally: None,
            history: History::default(),
            held: Vec::new(),
            collected: None,
            gone: Counters::default(),
        })
    }
    /// Starts again from the initial weights of `seed` (0 without this), which also decides shuffles and dropout.
    pub fn seed(mut self, seed: u64) -> Result<Trainer> {
        self.store.reset(&self.params, Some(&self.update), seed)?;
        (self.seed, self.step, self.epoch) = (seed, 0, 0);
        self.forget()?;
        Ok(self)
    }
    /// The device it trains on.
    pub fn device(&self) -> &Device {
        &self.device
    }
    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }
    /// The learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.update.optimizer.lr(self.step + 1)
    }
    /// Sets the optimizer's learning rate for all steps from the next one on: what a [`Schedule`](crate::optim::Schedule) and the scale
    /// of a group multiply. After [`Error::Diverged`] training goes on with a smaller one. Checkpoints do not have it: set it again
    /// after loading one.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::{Schedule, Sgd}};
    /// let g = Graph::training();
    /// let loss = g.input([3, 2]).linear("fc", 1).square().mean_all();
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.5).schedule(Schedule::step(1, 0.1)))?;
    /// trainer.step(&[Host::new([3, 2], vec![0.5; 6])])?;
    /// trainer.set_lr(0.2)?;
    /// assert_eq!(trainer.lr(), 0.2 * 0.1);
    /// assert!(trainer.set_lr(f64::NAN).is_err());
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Argument`] for a rate that is not finite and positive; it then stays as it was.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.update.optimizer.set_lr(lr)
    }
    /// The trained tensors and state: read, write, save and load them.
    pub fn params(&self) -> Params<'_> {
        Params::new(self)
    }
    /// What was done so far on a GPU (steps, submits, dispatches, bytes, waits), in training and inference together; `None` on
    /// the CPU.
    pub fn counters(&self) -> Option<Counters> {
        self.device.as_gpu()?;
        let plans = self.plans.iter().filter_map(|(_, p)| p.engine.gpu()).map(|exec| exec.counters());
        let data = self.held.iter().map(feed::Held::counters);
        let inference = self.inference.iter().filter_map(|(_, (f, _))| f.counters());
        let outputs = self.collected.iter().map(|collected| collected.counters());
        Some(plans.chain(inference).chain(data).chain(outputs).chain([self.ring.counters(), self.gone]).sum())
    }

    /// Compiles tensors of a graph whose parameters are this trainer's, by name: they use the trained buffers, without a
    /// copy, and see every later step.
    ///
    /// # Errors
    /// A parameter that this trainer does not have, or has in another shape; as [`Device::compile`].
    pub fn compile(&self, outputs: &[Tensor]) -> Result<Compiled> {
        let options = self.device.plan_options();
        let draft = Draft::new(outputs, &[], &options)?;
        pollster::block_on(async {
            let mut plan = self.device.lower(draft, &options).await?;
            plan.bind_params(&self.params)?;
            Compiled::on(&self.device, plan, &self.store, self.seed).await
        })
    }

    /// One step on a batch: the graph's inputs in the order of their creation. On a GPU it returns when the work is
    /// queued; [`loss`](Trainer::loss) waits for it.
    ///
    /// # Errors
    /// Inputs that do not fit the graph, labels that name no class, NaN or infinity in the data, a fault of the device.
    pub fn step(&mut self, batch: &[Host<f32>]) -> Result<()> {
        pollster::block_on(self.step_async(batch))
    }
    /// [`step`](Trainer::step), without blocking.
    pub async fn step_async(&mut self, batch: &[Host<f32>]) -> Result<()> {
        // What a model is planned for is the size of the batch: that must be true.
        let broken = batch.iter().enumerate().find(|(_, x)| self.model.is_some() && !x.fits(x.shape));
        if let Some((i, x)) = broken {
            let (what, got) = (format!("input {i}"), format!("{} with {}", x.shape, x.content()));
            return Err(Error::Input { what, got, want: "as many values as the shape says, of its type".into() });
        }
        let key = match self.model {
            None => 0,
            Some(_) => batch.first().and_then(|x| x.shape.dims().first().copied()).unwrap_or(0),
        };
        if let (Some(model), Some(x)) = (&self.model, batch.first())
            && (x.shape.rank() == 0 || x.shape.sample() != model.x)
        {
            // Before a plan is made for a number of samples that is none.
            let want = format!("samples of shape {}, and a first axis that counts them", model.x);
            return Err(Error::Input { what: "input 0".into(), got: x.shape.to_string(), want });
        }
        self.plan(key).await?;
        let Some(loaded) = self.plans.get_mut(key) else {
            return Err(Error::argument("step", "the batch is empty"));
        };
        if batch.len() != loaded.inputs.len() {
            let (got, want) = (format!("{} tensors", batch.len()), loaded.inputs.len().to_string());
            return Err(Error::Input { what: "the batch".into(), got, want });
        }
        for (i, (data, def)) in batch.iter().zip(&loaded.inputs).enumerate() {
            check_input(def, i, data)?;
            check_finite(i, data)?;
        }
        for (i, data) in batch.iter().enumerate() {
            loaded.engine.write(i, data)?;
        }
        self.advance(key).await
    }
    /// One more step on the batch of the last one, which is still on the device: nothing is checked or uploaded.
    ///
    /// # Errors
    /// No step before this one, a fault of the device.
    pub fn step_again(&mut self) -> Result<()> {
        match self.last {
            Some(key) => pollster::block_on(self.advance(key)),
            None => Err(Error::argument("step_again", "there was no step before it, so there is no batch")),
        }
    }
    /// Runs the step whose batch has been written.
    async fn advance(&mut self, key: usize) -> Result<()> {
        self.make_room(1).await?;
        self.advance_by(key, 1, false)
    }
    /// Runs so many steps in one submit: one on the batch that has been written, or several, each `fed` with its own. The ring
    /// must have room for them.
    fn advance_by(&mut self, key: usize, count: usize, fed: bool) -> Result<()> {
        let loaded = self.plans.get_mut(key).expect("the plan was loaded before its batch");
        loaded.engine.steps(Key { seed: self.seed, step: self.step }, count, fed, Some(&self.update))?;
        self.made(key, count);
        Ok(())
    }
    /// So many steps were made.
    fn made(&mut self, key: usize, count: usize) {
        let samples = self.plans.get(key).map_or(0, |loaded| loaded.batch);
        self.unread.extend((self.step..self.step + count as u64).map(|step| Made { step, samples, given: key == GIVEN }));
        self.last = Some(key);
        self.step += count as u64;
    }
    /// Where the time of a step goes: of each kernel by the device's own clock where it has one, of the host beside it, and what
    /// part of the device's [peaks](Device::peaks) that is.
    ///
    /// It makes `steps` training steps with clocks, and as many without to compare with, all on the batch of the last step. They are
    /// steps like any other: they change the weights, are counted, and their losses are reported.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Adam};
    /// let g = Graph::training();
    /// let loss = g.input([32, 8]).linear("fc1", 64).relu().linear("fc2", 1).mse(g.input([32, 1]));
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(1e-3))?;
    /// trainer.step(&[Host::new([32, 8], vec![0.5; 256]), Host::new([32, 1], vec![1.0; 32])])?;
    /// let profile = trainer.profile(5)?;
    /// println!("{profile}");
    /// profile.write_trace(std::env::temp_dir().join("trace.json"))?; // For https://ui.perfetto.dev.
    /// assert_eq!(trainer.steps(), 11);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// No step before, so that there is no batch; as [`step_again`](Trainer::step_again).
    pub fn profile(&mut self, steps: usize) -> Result<Profile> {
        pollster::block_on(self.profile_async(steps))
    }
    /// [`profile`](Trainer::profile), without blocking.
    pub async fn profile_async(&mut self, steps: usize) -> Result<Profile> {
        let none = || Error::argument("profile", "there was no step before it, so there is no batch to measure");
        let key = self.last.ok_or_else(none)?;
        let peaks = self.device.peaks_async().await?;
        let (mut plain, mut times) = (Vec::new(), Vec::new());
        let (wait, steps) = (|loaded: &mut Latest<Loaded>| loaded.get_mut(key).map_or(Ok(()), |l| l.engine.finish()), steps.max(1));
        for _ in 0..steps {
            wait(&mut self.plans)?;
            let start = Instant::now();
            self.advance(key).await?;
            wait(&mut self.plans)?;
            plain.push(start.elapsed().as_secs_f64());
        }
        let zero = Instant::now();
        for _ in 0..steps {
            self.make_room(1).await?;
            let loaded = self.plans.get_mut(key).expect("the last step was made on it");
            times.push(loaded.engine.profile(Key { seed: self.seed, step: self.step }, Some(&self.update), zero).await?);
            self.made(key, 1);
        }
        let kernels = self.plans.get(key).map_or(Vec::new(), |loaded| loaded.engine.kernels().to_vec());
        Ok(Profile::new(&self.device, peaks, kernels, plain, &times))
    }

    /// Makes sure that there is a plan for batches of `batch` samples.
    async fn plan(&mut self, batch: usize) -> Result<()> {
        let Some(model) = &self.model else { return Ok(()) };
        if batch == 0 || self.plans.get(batch).is_some() {
            return Ok(());
        }
        let (draft, kept) = model.draft(&self.device, batch)?;
        if kept != self.kept {
            let why = format!("for {batch} samples its loss has other terms than for {SOME}; its terms must not depend on the batch size");
            return Err(Error::argument("model", why));
        }
        let plan = self.device.lower(draft, &self.device.plan_options()).await?;
        self.load_plan(batch, plan).await
    }
    async fn load_plan(&mut self, key: usize, mut plan: Plan) -> Result<()> {
        plan.bind_params(&self.params)?;
        let inputs = plan.inputs.clone();
        let batch = inputs.first().and_then(|i| i.shape.dims().first().copied()).unwrap_or(1);
        let text = plan.to_string();
        // What steps that are queued still use stays with the device until they are done.
        if let Some(old) = self.plans.room(self.last) {
            self.gone = old.engine.gpu().map(|exec| exec.counters()).into_iter().chain([self.gone]).sum();
        }
        let engine = Engine::new(&self.device, plan, &self.store, Some(&self.update), Some(&self.ring)).await?;
        self.plans.insert(key, Loaded { engine, inputs, batch, plan: text });
        Ok(())
    }
    fn model(&self, what: &str) -> Result<&Model> {
        let why = "this trainer was made of one graph; make it with Trainer::for_data, or use Trainer::compile";
        self.model.as_ref().ok_or_else(|| Error::argument(what, why))
    }
}

/// A batch size to look at a model with. Not 1: a loss that was not reduced is one number there.
const SOME: usize = 2;

/// Plans that are kept of training, and as many of inference: those of an epoch's batches and of its last one, twice.
const PLANS: usize = 4;

/// An error unless this is what training can bring down.
fn check_loss(loss: Tensor) -> Result<()> {
    let (g, shape) = (loss.graph(), loss.shape());
    g.check()?;
    if let Some(error) = &g.inner.borrow().untrainable {
        return Err(error.clone());
    }
    if shape.elements() != 1 || shape.dtype() != DType::F32 {
        let why = "a loss is one number, a float; reduce it first, e.g. with mean_all()".to_string();
        g.mistake("loss", &[shape], why, loss.place());
    }
    g.check()
}

/// The plan of a step: the outputs (the loss first) and the gradient of every parameter.
#[track_caller]
fn training_plan(device: &Device, outputs: &[Tensor], loss: Tensor) -> Result<Plan> {
    Ok(training_draft(device, outputs, loss)?.lower(&device.plan_options()))
}

/// The first half of it.
#[track_caller]
fn training_draft(device: &Device, outputs: &[Tensor], loss: Tensor) -> Result<Draft> {
    Draft::new(outputs, &gradients(loss)?.0, &device.plan_options())
}

/// What a step leaves in the place of each parameter's gradient, and the names of the parameters that the loss does not depend on.
#[track_caller]
fn gradients(loss: Tensor<'_>) -> Result<(Vec<Tensor<'_>>, Vec<String>)> {
    check_loss(loss)?;
    let g = loss.graph();
    let grads = g.param_grads(loss);
    g.check()?;
    let (trained, idle): (Vec<bool>, Vec<String>) = {
        let g = g.inner.borrow();
        let idle = g.params.iter().zip(&grads).filter(|(p, grad)| p.trained && g.nodes[grad.id].is_zeros()).map(|(p, _)| p.name.clone());
        (g.params.iter().map(|p| p.trained).collect(), idle.collect())
    };
    if trained.iter().filter(|trained| **trained).count() == idle.len() && !idle.is_empty() {
        let why = format!(
            "it depends on no parameter ({}), so that there is nothing to train; compute it from the model's output",
            idle.join(", ")
        );
        return Err(Error::Op { op: "loss".into(), shapes: vec![loss.shape()], why, place: loss.place() });
    }
    Ok((grads, idle))
}

/// An error for the first value that is NaN or infinite.
fn check_finite(input: usize, data: &Host<f32>) -> Result<()> {
    // A sum is not finite where a term is not; only then is the term looked for.
    if data.f().chunks(1024).all(|c| c.iter().map(|x| x * 0.0).sum::<f32>() == 0.0) {
        return Ok(());
    }
    let width = data.shape.sample().elements().max(1);
    let bad = data.f().iter().position(|x| !x.is_finite());
    bad.map_or(Ok(()), |i| Err(Error::NonFinite { what: format!("input {input}"), value: data.f()[i], row: i / width, column: i % width }))
}
