//! A rule, and what users set beside it.

use super::{Hyper, MAX_STATES, Rule, Schedule, State, require, update::AnyRule};
use crate::{
    error::{Error, Result},
    graph::ParamDef,
    params::MAX_GROUPS,
};
use std::{fmt, sync::Arc};

/// What is different for some parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupOptions {
    /// Times the optimizer's learning rate; 0 freezes them: nothing changes them or their states, weight decay neither, and their
    /// gradients are neither checked nor part of the norm for clipping.
    pub lr_scale: f64,
    /// Their weight decay, biases and other vectors included; `None`: as if they were in no group.
    pub weight_decay: Option<f64>,
}

impl Default for GroupOptions {
    fn default() -> GroupOptions {
        GroupOptions { lr_scale: 1.0, weight_decay: None }
    }
}

/// What the parameters of one group have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Times the optimizer's learning rate.
    pub lr_scale: f64,
    /// The λ of the rule.
    pub weight_decay: f64,
}

/// The groups of a model: parameters with equal settings are one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    /// By parameter, in the order of the graph; of those that are frozen, the number of groups.
    pub of: Vec<usize>,
    /// At most [`MAX_GROUPS`], each with a learning rate above 0.
    pub settings: Vec<Group>,
}

/// No group, as long as the number of groups is not known.
const FROZEN: usize = usize::MAX;

/// A choice of parameters by name.
type Matches = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// An update rule with its learning rate over time, parameter groups and gradient clipping. Every rule becomes one:
/// `AdamW::new(1e-3)` goes wherever an optimizer is wanted.
///
/// Weight decay applies to matrices and not to biases and other vectors, unless [`decay_all`](Optimizer::decay_all)
/// or a [`group`](Optimizer::group) says otherwise. Steps are counted from 1, as in the formulas of the rules.
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
    /// Which of the rule's states are stored.
    pub(super) kept: [bool; MAX_STATES],
    /// The learning rate, where it is not the rule's own any more.
    lr: Option<f64>,
    schedule: Schedule,
    groups: Vec<(Matches, GroupOptions)>,
    decay_all: bool,
    clip: Option<f64>,
}

impl<R: Rule> From<R> for Optimizer {
    fn from(rule: R) -> Optimizer {
        let states = rule.states();
        let kept = std::array::from_fn(|k| states.get(k).is_some_and(|s| s.kept));
        Optimizer { rule: Arc::new(rule), kept, lr: None, schedule: Schedule::constant(), groups: Vec::new(), decay_all: false, clip: None }
    }
}

impl Optimizer {
    /// With a learning rate that changes over time.
    pub fn schedule(self, schedule: impl Into<Schedule>) -> Optimizer {
        Optimizer { schedule: schedule.into(), ..self }
    }
    /// With options of their own for the parameters whose names match. The first group that matches counts.
    pub fn group(mut self, matches: impl Fn(&str) -> bool + Send + Sync + 'static, options: GroupOptions) -> Optimizer {
        self.groups.push((Arc::new(matches), options));
        self
    }
    /// With weight decay on all parameters, biases included, as PyTorch has it.
    pub fn decay_all(self) -> Optimizer {
        Optimizer { decay_all: true, ..self }
    }
    /// With all gradients scaled by min(1, max / (‖g‖ + 1e-6)), where ‖g‖ is the norm of all of them together, but of those that are
    /// frozen. It is right for gradients from the smallest `f32` to the largest.
    /// PyTorch's `clip_grad_norm_`. Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
    pub fn clip_norm(self, max: f64) -> Optimizer {
        Optimizer { clip: Some(max), ..self }
    }
    /// The name of the rule.
    pub fn name(&self) -> &'static str {
        self.rule.name()
    }
    /// The learning rate of step `t` (from 1), before the groups scale it.
    pub fn lr(&self, t: u64) -> f64 {
        self.base_lr() * self.schedule.at(t.saturating_sub(1))
    }
    /// The learning rate that the schedule multiplies.
    pub(crate) fn base_lr(&self) -> f64 {
        self.lr.unwrap_or_else(|| self.rule.lr())
    }
    /// Another learning rate than the rule's.
    pub(crate) fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_lr(self.name(), lr)?;
        self.lr = Some(lr);
        Ok(())
    }
    /// The norm that gradients are clipped to.
    pub fn clip(&self) -> Option<f32> {
        self.clip.map(|max| max as f32)
    }
    /// The states that are stored: a flat buffer each, that starts filled with [`State::start`].
    pub fn states(&self) -> Vec<State> {
        self.rule.states().into_iter().filter(|s| s.kept).collect()
    }
    /// The hyperparameters of step `t` (from 1), a row for each group; rows without a group are 0.
    pub fn hyper(&self, t: u64, groups: &[Group]) -> [Hyper; MAX_GROUPS] {
        let (lr, mut rows) = (self.lr(t), [[0.0; 8]; MAX_GROUPS]);
        for (row, group) in rows.iter_mut().zip(groups) {
            *row = self.rule.hyper(t, lr * group.lr_scale, group.weight_decay);
        }
        rows
    }
    /// The same as the shaders read it.
    pub fn hyper_rows(&self, t: u64, groups: &[Group]) -> [[f32; 8]; MAX_GROUPS] {
        self.hyper(t, groups).map(|row| row.map(|x| x as f32))
    }
    /// Every option by name, for checkpoints: those of the rule by its `Debug` text, which must show them all (a derived one does), and
    /// what is set beside it.
    pub(crate) fn options(&self) -> Vec<(String, String)> {
        let mut options = fields(&format!("{:?}", self.rule));
        // Of a group; its scale is of the learning rate.
        let decays: Vec<f64> = self.groups.iter().filter_map(|(_, options)| options.weight_decay).collect();
        let mut set = |name: &str, value: String| options.push((name.to_string(), value));
        set("schedule", format!("{:?}", self.schedule));
        set("group_weight_decay", format!("{decays:?}"));
        set("decay_all", self.decay_all.to_string());
        set("clip_norm", self.clip.map_or("none".into(), |max| format!("{max:?}")));
        options
    }
    /// An error if an option is out of range.
    pub fn check(&self) -> Result<()> {
        let name = self.name();
        check_lr(name, self.base_lr())?;
        let decays = self.groups.iter().filter_map(|(_, options)| options.weight_decay);
        for decay in decays.chain([self.rule.weight_decay()]) {
            require(fits(decay), name, "the weight decay", decay, "finite and not negative")?;
        }
        for (_, options) in &self.groups {
            require(fits(options.lr_scale), name, "the lr_scale of a group", options.lr_scale, "finite and not negative")?;
        }
        if let Some(max) = self.clip {
            require(positive(max), name, "the norm to clip to", max, "finite and positive (as f32)")?;
        }
        self.rule.check()?;
        debug_assert!(self.rule.states().len() <= MAX_STATES);
        self.schedule.check()
    }
    /// The group of every parameter that changes; 0 for state, which has none. Checks the options, too: an optimizer that gets through this works.
    ///
    /// # Errors
    /// An option out of range; nothing to train; a group that matches no parameter; more than [`MAX_GROUPS`] groups of
    /// different settings.
    pub fn groups(&self, params: &[ParamDef]) -> Result<Groups> {
        self.check()?;
        if !params.iter().any(|p| p.trained) {
            return Err(Error::argument(self.name(), "the graph has no parameters to train"));
        }
        let mut used = vec![false; self.groups.len()];
        let mut groups = Groups::default();
        for param in params {
            if !param.trained {
                groups.of.push(0);
                continue;
            }
            let i = self.groups.iter().position(|(matches, _)| matches(&param.name));
            let options = i.map_or(GroupOptions::default(), |i| {
                used[i] = true;
                self.groups[i].1
            });
            let by_rule = if param.decay || self.decay_all { self.rule.weight_decay() } else { 0.0 };
            if options.lr_scale == 0.0 {
                groups.of.push(FROZEN);
                continue;
            }
            let group = Group { lr_scale: options.lr_scale, weight_decay: options.weight_decay.unwrap_or(by_rule) };
            let known = groups.settings.iter().position(|g| *g == group);
            groups.of.push(known.unwrap_or(groups.settings.len()));
            if known.is_none() {
                groups.settings.push(group);
            }
        }
        groups.of.iter_mut().filter(|of| **of == FROZEN).for_each(|of| *of = groups.settings.len());
        if let Some(i) = used.iter().position(|used| !used) {
            let names: Vec<&str> = params.iter().filter(|p| p.trained).map(|p| p.name.as_str()).collect();
            let why = format!(
                "group {i} (in the order of the calls) has no parameter: none matches, or earlier groups take them; the names are {}",
                names.join(", ")
            );
            return Err(Error::argument(self.name(), why));
        }
        let n = groups.settings.len();
        if n > MAX_GROUPS {
            let why = format!(
                "{n} parameter groups of different settings, but an optimizer here has at most {MAX_GROUPS} (on any device); give some of them the same lr_scale and weight_decay"
            );
            return Err(Error::argument(self.name(), why));
        }
        Ok(groups)
    }
}

/// Names and values of a struct's derived `Debug` text: `Sgd { lr: 0.1, momentum: 0.9 }`.
fn fields(text: &str) -> Vec<(String, String)> {
    let inner = text.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inner, _)| inner);
    let mut depth = 0;
    // Commas within a value, those of a tuple for instance, are part of it.
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

fn check_lr(rule: &str, lr: f64) -> Result<()> {
    require(positive(lr), rule, "the learning rate", lr, "finite and positive (as f32)")
}

impl fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let groups: Vec<&GroupOptions> = self.groups.iter().map(|(_, options)| options).collect();
        f.debug_struct("Optimizer")
            .field("rule", &self.rule)
            .field("schedule", &self.schedule)
            .field("groups", &groups)
            .field("decay_all", &self.decay_all)
            .field("clip", &self.clip)
            .finish()
    }
}
