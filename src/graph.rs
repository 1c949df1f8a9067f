//! The graph a model writes: nodes, and [`Tensor`], the handle to one.
//!
//! Building neither panics nor returns `Result`: the graph keeps the first mistake with the caller's `file:line`;
//! whoever plans the graph gets it. After a mistake every op returns the same dead tensor.

use crate::{
    error::{Error, Place, Result},
    host::Host,
    init::Init,
    ops::{Op, OpDef, map::Expr},
    shape::{DType, Shape},
};
use std::{cell::RefCell, collections::BTreeMap, fmt, ops::Range, panic::Location, sync::Arc};

/// A tensor of a model that outlives a step, by name: a trained parameter, or state.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamDef {
    /// Unique, e.g. `fc1.weight`.
    pub name: String,
    /// `[out, in, …]` for weights, floats always.
    pub shape: Shape,
    /// What it starts with.
    pub init: Init,
    /// Whether weight decay applies by default: to matrices, not to biases and other vectors.
    pub decay: bool,
    /// Whether the optimizer trains it; state is assigned instead (see [`Graph::state`]).
    pub trained: bool,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// The i-th input of the graph.
    Input(usize),
    /// The i-th parameter.
    Param(usize),
    /// A value known now.
    Constant(Arc<Host<f32>>),
    /// An op over earlier nodes.
    Op(Arc<dyn Op>),
}

/// One node: one output, of one shape.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Numbers of the nodes that it reads, all smaller than its own.
    pub inputs: Vec<usize>,
    /// Of its output.
    pub shape: Shape,
    /// The line of the user's program that made it.
    pub place: Place,
    /// The layer that it is part of, by the number of that layer's first parameter; `None` before the first layer.
    pub layer: Option<usize>,
    /// Nodes that are equal but for this number stay apart: 0, or the number of a recomputation.
    pub copy: u32,
}

impl Node {
    /// Whether it is zeros that nothing was computed for: such as the gradient of what a loss does not depend on.
    pub(crate) fn is_zeros(&self) -> bool {
        let map = if let NodeKind::Op(op) = &self.kind { op.as_map() } else { None };
        map.is_some_and(|map| map.expr == Expr::constant(0.0))
    }
}

impl ParamDef {
    /// The layer that it is of: its name up to the last dot.
    pub fn layer(&self) -> &str {
        self.name.rsplit_once('.').map_or(self.name.as_str(), |(layer, _)| layer)
    }
}

/// What a graph requires of an input, checked before a batch goes in.
#[derive(Clone, Debug, PartialEq)]
pub struct InputDef {
    /// Batch axis and all.
    pub shape: Shape,
    /// What labels must be below; known once an op that takes them says so.
    pub classes: Option<Below>,
}

/// What labels or indices must be below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Below {
    /// How many classes, or rows of a table, there are.
    pub count: usize,
    /// The op that looks them up in a table, where they are indices.
    pub table: Option<&'static str>,
    /// The label whose rows a loss leaves out: it need not be below.
    pub ignored: Option<u32>,
}

impl Below {
    /// Whether all of `values` are, or are ignored. The values are those of a tensor of these axes, whose
    /// first one may be longer than it says; `width` neighbours are of one row.
    ///
    /// # Errors
    /// [`Error::Label`] or [`Error::Index`] for the first that is not.
    pub(crate) fn check(self, values: &[u32], dims: &[usize], width: usize) -> Result<()> {
        let Some((at, &label)) = values.iter().enumerate().find(|&(_, &l)| l as usize >= self.count && self.ignored != Some(l)) else {
            return Ok(());
        };
        let Some(op) = self.table else { return Err(Error::Label { row: at / width, label, classes: self.count }) };
        let (mut rest, mut position) = (at, Vec::new());
        for (axis, &d) in dims.iter().enumerate().rev() {
            position.push(if axis == 0 { rest } else { rest % d });
            rest /= d;
        }
        position.reverse();
        Err(Error::Index { op, index: label, position, rows: self.count })
    }
}

#[derive(Default)]
pub(crate) struct Inner {
    pub nodes: Vec<Node>,
    pub params: Vec<ParamDef>,
    pub inputs: Vec<InputDef>,
    /// What state becomes after a step: a node for each parameter that was assigned to.
    pub assigned: BTreeMap<usize, usize>,
    /// What a weighted mean divides by: a node for each node that is such a mean.
    pub weights: BTreeMap<usize, usize>,
    /// What is wrong with a run before the first step, where something is.
    pub untrained: Option<Error>,
    /// What is wrong with training this, where something is.
    pub untrainable: Option<Error>,
    pub error: Option<Error>,
    /// The line that new nodes and mistakes are of, where it is not the one that adds them.
    place: Option<Place>,
    /// The layer that new nodes are part of, where it does not follow from their inputs.
    layer: Option<Option<usize>>,
    /// The parts that are recomputed for a gradient: what each [`Tensor::checkpoint`] added.
    pub regions: Vec<Range<usize>>,
    /// The number of each recomputation: of that region, for the gradient of that node, of nodes of that number.
    copies: BTreeMap<(usize, usize, u32), u32>,
    /// The one that new nodes are of.
    copy: u32,
    streams: u32,
}

impl Inner {
    /// What uses a parameter is part of that parameter's layer; anything else, of the latest layer that it follows.
    fn layer_of(&self, node: &Node) -> Option<usize> {
        if let NodeKind::Param(i) = node.kind {
            return self.params.iter().position(|p| p.layer() == self.params[i].layer());
        }
        let of = |params: bool| {
            let inputs = node.inputs.iter().map(|&i| &self.nodes[i]);
            inputs.filter(|n| !params || matches!(n.kind, NodeKind::Param(_))).filter_map(|n| n.layer).max()
        };
        of(true).or_else(|| of(false))
    }
}

/// What is wrong with tensors that are not of one graph.
pub(crate) const OTHER_GRAPH: &str = "the tensors belong to different graphs";

/// What is wrong with a tensor of that size.
fn size_mistake(shape: Shape) -> Option<&'static str> {
    let elements = shape.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    match elements {
        _ if shape.dims().contains(&0) => Some("an axis of size 0 holds nothing"),
        Some(n) if n <= u32::MAX as usize => None,
        _ => Some("more than 4,294,967,295 elements"),
    }
}

/// The mistake of an op whose rule gives the shape `y`, if it makes one. Fusion relies on `as_map`, the gradient on `as_pad`, the plan of
/// memory on `is_alias`, and the op may be a user's.
fn op_mistake(op: &dyn Op, x: &[Shape], y: Shape) -> Option<String> {
    if let Some(why) = size_mistake(y) {
        return Some(format!("the result is {y}: {why}"));
    }
    let differs = |found: Result<Shape, String>| found != Ok(y);
    if op.as_map().is_some_and(|map| differs(OpDef::shape(map, x))) {
        return Some(format!("its OpDef::as_map gives another shape than its OpDef::shape, {y}"));
    }
    if op.as_pad().is_some_and(|pad| differs(OpDef::shape(pad, x))) {
        return Some(format!("its OpDef::as_pad gives another shape than its OpDef::shape, {y}"));
    }
    let alias = matches!(x, [x] if x.elements() == y.elements() && x.dtype() == y.dtype());
    (op.is_alias() && !alias).then(|| format!("its OpDef::is_alias is true, but {y} is not the memory of one input under another shape"))
}

/// Tensors or shapes, as errors show them.
fn texts(operands: &[impl fmt::Display]) -> Vec<String> {
    operands.iter().map(|x| x.to_string()).collect()
}

/// A computation under construction.
///
/// ```
/// use downhill::{Device, Graph, Host};
/// let g = Graph::training();
/// let x = g.input([3]);
/// let y = (x * 2.0 + 1.0).sum_all();
/// let mut f = Device::cpu().compile(&[y])?;
/// let out = f.run(&[Host::new([3], vec![1.0, 2.0, 3.0])])?;
/// assert_eq!(out[0].f(), &[15.0]);
/// # Ok::<(), downhill::Error>(())
/// ```
pub struct Graph {
    pub(crate) inner: RefCell<Inner>,
    training: bool,
}

impl Graph {
    /// A graph that trains: dropout drops.
    pub fn training() -> Graph {
        Graph { inner: RefCell::default(), training: true }
    }
    /// A graph that predicts: dropout passes everything. A trainer does not take one in which that makes a difference.
    pub fn inference() -> Graph {
        Graph { inner: RefCell::default(), training: false }
    }
    /// Whether this graph trains. A trainer does not take an inference graph whose model asked this: the model does in it what it
    /// does when it is used, not what it does in training.
    #[track_caller]
    pub fn is_training(&self) -> bool {
        self.trains("is_training", &[] as &[Shape], Location::caller())
    }
    /// The same, asked by an op or a layer.
    pub(crate) fn trains(&self, op: &str, operands: &[impl fmt::Display], place: Place) -> bool {
        if !self.training {
            let why = "in a graph made by Graph::inference it is not as in training; make the graph with Graph::training to train it";
            let error = Error::Op { op: op.to_string(), operands: texts(operands), why: why.into(), place };
            self.inner.borrow_mut().untrainable.get_or_insert(error);
        }
        self.training
    }
    /// An input of floats, fed with every batch. Inputs are fed in the order of their creation.
    #[track_caller]
    pub fn input(&self, shape: impl Into<Shape>) -> Tensor<'_> {
        self.input_of(shape.into().of(DType::F32))
    }
    /// An input of labels or indices (`u32`).
    #[track_caller]
    pub fn labels(&self, shape: impl Into<Shape>) -> Tensor<'_> {
        self.input_of(shape.into().u32())
    }
    /// An input of the shape and element type given.
    #[track_caller]
    pub fn input_of(&self, shape: Shape) -> Tensor<'_> {
        let place = Location::caller();
        if let Some(why) = size_mistake(shape) {
            return self.mistake("input", &[shape], why.into(), place);
        }
        let i = {
            let mut g = self.inner.borrow_mut();
            g.inputs.push(InputDef { shape, classes: None });
            g.inputs.len() - 1
        };
        self.push(Node { kind: NodeKind::Input(i), inputs: Vec::new(), shape, place, layer: None, copy: 0 })
    }
    /// A trainable tensor. A name used before gives the same tensor (shared weights); its shape must be the same.
    #[track_caller]
    pub fn param(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Tensor<'_> {
        self.named("param", name, shape.into().of(DType::F32), init, Location::caller())
    }
    /// A tensor that is kept and saved with the parameters but not trained: a running average, a count. PyTorch's buffers,
    /// Keras' non-trainable weights. Without [`assign`](Graph::assign) it stays as it is.
    ///
    /// What comes back is its value as of this line: after an `assign` to that name, what was assigned.
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, Trainer, init::Init, optim::Sgd};
    /// let g = Graph::training();
    /// let x = g.input([4]);
    /// let largest = g.state("largest", [], Init::Zeros).maximum(x.max_all());
    /// g.assign("largest", largest);
    /// let loss = (x * g.param("w", [], Init::Ones)).square().mean_all();
    /// let mut trainer = Trainer::new(&Device::cpu(), loss, Sgd::new(0.1))?;
    /// trainer.step(&[Host::new([4], vec![1.0, 3.0, -5.0, 2.0])])?;
    /// trainer.step(&[Host::new([4], vec![1.0, -1.0, 0.5, 2.0])])?;
    /// assert_eq!(trainer.params().get("largest")?.f(), &[3.0]);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn state(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Tensor<'_> {
        let state = self.named("state", name, shape.into().of(DType::F32), init, Location::caller());
        let g = self.inner.borrow();
        let assigned = g.params.iter().position(|p| p.name == name).and_then(|i| g.assigned.get(&i));
        assigned.map_or(state, |&id| self.tensor(id))
    }
    /// Sets a state to `value` after each step of a trainer, whose weights it thereby follows: not after a step that was not
    /// finite. In an inference graph this does nothing. No gradient flows into it.
    ///
    /// A mistake: a name that is no [`state`](Graph::state) of this graph, a value of another shape.
    #[track_caller]
    pub fn assign<'g>(&'g self, name: &str, value: Tensor<'g>) {
        let (shape, place) = (value.shape(), Location::caller());
        if !self.trains("assign", &[value], place) || self.inner.borrow().error.is_some() || value.is_dead() {
            return;
        }
        let known = {
            let g = self.inner.borrow();
            g.params.iter().position(|p| p.name == name && !p.trained).map(|i| (i, g.params[i].shape))
        };
        let why = match known {
            _ if !std::ptr::eq(value.graph, self) => OTHER_GRAPH.to_string(),
            Some((i, s)) if s == shape => {
                self.inner.borrow_mut().assigned.insert(i, value.id);
                return;
            }
            Some((_, s)) => format!("`{name}` has the shape {s}"),
            None => format!("there is no state `{name}` in this graph; make it with Graph::state before"),
        };
        self.mistake("assign", &[value], why, place);
    }
    /// What `mean` divides its sum by, if it is a weighted mean: the sum of the weights. Then it counts for so much beside
    /// those of other batches. See [`losses::weighted_mean`](crate::losses::weighted_mean).
    pub fn weight_of<'g>(&'g self, mean: Tensor<'g>) -> Option<Tensor<'g>> {
        let own = std::ptr::eq(mean.graph, self);
        let weight = self.inner.borrow().weights.get(&mean.id).copied();
        weight.filter(|_| own).map(|id| self.tensor(id))
    }
    /// Notes that `mean` is a weighted mean and divides by `weight`.
    pub(crate) fn note_weight(&self, mean: Tensor, weight: Tensor) {
        if !mean.is_dead() && !weight.is_dead() {
            self.inner.borrow_mut().weights.insert(mean.id, weight.id);
        }
    }
    /// Makes running this graph an error as long as no trainer has made a step on its parameters nor loaded them: for layers
    /// whose state means nothing before. The first call counts.
    pub fn require_step(&self, op: &str, operands: &[impl fmt::Display], why: String, place: Place) {
        let operands = texts(operands);
        let mut g = self.inner.borrow_mut();
        let place = g.place.unwrap_or(place);
        g.untrained.get_or_insert(Error::Op { op: op.to_string(), operands, why, place });
    }
    fn named(&self, kind: &str, name: &str, shape: Shape, init: Init, place: Place) -> Tensor<'_> {
        let trained = kind == "param";
        if let Some(why) = size_mistake(shape) {
            return self.mistake(kind, &[shape], why.into(), place);
        }
        if name == "__metadata__" || name.starts_with("optimizer.") {
            let why = format!("`{name}` is a name that files of weights and checkpoints keep for themselves; choose another");
            return self.mistake(kind, &[shape], why, place);
        }
        let known = {
            let g = self.inner.borrow();
            g.params.iter().position(|p| p.name == name).map(|i| (i, g.params[i].shape, g.params[i].trained))
        };
        let i = match known {
            Some((i, s, t)) if s == shape && t == trained => i,
            Some((_, s, t)) if t == trained => {
                return self.mistake(kind, &[s, shape], format!("`{name}` already has the shape {s}"), place);
            }
            Some((_, s, t)) => {
                let is = if t { "a parameter that is trained" } else { "state, which is not trained" };
                return self.mistake(kind, &[s, shape], format!("`{name}` is already {is}"), place);
            }
            None => {
                let mut g = self.inner.borrow_mut();
                g.params.push(ParamDef { name: name.to_string(), shape, init, decay: trained && shape.rank() >= 2, trained });
                g.params.len() - 1
            }
        };
        let node = self.inner.borrow().nodes.iter().position(|n| matches!(n.kind, NodeKind::Param(p) if p == i));
        match node {
            Some(id) => Tensor { graph: self, id },
            None => self.push(Node { kind: NodeKind::Param(i), inputs: Vec::new(), shape, place, layer: None, copy: 0 }),
        }
    }
    /// Values known now: class weights, a mask, a table.
    #[track_caller]
    pub fn constant(&self, value: Host<f32>) -> Tensor<'_> {
        let place = Location::caller();
        if let Some(why) = size_mistake(value.shape) {
            return self.mistake("constant", &[value.shape], why.into(), place);
        }
        if !value.fits(value.shape) {
            return self.mistake("constant", &[value.shape], format!("{} do not fill that shape", value.content()), place);
        }
        let shape = value.shape;
        self.push(Node { kind: NodeKind::Constant(Arc::new(value)), inputs: Vec::new(), shape, place, layer: None, copy: 0 })
    }
    /// Applies an op. Every method of [`Tensor`] ends here; so does an op of your own.
    #[track_caller]
    pub fn apply<'g>(&'g self, op: impl OpDef, x: &[Tensor<'g>]) -> Tensor<'g> {
        self.apply_at(Arc::new(op), x, Location::caller())
    }
    pub(crate) fn apply_at<'g>(&'g self, op: Arc<dyn Op>, x: &[Tensor<'g>], place: Place) -> Tensor<'g> {
        if self.inner.borrow().error.is_some() {
            return self.dead();
        }
        let shapes: Vec<Shape> = x.iter().map(|t| t.shape()).collect();
        if x.iter().any(|t| !std::ptr::eq(t.graph, self)) {
            return self.mistake(op.called(), x, OTHER_GRAPH.into(), place);
        }
        match op.shape(&shapes).and_then(|shape| op_mistake(&*op, &shapes, shape).map_or(Ok(shape), Err)) {
            Err(why) => self.mistake(op.called(), x, why, place),
            Ok(shape) => {
                self.push(Node { kind: NodeKind::Op(op), inputs: x.iter().map(|t| t.id).collect(), shape, place, layer: None, copy: 0 })
            }
        }
    }
    /// Notes that the labels in `t`, where they come from inputs, must be below `classes`. Constants are checked now.
    pub fn require_classes(&self, t: Tensor, classes: usize) {
        self.require(t, Below { count: classes, table: None, ignored: None });
    }
    /// The same for whatever they are.
    pub(crate) fn require(&self, t: Tensor, below: Below) {
        let mut g = self.inner.borrow_mut();
        let g = &mut *g;
        let mut visit = vec![t.id];
        while let Some(node) = visit.pop().and_then(|id| g.nodes.get(id)) {
            match &node.kind {
                NodeKind::Input(i) => {
                    let known = &mut g.inputs[*i].classes;
                    // What one op ignores, others may see: they know what to do with it, or it shows as NaN.
                    let ignored = known.and_then(|k| k.ignored).or(below.ignored);
                    let least = known.filter(|k| k.count <= below.count).unwrap_or(below);
                    *known = Some(Below { ignored, ..least });
                }
                NodeKind::Constant(value) => {
                    if let Err(error) = below.check(value.u(), value.shape.dims(), 1) {
                        g.error.get_or_insert(error);
                    }
                }
                // Labels that are only moved are labels as before; where some are left out, the others need not be classes.
                NodeKind::Op(_) => visit.extend(node.inputs.iter().filter(|&&i| {
                    let from = g.nodes[i].shape;
                    from.dtype() == DType::U32 && from.elements() <= node.shape.elements()
                })),
                NodeKind::Param(_) => {}
            }
        }
    }
    /// The first mistake made in this graph.
    pub fn error(&self) -> Option<Error> {
        self.inner.borrow().error.clone()
    }
    /// Keeps a mistake (the first one counts) and returns the dead tensor. For layers and losses with rules of their own. The operands are
    /// tensors, so that the error names parameters, or shapes.
    pub fn mistake(&self, op: &str, operands: &[impl fmt::Display], why: String, place: Place) -> Tensor<'_> {
        let operands = texts(operands);
        let mut g = self.inner.borrow_mut();
        let place = g.place.unwrap_or(place);
        g.error.get_or_insert(Error::Op { op: op.to_string(), operands, why, place });
        self.dead()
    }
    /// A number for one stream of random numbers, new with each call and the same whenever the same graph is built.
    pub(crate) fn stream(&self) -> u32 {
        let mut g = self.inner.borrow_mut();
        g.streams += 1;
        g.streams
    }
    pub(crate) fn check(&self) -> Result<()> {
        self.error().map_or(Ok(()), Err)
    }
    /// Every parameter and state, in the order of their creation.
    pub fn param_tensors(&self) -> Vec<Tensor<'_>> {
        let g = self.inner.borrow();
        let node = |p: usize| g.nodes.iter().position(|n| matches!(n.kind, NodeKind::Param(i) if i == p));
        (0..g.params.len()).filter_map(node).map(|id| self.tensor(id)).collect()
    }
    pub(crate) fn tensor(&self, id: usize) -> Tensor<'_> {
        Tensor { graph: self, id }
    }
    fn push(&self, node: Node) -> Tensor<'_> {
        let mut g = self.inner.borrow_mut();
        if g.error.is_some() {
            return self.dead();
        }
        let layer = g.layer.unwrap_or_else(|| g.layer_of(&node));
        let place = g.place.unwrap_or(node.place);
        let copy = g.copy;
        g.nodes.push(Node { layer, place, copy, ..node });
        Tensor { graph: self, id: g.nodes.len() - 1 }
    }
    /// Until what comes back is dropped, new nodes and mistakes are of the line of the caller, whatever adds them: `#[track_caller]`
    /// alone does not reach into closures. Where one method of a user calls another, the first counts.
    #[track_caller]
    pub(crate) fn line(&self) -> LineGuard<'_> {
        self.line_of(Location::caller())
    }
    fn line_of(&self, place: Place) -> LineGuard<'_> {
        let mut g = self.inner.borrow_mut();
        let before = g.place;
        g.place.get_or_insert(place);
        LineGuard { graph: self, before }
    }
    /// Runs `f`; the nodes it adds bear `place` instead of the line that adds them.
    pub(crate) fn at<R>(&self, place: Place, f: impl FnOnce() -> R) -> R {
        let _line = self.line_of(place);
        f()
    }
    /// Runs `f`; the nodes it adds bear the line of `node` and are part of its layer.
    pub(crate) fn part_of<R>(&self, node: &Node, f: impl FnOnce() -> R) -> R {
        let before = self.inner.borrow_mut().layer.replace(node.layer);
        let result = self.at(node.place, f);
        self.inner.borrow_mut().layer = before;
        result
    }
    /// Runs `f`; the nodes it adds are of the recomputation that `key` is for, see [`Node::copy`].
    pub(crate) fn as_copy<R>(&self, key: (usize, usize, u32), f: impl FnOnce() -> R) -> R {
        let before = {
            let mut g = self.inner.borrow_mut();
            let new = g.copies.len() as u32 + 1;
            let number = *g.copies.entry(key).or_insert(new);
            std::mem::replace(&mut g.copy, number)
        };
        let result = f();
        self.inner.borrow_mut().copy = before;
        result
    }
    pub(crate) fn dead(&self) -> Tensor<'_> {
        Tensor { graph: self, id: usize::MAX }
    }
}

/// See [`Graph::line`].
pub(crate) struct LineGuard<'g> {
    graph: &'g Graph,
    before: Option<Place>,
}

impl Drop for LineGuard<'_> {
    fn drop(&mut self) {
        self.graph.inner.borrow_mut().place = self.before;
    }
}

/// A handle to a node: copy it freely. Its methods are the ops.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) id: usize,
}

impl<'g> Tensor<'g> {
    /// The graph this belongs to.
    pub fn graph(self) -> &'g Graph {
        self.graph
    }
    /// Its shape; `[]` after a mistake.
    pub fn shape(self) -> Shape {
        self.graph.inner.borrow().nodes.get(self.id).map_or(Shape::SCALAR, |n| n.shape)
    }
    /// The line it was made on.
    #[track_caller]
    pub(crate) fn place(self) -> Place {
        self.graph.inner.borrow().nodes.get(self.id).map_or(Location::caller(), |n| n.place)
    }
    /// The size of an axis, counted from the front or (negative) from the back.
    #[track_caller]
    pub fn dim(self, axis: isize) -> usize {
        let (s, place) = (self.shape(), Location::caller());
        match s.axis(axis) {
            Some(a) => s.dims()[a],
            None => {
                self.graph.mistake("dim", &[s], format!("there is no axis {axis}"), place);
                1
            }
        }
    }
    /// The first mistake made in this tensor's graph.
    pub fn error(self) -> Option<Error> {
        self.graph.error()
    }
    /// Whether both are the same node. Numbers of nodes alone say nothing: another graph has the same ones.
    pub(crate) fn is(self, other: Tensor) -> bool {
        std::ptr::eq(self.graph, other.graph) && self.id == other.id
    }
    /// Whether this is a tensor at all, or what ops return after a mistake.
    pub(crate) fn is_dead(self) -> bool {
        self.id == usize::MAX
    }
    #[track_caller]
    pub(crate) fn apply(self, op: impl OpDef) -> Tensor<'g> {
        self.graph.apply(op, &[self])
    }
}

/// Its shape, and before it the name of a parameter: `[64, 784]`, `fc2.weight [10, 512]`.
impl fmt::Display for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let g = self.graph.inner.borrow();
        let shape = g.nodes.get(self.id).map_or(Shape::SCALAR, |n| n.shape);
        match g.nodes.get(self.id).map(|n| &n.kind) {
            Some(NodeKind::Param(i)) => write!(f, "{} {shape}", g.params[*i].name),
            _ => write!(f, "{shape}"),
        }
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Tensor({}, {})", self.id, self.shape())
    }
}
