//! How kernels that work along one axis spread it over invocations: shared by `reduce`, `argmax`, `softmax` and
//! `cross_entropy`. The WGSL side is `shaders/lib/lines.wgsl`.
//!
//! A tensor `[outer, n, inner]` is `outer · inner` *lines* of `n` elements. Neighbouring invocations should read
//! neighbouring elements: along the line where `inner` is 1, across lines where it is not. So a workgroup is a block of
//! COLUMNS neighbouring lines × LANES invocations for each of them, as many blocks as fit. A short line gets one lane (no
//! barrier, no idle lanes in a tree); a long one a whole workgroup.

use crate::kernel::{Bind, Caps, Pass, Source, Span, Word};

/// Lines up to this long are walked by one invocation.
const SHORT: usize = 32;
/// Elements that each lane of a longer line does at least.
const PER_LANE: usize = 8;
/// A lane with more elements than this is worth cutting the line into chunks for, if there are few workgroups…
const LONG: usize = 64;
/// …fewer than this, which any GPU can run at once.
const GROUPS: usize = 1024;

/// The division of `[outer, n, inner]`. It follows from the sizes and the device's limits, not from its speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lines {
    outer: usize,
    n: usize,
    inner: usize,
    /// Elements of a line that one pass sees as a whole: `n`, or less where results are combined by another pass.
    pub chunk: usize,
    workgroup: usize,
    columns: usize,
    lanes: usize,
    /// Whether all columns of a line number are one unit: then the pass can be split over units.
    split: bool,
}

impl Lines {
    /// For a pass whose largest tensor has the size `[outer, n, inner]`; `cut` where the results of chunks can be combined.
    pub fn new([outer, n, inner]: [usize; 3], cut: bool, caps: &Caps) -> Lines {
        let workgroup = 1 << caps.max_invocations.clamp(1, 256).ilog2();
        let columns = inner.next_power_of_two().min(32).min(workgroup);
        let lanes = if n <= SHORT { 1 } else { n.div_ceil(PER_LANE).next_power_of_two().min(workgroup / columns) };
        let columns = inner.next_power_of_two().min(workgroup / lanes);
        let limit = (caps.max_binding_bytes / 4) as usize;
        let fits = outer * n * inner <= limit;
        let mut chunk = n;
        let groups = (outer * inner.div_ceil(columns)).div_ceil(workgroup / (columns * lanes));
        if cut && n > LONG * lanes && groups < GROUPS / 4 {
            chunk = n.div_ceil(GROUPS.div_ceil(groups)).max(2 * PER_LANE * lanes).next_multiple_of(lanes.max(64));
        }
        if cut && !fits {
            // One chunk must fit, wherever it starts.
            chunk = chunk.min(limit.saturating_sub(63) / inner);
        }
        // A chunk of one element gets nowhere.
        if !(2..n).contains(&chunk) {
            chunk = n;
        }
        Lines { outer, n, inner, chunk, workgroup, columns, lanes, split: inner <= columns || !fits }
    }
    /// Chunks of a line.
    pub fn chunks(&self) -> usize {
        self.n.div_ceil(self.chunk)
    }
    /// The tensor `[outer, n, inner]`.
    pub fn full(&self, bind: Bind) -> Bind {
        self.bind(bind, Span::Lines { line: self.n * self.inner, chunks: self.chunks(), chunk: self.chunk * self.inner })
    }
    /// A tensor with one element for each chunk of each line, `[outer, chunks, inner]`.
    pub fn ones(&self, bind: Bind) -> Bind {
        self.bind(bind, Span::Lines { line: self.inner, chunks: 1, chunk: self.inner })
    }
    fn bind(&self, bind: Bind, span: Span) -> Bind {
        Bind { span: if self.split { span } else { Span::Whole }, ..bind }
    }
    /// A pass over these lines, for a shader that includes `lib/lines`.
    pub fn pass(&self, source: Source, entry: &'static str, binds: Vec<Bind>) -> Pass {
        let tiles = self.inner.div_ceil(self.columns);
        let (groups, rounds) = if self.split { (1, tiles) } else { (tiles, 1) };
        let params = [
            ("n", self.n),
            ("inner", self.inner),
            ("chunk", self.chunk),
            ("chunks", self.chunks()),
            ("groups", groups),
            ("rounds", rounds),
        ];
        Pass {
            source,
            entry,
            consts: vec![("WG", self.workgroup.into()), ("COLUMNS", self.columns.into()), ("LANES", self.lanes.into())],
            params: params.map(|(name, x)| (name.to_string(), Word::from(x))).into(),
            binds,
            code: String::new(),
            units: self.outer * self.chunks() * groups,
            per_group: self.workgroup / (self.columns * self.lanes),
            step: false,
        }
    }
}
