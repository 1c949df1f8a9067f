//! Training: [`Trainer`] holds a model's weights and optimizer on a device, and the plans that use them.

mod averaged;
mod batch;
mod callback;
pub mod callbacks;
mod checkpoint;
mod checkpoints;
mod columns;
mod curves;
mod cut;
mod evaluate;
mod exchange;
mod feed;
mod find_lr;
mod fit;
mod gradients;
mod history;
mod memory;
pub mod metrics;
mod model;
mod monitor;
mod named;
mod options;
mod outputs;
mod place;
mod plans;
mod plateau;
mod progress;
mod ranks;
mod readouts;
mod reports;
mod saved;
mod shard;
mod share;
mod steps;
mod summary;
mod synced;
mod tally;
#[cfg(test)]
mod tests;
mod tried;

pub use crate::weights::Params;
pub use averaged::Averaged;
pub use batch::{Batch, Outputs};
pub use callback::{Callback, Run};
pub use checkpoints::Checkpoints;
pub use evaluate::Evaluation;
pub use find_lr::{FindLr, LrCurve};
pub use history::{Epoch, History};
pub use named::Named;
pub use options::{Event, Fit};
pub use progress::Progress;
pub use readouts::{ParamNorms, StepNorms};
pub use saved::Saved;
pub use shard::Shard;

use crate::{
    compiled::Compiled,
    data::{Dataset, Role},
    device::Device,
    engine::{Engine, RING, Ring, Store, Updater},
    error::{Error, Result},
    gpu::{Collected, Counters, StepRow},
    graph::{Graph, InputDef, ParamDef, Tensor},
    host::Host,
    optim::Optimizer,
    plan::{Draft, Plan},
    shape::DType,
};
use batch::Taken;
use model::{Model, Written};
use place::Place;
use plans::{Latest, PlanKey, gradients, training_draft};
use ranks::Ranks;
use readouts::Noise;
use std::{collections::VecDeque, sync::Arc};
use tally::{Tally, Tracked};

/// A plan of the training graph at one batch size.
struct Loaded {
    engine: Engine,
    inputs: Vec<InputDef>,
    batch: usize,
    plan: String,
}

/// A batch, or a micro-batch, whose report has not been read yet.
#[derive(Clone, Copy)]
struct Made {
    row: StepRow,
    samples: usize,
    /// Whether the caller gave the gradients. Such a step has no loss.
    given: bool,
}

/// The loss of one step, how large its gradients were and, for a classifier, its accuracy.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The number of the step. The first step is 0.
    pub step: u64,
    /// The loss of the batch, measured before the step's update.
    pub loss: f32,
    /// The share of the batch's labels that the model predicted before the step's update. `None` where the model is no
    /// classifier, or the loss ignores every label of the batch.
    pub accuracy: Option<f32>,
    /// The losses and scalars that the model reports by name, measured before the step's update. See [`Outputs::watch`].
    pub watched: Named<f32>,
    /// The number of samples in the batch, summed over its micro-batches. For a graph of your own, the size of the first axis
    /// of the first input.
    pub samples: usize,
    /// The norm of the gradient before clipping, over all trained parameters together. [`clip_norm`](Optimizer::clip_norm)
    /// bounds this norm. The gradient is the gradient of the whole batch. The norm is infinite where it exceeds the largest
    /// `f32`.
    pub grad_norm: f32,
    /// The largest magnitude of an element of the gradient, before clipping. [`clip_value`](Optimizer::clip_value) bounds this
    /// magnitude.
    pub grad_max: f32,
    /// The gradient noise scale after this step, if steps measure it. See [`Fit::noise_scale`].
    pub noise_scale: Option<f64>,
    /// The norms of each trained parameter, if this step measured them. See [`Fit::norms`].
    pub norms: Named<ParamNorms>,
}

/// Trains a model on a device.
///
/// There are two ways to make a trainer. [`Trainer::new`] takes the loss of a graph of your own. Such a trainer makes one step
/// at a time. [`Trainer::for_data`] takes the model as a function. Such a trainer works at any batch size and also offers
/// [`fit`](Trainer::fit), [`evaluate`](Trainer::evaluate) and [`predict`](Trainer::predict).
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
    update: Updater,
    store: Store,
    params: Vec<ParamDef>,
    /// The model as functions. `None` where `Trainer::new` made the trainer from one graph.
    model: Option<Model>,
    /// The summary of the graph, where `Trainer::new` made the trainer.
    graph_summary: String,
    /// The plan of the graph without the update, where `Trainer::new` made the trainer.
    graph_plan: Option<Plan>,
    /// Plans of the training graph.
    plans: Latest<PlanKey, Loaded>,
    /// Plans of the inference graph, by whether they use the averages of the weights and by batch size. `Tracked` describes the numbers
    /// that a batch of the plan reports.
    inference: Latest<(bool, usize), (Compiled, Tracked)>,
    /// The averages of the weights, while an evaluation uses them.
    seen: Option<Store>,
    /// The batch size of evaluation, where the user set it.
    evaluation: Option<usize>,
    small: Option<evaluate::Small>,
    /// Whether batch norm takes the statistics of all ranks.
    sync_batch_norm: bool,
    /// The memory budget of the last call of `fit`, where it had one.
    budget: Option<u64>,
    seed: u64,
    step: u64,
    epoch: u64,
    /// The number of micro-batches that the next step has so far, on this rank.
    micro: u32,
    /// The number of batches computed so far. It is also the number of the next batch in the ring.
    batches: u64,
    /// The batches of the last submit. The vector is reused by the next submit.
    rows: Vec<StepRow>,
    /// Whether the batches of the last submit were fetched from a data set on the device.
    fed: bool,
    /// The plan of the last step. Its inputs still hold the last batch.
    last: Option<PlanKey>,
    ring: Ring,
    /// The number of measurements of norms so far. It is also the number of the next one in the ring.
    measurements: u64,
    /// The names of the trained parameters.
    trained: Arc<[String]>,
    /// The gradient noise scale.
    noise: Noise,
    /// Describes the numbers that a step writes into the ring.
    kept: Tracked,
    /// Batches whose numbers have not been requested from the device yet.
    unread: Vec<Made>,
    /// Batches whose numbers have been requested, but have not arrived yet.
    asked: Vec<Made>,
    /// The sums over the micro-batches of a step whose numbers have arrived.
    part: Tally,
    /// The reports of the latest steps.
    reports: VecDeque<StepReport>,
    /// The loss of the latest step whose report has arrived.
    loss: f32,
    /// The sums over the steps of the current epoch, and the loss of each step.
    tally: Option<(Tally, Vec<f32>)>,
    /// The norms that the steps of the current epoch measured.
    measured: Vec<StepNorms>,
    history: History,
    place: Place,
    /// Whether an evaluation has changed the order of a data set on the device.
    reordered: bool,
    /// The data sets that lie on the device.
    held: Vec<feed::Held>,
    /// The buffer that collects outputs on a GPU before they are read.
    collected: Option<Arc<Collected>>,
    /// The counters of plans, data sets and buffers that have been dropped.
    gone: Counters,
    /// The ranks that train this model together. `None` for one rank.
    ranks: Option<Ranks>,
}

impl Trainer {
    /// Makes a trainer for the parameters of a graph. Its steps reduce `loss`, which must be a single number. The graph may be
    /// dropped afterwards. [`Outputs`] in place of the loss have several losses, and scalars that the reports of steps contain.
    ///
    /// Some parameters may have no influence on the loss. A warning names them (crate [`log`], level `warn`). Training changes
    /// them by weight decay alone.
    ///
    /// # Errors
    /// - The graph has a mistake. The error names the line of the first mistake.
    /// - The loss is not a single number, or depends on no trained parameter.
    /// - [`Graph::inference`] made the graph, and one of its layers works differently in training.
    /// - An option of the optimizer is out of range.
    /// - The model exceeds a limit of the device.
    pub fn new<'g>(device: &Device, loss: impl Into<Outputs<'g>>, optimizer: impl Into<Optimizer>) -> Result<Trainer> {
        pollster::block_on(Trainer::new_async(device, loss, optimizer))
    }
    /// [`new`](Trainer::new), without blocking.
    pub async fn new_async<'g>(device: &Device, loss: impl Into<Outputs<'g>>, optimizer: impl Into<Optimizer>) -> Result<Trainer> {
        let all = loss.into();
        let loss = all.total()?;
        check_loss(loss)?;
        let (kept, numbers) = Tracked::of(loss, None, &all.watched);
        let mut trainer = Trainer::empty(device, loss, optimizer.into(), numbers.len(), kept).await?;
        let draft = training_draft(device, &numbers, loss, &trainer.update.groups.statuses)?;
        let plan = device.lower(draft, &device.plan_options()).await?;
        let whole = trainer.complete(PlanKey::Whole(0), plan.clone())?;
        let memory = trainer.memory_of(&whole)?;
        trainer.graph_summary = trainer.summarise(loss, &whole, &memory);
        trainer.graph_plan = Some(plan);
        trainer.load_plan(PlanKey::Whole(0), whole).await?;
        Ok(trainer)
    }
    /// Makes a trainer for a model that is a function. Its steps reduce `loss(output, target)`.
    ///
    /// Write the closures in the call, as below, or pass the names of functions: `fn model(x: Tensor) -> Tensor`. Rust does not
    /// accept a closure that was bound to a variable before (`let model = |x: Tensor| …`), because it would fit one graph
    /// alone.
    ///
    /// `model` maps a batch `[n, …]` of samples of `data` to the output. The target is the batch's labels or values, `[n, …]`.
    /// If `data` has no target, the target is the model's input.
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
    /// The errors of [`Trainer::new`]. `for_data` tries the model with a few samples, before any batch size is known. The
    /// shapes in an error therefore name the batch size `n`: `matmul: [n, 784] × fc2.weight [10, 512]: inner dimensions 784 and
    /// 512 differ`.
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
        let taken = Taken::of(data);
        let roles: Vec<Role> = taken.iter().map(|taken| taken.role).collect();
        if !matches!(roles[..], [Role::Feature] | [Role::Feature, Role::Target]) {
            let names: Vec<&str> = data.names().collect();
            let why =
                format!("it takes one feature and at most one target, but the data has {}; use Trainer::for_batches", names.join(", "));
            return Err(Error::argument("for_data", why));
        }
        let model = Model::of_batches(taken, move |batch| apply(&model, &loss, batch))?;
        Trainer::of_model(device, model, optimizer.into()).await
    }
    /// Makes a trainer for a model that takes any number of columns of a data set.
    ///
    /// `model` maps a [`Batch`] to [`Outputs`]. `b["age"]` is the batch's column `age`, `[n, …]`. The model has an input for
    /// each column of `data`; [`Dataset::select`] leaves out columns. If the only target has labels, and the first output has a
    /// score for each class, reports contain the accuracy. [`Outputs`] shows a model with two features, two targets and a
    /// watched scalar.
    ///
    /// # Errors
    /// The errors of [`for_data`](Trainer::for_data). A column that the data does not have: the error lists the columns.
    pub fn for_batches(
        device: &Device,
        data: &Dataset,
        model: impl for<'g> Fn(&Batch<'g>) -> Outputs<'g> + Send + Sync + 'static,
        optimizer: impl Into<Optimizer>,
    ) -> Result<Trainer> {
        pollster::block_on(Trainer::for_batches_async(device, data, model, optimizer))
    }
    /// [`for_batches`](Trainer::for_batches), without blocking.
    pub async fn for_batches_async(
        device: &Device,
        data: &Dataset,
        model: impl for<'g> Fn(&Batch<'g>) -> Outputs<'g> + Send + Sync + 'static,
        optimizer: impl Into<Optimizer>,
    ) -> Result<Trainer> {
        Trainer::of_model(device, Model::of_batches(Taken::of(data), model)?, optimizer.into()).await
    }
    /// Makes a trainer for a graph of your own that is a function of the batch size. `model` adds the inputs and returns a
    /// loss, or [`Outputs`]. The first axis of the first input must be the batch size. So an own loop may have a short last
    /// batch.
    ///
    /// ```
    /// use downhill::{Device, Host, Trainer, optim::Sgd};
    /// let mut trainer = Trainer::from_fn(
    ///     &Device::cpu(),
    ///     |g, n| g.input([n, 2]).linear("fc", 1).mse(g.input([n, 1])).into(),
    ///     Sgd::new(0.1),
    /// )?;
    /// for n in [4, 4, 3] {
    ///     trainer.step(&[Host::new([n, 2], vec![0.5; 2 * n]), Host::new([n, 1], vec![1.0; n])])?;
    /// }
    /// assert_eq!(trainer.take_reports()?[2].samples, 3);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    ///
    /// # Errors
    /// The errors of [`for_data`](Trainer::for_data), and a first input whose first axis is not the batch size.
    pub fn from_fn(
        device: &Device,
        model: impl for<'g> Fn(&'g Graph, usize) -> Outputs<'g> + Send + Sync + 'static,
        optimizer: impl Into<Optimizer>,
    ) -> Result<Trainer> {
        pollster::block_on(Trainer::from_fn_async(device, model, optimizer))
    }
    /// [`from_fn`](Trainer::from_fn), without blocking.
    pub async fn from_fn_async(
        device: &Device,
        model: impl for<'g> Fn(&'g Graph, usize) -> Outputs<'g> + Send + Sync + 'static,
        optimizer: impl Into<Optimizer>,
    ) -> Result<Trainer> {
        Trainer::of_model(device, Model::of_graphs(model)?, optimizer.into()).await
    }
    async fn of_model(device: &Device, model: Model, optimizer: Optimizer) -> Result<Trainer> {
        model.try_with(&optimizer)?;
        let g = Graph::training();
        let Written { loss, numbers, kept, .. } = model.write(&g, SOME)?;
        let mut trainer = Trainer::empty(device, loss, optimizer, numbers.len(), kept).await?;
        trainer.model = Some(model);
        Ok(trainer)
    }
    /// Makes a trainer that has no plan yet. Each step writes `width` numbers into the ring.
    async fn empty(device: &Device, loss: Tensor<'_>, optimizer: Optimizer, width: usize, kept: Tracked) -> Result<Trainer> {
        loss.graph().check()?;
        let params = loss.graph().inner.borrow().params.clone();
        let mut update = Updater::new(optimizer, &params)?;
        update.prepare(device, &params).await?;
        let idle = gradients(loss, &update.groups.statuses)?.1;
        if !idle.is_empty() {
            log::warn!("the loss does not depend on {}: training leaves them as they are, but for weight decay", idle.join(", "));
        }
        let store = Store::new(device, &params, Some(&update), 0).await?;
        let ring = Ring::new(&store, width, update.readouts).await?;
        let statuses = params.iter().zip(&update.groups.statuses);
        let trained = statuses.filter(|(_, status)| status.is_trained()).map(|(p, _)| p.name.clone()).collect();
        Ok(Trainer {
            device: device.clone(),
            update,
            store,
            params,
            model: None,
            graph_summary: String::new(),
            graph_plan: None,
            plans: Latest::new(PLANS),
            inference: Latest::new(PLANS),
            seen: None,
            evaluation: None,
            small: None,
            sync_batch_norm: false,
            budget: None,
            seed: 0,
            step: 0,
            epoch: 0,
            micro: 0,
            batches: 0,
            rows: Vec::new(),
            fed: false,
            last: None,
            ring,
            measurements: 0,
            trained,
            noise: Noise::default(),
            kept,
            unread: Vec::with_capacity(RING),
            asked: Vec::with_capacity(RING),
            part: Tally::default(),
            reports: VecDeque::new(),
            loss: f32::NAN,
            tally: None,
            measured: Vec::new(),
            history: History::default(),
            place: Place::after(0),
            reordered: false,
            held: Vec::new(),
            collected: None,
            gone: Counters::default(),
            ranks: None,
        })
    }
    /// Sets the seed and initialises the parameters again. The seed decides initial values, shuffles and dropout. A new trainer
    /// has seed 0.
    pub fn seed(mut self, seed: u64) -> Result<Trainer> {
        self.store.reset(&self.params, Some(&self.update), seed)?;
        (self.seed, self.step, self.epoch, self.update.since) = (seed, 0, 0, 0);
        self.forget()?;
        Ok(self)
    }
    /// Returns the device that the trainer runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }
    /// Returns the number of steps made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }
    /// Returns the learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.update.lr(self.step)
    }
    /// Sets the optimizer's base learning rate, from the next step on. The [`Schedule`](crate::optim::Schedule) and the scales
    /// of groups multiply this rate.
    ///
    /// After [`Error::Diverged`], training can go on with a smaller rate. A checkpoint contains this rate, and
    /// [`load`](Trainer::load) sets it.
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
    /// [`Error::Argument`] for a rate that is not finite and positive. The rate is then unchanged.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        self.update.optimizer.set_lr(lr)
    }
    /// Returns a handle to the parameters and the state. The handle reads, sets, saves and loads them.
    pub fn params(&self) -> Params<'_> {
        Params::new(&self.params, &self.store)
    }
    /// Returns counts of the work done on a GPU so far: steps, submits, dispatches, bytes and waits. The counts cover training
    /// and inference together. `None` on the CPU device.
    pub fn counters(&self) -> Option<Counters> {
        self.device.as_gpu()?;
        let mut all = self.gone;
        all += self.ring.counters();
        self.plans.iter().filter_map(|(_, p)| p.engine.gpu()).for_each(|exec| all += exec.counters());
        self.held.iter().for_each(|held| all += held.counters());
        self.inference.iter().filter_map(|(_, (f, _))| f.counters()).for_each(|f| all += f);
        self.collected.iter().for_each(|collected| all += collected.counters());
        Some(all)
    }

    /// Compiles tensors of another graph. Parameters of that graph are matched to the trainer's parameters by name. The
    /// compiled function reads the trainer's own buffers, so it uses the values of the latest step.
    ///
    /// # Errors
    /// A parameter that this trainer does not have, or has in another shape, and the errors of [`Device::compile`].
    pub fn compile(&self, outputs: &[Tensor]) -> Result<Compiled> {
        self.compile_on(&self.store, outputs)
    }
    fn compile_on(&self, store: &Store, outputs: &[Tensor]) -> Result<Compiled> {
        let options = self.device.plan_options();
        let draft = Draft::new(outputs, &[], &options)?;
        pollster::block_on(async {
            let mut plan = self.device.lower(draft, &options).await?;
            plan.bind_params(&self.params)?;
            Compiled::on(&self.device, plan, store, self.seed).await
        })
    }

    /// Returns the model, which must have been made for a data set.
    fn data_model(&self, what: &str) -> Result<&Model> {
        let why = "this trainer was made for a graph of your own; make it with Trainer::for_data or Trainer::for_batches";
        self.model(what).and_then(|model| if model.taken.is_empty() { Err(Error::argument(what, why)) } else { Ok(model) })
    }
    fn model(&self, what: &str) -> Result<&Model> {
        let why = "this trainer was made of one graph; make it with Trainer::for_data, or use Trainer::compile";
        self.model.as_ref().ok_or_else(|| Error::argument(what, why))
    }
}

/// Applies a model of one feature and its loss to a batch. Without a target, the target is the feature.
fn apply<'g>(
    model: &impl Fn(Tensor<'g>) -> Tensor<'g>,
    loss: &impl Fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>,
    batch: &Batch<'g>,
) -> Outputs<'g> {
    let x = batch.at(0).expect("a data set has a feature");
    let output = model(x);
    Outputs::from(loss(output, batch.at(1).unwrap_or(x))).output("output", output)
}

/// The batch size that a model is tried with. It is not 1, because at batch size 1 a loss that was not reduced is a single
/// number too.
const SOME: usize = 2;

/// The largest number of plans cached for training, and for inference. An epoch needs two plans, one for full batches and one
/// for the last batch. The cache has room for two epochs of different batch sizes.
const PLANS: usize = 4;

/// Checks that training can minimise the loss: it is one float, and its graph is a training graph without mistakes.
fn check_loss(loss: Tensor) -> Result<()> {
    let (g, shape) = (loss.graph(), loss.shape());
    g.check()?;
    if let Some(error) = &g.inner.borrow().untrainable {
        return Err(error.clone());
    }
    if shape.elements() != 1 || shape.dtype() != DType::F32 {
        let why = "a loss is one number, a float; reduce it first, e.g. with mean_all()".to_string();
        g.mistake("loss", &[loss], why, loss.place());
    }
    g.check()
}

/// Returns the number of samples in a batch, which is the size of the first input's first axis.
fn samples(plan: &Plan) -> usize {
    plan.inputs.first().and_then(|i| i.shape.dims().first().copied()).unwrap_or(1)
}

/// Returns an error for the first value that is NaN or infinite.
fn check_finite(input: usize, data: &Host<f32>) -> Result<()> {
    // Each chunk is first checked by a sum, which is fast. The bad value is searched for only if a sum fails.
    if data.f().chunks(1024).all(|c| c.iter().map(|x| x * 0.0).sum::<f32>() == 0.0) {
        return Ok(());
    }
    let width = data.shape.sample().elements().max(1);
    let bad = data.f().iter().position(|x| !x.is_finite());
    bad.map_or(Ok(()), |i| Err(Error::NonFinite { what: format!("input {input}"), value: data.f()[i], row: i / width, column: i % width }))
}
