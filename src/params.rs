//! Where each parameter lies in the flat buffers.
//!
//! Parameters, gradients and each optimizer state are flat: one buffer, or as few *pieces* as the device's binding
//! limit allows. One [`Layout`] describes them all. Parameters of one group lie together, so that the update of the
//! whole model is one dispatch a piece.

use crate::{
    error::{Error, Result},
    graph::ParamDef,
};

/// Every range starts at a multiple of this many elements (256 bytes), so that it can be bound on any device.
pub const ALIGN: usize = 64;

/// The most parameter groups an optimizer can have.
pub const MAX_GROUPS: usize = 8;

/// Where one parameter lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which piece of the flat buffers.
    pub piece: usize,
    /// First element within the piece, a multiple of [`ALIGN`].
    pub start: usize,
    /// Elements.
    pub len: usize,
    /// Its parameter group; the number of groups where it is frozen.
    pub group: usize,
}

/// The ranges of all parameters, and the sizes of the pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// By parameter, in the order of the graph.
    pub ranges: Vec<Range>,
    /// Elements of each piece; the gaps between ranges hold zeros.
    pub pieces: Vec<usize>,
    /// For each piece, the element at which each group ends there (ascending). What is frozen lies behind the last group.
    pub ends: Vec<Vec<usize>>,
    /// How many pieces, the first ones, hold trained parameters. The others hold state: they have neither gradient nor
    /// optimizer state, and their part of the flat gradients is what the state becomes.
    pub trained: usize,
}

impl Layout {
    /// Lays out `params`, whose groups are `groups[i]` (below `count`, or `count` itself where they are frozen), in pieces of at most `max_piece` elements. A parameter that
    /// is larger than that gets a piece of its own, of at most `max_buffer` elements.
    pub fn new(params: &[ParamDef], groups: &[usize], count: usize, max_piece: usize, max_buffer: usize) -> Result<Layout> {
        let mut layout = Layout { ranges: vec![Range { piece: 0, start: 0, len: 0, group: 0 }; params.len()], ..Layout::default() };
        let mut order: Vec<usize> = (0..params.len()).collect();
        order.sort_by_key(|&i| (!params[i].trained, groups[i]));
        for i in order {
            let (len, group) = (params[i].shape.elements(), groups[i]);
            let first_state = !params[i].trained && layout.trained == layout.pieces.len();
            let room = len.next_multiple_of(ALIGN);
            if room > max_buffer {
                let (need, limit) = (room as u64 * 4, max_buffer as u64 * 4);
                let advice = "split the layer".to_string();
                return Err(Error::Limit { what: format!("parameter {} {}", params[i].name, params[i].shape), need, limit, advice });
            }
            if first_state || layout.pieces.last().is_none_or(|&n| n + room > max_piece) {
                layout.pieces.push(0);
                layout.ends.push(vec![0; count]);
                layout.trained += usize::from(params[i].trained);
            }
            let piece = layout.pieces.len() - 1;
            let start = layout.pieces[piece];
            layout.ranges[i] = Range { piece, start, len, group };
            layout.pieces[piece] += room;
            for end in &mut layout.ends[piece][group..] {
                *end = layout.pieces[piece];
            }
        }
        Ok(layout)
    }
    /// Elements of a piece, from its start, that the optimizer changes: all but what is frozen, and none of state.
    pub fn live(&self, piece: usize) -> usize {
        if piece < self.trained { self.ends[piece].last().copied().unwrap_or(0) } else { 0 }
    }
    /// Whether the optimizer changes what lies there.
    pub fn is_live(&self, range: &Range) -> bool {
        range.start < self.live(range.piece)
    }
    /// Elements of all pieces together.
    pub fn elements(&self) -> usize {
        self.pieces.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{init::Init, shape::Shape};

    #[test]
    fn groups_lie_together_and_pieces_hold_the_limit() {
        let def = |name: &str, n: usize| ParamDef {
            name: name.into(),
            shape: Shape::from([n]),
            init: Init::Zeros,
            decay: false,
            trained: name != "mean",
        };
        let params = [def("a", 100), def("b", 10), def("c", 64), def("d", 1000)];
        let l = Layout::new(&params, &[0, 1, 0, 0], 2, 256, 2048).unwrap();
        assert_eq!(l.pieces, vec![192, 1024, 64]);
        assert_eq!(l.ranges[2], Range { piece: 0, start: 128, len: 64, group: 0 });
        assert_eq!(l.ranges[1], Range { piece: 2, start: 0, len: 10, group: 1 });
        assert_eq!(l.ends, vec![vec![192, 192], vec![1024, 1024], vec![0, 64]]);
        assert_eq!(l.trained, 3);
        // State comes last, in pieces of its own, even where there would be room.
        let l = Layout::new(&[def("mean", 5), def("a", 3), def("mean", 7)], &[0; 3], 1, 256, 2048).unwrap();
        assert_eq!((l.pieces, l.trained), (vec![64, 128], 1));
        assert_eq!(l.ranges.iter().map(|r| (r.piece, r.start)).collect::<Vec<_>>(), [(1, 0), (0, 0), (1, 64)]);
        // What is frozen lies behind the groups.
        let l = Layout::new(&params, &[1, 0, 0, 1], 1, 4096, 4096).unwrap();
        assert_eq!((l.pieces, l.ends, l.trained), (vec![1280], vec![vec![128]], 1));
        assert_eq!(l.ranges.iter().map(|r| r.start).collect::<Vec<_>>(), [128, 0, 64, 256]);
        let error = Layout::new(&params, &[0; 4], 1, 256, 512).unwrap_err().to_string();
        assert!(error.contains("parameter d [1000]") && error.contains("4096") && error.contains("2048"), "{error}");
    }
}
