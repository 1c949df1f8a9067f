//! Rules that are written with tensors, and the steps of a plan that apply them.
//!
//! Such a rule is a function from the tensors of one parameter to its new weight and its new states. The function writes nodes of
//! a graph, so matrix products, fusion, memory and both devices are those of every graph. New weights and states are computed into
//! slots. When all of them are known to be finite, they are stored. So a step that fails writes nothing.

use super::{Control, Group, Groups, Hyper, MAX_STATES, Optimizer, Readouts, Rule, optimizer::fields, steps::Steps};
use crate::{
    error::Result,
    graph::{Graph, NodeKind, ParamDef, Tensor},
    init::Init,
    kernel::{Caps, Kernel},
    params::{Layout, Owners, Status},
    plan::{Draft, Flat, Loc, Phase, Plan, PlanOptions, Slot, Step, Update, Work},
    shape::{DType, Shape},
};
use std::{fmt, sync::Arc};

/// An update rule for whole parameters.
///
/// Checkpoints store the options of a rule as its `Debug` text, as those of a [`Rule`].
pub(crate) trait TensorRule: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the optimizer.
    fn name(&self) -> &'static str;
    fn lr(&self) -> f64;
    fn weight_decay(&self) -> f64;
    /// Returns an error if an option of the rule is out of range. The [`Optimizer`] checks learning rate and weight decay.
    fn check(&self) -> Result<()>;
    /// Returns whether the rule updates a parameter of this shape.
    fn takes(&self, shape: Shape) -> bool;
    /// Returns a sentence for the error that lists parameters which the rule does not take.
    fn why_not(&self) -> &'static str {
        "it updates no parameter of these shapes"
    }
    /// Returns the names of the states. All of them start as 0.
    fn states(&self) -> &'static [&'static str];
    /// Returns the shape of each state of a parameter, or `None` for a state that a parameter of this shape does not have.
    fn state_shapes(&self, shape: Shape) -> Vec<Option<Shape>>;
    /// Returns the hyperparameters of step `t` (from 1).
    fn hyper(&self, t: u64, lr: f64, decay: f64) -> Hyper;
    /// Writes the new weight and the new states of a parameter, from its weight, its clipped gradient and its states.
    fn update<'g>(&self, w: Tensor<'g>, g: Tensor<'g>, s: &[Tensor<'g>], h: &Numbers<'g>) -> (Tensor<'g>, Vec<Tensor<'g>>);
}

/// The hyperparameters of a parameter as tensors.
pub(crate) struct Numbers<'g> {
    pub(super) all: Tensor<'g>,
    pub(super) first: usize,
}

impl<'g> Numbers<'g> {
    /// Returns entry `k` of the rule's [`Hyper`].
    pub fn at(&self, k: usize) -> Tensor<'g> {
        number(self.all, self.first + k)
    }
}

/// The numbers before the hyperparameters: the two factors that clip gradients.
pub(super) const FACTORS: usize = 2;

fn number(all: Tensor<'_>, k: usize) -> Tensor<'_> {
    all.slice(0, k, k + 1).reshape([])
}

/// A rule that is written with tensors.
#[derive(Clone, Debug)]
pub(super) struct Tensors {
    pub rule: Arc<dyn TensorRule>,
    /// Whether the optimizer has a rule for the rest.
    pub rest: bool,
}

impl Tensors {
    /// Returns all options of both rules, for checkpoints. `rest` has the options of the rule for the rest.
    pub fn options(&self, name: &str, rest: Vec<(String, String)>, except: &[String]) -> Vec<(String, String)> {
        let mut options = fields(&format!("{:?}", self.rule));
        if self.rest {
            options.push(("rest".into(), name.into()));
            options.extend(rest.into_iter().map(|(name, value)| (format!("rest.{name}"), value)));
            options.push(("except".into(), if except.is_empty() { "none".into() } else { except.join(" ") }));
        }
        options
    }
}

/// The update of all whole parameters as a graph.
pub(crate) struct WholeDraft {
    pub draft: Draft,
    ties: Ties,
}

/// The update of all whole parameters as a plan of its own. Plans of training take it in.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    plan: Plan,
    ties: Ties,
}

/// What the inputs and outputs of the graph stand for.
#[derive(Clone, Debug, Default)]
struct Ties {
    /// The place of each input behind the first input, which has the numbers.
    inputs: Vec<Loc>,
    /// The place of each output, and the flag of the guard that says that it would overflow.
    outputs: Vec<(Loc, usize)>,
}

/// What an update has beside its optimizer.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub groups: &'a Groups,
    pub whole: Option<&'a Whole>,
    pub readouts: Readouts,
}

impl WholeDraft {
    /// Returns the plan that the draft was lowered to.
    pub fn lowered(self, lower: impl FnOnce(Draft) -> Plan) -> Whole {
        Whole { plan: lower(self.draft), ties: self.ties }
    }
    /// Separates the draft from what its inputs and outputs stand for.
    pub async fn lower<F: Future<Output = Result<Plan>>>(self, lower: impl FnOnce(Draft) -> F) -> Result<Whole> {
        Ok(Whole { plan: lower(self.draft).await?, ties: self.ties })
    }
}

impl Optimizer {
    /// Makes an optimizer with a rule that is written with tensors. `rest` updates the parameters that the rule does not take.
    pub(super) fn of_tensors(rule: impl TensorRule, rest: Option<impl Rule>) -> Optimizer {
        let lr = rule.lr();
        let tensors = Some(Tensors { rule: Arc::new(rule), rest: rest.is_some() });
        // Without a rule for the rest, no parameter has the rule that stands in its place.
        let mut optimizer = rest.map_or_else(|| Optimizer::from(super::Sgd::new(lr)), Optimizer::from);
        optimizer.tensors = tensors;
        optimizer
    }
    /// Returns the hyperparameters of step `t` (from 1) for groups of whole parameters.
    pub(crate) fn whole_hyper<'a>(&'a self, t: u64, groups: &'a [Group]) -> impl Iterator<Item = Hyper> + 'a {
        let (lr, rule) = (self.lr(t), self.tensors.iter().map(|tensors| &tensors.rule));
        rule.flat_map(move |rule| groups.iter().map(move |group| rule.hyper(t, lr * group.lr_scale, group.weight_decay)))
    }
    /// Returns the layout of the parameters and of all states. With `owners`, it has the states of this rank's parameters alone.
    pub(crate) fn layout(
        &self,
        params: &[ParamDef],
        groups: &Groups,
        owners: Option<&Owners>,
        max_piece: usize,
        max_buffer: usize,
    ) -> Result<Layout> {
        let mut layout = Layout::new(params, &groups.statuses, max_piece, max_buffer)?;
        if let Some(owners) = owners {
            layout = layout.cut(owners);
        }
        layout = layout.with_states(params, self.elementwise_states().len());
        if let Some(Tensors { rule, .. }) = &self.tensors {
            for (k, name) in rule.states().iter().enumerate() {
                let shape = |i: usize| match groups.statuses[i] {
                    Status::Whole { .. } if owners.is_none_or(|owners| owners.own(i)) => rule.state_shapes(params[i].shape)[k],
                    _ => None,
                };
                let shapes: Vec<Option<Shape>> = (0..params.len()).map(shape).collect();
                layout = layout.with_state(&format!("state {name} of a parameter"), &shapes, max_piece, max_buffer)?;
            }
        }
        Ok(if self.is_averaged() { layout.with_average(params) } else { layout })
    }

    /// Writes the update of all whole parameters, or of those of this rank. Returns `None` if there are none.
    ///
    /// # Errors
    /// The rule makes a mistake in the graph.
    pub(crate) fn whole_draft(
        &self,
        params: &[ParamDef],
        groups: &Groups,
        owners: Option<&Owners>,
        options: &PlanOptions,
    ) -> Result<Option<WholeDraft>> {
        let own = |i: usize| matches!(groups.statuses[i], Status::Whole { .. }) && owners.is_none_or(|owners| owners.own(i));
        let Some(Tensors { rule, .. }) = self.tensors.as_ref().filter(|_| (0..params.len()).any(own)) else { return Ok(None) };
        let (g, clip) = (Graph::training(), self.clip());
        let (before, first) = (groups.settings.len() - groups.whole, self.elementwise_states().len());
        let numbers = g.input([FACTORS + 8 * groups.whole]);
        let (mut ties, mut outputs) = (Ties::default(), Vec::new());
        for (i, (param, status)) in params.iter().zip(&groups.statuses).enumerate() {
            let (Status::Whole { group }, true) = (*status, own(i)) else { continue };
            let w = g.param(&param.name, param.shape, Init::Zeros);
            let node = g.inner.borrow().nodes[w.id].clone();
            debug_assert!(matches!(node.kind, NodeKind::Param(_)));
            g.part_of(&node, || {
                let mut grad = g.input(param.shape);
                ties.inputs.push(Loc::Of(Flat::Grads, i));
                ties.outputs.push((Loc::Param(i), 0));
                let mut states = Vec::new();
                for (k, shape) in rule.state_shapes(param.shape).into_iter().enumerate() {
                    let Some(shape) = shape else { continue };
                    states.push(g.input(shape));
                    let place = Loc::Of(Flat::State(first + k), i);
                    ties.inputs.push(place);
                    // There are flags for a few states only. The last states share a flag.
                    ties.outputs.push((place, (1 + first + k).min(MAX_STATES)));
                }
                if clip.norm.is_some() {
                    grad = number(numbers, 0) * (number(numbers, 1) * grad);
                }
                if let Some(max) = clip.value {
                    grad = grad.clamp(-max, max);
                }
                let h = Numbers { all: numbers, first: FACTORS + 8 * (group - before) };
                let (weight, new) = rule.update(w, grad, &states, &h);
                outputs.push(weight);
                outputs.extend(new);
            });
        }
        Ok(Some(WholeDraft { draft: Draft::new(&outputs, &[], options)?, ties }))
    }

    /// Adds the update to a plan that computes gradients. The first output of the plan must be the loss. In a plan for
    /// micro-batches, `weight` is the place of the weight of each micro-batch. Without `caps`, the steps are for the CPU device.
    ///
    /// # Errors
    /// `whole` has a parameter that the plan does not have.
    pub(crate) fn append(
        &self,
        plan: &mut Plan,
        layout: &Layout,
        Parts { groups, whole, readouts }: Parts,
        weight: Option<Loc>,
        caps: Option<&Caps>,
    ) -> Result<()> {
        // A plan with gradients from outside assigns no state.
        let assigns = plan.steps.iter().any(|step| matches!(step.output.0, Loc::Next(_)));
        let count = self.rows(groups.settings.len());
        let mut steps = self.steps(layout, count, assigns, plan.outputs[0].0, weight, caps);
        if let Some(Whole { plan: part, ties }) = whole {
            let of = Steps {
                optimizer: self,
                layout,
                control: control(layout, count, caps),
                groups: count,
                loss: plan.outputs[0].0,
                micro: weight,
                caps,
            };
            let mut part = part.clone();
            part.bind_params(&plan.params)?;
            let elements = part.inputs[0].shape.elements();
            plan.slots.push(Slot { elements, dtype: DType::F32 });
            plan.unplanned_bytes += 4 * elements as u64;
            let numbers = Loc::Slot(plan.slots.len() - 1);
            let inputs: Vec<Loc> = [numbers].into_iter().chain(ties.inputs.iter().copied()).collect();
            let (computed, outputs) = plan.embed(part, &inputs, Phase::Check);
            let name = |loc: Loc| match loc {
                Loc::Param(i) => plan.params[i].name.clone(),
                Loc::Of(Flat::State(k), i) => format!("{} of {}", self.states()[k].name, plan.params[i].name),
                _ => unreachable!("weights and states are stored"),
            };
            let stores = |trial| {
                let pairs = ties.outputs.iter().zip(&outputs);
                pairs.map(|(&(to, what), &from)| of.store(trial, &name(to), to, from, what)).collect::<Vec<Step>>()
            };
            let (trials, mut stored) = (stores(true), stores(false));
            let whole = layout.elementwise().end..layout.parts.len();
            stored.extend(whole.filter(|_| self.is_averaged()).map(|part| of.follow(part)));
            // The new weights are in slots from here on, so no later step may have scratch memory.
            let updates = steps.iter().position(|step| step.phase > Phase::Check).unwrap_or(steps.len());
            steps.splice(updates..updates, stored);
            let first =
                |step: &Step| !matches!(step.work, Work::Update(Update::Accumulate | Update::Check | Update::Norms | Update::Look, _));
            let check = steps.iter().position(first).unwrap_or(steps.len());
            debug_assert!(steps[check..].iter().all(|step| step.kernel.iter().all(|kernel: &Kernel| kernel.scratch.is_empty())));
            let all: Vec<Step> = [of.numbers(numbers, elements, count - groups.whole)].into_iter().chain(computed).chain(trials).collect();
            steps.splice(check..check, all);
        }
        self.read_out(&mut steps, readouts, layout, count, caps);
        plan.append(steps, count);
        Ok(())
    }
}

pub(super) fn control(layout: &Layout, groups: usize, caps: Option<&Caps>) -> Control {
    Control::new(layout, groups, caps.map_or(u64::MAX, |caps| caps.max_binding_bytes))
}
