//! The graph that a model writes: its nodes, and [`Tensor`], the handle of a node.
//!
//! Building a graph neither panics nor returns `Result`. The graph records the first mistake with the caller's `file:line`. The
//! function that plans the graph returns the mistake. After a mistake, every op returns the same dead tensor.

mod node;
mod tensor;

use crate::{
    error::{Error, Place, Result},
    host::Host,
    init::Init,
    ops::{Op, OpDef},
    shape::{DType, Shape},
};
pub use node::{Below, InputDef, Node, NodeKind, ParamDef};
use std::{cell::RefCell, collections::BTreeMap, fmt, ops::Range, panic::Location, sync::Arc};
pub use tensor::Tensor;

#[derive(Default)]
pub(crate) struct Inner {
    pub nodes: Vec<Node>,
    pub params: Vec<ParamDef>,
    pub inputs: Vec<InputDef>,
    /// The node of the next value of each state that `assign` was called for, by the number of the parameter.
    pub assigned: BTreeMap<usize, usize>,
    /// The node of the divisor of each weighted mean, by the node of the mean.
    pub weights: BTreeMap<usize, usize>,
    /// The error of running the graph before the first training step. `None` if such a run is allowed.
    pub untrained: Option<Error>,
    /// The error of training the graph. `None` if training is allowed.
    pub untrainable: Option<Error>,
    pub error: Option<Error>,
    /// The line that new nodes and mistakes carry. `None` means the line of the caller.
    place: Option<Place>,
    /// The layer of new nodes. `None` means that the layer follows from the inputs of the node.
    layer: Option<Option<usize>>,
    /// The regions that are recomputed for a gradient. Each call of [`Tensor::checkpoint`] adds the range of its nodes.
    pub regions: Vec<Range<usize>>,
    /// The number of each recomputation. The key is the region, the differentiated node and the `copy` of the nodes that are
    /// copied.
    copies: BTreeMap<(usize, usize, u32), u32>,
    /// The number of the recomputation that new nodes belong to, or 0.
    copy: u32,
    streams: u32,
    /// The node of the [shares](Graph::shares) of the ranks.
    shares: Option<usize>,
}

impl Inner {
    /// Returns the layer of a new node. A node that reads a parameter belongs to the layer of that parameter. Any other node
    /// belongs to the latest layer among the layers of its inputs.
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

/// The message of an error about tensors of different graphs.
pub(crate) const OTHER_GRAPH: &str = "the tensors belong to different graphs";

/// Returns the reason why no tensor may have this shape, or `None` if a tensor may.
fn size_mistake(shape: Shape) -> Option<&'static str> {
    let elements = shape.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    match elements {
        _ if shape.same_dims(Shape::TOO_MANY_AXES) => Some("more than 6 axes"),
        _ if shape.dims().contains(&0) => Some("an axis of size 0 holds nothing"),
        Some(n) if n <= u32::MAX as usize => None,
        _ => Some("more than 4,294,967,295 elements"),
    }
}

/// Returns the mistake in an op whose shape rule gives `y` for inputs `x`, or `None`. Fusion relies on `as_map`, the gradient
/// relies on `as_pad`, and the memory plan relies on `is_alias`. A user may have written the op, so these functions may be wrong.
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

/// Returns whether a parameter of this name is a bias. The last part of the name has the word `bias` then, as in `fc1.bias`,
/// `gru.bias_ih` or `block.relative_position_bias_table`.
fn is_bias(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last.split('_').any(|word| word == "bias"))
}

/// Returns the texts of tensors or shapes for an error.
fn texts(operands: &[impl fmt::Display]) -> Vec<String> {
    operands.iter().map(|x| x.to_string()).collect()
}

/// A graph of computations. A model writes it once, and a [`Device`](crate::Device) compiles it.
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
    ranks: Option<(usize, usize)>,
}

impl Graph {
    /// Makes a graph for training. Dropout sets elements to zero in such a graph.
    pub fn training() -> Graph {
        Graph { inner: RefCell::default(), training: true, ranks: None }
    }
    /// Makes a graph for training whose batch norms take the statistics of all ranks. `ranks` has the number of this rank and the number
    /// of all ranks.
    pub(crate) fn training_over(ranks: Option<(usize, usize)>) -> Graph {
        Graph { ranks, ..Graph::training() }
    }
    /// Makes a graph for prediction. Dropout passes all elements through in such a graph. A trainer refuses such a graph if one of
    /// its layers works differently in training.
    pub fn inference() -> Graph {
        Graph { inner: RefCell::default(), training: false, ranks: None }
    }
    /// Returns true if the graph is for training.
    ///
    /// A trainer refuses an inference graph if this method was called on it. The model may have branched on the answer, so its
    /// computation may differ from the computation in training.
    #[track_caller]
    pub fn is_training(&self) -> bool {
        self.trains("is_training", &[] as &[Shape], Location::caller())
    }
    /// Returns the same as [`is_training`](Graph::is_training). The caller is an op or a layer, and the error for a trainer names
    /// it.
    pub(crate) fn trains(&self, op: &str, operands: &[impl fmt::Display], place: Place) -> bool {
        if !self.training {
            let why = "it works differently in a graph made by Graph::inference; make the graph with Graph::training to train it";
            let error = Error::Op { op: op.to_string(), operands: texts(operands), why: why.into(), place };
            self.inner.borrow_mut().untrainable.get_or_insert(error);
        }
        self.training
    }
    /// Adds an input of floats. Every batch supplies its values. A batch lists the inputs in the order of their creation.
    #[track_caller]
    pub fn input(&self, shape: impl Into<Shape>) -> Tensor<'_> {
        self.input_of(shape.into().of(DType::F32))
    }
    /// Adds an input of labels or indices (`u32`).
    #[track_caller]
    pub fn labels(&self, shape: impl Into<Shape>) -> Tensor<'_> {
        self.input_of(shape.into().u32())
    }
    /// Adds an input with the given shape and element type.
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
    /// Returns the trainable parameter `name`. The first call creates the parameter. A later call with the same name returns the
    /// same tensor, so layers can share it. A later call with another shape is a mistake.
    #[track_caller]
    pub fn param(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Tensor<'_> {
        self.named("param", name, shape.into().of(DType::F32), init, Location::caller())
    }
    /// Returns the state `name`: a tensor that is saved with the parameters but not trained, such as a running average or a count.
    /// PyTorch calls it a buffer, and Keras calls it a non-trainable weight. The value changes only if [`assign`](Graph::assign)
    /// sets it.
    ///
    /// The returned tensor has the value that the state has at this line. After a call of `assign` for this name, it is the
    /// assigned value.
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
    /// Sets the state `name` to `value` after each step of a trainer. `value` sees the parameters before the update of the step. A
    /// step that is not finite assigns nothing. In an inference graph this method does nothing. No gradient flows into `value`.
    ///
    /// It is a mistake if `name` is not a [`state`](Graph::state) of this graph, or if `value` has another shape.
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
    /// Returns the number by which `mean` divides its sum, if `mean` is a weighted mean. This number is the sum of the weights. A
    /// mean over several batches weighs each batch by it. See [`losses::weighted_mean`](crate::losses::weighted_mean).
    pub fn weight_of<'g>(&'g self, mean: Tensor<'g>) -> Option<Tensor<'g>> {
        let own = std::ptr::eq(mean.graph, self);
        let weight = self.inner.borrow().weights.get(&mean.id).copied();
        weight.filter(|_| own).map(|id| self.tensor(id))
    }
    /// Records that `mean` is a weighted mean that divides by `weight`.
    pub(crate) fn note_weight(&self, mean: Tensor, weight: Tensor) {
        if !mean.is_dead() && !weight.is_dead() {
            self.inner.borrow_mut().weights.insert(mean.id, weight.id);
        }
    }
    /// Returns the number of this rank and the number of all ranks, if batch norms take the statistics of all ranks.
    pub(crate) fn ranks(&self) -> Option<(usize, usize)> {
        self.ranks
    }
    /// Returns wᵣ / wₖ for each rank r: `[ranks, 1]`. wᵣ is the weight of rank r in the loss of all ranks, and k is this rank. `None` as
    /// long as the weights are not known.
    pub(crate) fn shares(&self) -> Option<Tensor<'_>> {
        self.inner.borrow().shares.map(|id| self.tensor(id))
    }
    pub(crate) fn set_shares(&self, shares: Tensor) {
        self.inner.borrow_mut().shares = (!shares.is_dead()).then_some(shares.id);
    }
    /// Makes it an error to run this graph before a trainer has made a step or has loaded parameters. Layers call this method if
    /// their state has no meaning before that. If several layers call it, the error describes the first call.
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
            let why = format!("files of weights and checkpoints reserve the name `{name}`; choose another name");
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
                let decay = trained && shape.rank() >= 2 && !is_bias(name);
                g.params.push(ParamDef { name: name.to_string(), shape, init, decay, trained });
                g.params.len() - 1
            }
        };
        let node = self.inner.borrow().nodes.iter().position(|n| matches!(n.kind, NodeKind::Param(p) if p == i));
        match node {
            Some(id) => Tensor { graph: self, id },
            None => self.push(Node { kind: NodeKind::Param(i), inputs: Vec::new(), shape, place, layer: None, copy: 0 }),
        }
    }
    /// Adds a parameter to which weight decay does not apply by default, whatever its rank: the scale or the shift of a norm.
    #[track_caller]
    pub(crate) fn undecayed(&self, name: &str, shape: Shape, init: Init) -> Tensor<'_> {
        let param = self.param(name, shape, init);
        self.inner.borrow_mut().params.iter_mut().filter(|p| p.name == name).for_each(|p| p.decay = false);
        param
    }
    /// Adds a constant, such as class weights, a mask or a table.
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
    /// Applies an op. Every method of [`Tensor`] that adds an op calls this method. Your own ops use it, too.
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
    /// Requires that the labels in `t` are below `classes`. Labels from inputs are checked with each batch. Constants are checked
    /// at once.
    pub fn require_classes(&self, t: Tensor, classes: usize) {
        self.require(t, Below { count: classes, table: None, least: None, ignored: None });
    }
    /// Requires that the labels or indices in `t` are below a limit.
    pub(crate) fn require(&self, t: Tensor, below: Below) {
        let mut g = self.inner.borrow_mut();
        let g = &mut *g;
        let mut visit = vec![t.id];
        while let Some(node) = visit.pop().and_then(|id| g.nodes.get(id)) {
            match &node.kind {
                NodeKind::Input(i) => {
                    let known = &mut g.inputs[*i].classes;
                    // An op may ignore a label that another op reads. The other op handles that label itself, or its result is NaN.
                    let ignored = known.and_then(|k| k.ignored).or(below.ignored);
                    let least = known.filter(|k| k.count <= below.count).unwrap_or(below);
                    *known = Some(Below { ignored, least: known.and_then(|k| k.least).max(below.least), ..least });
                }
                NodeKind::Constant(value) => {
                    if let Err(error) = below.check(value.u(), value.shape.dims(), 1) {
                        g.error.get_or_insert(error);
                    }
                }
                // An op that only moves labels passes the requirement on to its inputs. An op with fewer elements than its input
                // leaves labels out. The labels that it leaves out need not be classes.
                NodeKind::Op(_) => visit.extend(node.inputs.iter().filter(|&&i| {
                    let from = g.nodes[i].shape;
                    from.dtype() == DType::U32 && from.elements() <= node.shape.elements()
                })),
                NodeKind::Param(_) => {}
            }
        }
    }
    /// Returns the first mistake made in this graph.
    pub fn error(&self) -> Option<Error> {
        self.inner.borrow().error.clone()
    }
    /// Records a mistake and returns the dead tensor. Only the first mistake of a graph is reported. Layers and losses with rules
    /// of their own call this method. The operands are tensors or shapes. With tensors, the error names the parameters.
    pub fn mistake(&self, op: &str, operands: &[impl fmt::Display], why: String, place: Place) -> Tensor<'_> {
        let operands = texts(operands);
        let mut g = self.inner.borrow_mut();
        let place = g.place.unwrap_or(place);
        g.error.get_or_insert(Error::Op { op: op.to_string(), operands, why, place });
        self.dead()
    }
    /// Returns the number of a new stream of random numbers. Each call returns another number. Building the same graph again gives
    /// the same numbers.
    pub(crate) fn stream(&self) -> u32 {
        let mut g = self.inner.borrow_mut();
        g.streams += 1;
        g.streams
    }
    pub(crate) fn check(&self) -> Result<()> {
        self.error().map_or(Ok(()), Err)
    }
    /// Returns every parameter and every state, in the order of their creation.
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
    /// Makes new nodes and mistakes carry the line of the caller until the returned guard is dropped. `#[track_caller]` alone does
    /// not reach into closures. If guards are nested, the line of the outermost guard counts.
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
    /// Runs `f`. The nodes that `f` adds carry the line `place`.
    pub(crate) fn at<R>(&self, place: Place, f: impl FnOnce() -> R) -> R {
        let _line = self.line_of(place);
        f()
    }
    /// Runs `f`. The nodes that `f` adds carry the line of `node` and belong to its layer.
    pub(crate) fn part_of<R>(&self, node: &Node, f: impl FnOnce() -> R) -> R {
        let before = self.inner.borrow_mut().layer.replace(node.layer);
        let result = self.at(node.place, f);
        self.inner.borrow_mut().layer = before;
        result
    }
    /// Runs `f`. The nodes that `f` adds belong to the recomputation with the key `key`. See [`Node::copy`].
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
