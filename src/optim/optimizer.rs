//! The [`Optimizer`]: a rule and the settings that users combine with it.

use super::{Clip, Hyper, MAX_STATES, Rule, Schedule, State, average::Average, require, update::AnyRule, whole::Tensors};
use crate::{
    error::{Error, Result},
    graph::ParamDef,
    params::Status,
};
use std::{fmt, sync::Arc};

/// The options of a parameter group. They replace options of the optimizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupOptions {
    /// The factor by which the optimizer's learning rate is multiplied; 1 by default. A factor of 0
    /// [freezes](Optimizer::freeze) the parameters. A positive factor that is 0 as `f32` is an error.
    pub lr_scale: f64,
    /// The weight decay of all parameters of the group, biases and other vectors included. With `None`, the weight decay is the
    /// same as without a group.
    pub weight_decay: Option<f64>,
}

impl Default for GroupOptions {
    fn default() -> GroupOptions {
        GroupOptions { lr_scale: 1.0, weight_decay: None }
    }
}

/// The settings that all parameters of a group share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The factor by which the optimizer's learning rate is multiplied.
    pub lr_scale: f64,
    /// The weight decay, λ in the formulas of the rules.
    pub weight_decay: f64,
}

/// The groups of a model. Parameters with equal settings are in one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    /// The status of each parameter, in the order of the graph.
    pub statuses: Vec<Status>,
    /// The settings of each group. A frozen parameter is in no group.
    pub settings: Vec<Group>,
    /// The number of groups of [whole](Status::Whole) parameters. They come last.
    pub whole: usize,
}

/// Selects parameters by name.
type Matches = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// An update rule with a learning rate schedule, parameter groups and gradient clipping. Every rule converts into an optimizer:
/// pass `AdamW::new(1e-3)` wherever a function takes an optimizer.
///
/// Weight decay applies to matrices and other weights of two or more axes. It does not apply to biases, to the parameters of
/// norms and to other vectors, unless [`decay_all`](Optimizer::decay_all) or a [`group`](Optimizer::group) says so. A parameter
/// is a bias if the last part of its name has the word `bias`, as in `fc1.bias` or `gru.bias_ih`. Steps are counted from 1, as in
/// the formulas of the rules.
///
/// ```
/// use downhill::optim::{AdamW, GroupOptions, Schedule};
/// let optimizer = AdamW::new(1e-3)
///     .schedule(Schedule::warmup(100).then(Schedule::cosine(900)))
///     .group(|name| name.starts_with("encoder."), GroupOptions { lr_scale: 0.1, ..Default::default() })
///     .clip_norm(1.0);
/// assert_eq!(optimizer.lr(101), 1e-3);
/// ```
#[derive(Clone)]
pub struct Optimizer {
    pub(super) rule: Arc<dyn AnyRule>,
    /// The rule that is written with tensors, if there is one. It has its own parameters, and `rule` has the rest.
    pub(super) tensors: Option<Tensors>,
    /// Whether each of the rule's states is stored.
    pub(super) kept: [bool; MAX_STATES],
    /// The learning rate that replaces the rule's learning rate, if one was set.
    lr: Option<f64>,
    schedule: Schedule,
    /// The schedule in steps, once the number of steps in an epoch is known, and the numbers that it was made with.
    timed: Option<(Schedule, [u64; 2])>,
    groups: Vec<(Matches, GroupOptions)>,
    /// Names of parameters, layers and blocks of layers.
    frozen: Vec<String>,
    /// Names of parameters, layers and blocks of layers that belong to the rule for the rest.
    pub(super) except: Vec<String>,
    decay_all: bool,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    /// At most one of each kind. More than one is an error.
    pub(super) averages: Vec<Average>,
}

impl<R: Rule> From<R> for Optimizer {
    fn from(rule: R) -> Optimizer {
        let (states, clip_norm) = (rule.states(), rule.max_grad_norm());
        let kept = std::array::from_fn(|k| states.get(k).is_some_and(|s| s.kept));
        Optimizer {
            rule: Arc::new(rule),
            tensors: None,
            kept,
            lr: None,
            schedule: Schedule::constant(),
            timed: None,
            groups: Vec::new(),
            frozen: Vec::new(),
            except: Vec::new(),
            decay_all: false,
            clip_norm,
            clip_value: None,
            averages: Vec::new(),
        }
    }
}

impl Optimizer {
    /// Sets a learning rate that changes over time.
    pub fn schedule(self, schedule: impl Into<Schedule>) -> Optimizer {
        Optimizer { schedule: schedule.into(), timed: None, ..self }
    }
    /// Sets different options for the parameters whose names match. If several groups match a name, the first one counts.
    pub fn group(mut self, matches: impl Fn(&str) -> bool + Send + Sync + 'static, options: GroupOptions) -> Optimizer {
        self.groups.push((Arc::new(matches), options));
        self
    }
    /// Applies weight decay to all parameters, biases included, as PyTorch does.
    pub fn decay_all(self) -> Optimizer {
        Optimizer { decay_all: true, ..self }
    }
    /// Scales all gradients by min(1, max / (‖g‖ + 1e-6)), where ‖g‖ is the norm of the gradients of all trained parameters
    /// together. Frozen parameters do not count. The norm neither overflows nor underflows, however large or small the
    /// gradients are. Each [`StepReport`](crate::train::StepReport) states the norm before clipping.
    ///
    /// PyTorch's `clip_grad_norm_`. Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, init::Init, optim::Sgd};
    /// let g = Graph::training();
    /// let w = g.param("w", [2], Init::Zeros);
    /// let mut trainer = Trainer::new(&Device::cpu(), (w * g.input([2])).sum_all(), Sgd::new(1.0).clip_norm(1.0))?;
    /// trainer.step(&[Host::new([2], vec![3.0, -4.0])])?;
    /// let report = trainer.take_reports()?.remove(0);
    /// assert_eq!((report.grad_norm, report.grad_max), (5.0, 4.0));
    /// assert!((trainer.params().get("w")?.f()[1] - 0.8).abs() < 1e-6);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn clip_norm(self, max: f64) -> Optimizer {
        Optimizer { clip_norm: Some(max), ..self }
    }
    /// Limits each element of the gradients to the range from −max to max. If [`clip_norm`](Optimizer::clip_norm) is set as
    /// well, gradients are scaled first and limited then. The order of the two calls does not matter. Clipping does not hide a
    /// gradient that is not finite: the step fails with [`Error::Diverged`]. Each [`StepReport`](crate::train::StepReport)
    /// states the largest magnitude before clipping.
    ///
    /// PyTorch's `clip_grad_value_`.
    pub fn clip_value(self, max: f64) -> Optimizer {
        Optimizer { clip_value: Some(max), ..self }
    }
    /// Freezes some parameters, so that training does not change them. PyTorch's `requires_grad_(False)`. A name is the name of
    /// a parameter (`fc1.weight`), of a layer (`fc1`), or of a block of layers (`encoder` for `encoder.fc1.weight`). A later
    /// call adds to the names.
    ///
    /// A frozen parameter has no gradient and no state of the optimizer. It counts in no norm, and weight decay does not change
    /// it. A step computes nothing that only its gradient would need: if the first layers are frozen, the backward pass ends
    /// after them. The state of a frozen layer still changes, for instance the running averages of batch norm.
    /// [`Params::set`](crate::train::Params::set) can still set a frozen parameter.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, optim::Adam};
    /// let g = Graph::training();
    /// let loss = g.input([4, 3]).linear("fc1", 8).relu().linear("fc2", 1).square().mean_all();
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Adam::new(0.1).freeze(["fc1"]))?;
    /// let before = trainer.params().get("fc1.weight")?;
    /// trainer.step(&[Host::new([4, 3], vec![0.5; 12])])?;
    /// assert_eq!(trainer.params().get("fc1.weight")?, before);
    /// assert!(trainer.gradient("fc1.weight").is_err());
    /// # Ok::<(), downhill::Error>(())
    /// ```
    pub fn freeze<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Optimizer {
        self.frozen.extend(names.into_iter().map(Into::into));
        self
    }
    /// Gives some parameters to the rule for the rest, although the main rule could update them: embeddings and the last layer, for
    /// example. A name is the name of a parameter, of a layer, or of a block of layers, as in [`freeze`](Optimizer::freeze). A later call
    /// adds to the names. See [`Muon::rest`](super::Muon::rest).
    pub fn except<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Optimizer {
        self.except.extend(names.into_iter().map(Into::into));
        self
    }
    /// Returns the name of the rule.
    pub fn name(&self) -> &'static str {
        self.tensors.as_ref().map_or_else(|| self.rule.name(), |tensors| tensors.rule.name())
    }
    /// Returns the learning rate of step `t` (from 1), before the groups scale it. The rate is NaN if the schedule counts epochs
    /// or samples and [`Trainer::fit`](crate::Trainer::fit) has not turned them into steps.
    pub fn lr(&self, t: u64) -> f64 {
        let schedule = self.timed.as_ref().map_or(&self.schedule, |(schedule, _)| schedule);
        self.base_lr() * schedule.at(t.saturating_sub(1))
    }
    /// Turns the epochs and samples of the schedule into steps. `made` is the number of steps made so far.
    ///
    /// # Errors
    /// The schedule counts epochs or samples, and the steps so far were counted with other numbers.
    pub(crate) fn time(&mut self, steps_per_epoch: usize, samples_per_step: usize, made: u64) -> Result<()> {
        let now = [steps_per_epoch as u64, samples_per_step as u64];
        if self.schedule.is_in_steps() || now.contains(&0) {
            return Ok(());
        }
        if let Some((_, [steps, samples])) = self.timed.as_ref().filter(|(_, old)| *old != now && made > 0) {
            let why = format!(
                "the schedule counts epochs or samples, and the {made} steps so far had {samples} samples and epochs of {steps} steps, but now \
                 they have {samples_per_step} samples and epochs of {steps_per_epoch} steps; keep the batch size and the data set, or give \
                 the schedule in steps (Schedule::to_steps)"
            );
            return Err(Error::argument(self.name(), why));
        }
        self.timed = Some((self.schedule.to_steps(now[0], now[1])?, now));
        Ok(())
    }
    /// Returns an error if the schedule counts epochs or samples that were not turned into steps.
    pub(crate) fn check_time(&self) -> Result<()> {
        match self.timed.is_some() || self.schedule.is_in_steps() {
            true => Ok(()),
            false => Err(Error::argument(
                self.name(),
                "the schedule counts epochs or samples, which Trainer::fit turns into steps; for steps without fit, give the schedule in \
                 steps (Schedule::to_steps)",
            )),
        }
    }
    /// Returns the learning rate that the schedule multiplies.
    pub(crate) fn base_lr(&self) -> f64 {
        self.lr.unwrap_or_else(|| self.rule_lr())
    }
    /// Returns the learning rate of the rule.
    fn rule_lr(&self) -> f64 {
        self.tensors.as_ref().map_or_else(|| self.rule.lr(), |tensors| tensors.rule.lr())
    }
    /// Returns the learning rate that replaces the rule's learning rate, if one was set.
    pub(crate) fn lr_set(&self) -> Option<f64> {
        self.lr
    }
    /// Replaces the rule's learning rate.
    pub(crate) fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_lr(self.name(), lr)?;
        self.lr = Some(lr);
        Ok(())
    }
    /// Returns the limits of gradient clipping.
    pub fn clip(&self) -> Clip {
        Clip { norm: self.clip_norm.map(|max| max as f32), value: self.clip_value.map(|max| max as f32) }
    }
    /// Returns the states that are stored. Each state is a flat buffer, initially filled with [`State::start`]. An average of the weights
    /// comes last.
    pub fn states(&self) -> Vec<State> {
        self.rule_states().into_iter().chain(self.average_state()).collect()
    }
    /// Returns the stored states of the rules.
    pub(super) fn rule_states(&self) -> Vec<State> {
        let whole = self.tensors.iter().flat_map(|tensors| tensors.rule.states()).map(|name| State::zero(name));
        self.elementwise_states().into_iter().chain(whole).collect()
    }
    /// Returns the stored states of the rule that have an element for each element of a parameter. They are the first of all states.
    pub(crate) fn elementwise_states(&self) -> Vec<State> {
        self.rule.states().into_iter().filter(|s| s.kept).collect()
    }
    /// Returns the hyperparameters of step `t` (from 1), one row for each group. For a rule that is written with tensors, the groups are
    /// those of the rest. If there is an average of the weights, the row of the average comes last.
    pub fn hyper<'a>(&'a self, t: u64, groups: &'a [Group]) -> impl Iterator<Item = Hyper> + 'a {
        // A schedule and a rate that was set change both rates by the same factor.
        let lr = if self.tensors.is_some() { self.rule.lr() * (self.lr(t) / self.rule_lr()) } else { self.lr(t) };
        groups.iter().map(move |group| self.rule.hyper(t, lr * group.lr_scale, group.weight_decay)).chain(self.average_row(t))
    }
    /// Returns every option with its name, for checkpoints. The rule's options come from its `Debug` text, which must show them
    /// all (a derived `Debug` does). The options of the optimizer follow.
    pub(crate) fn options(&self) -> Vec<(String, String)> {
        let mut options = fields(&format!("{:?}", self.rule));
        if let Some(tensors) = &self.tensors {
            options = tensors.options(self.rule.name(), options, &self.except);
        }
        // Only the weight decays of the groups. The scale of a group belongs to the learning rate.
        let decays: Vec<f64> = self.groups.iter().filter_map(|(_, options)| options.weight_decay).collect();
        let mut set = |name: &str, value: String| options.push((name.to_string(), value));
        set("schedule", format!("{:?}", self.schedule));
        set("group_weight_decay", format!("{decays:?}"));
        set("decay_all", self.decay_all.to_string());
        let number = |max: Option<f64>| max.map_or("none".into(), |max| format!("{max:?}"));
        set("clip_norm", number(self.clip_norm));
        set("clip_value", number(self.clip_value));
        self.average_option().into_iter().for_each(|average| set("average", average));
        options
    }
    /// Returns an error if an option is out of range.
    pub fn check(&self) -> Result<()> {
        let name = self.name();
        check_lr(name, self.base_lr())?;
        let decays = self.groups.iter().filter_map(|(_, options)| options.weight_decay);
        let whole = self.tensors.as_ref().map(|tensors| &tensors.rule);
        for decay in decays.chain([self.rule.weight_decay()]).chain(whole.map(|rule| rule.weight_decay())) {
            require(fits(decay), name, "the weight decay", decay, "finite and not negative")?;
        }
        for (_, options) in &self.groups {
            // A scale that is 0 as `f32` would train the parameters without moving them.
            let scale = options.lr_scale;
            require(scale == 0.0 || positive(scale), name, "the lr_scale of a group", scale, "0, or finite and positive (as f32)")?;
        }
        for (what, max) in [("the norm to clip to", self.clip_norm), ("the value to clip to", self.clip_value)] {
            max.map_or(Ok(()), |max| require(positive(max), name, what, max, "finite and positive (as f32)"))?;
        }
        if let Some(rule) = whole {
            rule.check()?;
            check_lr(self.rule.name(), self.rule.lr())?;
        }
        self.rule.check()?;
        check_states(name, &self.rule.states(), self.average_state())?;
        self.check_average()?;
        self.schedule.check()
    }
    /// Returns the status of each parameter and the settings of the groups. The options are checked as well: an optimizer that
    /// passes this check works.
    ///
    /// # Errors
    /// An option is out of range. The graph has no parameters to train, or all of them are frozen. A group or a frozen name
    /// matches no trained parameter.
    pub fn groups(&self, params: &[ParamDef]) -> Result<Groups> {
        self.check()?;
        let names = || params.iter().filter(|p| p.trained).map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        if !params.iter().any(|p| p.trained) {
            return Err(Error::argument(self.name(), "the graph has no parameters to train"));
        }
        // `name` is the whole name of the parameter, or its start up to a dot.
        let is = |param: &ParamDef, name: &str| param.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if let Some(name) = self.frozen.iter().find(|name| !params.iter().any(|p| p.trained && is(p, name))) {
            let why = match params.iter().any(|p| is(p, name)) {
                true => "which is state: no optimizer changes it; leave the name out",
                false => "and there is no parameter or layer of that name",
            };
            return Err(Error::argument(self.name(), format!("freeze names `{name}`, {why}; the names are {}", names())));
        }
        let tensors = self.tensors.as_ref();
        let excepted = |param: &ParamDef| self.except.iter().any(|name| is(param, name));
        if !self.except.is_empty() && !tensors.is_some_and(|tensors| tensors.rest) {
            return Err(Error::argument(
                self.name(),
                "`except` gives parameters to the rule for the rest, but there is none; see Muon::rest",
            ));
        }
        if let Some(name) = self.except.iter().find(|name| !params.iter().any(|p| p.trained && is(p, name))) {
            let why = format!("except names `{name}`, and there is no trained parameter or layer of that name; the names are {}", names());
            return Err(Error::argument(self.name(), why));
        }
        let mut used = vec![false; self.groups.len()];
        let mut groups = Groups::default();
        let (mut whole, mut left) = (Vec::new(), Vec::new());
        for param in params {
            if !param.trained {
                groups.statuses.push(Status::State);
                continue;
            }
            let i = self.groups.iter().position(|(matches, _)| matches(&param.name));
            let options = i.map_or(GroupOptions::default(), |i| {
                used[i] = true;
                self.groups[i].1
            });
            if options.lr_scale == 0.0 || self.frozen.iter().any(|name| is(param, name)) {
                groups.statuses.push(Status::Frozen);
                continue;
            }
            let taken = tensors.filter(|tensors| tensors.rule.takes(param.shape) && !excepted(param));
            if tensors.is_some_and(|tensors| taken.is_none() && !tensors.rest) {
                left.push(format!("{} {}", param.name, param.shape));
            }
            let by_rule = taken.map_or_else(|| self.rule.weight_decay(), |tensors| tensors.rule.weight_decay());
            let by_rule = if param.decay || self.decay_all { by_rule } else { 0.0 };
            let own = Group { lr_scale: options.lr_scale, weight_decay: options.weight_decay.unwrap_or(by_rule) };
            let settings = if taken.is_some() { &mut whole } else { &mut groups.settings };
            let known = settings.iter().position(|g| *g == own);
            let group = known.unwrap_or(settings.len());
            groups.statuses.push(if taken.is_some() { Status::Whole { group } } else { Status::Trained { group } });
            if known.is_none() {
                settings.push(own);
            }
        }
        if let Some(tensors) = tensors.filter(|_| !left.is_empty()) {
            return Err(Error::argument(self.name(), format!("{}: {}", tensors.rule.why_not(), left.join(", "))));
        }
        // The groups of whole parameters come last.
        groups.statuses.iter_mut().for_each(|status| {
            if let Status::Whole { group } = status {
                *group += groups.settings.len();
            }
        });
        groups.whole = whole.len();
        groups.settings.extend(whole);
        if let Some(i) = used.iter().position(|used| !used) {
            let why = format!(
                "group {i} (counted from 0) has no parameter: no name matches, or earlier groups match them; the names are {}",
                names()
            );
            return Err(Error::argument(self.name(), why));
        }
        if groups.settings.is_empty() {
            let why = format!("every parameter is frozen, so there is nothing to train; leave one of them out; the names are {}", names());
            return Err(Error::argument(self.name(), why));
        }
        Ok(groups)
    }
}

/// Splits a struct's derived `Debug` text into names and values: `Sgd { lr: 0.1, momentum: 0.9 }`.
pub(super) fn fields(text: &str) -> Vec<(String, String)> {
    let inner = text.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inner, _)| inner);
    let mut depth = 0;
    // A comma within a value, such as a tuple, does not end the value.
    let parts = inner.split(|c: char| {
        depth += i32::from("([{".contains(c)) - i32::from(")]}".contains(c));
        c == ',' && depth == 0
    });
    parts.filter_map(|part| part.split_once(": ")).map(|(name, value)| (name.trim().into(), value.trim().into())).collect()
}

fn fits(x: f64) -> bool {
    (x as f32).is_finite() && x >= 0.0
}

fn positive(x: f64) -> bool {
    fits(x) && x as f32 > 0.0
}

/// Returns an error unless the states have different names and finite starts. Shaders and checkpoints identify a state by its
/// name.
fn check_states(rule: &str, states: &[State], average: Option<State>) -> Result<()> {
    if states.len() > MAX_STATES {
        return Err(Error::argument(rule, format!("Rule::states gives {} states, but there can be {MAX_STATES}", states.len())));
    }
    for (i, state) in states.iter().enumerate() {
        if average.is_some_and(|average| average.name == state.name) {
            let why = format!("Rule::states gives a state of the name `{}`, which is that of the average of the weights", state.name);
            return Err(Error::argument(rule, why));
        }
        if states[..i].iter().any(|other| other.name == state.name) {
            return Err(Error::argument(rule, format!("Rule::states gives two states of the name `{}`", state.name)));
        }
        require(state.start.is_finite(), rule, &format!("the start of the state `{}`", state.name), state.start.into(), "finite")?;
    }
    Ok(())
}

pub(super) fn check_lr(rule: &str, lr: f64) -> Result<()> {
    require(positive(lr), rule, "the learning rate", lr, "finite and positive (as f32)")
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let groups: Vec<&GroupOptions> = self.groups.iter().map(|(_, options)| options).collect();
        f.debug_struct("Optimizer")
            .field("rule", &self.rule)
            .field("tensors", &self.tensors)
            .field("schedule", &self.schedule)
            .field("groups", &groups)
            .field("frozen", &self.frozen)
            .field("except", &self.except)
            .field("decay_all", &self.decay_all)
            .field("clip_norm", &self.clip_norm)
            .field("clip_value", &self.clip_value)
            .field("averages", &self.averages)
            .finish()
    }
}
