//! Training: [`Trainer`] holds a model's weights and optimizer on a device, and the plans that use them.

mod checkpoint;
mod cut;
mod evaluate;
mod feed;
mod fit;
mod gradients;
mod memory;
pub mod metrics;
mod model;
mod options;
mod outputs;
mod params;
mod plans;
mod progress;
mod reports;
mod steps;
mod summary;
mod tally;
#[cfg(test)]
mod tests;
mod tried;

pub use evaluate::Evaluation;
pub use options::{Epoch, Event, Fit, History};
pub use params::Params;

use crate::{
    compiled::Compiled,
    data::Dataset,
    device::Device,
    engine::{Engine, RING, Ring, Store, Updater},
    error::{Error, Result},
    gpu::{Collected, Counters, StepRow},
    graph::{Graph, InputDef, ParamDef, Tensor},
    host::Host,
    optim::Optimizer,
    params::Status,
    plan::{Draft, Loc, Plan},
    shape::{DType, Shape},
};
use model::{Model, TargetKind, Written};
use plans::{Batch, Latest};
use std::{collections::VecDeque, sync::Arc};
use tally::{Tally, Tracked};

/// A plan of the training graph at one batch size.
struct Loaded {
    engine: Engine,
    inputs: Vec<InputDef>,
    batch: usize,
    plan: String,
}

/// A batch, or a micro-batch, whose report has not come yet.
#[derive(Clone, Copy)]
struct Made {
    row: StepRow,
    samples: usize,
    /// Whether its gradients were given, so that it has no loss.
    given: bool,
}

/// The loss of one step, how large its gradients were and, for a classifier, its accuracy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// From 0.
    pub step: u64,
    /// Before this step's update.
    pub loss: f32,
    /// The share of this batch's labels predicted before the step's update, for a classifier; `None` where none of them counts.
    pub accuracy: Option<f32>,
    /// Of the batch, all micro-batches together; for a graph of your own, the first axis of its first input.
    pub samples: usize,
    /// The norm of the gradients of all trained parameters together, before clipping: what [`clip_norm`](Optimizer::clip_norm) bounds.
    /// Gradients are those of the whole batch. It is infinite where it is larger than any `f32`.
    pub grad_norm: f32,
    /// The largest magnitude of an element of these gradients, before clipping: what [`clip_value`](Optimizer::clip_value) bounds.
    pub grad_max: f32,
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
    update: Updater,
    store: Store,
    params: Vec<ParamDef>,
    /// `None` where the trainer was made of one graph.
    model: Option<Model>,
    /// The summary of that one graph.
    graph_summary: String,
    /// What is computed in a step of that one graph.
    graph_plan: Option<Plan>,
    /// Plans of the training graph.
    plans: Latest<Batch, Loaded>,
    /// Plans of the inference graph by batch size, and what each keeps.
    inference: Latest<usize, (Compiled, Tracked)>,
    /// Samples of a batch of evaluation, where somebody said so.
    evaluation: Option<usize>,
    small: Option<evaluate::Small>,
    /// The bytes that the last call of `fit` was given, if it was.
    budget: Option<u64>,
    seed: u64,
    step: u64,
    epoch: u64,
    /// Micro-batches of the next step so far.
    micro: u32,
    /// Batches computed so far: the next one's number in the ring.
    batches: u64,
    /// Those that are run next, in memory that is used again.
    rows: Vec<StepRow>,
    /// Whether those of before fetched their batches.
    fed: bool,
    /// The plan of the last step, whose inputs still hold its batch.
    last: Option<Batch>,
    ring: Ring,
    /// What a step leaves there.
    kept: Tracked,
    /// Batches whose loss has not been asked for yet; then those that have not come.
    unread: Vec<Made>,
    asked: Vec<Made>,
    /// What the micro-batches of a step add up to, as far as they have come.
    part: Tally,
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
    /// The graph's first mistake, with its line; a loss that is not a single number, or depends on no trained parameter; a graph made by
    /// [`Graph::inference`] in which a layer is not as in training; an optimizer's option out of range; a limit of the device.
    pub fn new(device: &Device, loss: Tensor, optimizer: impl Into<Optimizer>) -> Result<Trainer> {
        pollster::block_on(Trainer::new_async(device, loss, optimizer))
    }
    /// [`new`](Trainer::new), without blocking.
    pub async fn new_async(device: &Device, loss: Tensor<'_>, optimizer: impl Into<Optimizer>) -> Result<Trainer> {
        check_loss(loss)?;
        let (kept, numbers) = Tracked::of(loss, None);
        let mut trainer = Trainer::empty(device, loss, optimizer.into(), numbers.len(), kept).await?;
        let draft = training_draft(device, &numbers, loss, &trainer.update.groups.statuses)?;
        let plan = device.lower(draft, &device.plan_options()).await?;
        let whole = trainer.complete(Batch::Whole(0), plan.clone())?;
        let memory = trainer.memory_of(&whole)?;
        trainer.graph_summary = trainer.summarise(loss, &whole, &memory);
        trainer.graph_plan = Some(plan);
        trainer.load_plan(Batch::Whole(0), whole).await?;
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
    /// As [`Trainer::new`]. The model is tried with a few samples, and shapes in an error have `n` where their size is that of a batch:
    /// `matmul: [n, 784] × fc2.weight [10, 512]: inner dimensions 784 and 512 differ`.
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
        let optimizer = optimizer.into();
        let model = Model::new(Box::new(model), Box::new(loss), data.sample_shape(), TargetKind::of(data.target()))?;
        model.try_with(&optimizer)?;
        let g = Graph::training();
        let Written { loss, numbers, kept, .. } = model.write(&g, SOME)?;
        let mut trainer = Trainer::empty(device, loss, optimizer, numbers.len(), kept).await?;
        trainer.model = Some(model);
        Ok(trainer)
    }
    /// Without a plan; so many numbers of a step are to be read.
    async fn empty(device: &Device, loss: Tensor<'_>, optimizer: Optimizer, width: usize, kept: Tracked) -> Result<Trainer> {
        loss.graph().check()?;
        let params = loss.graph().inner.borrow().params.clone();
        let update = Updater::new(optimizer, &params)?;
        let idle = gradients(loss, &update.groups.statuses)?.1;
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
            graph_plan: None,
            plans: Latest::new(PLANS),
            inference: Latest::new(PLANS),
            evaluation: None,
            small: None,
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
            kept,
            unread: Vec::with_capacity(RING),
            asked: Vec::with_capacity(RING),
            part: Tally::default(),
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

    /// Makes sure that there is a plan for such a batch, if it has samples.
    async fn plan(&mut self, key: Batch) -> Result<()> {
        let none = self.model.is_some() && key.samples() == Some(0);
        if none || self.plans.get(key).is_some() {
            return Ok(());
        }
        let plan = self.complete(key, self.computed(key).await?)?;
        self.load_plan(key, plan).await
    }
    /// A plan of what is computed for such a batch, with kernels that were measured.
    async fn computed(&self, key: Batch) -> Result<Plan> {
        let options = self.device.plan_options();
        match (&self.model, key.samples()) {
            (Some(_), Some(batch)) => self.device.lower(self.draft(batch)?, &options).await,
            (_, None) => Plan::new(&[Graph::training().scalar(0.0)], &[], &options),
            (None, _) => Ok(self.graph_plan.clone().expect("a trainer without a model is made of one graph")),
        }
    }
    fn draft(&self, batch: usize) -> Result<Draft> {
        let (draft, kept) = self.model("step")?.draft(&self.device, batch, &self.update.groups.statuses)?;
        if kept != self.kept {
            let why = format!("for {batch} samples its loss has other terms than for {SOME}; its terms must not depend on the batch size");
            return Err(Error::argument("model", why));
        }
        Ok(draft)
    }
    /// Adds the update to what is computed.
    fn complete(&self, key: Batch, mut plan: Plan) -> Result<Plan> {
        plan.bind_params(&self.params)?;
        let weight = match key {
            Batch::Micro(_) => Some(match self.kept.weight(&plan.outputs)? {
                Some(output) => plan.outputs[output].0,
                None => {
                    plan.constants.push(Arc::new(Host::new(Shape::SCALAR, vec![samples(&plan) as f32])));
                    Loc::Constant(plan.constants.len() - 1)
                }
            }),
            _ => None,
        };
        self.update.append(&self.device, &mut plan, &self.store.layout(), weight);
        Ok(plan)
    }
    async fn load_plan(&mut self, key: Batch, plan: Plan) -> Result<()> {
        let (inputs, batch, text) = (plan.inputs.clone(), samples(&plan), plan.to_string());
        // What steps that are queued still use stays with the device until they are done.
        if let Some(old) = self.plans.room(self.last) {
            self.gone = old.engine.gpu().map(|exec| exec.counters()).into_iter().chain([self.gone]).sum();
        }
        let engine = Engine::new(&self.device, plan, &self.store, Some(&self.ring)).await?;
        self.plans.insert(key, Loaded { engine, inputs, batch, plan: text });
        Ok(())
    }
    /// Lets go of all plans, and of what outputs are read through.
    fn release(&mut self) {
        let training = self.plans.take().filter_map(|loaded| loaded.engine.gpu().map(|exec| exec.counters())).collect::<Vec<_>>();
        let inference = self.inference.take().filter_map(|(f, _)| f.counters());
        let outputs = self.collected.take().map(|collected| collected.counters());
        self.gone = training.into_iter().chain(inference).chain(outputs).chain([self.gone]).sum();
        self.last = None;
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
        g.mistake("loss", &[loss], why, loss.place());
    }
    g.check()
}

/// The samples of a batch: the first axis of the first input.
fn samples(plan: &Plan) -> usize {
    plan.inputs.first().and_then(|i| i.shape.dims().first().copied()).unwrap_or(1)
}

/// What a step computes: the outputs (the loss first) and the gradients, before kernels are chosen.
#[track_caller]
fn training_draft(device: &Device, outputs: &[Tensor], loss: Tensor, statuses: &[Status]) -> Result<Draft> {
    Draft::new(outputs, &gradients(loss, statuses)?.0, &device.plan_options())
}

/// What a step computes for each parameter, and the names of the trained parameters that the loss does not depend on.
#[track_caller]
fn gradients<'g>(loss: Tensor<'g>, statuses: &[Status]) -> Result<(Vec<Option<Tensor<'g>>>, Vec<String>)> {
    check_loss(loss)?;
    let g = loss.graph();
    let grads = g.param_grads(loss, |i| statuses[i] == Status::Frozen);
    g.check()?;
    let trained = statuses.iter().filter(|status| matches!(status, Status::Trained { .. })).count();
    let idle: Vec<String> = {
        let g = g.inner.borrow();
        let is_idle = |grad: &Option<Tensor>| grad.is_some_and(|grad| g.nodes[grad.id].is_zeros());
        g.params.iter().zip(&grads).filter(|(p, grad)| p.trained && is_idle(grad)).map(|(p, _)| p.name.clone()).collect()
    };
    if trained == idle.len() && trained > 0 {
        let why = format!(
            "it depends on no {}parameter ({}), so that there is nothing to train; compute it from the model's output",
            if statuses.contains(&Status::Frozen) { "trained " } else { "" },
            idle.join(", ")
        );
        return Err(Error::Op { op: "loss".into(), operands: vec![loss.to_string()], why, place: loss.place() });
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
