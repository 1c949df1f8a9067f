//! LSTM and GRU layers over sequences.

use super::unrolled::walk;
use crate::{
    graph::{Below, Graph, Tensor},
    host::Host,
    init::Init,
    ops::recurrent::{Cell, RecurrentOp as Op},
    shape::{DType, Shape},
};
use std::panic::Location;

/// The direction in which a recurrent layer reads a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the first step to the last.
    #[default]
    Forward,
    /// From the last step to the first. The output has the order of the input.
    Reverse,
    /// Both directions, each with its own parameters (`…_l0` and `…_l0_reverse`). The outputs are joined along the last axis,
    /// `[n, t, 2·hidden]`.
    Both,
}

/// Options of a recurrent layer.
#[derive(Clone, Copy, Debug)]
pub struct Recurrent<'g> {
    /// Leaves both biases out.
    pub no_bias: bool,
    /// The number of stacked layers, at least 1. Each layer reads the output of the layer before it.
    pub layers: usize,
    /// The direction in which the layer reads the sequence.
    pub direction: Direction,
    /// The hidden state before the first step, `[layers · directions, n, hidden]`, or `proj_size` instead of `hidden`. `None` means
    /// zeros.
    pub h0: Option<Tensor<'g>>,
    /// The cell state of an LSTM before the first step, `[layers · directions, n, hidden]`. `None` means zeros.
    pub c0: Option<Tensor<'g>>,
    /// Whether a GRU applies its gate r after the product, `r·(W_hn·h + b_hn)`, as PyTorch and cuDNN do. If it is false, r is applied
    /// before: `W_hn·(r·h) + b_hn` (Cho et al. 2014). Keras has the same option. Without it the graph has nodes for each step, so a long
    /// sequence takes longer to compile and to run.
    pub reset_after: bool,
    /// The size of the hidden state of an LSTM, if a projection `name.weight_hr_l0` `[proj_size, hidden]` makes it smaller than `hidden`
    /// (Sak, Senior & Beaufays 2014). 0 means no projection. With it the graph has nodes for each step, as without
    /// [`reset_after`](Recurrent::reset_after).
    pub proj_size: usize,
    /// The number of steps of each sequence, labels `[n]` from 1 to t, as in PyTorch's packed sequences. The other steps are padding.
    /// The output is 0 there, and the last states are those after the last step of each sequence. In reverse, a sequence begins with
    /// its own last step. `None` means t steps. A length from the host that is not in 1..=t is an error before anything runs. If the device
    /// computes it, it is clamped to 1..=t.
    pub lengths: Option<Tensor<'g>>,
}

impl Recurrent<'_> {
    /// Returns the size of the hidden state.
    fn out(&self, hidden: usize) -> usize {
        if self.proj_size > 0 { self.proj_size } else { hidden }
    }
}

impl Default for Recurrent<'_> {
    fn default() -> Self {
        Recurrent {
            no_bias: false,
            layers: 1,
            direction: Direction::Forward,
            h0: None,
            c0: None,
            reset_after: true,
            proj_size: 0,
            lengths: None,
        }
    }
}

/// The output and the last states of an LSTM.
#[derive(Clone, Copy, Debug)]
pub struct Lstm<'g> {
    /// The hidden state after each step, `[n, t, hidden]`. With both directions, `[n, t, 2·hidden]`.
    pub output: Tensor<'g>,
    /// The hidden state after the last step of each direction, `[layers · directions, n, hidden]`: PyTorch's `h_n`.
    pub h: Tensor<'g>,
    /// The cell state after the last step of each direction: PyTorch's `c_n`.
    pub c: Tensor<'g>,
}

/// The output and the last state of a GRU.
#[derive(Clone, Copy, Debug)]
pub struct Gru<'g> {
    /// The hidden state after each step, `[n, t, hidden]`. With both directions, `[n, t, 2·hidden]`.
    pub output: Tensor<'g>,
    /// The hidden state after the last step of each direction, `[layers · directions, n, hidden]`: PyTorch's `h_n`.
    pub h: Tensor<'g>,
}

impl<'g> Tensor<'g> {
    /// Applies a long short-term memory to sequences `[n, t, features]`. Returns the hidden state after each step,
    /// `[n, t, hidden]`. The sum `a = W_ih·x + b_ih + W_hh·h + b_hh` is cut into i, f, g and o. Then
    /// `c' = σ(f)·c + σ(i)·tanh(g)` and `h' = σ(o)·tanh(c')` (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins
    /// 2000).
    ///
    /// The parameters are PyTorch's: `name.weight_ih_l0` `[4·hidden, features]`, `name.weight_hh_l0` `[4·hidden, hidden]`,
    /// `name.bias_ih_l0` and `name.bias_hh_l0` `[4·hidden]`. All start uniform in ±1/√hidden. The graph fixes the length of
    /// the sequences. Sequences of another length need another graph with the same parameters.
    ///
    /// It is a mistake if the input does not have three axes, or if `hidden` is 0.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// let y = g.input([32, 20, 8]).lstm("lstm", 64);
    /// assert_eq!(y.shape().dims(), &[32, 20, 64]);
    /// // The output of the last step, for a classifier of sequences.
    /// assert_eq!(y.slice(1, 19, 20).reshape([32, 64]).linear("out", 10).shape().dims(), &[32, 10]);
    /// ```
    #[track_caller]
    pub fn lstm(self, name: &str, hidden: usize) -> Tensor<'g> {
        self.lstm_with(name, hidden, Recurrent::default()).output
    }
    /// [`lstm`](Tensor::lstm) with options. It also returns the last states.
    ///
    /// ```
    /// use downhill::{Graph, layers::{Direction, Recurrent}};
    /// let g = Graph::training();
    /// let options = Recurrent { layers: 2, direction: Direction::Both, ..Recurrent::default() };
    /// let lstm = g.input([32, 20, 8]).lstm_with("lstm", 64, options);
    /// assert_eq!(lstm.output.shape().dims(), &[32, 20, 128]);
    /// assert_eq!(lstm.c.shape().dims(), &[4, 32, 64]);
    /// ```
    #[track_caller]
    pub fn lstm_with(self, name: &str, hidden: usize, options: Recurrent<'g>) -> Lstm<'g> {
        let [output, h, c] = layers(self, Cell::Lstm, name, hidden, options);
        Lstm { output, h, c }
    }
    /// Applies a gated recurrent unit to sequences `[n, t, features]`. Returns the hidden state after each step,
    /// `[n, t, hidden]`. Here `r = σ(W_ir·x + b_ir + W_hr·h + b_hr)`, `z = σ(W_iz·x + b_iz + W_hz·h + b_hz)`,
    /// `n = tanh(W_in·x + b_in + r·(W_hn·h + b_hn))` and `h' = (1 − z)·n + z·h` (Cho et al. 2014). As in PyTorch and cuDNN, r
    /// is applied after the product. See [`Recurrent::reset_after`].
    ///
    /// The parameters are PyTorch's. They have the names of [`lstm`](Tensor::lstm)'s parameters, and 3·hidden rows for the
    /// gates r, z, n.
    ///
    /// It is a mistake if the input does not have three axes, or if `hidden` is 0.
    ///
    /// ```
    /// use downhill::Graph;
    /// let g = Graph::training();
    /// assert_eq!(g.input([32, 20, 8]).gru("gru", 64).shape().dims(), &[32, 20, 64]);
    /// ```
    #[track_caller]
    pub fn gru(self, name: &str, hidden: usize) -> Tensor<'g> {
        self.gru_with(name, hidden, Recurrent::default()).output
    }
    /// [`gru`](Tensor::gru) with options. It also returns the last state.
    #[track_caller]
    pub fn gru_with(self, name: &str, hidden: usize, options: Recurrent<'g>) -> Gru<'g> {
        let [output, h, _] = layers(self, Cell::Gru, name, hidden, options);
        Gru { output, h }
    }
    /// Returns a mask of sequences from their lengths, as TensorFlow's `sequence_mask`: lengths `[..]` become `[.., t]`, with 1 at the
    /// places below the length and 0 after them. It masks a loss as
    /// [`sample_weights`](crate::losses::Loss::sample_weights), and a mean over places as
    /// [`weighted_mean`](crate::losses::weighted_mean).
    ///
    /// ```
    /// use downhill::{Device, Graph, Host, losses};
    /// let g = Graph::training();
    /// let (logits, labels, lengths) = (g.input([2, 3, 2]), g.labels([2, 3]), g.labels([2]));
    /// let mask = lengths.sequence_mask(3);
    /// let loss = losses::cross_entropy(logits, labels).sample_weights(mask).mean();
    /// let mut f = Device::cpu().compile(&[mask, loss])?;
    /// let x = Host::new([2, 3, 2], vec![0.0, 0.0, f32::NAN, 7.0, f32::NAN, 7.0, 0.0, 0.0, 0.0, 0.0, f32::NAN, 7.0]);
    /// let y = f.run(&[x, Host::labels([2, 3], vec![0; 6]), Host::labels([2], vec![1, 2])])?;
    /// assert_eq!(y[0].f(), &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    /// assert!((y[1].f()[0] - 2f32.ln()).abs() < 1e-6);
    /// # Ok::<(), downhill::Error>(())
    /// ```
    #[track_caller]
    pub fn sequence_mask(self, t: usize) -> Tensor<'g> {
        if t == 0 && !self.is_dead() {
            return self.graph().mistake("sequence_mask", &[self], "t is 0, but must be at least 1".into(), Location::caller());
        }
        if self.is_dead() { self } else { self.unsqueeze(-1).gt(places(self.graph(), t)) }
    }
}

/// Returns the mistake in the input, the size or the options, if there is one.
fn mistake(x: Tensor, cell: Cell, hidden: usize, options: &Recurrent, states: usize) -> Option<String> {
    let shape = x.shape();
    let &[n, _, _] = shape.dims() else {
        return Some("takes sequences [n, t, features]; `unsqueeze` or `reshape` adds an axis".into());
    };
    if shape.dtype() != DType::F32 {
        return Some("takes floats, not labels (see one_hot)".into());
    }
    if hidden.checked_mul(cell.gates()).is_none_or(|n| n == 0 || n > u32::MAX as usize) {
        return Some(format!("the hidden size is {hidden}, but must be at least 1 and have a place for all gates"));
    }
    if options.layers == 0 {
        return Some("layers is 0, but must be at least 1".into());
    }
    if options.c0.is_some() && cell == Cell::Gru {
        return Some("a GRU has no cell state: c0 must be left out".into());
    }
    if let Some(lengths) = options.lengths.map(|l| l.shape()).filter(|l| *l != Shape::from([n]).u32()) {
        return Some(format!("lengths must be labels [{n}], one for each sequence, but are {lengths}"));
    }
    if options.proj_size > 0 && (cell == Cell::Gru || options.proj_size >= hidden) {
        return Some(format!("proj_size is {}, but must be 0, or for an LSTM smaller than the hidden size {hidden}", options.proj_size));
    }
    if !options.reset_after && cell == Cell::Lstm {
        return Some("an LSTM has no reset: reset_after must be true".into());
    }
    [("h0", options.h0, options.out(hidden)), ("c0", options.c0, hidden)].into_iter().find_map(|(name, state, size)| {
        let (given, want) = (state?.shape(), [states, n, size]);
        (given != want.into()).then(|| format!("{name} has the shape {given}, but must be {want:?}: layers · directions, n, hidden"))
    })
}

/// Returns the output, the last hidden state and the last cell state. For a GRU, the hidden state also stands in for the cell
/// state.
#[track_caller]
fn layers<'g>(x: Tensor<'g>, cell: Cell, name: &str, hidden: usize, options: Recurrent<'g>) -> [Tensor<'g>; 3] {
    let (shape, place) = (x.shape(), Location::caller());
    let _line = x.graph().line();
    if x.is_dead() || [options.h0, options.c0, options.lengths].into_iter().flatten().any(|s| s.is_dead()) {
        return [x.graph().dead(); 3];
    }
    let ways: &[bool] = match options.direction {
        Direction::Forward => &[false],
        Direction::Reverse => &[true],
        Direction::Both => &[false, true],
    };
    if let Some(why) = mistake(x, cell, hidden, &options, options.layers * ways.len()) {
        return [x.graph().mistake(cell.name(), &[x], why, place); 3];
    }
    if let Some(lengths) = options.lengths {
        x.graph().require(lengths, Below::lengths(cell.name(), 1, shape.dims()[1]));
    }
    let n = shape.dims()[0];
    let join = |all: &[Tensor<'g>], axis| if all.len() == 1 { all[0] } else { all[0].concat(&all[1..], axis) };
    let (mut x, mut last) = (x, [Vec::new(), Vec::new()]);
    for layer in 0..options.layers {
        let mut outputs = Vec::new();
        for (way, &reverse) in ways.iter().enumerate() {
            let k = layer * ways.len() + way;
            let out = options.out(hidden);
            let zeros = |size: usize| x.graph().full([n, size], 0.0);
            let given = |state: Option<Tensor<'g>>, size| state.map_or_else(|| zeros(size), |s| s.slice(0, k, k + 1).reshape([n, size]));
            let state = match (options.h0, options.c0) {
                (None, None) => zeros(out + (cell.states() - 1) * hidden),
                (h0, _) if cell == Cell::Gru => given(h0, out),
                (h0, c0) => given(h0, out).concat(&[given(c0, hidden)], 1),
            };
            let suffix = format!("l{layer}{}", if way == 1 { "_reverse" } else { "" });
            let of = |what: &str| format!("{name}.{what}_{suffix}");
            let one = one(x, Op { cell, reverse }, hidden, &options, state, of);
            outputs.push(one[0]);
            last.iter_mut().zip(&one[1..]).for_each(|(all, s)| all.push(s.unsqueeze(0)));
        }
        x = join(&outputs, 2);
    }
    [x, join(&last[0], 0), join(&last[1], 0)]
}

/// Applies one layer in one direction. Returns its output and its last hidden and cell states.
#[track_caller]
fn one<'g>(
    x: Tensor<'g>,
    op: Op,
    hidden: usize,
    options: &Recurrent<'g>,
    state: Tensor<'g>,
    name: impl Fn(&str) -> String,
) -> [Tensor<'g>; 3] {
    let (g, cell) = (x.graph(), op.cell);
    // A layer before this one made a mistake. Its shape means nothing.
    if g.error().is_some() {
        return [g.dead(); 3];
    }
    let bound = 1.0 / (hidden as f32).sqrt();
    let init = || Init::Uniform { low: -bound, high: bound };
    let (shape, gates) = (x.shape(), cell.gates() * hidden);
    let (n, t, features) = (shape.dims()[0], shape.dims()[1], shape.last());
    let w_ih = g.param(&name("weight_ih"), [gates, features], init());
    let w_hh = g.param(&name("weight_hh"), [gates, options.out(hidden)], init());
    // The part of the sum that does not depend on the state is one product for all steps.
    let mut from_x = x.reshape([n * t, features]).matmul_t(w_ih, false, true);
    let mut b_hh = g.full([gates], 0.0);
    if !options.no_bias {
        from_x = from_x + g.param(&name("bias_ih"), [gates], init());
        b_hh = g.param(&name("bias_hh"), [gates], init());
    }
    // The lengths in 1..=t, and 1 at the steps of a sequence, [n, t, 1].
    let lengths = options.lengths.map(|l| l.to_f32().clamp(1.0, t as f32).unsqueeze(1));
    let inside = lengths.map(|l| l.gt(places(g, t)).unsqueeze(2));
    if options.proj_size > 0 || !options.reset_after {
        let projection = (options.proj_size > 0).then(|| g.param(&name("weight_hr"), [options.proj_size, hidden], init()));
        return walk(from_x.reshape([n, t, gates]), op, [w_hh, b_hh, state], projection, hidden, inside);
    }
    let (mut from_x, mut state) = (from_x.reshape([n, t, gates]), state);
    // The same, and 1 at the last step of a sequence.
    let steps = inside.zip(lengths.map(|l| (l - 1.0).eq(places(g, t)).unsqueeze(2)));
    if let (true, Some((inside, at_last))) = (op.reverse, steps) {
        (from_x, state) = hold(cell, from_x, w_hh, state, inside, at_last);
    }
    let y = g.apply(op, &[from_x, w_hh, b_hh, state]);
    if y.is_dead() {
        return [y; 3];
    }
    // Position 0 (or t, in reverse) of the t + 1 positions is the state before the first step.
    let (from, end) = if op.reverse { (0, 0) } else { (1, t) };
    let part = |k: usize, from: usize, to: usize| y.slice(2, k * hidden, (k + 1) * hidden).slice(1, from, to);
    let last = |k: usize| match steps {
        Some((_, at_last)) if !op.reverse => at_last.where_(part(k, from, from + t), 0.0).sum(&[1], false),
        _ => part(k, end, end + 1).reshape([n, hidden]),
    };
    let output = part(0, from, from + t);
    [steps.map_or(output, |(inside, _)| inside.where_(output, 0.0)), last(0), last(cell.states() - 1)]
}

/// Returns arguments of the gates and a first state that make a reversed layer pass over the padding, with which it begins.
///
/// In padding, a GRU's z is 1, so its state stays. An LSTM's f is 1, and i and o are 0: its cell state stays, and its hidden state is 0.
/// So the hidden state before the first step is left out of the state, and enters where it is first used: W_hh·h at the last step
/// of each sequence.
#[track_caller]
fn hold<'g>(
    cell: Cell,
    from_x: Tensor<'g>,
    w_hh: Tensor<'g>,
    state: Tensor<'g>,
    inside: Tensor<'g>,
    at_last: Tensor<'g>,
) -> (Tensor<'g>, Tensor<'g>) {
    let (g, h) = (from_x.graph(), w_hh.shape().last());
    // σ(10⁴) is 1, and σ(−10⁴) is 0, whatever the state adds.
    let gates: &[f32] = match cell {
        Cell::Lstm => &[-1e4, 1e4, 0.0, -1e4],
        Cell::Gru => &[0.0, 1e4, 0.0],
    };
    let held = g.constant(Host::new([gates.len() * h], gates.iter().flat_map(|&gate| std::iter::repeat_n(gate, h)).collect()));
    match cell {
        Cell::Gru => (inside.where_(from_x, held), state),
        Cell::Lstm => {
            let hidden = state.slice(1, 0, h);
            let first = at_last * hidden.matmul_t(w_hh, false, true).unsqueeze(1);
            (inside.where_(from_x + first, held), g.full(hidden.shape(), 0.0).concat(&[state.slice(1, h, 2 * h)], 1))
        }
    }
}

/// Returns the numbers 0..t.
fn places(g: &Graph, t: usize) -> Tensor<'_> {
    g.constant(Host::new([t], (0..t).map(|i| i as f32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Graph, Host, Shape, testing};

    #[test]
    fn mistakes_are_in_the_layers_words() {
        let message = |shape: &[usize], hidden: usize, options: Recurrent, gru: bool| {
            let g = Graph::training();
            let (x, y) = (g.input(Shape::new(shape).unwrap()), g.input([1, 2, 4]));
            let options =
                Recurrent { h0: options.h0.map(|_| y), c0: options.c0.map(|_| y), lengths: options.lengths.map(|_| y), ..options };
            if gru {
                x.gru_with("rnn", hidden, options);
            } else {
                x.lstm_with("rnn", hidden, options);
            }
            g.error().map_or(String::new(), |e| e.to_string())
        };
        let plain = Recurrent::default();
        let g = Graph::training();
        let some = Some(g.input([1]));
        for (got, want) in [
            (
                message(&[2, 3], 4, plain, false),
                "lstm: [2, 3]: takes sequences [n, t, features]; `unsqueeze` or `reshape` adds an axis (src/",
            ),
            (message(&[2, 3, 4, 5], 4, plain, true), "gru: [2, 3, 4, 5]: takes sequences [n, t, features]"),
            (message(&[2, 3, 4], 0, plain, false), "lstm: [2, 3, 4]: the hidden size is 0, but must be at least 1"),
            (message(&[2, 3, 4], usize::MAX / 2, plain, true), "gru: [2, 3, 4]: the hidden size is 9223372036854775807, but"),
            (message(&[2, 3, 4], 4, Recurrent { layers: 0, ..plain }, false), "lstm: [2, 3, 4]: layers is 0, but must be at least 1 ("),
            (
                message(&[2, 3, 4], 4, Recurrent { c0: some, ..plain }, true),
                "gru: [2, 3, 4]: a GRU has no cell state: c0 must be left out (",
            ),
            (
                message(&[3, 3, 4], 4, Recurrent { h0: some, ..plain }, true),
                "gru: [3, 3, 4]: h0 has the shape [1, 2, 4], but must be [1, 3, 4]: layers",
            ),
            (
                message(&[2, 3, 4], 5, Recurrent { c0: some, ..plain }, false),
                "lstm: [2, 3, 4]: c0 has the shape [1, 2, 4], but must be [1, 2, 5]",
            ),
            (message(&[2, 3, 4], 4, Recurrent { lengths: some, ..plain }, false), "lstm: [2, 3, 4]: lengths must be labels [2], one for"),
            (message(&[2, 3, 4], 4, Recurrent { h0: some, c0: some, ..plain }, false), ""),
        ] {
            assert!(got.starts_with(want) && got.is_empty() == want.is_empty(), "{got}");
        }
        let g = Graph::training();
        let e = g.labels([2, 3, 4]).lstm("lstm", 4).error().unwrap().to_string();
        assert!(e.starts_with("lstm: u32 [2, 3, 4]: takes floats, not labels (see one_hot) (src/layers/recurrent.rs:"), "{e}");
    }

    #[test]
    fn lengths_out_of_range() {
        let run = |lengths: &[u32], gru: bool| {
            let g = Graph::inference();
            let options = Recurrent { lengths: Some(g.labels([2])), ..Recurrent::default() };
            let x = g.input([2, 3, 1]);
            let y = if gru { x.gru_with("rnn", 2, options).h } else { x.lstm_with("rnn", 2, options).h };
            let feed = [Host::labels([2], lengths.to_vec()), Host::new([2, 3, 1], vec![0.5; 6])];
            Device::cpu().compile(&[y]).unwrap().run(&feed).map_err(|e| e.to_string())
        };
        assert!(run(&[1, 3], true).is_ok());
        assert_eq!(run(&[1, 4], true).unwrap_err(), "gru: sample 1 has the length 4, but lengths must be from 1 to 3");
        assert_eq!(run(&[0, 3], false).unwrap_err(), "lstm: sample 0 has the length 0, but lengths must be from 1 to 3");
    }

    /// Lengths that the device computes are clamped.
    #[test]
    fn lengths_from_the_device() {
        for (proj_size, direction) in [(0, Direction::Both), (1, Direction::Both), (0, Direction::Reverse)] {
            let run = |wild: bool| {
                let g = Graph::inference();
                let given = g.input([2]);
                let lengths = if wild { ((given - 2.0) * 100.0).relu().to_index() } else { given.to_index() };
                let options = Recurrent { lengths: Some(lengths), direction, proj_size, ..Recurrent::default() };
                let lstm = g.input([2, 3, 1]).lstm_with("rnn", 2, options);
                let feed = [Host::new([2], vec![1.0, 3.0]), Host::new([2, 3, 1], (1..7).map(|i| i as f32).collect())];
                Device::cpu().compile(&[lstm.output, lstm.h, lstm.c]).unwrap().run(&feed).unwrap()
            };
            assert_eq!(run(true), run(false));
        }
    }

    #[test]
    fn a_graph_takes_sequences_of_its_own_length() {
        let g = Graph::inference();
        let mut f = Device::cpu().compile(&[g.input([1, 3, 2]).gru("gru", 2)]).unwrap();
        let e = f.run(&[Host::zeros([1, 4, 2].into())]).unwrap_err().to_string();
        assert_eq!(e, "input 0: got [1, 4, 2] with 8 values, but the graph was built for [1, 3, 2]");
    }

    /// Compares gradients of gradients with central differences of the gradient.
    #[test]
    fn twice() {
        for gru in [false, true] {
            let g = Graph::training();
            let x = g.input([2, 3, 2]);
            let y = if gru { x.gru("rnn", 3) } else { x.lstm("rnn", 3) };
            let dx = (y * y).sum_all().grad(&[x])[0];
            let loss = (dx * dx).sum_all();
            let ddx = loss.grad(&[x])[0];
            let mut f = Device::cpu().compile(&[loss, ddx]).unwrap();
            let start: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
            let exact = f.run(&[Host::new([2, 3, 2], start.clone())]).unwrap()[1].to_f64();
            for i in 0..12 {
                let mut at = |h: f32| {
                    let mut x = start.clone();
                    x[i] += h;
                    f.run(&[Host::new([2, 3, 2], x)]).unwrap()[0].to_f64()[0]
                };
                let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!((numeric - exact[i]).abs() < 1e-3 * (1.0 + exact[i].abs()), "{i}: {} instead of {numeric}", exact[i]);
            }
            let inputs = [Host::new([2, 3, 2], start)];
            testing::compare(&g, &[loss, ddx], &inputs, &Device::cpu(), &Device::cpu().plan_options(), 64).unwrap();
        }
    }
}
