//! The layout of the parameters in the flat buffers.
//!
//! Parameters, gradients and each state of the optimizer are flat. Each of them is one buffer, or a few *pieces* if one buffer
//! would exceed the device's binding limit. One [`Layout`] describes them all. So the update of the whole model takes one
//! dispatch for each piece, even if parameters have different settings.

use crate::{
    error::{Error, Result},
    graph::ParamDef,
    init::Init,
    kernel::ALIGN,
    shape::Shape,
    threads::sorted,
};
use std::{mem, ops};

/// What training does with a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// The parameter has a gradient. The optimizer updates it with the settings of its group.
    Trained {
        /// The number of the group.
        group: usize,
    },
    /// The parameter has a gradient. A rule that is written with tensors updates it as a whole, with the settings of its group.
    Whole {
        /// The number of the group.
        group: usize,
    },
    /// The parameter has no gradient and no state of the optimizer. Training does not change it.
    Frozen,
    /// Each step assigns a new value to it, for example a running average.
    State,
}

impl Status {
    /// Returns the number of the group of a parameter that is trained.
    pub fn group(self) -> Option<usize> {
        match self {
            Status::Trained { group } | Status::Whole { group } => Some(group),
            Status::Frozen | Status::State => None,
        }
    }
    /// Returns whether the parameter has a gradient.
    pub fn is_trained(self) -> bool {
        self.group().is_some()
    }
    /// Returns the status of each parameter without an optimizer. All parameters that can be trained are in group 0.
    pub fn plain(params: &[ParamDef]) -> Vec<Status> {
        params.iter().map(|p| if p.trained { Status::Trained { group: 0 } } else { Status::State }).collect()
    }
}

/// The place of one parameter. A trained parameter is a *segment* of its piece: the update finds the parameter and its settings
/// by the position of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The number of its piece of the flat buffers.
    pub piece: usize,
    /// The first element within the piece, a multiple of 64.
    pub start: usize,
    /// The number of elements.
    pub len: usize,
    /// What training does with it.
    pub status: Status,
}

impl Range {
    /// Returns the indices of its elements within the piece.
    pub fn of(self) -> ops::Range<usize> {
        self.start..self.start + self.len
    }
}

/// A run of neighbouring parameters in a trained piece, which this rank updates. States of the optimizer that have an element for each
/// element of a parameter have a piece for each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The number of the trained piece.
    pub piece: usize,
    /// The first element within the piece, a multiple of 64.
    pub start: usize,
    /// The number of elements, with the gap behind the last parameter.
    pub len: usize,
}

impl Part {
    /// Returns the indices of its elements within the piece.
    pub fn of(self) -> ops::Range<usize> {
        self.start..self.start + self.len
    }
    /// Returns whether it has the parameter at this place.
    fn has(self, range: &Range) -> bool {
        range.piece == self.piece && self.of().contains(&range.start)
    }
}

/// The rank that updates each trained parameter, if ranks [share](crate::train::Shard::State) the update. A rank has a run of neighbours in
/// the order of the [`Layout`]. The runs have about equally many elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owners {
    /// The number of this rank.
    rank: usize,
    /// The rank of each parameter, in the order of the graph. `None` for a parameter that is not trained.
    all: Vec<Option<usize>>,
}

impl Owners {
    /// Divides the parameters among `ranks` ranks. A parameter belongs to the rank in whose equal share its middle lies.
    pub fn new(params: &[ParamDef], statuses: &[Status], rank: usize, ranks: usize) -> Owners {
        let (mut all, mut before) = (vec![None; params.len()], 0);
        let elements = |i: usize| params[i].shape.elements();
        let trained: Vec<usize> = sorted(params.len(), |i| statuses[i]).into_iter().filter(|&i| statuses[i].is_trained()).collect();
        let total: usize = trained.iter().map(|&i| elements(i)).sum();
        for i in trained {
            all[i] = Some(((2 * before + elements(i)) * ranks / (2 * total).max(1)).min(ranks - 1));
            before += elements(i);
        }
        Owners { rank, all }
    }
    /// Returns whether this rank updates parameter `i`.
    pub fn own(&self, i: usize) -> bool {
        self.all[i] == Some(self.rank)
    }
    /// Returns the parameters of a rank, in the order of the graph.
    pub fn of(&self, rank: usize) -> impl Iterator<Item = usize> {
        (0..self.all.len()).filter(move |&i| self.all[i] == Some(rank))
    }
}

/// The ranges of all parameters, and the sizes of the pieces.
///
/// A piece holds parameters of one kind. The trained pieces come first, then the frozen pieces, then the pieces of state. The
/// pieces with [whole](Status::Whole) parameters are the last trained pieces. Gradients exist for the trained pieces only. A step
/// computes new state into separate buffers, one for each piece of state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// The range of each parameter, in the order of the graph.
    pub ranges: Vec<Range>,
    /// The number of elements of each piece. The gaps between ranges hold zeros.
    pub pieces: Vec<usize>,
    /// The number of trained pieces. They come first.
    pub trained: usize,
    /// The number of pieces of [whole](Status::Whole) parameters. They are the last of the trained pieces.
    pub whole: usize,
    /// The number of pieces of state. They come last.
    pub state: usize,
    /// The parts that this rank updates, in order: all trained pieces, unless ranks share the update.
    pub parts: Vec<Part>,
    /// The places of each state of the optimizer.
    pub states: Vec<StateLayout>,
}

/// The places of one state of the optimizer in a flat buffer of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateLayout {
    /// The range and the shape of the state of each parameter, in the order of the graph. `None` for a parameter without this state.
    pub ranges: Vec<Option<(Range, Shape)>>,
    /// The number of elements of each piece.
    pub pieces: Vec<usize>,
}

impl Layout {
    /// Lays out `params`, which have the given statuses, in pieces of at most `max_piece` elements. A parameter larger than
    /// `max_piece` gets its own piece, of at most `max_buffer` elements.
    pub fn new(params: &[ParamDef], statuses: &[Status], max_piece: usize, max_buffer: usize) -> Result<Layout> {
        let none = Range { piece: 0, start: 0, len: 0, status: Status::Frozen };
        let mut layout = Layout { ranges: vec![none; params.len()], ..Layout::default() };
        let mut last = None;
        // Parameters of one group are placed together, so that neighbours in a piece mostly share one row of settings.
        for i in sorted(params.len(), |i| statuses[i]) {
            let (len, status) = (params[i].shape.elements(), statuses[i]);
            let room = len.next_multiple_of(ALIGN);
            if room > max_buffer {
                let (need, limit) = (room as u64 * 4, max_buffer as u64 * 4);
                let advice = "split the layer".to_string();
                return Err(Error::Limit { what: format!("parameter {} {}", params[i].name, params[i].shape), need, limit, advice });
            }
            let kind = mem::discriminant(&status);
            if last.replace(kind) != Some(kind) || layout.pieces.last().is_none_or(|&n| n + room > max_piece) {
                layout.pieces.push(0);
                layout.trained += usize::from(status.is_trained());
                layout.whole += usize::from(matches!(status, Status::Whole { .. }));
                layout.state += usize::from(status == Status::State);
            }
            let piece = layout.pieces.len() - 1;
            let start = layout.pieces[piece];
            layout.ranges[i] = Range { piece, start, len, status };
            layout.pieces[piece] += room;
        }
        layout.parts = (0..layout.trained).map(|piece| Part { piece, start: 0, len: layout.pieces[piece] }).collect();
        Ok(layout)
    }
    /// Leaves the parts of one rank alone. The parameters that the rank updates are neighbours in each piece. No state was added before.
    pub(crate) fn cut(mut self, owners: &Owners) -> Layout {
        let part = |piece: usize| {
            let mut own = self.segments(piece).filter(|(i, _)| owners.own(*i)).map(|(_, range)| *range);
            let first = own.next()?;
            let last = own.last().unwrap_or(first);
            Some(Part { piece, start: first.start, len: last.start + last.len.next_multiple_of(ALIGN) - first.start })
        };
        self.parts = (0..self.trained).filter_map(part).collect();
        self
    }
    /// Returns whether this rank does not update all parameters.
    pub(crate) fn is_cut(&self) -> bool {
        self.parts.len() != self.trained || self.parts.iter().zip(&self.pieces).any(|(part, &len)| part.len != len)
    }
    /// Adds `count` states that have an element for each element of the parameters that are [trained](Status::Trained) element by
    /// element.
    pub(crate) fn with_states(self, params: &[ParamDef], count: usize) -> Layout {
        let parts = self.elementwise();
        self.with_copies(params, parts, count)
    }
    /// Adds a state that has an element for each element of all trained parameters.
    pub(crate) fn with_average(self, params: &[ParamDef]) -> Layout {
        let parts = 0..self.parts.len();
        self.with_copies(params, parts, 1)
    }
    /// Adds `count` states that have an element for each element of these parts, which are the first.
    fn with_copies(mut self, params: &[ParamDef], parts: ops::Range<usize>, count: usize) -> Layout {
        let parts = &self.parts[parts];
        let place = |(range, param): (&Range, &ParamDef)| {
            let piece = parts.iter().position(|part| part.has(range))?;
            Some((Range { piece, start: range.start - parts[piece].start, ..*range }, param.shape))
        };
        let ranges = self.ranges.iter().zip(params).map(place).collect();
        let pieces = parts.iter().map(|part| part.len).collect();
        self.states.extend(vec![StateLayout { ranges, pieces }; count]);
        self
    }
    /// Adds a state that has the given shape for each parameter. The limits are those of [`Layout::new`].
    pub(crate) fn with_state(mut self, name: &str, shapes: &[Option<Shape>], max_piece: usize, max_buffer: usize) -> Result<Layout> {
        let mut defs = Vec::new();
        for shape in shapes.iter().flatten() {
            defs.push(ParamDef { name: name.into(), shape: *shape, init: Init::Zeros, decay: false, trained: true });
        }
        let own = Layout::new(&defs, &vec![Status::Whole { group: 0 }; defs.len()], max_piece, max_buffer)?;
        let mut ranges = own.ranges.into_iter();
        let place = |shape: &Option<Shape>| shape.map(|shape| (ranges.next().expect("a range for each shape"), shape));
        let ranges = shapes.iter().map(place).collect();
        self.states.push(StateLayout { ranges, pieces: own.pieces });
        Ok(self)
    }
    /// Returns the numbers of the parts whose parameters are updated element by element.
    pub(crate) fn elementwise(&self) -> ops::Range<usize> {
        0..self.parts.iter().filter(|part| part.piece < self.trained - self.whole).count()
    }
    /// Returns the numbers of the pieces of state.
    pub(crate) fn state_pieces(&self) -> ops::Range<usize> {
        self.pieces.len() - self.state..self.pieces.len()
    }
    /// Returns the parameters of a piece, in their order within the piece.
    pub(crate) fn segments(&self, piece: usize) -> impl Iterator<Item = (usize, &Range)> {
        let order = sorted(self.ranges.len(), |i| self.ranges[i].start);
        order.into_iter().map(|i| (i, &self.ranges[i])).filter(move |(_, r)| r.piece == piece)
    }
    /// Returns the parameters of a part in order, with the element of the part at which each ends (with the gap behind it).
    pub(crate) fn own(&self, part: usize) -> impl Iterator<Item = (usize, usize)> {
        let part = self.parts[part];
        let own = self.segments(part.piece).filter(move |(_, range)| part.has(range));
        own.map(move |(i, range)| (i, range.start + range.len.next_multiple_of(ALIGN) - part.start))
    }
    /// Returns, for each parameter of a part in order, the element at which it ends (with the gap behind it) and its group.
    pub(crate) fn ends(&self, part: usize) -> impl Iterator<Item = (usize, usize)> {
        self.own(part).filter_map(|(i, end)| Some((end, self.ranges[i].status.group()?)))
    }
    /// Returns, for each run of neighbours of one group in a part, the element at which it ends (with the gap behind it) and the group.
    pub(crate) fn runs(&self, part: usize) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (end, group) in self.ends(part) {
            match runs.last_mut() {
                Some(last) if last.1 == group => last.0 = end,
                _ => runs.push((end, group)),
            }
        }
        runs
    }
    /// Returns the number of elements of all pieces together.
    pub fn elements(&self) -> usize {
        self.pieces.iter().sum()
    }
    /// Returns the number of elements of the trained pieces.
    pub(crate) fn trained_elements(&self) -> usize {
        self.pieces[..self.trained].iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_together_and_pieces_hold_the_limit() {
        let def = |name: &str, n: usize| ParamDef {
            name: name.into(),
            shape: Shape::from([n]),
            init: Init::Zeros,
            decay: false,
            trained: name != "mean",
        };
        let (own, other) = (Status::Trained { group: 0 }, Status::Trained { group: 1 });
        let params = [def("a", 100), def("b", 10), def("c", 64), def("d", 1000)];
        let l = Layout::new(&params, &[own, other, own, own], 256, 2048).unwrap();
        assert_eq!((&l.pieces[..], l.trained, l.state), (&[192, 1024, 64][..], 3, 0));
        assert_eq!(l.ranges[2], Range { piece: 0, start: 128, len: 64, status: own });
        assert_eq!(l.ranges[1], Range { piece: 2, start: 0, len: 10, status: other });
        assert_eq!((l.runs(0), l.runs(2)), (vec![(192, 0)], vec![(64, 1)]));
        assert_eq!(l.segments(0).map(|(i, _)| i).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(l.ends(0).collect::<Vec<_>>(), [(128, 0), (192, 0)]);
        // State comes last, in its own pieces, even if an earlier piece has room.
        let l = Layout::new(&[def("mean", 5), def("a", 3), def("mean", 7)], &[Status::State, own, Status::State], 256, 2048).unwrap();
        assert_eq!((&l.pieces[..], l.trained, l.state_pieces()), (&[64, 128][..], 1, 1..2));
        assert_eq!(l.ranges.iter().map(|r| (r.piece, r.start)).collect::<Vec<_>>(), [(1, 0), (0, 0), (1, 64)]);
        // Three ranks: d, then a and c, then b. A state has the elements of its rank alone.
        let statuses = [own, other, own, own];
        let parts = |rank: usize| {
            let owners = Owners::new(&params, &statuses, rank, 3);
            let l = Layout::new(&params, &statuses, 4096, 4096).unwrap().cut(&owners).with_states(&params, 1);
            (owners.of(rank).collect::<Vec<_>>(), l)
        };
        let (of, l) = parts(2);
        assert_eq!((of, &l.parts[..]), (vec![1], &[Part { piece: 0, start: 1216, len: 64 }][..]));
        assert_eq!((&l.states[0].pieces[..], l.states[0].ranges[1].unwrap().0.start, l.is_cut()), (&[64][..], 0, true));
        assert_eq!((l.ends(0).collect::<Vec<_>>(), l.own(0).collect::<Vec<_>>()), (vec![(64, 1)], vec![(1, 64)]));
        let (of, l) = parts(0);
        assert_eq!((of, l.parts[0].of(), l.runs(0)), (vec![0, 2], 0..192, vec![(192, 0)]));
        assert!(l.states[0].ranges[1].is_none() && l.states[0].ranges[3].is_none());
        assert_eq!(parts(1).0, [3]);
        // Frozen parameters have their own pieces, too.
        let l = Layout::new(&params, &[Status::Frozen, own, own, Status::Frozen], 4096, 4096).unwrap();
        assert_eq!((&l.pieces[..], l.trained, l.state), (&[128, 1152][..], 1, 0));
        assert_eq!(l.ranges.iter().map(|r| (r.piece, r.start)).collect::<Vec<_>>(), [(1, 0), (0, 0), (0, 64), (1, 128)]);
        let error = Layout::new(&params, &[own; 4], 256, 512).unwrap_err().to_string();
        assert!(error.contains("parameter d [1000]") && error.contains("4096") && error.contains("2048"), "{error}");
    }
}
